//! One look, one plan: every scenario as a row.

mod annotations;
mod budget;
mod claims;
mod clocks;
mod growth;
mod ladder;
mod lasted;
mod marks;
mod others;
mod roll;
mod turns;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::OwnerReference};
use serde_json::{Value, json};

use super::*;
use crate::{
    children::Child,
    clock,
    crd::{KvCluster, KvClusterStatus, Member},
    names::Names,
    seen::{
        Exit, ForeignVolume, Joined, Kept, Node, Peer, Pod, Row, Slot, State, Table, VolumeClaim,
    },
};

const UID: &str = "0000000000000000000000000000000a";

fn defaults() -> Defaults {
    Defaults { server_image: "flotilla:1".into(), ..Defaults::default() }
}

fn now() -> Timestamp {
    Timestamp::from_second(1_700_000_000).expect("a time")
}

fn cluster(spec: Value) -> KvCluster {
    let mut whole = json!({
        "apiVersion": "flotilla.dev/v1alpha1", "kind": "KvCluster",
        "metadata": {"name": "kv", "namespace": "ns", "generation": 1,
            "uid": "00000000-0000-0000-0000-00000000000a"},
        "spec": {"replicas": 3, "replicationFactor": 3, "storage": {"size": "1Gi"}},
    });
    for (name, value) in spec.as_object().expect("an object") {
        whole["spec"][name] = value.clone();
    }
    serde_json::from_value(whole).expect("a cluster")
}

/// A node as the status has it, by the ordinal of its pod.
fn member(ordinal: i32, pvc_uid: Option<String>) -> Member {
    Member {
        node_id: i64::from(ordinal) + 1,
        pod_name: names().pod(ordinal),
        role: "voter".into(),
        state: "Up".into(),
        leaders: 0,
        peers: 1,
        pvc_uid,
        born_with: None,
        version: None,
    }
}

fn desired(cluster: &KvCluster) -> Desired {
    Desired::of(cluster, &defaults()).expect("a valid spec")
}

fn names() -> Names {
    Names { namespace: "ns".into(), name: "kv".into(), domain: "cluster.local".into() }
}

/// Objects as they are once applied.
fn children_of(desired: &Desired, replicas: i32) -> BTreeMap<Child, Value> {
    let sets = (0..replicas).map(Child::StatefulSet);
    let made = Child::SHARED.into_iter().chain(sets);
    let made = made.filter(|child| match child {
        Child::ServiceMonitor => false,
        Child::DisruptionBudget => child.is_wanted(desired) && replicas > 1,
        _ => child.is_wanted(desired),
    });
    made.map(|child| {
        let replicas = match child {
            Child::StatefulSet(_) => 1,
            _ => replicas.max(desired.spec.replicas),
        };
        let mut object = children::build(child, desired, replicas, None);
        object["metadata"]["uid"] = json!(format!("uid-{child:?}"));
        object["metadata"]["resourceVersion"] = json!("7");
        (child, object)
    })
    .collect()
}

fn node(id: u64, voters: &[u64]) -> Joined {
    let peer = Peer {
        region_id: 1,
        epoch: (1, 1),
        voters: voters.iter().copied().collect(),
        leads: id == voters[0],
        leader_node: Some(voters[0]),
        ..Peer::default()
    };
    Joined { cluster_id: UID.into(), ..Joined::sample(id, vec![peer]) }
}

fn pod(desired: &Desired, ordinal: i32, node: Node) -> Pod {
    Pod {
        name: names().pod(ordinal),
        uid: format!("pod-{ordinal}"),
        ready: matches!(&node, Node::Joined(joined) if joined.ready),
        terminating: false,
        ours: true,
        running: true,
        template_hash: Some(desired.template_hash.clone()),
        configs: [Child::ConfigMap.name(desired)].into(),
        ip: Some("10.0.0.1".into()),
        place: BTreeMap::new(),
        restarts: 0,
        problem: None,
        problem_is_of_another: false,
        last_exit: None,
        not_ready_since: None,
        disk_elsewhere: None,
        ready_since: Some(ago(3600)),
        running_since: Some(ago(3600)),
        node,
    }
}

fn volume(ordinal: i32) -> VolumeClaim {
    VolumeClaim {
        name: names().volume(ordinal),
        uid: format!("volume-{ordinal}"),
        version: "7".into(),
        owners: Vec::new(),
        volume: Some(format!("pv-{ordinal}")),
        requested: Quantity("1Gi".into()),
        capacity: Some(Quantity("1Gi".into())),
        growth: None,
        unnoted: false,
        decommissioned: None,
        terminating: false,
        kept: Kept::Nothing,
        machine_is_gone: false,
        can_grow: Some(true),
    }
}

/// All claims go with the cluster.
fn tie(seen: &mut Seen) {
    let owner = children::co_owner(&desired(&seen.cluster));
    seen.volumes.values_mut().for_each(|volume| volume.owners = vec![owner.clone()]);
}

fn row(ordinal: i32) -> Row {
    Row {
        node_id: u64::try_from(ordinal).expect("an ordinal") + 1,
        address: names().client_address(ordinal),
        state: State::Up,
        forced: false,
        demoted: false,
        alive: true,
        down: false,
        leaders: 0,
        peers: 1,
        leaders_evicted: false,
        version: "0.1.0".into(),
    }
}

/// A cluster as it should be: `count` nodes, one region on the first three. Pods and objects are as the
/// spec `started` says, which may be an older one.
fn well(count: i32, spec: Value, started: Value) -> Seen {
    let mut cluster = cluster(spec);
    cluster.status =
        Some(KvClusterStatus { cluster_id: Some(UID.into()), ..KvClusterStatus::default() });
    let old = desired(&{
        let mut old = self::cluster(started);
        old.status = cluster.status.clone();
        old
    });
    let voters: Vec<u64> = (1..=3.min(count)).map(|id| u64::try_from(id).expect("an id")).collect();
    let mut children = children_of(&old, count);
    let mut old_configs = BTreeMap::new();
    let config = |desired: &Desired| Child::ConfigMap.name(desired);
    if config(&old) != config(&desired(&cluster)) {
        children.remove(&Child::ConfigMap);
        old_configs.insert(config(&old), "uid-of-old".to_owned());
    }
    let mut seen = Seen {
        children,
        taken: BTreeMap::new(),
        earlier: None,
        answers: Default::default(),
        foreign_volumes: BTreeMap::new(),
        pods: (0..count)
            .map(|at| {
                let id = u64::try_from(at).expect("an ordinal") + 1;
                let mut joined = node(id, &voters);
                if !voters.contains(&id) {
                    joined.peers.clear();
                }
                (at, pod(&old, at, Node::Joined(joined)))
            })
            .collect(),
        volumes: (0..count).map(|at| (at, volume(at))).collect(),
        table: Some(Table {
            version: 40,
            replication_factor: 3,
            nodes: (0..count).map(row).collect(),
        }),
        table_error: None,
        service_monitors: Some(false),
        strays: BTreeMap::new(),
        old_configs,
        cluster,
    };
    if !seen.cluster.spec.storage.retain {
        tie(&mut seen);
    }
    seen
}

/// With children as the present spec says.
fn settled(count: i32, spec: Value) -> Seen {
    well(count, spec.clone(), spec)
}

fn record(seen: &mut Seen, kind: &str, target: &str, step: &str) -> Operation {
    let operation = Operation {
        kind: kind.into(),
        target: target.into(),
        step: step.into(),
        started_at: clock::text(now()),
        node_id: None,
        volume_uid: None,
        lasted: Vec::new(),
    };
    let status = seen.cluster.status.get_or_insert_default();
    status.operation = Some(operation.clone());
    operation
}

fn silent(seen: &mut Seen, ordinal: i32) {
    let pod = seen.pods.get_mut(&ordinal).expect("a pod");
    pod.node = Node::Silent("no answer".into());
    pod.ready = false;
    let id = u64::try_from(ordinal).expect("an ordinal") + 1;
    let table = seen.table.as_mut().expect("a table");
    table.nodes.iter_mut().find(|row| row.node_id == id).expect("a row").alive = false;
}

fn table(seen: &mut Seen) -> &mut Table {
    seen.table.as_mut().expect("a table")
}

/// What a row expects.
enum Want {
    /// This action, by name and a part of it as it is printed.
    Does(&'static str, &'static str),
    /// Waits, with these words.
    Waits(&'static str),
    Nothing,
}

fn second_after(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second() + 1).expect("a time")
}

fn ago(seconds: i64) -> String {
    clock::text(Timestamp::from_second(now().as_second() - seconds).expect("a time"))
}

/// Nor has it for so many seconds.
fn does_not_run(seen: &mut Seen, ordinal: i32, seconds: i64) {
    silent(seen, ordinal);
    let pod = seen.pods.get_mut(&ordinal).expect("a pod");
    (pod.running, pod.ready) = (false, false);
    pod.not_ready_since = Some(ago(seconds));
}

/// Its StatefulSet and it have the template that is asked for.
fn has_its_turn(seen: &mut Seen, ordinal: i32) {
    let desired = desired(&seen.cluster);
    let child = Child::StatefulSet(ordinal);
    let mut set = children::build(child, &desired, 1, None);
    for field in ["uid", "resourceVersion"] {
        set["metadata"][field] = seen.children[&child]["metadata"][field].clone();
    }
    seen.children.insert(child, set);
    let pod = seen.pods.get_mut(&ordinal).expect("a pod");
    pod.template_hash = Some(desired.template_hash.clone());
    record(seen, "RollingUpdate", &names().pod(ordinal), "WaitForNode");
}

/// As a pass before this one left it.
fn keep_budget(seen: &mut Seen) {
    let Ok(desired) = Desired::of(&seen.cluster, &defaults()) else { return };
    let Some(live) = seen.children.get(&Child::DisruptionBudget).cloned() else { return };
    let budget = View::new(seen, &desired, now()).as_applied(Child::DisruptionBudget, &live);
    seen.children.insert(Child::DisruptionBudget, budget);
}

/// It lets one pod go, or none.
fn turn_budget(seen: &mut Seen, open: bool) {
    let pods = i32::try_from(seen.held().count()).expect("small");
    let mut budget = children::budget(&desired(&seen.cluster), pods, open);
    for field in ["uid", "resourceVersion"] {
        budget["metadata"][field] =
            seen.children[&Child::DisruptionBudget]["metadata"][field].clone();
    }
    seen.children.insert(Child::DisruptionBudget, budget);
}

/// What the budget is changed to.
fn budget_of(plan: &Plan) -> Option<i64> {
    match &plan.action {
        Some(Action::Change(Change::Apply(Child::DisruptionBudget, budget, _))) => {
            budget["spec"]["minAvailable"].as_i64()
        }
        _ => None,
    }
}

