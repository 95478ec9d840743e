//! The end of a process, which may not take for ever.

use std::{sync::Arc, thread, time::Duration};

use parking_lot::Mutex;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

/// Bound: what a process may take to end once its node has. Its exit joins the threads of RocksDB, and where the
/// disk hangs, which is a reason for the node to end, one of them may wait for it.
pub(super) const EXIT_MAX: Duration = Duration::from_secs(10);
/// What is logged is written by a thread of its own, which nobody waits for at an abort.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A process that is about to end, and is watched.
pub(super) struct Ending {
    waits_for: Arc<Mutex<&'static str>>,
}

impl Ending {
    /// Notes who is waited for from here on.
    pub(super) fn waits_for(&self, who: &'static str) {
        *self.waits_for.lock() = who;
    }
}

/// Aborts this process if it is still there then, with who it waited for as its last words: what is on the disk is
/// enough. Not by an exit code, whose way out is what hangs; and without a core dump, which tells no more and may
/// be as large as the memory.
#[expect(clippy::disallowed_methods, reason = "a thread of its own, which nothing may hold up")]
pub(super) fn end_within(most: Duration) -> Ending {
    let ending = Ending { waits_for: Arc::new(Mutex::new("the node")) };
    let waits_for = Arc::clone(&ending.waits_for);
    let watching = thread::Builder::new().name("exit-watch".to_owned()).spawn(move || {
        thread::sleep(most);
        let waits_for = *waits_for.lock();
        tracing::error!(waits_for, "the process has not ended within {most:?}, and is aborted");
        thread::sleep(LAST_WORDS);
        if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
            tracing::warn!("do without a core dump: {error}");
        }
        std::process::abort();
    });
    if let Err(error) = watching {
        tracing::warn!("start the watch of the exit: {error}");
    }
    ending
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use rustix::process::Signal;

    use super::*;

    /// Tells the test below that it runs in a process of its own.
    const HANGS: &str = "FLOTILLA_TEST_HANGS";

    #[test]
    fn process_whose_exit_hangs_is_aborted_and_says_what_it_waited_for() {
        if std::env::var_os(HANGS).is_some() {
            tracing_subscriber::fmt().with_writer(std::io::stderr).init();
            let ending = end_within(Duration::from_millis(50));
            ending.waits_for("somebody");
            // Bound: far above that.
            thread::park_timeout(Duration::from_secs(60));
            return;
        }
        let mut program = std::process::Command::new(std::env::current_exe().expect("itself"));
        let name =
            "node::exit::tests::process_whose_exit_hangs_is_aborted_and_says_what_it_waited_for";
        program.args(["--exact", "--nocapture", name]);
        let ended = program.env(HANGS, "1").output().expect("a process");
        assert_eq!(ended.status.signal(), Some(Signal::ABORT.as_raw()), "{ended:?}");
        assert!(!ended.status.core_dumped(), "{ended:?}");
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(said.contains("somebody"), "{said}");
    }
}
