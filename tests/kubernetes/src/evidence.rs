//! What is kept of a scenario that failed.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    programs,
    stage::Stage,
    world::{RELEASE, SYSTEM},
};

const BOUND: Duration = Duration::from_secs(60);

/// Keeps objects, events, logs and the files of the machines, and answers where. What cannot be had
/// is replaced by the reason.
pub async fn keep(stage: &Stage<'_>, error: &anyhow::Error) -> PathBuf {
    let folder = stage.world.setup.evidence.join(stage.name);
    // Of an earlier run.
    let _ = fs::remove_dir_all(&folder);
    if let Err(problem) = fs::create_dir_all(&folder) {
        return PathBuf::from(format!("nowhere: {}: {problem}", folder.display()));
    }
    write(&folder, "error.txt", &format!("{error:#}\n"));
    for namespace in [stage.namespace.as_str(), stage.clients.as_str(), SYSTEM] {
        let inside = folder.join(namespace);
        let _ = fs::create_dir_all(&inside);
        let kinds = "all,kvclusters,configmaps,persistentvolumeclaims,poddisruptionbudgets,leases";
        for (file, words) in [
            ("objects.yaml", vec!["get", kinds, "--output", "yaml"]),
            ("overview.txt", vec!["get", kinds, "--output", "wide"]),
            ("events.txt", vec!["get", "events", "--sort-by", ".lastTimestamp"]),
        ] {
            write(&inside, file, &kubectl(namespace, &words).await);
        }
        let pods = kubectl(namespace, &["get", "pods", "--output", "name"]).await;
        for pod in pods.lines().filter_map(|line| line.strip_prefix("pod/")) {
            let logs = ["logs", pod, "--all-containers", "--timestamps"];
            write(&inside, &format!("{pod}.log"), &kubectl(namespace, &logs).await);
            let previous = logs.iter().copied().chain(["--previous"]).collect::<Vec<_>>();
            write(&inside, &format!("{pod}.previous.log"), &kubectl(namespace, &previous).await);
            let described = kubectl(namespace, &["describe", "pod", pod]).await;
            write(&inside, &format!("{pod}.txt"), &described);
        }
    }
    write(&folder, "nodes.txt", &kubectl(SYSTEM, &["describe", "nodes"]).await);
    write(&folder, "volumes.yaml", &kubectl(SYSTEM, &["get", "pv", "--output", "yaml"]).await);
    let values = ["get", "values", RELEASE, "--namespace", SYSTEM, "--all"];
    write(&folder, "values.yaml", &text(programs::run("helm", values, BOUND).await));
    keep_files(stage, &folder).await;
    folder
}

/// Files of kind's machines: the kubelet's log, and the names and sizes in the cluster's volumes.
async fn keep_files(stage: &Stage<'_>, folder: &Path) {
    if !programs::exists("docker") {
        return;
    }
    let names = kubectl(SYSTEM, &["get", "nodes", "--output", "name"]).await;
    for name in names.lines().filter_map(|line| line.strip_prefix("node/")) {
        let script = format!(
            "ls -lR /var/local-path-provisioner/*_{}_* 2>&1; tail -n 300 /var/log/node/*.log",
            stage.namespace
        );
        let words = ["exec", name, "sh", "-c", script.as_str()];
        let found = text(programs::run("docker", words, BOUND).await);
        write(folder, &format!("machine-{name}.txt"), &found);
    }
}

async fn kubectl(namespace: &str, words: &[&str]) -> String {
    let words = words.iter().copied().chain(["--namespace", namespace]);
    text(programs::run("kubectl", words, BOUND).await)
}

fn text(outcome: anyhow::Result<String>) -> String {
    outcome.unwrap_or_else(|error| format!("{error:#}\n"))
}

fn write(folder: &Path, file: &str, text: &str) {
    // The scenario has failed already; a full disk changes nothing about it.
    let _ = fs::write(folder.join(file), text);
}
