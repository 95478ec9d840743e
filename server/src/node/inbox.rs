//! What arrives for regions, on a node that may not be joined.

use std::sync::Arc;

use flotilla_proto::v1;
use futures::{FutureExt, future::BoxFuture};
use tonic::Streaming;

use super::Node;
use crate::{
    ids::NodeId,
    raft::transport::{self, Identity, Inbox},
    region::peers::Peers,
    world::presence::Presence,
};

/// What arrives on the peer port for regions.
pub(super) struct NodeInbox(pub(super) Arc<Node>);

impl NodeInbox {
    fn peers(&self) -> Result<&Arc<Peers>, v1::Refused> {
        let refuse = |message: &str| v1::Refused {
            reason: v1::refused::Reason::NotReady.into(),
            message: message.to_owned(),
        };
        if self.0.is_removed() {
            return Err(refuse("this node was removed from its cluster"));
        }
        self.0.joined().map(|joined| &joined.peers).ok_or_else(|| refuse("not joined"))
    }
}

impl Inbox for NodeInbox {
    fn identity(&self) -> Option<Identity> {
        self.0.joined().map(|joined| joined.peers.environment().transport.identity())
    }

    fn disk_level(&self) -> v1::DiskLevel {
        self.0.joined().map_or(v1::DiskLevel::Unspecified, |joined| joined.peers.disk_level())
    }

    fn admit(&self, batch: &v1::MessageBatch, presence: &Presence) -> Result<(), v1::Refused> {
        self.peers()?.admit(batch, presence)
    }

    fn deliver(&self, from: NodeId, message: v1::Message) -> BoxFuture<'static, v1::Message> {
        match self.peers() {
            Ok(peers) => peers.deliver(from, message),
            Err(refused) => {
                let answer = transport::refusal(&message, refused);
                async move { answer }.boxed()
            }
        }
    }

    fn snapshot(
        &self,
        header: v1::SnapshotHeader,
        presence: Presence,
        chunks: Streaming<v1::SnapshotChunk>,
    ) -> BoxFuture<'static, v1::SnapshotResult> {
        match self.peers() {
            Ok(peers) => peers.snapshot(header, presence, chunks),
            Err(refused) => {
                async move { v1::SnapshotResult { vote: None, refused: Some(refused) } }.boxed()
            }
        }
    }
}
