//! Workloads, and those who do them.
//!
//! A [`Workload`] is what clients do to a store and what must hold of it afterwards: it keeps the book of what they were
//! promised. Any number of [`Worker`]s do it at once, each one request at a time, wherever they run: tasks of a process
//! test, a pod, clients of a simulation. `workload.run(Worker::new(0, store, random, Stop::At(instant))).await`
//! does it until then; when all have ended and the cluster is whole again, `workload.check(&[store]).await` reads
//! everything back through each of the stores and judges. Time is tokio's, and every choice comes from the worker's
//! generator, so a simulation sees the same again.

use std::{sync::Arc, time::Duration};

use rand::rngs::StdRng;
use tokio::{sync::watch, time::Instant};

use super::Store;

/// What clients do to a store, and what must hold afterwards.
#[tonic::async_trait]
pub trait Workload: Send + Sync {
    /// One worker's part, until it is told to stop. What was under way then is ended first.
    async fn run(&self, worker: Worker);

    /// What it is called, for people.
    fn name(&self) -> &'static str;

    /// Requests that were answered so far. Whether that is enough to show anything is for the caller to say.
    fn answered(&self) -> usize;

    /// Those of them that changed something.
    fn changed(&self) -> usize {
        self.answered()
    }

    /// Reads everything back through each of the stores, after all workers have ended, and judges.
    ///
    /// # Errors
    /// Says which promise was broken, or what cannot be read though nothing hinders it.
    async fn check(&self, stores: &[Arc<dyn Store>]) -> Result<(), String>;
}

/// One of those who do the work.
pub struct Worker {
    /// Its number, which no other worker of this workload has.
    pub number: usize,
    /// Whom it asks.
    pub store: Arc<dyn Store>,
    /// Decides everything that it chooses.
    pub random: StdRng,
    /// Its pause after each answer.
    pub pace: Duration,
    /// Its pause after a request that failed.
    pub hold_back: Duration,
    /// When it ends.
    pub stop: Stop,
}

impl Worker {
    /// One that goes on without a pause while it is answered.
    #[must_use]
    pub fn new(number: usize, store: Arc<dyn Store>, random: StdRng, stop: Stop) -> Self {
        let hold_back = Duration::from_millis(20);
        Self { number, store, random, pace: Duration::ZERO, hold_back, stop }
    }

    /// Waits as long as is right after a request that was answered, or was not.
    pub async fn rest(&mut self, answered: bool) {
        let pause = if answered { self.pace } else { self.hold_back };
        if !pause.is_zero() {
            self.stop.within(pause).await;
        }
    }
}

/// When a worker ends.
#[derive(Clone, Debug)]
pub enum Stop {
    /// At this moment.
    At(Instant),
    /// When it is told.
    Told(watch::Receiver<bool>),
}

impl Stop {
    /// Whether it is over.
    #[must_use]
    pub fn is_now(&self) -> bool {
        match self {
            Self::At(instant) => Instant::now() >= *instant,
            Self::Told(told) => *told.borrow(),
        }
    }

    /// Waits so long, or until it is over.
    pub async fn within(&mut self, pause: Duration) {
        match self {
            Self::At(instant) => {
                tokio::time::sleep_until((*instant).min(Instant::now() + pause)).await;
            }
            Self::Told(told) => {
                let _ = tokio::time::timeout(pause, told.wait_for(|stop| *stop)).await;
            }
        }
    }
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
