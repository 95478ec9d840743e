//! A region's state on its way from one node to another.
//!
//! The sender pins a view of `data`, reads descriptor and apply state from that same view, and
//! streams the range's rows in checksummed chunks; nothing is built before somebody needs it. What
//! is sent may be newer than what openraft asked for, never older; both are committed state. The
//! receiver collects sorted files beside its data, then installs: an install record is synced, the
//! whole range is replaced (so that deleted keys cannot come back), descriptor and apply state are
//! written, the record removed. A crash anywhere in between repeats the install from its record at
//! the next start: it is a redo. An interrupted or damaged transfer leaves the peer as it was.

pub mod config;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, sync::Arc};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flotilla_proto::{region::range_of, v1};
use prost::Message as _;

use super::{
    convert::{self, Malformed},
    region_state::{erase_state, put_state, read_rows, read_state},
    region_view::RegionView,
};
use crate::{
    command,
    ids::RegionId,
    storage::{
        batch::{Family, WriteBatch},
        engine::{self, Direction, Durability, Engine, Stage, View},
        keys,
    },
};

/// What openraft passes around as a snapshot.
#[derive(Clone)]
pub enum SnapshotData {
    /// The state of this peer, as it is when it is read.
    Local(Arc<RegionView>),
    /// Rows that arrived and are staged on this disk.
    Received(Box<Received>),
}

/// A complete transfer, staged and synced.
#[derive(Clone, Debug)]
pub struct Received {
    /// Name of the stage.
    pub stage: String,
    pub region: command::RegionState,
}

