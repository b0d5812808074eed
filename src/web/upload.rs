//! Files for the data folder: brought as a stream, listed, fetched.

use std::time::Duration;

use axum::extract::multipart::{Field, Multipart, MultipartError};
use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, HeaderValue};
use axum::response::{IntoResponse, Redirect, Response};
use chrono::NaiveDateTime;
use serde::{Deserialize, Serialize};
use tower::ServiceExt;
use tower_http::services::ServeFile;

use crate::app::App;
use crate::audit::{self, Event};
use crate::http::{HttpError, LoggedIn, Wants};
use crate::study::files::{Arriving, DataFolder, Entry, FileError};

use super::page::{page_or_block, with_status};

/// A client that sends nothing for so long has gone.
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
    /// The file that was just brought.
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
    told: String,
    problem: String,
}

/// `12.5 MB`.
fn size(bytes: u64) -> String {
    let mut value = bytes;
    let mut rest = 0;
    let mut units = ["B", "kB", "MB", "GB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    while value >= 1024 {
        let Some(next) = units.next() else { break };
        rest = value % 1024 * 10 / 1024;
        value /= 1024;
        unit = next;
    }
    if unit == "B" || value >= 100 { format!("{value} {unit}") } else { format!("{value}.{rest} {unit}") }
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
        told: query.told,
        problem: problem.to_owned(),
    };
    // What is sent by a script is put in its place only with a status that htmx takes.
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

/// A file as it is: always to be kept, never shown or run in the browser.
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
    headers.insert(
        CONTENT_DISPOSITION,
        HeaderValue::from_str(&disposition).unwrap_or(HeaderValue::from_static("attachment")),
    );
    Ok(response)
}

/// Takes one file. The box for replacing stands before the file in the form, so that it is known when the bytes come.
pub(super) async fn upload(
    State(app): State<App>,
    user: LoggedIn,
    wants: Wants,
    form: Multipart,
) -> Result<Response, HttpError> {
    match take(&app, form).await {
        Ok(name) => {
            let told = url::form_urlencoded::byte_serialize(name.as_bytes()).collect::<String>();
            let to = format!("{}/upload_data?told={told}", app.settings.web.prefix);
            if wants.fragment {
                // A redirect would be followed by the script that sent the file.
                return Ok((StatusCode::OK, [("hx-redirect", to)]).into_response());
            }
            Ok(Redirect::to(&to).into_response())
        }
        Err(error) if error.status().is_client_error() => {
            let status = error.status();
            let block = wants.fragment.then_some("problem");
            show(&app, &user, FolderQuery::default(), &error.to_string(), status, block).await
        }
        Err(error) => Err(error),
    }
}

async fn take(app: &App, mut form: Multipart) -> Result<String, HttpError> {
    let mut replaces = false;
    while let Some(field) = quickly(form.next_field()).await? {
        match field.name() {
            Some("replace") => replaces = is_ticked(field).await?,
            Some("file") => {
                let given = field.file_name().unwrap_or_default().to_owned();
                if given.is_empty() {
                    return Err(HttpError::BadRequest("Please choose a file.".to_owned()));
                }
                let arriving = folder(app).begin(&given, replaces).await?;
                return keep(app, arriving, field, replaces).await;
            }
            _ => {}
        }
    }
    Err(HttpError::BadRequest("Please choose a file.".to_owned()))
}

/// Whether a box is ticked. It says `1`; nothing of what is longer is kept.
async fn is_ticked(mut field: Field<'_>) -> Result<bool, HttpError> {
    let mut bytes = 0;
    while let Some(more) = quickly(field.chunk()).await? {
        bytes += more.len();
        if bytes > 16 {
            return Err(HttpError::BadRequest("replace: is '1', or not there".to_owned()));
        }
    }
    Ok(bytes > 0)
}

async fn keep(app: &App, mut arriving: Arriving, mut field: Field<'_>, replaces: bool) -> Result<String, HttpError> {
    while let Some(bytes) = quickly(field.chunk()).await? {
        arriving.write(&bytes).await?;
    }
    let name = arriving.name.clone();
    let bytes = arriving.finish().await?;
    let transaction = app.engine.database().begin().await?;
    let event = Event::of(if replaces { "replace" } else { "upload" }, "file", &name);
    audit::record(&*transaction, event.after(serde_json::json!({ "bytes": bytes }))).await?;
    transaction.commit().await?;
    Ok(name)
}

async fn quickly<T>(work: impl Future<Output = Result<T, MultipartError>>) -> Result<T, HttpError> {
    match tokio::time::timeout(SILENCE, work).await {
        Ok(outcome) => outcome.map_err(broken),
        Err(_) => Err(HttpError::BadRequest("The file stopped coming; nothing was kept.".to_owned())),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn broken(error: MultipartError) -> HttpError {
    match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => HttpError::TooLarge("The file is too large.".to_owned()),
        _ => HttpError::BadRequest(format!("The file did not come as a whole: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_are_easy_to_read() {
        assert_eq!(size(12), "12 B");
        assert_eq!(size(1536), "1.5 kB");
        assert_eq!(size(500 << 20), "500 MB");
        assert_eq!(size(4 << 30), "4.0 GB");
        assert_eq!(size(5000 << 30), "5000 GB");
    }
}
