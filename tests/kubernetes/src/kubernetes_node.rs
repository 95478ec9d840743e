//! Machines of Kubernetes that are containers of kind, so that they can be stopped, frozen and cut
//! off.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, Client, api::ListParams};

use crate::{programs, wait::eventually};

const BOUND: Duration = Duration::from_secs(60);

/// A machine of Kubernetes.
#[derive(Clone, Debug)]
pub struct KubernetesNode {
    name: String,
}

impl KubernetesNode {
    /// The one on which a pod runs, when it is a container of the Docker engine here.
    pub async fn of(pod: &Pod) -> Option<Self> {
        let name = pod.spec.as_ref()?.node_name.clone()?;
        let inspect = ["inspect", "--format", "{{.State.Running}}", name.as_str()];
        programs::run("docker", inspect, BOUND).await.ok()?;
        Some(Self { name })
    }

    /// The one that runs the API server, when it is a container of the Docker engine here.
    ///
    /// # Errors
    /// The API server's.
    pub async fn control_plane(client: &Client) -> anyhow::Result<Option<Self>> {
        let selected = ListParams::default().labels("node-role.kubernetes.io/control-plane");
        let nodes = Api::<Node>::all(client.clone()).list(&selected).await?.items;
        let Some(name) = nodes.first().map(kube::ResourceExt::name_any) else { return Ok(None) };
        let inspect = ["inspect", "--format", "{{.State.Running}}", name.as_str()];
        Ok(programs::run("docker", inspect, BOUND).await.is_ok().then_some(Self { name }))
    }

    /// Starts its API server anew with further arguments, for as long as this Kubernetes lives: the kubelet does so
    /// when its manifest changes.
    ///
    /// # Errors
    /// Docker's.
    pub async fn give_api_server(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let manifest = "/etc/kubernetes/manifests/kube-apiserver.yaml";
        let lines: String =
            arguments.iter().map(|argument| format!("\\n    - {argument}")).collect();
        let edit = format!("s|^    - kube-apiserver$|&{lines}|");
        self.inside(&["sed", "-i", &edit, manifest]).await
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The power fails.
    ///
    /// # Errors
    /// Docker's.
    pub async fn kill(&self) -> anyhow::Result<()> {
        self.docker(&["kill"]).await
    }

    /// It is turned on again.
    ///
    /// # Errors
    /// Docker's.
    pub async fn start(&self) -> anyhow::Result<()> {
        self.docker(&["start"]).await
    }

    /// It stands still, with everything that runs on it.
    ///
    /// # Errors
    /// Docker's.
    pub async fn freeze(&self) -> anyhow::Result<()> {
        self.docker(&["pause"]).await
    }

    /// It goes on.
    ///
    /// # Errors
    /// Docker's.
    pub async fn thaw(&self) -> anyhow::Result<()> {
        self.docker(&["unpause"]).await
    }

    /// No pod on it hears a pod elsewhere, and none is heard; Kubernetes sees no fault.
    ///
    /// # Errors
    /// Docker's.
    pub async fn cut_off(&self) -> anyhow::Result<()> {
        self.inside(&["iptables", "-I", "FORWARD", "-j", "DROP"]).await
    }

    /// The end of [`KubernetesNode::cut_off`].
    ///
    /// # Errors
    /// Docker's.
    pub async fn join_again(&self) -> anyhow::Result<()> {
        self.inside(&["iptables", "-D", "FORWARD", "-j", "DROP"]).await
    }

    /// Waits until Kubernetes has noticed that it is there, or not.
    ///
    /// # Errors
    /// When `bound` passes first.
    pub async fn noticed(&self, client: &Client, up: bool, bound: Duration) -> anyhow::Result<()> {
        let nodes: Api<Node> = Api::all(client.clone());
        eventually(format!("{} to be ready: {up}", self.name), bound, async || {
            let node = nodes.get(&self.name).await?;
            let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
            let ready =
                conditions.iter().any(|each| each.type_ == "Ready" && each.status == "True");
            anyhow::ensure!(ready == up, "ready: {ready}");
            Ok(())
        })
        .await
    }

    async fn docker(&self, words: &[&str]) -> anyhow::Result<()> {
        let words = words.iter().copied().chain([self.name.as_str()]);
        programs::run("docker", words, BOUND).await.map(drop)
    }

    async fn inside(&self, words: &[&str]) -> anyhow::Result<()> {
        let start = ["exec", self.name.as_str()];
        programs::run("docker", start.iter().chain(words), BOUND).await.map(drop)
    }
}
