//! The system tables in keyspace 0, as keys and values of region 1.
//!
//! The cluster's identity, its nodes and the counters of ids are ordinary keys, written by ordinary
//! commands. Two drivers can overlap for a moment, so every change of the node table compares
//! `nodes/version` first: one of two racing changes is refused by apply, whatever either driver
//! believed. Ids come from counters that are only ever added to; an id that was taken and not used
//! is lost, never given twice.

use std::ops::Range;

use bytes::Bytes;
use flotilla_proto::v1::{self, compare::Condition, op::Op, op_result::Result as OpOutcome};
use prost::Message as _;

use crate::{
    error::Error,
    feature_level,
    ids::{ClusterId, NodeId, PeerId, RegionId},
};

/// Keyspace 0, in front of every key here.
const SYSTEM_PREFIX: &[u8] = &[0, 0, 0];
const CLUSTER: &str = "cluster";
const NODES_VERSION: &str = "nodes/version";
const NODE_PREFIX: &str = "node/";
const REPLICATION_FACTOR: &str = "replication_factor";
const FEATURE_LEVEL: &str = "feature_level";

/// The range that holds every table, `[start, end)` in encoded keys: what to read for [`decode`].
#[must_use]
pub fn range() -> (Bytes, Bytes) {
    (Bytes::from_static(SYSTEM_PREFIX), Bytes::from_static(&[0, 0, 1]))
}

/// What a cluster is, written once at its birth.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ClusterRecord {
    /// 16 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub cluster_id: Bytes,
    /// Peers per region at birth; a row of its own has what was chosen later.
    #[prost(uint32, tag = "2")]
    pub replication_factor: u32,
    /// The token of the `Initialize` that made it; a repeat with the same token is answered alike.
    #[prost(string, tag = "3")]
    pub token: String,
}

/// A counter that ids are taken from. Its value is the next id to be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    Node,
    Region,
    Peer,
}

impl Counter {
    /// The encoded key.
    #[must_use]
    pub fn key(self) -> Bytes {
        key(match self {
            Self::Node => "ids/next_node",
            Self::Region => "ids/next_region",
            Self::Peer => "ids/next_peer",
        })
    }
}

/// The encoded key of the [`ClusterRecord`].
#[must_use]
pub fn cluster_key() -> Bytes {
    key(CLUSTER)
}

/// The encoded key of the node table's version.
#[must_use]
pub fn version_key() -> Bytes {
    key(NODES_VERSION)
}

/// The encoded key of one node's record; keys order as ids do.
#[must_use]
pub fn node_key(node: NodeId) -> Bytes {
    key(&format!("{NODE_PREFIX}{:020}", node.0))
}

/// The encoded key of the replication factor, if it was changed since the cluster's birth.
#[must_use]
pub fn replication_factor_key() -> Bytes {
    key(REPLICATION_FACTOR)
}

/// The encoded key of the cluster's feature level.
#[must_use]
pub fn feature_level_key() -> Bytes {
    key(FEATURE_LEVEL)
}

/// What a change of the node table changes beside rows of nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    pub replication_factor: Option<u32>,
    pub feature_level: Option<u32>,
}

/// What a new cluster is seeded with.
#[derive(Clone, Debug)]
pub struct Seed {
    pub cluster_id: ClusterId,
    pub replication_factor: u32,
    pub token: String,
    /// In the order of their ids; they are `UP` from the start.
    pub nodes: Vec<v1::NodeRecord>,
    /// The first ids that the regions and peers of birth have not taken.
    pub next_region: RegionId,
    pub next_peer: PeerId,
}

/// The rows of a new cluster's tables as (encoded key, value), keys ascending. Version 1.
#[must_use]
pub fn seed(seed: Seed) -> Vec<(Bytes, Bytes)> {
    let feature_level = seed.nodes.iter().map(|node| node.feature_level).min();
    let feature_level = feature_level.unwrap_or_default().max(feature_level::FIRST);
    let next_node = seed.nodes.iter().map(|node| node.node_id).max().unwrap_or(0) + 1;
    let nodes = seed.nodes.into_iter().map(|node| {
        let up = v1::NodeRecord { state: v1::NodeState::Up as i32, ..node };
        (node_key(NodeId(up.node_id)), up.encode_to_vec().into())
    });
    let cluster = ClusterRecord {
        cluster_id: Bytes::copy_from_slice(&seed.cluster_id.0),
        replication_factor: seed.replication_factor,
        token: seed.token,
    };
    let mut rows = vec![
        (cluster_key(), cluster.encode_to_vec().into()),
        (feature_level_key(), decimal(feature_level.into())),
        (Counter::Node.key(), decimal(next_node)),
        (Counter::Peer.key(), decimal(seed.next_peer.0)),
        (Counter::Region.key(), decimal(seed.next_region.0)),
    ];
    rows.extend(nodes);
    rows.push((version_key(), decimal(1)));
    rows
}