#[test]
fn drain_takes_no_second_copy() {
    let row = |change: &dyn Fn(&mut Seen)| {
        let mut seen = settled(4, json!({"replicas": 4}));
        change(&mut seen);
        seen
    };
    fn peer(seen: &mut Seen) -> &mut Peer {
        let Node::Joined(node) = &mut seen.pods.get_mut(&1).expect("a pod").node else {
            unreachable!("it is joined")
        };
        &mut node.peers[0]
    }
    let closed = |seen: &mut Seen| turn_budget(seen, false);
    let whole_since = |seconds: i64| {
        move |seen: &mut Seen| {
            turn_budget(seen, false);
            let since = Timestamp::from_second(now().as_second() - seconds).expect("a time");
            seen.answers.watch(true, since);
            seen.answers.watch(true, now());
        }
    };
    for (why, seen, want) in [
        ("all is whole", row(&|_| {}), None),
        ("a node without a copy is down", row(&|seen| silent(seen, 3)), Some(4)),
        ("a node is down", row(&|seen| silent(seen, 1)), Some(4)),
        ("a peer is behind", row(&|seen| peer(seen).behind = true), Some(4)),
        ("a peer is quarantined", row(&|seen| peer(seen).quarantined = true), Some(4)),
        ("the driver does not answer", row(&|seen| seen.table = None), Some(4)),
        (
            "nobody answers for a part of the keys",
            row(&|seen| {
                for pod in seen.pods.values_mut() {
                    let Node::Joined(node) = &mut pod.node else { unreachable!("it is joined") };
                    node.peers.iter_mut().for_each(|peer| peer.start_key = b"g".to_vec());
                }
            }),
            Some(4),
        ),
        (
            "it is closed, and a node is still down",
            row(&|seen| {
                closed(seen);
                silent(seen, 1);
            }),
            None,
        ),
        ("it is closed, and all is whole again", row(&whole_since(60)), Some(3)),
        ("all is whole since a moment ago", row(&whole_since(59)), None),
        ("for all that is known", row(&closed), None),
        (
            "it was whole for long until a look ago",
            row(&|seen| {
                whole_since(60)(seen);
                seen.answers.watch(false, now());
            }),
            None,
        ),
        (
            "all is whole between two pods of an update",
            row(&|seen| {
                closed(seen);
                record(seen, "RollingUpdate", "kv-2", "WaitForNode");
                seen.pods.get_mut(&0).expect("a pod").template_hash = Some("old".to_owned());
            }),
            None,
        ),
        (
            "all is whole while a drain is under way",
            row(&|seen| {
                record(seen, "ScaleDown", "kv-3", "RemoveNode");
            }),
            None,
        ),
    ] {
        let plan = plan(&seen, &defaults(), now());
        assert_eq!(budget_of(&plan), want, "{why}: {plan:#?}");
    }
}

fn check(rows: Vec<(&str, Seen, Want, &str)>) {
    for (why, mut seen, want, trouble) in rows {
        keep_budget(&mut seen);
        let plan = plan(&seen, &defaults(), now());
        let shown = format!("{why}: {plan:#?}");
        // What is told is written: no text may count the seconds.
        let later = super::plan(&seen, &defaults(), second_after(now()));
        if later.action == plan.action {
            assert_eq!((&later.why, &later.troubles), (&plan.why, &plan.troubles), "{shown}");
        }
        match want {
            Want::Does(name, part) => {
                let action = plan.action.as_ref().unwrap_or_else(|| panic!("{shown}"));
                assert_eq!(action.name(), name, "{shown}");
                assert!(format!("{action:?}").contains(part), "{part}: {shown}");
            }
            Want::Waits(words) => {
                assert!(plan.action.is_none() && plan.operation.is_some(), "{shown}");
                assert!(plan.why.contains(words), "{words}: {shown}");
            }
            Want::Nothing => assert!(plan.action.is_none() && plan.operation.is_none(), "{shown}"),
        }
        let told = plan.troubles.iter().any(|known| known.reason == trouble);
        assert!(trouble.is_empty() || told, "{trouble} is not told: {shown}");
        assert!(!trouble.is_empty() || plan.troubles.is_empty(), "untold: {shown}");
    }
}

#[test]
fn cluster_begins_once() {
    let new = |change: &dyn Fn(&mut Seen)| {
        let mut seen = settled(3, json!({}));
        seen.cluster.status = None;
        seen.table = None;
        for pod in seen.pods.values_mut() {
            pod.node = Node::Unjoined { version: "0.1.0".into() };
            pod.ready = false;
        }
        change(&mut seen);
        seen
    };
    let noted = |volume: &str| KvClusterStatus {
        bootstrap_volume: Some(volume.into()),
        ..KvClusterStatus::default()
    };
    let joined = || Node::Joined(node(1, &[1]));
    check(vec![
        (
            "nothing is there",
            new(&|seen| seen.children.clear()),
            Want::Does("Apply", "ServiceAccount"),
            "",
        ),
        ("all pods are up", new(&|_| {}), Want::Does("Initialize", UID), ""),
        (
            "all of them at once, with the keys at which regions are cut",
            new(&|seen| seen.cluster.spec.regions.split_keys = vec!["m".into()]),
            Want::Does(
                "Initialize",
                "first_nodes: [\"kv-0-0.kv-headless.ns.svc.cluster.local:7420\", \
                 \"kv-1-0.kv-headless.ns.svc.cluster.local:7420\", \
                 \"kv-2-0.kv-headless.ns.svc.cluster.local:7420\"], split_keys: [\"m\"]",
            ),
            "",
        ),
        (
            "the last pod is not up",
            new(&|seen| {
                seen.pods.get_mut(&2).expect("a pod").node = Node::Silent("refused".into());
            }),
            Want::Waits("waiting for pod kv-2-0: refused"),
            "",
        ),
        (
            "the first pod is not up",
            new(&|seen| {
                seen.pods.get_mut(&0).expect("a pod").node = Node::Silent("refused".into());
            }),
            Want::Waits("waiting for pod kv-0-0: refused"),
            "",
        ),
        ("there is no pod yet", new(&|seen| seen.pods.clear()), Want::Waits("waiting for pod"), ""),
        (
            "the call was made, its answer lost",
            new(&|seen| {
                seen.pods.get_mut(&0).expect("a pod").node = joined();
            }),
            Want::Does("LatchCluster", UID),
            "",
        ),
        (
            "the same volume is noted",
            new(&|seen| seen.cluster.status = Some(noted("volume-0"))),
            Want::Does("Initialize", UID),
            "",
        ),
        (
            "another volume is noted",
            new(&|seen| seen.cluster.status = Some(noted("volume-x"))),
            Want::Waits("the first volume is gone"),
            "BootstrapVolumeLost",
        ),
        (
            "another volume is noted, and the others may have begun with it",
            new(&|seen| {
                seen.cluster.status = Some(noted("volume-x"));
                for ordinal in [1, 2] {
                    seen.pods.get_mut(&ordinal).expect("a pod").node =
                        Node::Silent("refused".into());
                }
            }),
            Want::Waits("the other nodes know, once all of them run: waiting for pod kv-1-0"),
            "BootstrapVolumeLost",
        ),
        (
            "another volume is noted, of the only copy that there was",
            new(&|seen| {
                seen.cluster.status = Some(noted("volume-x"));
                seen.cluster.spec.replication_factor = 1;
            }),
            Want::Waits("the first volume is gone"),
            "BootstrapVolumeLost",
        ),
        (
            "another volume is noted, of the only node",
            new(&|seen| {
                seen.cluster.status = Some(noted("volume-x"));
                (seen.cluster.spec.replicas, seen.cluster.spec.replication_factor) = (1, 1);
                for ordinal in [1, 2] {
                    seen.pods.remove(&ordinal);
                    seen.volumes.remove(&ordinal);
                    seen.children.remove(&Child::StatefulSet(ordinal));
                }
                seen.children.remove(&Child::DisruptionBudget);
            }),
            Want::Waits("the first volume is gone"),
            "BootstrapVolumeLost",
        ),
        (
            "so may one that has a volume and no pod: it is made, to be asked",
            new(&|seen| {
                seen.cluster.status = Some(noted("volume-x"));
                seen.pods.remove(&2);
                seen.children.remove(&Child::StatefulSet(2));
                seen.cluster.spec.replicas = 2;
                seen.cluster.spec.replication_factor = 2;
            }),
            Want::Does("Scale", "ordinal: 2"),
            "",
        ),
        (
            "another one knows that it has begun",
            new(&|seen| {
                seen.cluster.status = Some(noted("volume-x"));
                seen.pods.get_mut(&1).expect("a pod").node = Node::Joined(node(2, &[1, 2, 3]));
            }),
            Want::Does("LatchCluster", UID),
            "",
        ),
        (
            "it has begun, and the disk is empty",
            new(&|seen| {
                seen.cluster.status = Some(KvClusterStatus {
                    cluster_id: Some(UID.into()),
                    ..KvClusterStatus::default()
                });
            }),
            Want::Nothing,
            "DriverUnreachable",
        ),
        (
            "the disk is another cluster's",
            new(&|seen| {
                let other = Joined { cluster_id: "f".repeat(32), ..node(1, &[1]) };
                seen.pods.get_mut(&1).expect("a pod").node = Node::Joined(other);
            }),
            Want::Waits("belongs to cluster"),
            "ForeignVolume",
        ),
        (
            "an older cluster is to be taken over",
            new(&|seen| {
                seen.cluster.metadata.annotations =
                    Some([(crate::names::ADOPT.to_owned(), "f".repeat(32))].into());
            }),
            Want::Waits("waiting for a node of cluster"),
            "",
        ),
    ]);
}

/// Somebody does what it says.
#[test]
fn lost_first_volume_is_looked_for_before_anything_is_deleted() {
    for (replicas, factor) in [(1, 1), (3, 1), (3, 3)] {
        let mut seen =
            settled(replicas, json!({"replicas": replicas, "replicationFactor": factor}));
        seen.cluster.status = None;
        seen.table = None;
        for pod in seen.pods.values_mut() {
            (pod.node, pod.ready) = (Node::Unjoined { version: "0.1.0".into() }, false);
        }
        keep_budget(&mut seen);
        // The disk is noted with its claim.
        let called = plan(&seen, &defaults(), now());
        let status = crate::status::compute(&seen, &called, &defaults(), now());
        assert_eq!(status.bootstrap_volume.as_deref(), Some("volume-0"));
        assert_eq!(status.bootstrap_disk.as_deref(), Some("pv-0"));
        seen.cluster.status = Some(status);
        let claim = seen.volumes.get_mut(&0).expect("a volume");
        (claim.uid, claim.volume) = ("volume-y".into(), Some("pv-y".into()));
        let lost = plan(&seen, &defaults(), now());
        let status = crate::status::compute(&seen, &lost, &defaults(), now());
        assert_eq!(status.bootstrap_disk.as_deref(), Some("pv-0"), "it stays noted");
        let told = lost.troubles.iter().find(|told| told.reason == "BootstrapVolumeLost");
        let words = &told.expect("told").message;
        let at = |part: &str| words.find(part).unwrap_or_else(|| panic!("{part}: {words}"));
        assert!(at("PersistentVolume pv-0") < at("delete"), "{words}");
        assert_eq!(words.contains("alone may hold"), factor == 1, "{words}");
        // Nor is it known of clusters that noted the claim alone.
        seen.cluster.status.as_mut().expect("a status").bootstrap_disk = None;
        let lost = plan(&seen, &defaults(), now());
        assert!(lost.troubles.iter().any(|told| told.message.contains("its PersistentVolume (")));
    }
}

