//! The first node of a cluster, and what it is born with.

use std::sync::Arc;

use bytes::Bytes;
use flotilla_proto::v1;

use super::{calls::Calls, identity};
use crate::{
    clock, command,
    error::Error,
    ids::{ClusterId, NodeId, PeerId, RegionId},
    placement::tables,
    region::lifecycle,
    storage::{
        batch::WriteBatch,
        engine::Family,
        keys::data::{self, KeyspaceId},
    },
};

const REPLICATION_FACTOR: u32 = 3;
const REPLICATION_FACTOR_MAX: u32 = 7;
/// Bound: regions of birth.
const SPLIT_KEYS_MAX: usize = 10_000;
const SYSTEM_REGIONS: u64 = 1;

impl Calls {
    pub(super) async fn initialize_here(
        &self,
        request: v1::InitializeRequest,
    ) -> Result<v1::InitializeResponse, Error> {
        let node = &self.0;
        let _joining = node.joining.lock().await;
        let storage = |error: crate::storage::engine::Error| Error::Internal {
            message: format!("initialize: {error}"),
        };
        if let Some(stored) = identity::read_stored(node.log.as_ref()).map_err(storage)? {
            let id = ClusterId::from_bytes(&stored.cluster_id).map(|id| id.to_string());
            if stored.initialized_here && stored.initialize_token == request.token {
                return Ok(v1::InitializeResponse {
                    cluster_id: id.unwrap_or_default(),
                    node_id: stored.node_id,
                });
            }
            return Err(Error::FailedPrecondition {
                message: format!("this node already belongs to cluster {}", id.unwrap_or_default()),
            });
        }
        if !node.config.join.is_empty() {
            return Err(Error::FailedPrecondition {
                message: "this node was told to join a cluster (--join)".to_owned(),
            });
        }
        let (batch, regions, stored) = self.birth(&request)?;
        let (log, data) = (Arc::clone(&node.log), Arc::clone(&node.data));
        let own = stored.clone();
        // Durability: the identity last. Without it the disk is nobody's, and what is on it goes before
        // anything else is written.
        tokio::task::spawn_blocking(move || {
            lifecycle::wipe(log.as_ref(), data.as_ref())?;
            lifecycle::birth(log.as_ref(), data.as_ref(), &regions, batch)?;
            identity::write(log.as_ref(), &own)
        })
        .await
        .map_err(|error| Error::Internal { message: error.to_string() })?
        .map_err(storage)?;
        let identity = identity::read(node.log.as_ref())
            .map_err(storage)?
            .ok_or_else(|| Error::Internal { message: "the identity is gone".to_owned() })?;
        node.activate(identity, false).await.map_err(|error| Error::Internal {
            message: format!("start the first regions: {error:#}"),
        })?;
        Ok(v1::InitializeResponse {
            cluster_id: identity.cluster.to_string(),
            node_id: stored.node_id,
        })
    }

    /// Everything that the first node of a cluster is born with.
    fn birth(
        &self,
        request: &v1::InitializeRequest,
    ) -> Result<(WriteBatch, Vec<command::RegionState>, v1::NodeIdentity), Error> {
        let node = &self.0;
        let factor = match request.replication_factor {
            0 => REPLICATION_FACTOR,
            factor if factor % 2 == 1 && factor <= REPLICATION_FACTOR_MAX => factor,
            _ => {
                return Err(Error::InvalidArgument {
                    field: "replication_factor".to_owned(),
                    message: format!("must be odd and at most {REPLICATION_FACTOR_MAX}"),
                    limit: REPLICATION_FACTOR_MAX.into(),
                });
            }
        };
        let borders = borders(&request.split_keys, node.config.limits.key_bytes_max)?;
        let first = NodeId(1);
        let mut regions = Vec::new();
        for (index, pair) in borders.windows(2).enumerate() {
            let id = SYSTEM_REGIONS + index as u64;
            regions.push(lifecycle::newborn(
                RegionId(id),
                pair[0].clone(),
                pair[1].clone(),
                PeerId(id),
                first,
            ));
        }
        let next = SYSTEM_REGIONS + regions.len() as u64;
        let cluster_id = match request.cluster_id.as_str() {
            "" => ClusterId(clock::random_bytes()),
            text => ClusterId::parse(text)
                .ok_or_else(|| Error::invalid("cluster_id", "must be 32 hexadecimal digits"))?,
        };
        let mut labels = node.labels();
        labels.extend(request.labels.clone());
        let seed = tables::Seed {
            cluster_id,
            replication_factor: factor,
            token: request.token.clone(),
            first: v1::NodeRecord {
                node_id: first.0,
                client_address: node.advertised.client.clone(),
                peer_address: node.advertised.peer.clone(),
                http_address: node.advertised.http.clone(),
                state: v1::NodeState::Up.into(),
                labels,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                forced: false,
            },
            next_region: RegionId(next),
            next_peer: PeerId(next),
        };
        let mut batch = WriteBatch::new();
        let head = command::ValueHead::new(1, 0);
        for (key, payload) in tables::seed(seed) {
            batch.put_parts(Family::Default, &key, &[head.as_bytes(), &payload]);
        }
        let stored = v1::NodeIdentity {
            cluster_id: Bytes::copy_from_slice(&cluster_id.0),
            node_id: first.0,
            removed: false,
            initialize_token: request.token.clone(),
            initialized_here: true,
            starts: 0,
        };
        Ok((batch, regions, stored))
    }
}

/// Borders of the regions of birth, in encoded keys, ends of the key space included.
fn borders(split_keys: &[Bytes], key_bytes_max: usize) -> Result<Vec<Bytes>, Error> {
    if split_keys.len() > SPLIT_KEYS_MAX {
        return Err(Error::InvalidArgument {
            field: "split_keys".to_owned(),
            message: format!("has {} keys", split_keys.len()),
            limit: SPLIT_KEYS_MAX as u64,
        });
    }
    let mut borders = vec![Bytes::new(), data::keyspace_range(KeyspaceId::DEFAULT).start];
    let mut sorted = split_keys.to_vec();
    sorted.sort();
    sorted.dedup();
    for key in sorted {
        if key.is_empty() || key.len() > key_bytes_max {
            return Err(Error::InvalidArgument {
                field: "split_keys".to_owned(),
                message: format!("a key of {} bytes", key.len()),
                limit: key_bytes_max as u64,
            });
        }
        borders.push(data::encode(KeyspaceId::DEFAULT, &key));
    }
    borders.push(Bytes::new());
    Ok(borders)
}
