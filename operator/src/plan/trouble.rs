//! What is not as it should be is said, in the same words as long as it stands.

use serde_json::Value;

use super::{Kind, NO_POD, PAUSED, View, keep::fixed, repair::EXIT_DISK_FULL, up};
use crate::{
    answers::{Cause, Contended},
    children::{self, Child},
    seen::{ForeignVolume, Node, Slot},
};

/// Bound: how long Kubernetes may take over a deletion, in seconds, before it is told.
const TERMINATES_MAX: i64 = 60;
/// Bound: it is told when Kubernetes has not made a pod for so long, in seconds.
const POD_MADE_SECONDS: i64 = 30;
/// Bound: pods that are named which Kubernetes does not make.
const PODS_TOLD: usize = 10;
/// Bound: regions that are named which have lost their quorum.
const REGIONS_TOLD: usize = 20;
/// Bound: fields that are named of a status that was not stored as a whole.
const FIELDS_TOLD: usize = 10;
/// Bound: it is told when a cluster has been whole for so long, in seconds, and none of its pods may go.
const CLOSED_SECONDS: i64 = 600;

/// The first of them, by name.
pub(super) fn few(all: impl IntoIterator<Item = impl ToString>, most: usize) -> String {
    let mut all = all.into_iter();
    let first: Vec<_> = all.by_ref().take(most).map(|one| one.to_string()).collect();
    let more = if all.next().is_some() { ", …" } else { "" };
    first.join(", ") + more
}

