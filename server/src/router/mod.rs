//! Hop 2 of a request: from its keys to the peer that serves it.
//!
//! A request is served here when this node has the region: writes if it leads, reads on any peer.
//! Otherwise it is passed on once, to the leader, over the stream that the two nodes already share.
//! A caller that routes by itself is never passed on: it gets a typed error with the fix. For all
//! others the router tries again, inside the deadline, as long as the refusal is certain to have
//! changed nothing and time can mend it (an election, a split under way), and as long as those that wait
//! leave places to others. No region has more of the node's places than it leaves to others (`places.rs`).

mod cache;
mod places;
mod requests;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use flotilla_proto::{
    range::KeyRange,
    region::{Epoch, borders_of, range_of},
    touched,
    v1::{self, forward, forward_result, message::Body, read_command, refused::Reason},
};
use tokio::time::Instant;

use self::places::{Place, Places};
pub use self::{
    cache::{Lookup, Route, RouteCache},
    requests::{Context, Requests, Whole},
};
use crate::{
    command,
    error::Error,
    ids::{NodeId, RegionId},
    placement::directory::NodeDirectory,
    raft::transport::{Cause, Lane, NODE_MESSAGE_BYTES_MAX},
    region::{Peer, peers::Peers, propose::BUSY_RETRY_AFTER},
    trail,
    world::clock,
};

/// Pause before a refused request is tried again; doubled up to the second, halved at random.
const RETRY_MIN: Duration = Duration::from_millis(5);
const RETRY_MAX: Duration = Duration::from_millis(200);
/// How much of the deadline the far side of a passed-on request is not given, so that its answer
/// arrives in time.
const HOP: Duration = Duration::from_millis(5);

/// Stands for whichever region it is that is waited for.
const UNKNOWN_REGION: RegionId = RegionId(0);

/// Finds the peer for a request. Cheap to clone.
#[derive(Clone)]
pub struct Router {
    shared: Arc<Shared>,
}

struct Shared {
    peers: Arc<Peers>,
    directory: Arc<NodeDirectory>,
    cache: RouteCache,
    requests: Places,
    scans: Places,
}

/// Where a region can be asked.
enum Target {
    Here(Arc<Peer>),
    There { region: v1::Region, leader: Option<NodeId> },
}

/// Which of the node's bounded places a request has.
#[derive(Clone, Copy)]
enum Kind {
    Request,
    Scan,
}

impl Router {
    /// `requests_max` is how many requests of clients the node has under way at most, `scans_max` how many
    /// scans beside them.
    #[must_use]
    pub fn new(
        peers: Arc<Peers>,
        directory: Arc<NodeDirectory>,
        cache: RouteCache,
        requests_max: usize,
        scans_max: usize,
    ) -> Self {
        let (requests, scans) = (Places::new(requests_max), Places::new(scans_max));
        Self { shared: Arc::new(Shared { peers, directory, cache, requests, scans }) }
    }

    fn busy(&self, queue: &str) -> Error {
        self.shared.peers.environment().metrics.raft.busy(queue);
        Error::Busy { queue: queue.to_owned(), retry_after: BUSY_RETRY_AFTER }
    }

