//! Who the node behind an address is, asked before anybody is of a cluster.

use std::time::Duration;

use flotilla_proto::{clients, v1};

use super::meeting::Asked;
use crate::world::dial;

/// Bound: one question to a node that may be nobody's.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Who a node is, whatever is on it.
const WHO: v1::StatusRequest = v1::StatusRequest { without_peers: true, after_region: 0 };

/// Asks the node behind a client address who it is.
pub(in crate::node) async fn ask(address: &str) -> Asked {
    let asking = async {
        let channel = dial::node(address)?
            .connect()
            .await
            .map_err(|error| format!("cannot connect: {}", root_cause(&error)))?;
        let status = clients::cluster(channel).status(WHO).await;
        status.map(tonic::Response::into_inner).map_err(|status| status.message().to_owned())
    };
    let answer = tokio::time::timeout(TIMEOUT, asking)
        .await
        .unwrap_or_else(|_| Err("does not answer".to_owned()));
    Asked { address: address.to_owned(), answer }
}

/// "connection refused" says more than the layers around it.
pub(in crate::node) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
