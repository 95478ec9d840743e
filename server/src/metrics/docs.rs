//! `docs/observability.md`, made from the metrics themselves.

use std::{collections::BTreeSet, fmt::Write as _};

use prometheus::{
    Registry,
    proto::{MetricFamily, MetricType},
};

use super::{Instance, Metrics, RuntimeMetrics};

const OPENING: &str = "\
# Observability

<!-- Made by `flotilla-server metrics-docs`; a test fails when it is not current. -->

Every node answers `GET /metrics` on its HTTP port as Prometheus reads it. Names begin with `flotilla_`, but for
those of the process, which Prometheus knows by their names. Units are base units and in the name. Labels have
few values, which are listed where they are known in advance: there is no series per region, key or client. A
histogram `x` has the series `x_bucket`, `x_sum` and `x_count`. Counters begin at 0 with the process.

A [test](../tests/tests/edge/metrics.rs) runs a cluster under load, through an election and a snapshot, and fails when a
series of this page is missing or never moves.
";

const CLOSING: &str = "
## What is not measured

There are no series of regions that split or merge, of regions that are quiet, and of certificates: the
server does none of this yet.
";

/// Heading, sentence, and how the names of its series begin.
const GROUPS: [(&str, &str, &[&str]); 6] = [
    (
        "Requests",
        "Requests of clients, by gRPC and HTTP, on the node that was asked.",
        &["flotilla_grpc_", "flotilla_forwarded_", "flotilla_busy_"],
    ),
    ("Raft", "The Raft groups of all regions with a peer on this node.", &["flotilla_raft_"]),
    (
        "Regions",
        "The peers of this node, and the other nodes as this one hears them.",
        &["flotilla_region", "flotilla_nodes_"],
    ),
    (
        "Placement",
        "The placement driver, counted on the node that leads region 1. Gauges are 0 on the others: take the \
         sum over all nodes. After that leadership has moved, counters go on elsewhere: sum their rates.",
        &["flotilla_placement_"],
    ),
    (
        "Storage",
        "The two RocksDB engines of this node (`log` holds the Raft logs, `data` everything else), and the file \
         system below them. A node that keeps its data in memory has no file system and no files.",
        &["flotilla_storage_", "flotilla_disk_"],
    ),
    (
        "Process",
        "What runs here and what it uses.",
        &["process_", "flotilla_tokio_", "flotilla_build_", "flotilla_log_"],
    ),
];

/// Labels whose values are not known before there is something to count.
const OPEN_LABELS: [&str; 6] = ["code", "level", "method", "profile", "runtime", "version"];

/// Gauges whose values mean what their descriptions say.
const UNITLESS: [&str; 3] =
    ["flotilla_build_info", "flotilla_disk_level", "flotilla_storage_write_stopped"];

/// All series: name, kind, labels, unit and meaning.
///
/// # Panics
/// When two series have the same name, or belong to no group.
#[must_use]
pub fn markdown() -> String {
    let families = families();
    let known =
        |name: &str| GROUPS.iter().any(|(_, _, of)| of.iter().any(|of| name.starts_with(of)));
    let lost = families.iter().find(|family| !known(family.name()));
    assert!(lost.is_none(), "a series belongs to no group: {:?}", lost.map(MetricFamily::name));
    let mut text = OPENING.to_owned();
    for (title, about, prefixes) in GROUPS {
        let _ = write!(
            text,
            "\n## {title}\n\n{about}\n\n| series | kind | labels | unit | meaning |\n|---|---|---|---|---|\n"
        );
        let is_here = |family: &&MetricFamily| {
            prefixes.iter().any(|prefix| family.name().starts_with(prefix))
        };
        for family in families.iter().filter(is_here) {
            let _ = writeln!(
                text,
                "| `{}` | {} | {} | {} | {} |",
                family.name(),
                kind(family),
                labels(family),
                unit(family.name()),
                family.help()
            );
        }
    }
    text + CLOSING
}

/// One of each, also of those that have no children before something was counted.
fn families() -> Vec<MetricFamily> {
    let registry = Registry::new();
    let metrics = Metrics::register(&registry).expect("names are used once");
    metrics.requests.method("Kv/Get").finished(tonic::Code::Ok, 0.0);
    let levels = crate::storage::engine::EngineStats {
        level_files: vec![0],
        level_bytes: vec![0],
        ..Default::default()
    };
    metrics.storage.record(Instance::Log, &levels);
    metrics.storage.record(Instance::Data, &levels);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("no driver to fail");
    let runtimes = vec![("raft".to_owned(), runtime.handle().clone())];
    RuntimeMetrics::register(&registry, runtimes).expect("names are used once");
    registry.gather()
}

fn kind(family: &MetricFamily) -> &'static str {
    match family.get_field_type() {
        MetricType::COUNTER => "counter",
        MetricType::GAUGE => "gauge",
        MetricType::HISTOGRAM => "histogram",
        MetricType::SUMMARY => "summary",
        MetricType::UNTYPED => "untyped",
    }
}

fn labels(family: &MetricFamily) -> String {
    let pairs = || family.get_metric().iter().flat_map(|metric| metric.get_label());
    let names: BTreeSet<&str> = pairs().map(|pair| pair.name()).collect();
    let one = |name: &str| {
        if OPEN_LABELS.contains(&name) {
            return format!("`{name}`");
        }
        let values: BTreeSet<String> = pairs()
            .filter(|pair| pair.name() == name)
            .map(|pair| format!("`{}`", pair.value()))
            .collect();
        format!("`{name}`: {}", values.into_iter().collect::<Vec<_>>().join(" "))
    };
    match names.is_empty() {
        true => "–".to_owned(),
        false => names.into_iter().map(one).collect::<Vec<_>>().join("; "),
    }
}

fn unit(name: &str) -> &'static str {
    let name = name.strip_suffix("_total").unwrap_or(name);
    if name.ends_with("_seconds") {
        "seconds"
    } else if name.ends_with("_bytes") {
        "bytes"
    } else if UNITLESS.contains(&name) {
        "–"
    } else {
        "count"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_is_in_one_group() {
        for family in families() {
            let groups = GROUPS.iter().filter(|(_, _, prefixes)| {
                prefixes.iter().any(|prefix| family.name().starts_with(prefix))
            });
            assert_eq!(groups.count(), 1, "{}", family.name());
        }
    }

    #[test]
    fn committed_documentation_is_current() {
        // Cargo runs tests in the folder of their package, wherever they were compiled.
        let path = "../docs/observability.md";
        let committed = std::fs::read_to_string(path).expect("docs/observability.md is there");
        assert!(
            committed == markdown(),
            "docs/observability.md is not current; `make fix` writes it anew"
        );
    }
}
