//! `X-Fields`: limits an answer to some fields, as in version 8.1: `{id, label, subject{uri}}`; `*` is all fields.

use std::collections::BTreeMap;

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_LENGTH, ETAG, HeaderName};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use crate::http::HttpError;

const FIELDS: HeaderName = HeaderName::from_static("x-fields");

/// The fields to return, and for each of them its fields.
#[derive(Debug, Default, PartialEq, Eq)]
struct Mask {
    all: bool,
    fields: BTreeMap<String, Option<Mask>>,
}

/// Removes the fields that were not requested.
pub(super) async fn mask_fields(request: Request, next: Next) -> Response {
    let Some(asked) = request.headers().get(FIELDS).cloned() else { return next.run(request).await };
    let Some(mask) = asked.to_str().ok().and_then(parse) else {
        return HttpError::BadRequest("X-Fields must be like {id, label, subject{uri}}.".to_owned()).into_response();
    };
    let response = next.run(request).await;
    if response.status() != StatusCode::OK && response.status() != StatusCode::CREATED {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let Ok(bytes) = to_bytes(body, usize::MAX).await else {
        return HttpError::Internal("parsing a response for X-Fields failed".to_owned()).into_response();
    };
    let Ok(mut value) = serde_json::from_slice::<Value>(&bytes) else {
        return Response::from_parts(parts, Body::from(bytes));
    };
    apply(&mask, &mut value);
    // The tag belongs to the whole representation.
    parts.headers.remove(ETAG);
    parts.headers.remove(CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(value.to_string()))
}

fn apply(mask: &Mask, value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| apply(mask, item)),
        Value::Object(fields) => {
            fields.retain(|name, _| mask.all || mask.fields.contains_key(name));
            for (name, inner) in &mask.fields {
                if let (Some(inner), Some(value)) = (inner, fields.get_mut(name)) {
                    apply(inner, value);
                }
            }
        }
        _ => {}
    }
}

fn parse(text: &str) -> Option<Mask> {
    let text = text.trim();
    let inner = match text.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}')?,
        None => text,
    };
    let mut rest = inner;
    let mask = fields(&mut rest, 0)?;
    rest.is_empty().then_some(mask)
}

/// The fields up to the end or an unmatched `}`, which stays in `rest`.
fn fields(rest: &mut &str, depth: usize) -> Option<Mask> {
    // Answers are not nested deeper.
    if depth > 16 {
        return None;
    }
    let mut mask = Mask::default();
    loop {
        *rest = rest.trim_start();
        let end = rest.find([',', '{', '}']).unwrap_or(rest.len());
        let name = rest[..end].trim();
        *rest = &rest[end..];
        let inner = match rest.strip_prefix('{') {
            Some(inside) => {
                *rest = inside;
                let inner = fields(rest, depth + 1)?;
                *rest = rest.strip_prefix('}')?.trim_start();
                Some(inner)
            }
            None => None,
        };
        match name {
            "" => return None,
            "*" => mask.all = true,
            name => drop(mask.fields.insert(name.to_owned(), inner)),
        }
        match rest.strip_prefix(',') {
            Some(more) => *rest = more,
            None => return Some(mask),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn masked(mask: &str, mut value: Value) -> Option<Value> {
        apply(&parse(mask)?, &mut value);
        Some(value)
    }

    #[test]
    fn only_what_was_asked_for_stays() {
        let answer = json!({"id": 1, "label": "a", "subject": {"id": 2, "uri": "/s/2"}, "list": [{"x": 1, "y": 2}]});
        assert_eq!(masked("{id}", answer.clone()), Some(json!({"id": 1})));
        assert_eq!(masked("id, subject{uri}", answer.clone()), Some(json!({"id": 1, "subject": {"uri": "/s/2"}})));
        assert_eq!(masked("{list{y}}", answer.clone()), Some(json!({"list": [{"y": 2}]})));
        assert_eq!(
            masked("*,subject{id}", json!({"a": 1, "subject": {"id": 2, "b": 3}})).unwrap()["subject"],
            json!({"id": 2})
        );
        for broken in ["", "{", "{id", "id}", "{id,}", "a{b", "a{{b}}", &"a{".repeat(100)] {
            assert_eq!(parse(broken), None, "{broken}");
        }
    }
}
