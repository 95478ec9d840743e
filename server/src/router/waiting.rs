//! Requests that wait for time to mend what refused them: mostly for a region to have a leader again.
//!
//! Each of them keeps its place among the requests of the node until its deadline. A region that has lost
//! its quorum would take all places so, and the requests of every other region would find the node busy.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::{ids::RegionId, share::is_fair};

/// Counts who waits, by region.
#[derive(Debug)]
pub(super) struct Waiting {
    /// Bound: requests of the node.
    requests_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    all: usize,
    /// Only regions for which somebody waits.
    of_regions: HashMap<RegionId, usize>,
}

impl Waiting {
    pub(super) fn new(requests_max: usize) -> Self {
        Self { requests_max, state: Mutex::default() }
    }

    /// A place to wait for a region; `None` when it has its share.
    pub(super) fn enter(&self, region: RegionId) -> Option<Place<'_>> {
        let mut state = self.state.lock();
        let left = self.requests_max.saturating_sub(state.all);
        let of_region = state.of_regions.entry(region).or_default();
        if !is_fair(*of_region, 1, left) {
            return None;
        }
        *of_region += 1;
        state.all += 1;
        Some(Place { of: self, region })
    }
}

/// Given back on drop.
#[derive(Debug)]
pub(super) struct Place<'a> {
    of: &'a Waiting,
    region: RegionId,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.of.state.lock();
        state.all -= 1;
        if let Some(of_region) = state.of_regions.get_mut(&self.region) {
            *of_region -= 1;
            if *of_region == 0 {
                state.of_regions.remove(&self.region);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_that_are_waited_for_leave_places_to_all_others() {
        let waiting = Waiting::new(1000);
        let mut places = Vec::new();
        let mut enter = |region| {
            let before = places.len();
            while let Some(place) = waiting.enter(RegionId(region)) {
                places.push(place);
                assert!(places.len() <= 1000, "no bound");
            }
            places.len() - before
        };
        assert_eq!(enter(1), 800, "four times what it leaves");
        assert_eq!(enter(2), 160);
        assert_eq!(enter(3), 32);
        drop(places);
        assert_eq!(waiting.state.lock().all, 0);
        assert!(waiting.state.lock().of_regions.is_empty());
    }
}
