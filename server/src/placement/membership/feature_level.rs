//! When what all nodes can do may be used.

use flotilla_proto::v1;

use super::TableChange;
use crate::{
    ids::NodeId,
    placement::{config::PlacementConfig, tables, view::ClusterView},
};

/// Raises the cluster's feature level to the least that all its nodes can do; `None` when it is there.
///
/// A row says what a node could do when it was last heard, and its program may have been put back since. So
/// each node says it itself, to this driver and just now; the level waits for one that is away. A node that was
/// removed, or given up, does not count: it takes part in nothing any more. One that has a number and is not
/// there yet counts by its row: it is asked again before it is handed its identity.
#[must_use]
pub fn raise_feature_level(
    view: &ClusterView,
    config: &PlacementConfig,
    now_ms: u64,
) -> Option<TableChange> {
    let table = view.table();
    let counts = |node: &&v1::NodeRecord| node.state() != v1::NodeState::Removed && !node.forced;
    let can_do = |node: &v1::NodeRecord| match node.state() {
        v1::NodeState::Joining => node.feature_level,
        // Told, and noted: both may be the older one.
        _ => {
            let told = view.told_level(NodeId(node.node_id), config, now_ms);
            told.unwrap_or(0).min(node.feature_level)
        }
    };
    let least = table.nodes.iter().filter(counts).map(can_do).min()?;
    let settings = tables::Settings { feature_level: Some(least), ..tables::Settings::default() };
    (least > table.feature_level).then(|| TableChange::with_settings(table, &[], settings))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::fixture::{Fixture, NOW_MS};

    #[test]
    fn level_is_the_least_that_all_nodes_say_themselves_and_never_falls() {
        for (why, level, nodes, rows, told, want) in [
            ("all upgraded", 1, "1:up 2:up", [2, 3], [2, 3], Some(2)),
            ("one is not", 1, "1:up 2:up", [2, 1], [2, 1], None),
            ("one is, and it is not noted yet", 1, "1:up 2:up", [2, 1], [2, 2], None),
            ("one was, and was put back since", 1, "1:up 2:up", [2, 2], [2, 1], None),
            ("one was, and is away", 1, "1:up 2:off", [2, 2], [2, 2], None),
            ("one that drains takes part", 1, "1:up 2:drain", [2, 1], [2, 1], None),
            ("one that joins will", 1, "1:up 2:joining", [2, 1], [2, 1], None),
            ("one that joins is asked again then", 1, "1:up 2:joining", [2, 2], [2, 1], Some(2)),
            ("one that was removed does not", 1, "1:up 2:removed", [2, 1], [2, 1], Some(2)),
            ("one that was given up does not", 1, "1:up 2:force", [2, 1], [2, 1], Some(2)),
            ("there already", 2, "1:up 2:up", [2, 2], [2, 2], None),
        ] {
            let mut fixture = Fixture::new(3, nodes);
            fixture.table.feature_level = level;
            for (row, level) in fixture.table.nodes.iter_mut().zip(rows) {
                row.feature_level = level;
            }
            let view = fixture.tell_levels(&told).view();
            let raised = raise_feature_level(&view, &Fixture::config(), NOW_MS);
            let raised = raised.map(|change| change.table.feature_level);
            assert_eq!(raised, want, "{why}");
        }
    }
}
