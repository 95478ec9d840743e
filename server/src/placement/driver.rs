//! The shell around the placement driver's decisions: it hears heartbeats, keeps the view, proposes
//! changes of the node table to region 1, and gives steps to the leaders of regions.
//!
//! It is active only on the node that leads region 1. The view is in memory: a new leader reads the
//! node table after a read index (so no older change can be missed), and hears everything else again
//! within one heartbeat interval. The table is changed only through the log, each change conditioned
//! on the version it was decided on, so a driver that lost its leadership without noticing can do no
//! harm. What it knows is locked for decisions only: whoever waits, for the log or for a node that
//! does not answer, holds up neither heartbeats nor plans.

mod calls;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use flotilla_proto::{region::Epoch, v1};
use futures::FutureExt as _;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    config::{self, PlacementConfig},
    directory::NodeDirectory,
    evictions,
    membership::{self, Decision, TableChange},
    plan, tables,
    view::{ClusterView, Heard},
};
use crate::{
    error::Error,
    feature_level,
    ids::{NodeId, PeerId, RegionId},
    region::{Peer, peers::Peers},
    world::{clock, presence::Presence},
};

/// Peer ids taken from the table at a time.
const PEER_IDS: u32 = 32;
/// Bound: one change of the table.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Bound: wait for another change of the table. It is as long as a change may take.
const TURN_TIMEOUT: Duration = PROPOSE_TIMEOUT;

/// Bound: wait for a quorum before an answer to a heartbeat, which is to be in time whether one answers or not.
const PROOF_MAX: Duration = Duration::from_secs(1);

/// Bound: wait of a caller for a driver that has just begun to hear of all regions; two heartbeats, if they
/// come as often as they do by default.
const ALL_HEARD_MAX: Duration = Duration::from_secs(2);
const ALL_HEARD_POLL: Duration = Duration::from_millis(50);

/// The placement driver of this node; idle unless the node leads region 1.
pub struct Driver {
    peers: Arc<Peers>,
    directory: Arc<NodeDirectory>,
    config: PlacementConfig,
    started: Instant,
    /// Held for decisions only, never while anything is waited for.
    state: Mutex<Option<Leading>>,
    /// Held by the one that reads the table for a new term; whoever comes meanwhile waits for it.
    taking_over: tokio::sync::Mutex<()>,
    /// See [`Turn`].
    turn: tokio::sync::Mutex<bool>,
    /// The node that heard this one as driver, for others that look for it.
    found: Mutex<Option<NodeId>>,
}

