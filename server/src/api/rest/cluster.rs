//! `/cluster`, `/cluster/nodes`, `/status`: membership and state as JSON.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::{Path, Request, State},
    response::{IntoResponse, Response},
    routing::{MethodRouter, delete, post},
};
use flotilla_proto::v1;
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use serde::{Deserialize, Serialize};

use super::{Failure, Shared, failure::HalfDone, query::Query};
use crate::{
    api::{
        Requests,
        cluster::{Kind, check_add_learner, within},
        observer::Method,
    },
    error::Error,
};

#[derive(Serialize)]
struct Cluster {
    cluster_id: String,
    version: u64,
    replication_factor: u32,
    nodes: Vec<Node>,
}

#[derive(Serialize)]
struct Node {
    id: u64,
    client_address: String,
    peer_address: String,
    http_address: String,
    state: &'static str,
    liveness: &'static str,
    labels: BTreeMap<String, String>,
    version: String,
    leaders: u32,
    peers: u32,
    leaders_evicted: bool,
    disk_available_bytes: u64,
    disk_used_bytes: u64,
}

#[derive(Serialize)]
struct Status {
    joined: bool,
    removed: bool,
    cluster_id: String,
    node_id: u64,
    version: String,
    client_address: String,
    peer_address: String,
    http_address: String,
    labels: BTreeMap<String, String>,
    table_version: u64,
    ready: bool,
    not_ready_reasons: Vec<String>,
    disk_level: String,
    disk_available_bytes: u64,
    disk_used_bytes: u64,
    system_leader_node: u64,
    peers: Vec<Peer>,
}

#[derive(Serialize)]
struct Peer {
    region_id: u64,
    peer_id: u64,
    role: String,
    term: u64,
    leader_peer_id: u64,
    last_index: u64,
    committed_index: u64,
    applied_index: u64,
    snapshot_index: u64,
    purged_index: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewNode {
    address: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Added {
    id: u64,
    version: u64,
}

#[derive(Serialize)]
struct Removing {
    id: u64,
    state: &'static str,
    peers_left: u32,
    leaders_left: u32,
    version: u64,
}

pub(super) fn nodes_routes<R: Requests>() -> MethodRouter<Shared<R>> {
    post(add::<R>)
}

pub(super) fn node_routes<R: Requests>() -> MethodRouter<Shared<R>> {
    delete(remove::<R>)
}

/// `GET /cluster`: the node table, its version as the `ETag`. `?all` shows removed nodes too.
pub(super) async fn show<R: Requests>(
    State(rest): State<Shared<R>>,
    uri: Uri,
) -> Result<Response, Failure> {
    rest.run(Method::HttpCluster, async {
        let all = Query::of(&uri, &["all"])?.flag("all")?;
        let call = rest.cluster.membership.list_nodes(v1::ListNodesRequest { all });
        let table = within(rest.cluster.longest_deadline(), Kind::Reads, call).await?;
        let mut nodes: Vec<Node> = table.nodes.into_iter().map(Node::from).collect();
        nodes.sort_by_key(|node| node.id);
        let cluster = Cluster {
            cluster_id: table.cluster_id,
            version: table.version,
            replication_factor: table.replication_factor,
            nodes,
        };
        Ok(with_etag(table.version, Json(cluster)))
    })
    .await
}

/// `GET /status`: this node.
pub(super) async fn status<R: Requests>(
    State(rest): State<Shared<R>>,
    uri: Uri,
) -> Result<Response, Failure> {
    rest.run(Method::HttpCluster, async {
        Query::of(&uri, &[])?;
        let call = rest.cluster.membership.status(v1::StatusRequest {});
        let status = within(rest.cluster.longest_deadline(), Kind::Reads, call).await?;
        Ok(Json(Status::from(status)).into_response())
    })
    .await
}

/// `POST /cluster/nodes`: adds a node and promotes it. Repeating it after a lost answer converges, and
/// so does repeating it when only the promotion failed, whose cause is then the answer.
async fn add<R: Requests>(
    State(rest): State<Shared<R>>,
    request: Request,
) -> Result<Response, Failure> {
    rest.run(Method::HttpCluster, async {
        let (head, body) = request.into_parts();
        Query::of(&head.uri, &[])?;
        let expected_version = if_match(&head.headers)?;
        let body = rest.receive(&head.headers, body).await?;
        let NewNode { address, labels } = serde_json::from_slice(&body)
            .map_err(|error| Error::invalid("body", format!("must be a node as JSON: {error}")))?;
        let learner = v1::AddLearnerRequest { address, labels, expected_version };
        check_add_learner(&learner)?;
        let deadline = rest.cluster.longest_deadline();
        let membership = &rest.cluster.membership;
        let added = within(deadline, Kind::Changes, membership.add_learner(learner)).await?;
        let promotion = v1::ChangeMembershipRequest {
            promote: vec![added.node_id],
            demote: vec![],
            // What the first step made, so that nobody comes in between either.
            expected_version: expected_version.map(|_| added.version),
        };
        let promoted =
            within(deadline, Kind::Changes, membership.change_membership(promotion)).await;
        let version = promoted
            .map_err(|error| {
                // Whoever named a version knows by the next one whether the first step changed it.
                let changed = expected_version != Some(added.version);
                Failure::half_done(HalfDone { node: added.node_id, changed }, error)
            })?
            .version;
        let added = Added { id: added.node_id, version };
        Ok((StatusCode::CREATED, with_etag(version, Json(added))).into_response())
    })
    .await
}

/// `DELETE /cluster/nodes/{id}`: drains a node; 202 until it is gone, then 200.
async fn remove<R: Requests>(
    State(rest): State<Shared<R>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Failure> {
    rest.run(Method::HttpCluster, async {
        let force = Query::of(&uri, &["force"])?.flag("force")?;
        let node_id = id.parse().map_err(|_| Error::invalid("id", "must be a node id"))?;
        let request =
            v1::RemoveNodeRequest { node_id, force, expected_version: if_match(&headers)? };
        let call = rest.cluster.membership.remove_node(request);
        let removing = within(rest.cluster.longest_deadline(), Kind::Changes, call).await?;
        let removed = removing.state() == v1::NodeState::Removed;
        let status = if removed { StatusCode::OK } else { StatusCode::ACCEPTED };
        let body = Removing {
            id: node_id,
            state: state_name(removing.state()),
            peers_left: removing.peers_left,
            leaders_left: removing.leaders_left,
            version: removing.version,
        };
        Ok((status, with_etag(removing.version, Json(body))).into_response())
    })
    .await
}

fn with_etag(version: u64, body: impl IntoResponse) -> Response {
    let etag = HeaderValue::try_from(format!("\"{version}\"")).expect("quoted digits");
    ([(header::ETAG, etag)], body).into_response()
}

/// The version of the node table that the caller decided on: `"7"` or `7`. `*` and none leave it
/// out.
fn if_match(headers: &HeaderMap) -> Result<Option<u64>, Error> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let digits = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
    let version = digits.parse();
    version.map(Some).map_err(|_| Error::invalid("If-Match", "must be a version of the node table"))
}

fn state_name(state: v1::NodeState) -> &'static str {
    match state {
        v1::NodeState::Unspecified => "unknown",
        v1::NodeState::Joining => "joining",
        v1::NodeState::NodeLearner => "learner",
        v1::NodeState::Up => "up",
        v1::NodeState::Draining => "draining",
        v1::NodeState::Removed => "removed",
    }
}

fn liveness_name(liveness: v1::Liveness) -> &'static str {
    match liveness {
        v1::Liveness::Unspecified => "unknown",
        v1::Liveness::Alive => "alive",
        v1::Liveness::Disconnected => "disconnected",
        v1::Liveness::Down => "down",
    }
}

