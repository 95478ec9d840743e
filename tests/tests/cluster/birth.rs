//! A cluster that is cut into regions from its first moment.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use flotilla_proto::v1::{self, error_detail::Reason};
use flotilla_tests::{
    harness::{Builder, Cluster, Start, eventually, reason},
    workload::{Crew, UniqueWrites, assert_kept},
};
use tonic::Code;

const BOUND: Duration = Duration::from_secs(60);
const CHOSEN: &str = "00112233445566778899aabbccddeeff";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn split_keys_cut_regions_from_birth_and_scans_cross_them() {
    let (mut cluster, initialize) = cut_cluster().await;
    let sessions = cluster.sessions();
    let first = &sessions[0];

    // The same call again is an echo; another one is refused.
    let again = first.cluster.clone().initialize(first.request(initialize.clone())).await;
    let again = again.expect("the same token").into_inner();
    let status = first.status().await.expect("status");
    assert_eq!((&again.cluster_id, again.node_id), (&status.cluster_id, status.node_id));
    assert_eq!(status.cluster_id, CHOSEN, "the id that was asked for");
    let nodes = first.cluster.clone().list_nodes(v1::ListNodesRequest::default()).await;
    let nodes = nodes.expect("nodes").into_inner().nodes;
    let labels = nodes.iter().find(|node| node.node_id == status.node_id).map(|node| &node.labels);
    assert_eq!(labels.and_then(|labels| labels.get("zone")).map(String::as_str), Some("a"));
    let other = v1::InitializeRequest { token: "another".to_owned(), ..initialize };
    let refused = first.cluster.clone().initialize(first.request(other)).await;
    let refused = refused.expect_err("it belongs to a cluster");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");

    let request = v1::ListRegionsRequest::default();
    let regions = first.cluster.clone().list_regions(request).await.expect("regions").into_inner();
    let regions: Vec<v1::Region> = regions.regions.into_iter().filter_map(|r| r.region).collect();
    assert_eq!(regions.len(), 4, "{regions:?}");
    for pair in regions.windows(2) {
        assert_eq!(pair[0].end_key, pair[1].start_key, "no gap and no overlap");
    }
    assert_ne!(first.regions().await.expect("regions").len(), 4, "the system's is one more");

    // Keys on both sides of each cut, written through one node, scanned through another.
    let mut want = BTreeSet::new();
    for number in 0..400_u32 {
        let letter = char::from(b'a' + (number % 26) as u8);
        let key = Bytes::from(format!("{letter}/{number}"));
        sessions[number as usize % 3].put(key.clone(), "x").await.expect("put");
        want.insert(key);
    }
    let want: Vec<Bytes> = want.into_iter().collect();
    for (reverse, session) in [(false, &sessions[1]), (true, &sessions[2])] {
        let request = v1::ScanRequest { reverse, keys_only: true, ..Default::default() };
        let mut stream =
            session.kv.clone().scan(session.request(request)).await.expect("scan").into_inner();
        let mut seen = Vec::new();
        while let Some(page) = stream.message().await.expect("page") {
            seen.extend(page.kvs.into_iter().map(|kv| kv.key));
        }
        if reverse {
            seen.reverse();
        }
        // The harness's own keys begin with its name.
        seen.retain(|key| !key.starts_with(b"harness/"));
        assert_eq!(seen, want, "reverse: {reverse}");
    }
    let limited = v1::ScanRequest { start_key: "f".into(), limit: 70, ..Default::default() };
    let mut stream = first.kv.clone().scan(limited).await.expect("scan").into_inner();
    let mut count = 0;
    while let Some(page) = stream.message().await.expect("page") {
        count += page.kvs.len();
    }
    assert_eq!(count, 70, "the limit is over all pages and regions");

    crossing(first).await;
    cluster.wait_whole(BOUND).await;
}

/// Writes in all regions at once, over the death of everybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_regions_come_back_after_all_nodes_died() {
    let (mut cluster, _) = cut_cluster().await;
    let sessions = cluster.sessions();
    let writers: Vec<Crew<UniqueWrites>> =
        ["a", "g", "p", "z"].map(|prefix| Crew::writers(&sessions, 3, 100, prefix)).into();
    for writers in &writers {
        writers.progress(50, BOUND).await;
    }
    cluster.kill9_all();
    cluster.relaunch_all();
    for writers in &writers {
        writers.progress(50, BOUND).await;
    }
    cluster.wait_whole(BOUND).await;
    for writers in writers {
        let ledger = writers.stop().await;
        assert_kept(&*ledger, &sessions).await;
    }
    eventually("all peers to have the same state", BOUND, async || {
        sessions[0].check_regions().await
    })
    .await;
}

