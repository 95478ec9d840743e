//! A cluster that is made of all its nodes at once, by the same command on each.

use std::{collections::BTreeSet, fs, process::Command, time::Duration};

use bytes::Bytes;
use flotilla_proto::v1::{self, Liveness, NodeState, PeerRole};
use flotilla_tests::harness::{
    Builder, Cluster, Node, Proxy, Start, binary, elapse, eventually, http, newest_wal, say,
};

const BOUND: Duration = Duration::from_secs(60);

/// The first acknowledged write is on a majority: the node that took it may be lost the moment after. And
/// a node that comes back with an empty disk makes no second cluster, it joins, in its own place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_write_outlives_the_node_that_took_it() {
    let mut cluster =
        Builder::new(3).set("placement.node_disconnected_after", "2s").prepare().await;
    cluster.launch_together();
    for node in &mut cluster.nodes {
        node.bound(BOUND).await;
    }
    let sessions = cluster.sessions();
    let first = eventually("any node to acknowledge a write", BOUND, async || {
        let mut last = "nobody answers".to_owned();
        for (index, session) in sessions.iter().enumerate() {
            let session = session.clone().patient(Duration::from_millis(500));
            match session.put("first", "write").await {
                Ok(_) => return Ok(index),
                Err(error) => last = error.to_string(),
            }
        }
        Err(last)
    })
    .await;
    cluster.nodes[first].kill9();
    let second = (first + 1) % 3;
    let read = eventually("another node to have it", BOUND, async || {
        sessions[second].get("first").await.map_err(|error| error.to_string())
    })
    .await;
    assert_eq!(read, Some(Bytes::from("write")));
    let born = sessions[second].status().await.expect("status").cluster_id;

    // Wiped, and started by the same command.
    // The region of the node table may have been led by the one that died.
    let nodes = eventually("the node table", BOUND, async || {
        sessions[second].nodes().await.map_err(|error| error.to_string())
    });
    let nodes = nodes.await.nodes;
    let address = cluster.nodes[first].client_address();
    let old = nodes.iter().find(|node| node.client_address == address).expect("it is known");
    cluster.nodes[first].wipe();
    cluster.nodes[first].relaunch();
    cluster.nodes[first].bound(BOUND).await;
    let own = cluster.node_id(first).await;
    assert_ne!(own, old.node_id, "an empty disk is somebody new");
    let status = sessions[first].status().await.expect("status");
    assert_eq!(status.cluster_id, born, "it made no cluster of its own");
    cluster.wait_whole(BOUND).await;
    let nodes = sessions[second].nodes().await.expect("nodes").nodes;
    let holders: Vec<(u64, bool)> = nodes
        .iter()
        .filter(|node| node.client_address == address && node.state() != NodeState::Removed)
        .map(|node| (node.node_id, node.forced))
        .collect();
    assert!(holders.contains(&(own, false)), "{nodes:?}");
    assert!(holders.iter().all(|(id, forced)| *id == own || *forced), "given up: {nodes:?}");
    let read = sessions[first].get("first").await.expect("read through the new one");
    assert_eq!(read, Some(Bytes::from("write")));
}

/// Most nodes of a large cluster have no peer of the region that the driver leads, and know only from others
/// where it is: at the birth, and when it moves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn driver_is_found_by_all_nodes_of_a_large_cluster_also_when_it_moves() {
    let mut cluster =
        Builder::new(8).set("placement.node_disconnected_after", "2s").prepare().await;
    cluster.launch_together();
    for node in &mut cluster.nodes {
        node.bound(BOUND).await;
    }
    cluster.wait_whole(BOUND).await;
    let mut ids = Vec::new();
    for index in 0..cluster.nodes.len() {
        ids.push(cluster.node_id(index).await);
    }
    // One of the first three leads it.
    let last = ids.iter().position(|id| *id == 8).expect("the last node");
    let session = cluster.nodes[last].session();
    for id in 1..=3 {
        let victim = ids.iter().position(|of| *of == id).expect("a node");
        cluster.nodes[victim].kill9();
        eventually("the driver to hear all others", BOUND, async || {
            let nodes = session.nodes().await.map_err(|error| error.to_string())?.nodes;
            let silent: Vec<u64> = nodes
                .iter()
                .filter(|node| node.liveness() != Liveness::Alive)
                .map(|node| node.node_id)
                .collect();
            if silent == [id] { Ok(()) } else { Err(format!("silent: {silent:?}")) }
        })
        .await;
        cluster.nodes[victim].relaunch();
        cluster.wait_whole(BOUND).await;
    }
}