impl From<v1::Node> for Node {
    fn from(node: v1::Node) -> Self {
        Self {
            id: node.node_id,
            state: state_name(node.state()),
            liveness: liveness_name(node.liveness()),
            client_address: node.client_address,
            peer_address: node.peer_address,
            http_address: node.http_address,
            labels: node.labels,
            version: node.version,
            leaders: node.leaders,
            peers: node.peers,
            leaders_evicted: node.leaders_evicted,
            disk_available_bytes: node.disk_available_bytes,
            disk_used_bytes: node.disk_used_bytes,
        }
    }
}

impl From<v1::StatusResponse> for Status {
    fn from(status: v1::StatusResponse) -> Self {
        Self {
            joined: status.joined,
            removed: status.removed,
            cluster_id: status.cluster_id,
            node_id: status.node_id,
            version: status.version,
            client_address: status.client_address,
            peer_address: status.peer_address,
            http_address: status.http_address,
            labels: status.labels,
            table_version: status.table_version,
            ready: status.ready,
            not_ready_reasons: status.not_ready_reasons,
            disk_level: status.disk_level,
            disk_available_bytes: status.disk_available_bytes,
            disk_used_bytes: status.disk_used_bytes,
            system_leader_node: status.system_leader_node,
            peers: status.peers.into_iter().map(Peer::from).collect(),
        }
    }
}

impl From<v1::PeerStatus> for Peer {
    fn from(peer: v1::PeerStatus) -> Self {
        Self {
            region_id: peer.region.map_or(0, |region| region.region_id),
            peer_id: peer.peer_id,
            role: peer.role,
            term: peer.term,
            leader_peer_id: peer.leader_peer_id,
            last_index: peer.last_index,
            committed_index: peer.committed_index,
            applied_index: peer.applied_index,
            snapshot_index: peer.snapshot_index,
            purged_index: peer.purged_index,
        }
    }
}
