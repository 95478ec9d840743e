//! From an HTTP/2 request to the service that handles it: admitted, counted, bounded.
//!
//! This takes the place of a stack of layers: the path is compared once, and what the generated
//! service answers is handed on as it is, so that a call costs no allocation here.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, LazyLock},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use flotilla_proto::{
    CLUSTER_ID_METADATA, MESSAGE_BYTES_MAX,
    kv::kv_service_server::KvServiceServer,
    v1::{cluster_server::ClusterServer, kv_server::KvServer},
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header, response};
use hyper::body::{Body as _, Incoming};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, body::Body, codegen::Service as _};
use tonic_health::pb::health_server::HealthServer;
use tower::util::BoxCloneSyncService;

use super::{
    ClusterCalls,
    admission::{Admission, InFlight, Permit},
    answer::{self, Answer, EncodedBytes, Rest, waits_for_its_reader},
    body::Received,
    cluster::ClusterApi,
    health::{self, HealthApi},
    kv::KvApi,
    limits::Limits,
    observer::{Class, Method, Observer},
    seed::SeedApi,
    status::status,
    tracked::{Tracked, code_of},
};
use crate::{
    error::Error,
    ids::ClusterId,
    router::Requests,
    trail::{self, Scoped},
};

/// Bytes that a request's message is wrapped in, generously.
const FRAMING_BYTES: usize = 64;

/// Bytes of a message that lists nodes: a multiple of the most ids that it may have.
const IDS_BYTES_MAX: usize = 64 << 10;

/// Bound: bytes read of a request that is refused, and the wait for them.
const UNREAD_BYTES_MAX: usize = 256 << 10;
const UNREAD_WAIT_MAX: Duration = Duration::from_millis(500);

type RequestBody = Received<Incoming, Status>;
type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;
type AnyService = BoxCloneSyncService<Request<RequestBody>, Response<Body>, Infallible>;

/// Made when somebody first asks: it reads every contract, which takes longer than the rest of a start, and says the
/// same of every node.
static REFLECTION: LazyLock<AnyService> =
    LazyLock::new(|| AnyService::new(health::reflection_v1()));
static REFLECTION_ALPHA: LazyLock<AnyService> =
    LazyLock::new(|| AnyService::new(health::reflection_v1alpha()));

/// All gRPC services of the port for clients, as one service of hyper. Cheap to clone.
pub struct Services<R: Requests>(Arc<Shared<R>>, Option<SocketAddr>);

struct Shared<R: Requests> {
    kv: KvServer<KvApi<R>>,
    seed: KvServiceServer<SeedApi<R>>,
    cluster: ClusterServer<ClusterApi>,
    health: HealthServer<HealthApi>,
    admission: Admission,
    limits: Arc<Limits>,
    observer: Arc<dyn Observer>,
    draining: CancellationToken,
    membership: Arc<dyn ClusterCalls>,
}

impl<R: Requests> Clone for Services<R> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0), self.1)
    }
}

impl<R: Requests> Services<R> {
    pub fn new(
        requests: R,
        membership: Arc<dyn ClusterCalls>,
        limits: Arc<Limits>,
        admission: Admission,
        observer: Arc<dyn Observer>,
    ) -> Self {
        let kv = KvApi::sharing(requests, Arc::clone(&limits), &admission);
        let cluster =
            ClusterApi { membership: Arc::clone(&membership), limits: Arc::clone(&limits) };
        let draining = CancellationToken::new();
        let health = HealthApi::new(Arc::clone(&membership), draining.clone());
        let shared = Arc::new(Shared {
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
            admission,
            limits,
            observer,
            draining,
            membership,
        });
        Self(shared, None)
    }

    /// The same services, for the connection of a client.
    pub(super) fn for_client(&self, client: Option<SocketAddr>) -> Self {
        Self(Arc::clone(&self.0), client)
    }

    /// Ends the streams that would otherwise never end.
    pub(super) fn drain(&self) {
        self.0.draining.cancel();
    }
}

impl<R: Requests> hyper::service::Service<Request<Incoming>> for Services<R> {
    type Response = Response<Answer<Rest>>;
    type Error = Infallible;
    type Future = Scoped<Call>;

    fn call(&self, request: Request<Incoming>) -> Scoped<Call> {
        trail::scope(self.1, self.take_in(request))
    }
}

