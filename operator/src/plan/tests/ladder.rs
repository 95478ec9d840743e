//! What goes on beside something that is waited for, and what does not.

use super::*;

/// As many nodes, with the one region on those of `voters`.
fn on(voters: &[u64], count: i32, spec: Value, started: Value) -> Seen {
    let mut seen = well(count, spec, started);
    for (ordinal, pod) in &mut seen.pods {
        let id = u64::try_from(*ordinal).expect("an ordinal") + 1;
        let mut joined = node(id, voters);
        joined.peers.retain(|_| voters.contains(&id));
        pod.node = Node::Joined(joined);
    }
    seen
}

/// The pod has an empty disk, and its node is not heard.
fn loses_its_disk(seen: &mut Seen, ordinal: i32) {
    silent(seen, ordinal);
    let pod = seen.pods.get_mut(&ordinal).expect("a pod");
    pod.node = Node::Unjoined { version: "0.1.0".into() };
}

/// Its pod stays away.
fn is_away(seen: &mut Seen, ordinal: i32) {
    silent(seen, ordinal);
    let pod = seen.pods.get_mut(&ordinal).expect("a pod");
    (pod.running, pod.terminating) = (false, true);
}

fn drains(seen: &mut Seen, ordinal: usize) {
    table(seen).nodes[ordinal].state = State::Draining;
}

fn wants(seen: &mut Seen, change: &dyn Fn(&mut Value)) {
    let mut spec = serde_json::to_value(&seen.cluster.spec).expect("JSON");
    change(&mut spec);
    seen.cluster.spec = serde_json::from_value(spec).expect("a spec");
}

fn wants_nodes(seen: &mut Seen, count: i32) {
    wants(seen, &|spec| spec["replicas"] = json!(count));
}

fn wants_room(seen: &mut Seen) {
    wants(seen, &|spec| spec["storage"]["size"] = json!("2Gi"));
}

/// The same with something changed.
fn with(seen: &Seen, change: &dyn Fn(&mut Seen)) -> Seen {
    let mut seen = seen.clone();
    change(&mut seen);
    seen
}

#[test]
fn nodes_that_are_gone_do_not_wait_for_each_other() {
    let five = json!({"replicas": 5});
    let two = with(&on(&[1, 3, 5], 5, five.clone(), five.clone()), &|seen| {
        loses_its_disk(seen, 1);
        loses_its_disk(seen, 3);
    });
    let lost = with(&on(&[1, 2, 4], 5, five.clone(), five.clone()), &|seen| {
        loses_its_disk(seen, 1);
        loses_its_disk(seen, 3);
    });
    check(vec![
        (
            "two are gone",
            two.clone(),
            Want::Does("RemoveNode", "node_id: 2, force: true"),
            "NodeLost",
        ),
        (
            "the first was heard a moment ago",
            with(&two, &|seen| table(seen).nodes[1].alive = true),
            Want::Does("RemoveNode", "node_id: 4, force: true"),
            "NodeLost",
        ),
        (
            "another machine is away for days",
            with(&on(&[1, 3, 5], 5, five.clone(), five.clone()), &|seen| {
                loses_its_disk(seen, 1);
                silent(seen, 3);
            }),
            Want::Does("RemoveNode", "node_id: 2, force: true"),
            "NodeLost",
        ),
        (
            "a pod that begins anew waits for its machine",
            with(&on(&[1, 3, 5], 5, five.clone(), five.clone()), &|seen| {
                is_away(seen, 1);
                table(seen).nodes[1].state = State::Removed;
                let volume = seen.volumes.get_mut(&1).expect("a volume");
                (volume.decommissioned, volume.terminating) = (Some("2".into()), true);
                loses_its_disk(seen, 3);
            }),
            Want::Does("RemoveNode", "node_id: 4, force: true"),
            "NodeLost",
        ),
        ("they hold a quorum", lost.clone(), Want::Waits("would have no quorum"), "QuorumLost"),
        (
            "its machine is gone before it joined",
            with(&on(&[1, 2, 3], 5, five.clone(), five), &|seen| {
                does_not_run(seen, 4, 90);
                table(seen).nodes[4].state = State::Joining;
                seen.volumes.get_mut(&4).expect("a volume").machine_is_gone = true;
            }),
            Want::Does("RemoveNode", "node_id: 5, force: true"),
            "NodeLost",
        ),
    ]);
    // What would help goes on, and what is waited for stays noted.
    let mut more = with(&lost, &|seen| wants_nodes(seen, 7));
    keep_budget(&mut more);
    let helped = plan(&more, &defaults(), now());
    let Some(Action::Change(Change::Scale { ordinal: 5, replicas: 1, .. })) = helped.action else {
        panic!("{helped:#?}")
    };
    let noted = helped.operation.expect("a note");
    assert_eq!((noted.kind.as_str(), noted.volume_uid.as_deref()), ("Repair", Some("volume-1")));
}

