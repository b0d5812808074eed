//! `Idempotency-Key`: a POST that is repeated with the same key gets the answer of the first one, and nothing is done
//! twice. Answers are stored for a day.
//!
//! The key is stored before the work begins: a second request that arrives in the meantime gets 409 and may be
//! repeated. The work continues if the caller disconnects or times out, so that its answer is available to the
//! repetition.
//!
//! The transactions of the work count themselves in the row of the key (`database::counting_commits`), so the row says
//! exactly whether the work was done, even if the server was killed or the database was lost in between. A key whose
//! request changed nothing is free again. A key whose request changed something, but whose answer is lost, reports that
//! to each repetition.
//!
//! Callers who have lost the permission get 403 instead of the stored answer.
//!
//! Secrets are not stored in the table: answers with tokens are not stored, and requests are recognized by a hash with
//! the server's key.

use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::header::{CONTENT_TYPE, ETAG, HeaderName, HeaderValue, LOCATION};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{NaiveDateTime, TimeDelta};
use hmac::{Hmac, KeyInit, Mac};
use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::sea_query::Expr;
use sea_orm::{ActiveModelTrait, ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QuerySelect};
use serde_json::{Value, json};
use sha2::Sha256;
use tracing::warn;

use crate::app::App;
use crate::context::Context;
use crate::database::{self, Commits, Failure, counting_commits};
use crate::entity::idempotency_key::{self, ActiveModel, Column, Entity, Model};
use crate::http::{HttpError, read_body};

use super::access::{By, Caller};
use super::output::tag_of;
use super::rights::Rights;

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// A request without an answer for longer than this, and than twice the time limit of requests, is considered
/// abandoned.
const ABANDONED: TimeDelta = TimeDelta::minutes(5);

/// Time between two attempts to store the result of a request.
const PAUSE: Duration = Duration::from_secs(1);

/// The answer to repetitions of a request that changed something and whose own answer is lost.
const LOST: &str = "The first request with this Idempotency-Key was carried out, at least in part, but its answer was lost. \
                    Nothing was done again. Check what it has changed; to send it again, use another key.";

/// Keyed hash; bodies may contain passwords.
fn digest(app: &App, parts: &[&[u8]]) -> String {
    let key = app.settings.secrets.secret_key.as_bytes();
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return String::new() };
    for part in parts {
        mac.update(&(part.len() as u64).to_le_bytes());
        mac.update(part);
    }
    URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
}

/// The layer for `Idempotency-Key`; see the module.
pub(super) async fn once(State((app, rights)): State<(App, Rights)>, request: Request, next: Next) -> Response {
    let Some(key) = request.headers().get(KEY).filter(|_| request.method() == Method::POST).cloned() else {
        return next.run(request).await;
    };
    // The answer contains a secret, which is shown once and not stored.
    if request.uri().path().ends_with("/tokens") {
        return next.run(request).await;
    }
    if key.is_empty() || key.len() > 255 {
        let problem = "Idempotency-Key must have 1 to 255 characters.".to_owned();
        return HttpError::BadRequest(problem).into_response();
    }
    let (mut parts, body) = request.into_parts();
    let caller = match Caller::from_request_parts(&mut parts, &app).await {
        Ok(caller) => caller,
        Err(refused) => return refused,
    };
    // An answer that the caller may no longer get is not repeated. The body is read only after that.
    let ctx = match rights.check(&parts, &caller) {
        Ok(ctx) => ctx,
        Err(error) => return error.into_response(),
    };
    let bytes = match read_body(&parts, body).await {
        Ok(bytes) => bytes,
        Err(error) => return error.into_response(),
    };
    let path = parts.uri.to_string();
    let noted = Noted {
        app: app.clone(),
        user_id: caller.user.id,
        // A token only gets answers to requests with the same token, not to other requests of its owner.
        key_hash: digest(&app, &[format!("{:?}", credential(caller.by)).as_bytes(), key.as_bytes()]),
        // An answer is not repeated if the caller saw other cohorts then.
        fingerprint: digest(&app, &[path.as_bytes(), &bytes, ctx.scope_key().as_bytes()]),
    };
    let id = match noted.begin().await {
        Ok(Begun::New(id)) => id,
        Ok(Begun::Known(row)) => return noted.replay(row),
        Err(error) => return error.into_response(),
    };
    // In a separate task: a caller who disconnects does not stop the work between its end and its answer.
    let work = async move {
        let work = next.run(Request::from_parts(parts, Body::from(bytes)));
        let (response, commits) = counting_commits(id, work).await;
        noted.finish(&ctx, id, response, commits).await
    };
    tokio::spawn(work).await.unwrap_or_else(|error| HttpError::Internal(error.to_string()).into_response())
}

