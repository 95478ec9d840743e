//! Nodes that live and do not answer the operator: its own trouble, and not the cluster's.
//!
//! Whoever does not answer is lost, for all that is done about a cluster: nothing is given up on the word of others.
//! What people are told is another thing. An operator that a NetworkPolicy shuts out, or that asks in the wrong domain,
//! would call the quorum of a cluster lost that serves all its clients. So before it does it asks who else has heard of
//! those that are silent: the placement driver, which hears nodes by their heartbeats; and where it is not reached
//! either, Kubernetes, whose kubelet finds them ready.

use std::collections::BTreeSet;

use crate::{
    desired::Desired,
    seen::{Node, Seen},
};

/// Their ids, as far as somebody who heard of them knows them.
#[must_use]
pub fn nodes(seen: &Seen, desired: &Desired) -> BTreeSet<u64> {
    let answers =
        |id: u64| seen.joined(&desired.cluster_id).any(|(_, joined)| joined.node_id == id);
    if let Some(table) = &seen.table {
        let heard = table.nodes.iter().filter(|row| row.is_member() && row.alive);
        return heard.map(|row| row.node_id).filter(|id| !answers(*id)).collect();
    }
    let is_ready_and_silent = |ordinal: i32| {
        seen.pods
            .get(&ordinal)
            .is_some_and(|pod| pod.ready && !pod.terminating && matches!(pod.node, Node::Silent(_)))
    };
    let members = seen.noted_members();
    let ready = members.filter(|member| {
        let ordinal = desired.names.ordinal_of_pod(&member.pod_name);
        ordinal.is_some_and(is_ready_and_silent)
    });
    let ids = ready.filter_map(|member| u64::try_from(member.node_id).ok());
    ids.filter(|id| !answers(*id)).collect()
}
