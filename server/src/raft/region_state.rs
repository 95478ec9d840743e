//! A region's state as it lies in `data`: its head, descriptor and apply state, and the spans of its rows.

use std::collections::BTreeSet;

use bytes::Bytes;
use flotilla_proto::{range::KeyRange, v1};
use prost::Message as _;

use crate::{
    command,
    ids::RegionId,
    storage::{
        batch::{Family, WriteBatch},
        engine::{self, Direction, Durability, Engine},
        keys::{
            self,
            meta::MetaKey,
            span::{Span, SpanKind, spans_by_id, spans_of},
        },
    },
};

/// Reads the descriptor and apply state of a region; `None` when it has no initialized peer here.
///
/// # Errors
/// When the disk cannot be read, or only one of the two is there.
pub fn read_state(
    read: &(impl engine::Read + ?Sized),
    region: RegionId,
) -> Result<Option<command::RegionState>, engine::Error> {
    let corrupt = |what: &str| engine::Error::Corrupt {
        message: format!("{what} of region {region} does not decode"),
    };
    let descriptor = read.get(Family::Meta, &keys::meta::descriptor(region))?;
    let state = read.get(Family::Meta, &keys::meta::apply_state(region))?;
    match (descriptor, state) {
        (None, None) => Ok(None),
        (Some(descriptor), Some(state)) => Ok(Some(command::RegionState {
            descriptor: v1::Region::decode(descriptor).map_err(|_| corrupt("descriptor"))?,
            state: v1::ApplyState::decode(state).map_err(|_| corrupt("apply state"))?,
        })),
        _ => Err(corrupt("one of descriptor and apply state is missing; the state")),
    }
}

/// The index that the log of a region's peer had surely reached; 0 when nothing is known.
///
/// # Errors
/// When the disk cannot be read.
pub fn read_reached(
    read: &(impl engine::Read + ?Sized),
    region: RegionId,
) -> Result<u64, engine::Error> {
    let Some(bytes) = read.get(Family::Meta, &keys::meta::reached(region))? else { return Ok(0) };
    let bytes = bytes.as_ref().try_into().map_err(|_| engine::Error::Corrupt {
        message: format!("the reached index of region {region} is not 8 bytes"),
    })?;
    Ok(u64::from_be_bytes(bytes))
}

/// Adds a region's descriptor and apply state to a batch.
pub fn put_state(batch: &mut WriteBatch, region: &command::RegionState, with_descriptor: bool) {
    let id = RegionId(region.descriptor.region_id);
    if with_descriptor {
        let value = region.descriptor.encode_to_vec();
        batch.put(Family::Meta, &keys::meta::descriptor(id), &value);
    }
    batch.put(Family::Meta, &keys::meta::apply_state(id), &region.state.encode_to_vec());
}

/// What regions have in `data` of one kind.
pub struct Rows {
    pub found: Vec<(RegionId, Bytes)>,
    pub damage: Option<Damage>,
}

/// A block of the disk that cannot be read.
#[derive(Debug)]
pub struct Damage {
    /// Of those that are known, those whose rows are in it, or would be.
    pub regions: Vec<RegionId>,
    pub error: engine::Error,
}

/// Reads the rows that `key` names in `kind`. One damaged block ends a scan; what is behind it is then read for each
/// of the regions that are `known` by something else, so that those whose own rows are whole are none the worse for it.
///
/// # Errors
/// When the disk cannot be read, but for damage.
pub fn read_rows(
    read: &(impl engine::Read + ?Sized),
    kind: &KeyRange,
    key: impl Fn(RegionId) -> [u8; 9],
    known: &BTreeSet<RegionId>,
) -> Result<Rows, engine::Error> {
    let mut found = Vec::new();
    let mut cursor = read.scan(Family::Meta, kind, Direction::Forward);
    let error = loop {
        match cursor.next() {
            Ok(None) => return Ok(Rows { found, damage: None }),
            Ok(Some((at, value))) => {
                let Some(region) = keys::meta::decode(at).and_then(MetaKey::region) else {
                    let message = format!("the key of a region does not decode: {at:02x?}");
                    return Err(engine::Error::Corrupt { message });
                };
                found.push((region, Bytes::copy_from_slice(value)));
            }
            Err(error @ engine::Error::Corrupt { .. }) => break error,
            Err(error) => return Err(error),
        }
    };
    let last = found.last().map_or(RegionId(0), |(region, _)| *region);
    let mut regions = Vec::new();
    for region in known.iter().copied().filter(|region| *region > last) {
        match read.get(Family::Meta, &key(region)) {
            Ok(row) => found.extend(row.map(|row| (region, row))),
            Err(engine::Error::Corrupt { .. }) => regions.push(region),
            Err(error) => return Err(error),
        }
    }
    Ok(Rows { found, damage: Some(Damage { regions, error }) })
}

