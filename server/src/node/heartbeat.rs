//! What a node and the placement driver tell each other, about once a second.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use flotilla_proto::v1;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::Instant;
use tonic::Status;

use super::{
    Joined, Node,
    clients::{PlacementClient, is_unsent},
};
use crate::{
    clock,
    error::Error,
    feature_level,
    ids::{NodeId, PeerId, RegionId},
    placement::{
        driver,
        membership::check_address,
        reports::{Part, Reports},
        steps::{self, Verdict},
    },
    raft::{presence::Presence, transport::Directory as _},
    region::{Peer, incarnations::QUIET},
    router::Route,
    storage::disk::{DiskStatus, Level},
};

/// Bound: one question to the driver.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Bounds: nodes that one heartbeat asks for the driver without having been told to, and its time. The next
/// one goes on with those that come after them.
const SEARCHED_MAX: usize = 16;
const SEARCH_MAX: Duration = Duration::from_secs(6);
/// Bound: places of the driver that one heartbeat is told and follows.
const TOLD_MAX: usize = 16;
/// Pause between heartbeats of a node that no driver has heard since its start: it is not ready before.
const UNHEARD_INTERVAL: Duration = Duration::from_millis(200);
/// A duplicate that stays for this long is no restart: the disk was copied.
const DUPLICATE_PATIENCE: Duration = Duration::from_secs(10);

/// Runs until the node stops.
pub(super) async fn run(node: Arc<Node>, joined: Arc<Joined>) {
    let mut interval = tokio::time::interval(node.config.placement.interval);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut driver = Way::default();
    let mut reports = Reports::default();
    let mut duplicate_since: Option<Instant> = None;
    loop {
        interval.tick().await;
        if node.is_removed() {
            return;
        }
        drop_leavers(&joined);
        let Some((told, request)) = heartbeat(&node, &joined, reports).await else { return };
        reports = told;
        let response = match driver.heartbeat(&node, &joined, request).await {
            Ok(response) => response,
            Err(reason) => {
                tracing::debug!(reason, "no driver heard this node");
                if !joined.is_confirmed() {
                    interval.reset_after(UNHEARD_INTERVAL.min(node.config.placement.interval));
                }
                continue;
            }
        };
        // Also one that can do less than the cluster uses is to know that it was removed.
        if response.removed {
            node.become_removed();
            return;
        }
        // Before anything else it says: that is not for a program which can do less.
        if node.directory.check_level(response.feature_level).is_err() {
            return;
        }
        if response.duplicate {
            let since = *duplicate_since.get_or_insert_with(clock::now);
            let refused_for = clock::now().saturating_duration_since(since);
            if refused_for > QUIET {
                tracing::warn!("another process speaks with the identity of this node");
            } else {
                // After a power cut nobody closes the connections of the process before.
                tracing::info!("this node is believed once the process before it is silent");
            }
            if refused_for > DUPLICATE_PATIENCE {
                node.fail(
                    "another process runs with the identity of this node: its disk was copied; \
                     empty this disk and join anew"
                        .to_owned(),
                );
                return;
            }
            continue;
        }
        duplicate_since = None;
        joined.confirmed.store(true, Ordering::Release);
        if reports.acknowledged(response.session) {
            interval.reset_immediately();
        }
        if let Some(table) = response.table {
            match node.directory.update(table) {
                Ok(true) => joined.peers.set_nodes(&node.directory.table()),
                Ok(false) => {}
                Err(_) => return,
            }
        }
        for step in response.steps {
            let Some(peer) = joined.peers.get(RegionId(step.region_id)) else { continue };
            // Judged again by what the leader itself knows, right before it is carried out.
            let Some(report) = driver::report(&peer) else { continue };
            match steps::judge(&step, &report, joined.driver.config()) {
                Verdict::Apply => {}
                Verdict::Done => continue,
                verdict => {
                    tracing::info!(
                        region = step.region_id,
                        reason = step.reason,
                        ?verdict,
                        "placement step not done"
                    );
                    continue;
                }
            }
            node.runtime.spawn(async move {
                match peer.carry_out(&step).await {
                    Ok(()) => tracing::info!(
                        region = step.region_id,
                        reason = step.reason,
                        "placement step done"
                    ),
                    Err(error) => tracing::info!(
                        region = step.region_id,
                        reason = step.reason,
                        error,
                        "placement step not done"
                    ),
                }
            });
        }
        for gone in response.gone {
            let (region, peer) = (RegionId(gone.region_id), PeerId(gone.peer_id));
            // It may have heard of a later membership since it was told of, in which it is.
            let here = joined.peers.get(region).filter(|here| here.id == peer);
            if here.is_none_or(|here| Some(here.conf_ver()) == gone.conf_ver) {
                joined.peers.give_up(region, peer);
            }
        }
    }
}

