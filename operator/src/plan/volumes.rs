//! Volume claims that somebody deletes while their pods run.
//!
//! Kubernetes keeps such a claim as long as its pod is there, and no deletion can be taken back: whoever deletes
//! the pod deletes the data. So what the operator does to pods of itself leaves this one alone, and its disk is
//! kept where disks are to be kept.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::{Action, Change, Deed, Kind, Step, View};
use crate::seen::{Node, State, VolumeClaim};

impl View<'_> {
    /// Claims that are being deleted with what a node needs.
    pub(super) fn going(&self) -> impl Iterator<Item = (i32, &VolumeClaim)> {
        let claims = self.seen.volumes.iter().map(|(ordinal, volume)| (*ordinal, volume));
        claims.filter(|(ordinal, _)| self.is_going(*ordinal))
    }

    /// The end of the pod is the end of its data, and nobody but a person has decided on that.
    pub(super) fn is_going(&self, ordinal: i32) -> bool {
        let Some(volume) = self.seen.volumes.get(&ordinal) else { return false };
        let is_repairs = self
            .recorded(Kind::Repair)
            .is_some_and(|operation| operation.volume_uid.as_deref() == Some(&volume.uid));
        let is_removed = |id: u64| self.seen.row(id).is_some_and(|row| row.state == State::Removed);
        let holds_data = self.pod(ordinal).is_some_and(|pod| match &pod.node {
            Node::Unjoined { .. } | Node::Removed { .. } => false,
            Node::Joined(joined) => !is_removed(joined.node_id),
            Node::Silent(_) => true,
        });
        volume.terminating
            && volume.decommissioned.is_none()
            && self.is_initialized()
            && !is_repairs
            && holds_data
    }

    /// The disk outlives the claim, where that is asked for.
    pub(super) fn keep_volumes(&self) -> Option<Step> {
        if !self.desired.spec.storage.retain {
            return None;
        }
        let volume = self.seen.volumes.values().find(|volume| {
            let refused =
                self.seen.answers.refused_volume(&volume.name, Deed::KeepVolume, self.now);
            volume.terminating
                && volume.kept == Some(false)
                && refused.is_none_or(|(_, may_try)| may_try)
        })?;
        let change = Change::KeepVolume {
            name: volume.name.clone(),
            uid: volume.uid.clone(),
            volume: volume.volume.clone()?,
        };
        let why = format!("volume claim {} is being deleted, and its disk is to stay", volume.name);
        Some(Step::Keep(Action::Change(change), why))
    }

    /// Claims that are to outlive the cluster belong to no StatefulSet. Kubernetes sees to it by way of pods, of
    /// which a stopped cluster has none.
    pub(super) fn release_volumes(&self) -> Option<Step> {
        if !self.desired.spec.storage.retain {
            return None;
        }
        let (ordinal, volume) = self.seen.volumes.iter().find(|(ordinal, volume)| {
            let refused =
                self.seen.answers.refused_volume(&volume.name, Deed::ReleaseVolume, self.now);
            // Kubernetes would put it back.
            let goes = self.seen.set(**ordinal).is_some_and(|set| {
                set["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == "Delete"
            });
            volume.owners.iter().any(|owner| self.is_set_of(**ordinal, owner))
                && !volume.terminating
                && !goes
                && refused.is_none_or(|(_, may_try)| may_try)
        })?;
        let left = volume.owners.iter().filter(|owner| !self.is_set_of(*ordinal, owner));
        let change = Change::ReleaseVolume {
            name: volume.name.clone(),
            uid: volume.uid.clone(),
            version: volume.version.clone(),
            owners: left.cloned().collect(),
        };
        let why = format!("volume claim {} would go with its StatefulSet", volume.name);
        Some(Step::Keep(Action::Change(change), why))
    }

    fn is_set_of(&self, ordinal: i32, owner: &OwnerReference) -> bool {
        owner.kind == "StatefulSet"
            && owner.api_version.starts_with("apps/")
            && owner.name == self.desired.names.set(ordinal)
    }

    /// All that can be stopped is.
    pub(super) fn cannot_stop(&self) -> Option<Step> {
        let held = |ordinal: &i32| self.seen.is_held(*ordinal);
        let pods = self.going().map(|(ordinal, _)| ordinal).filter(held);
        let pods: Vec<_> = pods.map(|ordinal| self.pod_name(ordinal)).collect();
        let operation = self.operation(Kind::Stop, &self.desired.names.name, "WaitForVolumes");
        let why = format!(
            "not stopped, since their volume claims are being deleted: {}",
            pods.join(", ")
        );
        (!pods.is_empty()).then_some(Step::Wait(operation, why))
    }

    pub(super) fn look_for_going_volumes(&mut self) {
        let told: Vec<String> = self
            .going()
            .map(|(ordinal, volume)| {
                let disk = match (volume.kept, &volume.volume) {
                    (Some(true), Some(disk)) => format!("PersistentVolume {disk} is kept"),
                    _ => "its PersistentVolume goes as its reclaim policy says".to_owned(),
                };
                let refused =
                    self.seen.answers.refused_volume(&volume.name, Deed::KeepVolume, self.now);
                let refused = refused.map_or_else(String::new, |(why, _)| format!(" ({why})"));
                format!(
                    "volume claim {} was deleted by somebody and is gone for good as soon as pod {} ends; {disk}\
                     {refused}. The pod is neither restarted nor stopped: see that other nodes hold its data, then \
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
