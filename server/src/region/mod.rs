//! One peer of one Raft group: what it may propose, what it may read, how it lives and dies.

pub mod clock;
pub mod compact;
mod elections;
pub mod followers;
mod hand_over;
pub mod incarnations;
pub mod lifecycle;
pub mod membership;
pub mod peers;
pub mod promises;
pub mod propose;
pub mod read;
mod receive;
pub mod reclaim;
pub mod recovery;
mod serve;
mod silence;
pub mod size;

#[cfg(test)]
pub(crate) mod fixture;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use flotilla_proto::v1;
use openraft::ServerState;
use parking_lot::Mutex;
use tokio::{sync::Semaphore, time::Instant};

use crate::{
    error::Error,
    ids::{NodeId, PeerId, RegionId},
    metrics::Metrics,
    raft::{
        Raft,
        log_store::{LogBounds, PeerLog},
        log_writer::LogWriter,
        proposal::Admissions,
        region_view::RegionView,
        transport::Transport,
    },
    storage::engine::Engine,
};
use openraft::async_runtime::WatchReceiver as _;

/// What all peers of a node share.
pub struct Environment {
    pub node: NodeId,
    pub data: Arc<dyn Engine>,
    pub log: Arc<dyn Engine>,
    pub writer: LogWriter,
    pub transport: Transport,
    pub config: RegionConfig,
    pub raft_config: Arc<openraft::Config>,
    pub metrics: Arc<Metrics>,
    /// Where the tasks of regions run.
    pub runtime: tokio::runtime::Handle,
    /// Bytes of commands that are proposed and not yet answered, over all regions.
    pub proposal_bytes: Arc<AtomicUsize>,
    /// Turns of clients' reads that wait for the disk: [`read::DISK_READS_MAX`] of them.
    pub disk_reads: Arc<Semaphore>,
    /// Client writes are refused while the disk is low.
    pub disk: Arc<dyn DiskGate>,
}

/// Whether the disk has room for more.
pub trait DiskGate: Send + Sync {
    /// `Some(available bytes)` when writes that need space must be refused.
    fn refuse_writes(&self) -> Option<u64>;

    /// `Some(available bytes)` when there is no room for so much more before writes must be refused.
    fn refuse_bytes(&self, bytes: u64) -> Option<u64>;
}

/// Settings of every region on this node.
#[derive(Clone, Debug)]
pub struct RegionConfig {
    pub election_timeout_max: Duration,
    pub heartbeat_interval: Duration,
    /// Bound: proposals of one region without an answer; more are `Busy`.
    pub proposals_max: usize,
    /// Bound: bytes of them over the node.
    pub proposal_bytes_max: usize,
    pub log_bounds: LogBounds,
    pub compact_entries: u64,
    pub compact_bytes: u64,
    pub keep_entries: u64,
    pub catch_up_bytes: u64,
    /// Bound: of all regions together.
    pub catch_up_bytes_max: u64,
    pub snapshot_chunk_bytes: usize,
    /// Bound: snapshots that arrive at a time; further ones are refused.
    pub snapshots_received_max: usize,
    /// Bound: wait for the next part of a snapshot that arrives, after which it is given up.
    pub snapshot_idle_timeout: Duration,
    pub lease_enabled: bool,
}

impl RegionConfig {
    /// Longest time for which a leader may believe that nobody else leads. Openraft grants its lease
    /// for its longest timeout, which is half of ours
    /// (`node/joined.rs`).
    #[must_use]
    pub fn lease(&self) -> Duration {
        self.election_timeout_max / 2
    }
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
    reads: read::Rounds,
    clock: Mutex<clock::RegionClock>,
    silence: silence::Silence,
    size: size::Size,
    /// Held while a checksum is begun, so that two that ask for one get the same.
    checking: tokio::sync::Mutex<()>,
    /// The term that this peer was first seen to lead in, and when.
    leading: Mutex<Option<(u64, Instant)>>,
    stopped: AtomicBool,
}

