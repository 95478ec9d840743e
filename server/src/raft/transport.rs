//! Messages between nodes.
//!
//! Each ordered pair of nodes has one stream per lane: what all regions have to say to a node shares
//! it, as many messages per frame as were waiting. A message that gets no answer fails when its
//! stream does; the caller's own deadline bounds the wait. A node that cannot be reached fails calls
//! at once until the next attempt to connect, so it costs no queue and no busy loop. Every frame
//! carries the cluster's identity and the ids of both nodes (`Exchange` on the other side checks
//! them).

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use flotilla_proto::v1::{self, raft_client::RaftClient, raft_server};
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Channel, Endpoint},
};

use super::presence::Presence;
use crate::{
    clock, handoff,
    ids::{ClusterId, NodeId},
    metrics::Metrics,
};

pub use v1::Lane;

/// Bound: messages that may wait for one stream; more fail as unreachable.
const QUEUE_MAX: usize = 16_384;
/// Most messages and bytes in one frame; one message is always taken, however large.
const FRAME_MESSAGES_MAX: usize = 1024;
const FRAME_BYTES_MAX: usize = 2 << 20;
/// Largest frame accepted from another node: a frame, one message of the largest command beyond it,
/// and room for headers.
const FRAME_BYTES_ACCEPTED: usize = 64 << 20;
/// Bound: requests of one stream that are being handled at a time; more stay in the socket.
const HANDLED_MAX: usize = 4096;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const KEEPALIVE: Duration = Duration::from_secs(2);
const BACKOFF_MIN: Duration = Duration::from_millis(20);
/// Short: a node that is back is not heard of before, and it may be needed for a quorum.
const BACKOFF_MAX: Duration = Duration::from_millis(200);
/// Bound: wait for the first message of a snapshot.
const HEADER_WAIT_MAX: Duration = Duration::from_secs(10);
/// Bound: idle timeouts that a receiver may take to install what it has all of.
const INSTALL_IDLE_TIMEOUTS: u32 = 10;
/// HTTP/2 windows: bandwidth times delay of a fast network between machines.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// This process, as it presents itself to other nodes.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    pub cluster: ClusterId,
    pub node: NodeId,
    /// Drawn at each start; tells two processes with one copied identity apart
    /// (`region/incarnations.rs`).
    pub incarnation: u64,
}

/// Where nodes are. Implemented by the node table.
pub trait Directory: Send + Sync {
    /// `host:port` of a node's peer port; `None` when the node is not known or removed.
    fn peer_address(&self, node: NodeId) -> Option<String>;
}

/// Takes what arrives. Implemented by the peers of this node.
pub trait Inbox: Send + Sync + 'static {
    /// Checks who speaks; `Err` refuses the whole frame with that reason.
    ///
    /// # Errors
    /// When sender or receiver are not who the frame says.
    fn admit(&self, batch: &v1::MessageBatch, presence: &Presence) -> Result<(), v1::Refused>;

    /// Handles one message and answers it. The future must hand the message on when it is first
    /// polled, so that messages of one stream keep their order.
    fn deliver(&self, from: NodeId, message: v1::Message) -> BoxFuture<'static, v1::Message>;

    /// Takes a region's snapshot.
    fn snapshot(
        &self,
        header: v1::SnapshotHeader,
        presence: Presence,
        chunks: Streaming<v1::SnapshotChunk>,
    ) -> BoxFuture<'static, v1::SnapshotResult>;
}

/// The message did not arrive, or its answer did not. It may have been handled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("node {node} is unreachable: {reason}")]
pub struct Unreachable {
    pub node: NodeId,
    pub reason: String,
    /// True: the message never left this node.
    pub unsent: bool,
}

/// Settings of the transport.
#[derive(Clone, Debug)]
pub struct TransportConfig {
    pub snapshots_max: usize,
    pub snapshot_bytes_per_second: u64,
    /// Bound: wait for the receiver to take the next part of a snapshot.
    pub snapshot_idle_timeout: Duration,
}

/// Sends to other nodes. Cheap to clone.
#[derive(Clone)]
pub struct Transport {
    shared: Arc<Shared>,
}

