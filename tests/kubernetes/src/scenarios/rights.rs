//! What the operator may do, beside what it does.

use std::{collections::BTreeSet, time::Duration};

use anyhow::ensure;
use k8s_openapi::api::{
    core::v1::{ConfigMap, PersistentVolumeClaim, Pod},
    networking::v1::NetworkPolicy,
    rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding},
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, PostParams},
};
use serde_json::json;

use crate::{
    cluster::{Cluster, small},
    recorder::{Recording, Right},
    say::say,
    stage::Stage,
    wait::eventually,
    world::{OPERATOR, SYSTEM},
};

const BOUND: Duration = Duration::from_secs(180);
const RECORDER: &str = "e2e-recorder";

/// What this scenario cannot make the operator use, and why it may all the same.
const RESERVE: &[(&str, &str)] = &[
    ("servicemonitors", "only where the operator of Prometheus is installed"),
    (
        "kvclusters/finalizers",
        "asked for by blockOwnerDeletion, where an admission plug-in checks it",
    ),
    ("update ", "an object that apply cannot change is replaced"),
    ("delete ", "a child that the spec no longer asks for, of any kind"),
    ("create leases", "the lease is there from earlier"),
    ("get customresourcedefinitions", "asked about monitors only where one is wanted"),
    ("patch persistentvolumes", "only where what is on a volume is to be kept"),
];

pub(super) async fn operator_may_do_what_it_does_and_no_more(
    stage: &Stage<'_>,
) -> anyhow::Result<()> {
    let recorder = start(stage).await?;
    let outcome = async {
        live(stage).await?;
        let text = stage.world.ask_pod(SYSTEM, RECORDER, 8001, "/recorded").await?;
        Ok::<Recording, anyhow::Error>(serde_json::from_str(&text)?)
    }
    .await;
    stage.world.restore().await?;
    recorder.delete(RECORDER, &DeleteParams::default()).await?;
    let recording = outcome?;
    let allowed = allowed(stage).await?;

    ensure!(recording.refused.is_empty(), "done without the right to: {:#?}", recording.refused);
    ensure!(recording.used.len() > 20, "too little was recorded: {:#?}", recording.used);
    // What all may do is not the operator's: discovery and the version.
    let surplus: Vec<&Right> =
        recording.used.iter().filter(|right| !allowed.contains(right)).collect();
    ensure!(surplus.is_empty(), "used by a right that is not the operator's own: {surplus:#?}");
    let idle: Vec<String> = allowed.difference(&recording.used).map(ToString::to_string).collect();
    let (reserve, unused): (Vec<_>, Vec<_>) =
        idle.into_iter().partition(|right| RESERVE.iter().any(|(what, _)| right.contains(what)));
    say(format!(
        "    {} rights, {} used, in reserve: {reserve:?}",
        allowed.len(),
        recording.used.len()
    ));
    ensure!(unused.is_empty(), "allowed, and of no use: {unused:#?}");
    Ok(())
}

/// A cluster's life, with something of everything.
async fn live(stage: &Stage<'_>) -> anyhow::Result<()> {
    let cluster = Cluster::create(stage, "kv", small(3, 3)).await?;
    cluster.healthy(3, BOUND).await?;
    cluster.scale(4).await?;
    cluster.healthy(4, BOUND).await?;
    cluster.scale(3).await?;
    cluster.healthy(3, BOUND).await?;
    let before = cluster.uids().await?;
    cluster.patch(json!({"spec": {"restartedAt": "2001-01-01T00:00:00Z"}})).await?;
    eventually("a restart of all", BOUND, async || {
        let now = cluster.uids().await?;
        let old = before.iter().filter(|(pod, uid)| now.get(*pod) == Some(*uid)).count();
        ensure!(old == 0, "{old} are to come");
        Ok(())
    })
    .await?;
    cluster.healthy(3, BOUND).await?;
    // Grows where the class of volumes can; asked about in any case.
    cluster.patch(json!({"spec": {"storage": {"size": "300Mi"}}})).await?;
    cluster.patch(json!({"spec": {"podDisruptionBudget": false}})).await?;
    let none = DeleteParams::default();
    let config = cluster.config_map().await?.name_any();
    cluster.api::<ConfigMap>().delete(&config, &none).await?;
    cluster.api::<NetworkPolicy>().delete("kv", &none).await?;
    eventually("what was deleted to be back", BOUND, async || {
        cluster.api::<ConfigMap>().get(&config).await?;
        cluster.api::<NetworkPolicy>().get("kv").await?;
        Ok(())
    })
    .await?;
    cluster.api::<PersistentVolumeClaim>().delete("data-kv-1-0", &none).await?;
    cluster.delete_pod("kv-1-0", None).await?;
    eventually("the three to be well", BOUND, async || {
        let ready =
            cluster.pods().await?.iter().filter(|pod| crate::cluster::is_ready(pod)).count();
        ensure!(ready == 3, "{ready} are ready");
        let members = cluster.node_ids().await?.len();
        ensure!(members == 3, "{members} members");
        Ok(())
    })
    .await?;
    cluster.delete().await
}

