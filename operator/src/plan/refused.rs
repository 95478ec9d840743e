//! What was refused a moment ago waits, whatever it is, and why is told.
//!
//! Rungs that keep objects as they should be pass over what was refused, so that the plan goes on below them. The
//! others have something in mind that comes next: a node that may not be removed, a pod that may not be deleted. It
//! is theirs to come first, so all below waits with it, and is tried ever more seldom.

use super::{Action, Step, Target, View};

impl View<'_> {
    pub(super) fn unless_refused(&mut self, step: Option<Step>) -> Option<Step> {
        let Some(Step::Act(operation, action, what)) = step else { return step };
        let Some(refused) = self.seen.answers.refusal(&action, self.now) else {
            return Some(Step::Act(operation, action, what));
        };
        let why = refused.why;
        if refused.is_told {
            let name = action.name();
            let (reason, message) = match &action {
                Action::Latch { .. } => ("ActionRefused", format!("{name} is refused: {why}")),
                Action::Call(call) => {
                    ("ActionRefused", format!("{name} of {} is refused: {why}", call.target()))
                }
                Action::Change(change) => match change.target() {
                    Target::Child(child) => {
                        let title = child.title(self.desired);
                        ("ApplyRefused", format!("{title} is refused: {why}"))
                    }
                    Target::Named(target) => {
                        ("ActionRefused", format!("{name} of {target} is refused: {why}"))
                    }
                },
            };
            self.trouble(reason, message);
        }
        let why = format!("{what}; refused: {why}");
        // The same words while it waits and while it is tried: others are written into the status.
        Some(if refused.may_try {
            Step::Act(operation, action, why)
        } else {
            Step::Wait(operation, why)
        })
    }
}
