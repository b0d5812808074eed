//! HTTP infrastructure shared by the pages and the API: errors, login, assets, health, and the layers around all
//! requests.

mod address;
mod assets;
mod body;
mod connection;
mod error;
mod graph;
mod health;
mod kept_sessions;
mod limit;
mod login;
mod metrics;
mod origin;
mod queues;
mod refused;
mod server;
mod session;
mod waiting;
mod worker;

pub use address::{Address, SeenAs};
pub use body::{MOST_BYTES, Meter, SMALL_BYTES, hold_values, read as read_body};
pub use connection::{Serving, serve};
pub use error::{ErrorBody, HttpError, WHOLE_STUDY, json_error, render_errors};
pub use graph::{Drawn, draw_workflow};
pub use login::{
    AuthSession, Backend, Credentials, LoggedIn, Needs, Origins, Wants, begin_session, keep_remembered, needs,
    session_key, stands_on, to_login,
};
pub use metrics::{install as install_metrics, serve as serve_metrics};
pub use server::{Layers, bind, shutdown_signal};
pub use waiting::wait_for_tables;
pub use worker::{bind_beside, serve_worker};
