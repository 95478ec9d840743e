//! Over real sockets: what no handler sees.

use std::net::SocketAddr;

use bytes::{Buf as _, BufMut as _, Bytes};
use flotilla_proto::{
    kv::{self, kv_service_client::KvServiceClient},
    v1::{self, cluster_client::ClusterClient, kv_client::KvClient},
};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, timeout},
};
use tonic::{
    Code, Request, Status,
    codec::{DecodeBuf, EncodeBuf},
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::*;
use crate::api::{
    Admission, Limits, Membership, Method, Observer,
    fake::{FakeMembership, FakeRequests},
    http_router,
};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Recorder {
    started: AtomicUsize,
    finished: Mutex<Vec<(Method, Code)>>,
}

impl Observer for Recorder {
    fn started(&self, _: Method) {
        self.started.fetch_add(1, Ordering::SeqCst);
    }

    fn finished(&self, method: Method, code: Code, seconds: f64) {
        assert!(seconds >= 0.0);
        self.finished.lock().push((method, code));
    }
}

struct Server {
    address: SocketAddr,
    requests: FakeRequests,
    recorder: Arc<Recorder>,
    elsewhere: CancellationToken,
    shutdown: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(limits: Limits) -> Self {
        let requests = FakeRequests::with_user_regions(&["m"]);
        let recorder = Arc::new(Recorder::default());
        let limits = Arc::new(limits);
        let services = Services::new(
            requests.clone(),
            Arc::new(FakeMembership::default()) as Arc<dyn Membership>,
            Arc::clone(&limits),
            Admission::new(&limits),
            Arc::clone(&recorder) as Arc<dyn Observer>,
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (shutdown, asked) = oneshot::channel();
        let elsewhere = CancellationToken::new();
        let told = elsewhere.clone();
        let task = tokio::spawn(async move {
            let asked = async {
                let _ = asked.await;
            };
            serve_grpc(listen(listener), services, &limits.connections, told, asked).await;
        });
        Self { address, requests, recorder, elsewhere, shutdown: Some(shutdown), task }
    }

    async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address));
        endpoint.expect("an address").connect().await.expect("the server listens")
    }

    async fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel().await)
            .max_decoding_message_size(64 << 20)
            .max_encoding_message_size(64 << 20)
    }

    async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("the server listens")
    }

    /// Waits until calls of a method ended with a code.
    async fn finished(&self, method: Method, code: Code) {
        eventually(|| self.recorder.finished.lock().contains(&(method, code))).await;
    }
}

/// Waits for a condition that something else brings about.
async fn eventually(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, wait).await.expect("the condition comes true");
}

fn put(key: &str, value: Vec<u8>) -> v1::PutRequest {
    let key = key.to_string().into();
    v1::PutRequest { key, value: value.into(), ..v1::PutRequest::default() }
}

fn get(key: &str) -> v1::GetRequest {
    v1::GetRequest { context: None, key: key.to_string().into() }
}

#[tokio::test]
async fn all_services_answer_on_one_connection() {
    let server = Server::start(Limits::default()).await;
    let channel = server.channel().await;
    let mut kv = KvClient::new(channel.clone());
    kv.put(put("k", b"v".to_vec())).await.expect("written");
    let mut seed = KvServiceClient::new(channel.clone());
    let reply = seed.get(kv::GetRequest { key: "k".into() }).await.expect("read").into_inner();
    assert_eq!(reply.value, "v");
    let mut pages = kv.scan(v1::ScanRequest::default()).await.expect("begun").into_inner();
    let page = pages.message().await.expect("a page").expect("not the end");
    assert_eq!(page.kvs.len(), 1);
    assert!(pages.message().await.expect("the end").is_none());
    let mut cluster = ClusterClient::new(channel.clone());
    assert!(cluster.status(v1::StatusRequest {}).await.expect("answered").into_inner().joined);
    let mut health = HealthClient::new(channel.clone());
    let check = HealthCheckRequest { service: "flotilla.v1.Kv".into() };
    assert_eq!(health.check(check).await.expect("answered").into_inner().status, 1);

    for (method, code) in [
        (Method::Put, Code::Ok),
        (Method::SeedGet, Code::Ok),
        (Method::Scan, Code::Ok),
        (Method::Status, Code::Ok),
        (Method::HealthCheck, Code::Ok),
    ] {
        server.finished(method, code).await;
    }
    assert_eq!(server.recorder.started.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn reflection_shows_the_services_for_clients_alone() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let server = Server::start(Limits::default()).await;
    let mut client = ServerReflectionClient::new(server.channel().await);
    let ask =
        |message| ServerReflectionRequest { host: String::new(), message_request: Some(message) };
    let asked = stream::iter([
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("flotilla.v1.Kv".into())),
    ]);
    let mut answers = client.server_reflection_info(asked).await.expect("begun").into_inner();
    let first = answers.message().await.expect("answered").expect("an answer");
    let Some(MessageResponse::ListServicesResponse(list)) = first.message_response else {
        panic!("{first:?}")
    };
    let mut names: Vec<&str> = list.service.iter().map(|service| service.name.as_str()).collect();
    names.sort_unstable();
    let want = ["flotilla.v1.Cluster", "flotilla.v1.Kv", "grpc.health.v1.Health", "kv.KvService"];
    assert_eq!(names, want);
    let second = answers.message().await.expect("answered").expect("an answer");
    assert!(matches!(second.message_response, Some(MessageResponse::FileDescriptorResponse(_))));
}

