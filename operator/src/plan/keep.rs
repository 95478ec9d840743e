//! Objects and volumes are as the spec says; and what is not as it should be is said.

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::{Action, Change, Kind, Step, View, scale::strip_claims, up};
use crate::{
    answers::Contended,
    children::{self, Child},
    clock,
    drift::{self, Difference, Drift},
    names::OBJECT_HASH,
    seen::{Node, Slot, State},
};

/// Fields of a StatefulSet that nobody can change.
const FIXED: [&str; 3] = [".spec.selector", ".spec.serviceName", ".spec.podManagementPolicy"];
/// Bound: how long Kubernetes may take over a deletion, in seconds, before it is told.
const TERMINATES_MAX: i64 = 60;

impl View<'_> {
    /// What is not there at all. A cluster of which nothing runs is made when all of its names are free,
    /// and else not in part.
    pub(super) fn missing_children(&self) -> Option<Step> {
        let runs = self.seen.replicas().is_some() || !self.seen.pods.is_empty();
        let refused_now =
            Child::ALL.into_iter().any(|child| is_needed(child) && !self.may_try(child));
        if !runs && (self.taken_in_the_way().is_some() || refused_now) {
            return None;
        }
        let child = Child::ALL.into_iter().find(|child| {
            self.is_wanted(*child)
                && !self.seen.children.contains_key(child)
                && !self.seen.taken.contains_key(&Slot::Child(*child))
                && self.may_try(*child)
                && !self.is_held_back(*child)
                && self.seen.answers.may_make(*child, self.now).is_ok()
        })?;
        let replicas = if self.desired.spec.stopped { 0 } else { self.wanted_from_nothing() };
        let object = self.build(child, replicas, None);
        let why = format!("{} is not there", child.title(&self.desired.names));
        Some(Step::Keep(Action::Change(Change::Apply(child, Box::new(object), None)), why))
    }

    /// Without a StatefulSet: no pod that is there may go.
    fn wanted_from_nothing(&self) -> i32 {
        let pods = self.seen.pods.keys().max().map_or(0, |last| last + 1);
        self.wanted_pods().max(pods)
    }

    /// Somebody else's object that keeps a cluster from beginning.
    pub(super) fn in_the_way(&self) -> Option<String> {
        self.taken_in_the_way().or_else(|| {
            let mut refused = Child::ALL.into_iter().filter(|child| is_needed(*child));
            let (child, why) = refused.find_map(|child| Some((child, self.why_refused(child)?)))?;
            Some(format!("{}: {why}", child.title(&self.desired.names)))
        })
    }

    fn taken_in_the_way(&self) -> Option<String> {
        let names = &self.desired.names;
        let mut taken = self.taken().filter(|(slot, _)| match slot {
            Slot::Child(child) => is_needed(*child),
            Slot::Pod(_) | Slot::Volume(_) => true,
        });
        let taken = taken.next().map(|(slot, whose)| format!("{}: {whose}", slot.title(names)));
        taken.or_else(|| {
            let (ordinal, theirs) = self.foreign_volumes().next()?;
            let title = Slot::Volume(ordinal).title(names);
            Some(format!("{title}: it holds data of cluster {theirs}"))
        })
    }

    /// Names that are needed and that others have.
    fn taken(&self) -> impl Iterator<Item = (Slot, &str)> {
        let needed = |slot: Slot| match slot {
            Slot::Child(child) => self.is_wanted(child),
            Slot::Pod(_) => true,
            Slot::Volume(ordinal) => ordinal < self.desired.spec.replicas,
        };
        let taken = self.seen.taken.iter().map(|(slot, whose)| (*slot, whose.as_str()));
        taken.filter(move |(slot, _)| needed(*slot))
    }

    /// It was not refused a moment ago.
    fn may_try(&self, child: Child) -> bool {
        self.seen.answers.may_try(child, self.now)
    }

    /// Why the API server does not take what is to be done to an object, a moment ago or longer; `None` when
    /// there is nothing to do any more.
    fn why_refused(&self, child: Child) -> Option<&str> {
        let why = self.seen.answers.refused(child)?;
        let is_as_it_should = match self.seen.children.get(&child) {
            None => !self.is_wanted(child) || self.seen.taken.contains_key(&Slot::Child(child)),
            Some(live) => {
                let want = self.as_applied(child, live);
                let scales =
                    child == Child::StatefulSet && self.seen.replicas() != Some(self.wanted_now());
                self.is_wanted(child)
                    && !scales
                    && self.seen.answers.differences(child, &want, live).is_empty()
            }
        };
        (!is_as_it_should).then_some(why)
    }

    fn wanted_now(&self) -> i32 {
        if self.desired.spec.stopped { 0 } else { self.wanted_pods() }
    }

    /// It would bring a version to the pods that they must not have.
    fn is_held_back(&self, child: Child) -> bool {
        let of_pods = match child {
            Child::StatefulSet => true,
            // A pod that starts again is of the older version, and reads it. One that is not there is read by
            // nobody.
            Child::ConfigMap => self.seen.children.contains_key(&child),
            _ => false,
        };
        of_pods && self.holds_template()
    }

    /// Volume claims that our pods would use, and of which cluster their data is.
    fn foreign_volumes(&self) -> impl Iterator<Item = (i32, &str)> {
        let needed = self.seen.foreign_volumes.range(..self.desired.spec.replicas);
        needed.map(|(ordinal, theirs)| (*ordinal, theirs.as_str()))
    }

    /// Somebody else's object would be used by a pod that starts now.
    pub(super) fn lacks_what_pods_start_with(&self) -> bool {
        let needed = [Child::ServiceAccount, Child::ConfigMap, Child::HeadlessService];
        needed.iter().any(|child| self.seen.taken.contains_key(&Slot::Child(*child)))
    }

    fn is_wanted(&self, child: Child) -> bool {
        child.is_wanted(self.desired)
            && (child != Child::ServiceMonitor || self.seen.service_monitors)
    }

    /// What is not as it should be is put back; what does not stay so, or is refused, is told (see
    /// [`Self::look_for_trouble`]) and left for a while, so that the plan goes on.
    pub(super) fn children(&self) -> Option<Step> {
        let (change, why) = Child::ALL.into_iter().find_map(|child| {
            let live = self.seen.children.get(&child)?;
            // What is being deleted nobody can keep; it is made anew once it is gone.
            let leave = !self.may_try(child) || self.is_held_back(child) || is_terminating(live);
            if leave { None } else { self.mend(child, live) }
        })?;
        Some(Step::Keep(Action::Change(change), why))
    }

    fn mend(&self, child: Child, live: &Value) -> Option<(Change, String)> {
        let answers = &self.seen.answers;
        let title = child.title(&self.desired.names);
        let deletion = |keep_dependents| Change::Delete {
            child,
            name: child.name(&self.desired.names),
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
            let why = format!(
                "{path} of the StatefulSet cannot be changed; it is made anew around its pods"
            );
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
        // Applied beside what somebody put there it may make no valid object: two ports of one name.
        if answers.was_refused(child) {
            let why =
                format!("{title}: {path} is not as it should be, and to apply it was refused");
            return Some((Change::Replace(child, Box::new(want), Some(path)), why));
        }
        let why = format!("{title}: {path} is not as it should be");
        Some((Change::Apply(child, Box::new(want), Some(path)), why))
    }

    /// What does not stay as it is put, of all objects: nothing in it moves while nothing is done.
    fn quarrels(&self) -> Vec<String> {
        let answers = &self.seen.answers;
        let mut told = Vec::new();
        for child in Child::ALL {
            let title = child.title(&self.desired.names);
            let whole = |Contended { times, until }: Contended| {
                format!(
                    "{title} was made or deleted {times} times of late, and somebody else deletes or makes it \
                     again; the next time is at {until} at the earliest"
                )
            };
            let place = |path: &str, Contended { times, until }: Contended| {
                format!(
                    "{title}: {path} was put back ({times} times of late) and is changed again, by a policy \
                     or another controller; it is put back at {until} at the earliest"
                )
            };
            let live = self.seen.children.get(&child);
            if let Some(live) = live
                && terminates_for(live, self.now) >= TERMINATES_MAX
            {
                told.push(format!("{title} is being deleted, and a finalizer keeps it"));
            }
            if !answers.is_fought_about(child, self.now) {
                continue;
            }
            let again = match live {
                Some(_) if !self.is_wanted(child) => answers.may_delete(child, self.now).err(),
                None if self.is_wanted(child)
                    && !self.seen.taken.contains_key(&Slot::Child(child)) =>
                {
                    answers.may_make(child, self.now).err()
                }
                _ => None,
            };
            told.extend(again.or_else(|| answers.quarrel_about(child, self.now)).map(whole));
            let Some(live) = live.filter(|_| self.is_wanted(child)) else { continue };
            let want = self.as_applied(child, live);
            for (path, contended) in answers.quarrels(child, &want, self.now) {
                told.push(place(path, contended));
            }
            let differences = answers.differences(child, &want, live);
            if let Some(path) = fixed(child, &differences) {
                let again = answers.may_delete(child, self.now).err();
                told.extend(again.map(|contended| place(path, contended)));
                continue;
            }
            for found in &differences {
                let path = found.drift.path();
                let again = answers.may_put_back(child, &want, path, self.now).err();
                told.extend(again.map(|contended| place(path, contended)));
            }
        }
        told
    }

    /// An object as it would be applied beside what is there.
    pub(super) fn as_applied(&self, child: Child, live: &Value) -> Value {
        let replicas = self.seen.replicas().unwrap_or(0);
        let claims = live.pointer("/spec/volumeClaimTemplates").map(strip_claims);
        let mut object = self.build(child, replicas, claims.as_ref());
        pin(&mut object, live);
        object
    }

    fn build(&self, child: Child, replicas: i32, claims: Option<&Value>) -> Value {
        if child == Child::DisruptionBudget && !self.one_may_go() {
            return children::closed_budget(self.desired);
        }
        children::build(child, self.desired, replicas, claims)
    }

    /// Kubernetes may take a node away: not when another copy is missed. What is closed stays so here; see
    /// [`Self::open_budget`].
    fn one_may_go(&self) -> bool {
        !self.is_budget_closed() && (self.desired.spec.stopped || self.is_whole())
    }

    fn is_budget_closed(&self) -> bool {
        let live = self.seen.children.get(&Child::DisruptionBudget);
        live.is_some_and(|live| live["spec"]["maxUnavailable"] == 0)
    }

    /// Every member is heard, every region has all its peers and a leader, and no peer is behind.
    fn is_whole(&self) -> bool {
        let members = self.seen.table.iter().flat_map(|table| &table.nodes);
        let mut members = members.filter(|row| row.is_member() && row.state != State::Joining);
        self.seen.table.is_some()
            && members.all(|row| self.is_alive(row))
            && self.regions.all_healthy()
    }

    /// Asked last, when nothing is under way, so that the budget is not turned with every pod of a rolling
    /// update.
    pub(super) fn open_budget(&self) -> Option<Step> {
        let child = Child::DisruptionBudget;
        let live = self.seen.children.get(&child)?;
        let is_due = self.is_wanted(child) && self.may_try(child) && !is_terminating(live);
        if !is_due || !self.is_budget_closed() || !self.is_whole() {
            return None;
        }
        let mut want = children::build(child, self.desired, 0, None);
        pin(&mut want, live);
        let path = ".spec.maxUnavailable";
        self.seen.answers.may_put_back(child, &want, path, self.now).ok()?;
        let why = format!("{}: all is whole, so one node may go", child.title(&self.desired.names));
        let change = Change::Apply(child, Box::new(want), Some(path.to_owned()));
        Some(Step::Keep(Action::Change(change), why))
    }

    /// Volumes grow one by one, then the StatefulSet is made anew with larger claims: those it has
    /// nobody can change. Its pods stay.
    pub(super) fn grow(&mut self) -> Option<Step> {
        let size = &self.desired.spec.storage.size;
        let live = self.seen.children.get(&Child::StatefulSet)?;
        let operation = |step| self.operation(Kind::GrowVolumes, &self.desired.names.name, step);
        let mut refused = Vec::new();
        for volume in self.seen.volumes.values() {
            if volume.terminating
                || volume.decommissioned.is_some()
                || !drift::is_larger(size, &volume.requested)
            {
                continue;
            }
            if volume.can_grow == Some(false) {
                refused.push(volume.name.clone());
                continue;
            }
            let change = Change::GrowVolume {
                name: volume.name.clone(),
                uid: volume.uid.clone(),
                size: k8s_openapi::apimachinery::pkg::api::resource::Quantity(size.clone()),
            };
            let why = format!("volume {} grows from {} to {size}", volume.name, volume.requested.0);
            return Some(Step::Act(operation("GrowVolume"), Action::Change(change), why));
        }
        if !refused.is_empty() {
            let message = format!("the storage class lets no volume grow: {}", refused.join(", "));
            self.trouble("VolumesCannotGrow", message);
            return None;
        }
        let claims = live.pointer("/spec/volumeClaimTemplates")?;
        let now = children::claim_size(claims)?;
        if !drift::is_larger(size, &now) {
            return None;
        }
        if is_terminating(live) {
            return None;
        }
        if self.seen.answers.may_delete(Child::StatefulSet, self.now).is_err() {
            let message = format!("the claims of new volumes are given {}, not {size}", now.0);
            self.trouble("Contended", message);
            return None;
        }
        let change = Change::Delete {
            child: Child::StatefulSet,
            name: self.desired.names.name.clone(),
            uid: live["metadata"]["uid"].as_str().unwrap_or_default().to_owned(),
            keep_dependents: true,
        };
        let why =
            format!("new volumes are to have {size}; the StatefulSet is made anew around its pods");
        Some(Step::Act(operation("ReplaceStatefulSet"), Action::Change(change), why))
    }

    /// What a person should know, whatever is being done.
    pub(super) fn look_for_trouble(&mut self) {
        let cluster_id = self.desired.cluster_id.clone();
        let foreign: Vec<String> = self
            .seen
            .foreign(&cluster_id)
            .map(|(pod, theirs)| {
                format!(
                    "the volume of pod {} belongs to cluster {theirs}, not to {cluster_id}; delete the \
                     volume, or take the older cluster over with the annotation {}",
                    pod.name,
                    crate::names::ADOPT
                )
            })
            .collect();
        for message in foreign {
            self.trouble("ForeignVolume", message);
        }
        if let Some(refused) = self.version_refused.clone() {
            self.trouble("VersionRefused", refused.why);
        }
        let names = &self.desired.names;
        let refused: Vec<String> = Child::ALL
            .into_iter()
            .filter_map(|child| {
                Some(format!("{} is refused: {}", child.title(names), self.why_refused(child)?))
            })
            .collect();
        for message in refused {
            self.trouble("ApplyRefused", message);
        }
        for message in self.quarrels() {
            self.trouble("Contended", message);
        }
        let names = &self.desired.names;
        let taken: Vec<String> = self
            .taken()
            .map(|(slot, whose)| {
                format!(
                    "{} is not this cluster's: {whose}; it is left alone. Delete or rename it, or give the \
                     KvCluster another name",
                    slot.title(names)
                )
            })
            .collect();
        for message in taken {
            self.trouble("NameTaken", message);
        }
        let foreign: Vec<String> = self
            .foreign_volumes()
            .map(|(ordinal, theirs)| {
                format!(
                    "volume claim {} holds data of cluster {theirs}, not of {cluster_id}; delete it, or take \
                     the older cluster over with the annotation {}",
                    names.volume(ordinal),
                    crate::names::ADOPT
                )
            })
            .collect();
        for message in foreign {
            self.trouble("ForeignVolume", message);
        }
        for pod in self.seen.pods.values() {
            if let Some((reason, message)) = &pod.problem {
                self.trouble("PodFailing", format!("pod {}: {reason}: {message}", pod.name));
            }
        }
        if self.desired.spec.metrics.service_monitor && !self.seen.service_monitors {
            let message = "there is no type ServiceMonitor in this Kubernetes";
            self.trouble("NoServiceMonitors", message);
        }
        if !self.is_initialized() || self.desired.spec.stopped {
            return;
        }
        let lost = self.regions.quorum_lost();
        if !lost.is_empty() {
            let first: Vec<_> = lost.iter().take(20).map(ToString::to_string).collect();
            let more = if lost.len() > first.len() { ", …" } else { "" };
            self.trouble(
                "QuorumLost",
                format!(
                    "no majority answers of {} regions: {}{more}",
                    lost.len(),
                    first.join(", ")
                ),
            );
        } else if self.regions.has_gap {
            self.trouble("QuorumLost", "no node answers for a part of the keys");
        }
        match &self.seen.table {
            None => {
                let why = self.seen.table_error.clone().unwrap_or_default();
                self.trouble("DriverUnreachable", format!("the node table is not known: {why}"));
            }
            Some(table) => {
                let down: Vec<_> =
                    up(table).filter(|row| !self.is_alive(row)).map(|row| row.node_id).collect();
                for id in down {
                    self.trouble("NodeDown", format!("node {id} does not answer"));
                }
            }
        }
        let under = self.regions.under_replicated();
        if under > 0 {
            let total = self.regions.total();
            let message = format!("{under} of {total} regions have too few peers");
            self.trouble("UnderReplicated", message);
        }
        for (_, joined) in self.seen.joined(&cluster_id).collect::<Vec<_>>() {
            for reason in &joined.complaints {
                if reason.starts_with("disk") || reason.starts_with("quarantine") {
                    self.trouble("NodeNotReady", format!("node {}: {reason}", joined.node_id));
                }
            }
        }
        let unknown = self.seen.pods.values().find_map(|pod| match &pod.node {
            Node::Joined(joined)
                if joined.cluster_id == cluster_id
                    && self.seen.table.is_some()
                    && self.seen.row(joined.node_id).is_none() =>
            {
                Some(format!("pod {} holds node {}, which is not known", pod.name, joined.node_id))
            }
            _ => None,
        });
        if let Some(message) = unknown {
            self.trouble("UnknownNode", message);
        }
    }
}

/// A cluster does not begin without it.
fn is_needed(child: Child) -> bool {
    child != Child::ServiceMonitor
}

/// A place that differs and that nobody can change.
fn fixed(child: Child, differences: &[Difference]) -> Option<&str> {
    let mut paths = differences.iter().map(|found| found.drift.path());
    paths.find(|path| {
        child == Child::StatefulSet && FIXED.iter().any(|fixed| path.starts_with(fixed))
    })
}

fn is_terminating(live: &Value) -> bool {
    live["metadata"]["deletionTimestamp"].is_string()
}

/// Seconds since the deletion of an object began; 0 when none did.
fn terminates_for(live: &Value, now: Timestamp) -> i64 {
    let since = live["metadata"]["deletionTimestamp"].as_str();
    since.and_then(|since| clock::seconds_since(since, now)).unwrap_or(0)
}

/// Applied to this very object in this very version, or not at all: what was seen to be ours may have
/// become somebody else's, and a StatefulSet may have been scaled.
pub(super) fn pin(object: &mut Value, live: &Value) {
    for field in ["uid", "resourceVersion"] {
        object["metadata"][field] = live["metadata"][field].clone();
    }
}