/// What a node tells of itself grows with the keys of its regions, here to more than the 4 MiB that a client of
/// gRPC takes unless it is told otherwise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_with_long_split_keys_can_be_joined() {
    let mut cluster = Builder::new(2).prepare().await;
    cluster.nodes[0].launch(Start::Alone);
    cluster.nodes[0].bound(BOUND).await;
    let first = cluster.nodes[0].session();
    let split_keys = (0..550).map(|number| Bytes::from(format!("{number:x<4096}"))).collect();
    let initialize = v1::InitializeRequest { split_keys, ..v1::InitializeRequest::default() };
    eventually("the first node to be initialized", BOUND, async || {
        first.cluster.clone().initialize(first.request(initialize.clone())).await
    })
    .await;
    let other = v1::InitializeRequest::default();
    let refused = first.cluster.clone().initialize(first.request(other)).await;
    let refused = refused.expect_err("it says something else");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    let start = Start::Join(vec![cluster.nodes[0].client_address()]);
    cluster.nodes[1].launch(start);
    cluster.nodes[1].bound(BOUND).await;
    eventually("the second node to be in service", BOUND, async || {
        let nodes = first.nodes().await.map_err(|status| status.to_string())?.nodes;
        let up = nodes.iter().filter(|node| node.state() == v1::NodeState::Up).count();
        if up == 2 { Ok(()) } else { Err(format!("{nodes:?}")) }
    })
    .await;
}

/// Three nodes; user keys are cut at g, m and t.
async fn cut_cluster() -> (Cluster, v1::InitializeRequest) {
    let mut cluster = Builder::new(3).prepare().await;
    cluster.nodes[0].launch(Start::Alone);
    cluster.nodes[0].bound(BOUND).await;
    let first = cluster.nodes[0].session();
    let initialize = v1::InitializeRequest {
        split_keys: ["g", "m", "t"].map(Bytes::from).into(),
        replication_factor: 3,
        token: "birth".to_owned(),
        cluster_id: CHOSEN.to_owned(),
        labels: [("zone".to_owned(), "a".to_owned())].into(),
        first_nodes: Vec::new(),
        first_node_labels: Default::default(),
    };
    eventually("the first node to be initialized", BOUND, async || {
        first.cluster.clone().initialize(first.request(initialize.clone())).await
    })
    .await;
    for index in [1, 2] {
        let start = Start::Join(vec![cluster.nodes[0].client_address()]);
        cluster.nodes[index].launch(start);
    }
    for index in [1, 2] {
        cluster.nodes[index].bound(BOUND).await;
        cluster.node_id(index).await;
    }
    cluster.wait_whole(BOUND).await;
    cluster.wait_serving(BOUND).await;
    (cluster, initialize)
}

/// What is atomic in one region is refused over two, or done one by one where that was asked for.
async fn crossing(session: &flotilla_tests::harness::Session) {
    let put = |key: &str| {
        let put =
            v1::PutOp { key: Bytes::from(key.to_owned()), value: "1".into(), ..Default::default() };
        v1::Op { op: Some(v1::op::Op::Put(put)) }
    };
    let ops = vec![put("a/crossing"), put("z/crossing")];
    let txn = v1::TxnRequest { success: ops.clone(), ..Default::default() };
    let refused = session.kv.clone().txn(txn).await.expect_err("two regions");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert!(matches!(reason(&refused), Some(Reason::CrossRegion(_))), "{refused:?}");
    let atomic = v1::WriteRequest { ops: ops.clone(), require_atomic: true, ..Default::default() };
    let refused = session.kv.clone().write(atomic).await.expect_err("two regions");
    assert!(matches!(reason(&refused), Some(Reason::CrossRegion(_))), "{refused:?}");
    assert_eq!(session.get("a/crossing").await.expect("get"), None, "nothing was done");

    let write = v1::WriteRequest { ops, ..Default::default() };
    let done = session.kv.clone().write(write).await.expect("one by one").into_inner();
    assert!(!done.atomic && done.regions.len() == 2, "{done:?}");
    assert!(done.regions.iter().all(|region| region.error.is_empty()), "{done:?}");
    assert_eq!(session.get("z/crossing").await.expect("get"), Some("1".into()));

    let range = v1::DeleteRangeRequest {
        start_key: "a".into(),
        end_key: "zz".into(),
        ..Default::default()
    };
    let deleted = session.kv.clone().delete_range(range).await.expect("delete").into_inner();
    assert_eq!(deleted.regions_done.len(), 4, "{deleted:?}");
    assert!(deleted.deleted >= 402, "{deleted:?}");
    assert_eq!(session.get("m/12").await.expect("get"), None);
}
