//! Volume claims that go, with their pods or by a person's hand.

use super::*;

fn empty() -> Node {
    Node::Unjoined { version: "0.1.0".into() }
}

fn claim(seen: &mut Seen, ordinal: i32) -> &mut VolumeClaim {
    seen.volumes.get_mut(&ordinal).expect("a volume")
}

fn mark(seen: &mut Seen, ordinal: i32, node: &str) {
    claim(seen, ordinal).decommissioned = Some(node.into());
}

/// Without a pod, and with its StatefulSet.
fn stop(seen: &mut Seen, ordinal: i32) {
    seen.pods.remove(&ordinal);
    let set = seen.children.get_mut(&Child::StatefulSet(ordinal)).expect("a set");
    set["spec"]["replicas"] = json!(0);
}

/// The peers of the region are on the first two nodes.
fn leave(seen: &mut Seen) {
    for pod in seen.pods.values_mut() {
        if let Node::Joined(joined) = &mut pod.node {
            joined.peers.iter_mut().for_each(|peer| peer.voters = [1, 2].into());
        }
    }
}

/// Else all that are to go are marked for as long as the first of them takes.
#[test]
fn claim_is_marked_right_before_its_pod_goes() {
    let mut seen = settled(5, json!({}));
    for at in [3, 4] {
        table(&mut seen).nodes[at].state = State::Removed;
        let ordinal = i32::try_from(at).expect("small");
        seen.pods.get_mut(&ordinal).expect("a pod").node =
            Node::Removed { cluster_id: UID.into(), node_id: at as u64 + 1 };
    }
    mark(&mut seen, 4, "5");
    check(vec![("the other is not marked yet", seen, Want::Does("Scale", "ordinal: 4"), "")]);
}

#[test]
fn disk_of_a_claim_that_is_let_go_is_not_kept_when_somebody_deletes_the_claim() {
    let goes = |change: &dyn Fn(&mut Seen)| {
        let mut seen = settled(3, json!({}));
        claim(&mut seen, 2).terminating = true;
        claim(&mut seen, 2).kept = Kept::No;
        change(&mut seen);
        plan(&seen, &defaults(), now()).action.map(|action| action.name())
    };
    let keeps = Some("KeepVolume");
    let begins = |seen: &mut Seen| {
        seen.cluster.status = None;
        seen.table = None;
        for pod in seen.pods.values_mut() {
            (pod.node, pod.ready) = (empty(), false);
        }
    };
    assert_eq!(goes(&|_| {}), keeps, "a member's");
    assert_eq!(goes(&|seen| mark(seen, 2, "3")), keeps, "a member's, whatever is noted on it");
    let let_go = goes(&|seen| {
        table(seen).nodes[2].state = State::Removed;
        leave(seen);
        stop(seen, 2);
        mark(seen, 2, "3");
    });
    assert_ne!(let_go, keeps, "whoever deletes it knows that nobody needs it");
    assert_ne!(goes(&begins), keeps, "there was nothing on it yet");
    let called = goes(&|seen| {
        begins(seen);
        seen.cluster.status.get_or_insert_default().bootstrap_volume = Some("volume-0".into());
    });
    assert_eq!(called, keeps, "the cluster may have begun");
    let adopts = goes(&|seen| {
        begins(seen);
        let adopted = (crate::names::ADOPT.to_owned(), UID.to_owned());
        seen.cluster.metadata.annotations = Some([adopted].into());
    });
    assert_eq!(adopts, keeps, "an older cluster's");
}

