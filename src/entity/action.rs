//! One transition taken by one experiment at one time; never deleted (E10).

use sea_orm::entity::prelude::*;

use super::kind::Origin;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "action")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i32,
    pub success: bool,
    pub return_value: Option<String>,
    pub freetext: Option<String>,
    pub start_time: DateTime,
    pub end_time: Option<DateTime>,
    pub transition_id: i32,
    pub experiment_id: i32,
    pub user_id: Option<i32>,
    pub origin: Origin,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {
    #[sea_orm(
        belongs_to = "super::transition::Entity",
        from = "Column::TransitionId",
        to = "super::transition::Column::Id"
    )]
    Transition,
    #[sea_orm(
        belongs_to = "super::experiment::Entity",
        from = "Column::ExperimentId",
        to = "super::experiment::Column::Id"
    )]
    Experiment,
    #[sea_orm(belongs_to = "super::user::Entity", from = "Column::UserId", to = "super::user::Column::Id")]
    User,
}

impl Related<super::transition::Entity> for Entity {
    fn to() -> RelationDef {
        Relation::Transition.def()
    }
}

impl Related<super::experiment::Entity> for Entity {
    fn to() -> RelationDef {
        Relation::Experiment.def()
    }
}

impl Related<super::user::Entity> for Entity {
    fn to() -> RelationDef {
        Relation::User.def()
    }
}

impl ActiveModelBehavior for ActiveModel {}
