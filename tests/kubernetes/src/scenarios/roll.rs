//! Restarts of all nodes, one after the other.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::scale::{Cordon, pending};
use crate::{
    cluster::{Cluster, is_ready},
    columns::stay_true,
    say::say,
    stage::Stage,
    traffic::Traffic,
    wait::{eventually, throughout},
};

/// For three nodes.
const BOUND: Duration = Duration::from_secs(240);
/// The longest wait while nodes are restarted in good order: hand-overs take a tenth of that, and a leader
/// that is left without a node it reaches makes everybody wait longer.
const GAP_MAX: Duration = Duration::from_secs(1);
/// How long something must stay as it is to count as standing still.
const STILL: Duration = Duration::from_secs(15);

pub(super) async fn changed_config_rolls_unnoticed(stage: &Stage<'_>) -> anyhow::Result<()> {
    let cluster = Cluster::healthy_of(stage, 3, 3).await?;
    let traffic = Traffic::start(&cluster).await?;
    rolls(&cluster, json!({"spec": {"config": {"log_level": "info"}}})).await?;
    let config = cluster.config_map().await?;
    let text = config.data.unwrap_or_default().remove("flotilla.yaml").unwrap_or_default();
    ensure!(text.contains("log_level"), "{text}");
    traffic.finish_within(GAP_MAX).await?;
    Ok(())
}

pub(super) async fn image_upgrade_is_not_noticed(stage: &Stage<'_>) -> anyhow::Result<()> {
    let cluster = Cluster::healthy_of(stage, 3, 3).await?;
    let traffic = Traffic::start(&cluster).await?;
    for image in [stage.world.next_image("flotilla-server"), stage.world.image("flotilla-server")] {
        rolls(&cluster, json!({"spec": {"image": image}})).await?;
        for pod in cluster.pods().await? {
            ensure!(image_of(&pod) == Some(image.as_str()), "{:?}", image_of(&pod));
        }
    }
    traffic.finish_within(GAP_MAX).await?;
    Ok(())
}

/// Changes the spec, and sees every pod replaced with never more than one of them missing.
async fn rolls(cluster: &Cluster<'_>, patch: Value) -> anyhow::Result<()> {
    let before = cluster.uids().await?;
    let began = Instant::now();
    cluster.patch(patch).await?;
    let one_at_a_time = throughout("two of three nodes ready", BOUND, async || {
        let pods = cluster.pods().await?;
        let ready = pods.iter().filter(|pod| is_ready(pod)).count();
        ensure!(ready + 1 >= before.len(), "{ready} are ready");
        Ok(())
    });
    let rolled = async {
        eventually("every pod to be another one", BOUND, async || {
            let now = cluster.uids().await?;
            let old: Vec<_> =
                before.iter().filter(|(pod, uid)| now.get(*pod) == Some(*uid)).collect();
            ensure!(old.is_empty() && now.len() == before.len(), "still there: {old:?}");
            Ok(())
        })
        .await?;
        cluster.healthy(before.len(), BOUND).await
    };
    tokio::select! {
        rolled = rolled => rolled.map(drop)?,
        broken = one_at_a_time => { broken?; bail!("the roll took longer than {BOUND:?}"); }
        lie = stay_true(cluster) => lie?,
    }
    say(format!("    rolled in {:.1} s", began.elapsed().as_secs_f64()));
    Ok(())
}

pub(super) async fn broken_image_stops_after_one_pod_and_heals(
    stage: &Stage<'_>,
) -> anyhow::Result<()> {
    let cluster = Cluster::healthy_of(stage, 3, 3).await?;
    let before = cluster.uids().await?;
    let traffic = Traffic::start(&cluster).await?;
    cluster.patch(json!({"spec": {"image": "localhost/flotilla-server:no-such-tag"}})).await?;

    let degraded = eventually("Degraded to say why", BOUND, async || {
        let degraded = cluster.condition("Degraded").await?;
        ensure!(degraded.status == "True", "Degraded is {degraded}");
        ensure!(degraded.message.contains("kv-"), "it names no pod: {degraded}");
        let told = ["image", "Image"].iter().any(|word| degraded.message.contains(word));
        ensure!(told, "it does not tell of the image: {degraded}");
        Ok(degraded)
    })
    .await?;
    say(format!("    Degraded: {degraded}"));
    throughout("two pods left alone", STILL, async || {
        let changed = changed(&before, &cluster.uids().await?);
        ensure!(changed.len() == 1, "{changed:?} were replaced");
        Ok(())
    })
    .await?;
    let available = cluster.condition("Available").await?;
    ensure!(available.status == "True", "two of three nodes serve, yet {available}");

    cluster.patch(json!({"spec": {"image": null}})).await?;
    cluster.healthy(3, BOUND).await?;
    let replaced = changed(&before, &cluster.uids().await?);
    ensure!(replaced.len() == 1, "putting it back replaced {replaced:?}");
    ensure!(cluster.condition("Degraded").await?.status == "False", "it is healed");
    traffic.finish_unharmed().await?;
    Ok(())
}

