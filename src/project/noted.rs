//! The study's current revision, recorded in the database as one row that all servers follow.

use chrono::NaiveDateTime;
use sea_orm::ActiveValue::Set;
use sea_orm::sea_query::Expr;
use sea_orm::{ColumnTrait, DbErr, EntityTrait, QueryFilter};

use crate::database::{self, Database};
use crate::entity::project_revision::{ActiveModel, Column, Entity, ID, Model};

/// The row; `None` before the first sync.
pub type Noted = Option<Model>;

/// Reads the row.
pub async fn noted(database: &Database) -> Result<Noted, DbErr> {
    Entity::find_by_id(ID).one(database.reader()).await
}

/// The URL of a repository as the row stores it.
pub(super) fn stored(repository: &str) -> String {
    repository.chars().take(500).collect()
}

/// Records a revision. Returns `false` when another server has recorded one since `before` was read: that server read the
/// repository at another time, so it is unknown which revision is newer.
pub(super) async fn note(
    database: &Database,
    before: &Noted,
    (repository, commit): (&str, &str),
    now: NaiveDateTime,
) -> Result<bool, DbErr> {
    let repository = stored(repository);
    let transaction = database.begin_maintenance().await?;
    let done = match before {
        Some(before) => {
            let update = Entity::update_many()
                .col_expr(Column::Repository, Expr::value(repository))
                .col_expr(Column::CommitName, Expr::value(commit))
                .col_expr(Column::SyncedAt, Expr::value(now))
                .filter(Column::Id.eq(ID))
                .filter(Column::CommitName.eq(before.commit_name.as_str()))
                .filter(Column::Repository.eq(before.repository.as_str()));
            update.exec(&*transaction).await?.rows_affected == 1
        }
        None => {
            let row = ActiveModel {
                id: Set(ID),
                repository: Set(repository),
                commit_name: Set(commit.to_owned()),
                synced_at: Set(now),
            };
            match Entity::insert(row).exec_without_returning(&*transaction).await {
                Ok(_) => true,
                Err(error) if database::is_duplicate(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    };
    transaction.commit().await?;
    Ok(done)
}
