//! What must hold of a cluster after all that happened to it.

use std::{sync::Arc, time::Duration};

use super::{Plain, Store, Workload};
use crate::harness::{Session, eventually};

/// Checks a workload through each of these nodes, after its workers have ended.
///
/// # Panics
/// When a promise was broken, or nothing was ever answered, so that nothing is shown.
pub async fn assert_kept<'a>(
    workload: &dyn Workload,
    sessions: impl IntoIterator<Item = &'a Session>,
) {
    assert!(workload.changed() > 0, "no change was acknowledged, so nothing is shown");
    let store = |session: &Session| Arc::new(Plain::from(session)) as Arc<dyn Store>;
    let stores: Vec<Arc<dyn Store>> = sessions.into_iter().map(store).collect();
    if let Err(why) = workload.check(&stores).await {
        panic!("{why}");
    }
}

/// Nothing that any of the workloads was promised is missing on any node, and all peers come to the same state.
///
/// # Panics
/// When one of these does not hold.
pub async fn nothing_is_lost(sessions: &[Session], workloads: &[&dyn Workload], bound: Duration) {
    for workload in workloads {
        assert_kept(*workload, sessions).await;
    }
    eventually("all peers to have the same state", bound, async || {
        sessions[0].check_regions().await
    })
    .await;
}
