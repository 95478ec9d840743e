//! The program as a supervisor sees it: flags, exit codes, signals, two of it on one disk.

use std::{
    process::{Command, Output},
    time::Duration,
};

use flotilla_tests::harness::{Builder, Cluster, Start, binary, eventually, http};

const BOUND: Duration = Duration::from_secs(30);

/// Usage errors end with this code, so that a supervisor can tell that a restart will not help.
const USAGE: i32 = 64;

#[test]
fn wrong_settings_are_named_all_at_once_and_end_with_the_code_for_usage() {
    let output = server(&[
        "--data-dir",
        "/nonexistent/flotilla",
        "--set",
        "raft.election_timeout_min=1ms",
        "--set",
        "log.no_such_thing=7",
        "--set",
        "limits.key_bytes_max=everything",
    ]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(USAGE), "{said}");
    for name in ["raft.election_timeout_min", "no_such_thing", "limits.key_bytes_max"] {
        assert!(said.contains(name), "{name} is not named:\n{said}");
    }
    let output = server(&["--no-such-flag"]);
    assert!(!output.status.success());
    assert!(text(&output).contains("--no-such-flag"), "{}", text(&output));
}

#[test]
fn version_and_settings_can_be_printed_without_a_node() {
    let output = server(&["version"]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains(env!("CARGO_PKG_VERSION")), "{}", text(&output));
    let output =
        server(&["config", "print", "--data-dir", "/tmp/x", "--set", "log.keep_entries=77"]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("keep_entries: 77"), "{}", text(&output));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn second_process_on_a_disk_in_use_is_refused() {
    let mut cluster = Cluster::start(1).await;
    let second = cluster.prepare_node();
    let disk = cluster.nodes[0].data_dir().to_path_buf();
    cluster.nodes[second].set_data_dir(disk);
    let address = cluster.nodes[0].data_dir().join("addresses.json");
    let before = std::fs::read(&address).expect("the first one wrote it");
    cluster.nodes[second].launch(Start::Init);
    cluster.nodes[second].expect_exit();
    let ended = cluster.nodes[second].exited(BOUND).await;
    assert!(!ended.success());
    let said = cluster.nodes[second].output().to_lowercase();
    assert!(said.contains("lock") || said.contains("in use"), "{said}");
    std::fs::write(&address, before).expect("put back what the harness removed");
    cluster.nodes[0].session().put("k", "v").await.expect("the first one is not disturbed");
}

/// As a pod that was deleted in a hurry: the next one is started while the container is still ending.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn successor_on_a_disk_waits_for_the_process_that_ends() {
    let mut cluster = Cluster::start(1).await;
    cluster.nodes[0].session().put("k", "v").await.expect("stored");
    let second = cluster.prepare_node();
    let disk = cluster.nodes[0].data_dir().to_path_buf();
    cluster.nodes[second].set_data_dir(disk);
    cluster.nodes[second].launch(Start::Alone);
    eventually("it to wait", BOUND, async || {
        let said = cluster.nodes[second].output();
        if said.contains("has the disk open") { Ok(()) } else { Err(said) }
    })
    .await;
    cluster.nodes[0].terminate(BOUND).await;
    let found = eventually("the successor to serve", BOUND, async || {
        cluster.nodes[second].session().get("k").await.map_err(|status| status.to_string())
    })
    .await;
    assert_eq!(found.as_deref(), Some(&b"v"[..]));
}

/// Also when it is a second one of us that listens there: two servers on one port would share its
/// connections, and clients would be dealt out over two clusters.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn port_in_use_is_named() {
    let mut cluster = Builder::new(2).set("runtime.api_threads", "2").prepare().await;
    cluster.nodes[0].launch(Start::Init);
    cluster.nodes[0].bound(BOUND).await;
    let names = ["client_addr", "peer_addr", "http_addr"];
    for (which, name) in names.into_iter().enumerate() {
        let (first, second) = cluster.nodes.split_at_mut(1);
        let (first, second) = (&first[0], &mut second[0]);
        second.use_any_ports();
        second.use_port_of(first, which);
        let taken = [first.client_address(), first.peer_address(), first.http_address()];
        second.launch(Start::Init);
        second.expect_exit();
        let ended = second.exited(BOUND).await;
        assert!(!ended.success(), "{name}");
        let said = second.output();
        assert!(said.contains(name) && said.contains(&taken[which]), "{name}:\n{said}");
        assert!(!second.data_dir().exists(), "{name}: the disk was touched");
    }
    for number in 0..8 {
        // Each session has a connection of its own.
        let session = cluster.nodes[0].session();
        session.put(format!("k/{number}"), "v").await.expect("the first one is not disturbed");
    }
}

/// Nobody is there to join yet: the node waits, answers that it is alive and not ready, and stops
/// when it is told to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joining_node_waits_for_others_that_are_not_up_yet() {
    let mut cluster = Builder::new(2).prepare().await;
    let join = vec!["no-such-host.invalid:7420".to_owned(), cluster.nodes[0].client_address()];
    cluster.nodes[1].launch(Start::Join(join));
    cluster.nodes[1].bound(BOUND).await;
    let address = cluster.nodes[1].http_address();
    let status = async |target: &str| {
        http(&address, "GET", target, &[], &[]).await.expect("an answer").status
    };
    assert_eq!(status("/livez").await, 200);
    assert_eq!(status("/readyz").await, 503);
    let ended = cluster.nodes[1].terminate(BOUND).await;
    assert!(ended.success(), "told to stop while waiting: {ended}");
    cluster.nodes[1].relaunch();

    cluster.nodes[0].launch(Start::Init);
    cluster.nodes[0].bound(BOUND).await;
    cluster.node_id(1).await;
    cluster.wait_whole(BOUND).await;
    assert_eq!(status("/readyz").await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn healthcheck_and_metrics_tell_the_truth() {
    let mut cluster = Cluster::start(1).await;
    let url = format!("http://{}", cluster.nodes[0].http_address());
    let healthy = server(&["healthcheck", "--http", &url]);
    assert!(healthy.status.success(), "{}", text(&healthy));
    let session = cluster.nodes[0].session();
    for number in 0..10 {
        session.put(format!("metrics/{number}"), "x").await.expect("put");
    }
    let address = cluster.nodes[0].http_address();
    let metrics = http(&address, "GET", "/metrics", &[], &[]).await.expect("metrics");
    let metrics = String::from_utf8(metrics.body).expect("text");
    let puts: f64 = metrics
        .lines()
        .filter(|line| line.starts_with("flotilla_grpc_requests_total{"))
        .filter(|line| line.to_lowercase().contains("put"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum();
    assert!(puts >= 10.0, "{puts} of ten puts are counted:\n{metrics}");
    cluster.nodes[0].terminate(BOUND).await;
    let sick = server(&["healthcheck", "--http", &url]);
    assert!(!sick.status.success(), "nobody is there");
}

fn server(arguments: &[&str]) -> Output {
    Command::new(binary("flotilla-server")).args(arguments).output().expect("run the server")
}

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}
