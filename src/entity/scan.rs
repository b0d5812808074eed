//! A scan of an experiment.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "scan")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i32,
    pub experiment_id: i32,
    pub scantype_id: i32,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {
    #[sea_orm(
        belongs_to = "super::experiment::Entity",
        from = "Column::ExperimentId",
        to = "super::experiment::Column::Id"
    )]
    Experiment,
    #[sea_orm(belongs_to = "super::scantype::Entity", from = "Column::ScantypeId", to = "super::scantype::Column::Id")]
    Scantype,
}

impl Related<super::experiment::Entity> for Entity {
    fn to() -> RelationDef {
        Relation::Experiment.def()
    }
}

impl Related<super::scantype::Entity> for Entity {
    fn to() -> RelationDef {
        Relation::Scantype.def()
    }
}

impl ActiveModelBehavior for ActiveModel {}
