//! A region's state on its way from one node to another.
//!
//! The sender pins a view of `data`, reads descriptor and apply state from that same view, and
//! streams the rows of the region's spans, one span after the other, in checksummed chunks; nothing is built before
//! somebody needs it. What is sent may be newer than what openraft asked for, never older; both are committed state. The
//! receiver collects sorted files beside its data, those of each span for themselves, then installs: an install record is
//! synced, each span is replaced as a whole (so that deleted keys cannot come back), descriptor and apply state are
//! written, the record removed. A crash anywhere in between, also between two spans, repeats the install from its
//! record at the next start: it is a redo. An interrupted or damaged transfer leaves the peer as it was.

pub mod config;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flotilla_proto::v1::{self, snapshot_chunk::Body};
use prost::Message as _;

use super::{
    convert::{self, Malformed},
    region_state::{clear, erase_state, put_state, read_rows, read_state},
    region_view::RegionView,
};
use crate::{
    command,
    ids::RegionId,
    storage::{
        batch::{Family, WriteBatch},
        engine::{self, Attempt, Direction, Durability, Engine, Stage, View},
        keys::{
            self,
            meta::MetaKey,
            span::{Span, SpanKind, spans_of},
        },
    },
    world::{Mark, sometimes},
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
    /// Name of the stage of the keys.
    pub stage: String,
    /// The other spans that have rows; each has a stage of its own.
    pub others: Vec<SpanKind>,
    pub region: command::RegionState,
}

impl Received {
    fn has(&self, kind: SpanKind) -> bool {
        kind == SpanKind::Keys || self.others.contains(&kind)
    }

    /// Names of its stages.
    fn stages(&self) -> impl Iterator<Item = String> {
        let staged = SpanKind::ALL.into_iter().filter(|kind| self.has(*kind));
        staged.map(|kind| stage_of(&self.stage, kind))
    }

