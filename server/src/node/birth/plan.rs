//! From a request to a birth, and from a birth to what lies on the disk of each of its nodes. Pure: all
//! nodes of a birth must come to the same.

use bytes::Bytes;
use flotilla_proto::{
    keyspace::{self, KeyspaceId},
    replication::{FACTOR_MAX, FACTOR_WORDS, is_factor},
    v1,
};
use prost::Message as _;

use crate::{
    command, config,
    error::Error,
    ids::{ClusterId, NodeId, PeerId, RegionId},
    placement::{membership, tables},
    region::lifecycle,
    storage::batch::{Family, WriteBatch},
    world::clock,
};

const REPLICATION_FACTOR: u32 = 3;
/// Bound: nodes that a cluster begins with; more are added later.
pub(in crate::node) const FIRST_NODES_MAX: usize = config::BOOTSTRAP_EXPECT_MAX;
/// Bound: regions of birth.
const SPLIT_KEYS_MAX: usize = 10_000;

/// What one node of a birth has on its disk once it is born.
pub(in crate::node) struct Newborn {
    pub(in crate::node) identity: v1::NodeIdentity,
    pub(in crate::node) table: v1::NodeTable,
    /// Its regions, with its own peer of each.
    pub(in crate::node) regions: Vec<(PeerId, command::RegionState)>,
    /// Rows of the system's tables, if it has a peer of the region that holds them.
    pub(in crate::node) rows: WriteBatch,
}

/// A birth of these nodes, the first of which decides.
///
/// # Errors
/// `InvalidArgument` or `FailedPrecondition`: what [`check`] refuses.
pub(in crate::node) fn plan(
    request: &v1::InitializeRequest,
    nodes: &[v1::StatusResponse],
    key_bytes_max: usize,
) -> Result<v1::Birth, Error> {
    let cluster_id = match request.cluster_id.as_str() {
        "" => ClusterId(clock::random_bytes()),
        text => ClusterId::parse(text)
            .ok_or_else(|| Error::invalid("cluster_id", "must be 32 hexadecimal digits"))?,
    };
    let mut split_keys = request.split_keys.clone();
    split_keys.sort();
    split_keys.dedup();
    let is_met = |address: &&String| nodes.iter().any(|status| status.client_address == **address);
    if let Some(address) = request.first_node_labels.keys().find(|address| !is_met(address)) {
        let what = format!("{address} is the client address of no first node");
        return Err(Error::invalid("first_node_labels", what));
    }
    let first_nodes = nodes.iter().zip(1..).map(|(status, node_id)| {
        let mut labels = status.labels.clone();
        if let Some(told) = request.first_node_labels.get(&status.client_address) {
            labels.extend(told.labels.clone());
        }
        if node_id == 1 {
            labels.extend(request.labels.clone());
        }
        v1::FirstNode {
            disk_id: status.disk_id.clone(),
            record: Some(v1::NodeRecord {
                node_id,
                client_address: status.client_address.clone(),
                peer_address: status.peer_address.clone(),
                http_address: status.http_address.clone(),
                state: v1::NodeState::Up.into(),
                labels,
                version: status.version.clone(),
                feature_level: status.feature_level,
                ..v1::NodeRecord::default()
            }),
        }
    });
    let birth = v1::Birth {
        birth_id: clock::random_bytes().to_vec().into(),
        cluster_id: Bytes::copy_from_slice(&cluster_id.0),
        nodes: first_nodes.collect(),
        replication_factor: match request.replication_factor {
            0 => REPLICATION_FACTOR,
            factor => factor,
        },
        split_keys,
        token: request.token.clone(),
        initialize_digest: 0,
    };
    check(&birth, key_bytes_max)?;
    Ok(birth)
}

/// Whether the cluster of this identity was made by the same call before. A token says so for whatever
/// carries it; without one only a call that says the same in all its fields is taken for a repeat, so that
/// nobody believes that what he asked for was done.
pub(in crate::node) fn is_repeat(
    stored: &v1::NodeIdentity,
    request: &v1::InitializeRequest,
) -> bool {
    stored.initialized_here
        && stored.initialize_token == request.token
        && (!request.token.is_empty() || stored.initialize_digest == digest(request))
}

/// Tells calls apart that differ by accident; never 0.
pub(in crate::node) fn digest(request: &v1::InitializeRequest) -> u64 {
    let bytes = request.encode_to_vec();
    (u64::from(crc32c::crc32c(&bytes)) << 32) + bytes.len() as u64 + 1
}

