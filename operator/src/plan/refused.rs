//! What was refused a moment ago waits, whatever it is, and why is told.
//!
//! Rungs that keep objects as they should be pass over what was refused, so that the plan goes on below them. The
//! others have something in mind that comes next: a node that may not be removed, a pod that may not be deleted. It
//! is tried ever more seldom, and meanwhile it is a wait like others: what goes on beside it the ladder decides.

use std::fmt::Display;

use k8s_openapi::jiff::Timestamp;

use super::{Action, Deed, Step, Target, View};
use crate::{
    answers::{Cause, Refused},
    seen::Seen,
};

impl View<'_> {
    /// The first that was not refused a moment ago; else the first. Each is for itself: a policy that holds one node,
    /// pod or volume says nothing of another.
    pub(super) fn first_of(&mut self, steps: impl IntoIterator<Item = Step>) -> Option<Step> {
        let mut refused = None;
        for step in steps {
            match self.unless_refused(step) {
                step @ Step::Refused(..) => {
                    refused.get_or_insert(step);
                }
                step => return Some(step),
            }
        }
        refused
    }

    pub(super) fn unless_refused(&mut self, step: Step) -> Step {
        let Step::Act(operation, action, what) = step else { return step };
        let Some(refused) = self.seen.answers.refusal(&action, self.now) else {
            return Step::Act(operation, action, what);
        };
        let why = refused.why;
        // That is told whether it is tried or not.
        let is_growth = matches!(action.deed(), Deed::GrowVolume | Deed::TakeSizeBack);
        if refused.is_told && !is_growth {
            let name = action.name();
            let (reason, what) = match &action {
                Action::Latch { .. } => ("ActionRefused", name.to_owned()),
                Action::Call(call) => ("CallRefused", format!("{name} of {}", call.target())),
                Action::Change(change) => match change.target() {
                    Target::Child(child) => ("ApplyRefused", child.title(self.desired)),
                    Target::Named(target) => ("ActionRefused", format!("{name} of {target}")),
                },
            };
            self.tell_refusal(reason, what, refused.cause, why);
        }
        if refused.may_try {
            Step::Act(operation, action, what)
        } else {
            Step::Refused(operation, told(self.seen, &action, what, self.now))
        }
    }

    /// `reason`: of what the other side will not have, or cannot. It says whom to ask, and which alert holds; of what others
    /// have otherwise that is nobody.
    pub(super) fn tell_refusal(
        &mut self,
        reason: &'static str,
        what: impl Display,
        cause: Cause,
        why: &str,
    ) {
        let (reason, is) = match cause {
            Cause::Refused => (reason, "is refused"),
            Cause::Failed => (reason, "fails"),
            Cause::Contended => ("Contended", "does not come about"),
        };
        self.trouble(reason, format!("{what} {is}: {why}"));
    }
}

/// The same words while it waits and while it is tried: others are written into the status.
pub(super) fn told(seen: &Seen, action: &Action, what: String, now: Timestamp) -> String {
    match seen.answers.refusal(action, now) {
        None => what,
        Some(Refused { cause, why, .. }) => match cause {
            Cause::Refused => format!("{what}; refused: {why}"),
            Cause::Failed => format!("{what}; it fails: {why}"),
            Cause::Contended => format!("{what}; it does not come about: {why}"),
        },
    }
}
