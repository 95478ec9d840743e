//! A node of the demo: a real process with its own directory, ports and log.

use std::{
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::patience::until;
use crate::config::BoundAddresses;

/// Shorter than the defaults, so that a failover is over while one watches. A real cluster keeps the
/// defaults, which forgive a slower network.
const SETTINGS: [&str; 4] = [
    "raft.heartbeat_interval=250ms",
    "raft.election_timeout_min=1s",
    "raft.election_timeout_max=2s",
    "disk.ballast_bytes=0",
];
/// Ports of the first node; each further node's are ten higher. Others are taken when they are in
/// use.
const FIRST_PORT: u16 = 7420;
/// Bound: a process that is not up, or not gone, within this has failed.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Process {
    /// From 1, as in the names of its directory and log.
    pub(super) number: u8,
    dir: PathBuf,
    log: PathBuf,
    /// Client, peer, HTTP; 0 until the first start took one.
    ports: [u16; 3],
    child: Option<Child>,
}

impl Process {
    pub(super) fn new(base: &Path, number: u8) -> Self {
        let first = FIRST_PORT + 10 * u16::from(number - 1);
        let wished = [first, first + 1, first + 2];
        let free = wished.iter().all(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
        Self {
            number,
            dir: base.join(format!("node-{number}")),
            log: base.join(format!("node-{number}.log")),
            ports: if free { wished } else { [0; 3] },
            child: None,
        }
    }

    /// Starts the process and waits until its ports are open. A second start takes the same ports.
    pub(super) async fn start(&mut self) -> anyhow::Result<()> {
        fs::create_dir_all(&self.dir).with_context(|| format!("create {}", self.dir.display()))?;
        // What a former start left would be taken for the new one's.
        let stale = self.dir.join(BoundAddresses::FILE);
        if stale.exists() {
            fs::remove_file(stale).context("remove the addresses of the last start")?;
        }
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(std::env::current_exe().context("find this program")?);
        command.arg("--data-dir").arg(&self.dir);
        for (flag, port) in ["--client-addr", "--peer-addr", "--http-addr"].iter().zip(self.ports) {
            command.arg(flag).arg(format!("127.0.0.1:{port}"));
        }
        for setting in SETTINGS {
            command.arg("--set").arg(setting);
        }
        command
            .arg("--label")
            .arg(format!("host=demo-{}", self.number))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C is for the demo, which then stops the nodes in order.
            .process_group(0)
            .kill_on_drop(true);
        self.child = Some(command.spawn().context("start a node")?);
        let bound = until("a node to open its ports", PATIENCE, async || {
            self.check_alive()?;
            Ok(BoundAddresses::read(&self.dir).ok())
        })
        .await?;
        self.ports = [bound.client.port(), bound.peer.port(), bound.http.port()];
        Ok(())
    }

    /// An error, with the end of its log, when the process has ended by itself.
    fn check_alive(&mut self) -> anyhow::Result<()> {
        let Some(child) = &mut self.child else { bail!("node {} is not running", self.number) };
        if let Some(status) = child.try_wait()? {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<_> = log.lines().rev().take(10).collect();
            let lines: Vec<_> = lines.into_iter().rev().collect();
            bail!("node {} has ended ({status}):\n{}", self.number, lines.join("\n"));
        }
        Ok(())
    }

    /// As `kill -9` does: the process gets no chance to write anything.
    pub(super) async fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().await.context("kill a node")?;
        }
        Ok(())
    }

    /// Asks the process to end in order, and waits for it.
    pub(super) async fn stop(&mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            kill_process(pid, Signal::TERM).context("stop a node")?;
        }
        match tokio::time::timeout(PATIENCE, child.wait()).await {
            Ok(status) => {
                let status = status?;
                anyhow::ensure!(status.success(), "node {} stopped with {status}", self.number);
                Ok(())
            }
            Err(_) => bail!("node {} did not stop in {PATIENCE:?}", self.number),
        }
    }

    pub(super) fn client_address(&self) -> String {
        format!("127.0.0.1:{}", self.ports[0])
    }

    pub(super) fn http_address(&self) -> String {
        format!("127.0.0.1:{}", self.ports[2])
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// Memory of the process that is in RAM.
    pub(super) fn resident_bytes(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()?)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kib << 10)
    }
}
