//! A user's account.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "user")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i32,
    pub username: String,
    pub name: String,
    pub email: String,
    pub password: String,
    pub active: bool,
    pub fs_uniquifier: String,
    pub confirmed_at: Option<DateTime>,
    pub last_login_at: Option<DateTime>,
    pub current_login_at: Option<DateTime>,
    pub last_login_ip: Option<String>,
    pub current_login_ip: Option<String>,
    pub login_count: i32,
    /// Seed from which the authenticator app's secret is derived, together with `SECRET_KEY`.
    pub tf_totp_secret: Option<String>,
    pub create_time: DateTime,
    pub update_datetime: Option<DateTime>,
    /// The password is easily guessed, and was accepted anyway.
    pub weak_password: bool,
    /// Time since when login requires the second factor.
    pub second_factor_at: Option<DateTime>,
    /// Time step (30 s each) of the last code that was used: no code is valid twice.
    pub last_code_step: i32,
    /// Time at which the registration was declined.
    pub declined_at: Option<DateTime>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