/// Has peers destroyed that have applied their own removal.
fn drop_leavers(joined: &Joined) {
    for peer in joined.peers.all() {
        if peer.has_left() {
            joined.peers.give_up(peer.region, peer.id);
        }
    }
}

/// What to tell now, gathered on a thread that may take its time: a node may lead thousands of regions.
/// `None` when the process ends.
async fn heartbeat(
    node: &Arc<Node>,
    joined: &Arc<Joined>,
    mut reports: Reports,
) -> Option<(Reports, v1::HeartbeatRequest)> {
    let (node, joined) = (Arc::clone(node), Arc::clone(joined));
    let gathered = tokio::task::spawn_blocking(move || {
        let peers = joined.peers.all();
        let led = peers.iter().filter(|peer| peer.is_leader());
        let led = led.filter_map(|peer| driver::report(peer));
        let part = reports.next(led, joined.driver.config(), clock::now());
        let request = gather(&node, &joined, &peers, part);
        (reports, request)
    });
    gathered.await.ok()
}

fn gather(node: &Node, joined: &Joined, peers: &[Arc<Peer>], part: Part) -> v1::HeartbeatRequest {
    let local = |region: RegionId, peer: PeerId, conf_ver| v1::LocalPeer {
        region_id: region.0,
        peer_id: peer.0,
        conf_ver,
    };
    // Of one whose id was lost nobody could say whether it was removed.
    let is_known = |local: &&v1::LocalPeer| local.peer_id != PeerId::UNKNOWN.0;
    let quarantined: Vec<v1::LocalPeer> = joined
        .peers
        .quarantined_as_of()
        .into_iter()
        .map(|(region, peer, conf_ver)| local(region, peer, conf_ver))
        .collect();
    let patience = node.config.raft.election_timeout_max * 2;
    let disk = *node.disk_status.lock();
    v1::HeartbeatRequest {
        cluster_id: bytes::Bytes::copy_from_slice(&joined.cluster.0),
        node_id: joined.node.0,
        incarnation: node.incarnation,
        table_version: node.directory.table().version,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        feature_level: feature_level::OURS,
        disk_available_bytes: disk.map_or(0, |disk| disk.available_bytes),
        disk_used_bytes: disk.map_or(0, |disk| disk.total_bytes - disk.available_bytes),
        data_bytes: node.data_bytes(),
        regions: part.regions,
        quarantined: quarantined.clone(),
        contradicted: joined
            .peers
            .contradicted()
            .into_iter()
            .map(|(region, peer, _)| local(region, peer, None))
            .collect(),
        // One in quarantine hears nobody, and stays until it is removed or replaced.
        silent: peers
            .iter()
            .filter(|peer| peer.silent_for() > patience)
            .map(|peer| local(peer.region, peer.id, Some(peer.conf_ver())))
            .chain(quarantined.iter().filter(is_known).copied())
            .collect(),
        client_address: node.advertised.client.clone(),
        peer_address: node.advertised.peer.clone(),
        http_address: node.advertised.http.clone(),
        disk_level: disk_level(disk.as_ref()).into(),
        session: part.session,
        sequence: part.sequence,
        led_no_more: part.led_no_more,
        more_reports: part.more,
    }
}

/// As others are told it. One without a disk, or that is not watched, has room.
pub(super) fn disk_level(disk: Option<&DiskStatus>) -> v1::DiskLevel {
    disk.map_or(Level::Normal, |disk| disk.level).into()
}

