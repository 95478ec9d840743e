//! Sending the state of regions, each on a connection of its own, and all of them within one rate.

use std::{sync::Arc, time::Duration};

use flotilla_proto::v1::{self, raft_client::RaftClient, snapshot_chunk::Body};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, transport::Channel};

use super::{Cause, Transport, Undelivered, frame::FRAME_BYTES_ACCEPTED, office::connect};
use crate::{
    ids::NodeId,
    raft::snapshot::Sender,
    world::{blocking, clock, maps::HashMap},
};

/// Bound: idle timeouts that a receiver may take to install what it has all of.
pub(crate) const INSTALL_IDLE_TIMEOUTS: u32 = 10;

/// A client that takes what is the largest between nodes.
#[expect(clippy::disallowed_methods, reason = "the place where it is allowed")]
pub fn client(channel: Channel) -> RaftClient<Channel> {
    RaftClient::new(channel)
        .max_decoding_message_size(FRAME_BYTES_ACCEPTED)
        .max_encoding_message_size(FRAME_BYTES_ACCEPTED)
}

/// Why a snapshot was not installed; the receiver is as it was.
#[derive(Debug, thiserror::Error)]
pub enum Unfinished {
    /// This node cannot read what it was to send: its own disk is at fault, and not the receiver.
    #[error("read the snapshot: {reason}")]
    Unread { reason: String },
    #[error(transparent)]
    Undelivered(#[from] Undelivered),
}

/// What the snapshots that this node sends share.
pub(super) struct Shipping {
    turns: Arc<Semaphore>,
    /// One fewer than all, if there is more than one: a node that takes its snapshots slowly, or not at
    /// all, leaves a turn to the others. And they go round: so many of a node wait beside those of others.
    turns_of_node: usize,
    /// Bound: as many as there ever were nodes.
    nodes: Mutex<HashMap<NodeId, Arc<Semaphore>>>,
    rate: Arc<Rate>,
}

impl Shipping {
    pub(super) fn new(at_once_max: usize, bytes_per_second_max: u64) -> Self {
        let at_once_max = at_once_max.max(1);
        Self {
            turns: Arc::new(Semaphore::new(at_once_max)),
            turns_of_node: (at_once_max - 1).max(1),
            nodes: Mutex::default(),
            rate: Arc::new(Rate {
                bytes_per_second_max: bytes_per_second_max.max(1),
                paid_until: Mutex::new(clock::monotonic()),
            }),
        }
    }
}

/// The right to send a snapshot. What is to be sent is pinned once it is there, and not before: who waits
/// for hours must not keep the disk of what was deleted meanwhile.
#[derive(Clone)]
pub struct SnapshotTurn {
    _permits: Arc<[OwnedSemaphorePermit; 2]>,
}

/// Bytes per second, over all snapshots.
struct Rate {
    bytes_per_second_max: u64,
    /// When all that was sent so far is within the bound.
    paid_until: Mutex<std::time::Instant>,
}

impl Rate {
    /// Time to wait after these bytes were sent.
    fn pay(&self, bytes: usize) -> Duration {
        let now = clock::monotonic();
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second_max as f64);
        let mut paid_until = self.paid_until.lock();
        *paid_until = (*paid_until).max(now) + cost;
        paid_until.saturating_duration_since(now)
    }
}

impl Transport {
    /// Waits for the right to send a snapshot to a node that can be reached: nobody waits for one that
    /// cannot.
    ///
    /// # Errors
    /// When it cannot be reached.
    ///
    /// # Cancel safety
    /// Dropped, the place in the queue is lost.
    pub async fn snapshot_turn(&self, node: NodeId) -> Result<SnapshotTurn, Undelivered> {
        let unsent = |reason: String| Undelivered { node, cause: Cause::Unsent(reason) };
        let of_node = {
            let mut nodes = self.shipping.nodes.lock();
            let new = || Arc::new(Semaphore::new(self.shipping.turns_of_node));
            Arc::clone(nodes.entry(node).or_insert_with(new))
        };
        let acquire = async |of: Arc<Semaphore>| {
            of.acquire_owned().await.expect("the semaphore is never closed")
        };
        let of_node = acquire(of_node).await;
        connect(&self.office, node).await.map_err(unsent)?;
        let of_all = acquire(Arc::clone(&self.shipping.turns)).await;
        Ok(SnapshotTurn { _permits: Arc::new([of_node, of_all]) })
    }

