//! What a row of the node table may hold.
//!
//! The table travels whole, in answers to heartbeats and to a node that joins: one that has outgrown a
//! message reaches nobody any more, and no call makes it smaller. So every decision that adds or
//! changes a row keeps to the budget of a row and of the table, whoever told what is in it.

use flotilla_proto::{MESSAGE_BYTES_MAX, v1};
use prost::Message as _;

use super::check_address;
use crate::error::Error;

/// Bound: labels of a node.
const LABELS_MAX: usize = 64;
/// Bound: bytes of a label's name, and of its value.
const LABEL_NAME_BYTES_MAX: usize = 63;
const LABEL_VALUE_BYTES_MAX: usize = 256;
/// Bytes of a disk's id.
const DISK_ID_BYTES: usize = 16;
/// Bound: bytes of the text of a version.
const VERSION_BYTES_MAX: usize = 64;
/// Bound: bytes of the whole table; with this, no node is taken in. It leaves room for all else in a
/// message, and for addresses that grow; and `ListNodes`, which adds to each row how the node is, stays below
/// the 4 MiB that a client of gRPC takes of a message unless it is told otherwise.
const TABLE_BYTES_MAX: usize = MESSAGE_BYTES_MAX / 11;

/// Refuses a row that breaks its budget.
///
/// # Errors
/// `InvalidArgument` that names the field and the limit.
pub fn check_record(record: &v1::NodeRecord) -> Result<(), Error> {
    check_address("client_address", &record.client_address)?;
    check_address("peer_address", &record.peer_address)?;
    check_address("http_address", &record.http_address)?;
    check_version_text(&record.version)?;
    // The founders of a cluster have none here.
    if ![0, DISK_ID_BYTES].contains(&record.disk_id.len()) {
        return Err(Error::InvalidArgument {
            field: "disk_id".to_owned(),
            message: format!(
                "{} bytes, the id of a disk has {DISK_ID_BYTES}",
                record.disk_id.len()
            ),
            limit: DISK_ID_BYTES as u64,
        });
    }
    if record.labels.len() > LABELS_MAX {
        return too_much("labels", format!("{} labels", record.labels.len()), LABELS_MAX);
    }
    for (name, value) in &record.labels {
        if name.is_empty() {
            return Err(Error::invalid("labels", "a label without a name"));
        }
        if name.len() > LABEL_NAME_BYTES_MAX {
            let what = format!("a name of {} bytes", name.len());
            return too_much("labels", what, LABEL_NAME_BYTES_MAX);
        }
        if value.len() > LABEL_VALUE_BYTES_MAX {
            let what = format!("the value of {name:?} has {} bytes", value.len());
            return too_much("labels", what, LABEL_VALUE_BYTES_MAX);
        }
    }
    Ok(())
}

/// Refuses the text of a version that is none.
///
/// # Errors
/// As [`check_record`].
pub(super) fn check_version_text(version: &str) -> Result<(), Error> {
    if version.len() > VERSION_BYTES_MAX {
        return too_much("version", format!("{} bytes", version.len()), VERSION_BYTES_MAX);
    }
    Ok(())
}

/// Refuses a table that would not fit into a message with room to spare.
///
/// # Errors
/// `FailedPrecondition`.
pub fn check_table(table: &v1::NodeTable) -> Result<(), Error> {
    let bytes = table.encoded_len();
    if bytes > TABLE_BYTES_MAX {
        return Err(super::refused(format!(
            "the node table would have {bytes} bytes with this node, the most is {TABLE_BYTES_MAX}"
        )));
    }
    Ok(())
}

