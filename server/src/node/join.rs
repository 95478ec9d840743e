//! `--init` and `--join`: an empty disk finds its cluster by itself. Both are harmless later.

use std::{sync::Arc, time::Duration};

use flotilla_proto::v1::{self, cluster_client::ClusterClient};
use tonic::transport::Channel;

use super::{Node, calls::Calls};
use crate::{api::Membership as _, clock, error::Error, raft::transport::endpoint};

const RETRY: Duration = Duration::from_millis(500);
/// Bound: one call to a node of the cluster.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Does what the command line asks, beside everything else, until it is done.
pub(super) fn start(node: &Arc<Node>) {
    let node = Arc::clone(node);
    if node.config.init {
        node.runtime.clone().spawn(async move {
            if node.joined.get().is_some() || node.is_removed() {
                return;
            }
            match Calls(Arc::clone(&node)).initialize(v1::InitializeRequest::default()).await {
                Ok(answer) => {
                    tracing::info!(cluster = answer.cluster_id, "initialized a new cluster");
                }
                Err(error) => node.fail(format!("initialize the cluster: {error}")),
            }
        });
    } else if !node.config.join.is_empty() {
        node.runtime.clone().spawn(async move {
            while let Err(reason) = join(&node).await {
                if node.is_removed() {
                    return;
                }
                tracing::info!(reason, "waiting to join");
                tokio::time::sleep(clock::jitter(RETRY)).await;
            }
        });
    }
}

/// One attempt: is added, then promoted. Done when the node's own row says that it is in service.
async fn join(node: &Arc<Node>) -> Result<(), String> {
    let mut last = "no address was given".to_owned();
    for address in &node.config.join {
        let attempt = async {
            let channel = endpoint(address)?
                .connect()
                .await
                .map_err(|error| format!("connect to {address}: {error}"))?;
            join_at(node, &mut ClusterClient::new(channel))
                .await
                .map_err(|error| format!("{address}: {error}"))
        };
        match tokio::time::timeout(TIMEOUT, attempt).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => last = error,
            Err(_) => last = format!("{address} does not answer"),
        }
    }
    Err(last)
}

async fn join_at(node: &Arc<Node>, client: &mut ClusterClient<Channel>) -> Result<(), String> {
    let told = |status: tonic::Status| status.message().to_owned();
    if node.joined.get().is_none() {
        client.add_learner(add_request(node)).await.map_err(told)?;
    }
    let own = node.joined.get().ok_or("was added but not handed an identity yet")?.node;
    let listed = client
        .list_nodes(v1::ListNodesRequest { all: true, allow_local: false })
        .await
        .map_err(told)?
        .into_inner();
    let record = listed
        .nodes
        .iter()
        .find(|record| record.node_id == own.0)
        .ok_or("this node is not in the cluster's table")?;
    match record.state() {
        // Crashed between having its identity and saying so: the call converges.
        v1::NodeState::Joining => {
            client.add_learner(add_request(node)).await.map_err(told)?;
            Err("this node has confirmed its identity and is promoted next".to_owned())
        }
        v1::NodeState::NodeLearner => {
            let request = v1::ChangeMembershipRequest {
                promote: vec![own.0],
                demote: Vec::new(),
                expected_version: Some(listed.version),
                ..Default::default()
            };
            client.change_membership(request).await.map_err(told)?;
            Ok(())
        }
        v1::NodeState::Up
        | v1::NodeState::Draining
        | v1::NodeState::Removed
        | v1::NodeState::Unspecified => Ok(()),
    }
}

fn add_request(node: &Node) -> v1::AddLearnerRequest {
    v1::AddLearnerRequest {
        address: node.advertised.client.clone(),
        labels: node.labels(),
        expected_version: None,
    }
}

/// What a call that needs a joined node answers on one that is not.
pub(super) fn not_joined(node: &Node) -> Error {
    Error::NotJoined { removed: node.is_removed() }
}
