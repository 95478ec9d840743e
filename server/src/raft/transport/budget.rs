//! Bytes that may be in memory for one purpose at a time, and who waits for room.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{FutureExt as _, future::BoxFuture};
use parking_lot::Mutex;
use prometheus::IntGauge;
use tokio::sync::Notify;

/// A bound in bytes. What is taken is given back by dropping [`Taken`].
///
/// Bound: whatever finds room may take as much as it needs, so that nothing is too large to ever go; so
/// the bound is passed by one message at most. Once it is reached there is no room until half of it is
/// given back: those who wait are then woken all at once, and nobody who comes later goes before them.
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
    is_full: bool,
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
    pub fn has_room(&self) -> bool {
        !self.state.lock().is_full
    }

    /// `None` when it is used up.
    pub fn try_take(self: &Arc<Self>, bytes: usize) -> Option<Taken> {
        if !self.has_room() {
            return None;
        }
        let mut taken = Taken { budget: Arc::clone(self), bytes: 0 };
        taken.correct(bytes);
        Some(taken)
    }

    /// Takes as soon as there is room.
    pub async fn take(self: &Arc<Self>, bytes: usize) -> Taken {
        loop {
            if let Some(taken) = self.try_take(bytes) {
                return taken;
            }
            self.wait().await;
        }
    }

    /// Returns when there is room, which somebody else may take first.
    async fn wait(&self) {
        loop {
            // Ordering: listens before it looks, so that what is given back in between is heard.
            let notified = self.room.notified();
            if self.has_room() {
                return;
            }
            notified.await;
        }
    }

    fn change(&self, from: usize, to: usize) {
        {
            let mut state = self.state.lock();
            state.used = state.used - from + to;
            let was_full = state.is_full;
            state.is_full =
                state.used >= self.bytes_max || (was_full && state.used > self.bytes_max / 2);
            if was_full && !state.is_full {
                self.room.notify_waiters();
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
    bytes: usize,
}

impl Taken {
    /// Gives back what was taken too much, or takes what was taken too little.
    pub fn correct(&mut self, bytes: usize) {
        self.budget.change(self.bytes, bytes);
        self.bytes = bytes;
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.budget.change(self.bytes, 0);
    }
}

/// Lets its owner through after a pause, and then whenever a budget has room.
pub struct Gate {
    budget: Arc<Budget>,
    pause: Option<BoxFuture<'static, ()>>,
    waiting: Option<BoxFuture<'static, ()>>,
}

impl Gate {
    #[must_use]
    pub fn new(budget: Arc<Budget>, pause: Option<BoxFuture<'static, ()>>) -> Self {
        Self { budget, pause, waiting: None }
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
            if self.budget.has_room() {
                return Poll::Ready(());
            }
            let budget = Arc::clone(&self.budget);
            self.waiting = Some(async move { budget.wait().await }.boxed());
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

    #[test]
    fn whatever_finds_room_is_taken_and_all_else_is_refused() {
        let budget = budget(100);
        let small = budget.try_take(99).expect("room");
        let large = budget.try_take(1_000).expect("a byte of room is room for one more");
        assert!(budget.try_take(1).is_none(), "it is used up");
        drop(large);
        assert!(!budget.has_room(), "more than half is used");
        drop(small);
        assert!(budget.has_room());
        assert_eq!((budget.used(), budget.gauge.get()), (0, 0));
    }

    #[test]
    fn what_was_taken_too_much_is_given_back() {
        let budget = budget(100);
        let mut taken = budget.try_take(100).expect("room");
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
        let first = budget.try_take(10).expect("room");
        let waiting: Vec<_> = (0..20)
            .map(|_| {
                let budget = Arc::clone(&budget);
                tokio::spawn(async move { drop(budget.take(10).await) })
            })
            .collect();
        let mut gate = Gate::new(Arc::clone(&budget), None);
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

    #[tokio::test]
    async fn gate_opens_after_its_pause_only() {
        let (end, pause) = tokio::sync::oneshot::channel::<()>();
        let mut gate = Gate::new(budget(1), Some(pause.map(|_| ()).boxed()));
        let mut through = Box::pin(std::future::poll_fn(|cx| gate.poll(cx)));
        assert!(through.as_mut().now_or_never().is_none(), "it pauses");
        end.send(()).unwrap();
        soon("the end of the pause", through).await;
    }
}
