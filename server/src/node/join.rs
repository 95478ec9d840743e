//! How an empty disk finds its cluster by itself, and what a disk that has one does with `--join`.
//!
//! `--bootstrap-expect` and `--join` are the same at every start, and on every node. What they lead to is
//! decided anew each time on what the others answer (`birth/meeting.rs`).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use flotilla_proto::{
    clients,
    v1::{self, cluster_client::ClusterClient},
};
use tokio::time::Instant;
use tonic::transport::Channel;

use super::{
    Node,
    birth::{
        self,
        ask::{ask, root_cause},
        meeting::{self, Asked, Met, Next, Own},
    },
};
use crate::{
    error::Error,
    ids::NodeId,
    world::{clock, dial},
};

const RETRY: Duration = Duration::from_millis(500);
/// A promised node asks more often, for the others are about to serve without it, and so does a founder that
/// waits for others to meet.
const RETRY_SOON: Duration = Duration::from_millis(100);
/// Bound: one call to a node of the cluster.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A reason to wait that stays is told again after so long.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// Does what the command line asks, beside everything else, until it is done.
pub(super) fn start(node: &Arc<Node>) {
    let node = Arc::clone(node);
    node.runtime.clone().spawn(async move {
        if node.is_removed() {
            return;
        }
        if node.joined.get().is_none() {
            if node.config.init {
                return initialize(&node).await;
            }
            find_cluster(&node).await;
            if !node.births.birth_id(true).is_empty() {
                return; // born, and in service from the first moment
            }
        }
        if !node.config.join.is_empty() {
            settle(&node).await;
        }
    });
}

/// `--init`: a cluster of this node alone, unless somebody answers with whom it could be one.
async fn initialize(node: &Arc<Node>) {
    for Asked { address, answer } in ask_all(node, &node.config.join).await {
        let Ok(status) = answer else { continue };
        if status.disk_id == node.births.disk_id() {
            continue;
        }
        let whose = match status.cluster_id.as_str() {
            "" => "it is up and of no cluster: start all nodes with --bootstrap-expect".to_owned(),
            cluster => format!("it is of cluster {cluster}: start without --init to join it"),
        };
        return node.fail(format!(
            "this node was told to make a cluster of its own (--init), but {address} answers, and {whose}"
        ));
    }
    let alone = [node.introduce()];
    match birth::found_with(node, &alone).await {
        Ok(cluster) => tracing::info!(%cluster, "initialized a new cluster"),
        Err(error) => node.fail(format!("initialize the cluster: {error}")),
    }
}

/// Runs until the node is of a cluster, by whatever way.
async fn find_cluster(node: &Arc<Node>) {
    let mut told = Announcer::new("a cluster");
    let mut met = Met::default();
    let mut gone = FounderGone::default();
    while node.joined.get().is_none() && !node.is_removed() {
        let promised = node.births.promised();
        let has_flags = !node.config.join.is_empty() || node.config.bootstrap_expect > 0;
        if promised.is_none() && !has_flags {
            node.births.changed.notified().await;
            continue;
        }
        let mut soon = false;
        if let Err(NotYet { reason, may_be_soon }) = step(node, promised, &mut met, &mut gone).await
        {
            node.births.note_wait(&reason);
            told.wait(&reason);
            soon = may_be_soon;
        }
        let soon = soon || node.births.promised().is_some();
        let pause = if soon { RETRY_SOON } else { RETRY };
        let pause = tokio::time::timeout(clock::jitter(pause), node.births.changed.notified());
        // Promised meanwhile, it asks at once.
        let _ = pause.await;
    }
}

/// Since when every round has found that the disk of a birth's founder is gone.
#[derive(Default)]
struct FounderGone(Option<(Bytes, Instant)>);

impl FounderGone {
    fn for_how_long(&self, now: Instant) -> Duration {
        self.0.as_ref().map_or(Duration::ZERO, |(_, since)| now.saturating_duration_since(*since))
    }

    fn note(&mut self, promised: Option<&v1::Birth>, asked: &[Asked], now: Instant) {
        let gone = promised.filter(|birth| meeting::founder_is_gone(birth, asked));
        let before = self.0.take();
        self.0 = gone.map(|birth| match before {
            Some((of, since)) if of == birth.birth_id => (of, since),
            _ => (birth.birth_id.clone(), now),
        });
    }
}

/// Why a round came to nothing.
struct NotYet {
    reason: String,
    may_be_soon: bool,
}

impl From<String> for NotYet {
    fn from(reason: String) -> Self {
        Self { reason, may_be_soon: false }
    }
}

