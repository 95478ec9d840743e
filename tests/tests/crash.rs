//! Processes that die at the worst moment, and logs that come back damaged: nothing that was
//! acknowledged may be missing, and damage is named, not skipped.

use std::time::Duration;

use flotilla_tests::{
    harness::{Builder, Cluster, cut_short, eventually, flip_bit, newest_wal, tear_tail},
    workload::Writers,
};

const BOUND: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_all_three_at_once_under_load_loses_nothing_acknowledged() {
    let mut cluster = Cluster::start(3).await;
    let sessions = cluster.sessions();
    let writers = Writers::start(&sessions, 16, 300, "all");
    for _ in 0..3 {
        writers.progress(200, BOUND).await;
        cluster.kill9_all();
        cluster.relaunch_all();
    }
    writers.progress(100, BOUND).await;
    cluster.kill9_all();
    let ledger = writers.stop().await;
    cluster.relaunch_all();
    cluster.wait_whole(BOUND).await;
    for session in &sessions {
        ledger.verify(session).await;
    }
}

/// A cluster of one has nobody to ask what it has forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_a_single_node_under_load_loses_nothing_acknowledged() {
    let mut cluster = Cluster::start(1).await;
    let sessions = cluster.sessions();
    let writers = Writers::start(&sessions, 8, 300, "single");
    for _ in 0..5 {
        writers.progress(150, BOUND).await;
        cluster.kill9_all();
        cluster.relaunch_all();
    }
    writers.progress(10, BOUND).await;
    let ledger = writers.stop().await;
    cluster.wait_whole(BOUND).await;
    ledger.verify(&sessions[0]).await;
}

/// What a power cut leaves in the middle of a write was never acknowledged, so the node drops it
/// and goes on. In a cluster of one, so that nobody can make up for a mistake.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn torn_tail_of_the_log_is_dropped_and_nothing_else() {
    let mut cluster = Cluster::start(1).await;
    let sessions = cluster.sessions();
    let writers = Writers::start(&sessions, 8, 300, "torn");
    for _ in 0..3 {
        writers.progress(150, BOUND).await;
        cluster.nodes[0].kill9();
        tear_tail(&newest_wal(&cluster.nodes[0].data_dir().join("log")));
        cluster.nodes[0].relaunch();
    }
    writers.progress(10, BOUND).await;
    let ledger = writers.stop().await;
    cluster.wait_whole(BOUND).await;
    ledger.verify(&sessions[0]).await;
}

/// A disk that lost what it had confirmed. RocksDB opens such a log without a word; the node must
/// notice by itself, because it may have voted and acknowledged what it does not remember.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_cut_short_is_noticed_and_the_cluster_keeps_everything() {
    let mut cluster = quick_to_replace().await;
    let sessions = cluster.sessions();
    let writers = Writers::start(&sessions, 8, 300, "cut");
    writers.progress(800, BOUND).await;
    let victim = cluster.leader(b"cut").await;
    cluster.nodes[victim].kill9();
    let wal = newest_wal(&cluster.nodes[victim].data_dir().join("log"));
    assert!(cut_short(&wal, 1, 2) > 10_000, "the cut takes something away");
    cluster.nodes[victim].relaunch();
    cluster.nodes[victim].expect_exit();

    // It either refuses to start or runs with its peers in quarantine, and says which.
    eventually("the node to notice what it lost", BOUND, async || {
        let ended = !cluster.nodes[victim].is_running();
        let output = cluster.nodes[victim].output().to_lowercase();
        if ended || output.contains("quarantin") { Ok(()) } else { Err("not a word") }
    })
    .await;
    let said = cluster.nodes[victim].output().to_lowercase();
    assert!(said.contains("quarantin") || said.contains("log"), "ended without words:\n{said}");

    writers.progress(100, BOUND).await;
    let ledger = writers.stop().await;
    for (index, session) in sessions.iter().enumerate() {
        if index != victim {
            ledger.verify(session).await;
        }
    }

    if !cluster.nodes[victim].is_running() {
        replace_disk(&mut cluster, victim).await;
    }
    // The peers that cannot be trusted are replaced, and the node is whole again.
    cluster.wait_whole(Duration::from_secs(90)).await;
    ledger.verify(&sessions[victim]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flipped_bit_in_the_log_is_refused_with_words_and_the_node_rejoins_empty() {
    let mut cluster = quick_to_replace().await;
    let sessions = cluster.sessions();
    let writers = Writers::start(&sessions, 8, 300, "flip");
    writers.progress(500, BOUND).await;
    let victim = cluster.leader(b"flip").await;
    let old_id = cluster.node_id(victim).await;
    cluster.nodes[victim].kill9();
    flip_bit(&newest_wal(&cluster.nodes[victim].data_dir().join("log")), 1, 2);
    cluster.nodes[victim].relaunch();
    cluster.nodes[victim].expect_exit();
    let ended = cluster.nodes[victim].exited(BOUND).await;
    assert!(!ended.success(), "a damaged log is not a success");
    let said = cluster.nodes[victim].output().to_lowercase();
    assert!(said.contains("corrupt"), "the reason is named:\n{said}");

    writers.progress(50, BOUND).await;
    replace_disk(&mut cluster, victim).await;
    let new_id = cluster.node_id(victim).await;
    assert_ne!(old_id, new_id, "an empty disk is somebody new");
    cluster.wait_whole(BOUND).await;
    writers.progress(50, BOUND).await;
    let ledger = writers.stop().await;
    for session in &sessions {
        ledger.verify(session).await;
    }
}

/// Three nodes; one that is silent for two seconds may be replaced.
async fn quick_to_replace() -> Cluster {
    Builder::new(3).set("placement.node_disconnected_after", "2s").start().await
}

/// What an operator does about a broken disk: puts an empty one in, and removes the old node, which
/// makes its address free for a new one.
async fn replace_disk(cluster: &mut Cluster, victim: usize) {
    let address = cluster.nodes[victim].client_address();
    let mut helpers = cluster.sessions();
    helpers.remove(victim);
    let helper = helpers.remove(0);
    let nodes = eventually("the node table", BOUND, async || helper.nodes().await).await.nodes;
    let old = nodes.iter().find(|node| node.client_address == address).expect("it was a member");
    let old_id = old.node_id;

    cluster.nodes[victim].kill9();
    cluster.nodes[victim].wipe();
    let join = cluster.addresses().into_iter().filter(|other| *other != address).collect();
    cluster.nodes[victim].launch(flotilla_tests::harness::Start::Join(join));
    eventually("the old identity to be removed", BOUND, async || {
        let message = flotilla_proto::v1::RemoveNodeRequest {
            node_id: old_id,
            force: true,
            expected_version: None,
        };
        let answer = helper.cluster.clone().remove_node(helper.request(message)).await;
        let answer = answer.map_err(|status| status.to_string())?.into_inner();
        let removed = answer.state == i32::from(flotilla_proto::v1::NodeState::Removed);
        if removed { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
    cluster.node_id(victim).await;
}
