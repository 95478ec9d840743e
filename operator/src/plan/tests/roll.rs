//! Whose turn it is with another template, and who may have it out of turn.

use super::*;

fn config(level: &str) -> Value {
    json!({"config": {"log_level": level}})
}

/// Another template is asked for and can be had, the budget is closed, and no pod has had its turn.
fn waiting(change: &dyn Fn(&mut Seen)) -> Seen {
    let mut seen = well(3, config("debug"), json!({}));
    let now = children_of(&desired(&seen.cluster), 3);
    seen.children.insert(Child::ConfigMap, now[&Child::ConfigMap].clone());
    turn_budget(&mut seen, false);
    change(&mut seen);
    seen
}

fn the(seen: &mut Seen, ordinal: i32) -> &mut Pod {
    seen.pods.get_mut(&ordinal).expect("a pod")
}

fn leads(seen: &mut Seen, ordinal: usize, leaders: u32) {
    table(seen).nodes[ordinal].leaders = leaders;
}

/// As [`record`], a while ago.
fn recorded(seen: &mut Seen, target: i32, step: &str, seconds: i64) {
    record(seen, "RollingUpdate", &names().pod(target), step);
    let status = seen.cluster.status.as_mut().expect("a status");
    status.operation.as_mut().expect("noted").started_at = ago(seconds);
}

#[test]
fn pods_that_are_not_ready_are_given_what_may_make_them_so() {
    let none_is_ready = |seen: &mut Seen| seen.pods.values_mut().for_each(|pod| pod.ready = false);
    check(vec![
        (
            "another container fails in all of them, and the servers serve",
            waiting(&none_is_ready),
            Want::Does("Apply", "StatefulSet(2)"),
            "",
        ),
        (
            "the first has it, and is not ready either",
            waiting(&|seen| {
                none_is_ready(seen);
                has_its_turn(seen, 2);
            }),
            Want::Waits("waiting for pod kv-2-0 with its new template"),
            "",
        ),
        (
            "the first has it, and somebody else was noted meanwhile",
            waiting(&|seen| {
                none_is_ready(seen);
                has_its_turn(seen, 2);
                recorded(seen, 1, "Blocked", 5);
            }),
            Want::Waits("pod kv-2-0 is not ready"),
            "RollingUpdateBlocked",
        ),
        (
            "one of them does not serve",
            waiting(&|seen| {
                none_is_ready(seen);
                let Node::Joined(joined) = &mut the(seen, 0).node else { unreachable!("joined") };
                joined.ready = false;
                leads(seen, 0, 1);
                recorded(seen, 2, "WriteTemplate", 5);
            }),
            Want::Waits("pod kv-0-0 is not ready"),
            "RollingUpdateBlocked",
        ),
        (
            "the one that the others wait for goes first, whatever it leads",
            waiting(&|seen| {
                the(seen, 1).ready = false;
                leads(seen, 1, 3);
                recorded(seen, 2, "Blocked", 5);
            }),
            Want::Does("EvictLeaders", "node_id: 2"),
            "",
        ),
    ]);
}

#[test]
fn nodes_that_elect_nobody_are_given_what_may_mend_them_one_by_one() {
    let dead = |seconds: i64, change: &dyn Fn(&mut Seen)| {
        waiting(&|seen| {
            seen.table = None;
            for pod in seen.pods.values_mut() {
                (pod.ready, pod.ready_since) = (false, None);
                pod.not_ready_since = Some(ago(seconds));
                if let Node::Joined(joined) = &mut pod.node {
                    joined.ready = false;
                    for peer in &mut joined.peers {
                        (peer.leads, peer.leader_node) = (false, None);
                    }
                }
            }
            change(seen);
        })
    };
    check(vec![
        (
            "for long",
            dead(300, &|_| {}),
            Want::Does("Apply", "StatefulSet(0)"),
            "DriverUnreachable",
        ),
        ("for a moment", dead(299, &|_| {}), Want::Nothing, "DriverUnreachable"),
        (
            "the first is being restarted",
            dead(300, &|seen| {
                has_its_turn(seen, 0);
                the(seen, 0).node = Node::Silent("no answer".into());
                the(seen, 0).running = false;
            }),
            Want::Nothing,
            "DriverUnreachable",
        ),
    ]);
}

