//! Every object that the operator makes for a cluster, as values. Nothing here reads or writes.
//!
//! An object is a function of the spec, so that it can be compared with what is there: a steady
//! cluster is read and never written. All are owned by the KvCluster, whose deletion takes them along.

mod account;
mod budget;
mod config_map;
mod monitor;
mod network;
mod services;
mod stateful_set;

#[cfg(test)]
mod tests;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::core::ApiResource;
use serde::Serialize;
use serde_json::{Value, json};

pub use self::{
    config_map::CONFIG_FILE,
    network::read_peers,
    stateful_set::{
        ADVERTISE_HOST, claim_size, configs, disk_elsewhere, image_of, keeps_its_disk, replicas,
        sent_hash, server_image, template, template_also_by, template_hash, template_like,
    },
};
use crate::{desired::Desired, hash, names::OBJECT_HASH};

/// An object of a cluster: a kind of which it has at most one by one name, or a node's StatefulSet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Child {
    ServiceAccount,
    ConfigMap,
    /// Governs the pods' DNS names.
    HeadlessService,
    /// One virtual IP for clients.
    Service,
    /// The addresses of ready nodes, for clients that balance by themselves.
    ClientsService,
    NetworkPolicy,
    DisruptionBudget,
    ServiceMonitor,
    /// Of the node of this ordinal. Last of what pods need: they start with it.
    StatefulSet(i32),
}

impl Child {
    /// Those that are there once for all nodes, in the order in which they are made.
    pub const SHARED: [Self; 8] = [
        Self::ServiceAccount,
        Self::ConfigMap,
        Self::HeadlessService,
        Self::Service,
        Self::ClientsService,
        Self::NetworkPolicy,
        Self::DisruptionBudget,
        Self::ServiceMonitor,
    ];

    /// How the API server knows it.
    #[must_use]
    pub fn resource(self) -> ApiResource {
        let (group, plural) = match self {
            Self::ServiceAccount => ("", "serviceaccounts"),
            Self::ConfigMap => ("", "configmaps"),
            Self::HeadlessService | Self::Service | Self::ClientsService => ("", "services"),
            Self::NetworkPolicy => ("networking.k8s.io", "networkpolicies"),
            Self::DisruptionBudget => ("policy", "poddisruptionbudgets"),
            Self::StatefulSet(_) => ("apps", "statefulsets"),
            Self::ServiceMonitor => ("monitoring.coreos.com", "servicemonitors"),
        };
        let gvk = kube::core::GroupVersionKind::gvk(group, "v1", self.kind());
        ApiResource::from_gvk_with_plural(&gvk, plural)
    }

    /// What Kubernetes and its users call it.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::ServiceAccount => "ServiceAccount",
            Self::ConfigMap => "ConfigMap",
            Self::HeadlessService | Self::Service | Self::ClientsService => "Service",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::DisruptionBudget => "PodDisruptionBudget",
            Self::StatefulSet(_) => "StatefulSet",
            Self::ServiceMonitor => "ServiceMonitor",
        }
    }

    /// With its name, for people.
    #[must_use]
    pub fn title(self, desired: &Desired) -> String {
        format!("{} {}", self.kind(), self.name(desired))
    }

    #[must_use]
    pub fn name(self, desired: &Desired) -> String {
        let names = &desired.names;
        match self {
            // Another text is another object: pods that were made with the old one keep it.
            Self::ConfigMap => config_map::name(desired),
            Self::HeadlessService => names.headless(),
            Self::ClientsService => names.clients(),
            Self::StatefulSet(ordinal) => names.set(ordinal),
            Self::ServiceAccount
            | Self::Service
            | Self::NetworkPolicy
            | Self::DisruptionBudget
            | Self::ServiceMonitor => names.name.clone(),
        }
    }

    /// Whether this cluster is to have it.
    #[must_use]
    pub fn is_wanted(self, desired: &Desired) -> bool {
        match self {
            Self::DisruptionBudget => desired.spec.pod_disruption_budget,
            Self::ServiceMonitor => desired.spec.metrics.service_monitor,
            Self::NetworkPolicy => desired.spec.network_policy.enabled,
            _ => true,
        }
    }
}

/// An object as it is to be applied. `replicas`: of a StatefulSet its own, of the budget those of all of
/// them. `claims`: those that the StatefulSet was made with, which Kubernetes lets nobody change.
#[must_use]
pub fn build(child: Child, desired: &Desired, replicas: i32, claims: Option<&Value>) -> Value {
    let mut object = match child {
        Child::ServiceAccount => value(&account::build(desired)),
        Child::ConfigMap => value(&config_map::build(desired)),
        Child::HeadlessService => value(&services::headless(desired)),
        Child::Service => value(&services::virtual_ip(desired)),
        Child::ClientsService => value(&services::clients(desired)),
        Child::NetworkPolicy => value(&network::build(desired)),
        Child::DisruptionBudget => value(&budget::build(desired, replicas, true)),
        Child::StatefulSet(ordinal) => stateful_set::build(desired, ordinal, replicas, claims),
        Child::ServiceMonitor => monitor::build(desired),
    };
    record(child, &mut object);
    object
}

/// The disruption budget for so many pods; `open`: one of them may go.
#[must_use]
pub fn budget(desired: &Desired, pods: i32, open: bool) -> Value {
    let mut object = value(&budget::build(desired, pods, open));
    record(Child::DisruptionBudget, &mut object);
    object
}

/// With the hash of what is asked for.
pub fn record(child: Child, object: &mut Value) {
    // What was applied, but for what changes with every step of scaling.
    let mut hashed = object.clone();
    if let Child::StatefulSet(_) = child {
        hashed["spec"]["replicas"] = Value::Null;
        hashed["spec"]["volumeClaimTemplates"] = Value::Null;
        // Hashes of what is hashed here.
        if let Some(metadata) = hashed["metadata"].as_object_mut() {
            metadata.remove("annotations");
        }
    }
    object["metadata"]["annotations"][OBJECT_HASH] = json!(hash::hash(&hashed));
}

fn value(object: &impl Serialize) -> Value {
    serde_json::to_value(object).expect("objects of Kubernetes have a JSON form")
}

fn metadata(desired: &Desired, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(desired.names.namespace.clone()),
        labels: Some(desired.names.labels()),
        owner_references: Some(vec![owner(desired)]),
        ..ObjectMeta::default()
    }
}

/// The KvCluster, of what goes with it and is nobody's to look after.
#[must_use]
pub fn co_owner(desired: &Desired) -> OwnerReference {
    OwnerReference { controller: None, block_owner_deletion: None, ..owner(desired) }
}

fn owner(desired: &Desired) -> OwnerReference {
    OwnerReference {
        api_version: "flotilla.dev/v1alpha1".to_owned(),
        kind: "KvCluster".to_owned(),
        name: desired.names.name.clone(),
        uid: desired.uid.clone(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}
