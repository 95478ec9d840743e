//! The cluster begins with all its first nodes at once, once.
//!
//! A cluster that began with one node and grew had a time in which one disk held everything that was
//! acknowledged. So it is waited for until all pods are there with empty disks; the call to the first of them
//! names all, and the server makes a cluster of all of them or of none.
//!
//! Whether a cluster begins is never read off an empty disk: after the first time that is a lost
//! volume. Two notes in the status decide. The volume of the node that is called is noted before the call; the
//! cluster's id after it, for ever. Between the two the call is repeated on that volume only, and the
//! server answers a repeat with the first result.

use std::collections::BTreeSet;

use super::{Action, Call, Kind, Step, View};
use crate::{
    names,
    seen::{Node, Pod},
};

/// Bound: nodes that a cluster begins with, as the server has it (`BOOTSTRAP_EXPECT_MAX`); others join.
const FIRST_NODES_MAX: i32 = 32;

/// Whether the cluster may begin now.
enum Beginning {
    /// On this volume.
    On(String),
    /// Why not yet.
    Waits(String),
    /// The disk on which it was to begin is gone, and those who may know whether it had begun are not all heard.
    Asks(String),
    /// Only a person can say.
    Lost(String),
}

impl View<'_> {
    pub(super) fn begin(&self) -> Option<Step> {
        if self.is_initialized() {
            return None;
        }
        let name = self.pod_name(0);
        // By what the nodes say, so that a crash right after the call is no harm. The same takes an
        // older cluster's volumes over.
        if self.seen.joined(&self.desired.cluster_id).next().is_some() {
            let cluster_id = self.desired.cluster_id.clone();
            let mut operation = self.operation(Kind::Create, &name, "Latch");
            operation.volume_uid = self.bootstrap_volume();
            let why = format!("cluster {cluster_id} has begun");
            return Some(Step::Act(operation, Action::Latch { cluster_id }, why));
        }
        let Beginning::On(volume) = self.beginning() else { return None };
        let mut operation = self.operation(Kind::Create, &name, "Initialize");
        operation.volume_uid = Some(volume);
        let call = Call::Initialize {
            pod: 0,
            cluster_id: self.desired.cluster_id.clone(),
            replication_factor: u32::try_from(self.desired.spec.replication_factor).unwrap_or(1),
            first_nodes: self.first().map(|at| self.desired.names.client_address(at)).collect(),
            split_keys: self.desired.spec.regions.split_keys.clone(),
        };
        let why = format!("the cluster begins with {} nodes at once", self.first().count());
        Some(Step::Act(operation, Action::Call(call), why))
    }

    /// What a cluster that has not begun is waiting for; asked last.
    pub(super) fn wait_to_begin(&mut self) -> Option<Step> {
        if self.is_initialized() {
            return None;
        }
        let why = match self.beginning() {
            Beginning::On(_) => return None,
            Beginning::Waits(why) => why,
            Beginning::Asks(why) => {
                self.trouble("BootstrapVolumeLost", why.clone());
                why
            }
            Beginning::Lost(why) => {
                self.trouble("BootstrapVolumeLost", why);
                "the first volume is gone".to_owned()
            }
        };
        let operation = self.operation(Kind::Create, &self.pod_name(0), "WaitForPod");
        Some(Step::Wait(operation, why))
    }

    fn beginning(&self) -> Beginning {
        let waits = Beginning::Waits;
        if self.desired.adopts {
            return waits(format!(
                "waiting for a node of cluster {}, which is to be taken over ({}); a new one begins without that \
                 annotation",
                self.desired.cluster_id,
                names::ADOPT
            ));
        }
        // Nothing undoes a beginning.
        if let Some(name) = self.mistyped().find(|name| names::may_mean_to_adopt(name)) {
            return waits(format!(
                "annotation {name} is none that is known; whether an older cluster is to be taken over, which {} asks \
                 for, is not clear",
                names::ADOPT
            ));
        }
        if let Some(refused) = self.version_refused.as_ref().filter(|refused| refused.holds) {
            return waits(refused.why.clone());
        }
        if let Some(object) = self.in_the_way() {
            return waits(object);
        }
        if let Some((pod, theirs)) = self.seen.foreign(&self.desired.cluster_id).next() {
            return waits(format!("the volume of pod {} belongs to cluster {theirs}", pod.name));
        }
        // The one that is called first: what was noted is about its volume.
        let name = self.pod_name(0);
        let Some(volume) = self.seen.volumes.get(&0).filter(|volume| !volume.terminating) else {
            return waits(format!("waiting for the volume of pod {name}"));
        };
        if let Some(noted) = self.bootstrap_volume().filter(|noted| *noted != volume.uid) {
            // A beginning is whole: who is another node of it may have what was acknowledged since.
            return match self.may_know_of_a_beginning() {
                Some(who) => Beginning::Asks(format!(
                    "the cluster was to begin on the volume claim {noted}, which is gone; whether it had begun the \
                     other nodes know, once all of them run: {who}"
                )),
                None => Beginning::Lost(self.of_lost_beginning(&noted)),
            };
        }
        for ordinal in self.first() {
            let name = self.pod_name(ordinal);
            let Some(pod) = self.pod(ordinal).filter(|pod| !pod.terminating) else {
                return waits(format!("waiting for pod {name}"));
            };
            if self.is_marked(ordinal) {
                return waits(format!("the volume of pod {name} is marked to be emptied"));
            }
            match &pod.node {
                Node::Unjoined { .. } => {}
                Node::Silent(why) => return waits(waiting_for(pod, why)),
                Node::Joined(_) | Node::Removed { .. } => {
                    return waits(format!("the volume of pod {name} is not empty"));
                }
            }
        }
        Beginning::On(volume.uid.clone())
    }

    /// Nothing is deleted before it is known that nothing is lost by it. Where regions have one peer it is the node that
    /// was called which has it, and it alone can have acknowledged anything: the others prove nothing.
    fn of_lost_beginning(&self, noted: &str) -> String {
        let status = self.seen.cluster.status.as_ref();
        let disk = match status.and_then(|status| status.bootstrap_disk.as_deref()) {
            Some(disk) => format!("PersistentVolume {disk}"),
            None => "its PersistentVolume (that whose claimRef has this uid)".to_owned(),
        };
        let is_the_only = self.desired.spec.replication_factor == 1;
        let (others, lost) = if is_the_only {
            (
                "with replicationFactor 1 that disk alone may hold what was acknowledged, whatever the others hold",
                "If it is gone for good, what was acknowledged is gone with it",
            )
        } else {
            (
                "no other node has joined it",
                "If it is gone for good, no node is left that has acknowledged anything",
            )
        };
        format!(
            "the cluster was to begin on the volume claim {noted}, which is gone; whether it had begun is not known, so \
             it is not begun again, and {others}. Look for {disk}: where it is still there, as with storage.retain, \
             give it back to the claim {}, and its node says itself whether it had begun ('A first volume that was \
             lost' in docs/operations.md). {lost}: then, and not before, delete the KvCluster and its volumes, and \
             create it anew",
            self.desired.names.volume(0)
        )
    }

    /// Of the nodes beside the first, one that has not said that its disk is empty. Also of those that the spec no
    /// longer asks for.
    fn may_know_of_a_beginning(&self) -> Option<String> {
        let seen = self.seen.pods.keys().chain(self.seen.volumes.keys()).copied();
        let others: BTreeSet<i32> = self.first().chain(seen).filter(|at| *at != 0).collect();
        others.into_iter().find_map(|ordinal| match self.pod(ordinal) {
            None => Some(format!("there is no pod {}", self.pod_name(ordinal))),
            Some(pod) => match &pod.node {
                Node::Unjoined { .. } => None,
                Node::Silent(why) => Some(waiting_for(pod, why)),
                Node::Joined(_) | Node::Removed { .. } => {
                    Some(format!("the volume of pod {} is not empty", pod.name))
                }
            },
        })
    }

    /// The cluster that is to be taken over by one that has begun and is another.
    pub(super) fn adopts_in_vain(&self) -> Option<&str> {
        let asked = self.seen.cluster.metadata.annotations.as_ref()?.get(names::ADOPT)?;
        (self.is_initialized() && *asked != self.desired.cluster_id).then_some(asked)
    }

    /// Annotations that look like ours and are none.
    pub(super) fn mistyped(&self) -> impl Iterator<Item = &str> {
        let all = self.seen.cluster.metadata.annotations.iter().flatten();
        all.map(|(name, _)| name.as_str()).filter(|name| names::is_mistyped(name))
    }

    /// Ordinals of the nodes that the cluster begins with.
    pub(super) fn first(&self) -> impl Iterator<Item = i32> {
        0..self.desired.spec.replicas.min(FIRST_NODES_MAX)
    }

    pub(super) fn bootstrap_volume(&self) -> Option<String> {
        self.seen.cluster.status.as_ref()?.bootstrap_volume.clone()
    }
}

/// With the reason of Kubernetes, which is nearer to the cause than ours.
fn waiting_for(pod: &Pod, why: &str) -> String {
    match &pod.problem {
        Some((reason, message)) => format!("waiting for pod {}: {reason}: {message}", pod.name),
        None => format!("waiting for pod {}: {why}", pod.name),
    }
}
