//! `flotilla-operator plan -f FILE`: the same look and the same plan as `run`, and nothing else.
//!
//! The nodes are asked at the addresses of their pods, which a machine outside of Kubernetes does not reach. All
//! of them are silent there, and a plan that takes them for dead would be a wrong one. What can be said then is
//! what the API server knows: the objects, and what the operator that runs noted of the nodes.

use std::{fmt::Write as _, sync::Arc};

use anyhow::Context as _;

use super::PlanArgs;
use crate::{
    answers::Answers,
    api_server::ApiServer,
    clock,
    crd::KvCluster,
    desired::{Defaults, Desired},
    key::Key,
    kubernetes::Kubernetes,
    lease::Leadership,
    plan::{self, Plan},
    seen::{Joined, Node, Row, Seen, State, Table},
    world::World as _,
};

/// What is said of nodes and regions by those that answer.
const OF_NODES: [&str; 7] = [
    "DriverUnreachable",
    "NodeDown",
    "NodeLost",
    "NodeNotReady",
    "QuorumLost",
    "UnderReplicated",
    "UnknownNode",
];
/// Stands for the uid of a cluster that is not there yet.
const NO_UID: &str = "00000000-0000-0000-0000-000000000000";

pub(super) fn plan(args: &PlanArgs) -> anyhow::Result<String> {
    let (wanted, _) = super::read_cluster(&args.file)?;
    super::runtime()?.block_on(look_and_plan(args, wanted))
}

async fn look_and_plan(args: &PlanArgs, mut wanted: KvCluster) -> anyhow::Result<String> {
    let client = ApiServer::find().await?.requests;
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
    let world = Kubernetes::new(client, defaults.clone(), leadership);
    let live = world.look(&key).await.map_err(|error| anyhow::anyhow!("{error}"))?;
    let (seen, is_new) = match live {
        Some(mut seen) => {
            seen.cluster.spec = wanted.spec;
            // Nobody watched before this one look, which has nothing but the stamps.
            seen.answers = Answers::default();
            (seen, false)
        }
        None => {
            wanted.metadata.namespace = Some(key.namespace.clone());
            wanted.metadata.uid = Some(NO_UID.to_owned());
            (nothing_of(wanted), true)
        }
    };
    let now = clock::wall();
    let pods = seen.pods.values().map(|pod| (pod.name.as_str(), pod.ready, &pod.node));
    let Some(why) = out_of_reach(pods) else {
        let plan = plan::plan(&seen, &defaults, now);
        let lines = plan::preview(&seen, &defaults, now);
        return Ok(tell(&key, &seen, &plan, &lines, is_new));
    };
    let seen = as_noted(seen, &defaults);
    let plan = plan::plan(&seen, &defaults, now);
    let lines = plan::preview(&seen, &defaults, now);
    Ok(tell_from_afar(&key, &seen, &plan, &lines, &why))
}

/// Kubernetes says of a pod that it is ready, and for that it asked the node in it. When none answers here all the
/// same, it is this machine that does not reach them; why.
fn out_of_reach<'a>(
    mut pods: impl Iterator<Item = (&'a str, bool, &'a Node)> + Clone,
) -> Option<String> {
    let answers = |(_, _, node): (&str, bool, &Node)| !matches!(node, Node::Silent(_));
    if pods.clone().any(answers) {
        return None;
    }
    pods.find_map(|(name, ready, node)| match node {
        Node::Silent(why) if ready => Some(format!("pod {name}: {why}")),
        _ => None,
    })
}

