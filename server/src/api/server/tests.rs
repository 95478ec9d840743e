//! Over real sockets: what no handler sees.

use std::net::SocketAddr;

use bytes::{Buf as _, BufMut as _, Bytes};
use flotilla_proto::{
    clients, kv,
    v1::{self, kv_client::KvClient},
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
    Admission, ClusterCalls, Hosts, Limits, Method, Observer,
    fake::{FAKE_CLUSTER, FakeMembership, FakeRequests},
    http_router,
};
use crate::trail::Trail;

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Recorder {
    started: AtomicUsize,
    finished: Mutex<Vec<(Method, Code)>>,
    /// Who asked, of each call.
    clients: Mutex<Vec<(Method, Option<SocketAddr>)>>,
}

impl Observer for Recorder {
    fn started(&self, _: Method) {
        self.started.fetch_add(1, Ordering::SeqCst);
    }

    fn finished(&self, method: Method, code: Code, seconds: f64) {
        assert!(seconds >= 0.0);
        self.finished.lock().push((method, code));
    }

    /// All of them, so that none has to take long.
    fn is_slow(&self, _: Method, _: Duration) -> bool {
        true
    }

    fn slow(&self, method: Method, _: Code, _: Duration, trail: Trail) {
        self.clients.lock().push((method, trail.client));
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
        let admission = Admission::new(&limits);
        let places = admission.client_connections();
        let services = Services::new(
            requests.clone(),
            Arc::new(FakeMembership::default()) as Arc<dyn ClusterCalls>,
            Arc::clone(&limits),
            admission,
            Arc::clone(&recorder) as Arc<dyn Observer>,
        );
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (shutdown, asked) = oneshot::channel();
        let elsewhere = CancellationToken::new();
        let told = elsewhere.clone();
        let task = tokio::spawn(async move {
            let asked = async {
                let _ = asked.await;
            };
            serve_grpc(listen(listener, places), services, &limits, told, asked).await;
        });
        Self { address, requests, recorder, elsewhere, shutdown: Some(shutdown), task }
    }

