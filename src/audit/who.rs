//! Who acts now, known to everything that a request or a command does.

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
}

tokio::task_local! {
    static WHO: Who;
}

impl Who {
    /// Somebody who has not said yet who it is: `name` is what is known.
    #[must_use]
    pub fn new(origin: Origin, name: &str, address: Option<String>) -> Self {
        let person = Person { user_id: None, name: name.to_owned() };
        Self { origin, address, person: Arc::new(Mutex::new(person)) }
    }

    pub(super) fn parts(&self) -> (Option<i32>, String, Origin, Option<String>) {
        let person = self.person.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (person.user_id, person.name, self.origin, self.address.clone())
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

/// The one who acts here has an account.
pub fn identified(user_id: i32, name: &str) {
    let _ = WHO.try_with(|who| {
        let mut person = who.person.lock().unwrap_or_else(PoisonError::into_inner);
        *person = Person { user_id: Some(user_id), name: name.to_owned() };
    });
}
