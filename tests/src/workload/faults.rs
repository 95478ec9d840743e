//! Faults at random moments, from a seed.

use std::{fmt, time::Duration};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::harness::{Cluster, elapse};

/// Something that happens to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// kill -9 of one node, restarted after a while.
    Kill,
    /// kill -9 of the node that leads the keys.
    KillLeader,
    /// kill -9 of all nodes at the same moment, restarted at once.
    KillAll,
    /// SIGSTOP of the leader, long enough for another to be elected, then SIGCONT.
    PauseLeader,
    /// SIGSTOP of any node.
    Pause,
    /// SIGTERM of one node, restarted after it has ended.
    Stop,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// A source of faults.
pub struct Faults {
    random: StdRng,
    only: Option<Fault>,
    /// What was done.
    pub done: Vec<Fault>,
}

impl Faults {
    /// The same seed gives the same faults in the same order; when they hit is up to the machine.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { random: StdRng::seed_from_u64(seed), only: None, done: Vec::new() }
    }

    /// As [`Faults::new`], of one kind.
    #[must_use]
    pub fn only(fault: Fault, seed: u64) -> Self {
        Self { only: Some(fault), ..Self::new(seed) }
    }

    /// Does one fault and heals it, which takes some seconds. `key` tells which leader is meant.
    ///
    /// # Panics
    /// When a stopped node does not end in time.
    pub async fn strike(&mut self, cluster: &mut Cluster, key: &[u8]) -> Fault {
        // The first ones are fixed, so that every run has the ones that matter most.
        let fault = match (self.only, self.done.len()) {
            (Some(fault), _) => fault,
            (None, 0) => Fault::KillLeader,
            (None, 1) => Fault::PauseLeader,
            (None, 2) => Fault::KillAll,
            _ => match self.random.random_range(0..100) {
                0..25 => Fault::Kill,
                25..50 => Fault::KillLeader,
                50..60 => Fault::KillAll,
                60..80 => Fault::PauseLeader,
                80..90 => Fault::Pause,
                _ => Fault::Stop,
            },
        };
        let any = self.random.random_range(0..cluster.nodes.len());
        let pause = Duration::from_millis(self.random.random_range(200..1_500));
        let long = Duration::from_millis(self.random.random_range(1_500..3_500));
        match fault {
            Fault::Kill | Fault::KillLeader => {
                let victim = if fault == Fault::Kill { any } else { cluster.leader(key).await };
                cluster.nodes[victim].kill9();
                elapse(pause).await;
                cluster.nodes[victim].relaunch();
            }
            Fault::KillAll => {
                cluster.kill9_all();
                cluster.relaunch_all();
            }
            Fault::PauseLeader | Fault::Pause => {
                let victim = if fault == Fault::Pause { any } else { cluster.leader(key).await };
                cluster.nodes[victim].pause();
                elapse(long).await;
                cluster.nodes[victim].resume();
            }
            Fault::Stop => {
                cluster.nodes[any].terminate(Duration::from_secs(30)).await;
                cluster.nodes[any].relaunch();
            }
        }
        self.done.push(fault);
        fault
    }

    /// A random time between faults.
    pub fn breather(&mut self) -> Duration {
        Duration::from_millis(self.random.random_range(300..1_500))
    }
}
