//! What a node counts and measures.
//!
//! One struct per part, made by `register` on a registry that is passed in, so that each test has
//! its own. A metric's name, help, unit and labels are written once, in the part's file. Labels come
//! from closed sets, and each child is resolved when it is registered: recording is a few atomic
//! additions, without a lock and without a lookup. No series per region: ten thousand regions must
//! not make ten thousand series. Units are base units, in the name: `_seconds`, `_bytes`, `_total`.

mod docs;
mod label;
mod placement;
mod process;
mod raft;
mod region;
mod request;
mod runtime;
mod slow;
mod storage;

pub use self::{
    docs::markdown,
    label::{Children, Counters, Gauges, Histograms, Label},
    placement::{NodeStanding, PlacementMetrics, RegionHealth, StepKind, StepResult},
    raft::{
        Direction, ElectionResult, LinkLane, MessageKind, ProposeOutcome, RaftMetrics,
        SnapshotResult, SnapshotUnderWay,
    },
    region::{PeerLoss, PeerRole, RegionMetrics},
    request::{BusyQueue, MethodMetrics, RequestMetrics},
    runtime::RuntimeMetrics,
    slow::{INTERVAL as SLOW_LOG_INTERVAL, SlowLog, config::SlowRequestsConfig},
    storage::{Instance, StorageMetrics},
};

use prometheus::{Encoder as _, Registry, TextEncoder, core::Collector};

/// Everything a node measures. Cloneable handles.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub requests: RequestMetrics,
    pub raft: RaftMetrics,
    pub regions: RegionMetrics,
    pub placement: PlacementMetrics,
    pub storage: StorageMetrics,
    /// Not for Prometheus: which requests were slow.
    pub slow: SlowLog,
}

impl Metrics {
    /// Registers every part, and what the process itself uses.
    ///
    /// # Errors
    /// A name that is registered already, which is a bug: call it once per registry.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        process::register(registry)?;
        let requests = RequestMetrics::register(registry)?;
        let slow = SlowLog::default();
        Ok(Self {
            raft: RaftMetrics::register(registry, requests.clone(), slow.clone())?,
            slow,
            requests,
            regions: RegionMetrics::register(registry)?,
            placement: PlacementMetrics::register(registry)?,
            storage: StorageMetrics::register(registry)?,
        })
    }
}

/// Everything in `registry`, as Prometheus reads it.
#[must_use]
pub fn encode(registry: &Registry) -> String {
    let mut text = Vec::new();
    TextEncoder::new()
        .encode(&registry.gather(), &mut text)
        .expect("a family without metrics is left out by gather, and writing to memory succeeds");
    String::from_utf8(text).expect("names, labels and numbers are text")
}

/// Registers a clone of `metric` and returns it.
fn add<M: Collector + Clone + 'static>(registry: &Registry, metric: M) -> prometheus::Result<M> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

#[cfg(test)]
mod tests;
