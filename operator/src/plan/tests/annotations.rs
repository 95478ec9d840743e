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
