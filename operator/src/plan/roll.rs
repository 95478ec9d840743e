//! Pods that were started with another template are restarted: first those that do not run anyway,
//! then one node at a time, and never while something else is missing.
//!
//! A node is emptied of leaders before its pod is deleted, so that clients need no election to go on.
//! With a template that does not start, the first pod does not come back, and the roll waits there
//! until the spec is put right. A pod is compared by the hash of the spec it was started with, never
//! with the StatefulSet's revision: that changes with the operator's code.
//!
//! Ordering: the new template is written to the StatefulSet of a pod when the pod is about to be deleted, and
//! not before: until then a pod that is evicted or deleted comes back as it was, if it does so within
//! [`ABSENCE_SECONDS`]. One that is away for longer, or has not served for as long, has its turn then: it is given
//! the new template where another pod runs with it, or none has been given it yet. Where none runs with it, that takes
//! [`DESPAIR_SECONDS`] while another node is missed as well, and of a pod that has not been started yet with what others
//! run with: its volume may be on its way to another machine.

use std::time::Duration;

use serde_json::Value;

use super::{Action, Call, Change, Kind, Step, View, live::is_terminating, scale::Template, up};
use crate::{
    children::{self, Child},
    clock,
    crd::Operation,
    seen::{Node, Pod, Row, State},
};

/// Leaders are kept away for this long by one call; it is longer than a restart takes.
const EVICTION: Duration = Duration::from_secs(120);
/// Bound: leaders that are still there by then are handed over by the server as it stops.
const EVICTION_WAIT_SECONDS: i64 = 30;
/// Bound: a pod that was taken away is there again by then, in whatever state, if it can be made at all; and one
/// that only starts runs.
const ABSENCE_SECONDS: i64 = 30;
/// Bound: a pod has come back by then, or will not by itself: of a cluster of which nothing runs, as it was; of a
/// roll, with what it was given.
const DESPAIR_SECONDS: i64 = 300;

/// Bound: what is ready for less, in seconds, may be about to end: a server that comes up within its memory limit
/// goes over it when it has leaders and caches. One look is no proof. A roll waits so long at every pod, so it is
/// no longer than catches what ends at once; what has ended before is watched for longer.
const SOAK_SECONDS: i64 = 15;
/// Bound: the same of a container that has ended before, since it was started: longer than Kubernetes waits
/// between two starts of one that ends again and again.
const SOAK_AFTER_END_SECONDS: i64 = 300;

/// The step of a pod that is missed, with its old template.
const STEP_ABSENT: &str = "WaitForPod";

/// Steps of a pod whose leaders are told to go, until it is deleted.
const THIS_TURN: [&str; 3] = ["EvictLeaders", "WriteTemplate", "DeletePod"];

/// A template that is written, as a place that somebody may fight about.
const TEMPLATE: &str = ".spec.template";

/// Steps of a roll of which nothing is under way: who is next is still open.
const OPEN_STEPS: [&str; 2] = ["Blocked", "TakeTemplateBack"];

/// The server serves, whatever else in the pod does not: a container that was laid over its template may keep it
/// from being ready.
fn serves(pod: &Pod) -> bool {
    matches!(&pod.node, Node::Joined(joined) if joined.ready)
}

impl<'a> View<'a> {
    /// Outdated pods that serve nobody are made anew without waiting for a turn, unless they are about to come
    /// back as they were.
    pub(super) fn refresh(&mut self) -> Option<Step> {
        if self.is_emptying_a_disk() || self.lacks_what_pods_start_with() {
            return None;
        }
        let outdated = self.seen.pods.iter().filter(|(ordinal, pod)| {
            self.is_outdated(pod)
                && pod.ours
                && !pod.terminating
                && self.serves_nobody(**ordinal, pod)
                && self.can_be_spared(**ordinal, pod).is_ok()
                && self.may_renew(**ordinal)
                && (!self.is_initialized() || self.may_jump_the_queue(**ordinal, pod))
        });
        let steps = outdated.map(|(ordinal, pod)| {
            let operation = self.operation(Kind::RollingUpdate, &pod.name, "DeletePod");
            let why = format!("pod {} does not serve and has an old template", pod.name);
            self.renew(*ordinal, pod, operation, why)
        });
        let steps: Vec<_> = steps.collect();
        self.first_of(steps)
    }