impl<R: Requests> Services<R> {
    fn take_in(&self, request: Request<Incoming>) -> Call {
        let shared = &*self.0;
        let method = Method::from_path(request.uri().path());
        let mut tracked = Tracked::start(&shared.observer, method);
        if let Some(refusal) = no_grpc(&request) {
            return Call::answered(tracked, Code::InvalidArgument, refusal, request.into_body());
        }
        let admitted = check_cluster(request.headers(), &*shared.membership)
            .and_then(|()| shared.admission.admit(method.class()));
        match admitted {
            Ok(permit) => tracked.hold(permit),
            Err(error) => {
                return Call::refused(tracked, status(&error), request.into_body());
            }
        }
        if let Some(status) = compressed(request.headers()) {
            return Call::refused(tracked, status, request.into_body());
        }
        // Bound: streams of small messages, of which there may be any number, are not counted.
        let fields_max = match method.class() {
            Class::Free => usize::MAX,
            Class::Request | Class::Scan | Class::Cluster => shared.limits.message_fields_max(),
        };
        // Bound: ids are packed, a byte each, and become eight.
        let bytes_max =
            if method == Method::ChangeMembership { IDS_BYTES_MAX } else { MESSAGE_BYTES_MAX };
        let request = request.map(|body| {
            Received::new(
                body,
                Arc::clone(shared.admission.receive()),
                bytes_max + FRAMING_BYTES,
                tracked.started + shared.limits.request_timeout_max,
                status,
                |error| Status::from_error(Box::new(error)),
            )
            .with_fields_max(fields_max)
        });
        match shared.route(method, request) {
            Ok(answer) => Call::running(tracked, answer, shared.admission.answers()),
            Err(unread) => Call::refused(tracked, unimplemented("there is no such method"), unread),
        }
    }
}

impl<R: Requests> Shared<R> {
    /// Hands the request to the service that has its method, or gives the rest of it back.
    fn route(
        &self,
        method: Method,
        request: Request<RequestBody>,
    ) -> Result<Answering, Box<RequestBody>> {
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
            Method::Reflection => Box::pin(REFLECTION.clone().call(request)),
            Method::ReflectionAlpha => Box::pin(REFLECTION_ALPHA.clone().call(request)),
            Method::HttpGet
            | Method::HttpPut
            | Method::HttpDelete
            | Method::HttpList
            | Method::HttpCluster
            | Method::Unknown => return Err(Box::new(request.into_body())),
        })
    }
}

/// Refuses a call that names another cluster than ours.
///
/// Addresses outlive clusters: a caller that knows its cluster's id is not answered by whoever has its
/// address now.
///
/// # Errors
/// `WrongCluster`; `InvalidArgument` when what it names is no id.
pub fn check_cluster(headers: &HeaderMap, membership: &dyn ClusterCalls) -> Result<(), Error> {
    let Some(named) = headers.get(CLUSTER_ID_METADATA) else { return Ok(()) };
    let asked = named.to_str().ok().and_then(ClusterId::parse).ok_or_else(|| {
        Error::invalid(CLUSTER_ID_METADATA, "the metadata must be 32 hexadecimal digits")
    })?;
    match membership.cluster_id() {
        Some(actual) if actual != asked => Err(Error::WrongCluster { asked, actual }),
        // A node that is of no cluster says so by itself.
        _ => Ok(()),
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
        answers: Arc<InFlight>,
    },
    /// A handler has answered with one message, which is being encoded.
    Encoding {
        head: Option<response::Parts>,
        body: Body,
        message: Bytes,
        tracked: Option<Tracked>,
        /// The place of the answer among those that are not read, once its size was known.
        held: Option<Permit>,
        answers: Arc<InFlight>,
    },
}

impl Call {
    fn running(tracked: Tracked, answer: Answering, answers: &Arc<InFlight>) -> Self {
        Self(Stage::Running { answer, tracked: Some(tracked), answers: Arc::clone(answers) })
    }

    fn refused<B>(tracked: Tracked, status: Status, unread: B) -> Self
    where
        B: hyper::body::Body<Data = Bytes> + Send + Unpin + 'static,
    {
        Self::answered(tracked, status.code(), status.into_http(), unread)
    }

    fn answered<B>(mut tracked: Tracked, code: Code, answer: Response<Body>, unread: B) -> Self
    where
        B: hyper::body::Body<Data = Bytes> + Send + Unpin + 'static,
    {
        tracked.finish(code);
        Self(Stage::Refused(Box::pin(async move {
            read_to_the_end(unread).await;
            Ok(answer)
        })))
    }
}

const ONCE: &str = "a future is not polled once it is ready";

impl Future for Call {
    type Output = Result<Response<Answer<Rest>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let stage = &mut self.get_mut().0;
        let response = loop {
            match stage {
                Stage::Refused(answer) => {
                    let Ok(response) = ready!(answer.as_mut().poll(cx));
                    break without_message(response, None);
                }
                Stage::Running { answer, tracked, answers } => {
                    let Ok(mut response) = ready!(answer.as_mut().poll(cx));
                    let mut tracked = tracked.take().expect(ONCE);
                    let mut code = code_of(response.headers());
                    if let Some(error) = code.and_then(|code| unreadable(code, response.headers()))
                    {
                        let status = status(&error);
                        code = Some(status.code());
                        response = status.into_http();
                    }
                    if let Some(code) = code {
                        tracked.finish(code);
                        break without_message(response, Some(tracked));
                    }
                    // The status of a success follows in the trailers.
                    if tracked.method.streams() {
                        break response.map(|body| {
                            Answer::new(Bytes::new(), Rest::Stream(body), Some(tracked), None)
                        });
                    }
                    let (head, body) = response.into_parts();
                    // Ordering: before the message is copied, which takes long and would be in vain.
                    let held = match head.extensions.get::<EncodedBytes>() {
                        Some(EncodedBytes(bytes)) => {
                            match answer::hold(answers, tracked.method, *bytes) {
                                Ok(held) => held,
                                Err(error) => break failed(&error, tracked),
                            }
                        }
                        None => None,
                    };
                    let (head, tracked) = (Some(head), Some(tracked));
                    let (message, answers) = (Bytes::new(), Arc::clone(answers));
                    *stage = Stage::Encoding { head, body, message, tracked, held, answers };
                }
                Stage::Encoding { head, body, message, tracked, held, answers } => {
                    let trailers = match ready!(Pin::new(body).poll_frame(cx)) {
                        Some(Ok(frame)) => match frame.into_data() {
                            Ok(data) => {
                                debug_assert!(message.is_empty(), "one message is one frame");
                                *message = data;
                                continue;
                            }
                            Err(frame) => frame.into_trailers().ok(),
                        },
                        Some(Err(status)) => {
                            Some(status.into_http::<Body>().into_parts().0.headers)
                        }
                        None => None,
                    };
                    let head = head.take().expect(ONCE);
                    let tracked = tracked.take().expect(ONCE);
                    let message = std::mem::take(message);
                    break encoded(head, message, trailers, tracked, held.take(), answers);
                }
            }
        };
        waits_for_its_reader();
        Poll::Ready(Ok(response))
    }
}

