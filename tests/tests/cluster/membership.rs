//! Changes of the cluster: conditions are kept, refusals change nothing, nothing is lost.

use std::time::Duration;

use flotilla_proto::v1::{self, Liveness, NodeState, error_detail::Reason};
use flotilla_tests::{
    harness::{Builder, Cluster, Session, Start, detail, eventually, http, reason},
    workload::{Crew, assert_kept},
};
use tokio::time::Instant;
use tonic::{Code, Status};

const BOUND: Duration = Duration::from_secs(60);

/// In raftexample such a write is answered with 204 and gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn write_without_a_leader_is_never_answered_as_done_and_lost() {
    let mut cluster = Cluster::start(3).await;
    let sessions = cluster.sessions();
    let writers = Crew::writers(&sessions, 12, 50, "leaderless");
    for _ in 0..4 {
        writers.progress(60, BOUND).await;
        let leader = cluster.leader(b"leaderless").await;
        cluster.nodes[leader].kill9();
        // Goes on without it: some of these writes were on their way when nobody led.
        writers.progress(60, BOUND).await;
        cluster.nodes[leader].relaunch();
    }
    let ledger = writers.stop().await;
    let (refused, unknown) = ledger.troubled();
    assert!(refused + unknown > 0, "no write met a dead leader, so nothing is shown");
    cluster.wait_whole(BOUND).await;
    assert_kept(&*ledger, &sessions).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn change_on_an_old_table_is_refused_and_changes_nothing() {
    let mut cluster = Cluster::start(3).await;
    let first = cluster.nodes[0].session();
    let fourth = cluster.prepare_node();
    cluster.nodes[fourth].launch(Start::Alone);
    cluster.nodes[fourth].bound(BOUND).await;
    let before = first.nodes().await.expect("nodes");
    let old = before.version - 1;
    let third = before.nodes.iter().map(|node| node.node_id).max().expect("three nodes");
    let address = cluster.nodes[fourth].client_address();

    let add = v1::AddLearnerRequest {
        address: address.clone(),
        labels: Default::default(),
        expected_version: Some(old),
    };
    let demote = v1::ChangeMembershipRequest {
        promote: vec![],
        demote: vec![third],
        expected_version: Some(old),
        ..Default::default()
    };
    let remove =
        v1::RemoveNodeRequest { node_id: third, force: false, expected_version: Some(old) };
    let mut client = first.cluster.clone();
    let refusals = [
        ("AddLearner", client.add_learner(add).await.map(|_| ())),
        ("ChangeMembership", client.change_membership(demote).await.map(|_| ())),
        ("RemoveNode", client.remove_node(remove).await.map(|_| ())),
    ];
    for (call, answer) in refusals {
        let status = answer.expect_err(call);
        assert_eq!(status.code(), Code::Aborted, "{call}: {status:?}");
        match reason(&status) {
            Some(Reason::VersionMoved(moved)) => {
                assert_eq!((moved.expected, moved.actual), (old, before.version), "{call}");
            }
            other => panic!("{call}: {other:?}"),
        }
    }
    let body = serde_json::json!({ "address": address }).to_string().into_bytes();
    let old = old.to_string();
    let headers = [("content-type", "application/json"), ("if-match", old.as_str())];
    let http_address = cluster.nodes[0].http_address();
    let refused = http(&http_address, "POST", "/cluster/nodes", &headers, &body).await;
    let refused = refused.expect("an answer");
    assert!(matches!(refused.status, 409 | 412), "{refused:?}");

    let after = first.nodes().await.expect("nodes");
    assert_eq!(before.version, after.version);
    assert_eq!(before.nodes.len(), after.nodes.len());
    cluster.nodes.truncate(3);
    cluster.wait_whole(BOUND).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removal_below_the_replication_factor_is_refused() {
    let mut cluster = Cluster::start(3).await;
    let first = cluster.nodes[0].session();
    let before = first.nodes().await.expect("nodes");
    for node in &before.nodes {
        let status = remove(&first, node.node_id, false).await.expect_err("two are too few");
        assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
        assert!(detail(&status).is_none_or(|detail| !detail.maybe_applied), "{status:?}");
    }
    let status = remove(&first, 4_711, false).await.expect_err("nobody has this id");
    assert!(matches!(status.code(), Code::NotFound | Code::InvalidArgument), "{status:?}");
    assert_eq!(first.nodes().await.expect("nodes").version, before.version);
    cluster.wait_whole(BOUND).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leader_of_everything_is_drained_under_load_and_removed() {
    let mut cluster = Cluster::start(4).await;
    let sessions = cluster.sessions();
    let leader = cluster.leader(b"drained").await;
    let helper = (leader + 1) % 4;
    let rest: Vec<Session> =
        (0..4).filter(|index| *index != leader).map(|index| sessions[index].clone()).collect();
    let writers = Crew::writers(&rest, 6, 100, "drained");
    writers.progress(100, BOUND).await;
    let id = cluster.node_id(leader).await;
    let through = &sessions[helper];
    let begun = remove(through, id, false).await.expect("four minus one is three");
    assert!(matches!(
        NodeState::try_from(begun.state),
        Ok(NodeState::Draining | NodeState::Removed)
    ));
    // Repeating the call tells how far it is, until it is done.
    eventually("the node to be drained", BOUND, async || {
        let answer = remove(through, id, false).await.map_err(|status| status.to_string())?;
        if answer.state == i32::from(NodeState::Removed) {
            return Ok(());
        }
        Err(format!("{answer:?}"))
    })
    .await;
    let again = remove(through, id, false).await.expect("idempotent");
    assert_eq!(again.state, i32::from(NodeState::Removed));
    for region in through.regions().await.expect("regions") {
        let region = region.region.expect("a descriptor");
        assert!(region.peers.iter().all(|peer| peer.node_id != id), "{region:?}");
    }
    cluster.nodes[leader].expect_exit();
    writers.progress(100, BOUND).await;
    let ledger = writers.stop().await;
    assert_kept(&*ledger, &rest).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_node_is_replaced_by_force_when_quorum_is_kept() {
    let mut cluster = Builder::new(3).set("placement.node_disconnected_after", "2s").start().await;
    let sessions = cluster.sessions();
    let writers = Crew::writers(&sessions[..2], 6, 100, "replaced");
    writers.progress(100, BOUND).await;
    let id = cluster.node_id(2).await;
    cluster.nodes[2].kill9();
    let first = &sessions[0];
    eventually("the dead node to be seen as away", BOUND, async || {
        let nodes = first.nodes().await.map_err(|status| status.to_string())?.nodes;
        let dead = nodes.iter().find(|node| node.node_id == id).ok_or("not on the list")?;
        if dead.liveness == i32::from(Liveness::Alive) { Err("alive") } else { Ok(()) }
            .map_err(str::to_owned)
    })
    .await;
    let fourth = cluster.join_node();
    cluster.nodes[fourth].bound(BOUND).await;
    cluster.node_id(fourth).await;
    eventually("the dead node to be removed", BOUND, async || {
        let answer = remove(first, id, true).await.map_err(|status| status.to_string())?;
        let done = answer.state == i32::from(NodeState::Removed);
        if done { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
    cluster.wait_whole(BOUND).await;
    writers.progress(50, BOUND).await;
    let ledger = writers.stop().await;
    assert_kept(&*ledger, &[cluster.nodes[fourth].session()]).await;
    assert_kept(&*ledger, [first]).await;
}

/// While it was away another node came, and the placement driver moved there: of that node it has never heard.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_that_was_away_finds_a_driver_that_came_meanwhile() {
    let builder = Builder::new(3)
        .set("placement.node_disconnected_after", "2s")
        .set("placement.node_down_after", "4s");
    let mut cluster = builder.start().await;
    let away = cluster.node_id(2).await;
    cluster.nodes[2].kill9();
    let fourth = cluster.join_node();
    cluster.nodes[fourth].bound(BOUND).await;
    let new = cluster.node_id(fourth).await;
    let first = cluster.nodes[0].session();
    eventually("the new node to lead region 1", BOUND, async || {
        let regions = first.regions().await.map_err(|status| status.to_string())?;
        let of_region = |info: &&v1::RegionInfo| {
            info.region.as_ref().is_some_and(|region| region.region_id == 1)
        };
        let info = regions.iter().find(of_region).ok_or("no region 1")?;
        if info.leader.as_ref().is_some_and(|leader| leader.node_id == new) {
            return Ok(());
        }
        let message = v1::TransferLeaderRequest { region_id: 1, to_node_id: new };
        let moved = first.cluster.clone().transfer_leader(first.request(message)).await;
        Err(format!("{moved:?}"))
    })
    .await;
    cluster.nodes[2].relaunch();
    eventually("the node that was away to be heard", BOUND, async || {
        let nodes = first.nodes().await.map_err(|status| status.to_string())?.nodes;
        let node = nodes.iter().find(|node| node.node_id == away).ok_or("not on the list")?;
        let is_heard = node.liveness() == Liveness::Alive;
        if is_heard { Ok(()) } else { Err(format!("{:?}", node.liveness())) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removal_can_be_taken_back_while_it_is_under_way() {
    let mut cluster = Cluster::start(4).await;
    let mut ids = Vec::new();
    for index in 0..4 {
        ids.push(cluster.node_id(index).await);
    }
    let regions = cluster.nodes[0].session().regions().await.expect("regions");
    let users = regions.into_iter().filter_map(|info| info.region).find(|one| one.region_id == 2);
    let users = users.expect("the region of users' keys");
    let holds = |index: &usize| users.peers.iter().any(|peer| peer.node_id == ids[*index]);
    // The peer can only go to the node that has none, and that one stands still: the removal cannot
    // end under our hands.
    let spare = (0..4).find(|index| !holds(index)).expect("three peers on four nodes");
    let leaving = (0..4).rev().find(holds).expect("three nodes have one");
    let through = (0..4).find(|index| ![spare, leaving].contains(index)).expect("two are left");
    let (first, id) = (cluster.nodes[through].session(), ids[leaving]);
    cluster.nodes[spare].pause();
    let begun = eventually("the removal to begin", BOUND, async || remove(&first, id, false).await);
    assert_eq!(begun.await.state, i32::from(NodeState::Draining));
    let message = v1::CancelRemoveNodeRequest { node_id: id, expected_version: None };
    let taken = eventually("the removal to be taken back", BOUND, async || {
        first.cluster.clone().cancel_remove_node(first.request(message)).await
    });
    assert_eq!(taken.await.into_inner().state, i32::from(NodeState::Up));
    cluster.nodes[spare].resume();
    cluster.wait_whole(BOUND).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replication_factor_changes_under_load_and_nothing_is_lost() {
    let mut cluster = Cluster::start(3).await;
    let sessions = cluster.sessions();
    let writers = Crew::writers(&sessions, 6, 100, "factor");
    writers.progress(100, BOUND).await;
    let change = |factor| v1::ChangeMembershipRequest {
        replication_factor: Some(factor),
        ..Default::default()
    };
    for (factor, code) in [(2, Code::InvalidArgument), (5, Code::FailedPrecondition)] {
        let request = sessions[0].request(change(factor));
        let refused = sessions[0].cluster.clone().change_membership(request).await;
        let status = refused.expect_err("even, or more than there are nodes");
        assert_eq!(status.code(), code, "{factor}: {status:?}");
    }
    for factor in [1, 3] {
        let request = sessions[1].request(change(factor));
        let changed = sessions[1].cluster.clone().change_membership(request).await;
        changed.expect("one of the nodes is enough, and three are there");
        eventually(&format!("{factor} peers of each region"), BOUND, async || {
            let table = sessions[2].nodes().await.map_err(|status| status.to_string())?;
            let regions = sessions[2].regions().await.map_err(|status| status.to_string())?;
            let peers = |info: &v1::RegionInfo| info.region.as_ref().map(|at| at.peers.len());
            let all = regions.iter().all(|info| peers(info) == Some(factor as usize));
            if table.replication_factor == factor && all {
                Ok(())
            } else {
                Err(format!("{regions:?}"))
            }
        })
        .await;
        cluster.wait_whole(BOUND).await;
        writers.progress(100, BOUND).await;
    }
    let ledger = writers.stop().await;
    assert_kept(&*ledger, &sessions).await;
}

/// Three nodes whose elections take six seconds: a hand-over is the only way to be quick.
async fn slow_to_elect() -> Cluster {
    Builder::new(3)
        .set("raft.heartbeat_interval", "500ms")
        .set("raft.election_timeout_min", "6s")
        .set("raft.election_timeout_max", "8s")
        .start()
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_leader_hands_over_before_it_goes() {
    let mut cluster = slow_to_elect().await;
    let leader = cluster.leader(b"hand-over").await;
    let session = cluster.nodes[(leader + 1) % 3].session().patient(Duration::from_secs(2));
    session.put("hand-over", "before").await.expect("put");
    let ended = cluster.nodes[leader].terminate(Duration::from_secs(20)).await;
    assert!(ended.success(), "{ended}");
    let gone = Instant::now();
    eventually("a write after the hand-over", Duration::from_secs(30), async || {
        session.put("hand-over", "after").await
    })
    .await;
    let outage = gone.elapsed();
    assert!(outage < Duration::from_secs(3), "{outage:?} is an election, not a hand-over");
}

/// A leader that was told to hand over takes no writes any more, whether its successor lives or not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lead_that_a_frozen_successor_does_not_take_goes_to_another() {
    let mut cluster = slow_to_elect().await;
    for _ in 0..3 {
        let leader = cluster.leader(b"moved").await;
        let (successor, third) = ((leader + 1) % 3, (leader + 2) % 3);
        let successor_id = cluster.node_id(successor).await;
        let third_id = cluster.node_id(third).await;
        let session = cluster.nodes[leader].session();
        let others = [session.clone(), cluster.nodes[third].session()];
        let writers = Crew::writers(&others, 16, 1000, "moved");
        writers.progress(100, BOUND).await;

        cluster.nodes[successor].pause();
        let message = v1::TransferLeaderRequest { region_id: 2, to_node_id: successor_id };
        let asked = Instant::now();
        let answer = session.cluster.clone().transfer_leader(session.request(message)).await;
        writers.progress(100, BOUND).await;
        let outage = asked.elapsed();
        cluster.nodes[successor].resume();
        let status = answer.expect_err("another one took it than was asked to");
        assert!(
            detail(&status).is_some_and(|detail| detail.maybe_applied),
            "it may yet take it: {status:?}"
        );
        for words in [&format!("node {third_id} (peer "), ") leads region 2 now, not node "] {
            assert!(status.message().contains(words), "{words}: {status:?}");
        }
        assert!(outage < Duration::from_secs(3), "{outage:?} is an election");
        eventually("the only one that could take it to lead", BOUND, async || {
            let now = cluster.leader(b"moved").await;
            if now == third { Ok(()) } else { Err(format!("node {now} leads")) }
        })
        .await;
        let ledger = writers.stop().await;
        assert_kept(&*ledger, [&others[1]]).await;
        cluster.wait_whole(BOUND).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lead_is_not_handed_to_a_node_that_has_been_silent() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader(b"kept").await;
    let successor = (leader + 1) % 3;
    let to_node_id = cluster.node_id(successor).await;
    let session = cluster.nodes[leader].session();
    cluster.nodes[successor].pause();
    eventually("its silence to be noticed", BOUND, async || {
        let regions = session.regions().await.map_err(|status| status.to_string())?;
        let silent = |info: &v1::RegionInfo| {
            let region = info.region.as_ref();
            let peers = region.iter().flat_map(|region| &region.peers);
            peers
                .filter(|peer| peer.node_id == to_node_id)
                .all(|peer| info.down_peers.contains(&peer.peer_id))
        };
        if regions.iter().all(silent) { Ok(()) } else { Err(format!("{regions:?}")) }
    })
    .await;
    let message = v1::TransferLeaderRequest { region_id: 2, to_node_id };
    let answer = session.cluster.clone().transfer_leader(session.request(message)).await;
    let status = answer.expect_err("nobody is there to take it");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    assert!(status.message().contains("has not answered"), "{status:?}");
    assert_eq!(cluster.leader(b"kept").await, leader, "nothing was begun");
    cluster.nodes[successor].resume();
    cluster.wait_whole(BOUND).await;
}

async fn remove(
    session: &Session,
    node_id: u64,
    force: bool,
) -> Result<v1::RemoveNodeResponse, Status> {
    let message = v1::RemoveNodeRequest { node_id, force, expected_version: None };
    Ok(session.cluster.clone().remove_node(session.request(message)).await?.into_inner())
}
