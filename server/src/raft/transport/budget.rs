//! Bytes that may be in memory for one purpose at a time, and who waits for room.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use parking_lot::Mutex;
use prometheus::IntGauge;
use tokio::{sync::Notify, time::Instant};

use crate::{
    ids::RegionId,
    share::is_fair,
    world::{clock, maps::HashMap},
};

/// Longest that room is left unused for others to give back more. What is not given back by then may be held
/// by regions that hang.
const LULL_MAX: Duration = Duration::from_millis(100);

/// A bound in bytes, which regions share. What is taken is given back by dropping [`Taken`].
///
/// Bound: whatever finds room may take as much as it needs, so that nothing is too large to ever go; so
/// the bound is passed by one message at most. No region finds room beyond four times what it leaves to all
/// others: where one hangs, what it has is not given back for long. Once somebody waits because the bound is
/// reached there is no room until half of it is given back, or for a tenth of a second: those who wait are then
/// woken all at once, and nobody who comes later goes before them.
#[derive(Debug)]
pub struct Budget {
    bytes_max: usize,
    state: Mutex<State>,
    room: Notify,
    gauge: IntGauge,
}

#[derive(Debug, Default)]
struct State {
    used: usize,
    /// Only of regions that have some.
    of_regions: HashMap<RegionId, usize>,
    /// Since when somebody waits because the bound is reached.
    waited_since: Option<Instant>,
    /// Regions that wait for some of their own to be given back.
    over_share: HashMap<RegionId, Arc<Notify>>,
}

/// What somebody finds who looks for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Room,
    /// All of it is used, or kept for those who wait.
    Full,
    /// The region has its share.
    OverShare,
}

impl Budget {
    /// `gauge` is moved by what is in use; several budgets may share one.
    #[must_use]
    pub fn new(bytes_max: usize, gauge: IntGauge) -> Arc<Self> {
        Arc::new(Self { bytes_max, state: Mutex::default(), room: Notify::new(), gauge })
    }

    #[must_use]
    pub fn used(&self) -> usize {
        self.state.lock().used
    }

    #[must_use]
    pub fn has_room(&self, region: RegionId) -> bool {
        self.look(&mut self.state.lock(), region) == Look::Room
    }

    fn look(&self, state: &mut State, region: RegionId) -> Look {
        let left = self.bytes_max.saturating_sub(state.used);
        if let Some(since) = state.waited_since {
            if left == 0 || since.elapsed() < LULL_MAX {
                return Look::Full;
            }
            self.open(state);
        }
        let held = state.of_regions.get(&region).copied().unwrap_or(0);
        match left {
            0 => Look::Full,
            left if is_fair(held, 1, left) => Look::Room,
            _ => Look::OverShare,
        }
    }

    /// Ends the wait of all who wait for room.
    fn open(&self, state: &mut State) {
        state.waited_since = None;
        self.room.notify_waiters();
    }

    /// `None` when it is used up, or the region has its share.
    pub fn try_take(self: &Arc<Self>, region: RegionId, bytes: usize) -> Option<Taken> {
        self.try_take_if(region, bytes, |state| self.look(state, region) == Look::Room)
    }

    /// As [`Budget::try_take`] for somebody whom a [`RoomGate`] has just let through: `None` only when it is used
    /// up. What others have taken since may have made the share of the region smaller.
    pub fn try_take_let_through(self: &Arc<Self>, region: RegionId, bytes: usize) -> Option<Taken> {
        self.try_take_if(region, bytes, |state| state.used < self.bytes_max)
    }

    fn try_take_if(
        self: &Arc<Self>,
        region: RegionId,
        bytes: usize,
        may: impl FnOnce(&mut State) -> bool,
    ) -> Option<Taken> {
        let mut state = self.state.lock();
        // Ordering: both under one lock, or as many as look at a time would pass the bound.
        may(&mut state).then(|| {
            let mut taken = Taken { budget: Arc::clone(self), region, bytes: 0 };
            taken.correct_within(&mut state, bytes);
            taken
        })
    }

