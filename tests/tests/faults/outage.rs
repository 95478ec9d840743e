//! A cluster that has lost its quorum: whoever is asked says what is true, and whom it has from.

use std::time::Duration;

use flotilla_proto::v1::{self, Liveness, NodeState, RegionHealth};
use flotilla_tests::harness::{Cluster, Session, eventually, http};

const BOUND: Duration = Duration::from_secs(60);

/// The node that leads a region, as the placement driver says.
async fn leader(session: &Session, region_id: u64) -> Result<u64, String> {
    let regions = session.regions().await.map_err(|status| status.to_string())?;
    let of = |info: &v1::RegionInfo| {
        info.region.as_ref().is_some_and(|region| region.region_id == region_id)
    };
    let info = regions.into_iter().find(of).ok_or("the region is not listed")?;
    info.leader.map(|leader| leader.node_id).ok_or_else(|| "nobody leads it".to_owned())
}

async fn lead(session: &Session, region_id: u64, to_node_id: u64) {
    eventually("the node to lead the region", BOUND, async || {
        if leader(session, region_id).await? == to_node_id {
            return Ok(());
        }
        let message = v1::TransferLeaderRequest { region_id, to_node_id };
        let asked = session.cluster.clone().transfer_leader(session.request(message)).await;
        Err(format!("asked: {asked:?}"))
    })
    .await;
}

