//! States: their callbacks and transitions, and the experiments in them.

use axum::extract::{Path, Query, State};
use axum::response::Response;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder};
use serde::Serialize;

use crate::app::App;
use crate::database::Snapshot;
use crate::entity::{callback, state, transition, workflow};
use crate::http::{HttpError, LoggedIn, Wants};
use crate::study::listing::ExperimentQuery;
use crate::study::search::{self, ExperimentRows};

use super::page::{PAGE_SIZE, Turn, missing, newest_first, page_or_block};

#[derive(Serialize)]
struct Way {
    state_id: i32,
    state: String,
    condition: Option<String>,
}

#[derive(Serialize)]
struct CallbackEntry {
    label: String,
    function: String,
    description: Option<String>,
    condition: Option<String>,
    arguments: Option<String>,
    variable_map: Option<String>,
    run_timeout: Option<i32>,
    wait_timeout: Option<i32>,
    initial_delay: i32,
    retries: i32,
}

#[derive(Serialize)]
struct StatePage {
    id: i32,
    label: String,
    freetext: Option<String>,
    workflow_id: i32,
    workflow: String,
    callbacks: Vec<CallbackEntry>,
    to: Vec<Way>,
    from: Vec<Way>,
    experiments: ExperimentRows,
    path: String,
}

pub(super) async fn show_state(
    State(app): State<App>,
    user: LoggedIn,
    wants: Wants,
    Path(id): Path<i32>,
    Query(turn): Query<Turn>,
) -> Result<Response, HttpError> {
    let ctx = user.ctx();
    let snapshot = app.snapshot().await?;
    let found = state::Entity::find_by_id(id).find_also_related(workflow::Entity).one(&snapshot).await?;
    let Some((state, Some(workflow))) = found else { return Err(missing(ctx, "state", id)) };
    let callbacks = callback::Entity::find()
        .filter(callback::Column::StateId.eq(id))
        .order_by_asc(callback::Column::Position)
        .all(&snapshot)
        .await?;
    let mut query = ExperimentQuery { states: Some(vec![id]), ..newest_first() };
    turn.apply(&mut query)?;
    let content = StatePage {
        id,
        label: state.label,
        freetext: state.freetext,
        workflow_id: workflow.id,
        workflow: workflow.label,
        callbacks: callbacks.into_iter().map(callback_entry).collect(),
        to: ways(&snapshot, transition::Column::SourceStateId, id).await?,
        from: ways(&snapshot, transition::Column::DestinationStateId, id).await?,
        experiments: search::experiments(ctx, &snapshot, &app.totals, &query, PAGE_SIZE).await?,
        path: format!("/states/{id}"),
    };
    drop(snapshot);
    page_or_block(&app, "state/page.html", "workflows", &user.0, content, wants.fragment.then_some("results"))
}

fn callback_entry(row: callback::Model) -> CallbackEntry {
    CallbackEntry {
        label: row.label,
        function: row.function,
        description: row.description,
        condition: row.condition,
        arguments: row.callback_arguments.filter(|text| text.trim() != "{}"),
        variable_map: row.variable_map,
        run_timeout: row.run_timeout,
        wait_timeout: row.wait_timeout.filter(|minutes| *minutes > 0),
        initial_delay: row.initial_delay,
        retries: row.retries,
    }
}

/// The transitions that leave a state, or those that enter it.
async fn ways(snapshot: &Snapshot, end: transition::Column, id: i32) -> Result<Vec<Way>, HttpError> {
    let transitions =
        transition::Entity::find().filter(end.eq(id)).order_by_asc(transition::Column::Position).all(snapshot).await?;
    let other = |row: &transition::Model| match end {
        transition::Column::SourceStateId => row.destination_state_id,
        _ => row.source_state_id,
    };
    let states =
        state::Entity::find().filter(state::Column::Id.is_in(transitions.iter().map(other))).all(snapshot).await?;
    let way = |row: transition::Model| {
        let state = states.iter().find(|state| state.id == other(&row))?;
        Some(Way { state_id: state.id, state: state.label.clone(), condition: row.condition })
    };
    Ok(transitions.into_iter().filter_map(way).collect())
}
