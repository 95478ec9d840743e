//! Lines at which a task may stand for a while, so that much happens between what it has seen and what it does.

use super::simulated;

/// The line of this name: a task stands here for as long as a simulation says, and nowhere else. It stands where things
/// are seldom, never on the path of every request.
pub async fn linger(line: &'static str) {
    if let Some(lasts) = simulated().and_then(|world| world.lingers(line)) {
        tokio::time::sleep(lasts).await;
    }
}
