//! The two maps of an instance, and the steps that change them.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
};

use bytes::Bytes;

use super::{Cursor, Direction, Error, Family, KeyRange, Read, View, WriteBatch};
use crate::storage::{batch::Change, engine::Row, reclaim::Hold};

pub(super) type Map = BTreeMap<Bytes, Bytes>;

/// One change of a map.
#[derive(Clone, Debug)]
pub(super) enum Edit {
    Put { family: Family, key: Bytes, value: Bytes },
    Delete { family: Family, key: Bytes },
    DeleteRange { family: Family, range: KeyRange },
}

/// What a crash keeps or loses as a whole.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Edits(Vec<Edit>),
    Fill {
        family: Family,
        rows: Arc<Map>,
    },
    /// Everything as it is then, which was `changes` more than before.
    Whole {
        maps: Maps,
        changes: u64,
    },
}

impl Step {
    pub(super) fn batch(batch: &WriteBatch) -> Self {
        let own = Bytes::copy_from_slice;
        let edit = |(family, change)| match change {
            Change::Put { key, value } => Edit::Put { family, key: own(key), value: own(value) },
            Change::Delete { key } => Edit::Delete { family, key: own(key) },
            Change::DeleteRange { start, end } => {
                Edit::DeleteRange { family, range: KeyRange::new(own(start), own(end)) }
            }
        };
        Self::Edits(batch.iter().map(edit).collect())
    }

    /// Empties `range`.
    pub(super) fn clear(family: Family, range: &KeyRange) -> Self {
        Self::Edits(vec![Edit::DeleteRange { family, range: range.clone() }])
    }

    /// By how much it raises the sequence number.
    pub(super) fn changes(&self) -> u64 {
        match self {
            Self::Edits(edits) => edits.len() as u64,
            Self::Fill { .. } => 1,
            Self::Whole { changes, .. } => *changes,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Edits(edits) => edits
                .iter()
                .map(|edit| match edit {
                    Edit::Put { key, value, .. } => key.len() + value.len(),
                    Edit::Delete { key, .. } => key.len(),
                    Edit::DeleteRange { range, .. } => range.start.len() + range.end.len(),
                })
                .sum(),
            Self::Fill { rows, .. } => {
                rows.iter().map(|(key, value)| key.len() + value.len()).sum()
            }
            // It shares what was there before.
            Self::Whole { .. } => 0,
        }
    }
}

/// Both families; a clone does not change.
#[derive(Clone, Debug, Default)]
pub(super) struct Maps {
    default: Arc<Map>,
    meta: Arc<Map>,
    /// Rows that cannot be read until they are written over.
    damaged: Arc<BTreeSet<(Family, Bytes)>>,
}

impl Maps {
    fn family(&self, family: Family) -> &Arc<Map> {
        match family {
            Family::Default => &self.default,
            Family::Meta => &self.meta,
        }
    }

    /// The map to change: a copy of it, when somebody has it pinned.
    fn family_mut(&mut self, family: Family) -> &mut Map {
        Arc::make_mut(match family {
            Family::Default => &mut self.default,
            Family::Meta => &mut self.meta,
        })
    }

    pub(super) fn apply(&mut self, step: &Step) {
        match step {
            Step::Edits(edits) => edits.iter().for_each(|edit| self.edit(edit)),
            Step::Fill { family, rows } => {
                rows.keys().for_each(|key| self.mend(*family, key));
                let rows = rows.iter().map(|(key, value)| (key.clone(), value.clone()));
                self.family_mut(*family).extend(rows);
            }
            Step::Whole { maps, .. } => *self = maps.clone(),
        }
    }

    fn edit(&mut self, edit: &Edit) {
        match edit {
            Edit::Put { family, key, value } => {
                self.mend(*family, key);
                self.family_mut(*family).insert(key.clone(), value.clone());
            }
            Edit::Delete { family, key } => {
                self.mend(*family, key);
                self.family_mut(*family).remove(key);
            }
            Edit::DeleteRange { family, range } => {
                let keys: Vec<_> =
                    rows(self.family(*family), range).map(|(key, _)| key.clone()).collect();
                keys.iter().for_each(|key| self.mend(*family, key));
                let map = self.family_mut(*family);
                keys.iter().for_each(|key| _ = map.remove(key));
            }
        }
    }

    /// The keys of a family, in order.
    pub(super) fn keys(&self, family: Family) -> impl ExactSizeIterator<Item = &Bytes> {
        self.family(family).keys()
    }

    pub(super) fn damage(&mut self, family: Family, key: &Bytes) {
        Arc::make_mut(&mut self.damaged).insert((family, key.clone()));
    }

    pub(super) fn mend_all(&mut self) {
        self.damaged = Arc::default();
    }

