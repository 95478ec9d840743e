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
    let calls =
        |key: &str, value: Value| json!({"spec": {"containers": [{"name": "server", key: value}]}});
    let other = json!({"host": "10.0.0.1", "port": 80});
    let app_armor = |container: &str, profile: &str| {
        let name = format!("container.apparmor.security.beta.kubernetes.io/{container}");
        json!({"metadata": {"annotations": {name: profile}}})
    };
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
        ("a probe of another", calls("livenessProbe", json!({"httpGet": other})), HostNamespaces),
        (
            "by its port",
            calls("readinessProbe", json!({"httpGet": null, "tcpSocket": other})),
            HostNamespaces,
        ),
        ("while it starts", calls("startupProbe", json!({"httpGet": other})), HostNamespaces),
        (
            "a call once it has started",
            calls("lifecycle", json!({"postStart": {"httpGet": other}})),
            HostNamespaces,
        ),
        (
            "a call before it ends",
            calls("lifecycle", json!({"preStop": {"tcpSocket": other}})),
            HostNamespaces,
        ),
        (
            "a call of a sidecar",
            json!({"spec": {"initContainers": [{"name": "side", "image": "s", "restartPolicy": "Always",
                "securityContext": {"allowPrivilegeEscalation": false},
                "lifecycle": {"preStop": {"httpGet": other}}}]}}),
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
        ("a way up by default", server(json!({"allowPrivilegeEscalation": null})), Privileged),
        ("a way up, as nothing is said", server(Value::Null), Privileged),
        (
            "a way up of a sidecar of which nothing is said",
            json!({"spec": {"containers": [{"name": "side", "image": "s"}]}}),
            Privileged,
        ),
        (
            "of a sidecar that says something else",
            json!({"spec": {"containers": [{"name": "side", "image": "s",
                "securityContext": {"readOnlyRootFilesystem": true}}]}}),
            Privileged,
        ),
        (
            "of one that says nothing",
            json!({"spec": {"containers": [{"name": "side", "image": "s", "securityContext": null}]}}),
            Privileged,
        ),
        ("capabilities kept", server(json!({"capabilities": {"drop": []}})), Privileged),
        ("some of them", server(json!({"capabilities": {"drop": ["CHOWN"]}})), Privileged),
        ("all, as none is named", server(json!({"capabilities": {"drop": null}})), Privileged),
        ("all, as nothing is said", server(json!({"capabilities": null})), Privileged),
        (
            "a label of another kind",
            server(json!({"seLinuxOptions": {"type": "spc_t"}})),
            Privileged,
        ),
        (
            "a label of somebody else",
            pod("securityContext", json!({"seLinuxOptions": {"user": "system_u"}})),
            Privileged,
        ),
        (
            "a role",
            pod("securityContext", json!({"seLinuxOptions": {"role": "system_r"}})),
            Privileged,
        ),
        (
            "a setting of the kernel",
            pod("securityContext", json!({"sysctls": [{"name": "kernel.msgmax", "value": "1"}]})),
            Privileged,
        ),
        ("a rank", pod("priorityClassName", json!("system-node-critical")), Privileged),
        (
            "any system call by default",
            pod("securityContext", json!({"seccompProfile": null})),
            Privileged,
        ),
        (
            "any system call for all",
            pod("securityContext", json!({"seccompProfile": {"type": null}})),
            Privileged,
        ),
        ("a capability", server(json!({"capabilities": {"add": ["NET_ADMIN"]}})), Privileged),
        ("root", server(json!({"runAsUser": 0})), Privileged),
        ("root by name", server(json!({"runAsNonRoot": false})), Privileged),
        ("root for all", pod("securityContext", json!({"runAsUser": 0})), Privileged),
        ("root by the image", pod("securityContext", json!({"runAsNonRoot": null})), Privileged),
        ("no rules", pod("securityContext", Value::Null), Privileged),
        ("any system call", server(json!({"seccompProfile": {"type": "Unconfined"}})), Privileged),
        ("no profile", server(json!({"appArmorProfile": {"type": "Unconfined"}})), Privileged),
        ("no profile by an annotation", app_armor("server", "unconfined"), Privileged),
        ("of a sidecar", app_armor("side", "unconfined"), Privileged),
        ("no profile by an empty one", app_armor("server", ""), Privileged),
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
        (
            "annotations, and profiles among them",
            json!({"metadata": {"annotations": {
                "team": "unconfined",
                "container.apparmor.security.beta.kubernetes.io/server": "runtime/default",
                "container.apparmor.security.beta.kubernetes.io/side": "localhost/mine",
            }}}),
        ),
        ("no metadata", json!({"metadata": null})),
        ("no annotations", json!({"metadata": {"annotations": null}})),
        ("its own account", json!({"spec": {"serviceAccountName": "kv"}})),
        (
            "a place",
            json!({"spec": {"nodeSelector": {"disk": "fast"}, "tolerations": [{"operator": "Exists"}]}}),
        ),
        (
            "a sidecar with a Secret",
            json!({"spec": {
                "containers": [{"name": "side", "image": "s", "ports": [{"containerPort": 9000}],
                    "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                    "volumeMounts": [{"name": "s", "mountPath": "/s"}]}],
                "volumes": [{"name": "s", "secret": {"secretName": "x"}}, {"name": "e", "emptyDir": {}}],
            }}),
        ),
        (
            "a variable",
            json!({"spec": {"containers": [{"name": "server", "env": [{"name": "A", "value": "b"}]}]}}),
        ),
        (
            "what a container may be anyway",
            json!({"spec": {
                "priorityClassName": "important",
                "securityContext": {"seLinuxOptions": {"level": "s0:c1,c2", "user": null, "role": ""},
                    "sysctls": [{"name": "net.ipv4.tcp_keepalive_time", "value": "60"}]},
                "containers": [{"name": "server", "securityContext": {"seccompProfile": null,
                    "seLinuxOptions": {"type": "container_t"}, "capabilities": {"drop": ["ALL"]}}}],
            }}),
        ),
        (
            "probes and hooks of its own",
            json!({"spec": {"containers": [
                {"name": "server", "readinessProbe": {"periodSeconds": 5}, "startupProbe": null,
                    "livenessProbe": {"httpGet": {"host": null}}, "lifecycle": null},
                {"name": "side", "image": "s", "securityContext": {"allowPrivilegeEscalation": false},
                    "livenessProbe": {"httpGet": null, "tcpSocket": {"port": 80, "host": ""}},
                    "lifecycle": {"postStart": null, "preStop": {"sleep": {"seconds": 5}}}},
            ]}}),
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

/// A cluster of before, with a template that is refused now, can be deleted: the update that takes its
/// finalizer away asks for nothing.
#[test]
fn policy_speaks_of_what_comes_and_of_what_changes_and_never_of_what_goes() {
    let policy: Value = serde_yaml::from_str(&yaml()).expect("YAML");
    let speaks = |object: &Value, old: &Value| {
        let mut context = Context::default();
        context.add_variable("object", object).expect("an object");
        context.add_variable("oldObject", old).expect("an object");
        policy["matchConditions"].as_array().expect("a list").iter().all(|one| {
            let text = one["expression"].as_str().expect("an expression");
            let said = Program::compile(text).expect("CEL").execute(&context).expect("an answer");
            matches!(said, Cel::Bool(true))
        })
    };
    let before = cluster(&json!({"spec": {"volumes": [{"name": "h", "hostPath": {"path": "/"}}]}}));
    let mut labelled = before.clone();
    labelled["metadata"]["labels"] = json!({"team": "a"});
    let mut scaled = before.clone();
    scaled["spec"]["replicas"] = json!(5);
    let mut goes = scaled.clone();
    goes["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    for (why, object, old, want) in [
        ("one that comes", &before, &Value::Null, true),
        ("another spec", &scaled, &before, true),
        ("a label", &labelled, &before, false),
        ("one that goes", &goes, &before, false),
        ("one that goes, as it was", &goes, &goes, false),
    ] {
        assert_eq!(speaks(object, old), want, "{why}");
    }
}

/// Kubernetes takes no list of several types, and then no policy; the CEL that the tests run with does.
#[test]
fn lists_of_the_policy_are_of_names() {
    for (expression, _) in Right::ALL.into_iter().flat_map(expressions) {
        for list in expression.split(" in [").skip(1) {
            let (items, _) = list.split_once(']').expect("an end");
            for item in items.split(", ") {
                assert!(item.starts_with('\'') && item.ends_with('\''), "{item} in {expression}");
            }
        }
    }
}
