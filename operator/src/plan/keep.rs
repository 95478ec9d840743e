//! Objects and volumes are as the spec says.

use serde_json::Value;

use super::{
    Action, Change, Deed, Step, View,
    live::{is_terminating, pin},
    scale::Template,
};
use crate::{
    children::{self, Child},
    drift::{Difference, Drift},
    names::OBJECT_HASH,
    seen::{ForeignVolume, Slot},
};

/// Fields of a StatefulSet that nobody can change.
const FIXED: [&str; 3] = [".spec.selector", ".spec.serviceName", ".spec.podManagementPolicy"];
/// Bound: so long, in seconds, must a cluster have been whole before one of its pods may go.
const WHOLE_SECONDS: i64 = 60;

impl View<'_> {
    /// What is not there at all. A cluster of which nothing runs is made when all of its names are free,
    /// and else not in part.
    pub(super) fn missing_children(&self) -> Option<Step> {
        if !self.may_be_made() {
            return None;
        }
        // A pod whose StatefulSet was taken away gets one; those that are to come are for scaling.
        let sets = self.seen.pods.keys().map(|ordinal| Child::StatefulSet(*ordinal));
        let child = Child::SHARED.into_iter().chain(sets).find(|child| {
            self.is_wanted(*child)
                && !self.seen.children.contains_key(child)
                && !self.is_held_back(*child)
                && self.may_make(*child)
        })?;
        let object = match child {
            Child::StatefulSet(ordinal) => {
                // A claim that is being deleted would go with the pod that is there.
                let stays = !self.desired.spec.stopped || !self.may_end(ordinal);
                let replicas = i32::from(stays);
                self.stateful_set(ordinal, replicas, Template::AsItIs)
            }
            _ => self.build(child),
        };
        let why = format!("{} is not there", child.title(self.desired));
        Some(Step::Keep(Action::Change(Change::Apply(child, Box::new(object), None)), why))
    }

    /// Something of it runs, or nothing keeps it from being made as a whole.
    pub(super) fn may_be_made(&self) -> bool {
        let runs = self.seen.sets().next().is_some() || !self.seen.pods.is_empty();
        let mut needed = self.all_children().filter(|child| is_needed(*child));
        runs || (self.taken_in_the_way().is_none() && needed.all(|child| self.may_try(child)))
    }

    /// An object that is not there: its name is free, and it was neither refused nor made a moment ago.
    pub(super) fn may_make(&self, child: Child) -> bool {
        !self.seen.taken.contains_key(&Slot::Child(child))
            && self.may_try(child)
            && self.seen.answers.may_make(child, self.now).is_ok()
    }

    /// Pods that the disruption budget counts on: all that there are or that there must be.
    fn pods_for_budget(&self) -> i32 {
        let held = i32::try_from(self.seen.held().count()).unwrap_or(i32::MAX);
        // Kubernetes counts by labels what is healthy.
        let strays = i32::try_from(self.seen.strays.len()).unwrap_or(i32::MAX);
        held.max(self.wanted_pods()).saturating_add(strays)
    }

    /// Somebody else's object that keeps a cluster from beginning.
    pub(super) fn in_the_way(&self) -> Option<String> {
        self.taken_in_the_way().or_else(|| {
            let mut needed = self.all_children().filter(|child| is_needed(*child));
            let (child, why) = needed.find_map(|child| Some((child, self.why_refused(child)?)))?;
            Some(format!("{}: {why}", child.title(self.desired)))
        })
    }

    fn taken_in_the_way(&self) -> Option<String> {
        let mut taken = self.taken().filter(|(slot, _)| match slot {
            Slot::Child(child) => is_needed(*child),
            Slot::Pod(_) | Slot::Volume(_) => true,
        });
        let taken =
            taken.next().map(|(slot, whose)| format!("{}: {whose}", slot.title(self.desired)));
        taken.or_else(|| {
            let (ordinal, foreign) = self.foreign_volumes().next()?;
            let title = Slot::Volume(ordinal).title(self.desired);
            Some(format!("{title}: it says that it holds data of cluster {}", foreign.cluster_id))
        })
    }

    /// Names that are needed and that others have.
    pub(super) fn taken(&self) -> impl Iterator<Item = (Slot, &str)> {
        let needed = |slot: Slot| match slot {
            Slot::Child(Child::StatefulSet(ordinal)) | Slot::Volume(ordinal) => {
                ordinal < self.desired.spec.replicas
            }
            Slot::Child(child) => self.is_wanted(child),
            Slot::Pod(_) => true,
        };
        let taken = self.seen.taken.iter().map(|(slot, whose)| (*slot, whose.as_str()));
        taken.filter(move |(slot, _)| needed(*slot))
    }

    /// Those that there are for all nodes, and for each.
    pub(super) fn all_children(&self) -> impl Iterator<Item = Child> + use<> {
        let there = self.seen.sets().map(|(ordinal, _)| ordinal);
        let there = there.chain(self.seen.pods.keys().copied()).max();
        let sets = 0..self.wanted_pods().max(there.map_or(0, |last| last + 1));
        Child::SHARED.into_iter().chain(sets.map(Child::StatefulSet))
    }

    /// It was not refused a moment ago.
    pub(super) fn may_try(&self, child: Child) -> bool {
        self.seen.answers.may_try(child, self.now)
    }

    /// Why the API server does not take what is to be done to an object, a moment ago or longer; `None` when
    /// there is nothing to do any more.
    pub(super) fn why_refused(&self, child: Child) -> Option<&str> {
        let why = self.seen.answers.refused(child)?;
        let is_as_it_should = match self.seen.children.get(&child) {
            None => !self.is_wanted(child) || self.seen.taken.contains_key(&Slot::Child(child)),
            Some(live) => {
                let want = self.as_applied(child, live);
                let turns = match child {
                    Child::StatefulSet(ordinal) => {
                        (children::replicas(live) > 0) != self.is_pod_wanted(ordinal)
                            || self.waits_for_its_turn(ordinal, live)
                    }
                    _ => false,
                };
                self.is_wanted(child)
                    && !turns
                    && self.seen.answers.differences(child, &want, live).is_empty()
            }
        };
        (!is_as_it_should).then_some(why)
    }

    fn is_pod_wanted(&self, ordinal: i32) -> bool {
        !self.desired.spec.stopped && ordinal < self.wanted_pods()
    }

    /// It would bring a version to a pod that it must not have.
    pub(super) fn is_held_back(&self, child: Child) -> bool {
        match child {
            Child::StatefulSet(ordinal) => {
                let has_it = self.pod(ordinal).is_some_and(|pod| !self.is_outdated(pod));
                self.holds_template() && !has_it && self.template_of_before(ordinal).is_none()
            }
            // No template names it.
            Child::ConfigMap => self.holds_template() && self.seen.sets().next().is_some(),
            _ => false,
        }
    }

    /// Volume claims that our pods would use, and of which cluster their data is.
    pub(super) fn foreign_volumes(&self) -> impl Iterator<Item = (i32, &ForeignVolume)> {
        let needed = self.seen.foreign_volumes.range(..self.desired.spec.replicas);
        needed.map(|(ordinal, foreign)| (*ordinal, foreign))
    }

    /// A pod that starts now with the template that is asked for would find nothing, or somebody else's object:
    /// what could not be made, as where a quota or a policy refuses it, is passed over by the rungs above.
    pub(super) fn lacks_what_pods_start_with(&self) -> bool {
        let needed = [Child::ServiceAccount, Child::ConfigMap, Child::HeadlessService];
        let is_there = |child: &Child| self.seen.children.contains_key(child);
        let is_taken = |child: &Child| self.seen.taken.contains_key(&Slot::Child(*child));
        needed.iter().any(|child| is_taken(child) || !is_there(child))
    }

    pub(super) fn is_wanted(&self, child: Child) -> bool {
        child.is_wanted(self.desired)
            && match child {
                Child::ServiceMonitor => self.seen.service_monitors == Some(true),
                // With one node it would only keep Kubernetes nodes from being drained, for ever.
                Child::DisruptionBudget => self.wanted_pods() > 1 || self.seen.held().count() > 1,
                Child::StatefulSet(ordinal) => {
                    // Also one whose pod was left behind, and is to go with it.
                    self.seen.set(ordinal).is_some()
                        || self.seen.pods.contains_key(&ordinal)
                        || ordinal < self.wanted_pods()
                }
                _ => true,
            }
    }

    /// It is asked for, and whether this Kubernetes has its type could not be read.
    pub(super) fn is_wanted_unknown(&self, child: Child) -> bool {
        child == Child::ServiceMonitor
            && child.is_wanted(self.desired)
            && self.seen.service_monitors.is_none()
    }

    /// What is not as it should be is put back; what does not stay so, or is refused, is told (see
    /// [`Self::look_for_trouble`]) and left for a while, so that the plan goes on.
    pub(super) fn children(&self) -> Option<Step> {
        let (change, why) = self.all_children().find_map(|child| {
            let live = self.seen.children.get(&child)?;
            // What is being deleted nobody can keep; it is made anew once it is gone.
            let leave =
                !self.may_try(child) || is_terminating(live) || self.is_wanted_unknown(child);
            if leave { None } else { self.mend(child, live) }
        })?;
        Some(Step::Keep(Action::Change(change), why))
    }

    /// Claims that are known by their uid bear the cluster's id: by it they are ours also when the status is
    /// lost.
    pub(super) fn note_volumes(&self) -> Option<Step> {
        let volume = self.volume_for(Deed::NoteVolume)?;
        let change = Change::NoteVolume {
            name: volume.name.clone(),
            uid: volume.uid.clone(),
            cluster_id: self.desired.cluster_id.clone(),
        };
        let why = format!("volume claim {} does not bear the cluster's id", volume.name);
        Some(Step::Keep(Action::Change(change), why))
    }

    fn mend(&self, child: Child, live: &Value) -> Option<(Change, String)> {
        let answers = &self.seen.answers;
        let title = child.title(self.desired);
        let deletion = |keep_dependents| Change::Delete {
            child,
            name: child.name(self.desired),
            uid: live["metadata"]["uid"].as_str().unwrap_or_default().to_owned(),
            keep_dependents,
        };
        let may_delete = answers.may_delete(child, self.now).is_ok();
        if !self.is_wanted(child) {
            let why = format!("{title} is no longer wanted");
            return may_delete.then(|| (deletion(false), why));
        }
        let want = self.as_applied(child, live);
        let differences = answers.differences(child, &want, live);
        if let Some(path) = fixed(child, &differences) {
            let why =
                format!("{path} of {title} cannot be changed; it is made anew around its pod");
            return may_delete.then(|| (deletion(true), why));
        }
        let due: Vec<Drift> = differences
            .into_iter()
            .map(|found| found.drift)
            .filter(|drift| answers.may_put_back(child, &want, drift.path(), self.now).is_ok())
            .collect();
        let hash = |object: &Value| object["metadata"]["annotations"][OBJECT_HASH].clone();
        // What stands beside our items goes with everything else that is to be mended. Before something
        // else is asked for it may yet be ours.
        let beside = due
            .iter()
            .find(|drift| matches!(drift, Drift::HasMore(_)) && hash(&want) == hash(live));
        if let Some(path) = beside.map(|drift| drift.path().to_owned()) {
            let why = format!("{title}: something was put into {path}");
            return Some((Change::Replace(child, Box::new(want), Some(path)), why));
        }
        let path = due.first()?.path().to_owned();
        let is_asked_anew = hash(&want) != hash(live);
        let why = match due.iter().map(Drift::path).find(|path| !path.contains(OBJECT_HASH)) {
            // What it is known by says only that there is something else.
            Some(other) if is_asked_anew => {
                format!(
                    "{title} is brought to what the spec or this operator asks for now, as in {other}"
                )
            }
            None if is_asked_anew => {
                format!("{title} is brought to what the spec or this operator asks for now")
            }
            other => {
                let path = other.unwrap_or(&path);
                format!(
                    "{title}: {path} is not what this operator asks for, which is asked for once more: what somebody \
                     else wants there belongs into the KvCluster"
                )
            }
        };
        // Applied beside what somebody put there it may make no valid object: two ports of one name.
        if answers.was_refused(child) {
            let why = format!("{why}; to apply it was refused, so it is replaced");
            return Some((Change::Replace(child, Box::new(want), Some(path)), why));
        }
        Some((Change::Apply(child, Box::new(want), Some(path)), why))
    }

    /// An object as it would be applied beside what is there.
    pub(super) fn as_applied(&self, child: Child, live: &Value) -> Value {
        if let Child::StatefulSet(ordinal) = child {
            let replicas = children::replicas(live).clamp(0, 1);
            return self.stateful_set(ordinal, replicas, Template::AsItIs);
        }
        let mut object = self.build(child);
        pin(&mut object, live);
        object
    }

    /// One of those that are there once for all nodes.
    fn build(&self, child: Child) -> Value {
        if child == Child::DisruptionBudget {
            return children::budget(self.desired, self.pods_for_budget(), self.one_may_go());
        }
        children::build(child, self.desired, 0, None)
    }

    /// Kubernetes may take a node away: not when another copy is missed. What is closed stays so here; see
    /// [`Self::open_budget`].
    fn one_may_go(&self) -> bool {
        !self.is_budget_closed()
            && !self.is_a_disk_going()
            && (self.desired.spec.stopped || self.is_whole())
    }

    /// It lets none of the pods go that there are to be.
    pub(super) fn is_budget_closed(&self) -> bool {
        let live = self.seen.children.get(&Child::DisruptionBudget);
        let stay = live.and_then(|live| live["spec"]["minAvailable"].as_i64());
        stay.is_some_and(|stay| stay >= i64::from(self.pods_for_budget()))
    }

    /// Every member is heard, every region has all its peers and a leader, no peer is behind, and no disk goes.
    pub(super) fn is_whole(&self) -> bool {
        let members = self.seen.table.iter().flat_map(|table| &table.nodes);
        let mut members = members.filter(|row| row.is_member() && !row.holds_nothing_yet());
        // An evicted pod takes a claim along that is being deleted.
        self.seen.table.is_some()
            && !self.is_a_disk_going()
            && members.all(|row| self.is_alive(row))
            && self.regions.all_healthy()
    }

    /// Asked last, when no pod is away by our doing, so that the budget is not turned with every pod of a rolling
    /// update; nor with every election, by a look in between.
    pub(super) fn open_budget(&self) -> Option<Step> {
        let lasts = self.seen.answers.whole_for() >= WHOLE_SECONDS;
        // A restart that is refused is tried again and again, and would turn it each time.
        if !self.is_budget_closed() || !self.is_whole() || !lasts || self.is_restarting() {
            return None;
        }
        self.turn_budget(true, "all is whole, so one node may go")
    }

    /// Asked before the operator takes a node down itself. Ordering: Kubernetes asks the budget and not us, so it
    /// is closed first, and what is missing is looked at again after that: whoever drains meanwhile was seen, or
    /// is refused. It is opened by [`Self::open_budget`].
    pub(super) fn close_budget(&self) -> Option<Step> {
        if self.is_budget_closed() {
            return None;
        }
        self.turn_budget(false, "a pod is about to be restarted, so no other may go")
    }

    /// Nothing comes of it but that a node may be drained, so the cluster is as it should be meanwhile.
    ///
    /// Ordering: so nothing is noted before it where nothing else is going on. Who notes and ends would have its
    /// successor watch for [`WHOLE_SECONDS`] anew, and note the same.
    pub(crate) fn opens_budget(&self, action: Option<&Action>) -> bool {
        let Some(Action::Change(Change::Apply(Child::DisruptionBudget, want, _))) = action else {
            return false;
        };
        let stay = want["spec"]["minAvailable"].as_i64();
        let opens = stay.is_some_and(|stay| stay < i64::from(self.pods_for_budget()));
        opens && self.is_budget_closed()
    }

    /// Kubernetes takes no pod with which a disk would go. As [`Self::one_may_go`] has it, where objects are not
    /// looked after.
    pub(super) fn close_budget_over_disks(&self) -> Option<Step> {
        if self.is_budget_closed() || !self.is_a_disk_going() {
            return None;
        }
        self.turn_budget(
            false,
            "a volume claim is being deleted and goes with its pod, so none may go",
        )
    }

    fn turn_budget(&self, open: bool, why: &str) -> Option<Step> {
        let child = Child::DisruptionBudget;
        let live = self.seen.children.get(&child)?;
        if !self.is_wanted(child) || !self.may_try(child) || is_terminating(live) {
            return None;
        }
        let mut want = children::budget(self.desired, self.pods_for_budget(), open);
        pin(&mut want, live);
        let path = ".spec.minAvailable";
        self.seen.answers.may_put_back(child, &want, path, self.now).ok()?;
        let why = format!("{}: {why}", child.title(self.desired));
        let change = Change::Apply(child, Box::new(want), Some(path.to_owned()));
        Some(Step::Keep(Action::Change(change), why))
    }

    pub(super) fn drop_configs(&self) -> Option<Step> {
        let (name, uid) = self.spare_configs().find(|(name, _)| self.may_do(name, Deed::Delete))?;
        let child = Child::ConfigMap;
        let why = format!("no pod is made with the settings {name} any more");
        let change =
            Change::Delete { child, name: name.clone(), uid: uid.clone(), keep_dependents: false };
        Some(Step::Keep(Action::Change(change), why))
    }

    /// Settings that no pod was made with and none is to be made with any more.
    pub(super) fn spare_configs(&self) -> impl Iterator<Item = (&String, &String)> {
        // Kubernetes may still be about to make a pod from a template of a moment ago.
        let settled = self.seen.held().all(|ordinal| {
            self.pod(ordinal).is_some_and(|pod| !pod.terminating && !self.is_outdated(pod))
        });
        let is_used = move |name: &String| {
            self.seen.pods.values().any(|pod| pod.configs.contains(name))
                || self.seen.sets().any(|(_, set)| children::configs(set).any(|used| used == name))
        };
        self.seen.old_configs.iter().filter(move |(name, _)| settled && !is_used(name))
    }
}

/// A cluster does not begin without it.
fn is_needed(child: Child) -> bool {
    child != Child::ServiceMonitor
}

/// A place that differs and that nobody can change.
pub(super) fn fixed(child: Child, differences: &[Difference]) -> Option<&str> {
    let mut paths = differences.iter().map(|found| found.drift.path());
    paths.find(|path| {
        matches!(child, Child::StatefulSet(_)) && FIXED.iter().any(|fixed| path.starts_with(fixed))
    })
}
