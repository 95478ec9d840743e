//! What the nodes say, and what they are asked to do, over gRPC.
//!
//! A node is reached by its pod's address, not by name: names are for nodes among each other, and lag
//! behind. An address may meanwhile be another pod's, so an answer counts only if it gives the name
//! that is the pod's. Whoever makes a KvCluster names the image, so what answers may be anything: an answer
//! is bounded in time, in bytes, in what it becomes in memory (`bounded.rs`), and in how many are awaited at
//! once; its texts are cut and are of one line before they come into a status, an event or a log.

mod bounded;

use std::{collections::BTreeMap, time::Duration};

use flotilla_proto::{
    clients,
    v1::{self, NodeState, PeerRole, cluster_client::ClusterClient, error_detail::Reason},
};
use tonic::{
    Code, Request, Response, Status,
    transport::{Channel, Endpoint},
};

use self::bounded::Bounded;
pub(crate) use self::bounded::Places;

use crate::{
    error::Error,
    names::{CLIENT_PORT, Names},
    plan::Call,
    seen::{Joined, Node, Peer, Row, State, Table},
};

/// Bound: a node that takes longer to accept, or to begin an answer, counts as silent in this look.
const CONNECT: Duration = Duration::from_secs(2);
const ASK: Duration = Duration::from_secs(3);
/// Bound: the same of all pages of an answer, with what it waits for those of others to be read. So what the nodes say
/// is no older than this and [`CONNECT`] when the last of them has answered, however many do not.
const ANSWER: Duration = Duration::from_secs(6);
/// Bound: a call that changes something; the server goes on by itself when we hang up.
const CALL: Duration = Duration::from_secs(20);

/// Bound: peers that one node may tell of, over all pages; one with more counts as silent. As many regions
/// as a node should ever hold, and again.
const PEERS_MAX: usize = 1 << 16;
/// Bound: characters of a text of a node, and how many of its complaints are kept.
const TEXT_MAX: usize = 256;
const COMPLAINTS_MAX: usize = 32;

pub(crate) type Client = ClusterClient<Bounded>;

/// A client of one node.
pub(crate) async fn connect(ip: &str, places: &Places) -> Result<Client, String> {
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    let endpoint = Endpoint::from_shared(format!("http://{host}:{CLIENT_PORT}"))
        .map_err(|error| error.to_string())?
        .connect_timeout(CONNECT);
    let channel = endpoint.connect().await.map_err(|error| line(&root(&error)))?;
    Ok(client(channel, places))
}

fn client(channel: Channel, places: &Places) -> Client {
    let bounded = Bounded::new(channel, places);
    clients::cluster(bounded).max_decoding_message_size(bounded::BYTES_MAX)
}