    /// A pod that was evicted or that ran out of memory serves nobody for a while, too: it is to come back as it
    /// was, all the more when the template that is asked for has been given to another one and that does not
    /// run with it.
    fn may_jump_the_queue(&self, ordinal: i32, pod: &Pod) -> bool {
        let is_empty = pod.running && matches!(pod.node, Node::Unjoined { .. });
        let waits = self.patience(ordinal, Some(pod));
        (is_empty || self.is_not_ready_for(pod, waits)) && self.is_trusted(ordinal, Some(pod))
    }

    /// Somebody runs with the template that is asked for, and this one would.
    fn is_tested(&self, ordinal: i32) -> bool {
        self.seen.pods.iter().any(|(other, pod)| {
            !self.is_outdated(pod) && self.runs(pod) && self.speaks_for(ordinal, *other, pod)
        })
    }

    /// For how many seconds a pod may be about to come back as it was. While another one is missed a template that
    /// no pod runs with may cost a quorum, where the old one was only slow, as when its image is fetched by another
    /// machine: so it is given to one only when the old one has failed, or will not come any more. Nor is a pod that has
    /// not been started yet made anew with it, while its volume comes and its image is fetched, if others run with the old.
    fn patience(&self, ordinal: i32, pod: Option<&Pod>) -> i64 {
        let has_failed = pod.is_some_and(Pod::has_failed);
        let starts = pod.is_some_and(|pod| {
            let has_it = |other: &Pod| other.template_hash == pod.template_hash;
            let runs_too = |other: &Pod| self.runs(other) && has_it(other);
            !pod.was_started() && self.seen.pods.values().any(runs_too)
        });
        let mut others = self.seen.held().filter(|other| *other != ordinal);
        let is_missed = |other: i32| {
            self.pod(other).is_none_or(|pod| pod.terminating || !(pod.ready || serves(pod)))
        };
        let waits = !has_failed && !self.is_tested(ordinal) && (starts || others.any(is_missed));
        if waits { DESPAIR_SECONDS } else { ABSENCE_SECONDS }
    }

    /// It answers, well or not, and has found its data.
    ///
    /// Invariant: where there may be data a pod proves its template only as a node. One that is up with an empty disk proves
    /// that its program starts, which says nothing of the others: see [`Self::is_trusted`].
    fn runs(&self, pod: &Pod) -> bool {
        match pod.node {
            Node::Joined(_) => pod.ready || pod.running,
            Node::Unjoined { .. } => pod.running && !self.may_hold_data(),
            Node::Removed { .. } => false,
            // Kubernetes reaches it, and we do not.
            Node::Silent(_) => pod.ready,
        }
    }

