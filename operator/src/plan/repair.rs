//! A node that will not come back is given up, and its pod begins anew with an empty disk. One at a
//! time, and only while every region keeps its quorum without it.
//!
//! A node that is merely silent is not given up: its disk may come back, and the placement driver
//! makes its peers anew elsewhere by itself. Three things are proof. The pod answers with an empty
//! disk, so the old one is gone. The disk was that of a Kubernetes node that is no more. Or the process
//! ends again and again, long after it should have been up, with the same template that another node with a disk from
//! before it runs well on (so it is not the template), and not for want of memory (so it is not the limit) nor of room.
//! It is Kubernetes that says so, of now: how often a pod has ended in its life says nothing of a machine that is cut off.
//!
//! An empty disk on the very claim that holds a node is no proof by itself: a pod that looks for its data in another
//! place finds none either, and so would each after it. It is one where another node runs well with the same template.

use super::{Action, Call, Change, Kind, Step, View};
use crate::seen::{Exit, Node, Pod, Row, State, TOLD_TO_END};

/// Restarts before a process counts as one that cannot live on its disk.
const RESTARTS_MIN: i32 = 5;
/// Bound: a pod does not run for as long before the Kubernetes node of its disk counts as gone.
const MACHINE_GONE_SECONDS: i64 = 60;
/// A wrong command line or configuration, which no other disk would mend.
const EXIT_USAGE: i32 = 64;
/// There is no room for what it must write: a larger volume mends it, and its data is all there. An empty disk would
/// be as full, since all fill together.
pub(super) const EXIT_DISK_FULL: i32 = 28;

/// Whether another disk would end in the same way. Kubernetes kills a process where a probe has no answer for reasons of the
/// machine or its network, or because it takes long to start on much data.
fn says_nothing_of_its_disk(exit: &Exit) -> bool {
    let of_itself = [EXIT_USAGE, EXIT_DISK_FULL].contains(&exit.code);
    exit.out_of_memory || of_itself || TOLD_TO_END.contains(&exit.code)
}

