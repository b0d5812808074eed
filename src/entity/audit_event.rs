//! One change: by whom, from where, of what, what was before and after, and why. Never changed, never deleted.

use sea_orm::entity::prelude::*;

use super::kind::Origin;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "audit_event")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i32,
    pub at: DateTime,
    pub user_id: Option<i32>,
    /// How the one who did it was called then.
    pub who: String,
    pub origin: Origin,
    pub address: Option<String>,
    pub verb: String,
    pub subject_type: String,
    pub subject_id: Option<i32>,
    /// How it was called then.
    pub subject_name: String,
    /// The experiment that it is about, if it is about one.
    pub experiment_id: Option<i32>,
    /// JSON.
    pub before: Option<String>,
    /// JSON.
    pub after: Option<String>,
    pub reason: Option<String>,
    /// The end of the chain when this was written (`NUMBER:HASH`); empty when there was none.
    pub head: Option<String>,
    /// Signature over all of the above with the server's key; none in events from before there were signatures.
    pub signature: Option<String>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {
    #[sea_orm(belongs_to = "super::user::Entity", from = "Column::UserId", to = "super::user::Column::Id")]
    User,
}

impl Related<super::user::Entity> for Entity {
    fn to() -> RelationDef {
        Relation::User.def()
    }
}

impl ActiveModelBehavior for ActiveModel {}
