//! The ladder: who is asked in which order, and what goes on while something is waited for.
//!
//! A rung that waits, as for a machine that comes back after days, must not keep the cluster from what would
//! help it, nor from what has nothing to do with it. So each rung says what it may cost and each wait what it
//! excludes, and here alone is decided what follows from the two.

use super::{Step, View};

/// What a rung may cost a cluster of which something is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cost {
    /// It restarts nobody and moves nothing, as the growth of a volume. It goes on beside every wait: a drain may
    /// wait for just that room.
    Nothing,
    /// A node comes, or stays, or Kubernetes is let take one when nothing is missing. Beside all but a pod that
    /// is away by our doing: that is over in a moment, and what comes meanwhile would be restarted next.
    More,
    /// A node or a pod goes, or copies are given up or moved. Beside no wait at all: so a repair excludes a roll.
    Less,
}

struct Rung {
    ask: fn(&mut View<'_>) -> Option<Step>,
    cost: Cost,
    /// Not asked while the pods' template stays as it is.
    brings_template: bool,
    /// Ordering: a deed that is refused was not done, and so excludes what a wait of its rung would: a drain that is
    /// not called back goes on. Not so where no rung below counts on it: what serves nobody and may not be made anew
    /// is missed by them all the same, and a volume that does not grow takes nothing away.
    holds_if_refused: bool,
}

const fn rung(cost: Cost, ask: fn(&mut View<'_>) -> Option<Step>) -> Rung {
    Rung { ask, cost, brings_template: false, holds_if_refused: true }
}

const fn template(cost: Cost, ask: fn(&mut View<'_>) -> Option<Step>) -> Rung {
    Rung { ask, cost, brings_template: true, holds_if_refused: true }
}

/// A refused deed of it keeps nothing waiting.
const fn lets_go_on(rung: Rung) -> Rung {
    Rung { holds_if_refused: false, ..rung }
}

/// Objects come before repairs, and pods that do not run are made anew before anything is waited for: a spec that
/// is put right must reach the pod that everything else waits for.
const LADDER: [Rung; 22] = [
    rung(Cost::Nothing, |view| view.keep_volumes()),
    rung(Cost::Nothing, |view| view.missing_children()),
    rung(Cost::Nothing, |view| view.take_marks_off()),
    rung(Cost::Nothing, |view| view.cover_members()),
    rung(Cost::Nothing, |view| view.begin()),
    rung(Cost::Nothing, |view| view.children()),
    rung(Cost::Nothing, |view| view.note_volumes()),
    rung(Cost::Nothing, |view| view.own_volumes()),
    lets_go_on(template(Cost::Less, |view| view.refresh())),
    lets_go_on(template(Cost::Less, |view| view.make_possible())),
    rung(Cost::Nothing, |view| view.take_back()),
    rung(Cost::Less, |view| view.repair()),
    rung(Cost::More, |view| view.join()),
    // Of itself it only calls a node back.
    rung(Cost::More, |view| view.drain()),
    rung(Cost::Less, |view| view.change_factor()),
    lets_go_on(rung(Cost::Nothing, |view| view.grow())),
    template(Cost::Less, |view| view.roll()),
    template(Cost::More, |view| view.add_pods()),
    rung(Cost::Less, |view| view.scale_down()),
    rung(Cost::Nothing, |view| view.drop_configs()),
    rung(Cost::More, |view| view.wait_to_begin().or_else(|| view.open_budget())),
    rung(Cost::Nothing, |view| view.wait_for_growth()),
];

impl View<'_> {
    /// The first rung that has something to do; else the first that waits. At most one change comes of it.
    pub(super) fn climb(&mut self) -> Option<Step> {
        let holds_template = self.holds_template();
        let (mut waits, mut held_up) = (None, None);
        for rung in &LADDER {
            let may_go_on = match &waits {
                None => true,
                Some(Step::Away(..)) => rung.cost == Cost::Nothing,
                Some(_) => rung.cost != Cost::Less,
            };
            if !may_go_on || (rung.brings_template && holds_template) {
                continue;
            }
            match (rung.ask)(self).map(|step| self.unless_refused(step)) {
                None => {}
                Some(Step::Refused(operation, why)) if !rung.holds_if_refused => {
                    held_up.get_or_insert(Step::HeldUp(operation, why));
                }
                Some(step @ Step::HeldUp(..)) => {
                    held_up.get_or_insert(step);
                }
                Some(step @ (Step::Wait(..) | Step::Away(..) | Step::Refused(..))) => {
                    waits.get_or_insert(step);
                }
                Some(step) => return Some(beside(waits.as_ref(), step)),
            }
        }
        waits.or(held_up)
    }
}

/// What is waited for stays noted: by it the next look knows which disk, node or pod it is, and since when.
fn beside(waits: Option<&Step>, step: Step) -> Step {
    match (waits, step) {
        (
            Some(Step::Wait(noted, _) | Step::Away(noted, _) | Step::Refused(noted, _)),
            Step::Act(_, action, why) | Step::Keep(action, why),
        ) => Step::Act(noted.clone(), action, why),
        (_, step) => step,
    }
}