    /// Whether all of it is there.
    fn is_staged(&self, data: &dyn Engine) -> Result<bool, engine::Error> {
        for stage in self.stages() {
            if !data.is_staged(&stage)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
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
    #[error("a chunk of a kind that this version does not know")]
    UnknownChunk,
    #[error("a second header")]
    SecondHeader,
    /// It would be taken for progress.
    #[error("a chunk brings nothing")]
    Nothing,
    #[error("rows of span {span}, which this version does not know")]
    UnknownSpan { span: u32 },
    #[error(transparent)]
    Storage(#[from] engine::Error),
    /// The region has no state on this node.
    #[error("region {region} has no state to send")]
    Empty { region: RegionId },
}

/// Name of the stage for the keys of a snapshot, from which those of its other spans follow.
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

/// Name of the stage for a span of the snapshot whose keys are staged under `stage`.
fn stage_of(stage: &str, kind: SpanKind) -> String {
    match kind {
        SpanKind::Keys => stage.to_owned(),
        SpanKind::Own => format!("{stage}-own"),
    }
}

/// Reads a pinned state chunk by chunk.
pub struct Sender {
    view: Arc<dyn View>,
    region: command::RegionState,
    chunk_bytes: usize,
    /// What was not given yet: the first of them begins where the next chunk does.
    rest: VecDeque<Span>,
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
        let rest = spans_of(&region.descriptor).into();
        Ok(Self { view, region, chunk_bytes, rest, rows: 0, crc32c: 0, ended: false })
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
        while let Some(span) = self.rest.front_mut() {
            let mut rows = BytesMut::with_capacity(self.chunk_bytes + (self.chunk_bytes >> 2));
            let mut next = None;
            let mut cursor = self.view.scan(span.family(), &span.range, Direction::Forward);
            while let Some((key, value)) = cursor.next()? {
                put_bytes(&mut rows, key)?;
                put_bytes(&mut rows, value)?;
                self.rows += 1;
                if rows.len() >= self.chunk_bytes {
                    let mut after = BytesMut::with_capacity(key.len() + 1);
                    after.extend_from_slice(key);
                    after.put_u8(0); // the smallest key after this one
                    next = Some(after.freeze());
                    break;
                }
            }
            let kind = span.kind;
            match next {
                Some(key) => span.range.start = key,
                None => _ = self.rest.pop_front(),
            }
            if rows.is_empty() {
                continue;
            }
            let rows = rows.freeze();
            self.crc32c = crc32c::crc32c_append(self.crc32c, &rows);
            return Ok(Some(chunk(rows_body(kind, rows))));
        }
        if std::mem::replace(&mut self.ended, true) {
            return Ok(None);
        }
        let end = v1::SnapshotEnd { rows: self.rows, crc32c: self.crc32c };
        Ok(Some(chunk(Body::End(end))))
    }
}

fn chunk(body: Body) -> v1::SnapshotChunk {
    v1::SnapshotChunk { body: Some(body) }
}

fn rows_body(kind: SpanKind, rows: Bytes) -> Body {
    let crc32c = crc32c::crc32c(&rows);
    match kind {
        // As it was when there was nothing else.
        SpanKind::Keys => Body::Rows(v1::SnapshotRows { rows, crc32c }),
        SpanKind::Own => {
            Body::SpanRows(v1::SnapshotSpanRows { span: kind.number().into(), rows, crc32c })
        }
    }
}

/// A message behind the header.
#[derive(Debug)]
pub enum Message {
    Rows { span: SpanKind, rows: Bytes, crc32c: u32 },
    End(v1::SnapshotEnd),
}

impl Message {
    /// # Errors
    /// When there is none, or it brings a second header or what this version does not know.
    pub fn of(message: Option<v1::SnapshotChunk>) -> Result<Self, Error> {
        match message.ok_or(Error::Truncated)?.body {
            Some(Body::Rows(v1::SnapshotRows { rows, crc32c })) => {
                Ok(Self::Rows { span: SpanKind::Keys, rows, crc32c })
            }
            Some(Body::SpanRows(v1::SnapshotSpanRows { span, rows, crc32c })) => {
                let span = SpanKind::of_number(span).ok_or(Error::UnknownSpan { span })?;
                Ok(Self::Rows { span, rows, crc32c })
            }
            Some(Body::End(end)) => Ok(Self::End(end)),
            Some(Body::Header(_)) => Err(Error::SecondHeader),
            None => Err(Error::UnknownChunk),
        }
    }
}

/// Of a key or a value.
fn put_bytes(rows: &mut BytesMut, bytes: &[u8]) -> Result<(), Error> {
    let len = u32::try_from(bytes.len())
        .map_err(|_| Error::Damaged { what: "a key or a value is longer than 4 GiB" })?;
    rows.put_u32(len);
    rows.extend_from_slice(bytes);
    Ok(())
}

/// Collects a transfer into stages.
pub struct Receiver {
    /// By kind. The keys have a stage also when there are none; other spans have one from their first row on.
    spans: [(Span, Option<Box<dyn Stage>>); SpanKind::ALL.len()],
    name: String,
    region: command::RegionState,
    /// A chunk without rows was taken.
    had_empty: bool,
    rows: u64,
    crc32c: u32,
}

impl Receiver {
    /// Starts to collect, dropping what an earlier attempt left.
    ///
    /// # Errors
    /// When something is missing in the header, or the disk fails.
    pub fn open(data: &dyn Engine, header: &v1::SnapshotHeader) -> Result<Self, Error> {
        let descriptor = v1::Region::decode(header.descriptor.clone())
            .map_err(|_| Malformed { what: "descriptor" })?;
        let state = header.state.clone().ok_or(Malformed { what: "apply state" })?;
        convert::stored_membership(&state)?;
        if descriptor.region_id != header.region_id || state.applied_index == 0 {
            return Err(Malformed { what: "snapshot header" }.into());
        }
        let name = stage_name(header);
        let mut spans = spans_of(&descriptor).map(|span| (span, None));
        for (_, stage) in spans.iter_mut().filter(|(span, _)| span.kind == SpanKind::Keys) {
            *stage = Some(data.stage(&name)?);
        }
        let region = command::RegionState { descriptor, state };
        Ok(Self { spans, name, region, had_empty: false, rows: 0, crc32c: 0 })
    }

    /// Takes one chunk of rows. Blocks on the disk.
    ///
    /// # Errors
    /// When the rows do not check out, or there are none. Earlier versions sent one chunk without any, of a region without
    /// keys or behind a last row that filled its chunk: one is taken.
    pub fn rows(
        &mut self,
        data: &dyn Engine,
        kind: SpanKind,
        mut rows: Bytes,
        crc32c: u32,
    ) -> Result<(), Error> {
        if crc32c::crc32c(&rows) != crc32c {
            return Err(Error::Damaged { what: "checksum of a chunk" });
        }
        if rows.is_empty()
            && (kind != SpanKind::Keys || std::mem::replace(&mut self.had_empty, true))
        {
            return Err(Error::Nothing);
        }
        self.crc32c = crc32c::crc32c_append(self.crc32c, &rows);
        let (span, stage) = self
            .spans
            .iter_mut()
            .find(|(span, _)| span.kind == kind)
            .expect("a region has a span of each kind");
        while rows.has_remaining() {
            let key = take_bytes(&mut rows)?;
            let value = take_bytes(&mut rows)?;
            if !span.range.contains(&key) {
                return Err(Error::Damaged { what: "a key outside of the region" });
            }
            let stage = match stage {
                Some(stage) => stage,
                None => stage.insert(data.stage(&stage_of(&self.name, kind))?),
            };
            stage.put(&key, &value)?;
            self.rows += 1;
        }
        Ok(())
    }

    /// Completes and syncs the stages.
    ///
    /// # Errors
    /// When rows are missing or the disk fails.
    pub fn finish(self, end: &v1::SnapshotEnd) -> Result<Received, Error> {
        let Self { spans, name, region, had_empty: _, rows, crc32c } = self;
        if end.rows != rows || end.crc32c != crc32c {
            return Err(Error::Damaged { what: "totals" });
        }
        let mut others = Vec::new();
        for (span, stage) in spans {
            let Some(stage) = stage else { continue };
            stage.finish()?;
            if span.kind != SpanKind::Keys {
                others.push(span.kind);
            }
        }
        Ok(Received { stage: name, others, region })
    }
}

fn take_bytes(rows: &mut Bytes) -> Result<Bytes, Error> {
    if rows.remaining() < 4 {
        return Err(Error::Damaged { what: "a row's length" });
    }
    let len = rows.get_u32() as usize;
    if rows.remaining() < len {
        return Err(Error::Damaged { what: "a row" });
    }
    Ok(rows.split_to(len))
}

/// `[stage name length: 1][stage name][descriptor length: 4 BE][descriptor][apply state]`, and where there are stages of
/// other spans, before it: `[0: 1][number of them: 1][span: 1]…`. No stage has an empty name, so that a version which knows
/// of keys alone refuses such a record, and takes all others.
fn encode_record(received: &Received) -> Vec<u8> {
    let Received { stage, others, region } = received;
    let descriptor = region.descriptor.encode_to_vec();
    let mut record = Vec::new();
    if !others.is_empty() {
        record.put_u8(0);
        record.put_u8(u8::try_from(others.len()).unwrap_or(u8::MAX));
        others.iter().for_each(|kind| record.put_u8(kind.number()));
    }
    record.put_u8(u8::try_from(stage.len()).unwrap_or(u8::MAX));
    record.extend_from_slice(stage.as_bytes());
    record.put_u32(u32::try_from(descriptor.len()).unwrap_or(u32::MAX));
    record.extend_from_slice(&descriptor);
    record.extend_from_slice(&region.state.encode_to_vec());
    record
}

fn decode_record(region: RegionId, mut record: Bytes) -> Result<Received, engine::Error> {
    let corrupt = |what: &str| engine::Error::Corrupt {
        message: format!("the install record of region {region} does not decode: {what}"),
    };
    let take = |record: &mut Bytes, len: usize| {
        let is_there = record.remaining() >= len;
        is_there.then(|| record.split_to(len)).ok_or_else(|| corrupt("it is too short"))
    };
    let mut others = Vec::new();
    if record.first() == Some(&0) {
        record.advance(1);
        let count = take(&mut record, 1)?.get_u8();
        for number in take(&mut record, count.into())? {
            // A disk is replaced for what is corrupt.
            let unknown = || engine::Error::TooNew {
                message: format!(
                    "the snapshot of region {region} whose install has begun has rows of span {number}, which this \
                     version does not know: start the version that has received it"
                ),
            };
            others.push(SpanKind::of_number(number.into()).ok_or_else(unknown)?);
        }
    }
    let len = take(&mut record, 1)?.get_u8();
    let stage = String::from_utf8(take(&mut record, len.into())?.to_vec())
        .map_err(|_| corrupt("the name of its stage"))?;
    let len = take(&mut record, 4)?.get_u32();
    let descriptor = take(&mut record, len as usize)?;
    let descriptor = v1::Region::decode(descriptor).map_err(|_| corrupt("the descriptor"))?;
    let state = v1::ApplyState::decode(record).map_err(|_| corrupt("the apply state"))?;
    if descriptor.region_id != region.0 {
        return Err(corrupt("it is of another region"));
    }
    Ok(Received { stage, others, region: command::RegionState { descriptor, state } })
}

/// Makes a received state the peer's state. Blocks on the disk.
///
/// Durability: all stages are synced before the record is, that one before anything is replaced, and the new state before
/// the record is gone; a crash at any line is finished by [`resume`]. Files that were taken in stay whatever becomes of the
/// engine's log of writes, so the record is in files before them: where the state after it is lost, somebody still knows
/// whose rows they are.
///
/// # Errors
/// When the disk fails; the install is then resumed at the next start, from the same stages.
pub fn install(
    data: &dyn Engine,
    received: Received,
) -> Result<command::RegionState, engine::Error> {
    let region = RegionId(received.region.descriptor.region_id);
    let mut batch = WriteBatch::new();
    batch.put(Family::Meta, &keys::meta::install(region), &encode_record(&received));
    crate::crash_point!("snapshot-before-record");
    data.write(&batch, Durability::Synced)?;
    crate::crash_point!("snapshot-before-settle");
    data.settle()?;
    crate::crash_point!("snapshot-after-record");
    redo(data, received, Attempt::First)
}

fn redo(
    data: &dyn Engine,
    received: Received,
    attempt: Attempt,
) -> Result<command::RegionState, engine::Error> {
    let region = &received.region;
    let id = RegionId(region.descriptor.region_id);
    let mut batch = WriteBatch::new();
    for span in spans_of(&region.descriptor) {
        if received.has(span.kind) {
            let stage = stage_of(&received.stage, span.kind);
            data.replace_range(span.family(), &span.range, &stage, attempt)?;
        } else {
            // What the peer had there goes at once with the head that does not know of it.
            clear(data, &mut batch, &span);
        }
        match span.kind {
            SpanKind::Keys => crate::crash_point!("snapshot-after-replace"),
            SpanKind::Own => crate::crash_point!("snapshot-after-replace-own"),
        }
    }
    put_state(&mut batch, region, true);
    batch.delete(Family::Meta, &keys::meta::install(id));
    data.write(&batch, Durability::Synced)?;
    crate::crash_point!("snapshot-after-state");
    for stage in received.stages() {
        data.drop_stage(&stage)?;
    }
    Ok(received.region)
}

/// Installs that have begun and not come to their end.
///
/// # Errors
/// When the disk cannot be read, or a record does not decode: it is of a peer that may have voted.
pub fn begun(data: &(impl engine::Read + ?Sized)) -> Result<Vec<Received>, engine::Error> {
    let mut records = Vec::new();
    let mut cursor = data.scan(Family::Meta, &keys::meta::all_installs(), Direction::Forward);
    while let Some((key, record)) = cursor.next()? {
        let region = keys::meta::decode(key).and_then(MetaKey::region);
        let region = region.ok_or_else(|| engine::Error::Corrupt {
            message: format!("the key of an install record does not decode: {key:02x?}"),
        })?;
        records.push(decode_record(region, Bytes::copy_from_slice(record))?);
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
    let decoded = rows.found.into_iter().map(|(region, row)| decode_record(region, row));
    Ok(decoded.filter_map(Result::ok).collect())
}

/// The install of a region that has begun and not come to its end.
fn begun_of(data: &dyn Engine, region: RegionId) -> Result<Option<Received>, engine::Error> {
    let record = data.get(Family::Meta, &keys::meta::install(region))?;
    record.map(|record| decode_record(region, record)).transpose()
}

/// Drops all stages of a snapshot, whichever of them there are: `stage` is that of its keys. Blocks on the disk.
///
/// # Errors
/// When the disk fails.
pub fn drop_stages(data: &dyn Engine, stage: &str) -> Result<(), engine::Error> {
    SpanKind::ALL.into_iter().try_for_each(|kind| data.drop_stage(&stage_of(stage, kind)))
}

/// Drops the stages of an install that did not come to its end, unless it has begun: the next start then
/// finishes it. Blocks on the disk.
///
/// # Errors
/// When the disk fails.
pub fn leave(data: &dyn Engine, region: RegionId, stage: &str) -> Result<(), engine::Error> {
    match begun_of(data, region)? {
        Some(begun) if begun.stage == stage => Ok(()),
        _ => drop_stages(data, stage),
    }
}

/// Removes all that `data` has of a region, also of an install that has begun. A record of one that does not decode hides
/// nothing but its rows and its stages: as of a descriptor that does not, who gets the keys begins by clearing them, and
/// the next start drops the stages. Blocks on the disk.
///
/// # Errors
/// When the disk fails; what is there is then told by the next start.
pub fn erase(data: &dyn Engine, region: RegionId) -> Result<(), engine::Error> {
    let record = data.get(Family::Meta, &keys::meta::install(region))?;
    let begun = record.and_then(|record| match decode_record(region, record) {
        Ok(begun) => Some(begun),
        Err(error) => {
            tracing::error!(%error, "a region is erased all the same");
            None
        }
    });
    erase_state(data, region, begun.as_ref().map(|begun| &begun.region.descriptor))?;
    match begun {
        Some(begun) => drop_stages(data, &begun.stage),
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
        let lost = if received.is_staged(data)? {
            match redo(data, received, Attempt::Again) {
                Ok(_) => None,
                // Nothing else says so: any other error may come of what is beside it, and the stage be whole.
                Err(engine::Error::StageLost { message }) => Some(message),
                Err(error) => return Err(error),
            }
        } else {
            // The install was finished, and its stages dropped; then `data` fell back to before its end.
            Some("it is there no more".to_owned())
        };
        match lost {
            None => {
                sometimes(Mark::INSTALL_RESUMED);
                resumed.push(region);
            }
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
