//! A pod as it is seen.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{self, Container, ContainerStatus, PodStatus};
use kube::{Api, Client};
use serde_json::Value;

use crate::{
    children::{self, Child},
    clock,
    names::{CONTAINER, Names, TEMPLATE_HASH},
    owner,
    seen::{Exit, Node, Pod, Slot, TOLD_TO_END},
};

/// Label of a Kubernetes node that tells its zone, unless the spec names another.
pub(super) const ZONE: &str = "topology.kubernetes.io/zone";
/// Label of a pod: the revision of its StatefulSet that it was made with.
const REVISION: &str = "controller-revision-hash";
/// Reasons of a waiting container that pass by themselves.
const PASSING: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// The StatefulSet whose pod is looked for.
#[derive(Debug)]
pub(super) enum Maker {
    /// Ours, by its uid.
    Ours(String),
    /// It is not there. Its pod may be: it left it.
    Missing,
    /// Somebody else's has the name.
    Strangers,
}

impl Maker {
    pub(super) fn of(
        children: &BTreeMap<Child, Value>,
        taken: &BTreeMap<Slot, String>,
        ordinal: i32,
    ) -> Self {
        let child = Child::StatefulSet(ordinal);
        let uid = children.get(&child).map(|set| &set["metadata"]["uid"]);
        match uid.and_then(Value::as_str) {
            Some(uid) => Self::Ours(uid.to_owned()),
            None if taken.contains_key(&Slot::Child(child)) => Self::Strangers,
            None => Self::Missing,
        }
    }

    /// Whether our StatefulSet is the controller of a pod with a name of ours; an error says whose the pod
    /// is when nobody but us could look after it is not so.
    pub(super) fn whose(&self, pod: &v1::Pod, names: &Names, ordinal: i32) -> Result<bool, String> {
        let controller = owner::controller(pod.metadata.owner_references.as_ref());
        // Labels are copied, as by `kubectl debug --copy-to`. What has no owner that could be asked is what our
        // StatefulSet left only when it also lives on the disk of its ordinal.
        let labels = names.selector_of(ordinal);
        let has_disk = mounts(pod, &names.volume(ordinal));
        let left = has_disk && bears(pod, &labels);
        match (controller, self) {
            (Some(owner), Self::Ours(uid)) if owner.uid == *uid => Ok(true),
            // Left by an earlier StatefulSet of ours: it is adopted, or on its way out.
            (Some(owner), Self::Ours(_) | Self::Missing)
                if left && owner.kind == "StatefulSet" && owner.name == names.set(ordinal) =>
            {
                Ok(false)
            }
            (None, Self::Ours(_) | Self::Missing) if left => Ok(false),
            // Its StatefulSet has let go of it, and takes it back.
            (None, Self::Ours(_) | Self::Missing) if has_disk => {
                let labels = labels.iter().filter(|(key, value)| !bears_one(pod, key, value));
                let labels: Vec<_> = labels.map(|(key, value)| format!("{key}={value}")).collect();
                Err(format!("it lacks labels ({}), with which it would be", labels.join(", ")))
            }
            (owner, _) => Err(owner::whose(owner)),
        }
    }
}

fn bears(pod: &v1::Pod, labels: &BTreeMap<String, String>) -> bool {
    labels.iter().all(|(key, value)| bears_one(pod, key, value))
}

fn bears_one(pod: &v1::Pod, key: &str, value: &str) -> bool {
    pod.metadata.labels.as_ref().and_then(|all| all.get(key)).is_some_and(|it| it == value)
}

fn mounts(pod: &v1::Pod, claim: &str) -> bool {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let mut claims = volumes.filter_map(|volume| volume.persistent_volume_claim.as_ref());
    claims.any(|used| used.claim_name == claim)
}

/// What selects the pods of our nodes by their labels takes it for one.
pub(super) fn is_selected(pod: &v1::Pod, names: &Names) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let has_ended = matches!(phase, Some("Succeeded" | "Failed"));
    bears(pod, &names.selector()) && !has_ended && pod.metadata.deletion_timestamp.is_none()
}

