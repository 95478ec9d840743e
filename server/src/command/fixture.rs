//! A region in memory for the tests of this folder, and short names for what they send.

use std::{
    cell::Cell,
    collections::BTreeMap,
    ops::Bound::{Excluded, Included, Unbounded},
};

use bytes::Bytes;
use flotilla_proto::{
    range::KeyRange,
    v1::{
        AddOp, AppendOp, ApplyState, Command, CommandReply, Compare, DeleteOp, DeleteRangeOp,
        GetOp, KeyValue, Op, OpResult, PutOp, Region, RegionEpoch, TickCommand, WriteCommand,
        WriteReply, command::Body, command_reply::Reply, compare::Condition, op::Op as Kind,
        op_result::Result as Answer,
    },
};

use super::{apply::apply, overlay::Overlay, region::RegionState, value::StoredValue};
use crate::storage::{
    batch::{Change, Family, WriteBatch},
    engine::{Cursor, Direction, Error, Read},
};

/// The epoch version of the fixture's region and of its commands.
pub(super) const VERSION: u64 = 7;

/// One replica of the region `[a, z)`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fixture {
    pub(super) region: RegionState,
    pub(super) store: Store,
}

/// Rows in memory.
#[derive(Clone, Debug, Default)]
pub(super) struct Store {
    /// The default family.
    pub(super) rows: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Regions' own rows, which no command writes yet.
    pub(super) own: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Calls of `get` and `scan`.
    pub(super) reads: Cell<u64>,
    /// A scan fails after this many rows.
    pub(super) fail_after: Option<usize>,
}

impl PartialEq for Store {
    fn eq(&self, other: &Self) -> bool {
        self.rows == other.rows && self.own == other.own
    }
}

impl Fixture {
    pub(super) fn new() -> Self {
        let descriptor = Region {
            region_id: 2,
            start_key: "a".into(),
            end_key: "z".into(),
            epoch: Some(RegionEpoch { conf_ver: 3, version: VERSION }),
            peers: vec![],
        };
        let region = RegionState { descriptor, state: ApplyState::default() };
        Self { region, store: Store::default() }
    }

    /// Applies `commands` as one batch and writes it.
    pub(super) fn apply_batch(&mut self, commands: &[Command]) -> Vec<CommandReply> {
        self.try_apply_batch(commands).expect("the store does not fail").0
    }

    /// As [`Fixture::apply_batch`], answering with the batch.
    pub(super) fn batch_of(&mut self, commands: &[Command]) -> WriteBatch {
        self.try_apply_batch(commands).expect("the store does not fail").1
    }

    pub(super) fn apply(&mut self, command: &Command) -> CommandReply {
        self.try_apply(command).expect("the store does not fail")
    }

    pub(super) fn try_apply(&mut self, command: &Command) -> Result<CommandReply, Error> {
        let (mut replies, _) = self.try_apply_batch(std::slice::from_ref(command))?;
        Ok(replies.remove(0))
    }

    fn try_apply_batch(
        &mut self,
        commands: &[Command],
    ) -> Result<(Vec<CommandReply>, WriteBatch), Error> {
        let mut batch = WriteBatch::new();
        let mut overlay = Overlay::new(&self.store, &mut batch);
        let replies = commands
            .iter()
            .map(|command| apply(command, &mut self.region, &mut overlay).map(|(reply, _)| reply))
            .collect::<Result<_, _>>()?;
        self.store.write(&batch);
        Ok((replies, batch))
    }

    /// Applies one branch, without moving the time.
    pub(super) fn write(&mut self, ops: Vec<Op>) -> WriteReply {
        self.write_command(WriteCommand { success: ops, ..WriteCommand::default() })
    }

    pub(super) fn write_command(&mut self, write: WriteCommand) -> WriteReply {
        written(&self.apply(&command(0, Body::Write(write)))).clone()
    }

    /// What is on disk, expired or not.
    pub(super) fn rows(&self) -> BTreeMap<String, StoredValue> {
        self.store
            .rows
            .iter()
            .map(|(key, stored)| {
                let key = String::from_utf8(key.clone()).expect("keys of tests are text");
                let stored = Bytes::copy_from_slice(stored);
                (key, StoredValue::decode(&stored).expect("what apply wrote decodes"))
            })
            .collect()
    }

    pub(super) fn keys(&self) -> Vec<String> {
        self.rows().into_keys().collect()
    }

    pub(super) fn live(&self, key: &str) -> Option<Bytes> {
        let value = self.rows().remove(key)?;
        value.is_live(self.region.state.time_ms).then_some(value.payload)
    }

    /// What a compaction may do at any time: removes what has expired.
    pub(super) fn compact(&mut self) {
        let time_ms = self.region.state.time_ms;
        for (key, value) in self.rows() {
            if !value.is_live(time_ms) {
                self.store.rows.remove(key.as_bytes());
            }
        }
    }
}

impl Store {
    pub(super) fn write(&mut self, batch: &WriteBatch) {
        for (family, change) in batch.iter() {
            assert_eq!(family, Family::Default, "commands write values only");
            match change {
                Change::Put { key, value } => {
                    self.rows.insert(key.to_vec(), value.to_vec());
                }
                Change::Delete { key } => {
                    self.rows.remove(key);
                }
                Change::DeleteRange { start, end } => {
                    assert!(start < end, "RocksDB refuses a range that is turned round");
                    self.rows.retain(|key, _| &key[..] < start || &key[..] >= end);
                }
            }
        }
    }
}

impl Read for Store {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, Error> {
        assert_eq!(family, Family::Default, "commands read values only");
        self.reads.set(self.reads.get() + 1);
        Ok(self.rows.get(key).map(|value| Bytes::copy_from_slice(value)))
    }