    async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address));
        endpoint.expect("an address").connect().await.expect("the server listens")
    }

    async fn kv(&self) -> KvClient<Channel> {
        clients::kv(self.channel().await)
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
async fn a_client_takes_the_largest_answer() {
    let server = Server::start(Limits::default()).await;
    let value = vec![1; Limits::default().value_bytes_max];
    let mut kv = clients::kv(server.channel().await);
    kv.put(put("k", value.clone())).await.expect("accepted");
    let got = kv.get(get("k")).await.expect("answered").into_inner();
    assert_eq!(got.kv.map(|kv| kv.value.len()), Some(value.len()));
}

#[tokio::test]
async fn all_services_answer_on_one_connection() {
    let server = Server::start(Limits::default()).await;
    let channel = server.channel().await;
    let mut kv = clients::kv(channel.clone());
    kv.put(put("k", b"v".to_vec())).await.expect("written");
    let mut seed = clients::kv_service(channel.clone());
    let reply = seed.get(kv::GetRequest { key: "k".into() }).await.expect("read").into_inner();
    assert_eq!(reply.value, "v");
    let mut pages = kv.scan(v1::ScanRequest::default()).await.expect("begun").into_inner();
    let page = pages.message().await.expect("a page").expect("not the end");
    assert_eq!(page.kvs.len(), 1);
    assert!(pages.message().await.expect("the end").is_none());
    let mut cluster = clients::cluster(channel.clone());
    assert!(
        cluster.status(v1::StatusRequest::default()).await.expect("answered").into_inner().joined
    );
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
async fn call_for_another_cluster_is_refused_with_both_ids() {
    use flotilla_proto::v1::error_detail::Reason;
    let server = Server::start(Limits::default()).await;
    let mut kv = server.kv().await;
    let mut call = async |cluster: &str| {
        let mut request = Request::new(put("k", b"v".to_vec()));
        let named = cluster.parse().expect("text");
        request.metadata_mut().insert(flotilla_proto::CLUSTER_ID_METADATA, named);
        kv.put(request).await
    };
    call(&FAKE_CLUSTER.to_string()).await.expect("the node's own");
    let other = "00112233445566778899aabbccddeeff";
    let refused = call(other).await.expect_err("another's");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    let detail = flotilla_proto::status::detail(&refused).expect("a detail");
    let want = v1::WrongCluster {
        asked_cluster_id: other.to_owned(),
        actual_cluster_id: FAKE_CLUSTER.to_string(),
    };
    assert_eq!(detail.reason, Some(Reason::WrongCluster(want)));
    assert!(!detail.maybe_applied, "nothing was done");
    let refused = call("mine").await.expect_err("no id");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
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
        let status = result.expect_err("there is no such");
        assert_eq!(status.code(), Code::Unimplemented);
        let detail = flotilla_proto::status::detail(&status).expect("an ErrorDetail");
        assert!(!detail.maybe_applied);
    }
}

#[tokio::test]
async fn a_message_of_very_many_elements_is_refused_before_it_is_decoded() {
    let server = Server::start(Limits { txn_ops_max: 4, ..Limits::default() }).await;
    let mut kv = clients::kv(server.channel().await);
    for (ops, field) in [(5, "txn"), (5000, "request")] {
        let success = vec![v1::Op::default(); ops];
        let txn = v1::TxnRequest { success, ..v1::TxnRequest::default() };
        let status = kv.txn(txn).await.expect_err("too many");
        assert_eq!(status.code(), Code::InvalidArgument, "{ops}");
        let detail = flotilla_proto::status::detail(&status).expect("an ErrorDetail");
        let Some(v1::error_detail::Reason::InvalidArgument(reason)) = detail.reason else {
            panic!("{ops}: {status:?}")
        };
        assert_eq!(reason.field, field, "{ops}");
        assert!(!detail.maybe_applied, "{ops}");
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
            let mut kv = clients::kv(channel.clone());
            tokio::spawn(async move { kv.get(get("k")).await })
        })
        .collect();
    eventually(|| server.recorder.started.load(Ordering::SeqCst) == 2).await;

    let mut kv = clients::kv(channel.clone());
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
    let limits = Limits { connections_max: 1, ..Limits::default() };
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
        clients::kv(channel).get(get("k")).await.is_ok()
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

/// HTTP/2 as no client library lets us speak it.
struct Frames(TcpStream);

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

impl Frames {
    /// With the settings of the client, as pairs of an identifier and a value.
    async fn open(server: &Server, settings: &[(u16, u32)]) -> Self {
        let mut tcp = server.tcp().await;
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        bytes.extend(Self::frame(4, 0, 0, &payload));
        tcp.write_all(&bytes).await.expect("sent");
        Self(tcp)
    }

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    /// A call with its whole message.
    fn call(stream: u32, path: &str, message: &impl prost::Message) -> Vec<u8> {
        let mut block = Vec::new();
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "x"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ] {
            block.push(0);
            for text in [name, value] {
                block.push(u8::try_from(text.len()).expect("short"));
                block.extend(text.as_bytes());
            }
        }
        let message = message.encode_to_vec();
        let length = u32::try_from(message.len()).expect("short").to_be_bytes();
        let data = [&[0], &length[..], &message].concat();
        [Self::frame(HEADERS, 4, stream, &block), Self::frame(0, 1, stream, &data)].concat()
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.expect("sent");
    }

    /// Kind, flags, stream and payload of the next frame.
    async fn next(&mut self) -> (u8, u8, u32, Vec<u8>) {
        let mut head = [0; 9];
        let read = timeout(PATIENCE, self.0.read_exact(&mut head)).await.expect("a frame comes");
        read.expect("the connection is open");
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        self.0.read_exact(&mut payload).await.expect("a whole frame");
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        (head[3], head[4], stream, payload)
    }
}

