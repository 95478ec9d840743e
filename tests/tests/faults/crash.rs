//! Processes that die at the worst moment, and logs that come back damaged: nothing that was
//! acknowledged may be missing, and damage is named, not skipped.

use std::time::Duration;

use flotilla_tests::{
    harness::{
        Builder, Cluster, copy_dir, cut_short, eventually, flip_bit, http, newest_wal, tear_tail,
    },
    workload::{Crew, Plain, assert_kept},
};

const BOUND: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_all_three_at_once_under_load_loses_nothing_acknowledged() {
    let mut cluster = Cluster::start(3).await;
    let sessions = cluster.sessions();
    let writers = Crew::writers(&sessions, 16, 300, "all");
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
    assert_kept(&*ledger, &sessions).await;
}

/// A cluster of one has nobody to ask what it has forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_a_single_node_under_load_loses_nothing_acknowledged() {
    let mut cluster = Cluster::start(1).await;
    let sessions = cluster.sessions();
    let writers = Crew::writers(&sessions, 8, 300, "single");
    for _ in 0..5 {
        writers.progress(150, BOUND).await;
        cluster.kill9_all();
        cluster.relaunch_all();
    }
    writers.progress(10, BOUND).await;
    let ledger = writers.stop().await;
    cluster.wait_whole(BOUND).await;
    assert_kept(&*ledger, [&sessions[0]]).await;
}

/// What a power cut leaves in the middle of a write was never acknowledged, so the node drops it
/// and goes on. In a cluster of one, so that nobody can make up for a mistake.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn torn_tail_of_the_log_is_dropped_and_nothing_else() {
    let mut cluster = Cluster::start(1).await;
    let sessions = cluster.sessions();
    let writers = Crew::writers(&sessions, 8, 300, "torn");
    for _ in 0..3 {
        writers.progress(150, BOUND).await;
        cluster.nodes[0].kill9();
        tear_tail(&newest_wal(&cluster.nodes[0].data_dir().join("log")));
        cluster.nodes[0].relaunch();
    }
    writers.progress(10, BOUND).await;
    let ledger = writers.stop().await;
    cluster.wait_whole(BOUND).await;
    assert_kept(&*ledger, [&sessions[0]]).await;
}

/// A disk that lost what it had confirmed. RocksDB opens such a log without a word; the node must
/// notice by itself, because it may have voted and acknowledged what it does not remember.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_cut_short_is_noticed_and_the_cluster_keeps_everything() {
    let mut cluster = quick_to_replace().await;
    let sessions = cluster.sessions();
    let writers = Crew::writers(&sessions, 8, 300, "cut");
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
            assert_kept(&*ledger, [session]).await;
        }
    }

    if !cluster.nodes[victim].is_running() {
        cluster.replace_disk(victim).await;
    }
    // The peers that cannot be trusted are replaced, and the node is whole again.
    cluster.wait_whole(Duration::from_secs(90)).await;
    assert_kept(&*ledger, [&sessions[victim]]).await;

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
    let writers = Crew::writers(&[sessions[leader].clone()], 4, 300, "rot");
    writers.progress(100, BOUND).await;
    cluster.nodes[other].kill9();
    // Acknowledged by these two alone.
    writers.progress(100, BOUND).await;
    let ledger = writers.stop().await;
    cluster.nodes[follower].kill9();
    flip_bit(&newest_wal(&cluster.nodes[follower].data_dir().join("data")), 1, 500);
    // Where the log no longer has what the state lost, or the snapshot that the state began with.
    cluster.allow("is quarantined");
    cluster.allow("the state of a region is lost");
    cluster.nodes[follower].relaunch();
    eventually("the follower to speak", BOUND, async || sessions[follower].status().await).await;
    // The leader has reached it, or cannot.
    let leader_session = sessions[leader].clone().patient(Duration::from_secs(3));
    let _ = leader_session.put("rot-after", "x").await;
    let said = cluster.nodes[follower].output();
    assert!(!said.contains("creating a peer"), "a voter was taken for a new one:\n{said}");

    // Whoever does not remember may not answer; an answer is what was acknowledged.
    cluster.nodes[leader].kill9();
    cluster.nodes[other].relaunch();
    cluster.nodes[other].bound(BOUND).await;
    for session in [&sessions[other], &sessions[follower]] {
        let store = Plain::from(&session.clone().patient(Duration::from_secs(2)));
        for _ in 0..3 {
            let _ = ledger.check_now(&store).await;
        }
    }

    cluster.nodes[leader].relaunch();
    cluster.wait_whole(Duration::from_secs(90)).await;
    assert_kept(&*ledger, &sessions).await;
}