/// Rows of the system tables that make no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("system table row {key}: {message}")]
    Row { key: String, message: String },
    #[error("the system tables lack {0}")]
    Missing(&'static str),
}

/// The node table (nodes in the order of their ids) out of the rows of [`range`], in any order.
///
/// Rows of other tables are passed over, so that a newer version may add some.
///
/// # Errors
/// A row that does not decode, or no cluster record or version: the region was not seeded, or its
/// data is damaged.
pub fn decode<K, V>(rows: impl IntoIterator<Item = (K, V)>) -> Result<v1::NodeTable, DecodeError>
where
    K: AsRef<[u8]>,
    V: AsRef<[u8]>,
{
    let mut cluster = None;
    let mut version = None;
    let mut replication_factor = None;
    let mut feature_level = feature_level::FIRST;
    let mut nodes = Vec::new();
    for (key, value) in rows {
        let (key, value) = (key.as_ref(), value.as_ref());
        let Some(text) = key.strip_prefix(SYSTEM_PREFIX) else { continue };
        let bad = |message: String| DecodeError::Row {
            key: String::from_utf8_lossy(text).into_owned(),
            message,
        };
        if text == CLUSTER.as_bytes() {
            let record = ClusterRecord::decode(value).map_err(|error| bad(error.to_string()))?;
            if ClusterId::from_bytes(&record.cluster_id).is_none() {
                return Err(bad("the cluster id is not 16 bytes".to_owned()));
            }
            cluster = Some(record);
        } else if text == NODES_VERSION.as_bytes() {
            version = Some(parse_decimal(value).ok_or_else(|| bad("not a number".to_owned()))?);
        } else if text == REPLICATION_FACTOR.as_bytes() {
            let factor = parse_decimal(value).and_then(|factor| u32::try_from(factor).ok());
            replication_factor = Some(factor.ok_or_else(|| bad("not a number".to_owned()))?);
        } else if text == FEATURE_LEVEL.as_bytes() {
            let level = parse_decimal(value).and_then(|level| u32::try_from(level).ok());
            feature_level = level.ok_or_else(|| bad("not a number".to_owned()))?;
        } else if text.starts_with(NODE_PREFIX.as_bytes()) {
            let record = v1::NodeRecord::decode(value).map_err(|error| bad(error.to_string()))?;
            if key != node_key(NodeId(record.node_id)) {
                return Err(bad(format!("holds the record of node {}", record.node_id)));
            }
            nodes.push(record);
        }
    }
    let cluster = cluster.ok_or(DecodeError::Missing("the cluster record"))?;
    nodes.sort_unstable_by_key(|node| node.node_id);
    Ok(v1::NodeTable {
        version: version.ok_or(DecodeError::Missing("nodes/version"))?,
        nodes,
        replication_factor: replication_factor.unwrap_or(cluster.replication_factor),
        cluster_id: cluster.cluster_id,
        feature_level,
    })
}

/// Takes `count` ids from a counter; see [`taken`] for the answer.
#[must_use]
pub fn take_ids(counter: Counter, count: u32) -> v1::WriteCommand {
    let add = v1::AddOp { key: counter.key(), delta: i64::from(count) };
    v1::WriteCommand { success: vec![op(Op::Add(add))], ..Default::default() }
}

/// The ids `[start, end)` that a [`take_ids`] was answered with.
///
/// # Errors
/// `Internal` when the reply is not one to `take_ids`, or the counter was never seeded: an id of 0
/// would be given.
pub fn taken(reply: &v1::WriteReply) -> Result<Range<u64>, Error> {
    let broken = |message: String| Error::Internal { message: format!("take ids: {message}") };
    if let Some(refused) = &reply.refused {
        return Err(broken(refused.message.clone()));
    }
    let [v1::OpResult { result: Some(OpOutcome::Add(added)) }] = &reply.results[..] else {
        return Err(broken("the reply holds no counter".to_owned()));
    };
    match (u64::try_from(added.start), u64::try_from(added.end)) {
        (Ok(start), Ok(end)) if start > 0 && end > start => Ok(start..end),
        _ => Err(broken(format!("the counter went from {} to {}", added.start, added.end))),
    }
}

