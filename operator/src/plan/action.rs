//! What can be done: one change of the world each, as a value.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::OwnerReference};
use serde_json::Value;

use crate::children::Child;

/// One change of the world.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Call(Call),
    Change(Change),
    /// Notes in the status that the cluster was initialized, for ever.
    Latch {
        cluster_id: String,
    },
}

/// One call of the service Cluster. Those that change the node table carry the version of the table
/// that was seen, so that an operator that slept meanwhile does no harm.
#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    /// Makes the cluster of all its first nodes or of none. On the node of one pod; the other calls may be sent to any node.
    Initialize {
        pod: i32,
        cluster_id: String,
        replication_factor: u32,
        /// Client addresses of all the nodes that the cluster begins with, that of the pod among them.
        first_nodes: Vec<String>,
        /// Keys at which regions are cut from birth.
        split_keys: Vec<String>,
    },
    AddLearner {
        pod: i32,
        address: String,
        expected_version: u64,
    },
    Promote {
        node_id: u64,
        expected_version: u64,
    },
    RemoveNode {
        node_id: u64,
        force: bool,
        expected_version: u64,
    },
    CancelRemoveNode {
        node_id: u64,
        expected_version: u64,
    },
    /// Peers per region from now on.
    SetReplicationFactor {
        replication_factor: u32,
        expected_version: u64,
    },
    /// Zero ends it.
    EvictLeaders {
        node_id: u64,
        duration: Duration,
    },
}

/// One change of an object. Deletions carry the uid of what was seen.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// With the path at which it is not as it should be, unless it is not there.
    Apply(Child, Box<Value>, Option<String>),
    /// Instead of what is there, of the same version: items of others in our lists go.
    Replace(Child, Box<Value>, Option<String>),
    Delete {
        child: Child,
        name: String,
        uid: String,
        keep_dependents: bool,
    },
    /// The StatefulSet of a node with a pod or without, of the same version as was seen.
    Scale {
        ordinal: i32,
        set: Box<Value>,
        replicas: i32,
    },
    DeletePod {
        name: String,
        uid: String,
    },
    MarkVolume {
        name: String,
        uid: String,
        node_id: String,
    },
    /// The mark is taken off: the disk is a member's, or is to be. Of the same version as was seen.
    UnmarkVolume {
        name: String,
        uid: String,
        version: String,
    },
    /// A claim that is known by its uid bears the cluster's id, as the others do.
    NoteVolume {
        name: String,
        uid: String,
        cluster_id: String,
    },
    /// The claim, of the same version as was seen: its mark may have been taken off. Its PersistentVolume with the
    /// data is kept where there is one to keep.
    DeleteVolume {
        name: String,
        uid: String,
        keep: Option<String>,
        version: String,
    },
    /// The PersistentVolume of a claim that somebody deletes outlives it.
    KeepVolume {
        name: String,
        uid: String,
        volume: String,
    },
    /// With whom a claim goes: those who have nothing to do with us, and the KvCluster where it is not to outlive it.
    /// Of the same version as was seen.
    SetVolumeOwners {
        name: String,
        uid: String,
        version: String,
        owners: Vec<OwnerReference>,
    },
    GrowVolume {
        name: String,
        uid: String,
        size: Quantity,
    },
    /// The claim asks for less than before, and for more than its volume has: what it has not got yet is wanted no
    /// more. Of the same version as was seen.
    TakeSizeBack {
        name: String,
        uid: String,
        version: String,
        size: Quantity,
    },
}

macro_rules! deeds {
    ($($deed:ident, $name:literal, $crash_point:literal;)*) => {
        /// What an action does, without what it does it to.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Deed { $($deed,)* }

        impl Deed {
            /// Every one: the simulation ends the operator around each.
            pub const ALL: &[Self] = &[$(Self::$deed,)*];

            /// For metrics and events.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$deed => $name,)* }
            }

            /// The failpoint right after it.
            #[must_use]
            pub fn crash_point(self) -> &'static str {
                match self { $(Self::$deed => $crash_point,)* }
            }
        }
    };
}

deeds! {
    Latch, "LatchCluster", "after-latch";
    Initialize, "Initialize", "after-initialize";
    AddLearner, "AddLearner", "after-add-learner";
    Promote, "Promote", "after-promote";
    RemoveNode, "RemoveNode", "after-remove-node";
    CancelRemoveNode, "CancelRemoveNode", "after-cancel-remove-node";
    SetReplicationFactor, "SetReplicationFactor", "after-set-replication-factor";
    EvictLeaders, "EvictLeaders", "after-evict-leaders";
    Apply, "Apply", "after-apply";
    Replace, "Replace", "after-replace";
    Delete, "Delete", "after-delete";
    Scale, "Scale", "after-scale";
    DeletePod, "DeletePod", "after-delete-pod";
    MarkVolume, "MarkVolume", "after-mark-volume";
    UnmarkVolume, "UnmarkVolume", "after-unmark-volume";
    NoteVolume, "NoteVolume", "after-note-volume";
    DeleteVolume, "DeleteVolume", "after-delete-volume";
    KeepVolume, "KeepVolume", "after-keep-volume";
    SetVolumeOwners, "SetVolumeOwners", "after-set-volume-owners";
    GrowVolume, "GrowVolume", "after-grow-volume";
    TakeSizeBack, "TakeSizeBack", "after-take-size-back";
}

