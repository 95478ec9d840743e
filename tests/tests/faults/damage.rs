//! Disks that come back with a flipped bit, or as they were some time ago, at a moment when they are needed: of
//! three nodes one lacks what was acknowledged last, and one that has it is away. Clients watch every answer.
//!
//! What must hold: nothing acknowledged is lost, nothing old is read, and a disk that has lost what it promised is
//! named. Whether it has is asked in the only way that counts: either it makes a majority with the one that lacks
//! everything, and all that was acknowledged is read through it; or it says what is wrong with it. Silence without a
//! majority is a failure, and so is a majority without a write.
//!
//! `SEED` repeats the choices of a run, `ROUNDS` sets how many disks are damaged.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use flotilla_proto::v1;
use flotilla_tests::{
    harness::{Builder, Cluster, Node, Session, copy_dir, env_number, eventually, say, seed},
    workload::{Contested, Crew, Failure, Plain, UniqueWrites, nothing_is_lost},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tonic::Status;

const BOUND: Duration = Duration::from_secs(60);
/// Peers are replaced one step at a time.
const HEAL_BOUND: Duration = Duration::from_secs(120);
/// The keys that are written.
const PREFIX: &str = "damage";

/// All in one node's files, so that no more than one disk is damaged at any time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flipped_bits_in_any_file_of_a_node_lose_nothing_and_what_it_lost_is_named() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let mut play = Play::start(seed).await;
    let victim = random.random_range(0..3);
    for _ in 0..env_number("ROUNDS", 2) {
        let behind = (victim + random.random_range(1..3)) % 3;
        play.fall_behind(behind).await;
        play.cluster.nodes[victim].kill9();
        let files = files(play.cluster.nodes[victim].data_dir());
        let file = &files[random.random_range(0..files.len())];
        let mut bytes = fs::read(file).expect("read a file to damage");
        let at = random.random_range(0..bytes.len());
        bytes[at] ^= 1 << random.random_range(0..8);
        say(format!("node {}: byte {at} of {} of {}", victim + 1, bytes.len(), file.display()));
        fs::write(file, bytes).expect("write a damaged file");

        let away = 3 - victim - behind;
        play.cluster.nodes[away].kill9();
        play.cluster.nodes[behind].relaunch();
        let verdict = play.ask_damaged(victim).await;
        let said = play.cluster.nodes[victim].output_tail(1);
        say(format!("node {}: {verdict:?}, last: {said}", victim + 1));
        play.cluster.nodes[away].relaunch();
        if verdict == Verdict::NotReadable {
            play.cluster.replace_disk(victim).await;
        }
        play.heal(victim).await;
    }
    play.judge().await;
}

/// As a snapshot of a virtual machine does: log, sentinel and state go back together, and nothing on the
/// disk can tell. Who leads can, as long as it leads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disks_that_are_rolled_back_lose_nothing_and_are_named_by_who_leads() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let mut play = Play::start(seed).await;
    for round in 0..env_number("ROUNDS", 2) {
        let victim = random.random_range(0..3);
        let copy = play.cluster.scratch().join(format!("copy-{round}"));
        play.cluster.nodes[victim].kill9();
        copy_dir(play.cluster.nodes[victim].data_dir(), &copy);
        play.cluster.nodes[victim].relaunch();
        play.cluster.wait_whole(BOUND).await;
        let leader = play.leader_but(victim).await;
        let behind = 3 - victim - leader;
        play.fall_behind(behind).await;
        let before = term(&play.cluster.nodes[leader].session()).await;
        play.cluster.nodes[victim].kill9();
        play.cluster.nodes[victim].wipe();
        copy_dir(&copy, play.cluster.nodes[victim].data_dir());
        say(format!("node {}: rolled back", victim + 1));
        play.cluster.nodes[victim].relaunch();
        play.cluster.nodes[victim].expect_exit();
        let session = play.cluster.nodes[leader].session();
        let named = eventually("the one that leads to name it", BOUND, async || {
            if play.cluster.nodes[victim].output().contains("was set back") {
                return Ok(true);
            }
            let now = term(&session).await;
            // What was acknowledged to an earlier leader nobody remembers; this one has all of it.
            if now == before { Err(format!("{now:?}, and not a word")) } else { Ok(false) }
        })
        .await;
        say(format!("node {}: named: {named}", victim + 1));
        if named {
            let put = session.clone().patient(Duration::from_secs(1)).put("no", "majority").await;
            assert!(put.is_err(), "one that lost what it acknowledged has acknowledged again");
        }
        play.cluster.nodes[behind].relaunch();
        play.heal(victim).await;
    }
    play.judge().await;
}

