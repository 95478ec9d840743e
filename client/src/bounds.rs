//! How much of a kind one request may have.
//!
//! A client begins with what servers allow unless they are told otherwise. A server that allows less refuses,
//! before it does anything, and names its limit; from then on requests are cut to that.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::Error;

/// Bound: operations of a write and keys of a batch read, as many as a server takes unless it is told
/// otherwise.
const ENTRIES_MAX: usize = 1024;

/// What one client has learnt of its servers' limits.
#[derive(Debug)]
pub(crate) struct Bounds {
    entries: AtomicUsize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { entries: AtomicUsize::new(ENTRIES_MAX) }
    }
}

impl Bounds {
    /// Operations or keys of one request.
    pub(crate) fn entries(&self) -> usize {
        self.entries.load(Relaxed)
    }

    /// How many entries each request is to have instead of the `sent` ones that were refused with this
    /// error; `None` when fewer would not help. Always fewer than `sent`.
    pub(crate) fn fewer(&self, error: &Error, sent: usize) -> Option<usize> {
        let Error::InvalidArgument { field, limit, .. } = error else { return None };
        let limit = usize::try_from(*limit).unwrap_or(usize::MAX);
        if sent < 2 || limit == 0 {
            return None;
        }
        match &**field {
            "ops" | "keys" if limit < sent => {
                self.entries.fetch_min(limit, Relaxed);
                Some(limit)
            }
            // Bytes of the request, or of what it would answer: nobody knows which entries they are of.
            "request" | "answer" | "keys" => Some(sent / 2),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_entries_are_tried_only_where_that_helps() {
        for (why, field, limit, sent, want, entries) in [
            ("more than the server takes", "ops", 100, 512, Some(100), 100),
            ("keys alike", "keys", 100, 512, Some(100), 100),
            ("more bytes than it takes", "request", 1 << 20, 512, Some(256), ENTRIES_MAX),
            ("more bytes than it answers", "keys", 18 << 20, 3, Some(1), ENTRIES_MAX),
            ("one is too much by itself", "request", 1 << 20, 1, None, ENTRIES_MAX),
            ("one key is at fault", "ops[3].put.key", 4096, 512, None, ENTRIES_MAX),
            ("no limit is named", "ops", 0, 512, None, ENTRIES_MAX),
        ] {
            let bounds = Bounds::default();
            let (field, message) = (field.to_owned(), String::new());
            let error = Error::InvalidArgument { field, limit, message };
            assert_eq!((bounds.fewer(&error, sent), bounds.entries()), (want, entries), "{why}");
        }
        let other = Error::NotFound { message: String::new() };
        assert_eq!(Bounds::default().fewer(&other, 512), None);
    }
}