/// One round: ask, decide, act.
async fn step(
    node: &Arc<Node>,
    promised: Option<v1::Birth>,
    met: &mut Met,
    gone: &mut FounderGone,
) -> Result<(), NotYet> {
    let said = |error: Error| NotYet::from(error.to_string());
    let mut addresses = node.config.join.clone();
    for member in promised.iter().flat_map(|birth| &birth.nodes) {
        let address = member.record.as_ref().map(|record| &record.client_address);
        addresses.extend(address.filter(|address| !addresses.contains(address)).cloned());
    }
    let founder_gone_for = gone.for_how_long(clock::now());
    let mut own = Own { status: node.introduce(), promised, founder_gone_for };
    let asked = ask_all(node, &addresses).await;
    gone.note(own.promised.as_ref(), &asked, clock::now());
    // What it tells others from here on, and itself.
    let of_list = asked.iter().filter(|asked| node.config.join.contains(&asked.address)).cloned();
    own.status.told_of = met.told_of(&own, &of_list.collect::<Vec<_>>(), clock::now());
    node.births.note_told_of(own.status.told_of.clone());
    match (meeting::next(&own, &asked), own.promised) {
        (Next::Join(members), _) => Ok(add(node, &members).await?),
        (Next::Found(nodes), _) => {
            let cluster = birth::found_with(node, &nodes).await.map_err(said)?;
            tracing::info!(%cluster, nodes = nodes.len(), "made a new cluster");
            Ok(())
        }
        (Next::BeBorn, Some(promised)) => {
            let cluster = birth::follow(node, &promised).await.map_err(said)?;
            tracing::info!(%cluster, "of a new cluster");
            Ok(())
        }
        (Next::Release(why), Some(promised)) => {
            tracing::info!(why, "the birth of a cluster that this node was promised to is off");
            birth::release(node, &promised).await.map_err(said)
        }
        (Next::Meet(reason), _) => Err(NotYet { reason, may_be_soon: true }),
        (Next::Wait(reason), _) => Err(reason.into()),
        (Next::BeBorn | Next::Release(_), None) => {
            Err("it was promised to nothing".to_owned().into())
        }
    }
}

/// Asks members, one after the other, to be added.
async fn add(node: &Arc<Node>, members: &[String]) -> Result<(), String> {
    let mut last = "nobody answers".to_owned();
    for address in members {
        let attempt = async {
            let channel =
                dial::node(address)?.connect().await.map_err(|error| error.to_string())?;
            let mut client = clients::cluster(channel);
            let added = client.add_learner(add_request(node)).await;
            added.map(drop).map_err(|status| status.message().to_owned())
        };
        match tokio::time::timeout(TIMEOUT, attempt).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(why)) => last = format!("{address}: {why}"),
            Err(_) => last = format!("{address} does not answer"),
        }
    }
    Err(last)
}

/// Asks all of them at once who they are; itself not.
async fn ask_all(node: &Node, addresses: &[String]) -> Vec<Asked> {
    let others = addresses.iter().filter(|address| **address != node.advertised.client);
    futures::future::join_all(others.map(|address| ask(address))).await
}

/// Tells why a node waits when that changes, and now and then while it does not.
struct Announcer {
    what: &'static str,
    last: Option<(String, Instant)>,
}

impl Announcer {
    fn new(what: &'static str) -> Self {
        Self { what, last: None }
    }

    fn wait(&mut self, reason: &str) {
        let now = clock::now();
        let is_old = self.last.as_ref().is_some_and(|(last, at)| {
            last == reason && now.saturating_duration_since(*at) < TOLD_EVERY
        });
        if !is_old {
            tracing::info!(reason, "waiting for {}", self.what);
            self.last = Some((reason.to_owned(), now));
        }
    }
}

/// Why an attempt to settle came to nothing.
enum Refusal {
    /// Time may help.
    NotYet(String),
    /// The disk belongs to one cluster, and those who answer to another.
    OtherCluster(String),
}

/// Sees to it that the node's own row says that it is in service, if it was taken in by `--join`.
async fn settle(node: &Arc<Node>) {
    let mut told = Announcer::new("its place in the cluster");
    loop {
        match settle_once(node).await {
            Ok(()) => return,
            Err(_) if node.is_removed() => return,
            // One that others of its cluster have heard since its start is where it belongs, whoever else has
            // come to the addresses. That a node alone hears itself says nothing.
            Err(Refusal::OtherCluster(words))
                if node.joined.get().is_some_and(|joined| {
                    joined.is_confirmed() && !node.directory.others(joined.node).is_empty()
                }) =>
            {
                told.wait(&words);
            }
            Err(Refusal::OtherCluster(words)) => return node.fail(words),
            Err(Refusal::NotYet(reason)) => told.wait(&reason),
        }
        tokio::time::sleep(clock::jitter(RETRY)).await;
    }
}

