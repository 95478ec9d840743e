//! How a cluster is born: whole, once.
//!
//! A cluster that begins as one node and grows has a time in which one disk holds everything that was
//! acknowledged; and a node that may make a cluster whenever its disk is empty makes a second one
//! when its disk is lost. So a cluster is made of all its first nodes at a time, by nodes that see
//! each other without one. They are told how many they are (`--bootstrap-expect`) and where (`--join`),
//! all the same, and each asks the others who they are (`birth/meeting.rs`):
//!
//! - When anybody answers as a member of a cluster, that one is joined. So a wiped first node joins its
//!   neighbours, in whatever order they start.
//! - When *all* answer and none is a member, the one with the smallest disk number is the *founder*.
//!   Somebody who is silent may be a member: then nobody makes a cluster.
//!
//! Nodes that were told of different ones could come to two founders, each with all of its own list. So each
//! tells which disks it was told of (`StatusResponse.told_of`), by who answers and not by how addresses are
//! spelt; a founder makes nothing unless all of them were told of the same, and one that is asked for its promise
//! compares again.
//!
//! That many nodes all reach all in one moment is rare on a network that loses messages. So a node tells for some
//! seconds of a disk that answered and is silent now (`meeting::Met`), unless another disk answers there. Nothing is
//! founded on that alone: the founder itself has heard all of them in the round in which it decides, as alive,
//! without a cluster and free. And a node tells so only where as many are expected as it was told of, so that each
//! of them has to promise itself: of two births that share one of them, at most one gets its promise, whatever it
//! told before. A node that may be left out of a birth, because more are here than are expected, is not
//! protected by a promise of its own; it tells only of those that all answered at once.
//!
//! `Initialize` names the nodes instead, which must have no list of their own; the one that is called is the
//! founder.
//!
//! 1. The founder draws up the birth (`birth/plan.rs`): ids, regions with their voters, the node table. All
//!    that any node writes later follows from it.
//! 2. It asks each of the others to promise itself (`PromiseBirth`). A promised node has the birth on its
//!    disk before it answers, and from then on is of no other and joins nothing.
//! 3. When all have promised, the founder decides by being born: its regions and its identity are synced
//!    to its disk. That write is the decision; before it nobody acts.
//! 4. A promised node is born when it hears that anybody was born by this birth, which it asks for all the
//!    time. Then it writes what follows from the birth, too, and takes part in its regions.
//!
//! Invariant: a peer that votes is one of a birth that all its nodes have on their disks, and each of them
//! holds the same descriptor, state and log mark of a region. So no two majorities are counted from
//! different sets of voters.
//!
//! Who dies in the middle comes back to one of two ends. A founder that has not decided remembers nothing
//! of the birth: it has its disk's number and no birth, which tells the promised that it will never be
//! decided; they are free again. One that has decided is a member, which tells them that it was. A
//! promised node that dies has its promise on the disk and goes on asking. Until the founder is back the
//! promised wait, for it may have decided; that costs nobody anything, since without one of them no
//! majority is there and nothing was acknowledged. If its disk is lost as well, they are free
//! once all others tell that they were not born, some seconds after it was found to be lost: who heard from it just
//! before may not have done yet what follows from that. For a founder whose address is lost, too, a person empties the
//! disks of those that are not joined: what goes with such a disk is a promise, and no vote and no value.

pub(super) mod ask;
pub(super) mod meeting;
pub(super) mod newcomer;
mod plan;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use flotilla_proto::{clients, v1};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tonic::{Code, Status};

use self::plan::Newborn;
use super::{Joined, Node, identity};
use crate::{
    api,
    error::Error,
    feature_level,
    ids::ClusterId,
    placement::directory::TableError,
    region::lifecycle,
    storage::engine,
    world::{blocking, clock, dial, maps::HashSet},
};

/// Bound: wait for one node's promise.
const PROMISE_TIMEOUT: Duration = Duration::from_secs(5);
const PROMISE_RETRY: Duration = Duration::from_millis(200);
/// Bound: wait for another change of who this node is. Shorter than a promise is waited for, so that two
/// founders that ask each other are both refused, and not both silent.
const TURN_TIMEOUT: Duration = Duration::from_secs(1);
/// How often, and how long, a newborn peer that is first of its region asks to lead it. After that the
/// region's election timeouts do.
const CAMPAIGN_PAUSE_MIN: Duration = Duration::from_millis(50);
const CAMPAIGN_PAUSE_MAX: Duration = Duration::from_millis(800);
const CAMPAIGN_MAX: Duration = Duration::from_secs(10);

