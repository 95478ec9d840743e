use bytes::Bytes;
use flotilla_proto::v1;

use super::*;
use crate::{
    ids::ClusterId,
    metrics::NodeStanding::{Disconnected, Down, Up},
    region::{
        RegionConfig,
        fixture::{Fixture, NODE, until},
        lifecycle,
    },
    storage::batch::{Family, WriteBatch},
    world::presence::pretend,
};

/// The cluster of [`Fixture`].
const OURS: ClusterId = ClusterId([1; 16]);

/// A driver that leads, of a cluster with two nodes of which the second is not there.
struct Leader {
    driver: Arc<Driver>,
    fixture: Fixture,
}

impl Leader {
    async fn start() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut RegionConfig)) -> Self {
        let fixture = Fixture::new(change);
        let record = |node: u64| v1::NodeRecord {
            node_id: node,
            client_address: format!("n{node}:7420"),
            peer_address: format!("n{node}:7421"),
            http_address: format!("n{node}:7422"),
            state: v1::NodeState::Up.into(),
            version: "0.1.0".to_owned(),
            feature_level: 1,
            ..v1::NodeRecord::default()
        };
        let seed = tables::Seed {
            cluster_id: OURS,
            replication_factor: 1,
            token: String::new(),
            nodes: vec![record(NODE.0), record(2)],
            next_region: RegionId(2),
            next_peer: PeerId(2),
        };
        let mut rows = WriteBatch::new();
        let head = crate::command::ValueHead::new(1, 0);
        for (key, value) in tables::seed(seed) {
            rows.put_parts(Family::Default, &key, &[head.as_bytes(), &value]);
        }
        let voters = [(PeerId(1), NODE)];
        let region = lifecycle::newborn(RegionId::SYSTEM, Bytes::new(), Bytes::new(), &voters);
        let regions = [(PeerId(1), region)];
        lifecycle::birth(fixture.log.as_ref(), fixture.data.as_ref(), &regions, rows)
            .expect("a birth in memory");
        let peers = Peers::open(Arc::clone(&fixture.env), true, None).await.expect("opened");
        let directory =
            NodeDirectory::open(Arc::clone(&fixture.log) as _, |_| {}).expect("a directory");
        let driver = Driver::new(peers, Arc::new(directory), PlacementConfig::default());
        until("it to lead", || driver.system().is_ok_and(|system| system.is_leader())).await;
        driver.lead().await.expect("it reads the table");
        Self { driver, fixture }
    }

    async fn hear(
        &self,
        cluster: ClusterId,
        node: u64,
        incarnation: u64,
        presence: &Presence,
    ) -> v1::HeartbeatResponse {
        let request = v1::HeartbeatRequest {
            cluster_id: Bytes::copy_from_slice(&cluster.0),
            node_id: node,
            incarnation,
            feature_level: 1,
            ..v1::HeartbeatRequest::default()
        };
        self.driver.hear(request, presence).await
    }
}

/// Two clusters on the same names: each calls the other's nodes, by numbers that both have.
#[tokio::test]
async fn node_of_another_cluster_is_never_taken_for_ours() {
    let leader = Leader::start().await;
    let ((_theirs, by_theirs), (_ours, by_ours)) = (pretend(), pretend());
    let theirs = ClusterId([9; 16]);
    for _ in 0..2 {
        let answer = leader.hear(theirs, 2, 77, &by_theirs).await;
        assert!(!answer.accepted && !answer.duplicate && !answer.removed, "{answer:?}");
        assert_eq!(answer.cluster_id[..], OURS.0, "it says whose answer it is");
        let answer = leader.hear(OURS, 2, 5, &by_ours).await;
        assert!(answer.accepted && !answer.duplicate, "ours is heard: {answer:?}");
    }
    // A second process of our own is still noticed.
    let answer = leader.hear(OURS, 2, 6, &by_theirs).await;
    assert!(answer.duplicate, "{answer:?}");
}

/// When region 1 commits nothing its metrics are looked at.
#[tokio::test]
async fn round_that_can_write_nothing_shows_what_the_driver_sees_all_the_same() {
    let leader = Leader::with(|config| config.proposals_max = 0).await;
    let metrics = &leader.driver.peers.environment().metrics.placement;
    let shown = || [Up, Disconnected, Down].map(|standing| metrics.nodes.get(standing).get());
    assert_eq!(shown().iter().sum::<i64>(), 0);
    leader.driver.round().await.expect_err("no id of a peer can be taken");
    assert_eq!(shown().iter().sum::<i64>(), 2, "{:?}", shown());
    assert_eq!(metrics.plan_seconds.get_sample_count(), 1, "leads can go all the same");
}

