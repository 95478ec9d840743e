//! Builds every part of a node in dependency order, owns its tasks, and drains them.
//!
//! A node starts *unjoined*: ports open, no regions. A birth (`node/birth.rs`) or `Adopt` by another node
//! gives it an identity, which is on the disk before anybody is answered; from then on it is joined
//! for good, over restarts, until it is removed. What must be true before the first vote (a log that
//! did not lose its end, a lease that ran out) is checked by `region/`.

mod activate;
mod adopt;
mod birth;
mod check_region;
mod clients;
mod cluster_calls;
mod damage;
mod driver_client;
mod driver_route;
mod exit;
mod gate;
mod heartbeat;
mod identity;
mod inbox;
mod join;
mod joined;
mod local;
mod opening;
mod placement_service;
mod ports;
mod pulse;
mod readiness;
pub mod simulated;
mod status;
mod transfer_leader;
mod watch;

use std::{
    collections::BTreeMap,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::Context as _;
use parking_lot::Mutex;
use prometheus::Registry;
use tokio::{runtime, sync::mpsc};
use tokio_util::sync::CancellationToken;

pub use self::{damage::tells_of_damage, joined::Joined};
use self::{
    exit::{EXIT_MAX, Ending, end_within},
    identity::DiskIdentity,
    opening::unless_told,
    ports::Ports,
};
use crate::{
    config::{Advertised, Config, EngineKind},
    metrics::Metrics,
    placement::directory::NodeDirectory,
    raft::log::writer::{LogWriter, LogWriterConfig, WriterThread},
    region::recovery,
    signals::StopSignals,
    storage::{
        disk::DiskMonitor,
        engine::{self, Engine},
        memory::MemoryEngine,
        rocks,
        sentinel::Sentinel,
        vital::Vital,
    },
    world::{blocking, clock},
};

/// Bound: wait for an earlier process to let go of the disk. A container that is replaced in a hurry may
/// still be ending, and to give up at once would cost what its successor is made to wait after a failed
/// start, which doubles each time.
const DISK_WAIT_MAX: Duration = Duration::from_secs(10);
/// How often it is looked at meanwhile.
const DISK_WAIT_INTERVAL: Duration = Duration::from_millis(100);

/// Everything of a node but its sockets.
pub struct Node {
    pub config: Config,
    pub advertised: Advertised,
    /// Drawn at each start; a later start of the same disk has a larger one.
    pub incarnation: u64,
    pub registry: Registry,
    pub metrics: Metrics,
    data: Arc<dyn Engine>,
    log: Arc<dyn Engine>,
    writer: LogWriter,
    directory: Arc<NodeDirectory>,
    clients: clients::PlacementClients,
    disk: Option<Arc<DiskMonitor>>,
    disk_status: Mutex<Option<crate::storage::disk::DiskStatus>>,
    /// What this node's own files took at the newest look; 0 before it.
    data_bytes: AtomicU64,
    /// Where regions and everything else but clients' requests run.
    runtime: runtime::Handle,
    /// Set when all runtimes are there.
    pulses: OnceLock<pulse::Pulses>,
    joined: OnceLock<Arc<Joined>>,
    joining: tokio::sync::Mutex<()>,
    births: birth::Births,
    /// Cancelled when the node was removed from its cluster.
    removed: CancellationToken,
    draining: AtomicBool,
    /// Tells why the node must end.
    failure: mpsc::UnboundedSender<String>,
    /// What the log was found to lack at the start.
    loss: Option<recovery::Loss>,
}

/// Runs a node until it is told to stop.
///
/// # Errors
/// When it cannot start, or a part that it cannot live without fails; the process must then end.
pub fn run(config: Config) -> anyhow::Result<()> {
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let raft_threads = match config.runtime.raft_threads {
        0 => (cores / 2).max(1),
        threads => threads as usize,
    };
    let regions = new_runtime("raft", raft_threads)?;
    let node_config = config.clone();
    let served = regions.block_on(async move { serve(node_config, cores).await });
    let (outcome, ending) = match served {
        Ok(ended) => ended,
        // It may have the disk open all the same.
        Err(error) => (Err(damage::advised(error)), end_within(EXIT_MAX)),
    };
    ending.waits_for("the tasks of the node");
    regions.shutdown_timeout(Duration::from_secs(1));
    ending.waits_for("the threads of RocksDB");
    outcome
}

/// One thread is run without the cost of work stealing.
fn new_runtime(name: &str, threads: usize) -> anyhow::Result<runtime::Runtime> {
    let mut builder = if threads > 1 {
        let mut builder = runtime::Builder::new_multi_thread();
        builder.worker_threads(threads);
        builder
    } else {
        runtime::Builder::new_current_thread()
    };
    builder.thread_name(name).enable_all().build().context("start a runtime")
}

/// Answers how the node has ended, and who watches the process from then on.
///
/// # Errors
/// When the node has not begun.
async fn serve(config: Config, cores: usize) -> anyhow::Result<(anyhow::Result<()>, Ending)> {
    tracing::info!(version = env!("CARGO_PKG_VERSION"), data_dir = %config.data_dir.display(), "starting node");
    // Ordering: before anything that takes time, so that no signal is lost meanwhile.
    let mut signals = StopSignals::listen().context("listen to signals")?;
    // Ordering: ports before the disk, so that a port that is taken costs nothing.
    let ports = Ports::bind(&config)?;
    private_dir(&config.data_dir)?;
    let (failure, mut failures) = mpsc::unbounded_channel();
    let advertised = ports.advertised();
    let opening = move || async move {
        let disk = Disk::open(&config).await?;
        Node::open(config, disk, advertised, failure)
    };
    let (node, writer_thread) =
        match unless_told(signals.next(), "the opening of the disk", opening).await {
            Ok(opened) => opened?,
            Err(signal) => return Ok(told_early(signal, "the opening of the disk")),
        };
    if let Some(identity) = identity::read(node.log.as_ref())? {
        let activated = Arc::clone(&node);
        let opening = move || async move { activated.activate(identity, true).await };
        match unless_told(signals.next(), "the opening of the regions", opening).await {
            Ok(opened) => opened.context("open the regions of this node")?,
            Err(signal) => return Ok(told_early(signal, "the opening of the regions")),
        }
    }
    let servers = ports.serve(&node, cores)?;
    watch::start(&node);
    join::start(&node);
    tracing::info!(
        client = node.advertised.client,
        peer = node.advertised.peer,
        http = node.advertised.http,
        joined = node.joined().is_some(),
        "node is up"
    );

    let outcome = tokio::select! {
        signal = signals.next() => {
            tracing::info!(signal, "draining: handing leaderships over");
            Ok(())
        }
        Some(cause) = failures.recv() => Err(failed(cause)),
    };
    let ended = match outcome {
        Ok(()) => {
            // Ordering: before anything that may wait for a disk that hangs.
            let draining = end_within(node.config.shutdown_grace + EXIT_MAX);
            draining.waits_for("the drain");
            let drained = tokio::select! {
                result = node.drain(servers) => result,
                // A second signal, or a failure meanwhile: what is on the disk is enough.
                hurried = async { tokio::select! {
                    _ = signals.next() => Ok(()),
                    Some(cause) = failures.recv() => Err(failed(cause)),
                }} => {
                    end_within(EXIT_MAX).waits_for("the end of the log writer");
                    hurried
                }
            };
            draining.waits_for("the end of the log writer");
            node.writer.stop();
            let _ = blocking::run(move || writer_thread.join()).await;
            draining.waits_for("the ends of what used the disk");
            tracing::info!("node has stopped");
            drained
        }
        Err(error) => {
            // Nothing is acknowledged any more; what is not on the disk was never promised.
            tracing::error!("node failed: {error:#}");
            Err(error)
        }
    };
    let ending = end_within(EXIT_MAX);
    ending.waits_for("the background work of RocksDB");
    node.end_background_work();
    // Ordering: what is left of the node goes while it is known who is waited for.
    ending.waits_for("the ends of what used the disk");
    drop(node);
    Ok((ended, ending))
}

/// The end of a process that was told to stop before its node was up.
fn told_early(signal: &str, before: &'static str) -> (anyhow::Result<()>, Ending) {
    tracing::info!(signal, before, "told to stop before the node was up");
    let ending = end_within(EXIT_MAX);
    ending.waits_for(before);
    (Ok(()), ending)
}

/// A part has told why the node must end.
fn failed(cause: String) -> anyhow::Error {
    damage::advised(anyhow::anyhow!(cause))
}

/// Opens the instances of RocksDB, as soon as nobody else has them open.
async fn open_engines(config: &Config) -> Result<rocks::Instances, engine::Error> {
    let deadline = clock::now() + DISK_WAIT_MAX;
    let mut told = false;
    loop {
        // It may have a long log to read, during which a signal must be heard.
        let (dir, storage) = (config.data_dir.clone(), config.storage.clone());
        let opening = blocking::run(move || rocks::RocksEngine::open_both(&dir, &storage));
        let opened = opening.await.unwrap_or_else(|error| {
            Err(engine::Error::Io { message: format!("open the disk: {error}") })
        });
        match opened {
            Err(error) if rocks::is_open_elsewhere(&error) && clock::now() < deadline => {
                if !told {
                    tracing::warn!(%error, "waiting for the process that has the disk open");
                    told = true;
                }
                tokio::time::sleep(DISK_WAIT_INTERVAL).await;
            }
            opened => return opened,
        }
    }
}

/// Makes the data directory, for this user alone, if there is none.
fn private_dir(dir: &Path) -> anyhow::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(dir).with_context(|| format!("create {}", dir.display()))?;
    let mode = std::fs::metadata(dir).with_context(|| format!("look at {}", dir.display()))?.mode();
    if mode & 0o007 != 0 {
        tracing::warn!(
            dir = %dir.display(),
            mode = format!("{:03o}", mode & 0o777),
            "every user of this machine may look into the data directory"
        );
    }
    Ok(())
}

