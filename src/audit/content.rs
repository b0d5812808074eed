//! The content of an event, as input of signatures and of the hash chain.

use crate::entity::audit_event::Model;

/// A sequence of texts in a fixed order.
pub(super) trait Parts {
    /// Passes each part to `add`; a part that is not set is `None`.
    fn parts(&self, add: &mut dyn FnMut(Option<&str>));
}

impl Parts for Model {
    /// The content of an event except its id, which the database assigns, and its signature.
    fn parts(&self, add: &mut dyn FnMut(Option<&str>)) {
        let number = |value: Option<i32>| value.map(|value| value.to_string());
        add(Some(&self.at.format("%Y-%m-%dT%H:%M:%S%.6f").to_string()));
        add(number(self.user_id).as_deref());
        add(Some(&self.who));
        add(Some(&self.origin.to_string()));
        add(self.address.as_deref());
        add(Some(&self.verb));
        add(Some(&self.subject_type));
        add(number(self.subject_id).as_deref());
        add(Some(&self.subject_name));
        add(number(self.experiment_id).as_deref());
        add(self.before.as_deref());
        add(self.after.as_deref());
        add(self.reason.as_deref());
        // Events that are older than signatures have none, and their hashes in the chain do not include the head.
        if self.signature.is_some() {
            add(self.head.as_deref());
        }
    }
}

/// Writes a part with its length, so that no text can be moved from one part into the next.
pub(super) fn write(out: &mut dyn FnMut(&[u8]), part: Option<&str>) {
    match part {
        None => out(&[0]),
        Some(text) => {
            out(&[1]);
            out(&(text.len() as u64).to_le_bytes());
            out(text.as_bytes());
        }
    }
}