/// With less patience than the pause of the others takes.
fn briefly<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(Duration::from_secs(4));
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eviction_outlives_the_driver_and_an_outage_is_told_by_whoever_is_left() {
    let mut cluster = Cluster::start(3).await;
    // Leaders are moved while the regions get their voters: a step that began is then another leader's.
    cluster.allow("step error: has to forward request to");
    let sessions = cluster.sessions();
    let mut ids = Vec::new();
    for index in 0..3 {
        ids.push(cluster.node_id(index).await);
    }

    // Whoever wants it is told by the node alone, also while a driver would answer.
    let list = v1::ListNodesRequest { only_local: true, ..Default::default() };
    let told = sessions[1].cluster.clone().list_nodes(sessions[1].request(list)).await;
    assert_eq!(told.expect("what it knows").into_inner().told_by_node, ids[1]);

    // A further page of its status is of peers, and does not find out again how the node is.
    let status = async |after_region| {
        let request = v1::StatusRequest { without_peers: false, after_region };
        let told = sessions[1].cluster.clone().status(sessions[1].request(request)).await;
        told.expect("a status").into_inner()
    };
    let (first, further) = (status(0).await, status(1).await);
    let regions = |page: &v1::StatusResponse| {
        let region = |peer: &v1::PeerStatus| peer.region.clone().unwrap_or_default().region_id;
        page.peers.iter().map(region).collect::<Vec<_>>()
    };
    assert_eq!((regions(&first), regions(&further)), (vec![1, 2], vec![2]));
    assert_eq!((first.node_id, further.node_id), (ids[1], ids[1]));
    let how = |page: &v1::StatusResponse| (page.ready, page.table_version, page.disk_level.clone());
    assert!(first.ready && first.table_version > 0);
    assert_eq!(how(&further), (false, 0, String::new()));

    // Leaders are kept away from the node that drives: another drives then, and keeps them away too.
    lead(&sessions[1], 1, ids[0]).await;
    let message = v1::EvictLeadersRequest { node_id: ids[0], duration_ms: 3_000_000 };
    let evicted = sessions[1].cluster.clone().evict_leaders(sessions[1].request(message)).await;
    evicted.expect("the leaders leave");
    eventually("another to drive, and to keep leaders away", BOUND, async || {
        if leader(&sessions[1], 1).await? == ids[0] {
            return Err("it still drives".to_owned());
        }
        let nodes = sessions[1].nodes().await.map_err(|status| status.to_string())?.nodes;
        let node = nodes.iter().find(|node| node.node_id == ids[0]).ok_or("not on the list")?;
        if node.leaders_evicted { Ok(()) } else { Err(format!("{node:?}")) }
    })
    .await;

    // A driver that is cut off from all others believes in itself, and decides and tells nothing.
    lead(&sessions[1], 1, ids[2]).await;
    let alone = || sessions[2].cluster.clone();
    (0..2).for_each(|index| cluster.nodes[index].pause());
    let promote = v1::ChangeMembershipRequest { promote: vec![ids[2]], ..Default::default() };
    let itself = v1::TransferLeaderRequest { region_id: 1, to_node_id: ids[2] };
    let told = tokio::join!(
        async { alone().change_membership(briefly(promote)).await.map(drop) },
        async { alone().transfer_leader(briefly(itself)).await.map(drop) },
        async { alone().list_nodes(briefly(v1::ListNodesRequest::default())).await.map(drop) },
        async { alone().list_regions(briefly(v1::ListRegionsRequest::default())).await.map(drop) },
    );
    (0..2).for_each(|index| cluster.nodes[index].resume());
    let refused = [told.0, told.1, told.2, told.3].map(|told| told.is_err());
    assert_eq!(refused, [true; 4]);

    // The driver and another die. Who is left leads the region of all keys, and nobody follows.
    lead(&sessions[1], 1, ids[1]).await;
    lead(&sessions[1], 2, ids[2]).await;
    let survivor = &sessions[2];
    for victim in 0..2 {
        cluster.nodes[victim].kill9();
    }
    eventually("the survivor to say that it serves nothing", BOUND, async || {
        let list = v1::ListRegionsRequest { all: true, allow_local: true, ..Default::default() };
        let told = survivor.cluster.clone().list_regions(survivor.request(list)).await;
        let told = told.map_err(|status| status.to_string())?.into_inner();
        let mut health = told.regions.iter().map(|info| (info.health(), info.leader.is_some()));
        let want = [(RegionHealth::NoLeader, false), (RegionHealth::NoQuorum, false)];
        if told.told_by_node == ids[2] && health.len() == 2 && health.all(|how| want.contains(&how))
        {
            Ok(())
        } else {
            Err(format!("{told:?}"))
        }
    })
    .await;
    let list = v1::ListNodesRequest { allow_local: true, ..Default::default() };
    let told = survivor.cluster.clone().list_nodes(survivor.request(list)).await;
    let told = told.expect("what it knows").into_inner();
    assert_eq!(told.told_by_node, ids[2]);
    for node in &told.nodes {
        assert_eq!(node.state(), NodeState::Up);
        let is_it = node.node_id == ids[2];
        let want = if is_it { Liveness::Alive } else { Liveness::Unspecified };
        assert_eq!((node.liveness(), node.leaders), (want, 0), "{node:?}");
    }
    // Who decides upon it is told that nobody knows.
    let list = v1::ListNodesRequest::default();
    let refused = survivor.cluster.clone().list_nodes(survivor.request(list)).await;
    assert!(refused.is_err(), "{refused:?}");

    // The log has the story: who was lost, and that nobody is served.
    eventually("the log to tell", BOUND, async || {
        let log = cluster.nodes[2].output();
        let want =
            ["a node is not heard any more", "no quorum answers", "leader of a region is not"];
        let missing: Vec<_> = want.iter().filter(|line| !log.contains(**line)).collect();
        // Each for itself: one that answered as the driver is heard a moment longer.
        let lost = log.matches(want[0]).count();
        if missing.is_empty() && lost >= 2 {
            Ok(())
        } else {
            Err(format!("{missing:?} are not in the log, and {lost} nodes are lost"))
        }
    })
    .await;

    let address = cluster.nodes[2].http_address();
    let reply = http(&address, "GET", "/metrics", &[], &[]).await.expect("metrics");
    let metrics = String::from_utf8_lossy(&reply.body).into_owned();
    let value = |name: &str| {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} is not among them")).to_owned()
    };
    assert_eq!(value("flotilla_region_leaders"), "0");
    assert_eq!(value("flotilla_region_leaders_without_quorum"), "1");
    assert_eq!(value("flotilla_regions_unheard"), "1");
    // Of the one it leads and of the one it follows.
    assert_eq!(value("flotilla_regions_without_quorum"), "2");
    assert_eq!(value("flotilla_nodes_unheard"), "2");
    // By which the alerts know that nobody drives.
    assert!(metrics.lines().any(|line| line.starts_with("flotilla_placement_nodes{")));
    let driven =
        |line: &str| line.starts_with("flotilla_placement_nodes{") && !line.ends_with(" 0");
    assert!(!metrics.lines().any(driven), "{metrics}");
}