/// One attempt.
///
/// A disk that belongs to another cluster than all whom it was told to join is refused. One of its own
/// cluster that answers is enough: then whoever else has an address of it came there by mistake. And one
/// that is silent may be of its own, and so may one that is of none yet.
async fn settle_once(node: &Arc<Node>) -> Result<(), Refusal> {
    let Some(joined) = node.joined.get() else { return Ok(()) };
    let asked = ask_all(node, &node.config.join).await;
    if asked.is_empty() {
        return Ok(());
    }
    let ours = joined.cluster.to_string();
    let (mut other, mut unknown) = (None, None);
    let mut members = Vec::new();
    for Asked { address, answer } in asked {
        match answer {
            Ok(status) if status.cluster_id == ours && !status.removed => {
                // It may have moved, as this one may: so they find each other.
                node.directory.see(NodeId(status.node_id), &status.peer_address);
                members.push(address);
            }
            Ok(status)
                if !status.removed
                    && !status.cluster_id.is_empty()
                    && status.cluster_id != ours =>
            {
                other = Some(format!(
                    "this disk belongs to cluster {ours}, but {address}, which it was told to join \
                     (--join), to cluster {}: give it the addresses of its own cluster, or an empty \
                     disk to join the other",
                    status.cluster_id
                ));
            }
            Ok(_) => unknown = Some(format!("{address}: of no cluster")),
            Err(why) => unknown = Some(format!("{address}: {why}")),
        }
    }
    let mut last = match (other, unknown) {
        (Some(words), None) => Refusal::OtherCluster(words),
        (_, Some(why)) => Refusal::NotYet(why),
        (None, None) => Refusal::NotYet("nobody of this cluster answers".to_owned()),
    };
    for address in members {
        let attempt = async {
            let channel =
                dial::node(&address)?.connect().await.map_err(|error| root_cause(&error))?;
            settle_at(node, &mut clients::cluster(channel)).await
        };
        last = match tokio::time::timeout(TIMEOUT, attempt).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => Refusal::NotYet(format!("{address}: {error}")),
            Err(_) => Refusal::NotYet(format!("{address} does not answer")),
        };
    }
    Err(last)
}

async fn settle_at(node: &Arc<Node>, client: &mut ClusterClient<Channel>) -> Result<(), String> {
    let told = |status: tonic::Status| status.message().to_owned();
    let own = node.joined.get().ok_or("it was not handed an identity yet")?.node;
    let listed = client
        .list_nodes(v1::ListNodesRequest { all: true, ..Default::default() })
        .await
        .map_err(told)?
        .into_inner();
    let record = listed
        .nodes
        .iter()
        .find(|record| record.node_id == own.0)
        .ok_or("this node is not in the cluster's table")?;
    match lacks(record) {
        // Crashed between having its identity and saying so: the call converges.
        Lacks::Confirmation => {
            client.add_learner(add_request(node)).await.map_err(told)?;
            Err("this node has confirmed its identity and is promoted next".to_owned())
        }
        Lacks::Promotion => {
            let request = v1::ChangeMembershipRequest {
                promote: vec![own.0],
                demote: Vec::new(),
                // Who demotes it meanwhile moves the version.
                expected_version: Some(listed.version),
                ..Default::default()
            };
            client.change_membership(request).await.map_err(told)?;
            Ok(())
        }
        Lacks::Nothing => Ok(()),
    }
}

/// What a node's row does not say yet that one taken in by `--join` sees to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lacks {
    Confirmation,
    Promotion,
    Nothing,
}

fn lacks(record: &v1::Node) -> Lacks {
    match record.state() {
        v1::NodeState::Joining => Lacks::Confirmation,
        v1::NodeState::NodeLearner if record.demoted => {
            tracing::info!("this node was demoted and stays a learner until it is promoted");
            Lacks::Nothing
        }
        v1::NodeState::NodeLearner => Lacks::Promotion,
        v1::NodeState::Up
        | v1::NodeState::Draining
        | v1::NodeState::Removed
        | v1::NodeState::Unspecified => Lacks::Nothing,
    }
}

fn add_request(node: &Node) -> v1::AddLearnerRequest {
    v1::AddLearnerRequest {
        address: node.advertised.client.clone(),
        labels: node.labels(),
        expected_version: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_that_a_person_demoted_does_not_promote_itself_when_it_starts() {
        use v1::NodeState::{Draining, Joining, NodeLearner, Removed, Up};
        for (why, state, demoted, want) in [
            ("taken in just now", NodeLearner, false, Lacks::Promotion),
            (
                "crashed before it said that it has its identity",
                Joining,
                false,
                Lacks::Confirmation,
            ),
            ("demoted by a person", NodeLearner, true, Lacks::Nothing),
            ("in service", Up, false, Lacks::Nothing),
            ("on its way out", Draining, false, Lacks::Nothing),
            ("removed", Removed, false, Lacks::Nothing),
        ] {
            let row = v1::Node { state: state.into(), demoted, ..v1::Node::default() };
            assert_eq!(lacks(&row), want, "{why}");
        }
    }
}