pub(super) fn read(pod: &v1::Pod) -> Pod {
    let metadata = &pod.metadata;
    let status = pod.status.clone().unwrap_or_default();
    let container = container(&status);
    let ended = container.as_ref().and_then(|container| {
        let last = container.last_state.as_ref()?.terminated.clone();
        last.or_else(|| container.state.as_ref()?.terminated.clone())
    });
    let state = container.as_ref().and_then(|container| container.state.as_ref());
    let runs = state.and_then(|state| state.running.clone());
    let running = runs.is_some();
    let ready = condition(&status, "Ready");
    let problem = problem(pod, &status, container.as_ref());
    Pod {
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
        ready: ready.as_ref().is_some_and(|(value, _)| value == "True"),
        ours: false,
        terminating: metadata.deletion_timestamp.is_some(),
        running,
        template_hash: metadata
            .annotations
            .as_ref()
            .and_then(|annotations| annotations.get(TEMPLATE_HASH))
            .cloned(),
        configs: configs(pod),
        ip: status.pod_ip.clone().filter(|ip| !ip.is_empty()),
        place: BTreeMap::new(),
        restarts: container.as_ref().map_or(0, |container| container.restart_count),
        problem_is_of_another: problem.is_some() && of_server(pod, container.as_ref()).is_none(),
        problem,
        last_exit: ended.map(|ended| Exit {
            code: ended.exit_code,
            out_of_memory: ended.reason.as_deref() == Some("OOMKilled"),
        }),
        disk_elsewhere: None,
        ready_since: ready.clone().and_then(|(value, since)| since.filter(|_| value == "True")),
        running_since: runs.and_then(|runs| Some(clock::text(runs.started_at?.0))),
        not_ready_since: ready
            .and_then(|(value, since)| if value == "True" { None } else { since })
            .or_else(|| metadata.creation_timestamp.as_ref().map(|time| clock::text(time.0))),
        node: Node::Silent(if running {
            "it has no address yet".to_owned()
        } else {
            "its container does not run".to_owned()
        }),
    }
}

/// What a pod was made with that does not bear it any more: somebody took the annotation off, or a policy does at every
/// pod, and would have it restarted for ever. It is known of one that is of the revision that its StatefulSet has now.
pub(super) fn hash_of_revision(pod: &v1::Pod, set: &Value) -> Option<String> {
    let revision = pod.metadata.labels.as_ref()?.get(REVISION)?;
    let status = &set["status"];
    let is_now = status["updateRevision"] == **revision
        && status["observedGeneration"].is_number()
        && status["observedGeneration"] == set["metadata"]["generation"];
    is_now.then(|| children::template_hash(set).map(ToOwned::to_owned)).flatten()
}

/// As [`Pod::disk_elsewhere`].
pub(super) fn disk_elsewhere(pod: &v1::Pod, claim: &str) -> Option<String> {
    let spec = serde_json::to_value(pod.spec.as_ref()?).ok()?;
    children::disk_elsewhere(&spec, claim)
}

fn configs(pod: &v1::Pod) -> BTreeSet<String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| Some(volume.config_map.as_ref()?.name.clone())).collect()
}

/// The Kubernetes node that a pod runs on.
pub(super) fn machine(pod: &v1::Pod) -> Option<String> {
    pod.spec.as_ref()?.node_name.clone()
}

/// Where a Kubernetes node is, in the words of placement. It is in no zone where it bears no such label, is not there, or
/// may not be read, for which nobody can wait: then peers are spread over nodes, but not over zones.
///
/// # Errors
/// It could not be read this time.
pub(super) async fn place(
    client: &Client,
    machine: &str,
    zone_label: &str,
) -> kube::Result<BTreeMap<String, String>> {
    let mut place = BTreeMap::from([("host".to_owned(), machine.to_owned())]);
    let machines: Api<v1::Node> = Api::all(client.clone());
    match machines.get_metadata_opt(machine).await {
        Ok(node) => {
            let labels = node.and_then(|node| node.metadata.labels).unwrap_or_default();
            if let Some(zone) = labels.get(zone_label) {
                place.insert("zone".to_owned(), zone.clone());
            }
        }
        // Counted and told by whom it was sent.
        Err(kube::Error::Api(status)) if status.code == 403 => {}
        Err(error) => return Err(error),
    }
    Ok(place)
}

fn container(status: &PodStatus) -> Option<ContainerStatus> {
    let all = status.container_statuses.as_ref()?;
    all.iter().find(|container| container.name == CONTAINER).cloned()
}

