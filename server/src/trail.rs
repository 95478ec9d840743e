//! Where a request went and what took its time, for the line that it leaves in the log when it was slow.
//!
//! The notes belong to the task: who takes a request in serves it in a [`scope`], and whom it passes [`note`]s
//! what he knows, so that no signature on the way needs a place for it. Where there is no scope nobody asked, and
//! the note is dropped.

use std::{cell::RefCell, future::Future, net::SocketAddr};

use bytes::Bytes;
use tokio::{task::futures::TaskLocalFuture, time::Instant};

use crate::ids::{NodeId, RegionId};

/// What is known of a request so far. Of a request with many parts: of the last one.
#[derive(Clone, Debug, Default)]
pub struct Trail {
    /// Who asks.
    pub client: Option<SocketAddr>,
    /// The first key, encoded.
    pub key: Option<Bytes>,
    pub region: Option<RegionId>,
    /// The node that it was passed on to.
    pub passed_on_to: Option<NodeId>,
    /// When a write was handed to Raft.
    pub proposed: Option<Instant>,
    /// When it was on a majority of disks; then it is applied.
    pub committed: Option<Instant>,
}

tokio::task_local! {
    static TRAIL: RefCell<Trail>;
}

/// A future with notes of its own.
pub type Scoped<F> = TaskLocalFuture<RefCell<Trail>, F>;

/// Keeps notes of what `future` does, for `client`.
pub fn scope<F: Future>(client: Option<SocketAddr>, future: F) -> Scoped<F> {
    TRAIL.scope(RefCell::new(Trail { client, ..Trail::default() }), future)
}

/// Adds what the caller knows.
pub fn note(add: impl FnOnce(&mut Trail)) {
    let _ = TRAIL.try_with(|trail| add(&mut trail.borrow_mut()));
}

/// The notes so far; empty outside of a scope.
#[must_use]
pub fn current() -> Trail {
    TRAIL.try_with(|trail| trail.borrow().clone()).unwrap_or_default()
}