/// A region's descriptor; `None` where it does not decode.
pub type Described = (RegionId, Option<v1::Region>);

/// Reads the descriptors of regions.
///
/// # Errors
/// As for [`read_rows`].
pub fn read_descriptors(
    read: &(impl engine::Read + ?Sized),
    known: &BTreeSet<RegionId>,
) -> Result<(Vec<Described>, Option<Damage>), engine::Error> {
    let kind = keys::meta::all_descriptors();
    let Rows { found, damage } = read_rows(read, &kind, keys::meta::descriptor, known)?;
    let decoded = found.into_iter().map(|(region, row)| (region, v1::Region::decode(row).ok()));
    Ok((decoded.collect(), damage))
}

/// Size of a region's rows, estimated. Blocks on the disk.
#[must_use]
pub fn approximate_bytes(data: &dyn Engine, descriptor: &v1::Region) -> u64 {
    let spans = spans_of(descriptor);
    spans.iter().map(|span| data.approximate_bytes(span.family(), &span.range)).sum()
}

/// The descriptor of a region; `None` without one, or with one that does not decode.
fn stored_descriptor(
    data: &dyn Engine,
    region: RegionId,
) -> Result<Option<v1::Region>, engine::Error> {
    let Some(stored) = data.get(Family::Meta, &keys::meta::descriptor(region))? else {
        return Ok(None);
    };
    match v1::Region::decode(stored) {
        Ok(descriptor) => Ok(Some(descriptor)),
        Err(error) => {
            tracing::error!(
                %region,
                %error,
                "the descriptor of a region that is erased does not decode: its rows stay until another region \
                 gets their keys"
            );
            Ok(None)
        }
    }
}

/// Adds the removal of a span's rows to a batch. Not where there are surely none, of what is often empty: a removed range
/// is in the way of whoever reads the family, for as long as the engine keeps it. To look for keys would cost more.
pub fn clear(data: &dyn Engine, batch: &mut WriteBatch, span: &Span) {
    let Span { kind, range } = span;
    let is_empty = match kind {
        SpanKind::Keys => false,
        SpanKind::Own => {
            let mut rows = data.scan(kind.family(), range, Direction::Forward);
            matches!(rows.next(), Ok(None))
        }
    };
    if !is_empty {
        batch.delete_range(kind.family(), &range.start, &range.end);
    }
}

/// Removes all that `data` has of a region and of its peer here: the rows of all spans, also of those that it has by
/// `more`, and what is known of them. What does not decode hides nothing but the range of the keys, which then belong to
/// nobody: who gets them begins by clearing them. Blocks on the disk.
///
/// # Errors
/// When the disk fails; what is there is then told by the next start.
pub fn erase_state(
    data: &dyn Engine,
    region: RegionId,
    more: Option<&v1::Region>,
) -> Result<(), engine::Error> {
    let stored = stored_descriptor(data, region)?;
    let mut spans = Vec::from(spans_by_id(region));
    for span in stored.iter().chain(more).flat_map(spans_of) {
        if !spans.contains(&span) {
            spans.push(span);
        }
    }
    let mut batch = WriteBatch::new();
    for span in spans {
        if span.family() == Family::Default {
            // Ordering: the next peer of these keys may start from an older state (`storage/reclaim.rs`).
            data.withdraw_claims(&span.range);
        }
        clear(data, &mut batch, &span);
    }
    for key in keys::meta::single_rows(region) {
        batch.delete(Family::Meta, &key);
    }
    data.write(&batch, Durability::Synced)
}

