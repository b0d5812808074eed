//! The state of the study at a glance.

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;

use crate::app::App;
use crate::http::{HttpError, LoggedIn, Wants};
use crate::study::overview::{self, Event, Totals, Trouble, WorkflowCounts};

use super::page::page_or_block;

#[derive(Serialize)]
struct Home {
    totals: Totals,
    workflows: Vec<WorkflowCounts>,
    events: Vec<Event>,
    trouble: Vec<Trouble>,
}

pub(super) async fn show_home(State(app): State<App>, user: LoggedIn, wants: Wants) -> Result<Response, HttpError> {
    let connection = app.engine.database().reader();
    let home = Home {
        totals: overview::totals(connection).await?,
        workflows: overview::workflows(connection, None).await?,
        events: overview::recent_events(connection, 12).await?,
        trouble: overview::recent_trouble(connection, 6).await?,
    };
    page_or_block(&app, "home.html", "home", &user.0, home, wants.fragment.then_some("live"))
}