    /// The template that is asked for runs in another pod, or no other has been given it. Or nothing runs, and
    /// has not for long, that pod among them.
    ///
    /// Never where another pod came up with an empty disk on the claim that holds a node: with that template this one
    /// would not find its data either. One that is empty by right, as it is no node yet, says neither, and is no reason to
    /// wait for it: it may never join while the others do not run.
    ///
    /// A node that was begun with the template proves it for no older disk ([`Self::speaks_for`]): as long as it runs, it
    /// counts as if nobody had been given it.
    fn is_trusted(&self, ordinal: i32, pod: Option<&Pod>) -> bool {
        let with_it = self.seen.pods.iter();
        let mut with_it = with_it.filter(|(at, pod)| **at != ordinal && !self.is_outdated(pod));
        if with_it.any(|(at, pod)| self.hides_its_disk(*at, pod).is_some()) {
            return false;
        }
        let wished = Some(self.desired.template_hash.as_str());
        // What ends again and again runs in between, too. Only where nothing is ready with the template that this
        // pod would come back with is that enough: else a cluster that is wholly down would stay so.
        let own = match self.pod(ordinal) {
            Some(pod) => pod.template_hash.as_deref(),
            None => self.seen.set(ordinal).and_then(children::template_hash),
        };
        let has_own = |pod: &Pod| pod.ready && pod.template_hash.as_deref() == own;
        let comes_back = self.seen.pods.values().any(has_own);
        let proves = |pod: &Pod| self.runs(pod) && (!comes_back || self.runs_well(pod));
        let others = self.seen.sets().filter(|(other, set)| {
            *other != ordinal
                && children::replicas(set) > 0
                && children::template_hash(set) == wished
        });
        let mut is_given = false;
        for (other, _) in others {
            let pod = self.pod(other);
            let runs = pod.is_some_and(|pod| !self.is_outdated(pod) && proves(pod));
            let speaks = pod.is_some_and(|pod| self.speaks_for(ordinal, other, pod));
            if runs && speaks {
                return true;
            }
            let is_new = |pod: &Pod| matches!(pod.node, Node::Unjoined { .. });
            let says_neither =
                runs || (pod.is_some_and(is_new) && self.node_of_claim(other).is_none());
            is_given |= !says_neither;
        }
        let runs = |pod: &Pod| self.runs(pod);
        let despairs = || pod.is_some_and(|pod| self.is_not_ready_for(pod, DESPAIR_SECONDS));
        !is_given || (!self.seen.pods.values().any(runs) && despairs())
    }

    /// Ready for as long as shows that it runs with what it was started with.
    pub(super) fn runs_well(&self, pod: &Pod) -> bool {
        let lasts = |since: Option<&str>, seconds| {
            since.is_none_or(|since| self.has_lasted(&pod.uid, since, seconds))
        };
        // Since the start: readiness comes and goes with the leaders of regions.
        let stays =
            pod.restarts == 0 || lasts(pod.running_since.as_deref(), SOAK_AFTER_END_SECONDS);
        pod.ready && lasts(pod.ready_since.as_deref(), SOAK_SECONDS) && stays
    }

    /// There is what makes a pod anew, and it has the template that is asked for or can be given it.
    fn may_renew(&self, ordinal: i32) -> bool {
        let child = Child::StatefulSet(ordinal);
        let Some(live) = self.seen.set(ordinal) else { return false };
        let may_write = || {
            let want = self.stateful_set(ordinal, 1, Template::AsAsked);
            self.may_try(child)
                && self.seen.answers.may_put_back(child, &want, TEMPLATE, self.now).is_ok()
        };
        // With a claim that is somebody else's it would not come back as ours.
        let comes_back = !is_terminating(live) && self.is_theirs(ordinal).is_none();
        comes_back && self.may_end(ordinal) && (!self.lacks_template(ordinal, live) || may_write())
    }

    /// It has not the template that would be sent now.
    fn lacks_template(&self, ordinal: i32, live: &Value) -> bool {
        self.waits_for_its_turn(ordinal, live) || self.is_of_other_code(ordinal, live)
    }

    /// Its turn: the template first, then the pod.
    fn renew(&self, ordinal: i32, pod: &Pod, mut operation: Operation, why: String) -> Step {
        if self.seen.set(ordinal).is_some_and(|live| self.lacks_template(ordinal, live)) {
            "WriteTemplate".clone_into(&mut operation.step);
            return Step::Act(operation, Action::Change(self.write_template(ordinal)), why);
        }
        "DeletePod".clone_into(&mut operation.step);
        let change = Change::DeletePod { name: pod.name.clone(), uid: pod.uid.clone() };
        Step::Act(operation, Action::Change(change), why)
    }

