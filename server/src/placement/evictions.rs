//! Nodes that leaders are kept away from for a while, as rows of region 1.
//!
//! A row expires by itself, by the region's replicated time, so a driver that comes after this one keeps
//! the promise for as long as is left of it: evicting the node that leads region 1 moves the driver.

use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::v1::{self, op::Op};

use super::{config::millis, tables};
use crate::ids::NodeId;

const PREFIX: &str = "evicted/";

/// Keeps leaders away from `node` for so long from when it is applied; zero ends it.
#[must_use]
pub fn evict(node: NodeId, duration: Duration) -> v1::WriteCommand {
    let key = tables::key(&format!("{PREFIX}{:020}", node.0));
    let op = if duration.is_zero() {
        Op::Delete(v1::DeleteOp { key, ..Default::default() })
    } else {
        Op::Put(v1::PutOp { key, ttl_ms: millis(duration), ..Default::default() })
    };
    v1::WriteCommand { success: vec![v1::Op { op: Some(op) }], ..Default::default() }
}

/// The nodes, with the time that is left, out of the rows of [`tables::range`]; other rows are passed
/// over.
pub fn decode(rows: &[v1::KeyValue]) -> impl Iterator<Item = (NodeId, Duration)> {
    let prefix: Bytes = tables::key(PREFIX);
    rows.iter().filter_map(move |row| {
        let id = std::str::from_utf8(row.key.strip_prefix(&prefix[..])?).ok()?.parse().ok()?;
        Some((NodeId(id), Duration::from_millis(row.ttl_ms?)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: Bytes, ttl_ms: Option<u64>) -> v1::KeyValue {
        v1::KeyValue { key, ttl_ms, ..Default::default() }
    }

    #[test]
    fn eviction_is_read_with_what_is_left_of_it() {
        let command = evict(NodeId(7), Duration::from_secs(300));
        let [v1::Op { op: Some(Op::Put(put)) }] = &command.success[..] else {
            panic!("{command:?}");
        };
        assert_eq!(put.ttl_ms, 300_000);
        let (start, end) = tables::range();
        assert!(put.key >= start && put.key < end, "read with the tables");
        let rows = [
            row(tables::version_key(), None),
            row(tables::node_key(NodeId(7)), None),
            row(put.key.clone(), Some(120_000)),
            row(tables::key("evicted/none"), Some(1)),
        ];
        let read: Vec<_> = decode(&rows).collect();
        assert_eq!(read, [(NodeId(7), Duration::from_secs(120))]);

        let command = evict(NodeId(7), Duration::ZERO);
        let [v1::Op { op: Some(Op::Delete(delete)) }] = &command.success[..] else {
            panic!("{command:?}");
        };
        assert_eq!(delete.key, put.key, "zero ends it");
    }
}
