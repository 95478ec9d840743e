//! More or fewer pods.
//!
//! Pods come first and go last: a pod is there before its node joins, and a node has left before its
//! pod goes. Which pods there must be follows from the spec and from who is a member, so a
//! StatefulSet that somebody scaled by hand is put back before anything else is done. One that has
//! no pod any more, and is not to have one, goes.

use serde_json::Value;

use super::{
    Action, Call, Change, Kind, Step, View,
    live::{is_terminating, pin},
    up,
};
use crate::{
    answers::REPLICAS,
    children::{self, Child},
    names::{OBJECT_HASH, SENT_TEMPLATE, TEMPLATE_ALSO_BY},
    seen::{Node, Row, Slot, State, VolumeClaim},
};

impl View<'_> {
    /// Members without a pod get it back first.
    pub(super) fn cover_members(&self) -> Option<Step> {
        let needed: Vec<i32> = if let Some(table) = &self.seen.table {
            let members = table.nodes.iter().filter(|row| row.is_member());
            members.filter_map(|row| self.ordinal_of(row)).collect()
        } else if self.is_initialized() {
            // A disk that was let go is no member's.
            let let_go = |ordinal: &i32| {
                let volume = self.seen.volumes.get(ordinal);
                volume.is_some_and(|volume| self.is_let_go(*ordinal, volume))
            };
            (0..self.wanted_pods()).filter(|ordinal| !let_go(ordinal)).collect()
        } else {
            return None;
        };
        let lacks_one = |ordinal: &i32| {
            !self.seen.is_held(*ordinal)
                && self.may_be_held(*ordinal)
                && self.is_theirs(*ordinal).is_none()
        };
        let ordinal = needed.into_iter().filter(lacks_one).min()?;
        let operation =
            self.operation(self.kind_of_more(Kind::Restore), &self.pod_name(ordinal), "AddPod");
        let why = format!("a node of the cluster has no pod {}", self.pod_name(ordinal));
        Some(Step::Act(operation, self.scale_to(ordinal, 1), why))
    }

    /// The first pods of a cluster that has none are a start.
    fn kind_of_more(&self, otherwise: Kind) -> Kind {
        let starts = self.seen.held().next().is_none() || self.recorded(Kind::Start).is_some();
        if starts { Kind::Start } else { otherwise }
    }

    pub(super) fn stop(&self) -> Option<Step> {
        let operation = |step| self.operation(Kind::Stop, &self.desired.names.name, step);
        let held = self
            .seen
            .held()
            .filter(|ordinal| self.may_try(Child::StatefulSet(*ordinal)) && self.may_end(*ordinal));
        if let Some(ordinal) = held.max() {
            let why = "the cluster is to stop; its volumes stay".to_owned();
            return Some(Step::Act(operation("RemovePod"), self.scale_to(ordinal, 0), why));
        }
        let stays = |ordinal: i32| self.seen.is_held(ordinal) && !self.may_end(ordinal);
        let left = self.seen.pods.keys().filter(|ordinal| !stays(**ordinal)).count();
        (left > 0)
            .then(|| Step::Wait(operation("WaitForPods"), format!("{left} pods are stopping")))
    }

    pub(super) fn scale_down(&mut self) -> Option<Step> {
        if !self.may_be_made() {
            return None;
        }
        let wanted = self.wanted_pods();
        if self.seen.table.is_some() {
            return self
                .remove_member()
                .or_else(|| self.remove_pods(wanted))
                .or_else(|| self.drop_volumes(wanted));
        }
        // Before the cluster has begun there is nobody to ask, and nothing to lose.
        if self.is_initialized() { None } else { self.remove_pods(wanted) }
    }

    /// The StatefulSet of a node may be made or given a pod: nobody undid that a moment ago, nor refused it.
    fn may_be_held(&self, ordinal: i32) -> bool {
        let child = Child::StatefulSet(ordinal);
        let Some(live) = self.seen.set(ordinal) else {
            return !self.is_held_back(child) && self.may_make(child);
        };
        let want = self.stateful_set(ordinal, 1, Template::AsItIs);
        self.may_try(child)
            && !is_terminating(live)
            && self.seen.answers.may_put_back(child, &want, REPLICAS, self.now).is_ok()
    }

    /// The first that can come; else what the first of them waits for. While the template is held it would come
    /// with that of before, and be restarted next.
    pub(super) fn add_pods(&mut self) -> Option<Step> {
        if !self.may_be_made() {
            return None;
        }
        let wanted = self.wanted_pods();
        let mut waits = None;
        for ordinal in 0..wanted {
            if self.seen.is_held(ordinal) || !self.may_be_held(ordinal) {
                continue;
            }
            let step = self.add_pod(ordinal, wanted);
            match self.unless_refused(step) {
                step @ (Step::HeldUp(..) | Step::Refused(..)) => {
                    waits.get_or_insert(step);
                }
                step => return Some(step),
            }
        }
        waits
    }

    fn add_pod(&self, ordinal: i32, wanted: i32) -> Step {
        let name = self.pod_name(ordinal);
        let kind = self.kind_of_more(Kind::ScaleUp);
        // The disk of a removed node must not come back under a new one.
        if let Some(volume) = self.seen.volumes.get(&ordinal)
            && volume.decommissioned.is_some()
        {
            let operation = self.operation(kind, &name, "DeleteVolume");
            if volume.terminating || self.seen.pods.contains_key(&ordinal) {
                let why = format!("volume {} is being deleted", volume.name);
                return Step::HeldUp(operation, why);
            }
            if let Err(why) = self.may_be_emptied(ordinal, volume) {
                return Step::HeldUp(operation, why);
            }
            let change = self.delete_volume(volume);
            let why = format!("volume {} is that of a node that was removed", volume.name);
            return Step::Act(operation, Action::Change(change), why);
        }
        // A pod would write into somebody else's volume.
        let operation = self.operation(kind, &name, "AddPod");
        if let Some(title) = self.is_theirs(ordinal) {
            return Step::HeldUp(operation, format!("{title} is not this cluster's"));
        }
        let why = format!("{wanted} nodes are wanted, and there is no pod {name}");
        Step::Act(operation, self.scale_to(ordinal, 1), why)
    }

    /// The volume that a pod would be made with is somebody else's.
    pub(super) fn is_theirs(&self, ordinal: i32) -> Option<String> {
        let volume = Slot::Volume(ordinal);
        let is_theirs = self.seen.foreign_volumes.contains_key(&ordinal)
            || self.seen.taken.contains_key(&volume);
        is_theirs.then(|| volume.title(self.desired))
    }

    /// The member of the highest ordinal that is not wanted any more.
    fn remove_member(&mut self) -> Option<Step> {
        let table = self.seen.table.as_ref()?;
        let spec = self.desired.spec.replicas;
        let (ordinal, row) = table
            .nodes
            .iter()
            .filter(|row| row.is_member() && row.state != State::Draining)
            .filter_map(|row| Some((self.ordinal_of(row)?, row)))
            .filter(|(ordinal, _)| *ordinal >= spec)
            .max_by_key(|(ordinal, _)| *ordinal)?;
        let name = self.pod_name(ordinal);
        let mut operation = self.operation(Kind::ScaleDown, &name, "RemoveNode");
        operation.node_id = i64::try_from(row.node_id).ok();
        let stay = up(table).filter(|other| other.node_id != row.node_id).count();
        let factor = table.replication_factor as usize;
        let refused = if row.state == State::Up && stay < factor {
            Some(format!(
                "{stay} nodes would stay in service, fewer than the {factor} peers of a region"
            ))
        } else if let Some(missed) = up(table).find(|other| {
            // Of those that are to go as well one that does not come back is not missed.
            let goes = self.ordinal_of(other).is_some_and(|ordinal| ordinal >= spec);
            let is_missed = !goes || !self.is_down_for_long(other);
            other.node_id != row.node_id && !self.is_alive(other) && is_missed
        }) {
            Some(format!("node {} is down", missed.node_id))
        } else if !self.regions.lost_without(None).is_empty() || self.regions.has_gap {
            Some("regions have no quorum".to_owned())
        } else {
            None
        };
        if let Some(why) = refused {
            let message = format!("node {} is not removed: {why}", row.node_id);
            self.trouble("ScaleDownRefused", message.clone());
            return Some(Step::Wait(operation, message));
        }
        let call = Call::RemoveNode {
            node_id: row.node_id,
            force: false,
            expected_version: table.version,
        };
        let why = format!("{spec} nodes are wanted; node {} in pod {name} goes", row.node_id);
        Some(Step::Act(operation, Action::Call(call), why))
    }

    /// Pods without a node, one by one: the volume is marked, then the pod goes. Then their StatefulSets.
    fn remove_pods(&mut self, wanted: i32) -> Option<Step> {
        let held = || self.seen.held().filter(|ordinal| *ordinal >= wanted);
        let next = held().filter(|ordinal| self.may_end(*ordinal)).max();
        if let Some(ordinal) = next.or_else(|| held().max()) {
            let name = self.pod_name(ordinal);
            if !self.may_end(ordinal) {
                let operation = self.operation(Kind::ScaleDown, &name, "KeepVolume");
                return Some(Step::Wait(operation, self.why_it_stays(ordinal)));
            }
            // A disk of a cluster that is not ours is not ours to mark: who marks it lets it be deleted.
            let theirs =
                self.seen.foreign(&self.desired.cluster_id).find(|(pod, _)| pod.name == name);
            if let Some((_, theirs)) = theirs {
                let message =
                    format!("the disk of pod {name} is that of cluster {theirs}; it is kept");
                let operation = self.operation(Kind::ScaleDown, &name, "RemovePod");
                return Some(Step::Wait(operation, message));
            }
            if let Some(pod) = self.pod(ordinal)
                && let Node::Joined(joined) = &pod.node
                && joined.cluster_id == self.desired.cluster_id
                && self.seen.row(joined.node_id).is_none_or(|row| row.state != State::Removed)
            {
                let message = format!(
                    "pod {} holds node {}, which is not the node at its address; it is kept",
                    pod.name, joined.node_id
                );
                self.trouble("UnknownNode", message.clone());
                let operation = self.operation(Kind::ScaleDown, &name, "RemovePod");
                return Some(Step::Wait(operation, message));
            }
            if let Some(volume) = self.seen.volumes.get(&ordinal)
                && volume.decommissioned.is_none()
                && !volume.terminating
            {
                let is_told = self.pod(ordinal).is_some_and(|pod| {
                    matches!(pod.node, Node::Unjoined { .. } | Node::Removed { .. })
                });
                if let Some(row) = self.may_be_of(ordinal).filter(|_| !is_told) {
                    let message = format!(
                        "pod {name} does not answer, and its disk may be that of node {}, whose address is {}; it \
                         is kept",
                        row.node_id, row.address
                    );
                    self.trouble("UnknownNode", message.clone());
                    let operation = self.operation(Kind::ScaleDown, &name, "RemovePod");
                    return Some(Step::Wait(operation, message));
                }
                let last = self.last_node_at(ordinal);
                let node_id = last.map_or_else(|| "none".to_owned(), |id| id.to_string());
                let operation = self.operation(Kind::ScaleDown, &name, "MarkVolume");
                let why = format!("volume {} holds nothing that is needed", volume.name);
                let (name, uid) = (volume.name.clone(), volume.uid.clone());
                let change = Change::MarkVolume { name, uid, node_id };
                return Some(Step::Act(operation, Action::Change(change), why));
            }
            let operation = self.operation(Kind::ScaleDown, &name, "RemovePod");
            let why = format!("{wanted} pods hold all nodes; pod {name} holds none");
            return Some(Step::Act(operation, self.scale_to(ordinal, 0), why));
        }
        let (ordinal, live) = self.seen.sets().find(|(ordinal, live)| {
            let child = Child::StatefulSet(*ordinal);
            *ordinal >= wanted
                && !is_terminating(live)
                && self.seen.answers.may_delete(child, self.now).is_ok()
        })?;
        let name = self.pod_name(ordinal);
        if self.seen.pods.contains_key(&ordinal) {
            let operation = self.operation(Kind::ScaleDown, &name, "WaitForPod");
            return Some(Step::Wait(operation, format!("pod {name} is stopping")));
        }
        let operation = self.operation(Kind::ScaleDown, &name, "DeleteStatefulSet");
        let why = format!("StatefulSet {} is not needed", self.desired.names.set(ordinal));
        Some(Step::Act(operation, Action::Change(self.delete_set(ordinal, live)), why))
    }

    /// Marked volumes without a pod, unless they are to be kept. Also those that were kept before that was changed.
    pub(super) fn dropped_volumes(&self, wanted: i32) -> impl Iterator<Item = &VolumeClaim> {
        let dropped = self.seen.volumes.iter().filter(move |(ordinal, volume)| {
            **ordinal >= wanted
                && !self.desired.spec.storage.retain
                && volume.decommissioned.is_some()
                && self.may_be_emptied(**ordinal, volume).is_ok()
                && !volume.terminating
                && !self.seen.pods.contains_key(ordinal)
        });
        dropped.map(|(_, volume)| volume)
    }

    fn drop_volumes(&mut self, wanted: i32) -> Option<Step> {
        let dropped = self.dropped_volumes(wanted);
        let steps = dropped.map(|volume| {
            let operation = self.operation(Kind::ScaleDown, &volume.name, "DeleteVolume");
            let why = format!("volume {} is no longer needed and not to be kept", volume.name);
            Step::Act(operation, Action::Change(self.delete_volume(volume)), why)
        });
        let steps: Vec<_> = steps.collect();
        self.first_of(steps)
    }

    /// A node that lives on a disk which nobody knows: its address is none of ours, as after its volume was taken over
    /// under another name and before it told its new one. Any disk may be that, but those of nodes that are known: a
    /// node that had this address later. One that had it before says nothing, since volumes may have gone to the other
    /// name and come back.
    pub(super) fn may_be_of(&self, ordinal: i32) -> Option<&Row> {
        let table = self.seen.table.as_ref()?;
        let is_elsewhere =
            |row: &&Row| row.state != State::Removed && self.ordinal_of(row).is_none();
        let last = self.last_node_at(ordinal);
        let is_later = |row: &&Row| last.is_none_or(|last| row.node_id > last);
        table.nodes.iter().filter(is_elsewhere).find(is_later)
    }

    /// The newest node that had this address.
    fn last_node_at(&self, ordinal: i32) -> Option<u64> {
        let table = self.seen.table.as_ref()?;
        let there = table.nodes.iter().filter(|row| self.ordinal_of(row) == Some(ordinal));
        there.map(|row| row.node_id).max()
    }

    /// A node's StatefulSet with a pod or without, as it was seen otherwise.
    fn scale_to(&self, ordinal: i32, replicas: i32) -> Action {
        let set = self.stateful_set(ordinal, replicas, Template::AsItIs);
        Action::Change(Change::Scale { ordinal, set: Box::new(set), replicas })
    }

    /// A claim goes, for its ordinal is to begin with an empty disk. What was on the disk stays where that is
    /// asked for.
    pub(super) fn delete_volume(&self, volume: &VolumeClaim) -> Change {
        let keep = volume.volume.clone().filter(|_| self.desired.spec.storage.retain);
        Change::DeleteVolume {
            name: volume.name.clone(),
            uid: volume.uid.clone(),
            keep,
            version: volume.version.clone(),
        }
    }

    /// Without what hangs on it: its pod and its volume are not its to take along.
    pub(super) fn delete_set(&self, ordinal: i32, live: &Value) -> Change {
        Change::Delete {
            child: Child::StatefulSet(ordinal),
            name: self.desired.names.set(ordinal),
            uid: live["metadata"]["uid"].as_str().unwrap_or_default().to_owned(),
            keep_dependents: true,
        }
    }

    /// A node's StatefulSet as it is to be applied, beside the one that there is.
    pub(super) fn stateful_set(&self, ordinal: i32, replicas: i32, template: Template) -> Value {
        let child = Child::StatefulSet(ordinal);
        let Some(live) = self.seen.set(ordinal) else {
            let mut set = children::build(child, self.desired, replicas, None);
            if let Some(before) = self.template_of_before(ordinal) {
                self.give_template_of(before, ordinal, &mut set);
            }
            return set;
        };
        let claims = live.pointer("/spec/volumeClaimTemplates").map(strip_claims);
        let mut set = children::build(child, self.desired, replicas, claims.as_ref());
        if template == Template::AsItIs && self.keeps_template(ordinal, live) {
            set["spec"]["template"] = live["spec"]["template"].clone();
            // Of what was applied when that template was.
            copy_annotation(&mut set, live, OBJECT_HASH);
            copy_annotation(&mut set, live, SENT_TEMPLATE);
            // What is sent is ours from then on, and nobody could tell.
            let also_by = children::template_also_by(live);
            if !also_by.is_empty() {
                let also_by: Vec<_> = also_by.into_iter().collect();
                set["metadata"]["annotations"][TEMPLATE_ALSO_BY] = also_by.join(", ").into();
            }
        }
        if template == Template::OfItsPod
            && let Some(before) = self.template_of_before(ordinal)
        {
            self.give_template_of(before, ordinal, &mut set);
        }
        pin(&mut set, live);
        set
    }

    /// The template is not ours to write now, whatever is in it.
    pub(super) fn keeps_template(&self, ordinal: i32, live: &Value) -> bool {
        self.holds_template()
            || self.waits_for_its_turn(ordinal, live)
            || self.is_of_other_code(ordinal, live)
    }

    fn give_template_of(&self, other: &Value, ordinal: i32, set: &mut Value) {
        let template = &other["spec"]["template"];
        set["spec"]["template"] = children::template_like(template, self.desired, ordinal);
        copy_annotation(set, other, SENT_TEMPLATE);
        children::record(Child::StatefulSet(ordinal), set);
    }

    /// What the StatefulSet of a node that has none any more made its pod with: that of another node, as their
    /// pods were made with the same; or, without a pod, one that waits for its turn. `None`: what is asked for.
    pub(super) fn template_of_before(&self, ordinal: i32) -> Option<&Value> {
        let wished = Some(self.desired.template_hash.as_str());
        let had = self.pod(ordinal).map(|pod| pod.template_hash.as_deref());
        // An empty disk is any template's to open.
        let has_disk =
            self.seen.volumes.get(&ordinal).is_some_and(|volume| !self.is_let_go(ordinal, volume));
        let is_it = |other: i32, live: &Value| {
            let hash = children::template_hash(live);
            match had {
                Some(had) => hash == had && (had != wished || self.is_of_other_code(other, live)),
                None => hash != wished || (has_disk && self.is_of_other_code(other, live)),
            }
        };
        let (_, live) = self.seen.sets().find(|(other, live)| is_it(*other, live))?;
        Some(live)
    }

    /// The template was sent for the spec that is asked for, but by an operator of other code or other flags: what
    /// the operator itself puts into it would reach all pods at once, as they happen to be made anew. It stays until
    /// the pod has its turn for the spec's sake.
    pub(super) fn is_of_other_code(&self, ordinal: i32, live: &Value) -> bool {
        let wished = self.desired.template_hash.as_str();
        // What has no data yet, or does not run, may take what there is.
        let stopped = self.desired.spec.stopped && self.pod(ordinal).is_none();
        if children::template_hash(live) != Some(wished) || !self.is_initialized() || stopped {
            return false;
        }
        let noted = &live["metadata"]["annotations"];
        if let Some(sent) = noted[SENT_TEMPLATE].as_str() {
            return sent != self.desired.sent_template;
        }
        // An operator that did not note it noted what it sent as a whole.
        let now = children::build(Child::StatefulSet(ordinal), self.desired, 0, None);
        noted[OBJECT_HASH] != now["metadata"]["annotations"][OBJECT_HASH]
    }

    /// The pod of a StatefulSet has not had its turn with the template that is asked for: the one that it
    /// was started with stays, for whatever happens to the pod before.
    ///
    /// A pod that has the new one already, or is nobody's, is not made to wait: the spec was put back, or
    /// the cluster is stopped.
    pub(super) fn waits_for_its_turn(&self, ordinal: i32, live: &Value) -> bool {
        let wished = self.desired.template_hash.as_str();
        let has_it =
            self.pod(ordinal).is_some_and(|pod| pod.template_hash.as_deref() == Some(wished));
        let stopped = self.desired.spec.stopped && self.pod(ordinal).is_none();
        children::template_hash(live) != Some(wished) && !has_it && !stopped
    }
}

/// As it is there, or not at all.
fn copy_annotation(object: &mut Value, live: &Value, key: &str) {
    let there = &live["metadata"]["annotations"][key];
    match object["metadata"]["annotations"].as_object_mut() {
        Some(annotations) if there.is_null() => {
            annotations.remove(key);
        }
        Some(annotations) => {
            annotations.insert(key.to_owned(), there.clone());
        }
        None => {}
    }
}

/// Which template a StatefulSet is sent with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Template {
    /// That which it has, as long as its pod has not had its turn.
    AsItIs,
    /// It is its turn.
    AsAsked,
    /// It was its turn: that which its pod has.
    OfItsPod,
}

/// Claims as they are sent: without what the API server adds to them.
pub(super) fn strip_claims(claims: &Value) -> Value {
    let mut claims = claims.clone();
    for claim in claims.as_array_mut().into_iter().flatten() {
        if let Some(claim) = claim.as_object_mut() {
            claim.remove("status");
            if let Some(metadata) =
                claim.get_mut("metadata").and_then(|value| value.as_object_mut())
            {
                metadata.remove("creationTimestamp");
            }
        }
    }
    claims
}
