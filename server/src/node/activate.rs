//! Opens and starts what a node has once it belongs to a cluster.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use flotilla_proto::v1;
use futures::FutureExt;
use tokio::sync::Semaphore;

use super::{Joined, Node, driver_client, heartbeat, identity::DiskIdentity};
use crate::{
    error::Error,
    feature_level,
    placement::driver::Driver,
    raft::{
        log::memory::LogMemory,
        settings,
        transport::{self, Transport, TransportConfig},
    },
    region::{
        DiskGate, Environment, RegionConfig, checks::Checks, compact, news, peers::Peers,
        read::DISK_READS_MAX, reclaim, size,
    },
    router::{Lookup, RouteCache, Router},
    storage::disk::{DiskMonitor, Level},
    world::clock,
};

/// A stream of log entries on which nothing moves is given up after an election timeout, and not before this:
/// a disk that stalls, or one largest value on a link of 10 Mbit/s, takes seconds.
const SILENCE_MIN: Duration = Duration::from_secs(10);

/// What regions ask of the disk.
struct DiskRoom(Option<Arc<DiskMonitor>>);

impl DiskGate for DiskRoom {
    fn level(&self) -> Level {
        self.0.as_ref().map_or(Level::Normal, |disk| disk.level())
    }

    fn available_bytes(&self) -> u64 {
        self.0.as_ref().map_or(u64::MAX, |disk| disk.available_bytes())
    }

    fn refuse_bytes(&self, bytes: u64) -> Option<u64> {
        let disk = self.0.as_ref()?;
        (bytes > disk.spare_bytes()).then(|| disk.available_bytes())
    }
}

impl Joined {
    pub(super) async fn open(
        node: &Arc<Node>,
        identity: DiskIdentity,
        restarted: bool,
    ) -> anyhow::Result<Arc<Self>> {
        let config = &node.config;
        let raft_metrics = Arc::new(node.metrics.clone());
        let transport = Transport::new(
            transport::Identity {
                cluster: identity.cluster,
                node: identity.node,
                incarnation: node.incarnation,
            },
            Arc::clone(&node.directory) as Arc<dyn transport::Directory>,
            TransportConfig {
                snapshot: config.snapshot.clone(),
                silence_max: config.raft.election_timeout_max.max(SILENCE_MIN),
            },
            Arc::clone(&raft_metrics),
        );
        let raft_config =
            settings::openraft(identity.cluster.to_string(), &config.raft).validate()?;
        let log_memory = usize::try_from(config.log.tail_caches_bytes_max).unwrap_or(usize::MAX);
        let env = Arc::new(Environment {
            node: identity.node,
            data: Arc::clone(&node.data),
            log: Arc::clone(&node.log),
            writer: node.writer.clone(),
            transport,
            config: RegionConfig {
                raft: config.raft.clone(),
                log: config.log.clone(),
                snapshot: config.snapshot.clone(),
                reads: config.reads.clone(),
                proposals_max: config.limits.proposals_in_flight_max,
                proposal_bytes_max: config.limits.proposal_bytes_in_flight_max,
            },
            log_memory: LogMemory::new(log_memory, &raft_metrics.raft),
            raft_config: Arc::new(raft_config),
            metrics: raft_metrics,
            runtime: node.runtime.clone(),
            proposal_bytes: Arc::default(),
            disk_reads: Arc::new(Semaphore::new(DISK_READS_MAX)),
            checks: Checks::default(),
            unmet: Arc::default(),
            disk: Arc::new(DiskRoom(node.disk.clone())),
            feature_level: Arc::new(feature_level::FIRST.into()),
        });
        let peers = Peers::open(env, restarted, node.loss).await?;
        peers.set_nodes(&node.directory.table());
        let opened_with = peers.all().iter().map(|peer| (peer.region, peer.id)).collect();
        let driver = Driver::new(
            Arc::clone(&peers),
            Arc::clone(&node.directory),
            config.placement.clone().under(&config.raft),
        );
        let cache = RouteCache::new(lookup(node));
        let limits = &config.limits;
        let router = Router::new(
            Arc::clone(&peers),
            Arc::clone(&node.directory),
            cache,
            limits.requests_in_flight_max,
            limits.scans_in_flight_max,
        );
        Ok(Arc::new(Self {
            node: identity.node,
            cluster: identity.cluster,
            peers,
            router,
            driver,
            confirmed: AtomicBool::new(false),
            whole: AtomicBool::new(restarted),
            opened: clock::now(),
            opened_with,
            settled: AtomicBool::new(false),
            tasks: parking_lot::Mutex::default(),
        }))
    }

    /// Starts the tasks that live as long as the node.
    pub(super) fn start(self: &Arc<Self>, node: &Arc<Node>) {
        let mut tasks = self.tasks.lock();
        let runtime = &node.runtime;
        tasks.push(runtime.spawn(compact::run(Arc::clone(&self.peers))));
        tasks.push(runtime.spawn(compact::run_ticks(Arc::clone(&self.peers))));
        tasks.push(runtime.spawn(Arc::clone(&self.peers).run_destroyer()));
        tasks.push(runtime.spawn(Arc::clone(&self.peers).run_effects()));
        tasks.push(runtime.spawn(reclaim::run(Arc::clone(&self.peers))));
        tasks.push(runtime.spawn(size::run(Arc::clone(&self.peers))));
        tasks.push(runtime.spawn(news::run(Arc::clone(&self.peers))));
        tasks.push(runtime.spawn(Arc::clone(&self.driver).run()));
        tasks.push(runtime.spawn(heartbeat::run(Arc::clone(node), Arc::clone(self))));
    }
}

/// Asks the driver, wherever it is, for regions that are not here.
fn lookup(node: &Arc<Node>) -> Lookup {
    let node = Arc::downgrade(node);
    Arc::new(move |request: v1::RegionsRequest| {
        let node = node.clone();
        async move {
            let node = node.upgrade().ok_or(Error::Draining)?;
            Ok(driver_client::regions(&node, request).await?.regions)
        }
        .boxed()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::config::DiskConfig;

    #[test]
    fn a_refusal_for_the_disk_tells_how_much_is_left() {
        let dir = tempfile::tempdir().expect("a directory");
        let gate = |low_bytes| {
            let config = DiskConfig {
                ballast_bytes: Some(0),
                low_bytes: Some(low_bytes),
                critical_bytes: Some(0),
                ..DiskConfig::default()
            };
            DiskRoom(Some(Arc::new(DiskMonitor::open(dir.path(), &config, 0).expect("a disk"))))
        };
        assert!(gate(0).level().has_room());
        assert!(!gate(u64::MAX).level().has_room(), "less than everything is left");
        let left = gate(u64::MAX).available_bytes();
        assert!(left > 0, "the disk that the test writes to has room");
        assert!(DiskRoom(None).level().has_room(), "a node in memory has no disk");
        assert_eq!(gate(0).refuse_bytes(1), None, "there is room for one more");
        assert!(gate(0).refuse_bytes(u64::MAX).is_some(), "not for everything");
        assert!(gate(u64::MAX).refuse_bytes(1).is_some(), "nothing is left for more");
        assert_eq!(DiskRoom(None).refuse_bytes(u64::MAX), None, "a node in memory has no disk");
    }
}
