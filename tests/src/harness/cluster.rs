//! Several nodes that belong together, and what tests want to know about them.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use flotilla_proto::v1::{self, NodeState, PeerRole};

use super::{Builder, Node, Scratch, Session, Start, Turn, eventually, say};

/// Longest time from the first process to a cluster with all its peers, on a busy machine.
const FORM: Duration = Duration::from_secs(60);

/// The nodes of one test. See the module for what happens when it goes out of scope.
pub struct Cluster {
    /// In the order in which they were made. Index, not node id.
    pub nodes: Vec<Node>,
    program: PathBuf,
    arguments: Vec<String>,
    allowed: Vec<String>,
    scratch: Scratch,
    // Last, so that the next test starts when everything above is gone.
    _turn: Turn,
}

impl Cluster {
    pub(super) fn assemble(
        turn: Turn,
        scratch: Scratch,
        nodes: Vec<Node>,
        program: PathBuf,
        arguments: Vec<String>,
        allowed: Vec<String>,
    ) -> Self {
        Self { nodes, program, arguments, allowed, scratch, _turn: turn }
    }

    /// A running cluster with the harness's ordinary settings.
    pub async fn start(nodes: usize) -> Self {
        Builder::new(nodes).start().await
    }

    /// Starts all nodes: the first initializes the cluster, the others join it. Returns when every
    /// region has as many voters as there are nodes (up to the replication factor).
    ///
    /// # Panics
    /// When that takes too long.
    pub async fn form(&mut self) {
        for index in 0..self.nodes.len() {
            let start = match index {
                0 => Start::Init,
                _ => Start::Join(vec![self.nodes[0].client_address()]),
            };
            self.nodes[index].launch(start);
        }
        for node in &mut self.nodes {
            node.bound(FORM).await;
        }
        self.wait_whole(FORM).await;
    }

    /// Starts all nodes by one command, as nodes that make a cluster together. Waits for nothing.
    pub fn launch_together(&mut self) {
        let start = Start::Together(self.addresses());
        for node in &mut self.nodes {
            node.launch(start.clone());
        }
    }

    /// A directory for the test's own files.
    #[must_use]
    pub fn scratch(&self) -> &std::path::Path {
        self.scratch.path()
    }

    /// Expects ERROR lines that hold `part` from here on.
    pub fn allow(&mut self, part: &str) {
        self.allowed.push(part.to_owned());
    }

    /// One more node with an empty disk, not started; its index.
    pub fn prepare_node(&mut self) -> usize {
        let name = format!("node-{}", self.nodes.len() + 1);
        let (program, arguments) = (self.program.clone(), self.arguments.clone());
        self.nodes.push(Node::new(name, self.scratch.path(), program, arguments));
        self.nodes.len() - 1
    }

    /// One more node, started with `--join` of the others; its index.
    pub fn join_node(&mut self) -> usize {
        let start = Start::Join(self.addresses());
        let index = self.prepare_node();
        self.nodes[index].launch(start);
        index
    }

