//! One peer of one Raft group: what it may propose, what it may read, how it lives and dies.

mod arrival;
pub mod carry_out;
mod changing;
pub mod checks;
pub mod clock;
pub mod compact;
mod company;
mod destroyer;
pub mod effects;
mod elections;
pub mod followers;
mod given_up;
mod hand_over;
mod inbox;
pub mod incarnations;
pub mod lifecycle;
mod lost;

pub mod news;
mod opening;
pub mod peers;
pub mod promises;
pub mod propose;
mod rates;
pub mod read;
mod receive;
pub mod reclaim;
pub mod recovery;
mod running;
mod serve;
mod silence;
pub mod size;
mod turns;
mod under_way;
mod weight;

#[cfg(test)]
pub(crate) mod fixture;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize},
    },
    time::Duration,
};

use flotilla_proto::v1;
use openraft::{ServerState, async_runtime::WatchReceiver as _};
use parking_lot::Mutex;
use tokio::{sync::Semaphore, time::Instant};

use self::{checks::Checks, effects::Unmet, read::config::ReadsConfig};
use crate::{
    ids::{NodeId, PeerId, RegionId},
    metrics::Metrics,
    raft::{
        Raft,
        config::RaftConfig,
        log::{config::LogConfig, memory::LogMemory, peer_log::PeerLog, writer::LogWriter},
        proposal::Admissions,
        refusal::Refusals,
        region_view::RegionView,
        reversion::Reversions,
        snapshot::config::SnapshotConfig,
        transport::Transport,
    },
    storage::{disk::Level, engine::Engine},
};

/// What all peers of a node share.
pub struct Environment {
    pub node: NodeId,
    pub data: Arc<dyn Engine>,
    pub log: Arc<dyn Engine>,
    pub writer: LogWriter,
    pub transport: Transport,
    pub config: RegionConfig,
    pub raft_config: Arc<openraft::Config>,
    /// What the logs of all regions keep in memory.
    pub log_memory: Arc<LogMemory>,
    pub metrics: Arc<Metrics>,
    /// Where the tasks of regions run.
    pub runtime: tokio::runtime::Handle,
    /// Bytes of commands that are proposed and not yet answered, over all regions.
    pub proposal_bytes: Arc<AtomicUsize>,
    /// Turns of clients' reads that wait for the disk: [`read::DISK_READS_MAX`] of them.
    pub disk_reads: Arc<Semaphore>,
    /// Checksums that are computed here.
    pub checks: Checks,
    /// What was applied here, and calls for more than apply may do.
    pub unmet: Arc<Unmet>,
    /// Client writes are refused while the disk is low.
    pub disk: Arc<dyn DiskGate>,
    /// Of the cluster, by the newest node table; see `feature_level.rs`.
    pub feature_level: Arc<AtomicU32>,
}

/// Whether the disk has room for more.
pub trait DiskGate: Send + Sync {
    fn level(&self) -> Level;

    /// What it may still be filled with.
    fn available_bytes(&self) -> u64;

    /// `Some(available bytes)` when there is no room for so much more before writes must be refused.
    fn refuse_bytes(&self, bytes: u64) -> Option<u64>;
}

/// Settings of every region on this node.
#[derive(Clone, Debug)]
pub struct RegionConfig {
    pub raft: RaftConfig,
    pub log: LogConfig,
    pub snapshot: SnapshotConfig,
    pub reads: ReadsConfig,
    /// Bound: proposals of one region without an answer; more are `Busy`.
    pub proposals_max: usize,
    /// Bound: bytes of them over the node.
    pub proposal_bytes_max: usize,
}

impl RegionConfig {
    /// Longest time for which a leader may believe that nobody else leads. Openraft grants its lease
    /// for its longest timeout, which is half of ours
    /// (`node/joined.rs`).
    #[must_use]
    pub fn lease(&self) -> Duration {
        self.raft.election_timeout_max / 2
    }
}

