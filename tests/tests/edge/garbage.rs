//! What strangers send. Every port gets bytes that mean nothing, and answers or closes; the node
//! neither ends, nor grows, nor stops serving others.

use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::v1::{self, error_detail::Reason};
use flotilla_tests::harness::{Cluster, Outcome, Session, eventually, http, outcome, reason};
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::Code;

const BOUND: Duration = Duration::from_secs(30);

/// How much a node may grow under attack.
const GROWTH_BYTES: u64 = 300 << 20;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_every_port_harms_nobody() {
    let mut cluster = Cluster::start(1).await;
    let before = cluster.nodes[0].memory_bytes();
    let ports = ports(&cluster);
    let mut random = StdRng::seed_from_u64(flotilla_tests::harness::seed());
    for round in 0..100 {
        for address in &ports {
            let mut garbage = match round % 5 {
                0 => Vec::new(),
                1 => PREFACE.to_vec(),
                // A settings frame, then a frame that claims sixteen megabytes.
                2 => [PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0], &[0xFF, 0xFF, 0xFF, 0, 0, 0, 0, 0, 1]]
                    .concat(),
                3 => {
                    b"GET /kv/k HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n".to_vec()
                }
                _ => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
            };
            let start = garbage.len();
            garbage.resize(start + random.random_range(0..20_000), 0);
            random.fill_bytes(&mut garbage[start..]);
            let mut stream = connect(address).await;
            // The other side may close in the middle, which is an answer.
            let _ = stream.write_all(&garbage).await;
            let _ = stream.shutdown().await;
            let mut answer = vec![0; 1024];
            let _ = tokio::time::timeout(Duration::from_millis(50), stream.read(&mut answer)).await;
        }
    }
    healthy(&mut cluster, before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open_connections_keep_nobody_out() {
    let mut cluster = Cluster::start(1).await;
    let before = cluster.nodes[0].memory_bytes();
    let mut held = Vec::new();
    for address in &ports(&cluster) {
        for number in 0..150 {
            let mut stream = connect(address).await;
            let beginning: &[u8] = match number % 4 {
                0 => b"",
                1 => &PREFACE[..10],
                2 => PREFACE,
                _ => b"PUT /kv/k HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nhalf",
            };
            let _ = stream.write_all(beginning).await;
            held.push(stream);
        }
    }
    healthy(&mut cluster, before).await;
    drop(held);
    healthy(&mut cluster, before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized_messages_are_refused_and_change_nothing() {
    let mut cluster = Cluster::start(1).await;
    let before = cluster.nodes[0].memory_bytes();
    let session = cluster.nodes[0].session().patient(Duration::from_secs(20));

    // Over the limit of a value, of a request, and of a message.
    for (why, value_bytes) in
        [("value", (8 << 20) + 1), ("request", 17 << 20), ("message", 60 << 20)]
    {
        let status = session.put("big", vec![7; value_bytes]).await.expect_err(why);
        let clear = matches!(
            status.code(),
            Code::InvalidArgument | Code::ResourceExhausted | Code::OutOfRange
        );
        assert!(clear, "{why}: {status:?}");
    }
    for key_bytes in [0, 4097, 1 << 20] {
        let status = session.put(vec![b'k'; key_bytes], "v").await.expect_err("refused");
        assert_eq!(status.code(), Code::InvalidArgument, "key of {key_bytes}: {status:?}");
        assert_eq!(outcome(&status), Outcome::NotApplied);
        match reason(&status) {
            Some(Reason::InvalidArgument(detail)) => {
                assert_eq!(detail.field, "key");
                assert!(key_bytes == 0 || detail.limit == 4096, "{detail:?}");
            }
            other => panic!("key of {key_bytes}: {other:?}"),
        }
    }
    let put = || v1::PutOp { key: "k".into(), value: "v".into(), ..Default::default() };
    let op = || v1::Op { op: Some(v1::op::Op::Put(put())) };
    let many = v1::TxnRequest { success: (0..1025).map(|_| op()).collect(), ..Default::default() };
    let status = session.kv.clone().txn(many).await.expect_err("1024 operations are the limit");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let nothing = v1::Op { op: None };
    let empty = v1::TxnRequest { success: vec![nothing], ..Default::default() };
    let status = session.kv.clone().txn(empty).await.expect_err("an operation of no kind");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert_eq!(session.get("big").await.expect("get"), None);

    let address = cluster.nodes[0].http_address();
    let big = vec![7; (8 << 20) + 1];
    let answer = http(&address, "PUT", "/kv/big", &[], &big).await;
    // The server may close before it has read everything, which the client sees as a reset.
    if let Ok(answer) = answer {
        assert_eq!(answer.status, 413, "{answer:?}");
    }
    let long = format!("/kv/{}", "k".repeat(5_000));
    let answer = http(&address, "PUT", &long, &[], b"v").await.expect("put");
    assert!(matches!(answer.status, 400 | 413 | 414 | 431), "{answer:?}");
    let none = http(&address, "PUT", "/kv/", &[], b"v").await.expect("put");
    assert!(matches!(none.status, 400 | 404 | 405), "{none:?}");
    let wild = http(&address, "GET", "/kv/%zz", &[], &[]).await.expect("get");
    assert!(matches!(wild.status, 200 | 400 | 404), "{wild:?}");
    let header = "x".repeat(1 << 20);
    if let Ok(answer) = http(&address, "GET", "/kv/k", &[("x-long", &header)], &[]).await {
        assert!((400..500).contains(&answer.status), "{}", answer.status);
    }
    healthy(&mut cluster, before).await;
}

/// The port for nodes is spoken to by somebody who is none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stranger_on_the_port_for_nodes_is_refused() {
    use flotilla_proto::v1::raft_client::RaftClient;
    let mut cluster = Cluster::start(1).await;
    let before = cluster.nodes[0].memory_bytes();
    let address = format!("http://{}", cluster.nodes[0].peer_address());
    let mut raft = RaftClient::connect(address).await.expect("connect");
    let wrong = v1::MessageBatch {
        cluster_id: Bytes::from_static(b"another cluster!"),
        to_node: 99,
        from_node: 98,
        lane: v1::Lane::Bulk.into(),
        messages: vec![v1::Message { region_id: 2, to_peer: 1, ..Default::default() }],
        ..Default::default()
    };
    let sent = futures::stream::iter(vec![wrong]);
    let refused = match raft.exchange(sent).await {
        Err(status) => Err(status),
        Ok(stream) => stream.into_inner().message().await,
    };
    match refused {
        Err(status) => assert_ne!(status.code(), Code::Internal, "{status:?}"),
        Ok(None) => {}
        Ok(Some(batch)) => {
            use flotilla_proto::v1::message::Body;
            let all_refused =
                batch.messages.iter().all(|message| matches!(message.body, Some(Body::Refused(_))));
            assert!(all_refused, "{batch:?}");
        }
    }
    let rows = v1::SnapshotRows { rows: Bytes::from_static(b"\xff\xff\xff\xff"), crc32c: 1 };
    let chunk = v1::SnapshotChunk { body: Some(v1::snapshot_chunk::Body::Rows(rows)) };
    let answer = raft.snapshot(futures::stream::iter(vec![chunk])).await;
    if let Ok(answer) = answer {
        assert!(answer.get_ref().refused.is_some(), "{answer:?}");
    }
    healthy(&mut cluster, before).await;
}

fn ports(cluster: &Cluster) -> [String; 3] {
    let node = &cluster.nodes[0];
    [node.client_address(), node.peer_address(), node.http_address()]
}

async fn connect(address: &str) -> TcpStream {
    eventually("a connection", BOUND, async || TcpStream::connect(address).await).await
}

/// Serves on both ports for clients, with fresh connections, and has not grown.
async fn healthy(cluster: &mut Cluster, before: u64) {
    assert!(cluster.nodes[0].is_running(), "{}", cluster.nodes[0].output_tail(30));
    let session: Session = cluster.nodes[0].session();
    eventually("the node to serve", BOUND, async || session.put("healthy", "yes").await).await;
    assert_eq!(session.get("healthy").await.expect("get"), Some("yes".into()));
    let address = cluster.nodes[0].http_address();
    for target in ["/livez", "/readyz"] {
        let answer = http(&address, "GET", target, &[], &[]).await.expect("an answer");
        assert_eq!(answer.status, 200, "{target}: {answer:?}");
    }
    let now = cluster.nodes[0].memory_bytes();
    assert!(now < before + GROWTH_BYTES, "grew from {before} to {now} bytes");
}
