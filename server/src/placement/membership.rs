//! The membership calls as decisions.
//!
//! Each call is a function of the node table (for removals also of the view) and the request, and
//! answers with an error, with nothing to do, or with a `TableChange` to propose to region 1. A
//! call may be repeated after any lost answer: what is already so is no error and writes nothing.
//! Programs send the version they decided on and are refused when it moved, so that a caller which
//! was asleep for a minute does no harm; the same version is compared again by apply, so that two
//! drivers cannot both be right.
//!
//! The life of a node is `JOINING → LEARNER → UP → DRAINING → REMOVED`; demotion leads from `UP` to
//! `LEARNER`, cancelling from `DRAINING` to `UP`. `REMOVED` is for ever, and so is its id.

mod add_learner;
mod address;
mod change_membership;
mod evict_leaders;
mod feature_level;
mod heard;
mod record;
mod remove_node;

#[cfg(test)]
mod tests;

use flotilla_proto::v1;

pub use self::{
    add_learner::{AddLearner, add_learner, confirm, join, only_says_where},
    address::check_address,
    change_membership::change_membership,
    evict_leaders::evict_leaders,
    feature_level::raise_feature_level,
    heard::heard,
    record::{check_record, check_table},
    remove_node::{cancel_remove_node, finish_removals, removal, remove_node},
};
use super::{tables, view::find};
use crate::{error::Error, ids::NodeId};

/// A change of the node table.
#[derive(Clone, Debug, PartialEq)]
pub struct TableChange {
    /// To be proposed to region 1; [`tables::changed`] reads the answer.
    pub command: v1::WriteCommand,
    /// The table once it is applied.
    pub table: v1::NodeTable,
}

/// What a call leads to.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// The table is already as asked.
    Nothing,
    Write(TableChange),
}

impl TableChange {
    /// Replaces or adds `records`.
    fn new(table: &v1::NodeTable, records: &[v1::NodeRecord]) -> Self {
        Self::with_settings(table, records, tables::Settings::default())
    }

    /// As [`TableChange::new`], with other settings.
    fn with_settings(
        table: &v1::NodeTable,
        records: &[v1::NodeRecord],
        settings: tables::Settings,
    ) -> Self {
        let mut after = table.clone();
        after.version += 1;
        after.replication_factor = settings.replication_factor.unwrap_or(after.replication_factor);
        after.feature_level = settings.feature_level.unwrap_or(after.feature_level);
        for record in records {
            match after.nodes.iter_mut().find(|node| node.node_id == record.node_id) {
                Some(node) => node.clone_from(record),
                None => after.nodes.push(record.clone()),
            }
        }
        after.nodes.sort_unstable_by_key(|node| node.node_id);
        let command = tables::change_nodes(table.version, records, settings);
        Self { command, table: after }
    }
}

impl Decision {
    fn of(table: &v1::NodeTable, records: &[v1::NodeRecord]) -> Self {
        if records.is_empty() {
            Self::Nothing
        } else {
            Self::Write(TableChange::new(table, records))
        }
    }
}

/// Refuses a caller that decided on another version of the table.
fn check_version(table: &v1::NodeTable, expected: Option<u64>) -> Result<(), Error> {
    match expected {
        Some(expected) if expected != table.version => {
            Err(Error::VersionMoved { expected, actual: table.version })
        }
        _ => Ok(()),
    }
}

fn record(table: &v1::NodeTable, node: NodeId) -> Result<&v1::NodeRecord, Error> {
    find(table, node)
        .ok_or_else(|| Error::NotFound { message: format!("no node {node} in this cluster") })
}

fn refused(message: impl Into<String>) -> Error {
    Error::FailedPrecondition { message: message.into() }
}

/// Nodes in service.
fn up_nodes(table: &v1::NodeTable) -> usize {
    table.nodes.iter().filter(|node| node.state() == v1::NodeState::Up).count()
}

/// Refuses to leave `remaining` nodes in service when those are too few for every region to have
/// all its peers.
fn check_enough(replication_factor: u32, remaining: usize) -> Result<(), Error> {
    if remaining < replication_factor as usize {
        return Err(refused(format!(
            "{remaining} nodes would be in service, fewer than the replication factor \
             {replication_factor}: add a node first"
        )));
    }
    Ok(())
}