/// It is marked before its peers are elsewhere, and its process, which ends again and again, cannot say whose the
/// disk is. Nobody has said of it that it is not needed.
#[test]
fn disk_of_a_node_that_was_given_up_is_kept_when_somebody_deletes_its_claim() {
    let given_up = |noted: bool, change: &dyn Fn(&mut Seen)| {
        let mut seen = settled(3, json!({}));
        silent(&mut seen, 2);
        (table(&mut seen).nodes[2].state, table(&mut seen).nodes[2].forced) =
            (State::Draining, true);
        mark(&mut seen, 2, "3");
        let claim = claim(&mut seen, 2);
        (claim.terminating, claim.kept) = (true, Kept::No);
        if noted {
            let mut operation = record(&mut seen, "Repair", "kv-2-0", "RemoveNode");
            (operation.node_id, operation.volume_uid) = (Some(3), Some("volume-2".into()));
            seen.cluster.status.get_or_insert_default().operation = Some(operation);
        }
        change(&mut seen);
        seen
    };
    let kept = |seen: &mut Seen| claim(seen, 2).kept = Kept::Yes;
    let removed = |seen: &mut Seen| {
        table(seen).nodes[2].state = State::Removed;
        leave(seen);
    };
    let keeps = || Want::Does("KeepVolume", "uid: \"volume-2\", volume: \"pv-2\"");
    check(vec![
        ("it leaves", given_up(false, &|_| {}), keeps(), "VolumeGoing"),
        ("it leaves, and that is noted", given_up(true, &|_| {}), keeps(), "VolumeGoing"),
        (
            "it leaves, and its disk is kept: the pod is let be",
            given_up(true, &kept),
            Want::Waits("was given up"),
            "VolumeGoing",
        ),
        ("it has left: before the pod ends", given_up(false, &removed), keeps(), "UnderReplicated"),
        (
            "it has left, and its disk is kept",
            given_up(true, &|seen| {
                removed(seen);
                kept(seen);
            }),
            Want::Does("DeletePod", "kv-2-0"),
            "UnderReplicated",
        ),
        (
            "it has left, and whether its disk is kept nobody says",
            given_up(true, &|seen| {
                removed(seen);
                claim(seen, 2).kept = Kept::Unknown;
            }),
            keeps(),
            "UnderReplicated",
        ),
        (
            "nor may it be kept",
            refused(&given_up(true, &|seen| {
                removed(seen);
                claim(seen, 2).kept = Kept::Unknown;
            })),
            Want::Waits("sure to stay"),
            "ActionRefused",
        ),
        (
            "there is no disk",
            given_up(true, &|seen| {
                removed(seen);
                claim(seen, 2).kept = Kept::Nothing;
            }),
            Want::Does("DeletePod", "kv-2-0"),
            "UnderReplicated",
        ),
        (
            "disks are not to be kept",
            given_up(true, &|seen| {
                removed(seen);
                seen.cluster.spec.storage.retain = false;
                tie(seen);
            }),
            Want::Does("DeletePod", "kv-2-0"),
            "UnderReplicated",
        ),
    ]);
}

