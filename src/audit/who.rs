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
        let person = Person { user_id: None, name: name.to_owned(), cohorts: None };
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

/// The one who acts here has an account, and these cohorts are there for it. Of somebody who was identified before, those
/// that were there before too: nobody sees more by saying again who it is.
pub fn identified(user_id: i32, name: &str, cohorts: Cohorts) {
    let _ = WHO.try_with(|who| {
        let mut person = who.person.lock().unwrap_or_else(PoisonError::into_inner);
        let cohorts = match person.user_id == Some(user_id) {
            true => both(person.cohorts.take(), cohorts),
            false => cohorts,
        };
        *person = Person { user_id: Some(user_id), name: name.to_owned(), cohorts };
    });
}

/// From here on only these cohorts are there for who acts, of those that were.
pub fn narrowed(cohorts: Cohorts) {
    let _ = WHO.try_with(|who| {
        let mut person = who.person.lock().unwrap_or_else(PoisonError::into_inner);
        person.cohorts = both(person.cohorts.take(), cohorts);
    });
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
        acting(Who::new(Origin::Api, "nobody", None), async {
            assert_eq!(Who::now().cohorts(), None);
            identified(1, "a", cohorts(&[1, 2]));
            narrowed(cohorts(&[2, 3]));
            identified(1, "a", cohorts(&[1, 2]));
            assert_eq!(Who::now().cohorts(), cohorts(&[2]));
            narrowed(None);
            assert_eq!(Who::now().cohorts(), cohorts(&[2]));
            assert_eq!(everywhere(async { Who::now().cohorts() }).await, None);
            assert_eq!(Who::now().cohorts(), cohorts(&[2]));
            // Another one has the own cohorts.
            identified(2, "b", cohorts(&[4]));
            assert_eq!(Who::now().cohorts(), cohorts(&[4]));
        })
        .await;
    }
}