impl View<'_> {
    pub(super) fn repair(&mut self) -> Option<Step> {
        let table = self.seen.table.as_ref()?;
        let spec = self.desired.spec.replicas;
        let forced = table.nodes.iter().any(|row| row.state == State::Draining && row.forced);
        // A pod that begins anew may wait for a machine that is away for days.
        let mut waits = None;
        for (ordinal, pod) in self.seen.pods.range(..spec) {
            match self.empty_disk(*ordinal, pod).map(|step| self.unless_refused(step)) {
                Some(step @ (Step::Wait(..) | Step::Refused(..))) => waits = waits.or(Some(step)),
                Some(step) => return Some(step),
                None => {}
            }
        }
        if forced {
            // One at a time: the drain of this one is waited for.
            return waits;
        }
        let dead = (0..spec).filter_map(|ordinal| {
            let row = self.member(ordinal)?;
            let proof = self.is_gone(ordinal, row)?;
            Some((ordinal, row, proof))
        });
        // Each for itself: one that cannot be given up yet keeps no other from being replaced.
        let dead: Vec<_> = dead.collect();
        let (may, not_yet): (Vec<_>, Vec<_>) =
            dead.into_iter().partition(|(_, row, _)| self.may_not_be_given_up(row).is_none());
        let dead = if may.is_empty() { not_yet.into_iter().take(1).collect() } else { may };
        for (ordinal, row, proof) in dead {
            match self.give_up(ordinal, row, &proof).map(|step| self.unless_refused(step)) {
                Some(step @ Step::Act(..)) => return Some(step),
                waits_too => waits = waits.or(waits_too),
            }
        }
        waits
    }

    /// Why the disk of a member will not come back; `None` when it may.
    pub(super) fn is_gone(&self, ordinal: i32, row: &Row) -> Option<String> {
        if row.state == State::Draining {
            return None;
        }
        let pod = self.pod(ordinal)?;
        if matches!(pod.node, Node::Unjoined { .. }) {
            // Its disk does not know yet; or did not when it was asked, and it is heard since.
            if row.state == State::Joining || (row.alive && row.holds_nothing_yet()) {
                return None;
            }
            if self.hides_its_disk(ordinal, pod).is_some_and(|(id, _)| id == row.node_id) {
                return None;
            }
            return Some("its volume was lost: the pod has an empty one".to_owned());
        }
        if pod.ready || !matches!(pod.node, Node::Silent(_)) || row.alive {
            return None;
        }
        let since = pod.not_ready_since.as_deref()?;
        let volume = self.seen.volumes.get(&ordinal)?;
        // A Kubernetes node that registers itself anew is missing for a moment.
        if volume.machine_is_gone
            && !pod.running
            && self.is_not_ready_for(pod, MACHINE_GONE_SECONDS)
        {
            return Some("its volume was on a Kubernetes node that is no more".to_owned());
        }
        let exit = pod.last_exit.as_ref()?;
        let longer = self.desired.settings.node_down_after_seconds().saturating_add(1);
        let cannot_live = pod.restarts >= RESTARTS_MIN
            && self.is_not_ready_for(pod, longer)
            && !says_nothing_of_its_disk(exit)
            && !pod.running
            && pod.ends_again_and_again()
            && pod.template_hash.as_deref() == Some(&self.desired.template_hash)
            && self.runs_elsewhere(ordinal, Some(&self.desired.template_hash));
        // No number that runs: each would be written into the status.
        cannot_live
            .then(|| format!("its process ends again and again, and has not served since {since}"))
    }

    /// Some node runs well with a template, and with a disk that says something of the one at this ordinal.
    fn runs_elsewhere(&self, ordinal: i32, template_hash: Option<&str>) -> bool {
        self.seen.pods.iter().any(|(other, pod)| {
            self.runs_well(pod)
                && matches!(pod.node, Node::Joined(_))
                && pod.template_hash.as_deref() == template_hash
                && self.speaks_for(ordinal, *other, pod)
        })
    }

    /// Whether how another pod fares with its template says how the disk at this ordinal would.
    ///
    /// Invariant: a node that was begun with its template has read nothing but what it has written with it. It proves the
    /// template for disks that were begun with it, too, and for no older one, which the program may not be able to read.
    pub(super) fn speaks_for(&self, ordinal: i32, other: i32, pod: &Pod) -> bool {
        let template = pod.template_hash.as_deref();
        match self.born_with(ordinal) {
            // Of no node: there is nothing to be read.
            None if self.node_at(ordinal).is_none() => true,
            own => own == template || self.born_with(other) != template,
        }
    }

    /// The template that the disk of a node was begun with, as far as that was noted.
    fn born_with(&self, ordinal: i32) -> Option<&str> {
        self.seen.noted_member(self.node_at(ordinal)?)?.born_with.as_deref()
    }

    /// The node at an ordinal, by its claim, or by the table.
    fn node_at(&self, ordinal: i32) -> Option<u64> {
        self.node_of_claim(ordinal).or_else(|| Some(self.member(ordinal)?.node_id))
    }

    /// The node that a claim is known to hold. By the claim's uid: one that was made anew is empty by right.
    pub(super) fn node_of_claim(&self, ordinal: i32) -> Option<u64> {
        let volume = self.seen.volumes.get(&ordinal)?;
        let members = self.seen.noted_members();
        let mut members = members.filter(|known| known.pvc_uid.as_deref() == Some(&volume.uid));
        let node = members.find_map(|member| u64::try_from(member.node_id).ok())?;
        let is_gone =
            |row: &Row| !row.is_member() || row.holds_nothing_yet() || row.state == State::Draining;
        (!self.seen.row(node).is_some_and(is_gone)).then_some(node)
    }

    /// A pod found an empty disk on the claim that holds a node: which one, and why it is the template's doing, or that
    /// of who changed the pod.
    pub(super) fn hides_its_disk(&self, ordinal: i32, pod: &Pod) -> Option<(u64, String)> {
        let volume = self.seen.volumes.get(&ordinal)?;
        if !matches!(pod.node, Node::Unjoined { .. }) || pod.terminating || volume.terminating {
            return None;
        }
        let node = self.node_of_claim(ordinal)?;
        if let Some(elsewhere) = &pod.disk_elsewhere {
            return Some((node, elsewhere.clone()));
        }
        let is_first = !self.runs_elsewhere(ordinal, pod.template_hash.as_deref());
        let why = "no other node runs with the template that it was made with";
        is_first.then(|| (node, why.to_owned()))
    }

    /// Told whatever else is done: the node is not given up, and the roll waits for it.
    pub(super) fn look_for_hidden_disks(&mut self) {
        let told = self.seen.pods.iter().filter_map(|(ordinal, pod)| {
            let (node, why) = self.hides_its_disk(*ordinal, pod)?;
            let name = &pod.name;
            Some(format!(
                "pod {name} has come up with an empty disk on the volume claim that holds node {node}, and the template \
                 is at fault rather than the disk: {why}. No other pod is restarted for it, and the node is not given \
                 up. Put back what changed where the server finds its data (spec.image, spec.podTemplate, a policy that \
                 changes pods; after a policy, delete the pod), and the node is there again with its data. If the disk \
                 is empty all the same, the node is replaced then. If it is known to have been emptied, delete the \
                 claim: the node is replaced"
            ))
        });
        let told: Vec<_> = told.collect();
        for message in told {
            self.trouble("TemplateHidesDisk", message);
        }
    }

    /// Judged by the regions, as the server does: of how many of their voters a majority answers without it. Which
    /// nodes are away is another question: two that are gone for good would wait for each other, and a machine
    /// that is mended for days would keep all others from being replaced.
    fn may_not_be_given_up(&self, row: &Row) -> Option<String> {
        let lost = self.regions.lost_without(Some(row.node_id));
        if row.alive {
            Some("the cluster has heard it a moment ago".to_owned())
        } else if self.regions.has_gap {
            Some("not all regions are seen".to_owned())
        } else if lost.is_empty() {
            None
        } else {
            Some(format!("{} regions would have no quorum without it", lost.len()))
        }
    }

    fn give_up(&mut self, ordinal: i32, row: &Row, proof: &str) -> Option<Step> {
        let name = self.pod_name(ordinal);
        let id = row.node_id;
        let mut operation = self.operation(Kind::Repair, &name, "RemoveNode");
        operation.node_id = i64::try_from(id).ok();
        operation.volume_uid = self.seen.volumes.get(&ordinal).map(|volume| volume.uid.clone());
        let refused = self.may_not_be_given_up(row);
        let message = format!("node {id} in pod {name} will not come back: {proof}");
        if let Some(why) = refused {
            let message = format!("{message}; it is not given up yet: {why}");
            self.trouble("NodeLost", message.clone());
            return Some(Step::Wait(operation, message));
        }
        self.trouble("NodeLost", message.clone());
        if let Some(mark) = self.mark_given_up(ordinal, id) {
            "MarkVolume".clone_into(&mut operation.step);
            return Some(Step::Act(operation, Action::Change(mark), message));
        }
        let expected_version = self.seen.table.as_ref()?.version;
        let call = Call::RemoveNode { node_id: id, force: true, expected_version };
        Some(Step::Act(operation, Action::Call(call), message))
    }

    /// The node that was given up at an ordinal, and whose peers are being made anew elsewhere.
    pub(super) fn given_up_at(&self, ordinal: i32) -> Option<&Row> {
        let mut rows = self.seen.table.iter().flat_map(|table| &table.nodes);
        rows.find(|row| {
            row.forced && row.state == State::Draining && self.ordinal_of(row) == Some(ordinal)
        })
    }

    /// The claim of a pod is to be deleted now.
    pub(super) fn empties(&self, ordinal: i32, pod: &Pod) -> bool {
        let step = self.empty_disk(ordinal, pod);
        matches!(step, Some(Step::Act(_, Action::Change(Change::DeleteVolume { .. }), _)))
    }

    /// The disk of a node that was removed is emptied: the claim goes, then the pod, and Kubernetes
    /// makes both anew.
    fn empty_disk(&self, ordinal: i32, pod: &Pod) -> Option<Step> {
        let given_up = self.recorded(Kind::Repair).filter(|operation| operation.target == pod.name);
        let volume = self.seen.volumes.get(&ordinal);
        let is_removed = |id: u64| self.seen.row(id).is_some_and(|row| row.state == State::Removed);
        let old_disk = match &pod.node {
            Node::Removed { cluster_id, node_id } => {
                *cluster_id == self.desired.cluster_id && is_removed(*node_id)
            }
            Node::Joined(joined) => {
                joined.cluster_id == self.desired.cluster_id && is_removed(joined.node_id)
            }
            // It cannot say so itself: then its claim does, or it must be the very disk that the repair is about.
            Node::Silent(_) => volume.is_some_and(|volume| {
                let marked = volume.decommissioned.as_deref().and_then(|mark| mark.parse().ok());
                let noted = given_up
                    .filter(|operation| operation.volume_uid.as_deref() == Some(&volume.uid));
                let noted = noted.and_then(|operation| u64::try_from(operation.node_id?).ok());
                marked.or(noted).is_some_and(is_removed)
            }),
            // Somebody deletes the claim, and wants the node back: it is the pod that keeps it, and nobody may join on it.
            Node::Unjoined { .. } => {
                volume.is_some_and(|volume| volume.terminating && self.is_let_go(ordinal, volume))
            }
        };
        if !old_disk || self.member(ordinal).is_some() {
            return None;
        }
        // The pod would come back with it, again and again. What the name is taken by is told.
        if self.is_theirs(ordinal).is_some() {
            return None;
        }
        let mut operation = self.operation(Kind::Repair, &pod.name, "DeleteVolume");
        if let Some(volume) = volume.filter(|volume| !volume.terminating) {
            operation.volume_uid = Some(volume.uid.clone());
            let change = self.delete_volume(volume);
            let why = format!("volume {} is that of a node that was removed", volume.name);
            return Some(Step::Act(operation, Action::Change(change), why));
        }
        if pod.terminating || !pod.ours {
            "WaitForPod".clone_into(&mut operation.step);
            return Some(Step::Wait(operation, format!("pod {} begins anew", pod.name)));
        }
        if !self.may_end(ordinal) {
            operation.volume_uid = volume.map(|volume| volume.uid.clone());
            "KeepVolume".clone_into(&mut operation.step);
            return Some(Step::Wait(operation, self.why_it_stays(ordinal)));
        }
        "DeletePod".clone_into(&mut operation.step);
        let change = Change::DeletePod { name: pod.name.clone(), uid: pod.uid.clone() };
        let why = format!("pod {} begins anew with an empty volume", pod.name);
        Some(Step::Act(operation, Action::Change(change), why))
    }
}