fn too_much(field: &str, what: String, limit: usize) -> Result<(), Error> {
    Err(Error::InvalidArgument {
        field: field.to_owned(),
        message: format!("{what}, the most is {limit}"),
        limit: limit as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::view::NodeView;

    fn record() -> v1::NodeRecord {
        v1::NodeRecord {
            node_id: 1,
            client_address: "n1:7420".to_owned(),
            peer_address: "n1:7421".to_owned(),
            http_address: "n1:7422".to_owned(),
            version: "0.1.0".to_owned(),
            ..Default::default()
        }
    }

    #[test]
    fn the_largest_table_is_listed_in_what_any_client_takes() {
        let mut table = v1::NodeTable::default();
        while check_table(&table).is_ok() {
            // The fewest bytes that a row has, so that what is added weighs most.
            table.nodes.extend((0..1000).map(|_| record()));
        }
        let how_it_is = |row: v1::NodeRecord| v1::Node {
            disk_available_bytes: 1 << 44,
            disk_used_bytes: 1 << 44,
            data_bytes: 1 << 44,
            peers: 1 << 16,
            leaders: 1 << 16,
            leaders_evicted: true,
            disk_level: v1::DiskLevel::Critical.into(),
            ..NodeView::unheard(row).to_node()
        };
        let nodes = table.nodes.into_iter().map(how_it_is).collect();
        let listed = v1::ListNodesResponse { nodes, ..v1::ListNodesResponse::default() };
        assert!(listed.encoded_len() < 4 << 20, "{}", listed.encoded_len());
    }

    #[test]
    fn rows_beyond_their_budget_are_refused_by_the_field_and_its_limit() {
        type Change = fn(&mut v1::NodeRecord);
        type Row = (&'static str, Option<(&'static str, usize)>, Change);
        let rows: [Row; 10] = [
            ("as nodes are", None, |_| {}),
            ("at every limit", None, |record| {
                record.version = "v".repeat(VERSION_BYTES_MAX);
                record.disk_id = vec![7; DISK_ID_BYTES].into();
                record.labels = (0..LABELS_MAX)
                    .map(|n| {
                        let name = format!("{n:0>LABEL_NAME_BYTES_MAX$}");
                        (name, "v".repeat(LABEL_VALUE_BYTES_MAX))
                    })
                    .collect();
            }),
            ("too many labels", Some(("labels", LABELS_MAX)), |record| {
                record.labels = (0..=LABELS_MAX).map(|n| (n.to_string(), String::new())).collect();
            }),
            ("a long name", Some(("labels", LABEL_NAME_BYTES_MAX)), |record| {
                record.labels.insert("n".repeat(LABEL_NAME_BYTES_MAX + 1), String::new());
            }),
            ("a long value", Some(("labels", LABEL_VALUE_BYTES_MAX)), |record| {
                record.labels.insert("n".to_owned(), "v".repeat(LABEL_VALUE_BYTES_MAX + 1));
            }),
            ("a label without a name", Some(("labels", 0)), |record| {
                record.labels.insert(String::new(), "v".to_owned());
            }),
            ("a long version", Some(("version", VERSION_BYTES_MAX)), |record| {
                record.version = "v".repeat(VERSION_BYTES_MAX + 1);
            }),
            ("a long id of a disk", Some(("disk_id", DISK_ID_BYTES)), |record| {
                record.disk_id = vec![7; DISK_ID_BYTES + 1].into();
            }),
            ("half an id of a disk", Some(("disk_id", DISK_ID_BYTES)), |record| {
                record.disk_id = vec![7; DISK_ID_BYTES / 2].into();
            }),
            ("an address that is none", Some(("peer_address", 0)), |record| {
                record.peer_address = "n1".to_owned();
            }),
        ];
        for (why, want, change) in rows {
            let mut record = record();
            change(&mut record);
            let refused = match check_record(&record) {
                Ok(()) => None,
                Err(Error::InvalidArgument { field, limit, .. }) => Some((field, limit)),
                Err(error) => panic!("{why}: {error}"),
            };
            let want = want.map(|(field, limit)| (field.to_owned(), limit as u64));
            assert_eq!(refused, want, "{why}");
        }
    }

    /// With every row as large as it may be, the bound of the table is what refuses.
    #[test]
    fn table_ends_before_a_message_does() {
        let mut large = record();
        large.labels = (0..LABELS_MAX)
            .map(|n| (format!("{n:0>LABEL_NAME_BYTES_MAX$}"), "v".repeat(LABEL_VALUE_BYTES_MAX)))
            .collect();
        let mut table = v1::NodeTable { version: 1, ..Default::default() };
        while check_table(&table).is_ok() {
            table.nodes.push(large.clone());
        }
        assert!(table.nodes.len() > 90, "{}", table.nodes.len());
        assert!(table.encoded_len() < MESSAGE_BYTES_MAX / 2, "{}", table.encoded_len());
    }
}
