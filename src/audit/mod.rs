//! Who did what: a change is made → recorded in the same transaction → sealed into a chain of hashes a moment later →
//! read by people, and verified.
//!
//! Verbs of other rooms call [`record`] with their transaction. Who acts is known at the edges only: they wrap a
//! request, a command or a task in [`acting`], and say who it is when they know ([`identified`]).

mod content;
mod event;
mod key;
mod seal;
mod search;
mod verify;
mod who;

pub use event::{Event, KINDS, VERBS, record, record_many, recorded, watching};
pub use key::{Key, use_key};
pub use seal::{Head, Sealed, seal, seal_again};
pub use search::{Filter, Found, by_experiment, by_user, of_user, search};
pub use verify::{Verified, Wrong, verify};
pub use who::{Cohorts, NobodyActs, Who, acting, everywhere, identified, narrowed, widened};