/// With the nodes as the operator noted them. Of the regions nothing is known.
fn as_noted(mut seen: Seen, defaults: &Defaults) -> Seen {
    let status = seen.cluster.status.clone().unwrap_or_default();
    let Ok(desired) = Desired::of(&seen.cluster, defaults) else { return seen };
    let mut table = Table::default();
    for member in &status.members {
        let Some(ordinal) = desired.names.ordinal_of_pod(&member.pod_name) else { continue };
        let count = |number: i32| u32::try_from(number).unwrap_or(0);
        let node_id = u64::try_from(member.node_id).unwrap_or(0);
        let version = member.version.clone().unwrap_or_default();
        let states = [State::Joining, State::Learner, State::Draining, State::Removed];
        let state = states.into_iter().find(|state| state.name() == member.state);
        let state = state.unwrap_or(State::Up);
        table.nodes.push(Row {
            node_id,
            address: desired.names.client_address(ordinal),
            state,
            forced: false,
            demoted: false,
            alive: member.state == state.name(),
            down: false,
            leaders: count(member.leaders),
            peers: count(member.peers),
            leaders_evicted: false,
            version: version.clone(),
        });
        if let Some(pod) = seen.pods.get_mut(&ordinal) {
            pod.node = Node::Joined(Joined {
                cluster_id: desired.cluster_id.clone(),
                node_id,
                version,
                feature_level: status.feature_level.map_or(0, count),
                ready: pod.ready,
                complaints: Vec::new(),
                peers: Vec::new(),
            });
        }
    }
    seen.table = Some(table);
    seen
}

/// As [`tell`], of what the API server knows. What is next depends on what it does not know.
fn tell_from_afar(key: &Key, seen: &Seen, plan: &Plan, lines: &[String], why: &str) -> String {
    let status = seen.cluster.status.clone().unwrap_or_default();
    let mut told = vec![
        format!("KvCluster {}/{} is there", key.namespace, key.name),
        format!("Its pods cannot be reached from here ({why}), so nodes and regions are not asked."),
        "What follows is what Kubernetes knows, and what the operator noted of the nodes.".to_owned(),
        "To be told all, ask within Kubernetes:".to_owned(),
        "  kubectl -n flotilla-system exec -i deploy/flotilla-operator -- flotilla-operator plan -f - < FILE"
            .to_owned(),
    ];
    for member in &status.members {
        told.push(format!(
            "  pod {} was noted as node {}: {}, {} peers, {} leaders",
            member.pod_name, member.node_id, member.state, member.peers, member.leaders
        ));
    }
    if lines.is_empty() {
        told.push("No object differs from the spec.".to_owned());
    } else {
        told.push("Would be done, when nodes and regions allow it:".to_owned());
        told.extend(lines.iter().map(|line| format!("  - {line}")));
        told.push(
            "Objects are compared with those of an operator that was started with the options of this command."
                .to_owned(),
        );
    }
    told.push(match &status.operation {
        Some(operation) => format!(
            "Next: not known from here; the operator noted {} {}, {}, since {}",
            operation.kind, operation.target, operation.step, operation.started_at
        ),
        None => {
            "Next: not known from here; the operator noted nothing that is under way".to_owned()
        }
    });
    let wrong = |kind: &str, status: &str| {
        matches!((kind, status), ("Degraded", "True") | ("Available", "False" | "Unknown"))
    };
    for condition in status.conditions.iter().filter(|each| wrong(&each.kind, &each.status)) {
        told.push(format!(
            "The operator says: {} is {}: {}",
            condition.kind, condition.status, condition.message
        ));
    }
    for trouble in plan.troubles.iter().filter(|trouble| !OF_NODES.contains(&trouble.reason)) {
        told.push(format!("Trouble: {}: {}", trouble.reason, trouble.message));
    }
    told.join("\n") + "\n"
}

