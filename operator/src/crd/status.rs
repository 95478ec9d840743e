//! What the operator answers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The cluster as it was last seen.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KvClusterStatus {
    /// Generation of the spec that the rest of the status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Selects the pods; for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Pods.
    #[serde(default)]
    pub replicas: i32,
    /// Nodes that are ready.
    #[serde(default)]
    pub ready_replicas: i32,
    /// Version that all nodes run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What all nodes can do: raised by itself when the last one was upgraded, and never lowered. Older
    /// versions of the server cannot be put back below it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feature_level: Option<i32>,
    /// Image of clusters that name none: the default of the operator that made this one, for good.
    /// A new default would restart the nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Set once the cluster was initialized, for ever: from then on an empty disk joins, and never
    /// begins a cluster anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// The volume claim on which the cluster begins. Written before `Initialize` is called: if that
    /// volume is lost before the answer was noted, nobody guesses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap_volume: Option<String>,
    /// The PersistentVolume of that claim, by which what is on it is found when the claim is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap_disk: Option<String>,
    /// The size of the largest volume. What was asked for beyond it and none has got yet can be taken back:
    /// `spec.storage.size` may be lowered to it, and no further.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub largest_volume: Option<String>,
    /// `Available`, `Progressing`, `Degraded`, `Ready`, `ReconciliationPaused`, `Stopped`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<Condition>,
    /// Nodes as they report themselves, by node id, never by the index of a pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 1000),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["nodeId"])
    )]
    pub members: Vec<Member>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regions: Option<RegionCounts>,
    /// What is being done. Written before its first side effect, so that it is resumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Operation>,
    /// Where clients connect, `HOST:PORT`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub endpoints: Vec<String>,
}

/// As `metav1.Condition`.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// One word for programs.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
    pub last_transition_time: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// A node.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// From the node's disk; never used for another.
    pub node_id: i64,
    pub pod_name: String,
    /// `learner` or `voter`.
    pub role: String,
    /// As the cluster's node table has it, or `Down` while nobody hears it.
    pub state: String,
    #[serde(default)]
    pub leaders: i32,
    #[serde(default)]
    pub peers: i32,
    /// The volume claim whose disk it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pvc_uid: Option<String>,
    /// Hash of the pod template that its disk was begun with, as it was when the node was first seen. A node says nothing of
    /// older disks by running with that one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub born_with: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// How the regions are.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RegionCounts {
    pub total: i64,
    /// With all their peers, and a leader.
    pub healthy: i64,
    pub under_replicated: i64,
    pub leaderless: i64,
    /// Regions that have lost their quorum, the first of them: no majority of their peers answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub quorum_lost: Vec<i64>,
}

/// A change that takes several steps.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Operation {
    /// Such as `ScaleUp`, `ScaleDown`, `RollingUpdate`, `Repair`.
    pub kind: String,
    /// The pod or node it is about.
    pub target: String,
    pub step: String,
    pub started_at: String,
    /// The node's id, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<i64>,
    /// The volume claim that the operation is about: another one of the same name is left alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_uid: Option<String>,
    /// What had to be so for a while and was. Whoever goes on does not wait for it once more, as long as it bears the
    /// same time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub lasted: Vec<Lasted>,
}

/// Something that an operator has watched for long enough.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lasted {
    /// The uid of a pod or of another object, or an operation.
    pub of: String,
    /// Since when it is so, as it was found written: compared as a text, and with no clock.
    pub since: String,
    /// For how long, at least.
    pub seconds: i64,
}
