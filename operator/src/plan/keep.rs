//! Objects and volumes are as the spec says; and what is not as it should be is said.

use serde_json::Value;

use super::{Action, Change, Kind, Step, View, scale::strip_claims, up};
use crate::{
    answers::Contended,
    children::{self, Child},
    drift::{self, Drift},
    names::OBJECT_HASH,
    seen::{Node, Slot},
};

/// Fields of a StatefulSet that nobody can change.
const FIXED: [&str; 3] = [".spec.selector", ".spec.serviceName", ".spec.podManagementPolicy"];

impl View<'_> {
    /// What is not there at all. A cluster of which nothing runs is made when all of its names are free,
    /// and else not in part.
    pub(super) fn missing_children(&self) -> Option<Step> {
        let runs = self.seen.replicas().is_some() || !self.seen.pods.is_empty();
        if !runs && self.in_the_way().is_some() {
            return None;
        }
        let child = Child::ALL.into_iter().find(|child| {
            self.is_wanted(*child)
                && !self.seen.children.contains_key(child)
                && !self.seen.taken.contains_key(&Slot::Child(*child))
                && self.refused(*child).is_none()
                && !self.is_held_back(*child)
        })?;
        let replicas = if self.desired.spec.stopped { 0 } else { self.wanted_from_nothing() };
        let object = children::build(child, self.desired, replicas, None);
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
        let names = &self.desired.names;
        let taken =
            self.taken().next().map(|(slot, whose)| format!("{}: {whose}", slot.title(names)));
        let refused = || {
            let child = Child::ALL.into_iter().find(|child| self.refused(*child).is_some())?;
            Some(format!("{}: {}", child.title(names), self.refused(child)?))
        };
        taken.or_else(refused).or_else(|| {
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

    /// Why the API server does not take an object now.
    fn refused(&self, child: Child) -> Option<&str> {
        self.seen.answers.refused(child, self.now)
    }

    /// It would bring a version to the pods that they must not have.
    fn is_held_back(&self, child: Child) -> bool {
        child == Child::StatefulSet && self.version_refused.is_some()
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

    /// What is not as it should be is put back; what does not stay so, or is refused, is told and left for
    /// a while, so that the plan goes on.
    pub(super) fn children(&mut self) -> Option<Step> {
        let answers = &self.seen.answers;
        let mut contended = Vec::new();
        let mut next = None;
        for child in Child::ALL {
            let Some(live) = self.seen.children.get(&child) else { continue };
            if self.refused(child).is_some() || self.is_held_back(child) {
                continue;
            }
            let name = child.name(&self.desired.names);
            let title = child.title(&self.desired.names);
            let uid = live["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
            if !self.is_wanted(child) {
                let why = format!("{title} is no longer wanted");
                let change = Change::Delete { child, name, uid, keep_dependents: false };
                next = Some((change, why));
                break;
            }
            let want = self.as_applied(child, live);
            let differences = answers.differences(child, &want, live);
            let fixed = differences.iter().map(|found| found.drift.path()).find(|path| {
                child == Child::StatefulSet && FIXED.iter().any(|fixed| path.starts_with(fixed))
            });
            if let Some(path) = fixed {
                if let Err(Contended { times, until }) = answers.may_make_anew(child, self.now) {
                    contended.push(quarrel(&title, path, times, &until));
                    continue;
                }
                let why = format!(
                    "{path} of the StatefulSet cannot be changed; it is made anew around its pods"
                );
                let change = Change::Delete { child, name, uid, keep_dependents: true };
                next = Some((change, why));
                break;
            }
            let mut due = None;
            for found in differences {
                match answers.may_put_back(child, found.drift.path(), self.now) {
                    Ok(()) => {
                        due.get_or_insert(found.drift);
                    }
                    Err(Contended { times, until }) => {
                        contended.push(quarrel(&title, found.drift.path(), times, &until));
                    }
                }
            }
            let hash = |object: &Value| object["metadata"]["annotations"][OBJECT_HASH].clone();
            let (change, why) = match due {
                Some(Drift::HasMore(path)) if hash(&want) == hash(live) => {
                    let why = format!("something was put into {path}");
                    (Change::Replace(child, Box::new(want), Some(path)), why)
                }
                // Applied beside what somebody put there it may make no valid object: two ports of one name.
                Some(Drift::Differs(path) | Drift::HasMore(path)) if answers.was_refused(child) => {
                    let why = format!("{path} is not as it should be, and to apply it was refused");
                    (Change::Replace(child, Box::new(want), Some(path)), why)
                }
                Some(Drift::Differs(path) | Drift::HasMore(path)) => {
                    let why = format!("{path} is not as it should be");
                    (Change::Apply(child, Box::new(want), Some(path)), why)
                }
                None => continue,
            };
            next = Some((change, format!("{title}: {why}")));
            break;
        }
        for message in contended {
            self.trouble("Contended", message);
        }
        next.map(|(change, why)| Step::Keep(Action::Change(change), why))
    }

    /// An object as it would be applied beside what is there.
    fn as_applied(&self, child: Child, live: &Value) -> Value {
        let replicas = self.seen.replicas().unwrap_or(0);
        let claims = live.pointer("/spec/volumeClaimTemplates").map(strip_claims);
        let mut object = children::build(child, self.desired, replicas, claims.as_ref());
        pin(&mut object, live);
        object
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
        if self.seen.answers.may_make_anew(Child::StatefulSet, self.now).is_err() {
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
        if let Some(why) = self.version_refused.clone() {
            self.trouble("VersionRefused", why);
        }
        let names = &self.desired.names;
        let refused: Vec<String> = Child::ALL
            .into_iter()
            .filter_map(|child| {
                Some(format!("{} is refused: {}", child.title(names), self.refused(child)?))
            })
            .collect();
        for message in refused {
            self.trouble("ApplyRefused", message);
        }
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

/// Of a place that does not stay as it is put. Nothing in it moves while nothing is done.
fn quarrel(title: &str, path: &str, times: u32, until: &str) -> String {
    format!(
        "{title}: {path} was put back ({times} times of late) and is changed again, by a policy or another \
         controller; it is put back at {until} at the earliest"
    )
}

/// Applied to this very object in this very version, or not at all: what was seen to be ours may have
/// become somebody else's, and a StatefulSet may have been scaled.
pub(super) fn pin(object: &mut Value, live: &Value) {
    for field in ["uid", "resourceVersion"] {
        object["metadata"][field] = live["metadata"][field].clone();
    }
}
