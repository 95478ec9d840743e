//! Volumes that are to become larger.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, ensure};
use k8s_openapi::{
    api::{
        core::v1::{PersistentVolume, PersistentVolumeClaim},
        storage::v1::StorageClass,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::{
    cluster::{Cluster, small},
    say::say,
    stage::Stage,
    traffic::Traffic,
    wait::eventually,
};

const BOUND: Duration = Duration::from_secs(180);
const GAP_MAX: Duration = Duration::from_secs(1);
const LARGER: &str = "512Mi";
const IS_DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";

/// Whatever resizes the disks behind the claims is not ours, and is played here: some storage classes that
/// Kubernetes lets be enlarged have nobody who does it.
pub(super) async fn volumes_grow_under_running_pods(stage: &Stage<'_>) -> anyhow::Result<()> {
    let class = Class::create(stage).await?;
    let mut spec = small(3, 3);
    spec["storage"]["storageClassName"] = json!(class.name);
    let cluster = Cluster::create(stage, "kv", spec).await?;
    cluster.healthy(3, BOUND).await?;
    let traffic = Traffic::start(&cluster).await?;
    let pods = cluster.uids().await?;
    let set = cluster.stateful_set(2).await?.uid();
    let before = sizes(&cluster).await?;

    cluster.patch(json!({"spec": {"storage": {"size": LARGER}}})).await?;
    let degraded = eventually("a class that lets nothing grow to be told", BOUND, async || {
        let degraded = cluster.condition("Degraded").await?;
        ensure!(degraded.status == "True", "{degraded}");
        ensure!(degraded.reason == "VolumesCannotGrow", "{degraded}");
        Ok(degraded)
    })
    .await?;
    say(format!("    a class that lets nothing grow: {}", degraded.message));
    ensure!(sizes(&cluster).await? == before, "volumes were touched");

    class.let_grow().await?;
    eventually("all volumes and those to come to be larger", BOUND, async || {
        let sizes = sizes(&cluster).await?;
        ensure!(sizes.values().all(|size| size == LARGER), "{sizes:?}");
        let now = cluster.stateful_set(2).await?;
        ensure!(now.uid() != set, "the last StatefulSet is not made anew yet");
        let template = now.spec.and_then(|spec| spec.volume_claim_templates?.into_iter().next());
        let template = template.context("the StatefulSet has no template of claims")?;
        ensure!(size(&template) == LARGER, "new volumes get {}", size(&template));
        Ok(())
    })
    .await?;
    for claim in cluster.claims().await?.into_values() {
        resize(stage, &cluster, claim).await?;
    }
    cluster.healthy(3, BOUND).await?;
    let now = cluster.uids().await?;
    ensure!(now == pods, "pods were replaced: {pods:?}, then {now:?}");

    cluster.scale(4).await?;
    cluster.healthy(4, BOUND).await?;
    let sizes = sizes(&cluster).await?;
    ensure!(sizes.len() == 4 && sizes.values().all(|size| size == LARGER), "{sizes:?}");
    traffic.finish_within(GAP_MAX).await?;
    class.delete().await
}

/// A storage class as the default one, which at first lets no volume grow.
struct Class {
    name: String,
    api: Api<StorageClass>,
}

impl Class {
    async fn create(stage: &Stage<'_>) -> anyhow::Result<Self> {
        let api = Api::<StorageClass>::all(stage.world.client.clone());
        let name = stage.namespace.clone();
        let classes = api.list(&ListParams::default()).await?.items;
        let is_default = |class: &StorageClass| {
            class.annotations().get(IS_DEFAULT).is_some_and(|is| is == "true")
        };
        let default = classes.into_iter().find(is_default).context("no default storage class")?;
        let made = StorageClass {
            metadata: ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() },
            allow_volume_expansion: Some(false),
            ..default
        };
        let class = Self { name, api };
        if class.api.get_opt(&class.name).await?.is_some() {
            class.delete().await?; // of a run that was broken off
        }
        class.api.create(&PostParams::default(), &made).await?;
        Ok(class)
    }

    async fn let_grow(&self) -> anyhow::Result<()> {
        let patch = Patch::Merge(json!({"allowVolumeExpansion": true}));
        self.api.patch(&self.name, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    async fn delete(&self) -> anyhow::Result<()> {
        self.api.delete(&self.name, &DeleteParams::default()).await?;
        Ok(())
    }
}

/// What the claims ask for.
async fn sizes(cluster: &Cluster<'_>) -> anyhow::Result<BTreeMap<String, String>> {
    let claims = cluster.claims().await?;
    Ok(claims.into_iter().map(|(name, claim)| (name, size(&claim))).collect())
}

fn size(claim: &PersistentVolumeClaim) -> String {
    let requests = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
    requests
        .and_then(|requests| requests.get("storage"))
        .map(|size| size.0.clone())
        .unwrap_or_default()
}

/// Says that a volume has become as large as its claim asks.
async fn resize(
    stage: &Stage<'_>,
    cluster: &Cluster<'_>,
    claim: PersistentVolumeClaim,
) -> anyhow::Result<()> {
    let name = claim.name_any();
    let capacity = json!({"capacity": {"storage": size(&claim)}});
    let volume = claim.spec.and_then(|spec| spec.volume_name).context("an unbound claim")?;
    let volumes = Api::<PersistentVolume>::all(stage.world.client.clone());
    let patch = Patch::Merge(json!({"spec": capacity}));
    volumes.patch(&volume, &PatchParams::default(), &patch).await?;
    let claims = cluster.api::<PersistentVolumeClaim>();
    let patch = Patch::Merge(json!({"status": capacity}));
    claims.patch_status(&name, &PatchParams::default(), &patch).await?;
    Ok(())
}