struct Shared {
    identity: Identity,
    directory: Arc<dyn Directory>,
    links: Mutex<HashMap<(NodeId, i32), Link>>,
    next_request: AtomicU64,
    snapshots: Semaphore,
    config: TransportConfig,
    metrics: Arc<Metrics>,
}

#[derive(Clone)]
struct Link {
    queue: mpsc::Sender<Outgoing>,
}

struct Outgoing {
    message: v1::Message,
    answer: handoff::Sender<Result<v1::Message, Unreachable>>,
}

impl Transport {
    #[must_use]
    pub fn new(
        identity: Identity,
        directory: Arc<dyn Directory>,
        config: TransportConfig,
        metrics: Arc<Metrics>,
    ) -> Self {
        let snapshots = Semaphore::new(config.snapshots_max.max(1));
        Self {
            shared: Arc::new(Shared {
                identity,
                directory,
                links: Mutex::default(),
                next_request: AtomicU64::new(1),
                snapshots,
                config,
                metrics,
            }),
        }
    }

    #[must_use]
    pub fn identity(&self) -> Identity {
        self.shared.identity
    }

    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Queues a message for a node and answers a future of its answer. The message is queued when
    /// this returns, so that calls keep their order; the future may be dropped.
    pub fn call(
        &self,
        node: NodeId,
        lane: Lane,
        mut message: v1::Message,
    ) -> impl Future<Output = Result<v1::Message, Unreachable>> + Send + use<> {
        message.request_id = self.shared.next_request.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = handoff::channel();
        let queued = self.link(node, lane).queue.try_send(Outgoing { message, answer });
        async move {
            let reason = match queued {
                Ok(()) => match answered.await {
                    Ok(answer) => return answer,
                    Err(_) => "the connection was given up",
                },
                Err(mpsc::error::TrySendError::Full(_)) => "its queue is full",
                Err(mpsc::error::TrySendError::Closed(_)) => "this node is shutting down",
            };
            Err(Unreachable { node, reason: reason.to_owned(), unsent: false })
        }
    }

    fn link(&self, node: NodeId, lane: Lane) -> Link {
        let mut links = self.shared.links.lock();
        links
            .entry((node, lane as i32))
            .or_insert_with(|| {
                let (queue, queued) = mpsc::channel(QUEUE_MAX);
                tokio::spawn(run_link(Arc::clone(&self.shared), node, lane, queued));
                Link { queue }
            })
            .clone()
    }