fn without_message<B>(response: Response<B>, tracked: Option<Tracked>) -> Response<Answer<Rest>> {
    response.map(|_| Answer::new(Bytes::new(), Rest::Whole(None), tracked, None))
}

/// The answer of a handler that has succeeded.
fn encoded(
    head: response::Parts,
    message: Bytes,
    trailers: Option<HeaderMap>,
    mut tracked: Tracked,
    held: Option<Permit>,
    answers: &Arc<InFlight>,
) -> Response<Answer<Rest>> {
    let code = trailers.as_ref().and_then(code_of).unwrap_or(Code::Ok);
    let held = match code {
        Code::Ok if held.is_some() => Ok(held),
        Code::Ok => answer::hold(answers, tracked.method, message.len()),
        // By tonic, which knows nothing of what was applied.
        _ => Err(too_large(tracked.method)),
    };
    match held {
        Ok(held) => {
            tracked.finish(code);
            let answer = Answer::new(message, Rest::Whole(trailers), Some(tracked), held);
            Response::from_parts(head, answer)
        }
        Err(error) => failed(&error, tracked),
    }
}

fn failed(error: &Error, mut tracked: Tracked) -> Response<Answer<Rest>> {
    let status = status(error);
    tracked.finish(status.code());
    without_message(status.into_http::<Body>(), Some(tracked))
}

/// The error of a message that is not sent since it is larger than clients take.
fn too_large(method: Method) -> Error {
    let message = format!("the answer is larger than {MESSAGE_BYTES_MAX} bytes");
    if method.only_reads() {
        Error::FailedPrecondition { message }
    } else {
        Error::OutcomeUnknown { message }
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

/// What this version does not do, and has not done: without a detail the outcome of a write would be open.
fn unimplemented(message: &str) -> Status {
    status(&Error::Unimplemented { message: message.to_owned() })
}

/// The refusal of what is no call of gRPC, or not of messages of protobuf: its frames or its answer would mean
/// something else to who sent it. As HTTP, for he may not know the status of gRPC.
fn no_grpc<B>(request: &Request<B>) -> Option<Response<Body>> {
    let refused = |status, name, value| {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status;
        response.headers_mut().insert(name, HeaderValue::from_static(value));
        Some(response)
    };
    if request.method() != http::Method::POST {
        return refused(StatusCode::METHOD_NOT_ALLOWED, header::ALLOW, "POST");
    }
    let content_type = request.headers().get(header::CONTENT_TYPE);
    let content_type = content_type.map_or(&b""[..], HeaderValue::as_bytes);
    let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default();
    match &essence.trim_ascii().to_ascii_lowercase()[..] {
        b"application/grpc" | b"application/grpc+proto" => None,
        _ => refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, header::ACCEPT, "application/grpc"),
    }
}

/// The refusal of a compressed message. Reading one would need a bound on what it becomes, before it is
/// counted; values are the client's to compress.
fn compressed(headers: &HeaderMap) -> Option<Status> {
    let encoding = headers.get("grpc-encoding").filter(|encoding| *encoding != "identity")?;
    let encoding = encoding.to_str().unwrap_or("?");
    let mut status = unimplemented(&format!(
        "grpc-encoding: {encoding} is not accepted, send messages as they are (identity)"
    ));
    let accepted = HeaderValue::from_static("identity");
    status.metadata_mut().as_mut().insert("grpc-accept-encoding", accepted);
    Some(status)
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
        Code::Unimplemented => {
            let why = Status::from_header_map(headers);
            let why = why.as_ref().map_or("", Status::message);
            Some(Error::Unimplemented { message: format!("the message was not read: {why}") })
        }
        Code::Internal => {
            let why = Status::from_header_map(headers);
            let why = why.as_ref().map_or("", Status::message);
            Some(Error::invalid("request", format!("the message cannot be read: {why}")))
        }
        _ => None,
    }
}
