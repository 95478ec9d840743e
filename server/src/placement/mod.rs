//! Which node holds which peers, and the calls that change it.
//!
//! The driver runs on the leader of region 1. What is here decides and does no I/O: values come in
//! (the node table, heartbeats, a time in milliseconds), values go out (a `WriteCommand` for region
//! 1, steps for the leaders of regions). Losing the driver loses nothing: the node table is
//! replicated, the rest is heard again within one heartbeat interval, and every step is conditioned
//! on the membership it was planned on. The shell that feeds and obeys these functions lives beside
//! them.
//!
//! A term of the driver begins with `view::ClusterView::new` of the table read from region 1. A
//! heartbeat (`reports::Reports` chooses what it tells) goes to `hear`, then to `membership::heard`, and is answered with the table if the
//! sender's is older and with `orders_for` the sender. Once per interval: `settle_orders`,
//! `membership::finish_removals`, `plan::plan`, `order` what was planned. `steps::verdict` checks
//! a step on the node that received it, against the report that it would send at that moment.
//!
//! Invariant: a leader never claims silence to be shorter than it is. A peer that has not answered
//! since this leader was elected is left out of `progress`, or silent since the election or longer;
//! quorums are counted on it.

/// How patient the driver is, and how much it does at once.
pub mod config;

/// The system tables in keyspace 0, as keys and values.
pub mod tables;

/// The cluster as last heard: nodes with liveness, regions as their leaders see them.
pub mod view;

/// What a node tells the driver of the regions it leads.
pub mod reports;

/// Nodes that leaders are kept away from for a while.
pub mod evictions;

/// Steps that were given to a leader and not seen through.
pub mod orders;

/// What a region's peers are worth, and which changes of its voters are safe.
pub mod members;

/// From the cluster as it is to the next steps.
pub mod plan;

/// Whether a step still fits its region.
pub mod steps;

/// The membership calls as decisions.
pub mod membership;

#[cfg(test)]
mod fixture;

#[cfg(test)]
mod script;

/// The node table as this node last heard it.
pub mod directory;

/// What the driver counts of the cluster.
mod census;

/// The shell that feeds and obeys what is above.
pub mod driver;