/// A template comes to a pod in its turn: two accidents while a broken one is tried cost no quorum.
pub(super) async fn pod_before_its_turn_comes_back_as_it_was(
    stage: &Stage<'_>,
) -> anyhow::Result<()> {
    let cluster = Cluster::healthy_of(stage, 3, 3).await?;
    let before = cluster.uids().await?;
    let traffic = Traffic::start(&cluster).await?;
    // Each is a setting of its own, and only the server finds that they contradict each other.
    let contradiction =
        json!({"raft.heartbeat_interval": "9s", "raft.election_timeout_min": "10s"});
    cluster.patch(json!({"spec": {"config": contradiction}})).await?;
    let degraded = eventually("Degraded to say why", BOUND, async || {
        let degraded = cluster.condition("Degraded").await?;
        ensure!(degraded.reason == "PodFailing", "Degraded is {degraded}");
        Ok(degraded)
    })
    .await?;
    say(format!("    Degraded: {degraded}"));
    let first = changed(&before, &cluster.uids().await?);
    ensure!(first.len() == 1, "{first:?} were replaced");
    for other in before.keys().filter(|pod| **pod != first[0]) {
        let old = cluster.api::<Pod>().get(other).await?;
        cluster.delete_pod(other, None).await?;
        eventually(format!("{other} to be back as it was"), BOUND, async || {
            let now = cluster.api::<Pod>().get(other).await?;
            ensure!(now.metadata.uid != old.metadata.uid && is_ready(&now), "not yet");
            ensure!(configs(&now) == configs(&old), "{:?}", configs(&now));
            Ok(())
        })
        .await?;
    }
    let available = cluster.condition("Available").await?;
    ensure!(available.status == "True", "two of three nodes serve, yet {available}");
    let healed = json!({"raft.heartbeat_interval": null, "raft.election_timeout_min": null});
    cluster.patch(json!({"spec": {"config": healed}})).await?;
    cluster.healthy(3, BOUND).await?;
    cluster.config_map().await?;
    traffic.finish().await?;
    Ok(())
}

/// The settings that a pod was made with.
fn configs(pod: &Pod) -> Vec<String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| Some(volume.config_map.as_ref()?.name.clone())).collect()
}

pub(super) async fn sick_pod_holds_a_roll_up(stage: &Stage<'_>) -> anyhow::Result<()> {
    let cluster = Cluster::healthy_of(stage, 3, 3).await?;
    let traffic = Traffic::start(&cluster).await?;
    let full = Cordon::all(stage).await?;
    let outcome = async {
        let before = cluster.uids().await?;
        cluster.api::<Pod>().delete("kv-1-0", &Default::default()).await?;
        pending(&cluster, "kv-1-0").await?;
        cluster.patch(json!({"spec": {"restartedAt": "2001-01-01T00:00:00Z"}})).await?;
        throughout("the well pods left alone", 2 * STILL, async || {
            let changed = changed(&before, &cluster.uids().await?);
            ensure!(changed.iter().all(|pod| pod == "kv-1-0"), "{changed:?} were replaced");
            Ok(())
        })
        .await?;
        Ok::<_, anyhow::Error>(before)
    }
    .await;
    full.lift(stage).await?;
    let before = outcome?;
    eventually("the roll to go on", BOUND, async || {
        let changed = changed(&before, &cluster.uids().await?);
        ensure!(changed.len() == 3, "only {changed:?}");
        Ok(())
    })
    .await?;
    cluster.healthy(3, BOUND).await?;
    traffic.finish_unharmed().await?;
    Ok(())
}

/// Pods that are not what they were.
fn changed(before: &BTreeMap<String, String>, now: &BTreeMap<String, String>) -> Vec<String> {
    before
        .iter()
        .filter(|(pod, uid)| now.get(*pod) != Some(*uid))
        .map(|(pod, _)| pod.clone())
        .collect()
}

fn image_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.containers.first()?.image.as_deref()
}
