//! From an HTTP/2 request to the service that handles it: admitted, counted, bounded.
//!
//! This takes the place of a stack of layers: the path is compared once, and what the generated
//! service answers is handed on as it is, so that a call costs no allocation here.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use flotilla_proto::{
    MESSAGE_BYTES_MAX,
    kv::kv_service_server::KvServiceServer,
    v1::{cluster_server::ClusterServer, kv_server::KvServer},
};
use http::{HeaderMap, Request, Response};
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, body::Body, codegen::Service as _};
use tonic_health::pb::health_server::HealthServer;
use tower::util::BoxCloneSyncService;

use super::{
    Membership, Requests,
    admission::{Admission, Permit},
    body::Received,
    cluster::ClusterApi,
    health::{self, HealthApi},
    kv::KvApi,
    limits::Limits,
    observer::{Method, Observer},
    seed::SeedApi,
    status::status,
};
use crate::error::Error;

/// Bytes that a request's message is wrapped in, generously.
const FRAMING_BYTES: usize = 64;

/// Bound: bytes read of a request that is refused, and the wait for them.
const UNREAD_BYTES_MAX: usize = 256 << 10;
const UNREAD_WAIT_MAX: Duration = Duration::from_millis(500);

type RequestBody = Received<Incoming, Status>;
type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;
type AnyService = BoxCloneSyncService<Request<RequestBody>, Response<Body>, Infallible>;

/// All gRPC services of the port for clients, as one service of hyper. Cheap to clone.
pub struct Services<R: Requests>(Arc<Shared<R>>);

struct Shared<R: Requests> {
    kv: KvServer<KvApi<R>>,
    seed: KvServiceServer<SeedApi<R>>,
    cluster: ClusterServer<ClusterApi>,
    health: HealthServer<HealthApi>,
    reflection: AnyService,
    reflection_alpha: AnyService,
    admission: Admission,
    limits: Arc<Limits>,
    observer: Arc<dyn Observer>,
    draining: CancellationToken,
}

impl<R: Requests> Clone for Services<R> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<R: Requests> Services<R> {
    pub fn new(
        requests: R,
        membership: Arc<dyn Membership>,
        limits: Arc<Limits>,
        admission: Admission,
        observer: Arc<dyn Observer>,
    ) -> Self {
        let kv = KvApi::new(requests, Arc::clone(&limits));
        let cluster =
            ClusterApi { membership: Arc::clone(&membership), limits: Arc::clone(&limits) };
        let draining = CancellationToken::new();
        let health = HealthApi { membership, draining: draining.clone() };
        Self(Arc::new(Shared {
            kv: KvServer::new(kv.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
            seed: KvServiceServer::new(SeedApi(kv))
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
            cluster: ClusterServer::new(cluster)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
            health: HealthServer::new(health),
            reflection: AnyService::new(health::reflection_v1()),
            reflection_alpha: AnyService::new(health::reflection_v1alpha()),
            admission,
            limits,
            observer,
            draining,
        }))
    }

    /// Ends the streams that would otherwise never end.
    pub(super) fn drain(&self) {
        self.0.draining.cancel();
    }
}

impl<R: Requests> hyper::service::Service<Request<Incoming>> for Services<R> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Call;

    fn call(&self, request: Request<Incoming>) -> Call {
        let shared = &*self.0;
        let method = Method::from_path(request.uri().path());
        let mut tracked = Tracked::start(&shared.observer, method);
        match shared.admission.admit(method.class()) {
            Ok(permit) => tracked.hold(permit),
            Err(error) => {
                return Call::refused(tracked, status(&error), request.into_body());
            }
        }
        let request = request.map(|body| {
            Received::new(
                body,
                Arc::clone(shared.admission.receive()),
                MESSAGE_BYTES_MAX + FRAMING_BYTES,
                tracked.started + shared.limits.request_timeout_max,
                status,
                |error| Status::from_error(Box::new(error)),
            )
        });
        match shared.route(method, request) {
            Ok(answer) => Call::running(tracked, answer),
            Err(unread) => {
                Call::refused(tracked, Status::unimplemented("there is no such method"), unread)
            }
        }
    }
}

impl<R: Requests> Shared<R> {
    /// Hands the request to the service that has its method, or gives the rest of it back.
    fn route(
        &self,
        method: Method,
        request: Request<RequestBody>,
    ) -> Result<Answering, RequestBody> {
        Ok(match method {
            Method::Get
            | Method::BatchGet
            | Method::Put
            | Method::Delete
            | Method::Write
            | Method::Txn
            | Method::CompareAndPut
            | Method::PutIfAbsent
            | Method::GetAndPut
            | Method::Append
            | Method::Increment
            | Method::DeleteRange
            | Method::Scan => self.kv.clone().call(request),
            Method::SeedSet | Method::SeedDelete | Method::SeedGet | Method::SeedExists => {
                self.seed.clone().call(request)
            }
            Method::Initialize
            | Method::AddLearner
            | Method::ChangeMembership
            | Method::RemoveNode
            | Method::CancelRemoveNode
            | Method::EvictLeaders
            | Method::TransferLeader
            | Method::Status
            | Method::ListNodes
            | Method::ListRegions
            | Method::Locate
            | Method::CheckRegion => self.cluster.clone().call(request),
            Method::HealthCheck | Method::HealthWatch => self.health.clone().call(request),
            Method::Reflection => Box::pin(self.reflection.clone().call(request)),
            Method::ReflectionAlpha => Box::pin(self.reflection_alpha.clone().call(request)),
            Method::HttpGet
            | Method::HttpPut
            | Method::HttpDelete
            | Method::HttpList
            | Method::HttpCluster
            | Method::Unknown => return Err(request.into_body()),
        })
    }
}

