//! A KvCluster, as a user sees it: through the API server.

use std::{collections::BTreeMap, fmt, time::Duration};

use anyhow::{Context as _, bail, ensure};
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, PersistentVolumeClaim, Pod},
};
use kube::{
    Api, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
    core::GroupVersionKind,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    exposition::{self, Sample},
    programs,
    stage::Stage,
    wait::eventually,
};

/// A KvCluster of a stage.
pub struct Cluster<'a> {
    /// Where it is.
    pub stage: &'a Stage<'a>,
    /// Its name.
    pub name: String,
    api: Api<DynamicObject>,
}

/// One of its conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// One word.
    pub reason: String,
    /// A sentence.
    pub message: String,
    /// Generation of the spec that it is about.
    pub generation: i64,
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {} (of {})", self.status, self.reason, self.message, self.generation)
    }
}

/// The type, for [`Api`].
#[must_use]
pub fn resource() -> ApiResource {
    let kind = GroupVersionKind::gvk("flotilla.dev", "v1alpha1", "KvCluster");
    ApiResource::from_gvk_with_plural(&kind, "kvclusters")
}

/// A spec of a cluster that a small machine carries.
#[must_use]
pub fn small(replicas: u32, replication_factor: u32) -> Value {
    json!({
        "replicas": replicas,
        "replicationFactor": replication_factor,
        "storage": {"size": "256Mi", "retain": false},
        "resources": {
            "requests": {"cpu": "20m", "memory": "64Mi"},
            "limits": {"memory": "512Mi"},
        },
        // Volumes of a test may be folders of one disk.
        "config": {"disk.ballast_bytes": 0},
        // Clients are in another namespace, and tests ask by way of the API server.
        "networkPolicy": {"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]},
    })
}

impl<'a> Cluster<'a> {
    /// One that is there already, or is about to be.
    #[must_use]
    pub fn named(stage: &'a Stage<'a>, name: &str) -> Self {
        let client = stage.world.client.clone();
        let api = Api::namespaced_with(client, &stage.namespace, &resource());
        Self { stage, name: name.to_owned(), api }
    }

    /// Makes one.
    ///
    /// # Errors
    /// The API server's.
    pub async fn create(stage: &'a Stage<'a>, name: &str, spec: Value) -> anyhow::Result<Self> {
        let cluster = Self::named(stage, name);
        let object = DynamicObject::new(name, &resource()).data(json!({"spec": spec}));
        let made = cluster.api.create(&PostParams::default(), &object).await;
        made.with_context(|| format!("create {name}"))?;
        Ok(cluster)
    }

    /// Makes one of the spec [`small`], and waits until it is healthy.
    ///
    /// # Errors
    /// When that takes longer than two minutes.
    pub async fn healthy_of(
        stage: &'a Stage<'a>,
        replicas: u32,
        factor: u32,
    ) -> anyhow::Result<Self> {
        let cluster = Self::create(stage, "kv", small(replicas, factor)).await?;
        cluster.healthy(replicas as usize, Duration::from_secs(120)).await?;
        Ok(cluster)
    }

    /// The object.
    ///
    /// # Errors
    /// The API server's.
    pub async fn object(&self) -> anyhow::Result<DynamicObject> {
        self.api.get(&self.name).await.with_context(|| format!("get {}", self.name))
    }

    /// Its status, null when it has none.
    ///
    /// # Errors
    /// The API server's.
    pub async fn status(&self) -> anyhow::Result<Value> {
        Ok(self.object().await?.data["status"].clone())
    }

    /// One of its conditions.
    ///
    /// # Errors
    /// The API server's, or when there is no such condition.
    pub async fn condition(&self, kind: &str) -> anyhow::Result<Condition> {
        condition(&self.object().await?, kind)
    }

    /// Waits until a condition has this status for the present spec, and answers it.
    ///
    /// # Errors
    /// When `bound` passes first.
    pub async fn becomes(
        &self,
        kind: &str,
        status: &str,
        bound: Duration,
    ) -> anyhow::Result<Condition> {
        eventually(format!("{kind} to be {status}"), bound, async || {
            let object = self.object().await?;
            let condition = condition(&object, kind)?;
            ensure!(condition.status == status, "{kind} is {condition}");
            ensure!(Some(condition.generation) == object.metadata.generation, "{kind} is old");
            Ok(condition)
        })
        .await
    }

    /// Waits until it is as its spec says, with so many nodes, by its own word and by its pods. Answers
    /// how long that took.
    ///
    /// # Errors
    /// When `bound` passes first.
    pub async fn healthy(&self, nodes: usize, bound: Duration) -> anyhow::Result<Duration> {
        let began = Instant::now();
        eventually(format!("{} healthy nodes", nodes), bound, async || {
            let object = self.object().await?;
            let ready = condition(&object, "Ready")?;
            ensure!(ready.status == "True", "Ready is {ready}");
            ensure!(Some(ready.generation) == object.metadata.generation, "Ready is old");
            let status = &object.data["status"];
            ensure!(status["readyReplicas"] == nodes, "{} are ready", status["readyReplicas"]);
            let members = status["members"].as_array().map_or(0, Vec::len);
            ensure!(members == nodes, "{members} members");
            ensure!(status["operation"].is_null(), "doing {}", status["operation"]);
            let pods = self.pods().await?;
            ensure!(pods.len() == nodes, "{} pods", pods.len());
            for pod in &pods {
                ensure!(is_ready(pod), "{} is not ready", pod.name_any());
            }
            Ok(())
        })
        .await?;
        Ok(began.elapsed())
    }

    /// What `kubectl scale` does.
    ///
    /// # Errors
    /// The API server's.
    pub async fn scale(&self, replicas: u32) -> anyhow::Result<()> {
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        let scaled = self.api.patch_scale(&self.name, &PatchParams::default(), &patch).await;
        scaled.with_context(|| format!("scale {} to {replicas}", self.name))?;
        Ok(())
    }

    /// Merges a change into the object.
    ///
    /// # Errors
    /// The API server's.
    pub async fn patch(&self, patch: Value) -> anyhow::Result<()> {
        self.api.patch(&self.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    /// Deletes the object.
    ///
    /// # Errors
    /// The API server's.
    pub async fn delete(&self) -> anyhow::Result<()> {
        self.api.delete(&self.name, &DeleteParams::default()).await?;
        Ok(())
    }

    /// The API of another kind in its namespace.
    #[must_use]
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.stage.world.client.clone(), &self.stage.namespace)
    }

    /// Its pods, by name.
    ///
    /// # Errors
    /// The API server's.
    pub async fn pods(&self) -> anyhow::Result<Vec<Pod>> {
        let selector = format!(
            "app.kubernetes.io/name=flotilla,app.kubernetes.io/instance={},\
             app.kubernetes.io/component=server",
            self.name
        );
        let mut pods =
            self.api::<Pod>().list(&ListParams::default().labels(&selector)).await?.items;
        pods.sort_by_key(ResourceExt::name_any);
        Ok(pods)
    }

    /// Pods by name, with their UIDs.
    ///
    /// # Errors
    /// The API server's.
    pub async fn uids(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let pods = self.pods().await?;
        Ok(pods.iter().map(|pod| (pod.name_any(), pod.uid().unwrap_or_default())).collect())
    }

    /// Its volume claims, by name.
    ///
    /// # Errors
    /// The API server's.
    pub async fn claims(&self) -> anyhow::Result<BTreeMap<String, PersistentVolumeClaim>> {
        let prefix = format!("data-{}-", self.name);
        let claims = self.api::<PersistentVolumeClaim>().list(&ListParams::default()).await?.items;
        let named = claims.into_iter().map(|claim| (claim.name_any(), claim));
        Ok(named.filter(|(name, _)| name.starts_with(&prefix)).collect())
    }

    /// Its settings, when there is one set of them: no pod has older ones.
    ///
    /// # Errors
    /// The API server's, or when there are several.
    pub async fn config_map(&self) -> anyhow::Result<ConfigMap> {
        let selector = format!("app.kubernetes.io/instance={}", self.name);
        let found = self.api::<ConfigMap>().list(&ListParams::default().labels(&selector)).await?;
        let names: Vec<_> = found.items.iter().map(ResourceExt::name_any).collect();
        ensure!(names.len() == 1, "ConfigMaps: {names:?}");
        found.items.into_iter().next().context("a ConfigMap")
    }

    /// The StatefulSet of one of its nodes.
    ///
    /// # Errors
    /// The API server's.
    pub async fn stateful_set(&self, ordinal: i32) -> anyhow::Result<StatefulSet> {
        Ok(self.api::<StatefulSet>().get(&format!("{}-{ordinal}", self.name)).await?)
    }

    /// Deletes a pod, and waits until another one of its name is ready. `grace` of zero is a kill -9.
    ///
    /// # Errors
    /// When that takes longer than two minutes.
    pub async fn delete_pod(&self, name: &str, grace: Option<u32>) -> anyhow::Result<()> {
        let pods = self.api::<Pod>();
        let before = pods.get(name).await?.uid();
        let parameters = DeleteParams { grace_period_seconds: grace, ..DeleteParams::default() };
        pods.delete(name, &parameters).await?;
        self.replaced(name, before.as_deref(), Duration::from_secs(120)).await
    }

    /// Waits until a pod with another UID than `before` is ready.
    ///
    /// # Errors
    /// When `bound` passes first.
    pub async fn replaced(
        &self,
        name: &str,
        before: Option<&str>,
        bound: Duration,
    ) -> anyhow::Result<()> {
        let pods = self.api::<Pod>();
        eventually(format!("another {name} to be ready"), bound, async || {
            let pod = pods.get(name).await?;
            ensure!(pod.uid().as_deref() != before, "it is still the old one");
            ensure!(is_ready(&pod), "it is not ready");
            Ok(())
        })
        .await
    }

    /// Node ids by pod, as the status has them.
    ///
    /// # Errors
    /// The API server's.
    pub async fn node_ids(&self) -> anyhow::Result<BTreeMap<String, i64>> {
        let status = self.status().await?;
        let members = status["members"].as_array().cloned().unwrap_or_default();
        let of = |member: &Value| {
            Some((member["podName"].as_str()?.to_owned(), member["nodeId"].as_i64()?))
        };
        Ok(members.iter().filter_map(of).collect())
    }

    /// The pod whose node leads the most regions.
    ///
    /// # Errors
    /// When the status does not tell.
    pub async fn busiest(&self) -> anyhow::Result<String> {
        let status = self.status().await?;
        let members = status["members"].as_array().cloned().unwrap_or_default();
        let busiest = members.iter().max_by_key(|member| member["leaders"].as_i64());
        let name = busiest.and_then(|member| member["podName"].as_str());
        Ok(name.context("no member in the status")?.to_owned())
    }

    /// What is being done: kind and step.
    ///
    /// # Errors
    /// The API server's.
    pub async fn operation(&self) -> anyhow::Result<Option<(String, String)>> {
        let status = self.status().await?;
        let operation = &status["operation"];
        let text = |field: &str| operation[field].as_str().unwrap_or_default().to_owned();
        Ok((!operation.is_null()).then(|| (text("kind"), text("step"))))
    }

    /// Runs a program in a pod.
    ///
    /// # Errors
    /// When it fails.
    pub async fn exec(&self, pod: &str, words: &[&str]) -> anyhow::Result<String> {
        let start = ["exec", "--namespace", &self.stage.namespace, pod, "--"];
        let words = start.iter().chain(words);
        programs::run("kubectl", words, Duration::from_secs(30)).await
    }

    /// What a node tells Prometheus.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn metrics(&self, pod: &str) -> anyhow::Result<Vec<Sample>> {
        let world = self.stage.world;
        let text = world.ask_pod(&self.stage.namespace, pod, 7422, "/metrics").await?;
        Ok(exposition::parse(&text))
    }
}

/// # Errors
/// When there is no such condition.
pub fn condition(object: &DynamicObject, kind: &str) -> anyhow::Result<Condition> {
    let conditions = object.data["status"]["conditions"].as_array();
    let found = conditions.and_then(|all| all.iter().find(|each| each["type"] == kind));
    let Some(found) = found else { bail!("no condition {kind}") };
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    Ok(Condition {
        status: text("status"),
        reason: text("reason"),
        message: text("message"),
        generation: found["observedGeneration"].as_i64().unwrap_or_default(),
    })
}

/// Whether Kubernetes holds a pod for ready, and it is to stay.
#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.is_some_and(|all| {
            all.iter().any(|each| each.type_ == "Ready" && each.status == "True")
        })
}
