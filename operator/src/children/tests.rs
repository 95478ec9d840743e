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

fn cluster(spec: Value) -> KvCluster {
    let mut whole = json!({
        "apiVersion": "flotilla.dev/v1alpha1", "kind": "KvCluster",
        "metadata": {"name": "kv", "namespace": "ns",
            "uid": "00000000-0000-0000-0000-00000000000a"},
        "spec": {"storage": {"size": "10Gi"}, "image": "flotilla:1"},
    });
    for (name, value) in spec.as_object().expect("an object") {
        whole["spec"][name] = value.clone();
    }
    serde_json::from_value(whole).expect("a cluster")
}

fn desired(spec: Value) -> Desired {
    Desired::of(&cluster(spec), &Defaults::default()).expect("a valid spec")
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

/// The StatefulSets differ by the number of their node only.
const LAST: Child = Child::StatefulSet(2);

fn all() -> impl Iterator<Item = Child> {
    Child::SHARED.into_iter().chain([LAST])
}

#[test]
fn objects_are_those_on_record() {
    for (name, desired) in [("minimal", desired(json!({}))), ("rich", rich())] {
        let mut text = String::new();
        for child in all().filter(|child| child.is_wanted(&desired)) {
            let replicas = if child == LAST { 1 } else { desired.spec.replicas };
            let object = build(child, &desired, replicas, None);
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
    let set = build(Child::StatefulSet(0), &desired(json!({})), 1, None);
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
        build(Child::StatefulSet(0), desired, 1, None)["spec"]["template"]["spec"]
            ["terminationGracePeriodSeconds"]
            .as_i64()
    };
    assert_eq!(grace(&desired(json!({}))), Some(35));
    assert_eq!(grace(&rich()), Some(45));
}

/// As the API server of Kubernetes 1.34 fills them in where there are two families.
#[test]
fn families_and_addresses_that_a_service_is_given_are_not_fought_over() {
    for (why, service, families, policy) in [
        ("nothing asked for", json!({}), json!(["IPv4"]), "SingleStack"),
        ("one family", json!({"ipFamilies": ["IPv6"]}), json!(["IPv6"]), "SingleStack"),
        (
            "both, in any order",
            json!({"ipFamilyPolicy": "PreferDualStack"}),
            json!(["IPv4", "IPv6"]),
            "PreferDualStack",
        ),
        (
            "both, and which is first",
            json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"]}),
            json!(["IPv6", "IPv4"]),
            "RequireDualStack",
        ),
        (
            "the policy is no longer asked for",
            json!({"ipFamilies": ["IPv6"]}),
            json!(["IPv6", "IPv4"]),
            "PreferDualStack",
        ),
        (
            "one of them only, where there is no other",
            json!({"ipFamilyPolicy": "PreferDualStack"}),
            json!(["IPv4"]),
            "PreferDualStack",
        ),
    ] {
        let mut service = service;
        service["type"] = json!("LoadBalancer");
        let desired = desired(json!({"service": service}));
        for child in [Child::HeadlessService, Child::Service, Child::ClientsService] {
            let want = build(child, &desired, 3, None);
            let mut live = want.clone();
            let spec = &mut live["spec"];
            spec["ipFamilies"] = families.clone();
            spec["ipFamilyPolicy"] = json!(policy);
            spec["sessionAffinity"] = json!("None");
            if child == Child::Service {
                spec["clusterIP"] = json!("10.96.0.7");
                spec["allocateLoadBalancerNodePorts"] = json!(true);
                spec["healthCheckNodePort"] = json!(31_000);
                spec["ports"][0]["nodePort"] = json!(30_420);
            }
            spec["clusterIPs"] = json!([spec["clusterIP"], "fd00:10:96::7"]);
            assert_eq!(drift::drift(&want, &live), None, "{why}: {child:?}");
            live["spec"]["ipFamilies"] = json!(["IPv4", "IPv6"]);
            let moved = !desired.spec.service.ip_families.is_empty();
            assert_eq!(drift::drift(&want, &live).is_some(), moved, "{why}: another is first");
        }
    }
}

#[test]
fn overlay_cannot_hide_a_pod_from_its_operator() {
    let patch = json!({"podTemplate": {"metadata": {
        "labels": {"app.kubernetes.io/instance": "other"},
        "annotations": {TEMPLATE_HASH: "none"},
    }}});
    let desired = desired(patch);
    let set = build(Child::StatefulSet(0), &desired, 1, None);
    let metadata = &set["spec"]["template"]["metadata"];
    assert_eq!(metadata["labels"]["app.kubernetes.io/instance"], json!("kv"));
    assert_eq!(metadata["annotations"][TEMPLATE_HASH], json!(desired.template_hash));
}

#[test]
fn scaling_changes_no_hash_and_what_is_applied_is_found_unchanged() {
    let desired = rich();
    let with = build(Child::StatefulSet(0), &desired, 1, None);
    let without = build(Child::StatefulSet(0), &desired, 0, None);
    let hash = |set: &Value| set["metadata"]["annotations"][OBJECT_HASH].clone();
    assert_eq!(hash(&with), hash(&without));
    for child in all() {
        let object = build(child, &desired, 5, None);
        assert_eq!(drift::drift(&object, &object), None, "{child:?}");
    }
}

#[test]
fn claims_that_cannot_change_are_sent_as_they_are() {
    let old = build(Child::StatefulSet(0), &desired(json!({})), 1, None);
    let claims = &old["spec"]["volumeClaimTemplates"];
    assert_eq!(claim_size(claims).map(|size| size.0), Some("10Gi".to_owned()));
    let new = build(Child::StatefulSet(0), &rich(), 1, Some(claims));
    assert_eq!(&new["spec"]["volumeClaimTemplates"], claims);
}

#[test]
fn network_lets_in_whom_was_asked_for_and_no_more() {
    let here = crate::desired::OperatorPlace {
        namespace: "system".into(),
        labels: [("app".to_owned(), "operator".to_owned())].into(),
    };
    let policy = |spec: Value| {
        let defaults = Defaults { operator: Some(here.clone()), ..Defaults::default() };
        let desired = Desired::of(&cluster(spec), &defaults).expect("a valid spec");
        build(Child::NetworkPolicy, &desired, 3, None)["spec"].clone()
    };
    let pods = json!({"podSelector": {"matchLabels": {
        "app.kubernetes.io/name": "flotilla", "app.kubernetes.io/instance": "kv",
        "app.kubernetes.io/component": "server",
    }}});
    let operator = json!({
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "system"}},
        "podSelector": {"matchLabels": {"app": "operator"}},
    });
    let team = json!({"namespaceSelector": {"matchLabels": {"team": "a"}}});
    let office = json!({"ipBlock": {"cidr": "10.0.0.0/8"}});
    for (why, asked, clients, operators) in [
        ("nothing was said", json!({}), json!([{"podSelector": {}}]), json!([operator])),
        ("a team", json!({"from": [team]}), json!([pods, team]), json!([operator])),
        ("nobody", json!({"from": []}), json!([pods]), json!([operator])),
        (
            "the operator is elsewhere",
            json!({"operatorFrom": [office]}),
            json!([{"podSelector": {}}]),
            json!([office]),
        ),
        ("no operator", json!({"operatorFrom": []}), json!([{"podSelector": {}}]), Value::Null),
    ] {
        let policy = policy(json!({ "networkPolicy": asked }));
        let from = |ports: Value| {
            let rules = policy["ingress"].as_array().expect("rules").iter();
            let numbers = |rule: &Value| {
                let ports = rule["ports"].as_array().expect("ports").iter();
                ports.map(|port| port["port"].clone()).collect::<Value>()
            };
            let mut found = rules.filter(|rule| numbers(rule) == ports).map(|rule| &rule["from"]);
            found.next().cloned().unwrap_or_default()
        };
        assert_eq!(from(json!([7420, 7422])), clients, "{why}");
        assert_eq!(from(json!([7420])), operators, "{why}");
        assert_eq!(from(json!([7421])), json!([pods]), "{why}: the peers' port");
        for rule in policy["ingress"].as_array().expect("rules") {
            // Kubernetes takes no list, and an empty one, for everybody.
            let named = rule["from"].as_array().is_some_and(|from| !from.is_empty());
            assert!(named && !rule["ports"].is_null(), "{why}: anybody, or any port: {rule}");
        }
        assert_eq!(policy["policyTypes"], json!(["Ingress", "Egress"]), "{why}");
        let out = policy["egress"].as_array().expect("rules");
        assert_eq!(out.len(), 2, "{why}: DNS and peers: {out:?}");
        assert_eq!(out[1]["to"], json!([pods]), "{why}: peers");
    }
    let off = desired(json!({"networkPolicy": {"enabled": false}}));
    assert!(!Child::NetworkPolicy.is_wanted(&off));
}

