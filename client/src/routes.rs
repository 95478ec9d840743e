//! Which region owns a key, and where its leader was last seen.
//!
//! The table is a cache: a wrong entry costs a round trip, never a wrong answer, because a node
//! checks the region and the epoch that a request carries. It learns from listings and from the
//! details of errors, and it only moves forward: of two descriptions of one key the one with the
//! newer epoch wins, whichever came last. Nothing here does I/O.

use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Unbounded},
    sync::Arc,
};

use bytes::Bytes;
use flotilla_proto::{
    range::KeyRange,
    region::{Epoch, borders_of},
    v1::{Region, RegionEpoch},
};

/// Bound: past it nothing new is learnt; requests for keys without a route are forwarded by the
/// node that gets them, which costs a hop.
const REGIONS_MAX: usize = 200_000;

/// The encoded keys that a request touches.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Span {
    /// No keys: any node will do.
    Nowhere,
    /// One key.
    Key(Bytes),
    /// Many keys.
    Keys(Vec<Bytes>),
    /// A range.
    Range(KeyRange),
}

impl Span {
    /// A key of the span, to ask about.
    pub(crate) fn first(&self) -> Option<&[u8]> {
        match self {
            Self::Nowhere => None,
            Self::Key(key) => Some(key),
            Self::Range(range) => Some(&range.start),
            Self::Keys(keys) => keys.first().map(|key| &key[..]),
        }
    }
}

/// Where to send a request, and what to put into its context.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Route {
    pub(crate) region_id: u64,
    pub(crate) epoch: RegionEpoch,
    pub(crate) leader: Arc<str>,
}

#[derive(Debug)]
struct Entry {
    region: Region,
    leader: Option<Arc<str>>,
}

impl Entry {
    fn contains(&self, key: &[u8]) -> bool {
        borders_of(&self.region).contains(key)
    }

    /// As a range that begins in it: one that does not end in it has no route.
    fn covers(&self, range: &KeyRange) -> bool {
        self.contains(&range.start) && borders_of(&self.region).covers(range.borders())
    }
}

/// Regions by range, with their leaders.
///
/// Invariant: no two entries overlap, and `starts` names exactly the entries.
#[derive(Debug, Default)]
pub(crate) struct RouteTable {
    by_start: BTreeMap<Bytes, Entry>,
    starts: BTreeMap<u64, Bytes>,
}

impl RouteTable {
    /// The one region that holds the whole span, if it and its leader are known.
    pub(crate) fn locate(&self, span: &Span) -> Option<Route> {
        let entry = match span {
            Span::Nowhere => None,
            Span::Key(key) => self.entry(key),
            Span::Keys(keys) => {
                let entry = self.entry(keys.first()?)?;
                keys.iter().all(|key| entry.contains(key)).then_some(entry)
            }
            Span::Range(range) => self.entry(&range.start).filter(|entry| entry.covers(range)),
        }?;
        Some(Route {
            region_id: entry.region.region_id,
            epoch: entry.region.epoch.unwrap_or_default(),
            leader: entry.leader.clone()?,
        })
    }

    /// The region of a key, whether or not its leader is known.
    pub(crate) fn region_of(&self, key: &[u8]) -> Option<u64> {
        self.entry(key).map(|entry| entry.region.region_id)
    }

    pub(crate) fn knows(&self, region_id: u64) -> bool {
        self.starts.contains_key(&region_id)
    }

    /// Whether the leader of this key's region is known.
    pub(crate) fn has_leader(&self, key: &[u8]) -> bool {
        self.entry(key).is_some_and(|entry| entry.leader.is_some())
    }

    fn entry(&self, key: &[u8]) -> Option<&Entry> {
        let (_, entry) = self
            .by_start
            .range::<[u8], _>((Unbounded, std::ops::Bound::Included(key)))
            .next_back()?;
        entry.contains(key).then_some(entry)
    }

    /// Takes in a region, unless something newer is known of any part of its range. Without a
    /// leader the known one stays. Answers whether the table changed.
    pub(crate) fn learn(&mut self, region: Region, leader: Option<Arc<str>>) -> bool {
        if region.region_id == 0 || self.is_outdated(&region) {
            return false;
        }
        let old = self.remove(region.region_id);
        let leader = leader.or_else(|| old.as_ref().and_then(|old| old.leader.clone()));
        let changed = old.is_none_or(|old| old.region != region || old.leader != leader);
        for start in self.overlapping(&region) {
            if let Some(entry) = self.by_start.remove(&start) {
                self.starts.remove(&entry.region.region_id);
            }
        }
        if self.by_start.len() < REGIONS_MAX {
            self.starts.insert(region.region_id, region.start_key.clone());
            self.by_start.insert(region.start_key.clone(), Entry { region, leader });
        }
        changed
    }

