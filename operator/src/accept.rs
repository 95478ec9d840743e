//! Whether the spec of a KvCluster can be acted on, and what it asks for with every default filled in.
//!
//! Above the objects that follow from it (`children.rs`), which say whether a pods' template keeps what the server
//! needs; what is asked for is below them (`desired.rs`).

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::ResourceRequirements;
use serde_json::{Value, json};

use crate::{
    children,
    crd::{KvCluster, KvClusterSpec, TlsMode},
    desired::{Defaults, Desired, Invalid, Network, OperatorPlace},
    drift, hash,
    names::{self, ADOPT, Names},
    overlay,
    settings::Settings,
};

impl Desired {
    /// # Errors
    /// Everything that the schema could not check.
    pub fn of(cluster: &KvCluster, defaults: &Defaults) -> Result<Self, Invalid> {
        let spec = &cluster.spec;
        let mut errors = Vec::new();
        let settings = Settings::of(spec).map_err(|wrong| errors.extend(wrong)).ok();
        if spec.tls.mode != TlsMode::Disabled {
            errors.push("tls.mode: this version of the server speaks plain text only".to_owned());
        }
        if drift::amount(&spec.storage.size).is_none_or(|size| size <= 0) {
            errors.push(format!("storage.size: {:?} is no size", spec.storage.size));
        }
        let resources = match &spec.resources {
            None => None,
            Some(value) => read_resources(value).map_err(|wrong| errors.push(wrong)).ok(),
        };
        let network = network(spec, defaults).map_err(|wrong| errors.push(wrong)).ok();
        let named = spec.image_pull_secrets.iter().map(|secret| &secret.name);
        let pull_secrets: BTreeSet<_> =
            defaults.pull_secrets.iter().chain(named).cloned().collect();
        let status = cluster.status.as_ref();
        let image = spec
            .image
            .clone()
            .or_else(|| status.and_then(|status| status.image.clone()))
            .unwrap_or_else(|| defaults.server_image.clone());
        let adopted = cluster.metadata.annotations.as_ref().and_then(|all| all.get(ADOPT)).cloned();
        if let Some(id) = adopted.as_ref().filter(|id| !is_cluster_id(id)) {
            errors.push(format!(
                "annotation {ADOPT}: {id:?} is no id of a cluster, which is 32 hexadecimal digits in lower case"
            ));
        }
        let name = cluster.metadata.name.as_deref().unwrap_or_default();
        if !names::is_service_name(name) {
            errors.push(format!("metadata.name: {} {name:?}", names::NO_SERVICE_NAME));
        }
        let uid = cluster.metadata.uid.clone().unwrap_or_default();
        let Some(settings) = settings.filter(|_| errors.is_empty()) else {
            return Err(Invalid(errors));
        };
        let mut desired = Self {
            names: Names {
                namespace: cluster.metadata.namespace.clone().unwrap_or_default(),
                name: cluster.metadata.name.clone().unwrap_or_default(),
                domain: defaults.domain.clone(),
            },
            template_hash: template_hash(spec, &image, &settings),
            template: Value::Null,
            sent_template: String::new(),
            config_hash: hash::hash(&json!({children::CONFIG_FILE: settings.yaml()})),
            // Invariant: what has begun or was taken over stays what it is, when the annotation has served its purpose
            // and when it is that of another cluster: else all its disks were called that one's, to be deleted.
            cluster_id: status
                .and_then(|status| status.cluster_id.clone())
                .or_else(|| adopted.clone())
                .unwrap_or_else(|| uid.replace('-', "").to_lowercase()),
            adopts: adopted.is_some(),
            uid,
            spec: spec.clone(),
            settings,
            resources,
            image,
            image_pull_policy: defaults.image_pull_policy.clone(),
            network: network.unwrap_or_default(),
            pull_secrets: pull_secrets.into_iter().collect(),
            user: defaults.user,
            lends: defaults.lends.clone(),
        };
        desired.template = children::template(&desired);
        desired.sent_template = children::sent_hash(&desired.template, &desired.names);
        let patch = desired.spec.pod_template.as_ref();
        let checked = overlay::check(&desired.template, patch, &desired.names, &desired.lends);
        match checked.and_then(|()| children::keeps_its_disk(&desired)) {
            Ok(()) => Ok(desired),
            Err(wrong) => Err(Invalid(vec![wrong])),
        }
    }
}