    /// Sends a region's snapshot on a connection of its own.
    ///
    /// # Errors
    /// When the transfer did not complete; the receiver is then as it was.
    pub async fn send_snapshot(
        &self,
        node: NodeId,
        header: v1::SnapshotHeader,
        mut sender: super::snapshot::Sender,
    ) -> Result<v1::SnapshotResult, Unreachable> {
        let unreachable = |reason: String| Unreachable { node, reason, unsent: false };
        // Bound: so many at a time from this node.
        let _permit = self
            .shared
            .snapshots
            .acquire()
            .await
            .map_err(|_| unreachable("shutting down".to_owned()))?;
        let channel = connect(&self.shared, node).await.map_err(unreachable)?;
        let (chunks, stream) = mpsc::channel(2);
        let rate = self.shared.config.snapshot_bytes_per_second.max(1);
        let idle = self.shared.config.snapshot_idle_timeout;
        let metrics = Arc::clone(&self.shared.metrics);
        let runtime = tokio::runtime::Handle::current();
        let mut reader = tokio::task::spawn_blocking(move || -> Result<(), String> {
            let started = clock::monotonic();
            let mut sent = 0_u64;
            let header = v1::SnapshotChunk { body: Some(v1::snapshot_chunk::Body::Header(header)) };
            let mut next = Some(header);
            while let Some(chunk) = next {
                if let Some(v1::snapshot_chunk::Body::Rows(rows)) = &chunk.body {
                    sent += rows.rows.len() as u64;
                    metrics.raft.add_snapshot_bytes(rows.rows.len() as u64);
                }
                let taken = runtime.block_on(async {
                    tokio::time::timeout(idle, chunks.send(chunk))
                        .await
                        .map_err(|_| format!("the receiver has taken nothing for {idle:?}"))
                })?;
                if taken.is_err() {
                    return Ok(()); // the receiver answered or went away; its answer decides
                }
                // Bound: bytes per second.
                let due = Duration::from_secs_f64(sent as f64 / rate as f64);
                pause(due.saturating_sub(started.elapsed()));
                fail::fail_point!("snapshot-while-sending");
                next =
                    sender.next_chunk().map_err(|error| format!("read the snapshot: {error}"))?;
            }
            Ok(())
        });
        let mut client = RaftClient::new(channel)
            .max_decoding_message_size(FRAME_BYTES_ACCEPTED)
            .max_encoding_message_size(FRAME_BYTES_ACCEPTED);
        let read_to_end = |read: Result<Result<(), String>, tokio::task::JoinError>| {
            read.map_err(|error| unreachable(format!("read the snapshot: {error}")))?
                .map_err(unreachable)
        };
        let calling = client.snapshot(ReceiverStream::new(stream));
        tokio::pin!(calling);
        let answer = tokio::select! {
            answer = &mut calling => {
                read_to_end(reader.await)?;
                answer
            }
            read = &mut reader => {
                // Given up, the call goes with its stream, and the receiver sees it break off.
                read_to_end(read)?;
                tokio::time::timeout(idle * INSTALL_IDLE_TIMEOUTS, calling)
                    .await
                    .map_err(|_| unreachable("it does not say that it has installed it".to_owned()))?
            }
        };
        answer.map(Response::into_inner).map_err(|status| unreachable(status.to_string()))
    }
}

#[expect(clippy::disallowed_methods, reason = "a rate limit, on a thread of its own")]
fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

/// Connects to a node's peer port.
async fn connect(shared: &Shared, node: NodeId) -> Result<Channel, String> {
    let address =
        shared.directory.peer_address(node).ok_or_else(|| "its address is not known".to_owned())?;
    endpoint(&address)?.connect().await.map_err(|error| format!("connect to {address}: {error}"))
}

