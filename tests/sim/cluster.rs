//! Nodes: the server's own code, each on a host of its own, with a disk that outlives it.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    ffi::OsString,
    fs, io, mem,
    path::{Path, PathBuf},
    rc::Rc,
    sync::{Arc, Weak},
    time::Duration,
};

use flotilla_server::{
    config::Config,
    node::{
        Joined, Node,
        simulated::{self, HostClock, Instances},
    },
    region::Peer,
    storage::memory::MemoryEngine,
};
use tempfile::TempDir;
use turmoil::Sim;

use crate::{
    health::{self, Goal},
    links::Links,
    marks::{self, Marks},
    scenarios::Sizes,
    world::World,
};

/// Until a machine that was removed from the cluster is started again, with an empty disk.
const EMPTIED_AFTER: Duration = Duration::from_secs(1);
/// Until a process that has ended by itself is started again.
const STARTED_AFTER: Duration = Duration::from_secs(1);
/// Until a node has ended whose disk has failed, if that ends it: a slow disk tells it of that as late as it does anything.
const ENDED_WITHIN: Duration = Duration::from_secs(1);
/// With less free than this a disk is low,
pub(crate) const LOW_BYTES: u64 = 4 << 30;
/// and with less than this it is critical.
pub(crate) const CRITICAL_BYTES: u64 = 1 << 30;
/// Where Linux keeps files in memory.
const IN_MEMORY: &str = "/dev/shm";
/// Names of each host where hosts move: from one to the next.
const NAMES: usize = 2;

/// One host.
pub(crate) struct Host {
    /// Its name now, and those that it had or will have: turmoil gives each an address.
    names: Vec<String>,
    name: Rc<Cell<usize>>,
    /// Its disk, as its next start finds it.
    disk: Rc<RefCell<Instances>>,
    node: Rc<RefCell<Weak<Node>>>,
    /// Why its node has ended by itself.
    ended: Rc<RefCell<Option<String>>>,
    /// Its clock, and when that was started.
    clock: Rc<Cell<Option<(HostClock, Duration)>>>,
    /// With an empty disk it makes a cluster with the others that are to. Not once it was removed from one: as a person
    /// would, who starts it again to be added.
    founds: Rc<Cell<bool>>,
    /// Raised when the disk was set back, wiped or damaged: what was promised on it may be gone.
    pub(crate) disk_lives: u32,
    /// What goes wrong on it is of our making: its disk was damaged, or failed.
    pub(crate) is_excused: bool,
    /// Until then its node may end, because its disk has failed.
    may_end_until: Duration,
    /// When it is to be started again.
    down_until: Option<Duration>,
    /// To whom its links are cut until then.
    pub(crate) silent_to: Vec<String>,
    /// Bound: folders that its disks have had.
    folders: u32,
    dir: TempDir,
}

impl Host {
    pub(crate) fn name(&self) -> &str {
        &self.names[self.name.get()]
    }

    /// It is not where the others were told that it is.
    pub(crate) fn is_away(&self) -> bool {
        self.name.get() != 0
    }

    /// Every name that it can have.
    pub(crate) fn names(&self) -> Vec<String> {
        self.names.clone()
    }

    /// The node, while it runs.
    pub(crate) fn node(&self) -> Option<Arc<Node>> {
        self.node.borrow().upgrade()
    }

    /// What its node is of a cluster, while it runs and is of one.
    pub(crate) fn joined(&self) -> Option<Arc<Joined>> {
        self.node()?.joined().cloned()
    }

    /// When the newest request was sent that a quorum has answered to a peer of its node.
    pub(crate) fn heard(&self, peer: &Peer) -> Option<Duration> {
        let (clock, started) = self.clock.get()?;
        Some(started + clock.heard_by_a_quorum(peer)?)
    }

    pub(crate) fn disk(&self) -> Instances {
        self.disk.borrow().clone()
    }

    /// Whether its disk has failed since this was asked last.
    fn take_disk_failure(&self) -> bool {
        let disk = self.disk.borrow();
        [&disk.log, &disk.data].map(|engine| engine.take_failure()).contains(&true)
    }

    /// Some of what it has applied cannot be read.
    pub(crate) fn is_damaged(&self) -> bool {
        self.disk.borrow().data.is_damaged()
    }