#[test]
fn nodes_join_one_by_one() {
    let with = |ordinal: i32, node: Node, row: Option<State>| {
        let mut seen = settled(3, json!({}));
        let pod = seen.pods.get_mut(&ordinal).expect("a pod");
        pod.node = node;
        pod.ready = false;
        let table = table(&mut seen);
        match row {
            Some(state) => table.nodes[2].state = state,
            None => {
                table.nodes.remove(2);
            }
        }
        for pod in seen.pods.values_mut() {
            if let Node::Joined(joined) = &mut pod.node {
                for peer in &mut joined.peers {
                    peer.voters = [1, 2].into();
                }
            }
        }
        seen
    };
    let empty = || Node::Unjoined { version: "0.1.0".into() };
    let node_in_service = || Node::Joined(Joined { peers: vec![], ..node(3, &[1]) });
    check(vec![
        (
            "an empty disk",
            with(2, empty(), None),
            Want::Does("AddLearner", "expected_version: 40"),
            "UnderReplicated",
        ),
        (
            "its id is taken, its disk does not know",
            with(2, empty(), Some(State::Joining)),
            Want::Does("AddLearner", "kv-2-0.kv-headless.ns.svc.cluster.local:7420"),
            "UnderReplicated",
        ),
        (
            "a learner that is heard",
            with(2, Node::Joined(Joined { peers: vec![], ..node(3, &[1]) }), Some(State::Learner)),
            Want::Does("Promote", "node_id: 3"),
            "UnderReplicated",
        ),
        (
            "a learner that a person has demoted",
            {
                let mut seen = with(2, node_in_service(), Some(State::Learner));
                table(&mut seen).nodes[2].demoted = true;
                seen.pods.get_mut(&2).expect("a pod").ready = true;
                seen
            },
            Want::Nothing,
            "UnderReplicated",
        ),
        (
            "a learner that is not heard",
            with(2, Node::Silent("x".into()), Some(State::Learner)),
            Want::Waits("waiting for node 3"),
            "UnderReplicated",
        ),
        (
            "more replicas",
            {
                let mut seen = settled(3, json!({"replicas": 5}));
                seen.children = children_of(&desired(&seen.cluster), 3);
                seen
            },
            Want::Does("Scale", "ordinal: 3"),
            "",
        ),
        (
            "an ordinal is used again",
            {
                let mut seen = settled(4, json!({"replicas": 5}));
                let mut old = volume(4);
                old.decommissioned = Some("5".into());
                seen.volumes.insert(4, old);
                seen
            },
            Want::Does("DeleteVolume", "uid: \"volume-4\", keep: Some(\"pv-4\")"),
            "",
        ),
        (
            "its old volume is being deleted",
            {
                let mut seen = settled(4, json!({"replicas": 5}));
                let mut old = volume(4);
                old.decommissioned = Some("5".into());
                old.terminating = true;
                seen.volumes.insert(4, old);
                seen
            },
            Want::Waits("is being deleted"),
            "",
        ),
    ]);
}

#[test]
fn regions_get_more_peers_after_nodes_came_and_fewer_before_they_leave() {
    let factor = |nodes: i32, replicas: i32, factor: i32| {
        settled(nodes, json!({"replicas": replicas, "replicationFactor": factor}))
    };
    check(vec![
        (
            "there are nodes for them",
            factor(5, 5, 5),
            Want::Does("SetReplicationFactor", "replication_factor: 5, expected_version: 40"),
            "",
        ),
        ("nodes come first", factor(3, 5, 5), Want::Does("Scale", "ordinal: 3"), ""),
        (
            "before nodes leave",
            factor(5, 1, 1),
            Want::Does("SetReplicationFactor", "replication_factor: 1"),
            "",
        ),
        (
            "a node is down, which may hold the copy that counts",
            {
                let mut seen = factor(5, 5, 1);
                silent(&mut seen, 1);
                seen
            },
            Want::Waits("node 2 is down"),
            "ReplicationFactorRefused",
        ),
    ]);
}

#[test]
fn nodes_leave_before_their_pods() {
    let fewer = |change: &dyn Fn(&mut Seen)| {
        let mut seen = settled(5, json!({}));
        change(&mut seen);
        seen
    };
    let left = |change: &dyn Fn(&mut Seen)| {
        fewer(&|seen| {
            for at in [3, 4] {
                table(seen).nodes[at].state = State::Removed;
                let ordinal = i32::try_from(at).expect("small");
                seen.volumes.get_mut(&ordinal).expect("a volume").decommissioned = Some("x".into());
                seen.pods.get_mut(&ordinal).expect("a pod").node =
                    Node::Removed { cluster_id: UID.into(), node_id: at as u64 + 1 };
                let set = seen.children.get_mut(&Child::StatefulSet(ordinal)).expect("a set");
                set["spec"]["replicas"] = json!(0);
            }
            let fewer = children_of(&desired(&seen.cluster), 3);
            let budget = Child::DisruptionBudget;
            seen.children.insert(budget, fewer[&budget].clone());
            change(seen);
        })
    };
    let state = |ordinal: usize, state: State| {
        move |seen: &mut Seen| {
            table(seen).nodes[ordinal].state = state;
        }
    };
    check(vec![
        (
            "the highest ordinal goes first",
            fewer(&|_| {}),
            Want::Does("RemoveNode", "node_id: 5, force: false, expected_version: 40"),
            "",
        ),
        ("it drains", fewer(&state(4, State::Draining)), Want::Waits("node 5 drains: 1 peers"), ""),
        (
            "wanted again",
            {
                let mut seen = settled(5, json!({"replicas": 5}));
                table(&mut seen).nodes[4].state = State::Draining;
                seen
            },
            Want::Does("CancelRemoveNode", "node_id: 5"),
            "",
        ),
        (
            "it has left",
            fewer(&|seen| {
                table(seen).nodes[4].state = State::Removed;
                seen.pods.get_mut(&4).expect("a pod").node =
                    Node::Removed { cluster_id: UID.into(), node_id: 5 };
            }),
            Want::Does("RemoveNode", "node_id: 4"),
            "",
        ),
        (
            "both have left: the volume is marked",
            fewer(&|seen| {
                for at in [3, 4] {
                    table(seen).nodes[at].state = State::Removed;
                }
                for (at, id) in [(3, 4), (4, 5)] {
                    seen.pods.get_mut(&at).expect("a pod").node =
                        Node::Removed { cluster_id: UID.into(), node_id: id };
                }
            }),
            Want::Does("MarkVolume", "node_id: \"5\""),
            "",
        ),
        (
            "both are marked: a pod goes",
            fewer(&|seen| {
                for at in [3, 4] {
                    table(seen).nodes[at].state = State::Removed;
                    let ordinal = i32::try_from(at).expect("small");
                    seen.volumes.get_mut(&ordinal).expect("a volume").decommissioned =
                        Some("x".into());
                    seen.pods.get_mut(&ordinal).expect("a pod").node =
                        Node::Removed { cluster_id: UID.into(), node_id: at as u64 + 1 };
                }
            }),
            Want::Does("Scale", "ordinal: 4"),
            "",
        ),
        ("both pods are told to go", left(&|_| {}), Want::Waits("pod kv-3-0 is stopping"), ""),
        (
            "they are gone: their StatefulSets go",
            left(&|seen| {
                seen.pods.remove(&3);
                seen.pods.remove(&4);
            }),
            Want::Does(
                "Delete",
                "name: \"kv-3\", uid: \"uid-StatefulSet(3)\", keep_dependents: true",
            ),
            "",
        ),
        (
            "another node is down",
            fewer(&|seen| silent(seen, 1)),
            Want::Waits("node 2 is down"),
            "ScaleDownRefused",
        ),
        (
            "the one that goes is down",
            fewer(&|seen| silent(seen, 4)),
            Want::Does("RemoveNode", "node_id: 5, force: false"),
            "NodeDown",
        ),
        (
            "too few would stay",
            fewer(&|seen| {
                seen.cluster.spec.replicas = 2;
                table(seen).nodes.truncate(3);
                for at in [3, 4] {
                    seen.pods.remove(&at);
                    seen.volumes.remove(&at);
                }
                seen.children = children_of(&desired(&seen.cluster), 3);
            }),
            Want::Waits("2 nodes would stay"),
            "ScaleDownRefused",
        ),
        (
            "a pod that never joined goes with its volume marked",
            fewer(&|seen| {
                table(seen).nodes.truncate(3);
                for at in [3, 4] {
                    seen.pods.get_mut(&at).expect("a pod").node =
                        Node::Unjoined { version: String::new() };
                }
            }),
            Want::Does("MarkVolume", "none"),
            "",
        ),
    ]);
}

