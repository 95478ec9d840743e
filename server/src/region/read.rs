//! Reads that are never older than the last acknowledged write.
//!
//! A leader can be replaced without noticing: a partition hid the election, or the process was
//! paused. Answering from local state is therefore wrong until something proves that no newer leader
//! has committed anything. Two proofs are offered. A *read index* asks a quorum whether we still
//! lead, then waits until everything committed before the question is applied here; it costs a round
//! trip and trusts no clock. All reads of a region that arrive while a round is under way share the
//! next one. A *lease read* skips the question while a quorum has answered within two thirds of the
//! lease; it is free, and correct only while clocks drift apart by less than the remaining third
//! during one lease, and because a restarted node does not vote within one lease of its start
//! (`inbox.rs`). A follower asks the leader for the index and answers by itself. Neither touches the
//! log.
//!
//! An answer is of one state. Rows are read from a pinned view, and so are the time by which values
//! expire, the revision, and the epoch, which must be that by which the read was routed: apply writes
//! them together with the rows. A transaction that only reads is such a read. Pinning takes a lock of the
//! engine, so one key that is in memory is read without: the row is then of some state between the
//! published one and now, each of which answers the read rightly, and the revision that is told is
//! never below the row's.

pub mod config;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use flotilla_proto::{
    region::Epoch,
    v1::{self, message::Body, read_command},
};
use openraft::{
    ReadPolicy,
    errors::{LinearizableReadError, RaftError},
    raft::linearizable_read::LinearizerOption,
};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::Peer;
use crate::{
    command,
    error::Error,
    ids::{NodeId, PeerId, RegionId},
    raft::{
        LogId,
        convert::log_id_from_proto,
        region_state::read_state,
        region_view::{Published, RegionView},
        transport::Lane,
    },
    storage::{
        batch::Family,
        engine::{self, Engine, Quick},
    },
    world::{
        Mark, blocking, clock, handoff,
        known_bad::{self, Fault},
        sometimes,
    },
};

/// Bound: reads that wait for one region's rounds; more are `Busy`.
const WAITING_MAX: usize = 65_536;

/// Bound: reads of clients on threads that may block, over all regions of a node. The pool has 512, which
/// apply and the log's reads need too. Further ones wait for a turn, no longer than their callers do, and
/// leave nothing behind in the pool's queue.
pub const DISK_READS_MAX: usize = 128;

/// A larger value is copied on a thread that may block: it takes longer than what other clients, and the
/// heartbeats of all regions, should wait for.
pub(super) const COPIED_HERE_BYTES_MAX: usize = 64 << 10;

/// One turn is enough for so many bytes; a value that is known to be larger takes more of them.
///
/// Bound: with [`DISK_READS_MAX`] turns, 64 MiB of large values are copied at a time.
const TURN_BYTES: usize = 512 << 10;

/// What has to be applied for a read: the newest entry that was committed, of the term of who leads.
type Answer = Result<LogId, Error>;

/// Shares confirmation rounds between the reads of a region.
#[derive(Default)]
pub(super) struct Rounds {
    state: Mutex<RoundsState>,
}

#[derive(Default)]
struct RoundsState {
    waiting: Vec<handoff::Sender<Answer>>,
    running: bool,
}

impl Peer {
    /// Reads, with the proof that `mode` asks for.
    ///
    /// # Errors
    /// Certain: a read changes nothing.
    pub async fn read(
        self: &Arc<Self>,
        read: &v1::ReadCommand,
        deadline: Instant,
    ) -> Result<v1::ReadReply, Error> {
        self.rates.read();
        match read.read_mode() {
            v1::ReadMode::Stale => {}
            v1::ReadMode::Lease
                if self.env.config.reads.lease_enabled
                    && tokio::time::timeout_at(deadline, self.lease_holds())
                        .await
                        .unwrap_or(false) => {}
            v1::ReadMode::Lease | v1::ReadMode::Linearizable | v1::ReadMode::Unspecified => {
                let proven = async {
                    let read = self.read_index().await?;
                    if known_bad::is(Fault::ReadBeforeItsIndex) {
                        return Ok(());
                    }
                    self.view.wait_applied(read.index).await;
                    let applied = self.view.with(|now| now.applied);
                    if is_of_its_log(applied.as_ref(), &read) {
                        Ok(())
                    } else {
                        Err(self.not_leader())
                    }
                };
                tokio::time::timeout_at(deadline, proven).await.map_err(|_| late())??;
            }
        }
        self.read_local(read, deadline).await
    }

    /// The index that a read which starts now must wait for, from a shared round.
    ///
    /// # Errors
    /// When nobody leads, or no quorum confirms it.
    pub async fn read_index(self: &Arc<Self>) -> Answer {
        let (tell, told) = handoff::channel();
        let start = {
            let mut state = self.reads.state.lock();
            if state.waiting.len() >= WAITING_MAX {
                self.env.metrics.raft.busy("reads");
                return Err(Error::Busy {
                    queue: "reads".to_owned(),
                    retry_after: self.env.config.raft.heartbeat_interval,
                });
            }
            state.waiting.push(tell);
            !std::mem::replace(&mut state.running, true)
        };
        if start {
            let peer = Arc::clone(self);
            self.env.runtime.spawn(async move { peer.run_rounds().await });
        }
        told.await.unwrap_or(Err(Error::NoLeader { region: self.region }))
    }