/// What a node knows of births.
pub(super) struct Births {
    /// As on the disk.
    newcomer: Mutex<v1::Newcomer>,
    /// The birth that this node is the founder of, unless it gave it up.
    founding: Mutex<Option<Bytes>>,
    /// The birth that its identity is of; empty if it is of none.
    born_by: Mutex<Bytes>,
    /// The node was promised.
    pub(super) changed: Notify,
    /// Why the node is of no cluster yet; empty when it was not told to find one.
    waits: Mutex<String>,
    /// See `StatusResponse.told_of`: of the last time that it asked.
    told_of: Mutex<Vec<Bytes>>,
}

impl Births {
    pub(super) fn open(
        log: &dyn engine::Engine,
        data: &dyn engine::Engine,
    ) -> Result<Self, engine::Error> {
        Ok(Self {
            newcomer: Mutex::new(newcomer::open(log, data)?),
            founding: Mutex::default(),
            born_by: Mutex::default(),
            changed: Notify::new(),
            waits: Mutex::default(),
            told_of: Mutex::default(),
        })
    }

    pub(super) fn promised(&self) -> Option<v1::Birth> {
        self.newcomer.lock().promised.clone()
    }

    pub(super) fn note_wait(&self, reason: &str) {
        reason.clone_into(&mut self.waits.lock());
    }

    pub(super) fn note_told_of(&self, disks: Vec<Bytes>) {
        *self.told_of.lock() = disks;
    }

    /// Why the node is of no cluster, in words.
    pub(super) fn waits(&self) -> String {
        let reason = self.waits.lock();
        if reason.is_empty() { "not joined".to_owned() } else { format!("not joined: {reason}") }
    }

    pub(super) fn disk_id(&self) -> Bytes {
        self.newcomer.lock().disk_id.clone()
    }

    /// The identity of this node is of this birth; empty: of none.
    pub(super) fn note_birth(&self, birth_id: &Bytes) {
        self.born_by.lock().clone_from(birth_id);
    }

    /// As told to others: see `StatusResponse.birth_id`.
    ///
    /// Ordering: `joined` must be read before. A founder of which it is not true yet tells the birth that it
    /// is founding, also when it is decided meanwhile.
    pub(super) fn birth_id(&self, joined: bool) -> Bytes {
        if joined {
            return self.born_by.lock().clone();
        }
        if let Some(founding) = self.founding.lock().clone() {
            return founding;
        }
        self.promised().map(|birth| birth.birth_id).unwrap_or_default()
    }
}

/// Tells others that this node is about to decide on a birth. Dropped before it decides, it tells that it
/// never will.
struct Founding<'a> {
    births: &'a Births,
    may_be_decided: bool,
}

impl<'a> Founding<'a> {
    fn of(births: &'a Births, birth: &v1::Birth) -> Self {
        *births.founding.lock() = Some(birth.birth_id.clone());
        Self { births, may_be_decided: false }
    }

    /// Ordering: before the first write of the decision. From here on nobody may hear that it was given up.
    fn decide(mut self) {
        self.may_be_decided = true;
    }
}

impl Drop for Founding<'_> {
    fn drop(&mut self) {
        if !self.may_be_decided {
            *self.births.founding.lock() = None;
        }
    }
}

/// Makes a cluster of this node and those that are named, or says that it did.
///
/// # Errors
/// When this node or one of the others is of a cluster, or is to find one by itself.
pub(super) async fn initialize(
    node: &Arc<Node>,
    request: v1::InitializeRequest,
) -> Result<v1::InitializeResponse, Error> {
    let _joining = node.joining.lock().await;
    if let Some(stored) = identity::read_stored(node.log.as_ref()).map_err(storage)? {
        let id = ClusterId::from_bytes(&stored.cluster_id).map(|id| id.to_string());
        if plan::is_repeat(&stored, &request) {
            return Ok(v1::InitializeResponse {
                cluster_id: id.unwrap_or_default(),
                node_id: stored.node_id,
            });
        }
        return Err(refused(format!(
            "this node already belongs to cluster {}",
            id.unwrap_or_default()
        )));
    }
    if !node.config.join.is_empty() || node.config.bootstrap_expect > 0 {
        return Err(refused(
            "this node was told to find its cluster by itself (--join, --bootstrap-expect)",
        ));
    }
    let nodes = first_nodes(node, &request.first_nodes).await?;
    let digest = plan::digest(&request);
    let identity = found(node, &request, digest, &nodes).await?;
    Ok(v1::InitializeResponse {
        cluster_id: identity.cluster.to_string(),
        node_id: identity.node.0,
    })
}

