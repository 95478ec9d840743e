//! What each scenario works on: two namespaces of its own.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ObjectMeta, PostParams},
};

use crate::{wait::eventually, world::World};

/// A scenario's place. Both namespaces hold pods to the level `restricted`.
pub struct Stage<'a> {
    /// The Kubernetes.
    pub world: &'a World,
    /// The scenario's name.
    pub name: &'static str,
    /// Where its cluster is.
    pub namespace: String,
    /// Where its clients are.
    pub clients: String,
}

impl<'a> Stage<'a> {
    /// Makes the namespaces; those of an earlier run go first.
    ///
    /// # Errors
    /// The API server's, or when the earlier ones do not go within two minutes.
    pub async fn set(world: &'a World, name: &'static str) -> anyhow::Result<Self> {
        let namespace = format!("e2e-{}", name.replace('_', "-"));
        let clients = format!("{namespace}-clients");
        let stage = Self { world, name, namespace, clients };
        stage.strike().await?;
        let api: Api<Namespace> = Api::all(world.client.clone());
        for namespace in [&stage.namespace, &stage.clients] {
            eventually(format!("namespace {namespace}"), Duration::from_secs(120), async || {
                let labels = [("pod-security.kubernetes.io/enforce", "restricted")];
                let labels: BTreeMap<_, _> =
                    labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
                let metadata = ObjectMeta {
                    name: Some(namespace.clone()),
                    labels: Some(labels),
                    ..ObjectMeta::default()
                };
                let namespace = Namespace { metadata, ..Namespace::default() };
                api.create(&PostParams::default(), &namespace).await?;
                Ok(())
            })
            .await?;
        }
        Ok(stage)
    }

    /// Deletes the namespaces and all that is in them; they go in their own time.
    ///
    /// # Errors
    /// The API server's.
    pub async fn strike(&self) -> anyhow::Result<()> {
        let api: Api<Namespace> = Api::all(self.world.client.clone());
        for namespace in [&self.clients, &self.namespace] {
            let Some(found) = api.get_opt(namespace).await? else { continue };
            api.delete(&found.name_any(), &DeleteParams::default())
                .await
                .with_context(|| format!("delete {namespace}"))?;
        }
        Ok(())
    }

    /// Waits until nothing of the scenario runs any more, so that the next one has the machine.
    ///
    /// # Errors
    /// When that takes longer than two minutes.
    pub async fn gone(&self) -> anyhow::Result<()> {
        let api: Api<Namespace> = Api::all(self.world.client.clone());
        for namespace in [&self.clients, &self.namespace] {
            eventually(format!("{namespace} to go"), Duration::from_secs(120), async || match api
                .get_opt(namespace)
                .await?
            {
                None => Ok(()),
                Some(found) => anyhow::bail!("{:?}", found.status),
            })
            .await?;
        }
        Ok(())
    }
}
