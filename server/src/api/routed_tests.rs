//! The calls over the real router, peers and log: what a router that is made up might do better.

use std::sync::Arc;

use bytes::Bytes;
use flotilla_proto::v1::{self, op::Op};
use futures::FutureExt as _;

use super::{Keyspace, Limits, fake::soon, kv::KvApi};
use crate::{
    error::Error,
    placement::directory::NodeDirectory,
    region::{
        fixture::{Fixture, until},
        peers::Peers,
    },
    router::{RouteCache, Router},
    storage::{
        batch::Family,
        engine::{Direction, Read as _},
    },
};

/// A node with two regions, cut at `m` of the default keyspace, both of which it leads.
struct Product {
    fixture: Fixture,
    peers: Arc<Peers>,
    api: KvApi<Router>,
}

impl Product {
    async fn start(limits: Limits) -> Self {
        let fixture = Fixture::new(|_| {});
        fixture.bear_cut(&Keyspace::DEFAULT.encode(b"m"));
        let peers = Peers::open(Arc::clone(&fixture.env), false, None).await.expect("peers");
        for region in peers.all() {
            until("a leader of each region", || region.is_leader()).await;
        }
        let directory =
            NodeDirectory::open(Arc::clone(&fixture.env.log), |_| {}).expect("a directory");
        let unknown =
            |_| async { Err(Error::NotReady { message: "there is no driver".to_owned() }) }.boxed();
        let router = Router::new(
            Arc::clone(&peers),
            Arc::new(directory),
            RouteCache::new(Arc::new(unknown)),
            limits.requests_in_flight_max,
            limits.scans_in_flight_max,
        );
        let api = KvApi::new(router, Arc::new(limits));
        Self { fixture, peers, api }
    }

    async fn put(&self, key: &'static str, value: impl Into<Bytes>) {
        let (key, value) = (key.into(), value.into());
        let put = v1::PutRequest { key, value, ..v1::PutRequest::default() };
        self.api.put(soon(), put).boxed().await.expect("a put");
    }

    async fn txn(&self, success: Vec<Op>) -> Result<v1::TxnResponse, Error> {
        let success = success.into_iter().map(|op| v1::Op { op: Some(op) }).collect();
        self.api.txn(soon(), v1::TxnRequest { success, ..v1::TxnRequest::default() }).boxed().await
    }

    fn keys(&self) -> Vec<String> {
        let range = Keyspace::DEFAULT.range(b"", b"");
        let mut cursor = self.fixture.data.scan(Family::Default, &range, Direction::Forward);
        let mut keys = Vec::new();
        while let Some((key, _)) = cursor.next().expect("the memory does not fail") {
            keys.push(String::from_utf8_lossy(&key[3..]).into_owned());
        }
        keys
    }

    fn applied(&self) -> Vec<u64> {
        let applied = |view: crate::raft::region_view::Published| view.applied.map(|id| id.index);
        self.peers.all().iter().filter_map(|peer| applied(peer.view().published())).collect()
    }
}

fn put(key: &'static str) -> Op {
    Op::Put(v1::PutOp { key: key.into(), ..v1::PutOp::default() })
}

fn get(key: &'static str) -> Op {
    Op::Get(v1::GetOp { key: key.into() })
}

fn range(start: &'static str, end: &'static str) -> Op {
    let (start_key, end_key) = (start.into(), end.into());
    Op::DeleteRange(v1::DeleteRangeOp { start_key, end_key, ..v1::DeleteRangeOp::default() })
}

#[tokio::test]
async fn a_transaction_over_a_border_is_refused_by_that_name() {
    let product = Product::start(Limits::default()).await;
    product.put("a", "1").await;
    product.put("z", "1").await;
    for (why, ops) in [
        ("two keys", vec![put("b"), put("y")]),
        ("a range that ends behind it", vec![range("a", "zz")]),
        ("a range without an end", vec![range("a", "")]),
        ("a key and a range behind it", vec![put("b"), range("n", "zz")]),
        ("two reads", vec![get("a"), get("z")]),
    ] {
        let before = product.applied();
        let error = product.txn(ops).await.expect_err(why);
        let Error::CrossRegion { regions } = &error else { panic!("{why}: {error:?}") };
        assert_eq!(regions.len(), 2, "{why}");
        assert_eq!(product.applied(), before, "{why}: it took an entry of a log");
    }
    product.txn(vec![range("n", "zz"), put("y")]).await.expect("of one region");
    assert_eq!(product.keys(), ["a", "y"]);
}