#[test]
fn pods_are_restarted_one_by_one_and_only_when_nothing_is_missing() {
    let newer = || json!({"config": {"log_level": "debug"}});
    let written = |seen: &mut Seen, ordinals: &[i32]| {
        let now = children_of(&desired(&seen.cluster), 3);
        for ordinal in ordinals {
            let child = Child::StatefulSet(*ordinal);
            seen.children.insert(child, now[&child].clone());
        }
    };
    let waiting = |change: &dyn Fn(&mut Seen)| {
        let mut seen = well(3, newer(), json!({}));
        let now = children_of(&desired(&seen.cluster), 3);
        seen.children.insert(Child::ConfigMap, now[&Child::ConfigMap].clone());
        seen.old_configs =
            seen.pods[&0].configs.iter().map(|name| (name.clone(), "u".into())).collect();
        turn_budget(&mut seen, false);
        change(&mut seen);
        seen
    };
    // It has been its turn: its StatefulSet has the new template.
    let old = |change: &dyn Fn(&mut Seen)| {
        waiting(&|seen| {
            written(seen, &[0, 1, 2]);
            change(seen);
        })
    };
    let update = |seen: &mut Seen, ordinal: i32| {
        let hash = desired(&seen.cluster).template_hash;
        seen.pods.get_mut(&ordinal).expect("a pod").template_hash = Some(hash);
    };
    check(vec![
        (
            "the new settings first",
            {
                let mut seen = well(3, newer(), json!({}));
                // It has another name.
                seen.children.remove(&Child::ConfigMap);
                seen
            },
            Want::Does("Apply", "ConfigMap"),
            "",
        ),
        (
            "first of all no other pod may go",
            waiting(&|seen| turn_budget(seen, true)),
            Want::Does("Apply", "\"minAvailable\": Number(3)"),
            "",
        ),
        (
            "no budget is wanted",
            waiting(&|seen| {
                seen.cluster.spec.pod_disruption_budget = false;
                seen.children.remove(&Child::DisruptionBudget);
            }),
            Want::Does("Apply", "StatefulSet(2)"),
            "",
        ),
        (
            "the template right before the pod",
            waiting(&|_| {}),
            Want::Does("Apply", "StatefulSet(2)"),
            "",
        ),
        (
            "it is written: the pod",
            waiting(&|seen| {
                written(seen, &[2]);
                record(seen, "RollingUpdate", "kv-2-0", "WriteTemplate");
            }),
            Want::Does("DeletePod", "pod-2"),
            "",
        ),
        (
            "it is written, and another node is down: it is taken back",
            waiting(&|seen| {
                written(seen, &[2]);
                silent(seen, 0);
                record(seen, "RollingUpdate", "kv-2-0", "WriteTemplate");
            }),
            Want::Does("Apply", "StatefulSet(2)"),
            "NodeDown",
        ),
        (
            "that pod does not run, and gets it",
            waiting(&|seen| {
                written(seen, &[2]);
                does_not_run(seen, 2, 30);
                let pod = seen.pods.get_mut(&2).expect("a pod");
                pod.problem = Some(("CrashLoopBackOff".into(), "x".into()));
                silent(seen, 0);
            }),
            Want::Does("DeletePod", "pod-2"),
            "QuorumLost",
        ),
        (
            "it was written, and the spec was put back",
            {
                let mut seen = settled(3, json!({}));
                let other = children_of(&desired(&cluster(newer())), 3);
                let child = Child::StatefulSet(2);
                seen.children.insert(child, other[&child].clone());
                seen
            },
            Want::Does("Apply", "StatefulSet(2)"),
            "",
        ),
        (
            "a pod that has not run for a while gets it without waiting for its turn",
            waiting(&|seen| does_not_run(seen, 1, 30)),
            Want::Does("Apply", "StatefulSet(1)"),
            "NodeDown",
        ),
        (
            "one that may be starting does not, while another is having its turn",
            waiting(&|seen| {
                has_its_turn(seen, 0);
                does_not_run(seen, 1, 29);
            }),
            Want::Waits("kv-0-0"),
            "NodeDown",
        ),
        (
            "nor one that does not start, while what it would get runs nowhere",
            waiting(&|seen| {
                has_its_turn(seen, 0);
                does_not_run(seen, 0, 900);
                does_not_run(seen, 1, 600);
            }),
            Want::Waits("kv-0-0"),
            "QuorumLost",
        ),
        (
            "what it would get runs somewhere",
            waiting(&|seen| {
                has_its_turn(seen, 0);
                does_not_run(seen, 1, 30);
            }),
            Want::Does("Apply", "StatefulSet(1)"),
            "NodeDown",
        ),
        (
            "what it would get runs and is not ready, as between two ends, and another has what it had",
            waiting(&|seen| {
                has_its_turn(seen, 0);
                seen.pods.get_mut(&0).expect("a pod").ready = false;
                does_not_run(seen, 1, 30);
            }),
            Want::Waits("kv-0-0"),
            "NodeDown",
        ),
        (
            "nor is it proof that it is ready since a moment ago",
            waiting(&|seen| {
                has_its_turn(seen, 0);
                seen.pods.get_mut(&0).expect("a pod").ready_since = Some(ago(14));
                does_not_run(seen, 1, 30);
            }),
            Want::Waits("kv-0-0"),
            "NodeDown",
        ),
        (
            "nothing is ready with what it had",
            waiting(&|seen| {
                has_its_turn(seen, 0);
                seen.pods.get_mut(&0).expect("a pod").ready = false;
                does_not_run(seen, 1, 30);
                does_not_run(seen, 2, 30);
            }),
            Want::Does("Apply", "StatefulSet(1)"),
            "QuorumLost",
        ),
        (
            "nothing runs, and has not for long",
            waiting(&|seen| {
                has_its_turn(seen, 0);
                (0..3).for_each(|ordinal| does_not_run(seen, ordinal, 300));
                seen.table = None;
            }),
            Want::Does("Apply", "StatefulSet(1)"),
            "QuorumLost",
        ),
        (
            "nothing runs since a moment ago",
            waiting(&|seen| {
                has_its_turn(seen, 0);
                (0..3).for_each(|ordinal| does_not_run(seen, ordinal, 299));
                seen.table = None;
            }),
            Want::Nothing,
            "QuorumLost",
        ),
        (
            "a pod that cannot be made gets none that runs nowhere",
            waiting(&|seen| {
                has_its_turn(seen, 0);
                does_not_run(seen, 0, 900);
                seen.pods.remove(&1);
                let mut operation = record(seen, "RollingUpdate", "kv-1-0", "WaitForPod");
                operation.started_at = ago(600);
                seen.cluster.status.get_or_insert_default().operation = Some(operation);
            }),
            Want::Waits("kv-1-0"),
            "QuorumLost",
        ),
        (
            "a pod that was evicted comes back as it was",
            waiting(&|seen| {
                seen.pods.remove(&1);
                table(seen).nodes[1].alive = false;
            }),
            Want::Waits("pod kv-1-0 is to be made anew"),
            "NodeDown",
        ),
        (
            "also one that has been the next for long: it is missed since a moment ago",
            waiting(&|seen| {
                seen.pods.remove(&1);
                table(seen).nodes[1].alive = false;
                let mut operation = record(seen, "RollingUpdate", "kv-1-0", "Blocked");
                operation.started_at = ago(600);
                seen.cluster.status.get_or_insert_default().operation = Some(operation);
            }),
            Want::Waits("pod kv-1-0 is to be made anew"),
            "NodeDown",
        ),
        (
            "it does not come back",
            waiting(&|seen| {
                seen.pods.remove(&1);
                table(seen).nodes[1].alive = false;
                let mut operation = record(seen, "RollingUpdate", "kv-1-0", "WaitForPod");
                operation.started_at =
                    clock::text(Timestamp::from_second(1_700_000_000 - 31).expect("a time"));
                seen.cluster.status.get_or_insert_default().operation = Some(operation);
            }),
            Want::Does("Apply", "StatefulSet(1)"),
            "NodeDown",
        ),
        (
            "old settings stay while a pod has them",
            waiting(&|seen| {
                written(seen, &[0, 1, 2]);
                for ordinal in 0..3 {
                    update(seen, ordinal);
                }
            }),
            Want::Nothing,
            "",
        ),
        (
            "and go with the last one",
            waiting(&|seen| {
                written(seen, &[0, 1, 2]);
                let name = Child::ConfigMap.name(&desired(&seen.cluster));
                for ordinal in 0..3 {
                    update(seen, ordinal);
                    seen.pods.get_mut(&ordinal).expect("a pod").configs = [name.clone()].into();
                }
            }),
            Want::Does("Delete", "ConfigMap"),
            "",
        ),
        (
            "the node with the fewest leaders",
            old(&|seen| {
                for (at, leaders) in [(0, 3), (1, 0), (2, 2)] {
                    table(seen).nodes[at].leaders = leaders;
                }
            }),
            Want::Does("DeletePod", "pod-1"),
            "",
        ),
        (
            "its leaders go first",
            old(&|seen| {
                for at in 0..3 {
                    table(seen).nodes[at].leaders = 2;
                }
            }),
            Want::Does("EvictLeaders", "node_id: 3, duration: 120s"),
            "",
        ),
        (
            "they are going",
            old(&|seen| {
                for at in 0..3 {
                    table(seen).nodes[at].leaders = 2;
                }
                table(seen).nodes[2].leaders_evicted = true;
                record(seen, "RollingUpdate", "kv-2-0", "EvictLeaders");
            }),
            Want::Waits("hands 2 leaders over"),
            "",
        ),
        (
            "they do not go, for half a minute",
            old(&|seen| {
                for at in 0..3 {
                    table(seen).nodes[at].leaders = 2;
                }
                table(seen).nodes[2].leaders_evicted = true;
                let mut operation = record(seen, "RollingUpdate", "kv-2-0", "EvictLeaders");
                operation.started_at =
                    clock::text(Timestamp::from_second(1_700_000_000 - 31).expect("a time"));
                seen.cluster.status.get_or_insert_default().operation = Some(operation);
            }),
            Want::Does("DeletePod", "pod-2"),
            "",
        ),
        (
            "it is being restarted",
            old(&|seen| {
                seen.pods.remove(&2);
                table(seen).nodes[2].alive = false;
                record(seen, "RollingUpdate", "kv-2-0", "DeletePod");
            }),
            Want::Waits("is being restarted"),
            "NodeDown",
        ),
        (
            "it is back, not yet ready",
            old(&|seen| {
                update(seen, 2);
                seen.pods.get_mut(&2).expect("a pod").ready = false;
                record(seen, "RollingUpdate", "kv-2-0", "DeletePod");
            }),
            Want::Waits("not ready yet"),
            "",
        ),
        (
            "it is back and may lead",
            old(&|seen| {
                update(seen, 2);
                table(seen).nodes[2].leaders_evicted = true;
                record(seen, "RollingUpdate", "kv-2-0", "WaitForNode");
            }),
            Want::Does("EvictLeaders", "duration: 0ns"),
            "",
        ),
        (
            "it is back, and its leader has not reached it yet",
            old(&|seen| {
                update(seen, 2);
                record(seen, "RollingUpdate", "kv-2-0", "WaitForNode");
                let pod = seen.pods.get_mut(&2).expect("a pod");
                let Node::Joined(node) = &mut pod.node else { unreachable!("it is joined") };
                node.peers[0].behind = true;
            }),
            Want::Waits("catching up"),
            "",
        ),
        (
            "it is back: the next",
            old(&|seen| {
                update(seen, 2);
                record(seen, "RollingUpdate", "kv-2-0", "WaitForNode");
            }),
            Want::Does("DeletePod", "pod-1"),
            "",
        ),
        (
            "it is back since a moment ago",
            old(&|seen| {
                update(seen, 2);
                seen.pods.get_mut(&2).expect("a pod").ready_since = Some(ago(14));
                record(seen, "RollingUpdate", "kv-2-0", "WaitForNode");
            }),
            Want::Waits("ready since a moment ago"),
            "",
        ),
        (
            "it is back, and has ended since it was made",
            old(&|seen| {
                update(seen, 2);
                let pod = seen.pods.get_mut(&2).expect("a pod");
                (pod.restarts, pod.ready_since) = (3, Some(ago(60)));
                pod.running_since = Some(ago(299));
                record(seen, "RollingUpdate", "kv-2-0", "WaitForNode");
            }),
            Want::Waits("ready since a moment ago"),
            "",
        ),
        (
            "it has ended long ago",
            old(&|seen| {
                update(seen, 2);
                let pod = seen.pods.get_mut(&2).expect("a pod");
                (pod.restarts, pod.running_since) = (3, Some(ago(300)));
                record(seen, "RollingUpdate", "kv-2-0", "WaitForNode");
            }),
            Want::Does("DeletePod", "pod-1"),
            "",
        ),
        (
            "it was waited for, and something else was done in between",
            old(&|seen| {
                update(seen, 2);
                let pod = seen.pods.get_mut(&2).expect("a pod");
                (pod.restarts, pod.ready_since) = (3, Some(ago(1)));
            }),
            Want::Waits("pod kv-2-0 is ready since a moment ago"),
            "RollingUpdateBlocked",
        ),
        (
            "its new image is not there",
            old(&|seen| {
                update(seen, 2);
                silent(seen, 2);
                let pod = seen.pods.get_mut(&2).expect("a pod");
                pod.running = false;
                pod.problem = Some(("ImagePullBackOff".into(), "no such image".into()));
                record(seen, "RollingUpdate", "kv-2-0", "WaitForNode");
            }),
            Want::Waits("no such image"),
            "PodFailing",
        ),
        (
            "the spec was put right: the pod that does not run is made anew",
            old(&|seen| {
                silent(seen, 2);
                let pod = seen.pods.get_mut(&2).expect("a pod");
                pod.running = false;
                pod.problem = Some(("ImagePullBackOff".into(), "no such image".into()));
            }),
            Want::Does("DeletePod", "pod-2"),
            "PodFailing",
        ),
        (
            "another node is down",
            old(&|seen| {
                update(seen, 0);
                silent(seen, 0);
            }),
            Want::Waits("node 1 is down"),
            "RollingUpdateBlocked",
        ),
        (
            "another node is ready, and its leader has not reached it",
            old(&|seen| {
                update(seen, 0);
                let pod = seen.pods.get_mut(&0).expect("a pod");
                let Node::Joined(node) = &mut pod.node else { unreachable!("it is joined") };
                node.peers[0].behind = true;
            }),
            Want::Waits("peers of node 1 are catching up"),
            "RollingUpdateBlocked",
        ),
        (
            "a region has too few peers",
            old(&|seen| {
                for pod in seen.pods.values_mut() {
                    if let Node::Joined(joined) = &mut pod.node {
                        for peer in &mut joined.peers {
                            peer.voters = [1, 2].into();
                        }
                    }
                }
            }),
            Want::Waits("too few peers"),
            "RollingUpdateBlocked",
        ),
        (
            "a node whose leaders cannot go anywhere",
            {
                let mut seen = well(
                    1,
                    json!({"replicas": 1, "replicationFactor": 1, "image": "flotilla:2"}),
                    json!({"replicas": 1, "replicationFactor": 1}),
                );
                seen.children = children_of(&desired(&seen.cluster), 1);
                table(&mut seen).replication_factor = 1;
                table(&mut seen).nodes[0].leaders = 1;
                seen
            },
            Want::Does("DeletePod", "pod-0"),
            "",
        ),
    ]);
}

