//! Pages and their fragments: each has its own URL and works without JavaScript.

mod account;
mod audit;
mod cohort;
mod configuration;
mod entrance;
mod execution;
mod experiment;
mod experiments;
mod factor;
mod home;
mod mailing;
mod own;
mod page;
mod role;
mod routes;
mod state;
mod subject;
mod upload;
mod user;
mod work;
mod workflow;

use axum::extract::{MatchedPath, State};
use axum::response::Redirect;

use crate::account::Permission::{
    ActionUpdate, RolesManage, SampleStateUpdate, UploadData, UserAdd, UserReadAll, UserUpdateAll,
};
use crate::app::App;
use crate::http::HttpError;

use routes::Need::{Account, Admin, Everywhere, Login, May, Nothing};
pub use routes::{Entry, Need, Pages};

/// All pages, each with its access rule. Pages of disabled features do not exist.
#[must_use]
pub fn pages(app: &App) -> Pages {
    let security = &app.settings.security;
    let mut pages = Pages::new(app)
        .get("/", Login, home::show_home)
        .get("/cohorts", Login, cohort::list_cohorts)
        .get("/cohorts/{id}", Login, cohort::show_cohort)
        .get("/subjects", Login, subject::list_subjects)
        .get("/subjects/{id}", Login, subject::show_subject)
        .get("/experiments", Login, experiments::list_experiments)
        .get("/experiments/{id}", Login, experiment::show_experiment)
        .post("/experiments/{id}/transition", May(SampleStateUpdate), experiment::transition_experiment)
        .post("/experiments/{id}/release", May(SampleStateUpdate), experiment::release_experiment)
        .get("/actions/{id}", Login, experiment::show_action)
        .get("/workflows", Login, workflow::list_workflows)
        .get("/workflows/{id}", Login, workflow::show_workflow)
        .get("/workflows/{id}/graph.svg", Login, workflow::show_graph)
        .get("/states/{id}", Login, state::show_state)
        .get("/callback_executions", May(ActionUpdate), work::list_executions)
        .post("/callback_executions/intervene", May(ActionUpdate), work::intervene_many)
        .get("/callback_executions/{id}", Login, execution::show_execution)
        .post("/callback_executions/{id}/intervene", May(ActionUpdate), execution::intervene)
        .get("/workers", May(ActionUpdate), work::list_workers)
        .get("/dead_letters", Everywhere(ActionUpdate), work::list_dead_letters)
        .get("/audit", May(UserReadAll), audit::list_events)
        .get("/audit.csv", May(UserReadAll), audit::download_events);
    for (path, _) in MOVED {
        pages = pages.get(path, Nothing, moved);
    }
    pages = people(pages);
    pages = entrance(pages, security);
    pages.router = pages.router.fallback(no_such_page);
    pages
}

/// Managing accounts and roles, mails, files.
fn people(pages: Pages) -> Pages {
    pages
        .get("/users", May(UserReadAll), user::list_users)
        .get("/users/new", May(UserAdd), user::show_new)
        .post("/users/new", May(UserAdd), user::create_user)
        .get("/users/{id}", May(UserReadAll), user::show_user)
        .post("/users/{id}", May(UserUpdateAll), user::update_user)
        .post("/users/{id}/role", May(RolesManage), user::switch_role)
        .post("/users/{id}/role/cohorts", May(RolesManage), user::give_for_cohorts)
        .post("/users/{id}/active", May(UserUpdateAll), user::switch_active)
        .post("/users/{id}/decline", May(UserUpdateAll), user::decline_user)
        .post("/users/{id}/confirm", May(UserUpdateAll), user::confirm_user)
        .post("/users/{id}/sessions/end", May(UserUpdateAll), user::end_sessions)
        .post("/users/{id}/second_factor/end", May(UserUpdateAll), user::end_second_factor)
        .post("/users/{id}/invite", May(UserAdd), user::invite_again)
        .get("/roles", May(UserReadAll), role::list_roles)
        .get("/roles/new", May(RolesManage), role::show_new)
        .post("/roles/new", May(RolesManage), role::create_role)
        .get("/roles/{id}", May(UserReadAll), role::show_role)
        .post("/roles/{id}", May(RolesManage), role::update_role)
        .get("/mail", May(UserReadAll), mailing::show_write)
        .post("/mail", May(UserReadAll), mailing::write)
        .post("/mail/again", May(UserReadAll), mailing::try_all_again)
        .get("/mail/{id}", May(UserReadAll), mailing::show_mailing)
        .post("/mail/{id}/again", May(UserReadAll), mailing::try_again)
        .get("/configuration", Admin, configuration::show_configuration)
        .post("/configuration", Admin, configuration::apply_configuration)
        .get("/upload_data", May(UploadData), upload::show_files)
        .upload("/upload_data", May(UploadData), upload::upload)
        .get("/upload_data/file", May(UploadData), upload::download)
}

/// Login, registration, and the user's own account.
fn entrance(pages: Pages, security: &crate::config::SecuritySettings) -> Pages {
    pages
        .get("/login", Nothing, account::show_login)
        .post("/login", Nothing, account::log_in)
        .get("/login/code", Nothing, account::show_code)
        .post("/login/code", Nothing, account::give_code)
        .get("/logout", Nothing, account::show_log_out)
        .post("/logout", Nothing, account::log_out)
        .post("/strength", Nothing, entrance::show_strength)
        .get("/invite/{secret}", Nothing, entrance::show_invite)
        .post("/invite/{secret}", Nothing, entrance::invite)
        .get("/account", Login, own::show_account)
        .post("/account", Login, own::update_account)
        .post("/account/sessions/end", Login, own::end_sessions)
        .post("/account/tokens", Login, own::create_token)
        .post("/account/tokens/revoke", Login, own::revoke_token)
        .get("/account/second_factor", Account, factor::show_factor)
        .post("/account/second_factor", Account, factor::confirm_factor)
        .post("/account/second_factor/end", Login, factor::end_factor)
        .post("/account/second_factor/codes", Login, factor::new_codes)
        .when(security.registerable, |pages| {
            pages.get("/register", Nothing, entrance::show_register).post("/register", Nothing, entrance::register)
        })
        .when(security.confirmable, |pages| {
            pages
                .get("/confirm", Nothing, entrance::show_resend)
                .post("/confirm", Nothing, entrance::resend)
                .get("/confirm/{secret}", Nothing, entrance::show_confirm)
                .post("/confirm/{secret}", Nothing, entrance::confirm)
        })
        .when(security.recoverable, |pages| {
            pages
                .get("/reset", Nothing, entrance::show_forgotten)
                .post("/reset", Nothing, entrance::forgotten)
                .get("/reset/{secret}", Nothing, entrance::show_reset)
                .post("/reset/{secret}", Nothing, entrance::reset)
                .post("/users/{id}/reset", May(UserUpdateAll), user::send_reset)
        })
        .when(security.changeable, |pages| {
            pages.get("/change", Login, own::show_change).post("/change", Login, own::change)
        })
}

/// Pages of version 8.1 that users may have bookmarked, and the pages that replace them.
const MOVED: [(&str, &str); 3] = [("/index", "/"), ("/states", "/workflows"), ("/transitions", "/workflows")];

async fn moved(State(app): State<App>, path: MatchedPath) -> Redirect {
    let to = MOVED.iter().find(|(from, _)| path.as_str().ends_with(from)).map_or("/", |(_, to)| to);
    Redirect::permanent(&format!("{}{to}", app.settings.web.prefix))
}

async fn no_such_page() -> HttpError {
    HttpError::NotFound("page at this address".to_owned())
}