/// A pod with the operator's account, through which the operator then talks to the API server.
async fn start(stage: &Stage<'_>) -> anyhow::Result<Api<Pod>> {
    let pods: Api<Pod> = Api::namespaced(stage.world.client.clone(), SYSTEM);
    // Of an earlier run.
    let _ = pods
        .delete(RECORDER, &DeleteParams { grace_period_seconds: Some(0), ..Default::default() })
        .await;
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": RECORDER, "labels": {"app": RECORDER}},
        "spec": {
            "serviceAccountName": OPERATOR,
            "terminationGracePeriodSeconds": 1,
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [{
                "name": "recorder",
                "image": stage.world.image("flotilla-tests"),
                "imagePullPolicy": "IfNotPresent",
                "command": ["flotilla-recorder"],
                "securityContext": {
                    "allowPrivilegeEscalation": false,
                    "readOnlyRootFilesystem": true,
                    "capabilities": {"drop": ["ALL"]},
                },
            }],
        },
    }))?;
    eventually("a place for the recorder", BOUND, async || {
        Ok(pods.create(&PostParams::default(), &pod).await?)
    })
    .await?;
    let address = eventually("the recorder", BOUND, async || {
        let pod = pods.get(RECORDER).await?;
        ensure!(crate::cluster::is_ready(&pod), "it is not ready");
        let address = pod.status.and_then(|status| status.pod_ip);
        address.ok_or_else(|| anyhow::anyhow!("it has no address"))
    })
    .await?;
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "recorder",
        "clusters": [{"name": "recorder", "cluster": {"server": format!("http://{address}:8001")}}],
        "users": [{"name": "recorder", "user": {}}],
        "contexts": [{"name": "recorder", "context": {
            "cluster": "recorder", "user": "recorder", "namespace": SYSTEM,
        }}],
    });
    let maps: Api<ConfigMap> = Api::namespaced(stage.world.client.clone(), SYSTEM);
    let _ = maps.delete(RECORDER, &DeleteParams::default()).await;
    let map: ConfigMap = serde_json::from_value(json!({
        "metadata": {"name": RECORDER}, "data": {"config": config.to_string()},
    }))?;
    maps.create(&PostParams::default(), &map).await?;
    let container = json!({
        "name": "operator",
        "env": [{"name": "KUBECONFIG", "value": "/recorder/config"}],
        "volumeMounts": [{"name": "recorder", "mountPath": "/recorder"}],
    });
    let volume = json!({"name": "recorder", "configMap": {"name": RECORDER}});
    let spec = json!({"containers": [container], "volumes": [volume]});
    stage.world.change_operator(json!({"spec": {"template": {"spec": spec}}})).await?;
    Ok(pods)
}

/// Everything that the roles bound to the operator's account allow.
async fn allowed(stage: &Stage<'_>) -> anyhow::Result<BTreeSet<Right>> {
    let client = &stage.world.client;
    let ours = |subjects: &Option<Vec<k8s_openapi::api::rbac::v1::Subject>>| {
        subjects.iter().flatten().any(|one| {
            one.kind == "ServiceAccount"
                && one.name == OPERATOR
                && one.namespace.as_deref() == Some(SYSTEM)
        })
    };
    let mut rules: Vec<PolicyRule> = Vec::new();
    let everywhere: Api<ClusterRoleBinding> = Api::all(client.clone());
    let cluster_roles: Api<ClusterRole> = Api::all(client.clone());
    for binding in everywhere.list(&ListParams::default()).await? {
        if ours(&binding.subjects) {
            let role = cluster_roles.get(&binding.role_ref.name).await?;
            rules.extend(role.rules.into_iter().flatten());
        }
    }
    let here: Api<RoleBinding> = Api::namespaced(client.clone(), SYSTEM);
    let roles: Api<Role> = Api::namespaced(client.clone(), SYSTEM);
    for binding in here.list(&ListParams::default()).await? {
        if ours(&binding.subjects) && binding.role_ref.kind == "Role" {
            rules.extend(roles.get(&binding.role_ref.name).await?.rules.into_iter().flatten());
        }
    }
    let mut rights = BTreeSet::new();
    for rule in rules {
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                for verb in &rule.verbs {
                    rights.insert(Right {
                        verb: verb.clone(),
                        resource: resource.clone(),
                        group: group.clone(),
                    });
                }
            }
        }
    }
    Ok(rights)
}
