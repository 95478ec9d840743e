//! A node in a simulation: the whole of it, from its ports to its log, among others in one process.
//!
//! What it does not have there is what belongs to a process of its own: signals, exit codes, threads that watch a real
//! disk. Whoever simulates ends it by ending its runtime, as a power cut would.

use std::{path::PathBuf, sync::Arc};

use anyhow::Context as _;
use tokio::sync::mpsc;

use super::{Disk, Node, identity, join, ports::Ports};
use crate::{config::Config, storage::memory::MemoryEngine, world};

/// A disk that a simulation keeps while no node runs.
#[derive(Clone, Debug)]
pub struct Instances {
    pub log: Arc<MemoryEngine>,
    pub data: Arc<MemoryEngine>,
    /// A folder for the small files beside them, among them the log's sentinel.
    pub dir: PathBuf,
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
    assert!(world::simulated().is_some(), "this thread is in no simulation");
    let ports = Ports::bind(&config)?;
    let (failure, mut failures) = mpsc::unbounded_channel();
    let advertised = ports.advertised();
    let disk = Disk { log: disk.log, data: disk.data, monitor: None, sentinel_dir: Some(disk.dir) };
    let (node, _writer) = Node::open(config, disk, advertised, failure)?;
    up(&node);
    if let Some(identity) = identity::read(node.log.as_ref())? {
        node.activate(identity, true).await.context("open the regions of this node")?;
    }
    // With one core everything runs on one runtime.
    let _servers = ports.serve(&node, 1)?;
    join::start(&node);
    let cause = failures.recv().await.unwrap_or_default();
    anyhow::bail!(cause)
}
