//! The receiving end: the gRPC service on the peer port.

use std::{
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
    Inbox, Lane,
    frame::{FRAME_BYTES_ACCEPTED, FrameCodec, MESSAGE_BYTES_MAX, counted_bytes, fits},
    refusal,
};
use crate::{ids::NodeId, raft::presence::Presence};

/// Bounds: requests of one stream that are being handled at a time, and their bytes; both are passed by
/// one frame at most. More stay in the socket, but for clients' requests, which are refused: what
/// they wait for may take as long as their deadlines.
const HANDLED_MAX: usize = 4096;
const HANDLED_BYTES_MAX: usize = 32 << 20;
/// Bound: wait for the first message of a snapshot.
const HEADER_WAIT_MAX: Duration = Duration::from_secs(10);

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
#[derive(Default)]
struct Handled {
    requests: FuturesUnordered<Handling>,
    bytes: usize,
}

struct Handling {
    answer: BoxFuture<'static, v1::Message>,
    /// Of the request.
    bytes: usize,
}

impl Future for Handling {
    type Output = (v1::Message, usize);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let bytes = self.bytes;
        self.answer.as_mut().poll(cx).map(|answer| (sendable(answer), bytes))
    }
}

impl Handled {
    fn has_room(&self) -> bool {
        self.requests.len() < HANDLED_MAX && self.bytes < HANDLED_BYTES_MAX
    }

    fn begin<I: Inbox>(&mut self, inbox: &I, from: NodeId, message: v1::Message) {
        let bytes = counted_bytes(&message);
        self.bytes += bytes;
        self.requests.push(Handling { answer: inbox.deliver(from, message), bytes });
    }

    fn end(&mut self, (answer, bytes): (v1::Message, usize)) -> v1::Message {
        self.bytes -= bytes;
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
    let mut handled = Handled::default();
    let mut template = v1::MessageBatch::default();
    let mut refuses_more = false;
    loop {
        let mut done = Vec::new();
        tokio::select! {
            batch = requests.message(), if refuses_more || handled.has_room() => match batch {
                Ok(Some(mut batch)) => {
                    let refused = inbox.admit(&batch, &presence).err();
                    let from = NodeId(batch.from_node);
                    refuses_more = batch.lane() == Lane::Forward;
                    for message in std::mem::take(&mut batch.messages) {
                        if let Some(refused) = &refused {
                            done.push(refusal(&message, refused.clone()));
                        } else if refuses_more && !handled.has_room() {
                            done.push(refusal(&message, busy()));
                        } else {
                            handled.begin(inbox.as_ref(), from, message);
                        }
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
            let batch = v1::MessageBatch { messages: done, ..template.clone() };
            if answers.send(Ok(batch)).await.is_err() {
                return;
            }
        }
    }
}

fn busy() -> v1::Refused {
    let message = format!("{HANDLED_MAX} requests, or {HANDLED_BYTES_MAX} bytes, are under way");
    v1::Refused { reason: Reason::Busy.into(), message }
}

/// The answer, or one that says that it is too large: that is an error of this call and of no other.
fn sendable(mut answer: v1::Message) -> v1::Message {
    let bytes = answer.encoded_len();
    if bytes > MESSAGE_BYTES_MAX {
        answer.body = Some(Body::Refused(v1::Refused {
            reason: Reason::AnswerTooLarge.into(),
            message: format!("its answer has {bytes} bytes, more than {MESSAGE_BYTES_MAX}"),
        }));
    }
    answer
}