/// The first record of the data, and with it all that was applied. The node still knows whose it is, and whom to tell
/// what it has lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_whose_data_fell_back_to_its_beginning_finds_its_cluster() {
    let mut cluster = quick_to_replace().await;
    cluster.allow("is quarantined");
    cluster.allow("the state of a region is lost");
    let sessions = cluster.sessions();
    sessions[0].put("kept", "yes").await.expect("a write");
    // Not told of the others on its command line.
    cluster.nodes[0].kill9();
    let wal = newest_wal(&cluster.nodes[0].data_dir().join("data"));
    flip_bit(&wal, 20, wal.metadata().expect("a file").len() as usize);
    cluster.nodes[0].relaunch();
    cluster.nodes[0].bound(BOUND).await;
    let said = cluster.nodes[0].output();
    assert!(said.contains("is quarantined"), "nothing was lost:\n{said}");
    cluster.wait_whole(BOUND).await;
    let read = sessions[0].get("kept").await.expect("a read");
    assert_eq!(read.as_deref(), Some(&b"yes"[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flipped_bit_in_the_log_is_refused_with_words_and_the_node_rejoins_empty() {
    let mut cluster = quick_to_replace().await;
    let sessions = cluster.sessions();
    let writers = Crew::writers(&sessions, 8, 300, "flip");
    writers.progress(500, BOUND).await;
    let victim = cluster.leader(b"flip").await;
    let old_id = cluster.node_id(victim).await;
    cluster.nodes[victim].kill9();
    flip_bit(&newest_wal(&cluster.nodes[victim].data_dir().join("log")), 1, 2);
    cluster.nodes[victim].relaunch();
    cluster.nodes[victim].expect_exit();
    let ended = cluster.nodes[victim].exited(BOUND).await;
    assert_eq!(ended.code(), Some(74), "a damaged disk: {ended}");
    let said = cluster.nodes[victim].output();
    let last = said.lines().rfind(|line| line.contains("node failed")).unwrap_or_default();
    for words in ["corrupt data", ".log", "replace the disk"] {
        assert!(last.contains(words), "the reason, the file and what to do:\n{said}");
    }

    writers.progress(50, BOUND).await;
    cluster.replace_disk(victim).await;
    let new_id = cluster.node_id(victim).await;
    assert_ne!(old_id, new_id, "an empty disk is somebody new");
    cluster.wait_whole(BOUND).await;
    writers.progress(50, BOUND).await;
    let ledger = writers.stop().await;
    assert_kept(&*ledger, &sessions).await;
}

/// A volume that was set back to what it held before, log and sentinel alike: nothing on it is damaged.
/// Nobody writes any more, so that it is noticed by the leader's heartbeats alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disk_that_was_set_back_is_noticed_and_its_peers_are_replaced() {
    let mut cluster = quick_to_replace().await;
    for words in ["lost what it had acknowledged", "does not take part any more", "quarantine"] {
        cluster.allow(words);
    }
    let sessions = cluster.sessions();
    let victim = (cluster.leader(b"back").await + 1) % 3;
    let writers = Crew::writers(&sessions, 4, 300, "back");
    writers.progress(100, BOUND).await;
    cluster.nodes[victim].kill9();
    let before = cluster.scratch().join("before");
    copy_dir(cluster.nodes[victim].data_dir(), &before);
    cluster.nodes[victim].relaunch();
    cluster.wait_whole(BOUND).await;
    writers.progress(200, BOUND).await;
    let ledger = writers.stop().await;
    // Leaders may have been balanced meanwhile.
    let mut leader = cluster.leader(b"back").await;
    while leader == victim {
        let to_node_id = cluster.node_id((victim + 1) % 3).await;
        let hand_over = flotilla_proto::v1::TransferLeaderRequest { region_id: 2, to_node_id };
        let hand_over = sessions[victim].request(hand_over);
        sessions[victim].cluster.clone().transfer_leader(hand_over).await.expect("handed over");
        leader = cluster.leader(b"back").await;
    }
    eventually("the follower to have acknowledged all", BOUND, async || {
        let last = async |index: usize| {
            let status = sessions[index].status().await.map_err(|error| error.to_string())?;
            let peers = status.peers.into_iter();
            let has = |region: &flotilla_proto::v1::PeerStatus| {
                region.region.as_ref().is_some_and(|region| region.region_id == 2)
            };
            Ok::<_, String>(peers.filter(has).map(|peer| peer.last_index).max())
        };
        let (ahead, own) = (last(leader).await?, last(victim).await?);
        if own == ahead { Ok(()) } else { Err(format!("{own:?} of {ahead:?}")) }
    })
    .await;

    cluster.nodes[victim].kill9();
    cluster.nodes[victim].wipe();
    copy_dir(&before, cluster.nodes[victim].data_dir());
    cluster.nodes[victim].relaunch();
    eventually("the node to say that its disk was set back", BOUND, async || {
        let said = cluster.nodes[victim].output();
        if said.contains("was set back") { Ok(()) } else { Err("not a word") }
    })
    .await;
    let mut counted = false;
    for index in 0..3 {
        let address = cluster.nodes[index].http_address();
        let reply = http(&address, "GET", "/metrics", &[], b"").await.expect("an answer");
        counted |= String::from_utf8_lossy(&reply.body).lines().any(|line| {
            line.strip_prefix("flotilla_region_followers_reverted_total ")
                .is_some_and(|count| count.trim() != "0")
        });
    }
    assert!(counted, "the leader counts it");
    cluster.wait_whole(Duration::from_secs(90)).await;
    assert_kept(&*ledger, &sessions).await;
}

/// What was applied can no longer be read, and so nothing more can be applied to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn region_that_cannot_go_on_is_served_by_others_or_its_node_ends_with_words() {
    let mut cluster = quick_to_replace().await;
    for words in ["does not take part any more", "RaftCore", "state machine", "quarantine"] {
        cluster.allow(words);
    }
    let sessions = cluster.sessions();
    for number in 0..200 {
        let put = sessions[0].put(format!("rot/{number:03}"), vec![b'x'; 500]).await;
        put.expect("a write");
    }
    let victim = (cluster.leader(b"rot").await + 1) % 3;
    // A start puts what the log of `data` holds into files.
    cluster.nodes[victim].terminate(BOUND).await;
    cluster.nodes[victim].relaunch();
    cluster.wait_whole(BOUND).await;
    cluster.nodes[victim].kill9();
    let files = std::fs::read_dir(cluster.nodes[victim].data_dir().join("data"));
    let files = files.expect("the data").map(|entry| entry.expect("a file").path());
    let tables = files.filter(|path| path.extension().is_some_and(|extension| extension == "sst"));
    let size = |path: &std::path::PathBuf| path.metadata().map(|of| of.len()).unwrap_or(0);
    let largest = tables.max_by_key(size).expect("a table");
    // Its blocks of rows come first.
    for sixteenth in 0..8 {
        flip_bit(&largest, sixteenth * 2 + 1, 32);
    }
    cluster.nodes[victim].relaunch();
    // A compaction may meet the damage first, and then all of the data is no longer writable.
    cluster.nodes[victim].expect_exit();
    let session = cluster.nodes[victim].session().patient(Duration::from_secs(2));
    // The whole of it on the last line: the file, that it is the disk, and what to do.
    let has_words = |said: &str| {
        let last = said.lines().rfind(|line| line.contains("node failed: write"));
        last.is_some_and(|line| line.contains(".sst") && line.contains("replace the disk"))
    };
    let is_right = async |cluster: &mut Cluster| {
        let put = session.put("rot/after", "yes").await;
        match put {
            Ok(_) => Ok(()),
            Err(status) if cluster.nodes[victim].is_running() => Err(status.to_string()),
            Err(_) if has_words(&cluster.nodes[victim].output()) => Ok(()),
            Err(_) => Err("it ended without words".to_owned()),
        }
    };
    let served = "the node to serve its clients, or to end with words";
    eventually(served, BOUND, async || is_right(&mut cluster).await).await;

    // Each of them reads what it removes, on every replica.
    for number in 0..200 {
        sessions[(victim + 1) % 3].delete(format!("rot/{number:03}")).await.expect("a write");
    }
    eventually("the node to say what happened", BOUND, async || {
        let said = cluster.nodes[victim].output();
        let named = said.contains("does not take part any more") || has_words(&said);
        if named { Ok(()) } else { Err("not a word") }
    })
    .await;
    // What comes to it goes to who leads, unless the install of the next peer has met the damage.
    eventually(served, BOUND, async || is_right(&mut cluster).await).await;
}

/// Three nodes; one that is silent for two seconds may be replaced.
async fn quick_to_replace() -> Cluster {
    Builder::new(3).set("placement.node_disconnected_after", "2s").start().await
}
