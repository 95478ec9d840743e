//! What the objects of a cluster are called, and where its nodes are reached.

use std::collections::BTreeMap;

/// Who owns the fields that we apply.
pub const MANAGER: &str = "flotilla-operator";
/// On a pod: hash of the parts of the spec that it was started with.
pub const TEMPLATE_HASH: &str = "flotilla.dev/template-hash";
/// On an object of ours: hash of what was applied, so that a field we no longer send is noticed.
pub const OBJECT_HASH: &str = "flotilla.dev/object-hash";
/// On a StatefulSet: hash of the pods' template that was sent, of which the operator's own code and flags are a
/// part.
pub const SENT_TEMPLATE: &str = "flotilla.dev/sent-template-hash";
/// On a StatefulSet: who else wrote the pods' template since the operator did, as it was sent again with what they
/// wrote.
pub const TEMPLATE_ALSO_BY: &str = "flotilla.dev/template-also-by";
/// On a volume claim: the node whose disk it was was removed or given up; or `none`, where none joined on it.
/// Emptied before its ordinal is used again. Invariant: by itself it is no proof, since a pod may have joined
/// after it was written; what deletes such a claim asks the node table.
pub const DECOMMISSIONED: &str = "flotilla.dev/decommissioned-node-id";
/// On a volume claim: id of the cluster whose data it is for.
pub const CLUSTER_ID: &str = "flotilla.dev/cluster-id";
/// On a volume claim, for Argo CD: it has the label by which that knows what is its own, is in no repository, and would be
/// pruned. Whether it goes `storage.retain` says.
pub const ARGO_OPTIONS: (&str, &str) =
    ("argocd.argoproj.io/sync-options", "Prune=false,Delete=false");
/// On a KvCluster: id of the cluster whose volumes it is to take over, instead of beginning one.
pub const ADOPT: &str = "flotilla.dev/adopt-cluster-id";
/// On a KvCluster: a version of the server that it is given although the operator would refuse it.
pub const ALLOW_VERSION: &str = "flotilla.dev/allow-version";
/// Those that a KvCluster may bear.
const OF_CLUSTERS: [&str; 2] = [ADOPT, ALLOW_VERSION];
/// What begins the names of ours, and what is in that of [`ADOPT`] however it is mistyped.
const OURS: &str = "flotilla.dev/";
const ADOPTS: &str = "adopt";
/// On every object of a cluster: the name of the KvCluster.
pub const CLUSTER: &str = "flotilla.dev/cluster";
/// On a pod and its volume claim: the ordinal of its node.
pub const ORDINAL: &str = "flotilla.dev/ordinal";

pub const CLIENT_PORT: i32 = 7420;
pub const PEER_PORT: i32 = 7421;
pub const HTTP_PORT: i32 = 7422;
/// The container that runs the server.
pub const CONTAINER: &str = "server";
/// The claim template, and the volume of a pod.
pub const VOLUME: &str = "data";
/// User and group of the server, as in its image.
pub const USER: i64 = 65532;

/// An annotation of a KvCluster that looks like one of ours and is none: it does not do what was meant.
#[must_use]
pub fn is_mistyped(annotation: &str) -> bool {
    let means_ours = annotation.starts_with(OURS) || annotation.ends_with("/adopt-cluster-id");
    means_ours && !OF_CLUSTERS.contains(&annotation)
}

/// A mistyped annotation by which perhaps a cluster was to be taken over.
#[must_use]
pub fn may_mean_to_adopt(annotation: &str) -> bool {
    is_mistyped(annotation) && annotation.to_ascii_lowercase().contains(ADOPTS)
}

/// Names in one cluster. Invariant: functions of namespace, name and DNS domain, nothing else, so
/// that an object is found again after any crash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    pub namespace: String,
    pub name: String,
    /// DNS domain of the Kubernetes cluster.
    pub domain: String,
}

impl Names {
    /// The StatefulSet of one node.
    #[must_use]
    pub fn set(&self, ordinal: i32) -> String {
        format!("{}-{ordinal}", self.name)
    }

