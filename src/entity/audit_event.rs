//! One recorded change: user, origin, subject, values before and after, and reason. Never changed, never deleted.

use sea_orm::entity::prelude::*;

use super::kind::Origin;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "audit_event")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i32,
    pub at: DateTime,
    pub user_id: Option<i32>,
    /// Name of the actor at that time.
    pub who: String,
    pub origin: Origin,
    pub address: Option<String>,
    pub verb: String,
    pub subject_type: String,
    pub subject_id: Option<i32>,
    /// Name of the subject at that time.
    pub subject_name: String,
    /// The experiment that it concerns, if any.
    pub experiment_id: Option<i32>,
    /// JSON.
    pub before: Option<String>,
    /// JSON.
    pub after: Option<String>,
    pub reason: Option<String>,
    /// The end of the chain when this was written (`NUMBER:HASH`); empty if there was no chain yet.
    pub head: Option<String>,
    /// Signature over all of the above with the server's key; null in events older than signatures.
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
