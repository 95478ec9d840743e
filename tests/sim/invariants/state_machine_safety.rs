//! No two peers apply different entries at one index (Raft, section 5.4.3).

use super::{Committed, Invariant, Moment};

pub(super) struct StateMachineSafety;

impl Invariant for StateMachineSafety {
    fn name(&self) -> &'static str {
        "state-machine-safety"
    }

    fn check(&mut self, _: &Moment<'_>, committed: &Committed) -> Result<(), String> {
        committed.conflict.clone().map_or(Ok(()), Err)
    }
}
