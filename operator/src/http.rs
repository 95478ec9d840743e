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
use tokio::net::TcpListener;

use self::bounded::Bounded;
use crate::metrics::Metrics;

/// Whether the operator can do its work: the API server answered and knows our type. One that waits
/// for the lease is ready, too.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    #[must_use]
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
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
                if ready.get() {
                    (StatusCode::OK, "ok\n")
                } else {
                    (StatusCode::SERVICE_UNAVAILABLE, "waiting for the type KvCluster\n")
                }
            }),
        )
        .with_state((metrics, ready));
    tracing::info!(address = %listener.local_addr()?, "serving metrics");
    Ok(async move { axum::serve(Bounded::new(listener), router).await })
}
