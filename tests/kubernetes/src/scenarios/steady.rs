//! Many clusters, and nothing to do.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::time::Instant;

use crate::{
    cluster::{Cluster, small},
    exposition::sum,
    say::say,
    stage::Stage,
};

const CLUSTERS: usize = 20;
const BOUND: Duration = Duration::from_secs(600);
/// How many seconds they are watched; more by this variable.
const REST_SECONDS: &str = "FLOTILLA_E2E_REST_SECONDS";

fn rest() -> anyhow::Result<Duration> {
    let seconds = std::env::var(REST_SECONDS).unwrap_or_else(|_| "60".to_owned());
    let seconds = seconds.parse().with_context(|| format!("{REST_SECONDS} is {seconds:?}"))?;
    Ok(Duration::from_secs(seconds))
}

pub(super) async fn twenty_clusters_at_rest_cost_no_writes(
    stage: &Stage<'_>,
) -> anyhow::Result<()> {
    let (began, rest) = (Instant::now(), rest()?);
    let mut clusters = Vec::new();
    for number in 0..CLUSTERS {
        clusters.push(Cluster::create(stage, &format!("kv{number:02}"), small(1, 1)).await?);
    }
    for cluster in &clusters {
        cluster.healthy(1, BOUND).await?;
    }
    say(format!("    {CLUSTERS} clusters after {:.1} s", began.elapsed().as_secs_f64()));
    // Clusters that were just made are looked at more often.
    crate::wait::elapse(rest / 2).await;

    let before = stage.world.operator_metrics().await?;
    let mut versions = Vec::new();
    for cluster in &clusters {
        versions.push(cluster.object().await?.metadata.resource_version);
    }
    crate::wait::elapse(rest).await;
    let after = stage.world.operator_metrics().await?;
    let grown = |name: &str, labels: &[(&str, &str)]| {
        sum(&after, name, labels) - sum(&before, name, labels)
    };
    let writes = grown("flotilla_operator_api_writes_total", &[]);
    // The lease is renewed for as long as somebody leads.
    let leases = ["Lease", "lease", "leases"]
        .map(|kind| grown("flotilla_operator_api_writes_total", &[("kind", kind)]));
    let writes = writes - leases.iter().sum::<f64>();
    let cpu = grown("process_cpu_seconds_total", &[]);
    let memory = sum(&after, "process_resident_memory_bytes", &[]);
    say(format!(
        "    the operator at rest: {writes} writes, {:.2} % of a core, {:.1} MiB, {} passes in {rest:?}",
        cpu / rest.as_secs_f64() * 100.0,
        memory / f64::from(1 << 20),
        grown("flotilla_operator_reconciles_total", &[]),
    ));
    for (cluster, version) in clusters.iter().zip(versions) {
        let now = cluster.object().await?.metadata.resource_version;
        ensure!(now == version, "{} was written at rest", cluster.name);
    }
    ensure!(writes < 0.5, "{writes} writes to the API server at rest");
    ensure!(cpu < rest.as_secs_f64() / 5.0, "{cpu} s of CPU at rest");
    Ok(())
}
