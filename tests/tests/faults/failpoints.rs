//! A panic where order matters for what is on the disk, in one node of three, under load.
//!
//! `crash_points.rs` kills a node that stands still at such a line. Here the line itself panics, on
//! whatever thread runs it, which must be the end of the process: a node that is up while the thread
//! that writes its log is gone would be worse than one that is down. (Where only the effects of a command are
//! computed, it is the end of the peer.) The other two go on, and what
//! was acknowledged is there in the end, on the node that crashed as well.
//!
//! Needs `flotilla-server-faults`, as there.

use std::{os::unix::process::ExitStatusExt as _, time::Duration};

use flotilla_proto::v1;
use flotilla_tests::{
    harness::{Builder, Cluster, Session, Start, elapse, eventually, say, within},
    workload::{Crew, Workload as _, assert_kept},
};

const BOUND: Duration = Duration::from_secs(60);

const SIGABRT: i32 = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_at_any_line_of_a_write_ends_the_process_and_loses_nothing_acknowledged() {
    let Some(builder) = Builder::with_failpoints(3) else { return };
    let mut cluster = builder
        .set("log.compact_entries", "200")
        .set("log.keep_entries", "50")
        .set("log.catch_up_bytes", "0")
        .allow("panicked at")
        .start()
        .await;
    let sessions = cluster.sessions();
    for (turn, (point, passes)) in [
        ("log-before-write", 150),
        ("log-after-write", 150),
        ("apply-before-write", 150),
        ("apply-after-write", 150),
        ("log-before-purge", 1),
    ]
    .into_iter()
    .enumerate()
    {
        let victim = turn % 3;
        cluster.nodes[victim].terminate(BOUND).await;
        cluster.nodes[victim].env("FAILPOINTS", &format!("{point}={passes}*off->panic"));
        cluster.nodes[victim].relaunch();
        cluster.nodes[victim].expect_exit();
        let writers = Crew::writers(&sessions, 6, 300, &format!("panic/{point}"));
        let status = cluster.nodes[victim].exited(BOUND).await;
        assert_eq!(status.signal(), Some(SIGABRT), "{point}: {status}");
        let output = cluster.nodes[victim].output();
        assert!(output.contains(&format!("failpoint {point} panic")), "{point}: {output}");

        writers.progress(50, BOUND).await;
        cluster.nodes[victim].go_on();
        cluster.nodes[victim].relaunch();
        cluster.nodes[victim].bound(BOUND).await;
        nobody_is_quarantined(&sessions[victim]).await;
        writers.progress(50, BOUND).await;
        let ledger = writers.stop().await;
        say(format!("{point}: {} acknowledged", ledger.answered()));
        cluster.wait_whole(BOUND).await;
        assert_kept(&*ledger, [&sessions[victim]]).await;
        all_peers_agree(&sessions).await;
    }
}

/// Only a client's bytes decide about that, so that a node which ended for it would end again at each start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_over_the_effects_of_a_command_ends_its_peer_and_not_the_node() {
    let Some(builder) = Builder::with_failpoints(3) else { return };
    let mut cluster = builder.allow("panicked").allow("RaftCore").start().await;
    let sessions = cluster.sessions();
    cluster.nodes[2].terminate(BOUND).await;
    cluster.nodes[2].env("FAILPOINTS", "apply-computing=150*off->1*panic->off");
    cluster.nodes[2].relaunch();
    let writers = Crew::writers(&sessions, 6, 300, "panic/apply-computing");
    eventually("the panic", BOUND, async || {
        let output = cluster.nodes[2].output();
        if output.contains("failpoint apply-computing panic") { Ok(()) } else { Err(output) }
    })
    .await;
    writers.progress(50, BOUND).await;
    let ledger = writers.stop().await;
    cluster.wait_whole(BOUND).await;
    nobody_is_quarantined(&sessions[2]).await;
    assert!(cluster.nodes[2].output().contains("destroying a peer"), "the peer was not replaced");
    assert_kept(&*ledger, [&sessions[2]]).await;
    all_peers_agree(&sessions).await;
}