#[test]
fn untested_template_is_no_help_for_a_pod_that_is_only_slow_while_another_is_missed() {
    let another_is_missed = |change: &dyn Fn(&mut Seen)| {
        waiting(&|seen| {
            silent(seen, 2);
            the(seen, 2).terminating = true;
            change(seen);
        })
    };
    check(vec![
        (
            "it starts",
            another_is_missed(&|seen| does_not_run(seen, 0, 299)),
            Want::Waits("none is restarted"),
            "NodeDown",
        ),
        (
            "it will not start any more",
            another_is_missed(&|seen| does_not_run(seen, 0, 300)),
            Want::Does("Apply", "StatefulSet(0)"),
            "NodeDown",
        ),
        (
            "it has failed",
            another_is_missed(&|seen| {
                does_not_run(seen, 0, 30);
                the(seen, 0).problem = Some(("CrashLoopBackOff".into(), "x".into()));
            }),
            Want::Does("Apply", "StatefulSet(0)"),
            "PodFailing",
        ),
        (
            "there is no machine for it yet",
            another_is_missed(&|seen| {
                does_not_run(seen, 0, 30);
                the(seen, 0).problem = Some(("Unschedulable".into(), "x".into()));
            }),
            Want::Waits("none is restarted"),
            "NodeDown",
        ),
        (
            "it ended once, long ago",
            another_is_missed(&|seen| {
                does_not_run(seen, 0, 30);
                the(seen, 0).restarts = 1;
            }),
            Want::Waits("none is restarted"),
            "NodeDown",
        ),
        (
            "there is none yet",
            another_is_missed(&|seen| {
                silent(seen, 0);
                seen.pods.remove(&0);
                recorded(seen, 0, "WaitForPod", 299);
            }),
            Want::Waits("is to be made anew"),
            "NodeDown",
        ),
        (
            "there is none, and none comes",
            another_is_missed(&|seen| {
                silent(seen, 0);
                seen.pods.remove(&0);
                recorded(seen, 0, "WaitForPod", 300);
            }),
            Want::Does("Apply", "StatefulSet(0)"),
            "NodeDown",
        ),
    ]);
}

/// As when its volume is on its way from a machine that was drained.
#[test]
fn pod_that_has_not_been_started_yet_is_made_anew_with_no_untested_template() {
    let starts = |seconds: i64, change: &dyn Fn(&mut Seen)| {
        waiting(&|seen| {
            does_not_run(seen, 0, seconds);
            change(seen);
        })
    };
    let gives = || Want::Does("Apply", "StatefulSet(0)");
    let waits = || Want::Waits("none is restarted");
    check(vec![
        ("its volume comes", starts(299, &|_| {}), waits(), "NodeDown"),
        (
            "there is no machine for it",
            starts(299, &|seen| the(seen, 0).problem = Some(("Unschedulable".into(), "x".into()))),
            waits(),
            "NodeDown",
        ),
        ("it does not come", starts(300, &|_| {}), gives(), "NodeDown"),
        (
            "it was started, and ended",
            starts(30, &|seen| {
                the(seen, 0).last_exit = Some(Exit { code: 1, out_of_memory: false });
            }),
            gives(),
            "NodeDown",
        ),
        (
            "it cannot be started as it is",
            starts(30, &|seen| {
                the(seen, 0).problem = Some(("ImagePullBackOff".into(), "x".into()));
            }),
            gives(),
            "PodFailing",
        ),
        (
            "nobody runs with what it has",
            starts(30, &|seen| the(seen, 0).template_hash = Some("broken".into())),
            gives(),
            "NodeDown",
        ),
    ]);
}

