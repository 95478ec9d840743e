//! The shell around the placement driver's decisions: it hears heartbeats, keeps the view, proposes
//! changes of the node table to region 1, and gives steps to the leaders of regions.
//!
//! It is active only on the node that leads region 1. The view is in memory: a new leader reads the
//! node table after a read index (so no older change can be missed), and hears everything else again
//! within one heartbeat interval. The table is changed only through the log, each change conditioned
//! on the version it was decided on, so a driver that lost its leadership without noticing can do no
//! harm.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use flotilla_proto::v1::{
    self, cluster_client::ClusterClient, pass_request::Call, pass_response::Answer,
    placement_client::PlacementClient,
};
use tokio::{sync::Mutex, time::Instant};

use super::{
    config::PlacementConfig,
    directory::NodeDirectory,
    membership::{self, AddLearner, Decision, TableChange},
    plan, tables,
    view::{ClusterView, Heard},
};
use crate::{
    clock,
    error::Error,
    ids::{NodeId, PeerId, RegionId},
    raft::transport::endpoint,
    region::{Peer, peers::Peers, propose::epoch_version},
    storage::engine::{Family, KeyRange},
};
use openraft::{Instant as _, async_runtime::WatchReceiver as _};

/// Peer ids taken from the table at a time.
const PEER_IDS: u32 = 32;
/// Bound: one change of the table.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Bound: one question to a node that wants to join.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);
/// Version of this driver, which a joining node must be able to work with.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The placement driver of this node; idle unless the node leads region 1.
pub struct Driver {
    peers: Arc<Peers>,
    directory: Arc<NodeDirectory>,
    config: PlacementConfig,
    started: Instant,
    state: Mutex<Option<Leading>>,
}

/// What is known while this node leads region 1.
struct Leading {
    term: u64,
    view: ClusterView,
    peer_ids: VecDeque<PeerId>,
}

impl Driver {
    #[must_use]
    pub fn new(
        peers: Arc<Peers>,
        directory: Arc<NodeDirectory>,
        config: PlacementConfig,
    ) -> Arc<Self> {
        Arc::new(Self { peers, directory, config, started: clock::now(), state: Mutex::default() })
    }

    #[must_use]
    pub fn config(&self) -> &PlacementConfig {
        &self.config
    }

