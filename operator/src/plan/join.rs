//! A pod with an empty disk becomes a node in service: added as a learner, then promoted, one at a
//! time.

use super::{Action, Call, Kind, Step, View};
use crate::{
    answers::Stamp,
    names::CLIENT_PORT,
    seen::{Node, Pod, Seen, State},
};

/// Bound: so long, in seconds, nothing else that takes a node away or adds one begins beside a node that is half
/// way in and does not answer.
const COMES_SECONDS: i64 = 300;
/// Bound: a pod that is no node yet answers by then, in seconds, or it is told.
const ANSWERS_SECONDS: i64 = 300;
/// Bound: pods that are told of which do not answer.
const PODS_TOLD: usize = 5;

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

    /// A pod that holds no node and does not answer: nobody misses it, so that nothing else would tell of it, and it
    /// keeps the disruption budget closed all the same. Kubernetes tells of those that fail, and of those it cannot
    /// place.
    pub(super) fn look_for_pods_that_do_not_join(&mut self) {
        let wanted = 0..self.desired.spec.replicas;
        let silent = self.seen.pods.range(wanted).filter_map(|(ordinal, pod)| {
            let is_node = match &self.seen.table {
                Some(_) => self.member(*ordinal).is_some_and(|row| !row.holds_nothing_yet()),
                None => self.seen.noted_members().any(|member| member.pod_name == pod.name),
            };
            let (whose, stamp) = stamp_of(pod)?;
            let lasted = self.seen.answers.lasted(&whose, &stamp).unwrap_or(0);
            let is_told = !is_node && pod.problem.is_none() && lasted >= ANSWERS_SECONDS;
            is_told.then(|| self.of_silent(pod))
        });
        let told = silent.collect();
        self.trouble_of_each(
            "PodNotJoined",
            told,
            PODS_TOLD,
            "so it is with",
            ". As long as a pod is not ready, Kubernetes nodes with pods of this cluster cannot be drained",
        );
    }

    /// No number that runs: each would be written into the status.
    fn of_silent(&self, pod: &Pod) -> String {
        let (name, namespace) = (&pod.name, &self.desired.names.namespace);
        let minutes = ANSWERS_SECONDS / 60;
        if pod.terminating {
            return format!(
                "pod {name} is no node, is being deleted, and has not ended for more than {minutes} minutes: its \
                 machine may be away (`kubectl -n {namespace} get pod {name} -o wide`)"
            );
        }
        let (Some(since), Node::Silent(why)) = (&pod.running_since, &pod.node) else {
            return format!(
                "pod {name} is no node yet, and for more than {minutes} minutes its server has not run: `kubectl -n \
                 {namespace} describe pod {name}` says what it waits for, as for its volume or its image, or how its \
                 server ended"
            );
        };
        let at = match pod.ip.as_deref() {
            Some(ip) if ip.contains(':') => format!(" at [{ip}]:{CLIENT_PORT}"),
            Some(ip) => format!(" at {ip}:{CLIENT_PORT}"),
            None => ", which knows no address of it,".to_owned(),
        };
        format!(
            "pod {name} is no node yet: it runs since {since} and has not answered the operator{at} for more than \
             {minutes} minutes: {why}. See what its server says (`kubectl -n \
             {namespace} logs {name}`), and whether the operator is let through to it: by networks and other \
             NetworkPolicies, and by spec.networkPolicy.operatorFrom"
        )
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

/// Since when it is silent nobody notes: it is watched, anew when its container was started again.
fn stamp_of(pod: &Pod) -> Option<Stamp> {
    let is_silent = matches!(pod.node, Node::Silent(_));
    let since = pod.running_since.as_deref().unwrap_or("never");
    is_silent.then(|| (pod.uid.clone(), format!("no answer, runs since {since}")))
}

/// Pods that do not answer.
pub(super) fn stamps(seen: &Seen) -> impl Iterator<Item = Stamp> {
    seen.pods.values().filter_map(stamp_of)
}
