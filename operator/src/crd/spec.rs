//! What a user asks for.
//!
//! Invariant: a field that is not known here is passed over. The API server gives every KvCluster that it shows
//! the defaults of the definition that it has now, which may be a newer operator's; it keeps no field that this one
//! does not know either. Misspelt ones are found by whoever reads a file (see [`super::unknown_fields`]).

#![expect(unreachable_pub, reason = "deriving a schema with rules makes copies of the types")]

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::status::KvClusterStatus;

/// A Flotilla cluster: nodes with a volume each, and how they are run.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "flotilla.dev",
    version = "v1alpha1",
    kind = "KvCluster",
    plural = "kvclusters",
    shortname = "kvc",
    namespaced,
    doc = "A strongly consistent key-value store: nodes with a volume each.",
    status = "KvClusterStatus",
    derive = "PartialEq",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.readyReplicas"),
    printcolumn(name = "Desired", type_ = "integer", json_path = ".spec.replicas"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version"),
    printcolumn(
        name = "Health",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason"
    ),
    printcolumn(
        name = "Available",
        type_ = "string",
        priority = 1,
        json_path = ".status.conditions[?(@.type==\"Available\")].status"
    ),
    printcolumn(
        name = "Level",
        type_ = "integer",
        priority = 1,
        json_path = ".status.featureLevel"
    ),
    printcolumn(name = "Doing", type_ = "string", json_path = ".status.operation.kind"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    // What the volumes have is in the status, and cannot be taken back.
    validation = Rule::new("!isQuantity(self.spec.storage.size) || !isQuantity(oldSelf.spec.storage.size) || \
        quantity(self.spec.storage.size).compareTo(quantity(oldSelf.spec.storage.size)) >= 0 || \
        (has(self.status) && has(self.status.largestVolume) && isQuantity(self.status.largestVolume) && \
        quantity(self.spec.storage.size).compareTo(quantity(self.status.largestVolume)) >= 0)")
        .message("volumes cannot shrink; a size that none of them has got yet can be taken back"),
    validation = Rule::new("size(self.metadata.name) <= 40")
        .message("a name has at most 40 characters: pods and services add to it"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message(crate::names::NO_SERVICE_NAME)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.replicationFactor <= self.replicas")
        .message("each peer of a region needs a node of its own")
        .field_path(".replicationFactor"),
    validation = Rule::new("(has(self.regions) && has(self.regions.splitKeys) ? \
        self.regions.splitKeys : []) == (has(oldSelf.regions) && has(oldSelf.regions.splitKeys) ? \
        oldSelf.regions.splitKeys : [])")
        .message("regions are cut where the cluster is made, and nowhere else later")
        .field_path(".regions.splitKeys")
)]
pub struct KvClusterSpec {
    /// Nodes, each a pod with a volume.
    #[serde(default = "three")]
    #[schemars(range(min = 1, max = 1000))]
    pub replicas: i32,
    /// Peers of each region: 1, 3, 5 or 7. A region serves while more than half of them live. Can be
    /// changed: more peers come when there are nodes for them, surplus ones go.
    #[serde(default = "three")]
    #[schemars(range(min = 1, max = 7))]
    #[x_kube(validation = Rule::new("self % 2 == 1")
        .message("an even number survives no more failures than one less"))]
    pub replication_factor: i32,
    /// Image of the server, with its tag. Another one is a rolling upgrade.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    pub storage: Storage,
    /// Requests and limits of a pod, as in any container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub resources: Option<Value>,
    #[serde(default)]
    pub regions: Regions,
    #[serde(default)]
    pub placement: Placement,
    /// Any setting of the server by its key, as in docs/configuration.md.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "any_object")]
    pub config: BTreeMap<String, Value>,
    #[serde(default)]
    pub tls: ClusterTls,
    #[serde(default)]
    pub metrics: Metrics,
    #[serde(default)]
    pub network_policy: ClusterNetwork,
    #[serde(default)]
    pub service: ServiceTemplate,
    /// Secrets of this namespace that images are pulled with, beside those that the operator was told
    /// of. They stand at the pods' ServiceAccount, so that a change restarts nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Vec<PullSecret>,
    /// Laid over the pods' template, as a strategic merge patch. It cannot give pods rights that the
    /// operator was not told to give: another ServiceAccount, paths or namespaces of the Kubernetes
    /// node, privileges.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub pod_template: Option<Value>,
    /// Let Kubernetes take down one node at a time, and no more.
    #[serde(default = "yes")]
    pub pod_disruption_budget: bool,
    /// Leave everything as it is; only the status is kept current, and the disk of a volume claim that is deleted.
    #[serde(default)]
    pub paused: bool,
    /// No pods; the volumes stay.
    #[serde(default)]
    pub stopped: bool,
    /// Another value restarts the nodes one after another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub restarted_at: Option<String>,
}