    fn write_template(&self, ordinal: i32) -> Change {
        let set = self.stateful_set(ordinal, 1, Template::AsAsked);
        Change::Apply(Child::StatefulSet(ordinal), Box::new(set), Some(TEMPLATE.to_owned()))
    }

    /// A pod that Kubernetes does not make: with its old template it may not be able to, and a new one can
    /// reach it by no other way.
    pub(super) fn make_possible(&self) -> Option<Step> {
        if self.lacks_what_pods_start_with() {
            return None;
        }
        let (ordinal, _) = self.seen.sets().find(|(ordinal, live)| {
            children::replicas(live) > 0
                && self.pod(*ordinal).is_none()
                && self.waits_for_its_turn(*ordinal, live)
                && self.may_renew(*ordinal)
                && self.is_trusted(*ordinal, None)
        })?;
        let name = self.pod_name(ordinal);
        let mut operation = self.operation(Kind::RollingUpdate, &name, STEP_ABSENT);
        // It may have been next for hours, or be the one whose leaders went: the wait begins when it is missed.
        let waits = self.recorded(Kind::RollingUpdate).is_some_and(|old| old.step == STEP_ABSENT);
        if !waits {
            operation.started_at = clock::text(self.now);
        }
        if !self.lasts(&operation, self.patience(ordinal, None)) {
            return Some(Step::Away(operation, format!("pod {name} is to be made anew")));
        }
        let why = format!("no pod {name} has come with its old template");
        // The step stays: by it the next look, which acts, knows since when the pod is missed.
        Some(Step::Act(operation, Action::Change(self.write_template(ordinal)), why))
    }

    /// A template that was written for a pod, which then kept the one it has: another node went down before it was
    /// deleted, nothing was done for a while, or something else is asked for by now. An accident would bring it
    /// untested, so it is taken back until it is the pod's turn again.
    pub(super) fn take_back(&self) -> Option<Step> {
        self.seen.sets().find_map(|(ordinal, live)| {
            let child = Child::StatefulSet(ordinal);
            let pod = self.pod(ordinal)?;
            let has_its_own = children::template_hash(live) == pod.template_hash.as_deref();
            let is_ahead = !has_its_own && self.is_outdated(pod);
            let serves = !pod.terminating && !self.serves_nobody(ordinal, pod);
            if !is_ahead || !serves || !self.may_try(child) || is_terminating(live) {
                return None;
            }
            let row = self.member(ordinal)?;
            let why = match &self.version_refused {
                Some(refused) if refused.holds => refused.why.clone(),
                // What passes with the next look, as a leader that is elected, would turn it again and again.
                _ => self.nobody_is_missing(row).err()?,
            };
            // With none to be had all the others have been given the new one.
            self.template_of_before(ordinal)?;
            let set = self.stateful_set(ordinal, 1, Template::OfItsPod);
            let answers = &self.seen.answers;
            answers.may_put_back(child, &set, TEMPLATE, self.now).ok()?;
            let operation = self.operation(Kind::RollingUpdate, &pod.name, "TakeTemplateBack");
            let why = format!("pod {} is to come back as it is: {why}", pod.name);
            let change = Change::Apply(child, Box::new(set), Some(TEMPLATE.to_owned()));
            Some(Step::Act(operation, Action::Change(change), why))
        })
    }

    /// A repair has given a node up and is about to empty its disk: what it was begun for must stay on
    /// record until then, unless the claim says so itself.
    fn is_emptying_a_disk(&self) -> bool {
        let Some(repair) = self.recorded(Kind::Repair) else { return false };
        let mut disks = self.seen.volumes.values();
        let is_marked = disks.any(|disk| {
            repair.volume_uid.as_deref() == Some(&disk.uid) && disk.decommissioned.is_some()
        });
        if is_marked {
            return false;
        }
        let node = repair.node_id.and_then(|id| u64::try_from(id).ok());
        let gone = |row: &Row| matches!(row.state, State::Draining | State::Removed);
        let pod = self.seen.pods.values().find(|pod| pod.name == repair.target);
        node.and_then(|id| self.seen.row(id)).is_some_and(gone)
            && pod.is_some_and(|pod| matches!(pod.node, Node::Silent(_)))
    }

