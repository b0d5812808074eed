//! The caller of a verb or query: who asks, from where, and which cohorts they may see.
//!
//! A context is created once at the edge (a request, a command, a background task) and passed to every verb and query.
//! It never changes: authentication returns a context with the user in it, and a permission that holds in fewer cohorts
//! returns a narrower one. There is no default: code without a context cannot read what belongs to a cohort, nor record
//! an event.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::entity::audit_event;
use crate::entity::kind::Origin;

/// Ids of cohorts; `None` for all.
pub type Cohorts = Option<Arc<BTreeSet<i32>>>;

/// The person or program that does something, and its origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// The account, if the actor has one.
    pub user_id: Option<i32>,
    /// The name in logs and in the audit log.
    pub name: String,
    pub origin: Origin,
}

impl Actor {
    /// An actor that has no account: a worker, a background task, the command line.
    #[must_use]
    pub fn without_account(name: &str, origin: Origin) -> Self {
        Self { user_id: None, name: name.to_owned(), origin }
    }
}

/// The context; see the module. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Context(Arc<Parts>);

#[derive(Debug, Clone)]
struct Parts {
    /// The actor in the audit log.
    who: Actor,
    /// The actor in the history of experiments, if it is not `who`.
    in_history: Option<Actor>,
    ip: Option<IpAddr>,
    /// The only cohorts that are visible; `None` for the whole study.
    cohorts: Cohorts,
    /// The permission that limits the cohorts to fewer than the user sees.
    narrowed_to: Option<&'static str>,
    watch: Option<Watch>,
}

impl Context {
    fn new(who: Actor, ip: Option<IpAddr>, cohorts: Cohorts) -> Self {
        Self(Arc::new(Parts { who, in_history: None, ip, cohorts, narrowed_to: None, watch: None }))
    }

    /// A request before authentication: nothing of the study is visible.
    #[must_use]
    pub fn request(origin: Origin, ip: Option<IpAddr>) -> Self {
        let who = Actor::without_account("anonymous user", origin);
        Self::new(who, ip, Some(Arc::default()))
    }

    /// A command of `person`, which accesses the database directly: the whole study is visible.
    #[must_use]
    pub fn command_line(person: &str) -> Self {
        Self::new(Actor::without_account(person, Origin::Cli), None, None)
    }

    /// Background work that no user requested: the whole study is visible. `task` is the name in the history of
    /// experiments; the audit log names the program.
    #[must_use]
    pub fn system(task: &'static str) -> Self {
        Self::new(Actor::without_account("the program", Origin::Cli), None, None).in_history_as(task, Origin::Timeout)
    }

    fn with(&self, change: impl FnOnce(&mut Parts)) -> Self {
        let mut parts = Parts::clone(&self.0);
        change(&mut parts);
        Self(Arc::new(parts))
    }

    /// The same request after authentication: this account, which sees these cohorts. If the context already has this
    /// account, it does not see more than before: a narrowed context stays narrow.
    #[must_use = "the context itself does not change"]
    pub fn authenticated(&self, user_id: i32, name: &str, cohorts: Cohorts) -> Self {
        self.with(|parts| {
            match parts.who.user_id == Some(user_id) {
                true => parts.cohorts = both(parts.cohorts.take(), cohorts),
                false => (parts.cohorts, parts.narrowed_to) = (cohorts, None),
            }
            parts.who = Actor { user_id: Some(user_id), name: name.to_owned(), origin: parts.who.origin };
        })
    }

    /// The same request in the name of this account, whose owner has presented a link or a code: the audit log names
    /// the account, and no more of the study becomes visible.
    #[must_use = "the context itself does not change"]
    pub fn in_name_of(&self, user_id: i32, name: &str) -> Self {
        self.with(|parts| parts.who = Actor { user_id: Some(user_id), name: name.to_owned(), origin: parts.who.origin })
    }

    /// The same, limited to those of the cohorts in which this permission holds.
    #[must_use = "the context itself does not change"]
    pub fn narrowed(&self, cohorts: Cohorts, permission: &'static str) -> Self {
        self.with(|parts| {
            let before = parts.cohorts.take();
            parts.cohorts = both(before.clone(), cohorts);
            if parts.cohorts != before {
                parts.narrowed_to = Some(permission);
            }
        })
    }

    /// The same with the whole study visible: for a caller that has presented a secret which grants access to one
    /// object in any cohort, and for what the program does for all users.
    #[must_use = "the context itself does not change"]
    pub fn seeing_everything(&self) -> Self {
        self.with(|parts| parts.cohorts = None)
    }

    /// The same, with another actor in the history of experiments (and in its logs): a worker, an import, a timeout.
    #[must_use = "the context itself does not change"]
    pub fn in_history_as(&self, name: &str, origin: Origin) -> Self {
        self.with(|parts| parts.in_history = Some(Actor::without_account(name, origin)))
    }

    /// The same, and the events that are recorded with it.
    #[must_use = "the context itself does not change"]
    pub fn watched(&self) -> (Self, Watch) {
        let watch = Watch::default();
        (self.with(|parts| parts.watch = Some(watch.clone())), watch)
    }

    /// The actor in the audit log.
    #[must_use]
    pub fn who(&self) -> &Actor {
        &self.0.who
    }

    /// The actor in the history of experiments.
    #[must_use]
    pub fn actor(&self) -> &Actor {
        self.0.in_history.as_ref().unwrap_or(&self.0.who)
    }

