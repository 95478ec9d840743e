//! Regions that have no peer on this node, as last heard from the placement driver.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use bytes::Bytes;
use flotilla_proto::v1;
use futures::future::BoxFuture;
use parking_lot::RwLock;
use tokio::time::Instant;

use crate::{
    error::Error,
    ids::{NodeId, RegionId},
};

/// Bound: regions remembered; past it the memory is emptied and filled anew.
const REGIONS_MAX: usize = 100_000;
/// Regions that one look-up brings.
const LOOKUP_LIMIT: u32 = 64;

/// Asks the placement driver for the regions from a key on.
pub type Lookup = Arc<
    dyn Fn(v1::RegionsRequest) -> BoxFuture<'static, Result<Vec<v1::RegionInfo>, Error>>
        + Send
        + Sync,
>;

/// A remembered region. It may be old: whoever is asked checks.
#[derive(Clone, Debug)]
pub struct Route {
    pub region: v1::Region,
    pub leader: Option<NodeId>,
}

impl Route {
    /// As the placement driver tells it; `None` when that is nothing.
    #[must_use]
    pub fn of(info: v1::RegionInfo) -> Option<Self> {
        let leader = info.leader.map(|leader| NodeId(leader.node_id));
        let leader = leader.filter(|leader| *leader != NodeId::default());
        Some(Self { region: info.region?, leader })
    }
}

/// Remembers routes by key. Cheap to clone.
#[derive(Clone)]
pub struct RouteCache {
    routes: Arc<RwLock<BTreeMap<Bytes, Route>>>,
    lookup: Lookup,
}

impl RouteCache {
    #[must_use]
    pub fn new(lookup: Lookup) -> Self {
        Self { routes: Arc::default(), lookup }
    }

    /// The region of `key`, looked up when it is not remembered.
    ///
    /// # Errors
    /// When the driver does not answer in time or does not know.
    pub async fn find(&self, key: &[u8], deadline: Instant) -> Result<Route, Error> {
        if let Some(route) = self.get(key) {
            return Ok(route);
        }
        let unknown =
            || Error::NotReady { message: "the region of this key is not known".to_owned() };
        tokio::time::timeout_at(deadline, self.fill(Bytes::copy_from_slice(key)))
            .await
            .map_err(|_| unknown())??;
        self.get(key).ok_or_else(unknown)
    }

    /// The descriptor of the region of `key`, if it is remembered.
    #[must_use]
    pub fn known(&self, key: &[u8]) -> Option<v1::Region> {
        self.get(key).map(|route| route.region)
    }

    /// Looks up a key beside the request that missed it.
    pub fn prefetch(&self, key: Bytes) {
        let cache = self.clone();
        tokio::spawn(async move {
            // Whoever asks again finds it, or starts this anew.
            let _ = cache.fill(key).await;
        });
    }

    async fn fill(&self, key: Bytes) -> Result<(), Error> {
        let request =
            v1::RegionsRequest { start_key: key, end_key: Bytes::new(), limit: LOOKUP_LIMIT };
        let found = (self.lookup)(request).await?;
        let mut routes = self.routes.write();
        if routes.len() > REGIONS_MAX {
            routes.clear();
        }
        for route in found.into_iter().filter_map(Route::of) {
            routes.insert(route.region.start_key.clone(), route);
        }
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Option<Route> {
        let routes = self.routes.read();
        let (_, route) =
            routes.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back()?;
        let end = &route.region.end_key;
        (end.is_empty() || key < &end[..]).then(|| route.clone())
    }

    pub fn forget(&self, region: RegionId) {
        self.routes.write().retain(|_, route| route.region.region_id != region.0);
    }

    /// Forgets the route that starts where `region` does.
    pub fn forget_range(&self, region: &v1::Region) {
        self.routes.write().remove(&region.start_key);
    }

    pub fn learn_leader(&self, region: RegionId, leader: Option<NodeId>) {
        let mut routes = self.routes.write();
        if let Some(route) = routes.values_mut().find(|route| route.region.region_id == region.0) {
            route.leader = leader;
        }
    }
}
