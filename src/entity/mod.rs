//! `SeaORM` entities: the tables of the database as types, nothing else.
//!
//! Times are UTC without an offset.

pub mod action;
pub mod api_token;
pub mod audit_event;
pub mod audit_seal;
pub mod callback;
pub mod callback_execution;
pub mod cohort;
pub mod dead_letter;
pub mod experiment;
pub mod external_cohort_urls;
pub mod external_experiment_links;
pub mod external_subject_links;
pub mod external_system;
pub mod external_system_history;
pub mod idempotency_key;
pub mod kind;
pub mod mail_link;
pub mod mailing;
pub mod outbox;
pub mod project_revision;
pub mod recovery_code;
pub mod role;
pub mod role_scope;
pub mod roles_users;
pub mod scan;
pub mod scantype;
pub mod session;
pub mod state;
pub mod study_clock;
pub mod subject;
pub mod transition;
pub mod user;
pub mod variable;
pub mod worker;
pub mod workflow;
