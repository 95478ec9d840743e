//! An instance that its node cannot live without.
//!
//! After a failed write nobody knows what is on the disk, and RocksDB refuses all further ones once it has met
//! an error in the background. A node that goes on all the same has regions that end one after the other as
//! they come to write. So the first write that fails is told, to whoever ends the process with words.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use flotilla_proto::range::KeyRange;

use super::{
    batch::{Family, WriteBatch},
    engine::{
        Attempt, Cursor, Direction, Durability, Engine, EngineStats, Error, Quick, Read, Stage,
        View,
    },
    reclaim::Claims,
};

/// Told once.
pub type OnFailure = Box<dyn Fn(String) + Send + Sync>;

/// See the module. All else is as the instance does it.
pub struct Vital {
    inner: Arc<dyn Engine>,
    /// What the instance holds, for the words.
    what: &'static str,
    on_failure: OnFailure,
    told: AtomicBool,
}

impl Vital {
    #[must_use]
    pub fn new(inner: Arc<dyn Engine>, what: &'static str, on_failure: OnFailure) -> Self {
        Self { inner, what, on_failure, told: AtomicBool::new(false) }
    }

    fn watch<T>(&self, verb: &str, outcome: Result<T, Error>) -> Result<T, Error> {
        if let Err(error) = &outcome
            && !self.told.swap(true, Ordering::AcqRel)
        {
            (self.on_failure)(format!("{verb} {}: {error}", self.what));
        }
        outcome
    }
}

impl fmt::Debug for Vital {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl Read for Vital {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.inner.get(family, key)
    }

    fn scan(&self, family: Family, range: &KeyRange, direction: Direction) -> Box<dyn Cursor + '_> {
        self.inner.scan(family, range, direction)
    }
}

impl Engine for Vital {
    fn write(&self, batch: &WriteBatch, durability: Durability) -> Result<(), Error> {
        self.watch("write", self.inner.write(batch, durability))
    }

    fn write_if_quick(&self, batch: &WriteBatch) -> Result<bool, Error> {
        self.watch("write", self.inner.write_if_quick(batch))
    }

    fn get_if_quick(&self, family: Family, key: &[u8], bytes_max: usize) -> Result<Quick, Error> {
        self.inner.get_if_quick(family, key, bytes_max)
    }

    fn relieve(&self, room_bytes: u64) -> Result<bool, Error> {
        self.watch("flush", self.inner.relieve(room_bytes))
    }

    fn view(&self) -> Arc<dyn View> {
        self.inner.view()
    }

    fn read_view(&self) -> Arc<dyn View> {
        self.inner.read_view()
    }

    fn sync(&self) -> Result<(), Error> {
        self.watch("sync", self.inner.sync())
    }

    fn settle(&self) -> Result<(), Error> {
        self.watch("flush", self.inner.settle())
    }

    fn sequence(&self) -> u64 {
        self.inner.sequence()
    }

    fn stage(&self, name: &str) -> Result<Box<dyn Stage>, Error> {
        self.inner.stage(name)
    }

    fn replace_range(
        &self,
        family: Family,
        range: &KeyRange,
        name: &str,
        attempt: Attempt,
    ) -> Result<(), Error> {
        self.inner.replace_range(family, range, name, attempt)
    }

    fn drop_stage(&self, name: &str) -> Result<(), Error> {
        self.inner.drop_stage(name)
    }

    fn stages(&self) -> Result<Vec<String>, Error> {
        self.inner.stages()
    }

    fn is_staged(&self, name: &str) -> Result<bool, Error> {
        self.inner.is_staged(name)
    }

    fn reclaim_expired(&self, capture: &mut dyn FnMut() -> Claims) -> Result<(), Error> {
        self.inner.reclaim_expired(capture)
    }

    fn end_background_work(&self) {
        self.inner.end_background_work();
    }

    fn withdraw_claims(&self, range: &KeyRange) {
        self.inner.withdraw_claims(range);
    }

    fn approximate_bytes(&self, family: Family, range: &KeyRange) -> u64 {
        self.inner.approximate_bytes(family, range)
    }

    fn background_errors(&self) -> u64 {
        self.inner.background_errors()
    }

    fn stats(&self) -> EngineStats {
        self.inner.stats()
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::raft::fixture::{Failing, Probe};

    #[test]
    fn first_write_that_fails_is_told() {
        let check = |why: &str, act: fn(&Vital) -> Result<(), Error>| {
            let (probe, told) = (Probe::new(), Arc::new(Mutex::new(Vec::new())));
            let words = Arc::clone(&told);
            let on_failure = Box::new(move |reason| words.lock().push(reason));
            let vital = Vital::new(Arc::clone(&probe) as _, "the data", on_failure);
            act(&vital).expect("a whole disk");
            assert!(told.lock().is_empty(), "{why}");
            for how in [Failing::Before, Failing::After] {
                probe.fail(0, how);
                act(&vital).expect_err("injected");
            }
            let told = told.lock();
            assert_eq!(told.len(), 1, "{why}: {told:?}");
            assert!(told[0].contains(&format!("{why} the data: ")), "{told:?}");
        };
        check("write", |vital| vital.write(&WriteBatch::new(), Durability::Buffered));
        check("write", |vital| vital.write_if_quick(&WriteBatch::new()).map(drop));
        check("sync", Vital::sync);
        check("flush", Vital::settle);
    }
}
