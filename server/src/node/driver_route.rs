//! How a heartbeat finds the placement driver.

use std::{collections::BTreeMap, time::Duration};

use flotilla_proto::v1;
use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::Instant;

use super::{Joined, Node, clients::is_elsewhere, driver_client::TIMEOUT};
use crate::{
    ids::NodeId,
    placement::{directory::NodeDirectory, membership::check_address},
    raft::transport::Directory as _,
    world::{clock, presence::Presence},
};

/// Bounds: nodes that one heartbeat asks for the driver without having been told to, and its time. The next
/// one goes on with those that come after them.
const SEARCHED_MAX: usize = 16;

const SEARCH_MAX: Duration = Duration::from_secs(6);

/// Whoever shares no region with this node opens no stream that would show that it was started again.
const SHOWN_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Bound: places of the driver that one heartbeat is told and follows.
const TOLD_MAX: usize = 16;

/// Where the driver was last found, and where to search for it.
#[derive(Default)]
pub(super) struct DriverRoute {
    node: Option<NodeId>,
    /// The node that was searched last. Only those with a peer of region 1 know who leads it, or those that
    /// were heard; so each heartbeat goes on behind the one before it, until all were asked.
    searched: Option<NodeId>,
    /// While it was here: who knows from this process where it is. Bound: the nodes of the cluster.
    shown: BTreeMap<NodeId, Shown>,
}

/// When a node was told something that it forgets when it ends.
#[derive(Clone, Copy, Debug)]
struct Shown {
    /// How many streams had been opened to it by then.
    reached: u64,
    at: Instant,
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
    fn new(route: &mut DriverRoute, leader: Option<NodeId>, mut others: Vec<NodeId>) -> Self {
        others.sort();
        let behind = route.searched.map_or(0, |last| others.partition_point(|node| *node <= last));
        let count = others.len().max(1);
        others.rotate_left(behind % count);
        others.reverse();
        let told = route.node.take().into_iter().chain(leader).map(Hint::known).collect();
        let (told_max, searched_max) = (TOLD_MAX, SEARCHED_MAX);
        Self { told, told_max, others, searched_max, asked: Vec::new() }
    }

    fn is_told(&mut self, hint: Hint) {
        if self.told_max > 0 && !self.asked.contains(&hint) {
            self.told_max -= 1;
            self.told.push(hint);
        }
    }

