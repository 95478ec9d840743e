//! Operators that end, freeze, or are two.

use std::{cell::Cell, convert::Infallible, time::Duration};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{ContainerStatus, Pod},
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, PostParams},
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Skip;
use crate::{
    cluster::Cluster,
    kubernetes_node::KubernetesNode,
    programs,
    say::say,
    stage::Stage,
    traffic::Traffic,
    wait::{elapse, eventually, throughout},
    world::{OPERATOR, SYSTEM, World},
};

const BOUND: Duration = Duration::from_secs(180);
/// Bound: notes of a change that is as long as the longest of [`WAYS`]: three restarts with eight each (leaders leave,
/// template, pod, it is gone, it is there, it is ready, it may lead, it stays ready), and those around them. What passes
/// while nobody looks is not noted.
const NOTES: u32 = 30;
/// Bound: from the end of an operator to the first look of the next one: its pod is made anew, and the Lease is its own when
/// it looks next, or, of one that has taken it in its last moment, after 15 s.
const SUCCESSION: Duration = Duration::from_secs(20);
/// Within this after all is well, what is left to be done is done.
const DEATH: Duration = Duration::from_secs(30);

pub(super) async fn operator_restart_touches_no_pod(stage: &Stage<'_>) -> anyhow::Result<()> {
    let cluster = Cluster::healthy_of(stage, 3, 3).await?;
    let (pods, set) = (cluster.uids().await?, cluster.stateful_set(0).await?);
    let traffic = Traffic::start(&cluster).await?;
    stage.world.restart_operator(stage.name).await?;
    // Another default image is what an upgrade of the operator brings.
    let next = stage.world.next_image("flotilla-server");
    let env = json!([{"name": "FLOTILLA_OPERATOR_SERVER_IMAGE", "value": next}]);
    stage.world.change_operator(operator_container(json!({"env": env}))).await?;
    let outcome = async {
        let began = Instant::now();
        eventually("the operator to look at the cluster again", BOUND, async || {
            let samples = stage.world.operator_metrics().await?;
            let labels = [("namespace", stage.namespace.as_str())];
            let name = "flotilla_operator_cluster_nodes_ready";
            let ready = crate::exposition::sum(&samples, name, &labels);
            ensure!((ready - 3.0).abs() < 0.5, "{ready} ready nodes");
            Ok(())
        })
        .await?;
        say(format!("    the new operator sees it after {:.1} s", began.elapsed().as_secs_f64()));
        throughout("the same pods", Duration::from_secs(10), async || {
            ensure!(cluster.uids().await? == pods, "pods were replaced");
            Ok(())
        })
        .await?;
        let now = cluster.stateful_set(0).await?;
        ensure!(now.metadata.generation == set.metadata.generation, "the StatefulSet was changed");
        cluster.healthy(3, BOUND).await
    }
    .await;
    stage.world.restore().await?;
    outcome?;
    ensure!(cluster.uids().await? == pods, "pods were replaced");
    traffic.finish_unharmed().await?;
    Ok(())
}

/// A patch of the operator's container.
fn operator_container(mut fields: Value) -> Value {
    fields["name"] = json!("operator");
    json!({"spec": {"template": {"spec": {"containers": [fields]}}}})
}

/// A change of a cluster of three nodes, and where the operator is killed on its way.
struct Way {
    name: &'static str,
    /// How many nodes it begins with, and ends with.
    from: u32,
    to: u32,
    /// Each lies on it.
    points: &'static [&'static str],
}

const WAYS: [Way; 3] = [
    // Some node leads, whichever it is, and must be emptied before its pod is deleted.
    Way {
        name: "another setting",
        from: 3,
        to: 3,
        points: &["after-note", "after-apply", "after-evict-leaders", "after-delete-pod"],
    },
    Way {
        name: "more nodes",
        from: 3,
        to: 4,
        points: &["after-note", "after-scale", "after-add-learner", "after-promote"],
    },
    Way {
        name: "fewer nodes",
        from: 4,
        to: 3,
        points: &[
            "after-note",
            "after-remove-node",
            "after-mark-volume",
            "after-scale",
            "after-delete-volume",
        ],
    },
];

