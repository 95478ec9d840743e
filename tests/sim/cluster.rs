//! Nodes: the server's own code, each on a host of its own, with a disk that outlives it.

use std::{
    cell::RefCell,
    path::PathBuf,
    rc::Rc,
    sync::{Arc, Weak},
    time::Duration,
};

use flotilla_server::{
    config::Config,
    node::{
        Node,
        simulated::{self, Instances},
    },
    storage::memory::MemoryEngine,
};
use rand::{RngExt as _, rngs::StdRng};
use tempfile::TempDir;
use turmoil::Sim;

/// What a seed decides about a cluster.
#[derive(Clone, Debug)]
pub(crate) struct Sizes {
    pub(crate) nodes: usize,
    /// Entries that a log keeps, and at which it is cut.
    pub(crate) log_entries: u64,
    pub(crate) queue: usize,
    pub(crate) snapshot_chunk_bytes: u64,
}

impl Sizes {
    /// Draws them: often tiny, so that purges, snapshots and full queues happen within seconds.
    pub(crate) fn draw(random: &mut StdRng) -> Self {
        let pick = |random: &mut StdRng, from: &[u64]| from[random.random_range(0..from.len())];
        Self {
            nodes: pick(random, &[3, 3, 3, 5]) as usize,
            log_entries: pick(random, &[20, 20, 100, 10_000]),
            queue: pick(random, &[2, 16, 1_024]) as usize,
            snapshot_chunk_bytes: pick(random, &[4 << 10, 1 << 20]),
        }
    }
}

/// One host.
pub(crate) struct Host {
    pub(crate) name: String,
    /// Its disk, as its next start finds it.
    disk: Rc<RefCell<Instances>>,
    node: Rc<RefCell<Weak<Node>>>,
    /// Why its node has ended by itself.
    ended: Rc<RefCell<Option<String>>>,
    /// Raised when the disk was set back, wiped or damaged: what was promised on it may be gone.
    pub(crate) disk_lives: u32,
    /// When it is to be started again.
    down_until: Option<Duration>,
    _dir: TempDir,
}

impl Host {
    /// The node, while it runs.
    pub(crate) fn node(&self) -> Option<Arc<Node>> {
        self.node.borrow().upgrade()
    }

    pub(crate) fn disk(&self) -> Instances {
        self.disk.borrow().clone()
    }

    pub(crate) fn is_down(&self) -> bool {
        self.down_until.is_some()
    }
}

/// The hosts of a simulation.
pub(crate) struct Cluster {
    pub(crate) hosts: Vec<Host>,
}

impl Cluster {
    /// Puts the hosts into `sim`; they are born as one cluster once it runs.
    pub(crate) fn start(sim: &mut Sim<'_>, sizes: &Sizes) -> Self {
        let names: Vec<String> = (1..=sizes.nodes).map(|number| format!("n{number}")).collect();
        let join: Vec<String> = names.iter().map(|name| format!("{name}:7420")).collect();
        let hosts = names.into_iter().map(|name| {
            let dir = tempfile::Builder::new().prefix("flotilla-sim-").tempdir();
            let dir = dir.expect("a temporary folder");
            let mut config = config(sizes, dir.path().to_owned());
            config.advertise_host = Some(name.clone());
            config.join = join.clone();
            config.bootstrap_expect = sizes.nodes as u32;
            let host = Host {
                name: name.clone(),
                disk: Rc::new(RefCell::new(Instances {
                    log: MemoryEngine::new(),
                    data: MemoryEngine::new(),
                    dir: dir.path().to_owned(),
                })),
                node: Rc::default(),
                ended: Rc::default(),
                disk_lives: 0,
                down_until: None,
                _dir: dir,
            };
            let (disk, node) = (Rc::clone(&host.disk), Rc::clone(&host.node));
            let ended = Rc::clone(&host.ended);
            sim.host(name, move || {
                let (disk, node) = (disk.borrow().clone(), Rc::clone(&node));
                let (config, ended) = (config.clone(), Rc::clone(&ended));
                async move {
                    let up = move |started: &Arc<Node>| {
                        *node.borrow_mut() = Arc::downgrade(started);
                    };
                    let result = simulated::run(config, disk, up).await;
                    let cause = result.expect_err("it runs until it fails");
                    tracing::info!("the node has ended: {cause:#}");
                    *ended.borrow_mut() = Some(format!("{cause:#}"));
                    Ok(())
                }
            });
            host
        });
        Self { hosts: hosts.collect() }
    }

    /// Ends the node of a host. Of what its disk was not asked to keep, `kept(steps)` of so many steps stay.
    pub(crate) fn crash(
        &mut self,
        sim: &mut Sim<'_>,
        index: usize,
        until: Duration,
        mut kept: impl FnMut(usize) -> usize,
    ) {
        let host = &mut self.hosts[index];
        sim.crash(host.name.as_str());
        let mut disk = host.disk.borrow_mut();
        let (log, data) = (kept(disk.log.unsynced()), kept(disk.data.unsynced()));
        disk.log = disk.log.crash(log);
        disk.data = disk.data.crash(data);
        host.down_until = Some(until);
    }

    /// Starts what is to be started by now, as whoever watches over processes would.
    pub(crate) fn restart(&mut self, sim: &mut Sim<'_>, now: Duration) {
        for host in &mut self.hosts {
            if let Some(cause) = host.ended.borrow_mut().take() {
                tracing::info!(host = host.name, "will be started again; it ended: {cause}");
                host.down_until = Some(now + Duration::from_secs(1));
            }
            if host.down_until.is_some_and(|until| until <= now) {
                host.down_until = None;
                sim.bounce(host.name.as_str());
            }
        }
    }
}

/// Settings under which much happens within seconds.
fn config(sizes: &Sizes, data_dir: PathBuf) -> Config {
    let any = |port| ([0, 0, 0, 0], port).into();
    let mut config = Config {
        data_dir,
        client_addr: any(7420),
        peer_addr: any(7421),
        http_addr: any(7422),
        ..Config::default()
    };
    config.raft.heartbeat_interval = Duration::from_millis(100);
    config.raft.election_timeout_min = Duration::from_millis(500);
    config.raft.election_timeout_max = Duration::from_secs(1);
    config.log.compact_entries = sizes.log_entries;
    config.log.keep_entries = sizes.log_entries / 2;
    config.limits.requests_in_flight_max = sizes.queue;
    config.limits.proposals_in_flight_max = sizes.queue;
    config.snapshot.chunk_bytes = sizes.snapshot_chunk_bytes;
    config
}