/// A condition's value, and since when.
fn condition(status: &PodStatus, kind: &str) -> Option<(String, Option<String>)> {
    let condition = status.conditions.as_ref()?.iter().find(|known| known.type_ == kind)?;
    let since = condition.last_transition_time.as_ref().map(|time| clock::text(time.0));
    Some((condition.status.clone(), since))
}

/// Why a pod does not run, if the cause does not pass by itself.
fn problem(
    pod: &v1::Pod,
    status: &PodStatus,
    container: Option<&ContainerStatus>,
) -> Option<(String, String)> {
    if pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    if let Some(scheduled) = status
        .conditions
        .iter()
        .flatten()
        .find(|known| known.type_ == "PodScheduled" && known.status == "False")
    {
        let reason = scheduled.reason.clone().unwrap_or_else(|| "Unschedulable".to_owned());
        return Some((reason, scheduled.message.clone().unwrap_or_default()));
    }
    of_server(pod, container).or_else(|| of_others(status))
}

/// Why another container keeps the pod from being ready.
fn of_others(status: &PodStatus) -> Option<(String, String)> {
    let init = status.init_container_statuses.iter().flatten();
    let others = init.chain(status.container_statuses.iter().flatten());
    others.filter(|other| other.name != CONTAINER).find_map(|other| {
        let waiting = other.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.clone().filter(|reason| !passes(reason))?;
        let message = waiting.message.clone().unwrap_or_default();
        Some((reason, format!("container {}: {message}", other.name)))
    })
}

fn passes(reason: &str) -> bool {
    reason.is_empty() || PASSING.contains(&reason)
}

fn of_server(pod: &v1::Pod, container: Option<&ContainerStatus>) -> Option<(String, String)> {
    let state = container?.state.as_ref()?;
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.clone().unwrap_or_default();
        if passes(&reason) {
            return None;
        }
        let image = image(pod).unwrap_or_default();
        let message = waiting.message.clone().unwrap_or_default();
        let exit = container?.last_state.as_ref().and_then(|last| last.terminated.as_ref());
        let exit = exit.map(|exit| format!(" (ended with code {})", exit.exit_code));
        return Some((reason, format!("image {image}: {message}{}", exit.unwrap_or_default())));
    }
    let ended = state.terminated.as_ref()?;
    if TOLD_TO_END.contains(&ended.exit_code) && ended.reason.as_deref() != Some("OOMKilled") {
        return None;
    }
    let reason = ended.reason.clone().unwrap_or_else(|| "Error".to_owned());
    Some((reason, format!("the server ended with code {}", ended.exit_code)))
}

fn image(pod: &v1::Pod) -> Option<String> {
    let containers: &[Container] = &pod.spec.as_ref()?.containers;
    containers.iter().find(|container| container.name == CONTAINER)?.image.clone()
}

#[cfg(test)]
mod tests {
    use axum::{Json, http::StatusCode};
    use serde_json::json;

    use super::*;
    use crate::api_server::tests::failure;

    fn pod(status: Value) -> Pod {
        let pod = json!({
            "metadata": {"name": "kv-0-0", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z",
                "annotations": {TEMPLATE_HASH: "h"}},
            "spec": {"containers": [{"name": "server", "image": "flotilla:1"}]},
            "status": status,
        });
        read(&serde_json::from_value(pod).expect("a pod"))
    }

    fn waiting(reason: &str) -> Value {
        json!({"containerStatuses": [{"name": "server", "image": "", "imageID": "", "ready": false,
            "restartCount": 7, "state": {"waiting": {"reason": reason, "message": "why"}},
            "lastState": {"terminated": {"exitCode": 64, "reason": "Error"}}}]})
    }