impl Desired {
    /// As far as is needed to see how a cluster is: where its spec cannot be acted on, without what may be wrong with
    /// it. Nothing may be made or changed by it, but what keeps disks: whether they are to stay is asked for as it stands.
    #[must_use]
    pub fn to_observe(cluster: &KvCluster, defaults: &Defaults) -> Option<Self> {
        if let Ok(desired) = Self::of(cluster, defaults) {
            return Some(desired);
        }
        let mut known = cluster.clone();
        let spec = &mut known.spec;
        spec.config.clear();
        (spec.resources, spec.pod_template) = (None, None);
        (spec.tls, spec.network_policy) = Default::default();
        (spec.regions.split_size, spec.regions.merge_size) = (None, None);
        spec.placement.max_node_down = None;
        if drift::amount(&spec.storage.size).is_none_or(|size| size <= 0) {
            // Of no meaning for what is seen.
            "1".clone_into(&mut spec.storage.size);
        }
        // A mistyped id is nobody's. What was begun or taken over before is still the one that is there.
        if let Some(annotations) = &mut known.metadata.annotations
            && annotations.get(ADOPT).is_some_and(|id| !is_cluster_id(id))
        {
            annotations.remove(ADOPT);
        }
        Self::of(&known, defaults).ok()
    }
}

