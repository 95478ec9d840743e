//! What a quorum of voters is, and whether it rests on disks without room.

use std::collections::BTreeSet;

use crate::{ids::NodeId, storage::disk::Level};

/// Whether more than half are live; nobody is no quorum.
pub fn is_quorum(voters: impl Iterator<Item = bool>) -> bool {
    let (mut all, mut live) = (0, 0);
    for voter_is_live in voters {
        all += 1;
        live += usize::from(voter_is_live);
    }
    live > all / 2
}

/// A node, as far as it matters for what is written to regions that have a voter there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// As the node told it last; one that told nothing has room.
    pub level: Level,
    pub answers: bool,
}

/// The nodes for whose disks a region takes nothing that grows; none as a rule. That is its leader's, and those without
/// which nothing would be committed: they would be filled until they end, and the region had no quorum. `configs` are
/// the nodes of the voters, of each configuration of a joint change.
///
/// A disk that is low goes on for another voter that is away, which as a rule is about to be back. One that is
/// critical does not.
pub fn low_disks(
    leader: Option<NodeId>,
    configs: &[Vec<NodeId>],
    disk: impl Fn(NodeId) -> Disk,
) -> BTreeSet<NodeId> {
    if let Some(leader) = leader.filter(|leader| !disk(*leader).level.has_room()) {
        return BTreeSet::from([leader]);
    }
    let low = needed(configs, |_| true, |node| !disk(node).level.has_room());
    if !low.is_empty() {
        return low;
    }
    needed(configs, |node| disk(node).answers, |node| disk(node).level == Level::Critical)
}

/// Those that are full, where it takes any of them to have a quorum of those that count.
fn needed(
    configs: &[Vec<NodeId>],
    counts: impl Fn(NodeId) -> bool,
    is_full: impl Fn(NodeId) -> bool,
) -> BTreeSet<NodeId> {
    let mut needed = BTreeSet::new();
    for nodes in configs {
        let live = nodes.iter().map(|node| counts(*node));
        let with_room = nodes.iter().map(|node| counts(*node) && !is_full(*node));
        if is_quorum(live) && !is_quorum(with_room) {
            needed.extend(nodes.iter().filter(|node| counts(**node) && is_full(**node)));
        }
    }
    needed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quorum_is_more_than_half() {
        for (why, voters, want) in [
            ("nobody", &[][..], false),
            ("one of one", &[true], true),
            ("one of two", &[true, false], false),
            ("two of three", &[true, false, true], true),
            ("two of four", &[true, false, true, false], false),
            ("three of five", &[true, false, true, false, true], true),
        ] {
            assert_eq!(is_quorum(voters.iter().copied()), want, "{why}");
        }
    }

    #[test]
    fn disks_without_room_count_where_those_with_room_are_no_quorum() {
        let of = |numbers: &[u64]| numbers.iter().copied().map(NodeId).collect::<Vec<_>>();
        let three = || vec![of(&[1, 2, 3])];
        // Nodes that are low, critical, and away.
        for (why, configs, low, critical, away, want) in [
            ("all have room", three(), &[][..], &[][..], &[][..], &[][..]),
            ("that of the leader", three(), &[1], &[], &[], &[1]),
            ("one of three is low", three(), &[2], &[], &[], &[]),
            ("one of three is critical", three(), &[], &[2], &[], &[]),
            ("two of three are low", three(), &[2, 3], &[], &[], &[2, 3]),
            ("one is low, one is worse", three(), &[2], &[3], &[], &[2, 3]),
            ("two of four are low", vec![of(&[1, 2, 3, 4])], &[3, 4], &[], &[], &[3, 4]),
            ("two of five are low", vec![of(&[1, 2, 3, 4, 5])], &[3, 4], &[], &[], &[]),
            ("of nodes without a voter nothing is needed", three(), &[4, 5, 6], &[], &[], &[]),
            ("a low one goes on for one that is away", three(), &[2], &[], &[3], &[]),
            ("a critical one does not", three(), &[], &[2], &[3], &[2]),
            ("it is away itself", three(), &[], &[2], &[2], &[]),
            ("there is no quorum anyway", three(), &[], &[2], &[2, 3], &[]),
            ("a low one that is away may be back", three(), &[2, 3], &[], &[3], &[2, 3]),
            (
                "of both of a joint change",
                vec![of(&[1, 2, 3]), of(&[1, 4, 5])],
                &[4, 5],
                &[],
                &[],
                &[4, 5],
            ),
        ] {
            let has = |nodes: &[u64], node: NodeId| nodes.contains(&node.0);
            let disk = |node| Disk {
                level: match node {
                    node if has(critical, node) => Level::Critical,
                    node if has(low, node) => Level::Low,
                    _ => Level::Normal,
                },
                answers: !has(away, node),
            };
            let low = low_disks(Some(NodeId(1)), &configs, disk);
            assert_eq!(low.into_iter().collect::<Vec<_>>(), of(want), "{why}");
        }
    }
}
