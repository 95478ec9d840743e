//! Who a node is, is on its disk: a copy of the disk is noticed, an empty disk is somebody new.

use std::time::Duration;

use flotilla_proto::v1::{self, Liveness, NodeState};
use flotilla_tests::{
    harness::{Builder, Cluster, Start, copy_dir, eventually},
    workload::{Crew, assert_kept},
};

const BOUND: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copied_disk_is_noticed_and_refused() {
    let mut cluster = Cluster::start(3).await;
    let sessions = cluster.sessions();
    let writers = Crew::writers(&sessions[..2], 4, 100, "copied");
    writers.progress(50, BOUND).await;
    let ended = cluster.nodes[2].terminate(BOUND).await;
    assert!(ended.success(), "{ended}");
    let copy = cluster.prepare_node();
    copy_dir(cluster.nodes[2].data_dir(), cluster.nodes[copy].data_dir());
    for index in [2, copy] {
        cluster.nodes[index].relaunch();
        cluster.nodes[index].expect_exit();
    }

    // One of the two may go on; both may not.
    let twins = [2, copy];
    eventually("one of two equal disks to be refused", BOUND, async || {
        let mut refused = Vec::new();
        for index in twins {
            if !cluster.nodes[index].is_running() {
                refused.push(index);
                continue;
            }
            match cluster.nodes[index].session().status().await {
                Ok(status) if status.ready => {}
                Ok(_) => refused.push(index),
                Err(_) => return Err("not up yet".to_owned()),
            }
        }
        let words = ["duplicate", "same node id", "identity", "another process", "copied"];
        let named = refused.iter().any(|index| {
            let said = cluster.nodes[*index].output().to_lowercase();
            words.iter().any(|word| said.contains(word))
        });
        if named { Ok(()) } else { Err(format!("not serving: {refused:?}, without the words")) }
    })
    .await;

    // The cluster did not care.
    writers.progress(100, BOUND).await;
    let ledger = writers.stop().await;
    assert_kept(&*ledger, &sessions[..2]).await;
    // And it heals when the copy is gone. What the copy acknowledged, if it was the one that went on, the
    // disk that is left has never had: its peers say so, and are replaced.
    cluster.allow("the disk was set back");
    cluster.allow("its disk was set back");
    for index in twins {
        cluster.nodes[index].kill9();
    }
    cluster.nodes[copy].wipe();
    cluster.nodes[2].relaunch();
    cluster.nodes.pop();
    cluster.wait_whole(BOUND).await;
    assert_kept(&*ledger, [&sessions[2]]).await;
}

/// The others see that the connections of the process before are closed, and that this one was
/// started later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarted_node_is_let_in_at_once() {
    let mut cluster = Cluster::start(3).await;
    for index in 0..3 {
        for orderly in [true, false] {
            if orderly {
                let ended = cluster.nodes[index].terminate(BOUND).await;
                assert!(ended.success(), "{ended}");
            } else {
                cluster.nodes[index].kill9();
            }
            cluster.nodes[index].relaunch();
            cluster.nodes[index].bound(BOUND).await;
            cluster.wait_whole(BOUND).await;
            let said = cluster.nodes[index].output();
            for word in ["another process", "the process before it"] {
                assert!(!said.contains(word), "node {index}, orderly {orderly}: {said}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wiped_disk_comes_back_as_somebody_new() {
    let mut cluster = Builder::new(3).set("placement.node_disconnected_after", "2s").start().await;
    let sessions = cluster.sessions();
    let writers = Crew::writers(&sessions[..2], 4, 100, "wiped");
    writers.progress(100, BOUND).await;
    let old_id = cluster.node_id(2).await;
    let old_peers = peers_of(&cluster, old_id).await;
    assert!(!old_peers.is_empty());

    cluster.nodes[2].kill9();
    cluster.nodes[2].wipe();
    let join = vec![cluster.nodes[0].client_address(), cluster.nodes[1].client_address()];
    cluster.nodes[2].launch(Start::Join(join));
    // The old one is known as gone, its peers cannot vote: nothing answers for them.
    let first = &sessions[0];
    eventually("the old identity to be seen as away", BOUND, async || {
        let nodes = first.nodes().await.map_err(|status| status.to_string())?.nodes;
        let old = nodes.iter().find(|node| node.node_id == old_id).ok_or("not on the list")?;
        let away = old.liveness != i32::from(Liveness::Alive);
        if away { Ok(()) } else { Err(format!("{old:?}")) }
    })
    .await;
    eventually("the old identity to be removed", BOUND, async || {
        let message =
            v1::RemoveNodeRequest { node_id: old_id, force: true, expected_version: None };
        let answer = first.cluster.clone().remove_node(first.request(message)).await;
        let answer = answer.map_err(|status| status.to_string())?.into_inner();
        let gone = answer.state == i32::from(NodeState::Removed);
        if gone { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
    let new_id = cluster.node_id(2).await;
    assert_ne!(new_id, old_id, "an id is on the disk, and the disk was empty");
    cluster.wait_whole(BOUND).await;
    let new_peers = peers_of(&cluster, new_id).await;
    assert!(new_peers.iter().all(|peer| !old_peers.contains(peer)), "peer ids are never reused");
    assert!(peers_of(&cluster, old_id).await.is_empty());

    writers.progress(50, BOUND).await;
    let ledger = writers.stop().await;
    assert_kept(&*ledger, &sessions).await;
}

async fn peers_of(cluster: &Cluster, node_id: u64) -> Vec<u64> {
    let regions = cluster.nodes[0].session().regions().await.expect("regions");
    let peers = regions.into_iter().filter_map(|info| info.region).flat_map(|region| region.peers);
    peers.filter(|peer| peer.node_id == node_id).map(|peer| peer.peer_id).collect()
}