/// A text of somebody else, cut and on one line.
pub(crate) fn line(text: &str) -> String {
    let mut said: String =
        text.chars().take(TEXT_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(TEXT_MAX).is_some() {
        said.push('…');
    }
    said
}

/// The innermost cause, which says most in the fewest words.
pub(crate) fn root(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}

/// What a node says of itself.
pub(crate) async fn ask(client: &mut Client, names: &Names, ordinal: i32) -> Node {
    let asking = async {
        let mut ask = async |request| {
            let mut request = Request::new(request);
            request.set_timeout(ASK);
            let answer = client.status(request).await.map(Response::into_inner);
            answer.map_err(|status| match status.message() {
                // In the words of the transport it says nothing of how long.
                "Timeout expired" => {
                    Status::deadline_exceeded(format!("no answer within {} s", ASK.as_secs()))
                }
                _ => status,
            })
        };
        let mut answer = ask(v1::StatusRequest::default()).await?;
        while let Some(next) = answer.next_page() {
            answer.extend(ask(next).await?);
            if answer.peers.len() > PEERS_MAX {
                let why = format!("it tells of more than {PEERS_MAX} peers");
                return Err(Status::out_of_range(why));
            }
        }
        Ok::<_, Status>(answer)
    };
    match tokio::time::timeout(ANSWER, asking).await {
        Ok(Ok(answer)) => {
            if answer.client_address == names.client_address(ordinal) {
                node(answer)
            } else {
                let who = line(&answer.client_address);
                Node::Silent(format!("{who} answers at its address"))
            }
        }
        Ok(Err(status)) => Node::Silent(line(status.message())),
        Err(_) => Node::Silent(format!("no whole answer within {} s", ANSWER.as_secs())),
    }
}

fn node(answer: v1::StatusResponse) -> Node {
    if answer.removed {
        return Node::Removed { cluster_id: line(&answer.cluster_id), node_id: answer.node_id };
    }
    if !answer.joined {
        return Node::Unjoined { version: line(&answer.version) };
    }
    let complaints = answer.not_ready_reasons.iter().chain(&answer.warnings).take(COMPLAINTS_MAX);
    Node::Joined(Joined {
        cluster_id: line(&answer.cluster_id),
        node_id: answer.node_id,
        version: line(&answer.version),
        feature_level: answer.cluster_feature_level,
        ready: answer.ready,
        complaints: complaints.map(|one| line(one)).collect(),
        peers: answer.peers.into_iter().map(peer).collect(),
    })
}

fn peer(status: v1::PeerStatus) -> Peer {
    let region = status.region.unwrap_or_default();
    let epoch = region.epoch.unwrap_or_default();
    let of_role = |role: PeerRole| {
        let peers = region.peers.iter().filter(move |peer| peer.role() == role);
        peers.map(|peer| peer.node_id).collect()
    };
    let leader = region.peers.iter().find(|peer| peer.peer_id == status.leader_peer_id);
    Peer {
        region_id: region.region_id,
        epoch: (epoch.version, epoch.conf_ver),
        start_key: region.start_key.to_vec(),
        end_key: region.end_key.to_vec(),
        voters: of_role(PeerRole::Voter),
        learners: of_role(PeerRole::Learner),
        leads: status.role == "leader",
        leader_node: leader.map(|peer| peer.node_id),
        last_index: status.last_index,
        committed_index: status.committed_index,
        behind: false,
        // What such a peer has is not what the others have: it takes nothing from its leader.
        quarantined: matches!(&*status.role, "quarantined" | "contradicted"),
    }
}

/// The node table, from the placement driver by way of any node.
pub(crate) async fn table(client: &mut Client) -> Result<(String, Table), String> {
    let mut request = Request::new(v1::ListNodesRequest { all: true, ..Default::default() });
    request.set_timeout(ASK);
    let answer = tokio::time::timeout(ANSWER, client.list_nodes(request))
        .await
        .map_err(|_| "the placement driver does not answer".to_owned())?
        .map_err(|status| line(status.message()))?
        .into_inner();
    let table = Table {
        version: answer.version,
        replication_factor: answer.replication_factor,
        nodes: answer.nodes.into_iter().filter_map(row).collect(),
    };
    Ok((line(&answer.cluster_id), table))
}

fn row(node: v1::Node) -> Option<Row> {
    let state = match node.state() {
        NodeState::Joining => State::Joining,
        NodeState::NodeLearner => State::Learner,
        NodeState::Up => State::Up,
        NodeState::Draining => State::Draining,
        NodeState::Removed => State::Removed,
        NodeState::Unspecified => return None,
    };
    Some(Row {
        node_id: node.node_id,
        state,
        forced: node.forced,
        demoted: node.demoted,
        alive: matches!(node.liveness(), v1::Liveness::Alive | v1::Liveness::Suspect),
        down: node.liveness() == v1::Liveness::Down,
        leaders: node.leaders,
        peers: node.peers,
        leaders_evicted: node.leaders_evicted,
        version: line(&node.version),
        address: line(&node.client_address),
    })
}

/// Sends one call. `places`: labels of the nodes that it makes known to the cluster, by address.
pub(crate) async fn call(
    client: &mut Client,
    call: &Call,
    mut places: BTreeMap<String, BTreeMap<String, String>>,
) -> Result<(), Error> {
    let sent = async {
        match call {
            Call::Initialize {
                cluster_id, replication_factor, first_nodes, split_keys, ..
            } => client
                .initialize(timed(v1::InitializeRequest {
                    split_keys: split_keys.iter().cloned().map(Into::into).collect(),
                    replication_factor: *replication_factor,
                    token: cluster_id.clone(),
                    cluster_id: cluster_id.clone(),
                    first_nodes: first_nodes.clone(),
                    first_node_labels: places
                        .into_iter()
                        .map(|(address, labels)| (address, v1::NodeLabels { labels }))
                        .collect(),
                    ..v1::InitializeRequest::default()
                }))
                .await
                .map(drop),
            Call::AddLearner { address, expected_version, .. } => client
                .add_learner(timed(v1::AddLearnerRequest {
                    address: address.clone(),
                    labels: places.remove(address).unwrap_or_default(),
                    expected_version: Some(*expected_version),
                }))
                .await
                .map(drop),
            Call::Promote { node_id, expected_version } => client
                .change_membership(timed(v1::ChangeMembershipRequest {
                    promote: vec![*node_id],
                    demote: Vec::new(),
                    expected_version: Some(*expected_version),
                    ..Default::default()
                }))
                .await
                .map(drop),
            Call::RemoveNode { node_id, force, expected_version } => client
                .remove_node(timed(v1::RemoveNodeRequest {
                    node_id: *node_id,
                    force: *force,
                    expected_version: Some(*expected_version),
                }))
                .await
                .map(drop),
            Call::CancelRemoveNode { node_id, expected_version } => client
                .cancel_remove_node(timed(v1::CancelRemoveNodeRequest {
                    node_id: *node_id,
                    expected_version: Some(*expected_version),
                }))
                .await
                .map(drop),
            Call::SetReplicationFactor { replication_factor, expected_version } => client
                .change_membership(timed(v1::ChangeMembershipRequest {
                    replication_factor: Some(*replication_factor),
                    expected_version: Some(*expected_version),
                    ..Default::default()
                }))
                .await
                .map(drop),
            Call::EvictLeaders { node_id, duration } => client
                .evict_leaders(timed(v1::EvictLeadersRequest {
                    node_id: *node_id,
                    duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
                }))
                .await
                .map(drop),
        }
    };
    match tokio::time::timeout(CALL, sent).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(status)) => Err(our_error(&status)),
        Err(_) => Err(Error::Failed(format!("no answer within {} s", CALL.as_secs()))),
    }
}

fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL);
    request
}

/// What an error of a node means for us.
fn our_error(status: &Status) -> Error {
    let message = line(status.message());
    let detail = flotilla_proto::status::detail(status);
    if let Some(Reason::VersionMoved(_)) = detail.as_ref().and_then(|detail| detail.reason.as_ref())
    {
        return Error::Moved("the node table".to_owned());
    }
    match (status.code(), detail) {
        (Code::Aborted, _) => Error::Moved("the node table".to_owned()),
        (Code::FailedPrecondition | Code::InvalidArgument | Code::NotFound, _) => {
            Error::Refused(message)
        }
        (_, Some(detail)) if !detail.maybe_applied => Error::Refused(message),
        _ => Error::Failed(message),
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::{
        status::with_detail,
        v1::{ErrorDetail, VersionMoved},
    };

    use super::*;

    #[tokio::test]
    async fn nodes_that_hang_are_waited_for_side_by_side_however_many() {
        const NODES: usize = 40;
        let names = Names { namespace: "ns".into(), name: "kv".into(), domain: "d".into() };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let places = Places::new();
        let (mut clients, mut held) = (Vec::new(), Vec::new());
        for _ in 0..NODES {
            let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
            clients.push(client(endpoint.connect().await.expect("connected"), &places));
            held.push(listener.accept().await.expect("a connection"));
        }
        let began = tokio::time::Instant::now();
        let asked = clients.iter_mut().map(|client| ask(client, &names, 0));
        let nodes = futures::future::join_all(asked).await;
        assert!(began.elapsed() < 2 * ASK, "{:?}", began.elapsed());
        assert!(
            nodes.iter().all(|node| *node == Node::Silent("no answer within 3 s".into())),
            "{nodes:?}"
        );
    }

    #[test]
    fn errors_of_a_node_say_what_is_known_of_the_change() {
        let moved = ErrorDetail {
            reason: Some(Reason::VersionMoved(VersionMoved { expected: 1, actual: 2 })),
            ..ErrorDetail::default()
        };
        let unknown = ErrorDetail { maybe_applied: true, ..ErrorDetail::default() };
        let moved = our_error(&with_detail(Code::Aborted, "moved", &moved));
        assert!(matches!(moved, Error::Moved(_)), "{moved:?}");
        for (why, status, refused) in [
            ("a rule", Status::failed_precondition("too few nodes"), true),
            ("nobody leads", with_detail(Code::Unavailable, "x", &ErrorDetail::default()), true),
            ("outcome unknown", with_detail(Code::Unavailable, "x", &unknown), false),
            ("not from a node", Status::unavailable("broken pipe"), false),
        ] {
            assert_eq!(matches!(our_error(&status), Error::Refused(_)), refused, "{why}");
        }
    }

    #[test]
    fn node_is_down_when_the_driver_has_not_heard_it_for_long_and_not_before() {
        for (liveness, alive, down) in [
            (v1::Liveness::Alive, true, false),
            (v1::Liveness::Suspect, true, false),
            (v1::Liveness::Disconnected, false, false),
            (v1::Liveness::Down, false, true),
        ] {
            let state = NodeState::Up.into();
            let node = v1::Node { state, liveness: liveness.into(), ..v1::Node::default() };
            let row = row(node).expect("it has a state");
            assert_eq!((row.alive, row.down), (alive, down), "{liveness:?}");
        }
    }

    #[test]
    fn texts_of_a_node_are_cut_and_are_of_one_line() {
        assert_eq!(line("all is well"), "all is well");
        assert_eq!(line("well\n{\"level\":\"ERROR\"}\u{1b}[2J"), "well {\"level\":\"ERROR\"} [2J");
        assert_eq!(line(&"é".repeat(1000)).chars().count(), TEXT_MAX + 1);
        let answer = v1::StatusResponse {
            joined: true,
            not_ready_reasons: vec!["x".repeat(10_000); 10_000],
            ..Default::default()
        };
        let Node::Joined(joined) = node(answer) else { panic!("it has joined") };
        assert_eq!(joined.complaints.len(), COMPLAINTS_MAX);
        assert!(joined.complaints.iter().all(|one| one.chars().count() <= TEXT_MAX + 1));
    }

    #[test]
    fn peers_are_read_with_the_node_that_leads() {
        let member =
            |peer_id, node_id, role: PeerRole| v1::Peer { peer_id, node_id, role: role.into() };
        let region = v1::Region {
            region_id: 7,
            start_key: "a".into(),
            end_key: "b".into(),
            epoch: Some(v1::RegionEpoch { conf_ver: 3, version: 5 }),
            peers: vec![member(11, 1, PeerRole::Voter), member(12, 2, PeerRole::Learner)],
        };
        let status = v1::PeerStatus {
            region: Some(region),
            role: "follower".into(),
            leader_peer_id: 11,
            ..v1::PeerStatus::default()
        };
        for (role, takes_no_part) in
            [("follower", false), ("learner", false), ("quarantined", true), ("contradicted", true)]
        {
            let told = v1::PeerStatus { role: role.into(), ..status.clone() };
            assert_eq!(peer(told).quarantined, takes_no_part, "{role}");
        }
        let peer = peer(status);
        assert_eq!((peer.region_id, peer.epoch, peer.leader_node), (7, (5, 3), Some(1)));
        assert_eq!((peer.voters, peer.learners), ([1].into(), [2].into()));
        assert!(!peer.leads && !peer.quarantined);
    }
}
