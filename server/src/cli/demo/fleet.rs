//! All nodes of the demo, and a client for each.

use std::{path::Path, time::Duration};

use anyhow::ensure;

use super::{
    process::{Ports, Server},
    screen::say,
    session::Session,
};
use crate::world::clock;

/// How long a stopping node may take, before it is killed: its own grace and a little.
const STOP: Duration = Duration::from_secs(6);

pub(super) struct Fleet {
    pub(super) servers: Vec<Server>,
    /// One for each server, in the same order.
    pub(super) sessions: Vec<Session>,
}

impl Fleet {
    /// Nodes with empty disks in `place` and free ports. None runs yet.
    ///
    /// # Errors
    /// When there are not enough free ports.
    pub(super) fn new(count: usize, place: &Path) -> anyhow::Result<Self> {
        let ports = Ports::free(count)?;
        let addresses: Vec<String> = ports.iter().map(|ports| ports.client()).collect();
        let numbered = (1..).zip(ports);
        let servers: Vec<_> = numbered
            .map(|(number, ports)| Server::new(number, ports, place, addresses.clone()))
            .collect();
        let sessions = servers.iter().map(|server| Session::new(server.ports.client())).collect();
        Ok(Self { servers, sessions })
    }

    /// Which server the cluster calls `node_id`.
    pub(super) fn index_of(&self, node_id: u64) -> Option<usize> {
        self.servers.iter().position(|server| server.node_id == node_id && node_id != 0)
    }

    /// Clients of all nodes but one.
    pub(super) fn sessions_without(&self, index: usize) -> Vec<Session> {
        let others = self.sessions.iter().enumerate().filter(|(other, _)| *other != index);
        others.map(|(_, session)| session.clone()).collect()
    }

    /// # Errors
    /// When a node has ended by itself.
    pub(super) fn expect_all_running(&mut self) -> anyhow::Result<()> {
        for server in &mut self.servers {
            if let Some(status) = server.ended() {
                anyhow::bail!("node {} ended by itself: {status}", server.number);
            }
            ensure!(server.is_running(), "node {} does not run", server.number);
        }
        Ok(())
    }

    /// Stops all nodes in order.
    pub(super) async fn stop(&mut self) {
        self.servers.iter().for_each(Server::terminate);
        let deadline = clock::now() + STOP;
        while clock::now() < deadline {
            for server in &mut self.servers {
                let _ = server.ended(); // asking reaps it
            }
            if !self.servers.iter().any(Server::is_running) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.kill();
    }

    /// Ends all nodes at once.
    pub(super) fn kill(&mut self) {
        self.servers.iter_mut().for_each(Server::kill);
    }

    /// The ends of the nodes' logs.
    pub(super) fn say_last_words(&self) {
        for server in &self.servers {
            say("", "");
            say(&format!("node {}", server.number), "its log ends with");
            server.last_words(8).iter().for_each(|line| say("", line));
        }
    }
}
