//! Style sheets, scripts and pictures, from the binary.

use axum::extract::Path;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rust_embed::Embed;

use super::HttpError;

#[derive(Embed)]
#[folder = "assets/"]
struct Files;

/// Files under `vendor/` have their version in the name and never change; all others are revalidated by entity tag.
pub(super) async fn get_asset(Path(path): Path<String>, headers: HeaderMap) -> Response {
    let Some(file) = Files::get(&path) else { return HttpError::NotFound("such file".to_owned()).into_response() };
    let digest = URL_SAFE_NO_PAD.encode(&file.metadata.sha256_hash()[..9]);
    let tag = format!("\"{digest}\"");
    let cache = if path.starts_with("vendor/") { "public, max-age=31536000, immutable" } else { "no-cache" };
    if headers.get(IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        return (StatusCode::NOT_MODIFIED, [(ETAG, tag), (CACHE_CONTROL, cache.to_owned())]).into_response();
    }
    let kind = file.metadata.mimetype().to_owned();
    ([(CONTENT_TYPE, kind), (CACHE_CONTROL, cache.to_owned()), (ETAG, tag)], file.data).into_response()
}
