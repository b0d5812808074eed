//! Former URLs of an external system.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "external_system_history")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i32,
    pub system_id: i32,
    pub timestamp: DateTime,
    pub url: Option<String>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {
    #[sea_orm(
        belongs_to = "super::external_system::Entity",
        from = "Column::SystemId",
        to = "super::external_system::Column::Id"
    )]
    ExternalSystem,
}

impl Related<super::external_system::Entity> for Entity {
    fn to() -> RelationDef {
        Relation::ExternalSystem.def()
    }
}

impl ActiveModelBehavior for ActiveModel {}
