//! The membership calls, on the driver.

use std::time::Duration;

use flotilla_proto::{
    clients,
    v1::{self, pass_request::Call, pass_response::Answer},
};

use super::{
    super::{
        config, evictions,
        membership::{self, AddLearner, Decision},
        plan, tables,
        view::NodeView,
    },
    Driver, Leading, Turn,
};
use crate::{
    error::Error,
    ids::{NodeId, RegionId},
    world::dial,
};

/// Bound: one question to a node that wants to join.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);
/// Version of this driver, which a joining node must be able to work with.
const VERSION: &str = env!("CARGO_PKG_VERSION");

impl Driver {
    /// Serves a membership call if this node leads region 1; `None` when it does not.
    ///
    /// # Errors
    /// As the calls of `flotilla.v1.Cluster`.
    pub async fn call(&self, call: Call) -> Result<Option<Answer>, Error> {
        // What is changed in its turn is decided there on a table that is known.
        let only_looks =
            matches!(call, Call::EvictLeaders(_) | Call::ListNodes(_) | Call::JudgeTransfer(_));
        if only_looks {
            if self.lead().await.is_err() {
                return Ok(None);
            }
            self.know_table().await?;
        }
        if self.prove_lead().await.is_err() {
            return Ok(None);
        }
        if matches!(call, Call::EvictLeaders(_) | Call::ListNodes(_)) {
            self.all_heard().await;
        }
        Ok(Some(match call {
            Call::AddLearner(request) => Answer::AddLearner(self.add_learner(request).await?),
            Call::ChangeMembership(request) => {
                let version = self
                    .decide(|leading| membership::change_membership(leading.view.table(), &request))
                    .await?;
                Answer::ChangeMembership(v1::ChangeMembershipResponse { version })
            }
            Call::RemoveNode(request) => {
                self.decide(|leading| {
                    membership::remove_node(&leading.view, &request, &self.config, self.now_ms())
                })
                .await?;
                Answer::RemoveNode(self.with(|leading| {
                    membership::removal(&leading.view, NodeId(request.node_id))
                })??)
            }
            Call::CancelRemoveNode(request) => {
                let version = self
                    .decide(|leading| {
                        membership::cancel_remove_node(leading.view.table(), &request)
                    })
                    .await?;
                let state = self.with(|leading| {
                    let record = leading.view.record(NodeId(request.node_id));
                    record.map_or(v1::NodeState::Unspecified, v1::NodeRecord::state)
                })?;
                Answer::CancelRemoveNode(v1::CancelRemoveNodeResponse {
                    state: state.into(),
                    version,
                })
            }
            Call::EvictLeaders(request) => {
                let (node, duration) = self
                    .with(|leading| membership::evict_leaders(leading.view.table(), &request))??;
                // Ordering: from the row on whoever drives next keeps the promise, too.
                self.propose(evictions::evict(node, duration)).await?;
                Answer::EvictLeaders(self.with(|leading| {
                    let until_ms = self.now_ms() + config::millis(duration);
                    leading.view.evict_leaders(node, until_ms);
                    let (_, leaders) = leading.view.left_on(node);
                    let leaders_left = u32::try_from(leaders).unwrap_or(u32::MAX);
                    v1::EvictLeadersResponse { leaders_left }
                })?)
            }
            Call::JudgeTransfer(request) => {
                let why_not = self.with(|leading| {
                    let (region, node) = (RegionId(request.region_id), NodeId(request.to_node_id));
                    plan::would_lose_lead(&leading.view, region, node, &self.config, self.now_ms())
                })?;
                let why_not = why_not.unwrap_or_default().to_owned();
                Answer::JudgeTransfer(v1::JudgeTransferResponse { why_not })
            }
            Call::ListNodes(request) => {
                Answer::ListNodes(self.with(|leading| self.list_nodes(leading, &request))?)
            }
        }))
    }

    /// Decides on a change of the table in its turn, and carries it out; the table's version then.
    async fn decide(
        &self,
        decide: impl FnOnce(&mut Leading) -> Result<Decision, Error>,
    ) -> Result<u64, Error> {
        let mut turn = self.turn().await?;
        let decision = self.with(decide)??;
        self.carry_out(&mut turn, decision).await
    }

    fn list_nodes(
        &self,
        leading: &Leading,
        request: &v1::ListNodesRequest,
    ) -> v1::ListNodesResponse {
        let table = leading.view.table();
        let mut obstacles = plan::obstacles(&leading.view, &self.config, self.now_ms());
        let mut told = |node: &NodeView| v1::Node {
            waits_for: obstacles.remove(&node.id()).unwrap_or_default(),
            ..node.to_node()
        };
        v1::ListNodesResponse {
            cluster_id: hex(&table.cluster_id),
            version: table.version,
            nodes: leading
                .view
                .nodes(&self.config, self.now_ms())
                .values()
                .filter(|node| request.all || node.state() != v1::NodeState::Removed)
                .map(&mut told)
                .collect(),
            replication_factor: table.replication_factor,
            told_by_node: 0,
        }
    }

    /// Dials the node first, so that nothing is written for an address that is not one; then enters
    /// it, hands it its identity, and notes that it has it. Nobody waits for a node that hangs but
    /// the caller.
    async fn add_learner(
        &self,
        request: v1::AddLearnerRequest,
    ) -> Result<v1::AddLearnerResponse, Error> {
        membership::check_address("address", &request.address)?;
        let status = ask_status(&request.address).await?;
        self.check_place(&request.address, &status).await?;
        let (node, adopts) = self.enter(&request, &status).await?;
        if adopts {
            self.adopt(node, &status).await?;
        }
        let version = self
            .decide(|leading| {
                // Who was a member before this call is one, also when it drains.
                let joining = leading.view.record(node).map(v1::NodeRecord::state)
                    == Some(v1::NodeState::Joining);
                if joining || adopts {
                    membership::confirm(leading.view.table(), node)
                } else {
                    Ok(Decision::Nothing)
                }
            })
            .await?;
        Ok(v1::AddLearnerResponse { node_id: node.0, version })
    }

