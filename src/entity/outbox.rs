//! An e-mail, sent or to be sent: template, recipient and context. The text is rendered when it is sent, so that no link with a secret is
//! ever stored here.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "outbox")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i32,
    pub recipient: String,
    /// The user that the e-mail is for; required for a link.
    pub user_id: Option<i32>,
    pub mailing_id: Option<i32>,
    pub template: String,
    /// JSON.
    pub context: String,
    pub created: DateTime,
    /// Time of the next try; null if it was sent or given up.
    pub available_at: Option<DateTime>,
    pub sent_at: Option<DateTime>,
    pub failed_at: Option<DateTime>,
    pub attempts: i32,
    pub last_error: Option<String>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