/// Refuses a birth that could not be told to a cluster, or is none.
///
/// # Errors
/// `InvalidArgument` that names what is wrong; `FailedPrecondition` when the nodes do not go together.
pub(in crate::node) fn check(birth: &v1::Birth, key_bytes_max: usize) -> Result<(), Error> {
    if ClusterId::from_bytes(&birth.cluster_id).is_none() || birth.birth_id.is_empty() {
        return Err(Error::invalid("birth", "has no id"));
    }
    if !(1..=FIRST_NODES_MAX).contains(&birth.nodes.len()) {
        return Err(Error::InvalidArgument {
            field: "first_nodes".to_owned(),
            message: format!("{} nodes", birth.nodes.len()),
            limit: FIRST_NODES_MAX as u64,
        });
    }
    for (index, node) in birth.nodes.iter().enumerate() {
        let record = node.record.as_ref().ok_or_else(|| Error::invalid("birth", "lacks a row"))?;
        membership::check_record(record)?;
        if record.node_id != index as u64 + 1 {
            return Err(Error::invalid("birth", "its nodes are not numbered from one on"));
        }
        let same = |other: &v1::FirstNode| {
            let known = other.record.as_ref().is_some_and(|known| {
                known.client_address == record.client_address
                    || known.peer_address == record.peer_address
            });
            known || other.disk_id == node.disk_id
        };
        if birth.nodes.iter().take(index).any(same) {
            return Err(Error::FailedPrecondition {
                message: format!("two nodes of the birth are at {}", record.client_address),
            });
        }
    }
    if !is_factor(birth.replication_factor) {
        return Err(Error::InvalidArgument {
            field: "replication_factor".to_owned(),
            message: FACTOR_WORDS.to_owned(),
            limit: FACTOR_MAX.into(),
        });
    }
    borders(&birth.split_keys, key_bytes_max).map(drop)
}

