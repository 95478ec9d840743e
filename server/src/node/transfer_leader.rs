//! Moving the lead of a region, from any node.

use std::sync::Arc;

use flotilla_proto::v1;
use tonic::{Response, Status};

use super::{
    Joined, Node,
    clients::is_unsent,
    driver_client::{self, named},
};
use crate::{
    error::Error,
    ids::{NodeId, RegionId},
};

/// Asks the leader of a region, wherever it is, to hand over.
pub(super) async fn transfer(
    node: &Arc<Node>,
    joined: &Joined,
    request: v1::TransferRequest,
) -> Result<(), Error> {
    let region = RegionId(request.region_id);
    if let Some(peer) = joined.peers.get(region).filter(|peer| peer.is_leader()) {
        return peer.transfer_to(NodeId(request.to_node_id)).await;
    }
    let route = named(driver_client::region(node, joined, region).await)?;
    let leader = route.leader.ok_or(Error::NoLeader { region })?;
    let record = node.directory.node(leader).ok_or(Error::NoLeader { region })?;
    let unsent = |error: String| Error::NotReady {
        message: format!("node {leader}, which leads region {region}, cannot be asked: {error}"),
    };
    let mut client = node.clients.get(joined.cluster, &record.peer_address).map_err(unsent)?;
    handed_over(leader, region, client.transfer(request).await)
}

/// What a leader answered that was asked to hand over. Where it may have begun to, nobody knows who leads next.
fn handed_over(
    leader: NodeId,
    region: RegionId,
    answer: Result<Response<v1::TransferResponse>, Status>,
) -> Result<(), Error> {
    match answer.map(|answer| answer.into_inner().failure) {
        Ok(None) => Ok(()),
        Ok(Some(failure)) => Err(match Error::from_failure(failure) {
            // It led a moment ago: whoever asks again finds who does.
            Error::NotLeader { .. } | Error::RegionNotFound { .. } => Error::NoLeader { region },
            error => error,
        }),
        Err(status) => {
            let message =
                format!("node {leader} led region {region} and was asked: {}", status.message());
            Err(if is_unsent(&status) {
                Error::NotReady { message }
            } else {
                Error::OutcomeUnknown { message }
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ClusterId;

    /// One answer of the leader, as it is passed on; what was lost on the way may have been done.
    #[tokio::test]
    async fn leader_that_was_asked_to_hand_over_answers_for_itself() {
        let answered = |error: Option<Error>| {
            let failure = error.map(|error| error.to_failure());
            handed_over(NodeId(1), RegionId(2), Ok(Response::new(v1::TransferResponse { failure })))
        };
        answered(None).expect("the one that was asked for leads");
        let missing = Error::NotFound { message: "node 9 has no voter".to_owned() };
        assert_eq!(answered(Some(missing.clone())), Err(missing), "by whomever it was asked");
        let unknown = Error::OutcomeUnknown { message: "nobody took it".to_owned() };
        assert_eq!(answered(Some(unknown.clone())), Err(unknown));
        let moved = Error::NotLeader { region: RegionId(2), leader: None };
        assert_eq!(answered(Some(moved)), Err(Error::NoLeader { region: RegionId(2) }));
        for status in [Status::unknown("transport error"), Status::unavailable("not joined")] {
            let lost = handed_over(NodeId(1), RegionId(2), Err(status)).expect_err("no answer");
            assert!(lost.maybe_applied(), "{lost:?}");
        }

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        drop(listener);
        let clients = super::super::clients::PlacementClients::default();
        let mut client = clients.get(ClusterId([1; 16]), &address).expect("an address");
        let answer = client.transfer(v1::TransferRequest::default()).await;
        let unsent = handed_over(NodeId(1), RegionId(2), answer).expect_err("nobody is there");
        assert!(!unsent.maybe_applied() && unsent.retryable(), "{unsent:?}");
    }
}
