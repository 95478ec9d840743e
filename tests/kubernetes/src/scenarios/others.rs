//! Among other people's things: objects of our names, and policies that change what we make.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, ensure};
use flotilla_operator::{
    crd::KvCluster,
    desired::{Defaults, Desired},
};
use k8s_openapi::{
    api::{apps::v1::StatefulSet, policy::v1::PodDisruptionBudget},
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, PostParams},
};
use serde_json::{Value, json};

use super::Skip;
use crate::{
    cluster::{Cluster, small},
    kubernetes_node::KubernetesNode,
    say::say,
    stage::Stage,
    traffic::Traffic,
    wait::{elapse, eventually, throughout},
};

const BOUND: Duration = Duration::from_secs(240);
/// How long others' things are watched beside a cluster that may not begin.
const WATCHED: Duration = Duration::from_secs(15);
/// How long a cluster at rest is watched.
const REST: Duration = Duration::from_secs(60);

/// What somebody else has under a name of a cluster's.
struct Stranger {
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    name: String,
    object: Value,
}

impl Stranger {
    fn title(&self) -> String {
        format!("{} {}", self.kind, self.name)
    }

    fn api(&self, stage: &Stage<'_>) -> Api<DynamicObject> {
        api(stage, self.group, self.kind, self.plural)
    }

    /// Whether Kubernetes itself writes the object of its own accord, whatever the operator does: controllers put
    /// into the status of these two what they count, so that the version of the object says nothing.
    fn is_written_by_kubernetes(&self) -> bool {
        matches!(self.kind, "PodDisruptionBudget" | "StatefulSet")
    }
}

