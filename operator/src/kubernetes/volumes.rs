//! A volume claim as it is seen.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        core::v1::{Node, PersistentVolume, PersistentVolumeClaim},
        storage::v1::StorageClass,
    },
    apimachinery::pkg::api::resource::Quantity,
};
use kube::{Api, Client};

use crate::{
    desired::Desired,
    drift,
    names::{CLUSTER_ID, DECOMMISSIONED, Names},
    seen::VolumeClaim,
};

/// Of the cluster whose data a claim is for: it is in the claims of our StatefulSets, and outlives them.
pub(super) fn cluster_id(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.metadata.annotations.as_ref()?.get(CLUSTER_ID).map(String::as_str)
}

pub(super) fn read(claim: &PersistentVolumeClaim) -> VolumeClaim {
    let metadata = &claim.metadata;
    let annotation =
        |key: &str| metadata.annotations.as_ref().and_then(|all| all.get(key)).cloned();
    let requests = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let requested = requests.and_then(|resources| resources.requests.as_ref()?.get("storage"));
    VolumeClaim {
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
        volume: claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()),
        requested: requested.cloned().unwrap_or_else(|| Quantity("0".to_owned())),
        unnoted: annotation(CLUSTER_ID).is_none(),
        decommissioned: annotation(DECOMMISSIONED),
        terminating: metadata.deletion_timestamp.is_some(),
        machine_is_gone: false,
        can_grow: None,
    }
}

/// Whether volumes that are to grow can: asked of their storage class.
pub(super) async fn ask_growth(
    client: &Client,
    desired: &Desired,
    claims: &[PersistentVolumeClaim],
    names: &Names,
    volumes: &mut BTreeMap<i32, VolumeClaim>,
) {
    let mut classes: BTreeMap<String, Option<bool>> = BTreeMap::new();
    for claim in claims {
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        let class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.clone());
        if let Some(volume) = names.ordinal_of_volume(name).and_then(|at| volumes.get_mut(&at))
            && let Some(class) = class
            && drift::is_larger(&desired.spec.storage.size, &volume.requested)
        {
            if !classes.contains_key(&class) {
                let api: Api<StorageClass> = Api::all(client.clone());
                let found = api.get_opt(&class).await.ok().flatten();
                let grows = found.map(|class| class.allow_volume_expansion == Some(true));
                classes.insert(class.clone(), grows);
            }
            volume.can_grow = classes.get(&class).copied().flatten();
        }
    }
}

/// Whether a volume can be reached from no Kubernetes node that there is: it was local to one that was
/// deleted. What cannot be read is no proof.
pub(super) async fn machine_is_gone(client: &Client, volume: &str) -> bool {
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let Ok(Some(volume)) = volumes.get_opt(volume).await else { return false };
    let machines = local_to(&volume);
    if machines.is_empty() {
        return false;
    }
    let nodes: Api<Node> = Api::all(client.clone());
    for machine in machines {
        if !matches!(nodes.get_metadata_opt(&machine).await, Ok(None)) {
            return false;
        }
    }
    true
}

/// The Kubernetes nodes that a volume is bound to by name; empty when it is not.
fn local_to(volume: &PersistentVolume) -> Vec<String> {
    let required = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.node_affinity.as_ref())
        .and_then(|affinity| affinity.required.as_ref());
    let terms =
        required.map(|required| required.node_selector_terms.as_slice()).unwrap_or_default();
    let mut machines = Vec::new();
    for term in terms {
        let by_name = term.match_expressions.iter().flatten().find(|expression| {
            expression.key == "kubernetes.io/hostname" && expression.operator == "In"
        });
        // A term that names no machine is met by others, too.
        let Some(names) = by_name.and_then(|expression| expression.values.clone()) else {
            return Vec::new();
        };
        machines.extend(names);
    }
    machines
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn only_a_volume_that_names_machines_is_local() {
        let by = |key: &str| json!({"matchExpressions": [{"key": key, "operator": "In", "values": ["a"]}]});
        for (why, terms, want) in [
            ("by host", json!([by("kubernetes.io/hostname")]), vec!["a"]),
            ("by zone", json!([by("topology.kubernetes.io/zone")]), vec![]),
            (
                "by either",
                json!([by("kubernetes.io/hostname"), by("topology.kubernetes.io/zone")]),
                vec![],
            ),
            ("by nothing", Value::Null, vec![]),
        ] {
            let mut volume = json!({"metadata": {"name": "v"}, "spec": {}});
            if !terms.is_null() {
                volume["spec"]["nodeAffinity"] = json!({"required": {"nodeSelectorTerms": terms}});
            }
            let volume = serde_json::from_value(volume).expect("a volume");
            assert_eq!(local_to(&volume), want, "{why}");
        }
    }
}
