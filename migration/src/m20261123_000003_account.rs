//! Accounts: users, roles, sessions and API tokens.
//!
//! `user` and `role` have the columns that Flask-Security gave them in version 8.1;
//! `fs_uniquifier` changes with the password, which ends all sessions of the user.

use sea_orm_migration::prelude::*;

use crate::columns::{counter, flag, id, integer, label, moment, reference, text};
use crate::steps::{create_table, drop_tables, index};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        create_users(manager).await?;
        create_sessions(manager).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop_tables(manager, &["api_token", "session", "roles_users", "role", "user"]).await
    }
}

async fn create_users(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    create_table(
        manager,
        Table::create()
            .table("user")
            .col(id())
            .col(label("username", 64).not_null())
            .col(label("name", 64).not_null())
            .col(label("email", 255).not_null())
            .col(label("password", 255).not_null())
            .col(flag("active", true))
            .col(label("fs_uniquifier", 64).not_null())
            .col(moment(manager, "confirmed_at"))
            .col(moment(manager, "last_login_at"))
            .col(moment(manager, "current_login_at"))
            .col(label("last_login_ip", 64))
            .col(label("current_login_ip", 64))
            .col(counter("login_count", 0))
            .col(label("tf_totp_secret", 255))
            .col(moment(manager, "create_time").not_null())
            .col(moment(manager, "update_datetime"))
            .to_owned(),
    )
    .await?;
    index(manager, "user", &["username"], true).await?;
    index(manager, "user", &["email"], true).await?;
    index(manager, "user", &["fs_uniquifier"], true).await?;

    create_table(
        manager,
        Table::create()
            .table("role")
            .col(id())
            .col(label("name", 80).not_null())
            .col(label("description", 255))
            .col(text(manager, "permissions"))
            .col(moment(manager, "update_datetime").not_null())
            .to_owned(),
    )
    .await?;
    index(manager, "role", &["name"], true).await?;

    create_table(
        manager,
        Table::create()
            .table("roles_users")
            .col(integer("user_id").not_null())
            .col(integer("role_id").not_null())
            .primary_key(Index::create().col("user_id").col("role_id"))
            .foreign_key(&mut reference("roles_users", "user_id", "user"))
            .foreign_key(&mut reference("roles_users", "role_id", "role"))
            .to_owned(),
    )
    .await?;
    index(manager, "roles_users", &["role_id"], false).await
}

async fn create_sessions(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    create_table(
        manager,
        Table::create()
            .table("session")
            .col(label("id", 64).not_null().primary_key())
            .col(text(manager, "data").not_null())
            .col(moment(manager, "expires_at").not_null())
            .to_owned(),
    )
    .await?;
    index(manager, "session", &["expires_at"], false).await?;

    create_table(
        manager,
        Table::create()
            .table("api_token")
            .col(id())
            .col(integer("user_id").not_null())
            .col(label("label", 100).not_null())
            .col(label("token_hash", 64).not_null())
            .col(text(manager, "permissions"))
            .col(moment(manager, "created").not_null())
            .col(moment(manager, "expires_at"))
            .col(moment(manager, "revoked_at"))
            .col(moment(manager, "last_used_at"))
            .foreign_key(&mut reference("api_token", "user_id", "user"))
            .to_owned(),
    )
    .await?;
    index(manager, "api_token", &["token_hash"], true).await?;
    index(manager, "api_token", &["user_id"], false).await
}