impl Action {
    #[must_use]
    pub fn deed(&self) -> Deed {
        match self {
            Self::Latch { .. } => Deed::Latch,
            Self::Call(call) => call.deed(),
            Self::Change(change) => change.deed(),
        }
    }

    /// For metrics and events.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.deed().name()
    }
}

/// What a change is made to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    Child(Child),
    /// A pod, a claim, or old settings.
    Named(&'a str),
}

impl Call {
    /// What it is about, for people. Invariant: the same as long as the same is asked.
    #[must_use]
    pub fn target(&self) -> String {
        match self {
            Self::Initialize { pod, .. } => format!("pod {pod}"),
            Self::AddLearner { address, .. } => address.clone(),
            Self::Promote { node_id, .. }
            | Self::RemoveNode { node_id, .. }
            | Self::CancelRemoveNode { node_id, .. }
            | Self::EvictLeaders { node_id, .. } => format!("node {node_id}"),
            Self::SetReplicationFactor { replication_factor, .. } => {
                format!("{replication_factor} peers")
            }
        }
    }

    #[must_use]
    pub fn deed(&self) -> Deed {
        match self {
            Self::Initialize { .. } => Deed::Initialize,
            Self::AddLearner { .. } => Deed::AddLearner,
            Self::Promote { .. } => Deed::Promote,
            Self::RemoveNode { .. } => Deed::RemoveNode,
            Self::CancelRemoveNode { .. } => Deed::CancelRemoveNode,
            Self::SetReplicationFactor { .. } => Deed::SetReplicationFactor,
            Self::EvictLeaders { .. } => Deed::EvictLeaders,
        }
    }
}

impl Change {
    #[must_use]
    pub fn target(&self) -> Target<'_> {
        match self {
            // Old ones are not those that the name of the child stands for.
            Self::Delete { child: Child::ConfigMap, name, .. }
            | Self::DeletePod { name, .. }
            | Self::MarkVolume { name, .. }
            | Self::UnmarkVolume { name, .. }
            | Self::NoteVolume { name, .. }
            | Self::DeleteVolume { name, .. }
            | Self::KeepVolume { name, .. }
            | Self::SetVolumeOwners { name, .. }
            | Self::GrowVolume { name, .. }
            | Self::TakeSizeBack { name, .. } => Target::Named(name),
            Self::Apply(child, ..) | Self::Replace(child, ..) | Self::Delete { child, .. } => {
                Target::Child(*child)
            }
            Self::Scale { ordinal, .. } => Target::Child(Child::StatefulSet(*ordinal)),
        }
    }

    /// The same, whichever version of the claim it was decided on.
    #[must_use]
    pub fn of_any_version(&self) -> Self {
        let mut change = self.clone();
        match &mut change {
            Self::UnmarkVolume { version, .. }
            | Self::DeleteVolume { version, .. }
            | Self::SetVolumeOwners { version, .. }
            | Self::TakeSizeBack { version, .. } => version.clear(),
            Self::Apply(..)
            | Self::Replace(..)
            | Self::Delete { .. }
            | Self::Scale { .. }
            | Self::DeletePod { .. }
            | Self::MarkVolume { .. }
            | Self::NoteVolume { .. }
            | Self::KeepVolume { .. }
            | Self::GrowVolume { .. } => {}
        }
        change
    }

    #[must_use]
    pub fn deed(&self) -> Deed {
        match self {
            Self::Apply(..) => Deed::Apply,
            Self::Replace(..) => Deed::Replace,
            Self::Delete { .. } => Deed::Delete,
            Self::Scale { .. } => Deed::Scale,
            Self::DeletePod { .. } => Deed::DeletePod,
            Self::MarkVolume { .. } => Deed::MarkVolume,
            Self::UnmarkVolume { .. } => Deed::UnmarkVolume,
            Self::NoteVolume { .. } => Deed::NoteVolume,
            Self::DeleteVolume { .. } => Deed::DeleteVolume,
            Self::KeepVolume { .. } => Deed::KeepVolume,
            Self::SetVolumeOwners { .. } => Deed::SetVolumeOwners,
            Self::GrowVolume { .. } => Deed::GrowVolume,
            Self::TakeSizeBack { .. } => Deed::TakeSizeBack,
        }
    }
}
