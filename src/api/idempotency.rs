//! `Idempotency-Key`: a POST that comes again with the same key gets the answer of the first one, and nothing is done twice.
//!
//! The key is noted before the work begins: a second request that comes meanwhile gets 409 and may come again. The work
//! goes on when the caller goes away or is timed out, so that its answer is there for the repetition; it is kept for a day.
//! When the server dies in between, the key is free again after some minutes; what was done then was done in one
//! transaction or not at all, and its labels tell.
//!
//! Who may not do it any more gets 403, and not the answer of the time when it was permitted.
//!
//! Secrets do not get into the table: answers with tokens are not kept, and requests are recognised by a hash with the
//! server's key.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::header::{CONTENT_TYPE, ETAG, HeaderName, HeaderValue, LOCATION};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{NaiveDateTime, TimeDelta};
use hmac::{Hmac, KeyInit, Mac};
use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::sea_query::Expr;
use sea_orm::{ActiveModelTrait, ColumnTrait, DbErr, EntityTrait, QueryFilter};
use serde_json::Value;
use sha2::Sha256;
use tracing::error;

use crate::account::Permission;
use crate::app::App;
use crate::audit::{Who, acting};
use crate::database;
use crate::entity::idempotency_key::{self, ActiveModel, Column, Entity, Model};
use crate::http::{HttpError, read_body};
use crate::study::visible;

use super::access::{By, Caller};
use super::output::tag_of;

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// A request without an answer for longer than this, and than two of the time that a request may take, is not being
/// worked on any more.
const ABANDONED: TimeDelta = TimeDelta::minutes(5);

/// A hash that nobody can guess the parts from who has not the server's key: bodies may have passwords in them.
fn digest(app: &App, parts: &[&[u8]]) -> String {
    let key = app.settings.secrets.secret_key.as_bytes();
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return String::new() };
    for part in parts {
        mac.update(&(part.len() as u64).to_le_bytes());
        mac.update(part);
    }
    URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
}

/// The permissions that the operations of POST need, by path, as the description has them.
#[derive(Debug, Clone)]
pub(super) struct Rights(Arc<HashMap<String, Vec<String>>>);

impl Rights {
    /// Of version `number` with this description.
    pub(super) fn of(number: &str, document: &Value) -> Self {
        let paths = document["paths"].as_object().into_iter().flatten();
        let needs = paths.filter_map(|(path, item)| {
            let ways = item["post"]["security"].as_array()?;
            let scopes = ways.iter().find_map(|way| way["basic"].as_array())?;
            let scopes = scopes.iter().filter_map(|scope| scope.as_str().map(str::to_owned)).collect();
            Some((format!("/api/v{number}{path}"), scopes))
        });
        Self(Arc::new(needs.collect()))
    }

    /// # Errors
    /// 403 when the caller has no longer what the operation needs.
    fn check(&self, parts: &Parts, caller: &Caller) -> Result<(), HttpError> {
        let Some(path) = parts.extensions.get::<MatchedPath>().map(MatchedPath::as_str) else { return Ok(()) };
        let path = path.find("/api/v").map_or(path, |start| &path[start..]);
        let Some(scopes) = self.0.get(path) else { return Ok(()) };
        let named = |scope: &String| Permission::ALL.iter().find(|(_, name)| name == scope).map(|(one, _)| *one);
        match scopes.as_slice() {
            [] => Ok(()),
            [scope] if scope.starts_with("role:") => match caller.user.is_admin() {
                true => Ok(()),
                false => Err(HttpError::NotYours("This requires the role 'admin'.".to_owned())),
            },
            // From here on only the cohorts are there in which it is permitted, so that the answer is not repeated when
            // these are others.
            [scope] => named(scope).map_or(Ok(()), |permission| caller.check(permission)),
            many => match many.iter().filter_map(named).any(|permission| caller.user.may(permission)) {
                true => Ok(()),
                false => Err(HttpError::NotYours(format!("This requires one of the permissions {}.", many.join(", ")))),
            },
        }
    }
}

