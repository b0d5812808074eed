//! The overview of the study.

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;

use crate::account::{Accounts, Permission};
use crate::app::App;
use crate::clock::Clock;
use crate::database::clock_problems;
use crate::http::{HttpError, LoggedIn, Wants};
use crate::mail::Of;
use crate::study::overview::{self, Totals, WorkflowCounts};
use crate::study::recent::{self, Event, Trouble};

use super::page::page_or_block;

#[derive(Serialize)]
struct Home {
    totals: Totals,
    workflows: Vec<WorkflowCounts>,
    events: Vec<Event>,
    trouble: Vec<Trouble>,
    people: Option<People>,
}

/// Notices for administrators.
#[derive(Serialize)]
struct People {
    waiting: u64,
    /// Why the first failing mail is not sent, among those that the server sends automatically.
    mails: Option<String>,
    /// Accounts with weak passwords: id and user name.
    weak: Vec<(i32, String)>,
    /// The viewer is one of them.
    is_own_weak: bool,
    /// Clocks that differ, in sentences.
    clocks: Vec<String>,
}

async fn people(accounts: &Accounts, clock: &Clock, user: &LoggedIn) -> Result<Option<People>, HttpError> {
    if !user.0.may(Permission::UserReadAll) {
        return Ok(None);
    }
    let weak = accounts.weak_passwords().await?;
    let failed = accounts.failures(Of::StillTried, 1).await?.into_iter().next();
    Ok(Some(People {
        waiting: accounts.waiting().await?,
        clocks: clock.of_study().map(clock_problems).unwrap_or_default(),
        mails: failed.map(|one| one.reason),
        is_own_weak: accounts.has_weak_password(user.0.id).await?,
        weak: weak.into_iter().filter(|row| row.id != user.0.id).map(|row| (row.id, row.username)).collect(),
    }))
}

pub(super) async fn show_home(State(app): State<App>, user: LoggedIn, wants: Wants) -> Result<Response, HttpError> {
    let ctx = user.ctx();
    let snapshot = app.snapshot().await?;
    let home = Home {
        totals: overview::totals(ctx, &snapshot).await?,
        workflows: overview::workflows(ctx, &snapshot, None).await?,
        events: recent::events(ctx, &snapshot, 12).await?,
        trouble: recent::trouble(ctx, &snapshot, 6).await?,
        people: people(&app.at(&snapshot).accounts, app.engine.clock(), &user).await?,
    };
    drop(snapshot);
    page_or_block(&app, "home.html", "home", &user.0, home, wants.fragment.then_some("live"))
}