/// Who asks for it may be about to delete the KvCluster.
#[test]
fn claims_are_kept_also_while_paused_and_nothing_else_is_done() {
    let paused = |retain: bool, change: &dyn Fn(&mut Seen)| {
        let spec = json!({"paused": true, "replicas": 5,
            "storage": {"size": "1Gi", "retain": retain}});
        let mut seen = settled(3, spec);
        seen.cluster.spec.replicas = 5;
        change(&mut seen);
        seen
    };
    let terminating = |seen: &mut Seen| {
        let claim = claim(seen, 1);
        (claim.terminating, claim.kept) = (true, Kept::No);
    };
    let of_earlier = |seen: &mut Seen| {
        let owner = OwnerReference {
            api_version: "apps/v1".into(),
            kind: "StatefulSet".into(),
            name: "kv-0".into(),
            uid: "earlier".into(),
            ..OwnerReference::default()
        };
        claim(seen, 0).owners = vec![owner];
        let set = seen.children.get_mut(&Child::StatefulSet(0)).expect("a set");
        set["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] = json!("Delete");
    };
    let lines_of = |seen: &Seen| preview(seen, &defaults(), now());
    let nothing = "nothing: reconciliation is paused";
    assert_eq!(lines_of(&paused(true, &|_| {})), [nothing]);
    assert_eq!(lines_of(&paused(false, &|_| {})), [nothing], "it waits");
    let lines = lines_of(&paused(true, &|seen| tie(seen)));
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert_eq!(lines[0], "let volume claim data-kv-0-0 go with nothing");
    assert_eq!(lines[3], "nothing else: reconciliation is paused");
    let lines = lines_of(&paused(true, &of_earlier));
    assert_eq!(
        lines.last().expect("a line"),
        "storage.retain is not in force as long as reconciliation is paused"
    );
    check(vec![
        ("as they are to be", paused(true, &|_| {}), Want::Nothing, ""),
        (
            "they would go with the cluster",
            paused(true, &|seen| tie(seen)),
            Want::Does("SetVolumeOwners", "owners: []"),
            "",
        ),
        (
            "they are to go, which waits",
            paused(false, &|seen| seen.volumes.values_mut().for_each(|claim| claim.owners.clear())),
            Want::Nothing,
            "",
        ),
        (
            "one goes, and its disk is to stay",
            paused(true, &terminating),
            Want::Does("KeepVolume", "pv-1"),
            "VolumeGoing",
        ),
        (
            "they would go with a StatefulSet, which is not touched",
            paused(true, &of_earlier),
            Want::Nothing,
            "RetainNotInForce",
        ),
    ]);
}

/// Nobody knows how long that lasts, and what is gone cannot be had back.
#[test]
fn claims_are_kept_also_where_the_spec_or_the_domain_keeps_everything_else_from_being_done() {
    let halted = |change: &dyn Fn(&mut Seen)| {
        let mut seen = settled(3, json!({"storage": {"size": "1Gi", "retain": false}}));
        seen.cluster.spec.storage.retain = true;
        change(&mut seen);
        seen
    };
    let terminating = |seen: &mut Seen| {
        seen.volumes.values_mut().for_each(|claim| claim.owners.clear());
        let claim = claim(seen, 1);
        (claim.terminating, claim.kept) = (true, Kept::Yes);
        turn_budget(seen, false);
    };
    let with_sets = |seen: &mut Seen| {
        for ordinal in 0..3 {
            let set = seen.children.get_mut(&Child::StatefulSet(ordinal)).expect("a set");
            set["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] = json!("Delete");
        }
    };
    let is_wrong = |seen: &mut Seen| {
        seen.cluster.spec.config.insert("no_such".into(), json!(1));
    };
    let elsewhere = Defaults { domain: "k8s.example".into(), ..defaults() };
    let is_right = |_: &mut Seen| {};
    for (halts, wrong, defaults, of_spec) in [
        ("the spec cannot be acted on", &is_wrong as &dyn Fn(&mut Seen), defaults(), true),
        ("the DNS domain is another than that of the nodes", &is_right, elsewhere.clone(), false),
        ("the spec cannot be acted on", &is_wrong, elsewhere, true),
    ] {
        let look = |change: &dyn Fn(&mut Seen)| {
            let mut seen = halted(change);
            wrong(&mut seen);
            (plan(&seen, &defaults, now()), preview(&seen, &defaults, now()))
        };
        let reasons = |plan: &Plan| -> Vec<_> {
            plan.troubles.iter().map(|trouble| trouble.reason).collect()
        };
        let main = if of_spec { "InvalidSpec" } else { "ClusterDomainChanged" };
        let (done, lines) = look(&|_| {});
        let words = format!("{:?}", done.action);
        assert!(words.contains("SetVolumeOwners") && words.contains("owners: []"), "{words}");
        assert_eq!(reasons(&done), [main], "{halts}: it is seen to");
        assert_eq!(lines[0], "let volume claim data-kv-0-0 go with nothing", "{lines:?}");
        assert!(lines.len() == 4 && lines[3].starts_with("nothing else: "), "{lines:?}");
        let (done, lines) = look(&terminating);
        assert_eq!(done.action, None, "{halts}");
        assert_eq!(reasons(&done), [main, "VolumeGoing"], "{halts}");
        assert!(lines.len() == 1 && lines[0].starts_with("nothing: "), "{lines:?}");
        let (done, lines) = look(&with_sets);
        assert_eq!(done.action, None, "{halts}: Kubernetes would put it back");
        assert_eq!(reasons(&done), [main, "RetainNotInForce"], "{halts}");
        let says = format!("storage.retain is not in force as long as {halts}");
        assert_eq!(lines.last(), Some(&says), "{lines:?}");
    }
}

/// A finalizer of somebody else may keep it for days.
#[test]
fn claims_are_kept_also_while_the_cluster_is_being_deleted_and_nothing_else_is_done() {
    let deleted = |retain: bool, change: &dyn Fn(&mut Seen)| {
        let mut seen = settled(3, json!({"storage": {"size": "1Gi", "retain": retain}}));
        seen.cluster.spec.replicas = 5;
        let time = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now());
        seen.cluster.metadata.deletion_timestamp = Some(time);
        change(&mut seen);
        seen
    };
    let goes = |kept: Kept| {
        move |seen: &mut Seen| {
            let claim = claim(seen, 1);
            (claim.terminating, claim.kept) = (true, kept);
        }
    };
    let lines_of = |seen: &Seen| preview(seen, &defaults(), now());
    let lines = lines_of(&deleted(true, &|_| {}));
    assert!(lines.len() == 1 && lines[0].starts_with("nothing: the cluster is being"), "{lines:?}");
    let lines = lines_of(&deleted(true, &goes(Kept::No)));
    assert!(lines.len() == 1 && lines[0].ends_with("its disk is to stay"), "{lines:?}");
    let mut drained = deleted(true, &goes(Kept::Yes));
    turn_budget(&mut drained, true);
    let stay = budget_of(&plan(&drained, &defaults(), now()));
    assert_eq!(stay, Some(5), "a drain would end the pod that keeps the claim");
    check(vec![
        ("as they are to be", deleted(true, &|_| {}), Want::Nothing, ""),
        (
            "they would go with it",
            deleted(true, &|seen| tie(seen)),
            Want::Does("SetVolumeOwners", "owners: []"),
            "",
        ),
        ("one goes", deleted(true, &goes(Kept::No)), Want::Does("KeepVolume", "pv-1"), ""),
        (
            "one goes, and the spec is wrong",
            deleted(true, &|seen| {
                goes(Kept::No)(seen);
                seen.cluster.spec.config.insert("no_such".into(), json!(1));
            }),
            Want::Does("KeepVolume", "pv-1"),
            "",
        ),
        ("they are to go with it", deleted(false, &goes(Kept::No)), Want::Nothing, ""),
        (
            "it is an earlier operator's",
            deleted(true, &|seen| {
                goes(Kept::No)(seen);
                seen.earlier = Some("pod kv-0".into());
            }),
            Want::Nothing,
            "",
        ),
    ]);
}

/// Else the roll makes one node after another begin anew.
#[test]
fn empty_disk_on_the_claim_of_a_node_is_the_templates_fault_until_another_runs_with_it() {
    let member = |ordinal: i32| member(ordinal, Some(format!("volume-{ordinal}")));
    let rolled = |change: &dyn Fn(&mut Seen)| {
        let mut seen = well(3, json!({"config": {"log_level": "debug"}}), json!({}));
        let made = children_of(&desired(&seen.cluster), 3);
        seen.children.insert(Child::ConfigMap, made[&Child::ConfigMap].clone());
        turn_budget(&mut seen, false);
        has_its_turn(&mut seen, 2);
        silent(&mut seen, 2);
        seen.pods.get_mut(&2).expect("a pod").node = empty();
        seen.cluster.status.get_or_insert_default().members = (0..3).map(member).collect();
        change(&mut seen);
        seen
    };
    let everywhere = |seen: &mut Seen| {
        let hash = desired(&seen.cluster).template_hash;
        for ordinal in [0, 1] {
            has_its_turn(seen, ordinal);
            let pod = seen.pods.get_mut(&ordinal).expect("a pod");
            pod.template_hash = Some(hash.clone());
        }
        record(seen, "RollingUpdate", "kv-2-0", "WaitForNode");
    };
    let gives_up = || Want::Does("RemoveNode", "node_id: 3, force: true");
    check(vec![
        ("the first of a roll", rolled(&|_| {}), Want::Waits("empty"), "TemplateHidesDisk"),
        (
            "what was noted of the roll is gone",
            rolled(&|seen| seen.cluster.status.get_or_insert_default().operation = None),
            Want::Waits("node 3 is down"),
            "TemplateHidesDisk",
        ),
        (
            "its claim was made anew: the disk is another one",
            rolled(&|seen| claim(seen, 2).uid = "another".into()),
            gives_up(),
            "NodeLost",
        ),
        ("others run with it: the disk was emptied", rolled(&everywhere), gives_up(), "NodeLost"),
        (
            "so they do, and a policy moved the disk of this one",
            rolled(&|seen| {
                everywhere(seen);
                let pod = seen.pods.get_mut(&2).expect("a pod");
                pod.disk_elsewhere = Some("only x of its volume is mounted".into());
            }),
            Want::Waits("empty"),
            "TemplateHidesDisk",
        ),
    ]);
}

/// A moment ago, by a policy.
fn refused(seen: &Seen) -> Seen {
    let mut seen = seen.clone();
    let keeps = plan(&seen, &defaults(), now()).action;
    let keeps = keeps.filter(|action| action.name() == "KeepVolume").expect("it is to be kept");
    ladder::refuse(&mut seen, &keeps);
    seen
}

/// Whoever has left needs it no more, and it is to be kept all the same; its claim is deleted while it is marked, or
/// before.
#[test]
fn pod_of_a_node_that_left_does_not_end_while_its_disk_would_go_with_its_claim() {
    let leaving = |spec: Value, change: &dyn Fn(&mut Seen)| {
        let mut seen = settled(4, spec);
        table(&mut seen).nodes[3].state = State::Removed;
        seen.pods.get_mut(&3).expect("a pod").node =
            Node::Removed { cluster_id: UID.into(), node_id: 4 };
        let claim = claim(&mut seen, 3);
        (claim.terminating, claim.kept) = (true, Kept::No);
        change(&mut seen);
        seen
    };
    let row = |change: &dyn Fn(&mut Seen)| leaving(json!({"replicas": 3}), change);
    let stopped = |change: &dyn Fn(&mut Seen)| leaving(json!({"stopped": true}), change);
    let marked = |seen: &mut Seen| mark(seen, 3, "4");
    let keeps = || Want::Does("KeepVolume", "uid: \"volume-3\", volume: \"pv-3\"");
    let stays = || Want::Waits("sure to stay");
    let alone = |seen: &mut Seen| (0..3).for_each(|ordinal| stop(seen, ordinal));
    check(vec![
        ("it is kept first", row(&|_| {}), keeps(), ""),
        ("also when it is marked", row(&marked), keeps(), ""),
        ("refused", refused(&row(&|_| {})), stays(), "ActionRefused"),
        ("refused, and marked", refused(&row(&marked)), stays(), "ActionRefused"),
        ("it is not known", row(&|seen| claim(seen, 3).kept = Kept::Unknown), keeps(), ""),
        (
            "it is kept",
            row(&|seen| claim(seen, 3).kept = Kept::Yes),
            Want::Does("Scale", "ordinal: 3"),
            "",
        ),
        (
            "none is to be kept",
            leaving(json!({"replicas": 3, "storage": {"size": "1Gi", "retain": false}}), &|_| {}),
            Want::Does("Scale", "ordinal: 3"),
            "",
        ),
        ("stopped", stopped(&|_| {}), keeps(), ""),
        (
            "stopped, and refused: the others stop",
            refused(&stopped(&|_| {})),
            Want::Does("Scale", "ordinal: 2"),
            "ActionRefused",
        ),
        (
            "stopped, and refused",
            refused(&stopped(&alone)),
            Want::Waits("not stopped"),
            "ActionRefused",
        ),
    ]);
}

/// What was noted when the repair began says nothing of whether the node has left since.
#[test]
fn claim_of_a_node_that_is_given_up_is_a_members_as_long_as_the_node_table_is_not_known() {
    let known = |is_known: bool| {
        let mut seen = settled(3, json!({}));
        silent(&mut seen, 2);
        (table(&mut seen).nodes[2].state, table(&mut seen).nodes[2].forced) =
            (State::Removed, true);
        leave(&mut seen);
        if !is_known {
            seen.table = None;
        }
        (claim(&mut seen, 2).terminating, claim(&mut seen, 2).kept) = (true, Kept::Yes);
        let mut operation = record(&mut seen, "Repair", "kv-2-0", "RemoveNode");
        (operation.node_id, operation.volume_uid) = (Some(3), Some("volume-2".into()));
        seen.cluster.status.get_or_insert_default().operation = Some(operation);
        let troubles = plan(&seen, &defaults(), now()).troubles;
        troubles.iter().any(|trouble| trouble.reason == "VolumeGoing")
    };
    assert!(known(false), "nobody knows whose it is");
    assert!(!known(true), "it has left");
}

/// Whoever drains its machine asks the budget, and not us.
#[test]
fn budget_lets_no_pod_go_with_which_a_disk_would() {
    let mut seen = settled(4, json!({"replicas": 3}));
    table(&mut seen).nodes[3].state = State::Removed;
    seen.pods.get_mut(&3).expect("a pod").node =
        Node::Removed { cluster_id: UID.into(), node_id: 4 };
    mark(&mut seen, 3, "4");
    (claim(&mut seen, 3).terminating, claim(&mut seen, 3).kept) = (true, Kept::No);
    let seen = refused(&seen);
    assert_eq!(budget_of(&plan(&seen, &defaults(), now())), Some(4));
}

/// The pod that is left behind is the claim's last user.
#[test]
fn stopped_cluster_lets_a_pod_be_whose_claim_goes_also_without_its_stateful_set() {
    let orphan = |terminating: bool| {
        let mut seen = settled(3, json!({"stopped": true}));
        seen.children.remove(&Child::StatefulSet(1));
        claim(&mut seen, 1).terminating = terminating;
        claim(&mut seen, 1).kept = if terminating { Kept::Yes } else { Kept::Nothing };
        let plan = plan(&seen, &defaults(), now());
        let Some(Action::Change(Change::Apply(Child::StatefulSet(1), set, None))) = plan.action
        else {
            panic!("{plan:#?}")
        };
        children::replicas(&set)
    };
    assert_eq!(orphan(true), 1);
    assert_eq!(orphan(false), 0);
}
