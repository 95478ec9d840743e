//! Membership, routing and state of the cluster.

use std::time::Duration;

use flotilla_proto::v1;
use tokio::time::{Instant, sleep};

use crate::{Client, Error, call::Audience};

/// How often a check is asked how far it is; it takes as long as its region is large.
const CHECK_POLL_MIN: Duration = Duration::from_millis(20);
const CHECK_POLL_MAX: Duration = Duration::from_secs(1);
/// Bound: wait for peers of a check that do not answer at all.
const CHECK_UNANSWERED_MAX: Duration = Duration::from_secs(10);

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

    /// The state of the node at this address, which need not belong to a cluster, with all its peers.
    ///
    /// # Errors
    /// [`Error::TimedOut`] when it does not answer.
    pub async fn status_of(&self, address: &str) -> Result<v1::StatusResponse, Error> {
        let ask = |request| self.client.call_for(request, Audience::Only(address));
        let mut status = ask(v1::StatusRequest::default()).await?;
        while let Some(next) = status.next_page() {
            status.extend(ask(next).await?);
        }
        Ok(status)
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
        /// Starts to drain a node. [`Cluster::list_nodes`] tells how far it is: repeated after
        /// [`Cluster::cancel_remove_node`] this call would drain the node anew.
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
        /// Starts to compare the checksums of a region's peers at one applied index, or tells how far
        /// that is; see [`Cluster::compare_peers`].
        check_region(CheckRegionRequest) -> CheckRegionResponse
    }

    /// Compares the checksums of a region's peers at one applied index, and waits for all of them: no
    /// longer than `patience`, nor than a while for peers whose nodes do not answer. Those that were not
    /// compared by then are still `pending`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn compare_peers(
        &self,
        region_id: u64,
        patience: Duration,
    ) -> Result<v1::CheckRegionResponse, Error> {
        let deadline = Instant::now() + patience;
        let mut request = v1::CheckRegionRequest { region_id, check_id: 0 };
        let mut response = self.check_region(request).await?;
        request.check_id = response.check_id;
        let mut pause = CHECK_POLL_MIN;
        let mut answered = Instant::now();
        while !response.done {
            let now = Instant::now();
            // Who computes says so; nobody waits long for a peer that says nothing.
            if response.peers.iter().any(|peer| peer.pending && peer.error.is_empty()) {
                answered = now;
            }
            if now + pause >= deadline || now.duration_since(answered) >= CHECK_UNANSWERED_MAX {
                break;
            }
            sleep(pause).await;
            pause = (pause * 2).min(CHECK_POLL_MAX);
            match self.check_region(request).await {
                Ok(next) => response = next,
                Err(error) if now.duration_since(answered) >= CHECK_UNANSWERED_MAX / 2 => {
                    return Err(error);
                }
                Err(_) => {}
            }
        }
        Ok(response)
    }

    /// The regions that cover a range, as the placement driver knows them; all pages, up to the
    /// request's limit. The route table learns them.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_regions(
        &self,
        request: v1::ListRegionsRequest,
    ) -> Result<v1::ListRegionsResponse, Error> {
        self.list_regions_for(request, Audience::Anyone).await
    }

    /// As [`Cluster::list_regions`], asked of the node at this address alone.
    pub(crate) async fn list_regions_of(
        &self,
        address: &str,
        request: v1::ListRegionsRequest,
    ) -> Result<v1::ListRegionsResponse, Error> {
        self.list_regions_for(request, Audience::Only(address)).await
    }

    /// As [`Cluster::list_nodes`], asked of the node at this address alone.
    pub(crate) async fn list_nodes_of(
        &self,
        address: &str,
        request: v1::ListNodesRequest,
    ) -> Result<v1::ListNodesResponse, Error> {
        self.client.call_for(request, Audience::Only(address)).await
    }

    async fn list_regions_for(
        &self,
        mut request: v1::ListRegionsRequest,
        audience: Audience<'_>,
    ) -> Result<v1::ListRegionsResponse, Error> {
        let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);
        let mut all = v1::ListRegionsResponse::default();
        loop {
            let page = self.client.call_for(request.clone(), audience).await?;
            self.client.shared.learn(page.regions.clone());
            let is_last = page.next_page_token.is_empty() || page.regions.is_empty();
            all.regions.extend(page.regions);
            all.told_by_node = all.told_by_node.max(page.told_by_node);
            if is_last || (limit > 0 && all.regions.len() >= limit) {
                return Ok(all);
            }
            if limit > 0 {
                request.limit = u32::try_from(limit - all.regions.len()).unwrap_or(u32::MAX);
            }
            request.page_token = page.next_page_token;
        }
    }
}
