//! A volume claim as it is seen.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        core::v1::{Node, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus},
        storage::v1::StorageClass,
    },
    apimachinery::pkg::api::resource::Quantity,
};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use super::{failed, write};
use crate::{
    desired::Desired,
    drift,
    error::Error,
    names::{CLUSTER_ID, DECOMMISSIONED, MANAGER, Names},
    nodes,
    seen::{Growth, Kept, VolumeClaim},
};

/// Label by which local volumes say where they are.
const HOST: &str = "kubernetes.io/hostname";
/// The policy of a volume that outlives its claim.
const RETAIN: &str = "Retain";
/// Conditions of a claim whose volume could not be enlarged.
const RESIZE_ERRORS: [&str; 2] = ["ControllerResizeError", "NodeResizeError"];
/// Ends of the states in which it is not tried any more, or hardly: `ControllerResizeInfeasible`, and before
/// Kubernetes 1.31 `ControllerResizeFailed`; the same of nodes.
const END_STATES: [&str; 2] = ["Infeasible", "Failed"];

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
        version: metadata.resource_version.clone().unwrap_or_default(),
        owners: metadata.owner_references.clone().unwrap_or_default(),
        volume: claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()),
        requested: requested.cloned().unwrap_or_else(|| Quantity("0".to_owned())),
        capacity: claim
            .status
            .as_ref()
            .and_then(|status| status.capacity.as_ref()?.get("storage"))
            .cloned(),
        growth: claim.status.as_ref().and_then(growth),
        unnoted: annotation(CLUSTER_ID).is_none(),
        decommissioned: annotation(DECOMMISSIONED),
        terminating: metadata.deletion_timestamp.is_some(),
        kept: Kept::Unknown,
        machine_is_gone: false,
        can_grow: None,
    }
}

/// What Kubernetes and the driver say of a growth that is under way. Older ones say less: then nothing but that the
/// volume does not have it.
fn growth(status: &PersistentVolumeClaimStatus) -> Option<Growth> {
    let condition = |kinds: &[&str]| {
        let mut known = status.conditions.iter().flatten();
        known.find(|known| known.status == "True" && kinds.contains(&&*known.type_))
    };
    let state = status.allocated_resource_statuses.as_ref().and_then(|all| all.get("storage"));
    let state = state.map_or("", String::as_str);
    let failed = condition(&RESIZE_ERRORS);
    let message = failed.and_then(|failed| failed.message.as_deref());
    let message = nodes::line(message.unwrap_or_default());
    if END_STATES.iter().any(|end| state.ends_with(end)) {
        return Some(Growth::Refused { reason: nodes::line(state), message });
    }
    if let Some(failed) = failed {
        return Some(Growth::Fails { reason: failed.type_.clone(), message });
    }
    let waits = state == "NodeResizePending" || condition(&["FileSystemResizePending"]).is_some();
    waits.then_some(Growth::WaitsForPod)
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

/// Whether the volume of a claim can be reached from no Kubernetes node that there is: it was local to one that
/// was deleted. What cannot be read is no proof.
pub(super) async fn machine_is_gone(client: &Client, volume: &str, claim_uid: &str) -> bool {
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let Ok(Some(volume)) = volumes.get_opt(volume).await else { return false };
    let hosts = local_to(&volume);
    if claimed_by(&volume) != Some(claim_uid)
        || hosts.is_empty()
        || !hosts.iter().all(|host| is_label(host))
    {
        return false;
    }
    // A Kubernetes node is found by its label: its name may be another. The name is asked for as well, since
    // a label can be taken off by mistake.
    let nodes: Api<Node> = Api::all(client.clone());
    let labelled = format!("{HOST} in ({})", hosts.join(","));
    let labelled = nodes.list_metadata(&ListParams::default().labels(&labelled).limit(1)).await;
    if !labelled.is_ok_and(|listed| {
        listed.items.is_empty() && listed.metadata.continue_.is_none_or(|more| more.is_empty())
    }) {
        return false;
    }
    for host in hosts {
        if !matches!(nodes.get_metadata_opt(&host).await, Ok(None)) {
            return false;
        }
    }
    true
}

/// Whether the disk of a claim outlives it. Only what was read says so: a refusal is no answer.
pub(super) async fn kept(client: &Client, volume: &str, claim_uid: &str) -> Kept {
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    match volumes.get_opt(volume).await {
        Ok(None) => Kept::Nothing,
        Ok(Some(found)) => match claimed_by(&found) {
            Some(uid) if uid == claim_uid && keeps(&found) => Kept::Yes,
            Some(uid) if uid == claim_uid => Kept::No,
            Some(_) => Kept::Nothing,
            // It is about to be bound, to whomever.
            None => Kept::Unknown,
        },
        Err(_) => Kept::Unknown,
    }
}

/// The disk of a claim is not deleted with it. Answers the volume that is kept, or null where there is none.
///
/// A claim may name whatever volume it likes: only the volume says whose it is. One that is no more, or another
/// claim's, has nothing of this one to keep.
pub(super) async fn keep(client: &Client, volume: &str, claim_uid: &str) -> Result<Value, Error> {
    let what = format!("keep PersistentVolume {volume}");
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let found = volumes.get_opt(volume).await.map_err(|error| failed(&what, error))?;
    let Some(found) = found else { return Ok(Value::Null) };
    match claimed_by(&found) {
        Some(uid) if uid == claim_uid => {}
        Some(_) => return Ok(Value::Null),
        // It is about to be bound, to whomever.
        None => return Err(Error::Moved(format!("{what}: it is bound to no claim yet"))),
    }
    if keeps(&found) {
        return write::stored(&what, Ok(found));
    }
    let patch = json!({
        "metadata": {"uid": found.metadata.uid, "resourceVersion": found.metadata.resource_version},
        "spec": {"persistentVolumeReclaimPolicy": RETAIN},
    });
    let params = PatchParams { field_manager: Some(MANAGER.into()), ..Default::default() };
    match volumes.patch(volume, &params, &Patch::Merge(&patch)).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(Value::Null),
        result => write::stored(&what, result),
    }
}