    /// Versions of overlapping regions can be compared: a split raises both halves, a merge ends
    /// above both sources.
    fn is_outdated(&self, region: &Region) -> bool {
        let new = Epoch::of(region);
        let newer_self =
            self.starts.get(&region.region_id).and_then(|start| self.by_start.get(start));
        let older_than = |entry: &Entry| {
            let known = Epoch::of(&entry.region);
            if entry.region.region_id == region.region_id {
                new.version < known.version || new.conf_ver < known.conf_ver
            } else {
                new.version < known.version
            }
        };
        newer_self.is_some_and(older_than)
            || self
                .overlapping(region)
                .iter()
                .filter_map(|start| self.by_start.get(start))
                .any(older_than)
    }

    fn overlapping(&self, region: &Region) -> Vec<Bytes> {
        let before = self
            .by_start
            .range::<[u8], _>((Unbounded, Excluded(&*region.start_key)))
            .next_back()
            .filter(|(_, entry)| borders_of(&entry.region).ends_after(&region.start_key));
        let inside = self
            .by_start
            .range::<[u8], _>((std::ops::Bound::Included(&*region.start_key), Unbounded))
            .take_while(|(start, _)| borders_of(region).ends_after(start));
        before.into_iter().chain(inside).map(|(start, _)| start.clone()).collect()
    }

    /// Notes who leads a region that is known.
    pub(crate) fn set_leader(&mut self, region_id: u64, leader: Arc<str>) {
        if let Some(entry) = self.starts.get(&region_id).and_then(|at| self.by_start.get_mut(at)) {
            entry.leader = Some(leader);
        }
    }

    /// Drops a region of which nothing is believed any more.
    pub(crate) fn forget(&mut self, region_id: u64) {
        self.remove(region_id);
    }

    fn remove(&mut self, region_id: u64) -> Option<Entry> {
        let start = self.starts.remove(&region_id)?;
        self.by_start.remove(&start)
    }

