use flotilla_proto::v1;

use super::*;
use crate::storage::engine::EngineStats;

fn registered() -> (Registry, Metrics) {
    let registry = Registry::new();
    let metrics = Metrics::register(&registry).expect("names are used once");
    (registry, metrics)
}

fn value(registry: &Registry, series: &str) -> f64 {
    let text = encode(registry);
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{series} is not in\n{text}")).parse().expect("a number")
}

#[test]
fn names_say_whose_they_are_and_count_in_base_units() {
    let (registry, _) = registered();
    for family in registry.gather() {
        let name = family.name();
        assert!(name.starts_with("flotilla_") || name.starts_with("process_"), "{name}");
        for unit in ["_ms", "_us", "_kb", "_mb", "_milliseconds"] {
            assert!(!name.ends_with(unit), "{name}");
        }
        let counter = family.get_field_type() == prometheus::proto::MetricType::COUNTER;
        assert_eq!(name.ends_with("_total"), counter, "{name}");
        assert!(!family.help().is_empty(), "{name}");
    }
}

#[test]
fn a_second_registration_is_an_error() {
    let (registry, _) = registered();
    assert!(Metrics::register(&registry).is_err());
}

#[test]
fn labelled_children_count_apart() {
    let (registry, metrics) = registered();
    let append = v1::message::Body::Append(v1::AppendEntries::default());
    let append = v1::Message { body: Some(append), ..v1::Message::default() };
    metrics.raft.add_messages(&[append.clone(), append.clone(), append]);
    drop(metrics.raft.snapshot(Direction::Receive));
    metrics.raft.snapshot(Direction::Send).done();
    metrics.raft.snapshot(Direction::Send).unread();
    metrics.requests.busy("reads");
    metrics.raft.busy("reads");
    for total in [4, 4, 7] {
        metrics.requests.busy_so_far("requests", total);
    }
    metrics.raft.observe_log_write(std::time::Duration::from_millis(1), 5);
    metrics.regions.regions.get(PeerRole::Quarantined).set(2);
    metrics.raft.propose_seconds.get(ProposeOutcome::Applied).observe(0.001);
    for (series, want) in [
        (r#"flotilla_raft_messages_total{kind="append"}"#, 3.0),
        (r#"flotilla_raft_messages_total{kind="vote"}"#, 0.0),
        (r#"flotilla_raft_snapshots_total{direction="receive",result="failed"}"#, 1.0),
        (r#"flotilla_raft_snapshots_total{direction="receive",result="done"}"#, 0.0),
        (r#"flotilla_raft_snapshots_total{direction="send",result="failed"}"#, 0.0),
        (r#"flotilla_raft_snapshots_total{direction="send",result="done"}"#, 1.0),
        (r#"flotilla_raft_snapshots_total{direction="send",result="unread"}"#, 1.0),
        (r#"flotilla_busy_total{queue="reads"}"#, 2.0),
        (r#"flotilla_busy_total{queue="requests"}"#, 7.0),
        ("flotilla_raft_fsync_seconds_count", 1.0),
        ("flotilla_raft_group_commit_entries_sum", 5.0),
        (r#"flotilla_regions{state="quarantined"}"#, 2.0),
        (r#"flotilla_raft_propose_seconds_count{outcome="applied"}"#, 1.0),
        (r#"flotilla_raft_propose_seconds_count{outcome="unknown"}"#, 0.0),
    ] {
        assert_eq!(value(&registry, series), want, "{series}");
    }
}

#[test]
fn totals_of_the_engine_become_counters_that_never_fall() {
    let (registry, metrics) = registered();
    let record = |hits| {
        let stats = EngineStats {
            block_cache_hits: hits,
            wal_bytes: 7,
            level_files: vec![2, 5],
            ..EngineStats::default()
        };
        metrics.storage.record(Instance::Data, &stats);
    };
    let hits = r#"flotilla_storage_block_cache_hits_total{engine="data"}"#;
    for (total, want) in [(10, 10.0), (15, 15.0), (15, 15.0), (3, 15.0)] {
        record(total);
        assert_eq!(value(&registry, hits), want, "after {total}");
    }
    assert_eq!(value(&registry, r#"flotilla_storage_wal_bytes{engine="data"}"#), 7.0);
    let files = r#"flotilla_storage_level_files{engine="data",level="1"}"#;
    assert_eq!(value(&registry, files), 5.0);
}

#[test]
fn the_process_describes_itself() {
    let (registry, _) = registered();
    let version = env!("CARGO_PKG_VERSION");
    let build = encode(&registry)
        .lines()
        .any(|line| line.starts_with("flotilla_build_info{") && line.contains(version));
    assert!(build);
    let before = value(&registry, "process_cpu_seconds_total");
    let mut turns = 0_u64;
    // A tick is a hundredth of a second: some work is needed until the clock shows it.
    while value(&registry, "process_cpu_seconds_total") <= before {
        turns += 1;
        assert!(turns < 1_000_000, "CPU time stands still");
    }
    assert!(value(&registry, "process_resident_memory_bytes") > 1e6);
    assert!(value(&registry, "process_open_fds") >= 3.0);
    assert!(value(&registry, "process_max_fds") >= value(&registry, "process_open_fds"));
    assert!(value(&registry, "process_start_time_seconds") > 1e9);
}

#[tokio::test]
async fn runtimes_show_their_tasks() {
    let registry = Registry::new();
    let handle = tokio::runtime::Handle::current();
    RuntimeMetrics::register(&registry, vec![("api".to_owned(), handle)]).expect("registered");
    let (release, waits) = tokio::sync::oneshot::channel::<()>();
    let task = tokio::spawn(waits);
    assert_eq!(value(&registry, r#"flotilla_tokio_alive_tasks{runtime="api"}"#), 1.0);
    assert_eq!(value(&registry, r#"flotilla_tokio_workers{runtime="api"}"#), 1.0);
    release.send(()).expect("the task waits");
    task.await.expect("no panic").expect("released");
}
