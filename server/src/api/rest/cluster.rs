//! `/cluster`, `/cluster/nodes`, `/status`: membership and state as JSON.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::{Path, Request, State},
    response::{IntoResponse, Response},
    routing::{MethodRouter, delete, post},
};
use flotilla_proto::{json, v1};
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
        Ok(with_etag(table.version, Json(json::Cluster::from(table))))
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
        Ok(Json(json::Status::from(status)).into_response())
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
            ..Default::default()
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
            state: json::state_name(removing.state()),
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
