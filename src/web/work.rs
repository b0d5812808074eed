//! Current work: callback executions, workers, dead letters; and actions of administrators on many executions.

use axum::extract::{Query, RawForm, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::{NaiveDateTime, TimeDelta};
use serde::{Deserialize, Serialize};

use crate::account::User;
use crate::app::App;
use crate::callback::FUNCTIONS;
use crate::config::CallbackMethod;
use crate::context::Context;
use crate::entity::dead_letter;
use crate::http::{HttpError, LoggedIn, Wants};
use crate::study::board::{self, ExecutionFilter, ExecutionRow, Load, Stage, WorkerRow};
use crate::study::search::Page;

use super::execution::intervention;
use super::page::{Paging, maybe, page_or_block};

#[derive(Clone, Default, Deserialize)]
pub(super) struct WorkQuery {
    #[serde(default)]
    stage: String,
    #[serde(default)]
    function: String,
    #[serde(default)]
    age: String,
    #[serde(default)]
    worker: String,
    #[serde(default, deserialize_with = "maybe")]
    below: Option<i32>,
    #[serde(default, deserialize_with = "maybe")]
    above: Option<i32>,
}

/// Ages to choose from: the word in the URL, the text, and hours.
const AGES: [(&str, &str, i64); 4] =
    [("hour", "an hour", 1), ("day", "a day", 24), ("week", "a week", 7 * 24), ("month", "a month", 30 * 24)];

#[derive(Serialize)]
struct WorkList {
    stage: String,
    function: String,
    age: String,
    worker: String,
    stages: Vec<&'static str>,
    functions: [&'static str; 11],
    ages: Vec<(&'static str, &'static str)>,
    load: Load,
    executions: Page<ExecutionRow>,
    /// The result of the action on the selected executions.
    done: Option<Done>,
    reason: String,
    chosen: Vec<i32>,
    problem: Option<String>,
}

#[derive(Serialize)]
struct Done {
    what: String,
    count: usize,
    refused: Vec<(i32, String)>,
}

pub(super) async fn list_executions(
    State(app): State<App>,
    user: LoggedIn,
    wants: Wants,
    Query(query): Query<WorkQuery>,
) -> Result<Response, HttpError> {
    let ctx = user.ctx();
    let said = Said::default();
    work_page(ctx, &app, &user.0, query, said, wants.fragment).await
}

/// The values of a submitted form, and its result.
#[derive(Default)]
struct Said {
    reason: String,
    chosen: Vec<i32>,
    problem: Option<String>,
    done: Option<Done>,
}

async fn work_page(
    ctx: &Context,
    app: &App,
    user: &User,
    query: WorkQuery,
    said: Said,
    fragment: bool,
) -> Result<Response, HttpError> {
    let now = app.engine.clock().now();
    let hours = AGES.iter().find(|(word, ..)| *word == query.age).map(|(_, _, hours)| *hours);
    let given = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
    let stage = if query.stage.is_empty() { "open".to_owned() } else { query.stage };
    let filter = ExecutionFilter {
        stage: Stage::parse(&stage),
        function: given(&query.function),
        before: hours.map(|hours| now - TimeDelta::hours(hours)),
        worker: given(&query.worker),
    };
    let place = Paging { below: query.below, above: query.above }.place();
    let snapshot = app.snapshot().await?;
    let executions = board::executions(ctx, &snapshot, &filter, place).await?;
    let load = board::load(ctx, &snapshot, now).await?;
    drop(snapshot);
    let content = WorkList {
        executions,
        load,
        stage,
        function: query.function,
        age: query.age,
        worker: query.worker,
        stages: Stage::ALL.iter().map(|(_, word)| *word).collect(),
        functions: FUNCTIONS,
        ages: AGES.iter().map(|(word, text, _)| (*word, *text)).collect(),
        done: said.done,
        reason: said.reason,
        chosen: said.chosen,
        problem: said.problem,
    };
    page_or_block(app, "work/executions.html", "callback_executions", user, content, fragment.then_some("results"))
}

/// A form with any number of selected executions.
#[derive(Default)]
struct ManyForm {
    ids: Vec<i32>,
    what: String,
    reason: String,
    query: WorkQuery,
}

fn read_many(bytes: &[u8]) -> ManyForm {
    let mut form = ManyForm::default();
    for (name, value) in url::form_urlencoded::parse(bytes) {
        let value = value.into_owned();
        match name.as_ref() {
            "id" => form.ids.extend(value.parse::<i32>().ok()),
            "what" => form.what = value,
            "reason" => form.reason = value.trim().to_owned(),
            "stage" => form.query.stage = value,
            "function" => form.query.function = value,
            "age" => form.query.age = value,
            "worker" => form.query.worker = value,
            _ => {}
        }
    }
    form.ids.sort_unstable();
    form.ids.dedup();
    form
}

/// Retries, skips or marks the selected executions, each separately: one failure does not affect the others.
pub(super) async fn intervene_many(
    State(app): State<App>,
    user: LoggedIn,
    RawForm(bytes): RawForm,
) -> Result<Response, HttpError> {
    let ctx = user.ctx();
    let form = read_many(&bytes);
    let what = intervention(&form.what)?;
    let problem = match (form.ids.is_empty(), form.reason.is_empty()) {
        (true, _) => Some("Select at least one callback."),
        (_, true) => Some("Please give a reason; it is recorded in each log."),
        _ => None,
    };
    if let Some(problem) = problem {
        let said = Said { reason: form.reason, chosen: form.ids, problem: Some(problem.to_owned()), done: None };
        let page = work_page(ctx, &app, &user.0, form.query, said, false).await?;
        return Ok((StatusCode::UNPROCESSABLE_ENTITY, page).into_response());
    }
    let mut done = Done { what: what.to_string(), count: 0, refused: Vec::new() };
    for id in form.ids {
        match app.engine.intervene(ctx, id, what, &form.reason).await.map_err(HttpError::from) {
            Ok(_) => done.count += 1,
            Err(error) if error.status().is_server_error() => {
                tracing::error!(execution = id, %error, "intervention failed for one of the selected executions");
                let message = error.message();
                let unknown = "internal server error; try again".to_owned();
                done.refused.push((id, if message.is_empty() { unknown } else { message }));
            }
            Err(error) => done.refused.push((id, error.to_string())),
        }
    }
    work_page(ctx, &app, &user.0, form.query, Said { done: Some(done), ..Said::default() }, false).await
}

#[derive(Serialize)]
struct WorkerList {
    workers: Vec<WorkerRow>,
    load: Load,
    /// Why the broker cannot be used, if it cannot.
    broker_problem: Option<String>,
    uses_broker: bool,
}

pub(super) async fn list_workers(State(app): State<App>, user: LoggedIn, wants: Wants) -> Result<Response, HttpError> {
    let ctx = user.ctx();
    let now: NaiveDateTime = app.engine.clock().now();
    let uses_broker = app.settings.callback.method == CallbackMethod::RabbitMq;
    let snapshot = app.snapshot().await?;
    let workers = board::workers(ctx, &snapshot, now - TimeDelta::days(1), now).await?;
    let load = board::load(ctx, &snapshot, now).await?;
    drop(snapshot);
    let content = WorkerList {
        workers,
        load,
        broker_problem: if uses_broker { app.broker.problem() } else { None },
        uses_broker,
    };
    page_or_block(&app, "work/workers.html", "callback_executions", &user.0, content, wants.fragment.then_some("live"))
}

#[derive(Serialize)]
struct LetterRow {
    id: i32,
    at: NaiveDateTime,
    queue: String,
    reason: String,
    execution_id: Option<i32>,
    attempt: Option<i32>,
    body: String,
}

#[derive(Serialize)]
struct LetterList {
    letters: Vec<LetterRow>,
    most: u64,
}

/// Maximum number of dead letters on the page.
const MOST_LETTERS: u64 = 200;

pub(super) async fn list_dead_letters(State(app): State<App>, user: LoggedIn) -> Result<Response, HttpError> {
    let letters = board::dead_letters(app.statement(), MOST_LETTERS).await?;
    let row = |letter: dead_letter::Model| LetterRow {
        id: letter.id,
        at: letter.at,
        queue: letter.queue,
        reason: letter.reason,
        execution_id: letter.execution_id,
        attempt: letter.attempt,
        body: letter.body,
    };
    let content = LetterList { letters: letters.into_iter().map(row).collect(), most: MOST_LETTERS };
    page_or_block(&app, "work/dead_letters.html", "callback_executions", &user.0, content, None)
}
