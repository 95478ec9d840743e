//! `data`, family `meta`: `[kind: 1]`, then `[region id: 8]` where it is about a region, then
//! `[peer id: 8]` where it is about a peer. Kinds group what a start reads in one scan.

use super::{super::engine::KeyRange, prefix_end, split_u64};
use crate::ids::{PeerId, RegionId};

const IDENTITY: u8 = 1;
const NODE_TABLE: u8 = 2;
const DESCRIPTOR: u8 = 3;
const APPLY_STATE: u8 = 4;
const TOMBSTONE: u8 = 5;
const INSTALL: u8 = 6;
const REACHED: u8 = 7;
const QUARANTINE: u8 = 8;
const OWN_PEER: u8 = 9;

/// A key of the `meta` family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MetaKey {
    /// Cluster id and node id of this disk.
    Identity,
    /// The node's copy of the table of nodes.
    NodeTable,
    /// The newest descriptor applied by the local peer.
    Descriptor(RegionId),
    /// How far the local peer has applied.
    ApplyState(RegionId),
    /// A peer that was here and must never come back. Outlives all else of the region.
    Tombstone(RegionId, PeerId),
    /// A snapshot install that was begun and must be finished.
    Install(RegionId),
    /// Index that the local peer's log had surely reached on the disk.
    Reached(RegionId),
    /// Why the local peer must not take part any more.
    Quarantine(RegionId),
    /// Id of the local peer.
    OwnPeer(RegionId),
}

/// Key of the node's identity.
#[must_use]
pub fn identity() -> [u8; 1] {
    [IDENTITY]
}

/// Key of the node table.
#[must_use]
pub fn node_table() -> [u8; 1] {
    [NODE_TABLE]
}

/// Key of a region's descriptor.
#[must_use]
pub fn descriptor(region: RegionId) -> [u8; 9] {
    of_region(DESCRIPTOR, region)
}

/// Key of a region's apply state.
#[must_use]
pub fn apply_state(region: RegionId) -> [u8; 9] {
    of_region(APPLY_STATE, region)
}

/// Key of a peer's tombstone.
#[must_use]
pub fn tombstone(region: RegionId, peer: PeerId) -> [u8; 17] {
    let mut key = [0; 17];
    let (head, tail) = key.split_at_mut(9);
    head.copy_from_slice(&of_region(TOMBSTONE, region));
    tail.copy_from_slice(&peer.0.to_be_bytes());
    key
}

/// Key of a region's install record.
#[must_use]
pub fn install(region: RegionId) -> [u8; 9] {
    of_region(INSTALL, region)
}

/// Key of the index that the local log of a region had surely reached.
#[must_use]
pub fn reached(region: RegionId) -> [u8; 9] {
    of_region(REACHED, region)
}

/// Key of the mark of a region's local peer that must not take part.
#[must_use]
pub fn quarantine(region: RegionId) -> [u8; 9] {
    of_region(QUARANTINE, region)
}

/// Key of the id of a region's local peer.
#[must_use]
pub fn own_peer(region: RegionId) -> [u8; 9] {
    of_region(OWN_PEER, region)
}

/// The descriptors of all regions, by region.
#[must_use]
pub fn all_descriptors() -> KeyRange {
    of_kind(DESCRIPTOR)
}

/// The apply states of all regions, by region.
#[must_use]
pub fn all_apply_states() -> KeyRange {
    of_kind(APPLY_STATE)
}

/// All tombstones, by region and peer.
#[must_use]
pub fn all_tombstones() -> KeyRange {
    of_kind(TOMBSTONE)
}

/// The tombstones of one region, by peer.
#[must_use]
pub fn tombstones(region: RegionId) -> KeyRange {
    let prefix = of_region(TOMBSTONE, region);
    KeyRange::new(prefix.to_vec(), prefix_end(&prefix))
}

/// The ids of all local peers, by region.
#[must_use]
pub fn all_own_peers() -> KeyRange {
    of_kind(OWN_PEER)
}

/// The install records of all regions, by region.
#[must_use]
pub fn all_installs() -> KeyRange {
    of_kind(INSTALL)
}