    /// What is told when a node joins stands for ever.
    #[tokio::test]
    async fn kubernetes_node_that_cannot_be_read_for_the_moment_is_not_one_without_a_zone() {
        let label = "topology.kubernetes.io/zone";
        let of = |labels: Value| json!({"metadata": {"name": "m", "labels": labels}});
        let zoned = || of(json!({"topology.kubernetes.io/zone": "a"}));
        for (why, code, node, want) in [
            ("it says so", 200, zoned(), Some(Some("a"))),
            ("it has no label", 200, of(json!({"other": "a"})), Some(None)),
            ("it is gone", 404, zoned(), Some(None)),
            ("there is no right to read it", 403, zoned(), Some(None)),
            ("the API server is not well", 503, zoned(), None),
            ("there is too much to do", 429, zoned(), None),
        ] {
            let code = StatusCode::from_u16(code).expect("a code");
            let answer = if code == StatusCode::OK { (code, Json(node)) } else { failure(code) };
            let serve = move || std::future::ready(answer.clone());
            let client = Client::new(axum::Router::new().fallback(serve), "ns");
            let told = place(&client, "m", label).await.ok();
            let host = told.as_ref().and_then(|place| place.get("host")).map(String::as_str);
            assert_eq!(host, want.map(|_| "m"), "{why}");
            let zone = told.as_ref().map(|place| place.get("zone").map(String::as_str));
            assert_eq!(zone, want, "{why}");
        }
    }

    #[test]
    fn pod_that_waits_for_something_that_does_not_come_has_a_problem() {
        for (why, status, problem) in [
            ("nothing yet", json!({}), None),
            ("being made", waiting("ContainerCreating"), None),
            ("no image", waiting("ImagePullBackOff"), Some("ImagePullBackOff")),
            ("it ends again and again", waiting("CrashLoopBackOff"), Some("CrashLoopBackOff")),
            (
                "no place",
                json!({"conditions": [{"type": "PodScheduled", "status": "False",
                "reason": "Unschedulable", "message": "no nodes"}]}),
                Some("Unschedulable"),
            ),
        ] {
            let pod = pod(status);
            assert_eq!(pod.problem.as_ref().map(|(reason, _)| reason.as_str()), problem, "{why}");
            assert!(!pod.running && !pod.ready, "{why}");
        }
        let crashing = pod(waiting("CrashLoopBackOff"));
        assert_eq!(crashing.restarts, 7);
        assert_eq!(crashing.last_exit, Some(Exit { code: 64, out_of_memory: false }));
        assert!(crashing.ends_again_and_again());
        assert!(crashing.problem.is_some_and(|(_, text)| text.contains("flotilla:1")));
    }

    /// It would be taken for a server that cannot live on its disk.
    #[test]
    fn another_container_that_ends_again_and_again_is_not_the_server() {
        let other = |name: &str, state: Value| {
            json!({"name": name, "image": "", "imageID": "", "ready": false,
            "restartCount": 9, "state": state})
        };
        let waits = |name| other(name, json!({"waiting": {"reason": "CrashLoopBackOff"}}));
        for (why, status) in [
            (
                "beside it",
                json!({"containerStatuses": [
                    waits("proxy"), other("server", json!({"running": {}}))]}),
            ),
            (
                "before it",
                json!({"initContainerStatuses": [waits("init")], "containerStatuses": [
                    other("server", json!({"waiting": {"reason": "PodInitializing"}}))]}),
            ),
        ] {
            let pod = pod(status);
            assert!(pod.problem.is_some() && !pod.ends_again_and_again(), "{why}: {pod:?}");
        }
    }