#[test]
fn template_that_is_ahead_of_its_pod_is_taken_back_whatever_is_asked_for_by_now() {
    let mut seen = waiting(&|_| {});
    let child = Child::StatefulSet(2);
    let between = desired(&cluster(config("trace")));
    let before = seen.children[&child].clone();
    let mut ahead = children::build(child, &between, 1, None);
    for field in ["uid", "resourceVersion"] {
        ahead["metadata"][field] = before["metadata"][field].clone();
    }
    assert_ne!(ahead["spec"]["template"], before["spec"]["template"]);
    seen.children.insert(child, ahead);
    let back = |seen: &Seen| {
        let plan = plan(seen, &defaults(), now());
        match plan.action {
            Some(Action::Change(Change::Apply(whose, set, _))) if whose == child => {
                set["spec"]["template"] == before["spec"]["template"]
            }
            _ => false,
        }
    };
    assert!(!back(&seen), "it is its turn, and no other is missed");
    silent(&mut seen, 0);
    assert!(back(&seen));
    // What is over with the next look turns nothing.
    let mut behind = waiting(&|seen| {
        let set = children_of(&desired(&seen.cluster), 3)[&child].clone();
        seen.children.insert(child, set);
    });
    let Node::Joined(joined) = &mut the(&mut behind, 1).node else { unreachable!("joined") };
    joined.peers[0].behind = true;
    assert!(!back(&behind));
}

#[test]
fn pod_that_is_being_evicted_is_missed_before_it_goes() {
    let mut seen = waiting(&|_| {});
    let budget = seen.children.get_mut(&Child::DisruptionBudget).expect("a budget");
    budget["status"] = json!({"disruptedPods": {"kv-0-0": clock::text(now())}});
    let plan = plan(&seen, &defaults(), now());
    assert!(plan.action.is_none() && plan.why.contains("kv-0-0 is being evicted"), "{plan:#?}");
}

#[test]
fn second_edit_hands_the_leaders_over_again() {
    check(vec![(
        "the pod was waited for with another template",
        waiting(&|seen| {
            leads(seen, 2, 2);
            recorded(seen, 2, "WaitForNode", 60);
        }),
        Want::Does("EvictLeaders", "node_id: 3"),
        "",
    )]);
}

#[test]
fn stateful_set_that_is_missing_ends_no_pod_whose_claim_goes() {
    let mut seen = settled(3, json!({"stopped": true}));
    seen.children.remove(&Child::StatefulSet(1));
    seen.volumes.get_mut(&1).expect("a volume").terminating = true;
    let plan = plan(&seen, &defaults(), now());
    let Some(Action::Change(Change::Apply(Child::StatefulSet(1), set, None))) = plan.action else {
        panic!("{plan:#?}")
    };
    assert_eq!(set["spec"]["replicas"], 1);
}

#[test]
fn node_whose_disk_is_full_is_not_given_up() {
    let mut seen = settled(4, json!({"replicas": 4, "placement": {"maxNodeDown": "1m"}}));
    does_not_run(&mut seen, 2, 3600);
    let pod = the(&mut seen, 2);
    (pod.restarts, pod.last_exit) = (9, Some(Exit { code: 28, out_of_memory: false }));
    check(vec![("its server says so as it ends", seen, Want::Nothing, "DiskFull")]);
}

/// It waits for a machine, say, and holds nothing.
#[test]
fn node_that_is_half_way_in_keeps_nobody_from_being_restarted() {
    for state in [State::Joining, State::Learner] {
        let four = |level: &str| json!({"replicas": 4, "config": {"log_level": level}});
        let mut seen = well(4, four("debug"), json!({"replicas": 4}));
        let wished = desired(&seen.cluster);
        let now_made = children_of(&wished, 4);
        for child in [Child::ConfigMap, Child::StatefulSet(3)] {
            seen.children.insert(child, now_made[&child].clone());
        }
        turn_budget(&mut seen, false);
        does_not_run(&mut seen, 3, 400);
        the(&mut seen, 3).template_hash = Some(wished.template_hash.clone());
        let fourth = &mut table(&mut seen).nodes[3];
        (fourth.state, fourth.peers) = (state, 0);
        let plan = plan(&seen, &defaults(), now());
        let words = format!("{:?}", plan.action);
        assert!(words.starts_with("Some(Change(Apply(StatefulSet(2)"), "{state:?}: {plan:#?}");
    }
}

