//! Answers that nothing excuses.

use std::sync::Mutex;

use super::Failure;

/// The first that said that the store itself is at fault.
#[derive(Debug, Default)]
pub(super) struct Faulty(Mutex<Option<String>>);

impl Faulty {
    pub(super) fn note(&self, failure: &Failure) {
        if failure.is_fault {
            self.say(failure.message.clone());
        }
    }

    /// As [`Faulty::note`], in words.
    pub(super) fn say(&self, how: String) {
        self.0.lock().expect("nobody panics with it").get_or_insert(how);
    }

    /// # Errors
    /// There was one.
    pub(super) fn check(&self) -> Result<(), String> {
        match &*self.0.lock().expect("nobody panics with it") {
            Some(message) => Err(format!("an answer that nothing excuses: {message}")),
            None => Ok(()),
        }
    }
}