/// Stores `records` and `settings`, and raises the table's version, if the version is still `version`; see
/// [`changed`] for the answer.
#[must_use]
pub fn change_nodes(
    version: u64,
    records: &[v1::NodeRecord],
    settings: Settings,
) -> v1::WriteCommand {
    let unmoved = v1::Compare {
        key: version_key(),
        condition: Some(Condition::ValueEquals(decimal(version))),
    };
    let puts = records
        .iter()
        .map(|record| put(node_key(NodeId(record.node_id)), record.encode_to_vec().into()));
    let setting =
        |key: Bytes, value: Option<u32>| value.map(|value| put(key, decimal(value.into())));
    v1::WriteCommand {
        compare: vec![unmoved],
        success: std::iter::once(put(version_key(), decimal(version + 1)))
            .chain(puts)
            .chain(setting(replication_factor_key(), settings.replication_factor))
            .chain(setting(feature_level_key(), settings.feature_level))
            .collect(),
        failure: vec![op(Op::Get(v1::GetOp { key: version_key() }))],
        ..Default::default()
    }
}

/// The table's new version, out of the answer to a [`change_nodes`] of version `expected`.
///
/// # Errors
/// `VersionMoved`: another change came first and nothing was written. `Internal`: not such a reply.
pub fn changed(expected: u64, reply: &v1::WriteReply) -> Result<u64, Error> {
    if let Some(refused) = &reply.refused {
        return Err(Error::Internal { message: format!("change nodes: {}", refused.message) });
    }
    if reply.succeeded {
        return Ok(expected + 1);
    }
    let actual = match &reply.results[..] {
        [v1::OpResult { result: Some(OpOutcome::Get(v1::GetResult { kv: Some(kv) })) }] => {
            parse_decimal(&kv.value)
        }
        _ => None,
    };
    match actual {
        Some(actual) => Err(Error::VersionMoved { expected, actual }),
        None => Err(Error::Internal { message: "change nodes: nodes/version is lost".to_owned() }),
    }
}

/// The encoded key of a row.
pub(super) fn key(text: &str) -> Bytes {
    [SYSTEM_PREFIX, text.as_bytes()].concat().into()
}

fn op(op: Op) -> v1::Op {
    v1::Op { op: Some(op) }
}

fn put(key: Bytes, value: Bytes) -> v1::Op {
    op(Op::Put(v1::PutOp { key, value, ..Default::default() }))
}

/// A counter as `AddOp` stores it.
fn decimal(value: u64) -> Bytes {
    value.to_string().into()
}