    /// It is written over.
    fn mend(&mut self, family: Family, key: &Bytes) {
        if self.has_damage() {
            Arc::make_mut(&mut self.damaged).remove(&(family, key.clone()));
        }
    }

    pub(super) fn has_damage(&self) -> bool {
        !self.damaged.is_empty()
    }

    pub(super) fn get(&self, family: Family, key: &[u8]) -> Option<Bytes> {
        self.family(family).get(key).cloned()
    }

    /// As [`Maps::get`], by who needs what is there.
    pub(super) fn read(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, Error> {
        look(&self.damaged, family, key)?;
        Ok(self.get(family, key))
    }

    pub(super) fn scan(
        &self,
        family: Family,
        range: &KeyRange,
        direction: Direction,
    ) -> Box<dyn Cursor> {
        let (map, damaged) = (Arc::clone(self.family(family)), Arc::clone(&self.damaged));
        let rest = range.clone();
        Box::new(MemoryCursor { map, family, damaged, rest, direction, row: None, ended: false })
    }

    /// Removes rows of the default family.
    pub(super) fn drop_rows(&mut self, mut drops: impl FnMut(&[u8], &[u8]) -> bool) {
        let gone: Vec<_> = self
            .default
            .iter()
            .filter(|(key, value)| {
                look(&self.damaged, Family::Default, key).is_ok() && drops(key, value)
            })
            .map(|(key, _)| key.clone())
            .collect();
        if !gone.is_empty() {
            let map = self.family_mut(Family::Default);
            gone.iter().for_each(|key| _ = map.remove(key));
        }
    }

    pub(super) fn bytes(&self, family: Family, range: &KeyRange) -> u64 {
        rows(self.family(family), range).map(|(key, value)| (key.len() + value.len()) as u64).sum()
    }
}

/// A pinned state.
pub(super) struct Pinned {
    maps: Maps,
    _hold: Hold,
}

impl Pinned {
    /// `hold` was taken before the maps were.
    pub(super) fn new(maps: Maps, hold: Hold) -> Self {
        Self { maps, _hold: hold }
    }
}

impl Read for Pinned {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.maps.read(family, key)
    }

    fn scan(&self, family: Family, range: &KeyRange, direction: Direction) -> Box<dyn Cursor + '_> {
        self.maps.scan(family, range, direction)
    }
}

impl View for Pinned {}

fn rows<'a>(
    map: &'a Map,
    range: &KeyRange,
) -> impl DoubleEndedIterator<Item = (&'a Bytes, &'a Bytes)> {
    // A map panics when asked for an inverted range.
    let end = if range.is_empty() { range.start.clone() } else { range.end.clone() };
    let upper =
        if end.is_empty() && !range.is_empty() { Bound::Unbounded } else { Bound::Excluded(end) };
    map.range((Bound::Included(range.start.clone()), upper))
}

/// Whether a row can be read.
fn look(damaged: &BTreeSet<(Family, Bytes)>, family: Family, key: &[u8]) -> Result<(), Error> {
    if !damaged.is_empty() && damaged.contains(&(family, Bytes::copy_from_slice(key))) {
        return Err(Error::Corrupt { message: format!("injected damage: {family:?} {key:02x?}") });
    }
    Ok(())
}

struct MemoryCursor {
    map: Arc<Map>,
    family: Family,
    damaged: Arc<BTreeSet<(Family, Bytes)>>,
    /// What was not yet returned, but for the last row when going forward.
    rest: KeyRange,
    direction: Direction,
    row: Option<(Bytes, Bytes)>,
    ended: bool,
}

impl Cursor for MemoryCursor {
    fn next(&mut self) -> Result<Option<Row<'_>>, Error> {
        if self.ended {
            return Ok(None);
        }
        let next = {
            let mut rest = rows(&self.map, &self.rest);
            match (self.direction, &self.row) {
                (Direction::Forward, None) => rest.next(),
                // The range starts at the row that was returned last.
                (Direction::Forward, Some(_)) => rest.nth(1),
                (Direction::Reverse, _) => rest.next_back(),
            }
            .map(|(key, value)| (key.clone(), value.clone()))
        };
        if let Some((key, _)) = &next {
            look(&self.damaged, self.family, key)?;
        }
        match &next {
            Some((key, _)) if self.direction == Direction::Forward => {
                self.rest.start = key.clone();
            }
            Some((key, _)) => {
                self.rest.end = key.clone();
                // An empty end would mean no end: the empty key is the first of all.
                self.ended = key.is_empty();
            }
            None => self.ended = true,
        }
        self.row = next;
        Ok(self.row.as_ref().map(|(key, value)| (&key[..], &value[..])))
    }
}
