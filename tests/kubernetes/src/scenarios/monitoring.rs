//! A real Prometheus, what the dashboards ask it, and the alerts.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, ResourceExt as _, api::ListParams};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    task::JoinSet,
};

use super::{Skip, scale::Cordon};
use crate::{
    cluster::Cluster,
    programs,
    say::say,
    stage::Stage,
    traffic::Traffic,
    wait::{elapse, eventually},
};

const BOUND: Duration = Duration::from_secs(180);
const PROMETHEUS: &str = "127.0.0.1:29190";

/// Queries of dashboards that have no series in a cluster that is well: what they show is trouble, or
/// what this cluster does not have.
const SILENT: &[&str] = &[];

pub(super) async fn prometheus_sees_all_and_alerts(stage: &Stage<'_>) -> anyhow::Result<()> {
    for program in ["prometheus", "promtool", "kubectl", "curl"] {
        if !programs::exists(program) {
            return Err(Skip(format!("{program} is not installed")).into());
        }
    }
    let cluster = Cluster::healthy_of(stage, 3, 3).await?;
    let traffic = Traffic::start(&cluster).await?;
    let prometheus = Prometheus::start(stage).await?;

    eventually("every pod and the operator to be scraped", BOUND, async || {
        let up: BTreeSet<String> = prometheus.ask("up == 1").await?.iter().map(pod_of).collect();
        for pod in ["kv-0-0", "kv-1-0", "kv-2-0", "flotilla-operator"] {
            ensure!(up.iter().any(|name| name.starts_with(pod)), "{pod} is not among {up:?}");
        }
        Ok(())
    })
    .await?;
    dashboards_have_series(stage, &prometheus).await?;
    prometheus.quiet().await?;

    // One of three, then two of three, have no place to run.
    let full = Cordon::all(stage).await?;
    let outcome = async {
        take_away(&cluster, "kv-2-0").await?;
        prometheus.fires("FlotillaNodeDown").await?;
        take_away(&cluster, "kv-1-0").await?;
        prometheus.fires("FlotillaQuorumLost").await?;
        let available = cluster.becomes("Available", "False", BOUND).await?;
        ensure!(available.reason == "QuorumLost", "{available}");
        Ok::<(), anyhow::Error>(())
    }
    .await;
    full.lift(stage).await?;
    outcome?;
    cluster.healthy(3, BOUND).await?;
    prometheus.quiet().await?;
    say("    node-down and quorum-lost were seen to fire and to clear");
    traffic.finish().await?;
    Ok(())
}

async fn take_away(cluster: &Cluster<'_>, pod: &str) -> anyhow::Result<()> {
    let pods = cluster.api::<Pod>();
    pods.delete(pod, &Default::default()).await?;
    super::scale::pending(cluster, pod).await
}

fn pod_of(sample: &Value) -> String {
    sample["metric"]["pod"].as_str().unwrap_or_default().to_owned()
}

/// Asks every query of every dashboard.
async fn dashboards_have_series(stage: &Stage<'_>, prometheus: &Prometheus) -> anyhow::Result<()> {
    let folder = stage.world.setup.repository.join("helm/flotilla/files/dashboards");
    let mut queries = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let dashboard: Value = serde_json::from_str(&fs::read_to_string(&path)?)?;
        let file = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        collect(&dashboard, file.as_deref().unwrap_or_default(), "", &mut queries);
    }
    ensure!(queries.len() > 50, "only {} queries were found", queries.len());
    let empty = eventually("every query to have series", BOUND, async || {
        let mut empty = Vec::new();
        for (place, query) in &queries {
            if prometheus.ask(query).await.with_context(|| place.clone())?.is_empty() {
                empty.push(format!("{place}: {query}"));
            }
        }
        empty.retain(|place| !SILENT.iter().any(|silent| place.contains(silent)));
        ensure!(empty.is_empty(), "{} without series: {empty:#?}", empty.len());
        Ok(empty)
    })
    .await?;
    say(format!("    {} queries of dashboards, {} without series", queries.len(), empty.len()));
    Ok(())
}

/// Every `expr` below a value, with what Grafana would put in for the variables.
fn collect(value: &Value, file: &str, title: &str, queries: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) => {
            let title = fields.get("title").and_then(Value::as_str).unwrap_or(title);
            if let Some(query) = fields.get("expr").and_then(Value::as_str) {
                let mut query = query.to_owned();
                for (variable, replacement) in [
                    ("$__rate_interval", "1m"),
                    ("$__range", "5m"),
                    ("$__interval", "15s"),
                    ("$namespace", ".*"),
                    ("$cluster", ".*"),
                    ("$node", ".*"),
                    ("[5m]", "[1m]"),
                    ("[10m]", "[1m]"),
                ] {
                    query = query.replace(variable, replacement);
                }
                queries.push((format!("{file}, {title}"), query));
            }
            for (name, value) in fields {
                if name != "templating" {
                    collect(value, file, title, queries);
                }
            }
        }
        Value::Array(values) => {
            for value in values {
                collect(value, file, title, queries);
            }
        }
        _ => {}
    }
}

