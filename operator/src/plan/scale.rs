//! More or fewer pods.
//!
//! Pods come first and go last: a pod is there before its node joins, and a node has left before its
//! pod goes. How many pods there must be follows from the spec and from who is a member, so a
//! StatefulSet that somebody scaled by hand is put back before anything else is done.

use super::{Action, Call, Change, Kind, Step, View, keep::pin, up};
use crate::{
    children::{self, Child},
    names::OBJECT_HASH,
    seen::{Node, Slot, State},
};

impl View<'_> {
    /// Members without a pod get it back first.
    pub(super) fn cover_members(&self) -> Option<Step> {
        let now = self.seen.replicas()?;
        let need = if self.seen.table.is_some() {
            self.last_member().map_or(0, |last| last + 1)
        } else if self.is_initialized() {
            self.wanted_pods()
        } else {
            return None;
        };
        if now >= need {
            return None;
        }
        let kind = if now == 0 { Kind::Start } else { Kind::Restore };
        let operation = self.operation(kind, &self.desired.names.name, "AddPods");
        let why = format!("{now} pods cannot hold {need} nodes");
        Some(Step::Act(operation, self.scale_to(need)?, why))
    }

    pub(super) fn stop(&self) -> Option<Step> {
        let operation = |step| self.operation(Kind::Stop, &self.desired.names.name, step);
        if self.seen.replicas()? > 0 {
            let why = "the cluster is to stop; its volumes stay".to_owned();
            return Some(Step::Act(operation("RemovePods"), self.scale_to(0)?, why));
        }
        let left = self.seen.pods.len();
        (left > 0)
            .then(|| Step::Wait(operation("WaitForPods"), format!("{left} pods are stopping")))
    }

    pub(super) fn scale(&mut self) -> Option<Step> {
        let now = self.seen.replicas()?;
        let wanted = self.wanted_pods();
        // A new pod would come with the template of before, and be restarted next.
        if wanted > now && self.holds_template() {
            return None;
        }
        if wanted > now {
            return self.add_pods(now, wanted);
        }
        if self.seen.table.is_some() {
            if let Some(step) = self.remove_member() {
                return Some(step);
            }
            if wanted < now {
                return self.remove_pods(now, wanted);
            }
            return self.drop_volumes(now);
        }
        // Before the cluster has begun there is nobody to ask, and nothing to lose.
        if !self.is_initialized() && wanted < now {
            return self.remove_pods(now, wanted);
        }
        None
    }

    fn add_pods(&self, now: i32, wanted: i32) -> Option<Step> {
        let name = self.pod_name(now);
        let kind = if now == 0 { Kind::Start } else { Kind::ScaleUp };
        // The disk of a removed node must not come back under a new one.
        let marked = self.seen.volumes.iter().find(|(ordinal, volume)| {
            (now..wanted).contains(*ordinal) && volume.decommissioned.is_some()
        });
        if let Some((ordinal, volume)) = marked {
            let operation = self.operation(kind, &name, "DeleteVolume");
            if volume.terminating || self.seen.pods.contains_key(ordinal) {
                let why = format!("volume {} is being deleted", volume.name);
                return Some(Step::Wait(operation, why));
            }
            let change =
                Change::DeleteVolume { name: volume.name.clone(), uid: volume.uid.clone() };
            let why = format!("volume {} is that of a node that was removed", volume.name);
            return Some(Step::Act(operation, Action::Change(change), why));
        }
        // A pod would write into somebody else's volume.
        let theirs = |ordinal: i32| {
            self.seen.foreign_volumes.contains_key(&ordinal)
                || self.seen.taken.contains_key(&Slot::Volume(ordinal))
        };
        let operation = self.operation(kind, &name, "AddPods");
        if let Some(ordinal) = (now..wanted).find(|ordinal| theirs(*ordinal)) {
            let title = Slot::Volume(ordinal).title(&self.desired.names);
            return Some(Step::Wait(operation, format!("{title} is not this cluster's")));
        }
        let why = format!("{wanted} nodes are wanted, there are {now} pods");
        Some(Step::Act(operation, self.scale_to(wanted)?, why))
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
        } else if let Err(why) = self.others_are_alive(row.node_id) {
            Some(why)
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

    /// Pods without a node: their volumes are marked, then they go.
    fn remove_pods(&mut self, now: i32, wanted: i32) -> Option<Step> {
        let name = self.pod_name(now - 1);
        for ordinal in (wanted..now).rev() {
            // A disk of a cluster that is not ours is not ours to mark.
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
                let operation = self.operation(Kind::ScaleDown, &name, "RemovePods");
                return Some(Step::Wait(operation, message));
            }
            let Some(volume) = self.seen.volumes.get(&ordinal) else { continue };
            if volume.decommissioned.is_some() || volume.terminating {
                continue;
            }
            let node_id =
                self.last_node_at(ordinal).map_or_else(|| "none".to_owned(), |id| id.to_string());
            let operation = self.operation(Kind::ScaleDown, &name, "MarkVolume");
            let why = format!("volume {} holds nothing that is needed", volume.name);
            let change =
                Change::MarkVolume { name: volume.name.clone(), uid: volume.uid.clone(), node_id };
            return Some(Step::Act(operation, Action::Change(change), why));
        }
        let operation = self.operation(Kind::ScaleDown, &name, "RemovePods");
        let why = format!("{wanted} pods hold all nodes, there are {now}");
        Some(Step::Act(operation, self.scale_to(wanted)?, why))
    }

    /// Marked volumes without a pod, unless they are to be kept.
    fn drop_volumes(&self, now: i32) -> Option<Step> {
        if self.desired.spec.storage.retain {
            return None;
        }
        let (_, volume) = self.seen.volumes.iter().find(|(ordinal, volume)| {
            **ordinal >= now
                && volume.decommissioned.is_some()
                && !volume.terminating
                && !self.seen.pods.contains_key(ordinal)
        })?;
        let operation = self.operation(Kind::ScaleDown, &volume.name, "DeleteVolume");
        let why = format!("volume {} is no longer needed and not to be kept", volume.name);
        let change = Change::DeleteVolume { name: volume.name.clone(), uid: volume.uid.clone() };
        Some(Step::Act(operation, Action::Change(change), why))
    }

    /// The newest node that had this address.
    fn last_node_at(&self, ordinal: i32) -> Option<u64> {
        let table = self.seen.table.as_ref()?;
        let there = table.nodes.iter().filter(|row| self.ordinal_of(row) == Some(ordinal));
        there.map(|row| row.node_id).max()
    }

    /// The StatefulSet with another number of pods, as it was seen otherwise.
    fn scale_to(&self, replicas: i32) -> Option<Action> {
        let live = self.seen.children.get(&Child::StatefulSet)?;
        let claims = live.pointer("/spec/volumeClaimTemplates").map(strip_claims);
        let mut set = children::build(Child::StatefulSet, self.desired, replicas, claims.as_ref());
        if self.holds_template() {
            // As it was seen: only the number is another.
            set["spec"]["template"] = live["spec"]["template"].clone();
            set["metadata"]["annotations"][OBJECT_HASH] =
                live["metadata"]["annotations"][OBJECT_HASH].clone();
        }
        pin(&mut set, live);
        Some(Action::Change(Change::Scale { set: Box::new(set), replicas }))
    }
}

/// Claims as they are sent: without what the API server adds to them.
pub(super) fn strip_claims(claims: &serde_json::Value) -> serde_json::Value {
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
