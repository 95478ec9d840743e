//! One server process, its ports, its disk and its log.

use std::{
    env,
    fs::{self, File, OpenOptions},
    io::{BufRead as _, BufReader},
    net::{Ipv4Addr, TcpListener},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};

/// What a demo's node is given beside its place. Elections are six times as fast as by default, so that
/// a reader need not wait for one: a leader is given up after its lease (the longest election timeout)
/// and an election timeout of silence. A real network wants the default.
pub(super) const SETTINGS: [(&str, &str); 6] = [
    ("raft.heartbeat_interval", "100ms"),
    ("raft.election_timeout_min", "500ms"),
    ("raft.election_timeout_max", "1s"),
    ("placement.interval", "200ms"),
    // A file of up to a gigabyte per node would be a lot for a temporary directory.
    ("disk.ballast_bytes", "1MiB"),
    // Nobody is left to hand over to when all stop.
    ("shutdown_grace", "2s"),
];

/// Ports of node 1, when they are free; the others are ten apart.
const FIRST_PORT: u16 = 7420;
const LAST_PORT: u16 = 7990;

/// The three ports of a node, as the defaults are numbered: clients, other nodes, HTTP.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports(u16);

impl Ports {
    /// The first `count` that nobody listens on.
    ///
    /// # Errors
    /// When there are too few.
    pub(super) fn free(count: usize) -> anyhow::Result<Vec<Self>> {
        let bound = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        let free = |ports: &Self| (0..3).all(|which| bound(ports.0 + which).is_ok());
        let found: Vec<_> =
            (FIRST_PORT..=LAST_PORT).step_by(10).map(Self).filter(free).take(count).collect();
        ensure!(found.len() == count, "no free ports from {FIRST_PORT} to {LAST_PORT}");
        Ok(found)
    }

    pub(super) fn client(self) -> String {
        format!("127.0.0.1:{}", self.0)
    }

    pub(super) fn peer(self) -> String {
        format!("127.0.0.1:{}", self.0 + 1)
    }

    pub(super) fn http(self) -> String {
        format!("127.0.0.1:{}", self.0 + 2)
    }

    pub(super) fn are_default(self) -> bool {
        self.0 == FIRST_PORT
    }
}

/// One node of the demo. Killed when dropped.
pub(super) struct Server {
    /// What people call it: 1 for the first.
    pub(super) number: usize,
    /// What the cluster calls it; 0 until it has joined.
    pub(super) node_id: u64,
    pub(super) ports: Ports,
    /// Client addresses of all nodes of the demo.
    addresses: Vec<String>,
    data_dir: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

impl Server {
    pub(super) fn new(number: usize, ports: Ports, place: &Path, addresses: Vec<String>) -> Self {
        Self {
            number,
            node_id: 0,
            ports,
            addresses,
            data_dir: place.join(format!("node-{number}")),
            log: place.join(format!("node-{number}.log")),
            child: None,
        }
    }

    /// Starts the process, the first time or again with the same ports and disk. Does not wait for it.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub(super) fn launch(&mut self) -> anyhow::Result<()> {
        self.kill();
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("open {}", self.log.display()))?;
        let mut command = Command::new(env::current_exe().context("find this program")?);
        command
            .arg("demo-node")
            .args(["--parent", &std::process::id().to_string()])
            .arg("--data-dir")
            .arg(&self.data_dir)
            .args(["--client-addr", &self.ports.client()])
            .args(["--peer-addr", &self.ports.peer()])
            .args(["--http-addr", &self.ports.http()])
            .args(["--advertise-host", "127.0.0.1"])
            .args(["--bootstrap-expect", &self.addresses.len().to_string()])
            .args(["--join", &self.addresses.join(",")]);
        for (key, value) in SETTINGS {
            command.args(["--set", &format!("{key}={value}")]);
        }
        // Settings of the reader's own node must not reach ours.
        for (name, _) in env::vars_os() {
            if name.to_string_lossy().starts_with("FLOTILLA_") {
                command.env_remove(name);
            }
        }
        // A group of its own: Ctrl-C is for the demo, which then stops its nodes in order.
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        self.child = Some(command.spawn().context("start a node")?);
        Ok(())
    }

    /// `None` when it is not running.
    pub(super) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// How the process ended, if it did.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        self.child = None;
        Some(status)
    }

    pub(super) fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Memory of the process that is in RAM.
    pub(super) fn resident_bytes(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()?)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kibibytes << 10)
    }

    /// `kill -9`, and waits until the system has reaped it.
    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Fails only when it has ended by itself, which `wait` then reports.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Asks the process to stop.
    pub(super) fn terminate(&self) {
        if let Some(child) = &self.child {
            // Fails only when it has ended by itself.
            let _ = kill_process(Pid::from_child(child), Signal::TERM);
        }
    }

    /// The last lines of its log.
    pub(super) fn last_words(&self, count: usize) -> Vec<String> {
        let Ok(file) = File::open(&self.log) else { return Vec::new() };
        let lines: Vec<String> = BufReader::new(file).lines().map_while(Result::ok).collect();
        lines[lines.len().saturating_sub(count)..].to_vec()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// For a node's process: makes the system kill it when the demo's process ends in any way.
///
/// # Errors
/// When the demo has ended already, or the system cannot do it.
pub(in crate::cli) fn end_with_parent(parent: u32) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("be killed with the demo")?;
    // Ordering: looked at afterwards. A parent that ended before has left us to another.
    let now = getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
    ensure!(now == Some(parent), "the demo that started this node has ended");
    Ok(())
}
