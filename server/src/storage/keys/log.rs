//! `log`: `[region id: 8][kind: 1]`, and `[index: 8]` for an entry. All of a region's log is one
//! range; its entries are one range within.

use std::ops::Range;

use super::{super::engine::KeyRange, prefix_end, split_u64};
use crate::ids::RegionId;

const ENTRY: u8 = 1;
const VOTE: u8 = 2;
const COMMITTED: u8 = 3;
const PURGED: u8 = 4;

/// A key of the `log` instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogKey {
    pub region: RegionId,
    pub part: LogPart,
}

/// What of a region's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogPart {
    /// The entry at `index`.
    Entry { index: u64 },
    /// The newest vote.
    Vote,
    /// The committed log id last saved; it may lag.
    Committed,
    /// The log id up to which entries were purged.
    Purged,
}

/// Key of an entry.
#[must_use]
pub fn entry(region: RegionId, index: u64) -> [u8; 17] {
    let mut key = [0; 17];
    let (head, tail) = key.split_at_mut(9);
    head.copy_from_slice(&of_kind(region, ENTRY));
    tail.copy_from_slice(&index.to_be_bytes());
    key
}

/// Key of the vote.
#[must_use]
pub fn vote(region: RegionId) -> [u8; 9] {
    of_kind(region, VOTE)
}

/// Key of the committed log id.
#[must_use]
pub fn committed(region: RegionId) -> [u8; 9] {
    of_kind(region, COMMITTED)
}

/// Key of the purge mark.
#[must_use]
pub fn purged(region: RegionId) -> [u8; 9] {
    of_kind(region, PURGED)
}

/// Everything in the log of `region`.
#[must_use]
pub fn region_range(region: RegionId) -> KeyRange {
    let prefix = region.0.to_be_bytes();
    KeyRange::new(prefix.to_vec(), prefix_end(&prefix))
}

/// All entries of `region`.
#[must_use]
pub fn all_entries(region: RegionId) -> KeyRange {
    KeyRange::new(of_kind(region, ENTRY).to_vec(), of_kind(region, ENTRY + 1).to_vec())
}

/// The entries of `region` at `indexes`.
#[must_use]
pub fn entries(region: RegionId, indexes: Range<u64>) -> KeyRange {
    KeyRange::new(entry(region, indexes.start).to_vec(), entry(region, indexes.end).to_vec())
}

/// `None` when `key` is no key of the log.
#[must_use]
pub fn decode(key: &[u8]) -> Option<LogKey> {
    let (region, rest) = split_u64(key)?;
    let part = match rest.split_first()? {
        (&ENTRY, rest) => match split_u64(rest)? {
            (index, []) => LogPart::Entry { index },
            _ => return None,
        },
        (&VOTE, []) => LogPart::Vote,
        (&COMMITTED, []) => LogPart::Committed,
        (&PURGED, []) => LogPart::Purged,
        _ => return None,
    };
    Some(LogKey { region: RegionId(region), part })
}

fn of_kind(region: RegionId, kind: u8) -> [u8; 9] {
    let mut key = [kind; 9];
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
            number.clone().prop_map(|index| LogPart::Entry { index }),
            Just(LogPart::Vote),
            Just(LogPart::Committed),
            Just(LogPart::Purged),
        ];
        (number, part).prop_map(|(region, part)| LogKey { region: RegionId(region), part })
    }

    fn encode(key: LogKey) -> Vec<u8> {
        match key.part {
            LogPart::Entry { index } => entry(key.region, index).to_vec(),
            LogPart::Vote => vote(key.region).to_vec(),
            LogPart::Committed => committed(key.region).to_vec(),
            LogPart::Purged => purged(key.region).to_vec(),
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
            prop_assert_eq!(region_range(region).contains(&bytes), same);
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
        fn decode_takes_any_bytes(bytes in prop::collection::vec(0u8..6, 0..20)) {
            if let Some(key) = decode(&bytes) {
                prop_assert_eq!(encode(key), bytes);
            }
        }
    }
}
