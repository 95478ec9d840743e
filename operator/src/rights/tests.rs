use cel::{Context, Program, Value as Cel};

use super::*;
use crate::{
    crd::KvCluster,
    desired::{Defaults, Desired},
};

fn cluster(template: &Value) -> Value {
    json!({
        "apiVersion": "flotilla.dev/v1alpha1", "kind": "KvCluster",
        "metadata": {"name": "kv", "namespace": "ns", "uid": "u"},
        "spec": {"storage": {"size": "1Gi"}, "podTemplate": template},
    })
}

fn operator_takes(template: &Value, lends: &[Right]) -> Result<(), String> {
    let cluster: KvCluster = serde_json::from_value(cluster(template)).expect("a cluster");
    let defaults = Defaults { lends: lends.iter().copied().collect(), ..Defaults::default() };
    Desired::of(&cluster, &defaults).map(drop).map_err(|invalid| invalid.0.join("; "))
}

/// As the API server does it: an expression that fails refuses.
fn policy_takes(template: &Value, lends: &[Right]) -> bool {
    let policy: Value = serde_yaml::from_str(&yaml()).expect("YAML");
    let mut context = Context::default();
    context.add_variable("object", cluster(template)).expect("an object");
    let mut known = serde_json::Map::new();
    let run = |context: &Context<'_, '_>, expression: &Value| {
        let text = expression["expression"].as_str().expect("an expression");
        Program::compile(text).unwrap_or_else(|error| panic!("{text}: {error}")).execute(context)
    };
    for variable in policy["variables"].as_array().expect("a list") {
        context.add_variable("variables", Value::Object(known.clone())).expect("variables");
        let Ok(value) = run(&context, variable) else { return false };
        let name = variable["name"].as_str().expect("a name").to_owned();
        known.insert(name, value.json().expect("JSON"));
    }
    context.add_variable("variables", Value::Object(known)).expect("variables");
    Right::ALL.into_iter().filter(|right| !lends.contains(right)).all(|right| {
        policy["validations"][right.name()]
            .as_array()
            .expect("a list")
            .iter()
            .all(|one| matches!(run(&context, one), Ok(Cel::Bool(true))))
    })
}

#[test]
fn template_lends_no_right_that_the_operator_was_not_told_to_lend() {
    use Right::{HostNamespaces, HostPaths, Privileged, ServiceAccounts};
    let pod = |key: &str, value: Value| json!({"spec": {key: value}});
    let server = |security: Value| json!({"spec": {"containers": [{"name": "server", "securityContext": security}]}});
    let beside = |security: Value| json!({"spec": {"containers": [{"name": "side", "image": "s", "securityContext": security}]}});
    let volume = |volume: Value| json!({"spec": {"volumes": [volume]}});
    for (why, template, right) in [
        ("an account", pod("serviceAccountName", json!("admin")), ServiceAccounts),
        ("its old name", pod("serviceAccount", json!("admin")), ServiceAccounts),
        ("the default account", pod("serviceAccountName", Value::Null), ServiceAccounts),
        ("a token", pod("automountServiceAccountToken", json!(true)), ServiceAccounts),
        ("a token by default", pod("automountServiceAccountToken", Value::Null), ServiceAccounts),
        (
            "a token by a volume",
            volume(
                json!({"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}),
            ),
            ServiceAccounts,
        ),
        ("a path", volume(json!({"name": "h", "hostPath": {"path": "/"}})), HostPaths),
        ("a disk", volume(json!({"name": "h", "nfs": {"server": "s", "path": "/"}})), HostPaths),
        (
            "a path for tmp",
            volume(json!({"name": "tmp", "emptyDir": null, "hostPath": {"path": "/"}})),
            HostPaths,
        ),
        ("the network", pod("hostNetwork", json!(true)), HostNamespaces),
        ("the processes", pod("hostPID", json!(true)), HostNamespaces),
        ("the memory", pod("hostIPC", json!(true)), HostNamespaces),
        (
            "a port",
            json!({"spec": {"containers": [{"name": "server", "ports": [{"containerPort": 7420, "hostPort": 80}]}]}}),
            HostNamespaces,
        ),
        ("privileges", server(json!({"privileged": true})), Privileged),
        ("of a sidecar", beside(json!({"privileged": true})), Privileged),
        (
            "of what runs before",
            json!({"spec": {"initContainers": [{"name": "i", "image": "s", "securityContext": {"privileged": true}}]}}),
            Privileged,
        ),
        ("a way up", server(json!({"allowPrivilegeEscalation": true})), Privileged),
        ("a capability", server(json!({"capabilities": {"add": ["NET_ADMIN"]}})), Privileged),
        ("root", server(json!({"runAsUser": 0})), Privileged),
        ("root by name", server(json!({"runAsNonRoot": false})), Privileged),
        ("root for all", pod("securityContext", json!({"runAsUser": 0})), Privileged),
        ("root by the image", pod("securityContext", json!({"runAsNonRoot": null})), Privileged),
        ("no rules", pod("securityContext", Value::Null), Privileged),
        ("any system call", server(json!({"seccompProfile": {"type": "Unconfined"}})), Privileged),
        ("no profile", server(json!({"appArmorProfile": {"type": "Unconfined"}})), Privileged),
        ("all of /proc", server(json!({"procMount": "Unmasked"})), Privileged),
        (
            "a process of the host",
            server(json!({"windowsOptions": {"hostProcess": true}})),
            Privileged,
        ),
    ] {
        let refused = operator_takes(&template, &[]).expect_err(why);
        assert!(refused.contains(right.name()), "{why}: {refused}");
        assert!(!policy_takes(&template, &[]), "{why}: the policy takes it");
        let others: Vec<_> = Right::ALL.into_iter().filter(|other| *other != right).collect();
        assert!(operator_takes(&template, &others).is_err(), "{why}: by another right");
        assert!(!policy_takes(&template, &others), "{why}: by another right, in the policy");
        assert_eq!(operator_takes(&template, &[right]), Ok(()), "{why}");
        assert!(policy_takes(&template, &[right]), "{why}: allowed, the policy refuses it");
    }
}

#[test]
fn template_may_do_what_pods_of_a_namespace_may() {
    for (why, template) in [
        ("nothing", json!({})),
        ("an empty pod", json!({"spec": {}})),
        ("labels", json!({"metadata": {"labels": {"team": "a"}}})),
        ("its own account", json!({"spec": {"serviceAccountName": "kv"}})),
        (
            "a place",
            json!({"spec": {"nodeSelector": {"disk": "fast"}, "tolerations": [{"operator": "Exists"}]}}),
        ),
        (
            "a sidecar with a Secret",
            json!({"spec": {
                "containers": [{"name": "side", "image": "s", "ports": [{"containerPort": 9000}],
                    "securityContext": {"capabilities": {"drop": ["ALL"]}},
                    "volumeMounts": [{"name": "s", "mountPath": "/s"}]}],
                "volumes": [{"name": "s", "secret": {"secretName": "x"}}, {"name": "e", "emptyDir": {}}],
            }}),
        ),
        (
            "a variable",
            json!({"spec": {"containers": [{"name": "server", "env": [{"name": "A", "value": "b"}]}]}}),
        ),
        (
            "another user, or whom the namespace says",
            json!({"spec": {"securityContext": {"runAsUser": null, "runAsGroup": null, "fsGroup": 1000}}}),
        ),
    ] {
        assert_eq!(operator_takes(&template, &[]), Ok(()), "{why}");
        assert!(policy_takes(&template, &[]), "{why}: the policy refuses it");
    }
}
