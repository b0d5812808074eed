//! A person in a cohort.

use sea_orm::entity::prelude::*;
use sea_orm::sea_query::{Query, SelectStatement};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "subject")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i32,
    pub label: String,
    pub date_of_birth: Option<Date>,
    pub cohort_id: i32,
    /// Time of the last change after the registration.
    pub updated_at: Option<DateTime>,
    /// 0 while in use; its own id when archived.
    pub archive_id: i32,
    pub archived_at: Option<DateTime>,
    pub archived_by: Option<String>,
    pub archived_reason: Option<String>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {
    #[sea_orm(belongs_to = "super::cohort::Entity", from = "Column::CohortId", to = "super::cohort::Column::Id")]
    Cohort,
}

impl Related<super::cohort::Entity> for Entity {
    fn to() -> RelationDef {
        Relation::Cohort.def()
    }
}

impl ActiveModelBehavior for ActiveModel {}

impl Entity {
    /// Subjects that are not archived.
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
