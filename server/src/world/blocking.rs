//! Work that waits for a disk, or takes long, away from the tasks of the regions.

use tokio::task::JoinHandle;

use super::simulated;

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
