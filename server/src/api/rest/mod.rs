//! HTTP for people and probes: keys, membership, health, metrics.
//!
//! Every answer that is not a success is JSON `{code, message, retryable, maybe_applied}`, but those
//! of the probes, which are text.

use std::sync::Arc;

use axum::{Router, body::Body, middleware, response::Response, routing::get};
use bytes::Bytes;
use http::StatusCode;
use hyper::body::Body as _;

use self::failure::Failure;
use super::{
    ClusterCalls,
    admission::Admission,
    answer::{self, Answer},
    cluster::ClusterApi,
    kv::KvApi,
    limits::Limits,
    observer::{Method, Observer},
    status::code,
    tracked::Tracked,
};

mod cluster;
mod conditions;
mod failure;
mod guard;
mod json_line;
mod keys;
mod lines;
mod listing;
mod probes;
mod query;
mod unread;

pub use self::guard::Hosts;
use crate::router::Requests;

/// Answers the text of `/metrics`.
pub type Metrics = Arc<dyn Fn() -> String + Send + Sync>;

/// What the handlers share.
struct Rest<R> {
    kv: KvApi<R>,
    cluster: ClusterApi,
    admission: Admission,
    observer: Arc<dyn Observer>,
    metrics: Metrics,
}

/// Handlers get it by reference count.
type Shared<R> = Arc<Rest<R>>;

/// Everything on the HTTP port.
pub fn router<R: Requests>(
    requests: R,
    membership: Arc<dyn ClusterCalls>,
    limits: Arc<Limits>,
    admission: Admission,
    observer: Arc<dyn Observer>,
    metrics: Metrics,
    hosts: Hosts,
) -> Router {
    let cluster = ClusterApi { membership, limits: Arc::clone(&limits) };
    let kv = KvApi::sharing(requests, limits, &admission);
    let rest = Arc::new(Rest { kv, cluster, admission, observer, metrics });
    Router::new()
        .route("/kv", get(listing::list::<R>))
        .route("/kv/", keys::routes())
        .route("/kv/{*key}", keys::routes())
        .route("/cluster", get(cluster::show::<R>))
        .route("/cluster/nodes", cluster::nodes_routes())
        .route("/cluster/nodes/{id}", cluster::node_routes())
        .route("/status", get(cluster::status::<R>))
        .route("/livez", get(probes::livez::<R>))
        .route("/readyz", get(probes::readyz::<R>))
        .route("/metrics", get(probes::metrics::<R>))
        .fallback(async || Failure::plain(StatusCode::NOT_FOUND, "NOT_FOUND", "no such path"))
        // axum adds `Allow` to what this answers.
        .method_not_allowed_fallback(async || {
            let message = "this path does not know the method";
            Failure::plain(StatusCode::METHOD_NOT_ALLOWED, "UNIMPLEMENTED", message)
        })
        .with_state(rest)
        .layer(middleware::from_fn_with_state(Arc::new(hosts), guard::guard))
        .layer(middleware::from_fn(unread::read_on))
}

impl<R: Requests> Rest<R> {
    /// Runs a handler in its queue, and tells the observer.
    async fn run(
        &self,
        method: Method,
        handler: impl Future<Output = Result<Response, Failure>>,
    ) -> Result<Response, Failure> {
        let mut tracked = Tracked::start(&self.observer, method);
        match self.admission.admit(method.class()) {
            Ok(permit) => tracked.hold(permit),
            Err(error) => {
                tracked.finish(code(&error));
                return Err(error.into());
            }
        }
        let answered = handler.await.and_then(|response| {
            let bytes = response.body().size_hint().exact().unwrap_or(0);
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
            let held = answer::hold(self.admission.answers(), method, bytes)?;
            Ok((response, held))
        });
        match answered {
            Ok((response, held)) => {
                tracked.finish(tonic::Code::Ok);
                let pieces = |body| Answer::new(Bytes::new(), body, Some(tracked), held);
                Ok(response.map(|body| Body::new(pieces(body))))
            }
            Err(failure) => {
                tracked.finish(failure.code());
                Err(failure)
            }
        }
    }
}

#[cfg(test)]
mod tests;