#[test]
fn peers_that_name_nobody_or_nothing_known_are_refused() {
    for (why, peer, part) in [
        ("nobody", json!({}), "networkPolicy.from[0]: names nobody"),
        ("a field", json!({"podSelektor": {}}), "names nobody"),
        ("a field beside", json!({"podSelector": {}, "ports": [1]}), "no field ports"),
        (
            "a field inside",
            json!({"podSelector": {"matchLabel": {"a": "b"}}}),
            "no field podSelector.matchLabel",
        ),
        ("two in one", json!({"podSelector": {}, "ipBlock": {"cidr": "::/0"}}), "stands alone"),
    ] {
        let spec = json!({"networkPolicy": {"from": [peer]}});
        let invalid = Desired::of(&cluster(spec), &Defaults::default()).expect_err(why);
        assert!(invalid.0.iter().any(|text| text.contains(part)), "{why}: {invalid:?}");
    }
}

#[test]
fn service_is_as_it_was_asked_for() {
    let plain = desired(json!({}));
    let asked = desired(json!({"service": {
        "type": "LoadBalancer", "annotations": {"cloud.example/internal": "true"},
        "ipFamilies": ["IPv6", "IPv4"], "ipFamilyPolicy": "RequireDualStack",
        "internalTrafficPolicy": "Local",
    }}));
    let of = |child, desired: &Desired| build(child, desired, 3, None);
    assert_eq!(of(Child::Service, &plain)["spec"]["type"], json!("ClusterIP"));
    let service = of(Child::Service, &asked);
    assert_eq!(service["spec"]["type"], json!("LoadBalancer"));
    assert_eq!(service["spec"]["internalTrafficPolicy"], json!("Local"));
    assert_eq!(service["metadata"]["annotations"]["cloud.example/internal"], json!("true"));
    for child in [Child::Service, Child::HeadlessService, Child::ClientsService] {
        let service = of(child, &asked);
        assert_eq!(service["spec"]["ipFamilies"], json!(["IPv6", "IPv4"]), "{child:?}");
        assert_eq!(service["spec"]["ipFamilyPolicy"], json!("RequireDualStack"), "{child:?}");
        let open = child != Child::Service && !service["spec"]["type"].is_null();
        assert!(!open, "{child:?} is for inside");
    }
    let file = build(Child::ConfigMap, &asked, 3, None);
    assert!(file["data"][CONFIG_FILE].as_str().is_some_and(|file| file.contains("[::]:7420")));
}

