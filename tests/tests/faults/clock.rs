//! A wall clock that jumps. Time to live is measured by replicated time, so an hour forward expires
//! nothing early, and an hour back keeps nothing for ever.
//!
//! Needs libfaketime; without it the test is skipped aloud, or fails under `CI=true`.

use std::{fs, path::PathBuf, time::Duration};

use flotilla_proto::v1;
use flotilla_tests::harness::{
    Builder, Cluster, Node, Session, elapse, eventually, http, say_aloud, strict,
};
use tokio::time::Instant;

const BOUND: Duration = Duration::from_secs(60);

/// Seconds.
const DAY: i64 = 86_400;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hour_of_clock_jump_expires_nothing_early_and_nothing_late() {
    let Some(library) = library() else {
        assert!(!strict(), "libfaketime is missing");
        say_aloud(
            "SKIPPED: hour_of_clock_jump_expires_nothing_early_and_nothing_late: no libfaketime",
        );
        return;
    };
    let mut cluster = Builder::new(3).prepare().await;
    let clocks: Vec<PathBuf> =
        (0..3).map(|number| cluster.scratch().join(format!("clock-{number}"))).collect();
    for (node, clock) in cluster.nodes.iter_mut().zip(&clocks) {
        fs::write(clock, "+0").expect("set a clock");
        node.env("LD_PRELOAD", &library);
        node.env("FAKETIME_TIMESTAMP_FILE", &clock.display().to_string());
        node.env("FAKETIME_NO_CACHE", "1");
        // Only the wall clock jumps; the monotonic one is the kernel's promise.
        node.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        node.env("DONT_FAKE_MONOTONIC", "1");
    }
    cluster.form().await;
    let sessions = cluster.sessions();
    for (jump, name) in [("+3600", "forward"), ("-3600", "back"), ("+0", "home")] {
        let leader = cluster.leader(b"clock").await;
        let through = &sessions[(leader + 1) % 3];
        let short = put(through, &format!("clock/{name}/short"), Duration::from_secs(8)).await;
        put(through, &format!("clock/{name}/long"), Duration::from_secs(3_000)).await;
        let before = second_of_day(&cluster.nodes[leader]).await;
        fs::write(&clocks[leader], jump).expect("set a clock");
        if name == "forward" {
            // Only forward: the HTTP library shows an old date until its own clock has passed it.
            let jumped = (second_of_day(&cluster.nodes[leader]).await - before).rem_euclid(DAY);
            assert!((3_600..3_660).contains(&jumped), "jumped by {jumped} s, so nothing is shown");
        }
        // Also under another leader, whose clock differs by an hour from the one before.
        elapse(Duration::from_millis(500)).await;
        cluster.nodes[leader].kill9();
        let short_key = format!("clock/{name}/short");
        eventually("a read after the jump", BOUND, async || through.get("clock/any").await).await;
        if short.elapsed() < Duration::from_secs(7) {
            let there = through.get(short_key.clone()).await.expect("get");
            assert!(
                there.is_some() || short.elapsed() > Duration::from_secs(8),
                "too early: {name}"
            );
        }
        cluster.nodes[leader].relaunch();
        // Late by at most the time without a leader.
        let gone = async || match through.get(short_key.clone()).await {
            Ok(None) => Ok(()),
            other => Err(format!("{other:?}")),
        };
        eventually("the short one to expire", Duration::from_secs(30), gone).await;
        assert!(short.elapsed() > Duration::from_millis(7_900), "{:?}", short.elapsed());
        let long = through.get(format!("clock/{name}/long")).await.expect("get");
        assert!(long.is_some(), "three thousand seconds have not passed: {name}");
        cluster.wait_whole(BOUND).await;
    }
}

/// A leader tells the time twice a second at most, and none of these leads for so long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn key_expires_in_time_though_its_leader_moves_all_the_time() {
    const TTL: Duration = Duration::from_secs(2);
    // Between two ticks, and what each change costs; on a machine that has other work.
    const LATE_MAX: Duration = Duration::from_secs(2);
    let cluster = Cluster::start(3).await;
    let sessions = cluster.sessions();
    let mut ids = Vec::new();
    for node in 0..3 {
        ids.push(cluster.node_id(node).await);
    }
    let begun = put(&sessions[0], "clock/moved", TTL).await;
    let mover = sessions[1].clone();
    let moving = async {
        let mut moved = 0;
        for to_node_id in ids.iter().cycle() {
            let message = v1::TransferLeaderRequest { region_id: 2, to_node_id: *to_node_id };
            let answer = mover.cluster.clone().transfer_leader(mover.request(message)).await;
            moved += usize::from(answer.is_ok());
            elapse(Duration::from_millis(200)).await;
            if sessions[2].get("clock/moved").await.is_ok_and(|value| value.is_none()) {
                break;
            }
        }
        moved
    };
    let moved = tokio::time::timeout(BOUND, moving).await.expect("it expires");
    let lived = begun.elapsed();
    assert!(moved >= 5, "the leader moved {moved} times, so nothing is shown");
    assert!(lived >= TTL && lived < TTL + LATE_MAX, "{lived:?}, moved {moved} times");
}

/// Stores a key that expires, and tells when it was asked for.
async fn put(session: &Session, key: &str, ttl: Duration) -> Instant {
    let begun = Instant::now();
    let message = v1::PutRequest {
        key: key.to_owned().into(),
        value: "x".into(),
        ttl_ms: u64::try_from(ttl.as_millis()).expect("short enough"),
        ..Default::default()
    };
    session.kv.clone().put(session.request(message)).await.expect("put");
    begun
}

/// What the node thinks the time is: HTTP answers carry the date.
async fn second_of_day(node: &Node) -> i64 {
    let answer = http(&node.http_address(), "GET", "/livez", &[], &[]).await.expect("livez");
    let date = &answer.headers["date"];
    let time = date.split(' ').nth(4).expect("day, date, month, year, time");
    let parts = time.split(':').map(|part| part.parse::<i64>().expect("a number"));
    parts.fold(0, |seconds, part| seconds * 60 + part)
}

fn library() -> Option<String> {
    let places = [
        "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
        "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
        "/usr/lib/faketime/libfaketimeMT.so.1",
    ];
    places.into_iter().find(|place| fs::exists(place).unwrap_or(false)).map(str::to_owned)
}