    /// Plans once per interval while this node leads region 1; runs until the node stops.
    pub async fn run(self: Arc<Self>) {
        let mut interval = tokio::time::interval(self.config.interval);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            if let Err(error) = self.round().await {
                tracing::debug!(%error, "placement round");
            }
        }
    }

    async fn round(&self) -> Result<(), Error> {
        let metrics = &self.peers.environment().metrics.placement;
        let mut state = self.state.lock().await;
        let leading = self.lead(&mut state).await.inspect_err(|_| metrics.see_nothing())?;
        let now_ms = self.now_ms();
        if let Some(change) = membership::finish_removals(&leading.view, &self.config, now_ms) {
            self.change(leading, change).await?;
        }
        metrics.ended(&leading.view.settle_orders(&self.config, now_ms));
        if leading.peer_ids.len() < PEER_IDS as usize / 2 {
            let reply = self.propose(tables::take_ids(tables::Counter::Peer, PEER_IDS)).await?;
            leading.peer_ids.extend(tables::taken(&reply)?.map(PeerId));
        }
        let Leading { view, peer_ids, .. } = leading;
        let planning = metrics.plan_seconds.start_timer();
        let steps = plan::plan(view, &self.config, now_ms, &mut || peer_ids.pop_front());
        planning.observe_duration();
        for step in &steps {
            tracing::info!(region = step.region_id, reason = step.reason, action = ?step.action, "placement step");
        }
        view.order(&steps, now_ms);
        metrics.see(view, &self.config, now_ms);
        Ok(())
    }

    /// The peer of region 1 on this node.
    fn system(&self) -> Result<Arc<Peer>, Error> {
        self.peers.get(RegionId::SYSTEM).ok_or(Error::RegionNotFound { region: RegionId::SYSTEM })
    }

    /// Makes sure that this node leads region 1 and that the view is of its term.
    async fn lead<'a>(&self, state: &'a mut Option<Leading>) -> Result<&'a mut Leading, Error> {
        let system = self.system()?;
        if !system.is_leader() {
            *state = None;
            return Err(system.not_leader());
        }
        let term = system.term();
        if state.as_ref().is_none_or(|leading| leading.term != term) {
            *state = None;
            let table = self.read_table(&system).await?;
            let view = ClusterView::new(table, self.now_ms());
            *state = Some(Leading { term, view, peer_ids: VecDeque::new() });
        }
        state.as_mut().ok_or(Error::NoLeader { region: RegionId::SYSTEM })
    }

    /// The node table as of the newest committed change.
    async fn read_table(&self, system: &Arc<Peer>) -> Result<v1::NodeTable, Error> {
        let (start, end) = tables::range();
        let read = v1::ReadCommand {
            read_mode: v1::ReadMode::Linearizable.into(),
            body: Some(v1::read_command::Body::Range(v1::RangeRead {
                start_key: start,
                end_key: end,
                ..v1::RangeRead::default()
            })),
        };
        let reply = system.read(&read, clock::now() + PROPOSE_TIMEOUT).await?;
        let rows = reply.items.into_iter().filter_map(|item| item.kv).map(|kv| (kv.key, kv.value));
        let table =
            tables::decode(rows).map_err(|error| Error::DataLoss { message: error.to_string() })?;
        self.adopt_table(&table);
        Ok(table)
    }

    fn adopt_table(&self, table: &v1::NodeTable) {
        match self.directory.update(table.clone()) {
            Ok(true) => self.peers.set_removed_nodes(self.directory.removed()),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "keeping the node table"),
        }
    }

    async fn propose(&self, command: v1::WriteCommand) -> Result<v1::WriteReply, Error> {
        let system = self.system()?;
        let version = system.view().with(|now| epoch_version(&now.descriptor));
        system.propose_write(command, version, clock::now() + PROPOSE_TIMEOUT).await
    }

    /// Proposes a change of the table and takes it over.
    async fn change(&self, leading: &mut Leading, change: TableChange) -> Result<u64, Error> {
        let expected = leading.view.table().version;
        let result = match self.propose(change.command).await {
            Ok(reply) => tables::changed(expected, &reply),
            Err(error) => Err(error),
        };
        match result {
            Ok(version) => {
                self.adopt_table(&change.table);
                leading.view.set_table(change.table);
                Ok(version)
            }
            Err(error) => {
                // It may have been applied, or somebody else changed it: look again.
                let system = self.system()?;
                if let Ok(table) = self.read_table(&system).await {
                    leading.view.set_table(table);
                }
                Err(error)
            }
        }
    }

    async fn decide(&self, leading: &mut Leading, decision: Decision) -> Result<u64, Error> {
        match decision {
            Decision::Nothing => Ok(leading.view.table().version),
            Decision::Write(change) => self.change(leading, change).await,
        }
    }

    /// Answers a node's heartbeat.
    pub async fn hear(&self, request: v1::HeartbeatRequest) -> v1::HeartbeatResponse {
        let mut state = self.state.lock().await;
        let Ok(leading) = self.lead(&mut state).await else {
            return v1::HeartbeatResponse {
                accepted: false,
                leader_node_id: self.system_leader().map_or(0, |node| node.0),
                ..v1::HeartbeatResponse::default()
            };
        };
        let now_ms = self.now_ms();
        let node = NodeId(request.node_id);
        let mut response = v1::HeartbeatResponse {
            accepted: true,
            leader_node_id: self.peers.environment().node.0,
            ..v1::HeartbeatResponse::default()
        };
        if self.peers.recognize(node, request.incarnation).is_err() {
            response.duplicate = true;
            return response;
        }
        match leading.view.hear(request.clone(), now_ms) {
            Heard::Accepted => {}
            Heard::Removed => {
                response.removed = true;
                return response;
            }
            Heard::Duplicate => {
                response.duplicate = true;
                return response;
            }
            Heard::WrongCluster | Heard::Unknown | Heard::Superseded => {
                response.accepted = false;
                return response;
            }
        }
        let decision = membership::heard(leading.view.table(), &request);
        if let Err(error) = self.decide(leading, decision).await {
            tracing::debug!(%error, %node, "noting what a node told");
        }
        if request.table_version < leading.view.table().version {
            response.table = Some(leading.view.table().clone());
        }
        response.steps = leading.view.orders_for(node, &self.config, now_ms);
        response.gone = request
            .silent
            .into_iter()
            .filter(|local| {
                leading.view.regions().get(&RegionId(local.region_id)).is_some_and(|region| {
                    region.is_fresh(&self.config, now_ms)
                        && !region.region.peers.iter().any(|peer| peer.peer_id == local.peer_id)
                })
            })
            .collect();
        response
    }

    /// Node that leads region 1, as far as this node knows.
    #[must_use]
    pub fn system_leader(&self) -> Option<NodeId> {
        self.system().ok()?.leader().map(|(_, node)| node)
    }

    /// The regions that touch a range; `None` when this node does not lead region 1.
    pub async fn regions(&self, request: &v1::RegionsRequest) -> Option<Vec<v1::RegionInfo>> {
        let mut state = self.state.lock().await;
        let leading = self.lead(&mut state).await.ok()?;
        let now_ms = self.now_ms();
        let range = KeyRange::new(request.start_key.clone(), request.end_key.clone());
        let mut views: Vec<_> = leading
            .view
            .regions()
            .values()
            .filter(|view| {
                KeyRange::new(view.region.start_key.clone(), view.region.end_key.clone())
                    .overlaps(&range)
            })
            .collect();
        views.sort_by(|left, right| left.region.start_key.cmp(&right.region.start_key));
        if request.limit > 0 {
            views.truncate(request.limit as usize);
        }
        Some(
            views
                .into_iter()
                .map(|view| {
                    let silent = |peer: &&v1::Peer| {
                        view.silent_ms(PeerId(peer.peer_id), now_ms).is_some_and(|silent| {
                            u128::from(silent) > self.config.peer_silent_after.as_millis()
                        })
                    };
                    let peers = &view.region.peers;
                    v1::RegionInfo {
                        leader: view.leader.map(|leader| v1::Leader {
                            peer_id: leader.peer.0,
                            node_id: leader.node.0,
                            client_address: self.directory.client_address(leader.node),
                        }),
                        term: view.term,
                        down_peers: peers.iter().filter(silent).map(|peer| peer.peer_id).collect(),
                        pending_peers: peers
                            .iter()
                            .filter(|peer| peer.role() == v1::PeerRole::Learner)
                            .map(|peer| peer.peer_id)
                            .collect(),
                        approximate_bytes: view.approximate_bytes,
                        region: Some(view.region.clone()),
                    }
                })
                .collect(),
        )
    }

    /// Serves a membership call if this node leads region 1; `None` when it does not.
    ///
    /// # Errors
    /// As the calls of `flotilla.v1.Cluster`.
    pub async fn call(&self, call: Call) -> Result<Option<Answer>, Error> {
        if self.lead(&mut *self.state.lock().await).await.is_err() {
            return Ok(None);
        }
        Ok(Some(match call {
            Call::AddLearner(request) => Answer::AddLearner(self.add_learner(request).await?),
            Call::ChangeMembership(request) => {
                let mut state = self.state.lock().await;
                let leading = self.lead(&mut state).await?;
                let decision = membership::change_membership(leading.view.table(), &request)?;
                let version = self.decide(leading, decision).await?;
                Answer::ChangeMembership(v1::ChangeMembershipResponse { version })
            }
            Call::RemoveNode(request) => {
                let mut state = self.state.lock().await;
                let leading = self.lead(&mut state).await?;
                let decision =
                    membership::remove_node(&leading.view, &request, &self.config, self.now_ms())?;
                self.decide(leading, decision).await?;
                Answer::RemoveNode(membership::removal(&leading.view, NodeId(request.node_id))?)
            }
            Call::CancelRemoveNode(request) => {
                let mut state = self.state.lock().await;
                let leading = self.lead(&mut state).await?;
                let decision = membership::cancel_remove_node(leading.view.table(), &request)?;
                let version = self.decide(leading, decision).await?;
                let record = leading.view.record(NodeId(request.node_id));
                let state = record.map_or(v1::NodeState::Unspecified, v1::NodeRecord::state);
                Answer::CancelRemoveNode(v1::CancelRemoveNodeResponse {
                    state: state.into(),
                    version,
                })
            }
            Call::EvictLeaders(request) => {
                let mut state = self.state.lock().await;
                let leading = self.lead(&mut state).await?;
                let (node, duration) = membership::evict_leaders(leading.view.table(), &request)?;
                let until = self.now_ms() + u64::try_from(duration.as_millis()).unwrap_or(0);
                leading.view.evict_leaders(node, until);
                let (_, leaders) = leading.view.left_on(node);
                Answer::EvictLeaders(v1::EvictLeadersResponse {
                    leaders_left: u32::try_from(leaders).unwrap_or(u32::MAX),
                })
            }
            Call::ListNodes(request) => {
                let mut state = self.state.lock().await;
                let leading = self.lead(&mut state).await?;
                Answer::ListNodes(self.list_nodes(leading, &request))
            }
        }))
    }

    fn list_nodes(
        &self,
        leading: &Leading,
        request: &v1::ListNodesRequest,
    ) -> v1::ListNodesResponse {
        let table = leading.view.table();
        v1::ListNodesResponse {
            cluster_id: hex(&table.cluster_id),
            version: table.version,
            nodes: leading
                .view
                .nodes(&self.config, self.now_ms())
                .values()
                .filter(|node| request.all || node.state() != v1::NodeState::Removed)
                .map(super::view::NodeView::to_node)
                .collect(),
            replication_factor: table.replication_factor,
        }
    }

    /// Dials the node first, so that nothing is written for an address that is not one; then enters
    /// it, hands it its identity, and notes that it has it.
    async fn add_learner(
        &self,
        request: v1::AddLearnerRequest,
    ) -> Result<v1::AddLearnerResponse, Error> {
        membership::check_address("address", &request.address)?;
        let status = ask_status(&request.address).await?;
        let mut state = self.state.lock().await;
        let leading = self.lead(&mut state).await?;
        let node = match membership::add_learner(leading.view.table(), &request, &status, VERSION)?
        {
            AddLearner::Known { node } => node,
            AddLearner::Confirm { node } => {
                let decision = membership::confirm(leading.view.table(), node)?;
                self.decide(leading, decision).await?;
                node
            }
            AddLearner::Adopt { node } => {
                self.adopt(leading, node, &status).await?;
                node
            }
            AddLearner::Join { record } => {
                let reply = self.propose(tables::take_ids(tables::Counter::Node, 1)).await?;
                let node = NodeId(tables::taken(&reply)?.start);
                let change = membership::join(leading.view.table(), record, node)?;
                self.change(leading, change).await?;
                self.adopt(leading, node, &status).await?;
                node
            }
        };
        Ok(v1::AddLearnerResponse { node_id: node.0, version: leading.view.table().version })
    }

    async fn adopt(
        &self,
        leading: &mut Leading,
        node: NodeId,
        status: &v1::StatusResponse,
    ) -> Result<(), Error> {
        fail::fail_point!("join-before-adopt");
        let unreachable = |error: String| Error::FailedPrecondition {
            message: format!("hand node {node} its identity at {}: {error}", status.peer_address),
        };
        let table = leading.view.table().clone();
        let request = v1::AdoptRequest {
            cluster_id: table.cluster_id.clone(),
            node_id: node.0,
            table: Some(table),
        };
        let adopting = async {
            let channel = endpoint(&status.peer_address)?
                .connect()
                .await
                .map_err(|error| error.to_string())?;
            let mut client = PlacementClient::new(channel);
            client.adopt(request).await.map_err(|status| status.message().to_owned())
        };
        tokio::time::timeout(DIAL_TIMEOUT, adopting)
            .await
            .map_err(|_| unreachable("it does not answer".to_owned()))?
            .map_err(unreachable)?;
        fail::fail_point!("join-after-adopt");
        let decision = membership::confirm(leading.view.table(), node)?;
        self.decide(leading, decision).await.map(drop)
    }

    fn now_ms(&self) -> u64 {
        let elapsed = clock::now().saturating_duration_since(self.started);
        u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
    }
}

