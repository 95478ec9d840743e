//! The way of a command into the log of its region.
//!
//! Here ends what can be refused with certainty: before openraft takes the entry, every error means
//! *not applied*; after it, only the answer of apply is certain, and a deadline or a lost leadership
//! means *maybe*. Openraft keeps the two apart (`ForwardToLeader`: never appended;
//! `LogEntryDiscarded`: appended, fate unknown). The entry comes back in `raft/state_machine.rs`.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use flotilla_proto::v1::{self, command::Body, command_reply};
use openraft::{errors::ClientWriteError, impls::ProgressResponder, raft::ClientWriteResult};
use tokio::time::Instant;

use super::{Environment, Peer};
use crate::{
    clock, command,
    error::Error,
    metrics::ProposeOutcome,
    raft::{CommandBytes, Reply, TypeConfig},
};
use openraft::async_runtime::WatchReceiver as _;

/// How long a caller is told to wait when a queue is full.
const BUSY_RETRY_AFTER: Duration = Duration::from_millis(20);

impl Peer {
    /// Replicates and applies a write; answers what apply answered.
    ///
    /// # Errors
    /// See [`Error::maybe_applied`].
    ///
    /// # Cancel safety
    /// Dropped, the write may or may not be applied.
    pub async fn propose_write(
        &self,
        write: v1::WriteCommand,
        epoch_version: u64,
        deadline: Instant,
    ) -> Result<v1::WriteReply, Error> {
        if let Some(available_bytes) = self.env.disk.refuse_writes()
            && !command::frees_space(&write)
        {
            return Err(Error::LowDisk { node: self.env.node, available_bytes });
        }
        let reply = self.propose(Body::Write(write), epoch_version, deadline).await?;
        match reply.reply {
            Some(command_reply::Reply::Write(reply)) if reply.refused.is_empty() => Ok(reply),
            Some(command_reply::Reply::Write(reply)) => {
                Err(Error::NotACounter { message: reply.refused })
            }
            Some(command_reply::Reply::EpochChanged(changed)) => {
                Err(Error::EpochNotMatch { regions: changed.region.into_iter().collect() })
            }
            Some(command_reply::Reply::Done(_)) | None => Err(Error::Internal {
                message: "a write was answered as something else".to_owned(),
            }),
        }
    }

    /// Makes every peer compute a checksum; answers the index of the entry.
    ///
    /// # Errors
    /// As for [`Peer::propose_write`].
    pub async fn propose_checksum(&self, check_id: u64, deadline: Instant) -> Result<u64, Error> {
        let version = self.view.with(|published| epoch_version(&published.descriptor));
        let body = Body::Checksum(v1::ChecksumCommand { check_id });
        match self.propose(body, version, deadline).await?.reply {
            Some(command_reply::Reply::Done(done)) => Ok(done.index),
            _ => Err(Error::EpochNotMatch { regions: Vec::new() }),
        }
    }

    /// Moves the replicated time on, so that keys expire in a region that nobody writes to.
    pub(super) async fn propose_tick(&self, deadline: Instant) -> Result<(), Error> {
        let version = self.view.with(|published| epoch_version(&published.descriptor));
        self.propose(Body::Tick(v1::TickCommand {}), version, deadline).await.map(drop)
    }

    async fn propose(
        &self,
        body: Body,
        epoch_version: u64,
        deadline: Instant,
    ) -> Result<v1::CommandReply, Error> {
        let started = clock::now();
        if started >= deadline {
            return Err(Error::DeadlineExceeded { message: "before the proposal".to_owned() });
        }
        let term = {
            let metrics = self.raft.server_metrics();
            let metrics = metrics.borrow_watched();
            if metrics.state != openraft::ServerState::Leader {
                drop(metrics);
                return Err(self.not_leader());
            }
            metrics.vote.leader_id.term
        };
        let applied_ms = self.view.with(|published| published.time_ms);
        let time_ms = self.clock.lock().stamp(term, applied_ms, started);
        let bytes = command::encode(&v1::Command { epoch_version, time_ms, body: Some(body) });
        let _admitted = Admitted::new(self, bytes.len())?;
        fail::fail_point!("propose-before-raft");

        let (responder, answer) =
            ProgressResponder::<TypeConfig, ClientWriteResult<TypeConfig>>::complete_only();
        let unknown = |message: &str| Error::OutcomeUnknown { message: message.to_owned() };
        self.raft
            .client_write_ff(CommandBytes(bytes), Some(responder))
            .await
            .map_err(|_| unknown("the peer has stopped"))?;
        let result = match tokio::time::timeout_at(deadline, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => {
                Err(ClientWriteError::LogEntryDiscarded(openraft::errors::ForwardToLeader::empty()))
            }
            Err(_) => {
                self.observe(started, ProposeOutcome::Unknown);
                return Err(unknown("deadline passed after the proposal"));
            }
        };
        match result {
            Ok(response) => {
                self.observe(started, ProposeOutcome::Applied);
                match response.data {
                    Reply::Command(reply) => Ok(reply),
                    Reply::Nothing => Err(Error::Internal {
                        message: "a command was applied as a blank entry".to_owned(),
                    }),
                }
            }
            Err(ClientWriteError::ForwardToLeader(_)) => {
                self.observe(started, ProposeOutcome::Rejected);
                Err(self.not_leader())
            }
            Err(ClientWriteError::LogEntryDiscarded(_)) => {
                self.observe(started, ProposeOutcome::Unknown);
                Err(unknown("leadership was lost after the proposal"))
            }
            Err(error) => Err(Error::Internal { message: error.to_string() }),
        }
    }
}

impl Peer {
    fn observe(&self, started: Instant, outcome: ProposeOutcome) {
        let seconds = started.elapsed().as_secs_f64();
        self.env.metrics.raft.propose_seconds.get(outcome).observe(seconds);
    }
}

/// The version part of a descriptor's epoch.
#[must_use]
pub fn epoch_version(descriptor: &v1::Region) -> u64 {
    descriptor.epoch.as_ref().map_or(0, |epoch| epoch.version)
}

/// A place among the proposals in flight, given back on drop.
struct Admitted<'a> {
    peer: &'a Peer,
    env: &'a Arc<Environment>,
    bytes: usize,
}

impl<'a> Admitted<'a> {
    fn new(peer: &'a Peer, bytes: usize) -> Result<Self, Error> {
        let env = &peer.env;
        let busy = |queue: &str| {
            env.metrics.raft.busy(queue);
            Error::Busy { queue: queue.to_owned(), retry_after: BUSY_RETRY_AFTER }
        };
        if peer.proposals.fetch_add(1, Ordering::Relaxed) >= env.config.proposals_max {
            peer.proposals.fetch_sub(1, Ordering::Relaxed);
            return Err(busy("proposals"));
        }
        let before = env.proposal_bytes.fetch_add(bytes, Ordering::Relaxed);
        let admitted = Self { peer, env, bytes };
        // One command is always let in, however large.
        if before > 0 && before + bytes > env.config.proposal_bytes_max {
            return Err(busy("proposal_bytes"));
        }
        Ok(admitted)
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        self.peer.proposals.fetch_sub(1, Ordering::Relaxed);
        self.env.proposal_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
