//! Hop 1 of a request: bytes to values.
//!
//! Sizes are checked, the deadline is taken, user keys become encoded keys, and every public call
//! becomes one of the few values of `Requests`. Nothing here knows Raft or the disk. On the way
//! back `status.rs`, and only it, turns an `Error` into what goes over the wire.
//!
//! Where a request enters: `server.rs` accepts the connection, `dispatch.rs` admits the call and
//! picks the service, then `kv.rs`, `seed.rs` or `cluster.rs` handle it. HTTP enters through `rest`.

use flotilla_proto::v1;
use futures::future::BoxFuture;

use crate::{error::Error, ids::ClusterId};

mod admission;
mod answer;
mod batch;
mod body;
mod check;
mod cluster;
mod context;
mod delete_range;
mod dispatch;
mod grpc;
mod health;
mod kv;
mod limits;
mod observer;
mod ops;
mod refused;
mod regions;
mod rest;
mod retry;
mod scan;
mod seed;
mod server;
mod status;
mod tracked;
mod write;

#[cfg(test)]
mod accepted_tests;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod routed_tests;

pub use self::{
    admission::{Admission, Places},
    check::Check,
    context::Keyspace,
    dispatch::{Call, Services, check_cluster},
    limits::Limits,
    observer::{Method, Observer, Unobserved},
    rest::{Hosts, Metrics, router as http_router},
    server::{Connection, Dealer, dealer, listen, serve_grpc, serve_http},
    status::{code, status},
};

/// The answer to a call of `flotilla.v1.Cluster`.
pub type ClusterAnswer<'a, T> = BoxFuture<'a, Result<T, Error>>;

/// The calls of `flotilla.v1.Cluster`. `node/cluster_calls.rs` carries them out: most go on to the placement driver.
///
/// # Cancel safety
///
/// A future may be dropped when its deadline passes or its caller goes. What was written stays
/// written, and repeating the call converges.
pub trait ClusterCalls: Health {
    fn initialize(
        &self,
        request: v1::InitializeRequest,
    ) -> ClusterAnswer<'_, v1::InitializeResponse>;
    fn add_learner(
        &self,
        request: v1::AddLearnerRequest,
    ) -> ClusterAnswer<'_, v1::AddLearnerResponse>;
    fn change_membership(
        &self,
        request: v1::ChangeMembershipRequest,
    ) -> ClusterAnswer<'_, v1::ChangeMembershipResponse>;
    fn remove_node(
        &self,
        request: v1::RemoveNodeRequest,
    ) -> ClusterAnswer<'_, v1::RemoveNodeResponse>;
    fn cancel_remove_node(
        &self,
        request: v1::CancelRemoveNodeRequest,
    ) -> ClusterAnswer<'_, v1::CancelRemoveNodeResponse>;
    fn evict_leaders(
        &self,
        request: v1::EvictLeadersRequest,
    ) -> ClusterAnswer<'_, v1::EvictLeadersResponse>;
    fn transfer_leader(
        &self,
        request: v1::TransferLeaderRequest,
    ) -> ClusterAnswer<'_, v1::TransferLeaderResponse>;
    fn status(&self, request: v1::StatusRequest) -> ClusterAnswer<'_, v1::StatusResponse>;
    fn list_nodes(&self, request: v1::ListNodesRequest)
    -> ClusterAnswer<'_, v1::ListNodesResponse>;
    fn list_regions(
        &self,
        request: v1::ListRegionsRequest,
    ) -> ClusterAnswer<'_, v1::ListRegionsResponse>;
    fn locate(&self, request: v1::LocateRequest) -> ClusterAnswer<'_, v1::LocateResponse>;
    fn check_region(
        &self,
        request: v1::CheckRegionRequest,
    ) -> ClusterAnswer<'_, v1::CheckRegionResponse>;
}

/// How this node is, for whoever decides whether to send it requests, or to end it.
pub trait Health: Send + Sync + 'static {
    /// The cluster that this node is of; `None` while it is of none.
    fn cluster_id(&self) -> Option<ClusterId> {
        None
    }

    /// Why this node can neither serve nor forward requests; empty when it can.
    fn why_not_ready(&self) -> Vec<String> {
        self.checks().iter().filter(|check| check.counts).filter_map(Check::complaint).collect()
    }

    /// Why this process is wedged; empty when it is not. Never about other nodes.
    fn why_not_live(&self) -> Vec<String>;

    /// Each check, with a word on how it is or on what is wrong.
    fn checks(&self) -> Vec<Check>;
}