#[test]
fn what_a_wait_excludes_is_what_would_take_something_away() {
    let five = || on(&[1, 2, 3], 5, json!({"replicas": 5}), json!({"replicas": 5}));
    let newer = || {
        let spec = json!({"replicas": 5, "config": {"log_level": "debug"}});
        let mut seen = on(&[1, 2, 3], 5, spec, json!({"replicas": 5}));
        let now = children_of(&desired(&seen.cluster), 5);
        seen.children.insert(Child::ConfigMap, now[&Child::ConfigMap].clone());
        seen
    };
    let draining = || {
        with(&five(), &|seen| {
            wants_nodes(seen, 4);
            drains(seen, 4);
        })
    };
    let refused = |seen: &Seen| {
        with(seen, &|seen| {
            loses_its_disk(seen, 1);
            silent(seen, 2);
        })
    };
    let learner = |seen: &Seen| {
        with(seen, &|seen| {
            silent(seen, 3);
            table(seen).nodes[3].state = State::Learner;
        })
    };
    check(vec![
        ("a drain", draining(), Want::Waits("node 5 drains"), ""),
        (
            "a drain, and room is asked for",
            with(&draining(), &wants_room),
            Want::Does("GrowVolume", "volume-0"),
            "",
        ),
        (
            "a drain, and a setting is changed",
            with(&draining(), &|seen| {
                wants(seen, &|spec| spec["restartedAt"] = json!("2026-01-01T00:00:00Z"));
            }),
            Want::Waits("node 5 drains"),
            "",
        ),
        (
            "a node drains that does not answer, and more are wanted",
            with(&five(), &|seen| {
                drains(seen, 4);
                silent(seen, 4);
                wants_nodes(seen, 6);
            }),
            Want::Does("Scale", "ordinal: 5"),
            "",
        ),
        (
            "a node drains, and fewer yet are wanted",
            with(&draining(), &|seen| wants_nodes(seen, 3)),
            Want::Waits("node 5 drains"),
            "",
        ),
        ("a repair that is refused", refused(&five()), Want::Waits("no quorum"), "NodeLost"),
        (
            "a repair that is refused, and room is asked for",
            with(&refused(&five()), &wants_room),
            Want::Does("GrowVolume", "volume-0"),
            "NodeLost",
        ),
        (
            "a repair that is refused, and fewer nodes are wanted",
            with(&refused(&five()), &|seen| wants_nodes(seen, 4)),
            Want::Waits("no quorum"),
            "NodeLost",
        ),
        (
            "a repair excludes a roll",
            with(&refused(&newer()), &|seen| {
                has_its_turn(seen, 1);
                seen.cluster.status.as_mut().expect("a status").operation = None;
            }),
            Want::Waits("no quorum"),
            "NodeLost",
        ),
        (
            "a process that does not live, and whose node may not be given up",
            with(&five(), &|seen| {
                silent(seen, 1);
                does_not_run(seen, 2, 3600);
                let pod = seen.pods.get_mut(&2).expect("a pod");
                (pod.restarts, pod.last_exit) = (9, Some(Exit { code: 134, out_of_memory: false }));
                pod.problem = Some(("CrashLoopBackOff".into(), "x".into()));
            }),
            Want::Waits("ends again and again"),
            "NodeLost",
        ),
        ("a node that comes", learner(&five()), Want::Waits("waiting for node 4"), ""),
        (
            "a node that comes, and room is asked for",
            with(&learner(&five()), &wants_room),
            Want::Does("GrowVolume", "volume-0"),
            "",
        ),
        (
            "a node that comes, and one that is to go",
            with(&learner(&five()), &|seen| wants_nodes(seen, 4)),
            Want::Waits("waiting for node 4"),
            "",
        ),
        (
            "a node that does not come, and another that may",
            with(&learner(&five()), &|seen| {
                table(seen).nodes.pop();
                let pod = seen.pods.get_mut(&4).expect("a pod");
                (pod.node, pod.ready) = (Node::Unjoined { version: "0.1.0".into() }, false);
                does_not_run(seen, 3, 300);
                // By then the other one is what is noted.
                record(seen, "ScaleUp", &names().pod(4), "AddLearner");
            }),
            Want::Does("AddLearner", "pod: 4"),
            "",
        ),
        (
            "regions are to have more peers, and a node is down",
            {
                let mut seen = five();
                is_away(&mut seen, 4);
                wants(&mut seen, &|spec| spec["replicationFactor"] = json!(5));
                wants_nodes(&mut seen, 6);
                seen
            },
            Want::Does("Scale", "ordinal: 5"),
            "NodeDown",
        ),
        (
            "the version is refused, and room is asked for",
            with(&five(), &|seen| {
                wants(seen, &|spec| spec["image"] = json!("flotilla:9.9.0"));
                wants_room(seen);
            }),
            Want::Does("GrowVolume", "volume-0"),
            "VersionRefused",
        ),
    ]);
}

