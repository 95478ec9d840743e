//! What `kubectl get kvc` prints, beside what is true.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, bail};
use http::{Request, header::ACCEPT};
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    cluster::{Cluster, is_ready},
    wait::throughout,
};

/// A column may lag behind the pods for so long.
const LAG_MAX: Duration = Duration::from_secs(8);

/// One line of the table, by column.
pub type Columns = BTreeMap<String, Value>;

/// Asks the API server for what kubectl prints.
///
/// # Errors
/// When there is no such cluster.
pub async fn columns(cluster: &Cluster<'_>) -> anyhow::Result<Columns> {
    let stage = cluster.stage;
    let path = "/apis/flotilla.dev/v1alpha1/namespaces";
    let request = Request::get(format!("{path}/{}/kvclusters/{}", stage.namespace, cluster.name))
        .header(ACCEPT, "application/json;as=Table;v=v1;g=meta.k8s.io")
        .body(Vec::new())?;
    let table: Value = stage.world.client.request(request).await?;
    let names = table["columnDefinitions"].as_array().context("no columns")?;
    let cells = table["rows"][0]["cells"].as_array().context("no row")?;
    let names = names.iter().map(|column| column["name"].as_str().unwrap_or_default().to_owned());
    Ok(names.zip(cells.iter().cloned()).collect())
}

/// Compares the columns with the pods again and again, for ever, until one of them is wrong for longer
/// than the operator may take to notice.
///
/// # Errors
/// Then.
pub async fn stay_true(cluster: &Cluster<'_>) -> anyhow::Result<()> {
    let mut wrong: Option<(Instant, String)> = None;
    throughout("the truth of the columns", Duration::from_secs(86_400), async || {
        let said = columns(cluster).await?;
        let object = cluster.object().await?;
        let pods = cluster.pods().await?;
        let ready = pods.iter().filter(|pod| is_ready(pod)).count();
        let desired = &object.data["spec"]["replicas"];
        let health = said.get("Health").and_then(Value::as_str).unwrap_or_default();
        let number = |name: &str| said.get(name).and_then(Value::as_u64);
        let lie = if number("Ready") != Some(ready as u64) {
            Some(format!("{ready} pods are ready, the column says {said:?}"))
        } else if number("Desired") != desired.as_u64() {
            Some(format!("{desired} are desired, the column says {said:?}"))
        } else if health == "Healthy" && Some(ready as u64) != desired.as_u64() {
            Some(format!("{ready} of {desired} are ready, the column says {said:?}"))
        } else {
            None
        };
        wrong = match (lie, wrong.take()) {
            (None, _) => None,
            (Some(lie), Some((since, _))) if since.elapsed() > LAG_MAX => {
                bail!("for {:?}: {lie}", since.elapsed())
            }
            (Some(lie), earlier) => {
                Some((earlier.map_or_else(Instant::now, |(since, _)| since), lie))
            }
        };
        Ok(())
    })
    .await
}