    /// Takes as soon as there is room.
    pub async fn take(self: &Arc<Self>, region: RegionId, bytes: usize) -> Taken {
        loop {
            if let Some(taken) = self.try_take(region, bytes) {
                return taken;
            }
            self.wait(region).await;
        }
    }

    /// Returns when there is room, which somebody else may take first.
    async fn wait(&self, region: RegionId) {
        loop {
            let over_share = {
                let mut state = self.state.lock();
                match self.look(&mut state, region) {
                    Look::Room => return,
                    Look::Full => None,
                    Look::OverShare => {
                        Some(Arc::clone(state.over_share.entry(region).or_default()))
                    }
                }
            };
            // Ordering: listens before it looks, so that what is given back in between is heard.
            let given_back = async {
                match &over_share {
                    Some(given_back) => given_back.notified().await,
                    None => self.room.notified().await,
                }
            };
            let mut given_back = Box::pin(given_back);
            let heard = futures::poll!(&mut given_back).is_ready();
            {
                let mut state = self.state.lock();
                match self.look(&mut state, region) {
                    Look::Room => return,
                    Look::Full => {
                        state.waited_since.get_or_insert_with(clock::now);
                    }
                    Look::OverShare => {}
                }
            }
            if !heard {
                // Bound: looks again also if nothing is given back.
                let _ = tokio::time::timeout(LULL_MAX, given_back).await;
            }
        }
    }

    fn change(&self, state: &mut State, region: RegionId, from: usize, to: usize) {
        state.used = state.used - from + to;
        let held = state.of_regions.entry(region).or_default();
        *held = *held - from + to;
        if *held == 0 {
            state.of_regions.remove(&region);
        }
        if to < from {
            if state.waited_since.is_some() && state.used <= self.bytes_max / 2 {
                self.open(state);
            }
            if let Some(waiting) = state.over_share.remove(&region) {
                waiting.notify_waiters();
            }
        }
        let signed = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.gauge.add(signed(to) - signed(from));
    }
}

/// A part of a [`Budget`] that is in use.
#[derive(Debug)]
pub struct Taken {
    budget: Arc<Budget>,
    region: RegionId,
    bytes: usize,
}

impl Taken {
    /// Gives back what was taken too much, or takes what was taken too little.
    pub fn correct(&mut self, bytes: usize) {
        let budget = Arc::clone(&self.budget);
        self.correct_within(&mut budget.state.lock(), bytes);
    }

    fn correct_within(&mut self, state: &mut State, bytes: usize) {
        self.budget.change(state, self.region, self.bytes, bytes);
        self.bytes = bytes;
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.budget.change(&mut self.budget.state.lock(), self.region, self.bytes, 0);
    }
}

/// Lets its owner through after a pause, and then whenever a budget has room for its region.
pub struct RoomGate {
    budget: Arc<Budget>,
    region: RegionId,
    pause: Option<BoxFuture<'static, ()>>,
    waiting: Option<BoxFuture<'static, ()>>,
}

impl RoomGate {
    #[must_use]
    pub fn new(
        budget: Arc<Budget>,
        region: RegionId,
        pause: Option<BoxFuture<'static, ()>>,
    ) -> Self {
        Self { budget, region, pause, waiting: None }
    }

