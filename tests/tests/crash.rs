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
        cluster.replace_disk(victim).await;
    }
    // The peers that cannot be trusted are replaced, and the node is whole again.
    cluster.wait_whole(Duration::from_secs(90)).await;
    ledger.verify(&sessions[victim]).await;

    // One loss is told once: what has begun since is trusted at the next start.
    if cluster.nodes[victim].is_running() {
        cluster.nodes[victim].kill9();
        cluster.nodes[victim].relaunch();
        cluster.wait_whole(BOUND).await;
        let said = cluster.nodes[victim].output();
        assert!(!said.contains("is quarantined"), "the loss is told again:\n{said}");
    }
}

/// Damage to its write-ahead log makes `data` fall back to an earlier moment without a word, and with it
/// once went which peers the node holds: a voter that came back as a new one elected a leader that lacked
/// what the voter itself had acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flipped_bit_in_the_data_of_a_voter_forgets_no_promise() {
    let mut cluster = quick_to_replace().await;
    let sessions = cluster.sessions();
    let leader = cluster.leader(b"rot").await;
    let (other, follower) = ((leader + 1) % 3, (leader + 2) % 3);
    let writers = Writers::start(&[sessions[leader].clone()], 4, 300, "rot");
    writers.progress(100, BOUND).await;
    cluster.nodes[other].kill9();
    // Acknowledged by these two alone.
    writers.progress(100, BOUND).await;
    let ledger = writers.stop().await;
    cluster.nodes[follower].kill9();
    flip_bit(&newest_wal(&cluster.nodes[follower].data_dir().join("data")), 1, 500);
    // Where the log no longer has what the state lost.
    cluster.allow("is quarantined");
    cluster.nodes[follower].relaunch();
    eventually("the follower to speak", BOUND, async || sessions[follower].status().await).await;
    // The leader has reached it, or cannot.
    let leader_session = sessions[leader].clone().patient(Duration::from_secs(3));
    let _ = leader_session.put("rot-after", "x").await;
    let said = cluster.nodes[follower].output();
    assert!(!said.contains("creating a peer"), "a voter was taken for a new one:\n{said}");

    // Whoever does not remember may not answer.
    cluster.nodes[leader].kill9();
    cluster.nodes[other].relaunch();
    cluster.nodes[other].bound(BOUND).await;
    for session in [&sessions[other], &sessions[follower]] {
        ledger.verify_refused(&session.clone().patient(Duration::from_secs(2))).await;
    }

    cluster.nodes[leader].relaunch();
    cluster.wait_whole(Duration::from_secs(90)).await;
    for session in &sessions {
        ledger.verify(session).await;
    }
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
    cluster.replace_disk(victim).await;
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