/// What the node of this disk is born with; `None` when it is not of the birth.
///
/// # Errors
/// As [`check`].
pub(in crate::node) fn newborn(
    birth: &v1::Birth,
    disk_id: &[u8],
    key_bytes_max: usize,
) -> Result<Option<Newborn>, Error> {
    check(birth, key_bytes_max)?;
    let cluster_id = ClusterId::from_bytes(&birth.cluster_id)
        .ok_or_else(|| Error::invalid("birth", "has no id"))?;
    let Some(own) = birth.nodes.iter().position(|node| node.disk_id == disk_id) else {
        return Ok(None);
    };
    let own = NodeId(own as u64 + 1);
    let count = birth.nodes.len() as u64;
    let voters = count.min(birth.replication_factor.into());
    let borders = borders(&birth.split_keys, key_bytes_max)?;
    let mut regions = Vec::new();
    let mut next_region = RegionId::SYSTEM.0;
    let mut next_peer = 1;
    for (index, pair) in (0..).zip(borders.windows(2)) {
        // By turns, so that each node has its share, and of what its first peers lead.
        let peers: Vec<(PeerId, NodeId)> = (0..voters)
            .map(|turn| (PeerId(next_peer + turn), NodeId((index + turn) % count + 1)))
            .collect();
        next_peer += voters;
        let id = RegionId(next_region);
        next_region += 1;
        if let Some((peer, _)) = peers.iter().find(|(_, node)| *node == own) {
            let region = lifecycle::newborn(id, pair[0].clone(), pair[1].clone(), &peers);
            regions.push((*peer, region));
        }
    }
    let records: Vec<v1::NodeRecord> =
        birth.nodes.iter().filter_map(|node| node.record.clone()).collect();
    let seed = tables::Seed {
        cluster_id,
        replication_factor: birth.replication_factor,
        token: birth.token.clone(),
        nodes: records,
        next_region: RegionId(next_region),
        next_peer: PeerId(next_peer),
    };
    let seeded = tables::seed(seed);
    let table = tables::decode(seeded.iter().map(|(key, value)| (key, value)))
        .map_err(|error| Error::Internal { message: error.to_string() })?;
    let mut rows = WriteBatch::new();
    if regions.iter().any(|(_, region)| region.descriptor.region_id == RegionId::SYSTEM.0) {
        let head = command::ValueHead::new(1, 0);
        for (key, payload) in seeded {
            rows.put_parts(Family::Default, &key, &[head.as_bytes(), &payload]);
        }
    }
    let identity = v1::NodeIdentity {
        cluster_id: birth.cluster_id.clone(),
        node_id: own.0,
        removed: false,
        initialize_token: birth.token.clone(),
        initialize_digest: birth.initialize_digest,
        initialized_here: own.0 == 1,
        starts: 0,
        birth_id: birth.birth_id.clone(),
    };
    Ok(Some(Newborn { identity, table, regions, rows }))
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
    let mut borders = vec![Bytes::new(), keyspace::keyspace_range(KeyspaceId::DEFAULT).start];
    for key in split_keys {
        if key.is_empty() || key.len() > key_bytes_max {
            return Err(Error::InvalidArgument {
                field: "split_keys".to_owned(),
                message: format!("a key of {} bytes", key.len()),
                limit: key_bytes_max as u64,
            });
        }
        let border = keyspace::encode(KeyspaceId::DEFAULT, key);
        if borders.last().is_some_and(|last| *last >= border) {
            return Err(Error::invalid("split_keys", "are not in ascending order"));
        }
        borders.push(border);
    }
    borders.push(Bytes::new());
    Ok(borders)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    const KEY_BYTES_MAX: usize = 100;

    fn nodes(count: u8) -> Vec<v1::StatusResponse> {
        (1..=count)
            .map(|number| v1::StatusResponse {
                disk_id: vec![number; 16].into(),
                client_address: format!("n{number}:7420"),
                peer_address: format!("n{number}:7421"),
                http_address: format!("n{number}:7422"),
                version: "0.1.0".to_owned(),
                ..v1::StatusResponse::default()
            })
            .collect()
    }

    fn born(count: u8, request: &v1::InitializeRequest) -> Vec<Newborn> {
        let birth = plan(request, &nodes(count), KEY_BYTES_MAX).expect("a birth");
        (1..=count)
            .map(|number| {
                newborn(&birth, &[number; 16], KEY_BYTES_MAX).expect("sound").expect("of it")
            })
            .collect()
    }

    fn cut(keys: &[&'static str]) -> v1::InitializeRequest {
        v1::InitializeRequest {
            split_keys: keys.iter().map(|key| Bytes::from_static(key.as_bytes())).collect(),
            ..v1::InitializeRequest::default()
        }
    }

    #[test]
    fn a_call_repeats_another_by_its_token_or_by_saying_the_same() {
        let with_token =
            |token: &str, request| v1::InitializeRequest { token: token.to_owned(), ..request };
        for (why, first, second, want) in [
            ("the same", cut(&["a"]), cut(&["a"]), true),
            ("nothing said, twice", cut(&[]), cut(&[]), true),
            ("other borders", cut(&["a"]), cut(&["b"]), false),
            ("borders where there were none", cut(&[]), cut(&["b"]), false),
            ("one token", with_token("t", cut(&["a"])), with_token("t", cut(&["b"])), true),
            ("other tokens", with_token("t", cut(&["a"])), with_token("u", cut(&["a"])), false),
            ("a token first", with_token("t", cut(&["a"])), cut(&["a"]), false),
            ("a token then", cut(&["a"]), with_token("t", cut(&["a"])), false),
        ] {
            let mut birth = plan(&first, &nodes(1), KEY_BYTES_MAX).expect("a birth");
            birth.initialize_digest = digest(&first);
            let newborn = newborn(&birth, &[1; 16], KEY_BYTES_MAX).expect("sound").expect("of it");
            assert_eq!(is_repeat(&newborn.identity, &second), want, "{why}");
        }
        // Made by a flag: no call was there before.
        let by_flag = plan(&cut(&[]), &nodes(1), KEY_BYTES_MAX).expect("a birth");
        let by_flag = newborn(&by_flag, &[1; 16], KEY_BYTES_MAX).expect("sound").expect("of it");
        assert!(!is_repeat(&by_flag.identity, &cut(&[])));
    }

    #[test]
    fn labels_of_a_node_that_is_not_of_the_birth_are_refused() {
        let zone = |address: &str| {
            let labels = [("zone".to_owned(), "a".to_owned())].into();
            let told = [(address.to_owned(), v1::NodeLabels { labels })].into();
            v1::InitializeRequest { first_node_labels: told, ..cut(&[]) }
        };
        let birth = plan(&zone("n2:7420"), &nodes(2), KEY_BYTES_MAX).expect("a birth");
        let row = birth.nodes[1].record.as_ref().expect("a row");
        assert_eq!(row.labels.get("zone").map(String::as_str), Some("a"));
        let refused = plan(&zone("n3:7420"), &nodes(2), KEY_BYTES_MAX).expect_err("who is that");
        assert!(refused.to_string().contains("n3:7420"), "{refused}");
    }

    #[test]
    fn every_node_of_a_birth_comes_to_the_same() {
        for (count, request) in
            [(1, cut(&[])), (2, cut(&[])), (3, cut(&["t", "g"])), (5, cut(&["a", "b", "c"]))]
        {
            let born = born(count, &request);
            let mut seen: BTreeMap<u64, &command::RegionState> = BTreeMap::new();
            let mut peers = BTreeSet::new();
            for (node, newborn) in (1..).zip(&born) {
                assert_eq!(newborn.identity.node_id, node);
                assert_eq!(newborn.table, born[0].table);
                assert_eq!(newborn.table.nodes.len(), usize::from(count));
                for (peer, region) in &newborn.regions {
                    let of = |member: &&v1::Peer| member.node_id == node;
                    let member = region.descriptor.peers.iter().find(of).expect("a member");
                    assert_eq!(member.peer_id, peer.0, "its own peer");
                    assert!(peers.insert(*peer), "{peer} is somebody else's");
                    let id = region.descriptor.region_id;
                    let known = seen.entry(id).or_insert(region);
                    assert_eq!(
                        (&known.descriptor, &known.state),
                        (&region.descriptor, &region.state),
                        "region {id}"
                    );
                }
            }
            // They tile the key space, each with as many voters as there may be.
            assert_eq!(seen.len(), request.split_keys.len() + 2);
            let mut end = Bytes::new();
            for region in seen.values() {
                assert_eq!(region.descriptor.start_key, end);
                end = region.descriptor.end_key.clone();
                assert_eq!(region.descriptor.peers.len(), usize::from(count).min(3));
            }
            assert_eq!(end, Bytes::new());
            let voters: usize = seen.values().map(|region| region.descriptor.peers.len()).sum();
            assert_eq!(peers.len(), voters, "each peer is on its node's disk");
        }
    }

    #[test]
    fn a_lone_birth_numbers_peers_as_regions() {
        let born = born(1, &cut(&["g"]));
        let ids: Vec<(u64, u64)> = born[0]
            .regions
            .iter()
            .map(|(peer, region)| (region.descriptor.region_id, peer.0))
            .collect();
        assert_eq!(ids, [(1, 1), (2, 2), (3, 3)]);
    }

    #[test]
    fn births_that_could_not_be_told_to_a_cluster_are_refused() {
        let request = v1::InitializeRequest::default();
        let sound = || plan(&request, &nodes(3), KEY_BYTES_MAX).expect("a birth");
        type Change = fn(&mut v1::Birth);
        let rows: [(&str, Change); 9] = [
            ("nobody", |birth| birth.nodes.clear()),
            ("too many", |birth| {
                let more = birth.nodes[0].clone();
                birth.nodes.resize(FIRST_NODES_MAX + 1, more);
            }),
            ("one disk twice", |birth| birth.nodes[1].disk_id = birth.nodes[0].disk_id.clone()),
            ("one address twice", |birth| {
                let first = birth.nodes[0].record.clone().expect("a row").peer_address;
                birth.nodes[1].record.as_mut().expect("a row").peer_address = first;
            }),
            ("numbers as they come", |birth| {
                birth.nodes[1].record.as_mut().expect("a row").node_id = 7;
            }),
            ("a row over its budget", |birth| {
                birth.nodes[1].record.as_mut().expect("a row").version = "v".repeat(1000);
            }),
            ("an even factor", |birth| birth.replication_factor = 2),
            ("keys out of order", |birth| birth.split_keys = vec!["b".into(), "a".into()]),
            ("no cluster", |birth| birth.cluster_id = Bytes::new()),
        ];
        for (why, change) in rows {
            let mut birth = sound();
            assert!(check(&birth, KEY_BYTES_MAX).is_ok());
            change(&mut birth);
            assert!(check(&birth, KEY_BYTES_MAX).is_err(), "{why}");
        }
        let stranger = newborn(&sound(), &[9; 16], KEY_BYTES_MAX).expect("sound");
        assert!(stranger.is_none(), "a disk that is not of it");
    }
}
