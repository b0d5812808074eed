//! Audit log: a change is made → recorded in the same transaction → sealed into a hash chain a moment later → read by
//! users, and verified.
//!
//! Verbs of other modules call [`record`] with their context, which names the actor, and with their transaction.

mod content;
mod event;
mod key;
mod seal;
mod search;
mod verify;

pub use event::{Event, KINDS, VERBS, record, record_many, recorded};
pub use key::{Key, use_key};
pub use seal::{Head, Sealed, seal, seal_again};
pub use search::{Filter, Found, by_experiment, by_user, of_user, search};
pub use verify::{Verified, Wrong, verify};
