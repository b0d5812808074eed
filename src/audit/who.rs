//! Who acts now, known to everything that a request or a command does.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::entity::kind::Origin;

/// Who acts, from where. Cheap to clone; clones are the same one.
#[derive(Debug, Clone)]
pub struct Who {
    origin: Origin,
    address: Option<String>,
    person: Arc<Mutex<Person>>,
}

#[derive(Debug, Clone)]
struct Person {
    user_id: Option<i32>,
    name: String,
    /// The only cohorts that are there for this person; none: the whole study is.
    cohorts: Cohorts,
    /// The permission for which there are fewer of them than the person sees.
    narrowed_to: Option<&'static str>,
}

/// Ids of cohorts, when it is not all of them.
pub type Cohorts = Option<Arc<BTreeSet<i32>>>;

tokio::task_local! {
    static WHO: Who;
}

impl Who {
    /// Somebody who has not said yet who it is: `name` is what is known.
    #[must_use]
    pub fn new(origin: Origin, name: &str, address: Option<String>) -> Self {
        let person = Person { user_id: None, name: name.to_owned(), cohorts: None, narrowed_to: None };
        Self { origin, address, person: Arc::new(Mutex::new(person)) }
    }

    pub(super) fn parts(&self) -> (Option<i32>, String, Origin, Option<String>) {
        let person = self.person();
        (person.user_id, person.name, self.origin, self.address.clone())
    }

    fn person(&self) -> Person {
        self.person.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The only cohorts that are there for who acts; none: the whole study is.
    #[must_use]
    pub fn cohorts(&self) -> Cohorts {
        self.person().cohorts
    }

    /// The permission that is asked for, if it does not hold in all the cohorts that this person sees.
    #[must_use]
    pub fn narrowed_to(&self) -> Option<&'static str> {
        self.person().narrowed_to
    }

    /// Who acts here; the program itself when nobody said.
    #[must_use]
    pub fn now() -> Self {
        WHO.try_with(Clone::clone).unwrap_or_else(|_| Self::new(Origin::Cli, "the program", None))
    }
}

/// Does `work` in the name of `who`.
pub async fn acting<F: Future>(who: Who, work: F) -> F::Output {
    WHO.scope(who, work).await
}

/// Nobody acts here: whoever this is about would be taken for the program itself, which sees everything.
#[derive(Debug, thiserror::Error)]
#[error("the request has no actor")]
pub struct NobodyActs;

/// The one who acts here has an account, and these cohorts are there for it. Of somebody who was identified before, those
/// that were there before too: nobody sees more by saying again who it is.
///
/// # Errors
/// [`NobodyActs`] outside of [`acting`]; then nothing may be read for this person.
pub fn identified(user_id: i32, name: &str, cohorts: Cohorts) -> Result<(), NobodyActs> {
    let known = WHO.try_with(|who| {
        let mut person = who.person.lock().unwrap_or_else(PoisonError::into_inner);
        let (cohorts, narrowed_to) = match person.user_id == Some(user_id) {
            true => (both(person.cohorts.take(), cohorts), person.narrowed_to),
            false => (cohorts, None),
        };
        *person = Person { user_id: Some(user_id), name: name.to_owned(), cohorts, narrowed_to };
    });
    known.map_err(|_| NobodyActs)
}

/// From here on only these cohorts are there for who acts, of those that were: those in which this permission holds.
///
/// # Errors
/// [`NobodyActs`] outside of [`acting`].
pub fn narrowed(cohorts: Cohorts, permission: &'static str) -> Result<(), NobodyActs> {
    let known = WHO.try_with(|who| {
        let mut person = who.person.lock().unwrap_or_else(PoisonError::into_inner);
        let before = person.cohorts.take();
        person.cohorts = both(before.clone(), cohorts);
        if person.cohorts != before {
            person.narrowed_to = Some(permission);
        }
    });
    known.map_err(|_| NobodyActs)
}

/// From here on the whole study is there: who acts has shown a secret that opens what is to be done, wherever it is.
pub fn widened() {
    let _ = WHO.try_with(|who| who.person.lock().unwrap_or_else(PoisonError::into_inner).cohorts = None);
}

fn both(one: Cohorts, other: Cohorts) -> Cohorts {
    match (one, other) {
        (Some(one), Some(other)) => Some(Arc::new(one.intersection(&other).copied().collect())),
        (one, other) => one.or(other),
    }
}

/// Does `work` in the name of who acts here, with the whole study there for it: what the program does for all, whoever
/// asks for it.
pub async fn everywhere<F: Future>(work: F) -> F::Output {
    let who = Who::now();
    let person = Arc::new(Mutex::new(Person { cohorts: None, ..who.person() }));
    acting(Who { person, ..who }, work).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_sees_more_by_saying_again_who_it_is() {
        let cohorts = |ids: &[i32]| -> Cohorts { Some(Arc::new(ids.iter().copied().collect())) };
        let known = |id, name, cohorts| identified(id, name, cohorts).unwrap();
        let fewer = |cohorts| narrowed(cohorts, "sample_add").unwrap();
        acting(Who::new(Origin::Api, "nobody", None), async {
            assert_eq!(Who::now().cohorts(), None);
            known(1, "a", cohorts(&[1, 2]));
            fewer(cohorts(&[2, 3]));
            known(1, "a", cohorts(&[1, 2]));
            assert_eq!(Who::now().cohorts(), cohorts(&[2]));
            fewer(None);
            assert_eq!(Who::now().cohorts(), cohorts(&[2]));
            assert_eq!(everywhere(async { Who::now().cohorts() }).await, None);
            assert_eq!(Who::now().cohorts(), cohorts(&[2]));
            assert_eq!(Who::now().narrowed_to(), Some("sample_add"));
            // Another one has the own cohorts.
            known(2, "b", cohorts(&[4]));
            assert_eq!((Who::now().cohorts(), Who::now().narrowed_to()), (cohorts(&[4]), None));
            fewer(cohorts(&[4, 5]));
            assert_eq!(Who::now().narrowed_to(), None, "no fewer than before");
        })
        .await;
        // Where nobody acts nobody is taken for the program.
        identified(1, "a", cohorts(&[1])).unwrap_err();
        narrowed(cohorts(&[1]), "sample_add").unwrap_err();
    }
}
