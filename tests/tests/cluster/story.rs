//! raftexample's story, told with our promises: one node, three nodes, one away and back, a fourth
//! joins over each API, the third leaves for good.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use flotilla_proto::v1::{self, NodeState, error_detail::Reason};
use flotilla_tests::harness::{Cluster, Session, Start, eventually, http, reason};
use tonic::{Code, Status};

const BOUND: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_is_a_cluster_and_keeps_its_data_over_a_restart() {
    let mut cluster = Cluster::start(1).await;
    let session = cluster.nodes[0].session();
    let bytes = Bytes::from((0..=255_u8).collect::<Vec<u8>>());
    session.put("a/b c", bytes.clone()).await.expect("put");
    session.put("gone", "x").await.expect("put");
    assert!(session.delete("gone").await.expect("delete"), "it was there");
    assert!(!session.delete("gone").await.expect("delete"), "it was not there any more");

    let ended = cluster.nodes[0].terminate(BOUND).await;
    assert!(ended.success(), "SIGTERM is an orderly end, not {ended}");
    cluster.nodes[0].relaunch(); // with --init, which is harmless now
    cluster.wait_whole(BOUND).await;
    assert_eq!(session.get("a/b c").await.expect("get"), Some(bytes));
    assert_eq!(session.get("gone").await.expect("get"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_ports_are_told_in_the_data_directory() {
    let mut cluster = flotilla_tests::harness::Builder::new(1).prepare().await;
    cluster.nodes[0].use_any_ports();
    cluster.nodes[0].launch(Start::Init);
    let addresses = cluster.nodes[0].bound(BOUND).await;
    let mut ports = BTreeMap::new();
    for name in ["client", "peer", "http"] {
        let address = addresses[name].as_str().unwrap_or_else(|| panic!("{name}: {addresses}"));
        let (host, port) = address.rsplit_once(':').expect("host:port");
        assert_eq!(host, "127.0.0.1");
        assert!(port.parse::<u16>().is_ok_and(|port| port != 0), "{name} is {address}");
        ports.insert(port.to_owned(), name);
    }
    assert_eq!(ports.len(), 3, "three ports are bound: {ports:?}");
    let session = Session::new(addresses["client"].as_str().expect("checked above"));
    eventually("the node to serve", BOUND, async || session.put("k", "v").await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rest_stores_bytes_under_keys_with_slashes() {
    let cluster = Cluster::start(1).await;
    let address = cluster.nodes[0].http_address();
    let value: Vec<u8> = vec![0, 159, 146, 150, 255, b'\r', b'\n', 0];

    let put = http(&address, "PUT", "/kv/dir/sub/file%20%C3%28", &[], &value).await.expect("put");
    assert_eq!(put.status, 204, "{put:?}");
    let revision: u64 = put.headers["x-revision"].parse().expect("a number");
    assert!(revision > 0);
    let got = http(&address, "GET", "/kv/dir/sub/file%20%C3%28", &[], &[]).await.expect("get");
    assert_eq!((got.status, got.body), (200, value.clone()));
    assert_eq!(got.headers["x-revision"], revision.to_string());

    // The same key over gRPC: not UTF-8, slash and all.
    let key = Bytes::from_static(b"dir/sub/file \xC3(");
    let session = cluster.nodes[0].session();
    assert_eq!(session.get(key.clone()).await.expect("get"), Some(value.into()));

    let head = http(&address, "HEAD", "/kv/dir/sub/nothing", &[], &[]).await.expect("head");
    assert_eq!(head.status, 404);
    let gone = http(&address, "DELETE", "/kv/dir/sub/file%20%C3%28", &[], &[]).await;
    assert_eq!(gone.expect("delete").status, 204);
    let got = http(&address, "GET", "/kv/dir/sub/file%20%C3%28", &[], &[]).await.expect("get");
    assert_eq!(got.status, 404);
    assert_eq!(session.get(key).await.expect("get"), None);

    let wrong = http(&address, "PATCH", "/kv/k", &[], b"x").await.expect("patch");
    assert_eq!(wrong.status, 405);
    assert!(wrong.headers["allow"].contains("PUT"), "{wrong:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_that_was_away_serves_what_it_missed() {
    let mut cluster = Cluster::start(3).await;
    let sessions = cluster.sessions();
    for away in [2, 0] {
        cluster.nodes[away].kill9();
        let writer = &sessions[(away + 1) % 3];
        let key = |number: u32| format!("missed/{away}/{number}");
        for number in 0..50 {
            let put = async || writer.put(key(number), format!("value {number}")).await;
            eventually("two of three to take a write", BOUND, put).await;
        }
        cluster.nodes[away].relaunch();
        let back = &sessions[away];
        for number in 0..50 {
            let want = Some(Bytes::from(format!("value {number}")));
            let read = async || back.get(key(number)).await;
            let got = eventually("the node to serve a linearizable read", BOUND, read).await;
            assert_eq!(got, want, "a linearizable read right after the restart");
            eventually("the node itself to have it", BOUND, async || {
                match back.get_stale(key(number)).await {
                    Ok(got) if got == want => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            })
            .await;
        }
        cluster.wait_whole(BOUND).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn put_is_not_answered_before_a_majority_has_it() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader(b"k").await;
    let others: Vec<usize> = (0..3).filter(|index| *index != leader).collect();
    let session = cluster.nodes[leader].session().patient(Duration::from_secs(3));
    session.put("k", "before").await.expect("all three are there");
    for other in &others {
        cluster.nodes[*other].pause();
    }
    let alone = session.put("k", "alone").await;
    let read = session.get("k").await;
    for other in &others {
        cluster.nodes[*other].resume();
    }
    alone.expect_err("one of three is no majority");
    read.expect_err("one of three cannot prove that it still leads");
    cluster.wait_serving(BOUND).await;
    let seen = session.get("k").await.expect("get").expect("the key is there");
    assert!(seen == "before" || seen == "alone", "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fourth_node_joins_over_http_and_the_removed_third_serves_nothing() {
    let mut cluster = Cluster::start(3).await;
    let first = cluster.nodes[0].session();
    first.put("story", "told").await.expect("put");
    let third_id = cluster.node_id(2).await;

    // A node that belongs to nobody serves nothing and says so.
    let fourth = cluster.prepare_node();
    cluster.nodes[fourth].launch(Start::Alone);
    cluster.nodes[fourth].bound(BOUND).await;
    let unjoined = cluster.nodes[fourth].session();
    serves_nothing(&unjoined, false).await;
    let ready = http(&cluster.nodes[fourth].http_address(), "GET", "/readyz", &[], &[]).await;
    assert_eq!(ready.expect("readyz").status, 503, "an unjoined node is not ready");

    let body = serde_json::json!({ "address": cluster.nodes[fourth].client_address() });
    let body = body.to_string().into_bytes();
    let json = [("content-type", "application/json")];
    let address = cluster.nodes[0].http_address();
    let added = http(&address, "POST", "/cluster/nodes", &json, &body).await.expect("post");
    assert!((200..300).contains(&added.status), "{added:?}");
    let again = http(&address, "POST", "/cluster/nodes", &json, &body).await.expect("post");
    assert!((200..300).contains(&again.status), "the call is idempotent: {again:?}");
    let fourth_id = cluster.node_id(fourth).await;
    wait_state(&first, fourth_id, NodeState::Up).await;

    let target = format!("/cluster/nodes/{third_id}");
    let removed = http(&address, "DELETE", &target, &[], &[]).await.expect("delete");
    assert_eq!(removed.status, 202, "{removed:?}");
    wait_state(&first, third_id, NodeState::Removed).await;
    eventually("the regions to leave the third node", BOUND, async || {
        let holders = holders(&first).await?;
        let right = holders.values().all(|nodes| {
            nodes.len() == 3 && nodes.contains(&fourth_id) && !nodes.contains(&third_id)
        });
        if right { Ok(()) } else { Err(Status::unknown(format!("{holders:?}"))) }
    })
    .await;

    // It may serve nothing, not now and not after a restart, and may not disturb the others.
    let third = cluster.nodes[2].session();
    let dead = async || match third.get_stale("story").await {
        Err(status) => Ok(status),
        Ok(value) => Err(format!("still serves {value:?}")),
    };
    eventually("the removed node to serve nothing", BOUND, dead).await;
    cluster.nodes[2].expect_exit();
    cluster.nodes[2].kill9();
    cluster.nodes[2].relaunch();
    cluster.nodes[2].expect_exit();
    for _ in 0..20 {
        if cluster.nodes[2].is_running() {
            serves_nothing(&third, true).await;
        }
        first.put("story", "goes on").await.expect("the others are not disturbed");
    }
    let fourth = cluster.nodes[fourth].session();
    assert_eq!(fourth.get("story").await.expect("get"), Some("goes on".into()));
    assert_eq!(first.nodes().await.expect("nodes").nodes.len(), 4, "a dead id stays on the list");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fourth_node_joins_over_grpc_as_a_learner_first() {
    let mut cluster = Cluster::start(3).await;
    let first = cluster.nodes[0].session();
    let fourth = cluster.prepare_node();
    cluster.nodes[fourth].launch(Start::Alone);
    cluster.nodes[fourth].bound(BOUND).await;

    let version = first.nodes().await.expect("nodes").version;
    let add = || v1::AddLearnerRequest {
        address: cluster.nodes[fourth].client_address(),
        labels: BTreeMap::from([("zone".to_owned(), "b".to_owned())]),
        expected_version: None,
    };
    let with_version = v1::AddLearnerRequest { expected_version: Some(version), ..add() };
    let added = first.cluster.clone().add_learner(first.request(with_version)).await;
    let added = added.expect("add").into_inner();
    assert!(added.version > version);
    let again = first.cluster.clone().add_learner(first.request(add())).await;
    assert_eq!(again.expect("add again").into_inner().node_id, added.node_id, "idempotent");
    let node = wait_state(&first, added.node_id, NodeState::NodeLearner).await;
    assert_eq!(node.labels.get("zone").map(String::as_str), Some("b"));

    let promote = v1::ChangeMembershipRequest {
        promote: vec![added.node_id],
        demote: vec![],
        expected_version: Some(added.version),
        ..Default::default()
    };
    let changed = first.cluster.clone().change_membership(first.request(promote)).await;
    assert!(changed.expect("promote").into_inner().version > added.version);
    wait_state(&first, added.node_id, NodeState::Up).await;
    let session = cluster.nodes[fourth].session();
    eventually("the fourth node to serve", BOUND, async || session.put("k", "v").await).await;
    assert_eq!(first.get("k").await.expect("get"), Some("v".into()));
    cluster.wait_whole(BOUND).await;
    without_a_peer(&session).await;
}

/// A node that has no peer of a region answers calls about it as any other does.
async fn without_a_peer(session: &Session) {
    let status = session.status().await.expect("status");
    assert!(status.peers.is_empty(), "three peers each, and here the first nodes have them");
    session.check_regions().await.expect("equal peers, each checked");
    let unknown = v1::CheckRegionRequest { region_id: 99, check_id: 0 };
    let unknown = session.cluster.clone().check_region(session.request(unknown)).await;
    let unknown = unknown.expect_err("nobody has it");
    // No reason to ask again, as there is for a region that has moved.
    assert_eq!((unknown.code(), reason(&unknown)), (Code::NotFound, None), "{unknown}");

    for region_id in [1, 2] {
        let regions = session.regions().await.expect("regions");
        let of = |info: &&v1::RegionInfo| {
            info.region.as_ref().is_some_and(|region| region.region_id == region_id)
        };
        let info = regions.iter().find(of).expect("a known region");
        let leader = info.leader.as_ref().expect("a leader").node_id;
        let to_node_id = (1..=3).find(|node| *node != leader).expect("another");
        let message = v1::TransferLeaderRequest { region_id, to_node_id };
        eventually("the leadership to be handed over", BOUND, async || {
            session.cluster.clone().transfer_leader(session.request(message)).await
        })
        .await;
        eventually("the other to be known as the leader", BOUND, async || {
            let regions = session.regions().await.map_err(|status| status.to_string())?;
            assert_eq!(regions.len(), 2, "all regions, also just after the driver has moved");
            let leader = regions.iter().find(of).and_then(|info| info.leader.as_ref());
            let leads = leader.is_some_and(|leader| leader.node_id == to_node_id);
            if leads { Ok(()) } else { Err(format!("region {region_id}: {leader:?}")) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_address_is_refused_before_it_reaches_the_log() {
    let mut cluster = Cluster::start(1).await;
    let stranger = cluster.prepare_node();
    cluster.nodes[stranger].launch(Start::Init);
    cluster.nodes[stranger].bound(BOUND).await;
    cluster.node_id(stranger).await;
    let silent = cluster.prepare_node();

    let first = cluster.nodes[0].session().patient(Duration::from_secs(15));
    let before = first.nodes().await.expect("nodes");
    for (why, address) in [
        ("nothing", String::new()),
        ("no address", "not an address".to_owned()),
        ("no port", "127.0.0.1".to_owned()),
        ("nobody listens", cluster.nodes[silent].client_address()),
        ("not gRPC", cluster.nodes[0].http_address()),
        ("the port for nodes", cluster.nodes[stranger].peer_address()),
        ("a node of another cluster", cluster.nodes[stranger].client_address()),
        ("a name that does not resolve", "no-such-host.invalid:7420".to_owned()),
    ] {
        let message = v1::AddLearnerRequest { address, ..Default::default() };
        let refused = first.cluster.clone().add_learner(first.request(message)).await;
        let refused = refused.expect_err(why);
        assert!(
            matches!(refused.code(), Code::InvalidArgument | Code::FailedPrecondition),
            "{why}: {refused:?}"
        );
        assert!(!refused.message().is_empty(), "{why}: says nothing");
    }
    let after = first.nodes().await.expect("nodes");
    assert_eq!(before.version, after.version, "nothing was written");
    assert_eq!(before.nodes.len(), after.nodes.len());
    first.put("k", "v").await.expect("the cluster is healthy");
    assert_eq!(cluster.nodes[stranger].session().get("k").await.expect("get"), None);
}

/// Refuses every way of asking.
async fn serves_nothing(session: &Session, removed: bool) {
    let get = session.get("story").await.map(|_| ());
    let stale = session.get_stale("story").await.map(|_| ());
    let put = session.put("story", "of a ghost").await.map(|_| ());
    for (why, answer) in [("get", get), ("stale get", stale), ("put", put)] {
        let status = answer.expect_err(why);
        // A removed node may also have no port open at all.
        assert_eq!(status.code(), Code::Unavailable, "{why}: {status:?}");
        if let Some(reason) = reason(&status) {
            assert_eq!(reason, Reason::NotJoined(v1::NotJoined { removed }), "{why}");
        } else {
            assert!(removed, "{why}: an unjoined node gives the reason: {status:?}");
        }
    }
}

/// Waits until the table has a node in a state.
async fn wait_state(session: &Session, node_id: u64, state: NodeState) -> v1::Node {
    eventually(&format!("node {node_id} to be {state:?}"), BOUND, async || {
        let nodes = session.nodes().await.map_err(|status| status.to_string())?.nodes;
        let node = nodes.into_iter().find(|node| node.node_id == node_id);
        match node {
            Some(node) if node.state == i32::from(state) => Ok(node),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

/// The nodes that hold each region.
async fn holders(session: &Session) -> Result<BTreeMap<u64, Vec<u64>>, Status> {
    let regions = session.regions().await?.into_iter().filter_map(|info| info.region);
    Ok(regions
        .map(|region| (region.region_id, region.peers.iter().map(|peer| peer.node_id).collect()))
        .collect())
}