/// Places of a node that requests hold because of one region. The router counts them (`router/places.rs`).
#[derive(Debug, Default)]
pub(crate) struct Held {
    pub(crate) requests: Arc<AtomicUsize>,
    pub(crate) scans: Arc<AtomicUsize>,
}

/// A running peer.
pub struct Peer {
    pub region: RegionId,
    pub id: PeerId,
    env: Arc<Environment>,
    raft: Raft,
    view: Arc<RegionView>,
    log: Arc<PeerLog>,
    proposals: Arc<Admissions>,
    reversions: Reversions,
    refusals: Refusals,
    reads: read::Rounds,
    clock: Mutex<clock::RegionClock>,
    silence: silence::Silence,
    size: size::Size,
    rates: rates::Rates,
    large: weight::Large,
    /// Held while a checksum is begun, so that two that ask for one get the same.
    checking: tokio::sync::Mutex<()>,
    /// Held while a change of the region's membership that was ordered here is carried out, and while the lead is
    /// handed over.
    changing_members: Arc<tokio::sync::Mutex<()>>,
    /// The term that this peer was first seen to lead in, and when.
    leading: Mutex<Option<(u64, Instant)>>,
    running: running::Running,
    /// Places of this node's requests that are for the region.
    pub(crate) held: Held,
}

impl Peer {
    /// Asks the other voters for the leadership, if a quorum of them would give it: nothing moves otherwise.
    /// False once the peer has stopped.
    pub async fn ask_to_lead(&self) -> bool {
        let trigger = self.raft.trigger();
        let asking = trigger.elect(true);
        self.unless_stopped(asking).await.is_some_and(|result| result.is_ok())
    }

    #[must_use]
    pub fn view(&self) -> &Arc<RegionView> {
        &self.view
    }

    #[must_use]
    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    #[must_use]
    pub fn log(&self) -> &Arc<PeerLog> {
        &self.log
    }

    /// How long this peer has led in `term`, as far as it was looked at.
    pub(crate) fn leading_for(&self, term: u64) -> Duration {
        let now = crate::world::clock::now();
        let mut leading = self.leading.lock();
        match *leading {
            Some((known, since)) if known == term => now.saturating_duration_since(since),
            _ => {
                *leading = Some((term, now));
                Duration::ZERO
            }
        }
    }

    /// Number of proposals without an answer, also of those that nobody waits for any more.
    #[must_use]
    pub fn proposals_in_flight(&self) -> usize {
        self.proposals.count()
    }

    /// The peer as `Cluster.Status` shows it.
    #[must_use]
    pub fn status(&self) -> v1::PeerStatus {
        let runs = self.runs();
        let metrics = self.raft.metrics().borrow_watched().clone();
        let index = |id: Option<crate::raft::LogId>| id.map_or(0, |id| id.index);
        let rates = self.rates.per_second();
        let contradiction = self.contradiction();
        let role = match metrics.state {
            _ if !runs => "stopped",
            _ if contradiction.is_some() => "contradicted",
            ServerState::Leader => "leader",
            ServerState::Follower => "follower",
            ServerState::Candidate => "candidate",
            ServerState::Learner => "learner",
            ServerState::Shutdown => "stopped",
        };
        v1::PeerStatus {
            region: Some((*self.view.published().descriptor).clone()),
            peer_id: self.id.0,
            role: role.to_owned(),
            term: metrics.current_term.0,
            leader_peer_id: metrics.current_leader.map_or(0, |peer| peer.0),
            last_index: metrics.last_log_index.unwrap_or(0),
            committed_index: index(metrics.cluster_committed),
            applied_index: index(metrics.last_applied),
            snapshot_index: index(metrics.snapshot),
            purged_index: index(metrics.purged),
            reason: contradiction.unwrap_or_default(),
            reads_per_second: rates.reads,
            writes_per_second: rates.writes,
        }
    }
}
