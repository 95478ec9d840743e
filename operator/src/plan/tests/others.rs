//! What befalls one node, and what the others are not to suffer for it.

use super::*;
use crate::{
    error::Error,
    events,
    key::Key,
    metrics::Metrics,
    pass::{Did, Outcome},
    status,
};

fn the(seen: &mut Seen, ordinal: i32) -> &mut Pod {
    seen.pods.get_mut(&ordinal).expect("a pod")
}

/// The one region is on these nodes.
fn on(seen: &mut Seen, voters: &[u64]) {
    for (ordinal, pod) in &mut seen.pods {
        let id = u64::try_from(*ordinal).expect("an ordinal") + 1;
        if let Node::Joined(joined) = &mut pod.node {
            joined.peers = node(id, voters).peers;
            joined.peers.retain(|_| voters.contains(&id));
        }
    }
}

/// As [`well`], and the settings that are asked for are there.
fn newer(count: i32, spec: Value) -> Seen {
    let mut wished = spec.clone();
    wished["config"] = json!({"log_level": "debug"});
    let mut seen = well(count, wished, spec);
    let now = children_of(&desired(&seen.cluster), count);
    seen.children.insert(Child::ConfigMap, now[&Child::ConfigMap].clone());
    turn_budget(&mut seen, false);
    seen
}

/// A node that has not served for an hour, whose process was ended often in its life, the last time by itself.
fn gone_quiet(change: &dyn Fn(&mut Pod)) -> Seen {
    let mut seen = settled(4, json!({"replicas": 4, "placement": {"maxNodeDown": "1m"}}));
    silent(&mut seen, 2);
    let pod = the(&mut seen, 2);
    pod.not_ready_since = Some(ago(3600));
    (pod.restarts, pod.last_exit) = (9, Some(Exit { code: 134, out_of_memory: false }));
    change(pod);
    seen
}

/// The same, of which Kubernetes says that it ends again and again.
fn sick(change: &dyn Fn(&mut Pod)) -> Seen {
    gone_quiet(&|pod| {
        pod.running = false;
        pod.problem = Some(("CrashLoopBackOff".into(), "x".into()));
        change(pod);
    })
}

/// It was ended often in its long life, and its machine cannot be reached: what Kubernetes knows of it is old.
#[test]
fn node_whose_machine_is_cut_off_is_not_given_up_for_what_its_pod_did_long_ago() {
    check(vec![
        ("it ran when it was last heard of", gone_quiet(&|_| {}), Want::Nothing, "NodeDown"),
        (
            "its machine was started again, and cannot start it yet",
            gone_quiet(&|pod| pod.running = false),
            Want::Nothing,
            "NodeDown",
        ),
        (
            "Kubernetes says that it ends again and again",
            sick(&|_| {}),
            Want::Does("RemoveNode", "node_id: 3, force: true"),
            "NodeLost",
        ),
    ]);
}

/// What is emptied then is a disk with nothing wrong.
#[test]
fn node_is_not_given_up_for_what_is_no_fault_of_its_disk() {
    let ended = |code| {
        sick(&move |pod: &mut Pod| pod.last_exit = Some(Exit { code, out_of_memory: false }))
    };
    check(vec![
        (
            "it ends by itself",
            sick(&|_| {}),
            Want::Does("RemoveNode", "node_id: 3, force: true"),
            "NodeLost",
        ),
        (
            "it is another container that does",
            sick(&|pod| pod.problem_is_of_another = true),
            Want::Nothing,
            "NodeDown",
        ),
        ("it runs", sick(&|pod| pod.running = true), Want::Nothing, "NodeDown"),
        ("it was told to end", ended(143), Want::Nothing, "NodeDown"),
        ("it was told to, and did well", ended(0), Want::Nothing, "NodeDown"),
        ("it was killed", ended(137), Want::Nothing, "NodeDown"),
    ]);
}

#[test]
fn node_that_is_wanted_again_is_called_back_whoever_else_drains() {
    let two_drain = |change: &dyn Fn(&mut Seen)| {
        let mut seen = settled(5, json!({"replicas": 5}));
        for at in [1, 4] {
            table(&mut seen).nodes[at].state = State::Draining;
        }
        silent(&mut seen, 1);
        on(&mut seen, &[1, 3, 4]);
        change(&mut seen);
        seen
    };
    check(vec![
        (
            "one that does not answer",
            two_drain(&|_| {}),
            Want::Does("CancelRemoveNode", "node_id: 5"),
            "",
        ),
        (
            "one that was given up",
            two_drain(&|seen| table(seen).nodes[1].forced = true),
            Want::Does("CancelRemoveNode", "node_id: 5"),
            "",
        ),
        ("neither answers", two_drain(&|seen| silent(seen, 4)), Want::Waits("node 2 drains"), ""),
    ]);
}

