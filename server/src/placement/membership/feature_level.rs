//! When what all nodes can do may be used.

use flotilla_proto::v1;

use super::TableChange;
use crate::placement::tables;

/// Raises the cluster's feature level to the least that all its nodes can do; `None` when it is there.
///
/// A node that was removed, or given up, does not count: it takes part in nothing any more. One that has a
/// number and is not there yet does, since it will.
#[must_use]
pub fn raise_feature_level(table: &v1::NodeTable) -> Option<TableChange> {
    let counts = |node: &&v1::NodeRecord| node.state() != v1::NodeState::Removed && !node.forced;
    let least = table.nodes.iter().filter(counts).map(|node| node.feature_level).min()?;
    let settings = tables::Settings { feature_level: Some(least), ..tables::Settings::default() };
    (least > table.feature_level).then(|| TableChange::with_settings(table, &[], settings))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::fixture::{record, table};

    #[test]
    fn level_is_the_least_of_all_nodes_and_never_falls() {
        use v1::NodeState::{Draining, Joining, Removed, Up};
        for (why, level, nodes, want) in [
            ("all upgraded", 1, vec![(Up, 2), (Up, 3)], Some(2)),
            ("one is not", 1, vec![(Up, 2), (Up, 1)], None),
            ("one that drains takes part", 1, vec![(Up, 2), (Draining, 1)], None),
            ("one that joins will", 1, vec![(Up, 2), (Joining, 1)], None),
            ("one that was removed does not", 1, vec![(Up, 2), (Removed, 1)], Some(2)),
            ("a row from before there were levels", 1, vec![(Up, 2), (Up, 0)], None),
            ("there already", 2, vec![(Up, 2)], None),
            ("programs that were put back", 2, vec![(Up, 1)], None),
        ] {
            let rows = (1..).zip(nodes).map(|(id, (state, feature_level))| v1::NodeRecord {
                feature_level,
                ..record(id, state)
            });
            let before = v1::NodeTable { feature_level: level, ..table(3, rows.collect()) };
            let raised = raise_feature_level(&before).map(|change| change.table.feature_level);
            assert_eq!(raised, want, "{why}");
        }
    }
}
