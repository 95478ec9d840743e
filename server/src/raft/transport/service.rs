//! The receiving end: the gRPC service on the peer port.

use std::{
    collections::hash_map::Entry,
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use flotilla_proto::v1::{
    self,
    message::Body,
    raft_server::{self, Raft as _, RaftServer},
    refused::Reason,
};
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status, Streaming,
    codegen::{Body as HttpBody, Service, StdError, http},
    server::NamedService,
};

use super::{
    Identity, Lane,
    frame::{FRAME_BYTES_ACCEPTED, FrameCodec, NODE_MESSAGE_BYTES_MAX, counted_bytes, fits},
    refusal,
};
use crate::{
    ids::{NodeId, PeerId, RegionId},
    share::is_fair,
    world::{maps::HashMap, presence::Presence},
};

/// Bounds: requests of one stream that are being handled at a time, and their bytes; both are passed by
/// one frame at most. More log entries stay in the socket. Clients' requests are refused: what they wait
/// for may take as long as their deadlines. So is what the fast lane carries: nothing may stand before
/// an election. And so is what is for a region that has more than four times what it leaves to all others.
const HANDLED_MAX: usize = 4096;
/// Bound: of the fast lane, requests from one peer to one region. A region that answers nothing, for its
/// disk hangs, is sent one after the other as they time out, and would fill the lane of all regions.
const HANDLED_OF_PEER_MAX: usize = 4;
/// More than a node sends before it is answered, by what regions that hang may keep of what it has given up.
const HANDLED_BYTES_MAX: usize = 40 << 20;
/// What the shares of regions are reckoned on. Above what a node sends before it is answered (`link.rs`), so
/// that what was fair there is not refused here.
const HANDLED_SHARED_BYTES: usize = 34 << 20;
/// Bound: wait for the first message of a snapshot.
const HEADER_WAIT_MAX: Duration = Duration::from_secs(10);

/// Takes what arrives. Implemented by the peers of this node.
pub trait Inbox: Send + Sync + 'static {
    /// Who answers; `None` before the node has joined.
    fn identity(&self) -> Option<Identity>;

    /// How much room this node's disk has: its answers say it.
    fn disk_level(&self) -> v1::DiskLevel;

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

/// See the module.
pub struct RaftService<I> {
    inner: Arc<Served<I>>,
    /// For everything but `Exchange`, which has a codec of its own.
    others: RaftServer<Served<I>>,
}

struct Served<I> {
    inbox: Arc<I>,
}

impl<I: Inbox> RaftService<I> {
    pub fn new(inbox: Arc<I>) -> Self {
        let inner = Arc::new(Served { inbox });
        let others = RaftServer::from_arc(Arc::clone(&inner))
            .max_decoding_message_size(FRAME_BYTES_ACCEPTED)
            .max_encoding_message_size(FRAME_BYTES_ACCEPTED);
        Self { inner, others }
    }
}

impl<I> Clone for RaftService<I> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), others: self.others.clone() }
    }
}

impl<I> NamedService for RaftService<I> {
    const NAME: &'static str = raft_server::SERVICE_NAME;
}

impl<I, B> Service<http::Request<B>> for RaftService<I>
where
    I: Inbox,
    B: HttpBody + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        if request.uri().path() != super::link::EXCHANGE {
            return self.others.call(request);
        }
        let exchange = Exchange(Arc::clone(&self.inner));
        async move {
            let mut grpc = tonic::server::Grpc::new(FrameCodec).apply_max_message_size_config(
                Some(FRAME_BYTES_ACCEPTED),
                Some(FRAME_BYTES_ACCEPTED),
            );
            Ok(grpc.streaming(exchange, request).await)
        }
        .boxed()
    }
}

struct Exchange<I>(Arc<Served<I>>);

impl<I: Inbox> tonic::server::StreamingService<v1::MessageBatch> for Exchange<I> {
    type Response = v1::MessageBatch;
    type ResponseStream = <Served<I> as raft_server::Raft>::ExchangeStream;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<v1::MessageBatch>>) -> Self::Future {
        let served = Arc::clone(&self.0);
        async move { served.exchange(request).await }.boxed()
    }
}

