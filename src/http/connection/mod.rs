//! Connections: accepted → waiting for a request → reading its body → working → idle → closed.
//!
//! A connection costs memory and a file before anything is known about its client. Each phase without a known user
//! therefore has a time limit, and the number of connections is limited per address and in total. Above the limit, the
//! oldest connection without a request in progress is closed. The accept loop never waits for a free place, so health
//! checks are always answered.

mod accept;
mod phase;
mod proxied;
mod stream;
mod table;

pub use accept::{Serving, serve};
pub(super) use phase::Connection;
