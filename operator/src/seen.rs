//! What was seen of one cluster in one look: Kubernetes' objects and what the nodes say themselves.
//!
//! Values only. Nodes are joined with pods by what they report and by the address that is theirs, never
//! by counting: after a repair the third pod may hold the seventh node.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::OwnerReference};
use serde_json::Value;

use crate::{
    answers::Answers,
    children::{self, Child},
    crd::{KvCluster, Member},
    desired::Desired,
    names::Names,
};

/// One look at a cluster.
#[derive(Clone, Debug)]
pub struct Seen {
    pub cluster: KvCluster,
    /// Objects of ours that there are, as they are: see [`crate::owner`].
    pub children: BTreeMap<Child, Value>,
    /// Names of ours that others have, and whose they are, for people.
    pub taken: BTreeMap<Slot, String>,
    /// Volume claims of our names that say that they hold data of other clusters; by ordinal.
    pub foreign_volumes: BTreeMap<i32, ForeignVolume>,
    /// Something of an operator that made one StatefulSet for all nodes, and its name. Nothing is done then.
    pub earlier: Option<String>,
    /// What the API server made of what was applied.
    pub answers: Answers,
    /// ConfigMaps of this cluster with other settings than those that are asked for: name and uid.
    pub old_configs: BTreeMap<String, String>,
    /// By ordinal.
    pub pods: BTreeMap<i32, Pod>,
    /// Pods with the labels of our nodes that are none, by name, and whose they are. What selects by labels takes them
    /// for ours.
    pub strays: BTreeMap<String, String>,
    /// By ordinal; also of pods that are no more.
    pub volumes: BTreeMap<i32, VolumeClaim>,
    /// The node table, when the placement driver answered.
    pub table: Option<Table>,
    /// Why there is no table, for people.
    pub table_error: Option<String>,
    /// The type ServiceMonitor is known to this Kubernetes; `None` where neither that nor what there is of it could be
    /// read, and then nothing is done about it.
    pub service_monitors: Option<bool>,
}

/// A volume claim with another cluster's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignVolume {
    /// As it says.
    pub cluster_id: String,
    /// By its uid it is known as this cluster's all the same: what it says was written by somebody else.
    pub is_known: bool,
}

/// What has a name that follows from the cluster's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    Child(Child),
    Pod(i32),
    Volume(i32),
}

impl Slot {
    /// Kind and name, for people.
    #[must_use]
    pub fn title(self, desired: &Desired) -> String {
        let names = &desired.names;
        match self {
            Self::Child(child) => child.title(desired),
            Self::Pod(ordinal) => format!("Pod {}", names.pod(ordinal)),
            Self::Volume(ordinal) => format!("PersistentVolumeClaim {}", names.volume(ordinal)),
        }
    }
}

/// A pod and the node in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub name: String,
    pub uid: String,
    /// Our StatefulSet is its controller. Else it is about to adopt it, and nobody else has it.
    pub ours: bool,
    pub ready: bool,
    pub terminating: bool,
    /// The server's process runs, well or not.
    pub running: bool,
    pub template_hash: Option<String>,
    /// ConfigMaps that it was made with.
    pub configs: BTreeSet<String>,
    pub ip: Option<String>,
    /// Labels of the Kubernetes node it runs on that tell where that is; of an empty disk only, and none where they could
    /// not be read.
    pub place: BTreeMap<String, String>,
    pub restarts: i32,
    /// Why the container waits or the pod is not scheduled, as Kubernetes says: reason, message.
    pub problem: Option<(String, String)>,
    /// It is not the server's container that waits.
    pub problem_is_of_another: bool,
    /// How the container ended last time.
    pub last_exit: Option<Exit>,
    /// When it was last seen to become not ready, or was made.
    pub not_ready_since: Option<String>,
    /// Where its server keeps its data, if that is not the disk of its claim.
    pub disk_elsewhere: Option<String>,
    /// While it is ready.
    pub ready_since: Option<String>,
    /// When its container was started last, while it runs.
    pub running_since: Option<String>,
    pub node: Node,
}

/// Kubernetes waits before it starts a container once more that has ended again and again.
const BACK_OFF: &str = "CrashLoopBackOff";
/// Reasons of a pod that has no machine yet.
const WAITS_FOR_A_PLACE: [&str; 3] = ["Unschedulable", "SchedulingGated", "SchedulerError"];

impl Pod {
    /// It cannot be started as it is, as far as Kubernetes says now; what it did long ago is no evidence, nor
    /// that there is no machine for it.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        let reason = self.problem.as_ref().map(|(reason, _)| reason.as_str());
        reason.is_some_and(|reason| !WAITS_FOR_A_PLACE.contains(&reason))
    }

    /// Its container runs, or has ended. One that was not is waited for by Kubernetes itself: for a machine, its volume,
    /// its image.
    #[must_use]
    pub fn was_started(&self) -> bool {
        self.running || self.last_exit.is_some() || self.restarts > 0
    }

    /// Now, as Kubernetes says. What it knows of a pod on a machine that is cut off is old, and one that was started
    /// again after that waits for other reasons. What another container in the pod does says nothing of this one.
    #[must_use]
    pub fn ends_again_and_again(&self) -> bool {
        let waits = self.problem.as_ref().is_some_and(|(reason, _)| reason == BACK_OFF);
        waits && !self.problem_is_of_another
    }
}