#[tokio::test]
async fn unknown_methods_are_unimplemented() {
    let server = Server::start(Limits::default()).await;
    for path in ["/flotilla.v1.Kv/Nothing", "/flotilla.v1.Raft/Exchange", "/x", "/http/get"] {
        let mut grpc = tonic::client::Grpc::new(server.channel().await);
        grpc.ready().await.expect("connected");
        let codec = tonic_codec();
        let path = path.parse().expect("a path");
        let result = grpc.unary(Request::new(get("k")), path, codec).await;
        assert_eq!(result.expect_err("there is no such").code(), Code::Unimplemented);
    }
}

fn tonic_codec() -> impl tonic::codec::Codec<Encode = v1::GetRequest, Decode = v1::GetResponse> {
    tonic_prost::ProstCodec::default()
}

#[tokio::test]
async fn full_queue_answers_busy_at_once_and_recovers() {
    let server = Server::start(Limits { requests_in_flight_max: 2, ..Limits::default() }).await;
    server.requests.hang(true);
    let channel = server.channel().await;
    let hanging: Vec<_> = (0..2)
        .map(|_| {
            let mut kv = KvClient::new(channel.clone());
            tokio::spawn(async move { kv.get(get("k")).await })
        })
        .collect();
    eventually(|| server.recorder.started.load(Ordering::SeqCst) == 2).await;

    let mut kv = KvClient::new(channel.clone());
    let status = kv.get(get("k")).await.expect_err("no place is left");
    assert_eq!(status.code(), Code::ResourceExhausted);
    let detail = flotilla_proto::status::detail(&status).expect("a detail");
    assert!(detail.retryable && !detail.maybe_applied && detail.retry_after_ms > 0);
    let busy = v1::ServerIsBusy { queue: "requests".into() };
    assert_eq!(detail.reason, Some(v1::error_detail::Reason::ServerIsBusy(busy)));
    server.finished(Method::Get, Code::ResourceExhausted).await;

    let mut health = HealthClient::new(channel.clone());
    health.check(HealthCheckRequest::default()).await.expect("a full node still says how it is");

    server.requests.hang(false);
    for call in hanging {
        call.abort();
    }
    server.finished(Method::Get, Code::Cancelled).await;
    eventually_ok(async || kv.get(get("k")).await.is_ok()).await;
}

async fn eventually_ok(mut attempt: impl AsyncFnMut() -> bool) {
    let wait = async { while !attempt().await {} };
    timeout(PATIENCE, wait).await.expect("an attempt succeeds");
}

#[tokio::test]
async fn scan_keeps_its_place_until_it_is_dropped() {
    let server = Server::start(Limits { scans_in_flight_max: 1, ..Limits::default() }).await;
    server.requests.fill(&[("a", "1"), ("z", "2")]);
    server.requests.hang(true);
    let mut kv = server.kv().await;
    let first = kv.scan(v1::ScanRequest::default()).await.expect("begun, without a page yet");
    let status = kv.scan(v1::ScanRequest::default()).await.expect_err("one place");
    assert_eq!(status.code(), Code::ResourceExhausted);

    drop(first);
    server.finished(Method::Scan, Code::Cancelled).await;
    server.requests.hang(false);
    let mut pages = kv.scan(v1::ScanRequest::default()).await.expect("a place").into_inner();
    let mut keys = 0;
    while let Some(page) = pages.message().await.expect("a page") {
        keys += page.kvs.len();
    }
    assert_eq!(keys, 2);
    server.finished(Method::Scan, Code::Ok).await;
}

