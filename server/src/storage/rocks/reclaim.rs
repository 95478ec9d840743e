//! Dropping expired rows as files are compacted.
//!
//! What may go is decided in [`Reclaim`]; here RocksDB asks about each row that it rewrites. A row
//! that goes becomes a removal, which hides older versions of it and goes itself with the last of
//! them. Rows on their way from a memtable to a file are not asked about, only compactions are, and
//! those come by themselves only where something is written. So files that have reached a certain
//! age are rewritten as well, once this process knows of keys that expire.
//!
//! Cost: where keys expire, all data is written once in that time. Nothing elsewhere, but for a
//! call per row that is compacted.

use std::{
    ffi::CStr,
    sync::{Arc, atomic::Ordering},
};

use rocksdb::{
    CompactionDecision,
    compaction_filter::CompactionFilter,
    compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory},
};

use super::{Error, Family, RocksEngine, family, status::failed};
use crate::storage::reclaim::{Claims, Pass, Reclaim};

const NAME: &CStr = c"flotilla.expired";

pub(super) fn reclaim_expired(
    engine: &RocksEngine,
    capture: &mut dyn FnMut() -> Claims,
) -> Result<(), Error> {
    let ticket = engine.reclaim.begin();
    let claims = capture();
    if engine.reclaim.knows(&claims) {
        return Ok(());
    }
    // Durability: the time of a region lies in the other family than its rows.
    engine.flush()?;
    rewrite_old_files(engine)?;
    engine.reclaim.propose(ticket, claims);
    Ok(())
}

/// Once in the life of a process: RocksDB writes its options to a file each time.
fn rewrite_old_files(engine: &RocksEngine) -> Result<(), Error> {
    if engine.rewrites.load(Ordering::Relaxed) {
        return Ok(());
    }
    let seconds = engine.reclaim_after_seconds.to_string();
    engine
        .db
        .set_options_cf(
            family(&engine.db, Family::Default),
            &[("periodic_compaction_seconds", &seconds)],
        )
        .map_err(|e| failed("set options of RocksDB", e))?;
    engine.rewrites.store(true, Ordering::Relaxed);
    Ok(())
}

/// Makes a filter for each compaction.
pub(super) struct DropExpired {
    reclaim: Arc<Reclaim>,
}

impl DropExpired {
    pub(super) fn new(reclaim: Arc<Reclaim>) -> Self {
        Self { reclaim }
    }
}

impl CompactionFilterFactory for DropExpired {
    type Filter = Filter;

    // Ordering: RocksDB has chosen the files by now, so whatever these claims do not hold for is
    // not among them.
    fn create(&mut self, _: CompactionFilterContext) -> Filter {
        Filter(self.reclaim.pass())
    }

    fn name(&self) -> &CStr {
        NAME
    }
}

pub(super) struct Filter(Pass);

impl CompactionFilter for Filter {
    fn filter(&mut self, _level: u32, key: &[u8], stored: &[u8]) -> CompactionDecision {
        if self.0.drops(key, stored) {
            CompactionDecision::Remove
        } else {
            CompactionDecision::Keep
        }
    }

    fn name(&self) -> &CStr {
        NAME
    }
}
