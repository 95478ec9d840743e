//! Stands between an operator and the API server, and tells at `/recorded` which rights were used.

use std::net::SocketAddr;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    flotilla_kubernetes_tests::recorder::serve(SocketAddr::from(([0, 0, 0, 0], 8001))).await
}