/// A leader answers when a quorum has an entry on the disk, which may be the two others. If it then
/// crashes, its state is ahead of its log; it has broken no promise, and must be let back in. (When
/// the whole cluster loses power, a majority of such peers would otherwise lock each other out.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_applied_what_its_own_log_lacks_takes_part_again() {
    let Some(builder) = Builder::with_failpoints(3) else { return };
    let mut cluster = builder.start().await;
    let sessions = cluster.sessions();
    cluster.nodes[0].terminate(BOUND).await;
    cluster.nodes[0].stand_still_at("log-before-write", 100);
    cluster.nodes[0].relaunch();
    cluster.wait_whole(BOUND).await;
    lead(&cluster, &sessions, 0).await;
    let writers = Crew::writers(&sessions, 8, 100, "ahead");
    // Each write of the log takes at most one entry of each writer.
    let progress = within(BOUND, async || {
        let acknowledged = writers.answered();
        if acknowledged > 2_500 { Ok(()) } else { Err(acknowledged.to_string()) }
    })
    .await;
    if let Err(acknowledged) = progress {
        panic!("only {acknowledged} writes went on without the leader's disk");
    }
    assert_eq!(cluster.leader(b"ahead").await, 0, "the leader leads on without its own disk");
    cluster.kill9_all();
    cluster.nodes[0].go_on();
    cluster.relaunch_all();
    for node in &mut cluster.nodes {
        node.bound(BOUND).await;
    }
    for session in &sessions {
        nobody_is_quarantined(session).await;
    }
    writers.progress(50, BOUND).await;
    let ledger = writers.stop().await;
    cluster.wait_whole(BOUND).await;
    assert_kept(&*ledger, [&sessions[0]]).await;
    all_peers_agree(&sessions).await;
}

/// The driver waits for it, and serves everybody else meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_hangs_while_it_joins_holds_up_nobody() {
    let Some(builder) = Builder::with_failpoints(1) else { return };
    let mut cluster = builder.start().await;
    let hung = cluster.prepare_node();
    cluster.nodes[hung].stand_still_at("adopt-before-write", 0);
    cluster.nodes[hung].launch(Start::Alone);
    cluster.nodes[hung].bound(BOUND).await;
    let session = cluster.nodes[0].session();
    let address = cluster.nodes[hung].client_address();
    let joining = tokio::spawn({
        let session = cluster.nodes[0].session();
        async move {
            let message = v1::AddLearnerRequest { address, ..Default::default() };
            session.cluster.clone().add_learner(session.request(message)).await
        }
    });
    eventually("the node to have its id", BOUND, async || {
        let nodes = session.nodes().await.map_err(|error| error.to_string())?.nodes;
        let joins = nodes.iter().any(|node| node.state == i32::from(v1::NodeState::Joining));
        if joins { Ok(()) } else { Err(format!("{nodes:?}")) }
    })
    .await;
    let message = v1::ChangeMembershipRequest { promote: vec![1], ..Default::default() };
    let changed = session.cluster.clone().change_membership(session.request(message)).await;
    changed.expect("a change of others");
    assert!(!joining.is_finished(), "all this waited for a node that hangs");
    let error = joining.await.expect("a call").expect_err("it hangs");
    assert!(error.message().contains("does not answer"), "{error}");
}

/// Makes a node lead the region of the users' keys.
async fn lead(cluster: &Cluster, sessions: &[Session], index: usize) {
    let node = cluster.node_id(index).await;
    eventually("the leadership to move", BOUND, async || {
        for session in sessions {
            let message = v1::TransferLeaderRequest { region_id: 2, to_node_id: node };
            // Only the leader can; whether it came about is seen below.
            let _ = session.cluster.clone().transfer_leader(session.request(message)).await;
        }
        elapse(Duration::from_millis(300)).await;
        let regions = sessions[index].regions().await.map_err(|error| error.to_string())?;
        let region = regions
            .into_iter()
            .find(|info| info.region.as_ref().is_some_and(|region| region.region_id == 2))
            .ok_or("the region is not known")?;
        match region.leader {
            Some(leader) if leader.node_id == node => Ok(()),
            other => Err(format!("{other:?} leads")),
        }
    })
    .await;
}

/// Two peers that differ, or one that does not answer, is an error of the check.
async fn all_peers_agree(sessions: &[Session]) {
    eventually("all peers to have the same state", BOUND, async || {
        sessions[0].check_regions().await
    })
    .await;
}

async fn nobody_is_quarantined(session: &Session) {
    let status = eventually("a status", BOUND, async || {
        let status = session.status().await.map_err(|error| error.to_string())?;
        if status.peers.is_empty() { Err("no peers yet".to_owned()) } else { Ok(status) }
    })
    .await;
    for peer in &status.peers {
        assert_ne!(peer.role, "quarantined", "on {}: {peer:?}", session.address);
    }
}
