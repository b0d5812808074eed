//! What the edges share: errors, login, assets, health, and the layers around all requests.

mod assets;
mod error;
mod graph;
mod health;
mod kept_sessions;
mod login;
mod metrics;
mod queues;
mod refused;
mod server;
mod session;
mod waiting;
mod worker;

pub use error::{ErrorBody, HttpError, WHOLE_STUDY, json_error, render_errors};
pub use graph::{Drawn, draw_workflow};
pub use login::{
    Address, AuthSession, Backend, Credentials, LoggedIn, Needs, Origins, Wants, begin_session, keep_remembered, needs,
    session_key, stands_on, to_login,
};
pub use metrics::install as install_metrics;
pub use server::{Layers, MOST_BYTES, bind, serve, shutdown_signal};
pub use waiting::wait_for_tables;
pub use worker::{bind_worker, serve_worker};