/// Where the driver was last found, and where to search for it.
#[derive(Default)]
pub(super) struct Way {
    node: Option<NodeId>,
    /// The node that was searched last. Only those with a peer of region 1 know who leads it, or those that
    /// were heard; so each heartbeat goes on behind the one before it, until all were asked.
    searched: Option<NodeId>,
}

/// Whom one heartbeat asks.
struct Course {
    /// Told by somebody, the last one first.
    told: Vec<Hint>,
    told_max: usize,
    /// Not asked yet, in reverse.
    others: Vec<NodeId>,
    searched_max: usize,
    /// Bound: as many as are asked.
    asked: Vec<Hint>,
}

impl Course {
    fn new(way: &mut Way, leader: Option<NodeId>, mut others: Vec<NodeId>) -> Self {
        others.sort();
        let behind = way.searched.map_or(0, |last| others.partition_point(|node| *node <= last));
        let count = others.len().max(1);
        others.rotate_left(behind % count);
        others.reverse();
        let told = way.node.take().into_iter().chain(leader).map(Hint::known).collect();
        let (told_max, searched_max) = (TOLD_MAX, SEARCHED_MAX);
        Self { told, told_max, others, searched_max, asked: Vec::new() }
    }

    fn is_told(&mut self, hint: Hint) {
        if self.told_max > 0 && !self.asked.contains(&hint) {
            self.told_max -= 1;
            self.told.push(hint);
        }
    }

    fn next(&mut self, way: &mut Way) -> Option<Hint> {
        loop {
            let next = match self.told.pop() {
                Some(told) => told,
                None if self.searched_max == 0 => return None,
                None => {
                    let node = self.others.pop()?;
                    self.searched_max -= 1;
                    way.searched = Some(node);
                    Hint::known(node)
                }
            };
            if !self.asked.contains(&next) {
                self.asked.push(next.clone());
                return Some(next);
            }
        }
    }
}

/// Where to ask for the driver next.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hint {
    node: NodeId,
    /// As another node has it; `None`: where this node knows it.
    address: Option<String>,
}

impl Hint {
    fn known(node: NodeId) -> Self {
        Self { node, address: None }
    }

    /// What an answer of a node that does not lead says of who does. Only the place of a question: what is
    /// known of the node stays as it is until the node itself has answered there.
    fn of(response: &v1::HeartbeatResponse) -> Option<Self> {
        let address = &response.leader_peer_address;
        let is_address = check_address("leader_peer_address", address).is_ok();
        let address = is_address.then(|| address.clone());
        let node = NodeId(response.leader_node_id);
        (node.0 != 0).then_some(Self { node, address })
    }

    /// Whether it is this process that is asked. Its own number at another place is not: the one who leads there
    /// may be another process, and one of the two a copy.
    fn is_here(&self, own: NodeId, peer_address: &str) -> bool {
        let elsewhere = self.address.as_ref().is_some_and(|address| address != peer_address);
        self.node == own && !elsewhere
    }

    /// That the node which answered from this address is the one that was asked for: the one that leads names
    /// itself, in the name of this cluster.
    fn is_proven_by(&self, response: &v1::HeartbeatResponse) -> bool {
        response.accepted && response.leader_node_id == self.node.0
    }
}

impl Way {
    async fn heartbeat(
        &mut self,
        node: &Node,
        joined: &Joined,
        request: v1::HeartbeatRequest,
    ) -> Result<v1::HeartbeatResponse, String> {
        let others = node.directory.others(joined.node);
        let mut course = Course::new(self, joined.driver.system_leader(), others);
        let began = clock::now();
        while let Some(target) = course.next(self) {
            let response = if target.is_here(joined.node, &node.advertised.peer) {
                joined.driver.hear(request.clone(), &Presence::default()).await
            } else {
                match ask(node, joined, &target, request.clone()).await {
                    Ok(response) => response,
                    Err(reason) => {
                        tracing::debug!(?target, reason, "asking for the driver");
                        // Told a wrong place, or an old one: where this node knows it is asked, too.
                        let own = node.directory.peer_address(target.node);
                        let is_own = target.node == joined.node;
                        if target.address.is_some_and(|told| is_own || own.as_ref() != Some(&told))
                        {
                            course.is_told(Hint::known(target.node));
                        }
                        if clock::now().saturating_duration_since(began) > SEARCH_MAX {
                            break;
                        }
                        continue;
                    }
                }
            };
            if response.accepted || response.removed {
                if target.node != joined.node && target.is_proven_by(&response) {
                    joined.peers.note_driver(target.node);
                }
                if let Some(address) = &target.address
                    && target.is_proven_by(&response)
                {
                    node.directory.see(target.node, address);
                }
                self.node = Some(target.node);
                joined.driver.found_at(target.node);
                return Ok(response);
            }
            if let Some(told) = Hint::of(&response) {
                course.is_told(told);
            }
        }
        Err("nobody that was asked leads region 1 now".to_owned())
    }
}

