//! Somebody who can log in.

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
    /// What the secret of the authenticator app is derived from, together with `SECRET_KEY`.
    pub tf_totp_secret: Option<String>,
    pub create_time: DateTime,
    pub update_datetime: Option<DateTime>,
    /// The password was taken as given and is one that is easily guessed.
    pub weak_password: bool,
    /// Since when the second factor is asked for.
    pub second_factor_at: Option<DateTime>,
    /// Of the code that was used last (30 s each): none is good twice.
    pub last_code_step: i32,
    /// Since when this is somebody who waited and was not let in.
    pub declined_at: Option<DateTime>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
