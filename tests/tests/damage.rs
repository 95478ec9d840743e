//! Disks that come back with a flipped bit, or as they were some time ago, under clients that watch every
//! answer: nothing acknowledged is lost, nothing old is read, and what a disk has forgotten is said.
//!
//! `SEED` repeats the choices of a run, `ROUNDS` sets how many disks are damaged.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use flotilla_tests::{
    harness::{Builder, Cluster, copy_dir, env_number, eventually, say, seed},
    workload::{Registers, Writers, nothing_is_lost},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

const BOUND: Duration = Duration::from_secs(60);
/// Peers are replaced one step at a time.
const HEAL_BOUND: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flipped_bits_in_any_file_of_a_node_lose_nothing() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let mut play = Play::start(seed).await;
    for _ in 0..env_number("ROUNDS", 2) {
        let victim = random.random_range(0..3);
        play.cluster.nodes[victim].kill9();
        let files = files(play.cluster.nodes[victim].data_dir());
        let file = &files[random.random_range(0..files.len())];
        let mut bytes = fs::read(file).expect("read a file to damage");
        let at = random.random_range(0..bytes.len());
        bytes[at] ^= 1 << random.random_range(0..8);
        say(format!("node {}: byte {at} of {} of {}", victim + 1, bytes.len(), file.display()));
        fs::write(file, bytes).expect("write a damaged file");
        play.come_back(victim).await;
    }
    play.judge().await;
}

/// As a snapshot of a virtual machine does: log, sentinel and state go back together, and nothing on the
/// disk can tell.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disks_that_are_rolled_back_lose_nothing() {
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
        play.writers.progress(200, BOUND).await;
        play.cluster.nodes[victim].kill9();
        play.cluster.nodes[victim].wipe();
        copy_dir(&copy, play.cluster.nodes[victim].data_dir());
        say(format!("node {}: rolled back by 200 writes", victim + 1));
        play.come_back(victim).await;
    }
    play.judge().await;
}

/// The files of both instances that can be damaged.
fn files(data_dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for instance in ["data", "log"] {
        let entries = fs::read_dir(data_dir.join(instance)).expect("list an instance");
        for entry in entries {
            let path = entry.expect("list an instance").path();
            let name = path.file_name().expect("a file").to_string_lossy().into_owned();
            // What RocksDB writes for people.
            let told = name.starts_with("LOG") || name == "LOCK";
            if path.is_file() && !told && path.metadata().expect("a file").len() > 0 {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

struct Play {
    cluster: Cluster,
    registers: Registers,
    writers: Writers,
}

impl Play {
    async fn start(seed: u64) -> Self {
        let builder = Builder::new(3).set("placement.node_disconnected_after", "2s");
        let mut cluster = builder.start().await;
        for lost in ["quarantine", "corrupt", "Corrupt", "lost", "stopped"] {
            cluster.allow(lost);
        }
        let sessions = cluster.sessions();
        let registers = Registers::start(seed, &sessions, 2);
        let writers = Writers::start(&sessions, 3, 300, "damage");
        writers.progress(300, BOUND).await;
        Self { cluster, registers, writers }
    }

    /// Starts a node whose disk was harmed: it goes on, perhaps with other peers, or it ends with words
    /// and gets another disk.
    async fn come_back(&mut self, victim: usize) {
        let node = &mut self.cluster.nodes[victim];
        node.relaunch();
        node.expect_exit();
        self.writers.progress(100, BOUND).await;
        let cluster = &mut self.cluster;
        let goes_on = eventually("the node to start or to end", BOUND, async || {
            if !cluster.nodes[victim].is_running() {
                return Ok(false);
            }
            let status = cluster.nodes[victim].session().status().await;
            status.map(|_| true).map_err(|status| status.to_string())
        })
        .await;
        if !goes_on {
            let said = cluster.nodes[victim].output_tail(3);
            assert!(said.to_lowercase().contains("corrupt"), "it ended without words:\n{said}");
            cluster.replace_disk(victim).await;
        }
        cluster.wait_whole(HEAL_BOUND).await;
        self.registers.next_generation();
        self.writers.progress(100, BOUND).await;
    }

    async fn judge(self) {
        let Self { mut cluster, registers, writers } = self;
        let sessions = cluster.sessions();
        cluster.wait_serving(BOUND).await;
        let ledger = writers.stop().await;
        let recorder = registers.stop(&sessions).await;
        nothing_is_lost(&sessions, &ledger, &recorder.operations(), BOUND).await;
    }
}
