//! Time, which comes in here and nowhere else. Decisions are given the time as a value.

use std::sync::OnceLock;

use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

/// Now, on the monotonic clock. It goes on while the process is frozen, so a lease that ran out
/// meanwhile is seen to have run out.
#[must_use]
pub fn now() -> Instant {
    Instant::now()
}

/// Now, as the time since this process began to ask, on the monotonic clock: for waits, since nobody sets it. No time
/// that people read.
#[must_use]
pub fn steady() -> Timestamp {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    let since = BEGAN.get_or_init(now).elapsed().as_secs();
    Timestamp::from_second(i64::try_from(since).unwrap_or(i64::MAX)).unwrap_or(Timestamp::MAX)
}

/// Now, on the wall clock: for texts that people read.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the seam that others must use")]
pub fn wall() -> Timestamp {
    let since =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_second(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
        .unwrap_or(Timestamp::UNIX_EPOCH)
}

/// As Kubernetes writes times.
#[must_use]
pub fn text(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Whole seconds from `earlier`, as Kubernetes wrote it, to `now`; `None` for what is no time.
#[must_use]
pub fn seconds_since(earlier: &str, now: Timestamp) -> Option<i64> {
    let earlier: Timestamp = earlier.parse().ok()?;
    Some(now.as_second() - earlier.as_second())
}
