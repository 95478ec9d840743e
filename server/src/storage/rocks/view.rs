//! A pinned state that keeps its database open, and its expired rows in place.

use std::sync::Arc;

use bytes::Bytes;
use rocksdb::{DB, ReadOptions, Snapshot};
use self_cell::self_cell;

use super::{
    Cursor, Direction, Error, Family, KeyRange, Read, View,
    cursor::{self, RocksCursor},
    family,
    status::failed,
};
use crate::storage::reclaim::Hold;

self_cell!(
    struct Pinned {
        owner: Arc<DB>,
        #[covariant]
        dependent: Snapshot,
    }
);

pub(super) struct RocksView {
    // Ordering: let go before the hold, as fields are dropped in this order.
    pinned: Pinned,
    _hold: Hold,
    fill_cache: bool,
}

impl RocksView {
    /// `hold` was taken before this call.
    pub(super) fn new(db: Arc<DB>, hold: Hold, fill_cache: bool) -> Self {
        Self { pinned: Pinned::new(db, |db| db.snapshot()), _hold: hold, fill_cache }
    }
}

impl View for RocksView {}

impl Read for RocksView {
    fn get(&self, of: Family, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let cf = family(self.pinned.borrow_owner(), of);
        match self.pinned.borrow_dependent().get_pinned_cf_opt(cf, key, ReadOptions::default()) {
            Ok(value) => Ok(value.map(|value| Bytes::copy_from_slice(&value))),
            Err(e) => Err(failed("read", e)),
        }
    }

    fn scan(&self, of: Family, range: &KeyRange, direction: Direction) -> Box<dyn Cursor + '_> {
        let mut options = cursor::read_options(range);
        options.fill_cache(self.fill_cache);
        let cf = family(self.pinned.borrow_owner(), of);
        let iter = self.pinned.borrow_dependent().raw_iterator_cf_opt(cf, options);
        Box::new(RocksCursor::new(iter, range, direction))
    }
}
