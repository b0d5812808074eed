//! The list of experiments.

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use sea_orm::{EntityTrait, QueryOrder};
use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::context::Context;
use crate::database::Snapshot;
use crate::entity::{state, workflow};
use crate::http::{HttpError, LoggedIn, Wants};
use crate::study::filter::{Filter, Mistake, ResolveError, Sort};
use crate::study::listing::{ExperimentOrder, ExperimentQuery};
use crate::study::search::{self, ExperimentRows};

use super::page::{Choice, PAGE_SIZE, Turn, cohort_choices, maybe, newest_first, page_or_block, with_status};

#[derive(Deserialize)]
pub(super) struct ListQuery {
    /// A filter in the filter language.
    #[serde(default)]
    q: String,
    #[serde(default, deserialize_with = "maybe")]
    cohort: Option<i32>,
    #[serde(default, deserialize_with = "maybe")]
    workflow: Option<i32>,
    #[serde(default, deserialize_with = "maybe")]
    state: Option<i32>,
    /// If not empty, only experiments that are on hold, as `is:held`.
    #[serde(default)]
    held: String,
    #[serde(default)]
    after: String,
    #[serde(default)]
    before: String,
}

#[derive(Serialize)]
struct WorkflowChoice {
    id: i32,
    label: String,
    states: Vec<Choice>,
}

/// The link in a column header.
#[derive(Serialize)]
struct SortLink {
    /// The filter that sorts by this column.
    q: String,
    /// How the list is currently sorted by this column: a value of `aria-sort`.
    sorted: &'static str,
}

#[derive(Serialize)]
struct SortLinks {
    label: SortLink,
    since: SortLink,
    scandate: SortLink,
}

#[derive(Serialize)]
struct ExperimentList {
    q: String,
    /// Errors in the filter.
    mistakes: Vec<String>,
    cohort: Option<i32>,
    workflow: Option<i32>,
    state: Option<i32>,
    held: bool,
    cohorts: Vec<Choice>,
    workflows: Vec<WorkflowChoice>,
    experiments: ExperimentRows,
    sorts: SortLinks,
    path: &'static str,
}

pub(super) async fn list_experiments(
    State(app): State<App>,
    user: LoggedIn,
    wants: Wants,
    Query(asked): Query<ListQuery>,
) -> Result<Response, HttpError> {
    let ctx = user.ctx();
    let held = !asked.held.is_empty();
    let mut query = ExperimentQuery {
        cohort: asked.cohort,
        workflow: asked.workflow,
        states: asked.state.map(|id| vec![id]),
        held,
        ..newest_first()
    };
    let snapshot = app.snapshot().await?;
    let mut filter = Filter::default();
    let mut mistakes = Vec::new();
    match read_filter(ctx, &asked.q, &snapshot, &app, &mut query).await {
        Ok(read) => filter = read,
        Err(ResolveError::Mistakes(found)) => mistakes = found,
        Err(ResolveError::Database(error)) => return Err(error.into()),
    }
    let experiments = if mistakes.is_empty() {
        Turn { after: asked.after, before: asked.before }.apply(&mut query)?;
        search::experiments(ctx, &snapshot, &app.totals, &query, PAGE_SIZE).await?
    } else {
        ExperimentRows { rows: Vec::new(), count: 0, previous: None, next: None }
    };
    let status = if mistakes.is_empty() { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
    let content = ExperimentList {
        mistakes: mistakes.iter().map(Mistake::to_string).collect(),
        cohorts: cohort_choices(ctx, &snapshot).await?,
        workflows: workflow_choices(&snapshot).await?,
        sorts: SortLinks::of(&filter),
        q: asked.q,
        cohort: asked.cohort,
        workflow: asked.workflow,
        state: asked.state,
        held,
        experiments,
        path: "/experiments",
    };
    drop(snapshot);
    let block = wants.fragment.then_some("results");
    Ok(with_status(page_or_block(&app, "experiment/list.html", "experiments", &user.0, content, block)?, status))
}

/// Parses the filter and applies it to the query.
async fn read_filter(
    ctx: &Context,
    text: &str,
    snapshot: &Snapshot,
    app: &App,
    query: &mut ExperimentQuery,
) -> Result<Filter, ResolveError> {
    let filter = Filter::parse(text).map_err(ResolveError::Mistakes)?;
    if let Some(sort) = filter.sort() {
        (query.order, query.descending) = (sort.order, sort.descending);
    }
    query.filter = Some(filter.clone().resolve(ctx, snapshot, app.engine.clock().now()).await?);
    Ok(filter)
}

impl SortLinks {
    fn of(filter: &Filter) -> Self {
        // The direction on the first click on a column: the most sought-after rows come first.
        let link = |order, descending| SortLink::of(filter, Sort { order, descending });
        Self {
            label: link(ExperimentOrder::Label, false),
            since: link(ExperimentOrder::StateSince, false),
            scandate: link(ExperimentOrder::Scandate, true),
        }
    }
}

impl SortLink {
    fn of(filter: &Filter, first: Sort) -> Self {
        let now = filter.sort().filter(|sort| sort.order == first.order);
        let sorted = match now {
            None => "none",
            Some(Sort { descending: false, .. }) => "ascending",
            Some(Sort { descending: true, .. }) => "descending",
        };
        let next = match now {
            Some(now) => Sort { descending: !now.descending, ..now },
            None => first,
        };
        Self { q: filter.sorted_by(next).to_string(), sorted }
    }
}

async fn workflow_choices(snapshot: &Snapshot) -> Result<Vec<WorkflowChoice>, HttpError> {
    let workflows = workflow::Entity::find().order_by_desc(workflow::Column::Id).all(snapshot).await?;
    let states = state::Entity::find().order_by_asc(state::Column::Position).all(snapshot).await?;
    let choice = |workflow: workflow::Model| WorkflowChoice {
        states: states
            .iter()
            .filter(|state| state.workflow_id == workflow.id)
            .map(|state| Choice { id: state.id, label: state.label.clone() })
            .collect(),
        id: workflow.id,
        label: workflow.label,
    };
    Ok(workflows.into_iter().map(choice).collect())
}
