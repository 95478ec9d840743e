//! Membership, routing and state of the cluster.

use flotilla_proto::v1;

use crate::{Client, Error, call::Audience};

/// The cluster's own operations, made by [`Client::cluster`].
///
/// Requests and answers are those of the contract, `flotilla.v1.Cluster`. Mutating calls converge when they are
/// repeated, so after [`Error::MaybeApplied`] a caller may repeat one; programs send
/// `expected_version` and read the node table again first.
#[derive(Clone, Debug)]
pub struct Cluster {
    client: Client,
}

macro_rules! operation {
    ($(#[$doc:meta])* $name:ident($request:ident) -> $response:ident) => {
        $(#[$doc])*
        ///
        /// # Errors
        /// See [`Error`].
        pub async fn $name(&self, request: v1::$request) -> Result<v1::$response, Error> {
            self.client.call(request).await
        }
    };
}

impl Cluster {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Makes the node at the **first** endpoint of this client the first of a new cluster. No other
    /// node is ever asked, so that a retry cannot start a second cluster.
    ///
    /// # Errors
    /// [`Error::Refused`] when the node belongs to a cluster already.
    pub async fn initialize(
        &self,
        request: v1::InitializeRequest,
    ) -> Result<v1::InitializeResponse, Error> {
        let first = self.client.shared.nodes.first_seed();
        self.client.call_for(request, Audience::Only(&first)).await
    }

    /// The state of the node at this address, which need not belong to a cluster.
    ///
    /// # Errors
    /// [`Error::TimedOut`] when it does not answer.
    pub async fn status_of(&self, address: &str) -> Result<v1::StatusResponse, Error> {
        self.client.call_for(v1::StatusRequest {}, Audience::Only(address)).await
    }

    operation! {
        /// Takes an unjoined node into the cluster as a learner.
        add_learner(AddLearnerRequest) -> AddLearnerResponse
    }
    operation! {
        /// Promotes learners, or takes nodes out of service while they stay known.
        change_membership(ChangeMembershipRequest) -> ChangeMembershipResponse
    }
    operation! {
        /// Starts to drain a node, or answers how far it is.
        remove_node(RemoveNodeRequest) -> RemoveNodeResponse
    }
    operation! {
        /// Takes back [`Cluster::remove_node`] while the node is draining.
        cancel_remove_node(CancelRemoveNodeRequest) -> CancelRemoveNodeResponse
    }
    operation! {
        /// Keeps leaders away from a node for a while.
        evict_leaders(EvictLeadersRequest) -> EvictLeadersResponse
    }
    operation! {
        /// Asks the peer on a node to lead its region.
        transfer_leader(TransferLeaderRequest) -> TransferLeaderResponse
    }
    operation! {
        /// The state of some node.
        status(StatusRequest) -> StatusResponse
    }
    operation! {
        /// The node table.
        list_nodes(ListNodesRequest) -> ListNodesResponse
    }
    operation! {
        /// The regions of the keys of a request.
        locate(LocateRequest) -> LocateResponse
    }
    operation! {
        /// Compares the checksums of a region's peers at one applied index.
        check_region(CheckRegionRequest) -> CheckRegionResponse
    }

    /// The regions that cover a range, with their leaders as last seen. The route table learns them.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_regions(
        &self,
        request: v1::ListRegionsRequest,
    ) -> Result<v1::ListRegionsResponse, Error> {
        let response = self.client.call(request).await?;
        self.client.shared.learn(response.regions.clone());
        Ok(response)
    }
}