    /// Makes sure that this peer leads: it did after the call began, as a quorum says.
    ///
    /// # Errors
    /// When it does not, or no quorum confirms it.
    pub async fn prove_lead(self: &Arc<Self>) -> Result<(), Error> {
        let term = self.leads().ok_or_else(|| self.not_leader())?;
        self.read_index().await?;
        if self.leads() == Some(term) { Ok(()) } else { Err(self.not_leader()) }
    }

    async fn run_rounds(self: Arc<Self>) {
        loop {
            let waiting = {
                let mut state = self.reads.state.lock();
                if state.waiting.is_empty() {
                    state.running = false;
                    return;
                }
                std::mem::take(&mut state.waiting)
            };
            let started = clock::now();
            // Bound: a quorum that does not answer within an election timeout will not.
            let answer =
                tokio::time::timeout(self.env.config.raft.election_timeout_max, self.confirm())
                    .await
                    .unwrap_or(Err(Error::NoLeader { region: self.region }));
            self.env.metrics.raft.observe_read_index(started.elapsed());
            let late = match known_bad::is(Fault::StaleRound) {
                true => std::mem::take(&mut self.reads.state.lock().waiting),
                false => Vec::new(),
            };
            for tell in waiting.into_iter().chain(late) {
                tell.send(answer.clone());
            }
        }
    }

    /// One round: asks a quorum if this peer leads, else asks the leader.
    async fn confirm(&self) -> Answer {
        if self.is_leader() {
            return self.confirm_leadership(ReadPolicy::ReadIndex.into()).await;
        }
        // What the leader's index is of is not what was applied here.
        if self.running.is_contradicted() {
            return Err(self.not_leader());
        }
        let Some((leader, node)) = self.leader() else {
            return Err(Error::NoLeader { region: self.region });
        };
        self.ask_leader(leader, node).await
    }

    async fn confirm_leadership(&self, option: LinearizerOption) -> Answer {
        let Some(proof) = self.unless_stopped(self.raft.get_read_log_id(option)).await else {
            return Err(self.has_stopped());
        };
        match proof {
            Ok((read, _)) => Ok(*read.log_id()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_))) => {
                Err(self.not_leader())
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
                Err(Error::NoLeader { region: self.region })
            }
            Err(RaftError::Fatal(_)) => Err(self.has_stopped()),
        }
    }

    async fn ask_leader(&self, leader: PeerId, node: NodeId) -> Answer {
        let message = v1::Message {
            request_id: 0,
            region_id: self.region.0,
            from_peer: self.id.0,
            to_peer: leader.0,
            body: Some(Body::ReadIndex(v1::ReadIndex {})),
        };
        match self.env.transport.call(node, Lane::Fast, message).await {
            Ok(v1::Message { body: Some(Body::ReadIndexResult(result)), .. }) => result
                .read
                .as_ref()
                .map(log_id_from_proto)
                .ok_or(Error::NoLeader { region: self.region }),
            Ok(_) | Err(_) => Err(Error::NoLeader { region: self.region }),
        }
    }

    /// Whether a quorum has answered this leader so recently that nobody else can lead, and all of
    /// its commits are applied.
    async fn lease_holds(&self) -> bool {
        let age = self.env.config.lease() * 2 / 3;
        let option =
            LinearizerOption::new(Some(age), false).with_wait_timeout(std::time::Duration::ZERO);
        match self.confirm_leadership(option).await {
            Ok(read) => {
                self.view.wait_applied(read.index).await;
                true
            }
            Err(_) => false,
        }
    }

    /// Reads what is applied here, whatever that is. One key that is in memory is read at once; what takes
    /// longer must not hold up a thread that carries the heartbeats of all regions, or the requests of
    /// other clients.
    ///
    /// # Errors
    /// When the rows are damaged, or a snapshot is replacing them.
    async fn read_local(
        &self,
        read: &v1::ReadCommand,
        deadline: Instant,
    ) -> Result<v1::ReadReply, Error> {
        let turns = match read_in_memory(&self.view, read)? {
            InMemory::Read(reply) => return Ok(reply),
            InMemory::Large { bytes } => bytes.div_ceil(TURN_BYTES).min(DISK_READS_MAX),
            InMemory::Unknown => 1,
        };
        let turns = u32::try_from(turns).unwrap_or(u32::MAX);
        let turn = Arc::clone(&self.env.disk_reads).acquire_many_owned(turns);
        let turn = tokio::time::timeout_at(deadline, turn).await.map_err(|_| late())?;
        let (view, read) = (Arc::clone(&self.view), read.clone());
        let reading = blocking::run(move || {
            let _turn = turn;
            // Nobody waits for it any more.
            if clock::now() >= deadline { Err(late()) } else { read_rows(&view, &read) }
        });
        let read = tokio::time::timeout_at(deadline, reading).await.map_err(|_| late())?;
        read.map_err(|error| Error::Internal { message: error.to_string() })?
    }
}