#[test]
fn template_that_is_taken_back_is_that_of_the_pod_and_stays() {
    let spec = json!({"config": {"log_level": "debug"}});
    let mut seen = well(3, spec, json!({}));
    let wished = children_of(&desired(&seen.cluster), 3);
    let child = Child::StatefulSet(2);
    seen.children.insert(Child::ConfigMap, wished[&Child::ConfigMap].clone());
    let before = seen.children.insert(child, wished[&child].clone()).expect("a set");
    silent(&mut seen, 0);
    keep_budget(&mut seen);
    let taken = plan(&seen, &defaults(), now());
    let Some(Action::Change(Change::Apply(whose, set, _))) = taken.action else {
        panic!("{taken:#?}")
    };
    assert_eq!(whose, child);
    assert_eq!(set["spec"]["template"], before["spec"]["template"]);
    assert_eq!(set["metadata"]["resourceVersion"], "7", "of what was seen");
    seen.children.insert(child, *set);
    let after = plan(&seen, &defaults(), now());
    assert!(after.action.is_none() && after.why.contains("none is restarted"), "{after:#?}");
}

#[test]
fn roll_that_is_held_up_keeps_nobody_from_scaling() {
    let newer = |replicas: i32| json!({"replicas": replicas, "config": {"log_level": "debug"}});
    let held_up = |nodes: i32, replicas: i32, change: &dyn Fn(&mut Seen)| {
        let mut seen = well(nodes, newer(replicas), json!({"replicas": nodes}));
        let now = children_of(&desired(&seen.cluster), nodes);
        seen.children.insert(Child::ConfigMap, now[&Child::ConfigMap].clone());
        change(&mut seen);
        seen
    };
    check(vec![
        (
            "the node that is missed is to leave",
            held_up(4, 3, &|seen| {
                silent(seen, 3);
                seen.pods.get_mut(&3).expect("a pod").terminating = true;
            }),
            Want::Does("RemoveNode", "node_id: 4"),
            "RollingUpdateBlocked",
        ),
        (
            "more nodes are wanted",
            held_up(4, 5, &|seen| {
                silent(seen, 3);
                seen.pods.get_mut(&3).expect("a pod").terminating = true;
            }),
            Want::Does("Scale", "ordinal: 4"),
            "RollingUpdateBlocked",
        ),
        (
            "nothing is to be scaled",
            held_up(4, 4, &|seen| {
                silent(seen, 3);
                seen.pods.get_mut(&3).expect("a pod").terminating = true;
            }),
            Want::Waits("none is restarted: node 4 is down"),
            "RollingUpdateBlocked",
        ),
    ]);
}

#[test]
fn node_is_given_up_only_with_proof_and_while_all_regions_keep_their_quorum() {
    let sick = |change: &dyn Fn(&mut Seen)| {
        let mut seen = settled(3, json!({"placement": {"maxNodeDown": "1m"}}));
        silent(&mut seen, 2);
        let pod = seen.pods.get_mut(&2).expect("a pod");
        pod.running = false;
        pod.restarts = 9;
        pod.last_exit = Some(Exit { code: 134, out_of_memory: false });
        pod.problem = Some(("CrashLoopBackOff".into(), "x".into()));
        pod.not_ready_since =
            Some(clock::text(Timestamp::from_second(1_700_000_000 - 90).expect("a time")));
        change(&mut seen);
        seen
    };
    let lost = |change: &dyn Fn(&mut Seen)| {
        sick(&|seen| {
            let pod = seen.pods.get_mut(&2).expect("a pod");
            pod.node = Node::Unjoined { version: "0.1.0".into() };
            pod.running = true;
            change(seen);
        })
    };
    fn the_pod(seen: &mut Seen) -> &mut Pod {
        seen.pods.get_mut(&2).expect("a pod")
    }
    let given_up = |seen: &mut Seen, volume: &str| {
        table(seen).nodes[2].state = State::Removed;
        table(seen).nodes[2].forced = true;
        let mut operation = record(seen, "Repair", "kv-2-0", "RemoveNode");
        operation.node_id = Some(3);
        operation.volume_uid = Some(volume.into());
        seen.cluster.status.get_or_insert_default().operation = Some(operation);
        for pod in seen.pods.values_mut() {
            if let Node::Joined(joined) = &mut pod.node {
                for peer in &mut joined.peers {
                    peer.voters = [1, 2].into();
                }
            }
        }
    };
    check(vec![
        (
            "its volume is lost",
            lost(&|_| {}),
            Want::Does("RemoveNode", "node_id: 3, force: true, expected_version: 40"),
            "NodeLost",
        ),
        (
            "it was heard a moment ago",
            lost(&|seen| table(seen).nodes[2].alive = true),
            Want::Waits("heard it a moment ago"),
            "NodeLost",
        ),
        (
            "another node is down, too",
            lost(&|seen| silent(seen, 1)),
            Want::Waits("1 regions would have no quorum"),
            "NodeLost",
        ),
        (
            "it ends again and again",
            sick(&|_| {}),
            Want::Does("RemoveNode", "force: true"),
            "NodeLost",
        ),
        (
            "it ends again and again, and so do the others that have what it was started with",
            sick(&|seen| {
                for pod in seen.pods.values_mut() {
                    (pod.restarts, pod.running_since) = (9, Some(ago(30)));
                }
            }),
            Want::Nothing,
            "NodeDown",
        ),
        (
            "the others have begun with what it ends with, and it has not",
            sick(&|seen| {
                roll::begun_with_it(seen, [true, true, false]);
            }),
            Want::Nothing,
            "NodeDown",
        ),
        (
            "one of them has not, either",
            sick(&|seen| {
                roll::begun_with_it(seen, [true, false, false]);
            }),
            Want::Does("MarkVolume", "node_id: \"3\""),
            "NodeLost",
        ),
        (
            "all have begun with it",
            sick(&|seen| {
                roll::begun_with_it(seen, [true; 3]);
            }),
            Want::Does("MarkVolume", "node_id: \"3\""),
            "NodeLost",
        ),
        ("merely silent", sick(&|seen| the_pod(seen).restarts = 0), Want::Nothing, "NodeDown"),
        (
            "not for long",
            sick(&|seen| the_pod(seen).not_ready_since = Some(clock::text(now()))),
            Want::Nothing,
            "NodeDown",
        ),
        (
            "for want of memory",
            sick(&|seen| the_pod(seen).last_exit = Some(Exit { code: 137, out_of_memory: true })),
            Want::Nothing,
            "NodeDown",
        ),
        (
            "a wrong configuration",
            sick(&|seen| the_pod(seen).last_exit = Some(Exit { code: 64, out_of_memory: false })),
            Want::Nothing,
            "NodeDown",
        ),
        (
            "its machine is gone",
            sick(&|seen| {
                the_pod(seen).restarts = 0;
                seen.volumes.get_mut(&2).expect("a volume").machine_is_gone = true;
            }),
            Want::Does("RemoveNode", "force: true"),
            "NodeLost",
        ),
        (
            "its machine is gone since a moment ago",
            sick(&|seen| {
                the_pod(seen).restarts = 0;
                the_pod(seen).not_ready_since =
                    Some(clock::text(Timestamp::from_second(1_700_000_000 - 59).expect("a time")));
                seen.volumes.get_mut(&2).expect("a volume").machine_is_gone = true;
            }),
            Want::Nothing,
            "NodeDown",
        ),
        (
            "it leaves",
            sick(&|seen| {
                table(seen).nodes[2].state = State::Draining;
                table(seen).nodes[2].forced = true;
            }),
            Want::Waits("was given up"),
            "UnderReplicated",
        ),
        (
            "it has left: its claim goes, and what it held is kept",
            sick(&|seen| given_up(seen, "volume-2")),
            Want::Does("DeleteVolume", "uid: \"volume-2\", keep: Some(\"pv-2\")"),
            "UnderReplicated",
        ),
        (
            "nothing is to be kept",
            sick(&|seen| {
                given_up(seen, "volume-2");
                seen.cluster.spec.storage.retain = false;
                seen.children = children_of(&desired(&seen.cluster), 3);
                tie(seen);
            }),
            Want::Does("DeleteVolume", "uid: \"volume-2\", keep: None"),
            "UnderReplicated",
        ),
        (
            "the volume goes: the pod, too",
            sick(&|seen| {
                given_up(seen, "volume-2");
                seen.volumes.get_mut(&2).expect("a volume").terminating = true;
            }),
            Want::Does("DeletePod", "pod-2"),
            "UnderReplicated",
        ),
        (
            "a new volume is left alone",
            sick(&|seen| given_up(seen, "volume-of-old")),
            Want::Nothing,
            "UnderReplicated",
        ),
        (
            "the disk of a removed node says so",
            {
                let mut seen = settled(3, json!({}));
                table(&mut seen).nodes[2].state = State::Removed;
                seen.pods.get_mut(&2).expect("a pod").node =
                    Node::Removed { cluster_id: UID.into(), node_id: 3 };
                for pod in seen.pods.values_mut() {
                    if let Node::Joined(joined) = &mut pod.node {
                        for peer in &mut joined.peers {
                            peer.voters = [1, 2].into();
                        }
                    }
                }
                seen
            },
            Want::Does("DeleteVolume", "volume-2"),
            "UnderReplicated",
        ),
        (
            "the regions have no quorum any more",
            sick(&|seen| {
                silent(seen, 1);
                seen.table = None;
            }),
            Want::Nothing,
            "QuorumLost",
        ),
    ]);
}

