//! One Flotilla node.
//!
//! The folders follow a request from the socket to the disk, and imports point the same way:
//! `api → router → region → raft → command → storage`. What must go up is returned or sent as a
//! value. `server/column.py` checks it, and draws it in docs/architecture.md.

/// Arguments to exit codes, and the programs beside the node: health check and demo.
pub mod cli;

/// Builds every part in dependency order, owns its tasks, drains them.
pub mod node;

// Gathers the settings of all parts.
pub mod config;

/// 1: bytes to values.
pub mod api;

/// 2: key to peer.
pub mod router;

/// Beside the path: which node holds which peers, and the calls that change it.
pub mod placement;

/// 3: one Raft group.
pub mod region;

/// 4: the seams to openraft.
pub mod raft;

/// 5: what is replicated.
pub mod command;

/// 6: the disk.
pub mod storage;

pub mod error;
pub mod feature_level;
pub mod ids;
pub mod metrics;
mod panics;
#[cfg(test)]
mod script;
pub mod settings;
mod share;
pub mod signals;
pub mod telemetry;
pub mod trail;

/// The ground: what a simulation replaces, and nothing else.
pub mod world;
