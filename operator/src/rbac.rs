//! What the operator may do in Kubernetes: all of it is here, and the chart's roles are made from it.
//!
//! Each rule names the code that needs it. A rule that nothing uses is a fault, as is a use without a
//! rule.

use serde_json::{Value, json};

/// Rules for one namespace, or for all.
#[must_use]
pub fn namespaced() -> Vec<Value> {
    let rule = |group: &str, resources: &[&str], verbs: &[&str]| json!({"apiGroups": [group], "resources": resources, "verbs": verbs});
    let children = ["get", "list", "watch", "create", "patch", "update", "delete"];
    vec![
        // controller.rs watches them; kubernetes.rs reads them and writes their status.
        rule("flotilla.dev", &["kvclusters"], &["get", "list", "watch"]),
        rule("flotilla.dev", &["kvclusters/status"], &["update"]),
        // Owned objects with blockOwnerDeletion, where Kubernetes enforces it.
        rule("flotilla.dev", &["kvclusters/finalizers"], &["update"]),
        // plan/keep.rs: apply (patch, and create the first time), replace (update), delete. Listed: the
        // StatefulSets of all nodes, and settings that are no longer used.
        rule("apps", &["statefulsets"], &children),
        rule("", &["services", "configmaps"], &children),
        rule("", &["serviceaccounts"], &["get", "create", "patch", "update", "delete"]),
        rule("policy", &["poddisruptionbudgets"], &children),
        rule("networking.k8s.io", &["networkpolicies"], &children),
        rule(
            "monitoring.coreos.com",
            &["servicemonitors"],
            &["get", "create", "patch", "update", "delete"],
        ),
        // plan/roll.rs and repair.rs delete pods; the StatefulSet makes them.
        rule("", &["pods"], &["list", "watch", "delete"]),
        // Marked, grown and deleted; the StatefulSet makes them.
        rule("", &["persistentvolumeclaims"], &["list", "watch", "patch", "delete"]),
        rule("events.k8s.io", &["events"], &["create", "patch"]),
    ]
}

/// Rules for what belongs to no namespace.
#[must_use]
pub fn cluster_wide() -> Vec<Value> {
    let get = |group: &str, resource: &str| json!({"apiGroups": [group], "resources": [resource], "verbs": ["get"]});
    vec![
        // The zone of a pod (get), and whether the machine of a local volume is gone (both).
        json!({"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list"]}),
        get("", "persistentvolumes"),
        // Kept (`storage.retain`) when the claim of a node that was removed goes, or somebody deletes one.
        json!({"apiGroups": [""], "resources": ["persistentvolumes"], "verbs": ["patch"]}),
        // Whether volumes can grow.
        get("storage.k8s.io", "storageclasses"),
        json!({
            "apiGroups": ["apiextensions.k8s.io"],
            "resources": ["customresourcedefinitions"],
            "resourceNames": ["kvclusters.flotilla.dev", crate::kubernetes::SERVICE_MONITORS],
            "verbs": ["get"],
        }),
    ]
}

/// Rules in the operator's own namespace, about its own Lease: those of others say who leads there. The chart
/// puts in the name that it gives the Lease.
#[must_use]
pub fn own() -> Vec<Value> {
    let leases = |verbs: &[&str]| json!({"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": verbs});
    let mut held = leases(&["get", "update"]);
    held["resourceNames"] = json!([crate::lease::LEASE]);
    // What is not there yet has no name to go by.
    vec![held, leases(&["create"])]
}

/// All of it, for the chart.
#[must_use]
pub fn yaml() -> String {
    let all = json!({
        "namespacedRules": namespaced(),
        "clusterRules": cluster_wide(),
        "leaseRules": own(),
    });
    serde_yaml::to_string(&all).expect("rules have a YAML form")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crate::children::Child;

    use super::*;

    fn allowed(rules: &[Value], group: &str, resource: &str) -> BTreeSet<String> {
        let names = |rule: &Value, field: &str, name: &str| {
            rule[field].as_array().is_some_and(|all| all.iter().any(|one| one == name))
        };
        rules
            .iter()
            .filter(|rule| names(rule, "apiGroups", group) && names(rule, "resources", resource))
            .flat_map(|rule| rule["verbs"].as_array().into_iter().flatten())
            .filter_map(|verb| verb.as_str().map(ToOwned::to_owned))
            .collect()
    }

    #[test]
    fn every_child_can_be_read_applied_replaced_and_deleted() {
        for child in Child::SHARED.into_iter().chain([Child::StatefulSet(0)]) {
            let resource = child.resource();
            let verbs = allowed(&namespaced(), &resource.group, &resource.plural);
            for verb in ["get", "create", "patch", "update", "delete"] {
                assert!(verbs.contains(verb), "{child:?}: {verb} is missing in {verbs:?}");
            }
        }
    }

    #[test]
    fn no_lease_of_others_is_read_or_changed() {
        for rule in own() {
            let named = rule["resourceNames"] == json!([crate::lease::LEASE]);
            let creates = rule["verbs"] == json!(["create"]);
            assert!(named != creates, "by name alone, but to make it: {rule}");
        }
        let verbs = allowed(&own(), "coordination.k8s.io", "leases");
        assert_eq!(verbs, ["create", "get", "update"].map(ToOwned::to_owned).into());
    }

    #[test]
    fn nothing_is_allowed_by_a_star_and_no_secret_is_read() {
        let text = yaml();
        for word in ["'*'", "\"*\"", "secrets", "escalate", "bind", "impersonate"] {
            assert!(!text.contains(word), "{word} in\n{text}");
        }
    }
}
