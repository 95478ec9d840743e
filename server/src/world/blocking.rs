//! Work that waits for a disk, or takes long, away from the tasks of the regions.

use tokio::task::JoinHandle;

use super::{clock, simulated};

/// Runs `work` on a thread that may block; in a simulation on its one thread, after what the disk takes there.
///
/// # Cancel safety
/// What has begun goes on when nobody waits for it any more.
#[expect(clippy::disallowed_methods, reason = "this is the seam that others must use")]
pub fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let Some(world) = simulated() else { return tokio::task::spawn_blocking(work) };
    let takes = world.disk_takes();
    tokio::spawn(async move {
        tokio::time::sleep(takes).await;
        work()
    })
}

/// Whether what is asked of an engine in memory is to be on the disk this time, or the disk to be behind: in a simulation
/// now and then, elsewhere never.
pub fn would_wait() -> bool {
    simulated().is_some() && clock::random().is_multiple_of(8)
}
