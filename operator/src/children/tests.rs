//! Every object as it is sent, seen as a diff. `UPDATE=1` writes them anew.

use std::{fs, path::PathBuf};

use serde_json::Value;

use super::*;
use crate::{
    crd::KvCluster,
    desired::Defaults,
    drift,
    names::{OBJECT_HASH, TEMPLATE_HASH},
};

fn desired(spec: Value) -> Desired {
    let mut whole = json!({
        "apiVersion": "flotilla.dev/v1alpha1", "kind": "KvCluster",
        "metadata": {"name": "kv", "namespace": "ns",
            "uid": "00000000-0000-0000-0000-00000000000a"},
        "spec": {"storage": {"size": "10Gi"}, "image": "flotilla:1"},
    });
    for (name, value) in spec.as_object().expect("an object") {
        whole["spec"][name] = value.clone();
    }
    let cluster: KvCluster = serde_json::from_value(whole).expect("a cluster");
    Desired::of(&cluster, &Defaults::default()).expect("a valid spec")
}

fn rich() -> Desired {
    desired(json!({
        "replicas": 5,
        "storage": {"size": "20Gi", "storageClassName": "fast", "retain": false},
        "resources": {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "2Gi"}},
        "placement": {"topologyKey": "rack", "maxNodeDown": "5m"},
        "config": {"raft": {"heartbeat_interval": "200ms"}, "shutdown_grace": "30s"},
        "metrics": {"serviceMonitor": true},
        "podTemplate": {
            "metadata": {"labels": {"team": "a"}},
            "spec": {"nodeSelector": {"disk": "fast"},
                "containers": [{"name": "server", "env": [{"name": "RUST_LOG", "value": "debug"}]}]},
        },
    }))
}

#[test]
fn objects_are_those_on_record() {
    for (name, desired) in [("minimal", desired(json!({}))), ("rich", rich())] {
        let mut text = String::new();
        for child in Child::ALL.into_iter().filter(|child| child.is_wanted(&desired)) {
            let object = build(child, &desired, desired.spec.replicas, None);
            text.push_str("---\n");
            text.push_str(&serde_yaml::to_string(&object).expect("YAML"));
        }
        let path = PathBuf::from(format!("src/children/testdata/{name}.yaml"));
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&path, &text).expect("written");
        }
        let known = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(text, known, "{name}: run the test with UPDATE=1 and look at the difference");
    }
}

#[test]
fn pods_meet_the_restricted_standard() {
    let set = build(Child::StatefulSet, &desired(json!({})), 3, None);
    let pod = &set["spec"]["template"]["spec"];
    let container = &pod["containers"][0]["securityContext"];
    for (why, value, want) in [
        ("no root", &pod["securityContext"]["runAsNonRoot"], json!(true)),
        ("a profile", &pod["securityContext"]["seccompProfile"]["type"], json!("RuntimeDefault")),
        ("no way up", &container["allowPrivilegeEscalation"], json!(false)),
        ("nothing of root", &container["capabilities"]["drop"], json!(["ALL"])),
        ("no writes to the image", &container["readOnlyRootFilesystem"], json!(true)),
        ("no token", &pod["automountServiceAccountToken"], json!(false)),
        ("no variables of services", &pod["enableServiceLinks"], json!(false)),
    ] {
        assert_eq!(*value, want, "{why}");
    }
}

#[test]
fn server_has_longer_to_stop_than_it_asks_for() {
    let grace = |desired: &Desired| {
        build(Child::StatefulSet, desired, 3, None)["spec"]["template"]["spec"]
            ["terminationGracePeriodSeconds"]
            .as_i64()
    };
    assert_eq!(grace(&desired(json!({}))), Some(35));
    assert_eq!(grace(&rich()), Some(45));
}

#[test]
fn one_node_has_no_budget() {
    let one = desired(json!({"replicas": 1, "replicationFactor": 1}));
    assert!(!Child::DisruptionBudget.is_wanted(&one));
    assert!(Child::DisruptionBudget.is_wanted(&desired(json!({}))));
}

#[test]
fn overlay_cannot_hide_a_pod_from_its_operator() {
    let patch = json!({"podTemplate": {"metadata": {
        "labels": {"app.kubernetes.io/instance": "other"},
        "annotations": {TEMPLATE_HASH: "none"},
    }}});
    let desired = desired(patch);
    let set = build(Child::StatefulSet, &desired, 3, None);
    let metadata = &set["spec"]["template"]["metadata"];
    assert_eq!(metadata["labels"]["app.kubernetes.io/instance"], json!("kv"));
    assert_eq!(metadata["annotations"][TEMPLATE_HASH], json!(desired.template_hash));
}

#[test]
fn scaling_changes_no_hash_and_what_is_applied_is_found_unchanged() {
    let desired = rich();
    let three = build(Child::StatefulSet, &desired, 3, None);
    let five = build(Child::StatefulSet, &desired, 5, None);
    let hash = |set: &Value| set["metadata"]["annotations"][OBJECT_HASH].clone();
    assert_eq!(hash(&three), hash(&five));
    for child in Child::ALL {
        let object = build(child, &desired, 5, None);
        assert_eq!(drift::drift(&object, &object), None, "{child:?}");
    }
}

#[test]
fn claims_that_cannot_change_are_sent_as_they_are() {
    let old = build(Child::StatefulSet, &desired(json!({})), 3, None);
    let claims = &old["spec"]["volumeClaimTemplates"];
    assert_eq!(claim_size(claims).map(|size| size.0), Some("10Gi".to_owned()));
    let new = build(Child::StatefulSet, &rich(), 3, Some(claims));
    assert_eq!(&new["spec"]["volumeClaimTemplates"], claims);
}