    fn scan(&self, family: Family, range: &KeyRange, direction: Direction) -> Box<dyn Cursor + '_> {
        self.reads.set(self.reads.get() + 1);
        let end = if range.end.is_empty() { Unbounded } else { Excluded(&range.end[..]) };
        let map = match family {
            Family::Default => &self.rows,
            Family::Meta => &self.own,
        };
        let rows = map
            .range::<[u8], _>((Included(&range.start[..]), end))
            .map(|(key, value)| (&key[..], &value[..]));
        let rows: Box<dyn Iterator<Item = (&[u8], &[u8])> + '_> = match direction {
            Direction::Forward => Box::new(rows),
            Direction::Reverse => Box::new(rows.rev()),
        };
        Box::new(Rows { rows, left: self.fail_after })
    }
}

struct Rows<'a> {
    rows: Box<dyn Iterator<Item = (&'a [u8], &'a [u8])> + 'a>,
    /// Rows until a damaged block.
    left: Option<usize>,
}

impl Cursor for Rows<'_> {
    fn next(&mut self) -> Result<Option<(&[u8], &[u8])>, Error> {
        match &mut self.left {
            Some(0) => return Err(Error::Corrupt { message: "a damaged block".to_owned() }),
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(self.rows.next())
    }
}

pub(super) fn command(time_ms: u64, body: Body) -> Command {
    Command { epoch_version: VERSION, time_ms, body: Some(body), ..Command::default() }
}

pub(super) fn write(time_ms: u64, ops: Vec<Op>) -> Command {
    command(time_ms, body(WriteCommand { success: ops, ..WriteCommand::default() }))
}

pub(super) fn tick(time_ms: u64) -> Command {
    command(time_ms, Body::Tick(TickCommand {}))
}

pub(super) fn body(write: WriteCommand) -> Body {
    Body::Write(write)
}

fn op(op: Kind) -> Op {
    Op { op: Some(op) }
}

pub(super) fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Op {
    op(Kind::Put(PutOp { key: key.into(), value: value.into(), ..PutOp::default() }))
}

pub(super) fn put_bytes(key: &'static str, value: &[u8]) -> Op {
    put(key, Bytes::copy_from_slice(value))
}

pub(super) fn put_ttl(key: &'static str, value: impl Into<Bytes>, ttl_ms: u64) -> Op {
    let (key, value) = (key.into(), value.into());
    op(Kind::Put(PutOp { key, value, ttl_ms, ..PutOp::default() }))
}

pub(super) fn put_keep_ttl(key: &'static str, value: &'static str) -> Op {
    let (key, value) = (key.into(), value.into());
    op(Kind::Put(PutOp { key, value, keep_ttl: true, ..PutOp::default() }))
}

pub(super) fn get_and_put(key: &'static str, value: impl Into<Bytes>) -> Op {
    let (key, value) = (key.into(), value.into());
    op(Kind::Put(PutOp { key, value, return_previous: true, ..PutOp::default() }))
}

pub(super) fn delete(key: &'static str) -> Op {
    op(Kind::Delete(DeleteOp { key: key.into(), return_previous: false }))
}

pub(super) fn delete_and_get(key: &'static str) -> Op {
    op(Kind::Delete(DeleteOp { key: key.into(), return_previous: true }))
}

pub(super) fn delete_range(start: &'static str, end: &'static str) -> Op {
    op(Kind::DeleteRange(DeleteRangeOp {
        start_key: start.into(),
        end_key: end.into(),
        ..DeleteRangeOp::default()
    }))
}

pub(super) fn add(key: &'static str, delta: i64) -> Op {
    op(Kind::Add(AddOp { key: key.into(), delta }))
}

pub(super) fn append(key: &'static str, value: &'static str) -> Op {
    op(Kind::Append(AppendOp { key: key.into(), value: value.into() }))
}

pub(super) fn append_bytes(key: &'static str, value: &[u8]) -> Op {
    op(Kind::Append(AppendOp { key: key.into(), value: Bytes::copy_from_slice(value) }))
}

pub(super) fn get(key: &'static str) -> Op {
    op(Kind::Get(GetOp { key: key.into() }))
}

pub(super) fn condition(key: &'static str, condition: Condition) -> Compare {
    Compare { key: key.into(), condition: Some(condition) }
}

pub(super) fn value_equals(key: &'static str, value: &'static str) -> Compare {
    condition(key, Condition::ValueEquals(value.into()))
}

/// The answer to a write.
pub(super) fn written(reply: &CommandReply) -> &WriteReply {
    match &reply.reply {
        Some(Reply::Write(reply)) => reply,
        other => panic!("not the answer to a write: {other:?}"),
    }
}

pub(super) fn previous_kv(result: &OpResult) -> Option<KeyValue> {
    match &result.result {
        Some(Answer::Put(put)) => put.previous.clone(),
        other => panic!("not the result of a put: {other:?}"),
    }
}

/// The value that a put replaced.
pub(super) fn previous(result: &OpResult) -> Option<Bytes> {
    previous_kv(result).map(|kv| kv.value)
}

/// The key of a put or delete.
pub(super) fn first_key(op: &Op) -> String {
    let key = match &op.op {
        Some(Kind::Put(put)) => &put.key,
        Some(Kind::Delete(delete)) => &delete.key,
        other => panic!("no single key: {other:?}"),
    };
    String::from_utf8(key.to_vec()).expect("keys of tests are text")
}

pub(super) fn first_put(command: &Command) -> &PutOp {
    let Some(Body::Write(write)) = &command.body else { panic!("no write: {command:?}") };
    match write.success.first().and_then(|op| op.op.as_ref()) {
        Some(Kind::Put(put)) => put,
        other => panic!("no put: {other:?}"),
    }
}