/// Where a node keeps what it knows.
struct Disk {
    log: Arc<dyn Engine>,
    data: Arc<dyn Engine>,
    /// None of one in memory.
    monitor: Option<Arc<DiskMonitor>>,
    /// None where a log cannot outlive its process.
    sentinel_dir: Option<PathBuf>,
}

impl Disk {
    async fn open(config: &Config) -> anyhow::Result<Self> {
        if config.storage.engine != EngineKind::Rocksdb {
            let (log, data) = (MemoryEngine::new(), MemoryEngine::new());
            return Ok(Self { log, data, monitor: None, sentinel_dir: None });
        }
        let flush_bytes = config.storage.flush_bytes();
        let monitor = DiskMonitor::open(&config.data_dir, &config.disk, flush_bytes)
            .context("look at the disk")?;
        let engines = open_engines(config).await.context("open the data directory")?;
        Ok(Self {
            log: engines.log,
            data: engines.data,
            monitor: Some(Arc::new(monitor)),
            sentinel_dir: Some(config.data_dir.clone()),
        })
    }
}

impl Node {
    fn open(
        config: Config,
        disk: Disk,
        advertised: Advertised,
        failure: mpsc::UnboundedSender<String>,
    ) -> anyhow::Result<(Arc<Self>, WriterThread)> {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry)?;
        metrics.slow.configure(config.slow_requests.clone());
        let Disk { log, data, monitor: disk, sentinel_dir } = disk;
        let sentinel = match &sentinel_dir {
            Some(dir) => Sentinel::read(dir).context("read the log's sentinel")?,
            None => None,
        };
        // Ordering: before anything is written to the log.
        let sentinel_sequence = sentinel.map(|sentinel| sentinel.log_sequence);
        let loss = recovery::find_loss(log.as_ref(), sentinel_sequence)
            .context("look for a loss of the log's end")?;
        identity::check_whole(log.as_ref(), data.as_ref(), loss.is_some())
            .context("look at the disk")?;
        let incarnation = identity::begin(log.as_ref()).context("count this start")?;
        // Ordering: after the look at whether the log is whole, which takes an empty one for lost.
        let births =
            birth::Births::open(log.as_ref(), data.as_ref()).context("look at the disk")?;
        if let Some(stored) = identity::read_stored(log.as_ref())? {
            births.note_birth(&stored.birth_id);
        }
        let on_failure = || {
            let failure = failure.clone();
            Box::new(move |reason: String| {
                // When nobody listens any more the node is ending already.
                let _ = failure.send(reason);
            })
        };
        // A failed write of the log is told by its writer.
        let data: Arc<dyn Engine> = Arc::new(Vital::new(data, "the data", on_failure()));
        let writer_config = LogWriterConfig {
            queue_bytes_max: usize::try_from(config.log.queue_bytes_max).unwrap_or(usize::MAX),
            sentinel_dir,
            sentinel_sequence: sentinel_sequence.unwrap_or(0),
        };
        let raft_metrics = Arc::new(metrics.clone());
        let (writer, thread) =
            LogWriter::start(Arc::clone(&log), writer_config, raft_metrics, on_failure())?;
        let directory = Arc::new(NodeDirectory::open(Arc::clone(&log), on_failure())?);
        let node = Arc::new(Self {
            config,
            advertised,
            incarnation,
            registry,
            metrics,
            data,
            log,
            writer,
            directory,
            clients: clients::PlacementClients::default(),
            disk,
            disk_status: Mutex::default(),
            data_bytes: AtomicU64::new(0),
            runtime: runtime::Handle::current(),
            pulses: OnceLock::new(),
            joined: OnceLock::new(),
            joining: tokio::sync::Mutex::default(),
            births,
            removed: CancellationToken::new(),
            draining: AtomicBool::new(false),
            failure,
            loss,
        });
        Ok((node, thread))
    }

    /// The parts that exist only on a joined node.
    #[must_use]
    pub fn joined(&self) -> Option<&Arc<Joined>> {
        if self.is_removed() { None } else { self.joined.get() }
    }

    #[must_use]
    pub fn is_removed(&self) -> bool {
        self.removed.is_cancelled()
    }

    /// What the files of its log and its data take, as looked at once a second.
    fn data_bytes(&self) -> u64 {
        self.data_bytes.load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Starts what a joined node has. Called once, at start or when the node joins.
    async fn activate(
        self: &Arc<Self>,
        identity: DiskIdentity,
        restarted: bool,
    ) -> anyhow::Result<()> {
        if identity.removed {
            tracing::error!(node = %identity.node, "this node was removed from its cluster and serves nothing; empty its disk to join anew");
            self.removed.cancel();
            return Ok(());
        }
        let opened = Joined::open(self, identity, restarted).await;
        // It has an identity, and does nothing with it: only another start can help.
        let joined = opened.inspect_err(|error| self.fail(format!("open the node: {error:#}")))?;
        if self.joined.set(Arc::clone(&joined)).is_err() {
            anyhow::bail!("the node has joined already");
        }
        tracing::info!(cluster = %identity.cluster, node = %identity.node, "joined");
        joined.start(self);
        Ok(())
    }

    /// Notes on the disk that the node was removed, and serves nothing from now on.
    fn become_removed(&self) {
        if self.removed.is_cancelled() {
            return;
        }
        self.removed.cancel();
        tracing::error!("this node was removed from its cluster and serves nothing from now on");
        if let Err(error) = identity::mark_removed(self.log.as_ref()) {
            self.fail(format!("note that the node was removed: {error}"));
        }
    }

    /// Ends the process with words.
    fn fail(&self, reason: String) {
        // When nobody listens any more the node is ending already.
        let _ = self.failure.send(reason);
    }

    /// Labels as the node tells them to the cluster.
    fn labels(&self) -> BTreeMap<String, String> {
        self.config.labels.clone()
    }

    fn data_dir(&self) -> PathBuf {
        self.config.data_dir.clone()
    }

    /// See [`Engine::end_background_work`].
    fn end_background_work(&self) {
        self.data.end_background_work();
        self.log.end_background_work();
    }

    async fn drain(self: &Arc<Self>, servers: ports::Servers) -> anyhow::Result<()> {
        self.draining.store(true, Ordering::Release);
        let deadline = clock::now() + self.config.shutdown_grace;
        if let Some(joined) = self.joined.get() {
            joined.hand_over(deadline).await;
        }
        servers.stop(deadline).await;
        if let Some(joined) = self.joined.get() {
            let mut stopping = std::pin::pin!(joined.stop());
            // A snapshot that is being installed may wait for a compaction.
            if tokio::time::timeout_at(deadline, stopping.as_mut()).await.is_err() {
                self.end_background_work();
                stopping.await;
            }
        }
        let data = Arc::clone(&self.data);
        blocking::run(move || data.sync()).await?.context("sync the data")?;
        Ok(())
    }
}
