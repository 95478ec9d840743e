//! Among other people's things: objects of our names, and policies that change what we make.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, ensure};
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

/// What others might have made under names of a cluster `kv`: group, kind, plural, and the object.
fn strangers() -> Vec<(&'static str, &'static str, &'static str, Value)> {
    let labels = json!({"app": "theirs"});
    let pod = json!({"metadata": {"labels": labels}, "spec": {
        "containers": [{"name": "theirs", "image": "localhost/theirs:1"}]}});
    vec![
        ("", "ServiceAccount", "serviceaccounts", json!({})),
        (
            "",
            "Service",
            "services",
            json!({"spec": {"selector": labels, "ports": [{"name": "x", "port": 80}]}}),
        ),
        (
            "networking.k8s.io",
            "NetworkPolicy",
            "networkpolicies",
            json!({"spec": {"podSelector": {"matchLabels": labels}}}),
        ),
        (
            "policy",
            "PodDisruptionBudget",
            "poddisruptionbudgets",
            json!({"spec": {"minAvailable": 1, "selector": {"matchLabels": labels}}}),
        ),
        (
            "apps",
            "StatefulSet",
            "statefulsets",
            json!({"spec": {"replicas": 0, "serviceName": "theirs",
                "selector": {"matchLabels": labels}, "template": pod}}),
        ),
    ]
}

/// The name of a cluster's objects; of the StatefulSets that of the first.
fn name_of(kind: &str) -> &'static str {
    if kind == "StatefulSet" { "kv-0" } else { "kv" }
}

fn resource(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}

fn api(stage: &Stage<'_>, group: &str, kind: &str, plural: &str) -> Api<DynamicObject> {
    let client = stage.world.client.clone();
    Api::namespaced_with(client, &stage.namespace, &resource(group, "v1", kind, plural))
}

/// Everything of theirs as it is, but for what their own controllers say of it.
async fn as_they_are(stage: &Stage<'_>) -> anyhow::Result<BTreeMap<&'static str, Value>> {
    let mut all = BTreeMap::new();
    for (group, kind, plural, _) in strangers() {
        let object =
            api(stage, group, kind, plural).get(name_of(kind)).await.with_context(|| kind)?;
        let mut object = serde_json::to_value(object)?;
        object["status"] = Value::Null;
        for field in ["managedFields", "resourceVersion"] {
            object["metadata"][field] = Value::Null;
        }
        all.insert(kind, object);
    }
    Ok(all)
}

pub(super) async fn objects_of_others_are_left_alone(stage: &Stage<'_>) -> anyhow::Result<()> {
    for (group, kind, plural, object) in strangers() {
        let made =
            DynamicObject::new(name_of(kind), &resource(group, "v1", kind, plural)).data(object);
        let api = api(stage, group, kind, plural);
        api.create(&PostParams::default(), &made).await.with_context(|| kind)?;
    }
    let before = as_they_are(stage).await?;
    // Without a budget of its own, the one that is there is nobody's to delete.
    let mut spec = small(3, 3);
    spec["podDisruptionBudget"] = json!(false);
    let cluster = Cluster::create(stage, "kv", spec).await?;
    let degraded = cluster.becomes("Degraded", "True", BOUND).await?;
    ensure!(degraded.reason == "NameTaken", "{degraded}");
    say(format!("    beside others: {degraded}"));
    throughout("others' things", WATCHED, async || {
        ensure!(as_they_are(stage).await? == before, "they were changed");
        ensure!(cluster.pods().await?.is_empty(), "a pod was made");
        Ok(())
    })
    .await?;
    // It goes, and takes nothing of theirs along.
    cluster.delete().await?;
    throughout("others' things", WATCHED, async || {
        ensure!(as_they_are(stage).await? == before, "they were changed");
        Ok(())
    })
    .await?;

    // One by one they go, and the cluster begins by itself with the last.
    let cluster = Cluster::create(stage, "kv", small(3, 3)).await?;
    for (group, kind, plural, _) in strangers() {
        let degraded = eventually(format!("{kind} to be named"), BOUND, async || {
            let degraded = cluster.condition("Degraded").await?;
            ensure!(degraded.reason == "NameTaken", "{degraded}");
            ensure!(degraded.message.contains(&format!("{kind} kv")), "{degraded}");
            Ok(degraded)
        });
        degraded.await?;
        api(stage, group, kind, plural).delete(name_of(kind), &DeleteParams::default()).await?;
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
        ensure!(accounts.get("default").await?.data == account.data, "it was changed");
        ensure!(accounts.get("default").await?.uid() == account.uid(), "it was deleted");
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