/// At every line of a birth all nodes that come to it stand still, and all are killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crash_at_any_line_of_a_birth_ends_in_one_whole_cluster() {
    for point in [
        "birth-before-promises",
        "promise-before-write",
        "promise-after-write",
        "birth-before-decision",
        "birth-between",
        "birth-untold",
        "birth-after-decision",
    ] {
        let Some(builder) = Builder::with_failpoints(3) else { return };
        let mut cluster = builder.prepare().await;
        cluster.nodes.iter_mut().for_each(|node| node.stand_still_at(point, 0));
        cluster.launch_together();
        // Long enough to get there; a kill elsewhere is a kill all the same.
        elapse(Duration::from_millis(1_500)).await;
        cluster.kill9_all();
        cluster.nodes.iter_mut().for_each(Node::go_on);
        cluster.relaunch_all();
        for node in &mut cluster.nodes {
            node.bound(BOUND).await;
        }
        is_one_cluster(&mut cluster, point).await;
    }
}

/// One of the nodes that were promised stays away over the decision.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promised_node_that_was_away_is_born_when_it_is_back() {
    let Some(builder) = Builder::with_failpoints(3) else { return };
    let mut cluster = builder.prepare().await;
    // Whoever is not the founder stands still with the promise on its disk; one of them is killed there.
    cluster.nodes.iter_mut().for_each(|node| node.stand_still_at("promise-after-write", 0));
    cluster.launch_together();
    elapse(Duration::from_millis(1_500)).await;
    cluster.kill9_all();
    cluster.nodes.iter_mut().for_each(Node::go_on);
    for index in [0, 1] {
        cluster.nodes[index].relaunch();
    }
    // Two of three: nobody makes a cluster without the third, which was promised to the same.
    elapse(Duration::from_secs(2)).await;
    for index in [0, 1] {
        let status = cluster.nodes[index].session().status().await.expect("status");
        assert!(!status.joined, "two made a cluster without the third: {status:?}");
        assert!(!status.not_ready_reasons.is_empty(), "it says why it waits");
    }
    cluster.nodes[2].relaunch();
    cluster.nodes[2].bound(BOUND).await;
    is_one_cluster(&mut cluster, "one was away").await;
}

/// The founder has decided, as nobody else knows, and is lost with its disk: 'A birth whose founder is lost' in
/// docs/operations.md, points 2 and 3.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_make_a_cluster_anew_when_the_founder_is_lost_before_it_told_them() {
    for (why, its_address_too) in [("its disk is lost", false), ("its address, too", true)] {
        let Some(builder) = Builder::with_failpoints(3) else { return };
        let mut cluster = builder.prepare().await;
        let founder = find_founder(&mut cluster).await;
        cluster.nodes[founder].stand_still_at("birth-untold", 0);
        cluster.launch_together();
        let others: Vec<usize> = (0..3).filter(|index| *index != founder).collect();
        let birth = promised(&cluster, &others).await;
        // What is on its disk of a birth is its identity.
        let disk = cluster.nodes[founder].data_dir().join("log");
        eventually("the founder to decide", BOUND, async || {
            let written = fs::read(newest_wal(&disk)).map_err(|error| error.to_string())?;
            let has_it = written.windows(birth.len()).any(|bytes| birth == bytes);
            if has_it { Ok(()) } else { Err("not yet".to_owned()) }
        })
        .await;
        lose(&mut cluster.nodes[founder]);
        cluster.nodes[founder].go_on();

        let address = cluster.nodes[founder].client_address();
        let words = format!("not joined: {address}, which makes the cluster, does not answer");
        for index in &others {
            let http_address = cluster.nodes[*index].http_address();
            eventually("it to say whom it waits for", BOUND, async || {
                let reply = http(&http_address, "GET", "/readyz", &[], b"").await;
                let reply = reply.map_err(|error| error.to_string())?;
                let said = String::from_utf8_lossy(&reply.body).into_owned();
                if said.contains(&words) { Ok(()) } else { Err(said) }
            })
            .await;
        }
        if its_address_too {
            let told = kvctl_status(&cluster, &others);
            assert_eq!(told.matches("not joined").count(), 2, "none is joined:\n{told}");
            for index in &others {
                cluster.nodes[*index].kill9();
                cluster.nodes[*index].wipe();
            }
            cluster.nodes[founder].move_away();
            cluster.launch_together();
        } else {
            cluster.nodes[founder].relaunch();
        }
        for node in &mut cluster.nodes {
            node.bound(BOUND).await;
        }
        is_one_cluster(&mut cluster, why).await;
    }
}