/// The volume of each node.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.storageClassName) == has(oldSelf.storageClassName) && \
        (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)")
        .message("volumes cannot be moved to another storage class")
        .field_path(".storageClassName")
)]
pub struct Storage {
    /// Size of a volume, as in `10Gi`. It can grow. What no volume has been told yet can be taken back.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(
        validation = Rule::new("isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))")
            .message("is no size, such as 10Gi")
    )]
    pub size: String,
    /// Class of the volumes; without it the cluster's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
    /// Keep the volumes of nodes that are removed, and all when the resource is deleted. Where this becomes `false`,
    /// the claims of nodes that were removed before are deleted at once, with their data.
    #[serde(default = "yes")]
    pub retain: bool,
}

/// When regions are cut and joined.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Regions {
    /// Size at which a region is to be split, as in `256Mi`. Not there yet, and refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    pub split_size: Option<String>,
    /// Keys of the default keyspace at which regions are cut when the cluster is made; they stay
    /// where they were cut. Without them one region holds everything, and one node leads all of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), inner(length(min = 1, max = 1024)))]
    pub split_keys: Vec<String>,
    /// Two neighbours below it are to be merged. Not there yet, and refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    pub merge_size: Option<String>,
}

/// Where peers go.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// Label of Kubernetes nodes over whose values the peers of a region are spread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub topology_key: Option<String>,
    /// How long a node may be silent before its peers are made anew elsewhere, as in `10m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    pub max_node_down: Option<String>,
}

/// Where certificates come from. Only `disabled` is there yet, and others are refused.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TlsMode {
    /// Plain text.
    #[default]
    Disabled,
    /// Made and renewed by the operator. Not there yet, and refused.
    Generated,
    /// Made by cert-manager. Not there yet, and refused.
    CertManager,
}

/// Encryption between nodes and of clients. Not there yet, and all is plain text.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(self.mode == 'certManager') == has(self.issuerRef)")
        .message("issuerRef is for the mode certManager, which needs it")
        .field_path(".issuerRef")
)]
pub struct ClusterTls {
    #[serde(default)]
    pub mode: TlsMode,
    /// The Issuer or ClusterIssuer of cert-manager. Not there yet, and refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub issuer_ref: Option<Value>,
}

