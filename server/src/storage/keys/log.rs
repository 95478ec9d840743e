//! `log`: `[region id: 8][kind: 1]`, and `[index: 8]` for an entry. All of a region is one range; what
//! openraft keeps is one range within, and its entries are one range within that. Around it lies what
//! this disk promises beside the log: whose it is, and whom it has buried. Region 0 does not exist; its
//! place is the node's.

use std::ops::Range;

use bytes::Bytes;
use flotilla_proto::range::KeyRange;

use super::{Owner, split_u64};
use crate::ids::RegionId;

// Nothing here is the region's: what a peer promised, no other may be held to.
kinds! {
    OwnPeer = 0, of the Peer;
    Entry = 1, of the Peer;
    Vote = 2, of the Peer;
    Committed = 3, of the Peer;
    Purged = 4, of the Peer;
    Quarantine = 5, of the Peer;
    Tombstone = 6, of the Node;
    Identity = 7, of the Node;
    Loss = 8, of the Node;
    Newcomer = 9, of the Node;
    NodeTable = 10, of the Node;
}

/// Where the rows of the node itself lie.
const NO_REGION: RegionId = RegionId(0);

/// A key of the `log` instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogKey {
    pub region: RegionId,
    pub part: LogPart,
}

/// What of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogPart {
    /// Id of the local peer.
    OwnPeer,
    /// The entry at `index`.
    Entry { index: u64 },
    /// The newest vote.
    Vote,
    /// The committed log id last saved; it may lag.
    Committed,
    /// The log id up to which entries were purged.
    Purged,
    /// Why the local peer must not take part any more.
    Quarantine,
    /// Largest id of a peer that was here and must never come back. Outlives all else of the region.
    Tombstone,
    /// Cluster id and node id of this disk. Not of a region.
    Identity,
    /// That the log was found to end before its sentinel. Not of a region.
    Loss,
    /// What the disk knows of itself before it has an identity. Not of a region.
    Newcomer,
    /// The node's copy of the table of nodes. Not of a region.
    NodeTable,
}

impl LogPart {
    /// Whose it is.
    #[must_use]
    pub fn owner(self) -> Owner {
        let kind = match self {
            Self::OwnPeer => Kind::OwnPeer,
            Self::Entry { .. } => Kind::Entry,
            Self::Vote => Kind::Vote,
            Self::Committed => Kind::Committed,
            Self::Purged => Kind::Purged,
            Self::Quarantine => Kind::Quarantine,
            Self::Tombstone => Kind::Tombstone,
            Self::Identity => Kind::Identity,
            Self::Loss => Kind::Loss,
            Self::Newcomer => Kind::Newcomer,
            Self::NodeTable => Kind::NodeTable,
        };
        kind.owner()
    }
}

/// Key of an entry.
#[must_use]
pub fn entry(region: RegionId, index: u64) -> [u8; 17] {
    let mut key = [0; 17];
    let (head, tail) = key.split_at_mut(9);
    head.copy_from_slice(&of_kind(region, Kind::Entry));
    tail.copy_from_slice(&index.to_be_bytes());
    key
}

/// Key of the vote.
#[must_use]
pub fn vote(region: RegionId) -> [u8; 9] {
    of_kind(region, Kind::Vote)
}

/// Key of the committed log id.
#[must_use]
pub fn committed(region: RegionId) -> [u8; 9] {
    of_kind(region, Kind::Committed)
}

/// Key of the purge mark.
#[must_use]
pub fn purged(region: RegionId) -> [u8; 9] {
    of_kind(region, Kind::Purged)
}

/// Key of the id of a region's local peer.
#[must_use]
pub fn own_peer(region: RegionId) -> [u8; 9] {
    of_kind(region, Kind::OwnPeer)
}

/// Key of the mark of a region's local peer that must not take part.
#[must_use]
pub fn quarantine(region: RegionId) -> [u8; 9] {
    of_kind(region, Kind::Quarantine)
}

/// Key of a region's tombstone.
#[must_use]
pub fn tombstone(region: RegionId) -> [u8; 9] {
    of_kind(region, Kind::Tombstone)
}

/// Key of the node's identity.
#[must_use]
pub fn identity() -> [u8; 9] {
    of_kind(NO_REGION, Kind::Identity)
}