    fn next(&mut self, route: &mut DriverRoute) -> Option<Hint> {
        loop {
            let next = match self.told.pop() {
                Some(told) => told,
                None if self.searched_max == 0 => return None,
                None => {
                    let node = self.others.pop()?;
                    self.searched_max -= 1;
                    route.searched = Some(node);
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

impl DriverRoute {
    pub(super) async fn heartbeat(
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
                show_address(&mut self.shown, node, joined, &request).await;
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

/// Tells each of the others where this node is, which may have moved: whoever leads region 1 asks nobody for the driver, so
/// nobody would see it; and who cannot reach the driver does not learn its address from the table either. Each is told until
/// its answer says the same, and again when a stream to it was opened since, or after a minute: it may have been started
/// again, and then it has forgotten.
async fn show_address(
    shown: &mut BTreeMap<NodeId, Shown>,
    node: &Node,
    joined: &Joined,
    request: &v1::HeartbeatRequest,
) {
    let mut others = node.directory.others(joined.node);
    shown.retain(|other, _| others.contains(other));
    // So that those who do not answer stand before the others but now and then.
    let first = clock::random() % (others.len() as u64).max(1);
    others.rotate_left(usize::try_from(first).unwrap_or_default());
    let transport = &joined.peers.environment().transport;
    let now = |other| Shown { reached: transport.times_reached(other), at: clock::now() };
    let here = Hint { node: joined.node, address: Some(node.advertised.peer.clone()) };
    let mut tells: FuturesUnordered<_> = untold(shown, others, now)
        .map(|(other, now)| {
            let here = &here;
            async move {
                let answer = ask(node, joined, &Hint::known(other), request.clone()).await.ok()?;
                (Hint::of(&answer).as_ref() == Some(here)).then_some((other, now))
            }
        })
        .collect();
    // Its own heartbeat does not wait for who does not answer.
    let until = clock::now() + node.config.placement.interval;
    while let Ok(Some(told)) = tokio::time::timeout_at(until, tells.next()).await {
        shown.extend(told);
    }
}

/// Whom to tell where this node is.
fn untold(
    shown: &BTreeMap<NodeId, Shown>,
    others: Vec<NodeId>,
    now: impl Fn(NodeId) -> Shown,
) -> impl Iterator<Item = (NodeId, Shown)> {
    let others = others.into_iter().map(move |other| (other, now(other)));
    let knows = |then: &Shown, now: &Shown| {
        then.reached == now.reached && now.at < then.at + SHOWN_AGAIN_AFTER
    };
    let others =
        others.filter(move |(other, now)| shown.get(other).is_none_or(|then| !knows(then, now)));
    others.take(SEARCHED_MAX)
}

async fn ask(
    node: &Node,
    joined: &Joined,
    target: &Hint,
    request: v1::HeartbeatRequest,
) -> Result<v1::HeartbeatResponse, String> {
    let address = place_of(&node.directory, target)?;
    let mut client = node.clients.get(joined.cluster, &address)?;
    let failed = match tokio::time::timeout(TIMEOUT, client.heartbeat(request)).await {
        // Ordering: before anything it says is looked at. That a node was removed, or is a copy, ends it.
        Ok(Ok(response)) if response.get_ref().cluster_id[..] != joined.cluster.0 => {
            "a node of another cluster answers at its address".to_owned()
        }
        Ok(Ok(response)) => return Ok(response.into_inner()),
        Ok(Err(status)) if !is_elsewhere(&status) => return Err(status.to_string()),
        Ok(Err(status)) => status.to_string(),
        Err(_) => "no answer".to_owned(),
    };
    node.directory.not_at(target.node, &address);
    Err(failed)
}

/// Where a node is to be asked. Who was away may have a table from before that node came, and no way to a newer one but
/// the driver: so it is asked where others have it. Whoever was removed leads nothing.
fn place_of(directory: &NodeDirectory, target: &Hint) -> Result<String, String> {
    let row = directory.node(target.node);
    if row.is_some_and(|row| row.state() == v1::NodeState::Removed) {
        return Err("it was removed".to_owned());
    }
    let known = || directory.peer_address(target.node);
    target.address.clone().or_else(known).ok_or_else(|| "nobody has said where it is".to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::raft::fixture::Probe;

    /// It came while this node was away, and has led region 1 since: nobody else would ever tell this node of it.
    #[tokio::test]
    async fn node_that_the_table_does_not_know_is_asked_where_others_have_it() {
        let directory = Arc::new(NodeDirectory::open(Probe::new(), |_| {}).expect("empty"));
        let record = |node_id, state: v1::NodeState| v1::NodeRecord {
            node_id,
            state: state.into(),
            peer_address: format!("n{node_id}:7421"),
            ..v1::NodeRecord::default()
        };
        let nodes = vec![record(1, v1::NodeState::Up), record(2, v1::NodeState::Removed)];
        let table = v1::NodeTable { version: 1, nodes, ..v1::NodeTable::default() };
        directory.update(table).expect("of our level");
        let place = |node, told: Option<&str>| {
            let hint = Hint { node: NodeId(node), address: told.map(str::to_owned) };
            place_of(&directory, &hint).ok()
        };
        for (why, node, told, want) in [
            ("of the table", 1, None, Some("n1:7421")),
            ("it has moved", 1, Some("m1:7421"), Some("m1:7421")),
            ("it is new", 9, Some("n9:7421"), Some("n9:7421")),
            ("nobody says where it is", 9, None, None),
            ("it was removed", 2, Some("n2:7421"), None),
        ] {
            assert_eq!(place(node, told).as_deref(), want, "{why}");
        }
    }

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

    /// It has forgotten what it was told, and may not reach the driver before it is told again.
    #[test]
    fn whoever_may_have_been_started_again_is_told_again_where_this_node_is() {
        let all = || (1..=40).map(NodeId).collect::<Vec<_>>();
        let began = clock::now();
        let told = |shown: &[u64], after: Duration, reached: fn(u64) -> u64| -> Vec<u64> {
            let then = Shown { reached: 2, at: began };
            let shown = shown.iter().map(|node| (NodeId(*node), then)).collect();
            let now = |node: NodeId| Shown { reached: reached(node.0), at: began + after };
            untold(&shown, all(), now).map(|(node, _)| node.0).collect()
        };
        let every: Vec<u64> = (1..=40).collect();
        let soon = Duration::from_secs(1);
        assert_eq!(told(&[], soon, |_| 2).len(), SEARCHED_MAX, "so many at a time");
        assert_eq!(told(&every, soon, |_| 2), [0; 0], "each once");
        assert_eq!(told(&every, soon, |node| 2 + u64::from(node == 7)), [7], "it was reached anew");
        assert_eq!(told(&every[1..], soon, |_| 2), [1], "it is new");
        assert_eq!(
            told(&every, SHOWN_AGAIN_AFTER, |_| 2).len(),
            SEARCHED_MAX,
            "who shares no region with this node is not reached"
        );
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
        let mut route = DriverRoute::default();
        let mut asked = Vec::new();
        for _ in 0..4 {
            let mut course = Course::new(&mut route, None, nodes.clone());
            let before = asked.len();
            while let Some(next) = course.next(&mut route) {
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
        let mut route =
            DriverRoute { node: Some(NodeId(7)), searched: None, ..DriverRoute::default() };
        let mut course = Course::new(&mut route, Some(NodeId(3)), vec![NodeId(1), NodeId(2)]);
        let mut next = |told: Option<Hint>| {
            told.into_iter().for_each(|told| course.is_told(told));
            course.next(&mut route).map(|hint| (hint.node.0, hint.address))
        };
        assert_eq!(next(None), Some((3, None)), "the leader that this node knows");
        assert_eq!(next(None), Some((7, None)), "where it was found last");
        let there = Hint { node: NodeId(3), address: Some("n3:7421".to_owned()) };
        assert_eq!(next(Some(Hint::known(NodeId(3)))), Some((1, None)), "it was asked");
        assert_eq!(next(Some(there.clone())), Some((3, Some("n3:7421".to_owned()))));
        assert_eq!(next(Some(there)), Some((2, None)));
        assert_eq!(next(None), None);
    }
}
