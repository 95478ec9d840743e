//! A node that is on its way out: waited for, or called back.

use super::{Action, Call, Kind, Step, View};
use crate::seen::{Node, Row, State};

impl View<'_> {
    /// Each for itself: one that is waited for keeps no other from being called back, or marked.
    pub(super) fn drain(&mut self) -> Option<Step> {
        let nodes = &self.seen.table.as_ref()?.nodes;
        let mut waits = None;
        for row in nodes.iter().filter(|row| row.state == State::Draining) {
            let step = self.drain_of(row)?;
            match self.unless_refused(step) {
                step @ (Step::Wait(..) | Step::Refused(..)) => {
                    waits.get_or_insert(step);
                }
                step => return Some(step),
            }
        }
        waits
    }

    fn drain_of(&self, row: &Row) -> Option<Step> {
        let table = self.seen.table.as_ref()?;
        let ordinal = self.ordinal_of(row);
        let name = ordinal.map_or_else(|| row.address.clone(), |ordinal| self.pod_name(ordinal));
        let id = row.node_id;
        if row.forced {
            let mut operation = self.operation(Kind::Repair, &name, "WaitRemoved");
            operation.node_id = i64::try_from(id).ok();
            if let Some(mark) = ordinal.and_then(|ordinal| self.mark_given_up(ordinal, id)) {
                let why = format!("node {id} was given up, and its disk is not to be used again");
                return Some(Step::Act(operation, Action::Change(mark), why));
            }
            let why =
                format!("node {id} was given up; {} of its peers are being replaced", row.peers);
            return Some(Step::Wait(operation, why));
        }
        let wanted = ordinal.is_some_and(|ordinal| ordinal < self.desired.spec.replicas);
        // Somebody else drains it, or a drain was begun for fewer replicas than are wanted now.
        let answers = ordinal
            .and_then(|ordinal| self.pod(ordinal))
            .is_some_and(|pod| matches!(&pod.node, Node::Joined(joined) if joined.node_id == id));
        if wanted && answers {
            let mut operation = self.operation(Kind::CancelScaleDown, &name, "CancelRemoveNode");
            operation.node_id = i64::try_from(id).ok();
            let call = Call::CancelRemoveNode { node_id: id, expected_version: table.version };
            let why = format!("node {id} is wanted again");
            return Some(Step::Act(operation, Action::Call(call), why));
        }
        let mut operation = self.operation(Kind::ScaleDown, &name, "Drain");
        operation.node_id = i64::try_from(id).ok();
        let why = format!("node {id} drains: {} peers and {} leaders left", row.peers, row.leaders);
        Some(Step::Wait(operation, why))
    }
}
