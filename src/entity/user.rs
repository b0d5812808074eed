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
    pub tf_totp_secret: Option<String>,
    pub create_time: DateTime,
    pub update_datetime: Option<DateTime>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