impl View<'_> {
    /// What a person should know, whatever is being done.
    pub(super) fn look_for_trouble(&mut self) {
        let cluster_id = self.desired.cluster_id.clone();
        let foreign: Vec<String> = self
            .seen
            .foreign(&cluster_id)
            .map(|(pod, theirs)| {
                let helps = self.what_helps_with_data_of(theirs);
                format!(
                    "the volume of pod {} belongs to cluster {theirs}, not to {cluster_id}; {helps}",
                    pod.name
                )
            })
            .collect();
        for message in foreign {
            self.trouble("ForeignVolume", message);
        }
        let mistyped: Vec<String> = self.mistyped().map(ToOwned::to_owned).collect();
        for name in mistyped {
            let message =
                format!("annotation {name} is none that this operator knows, and does nothing");
            self.trouble("UnknownAnnotation", message);
        }
        if let Some(asked) = self.adopts_in_vain() {
            let message = format!(
                "cluster {asked} is not taken over ({}): this one has begun, and is {cluster_id}. Take the annotation \
                 off; what is to take the other one over is a new KvCluster",
                crate::names::ADOPT
            );
            self.trouble("AdoptionRefused", message);
        }
        if let Some(refused) = self.version_refused.clone() {
            self.trouble("VersionRefused", refused.why);
        }
        let refused = self.all_children().filter_map(|child| {
            let cause = self.seen.answers.cause(child)?;
            Some((child, cause, self.why_refused(child)?.to_owned()))
        });
        let refused: Vec<(Child, Cause, String)> = refused.collect();
        for (child, cause, why) in refused {
            self.tell_refusal("ApplyRefused", child.title(self.desired), cause, &why);
        }
        self.look_for_refused_deeds();
        let lost = self.seen.answers.fields_not_kept();
        if !lost.is_empty() {
            let lost: Vec<_> = lost.into_iter().take(FIELDS_TOLD).collect();
            let message = format!(
                "the definition of KvCluster in this Kubernetes is older than this operator and does not keep {}: \
                 apply what `flotilla-operator crd` prints",
                lost.join(", ")
            );
            self.trouble("DefinitionOutdated", message);
        }
        for message in self.quarrels() {
            self.trouble("Contended", message);
        }
        let budget = Child::DisruptionBudget;
        let rolls = self.recorded(Kind::RollingUpdate).is_some();
        if let Some(why) = self.seen.answers.refused(budget)
            && rolls
            && self.is_wanted(budget)
            && !self.is_budget_closed()
        {
            let message = format!(
                "{} cannot be closed while pods are restarted, so that Kubernetes may take another one down: {why}",
                budget.title(self.desired)
            );
            self.trouble("BudgetOpen", message);
        }
        for message in self.edited_templates() {
            self.trouble("TemplateEdited", message);
        }
        for (name, whose) in &self.seen.strays {
            let message = format!(
                "pod {name} bears the labels of this cluster's nodes and is none of them ({whose}): Services send it \
                 clients, and disruption budgets count it. Delete it, or take its labels off"
            );
            self.trouble("StrayPod", message);
        }
        let names = &self.desired.names;
        let taken: Vec<String> =
            self.taken().map(|(slot, whose)| self.of_taken(slot, whose)).collect();
        for message in taken {
            self.trouble("NameTaken", message);
        }
        let foreign: Vec<String> = self
            .foreign_volumes()
            .map(|(ordinal, foreign)| self.of_foreign(&names.volume(ordinal), foreign))
            .collect();
        for message in foreign {
            self.trouble("ForeignVolume", message);
        }
        if self.desired.spec.metrics.service_monitor && self.seen.service_monitors == Some(false) {
            let message = "there is no type ServiceMonitor in this Kubernetes";
            self.trouble("NoServiceMonitors", message);
        }
        let halted = self.desired.spec.paused.then_some(PAUSED);
        self.look_for_trouble_of_nodes(halted);
    }

    /// A name of ours that something else has, and what helps. Nobody is told to delete what may be data of this cluster.
    fn of_taken(&self, slot: Slot, whose: &str) -> String {
        let title = slot.title(self.desired);
        match slot {
            Slot::Volume(_) => format!(
                "{title} does not say whose data it holds ({whose}); no pod is made with it. If it is this cluster's, \
                 annotate it: {}={}. If nobody needs it, delete it",
                crate::names::CLUSTER_ID,
                self.desired.cluster_id
            ),
            Slot::Child(_) | Slot::Pod(_) if self.is_initialized() => {
                format!(
                    "{title} is not this cluster's: {whose}; it is left alone. Delete or rename it"
                )
            }
            Slot::Child(_) | Slot::Pod(_) => format!(
                "{title} is not this cluster's: {whose}; it is left alone. Delete or rename it, or give the KvCluster \
                 another name"
            ),
        }
    }

    /// As [`Self::of_taken`], of a claim that says whose data it holds. Of one whose uid is known it is a mistake.
    fn of_foreign(&self, claim: &str, foreign: &ForeignVolume) -> String {
        let (theirs, ours) = (&foreign.cluster_id, &self.desired.cluster_id);
        let note = crate::names::CLUSTER_ID;
        if foreign.is_known {
            return format!(
                "volume claim {claim} is this cluster's, and its annotation says otherwise ({note}={theirs}); no pod \
                 is made with it. Put it right: {note}={ours}"
            );
        }
        let says = format!(
            "volume claim {claim} says that it holds data of cluster {theirs}, not of {ours}"
        );
        if self.is_initialized() {
            return format!(
                "{says}; no pod is made with it. If it is this cluster's after all, annotate it: {note}={ours}. If \
                 nobody needs what is on it, delete it"
            );
        }
        format!("{says}; {}", self.what_helps_with_data_of(theirs))
    }

    /// Deleting comes last: it cannot be undone. One that has begun takes over no other.
    fn what_helps_with_data_of(&self, theirs: &str) -> String {
        let adopt = crate::names::ADOPT;
        if self.is_initialized() {
            "it is left alone. If nobody needs what is on it, delete its claim".to_owned()
        } else {
            format!(
                "take that cluster over with the annotation {adopt}={theirs}, or, if nobody needs its data, delete \
                 the claim"
            )
        }
    }

    /// Of what runs, whatever is asked for. `halted`: why nothing is done, where nothing is.
    pub(super) fn look_for_trouble_of_nodes(&mut self, halted: Option<&str>) {
        let cluster_id = self.desired.cluster_id.clone();
        for pod in self.seen.pods.values() {
            let is_full = pod.last_exit.as_ref().is_some_and(|exit| exit.code == EXIT_DISK_FULL);
            if is_full && !pod.running {
                let message = format!(
                    "the server in pod {} ended for want of room on its disk: raise storage.size, and it goes on where \
                     it was",
                    pod.name
                );
                self.trouble("DiskFull", message);
            }
            if let Some((reason, message)) = &pod.problem {
                self.trouble("PodFailing", format!("pod {}: {reason}: {message}", pod.name));
            }
        }
        let missed = self.seen.missed().filter(|(_, set)| {
            self.seen.answers.lasted(set, NO_POD).is_some_and(|lasts| lasts >= POD_MADE_SECONDS)
        });
        let missed: Vec<i32> = missed.map(|(ordinal, _)| ordinal).collect();
        if let Some(first) = missed.first() {
            let names = &self.desired.names;
            let pods = few(missed.iter().map(|at| names.pod(*at)), PODS_TOLD);
            let message = format!(
                "Kubernetes does not make {pods} (a quota, a limit or an admission policy may refuse it): \
                 `kubectl -n {} describe statefulset {}` says why",
                names.namespace,
                names.set(*first)
            );
            self.trouble("PodNotMade", message);
        }
        self.look_for_disks_at_risk(halted);
        self.look_for_volumes_that_do_not_grow();
        if self.desired.spec.stopped {
            return;
        }
        self.look_for_pods_that_do_not_join();
        self.look_for_hidden_disks();
        if !self.is_initialized() {
            return;
        }
        let lasts = self.seen.answers.whole_for() >= CLOSED_SECONDS;
        if (halted.is_some() || lasts) && self.is_budget_closed() && self.is_whole() {
            let title = Child::DisruptionBudget.title(self.desired);
            let why = match halted {
                Some(why) => format!(
                    "since a copy was missed before; all is whole now, and it stays closed while {why}"
                ),
                None => "although nothing has been missed for long: Kubernetes nodes with its pods cannot be \
                         drained. It is opened when the restart that is under way is over, and when the API \
                         server takes it"
                    .to_owned(),
            };
            self.trouble("BudgetClosed", format!("{title} lets no pod go, {why}"));
        }
        let lost = self.regions.quorum_lost();
        if !lost.is_empty() {
            let first = few(&lost, REGIONS_TOLD);
            let message = format!("no majority answers of {} regions: {first}", lost.len());
            self.trouble("QuorumLost", message);
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

    /// What does not stay as it is put, of all objects: nothing in it moves while nothing is done.
    fn quarrels(&self) -> Vec<String> {
        let answers = &self.seen.answers;
        let mut told = Vec::new();
        for child in self.all_children() {
            let title = child.title(self.desired);
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
                && self.terminates_for(live, TERMINATES_MAX)
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

    /// The deletion of an object began so many seconds ago.
    fn terminates_for(&self, live: &Value, seconds: i64) -> bool {
        let whose = live["metadata"]["uid"].as_str().unwrap_or_default();
        let since = live["metadata"]["deletionTimestamp"].as_str();
        since.is_some_and(|since| self.has_lasted(whose, since, seconds))
    }

    /// What somebody wrote into a template that is not ours to write now.
    fn edited_templates(&self) -> Vec<String> {
        let edited = self.seen.sets().filter_map(|(ordinal, live)| {
            let also_by: Vec<_> = children::template_also_by(live).into_iter().collect();
            let is_told = !also_by.is_empty() && self.keeps_template(ordinal, live);
            is_told.then(|| {
                format!(
                    "{}: its template was also written by {}; a pod that is made anew comes with that until it \
                     has its turn (spec.restartedAt gives all pods theirs)",
                    Child::StatefulSet(ordinal).title(self.desired),
                    also_by.join(", ")
                )
            })
        });
        edited.collect()
    }
}
