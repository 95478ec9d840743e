//! The Kubernetes under test, and the operator in it.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, ensure};
use http::Request;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    exposition::{self, Sample},
    programs,
    say::say,
    wait::eventually,
};

/// Where the operator is installed.
pub const SYSTEM: &str = "flotilla-system";
/// The Helm release, and what its objects are called.
pub const RELEASE: &str = "flotilla";
/// See [`RELEASE`].
pub const OPERATOR: &str = "flotilla-operator";

const MINUTE: Duration = Duration::from_secs(60);

/// Which images to use, and where things are.
#[derive(Clone, Debug)]
pub struct Setup {
    /// What precedes the names `flotilla-server`, `flotilla-operator` and `flotilla-tests`.
    pub registry: String,
    /// Tag of all images.
    pub tag: String,
    /// Another tag of the same images, to upgrade to.
    pub next_tag: String,
    /// The checkout.
    pub repository: PathBuf,
    /// Where evidence is kept.
    pub evidence: PathBuf,
    /// What is missing to run something is an error, instead of a reason to skip it aloud.
    pub strict: bool,
}

/// A Kubernetes to work with.
pub struct World {
    /// To its API server.
    pub client: Client,
    /// See [`Setup`].
    pub setup: Setup,
}

impl World {
    /// Connects to the Kubernetes of `KUBECONFIG`.
    ///
    /// # Errors
    /// When there is none, or it does not answer.
    pub async fn find(setup: Setup) -> anyhow::Result<Self> {
        let client = Client::try_default().await.context("find a Kubernetes")?;
        let version = client.apiserver_version().await.context("ask Kubernetes for its version")?;
        say(format!("Kubernetes {}", version.git_version));
        Ok(Self { client, setup })
    }

    /// The name of one of our images.
    #[must_use]
    pub fn image(&self, name: &str) -> String {
        format!("{}/{name}:{}", self.setup.registry, self.setup.tag)
    }

    /// As [`World::image`], with the other tag.
    #[must_use]
    pub fn next_image(&self, name: &str) -> String {
        format!("{}/{name}:{}", self.setup.registry, self.setup.next_tag)
    }

    /// Installs the operator by its chart, or brings an installed one to these images.
    ///
    /// # Errors
    /// Helm's.
    pub async fn install(&self) -> anyhow::Result<()> {
        let began = Instant::now();
        let path = |path: &str| self.setup.repository.join(path).display().to_string();
        let set = |what: &str, value: String| ["--set".to_owned(), format!("{what}={value}")];
        let mut arguments: Vec<String> = ["upgrade", "--install", RELEASE].map(String::from).into();
        arguments.push(path("helm/flotilla"));
        arguments.extend(["--namespace", SYSTEM, "--create-namespace"].map(String::from));
        arguments.extend(["--values".to_owned(), path("deploy/kind/values.yaml")]);
        for part in ["operator", "server"] {
            let image = format!("{}/flotilla-{part}", self.setup.registry);
            arguments.extend(set(&format!("{part}.image.repository"), image));
            arguments.extend(set(&format!("{part}.image.tag"), self.setup.tag.clone()));
        }
        arguments.extend(["--wait", "--timeout", "2m"].map(String::from));
        programs::run("helm", arguments, 3 * MINUTE).await?;
        self.operator_ready().await?;
        say(format!("operator installed in {:.1} s", began.elapsed().as_secs_f64()));
        Ok(())
    }

    /// Makes the operator's Deployment anew, as the chart says: what a test put into it belongs to no
    /// release, so that an upgrade would leave it there.
    ///
    /// # Errors
    /// Helm's, or when the old one does not go within two minutes.
    pub async fn restore(&self) -> anyhow::Result<()> {
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), SYSTEM);
        if api.get_opt(OPERATOR).await?.is_some() {
            api.delete(OPERATOR, &DeleteParams::foreground()).await?;
        }
        eventually("the operator to go", 2 * MINUTE, async || {
            ensure!(api.get_opt(OPERATOR).await?.is_none(), "its Deployment is still there");
            ensure!(self.operator_pods().await?.is_empty(), "it has pods");
            Ok(())
        })
        .await?;
        self.install().await
    }

    /// Changes the operator's Deployment, and waits until only pods of the changed one run.
    ///
    /// # Errors
    /// When that does not come about within two minutes.
    pub async fn change_operator(&self, patch: Value) -> anyhow::Result<()> {
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), SYSTEM);
        let patch = Patch::Strategic(patch);
        api.patch(OPERATOR, &PatchParams::default(), &patch).await.context("patch the operator")?;
        self.operator_ready().await
    }

    /// Starts the operator anew, as `kubectl rollout restart` does.
    ///
    /// # Errors
    /// As [`World::change_operator`].
    pub async fn restart_operator(&self, why: &str) -> anyhow::Result<()> {
        let annotations = json!({"e2e.flotilla.dev/restarted": why});
        let template = json!({"metadata": {"annotations": annotations}});
        self.change_operator(json!({"spec": {"template": template}})).await
    }

    /// Waits until the operator runs as its Deployment says, and nothing older does.
    ///
    /// # Errors
    /// When that does not come about within two minutes.
    pub async fn operator_ready(&self) -> anyhow::Result<()> {
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), SYSTEM);
        eventually("the operator's Deployment to be complete", 2 * MINUTE, async || {
            let deployment = api.get(OPERATOR).await?;
            let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
            let status = deployment.status.clone().unwrap_or_default();
            ensure!(status.observed_generation == deployment.metadata.generation, "not seen yet");
            ensure!(status.updated_replicas.unwrap_or(0) == wanted, "not all are updated");
            ensure!(status.available_replicas.unwrap_or(0) == wanted, "not all are available");
            let pods = self.operator_pods().await?;
            ensure!(pods.len() == usize::try_from(wanted)?, "{} pods", pods.len());
            Ok(())
        })
        .await
    }

    /// The operator's pods.
    ///
    /// # Errors
    /// The API server's.
    pub async fn operator_pods(&self) -> anyhow::Result<Vec<Pod>> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), SYSTEM);
        let selector = "app.kubernetes.io/name=flotilla-operator";
        Ok(api.list(&ListParams::default().labels(selector)).await?.items)
    }

    /// Asks a port of a pod, through the API server.
    ///
    /// # Errors
    /// When there is no answer, or another one than 200.
    pub async fn ask_pod(
        &self,
        namespace: &str,
        pod: &str,
        port: u16,
        path: &str,
    ) -> anyhow::Result<String> {
        let uri = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy{path}");
        let request = Request::get(&uri).body(Vec::new())?;
        self.client.request_text(request).await.with_context(|| uri)
    }

    /// What the operator that acts tells Prometheus.
    ///
    /// # Errors
    /// When none does.
    pub async fn operator_metrics(&self) -> anyhow::Result<Vec<Sample>> {
        for pod in self.operator_pods().await? {
            let text = self.ask_pod(SYSTEM, &pod.name_any(), 8080, "/metrics").await;
            let Ok(text) = text else { continue };
            let samples = exposition::parse(&text);
            if exposition::sum(&samples, "flotilla_operator_leader", &[]) > 0.0 {
                return Ok(samples);
            }
        }
        anyhow::bail!("no operator leads")
    }
}