#[test]
fn pod_that_is_being_restarted_is_waited_for_with_all_that_would_come_but_not_for_ever() {
    let rolling = |since: i64, change: &dyn Fn(&mut Seen)| {
        let spec = json!({"replicas": 4, "config": {"log_level": "debug"}});
        let mut seen = on(&[1, 2, 3], 4, spec, json!({"replicas": 4}));
        let now = children_of(&desired(&seen.cluster), 4);
        seen.children.insert(Child::ConfigMap, now[&Child::ConfigMap].clone());
        has_its_turn(&mut seen, 3);
        let status = seen.cluster.status.as_mut().expect("a status");
        status.operation.as_mut().expect("noted").started_at = ago(since);
        turn_budget(&mut seen, false);
        change(&mut seen);
        seen
    };
    check(vec![
        (
            "more nodes are wanted",
            rolling(60, &|seen| {
                is_away(seen, 3);
                wants_nodes(seen, 5);
            }),
            Want::Waits("is being restarted"),
            "NodeDown",
        ),
        (
            "more nodes are wanted, and it does not come back",
            rolling(300, &|seen| {
                is_away(seen, 3);
                wants_nodes(seen, 5);
            }),
            Want::Does("Scale", "ordinal: 4"),
            "NodeDown",
        ),
        (
            "room is asked for",
            rolling(60, &|seen| {
                is_away(seen, 3);
                wants_room(seen);
            }),
            Want::Does("GrowVolume", "volume-0"),
            "NodeDown",
        ),
    ]);
}

/// As often as makes a wait of it, and a moment ago.
pub(super) fn refuse(seen: &mut Seen, action: &Action) {
    let why = || crate::error::Error::Refused("a policy".into());
    for _ in 0..7 {
        match action {
            Action::Call(call) => seen.answers.learn_call(call, &Err(why()), now()),
            Action::Change(change) => seen.answers.learn(change, Err(&why()), now()),
            Action::Latch { .. } => unreachable!("nobody is asked"),
        }
    }
}

/// What would be done is refused; it has this name.
fn refused(seen: &Seen, name: &str) -> Seen {
    with(seen, &|seen| {
        keep_budget(seen);
        let plan = plan(seen, &defaults(), now());
        let Some(action) = plan.action else { panic!("{plan:#?}") };
        assert_eq!(action.name(), name, "{action:?}");
        seen.cluster.status.as_mut().expect("a status").operation = plan.operation;
        refuse(seen, &action);
    })
}

