//! What other nodes ask of this one, beside what regions say to each other.

use std::sync::Arc;

use flotilla_proto::v1::{self, pass_response::Answer, placement_server::Placement};
use tonic::{Request, Response, Status};

use super::{Joined, Node, adopt::adopt, birth, check_region, joined::not_joined};
use crate::{
    api,
    error::Error,
    ids::{NodeId, RegionId},
    world::presence::Presence,
};

/// `flotilla.v1.Placement` on this node.
pub(super) struct PlacementCalls(pub(super) Arc<Node>);

impl PlacementCalls {
    fn joined(&self) -> Result<Arc<Joined>, Status> {
        self.0.joined().cloned().ok_or_else(|| api::status(&not_joined(&self.0)))
    }
}

#[tonic::async_trait]
impl Placement for PlacementCalls {
    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatResponse>, Status> {
        let joined = self.joined()?;
        let presence = Presence::of(request.extensions());
        let request = request.into_inner();
        let (from, incarnation) = (NodeId(request.node_id), request.incarnation);
        if request.cluster_id[..] == joined.cluster.0
            && self.0.directory.node(from).is_some()
            && joined.peers.recognize(from, incarnation, &presence).is_ok()
        {
            // Whether this node leads region 1 or not: it may be the only one that the other finds.
            self.0.directory.see(from, &request.peer_address);
        }
        Ok(Response::new(joined.driver.hear(request, &presence).await))
    }

    async fn adopt(
        &self,
        request: Request<v1::AdoptRequest>,
    ) -> Result<Response<v1::AdoptResponse>, Status> {
        let node = Arc::clone(&self.0);
        let request = request.into_inner();
        // Once begun it is finished, also when the caller goes.
        self.0
            .runtime
            .spawn(async move { adopt(&node, request).await })
            .await
            .map_err(|error| Status::internal(error.to_string()))??;
        Ok(Response::new(v1::AdoptResponse {}))
    }

    async fn promise_birth(
        &self,
        request: Request<v1::PromiseBirthRequest>,
    ) -> Result<Response<v1::PromiseBirthResponse>, Status> {
        let node = Arc::clone(&self.0);
        let request = request.into_inner();
        // Once begun it is finished, also when the caller goes.
        self.0
            .runtime
            .spawn(async move { birth::promise(&node, request).await })
            .await
            .map_err(|error| Status::internal(error.to_string()))??;
        Ok(Response::new(v1::PromiseBirthResponse {}))
    }

    async fn peer_checksum(
        &self,
        request: Request<v1::PeerChecksumRequest>,
    ) -> Result<Response<v1::PeerChecksumResponse>, Status> {
        Ok(Response::new(check_region::local_checksum(
            self.joined()?.as_ref(),
            &request.into_inner(),
        )))
    }

    async fn transfer(
        &self,
        request: Request<v1::TransferRequest>,
    ) -> Result<Response<v1::TransferResponse>, Status> {
        let request = request.into_inner();
        let region = RegionId(request.region_id);
        let taken = match self.joined()?.peers.get(region) {
            Some(peer) => peer.transfer_to(NodeId(request.to_node_id)).await,
            None => Err(Error::RegionNotFound { region }),
        };
        let failure = taken.err().map(|error| error.to_failure());
        Ok(Response::new(v1::TransferResponse { failure }))
    }

    async fn regions(
        &self,
        request: Request<v1::RegionsRequest>,
    ) -> Result<Response<v1::RegionsResponse>, Status> {
        let regions = self.joined()?.driver.regions(&request.into_inner()).await;
        Ok(Response::new(regions.unwrap_or_default()))
    }

    async fn pass(
        &self,
        request: Request<v1::PassRequest>,
    ) -> Result<Response<v1::PassResponse>, Status> {
        let call = request
            .into_inner()
            .call
            .ok_or_else(|| Status::invalid_argument("not a call this version knows"))?;
        let answer = self.joined()?.driver.call(call).await;
        Ok(Response::new(match answer {
            Ok(Some(answer)) => v1::PassResponse { accepted: true, answer: Some(answer) },
            Ok(None) => v1::PassResponse { accepted: false, answer: None },
            Err(error) => v1::PassResponse {
                accepted: true,
                answer: Some(Answer::Failure(error.to_failure())),
            },
        }))
    }
}
