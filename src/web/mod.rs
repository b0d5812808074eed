//! Pages and their fragments: one address a thing, each usable without JavaScript.

mod account;
mod audit;
mod cohort;
mod execution;
mod experiment;
mod home;
mod page;
mod state;
mod subject;
mod work;
mod workflow;

use axum::Router;
use axum::routing::{get, post};

use crate::app::App;
use crate::http::HttpError;

/// All pages.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/", get(home::show_home))
        .route("/login", get(account::show_login).post(account::log_in))
        .route("/logout", post(account::log_out))
        .route("/cohorts", get(cohort::list_cohorts))
        .route("/cohorts/{id}", get(cohort::show_cohort))
        .route("/subjects", get(subject::list_subjects))
        .route("/subjects/{id}", get(subject::show_subject))
        .route("/experiments", get(experiment::list_experiments))
        .route("/experiments/{id}", get(experiment::show_experiment))
        .route("/experiments/{id}/transition", post(experiment::transition_experiment))
        .route("/actions/{id}", get(experiment::show_action))
        .route("/workflows", get(workflow::list_workflows))
        .route("/workflows/{id}", get(workflow::show_workflow))
        .route("/workflows/{id}/graph.svg", get(workflow::show_graph))
        .route("/states/{id}", get(state::show_state))
        .route("/callback_executions", get(work::list_executions))
        .route("/callback_executions/intervene", post(work::intervene_many))
        .route("/audit", get(audit::list_events))
        .route("/audit.csv", get(audit::download_events))
        .route("/workers", get(work::list_workers))
        .route("/dead_letters", get(work::list_dead_letters))
        .route("/callback_executions/{id}", get(execution::show_execution))
        .route("/callback_executions/{id}/intervene", post(execution::intervene))
        .fallback(no_such_page)
}

async fn no_such_page() -> HttpError {
    HttpError::NotFound("page at this address".to_owned())
}