#[test]
fn what_somebody_changed_by_hand_is_put_back() {
    let edited = |child: Child, path: &str, value: Value| {
        let mut seen = settled(3, json!({}));
        let object = seen.children.get_mut(&child).expect("a child");
        *object.pointer_mut(path).expect("a path") = value;
        seen
    };
    check(vec![
        ("as it should be", settled(3, json!({})), Want::Nothing, ""),
        (
            "a node without its pod",
            edited(Child::StatefulSet(1), "/spec/replicas", json!(0)),
            Want::Does("Scale", "ordinal: 1"),
            "",
        ),
        (
            "more pods of a node",
            edited(Child::StatefulSet(1), "/spec/replicas", json!(4)),
            Want::Does("Apply", "StatefulSet(1)"),
            "",
        ),
        (
            "another image",
            edited(
                Child::StatefulSet(0),
                "/spec/template/spec/containers/0/image",
                json!("evil:1"),
            ),
            Want::Does("Apply", "StatefulSet"),
            "",
        ),
        (
            "a variable was added",
            {
                let mut seen = settled(3, json!({}));
                let object = seen.children.get_mut(&Child::StatefulSet(0)).expect("a child");
                let env = object
                    .pointer_mut("/spec/template/spec/containers/0/env")
                    .and_then(Value::as_array_mut);
                env.expect("a list").push(json!({"name": "RUST_LOG", "value": "trace"}));
                seen
            },
            Want::Does("Replace", "StatefulSet"),
            "",
        ),
        (
            "another selector of a service",
            edited(Child::Service, "/spec/selector", json!({"a": "b"})),
            Want::Does("Replace", "Service"),
            "",
        ),
        (
            "another port of a service, beside which ours was refused a while ago",
            {
                let mut seen = edited(Child::Service, "/spec/ports/0/port", json!(1));
                let want = seen.children[&Child::Service].clone();
                let change = Change::Apply(Child::Service, Box::new(want), None);
                let refused = crate::error::Error::Refused("a duplicate name".to_owned());
                let before = Timestamp::from_second(now().as_second() - 60).expect("a time");
                seen.answers.learn(&change, Err(&refused), before);
                seen
            },
            Want::Does("Replace", "Service"),
            "ApplyRefused",
        ),
        (
            "the budget is gone",
            {
                let mut seen = settled(3, json!({}));
                seen.children.remove(&Child::DisruptionBudget);
                seen
            },
            Want::Does("Apply", "DisruptionBudget"),
            "",
        ),
        (
            "no budget is wanted",
            {
                let with = settled(3, json!({}));
                let mut seen = settled(3, json!({"podDisruptionBudget": false}));
                seen.children = with.children;
                seen
            },
            Want::Does("Delete", "DisruptionBudget"),
            "",
        ),
        (
            "what cannot be changed",
            edited(Child::StatefulSet(0), "/spec/podManagementPolicy", json!("OrderedReady")),
            Want::Does("Delete", "keep_dependents: true"),
            "",
        ),
        (
            "somebody else's object has the name",
            {
                let mut seen = settled(3, json!({}));
                seen.children.remove(&Child::Service);
                seen.taken.insert(Slot::Child(Child::Service), "it belongs to X y".to_owned());
                seen
            },
            Want::Nothing,
            "NameTaken",
        ),
        (
            "a name that is not needed is somebody else's",
            {
                let mut seen = settled(3, json!({"podDisruptionBudget": false}));
                let slot = Slot::Child(Child::DisruptionBudget);
                seen.taken.insert(slot, "no KvCluster made it".to_owned());
                seen
            },
            Want::Nothing,
            "",
        ),
        (
            "a pod would start with somebody else's configuration",
            {
                let mut seen = well(3, json!({"image": "flotilla:2"}), json!({}));
                seen.children = settled(3, json!({"image": "flotilla:2"})).children;
                seen.children.remove(&Child::ConfigMap);
                let slot = Slot::Child(Child::ConfigMap);
                seen.taken.insert(slot, "no KvCluster made it".to_owned());
                seen
            },
            Want::Waits("somebody else's"),
            "NameTaken",
        ),
        (
            "a pod is not our StatefulSet's",
            {
                let mut seen = well(3, json!({"image": "flotilla:2"}), json!({}));
                seen.children = settled(3, json!({"image": "flotilla:2"})).children;
                for pod in seen.pods.values_mut() {
                    pod.ours = false;
                }
                seen
            },
            Want::Waits("is not our StatefulSet's"),
            "RollingUpdateBlocked",
        ),
        (
            "a volume of another cluster is where a pod is to come",
            {
                let mut seen = settled(3, json!({}));
                seen.cluster.spec.replicas = 4;
                seen.children = children_of(&desired(&seen.cluster), 3);
                let foreign = ForeignVolume { cluster_id: "f".repeat(32), is_known: false };
                seen.foreign_volumes.insert(3, foreign);
                seen
            },
            Want::Waits("is not this cluster's"),
            "ForeignVolume",
        ),
    ]);
}

#[test]
fn volumes_grow_then_the_claims_of_new_ones() {
    let larger = |change: &dyn Fn(&mut Seen)| {
        let mut seen = well(3, json!({"storage": {"size": "2Gi"}}), json!({}));
        change(&mut seen);
        seen
    };
    let grown = |seen: &mut Seen| {
        for volume in seen.volumes.values_mut() {
            volume.requested = Quantity("2048Mi".into());
            volume.capacity = Some(Quantity("2Gi".into()));
        }
    };
    check(vec![
        ("one by one", larger(&|_| {}), Want::Does("GrowVolume", "volume-0"), ""),
        (
            "the next",
            larger(&|seen| {
                seen.volumes.get_mut(&0).expect("a volume").requested = Quantity("2Gi".into());
            }),
            Want::Does("GrowVolume", "volume-1"),
            "",
        ),
        ("all have grown", larger(&grown), Want::Does("Delete", "keep_dependents: true"), ""),
        (
            "the StatefulSet is made anew, around its pod",
            larger(&|seen| {
                grown(seen);
                seen.children.remove(&Child::StatefulSet(0));
            }),
            Want::Does("Apply", "\"storage\": String(\"2Gi\")"),
            "",
        ),
        (
            "the class lets none grow",
            larger(&|seen| {
                for volume in seen.volumes.values_mut() {
                    volume.can_grow = Some(false);
                }
            }),
            Want::Nothing,
            "VolumesCannotGrow",
        ),
    ]);
}

#[test]
fn stopped_paused_and_deleted_clusters_are_let_be() {
    let deleted = {
        let mut seen = settled(3, json!({"replicas": 5}));
        let time = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now());
        seen.cluster.metadata.deletion_timestamp = Some(time);
        seen
    };
    let stopped = |pods: bool| {
        let mut seen = settled(3, json!({"stopped": true}));
        if !pods {
            for ordinal in 0..3 {
                let set = seen.children.get_mut(&Child::StatefulSet(ordinal)).expect("a set");
                set["spec"]["replicas"] = json!(0);
            }
            seen.pods.clear();
            seen.table = None;
        }
        seen
    };
    check(vec![
        ("deleted", deleted, Want::Nothing, ""),
        ("paused", settled(3, json!({"replicas": 5, "paused": true})), Want::Nothing, ""),
        (
            "paused, and a claim is deleted",
            {
                let mut seen = settled(3, json!({"replicas": 5, "paused": true}));
                let claim = seen.volumes.get_mut(&1).expect("a volume");
                (claim.terminating, claim.kept) = (true, Kept::No);
                seen
            },
            Want::Does("KeepVolume", "pv-1"),
            "VolumeGoing",
        ),
        ("to stop", stopped(true), Want::Does("Scale", "ordinal: 2, set"), ""),
        ("stopped", stopped(false), Want::Nothing, ""),
        (
            "to start",
            {
                let mut seen = stopped(false);
                seen.cluster.spec.stopped = false;
                seen
            },
            Want::Does("Scale", "ordinal: 0"),
            "DriverUnreachable",
        ),
        (
            "a new cluster of a version that this operator does not know",
            {
                let mut seen = settled(3, json!({"image": "flotilla:9.0.0"}));
                seen.cluster.status = None;
                seen.table = None;
                seen.children.clear();
                seen.pods.clear();
                seen.volumes.clear();
                for child in [Child::ServiceAccount, Child::ConfigMap, Child::HeadlessService] {
                    let desired = desired(&seen.cluster);
                    seen.children.insert(child, children::build(child, &desired, 3, None));
                }
                seen
            },
            Want::Does("Apply", "Service"),
            "VersionRefused",
        ),
        (
            "a version is refused: a member without a pod gets it back, as it was",
            {
                let mut seen = well(3, json!({"image": "flotilla:9.0.0"}), json!({}));
                let set = seen.children.get_mut(&Child::StatefulSet(1)).expect("a set");
                set["spec"]["replicas"] = json!(0);
                seen
            },
            Want::Does("Scale", "\"image\": String(\"flotilla:1\")"),
            "VersionRefused",
        ),
        (
            "a version is refused: a member without a StatefulSet gets it back, as the others are",
            {
                let mut seen = well(3, json!({"image": "flotilla:9.0.0"}), json!({}));
                seen.children.remove(&Child::StatefulSet(1));
                seen.pods.remove(&1);
                seen
            },
            Want::Does("Scale", "\"image\": String(\"flotilla:1\")"),
            "VersionRefused",
        ),
        (
            "a version is refused: no pod comes that would have it",
            well(3, json!({"image": "flotilla:9.0.0", "replicas": 5}), json!({})),
            Want::Nothing,
            "VersionRefused",
        ),
        (
            "a version is refused: the cluster stops",
            well(3, json!({"image": "flotilla:9.0.0", "stopped": true}), json!({})),
            Want::Does("Scale", "replicas: 0"),
            "VersionRefused",
        ),
        (
            "a version is refused: nodes leave",
            well(5, json!({"image": "flotilla:9.0.0"}), json!({})),
            Want::Does("RemoveNode", "node_id: 5"),
            "VersionRefused",
        ),
        (
            "a version is refused: its configuration reaches no pod",
            well(
                3,
                json!({"image": "flotilla:9.0.0", "config": {"log_level": "debug"}}),
                json!({}),
            ),
            Want::Nothing,
            "VersionRefused",
        ),
        (
            "the template names another image, which is refused",
            well(
                3,
                json!({"podTemplate": {"spec": {"containers":
                    [{"name": "server", "image": "flotilla:9.0.0"}]}}}),
                json!({}),
            ),
            Want::Nothing,
            "VersionRefused",
        ),
        (
            "a tag that is no version of ours, which all nodes have, holds no setting back",
            well(
                3,
                json!({"image": "flotilla:2026.11.29", "config": {"log_level": "debug"}}),
                json!({"image": "flotilla:2026.11.29"}),
            ),
            Want::Does("Apply", "ConfigMap"),
            "",
        ),
        (
            "a version that all pods have is told, and holds nothing back",
            {
                let mut seen = settled(3, json!({"image": "flotilla:9.0.0", "replicas": 4}));
                for pod in seen.pods.values_mut() {
                    let Node::Joined(node) = &mut pod.node else { unreachable!("it is joined") };
                    node.version = "9.0.0".into();
                }
                seen
            },
            Want::Does("Scale", "ordinal: 3"),
            "VersionRefused",
        ),
        (
            "a version that is allowed by name",
            {
                let mut seen = settled(3, json!({"image": "flotilla:9.0.0"}));
                let allowed = (crate::names::ALLOW_VERSION.to_owned(), "9.0.0".to_owned());
                seen.cluster.metadata.annotations = Some([allowed].into());
                seen
            },
            Want::Nothing,
            "",
        ),
        (
            "a spec that cannot be acted on",
            {
                let mut seen = settled(3, json!({}));
                seen.cluster.spec.config.insert("raft.nothing".into(), json!(1));
                seen
            },
            Want::Nothing,
            "InvalidSpec",
        ),
    ]);
}

