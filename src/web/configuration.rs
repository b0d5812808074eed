//! Configuration (roles, users, external systems, scantypes): shows the plan first, then applies it.

use axum::extract::{Form, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};

use crate::account::AccountError;
use crate::app::App;
use crate::http::{HttpError, LoggedIn};
use crate::import::{Existing, configure, plan_configuration, read_configuration_in_background};

use super::page::{page, with_status};

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct ConfigurationForm {
    text: String,
    overwrite: String,
    what: String,
}

#[derive(Default, Serialize)]
struct ConfigurationPage {
    text: String,
    overwrite: bool,
    problems: Vec<String>,
    /// The changes that it would make, if a preview was requested.
    plan: Option<Vec<String>>,
    /// Number of changes that were made.
    done: Option<usize>,
}

fn show(app: &App, user: &LoggedIn, content: ConfigurationPage) -> Result<Response, HttpError> {
    let status = if content.problems.is_empty() { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
    Ok(with_status(page(app, "configuration/page.html", "configuration", &user.0, content)?, status))
}

pub(super) async fn show_configuration(State(app): State<App>, user: LoggedIn) -> Result<Response, HttpError> {
    show(&app, &user, ConfigurationPage::default())
}

pub(super) async fn apply_configuration(
    State(app): State<App>,
    user: LoggedIn,
    Form(form): Form<ConfigurationForm>,
) -> Result<Response, HttpError> {
    let ctx = user.ctx();
    let overwrite = !form.overwrite.is_empty();
    let existing = Existing::overwritten(overwrite);
    let typed = ConfigurationPage { text: form.text.clone(), overwrite, ..ConfigurationPage::default() };
    let configuration = match read_configuration_in_background(form.text).await {
        Ok(configuration) => configuration,
        Err(problems) => {
            let problems = problems.iter().map(ToString::to_string).collect();
            return show(&app, &user, ConfigurationPage { problems, ..typed });
        }
    };
    let (database, accounts, now) = (app.engine.database(), &app.accounts, app.engine.clock().now());
    let plan = match plan_configuration(ctx, database, accounts, &configuration, existing, now).await {
        Ok(plan) => plan,
        Err(AccountError::Database(error)) => return Err(error.into()),
        Err(error) => return show(&app, &user, ConfigurationPage { problems: vec![error.to_string()], ..typed }),
    };
    if form.what != "apply" {
        let plan = Some(plan.iter().map(ToString::to_string).collect());
        return show(&app, &user, ConfigurationPage { plan, ..typed });
    }
    configure(ctx, database, accounts, &configuration, existing, now).await?;
    show(&app, &user, ConfigurationPage { done: Some(plan.len()), ..ConfigurationPage::default() })
}