    /// Sends a region's snapshot on a connection of its own.
    ///
    /// # Errors
    /// When the transfer did not complete; the receiver is then as it was.
    pub async fn send_snapshot(
        &self,
        turn: SnapshotTurn,
        node: NodeId,
        header: v1::SnapshotHeader,
        mut sender: Sender,
    ) -> Result<v1::SnapshotResult, Unfinished> {
        let lost = move |reason: String| Undelivered { node, cause: Cause::Lost(reason) };
        let unread =
            |error: &dyn std::fmt::Display| Unfinished::Unread { reason: error.to_string() };
        let channel = connect(&self.office, node).await.map_err(lost)?;
        let (chunks, stream) = mpsc::channel(2);
        let rate = Arc::clone(&self.shipping.rate);
        let idle = self.office.config.snapshot.idle_timeout;
        let metrics = Arc::clone(&self.office.metrics);
        let while_read = turn.clone();
        let reading = async move {
            let header = v1::SnapshotChunk { body: Some(Body::Header(header)) };
            let mut next = Some(header);
            while let Some(chunk) = next {
                let bytes = match &chunk.body {
                    Some(Body::Rows(of)) => of.rows.len(),
                    Some(Body::SpanRows(of)) => of.rows.len(),
                    Some(Body::Header(_) | Body::End(_)) | None => 0,
                };
                metrics.raft.add_snapshot_bytes(bytes as u64);
                let taken = tokio::time::timeout(idle, chunks.send(chunk))
                    .await
                    .map_err(|_| lost(format!("the receiver has taken nothing for {idle:?}")))?;
                if taken.is_err() {
                    return Ok(()); // the receiver answered or went away; its answer decides
                }
                let within_rate = rate.pay(bytes);
                if !within_rate.is_zero() {
                    tokio::time::sleep(within_rate).await;
                }
                fail::fail_point!("snapshot-while-sending");
                // What the disk is asked for has the turn until it answers, also when nobody waits any more.
                let turn = while_read.clone();
                let read = blocking::run(move || {
                    let _turn = turn;
                    let chunk = sender.next_chunk();
                    (sender, chunk)
                });
                let (rest, chunk) = read.await.map_err(|error| unread(&error))?;
                sender = rest;
                next = chunk.map_err(|error| unread(&error))?;
            }
            Ok::<(), Unfinished>(())
        };
        let mut reading = Box::pin(reading);
        let mut client = client(channel);
        let mut calling = Box::pin(client.snapshot(ReceiverStream::new(stream)));
        let answer = tokio::select! {
            answer = &mut calling => {
                reading.await?;
                answer
            }
            read = &mut reading => {
                // Given up, the call goes with its stream, and the receiver sees it break off.
                read?;
                tokio::time::timeout(idle * INSTALL_IDLE_TIMEOUTS, calling)
                    .await
                    .map_err(|_| lost("it does not say that it has installed it".to_owned()))?
            }
        };
        drop(turn);
        Ok(answer.map(Response::into_inner).map_err(|status| lost(status.to_string()))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_share_one_rate() {
        let shipping = Shipping::new(3, 1_000);
        let waits: Vec<Duration> = (0..3).map(|_| shipping.rate.pay(500)).collect();
        for (wait, want) in waits.iter().zip([0.5, 1.0, 1.5]) {
            let wait = wait.as_secs_f64();
            assert!(wait <= want && wait > want - 0.2, "{wait} of {want} s");
        }
    }
}
