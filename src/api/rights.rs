//! The permissions of the operations, for answers that are repeated without running the operation.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::MatchedPath;
use axum::http::request::Parts;
use serde_json::Value;

use crate::account::Permission;
use crate::context::Context;
use crate::http::HttpError;

use super::access::Caller;

/// The permissions that POST operations need, by path, from the OpenAPI description.
#[derive(Debug, Clone)]
pub(super) struct Rights(Arc<HashMap<String, Vec<String>>>);

impl Rights {
    /// The permissions of version `number` with this description.
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

    /// The context in which the operation is permitted: an answer is not repeated if its cohorts have changed.
    ///
    /// # Errors
    /// 403 if the caller no longer has the required permission.
    pub(super) fn check(&self, parts: &Parts, caller: &Caller) -> Result<Context, HttpError> {
        let unchanged = || Ok(caller.ctx.clone());
        let Some(path) = parts.extensions.get::<MatchedPath>().map(MatchedPath::as_str) else { return unchanged() };
        let path = path.find("/api/v").map_or(path, |start| &path[start..]);
        let Some(scopes) = self.0.get(path) else { return unchanged() };
        let named = |scope: &String| Permission::ALL.iter().find(|(_, name)| name == scope).map(|(one, _)| *one);
        match scopes.as_slice() {
            [] => unchanged(),
            [scope] if scope.starts_with("role:") => match caller.user.is_admin() {
                true => unchanged(),
                false => Err(HttpError::NotYours("This requires the role 'admin'.".to_owned())),
            },
            [scope] => match named(scope) {
                Some(permission) => Ok(caller.clone().with(permission)?.ctx),
                None => unchanged(),
            },
            many => match many.iter().filter_map(named).any(|permission| caller.user.may(permission)) {
                true => unchanged(),
                false => Err(HttpError::NotYours(format!("This requires one of the permissions {}.", many.join(", ")))),
            },
        }
    }
}
