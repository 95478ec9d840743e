//! What clients ask of keys, for as long as this node is joined.

use std::sync::Arc;

use bytes::Bytes;
use flotilla_proto::{range::KeyRange, v1};

use super::{Joined, Node, joined::not_joined};
use crate::{
    error::Error,
    router::{Context, Requests},
};

/// Requests for keys: to the router once the node has joined.
#[derive(Clone)]
pub(super) struct WhileJoined(pub(super) Arc<Node>);

impl WhileJoined {
    fn joined(&self) -> Result<&Arc<Joined>, Error> {
        self.0.joined().ok_or_else(|| not_joined(&self.0))
    }

    /// A node that may have been removed while it was down must not tell what it remembers.
    fn reader(&self, cx: &Context) -> Result<&Arc<Joined>, Error> {
        let joined = self.joined()?;
        if cx.read_mode == v1::ReadMode::Stale && !joined.is_confirmed() {
            return Err(Error::NotReady {
                message: "this node has not heard from its cluster since its start".to_owned(),
            });
        }
        Ok(joined)
    }
}

impl Requests for WhileJoined {
    async fn write(&self, cx: Context, command: v1::WriteCommand) -> Result<v1::WriteReply, Error> {
        self.joined()?.router.write(cx, command).await
    }

    async fn read_points(&self, cx: Context, keys: Vec<Bytes>) -> Result<v1::ReadReply, Error> {
        self.reader(&cx)?.router.read_points(cx, keys).await
    }

    async fn read_range(&self, cx: Context, range: v1::RangeRead) -> Result<v1::ReadReply, Error> {
        self.reader(&cx)?.router.read_range(cx, range).await
    }

    fn regions_of(&self, range: &KeyRange) -> Result<Vec<v1::Region>, Error> {
        self.joined()?.router.regions_of(range)
    }
}