    /// Refuses an empty disk that only says that it is at a member's address. Whose address it has is taken for
    /// lost with its disk, and given up for ever, so the disk must be found there.
    async fn check_place(&self, asked: &str, status: &v1::StatusResponse) -> Result<(), Error> {
        let own = &status.client_address;
        if !self.with(|leading| membership::only_says_where(leading.view.table(), asked, status))? {
            return Ok(());
        }
        let refused = |why: String| Error::FailedPrecondition {
            message: format!(
                "the node at {asked} says that it is at {own}, the address of a member, and there {why}"
            ),
        };
        let there = ask_status(own).await.map_err(|error| refused(error.to_string()))?;
        if there.disk_id == status.disk_id {
            Ok(())
        } else {
            Err(refused("another disk answers".to_owned()))
        }
    }

    /// The node's id, and whether it must be handed its identity.
    async fn enter(
        &self,
        request: &v1::AddLearnerRequest,
        status: &v1::StatusResponse,
    ) -> Result<(NodeId, bool), Error> {
        let mut turn = self.turn().await?;
        let next = || {
            self.with(|leading| {
                membership::add_learner(leading.view.table(), request, status, VERSION)
            })?
        };
        let mut decided = next()?;
        if let AddLearner::Replace { lost } = decided {
            self.give_up(&mut turn, lost, &request.address).await?;
            decided = next()?;
        }
        match decided {
            AddLearner::Known { node } | AddLearner::Confirm { node } => Ok((node, false)),
            AddLearner::Adopt { node } => Ok((node, true)),
            AddLearner::Join { record } => Ok((self.join(&mut turn, record).await?, true)),
            AddLearner::Replace { lost } => Err(Error::Internal {
                message: format!("node {lost} was given up and holds its address"),
            }),
        }
    }

    /// Gives up a node at whose address an empty disk answers, as one whose volume is lost: its number and
    /// what it held are gone, and its regions make new peers elsewhere, if they have a quorum without it.
    async fn give_up(&self, turn: &mut Turn<'_>, lost: NodeId, address: &str) -> Result<(), Error> {
        let request =
            v1::RemoveNodeRequest { node_id: lost.0, force: true, expected_version: None };
        let decided = self.with(|leading| {
            membership::remove_node(&leading.view, &request, &self.config, self.now_ms())
        })?;
        let decision = decided.map_err(|error| Error::FailedPrecondition {
            message: format!(
                "{address} is the address of node {lost}, but its disk is empty, and: {error}"
            ),
        })?;
        self.carry_out(turn, decision).await?;
        tracing::warn!(node = %lost, address, "given up: an empty disk answers at its address");
        Ok(())
    }

    async fn join(&self, turn: &mut Turn<'_>, record: v1::NodeRecord) -> Result<NodeId, Error> {
        let reply = self.propose(tables::take_ids(tables::Counter::Node, 1)).await?;
        let node = NodeId(tables::taken(&reply)?.start);
        let change =
            self.with(|leading| membership::join(leading.view.table(), record, node))??;
        self.change(turn, change).await?;
        Ok(node)
    }

    async fn adopt(&self, node: NodeId, status: &v1::StatusResponse) -> Result<(), Error> {
        crate::crash_point!("join-before-adopt");
        // Its number is taken, and it may have its identity: a repeat goes on from there.
        let unreachable = |error: String| Error::OutcomeUnknown {
            message: format!("hand node {node} its identity at {}: {error}", status.peer_address),
        };
        let table = self.with(|leading| leading.view.table().clone())?;
        let request = v1::AdoptRequest {
            cluster_id: table.cluster_id.clone(),
            node_id: node.0,
            table: Some(table),
            disk_id: status.disk_id.clone(),
        };
        let adopting = async {
            let channel = dial::node(&status.peer_address)?
                .connect()
                .await
                .map_err(|error| error.to_string())?;
            let mut client = clients::placement(channel);
            client.adopt(request).await.map_err(|status| status.message().to_owned())
        };
        tokio::time::timeout(DIAL_TIMEOUT, adopting)
            .await
            .map_err(|_| unreachable("it does not answer".to_owned()))?
            .map_err(unreachable)?;
        crate::crash_point!("join-after-adopt");
        Ok(())
    }
}

/// Asks the node behind a client address how it is.
async fn ask_status(address: &str) -> Result<v1::StatusResponse, Error> {
    let refuse = |why: String| Error::invalid("address", format!("{address}: {why}"));
    let asking = async {
        let channel = dial::node(address)
            .map_err(&refuse)?
            .connect()
            .await
            .map_err(|error| refuse(format!("cannot connect: {error}")))?;
        clients::cluster(channel)
            .status(v1::StatusRequest { without_peers: true, after_region: 0 })
            .await
            .map(tonic::Response::into_inner)
            .map_err(|status| {
                // One that has no words, as of a peer port, has a code.
                let why = match status.message() {
                    "" => status.code().description(),
                    message => message,
                };
                refuse(format!("is no node of this kind, or not its client port: {why}"))
            })
    };
    tokio::time::timeout(DIAL_TIMEOUT, asking)
        .await
        .map_err(|_| refuse("does not answer".to_owned()))?
}

fn hex(bytes: &[u8]) -> String {
    crate::ids::ClusterId::from_bytes(bytes).map_or_else(String::new, |id| id.to_string())
}