/// The node that has what was acknowledged stands still meanwhile. The two others make a majority that knows
/// nothing of it, and elect somebody after the same term as it was acknowledged in. One of the two is lost, by whose election
/// is the later one and who has applied what: who has it must say so, and take no other entry for its own, and all
/// nodes must answer the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn votes_that_a_rolled_back_disk_forgot_make_no_entries_that_look_alike() {
    let mut cluster = Builder::new(3).start().await;
    for lost in ["set back", "was lost elsewhere", "contradict"] {
        cluster.allow(lost);
    }
    let keys: Vec<String> = (0..20).map(|number| format!("{PREFIX}/{number}")).collect();
    let session = cluster.nodes[0].session();
    session.put(keys[0].clone(), "before").await.expect("a write");
    let away = cluster.leader(PREFIX.as_bytes()).await;
    let (victim, keeper) = ((away + 1) % 3, (away + 2) % 3);
    let copy = cluster.scratch().join("copy");
    cluster.nodes[victim].kill9();
    copy_dir(cluster.nodes[victim].data_dir(), &copy);
    cluster.nodes[victim].relaunch();
    cluster.wait_whole(BOUND).await;

    cluster.nodes[away].kill9();
    put_all(&cluster.nodes[keeper].session(), &keys, "first").await;
    eventually("the node that keeps it to apply it", BOUND, async || {
        let last = cluster.nodes[keeper].session().get_stale(keys[19].clone()).await;
        matches!(&last, Ok(Some(value)) if value == "first")
            .then_some(())
            .ok_or_else(|| format!("{last:?}"))
    })
    .await;
    cluster.nodes[keeper].pause();
    cluster.nodes[victim].kill9();
    cluster.nodes[victim].wipe();
    copy_dir(&copy, cluster.nodes[victim].data_dir());
    cluster.nodes[victim].relaunch();
    cluster.nodes[away].relaunch();
    put_all(&cluster.nodes[away].session(), &keys, "second").await;
    cluster.nodes[keeper].resume();
    eventually("one that has what was lost to say so", BOUND, async || {
        let said = |node: &Node| node.output().contains("a committed entry was lost elsewhere");
        let said = cluster.nodes.iter().any(said);
        said.then_some(()).ok_or_else(|| cluster.nodes[keeper].output_tail(3))
    })
    .await;
    // Until the region has settled for one of the two. Where the leader is the one that stood still, it may also find that
    // the disk which was set back lacks what it acknowledged: then there is no majority, and nobody answers.
    eventually("all nodes to answer the same, or none", BOUND, async || {
        let (mut told, mut silent) = (BTreeSet::new(), 0);
        for node in &cluster.nodes {
            let session = node.session().patient(Duration::from_secs(1));
            for key in &keys {
                match session.get(key.clone()).await {
                    Ok(value) => {
                        told.insert(
                            value.map(|value| String::from_utf8_lossy(&value).into_owned()),
                        );
                    }
                    Err(_) => {
                        silent += 1;
                        break;
                    }
                }
            }
        }
        let is_reverted = cluster.nodes[victim].output().contains("the disk was set back");
        let one = |one: &str| told == BTreeSet::from([Some(one.to_owned())]);
        match silent {
            0 if one("first") || one("second") => Ok(()),
            3 if told.is_empty() && is_reverted => Ok(()),
            _ => Err(format!("{told:?}, {silent} silent, reverted: {is_reverted}")),
        }
    })
    .await;
}

/// Writes all keys, each as often as it takes.
async fn put_all(session: &Session, keys: &[String], value: &'static str) {
    for key in keys {
        eventually("a write", BOUND, async || session.put(key.clone(), value).await).await;
    }
}

