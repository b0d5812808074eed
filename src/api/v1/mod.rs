//! Version 1: references are URIs, resources are found by id or label.

mod external;
mod people;
mod sample;
mod show;
mod workflow;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;

/// All operations of this version, with their descriptions.
pub(super) fn routes() -> OpenApiRouter<App> {
    samples().merge(workflows()).merge(services())
}

fn samples() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(sample::list_cohorts, sample::create_cohort))
        .routes(routes!(sample::get_cohort, sample::update_cohort))
        .routes(routes!(sample::list_subjects, sample::create_subject))
        .routes(routes!(sample::get_subject, sample::update_subject))
        .routes(routes!(sample::list_experiments, sample::create_experiment))
        .routes(routes!(sample::get_experiment))
        .routes(routes!(sample::list_actions_of_experiment))
        .routes(routes!(sample::get_experiment_state, sample::set_experiment_state))
        .routes(routes!(external::list_scans, external::create_scan))
        .routes(routes!(external::get_scan))
        .routes(routes!(external::list_scantypes))
        .routes(routes!(external::get_scantype))
        .routes(routes!(external::list_external_systems))
        .routes(routes!(external::get_external_system))
        .routes(routes!(external::list_subject_links, external::create_subject_link, external::set_subject_link))
        .routes(routes!(external::get_subject_link))
        .routes(routes!(
            external::list_experiment_links,
            external::create_experiment_link,
            external::set_experiment_link
        ))
        .routes(routes!(external::get_experiment_link))
}

fn workflows() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(workflow::list_workflows))
        .routes(routes!(workflow::get_workflow))
        .routes(routes!(workflow::list_states_of_workflow))
        .routes(routes!(workflow::get_state_of_workflow))
        .routes(routes!(workflow::list_states))
        .routes(routes!(workflow::get_state))
        .routes(routes!(workflow::list_experiments_in_state))
        .routes(routes!(workflow::list_transitions))
        .routes(routes!(workflow::get_transition))
        .routes(routes!(workflow::list_actions))
        .routes(routes!(workflow::get_action, workflow::update_action))
        .routes(routes!(workflow::list_callbacks))
        .routes(routes!(workflow::get_callback, workflow::update_callback))
        .routes(routes!(workflow::get_callback_execution, workflow::update_callback_execution))
}

fn services() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(people::list_users, people::create_user))
        .routes(routes!(people::get_user, people::update_user, people::delete_user))
        .routes(routes!(people::add_user_role, people::remove_user_role))
        .routes(routes!(people::list_roles))
        .routes(routes!(people::get_role))
        .routes(routes!(people::check_timeouts))
}
