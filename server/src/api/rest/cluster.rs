//! `/cluster`, `/cluster/nodes`, `/status`: membership and state as JSON.

use std::collections::BTreeMap;

use axum::{
    extract::{Path, Request, State},
    response::{IntoResponse, Response},
    routing::{MethodRouter, delete, post},
};
use flotilla_proto::{json, v1};
use http::{HeaderMap, StatusCode, Uri, header};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{
    Failure, Rest, Shared,
    conditions::etag,
    failure::HalfDone,
    json_line::JsonLine,
    query::{Query, TIMEOUT},
};
use crate::{
    api::{
        cluster::{Kind, check_add_learner, within},
        observer::Method,
    },
    error::Error,
    router::Requests,
};

/// Bound: a node as JSON, with labels.
const NODE_BYTES_MAX: usize = 64 << 10;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewNode {
    address: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// Also when it was demoted; else that is refused.
    #[serde(default)]
    promote_demoted: bool,
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
        let query = Query::of(&uri, &["all", TIMEOUT])?;
        let all = query.flag("all")?;
        let call =
            rest.cluster.membership.list_nodes(v1::ListNodesRequest { all, ..Default::default() });
        let table = within(rest.cluster_deadline(&query)?, Kind::Reads, call).await?;
        Ok(with_etag(table.version, JsonLine(json::Cluster::from(table))))
    })
    .await
}

/// `GET /status`: this node.
pub(super) async fn status<R: Requests>(
    State(rest): State<Shared<R>>,
    uri: Uri,
) -> Result<Response, Failure> {
    rest.run(Method::HttpCluster, async {
        let query = Query::of(&uri, &[TIMEOUT])?;
        let deadline = rest.cluster_deadline(&query)?;
        let ask = |request| within(deadline, Kind::Reads, rest.cluster.membership.status(request));
        let mut status = ask(v1::StatusRequest::default()).await?;
        while let Some(next) = status.next_page() {
            status.extend(ask(next).await?);
        }
        Ok(JsonLine(json::Status::from(status)).into_response())
    })
    .await
}

/// `POST /cluster/nodes`: adds a node and promotes it, but for one that was demoted, unless that is asked
/// for. Repeating it after a lost answer converges, and
/// so does repeating it when only the promotion failed, whose cause is then the answer.
async fn add<R: Requests>(
    State(rest): State<Shared<R>>,
    request: Request,
) -> Result<Response, Failure> {
    rest.run(Method::HttpCluster, async {
        let (head, body) = request.into_parts();
        let query = Query::of(&head.uri, &[TIMEOUT])?;
        query.timeout()?;
        let expected_version = if_match(&head.headers)?;
        is_json(&head.headers)?;
        let body = rest.receive_up_to(NODE_BYTES_MAX, "body", &head.headers, body).await?;
        let NewNode { address, labels, promote_demoted } = serde_json::from_slice(&body)
            .map_err(|error| Error::invalid("body", format!("must be a node as JSON: {error}")))?;
        let learner = v1::AddLearnerRequest { address, labels, expected_version };
        check_add_learner(&learner)?;
        let deadline = rest.cluster_deadline(&query)?;
        let membership = &rest.cluster.membership;
        // Only the version before tells whether the first step changed anything: the caller named it, or it is asked
        // for.
        let before = match expected_version {
            Some(version) => Some(version),
            None => {
                let listing = membership.list_nodes(v1::ListNodesRequest::default());
                within(deadline, Kind::Reads, listing).await.ok().map(|table| table.version)
            }
        };
        let added = within(deadline, Kind::Changes, membership.add_learner(learner)).await?;
        let promotion = v1::ChangeMembershipRequest {
            promote: vec![added.node_id],
            demote: vec![],
            // What the first step made, so that nobody comes in between either.
            expected_version: expected_version.map(|_| added.version),
            keep_demoted: !promote_demoted,
            ..Default::default()
        };
        let promoted =
            within(deadline, Kind::Changes, membership.change_membership(promotion)).await;
        let version = promoted
            .map_err(|error| {
                let changed = before != Some(added.version);
                Failure::half_done(HalfDone { node: added.node_id, changed }, error)
            })?
            .version;
        let added = Added { id: added.node_id, version };
        Ok((StatusCode::CREATED, with_etag(version, JsonLine(added))).into_response())
    })
    .await
}

/// `DELETE /cluster/nodes/{id}`: drains a node; 202 while it is not gone. Repeated it drains anew
/// what was taken back meanwhile: `GET /cluster/nodes` tells how far it is.
async fn remove<R: Requests>(
    State(rest): State<Shared<R>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Failure> {
    rest.run(Method::HttpCluster, async {
        let query = Query::of(&uri, &["force", TIMEOUT])?;
        let force = query.flag("force")?;
        let node_id = id.parse().map_err(|_| Error::invalid("id", "must be a node id"))?;
        let request =
            v1::RemoveNodeRequest { node_id, force, expected_version: if_match(&headers)? };
        let call = rest.cluster.membership.remove_node(request);
        let removing = within(rest.cluster_deadline(&query)?, Kind::Changes, call).await?;
        let removed = removing.state() == v1::NodeState::Removed;
        let status = if removed { StatusCode::OK } else { StatusCode::ACCEPTED };
        let body = Removing {
            id: node_id,
            state: json::state_name(removing.state()),
            peers_left: removing.peers_left,
            leaders_left: removing.leaders_left,
            version: removing.version,
        };
        Ok((status, with_etag(removing.version, JsonLine(body))).into_response())
    })
    .await
}

fn with_etag(version: u64, body: impl IntoResponse) -> Response {
    ([(header::ETAG, etag(version))], body).into_response()
}

/// What is called JSON: a page of another origin may send a body under other names without being asked.
fn is_json(headers: &HeaderMap) -> Result<(), Failure> {
    let named = headers.get(header::CONTENT_TYPE).and_then(|name| name.to_str().ok());
    let essence = named.and_then(|name| name.split(';').next()).unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let error = Error::invalid("Content-Type", "must be application/json");
    Err(Failure::with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE, error))
}

impl<R: Requests> Rest<R> {
    /// A call of the cluster that names no deadline has the longest.
    fn cluster_deadline(&self, query: &Query) -> Result<Instant, Error> {
        let limits = &self.cluster.limits;
        limits.deadline(Some(query.timeout()?.unwrap_or(limits.request_timeout_max)))
    }
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