/// Else nothing could leave the disk of the node that drives, and no node be added that has room.
#[tokio::test]
async fn driver_writes_what_it_must_also_where_its_disk_is_low() {
    let leader = Leader::start().await;
    leader.fixture.room.low.store(true, std::sync::atomic::Ordering::Relaxed);
    leader.driver.round().await.expect("ids of peers are taken");
    let evict = v1::EvictLeadersRequest { node_id: 2, duration_ms: 60_000 };
    let evicted = leader.driver.call(v1::pass_request::Call::EvictLeaders(evict)).await;
    assert!(matches!(evicted, Ok(Some(_))), "{evicted:?}");
}

/// It may have counted more starts than the driver's own process, whose connections nobody sees.
#[tokio::test]
async fn copy_of_the_drivers_own_disk_is_noticed() {
    let leader = Leader::start().await;
    let (_open, presence) = pretend();
    let answer = leader.hear(OURS, NODE.0, u64::MAX, &presence).await;
    assert!(answer.duplicate, "{answer:?}");
    let answer = leader.hear(OURS, NODE.0, 1, &Presence::default()).await;
    assert!(answer.accepted && !answer.duplicate, "itself is heard: {answer:?}");
}

#[tokio::test]
async fn numbers_that_are_not_in_the_table_leave_nothing_behind() {
    let leader = Leader::start().await;
    let (_open, presence) = pretend();
    for node in 100..200 {
        let answer = leader.hear(OURS, node, 1, &presence).await;
        assert!(!answer.accepted && !answer.duplicate, "{answer:?}");
    }
    let batch = v1::MessageBatch {
        cluster_id: Bytes::copy_from_slice(&OURS.0),
        to_node: NODE.0,
        ..v1::MessageBatch::default()
    };
    for node in 200..300 {
        let batch = v1::MessageBatch { from_node: node, from_incarnation: 1, ..batch.clone() };
        // It may have joined since this copy of the table.
        crate::raft::transport::Inbox::admit(&leader.driver.peers, &batch, &presence)
            .expect("admitted");
    }
    assert_eq!(leader.driver.peers.recognized(), 0);
}

/// A program that was put back below the level is told so, and its node counts as silent.
#[tokio::test]
async fn node_that_can_do_less_than_the_cluster_uses_is_told_the_level_and_not_heard() {
    let leader = Leader::start().await;
    let (_open, presence) = pretend();
    let raised = leader.driver.with(|leading| {
        let mut table = leading.view.table().clone();
        (table.version, table.feature_level) = (table.version + 1, 2);
        leading.view.set_table(table);
    });
    raised.expect("it leads");
    let answer = leader.hear(OURS, 2, 5, &presence).await;
    assert_eq!(answer.feature_level, 2, "what it is refused for: {answer:?}");
    assert!(answer.session == 0 && answer.table.is_none() && answer.steps.is_empty(), "{answer:?}");
    assert!(!answer.removed && !answer.duplicate, "{answer:?}");
    let told = leader.driver.with(|leading| {
        leading.view.told_level(NodeId(2), &leader.driver.config, leader.driver.now_ms())
    });
    assert_eq!(told, Ok(None), "nothing was taken over");
}

/// Whoever is told that the outcome of a change is not known looks at a listing for it.
#[tokio::test]
async fn listing_shows_the_change_whose_outcome_nobody_knew() {
    let leader = Leader::start().await;
    let driver = &leader.driver;
    let demote = v1::ChangeMembershipRequest { demote: vec![2], ..Default::default() };
    let decided = driver
        .with(|leading| membership::change_membership(leading.view.table(), &demote))
        .expect("it leads")
        .expect("a change");
    let Decision::Write(change) = decided else { panic!("{decided:?}") };
    let turn = {
        let mut turn = driver.turn().await.expect("its turn");
        *turn = true;
        turn
    };
    driver.propose(change.command).await.expect("it is committed");
    let listed = async || {
        let all = v1::ListNodesRequest::default();
        let answer = driver.call(v1::pass_request::Call::ListNodes(all)).await;
        let Ok(Some(v1::pass_response::Answer::ListNodes(listed))) = answer else {
            panic!("{answer:?}")
        };
        let second = listed.nodes.iter().find(|node| node.node_id == 2).expect("listed");
        (second.state(), second.demoted)
    };
    let asked = listed();
    let mut asked = std::pin::pin!(asked);
    assert!(
        futures::poll!(&mut asked).is_pending(),
        "the one whose turn it is may know in a moment"
    );
    drop(turn);
    let (state, demoted) = tokio::time::timeout(TURN_TIMEOUT, asked).await.expect("an answer");
    assert!(demoted && state != v1::NodeState::Up, "{state:?}");
}