const GET_PATH: &str = "/flotilla.v1.Kv/Get";

#[tokio::test]
async fn calls_cancelled_at_once_cost_the_others_of_their_connection_nothing() {
    let server = Server::start(Limits::default()).await;
    let mut frames = Frames::open(&server, &[]).await;
    let mut bytes = Frames::call(1, GET_PATH, &get("k"));
    for number in 1..=500 {
        let stream = 2 * number + 1;
        bytes.extend(Frames::call(stream, GET_PATH, &get("k")));
        bytes.extend(Frames::frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
    }
    frames.send(&bytes).await;
    loop {
        match frames.next().await {
            (GOAWAY, .., payload) => panic!("{:?}", String::from_utf8_lossy(&payload)),
            // The end of the first call.
            (HEADERS, flags, 1, _) if flags & 1 != 0 => break,
            _ => {}
        }
    }
}

/// Resets without end are still an attack.
#[tokio::test]
async fn flood_of_cancelled_calls_ends_its_connection() {
    let mut limits = Limits::default();
    limits.connections.streams_max = 10;
    let server = Server::start(limits).await;
    let mut frames = Frames::open(&server, &[]).await;
    let mut bytes = Vec::new();
    for number in 0..100_u32 {
        let stream = 2 * number + 1;
        bytes.extend(Frames::call(stream, GET_PATH, &get("k")));
        bytes.extend(Frames::frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
    }
    frames.send(&bytes).await;
    while frames.next().await.0 != GOAWAY {}
}

#[tokio::test]
async fn answers_that_are_not_read_are_bounded_and_given_up() {
    const MIB: usize = 1 << 20;
    const ALL: u32 = 12;
    let limits = Limits {
        answers_held_bytes_max: 4 * MIB,
        stall_timeout: Duration::from_millis(200),
        ..Limits::default()
    };
    let server = Server::start(limits).await;
    let mut kv = server.kv().await;
    kv.put(put("large", vec![b'x'; MIB])).await.expect("written");
    kv.put(put("small", vec![b'x'; 1000])).await.expect("written");

    // A client that lets nothing come.
    let mut frames = Frames::open(&server, &[(4, 0)]).await;
    let calls = (0..ALL).flat_map(|n| Frames::call(2 * n + 1, GET_PATH, &get("large")));
    frames.send(&calls.collect::<Vec<_>>()).await;
    let (mut refused, mut given_up) = (0, 0);
    while refused + given_up < ALL {
        match frames.next().await {
            (HEADERS, flags, ..) if flags & 1 != 0 => refused += 1,
            (RST_STREAM, ..) => given_up += 1,
            (GOAWAY, ..) => panic!("the connection goes on"),
            _ => {}
        }
    }
    assert_eq!((refused, given_up), (ALL - 4, 4), "as many as fit, and those only for a while");
    server.finished(Method::Get, Code::ResourceExhausted).await;
    kv.get(get("large")).await.expect("their room was given back");

    // The same with few places and small answers: a place is held until the answer is read.
    frames.send(&Frames::call(101, GET_PATH, &get("small"))).await;
    while !matches!(frames.next().await, (RST_STREAM, _, 101, _)) {}
    frames.send(&Frames::frame(PING, 0, 0, &[7; 8])).await;
    while frames.next().await.0 != PING {}
}

#[tokio::test]
async fn call_keeps_its_place_until_its_answer_is_read() {
    let limits = Limits {
        requests_in_flight_max: 1,
        stall_timeout: Duration::from_millis(300),
        ..Limits::default()
    };
    let server = Server::start(limits).await;
    let mut kv = server.kv().await;
    kv.put(put("k", vec![b'x'; 1000])).await.expect("written");
    let mut frames = Frames::open(&server, &[(4, 0)]).await;
    frames.send(&Frames::call(1, GET_PATH, &get("k"))).await;
    // Its head is there: the handler has ended.
    while !matches!(frames.next().await, (HEADERS, _, 1, _)) {}
    let status = kv.get(get("k")).await.expect_err("the place is taken");
    assert_eq!(status.code(), Code::ResourceExhausted);
    while !matches!(frames.next().await, (RST_STREAM, _, 1, _)) {}
    eventually_ok(async || kv.get(get("k")).await.is_ok()).await;
}

#[tokio::test]
async fn scans_that_are_not_read_give_their_places_back() {
    const PLACES: u32 = 16;
    let limits = Limits {
        scans_in_flight_max: PLACES as usize,
        stall_timeout: Duration::from_millis(300),
        ..Limits::default()
    };
    let server = Server::start(limits).await;
    server.requests.fill(&[("a", "1"), ("z", "2")]);
    let mut frames = Frames::open(&server, &[(4, 0)]).await;
    let all = v1::ScanRequest::default();
    let calls = (0..PLACES).flat_map(|n| Frames::call(2 * n + 1, "/flotilla.v1.Kv/Scan", &all));
    frames.send(&calls.collect::<Vec<_>>()).await;
    let mut begun = 0;
    while begun < PLACES {
        begun += u32::from(frames.next().await.0 == HEADERS);
    }
    let mut kv = server.kv().await;
    let status = kv.scan(all.clone()).await.expect_err("no place");
    assert_eq!(status.code(), Code::ResourceExhausted);
    eventually_ok(async || kv.scan(all.clone()).await.is_ok()).await;
}

/// The answer is there long before its end is read: what takes time is the reading.
#[tokio::test]
async fn slow_reader_that_reads_is_not_given_up() {
    let limits = Limits { stall_timeout: Duration::from_millis(500), ..Limits::default() };
    let server = Server::start(limits).await;
    let mut kv = server.kv().await;
    kv.put(put("k", vec![b'x'; 100 << 10])).await.expect("written");
    let mut frames = Frames::open(&server, &[(4, 0)]).await;
    let begun = Instant::now();
    frames.send(&Frames::call(1, GET_PATH, &get("k"))).await;
    let mut read = 0;
    loop {
        match frames.next().await {
            (0, _, 1, payload) => read += payload.len(),
            (HEADERS, flags, 1, _) if flags & 1 != 0 => break,
            (RST_STREAM, ..) => panic!("given up after {read} bytes"),
            (HEADERS, ..) => {}
            _ => continue,
        }
        // The next 16 KiB after a pause that is shorter than the patience of the server.
        sleep(Duration::from_millis(100)).await;
        for window in [0, 1] {
            frames.send(&Frames::frame(8, 0, window, &(16_u32 << 10).to_be_bytes())).await;
        }
    }
    assert!(read > 100 << 10, "{read} bytes");
    assert!(begun.elapsed() > Duration::from_millis(500), "longer than the patience, all in all");
}

#[tokio::test]
async fn what_is_no_grpc_is_refused_as_http() {
    use tower::{Service as _, ServiceExt as _};
    let server = Server::start(Limits::default()).await;
    let mut channel = server.channel().await;
    for (method, content_type, status) in [
        ("POST", "application/grpc", 200),
        ("POST", "application/grpc+proto", 200),
        ("POST", "Application/gRPC ;x=y", 200),
        ("POST", "application/grpc+json", 415),
        ("POST", "application/grpc-web", 415),
        ("POST", "application/json", 415),
        ("POST", "", 415),
        ("GET", "application/grpc", 405),
        ("OPTIONS", "application/grpc", 405),
    ] {
        let message = prost::Message::encode_to_vec(&put("k", b"v".to_vec()));
        let length = u32::try_from(message.len()).expect("small").to_be_bytes();
        let body = [&[0][..], &length, &message].concat();
        let body = tonic::body::Body::new(axum::body::Body::from(body));
        let request = http::Request::builder()
            .method(method)
            .uri("/flotilla.v1.Kv/Put")
            .header("content-type", content_type)
            .header("te", "trailers")
            .body(body)
            .expect("a request");
        let before = server.requests.writes();
        let answer = channel.ready().await.expect("connected").call(request).await;
        let answer = answer.expect("answered");
        assert_eq!(answer.status().as_u16(), status, "{method} {content_type}");
        let wrote = server.requests.writes() - before;
        assert_eq!(wrote, usize::from(status == 200), "{method} {content_type}");
    }
}

#[tokio::test]
async fn compressed_messages_and_unknown_methods_are_refused_as_not_applied() {
    let server = Server::start(Limits::default()).await;
    let mut request = Request::new(put("k", b"v".to_vec()));
    request.metadata_mut().insert("grpc-encoding", "gzip".parse().expect("ASCII"));
    let status = server.kv().await.put(request).await.expect_err("compressed");
    assert_eq!(status.code(), Code::Unimplemented);
    let detail = flotilla_proto::status::detail(&status).expect("a detail");
    assert!(!detail.maybe_applied && !detail.retryable, "{detail:?}");
    assert_eq!(status.metadata().get("grpc-accept-encoding").expect("told"), "identity");
    assert_eq!(server.requests.writes(), 0);

    let mut grpc = tonic::client::Grpc::new(server.channel().await);
    grpc.ready().await.expect("connected");
    let path = http::uri::PathAndQuery::from_static("/flotilla.v1.Kv/Nothing");
    let status = grpc.unary(Request::new(get("k")), path, tonic_codec()).await;
    let status = status.expect_err("there is no such method");
    assert!(!flotilla_proto::status::detail(&status).expect("a detail").maybe_applied);
}

/// Each of the threads has its own share, and all of them one number of places.
#[tokio::test]
async fn connections_are_dealt_out_in_turn_within_the_places_of_their_port() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let (dealer, dealt) = dealer(2);
    let dealing = tokio::spawn(dealer.deal(listen(listener, Places::new(4))));
    let mut dealt: Vec<_> = dealt.into_iter().map(Box::pin).collect();
    let mut clients = Vec::new();
    let mut served = Vec::new();
    for number in 0..4 {
        clients.push(TcpStream::connect(address).await.expect("it listens"));
        let next = timeout(PATIENCE, dealt[number % 2].next()).await.expect("in turn");
        served.push(next.expect("endless").expect("a connection"));
    }
    let mut fifth = TcpStream::connect(address).await.expect("accepted");
    let closed = timeout(PATIENCE, fifth.read(&mut [0])).await.expect("is closed");
    assert_eq!(closed.unwrap_or(0), 0, "no place is left, on either thread");
    drop(served.pop());
    let mut more = TcpStream::connect(address).await.expect("it listens");
    let next = timeout(PATIENCE, dealt[0].next()).await.expect("the place was given back");
    let mut next = next.expect("endless").expect("a connection");
    next.write_all(b"!").await.expect("written");
    timeout(PATIENCE, more.read_exact(&mut [0])).await.expect("soon").expect("read");
    dealing.abort();
    let _ = dealing.await;
    assert!(TcpStream::connect(address).await.is_err(), "the listener is closed");
}

/// Also where the answer was not waited for: that is how most requests end that take too long.
#[tokio::test]
async fn it_is_known_who_asked_what_was_slow() {
    let server = Server::start(Limits::default()).await;
    let mut kv = clients::kv(server.channel().await);
    kv.put(put("k", b"v".to_vec())).await.expect("written");
    server.requests.hang(true);
    let call = tokio::spawn(async move { kv.get(get("k")).await });
    eventually(|| server.recorder.started.load(Ordering::SeqCst) == 2).await;
    call.abort();
    let clients = &server.recorder.clients;
    eventually(|| clients.lock().len() == 2).await;
    let told = clients.lock().clone();
    let is_known = |(_, client): &(Method, Option<SocketAddr>)| {
        client.is_some_and(|client| client.ip().is_loopback())
    };
    assert!(told.iter().all(is_known), "{told:?}");
    assert_eq!([told[0].0, told[1].0], [Method::Put, Method::Get]);

    let server = HttpServer::start(Limits::default()).await;
    let mut tcp = server.tcp().await;
    let from = tcp.local_addr().expect("connected");
    tcp.write_all(b"GET /kv/k HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .expect("sent");
    rest_of(&mut tcp).await;
    eventually(|| server.recorder.clients.lock()[..] == [(Method::HttpGet, Some(from))]).await;
}

struct HttpServer {
    address: SocketAddr,
    requests: FakeRequests,
    recorder: Arc<Recorder>,
    shutdown: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl HttpServer {
    async fn start(limits: Limits) -> Self {
        let limits = Arc::new(limits);
        let requests = FakeRequests::with_user_regions(&[]);
        let recorder = Arc::new(Recorder::default());
        let admission = Admission::new(&limits);
        let places = admission.http_connections();
        let router = http_router(
            requests.clone(),
            Arc::new(FakeMembership::default()),
            Arc::clone(&limits),
            admission,
            Arc::clone(&recorder) as Arc<dyn Observer>,
            Arc::new(|| "hello".into()),
            Hosts::default(),
        );
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (shutdown, asked) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let asked = async {
                let _ = asked.await;
            };
            serve_http(listen(listener, places), router, &limits, asked).await;
        });
        Self { address, requests, recorder, shutdown, task }
    }

    async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("it listens")
    }

    /// A connection that takes next to nothing ahead of what is read.
    async fn slow_tcp(&self) -> TcpStream {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("set");
        socket.connect(self.address).await.expect("it listens")
    }
}