/// Key of the note that the log has lost its end.
#[must_use]
pub fn loss() -> [u8; 9] {
    of_kind(NO_REGION, Kind::Loss)
}

/// What openraft keeps of `region`: entries, vote and marks.
#[must_use]
pub fn raft_range(region: RegionId) -> KeyRange {
    KeyRange::new(of_kind(region, Kind::Entry).to_vec(), behind_kind(region, Kind::Purged).to_vec())
}

/// Everything of the regions from `region` on.
#[must_use]
pub fn regions_from(region: RegionId) -> KeyRange {
    KeyRange::new(region.0.to_be_bytes().to_vec(), Bytes::new())
}

/// All entries of `region`.
#[must_use]
pub fn all_entries(region: RegionId) -> KeyRange {
    KeyRange::new(of_kind(region, Kind::Entry).to_vec(), behind_kind(region, Kind::Entry).to_vec())
}

/// The entries of `region` at `indexes`.
#[must_use]
pub fn entries(region: RegionId, indexes: Range<u64>) -> KeyRange {
    KeyRange::new(entry(region, indexes.start).to_vec(), entry(region, indexes.end).to_vec())
}

/// Key of what the disk knows before it has an identity. Not of a region.
#[must_use]
pub fn newcomer() -> [u8; 9] {
    of_kind(NO_REGION, Kind::Newcomer)
}

/// Key of the node table. Not of a region.
#[must_use]
pub fn node_table() -> [u8; 9] {
    of_kind(NO_REGION, Kind::NodeTable)
}

/// `None` when `key` is no key of the log.
#[must_use]
pub fn decode(key: &[u8]) -> Option<LogKey> {
    let (region, rest) = split_u64(key)?;
    let (kind, rest) = rest.split_first()?;
    let of_node = region == NO_REGION.0;
    let part = match (Kind::of(*kind)?, rest) {
        (Kind::Entry, rest) => match split_u64(rest)? {
            (index, []) => LogPart::Entry { index },
            _ => return None,
        },
        (Kind::OwnPeer, []) => LogPart::OwnPeer,
        (Kind::Vote, []) => LogPart::Vote,
        (Kind::Committed, []) => LogPart::Committed,
        (Kind::Purged, []) => LogPart::Purged,
        (Kind::Quarantine, []) => LogPart::Quarantine,
        (Kind::Tombstone, []) => LogPart::Tombstone,
        (Kind::Identity, []) if of_node => LogPart::Identity,
        (Kind::Loss, []) if of_node => LogPart::Loss,
        (Kind::Newcomer, []) if of_node => LogPart::Newcomer,
        (Kind::NodeTable, []) if of_node => LogPart::NodeTable,
        _ => return None,
    };
    Some(LogKey { region: RegionId(region), part })
}

fn of_kind(region: RegionId, kind: Kind) -> [u8; 9] {
    of_byte(region, kind as u8)
}

/// The smallest key above those of a kind.
fn behind_kind(region: RegionId, kind: Kind) -> [u8; 9] {
    of_byte(region, kind as u8 + 1)
}

