//! What the disk under the data costs: a figure about durability means nothing without it.

use std::{fs::OpenOptions, io::Write, os::unix::fs::FileExt, path::Path, time::Duration};

use anyhow::Context;
use rustix::fs::statfs;
use tokio::time::Instant;

const TMPFS_MAGIC: i64 = 0x0102_1994;
const RAMFS_MAGIC: i64 = 0x8584_58f6;
/// Syncs that are timed.
const PROBES: usize = 200;

/// Refuses a directory that is memory: nothing there is durable.
pub fn refuse_memory(dir: &Path) -> anyhow::Result<()> {
    let kind = statfs(dir).with_context(|| format!("look at {}", dir.display()))?.f_type;
    anyhow::ensure!(
        kind != TMPFS_MAGIC && kind != RAMFS_MAGIC,
        "{} is in memory, where an fsync costs nothing; give a directory on a disk with --dir",
        dir.display()
    );
    Ok(())
}

/// Median time of an append of 4 KiB and its fdatasync.
pub fn sync_time(dir: &Path) -> anyhow::Result<Duration> {
    let path = dir.join("sync-probe");
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).open(&path)?;
    // As a log does: the space is there, only the bytes change.
    file.write_all(&vec![0; 4096 * PROBES])?;
    file.sync_all()?;
    let block = [7_u8; 4096];
    let mut times = Vec::with_capacity(PROBES);
    for probe in 0..PROBES {
        let started = Instant::now();
        file.write_all_at(&block, (probe * block.len()) as u64)?;
        file.sync_data()?;
        times.push(started.elapsed());
    }
    drop(file);
    std::fs::remove_file(&path)?;
    times.sort_unstable();
    Ok(times[PROBES / 2])
}
