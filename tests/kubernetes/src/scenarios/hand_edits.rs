//! Somebody edits what belongs to the operator.

use std::time::Duration;

use anyhow::ensure;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, Service},
    policy::v1::PodDisruptionBudget,
};
use kube::{
    ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::{cluster::Cluster, stage::Stage, traffic::Traffic, wait::eventually};

const BOUND: Duration = Duration::from_secs(120);

pub(super) async fn stateful_set_is_put_back(stage: &Stage<'_>) -> anyhow::Result<()> {
    let cluster = Cluster::healthy_of(stage, 3, 3).await?;
    let before = cluster.uids().await?;
    let traffic = Traffic::start(&cluster).await?;
    let sets = cluster.api::<StatefulSet>();
    let edit = PatchParams::default();

    let container = json!({"name": "server", "env": [{"name": "EDITED", "value": "by hand"}]});
    let template = json!({"spec": {"template": {"spec": {"containers": [container]}}}});
    sets.patch("kv-0", &edit, &Patch::Strategic(template)).await?;
    eventually("the template to be put back", BOUND, async || {
        let set = cluster.stateful_set(0).await?;
        let text = serde_json::to_string(&set.spec)?;
        ensure!(!text.contains("EDITED"), "the edit is still there");
        Ok(())
    })
    .await?;
    ensure!(cluster.uids().await? == before, "an edit that was undone replaced pods");

    sets.patch("kv-0", &edit, &Patch::Merge(json!({"spec": {"replicas": 2}}))).await?;
    eventually("the number of pods to be put back", BOUND, async || {
        let replicas = cluster.stateful_set(0).await?.spec.and_then(|spec| spec.replicas);
        ensure!(replicas == Some(1), "{replicas:?}");
        ensure!(cluster.uids().await? == before, "other pods");
        Ok(())
    })
    .await?;
    cluster.healthy(3, BOUND).await?;
    ensure!(cluster.uids().await? == before, "the pods are not those of before");

    let config = cluster.config_map().await?.name_any();
    cluster.api::<ConfigMap>().delete(&config, &Default::default()).await?;
    cluster.api::<Service>().delete("kv", &Default::default()).await?;
    cluster.api::<PodDisruptionBudget>().delete("kv", &Default::default()).await?;
    eventually("what was deleted to be made again", BOUND, async || {
        cluster.api::<ConfigMap>().get(&config).await?;
        cluster.api::<Service>().get("kv").await?;
        cluster.api::<PodDisruptionBudget>().get("kv").await?;
        Ok(())
    })
    .await?;
    cluster.healthy(3, BOUND).await?;
    ensure!(cluster.uids().await? == before, "that cost pods");
    // Without the Service its virtual IP was gone for a moment: some calls may have failed.
    traffic.finish().await?;
    Ok(())
}
