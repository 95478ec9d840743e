//! Volume claims that are marked to be emptied: what the mark says, and what only the node table says.

use super::*;

fn empty() -> Node {
    Node::Unjoined { version: "0.1.0".into() }
}

fn mark(seen: &mut Seen, ordinal: i32, mark: &str) {
    seen.volumes.get_mut(&ordinal).expect("a volume").decommissioned = Some(mark.into());
}

fn know(seen: &mut Seen, node_id: i64, volume: &str) {
    let ordinal = i32::try_from(node_id).expect("small") - 1;
    let member = member(ordinal, Some(volume.into()));
    seen.cluster.status.get_or_insert_default().members.push(member);
}

/// Four nodes are wanted, and the pod of the last has an empty disk.
fn fourth(change: &dyn Fn(&mut Seen)) -> Seen {
    let mut seen = settled(4, json!({"replicas": 4}));
    let pod = seen.pods.get_mut(&3).expect("a pod");
    (pod.node, pod.ready) = (empty(), false);
    table(&mut seen).nodes.pop();
    change(&mut seen);
    seen
}

/// Nothing runs, and the claim of the fourth ordinal is marked.
fn at_the_start(change: &dyn Fn(&mut Seen)) -> Seen {
    let mut seen = settled(4, json!({"replicas": 4}));
    seen.pods.clear();
    seen.table = None;
    for ordinal in 0..4 {
        let set = seen.children.get_mut(&Child::StatefulSet(ordinal)).expect("a set");
        set["spec"]["replicas"] = json!(i32::from(ordinal < 3));
    }
    mark(&mut seen, 3, "none");
    change(&mut seen);
    seen
}

#[test]
fn nobody_joins_on_a_disk_that_is_marked_to_be_emptied() {
    check(vec![
        (
            "it is wanted again",
            fourth(&|seen| mark(seen, 3, "none")),
            Want::Does("UnmarkVolume", "volume-3"),
            "",
        ),
        ("it is not marked", fourth(&|_| {}), Want::Does("AddLearner", "pod: 3"), ""),
        (
            "the mark is that of a disk that is going, which only its pod keeps",
            fourth(&|seen| {
                mark(seen, 3, "4");
                seen.volumes.get_mut(&3).expect("a volume").terminating = true;
            }),
            Want::Does("DeletePod", "pod-3"),
            "",
        ),
        (
            "a cluster that begins",
            {
                let mut seen = settled(3, json!({}));
                (seen.cluster.status, seen.table) = (None, None);
                for pod in seen.pods.values_mut() {
                    (pod.node, pod.ready) = (empty(), false);
                }
                mark(&mut seen, 2, "none");
                seen
            },
            Want::Does("UnmarkVolume", "volume-2"),
            "",
        ),
    ]);
    // The API server does not let it be taken off.
    let mut seen = fourth(&|seen| mark(seen, 3, "none"));
    let (name, uid, version) = (names().volume(3), "volume-3".into(), "7".into());
    let unmark = Change::UnmarkVolume { name, uid, version };
    let refused = crate::error::Error::Refused("a policy".into());
    seen.answers.learn(&unmark, Err(&refused), now());
    check(vec![("refused a moment ago", seen, Want::Nothing, "ActionRefused")]);
}

#[test]
fn marked_disk_is_emptied_only_when_the_node_table_says_that_it_is_nobodys() {
    let four = |change: &dyn Fn(&mut Seen)| {
        let mut seen = settled(4, json!({"replicas": 4}));
        seen.pods.remove(&3);
        let set = seen.children.get_mut(&Child::StatefulSet(3)).expect("a set");
        set["spec"]["replicas"] = json!(0);
        mark(&mut seen, 3, "4");
        table(&mut seen).nodes[3].state = State::Removed;
        change(&mut seen);
        seen
    };
    check(vec![
        (
            "its node was removed",
            four(&|_| {}),
            Want::Does("DeleteVolume", "uid: \"volume-3\", keep: Some(\"pv-3\"), version: \"7\""),
            "",
        ),
        (
            "the node of the mark is at another address, and in service",
            four(&|seen| mark(seen, 3, "1")),
            Want::Waits("is still that of node 1"),
            "",
        ),
        (
            "it was to be given up, and that is not over",
            four(&|seen| {
                table(seen).nodes[3].state = State::Draining;
                table(seen).nodes[3].forced = true;
            }),
            Want::Waits("4"),
            "",
        ),
        (
            "it is a member's",
            four(&|seen| table(seen).nodes[3].state = State::Up),
            Want::Does("Scale", "ordinal: 3"),
            "NodeDown",
        ),
        (
            "another node is at its address, which joined after it was marked",
            four(&|seen| {
                let mut joined = row(3);
                (joined.node_id, joined.state) = (5, State::Learner);
                table(seen).nodes.push(joined);
            }),
            Want::Does("Scale", "ordinal: 3"),
            "",
        ),
        (
            "nobody can be asked",
            at_the_start(&|_| {}),
            Want::Waits("is not known without the node table"),
            "DriverUnreachable",
        ),
        (
            "nobody can be asked, and it was a member's",
            at_the_start(&|seen| know(seen, 4, "volume-3")),
            Want::Does("Scale", "ordinal: 3"),
            "DriverUnreachable",
        ),
    ]);
}

