//! A mail to be sent, or sent: which template, for whom, with what. The text is made when it is sent, so that no link
//! with a secret ever lies here.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "outbox")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i32,
    pub recipient: String,
    /// Whose mail it is; needed for a link.
    pub user_id: Option<i32>,
    pub mailing_id: Option<i32>,
    pub template: String,
    /// JSON.
    pub context: String,
    pub created: DateTime,
    /// When it is to be tried (again); nothing when it was sent or given up.
    pub available_at: Option<DateTime>,
    pub sent_at: Option<DateTime>,
    pub failed_at: Option<DateTime>,
    pub attempts: i32,
    pub last_error: Option<String>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