#[tokio::test]
async fn clients_deadline_goes_with_the_call_and_a_malformed_one_is_refused() {
    let server = Server::start(Limits::default()).await;
    let mut kv = server.kv().await;
    let mut request = Request::new(get("k"));
    request.set_timeout(Duration::from_millis(1500));
    kv.get(request).await.expect("in time");
    let left = server.requests.last_context().deadline - Instant::now();
    assert!(left <= Duration::from_millis(1500), "{left:?}");

    let mut malformed = Request::new(put("k", b"v".to_vec()));
    malformed.metadata_mut().insert("grpc-timeout", "soon".parse().expect("ASCII"));
    let status = kv.put(malformed).await.expect_err("malformed");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(server.requests.writes(), 0);
}

#[tokio::test]
async fn messages_that_cannot_be_read_are_the_callers_fault() {
    let server = Server::start(Limits::default()).await;
    let path = http::uri::PathAndQuery::from_static("/flotilla.v1.Kv/Put");
    let mut grpc = tonic::client::Grpc::new(server.channel().await);
    for (why, bytes) in [
        ("a field that says it is longer than the message", &b"\x12\x7f"[..]),
        ("a tag of no type", b"\x0f\x00"),
        ("a varint without end", b"\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
    ] {
        grpc.ready().await.expect("connected");
        let raw = Request::new(Bytes::from_static(bytes));
        let status = grpc.unary(raw, path.clone(), RawCodec).await.expect_err(why);
        assert_eq!(status.code(), Code::InvalidArgument, "{why}: {status:?}");
        let detail = flotilla_proto::status::detail(&status).expect("a detail");
        assert!(!detail.maybe_applied && !detail.retryable, "{why}");
    }
    server.finished(Method::Put, Code::InvalidArgument).await;
    assert_eq!(server.requests.writes(), 0);
}

/// Sends bytes as they are.
struct RawCodec;

impl tonic::codec::Codec for RawCodec {
    type Encode = Bytes;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl tonic::codec::Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl tonic::codec::Decoder for RawCodec {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        from.advance(from.remaining());
        Ok(Some(()))
    }
}

#[tokio::test]
async fn large_values_pass_and_too_large_ones_are_refused() {
    let server = Server::start(Limits::default()).await;
    let mut kv = server.kv().await;
    let largest = vec![b'x'; 8 << 20];
    kv.put(put("k", largest.clone())).await.expect("at the limit");
    let read = kv.get(get("k")).await.expect("read").into_inner().kv.expect("present");
    assert_eq!(read.value.len(), largest.len());

    let status = kv.put(put("k", vec![b'x'; (8 << 20) + 1])).await.expect_err("past the limit");
    assert_eq!(status.code(), Code::InvalidArgument);
    let status = kv.put(put("k", vec![b'x'; 21 << 20])).await.expect_err("past any message");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let detail = flotilla_proto::status::detail(&status).expect("a detail");
    let limit = flotilla_proto::MESSAGE_BYTES_MAX as u64;
    let invalid = v1::InvalidArgument { field: "request".into(), limit };
    assert_eq!(detail.reason, Some(v1::error_detail::Reason::InvalidArgument(invalid)));
    assert_eq!(server.requests.writes(), 1);
}

#[tokio::test]
async fn connection_past_the_limit_is_closed_at_once() {
    let mut limits = Limits::default();
    limits.connections.connections_max = 1;
    let server = Server::start(limits).await;
    let mut kv = server.kv().await;
    kv.get(get("k")).await.expect("the first connection");

    let mut second = server.tcp().await;
    let mut answer = Vec::new();
    let read = timeout(PATIENCE, second.read_to_end(&mut answer)).await.expect("is closed");
    assert!(read.is_err() || answer.is_empty(), "no word was said");
    kv.get(get("k")).await.expect("the first is not disturbed");

    drop(kv);
    eventually_ok(async || {
        let endpoint = Endpoint::from_shared(format!("http://{}", server.address));
        let Ok(channel) = endpoint.expect("an address").connect().await else { return false };
        KvClient::new(channel).get(get("k")).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn silent_connection_is_closed() {
    let mut limits = Limits::default();
    limits.connections.opening_timeout = Duration::from_millis(20);
    let server = Server::start(limits).await;
    let mut kv = server.kv().await;
    let mut silent = server.tcp().await;
    silent.write_all(b"PRI * HTTP/2.0").await.expect("half of the preface");
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, silent.read_to_end(&mut answer)).await.expect("is closed");
    kv.get(get("k")).await.expect("one that has spoken stays");
}

#[tokio::test]
async fn garbage_closes_its_own_connection_only() {
    let server = Server::start(Limits::default()).await;
    let mut kv = server.kv().await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for garbage in [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        vec![0; 100_000],
        [&preface[..], &[0xff; 100_000]].concat(),
        // A frame that announces 16 MiB.
        [&preface[..], &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]].concat(),
    ] {
        let mut tcp = server.tcp().await;
        // The server may close before it has read everything.
        let _ = tcp.write_all(&garbage).await;
        let mut answer = Vec::new();
        let _ = timeout(PATIENCE, tcp.read_to_end(&mut answer)).await.expect("is closed");
        kv.get(get("k")).await.expect("others are not disturbed");
    }
}

#[tokio::test]
async fn shutdown_finishes_calls_under_way_and_takes_no_new_connections() {
    let mut server = Server::start(Limits::default()).await;
    server.requests.hang(true);
    let mut kv = server.kv().await;
    let call = tokio::spawn(async move { kv.get(get("k")).await });
    eventually(|| server.recorder.started.load(Ordering::SeqCst) == 1).await;
    server.shutdown.take().expect("once").send(()).expect("it runs");
    eventually_ok(async || TcpStream::connect(server.address).await.is_err()).await;
    assert!(!server.task.is_finished(), "the call is under way");
    call.abort();
    timeout(PATIENCE, server.task).await.expect("ends with its last call").expect("no panic");
}

#[tokio::test]
async fn connected_clients_are_sent_elsewhere_and_later_ones_are_answered() {
    const GOAWAY: u8 = 7;
    let server = Server::start(Limits::default()).await;
    let mut early = server.tcp().await;
    let no_settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    early.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("a preface");
    early.write_all(&no_settings).await.expect("settings");
    let mut head = [0; 9];
    timeout(PATIENCE, early.read_exact(&mut head)).await.expect("soon").expect("settings");
    server.elsewhere.cancel();
    let sent_away = async {
        while head[3] != GOAWAY {
            let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
            early.read_exact(&mut payload).await.expect("a whole frame");
            early.read_exact(&mut head).await.expect("another frame");
        }
    };
    timeout(PATIENCE, sent_away).await.expect("soon");
    let mut late = server.kv().await;
    for number in 0..3 {
        late.put(put(&format!("late/{number}"), b"v".to_vec())).await.expect("answered");
    }
}

#[tokio::test]
async fn watcher_of_health_does_not_hold_up_a_shutdown() {
    let mut server = Server::start(Limits::default()).await;
    let mut health = HealthClient::new(server.channel().await);
    let mut watch = health.watch(HealthCheckRequest::default()).await.expect("begun").into_inner();
    watch.message().await.expect("answered").expect("the status now");
    server.shutdown.take().expect("once").send(()).expect("it runs");
    timeout(PATIENCE, server.task).await.expect("ends").expect("no panic");
    assert!(watch.message().await.expect("an orderly end").is_none());
}

#[tokio::test]
async fn http_and_its_shutdown() {
    let limits = Arc::new(Limits::default());
    let router = http_router(
        FakeRequests::with_user_regions(&[]),
        Arc::new(FakeMembership::default()),
        Arc::clone(&limits),
        Admission::new(&limits),
        Arc::new(Recorder::default()),
        Arc::new(|| "hello".into()),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let (shutdown, asked) = oneshot::channel::<()>();
    let limits = ConnectionLimits {
        opening_timeout: Duration::from_millis(50),
        ..ConnectionLimits::default()
    };
    let task = tokio::spawn(async move {
        let asked = async {
            let _ = asked.await;
        };
        serve_http(listen(listener), router, &limits, asked).await;
    });
    let mut tcp = TcpStream::connect(address).await.expect("it listens");
    tcp.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .expect("sent");
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).await.expect("answered");
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("hello"), "{answer}");

    let mut large = TcpStream::connect(address).await.expect("it listens");
    let head = b"PUT /kv/k HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\
        Content-Length: 99999999999\r\n\r\n";
    large.write_all(head).await.expect("sent");
    let mut answer = String::new();
    let _ = timeout(PATIENCE, large.read_to_string(&mut answer)).await.expect("is closed");
    assert!(answer.starts_with("HTTP/1.1 413"), "not asked to go on: {answer}");

    let mut slow = TcpStream::connect(address).await.expect("it listens");
    slow.write_all(b"GET / HT").await.expect("half a head");
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, slow.read_to_end(&mut rest)).await.expect("is closed");

    let mut garbage = TcpStream::connect(address).await.expect("it listens");
    garbage.write_all(&[0xff; 1000]).await.expect("sent");
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, garbage.read_to_end(&mut rest)).await.expect("is closed");

    shutdown.send(()).expect("it runs");
    timeout(PATIENCE, task).await.expect("ends").expect("no panic");
}
