//! Real servers: starting, breaking and asking them.
//!
//! A `Cluster` owns its processes: when it goes out of scope they are killed, their logs are read
//! for errors that nobody expected, and the directory is kept if the test failed. Only one cluster
//! runs at a time on a machine (`Turn`), because three servers on two cores are load enough, and
//! a test that fails because another one was greedy teaches nothing.

mod binary;
mod cluster;
mod damage;
mod eventually;
mod faults;
mod http;
mod launch;
mod log_lines;
mod node;
mod ports;
mod proxy;
mod rpc;
mod say;
mod scratch;
mod turn;

pub use binary::binary;
pub use cluster::Cluster;
pub use damage::{copy_dir, cut_short, flip_bit, newest_wal, tear_tail};
pub use eventually::{elapse, eventually, within};
pub use http::{HttpReply, http};
pub use launch::Builder;
pub use node::{Node, Start};
pub use proxy::Proxy;
pub use rpc::{Outcome, Session, detail, outcome, reason};
pub use say::{say, say_aloud};
pub use scratch::Scratch;
pub use turn::Turn;

use std::hash::{BuildHasher as _, Hasher as _, RandomState};

/// The seed of this run: `SEED` of the environment, else a fresh one. It is printed, so that a
/// failure can be repeated (as far as real processes and a real clock repeat anything).
#[must_use]
pub fn seed() -> u64 {
    let seed = match std::env::var("SEED") {
        Ok(text) => text.parse().expect("SEED is a whole number"),
        Err(_) => RandomState::new().build_hasher().finish(),
    };
    let test = std::thread::current().name().unwrap_or("test").to_owned();
    say(format!("{test}: repeat with SEED={seed}"));
    seed
}

/// A whole number from the environment, for tests whose size can be chosen.
///
/// # Panics
/// When the variable is set to something else.
#[must_use]
pub fn env_number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => {
            text.parse().unwrap_or_else(|_| panic!("{name} is not a whole number: {text:?}"))
        }
        Err(_) => default,
    }
}

/// Whether what this machine lacks must fail a test (`CI=true`) rather than skip it aloud.
#[must_use]
pub fn strict() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true" || value == "1")
}
