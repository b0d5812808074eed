//! Browser sessions in the database, for tower-sessions: user, origin and start. A session ends if it is idle for too
//! long, and at a maximum age in any case. A remembered session has only a maximum age, a longer one. Automatic polling
//! does not extend the session. While the database cannot be written, sessions are kept in memory ([`KeptSessions`]).

use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{NaiveDateTime, TimeDelta};
use sea_orm::ActiveValue::NotSet;
use sea_orm::sea_query::Expr;
use sea_orm::{ActiveModelTrait, ColumnTrait, ConnAcquireErr, DbErr, EntityTrait, IntoActiveModel, QueryFilter};
use sha2::{Digest, Sha256};
use tower_sessions::session::{Id, Record};
use tower_sessions::session_store::{Error, Result, SessionStore};
use tracing::debug;

use crate::clock::Clock;
use crate::config::SecuritySettings;
use crate::database::{self, Database, is_unwritable};
use crate::entity::session::{ActiveModel, Column, Entity, Model};

use super::HttpError;
use super::kept_sessions::KeptSessions;

/// The session store.
#[derive(Clone, Debug)]
pub(super) struct DatabaseSessions {
    database: Database,
    clock: Clock,
    limits: Limits,
    /// Sessions that could not be written.
    kept: KeptSessions,
}

/// How long sessions last.
#[derive(Clone, Copy, Debug)]
struct Limits {
    idle: TimeDelta,
    longest: TimeDelta,
    remembered: TimeDelta,
}

tokio::task_local! {
    /// Set while an automatic refresh of a page is handled.
    static BY_ITSELF: ();
}

/// Runs `work`; if `is`, as an automatic refresh, which does not count as a use of the session.
pub(super) async fn by_itself<F: Future>(is: bool, work: F) -> F::Output {
    if is { BY_ITSELF.scope((), work).await } else { work.await }
}

/// The database error that occurred while the session of a request was read or written. The session layers answer 500
/// to all of them.
type Noted = Arc<Mutex<Option<DbErr>>>;

tokio::task_local! {
    static NOTED: Noted;
}

/// Records a database error for [`explain_failures`].
pub(super) fn note(error: &DbErr) {
    let _ = NOTED.try_with(|noted| *noted.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone()));
}

/// Gives a request whose session failed because of the database the same response as any other such request: 503 or
/// 507, with `Retry-After`.
pub(super) async fn explain_failures(request: Request, next: Next) -> Response {
    let noted = Noted::default();
    let response = NOTED.scope(Arc::clone(&noted), next.run(request)).await;
    if response.status() != StatusCode::INTERNAL_SERVER_ERROR {
        return response;
    }
    let error = noted.lock().unwrap_or_else(PoisonError::into_inner).take();
    error.map_or(response, |error| HttpError::from(error).into_response())
}

/// Lifetime of a session without a user, between the password and the second factor.
const UNKNOWN: TimeDelta = TimeDelta::minutes(30);

/// Names under which a login stores its origin in the session.
pub(super) const ADDRESS: &str = "address";
pub(super) const AGENT: &str = "agent";
pub(super) const REMEMBERED: &str = "remembered";

