//! What a panic ends.
//!
//! A thread that died alone would leave the others waiting for it: without the log's writer the node would
//! be up, and deaf. So a panic ends the process, whichever thread or task it is in, and what is on the
//! disk is enough to start again. Except where the code around says that it outlives it: a command that
//! panics when it is applied would else end every node that has the region, again at each start.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::pin,
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

/// Runs what may panic: the caller catches it, and stands up for what is left.
pub(crate) fn outlive<T>(act: impl FnOnce() -> T) -> T {
    let _restore = Restore(OUTLIVED.replace(true));
    act()
}

/// As [`outlive`], each time that the future is polled.
pub(crate) async fn outlive_async<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|cx| outlive(|| future.as_mut().poll(cx))).await
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
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn only_what_is_outlived_is_marked_and_only_while_it_runs() {
        assert!(!OUTLIVED.get());
        assert!(outlive(|| OUTLIVED.get()));
        let caught = std::panic::catch_unwind(|| outlive(|| panic!("on purpose")));
        assert!(caught.is_err() && !OUTLIVED.get());
        let applying = async {
            assert!(OUTLIVED.get());
            tokio::task::yield_now().await;
            panic!("on purpose, {}", OUTLIVED.get());
        };
        let caught = outlive_async(std::panic::AssertUnwindSafe(applying).catch_unwind()).await;
        let said = caught.expect_err("it panics");
        assert_eq!(said.downcast_ref::<String>().map(String::as_str), Some("on purpose, true"));
        assert!(!OUTLIVED.get());
    }
}
