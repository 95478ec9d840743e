//! Regions that have no peer on this node, as last heard from the placement driver.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use bytes::Bytes;
use flotilla_proto::{
    region::{Epoch, borders_of},
    v1,
};
use futures::future::BoxFuture;
use parking_lot::RwLock;
use tokio::time::Instant;

use crate::{
    error::Error,
    ids::{NodeId, RegionId},
    world::maps::HashMap,
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

/// Routes by key and by region.
///
/// Invariant: no two overlap, and `starts` names exactly the routes.
#[derive(Default)]
struct Routes {
    by_start: BTreeMap<Bytes, Route>,
    starts: HashMap<u64, Bytes>,
}

impl Routes {
    fn get(&self, key: &[u8]) -> Option<&Route> {
        let all = (Bound::Unbounded, Bound::Included(key));
        let (_, route) = self.by_start.range::<[u8], _>(all).next_back()?;
        borders_of(&route.region).ends_after(key).then_some(route)
    }

    /// Takes a route in instead of what it overlaps, unless that is newer.
    fn insert(&mut self, route: Route) {
        let region = &route.region;
        let overlapping: Vec<(Bytes, u64)> = self
            .get(&region.start_key)
            .into_iter()
            .chain(
                self.by_start
                    .range::<[u8], _>((Bound::Excluded(&region.start_key[..]), Bound::Unbounded))
                    .map(|(_, other)| other)
                    .take_while(|other| borders_of(region).ends_after(&other.region.start_key)),
            )
            .map(|other| (other.region.start_key.clone(), Epoch::of(&other.region).version))
            .collect();
        if overlapping.iter().any(|(_, version)| *version > Epoch::of(region).version) {
            return;
        }
        self.remove(region.region_id);
        for (start, _) in overlapping {
            self.remove_at(&start);
        }
        if self.by_start.len() >= REGIONS_MAX {
            *self = Self::default();
        }
        self.starts.insert(region.region_id, region.start_key.clone());
        self.by_start.insert(region.start_key.clone(), route);
    }

    fn remove(&mut self, region: u64) {
        if let Some(start) = self.starts.remove(&region) {
            self.by_start.remove(&start);
        }
    }

    fn remove_at(&mut self, start: &[u8]) {
        if let Some(route) = self.by_start.remove(start) {
            self.starts.remove(&route.region.region_id);
        }
    }
}

/// Remembers routes by key. Cheap to clone.
#[derive(Clone)]
pub struct RouteCache {
    routes: Arc<RwLock<Routes>>,
    lookup: Lookup,
    /// Held by the one that looks up: whoever misses meanwhile waits, and mostly finds what was brought.
    looking: Arc<tokio::sync::Mutex<()>>,
}

impl RouteCache {
    #[must_use]
    pub fn new(lookup: Lookup) -> Self {
        Self { routes: Arc::default(), lookup, looking: Arc::default() }
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
        let _looking = self.looking.lock().await;
        if self.get(&key).is_some() {
            return Ok(());
        }
        let request =
            v1::RegionsRequest { start_key: key, limit: LOOKUP_LIMIT, ..Default::default() };
        let found = (self.lookup)(request).await?;
        let mut routes = self.routes.write();
        found.into_iter().filter_map(Route::of).for_each(|route| routes.insert(route));
        Ok(())
    }

    /// The route of `key`, if it is remembered.
    pub(super) fn get(&self, key: &[u8]) -> Option<Route> {
        self.routes.read().get(key).cloned()
    }

    pub fn forget(&self, region: RegionId) {
        self.routes.write().remove(region.0);
    }

    /// Forgets the route that starts where `region` does.
    pub fn forget_range(&self, region: &v1::Region) {
        self.routes.write().remove_at(&region.start_key);
    }

    pub fn learn_leader(&self, region: RegionId, leader: Option<NodeId>) {
        let mut routes = self.routes.write();
        let Routes { by_start, starts } = &mut *routes;
        if let Some(route) = starts.get(&region.0).and_then(|start| by_start.get_mut(start)) {
            route.leader = leader;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use futures::FutureExt as _;

    use super::*;
    use crate::world::clock;

    fn route(id: u64, start: &'static str, end: &'static str, version: u64) -> Route {
        let region = v1::Region {
            region_id: id,
            start_key: start.into(),
            end_key: end.into(),
            epoch: Some(v1::RegionEpoch { conf_ver: 1, version }),
            ..Default::default()
        };
        Route { region, leader: Some(NodeId(id)) }
    }

    fn ids(routes: &Routes) -> Vec<u64> {
        assert_eq!(routes.starts.len(), routes.by_start.len(), "they name the same");
        routes.by_start.values().map(|route| route.region.region_id).collect()
    }

    #[test]
    fn newer_routes_take_the_place_of_what_they_overlap() {
        let mut routes = Routes::default();
        routes.insert(route(1, "", "", 1));
        routes.insert(route(2, "m", "", 2));
        assert_eq!(ids(&routes), [2], "one half of a split");
        routes.insert(route(1, "", "", 1));
        assert_eq!(ids(&routes), [2], "the whole is over");
        routes.insert(route(1, "", "m", 2));
        assert_eq!(ids(&routes), [1, 2]);
        assert_eq!(routes.get(b"lz").map(|route| route.region.region_id), Some(1));
        routes.insert(route(2, "", "", 3));
        assert_eq!(ids(&routes), [2], "merged, and it starts elsewhere");
        routes.remove(2);
        assert_eq!(ids(&routes), [0; 0]);
    }

    /// A cold start or an election under load must not ask the driver once per request.
    #[tokio::test]
    async fn requests_that_miss_together_look_up_once() {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        let cache = RouteCache::new(Arc::new(move |request: v1::RegionsRequest| {
            counted.fetch_add(1, Ordering::Relaxed);
            assert_eq!(request.limit, LOOKUP_LIMIT);
            async move {
                tokio::task::yield_now().await;
                let info = |Route { region, leader }: Route| v1::RegionInfo {
                    region: Some(region),
                    leader: leader.map(|node| v1::Leader { node_id: node.0, ..Default::default() }),
                    ..Default::default()
                };
                Ok(vec![info(route(1, "", "m", 1)), info(route(2, "m", "", 1))])
            }
            .boxed()
        }));
        let deadline = clock::now() + Duration::from_secs(10);
        let keys: Vec<String> = (0..500).map(|at| format!("{at:03}")).chain(["z".into()]).collect();
        let finding = keys.iter().map(|key| cache.find(key.as_bytes(), deadline));
        let found = futures::future::join_all(finding).await;
        assert!(found.iter().all(Result::is_ok), "{found:?}");
        assert_eq!(asked.load(Ordering::Relaxed), 1);

        cache.forget(RegionId(2));
        assert!(cache.known(b"z").is_none() && cache.known(b"a").is_some());
        cache.learn_leader(RegionId(1), Some(NodeId(9)));
        assert_eq!(cache.find(b"a", deadline).await.expect("known").leader, Some(NodeId(9)));
        cache.find(b"z", deadline).await.expect("looked up");
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }
}