/// Five nodes, of which all pods are outdated, and the template is there for the last.
fn about_to_restart() -> Seen {
    let spec = json!({"replicas": 5, "config": {"log_level": "debug"}});
    let mut seen = on(&[1, 2, 3], 5, spec, json!({"replicas": 5}));
    let now = children_of(&desired(&seen.cluster), 5);
    seen.children.insert(Child::ConfigMap, now[&Child::ConfigMap].clone());
    has_its_turn(&mut seen, 4);
    seen.pods.get_mut(&4).expect("a pod").template_hash = Some("old".into());
    turn_budget(&mut seen, false);
    seen
}

#[test]
fn what_takes_nothing_away_goes_on_beside_a_restart_that_is_refused() {
    let restart = refused(&about_to_restart(), "DeletePod");
    let idle = {
        // It serves nobody, so it is not its turn that it waits for.
        let mut seen = about_to_restart();
        has_its_turn(&mut seen, 3);
        seen.pods.get_mut(&3).expect("a pod").template_hash = Some("old".into());
        does_not_run(&mut seen, 3, 400);
        has_its_turn(&mut seen, 4);
        refused(&seen, "DeletePod")
    };
    check(vec![
        ("alone", restart.clone(), Want::Waits("refused: a policy"), "ActionRefused"),
        (
            "more nodes are wanted",
            with(&restart, &|seen| {
                wants_nodes(seen, 6);
                let mut budget = children::budget(&desired(&seen.cluster), 6, false);
                let live = &seen.children[&Child::DisruptionBudget];
                live::pin(&mut budget, live);
                seen.children.insert(Child::DisruptionBudget, budget);
            }),
            Want::Does("Scale", "ordinal: 5"),
            "ActionRefused",
        ),
        (
            "room is asked for",
            with(&restart, &wants_room),
            Want::Does("GrowVolume", "volume-0"),
            "",
        ),
        (
            "fewer nodes are wanted",
            with(&restart, &|seen| wants_nodes(seen, 4)),
            Want::Waits("refused: a policy"),
            "ActionRefused",
        ),
        (
            "the budget is not turned with every try",
            with(&restart, &|seen| {
                let since = Timestamp::from_second(now().as_second() - 600).expect("a time");
                seen.answers.watch(true, since);
                seen.answers.watch(true, now());
            }),
            Want::Waits("refused: a policy"),
            "BudgetClosed",
        ),
        (
            "one that serves nobody, and a node is lost",
            with(&idle, &|seen| loses_its_disk(seen, 4)),
            Want::Does("RemoveNode", "node_id: 5, force: true"),
            "ActionRefused",
        ),
        (
            "one that serves nobody, and its node is lost",
            with(&idle, &|seen| {
                seen.volumes.get_mut(&3).expect("a volume").machine_is_gone = true;
            }),
            Want::Does("RemoveNode", "node_id: 4, force: true"),
            "NodeLost",
        ),
    ]);
}

#[test]
fn node_that_is_refused_keeps_no_other_from_being_replaced_or_coming() {
    let five = json!({"replicas": 5});
    let two = with(&on(&[1, 3, 5], 5, five.clone(), five.clone()), &|seen| {
        loses_its_disk(seen, 1);
        loses_its_disk(seen, 3);
    });
    let both = refused(&refused(&two, "RemoveNode"), "RemoveNode");
    let learner = refused(
        &with(&on(&[1, 2, 3], 5, five.clone(), five), &|seen| {
            table(seen).nodes[3].state = State::Learner;
        }),
        "Promote",
    );
    let emptied = with(&settled(3, json!({"replicas": 5})), &|seen| {
        for ordinal in [3, 4] {
            let marked = Some((ordinal + 1).to_string());
            seen.volumes.insert(ordinal, VolumeClaim { decommissioned: marked, ..volume(ordinal) });
        }
    });
    check(vec![
        (
            "two are lost",
            refused(&two, "RemoveNode"),
            Want::Does("RemoveNode", "node_id: 4, force: true"),
            "CallRefused",
        ),
        ("both are refused", both.clone(), Want::Waits("refused: a policy"), "CallRefused"),
        (
            "both are refused, and more are wanted",
            with(&both, &|seen| wants_nodes(seen, 7)),
            Want::Does("Scale", "ordinal: 5"),
            "CallRefused",
        ),
        ("a node comes", learner.clone(), Want::Waits("refused: a policy"), "CallRefused"),
        (
            "another node comes",
            with(&learner, &|seen| {
                table(seen).nodes.pop();
                let pod = seen.pods.get_mut(&4).expect("a pod");
                (pod.node, pod.ready) = (Node::Unjoined { version: "0.1.0".into() }, false);
            }),
            Want::Does("AddLearner", "pod: 4"),
            "CallRefused",
        ),
        (
            "a node comes, and one is to go",
            with(&learner, &|seen| wants_nodes(seen, 4)),
            Want::Waits("refused: a policy"),
            "CallRefused",
        ),
        (
            "a volume is to be emptied first",
            refused(&emptied, "DeleteVolume"),
            Want::Does("DeleteVolume", "volume-4"),
            "ActionRefused",
        ),
    ]);
}

