//! A server process, and three of them that make a cluster.

use std::{
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time;

use super::{api::Api, progress};
use crate::harness::within;

/// Bound: how long a cluster may take until it serves. Then starting it is an error.
const START_WAIT: Duration = Duration::from_secs(60);
/// Bound: how long a server may take to stop when asked. Then it is killed.
const STOP_WAIT: Duration = Duration::from_secs(20);
/// Bound: how long one question about the start may take.
const ASK_WAIT: Duration = Duration::from_secs(5);
/// Lines of a server's log in the error about it.
const LOG_LINES: usize = 15;

/// A running server. Dropping it kills it.
pub struct Server {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts a program; what it prints goes to `<dir>/<name>.log`.
    pub fn start(name: &str, mut command: Command, dir: &Path) -> anyhow::Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let output = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("share the log file")?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("start {}", command.get_program().to_string_lossy()))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Errors when the server has ended.
    fn check(&mut self) -> anyhow::Result<()> {
        let ended = self.child.try_wait().context("look at a server")?;
        let Some(status) = ended else { return Ok(()) };
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
        anyhow::bail!("{} ended by itself ({status}); its last words:\n{tail}", self.name)
    }

    /// Asks the server to end and waits for it.
    async fn stop(mut self) -> anyhow::Result<()> {
        self.check()?;
        kill_process(Pid::from_child(&self.child), Signal::TERM).context("ask a server to end")?;
        let ended = within(STOP_WAIT, async || match self.child.try_wait() {
            Ok(None) => Err("it still runs"),
            ended => Ok(ended),
        })
        .await;
        match ended {
            Ok(ended) => ended.map(drop).context("wait for a server")?,
            Err(_) => {
                progress::tell(format_args!("{} does not end when asked; killing it", self.name));
            }
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Three servers that serve. Dropping it kills them and removes their data.
pub struct Cluster {
    pub api: Api,
    /// `host:port` of each server's port for clients.
    pub endpoints: Vec<String>,
    servers: Vec<Server>,
    dir: PathBuf,
}

impl Cluster {
    /// A cluster without servers yet, with an empty directory of its own below `parent`.
    pub(super) fn empty(api: Api, parent: &Path) -> anyhow::Result<Self> {
        let dir = parent.join(api.name());
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| format!("empty {}", dir.display()))?;
        }
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        Ok(Self { api, endpoints: Vec::new(), servers: Vec::new(), dir })
    }

    /// Where the servers keep their data.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn start(
        &mut self,
        name: &str,
        command: Command,
        endpoint: String,
    ) -> anyhow::Result<()> {
        self.servers.push(Server::start(name, command, &self.dir)?);
        self.endpoints.push(endpoint);
        Ok(())
    }

    pub fn pids(&self) -> Vec<u32> {
        self.servers.iter().map(Server::pid).collect()
    }

    /// Errors when a server has ended, with what it printed last.
    pub fn check(&mut self) -> anyhow::Result<()> {
        self.servers.iter_mut().try_for_each(Server::check)
    }

    /// Asks again and again until `ready` has an answer.
    ///
    /// # Errors
    ///
    /// When a server ends, or there is none within [`START_WAIT`]; with the last reason.
    pub(super) async fn until<T>(
        &mut self,
        what: &str,
        mut ready: impl AsyncFnMut(&[String]) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let answer = within(START_WAIT, async || {
            // A server that has ended will not answer however long it is asked.
            if let Err(ended) = self.check() {
                return Ok(Err(ended));
            }
            match time::timeout(ASK_WAIT, ready(&self.endpoints)).await {
                Ok(Ok(answer)) => Ok(Ok(answer)),
                Ok(Err(error)) => Err(format!("{error:#}")),
                Err(_) => Err(format!("no answer within {ASK_WAIT:?}")),
            }
        })
        .await;
        answer.unwrap_or_else(|last| {
            Err(anyhow::anyhow!(last).context(format!("{what}, after {START_WAIT:?}")))
        })
    }

    /// Ends the servers and removes their data.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        for server in self.servers.drain(..) {
            server.stop().await?;
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.servers.clear();
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            progress::tell(format_args!("cannot remove {}: {error}", self.dir.display()));
        }
    }
}

/// Ports of the loopback interface that nothing listens on now.
pub(super) fn free_ports<const COUNT: usize>() -> anyhow::Result<[u16; COUNT]> {
    let mut held = Vec::with_capacity(COUNT);
    let mut ports = [0; COUNT];
    for port in &mut ports {
        let listener = TcpListener::bind("127.0.0.1:0").context("find a free port")?;
        *port = listener.local_addr().context("find a free port")?.port();
        // Held until all are found, so that none comes twice.
        held.push(listener);
    }
    Ok(ports)
}