/// Whether what is applied here, up to `read` and further, is what the leader committed that told `read`. It has an entry of
/// its own term there, so that whoever applied none of that term so far has another log: a committed entry was lost, and
/// the leader has not shown it yet.
fn is_of_its_log(applied: Option<&LogId>, read: &LogId) -> bool {
    applied.is_some_and(|applied| applied.leader_id >= read.leader_id)
}

fn late() -> Error {
    Error::DeadlineExceeded { message: "while reading".to_owned() }
}

/// What a read comes to that waits for nothing.
enum InMemory {
    Read(v1::ReadReply),
    /// The value takes long to be copied.
    Large {
        bytes: usize,
    },
    /// It may have to ask the disk, or is no read of one key.
    Unknown,
}

/// Reads one key, if that takes no time.
fn read_in_memory(view: &RegionView, read: &v1::ReadCommand) -> Result<InMemory, Error> {
    let Some(read_command::Body::Points(points)) = &read.body else {
        return Ok(InMemory::Unknown);
    };
    let [key] = &points.keys[..] else { return Ok(InMemory::Unknown) };
    let published = |published: &Published| {
        check_epoch(read, &published.descriptor)?;
        Ok(command::AsOf { time_ms: published.time_ms, revision: published.revision })
    };
    read_initialized(view, |data| {
        let as_of = view.with(published)?;
        let quick = data.get_if_quick(Family::Default, key, COPIED_HERE_BYTES_MAX);
        // The row is of some state between the two: in each the key was this region's.
        view.with(published)?;
        Ok(match quick.map_err(storage_error)? {
            Quick::Read(stored) => {
                let reply = command::read_point(key, stored, as_of);
                InMemory::Read(reply.map_err(storage_error)?)
            }
            Quick::Large { bytes } => InMemory::Large { bytes },
            Quick::OnDisk => InMemory::Unknown,
        })
    })
}

/// Whether `region`, of the state that is read, is the one that the read was routed by: else the keys may
/// be another region's by now, and what is here of them old.
fn check_epoch(read: &v1::ReadCommand, region: &v1::Region) -> Result<(), Error> {
    let fits = Epoch::of(region).range_verdict(read.epoch_version).fits();
    if fits || known_bad::is(Fault::EpochUnchecked) {
        return Ok(());
    }
    Err(Error::EpochNotMatch { regions: vec![region.clone()] })
}

/// Reads the rows of a region as of one state that is applied. Blocks on the disk.
fn read_rows(view: &RegionView, read: &v1::ReadCommand) -> Result<v1::ReadReply, Error> {
    read_initialized(view, |data| {
        let pinned = data.read_view();
        let rows = pinned.as_ref();
        let command::RegionState { descriptor, state } = state(rows, view.region)?;
        check_epoch(read, &descriptor)?;
        let as_of = command::AsOf { time_ms: state.time_ms, revision: state.revision };
        match &read.body {
            Some(read_command::Body::Points(points)) => {
                command::read_points(rows, points, as_of, command::POINTS_BYTES_MAX)
            }
            Some(read_command::Body::Range(range)) => command::read_range(rows, range, as_of),
            Some(read_command::Body::Txn(write)) if command::only_reads(write) => {
                command::read_transaction(rows, write, &descriptor, as_of).map(|reply| {
                    let applied_revision = as_of.revision;
                    v1::ReadReply { txn: Some(reply), applied_revision, ..Default::default() }
                })
            }
            Some(read_command::Body::Txn(_)) => {
                return Err(Error::invalid("txn", "a transaction that writes is no read"));
            }
            None => Ok(v1::ReadReply::default()),
        }
        .map_err(storage_error)
    })
}

/// Runs a read of a region that has rows, and keeps having them meanwhile.
fn read_initialized<T>(
    view: &RegionView,
    read: impl FnOnce(&dyn Engine) -> Result<T, Error>,
) -> Result<T, Error> {
    if !view.is_initialized() {
        return Err(Error::NotReady {
            message: format!("region {} waits for its first snapshot", view.region),
        });
    }
    view.read_consistently(|| read(view.data().as_ref()))
        .map_err(|unreadable| Error::NotReady { message: unreadable.to_string() })?
}

/// The state that the rows of a view are of.
fn state(pinned: &dyn engine::View, region: RegionId) -> Result<command::RegionState, Error> {
    let missing =
        || Error::DataLoss { message: format!("the state of region {region} is missing") };
    read_state(pinned, region).map_err(storage_error)?.ok_or_else(missing)
}

/// A failed read of the disk, in a client's terms.
pub(crate) fn storage_error(error: engine::Error) -> Error {
    match error {
        engine::Error::Corrupt { .. } => {
            sometimes(Mark::MET_DAMAGE);
            Error::DataLoss { message: error.to_string() }
        }
        engine::Error::TooNew { .. }
        | engine::Error::Full { .. }
        | engine::Error::StageLost { .. }
        | engine::Error::Io { .. } => Error::Internal { message: error.to_string() },
    }
}