fn parse_decimal(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn record(node: u64, state: v1::NodeState) -> v1::NodeRecord {
        v1::NodeRecord {
            node_id: node,
            client_address: format!("n{node}:7420"),
            state: state as i32,
            ..Default::default()
        }
    }

    fn seeded() -> BTreeMap<Bytes, Bytes> {
        seed(Seed {
            cluster_id: ClusterId([7; 16]),
            replication_factor: 3,
            token: "once".to_owned(),
            nodes: vec![record(1, v1::NodeState::Joining)],
            next_region: RegionId(3),
            next_peer: PeerId(3),
        })
        .into_iter()
        .collect()
    }

    /// What apply does with the operations that are used here.
    fn apply(rows: &mut BTreeMap<Bytes, Bytes>, command: &v1::WriteCommand) -> v1::WriteReply {
        let succeeded = command.compare.iter().all(|compare| match &compare.condition {
            Some(Condition::ValueEquals(value)) => rows.get(&compare.key) == Some(value),
            other => panic!("unexpected condition {other:?}"),
        });
        let ops = if succeeded { &command.success } else { &command.failure };
        let results = ops
            .iter()
            .map(|op| match op.op.clone().expect("an operation") {
                Op::Put(put) => {
                    rows.insert(put.key, put.value);
                    OpOutcome::Put(v1::PutResult::default())
                }
                Op::Get(get) => {
                    let kv = rows.get(&get.key).map(|value| v1::KeyValue {
                        key: get.key.clone(),
                        value: value.clone(),
                        ..Default::default()
                    });
                    OpOutcome::Get(v1::GetResult { kv })
                }
                Op::Add(add) => {
                    let start = rows.get(&add.key).map_or(0, |value| {
                        std::str::from_utf8(value).expect("text").parse::<i64>().expect("number")
                    });
                    let end = start + add.delta;
                    rows.insert(add.key, end.to_string().into());
                    OpOutcome::Add(v1::AddResult { start, end })
                }
                other => panic!("unexpected operation {other:?}"),
            })
            .map(|result| v1::OpResult { result: Some(result) })
            .collect();
        v1::WriteReply { succeeded, results, ..Default::default() }
    }

    #[test]
    fn seed_decodes_to_one_node_that_is_up() {
        let table = decode(seeded()).expect("decodes");
        assert_eq!(table.version, 1);
        assert_eq!(table.replication_factor, 3);
        assert_eq!(table.cluster_id, vec![7; 16]);
        assert_eq!(table.nodes, [record(1, v1::NodeState::Up)]);
    }

    #[test]
    fn every_key_lies_in_the_system_keyspace_and_ascends() {
        let (start, end) = range();
        for key in seeded().keys() {
            assert!(*key >= start && *key < end, "{key:?}");
        }
        assert!(node_key(NodeId(9)) < node_key(NodeId(10)));
        assert!(node_key(NodeId(u64::MAX)).starts_with(b"\0\0\0node/"));
    }

    #[test]
    fn ids_are_given_once() {
        let mut rows = seeded();
        for (counter, first) in [(Counter::Node, 2), (Counter::Region, 3), (Counter::Peer, 3)] {
            let once = taken(&apply(&mut rows, &take_ids(counter, 2))).expect("ids");
            let again = taken(&apply(&mut rows, &take_ids(counter, 1))).expect("ids");
            assert_eq!((once, again), (first..first + 2, first + 2..first + 3), "{counter:?}");
        }
    }

    #[test]
    fn unseeded_counter_gives_no_ids() {
        let reply = apply(&mut BTreeMap::new(), &take_ids(Counter::Peer, 1));
        assert!(matches!(taken(&reply), Err(Error::Internal { .. })), "{reply:?}");
    }

    #[test]
    fn second_of_two_racing_changes_is_refused_and_told_the_version() {
        let mut rows = seeded();
        let first = change_nodes(1, &[record(2, v1::NodeState::Joining)], Settings::default());
        let second = change_nodes(
            1,
            &[record(2, v1::NodeState::Up)],
            Settings { replication_factor: Some(5), feature_level: Some(4) },
        );
        assert_eq!(changed(1, &apply(&mut rows, &first)), Ok(2));
        assert_eq!(
            changed(1, &apply(&mut rows, &second)),
            Err(Error::VersionMoved { expected: 1, actual: 2 })
        );
        let table = decode(rows).expect("decodes");
        assert_eq!(table.version, 2);
        assert_eq!(
            table.nodes,
            [record(1, v1::NodeState::Up), record(2, v1::NodeState::Joining)],
            "the loser wrote nothing"
        );
        assert_eq!(table.replication_factor, 3, "the loser wrote nothing");
    }

    #[test]
    fn replication_factor_of_birth_holds_until_it_is_changed() {
        let mut rows = seeded();
        for (version, factor, want) in [(1, Some(5), 5), (2, None, 5), (3, Some(1), 1)] {
            let change = change_nodes(
                version,
                &[],
                Settings { replication_factor: factor, ..Settings::default() },
            );
            assert_eq!(changed(version, &apply(&mut rows, &change)), Ok(version + 1));
            let table = decode(&rows).expect("decodes");
            assert_eq!((table.version, table.replication_factor), (version + 1, want));
        }
    }

    #[test]
    fn damaged_rows_are_errors_not_absences() {
        for (why, key, value) in [
            ("cluster record is no message", cluster_key(), &b"\xff\xff"[..]),
            ("cluster id of the wrong length", cluster_key(), b""),
            ("version is no number", version_key(), b"one"),
            ("replication factor is no number", replication_factor_key(), b"many"),
            ("feature level is no number", feature_level_key(), b"high"),
            ("node record is no message", node_key(NodeId(1)), b"\xff"),
            ("record under another node's key", node_key(NodeId(1)), b"\x08\x05"),
        ] {
            let mut rows = seeded();
            rows.insert(key, Bytes::from_static(value));
            assert!(matches!(decode(rows), Err(DecodeError::Row { .. })), "{why}");
        }
        let empty: [(Bytes, Bytes); 0] = [];
        assert_eq!(decode(empty), Err(DecodeError::Missing("the cluster record")));
    }

    #[test]
    fn tables_of_a_newer_version_are_passed_over() {
        let mut rows = seeded();
        rows.insert(key("keyspace/00000002"), Bytes::from_static(b"\xff"));
        assert!(decode(rows).is_ok());
    }
}
