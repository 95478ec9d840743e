//! One server process and its disk.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use super::{Session, eventually, log_lines, log_lines::is_panic, ports::free_port};

/// How a process is started.
#[derive(Clone, Debug)]
pub enum Start {
    /// `--init`.
    Init,
    /// `--join` these client addresses.
    Join(Vec<String>),
    /// `--bootstrap-expect` as many as there are client addresses, and `--join` these.
    Together(Vec<String>),
    /// Neither: an empty disk waits for somebody to add it.
    Alone,
}

/// One server process with its disk, its ports and its output.
///
/// The ports are chosen once and kept over restarts.
pub struct Node {
    name: String,
    program: PathBuf,
    data_dir: PathBuf,
    log_dir: PathBuf,
    ports: [u16; 3],
    behind_proxy: bool,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    start: Start,
    child: Option<Child>,
    outputs: Vec<Output>,
}

impl Node {
    /// A node that is not running yet. Its disk will be `directory/name`.
    pub(super) fn new(
        name: String,
        directory: &Path,
        program: PathBuf,
        arguments: Vec<String>,
    ) -> Self {
        Self {
            data_dir: directory.join(&name),
            log_dir: directory.to_path_buf(),
            name,
            program,
            ports: [free_port(), free_port(), free_port()],
            behind_proxy: false,
            arguments,
            environment: Vec::new(),
            start: Start::Alone,
            child: None,
            outputs: Vec::new(),
        }
    }