/// Exit codes of a process that was told to end, or was killed for not having ended.
pub const TOLD_TO_END: [i32; 3] = [0, 137, 143];

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    pub code: i32,
    pub out_of_memory: bool,
}

/// What the process in a pod says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// It did not answer, or another one did; why.
    Silent(String),
    /// An empty disk.
    Unjoined {
        version: String,
    },
    /// A disk whose node was removed.
    Removed {
        cluster_id: String,
        node_id: u64,
    },
    Joined(Joined),
}

/// A node that belongs to a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    pub cluster_id: String,
    pub node_id: u64,
    pub version: String,
    /// What all nodes of the cluster can do, as far as it knows; 0 before it does.
    pub feature_level: u32,
    pub ready: bool,
    /// What it says is wrong, whether it is ready or not.
    pub complaints: Vec<String>,
    pub peers: Vec<Peer>,
}

/// One peer, as its node reports it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    pub region_id: u64,
    /// (version, conf_ver): a higher one is a newer description of the region.
    pub epoch: (u64, u64),
    pub start_key: Vec<u8>,
    /// Empty: to the end.
    pub end_key: Vec<u8>,
    /// Nodes of the region's voters.
    pub voters: BTreeSet<u64>,
    pub learners: BTreeSet<u64>,
    pub leads: bool,
    /// The node that leads, as far as this peer knows.
    pub leader_node: Option<u64>,
    /// What its log ends with.
    pub last_index: u64,
    /// What it knows to be committed.
    pub committed_index: u64,
    /// A voter that still lacks what its leader had committed a moment before: nothing reaches it, or it
    /// lags by more than a moment.
    pub behind: bool,
    pub quarantined: bool,
}

/// A volume claim.
#[derive(Clone, Debug, PartialEq)]
pub struct VolumeClaim {
    pub name: String,
    pub uid: String,
    pub version: String,
    /// With whom it goes.
    pub owners: Vec<OwnerReference>,
    /// The volume it is bound to.
    pub volume: Option<String>,
    pub requested: Quantity,
    /// What the volume has, as far as Kubernetes says; `None` before there is one.
    pub capacity: Option<Quantity>,
    /// What is the matter with its growth, as Kubernetes says.
    pub growth: Option<Growth>,
    /// It lacks the cluster's id, which claims of ours bear. By its uid it is ours all the same.
    pub unnoted: bool,
    /// As marked by us when its node was removed.
    pub decommissioned: Option<String>,
    pub terminating: bool,
    /// What becomes of its PersistentVolume. Asked of claims that are being deleted.
    pub kept: Kept,
    /// The Kubernetes node that the volume is bound to is no more.
    pub machine_is_gone: bool,
    /// Whether its storage class lets it grow; `None` when that is not known.
    pub can_grow: Option<bool>,
}

/// Why a volume does not have what its claim asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Growth {
    /// The driver says that it cannot be had.
    Refused { reason: String, message: String },
    /// The driver has failed, and is asked again.
    Fails { reason: String, message: String },
    /// The disk has grown; its file system does when a pod uses it, or is started again.
    WaitsForPod,
}

/// Whether the disk of a claim outlives it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kept {
    Yes,
    /// It is deleted with it.
    No,
    /// There is none, or it is another claim's.
    Nothing,
    /// It was not asked, or there was no answer: it may be deleted with it.
    #[default]
    Unknown,
}

/// The cluster's node table, as the placement driver has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    pub version: u64,
    pub replication_factor: u32,
    pub nodes: Vec<Row>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Joining,
    Learner,
    Up,
    Draining,
    Removed,
}

impl State {
    /// For status and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Joining => "Joining",
            Self::Learner => "Learner",
            Self::Up => "Up",
            Self::Draining => "Draining",
            Self::Removed => "Removed",
        }
    }
}

/// One node of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub node_id: u64,
    pub address: String,
    pub state: State,
    /// Given up by force: its address may be another's by now.
    pub forced: bool,
    /// A person took it out of service (`kvctl cluster demote`), and puts it back.
    pub demoted: bool,
    /// Heard by the driver within `placement.node_disconnected_after`.
    pub alive: bool,
    /// Not heard by the driver for `placement.node_down_after`.
    pub down: bool,
    pub leaders: u32,
    pub peers: u32,
    pub leaders_evicted: bool,
    pub version: String,
}

impl Row {
    /// Counts as the node of its address.
    #[must_use]
    pub fn is_member(&self) -> bool {
        self.state != State::Removed && !self.forced
    }

