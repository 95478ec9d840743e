//! The key-value calls as values: what `flotilla.v1.Kv`, `kv.KvService` and HTTP have in common.
//!
//! One function per call: sizes checked, keys encoded, the call turned into a read or a
//! `WriteCommand`, the answer taken apart. The calls that span regions live in `batch.rs`,
//! `write.rs`, `delete_range.rs` and `scan.rs`; `grpc.rs` puts them on the wire.

use std::sync::Arc;

use bytes::Bytes;
use flotilla_proto::v1::{
    self, compare::Condition, compare_and_put_request::Expected, op::Op,
    op_result::Result as Outcome,
};
use tokio::time::Instant;

use super::{
    Admission,
    admission::InFlight,
    context,
    limits::Limits,
    ops::{self, Gets},
    refused::{self, Entries},
};
use crate::{
    error::Error,
    router::{Context, Requests},
};

/// The key-value calls over a router. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct KvApi<R> {
    pub(super) requests: R,
    pub(super) limits: Arc<Limits>,
    /// Pages of scans that are not read yet.
    pub(super) pages: Arc<InFlight>,
}

impl<R: Requests> KvApi<R> {
    /// With a bound of its own on pages of scans.
    #[cfg(test)]
    pub(super) fn new(requests: R, limits: Arc<Limits>) -> Self {
        let admission = Admission::new(&limits);
        Self::sharing(requests, limits, &admission)
    }

    pub(super) fn sharing(requests: R, limits: Arc<Limits>, admission: &Admission) -> Self {
        Self { requests, limits, pages: Arc::clone(admission.pages()) }
    }

    pub(super) async fn get(
        &self,
        deadline: Instant,
        request: v1::GetRequest,
    ) -> Result<v1::GetResponse, Error> {
        let v1::GetRequest { context, key } = request;
        self.limits.check_key("key", &key)?;
        let (keyspace, cx) = context::open(context, deadline)?;
        let mut reply = self.requests.read_points(cx, vec![keyspace.encode(&key)]).await?;
        let Some(item) = reply.items.pop() else {
            return Err(Error::Internal { message: "a read answered without its key".into() });
        };
        let kv = item.kv.filter(|_| item.present).map(|kv| v1::KeyValue { key, ..kv });
        Ok(v1::GetResponse { kv, applied_revision: reply.applied_revision })
    }

    pub(super) async fn put(
        &self,
        deadline: Instant,
        request: v1::PutRequest,
    ) -> Result<v1::PutResponse, Error> {
        let v1::PutRequest { context, key, value, ttl_ms, keep_ttl, return_previous } = request;
        self.check_pair(&key, &value)?;
        ops::check_ttl("", ttl_ms, keep_ttl)?;
        let (keyspace, cx) = context::open(context, deadline)?;
        let put =
            v1::PutOp { key: keyspace.encode(&key), value, ttl_ms, keep_ttl, return_previous };
        let reply = self.apply_one(cx, Op::Put(put)).await?;
        let revision = reply.revision;
        if !return_previous {
            return Ok(v1::PutResponse { revision, previous: None });
        }
        let previous = put_result(reply)?.previous.map(|kv| v1::KeyValue { key, ..kv });
        Ok(v1::PutResponse { revision, previous })
    }

    pub(super) async fn delete(
        &self,
        deadline: Instant,
        request: v1::DeleteRequest,
    ) -> Result<v1::DeleteResponse, Error> {
        let v1::DeleteRequest { context, key, return_previous } = request;
        self.limits.check_key("key", &key)?;
        let (keyspace, cx) = context::open(context, deadline)?;
        let delete = v1::DeleteOp { key: keyspace.encode(&key), return_previous };
        let mut reply = self.apply_one(cx, Op::Delete(delete)).await?;
        let Some(Outcome::Delete(result)) = pop(&mut reply) else { return Err(odd_result()) };
        Ok(v1::DeleteResponse {
            revision: reply.revision,
            deleted: result.deleted > 0,
            previous: result.previous.map(|kv| v1::KeyValue { key, ..kv }),
        })
    }