/// How nodes connect to each other's peer port.
///
/// # Errors
/// When `address` is no `host:port`.
pub fn endpoint(address: &str) -> Result<Endpoint, String> {
    Ok(Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| format!("address {address}: {error}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW))
}

/// Owns the stream to one node on one lane, until the transport is dropped.
async fn run_link(
    shared: Arc<Shared>,
    node: NodeId,
    lane: Lane,
    mut queued: mpsc::Receiver<Outgoing>,
) {
    let mut backoff = BACKOFF_MIN;
    while let Some(first) = queued.recv().await {
        match connect(&shared, node).await {
            Ok(channel) => {
                let began = clock::monotonic();
                let error = run_stream(&shared, node, lane, channel, first, &mut queued).await;
                tracing::debug!(%node, ?lane, error, "stream ended");
                if began.elapsed() > BACKOFF_MAX {
                    backoff = BACKOFF_MIN;
                }
            }
            Err(reason) => {
                tracing::debug!(%node, ?lane, reason, "cannot connect");
                fail(first, node, &reason);
            }
        }
        // What comes while we may not try again fails at once: nobody waits for a dead node.
        let retry = tokio::time::sleep(clock::jitter(backoff));
        tokio::pin!(retry);
        loop {
            tokio::select! {
                () = &mut retry => break,
                next = queued.recv() => match next {
                    Some(outgoing) => fail(outgoing, node, "waiting to reconnect"),
                    None => return,
                },
            }
        }
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

fn fail(outgoing: Outgoing, node: NodeId, reason: &str) {
    outgoing.answer.send(Err(Unreachable { node, reason: reason.to_owned(), unsent: true }));
}

/// Runs one stream until it fails. Whatever has no answer then fails with it.
async fn run_stream(
    shared: &Shared,
    node: NodeId,
    lane: Lane,
    channel: Channel,
    first: Outgoing,
    queued: &mut mpsc::Receiver<Outgoing>,
) -> String {
    let mut client = RaftClient::new(channel)
        .max_decoding_message_size(FRAME_BYTES_ACCEPTED)
        .max_encoding_message_size(FRAME_BYTES_ACCEPTED);
    let (frames, stream) = mpsc::channel(4);
    let mut waiting: HashMap<u64, handoff::Sender<Result<v1::Message, Unreachable>>> =
        HashMap::new();
    let mut sweep_at = 4096;
    let mut pending_bytes = message_bytes(&first.message);
    let mut pending = vec![first];
    let opening = client.exchange(ReceiverStream::new(stream));
    tokio::pin!(opening);
    let mut answers: Option<Streaming<v1::MessageBatch>> = None;
    loop {
        // Answers are read also while there is no room to send. The other side stops reading while
        // its answers find no room: if both waited for the other to read, both would for ever.
        tokio::select! {
            opened = &mut opening, if answers.is_none() => match opened {
                Ok(response) => answers = Some(response.into_inner()),
                Err(status) => return status.to_string(),
            },
            answer = next_answer(&mut answers) => match answer {
                Ok(Some(batch)) => {
                    for message in batch.messages {
                        if let Some(answer) = waiting.remove(&message.request_id) {
                            answer.send(Ok(message));
                        }
                    }
                }
                Ok(None) => return "closed by the other side".to_owned(),
                Err(status) => return status.to_string(),
            },
            room = frames.reserve(), if !pending.is_empty() => {
                let Ok(room) = room else { return "the stream was closed".to_owned() };
                let mut batch = v1::MessageBatch {
                    cluster_id: bytes::Bytes::copy_from_slice(&shared.identity.cluster.0),
                    to_node: node.0,
                    from_node: shared.identity.node.0,
                    from_incarnation: shared.identity.incarnation,
                    lane: lane.into(),
                    messages: Vec::with_capacity(pending.len()),
                };
                for Outgoing { message, answer } in pending.drain(..) {
                    waiting.insert(message.request_id, answer);
                    batch.messages.push(message);
                }
                pending_bytes = 0;
                shared.metrics.raft.add_messages(&batch.messages);
                room.send(batch);
                if waiting.len() > sweep_at {
                    waiting.retain(|_, answer| !answer.is_closed());
                    sweep_at = waiting.len() * 2 + 4096;
                }
            },
            next = queued.recv(), if fits(pending.len(), pending_bytes) => match next {
                Some(outgoing) => {
                    pending_bytes += message_bytes(&outgoing.message);
                    pending.push(outgoing);
                    // One turn of the runtime, so that whoever can speak now shares the frame.
                    tokio::task::yield_now().await;
                    while fits(pending.len(), pending_bytes) {
                        let Ok(outgoing) = queued.try_recv() else { break };
                        pending_bytes += message_bytes(&outgoing.message);
                        pending.push(outgoing);
                    }
                }
                None => return "shutting down".to_owned(),
            },
        }
    }
}

/// Whether one more message may join a frame.
fn fits(messages: usize, bytes: usize) -> bool {
    messages < FRAME_MESSAGES_MAX && bytes < FRAME_BYTES_MAX
}

async fn next_answer(
    answers: &mut Option<Streaming<v1::MessageBatch>>,
) -> Result<Option<v1::MessageBatch>, Status> {
    match answers {
        Some(answers) => answers.message().await,
        None => std::future::pending().await,
    }
}

/// Cheap estimate; only what can be large counts.
fn message_bytes(message: &v1::Message) -> usize {
    use v1::message::Body;
    let body = match &message.body {
        Some(Body::Append(append)) => append
            .entries
            .iter()
            .map(|entry| match &entry.payload {
                Some(v1::log_entry::Payload::Command(bytes)) => bytes.len() + 32,
                _ => 64,
            })
            .sum(),
        Some(Body::Forward(forward)) => forward.encoded_len(),
        Some(Body::ForwardResult(result)) => result.encoded_len(),
        _ => 0,
    };
    body + 64
}

/// The receiving side of the transport: the gRPC service on the peer port.
pub struct RaftService<I> {
    inbox: Arc<I>,
}

impl<I> RaftService<I> {
    pub fn new(inbox: Arc<I>) -> raft_server::RaftServer<Self>
    where
        I: Inbox,
    {
        raft_server::RaftServer::new(Self { inbox })
            .max_decoding_message_size(FRAME_BYTES_ACCEPTED)
            .max_encoding_message_size(FRAME_BYTES_ACCEPTED)
    }
}

#[tonic::async_trait]
impl<I: Inbox> raft_server::Raft for RaftService<I> {
    type ExchangeStream = ReceiverStream<Result<v1::MessageBatch, Status>>;

    async fn exchange(
        &self,
        request: Request<Streaming<v1::MessageBatch>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let (answers, stream) = mpsc::channel(4);
        let presence = Presence::of(request.extensions());
        let inbox = Arc::clone(&self.inbox);
        tokio::spawn(serve_stream(inbox, presence, request.into_inner(), answers));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<v1::SnapshotChunk>>,
    ) -> Result<Response<v1::SnapshotResult>, Status> {
        let presence = Presence::of(request.extensions());
        let mut chunks = request.into_inner();
        let first = tokio::time::timeout(HEADER_WAIT_MAX, chunks.message())
            .await
            .map_err(|_| Status::deadline_exceeded("a snapshot did not begin"))??;
        let Some(v1::SnapshotChunk { body: Some(v1::snapshot_chunk::Body::Header(header)) }) =
            first
        else {
            return Err(Status::invalid_argument("a snapshot must begin with its header"));
        };
        Ok(Response::new(self.inbox.snapshot(header, presence, chunks).await))
    }
}

/// Handles the requests of one stream: hands them on in order, answers as they complete.
async fn serve_stream<I: Inbox>(
    inbox: Arc<I>,
    presence: Presence,
    mut requests: Streaming<v1::MessageBatch>,
    answers: mpsc::Sender<Result<v1::MessageBatch, Status>>,
) {
    let mut handled = FuturesUnordered::new();
    let mut template = v1::MessageBatch::default();
    loop {
        let mut done = Vec::new();
        tokio::select! {
            batch = requests.message(), if handled.len() < HANDLED_MAX => match batch {
                Ok(Some(mut batch)) => {
                    let refused = inbox.admit(&batch, &presence).err();
                    let from = NodeId(batch.from_node);
                    for message in std::mem::take(&mut batch.messages) {
                        if let Some(refused) = &refused {
                            done.push(refusal(&message, refused.clone()));
                        } else {
                            handled.push(inbox.deliver(from, message));
                        }
                    }
                    template = v1::MessageBatch {
                        to_node: batch.from_node,
                        from_node: batch.to_node,
                        cluster_id: batch.cluster_id,
                        ..v1::MessageBatch::default()
                    };
                }
                Ok(None) | Err(_) => return,
            },
            Some(message) = handled.next(), if !handled.is_empty() => {
                done.push(message);
                // As for requests: one turn, and all answers that are there by then share a frame.
                tokio::task::yield_now().await;
            }
        }
        let mut bytes: usize = done.iter().map(message_bytes).sum();
        while fits(done.len(), bytes)
            && let Some(Some(message)) = futures::FutureExt::now_or_never(handled.next())
        {
            bytes += message_bytes(&message);
            done.push(message);
        }
        if !done.is_empty() {
            let batch = v1::MessageBatch { messages: done, ..template.clone() };
            if answers.send(Ok(batch)).await.is_err() {
                return;
            }
        }
    }
}

/// The answer that refuses `message`.
#[must_use]
pub fn refusal(message: &v1::Message, refused: v1::Refused) -> v1::Message {
    answer(message, v1::message::Body::Refused(refused))
}

/// An answer to `message`.
#[must_use]
pub fn answer(message: &v1::Message, body: v1::message::Body) -> v1::Message {
    v1::Message {
        request_id: message.request_id,
        region_id: message.region_id,
        from_peer: message.to_peer,
        to_peer: message.from_peer,
        body: Some(body),
    }
}