    /// Half way in, and nothing could be missed that is on it.
    #[must_use]
    pub fn holds_nothing_yet(&self) -> bool {
        matches!(self.state, State::Joining | State::Learner) && self.peers == 0
    }
}

/// A volume claim is known by its uid to be a cluster's.
#[must_use]
pub fn knows_volume(cluster: &KvCluster, uid: &str) -> bool {
    let Some(status) = &cluster.status else { return false };
    let of_members = status.members.iter().filter_map(|member| member.pvc_uid.as_deref());
    of_members.chain(status.bootstrap_volume.as_deref()).any(|known| known == uid)
}

/// Whether the members of a cluster are in pods of an operator that made one StatefulSet for all nodes; `None`:
/// no member is known.
#[must_use]
pub fn earlier_pod(cluster: &KvCluster, names: &Names) -> Option<Option<String>> {
    let members = cluster.status.as_ref().map(|status| status.members.as_slice())?;
    let pods = || members.iter().map(|member| member.pod_name.as_str());
    let earlier = pods().find(|pod| names.is_earlier(pod));
    (!members.is_empty()).then(|| earlier.map(|pod| format!("pod {pod}")))
}

impl Seen {
    /// StatefulSets, by the ordinal of their node.
    pub fn sets(&self) -> impl Iterator<Item = (i32, &Value)> {
        self.children.iter().filter_map(|(child, live)| match child {
            Child::StatefulSet(ordinal) => Some((*ordinal, live)),
            _ => None,
        })
    }

    #[must_use]
    pub fn set(&self, ordinal: i32) -> Option<&Value> {
        self.children.get(&Child::StatefulSet(ordinal))
    }

    /// Ordinals whose StatefulSet asks for a pod.
    pub fn held(&self) -> impl Iterator<Item = i32> {
        self.sets().filter(|(_, set)| children::replicas(set) > 0).map(|(ordinal, _)| ordinal)
    }

    /// Ordinals whose pod Kubernetes is to make and has not, and the uid of their StatefulSet.
    pub fn missed(&self) -> impl Iterator<Item = (i32, &str)> {
        self.held().filter_map(|ordinal| {
            let taken = self.taken.contains_key(&Slot::Pod(ordinal));
            let is_missed = !taken && !self.pods.contains_key(&ordinal);
            let set = self.set(ordinal).filter(|_| is_missed)?;
            Some((ordinal, set["metadata"]["uid"].as_str()?))
        })
    }

    #[must_use]
    pub fn is_held(&self, ordinal: i32) -> bool {
        self.set(ordinal).is_some_and(|set| children::replicas(set) > 0)
    }

    /// The member whose address is that of an ordinal.
    #[must_use]
    pub fn member(&self, names: &Names, ordinal: i32) -> Option<&Row> {
        self.table
            .as_ref()?
            .nodes
            .iter()
            .find(|row| row.is_member() && names.ordinal_at(&row.address) == Some(ordinal))
    }

    /// The nodes as they were noted last, also while no node table is had.
    pub fn noted_members(&self) -> impl Iterator<Item = &Member> {
        self.cluster.status.iter().flat_map(|status| &status.members)
    }

    /// A node as it was noted last. There is one of an id: the definition keeps members by `nodeId`, and Kubernetes stores no
    /// list with two of one key.
    #[must_use]
    pub fn noted_member(&self, node_id: u64) -> Option<&Member> {
        self.noted_members().find(|member| u64::try_from(member.node_id) == Ok(node_id))
    }

    #[must_use]
    pub fn row(&self, node_id: u64) -> Option<&Row> {
        self.table.as_ref()?.nodes.iter().find(|row| row.node_id == node_id)
    }

    /// Nodes of the cluster that answered: ordinal and what they said.
    pub fn joined(&self, cluster_id: &str) -> impl Iterator<Item = (i32, &Joined)> {
        self.pods.iter().filter_map(move |(ordinal, pod)| match &pod.node {
            Node::Joined(joined) if joined.cluster_id == cluster_id => Some((*ordinal, joined)),
            _ => None,
        })
    }

    /// Pods whose disk belongs to another cluster, and to which.
    pub fn foreign(&self, cluster_id: &str) -> impl Iterator<Item = (&Pod, &str)> {
        self.pods.values().filter_map(move |pod| {
            let theirs = match &pod.node {
                Node::Joined(joined) => joined.cluster_id.as_str(),
                Node::Removed { cluster_id, .. } => cluster_id.as_str(),
                Node::Silent(_) | Node::Unjoined { .. } => return None,
            };
            (theirs != cluster_id).then_some((pod, theirs))
        })
    }
}

#[cfg(test)]
impl Joined {
    /// A node that is ready, of cluster `c`.
    pub(crate) fn sample(node_id: u64, peers: Vec<Peer>) -> Self {
        Self {
            cluster_id: "c".into(),
            node_id,
            version: "0.1.0".into(),
            feature_level: 1,
            ready: true,
            complaints: Vec::new(),
            peers,
        }
    }
}