    pub(super) async fn txn(
        &self,
        deadline: Instant,
        request: v1::TxnRequest,
    ) -> Result<v1::TxnResponse, Error> {
        let v1::TxnRequest { context, mut compare, mut success, mut failure } = request;
        self.limits.check_count("txn", compare.len() + success.len() + failure.len())?;
        let (keyspace, cx) = context::open(context, deadline)?;
        let limits = &self.limits;
        let bytes = ops::encode_compares(limits, keyspace, &mut compare)?
            + ops::encode_ops(limits, keyspace, "success", Gets::Allowed, &mut success)?
            + ops::encode_ops(limits, keyspace, "failure", Gets::Allowed, &mut failure)?;
        limits.check_request_bytes(bytes)?;
        let command = v1::WriteCommand { compare, success, failure, ..v1::WriteCommand::default() };
        let v1::WriteReply { succeeded, revision, mut results, .. } =
            self.apply(cx, command, Entries::Txn).await?;
        ops::decode_results(&mut results)?;
        Ok(v1::TxnResponse { succeeded, revision, results })
    }

    pub(super) async fn compare_and_put(
        &self,
        deadline: Instant,
        request: v1::CompareAndPutRequest,
    ) -> Result<v1::CompareAndPutResponse, Error> {
        let v1::CompareAndPutRequest { context, key, expected, new_value, ttl_ms } = request;
        self.limits.check_key("key", &key)?;
        self.limits.check_value("new_value", &new_value)?;
        let condition = match expected {
            Some(Expected::Absent(true)) => Condition::Absent(true),
            Some(Expected::Absent(false)) => {
                return Err(Error::invalid("absent", "must be true, or expect something else"));
            }
            Some(Expected::Value(value)) => {
                self.limits.check_value("value", &value)?;
                self.limits.check_request_bytes(key.len() + value.len() + new_value.len())?;
                Condition::ValueEquals(value)
            }
            Some(Expected::Revision(revision)) => Condition::RevisionEquals(revision),
            None => return Err(Error::invalid("expected", "must be set")),
        };
        let (keyspace, cx) = context::open(context, deadline)?;
        let encoded = keyspace.encode(&key);
        let (succeeded, revision, current) =
            self.put_if(cx, condition, key, encoded, new_value, ttl_ms).await?;
        Ok(v1::CompareAndPutResponse { succeeded, revision, current })
    }

    pub(super) async fn put_if_absent(
        &self,
        deadline: Instant,
        request: v1::PutIfAbsentRequest,
    ) -> Result<v1::PutIfAbsentResponse, Error> {
        let v1::PutIfAbsentRequest { context, key, value, ttl_ms } = request;
        self.check_pair(&key, &value)?;
        let (keyspace, cx) = context::open(context, deadline)?;
        let encoded = keyspace.encode(&key);
        let (succeeded, revision, current) =
            self.put_if(cx, Condition::Absent(true), key, encoded, value, ttl_ms).await?;
        Ok(v1::PutIfAbsentResponse { succeeded, revision, current })
    }

    pub(super) async fn get_and_put(
        &self,
        deadline: Instant,
        request: v1::GetAndPutRequest,
    ) -> Result<v1::GetAndPutResponse, Error> {
        let v1::GetAndPutRequest { context, key, value, ttl_ms } = request;
        let put =
            v1::PutRequest { context, key, value, ttl_ms, keep_ttl: false, return_previous: true };
        let v1::PutResponse { revision, previous } = self.put(deadline, put).await?;
        Ok(v1::GetAndPutResponse { revision, previous })
    }