fn nothing_of(cluster: KvCluster) -> Seen {
    Seen {
        cluster,
        children: Default::default(),
        taken: Default::default(),
        answers: Default::default(),
        earlier: None,
        foreign_volumes: Default::default(),
        old_configs: Default::default(),
        pods: Default::default(),
        volumes: Default::default(),
        table: None,
        table_error: None,
        service_monitors: None,
        strays: Default::default(),
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cluster() -> KvCluster {
        let member = |id: i64, state: &str| {
            json!({"nodeId": id, "podName": "", "role": "voter", "state": state,
                "leaders": 2, "peers": 5, "version": "0.1.0"})
        };
        let cluster = json!({
            "apiVersion": "flotilla.dev/v1alpha1", "kind": "KvCluster",
            "metadata": {"name": "kv", "namespace": "ns", "uid": "0a"},
            "spec": {"storage": {"size": "1Gi"}},
            "status": {
                "clusterId": "0a",
                "members": [member(1, "Up"), member(2, "Down"), member(3, "Draining")],
                "operation": {"kind": "ScaleDown", "target": "pod-3", "step": "Drain",
                    "startedAt": "2026-01-01T00:00:00Z"},
                "conditions": [
                    {"type": "Degraded", "status": "True", "reason": "NodeDown",
                        "message": "node 2 does not answer",
                        "lastTransitionTime": "2026-01-01T00:00:00Z"},
                    {"type": "Available", "status": "True", "reason": "x", "message": "fine",
                        "lastTransitionTime": "2026-01-01T00:00:00Z"},
                ],
            },
        });
        let mut cluster: KvCluster = serde_json::from_value(cluster).expect("a cluster");
        let names = names(&cluster);
        let members = cluster.status.iter_mut().flat_map(|status| &mut status.members);
        for (ordinal, member) in (0..).zip(members) {
            member.pod_name = names.pod(ordinal);
        }
        cluster
    }

    fn names(cluster: &KvCluster) -> crate::names::Names {
        Desired::of(cluster, &Defaults::default()).expect("valid").names
    }

    #[test]
    fn nodes_that_are_ready_and_all_silent_are_out_of_reach_and_not_dead() {
        let silent = Node::Silent("no route".to_owned());
        let empty = Node::Unjoined { version: "0.1.0".to_owned() };
        for (why, pods, want) in [
            ("none", vec![], None),
            ("not ready either", vec![(false, &silent), (false, &silent)], None),
            ("one answers", vec![(true, &silent), (true, &empty)], None),
            (
                "ready for the kubelet",
                vec![(false, &silent), (true, &silent)],
                Some("pod b: no route"),
            ),
        ] {
            let pods = ["a", "b"]
                .into_iter()
                .zip(&pods)
                .map(|(name, (ready, node))| (name, *ready, *node));
            assert_eq!(out_of_reach(pods).as_deref(), want, "{why}");
        }
    }

    #[test]
    fn plan_from_afar_is_made_of_what_was_noted_and_says_what_it_does_not_know() {
        let cluster = cluster();
        let names = names(&cluster);
        let key = Key { namespace: "ns".to_owned(), name: "kv".to_owned() };
        let seen = as_noted(nothing_of(cluster), &Defaults::default());
        let rows: Vec<_> = seen.table.iter().flat_map(|table| &table.nodes).collect();
        let rows: Vec<_> = rows
            .iter()
            .map(|row| (names.ordinal_at(&row.address), row.node_id, row.state, row.alive))
            .collect();
        let want = [
            (Some(0), 1, State::Up, true),
            (Some(1), 2, State::Up, false),
            (Some(2), 3, State::Draining, true),
        ];
        assert_eq!(rows, want);
        let trouble = |reason| plan::Trouble { reason, message: "words".to_owned() };
        let plan = Plan {
            action: None,
            operation: None,
            why: String::new(),
            troubles: vec![trouble("QuorumLost"), trouble("NameTaken")],
            requeue: std::time::Duration::ZERO,
        };
        let lines = ["change Service kv at .spec".to_owned()];
        let told = tell_from_afar(&key, &seen, &plan, &lines, "pod x: no route");
        for part in [
            "cannot be reached from here (pod x: no route)",
            "was noted as node 2: Down, 5 peers, 2 leaders",
            "- change Service kv at .spec",
            "Next: not known from here; the operator noted ScaleDown pod-3, Drain, since 2026",
            "The operator says: Degraded is True: node 2 does not answer",
            "Trouble: NameTaken: words",
        ] {
            assert!(told.contains(part), "{part:?} is not in\n{told}");
        }
        for part in ["QuorumLost", "Available"] {
            assert!(!told.contains(part), "{part:?} is in\n{told}");
        }
    }
}