/// A region of three peers that has two has no quorum while one of them is restarted.
#[test]
fn nobody_is_restarted_or_drained_while_a_node_that_was_given_up_is_not_replaced() {
    let replaced = |change: &dyn Fn(&mut Seen)| {
        let mut seen = newer(3, json!({}));
        on(&mut seen, &[1, 2]);
        table(&mut seen).nodes[2].state = State::Removed;
        let wished = desired(&seen.cluster);
        let set = children_of(&wished, 3)[&Child::StatefulSet(2)].clone();
        seen.children.insert(Child::StatefulSet(2), set);
        does_not_run(&mut seen, 2, 400);
        the(&mut seen, 2).template_hash = Some(wished.template_hash);
        change(&mut seen);
        seen
    };
    check(vec![
        (
            "there is no machine for its pod",
            replaced(&|_| {}),
            Want::Waits("1 regions have too few peers"),
            "UnderReplicated",
        ),
        (
            "it is half way in, and does not come",
            replaced(&|seen| {
                let mut row = row(2);
                (row.node_id, row.state, row.peers, row.alive) = (4, State::Learner, 0, false);
                table(seen).nodes.push(row);
            }),
            Want::Waits("waiting for node 4"),
            "RollingUpdateBlocked",
        ),
    ]);
    let mut seen = replaced(&|seen| turn_budget(seen, true));
    let live = seen.children[&Child::DisruptionBudget].clone();
    let view = desired(&seen.cluster);
    let budget = View::new(&seen, &view, now()).as_applied(Child::DisruptionBudget, &live);
    assert_eq!(budget["spec"]["minAvailable"], 3, "nor by Kubernetes");
    table(&mut seen).replication_factor = 1;
    let budget = View::new(&seen, &view, now()).as_applied(Child::DisruptionBudget, &live);
    assert_eq!(budget["spec"]["minAvailable"], 2, "no more peers are asked for than there are");
}

/// Whoever has lost machines for good asks for less.
#[test]
fn cluster_shrinks_around_nodes_that_do_not_come_back() {
    let shrinks = |factor: i32, dead: &[i32], seconds: i64| {
        let mut seen = settled(5, json!({"replicas": 3, "replicationFactor": factor}));
        table(&mut seen).replication_factor = 5;
        on(&mut seen, &[1, 2, 3, 4, 5]);
        for ordinal in dead {
            does_not_run(&mut seen, *ordinal, seconds);
        }
        seen
    };
    let narrowed = |dead: &[i32]| {
        let mut seen = shrinks(3, dead, 3600);
        table(&mut seen).replication_factor = 3;
        on(&mut seen, &[1, 2, 3]);
        seen
    };
    let made_anew = |for_long: bool| {
        let mut seen = narrowed(&[3]);
        the(&mut seen, 3).not_ready_since = Some(ago(5));
        table(&mut seen).nodes[3].down = for_long;
        seen
    };
    let without_a_pod = |for_long: bool| {
        let mut seen = narrowed(&[3]);
        seen.pods.remove(&3);
        table(&mut seen).nodes[3].down = for_long;
        seen
    };
    check(vec![
        (
            "those that are to go",
            shrinks(3, &[3, 4], 3600),
            Want::Does("SetReplicationFactor", "replication_factor: 3"),
            "NodeDown",
        ),
        (
            "any",
            shrinks(3, &[1], 3600),
            Want::Does("SetReplicationFactor", "replication_factor: 3"),
            "NodeDown",
        ),
        (
            "they may come back any moment",
            shrinks(3, &[3, 4], 30),
            Want::Waits("node 4 is down"),
            "ReplicationFactorRefused",
        ),
        (
            "too many",
            shrinks(3, &[2, 3, 4], 3600),
            Want::Waits("no quorum"),
            "ReplicationFactorRefused",
        ),
        (
            "two are to go, and none is missed",
            narrowed(&[3, 4]),
            Want::Does("RemoveNode", "node_id: 5, force: false"),
            "NodeDown",
        ),
        (
            "one that is to stay is missed",
            narrowed(&[1, 4]),
            Want::Waits("node 2 is down"),
            "ScaleDownRefused",
        ),
        (
            "Kubernetes makes no pod for one that is to go, as within a quota",
            without_a_pod(true),
            Want::Does("RemoveNode", "node_id: 5, force: false"),
            "NodeDown",
        ),
        (
            "Kubernetes makes one again and again, which is away since a moment ago each time",
            made_anew(true),
            Want::Does("RemoveNode", "node_id: 5, force: false"),
            "NodeDown",
        ),
        (
            "it was made anew a moment ago, and the driver heard it until then",
            made_anew(false),
            Want::Waits("node 4 is down"),
            "ScaleDownRefused",
        ),
        (
            "it was there a moment ago",
            without_a_pod(false),
            Want::Waits("node 4 is down"),
            "ScaleDownRefused",
        ),
    ]);
}

/// With regions of which nobody answers: they are no proof that the others elect nobody.
#[test]
fn region_that_has_a_leader_keeps_its_nodes_whoever_else_is_missed() {
    let mut seen = newer(3, json!({}));
    seen.table = None;
    for pod in seen.pods.values_mut() {
        (pod.ready, pod.ready_since) = (false, None);
        pod.not_ready_since = Some(ago(3600));
        let Node::Joined(joined) = &mut pod.node else { unreachable!("it is joined") };
        joined.ready = false;
        joined.peers.iter_mut().for_each(|peer| peer.start_key = b"g".to_vec());
    }
    check(vec![("it has a quorum", seen, Want::Nothing, "QuorumLost")]);
}

#[test]
fn pod_that_begins_anew_one_day_keeps_no_other_from_what_would_mend_it() {
    let seen = {
        let mut seen = newer(5, json!({"replicas": 5}));
        on(&mut seen, &[1, 3, 5]);
        table(&mut seen).nodes[1].state = State::Removed;
        does_not_run(&mut seen, 1, 3600);
        the(&mut seen, 1).terminating = true;
        let volume = seen.volumes.get_mut(&1).expect("a volume");
        (volume.decommissioned, volume.terminating) = (Some("2".into()), true);
        let mut operation = record(&mut seen, "Repair", "kv-1-0", "WaitForPod");
        (operation.node_id, operation.volume_uid) = (Some(2), Some("volume-1".into()));
        seen.cluster.status.get_or_insert_default().operation = Some(operation);
        does_not_run(&mut seen, 3, 300);
        seen
    };
    check(vec![(
        "its machine is away for days",
        seen,
        Want::Does("Apply", "StatefulSet(3)"),
        "NodeDown",
    )]);
}