/// The pod of the last node has had its turn and is up with an empty disk, and nobody leads.
fn empty_with_it(change: &dyn Fn(&mut Seen)) -> Seen {
    waiting(&|seen| {
        has_its_turn(seen, 2);
        silent(seen, 2);
        the(seen, 2).node = Node::Unjoined { version: "0.1.0".into() };
        seen.table = None;
        change(seen);
    })
}

/// Else it reaches those that would have come back as they were, and the cluster stands.
#[test]
fn template_with_which_a_pod_finds_no_data_is_given_to_nobody_else() {
    let known = |seen: &mut Seen| {
        let members = (0..3).map(|at| member(at, Some(format!("volume-{at}"))));
        seen.cluster.status.get_or_insert_default().members = members.collect();
    };
    let hidden = |change: &dyn Fn(&mut Seen)| {
        empty_with_it(&|seen| {
            known(seen);
            change(seen);
        })
    };
    let down = |seen: &mut Seen, ordinal: i32, seconds: i64| {
        seen.table = Some(Table { nodes: (0..3).map(row).collect(), ..Table::default() });
        does_not_run(seen, ordinal, seconds);
        seen.table = None;
    };
    let gives = || Want::Does("Apply", "StatefulSet(0)");
    check(vec![
        (
            "both others are away",
            hidden(&|seen| {
                down(seen, 0, 60);
                down(seen, 1, 60);
            }),
            Want::Nothing,
            "TemplateHidesDisk",
        ),
        (
            "they are for long: it would mend nothing",
            hidden(&|seen| {
                down(seen, 0, 3600);
                down(seen, 1, 3600);
            }),
            Want::Nothing,
            "TemplateHidesDisk",
        ),
        (
            "they have failed",
            hidden(&|seen| {
                for ordinal in [0, 1] {
                    down(seen, ordinal, 3600);
                    the(seen, ordinal).problem = Some(("CrashLoopBackOff".into(), "x".into()));
                }
            }),
            Want::Nothing,
            "TemplateHidesDisk",
        ),
        (
            "there is no pod, and none comes",
            hidden(&|seen| {
                down(seen, 0, 60);
                down(seen, 1, 60);
                seen.pods.remove(&0);
                recorded(seen, 0, "WaitForPod", 3600);
            }),
            Want::Waits("is being restarted"),
            "TemplateHidesDisk",
        ),
        (
            "whose claim it is nobody knows: it proves nothing",
            empty_with_it(&|seen| {
                down(seen, 0, 299);
                down(seen, 1, 60);
            }),
            Want::Nothing,
            "DriverUnreachable",
        ),
        (
            "nor does it keep those waiting that do not come back",
            empty_with_it(&|seen| {
                down(seen, 0, 300);
                down(seen, 1, 60);
            }),
            gives(),
            "DriverUnreachable",
        ),
    ]);
}

/// All its pods are empty then.
#[test]
fn template_runs_where_a_pod_answers_as_long_as_the_cluster_has_not_begun() {
    let new = empty_with_it(&|seen| {
        seen.cluster.status = None;
        has_its_turn(seen, 1);
        for pod in seen.pods.values_mut() {
            pod.node = Node::Unjoined { version: "0.1.0".into() };
            (pod.ready, pod.template_hash) = (false, Some(desired(&seen.cluster).template_hash));
        }
        seen.pods.remove(&0);
        recorded(seen, 0, "WaitForPod", 30);
    });
    check(vec![("one was not made", new, Want::Does("Apply", "StatefulSet(0)"), "")]);
}