impl Limits {
    /// The end of a session that is used now.
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
        Self { database, clock, limits, kept: KeptSessions::default() }
    }

    fn row(&self, record: &Record) -> Result<Model> {
        let data = serde_json::to_string(&record.data).map_err(|error| Error::Encode(error.to_string()))?;
        let text = |name: &str, most: usize| {
            record
                .data
                .get(name)
                .and_then(|value| value.as_str())
                .map(|text| text.chars().take(most).collect::<String>())
        };
        // The format of axum-login.
        let user_id = record.data.get("axum-login.data").and_then(|data| data["user_id"].as_i64());
        let user_id = user_id.and_then(|id| i32::try_from(id).ok());
        let is_remembered = record.data.get(REMEMBERED).and_then(serde_json::Value::as_bool).unwrap_or_default();
        let now = self.clock.now();
        Ok(Model {
            id: key(&record.id),
            data,
            expires_at: self.limits.end(user_id.is_some(), is_remembered, now, now),
            user_id,
            created: Some(now),
            last_seen: Some(now),
            address: text(ADDRESS, 64),
            agent: text(AGENT, 255),
            remembered: is_remembered,
        })
    }

    /// Records that the session is used: to the minute, or more precisely if it expires soon.
    async fn touch(&self, row: &Model) -> std::result::Result<(), DbErr> {
        let Some(end) = self.end_if_used_now(row) else { return Ok(()) };
        let transaction = self.database.begin().await?;
        Entity::update_many()
            .col_expr(Column::LastSeen, Expr::value(self.clock.now()))
            .col_expr(Column::ExpiresAt, Expr::value(end))
            .filter(Column::Id.eq(&row.id))
            .exec(&*transaction)
            .await?;
        transaction.commit().await
    }

    /// The end of a session that is used now; `None` if this use is not recorded.
    fn end_if_used_now(&self, row: &Model) -> Option<NaiveDateTime> {
        let now = self.clock.now();
        let created = row.created.filter(|_| row.user_id.is_some())?;
        let step = TimeDelta::minutes(1).min(self.limits.idle / 10);
        let is_use = BY_ITSELF.try_with(|()| ()).is_err() && row.last_seen.is_none_or(|last| now - last >= step);
        is_use.then(|| self.limits.end(true, row.remembered, created, now))
    }

    /// Returns the session with this key, from memory or from the table.
    async fn find(&self, key: String) -> std::result::Result<Option<Model>, DbErr> {
        if self.kept.is_ended(&key) {
            return Ok(None);
        }
        let now = self.clock.now();
        let kept = self.kept.find(&key);
        if let Some((row, false)) = kept {
            if row.expires_at <= now {
                return Ok(None);
            }
            if let Some(end) = self.end_if_used_now(&row) {
                let used = Model { last_seen: Some(now), expires_at: end, ..row.clone() };
                self.kept.keep(used, false, DbErr::RecordNotUpdated)?;
            }
            return Ok(Some(row));
        }
        let found = Entity::find_by_id(key).filter(Column::ExpiresAt.gt(now)).one(self.database.reader()).await?;
        let Some(found) = found else { return Ok(None) };
        match self.touch(&found).await {
            // Only the record of its use is missing.
            Err(error) if is_unwritable(&error) => debug!(%error, "recording the use of a session failed"),
            outcome => outcome?,
        }
        // The version in memory is newer than the one in the table.
        Ok(Some(kept.map_or(found, |(row, _)| row)))
    }

    /// Keeps a change in memory if `error` means that the database cannot be written.
    async fn keep(&self, row: Model, is_new: bool, error: DbErr) -> std::result::Result<(), DbErr> {
        if !is_unwritable(&error) {
            return Err(error);
        }
        if is_new {
            self.kept.keep(row, false, error)?;
        } else {
            let known = match self.kept.find(&row.id) {
                Some((known, _)) => Some(known),
                None => Entity::find_by_id(row.id.as_str()).one(self.database.reader()).await?,
            };
            // A session that was ended since the request began must not be restored.
            let Some(known) = known.filter(|known| !self.kept.is_ended(&known.id)) else { return Ok(()) };
            let is_in_table = !matches!(self.kept.find(&row.id), Some((_, false)));
            let (created, last_seen, expires_at) = (known.created, known.last_seen, known.expires_at);
            self.kept.keep(Model { expires_at, created, last_seen, ..row }, is_in_table, error)?;
        }
        self.kept.write_later(&self.database, &self.clock);
        Ok(())
    }

    async fn insert(&self, row: Model) -> std::result::Result<(), DbErr> {
        let transaction = self.database.begin().await?;
        Entity::insert(row.into_active_model()).exec_without_returning(&*transaction).await?;
        transaction.commit().await
    }

    async fn update(&self, row: Model) -> std::result::Result<(), DbErr> {
        let transaction = self.database.begin().await?;
        let own = Column::Id.eq(&row.id);
        // A change does not affect the start and the end of the session.
        let changes = ActiveModel {
            id: NotSet,
            created: NotSet,
            last_seen: NotSet,
            expires_at: NotSet,
            ..row.into_active_model().reset_all()
        };
        // Only updates existing rows: a session that was ended since this request began must not be restored.
        Entity::update_many().set(changes).filter(own).exec(&*transaction).await?;
        transaction.commit().await
    }

    async fn remove(&self, key: &str) -> std::result::Result<(), DbErr> {
        let transaction = self.database.begin().await?;
        Entity::delete_by_id(key).exec(&*transaction).await?;
        transaction.commit().await
    }

    /// Deletes expired sessions.
    pub(super) async fn delete_expired(&self) -> std::result::Result<(), DbErr> {
        let transaction = self.database.begin().await?;
        Entity::delete_many().filter(Column::ExpiresAt.lt(self.clock.now())).exec(&*transaction).await?;
        transaction.commit().await
    }
}

/// The key in the table is a hash, so that reading the table is not enough to take over a session.
pub fn key(id: &Id) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(id.to_string().as_bytes()))
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(error: DbErr) -> Error {
    note(&error);
    Error::Backend(error.to_string())
}

#[async_trait::async_trait]
impl SessionStore for DatabaseSessions {
    async fn create(&self, record: &mut Record) -> Result<()> {
        loop {
            let row = self.row(record)?;
            match self.insert(row.clone()).await {
                Ok(()) => return Ok(()),
                Err(error) if database::is_duplicate(&error) => record.id = Id::default(),
                Err(error) => return self.keep(row, true, error).await.map_err(failed),
            }
        }
    }

    async fn save(&self, record: &Record) -> Result<()> {
        let row = self.row(record)?;
        // A session in memory is written from there; otherwise the older change would overwrite the newer one.
        let is_kept = self.kept.find(&row.id).is_some();
        let outcome = if is_kept {
            Err(DbErr::ConnectionAcquire(ConnAcquireErr::Timeout))
        } else {
            self.update(row.clone()).await
        };
        match outcome {
            Ok(()) => Ok(()),
            Err(error) => self.keep(row, false, error).await.map_err(failed),
        }
    }

    async fn load(&self, id: &Id) -> Result<Option<Record>> {
        let Some(found) = self.find(key(id)).await.map_err(failed)? else { return Ok(None) };
        let data = serde_json::from_str(&found.data).map_err(|error| Error::Decode(error.to_string()))?;
        let seconds = found.expires_at.and_utc().timestamp();
        let expiry_date =
            time::OffsetDateTime::from_unix_timestamp(seconds).map_err(|error| Error::Decode(error.to_string()))?;
        Ok(Some(Record { id: *id, data, expiry_date }))
    }

    async fn delete(&self, id: &Id) -> Result<()> {
        let key = key(id);
        if self.kept.remove(&key) {
            return Ok(());
        }
        match self.remove(&key).await {
            Err(error) if is_unwritable(&error) => {
                let until = self.clock.now() + self.limits.remembered.max(self.limits.longest);
                self.kept.end(key, until, error).map_err(failed)?;
                self.kept.write_later(&self.database, &self.clock);
                Ok(())
            }
            outcome => outcome.map_err(failed),
        }
    }
}