/// See the module.
pub(super) async fn once(State((app, rights)): State<(App, Rights)>, request: Request, next: Next) -> Response {
    let Some(key) = request.headers().get(KEY).filter(|_| request.method() == Method::POST).cloned() else {
        return next.run(request).await;
    };
    // The answer has a secret in it, which is shown once and kept nowhere.
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
    // An answer that the caller may not get any more is not repeated; and it is only read then.
    if let Err(error) = rights.check(&parts, &caller) {
        return error.into_response();
    }
    let bytes = match read_body(&parts, body).await {
        Ok(bytes) => bytes,
        Err(error) => return error.into_response(),
    };
    let path = parts.uri.to_string();
    let noted = Noted {
        app: app.clone(),
        user_id: caller.user.id,
        // A token sees what the same token was answered, and nothing of its owner's other ways in.
        key_hash: digest(&app, &[format!("{:?}", credential(caller.by)).as_bytes(), key.as_bytes()]),
        // What was answered when other cohorts were there for the caller is not answered again.
        fingerprint: digest(&app, &[path.as_bytes(), &bytes, visible::key().as_bytes()]),
    };
    let id = match noted.begin().await {
        Ok(Begun::New(id)) => id,
        Ok(Begun::Known(row)) => return noted.replay(row),
        Err(error) => return HttpError::from(error).into_response(),
    };
    // In a task of its own: a caller who goes away does not stop the work between its end and its answer.
    let work = async move {
        let response = next.run(Request::from_parts(parts, Body::from(bytes))).await;
        noted.finish(id, response).await
    };
    // In the name of the same one.
    let work = tokio::spawn(acting(Who::now(), work));
    work.await.unwrap_or_else(|error| HttpError::Internal(error.to_string()).into_response())
}

/// The token that was shown, or none for its owner in person.
fn credential(by: By) -> Option<i32> {
    match by {
        By::Token(id) => Some(id),
        By::Password | By::Session => None,
    }
}

struct Noted {
    app: App,
    user_id: i32,
    key_hash: String,
    fingerprint: String,
}

enum Begun {
    /// The id of the note.
    New(i32),
    Known(Model),
}

impl Noted {
    fn now(&self) -> NaiveDateTime {
        self.app.engine.clock().now()
    }

    /// Notes the key, unless it is known.
    async fn begin(&self) -> Result<Begun, DbErr> {
        let transaction = self.app.engine.database().begin().await?;
        let now = self.now();
        let found = Entity::find()
            .filter(Column::UserId.eq(self.user_id))
            .filter(Column::KeyHash.eq(&self.key_hash))
            .one(&*transaction)
            .await?;
        if let Some(row) = found {
            let seconds = i64::try_from(self.app.settings.web.request_timeout).unwrap_or(i64::MAX / 2000);
            let patience = ABANDONED.max(TimeDelta::seconds(seconds.min(86_400) * 2));
            let is_abandoned = row.status.is_none() && row.created < now - patience;
            if !is_abandoned && row.created > now - idempotency_key::KEPT {
                return Ok(Begun::Known(row));
            }
            Entity::delete_by_id(row.id).exec(&*transaction).await?;
        }
        let row = ActiveModel {
            id: NotSet,
            user_id: Set(self.user_id),
            key_hash: Set(self.key_hash.clone()),
            fingerprint: Set(self.fingerprint.clone()),
            created: Set(now),
            status: Set(None),
            body: Set(None),
        };
        let id = match row.insert(&*transaction).await {
            Ok(row) => row.id,
            // The other one of two that came at the same moment.
            Err(error) if database::is_duplicate(&error) => {
                let fingerprint = self.fingerprint.clone();
                let key_hash = self.key_hash.clone();
                let user_id = self.user_id;
                return Ok(Begun::Known(Model {
                    id: 0,
                    user_id,
                    key_hash,
                    fingerprint,
                    created: now,
                    status: None,
                    body: None,
                }));
            }
            Err(error) => return Err(error),
        };
        transaction.commit().await?;
        Ok(Begun::New(id))
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

    /// Keeps the answer. What failed inside, or was refused for who asked, may be asked again.
    async fn finish(&self, id: i32, response: Response) -> Response {
        let status = response.status();
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, usize::MAX).await.unwrap_or_default();
        let passing = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::TOO_MANY_REQUESTS];
        // What is not there for who sees certain cohorts only may be there when the role is for more.
        let is_hidden = status == StatusCode::NOT_FOUND && !visible::sees_all();
        let kept = !status.is_server_error() && !passing.contains(&status) && !is_hidden;
        if let Err(error) = self.keep(id, kept.then_some((status, &bytes))).await {
            // The work is done; only a repetition would not be recognised.
            error!(%error, "storing a response for its Idempotency-Key failed");
        }
        Response::from_parts(parts, Body::from(bytes))
    }

    async fn keep(&self, id: i32, answer: Option<(StatusCode, &Bytes)>) -> Result<(), DbErr> {
        let transaction = self.app.engine.database().begin().await?;
        match answer {
            Some((status, bytes)) => {
                Entity::update_many()
                    .col_expr(Column::Status, Expr::value(i32::from(status.as_u16())))
                    .col_expr(Column::Body, Expr::value(String::from_utf8_lossy(bytes).into_owned()))
                    .filter(Column::Id.eq(id))
                    .exec(&*transaction)
                    .await?;
            }
            None => {
                Entity::delete_by_id(id).exec(&*transaction).await?;
            }
        }
        transaction.commit().await
    }
}