/// Makes a cluster of this node and `others`, which it has just met.
///
/// # Errors
/// When one of them does not promise itself: then nothing has happened.
pub(super) async fn found_with(
    node: &Arc<Node>,
    nodes: &[v1::StatusResponse],
) -> Result<ClusterId, Error> {
    let _joining = node.joining.lock().await;
    if identity::read_stored(node.log.as_ref()).map_err(storage)?.is_some() {
        return Err(refused("this node belongs to a cluster"));
    }
    let identity = found(node, &v1::InitializeRequest::default(), 0, nodes).await?;
    Ok(identity.cluster)
}

/// This node first, then those at `addresses`, asked who they are.
async fn first_nodes(node: &Node, addresses: &[String]) -> Result<Vec<v1::StatusResponse>, Error> {
    if addresses.len() > plan::FIRST_NODES_MAX {
        return Err(Error::InvalidArgument {
            field: "first_nodes".to_owned(),
            message: format!("{} nodes", addresses.len()),
            limit: plan::FIRST_NODES_MAX as u64,
        });
    }
    let own = node.introduce();
    let mut named = HashSet::default();
    let asked = addresses.iter().map(async |address| {
        if *address == own.client_address {
            return meeting::Asked { address: address.clone(), answer: Ok(own.clone()) };
        }
        ask::ask(address).await
    });
    let asked = futures::future::join_all(asked).await;
    let mut nodes = vec![own.clone()];
    for asked in asked {
        let meeting::Asked { address, answer } = asked;
        let status = answer.map_err(|why| refused(format!("{address}: {why}")))?;
        // Not passed over: a name that leads to another node than it should would make a cluster of fewer nodes than
        // were asked for.
        if !named.insert(status.disk_id.clone()) {
            let advertised = &status.client_address;
            return Err(refused(format!(
                "the node at {address} is the one at {advertised}, which is named already: name each once"
            )));
        }
        // Named or not, and however it is spelt.
        if status.disk_id == own.disk_id {
            continue;
        }
        if status.joined || status.removed {
            let cluster = &status.cluster_id;
            return Err(refused(format!("the node at {address} belongs to cluster {cluster}")));
        }
        if status.bootstrap_expect > 0 {
            return Err(refused(format!(
                "the node at {address} was told to find its cluster by itself (--bootstrap-expect)"
            )));
        }
        if !status.birth_id.is_empty() || status.disk_id.is_empty() {
            return Err(refused(format!("the node at {address} takes part in another birth")));
        }
        nodes.push(status);
    }
    Ok(nodes)
}

/// Founds a cluster: see the module. To be called with `Node::joining` held, on a node without an identity.
/// `digest`: of the call that asks for it; 0 when a flag does.
async fn found(
    node: &Arc<Node>,
    request: &v1::InitializeRequest,
    digest: u64,
    nodes: &[v1::StatusResponse],
) -> Result<identity::DiskIdentity, Error> {
    let births = &node.births;
    if births.promised().is_some() {
        return Err(refused("this node has promised itself to the birth of another cluster"));
    }
    let mut birth = plan::plan(request, nodes, node.config.limits.key_bytes_max)?;
    birth.initialize_digest = digest;
    let founding = Founding::of(births, &birth);
    crate::crash_point!("birth-before-promises");
    // The founder's answer to itself is among them: what it was told of when it decided to found.
    let told_of = nodes.iter().find(|node| node.disk_id == births.disk_id());
    let told_of = told_of.map_or(&[][..], |own| &own.told_of);
    let others = birth.nodes.iter().filter(|other| other.disk_id != births.disk_id());
    let asking = others.map(|other| ask_promise(&birth, other, told_of));
    for promised in futures::future::join_all(asking).await {
        promised?;
    }
    crate::crash_point!("birth-before-decision");
    founding.decide();
    let identity = be_born(node, &birth).await?;
    crate::crash_point!("birth-after-decision");
    Ok(identity)
}

