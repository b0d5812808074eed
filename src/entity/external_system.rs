//! XNAT, TaskManager, Castor, …: a name and a URL.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "external_system")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i32,
    pub system_name: String,
    pub url: String,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
