//! Putting a cluster together.

use std::path::PathBuf;

use super::{Cluster, Node, Scratch, Turn, binary};

/// What a cluster is made with.
pub struct Builder {
    nodes: usize,
    arguments: Vec<String>,
    allowed: Vec<String>,
    program: PathBuf,
}

impl Builder {
    /// A cluster of `nodes` with fast elections, and everything else as a user gets it.
    #[must_use]
    pub fn new(nodes: usize) -> Self {
        let builder = Self {
            nodes,
            arguments: Vec::new(),
            allowed: Vec::new(),
            program: binary("flotilla-server"),
        };
        builder
            .set("raft.heartbeat_interval", "100ms")
            .set("raft.election_timeout_min", "500ms")
            .set("raft.election_timeout_max", "1s")
            .set("placement.interval", "200ms")
            // A file of up to a gigabyte for each node of each test would only cost time.
            .set("disk.ballast_bytes", "1MiB")
    }

    /// Passes `--set key=value` to every node.
    #[must_use]
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.arguments.push("--set".to_owned());
        self.arguments.push(format!("{key}={value}"));
        self
    }

    /// Expects ERROR lines that hold `part`.
    #[must_use]
    pub fn allow(mut self, part: &str) -> Self {
        self.allowed.push(part.to_owned());
        self
    }

    /// Runs another program than `flotilla-server`, such as the one with failpoints.
    #[must_use]
    pub fn program(mut self, name: &str) -> Self {
        self.program = binary(name);
        self
    }

    /// The nodes, without a process yet.
    pub async fn prepare(self) -> Cluster {
        let turn = Turn::take().await;
        let scratch = Scratch::new();
        let nodes = (1..=self.nodes)
            .map(|number| {
                let name = format!("node-{number}");
                let arguments = self.arguments.clone();
                let mut node = Node::new(name, scratch.path(), self.program.clone(), arguments);
                if number % 2 == 0 {
                    // On a small machine others serve clients beside the regions.
                    node.set("runtime.api_threads", "1");
                }
                node
            })
            .collect();
        Cluster::assemble(turn, scratch, nodes, self.program, self.arguments, self.allowed)
    }

    /// A running cluster; see [`Cluster::form`].
    ///
    /// # Panics
    /// When that takes too long.
    pub async fn start(self) -> Cluster {
        let mut cluster = self.prepare().await;
        cluster.form().await;
        cluster
    }
}