async fn ask(
    node: &Node,
    joined: &Joined,
    target: &Hint,
    request: v1::HeartbeatRequest,
) -> Result<v1::HeartbeatResponse, String> {
    let known = node.directory.peer_address(target.node).ok_or("it is not in the table")?;
    let address = target.address.clone().unwrap_or(known);
    let mut client = node.clients.get(joined.cluster, &address)?;
    match tokio::time::timeout(TIMEOUT, client.heartbeat(request)).await {
        // Ordering: before anything it says is looked at. That a node was removed, or is a copy, ends it.
        Ok(Ok(response)) if response.get_ref().cluster_id[..] != joined.cluster.0 => {
            Err("a node of another cluster answers at its address".to_owned())
        }
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(status.to_string()),
        Err(_) => Err("no answer".to_owned()),
    }
}

/// Whether a question may be asked twice without a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asking {
    Reads,
    Changes,
}

/// Asks `question` of the nodes until one that leads region 1 answers: first of the one that does as far as
/// this node knows, then of a few at a time. The answer of a node that does not lead is `Ok(None)`; an answer
/// that was lost on the way is `Err(Unanswered::Lost)`.
///
/// # Errors
/// Once the answer to a change was lost, every failure is `OutcomeUnknown`: another node is asked,
/// and what it refuses may be refused because of that change.
pub(super) async fn ask_driver<T, F>(
    node: &Arc<Node>,
    joined: &Joined,
    asking: Asking,
    question: F,
) -> Result<T, Error>
where
    F: Fn(PlacementClient) -> BoxFuture<'static, Result<Option<T>, Unanswered>>,
{
    let leader = joined.driver.system_leader().filter(|leader| *leader != joined.node);
    let mut others: Vec<NodeId> = node.directory.others(joined.node);
    others.retain(|other| Some(*other) != leader);
    // So that it is not the same ones each time that are left when the time is over.
    let first = clock::random() % others.len().max(1) as u64;
    others.rotate_left(usize::try_from(first).unwrap_or(0));
    let ask = |target| {
        let record = node.directory.node(target)?;
        let client = node.clients.get(joined.cluster, &record.peer_address).ok()?;
        Some(question(client))
    };
    ask_a_few_at_a_time(leader, others, asking, ASKING, ask).await
}

/// How long nodes are asked for the driver.
struct Patience {
    /// Bound: nodes that are asked at a time.
    at_once: usize,
    /// Bound: one question.
    each: Duration,
    /// After so long without an answer others are asked beside the one that is believed to lead.
    alone: Duration,
    /// Bound: all of it.
    whole: Duration,
}

const ASKING: Patience = Patience {
    at_once: 4,
    each: TIMEOUT.saturating_mul(2),
    alone: Duration::from_secs(1),
    whole: Duration::from_secs(12),
};