#[test]
fn monitor_can_be_selected_and_gives_the_job_the_clusters_name() {
    let monitor = |metrics: Value| {
        build(Child::ServiceMonitor, &desired(json!({ "metrics": metrics })), 3, None)
    };
    let plain = monitor(json!({"serviceMonitor": true}));
    assert_eq!(plain["spec"]["jobLabel"], json!("app.kubernetes.io/instance"));
    let relabeling = json!({"targetLabel": "cluster", "replacement": "east"});
    let asked = monitor(json!({
        "serviceMonitor": true, "labels": {"release": "prometheus", "flotilla.dev/cluster": "other"},
        "interval": "1m", "jobLabel": "team", "relabelings": [relabeling],
    }));
    assert_eq!(asked["metadata"]["labels"]["release"], json!("prometheus"));
    assert_eq!(asked["metadata"]["labels"]["flotilla.dev/cluster"], json!("kv"), "ours stay");
    assert_eq!(asked["spec"]["jobLabel"], json!("team"));
    assert_eq!(asked["spec"]["endpoints"][0]["interval"], json!("1m"));
    assert_eq!(asked["spec"]["endpoints"][0]["relabelings"], json!([relabeling]));
}

#[test]
fn pull_secrets_of_the_operator_and_of_the_cluster_are_at_the_account() {
    let defaults = Defaults { pull_secrets: vec!["registry".into()], ..Defaults::default() };
    let account = |spec| {
        let desired = Desired::of(&cluster(spec), &defaults).expect("a valid spec");
        build(Child::ServiceAccount, &desired, 3, None)
    };
    assert_eq!(account(json!({}))["imagePullSecrets"], json!([{"name": "registry"}]));
    let own = json!({"imagePullSecrets": [{"name": "mine"}, {"name": "registry"}]});
    let own = account(own);
    assert_eq!(own["imagePullSecrets"], json!([{"name": "mine"}, {"name": "registry"}]));
    let mut live = own.clone();
    live["imagePullSecrets"] = json!([{"name": "mine"}, {"name": "registry"}, {"name": "theirs"}]);
    assert_eq!(drift::drift(&own, &live), None, "a distribution adds one of its own");
    assert!(
        build(Child::ServiceAccount, &desired(json!({})), 3, None)["imagePullSecrets"].is_null()
    );
}

