//! Putting nodes into service and taking them out of it, and how many peers regions have on them.
//!
//! Only the nodes' table changes here. The members of regions follow: [`plan`](crate::placement::plan) finds the next step,
//! the answer to a heartbeat takes it to the region's leader, and that one carries it out (`region/carry_out.rs`).

use std::collections::BTreeSet;

use flotilla_proto::{
    replication::{FACTOR_WORDS, is_factor},
    v1,
};

use super::{Decision, TableChange, check_enough, check_version, record, refused, up_nodes};
use crate::{
    error::Error,
    ids::NodeId,
    placement::{tables, view::find},
};

/// Promotes learners to `UP`, demotes nodes to learners that stay so until they are promoted, and changes the replication
/// factor, all or none.
///
/// # Errors
/// `VersionMoved`. `InvalidArgument`: a node is in both lists, or an even replication factor.
/// `NotFound`: no such node. `FailedPrecondition`: a node that has not joined, drains or was
/// removed, or was demoted and is not to be put back (`keep_demoted`); or fewer nodes than the replication factor would be in service, by a demotion or by a
/// higher factor.
pub fn change_membership(
    table: &v1::NodeTable,
    request: &v1::ChangeMembershipRequest,
) -> Result<Decision, Error> {
    check_version(table, request.expected_version)?;
    let promote: BTreeSet<u64> = request.promote.iter().copied().collect();
    let demote: BTreeSet<u64> = request.demote.iter().copied().collect();
    if let Some(both) = promote.intersection(&demote).next() {
        return Err(Error::invalid("demote", format!("node {both} is also to be promoted")));
    }

    let mut changed = Vec::new();
    for (ids, from, to) in [
        (&promote, v1::NodeState::NodeLearner, v1::NodeState::Up),
        (&demote, v1::NodeState::Up, v1::NodeState::NodeLearner),
    ] {
        for id in ids {
            let record = record(table, NodeId(*id))?;
            match record.state() {
                v1::NodeState::NodeLearner
                    if to == v1::NodeState::Up && record.demoted && request.keep_demoted =>
                {
                    return Err(refused(format!(
                        "node {id} was demoted: it stays out of service until somebody asks for it to be \
                         promoted all the same"
                    )));
                }
                state if state == from || state == to => {
                    let mut after = record.clone();
                    after.set_state(to);
                    // Also of one that has not been in service yet: it would promote itself.
                    after.demoted = to == v1::NodeState::NodeLearner;
                    if after != *record {
                        changed.push(after);
                    }
                }
                v1::NodeState::Joining => {
                    return Err(refused(format!(
                        "node {id} has not finished to join: repeat AddLearner"
                    )));
                }
                v1::NodeState::Draining => {
                    return Err(refused(format!(
                        "node {id} is being removed: CancelRemoveNode takes that back"
                    )));
                }
                v1::NodeState::Removed => {
                    return Err(refused(format!("node {id} was removed, for ever")));
                }
                v1::NodeState::Unspecified | v1::NodeState::NodeLearner | v1::NodeState::Up => {
                    return Err(Error::DataLoss {
                        message: format!("node {id} has no valid state in the node table"),
                    });
                }
            }
        }
    }

    let now = |node: &&v1::NodeRecord| find(table, NodeId(node.node_id)).map(v1::NodeRecord::state);
    let moved = |from, to| {
        let moved = changed.iter().filter(|node| now(node) == Some(from) && node.state() == to);
        moved.count()
    };
    let gained = moved(v1::NodeState::NodeLearner, v1::NodeState::Up);
    let lost = moved(v1::NodeState::Up, v1::NodeState::NodeLearner);
    let factor = request.replication_factor.filter(|factor| *factor != table.replication_factor);
    if let Some(factor) = factor
        && !is_factor(factor)
    {
        return Err(Error::invalid("replication_factor", FACTOR_WORDS));
    }
    let raised = factor.is_some_and(|factor| factor > table.replication_factor);
    if lost > 0 || raised {
        let wanted = factor.unwrap_or(table.replication_factor);
        check_enough(wanted, up_nodes(table) + gained - lost)?;
    }
    if changed.is_empty() && factor.is_none() {
        return Ok(Decision::Nothing);
    }
    let settings = tables::Settings { replication_factor: factor, ..tables::Settings::default() };
    Ok(Decision::Write(TableChange::with_settings(table, &changed, settings)))
}
