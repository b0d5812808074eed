//! Files of the data folder: uploaded as a stream, listed, downloaded.

use std::time::Duration;

use axum::extract::multipart::{Field, Multipart, MultipartError};
use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE, HeaderValue};
use axum::response::{IntoResponse, Redirect, Response};
use chrono::NaiveDateTime;
use serde::{Deserialize, Serialize};
use tower::ServiceExt;
use tower_http::services::ServeFile;

use crate::app::App;
use crate::audit::{self, Event};
use crate::context::Context;
use crate::http::{HttpError, LoggedIn, Wants};
use crate::study::files::{Arriving, DataFolder, Entry, FileError, size};

use super::page::{page_or_block, with_status};

/// An upload ends if the client sends nothing for this long.
const SILENCE: Duration = Duration::from_mins(1);

fn folder(app: &App) -> DataFolder {
    DataFolder::new(&app.settings.project.data, app.settings.security.largest_upload)
}

impl From<FileError> for HttpError {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Name(_) => Self::BadRequest(error.to_string()),
            FileError::Exists(_) => Self::Conflict(error.to_string()),
            FileError::Missing(path) => Self::NotFound(format!("file '{path}'")),
            FileError::TooLarge(_) => Self::TooLarge(error.to_string()),
            FileError::Disk(_) => Self::Internal(error.to_string()),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct FolderQuery {
    folder: String,
    /// The value in a rejected form.
    #[serde(skip)]
    replaces: bool,
    /// The file that was just uploaded.
    told: String,
}

#[derive(Serialize)]
struct Row {
    name: String,
    path: String,
    is_folder: bool,
    size: String,
    changed: Option<NaiveDateTime>,
}

#[derive(Serialize)]
struct Crumb {
    name: String,
    path: String,
}

#[derive(Serialize)]
struct UploadPage {
    folder: String,
    crumbs: Vec<Crumb>,
    rows: Vec<Row>,
    largest: String,
    largest_bytes: u64,
    /// The value in a rejected form.
    replaces: bool,
    told: String,
    problem: String,
}

async fn show(
    app: &App,
    user: &LoggedIn,
    query: FolderQuery,
    problem: &str,
    status: StatusCode,
    block: Option<&str>,
) -> Result<Response, HttpError> {
    let path = query.folder.trim_matches('/').to_owned();
    let row = |entry: Entry| Row {
        path: if path.is_empty() { entry.name.clone() } else { format!("{path}/{}", entry.name) },
        size: if entry.is_folder { String::new() } else { size(entry.bytes) },
        name: entry.name,
        is_folder: entry.is_folder,
        changed: entry.changed,
    };
    let rows = folder(app).list(&path).await?.into_iter().map(row).collect();
    let mut crumbs: Vec<Crumb> = Vec::new();
    for name in path.split('/').filter(|name| !name.is_empty()) {
        let above = crumbs.last().map(|crumb| format!("{}/", crumb.path)).unwrap_or_default();
        crumbs.push(Crumb { name: name.to_owned(), path: format!("{above}{name}") });
    }
    let content = UploadPage {
        rows,
        crumbs,
        folder: path,
        largest: size(app.settings.security.largest_upload),
        largest_bytes: app.settings.security.largest_upload,
        replaces: query.replaces,
        told: query.told,
        problem: problem.to_owned(),
    };
    // htmx inserts the response to a script only for certain statuses.
    let status = if block.is_some() && status.is_client_error() { StatusCode::UNPROCESSABLE_ENTITY } else { status };
    let response = page_or_block(app, "upload/page.html", "upload_data", &user.0, content, block)?;
    Ok(with_status(response, status))
}

pub(super) async fn show_files(
    State(app): State<App>,
    user: LoggedIn,
    Query(query): Query<FolderQuery>,
) -> Result<Response, HttpError> {
    show(&app, &user, query, "", StatusCode::OK, None).await
}

#[derive(Deserialize)]
pub(super) struct FileQuery {
    path: String,
}

/// The unchanged file: always as a download, never shown or run in the browser.
pub(super) async fn download(
    State(app): State<App>,
    Query(query): Query<FileQuery>,
    request: Request,
) -> Result<Response, HttpError> {
    let path = folder(&app).file(&query.path).await?;
    let Ok(answer) = ServeFile::new(path).oneshot(request).await;
    let mut response = answer.into_response();
    let name = query.path.rsplit('/').next().unwrap_or_default();
    let encoded: String = url::form_urlencoded::byte_serialize(name.as_bytes()).collect();
    let disposition = format!("attachment; filename*=UTF-8''{}", encoded.replace('+', "%20"));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        CONTENT_DISPOSITION,
        HeaderValue::from_str(&disposition).unwrap_or(HeaderValue::from_static("attachment")),
    );
    Ok(response)
}

