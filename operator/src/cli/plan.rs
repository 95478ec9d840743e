//! `flotilla-operator plan -f FILE`: the same look and the same plan as `run`, and nothing else.

use std::{fmt::Write as _, sync::Arc};

use anyhow::Context as _;
use kube::Client;

use super::PlanArgs;
use crate::{
    clock,
    crd::KvCluster,
    kubernetes::Kubernetes,
    lease::Leadership,
    metrics::Metrics,
    plan::{self, Plan},
    seen::{Node, Seen},
    world::{Key, World as _},
};

/// Stands for the uid of a cluster that is not there yet.
const NO_UID: &str = "00000000-0000-0000-0000-000000000000";

pub(super) fn plan(args: &PlanArgs) -> anyhow::Result<String> {
    let file = args.file.display();
    let text = super::read(&args.file)?;
    let wanted: KvCluster =
        serde_yaml::from_str(&text).with_context(|| format!("{file} is no KvCluster"))?;
    super::runtime()?.block_on(look_and_plan(args, wanted))
}

async fn look_and_plan(args: &PlanArgs, mut wanted: KvCluster) -> anyhow::Result<String> {
    let client = Client::try_default().await.context("find Kubernetes")?;
    let namespace = wanted
        .metadata
        .namespace
        .clone()
        .or_else(|| args.namespace.clone())
        .unwrap_or_else(|| client.default_namespace().to_owned());
    let name = wanted.metadata.name.clone().context("the KvCluster has no name")?;
    let key = Key { namespace, name };
    let defaults = args.defaults.defaults();
    // It leads never, so it can change nothing.
    let leadership = Arc::new(Leadership::default());
    let world = Kubernetes::new(client, defaults.clone(), Metrics::new()?, leadership);
    let live = world.look(&key).await.map_err(|error| anyhow::anyhow!("{error}"))?;
    let (seen, is_new) = match live {
        Some(mut seen) => {
            seen.cluster.spec = wanted.spec;
            (seen, false)
        }
        None => {
            wanted.metadata.namespace = Some(key.namespace.clone());
            wanted.metadata.uid = Some(NO_UID.to_owned());
            (nothing_of(wanted), true)
        }
    };
    let now = clock::wall();
    let plan = plan::plan(&seen, &defaults, now);
    let lines = plan::preview(&seen, &defaults, now);
    Ok(tell(&key, &seen, &plan, &lines, is_new))
}

fn nothing_of(cluster: KvCluster) -> Seen {
    Seen {
        cluster,
        children: Default::default(),
        taken: Default::default(),
        answers: Default::default(),
        foreign_volumes: Default::default(),
        pods: Default::default(),
        volumes: Default::default(),
        table: None,
        table_error: None,
        service_monitors: false,
    }
}

fn tell(key: &Key, seen: &Seen, plan: &Plan, lines: &[String], is_new: bool) -> String {
    let mut text = String::new();
    let mut line = |words: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{words}");
    };
    let is = if is_new { "is not there yet" } else { "is there" };
    line(format!("KvCluster {}/{} {is}", key.namespace, key.name));
    for pod in seen.pods.values() {
        let node = match &pod.node {
            Node::Silent(why) => format!("does not answer: {why}"),
            Node::Unjoined { .. } => "has an empty disk".to_owned(),
            Node::Removed { node_id, .. } => format!("was node {node_id}, which was removed"),
            Node::Joined(joined) => format!("is node {}", joined.node_id),
        };
        line(format!("  pod {} {node}", pod.name));
    }
    if let Some(why) = seen.table_error.as_ref().filter(|_| !seen.pods.is_empty()) {
        line(format!("  the node table is not known: {why}"));
    }
    if lines.is_empty() {
        line("Nothing differs from the spec.".to_owned());
    } else {
        line("Would be done:".to_owned());
        for step in lines {
            line(format!("  - {step}"));
        }
    }
    match &plan.action {
        Some(action) => line(format!("Next: {}, because {}", action.name(), plan.why)),
        None => line(format!("Next: nothing now; {}", plan.why)),
    }
    for trouble in &plan.troubles {
        line(format!("Trouble: {}: {}", trouble.reason, trouble.message));
    }
    text
}
