//! `data`, family `meta`: `[kind: 1][region id: 8]`, and more for a region's own rows. Kinds group what
//! a start reads in one scan. Nothing here promises anything to anybody, since `data` may fall back:
//! promises are in [`super::log`].

use flotilla_proto::{keyspace::prefix_end, range::KeyRange};

use super::{Owner, split_u64};
use crate::ids::RegionId;

// 1, 2, 5, 8 and 9 were what is in `log` now.
kinds! {
    Disk = 0, of the Node;
    Descriptor = 3, of the Region;
    ApplyState = 4, of the Region;
    Install = 6, of the Peer;
    Reached = 7, of the Peer;
    Own = 10, of the Region;
}

/// Where what is of no region lies: region 0 does not exist.
const NO_REGION: RegionId = RegionId(0);

/// Bound: bytes of one of a region's own rows, key and value. A command that makes a larger one is to be refused before it
/// is proposed: a batch does not take it, as a snapshot sends a row as a whole.
pub const OWN_ROW_BYTES_MAX: usize = 1 << 20;

/// A key of the `meta` family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MetaKey<'a> {
    /// The disk that the instance was made on. Not of a region.
    Disk,
    /// The newest descriptor applied by the local peer.
    Descriptor(RegionId),
    /// How far the local peer has applied.
    ApplyState(RegionId),
    /// A snapshot install that was begun and must be finished.
    Install(RegionId),
    /// Index that the local peer's log had surely reached on the disk.
    Reached(RegionId),
    /// One of the region's own rows, which are no user's. Applying entries writes them.
    Own(RegionId, &'a [u8]),
}

impl MetaKey<'_> {
    /// Whose it is; `None` of what is of no region.
    #[must_use]
    pub fn region(self) -> Option<RegionId> {
        match self {
            Self::Disk => None,
            Self::Descriptor(region)
            | Self::ApplyState(region)
            | Self::Install(region)
            | Self::Reached(region)
            | Self::Own(region, _) => Some(region),
        }
    }

    /// Whose it is: the node's, the peer's or the region's.
    #[must_use]
    pub fn owner(self) -> Owner {
        let kind = match self {
            Self::Disk => Kind::Disk,
            Self::Descriptor(_) => Kind::Descriptor,
            Self::ApplyState(_) => Kind::ApplyState,
            Self::Install(_) => Kind::Install,
            Self::Reached(_) => Kind::Reached,
            Self::Own(..) => Kind::Own,
        };
        kind.owner()
    }
}

/// Key of the disk that the instance was made on. Not of a region.
#[must_use]
pub fn disk() -> [u8; 9] {
    of_region(Kind::Disk, NO_REGION)
}

/// Everything of the regions.
#[must_use]
pub fn all_of_regions() -> KeyRange {
    KeyRange::new(vec![Kind::Disk as u8 + 1], Vec::new())
}

/// Key of a region's descriptor.
#[must_use]
pub fn descriptor(region: RegionId) -> [u8; 9] {
    of_region(Kind::Descriptor, region)
}

/// Key of a region's apply state.
#[must_use]
pub fn apply_state(region: RegionId) -> [u8; 9] {
    of_region(Kind::ApplyState, region)
}

/// Key of a region's install record.
#[must_use]
pub fn install(region: RegionId) -> [u8; 9] {
    of_region(Kind::Install, region)
}

/// Key of the index that the local log of a region had surely reached.
#[must_use]
pub fn reached(region: RegionId) -> [u8; 9] {
    of_region(Kind::Reached, region)
}

/// Whether a row with this key, and a value of so many bytes, is no larger than such a row may be.
#[must_use]
pub fn fits(key: &[u8], value_bytes: usize) -> bool {
    key.first() != Some(&(Kind::Own as u8)) || key.len() + value_bytes <= OWN_ROW_BYTES_MAX
}

/// A region's own rows: `[kind][region id]`, and whatever names the row.
#[must_use]
pub fn own_rows(region: RegionId) -> KeyRange {
    let prefix = of_region(Kind::Own, region);
    KeyRange::new(prefix.to_vec(), prefix_end(&prefix))
}

/// Keys of the rows of which a region, or its peer here, has one of each kind. None is in [`own_rows`].
pub fn single_rows(region: RegionId) -> impl Iterator<Item = [u8; 9]> {
    let kinds = Kind::ALL.iter().filter(|kind| match kind {
        Kind::Disk | Kind::Own => false,
        Kind::Descriptor | Kind::ApplyState | Kind::Install | Kind::Reached => true,
    });
    kinds.map(move |kind| of_region(*kind, region))
}

/// The descriptors of all regions, by region.
#[must_use]
pub fn all_descriptors() -> KeyRange {
    of_kind(Kind::Descriptor)
}

/// The install records of all regions, by region.
#[must_use]
pub fn all_installs() -> KeyRange {
    of_kind(Kind::Install)
}

