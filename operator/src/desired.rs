//! What a KvCluster asks for, with every default filled in. Whether it can be acted on says `accept.rs`.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::{core::v1::ResourceRequirements, networking::v1::NetworkPolicyPeer},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use serde_json::Value;

use crate::{
    crd::KvClusterSpec,
    names::{Names, USER},
    rights::Right,
    settings::Settings,
};

/// What the operator was started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// Image of clusters that name none.
    pub server_image: String,
    pub image_pull_policy: String,
    /// DNS domain of the Kubernetes cluster.
    pub domain: String,
    /// Secrets that images are pulled with, by name, where there are some of that name.
    pub pull_secrets: Vec<String>,
    /// Where the operator itself is, so that a NetworkPolicy lets it in; `None` outside of Kubernetes.
    pub operator: Option<OperatorPlace>,
    /// User and group of the nodes' pods; `None`: whom their namespace says.
    pub user: Option<i64>,
    /// What pod templates may lend.
    pub lends: BTreeSet<Right>,
}

/// The pod of the operator, as a NetworkPolicy knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorPlace {
    pub namespace: String,
    pub labels: BTreeMap<String, String>,
}

impl OperatorPlace {
    pub(crate) fn peer(&self) -> NetworkPolicyPeer {
        let labelled = |labels: &BTreeMap<String, String>| {
            let match_labels = Some(labels.clone());
            Some(LabelSelector { match_labels, ..LabelSelector::default() })
        };
        // Set by Kubernetes on every namespace, where nobody can take it away.
        let by_name = ("kubernetes.io/metadata.name".to_owned(), self.namespace.clone());
        NetworkPolicyPeer {
            namespace_selector: labelled(&[by_name].into()),
            pod_selector: labelled(&self.labels),
            ip_block: None,
        }
    }
}

/// Who may connect to a cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Network {
    /// `None`: the pods of its namespace.
    pub from: Option<Vec<NetworkPolicyPeer>>,
    pub operator_from: Vec<NetworkPolicyPeer>,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            server_image: format!("localhost/flotilla-server:{}", env!("CARGO_PKG_VERSION")),
            image_pull_policy: "IfNotPresent".to_owned(),
            domain: "cluster.local".to_owned(),
            pull_secrets: Vec::new(),
            operator: None,
            user: Some(USER),
            lends: BTreeSet::new(),
        }
    }
}

/// A spec that can be acted on.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    pub names: Names,
    pub uid: String,
    pub spec: KvClusterSpec,
    pub settings: Settings,
    pub resources: Option<ResourceRequirements>,
    pub image: String,
    pub image_pull_policy: String,
    /// Hash of the parts of the spec that a node is started with. Pods that carry another one are
    /// restarted. Invariant: no operator code goes into it, so that an upgrade of the operator
    /// restarts nobody.
    pub template_hash: String,
    /// The pods' template as it is sent, of node 0.
    pub template: Value,
    /// Its hash, which is that of the templates of all nodes.
    pub sent_template: String,
    /// Hash of the settings' text, by which their ConfigMap is named.
    pub config_hash: String,
    /// Id of the cluster whose disks belong here.
    pub cluster_id: String,
    /// An older cluster's volumes are taken over; none is begun.
    pub adopts: bool,
    pub network: Network,
    /// Of the operator and of the spec, each once.
    pub pull_secrets: Vec<String>,
    pub user: Option<i64>,
    pub lends: BTreeSet<Right>,
}

/// What is wrong with a spec, one sentence per mistake; only an edit can help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid(pub Vec<String>);
