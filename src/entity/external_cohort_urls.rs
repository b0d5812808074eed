//! The URL of a cohort in an external system.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "external_cohort_urls")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i32,
    pub url: String,
    pub cohort_id: i32,
    pub external_system_id: i32,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {
    #[sea_orm(belongs_to = "super::cohort::Entity", from = "Column::CohortId", to = "super::cohort::Column::Id")]
    Cohort,
    #[sea_orm(
        belongs_to = "super::external_system::Entity",
        from = "Column::ExternalSystemId",
        to = "super::external_system::Column::Id"
    )]
    ExternalSystem,
}

impl Related<super::cohort::Entity> for Entity {
    fn to() -> RelationDef {
        Relation::Cohort.def()
    }
}

impl Related<super::external_system::Entity> for Entity {
    fn to() -> RelationDef {
        Relation::ExternalSystem.def()
    }
}

impl ActiveModelBehavior for ActiveModel {}