    pub(super) async fn append(
        &self,
        deadline: Instant,
        request: v1::AppendRequest,
    ) -> Result<v1::AppendResponse, Error> {
        let v1::AppendRequest { context, key, value } = request;
        self.check_pair(&key, &value)?;
        let (keyspace, cx) = context::open(context, deadline)?;
        let append = v1::AppendOp { key: keyspace.encode(&key), value };
        let mut reply = self.apply_one(cx, Op::Append(append)).await?;
        let Some(Outcome::Append(result)) = pop(&mut reply) else { return Err(odd_result()) };
        Ok(v1::AppendResponse { revision: reply.revision, value_bytes: result.value_bytes })
    }

    pub(super) async fn increment(
        &self,
        deadline: Instant,
        request: v1::IncrementRequest,
    ) -> Result<v1::IncrementResponse, Error> {
        let v1::IncrementRequest { context, key, delta } = request;
        self.limits.check_key("key", &key)?;
        let (keyspace, cx) = context::open(context, deadline)?;
        let add = v1::AddOp { key: keyspace.encode(&key), delta };
        let mut reply = self.apply_one(cx, Op::Add(add)).await?;
        let Some(Outcome::Add(result)) = pop(&mut reply) else { return Err(odd_result()) };
        Ok(v1::IncrementResponse { revision: reply.revision, start: result.start, end: result.end })
    }

    /// Puts if `condition` holds for the key, otherwise answers with what is there.
    async fn put_if(
        &self,
        cx: Context,
        condition: Condition,
        key: Bytes,
        encoded: Bytes,
        value: Bytes,
        ttl_ms: u64,
    ) -> Result<(bool, u64, Option<v1::KeyValue>), Error> {
        let compare = v1::Compare { key: encoded.clone(), condition: Some(condition) };
        let get = v1::GetOp { key: encoded.clone() };
        let put = v1::PutOp { key: encoded, value, ttl_ms, ..v1::PutOp::default() };
        let command = v1::WriteCommand {
            compare: vec![compare],
            success: vec![v1::Op { op: Some(Op::Put(put)) }],
            failure: vec![v1::Op { op: Some(Op::Get(get)) }],
            ..v1::WriteCommand::default()
        };
        let mut reply = self.apply(cx, command, Entries::One).await?;
        if reply.succeeded {
            return Ok((true, reply.revision, None));
        }
        let Some(Outcome::Get(result)) = pop(&mut reply) else { return Err(odd_result()) };
        let current = result.kv.map(|kv| v1::KeyValue { key, ..kv });
        Ok((false, reply.revision, current))
    }

    async fn apply_one(&self, cx: Context, op: Op) -> Result<v1::WriteReply, Error> {
        let success = vec![v1::Op { op: Some(op) }];
        let command = v1::WriteCommand { success, ..v1::WriteCommand::default() };
        self.apply(cx, command, Entries::One).await
    }

    /// Has a command applied; one that was refused at apply is an error, in the words of the request
    /// whose `entries` it has.
    pub(super) async fn apply(
        &self,
        cx: Context,
        mut command: v1::WriteCommand,
        entries: Entries<'_>,
    ) -> Result<v1::WriteReply, Error> {
        // What may be put may be made by appending, and no more, whichever node applies it.
        command.value_bytes_max = self.limits.value_bytes_max as u64;
        let mut reply = self.requests.write(cx, command).await?;
        match reply.refused.take() {
            Some(refusal) => Err(refused::error(refusal, entries)),
            None => Ok(reply),
        }
    }

    fn check_pair(&self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.limits.check_key("key", key)?;
        self.limits.check_value("value", value)?;
        self.limits.check_request_bytes(key.len() + value.len())
    }
}

fn put_result(mut reply: v1::WriteReply) -> Result<v1::PutResult, Error> {
    match pop(&mut reply) {
        Some(Outcome::Put(result)) => Ok(result),
        _ => Err(odd_result()),
    }
}

fn pop(reply: &mut v1::WriteReply) -> Option<Outcome> {
    reply.results.pop()?.result
}

/// It was applied, as `Internal` says that it may have been.
fn odd_result() -> Error {
    Error::Internal { message: "a command answered with the result of another".into() }
}

#[cfg(test)]
mod tests;
