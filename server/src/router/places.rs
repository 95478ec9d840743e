//! Who of the node's requests is here because of which region.
//!
//! A request has one of the node's places until it is answered. What it waits for is mostly of one region:
//! a leader, a quorum that its proposal needs, the index that a read needs, another node to which it was
//! passed on. A region that hangs would take all places so, and the requests of every other region would
//! find the node busy. So a request is counted to its region from the moment that this is known until its
//! end, whatever it waits for then.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use parking_lot::Mutex;

use super::Whole;
use crate::{ids::RegionId, share::is_fair, world::maps::HashMap};

/// Places of one kind of requests.
#[derive(Debug)]
pub(super) struct Places {
    /// Bound: requests of this kind on the node.
    most: usize,
    /// One that is served by several regions at a time is one here, and one of each of them: a region that
    /// hangs holds all of it.
    all: Arc<AtomicUsize>,
    /// Those that wait to be tried again. Together they are bounded as one region is, or many regions
    /// without a leader would take with little each what one alone may not.
    waiting: AtomicUsize,
    /// Of regions that have no peer here. Only those that hold a place.
    elsewhere: Mutex<HashMap<RegionId, Arc<AtomicUsize>>>,
}

impl Places {
    pub(super) fn new(requests_max: usize) -> Self {
        Self {
            most: requests_max,
            all: Arc::default(),
            waiting: AtomicUsize::new(0),
            elsewhere: Mutex::default(),
        }
    }

    /// A place for a request, or for a part of a whole one, that is held because of `region`, whose places its
    /// peer here counts in `here` if there is one; `None` when the region has its share.
    pub(super) fn enter(
        &self,
        region: RegionId,
        here: Option<&Arc<AtomicUsize>>,
        whole: Option<&Whole>,
    ) -> Option<Place<'_>> {
        let is_here = here.is_some();
        let (count, before) = match here {
            Some(count) => (Arc::clone(count), count.fetch_add(1, Ordering::Relaxed)),
            None => {
                let mut elsewhere = self.elsewhere.lock();
                let count = elsewhere.entry(region).or_default();
                // Ordering: under the lock, so that nobody takes a count away that is in use.
                let before = count.fetch_add(1, Ordering::Relaxed);
                (Arc::clone(count), before)
            }
        };
        match whole {
            Some(whole) => whole.count_in(&self.all),
            None => drop(self.all.fetch_add(1, Ordering::Relaxed)),
        }
        let others = self.all.load(Ordering::Relaxed).saturating_sub(1);
        let is_part = whole.is_some();
        let place = Place { of: self, region, count, is_part, is_here, waits: false };
        is_fair(before, 1, self.most.saturating_sub(others)).then_some(place)
    }
}

/// Given back on drop.
#[derive(Debug)]
pub(super) struct Place<'a> {
    of: &'a Places,
    pub(super) region: RegionId,
    count: Arc<AtomicUsize>,
    /// Its request is counted apart.
    is_part: bool,
    is_here: bool,
    waits: bool,
}

impl Place<'_> {
    /// Whether its request may wait to be tried again.
    pub(super) fn may_wait(&mut self) -> bool {
        if !self.waits {
            let left = self.of.most.saturating_sub(self.of.all.load(Ordering::Relaxed));
            self.waits = true;
            let before = self.of.waiting.fetch_add(1, Ordering::Relaxed);
            if !is_fair(before, 1, left) {
                self.wait_no_more();
            }
        }
        self.waits
    }

    fn wait_no_more(&mut self) {
        if std::mem::take(&mut self.waits) {
            self.of.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.wait_no_more();
        if !self.is_part {
            self.of.all.fetch_sub(1, Ordering::Relaxed);
        }
        if self.count.fetch_sub(1, Ordering::Relaxed) == 1 && !self.is_here {
            let mut elsewhere = self.of.elsewhere.lock();
            let is_free = |count: &Arc<AtomicUsize>| count.load(Ordering::Relaxed) == 0;
            if elsewhere.get(&self.region).is_some_and(is_free) {
                elsewhere.remove(&self.region);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_that_hang_leave_places_to_all_others() {
        let places = Places::new(1000);
        let mut held = Vec::new();
        let here = Arc::default();
        let mut enter = |region, here| {
            let before = held.len();
            while let Some(place) = places.enter(RegionId(region), here, None) {
                held.push(place);
                assert!(held.len() <= 1000, "no bound");
            }
            held.len() - before
        };
        assert_eq!(enter(1, None), 800, "four times what it leaves");
        assert_eq!(enter(2, Some(&here)), 160);
        assert_eq!(enter(3, None), 32);
        assert!(places.enter(RegionId(4), None, None).is_some(), "the first is always let in");
        drop(held);
        assert_eq!(places.all.load(Ordering::Relaxed), 0);
        assert_eq!(here.load(Ordering::Relaxed), 0);
        assert!(places.elsewhere.lock().is_empty());
    }

    #[test]
    fn a_request_over_many_regions_counts_for_one_and_a_region_that_hangs_holds_all_of_it() {
        let places = Places::new(100);
        let mut held = Vec::new();
        let mut wholes = Vec::new();
        while wholes.len() < 100 {
            let whole = Whole::default();
            let enter = |region| places.enter(RegionId(region), None, Some(&whole));
            // The others have answered already, the first one hangs.
            (1..16).for_each(|region| drop(enter(region).expect("they answer")));
            let Some(place) = enter(0) else { break };
            held.push(place);
            wholes.push(whole);
        }
        assert_eq!(held.len(), 80, "four times what it leaves");
        assert_eq!(places.all.load(Ordering::Relaxed), 80);
        drop(held);
        assert_eq!(places.all.load(Ordering::Relaxed), 80, "the requests have not ended");
        drop(wholes);
        assert_eq!(places.all.load(Ordering::Relaxed), 0);
        assert!(places.elsewhere.lock().is_empty());
    }

    #[test]
    fn many_regions_without_a_leader_leave_places_to_those_that_have_one() {
        let places = Places::new(1000);
        let mut held = Vec::new();
        let mut refused = 0;
        for region in 0..1000 {
            let mut place = places.enter(RegionId(region), None, None).expect("its first");
            if place.may_wait() && place.may_wait() {
                held.push(place);
            } else {
                refused += 1;
            }
        }
        assert!((790..=810).contains(&held.len()), "{} wait", held.len());
        assert_eq!(held.len() + refused, 1000);
        drop(held);
        assert_eq!(places.waiting.load(Ordering::Relaxed), 0);
        assert_eq!(places.all.load(Ordering::Relaxed), 0);
    }
}
