//! The world as one pass needs it: a look, a note, and one change at a time.
//!
//! Two things stand behind it: Kubernetes and the nodes (`kubernetes.rs`, `nodes.rs`), and the
//! simulation of the tests, which ends the operator before and after every change.

use std::future::Future;

use k8s_openapi::jiff::Timestamp;

use crate::{
    crd::{KvCluster, KvClusterStatus},
    error::Error,
    key::Key,
    plan::{Call, Change},
    seen::Seen,
};

/// What came of a change that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    AsAsked,
    /// But there was no disk of the claim to keep: its PersistentVolume is no more, or another claim's.
    NothingKept,
}

/// What the operator sees, and what it can do.
pub trait World: Send + Sync {
    /// One look; `None` when there is no such cluster.
    fn look(&self, key: &Key) -> impl Future<Output = Result<Option<Seen>, Error>> + Send;

    /// Replaces the status of the version of the cluster that was seen.
    ///
    /// # Errors
    /// `Moved` when the cluster was changed since: two operators cannot both note something.
    fn note(
        &self,
        cluster: &KvCluster,
        status: &KvClusterStatus,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// One change of an object.
    fn change(
        &self,
        key: &Key,
        change: &Change,
    ) -> impl Future<Output = Result<Made, Error>> + Send;

    /// One call to a node. Those that any node can answer go to one that answered in this look.
    fn call(&self, seen: &Seen, call: &Call) -> impl Future<Output = Result<(), Error>> + Send;

    /// The wall clock.
    fn now(&self) -> Timestamp;
}