/// A call under way.
pub struct Call(Stage);

enum Stage {
    /// Answered without a handler.
    Refused(Answering),
    Running {
        answer: Answering,
        tracked: Option<Tracked>,
    },
}

impl Call {
    fn running(tracked: Tracked, answer: Answering) -> Self {
        Self(Stage::Running { answer, tracked: Some(tracked) })
    }

    fn refused<B>(mut tracked: Tracked, status: Status, unread: B) -> Self
    where
        B: hyper::body::Body<Data = Bytes> + Send + Unpin + 'static,
    {
        tracked.finish(status.code());
        Self(Stage::Refused(Box::pin(async move {
            read_to_the_end(unread).await;
            Ok(status.into_http())
        })))
    }
}

impl Future for Call {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        const ONCE: &str = "a future is not polled once it is ready";
        match &mut self.get_mut().0 {
            Stage::Refused(answer) => answer.as_mut().poll(cx),
            Stage::Running { answer, tracked } => {
                let Ok(mut response) = ready!(answer.as_mut().poll(cx));
                let mut tracked = tracked.take().expect(ONCE);
                let mut code = code_of(response.headers());
                if let Some(error) = code.and_then(|code| unreadable(code, response.headers())) {
                    let status = status(&error);
                    code = Some(status.code());
                    response = status.into_http();
                }
                if tracked.method.streams() && code.is_none() {
                    let stream = |body| Body::new(Streaming { body, tracked });
                    return Poll::Ready(Ok(response.map(stream)));
                }
                // The status of a success follows in the trailers.
                tracked.finish(code.unwrap_or(Code::Ok));
                Poll::Ready(Ok(response))
            }
        }
    }
}

/// An answer to a request whose end was not read resets its stream. What arrives of it later is a fault in
/// the books of the connection, which is closed after a thousand, and takes the calls of others along. So
/// the request is read first, if that takes neither long nor much.
async fn read_to_the_end<B: hyper::body::Body<Data = Bytes> + Unpin>(mut body: B) {
    let reading = async {
        let mut read = 0;
        while read < UNREAD_BYTES_MAX
            && let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await
        {
            read += frame.data_ref().map_or(0, Bytes::len);
        }
    };
    // Who is slower than that is reset.
    let _ = tokio::time::timeout(UNREAD_WAIT_MAX, reading).await;
}

/// Tells the observer once, when the call is over, and gives its place back.
pub(super) struct Tracked {
    observer: Arc<dyn Observer>,
    method: Method,
    started: Instant,
    /// Of the answer; `None`, which counts as cancelled, if the client goes first.
    code: Option<Code>,
    permit: Option<Permit>,
}

impl Tracked {
    pub(super) fn start(observer: &Arc<dyn Observer>, method: Method) -> Self {
        observer.started(method);
        let observer = Arc::clone(observer);
        Self { observer, method, started: Instant::now(), code: None, permit: None }
    }

    /// Holds the call's place for as long as it is tracked.
    pub(super) fn hold(&mut self, permit: Option<Permit>) {
        self.permit = permit;
    }

    /// Notes how the call ended; the first answer counts.
    pub(super) fn finish(&mut self, code: Code) {
        self.code.get_or_insert(code);
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        let code = self.code.unwrap_or(Code::Cancelled);
        self.observer.finished(self.method, code, self.started.elapsed().as_secs_f64());
    }
}

/// The body of a stream of answers, which is over when its trailers are sent.
struct Streaming {
    body: Body,
    tracked: Tracked,
}

impl hyper::body::Body for Streaming {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(code) = frame.trailers_ref().and_then(code_of)
        {
            this.tracked.finish(code);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn code_of(headers: &HeaderMap) -> Option<Code> {
    headers.get(Status::GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes()))
}

/// The error behind a status that tonic gave to a message it could not read. It would otherwise be
/// `INTERNAL`, which says that something may have been applied, when no handler was called.
fn unreadable(code: Code, headers: &HeaderMap) -> Option<Error> {
    // All of ours have details.
    if headers.contains_key(Status::GRPC_STATUS_DETAILS) {
        return None;
    }
    match code {
        Code::OutOfRange => Some(Error::InvalidArgument {
            field: "request".into(),
            message: format!("the message is larger than {MESSAGE_BYTES_MAX} bytes"),
            limit: MESSAGE_BYTES_MAX as u64,
        }),
        Code::Internal => {
            let why = Status::from_header_map(headers);
            let why = why.as_ref().map_or("", Status::message);
            Some(Error::invalid("request", format!("the message cannot be read: {why}")))
        }
        _ => None,
    }
}
