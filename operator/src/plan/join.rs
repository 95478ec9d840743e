//! A pod with an empty disk becomes a node in service: added as a learner, then promoted, one at a
//! time.

use super::{Action, Call, Kind, Step, View};
use crate::seen::{Node, State};

/// Bound: so long, in seconds, nothing else that takes a node away or adds one begins beside a node that is half
/// way in and does not answer.
const COMES_SECONDS: i64 = 300;

impl View<'_> {
    pub(super) fn join(&mut self) -> Option<Step> {
        let table = self.seen.table.as_ref()?;
        let expected_version = table.version;
        let wanted = 0..self.desired.spec.replicas;

        // First those that are half way in.
        let half = table.nodes.iter().filter(|row| {
            row.is_member()
                && !row.demoted
                && matches!(row.state, State::Joining | State::Learner)
                && self.ordinal_of(row).is_some_and(|ordinal| wanted.contains(&ordinal))
        });
        let half: Vec<_> = half.collect();
        let (mut waits, mut comes) = (None, Vec::new());
        for row in half {
            let Some(ordinal) = self.ordinal_of(row) else { continue };
            let name = self.pod_name(ordinal);
            let kind = self.join_kind(&name);
            let node = self.pod(ordinal).map(|pod| &pod.node);
            match (row.state, node) {
                (State::Learner, Some(Node::Joined(joined)))
                    if joined.node_id == row.node_id && row.alive =>
                {
                    let mut operation = self.operation(kind, &name, "Promote");
                    operation.node_id = i64::try_from(row.node_id).ok();
                    let call = Call::Promote { node_id: row.node_id, expected_version };
                    let why = format!("node {} in pod {name} is ready for peers", row.node_id);
                    comes.push(Step::Act(operation, Action::Call(call), why));
                }
                (State::Joining, Some(Node::Unjoined { .. } | Node::Joined(_)))
                    if !self.is_marked(ordinal) =>
                {
                    comes.push(self.add(ordinal, expected_version));
                }
                // Its disk was lost meanwhile: a case for repair.
                (State::Learner, Some(Node::Unjoined { .. } | Node::Removed { .. }))
                    if !row.alive => {}
                _ => {
                    let operation = self.operation(kind, &name, "WaitForNode");
                    // It holds nothing yet. One that does not come keeps no other from coming. By what its pod says:
                    // whoever goes on beside it has the note.
                    let lasts = match self.pod(ordinal).filter(|pod| pod.not_ready_since.is_some())
                    {
                        Some(pod) => self.is_not_ready_for(pod, COMES_SECONDS),
                        None => self.lasts(&operation, COMES_SECONDS),
                    };
                    let step = if lasts { Step::HeldUp } else { Step::Wait };
                    let why = format!("waiting for node {}", row.node_id);
                    waits.get_or_insert_with(|| step(operation, why));
                }
            }
        }
        // What was begun first, and nobody new beside one that is about to be in.
        let refused = match self.first_of(comes) {
            Some(step @ Step::Act(..)) => return Some(step),
            refused => refused,
        };
        if matches!(waits, Some(Step::Wait(..))) {
            return waits;
        }
        let empty = self.seen.pods.iter().filter(|(ordinal, pod)| {
            wanted.contains(ordinal)
                && !pod.terminating
                && matches!(pod.node, Node::Unjoined { .. })
                && self.member(**ordinal).is_none()
                && !self.is_marked(**ordinal)
        });
        let empty: Vec<_> =
            empty.map(|(ordinal, _)| self.add(*ordinal, expected_version)).collect();
        match self.first_of(empty) {
            Some(step @ Step::Act(..)) => Some(step),
            refused_too => refused.or(refused_too).or(waits),
        }
    }

    fn add(&self, ordinal: i32, expected_version: u64) -> Step {
        let name = self.pod_name(ordinal);
        let operation = self.operation(self.join_kind(&name), &name, "AddLearner");
        let address = self.desired.names.client_address(ordinal);
        let call = Call::AddLearner { pod: ordinal, address, expected_version };
        Step::Act(operation, Action::Call(call), format!("pod {name} joins the cluster"))
    }

    /// The same calls end a repair.
    fn join_kind(&self, pod: &str) -> Kind {
        match self.recorded(Kind::Repair) {
            Some(operation) if operation.target == pod => Kind::Repair,
            _ => Kind::ScaleUp,
        }
    }
}
