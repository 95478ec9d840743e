//! A region's descriptor and apply state, as they lie in `data`.

use std::collections::BTreeSet;

use bytes::Bytes;
use flotilla_proto::{range::KeyRange, region::range_of, v1};
use prost::Message as _;

use crate::{
    command,
    ids::RegionId,
    storage::{
        batch::{Family, WriteBatch},
        engine::{self, Direction, Durability, Engine},
        keys::{self, meta::MetaKey},
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

/// The range that a region has by its descriptor; `None` without one, or with one that does not decode.
fn own_range(data: &dyn Engine, region: RegionId) -> Result<Option<KeyRange>, engine::Error> {
    let Some(stored) = data.get(Family::Meta, &keys::meta::descriptor(region))? else {
        return Ok(None);
    };
    match v1::Region::decode(stored) {
        Ok(descriptor) => Ok(Some(range_of(&descriptor))),
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

/// Removes all that `data` has of a region: its rows, also those in `more`, and what is known of them. What does
/// not decode hides nothing but the range of the rows, which then belong to nobody: who gets their keys begins
/// by clearing them. Blocks on the disk.
///
/// # Errors
/// When the disk fails; what is there is then told by the next start.
pub fn erase_state(
    data: &dyn Engine,
    region: RegionId,
    more: Option<&KeyRange>,
) -> Result<(), engine::Error> {
    let own = own_range(data, region)?;
    let mut batch = WriteBatch::new();
    for range in own.iter().chain(more) {
        // Ordering: the next peer of these keys may start from an older state (`storage/reclaim.rs`).
        data.withdraw_claims(range);
        batch.delete_range(Family::Default, &range.start, &range.end);
    }
    for key in [
        keys::meta::descriptor(region),
        keys::meta::apply_state(region),
        keys::meta::reached(region),
        keys::meta::install(region),
    ] {
        batch.delete(Family::Meta, &key);
    }
    data.write(&batch, Durability::Synced)
}