/// See [`ask_driver`]. `ask` answers `None` for a node that cannot be asked.
async fn ask_a_few_at_a_time<T>(
    leader: Option<NodeId>,
    others: Vec<NodeId>,
    asking: Asking,
    patience: Patience,
    ask: impl Fn(NodeId) -> Option<BoxFuture<'static, Result<Option<T>, Unanswered>>>,
) -> Result<T, Error> {
    let bounded = |target: NodeId| {
        let asked = ask(target)?;
        let lost = |_| Err(Unanswered::Lost("it did not answer".to_owned()));
        let each = patience.each;
        Some(async move { (target, tokio::time::timeout(each, asked).await.unwrap_or_else(lost)) })
    };
    let mut failures =
        Failures { asking, lost: None, last: Error::NoLeader { region: RegionId::SYSTEM } };
    let mut asked: FuturesUnordered<_> = leader.into_iter().filter_map(&bounded).collect();
    let mut others = others.into_iter().filter_map(&bounded).fuse();
    let end = clock::now() + patience.whole;
    let mut alone_until = clock::now() + patience.alone;
    let mut is_refused = false;
    loop {
        let is_alone = !asked.is_empty() && clock::now() < alone_until;
        while !is_alone
            && !is_refused
            && asked.len() < patience.at_once
            && let Some(next) = others.next()
        {
            asked.push(next);
        }
        // Whoever has been asked for a change may yet make it, whatever another one has said.
        if asked.is_empty() || (is_refused && asking == Asking::Reads) {
            return Err(failures.into_error());
        }
        let until = if is_alone { alone_until.min(end) } else { end };
        let Ok(answered) = tokio::time::timeout_at(until, asked.next()).await else {
            if clock::now() < end {
                continue;
            }
            failures.lost(&format!("asked {} nodes: they did not answer", asked.len()));
            return Err(failures.into_error());
        };
        // It was one that is not there, or that leads no more.
        alone_until = clock::now();
        let Some((target, answer)) = answered else { continue };
        match answer {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) | Err(Unanswered::Unsent) => {}
            Err(Unanswered::Lost(reason)) => {
                failures.lost(&format!("asked node {target}: {reason}"));
            }
            Err(Unanswered::Refused(error)) if is_refused => {
                tracing::debug!(%target, %error, "it refuses as well");
            }
            Err(Unanswered::Refused(error)) => {
                is_refused = !error.retryable() || error.maybe_applied();
                failures.last = error;
            }
        }
    }
}

/// Why the driver did not answer a question with what was asked for.
#[derive(Debug)]
pub(super) enum Unanswered {
    Refused(Error),
    /// The question may have been heard.
    Lost(String),
    /// There was nobody to hear it.
    Unsent,
}

impl From<Status> for Unanswered {
    fn from(status: Status) -> Self {
        if is_unsent(&status) { Self::Unsent } else { Self::Lost(status.message().to_owned()) }
    }
}

/// What one question has met on its way from node to node.
struct Failures {
    asking: Asking,
    lost: Option<String>,
    last: Error,
}

impl Failures {
    fn lost(&mut self, message: &str) {
        let message = message.to_owned();
        match self.asking {
            Asking::Reads => self.last = Error::NotReady { message },
            Asking::Changes => self.lost = Some(message),
        }
    }

    fn into_error(self) -> Error {
        match self.lost {
            None => self.last,
            Some(lost) => Error::OutcomeUnknown { message: format!("{lost}; then: {}", self.last) },
        }
    }
}

/// Regions as the driver knows them.
pub(super) async fn regions(
    node: &Arc<Node>,
    request: v1::RegionsRequest,
) -> Result<v1::RegionsResponse, Error> {
    let joined = node.joined().cloned().ok_or(Error::NotJoined { removed: node.is_removed() })?;
    if let Some(regions) = joined.driver.regions(&request).await {
        return Ok(regions);
    }
    ask_driver(node, &joined, Asking::Reads, |mut client| {
        let request = request.clone();
        async move {
            let response = client.regions(request).await?.into_inner();
            Ok(response.accepted.then_some(response))
        }
        .boxed()
    })
    .await
}

