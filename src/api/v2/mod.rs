//! Version 2: nested summaries, and all additions to version 8.1.

mod cohort;
mod experiment;
mod external;
mod history;
mod many;
mod people;
mod service;
mod show;
mod subject;
mod worker;
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
        .routes(routes!(cohort::list_cohorts, cohort::create_cohort))
        .routes(routes!(cohort::get_cohort, cohort::update_cohort))
        .routes(routes!(cohort::get_cohort_by_label))
        .routes(routes!(cohort::get_cohort_urls, cohort::set_cohort_urls))
        .routes(routes!(cohort::set_cohort_url, cohort::delete_cohort_url))
        .routes(routes!(cohort::list_subjects_of_cohort))
        .routes(routes!(cohort::get_subject_of_cohort))
        .routes(routes!(cohort::list_experiments_of_subject))
        .routes(routes!(cohort::get_experiment_of_subject))
        .routes(routes!(subject::list_subjects, subject::create_subject))
        .routes(routes!(subject::get_subject, subject::update_subject, subject::archive_subject))
        .routes(routes!(subject::restore_subject))
        .routes(routes!(subject::get_subject_ids, subject::set_subject_ids))
        .routes(routes!(subject::set_subject_id, subject::delete_subject_id))
        .routes(routes!(experiment::list_experiments, experiment::create_experiment))
        .routes(routes!(many::bulk_transition))
        .routes(routes!(experiment::get_experiment, experiment::archive_experiment))
        .routes(routes!(experiment::restore_experiment))
        .routes(routes!(experiment::release_experiment))
        .routes(routes!(experiment::list_actions_of_experiment))
        .routes(routes!(experiment::get_experiment_state, experiment::set_experiment_state))
        .routes(routes!(experiment::explain_experiment))
        .routes(routes!(experiment::get_experiment_ids, experiment::set_experiment_ids))
        .routes(routes!(experiment::set_experiment_id, experiment::delete_experiment_id))
        .routes(routes!(external::list_scans, external::create_scan))
        .routes(routes!(external::get_scan))
        .routes(routes!(external::list_scantypes))
        .routes(routes!(external::get_scantype))
        .routes(routes!(external::list_external_systems))
        .routes(routes!(external::get_external_system))
        .routes(routes!(external::get_external_system_by_name))
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
        .routes(routes!(workflow::get_workflow_by_label))
        .routes(routes!(workflow::list_states_of_workflow))
        .routes(routes!(workflow::get_state_of_workflow))
        .routes(routes!(workflow::get_workflow_graph))
        .routes(routes!(workflow::draw_workflow_graph))
        .routes(routes!(workflow::list_states))
        .routes(routes!(workflow::get_state))
        .routes(routes!(workflow::list_experiments_in_state))
        .routes(routes!(workflow::list_transitions))
        .routes(routes!(workflow::get_transition))
        .routes(routes!(history::list_actions))
        .routes(routes!(history::get_action, history::update_action))
        .routes(routes!(history::list_callbacks))
        .routes(routes!(history::get_callback, history::update_callback))
        .routes(routes!(history::list_callback_executions))
        .routes(routes!(history::get_callback_execution, history::update_callback_execution))
        .routes(routes!(history::retry_callback_execution))
        .routes(routes!(history::skip_callback_execution))
        .routes(routes!(history::mark_callback_execution))
        .routes(routes!(worker::list_workers))
        .routes(routes!(worker::list_dead_letters))
        .routes(routes!(worker::claim_callback_execution))
        .routes(routes!(worker::keep_callback_execution))
        .routes(routes!(worker::conclude_callback_execution))
        .routes(routes!(worker::release_callback_execution))
}

fn services() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(people::list_users, people::create_user))
        .routes(routes!(people::get_user, people::update_user, people::delete_user))
        .routes(routes!(people::add_user_role, people::remove_user_role))
        .routes(routes!(people::get_role_cohorts, people::set_role_cohorts))
        .routes(routes!(people::list_roles))
        .routes(routes!(people::get_role))
        .routes(routes!(people::list_tokens, people::create_token))
        .routes(routes!(people::revoke_token))
        .routes(routes!(service::check_timeouts))
        .routes(routes!(service::import_config, service::overwrite_config))
        .routes(routes!(service::import_workflow))
        .routes(routes!(many::import_subjects))
}