/// As a KvCluster's own id is written, and the nodes say it.
fn is_cluster_id(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn network(spec: &KvClusterSpec, defaults: &Defaults) -> Result<Network, String> {
    let asked = &spec.network_policy;
    let read = |field: &str, peers: &Option<Vec<Value>>| {
        let field = format!("networkPolicy.{field}");
        peers.as_ref().map(|peers| children::read_peers(&field, peers)).transpose()
    };
    let here = || defaults.operator.iter().map(OperatorPlace::peer).collect();
    Ok(Network {
        from: read("from", &asked.from)?,
        operator_from: read("operatorFrom", &asked.operator_from)?.unwrap_or_else(here),
    })
}

fn template_hash(spec: &KvClusterSpec, image: &str, settings: &Settings) -> String {
    let mut whole = json!({
        "image": image,
        "settings": settings.asked(),
        "resources": spec.resources,
        "podTemplate": spec.pod_template,
        "restartedAt": spec.restarted_at,
        "topologyKey": spec.placement.topology_key,
    });
    // Only where it is so: the hashes of all other clusters stay what they are.
    if settings.dual() {
        whole["dual"] = json!(true);
    }
    hash::hash(&whole)
}

fn read_resources(value: &Value) -> Result<ResourceRequirements, String> {
    let parsed: ResourceRequirements =
        serde_json::from_value(value.clone()).map_err(|error| format!("resources: {error}"))?;
    let back = serde_json::to_value(&parsed).map_err(|error| format!("resources: {error}"))?;
    // Kubernetes takes numbers for amounts; what is lost is no field of it.
    for key in value.as_object().into_iter().flat_map(|map| map.keys()) {
        if back.get(key).is_none() {
            return Err(format!("resources.{key}: there is no such field"));
        }
    }
    for list in [&parsed.requests, &parsed.limits].into_iter().flatten() {
        for (name, quantity) in list {
            if drift::amount(&quantity.0).is_none_or(|amount| amount < 0) {
                return Err(format!("resources: {name} has no amount: {:?}", quantity.0));
            }
        }
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(spec: Value) -> KvCluster {
        let mut whole = json!({
            "apiVersion": "flotilla.dev/v1alpha1", "kind": "KvCluster",
            "metadata": {"name": "kv", "namespace": "ns", "uid": "0A1b2c3d-0000-1111-2222-333344445555"},
            "spec": {"storage": {"size": "1Gi"}},
        });
        for (key, value) in spec.as_object().expect("an object") {
            whole["spec"][key] = value.clone();
        }
        serde_json::from_value(whole).expect("a cluster")
    }

    fn hash_of(spec: Value) -> String {
        Desired::of(&cluster(spec), &Defaults::default()).expect("valid").template_hash
    }

    #[test]
    fn cluster_id_is_the_uid_so_that_a_recreated_cluster_is_another() {
        let desired = Desired::of(&cluster(json!({})), &Defaults::default()).expect("valid");
        assert_eq!(desired.cluster_id, "0a1b2c3d000011112222333344445555");
        assert!(!desired.adopts);
    }

    #[test]
    fn mistakes_that_the_schema_cannot_see_are_told() {
        let metadata = |value: Value| json!({"podTemplate": {"metadata": value}});
        for (why, spec, part) in [
            ("TLS is not there yet", json!({"tls": {"mode": "generated"}}), "plain text only"),
            ("a size", json!({"storage": {"size": "big"}}), "is no size"),
            ("an amount", json!({"resources": {"limits": {"cpu": "lots"}}}), "has no amount"),
            ("a field", json!({"resources": {"limit": {"cpu": "1"}}}), "no such field"),
            ("a setting", json!({"config": {"raft": {"x": 1}}}), "raft.x: is no setting"),
            (
                "a setting of regions",
                json!({"config": {"regions": {"split_size": "256MiB"}}}),
                "regions.split_size: is no setting",
            ),
            ("a level", json!({"config": {"log_level": "inof"}}), "log_level: inof is none of"),
            (
                "a template",
                json!({"podTemplate": {"spec": {"nodeSelectr": {"a": "b"}}}}),
                "nodeSelectr",
            ),
            ("labels that are a word", metadata(json!({"labels": "team=a"})), "podTemplate: "),
            ("labels that are a list", metadata(json!({"labels": ["team=a"]})), "podTemplate: "),
            ("annotations", metadata(json!({"annotations": "x"})), "podTemplate: "),
            ("metadata", metadata(json!("x")), "podTemplate: "),
        ] {
            let invalid = Desired::of(&cluster(spec), &Defaults::default()).expect_err(why);
            assert!(invalid.0.iter().any(|text| text.contains(part)), "{why}: {invalid:?}");
        }
    }

    /// The roll would bring up one node after another on an empty disk.
    #[test]
    fn template_leaves_the_server_its_disk_and_its_settings() {
        let of = |spec: Value| {
            Desired::of(&cluster(json!({"podTemplate": {"spec": spec}})), &Defaults::default())
        };
        let server =
            |key: &str, value: Value| json!({"containers": [{"name": "server", key: value}]});
        let mount = |value: Value| {
            let mut spec = server("volumeMounts", json!([value]));
            spec["volumes"] = json!([{"name": "scratch", "emptyDir": {}}]);
            spec
        };
        let variable = |name: &str| server("env", json!([{"name": name, "value": "/tmp/x"}]));
        let data = "/var/lib/flotilla";
        for (why, spec, part) in [
            ("another volume", mount(json!({"mountPath": data, "name": "scratch"})), data),
            ("a part of it", mount(json!({"mountPath": data, "subPath": "a"})), data),
            ("one by a variable", mount(json!({"mountPath": data, "subPathExpr": "$(A)"})), data),
            (
                "over a part of it",
                mount(json!({"mountPath": "/var/lib/flotilla/data", "name": "scratch"})),
                data,
            ),
            (
                "by another word",
                mount(json!({"mountPath": "/var/lib/flotilla/", "name": "scratch"})),
                data,
            ),
            ("nothing", mount(json!({"mountPath": data, "$patch": "delete"})), data),
            ("no mounts", server("volumeMounts", Value::Null), data),
            (
                "other settings",
                mount(json!({"mountPath": "/etc/flotilla", "name": "scratch"})),
                "/etc/flotilla",
            ),
            (
                "settings of another",
                json!({"volumes": [{"name": "config", "configMap": {"name": "mine"}}]}),
                "config",
            ),
            ("a variable", variable("FLOTILLA_DATA_DIR"), "FLOTILLA_DATA_DIR"),
            ("to begin", variable("FLOTILLA_INIT"), "FLOTILLA_INIT"),
            ("to join", variable("FLOTILLA_JOIN"), "FLOTILLA_JOIN"),
            ("another name", variable("FLOTILLA_ADVERTISE_HOST"), "FLOTILLA_ADVERTISE_HOST"),
            ("by way of the pod's", variable("POD_NAME"), "POD_NAME"),
            ("another file", variable("FLOTILLA_CONFIG"), "FLOTILLA_CONFIG"),
            (
                "there by a way around",
                mount(json!({"mountPath": "/tmp/../var/lib/flotilla/data", "name": "scratch"})),
                "/tmp/../var",
            ),
            (
                "there from where it is",
                mount(json!({"mountPath": "var/lib/flotilla", "name": "scratch"})),
                "absolute",
            ),
            (
                "there by itself",
                mount(json!({"mountPath": "/var/./lib/flotilla", "name": "scratch"})),
                "absolute",
            ),
            ("a setting", variable("FLOTILLA_LOG_LEVEL"), "log_level: use spec.config"),
            ("how long it stops", variable("FLOTILLA_SHUTDOWN_GRACE"), "shutdown_grace"),
            (
                "a setting of a part",
                variable("FLOTILLA_PLACEMENT__NODE_DOWN_AFTER"),
                "placement.node_down_after",
            ),
            ("a label", variable("FLOTILLA_LABELS__RACK"), "labels.rack"),
            (
                "none of one that is counted on",
                server("env", json!([{"name": "FLOTILLA_SHUTDOWN_GRACE", "$patch": "delete"}])),
                "shutdown_grace: use spec.config",
            ),
            (
                "none of one that is decided",
                server("env", json!([{"name": "FLOTILLA_JOIN", "$patch": "delete"}])),
                "FLOTILLA_JOIN is decided",
            ),
            ("no variables", server("env", Value::Null), "POD_NAME"),
            ("a command line", server("args", json!(["--data-dir", "/tmp"])), "args"),
            ("a command", server("command", json!(["sh"])), "command"),
        ] {
            let invalid = of(spec).expect_err(why);
            assert!(invalid.0.iter().any(|text| text.contains(part)), "{why}: {invalid:?}");
        }
        for (why, spec) in [
            // What it may bring that is counted on is set beside it, which comes before.
            (
                "variables that nobody knows",
                server("envFrom", json!([{"secretRef": {"name": "x"}}])),
            ),
            (
                "another place",
                mount(json!({"mountPath": "/var/lib/flotilla-x", "name": "scratch"})),
            ),
            ("a variable", variable("RUST_BACKTRACE")),
            ("one that is no setting", variable("FLOTILLA_IMAGE")),
            ("one of ours as it is", server("env", json!([{"name": "POD_NAME"}]))),
            (
                "a sidecar that sees the disk",
                json!({"containers": [{"name": "side", "image": "s",
                    "securityContext": {"allowPrivilegeEscalation": false},
                    "args": ["--x"], "volumeMounts": [{"mountPath": "/d", "name": "data", "subPath": "log"}]}]}),
            ),
        ] {
            of(spec).map(drop).unwrap_or_else(|invalid| panic!("{why}: {invalid:?}"));
        }
    }

    #[test]
    fn mistyped_id_of_a_cluster_to_take_over_is_told_and_what_runs_is_seen() {
        let id = "0a1b2c3d00001111222233334444555a";
        for wrong in ["", "0a1b", &id.to_uppercase(), &format!("{id} "), &id.replace('a', "g")] {
            let mut cluster = cluster(json!({}));
            cluster.metadata.annotations = Some([(ADOPT.to_owned(), wrong.to_owned())].into());
            let invalid = Desired::of(&cluster, &Defaults::default()).expect_err(wrong);
            assert!(invalid.0[0].contains(ADOPT) && invalid.0[0].contains("32"), "{invalid:?}");
            let seen = Desired::to_observe(&cluster, &Defaults::default()).expect("seen");
            assert!(!seen.adopts, "{wrong:?}");
            cluster.status = Some(crate::crd::KvClusterStatus {
                cluster_id: Some(id.into()),
                ..Default::default()
            });
            let seen = Desired::to_observe(&cluster, &Defaults::default()).expect("seen");
            assert_eq!(seen.cluster_id, id, "{wrong:?}");
        }
    }

    #[test]
    fn everything_that_a_node_starts_with_restarts_it_and_nothing_else_does() {
        let plain = hash_of(json!({}));
        for (why, spec) in [
            ("image", json!({"image": "other:1"})),
            ("config", json!({"config": {"log_level": "debug"}})),
            ("resources", json!({"resources": {"limits": {"cpu": "1"}}})),
            ("restart", json!({"restartedAt": "2026-01-01T00:00:00Z"})),
            ("template", json!({"podTemplate": {"metadata": {"labels": {"a": "b"}}}})),
            ("node down", json!({"placement": {"maxNodeDown": "1m"}})),
        ] {
            assert_ne!(hash_of(spec), plain, "{why}");
        }
        for (why, spec) in [
            ("scale", json!({"replicas": 5})),
            ("growth", json!({"storage": {"size": "2Gi"}})),
            ("pause", json!({"paused": true})),
            ("budget", json!({"podDisruptionBudget": false})),
            ("the default image by name", json!({"image": Defaults::default().server_image})),
        ] {
            assert_eq!(hash_of(spec), plain, "{why}");
        }
    }

    /// These are what pods out there carry. A change of this test is a restart of every cluster.
    #[test]
    fn upgrade_of_the_operator_restarts_no_pod() {
        assert_eq!(hash_of(json!({"image": "flotilla:1"})), "40c8d7839fd7bbe5");
        let spec = json!({
            "image": "flotilla:1",
            "config": {"raft": {"heartbeat_interval": "200ms"}},
            "resources": {"requests": {"cpu": "1"}},
            "restartedAt": "2026-01-01T00:00:00Z",
            "podTemplate": {"spec": {"nodeSelector": {"disk": "fast"}}},
            "placement": {"topologyKey": "zone", "maxNodeDown": "5m"},
        });
        assert_eq!(hash_of(spec), "e0b24536781b8cf4");
    }

    #[test]
    fn image_of_a_cluster_that_names_none_outlives_the_operators_default() {
        let mut cluster = cluster(json!({}));
        cluster.status =
            Some(crate::crd::KvClusterStatus { image: Some("old:1".into()), ..Default::default() });
        let newer = Defaults { server_image: "new:2".into(), ..Defaults::default() };
        assert_eq!(Desired::of(&cluster, &newer).expect("valid").image, "old:1");
        cluster.spec.image = Some("mine:3".into());
        assert_eq!(Desired::of(&cluster, &newer).expect("valid").image, "mine:3");
    }
}
