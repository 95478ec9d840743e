//! The naive form of a region, to compare [`apply`](super::apply()) with.
//!
//! One map of what clients see. Expired keys go the moment the time passes them, a refused command
//! is undone by keeping a copy, and nothing is shared with the code under test.

use std::collections::BTreeMap;

use bytes::Bytes;
use flotilla_proto::v1::{
    AddResult, AppendResult, Command, CommandReply, DeleteResult, Done, EpochChanged, GetResult,
    KeyValue, Op, OpResult, PutResult, Region, WriteCommand, WriteRefusal, WriteReply,
    command::Body, command_reply::Reply, compare::Condition, op::Op as Kind,
    op_result::Result as Answer,
};

#[derive(Clone, Debug)]
pub(super) struct Model {
    descriptor: Region,
    /// Key to value, revision and expiry.
    pub(super) live: BTreeMap<Bytes, (Bytes, u64, Option<u64>)>,
    pub(super) revision: u64,
    pub(super) time_ms: u64,
}

impl Model {
    pub(super) fn new(descriptor: Region) -> Self {
        Self { descriptor, live: BTreeMap::new(), revision: 0, time_ms: 0 }
    }

    /// The answer to `command`; a refusal does not say why.
    pub(super) fn apply(&mut self, command: &Command) -> CommandReply {
        self.time_ms = self.time_ms.max(command.time_ms);
        let now = self.time_ms;
        self.live.retain(|_, (_, _, expires)| expires.is_none_or(|expires| expires > now));
        let epoch = self.descriptor.epoch.expect("the fixture has one");
        let reply = match command.body.as_ref().expect("every generated command has one") {
            _ if command.epoch_version != epoch.version => {
                Reply::EpochChanged(EpochChanged { region: Some(self.descriptor.clone()) })
            }
            Body::Write(write) => {
                let before = self.clone();
                Reply::Write(self.write(write).unwrap_or_else(|()| {
                    *self = before;
                    WriteReply { refused: Some(WriteRefusal::default()), ..WriteReply::default() }
                }))
            }
            Body::Tick(_) | Body::Checksum(_) => Reply::Done(Done { index: 0 }),
        };
        CommandReply { reply: Some(reply) }
    }

    fn write(&mut self, write: &WriteCommand) -> Result<WriteReply, ()> {
        let key_of = |op: &Op| match op.op.clone() {
            Some(Kind::Put(op)) if op.keep_ttl && op.ttl_ms > 0 => None,
            Some(Kind::Put(op)) => Some(op.key),
            Some(Kind::Delete(op)) => Some(op.key),
            Some(Kind::Add(op)) => Some(op.key),
            Some(Kind::Append(op)) => Some(op.key),
            Some(Kind::Get(op)) => Some(op.key),
            Some(Kind::DeleteRange(_)) => Some("a".into()),
            None => None,
        };
        let ops = write.success.iter().chain(&write.failure);
        let keys = ops.map(key_of).chain(
            write
                .compare
                .iter()
                .map(|compare| compare.condition.is_some().then(|| compare.key.clone())),
        );
        for key in keys.collect::<Vec<_>>() {
            self.inside(&key.ok_or(())?)?;
        }
        for op in write.success.iter().chain(&write.failure) {
            if let Some(Kind::DeleteRange(range)) = &op.op
                && (range.end_key.is_empty() || range.start_key < range.end_key)
            {
                self.inside(&range.start_key)?;
                let end = &range.end_key;
                let region_end = &self.descriptor.end_key;
                (!end.is_empty() && end <= region_end).then_some(()).ok_or(())?;
            }
        }
        let succeeded = write.compare.iter().all(|compare| {
            let value = self.live.get(&compare.key);
            match compare.condition.as_ref().expect("checked above") {
                Condition::Absent(wanted) => value.is_none() == *wanted,
                Condition::Present(wanted) => value.is_some() == *wanted,
                Condition::ValueEquals(wanted) => value.is_some_and(|(bytes, ..)| bytes == wanted),
                Condition::RevisionEquals(wanted) => value.is_some_and(|(_, at, _)| at == wanted),
            }
        });
        let branch = if succeeded { &write.success } else { &write.failure };
        if branch.iter().any(|op| !matches!(op.op, Some(Kind::Get(_)))) {
            self.revision += 1;
        }
        let results = branch.iter().map(|op| self.op(op)).collect::<Result<_, _>>()?;
        Ok(WriteReply { succeeded, revision: self.revision, results, refused: None })
    }

    fn inside(&self, key: &Bytes) -> Result<(), ()> {
        let Region { start_key, end_key, .. } = &self.descriptor;
        (start_key..end_key).contains(&key).then_some(()).ok_or(())
    }

    fn op(&mut self, op: &Op) -> Result<OpResult, ()> {
        let now = self.time_ms;
        let revision = self.revision;
        let answer = match op.op.as_ref().expect("checked above") {
            Kind::Put(put) => {
                let kept = self.live.get(&put.key).and_then(|(_, _, expires)| *expires);
                let previous = put.return_previous.then(|| self.key_value(&put.key)).flatten();
                let expires = match put.ttl_ms {
                    0 if put.keep_ttl => kept,
                    0 => None,
                    ttl_ms => Some(now.saturating_add(ttl_ms)),
                };
                self.live.insert(put.key.clone(), (put.value.clone(), revision, expires));
                Answer::Put(PutResult { previous })
            }
            Kind::Delete(delete) => {
                let previous = self.key_value(&delete.key).filter(|_| delete.return_previous);
                let deleted = u64::from(self.live.remove(&delete.key).is_some());
                Answer::Delete(DeleteResult { deleted, previous })
            }
            Kind::DeleteRange(range) => {
                let before = self.live.len();
                self.live.retain(|key, _| !(&range.start_key..&range.end_key).contains(&key));
                let deleted = (before - self.live.len()) as u64;
                Answer::DeleteRange(DeleteResult { deleted, previous: None })
            }
            Kind::Add(add) => {
                let (start, expires) = match self.live.get(&add.key) {
                    None => (0, None),
                    Some((digits, _, expires)) => {
                        let digits = String::from_utf8(digits.to_vec()).map_err(drop)?;
                        (digits.parse::<i64>().map_err(drop)?, *expires)
                    }
                };
                let end = i128::from(start) + i128::from(add.delta);
                let end = i64::try_from(end).map_err(drop)?;
                self.live.insert(add.key.clone(), (end.to_string().into(), revision, expires));
                Answer::Add(AddResult { start, end })
            }
            Kind::Append(append) => {
                let (mut bytes, expires) = match self.live.get(&append.key) {
                    None => (vec![], None),
                    Some((bytes, _, expires)) => (bytes.to_vec(), *expires),
                };
                bytes.extend_from_slice(&append.value);
                let value_bytes = bytes.len() as u64;
                self.live.insert(append.key.clone(), (bytes.into(), revision, expires));
                Answer::Append(AppendResult { value_bytes })
            }
            Kind::Get(get) => Answer::Get(GetResult { kv: self.key_value(&get.key) }),
        };
        Ok(OpResult { result: Some(answer) })
    }

    fn key_value(&self, key: &Bytes) -> Option<KeyValue> {
        let (value, revision, expires) = self.live.get(key)?;
        Some(KeyValue {
            key: key.clone(),
            value: value.clone(),
            revision: *revision,
            ttl_ms: expires.map(|expires| expires - self.time_ms),
        })
    }
}
