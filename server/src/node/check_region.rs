//! Whether the peers of a region hold the same: each is asked for the checksum of one moment.

use std::{sync::Arc, time::Duration};

use flotilla_proto::v1;
use tonic::Response;

use super::{
    Joined, Node,
    driver_client::{self, named},
};
use crate::{
    error::Error,
    ids::{NodeId, RegionId},
    world::clock,
};

/// Bound: wait for a check to be begun.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// Bound: wait for a peer to say how far its checksum is.
const POLL_TIMEOUT: Duration = Duration::from_secs(2);

/// Starts a check of a region, or tells how far one is.
pub(super) async fn check(
    node: &Arc<Node>,
    joined: &Arc<Joined>,
    request: v1::CheckRegionRequest,
) -> Result<v1::CheckRegionResponse, Error> {
    let region = RegionId(request.region_id);
    let route = named(driver_client::region(node, joined, region).await)?;
    let check_id = if request.check_id == 0 {
        let deadline = clock::now() + START_TIMEOUT;
        joined.router.propose_checksum(&route, clock::random(), deadline).await?
    } else {
        request.check_id
    };
    let asked = route.region.peers.iter().map(|member| {
        let request =
            v1::PeerChecksumRequest { region_id: region.0, peer_id: member.peer_id, check_id };
        let (peer_id, node_id) = (member.peer_id, member.node_id);
        let joined = Arc::clone(joined);
        async move {
            let asking = peer_checksum(node, &joined, node_id, request);
            let answer = tokio::time::timeout(POLL_TIMEOUT, asking).await;
            match answer.unwrap_or_else(|_| Err("its node does not answer".to_owned())) {
                Ok(sum) => v1::PeerChecksum {
                    peer_id,
                    node_id,
                    error: sum.error,
                    applied_index: sum.applied_index,
                    checksum: sum.checksum,
                    keys: sum.keys,
                    pending: !sum.ready,
                },
                // It may be asked again.
                Err(error) => v1::PeerChecksum {
                    peer_id,
                    node_id,
                    error,
                    pending: true,
                    ..Default::default()
                },
            }
        }
    });
    let peers = futures::future::join_all(asked).await;
    let done = peers.iter().all(|peer| !peer.pending);
    let consistent = done
        && peers.iter().all(|peer| peer.error.is_empty())
        && peers.windows(2).all(|pair| {
            let of = |peer: &v1::PeerChecksum| (peer.applied_index, peer.checksum, peer.keys);
            of(&pair[0]) == of(&pair[1])
        });
    Ok(v1::CheckRegionResponse { consistent, peers, check_id, done })
}

async fn peer_checksum(
    node: &Node,
    joined: &Joined,
    node_id: u64,
    request: v1::PeerChecksumRequest,
) -> Result<v1::PeerChecksumResponse, String> {
    if node_id == joined.node.0 {
        return Ok(local_checksum(joined, &request));
    }
    let record = node.directory.node(NodeId(node_id)).ok_or("its node is not known")?;
    let mut client = node.clients.get(joined.cluster, &record.peer_address)?;
    let answer = client.peer_checksum(request).await;
    answer.map(Response::into_inner).map_err(|status| status.message().to_owned())
}

pub(super) fn local_checksum(
    joined: &Joined,
    request: &v1::PeerChecksumRequest,
) -> v1::PeerChecksumResponse {
    let peer =
        joined.peers.get(RegionId(request.region_id)).filter(|peer| peer.id.0 == request.peer_id);
    let Some(peer) = peer else {
        return v1::PeerChecksumResponse {
            ready: true,
            error: "the peer is not on its node".to_owned(),
            ..Default::default()
        };
    };
    let failed =
        |error: String| v1::PeerChecksumResponse { ready: true, error, ..Default::default() };
    match peer.view().checksum(request.check_id) {
        Some(sum) => match sum.outcome {
            None => v1::PeerChecksumResponse::default(),
            Some(Ok((checksum, keys))) => v1::PeerChecksumResponse {
                ready: true,
                applied_index: sum.applied_index,
                checksum,
                keys,
                error: String::new(),
            },
            Some(Err(error)) => failed(error),
        },
        None => {
            let applied = peer.view().published().applied.map_or(0, |id| id.index);
            if applied < request.check_id {
                return v1::PeerChecksumResponse::default();
            }
            failed("it has applied the check by a snapshot or before a restart".to_owned())
        }
    }
}