/// The files of both instances that hold something: not what RocksDB writes for people, and not what it never
/// reads.
fn files(data_dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for instance in ["data", "log"] {
        let entries = fs::read_dir(data_dir.join(instance)).expect("list an instance");
        for entry in entries {
            let path = entry.expect("list an instance").path();
            let name = path.file_name().expect("a file").to_string_lossy().into_owned();
            let unread = ["LOG", "OPTIONS", "IDENTITY", "LOCK"];
            let unread = unread.iter().any(|of| name.starts_with(of));
            if path.is_file() && !unread && path.metadata().expect("a file").len() > 0 {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// The term of the peer of the written keys' region, and whether it leads.
async fn term(session: &Session) -> Option<(u64, bool)> {
    let peers = session.status().await.ok()?.peers;
    let of_keys = peers
        .into_iter()
        .find(|peer| peer.region.as_ref().is_some_and(|region| region.region_id == 2));
    of_keys.map(|peer| (peer.term, peer.role == "leader"))
}

/// What a node makes of a damaged disk.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Everything acknowledged is there.
    Whole,
    /// It has ended, with words.
    Ended,
    /// A peer takes no part any more, as it says.
    SetAside,
    /// Reads say that something is lost.
    NotReadable,
}

struct Play {
    cluster: Cluster,
    registers: Crew<Contested>,
    writers: Crew<UniqueWrites>,
}

impl Play {
    async fn start(seed: u64) -> Self {
        let builder = Builder::new(3).set("placement.node_disconnected_after", "2s");
        let mut cluster = builder.start().await;
        for lost in ["quarantine", "corrupt", "Corrupt", "lost", "stopped", "does not take part"] {
            cluster.allow(lost);
        }
        // A peer cannot be replaced before a majority is there.
        cluster.allow("openraft::raft::api::management: the first step error");
        let sessions = cluster.sessions();
        let nodes = Plain::all(&sessions, Duration::from_secs(2));
        let registers = Crew::start(Contested::new("registers"), seed, &nodes, 2 * nodes.len());
        let writers = Crew::writers(&sessions, 3, 300, PREFIX);
        writers.progress(300, BOUND).await;
        Self { cluster, registers, writers }
    }

    /// Kills a node, and lets the two others acknowledge what it has not.
    async fn fall_behind(&mut self, node: usize) {
        self.cluster.nodes[node].kill9();
        self.writers.progress(100, BOUND).await;
    }

    /// Who leads the written keys, after a hand-over where that is `not`.
    async fn leader_but(&mut self, not: usize) -> usize {
        let leader = self.cluster.leader(PREFIX.as_bytes()).await;
        if leader != not {
            return leader;
        }
        let to_node_id = self.cluster.node_id((not + 1) % 3).await;
        let session = self.cluster.nodes[not].session();
        eventually("another to lead", BOUND, async || {
            let leader = self.cluster.leader(PREFIX.as_bytes()).await;
            if leader != not {
                return Ok(leader);
            }
            let hand_over = v1::TransferLeaderRequest { region_id: 2, to_node_id };
            let answer = session.cluster.clone().transfer_leader(session.request(hand_over)).await;
            Err(format!("{answer:?}"))
        })
        .await
    }

    /// Starts a node whose disk was harmed, and waits until it either has everything or says what it has not.
    async fn ask_damaged(&mut self, victim: usize) -> Verdict {
        let node = &mut self.cluster.nodes[victim];
        node.relaunch();
        node.expect_exit();
        let session = node.session().patient(Duration::from_secs(2));
        let store = Plain::from(&session);
        let writes = self.writers.workload();
        let verdict =
            eventually("the damaged node to have everything, or to say", BOUND, async || {
                if !node.is_running() {
                    return Ok(Verdict::Ended);
                }
                let said = node.output();
                if said.contains("is quarantined") || said.contains("does not take part any more") {
                    return Ok(Verdict::SetAside);
                }
                let read = async {
                    writes.check_now(&store).await?;
                    read_through(&session).await.map_err(Failure::from)
                };
                match read.await {
                    Ok(()) => Ok(Verdict::Whole),
                    Err(failure) if failure.data_loss => Ok(Verdict::NotReadable),
                    Err(failure) => Err(failure.to_string()),
                }
            })
            .await;
        if verdict == Verdict::Ended {
            has_words(&node.output_tail(3));
        }
        verdict
    }

    /// Waits until all is as it should be. A node that has ended gets another disk.
    async fn heal(&mut self, victim: usize) {
        self.cluster.wait_whole(HEAL_BOUND).await;
        if !self.cluster.nodes[victim].is_running() {
            has_words(&self.cluster.nodes[victim].output_tail(3));
            self.cluster.replace_disk(victim).await;
            self.cluster.wait_whole(HEAL_BOUND).await;
        }
        self.registers.workload().next_generation();
        self.writers.progress(100, BOUND).await;
    }

    async fn judge(self) {
        let Self { mut cluster, registers, writers } = self;
        let sessions = cluster.sessions();
        cluster.wait_serving(BOUND).await;
        let (writes, registers) = (writers.stop().await, registers.stop().await);
        nothing_is_lost(&sessions, &[&*writes, &*registers], BOUND).await;
    }
}

fn has_words(said: &str) {
    assert!(said.to_lowercase().contains("corrupt"), "it ended without words:\n{said}");
}

/// Reads all that is in the keyspace, through one node.
async fn read_through(session: &Session) -> Result<(), Status> {
    let request = session.request(v1::ScanRequest::default());
    let mut pages = session.kv.clone().scan(request).await?.into_inner();
    while pages.message().await?.is_some() {}
    Ok(())
}