async fn ask_promise(
    birth: &v1::Birth,
    node: &v1::FirstNode,
    told_of: &[Bytes],
) -> Result<(), Error> {
    let address = node.record.as_ref().map_or("", |record| &record.peer_address);
    let failed = |why: String| refused(format!("the node at {address} is not of it: {why}"));
    // Asked again, it promises again: so a message that was lost does not end the birth for all the others.
    let mut last = "it does not answer".to_owned();
    let asking = async {
        loop {
            let asked = async {
                let channel = dial::node(address).map_err(Status::invalid_argument)?;
                let channel = channel.connect().await;
                let channel = channel.map_err(|error| Status::unavailable(error.to_string()))?;
                let mut client = clients::placement(channel);
                let request = v1::PromiseBirthRequest {
                    birth: Some(birth.clone()),
                    disk_id: node.disk_id.clone(),
                    told_of: told_of.to_vec(),
                };
                client.promise_birth(request).await
            };
            match asked.await {
                Ok(_) => return Ok(()),
                Err(status) if status.code() == Code::Unavailable => {
                    status.message().clone_into(&mut last);
                    tokio::time::sleep(clock::jitter(PROMISE_RETRY)).await;
                }
                Err(status) => return Err(status.message().to_owned()),
            }
        }
    };
    match tokio::time::timeout(PROMISE_TIMEOUT, asking).await {
        Ok(promised) => promised.map_err(failed),
        Err(_) => Err(failed(last)),
    }
}

/// Promises this node to a birth.
///
/// Durability: on the disk before it is answered; doing it again does nothing.
pub(super) async fn promise(
    node: &Arc<Node>,
    request: v1::PromiseBirthRequest,
) -> Result<(), Status> {
    let refuse = |why: &str| Err(Status::failed_precondition(why.to_owned()));
    let internal = |error: engine::Error| Status::internal(error.to_string());
    let Ok(_joining) = tokio::time::timeout(TURN_TIMEOUT, node.joining.lock()).await else {
        return refuse("it is about to become somebody else");
    };
    let birth = request.birth.ok_or_else(|| Status::invalid_argument("no birth"))?;
    let before = node.births.newcomer.lock().clone();
    if request.disk_id != before.disk_id {
        return refuse("it has another disk than the one that was asked");
    }
    if let Some(stored) = identity::read_stored(node.log.as_ref()).map_err(internal)? {
        return if stored.birth_id == birth.birth_id {
            Ok(())
        } else {
            refuse("it belongs to a cluster")
        };
    }
    let key_bytes_max = node.config.limits.key_bytes_max;
    match plan::newborn(&birth, &before.disk_id, key_bytes_max) {
        Ok(Some(_)) => {}
        Ok(None) => return Err(Status::invalid_argument("a birth without the one that is asked")),
        Err(error) => return Err(api::status(&error)),
    }
    // It may have met others, or been started with other flags, since the founder asked.
    let expects = node.config.bootstrap_expect;
    if !meeting::goes_with(expects, &node.births.told_of.lock(), &request.told_of) {
        return refuse("it was told of other nodes (--bootstrap-expect, --join)");
    }
    if let Some(promised) = &before.promised
        && promised.birth_id != birth.birth_id
    {
        // Also where both are of one founder: the request may be an old one that was long on its way. This
        // node asks the founder of the other by itself, and is free as soon as that was given up.
        return refuse("it has promised itself to another birth");
    }
    crate::crash_point!("promise-before-write");
    let promised = v1::Newcomer { promised: Some(birth), ..before };
    newcomer::write(node.log.as_ref(), &promised).map_err(internal)?;
    *node.births.newcomer.lock() = promised;
    node.births.changed.notify_one();
    crate::crash_point!("promise-after-write");
    Ok(())
}

/// The birth that this node was promised to will never take place.
pub(super) async fn release(node: &Arc<Node>, birth: &v1::Birth) -> Result<(), Error> {
    let _joining = node.joining.lock().await;
    let before = node.births.newcomer.lock().clone();
    if before.promised.as_ref() != Some(birth) {
        return Ok(());
    }
    let free = v1::Newcomer { promised: None, ..before };
    newcomer::write(node.log.as_ref(), &free).map_err(storage)?;
    *node.births.newcomer.lock() = free;
    Ok(())
}