    pub(crate) fn is_down(&self) -> bool {
        self.down_until.is_some()
    }

    /// A copy of its disk as it is now, with everything that it was not yet asked to keep.
    pub(crate) fn image(&mut self) -> io::Result<Instances> {
        let disk = self.disk();
        let dir = self.folder_with(&read_files(&disk.dir)?)?;
        let image = copy_of(&disk, dir);
        // Of what is damaged nobody has a copy: it is as it was.
        image.data.mend();
        Ok(image)
    }

    /// Puts another disk in the place of its own. It must be down. Whoever takes from it what it had promised something
    /// by excuses the host, too.
    pub(crate) fn put_disk(&mut self, disk: Instances) {
        self.disk_lives += 1;
        *self.disk.borrow_mut() = disk;
    }

    /// Puts an empty disk in the place of its own, as [`Host::put_disk`].
    pub(crate) fn wipe(&mut self) -> io::Result<()> {
        let dir = self.new_folder()?;
        self.put_disk(Instances { log: MemoryEngine::new(), data: MemoryEngine::new(), dir });
        Ok(())
    }

    /// Sets `data` alone back. It must be down.
    pub(crate) fn put_data(&mut self, data: Arc<MemoryEngine>) {
        self.disk.borrow_mut().data = data;
    }

    /// Puts other small files beside its instances. It must be down.
    pub(crate) fn put_files(&mut self, files: &Files) -> io::Result<()> {
        let dir = self.folder_with(files)?;
        self.disk.borrow_mut().dir = dir;
        Ok(())
    }

    fn folder_with(&mut self, files: &Files) -> io::Result<PathBuf> {
        let dir = self.new_folder()?;
        for (name, bytes) in files {
            fs::write(dir.join(name), bytes)?;
        }
        Ok(dir)
    }

    fn new_folder(&mut self) -> io::Result<PathBuf> {
        self.folders += 1;
        let dir = self.dir.path().join(self.folders.to_string());
        fs::create_dir(&dir)?;
        Ok(dir)
    }
}

/// A temporary folder, in memory where that can be had: what is synced there need not survive the machine, and a sync of a
/// real disk takes as long as many steps.
fn folder() -> io::Result<TempDir> {
    let mut folder = tempfile::Builder::new();
    folder.prefix("flotilla-sim-").tempdir_in(IN_MEMORY).or_else(|_| folder.tempdir())
}

/// A copy of a disk in another folder, which has the small files already.
pub(crate) fn copy_of(disk: &Instances, dir: PathBuf) -> Instances {
    let all = |engine: &MemoryEngine| engine.crash(engine.unsynced());
    Instances { log: all(&disk.log), data: all(&disk.data), dir }
}

/// The small files of a disk, by name.
pub(crate) type Files = BTreeMap<OsString, Vec<u8>>;

pub(crate) fn read_files(dir: &Path) -> io::Result<Files> {
    let mut files = Files::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            files.insert(entry.file_name(), fs::read(entry.path())?);
        }
    }
    Ok(files)
}

/// The hosts of a simulation.
pub(crate) struct Cluster {
    pub(crate) hosts: Vec<Host>,
    /// How many regions it is born with, and has.
    pub(crate) regions: usize,
    /// What all must have applied before what was damaged counts as made up for.
    made_up_at: Option<Goal>,
}

impl Cluster {
    /// Puts the hosts into `sim`. Those that are no spares are born as one cluster once it runs. A name costs, whether
    /// its host is there or not: for turmoil it is a machine that is linked with every other.
    ///
    /// # Panics
    /// Without temporary folders.
    pub(crate) fn start(
        sim: &mut Sim<'_>,
        world: &Arc<World>,
        sizes: &Sizes,
        hosts_move: bool,
    ) -> Self {
        let names = if hosts_move { NAMES } else { 1 };
        let first = |number: &usize| *number <= sizes.nodes;
        let numbers = || 1..=sizes.nodes + sizes.spares;
        let join: Vec<String> =
            numbers().filter(first).map(|number| format!("n{number}:7420")).collect();
        let hosts = numbers().map(|number| {
            let dir = folder().expect("a temporary folder");
            let mut config = config(sizes, dir.path().to_owned());
            if first(&number) && sizes.split_keys.is_empty() {
                config.join = join.clone();
                config.bootstrap_expect = sizes.nodes as u32;
            }
            let all_names = (0..names).map(|moved| format!("n{number}{}", "m".repeat(moved)));
            let mut host = Host {
                names: all_names.collect(),
                name: Rc::default(),
                disk: Rc::new(RefCell::new(Instances {
                    log: MemoryEngine::new(),
                    data: MemoryEngine::new(),
                    dir: PathBuf::new(),
                })),
                node: Rc::default(),
                ended: Rc::default(),
                clock: Rc::default(),
                founds: Rc::new(Cell::new(true)),
                disk_lives: 0,
                is_excused: false,
                may_end_until: Duration::ZERO,
                down_until: None,
                silent_to: vec![],
                folders: 0,
                dir,
            };
            host.wipe().expect("a temporary folder");
            for name in 0..names {
                host.enter(sim, name, config.clone(), world, number - 1);
            }
            host
        });
        Self { hosts: hosts.collect(), regions: sizes.regions(), made_up_at: None }
    }

