//! Hop 1 of a request: bytes to values.
//!
//! Sizes are checked, the deadline is taken, user keys become encoded keys, and every public call
//! becomes one of the few values of `Requests`. Nothing here knows Raft or the disk. On the way
//! back `status.rs`, and only it, turns an `Error` into what goes over the wire.
//!
//! Where a request enters: `server.rs` accepts the connection, `dispatch.rs` admits the call and
//! picks the service, then `kv.rs`, `seed.rs` or `cluster.rs` handle it. HTTP enters through `rest`.

use std::{future::Future, sync::Arc};

use bytes::Bytes;
use flotilla_proto::{range::KeyRange, v1};
use futures::future::BoxFuture;
use tokio::time::Instant;

use crate::{
    error::Error,
    ids::{ClusterId, RegionId},
};

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
    context::{Keyspace, Whole},
    dispatch::{Call, Services, check_cluster},
    limits::Limits,
    observer::{Method, Observer, Unobserved},
    rest::{Hosts, Metrics, router as http_router},
    server::{Connection, Dealer, dealer, listen, serve_grpc, serve_http},
    status::{code, status},
};

/// What travels beside a request: where its caller wants it served, how, and until when.
#[derive(Clone, Debug)]
pub struct Context {
    /// Set by a caller that routes by itself: serve this region here, or answer a typed error.
    pub route: Option<(RegionId, v1::RegionEpoch)>,
    /// Never `Unspecified`.
    pub read_mode: v1::ReadMode,
    /// The request that this is a part of, with others in other regions. Together they take one place of the node.
    pub whole: Option<Arc<Whole>>,
    /// The request is answered by then. [`Requests`] keeps it, because only there is it known
    /// whether a late write may have been applied.
    pub deadline: Instant,
}

/// The router, as this hop sees it. All keys are encoded keys.
///
/// # Guarantees
///
/// Each call answers by `cx.deadline`. Each call is whole or an error: a range or a set of keys that
/// does not lie in one region is refused (`CrossRegion`, `KeyNotInRegion` or `EpochNotMatch`) and
/// never served in part, so that a caller may split it by [`Requests::regions_of`], ask again when
/// the regions have changed meanwhile, and neither miss nor repeat a key.
pub trait Requests: Clone + Send + Sync + 'static {
    /// Proposes a command whose keys all lie in one region, and answers what applying it did.
    fn write(
        &self,
        cx: Context,
        command: v1::WriteCommand,
    ) -> impl Future<Output = Result<v1::WriteReply, Error>> + Send;

    /// Reads keys of one region: one item per key, in order. It may answer fewer items than keys,
    /// but at least one, to bound its size; the caller then asks for the rest.
    fn read_points(
        &self,
        cx: Context,
        keys: Vec<Bytes>,
    ) -> impl Future<Output = Result<v1::ReadReply, Error>> + Send;

    /// Reads one page of a range in one region. `more` is false only if the page reaches the end of
    /// the whole range that was asked for; with `more` there is at least one item.
    fn read_range(
        &self,
        cx: Context,
        range: v1::RangeRead,
    ) -> impl Future<Output = Result<v1::ReadReply, Error>> + Send;

    /// The newest descriptors known here of the regions that `range` touches, in key order.
    ///
    /// # Errors
    ///
    /// `NotJoined`, or `NotReady` while a part of the range is not known here.
    fn regions_of(&self, range: &KeyRange) -> Result<Vec<v1::Region>, Error>;
}

/// The answer to a call of `flotilla.v1.Cluster`.
pub type ClusterAnswer<'a, T> = BoxFuture<'a, Result<T, Error>>;

/// The calls of `flotilla.v1.Cluster`, and the state of this node.
///
/// # Cancel safety
///
/// A future may be dropped when its deadline passes or its caller goes. What was written stays
/// written, and repeating the call converges.
pub trait Membership: Send + Sync + 'static {
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

    /// The cluster that this node is of; `None` while it is of none.
    fn cluster_id(&self) -> Option<ClusterId> {
        None
    }

    /// Why this node can neither serve nor forward requests; empty when it can.
    fn is_ready(&self) -> Vec<String> {
        self.checks().iter().filter(|check| check.counts).filter_map(Check::complaint).collect()
    }
    /// Why this process is wedged; empty when it is not. Never about other nodes.
    fn is_live(&self) -> Vec<String>;
    /// Each check, with a word on how it is or on what is wrong.
    fn checks(&self) -> Vec<Check>;
}