/// `None` when `key` is no key of this family.
#[must_use]
pub fn decode(key: &[u8]) -> Option<MetaKey> {
    let (kind, rest) = key.split_first()?;
    if rest.is_empty() {
        return match *kind {
            IDENTITY => Some(MetaKey::Identity),
            NODE_TABLE => Some(MetaKey::NodeTable),
            _ => None,
        };
    }
    let (region, rest) = split_u64(rest)?;
    let region = RegionId(region);
    match (*kind, rest) {
        (DESCRIPTOR, []) => Some(MetaKey::Descriptor(region)),
        (APPLY_STATE, []) => Some(MetaKey::ApplyState(region)),
        (INSTALL, []) => Some(MetaKey::Install(region)),
        (REACHED, []) => Some(MetaKey::Reached(region)),
        (QUARANTINE, []) => Some(MetaKey::Quarantine(region)),
        (OWN_PEER, []) => Some(MetaKey::OwnPeer(region)),
        (TOMBSTONE, rest) => match split_u64(rest)? {
            (peer, []) => Some(MetaKey::Tombstone(region, PeerId(peer))),
            _ => None,
        },
        _ => None,
    }
}

fn of_kind(kind: u8) -> KeyRange {
    KeyRange::new(vec![kind], vec![kind + 1])
}

fn of_region(kind: u8, region: RegionId) -> [u8; 9] {
    let mut key = [kind; 9];
    let (_, tail) = key.split_at_mut(1);
    tail.copy_from_slice(&region.0.to_be_bytes());
    key
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn meta_keys() -> impl Strategy<Value = MetaKey> {
        let number = prop_oneof![Just(0), Just(1), Just(u64::MAX), any::<u64>()];
        let region = number.clone().prop_map(RegionId);
        prop_oneof![
            Just(MetaKey::Identity),
            Just(MetaKey::NodeTable),
            region.clone().prop_map(MetaKey::Descriptor),
            region.clone().prop_map(MetaKey::ApplyState),
            (region.clone(), number.prop_map(PeerId)).prop_map(|(r, p)| MetaKey::Tombstone(r, p)),
            region.clone().prop_map(MetaKey::Install),
            region.clone().prop_map(MetaKey::Reached),
            region.clone().prop_map(MetaKey::Quarantine),
            region.prop_map(MetaKey::OwnPeer),
        ]
    }

    fn encode(key: MetaKey) -> Vec<u8> {
        match key {
            MetaKey::Identity => identity().to_vec(),
            MetaKey::NodeTable => node_table().to_vec(),
            MetaKey::Descriptor(region) => descriptor(region).to_vec(),
            MetaKey::ApplyState(region) => apply_state(region).to_vec(),
            MetaKey::Tombstone(region, peer) => tombstone(region, peer).to_vec(),
            MetaKey::Install(region) => install(region).to_vec(),
            MetaKey::Reached(region) => reached(region).to_vec(),
            MetaKey::Quarantine(region) => quarantine(region).to_vec(),
            MetaKey::OwnPeer(region) => own_peer(region).to_vec(),
        }
    }

    /// The bytes are on disks: they must never change.
    #[test]
    fn layout_is_fixed() {
        let region = RegionId(0x0102);
        assert_eq!((identity(), node_table()), ([1], [2]));
        assert_eq!(descriptor(region), [3, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(apply_state(region), [4, 0, 0, 0, 0, 0, 0, 1, 2]);
        let want = [5, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 9];
        assert_eq!(tombstone(region, PeerId(9)), want);
        assert_eq!(install(region), [6, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(reached(region), [7, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(quarantine(region), [8, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(own_peer(region), [9, 0, 0, 0, 0, 0, 0, 1, 2]);
    }

    proptest! {
        #[test]
        fn keys_sort_as_kind_region_peer(a in meta_keys(), b in meta_keys()) {
            prop_assert_eq!(encode(a).cmp(&encode(b)), a.cmp(&b));
        }

        #[test]
        fn key_decodes_to_itself(key in meta_keys()) {
            prop_assert_eq!(decode(&encode(key)), Some(key));
        }

        #[test]
        fn ranges_hold_exactly_their_kind(key in meta_keys(), region in any::<bool>()) {
            let region = RegionId(u64::from(region));
            let bytes = encode(key);
            let is = |range: KeyRange, want| {
                prop_assert_eq!(range.contains(&bytes), want);
                Ok(())
            };
            is(all_descriptors(), matches!(key, MetaKey::Descriptor(_)))?;
            is(all_apply_states(), matches!(key, MetaKey::ApplyState(_)))?;
            is(all_tombstones(), matches!(key, MetaKey::Tombstone(..)))?;
            is(all_installs(), matches!(key, MetaKey::Install(_)))?;
            is(all_own_peers(), matches!(key, MetaKey::OwnPeer(_)))?;
            is(tombstones(region), matches!(key, MetaKey::Tombstone(of, _) if of == region))?;
        }

        #[test]
        fn decode_takes_any_bytes(bytes in prop::collection::vec(0u8..11, 0..20)) {
            if let Some(key) = decode(&bytes) {
                prop_assert_eq!(encode(key), bytes);
            }
        }
    }
}