/// Nodes by whether their disks were begun with the template that is asked for.
pub(super) fn begun_with_it(seen: &mut Seen, with_it: [bool; 3]) {
    let wished = desired(&seen.cluster).template_hash;
    let members = with_it.into_iter().zip(0..).map(|(with_it, at)| Member {
        born_with: Some(if with_it { wished.clone() } else { "of-before".to_owned() }),
        ..member(at, Some(format!("volume-{at}")))
    });
    seen.cluster.status.get_or_insert_default().members = members.collect();
}

/// A program that cannot read what is on the others' disks reads all that it has written itself: so it says nothing of them,
/// and one that was given it and fails with it does.
#[test]
fn template_is_proven_by_no_younger_disk() {
    let two = |with_it: [bool; 3], change: &dyn Fn(&mut Seen)| {
        waiting(&|seen| {
            begun_with_it(seen, with_it);
            has_its_turn(seen, 0);
            change(seen);
        })
    };
    let fails = |seen: &mut Seen| {
        has_its_turn(seen, 2);
        does_not_run(seen, 2, 900);
        does_not_run(seen, 1, 600);
    };
    let gives = || Want::Does("Apply", "StatefulSet(1)");
    let waits = || Want::Waits("kv-2-0");
    check(vec![
        ("it found its disk", two([false; 3], &fails), gives(), "QuorumLost"),
        ("it has begun with it", two([true, false, false], &fails), waits(), "QuorumLost"),
        ("so has who would be given it", two([true, true, false], &fails), gives(), "QuorumLost"),
        (
            "nobody else was given it",
            two([true, false, false], &|seen| does_not_run(seen, 1, 300)),
            gives(),
            "NodeDown",
        ),
    ]);
}

#[test]
fn pod_that_is_no_node_yet_is_given_what_is_asked_for_unless_that_fails() {
    let four = |level: &str| json!({"replicas": 4, "config": {"log_level": level}});
    let scaled = |change: &dyn Fn(&mut Seen)| {
        let mut seen = well(4, four("debug"), json!({"replicas": 4}));
        let now_made = children_of(&desired(&seen.cluster), 4);
        seen.children.insert(Child::ConfigMap, now_made[&Child::ConfigMap].clone());
        turn_budget(&mut seen, false);
        table(&mut seen).nodes.truncate(3);
        the(&mut seen, 3).node = Node::Unjoined { version: "0.1.0".into() };
        (the(&mut seen, 3).ready, the(&mut seen, 3).not_ready_since) = (false, Some(ago(3600)));
        change(&mut seen);
        seen
    };
    let tested = |seen: &mut Seen| has_its_turn(seen, 2);
    let does_not_run = |seen: &mut Seen| {
        has_its_turn(seen, 2);
        does_not_run(seen, 2, 60);
    };
    let gives = || Want::Does("Apply", "StatefulSet(3)");
    check(vec![
        ("its pod is empty, and perhaps cannot join as it is", scaled(&|_| {}), gives(), ""),
        (
            "the first does not run with it",
            scaled(&does_not_run),
            Want::Does("AddLearner", "pod: 3"),
            "NodeDown",
        ),
        ("somebody runs with it", scaled(&tested), gives(), ""),
    ]);
    let made = |change: &dyn Fn(&mut Seen)| {
        let seen = scaled(&|seen| {
            seen.pods.remove(&3);
            seen.volumes.remove(&3);
            seen.children.remove(&Child::StatefulSet(3));
            change(seen);
        });
        let desired = desired(&seen.cluster);
        let set = View::new(&seen, &desired, now()).stateful_set(3, 1, scale::Template::AsItIs);
        children::template_hash(&set) == Some(desired.template_hash.as_str())
    };
    assert!(!made(&|_| {}), "while others wait for their turn");
    assert!(made(&|seen| (0..3).for_each(|ordinal| has_its_turn(seen, ordinal))));
}