#[test]
fn user_of_the_pods_can_be_left_to_their_namespace() {
    let defaults = Defaults { user: None, ..Defaults::default() };
    let desired = Desired::of(&cluster(json!({})), &defaults).expect("a valid spec");
    let set = build(Child::StatefulSet(0), &desired, 1, None);
    let context = &set["spec"]["template"]["spec"]["securityContext"];
    for key in ["runAsUser", "runAsGroup", "fsGroup"] {
        assert!(context[key].is_null(), "{key}");
    }
    assert_eq!(context["runAsNonRoot"], json!(true));
}

#[test]
fn other_settings_are_another_object_and_the_same_ones_are_the_same() {
    let name = |spec: Value| Child::ConfigMap.name(&desired(spec));
    let plain = name(json!({}));
    assert_eq!(plain, name(json!({"image": "flotilla:2", "replicas": 5})));
    let other = json!({"config": {"log_level": "debug"}});
    assert_ne!(plain, name(other.clone()));
    let desired = desired(other);
    let set = build(Child::StatefulSet(0), &desired, 1, None);
    assert_eq!(configs(&set).collect::<Vec<_>>(), [Child::ConfigMap.name(&desired)]);
    assert_eq!(build(Child::ConfigMap, &desired, 3, None)["immutable"], json!(true));
}

#[test]
fn budget_lets_one_node_or_none_go_however_many_pods_are_seen() {
    for (pods, open, stay) in [(2, true, 1), (3, true, 2), (3, false, 3), (9, true, 8)] {
        let budget = budget(&desired(json!({})), pods, open);
        assert_eq!(budget["spec"]["minAvailable"], json!(stay), "of {pods}, open: {open}");
        assert_eq!(budget["spec"]["maxUnavailable"], Value::Null);
    }
}