#[test]
fn disk_of_a_member_that_lives_bears_no_mark() {
    let mut seen = settled(4, json!({"replicas": 4}));
    mark(&mut seen, 3, "4");
    check(vec![("it came back", seen.clone(), Want::Does("UnmarkVolume", "volume-3"), "")]);
    // Whoever deletes what a node left that was removed has it deleted.
    let mut left = settled(3, json!({}));
    let mut old = volume(3);
    (old.decommissioned, old.terminating, old.kept) = (Some("4".into()), true, Kept::No);
    left.volumes.insert(3, old);
    let mut gone = row(3);
    gone.state = State::Removed;
    table(&mut left).nodes.push(gone);
    check(vec![("it is nobody's", left.clone(), Want::Nothing, "")]);
    left.volumes.get_mut(&3).expect("a volume").decommissioned = None;
    check(vec![("it is not marked", left, Want::Does("KeepVolume", "pv-3"), "")]);
    // Nor is it left alone meanwhile by what looks after members' disks.
    let claim = seen.volumes.get_mut(&3).expect("a volume");
    (claim.terminating, claim.kept) = (true, Kept::Yes);
    check(vec![("somebody deletes it", seen, Want::Nothing, "VolumeGoing")]);
}

#[test]
fn disk_of_a_node_that_is_given_up_says_so_itself() {
    let sick = |change: &dyn Fn(&mut Seen)| {
        let mut seen = settled(4, json!({"replicas": 4, "placement": {"maxNodeDown": "1m"}}));
        does_not_run(&mut seen, 2, 90);
        let pod = seen.pods.get_mut(&2).expect("a pod");
        (pod.restarts, pod.last_exit) = (9, Some(Exit { code: 134, out_of_memory: false }));
        pod.problem = Some(("CrashLoopBackOff".into(), "x".into()));
        know(&mut seen, 3, "volume-2");
        change(&mut seen);
        seen
    };
    let removed = |seen: &mut Seen| {
        table(seen).nodes[2].state = State::Removed;
        for pod in seen.pods.values_mut() {
            if let Node::Joined(joined) = &mut pod.node {
                joined.peers.iter_mut().for_each(|peer| peer.voters = [1, 2, 4].into());
            }
        }
    };
    check(vec![
        ("before", sick(&|_| {}), Want::Does("MarkVolume", "node_id: \"3\""), "NodeLost"),
        (
            "then",
            sick(&|seen| mark(seen, 2, "3")),
            Want::Does("RemoveNode", "node_id: 3, force: true"),
            "NodeLost",
        ),
        (
            "the claim is another one",
            sick(&|seen| seen.volumes.get_mut(&2).expect("a volume").uid = "new".into()),
            Want::Does("RemoveNode", "node_id: 3, force: true"),
            "NodeLost",
        ),
        (
            "an operator that did not mark it was ended",
            sick(&|seen| {
                table(seen).nodes[2].state = State::Draining;
                table(seen).nodes[2].forced = true;
            }),
            Want::Does("MarkVolume", "node_id: \"3\""),
            "UnderReplicated",
        ),
        (
            "it has left, and nothing is noted",
            sick(&|seen| {
                mark(seen, 2, "3");
                removed(seen);
            }),
            Want::Does("DeleteVolume", "uid: \"volume-2\", keep: Some(\"pv-2\")"),
            "PodFailing",
        ),
        (
            "it has left, and the claim does not say whose it is",
            sick(&|seen| {
                seen.cluster.status.get_or_insert_default().members.clear();
                removed(seen);
            }),
            Want::Nothing,
            "PodFailing",
        ),
    ]);
}
