//! The cohorts to which a user's role is limited. Without rows here, the role is for the whole study.

use sea_orm_migration::prelude::*;

use crate::columns::{integer, reference};
use crate::steps::{create_table, drop_tables, index};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // Revoking a role deletes its cohorts.
        let mut of_role = ForeignKey::create();
        of_role
            .name("fk_role_scope_roles_users")
            .from("role_scope", ("user_id", "role_id"))
            .to("roles_users", ("user_id", "role_id"))
            .on_delete(ForeignKeyAction::Cascade);
        create_table(
            manager,
            Table::create()
                .table("role_scope")
                .col(integer("user_id").not_null())
                .col(integer("role_id").not_null())
                .col(integer("cohort_id").not_null())
                .primary_key(Index::create().col("user_id").col("role_id").col("cohort_id"))
                .foreign_key(&mut of_role)
                .foreign_key(&mut reference("role_scope", "cohort_id", "cohort"))
                .to_owned(),
        )
        .await?;
        index(manager, "role_scope", &["cohort_id"], false).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop_tables(manager, &["role_scope"]).await
    }
}
