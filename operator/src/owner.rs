//! Whose an object is.
//!
//! Invariant: an object is ours only when its controller reference has our cluster's uid. Names and labels
//! prove nothing: others have Services and StatefulSets of the same names, and labels are copied. A pod is
//! ours when our StatefulSet is its controller; a volume claim, which is to outlive both, when it bears
//! the id of the cluster whose data it holds. What is not ours is never applied over, replaced, marked or
//! deleted.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::Value;

use crate::children::Child;

/// The one owner that looks after an object.
#[must_use]
pub fn controller(owners: Option<&Vec<OwnerReference>>) -> Option<&OwnerReference> {
    owners?.iter().find(|owner| owner.controller == Some(true))
}

/// Made for the cluster with this uid, and not for an earlier one of the same name.
#[must_use]
pub fn is_ours(object: &Value, uid: &str) -> bool {
    controller(owners(object).as_ref()).is_some_and(|owner| owner.uid == uid)
}

/// Whose an object is that is not ours, for people.
#[must_use]
pub fn whose(controller: Option<&OwnerReference>) -> String {
    controller.map_or_else(
        || "no KvCluster made it".to_owned(),
        |owner| format!("it belongs to {} {}", owner.kind, owner.name),
    )
}

/// Objects of our names: those that are ours, and whose the others are.
#[must_use]
pub fn sort(
    found: BTreeMap<Child, Value>,
    uid: &str,
) -> (BTreeMap<Child, Value>, BTreeMap<Child, String>) {
    let (ours, others): (BTreeMap<_, _>, BTreeMap<_, _>) =
        found.into_iter().partition(|(_, object)| is_ours(object, uid));
    let others = others
        .into_iter()
        .map(|(child, object)| (child, whose(controller(owners(&object).as_ref()))))
        .collect();
    (ours, others)
}

fn owners(object: &Value) -> Option<Vec<OwnerReference>> {
    serde_json::from_value(object["metadata"]["ownerReferences"].clone()).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_controller_reference_with_our_uid_makes_an_object_ours() {
        let owner = |uid: &str, controller: Value| {
            json!([{"apiVersion": "flotilla.dev/v1alpha1", "kind": "KvCluster", "name": "kv",
                "uid": uid, "controller": controller}])
        };
        for (why, owners, ours, words) in [
            ("ours", owner("a", json!(true)), true, ""),
            ("an earlier one's", owner("b", json!(true)), false, "KvCluster kv"),
            ("ours, but somebody else's to look after", owner("a", json!(false)), false, "made it"),
            ("not said", owner("a", Value::Null), false, "made it"),
            ("nobody's", Value::Null, false, "made it"),
            ("nobody's", json!([]), false, "made it"),
        ] {
            let object = json!({"metadata": {"name": "kv", "ownerReferences": owners}});
            assert_eq!(is_ours(&object, "a"), ours, "{why}");
            let (_, others) = sort([(Child::Service, object)].into(), "a");
            assert_eq!(!others.contains_key(&Child::Service), ours, "{why}");
            assert!(others.values().all(|whose| whose.contains(words)), "{why}: {others:?}");
        }
    }
}
