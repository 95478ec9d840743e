//! `KvCluster`: what a user asks for, and what the operator answers.
//!
//! Rules that Kubernetes can check are in the schema (ranges, enums, CEL), so that a mistake is
//! refused by `kubectl apply` and no webhook is needed.

mod spec;
mod status;
mod strict;

pub use self::{
    spec::{
        ClusterNetwork, ClusterTls, IpFamily, IpFamilyPolicy, KvCluster, KvClusterSpec, Metrics,
        Placement, PullSecret, Regions, ServiceTemplate, ServiceType, Storage, TlsMode,
        TrafficPolicy,
    },
    status::{Condition, KvClusterStatus, Lasted, Member, Operation, RegionCounts},
    strict::unknown_fields,
};

use kube::CustomResourceExt as _;

/// The CustomResourceDefinition, for `kubectl apply`.
#[must_use]
pub fn yaml() -> String {
    serde_yaml::to_string(&KvCluster::crd()).expect("a definition has a YAML form")
}

#[cfg(test)]
mod tests;