    /// The IP address of the client.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.0.ip
    }

    /// The only cohorts that are visible; `None` for the whole study.
    #[must_use]
    pub fn cohorts(&self) -> Option<&BTreeSet<i32>> {
        self.0.cohorts.as_deref()
    }

    /// Whether the whole study is visible.
    #[must_use]
    pub fn sees_all(&self) -> bool {
        self.0.cohorts.is_none()
    }

    /// Identifies the visible part of the study: a number that was counted for one context is valid for all with the
    /// same key.
    #[must_use]
    pub fn scope_key(&self) -> String {
        self.cohorts().map_or_else(String::new, |cohorts| format!("in {cohorts:?} "))
    }

    /// For an answer that an object of this kind was not found: the part of the study that was searched.
    #[must_use]
    pub fn sought(&self, kind: &str) -> Sought {
        match self.0.narrowed_to {
            _ if self.sees_all() || self.0.who.user_id.is_none() || !OF_COHORTS.contains(&kind) => Sought::Everywhere,
            Some(permission) => Sought::WherePermitted(permission),
            None => Sought::InOwnCohorts,
        }
    }

    pub(crate) fn watch(&self) -> Option<&Watch> {
        self.0.watch.as_ref()
    }
}

fn both(one: Cohorts, other: Cohorts) -> Cohorts {
    match (one, other) {
        (Some(one), Some(other)) => Some(Arc::new(one.intersection(&other).copied().collect())),
        (one, other) => one.or(other),
    }
}

/// The kinds of objects that belong to a cohort, in the words of messages.
const OF_COHORTS: [&str; 7] =
    ["action", "callback execution", "cohort", "experiment", "external id or address", "scan", "subject"];

/// The part of the study that was searched, as the end of a sentence. A caller who sees only some cohorts learns that
/// the object may exist in another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sought {
    Everywhere,
    InOwnCohorts,
    /// In the cohorts in which the caller has this permission.
    WherePermitted(&'static str),
}

impl std::fmt::Display for Sought {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Everywhere => Ok(()),
            Self::InOwnCohorts => formatter.write_str(" in the cohorts to which your role is limited"),
            Self::WherePermitted(permission) => {
                write!(formatter, " in the cohorts in which you have the permission '{permission}'")
            }
        }
    }
}

/// Collects the events that are recorded with a context ([`Context::watched`]): the changes that were made or, if they
/// are rolled back, would be made.
#[derive(Debug, Clone, Default)]
pub struct Watch(Arc<Mutex<Vec<audit_event::Model>>>);

impl Watch {
    pub(crate) fn add(&self, event: audit_event::Model) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }

    /// The events so far, in the order in which they were recorded.
    #[must_use]
    pub fn take(&self) -> Vec<audit_event::Model> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: &[i32]) -> Arc<BTreeSet<i32>> {
        Arc::new(ids.iter().copied().collect())
    }

    fn seen(ctx: &Context) -> Option<Vec<i32>> {
        ctx.cohorts().map(|ids| ids.iter().copied().collect())
    }

    #[test]
    fn a_context_does_not_widen_by_authenticating_again() {
        let ctx = Context::request(Origin::Api, None);
        assert_eq!(seen(&ctx), Some(vec![]), "nothing before authentication");
        assert_eq!(ctx.sought("experiment"), Sought::Everywhere);
        let known = ctx.authenticated(1, "a", Some(set(&[1, 2])));
        assert_eq!((seen(&known), known.sought("subject")), (Some(vec![1, 2]), Sought::InOwnCohorts));
        let narrow = known.narrowed(Some(set(&[2, 3])), "sample_add");
        assert_eq!((seen(&narrow), seen(&known)), (Some(vec![2]), Some(vec![1, 2])));
        assert_eq!(narrow.sought("subject"), Sought::WherePermitted("sample_add"));
        assert_eq!(narrow.sought("workflow"), Sought::Everywhere);
        let again = narrow.authenticated(1, "a", Some(set(&[1, 2])));
        assert_eq!(seen(&again), Some(vec![2]));
        assert_eq!(again.sought("subject"), Sought::WherePermitted("sample_add"));
        assert_eq!(seen(&again.narrowed(None, "sample_add")), Some(vec![2]));
        assert_eq!((seen(&again.seeing_everything()), seen(&again)), (None, Some(vec![2])));
        // Another account sees its own cohorts.
        let other = again.authenticated(2, "b", Some(set(&[4])));
        assert_eq!((seen(&other), other.sought("scan")), (Some(vec![4]), Sought::InOwnCohorts));
        let other = other.narrowed(Some(set(&[4, 5])), "sample_add");
        assert_eq!(other.sought("scan"), Sought::InOwnCohorts, "no fewer than before");
    }

    #[test]
    fn the_history_may_name_another_actor_than_the_audit_trail() {
        let ctx = Context::command_line("ada").in_history_as("import", Origin::Import);
        assert_eq!((ctx.who().name.as_str(), ctx.who().origin), ("ada", Origin::Cli));
        assert_eq!((ctx.actor().name.as_str(), ctx.actor().origin), ("import", Origin::Import));
        let task = Context::system("lease");
        assert_eq!((task.who().name.as_str(), task.actor().name.as_str()), ("the program", "lease"));
        assert!(task.sees_all());
    }
}
