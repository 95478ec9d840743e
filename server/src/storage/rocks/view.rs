//! A pinned state that keeps its database open.

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

self_cell!(
    struct Pinned {
        owner: Arc<DB>,
        #[covariant]
        dependent: Snapshot,
    }
);

pub(super) struct RocksView(Pinned);

impl RocksView {
    pub(super) fn new(db: Arc<DB>) -> Self {
        Self(Pinned::new(db, |db| db.snapshot()))
    }
}

impl View for RocksView {}

impl Read for RocksView {
    fn get(&self, of: Family, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let cf = family(self.0.borrow_owner(), of);
        match self.0.borrow_dependent().get_pinned_cf_opt(cf, key, ReadOptions::default()) {
            Ok(value) => Ok(value.map(|value| Bytes::copy_from_slice(&value))),
            Err(e) => Err(failed("read", e)),
        }
    }

    fn scan(&self, of: Family, range: &KeyRange, direction: Direction) -> Box<dyn Cursor + '_> {
        let mut options = cursor::read_options(range);
        options.fill_cache(false);
        let cf = family(self.0.borrow_owner(), of);
        let iter = self.0.borrow_dependent().raw_iterator_cf_opt(cf, options);
        Box::new(RocksCursor::new(iter, range, direction))
    }
}
