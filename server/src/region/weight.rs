//! What a proposal weighs beside its own bytes.
//!
//! A byte that is appended to a value of 8 MiB is a write of 8 MiB on every voter, and so is a
//! comparison a read. Counted by their own bytes, a thousand of them would fit into the queue, and
//! nobody takes back what is in the log. So a proposal weighs what it will read of large values as well.

use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::v1;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::read::COPIED_HERE_BYTES_MAX;
use crate::{
    command,
    storage::{
        batch::Family,
        engine::{Engine, Quick},
    },
    world::{clock, maps::HashMap},
};

/// How long the size of a large value is believed. Looking may copy it.
const KNOWN_FOR: Duration = Duration::from_secs(1);

/// Bound: large values of a region whose size is known.
const KNOWN_MAX: usize = 256;

/// The large values of a region (those that a read does not copy on its own thread) that proposals were about lately.
#[derive(Debug, Default)]
pub(super) struct Large(Mutex<HashMap<Bytes, (usize, Instant)>>);

impl Large {
    /// Bytes of large values that `write` will read, as far as memory knows; `most` where there are more.
    pub(super) fn read_by(
        &self,
        write: &v1::WriteCommand,
        data: &dyn Engine,
        most: usize,
    ) -> usize {
        let mut bytes: usize = 0;
        for key in command::keys_read(write) {
            bytes = bytes.saturating_add(self.size_of(key, data));
            if bytes >= most {
                return most;
            }
        }
        bytes
    }

    fn size_of(&self, key: &Bytes, data: &dyn Engine) -> usize {
        let now = clock::now();
        let known = self.0.lock().get(key).copied();
        if let Some((bytes, since)) = known
            && now.saturating_duration_since(since) < KNOWN_FOR
        {
            return bytes;
        }
        // What the disk alone knows, or cannot tell, apply will find.
        let quick = data.get_if_quick(Family::Default, key, COPIED_HERE_BYTES_MAX);
        let Ok(Quick::Large { bytes }) = quick else {
            if known.is_some() {
                self.0.lock().remove(key);
            }
            return 0;
        };
        let mut large = self.0.lock();
        if large.len() >= KNOWN_MAX {
            large.clear();
        }
        large.insert(key.clone(), (bytes, now));
        bytes
    }
}
