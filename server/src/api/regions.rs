//! Cutting a request along the borders of regions.

use bytes::Bytes;
use flotilla_proto::{
    range::KeyRange,
    region::{borders_of, range_of},
    v1,
};

use crate::{error::Error, ids::RegionId, router::Requests};

/// Regions in key order, as known at one moment. It may be old: the next hop checks.
#[derive(Debug)]
pub(super) struct RegionMap(Vec<v1::Region>);

impl RegionMap {
    /// The regions that `range` touches.
    pub(super) fn covering<R: Requests>(requests: &R, range: &KeyRange) -> Result<Self, Error> {
        requests.regions_of(range).map(Self)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn ids(&self) -> Vec<RegionId> {
        self.0.iter().map(|region| RegionId(region.region_id)).collect()
    }

    pub(super) fn get(&self, index: usize) -> &v1::Region {
        &self.0[index]
    }

    /// Index of the region that holds `key`.
    pub(super) fn index_of(&self, key: &[u8]) -> Result<usize, Error> {
        let after = self.0.partition_point(|region| region.start_key <= key);
        match after.checked_sub(1) {
            Some(index) if borders_of(&self.0[index]).ends_after(key) => Ok(index),
            _ => Err(unknown()),
        }
    }

    /// Each region's part of `range`, which must not be empty, in key order.
    ///
    /// # Errors
    ///
    /// `NotReady` when the known regions leave a gap in it.
    pub(super) fn split(&self, range: &KeyRange) -> Result<Vec<(usize, KeyRange)>, Error> {
        let mut parts = Vec::new();
        let mut start = range.start.clone();
        for index in self.index_of(&start)?..self.0.len() {
            let region = &self.0[index];
            if region.start_key > start {
                return Err(unknown());
            }
            let part = KeyRange { start, end: range.end.clone() }.clip(&range_of(region));
            start = part.end.clone();
            parts.push((index, part));
            if start == range.end {
                return Ok(parts);
            }
        }
        Err(unknown())
    }
}

/// The part of a range that comes first in the direction of travel and lies in one region, with
/// that region.
///
/// # Errors
///
/// As [`Requests::regions_of`].
pub(super) fn first_part<R: Requests>(
    requests: &R,
    range: &KeyRange,
    reverse: bool,
) -> Result<(RegionId, KeyRange), Error> {
    if !reverse {
        let mut after = range.start.to_vec();
        after.push(0);
        let map = RegionMap::covering(requests, &KeyRange::new(range.start.clone(), after))?;
        let region = map.get(map.index_of(&range.start)?);
        return Ok((RegionId(region.region_id), range.clip(&range_of(region))));
    }
    let near_end = before(&range.end).filter(|key| *key > range.start);
    let start = near_end.unwrap_or_else(|| range.start.clone());
    let map = RegionMap::covering(requests, &KeyRange { start, end: range.end.clone() })?;
    let reaches = |region: &&v1::Region| borders_of(region).reaches(&range.end);
    let Some(region) = map.0.last().filter(reaches) else {
        return Err(unknown());
    };
    Ok((RegionId(region.region_id), range.clip(&range_of(region))))
}

/// A key a little smaller than `end`, so that few regions lie between the two. `None` for the end
/// of the map.
fn before(end: &[u8]) -> Option<Bytes> {
    /// More than any key that was put between two neighbours by accident.
    const PADDING: [u8; 8] = [0xff; 8];
    let (last, head) = end.split_last()?;
    let mut key = head.to_vec();
    if let Some(smaller) = last.checked_sub(1) {
        key.push(smaller);
        key.extend_from_slice(&PADDING);
    }
    Some(key.into())
}

fn unknown() -> Error {
    Error::NotReady { message: "a part of the key space is not known here yet".into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fake::FakeRequests;

    fn range(start: &'static str, end: &'static str) -> KeyRange {
        KeyRange::new(start, end)
    }

    fn map(requests: &FakeRequests, of: &KeyRange) -> RegionMap {
        RegionMap::covering(requests, of).expect("the fake knows all regions")
    }

    #[test]
    fn keys_find_their_region_and_ranges_are_cut_without_gap_or_overlap() {
        let requests = FakeRequests::with_regions(&[b"g", b"p"]);
        let all = map(&requests, &range("", ""));
        for (key, want) in [("", 0), ("a", 0), ("fz", 0), ("g", 1), ("o", 1), ("p", 2), ("zz", 2)] {
            assert_eq!(all.index_of(key.as_bytes()), Ok(want), "{key}");
        }
        for (asked, want) in [
            (range("a", "b"), vec![(0, range("a", "b"))]),
            (range("a", "g"), vec![(0, range("a", "g"))]),
            (range("g", "g\0"), vec![(1, range("g", "g\0"))]),
            (
                range("a", "z"),
                vec![(0, range("a", "g")), (1, range("g", "p")), (2, range("p", "z"))],
            ),
            (range("h", ""), vec![(1, range("h", "p")), (2, range("p", ""))]),
        ] {
            assert_eq!(all.split(&asked), Ok(want), "{asked:?}");
        }
    }

    #[test]
    fn gap_in_the_known_regions_is_not_skipped() {
        let region = |start: &'static str, end: &'static str| v1::Region {
            start_key: start.into(),
            end_key: end.into(),
            ..v1::Region::default()
        };
        let holey = RegionMap(vec![region("a", "c"), region("e", "g")]);
        for missing in ["", "c", "d", "g", "z"] {
            assert!(holey.index_of(missing.as_bytes()).is_err(), "{missing}");
        }
        assert!(holey.split(&range("a", "f")).is_err());
        assert!(holey.split(&range("e", "h")).is_err());
        assert!(holey.split(&range("e", "")).is_err());
    }

    #[test]
    fn first_part_is_the_one_next_in_the_direction_of_travel() {
        let requests = FakeRequests::with_regions(&[b"g", b"p", b"px"]);
        for (asked, forward, reverse) in [
            (range("a", "z"), range("a", "g"), range("px", "z")),
            (range("a", ""), range("a", "g"), range("px", "")),
            (range("a", "g"), range("a", "g"), range("a", "g")),
            (range("a", "g\0"), range("a", "g"), range("g", "g\0")),
            (range("h", "q"), range("h", "p"), range("px", "q")),
            (range("h", "pxa"), range("h", "p"), range("px", "pxa")),
            (range("h", "px"), range("h", "p"), range("p", "px")),
        ] {
            let part = |reverse| first_part(&requests, &asked, reverse).map(|(_, part)| part);
            assert_eq!(part(false), Ok(forward), "{asked:?}");
            assert_eq!(part(true), Ok(reverse), "{asked:?} in reverse");
        }
    }
}