/// Everything until the other side closes.
async fn rest_of(tcp: &mut TcpStream) -> String {
    let mut rest = Vec::new();
    // A reset after the answer is an end, too.
    let _ = timeout(PATIENCE, tcp.read_to_end(&mut rest)).await.expect("is closed");
    String::from_utf8_lossy(&rest).into_owned()
}

#[tokio::test]
async fn http_and_its_shutdown() {
    let mut limits = Limits::default();
    limits.connections.opening_timeout = Duration::from_millis(50);
    let server = HttpServer::start(limits).await;
    let mut tcp = server.tcp().await;
    tcp.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .expect("sent");
    let answer = rest_of(&mut tcp).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("hello"), "{answer}");

    let mut large = server.tcp().await;
    let head = b"PUT /kv/k HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\
        Content-Length: 99999999999\r\n\r\n";
    large.write_all(head).await.expect("sent");
    let answer = rest_of(&mut large).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "not asked to go on: {answer}");

    let mut slow = server.tcp().await;
    slow.write_all(b"GET / HT").await.expect("half a head");
    rest_of(&mut slow).await;

    let mut garbage = server.tcp().await;
    garbage.write_all(&[0xff; 1000]).await.expect("sent");
    rest_of(&mut garbage).await;

    server.shutdown.send(()).expect("it runs");
    timeout(PATIENCE, server.task).await.expect("ends").expect("no panic");
}

