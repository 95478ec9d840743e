//! `flotilla-server` with failpoints, for tests: the variable `FAILPOINTS` says which do what. One that stands still says
//! so, as whoever kills the process there has to know that it got there.

use std::{
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
};

/// As in the product, so that the tests run what is shipped.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let scenario = fail::FailScenario::setup();
    for (point, actions) in fail::list() {
        if let Some(passes) = passes_before_pause(&actions) {
            stand_still_aloud(point, passes);
        }
    }
    let outcome = flotilla_server::cli::main();
    scenario.teardown();
    outcome
}

/// Of `<passes>*off->pause`.
fn passes_before_pause(actions: &str) -> Option<u64> {
    actions.strip_suffix("*off->pause")?.parse().ok()
}

/// As `<passes>*off->pause`, with a line that says where.
fn stand_still_aloud(point: String, passes: u64) {
    let passed = AtomicU64::new(0);
    let name = point.clone();
    let act = move || {
        if passed.fetch_add(1, Ordering::Relaxed) < passes {
            return;
        }
        say(&format!("stands still at {name}"));
        loop {
            std::thread::park();
        }
    };
    fail::cfg_callback(point, act).expect("a failpoint takes any callback");
}

#[expect(clippy::disallowed_macros, reason = "beside the logger, which may be behind")]
fn say(text: &str) {
    eprintln!("{text}");
}