#[tonic::async_trait]
impl<I: Inbox> raft_server::Raft for Served<I> {
    type ExchangeStream = ReceiverStream<Result<v1::MessageBatch, Status>>;

    async fn exchange(
        &self,
        request: Request<Streaming<v1::MessageBatch>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let (answers, stream) = mpsc::channel(2);
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

/// Requests of one stream that are being handled.
struct Handled {
    lane: Lane,
    requests: FuturesUnordered<Handling>,
    bytes: usize,
    /// Of the fast lane, how many from which peer to which region.
    of_peers: HashMap<(PeerId, RegionId), usize>,
    /// What is being handled for which region.
    of_regions: HashMap<RegionId, OfRegion>,
}

#[derive(Clone, Copy, Default)]
struct OfRegion {
    count: usize,
    bytes: usize,
}

struct Handling {
    answer: BoxFuture<'static, v1::Message>,
    /// Of the request.
    bytes: usize,
    of: (PeerId, RegionId),
}

impl Future for Handling {
    type Output = Ended;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        let (bytes, of) = (self.bytes, self.of);
        self.answer.as_mut().poll(cx).map(|answer| Ended { answer: sendable(answer), bytes, of })
    }
}

struct Ended {
    answer: v1::Message,
    bytes: usize,
    of: (PeerId, RegionId),
}

impl Handled {
    fn new() -> Self {
        Self {
            lane: Lane::Unspecified,
            requests: FuturesUnordered::new(),
            bytes: 0,
            of_peers: HashMap::default(),
            of_regions: HashMap::default(),
        }
    }

    fn has_room(&self) -> bool {
        self.requests.len() < HANDLED_MAX && self.bytes < HANDLED_BYTES_MAX
    }

    /// Whether more frames are taken from the socket.
    fn takes_more(&self) -> bool {
        self.has_room() || matches!(self.lane, Lane::Forward | Lane::Fast)
    }

    /// Hands a request on, or answers it at once when too much is being handled.
    fn begin<I: Inbox>(
        &mut self,
        inbox: &I,
        from: NodeId,
        message: v1::Message,
    ) -> Option<v1::Message> {
        let refuses = matches!(self.lane, Lane::Forward | Lane::Fast);
        if refuses && !self.has_room() {
            let why =
                format!("{HANDLED_MAX} requests, or {HANDLED_BYTES_MAX} bytes, are under way");
            return Some(refusal(&message, busy(why)));
        }
        let of = (PeerId(message.from_peer), RegionId(message.region_id));
        if self.lane == Lane::Fast {
            let count = self.of_peers.entry(of).or_default();
            if *count >= HANDLED_OF_PEER_MAX {
                let why = format!("{HANDLED_OF_PEER_MAX} earlier requests are not answered yet");
                let refused = refusal(&message, busy(why));
                // Ordering: a heartbeat is handed on, which its first poll does, and nobody waits for its
                // answer. It says that the leader lives, whatever the disk here does; peers that did not
                // hear it would elect another.
                let answer = is_heartbeat(&message)
                    .then(|| inbox.deliver(from, message).now_or_never())
                    .flatten();
                return Some(answer.map_or(refused, sendable));
            }
            *count += 1;
        }
        if self.lane != Lane::Fast && !self.is_fair(of.1) {
            let why = format!("as much as may be is under way for region {}", of.1);
            return Some(refusal(&message, busy(why)));
        }
        let bytes = counted_bytes(&message);
        let of_region = self.of_regions.entry(of.1).or_default();
        of_region.count += 1;
        of_region.bytes += bytes;
        self.bytes += bytes;
        self.requests.push(Handling { answer: inbox.deliver(from, message), bytes, of });
        None
    }

