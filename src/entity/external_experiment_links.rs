//! The id of an experiment in an external system.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "external_experiment_links")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i32,
    pub external_id: String,
    pub experiment_id: i32,
    pub external_system_id: i32,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {
    #[sea_orm(
        belongs_to = "super::experiment::Entity",
        from = "Column::ExperimentId",
        to = "super::experiment::Column::Id"
    )]
    Experiment,
    #[sea_orm(
        belongs_to = "super::external_system::Entity",
        from = "Column::ExternalSystemId",
        to = "super::external_system::Column::Id"
    )]
    ExternalSystem,
}

impl Related<super::experiment::Entity> for Entity {
    fn to() -> RelationDef {
        Relation::Experiment.def()
    }
}

impl Related<super::external_system::Entity> for Entity {
    fn to() -> RelationDef {
        Relation::ExternalSystem.def()
    }
}

impl ActiveModelBehavior for ActiveModel {}
