//! Which rows are a region's state.
//!
//! What all peers of a region have alike is its *head*, descriptor and apply state, and the rows of its *spans*: its
//! users' keys, and rows of its own. Whoever handles the state as a whole goes over [`spans_of`] and over nothing else:
//! a snapshot and its install, erasing, the checksum, the size. The head says of what and as of when the rows are, so it
//! goes before them on the wire, and is written after them, at once. What is the peer's or the node's is in no span
//! ([`Owner`](super::Owner)).

use flotilla_proto::{range::KeyRange, region::range_of, v1};

use super::meta;
use crate::{ids::RegionId, storage::batch::Family};

/// A contiguous part of a region's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    pub kind: SpanKind,
    pub range: KeyRange,
}

/// What of a region a span holds, in the order in which spans are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SpanKind {
    /// The keys of users, and of the system, in the region's range.
    Keys,
    /// The region's own rows, which have no place among the keys. Nothing writes any yet: who does needs a feature level
    /// that no program has which does not know of them. None is larger than [`meta::OWN_ROW_BYTES_MAX`].
    Own,
}

impl SpanKind {
    pub const ALL: [Self; 2] = [Self::Keys, Self::Own];

    /// What stands for it on the wire and on disks: it must never change.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Keys => 0,
            Self::Own => 1,
        }
    }

    /// `None` for a span that only newer programs know.
    #[must_use]
    pub fn of_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| u32::from(kind.number()) == number)
    }

    /// The map of `data` that its rows are in.
    #[must_use]
    pub fn family(self) -> Family {
        match self {
            Self::Keys => Family::Default,
            Self::Own => Family::Meta,
        }
    }
}

impl Span {
    /// The map of `data` that its rows are in.
    #[must_use]
    pub fn family(&self) -> Family {
        self.kind.family()
    }
}

/// All spans of a region, in the order of their kinds.
#[must_use]
pub fn spans_of(descriptor: &v1::Region) -> [Span; 2] {
    let [own] = spans_by_id(RegionId(descriptor.region_id));
    [Span { kind: SpanKind::Keys, range: range_of(descriptor) }, own]
}

/// Those of them that are known where the descriptor is not.
#[must_use]
pub fn spans_by_id(region: RegionId) -> [Span; 1] {
    [Span { kind: SpanKind::Own, range: meta::own_rows(region) }]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::Owner, *};

    fn descriptor(region: u64, start: &'static str, end: &'static str) -> v1::Region {
        v1::Region {
            region_id: region,
            start_key: start.into(),
            end_key: end.into(),
            ..v1::Region::default()
        }
    }

    #[test]
    fn every_kind_of_span_is_listed_once_in_order_and_has_its_number() {
        let kinds = spans_of(&descriptor(2, "b", "y")).map(|span| span.kind);
        assert_eq!(kinds, SpanKind::ALL);
        assert_eq!(SpanKind::ALL.map(SpanKind::number), [0, 1]);
        for kind in SpanKind::ALL {
            assert_eq!(SpanKind::of_number(kind.number().into()), Some(kind));
        }
        assert_eq!(SpanKind::of_number(2), None);
        assert_eq!(SpanKind::of_number(256), None);
    }

    /// Of the family in which nodes, peers and regions have rows side by side. A kind of row that is the region's and
    /// neither head nor in a span would be left behind by every snapshot.
    #[test]
    fn row_of_a_region_is_its_head_or_in_one_span_and_no_other_row_is_in_any() {
        let regions = [0, 1, 2, 3, 255, 256, u64::MAX].map(RegionId);
        let mut of_regions = 0;
        for region in regions {
            let spans = spans_of(&descriptor(region.0, "", ""));
            for kind in 0..=u8::MAX {
                for (other, row) in regions
                    .iter()
                    .flat_map(|other| [&b""[..], b"\0", b"\xFF\xFF"].map(|row| (other, row)))
                {
                    let bytes = [&[kind], &other.0.to_be_bytes()[..], row].concat();
                    let Some(key) = meta::decode(&bytes) else { continue };
                    let is_head = [meta::descriptor(region), meta::apply_state(region)]
                        .iter()
                        .any(|head| head[..] == bytes);
                    let holding = spans
                        .iter()
                        .filter(|span| span.family() == Family::Meta && span.range.contains(&bytes))
                        .count();
                    let is_its = key.region() == Some(region) && key.owner() == Owner::Region;
                    of_regions += usize::from(is_its);
                    assert_eq!(
                        holding + usize::from(is_head),
                        usize::from(is_its),
                        "{region}: {key:?}"
                    );
                }
            }
        }
        assert!(of_regions >= 2 * regions.len(), "{of_regions}");
    }

    proptest! {
        #[test]
        fn neighbours_share_no_row(
            a in any::<u64>(), b in any::<u64>(), key in prop::collection::vec(any::<u8>(), 0..12),
        ) {
            prop_assume!(a != b);
            let [a, b] = [descriptor(a, "b", "m"), descriptor(b, "m", "")].map(|of| spans_of(&of));
            for kind in SpanKind::ALL {
                let of = |spans: &[Span; 2]| {
                    spans.iter().any(|span| span.kind == kind && span.range.contains(&key))
                };
                prop_assert!(!(of(&a) && of(&b)));
            }
            for (a, b) in a.iter().zip(&b) {
                prop_assert!(!a.range.overlaps(&b.range) && !a.range.is_empty());
            }
        }
    }
}