/// Else nobody learns of it before the claims have gone with the cluster.
#[test]
fn refusal_is_told_as_long_as_it_stands_and_not_only_when_it_is_tried() {
    let owner = || OwnerReference {
        api_version: "apps/v1".into(),
        kind: "StatefulSet".into(),
        name: names().set(1),
        uid: "u".into(),
        ..OwnerReference::default()
    };
    type Case = (&'static str, &'static str, fn(&mut Seen));
    let cases: [Case; 5] = [
        ("a claim that would go with its StatefulSet", "SetVolumeOwners", |_| {}),
        ("a claim without its note", "NoteVolume", |seen| {
            seen.volumes.get_mut(&1).expect("a volume").unnoted = true;
        }),
        ("a member's claim that is marked", "UnmarkVolume", |seen| {
            seen.volumes.get_mut(&1).expect("a volume").decommissioned = Some("2".into());
        }),
        ("a claim that goes and has no pod", "KeepVolume", |seen| {
            seen.pods.remove(&4);
            seen.children.remove(&Child::StatefulSet(4));
            let mut left = volume(4);
            (left.terminating, left.kept) = (true, Kept::No);
            seen.volumes.insert(4, left);
        }),
        ("settings that nobody uses", "Delete", |seen| {
            seen.old_configs.insert("kv-old".into(), "uid-of-old".into());
        }),
    ];
    for (why, name, change) in cases {
        let mut seen = settled(3, json!({}));
        if name == "SetVolumeOwners" {
            seen.volumes.get_mut(&1).expect("a volume").owners = vec![owner()];
        }
        change(&mut seen);
        keep_budget(&mut seen);
        let first = plan(&seen, &defaults(), now());
        let Some(Action::Change(tried)) = &first.action else { panic!("{why}: {first:#?}") };
        assert_eq!(tried.deed().name(), name, "{why}");
        assert!(first.troubles.is_empty(), "{why}: {first:#?}");
        seen.answers.learn(tried, Err(&Error::Refused("a policy".into())), now());
        let mut told: Option<Vec<Trouble>> = None;
        for seconds in [1, 4, 5, 6, 60] {
            let then = Timestamp::from_second(now().as_second() + seconds).expect("a time");
            let plan = plan(&seen, &defaults(), then);
            assert_eq!(plan.action.is_some(), seconds >= 5, "{why}, {seconds}: {plan:#?}");
            let is_told = plan.troubles.iter().any(|trouble| {
                trouble.reason == "ActionRefused" && trouble.message.contains("a policy")
            });
            assert!(is_told, "{why}, {seconds}: {plan:#?}");
            let before = told.get_or_insert_with(|| plan.troubles.clone());
            assert_eq!(*before, plan.troubles, "{why}, {seconds}: else each try is written");
        }
        seen.answers.learn(tried, Ok(&Value::Null), now());
        let troubles = plan(&seen, &defaults(), now()).troubles;
        assert!(troubles.is_empty(), "{why}: it was done; {troubles:?}");
    }
}

#[test]
fn growth_that_is_refused_is_told_in_the_same_words_whether_it_is_tried_or_not() {
    let mut seen = settled(3, json!({"storage": {"size": "2Gi"}}));
    keep_budget(&mut seen);
    let first = plan(&seen, &defaults(), now());
    let Some(Action::Change(tried @ Change::GrowVolume { .. })) = &first.action else {
        panic!("{first:#?}")
    };
    for ordinal in 0..3 {
        let mut other = tried.clone();
        if let Change::GrowVolume { name, .. } = &mut other {
            *name = names().volume(ordinal);
        }
        seen.answers.learn(&other, Err(&Error::Refused("exceeded quota".into())), now());
    }
    let told = |seconds: i64| {
        let then = Timestamp::from_second(now().as_second() + seconds).expect("a time");
        let plan = plan(&seen, &defaults(), then);
        (plan.action.is_some(), plan.troubles)
    };
    let ((waits, before), (tries, after)) = (told(4), told(5));
    assert_eq!((waits, tries), (false, true));
    assert_eq!(before, after);
}

/// It was bound to a claim of ours by mistake.
#[test]
fn disk_of_another_cluster_is_not_deleted_with_a_pod_that_is_not_wanted() {
    let theirs = |node: Node| {
        let mut seen = settled(4, json!({"storage": {"size": "1Gi", "retain": false}}));
        table(&mut seen).nodes.pop();
        let pod = the(&mut seen, 3);
        (pod.node, pod.ready) = (node, false);
        seen
    };
    let joined = Joined { cluster_id: "other".into(), ..Joined::sample(7, Vec::new()) };
    let removed = Node::Removed { cluster_id: "other".into(), node_id: 7 };
    let kept = Want::Waits("is that of cluster other; it is kept");
    check(vec![
        ("in service there", theirs(Node::Joined(joined)), kept, "ForeignVolume"),
        (
            "removed from there",
            theirs(removed),
            Want::Waits("is that of cluster other; it is kept"),
            "ForeignVolume",
        ),
        (
            "nobody's",
            theirs(Node::Unjoined { version: "0.1.0".into() }),
            Want::Does("MarkVolume", "node_id: \"none\""),
            "",
        ),
    ]);
}

