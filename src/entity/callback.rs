//! The definition of work to do when a state is entered. Timeouts are in minutes, delays in seconds.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "callback")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i32,
    pub state_id: i32,
    pub label: String,
    pub function: String,
    pub callback_arguments: Option<String>,
    pub variable_map: Option<String>,
    pub run_timeout: Option<i32>,
    pub wait_timeout: Option<i32>,
    pub initial_delay: i32,
    pub description: Option<String>,
    pub condition: Option<String>,
    pub retries: i32,
    pub retry_delay: i32,
    pub position: i32,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {
    #[sea_orm(belongs_to = "super::state::Entity", from = "Column::StateId", to = "super::state::Column::Id")]
    State,
}

impl Related<super::state::Entity> for Entity {
    fn to() -> RelationDef {
        Relation::State.def()
    }
}

impl ActiveModelBehavior for ActiveModel {}
