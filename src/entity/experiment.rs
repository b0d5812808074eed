//! One scan session of a subject, with its state in the workflow. Only the engine writes the columns after `subject_id` (E1).

use sea_orm::entity::prelude::*;
use sea_orm::sea_query::{Query, SelectStatement};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "experiment")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i32,
    pub label: String,
    pub scandate: DateTime,
    pub subject_id: i32,
    pub workflow_id: i32,
    pub state_id: i32,
    pub last_action_id: Option<i32>,
    pub state_since: DateTime,
    pub version: i32,
    /// 0 while in use; its own id when archived.
    pub archive_id: i32,
    pub archived_at: Option<DateTime>,
    pub archived_by: Option<String>,
    pub archived_reason: Option<String>,
    /// Time since when it is on hold; null if it is not.
    pub held_since: Option<DateTime>,
    #[sea_orm(column_type = "Text", nullable)]
    pub held_reason: Option<String>,
    /// Its last action when a person last released it: actions up to this one do not count towards another hold.
    pub released_action_id: Option<i32>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {
    #[sea_orm(belongs_to = "super::subject::Entity", from = "Column::SubjectId", to = "super::subject::Column::Id")]
    Subject,
    #[sea_orm(belongs_to = "super::workflow::Entity", from = "Column::WorkflowId", to = "super::workflow::Column::Id")]
    Workflow,
    #[sea_orm(belongs_to = "super::state::Entity", from = "Column::StateId", to = "super::state::Column::Id")]
    State,
}

impl Related<super::subject::Entity> for Entity {
    fn to() -> RelationDef {
        Relation::Subject.def()
    }
}

impl Related<super::workflow::Entity> for Entity {
    fn to() -> RelationDef {
        Relation::Workflow.def()
    }
}

impl Related<super::state::Entity> for Entity {
    fn to() -> RelationDef {
        Relation::State.def()
    }
}

impl ActiveModelBehavior for ActiveModel {}

impl Entity {
    /// Experiments that are not archived.
    pub fn in_use() -> Select<Self> {
        Self::find().filter(Column::ArchiveId.eq(0))
    }
    /// Their ids, for use in another query.
    pub fn ids_in_use() -> SelectStatement {
        let mut ids = Query::select();
        ids.column(Column::Id).from(Entity).and_where(Column::ArchiveId.eq(0));
        ids
    }
}