/// One that scrapes through the API server.
struct Prometheus {
    // All end when they are dropped.
    _server: Child,
    _proxy: Child,
    _discovery: JoinSet<()>,
}

impl Prometheus {
    async fn start(stage: &Stage<'_>) -> anyhow::Result<Self> {
        let folder = stage.world.setup.evidence.join("prometheus");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        let folder = folder.canonicalize()?;

        let mut proxy = Command::new("kubectl")
            .args(["proxy", "--port", "0"])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("start kubectl proxy")?;
        let stdout = proxy.stdout.take().context("a pipe was asked for")?;
        let line = BufReader::new(stdout).lines().next_line().await?.unwrap_or_default();
        let api = line.rsplit(' ').next().unwrap_or_default().to_owned();
        ensure!(api.contains(':'), "kubectl proxy says {line}");

        let targets = folder.join("pods.json");
        let mut discovery = JoinSet::new();
        discovery.spawn(discover(stage.world.client.clone(), targets.clone()));
        rules(&stage.world.setup.repository, &folder)?;
        let config = json!({
            "global": {"scrape_interval": "5s", "evaluation_interval": "5s"},
            "rule_files": [folder.join("rules/*.yaml").display().to_string()],
            "scrape_configs": [{
                "job_name": "pods",
                // The namespace that the operator gives is the cluster's.
                "honor_labels": true,
                "file_sd_configs": [{"files": [&targets], "refresh_interval": "5s"}],
                "relabel_configs": relabelling(&api),
            }],
        });
        let file = folder.join("prometheus.yaml");
        fs::write(&file, serde_yaml::to_string(&config)?)?;
        let check = ["check", "config", file.to_str().context("a path in UTF-8")?];
        programs::run("promtool", check, BOUND).await?;
        let log = fs::File::create(folder.join("prometheus.log"))?;
        let server = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={PROMETHEUS}"))
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("start prometheus")?;
        let prometheus = Self { _server: server, _proxy: proxy, _discovery: discovery };
        eventually("Prometheus to answer", BOUND, async || prometheus.ask("vector(1)").await)
            .await?;
        Ok(prometheus)
    }

    /// What a query has for an answer.
    async fn ask(&self, query: &str) -> anyhow::Result<Vec<Value>> {
        let query = format!("query={query}");
        let url = format!("http://{PROMETHEUS}/api/v1/query");
        let words = ["--silent", "--show-error", "--get", &url, "--data-urlencode", &query];
        let answer: Value = serde_json::from_str(&programs::run("curl", words, BOUND).await?)?;
        let result = answer["data"]["result"].as_array();
        Ok(result.with_context(|| format!("{query}: {answer}"))?.clone())
    }

    async fn fires(&self, alert: &str) -> anyhow::Result<()> {
        eventually(format!("{alert} to fire"), BOUND, async || {
            let alerts = self.ask("ALERTS{alertstate=\"firing\"}").await?;
            let fires = alerts.iter().any(|one| one["metric"]["alertname"] == alert);
            ensure!(fires, "what fires: {alerts:?}");
            Ok(())
        })
        .await
    }

    /// Waits until none of the two that are provoked fires.
    async fn quiet(&self) -> anyhow::Result<()> {
        eventually("the alerts to clear", BOUND, async || {
            let query = "ALERTS{alertname=~\"FlotillaNodeDown|FlotillaQuorumLost\"}";
            let alerts = self.ask(query).await?;
            ensure!(alerts.is_empty(), "{alerts:?}");
            Ok(())
        })
        .await
    }
}

/// How often pods are looked for.
const DISCOVERY: Duration = Duration::from_secs(1);

/// Writes to a file what Prometheus' own discovery of pods would find, by the same names: not every
/// Prometheus has it, Debian's has not.
async fn discover(client: Client, file: PathBuf) {
    let pods: Api<Pod> = Api::all(client);
    let (half, mut last) = (file.with_extension("half"), String::new());
    loop {
        if let Ok(pods) = pods.list(&ListParams::default()).await {
            let text = Value::from_iter(pods.iter().flat_map(targets)).to_string();
            // Nobody reads half a file. A disk that is full shows as targets that are missing.
            if text != last && fs::write(&half, &text).is_ok() && fs::rename(&half, &file).is_ok() {
                last = text;
            }
        }
        elapse(DISCOVERY).await;
    }
}

