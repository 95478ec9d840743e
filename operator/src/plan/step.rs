//! What one rung of the ladder decides, and what the operations are for.

use super::Action;
use crate::crd::Operation;

/// What an operation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Create,
    ScaleUp,
    ScaleDown,
    CancelScaleDown,
    ReplicationFactor,
    RollingUpdate,
    Repair,
    /// Pods that somebody took away are put back.
    Restore,
    GrowVolumes,
    Stop,
    Start,
}

impl Kind {
    /// As it stands in the status. Invariant: never another text for the same kind, since an operation
    /// that an older operator began is found again by it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Create => "Create",
            Self::ScaleUp => "ScaleUp",
            Self::ScaleDown => "ScaleDown",
            Self::CancelScaleDown => "CancelScaleDown",
            Self::ReplicationFactor => "ReplicationFactor",
            Self::RollingUpdate => "RollingUpdate",
            Self::Repair => "Repair",
            Self::Restore => "Restore",
            Self::GrowVolumes => "GrowVolumes",
            Self::Stop => "Stop",
            Self::Start => "Start",
        }
    }
}

/// One rung's decision.
pub(super) enum Step {
    Act(Operation, Action, String),
    /// For something that is to be over before a node or a copy goes.
    Wait(Operation, String),
    /// For a pod that is away by our doing.
    Away(Operation, String),
    /// It was refused a moment ago, so that nothing of it was done; it is tried again later.
    Refused(Operation, String),
    /// Nothing of it is under way: it is refused for now, and a rung below may bring about what it waits for.
    HeldUp(Operation, String),
    /// Objects that are kept as they should be; no operation of several steps.
    Keep(Action, String),
}
