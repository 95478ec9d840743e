//! The operator's own port: metrics, and whether it lives.
//!
//! Whoever reaches it may be anybody, so there are so many connections and no more, and none lasts: one that
//! says nothing keeps its place for a while only. Who scrapes connects again.

mod bounded;

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use parking_lot::Mutex;
use tokio::net::TcpListener;

use self::bounded::Bounded;
use crate::{metrics::Metrics, requests::Requests};

/// Whether the operator can do its work: the API server answered, knows our type, refuses neither the Lease nor
/// what is watched, and has shown which clusters there are to the one that leads. One that waits for the lease is ready,
/// too.
#[derive(Clone)]
pub struct Readiness {
    type_is_there: Arc<AtomicBool>,
    /// Lists of KvClusters that are waited for.
    unlisted: Arc<Mutex<usize>>,
    requests: Requests,
}

impl Readiness {
    #[must_use]
    pub fn new(requests: Requests) -> Self {
        Self { type_is_there: Arc::default(), unlisted: Arc::default(), requests }
    }

    pub fn set(&self) {
        self.type_is_there.store(true, Ordering::Release);
    }

    /// It leads, and learns of its clusters by so many lists.
    pub fn lists(&self, count: usize) {
        *self.unlisted.lock() = count;
    }

    /// The first of one of these has ended.
    pub fn listed(&self) {
        let mut unlisted = self.unlisted.lock();
        *unlisted = unlisted.saturating_sub(1);
    }

    /// What it lacks, a sentence each.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let mut missing = self.requests.in_the_way();
        if missing.is_empty() && !self.type_is_there.load(Ordering::Acquire) {
            missing.push("waiting for the type KvCluster".to_owned());
        }
        if missing.is_empty() && *self.unlisted.lock() > 0 {
            missing.push(
                "it leads, and no list of KvClusters has ended since; where that fails its log says why".to_owned(),
            );
        }
        missing
    }
}

/// Serves until it is dropped.
///
/// # Errors
/// When the port is taken.
pub async fn serve(
    address: SocketAddr,
    metrics: Metrics,
    ready: Readiness,
) -> anyhow::Result<impl Future<Output = std::io::Result<()>>> {
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| anyhow::anyhow!("listen on {address}: {error}"))?;
    let router = Router::new()
        .route(
            "/metrics",
            get(|State((metrics, _)): State<(Metrics, Readiness)>| async move {
                ([("content-type", "text/plain; version=0.0.4")], metrics.text())
            }),
        )
        .route("/livez", get(|| async { "ok\n" }))
        .route(
            "/readyz",
            get(|State((_, ready)): State<(Metrics, Readiness)>| async move {
                let missing = ready.missing();
                if missing.is_empty() {
                    (StatusCode::OK, "ok\n".to_owned())
                } else {
                    (StatusCode::SERVICE_UNAVAILABLE, missing.join("\n") + "\n")
                }
            }),
        )
        .with_state((metrics, ready));
    tracing::info!(address = %listener.local_addr()?, "serving metrics");
    Ok(async move { axum::serve(Bounded::new(listener), router).await })
}