/// Why a transfer was given up; the receiver is as it was.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("rows are damaged: {what}")]
    Damaged { what: &'static str },
    #[error("the stream ended early")]
    Truncated,
    #[error(transparent)]
    Storage(#[from] engine::Error),
    /// The region has no state on this node.
    #[error("region {region} has no state to send")]
    Empty { region: RegionId },
}

/// Name of the stage for a snapshot.
///
/// Invariant: a stage of this name holds the rows of this moment of the region and of no other, as an install record
/// that outlived its own stage must not be finished with the rows of a later one.
#[must_use]
pub fn stage_name(header: &v1::SnapshotHeader) -> String {
    let v1::SnapshotHeader { region_id, to_peer, state, .. } = header;
    let (term, index) =
        state.as_ref().map_or((0, 0), |state| (state.applied_term, state.applied_index));
    format!("region-{region_id}-peer-{to_peer}-term-{term}-index-{index}")
}

/// Reads a pinned state chunk by chunk.
pub struct Sender {
    view: Arc<dyn View>,
    region: command::RegionState,
    chunk_bytes: usize,
    /// Where the next chunk starts; `None` when all rows were given.
    next_key: Option<Bytes>,
    rows: u64,
    crc32c: u32,
    ended: bool,
}

impl Sender {
    /// Pins the present state of a region.
    ///
    /// # Errors
    /// When the region has no state here, or it cannot be read.
    pub fn open(data: &dyn Engine, region: RegionId, chunk_bytes: usize) -> Result<Self, Error> {
        let view = data.view();
        let region = read_state(view.as_ref(), region)?.ok_or(Error::Empty { region })?;
        let next_key = Some(region.descriptor.start_key.clone());
        Ok(Self { view, region, chunk_bytes, next_key, rows: 0, crc32c: 0, ended: false })
    }

    /// Descriptor and apply state of what is sent.
    #[must_use]
    pub fn region(&self) -> &command::RegionState {
        &self.region
    }

    /// The next message; `None` after the end message. Blocks on the disk.
    ///
    /// # Errors
    /// A damaged block: the transfer must be given up, a shorter one would lose keys.
    pub fn next_chunk(&mut self) -> Result<Option<v1::SnapshotChunk>, Error> {
        let Some(start) = self.next_key.take() else {
            if std::mem::replace(&mut self.ended, true) {
                return Ok(None);
            }
            let end = v1::SnapshotEnd { rows: self.rows, crc32c: self.crc32c };
            return Ok(Some(chunk(v1::snapshot_chunk::Body::End(end))));
        };
        let mut range = range_of(&self.region.descriptor);
        range.start = start;
        let mut rows = BytesMut::with_capacity(self.chunk_bytes + (self.chunk_bytes >> 2));
        let mut cursor = self.view.scan(Family::Default, &range, Direction::Forward);
        while let Some((key, value)) = cursor.next()? {
            put_part(&mut rows, key)?;
            put_part(&mut rows, value)?;
            self.rows += 1;
            if rows.len() >= self.chunk_bytes {
                let mut next = BytesMut::with_capacity(key.len() + 1);
                next.extend_from_slice(key);
                next.put_u8(0); // the smallest key after this one
                self.next_key = Some(next.freeze());
                break;
            }
        }
        let rows = rows.freeze();
        self.crc32c = crc32c::crc32c_append(self.crc32c, &rows);
        let crc32c = crc32c::crc32c(&rows);
        Ok(Some(chunk(v1::snapshot_chunk::Body::Rows(v1::SnapshotRows { rows, crc32c }))))
    }
}

fn chunk(body: v1::snapshot_chunk::Body) -> v1::SnapshotChunk {
    v1::SnapshotChunk { body: Some(body) }
}

fn put_part(rows: &mut BytesMut, part: &[u8]) -> Result<(), Error> {
    let len = u32::try_from(part.len())
        .map_err(|_| Error::Damaged { what: "a part is longer than 4 GiB" })?;
    rows.put_u32(len);
    rows.extend_from_slice(part);
    Ok(())
}

/// Collects a transfer into a stage.
pub struct Receiver {
    stage: Option<Box<dyn Stage>>,
    name: String,
    region: command::RegionState,
    rows: u64,
    crc32c: u32,
}

impl Receiver {
    /// Starts to collect, dropping what an earlier attempt left.
    ///
    /// # Errors
    /// When header parts are missing, or the disk fails.
    pub fn open(data: &dyn Engine, header: &v1::SnapshotHeader) -> Result<Self, Error> {
        let descriptor = v1::Region::decode(header.descriptor.clone())
            .map_err(|_| Malformed { what: "descriptor" })?;
        let state = header.state.clone().ok_or(Malformed { what: "apply state" })?;
        convert::stored_membership(&state)?;
        if descriptor.region_id != header.region_id || state.applied_index == 0 {
            return Err(Malformed { what: "snapshot header" }.into());
        }
        let name = stage_name(header);
        let stage = data.stage(&name)?;
        let region = command::RegionState { descriptor, state };
        Ok(Self { stage: Some(stage), name, region, rows: 0, crc32c: 0 })
    }

    /// Takes one chunk of rows. Blocks on the disk.
    ///
    /// # Errors
    /// When the rows do not check out.
    pub fn rows(&mut self, chunk: &v1::SnapshotRows) -> Result<(), Error> {
        if crc32c::crc32c(&chunk.rows) != chunk.crc32c {
            return Err(Error::Damaged { what: "checksum of a chunk" });
        }
        let stage = self.stage.as_mut().ok_or(Error::Truncated)?;
        self.crc32c = crc32c::crc32c_append(self.crc32c, &chunk.rows);
        let range = range_of(&self.region.descriptor);
        let mut rows = chunk.rows.clone();
        while rows.has_remaining() {
            let key = take_part(&mut rows)?;
            let value = take_part(&mut rows)?;
            if !range.contains(&key) {
                return Err(Error::Damaged { what: "a key outside of the region" });
            }
            stage.put(&key, &value)?;
            self.rows += 1;
        }
        Ok(())
    }

    /// Completes and syncs the stage.
    ///
    /// # Errors
    /// When rows are missing or the disk fails.
    pub fn finish(mut self, end: &v1::SnapshotEnd) -> Result<Received, Error> {
        if end.rows != self.rows || end.crc32c != self.crc32c {
            return Err(Error::Damaged { what: "totals" });
        }
        self.stage.take().ok_or(Error::Truncated)?.finish()?;
        Ok(Received { stage: self.name, region: self.region })
    }
}

fn take_part(rows: &mut Bytes) -> Result<Bytes, Error> {
    if rows.remaining() < 4 {
        return Err(Error::Damaged { what: "a row's length" });
    }
    let len = rows.get_u32() as usize;
    if rows.remaining() < len {
        return Err(Error::Damaged { what: "a row" });
    }
    Ok(rows.split_to(len))
}

/// `[stage name length: 1][stage name][descriptor length: 4 BE][descriptor][apply state]`
fn encode_record(received: &Received) -> Vec<u8> {
    let descriptor = received.region.descriptor.encode_to_vec();
    let mut record = Vec::new();
    record.put_u8(u8::try_from(received.stage.len()).unwrap_or(u8::MAX));
    record.extend_from_slice(received.stage.as_bytes());
    record.put_u32(u32::try_from(descriptor.len()).unwrap_or(u32::MAX));
    record.extend_from_slice(&descriptor);
    record.extend_from_slice(&received.region.state.encode_to_vec());
    record
}

fn decode_record(mut record: Bytes) -> Result<Received, engine::Error> {
    let corrupt =
        || engine::Error::Corrupt { message: "an install record does not decode".to_owned() };
    let take = |record: &mut Bytes, len: usize| {
        (record.remaining() >= len).then(|| record.split_to(len)).ok_or_else(corrupt)
    };
    let len = take(&mut record, 1)?.get_u8();
    let stage =
        String::from_utf8(take(&mut record, len.into())?.to_vec()).map_err(|_| corrupt())?;
    let len = take(&mut record, 4)?.get_u32();
    let descriptor = take(&mut record, len as usize)?;
    Ok(Received {
        stage,
        region: command::RegionState {
            descriptor: v1::Region::decode(descriptor).map_err(|_| corrupt())?,
            state: v1::ApplyState::decode(record).map_err(|_| corrupt())?,
        },
    })
}

/// Makes a received state the peer's state. Blocks on the disk.
///
/// Durability: the record is synced before anything is replaced, and the new state before the
/// record is gone; a crash at any line is finished by [`resume`].
///
/// # Errors
/// When the disk fails; the install is then resumed at the next start, from the same stage.
pub fn install(
    data: &dyn Engine,
    received: Received,
) -> Result<command::RegionState, engine::Error> {
    let region = RegionId(received.region.descriptor.region_id);
    let mut batch = WriteBatch::new();
    batch.put(Family::Meta, &keys::meta::install(region), &encode_record(&received));
    fail::fail_point!("snapshot-before-record");
    data.write(&batch, Durability::Synced)?;
    fail::fail_point!("snapshot-after-record");
    redo(data, received)
}

fn redo(data: &dyn Engine, received: Received) -> Result<command::RegionState, engine::Error> {
    let Received { stage, region } = received;
    let id = RegionId(region.descriptor.region_id);
    data.replace_range(Family::Default, &range_of(&region.descriptor), &stage)?;
    fail::fail_point!("snapshot-after-replace");
    let mut batch = WriteBatch::new();
    put_state(&mut batch, &region, true);
    batch.delete(Family::Meta, &keys::meta::install(id));
    data.write(&batch, Durability::Synced)?;
    fail::fail_point!("snapshot-after-state");
    data.drop_stage(&stage)?;
    Ok(region)
}

/// Installs that have begun and not come to their end.
///
/// # Errors
/// When the disk cannot be read.
pub fn begun(data: &(impl engine::Read + ?Sized)) -> Result<Vec<Received>, engine::Error> {
    let mut records = Vec::new();
    let mut cursor = data.scan(Family::Meta, &keys::meta::all_installs(), Direction::Forward);
    while let Some((_, record)) = cursor.next()? {
        records.push(decode_record(Bytes::copy_from_slice(record))?);
    }
    Ok(records)
}

/// As [`begun`], of a node that runs: without those that are damaged, of which nothing is known.
///
/// # Errors
/// When the disk cannot be read, but for damage.
pub fn begun_beside_damage(
    data: &(impl engine::Read + ?Sized),
    known: &BTreeSet<RegionId>,
) -> Result<Vec<Received>, engine::Error> {
    let rows = read_rows(data, &keys::meta::all_installs(), keys::meta::install, known)?;
    Ok(rows.found.into_iter().filter_map(|(_, row)| decode_record(row).ok()).collect())
}

/// The install of a region that has begun and not come to its end.
fn begun_of(data: &dyn Engine, region: RegionId) -> Result<Option<Received>, engine::Error> {
    data.get(Family::Meta, &keys::meta::install(region))?.map(decode_record).transpose()
}

/// Drops the stage of an install that did not come to its end, unless it has begun: the next start then
/// finishes it. Blocks on the disk.
///
/// # Errors
/// When the disk fails.
pub fn leave(data: &dyn Engine, region: RegionId, stage: &str) -> Result<(), engine::Error> {
    match begun_of(data, region)? {
        Some(begun) if begun.stage == stage => Ok(()),
        _ => data.drop_stage(stage),
    }
}

/// Removes all that `data` has of a region, also of an install that has begun. Blocks on the disk.
///
/// # Errors
/// When the disk fails; what is there is then told by the next start.
pub fn erase(data: &dyn Engine, region: RegionId) -> Result<(), engine::Error> {
    let begun = begun_of(data, region)?;
    erase_state(data, region, begun.as_ref().map(|begun| &begun.region.descriptor))?;
    match begun {
        Some(begun) => data.drop_stage(&begun.stage),
        None => Ok(()),
    }
}

/// Finishes installs that a crash interrupted, erases the regions of those that cannot be finished, and drops
/// stages that nobody will finish. Called once at start, before any peer is opened. Answers the regions
/// it finished.
///
/// # Errors
/// When the disk fails.
pub fn resume(data: &dyn Engine) -> Result<Vec<RegionId>, engine::Error> {
    let mut resumed = Vec::new();
    for received in begun(data)? {
        let region = RegionId(received.region.descriptor.region_id);
        let lost = if data.is_staged(&received.stage)? {
            match redo(data, received) {
                Ok(_) => None,
                Err(engine::Error::Corrupt { message }) => Some(message),
                Err(error) => return Err(error),
            }
        } else {
            // The install was finished, and its stage dropped; then `data` fell back to before its end.
            Some("it is there no more".to_owned())
        };
        match lost {
            None => resumed.push(region),
            // The node's other regions are none the worse for it, and this one is judged by its log.
            Some(why) => {
                tracing::error!(
                    %region, "the state of a region is lost: its snapshot cannot be installed: {why}"
                );
                erase(data, region)?;
            }
        }
    }
    for stage in data.stages()? {
        data.drop_stage(&stage)?;
    }
    Ok(resumed)
}