pub(super) async fn operator_killed_at_any_step_converges(stage: &Stage<'_>) -> anyhow::Result<()> {
    let cluster = Cluster::healthy_of(stage, 3, 3).await?;
    let traffic = Traffic::start(&cluster).await?;
    let outcome = async {
        let mut never = Vec::new();
        for (way, point) in
            WAYS.iter().flat_map(|way| way.points.iter().map(move |point| (way, *point)))
        {
            // To the beginning, by an operator that lives.
            faulty(stage.world, "").await?;
            cluster.scale(way.from).await?;
            cluster.healthy(way.from as usize, BOUND).await?;

            faulty(stage.world, &format!("{point}=1*return")).await?;
            if way.from == way.to {
                // Another one each time.
                let log_level = format!("info,{}=warn", point.replace('-', "_"));
                cluster.patch(json!({"spec": {"config": {"log_level": log_level}}})).await?;
            } else {
                cluster.scale(way.to).await?;
            }
            let deaths = survive(stage.world, &cluster, way.to as usize).await?;
            say(format!("    {}: killed {deaths} times {point}", way.name));
            if deaths == 0 {
                never.push((way.name, point));
            }
        }
        ensure!(never.is_empty(), "never reached, so nothing is shown: {never:?}");
        Ok::<(), anyhow::Error>(())
    }
    .await;
    stage.world.restore().await?;
    outcome?;
    cluster.healthy(3, BOUND).await?;
    traffic.finish_unharmed().await?;
    Ok(())
}

/// Runs the operator with failpoints.
async fn faulty(world: &World, failpoints: &str) -> anyhow::Result<()> {
    let image = world.image("flotilla-operator-faults");
    let env = json!([{"name": "FAILPOINTS", "value": failpoints}]);
    world.change_operator(operator_container(json!({"image": image, "env": env}))).await
}

/// Waits for the cluster and for the first death of its operator, and answers how often it died. A volume
/// is deleted when the cluster is healthy already.
async fn survive(world: &World, cluster: &Cluster<'_>, nodes: usize) -> anyhow::Result<i32> {
    let deaths = Cell::new(0);
    let whole = async {
        // Where each note is the last of its operator.
        cluster.healthy(nodes, BOUND + NOTES * SUCCESSION).await?;
        let died = async || {
            ensure!(deaths.get() + restarts(world).await? > 0, "it lives");
            Ok(())
        };
        // Without one the answer says so.
        let _ = eventually("the operator to be killed", DEATH, died).await;
        cluster.healthy(nodes, BOUND).await
    };
    tokio::select! {
        healthy = whole => healthy.map(drop)?,
        failed = revive(world, &deaths) => match failed? {},
    }
    Ok(deaths.get() + restarts(world).await?)
}

/// Of the operator's pods that are there.
async fn restarts(world: &World) -> anyhow::Result<i32> {
    let pods = world.operator_pods().await?;
    Ok(pods.iter().filter_map(first_container).map(|container| container.restart_count).sum())
}

/// Gives an operator that died a new life at once: Kubernetes by itself waits longer each time, and the next one until the
/// Lease of the dead is out. (That it waits so long, and no longer, `frozen_leader_does_no_harm` shows.)
async fn revive(world: &World, deaths: &Cell<i32>) -> anyhow::Result<Infallible> {
    let api: Api<Pod> = Api::namespaced(world.client.clone(), SYSTEM);
    let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    loop {
        for pod in world.operator_pods().await? {
            let Some(container) = first_container(&pod) else { continue };
            let lies = container.state.as_ref().is_some_and(|state| {
                // Not a pod that is about to begin.
                let waits = state.waiting.is_some() && container.restart_count > 0;
                waits || state.terminated.is_some()
            });
            if lies && pod.metadata.deletion_timestamp.is_none() {
                deaths.set(deaths.get() + container.restart_count.max(1));
                // It may be gone already.
                let _ = api.delete(&pod.name_any(), &now).await;
                free_lease(world, &pod.name_any()).await?;
            }
        }
        elapse(Duration::from_millis(500)).await;
    }
}

