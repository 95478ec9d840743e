//! Disks that are full: on one node nobody notices, on a majority writes are refused in words, and
//! when there is space again there is service again. Needs root, for a file system of fixed size.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use flotilla_proto::v1::{self, error_detail::Reason};
use flotilla_tests::{
    harness::{Builder, Scratch, eventually, outcome, reason, say_aloud, strict},
    workload::{Crew, assert_kept},
};
use tonic::Code;

const BOUND: Duration = Duration::from_secs(60);

/// Size of each small disk.
const DISK_BYTES: u64 = 256 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disk_of_one_node_stops_nobody() {
    full_disks(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disks_of_a_majority_refuse_writes_and_lose_nothing() {
    full_disks(2).await;
}

/// What clients delete on a full disk makes room, though nobody may write meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deletes_make_room_again_without_a_restart() {
    let scratch = Scratch::new();
    let disk = match Disk::new(scratch.path(), 0) {
        Ok(disk) => disk,
        Err(why) if strict() => panic!("no small file system: {why}"),
        Err(why) => {
            say_aloud(format!("SKIPPED: deletes on a full disk: {why}"));
            return;
        }
    };
    // What is written until the node has looked, and what compactions need, must find room.
    let builder = Builder::new(1).set("disk.ballast_bytes", "0").set("disk.low_bytes", "100MiB");
    let mut cluster = builder.prepare().await;
    cluster.nodes[0].set_data_dir(disk.path.join("node"));
    cluster.form().await;
    let session = cluster.nodes[0].session();
    // Small, so that many looks of the node lie between the level that is low and a full disk.
    let value: Vec<u8> = (0..64 << 10).map(|_| rand::random()).collect();
    let mut stored: u64 = 0;
    let refused = loop {
        match session.put(format!("disk/{stored:05}"), value.clone()).await {
            Ok(_) => stored += 1,
            Err(status) => break status,
        }
        assert!(stored * (64 << 10) < DISK_BYTES, "the disk is never full");
    };
    assert!(matches!(reason(&refused), Some(Reason::LowDisk(_))), "{refused:?}");
    let range = v1::DeleteRangeRequest { prefix: "disk/".into(), ..Default::default() };
    session.kv.clone().delete_range(session.request(range)).await.expect("deletes are taken");
    eventually("room for writes", BOUND, async || {
        session.put("after", value.clone()).await.map_err(|status| status.to_string())
    })
    .await;
}

/// What it took would fill the others' disks until they end. Needs no small file system: the level is moved.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leader_with_room_takes_only_deletes_while_most_voters_are_low() {
    let builder = Builder::new(3).set("disk.low_bytes", "1MiB").set("disk.critical_bytes", "1MiB");
    let mut cluster = builder.start().await;
    let session = cluster.nodes[0].session();
    session.put("disk/kept", vec![7; 100]).await.expect("a write");
    for (low_bytes, is_low) in [("1000TiB", true), ("1MiB", false)] {
        for node in &mut cluster.nodes[1..] {
            node.terminate(BOUND).await;
            node.set("disk.low_bytes", low_bytes);
            node.relaunch();
        }
        cluster.wait_whole(BOUND).await;
        if !is_low {
            break;
        }
        let refused = eventually("most disks to be known as low", BOUND, async || {
            let session = session.clone().patient(Duration::from_secs(3));
            match session.put("disk/probe", vec![7; 100]).await.as_ref().map_err(reason) {
                // By the one with room, which all leaders have gone to.
                Err(Some(Reason::LowDisk(refused))) if refused.low_node_ids.len() == 2 => {
                    Ok(refused)
                }
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        assert!(!refused.low_node_ids.contains(&refused.node_id), "{refused:?}");
        let delete = v1::DeleteRequest { key: "disk/kept".into(), ..Default::default() };
        session.kv.clone().delete(session.request(delete)).await.expect("deletes are taken");
    }
    eventually("room for writes", BOUND, async || {
        session.put("disk/after", vec![7; 100]).await.map_err(|status| status.to_string())
    })
    .await;
}

async fn full_disks(count: usize) {
    // Dropped after the cluster: a mounted directory cannot be removed.
    let scratch = Scratch::new();
    let mut disks = Vec::new();
    for number in 0..count {
        match Disk::new(scratch.path(), number) {
            Ok(disk) => disks.push(disk),
            Err(why) if strict() => panic!("no small file system: {why}"),
            Err(why) => {
                say_aloud(format!("SKIPPED: full disk of {count}: {why}"));
                return;
            }
        }
    }
    let mut cluster = Builder::new(3).set("disk.ballast_bytes", "4MiB").prepare().await;
    // The last nodes get the small disks, so that the first can be asked.
    for (disk, index) in disks.iter().zip((0..3).rev()) {
        cluster.nodes[index].set_data_dir(disk.path.join("node"));
    }
    cluster.form().await;
    let full: Vec<usize> = (0..3).rev().take(count).collect();
    let sessions = cluster.sessions();
    let first = &sessions[0];
    let writers = Crew::writers(&sessions[..1], 4, 4_000, "disk");
    writers.progress(200, BOUND).await;

    for (disk, index) in disks.iter().zip(&full) {
        cluster.nodes[*index].expect_exit();
        disk.fill();
    }
    if count == 1 {
        // Two of three go on without it.
        writers.progress(200, BOUND).await;
    } else {
        let refusal = eventually("writes to be refused", BOUND, async || {
            disks.iter().for_each(Disk::fill);
            let session = first.clone().patient(Duration::from_secs(3));
            match session.put("disk/probe", vec![7; 4_000]).await {
                Err(status) => Ok(status),
                Ok(_) => Err("still taken"),
            }
        })
        .await;
        let clear = matches!(
            refusal.code(),
            Code::ResourceExhausted | Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled
        );
        assert!(clear, "{refusal:?}, {:?}", outcome(&refusal));
    }
    // The node with the full disk says so: in its state, or with its last words.
    for index in &full {
        let session = cluster.nodes[*index].session();
        eventually("the node to say that its disk is full", BOUND, async || {
            if cluster.nodes[*index].is_running() {
                let status = session.status().await.map_err(|status| status.to_string())?;
                let level = status.disk_level;
                return if level == "normal" {
                    Err("its disk is normal".to_owned())
                } else {
                    Ok(())
                };
            }
            let said = cluster.nodes[*index].output().to_lowercase();
            let named = said.contains("space") || said.contains("disk");
            if named { Ok(()) } else { Err(format!("ended without the words:\n{said}")) }
        })
        .await;
    }

    for disk in &disks {
        disk.free();
    }
    for index in &full {
        // As a supervisor would: the node ends when its log cannot be written, and is started again.
        if !cluster.nodes[*index].is_running() {
            cluster.nodes[*index].kill9();
            cluster.nodes[*index].relaunch();
        }
    }
    cluster.wait_whole(BOUND).await;
    cluster.wait_serving(BOUND).await;
    writers.progress(100, BOUND).await;
    let ledger = writers.stop().await;
    assert_kept(&*ledger, &sessions).await;
}

/// A file system of fixed size.
struct Disk {
    path: PathBuf,
}

impl Disk {
    fn new(directory: &Path, number: usize) -> Result<Self, String> {
        let image = directory.join(format!("disk-{number}.img"));
        let path = directory.join(format!("disk-{number}"));
        let file = fs::File::create(&image).map_err(|error| error.to_string())?;
        file.set_len(DISK_BYTES).map_err(|error| error.to_string())?;
        fs::create_dir(&path).map_err(|error| error.to_string())?;
        run(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&path))?;
        Ok(Self { path })
    }

    /// Takes all space that is left; called again it takes what was given free meanwhile.
    fn fill(&self) {
        let file = fs::File::options().create(true).append(true).open(self.filler());
        let mut file = file.expect("open the file that fills the disk");
        // Ends with the error that is wanted: no space left.
        for block in [vec![0x5A; 1 << 20], vec![0x5A; 4096], vec![0x5A; 1]] {
            while file.write_all(&block).is_ok() {}
        }
        let _ = file.sync_all();
    }

    fn free(&self) {
        fs::remove_file(self.filler()).expect("give the space free");
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: if a process of a failed test is still there, the mount goes with it.
        let _ = run(Command::new("umount").arg("-l").arg(&self.path));
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
