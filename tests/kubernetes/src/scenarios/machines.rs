//! Machines of Kubernetes that fail while a cluster runs on them.

use std::time::Duration;

use anyhow::ensure;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt as _, api::ListParams};

use super::Skip;
use crate::{
    cluster::Cluster,
    kubernetes_node::KubernetesNode,
    say::say,
    stage::Stage,
    traffic::{Traffic, Verdict},
    wait::eventually,
};

/// Kubernetes notices a dead machine after some forty seconds.
const NOTICED: Duration = Duration::from_secs(120);
const BOUND: Duration = Duration::from_secs(240);
/// By then the others have elected and answer every key.
const RECOVERY_MAX: Duration = Duration::from_secs(20);

pub(super) async fn killed_machine_loses_nothing(stage: &Stage<'_>) -> anyhow::Result<()> {
    let cluster = Cluster::healthy_of(stage, 3, 3).await?;
    let traffic = Traffic::start(&cluster).await?;
    let machine = victim(&cluster).await?;
    say(format!("    power off: {}", machine.name()));
    machine.kill().await?;
    let outcome = async {
        traffic.flows(200, RECOVERY_MAX).await?;
        machine.noticed(&stage.world.client, false, NOTICED).await?;
        eventually("Degraded to say so", BOUND, async || {
            let degraded = cluster.condition("Degraded").await?;
            ensure!(degraded.status == "True", "{degraded}");
            Ok(())
        })
        .await?;
        let available = cluster.condition("Available").await?;
        ensure!(available.status == "True", "{available}");
        traffic.flows(200, RECOVERY_MAX).await
    }
    .await;
    machine.start().await?;
    machine.noticed(&stage.world.client, true, BOUND).await?;
    outcome?;
    cluster.healthy(3, BOUND).await?;
    judged(traffic.finish().await?)
}

pub(super) async fn frozen_machine_loses_nothing(stage: &Stage<'_>) -> anyhow::Result<()> {
    let cluster = Cluster::healthy_of(stage, 3, 3).await?;
    let traffic = Traffic::start(&cluster).await?;
    let machine = victim(&cluster).await?;
    say(format!("    frozen: {}", machine.name()));
    machine.freeze().await?;
    let outcome = traffic.flows(500, RECOVERY_MAX).await;
    machine.thaw().await?;
    outcome?;
    machine.noticed(&stage.world.client, true, BOUND).await?;
    traffic.flows(200, BOUND).await?;
    cluster.healthy(3, BOUND).await?;
    judged(traffic.finish().await?)
}

pub(super) async fn cut_off_machine_loses_nothing(stage: &Stage<'_>) -> anyhow::Result<()> {
    let cluster = Cluster::healthy_of(stage, 3, 3).await?;
    let traffic = Traffic::start(&cluster).await?;
    let machine = victim(&cluster).await?;
    say(format!("    cut off: {}", machine.name()));
    machine.cut_off().await?;
    let outcome = async {
        traffic.flows(500, RECOVERY_MAX).await?;
        eventually("Degraded to say so", BOUND, async || {
            let degraded = cluster.condition("Degraded").await?;
            ensure!(degraded.status == "True", "{degraded}");
            Ok(())
        })
        .await
    }
    .await;
    machine.join_again().await?;
    outcome?;
    traffic.flows(200, BOUND).await?;
    cluster.healthy(3, BOUND).await?;
    judged(traffic.finish().await?)
}

/// No promise was broken (that was checked); what failed is at most what was under way.
fn judged(verdict: Verdict) -> anyhow::Result<()> {
    let progress = &verdict.progress;
    ensure!(progress.failures == progress.unknown, "more than unknown: {:#?}", progress.errors);
    let gap = Duration::from_millis(progress.longest_gap_ms);
    ensure!(gap < RECOVERY_MAX, "a client waited {gap:?} for an answer");
    Ok(())
}

/// A machine with a node of the cluster and neither the client nor the operator, the one whose node
/// leads most.
async fn victim(cluster: &Cluster<'_>) -> anyhow::Result<KubernetesNode> {
    let stage = cluster.stage;
    let place = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let clients: Api<Pod> = Api::namespaced(stage.world.client.clone(), &stage.clients);
    let mut spared: Vec<_> =
        clients.list(&ListParams::default()).await?.items.iter().filter_map(place).collect();
    spared.extend(stage.world.operator_pods().await?.iter().filter_map(place));
    let busiest = cluster.busiest().await?;
    let mut pods = cluster.pods().await?;
    pods.sort_by_key(|pod| pod.name_any() != busiest);
    for pod in pods {
        if place(&pod).is_some_and(|place| !spared.contains(&place))
            && let Some(node) = KubernetesNode::of(&pod).await
        {
            return Ok(node);
        }
    }
    Err(Skip("no machine here can be taken away: none is a container of Docker".to_owned()).into())
}