#[test]
fn pod_whose_data_is_not_on_its_claim_says_where_it_is() {
    let claim = "data-kv-0-0";
    let mut sound = build(Child::StatefulSet(0), &desired(json!({})), 1, None)["spec"]["template"]
        ["spec"]
        .clone();
    // As Kubernetes adds it to the pod.
    let volume = json!({"name": "data", "persistentVolumeClaim": {"claimName": claim}});
    sound["volumes"].as_array_mut().expect("volumes").push(volume);
    let mount = |pod: &mut Value, key: &str, value: Value| {
        let mounts = pod.pointer_mut("/containers/0/volumeMounts").expect("mounts");
        let data = |mount: &&mut Value| mount["mountPath"] == "/var/lib/flotilla";
        let mut mounts = mounts.as_array_mut().expect("a list").iter_mut();
        mounts.find(data).expect("the data")[key] = value;
    };
    let env = |pod: &mut Value, value: &str| {
        let env = pod.pointer_mut("/containers/0/env").expect("variables").as_array_mut();
        let env = env.expect("a list");
        env.retain(|one| one["name"] != "FLOTILLA_DATA_DIR");
        env.push(json!({"name": "FLOTILLA_DATA_DIR", "value": value}));
    };
    type Change<'a> = &'a dyn Fn(&mut Value);
    let cases: [(&str, Change<'_>, Option<&str>); 9] = [
        ("as it was sent", &|_| {}, None),
        (
            "of an operator that set no variable",
            &|pod| {
                let env = pod.pointer_mut("/containers/0/env").expect("variables");
                *env = json!([]);
            },
            None,
        ),
        (
            "a sidecar beside it",
            &|pod| {
                let sidecar = json!({"name": "proxy", "volumeMounts": [
                {"name": "data", "mountPath": "/var/lib/flotilla", "subPath": "x"}]});
                pod["containers"].as_array_mut().expect("a list").push(sidecar);
            },
            None,
        ),
        ("a part of it", &|pod| mount(pod, "subPath", json!("tenant")), Some("only tenant")),
        ("by name", &|pod| mount(pod, "subPathExpr", json!("$(POD_NAME)")), Some("$(POD_NAME)")),
        ("elsewhere", &|pod| mount(pod, "mountPath", json!("/data")), Some("nothing is mounted")),
        ("another volume", &|pod| mount(pod, "name", json!("tmp")), Some("not its claim")),
        (
            "another claim",
            &|pod| {
                let volumes = pod["volumes"].as_array_mut().expect("a list");
                volumes.last_mut().expect("one")["persistentVolumeClaim"]["claimName"] = json!("x");
            },
            Some("not its claim"),
        ),
        ("a variable", &|pod| env(pod, "/tmp/x"), Some("/tmp/x")),
    ];
    for (why, change, want) in cases {
        let mut pod = sound.clone();
        change(&mut pod);
        let said = disk_elsewhere(&pod, claim);
        match want {
            None => assert_eq!(said, None, "{why}"),
            Some(part) => {
                assert!(said.as_ref().is_some_and(|said| said.contains(part)), "{why}: {said:?}")
            }
        }
    }
}

#[test]
fn claims_of_a_new_stateful_set_are_not_pruned_by_who_deploys_the_cluster() {
    let desired = desired(json!({}));
    let set = build(Child::StatefulSet(0), &desired, 1, None);
    let options = |set: &Value| {
        let claim = &set["spec"]["volumeClaimTemplates"][0]["metadata"];
        claim["annotations"]["argocd.argoproj.io/sync-options"].clone()
    };
    assert_eq!(options(&set), json!("Prune=false,Delete=false"));
    // Nobody can change those that a StatefulSet was made with.
    let before = json!([{"metadata": {"name": "data"}}]);
    assert_eq!(options(&build(Child::StatefulSet(0), &desired, 1, Some(&before))), Value::Null);
}
