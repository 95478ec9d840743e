//! What other nodes send to the peers here.

use std::sync::Arc;

use flotilla_proto::v1::{self, message::Body, refused::Reason};
use futures::{FutureExt, future::BoxFuture};
use tonic::Streaming;

use super::{
    peers::Peers,
    serve::{failed, refused},
};
use crate::{
    ids::{NodeId, PeerId, RegionId},
    raft::transport::{self, Inbox},
    world::{clock, presence::Presence},
};

impl Peers {
    /// Hands a request to the peer it is for.
    async fn dispatch(self: Arc<Self>, mut message: v1::Message) -> v1::Message {
        let (region, to) = (RegionId(message.region_id), PeerId(message.to_peer));
        let Some(body) = message.body.take() else {
            return transport::refusal(&message, refused(Reason::Malformed, "an empty message"));
        };
        let result = async {
            let peer = match &body {
                Body::Append(append) => match self.get(region) {
                    Some(peer) if peer.id == to => peer,
                    _ => return self.answer_for_absent(region, to, append),
                },
                Body::Forward(_) => self
                    .get(region)
                    .ok_or_else(|| refused(Reason::UnknownPeer, "the region is not here"))?,
                _ => self.get(region).filter(|peer| peer.id == to).ok_or_else(|| {
                    if self.is_buried(region, to) {
                        refused(Reason::Tombstone, format!("peer {to} was removed here"))
                    } else {
                        refused(Reason::UnknownPeer, format!("peer {to} is not here"))
                    }
                })?,
            };
            if matches!(body, Body::Vote(_)) && clock::now() < self.vote_gate {
                return Err(refused(
                    Reason::NotReady,
                    "restarted within a lease: a promise of before may still hold",
                ));
            }
            let served = Arc::clone(&peer).serve(body).await;
            if let Err(refused) = &served
                && refused.reason() == Reason::Reverted
            {
                self.quarantine(peer, refused.message.clone());
            }
            served
        }
        .await;
        match result {
            Ok(body) => transport::answer(&message, body),
            Err(refused) => transport::refusal(&message, refused),
        }
    }
}

impl Inbox for Arc<Peers> {
    fn identity(&self) -> Option<transport::Identity> {
        Some(self.env.transport.identity())
    }

    fn disk_level(&self) -> v1::DiskLevel {
        self.env.disk.level().into()
    }

    fn admit(&self, batch: &v1::MessageBatch, presence: &Presence) -> Result<(), v1::Refused> {
        let identity = self.env.transport.identity();
        if batch.cluster_id[..] != identity.cluster.0 {
            return Err(refused(Reason::WrongCluster, "this node is of another cluster"));
        }
        if batch.to_node != identity.node.0 {
            return Err(refused(Reason::WrongNode, format!("this is node {}", identity.node)));
        }
        let from = NodeId(batch.from_node);
        {
            let nodes = self.nodes.read();
            if nodes.removed.contains(&from) {
                return Err(refused(Reason::SenderRemoved, format!("node {from} was removed")));
            }
            // Bound: processes are remembered of nodes of the table only. One that is not in this copy of
            // it may have joined since and be needed for a quorum, without which there is no newer copy.
            if !nodes.known.contains(&from) {
                return Ok(());
            }
        }
        self.recognize(from, batch.from_incarnation, presence)
    }

    fn deliver(&self, _from: NodeId, message: v1::Message) -> BoxFuture<'static, v1::Message> {
        Arc::clone(self).dispatch(message).boxed()
    }

    fn snapshot(
        &self,
        header: v1::SnapshotHeader,
        presence: Presence,
        chunks: Streaming<v1::SnapshotChunk>,
    ) -> BoxFuture<'static, v1::SnapshotResult> {
        let peers = Arc::clone(self);
        let (region, peer) = (RegionId(header.region_id), PeerId(header.to_peer));
        let from = NodeId(header.from_node);
        // On its own: a sender that goes away must not take the guard from a running install.
        let taken = self.env.runtime.spawn(peers.take_snapshot(header, presence, chunks));
        async move {
            taken.await.unwrap_or_else(|error| Err(failed(error))).unwrap_or_else(|refused| {
                tell_untaken(region, peer, from, &refused);
                v1::SnapshotResult { vote: None, refused: Some(refused) }
            })
        }
        .boxed()
    }
}

/// A node that is busy with other snapshots is asked again, and takes it then: nothing is wrong.
fn tell_untaken(region: RegionId, peer: PeerId, from: NodeId, refused: &v1::Refused) {
    let (reason, text) = (&refused.message, "a snapshot was not taken");
    if refused.reason() == Reason::Busy {
        tracing::debug!(%region, %peer, %from, reason, "{text}");
    } else {
        tracing::warn!(%region, %peer, %from, reason, "{text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::fixture::{PEER, REGION};

    #[test]
    fn snapshot_that_is_not_taken_is_told_with_whose_it_is_and_quietly_where_nothing_is_wrong() {
        let told = |reason: Reason| {
            let refused = refused(reason, "the disk is too full");
            crate::telemetry::lines_of(|| tell_untaken(REGION, PEER, NodeId(3), &refused))
        };
        let fields = format!("region={REGION} peer={PEER} from=3 reason=\"the disk is too full\"");
        for (reason, level) in [(Reason::NotReady, "WARN"), (Reason::Busy, "DEBUG")] {
            let told = told(reason);
            assert!(told.trim_start().starts_with(level) && told.contains(&fields), "{told}");
        }
    }
}