/// One for each port of a pod.
fn targets(pod: &Pod) -> Vec<Value> {
    let address = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref());
    let (Some(address), Some(spec)) = (address, &pod.spec) else { return Vec::new() };
    let known = |name: &str| format!("__meta_kubernetes_{name}");
    let mut labels = BTreeMap::from([
        (known("namespace"), pod.namespace().unwrap_or_default()),
        (known("pod_name"), pod.name_any()),
    ]);
    for (kind, entries) in [("label", pod.labels()), ("annotation", pod.annotations())] {
        for (key, value) in entries {
            let key = key.replace(|letter: char| !letter.is_ascii_alphanumeric(), "_");
            labels.insert(known(&format!("pod_{kind}_{key}")), value.clone());
        }
    }
    let ports = spec.containers.iter().flat_map(|container| container.ports.iter().flatten());
    ports
        .map(|port| {
            let number = port.container_port;
            let mut labels = labels.clone();
            labels.insert(known("pod_container_port_number"), number.to_string());
            labels.insert(known("pod_container_port_name"), port.name.clone().unwrap_or_default());
            json!({"targets": [format!("{address}:{number}")], "labels": labels})
        })
        .collect()
}

/// The rules as they are shipped, but none waits before it fires: that is what their own tests are
/// about.
fn rules(repository: &Path, folder: &Path) -> anyhow::Result<()> {
    let target: PathBuf = folder.join("rules");
    fs::create_dir_all(&target)?;
    let source = repository.join("helm/flotilla/files/alerts");
    for entry in fs::read_dir(&source).with_context(|| source.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let text: String = fs::read_to_string(&path)?
            .lines()
            .filter(|line| !line.trim_start().starts_with("for: "))
            .flat_map(|line| [line, "\n"])
            .collect();
        let name = path.file_name().context("a file has a name")?;
        fs::write(target.join(name), text)?;
    }
    Ok(())
}

/// By the annotations of pods: which to scrape, at which port; through the API server, so that
/// Prometheus may be anywhere.
fn relabelling(api: &str) -> Value {
    let scrape = "__meta_kubernetes_pod_annotation_prometheus_io_scrape";
    let name = "__meta_kubernetes_pod_label_app_kubernetes_io_name";
    let path = "/api/v1/namespaces/$1/pods/$2:$3/proxy/metrics";
    let pod = ["__meta_kubernetes_namespace", "__meta_kubernetes_pod_name"];
    let port = "__meta_kubernetes_pod_container_port_number";
    json!([
        // Annotated, or the operator.
        {"source_labels": [scrape, name], "regex": "true;.*|.*;flotilla-operator", "action": "keep"},
        // One target for each pod: the port with the metrics.
        {"source_labels": ["__meta_kubernetes_pod_container_port_name"], "regex": "http|metrics", "action": "keep"},
        {"source_labels": [pod[0], pod[1], port], "regex": "(.+);(.+);(.+)",
            "target_label": "__metrics_path__", "replacement": path},
        {"source_labels": [pod[1], port], "separator": ":", "target_label": "instance"},
        {"target_label": "__address__", "replacement": api},
        {"source_labels": [pod[0]], "target_label": "namespace"},
        {"source_labels": [pod[1]], "target_label": "pod"},
        {"source_labels": ["__meta_kubernetes_pod_label_app_kubernetes_io_instance"], "target_label": "job"},
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_found_by_the_names_that_prometheus_gives_them() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {
                "name": "kv-0-0", "namespace": "ns",
                "labels": {"app.kubernetes.io/name": "flotilla"},
                "annotations": {"prometheus.io/scrape": "true"},
            },
            "spec": {"containers": [
                {"name": "server", "ports": [{"name": "http", "containerPort": 7422}]},
                {"name": "other"},
            ]},
            "status": {"podIP": "10.0.0.1"},
        }))
        .expect("a pod");
        let labels = json!({
            "__meta_kubernetes_namespace": "ns",
            "__meta_kubernetes_pod_name": "kv-0-0",
            "__meta_kubernetes_pod_label_app_kubernetes_io_name": "flotilla",
            "__meta_kubernetes_pod_annotation_prometheus_io_scrape": "true",
            "__meta_kubernetes_pod_container_port_name": "http",
            "__meta_kubernetes_pod_container_port_number": "7422",
        });
        assert_eq!(targets(&pod), [json!({"targets": ["10.0.0.1:7422"], "labels": labels})]);
        let placeless = Pod { status: None, ..pod };
        assert!(targets(&placeless).is_empty(), "it has no address");
    }

    #[test]
    fn queries_are_found_wherever_they_are_and_filled_in() {
        let dashboard = json!({
            "templating": {"list": [{"expr": "not one"}]},
            "panels": [
                {"title": "A", "targets": [{"expr": "a{n=~\"$namespace\"}"}]},
                {"title": "Row", "panels": [{"title": "B", "targets": [{"expr": "rate(b[$__rate_interval])"}]}]},
            ],
        });
        let mut queries = Vec::new();
        collect(&dashboard, "file", "", &mut queries);
        let want = [("file, A", "a{n=~\".*\"}"), ("file, B", "rate(b[1m])")];
        let want = want.map(|(place, query)| (place.to_owned(), query.to_owned()));
        assert_eq!(queries, want);
    }
}