    fn serves_nobody(&self, ordinal: i32, pod: &Pod) -> bool {
        if !pod.running || matches!(pod.node, Node::Unjoined { .. }) {
            return true;
        }
        // With what they were started with they elect nobody: there is no quorum to lose.
        let is_dead = self.seen.table.is_none() && self.regions.elect_nobody();
        let lasts = || self.is_not_ready_for(pod, DESPAIR_SECONDS);
        if is_dead && !pod.ready && !serves(pod) && lasts() {
            return true;
        }
        // It runs and does not answer us: that may be our fault, so only if all others are well.
        let well = |(other, pod): (&i32, &Pod)| {
            *other == ordinal || (pod.ready && matches!(pod.node, Node::Joined(_)))
        };
        !pod.ready && matches!(pod.node, Node::Silent(_)) && self.seen.pods.iter().all(well)
    }

    /// Invariant: no pod is ended without which a region that is led would have no majority. Asked also of one that
    /// does not answer us, or is not heard by the driver: it may be the network between, and its peers hear it. What
    /// neither hears counts for nothing; without a driver that is not known before long.
    fn can_be_spared(&self, ordinal: i32, pod: &Pod) -> Result<(), String> {
        let mut known = self.seen.noted_members().filter(|member| member.pod_name == pod.name);
        let (node, is_heard) = match (&pod.node, &self.seen.table) {
            (Node::Joined(joined), _) => (joined.node_id, true),
            (Node::Unjoined { .. } | Node::Removed { .. }, _) => return Ok(()),
            (Node::Silent(_), Some(_)) => match self.member(ordinal) {
                Some(row) => (row.node_id, row.alive),
                None => return Ok(()),
            },
            (Node::Silent(_), None) => {
                let comes_back = !self.is_not_ready_for(pod, DESPAIR_SECONDS);
                let node = known.next().and_then(|member| u64::try_from(member.node_id).ok());
                // Of no region, when it is not known: it counts for none as it does not answer.
                (node.unwrap_or(0), pod.running && comes_back)
            }
        };
        match self.regions.would_stop_without(node) {
            stops if is_heard && stops > 0 => {
                Err(format!("{stops} regions would have no quorum without it"))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn roll(&mut self) -> Option<Step> {
        // One whose template is refused is told, and keeps nobody from scaling.
        let outdated: Vec<(i32, &'a Pod)> = self
            .seen
            .pods
            .iter()
            .filter(|(ordinal, pod)| {
                self.is_outdated(pod) && !pod.terminating && self.may_renew(**ordinal)
            })
            .map(|(ordinal, pod)| (*ordinal, pod))
            .collect();
        // The one that was restarted last is waited for, and gets its leaders back.
        if let Some(operation) = self.recorded(Kind::RollingUpdate)
            && let Some(ordinal) = self.desired.names.ordinal_of_pod(&operation.target)
            && let Some(step) = self.comes_back(ordinal)
        {
            // It does not come back by itself: more nodes may be what helps.
            let lasts = self.lasts(operation, DESPAIR_SECONDS);
            return Some(match step {
                Step::Away(operation, why) if lasts => Step::HeldUp(operation, why),
                step => step,
            });
        }
        if outdated.is_empty() {
            return None;
        }
        let (ordinal, pod, row) = self.next_to_roll(&outdated)?;
        let ready = if self.lacks_what_pods_start_with() {
            Err("what it would start with is not there, or somebody else's".to_owned())
        } else if pod.ours {
            self.nothing_is_missing(row).and_then(|()| self.can_be_spared(ordinal, pod))
        } else {
            Err(format!("pod {} is not our StatefulSet's", pod.name))
        };
        if let Err(why) = ready {
            let operation = self.operation(Kind::RollingUpdate, &pod.name, "Blocked");
            let message =
                format!("{} pods have an old template; none is restarted: {why}", outdated.len());
            self.trouble("RollingUpdateBlocked", message.clone());
            // Nodes that leave or come may be what it waits for.
            return Some(Step::HeldUp(operation, message));
        }
        if let Some(step) = self.close_budget() {
            return Some(step);
        }
        let (leaders, id) = (row.leaders, row.node_id);
        let evict = leaders > 0
            && self.desired.spec.replication_factor > 1
            && self.seen.table.as_ref().is_some_and(|table| up(table).count() > 1);
        let mut operation = self.operation(Kind::RollingUpdate, &pod.name, "EvictLeaders");
        operation.node_id = i64::try_from(id).ok();
        // Blocked before, or restarted already for another template: the wait begins now.
        if !self.is_restarting() {
            operation.started_at = clock::text(self.now);
        }
        if evict && !self.lasts(&operation, EVICTION_WAIT_SECONDS) {
            if row.leaders_evicted {
                let why = format!("node {id} hands {leaders} leaders over");
                return Some(Step::Away(operation, why));
            }
            let call = Call::EvictLeaders { node_id: id, duration: EVICTION };
            let why = format!("pod {} is restarted next; its {leaders} leaders go first", pod.name);
            return Some(Step::Act(operation, Action::Call(call), why));
        }
        let why = format!("pod {} has an old template", pod.name);
        Some(self.renew(ordinal, pod, operation, why))
    }

    /// Waits for a pod that was restarted; `None` when it is back or has not been restarted.
    fn comes_back(&mut self, ordinal: i32) -> Option<Step> {
        if ordinal >= self.wanted_pods() {
            return None;
        }
        let name = self.pod_name(ordinal);
        let wait = |view: &Self, why: String| {
            let mut operation = view.operation(Kind::RollingUpdate, &name, "WaitForNode");
            operation.node_id =
                view.member(ordinal).and_then(|row| i64::try_from(row.node_id).ok());
            Some(Step::Away(operation, why))
        };
        let Some(pod) = self.pod(ordinal).filter(|pod| !pod.terminating) else {
            return wait(self, format!("pod {name} is being restarted"));
        };
        if self.is_outdated(pod) {
            return None;
        }
        let row = self.member(ordinal)?;
        if !pod.ready || !self.is_alive(row) {
            let why = match (&pod.problem, &pod.node) {
                (Some((reason, message)), _) => format!("{reason}: {message}"),
                (None, Node::Unjoined { .. }) => "its disk is empty".to_owned(),
                (None, _) => "it is not ready yet".to_owned(),
            };
            return wait(self, format!("waiting for pod {name} with its new template: {why}"));
        }
        if row.leaders_evicted {
            let mut operation = self.operation(Kind::RollingUpdate, &name, "EndEviction");
            operation.node_id = i64::try_from(row.node_id).ok();
            let call = Call::EvictLeaders { node_id: row.node_id, duration: Duration::ZERO };
            let why = format!("node {} is back and may lead again", row.node_id);
            return Some(Step::Act(operation, Action::Call(call), why));
        }
        if !self.runs_well(pod) {
            return wait(self, format!("pod {name} is ready since a moment ago; it is to stay so"));
        }
        // Else the next one would be missed by a leader that does not reach this one.
        if !self.regions.all_healthy() {
            return wait(self, format!("the regions of pod {name} are catching up"));
        }
        None
    }

    /// The one that is under way, else one that is not ready, which may be what the others wait for, else the node
    /// with the fewest leaders.
    fn next_to_roll(&self, outdated: &[(i32, &'a Pod)]) -> Option<(i32, &'a Pod, &'a Row)> {
        let members = || {
            outdated
                .iter()
                .filter_map(|(ordinal, pod)| Some((*ordinal, *pod, self.member(*ordinal)?)))
        };
        let begun = self.recorded(Kind::RollingUpdate);
        let is_begun = |pod: &Pod| begun.is_some_and(|operation| operation.target == pod.name);
        let is_open = begun.is_some_and(|operation| OPEN_STEPS.contains(&&*operation.step));
        // Invariant: one pod at most waits with the new template. What was noted of it may have given way.
        let wished = Some(self.desired.template_hash.as_str());
        let is_given = |ordinal: i32| {
            self.seen.set(ordinal).is_some_and(|live| children::template_hash(live) == wished)
        };
        members().find(|(_, pod, _)| is_begun(pod) && !is_open).or_else(|| {
            // What was next stays so, else all that is told of it would change with every leader that moves.
            members().min_by_key(|(ordinal, pod, row)| {
                (!is_given(*ordinal), pod.ready, !is_begun(pod), row.leaders, -ordinal)
            })
        })
    }

    /// Members that hold something.
    fn missable(&self) -> impl Iterator<Item = &'a Row> {
        let members = self.seen.table.iter().flat_map(|table| &table.nodes);
        members.filter(|row| row.is_member() && !row.holds_nothing_yet())
    }

    /// Nobody but this node is, or is about to be, away; for longer than a look.
    fn nobody_is_missing(&self, row: &Row) -> Result<(), String> {
        self.others_are_alive(row.node_id)?;
        // Granted evictions: the pods are deleted a moment later.
        let budget = self.seen.children.get(&Child::DisruptionBudget);
        let evicted = budget.map(|budget| &budget["status"]["disruptedPods"]);
        for other in self.missable().filter(|other| other.node_id != row.node_id) {
            let Some(ordinal) = self.ordinal_of(other) else { continue };
            let name = self.pod_name(ordinal);
            let pod = self.pod(ordinal).ok_or_else(|| format!("pod {name} is missing"))?;
            if pod.terminating {
                return Err(format!("pod {name} is stopping"));
            }
            if evicted.is_some_and(|evicted| evicted.get(&name).is_some()) {
                return Err(format!("pod {name} is being evicted"));
            }
            // One that is not ready with the old template may need the new one to become so: what counts then is
            // that its server serves.
            if !(pod.ready || self.is_outdated(pod) && serves(pod)) {
                return Err(format!("pod {name} is not ready"));
            }
        }
        Ok(())
    }

    /// Nor is a copy missed.
    fn nothing_is_missing(&self, row: &Row) -> Result<(), String> {
        self.nobody_is_missing(row)?;
        for other in self.missable().filter(|other| other.node_id != row.node_id) {
            let Some(ordinal) = self.ordinal_of(other) else { continue };
            let Some(pod) = self.pod(ordinal) else { continue };
            let name = &pod.name;
            // Also after an operation in between, when it is not waited for any more.
            if !self.is_outdated(pod) && !self.runs_well(pod) {
                return Err(format!("pod {name} is ready since a moment ago"));
            }
        }
        if self.regions.has_gap {
            return Err("not all regions are seen".to_owned());
        }
        let (under, leaderless) = (self.regions.under_replicated(), self.regions.leaderless());
        if under > 0 && self.is_alive(row) {
            return Err(format!("{under} regions have too few peers"));
        }
        if leaderless > 0 {
            return Err(format!("{leaderless} regions have no leader"));
        }
        // Readiness does not say so: who is behind serves and forwards.
        if let Some(behind) = self.regions.other_behind(row.node_id) {
            return Err(format!("peers of node {behind} are catching up"));
        }
        Ok(())
    }

    /// The leaders of a pod are told to go, and what comes of it is that the pod goes.
    pub(super) fn is_restarting(&self) -> bool {
        let is_this_turn = |old: &Operation| THIS_TURN.contains(&&*old.step);
        self.recorded(Kind::RollingUpdate).is_some_and(is_this_turn)
    }

    pub(super) fn is_outdated(&self, pod: &Pod) -> bool {
        pod.template_hash.as_deref() != Some(&self.desired.template_hash)
    }
}
