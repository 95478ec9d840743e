//! Pods and volumes that are taken away.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt as _;

use crate::{
    cluster::Cluster,
    say::say,
    stage::Stage,
    traffic::{GAP_MAX, Traffic},
};

const BOUND: Duration = Duration::from_secs(180);

pub(super) async fn deleted_pod_is_not_noticed(stage: &Stage<'_>) -> anyhow::Result<()> {
    let cluster = Cluster::healthy_of(stage, 3, 3).await?;
    let ids = cluster.node_ids().await?;

    let traffic = Traffic::start(&cluster).await?;
    let victim = cluster.busiest().await?;
    cluster.delete_pod(&victim, None).await?;
    cluster.healthy(3, BOUND).await?;
    traffic.flows(100, BOUND).await?;
    let before = traffic.progress().await?;
    say(format!(
        "    {victim}, which led, was deleted and is back: {} failed, longest gap {} ms",
        before.failures, before.longest_gap_ms
    ));

    // Now without time to say goodbye: what was under way may have no answer, which the client tells.
    let victim = cluster.busiest().await?;
    cluster.delete_pod(&victim, Some(0)).await?;
    cluster.healthy(3, BOUND).await?;
    traffic.flows(100, BOUND).await?;
    say(format!("    {victim}, which led, was killed and is back"));
    ensure!(cluster.node_ids().await? == ids, "a node with its volume is the same node");

    let verdict = traffic.finish().await?;
    ensure!(before.failures == 0, "a pod that was told to end: {:#?}", before.errors);
    ensure!(Duration::from_millis(before.longest_gap_ms) < GAP_MAX, "{before:?}");
    let progress = &verdict.progress;
    ensure!(progress.failures == progress.unknown, "more than unknown: {:#?}", progress.errors);
    Ok(())
}

pub(super) async fn lost_volume_is_replaced(stage: &Stage<'_>) -> anyhow::Result<()> {
    let cluster = Cluster::healthy_of(stage, 3, 3).await?;
    let ids = cluster.node_ids().await?;
    let traffic = Traffic::start(&cluster).await?;
    let victim = cluster.busiest().await?;

    let (pods, claims) = (cluster.api::<Pod>(), cluster.api::<PersistentVolumeClaim>());
    let claim = format!("data-{victim}");
    let before = claims.get(&claim).await?.uid();
    let pod = pods.get(&victim).await?.uid();
    // The claim goes when the last pod that uses it does.
    claims.delete(&claim, &Default::default()).await?;
    pods.delete(&victim, &Default::default()).await?;
    cluster.replaced(&victim, pod.as_deref(), BOUND).await?;
    cluster.healthy(3, BOUND).await?;

    let after = claims.get(&claim).await?.uid();
    ensure!(after != before, "{claim} was not lost");
    let now = cluster.node_ids().await?;
    for (pod, id) in &ids {
        let now = now.get(pod).with_context(|| format!("{pod} has no node"))?;
        ensure!((now == id) == (*pod != victim), "{pod} was node {id}, is {now}");
    }
    say(format!("    {victim} lost its volume and is back as another node: {now:?}"));
    traffic.flows(100, BOUND).await?;
    traffic.finish_unharmed().await?;
    Ok(())
}
