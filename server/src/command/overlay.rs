//! The batch so far, over the database.
//!
//! A command must see what every earlier entry did, whether or not that entry shares its batch, or
//! the cut of the log into batches would show in the state. It must also be all or nothing, while a
//! [`WriteBatch`] cannot take a change back. So there are two layers: what *settled*, which is in the
//! batch, and the *own* changes of the command being applied, which are in no batch until the
//! command settles and are dropped when it is refused.

use bytes::Bytes;
use flotilla_proto::range::KeyRange;

use super::{
    layer::{Change, Layer, Lookup},
    value::{StoredRef, StoredValue},
};
use crate::{
    storage::{
        batch::{self, Family, WriteBatch},
        engine::{Direction, Error, Read},
    },
    world::{
        known_bad::{self, Fault},
        maps::HashSet,
    },
};

/// From this number of keys on, one range tombstone is cheaper for later reads than one tombstone
/// per key.
const RANGE_TOMBSTONE_KEYS_MIN: usize = 16;

/// Once a payload of so many bytes is seen to be expired, that is noted: it is not read again in vain.
const NOTED_EXPIRED_BYTES_MIN: usize = 4 << 10;

/// Reads that see a batch's own writes, and the only way for a command to add to the batch.
///
/// Made once per batch and used for all its entries. `read` must not change while it lives.
/// Bound: memory grows with the batch, by about the keys; payloads are shared with the commands.
pub struct Overlay<'a> {
    read: &'a dyn Read,
    batch: &'a mut WriteBatch,
    /// Changes that were in `batch` before this overlay and were not read yet.
    unread: usize,
    settled: Layer,
    own: Layer,
    /// Large rows of `read` that have expired: read once, however often they are looked at.
    expired: HashSet<Bytes>,
}

impl<'a> Overlay<'a> {
    /// What `batch` holds already is seen as well.
    #[must_use]
    pub fn new(read: &'a dyn Read, batch: &'a mut WriteBatch) -> Self {
        let unread = batch.len();
        Self {
            read,
            batch,
            unread,
            settled: Layer::default(),
            own: Layer::default(),
            expired: HashSet::default(),
        }
    }

    /// The batch, without the changes of a command that has not settled.
    #[must_use]
    pub fn batch(&self) -> &WriteBatch {
        self.batch
    }

    /// The value under `key`, expired at `time_ms` or not: one that is large and has expired may be told once.
    /// The time of later calls is not before it.
    pub(super) fn get(&mut self, key: &[u8], time_ms: u64) -> Result<Option<StoredValue>, Error> {
        self.read_batch()?;
        // All layers, but for a known fault: then those of the command alone.
        let seen = if known_bad::is(Fault::ComparedBeforeTheBatch) { 1 } else { 2 };
        for layer in [&mut self.own, &mut self.settled].into_iter().take(seen) {
            match layer.lookup(key) {
                Lookup::Value(value) => return Ok(Some(value.clone())),
                Lookup::Deleted => return Ok(None),
                Lookup::Unknown => {}
            }
        }
        if !self.expired.is_empty() && self.expired.contains(key) {
            return Ok(None);
        }
        let Some(stored) = self.read.get(Family::Default, key)? else { return Ok(None) };
        let value = StoredValue::decode(&stored).map_err(|garbage| garbage.under(key))?;
        if value.payload.len() >= NOTED_EXPIRED_BYTES_MIN && !value.is_live(time_ms) {
            self.expired.insert(Bytes::copy_from_slice(key));
        }
        Ok(Some(value))
    }

    pub(super) fn put(&mut self, key: Bytes, value: StoredValue) {
        self.own.push(Change::Put { key, value });
    }

    pub(super) fn delete(&mut self, key: Bytes) {
        self.own.push(Change::Delete { key });
    }

