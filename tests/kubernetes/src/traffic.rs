//! A client in another namespace that checks what it is told, while things happen.
//!
//! It is the program `flotilla-workload` in a pod. Half of its workers find leaders by themselves,
//! through the virtual IP; the others know nothing and go by turns over what the headless service of
//! ready nodes resolves to.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{LogParams, PostParams},
};
use serde::Deserialize;
use serde_json::json;

use crate::{cluster::Cluster, programs, say::say, wait::eventually};

/// The longest time for which a client may wait for an answer while nothing fails.
pub const GAP_MAX: Duration = Duration::from_secs(3);
/// Fewer answers than this for each second show nothing.
const CALLS_EACH_SECOND: u64 = 10;

/// The pod.
pub struct Traffic<'a> {
    cluster: &'a Cluster<'a>,
    name: String,
    pods: Api<Pod>,
}

/// How it goes.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Progress {
    /// Since the start.
    pub elapsed_ms: u64,
    /// Calls that were answered.
    pub calls: u64,
    /// Calls that failed for good.
    pub failures: u64,
    /// Of these, the writes that may have been applied.
    pub unknown: u64,
    /// The longest time for which any one worker had no answer.
    pub longest_gap_ms: u64,
    /// When it ended.
    pub longest_gap_at_ms: u64,
    /// The first failures, in words.
    pub errors: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Progress(Progress),
    Verdict(Verdict),
}

/// How it ended.
#[derive(Clone, Debug, Deserialize)]
pub struct Verdict {
    /// How it went.
    #[serde(flatten)]
    pub progress: Progress,
    /// What was done, and whether the cluster kept what it promised.
    pub workloads: Vec<Judged>,
}

/// One workload: writes of unique keys, registers with their history, a counter.
#[derive(Clone, Debug, Deserialize)]
pub struct Judged {
    /// Which one.
    pub name: String,
    /// Its requests that were answered.
    pub answered: usize,
    /// The promise that was broken, in words.
    pub broken: Option<String>,
}