/// Asks the node behind a client address how it is.
async fn ask_status(address: &str) -> Result<v1::StatusResponse, Error> {
    let refuse = |why: String| Error::invalid("address", format!("{address}: {why}"));
    let asking = async {
        let channel = endpoint(address)
            .map_err(&refuse)?
            .connect()
            .await
            .map_err(|error| refuse(format!("cannot connect: {error}")))?;
        ClusterClient::new(channel)
            .status(v1::StatusRequest {})
            .await
            .map(tonic::Response::into_inner)
            .map_err(|status| refuse(format!("is no node of this kind: {}", status.message())))
    };
    tokio::time::timeout(DIAL_TIMEOUT, asking)
        .await
        .map_err(|_| refuse("does not answer".to_owned()))?
}

fn hex(bytes: &[u8]) -> String {
    crate::ids::ClusterId::from_bytes(bytes).map_or_else(String::new, |id| id.to_string())
}

/// What a region's leader reports of it.
#[must_use]
pub fn report(peer: &Peer) -> v1::RegionReport {
    let metrics = peer.raft().metrics().borrow_watched().clone();
    let published = peer.view().published();
    // A peer that has not answered this leader yet is silent since the leadership began, not for ever.
    let led = peer.leading_for(metrics.current_term);
    let heartbeat = metrics.heartbeat.unwrap_or_default();
    let progress = metrics
        .replication
        .unwrap_or_default()
        .into_iter()
        .map(|(id, matched)| {
            let heard = heartbeat.get(&id).copied().flatten();
            let silent = heard.map_or(led, |heard| heard.elapsed());
            v1::PeerProgress {
                peer_id: id.0,
                matched_index: matched.map_or(0, |id| id.index),
                silent_ms: u64::try_from(silent.as_millis()).unwrap_or(u64::MAX),
            }
        })
        .collect();
    let data = peer.view().data();
    let range = peer.view().range();
    v1::RegionReport {
        region: Some((*published.descriptor).clone()),
        term: metrics.current_term,
        leader_peer_id: peer.id.0,
        joint: published.joint,
        last_index: metrics.last_log_index.unwrap_or(0),
        progress,
        approximate_bytes: data.approximate_bytes(Family::Default, &range),
    }
}
