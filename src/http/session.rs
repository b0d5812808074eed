//! Browser sessions in the database, for tower-sessions.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, NaiveDateTime};
use sea_orm::ActiveValue::Set;
use sea_orm::sea_query::OnConflict;
use sea_orm::{ColumnTrait, DbErr, EntityTrait, QueryFilter};
use sha2::{Digest, Sha256};
use tower_sessions::session::{Id, Record};
use tower_sessions::session_store::{Error, Result, SessionStore};

use crate::clock::Clock;
use crate::database::{self, Database};
use crate::entity::session::{ActiveModel, Column, Entity};

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct DatabaseSessions {
    database: Database,
    clock: Clock,
}

impl DatabaseSessions {
    pub(super) fn new(database: Database, clock: Clock) -> Self {
        Self { database, clock }
    }

    /// Takes sessions away that ended.
    pub(super) async fn delete_expired(&self) -> std::result::Result<(), DbErr> {
        let transaction = self.database.begin().await?;
        Entity::delete_many().filter(Column::ExpiresAt.lt(self.clock.now())).exec(&*transaction).await?;
        transaction.commit().await
    }
}

/// The key in the table: who can read the table cannot take over the sessions in it.
fn key(id: &Id) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(id.to_string().as_bytes()))
}

fn row(record: &Record) -> Result<ActiveModel> {
    let data = serde_json::to_string(&record.data).map_err(|error| Error::Encode(error.to_string()))?;
    Ok(ActiveModel { id: Set(key(&record.id)), data: Set(data), expires_at: Set(expiry(record)) })
}

fn expiry(record: &Record) -> NaiveDateTime {
    DateTime::from_timestamp(record.expiry_date.unix_timestamp(), 0).unwrap_or_default().naive_utc()
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(error: DbErr) -> Error {
    Error::Backend(error.to_string())
}

#[async_trait::async_trait]
impl SessionStore for DatabaseSessions {
    async fn create(&self, record: &mut Record) -> Result<()> {
        loop {
            let transaction = self.database.begin().await.map_err(failed)?;
            match Entity::insert(row(record)?).exec_without_returning(&*transaction).await {
                Ok(_) => return transaction.commit().await.map_err(failed),
                Err(error) if database::is_duplicate(&error) => record.id = Id::default(),
                Err(error) => return Err(failed(error)),
            }
        }
    }

    async fn save(&self, record: &Record) -> Result<()> {
        let transaction = self.database.begin().await.map_err(failed)?;
        let conflict = OnConflict::column(Column::Id).update_columns([Column::Data, Column::ExpiresAt]).to_owned();
        let saved = Entity::insert(row(record)?).on_conflict(conflict).exec_without_returning(&*transaction).await;
        saved.map_err(failed)?;
        transaction.commit().await.map_err(failed)
    }

    async fn load(&self, id: &Id) -> Result<Option<Record>> {
        let found = Entity::find_by_id(key(id))
            .filter(Column::ExpiresAt.gt(self.clock.now()))
            .one(self.database.reader())
            .await
            .map_err(failed)?;
        let Some(found) = found else { return Ok(None) };
        let data = serde_json::from_str(&found.data).map_err(|error| Error::Decode(error.to_string()))?;
        let seconds = found.expires_at.and_utc().timestamp();
        let expiry_date =
            time::OffsetDateTime::from_unix_timestamp(seconds).map_err(|error| Error::Decode(error.to_string()))?;
        Ok(Some(Record { id: *id, data, expiry_date }))
    }

    async fn delete(&self, id: &Id) -> Result<()> {
        let transaction = self.database.begin().await.map_err(failed)?;
        Entity::delete_by_id(key(id)).exec(&*transaction).await.map_err(failed)?;
        transaction.commit().await.map_err(failed)
    }
}
