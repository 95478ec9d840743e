//! The end of a cluster, and what comes after it.

use std::time::Duration;

use anyhow::ensure;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use serde_json::json;

use crate::{
    cluster::{Cluster, small},
    exposition::Sample,
    say::say,
    stage::Stage,
    traffic::Traffic,
    wait::eventually,
};

const BOUND: Duration = Duration::from_secs(180);
const ADOPT: &str = "flotilla.dev/adopt-cluster-id";

pub(super) async fn clusters_of_one_name_do_not_share_data(
    stage: &Stage<'_>,
) -> anyhow::Result<()> {
    let mut spec = small(3, 3);
    spec["storage"]["retain"] = json!(true);
    let cluster = Cluster::create(stage, "kv", spec.clone()).await?;
    cluster.healthy(3, BOUND).await?;
    cluster.exec("kv-0-0", &["kvctl", "put", "who", "the first"]).await?;
    let id = cluster.status().await?["clusterId"].as_str().unwrap_or_default().to_owned();
    end(&cluster).await?;
    ensure!(cluster.claims().await?.len() == 3, "volumes that are to be kept were deleted");

    // The same name, and other volumes than its own.
    let cluster = Cluster::create(stage, "kv", spec.clone()).await?;
    let degraded = eventually("the volumes to be refused", BOUND, async || {
        let degraded = cluster.condition("Degraded").await?;
        ensure!(degraded.status == "True", "{degraded}");
        ensure!(degraded.reason == "ForeignVolume", "{degraded}");
        Ok(degraded)
    })
    .await?;
    say(format!("    re-created beside old volumes: {degraded}"));

    // Told to, it takes them over.
    cluster.patch(json!({"metadata": {"annotations": {ADOPT: id}}})).await?;
    cluster.healthy(3, BOUND).await?;
    let who = cluster.exec("kv-0-0", &["kvctl", "get", "who"]).await?;
    ensure!(who.contains("the first"), "adopted volumes say {who}");
    end(&cluster).await?;

    // Without volumes it is another cluster.
    for name in cluster.claims().await?.keys() {
        cluster.api::<PersistentVolumeClaim>().delete(name, &Default::default()).await?;
    }
    eventually("the volumes to go", BOUND, async || {
        ensure!(cluster.claims().await?.is_empty(), "still there");
        Ok(())
    })
    .await?;
    let cluster = Cluster::create(stage, "kv", small(3, 3)).await?;
    cluster.healthy(3, BOUND).await?;
    let who = cluster.exec("kv-0-0", &["kvctl", "get", "who"]).await;
    ensure!(who.is_err(), "an empty cluster says {who:?}");
    end(&cluster).await?;
    eventually("volumes that are not to be kept to go", BOUND, async || {
        ensure!(cluster.claims().await?.is_empty(), "still there");
        Ok(())
    })
    .await
}

async fn end(cluster: &Cluster<'_>) -> anyhow::Result<()> {
    cluster.delete().await?;
    eventually("the pods to go", BOUND, async || {
        ensure!(cluster.object().await.is_err(), "the object is still there");
        let pods = cluster.uids().await?;
        ensure!(pods.is_empty(), "{pods:?}");
        ensure!(cluster.stateful_set(0).await.is_err(), "a StatefulSet is still there");
        Ok(())
    })
    .await?;
    // Or alerts about it would fire for ever.
    eventually("the operator to show it no more", BOUND, async || {
        let samples = cluster.stage.world.operator_metrics().await?;
        let of = |sample: &Sample, label| sample.labels.get(label).cloned().unwrap_or_default();
        let shown = samples.iter().find(|sample| {
            of(sample, "cluster") == cluster.name
                && of(sample, "namespace") == cluster.stage.namespace
        });
        ensure!(shown.is_none(), "{shown:?}");
        Ok(())
    })
    .await
}

pub(super) async fn stopped_cluster_keeps_its_data(stage: &Stage<'_>) -> anyhow::Result<()> {
    let cluster = Cluster::healthy_of(stage, 3, 3).await?;
    cluster.exec("kv-0-0", &["kvctl", "put", "who", "still me"]).await?;
    let ids = cluster.node_ids().await?;
    cluster.patch(json!({"spec": {"stopped": true}})).await?;
    cluster.becomes("Stopped", "True", BOUND).await?;
    eventually("the pods to go", BOUND, async || {
        ensure!(cluster.pods().await?.is_empty(), "there are pods");
        Ok(())
    })
    .await?;
    ensure!(cluster.claims().await?.len() == 3, "volumes went with the pods");
    cluster.patch(json!({"spec": {"stopped": false}})).await?;
    cluster.healthy(3, BOUND).await?;
    ensure!(cluster.node_ids().await? == ids, "other nodes");
    let who = cluster.exec("kv-1-0", &["kvctl", "get", "who"]).await?;
    ensure!(who.contains("still me"), "{who}");

    // Paused, a pod that is gone comes back, and nothing of the spec is acted on.
    cluster.patch(json!({"spec": {"paused": true}})).await?;
    cluster.becomes("ReconciliationPaused", "True", BOUND).await?;
    let before = cluster.uids().await?;
    cluster.scale(4).await?;
    crate::wait::throughout("the pause", Duration::from_secs(10), async || {
        ensure!(cluster.uids().await? == before, "pods changed");
        Ok(())
    })
    .await?;
    let traffic = Traffic::start(&cluster).await?;
    cluster.patch(json!({"spec": {"paused": false}})).await?;
    cluster.healthy(4, BOUND).await?;
    traffic.finish_unharmed().await?;
    Ok(())
}
