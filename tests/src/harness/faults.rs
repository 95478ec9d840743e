//! The program with failpoints, which is not always built.

use super::{Builder, binary::is_built, say_aloud, strict};

/// The server, with failpoints compiled in: `make faults` builds it.
const PROGRAM: &str = "flotilla-server-faults";

impl Builder {
    /// As [`Builder::new`], with the program that has failpoints. `None` when it was not built: the
    /// test is passed over, which is said aloud.
    ///
    /// # Panics
    /// Where nothing may be passed over; see [`strict`].
    #[must_use]
    pub fn with_failpoints(nodes: usize) -> Option<Self> {
        if is_built(PROGRAM) {
            return Some(Self::new(nodes).program(PROGRAM));
        }
        assert!(!strict(), "{PROGRAM} was not built");
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        say_aloud(format!("SKIPPED: {test}: {PROGRAM} was not built"));
        None
    }
}