#[test]
fn pod_whose_claim_somebody_deletes_is_let_be_and_its_disk_is_kept() {
    let goes = |seen: &mut Seen, ordinals: &[i32], kept: Kept| {
        for ordinal in ordinals {
            let volume = seen.volumes.get_mut(ordinal).expect("a volume");
            (volume.terminating, volume.kept) = (true, kept);
        }
    };
    let going = |spec: Value, started: Value, ordinals: &[i32], change: &dyn Fn(&mut Seen)| {
        let mut seen = well(3, spec, started);
        goes(&mut seen, ordinals, Kept::Yes);
        change(&mut seen);
        seen
    };
    let newer = || json!({"restartedAt": "2026-01-01T00:00:00Z"});
    let none = &|_: &mut Seen| {};
    check(vec![
        (
            "its disk is kept first",
            going(json!({}), json!({}), &[2], &|seen| goes(seen, &[2], Kept::No)),
            Want::Does("KeepVolume", "uid: \"volume-2\", volume: \"pv-2\""),
            "VolumeGoing",
        ),
        ("it is kept", going(json!({}), json!({}), &[2], none), Want::Nothing, "VolumeGoing"),
        (
            "it has no disk of its own",
            going(json!({}), json!({}), &[2], &|seen| goes(seen, &[2], Kept::Nothing)),
            Want::Nothing,
            "VolumeGoing",
        ),
        (
            "what becomes of it is not known",
            going(json!({}), json!({}), &[2], &|seen| goes(seen, &[2], Kept::Unknown)),
            Want::Does("KeepVolume", "uid: \"volume-2\", volume: \"pv-2\""),
            "VolumeGoing",
        ),
        (
            "disks are not to be kept",
            {
                let spec = || json!({"storage": {"size": "1Gi", "retain": false}});
                going(spec(), spec(), &[2], &|seen| goes(seen, &[2], Kept::No))
            },
            Want::Nothing,
            "VolumeGoing",
        ),
        (
            "no rolling update",
            going(newer(), json!({}), &[0, 1, 2], none),
            Want::Nothing,
            "VolumeGoing",
        ),
        (
            "another one is restarted",
            going(newer(), json!({}), &[0, 2], none),
            Want::Does("Apply", "StatefulSet(1)"),
            "VolumeGoing",
        ),
        (
            "nor when it does not run",
            going(newer(), json!({}), &[0, 1, 2], &|seen| does_not_run(seen, 2, 60)),
            Want::Nothing,
            "VolumeGoing",
        ),
        (
            "all of them are to stop",
            going(json!({"stopped": true}), json!({}), &[0, 1, 2], none),
            Want::Waits("kv-0-0, kv-1-0, kv-2-0"),
            "VolumeGoing",
        ),
        (
            "the others stop",
            going(json!({"stopped": true}), json!({}), &[2], none),
            Want::Does("Scale", "ordinal: 1"),
            "VolumeGoing",
        ),
        (
            "stopped, and its disk is kept first",
            going(json!({"stopped": true}), json!({}), &[0, 1, 2], &|seen| {
                goes(seen, &[1], Kept::No);
            }),
            Want::Does("KeepVolume", "volume-1"),
            "VolumeGoing",
        ),
        (
            "that of a node that has left",
            going(json!({}), json!({}), &[2], &|seen| {
                seen.volumes.get_mut(&2).expect("a volume").decommissioned = Some("3".into());
                table(seen).nodes[2].state = State::Removed;
                for pod in seen.pods.values_mut() {
                    if let Node::Joined(joined) = &mut pod.node {
                        joined.peers.iter_mut().for_each(|peer| peer.voters = [1, 2].into());
                    }
                }
            }),
            Want::Does("DeletePod", "kv-2-0"),
            "UnderReplicated",
        ),
    ]);
}

#[test]
fn claims_go_with_their_cluster_or_stay_and_with_no_stateful_set() {
    let owner = |kind: &str, name: &str| -> OwnerReference {
        let owner = json!({"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": name});
        serde_json::from_value(owner).expect("an owner")
    };
    let uid = "00000000-0000-0000-0000-00000000000a";
    let of_cluster = |uid: &str| OwnerReference {
        api_version: "flotilla.dev/v1alpha1".into(),
        kind: "KvCluster".into(),
        name: "kv".into(),
        uid: uid.into(),
        ..OwnerReference::default()
    };
    let owned = |stopped: bool, retain: bool| {
        let spec = json!({"stopped": stopped, "storage": {"size": "1Gi", "retain": retain}});
        let mut seen = well(3, spec.clone(), spec);
        if stopped {
            for ordinal in 0..3 {
                let set = seen.children.get_mut(&Child::StatefulSet(ordinal)).expect("a set");
                set["spec"]["replicas"] = json!(0);
            }
            seen.pods.clear();
            seen.table = None;
        }
        let volume = seen.volumes.get_mut(&1).expect("a volume");
        volume.owners = vec![owner("StatefulSet", "kv-1"), owner("Backup", "kv-1")];
        // Another one's to say.
        seen.volumes.get_mut(&0).expect("a volume").owners.push(owner("StatefulSet", "web"));
        seen
    };
    let to_go = {
        let mut seen = owned(false, true);
        let child = Child::StatefulSet(1);
        seen.children.get_mut(&child).expect("a set")["spec"]["persistentVolumeClaimRetentionPolicy"]
            ["whenDeleted"] = json!("Delete");
        seen
    };
    let tied = |uid: &str, retain: bool| {
        let mut seen = owned(false, retain);
        seen.volumes.get_mut(&1).expect("a volume").owners =
            vec![owner("Backup", "kv-1"), of_cluster(uid)];
        seen
    };
    let backup = || owner("Backup", "kv-1");
    for (why, seen, want) in [
        ("stopped", owned(true, true), vec![backup()]),
        ("runs", owned(false, true), vec![backup()]),
        ("to go, and stopped", owned(true, false), vec![backup(), of_cluster(uid)]),
        ("to go", owned(false, false), vec![backup(), of_cluster(uid)]),
        ("to stay, by now", tied(uid, true), vec![backup()]),
        ("of an earlier cluster", tied("before", false), vec![backup(), of_cluster(uid)]),
    ] {
        let plan = plan(&seen, &defaults(), now());
        let Some(Action::Change(Change::SetVolumeOwners { name, uid, version, owners })) =
            &plan.action
        else {
            panic!("{why}: {plan:#?}");
        };
        assert_eq!((name.as_str(), uid.as_str()), ("data-kv-1-0", "volume-1"), "{why}");
        assert_eq!(version, "7", "{why}");
        assert_eq!(owners, &want, "{why}");
    }
    check(vec![
        ("as it is to be", tied(uid, false), Want::Nothing, ""),
        ("the StatefulSet first", to_go, Want::Does("Apply", "StatefulSet(1)"), ""),
    ]);
}

#[test]
fn operator_of_other_code_writes_no_template_before_its_turn() {
    let others = Defaults { user: Some(7), ..defaults() };
    let annotations = |seen: &mut Seen, change: &dyn Fn(&mut serde_json::Map<String, Value>)| {
        for ordinal in 0..3 {
            let set = seen.children.get_mut(&Child::StatefulSet(ordinal)).expect("a set");
            change(set["metadata"]["annotations"].as_object_mut().expect("annotations"));
        }
    };
    let unnoted = |annotations: &mut serde_json::Map<String, Value>| {
        annotations.remove(crate::names::SENT_TEMPLATE);
    };
    let mut seen = settled(3, json!({}));
    keep_budget(&mut seen);
    assert_eq!(plan(&seen, &others, now()).action, None, "a lone difference");
    annotations(&mut seen, &unnoted);
    assert_eq!(plan(&seen, &others, now()).action, None, "an operator that did not note it");
    let noted = plan(&seen, &defaults(), now());
    let words = format!("{:?}", noted.action);
    assert!(words.contains("sent-template-hash"), "of the same code: noted: {noted:#?}");
    // By hand: the same code sent something else.
    let mut seen = settled(3, json!({}));
    keep_budget(&mut seen);
    let set = seen.children.get_mut(&Child::StatefulSet(1)).expect("a set");
    set["spec"]["template"]["spec"]["serviceAccountName"] = json!("admin");
    let words = format!("{:?}", plan(&seen, &defaults(), now()).action);
    assert!(words.contains("Apply(StatefulSet(1)") && !words.contains("admin"), "{words}");
    // Its turn, for the sake of the spec; also when another operator wrote the template a moment ago.
    let mut seen = settled(3, json!({}));
    turn_budget(&mut seen, false);
    seen.pods.get_mut(&2).expect("a pod").template_hash = Some("old".into());
    let words = format!("{:?}", plan(&seen, &others, now()).action);
    assert!(
        words.contains("Apply(StatefulSet(2)") && words.contains("\"runAsUser\": Number(7)"),
        "{words}"
    );
    // What is not there any more comes back as the others are.
    let mut seen = settled(3, json!({}));
    keep_budget(&mut seen);
    seen.children.remove(&Child::StatefulSet(1));
    let words = format!("{:?}", plan(&seen, &others, now()).action);
    assert!(
        words.contains("Apply(StatefulSet(1)") && !words.contains("\"runAsUser\": Number(7)"),
        "{words}"
    );
    // Nothing to lose: it begins with what is said now.
    let mut seen = settled(3, json!({}));
    seen.cluster.status = None;
    seen.table = None;
    seen.pods.remove(&1);
    for pod in seen.pods.values_mut() {
        (pod.node, pod.ready) = (Node::Unjoined { version: "0.1.0".into() }, false);
    }
    keep_budget(&mut seen);
    let words = format!("{:?}", plan(&seen, &others, now()).action);
    assert!(words.contains("\"runAsUser\": Number(7)"), "{words}");
}

