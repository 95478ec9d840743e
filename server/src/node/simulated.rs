//! A node in a simulation: the whole of it, from its ports to its log, among others in one process.
//!
//! What it does not have there is what belongs to a process of its own: signals, exit codes, threads that watch whether a
//! real disk answers. Whoever simulates ends it by ending its runtime, as a power cut would.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use openraft::type_config::{TypeConfigExt as _, alias::InstantOf};
use tokio::sync::mpsc;

use super::{Disk, Node, identity, join, ports::Ports, watch};
use crate::{
    config::Config,
    raft::TypeConfig,
    region::Peer,
    storage::{disk::DiskMonitor, memory::MemoryEngine},
    world,
};

/// A disk that a simulation keeps while no node runs.
#[derive(Clone, Debug)]
pub struct Instances {
    pub log: Arc<MemoryEngine>,
    pub data: Arc<MemoryEngine>,
    /// A folder for the small files beside them, among them the log's sentinel.
    pub dir: PathBuf,
}

/// The clock of a host, since its node was started: each has one of its own.
#[derive(Clone, Copy, Debug)]
pub struct HostClock(InstantOf<TypeConfig>);

impl HostClock {
    /// Starts. Called on the host.
    #[must_use]
    pub fn start() -> Self {
        Self(TypeConfig::now())
    }

    /// When the newest request was sent that a quorum has answered, as a peer of the host counts that leads.
    #[must_use]
    pub fn heard_by_a_quorum(&self, peer: &Peer) -> Option<Duration> {
        let heard = peer.look(|told| told.last_quorum_acked)??;
        Some(heard.into_inner() - self.0)
    }
}

/// Runs a node until a part that it cannot live without fails.
///
/// # Errors
/// Why it could not start, or has ended.
///
/// # Panics
/// Outside of a simulation (`world::simulate`).
pub async fn run(
    config: Config,
    disk: Instances,
    up: impl FnOnce(&Arc<Node>),
) -> anyhow::Result<()> {
    let world = world::simulated().expect("this thread is in a simulation");
    let ports = Ports::bind(&config)?;
    let (failure, mut failures) = mpsc::unbounded_channel();
    let advertised = ports.advertised();
    let watched = world.space().map(|_| {
        DiskMonitor::open(&disk.dir, &config.disk, config.storage.flush_bytes()).map(Arc::new)
    });
    let disk = Disk {
        log: disk.log,
        data: disk.data,
        monitor: watched.transpose().context("look at the disk")?,
        sentinel_dir: Some(disk.dir),
    };
    let (node, _writer) = Node::open(config, disk, advertised, failure)?;
    up(&node);
    if let Some(identity) = identity::read(node.log.as_ref())? {
        node.activate(identity, true).await.context("open the regions of this node")?;
    }
    // With one core everything runs on one runtime.
    let _servers = ports.serve(&node, 1)?;
    watch::start_simulated(&node);
    join::start(&node);
    let cause = failures.recv().await.unwrap_or_default();
    anyhow::bail!(cause)
}