fn of_byte(region: RegionId, byte: u8) -> [u8; 9] {
    let mut key = [byte; 9];
    let (head, _) = key.split_at_mut(8);
    head.copy_from_slice(&region.0.to_be_bytes());
    key
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn log_keys() -> impl Strategy<Value = LogKey> {
        let number = prop_oneof![Just(0), Just(1), Just(255), Just(256), any::<u64>()];
        let part = prop_oneof![
            Just(LogPart::OwnPeer),
            number.clone().prop_map(|index| LogPart::Entry { index }),
            Just(LogPart::Vote),
            Just(LogPart::Committed),
            Just(LogPart::Purged),
            Just(LogPart::Quarantine),
            Just(LogPart::Tombstone),
            Just(LogPart::Identity),
            Just(LogPart::Loss),
            Just(LogPart::Newcomer),
            Just(LogPart::NodeTable),
        ];
        (number, part).prop_map(|(region, part)| match part {
            LogPart::Identity | LogPart::Loss | LogPart::Newcomer | LogPart::NodeTable => {
                LogKey { region: NO_REGION, part }
            }
            _ => LogKey { region: RegionId(region), part },
        })
    }

    fn encode(key: LogKey) -> Vec<u8> {
        match key.part {
            LogPart::OwnPeer => own_peer(key.region).to_vec(),
            LogPart::Entry { index } => entry(key.region, index).to_vec(),
            LogPart::Vote => vote(key.region).to_vec(),
            LogPart::Committed => committed(key.region).to_vec(),
            LogPart::Purged => purged(key.region).to_vec(),
            LogPart::Quarantine => quarantine(key.region).to_vec(),
            LogPart::Tombstone => tombstone(key.region).to_vec(),
            LogPart::Identity => identity().to_vec(),
            LogPart::Loss => loss().to_vec(),
            LogPart::Newcomer => newcomer().to_vec(),
            LogPart::NodeTable => node_table().to_vec(),
        }
    }

    /// The bytes are on disks: they must never change.
    #[test]
    fn layout_is_fixed() {
        let region = RegionId(0x0102);
        assert_eq!(entry(region, 3), [0, 0, 0, 0, 0, 0, 1, 2, 1, 0, 0, 0, 0, 0, 0, 0, 3]);
        assert_eq!(vote(region), [0, 0, 0, 0, 0, 0, 1, 2, 2]);
        assert_eq!(committed(region), [0, 0, 0, 0, 0, 0, 1, 2, 3]);
        assert_eq!(purged(region), [0, 0, 0, 0, 0, 0, 1, 2, 4]);
        assert_eq!(own_peer(region), [0, 0, 0, 0, 0, 0, 1, 2, 0]);
        assert_eq!(quarantine(region), [0, 0, 0, 0, 0, 0, 1, 2, 5]);
        assert_eq!(tombstone(region), [0, 0, 0, 0, 0, 0, 1, 2, 6]);
        assert_eq!(identity(), [0, 0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(loss(), [0, 0, 0, 0, 0, 0, 0, 0, 8]);
        assert_eq!(newcomer(), [0, 0, 0, 0, 0, 0, 0, 0, 9]);
        assert_eq!(node_table(), [0, 0, 0, 0, 0, 0, 0, 0, 10]);
    }

    #[test]
    fn every_kind_that_is_declared_decodes_and_has_its_owner() {
        for kind in Kind::ALL {
            let key = match kind {
                Kind::Entry => entry(NO_REGION, 1).to_vec(),
                kind => of_kind(NO_REGION, *kind).to_vec(),
            };
            let decoded = decode(&key).unwrap_or_else(|| panic!("{kind:?} does not decode"));
            assert_eq!((encode(decoded), decoded.part.owner()), (key, kind.owner()));
        }
    }

    proptest! {
        #[test]
        fn keys_sort_as_region_part_index(a in log_keys(), b in log_keys()) {
            prop_assert_eq!(encode(a).cmp(&encode(b)), a.cmp(&b));
        }

        #[test]
        fn key_decodes_to_itself(key in log_keys()) {
            prop_assert_eq!(decode(&encode(key)), Some(key));
        }

        #[test]
        fn ranges_hold_exactly_their_keys(
            key in log_keys(), other in log_keys(), from in 0u64..400, count in 0u64..400,
        ) {
            let bytes = encode(key);
            let region = other.region;
            let same = key.region == region;
            let from_here = key.region >= region;
            prop_assert_eq!(regions_from(region).contains(&bytes), from_here);
            let of_raft = matches!(
                key.part,
                LogPart::Entry { .. } | LogPart::Vote | LogPart::Committed | LogPart::Purged
            );
            prop_assert_eq!(raft_range(region).contains(&bytes), same && of_raft);
            let index = match key.part {
                LogPart::Entry { index } if same => Some(index),
                _ => None,
            };
            prop_assert_eq!(all_entries(region).contains(&bytes), index.is_some());
            let indexes = from..from + count;
            let inside = index.is_some_and(|index| indexes.contains(&index));
            prop_assert_eq!(entries(region, indexes).contains(&bytes), inside);
        }

        #[test]
        fn decode_takes_any_bytes(bytes in prop::collection::vec(0u8..11, 0..20)) {
            if let Some(key) = decode(&bytes) {
                prop_assert_eq!(encode(key), bytes);
            }
        }
    }
}