/// Else a node that nobody reaches, say, keeps all others waiting: what is asked of it is tried first, again and again.
#[test]
fn call_that_fails_again_and_again_keeps_no_other_from_coming() {
    let mut seen = settled(5, json!({"replicas": 6}));
    table(&mut seen).nodes.pop();
    let pod = the(&mut seen, 4);
    (pod.node, pod.ready) = (Node::Unjoined { version: "0.1.0".into() }, false);
    keep_budget(&mut seen);
    let first = plan(&seen, &defaults(), now());
    let Some(Action::Call(call @ Call::AddLearner { .. })) = &first.action else {
        panic!("{first:#?}")
    };
    for _ in 0..7 {
        let fails = Err(Error::Failed("no answer within 20 s".into()));
        seen.answers.learn_call(call, &fails, now());
    }
    let message = &plan(&seen, &defaults(), now()).troubles[0].message;
    assert!(message.contains("fails: no answer within 20 s"), "nobody refuses it: {message}");
    check(vec![("a pod", seen, Want::Does("Scale", "ordinal: 5"), "CallRefused")]);
}

/// Which alert tells a person goes by the reason: what Kubernetes refuses is counted, and all else is `FlotillaDegraded`'s.
#[test]
fn what_somebody_undoes_is_no_refusal() {
    let mut kept = settled(3, json!({}));
    let claim = kept.volumes.get_mut(&1).expect("a volume");
    (claim.terminating, claim.kept) = (true, Kept::No);
    let scaled = settled(5, json!({"replicas": 6}));
    let otherwise = || Error::Contended("1 pods were asked for, 0 are stored".to_owned());
    for (why, mut seen, name, results) in [
        (
            "a disk that is set back",
            kept,
            "KeepVolume",
            [Ok(Value::Null), Ok(Value::Null), Ok(Value::Null)],
        ),
        ("a policy", scaled, "Scale", [Err(otherwise()), Err(otherwise()), Err(otherwise())]),
    ] {
        keep_budget(&mut seen);
        let first = plan(&seen, &defaults(), now());
        let Some(Action::Change(change)) = &first.action else { panic!("{why}: {first:#?}") };
        assert_eq!(change.deed().name(), name, "{why}");
        for result in &results {
            seen.answers.learn(change, result.as_ref(), now());
        }
        let troubles = plan(&seen, &defaults(), now()).troubles;
        let told = |reason| {
            troubles.iter().any(|trouble| {
                trouble.reason == reason && trouble.message.contains("does not come about")
            })
        };
        assert!(told("Contended"), "{why}: {troubles:#?}");
        let refused = troubles.iter().any(|trouble| trouble.reason.ends_with("Refused"));
        assert!(!refused, "{why}: {troubles:#?}");
    }
}

/// A pod that does not answer us, or that the driver does not hear, may be all that a region lives on.
#[test]
fn nobody_is_restarted_whom_a_region_with_a_leader_cannot_spare() {
    let mute = |ready: bool, change: &dyn Fn(&mut Seen)| {
        let mut seen = newer(3, json!({}));
        let pod = the(&mut seen, 2);
        pod.node = Node::Silent("no answer within 3 s".into());
        if !ready {
            (pod.ready, pod.not_ready_since) = (false, Some(ago(3600)));
        }
        change(&mut seen);
        seen
    };
    fn peer(seen: &mut Seen, ordinal: i32) -> &mut Peer {
        let Node::Joined(node) = &mut the(seen, ordinal).node else { unreachable!("it is joined") };
        &mut node.peers[0]
    }
    let has_two = |seen: &mut Seen| on(seen, &[1, 3]);
    let is_sick = |seen: &mut Seen| peer(seen, 1).quarantined = true;
    let is_behind = |seen: &mut Seen| peer(seen, 1).behind = true;
    let held = || Want::Waits("1 regions would have no quorum without it");
    let goes = || Want::Does("Apply", "StatefulSet(2)");
    check(vec![
        ("it can be spared", mute(true, &|_| {}), goes(), "UnderReplicated"),
        ("a region has two peers", mute(true, &has_two), held(), "RollingUpdateBlocked"),
        ("a peer is quarantined", mute(true, &is_sick), held(), "RollingUpdateBlocked"),
        (
            "the driver does not hear it, and we do",
            {
                let mut seen = newer(3, json!({}));
                on(&mut seen, &[1, 3]);
                table(&mut seen).nodes[2].alive = false;
                seen
            },
            held(),
            "RollingUpdateBlocked",
        ),
        (
            "fewer peers are wanted, and they are not fewer yet",
            {
                let mut seen = newer(3, json!({"replicationFactor": 1}));
                table(&mut seen).replication_factor = 1;
                on(&mut seen, &[1, 2, 3]);
                the(&mut seen, 2).node = Node::Silent("no answer within 3 s".into());
                is_sick(&mut seen);
                seen
            },
            held(),
            "RollingUpdateBlocked",
        ),
        ("not ready, and can be spared", mute(false, &|_| {}), goes(), "UnderReplicated"),
        ("not ready, of two peers", mute(false, &has_two), held(), "RollingUpdateBlocked"),
        (
            "nobody hears it",
            mute(false, &|seen| {
                has_two(seen);
                table(seen).nodes[2].alive = false;
            }),
            goes(),
            "NodeDown",
        ),
        ("not ready, one is quarantined", mute(false, &is_sick), held(), "RollingUpdateBlocked"),
        (
            "not ready, nothing reaches one",
            mute(false, &is_behind),
            Want::Waits("none is restarted"),
            "RollingUpdateBlocked",
        ),
        (
            "the driver does not answer either",
            mute(false, &|seen| {
                has_two(seen);
                seen.table = None;
                the(seen, 2).not_ready_since = Some(ago(299));
            }),
            Want::Nothing,
            "DriverUnreachable",
        ),
        (
            "nor has it for long",
            mute(false, &|seen| {
                has_two(seen);
                seen.table = None;
            }),
            goes(),
            "DriverUnreachable",
        ),
        (
            "it is why a region has no leader",
            mute(false, &|seen| {
                has_two(seen);
                (peer(seen, 0).leads, peer(seen, 0).leader_node) = (false, None);
                seen.table = None;
                the(seen, 2).not_ready_since = Some(ago(299));
            }),
            goes(),
            "DriverUnreachable",
        ),
    ]);
}