    /// Client addresses of all hosts.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.hosts.iter().map(|host| format!("{}:7420", host.name())).collect()
    }

    /// A block of some disk is damaged.
    pub(crate) fn has_damage(&self) -> bool {
        self.hosts.iter().any(Host::is_damaged)
    }

    /// Ends the node of a host. Of what its disk was not asked to keep, `kept(steps)` of so many steps stay, and behind them
    /// what was `replaced` in ranges as a whole. Answers how many steps `log` and `data` have lost.
    pub(crate) fn crash(
        &mut self,
        sim: &mut Sim<'_>,
        index: usize,
        until: Duration,
        mut kept: impl FnMut(usize) -> usize,
        mut replaced: impl FnMut() -> bool,
    ) -> (usize, usize) {
        let host = &self.hosts[index];
        let disk = host.disk();
        let steps = (disk.log.unsynced(), disk.data.unsynced());
        let (log, data) = (kept(steps.0), kept(steps.1));
        let then = (disk.log.crash(log), disk.data.crash_keeping(data, &mut replaced));
        self.end(sim, index, until, then.0, then.1);
        (steps.0 - log, steps.1 - data)
    }

    /// Ends the node of a host, whose disk has this from then on.
    pub(crate) fn end(
        &mut self,
        sim: &mut Sim<'_>,
        index: usize,
        until: Duration,
        log: Arc<MemoryEngine>,
        data: Arc<MemoryEngine>,
    ) {
        let host = &mut self.hosts[index];
        sim.crash(host.name());
        let mut disk = host.disk.borrow_mut();
        (disk.log, disk.data) = (log, data);
        drop(disk);
        *host.ended.borrow_mut() = None;
        host.down_until = Some(until);
    }

    /// Nobody is excused any more once all that was damaged is made up for.
    pub(crate) fn forgive(&mut self, now: Duration) {
        let mut excused = self.hosts.iter().filter(|host| host.is_excused).peekable();
        if excused.peek().is_none() {
            return;
        }
        let to_come = |host: &Host| {
            host.is_down()
                || host.joined().is_none()
                || host.is_damaged()
                || now < host.may_end_until
        };
        if excused.any(to_come) {
            self.made_up_at = None;
            return;
        }
        let goal = self.made_up_at.take().unwrap_or_else(|| Goal::of(self));
        if health::is_made_up_for(self, &goal) {
            self.hosts.iter_mut().for_each(|host| host.is_excused = false);
        } else {
            self.made_up_at = Some(goal);
        }
    }

    /// Ends the node of a host as a signal does: what was written is there, and its connections are closed.
    pub(crate) fn kill(&mut self, sim: &mut Sim<'_>, index: usize, until: Duration) {
        let disk = self.hosts[index].disk();
        self.end(sim, index, until, disk.log.reopened(), disk.data.reopened());
    }

    /// From its next start on a host, which must be down, is at its next address.
    pub(crate) fn move_away(&mut self, index: usize) {
        let host = &self.hosts[index];
        host.name.set((host.name.get() + 1) % host.names.len());
    }

    /// Starts what is to be started by now, as whoever watches over processes would, and empties the disks of machines
    /// that were removed.
    ///
    /// # Errors
    /// A node has ended by itself, whose disk is as it should be.
    ///
    /// # Panics
    /// Without temporary folders.
    pub(crate) fn restart(
        &mut self,
        sim: &mut Sim<'_>,
        links: &mut Links,
        now: Duration,
        marks: &Marks,
    ) -> Result<(), String> {
        for index in 0..self.hosts.len() {
            let host = &mut self.hosts[index];
            if host.take_disk_failure() {
                host.is_excused = true;
                host.may_end_until = now + ENDED_WITHIN;
            }
            let ended = host.ended.borrow_mut().take();
            if let Some(cause) = ended {
                if !host.is_excused {
                    return Err(format!("{} has ended: {cause}", host.name()));
                }
                tracing::info!(host = host.name(), "will be started again; it ended: {cause}");
                host.down_until = Some(now + STARTED_AFTER);
                let mut disk = host.disk.borrow_mut();
                (disk.log, disk.data) = (disk.log.reopened(), disk.data.reopened());
                drop(disk);
                // A person does what the words say.
                if cause.contains("Empty the whole data directory") {
                    host.wipe().expect("a temporary folder");
                    marks.hit(marks::EMPTY_DISK_WANTED);
                }
            }
            if !host.is_down() && host.node().is_some_and(|node| node.is_removed()) {
                self.kill(sim, index, now + EMPTIED_AFTER);
                self.hosts[index].wipe().expect("a temporary folder");
                self.hosts[index].founds.set(false);
                marks.hit(marks::REMOVED_AND_BACK);
            }
            let host = &mut self.hosts[index];
            if host.down_until.is_some_and(|until| until <= now) {
                host.down_until = None;
                for other in mem::take(&mut host.silent_to) {
                    for name in host.names() {
                        links.mend_both_ways(sim, &name, &other);
                    }
                }
                sim.bounce(host.name());
            }
        }
        Ok(())
    }
}

