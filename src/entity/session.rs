//! A browser session; `data` is the JSON of tower-sessions.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "session")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub data: String,
    pub expires_at: DateTime,
    /// The user who is logged in. This column and the next ones have no values before a login.
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
