//! A reverse proxy in front of an API server that notes which rights its user makes use of.
//!
//! It forwards as the account of the pod in which it runs, so Kubernetes goes on to refuse what that
//! account may not do; that is noted too.

use std::{collections::BTreeSet, fmt, net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use axum::{
    Json, Router,
    body::Body,
    extract::{Request, State},
    http::{Method, StatusCode, Uri, header::HOST},
    response::{IntoResponse as _, Response},
    routing::get,
};
use kube::Client;
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, sync::Mutex};

/// One thing that an account can be allowed to do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Right {
    /// As in a rule of RBAC.
    pub verb: String,
    /// With its subresource, as in `pods/status`.
    pub resource: String,
    /// Empty for the core group.
    pub group: String,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if self.group.is_empty() { Ok(()) } else { write!(f, ".{}", self.group) }
    }
}

/// What was seen.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Recording {
    /// Used.
    pub used: BTreeSet<Right>,
    /// Tried, and answered with "forbidden".
    pub refused: BTreeSet<Right>,
}

#[derive(Clone)]
struct Recorder {
    client: Client,
    seen: Arc<Mutex<Recording>>,
}

/// Serves until the process ends.
///
/// # Errors
/// When there is no API server, or the address is taken.
pub async fn serve(address: SocketAddr) -> anyhow::Result<()> {
    let client = Client::try_default().await.context("find the API server")?;
    let recorder = Recorder { client, seen: Arc::default() };
    let router =
        Router::new().route("/recorded", get(recorded)).fallback(forward).with_state(recorder);
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))?;
    axum::serve(listener, router).await.context("serve")
}

async fn recorded(State(recorder): State<Recorder>) -> Json<Recording> {
    Json(recorder.seen.lock().await.clone())
}

async fn forward(State(recorder): State<Recorder>, request: Request) -> Response {
    let right = right(request.method(), request.uri());
    let apply = request.method() == Method::PATCH;
    let (mut parts, body) = request.into_parts();
    parts.headers.remove(HOST);
    let Ok(body) = axum::body::to_bytes(body, usize::MAX).await else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let request = http::Request::from_parts(parts, kube::client::Body::from(body.to_vec()));
    match recorder.client.send(request).await {
        Ok(response) => {
            if let Some(right) = right {
                let mut seen = recorder.seen.lock().await;
                if response.status() == StatusCode::FORBIDDEN {
                    seen.refused.insert(right);
                } else {
                    // An apply that makes the object needs the right to create it.
                    if apply && response.status() == StatusCode::CREATED {
                        seen.used.insert(Right { verb: "create".to_owned(), ..right.clone() });
                    }
                    seen.used.insert(right);
                }
            }
            response.map(Body::new)
        }
        Err(error) => (StatusCode::BAD_GATEWAY, format!("{error:#}")).into_response(),
    }
}

/// The right that a request makes use of; none for what everybody may ask.
fn right(method: &Method, uri: &Uri) -> Option<Right> {
    let mut parts = uri.path().trim_matches('/').split('/');
    let group = match parts.next()? {
        "api" => String::new(),
        "apis" => parts.next()?.to_owned(),
        _ => return None,
    };
    parts.next()?; // the version
    let mut rest: Vec<&str> = parts.collect();
    if rest.first() == Some(&"namespaces") && rest.len() > 2 {
        rest.drain(..2);
    }
    let (resource, name, subresource) = match rest[..] {
        [] => return None,
        [resource] => (resource, None, None),
        [resource, name] => (resource, Some(name), None),
        [resource, name, subresource, ..] => (resource, Some(name), Some(subresource)),
    };
    let query = uri.query().unwrap_or_default();
    let watches =
        query.split('&').any(|pair| matches!(pair, "watch=true" | "watch=1" | "watch=True"));
    let verb = match (method.as_str(), name) {
        ("GET", _) if watches => "watch",
        ("GET", Some(_)) => "get",
        ("GET", None) => "list",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", Some(_)) => "delete",
        ("DELETE", None) => "deletecollection",
        _ => return None,
    };
    let resource =
        subresource.map_or_else(|| resource.to_owned(), |sub| format!("{resource}/{sub}"));
    Some(Right { verb: verb.to_owned(), resource, group })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_as_kubernetes_reads_them() {
        for (method, uri, want) in [
            (Method::GET, "/api/v1/pods?watch=true&x=1", Some("watch pods")),
            (Method::GET, "/api/v1/namespaces/ns/pods", Some("list pods")),
            (Method::GET, "/api/v1/namespaces/ns/pods/p", Some("get pods")),
            (Method::GET, "/api/v1/namespaces/ns", Some("get namespaces")),
            (Method::GET, "/api/v1/nodes/n", Some("get nodes")),
            (
                Method::PATCH,
                "/apis/apps/v1/namespaces/ns/statefulsets/s?force=true",
                Some("patch statefulsets.apps"),
            ),
            (
                Method::PUT,
                "/apis/flotilla.dev/v1alpha1/namespaces/ns/kvclusters/kv/status",
                Some("update kvclusters/status.flotilla.dev"),
            ),
            (Method::DELETE, "/api/v1/namespaces/ns/pods/p", Some("delete pods")),
            (
                Method::POST,
                "/apis/events.k8s.io/v1/namespaces/ns/events",
                Some("create events.events.k8s.io"),
            ),
            (Method::GET, "/version", None),
            (Method::GET, "/apis/apps/v1", None),
        ] {
            let uri: Uri = uri.parse().expect("a path");
            let found = right(&method, &uri).map(|right| right.to_string());
            assert_eq!(found.as_deref(), want, "{method} {uri}");
        }
    }
}