/// Takes the Lease from whoever held it in this pod.
async fn free_lease(world: &World, pod: &str) -> anyhow::Result<()> {
    let leases: Api<Lease> = Api::namespaced(world.client.clone(), SYSTEM);
    let Some(mut lease) = leases.get_opt(OPERATOR).await? else { return Ok(()) };
    let Some(spec) = lease.spec.as_mut() else { return Ok(()) };
    if spec.holder_identity.as_deref().is_some_and(|holder| holder.starts_with(pod)) {
        spec.holder_identity = None;
        // Another may have taken it at this moment.
        let _ = leases.replace(OPERATOR, &PostParams::default(), &lease).await;
    }
    Ok(())
}

fn first_container(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.first()
}

pub(super) async fn frozen_leader_does_no_harm(stage: &Stage<'_>) -> anyhow::Result<()> {
    let cluster = Cluster::healthy_of(stage, 3, 3).await?;
    let traffic = Traffic::start(&cluster).await?;
    // Kubernetes would replace the frozen one before it wakes.
    let mut two = operator_container(json!({"livenessProbe": null}));
    two["spec"]["replicas"] = json!(2);
    stage.world.change_operator(two).await?;
    let outcome = async {
        let leases: Api<Lease> = Api::namespaced(stage.world.client.clone(), SYSTEM);
        let holder = async || {
            let lease = leases.get(OPERATOR).await?;
            let holder = lease.spec.and_then(|spec| spec.holder_identity).unwrap_or_default();
            // What follows tells its process from others in the same pod.
            let holder = holder.split('_').next().unwrap_or_default().to_owned();
            ensure!(!holder.is_empty(), "nobody holds the lease");
            Ok::<String, anyhow::Error>(holder)
        };
        let leader = eventually("an operator that leads", BOUND, async || {
            let holder = holder().await?;
            let pods = stage.world.operator_pods().await?;
            let pod = pods.into_iter().find(|pod| pod.name_any() == holder);
            pod.with_context(|| format!("{holder} is no pod"))
        })
        .await?;
        let machine = KubernetesNode::of(&leader)
            .await
            .ok_or_else(|| Skip("an operator can be frozen on kind only".to_owned()))?;
        cluster.scale(5).await?;
        let step = eventually("the operator to be in the middle of it", BOUND, async || {
            let (kind, step) = cluster.operation().await?.context("nothing is being done")?;
            ensure!(kind == "ScaleUp", "{kind}");
            Ok(step)
        })
        .await?;
        signal(&machine, &leader, "STOP").await?;
        let began = Instant::now();
        let scaled = async {
            eventually("the other one to lead", BOUND, async || {
                let now = holder().await?;
                ensure!(now != leader.name_any(), "still {now}");
                Ok(())
            })
            .await?;
            say(format!(
                "    frozen at the step {step}; the other one leads after {:.1} s",
                began.elapsed().as_secs_f64()
            ));
            cluster.healthy(5, BOUND).await?;
            // The minute that it is frozen for is the experiment.
            let rest = Duration::from_secs(60).saturating_sub(began.elapsed());
            elapse(rest).await;
            Ok::<(), anyhow::Error>(())
        }
        .await;
        signal(&machine, &leader, "CONT").await?;
        scaled?;
        let before = cluster.uids().await?;
        throughout("the work of the other one", Duration::from_secs(15), async || {
            ensure!(cluster.uids().await? == before, "the one that woke up changed pods");
            Ok(())
        })
        .await?;
        cluster.healthy(5, BOUND).await
    }
    .await;
    stage.world.restore().await?;
    outcome?;
    traffic.finish_unharmed().await?;
    Ok(())
}

/// Sends a signal to the operator in a pod, from its machine.
async fn signal(machine: &KubernetesNode, pod: &Pod, signal: &str) -> anyhow::Result<()> {
    let uid = pod.uid().unwrap_or_default();
    // Kernel names of processes have fifteen letters; drivers of cgroups write the UID in two ways.
    let script = format!(
        "for p in /proc/[0-9]*; do \
           if [ \"$(cat $p/comm 2>/dev/null)\" = flotilla-operat ] \
             && grep -qE '{uid}|{}' $p/cgroup; then kill -{signal} ${{p#/proc/}} && echo sent; fi; \
         done",
        uid.replace('-', "_"),
    );
    let words = ["exec", machine.name(), "sh", "-c", script.as_str()];
    let sent = programs::run("docker", words, Duration::from_secs(30)).await?;
    ensure!(sent.contains("sent"), "no operator of {} on {}", pod.name_any(), machine.name());
    Ok(())
}
