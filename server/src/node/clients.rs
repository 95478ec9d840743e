//! Connections to the placement services of other nodes.
//!
//! Every call to the driver, and every call for it to another node, goes over a connection that is
//! kept: a node that looks up many keys, or polls a check, would dial for each otherwise.

use std::error::Error as _;

use flotilla_proto::{
    CLUSTER_ID_METADATA, clients as proto_clients,
    v1::{error_detail::Reason, placement_client},
};
use parking_lot::Mutex;
use tonic::{
    ConnectError, Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

use crate::{
    ids::ClusterId,
    world::{dial, maps::HashMap},
};

/// Bound: addresses with a connection; past it all are let go and made anew as they are needed.
const CLIENTS_MAX: usize = 2_048;

/// A client of the placement service of a node of this cluster.
pub(super) type PlacementClient =
    placement_client::PlacementClient<InterceptedService<Channel, Naming>>;

/// Names the cluster that a call is meant for. Addresses outlive clusters: whoever answers at one may be of
/// another, which neither the numbers of nodes nor those of regions would show.
#[derive(Clone)]
pub(super) struct Naming(MetadataValue<Ascii>);

impl Interceptor for Naming {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert(CLUSTER_ID_METADATA, self.0.clone());
        Ok(request)
    }
}

/// One client per address, for the one cluster that a node is of.
#[derive(Default)]
pub(super) struct PlacementClients(Mutex<HashMap<String, PlacementClient>>);

impl PlacementClients {
    /// A client that connects when it is first used, and again after its connection has broken.
    ///
    /// # Errors
    /// When `address` is no `host:port`.
    pub(super) fn get(&self, cluster: ClusterId, address: &str) -> Result<PlacementClient, String> {
        let mut clients = self.0.lock();
        if let Some(client) = clients.get(address) {
            return Ok(client.clone());
        }
        let naming = Naming(cluster.to_string().parse().expect("hexadecimal digits are ASCII"));
        let channel = dial::node(address)?.connect_lazy();
        let client = proto_clients::placement(InterceptedService::new(channel, naming));
        if clients.len() >= CLIENTS_MAX {
            clients.clear();
        }
        clients.insert(address.to_owned(), client.clone());
        Ok(client)
    }
}

/// Whether a call failed before there was a connection to send it over, so that nobody has heard it.
pub(super) fn is_unsent(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Whether a failed call says that the node is not at that address: nobody has answered there, or somebody of another
/// cluster or of none. Any other status is of the node itself, which says it from there.
pub(super) fn is_elsewhere(status: &Status) -> bool {
    match flotilla_proto::status::detail(status).and_then(|detail| detail.reason) {
        Some(reason) => matches!(reason, Reason::WrongCluster(_) | Reason::NotJoined(_)),
        None => status.source().is_some(),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        time::Duration,
    };

    use flotilla_proto::v1;
    use tokio::{io::AsyncReadExt as _, net::TcpListener};

    use super::*;
    use crate::{api, error::Error};

    #[tokio::test]
    async fn connection_is_kept_over_calls() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        let accepting = async move {
            // tonic's own server, with an empty set of services: every call is `UNIMPLEMENTED`.
            let incoming = futures::stream::unfold(listener, move |listener| {
                let counted = Arc::clone(&counted);
                async move {
                    let accepted = listener.accept().await.map(|(stream, _)| stream);
                    counted.fetch_add(1, Ordering::Relaxed);
                    Some((accepted, listener))
                }
            });
            let (_, health) = tonic_health::server::health_reporter();
            tonic::transport::Server::builder()
                .add_service(health)
                .serve_with_incoming(incoming)
                .await
        };
        let serving = tokio::spawn(accepting);
        let clients = PlacementClients::default();
        for _ in 0..20 {
            let mut client = clients.get(ClusterId([1; 16]), &address).expect("an address");
            let answer = client.regions(v1::RegionsRequest::default()).await;
            let status = answer.expect_err("nobody serves it");
            assert_eq!(status.code(), tonic::Code::Unimplemented);
            assert!(!is_unsent(&status) && !is_elsewhere(&status));
        }
        assert_eq!(connections.load(Ordering::Relaxed), 1);
        serving.abort();
    }

    #[tokio::test]
    async fn call_without_a_connection_was_not_sent() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        drop(listener);
        let clients = PlacementClients::default();
        let mut client = clients.get(ClusterId([1; 16]), &address).expect("an address");
        let status = client.regions(v1::RegionsRequest::default()).await.expect_err("refused");
        assert!(is_unsent(&status) && is_elsewhere(&status), "{status:?}");

        // One that takes the call and goes may have done it.
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let cutting = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut read = [0; 64];
            let _ = stream.read(&mut read).await;
        });
        let mut client = clients.get(ClusterId([1; 16]), &address).expect("an address");
        let status = client.regions(v1::RegionsRequest::default()).await.expect_err("cut");
        assert!(!is_unsent(&status) && is_elsewhere(&status), "{status:?}");
        cutting.await.expect("it ends");
    }

    #[test]
    fn only_who_is_of_another_cluster_or_of_none_says_that_it_is_somebody_else() {
        let (asked, actual) = (ClusterId([1; 16]), ClusterId([2; 16]));
        let busy = Error::Busy { queue: "requests".to_owned(), retry_after: Duration::ZERO };
        for (why, error, want) in [
            ("of another cluster", Error::WrongCluster { asked, actual }, true),
            ("of none", Error::NotJoined { removed: false }, true),
            ("it is busy", busy, false),
            ("it is about to end", Error::Draining, false),
        ] {
            assert_eq!(is_elsewhere(&api::status(&error)), want, "{why}");
        }
    }
}