    /// The region is not believed to be led from this address any more. What others have learnt
    /// meanwhile stays.
    pub(crate) fn forget_leader(&mut self, region_id: u64, address: &str) {
        if let Some(entry) = self.starts.get(&region_id).and_then(|at| self.by_start.get_mut(at))
            && entry.leader.as_deref() == Some(address)
        {
            entry.leader = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};

    use super::*;

    fn region(id: u64, start: &'static str, end: &'static str, version: u64) -> Region {
        Region {
            region_id: id,
            start_key: start.into(),
            end_key: end.into(),
            epoch: Some(RegionEpoch { conf_ver: 1, version }),
            peers: Vec::new(),
        }
    }

    fn at(address: &str) -> Option<Arc<str>> {
        Some(address.into())
    }

    fn key(key: &str) -> Span {
        Span::Key(Bytes::copy_from_slice(key.as_bytes()))
    }

    fn leader_of(table: &RouteTable, span: &Span) -> Option<String> {
        table.locate(span).map(|route| route.leader.to_string())
    }

    #[test]
    fn a_span_has_a_route_only_if_one_region_holds_all_of_it() {
        let mut table = RouteTable::default();
        table.learn(region(2, "b", "m", 1), at("n1"));
        table.learn(region(3, "m", "", 1), at("n2"));
        let range = |start: &'static str, end: &'static str| Span::Range(KeyRange::new(start, end));
        let keys =
            |keys: &[&'static str]| Span::Keys(keys.iter().copied().map(Bytes::from).collect());
        for (why, span, want) in [
            ("before every region", key("a"), None),
            ("start is inclusive", key("b"), Some("n1")),
            ("end is exclusive", key("m"), Some("n2")),
            ("an open end", key("zzz"), Some("n2")),
            ("keys of one region", keys(&["b", "c"]), Some("n1")),
            ("keys of two regions", keys(&["c", "m"]), None),
            ("no keys", keys(&[]), None),
            ("a range up to the end of the region", range("b", "m"), Some("n1")),
            ("a range over the boundary", range("b", "m\0"), None),
            ("an endless range in a region with an end", range("b", ""), None),
            ("an endless range in the last region", range("n", ""), Some("n2")),
            ("nothing", Span::Nowhere, None),
        ] {
            assert_eq!(leader_of(&table, &span).as_deref(), want, "{why}: {span:?}");
        }
    }

    #[test]
    fn a_split_replaces_the_parent_and_an_old_listing_does_not_bring_it_back() {
        let mut table = RouteTable::default();
        table.learn(region(2, "", "", 1), at("n1"));
        assert!(table.learn(region(2, "", "m", 2), None));
        assert!(table.learn(region(9, "m", "", 2), None));
        assert_eq!(
            leader_of(&table, &key("a")).as_deref(),
            Some("n1"),
            "the parent keeps its leader"
        );
        assert_eq!(leader_of(&table, &key("z")), None, "nobody is known to lead the child");
        assert_eq!(table.region_of(b"z"), Some(9));
        assert!(!table.learn(region(2, "", "", 1), at("n7")), "an old answer came late");
        assert_eq!(table.region_of(b"z"), Some(9));
    }

    #[test]
    fn a_merge_replaces_both_halves() {
        let mut table = RouteTable::default();
        table.learn(region(2, "", "m", 4), at("n1"));
        table.learn(region(9, "m", "", 2), at("n2"));
        assert!(table.learn(region(9, "", "", 5), None));
        assert_eq!(table.region_of(b"a"), Some(9));
        assert_eq!(leader_of(&table, &key("a")).as_deref(), Some("n2"));
        assert_eq!(table.starts.len(), 1);
    }

    #[test]
    fn knowing_the_same_twice_is_no_news() {
        let mut table = RouteTable::default();
        assert!(table.learn(region(2, "", "", 1), at("n1")));
        assert!(!table.learn(region(2, "", "", 1), at("n1")));
        assert!(!table.learn(region(2, "", "", 1), None));
        table.set_leader(2, "n2".into());
        assert!(!table.learn(region(2, "", "", 1), at("n2")));
        table.set_leader(77, "n2".into());
        assert!(!table.starts.contains_key(&77), "an unknown region has no leader to note");
    }

    #[test]
    fn an_old_complaint_does_not_unseat_a_new_leader() {
        let mut table = RouteTable::default();
        table.learn(region(2, "", "m", 1), at("n1"));
        table.forget_leader(2, "n7");
        assert_eq!(leader_of(&table, &key("a")).as_deref(), Some("n1"));
        table.forget_leader(2, "n1");
        assert_eq!(leader_of(&table, &key("a")), None);
        assert_eq!(table.region_of(b"a"), Some(2), "the region itself is still known");
        table.forget(2);
        assert_eq!(table.region_of(b"a"), None);
    }

    /// Descriptions of a key space that splits and merges, learnt in any order and more than once.
    #[test]
    fn the_newest_description_wins_in_whatever_order_they_come() {
        for seed in 0..300 {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut tiling = vec![region(1, "", "", 1)];
            let mut history = tiling.clone();
            for id in 2..20 {
                let at = rng.random_range(0..tiling.len());
                if rng.random_bool(0.6) {
                    split(&mut tiling, at, id, &mut rng);
                } else if at + 1 < tiling.len() {
                    merge(&mut tiling, at);
                } else if let Some(epoch) = &mut tiling[at].epoch {
                    epoch.conf_ver += 1;
                }
                history.extend(tiling.iter().cloned());
            }
            history.shuffle(&mut rng);
            let mut table = RouteTable::default();
            for old in history {
                table.learn(old, at("n1"));
                let ends = table.by_start.values().map(|entry| entry.region.end_key.clone());
                let starts = table.by_start.keys().skip(1).cloned();
                let overlap = ends.zip(starts).any(|(end, start)| end.is_empty() || end > start);
                assert!(!overlap, "seed {seed}: {:?}", table.by_start);
                assert_eq!(table.starts.len(), table.by_start.len(), "seed {seed}");
            }
            let known: Vec<_> = table.by_start.into_values().map(|entry| entry.region).collect();
            assert_eq!(known, tiling, "seed {seed}");
        }
    }

    fn split(tiling: &mut Vec<Region>, at: usize, id: u64, rng: &mut StdRng) {
        let parent = &tiling[at];
        let key = Bytes::from(vec![rng.random::<u8>(), rng.random::<u8>()]);
        if key <= parent.start_key || !borders_of(parent).contains(&key) {
            return;
        }
        let mut child = parent.clone();
        child.region_id = id;
        child.start_key = key.clone();
        let parent = &mut tiling[at];
        parent.end_key = key;
        for half in [parent, &mut child] {
            half.epoch.as_mut().expect("set").version += 1;
        }
        tiling.insert(at + 1, child);
    }

    fn merge(tiling: &mut Vec<Region>, at: usize) {
        let source = tiling.remove(at + 1);
        let target = &mut tiling[at];
        let version = Epoch::of(target).version.max(Epoch::of(&source).version) + 1;
        target.end_key = source.end_key;
        target.epoch.as_mut().expect("set").version = version;
    }
}
