//! A crash at each line where order matters for what is on the disk. The program with failpoints
//! stands still there, and is killed.
//!
//! Built with `cargo build --release -p flotilla-server --features failpoints --bin
//! flotilla-server-faults`; without it the tests are skipped aloud, or fail under `CI=true`.

use std::time::Duration;

use flotilla_tests::{
    harness::{Builder, Node, Start, elapse, eventually, say, within},
    workload::{Crew, Plain, UniqueWrites, Workload as _, assert_kept},
};

const BOUND: Duration = Duration::from_secs(60);

/// In a cluster of one, where nobody else can make up for what is missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crash_at_any_line_of_a_write_loses_nothing_acknowledged() {
    let Some(builder) = Builder::with_failpoints(1) else { return };
    let mut cluster =
        builder.set("log.compact_entries", "100").set("log.keep_entries", "10").start().await;
    let sessions = cluster.sessions();
    for (point, passes) in [
        ("log-before-write", 40),
        ("log-after-write", 40),
        ("apply-before-write", 25),
        ("apply-after-write", 25),
        ("propose-before-raft", 30),
        ("log-before-purge", 1),
    ] {
        cluster.nodes[0].terminate(BOUND).await;
        cluster.nodes[0].stand_still_at(point, passes);
        cluster.nodes[0].relaunch();
        let writers = Crew::writers(&sessions, 4, 200, &format!("line/{point}"));
        is_reached(&cluster.nodes[0], point).await;
        stands_still(&writers, point).await;
        cluster.nodes[0].kill9();
        cluster.nodes[0].go_on();
        cluster.nodes[0].relaunch();
        writers.progress(10, BOUND).await;
        let ledger = writers.stop().await;
        say(format!("{point}: {} acknowledged", ledger.answered()));
        cluster.wait_whole(BOUND).await;
        assert_kept(&*ledger, [&sessions[0]]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crash_at_any_line_of_an_install_leaves_a_whole_copy_in_the_end() {
    let Some(builder) = Builder::with_failpoints(2) else { return };
    let mut cluster = builder
        .set("log.compact_entries", "100")
        .set("log.keep_entries", "10")
        .set("log.catch_up_bytes", "0")
        .prepare()
        .await;
    // So that there is a second span to install.
    const OWN_ROWS: &str = "apply-own-row=return";
    cluster.nodes.iter_mut().for_each(|node| node.env("FAILPOINTS", OWN_ROWS));
    cluster.form().await;
    let sessions = cluster.sessions();
    let writers = Crew::writers(&sessions, 8, 2_000, "install");
    writers.progress(1_000, BOUND).await;
    let receiver = cluster.prepare_node();
    let join = cluster.addresses();
    for point in [
        "snapshot-while-receiving",
        "snapshot-before-record",
        "snapshot-after-record",
        "snapshot-after-replace",
        "snapshot-after-replace-own",
        "snapshot-after-state",
    ] {
        let stands_still = format!("{OWN_ROWS};{point}=0*off->pause");
        cluster.nodes[receiver].env("FAILPOINTS", &stands_still);
        cluster.nodes[receiver].launch(Start::Join(join.clone()));
        // It may stand still before it has bound its ports: a start finishes an install.
        is_reached(&cluster.nodes[receiver], point).await;
        cluster.nodes[receiver].kill9();
        writers.progress(150, BOUND).await;
    }
    cluster.nodes[receiver].env("FAILPOINTS", OWN_ROWS);
    cluster.nodes[receiver].launch(Start::Join(join));
    cluster.nodes[receiver].bound(BOUND).await;
    let ledger = writers.stop().await;
    cluster.wait_whole(BOUND).await;
    let session = cluster.nodes[receiver].session();
    eventually("the receiver to catch up", BOUND, async || session.get("install").await).await;
    ledger.check_now(&Plain::from(&session).stale()).await.expect("stale reads");
    eventually("all peers to have the same state", BOUND, async || session.check_regions().await)
        .await;
}

/// Adding a node is several steps on two nodes; a crash between any two of them converges.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crash_at_any_line_of_a_join_ends_in_one_new_node() {
    let Some(builder) = Builder::with_failpoints(1) else { return };
    let mut cluster = builder.start().await;
    let join = cluster.addresses();
    let cases = [
        (0, "join-before-adopt"),
        (0, "join-after-adopt"),
        (1, "adopt-before-write"),
        (1, "adopt-after-write"),
    ];
    for (victim, point) in cases {
        let joining = cluster.prepare_node();
        let victim = if victim == 0 { 0 } else { joining };
        if victim == 0 {
            cluster.nodes[0].terminate(BOUND).await;
            cluster.nodes[0].stand_still_at(point, 0);
            cluster.nodes[0].relaunch();
            cluster.nodes[0].bound(BOUND).await;
        } else {
            cluster.nodes[joining].stand_still_at(point, 0);
        }
        cluster.nodes[joining].launch(Start::Join(join.clone()));
        cluster.nodes[joining].bound(BOUND).await;
        // Whether it gets there is not known: the driver that adopts may be on another node by now.
        elapse(Duration::from_secs(3)).await;
        cluster.nodes[victim].kill9();
        cluster.nodes[victim].go_on();
        cluster.nodes[victim].relaunch();
        let id = cluster.node_id(joining).await;
        cluster.wait_whole(BOUND).await;
        let table = cluster.nodes[0].session().nodes().await.expect("nodes");
        let mine = cluster.nodes[joining].client_address();
        let same: Vec<u64> = table
            .nodes
            .iter()
            .filter(|node| node.client_address == mine)
            .map(|node| node.node_id)
            .collect();
        assert_eq!(same, [id], "{point}: one node, one id: {:?}", table.nodes);
    }
}

/// Waits until the node says that it stands still there. A kill elsewhere would show nothing of that line.
async fn is_reached(node: &Node, point: &str) {
    let line = format!("stands still at {point}");
    eventually(&format!("{} to get to {point}", node.name()), BOUND, async || {
        match node.output().lines().any(|said| said == line) {
            true => Ok(()),
            false => Err("it did not yet"),
        }
    })
    .await;
}

/// Waits until no write is acknowledged any more.
async fn stands_still(writers: &Crew<UniqueWrites>, point: &str) {
    let stuck = within(BOUND, async || {
        let before = writers.answered();
        elapse(Duration::from_millis(1_500)).await;
        let after = writers.answered();
        if before == after && before > 0 { Ok(()) } else { Err(format!("{before} to {after}")) }
    })
    .await;
    if let Err(last) = stuck {
        panic!("{point} is never reached, or does not stop anybody: {last}");
    }
}