    /// Ready when its owner may go on; else wakes it then.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(pause) = &mut self.pause {
            std::task::ready!(Pin::new(pause).poll(cx));
            self.pause = None;
        }
        loop {
            if let Some(waiting) = &mut self.waiting {
                std::task::ready!(Pin::new(waiting).poll(cx));
                self.waiting = None;
            }
            if self.budget.has_room(self.region) {
                return Poll::Ready(());
            }
            let (budget, region) = (Arc::clone(&self.budget), self.region);
            self.waiting = Some(async move { budget.wait(region).await }.boxed());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::fixture::soon;

    fn budget(bytes_max: usize) -> Arc<Budget> {
        Budget::new(bytes_max, IntGauge::new("used", "used").unwrap())
    }

    const REGION: RegionId = RegionId(1);

    #[test]
    fn whatever_finds_room_is_taken_and_all_else_is_refused() {
        let budget = budget(100);
        let small = budget.try_take(RegionId(1), 99).expect("room");
        let large =
            budget.try_take(RegionId(2), 1_000).expect("a byte of room is room for one more");
        assert!(budget.try_take(RegionId(3), 1).is_none(), "it is used up");
        drop(large);
        assert!(budget.has_room(RegionId(3)));
        drop(small);
        assert_eq!((budget.used(), budget.gauge.get()), (0, 0));
        let state = budget.state.lock();
        assert!(state.of_regions.is_empty() && state.over_share.is_empty());
    }

    #[test]
    fn what_was_taken_too_much_is_given_back() {
        let budget = budget(100);
        let mut taken = budget.try_take(REGION, 100).expect("room");
        taken.correct(10);
        assert_eq!(budget.used(), 10);
        taken.correct(150);
        assert_eq!(budget.used(), 150);
        drop(taken);
        assert_eq!((budget.used(), budget.gauge.get()), (0, 0));
    }

    #[tokio::test]
    async fn all_who_wait_get_their_turn_also_when_one_of_them_goes_away() {
        let budget = budget(10);
        let first = budget.try_take(REGION, 10).expect("room");
        let waiting: Vec<_> = (0..20)
            .map(|_| {
                let budget = Arc::clone(&budget);
                tokio::spawn(async move { drop(budget.take(REGION, 10).await) })
            })
            .collect();
        let mut gate = RoomGate::new(Arc::clone(&budget), REGION, None);
        let mut through = Box::pin(std::future::poll_fn(|cx| gate.poll(cx)));
        assert!(through.as_mut().now_or_never().is_none(), "no room");
        tokio::task::yield_now().await;
        waiting[0].abort();
        drop(first);
        for (index, waiting) in waiting.into_iter().enumerate() {
            let ended = soon("a turn", waiting).await;
            assert!(index == 0 || ended.is_ok());
        }
        soon("a turn", through).await;
    }

    /// Receivers that hang give nothing back; whoever else speaks to that node goes on.
    #[tokio::test]
    async fn regions_that_hang_leave_room_to_all_others() {
        let budget = budget(32 << 10);
        let mut hung = Vec::new();
        for region in 1..=8 {
            let before = hung.len();
            // As much as one stream has on its way.
            while hung.len() - before < 4 << 10
                && let Some(taken) = budget.try_take(RegionId(region), 1)
            {
                hung.push(taken);
            }
            assert!(hung.len() > before);
        }
        let left = (32 << 10) - budget.used();
        assert!(left > 512, "{left} bytes are left");
        let healthy = RegionId(9);
        for large in [false, true] {
            for _ in 0..100 {
                let taken = budget.try_take(healthy, if large { left } else { 10 });
                drop(taken.expect("room"));
            }
        }
        // Somebody waits since all is used. What comes back is less than half, and is all that moves.
        let all = budget.try_take(healthy, left).expect("room");
        let mut waiting = Box::pin(budget.take(RegionId(10), 1));
        assert!(waiting.as_mut().now_or_never().is_none(), "no room");
        drop(all);
        soon("a turn", waiting).await;
        budget.try_take(healthy, 1).expect("room");
        drop(hung);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn region_that_has_its_share_goes_on_as_soon_as_some_is_given_back() {
        let budget = budget(100);
        let mut held: Vec<_> =
            std::iter::from_fn(|| budget.try_take(REGION, 10)).take(100).collect();
        assert_eq!(held.len(), 8, "four times what it leaves");
        let mut waiting = Box::pin(budget.take(REGION, 10));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(budget.try_take(RegionId(2), 10).expect("others have room"));
        held.pop();
        assert!(waiting.as_mut().now_or_never().is_some(), "at once");
    }

    #[tokio::test]
    async fn gate_opens_after_its_pause_only() {
        let (end, pause) = tokio::sync::oneshot::channel::<()>();
        let mut gate = RoomGate::new(budget(1), REGION, Some(pause.map(|_| ()).boxed()));
        let mut through = Box::pin(std::future::poll_fn(|cx| gate.poll(cx)));
        assert!(through.as_mut().now_or_never().is_none(), "it pauses");
        end.send(()).unwrap();
        soon("the end of the pause", through).await;
    }
}
