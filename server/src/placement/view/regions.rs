//! The regions of a view, by id and by where they start.
//!
//! Ranges of regions do not overlap, so what a range touches is found from its neighbours: nothing
//! here looks at all regions to answer about some.

use std::{
    collections::{BTreeMap, btree_map},
    ops::{Bound, Index},
};

use bytes::Bytes;
use flotilla_proto::{range::Borders, region::borders_of, v1};

use super::HeardRegion;
use crate::ids::RegionId;

/// Invariant: no two regions overlap, and `by_start` names exactly those of `by_id`.
#[derive(Clone, Debug, Default)]
pub struct Regions {
    by_id: BTreeMap<RegionId, HeardRegion>,
    by_start: BTreeMap<Bytes, RegionId>,
}

impl Regions {
    #[must_use]
    pub fn get(&self, id: &RegionId) -> Option<&HeardRegion> {
        self.by_id.get(id)
    }

    pub(super) fn get_mut(&mut self, id: RegionId) -> Option<&mut HeardRegion> {
        self.by_id.get_mut(&id)
    }

    /// In the order of their ids.
    pub fn values(&self) -> btree_map::Values<'_, RegionId, HeardRegion> {
        self.by_id.values()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// In the order of their keys.
    pub fn by_key(&self) -> impl Iterator<Item = &HeardRegion> {
        self.by_start.values().filter_map(|id| self.by_id.get(id))
    }

    /// The regions that touch `[start, end)` in the order of their keys; an empty end is the end of
    /// all keys.
    pub fn touching<'a>(
        &'a self,
        start: &'a [u8],
        end: &'a [u8],
    ) -> impl Iterator<Item = &'a HeardRegion> {
        let all = (Bound::Unbounded, Bound::Included(start));
        let first = self.by_start.range::<[u8], _>(all).next_back();
        let from = first.map_or(start, |(first, _)| &first[..]);
        self.by_start
            .range::<[u8], _>((Bound::Included(from), Bound::Unbounded))
            .filter_map(|(_, id)| self.by_id.get(id))
            .skip_while(move |view| !borders_of(&view.region).ends_after(start))
            .take_while(move |view| Borders { start, end }.ends_after(&view.region.start_key))
    }

    /// Other regions whose range `region` has a part of.
    pub(super) fn overlapping<'a>(
        &'a self,
        region: &'a v1::Region,
    ) -> impl Iterator<Item = &'a HeardRegion> {
        self.touching(&region.start_key, &region.end_key)
            .filter(|other| other.region.region_id != region.region_id)
    }

    /// What overlaps it must have been removed.
    pub(super) fn insert(&mut self, view: HeardRegion) {
        let id = view.id();
        if let Some(known) = self.by_id.get_mut(&id)
            && known.region.start_key == view.region.start_key
        {
            *known = view;
            return;
        }
        self.remove(id);
        let start = view.region.start_key.clone();
        // Two regions never start alike; were they to, the newer one counts.
        if let Some(other) = self.by_start.insert(start, id) {
            self.by_id.remove(&other);
        }
        self.by_id.insert(id, view);
    }

    pub(super) fn remove(&mut self, id: RegionId) -> Option<HeardRegion> {
        let view = self.by_id.remove(&id)?;
        self.by_start.remove(&view.region.start_key);
        Some(view)
    }

    /// Whether they tile the whole key space.
    pub(super) fn are_complete(&self) -> bool {
        // Where the regions so far end; `None` when they go on to the last key.
        let mut covered: Option<&[u8]> = Some(&[]);
        for view in self.by_key() {
            if covered != Some(&view.region.start_key[..]) {
                return false;
            }
            let end = &view.region.end_key[..];
            covered = (!end.is_empty()).then_some(end);
        }
        covered.is_none()
    }
}

impl Index<&RegionId> for Regions {
    type Output = HeardRegion;

    fn index(&self, id: &RegionId) -> &HeardRegion {
        &self.by_id[id]
    }
}
