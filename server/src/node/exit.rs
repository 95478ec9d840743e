//! The end of a process, which may not take for ever.

use std::{thread, time::Duration};

/// Bound: what a process may take to end once its node has. Its exit joins the threads of RocksDB, and where the
/// disk hangs, which is a reason for the node to end, one of them may wait for it.
pub(super) const EXIT_MAX: Duration = Duration::from_secs(10);

/// Aborts this process if it is still there then: what is on the disk is enough.
#[expect(clippy::disallowed_methods, reason = "a thread of its own, which nothing may hold up")]
pub(super) fn end_within(most: Duration) {
    let watching = thread::Builder::new().name("exit-watch".to_owned()).spawn(move || {
        thread::sleep(most);
        tracing::error!("the process does not end, and is aborted");
        std::process::abort();
    });
    if let Err(error) = watching {
        tracing::warn!("start the watch of the exit: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tells the test below that it runs in a process of its own.
    const HANGS: &str = "FLOTILLA_TEST_HANGS";

    #[test]
    fn process_whose_exit_hangs_is_ended_all_the_same() {
        if std::env::var_os(HANGS).is_some() {
            end_within(Duration::from_millis(50));
            // Bound: far above that.
            thread::park_timeout(Duration::from_secs(60));
            return;
        }
        let mut program = std::process::Command::new(std::env::current_exe().expect("itself"));
        program
            .args(["--exact", "node::exit::tests::process_whose_exit_hangs_is_ended_all_the_same"]);
        let ended = program.env(HANGS, "1").output().expect("a process");
        assert_eq!(ended.status.code(), None, "by a signal: {ended:?}");
    }
}