/// Its volumes were taken over under another name: until a node has told its new address, no row is at its ordinal.
#[test]
fn disk_of_a_node_whose_address_is_not_known_is_not_deleted() {
    let moved = |change: &dyn Fn(&mut Seen)| {
        let mut seen = settled(5, json!({"storage": {"size": "1Gi", "retain": false}}));
        for at in [3, 4] {
            table(&mut seen).nodes[at].address =
                format!("kv-{at}-0.kv-headless.before.svc.cluster.local:7420");
            let pod = the(&mut seen, i32::try_from(at).expect("small"));
            (pod.ready, pod.node) = (false, Node::Silent("no answer".into()));
        }
        change(&mut seen);
        seen
    };
    let marked = |mark: &str| {
        let mark = mark.to_owned();
        move |seen: &mut Seen| {
            for at in [3, 4] {
                seen.pods.remove(&at);
                seen.children.remove(&Child::StatefulSet(at));
                seen.volumes.get_mut(&at).expect("a volume").decommissioned = Some(mark.clone());
            }
        }
    };
    check(vec![
        ("they start", moved(&|_| {}), Want::Waits("does not answer"), "NodeDown"),
        ("a mark that says nothing", moved(&marked("none")), Want::Nothing, "NodeDown"),
        (
            "an empty disk says so itself",
            moved(&|seen| the(seen, 4).node = Node::Unjoined { version: "0.1.0".into() }),
            Want::Does("MarkVolume", "node_id: \"none\""),
            "NodeDown",
        ),
        (
            "the disk of a node that was removed",
            moved(&|seen| {
                let mut row = row(4);
                (row.node_id, row.state) = (9, State::Removed);
                table(seen).nodes.push(row);
            }),
            Want::Does("MarkVolume", "node_id: \"9\""),
            "NodeDown",
        ),
        (
            "a node was removed there before the volumes went to the other name and came back",
            moved(&|seen| {
                let mut removed = row(4);
                (removed.node_id, removed.state) = (5, State::Removed);
                table(seen).nodes[4].node_id = 9;
                table(seen).nodes.push(removed);
            }),
            Want::Waits("may be that of node 9"),
            "NodeDown",
        ),
    ]);
}

/// The table is read after the nodes have answered, by seconds where one of them hangs.
#[test]
fn node_that_joins_while_it_is_looked_at_is_not_called_lost() {
    let joins = |alive: bool| {
        let mut seen = settled(4, json!({"replicas": 4}));
        let row = &mut table(&mut seen).nodes[3];
        (row.state, row.peers, row.alive) = (State::Learner, 0, alive);
        let pod = the(&mut seen, 3);
        (pod.node, pod.ready) = (Node::Unjoined { version: "0.1.0".into() }, false);
        seen
    };
    check(vec![
        ("the driver hears it", joins(true), Want::Waits("waiting for node 4"), ""),
        (
            "nobody hears it: it lost its disk",
            joins(false),
            Want::Does("RemoveNode", "node_id: 4, force: true"),
            "NodeLost",
        ),
    ]);
}

/// As a claim whose PersistentVolume was taken from it by hand, and is to be kept: no look finds it otherwise.
#[test]
fn what_has_moved_again_and_again_keeps_no_other_waiting() {
    let mut seen = settled(5, json!({"replicas": 5}));
    on(&mut seen, &[1, 3, 5]);
    for (ordinal, mark) in [(1, "2"), (3, "4")] {
        does_not_run(&mut seen, ordinal, 3600);
        let at = usize::try_from(ordinal).expect("small");
        table(&mut seen).nodes[at].state = State::Removed;
        seen.volumes.get_mut(&ordinal).expect("a volume").decommissioned = Some(mark.into());
    }
    keep_budget(&mut seen);
    let first = plan(&seen, &defaults(), now());
    let Some(Action::Change(delete @ Change::DeleteVolume { .. })) = &first.action else {
        panic!("{first:#?}")
    };
    let moved = Error::Moved("keep PersistentVolume pv-1: it is bound to no claim yet".into());
    for _ in 0..4 {
        seen.answers.learn(delete, Err(&moved), now());
        assert_eq!(plan(&seen, &defaults(), now()).action, first.action, "it may pass");
    }
    let mut passed = seen.clone();
    passed.answers.learn(
        &Change::DeletePod { name: "kv-0-0".into(), uid: "u".into() },
        Ok(&Value::Null),
        now(),
    );
    passed.answers.learn(delete, Err(&moved), now());
    assert_eq!(plan(&passed, &defaults(), now()).action, first.action, "not again and again");
    seen.answers.learn(delete, Err(&moved), now());
    let message = &plan(&seen, &defaults(), now()).troubles[0].message;
    assert!(message.contains("DeleteVolume of data-kv-1-0 does not come about"), "{message}");
    check(vec![("another disk", seen, Want::Does("DeleteVolume", "data-kv-3-0"), "Contended")]);
}

