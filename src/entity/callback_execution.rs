//! One run of one callback for one action.

use sea_orm::entity::prelude::*;

use super::kind::{ExecutionResult, ExecutionStatus};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "callback_execution")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i32,
    pub callback_id: i32,
    pub action_id: i32,
    pub status: ExecutionStatus,
    pub result: ExecutionResult,
    pub run_log: Option<String>,
    pub result_log: Option<String>,
    pub result_values: Option<String>,
    pub created: DateTime,
    pub run_start: Option<DateTime>,
    pub wait_start: Option<DateTime>,
    pub finished: Option<DateTime>,
    pub attempt: i32,
    pub max_attempts: i32,
    pub failures: i32,
    pub available_at: DateTime,
    pub published_at: Option<DateTime>,
    pub leased_until: Option<DateTime>,
    pub deadline: Option<DateTime>,
    pub worker: Option<String>,
    pub queue: Option<String>,
    pub relay_at: Option<DateTime>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {
    #[sea_orm(belongs_to = "super::callback::Entity", from = "Column::CallbackId", to = "super::callback::Column::Id")]
    Callback,
    #[sea_orm(belongs_to = "super::action::Entity", from = "Column::ActionId", to = "super::action::Column::Id")]
    Action,
}

impl Related<super::callback::Entity> for Entity {
    fn to() -> RelationDef {
        Relation::Callback.def()
    }
}

impl Related<super::action::Entity> for Entity {
    fn to() -> RelationDef {
        Relation::Action.def()
    }
}

impl ActiveModelBehavior for ActiveModel {}