    #[must_use]
    pub fn ordinal_of_set(&self, set: &str) -> Option<i32> {
        ordinal(set.strip_prefix(&self.name)?.strip_prefix('-')?)
    }

    /// The only pod of a node's StatefulSet.
    #[must_use]
    pub fn pod(&self, ordinal: i32) -> String {
        format!("{}-0", self.set(ordinal))
    }

    /// The settings whose text has this hash.
    #[must_use]
    pub fn config(&self, hash: &str) -> String {
        format!("{}-config-{hash}", self.name)
    }

    #[must_use]
    pub fn volume(&self, ordinal: i32) -> String {
        format!("{VOLUME}-{}", self.pod(ordinal))
    }

    /// The ordinal in the name of a pod of ours.
    #[must_use]
    pub fn ordinal_of_pod(&self, pod: &str) -> Option<i32> {
        self.ordinal_of_set(pod.strip_suffix("-0")?)
    }

    /// The name of a pod, or of its volume claim, of an operator that made one StatefulSet for all nodes.
    #[must_use]
    pub fn is_earlier(&self, name: &str) -> bool {
        let volume = name.strip_prefix(VOLUME).and_then(|name| name.strip_prefix('-'));
        [Some(name), volume].into_iter().flatten().any(|pod| self.ordinal_of_set(pod).is_some())
    }

    #[must_use]
    pub fn ordinal_of_volume(&self, volume: &str) -> Option<i32> {
        self.ordinal_of_pod(volume.strip_prefix(VOLUME)?.strip_prefix('-')?)
    }

    /// The governing service: every pod, ready or not.
    #[must_use]
    pub fn headless(&self) -> String {
        format!("{}-headless", self.name)
    }

    /// Ready nodes only, one address each: for gRPC's own balancing.
    #[must_use]
    pub fn clients(&self) -> String {
        format!("{}-clients", self.name)
    }

    #[must_use]
    pub fn host(&self, ordinal: i32) -> String {
        format!("{}.{}", self.pod(ordinal), self.host_suffix())
    }

    /// What follows the pod's name in its DNS name.
    #[must_use]
    pub fn host_suffix(&self) -> String {
        format!("{}.{}.svc.{}", self.headless(), self.namespace, self.domain)
    }

    /// Where others reach a node's client port; by it the node table is read.
    #[must_use]
    pub fn client_address(&self, ordinal: i32) -> String {
        format!("{}:{CLIENT_PORT}", self.host(ordinal))
    }

    /// The ordinal at an address of the node table.
    #[must_use]
    pub fn ordinal_at(&self, client_address: &str) -> Option<i32> {
        let (host, _) = client_address.rsplit_once(':')?;
        let pod = host.strip_suffix(&self.host_suffix())?.strip_suffix('.')?;
        self.ordinal_of_pod(pod)
    }

    /// The DNS domain in the name of a node's host or of a Service of ours, if it is this cluster's in another
    /// domain than this operator was told of.
    #[must_use]
    pub fn other_domain<'a>(&self, host: &'a str) -> Option<&'a str> {
        let (service, domain) = host.split_once(&format!(".{}.svc.", self.namespace))?;
        let service = service.rsplit_once('.').map_or(service, |(_, service)| service);
        let domain = domain.split_once(':').map_or(domain, |(domain, _)| domain);
        let ours = [self.headless(), self.clients(), self.name.clone()];
        let is_ours = ours.iter().any(|known| known == service);
        (is_ours && domain != self.domain).then_some(domain)
    }

    /// Selects the pods of all nodes. Never changes: a StatefulSet's selector cannot.
    #[must_use]
    pub fn selector(&self) -> BTreeMap<String, String> {
        [
            ("app.kubernetes.io/name", "flotilla"),
            ("app.kubernetes.io/instance", &self.name),
            ("app.kubernetes.io/component", "server"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
    }

    /// Selects the pod of one node.
    #[must_use]
    pub fn selector_of(&self, ordinal: i32) -> BTreeMap<String, String> {
        let mut selector = self.selector();
        selector.insert(ORDINAL.to_owned(), ordinal.to_string());
        selector
    }

    #[must_use]
    pub fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.selector();
        labels.insert("app.kubernetes.io/managed-by".to_owned(), MANAGER.to_owned());
        labels.insert(CLUSTER.to_owned(), self.name.clone());
        labels
    }

    /// The selector as one text.
    #[must_use]
    pub fn selector_text(&self) -> String {
        let pairs = self.selector().into_iter().map(|(key, value)| format!("{key}={value}"));
        pairs.collect::<Vec<_>>().join(",")
    }
}