/// Uploads one file. The replace checkbox precedes the file in the form, so that its value is known when the bytes
/// arrive.
pub(super) async fn upload(
    State(app): State<App>,
    user: LoggedIn,
    wants: Wants,
    form: Multipart,
) -> Result<Response, HttpError> {
    let ctx = user.ctx();
    let mut into = FolderQuery::default();
    match take(ctx, &app, form, &mut into).await {
        Ok(name) => {
            let mut address = url::form_urlencoded::Serializer::new(String::new());
            address.append_pair("told", &name);
            if !into.folder.is_empty() {
                address.append_pair("folder", &into.folder);
            }
            let to = format!("{}/upload_data?{}", app.settings.web.prefix, address.finish());
            if wants.fragment {
                // The script that sent the file would follow a redirect.
                return Ok((StatusCode::OK, [("hx-redirect", to)]).into_response());
            }
            Ok(Redirect::to(&to).into_response())
        }
        Err(error) if error.status().is_client_error() => {
            let status = error.status();
            let block = wants.fragment.then_some("problem");
            show(&app, &user, into, &error.to_string(), status, block).await
        }
        Err(error) => Err(error),
    }
}

/// `into` receives the fields that precede the file: the folder, and whether an existing file is replaced.
async fn take(ctx: &Context, app: &App, mut form: Multipart, into: &mut FolderQuery) -> Result<String, HttpError> {
    let mut brought = None;
    while let Some(field) = quickly(form.next_field()).await? {
        if brought.is_some() && matches!(field.name(), Some("replace" | "folder" | "file" | "file_field")) {
            let wanted = "Upload one file at a time. Nothing was saved.";
            return Err(HttpError::BadRequest(wanted.to_owned()));
        }
        match field.name() {
            Some("replace") => into.replaces = !short(field, 16).await?.is_empty(),
            Some("folder") => {
                let path = short(field, 4096).await?;
                // If the folder does not exist, the page after the error shows the top folder.
                folder(app).list(&path).await?;
                into.folder = path;
            }
            // The second is the name in version 8.1, which scripts send.
            Some("file" | "file_field") => {
                let given = field.file_name().unwrap_or_default().to_owned();
                if given.is_empty() {
                    return Err(HttpError::BadRequest("Choose a file.".to_owned()));
                }
                let arriving = folder(app).begin(&into.folder, &given, into.replaces).await?;
                brought = Some(arrive(arriving, field).await?);
            }
            _ => {}
        }
    }
    match brought {
        Some(arriving) => keep(ctx, app, arriving, &into.folder).await,
        None => Err(HttpError::BadRequest("Choose a file.".to_owned())),
    }
}

/// The value of a field that is not a file; longer values are discarded.
async fn short(mut field: Field<'_>, most: usize) -> Result<String, HttpError> {
    let name = field.name().unwrap_or_default().to_owned();
    let mut bytes = Vec::new();
    while let Some(more) = quickly(field.chunk()).await? {
        bytes.extend_from_slice(&more);
        if bytes.len() > most {
            return Err(HttpError::BadRequest(format!("{name} is longer than {most} bytes.")));
        }
    }
    String::from_utf8(bytes).map_err(|_| HttpError::BadRequest(format!("{name} is not valid UTF-8 text.")))
}

async fn arrive(mut arriving: Arriving, mut field: Field<'_>) -> Result<Arriving, HttpError> {
    while let Some(bytes) = quickly(field.chunk()).await? {
        arriving.write(&bytes).await?;
    }
    Ok(arriving)
}

async fn keep(ctx: &Context, app: &App, mut arriving: Arriving, folder: &str) -> Result<String, HttpError> {
    let name = arriving.name.clone();
    let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
    let (bytes, is_replaced) = arriving.settle().await?;
    // In a separate task: if the client disconnects between the two steps, no file is left without an event.
    let (ctx, app) = (ctx.clone(), app.clone());
    let event = Event::of(if is_replaced { "replace" } else { "upload" }, "file", &name);
    let event = event.after(serde_json::json!({ "path": path, "bytes": bytes }));
    let keeping = async move {
        arriving.finish().await?;
        let transaction = app.engine.database().begin().await?;
        audit::record(&ctx, &*transaction, event).await?;
        Ok::<(), HttpError>(transaction.commit().await?)
    };
    let kept = tokio::spawn(keeping).await;
    kept.map_err(|error| HttpError::Internal(error.to_string()))??;
    Ok(name)
}

async fn quickly<T>(work: impl Future<Output = Result<T, MultipartError>>) -> Result<T, HttpError> {
    match tokio::time::timeout(SILENCE, work).await {
        Ok(outcome) => outcome.map_err(broken),
        Err(_) => Err(HttpError::BadRequest("The upload stalled and was discarded.".to_owned())),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn broken(error: MultipartError) -> HttpError {
    match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => HttpError::TooLarge("The file is too large.".to_owned()),
        _ => HttpError::BadRequest(format!("The upload was incomplete: {error}")),
    }
}
