//! Annotations of a KvCluster that are mistyped.

use super::*;
use crate::{names, status};

fn annotated(mut seen: Seen, name: &str, value: &str) -> Seen {
    seen.cluster.metadata.annotations = Some([(name.to_owned(), value.to_owned())].into());
    seen
}

#[test]
fn mistyped_annotation_is_told_and_nothing_begins_while_it_may_mean_a_takeover() {
    let running = || settled(3, json!({}));
    let new = || {
        let mut seen = settled(3, json!({}));
        (seen.cluster.status, seen.table) = (None, None);
        for pod in seen.pods.values_mut() {
            pod.node = Node::Unjoined { version: "0.1.0".into() };
            pod.ready = false;
        }
        seen
    };
    check(vec![
        (
            "of one that runs",
            annotated(running(), "flotilla.dev/adopt-clusterid", UID),
            Want::Nothing,
            "UnknownAnnotation",
        ),
        ("nobody's of ours", annotated(running(), "example.org/adopt", UID), Want::Nothing, ""),
        (
            "before it begins",
            annotated(new(), "flotilla.dev/adopt-clusterid", UID),
            Want::Waits("flotilla.dev/adopt-clusterid"),
            "UnknownAnnotation",
        ),
        (
            "of another prefix",
            annotated(new(), "flotilla.io/adopt-cluster-id", UID),
            Want::Waits("flotilla.io/adopt-cluster-id"),
            "UnknownAnnotation",
        ),
        (
            "another one",
            annotated(new(), "flotilla.dev/team", "a"),
            Want::Does("Initialize", "first_nodes"),
            "UnknownAnnotation",
        ),
        (
            "a value that is no id, and a node is down",
            annotated(
                {
                    let mut seen = running();
                    silent(&mut seen, 2);
                    seen
                },
                names::ADOPT,
                "0a",
            ),
            Want::Nothing,
            "NodeDown",
        ),
    ]);
    let wrong = annotated(running(), names::ADOPT, "0a");
    let plan = plan(&wrong, &defaults(), now());
    let told = plan.troubles.iter().find(|trouble| trouble.reason == "InvalidSpec").expect("told");
    assert!(told.message.contains(names::ADOPT), "{told:?}");
    let status = status::compute(&wrong, &plan, &defaults(), now());
    let degraded = status.conditions.iter().find(|known| known.kind == "Degraded").expect("said");
    assert_eq!((degraded.reason.as_str(), status.ready_replicas), ("InvalidSpec", 3));
}

/// Else all its disks were called another cluster's, with the advice to delete them.
#[test]
fn cluster_that_was_taken_over_is_the_same_without_the_annotation() {
    let older = "f".repeat(32);
    let taken_over = |change: &dyn Fn(&mut Seen)| {
        let mut seen = settled(3, json!({}));
        seen.cluster.status.get_or_insert_default().cluster_id = Some(older.clone());
        for pod in seen.pods.values_mut() {
            let Node::Joined(joined) = &mut pod.node else { unreachable!("it is joined") };
            joined.cluster_id.clone_from(&older);
        }
        change(&mut seen);
        let desired = desired(&seen.cluster);
        for (child, object) in children_of(&desired, 3) {
            seen.children.insert(child, object);
        }
        seen
    };
    check(vec![
        ("with it", annotated(taken_over(&|_| {}), names::ADOPT, &older), Want::Nothing, ""),
        ("without", taken_over(&|_| {}), Want::Nothing, ""),
        (
            "with that of another",
            annotated(taken_over(&|_| {}), names::ADOPT, UID),
            Want::Nothing,
            "AdoptionRefused",
        ),
        (
            "a node that is gone is replaced",
            taken_over(&|seen| {
                silent(seen, 2);
                the_disk_is_empty(seen, 2);
            }),
            Want::Does("RemoveNode", "node_id: 3, force: true"),
            "NodeLost",
        ),
    ]);
}

fn the_disk_is_empty(seen: &mut Seen, ordinal: i32) {
    let pod = seen.pods.get_mut(&ordinal).expect("a pod");
    pod.node = Node::Unjoined { version: "0.1.0".into() };
}
