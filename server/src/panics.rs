//! What a panic ends.
//!
//! A thread that died alone would leave the others waiting for it: without the log's writer the node would
//! be up, and deaf. So a panic ends the process, whichever thread or task it is in, and what is on the
//! disk is enough to start again. Except where every replica computes the same of what a client once wrote,
//! the effects of a command and a checksum: such a panic would end every node that has the region, and the
//! first again at each start.

use std::{
    any::Any,
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
};

thread_local! {
    static OUTLIVED: Cell<bool> = const { Cell::new(false) };
}

/// Sets the flag back, also when a panic passes by.
struct Restore(bool);

impl Drop for Restore {
    fn drop(&mut self) {
        OUTLIVED.set(self.0);
    }
}

/// Runs what may panic, and outlives it.
///
/// # Errors
/// When it panicked. What it changed is left half done, and must not be used again.
pub(crate) fn outlive<T>(act: impl FnOnce() -> T) -> std::thread::Result<T> {
    let _restore = Restore(OUTLIVED.replace(true));
    catch_unwind(AssertUnwindSafe(act))
}

/// What a panic said.
pub(crate) fn words(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("without words")
}

/// Ends the process with a panic that nobody outlives, after it was told.
pub(crate) fn end_the_process() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        if !OUTLIVED.get() {
            std::process::abort();
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_outlived_is_marked_and_only_while_it_runs() {
        assert!(!OUTLIVED.get());
        assert!(outlive(|| OUTLIVED.get()).expect("it does not panic"));
        let caught = outlive(|| panic!("on purpose, {}", OUTLIVED.get()));
        let said = caught.expect_err("it panics");
        assert_eq!(words(said.as_ref()), "on purpose, true");
        assert!(!OUTLIVED.get());
    }

    /// Tells the test below that it runs in a process of its own, and what panics there.
    const PANICS: &str = "FLOTILLA_TEST_PANICS";

    /// As regions compute what clients wrote, and as everything else runs.
    #[test]
    fn process_outlives_an_outlived_panic_on_a_blocking_thread_and_no_other() {
        if let Ok(panics) = std::env::var(PANICS) {
            end_the_process();
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let on_purpose = || -> () { panic!("on purpose") };
            let ended = match &*panics {
                "outlived" => runtime.block_on(runtime.spawn_blocking(move || {
                    let caught = outlive(on_purpose).expect_err("it panics");
                    // The thread serves others next.
                    (words(caught.as_ref()).to_owned(), OUTLIVED.get())
                })),
                _ => runtime.block_on(runtime.spawn_blocking(move || {
                    on_purpose();
                    (String::new(), false)
                })),
            };
            assert_eq!(ended.expect("the thread is well"), ("on purpose".to_owned(), false));
            return;
        }
        let process = |panics: &str| {
            let mut program = std::process::Command::new(std::env::current_exe().expect("itself"));
            program.args(["--exact", "--nocapture"]);
            program.arg(
                "panics::tests::process_outlives_an_outlived_panic_on_a_blocking_thread_and_no_other",
            );
            program.env(PANICS, panics).output().expect("a process")
        };
        let outlived = process("outlived");
        assert!(outlived.status.success(), "{outlived:?}");
        let plain = process("plain");
        let said = String::from_utf8_lossy(&plain.stderr).into_owned();
        assert_eq!((plain.status.code(), said.contains("on purpose")), (None, true), "{plain:?}");
    }
}