#[test]
fn template_that_waits_and_that_somebody_else_wrote_is_told() {
    let written = |manager: &str, time: &str, fields: Value| {
        json!({
            "manager": manager, "operation": "Update", "time": time, "fieldsV1": {"f:spec": fields},
        })
    };
    let template = || json!({"f:template": {"f:spec": {"f:hostNetwork": {}}}});
    let ours = || written(crate::names::MANAGER, "2026-01-01T10:00:05Z", template());
    let with = |spec: Value, entries: Vec<Value>| {
        let mut seen = well(3, spec, json!({}));
        let set = seen.children.get_mut(&Child::StatefulSet(0)).expect("a set");
        set["metadata"]["managedFields"] = json!(entries);
        set["metadata"]["labels"] = json!({});
        seen
    };
    let told = |seen: &Seen| {
        let troubles = plan(seen, &defaults(), now()).troubles;
        troubles.into_iter().find(|trouble| trouble.reason == "TemplateEdited")
    };
    let other = || json!({"restartedAt": "2026-01-01T00:00:00Z"});
    let later = |fields: Value| written("kubectl-edit", "2026-01-01T10:00:06Z", fields);
    let before = written("kubectl-edit", "2026-01-01T10:00:04Z", template());
    for (why, spec, entries) in [
        ("nobody", other(), vec![ours()]),
        ("before we wrote it", other(), vec![before, ours()]),
        ("something else", other(), vec![ours(), later(json!({"f:replicas": {}}))]),
        ("what is put back", json!({}), vec![ours(), later(template())]),
    ] {
        assert_eq!(told(&with(spec, entries)), None, "{why}");
    }
    let mut seen = with(other(), vec![ours(), later(template())]);
    let words = told(&seen).expect("told").message;
    assert!(words.contains("StatefulSet kv-0") && words.contains("kubectl-edit"), "{words}");
    // It is ours as soon as anything of the object is written.
    let Some(Action::Change(Change::Apply(Child::StatefulSet(0), sent, _))) =
        plan(&seen, &defaults(), now()).action
    else {
        panic!("it lacks its labels");
    };
    let set = seen.children.get_mut(&Child::StatefulSet(0)).expect("a set");
    *set = *sent;
    set["metadata"]["managedFields"] = json!([ours()]);
    assert_eq!(told(&seen).expect("still").message, words);
}

#[test]
fn preview_tells_all_that_a_spec_leads_to() {
    let mut seen = well(
        3,
        json!({"replicas": 4, "image": "flotilla:2", "storage": {"size": "2Gi"}}),
        json!({}),
    );
    seen.children.remove(&Child::NetworkPolicy);
    let lines = preview(&seen, &defaults(), now());
    for part in [
        "make NetworkPolicy kv",
        "make StatefulSet kv-3",
        "let pod kv-3-0 join",
        "grow volume data-kv-0-0 from 1Gi to 2Gi",
        "restart pod kv-2-0",
    ] {
        assert!(lines.iter().any(|line| line.contains(part)), "{part}: {lines:#?}");
    }
    assert_eq!(preview(&settled(3, json!({})), &defaults(), now()), Vec::<String>::new());
}

/// Of four nodes the last is to go, and one after it went before, whose claim was kept.
#[test]
fn preview_tells_which_volumes_are_deleted() {
    let lines = |retain: bool, stopped: bool| {
        let spec = json!({"storage": {"size": "1Gi", "retain": retain}, "stopped": stopped});
        let mut seen = well(4, spec, json!({"replicas": 4}));
        let mut old = volume(4);
        old.decommissioned = Some("5".into());
        seen.volumes.insert(4, old);
        let mut gone = row(4);
        gone.state = State::Removed;
        table(&mut seen).nodes.push(gone);
        preview(&seen, &defaults(), now())
    };
    let deletes = |lines: &[String]| {
        let lines = lines.iter().filter(|line| line.contains("delete volume claim"));
        lines.map(|line| line.contains("data-kv-4-0")).collect::<Vec<_>>()
    };
    let all = lines(false, false);
    assert_eq!(deletes(&all), [false, true], "{all:#?}");
    assert!(all[0].contains("drain node 4") && all[0].contains("data-kv-3-0"), "{all:#?}");
    for (retain, stopped) in [(true, false), (true, true), (false, true)] {
        let all = lines(retain, stopped);
        assert!(deletes(&all).is_empty(), "{retain} {stopped}: {all:#?}");
        assert!(
            all.iter().any(|line| line.contains("remove pod kv-3-0; its volume stays")),
            "{all:#?}"
        );
    }
    // More nodes, where some were removed before: their claims go first.
    let more = |retain: bool, image: &str, change: &dyn Fn(&mut Seen)| {
        let spec = json!({"replicas": 5, "image": image,
            "storage": {"size": "1Gi", "retain": retain}});
        let started = json!({"storage": {"size": "1Gi", "retain": retain}});
        let mut seen = well(3, spec, started);
        for ordinal in [3, 4, 5] {
            let mut old = volume(ordinal);
            old.decommissioned = Some((ordinal + 1).to_string());
            seen.volumes.insert(ordinal, old);
            let mut gone = row(ordinal);
            gone.state = State::Removed;
            table(&mut seen).nodes.push(gone);
        }
        change(&mut seen);
        preview(&seen, &defaults(), now())
    };
    let of = |lines: &[String], ordinal: i32| {
        let claim = format!("delete volume claim data-kv-{ordinal}-0");
        let mut lines = lines.iter().filter(|line| line.contains(&claim));
        lines.next().map(|line| (line.contains("storage.retain is false"), line.contains("pv-")))
    };
    let (gone, kept) = (Some((true, false)), Some((false, true)));
    let all = more(false, "flotilla:1", &|_| {});
    assert_eq!([3, 4, 5].map(|at| of(&all, at)), [gone, gone, gone], "{all:#?}");
    let all = more(true, "flotilla:1", &|_| {});
    assert_eq!([3, 4, 5].map(|at| of(&all, at)), [kept, kept, None], "{all:#?}");
    // A version that is refused keeps pods from coming, and claims of nodes that are not wanted from nothing.
    let all = more(false, "flotilla:9.0.0", &|_| {});
    assert!(all[0].starts_with("nothing to the pods: "), "{all:#?}");
    assert_eq!([3, 4, 5].map(|at| of(&all, at)), [None, None, gone], "{all:#?}");
    assert_eq!(all.len(), 2, "{all:#?}");
    // A node that is to be given up, one that was, and one that has left.
    let lost = |seen: &mut Seen| {
        let empty = Node::Unjoined { version: "0.1.0".into() };
        seen.pods.get_mut(&2).expect("a pod").node = empty;
        table(seen).nodes[2].alive = false;
    };
    let given_up = |seen: &mut Seen| {
        silent(seen, 2);
        (table(seen).nodes[2].state, table(seen).nodes[2].forced) = (State::Draining, true);
    };
    let left = |seen: &mut Seen| {
        table(seen).nodes[2].state = State::Removed;
        seen.pods.get_mut(&2).expect("a pod").node =
            Node::Removed { cluster_id: UID.into(), node_id: 3 };
    };
    // What is empty already is not emptied.
    let empty_and_given_up = |seen: &mut Seen| {
        given_up(seen);
        seen.pods.get_mut(&2).expect("a pod").node = Node::Unjoined { version: "0.1.0".into() };
    };
    for (change, line) in [
        (
            &lost as &dyn Fn(&mut Seen),
            "give up node 3 in pod kv-2-0 (its volume was lost: the pod has an empty one); the pod joins as another node",
        ),
        (&empty_and_given_up, "let pod kv-2-0 join"),
    ] {
        let all = more(false, "flotilla:1", change);
        assert_eq!(of(&all, 2), None, "{all:#?}");
        assert!(all.iter().any(|told| told == line), "{all:#?}");
    }
    for change in [&given_up as &dyn Fn(&mut Seen), &left] {
        for (retain, image, want) in [
            (false, "flotilla:1", gone),
            (true, "flotilla:1", kept),
            (true, "flotilla:9.0.0", kept),
        ] {
            let all = more(retain, image, change);
            assert_eq!(of(&all, 2), want, "{all:#?}");
        }
    }
}

/// What older operators wrote into a status. A change of this test is an operation that nobody ends.
#[test]
fn names_that_are_written_down_stay_as_they_are() {
    let kinds = [
        (Kind::Create, "Create"),
        (Kind::ScaleUp, "ScaleUp"),
        (Kind::ScaleDown, "ScaleDown"),
        (Kind::CancelScaleDown, "CancelScaleDown"),
        (Kind::ReplicationFactor, "ReplicationFactor"),
        (Kind::RollingUpdate, "RollingUpdate"),
        (Kind::Repair, "Repair"),
        (Kind::Restore, "Restore"),
        (Kind::GrowVolumes, "GrowVolumes"),
        (Kind::Stop, "Stop"),
        (Kind::Start, "Start"),
    ];
    for (kind, name) in kinds {
        assert_eq!(kind.name(), name);
    }
    let points: BTreeSet<_> = Deed::ALL.iter().map(|deed| deed.crash_point()).collect();
    assert_eq!(points.len(), Deed::ALL.len(), "each has its own");
}

#[test]
fn budget_that_stays_closed_while_paused_is_told() {
    for (why, paused, open, is_whole, want) in [
        ("open", true, true, true, false),
        ("closed, as it should be", true, false, false, false),
        ("closed for nothing", true, false, true, true),
        ("opened at once", false, false, true, false),
    ] {
        let mut seen = settled(4, json!({"replicas": 4, "paused": paused}));
        turn_budget(&mut seen, open);
        if !is_whole {
            silent(&mut seen, 3);
        }
        let told = plan(&seen, &defaults(), now());
        let is_told = told.troubles.iter().any(|trouble| trouble.reason == "BudgetClosed");
        assert_eq!(is_told, want, "{why}: {:?}", told.troubles);
    }
}

#[test]
fn another_domain_than_that_of_the_nodes_is_told_and_nothing_is_done() {
    let seen = settled(3, json!({}));
    let elsewhere = Defaults { domain: "k8s.example".into(), ..defaults() };
    let told = plan(&seen, &elsewhere, now());
    assert!(told.action.is_none(), "{:?}", told.action);
    assert_eq!(told.troubles.len(), 1, "{:?}", told.troubles);
    assert_eq!(told.troubles[0].reason, "ClusterDomainChanged");
    for part in ["cluster.local", "k8s.example"] {
        assert!(told.troubles[0].message.contains(part), "{}", told.troubles[0].message);
    }
    // Nor is it forgotten when every StatefulSet is gone and nobody answers.
    let mut gone = seen.clone();
    let noted = crate::status::compute(&seen, &told, &elsewhere, now());
    assert!(
        noted.endpoints.iter().all(|endpoint| endpoint.contains(".svc.cluster.local:")),
        "{noted:?}"
    );
    gone.cluster.status = Some(noted);
    gone.children.retain(|child, _| !matches!(child, Child::StatefulSet(_)));
    (0..3).for_each(|ordinal| silent(&mut gone, ordinal));
    gone.table = None;
    let told = plan(&gone, &elsewhere, now());
    assert!(told.action.is_none(), "{:?}", told.action);
    assert_eq!(told.troubles[0].reason, "ClusterDomainChanged");
    // A disk that goes with the next drain is kept all the same, and so is its pod.
    let mut goes = seen.clone();
    let claim = goes.volumes.get_mut(&2).expect("a volume");
    (claim.terminating, claim.kept) = (true, Kept::No);
    let protects = |seen: &Seen| plan(seen, &elsewhere, now());
    let keeps = protects(&goes).action.map(|action| action.name());
    assert_eq!(keeps, Some("KeepVolume"));
    goes.volumes.get_mut(&2).expect("a volume").kept = Kept::Yes;
    assert_eq!(budget_of(&protects(&goes)), Some(3));
    turn_budget(&mut goes, false);
    assert_eq!(protects(&goes).action, None);
    for seen in [&seen, &gone] {
        let same = plan(seen, &defaults(), now());
        assert!(same.troubles.iter().all(|trouble| trouble.reason != "ClusterDomainChanged"));
    }
}