/// What is wrong with such a name; the definition says the same.
pub(crate) const NO_SERVICE_NAME: &str = "a name is lower case letters, digits and '-', begins with a \
    letter and does not end with '-': Services bear it";

/// Whether a Service may bear a name. Ours do, and Kubernetes would refuse them only when they are made.
#[must_use]
pub fn is_service_name(name: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    let bytes = name.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_lowercase)
        && bytes.iter().copied().all(inner)
        && !name.ends_with('-')
}

/// Only as Kubernetes writes it: no sign, no leading zero.
fn ordinal(text: &str) -> Option<i32> {
    let number: i32 = text.parse().ok()?;
    (number >= 0 && number.to_string() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinals_are_read_back_from_names_and_addresses() {
        let names =
            Names { namespace: "ns".into(), name: "kv".into(), domain: "cluster.local".into() };
        for ordinal in [0, 7, 12] {
            assert_eq!(names.ordinal_of_set(&names.set(ordinal)), Some(ordinal));
            assert_eq!(names.ordinal_of_pod(&names.pod(ordinal)), Some(ordinal));
            assert_eq!(names.ordinal_of_volume(&names.volume(ordinal)), Some(ordinal));
            assert_eq!(names.ordinal_at(&names.client_address(ordinal)), Some(ordinal));
        }
        for (name, is_one) in [
            ("kv-0", true),
            ("data-kv-12", true),
            ("kv-0-0", false),
            ("data-kv-0-0", false),
            ("vk-0", false),
        ] {
            assert_eq!(names.is_earlier(name), is_one, "{name}");
        }
        assert_eq!(names.client_address(0), "kv-0-0.kv-headless.ns.svc.cluster.local:7420");
        for (why, pod) in [
            ("another cluster with a longer name", "kv-other-0-0"),
            ("another cluster with a number for its end", "kv-1-0-0"),
            ("a leading zero", "kv-00-0"),
            ("a sign", "kv-+1-0"),
            ("no ordinal", "kv--0"),
            ("a second pod of one node", "kv-0-1"),
            ("another cluster", "vk-0-0"),
        ] {
            assert_eq!(names.ordinal_of_pod(pod), None, "{why}: {pod}");
            assert!(!names.is_earlier(pod), "{why}: {pod}");
        }
        for (name, is_one) in [
            ("kv", true),
            ("k", true),
            ("default", true),
            ("a-1", true),
            ("1kv", false),
            ("a.b", false),
            ("kv-", false),
            ("-kv", false),
            ("Kv", false),
            ("", false),
        ] {
            assert_eq!(is_service_name(name), is_one, "{name}");
        }
        let moved = "kv-0-0.kv-headless.ns.svc.k8s.example:7420";
        assert_eq!(
            (names.ordinal_at(moved), names.other_domain(moved)),
            (None, Some("k8s.example"))
        );
        assert_eq!(names.other_domain(&names.client_address(0)), None);
        assert_eq!(names.other_domain("$(POD_NAME).kv-headless.ns.svc.a.b"), Some("a.b"));
        assert_eq!(names.other_domain("kv-0-0.kv-headless.other.svc.a:7420"), None);
        for (service, want) in [("kv", Some("a.b")), ("kv-clients", Some("a.b")), ("vk", None)] {
            assert_eq!(
                names.other_domain(&format!("{service}.ns.svc.a.b:7420")),
                want,
                "{service}"
            );
            assert_eq!(names.other_domain(&format!("{service}.ns.svc.cluster.local:7420")), None);
        }
        let elsewhere = "kv-0-0.kv-headless.other.svc.cluster.local:7420";
        assert_eq!(names.ordinal_at(elsewhere), None, "another namespace");
    }
}