/// Else a cluster whose pods a quota refuses waits for ever, and nobody is told why.
#[test]
fn pod_that_kubernetes_does_not_make_is_told_after_a_while() {
    let told = |seconds: i64, change: &dyn Fn(&mut Seen)| {
        let mut seen = settled(3, json!({}));
        silent(&mut seen, 1);
        seen.pods.remove(&1);
        change(&mut seen);
        for then in [now().as_second() - seconds, now().as_second()] {
            let then = Timestamp::from_second(then).expect("a time");
            seen.answers.watch_stamps(stamps(&seen), then);
        }
        let plan = plan(&seen, &defaults(), now());
        let told = plan.troubles.into_iter().filter(|trouble| trouble.reason == "PodNotMade");
        let told: Vec<_> = told.map(|trouble| trouble.message).collect();
        assert!(told.len() <= 1, "one sentence for all: {told:?}");
        told.into_iter().next()
    };
    let begins = |seen: &mut Seen| {
        (seen.cluster.status, seen.table) = (None, None);
        seen.pods.clear();
    };
    let words = told(30, &|_| {}).expect("told");
    assert!(words.contains("kv-1-0") && words.contains("describe statefulset kv-1"), "{words}");
    assert_eq!(told(29, &|_| {}), None, "it may come yet");
    let words = told(30, &begins).expect("before the cluster begins");
    assert!(words.contains("kv-0-0, kv-1-0, kv-2-0 ("), "{words}");
    let many = told(30, &|seen| {
        *seen = settled(12, json!({"replicas": 12}));
        begins(seen);
    });
    assert!(many.expect("told").contains("kv-9-0, … ("), "the first ones");
    let paused = told(30, &|seen| seen.cluster.spec.paused = true);
    assert!(paused.is_some(), "whatever is asked for");
    let stopped = |seen: &mut Seen| {
        let set = seen.children.get_mut(&Child::StatefulSet(1)).expect("a set");
        set["spec"]["replicas"] = json!(0);
    };
    assert_eq!(told(30, &stopped), None, "none is to be made");
    let taken = |seen: &mut Seen| drop(seen.taken.insert(Slot::Pod(1), "theirs".into()));
    assert_eq!(told(30, &taken), None, "the name is taken, which is told");
}

/// Nobody misses it, and it keeps Kubernetes nodes from being drained.
#[test]
fn pod_that_never_becomes_a_node_is_told_after_a_while() {
    let told = |seconds: i64, change: &dyn Fn(&mut Seen)| {
        let mut seen = settled(4, json!({"replicas": 4}));
        silent(&mut seen, 3);
        table(&mut seen).nodes.remove(3);
        let pod = seen.pods.get_mut(&3).expect("a pod");
        (pod.ready_since, pod.not_ready_since) = (None, Some(ago(7200)));
        change(&mut seen);
        for then in [now().as_second() - seconds, now().as_second()] {
            let then = Timestamp::from_second(then).expect("a time");
            seen.answers.watch_stamps(stamps(&seen), then);
        }
        let plan = plan(&seen, &defaults(), now());
        let told = plan.troubles.into_iter().filter(|trouble| trouble.reason == "PodNotJoined");
        told.map(|trouble| trouble.message).collect::<Vec<_>>().join("; ")
    };
    let pod = |seen: &mut Seen, change: &dyn Fn(&mut Pod)| {
        change(seen.pods.get_mut(&3).expect("a pod"));
    };
    let words = told(300, &|_| {});
    for part in [
        format!("pod kv-3-0 is no node yet: it runs since {}", ago(3600)),
        "at 10.0.0.1:7420 for more than 5 minutes: no answer".into(),
        "logs kv-3-0".into(),
        "operatorFrom".into(),
        "cannot be drained".into(),
    ] {
        assert!(words.contains(&part), "{part}: {words}");
    }
    // By the operator's own clock, whatever the pod's times are.
    assert_eq!(told(299, &|_| {}), "", "it may come yet");
    let half = |seen: &mut Seen| {
        let row = Row { state: State::Learner, peers: 0, alive: false, ..row(3) };
        table(seen).nodes.push(row);
    };
    assert!(told(300, &half).contains("kv-3-0"), "half way in");
    let node = |seen: &mut Seen| table(seen).nodes.push(Row { alive: false, ..row(3) });
    assert_eq!(told(300, &node), "", "a node that is down is told as that");
    let starts = |seen: &mut Seen| {
        pod(seen, &|pod| (pod.running, pod.running_since) = (false, None));
    };
    assert!(told(300, &starts).contains("describe pod kv-3-0"), "{}", told(300, &starts));
    let fails = |seen: &mut Seen| {
        pod(seen, &|pod| pod.problem = Some(("ImagePullBackOff".into(), "no".into())));
    };
    assert_eq!(told(300, &fails), "", "that is told");
    let ends = |seen: &mut Seen| pod(seen, &|pod| pod.terminating = true);
    assert!(told(300, &ends).contains("has not ended"), "{}", told(300, &ends));
    let empty = |seen: &mut Seen| {
        pod(seen, &|pod| pod.node = Node::Unjoined { version: "0.1.0".into() });
    };
    assert_eq!(told(300, &empty), "", "it answers, and is taken in");
    let begins = |seen: &mut Seen| (seen.cluster.status, seen.table) = (None, None);
    assert!(told(300, &begins).contains("kv-3-0"), "before the cluster begins");
    let outage = |seen: &mut Seen| {
        seen.table = None;
        (0..4).for_each(|ordinal| silent_pod(seen, ordinal));
        seen.cluster.status.get_or_insert_default().members =
            (0..4).map(|ordinal| member(ordinal, None)).collect();
    };
    assert_eq!(told(300, &outage), "", "they were nodes");
    let stopped = |seen: &mut Seen| seen.cluster.spec.stopped = true;
    assert_eq!(told(300, &stopped), "", "none is wanted");
}