fn keeps(volume: &PersistentVolume) -> bool {
    let policy = volume.spec.as_ref().and_then(|spec| {
        let policy = spec.persistent_volume_reclaim_policy.as_deref()?;
        Some(policy == RETAIN)
    });
    policy.unwrap_or(false)
}

/// Uid of the claim that a volume is bound to.
fn claimed_by(volume: &PersistentVolume) -> Option<&str> {
    volume.spec.as_ref()?.claim_ref.as_ref()?.uid.as_deref()
}

/// It can stand in a selector, and changes nothing else of it.
fn is_label(value: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !value.is_empty() && value.bytes().all(is_plain)
}

/// What the label [`HOST`] of the Kubernetes nodes says that a volume is bound to; empty when it is not.
fn local_to(volume: &PersistentVolume) -> Vec<String> {
    let required = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.node_affinity.as_ref())
        .and_then(|affinity| affinity.required.as_ref());
    let terms =
        required.map(|required| required.node_selector_terms.as_slice()).unwrap_or_default();
    let mut hosts = Vec::new();
    for term in terms {
        let by_host = term
            .match_expressions
            .iter()
            .flatten()
            .find(|expression| expression.key == HOST && expression.operator == "In");
        // A term that names no host is met by others, too.
        let Some(values) = by_host.and_then(|expression| expression.values.clone()) else {
            return Vec::new();
        };
        hosts.extend(values);
    }
    hosts
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use super::*;
    use axum::{
        Router,
        body::Bytes,
        extract::{Query, State},
        http::{Method, StatusCode, Uri},
        response::Json,
    };
    use parking_lot::Mutex;

    use crate::api_server::tests::failure;

    /// An API server of one volume, and of Kubernetes nodes: name, and label.
    struct Store {
        volume: Value,
        nodes: Vec<(&'static str, &'static str)>,
        /// It is changed between what is read and what is written.
        is_raced: bool,
        /// To whoever asks for it, instead of the volume.
        answer: Option<StatusCode>,
    }

    async fn serve(
        State(store): State<Arc<Mutex<Store>>>,
        method: Method,
        uri: Uri,
        Query(query): Query<BTreeMap<String, String>>,
        body: Bytes,
    ) -> (StatusCode, Json<Value>) {
        let mut store = store.lock();
        let node = |(name, label): &(&str, &str)| {
            json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
                "metadata": {"name": name, "labels": {HOST: label}}})
        };
        let path = uri.path();
        if let Some(name) = path.strip_prefix("/api/v1/nodes/") {
            return match store.nodes.iter().find(|(known, _)| *known == name) {
                Some(found) => (StatusCode::OK, Json(node(found))),
                None => failure(StatusCode::NOT_FOUND),
            };
        }
        if path == "/api/v1/nodes" {
            let selector = query.get("labelSelector").expect("never all of them");
            let asked = selector.strip_prefix(&format!("{HOST} in (")).expect("by host");
            let asked: Vec<_> = asked.trim_end_matches(')').split(',').collect();
            let items: Vec<_> =
                store.nodes.iter().filter(|(_, label)| asked.contains(label)).map(node).collect();
            return (
                StatusCode::OK,
                Json(json!({"apiVersion": "meta.k8s.io/v1",
                "kind": "PartialObjectMetadataList", "metadata": {}, "items": items})),
            );
        }
        assert_eq!(path, "/api/v1/persistentvolumes/v");
        if let Some(code) = store.answer {
            return failure(code);
        }
        if method == Method::PATCH {
            let sent: Value = serde_json::from_slice(&body).expect("JSON");
            let version = if store.is_raced { "8" } else { "7" };
            if sent["metadata"]["resourceVersion"] != version {
                return failure(StatusCode::CONFLICT);
            }
            let policy = &sent["spec"]["persistentVolumeReclaimPolicy"];
            store.volume["spec"]["persistentVolumeReclaimPolicy"] = policy.clone();
        }
        (StatusCode::OK, Json(store.volume.clone()))
    }

    fn server(spec: Value, nodes: &[(&'static str, &'static str)]) -> (Client, Arc<Mutex<Store>>) {
        let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume",
            "metadata": {"name": "v", "uid": "v", "resourceVersion": "7"}, "spec": spec});
        let store = Store { volume, nodes: nodes.to_vec(), is_raced: false, answer: None };
        let store = Arc::new(Mutex::new(store));
        (Client::new(Router::new().fallback(serve).with_state(store.clone()), "ns"), store)
    }

    #[tokio::test]
    async fn machine_is_gone_only_when_no_node_has_the_label_of_the_volume() {
        let local = |hosts: &[&str]| {
            json!({"claimRef": {"uid": "c"}, "nodeAffinity": {"required": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": HOST, "operator": "In", "values": hosts}]}]}}})
        };
        for (why, hosts, nodes, claim, want) in [
            ("a name that is another than the label", &["a"][..], &[("n1", "a")][..], "c", false),
            ("no label any more", &["a"][..], &[("a", "")][..], "c", false),
            ("the node is gone", &["a"][..], &[("n2", "b"), ("n3", "c")][..], "c", true),
            ("one of two is left", &["a", "b"][..], &[("n2", "b")][..], "c", false),
            ("neither of two", &["a", "b"][..], &[("n3", "c")][..], "c", true),
            ("more than a label", &["a),(x"][..], &[("n1", "a")][..], "c", false),
            ("another claim's volume", &["a"][..], &[][..], "d", false),
        ] {
            let (client, _) = server(local(hosts), nodes);
            assert_eq!(machine_is_gone(&client, "v", claim).await, want, "{why}");
        }
    }

    #[tokio::test]
    async fn only_the_volume_of_the_claim_is_kept_and_only_as_it_was_read() {
        let policy = |store: &Mutex<Store>| {
            store.lock().volume["spec"]["persistentVolumeReclaimPolicy"].clone()
        };
        let spec =
            |claim: Value| json!({"persistentVolumeReclaimPolicy": "Delete", "claimRef": claim});
        for (why, claim, raced, want, moved) in [
            ("ours", json!({"uid": "c"}), false, "Retain", false),
            ("another claim's", json!({"uid": "d"}), false, "Delete", false),
            ("nobody's yet", json!({"name": "kv"}), false, "Delete", true),
            ("nobody's", Value::Null, false, "Delete", true),
            ("changed meanwhile", json!({"uid": "c"}), true, "Delete", true),
        ] {
            let (client, store) = server(spec(claim.clone()), &[]);
            store.lock().is_raced = raced;
            let before = match claim["uid"].as_str() {
                Some("c") => Kept::No,
                Some(_) => Kept::Nothing,
                None => Kept::Unknown,
            };
            assert_eq!(kept(&client, "v", "c").await, before, "{why}");
            let result = keep(&client, "v", "c").await;
            assert_eq!(policy(&store), want, "{why}");
            assert_eq!(matches!(result, Err(Error::Moved(_))), moved, "{why}: {result:?}");
            assert_eq!(result.is_err(), moved, "{why}");
            let kept = result.ok().filter(|kept| !kept.is_null());
            assert_eq!(kept.is_some(), want == "Retain", "{why}: what is said to be kept is");
        }
    }

    #[tokio::test]
    async fn volume_that_cannot_be_read_is_not_taken_for_none() {
        let spec = json!({"persistentVolumeReclaimPolicy": "Retain", "claimRef": {"uid": "c"}});
        for (why, answer, want) in [
            ("it is there", None, Kept::Yes),
            ("it is no more", Some(StatusCode::NOT_FOUND), Kept::Nothing),
            ("refused", Some(StatusCode::FORBIDDEN), Kept::Unknown),
            ("asked too often", Some(StatusCode::TOO_MANY_REQUESTS), Kept::Unknown),
            ("too late", Some(StatusCode::GATEWAY_TIMEOUT), Kept::Unknown),
        ] {
            let (client, store) = server(spec.clone(), &[]);
            store.lock().answer = answer;
            assert_eq!(kept(&client, "v", "c").await, want, "{why}");
        }
    }

    #[test]
    fn claim_says_why_its_volume_does_not_grow() {
        let of = |status: Value| {
            let claim = json!({"metadata": {"name": "c"}, "status": status});
            read(&serde_json::from_value(claim).expect("a claim"))
        };
        let error = |kind: &str, status: &str| {
            json!([{"type": "Resizing", "status": "True"},
                {"type": kind, "status": status, "message": "too\nlarge"}])
        };
        let texts = |reason: &str, message: &str| (reason.to_owned(), message.to_owned());
        let refused = |reason, message| {
            let (reason, message) = texts(reason, message);
            Some(Growth::Refused { reason, message })
        };
        let fails = |reason| {
            let (reason, message) = texts(reason, "too large");
            Some(Growth::Fails { reason, message })
        };
        for (why, state, conditions, want) in [
            ("nothing is under way", "", json!([]), None),
            ("the driver is at it", "ControllerResizeInProgress", json!([]), None),
            (
                "it cannot be had",
                "ControllerResizeInfeasible",
                error("ControllerResizeError", "True"),
                refused("ControllerResizeInfeasible", "too large"),
            ),
            (
                "nor on the machine, and nobody says why",
                "NodeResizeInfeasible",
                json!([]),
                refused("NodeResizeInfeasible", ""),
            ),
            (
                "as an older Kubernetes says it",
                "ControllerResizeFailed",
                json!([]),
                refused("ControllerResizeFailed", ""),
            ),
            (
                "it fails",
                "ControllerResizeInProgress",
                error("ControllerResizeError", "True"),
                fails("ControllerResizeError"),
            ),
            (
                "on the machine",
                "NodeResizeInProgress",
                error("NodeResizeError", "True"),
                fails("NodeResizeError"),
            ),
            (
                "it does not any more",
                "NodeResizePending",
                error("ControllerResizeError", "False"),
                Some(Growth::WaitsForPod),
            ),
            (
                "as an older Kubernetes says it",
                "",
                error("FileSystemResizePending", "True"),
                Some(Growth::WaitsForPod),
            ),
        ] {
            let status = json!({"allocatedResourceStatuses": {"storage": state},
                "conditions": conditions, "capacity": {"storage": "1Gi"}});
            let claim = of(status);
            assert_eq!(claim.growth, want, "{why}: {state}");
            assert_eq!(claim.capacity, Some(Quantity("1Gi".into())), "{why}: {state}");
        }
        assert_eq!((of(Value::Null).growth, of(Value::Null).capacity), (None, None));
    }

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