/// The token of the request; `None` if its owner has logged in.
fn credential(by: By) -> Option<i32> {
    match by {
        By::Token(id) => Some(id),
        By::Password | By::Session => None,
    }
}

#[derive(Clone)]
struct Noted {
    app: App,
    user_id: i32,
    key_hash: String,
    fingerprint: String,
}

enum Begun {
    /// The id of the row.
    New(i32),
    Known(Model),
}

/// How a request ended, for its key.
enum Ending {
    Answered(StatusCode, Bytes),
    /// Nothing was changed: it may be sent again.
    Undone,
    /// The answer cannot be repeated, and something was changed or may have been.
    Lost,
}

impl Noted {
    fn now(&self) -> NaiveDateTime {
        self.app.engine.clock().now()
    }

    /// The maximum time for the work on a request.
    fn patience(&self) -> TimeDelta {
        let seconds = i64::try_from(self.app.settings.web.request_timeout).unwrap_or(i64::MAX / 2000);
        ABANDONED.max(TimeDelta::seconds(seconds.min(86_400) * 2))
    }

    /// Stores the key, unless it is known.
    async fn begin(&self) -> Result<Begun, HttpError> {
        let transaction = self.app.engine.database().begin().await?;
        let now = self.now();
        let found = Entity::find()
            .filter(Column::UserId.eq(self.user_id))
            .filter(Column::KeyHash.eq(&self.key_hash))
            .one(&*transaction)
            .await?;
        if let Some(row) = found {
            let is_over = row.created <= now - idempotency_key::KEPT;
            let is_abandoned = row.status.is_none() && row.created < now - self.patience();
            if !is_over && !is_abandoned {
                return Ok(Begun::Known(row));
            }
            if is_over {
                Entity::delete_by_id(row.id).exec(&*transaction).await?;
            } else if let Some(row) = settle(&*transaction, row.id).await? {
                transaction.commit().await?;
                return Ok(Begun::Known(row));
            }
        }
        let row = ActiveModel {
            id: NotSet,
            user_id: Set(self.user_id),
            key_hash: Set(self.key_hash.clone()),
            fingerprint: Set(self.fingerprint.clone()),
            created: Set(now),
            status: Set(None),
            body: Set(None),
            commits: Set(0),
        };
        let id = match row.insert(&*transaction).await {
            Ok(row) => row.id,
            // A concurrent request with the same key was first.
            Err(error) if database::is_duplicate(&error) => return Ok(Begun::Known(self.at_work(now))),
            Err(error) => return Err(error.into()),
        };
        match transaction.commit().await {
            Ok(()) => Ok(Begun::New(id)),
            Err(error) if Failure::of(&error) == Some(Failure::Uncertain) => {
                // The key may have been stored, although the work has not begun.
                self.clone().end_later(id, Ending::Undone);
                Err(HttpError::Busy(Failure::Lost.message().to_owned()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The row of the same request, which a concurrent request has just stored.
    fn at_work(&self, created: NaiveDateTime) -> Model {
        Model {
            id: 0,
            user_id: self.user_id,
            key_hash: self.key_hash.clone(),
            fingerprint: self.fingerprint.clone(),
            created,
            status: None,
            body: None,
            commits: 0,
        }
    }

    fn replay(&self, row: Model) -> Response {
        if row.fingerprint != self.fingerprint {
            let problem = "This Idempotency-Key was already used for another request.".to_owned();
            return HttpError::Unprocessable(problem).into_response();
        }
        let Some(status) = row.status.and_then(|status| StatusCode::from_u16(u16::try_from(status).ok()?).ok()) else {
            let problem = "The first request with this Idempotency-Key is still in progress.".to_owned();
            return HttpError::Conflict(problem).into_response();
        };
        let body = row.body.unwrap_or_default();
        let location = serde_json::from_str::<Value>(&body).ok();
        let location = location.as_ref().and_then(|body| body.get("uri")?.as_str());
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
        headers.extend(tag_of(body.as_bytes()).map(|tag| (ETAG, tag)));
        if status == StatusCode::CREATED {
            headers.extend(location.and_then(|uri| HeaderValue::from_str(uri).ok()).map(|value| (LOCATION, value)));
        }
        (status, headers, body).into_response()
    }

    /// Stores the answer. A request that failed, or was rejected because of its caller, may be repeated unless it has
    /// changed something.
    async fn finish(self, ctx: &Context, id: i32, response: Response, commits: Commits) -> Response {
        let status = response.status();
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, usize::MAX).await.unwrap_or_default();
        let passing = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::TOO_MANY_REQUESTS];
        // A resource that a caller with some cohorts does not find may be found once the role includes more.
        let is_hidden = status == StatusCode::NOT_FOUND && !ctx.sees_all();
        let ending = if !status.is_server_error() && !passing.contains(&status) && !is_hidden {
            Ending::Answered(status, bytes.clone())
        } else if commits.known == 0 && !commits.is_unsure {
            Ending::Undone
        } else {
            Ending::Lost
        };
        if let Err(error) = self.end(id, &ending).await {
            warn!(%error, "how a request with an Idempotency-Key ended cannot be stored yet");
            self.end_later(id, ending);
        }
        Response::from_parts(parts, Body::from(bytes))
    }

    /// Stores how the request ended as soon as the database can be written, for as long as repetitions wait for it.
    fn end_later(self, id: i32, ending: Ending) {
        let until = tokio::time::Instant::now() + self.patience().to_std().unwrap_or_default();
        tokio::spawn(async move {
            while tokio::time::Instant::now() < until {
                tokio::time::sleep(PAUSE).await;
                if self.end(id, &ending).await.is_ok() {
                    return;
                }
            }
            warn!("how a request with an Idempotency-Key ended was not stored");
        });
    }

    async fn end(&self, id: i32, ending: &Ending) -> Result<(), DbErr> {
        let transaction = self.app.engine.database().begin().await?;
        match ending {
            Ending::Answered(status, bytes) => {
                answer(&*transaction, id, *status, String::from_utf8_lossy(bytes).into_owned()).await?;
            }
            Ending::Undone => {
                Entity::delete_by_id(id).exec(&*transaction).await?;
            }
            Ending::Lost => {
                settle(&*transaction, id).await?;
            }
        }
        transaction.commit().await
    }
}

/// Stores the answer for repetitions.
async fn answer(connection: &impl ConnectionTrait, id: i32, status: StatusCode, body: String) -> Result<(), DbErr> {
    Entity::update_many()
        .col_expr(Column::Status, Expr::value(i32::from(status.as_u16())))
        .col_expr(Column::Body, Expr::value(body))
        .filter(Column::Id.eq(id))
        .exec(connection)
        .await
        .map(drop)
}

/// Ends a request without an answer according to its commits: if there were none, the key is free; otherwise
/// repetitions get [`LOST`]. Waits for a commit that is still in progress. Returns the row unless the key is free.
async fn settle(connection: &impl ConnectionTrait, id: i32) -> Result<Option<Model>, DbErr> {
    let Some(row) = Entity::find_by_id(id).lock_exclusive().one(connection).await? else { return Ok(None) };
    if row.status.is_some() {
        return Ok(Some(row));
    }
    if row.commits == 0 {
        Entity::delete_by_id(id).exec(connection).await?;
        return Ok(None);
    }
    let status = StatusCode::CONFLICT;
    let body = json!({ "message": LOST, "code": status.as_u16() }).to_string();
    answer(connection, id, status, body.clone()).await?;
    Ok(Some(Model { status: Some(i32::from(status.as_u16())), body: Some(body), ..row }))
}