/// How the nodes are watched.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metrics {
    /// Make a ServiceMonitor, for the operator of Prometheus. A Prometheus in another namespace reads nothing
    /// until `networkPolicy.from` names it.
    #[serde(default)]
    pub service_monitor: bool,
    /// Labels of the ServiceMonitor: what your Prometheus selects by, such as `release: prometheus`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "texts")]
    pub labels: BTreeMap<String, String>,
    /// How often nodes are scraped, as in `15s`: every second at most and every minute at least, as alerts look at what the
    /// last three minutes have brought.
    #[serde(default = "fifteen_seconds")]
    #[schemars(
        length(max = 16),
        // Minutes, seconds, milliseconds in this order, as the operator of Prometheus has them, and none of them carried
        // over: so the chart can say the same without a rule.
        regex(pattern = r"^((0|[1-9][0-9]*)ms|(0|[1-9][0-9]*)s([0-9]{1,3}ms)?|(0|[1-9][0-9]*)m([1-5]?[0-9]s)?([0-9]{1,3}ms)?)$")
    )]
    #[x_kube(
        validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('1m')")
            .message("is not between a second and a minute: alerts look at what the last three minutes have brought")
    )]
    pub interval: String,
    /// Label of the Service whose value becomes the label `job`: by default the cluster's name, by which
    /// dashboards and alerts tell clusters apart. Targets have the name as `flotilla_dev_cluster`, too.
    #[serde(default = "instance_label")]
    #[schemars(length(min = 1, max = 253))]
    pub job_label: String,
    /// Relabelings of the ServiceMonitor, as its endpoints have them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "objects")]
    pub relabelings: Vec<Value>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            service_monitor: false,
            labels: BTreeMap::new(),
            interval: fifteen_seconds(),
            job_label: instance_label(),
            relabelings: Vec::new(),
        }
    }
}

/// Who may connect. Policies add up: another NetworkPolicy can let more in, none can let fewer.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterNetwork {
    /// Make a NetworkPolicy.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Who may reach the clients' ports, as peers of a NetworkPolicy. Without it the pods of this
    /// namespace, and no Prometheus or client elsewhere; an empty list is nobody. Nodes of the cluster always may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "objects")]
    pub from: Option<Vec<Value>>,
    /// Where the operator is, as peers of a NetworkPolicy. Without it the pod that made this policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "objects")]
    pub operator_from: Option<Vec<Value>>,
}

impl Default for ClusterNetwork {
    fn default() -> Self {
        Self { enabled: true, from: None, operator_from: None }
    }
}

/// How the Service for clients is reached.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceType {
    #[default]
    ClusterIP,
    NodePort,
    LoadBalancer,
}

/// Kinds of addresses.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IpFamily {
    IPv4,
    IPv6,
}

/// Whether one kind of addresses is enough.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IpFamilyPolicy {
    SingleStack,
    PreferDualStack,
    RequireDualStack,
}

/// Which nodes a client inside of Kubernetes is sent to.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrafficPolicy {
    /// Any.
    Cluster,
    /// Those on its own Kubernetes node; nobody when there is none.
    Local,
}

/// The Services. What is about addresses holds for all three, the rest for the one that has the
/// cluster's name.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceTemplate {
    /// Beware: whoever reaches it can read and write everything.
    #[serde(default, rename = "type")]
    pub kind: ServiceType,
    /// Annotations, such as those that a cloud's load balancers read.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "texts")]
    pub annotations: BTreeMap<String, String>,
    /// Addresses of which kinds, in this order. With `IPv6` among them nodes listen on both kinds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2))]
    pub ip_families: Vec<IpFamily>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_family_policy: Option<IpFamilyPolicy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub internal_traffic_policy: Option<TrafficPolicy>,
}

/// A Secret of the kind `kubernetes.io/dockerconfigjson`.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PullSecret {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

fn three() -> i32 {
    3
}

fn yes() -> bool {
    true
}

fn fifteen_seconds() -> String {
    "15s".to_owned()
}

fn instance_label() -> String {
    "app.kubernetes.io/instance".to_owned()
}

/// Bound: of labels and annotations, and of lists of foreign objects; as in `maxItems` of the schema.
const ITEMS_MAX: u32 = 64;

fn texts(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object", "maxProperties": ITEMS_MAX,
        "additionalProperties": {"type": "string", "maxLength": 4096},
    })
}

fn objects(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "array", "maxItems": ITEMS_MAX,
        "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    })
}

/// An object that Kubernetes stores as it is.
fn any_object(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}