/// The birth that this node was promised to has taken place: it is born, too.
pub(super) async fn follow(node: &Arc<Node>, birth: &v1::Birth) -> Result<ClusterId, Error> {
    let _joining = node.joining.lock().await;
    if identity::read_stored(node.log.as_ref()).map_err(storage)?.is_some()
        || node.births.promised().as_ref() != Some(birth)
    {
        return Err(refused("it is somebody else by now"));
    }
    Ok(be_born(node, birth).await?.cluster)
}

/// Writes what this node is born with, and lets it act. To be called with `Node::joining` held, on a node
/// without an identity.
///
/// # Errors
/// When the disk fails in the middle nobody knows whether it is born: the process ends, and the next
/// start finds out.
async fn be_born(node: &Arc<Node>, birth: &v1::Birth) -> Result<identity::DiskIdentity, Error> {
    let disk_id = node.births.disk_id();
    let Newborn { identity: stored, table, regions, rows } =
        plan::newborn(birth, &disk_id, node.config.limits.key_bytes_max)?
            .ok_or_else(|| Error::Internal { message: "a birth without this node".to_owned() })?;
    let internal = |message: String| Error::Internal { message };
    // Ordering: before the identity is there. Whoever hears that this node is a member hears by which birth.
    node.births.note_birth(&stored.birth_id);
    let writer = Arc::clone(node);
    // Durability: the identity last. Without it the disk is nobody's, and what is on it goes before anything
    // else is written.
    let written = blocking::run(move || {
        let (log, data) = (writer.log.as_ref(), writer.data.as_ref());
        lifecycle::wipe(log, data)?;
        // So that a node with an identity knows whom to ask.
        writer.directory.begin(table)?;
        lifecycle::birth(log, data, &regions, rows)?;
        identity::write(log, &stored)?;
        Ok::<(), TableError>(())
    })
    .await;
    let failed = |error: TableError| internal(format!("the disk of a newcomer: {error}"));
    match written.map_err(|error| internal(error.to_string())).map(|done| done.map_err(failed)) {
        Ok(Ok(())) => {}
        Ok(Err(error)) | Err(error) => {
            node.fail(format!("write what this node is born with: {error}"));
            return Err(error);
        }
    }
    crate::crash_point!("birth-untold");
    let identity = identity::read(node.log.as_ref())
        .map_err(storage)?
        .ok_or_else(|| internal("the identity is gone".to_owned()))?;
    let activated = node.activate(identity, false).await;
    activated.map_err(|error| internal(format!("start the first regions: {error:#}")))?;
    if let Some(joined) = node.joined() {
        lead_first(node, joined);
    }
    Ok(identity)
}

/// Each region's first peer asks to lead it, until somebody does: nobody has an election timeout to wait
/// for. By a pre-vote, which moves no term while too few others are born.
fn lead_first(node: &Node, joined: &Joined) {
    for peer in joined.peers.all() {
        let first = peer.view().with(|now| now.descriptor.peers.first().map(|first| first.peer_id));
        if first != Some(peer.id.0) || !peer.has_other_voters() {
            continue;
        }
        node.runtime.spawn(async move {
            let until = clock::now() + CAMPAIGN_MAX;
            // Each takes the one before back, which may just be waiting for slow disks.
            let mut pause = CAMPAIGN_PAUSE_MIN;
            while peer.leader().is_none() && clock::now() < until {
                if !peer.ask_to_lead().await {
                    return;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(CAMPAIGN_PAUSE_MAX);
            }
        });
    }
}

impl Node {
    /// Who this node is before it has an identity, as it answers to `Status`.
    pub(super) fn introduce(&self) -> v1::StatusResponse {
        v1::StatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            feature_level: feature_level::OURS,
            client_address: self.advertised.client.clone(),
            peer_address: self.advertised.peer.clone(),
            http_address: self.advertised.http.clone(),
            labels: self.labels(),
            disk_id: self.births.disk_id(),
            bootstrap_expect: self.config.bootstrap_expect,
            told_of: self.births.told_of.lock().clone(),
            birth_id: self.births.birth_id(self.joined.get().is_some()),
            ..v1::StatusResponse::default()
        }
    }
}

fn refused(message: impl Into<String>) -> Error {
    Error::FailedPrecondition { message: message.into() }
}

fn storage(error: engine::Error) -> Error {
    Error::Internal { message: format!("the disk of a newcomer: {error}") }
}