/// Balancers keep connections for a minute and more, and lose a request that they send on one which is
/// being closed.
#[tokio::test]
async fn connection_between_two_requests_is_kept_longer_than_one_that_says_nothing() {
    let mut limits = Limits::default();
    limits.connections.opening_timeout = Duration::from_millis(50);
    limits.http_idle_timeout = Duration::from_millis(1000);
    let server = HttpServer::start(limits).await;
    let mut tcp = server.tcp().await;
    let ask = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut answer = [0; 1024];
    for _ in 0..2 {
        tcp.write_all(ask).await.expect("open");
        let read = timeout(PATIENCE, tcp.read(&mut answer)).await.expect("soon").expect("open");
        assert!(answer[..read].starts_with(b"HTTP/1.1 200"), "{:?}", &answer[..read]);
        sleep(Duration::from_millis(300)).await;
    }
    rest_of(&mut tcp).await;
    assert!(Limits::default().http_idle_timeout > Duration::from_secs(75));
}

/// Clients that send everything before they read see a broken pipe otherwise.
#[tokio::test]
async fn refused_value_is_read_on_so_that_the_answer_arrives() {
    let server = HttpServer::start(Limits::default()).await;
    let body = vec![b'x'; (8 << 20) + 1];
    let length = format!("Content-Length: {}\r\n\r\n", body.len());
    let chunk = format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n", body.len());
    for (framing, end) in [(length, ""), (chunk, "\r\n0\r\n\r\n")] {
        for (target, status) in [("/kv/k", "413"), ("/kv/k?nonsense", "400"), ("/nothing", "404")] {
            let mut tcp = server.tcp().await;
            let head = format!("PUT {target} HTTP/1.1\r\nHost: x\r\n{framing}");
            tcp.write_all(head.as_bytes()).await.expect("sent");
            tcp.write_all(&body).await.expect("taken to the end");
            tcp.write_all(end.as_bytes()).await.expect("taken to the end");
            let next = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
            tcp.write_all(next).await.expect("the connection goes on");
            let answers = rest_of(&mut tcp).await;
            let want = format!("HTTP/1.1 {status}");
            assert!(answers.starts_with(&want), "{target}: {answers}");
            assert!(answers.ends_with("ok\n"), "{target}: {answers}");
        }
    }
    assert_eq!(server.requests.writes(), 0);
}