impl Host {
    /// Puts the host into `sim` under one of its names. It runs there while that is its name.
    fn enter(
        &self,
        sim: &mut Sim<'_>,
        name: usize,
        mut config: Config,
        world: &Arc<World>,
        number: usize,
    ) {
        let (disk, node) = (Rc::clone(&self.disk), Rc::clone(&self.node));
        let (ended, now) = (Rc::clone(&self.ended), Rc::clone(&self.name));
        let (founds, clock) = (Rc::clone(&self.founds), Rc::clone(&self.clock));
        config.advertise_host = Some(self.names[name].clone());
        let mut errors = Vec::new();
        config.check(&mut errors);
        assert!(errors.is_empty(), "no node would start with this: {errors:?}");
        let world = Arc::clone(world);
        sim.host(self.names[name].clone(), move || {
            let (disk, node) = (disk.borrow().clone(), Rc::clone(&node));
            let (mut config, ended) = (config.clone(), Rc::clone(&ended));
            if !founds.get() {
                (config.join, config.bootstrap_expect) = (vec![], 0);
            }
            let (here, world) = (now.get() == name, Arc::clone(&world));
            let clock = Rc::clone(&clock);
            async move {
                world.runs_here(number, &disk);
                if !here {
                    return Ok(());
                }
                clock.set(turmoil::sim_elapsed().map(|since| (HostClock::start(), since)));
                let up = move |started: &Arc<Node>| *node.borrow_mut() = Arc::downgrade(started);
                let result = simulated::run(config, disk, up).await;
                let cause = result.expect_err("it runs until it fails");
                tracing::info!("the node has ended: {cause:#}");
                *ended.borrow_mut() = Some(format!("{cause:#}"));
                Ok(())
            }
        });
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
    config.log.catch_up_bytes = sizes.catch_up_bytes;
    config.disk.low_bytes = Some(LOW_BYTES);
    config.disk.critical_bytes = Some(CRITICAL_BYTES);
    // It would be of real blocks.
    config.disk.ballast_bytes = Some(0);
    let placement = &mut config.placement;
    placement.interval = Duration::from_millis(200);
    placement.node_disconnected_after = Duration::from_secs(2);
    placement.node_down_after = Duration::from_secs(6);
    placement.joint_patience = Duration::from_secs(2);
    placement.step_timeout = Duration::from_secs(2);
    placement.leader_cool_down = Duration::from_secs(2);
    placement.refusal_patience = Duration::from_secs(3);
    placement.refusal_memory = Duration::from_secs(5);
    config
}