impl<'a> Traffic<'a> {
    /// Starts it, and waits until it flows.
    ///
    /// # Errors
    /// When it does not within a minute.
    pub async fn start(cluster: &'a Cluster<'a>) -> anyhow::Result<Self> {
        let stage = cluster.stage;
        let name = format!("client-{}", cluster.name);
        let service = |name: &str| format!("{name}.{}.svc:7420", stage.namespace);
        let smart = service(&cluster.name);
        let plain = service(&format!("{}-clients", cluster.name));
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"app": "flotilla-workload"}},
            "spec": {
                "restartPolicy": "Never",
                "automountServiceAccountToken": false,
                "enableServiceLinks": false,
                "terminationGracePeriodSeconds": 1,
                "securityContext": {
                    "runAsNonRoot": true,
                    "runAsUser": 65532,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                // Not where a test takes a Kubernetes node away.
                "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{
                    "weight": 100,
                    "preference": {"matchExpressions": [
                        {"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["a"]},
                    ]},
                }]}},
                "containers": [{
                    "name": "client",
                    "image": stage.world.image("flotilla-tests"),
                    "imagePullPolicy": "IfNotPresent",
                    "args": ["run", "--endpoints", smart, "--plain-endpoints", plain],
                    "resources": {
                        "requests": {"cpu": "20m", "memory": "32Mi"},
                        "limits": {"memory": "1Gi"},
                    },
                    "securityContext": {
                        "allowPrivilegeEscalation": false,
                        "readOnlyRootFilesystem": true,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }],
            },
        }))?;
        let pods: Api<Pod> = Api::namespaced(stage.world.client.clone(), &stage.clients);
        pods.create(&PostParams::default(), &pod).await.context("create the client's pod")?;
        let traffic = Self { cluster, name, pods };
        traffic.flows(100, Duration::from_secs(60)).await?;
        Ok(traffic)
    }

    /// How it goes.
    ///
    /// # Errors
    /// When it has not begun, or has ended.
    pub async fn progress(&self) -> anyhow::Result<Progress> {
        let parameters = LogParams { tail_lines: Some(1), ..LogParams::default() };
        let log = self.pods.logs(&self.name, &parameters).await?;
        match serde_json::from_str(log.trim()).with_context(|| format!("client says {log}"))? {
            Line::Progress(progress) => Ok(progress),
            Line::Verdict(verdict) => bail!("the client has ended: {verdict:?}"),
        }
    }

    /// Waits until so many more calls were answered.
    ///
    /// # Errors
    /// When `bound` passes first.
    pub async fn flows(&self, more: u64, bound: Duration) -> anyhow::Result<()> {
        let before = self.progress().await.map_or(0, |progress| progress.calls);
        eventually(format!("{more} more calls to be answered"), bound, async || {
            let progress = self.progress().await?;
            ensure!(progress.calls >= before + more, "before {before}, now {progress:?}");
            Ok(())
        })
        .await
    }

    /// Ends it, and answers what it found, which must be that all promises were kept.
    ///
    /// # Errors
    /// When one was not, or there was too little traffic to show anything, or no answer within three
    /// minutes.
    pub async fn finish(self) -> anyhow::Result<Verdict> {
        let stage = self.cluster.stage;
        let words =
            ["exec", "--namespace", &stage.clients, &self.name, "--", "flotilla-workload", "stop"];
        programs::run("kubectl", words, Duration::from_secs(30)).await?;
        let verdict = eventually("the client's verdict", Duration::from_secs(180), async || {
            let pod = self.pods.get(&self.name).await?;
            let phase = pod.status.and_then(|status| status.phase).unwrap_or_default();
            ensure!(phase == "Succeeded" || phase == "Failed", "the client is {phase}");
            let parameters = LogParams { tail_lines: Some(1), ..LogParams::default() };
            Ok(self.pods.logs(&self.name, &parameters).await?)
        })
        .await?;
        let line: Line = serde_json::from_str(verdict.trim())
            .with_context(|| format!("the client said last: {verdict}"))?;
        let Line::Verdict(verdict) = line else { bail!("the client gave no verdict: {verdict:?}") };
        say(format!("    {}", verdict.sentence()));
        ensure!(!verdict.workloads.is_empty(), "nothing was done: {verdict:#?}");
        for Judged { name, answered, broken } in &verdict.workloads {
            ensure!(broken.is_none(), "promises were broken: {verdict:#?}");
            ensure!(
                *answered > 0,
                "{name}: nothing was answered, so nothing is shown: {verdict:#?}"
            );
        }
        let least = CALLS_EACH_SECOND * verdict.progress.elapsed_ms / 1000;
        ensure!(verdict.progress.calls >= least, "too little traffic: {verdict:?}");
        Ok(verdict)
    }

    /// Ends it after something that a client must not notice: no call failed for good, and none took
    /// long.
    ///
    /// # Errors
    /// As [`Traffic::finish`], and when it was noticed.
    pub async fn finish_unharmed(self) -> anyhow::Result<Verdict> {
        self.finish_within(GAP_MAX).await
    }

    /// As [`Traffic::finish_unharmed`], with another bound for the longest wait.
    ///
    /// # Errors
    /// As [`Traffic::finish_unharmed`].
    pub async fn finish_within(self, gap_max: Duration) -> anyhow::Result<Verdict> {
        let verdict = self.finish().await?;
        let Progress { failures, longest_gap_ms, errors, .. } = &verdict.progress;
        ensure!(*failures == 0, "{failures} calls failed: {errors:#?}");
        let gap = Duration::from_millis(*longest_gap_ms);
        ensure!(gap < gap_max, "a client waited {gap:?} for an answer: {:?}", verdict.progress);
        Ok(verdict)
    }
}

impl Verdict {
    /// For people.
    #[must_use]
    pub fn sentence(&self) -> String {
        let Progress { elapsed_ms, calls, failures, longest_gap_ms, longest_gap_at_ms, .. } =
            self.progress;
        let judged = |Judged { name, answered, broken }: &Judged| {
            let verdict = if broken.is_none() { "kept" } else { "BROKEN" };
            format!("{name}: {answered} answered, {verdict}")
        };
        let judged: Vec<String> = self.workloads.iter().map(judged).collect();
        format!(
            "{calls} calls in {} s, {failures} failed, longest gap {longest_gap_ms} ms (at {:.1} s); {}",
            elapsed_ms / 1000,
            longest_gap_at_ms as f64 / 1000.0,
            judged.join("; "),
        )
    }
}