fn silent_pod(seen: &mut Seen, ordinal: i32) {
    let pod = seen.pods.get_mut(&ordinal).expect("a pod");
    (pod.node, pod.ready) = (Node::Silent("no answer".into()), false);
}

/// Else a person deletes what may be the data, or gives a cluster that runs another name.
#[test]
fn what_has_a_name_of_ours_is_told_with_what_helps() {
    let told = |slot: Slot, change: &dyn Fn(&mut Seen)| {
        let mut seen = settled(3, json!({}));
        seen.taken.insert(slot, "no KvCluster made it".into());
        change(&mut seen);
        let plan = plan(&seen, &defaults(), now());
        let told = plan.troubles.into_iter().find(|trouble| trouble.reason == "NameTaken");
        told.expect("told").message
    };
    let words = told(Slot::Volume(1), &|seen| drop(seen.volumes.remove(&1)));
    assert!(words.contains(&format!("flotilla.dev/cluster-id={UID}")), "{words}");
    let service = Slot::Child(Child::Service);
    let another = "give the KvCluster another name";
    let words = told(service, &|seen| drop(seen.children.remove(&Child::Service)));
    assert!(!words.contains(another), "it runs: {words}");
    let words = told(service, &|seen| {
        seen.children.clear();
        seen.pods.clear();
        (seen.cluster.status, seen.table) = (None, None);
    });
    assert!(words.contains(another), "{words}");
}

/// What is advised first is what can be taken back.
#[test]
fn claim_with_another_clusters_id_is_deleted_last() {
    let begun = |_: &mut Seen| {};
    let not_begun = |seen: &mut Seen| {
        seen.pods.clear();
        (seen.cluster.status, seen.table) = (None, None);
    };
    let theirs = "f".repeat(32);
    let adopt = format!("flotilla.dev/adopt-cluster-id={theirs}");
    let ours = format!("flotilla.dev/cluster-id={UID}");
    type Change<'a> = &'a dyn Fn(&mut Seen);
    let cases: [(&str, bool, Change<'_>, &str, bool); 4] = [
        ("its uid is known", true, &begun, &ours, false),
        ("its uid is known, and nothing has begun", true, &not_begun, &ours, false),
        ("a cluster that runs", false, &begun, &ours, true),
        ("one that lost its status, or is made anew", false, &not_begun, &adopt, true),
    ];
    for (why, is_known, change, first, may_go) in cases {
        let mut seen = settled(3, json!({}));
        seen.volumes.remove(&1);
        let foreign = ForeignVolume { cluster_id: theirs.clone(), is_known };
        seen.foreign_volumes.insert(1, foreign);
        change(&mut seen);
        let told = plan(&seen, &defaults(), now()).troubles;
        let told = told.into_iter().find(|trouble| trouble.reason == "ForeignVolume");
        let words = told.unwrap_or_else(|| panic!("{why}: not told")).message;
        let at = words.find(first).unwrap_or_else(|| panic!("{why}: {words}"));
        assert_eq!(words.find("delete").is_some(), may_go, "{why}: {words}");
        assert!(words.find("delete").is_none_or(|delete| at < delete), "{why}: {words}");
    }
    // The disk says so itself.
    let of_pod = |change: Change<'_>| {
        let mut seen = settled(3, json!({}));
        change(&mut seen);
        let other = Joined { cluster_id: theirs.clone(), ..node(2, &[1, 2, 3]) };
        let pod = seen
            .pods
            .entry(1)
            .or_insert_with(|| pod(&desired(&cluster(json!({}))), 1, Node::Silent(String::new())));
        pod.node = Node::Joined(other);
        let told = plan(&seen, &defaults(), now()).troubles;
        told.into_iter().find(|trouble| trouble.reason == "ForeignVolume").expect("told").message
    };
    let words = of_pod(&not_begun);
    assert!(words.find(&adopt).expect("named") < words.find("delete").expect("last"), "{words}");
    let words = of_pod(&begun);
    assert!(words.contains("If nobody needs what is on it, delete"), "{words}");
}