/// `None` when `key` is no key of this family.
#[must_use]
pub fn decode(key: &[u8]) -> Option<MetaKey<'_>> {
    let (kind, rest) = key.split_first()?;
    let (region, rest) = split_u64(rest)?;
    let region = RegionId(region);
    match (Kind::of(*kind)?, rest) {
        (Kind::Disk, []) if region == NO_REGION => Some(MetaKey::Disk),
        (Kind::Descriptor, []) => Some(MetaKey::Descriptor(region)),
        (Kind::ApplyState, []) => Some(MetaKey::ApplyState(region)),
        (Kind::Install, []) => Some(MetaKey::Install(region)),
        (Kind::Reached, []) => Some(MetaKey::Reached(region)),
        (Kind::Own, row) => Some(MetaKey::Own(region, row)),
        _ => None,
    }
}

fn of_kind(kind: Kind) -> KeyRange {
    KeyRange::new(vec![kind as u8], vec![kind as u8 + 1])
}

fn of_region(kind: Kind, region: RegionId) -> [u8; 9] {
    let mut key = [kind as u8; 9];
    let (_, tail) = key.split_at_mut(1);
    tail.copy_from_slice(&region.0.to_be_bytes());
    key
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn meta_keys() -> impl Strategy<Value = MetaKey<'static>> {
        let number = prop_oneof![Just(0), Just(1), Just(u64::MAX), any::<u64>()];
        let region = number.prop_map(RegionId);
        let row = prop::sample::select(vec![&b""[..], b"\0", b"\x01row", &[0xFF; 9]]);
        prop_oneof![
            Just(MetaKey::Disk),
            region.clone().prop_map(MetaKey::Descriptor),
            region.clone().prop_map(MetaKey::ApplyState),
            region.clone().prop_map(MetaKey::Install),
            region.clone().prop_map(MetaKey::Reached),
            (region, row).prop_map(|(region, row)| MetaKey::Own(region, row)),
        ]
    }

    fn encode(key: MetaKey<'_>) -> Vec<u8> {
        match key {
            MetaKey::Disk => disk().to_vec(),
            MetaKey::Descriptor(region) => descriptor(region).to_vec(),
            MetaKey::ApplyState(region) => apply_state(region).to_vec(),
            MetaKey::Install(region) => install(region).to_vec(),
            MetaKey::Reached(region) => reached(region).to_vec(),
            MetaKey::Own(region, row) => [&own_rows(region).start[..], row].concat(),
        }
    }

    /// The bytes are on disks: they must never change.
    #[test]
    fn layout_is_fixed() {
        let region = RegionId(0x0102);
        assert_eq!(disk(), [0; 9]);
        assert_eq!(descriptor(region), [3, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(apply_state(region), [4, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(install(region), [6, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(reached(region), [7, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(own_rows(region).start, [10, 0, 0, 0, 0, 0, 0, 1, 2][..]);
    }

    /// What does not decode would be taken for damage by whoever meets it.
    #[test]
    fn every_kind_that_is_declared_decodes_and_has_its_owner() {
        for kind in Kind::ALL {
            let key = of_region(*kind, NO_REGION);
            let decoded = decode(&key).unwrap_or_else(|| panic!("{kind:?} does not decode"));
            assert_eq!((encode(decoded), decoded.owner()), (key.to_vec(), kind.owner()));
        }
    }

    #[test]
    fn single_rows_are_all_that_a_region_and_its_peer_have_but_its_own_rows() {
        let region = RegionId(0x0102);
        let single: Vec<_> = single_rows(region).collect();
        for kind in Kind::ALL {
            let key = of_region(*kind, region);
            let own = own_rows(region).contains(&key);
            let of_node = kind.owner() == Owner::Node;
            let counted = [of_node, own, single.contains(&key)];
            let once = counted.iter().filter(|counted| **counted).count() == 1;
            assert!(
                once,
                "{kind:?} is not once of the node, an own row or a single one: {counted:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn keys_sort_as_kind_region(a in meta_keys(), b in meta_keys()) {
            prop_assert_eq!(encode(a).cmp(&encode(b)), a.cmp(&b));
        }

        #[test]
        fn key_decodes_to_itself(key in meta_keys()) {
            let bytes = encode(key);
            prop_assert_eq!(decode(&bytes), Some(key));
        }

        #[test]
        fn ranges_hold_exactly_their_kind(key in meta_keys()) {
            let bytes = encode(key);
            let is = |range: KeyRange, want| {
                prop_assert_eq!(range.contains(&bytes), want);
                Ok(())
            };
            is(all_of_regions(), key != MetaKey::Disk)?;
            is(all_descriptors(), matches!(key, MetaKey::Descriptor(_)))?;
            is(all_installs(), matches!(key, MetaKey::Install(_)))?;
            let own = key.region().filter(|_| matches!(key, MetaKey::Own(..)));
            for region in [RegionId(0), RegionId(1), RegionId(u64::MAX)].into_iter().chain(own) {
                is(own_rows(region), own == Some(region))?;
            }
        }

        #[test]
        fn decode_takes_any_bytes(bytes in prop::collection::vec(0u8..11, 0..20)) {
            if let Some(key) = decode(&bytes) {
                prop_assert_eq!(encode(key), bytes);
            }
        }
    }
}
