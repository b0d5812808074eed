//! A browser session; `data` is what tower-sessions keeps in it, as JSON.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "session")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub data: String,
    pub expires_at: DateTime,
    /// Who is logged in, and since when and where; nothing before a login.
    pub user_id: Option<i32>,
    pub created: Option<DateTime>,
    /// To the minute.
    pub last_seen: Option<DateTime>,
    pub address: Option<String>,
    pub agent: Option<String>,
    pub remembered: bool,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
