//! Workers at work: tasks of a process test, or of one host of a simulation.

use std::{sync::Arc, time::Duration};

use rand::{SeedableRng as _, rngs::StdRng};
use tokio::{sync::watch, task::JoinSet};

use super::{Plain, Roaming, Stop, Store, UniqueWrites, Worker, Workload};
use crate::harness::{Session, eventually};

/// How long one of [`Crew::writers`] waits before its write counts as one whose outcome is unknown.
const PATIENCE: Duration = Duration::from_secs(3);

/// Those who do one workload, until they are told to stop.
pub struct Crew<W> {
    workload: Arc<W>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl<W: Workload + 'static> Crew<W> {
    /// Starts `count` workers that go on without a pause. The stores are given to them by turns, and `seed` decides what
    /// they choose.
    ///
    /// # Panics
    /// When there are workers and no store.
    #[must_use]
    pub fn start(workload: W, seed: u64, stores: &[Arc<dyn Store>], count: usize) -> Self {
        Self::start_at_pace(workload, seed, stores, count, Duration::ZERO)
    }

    /// As [`Crew::start`], of workers that rest after each answer.
    ///
    /// # Panics
    /// When there are workers and no store.
    #[must_use]
    pub fn start_at_pace(
        workload: W,
        seed: u64,
        stores: &[Arc<dyn Store>],
        count: usize,
        pace: Duration,
    ) -> Self {
        assert!(count == 0 || !stores.is_empty(), "workers need somebody to ask");
        let (stop, told) = watch::channel(false);
        let workload = Arc::new(workload);
        let mut tasks = JoinSet::new();
        for number in 0..count {
            let random = StdRng::seed_from_u64(seed.wrapping_add(1 + number as u64));
            let store = Arc::clone(&stores[number % stores.len()]);
            let worker =
                Worker { pace, ..Worker::new(number, store, random, Stop::Told(told.clone())) };
            let workload = Arc::clone(&workload);
            tasks.spawn(async move { workload.run(worker).await });
        }
        Self { workload, stop, tasks }
    }

    /// What they do, and what they were promised so far.
    #[must_use]
    pub fn workload(&self) -> &W {
        &self.workload
    }

    /// Requests that were answered so far.
    #[must_use]
    pub fn answered(&self) -> usize {
        self.workload.answered()
    }

    /// Waits until `more` further requests were answered.
    ///
    /// # Panics
    /// When that takes longer than `bound`.
    pub async fn progress(&self, more: usize, bound: Duration) {
        let target = self.answered() + more;
        eventually(&format!("{more} more answers"), bound, async || {
            let now = self.answered();
            if now >= target { Ok(()) } else { Err(format!("{now} of {target}")) }
        })
        .await;
    }

    /// Lets each worker end the request it is at, and hands over what they were promised.
    ///
    /// # Panics
    /// When a worker did.
    pub async fn stop(mut self) -> Arc<W> {
        self.stop.send_replace(true);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("a worker does not panic");
        }
        self.workload
    }
}

impl Crew<UniqueWrites> {
    /// Starts `count` writers of values of `value_bytes`, each of which stays with one node until that one fails it.
    ///
    /// # Panics
    /// When there is no session.
    #[must_use]
    pub fn writers(sessions: &[Session], count: usize, value_bytes: usize, prefix: &str) -> Self {
        let stores = Plain::all(sessions, PATIENCE);
        let roaming: Vec<Arc<dyn Store>> = (0..count.max(1))
            .map(|first| Arc::new(Roaming::new(stores.clone(), first)) as Arc<dyn Store>)
            .collect();
        // A writer of unique keys has nothing to choose.
        Self::start(UniqueWrites::new(prefix, value_bytes), 0, &roaming, count)
    }
}
