//! Connections: accepted → waiting for a request → reading its body → working → idle → closed.
//!
//! A connection costs memory and a file before anything is known about its client, so each phase without a known user has a
//! time limit, each address and the server as a whole have a number of connections, and where there are too many the oldest
//! one that nobody works for is closed. The accept loop never waits for a free place: a health check always gets an answer.

mod accept;
mod phase;
mod proxied;
mod stream;
mod table;

pub use accept::{Serving, serve};
pub(super) use phase::Connection;