    /// Starts the process and does not wait for it.
    ///
    /// # Panics
    /// When it runs already or cannot be started.
    pub fn launch(&mut self, start: Start) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let path = self.log_dir.join(format!("{}.{}.log", self.name, self.outputs.len() + 1));
        let output = File::create(&path).expect("make the file for a server's output");
        // Left by the launch before; what is waited for must be this launch's.
        let _ = fs::remove_file(self.data_dir.join("addresses.json"));
        let mut command = Command::new(&self.program);
        command
            .arg("--data-dir")
            .arg(&self.data_dir)
            .args(["--client-addr", &self.address(0)])
            .args(["--peer-addr", &self.peer_bound().to_string()])
            .args(["--http-addr", &self.address(2)])
            .args(["--advertise-host", "127.0.0.1"])
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            // Settings of the person who runs the tests are not meant for these servers.
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("share the file of a server's output"))
            .stderr(output);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("FLOTILLA_") {
                command.env_remove(name);
            }
        }
        match &start {
            Start::Init => {
                command.arg("--init");
            }
            Start::Join(addresses) => {
                command.args(["--join", &addresses.join(",")]);
            }
            Start::Together(addresses) => {
                command
                    .args(["--bootstrap-expect", &addresses.len().to_string()])
                    .args(["--join", &addresses.join(",")]);
            }
            Start::Alone => {}
        }
        self.start = start;
        self.outputs.push(Output { path, may_exit: false });
        self.child = Some(command.spawn().expect("start a server"));
    }

    /// Starts the process as it was started last.
    pub fn relaunch(&mut self) {
        self.launch(self.start.clone());
    }

    /// Takes other ports from the next launch on.
    pub fn move_away(&mut self) {
        self.ports = [free_port(), free_port(), free_port()];
    }

    /// Takes any free ports at the next launch. Where it listens is then told by [`Node::bound`] only.
    pub fn use_any_ports(&mut self) {
        self.ports = [0; 3];
    }

    /// Listens at later launches where another node does: for clients, for peers, or for HTTP.
    pub fn use_port_of(&mut self, other: &Self, which: usize) {
        self.ports[which] = other.ports[which];
    }

    /// Changes where the disk is, for a test that mounts or copies one. Only while stopped.
    pub fn set_data_dir(&mut self, directory: PathBuf) {
        assert!(self.child.is_none(), "{} runs", self.name);
        self.data_dir = directory;
    }

    /// Adds `--set key=value` to later launches; a later value wins.
    pub fn set(&mut self, key: &str, value: &str) {
        self.arguments.push("--set".to_owned());
        self.arguments.push(format!("{key}={value}"));
    }

    /// Sets a variable of the environment of later launches.
    pub fn env(&mut self, name: &str, value: &str) {
        self.environment.retain(|(other, _)| other != name);
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Makes later launches stand still for ever at a failpoint, once it was passed `passes` times.
    /// Killed there, the process leaves exactly what a crash at that line leaves. Needs the program
    /// with failpoints.
    pub fn stand_still_at(&mut self, failpoint: &str, passes: u32) {
        self.env("FAILPOINTS", &format!("{failpoint}={passes}*off->pause"));
    }

    /// Takes [`Node::stand_still_at`] back.
    pub fn go_on(&mut self) {
        self.environment.retain(|(name, _)| name != "FAILPOINTS");
    }

    /// Its name in the test's directory.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `host:port` for clients.
    #[must_use]
    pub fn client_address(&self) -> String {
        self.address(0)
    }

    /// `host:port` for other nodes.
    #[must_use]
    pub fn peer_address(&self) -> String {
        self.address(1)
    }

    /// `host:port` of HTTP.
    #[must_use]
    pub fn http_address(&self) -> String {
        self.address(2)
    }

    /// Makes later launches listen for other nodes where they do not dial: they dial
    /// [`Node::peer_address`], where a proxy has to be.
    pub fn put_behind_proxy(&mut self) {
        self.behind_proxy = true;
    }

    /// Where it listens for other nodes.
    #[must_use]
    pub fn peer_bound(&self) -> SocketAddr {
        let last = if self.behind_proxy { 2 } else { 1 };
        SocketAddr::from(([127, 0, 0, last], self.ports[1]))
    }

    fn address(&self, which: usize) -> String {
        format!("127.0.0.1:{}", self.ports[which])
    }

    /// The root of its disk.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// A client that speaks to this node only.
    #[must_use]
    pub fn session(&self) -> Session {
        Session::new(&self.client_address())
    }

    /// Whether the process is there (also when it is paused).
    pub fn is_running(&mut self) -> bool {
        match &mut self.child {
            Some(child) => matches!(child.try_wait(), Ok(None)),
            None => false,
        }
    }

    /// Ends the process at once, as a power cut would as far as the process can tell, and waits
    /// until the system has reaped it.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Fails only when it has ended by itself, which `wait` then reports.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends `kill -9` without waiting, so that several nodes can be hit at the same moment.
    /// [`Node::kill9`] must follow.
    pub fn shoot(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
        }
    }

    /// Asks the process to stop (SIGTERM) and waits for its exit status.
    ///
    /// # Panics
    /// When it is not running or has not stopped within `bound`.
    pub async fn terminate(&mut self, bound: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        self.exited(bound).await
    }

    /// Waits until the process ends by itself.
    ///
    /// # Panics
    /// When it was not started, or still runs after `bound`.
    pub async fn exited(&mut self, bound: Duration) -> ExitStatus {
        let mut child = self.child.take().expect("only a started process can end");
        let name = self.name.clone();
        let ended = super::within(bound, async || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("still running".to_owned()),
            Err(error) => Err(error.to_string()),
        })
        .await;
        match ended {
            Ok(status) => status,
            Err(last) => {
                self.child = Some(child);
                panic!("{name} did not stop within {bound:?}: {last}");
            }
        }
    }

    /// Freezes the process (SIGSTOP): it holds its ports and answers nothing.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets a frozen process go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("only a running process can be signalled");
        kill_process(Pid::from_child(child), signal).expect("signal a server");
    }

    /// Removes everything on the disk. Only while stopped.
    ///
    /// # Panics
    /// When the process runs or a file cannot be removed.
    pub fn wipe(&mut self) {
        assert!(self.child.is_none(), "{} runs", self.name);
        if self.data_dir.exists() {
            fs::remove_dir_all(&self.data_dir).expect("wipe a disk");
        }
    }

    /// Physical memory in use, in bytes.
    ///
    /// # Panics
    /// When the process is not running.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let id = self.child.as_ref().expect("only a running process has memory").id();
        memory_line(id, "VmRSS:")
    }

    /// The most physical memory the process has ever used, in bytes.
    ///
    /// # Panics
    /// When the process is not running.
    #[must_use]
    pub fn memory_peak_bytes(&self) -> u64 {
        let id = self.child.as_ref().expect("only a running process has memory").id();
        memory_line(id, "VmHWM:")
    }

    /// Waits until the ports are bound, as the node tells by writing `addresses.json`, and answers
    /// what it wrote.
    ///
    /// # Panics
    /// When it ends or does not get there within `bound`.
    pub async fn bound(&mut self, bound: Duration) -> serde_json::Value {
        let path = self.data_dir.join("addresses.json");
        let name = self.name.clone();
        let answer = eventually(&format!("{name} to bind its ports"), bound, async || {
            if !self.is_running() {
                return Ok(None);
            }
            let bytes = fs::read(&path).map_err(|error| error.to_string())?;
            serde_json::from_slice(&bytes).map(Some).map_err(|error| error.to_string())
        })
        .await;
        answer.unwrap_or_else(|| panic!("{name} ended before it was up:\n{}", self.output_tail(30)))
    }

    /// The last lines it wrote in its last launch.
    #[must_use]
    pub fn output_tail(&self, lines: usize) -> String {
        let last = self.outputs.last();
        last.map(|output| log_lines::tail(&output.path, lines)).unwrap_or_default()
    }

    /// Everything it wrote in its last launch.
    #[must_use]
    pub fn output(&self) -> String {
        self.output_tail(usize::MAX)
    }

    /// Says that the process may end by itself until its next launch, and may say why. A panic is
    /// still wrong.
    ///
    /// # Panics
    /// When it was never launched.
    pub fn expect_exit(&mut self) {
        self.outputs.last_mut().expect("only a launched node can be expected to end").may_exit =
            true;
    }

    /// What is wrong with the node at the end of a test: it ended by itself, or it complained.
    pub(super) fn faults(&mut self, allowed: &[String]) -> Vec<String> {
        let mut faults = Vec::new();
        let may_exit = self.outputs.last().is_some_and(|output| output.may_exit);
        if let Some(child) = &mut self.child
            && let Ok(Some(status)) = child.try_wait()
            && !may_exit
        {
            faults.push(format!("{} ended by itself: {status}", self.name));
        }
        for Output { path, may_exit } in &self.outputs {
            let complaints = log_lines::complaints(path, allowed);
            let wrong = complaints.into_iter().filter(|line| !may_exit || is_panic(line));
            faults.extend(wrong.take(5).map(|line| format!("{}: {line}", path.display())));
        }
        faults
    }
}

/// What one launch wrote.
struct Output {
    path: PathBuf,
    /// The test expects that this launch ends by itself.
    may_exit: bool,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// One line of `/proc/<id>/status`, in bytes.
fn memory_line(id: u32, label: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).expect("read a process's state");
    let line = status.lines().find(|line| line.starts_with(label)).expect("the kernel writes it");
    let kibibytes = line.split_whitespace().nth(1).expect("a number follows the label");
    kibibytes.parse::<u64>().expect("the kernel writes whole numbers") * 1024
}
