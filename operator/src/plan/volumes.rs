//! Volume claims that somebody deletes while their pods run.
//!
//! Kubernetes keeps such a claim as long as its pod is there, and no deletion can be taken back: whoever deletes
//! the pod deletes the data. So what the operator does to pods of itself leaves this one alone, and its disk is
//! kept where disks are to be kept.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::{Action, Change, Deed, Kind, Step, View, trouble::few};
use crate::{
    children,
    seen::{Kept, Node, Row, State, VolumeClaim},
};

/// Bound: claims that are named of those that would go.
const CLAIMS_TOLD: usize = 5;

impl View<'_> {
    /// Claims that are being deleted with what a node needs.
    pub(super) fn going(&self) -> impl Iterator<Item = (i32, &VolumeClaim)> {
        let claims = self.seen.volumes.iter().map(|(ordinal, volume)| (*ordinal, volume));
        claims.filter(|(ordinal, _)| self.is_going(*ordinal))
    }

    /// The end of the pod is the end of its data, and nobody but a person has decided on that.
    pub(super) fn is_going(&self, ordinal: i32) -> bool {
        let Some(volume) = self.seen.volumes.get(&ordinal) else { return false };
        let is_repairs = self.recorded(Kind::Repair).is_some_and(|operation| {
            // It deletes claims of removed nodes only; which those are the table alone says.
            let node = operation.node_id.and_then(|id| u64::try_from(id).ok());
            let row = node.and_then(|id| self.seen.row(id));
            operation.volume_uid.as_deref() == Some(&volume.uid)
                && self.seen.table.is_some()
                && row.is_none_or(|row| row.state == State::Removed)
        });
        let is_removed = |id: u64| self.seen.row(id).is_some_and(|row| row.state == State::Removed);
        let holds_data = self.pod(ordinal).is_some_and(|pod| match &pod.node {
            Node::Unjoined { .. } | Node::Removed { .. } => false,
            Node::Joined(joined) => !is_removed(joined.node_id),
            Node::Silent(_) => true,
        });
        volume.terminating
            && !self.is_let_go(ordinal, volume)
            && self.is_initialized()
            && !is_repairs
            && holds_data
    }

    /// We may end the pod of an ordinal. Invariant: no pod is ended by us that is the last to keep a claim whose data is
    /// needed, nor one that keeps a disk which is to stay and would go: what is refused or not known is not done.
    pub(super) fn may_end(&self, ordinal: i32) -> bool {
        let goes_along = |volume: &VolumeClaim| {
            self.pod(ordinal).is_some() && self.goes_with_its_disk(ordinal, volume)
        };
        let volume = self.seen.volumes.get(&ordinal);
        !volume.is_some_and(goes_along) && !self.is_going(ordinal)
    }

    /// The end of some pod, whoever ends it, is the end of a disk that is needed or is to stay.
    pub(super) fn is_a_disk_going(&self) -> bool {
        self.seen.volumes.keys().any(|ordinal| !self.may_end(*ordinal))
    }

    /// Why a pod is not ended: see [`Self::may_end`].
    pub(super) fn why_it_stays(&self, ordinal: i32) -> String {
        format!(
            "volume claim {} is being deleted and goes with the end of pod {}; that waits until its disk is sure to stay",
            self.desired.names.volume(ordinal),
            self.pod_name(ordinal)
        )
    }

    /// The disk at this ordinal may be emptied. Invariant: nobody joins or begins a cluster on such a one.
    pub(super) fn is_marked(&self, ordinal: i32) -> bool {
        let volume = self.seen.volumes.get(&ordinal);
        volume.is_some_and(|volume| volume.decommissioned.is_some())
    }

    /// Its claim is marked, and it is no node's as far as is known. The mark alone says nothing: somebody may
    /// have wanted the node back right after it was written, and one that is given up by force is marked before its
    /// peers are elsewhere.
    pub(super) fn is_let_go(&self, ordinal: i32, volume: &VolumeClaim) -> bool {
        let is_nodes = || match &self.seen.table {
            Some(table) => table.nodes.iter().any(|row| self.is_still_of(row, ordinal, volume)),
            None => {
                let name = self.pod_name(ordinal);
                self.seen.noted_members().any(|member| member.pod_name == name)
            }
        };
        volume.decommissioned.is_some() && !is_nodes()
    }

    /// The node has not been removed, and the disk is its own: by the mark, or by its address.
    fn is_still_of(&self, row: &Row, ordinal: i32, volume: &VolumeClaim) -> bool {
        let marked = volume.decommissioned.as_deref().and_then(|mark| mark.parse().ok());
        let is_its = Some(row.node_id) == marked || self.ordinal_of(row) == Some(ordinal);
        is_its && row.state != State::Removed
    }

    /// A marked claim holds nothing that is needed: the node that its mark names was removed, and so was every
    /// other that had its address. Asked of the node table, whose word alone it is.
    ///
    /// # Errors
    /// Why that is not so, or not known.
    pub(super) fn may_be_emptied(&self, ordinal: i32, volume: &VolumeClaim) -> Result<(), String> {
        let name = &volume.name;
        let Some(table) = &self.seen.table else {
            // Nobody has joined, and none whose disk is marked begins a cluster.
            let is_new = !self.is_initialized() && !self.desired.adopts;
            return if is_new {
                Ok(())
            } else {
                Err(format!(
                    "whether volume {name} is a node's is not known without the node table"
                ))
            };
        };
        let marked = volume.decommissioned.as_deref().and_then(|mark| mark.parse::<u64>().ok());
        let still = |row: &&Row| self.is_still_of(row, ordinal, volume);
        if let Some(row) = table.nodes.iter().find(still) {
            return Err(format!("volume {name} is still that of node {}", row.node_id));
        }
        // The mark itself says who has left it.
        match self.may_be_of(ordinal).filter(|_| marked.is_none()) {
            Some(row) => Err(format!(
                "volume {name} may be that of node {}, whose address is {}",
                row.node_id, row.address
            )),
            None => Ok(()),
        }
    }

    /// Invariant: no member lives on a marked claim. Asked before anybody joins or is made a pod: the node whose
    /// disk was to go is wanted again, or its pod came back while it was to be given up.
    pub(super) fn take_marks_off(&self) -> Option<Step> {
        let volume = self.volume_for(Deed::UnmarkVolume)?;
        let change = Change::UnmarkVolume {
            name: volume.name.clone(),
            uid: volume.uid.clone(),
            version: volume.version.clone(),
        };
        let why = format!("volume {} was to be emptied, and is wanted as it is", volume.name);
        Some(Step::Keep(Action::Change(change), why))
    }

    /// The disk of a node that is given up says so itself: the note of a repair gives way to the next operation,
    /// and a process that does not live tells nobody whose its disk is. By its uid, since a claim that was made
    /// anew is another disk.
    pub(super) fn mark_given_up(&self, ordinal: i32, node_id: u64) -> Option<Change> {
        let volume = self.seen.volumes.get(&ordinal)?;
        let known = self.seen.noted_member(node_id);
        let is_its = known.is_some_and(|member| member.pvc_uid.as_deref() == Some(&volume.uid));
        let is_silent = self.pod(ordinal).is_some_and(|pod| matches!(pod.node, Node::Silent(_)));
        let marks = is_its
            && is_silent
            && volume.decommissioned.is_none()
            && !volume.terminating
            && self.may_do(&volume.name, Deed::MarkVolume);
        marks.then(|| Change::MarkVolume {
            name: volume.name.clone(),
            uid: volume.uid.clone(),
            node_id: node_id.to_string(),
        })
    }

    /// It was not refused a moment ago.
    pub(super) fn may_do(&self, name: &str, deed: Deed) -> bool {
        let refused = self.seen.answers.refused_deed(name, deed, self.now);
        refused.is_none_or(|refused| refused.may_try)
    }

    /// The first claim to which this is to be done, of those of which it was not refused a moment ago.
    pub(super) fn volume_for(&self, deed: Deed) -> Option<&VolumeClaim> {
        let mut volumes = self.seen.volumes.iter();
        let is_next = |ordinal: i32, volume: &VolumeClaim| {
            self.lacks(deed, ordinal, volume) && self.may_do(&volume.name, deed)
        };
        Some(volumes.find(|(ordinal, volume)| is_next(**ordinal, volume))?.1)
    }

    /// This is to be done to a claim, whether it may be or not: what is refused is passed over, and told.
    fn lacks(&self, deed: Deed, ordinal: i32, volume: &VolumeClaim) -> bool {
        match deed {
            Deed::NoteVolume => volume.unnoted && !volume.terminating,
            Deed::UnmarkVolume => self.is_marked_and_wanted(ordinal, volume),
            Deed::KeepVolume => self.goes_with_its_disk(ordinal, volume),
            Deed::SetVolumeOwners => self.goes_with_others(ordinal, volume),
            _ => false,
        }
    }

    fn is_marked_and_wanted(&self, ordinal: i32, volume: &VolumeClaim) -> bool {
        let node = self.pod(ordinal).filter(|pod| !pod.terminating).map(|pod| &pod.node);
        let is_wanted = match node {
            Some(Node::Unjoined { .. }) => ordinal < self.desired.spec.replicas,
            Some(Node::Joined(joined)) => {
                joined.cluster_id == self.desired.cluster_id
                    && self.seen.row(joined.node_id).is_some_and(Row::is_member)
            }
            Some(Node::Removed { .. } | Node::Silent(_)) | None => false,
        };
        volume.decommissioned.is_some()
            && !volume.terminating
            && self.seen.is_held(ordinal)
            && is_wanted
    }

    /// Else there was never anything on the disks.
    pub(super) fn may_hold_data(&self) -> bool {
        let status = self.seen.cluster.status.as_ref();
        self.is_initialized()
            || self.desired.adopts
            || self.seen.joined(&self.desired.cluster_id).next().is_some()
            || status.is_some_and(|status| status.bootstrap_volume.is_some())
    }

    /// Nor is it known to stay: what is not known is asked for once more.
    fn goes_with_its_disk(&self, ordinal: i32, volume: &VolumeClaim) -> bool {
        // Whoever deletes one that is marked was told that nobody needs it. While there is its pod it is we who end it.
        let is_ours = self.seen.pods.contains_key(&ordinal) || !self.is_let_go(ordinal, volume);
        self.desired.spec.storage.retain
            && volume.terminating
            && self.may_hold_data()
            && is_ours
            && matches!(volume.kept, Kept::No | Kept::Unknown)
    }

    /// With others than it is to go with.
    fn goes_with_others(&self, ordinal: i32, volume: &VolumeClaim) -> bool {
        // Kubernetes would put the StatefulSet back, as an earlier operator told it to.
        let goes = self.seen.set(ordinal).is_some_and(|set| {
            set["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == "Delete"
        });
        let is_tied = volume.owners.iter().any(|owner| owner.uid == self.desired.uid);
        let is_of_set = volume.owners.iter().any(|owner| self.is_set_of(ordinal, owner));
        let stays = self.desired.spec.storage.retain;
        !volume.terminating && !goes && (is_of_set || is_tied == stays)
    }

    /// Invariant: a claim goes with its KvCluster or with nothing of ours. Whoever deletes the StatefulSets has them made
    /// anew, and the data is still there.
    fn owners_of(&self, ordinal: i32, volume: &VolumeClaim) -> Vec<OwnerReference> {
        let theirs = volume
            .owners
            .iter()
            .filter(|owner| !self.is_set_of(ordinal, owner) && !self.is_cluster(owner));
        let ours = (!self.desired.spec.storage.retain).then(|| children::co_owner(self.desired));
        theirs.cloned().chain(ours).collect()
    }

    /// This one, or an earlier one of its name.
    fn is_cluster(&self, owner: &OwnerReference) -> bool {
        let ours = children::co_owner(self.desired);
        owner.kind == ours.kind && owner.api_version == ours.api_version && owner.name == ours.name
    }

    /// What rungs pass over, in the same words as long as it stands: a claim that would go with the cluster is no
    /// trouble only of the moments in which somebody tries.
    pub(super) fn look_for_refused_deeds(&mut self) {
        let claims = self.seen.volumes.iter().flat_map(|(ordinal, volume)| {
            let deeds =
                [Deed::KeepVolume, Deed::UnmarkVolume, Deed::NoteVolume, Deed::SetVolumeOwners];
            let lacked = deeds.into_iter().filter(|deed| self.lacks(*deed, *ordinal, volume));
            lacked.map(|deed| (volume.name.as_str(), deed))
        });
        let configs = self.spare_configs().map(|(name, _)| (name.as_str(), Deed::Delete));
        let refused = claims.chain(configs).filter_map(|(name, deed)| {
            let refused = self.seen.answers.refused_deed(name, deed, self.now)?;
            Some((format!("{} of {name}", deed.name()), refused))
        });
        let refused: Vec<_> = refused.collect();
        for (what, refused) in refused {
            self.tell_refusal("ActionRefused", what, refused.cause, refused.why);
        }
    }

    /// The disk outlives the claim, where that is asked for.
    pub(super) fn keep_volumes(&self) -> Option<Step> {
        let (change, why) = keep_volume(self.volume_for(Deed::KeepVolume)?)?;
        Some(Step::Keep(Action::Change(change), why))
    }

    /// Claims belong to no StatefulSet. Kubernetes sees to it by way of pods, of which a stopped cluster has none.
    pub(super) fn own_volumes(&self) -> Option<Step> {
        let volume = self.volume_for(Deed::SetVolumeOwners)?;
        let ordinal = self.desired.names.ordinal_of_volume(&volume.name)?;
        let change = Change::SetVolumeOwners {
            name: volume.name.clone(),
            uid: volume.uid.clone(),
            version: volume.version.clone(),
            owners: self.owners_of(ordinal, volume),
        };
        let with = if self.desired.spec.storage.retain { "nothing" } else { "the KvCluster" };
        let why = format!("volume claim {} is to go with {with}", volume.name);
        Some(Step::Keep(Action::Change(change), why))
    }

    /// What `retain` asks for holds also while all else is left to a person. Who asks for it may be about to delete the
    /// KvCluster, whose claims would go along, and what is gone cannot be had back. It changes nothing but with whom a
    /// claim goes, restarts nobody and moves nothing. The other way round waits: what is kept can go later.
    pub(super) fn keep_what_is_to_stay(&self) -> Option<Step> {
        let stays = self.desired.spec.storage.retain;
        stays.then(|| self.keep_volumes().or_else(|| self.own_volumes())).flatten()
    }

    /// Claims that are to stay and would go with something of ours.
    fn would_go(&self) -> impl Iterator<Item = (i32, &VolumeClaim)> {
        let claims = self.seen.volumes.iter().map(|(ordinal, claim)| (*ordinal, claim));
        let ours = |ordinal: i32, owner: &OwnerReference| {
            owner.uid == self.desired.uid || self.is_set_of(ordinal, owner)
        };
        claims.filter(move |(ordinal, claim)| {
            self.desired.spec.storage.retain
                && !claim.terminating
                && claim.owners.iter().any(|owner| ours(*ordinal, owner))
        })
    }

    /// Those of them that nobody is about to see to where only disks are looked after: Kubernetes would put back whom they
    /// go with, as long as the StatefulSet says so.
    fn not_kept(&self) -> impl Iterator<Item = &VolumeClaim> {
        let claims = self.would_go();
        let claims = claims.filter(|(at, claim)| !self.lacks(Deed::SetVolumeOwners, *at, claim));
        claims.map(|(_, claim)| claim)
    }

    /// Told of every cluster of which anything is known. `halted`: why nothing is done, where nothing is.
    pub(super) fn look_for_disks_at_risk(&mut self, halted: Option<&str>) {
        self.look_for_going_volumes();
        if let Some(why) = halted {
            self.look_for_claims_that_would_go(why);
        }
    }

    fn look_for_claims_that_would_go(&mut self, halted: &str) {
        let claims = few(self.not_kept().map(|claim| &claim.name), CLAIMS_TOLD);
        if claims.is_empty() {
            return;
        }
        let message = format!(
            "storage.retain is not in force: volume claims go with what they belong to ({claims}), as long as {halted}. \
             Delete neither the KvCluster nor its StatefulSets before that is over"
        );
        self.trouble("RetainNotInForce", message);
    }

    /// What is done where only disks are looked after (see [`Self::protect`]), and why nothing else is.
    pub(super) fn preview_halted(&self, halted: &str, whys: &[String]) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(Step::Keep(_, what)) = self.close_budget_over_disks() {
            lines.push(what);
        }
        if self.desired.spec.storage.retain {
            lines.extend(self.seen.volumes.iter().filter_map(|(ordinal, claim)| {
                if self.lacks(Deed::KeepVolume, *ordinal, claim) {
                    return Some(format!("keep the disk of volume claim {}", claim.name));
                }
                self.lacks(Deed::SetVolumeOwners, *ordinal, claim)
                    .then(|| format!("let volume claim {} go with nothing", claim.name))
            }));
        }
        let nothing = if lines.is_empty() { "nothing" } else { "nothing else" };
        lines.extend(whys.iter().map(|why| format!("{nothing}: {why}")));
        if self.not_kept().next().is_some() {
            lines.push(format!("storage.retain is not in force as long as {halted}"));
        }
        lines
    }

    fn is_set_of(&self, ordinal: i32, owner: &OwnerReference) -> bool {
        owner.kind == "StatefulSet"
            && owner.api_version.starts_with("apps/")
            && owner.name == self.desired.names.set(ordinal)
    }

    /// All that can be stopped is.
    pub(super) fn cannot_stop(&self) -> Option<Step> {
        let held = |ordinal: &i32| self.seen.is_held(*ordinal);
        let pods = self.seen.volumes.keys().copied().filter(|ordinal| !self.may_end(*ordinal));
        let pods = pods.filter(held);
        let pods: Vec<_> = pods.map(|ordinal| self.pod_name(ordinal)).collect();
        let operation = self.operation(Kind::Stop, &self.desired.names.name, "WaitForVolumes");
        let why = format!(
            "not stopped, since their volume claims are being deleted: {}",
            pods.join(", ")
        );
        (!pods.is_empty()).then_some(Step::Wait(operation, why))
    }

    fn look_for_going_volumes(&mut self) {
        let told: Vec<String> = self
            .going()
            .map(|(ordinal, volume)| {
                let disk = match (volume.kept, &volume.volume) {
                    (Kept::Yes, Some(disk)) => format!("PersistentVolume {disk} is kept"),
                    (Kept::Unknown, _) => {
                        "whether its PersistentVolume is kept is not known".to_owned()
                    }
                    (Kept::Nothing, _) => "there is no PersistentVolume of its own".to_owned(),
                    _ => "its PersistentVolume goes as its reclaim policy says".to_owned(),
                };
                let refused =
                    self.seen.answers.refused_deed(&volume.name, Deed::KeepVolume, self.now);
                let refused = refused.map(|refused| format!(" ({})", refused.why));
                let refused = refused.unwrap_or_default();
                format!(
                    "volume claim {} was deleted by somebody and is gone for good as soon as pod {} ends; {disk}{refused}. \
                     The pod is neither restarted nor stopped: see that other nodes hold its data, then \
                     delete the pod",
                    volume.name,
                    self.pod_name(ordinal)
                )
            })
            .collect();
        for message in told {
            self.trouble("VolumeGoing", message);
        }
    }
}

/// Of a claim that is being deleted, with the reason.
pub(super) fn keep_volume(claim: &VolumeClaim) -> Option<(Change, String)> {
    let change = Change::KeepVolume {
        name: claim.name.clone(),
        uid: claim.uid.clone(),
        volume: claim.volume.clone()?,
    };
    let why = format!("volume claim {} is being deleted, and its disk is to stay", claim.name);
    Some((change, why))
}
