//! Many clusters, and nothing to do.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::events::v1::Event;
use kube::{ResourceExt as _, api::ListParams};
use tokio::time::Instant;

use crate::{
    cluster::{Cluster, small},
    exposition::{Sample, sum},
    say::say,
    stage::Stage,
};

const CLUSTERS: usize = 20;
const BOUND: Duration = Duration::from_secs(600);
/// The Lease is renewed no more often (docs/kubernetes.md).
const RENEWAL: Duration = Duration::from_secs(4);
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
    let events = events(&clusters[0]).await?;
    let mut versions = Vec::new();
    for cluster in &clusters {
        versions.push(cluster.object().await?.metadata.resource_version);
    }
    crate::wait::elapse(rest).await;
    let after = stage.world.operator_metrics().await?;
    let grown = |name: &str, labels: &[(&str, &str)]| {
        sum(&after, name, labels) - sum(&before, name, labels)
    };
    let mut writes = writes_between(&before, &after);
    // The Lease is renewed for as long as somebody leads; it is told, and bound, by itself.
    let renewals = writes.remove("leases").unwrap_or_default();
    let cpu = grown("process_cpu_seconds_total", &[]);
    let memory = sum(&after, "process_resident_memory_bytes", &[]);
    say(format!(
        "    the operator at rest: {} writes beside {:.1} renewals of its Lease a minute, {:.2} % of a core, {:.1} MiB, {} \
         passes in {rest:?}",
        writes.values().sum::<f64>(),
        renewals / rest.as_secs_f64() * 60.0,
        cpu / rest.as_secs_f64() * 100.0,
        memory / f64::from(1 << 20),
        grown("flotilla_operator_reconciles_total", &[]),
    ));
    for (cluster, version) in clusters.iter().zip(versions) {
        let now = cluster.object().await?.metadata.resource_version;
        ensure!(now == version, "{} was written at rest", cluster.name);
    }
    ensure!(writes.is_empty(), "writes to the API server at rest: {writes:?}");
    ensure!(self::events(&clusters[0]).await? == events, "events were written at rest");
    let bound = rest.as_secs_f64() / RENEWAL.as_secs_f64() + 2.0;
    ensure!((1.0..=bound).contains(&renewals), "{renewals} renewals of the Lease in {rest:?}");
    ensure!(cpu < rest.as_secs_f64() / 5.0, "{cpu} s of CPU at rest");
    Ok(())
}

/// Requests of the operator that are no looks, by what they were about: all of them, those about events and its Lease too.
/// What did not grow is left out.
pub(super) fn writes_between(before: &[Sample], after: &[Sample]) -> BTreeMap<String, f64> {
    let of = |samples: &[Sample]| {
        let mut writes = BTreeMap::<String, f64>::new();
        for sample in samples {
            let label =
                |name: &str| sample.labels.get(name).map(String::as_str).unwrap_or_default();
            let is_look = matches!(label("verb"), "get" | "list" | "watch");
            if sample.name == "flotilla_operator_api_requests_total" && !is_look {
                *writes.entry(label("resource").to_owned()).or_default() += sample.value;
            }
        }
        writes
    };
    let before = of(before);
    let grown = of(after).into_iter().map(|(resource, count)| {
        let less = before.get(&resource).copied().unwrap_or_default();
        (resource, count - less)
    });
    grown.filter(|(_, count)| *count > 0.5).collect()
}

/// What the operator has told in the namespace of a cluster, and the version of each: one that is told again has another.
async fn events(cluster: &Cluster<'_>) -> anyhow::Result<BTreeMap<String, Option<String>>> {
    let events = cluster.api::<Event>().list(&ListParams::default()).await?;
    let told = events
        .items
        .into_iter()
        .filter(|event| event.reporting_controller.as_deref() == Some("flotilla-operator"));
    Ok(told.map(|event| (event.name_any(), event.metadata.resource_version)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exposition::parse;

    #[test]
    fn every_write_counts_and_no_look() {
        let name = "flotilla_operator_api_requests_total";
        let text = |leases: u32, events: u32, pods: u32| {
            format!(
                "{name}{{resource=\"leases\",verb=\"update\"}} {leases}\n\
                 {name}{{resource=\"leases\",verb=\"get\"}} {leases}\n\
                 {name}{{resource=\"events\",verb=\"create\"}} {events}\n\
                 {name}{{resource=\"pods\",verb=\"list\"}} {pods}\n\
                 {name}{{resource=\"kvclusters/status\",verb=\"update\"}} 7\n"
            )
        };
        let (before, after) = (parse(&text(3, 1, 10)), parse(&text(18, 2, 50)));
        let writes = writes_between(&before, &after);
        let want =
            [("leases", 15.0), ("events", 1.0)].map(|(what, count)| (what.to_owned(), count));
        assert_eq!(writes, want.into());
    }
}
