//! Work on regions, some at a time, of which none waits for another.
//!
//! What one region needs is begun as soon as there is a place, whatever the others do meanwhile. One that hangs
//! loses its place after a while, and the next one is not begun for it before others had theirs.

use std::{collections::VecDeque, time::Duration};

use futures::future::BoxFuture;
use tokio::{
    task::{Id, JoinSet},
    time::Instant,
};

use crate::{
    ids::RegionId,
    world::{
        clock,
        maps::{HashMap, HashSet},
    },
};

/// See the module. Dropped, all that is under way ends.
pub(super) struct Turns<T> {
    /// Bound: regions that are worked on at a time.
    most: usize,
    /// Bound: what is worked on one region.
    patience: Duration,
    /// Nothing is begun for a region on which work has failed so shortly ago.
    rest: Duration,
    under_way: JoinSet<Option<T>>,
    /// Whom each is for.
    regions: HashMap<Id, RegionId>,
    waiting: VecDeque<(RegionId, BoxFuture<'static, Option<T>>)>,
    /// Bound: one of each region waits or is under way.
    begun: HashSet<RegionId>,
    resting: HashMap<RegionId, Instant>,
}

impl<T: Send + 'static> Turns<T> {
    pub(super) fn new(most: usize, patience: Duration, rest: Duration) -> Self {
        Self {
            most,
            patience,
            rest,
            under_way: JoinSet::new(),
            regions: HashMap::default(),
            waiting: VecDeque::new(),
            begun: HashSet::default(),
            resting: HashMap::default(),
        }
    }

    /// Whether something may be begun for the region now.
    pub(super) fn is_free(&self, region: RegionId) -> bool {
        let rests = |until: &Instant| *until > clock::now();
        !self.begun.contains(&region) && !self.resting.get(&region).is_some_and(rests)
    }

    /// Begins `work`, which answers `None` when it has failed, as soon as there is a place.
    pub(super) fn begin(
        &mut self,
        region: RegionId,
        work: impl Future<Output = Option<T>> + Send + 'static,
    ) {
        if self.begun.insert(region) {
            self.waiting.push_back((region, Box::pin(work)));
            self.fill();
        }
    }

    fn fill(&mut self) {
        while self.under_way.len() < self.most
            && let Some((region, work)) = self.waiting.pop_front()
        {
            let patience = self.patience;
            let bounded = async move { tokio::time::timeout(patience, work).await.ok().flatten() };
            self.regions.insert(self.under_way.spawn(bounded).id(), region);
        }
    }

    /// What was done next for whom, `None` if it failed; waits for ever when there is nothing.
    ///
    /// # Cancel safety
    /// Dropped, nothing is lost.
    pub(super) async fn done(&mut self) -> (RegionId, Option<T>) {
        let (id, done) = match self.under_way.join_next_with_id().await {
            Some(Ok((id, done))) => (id, done),
            // It panicked.
            Some(Err(error)) => (error.id(), None),
            None => std::future::pending().await,
        };
        let region = self.regions.remove(&id).expect("whom it is for is noted as it begins");
        self.begun.remove(&region);
        let now = clock::now();
        self.resting.retain(|_, until| *until > now);
        if done.is_none() {
            self.resting.insert(region, now + self.rest);
        }
        self.fill();
        (region, done)
    }

    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.begun.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::fixture::soon;

    /// As many hang as there are places, and then more.
    #[tokio::test]
    async fn regions_that_hang_hold_up_the_others_once_and_no_longer_than_the_bound() {
        let (patience, rest) = (Duration::from_millis(100), Duration::from_secs(3600));
        let mut turns = Turns::new(4, patience, rest);
        for region in 1..=3 {
            turns.begin(RegionId(region), std::future::pending::<Option<u64>>());
        }
        for region in 11..=40 {
            turns.begin(RegionId(region), async move { Some(region) });
        }
        for region in 11..=40 {
            assert_eq!(soon("the next", turns.done()).await, (RegionId(region), Some(region)));
        }
        assert!(!turns.is_free(RegionId(1)) && turns.is_free(RegionId(11)));
        turns.begin(RegionId(4), std::future::pending());
        turns.begin(RegionId(5), async { panic!("a fault of one region alone") });
        turns.begin(RegionId(11), async { Some(11) });
        let mut ended = Vec::new();
        while !turns.is_idle() {
            ended.push(soon("the next", turns.done()).await);
        }
        ended.sort();
        let hung = (1..=5).map(|region| (RegionId(region), None));
        assert_eq!(ended, hung.chain([(RegionId(11), Some(11))]).collect::<Vec<_>>());
        let free = |region: &u64| turns.is_free(RegionId(*region));
        assert_eq!((1..=40).filter(free).count(), 35, "those that hang rest");
    }

    #[tokio::test]
    async fn region_that_has_failed_is_tried_again_after_its_rest() {
        let rest = Duration::from_millis(20);
        let mut turns = Turns::new(1, Duration::from_secs(60), rest);
        turns.begin(RegionId(1), async { None::<()> });
        assert_eq!(turns.done().await, (RegionId(1), None));
        let began = clock::now();
        while !turns.is_free(RegionId(1)) {
            assert!(began.elapsed() < Duration::from_secs(10), "it rests for ever");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}