    /// Client addresses of all nodes, dead or alive.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(Node::client_address).collect()
    }

    /// A client for each node.
    #[must_use]
    pub fn sessions(&self) -> Vec<Session> {
        self.nodes.iter().map(Node::session).collect()
    }

    /// What an operator does about a broken disk: puts an empty one in, and removes the old node, which
    /// makes its address free for a new one.
    ///
    /// # Panics
    /// When that takes too long.
    pub async fn replace_disk(&mut self, victim: usize) {
        const BOUND: Duration = Duration::from_secs(60);
        let address = self.nodes[victim].client_address();
        let mut helpers = self.sessions();
        helpers.remove(victim);
        let helper = helpers.remove(0);
        let nodes = eventually("the node table", BOUND, async || helper.nodes().await).await.nodes;
        let old = nodes.iter().rev().find(|node| node.client_address == address);
        let old_id = old.expect("it was a member").node_id;

        self.nodes[victim].kill9();
        self.nodes[victim].wipe();
        let join = self.addresses().into_iter().filter(|other| *other != address).collect();
        self.nodes[victim].launch(Start::Join(join));
        eventually("the old identity to be removed", BOUND, async || {
            let message =
                v1::RemoveNodeRequest { node_id: old_id, force: true, expected_version: None };
            let answer = helper.cluster.clone().remove_node(helper.request(message)).await;
            let answer = answer.map_err(|status| status.to_string())?.into_inner();
            let removed = answer.state == i32::from(NodeState::Removed);
            if removed { Ok(()) } else { Err(format!("{answer:?}")) }
        })
        .await;
        self.node_id(victim).await;
    }

    /// The node id that the cluster gave a running node.
    ///
    /// # Panics
    /// When the node does not answer.
    pub async fn node_id(&self, index: usize) -> u64 {
        let session = self.nodes[index].session();
        let what = format!("{} to tell its id", self.nodes[index].name());
        eventually(&what, Duration::from_secs(20), async || {
            let status = session.status().await.map_err(|error| error.to_string())?;
            if status.node_id == 0 { Err("not joined".to_owned()) } else { Ok(status.node_id) }
        })
        .await
    }

    /// The index of the node that leads the region of `key`, as `witness` sees it.
    ///
    /// # Panics
    /// When no leader is known within a bound.
    pub async fn leader(&mut self, key: &[u8]) -> usize {
        let addresses = self.addresses();
        let running = self.running();
        let sessions: Vec<Session> =
            running.iter().map(|index| self.nodes[*index].session()).collect();
        let key = bytes::Bytes::copy_from_slice(key);
        let address = eventually("a leader", Duration::from_secs(20), async || {
            let mut last = "nobody runs".to_owned();
            for session in &sessions {
                let message = v1::LocateRequest { keyspace: 0, keys: vec![key.clone()] };
                match session.cluster.clone().locate(session.request(message)).await {
                    Ok(answer) => {
                        let regions = answer.into_inner().regions;
                        let leader = regions.into_iter().next().and_then(|region| region.leader);
                        match leader {
                            Some(leader) if addresses.contains(&leader.client_address) => {
                                return Ok(leader.client_address);
                            }
                            other => last = format!("leader as seen: {other:?}"),
                        }
                    }
                    Err(error) => last = error.to_string(),
                }
            }
            Err(last)
        })
        .await;
        addresses.iter().position(|other| *other == address).expect("it was looked for in there")
    }

    /// Indexes of the nodes whose processes are there.
    pub fn running(&mut self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|index| self.nodes[*index].is_running()).collect()
    }

    /// Kills all processes at the same moment.
    pub fn kill9_all(&mut self) {
        for node in &mut self.nodes {
            node.shoot();
        }
        for node in &mut self.nodes {
            node.kill9();
        }
    }

    /// Starts every node that is down, as it was started last.
    pub fn relaunch_all(&mut self) {
        for node in &mut self.nodes {
            if !node.is_running() {
                node.kill9();
                node.relaunch();
            }
        }
    }

    /// Waits until every running node says that it is ready, every region has its voters and a
    /// leader, and nothing is half done.
    ///
    /// # Panics
    /// When that takes longer than `bound`.
    pub async fn wait_whole(&mut self, bound: Duration) {
        assert!(!self.running().is_empty(), "no node runs");
        let sessions = self.sessions();
        let whole = super::within(bound, async || {
            // One that ends meanwhile is not waited for; if nobody expected that, it fails the test later.
            let running = self.running();
            if running.is_empty() {
                return Err("no node runs any more".to_owned());
            }
            for index in &running {
                whole_as_seen_by(&sessions[*index], running.len()).await?;
            }
            Ok::<(), String>(())
        })
        .await;
        if let Err(last) = whole {
            panic!("the cluster is not whole within {bound:?}: {last}");
        }
    }

    /// Waits until a write and a linearizable read work through every running node.
    ///
    /// # Panics
    /// When that takes longer than `bound`.
    pub async fn wait_serving(&mut self, bound: Duration) {
        for index in self.running() {
            let session = self.nodes[index].session().patient(Duration::from_secs(2));
            let what = format!("{} to serve", self.nodes[index].name());
            eventually(&what, bound, async || {
                let key = format!("harness/serving/{index}");
                session.put(key.clone(), "yes").await.map_err(|error| error.to_string())?;
                session.get(key).await.map_err(|error| error.to_string())
            })
            .await;
        }
    }

    /// What is wrong although no assertion failed, and the logs of it.
    fn faults(&mut self) -> Vec<String> {
        let allowed = self.allowed.clone();
        self.nodes.iter_mut().flat_map(|node| node.faults(&allowed)).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let faults = self.faults();
        let failing = std::thread::panicking();
        for node in &mut self.nodes {
            node.shoot();
        }
        for node in &mut self.nodes {
            node.kill9();
        }
        if !failing && faults.is_empty() {
            return;
        }
        for node in &self.nodes {
            say(format!("--- last lines of {}\n{}", node.name(), node.output_tail(15)));
        }
        let kept = self.scratch.keep();
        let place = kept.map(|path| path.display().to_string()).unwrap_or_default();
        say(format!("the test failed; its files are in {place}"));
        let text = faults.join("\n");
        assert!(failing, "nobody expected this of the servers:\n{text}");
        say(text);
    }
}

/// Whether one node sees a cluster that lacks nothing. `running` bounds the voters of a region.
async fn whole_as_seen_by(session: &Session, running: usize) -> Result<(), String> {
    let seen = |error: tonic::Status| format!("{}: {error}", session.address);
    let status = session.status().await.map_err(seen)?;
    let complaints = [&status.not_ready_reasons[..], &status.warnings[..]].concat();
    if !status.ready || !complaints.is_empty() {
        return Err(format!("{} is not whole: {complaints:?}", session.address));
    }
    let table = session.nodes().await.map_err(seen)?;
    let up: BTreeSet<u64> = table
        .nodes
        .iter()
        .filter(|node| node.state == i32::from(NodeState::Up))
        .map(|node| node.node_id)
        .collect();
    if up.len() < running {
        return Err(format!("{}: only {up:?} of {running} nodes are up", session.address));
    }
    let voters_wanted = (table.replication_factor as usize).min(running);
    let regions = session.regions().await.map_err(seen)?;
    if regions.len() < 2 {
        return Err(format!("{} knows {} regions", session.address, regions.len()));
    }
    for info in regions {
        let region = info.region.ok_or("a region without a descriptor")?;
        let id = region.region_id;
        let leader = info.leader.map(|leader| leader.node_id).unwrap_or_default();
        if !up.contains(&leader) {
            return Err(format!("{}: region {id} has no leader", session.address));
        }
        let voters = region.peers.iter().filter(|peer| peer.role == i32::from(PeerRole::Voter));
        let (voters, peers) = (voters.count(), region.peers.len());
        if voters < voters_wanted || voters != peers {
            let text = format!("{voters} voters of {voters_wanted}, {peers} peers");
            return Err(format!("{}: region {id} has {text}", session.address));
        }
    }
    Ok(())
}