#[cfg(test)]
mod tests {
    use super::{
        super::fixture::{all_rows, id, region_state},
        *,
    };
    use crate::{
        ids::PeerId,
        storage::{keys::Owner, memory::MemoryEngine},
    };

    const REGION: RegionId = RegionId(2);

    /// Every row that can be in the family in which nodes, peers and regions have rows side by side.
    fn all_meta_keys() -> Vec<Vec<u8>> {
        let mut keys = Vec::new();
        for kind in 0..=u8::MAX {
            for region in [0, 1, REGION.0, 3, u64::MAX] {
                for row in [&[][..], &[0], &[0xFF; 3]] {
                    keys.push([&[kind], &region.to_be_bytes()[..], row].concat());
                }
            }
        }
        keys.retain(|key| keys::meta::decode(key).is_some());
        keys
    }

    #[test]
    fn erasing_leaves_nothing_of_a_region_and_its_peer_and_touches_nothing_else() {
        for (why, described, begun, gone) in [
            ("by its descriptor", Some(("b", "m")), None, &["b", "c"][..]),
            (
                "also by an install that has begun",
                Some(("b", "m")),
                Some(("m", "y")),
                &["b", "c", "m"],
            ),
            ("by an install alone", None, Some(("b", "m")), &["b", "c"]),
            ("without any", None, None, &[]),
        ] {
            let of = |range| region_state(REGION, PeerId(20), range, id(3, 9));
            let data = MemoryEngine::new();
            let mut batch = WriteBatch::new();
            let mut kept = Vec::new();
            for key in all_meta_keys() {
                batch.put(Family::Meta, &key, b"\xFFno descriptor");
                let decoded = keys::meta::decode(&key).unwrap();
                if decoded.region() != Some(REGION) || decoded.owner() == Owner::Node {
                    kept.push(key);
                }
            }
            for key in ["az", "b", "c", "m", "y", "z"] {
                batch.put(Family::Default, key.as_bytes(), b"");
            }
            if let Some(range) = described {
                put_state(&mut batch, &of(range), true);
            }
            data.write(&batch, Durability::Synced).unwrap();

            let begun = begun.map(|range| of(range).descriptor);
            erase_state(data.as_ref(), REGION, begun.as_ref()).unwrap();
            let keys = |family| all_rows(data.as_ref(), family).into_iter().map(|(key, _)| key);
            assert_eq!(keys(Family::Meta).collect::<Vec<_>>(), kept, "{why}");
            let left: Vec<_> = keys(Family::Default).collect();
            let all = ["az", "b", "c", "m", "y", "z"].into_iter();
            let want: Vec<_> = all.filter(|key| !gone.contains(key)).collect();
            assert_eq!(left, want, "{why}");
            assert_eq!(data.unsynced(), 0, "{why}: a power cut brings nothing back");
        }
    }

    /// Whoever reads the family meets a removed range for as long as the engine keeps it.
    #[test]
    fn nothing_is_removed_from_a_span_without_rows() {
        let data = MemoryEngine::new();
        let mut batch = WriteBatch::new();
        for span in spans_by_id(REGION) {
            clear(data.as_ref(), &mut batch, &span);
            assert!(batch.is_empty());
            let mut row = WriteBatch::new();
            row.put(span.family(), &span.range.start, b"");
            data.write(&row, Durability::Synced).unwrap();
            clear(data.as_ref(), &mut batch, &span);
            assert_eq!(batch.len(), 1);
        }
    }

    #[test]
    fn size_is_that_of_the_rows_of_all_spans() {
        let data = MemoryEngine::new();
        let region = region_state(REGION, PeerId(20), ("b", "m"), id(3, 9));
        let mut want = 0;
        for span in spans_of(&region.descriptor) {
            let mut batch = WriteBatch::new();
            batch.put(span.family(), &span.range.start, &[7; 100]);
            data.write(&batch, Durability::Synced).unwrap();
            want += span.range.start.len() as u64 + 100;
            assert_eq!(
                approximate_bytes(data.as_ref(), &region.descriptor),
                want,
                "{:?}",
                span.kind
            );
        }
    }
}
