//! The seams to openraft: its types with ours filled in, its log, its state machine, its network.
//!
//! `region/propose.rs` hands a command over to openraft; `state_machine.rs` takes it back, on every
//! peer, when it is committed. In between lie `log/store.rs` with `log/writer.rs` (the disk) and
//! `network.rs` with `transport.rs` (the other nodes).

pub mod config;
pub mod convert;
pub mod log;
pub mod network;
mod of_term;
mod pipeline;
pub mod proposal;
pub mod quorum;
pub mod refusal;
pub mod region_state;
pub mod region_view;
pub mod reversion;
mod runtime;
pub mod settings;
pub mod snapshot;
pub mod state_machine;
pub mod term;
pub mod transport;

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod suite_tests;

use std::fmt;

use bytes::Bytes;
use flotilla_proto::v1;
use openraft::{OptionalSend, RaftTypeConfig, impls::leader_id_std};

use crate::ids::{NodeId, PeerId};

/// Openraft's types: peers are its nodes, commands stay encoded, one leader per term.
#[derive(Debug, Clone, Copy, Default, Eq, PartialEq, Ord, PartialOrd)]
pub struct TypeConfig {}

impl RaftTypeConfig for TypeConfig {
    type D = CommandBytes;
    type R = Reply;
    type NodeId = PeerId;
    type Node = PeerAddress;
    type Term = term::Term;
    type LeaderId = leader_id_std::LeaderId<term::Term, PeerId>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<Self::D, Self::NodeId, Self::Node>;
    type Entry =
        openraft::Entry<<Self::LeaderId as openraft::vote::RaftLeaderId>::Committed, Self::Payload>;
    type AsyncRuntime = runtime::Runtime;
    type Responder<T>
        = proposal::Answerer<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub type Vote = openraft::alias::VoteOf<TypeConfig>;
pub type Entry = openraft::alias::EntryOf<TypeConfig>;
pub type Membership = openraft::Membership<PeerId, PeerAddress>;
pub type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
pub type Snapshot = openraft::alias::SnapshotOf<TypeConfig, snapshot::SnapshotData>;
pub type Raft = openraft::Raft<TypeConfig, state_machine::StateMachine>;

impl From<u64> for PeerId {
    fn from(id: u64) -> Self {
        Self(id)
    }
}

/// Where a peer lives. Its node's address is looked up when a connection is made, so that a node
/// that moves needs no membership change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerAddress {
    pub node: NodeId,
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}", self.node)
    }
}

/// An encoded [`v1::Command`]: encoded once by the proposer, never again.
#[derive(Clone, PartialEq, Eq)]
pub struct CommandBytes(pub Bytes);

impl fmt::Debug for CommandBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command of {} bytes", self.0.len())
    }
}

impl fmt::Display for CommandBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What applying an entry answers to its proposer.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// Blank and membership entries.
    Nothing,
    Command(v1::CommandReply),
}
