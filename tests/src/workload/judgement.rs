//! What must hold of a cluster after all that happened to it.

use std::time::Duration;

use super::Ledger;
use crate::{
    harness::{Session, eventually},
    history::{Budget, Operation, check, check_revisions},
};

/// Nothing acknowledged is missing on any node, all peers come to the same state, and what clients saw is what
/// one copy of the data would have shown them.
///
/// # Panics
/// When one of these does not hold.
pub async fn nothing_is_lost(
    sessions: &[Session],
    ledger: &Ledger,
    operations: &[Operation],
    bound: Duration,
) {
    for session in sessions {
        ledger.verify(session).await;
    }
    eventually("all peers to have the same state", bound, async || {
        sessions[0].check_regions().await
    })
    .await;
    let verdict = check(operations, Budget::default());
    assert!(verdict.is_legal(), "{verdict:#?}");
    check_revisions(operations).expect("revisions of a key only grow");
}