/// The right to change the node table, held from the decision until the outcome is known, so that
/// the calls of this node do not refuse each other. `true` while it is not known: the table is then
/// read again before the next decision.
type Turn<'a> = tokio::sync::MutexGuard<'a, bool>;

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
        Arc::new(Self {
            peers,
            directory,
            config,
            started: clock::now(),
            state: Mutex::default(),
            taking_over: tokio::sync::Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            found: Mutex::default(),
        })
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
        self.lead().await.inspect_err(|_| metrics.see_nothing())?;
        // Ordering: before what may end the round. A region 1 that commits nothing is when it is looked at.
        self.with(|leading| {
            let now_ms = self.now_ms();
            metrics.ended(&leading.view.settle_orders(&self.config, now_ms));
            metrics.see(&leading.view, &self.config, now_ms);
        })?;
        let written = self.write_what_is_due().await;
        let steps = self.with(|leading| {
            let now_ms = self.now_ms();
            let Leading { view, peer_ids, .. } = leading;
            let planning = metrics.plan_seconds.start_timer();
            let steps = plan::plan(view, &self.config, now_ms, &mut || peer_ids.pop_front());
            planning.observe_duration();
            view.order(&steps, now_ms);
            steps
        })?;
        for step in &steps {
            tracing::info!(region = step.region_id, reason = step.reason, action = ?step.action, "placement step");
        }
        // Not before: what cannot be written keeps no lead from going to where it can.
        written
    }

    /// What the plan relies on, and what follows from what was heard.
    async fn write_what_is_due(&self) -> Result<(), Error> {
        // Whoever has the turn is followed by another round.
        if let Ok(mut turn) = self.turn.try_lock() {
            self.settle(&mut turn).await?;
            let finished = self.with(|leading| {
                membership::finish_removals(&leading.view, &self.config, self.now_ms())
            })?;
            if let Some(change) = finished {
                self.change(&mut turn, change).await?;
            }
            let raised = self.with(|leading| {
                membership::raise_feature_level(&leading.view, &self.config, self.now_ms())
            })?;
            if let Some(change) = raised {
                let level = change.table.feature_level;
                self.change(&mut turn, change).await?;
                tracing::info!(level, "all nodes can do more: the feature level is raised");
            }
        }
        if self.with(|leading| leading.peer_ids.len())? < PEER_IDS as usize / 2 {
            let reply = self.propose(tables::take_ids(tables::Counter::Peer, PEER_IDS)).await?;
            let taken = tables::taken(&reply)?;
            self.with(|leading| leading.peer_ids.extend(taken.map(PeerId)))?;
        }
        Ok(())
    }

    /// The peer of region 1 on this node.
    fn system(&self) -> Result<Arc<Peer>, Error> {
        self.peers.get(RegionId::SYSTEM).ok_or(Error::RegionNotFound { region: RegionId::SYSTEM })
    }

    /// Decides on what is known, if this node leads region 1 and what it knows is of its term.
    fn with<T>(&self, decide: impl FnOnce(&mut Leading) -> T) -> Result<T, Error> {
        let system = self.system()?;
        let mut state = self.state.lock();
        let Some(term) = system.leads() else {
            *state = None;
            return Err(system.not_leader());
        };
        match state.as_mut().filter(|leading| leading.term == term) {
            Some(leading) => Ok(decide(leading)),
            None => Err(Error::NoLeader { region: RegionId::SYSTEM }),
        }
    }

    /// Makes sure that this node leads region 1 and that the view is of its term.
    async fn lead(&self) -> Result<(), Error> {
        if self.with(|_| ()).is_ok() {
            return Ok(());
        }
        let taking_over = async {
            let _one = self.taking_over.lock().await;
            if self.with(|_| ()).is_ok() {
                return Ok(());
            }
            let system = self.system()?;
            let term = system.leads().ok_or_else(|| system.not_leader())?;
            let (table, evictions) = self.read_table(&system).await?;
            let mut view = ClusterView::new(table, self.now_ms()).in_session(clock::random());
            for (node, left) in evictions {
                view.evict_leaders(node, self.now_ms() + config::millis(left));
            }
            *self.state.lock() = Some(Leading { term, view, peer_ids: VecDeque::new() });
            Ok(())
        }
        .boxed();
        tokio::time::timeout(PROPOSE_TIMEOUT, taking_over)
            .await
            .unwrap_or(Err(Error::NoLeader { region: RegionId::SYSTEM }))
    }

    /// As [`Driver::lead`], and a quorum of region 1 says so now. Without that a driver that is cut off
    /// from the others would tell a table that they have changed, and call a change done that they took back.
    async fn prove_lead(&self) -> Result<(), Error> {
        self.lead().await?;
        let proving = async { self.system()?.prove_lead().await };
        tokio::time::timeout(PROPOSE_TIMEOUT, proving)
            .await
            .unwrap_or(Err(Error::NoLeader { region: RegionId::SYSTEM }))
    }

    /// The node table as of the newest committed change, and what is left of evictions.
    async fn read_table(
        &self,
        system: &Arc<Peer>,
    ) -> Result<(v1::NodeTable, Vec<(NodeId, Duration)>), Error> {
        let (start, end) = tables::range();
        let read = v1::ReadCommand {
            read_mode: v1::ReadMode::Linearizable.into(),
            epoch_version: system.view().with(|now| Epoch::of(&now.descriptor).version),
            body: Some(v1::read_command::Body::Range(v1::RangeRead {
                start_key: start,
                end_key: end,
                ..v1::RangeRead::default()
            })),
        };
        let reply = system.read(&read, clock::now() + PROPOSE_TIMEOUT).boxed().await?;
        let rows: Vec<v1::KeyValue> = reply.items.into_iter().filter_map(|item| item.kv).collect();
        let evictions = evictions::decode(&rows).collect();
        let table = tables::decode(rows.into_iter().map(|kv| (kv.key, kv.value)))
            .map_err(|error| Error::DataLoss { message: error.to_string() })?;
        self.adopt_table(&table)?;
        Ok((table, evictions))
    }

    /// # Errors
    /// When the cluster uses more than this program can do: nothing is decided on that table.
    fn adopt_table(&self, table: &v1::NodeTable) -> Result<(), Error> {
        let update = self.directory.update(table.clone());
        if update.map_err(|error| Error::Internal { message: error.to_string() })? {
            self.peers.set_nodes(&self.directory.table());
        }
        Ok(())
    }

    async fn propose(&self, command: v1::WriteCommand) -> Result<v1::WriteReply, Error> {
        let system = self.system()?;
        let version = system.view().with(|now| Epoch::of(&now.descriptor).version);
        let deadline = clock::now() + PROPOSE_TIMEOUT;
        let reply = system.propose_write(command, version, deadline).boxed().await?;
        match reply.refused {
            Some(refused) => Err(Error::FailedPrecondition { message: refused.message }),
            None => Ok(reply),
        }
    }

    /// Waits for the right to change the table.
    async fn turn(&self) -> Result<Turn<'_>, Error> {
        let mut turn =
            tokio::time::timeout(TURN_TIMEOUT, self.turn.lock()).await.map_err(|_| {
                Error::NotReady {
                    message: "another change of the node table is under way".to_owned(),
                }
            })?;
        self.settle(&mut turn).await?;
        Ok(turn)
    }

    /// Waits until the table of the view is the one that is committed, at a moment after this was called: a change that
    /// is under way is waited for, and of one whose outcome nobody knows it is learnt. A listing would else show a node
    /// as it was before a change that is there, and whose caller was told to look.
    ///
    /// # Errors
    /// When that takes longer than another change may, or the table cannot be read.
    async fn know_table(&self) -> Result<(), Error> {
        self.turn().await.map(drop)
    }

    /// Learns what became of a change that nobody waited for to its end, or that failed.
    async fn settle(&self, turn: &mut Turn<'_>) -> Result<(), Error> {
        if **turn {
            let (table, _) = self.read_table(&self.system()?).await?;
            self.with(|leading| leading.view.set_table(table))?;
            **turn = false;
        }
        Ok(())
    }

    /// Proposes a change of the table and takes it over.
    async fn change(&self, turn: &mut Turn<'_>, change: TableChange) -> Result<u64, Error> {
        let expected = change.table.version - 1;
        **turn = true;
        let result = match self.propose(change.command).await {
            Ok(reply) => tables::changed(expected, &reply),
            Err(error) => Err(error),
        };
        match result {
            Ok(version) => {
                self.adopt_table(&change.table)?;
                // A leader no more, it has nothing to take over.
                let _ = self.with(|leading| leading.view.set_table(change.table));
                **turn = false;
                Ok(version)
            }
            Err(error) => {
                // It may have been applied, or somebody else changed it: look again, now or, if that
                // fails, before the next decision.
                let _ = self.settle(turn).await;
                Err(error)
            }
        }
    }

    async fn carry_out(&self, turn: &mut Turn<'_>, decision: Decision) -> Result<u64, Error> {
        match decision {
            Decision::Nothing => self.with(|leading| leading.view.table().version),
            Decision::Write(change) => self.change(turn, change).await,
        }
    }

    /// Answers a node's heartbeat.
    pub async fn hear(
        &self,
        request: v1::HeartbeatRequest,
        presence: &Presence,
    ) -> v1::HeartbeatResponse {
        match self.hear_as_leader(request, presence).await {
            Ok(response) => response,
            Err(_) => {
                let leader = self.system_leader().or_else(|| *self.found.lock());
                let address = leader.and_then(|leader| self.directory.node(leader));
                v1::HeartbeatResponse {
                    accepted: false,
                    leader_node_id: leader.map_or(0, |node| node.0),
                    leader_peer_address: address.map(|node| node.peer_address).unwrap_or_default(),
                    cluster_id: self.cluster_id(),
                    ..v1::HeartbeatResponse::default()
                }
            }
        }
    }

    fn cluster_id(&self) -> Bytes {
        Bytes::copy_from_slice(&self.peers.environment().transport.identity().cluster.0)
    }

    async fn hear_as_leader(
        &self,
        mut request: v1::HeartbeatRequest,
        presence: &Presence,
    ) -> Result<v1::HeartbeatResponse, Error> {
        self.lead().await?;
        let node = NodeId(request.node_id);
        let mut response = v1::HeartbeatResponse {
            accepted: true,
            leader_node_id: self.peers.environment().node.0,
            cluster_id: self.cluster_id(),
            ..v1::HeartbeatResponse::default()
        };
        // Ordering: cluster and table before the process is recognized. A node of another cluster at an
        // address of ours would else pass for the node of ours that has its number, which would then be
        // refused as its copy, and end.
        let refusal = self.with(|leading| {
            response.feature_level = leading.view.table().feature_level;
            leading.view.refuses(&request)
        })?;
        if refusal.is_none() && self.peers.recognize(node, request.incarnation, presence).is_err() {
            response.duplicate = true;
            return Ok(response);
        }
        let told = v1::HeartbeatRequest {
            regions: std::mem::take(&mut request.regions),
            led_no_more: std::mem::take(&mut request.led_no_more),
            ..request.clone()
        };
        let (heard, session) = match refusal {
            Some(refusal) => (refusal, 0),
            None => self
                .with(|leading| (leading.view.hear(told, self.now_ms()), leading.view.session()))?,
        };
        match heard {
            Heard::Accepted => response.session = session,
            Heard::Unfollowed => {}
            Heard::Removed => {
                response.removed = true;
                return Ok(response);
            }
            Heard::Duplicate => {
                response.duplicate = true;
                return Ok(response);
            }
            Heard::TooOld => {
                // It ends by the level in the answer: nothing else of it is for its program.
                let error = feature_level::TooOld {
                    has: request.feature_level,
                    needed: response.feature_level,
                };
                tracing::warn!(%node, %error, "a node is not heard");
                return Ok(response);
            }
            Heard::WrongCluster | Heard::Unknown | Heard::Superseded => {
                response.accepted = false;
                return Ok(response);
            }
        }
        if let Err(error) = self.note_heard(&request).boxed().await {
            tracing::debug!(%error, %node, "noting what a node told");
        }
        let mut response = self.with(|leading| {
            let now_ms = self.now_ms();
            if request.table_version < leading.view.table().version {
                response.table = Some(leading.view.table().clone());
            }
            response.steps = leading.view.orders_for(node, &self.config, now_ms);
            response.gone = leading.view.gone(request.silent, &self.config, now_ms);
            response
        })?;
        // What is destroyed does not come back; a table is committed, and steps are judged by whom they are for.
        if !response.gone.is_empty() {
            let proven = tokio::time::timeout(PROOF_MAX, self.prove_lead().boxed()).await;
            if !matches!(proven, Ok(Ok(()))) {
                response.gone.clear();
            }
        }
        Ok(response)
    }

    /// Notes in the table what a node tells of itself. While another change is under way it is left
    /// to the next heartbeat.
    async fn note_heard(&self, request: &v1::HeartbeatRequest) -> Result<(), Error> {
        let decide = || self.with(|leading| membership::heard(leading.view.table(), request));
        if decide()? == Decision::Nothing {
            return Ok(());
        }
        let Ok(mut turn) = self.turn.try_lock() else { return Ok(()) };
        self.settle(&mut turn).await?;
        let decision = decide()?;
        self.carry_out(&mut turn, decision).await.map(drop)
    }

    /// Notes who heard this node as driver.
    pub fn found_at(&self, node: NodeId) {
        *self.found.lock() = Some(node);
    }

    /// Node that leads region 1, as far as this node knows.
    #[must_use]
    pub fn system_leader(&self) -> Option<NodeId> {
        self.system().ok()?.leader().map(|(_, node)| node)
    }

    /// Waits until a driver that has just begun has heard of all regions: what it does not know yet would
    /// look like nothing. One that nobody leads is not waited for any longer than that.
    async fn all_heard(&self) {
        let heard = |leading: &mut Leading| {
            leading.view.age_ms(self.now_ms()) >= config::millis(ALL_HEARD_MAX)
                || leading.view.is_complete()
        };
        // Whoever leads no more has nothing to wait for.
        while !self.with(heard).unwrap_or(true) {
            tokio::time::sleep(ALL_HEARD_POLL).await;
        }
    }

    /// The regions that are asked for; `None` when this node does not lead region 1.
    pub async fn regions(&self, request: &v1::RegionsRequest) -> Option<v1::RegionsResponse> {
        if request.proven {
            self.lead().await.ok()?;
            self.know_table().await.ok()?;
            self.prove_lead().await.ok()?;
        } else {
            self.lead().await.ok()?;
        }
        self.all_heard().await;
        self.with(|leading| leading.view.list(request, &self.config, self.now_ms())).ok()
    }

    fn now_ms(&self) -> u64 {
        let elapsed = clock::now().saturating_duration_since(self.started);
        u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
    }
}

/// What a region's leader reports of it; `None` of one that does not run any more.
#[must_use]
pub fn report(peer: &Peer) -> Option<v1::RegionReport> {
    let metrics = peer.metrics()?;
    let published = peer.view().published();
    let progress = peer
        .followers()
        .into_iter()
        .map(|follower| {
            let silent = follower.told_silent();
            let refusal = follower.refusal;
            v1::PeerProgress {
                peer_id: follower.peer.0,
                matched_index: follower.matched,
                silent_ms: config::millis(silent),
                reverted: follower.reverted,
                buried: follower.buried,
                refused_ms: refusal.as_ref().map_or(0, |refusal| config::millis(refusal.lasts)),
                refused: refusal.map_or_else(String::new, |refusal| refusal.reason),
            }
        })
        .collect();
    Some(v1::RegionReport {
        region: Some((*published.descriptor).clone()),
        term: metrics.current_term.0,
        leader_peer_id: peer.id.0,
        joint: published.joint,
        last_index: metrics.last_log_index.unwrap_or(0),
        progress,
        approximate_bytes: peer.approximate_bytes(),
    })
}