/// The founder and one other have acknowledged a write, the third was away; then the founder is lost, disk and address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_follow_a_birth_whose_founder_is_lost_after_it_told_one() {
    let Some(builder) = Builder::with_failpoints(3) else { return };
    let mut cluster = builder.set("placement.node_disconnected_after", "2s").prepare().await;
    let founder = find_founder(&mut cluster).await;
    let (told, away) = ((founder + 1) % 3, (founder + 2) % 3);
    cluster.nodes[away].stand_still_at("birth-between", 0);
    cluster.launch_together();
    let session = cluster.nodes[told].session();
    eventually("a write", BOUND, async || session.put("first", "write").await).await;
    let born = session.status().await.expect("status").cluster_id;
    lose(&mut cluster.nodes[founder]);
    cluster.nodes[away].kill9();
    cluster.nodes[away].go_on();
    cluster.nodes[away].relaunch();
    cluster.nodes[away].bound(BOUND).await;

    // One is joined, so all are left as they are.
    let said = kvctl_status(&cluster, &[told, away]);
    assert!(said.matches("not joined").count() < 2, "one is joined:\n{said}");
    let session = cluster.nodes[away].session();
    let read = eventually("the third to have it", BOUND, async || session.get("first").await).await;
    assert_eq!(read, Some(Bytes::from("write")));
    assert_eq!(session.status().await.expect("status").cluster_id, born);
    // A node with an empty disk is added as ever, also at another address.
    cluster.nodes[founder].move_away();
    let join = vec![cluster.nodes[told].client_address(), cluster.nodes[away].client_address()];
    cluster.nodes[founder].launch(Start::Join(join));
    cluster.nodes[founder].bound(BOUND).await;
    assert_eq!(cluster.node_id(founder).await, 4, "it is somebody new");
    let status = cluster.nodes[founder].session().status().await.expect("status");
    assert_eq!(status.cluster_id, born);
    let put = cluster.nodes[founder].session().put("second", "write").await;
    put.expect("served through the new one");
}

