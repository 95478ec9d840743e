//! Nodes that are too far behind for the log get the state itself, and survive the death of either
//! side in the middle of it.
//!
//! `SNAPSHOT_MIB` sets how much data there is.

use std::{fs, sync::Arc, time::Duration};

use bytes::Bytes;
use flotilla_tests::{
    harness::{Builder, Cluster, Node, Session, env_number, eventually, http, say},
    workload::{Crew, Plain, UniqueWrites, assert_kept},
};

const BOUND: Duration = Duration::from_secs(120);

/// What sender and receiver may use.
const MEMORY_BYTES_MAX: u64 = 400 << 20;

const VALUE_BYTES: usize = 64 << 10;

fn builder(nodes: usize) -> Builder {
    Builder::new(nodes)
        .set("log.compact_entries", "200")
        .set("log.compact_bytes", "4MiB")
        .set("log.keep_entries", "50")
        .set("log.tail_cache_bytes", "1MiB")
        .set("log.catch_up_bytes", "0")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_node_gets_everything_by_snapshot_though_both_sides_die_meanwhile() {
    let mebibytes = env_number("SNAPSHOT_MIB", 64) as usize;
    // A transfer of some ten seconds, whatever the size: long enough to be killed in its middle.
    let rate = format!("{}MiB", (mebibytes / 8).max(1));
    let mut cluster = builder(2).set("snapshot.bytes_per_second_max", &rate).start().await;
    let sessions = cluster.sessions();
    let ledger = load(&sessions, mebibytes).await;
    let gone = delete_some(&sessions[0]).await;
    purged(&sessions[0]).await;

    let receiver = cluster.join_node();
    cluster.nodes[receiver].bound(BOUND).await;
    receiving(&cluster, receiver).await;
    cluster.nodes[receiver].kill9();
    cluster.nodes[receiver].relaunch();
    cluster.nodes[receiver].bound(BOUND).await;
    receiving(&cluster, receiver).await;
    let sender = cluster.leader(b"snapshot").await;
    cluster.nodes[sender].kill9();
    cluster.nodes[sender].relaunch();

    cluster.wait_whole(BOUND).await;
    whole_copy(&cluster, receiver, &ledger, &gone).await;
    for node in &cluster.nodes {
        let peak = node.memory_peak_bytes();
        say(format!("{}: at most {} MiB of memory", node.name(), peak >> 20));
        assert!(peak < MEMORY_BYTES_MAX, "{} used {peak} bytes", node.name());
    }
}

/// The node that comes back has the deleted keys on its disk, and the log that deleted them is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_keys_stay_deleted_on_a_node_that_missed_the_deletion() {
    let mut cluster = builder(3).start().await;
    let sessions = cluster.sessions();
    let mut keys = Vec::new();
    for number in 0..100 {
        let key = Bytes::from(format!("snapshot/deleted/{number}"));
        sessions[0].put(key.clone(), "will go").await.expect("put");
        keys.push(key);
    }
    let last = keys.last().expect("a hundred keys").clone();
    eventually("the third node to have the keys", BOUND, async || {
        match sessions[2].get_stale(last.clone()).await {
            Ok(Some(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let behind = applied(&sessions[2]).await.expect("status");
    cluster.nodes[2].kill9();

    let writer = &sessions[0];
    for key in &keys {
        eventually("a delete", BOUND, async || writer.delete(key.clone()).await).await;
    }
    let ledger = load(&sessions[..2], 16).await;
    eventually("the log to be purged past the node that is away", BOUND, async || {
        let purged = most_purged(writer).await?;
        if purged > behind { Ok(()) } else { Err(format!("purged {purged}, away at {behind}")) }
    })
    .await;

    cluster.nodes[2].relaunch();
    cluster.wait_whole(BOUND).await;
    whole_copy(&cluster, 2, &ledger, &keys).await;
}

/// While the snapshot is on its way, many times more is written than compaction leaves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_that_joins_under_load_goes_on_by_the_log_after_one_snapshot() {
    let mut cluster = builder(2)
        .set("log.catch_up_bytes", "256MiB")
        .set("snapshot.bytes_per_second_max", "4MiB")
        .start()
        .await;
    let sessions = cluster.sessions();
    let ledger = load(&sessions, 16).await;
    purged(&sessions[0]).await;

    let writers = Crew::writers(&sessions, 8, 100, "snapshot/meanwhile");
    let before = applied(&sessions[0]).await.expect("status");
    let joined = cluster.join_node();
    cluster.wait_whole(BOUND).await;
    let meanwhile = applied(&sessions[0]).await.expect("status") - before;
    assert!(meanwhile > 1_000, "only {meanwhile} entries meanwhile");
    let later = writers.stop().await;

    let received = snapshots_received(&cluster.nodes[joined]).await;
    say(format!("{meanwhile} entries while the node joined, {received} snapshots"));
    // Each of the two regions has one; a purge that was under way at the start may cost another.
    assert!((2..=3).contains(&received), "{received} snapshots");
    let session = cluster.nodes[joined].session();
    assert_kept(&*ledger, [&session]).await;
    assert_kept(&*later, [&session]).await;
    eventually("what was kept to be purged", BOUND, async || {
        let status = sessions[0].status().await.map_err(|status| status.to_string())?;
        let peers = status.peers.iter().filter(|peer| is_users(peer));
        let kept = peers.map(|peer| peer.applied_index - peer.purged_index).max().unwrap_or(0);
        // Until the next compaction is due.
        if kept <= 300 { Ok(()) } else { Err(format!("{kept} entries are kept")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_that_restarts_under_load_needs_no_snapshot() {
    let mut cluster = builder(3).set("log.catch_up_bytes", "256MiB").start().await;
    let sessions = cluster.sessions();
    let away = (cluster.leader(b"snapshot").await + 1) % 3;
    let others: Vec<Session> = sessions
        .iter()
        .enumerate()
        .filter(|(index, _)| *index != away)
        .map(|(_, s)| s.clone())
        .collect();
    let writers = Crew::writers(&others, 8, 100, "snapshot/restart");
    writers.progress(500, BOUND).await;
    cluster.nodes[away].kill9();
    writers.progress(3_000, BOUND).await;
    cluster.nodes[away].relaunch();
    cluster.wait_whole(BOUND).await;
    let ledger = writers.stop().await;
    assert_eq!(snapshots_received(&cluster.nodes[away]).await, 0);
    let session = cluster.nodes[away].session();
    session.get("snapshot/restart").await.expect("a read, before which it has applied all");
    ledger.check_now(&Plain::from(&session).stale()).await.expect("stale reads");
}

/// Snapshots that a node has installed since it was started, as its metrics tell.
async fn snapshots_received(node: &Node) -> u64 {
    let reply = http(&node.http_address(), "GET", "/metrics", &[], &[]).await.expect("metrics");
    let text = String::from_utf8(reply.body).expect("text");
    let series = r#"flotilla_raft_snapshots_total{direction="receive",result="done"} "#;
    let line = text.lines().find_map(|line| line.strip_prefix(series));
    line.expect("the series").parse().expect("a number")
}

/// Writes about `mebibytes` of data and answers what was acknowledged.
async fn load(sessions: &[Session], mebibytes: usize) -> Arc<UniqueWrites> {
    let writers = Crew::writers(sessions, 8, VALUE_BYTES, "snapshot/load");
    writers.progress((mebibytes << 20) / VALUE_BYTES, Duration::from_secs(300)).await;
    writers.stop().await
}

/// Writes some keys and removes them again.
async fn delete_some(session: &Session) -> Vec<Bytes> {
    let keys: Vec<Bytes> =
        (0..300).map(|number| Bytes::from(format!("snapshot/gone/{number}"))).collect();
    for key in &keys {
        session.put(key.clone(), "for a moment").await.expect("put");
    }
    for key in &keys {
        assert!(session.delete(key.clone()).await.expect("delete"), "it was there");
    }
    keys
}

/// Waits until the log has lost its beginning, so that only a snapshot can help a new node.
async fn purged(session: &Session) {
    eventually("the log to be purged", BOUND, async || {
        let purged = most_purged(session).await?;
        if purged > 1 { Ok(()) } else { Err(format!("purged up to {purged}")) }
    })
    .await;
}

/// The peers of the user's region on one node: how far their log is purged.
async fn most_purged(session: &Session) -> Result<u64, String> {
    let status = session.status().await.map_err(|status| status.to_string())?;
    let peers = status.peers.iter().filter(|peer| is_users(peer));
    peers.map(|peer| peer.purged_index).max().ok_or_else(|| "no peer".to_owned())
}

async fn applied(session: &Session) -> Result<u64, String> {
    let status = session.status().await.map_err(|status| status.to_string())?;
    let peers = status.peers.iter().filter(|peer| is_users(peer));
    peers.map(|peer| peer.applied_index).max().ok_or_else(|| "no peer".to_owned())
}

fn is_users(peer: &flotilla_proto::v1::PeerStatus) -> bool {
    peer.region.as_ref().is_some_and(|region| region.region_id != 1)
}

/// Waits until a snapshot is on its way: something lies in `snapshots/`.
async fn receiving(cluster: &Cluster, receiver: usize) {
    let directory = cluster.nodes[receiver].data_dir().join("snapshots");
    eventually("a snapshot to be under way", BOUND, async || {
        let bytes = size_of(&directory);
        if bytes > 1 << 20 { Ok(()) } else { Err(format!("{bytes} bytes so far")) }
    })
    .await;
}

fn size_of(directory: &std::path::Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    entries
        .filter_map(Result::ok)
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size_of(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

/// What the node itself holds, without asking others, is complete and has nothing too much.
async fn whole_copy(cluster: &Cluster, index: usize, ledger: &UniqueWrites, gone: &[Bytes]) {
    let session = cluster.nodes[index].session();
    // One linearizable read, so that the node has applied everything that was acknowledged.
    let first = gone[0].clone();
    eventually("the node to catch up", BOUND, async || session.get(first.clone()).await).await;
    for key in gone {
        let there = session.get_stale(key.clone()).await.expect("stale read");
        assert_eq!(there, None, "{key:?} was deleted");
    }
    ledger.check_now(&Plain::from(&session).stale()).await.expect("stale reads");
    eventually("all peers to have the same state", BOUND, async || session.check_regions().await)
        .await;
    assert_kept(ledger, [&session]).await;
}
