//! Specs that make no sense, and what a user is told.

use anyhow::{bail, ensure};
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, small},
    say::say,
    stage::Stage,
};

pub(super) async fn bad_specs_are_refused_in_our_words(stage: &Stage<'_>) -> anyhow::Result<()> {
    let with = |path: &str, value: Value| {
        let mut spec = small(3, 3);
        let (parents, field) = path.rsplit_once('/').unwrap_or(("", path));
        let mut at = &mut spec;
        for parent in parents.split('/').filter(|parent| !parent.is_empty()) {
            at = &mut at[parent];
        }
        at[field] = value;
        spec
    };
    let long = "a-name-that-is-longer-than-forty-characters";
    for (why, name, spec, words) in [
        ("a long name", long, small(3, 3), "a name has at most 40 characters"),
        ("a name that no Service could have", "1kv", small(3, 3), "Services bear it"),
        ("a name with a dot", "a.b", small(3, 3), "Services bear it"),
        ("no room for the peers", "kv", small(1, 3), "a node of its own"),
        ("an even factor", "kv", small(3, 2), "survives no more failures than one less"),
        ("no nodes", "kv", small(0, 1), "greater than or equal to 1"),
        ("no size", "kv", with("storage/size", json!("large")), "is no size"),
        ("a size of nothing", "kv", with("storage/size", json!("0")), "is no size"),
        ("no storage", "kv", json!({"replicas": 3}), "storage"),
        (
            "an issuer without its mode",
            "kv",
            with("tls", json!({"mode": "disabled", "issuerRef": {"name": "x"}})),
            "issuerRef is for the mode certManager",
        ),
        (
            "a template that takes the machine's network",
            "kv",
            with("podTemplate", json!({"spec": {"hostNetwork": true}})),
            "takes network, processes or ports of the Kubernetes node",
        ),
        ("a mode that there is not", "kv", with("tls", json!({"mode": "some"})), "tls.mode"),
    ] {
        match Cluster::create(stage, name, spec).await {
            Ok(_) => bail!("{why} was taken"),
            Err(error) => {
                let told = format!("{error:#}");
                ensure!(told.contains(words), "{why}: expected {words:?} in {told}");
            }
        }
    }

    // It is about changes, so there has to be something to change; no node needs to run for it.
    let mut spec = with("paused", json!(true));
    spec["storage"]["storageClassName"] = json!("standard");
    let cluster = Cluster::create(stage, "kv", spec).await?;
    for (why, patch, words) in [
        ("a smaller volume", json!({"storage": {"size": "1Mi"}}), "volumes cannot shrink"),
        (
            "another storage class",
            json!({"storage": {"storageClassName": "other"}}),
            "cannot be moved to another storage class",
        ),
        ("an even factor", json!({"replicationFactor": 2}), "survives no more failures"),
        ("fewer nodes than peers", json!({"replicas": 2}), "a node of its own"),
    ] {
        match cluster.patch(json!({"spec": patch})).await {
            Ok(()) => bail!("{why} was taken"),
            Err(error) => {
                let told = format!("{error:#}");
                ensure!(told.contains(words), "{why}: expected {words:?} in {told}");
            }
        }
    }
    ensure!(cluster.scale(2).await.is_err(), "the scale subresource goes around the rules");
    cluster.patch(json!({"spec": {"storage": {"size": "512Mi"}}})).await?;

    // What the schema cannot say, the operator does.
    let mut spec = small(1, 1);
    spec["config"] = json!({"raft.election_timeout": "1s"});
    let cluster = Cluster::create(stage, "misspelt", spec).await?;
    let degraded = cluster.becomes("Degraded", "True", std::time::Duration::from_secs(30)).await?;
    ensure!(degraded.reason == "InvalidSpec", "{degraded}");
    ensure!(degraded.message.contains("raft.election_timeout"), "{degraded}");
    ensure!(cluster.pods().await?.is_empty(), "a spec that makes no sense starts no pod");
    say(format!("    a misspelt setting: {}", degraded.message));
    Ok(())
}