impl Peer {
    /// Ends the peer in order. Its calls that are under way end unanswered; later ones are refused.
    pub async fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        // It may have failed before; what counts is that it does not run.
        let _ = self.raft.shutdown().await;
    }

    /// The outcome of a call of openraft; `None` when the peer was stopped meanwhile, which openraft
    /// would log as an error of whoever calls.
    async fn unless_stopped<T>(&self, call: impl Future<Output = T>) -> Option<T> {
        let mut call = std::pin::pin!(call);
        // Openraft wakes those that wait for it when it ends.
        std::future::poll_fn(|cx| {
            if self.stopped.load(Ordering::Acquire) {
                return Poll::Ready(None);
            }
            call.as_mut().poll(cx).map(Some)
        })
        .await
    }

    fn has_stopped(&self) -> Error {
        Error::NotReady { message: format!("region {} has stopped", self.region) }
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

    /// Whether this peer believes that it leads. Only a proof (`read.rs`) or a commit shows it.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.raft.server_metrics().borrow_watched().state == ServerState::Leader
    }

    /// The term of the vote that this peer last gave or won.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.raft.server_metrics().borrow_watched().vote.leader_id.term
    }

    /// How long this peer has led in `term`, as far as it was looked at.
    pub(crate) fn leading_for(&self, term: u64) -> Duration {
        let now = crate::clock::now();
        let mut leading = self.leading.lock();
        match *leading {
            Some((known, since)) if known == term => now.saturating_duration_since(since),
            _ => {
                *leading = Some((term, now));
                Duration::ZERO
            }
        }
    }

    /// Peer and node that lead as far as known here.
    #[must_use]
    pub fn leader(&self) -> Option<(PeerId, NodeId)> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let leader = metrics.current_leader?;
        let address = metrics.membership_config.get_node(&leader)?;
        Some((leader, address.node))
    }

    /// The refusal of a request that only the leader can serve.
    pub(crate) fn not_leader(&self) -> Error {
        match self.leader() {
            Some((peer, _)) if peer == self.id => Error::NoLeader { region: self.region },
            Some((peer, node)) => Error::NotLeader {
                region: self.region,
                leader: Some(v1::Leader {
                    peer_id: peer.0,
                    node_id: node.0,
                    client_address: String::new(), // filled in at the edge, from the node table
                }),
            },
            None => Error::NoLeader { region: self.region },
        }
    }

    /// Whether somebody else could lead.
    #[must_use]
    pub fn has_other_voters(&self) -> bool {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.voter_ids().any(|voter| voter != self.id)
    }

    /// As [`Peer::has_other_voters`], from openraft itself: its metrics tell of no members at all until it
    /// has begun to run, so a peer that was just opened would seem to be alone. `None` when it has
    /// stopped.
    async fn knows_other_voters(&self) -> Option<bool> {
        let own = self.id;
        let others = self.raft.with_raft_state(move |state| {
            let memberships =
                [state.membership_state.effective(), state.membership_state.committed()];
            memberships.iter().any(|membership| membership.voter_ids().any(|voter| voter != own))
        });
        self.unless_stopped(others).await?.ok()
    }

    /// Number of proposals without an answer, also of those that nobody waits for any more.
    #[must_use]
    pub fn proposals_in_flight(&self) -> usize {
        self.proposals.count()
    }

    /// The peer as `Cluster.Status` shows it.
    #[must_use]
    pub fn status(&self) -> v1::PeerStatus {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let index = |id: Option<crate::raft::LogId>| id.map_or(0, |id| id.index);
        let role = match metrics.state {
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
            term: metrics.current_term,
            leader_peer_id: metrics.current_leader.map_or(0, |peer| peer.0),
            last_index: metrics.last_log_index.unwrap_or(0),
            committed_index: index(metrics.cluster_committed),
            applied_index: index(metrics.last_applied),
            snapshot_index: index(metrics.snapshot),
            purged_index: index(metrics.purged),
        }
    }
}