/// What others might have made under each name of a cluster `kv`, in the order in which the operator names them. A
/// ServiceMonitor is missing, since Kubernetes has none by itself: the operator's simulation has that one.
fn strangers(spec: &Value) -> anyhow::Result<Vec<Stranger>> {
    let spec = serde_json::from_value(spec.clone())?;
    let cluster = KvCluster::new("kv", spec);
    let desired = Desired::of(&cluster, &Defaults::default());
    let desired = desired.map_err(|wrong| anyhow::anyhow!("{wrong:?}"))?;
    let names = &desired.names;

    let labels = json!({"app": "theirs"});
    let template = json!({"metadata": {"labels": labels}, "spec": {
        "containers": [{"name": "theirs", "image": "localhost/theirs:1"}]}});
    let service = json!({"spec": {"selector": labels, "ports": [{"name": "x", "port": 80}]}});
    // No scheduler looks at it, and so no kubelet: nobody but its owner writes it. Without the label of the rest, or
    // their StatefulSet would take it for its own and delete it.
    let pod = json!({"spec": {
        "schedulerName": "nobody",
        "securityContext": {"runAsNonRoot": true, "runAsUser": 1, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "theirs", "image": "localhost/theirs:1", "securityContext": {
            "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}],
    }});
    // Of no class, and for a volume that there is not: nobody binds it.
    let claim = json!({"spec": {
        "storageClassName": "",
        "selector": {"matchLabels": labels},
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Mi"}},
    }});
    let stranger =
        |group, kind, plural, name, object| Stranger { group, kind, plural, name, object };
    let core = |kind, plural, name, object| stranger("", kind, plural, name, object);
    Ok(vec![
        core("ServiceAccount", "serviceaccounts", names.name.clone(), json!({})),
        core(
            "ConfigMap",
            "configmaps",
            names.config(&desired.config_hash),
            json!({"data": {"flotilla.yaml": "theirs: true"}}),
        ),
        core("Service", "services", names.headless(), service.clone()),
        core("Service", "services", names.name.clone(), service.clone()),
        core("Service", "services", names.clients(), service),
        stranger(
            "networking.k8s.io",
            "NetworkPolicy",
            "networkpolicies",
            names.name.clone(),
            json!({"spec": {"podSelector": {"matchLabels": labels}}}),
        ),
        stranger(
            "policy",
            "PodDisruptionBudget",
            "poddisruptionbudgets",
            names.name.clone(),
            json!({"spec": {"minAvailable": 1, "selector": {"matchLabels": labels}}}),
        ),
        stranger(
            "apps",
            "StatefulSet",
            "statefulsets",
            names.set(0),
            json!({"spec": {"replicas": 0, "serviceName": "theirs",
                "selector": {"matchLabels": labels}, "template": template}}),
        ),
        core("PersistentVolumeClaim", "persistentvolumeclaims", names.volume(0), claim),
        core("Pod", "pods", names.pod(0), pod),
    ])
}

fn resource(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}

fn api(stage: &Stage<'_>, group: &str, kind: &str, plural: &str) -> Api<DynamicObject> {
    let client = stage.world.client.clone();
    Api::namespaced_with(client, &stage.namespace, &resource(group, "v1", kind, plural))
}

/// Everything of theirs, to the version that etcd has: also a write that leaves an object as it was is one. Of
/// those that Kubernetes writes by itself, all but what its controllers say.
async fn as_they_are(
    stage: &Stage<'_>,
    strangers: &[Stranger],
) -> anyhow::Result<BTreeMap<String, Value>> {
    let mut all = BTreeMap::new();
    for stranger in strangers {
        let title = stranger.title();
        let object = stranger.api(stage).get(&stranger.name).await;
        let object = serde_json::to_value(object.with_context(|| title.clone())?)?;
        let object =
            if stranger.is_written_by_kubernetes() { without_status(object) } else { object };
        all.insert(title, object);
    }
    Ok(all)
}

/// An object but for its status, and for who wrote that and when; its generation counts writes of all else.
fn without_status(mut object: Value) -> Value {
    object["status"] = Value::Null;
    object["metadata"]["resourceVersion"] = Value::Null;
    if let Some(writers) = object["metadata"]["managedFields"].as_array_mut() {
        writers.retain(|writer| writer["subresource"] != "status");
    }
    object
}

/// What of theirs was written since.
fn written(before: &BTreeMap<String, Value>, now: &BTreeMap<String, Value>) -> anyhow::Result<()> {
    for (title, before) in before {
        let now = now.get(title).unwrap_or(&Value::Null);
        ensure!(now == before, "{title} was written: it was {before}, is {now}");
    }
    Ok(())
}

pub(super) async fn objects_of_others_are_left_alone(stage: &Stage<'_>) -> anyhow::Result<()> {
    let mut spec = small(3, 3);
    let strangers = strangers(&spec)?;
    for stranger in &strangers {
        let Stranger { group, kind, plural, name, object } = stranger;
        let made =
            DynamicObject::new(name, &resource(group, "v1", kind, plural)).data(object.clone());
        let api = stranger.api(stage);
        // A pod must wait for the account that Kubernetes gives each new namespace.
        eventually(stranger.title(), BOUND, async || {
            api.create(&PostParams::default(), &made).await?;
            Ok(())
        })
        .await?;
    }
    // Their controllers have looked at them.
    let sets = Api::<StatefulSet>::namespaced(stage.world.client.clone(), &stage.namespace);
    eventually("their StatefulSet to be seen", BOUND, async || {
        let status = sets.get("kv-0").await?.status.and_then(|status| status.observed_generation);
        ensure!(status == Some(1), "{status:?}");
        Ok(())
    })
    .await?;
    let before = as_they_are(stage, &strangers).await?;
    let as_before = async || written(&before, &as_they_are(stage, &strangers).await?);
    // Without a budget of its own, the one that is there is nobody's to delete.
    spec["podDisruptionBudget"] = json!(false);
    let cluster = Cluster::create(stage, "kv", spec).await?;
    let degraded = cluster.becomes("Degraded", "True", BOUND).await?;
    ensure!(degraded.reason == "NameTaken", "{degraded}");
    say(format!("    beside others: {degraded}"));
    throughout("others' things", WATCHED, async || {
        as_before().await?;
        ensure!(cluster.pods().await?.is_empty(), "a pod was made");
        Ok(())
    })
    .await?;
    // It goes, and takes nothing of theirs along.
    cluster.delete().await?;
    throughout("others' things", WATCHED, as_before).await?;

    // One by one they go, and the cluster begins by itself with the last.
    let cluster = Cluster::create(stage, "kv", small(3, 3)).await?;
    for stranger in &strangers {
        let title = stranger.title();
        let degraded = eventually(format!("{title} to be named"), BOUND, async || {
            let degraded = cluster.condition("Degraded").await?;
            ensure!(degraded.reason == "NameTaken", "{degraded}");
            ensure!(degraded.message.contains(&format!("{title} ")), "{degraded}");
            Ok(degraded)
        });
        degraded.await?;
        stranger.api(stage).delete(&stranger.name, &DeleteParams::default()).await?;
    }
    cluster.healthy(3, BOUND).await?;

    // The account that every namespace has.
    let accounts = api(stage, "", "ServiceAccount", "serviceaccounts");
    let account = accounts.get("default").await?;
    let default = Cluster::create(stage, "default", small(1, 1)).await?;
    let degraded = default.becomes("Degraded", "True", BOUND).await?;
    ensure!(degraded.message.contains("ServiceAccount default"), "{degraded}");
    default.delete().await?;
    throughout("the account of the namespace", WATCHED, async || {
        let now = accounts.get("default").await?;
        ensure!(now.uid() == account.uid(), "it was deleted");
        ensure!(now.resource_version() == account.resource_version(), "it was written");
        Ok(())
    })
    .await
}

const ADMISSION: &str = "admissionregistration.k8s.io";
/// The version of the API that has these policies while they are no default.
const BETA: &str = "v1beta1";
const POLICY: &str = "flotilla-e2e";

fn policies(client: &Client) -> [(Api<DynamicObject>, ApiResource); 2] {
    ["MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding"].map(|kind| {
        let plural = if kind.ends_with("Binding") {
            "mutatingadmissionpolicybindings"
        } else {
            "mutatingadmissionpolicies"
        };
        let resource = resource(ADMISSION, BETA, kind, plural);
        (Api::all_with(client.clone(), &resource), resource)
    })
}

/// Their type is served, if need be after the API server of a kind is told to.
async fn served(client: &Client) -> anyhow::Result<()> {
    let is_served = async || {
        let resources = client.list_api_group_resources(&format!("{ADMISSION}/{BETA}")).await;
        let resources = resources.map(|list| list.resources).unwrap_or_default();
        ensure!(
            resources.iter().any(|each| each.name == "mutatingadmissionpolicies"),
            "MutatingAdmissionPolicy is not served"
        );
        Ok(())
    };
    if is_served().await.is_ok() {
        return Ok(());
    }
    let Some(node) = KubernetesNode::control_plane(client).await? else {
        return Err(Skip("MutatingAdmissionPolicy is not served here".to_owned()).into());
    };
    node.give_api_server(&[
        "--feature-gates=MutatingAdmissionPolicy=true",
        &format!("--runtime-config={ADMISSION}/{BETA}=true"),
    ])
    .await?;
    eventually("the API server to be back with policies", BOUND, is_served).await
}

/// Another image (the same program under another tag), a variable, and more of a resource, in every StatefulSet
/// of the namespace; a label on every object of ours.
fn policy(stage: &Stage<'_>) -> [Value; 2] {
    let image = stage.world.next_image("flotilla-server");
    let container = "/spec/template/spec/containers/0";
    let patches = format!(
        "[JSONPatch{{op: \"add\", path: \"/metadata/labels/policy\", value: \"seen\"}}] + \
         (object.kind != \"StatefulSet\" ? [] : \
         [JSONPatch{{op: \"replace\", path: \"{container}/image\", value: \"{image}\"}}, \
          JSONPatch{{op: \"replace\", path: \"{container}/resources/requests/cpu\", value: \"30m\"}}] + \
         (object.spec.template.spec.containers[0].env.exists(each, each.name == \"INJECTED\") ? [] : \
         [JSONPatch{{op: \"add\", path: \"{container}/env/0\", value: \
          Object.spec.template.spec.containers.env{{name: \"INJECTED\", value: \"1\"}}}}]))"
    );
    let rules: Vec<Value> = [
        ("apps", "statefulsets"),
        ("", "services"),
        ("", "configmaps"),
        ("policy", "poddisruptionbudgets"),
    ]
    .into_iter()
    .map(|(group, plural)| {
        json!({"apiGroups": [group], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"],
            "resources": [plural]})
    })
    .collect();
    let ours = "has(object.metadata.labels) && 'flotilla.dev/cluster' in object.metadata.labels";
    let selected = json!({"namespaceSelector": {
        "matchLabels": {"kubernetes.io/metadata.name": stage.namespace}}});
    [
        json!({"spec": {
            "failurePolicy": "Fail",
            "reinvocationPolicy": "Never",
            "matchConstraints": {"resourceRules": rules},
            "matchConditions": [{"name": "ours", "expression": ours}],
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": patches}}],
        }}),
        json!({"spec": {"policyName": POLICY, "matchResources": selected}}),
    ]
}

pub(super) async fn policies_that_change_ours_are_lived_with(
    stage: &Stage<'_>,
) -> anyhow::Result<()> {
    let client = stage.world.client.clone();
    served(&client).await?;
    let forget = async || {
        for (api, _) in policies(&client) {
            if api.get_opt(POLICY).await?.is_some() {
                api.delete(POLICY, &DeleteParams::default()).await?;
            }
        }
        Ok::<_, anyhow::Error>(())
    };
    forget().await?;
    for ((api, resource), data) in policies(&client).into_iter().zip(policy(stage)) {
        let object = DynamicObject::new(POLICY, &resource).data(data);
        eventually(resource.kind.clone(), BOUND, async || {
            api.create(&PostParams::default(), &object).await?;
            Ok(())
        })
        .await?;
    }
    let outcome = live_under_it(stage).await;
    forget().await?;
    outcome
}

async fn live_under_it(stage: &Stage<'_>) -> anyhow::Result<()> {
    let services = api(stage, "", "Service", "services");
    let kind = resource("", "v1", "Service", "services");
    let mut probe = DynamicObject::new("probe", &kind)
        .data(json!({"spec": {"ports": [{"name": "x", "port": 80}]}}));
    probe.labels_mut().insert("flotilla.dev/cluster".to_owned(), "probe".to_owned());
    eventually("the policy to be in force", BOUND, async || {
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        let made = services.create(&dry, &probe).await?;
        ensure!(made.labels().contains_key("policy"), "it changed nothing");
        Ok(())
    })
    .await?;

    let cluster = Cluster::healthy_of(stage, 3, 3).await?;
    let set = changed(&cluster, stage).await?;
    let traffic = Traffic::start(&cluster).await?;
    let before = cluster.uids().await?;
    cluster.patch(json!({"spec": {"config": {"log_level": "debug"}}})).await?;
    eventually("all pods to be restarted", BOUND, async || {
        let now = cluster.uids().await?;
        ensure!(before.iter().all(|(name, uid)| now.get(name) != Some(uid)), "not yet");
        Ok(())
    })
    .await?;
    cluster.healthy(3, BOUND).await?;
    for nodes in [5, 3] {
        cluster.scale(nodes).await?;
        let took = cluster.healthy(nodes as usize, BOUND).await?;
        say(format!("    {nodes} nodes after {:.1} s", took.as_secs_f64()));
    }
    traffic.finish_unharmed().await?;
    let now = changed(&cluster, stage).await?;
    ensure!(now.uid() == set.uid(), "a StatefulSet was made anew");

    // The last change: a minute after nothing is missed any more.
    eventually("the disruption budget to let a pod go", BOUND, async || {
        let budget = cluster.api::<PodDisruptionBudget>().get("kv").await?;
        let stay = budget.spec.and_then(|spec| spec.min_available);
        ensure!(stay == Some(IntOrString::Int(2)), "{stay:?} of 3 must stay");
        Ok(())
    })
    .await?;
    // Looks that follow a change are closer to each other.
    elapse(REST / 2).await;
    let generation = cluster.stateful_set(0).await?.metadata.generation;
    let before = stage.world.operator_metrics().await?;
    elapse(REST).await;
    let after = stage.world.operator_metrics().await?;
    let mut writes = super::steady::writes_between(&before, &after);
    writes.remove("leases");
    ensure!(writes.is_empty(), "writes at rest: {writes:?}");
    ensure!(cluster.stateful_set(0).await?.metadata.generation == generation, "it was written");
    Ok(())
}

/// The first StatefulSet, which is as the policy wants it.
async fn changed(cluster: &Cluster<'_>, stage: &Stage<'_>) -> anyhow::Result<StatefulSet> {
    let set = cluster.stateful_set(0).await?;
    let text = serde_json::to_string(&set.spec)?;
    ensure!(text.contains("INJECTED"), "the policy did not reach it: {text}");
    ensure!(text.contains(&stage.world.next_image("flotilla-server")), "{text}");
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_a_cluster_is_taken_by_somebody() {
        let titles: Vec<_> =
            strangers(&small(3, 3)).expect("all").iter().map(Stranger::title).collect();
        let (config, rest): (Vec<_>, Vec<_>) =
            titles.into_iter().partition(|title| title.starts_with("ConfigMap kv-config-"));
        assert_eq!(config.len(), 1);
        let want = [
            "ServiceAccount kv",
            "Service kv-headless",
            "Service kv",
            "Service kv-clients",
            "NetworkPolicy kv",
            "PodDisruptionBudget kv",
            "StatefulSet kv-0",
            "PersistentVolumeClaim data-kv-0-0",
            "Pod kv-0-0",
        ];
        assert_eq!(rest, want);
    }

    #[test]
    fn write_that_changes_nothing_is_one_and_a_controllers_count_is_none() {
        let object = |writers: &[(&str, &str)], version: u32, count: u32| {
            let writers: Vec<_> = writers
                .iter()
                .map(|(manager, part)| json!({"manager": manager, "subresource": part}))
                .collect();
            json!({"metadata": {"generation": 1, "resourceVersion": version.to_string(),
                "managedFields": writers}, "status": {"count": count}})
        };
        let map = |object: Value| [("Service kv".to_owned(), object)].into();
        let (theirs, ours) = (("theirs", ""), ("flotilla-operator", ""));
        let before = object(&[theirs], 1, 0);
        written(&map(before.clone()), &map(before.clone())).expect("the same");
        written(&map(before.clone()), &map(object(&[theirs], 2, 0))).expect_err("written");
        written(&map(before.clone()), &BTreeMap::new()).expect_err("gone");
        let before = without_status(before);
        let counted = without_status(object(&[theirs, ("controller", "status")], 2, 7));
        assert_eq!(counted, before);
        assert_ne!(without_status(object(&[theirs, ours], 2, 0)), before);
    }
}