#[test]
fn objects_and_volumes_that_are_refused_keep_nothing_waiting() {
    let mut larger = settled(5, json!({"replicas": 5}));
    wants_room(&mut larger);
    for volume in larger.volumes.values_mut() {
        volume.requested = Quantity("2Gi".into());
    }
    for _ in 0..5 {
        larger = refused(&larger, "Delete");
    }
    let dropped =
        with(&settled(3, json!({"storage": {"size": "1Gi", "retain": false}})), &|seen| {
            for ordinal in [3, 4] {
                let marked = Some((ordinal + 1).to_string());
                seen.volumes
                    .insert(ordinal, VolumeClaim { decommissioned: marked, ..volume(ordinal) });
            }
            tie(seen);
        });
    check(vec![
        (
            "StatefulSets with larger claims",
            larger.clone(),
            Want::Waits("a policy"),
            "ApplyRefused",
        ),
        (
            "StatefulSets with larger claims, and one node is to go",
            with(&larger, &|seen| wants_nodes(seen, 4)),
            Want::Does("RemoveNode", "node_id: 5, force: false"),
            "ApplyRefused",
        ),
        (
            "a volume that is not to be kept",
            refused(&dropped, "DeleteVolume"),
            Want::Does("DeleteVolume", "volume-4"),
            "ActionRefused",
        ),
    ]);
}

#[test]
fn budget_is_opened_beside_what_waits_once_all_is_whole() {
    let whole = |seen: &mut Seen, seconds: i64| {
        turn_budget(seen, false);
        let since = Timestamp::from_second(now().as_second() - seconds).expect("a time");
        seen.answers.watch(true, since);
        seen.answers.watch(true, now());
    };
    let newer = json!({"config": {"log_level": "debug"}});
    let blocked = {
        // Its settings cannot be made.
        let mut seen = well(3, newer.clone(), json!({}));
        let make = |child: Child, seen: &Seen| {
            let object = children::build(child, &desired(&seen.cluster), 0, None);
            Change::Apply(child, Box::new(object), None)
        };
        let refused = crate::error::Error::Refused("exceeded quota".into());
        let change = make(Child::ConfigMap, &seen);
        seen.answers.learn(&change, Err(&refused), now());
        whole(&mut seen, 60);
        seen
    };
    let draining = {
        let mut seen = settled(5, json!({"replicas": 4}));
        table(&mut seen).nodes[4].state = State::Draining;
        whole(&mut seen, 60);
        seen
    };
    let restarted = {
        let mut seen = well(3, newer, json!({}));
        let now = children_of(&desired(&seen.cluster), 3);
        seen.children.insert(Child::ConfigMap, now[&Child::ConfigMap].clone());
        has_its_turn(&mut seen, 2);
        seen.pods.get_mut(&2).expect("a pod").ready_since = Some(ago(5));
        whole(&mut seen, 600);
        seen
    };
    for (why, seen, want, told) in [
        ("a roll that is held up", blocked, Some(2), false),
        ("a drain", draining, Some(4), false),
        ("a pod that is being restarted", restarted, None, true),
    ] {
        let plan = plan(&seen, &defaults(), now());
        assert_eq!(budget_of(&plan), want, "{why}: {plan:#?}");
        let is_told = plan.troubles.iter().any(|trouble| trouble.reason == "BudgetClosed");
        assert_eq!(is_told, told, "{why}: {:?}", plan.troubles);
    }
}
