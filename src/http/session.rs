//! Browser sessions in the database, for tower-sessions: who, where and since when, and their two ends. One comes when
//! nobody has used the session for a while, the other however much it is used. Who wants to be remembered has only the
//! other, later. A page that looks for news by itself is not somebody who uses it.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{NaiveDateTime, TimeDelta};
use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::sea_query::Expr;
use sea_orm::{ColumnTrait, DbErr, EntityTrait, QueryFilter};
use sha2::{Digest, Sha256};
use tower_sessions::session::{Id, Record};
use tower_sessions::session_store::{Error, Result, SessionStore};

use crate::clock::Clock;
use crate::config::SecuritySettings;
use crate::database::{self, Database};
use crate::entity::session::{ActiveModel, Column, Entity, Model};

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct DatabaseSessions {
    database: Database,
    clock: Clock,
    limits: Limits,
}

/// How long sessions last.
#[derive(Clone, Copy, Debug)]
struct Limits {
    idle: TimeDelta,
    longest: TimeDelta,
    remembered: TimeDelta,
}

tokio::task_local! {
    /// A page asks again by itself.
    static BY_ITSELF: ();
}

/// Does `work` as what a page asks by itself, when it `is`: then it does not count as a use of the session.
pub(super) async fn by_itself<F: Future>(is: bool, work: F) -> F::Output {
    if is { BY_ITSELF.scope((), work).await } else { work.await }
}

/// A session in which nobody is logged in: somebody between the password and the code.
const UNKNOWN: TimeDelta = TimeDelta::minutes(30);

/// Under these names a login leaves in the session where it came from.
pub(super) const ADDRESS: &str = "address";
pub(super) const AGENT: &str = "agent";
pub(super) const REMEMBERED: &str = "remembered";

impl Limits {
    /// When a session ends that is used now.
    fn end(self, is_known: bool, is_remembered: bool, created: NaiveDateTime, now: NaiveDateTime) -> NaiveDateTime {
        match (is_known, is_remembered) {
            (false, _) => created + UNKNOWN,
            (true, true) => created + self.remembered,
            (true, false) => (created + self.longest).min(now + self.idle),
        }
    }
}

impl DatabaseSessions {
    pub(super) fn new(database: Database, clock: Clock, security: &SecuritySettings) -> Self {
        let limits =
            Limits { idle: security.session_idle, longest: security.session_longest, remembered: security.remembered };
        Self { database, clock, limits }
    }

    fn row(&self, record: &Record) -> Result<ActiveModel> {
        let data = serde_json::to_string(&record.data).map_err(|error| Error::Encode(error.to_string()))?;
        let text = |name: &str, most: usize| {
            record
                .data
                .get(name)
                .and_then(|value| value.as_str())
                .map(|text| text.chars().take(most).collect::<String>())
        };
        // As axum-login keeps it.
        let user_id = record.data.get("axum-login.data").and_then(|data| data["user_id"].as_i64());
        let user_id = user_id.and_then(|id| i32::try_from(id).ok());
        let is_remembered = record.data.get(REMEMBERED).and_then(serde_json::Value::as_bool).unwrap_or_default();
        let now = self.clock.now();
        Ok(ActiveModel {
            id: Set(key(&record.id)),
            data: Set(data),
            expires_at: Set(self.limits.end(user_id.is_some(), is_remembered, now, now)),
            user_id: Set(user_id),
            created: Set(Some(now)),
            last_seen: Set(Some(now)),
            address: Set(text(ADDRESS, 64)),
            agent: Set(text(AGENT, 255)),
            remembered: Set(is_remembered),
        })
    }

    /// It is used: to the minute, or finer where it ends soon.
    async fn touch(&self, row: &Model) -> std::result::Result<(), DbErr> {
        let now = self.clock.now();
        let Some(created) = row.created.filter(|_| row.user_id.is_some()) else { return Ok(()) };
        let step = TimeDelta::minutes(1).min(self.limits.idle / 10);
        if BY_ITSELF.try_with(|()| ()).is_ok() || row.last_seen.is_some_and(|last| now - last < step) {
            return Ok(());
        }
        let transaction = self.database.begin().await?;
        Entity::update_many()
            .col_expr(Column::LastSeen, Expr::value(now))
            .col_expr(Column::ExpiresAt, Expr::value(self.limits.end(true, row.remembered, created, now)))
            .filter(Column::Id.eq(&row.id))
            .exec(&*transaction)
            .await?;
        transaction.commit().await
    }

    /// Takes sessions away that ended.
    pub(super) async fn delete_expired(&self) -> std::result::Result<(), DbErr> {
        let transaction = self.database.begin().await?;
        Entity::delete_many().filter(Column::ExpiresAt.lt(self.clock.now())).exec(&*transaction).await?;
        transaction.commit().await
    }
}

/// The key in the table: who can read the table cannot take over the sessions in it.
pub fn key(id: &Id) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(id.to_string().as_bytes()))
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
            match Entity::insert(self.row(record)?).exec_without_returning(&*transaction).await {
                Ok(_) => return transaction.commit().await.map_err(failed),
                Err(error) if database::is_duplicate(&error) => record.id = Id::default(),
                Err(error) => return Err(failed(error)),
            }
        }
    }

    async fn save(&self, record: &Record) -> Result<()> {
        let transaction = self.database.begin().await.map_err(failed)?;
        // Only what is there: one that was ended since this request began stays ended, whatever the request has noted in it. It began
        // when it began, and ends as it would have.
        let row = ActiveModel { created: NotSet, last_seen: NotSet, expires_at: NotSet, ..self.row(record)? };
        let own = Column::Id.eq(key(&record.id));
        Entity::update_many().set(row).filter(own).exec(&*transaction).await.map_err(failed)?;
        transaction.commit().await.map_err(failed)
    }

    async fn load(&self, id: &Id) -> Result<Option<Record>> {
        let found = Entity::find_by_id(key(id))
            .filter(Column::ExpiresAt.gt(self.clock.now()))
            .one(self.database.reader())
            .await
            .map_err(failed)?;
        let Some(found) = found else { return Ok(None) };
        self.touch(&found).await.map_err(failed)?;
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
