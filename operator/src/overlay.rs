//! `spec.podTemplate`: one patch laid over the pods' template, instead of fifty copied fields.
//!
//! The rules are those of a strategic merge patch, as far as templates need them: maps are merged,
//! `null` removes, a list whose items have a key is merged by it, any other list is replaced.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::Value;

use crate::{
    drift,
    names::{CONTAINER, Names},
    rights::{self, Right},
};

/// Lists of a pod template that are merged, and the key of their items.
const KEYS: [(&str, &str); 9] = [
    ("containers", "name"),
    ("initContainers", "name"),
    ("volumes", "name"),
    ("env", "name"),
    ("volumeMounts", "mountPath"),
    ("ports", "containerPort"),
    ("imagePullSecrets", "name"),
    ("topologySpreadConstraints", "topologyKey"),
    ("hostAliases", "ip"),
];

/// `base` with `patch` laid over it.
pub fn lay_over(base: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        base.clone_from(patch);
        return;
    };
    if !base.is_object() {
        *base = Value::Object(serde_json::Map::new());
    }
    let Value::Object(base) = base else { return };
    for (key, change) in patch {
        if change.is_null() {
            base.remove(key);
            continue;
        }
        let slot = base.entry(key).or_insert(Value::Null);
        match (KEYS.iter().find(|(list, _)| list == key), &mut *slot, change) {
            (Some((_, id)), Value::Array(items), Value::Array(changes)) => {
                merge_list(items, changes, id);
            }
            (_, slot, change) => lay_over(slot, change),
        }
    }
}

fn merge_list(items: &mut Vec<Value>, changes: &[Value], id: &str) {
    for change in changes {
        let same = |item: &Value| !change[id].is_null() && item[id] == change[id];
        if change["$patch"] == "delete" {
            items.retain(|item| !same(item));
        } else if let Some(item) = items.iter_mut().find(|item| same(item)) {
            lay_over(item, change);
        } else {
            items.push(change.clone());
        }
    }
}

/// Whether a template with a patch laid over it can be sent.
///
/// # Errors
/// A patch that makes no pod template, or names a field that there is not; a template that asks for more than is lent.
pub fn check(
    merged: &Value,
    patch: Option<&Value>,
    names: &Names,
    lends: &BTreeSet<Right>,
) -> Result<(), String> {
    if patch.is_some() {
        let parsed: PodTemplateSpec = serde_json::from_value(merged.clone())
            .map_err(|error| format!("podTemplate: {error}"))?;
        let read = serde_json::to_value(&parsed).expect("objects of Kubernetes have a JSON form");
        if let Some(drift) = drift::drift(merged, &read) {
            let path = drift.path().trim_start_matches('.');
            return Err(format!("podTemplate: there is no field {path}"));
        }
        let containers = parsed.spec.map(|spec| spec.containers).unwrap_or_default();
        if containers.iter().all(|each| each.name != CONTAINER) {
            return Err(format!("podTemplate: removes the container {CONTAINER}"));
        }
    }
    rights::refuse(merged, names, lends)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn patch_is_laid_over_as_kubernetes_does() {
        let base = json!({"spec": {
            "containers": [{"name": "server", "image": "a", "env": [{"name": "A", "value": "1"}]}],
            "tolerations": [{"key": "x"}],
            "priorityClassName": "low",
        }});
        for (why, patch, path, want) in [
            (
                "a container is found by name",
                json!({"spec": {"containers": [{"name": "server", "tty": true}]}}),
                "/spec/containers",
                json!([{"name": "server", "image": "a", "tty": true,
                    "env": [{"name": "A", "value": "1"}]}]),
            ),
            (
                "a variable is added",
                json!({"spec": {"containers": [{"name": "server",
                "env": [{"name": "B", "value": "2"}]}]}}),
                "/spec/containers/0/env",
                json!([{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]),
            ),
            (
                "another container comes beside",
                json!({"spec": {"containers": [{"name": "side", "image": "s"}]}}),
                "/spec/containers/1",
                json!({"name": "side", "image": "s"}),
            ),
            (
                "a list without key is replaced",
                json!({"spec": {"tolerations": [{"key": "y"}]}}),
                "/spec/tolerations",
                json!([{"key": "y"}]),
            ),
            (
                "null removes",
                json!({"spec": {"priorityClassName": null}}),
                "/spec",
                json!({"containers": base["spec"]["containers"], "tolerations": [{"key": "x"}]}),
            ),
            (
                "an item is deleted",
                json!({"spec": {"containers": [{"name": "server",
                "env": [{"name": "A", "$patch": "delete"}]}]}}),
                "/spec/containers/0/env",
                json!([]),
            ),
            (
                "labels appear",
                json!({"metadata": {"labels": {"team": "a"}}}),
                "/metadata",
                json!({"labels": {"team": "a"}}),
            ),
        ] {
            let mut merged = base.clone();
            lay_over(&mut merged, &patch);
            assert_eq!(merged.pointer(path), Some(&want), "{why}");
        }
    }
}
