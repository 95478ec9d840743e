//! More nodes, and fewer.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{
    cluster::Cluster, columns::stay_true, say::say, stage::Stage, traffic::Traffic,
    wait::eventually,
};

/// For one step of two nodes.
const BOUND: Duration = Duration::from_secs(180);

/// What a cluster is changed to.
#[derive(Clone, Copy)]
enum To {
    Nodes(u32),
    /// Of each region.
    Peers(u32),
}

pub(super) async fn scale_1_3_5_3_is_not_noticed(stage: &Stage<'_>) -> anyhow::Result<()> {
    through(stage, 1, 1, &[To::Nodes(3), To::Peers(3), To::Nodes(5), To::Nodes(3)]).await
}

pub(super) async fn scale_3_5_3_is_not_noticed(stage: &Stage<'_>) -> anyhow::Result<()> {
    through(stage, 3, 3, &[To::Nodes(5), To::Nodes(3)]).await
}

async fn through(stage: &Stage<'_>, first: u32, factor: u32, steps: &[To]) -> anyhow::Result<()> {
    let cluster = Cluster::healthy_of(stage, first, factor).await?;
    let traffic = Traffic::start(&cluster).await?;
    let mut last = first;
    let scaling = async {
        for step in steps {
            match step {
                To::Nodes(nodes) => {
                    last = *nodes;
                    cluster.scale(last).await?;
                }
                To::Peers(peers) => {
                    cluster.patch(json!({"spec": {"replicationFactor": peers}})).await?;
                    eventually(format!("{peers} peers of each region"), BOUND, async || {
                        let words = ["kvctl", "regions", "--all", "--output", "json"];
                        let regions = cluster.exec("kv-0-0", &words).await?;
                        let regions: Vec<Value> = serde_json::from_str(&regions)?;
                        ensure!(!regions.is_empty(), "no regions");
                        for region in &regions {
                            let there = region["peers"].as_array().map_or(0, Vec::len);
                            ensure!(there == *peers as usize, "{region}");
                        }
                        Ok(())
                    })
                    .await?;
                }
            }
            let size = last;
            let took = cluster.healthy(size as usize, BOUND).await?;
            let progress = traffic.progress().await?;
            say(format!(
                "    {size} nodes after {:.1} s, longest gap so far {} ms, {} failures",
                took.as_secs_f64(),
                progress.longest_gap_ms,
                progress.failures,
            ));
            traffic.flows(200, BOUND).await?;
        }
        Ok::<(), anyhow::Error>(())
    };
    tokio::select! {
        scaled = scaling => scaled?,
        lie = stay_true(&cluster) => lie?,
    }
    let last = last as usize;
    let claims = cluster.claims().await?;
    for (name, claim) in &claims {
        let node = name.strip_prefix("data-kv-").and_then(|rest| rest.strip_suffix("-0"));
        let ordinal = node.and_then(|text| text.parse::<usize>().ok());
        let used = ordinal.is_some_and(|ordinal| ordinal < last);
        let marked = claim.annotations().contains_key("flotilla.dev/decommissioned-node-id");
        // `retain` is off: what was decommissioned may be gone, and else says what it is.
        ensure!(used != marked, "{name}: used {used}, marked as decommissioned {marked}");
    }
    say(format!("    volumes: {:?}", claims.keys().collect::<Vec<_>>()));
    traffic.finish_unharmed().await?;
    Ok(())
}

pub(super) async fn scale_in_can_be_cancelled(stage: &Stage<'_>) -> anyhow::Result<()> {
    let cluster = Cluster::healthy_of(stage, 4, 3).await?;
    let before = cluster.node_ids().await?;
    let traffic = Traffic::start(&cluster).await?;
    cluster.scale(3).await?;
    eventually("the scale-in to begin", Duration::from_secs(60), async || {
        let operation = cluster.operation().await?.context("nothing is being done")?;
        ensure!(operation.0 == "ScaleDown", "{operation:?}");
        say(format!("    cancelled at the step {}", operation.1));
        Ok(())
    })
    .await?;
    cluster.scale(4).await?;
    cluster.healthy(4, BOUND).await?;
    let after = cluster.node_ids().await?;
    for (pod, id) in before.iter().filter(|(pod, _)| *pod != "kv-3-0") {
        ensure!(after.get(pod) == Some(id), "{pod} was node {id}, now {after:?}");
    }
    say(format!("    kv-3-0 was node {:?}, is {:?}", before.get("kv-3-0"), after.get("kv-3-0")));
    traffic.finish_unharmed().await?;
    Ok(())
}

pub(super) async fn scale_in_with_a_pending_pod_converges(stage: &Stage<'_>) -> anyhow::Result<()> {
    let cluster = Cluster::healthy_of(stage, 3, 3).await?;
    let traffic = Traffic::start(&cluster).await?;
    let full = Cordon::all(stage).await?;
    let outcome = async {
        // A pod that never ran, whose node never joined.
        cluster.scale(4).await?;
        pending(&cluster, "kv-3-0").await?;
        cluster.scale(3).await?;
        cluster.healthy(3, BOUND).await?;
        Ok::<(), anyhow::Error>(())
    }
    .await;
    full.lift(stage).await?;
    outcome?;

    // A pod that ran, and finds no place any more.
    cluster.scale(4).await?;
    cluster.healthy(4, BOUND).await?;
    let full = Cordon::all(stage).await?;
    let outcome = async {
        cluster.api::<Pod>().delete("kv-3-0", &Default::default()).await?;
        pending(&cluster, "kv-3-0").await?;
        cluster.scale(3).await?;
        cluster.healthy(3, BOUND).await?;
        Ok::<(), anyhow::Error>(())
    }
    .await;
    full.lift(stage).await?;
    outcome?;
    traffic.finish_unharmed().await?;
    Ok(())
}

pub(super) async fn pending(cluster: &Cluster<'_>, pod: &str) -> anyhow::Result<()> {
    eventually(format!("{pod} to be pending"), Duration::from_secs(60), async || {
        let pod = cluster.api::<Pod>().get(pod).await?;
        let phase = pod.status.as_ref().and_then(|status| status.phase.clone());
        ensure!(pod.metadata.deletion_timestamp.is_none(), "the old one is still ending");
        ensure!(phase.as_deref() == Some("Pending"), "{phase:?}");
        ensure!(pod.spec.is_some_and(|spec| spec.node_name.is_none()), "it has a place");
        Ok(())
    })
    .await
}

/// Machines that take no further pods.
pub(super) struct Cordon(Vec<String>);

impl Cordon {
    /// All that would.
    pub(super) async fn all(stage: &Stage<'_>) -> anyhow::Result<Self> {
        let nodes: Api<Node> = Api::all(stage.world.client.clone());
        let mut names = Vec::new();
        for node in nodes.list(&ListParams::default()).await? {
            let unschedulable = node.spec.as_ref().and_then(|spec| spec.unschedulable);
            if unschedulable != Some(true) {
                set(&nodes, &node.name_any(), true).await?;
                names.push(node.name_any());
            }
        }
        Ok(Self(names))
    }

    pub(super) async fn lift(self, stage: &Stage<'_>) -> anyhow::Result<()> {
        let nodes: Api<Node> = Api::all(stage.world.client.clone());
        for name in &self.0 {
            set(&nodes, name, false).await?;
        }
        Ok(())
    }
}

async fn set(nodes: &Api<Node>, name: &str, unschedulable: bool) -> anyhow::Result<()> {
    let patch = Patch::Merge(json!({"spec": {"unschedulable": unschedulable}}));
    nodes.patch(name, &PatchParams::default(), &patch).await?;
    Ok(())
}
