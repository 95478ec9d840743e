//! Snapshots that come in.

use std::time::Duration;

use flotilla_proto::range::KeyRange;
use tokio::time::Instant;

use crate::{ids::RegionId, world::maps::HashMap};

/// How long a snapshot may take before it is worth a word that others wait for its place. A large one over a slow link
/// takes longer, and is no fault.
pub(super) const LONG: Duration = Duration::from_secs(5 * 60);

/// A snapshot that is being received or installed.
pub(super) struct UnderWay {
    pub(super) range: KeyRange,
    since: Instant,
    /// If it is still here then, its install hangs.
    pub(super) hangs_from: Option<Instant>,
    /// It was told that others wait for its place.
    told: bool,
}

impl UnderWay {
    pub(super) fn begins(range: KeyRange, now: Instant) -> Self {
        Self { range, since: now, hangs_from: None, told: false }
    }

    /// Whether it counts among those that are received at a time.
    pub(super) fn has_place(&self, now: Instant) -> bool {
        self.hangs_from.is_none_or(|from| now < from)
    }
}

/// The regions of the snapshots that have places, if each of them has had its own for [`LONG`]. Told once of the same
/// ones.
pub(super) fn long_in_their_places(
    receiving: &mut HashMap<RegionId, UnderWay>,
    now: Instant,
) -> Option<Vec<RegionId>> {
    let placed = || receiving.iter().filter(|(_, of)| of.has_place(now));
    if placed().all(|(_, of)| of.told) || placed().any(|(_, of)| now - of.since < LONG) {
        return None;
    }
    let mut regions: Vec<_> = placed().map(|(region, _)| *region).collect();
    regions.sort_unstable();
    receiving.values_mut().for_each(|of| of.told = true);
    Some(regions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::clock;

    #[test]
    fn places_that_are_all_taken_for_long_are_told_once() {
        let start = clock::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let begins = |seconds| UnderWay::begins(KeyRange::default(), after(seconds));
        let mut receiving: HashMap<_, _> =
            [(RegionId(3), begins(0)), (RegionId(2), begins(60))].into_iter().collect();
        let hangs = UnderWay { hangs_from: Some(after(10)), ..begins(5) };
        receiving.insert(RegionId(1), hangs);
        let told = |receiving: &mut HashMap<RegionId, UnderWay>, seconds| {
            long_in_their_places(receiving, after(seconds)).unwrap_or_default()
        };
        assert_eq!(told(&mut receiving, 359), [], "one of them has just come");
        assert_eq!(told(&mut receiving, 360), [RegionId(2), RegionId(3)]);
        assert_eq!(told(&mut receiving, 720), [], "it was told");
        receiving.insert(RegionId(4), begins(800));
        assert_eq!(told(&mut receiving, 1_099), []);
        assert_eq!(told(&mut receiving, 1_100), [RegionId(2), RegionId(3), RegionId(4)]);
    }
}