    #[test]
    fn pods_are_ours_by_their_controller_and_not_by_name_and_labels() {
        let names = Names { namespace: "n".into(), name: "kv".into(), domain: "d".into() };
        let labels = json!(names.selector_of(0));
        let pod_on = |owners: Value, labels: &Value, claim: &str| -> v1::Pod {
            let metadata = json!({"name": "kv-0-0", "labels": labels, "ownerReferences": owners});
            let disk = json!({"name": "data", "persistentVolumeClaim": {"claimName": claim}});
            let spec = json!({"containers": [], "volumes": [disk]});
            serde_json::from_value(json!({"metadata": metadata, "spec": spec})).expect("a pod")
        };
        let pod = |owners: Value, labels: &Value| pod_on(owners, labels, &names.volume(0));
        let by = |kind: &str, name: &str, uid: &str| json!([{"apiVersion": "v1", "kind": kind, "name": name, "uid": uid, "controller": true}]);
        let ours = Maker::Ours("set".into());
        for (why, maker, owners, labels, want) in [
            ("our set's", &ours, by("StatefulSet", "kv-0", "set"), &labels, Ok(true)),
            (
                "left by our set's predecessor",
                &ours,
                by("StatefulSet", "kv-0", "old"),
                &labels,
                Ok(false),
            ),
            ("about to be adopted", &ours, json!([]), &labels, Ok(false)),
            ("about to be adopted", &Maker::Missing, json!([]), &labels, Ok(false)),
            (
                "without a label of ours",
                &ours,
                json!([]),
                &json!(names.selector()),
                Err("it lacks labels (flotilla.dev/ordinal=0), with which it would be"),
            ),
            ("a job's", &ours, by("Job", "j", "x"), &labels, Err("it belongs to Job j")),
            (
                "another set's of our name",
                &Maker::Strangers,
                by("StatefulSet", "kv-0", "x"),
                &labels,
                Err("it belongs to StatefulSet kv-0"),
            ),
        ] {
            let whose = maker.whose(&pod(owners, labels), &names, 0);
            assert_eq!(whose, want.map_err(ToOwned::to_owned), "{why}");
        }
        for (why, owners, whose) in [
            ("made by hand", json!([]), "no KvCluster made it"),
            (
                "by a set of our name",
                by("StatefulSet", "kv-0", "x"),
                "it belongs to StatefulSet kv-0",
            ),
        ] {
            for maker in [&ours, &Maker::Missing] {
                let stray = pod_on(owners.clone(), &labels, "other");
                let told = maker.whose(&stray, &names, 0);
                assert_eq!(told, Err(whose.to_owned()), "{why}, with all our labels: {maker:?}");
                assert!(is_selected(&stray, &names), "{why}");
            }
        }
    }

    #[test]
    fn pod_that_lost_its_annotation_is_known_by_the_revision_of_its_stateful_set() {
        let set = |revision: &str, generation: i64| {
            json!({"metadata": {"generation": 3},
                "spec": {"template": {"metadata": {"annotations": {TEMPLATE_HASH: "h"}}}},
                "status": {"observedGeneration": generation, "updateRevision": revision}})
        };
        let pod: v1::Pod = serde_json::from_value(json!({"metadata": {"name": "kv-0-0",
            "labels": {"controller-revision-hash": "kv-0-new"}}}))
        .expect("a pod");
        for (why, set, want) in [
            ("of this one", set("kv-0-new", 3), Some("h")),
            ("of another one", set("kv-0-old", 3), None),
            ("it may be of another one by now", set("kv-0-new", 2), None),
            ("nothing is known", json!({"metadata": {}}), None),
        ] {
            assert_eq!(hash_of_revision(&pod, &set).as_deref(), want, "{why}");
        }
        assert_eq!(hash_of_revision(&v1::Pod::default(), &set("kv-0-new", 3)), None);
    }

    #[test]
    fn running_pod_tells_where_it_is_and_since_when_it_is_not_ready() {
        let status = json!({
            "podIP": "10.0.0.1",
            "conditions": [{"type": "Ready", "status": "False",
                "lastTransitionTime": "2026-01-01T00:01:00Z"}],
            "containerStatuses": [{"name": "server", "image": "", "imageID": "", "ready": false,
                "restartCount": 0, "state": {"running": {}}}],
        });
        let pod = pod(status);
        assert!(pod.running && !pod.ready);
        assert_eq!(pod.ip.as_deref(), Some("10.0.0.1"));
        assert_eq!(pod.template_hash.as_deref(), Some("h"));
        assert_eq!(pod.not_ready_since.as_deref(), Some("2026-01-01T00:01:00Z"));
        assert_eq!(pod.ready_since, None);
    }

    #[test]
    fn ready_pod_tells_since_when_it_is_and_since_when_it_runs() {
        let status = json!({
            "conditions": [{"type": "Ready", "status": "True",
                "lastTransitionTime": "2026-01-01T00:01:00Z"}],
            "containerStatuses": [{"name": "server", "image": "", "imageID": "", "ready": true,
                "restartCount": 2, "state": {"running": {"startedAt": "2026-01-01T00:00:30Z"}}}],
        });
        let pod = pod(status);
        assert!(pod.running && pod.ready);
        assert_eq!(pod.ready_since.as_deref(), Some("2026-01-01T00:01:00Z"));
        assert_eq!(pod.running_since.as_deref(), Some("2026-01-01T00:00:30Z"));
    }
}