/// Who sends without end gets an answer nevertheless, or a reset; and is not waited for without end.
#[tokio::test]
async fn request_without_end_is_not_read_on_for_ever() {
    let server = HttpServer::start(Limits::default()).await;
    let mut tcp = server.tcp().await;
    let head = b"PUT /kv/k HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n";
    tcp.write_all(head).await.expect("sent");
    let mut sent = 0_usize;
    let sending = async {
        while tcp.write_all(&[b'x'; 64 << 10]).await.is_ok() {
            sent += 64 << 10;
        }
    };
    timeout(PATIENCE, sending).await.expect("ends");
    assert!(sent < 100 << 20, "{sent} bytes");
}

#[tokio::test]
async fn http_client_that_does_not_read_is_closed_and_its_room_given_back() {
    let limits = Limits {
        answers_held_bytes_max: 20 << 20,
        stall_timeout: Duration::from_millis(500),
        ..Limits::default()
    };
    let server = HttpServer::start(limits).await;
    let value = "x".repeat(8 << 20);
    server.requests.fill(&[("large", &value)]);
    let ask = b"GET /kv/large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let mut unread = Vec::new();
    for _ in 0..2 {
        let mut tcp = server.slow_tcp().await;
        tcp.write_all(ask).await.expect("sent");
        // The beginning of an answer.
        timeout(PATIENCE, tcp.read_exact(&mut [0; 12])).await.expect("soon").expect("read");
        unread.push(tcp);
    }
    let mut tcp = server.tcp().await;
    tcp.write_all(ask).await.expect("sent");
    let answer = rest_of(&mut tcp).await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("answers"), "{answer}");
    eventually_ok(async || {
        let mut tcp = server.tcp().await;
        tcp.write_all(ask).await.expect("sent");
        rest_of(&mut tcp).await.starts_with("HTTP/1.1 200")
    })
    .await;
    for mut tcp in unread {
        let read = rest_of(&mut tcp).await;
        assert!(read.len() < value.len(), "it was given up in the middle: {} bytes", read.len());
    }
}