    /// Whether one more may be handled for a region, beside what others may still need. A region that hangs
    /// keeps what it has for as long as the stream lives, whatever its sender has given up.
    fn is_fair(&self, region: RegionId) -> bool {
        let OfRegion { count, bytes } = self.of_regions.get(&region).copied().unwrap_or_default();
        // Of log entries the sender bounds how many are under way for one region, and not those for all.
        let by_count = self.lane == Lane::Bulk
            || is_fair(count, 1, HANDLED_MAX.saturating_sub(self.requests.len()));
        by_count && is_fair(bytes, 1, HANDLED_SHARED_BYTES.saturating_sub(self.bytes))
    }

    fn end(&mut self, Ended { answer, bytes, of }: Ended) -> v1::Message {
        self.bytes -= bytes;
        if let Entry::Occupied(mut of_region) = self.of_regions.entry(of.1) {
            of_region.get_mut().count -= 1;
            of_region.get_mut().bytes -= bytes;
            if of_region.get().count == 0 {
                of_region.remove();
            }
        }
        if let Entry::Occupied(mut count) = self.of_peers.entry(of) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        answer
    }
}

/// Handles the requests of one stream: hands them on in order, answers as they complete.
async fn serve_stream<I: Inbox>(
    inbox: Arc<I>,
    presence: Presence,
    mut requests: Streaming<v1::MessageBatch>,
    answers: mpsc::Sender<Result<v1::MessageBatch, Status>>,
) {
    let mut handled = Handled::new();
    let mut template = v1::MessageBatch::default();
    loop {
        let mut done = Vec::new();
        tokio::select! {
            batch = requests.message(), if handled.takes_more() => match batch {
                Ok(Some(mut batch)) => {
                    let refused = inbox.admit(&batch, &presence).err();
                    let from = NodeId(batch.from_node);
                    handled.lane = batch.lane();
                    for message in std::mem::take(&mut batch.messages) {
                        done.extend(match &refused {
                            Some(refused) => Some(refusal(&message, refused.clone())),
                            None => handled.begin(inbox.as_ref(), from, message),
                        });
                    }
                    let own = inbox.identity();
                    template = v1::MessageBatch {
                        to_node: batch.from_node,
                        from_node: own.map_or(0, |own| own.node.0),
                        cluster_id: own.map_or_else(bytes::Bytes::new, |own| {
                            bytes::Bytes::copy_from_slice(&own.cluster.0)
                        }),
                        ..v1::MessageBatch::default()
                    };
                }
                Ok(None) => return,
                Err(status) => {
                    tracing::debug!(%status, "a stream of another node ends");
                    return;
                }
            },
            Some(answer) = handled.requests.next(), if !handled.requests.is_empty() => {
                done.push(handled.end(answer));
                // As for requests: one turn, and all answers that are there by then share a frame.
                tokio::task::yield_now().await;
            }
        }
        let mut bytes: usize = done.iter().map(counted_bytes).sum();
        while fits(done.len(), bytes)
            && let Some(Some(answer)) = handled.requests.next().now_or_never()
        {
            let answer = handled.end(answer);
            bytes += counted_bytes(&answer);
            done.push(answer);
        }
        if !done.is_empty() {
            let batch = v1::MessageBatch {
                messages: done,
                disk_level: inbox.disk_level().into(),
                ..template.clone()
            };
            if answers.send(Ok(batch)).await.is_err() {
                return;
            }
        }
    }
}

fn is_heartbeat(message: &v1::Message) -> bool {
    matches!(&message.body, Some(Body::Append(append)) if append.entries.is_empty())
}

fn busy(message: String) -> v1::Refused {
    v1::Refused { reason: Reason::Busy.into(), message }
}

/// The answer, or one that says that it is too large: that is an error of this call and of no other.
fn sendable(mut answer: v1::Message) -> v1::Message {
    let bytes = answer.encoded_len();
    if bytes > NODE_MESSAGE_BYTES_MAX {
        answer.body = Some(Body::Refused(v1::Refused {
            reason: Reason::AnswerTooLarge.into(),
            message: format!("its answer has {bytes} bytes, more than {NODE_MESSAGE_BYTES_MAX}"),
        }));
    }
    answer
}