/// A person at three in the morning reads it as an event: which object, why, and what would help.
#[test]
fn object_that_is_written_is_told_with_whether_somebody_changed_it_or_something_else_is_asked_for()
{
    let told = |seen: &Seen| plan(seen, &defaults(), now()).why;
    let mut edited = settled(3, json!({}));
    edited.children.get_mut(&Child::Service).expect("one")["spec"]["ports"][0]["port"] = json!(1);
    let words = told(&edited);
    let parts = ["Service kv: .spec.ports", "not what this operator asks for", "KvCluster"];
    assert!(parts.iter().all(|part| words.contains(part)), "{words}");
    let asked = json!({"service": {"annotations": {"example.com/team": "kv"}}});
    let mut asked = well(3, asked, json!({}));
    let config = children_of(&desired(&asked.cluster), 3)[&Child::ConfigMap].clone();
    asked.children.insert(Child::ConfigMap, config);
    let words = told(&asked);
    let parts = ["Service kv", "what the spec or this operator asks for now", "example.com/team"];
    assert!(parts.iter().all(|part| words.contains(part)), "{words}");
    assert!(!words.contains("object-hash"), "{words}");
}

/// By this an alert knows of which clusters Kubernetes goes on to refuse something, whoever else asks for more.
#[test]
fn what_kubernetes_refuses_is_counted_of_its_cluster_and_of_no_other() {
    let scaled = || settled(5, json!({"replicas": 6}));
    let joins = || {
        let mut seen = scaled();
        table(&mut seen).nodes.pop();
        let pod = the(&mut seen, 4);
        (pod.node, pod.ready) = (Node::Unjoined { version: "0.1.0".into() }, false);
        seen
    };
    let why = || "why".to_owned();
    for (name, mut seen, did, result, action, event) in [
        ("a change is refused", scaled(), Did::Refused(why()), "refused", "refused", "Refused"),
        ("others undo it", scaled(), Did::Contended(why()), "ok", "contended", "Contended"),
        ("a node says no", joins(), Did::Refused(why()), "ok", "refused", "Refused"),
    ] {
        keep_budget(&mut seen);
        let plan = plan(&seen, &defaults(), now());
        let status = status::compute(&seen, &plan, &defaults(), now());
        let requeue = plan.requeue;
        let outcome = Outcome { seen, plan, status, did, requeue };
        let metrics = Metrics::new().expect("no name is there twice");
        let keys = ["kv", "other"].map(|name| Key { namespace: "ns".into(), name: name.into() });
        for key in &keys {
            metrics.begin(key);
        }
        let before = metrics.text();
        metrics.passed(&keys[0], 0.1, Ok(&outcome));
        let after = metrics.text();
        let count = |cluster: &str, of: &str, count: u32| {
            format!(
                "flotilla_operator_cluster_reconciles_total{{cluster=\"{cluster}\",namespace=\"ns\",result=\"{of}\"}} \
                 {count}\n"
            )
        };
        assert!(before.contains(&count("kv", result, 0)), "{name}: {before}");
        assert!(after.contains(&count("kv", result, 1)), "{name}: {after}");
        for of in ["ok", "refused", "error"] {
            assert!(after.contains(&count("other", of, 0)), "{name}: {after}");
        }
        let actions: Vec<_> =
            after.lines().filter(|line| line.contains("actions_total{")).collect();
        let counted = format!("result=\"{action}\"");
        assert!(matches!(actions[..], [one] if one.contains(&counted)), "{name}: {after}");
        metrics.forget(&keys[0]);
        assert!(!metrics.text().contains("cluster=\"kv\""), "{name}: {}", metrics.text());
        let told = events::of(&outcome);
        assert!(
            told.iter().any(|told| told.warning && told.reason.ends_with(event)),
            "{name}: {told:?}"
        );
    }
}

/// Else an API server that does not answer for a moment takes the monitoring of a cluster away, and says why wrongly.
#[test]
fn service_monitor_is_left_as_it_is_while_it_is_not_known_whether_its_type_is_there() {
    let is_about = |plan: &Plan| {
        let Some(Action::Change(change)) = &plan.action else { return false };
        matches!(
            change,
            Change::Apply(Child::ServiceMonitor, ..)
                | Change::Replace(Child::ServiceMonitor, ..)
                | Change::Delete { child: Child::ServiceMonitor, .. }
        )
    };
    for (why, known, is_there, acts, is_told) in [
        ("as it is to be made", Some(true), false, true, false),
        ("as it is to be mended", Some(true), true, true, false),
        ("of a type that went", Some(false), true, true, true),
        ("of no type", Some(false), false, false, true),
        ("there, and not known", None, true, false, false),
        ("not seen, and not known", None, false, false, false),
    ] {
        let mut seen = settled(3, json!({"metrics": {"serviceMonitor": true}}));
        seen.service_monitors = known;
        if is_there {
            let desired = desired(&seen.cluster);
            let mut monitor = children::build(Child::ServiceMonitor, &desired, 0, None);
            monitor["metadata"]["uid"] = json!("uid-of-monitor");
            monitor["metadata"]["resourceVersion"] = json!("7");
            monitor["spec"]["endpoints"][0]["interval"] = json!("7s");
            seen.children.insert(Child::ServiceMonitor, monitor);
        }
        keep_budget(&mut seen);
        let plan = plan(&seen, &defaults(), now());
        assert_eq!(is_about(&plan), acts, "{why}: {plan:#?}");
        let told = plan.troubles.iter().any(|trouble| trouble.reason == "NoServiceMonitors");
        assert_eq!(told, is_told, "{why}: {plan:#?}");
        let lines = preview(&seen, &defaults(), now());
        let goes = lines.iter().any(|line| line.starts_with("delete ServiceMonitor"));
        assert_eq!(goes, is_told && is_there, "{why}: {lines:?}");
    }
}
