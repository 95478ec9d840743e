//! What the hop before asks of the router.

use std::{
    future::Future,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use flotilla_proto::{range::KeyRange, v1};
use tokio::time::Instant;

use crate::{error::Error, ids::RegionId};

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

impl Context {
    /// For each of `count` parts of its request.
    #[must_use]
    pub fn in_parts(&self, count: usize) -> Self {
        Self { whole: (count > 1).then(Arc::default), ..self.clone() }
    }
}

/// A request that several regions serve at a time: counted once, until its last part has ended.
#[derive(Debug, Default)]
pub struct Whole(OnceLock<Arc<AtomicUsize>>);

impl Whole {
    /// Counts it in `requests`, unless a part of it did.
    pub fn count_in(&self, requests: &Arc<AtomicUsize>) {
        self.0.get_or_init(|| {
            requests.fetch_add(1, Ordering::Relaxed);
            Arc::clone(requests)
        });
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        if let Some(requests) = self.0.get() {
            requests.fetch_sub(1, Ordering::Relaxed);
        }
    }
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
    /// the whole range that was asked for. With `more` the next page begins behind `reached` (before it, in reverse), the last
    /// key that was looked at; there may be no item at all, as what has expired is looked at as well. Where
    /// the next item did not fit into what was left of `bytes_max`, `next_bytes` is what it takes: without any
    /// item, `reached` may be empty then, and the same page is to be asked for with as much.
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