/// One that follows its birth after the others may have been removed by them, and hears that after it is born. It has
/// a state then, of before anybody wrote, and must not show it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_was_removed_before_it_was_born_shows_nothing() {
    let Some(builder) = Builder::with_failpoints(3) else { return };
    let mut cluster = builder.set("placement.node_disconnected_after", "2s").prepare().await;
    let founder = find_founder(&mut cluster).await;
    let (told, away) = ((founder + 1) % 3, (founder + 2) % 3);
    cluster.nodes[away].stand_still_at("birth-between", 0);
    for node in [founder, told] {
        cluster.nodes[node].put_behind_proxy();
    }
    let links = links_of(&cluster, &[founder, told]).await;
    cluster.launch_together();
    let session = cluster.nodes[told].session();
    eventually("a write", BOUND, async || session.put("first", "write").await).await;
    cluster.nodes[away].kill9();
    let address = cluster.nodes[away].client_address();
    eventually("it to be removed", BOUND, async || {
        let nodes = session.nodes().await.map_err(|status| status.to_string())?.nodes;
        let node = nodes.iter().find(|node| node.client_address == address).ok_or("unknown")?;
        if node.state() == NodeState::Removed {
            return Ok(());
        }
        let remove = v1::RemoveNodeRequest {
            node_id: node.node_id,
            force: true,
            ..v1::RemoveNodeRequest::default()
        };
        let answer = session.cluster.clone().remove_node(session.request(remove)).await;
        Err(format!("{answer:?}"))
    })
    .await;

    // It hears of the birth where clients do, and of its removal between nodes.
    drop(links);
    cluster.nodes[away].go_on();
    cluster.nodes[away].relaunch();
    cluster.nodes[away].bound(BOUND).await;
    let session = cluster.nodes[away].session();
    eventually("it to be born", BOUND, async || match session.status().await {
        Ok(status) if status.joined => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let shown = session.get_stale("first").await;
    let refused = shown.expect_err("it has a state of before the first write");
    assert!(refused.message().contains("has not heard from its cluster"), "{refused:?}");
    cluster.allow("was removed from its cluster");
    let _links = links_of(&cluster, &[founder, told]).await;
    eventually("it to hear that it was removed", BOUND, async || match session.status().await {
        Ok(status) if status.removed => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

/// What others reach these nodes by.
async fn links_of(cluster: &Cluster, nodes: &[usize]) -> Vec<Proxy> {
    let mut links = Vec::new();
    for node in nodes.iter().map(|index| &cluster.nodes[*index]) {
        let from = node.peer_address().parse().expect("an address");
        links.push(Proxy::start(from, node.peer_bound(), 1 << 30).await);
    }
    links
}

/// The index of the node that is going to decide: of the smallest disk.
async fn find_founder(cluster: &mut Cluster) -> usize {
    let mut disks = Vec::new();
    for node in &mut cluster.nodes {
        node.launch(Start::Alone);
        node.bound(BOUND).await;
        let session = node.session();
        let status = eventually("its disk's number", BOUND, async || session.status().await).await;
        disks.push(status.disk_id);
        node.kill9();
    }
    (0..3).min_by_key(|index| &disks[*index]).expect("three nodes")
}

/// The birth that these nodes have promised themselves to.
async fn promised(cluster: &Cluster, nodes: &[usize]) -> Bytes {
    let mut births = BTreeSet::new();
    for index in nodes {
        let session = cluster.nodes[*index].session();
        let birth = eventually("its promise", BOUND, async || match session.status().await {
            Ok(status) if !status.birth_id.is_empty() => Ok(status.birth_id),
            other => Err(format!("{other:?}")),
        });
        births.insert(birth.await);
    }
    assert_eq!(births.len(), 1, "{births:?}");
    births.pop_first().expect("one")
}

/// A machine that is gone with its disk.
fn lose(node: &mut Node) {
    node.kill9();
    node.wipe();
}

fn kvctl_status(cluster: &Cluster, nodes: &[usize]) -> String {
    let addresses = nodes.iter().map(|index| cluster.nodes[*index].client_address());
    let mut command = Command::new(binary("kvctl"));
    command.arg("status").args(addresses);
    for name in ["FLOTILLA_ENDPOINTS", "FLOTILLA_OUTPUT", "FLOTILLA_TIMEOUT"] {
        command.env_remove(name);
    }
    let output = command.output().expect("run kvctl");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    told
}

/// `Initialize` that names the others: the way of a program that starts nodes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn initialize_makes_a_cluster_of_all_that_it_names() {
    let mut cluster = Builder::new(3).prepare().await;
    for node in &mut cluster.nodes {
        node.launch(Start::Alone);
    }
    for node in &mut cluster.nodes {
        node.bound(BOUND).await;
    }
    let session = cluster.nodes[1].session();
    let request = |first_nodes: Vec<String>| v1::InitializeRequest {
        split_keys: vec!["m".into()],
        token: "once".to_owned(),
        first_nodes,
        ..v1::InitializeRequest::default()
    };
    // Nobody listens there: all or nothing.
    let nowhere = [cluster.addresses(), vec!["127.0.0.1:1".to_owned()]].concat();
    let refused = session.cluster.clone().initialize(request(nowhere)).await;
    let refused = refused.expect_err("one does not answer");
    assert!(refused.message().contains("127.0.0.1:1"), "{refused:?}");
    // A name that leads to the wrong node, of those or the one that is asked.
    let other_name = |index: usize| cluster.addresses()[index].replace("127.0.0.1", "localhost");
    for index in [1, 2] {
        let address = &cluster.addresses()[index];
        for twice in [[address.clone(), other_name(index)], [address.clone(), address.clone()]] {
            let refused = session.cluster.clone().initialize(request(twice.to_vec())).await;
            let refused = refused.expect_err("one is named twice");
            assert!(refused.message().contains("named already"), "{refused:?}");
        }
    }
    for node in &cluster.nodes {
        assert!(!node.session().status().await.expect("status").joined, "nothing has happened");
    }
    // Each once, by whatever name.
    let all = request((0..3).map(other_name).collect());
    let made = session.cluster.clone().initialize(all.clone()).await.expect("made").into_inner();
    let again = session.cluster.clone().initialize(all).await.expect("the same").into_inner();
    assert_eq!(made, again);
    is_one_cluster(&mut cluster, "initialized").await;
    let regions = session.regions().await.expect("regions");
    assert_eq!(regions.len(), 3, "the system's and two: {regions:?}");
}

/// The majority is where it was not, in turn because most have moved and because all have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_come_back_on_other_addresses_find_each_other() {
    let mut cluster = Builder::new(3).prepare().await;
    cluster.launch_together();
    cluster.wait_whole(BOUND).await;
    let old = cluster.addresses();
    cluster.sessions()[0].put("kept", "yes").await.expect("put");
    for (why, moved, join) in [
        // These know the third where it is, and it only hears from them.
        ("two moved, and were told nothing new", vec![0, 1], false),
        ("all moved, and were told", vec![0, 1, 2], true),
    ] {
        cluster.kill9_all();
        for index in moved {
            cluster.nodes[index].kill9();
            cluster.nodes[index].move_away();
        }
        let join = if join { cluster.addresses() } else { old.clone() };
        for node in &mut cluster.nodes {
            node.kill9();
            node.launch(Start::Together(join.clone()));
        }
        for node in &mut cluster.nodes {
            node.bound(BOUND).await;
        }
        cluster.wait_whole(BOUND).await;
        for session in cluster.sessions() {
            let read = session.get("kept").await.expect("read");
            assert_eq!(read, Some(Bytes::from("yes")), "{why}");
        }
        let session = cluster.nodes[0].session();
        let mut now = cluster.addresses();
        now.sort();
        eventually(&format!("the table to follow ({why})"), BOUND, async || {
            let nodes = session.nodes().await.map_err(|status| status.to_string())?.nodes;
            let mut known: Vec<_> = nodes.into_iter().map(|node| node.client_address).collect();
            known.sort();
            if known == now { Ok(()) } else { Err(format!("{known:?} instead of {now:?}")) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disk_of_another_cluster_is_refused_with_both_ids() {
    let mut cluster = Builder::new(2).prepare().await;
    for node in &mut cluster.nodes {
        node.launch(Start::Init);
    }
    for node in &mut cluster.nodes {
        node.bound(BOUND).await;
    }
    let mut ids = Vec::new();
    for session in cluster.sessions() {
        let id = eventually("an id", BOUND, async || match session.status().await {
            Ok(status) if status.joined => Ok(status.cluster_id),
            other => Err(format!("{other:?}")),
        });
        ids.push(id.await);
    }
    // `--init` is refused where somebody answers, `--join` where that one is of another cluster.
    cluster.nodes[1].kill9();
    let other = cluster.nodes[0].client_address();
    cluster.nodes[1].launch(Start::Join(vec![other]));
    cluster.nodes[1].expect_exit();
    let ended = cluster.nodes[1].exited(BOUND).await;
    assert!(!ended.success(), "{ended}");
    let said = cluster.nodes[1].output();
    assert!(ids.iter().all(|id| said.contains(id)), "{ids:?}: {said}");
}

/// All three are of one cluster, which has no other node, and every region has its three voters.
async fn is_one_cluster(cluster: &mut Cluster, why: &str) {
    cluster.wait_whole(BOUND).await;
    let mut seen = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for session in cluster.sessions() {
        let status = session.status().await.expect("status");
        seen.insert(status.cluster_id);
        ids.insert(status.node_id);
    }
    assert_eq!(seen.len(), 1, "{why}: {seen:?}");
    assert_eq!(ids, BTreeSet::from([1, 2, 3]), "{why}: born, not added");
    let session = cluster.nodes[0].session();
    let nodes = session.nodes().await.expect("nodes").nodes;
    assert_eq!(nodes.len(), 3, "{why}: {nodes:?}");
    for info in session.regions().await.expect("regions") {
        let region = info.region.expect("a descriptor");
        let voters = region.peers.iter().filter(|peer| peer.role() == PeerRole::Voter);
        assert_eq!(voters.count(), 3, "{why}: {region:?}");
        assert_eq!(
            region.epoch.expect("an epoch").conf_ver,
            1,
            "{why}: nobody was added: {region:?}"
        );
    }
    cluster.wait_serving(BOUND).await;
    eventually("all peers to have the same state", BOUND, async || session.check_regions().await)
        .await;
    say(format!("{why}: one cluster"));
}