    /// Counts a request to `region` from now on, instead of to what it was counted to before.
    fn count<'a>(
        &'a self,
        cx: &Context,
        kind: Kind,
        region: RegionId,
        peer: Option<&Peer>,
        place: &mut Option<Place<'a>>,
    ) -> Result<(), Error> {
        trail::note(|trail| trail.region = (region != UNKNOWN_REGION).then_some(region));
        if place.as_ref().is_some_and(|place| place.region == region) {
            return Ok(());
        }
        let (places, here) = match kind {
            Kind::Request => (&self.shared.requests, peer.map(|peer| &peer.held.requests)),
            Kind::Scan => (&self.shared.scans, peer.map(|peer| &peer.held.scans)),
        };
        *place = places.enter(region, here, cx.whole.as_deref());
        if place.is_some() { Ok(()) } else { Err(self.busy("region_requests")) }
    }

    /// Serves `attempt` at the place of `key`, again while that helps.
    async fn run<T, F, Fut>(
        &self,
        cx: &Context,
        kind: Kind,
        key: &Bytes,
        attempt: F,
    ) -> Result<T, Error>
    where
        F: Fn(Target) -> Fut,
        Fut: Future<Output = Result<T, Error>>,
    {
        let mut pause = RETRY_MIN;
        let mut place = None;
        trail::note(|trail| trail.key = Some(key.clone()));
        loop {
            let result = match self.locate(cx, kind, key, &mut place).await {
                Ok(target) => attempt(target).await,
                Err(error) => Err(error),
            };
            let error = match result {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            self.learn(&error);
            let time_mends = matches!(
                error,
                Error::NotLeader { .. }
                    | Error::NoLeader { .. }
                    | Error::RegionNotFound { .. }
                    | Error::EpochNotMatch { .. }
                    | Error::NotReady { .. }
            );
            let is_over = cx.route.is_some() || clock::now() + pause >= cx.deadline;
            // Who may not wait is told at once what it would wait for.
            if !time_mends || is_over || !place.as_mut().is_some_and(Place::may_wait) {
                return Err(self.with_address(error));
            }
            tokio::time::sleep(clock::jitter(pause)).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    /// Where `key` is, with a place that is counted to its region.
    async fn locate<'a>(
        &'a self,
        cx: &Context,
        kind: Kind,
        key: &[u8],
        place: &mut Option<Place<'a>>,
    ) -> Result<Target, Error> {
        let here = self.shared.peers.route(key);
        if let Some((region, epoch)) = &cx.route {
            let peer = self
                .shared
                .peers
                .get(*region)
                .filter(|peer| peer.view().is_initialized())
                .ok_or(Error::RegionNotFound { region: *region })?;
            let descriptor = peer.view().published().descriptor;
            if !Epoch::of(&descriptor).range_verdict(epoch.version).fits() {
                return Err(Error::EpochNotMatch { regions: vec![(*descriptor).clone()] });
            }
            if !peer.view().range().contains(key) {
                return Err(Error::KeyNotInRegion { region: Box::new((*descriptor).clone()) });
            }
            self.count(cx, kind, peer.region, Some(&peer), place)?;
            return Ok(Target::Here(peer));
        }
        if let Some(peer) = here {
            self.count(cx, kind, peer.region, Some(&peer), place)?;
            return Ok(Target::Here(peer));
        }
        let route = match self.shared.cache.get(key) {
            Some(route) => route,
            None => {
                // One that was forgotten is most likely still what is waited for.
                if place.is_none() {
                    self.count(cx, kind, UNKNOWN_REGION, None, place)?;
                }
                self.shared.cache.find(key, cx.deadline).await?
            }
        };
        self.count(cx, kind, RegionId(route.region.region_id), None, place)?;
        Ok(Target::There { region: route.region, leader: route.leader })
    }

    fn learn(&self, error: &Error) {
        match error {
            Error::EpochNotMatch { regions } => {
                regions.iter().for_each(|region| self.shared.cache.forget_range(region));
            }
            Error::RegionNotFound { region } | Error::NoLeader { region } => {
                self.shared.cache.forget(*region);
            }
            Error::NotLeader { region, leader } => {
                let node = leader.as_ref().map(|leader| NodeId(leader.node_id));
                self.shared.cache.learn_leader(*region, node);
            }
            _ => {}
        }
    }

    /// Adds what only the node table knows.
    fn with_address(&self, error: Error) -> Error {
        match error {
            Error::NotLeader { region, leader: Some(mut leader) } => {
                leader.client_address =
                    self.shared.directory.client_address(NodeId(leader.node_id));
                Error::NotLeader { region, leader: Some(leader) }
            }
            error => error,
        }
    }

    /// Passes a request on to another node and answers what that node answered.
    async fn pass_on(
        &self,
        node: NodeId,
        region: RegionId,
        epoch_version: u64,
        deadline: Instant,
        request: forward::Request,
    ) -> Result<forward_result::Result, Error> {
        let is_read = matches!(request, forward::Request::Read(_));
        let left = deadline.saturating_duration_since(clock::now()).saturating_sub(HOP);
        if left.is_zero() {
            return Err(Error::DeadlineExceeded { message: "before it was passed on".to_owned() });
        }
        let env = self.shared.peers.environment();
        env.metrics.raft.forwarded();
        let message = v1::Message {
            request_id: 0,
            region_id: region.0,
            from_peer: 0,
            // Whichever peer of the region is there.
            to_peer: 0,
            body: Some(Body::Forward(v1::Forward {
                epoch_version,
                deadline_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
                request: Some(request),
            })),
        };
        // What was certainly not started may be tried again; what may have been must be told.
        let lost = |message: String| {
            if is_read { Error::NoLeader { region } } else { Error::OutcomeUnknown { message } }
        };
        trail::note(|trail| trail.passed_on_to = Some(node));
        let called = env.transport.call(node, Lane::Forward, message);
        match tokio::time::timeout_at(deadline, called).await {
            Err(_) => Err(if is_read {
                Error::DeadlineExceeded { message: format!("node {node} did not answer") }
            } else {
                Error::OutcomeUnknown { message: format!("node {node} did not answer in time") }
            }),
            Ok(Err(error)) => Err(match error.cause {
                Cause::Full => self.busy("forwards"),
                Cause::TooLarge { .. } => Error::InvalidArgument {
                    field: "request".to_owned(),
                    message: format!("it cannot be passed on to node {node}: {}", error.cause),
                    limit: NODE_MESSAGE_BYTES_MAX as u64,
                },
                Cause::Unsent(_) | Cause::Stranger(_) => Error::NoLeader { region },
                Cause::Lost(_) => lost(error.to_string()),
            }),
            Ok(Ok(answer)) => match answer.body {
                Some(Body::ForwardResult(v1::ForwardResult { result: Some(result) })) => {
                    match result {
                        forward_result::Result::Failure(failure) => {
                            Err(Error::from_failure(failure))
                        }
                        result => Ok(result),
                    }
                }
                // Refused before it reached a peer.
                Some(Body::Refused(refused)) => match refused.reason() {
                    Reason::UnknownPeer | Reason::Tombstone => {
                        Err(Error::RegionNotFound { region })
                    }
                    Reason::SenderRemoved => Err(Error::NotJoined { removed: true }),
                    Reason::Busy => Err(self.busy("forwards")),
                    // It was handled.
                    Reason::AnswerTooLarge if is_read => Err(Error::InvalidArgument {
                        field: "request".to_owned(),
                        message: refused.message,
                        limit: NODE_MESSAGE_BYTES_MAX as u64,
                    }),
                    Reason::AnswerTooLarge => {
                        Err(Error::OutcomeUnknown { message: refused.message })
                    }
                    _ => Err(Error::NoLeader { region }),
                },
                _ => Err(lost("an answer of another kind".to_owned())),
            },
        }
    }

    async fn write_at(
        &self,
        cx: &Context,
        target: Target,
        command: v1::WriteCommand,
    ) -> Result<v1::WriteReply, Error> {
        let (region, version, node) = match target {
            Target::Here(peer) => {
                let descriptor = peer.view().published().descriptor;
                self.check_keys(&command, &descriptor)?;
                let version = Epoch::of(&descriptor).version;
                if peer.is_leader() {
                    return peer.propose_write(command, version, cx.deadline).await;
                }
                if cx.route.is_some() {
                    return Err(peer.not_leader());
                }
                let (_, node) = peer.leader().ok_or(Error::NoLeader { region: peer.region })?;
                (peer.region, version, node)
            }
            Target::There { region, leader } => {
                self.check_keys(&command, &region)?;
                let id = RegionId(region.region_id);
                let node = self.some_node(&region, leader).ok_or(Error::NoLeader { region: id })?;
                (id, Epoch::of(&region).version, node)
            }
        };
        let request = forward::Request::Write(command);
        match self.pass_on(node, region, version, cx.deadline, request).await? {
            forward_result::Result::Write(reply) => Ok(reply),
            _ => Err(Error::OutcomeUnknown { message: "an answer of another kind".to_owned() }),
        }
    }

    /// A transaction that only reads: with the proof that the caller asks for, and without the log.
    async fn read_txn_at(
        &self,
        cx: &Context,
        target: Target,
        command: v1::WriteCommand,
    ) -> Result<v1::WriteReply, Error> {
        match &target {
            Target::Here(peer) => {
                self.check_keys(&command, &peer.view().published().descriptor)?;
            }
            Target::There { region, .. } => self.check_keys(&command, region)?,
        }
        let read = v1::ReadCommand {
            read_mode: cx.read_mode.into(),
            body: Some(read_command::Body::Txn(command)),
            ..v1::ReadCommand::default()
        };
        let reply = self.read_at(cx, target, read).await?;
        reply.txn.ok_or_else(|| Error::Internal { message: "an answer of another kind".to_owned() })
    }

    async fn read_at(
        &self,
        cx: &Context,
        target: Target,
        mut read: v1::ReadCommand,
    ) -> Result<v1::ReadReply, Error> {
        let (id, version, node) = match target {
            Target::Here(peer) => {
                let descriptor = peer.view().published().descriptor;
                check_read(&read, &descriptor)?;
                read.epoch_version = Epoch::of(&descriptor).version;
                let answer = peer.read(&read, cx.deadline).await;
                // What its leader does not have it has no proof of, and never will.
                let is_refused = matches!(answer, Err(Error::NotLeader { .. }))
                    && cx.route.is_none()
                    && peer.contradiction().is_some();
                let Some((_, node)) = peer.leader().filter(|_| is_refused) else { return answer };
                (peer.region, read.epoch_version, node)
            }
            Target::There { region, leader } => {
                check_read(&read, &region)?;
                let id = RegionId(region.region_id);
                let node = self.some_node(&region, leader).ok_or(Error::NoLeader { region: id })?;
                (id, Epoch::of(&region).version, node)
            }
        };
        let request = forward::Request::Read(read);
        match self.pass_on(node, id, version, cx.deadline, request).await? {
            forward_result::Result::Read(reply) => Ok(reply),
            _ => Err(Error::Internal { message: "an answer of another kind".to_owned() }),
        }
    }

    /// The leader's node, else any other that has the region and is not this one.
    fn some_node(&self, region: &v1::Region, leader: Option<NodeId>) -> Option<NodeId> {
        let own = self.shared.peers.environment().node;
        leader.filter(|node| *node != own).or_else(|| {
            region.peers.iter().map(|peer| NodeId(peer.node_id)).find(|node| *node != own)
        })
    }

    /// Refuses a command whose keys are not all in `region`.
    fn check_keys(&self, command: &v1::WriteCommand, region: &v1::Region) -> Result<(), Error> {
        let range = range_of(region);
        if touched::of_write(command).all(|part| part.lies_in(&range)) {
            return Ok(());
        }
        let mut regions = Vec::new();
        for part in touched::of_write(command) {
            for region in self.regions_of(&part.range())? {
                let id = RegionId(region.region_id);
                if !regions.contains(&id) {
                    regions.push(id);
                }
            }
        }
        Err(Error::CrossRegion { regions })
    }

    /// Makes every peer of a region compute a checksum; answers the index of the entry. `route` says who
    /// leads it if no peer here does.
    ///
    /// # Errors
    /// As for a write.
    pub async fn propose_checksum(
        &self,
        route: &Route,
        check_id: u64,
        deadline: Instant,
    ) -> Result<u64, Error> {
        let region = RegionId(route.region.region_id);
        if let Some(peer) = self.shared.peers.get(region).filter(|peer| peer.is_leader()) {
            return peer.propose_checksum(check_id, deadline).await;
        }
        let node = route.leader.ok_or(Error::NoLeader { region })?;
        let version = Epoch::of(&route.region).version;
        let request = forward::Request::Checksum(v1::ChecksumCommand { check_id });
        match self.pass_on(node, region, version, deadline, request).await? {
            forward_result::Result::Done(done) => Ok(done.index),
            _ => Err(Error::OutcomeUnknown { message: "an answer of another kind".to_owned() }),
        }
    }
}

fn check_read(read: &v1::ReadCommand, region: &v1::Region) -> Result<(), Error> {
    let range = range_of(region);
    let inside = read.body.is_some() && touched::of_read(read).all(|part| part.lies_in(&range));
    if inside { Ok(()) } else { Err(Error::EpochNotMatch { regions: vec![region.clone()] }) }
}

impl Requests for Router {
    async fn write(&self, cx: Context, command: v1::WriteCommand) -> Result<v1::WriteReply, Error> {
        let key = touched::of_write(&command)
            .next()
            .map(|part| part.start().clone())
            .ok_or_else(|| Error::invalid("ops", "there is nothing to do"))?;
        if command::only_reads(&command) {
            let attempt = |target| self.read_txn_at(&cx, target, command.clone());
            return self.run(&cx, Kind::Request, &key, attempt).await;
        }
        self.run(&cx, Kind::Request, &key, |target| self.write_at(&cx, target, command.clone()))
            .await
    }

    async fn read_points(&self, cx: Context, keys: Vec<Bytes>) -> Result<v1::ReadReply, Error> {
        let Some(key) = keys.first().cloned() else { return Ok(v1::ReadReply::default()) };
        let read = v1::ReadCommand {
            read_mode: cx.read_mode.into(),
            body: Some(read_command::Body::Points(v1::PointReads { keys })),
            ..v1::ReadCommand::default()
        };
        self.run(&cx, Kind::Request, &key, |target| self.read_at(&cx, target, read.clone())).await
    }

    async fn read_range(&self, cx: Context, range: v1::RangeRead) -> Result<v1::ReadReply, Error> {
        let key = range.start_key.clone();
        let read = v1::ReadCommand {
            read_mode: cx.read_mode.into(),
            body: Some(read_command::Body::Range(range)),
            ..v1::ReadCommand::default()
        };
        self.run(&cx, Kind::Scan, &key, |target| self.read_at(&cx, target, read.clone())).await
    }

    fn regions_of(&self, range: &KeyRange) -> Result<Vec<v1::Region>, Error> {
        let mut regions = Vec::new();
        let mut next = range.start.clone();
        loop {
            let region = match self.shared.peers.route(&next) {
                Some(peer) => (*peer.view().published().descriptor).clone(),
                None => self.shared.cache.known(&next).ok_or_else(|| {
                    self.shared.cache.prefetch(next.clone());
                    Error::NotReady { message: "the regions of this key are looked up".to_owned() }
                })?,
            };
            let is_last = borders_of(&region).reaches(&range.end);
            next = region.end_key.clone();
            regions.push(region);
            if is_last {
                return Ok(regions);
            }
        }
    }
}
