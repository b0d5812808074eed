//! What the edges share: errors, login, assets, health, and the layers around all requests.

mod assets;
mod error;
mod health;
mod login;
mod server;
mod session;

pub use error::{HttpError, render_errors};
pub use login::{Accounts, AuthSession, LoggedIn, Needs, Permitted, Wants};
pub use server::{Layers, bind, serve, shutdown_signal};