    /// Removes the keys of `range`, which is not empty, and says how many of them were there at
    /// `time_ms`.
    ///
    /// Bound: reads every key of the range, so its time grows with the region, not its memory; each once in a
    /// batch, however often it is removed.
    pub(super) fn delete_range(&mut self, range: &KeyRange, time_ms: u64) -> Result<u64, Error> {
        self.read_batch()?;
        let mut found = ToRemove::default();
        for part in self.settled.uncleared(range) {
            for part in self.own.uncleared(&part) {
                let mut cursor = self.read.scan(Family::Default, &part, Direction::Forward);
                while let Some((key, stored)) = cursor.next()? {
                    if self.own.lookup(key) == Lookup::Unknown
                        && self.settled.lookup(key) == Lookup::Unknown
                    {
                        let value =
                            StoredRef::decode(stored).map_err(|garbage| garbage.under(key))?;
                        found.add(key, value.is_live(time_ms));
                    }
                }
            }
        }
        for part in self.own.uncleared(range) {
            for (key, value) in self.settled.values_in(&part) {
                if self.own.lookup(key) == Lookup::Unknown {
                    found.add(key, value.is_live(time_ms));
                }
            }
        }
        for (key, value) in self.own.values_in(range) {
            found.add(key, value.is_live(time_ms));
        }
        let live = found.live;
        found.changes().for_each(|change| self.own.push(change));
        let (start, end) = (range.start.clone(), Bytes::copy_from_slice(range.end_key()));
        self.own.push(Change::Cleared { start, end });
        Ok(live)
    }

    /// Moves the changes of the command into the batch.
    pub(super) fn settle(&mut self) {
        for change in self.own.drain() {
            match &change {
                Change::Put { key, value } => {
                    let head = value.head();
                    let parts = [head.as_bytes(), &value.payload];
                    self.batch.put_parts(Family::Default, key, &parts);
                }
                Change::Delete { key } => self.batch.delete(Family::Default, key),
                Change::DeleteRange { start, end } => {
                    self.batch.delete_range(Family::Default, start, end);
                }
                Change::Cleared { .. } => {}
            }
            self.settled.push(change);
        }
    }

    /// Drops the changes of the command: as if it had never been.
    pub(super) fn undo(&mut self) {
        self.own.clear();
    }

    /// Makes known what the batch held before this overlay.
    fn read_batch(&mut self) -> Result<(), Error> {
        if self.unread == 0 {
            return Ok(());
        }
        let mut changes = Vec::new();
        let default_family = self
            .batch
            .iter()
            .take(self.unread)
            .filter_map(|(family, change)| (family == Family::Default).then_some(change));
        for change in default_family {
            changes.push(match change {
                batch::Change::Put { key, value } => {
                    let value = StoredValue::decode(&Bytes::copy_from_slice(value))
                        .map_err(|garbage| garbage.under(key))?;
                    Change::Put { key: Bytes::copy_from_slice(key), value }
                }
                batch::Change::Delete { key } => {
                    Change::Delete { key: Bytes::copy_from_slice(key) }
                }
                batch::Change::DeleteRange { start, end } if start >= end => continue,
                batch::Change::DeleteRange { start, end } => Change::DeleteRange {
                    start: Bytes::copy_from_slice(start),
                    end: Bytes::copy_from_slice(end),
                },
            });
        }
        self.settled.prepend(changes);
        self.unread = 0;
        Ok(())
    }
}

/// The keys a range removal has to remove.
#[derive(Default)]
struct ToRemove {
    /// Those that clients could see.
    live: u64,
    /// All of them, up to the number from which on a range is better.
    keys: Vec<Bytes>,
    /// Smallest and largest, of all.
    bounds: Option<(Vec<u8>, Vec<u8>)>,
}

impl ToRemove {
    fn add(&mut self, key: &[u8], live: bool) {
        self.live += u64::from(live);
        if self.keys.len() < RANGE_TOMBSTONE_KEYS_MIN {
            self.keys.push(Bytes::copy_from_slice(key));
        }
        match &mut self.bounds {
            None => self.bounds = Some((key.to_vec(), key.to_vec())),
            Some((first, _)) if key < &first[..] => *first = key.to_vec(),
            Some((_, last)) if key > &last[..] => {
                // The usual case, for each key of a scan: keeps the memory.
                last.clear();
                last.extend_from_slice(key);
            }
            Some(_) => {}
        }
    }

    fn changes(self) -> impl Iterator<Item = Change> {
        let mut keys = self.keys;
        let mut range = None;
        if keys.len() >= RANGE_TOMBSTONE_KEYS_MIN {
            keys.clear();
            // Up to the last key that is there and no further: also a range without an end gets one.
            range = self.bounds.map(|(start, mut last)| {
                last.push(0);
                Change::DeleteRange { start: start.into(), end: last.into() }
            });
        }
        keys.into_iter().map(|key| Change::Delete { key }).chain(range)
    }
}