/// A region as its peer on this node knows it; where there is none, as the driver does.
///
/// # Errors
/// `RegionNotFound` when the driver does not know it either.
pub(super) async fn region(
    node: &Arc<Node>,
    joined: &Joined,
    id: RegionId,
) -> Result<Route, Error> {
    if let Some(peer) = joined.peers.get(id).filter(|peer| peer.view().is_initialized()) {
        let region = (*peer.view().published().descriptor).clone();
        return Ok(Route { region, leader: peer.leader().map(|(_, node)| node) });
    }
    let unknown = || Error::RegionNotFound { region: id };
    if id.0 == 0 {
        return Err(unknown());
    }
    let asked = v1::RegionsRequest { region_id: id.0, ..Default::default() };
    let found = regions(node, asked).await?.regions;
    found.into_iter().find_map(Route::of).ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node that does not lead may know an old place of the one that does, or tell any.
    #[test]
    fn place_of_the_driver_is_believed_once_the_driver_itself_answers_there() {
        let told = |leader_node_id, address: &str| v1::HeartbeatResponse {
            leader_node_id,
            leader_peer_address: address.to_owned(),
            ..v1::HeartbeatResponse::default()
        };
        let at = |node, address: Option<&str>| {
            Some(Hint { node: NodeId(node), address: address.map(str::to_owned) })
        };
        for (why, response, want) in [
            ("nobody", told(0, "n2:7421"), None),
            ("a node and its place", told(2, "n2:7421"), at(2, Some("n2:7421"))),
            ("no place", told(2, ""), at(2, None)),
            ("no address", told(2, "nowhere"), at(2, None)),
        ] {
            assert_eq!(Hint::of(&response), want, "{why}");
        }
        let hint = Hint { node: NodeId(2), address: Some("m2:7421".to_owned()) };
        let leads = |node| v1::HeartbeatResponse { accepted: true, ..told(node, "") };
        for (why, response, want) in [
            ("it answers there", leads(2), true),
            ("another one that leads", leads(3), false),
            ("one that says where the driver is", told(2, "m2:7421"), false),
        ] {
            assert_eq!(hint.is_proven_by(&response), want, "{why}");
        }
    }

    #[test]
    fn own_number_at_another_place_is_somebody_else() {
        for (node, address, want) in [
            (1, None, true),
            (1, Some("n1:7421"), true),
            (1, Some("m1:7421"), false),
            (2, None, false),
            (2, Some("n1:7421"), false),
        ] {
            let hint = Hint { node: NodeId(node), address: address.map(str::to_owned) };
            assert_eq!(hint.is_here(NodeId(1), "n1:7421"), want, "{hint:?}");
        }
    }

    /// Of many nodes few have a peer of region 1, and whoever has none and was not heard knows nobody.
    #[test]
    fn every_node_is_asked_for_the_driver_within_a_few_heartbeats() {
        let nodes: Vec<NodeId> = (1..=50).map(NodeId).collect();
        let mut way = Way::default();
        let mut asked = Vec::new();
        for _ in 0..4 {
            let mut course = Course::new(&mut way, None, nodes.clone());
            let before = asked.len();
            while let Some(next) = course.next(&mut way) {
                asked.push(next.node);
            }
            assert_eq!(asked.len() - before, SEARCHED_MAX);
        }
        asked.sort();
        asked.dedup();
        assert_eq!(asked, nodes);
    }

    #[test]
    fn whom_it_is_told_to_ask_is_asked_next_and_once() {
        let mut way = Way { node: Some(NodeId(7)), searched: None };
        let mut course = Course::new(&mut way, Some(NodeId(3)), vec![NodeId(1), NodeId(2)]);
        let mut next = |told: Option<Hint>| {
            told.into_iter().for_each(|told| course.is_told(told));
            course.next(&mut way).map(|hint| (hint.node.0, hint.address))
        };
        assert_eq!(next(None), Some((3, None)), "the leader that this node knows");
        assert_eq!(next(None), Some((7, None)), "where it was found last");
        let there = Hint { node: NodeId(3), address: Some("n3:7421".to_owned()) };
        assert_eq!(next(Some(Hint::known(NodeId(3)))), Some((1, None)), "it was asked");
        assert_eq!(next(Some(there.clone())), Some((3, Some("n3:7421".to_owned()))));
        assert_eq!(next(Some(there)), Some((2, None)));
        assert_eq!(next(None), None);
    }

    #[test]
    fn refusal_after_a_lost_answer_is_not_certain() {
        let moved = || Error::VersionMoved { expected: 1, actual: 2 };
        for (why, asking, lost, want) in [
            ("nobody was lost", Asking::Changes, false, moved()),
            (
                "the version may have been moved by the call whose answer was lost",
                Asking::Changes,
                true,
                Error::OutcomeUnknown { message: format!("asked node 3: gone; then: {}", moved()) },
            ),
            ("reading leaves no trace", Asking::Reads, true, moved()),
        ] {
            let mut failures =
                Failures { asking, lost: None, last: Error::NoLeader { region: RegionId::SYSTEM } };
            if lost {
                failures.lost("asked node 3: gone");
            }
            failures.last = moved();
            assert_eq!(failures.into_error(), want, "{why}");
        }
    }

    type Answered = Result<Option<u64>, Unanswered>;

    /// What each node answers, how many were asked at a time, and how long it took.
    async fn asked(
        leader: Option<u64>,
        others: std::ops::RangeInclusive<u64>,
        asking: Asking,
        answer: impl Fn(u64) -> BoxFuture<'static, Answered>,
    ) -> (Result<u64, Error>, usize, Duration) {
        let patience = Patience {
            at_once: 4,
            each: Duration::from_millis(200),
            alone: Duration::from_millis(50),
            whole: Duration::from_millis(700),
        };
        let (asked, most) = (Arc::new(()), std::cell::Cell::new(0));
        let ask = |node: NodeId| {
            let guard = Arc::clone(&asked);
            most.set(most.get().max(Arc::strong_count(&asked) - 1));
            let answer = answer(node.0);
            Some(answer.map(move |answer| (answer, drop(guard)).0).boxed())
        };
        let began = clock::now();
        let leader = leader.map(NodeId);
        let found =
            ask_a_few_at_a_time(leader, others.map(NodeId).collect(), asking, patience, ask).await;
        (found, most.get(), began.elapsed())
    }

    fn hung() -> BoxFuture<'static, Answered> {
        std::future::pending().boxed()
    }

    fn says(answer: Answered) -> BoxFuture<'static, Answered> {
        std::future::ready(answer).boxed()
    }

    #[tokio::test]
    async fn nodes_that_hang_do_not_hold_up_the_search_for_the_driver_one_after_the_other() {
        let nine_leads = |node| if node == 9 { says(Ok(Some(9))) } else { hung() };
        let (found, most, took) = asked(Some(1), 2..=9, Asking::Reads, nine_leads).await;
        assert_eq!((found, most), (Ok(9), 4));
        assert!(took >= Duration::from_millis(400), "four at a time: {took:?}");

        let (found, most, took) = asked(Some(1), 2..=100, Asking::Reads, |_| hung()).await;
        assert!(matches!(found, Err(Error::NotReady { .. })), "{found:?}");
        assert_eq!(most, 4);
        assert!(took >= Duration::from_millis(700), "{took:?}");
        let (found, ..) = asked(None, 1..=100, Asking::Changes, |_| hung()).await;
        assert!(matches!(found, Err(Error::OutcomeUnknown { .. })), "{found:?}");

        let none_leads = |_| says(Ok(None));
        let (found, ..) = asked(Some(1), 2..=100, Asking::Reads, none_leads).await;
        assert_eq!(found, Err(Error::NoLeader { region: RegionId::SYSTEM }));
    }

    #[tokio::test]
    async fn the_one_that_leads_is_asked_alone() {
        let (found, most, _) = asked(Some(1), 2..=9, Asking::Changes, |node| {
            assert_eq!(node, 1);
            says(Ok(Some(node)))
        })
        .await;
        assert_eq!((found, most), (Ok(1), 1));
    }

    /// The one that does not answer may have made the change for which another one refuses it.
    #[tokio::test]
    async fn refusal_beside_a_question_that_is_not_answered_is_not_certain() {
        let moved = || Error::VersionMoved { expected: 1, actual: 2 };
        let one_hangs = |node| match node {
            2 => says(Err(Unanswered::Refused(moved()))),
            _ => hung(),
        };
        let (found, ..) = asked(None, 1..=2, Asking::Changes, one_hangs).await;
        assert!(matches!(found, Err(Error::OutcomeUnknown { .. })), "{found:?}");
        let (found, ..) = asked(None, 1..=2, Asking::Reads, one_hangs).await;
        assert_eq!(found, Err(moved()));
        let alone = |node| if node == 2 { one_hangs(2) } else { says(Ok(None)) };
        let (found, ..) = asked(None, 1..=9, Asking::Changes, alone).await;
        assert_eq!(found, Err(moved()));
    }
}