#[tokio::test]
async fn a_refusal_of_apply_has_its_own_name_at_the_caller() {
    let product = Product::start(Limits { value_bytes_max: 16, ..Limits::default() }).await;
    product.put("text", "no number").await;
    let add = v1::IncrementRequest { key: "text".into(), delta: 1, ..Default::default() };
    let error = product.api.increment(soon(), add).boxed().await.expect_err("it is text");
    assert!(matches!(error, Error::NotACounter { .. }), "{error:?}");
    let append = v1::AppendRequest { key: "text".into(), value: "12345678".into(), context: None };
    let error = product.api.append(soon(), append).boxed().await.expect_err("17 bytes");
    let Error::InvalidArgument { field, limit, .. } = &error else { panic!("{error:?}") };
    assert_eq!((&field[..], *limit), ("value", 16));
    assert!(!error.maybe_applied());
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_refused_whether_or_not_it_writes() {
    let product = Product::start(Limits::default()).await;
    product.put("big", vec![0; 8 << 20]).await;
    for (why, first) in [("only reads", get("big")), ("writes first", put("counted"))] {
        let mut ops = vec![first];
        ops.extend((0..3).map(|_| get("big")));
        let error = product.txn(ops).await.expect_err(why);
        let Error::InvalidArgument { field, .. } = &error else { panic!("{why}: {error:?}") };
        assert_eq!(field, "answer", "{why}");
        assert!(!error.maybe_applied(), "{why}");
    }
    assert_eq!(product.keys(), ["big"]);
}

#[tokio::test]
async fn a_transaction_that_only_reads_takes_no_entry_of_the_log() {
    let product = Product::start(Limits::default()).await;
    product.put("a", "1").await;
    let before = product.applied();
    let answer = product.txn(vec![get("a"), get("b")]).await.expect("a read");
    assert!(answer.succeeded);
    let kvs: Vec<_> = answer
        .results
        .iter()
        .map(|result| match &result.result {
            Some(v1::op_result::Result::Get(get)) => get.kv.clone().map(|kv| (kv.key, kv.value)),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(kvs, [Some(("a".into(), "1".into())), None]);
    assert_eq!(product.applied(), before);
}

#[tokio::test]
async fn the_last_keyspace_ends_below_the_end_of_the_map() {
    let product = Product::start(Limits::default()).await;
    let put = |keyspace| {
        let context = Some(v1::RequestContext { keyspace, ..v1::RequestContext::default() });
        let key = vec![0xff; 5].into();
        product
            .api
            .put(soon(), v1::PutRequest { context, key, ..v1::PutRequest::default() })
            .boxed()
    };
    let error = put(0xff_ffff).await.expect_err("its keys reach the end of the map");
    assert!(matches!(error, Error::InvalidArgument { .. }), "{error:?}");
    put(0xff_fffe).await.expect("the last keyspace");
    let context = Some(v1::RequestContext { keyspace: 0xff_fffe, ..Default::default() });
    let all = v1::DeleteRangeRequest { context, all: true, ..Default::default() };
    assert_eq!(product.api.delete_range(soon(), all).boxed().await.expect("all of it").deleted, 1);
}

/// A leader that has no quorum, or whose disk hangs, keeps what is proposed to it.
#[tokio::test]
async fn a_region_that_hangs_leaves_places_to_the_others() {
    let product = Product::start(Limits { requests_in_flight_max: 50, ..Limits::default() }).await;
    product.put("z", "1").await;
    product.fixture.log.hold();
    let put = |key: &'static str| {
        let put = v1::PutRequest { key: key.into(), ..v1::PutRequest::default() };
        product.api.put(soon(), put).boxed()
    };
    let (mut hung, mut refused) = (Vec::new(), 0);
    for _ in 0..50 {
        let mut write = put("a");
        match write.as_mut().now_or_never() {
            None => hung.push(write),
            Some(Err(Error::Busy { queue, .. })) => {
                assert_eq!(queue, "region_requests");
                refused += 1;
            }
            Some(other) => panic!("{other:?}"),
        }
    }
    assert_eq!((hung.len(), refused), (40, 10), "four times what it leaves");
    let context = Some(v1::RequestContext {
        read_mode: v1::ReadMode::Stale.into(),
        ..v1::RequestContext::default()
    });
    let get = v1::GetRequest { key: "z".into(), context };
    let got = product.api.get(soon(), get).boxed().await.expect("the other region serves");
    assert!(got.kv.is_some());
    let mut other = put("z");
    assert!(other.as_mut().now_or_never().is_none(), "it is proposed");
    product.fixture.log.release();
    for write in hung.into_iter().chain([other]) {
        write.await.expect("a write");
    }
    put("a").await.expect("all places are free again");
}
