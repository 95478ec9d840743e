//! Many operations at once.

use std::collections::VecDeque;

use bytes::Bytes;
use flotilla_proto::v1;
use prost::Message as _;

use super::{PutOptions, ttl_millis};
use crate::{Client, Error};

/// A condition on one key. Absent and expired are the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Compare(v1::Compare);

impl Compare {
    fn new(key: impl Into<Bytes>, condition: v1::compare::Condition) -> Self {
        Self(v1::Compare { key: key.into(), condition: Some(condition) })
    }

    /// The key is not there.
    #[must_use]
    pub fn absent(key: impl Into<Bytes>) -> Self {
        Self::new(key, v1::compare::Condition::Absent(true))
    }

    /// The key is there.
    #[must_use]
    pub fn present(key: impl Into<Bytes>) -> Self {
        Self::new(key, v1::compare::Condition::Present(true))
    }

    /// The key holds exactly this value.
    #[must_use]
    pub fn value(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self::new(key, v1::compare::Condition::ValueEquals(value.into()))
    }

    /// The key was last written with this revision.
    #[must_use]
    pub fn revision(key: impl Into<Bytes>, revision: u64) -> Self {
        Self::new(key, v1::compare::Condition::RevisionEquals(revision))
    }
}

/// One operation of a [`Txn`] or of [`Client::write`].
#[derive(Clone, Debug, PartialEq)]
pub struct Op(v1::Op);

impl From<v1::op::Op> for Op {
    fn from(op: v1::op::Op) -> Self {
        Self(v1::Op { op: Some(op) })
    }
}

impl Op {
    /// Stores a value that never expires.
    #[must_use]
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        let (key, value) = (key.into(), value.into());
        v1::op::Op::Put(v1::PutOp { key, value, ..v1::PutOp::default() }).into()
    }

    /// As [`Op::put`], with options.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when the time to live is shorter than a millisecond.
    pub fn put_with(
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        options: PutOptions,
    ) -> Result<Self, Error> {
        let op = v1::PutOp {
            key: key.into(),
            value: value.into(),
            ttl_ms: ttl_millis(options.ttl)?,
            keep_ttl: options.keep_ttl,
            return_previous: options.return_previous,
        };
        Ok(v1::op::Op::Put(op).into())
    }

    /// Removes a key.
    #[must_use]
    pub fn delete(key: impl Into<Bytes>) -> Self {
        v1::op::Op::Delete(v1::DeleteOp { key: key.into(), return_previous: false }).into()
    }

    /// Removes the keys in `[start, end)`; an empty end is the end of the keyspace, an empty start its
    /// start. Refused when both are empty.
    #[must_use]
    pub fn delete_range(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        let (start_key, end_key) = (start.into(), end.into());
        v1::op::Op::DeleteRange(v1::DeleteRangeOp { start_key, end_key, ..Default::default() })
            .into()
    }

    /// Removes the keys that begin with `prefix`. Refused when it is empty.
    #[must_use]
    pub fn delete_prefix(prefix: impl Into<Bytes>) -> Self {
        let prefix = prefix.into();
        v1::op::Op::DeleteRange(v1::DeleteRangeOp { prefix, ..Default::default() }).into()
    }

    /// Removes every key of the keyspace.
    #[must_use]
    pub fn delete_all() -> Self {
        v1::op::Op::DeleteRange(v1::DeleteRangeOp { all: true, ..Default::default() }).into()
    }

    /// Adds to a counter.
    #[must_use]
    pub fn add(key: impl Into<Bytes>, delta: i64) -> Self {
        v1::op::Op::Add(v1::AddOp { key: key.into(), delta }).into()
    }

    /// Adds bytes to the end of a value.
    #[must_use]
    pub fn append(key: impl Into<Bytes>, suffix: impl Into<Bytes>) -> Self {
        v1::op::Op::Append(v1::AppendOp { key: key.into(), value: suffix.into() }).into()
    }

    /// Reads a key; only in a [`Txn`].
    #[must_use]
    pub fn get(key: impl Into<Bytes>) -> Self {
        v1::op::Op::Get(v1::GetOp { key: key.into() }).into()
    }
}

/// A transaction: if every comparison holds the first branch is applied, else the second, in one
/// step. All keys must belong to one region.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Txn {
    compare: Vec<v1::Compare>,
    success: Vec<v1::Op>,
    failure: Vec<v1::Op>,
}

impl Txn {
    /// One that always takes the first branch, and does nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The first branch is taken only if this holds too.
    #[must_use]
    pub fn when(mut self, compare: Compare) -> Self {
        self.compare.push(compare.0);
        self
    }

    /// Done when all comparisons hold.
    #[must_use]
    pub fn then(mut self, op: Op) -> Self {
        self.success.push(op.0);
        self
    }

    /// Done when one does not.
    #[must_use]
    pub fn otherwise(mut self, op: Op) -> Self {
        self.failure.push(op.0);
        self
    }
}

/// Bound: bytes of one request, half of what a server takes unless it is told otherwise, or one operation
/// that is more by itself. How many operations it has, see [`crate::bounds`].
const BYTES_PER_REQUEST: usize = 8 << 20;

/// The operations, cut into requests that a server takes.
fn requests(ops: impl Iterator<Item = v1::Op>, ops_max: usize) -> VecDeque<Vec<v1::Op>> {
    let mut requests: VecDeque<Vec<v1::Op>> = VecDeque::new();
    let mut bytes = 0;
    for op in ops {
        let size = op.encoded_len();
        match requests.back_mut() {
            Some(last) if last.len() < ops_max && bytes + size <= BYTES_PER_REQUEST => {
                last.push(op);
                bytes += size;
            }
            _ => {
                requests.push_back(vec![op]);
                bytes = size;
            }
        }
    }
    requests
}

impl Client {
    /// Runs a transaction.
    ///
    /// # Errors
    /// [`Error::CrossRegion`] when the keys belong to several regions; else see [`Error`].
    pub async fn txn(&self, txn: Txn) -> Result<v1::TxnResponse, Error> {
        let Txn { compare, success, failure } = txn;
        self.call(v1::TxnRequest { context: None, compare, success, failure }).await
    }

    /// Applies many operations: in one step when all keys share a region and they fit into one request,
    /// else in several, and the answer says what each region did. An `Ok` may therefore hold regions
    /// that failed; a region may be in it more than once, and one whose number is 0 stands for a request
    /// that was refused or got lost as a whole after others had been applied.
    ///
    /// # Errors
    /// Of the first request; see [`Error`].
    pub async fn write<I>(&self, ops: I) -> Result<v1::WriteResponse, Error>
    where
        I: IntoIterator<Item = Op>,
    {
        let bounds = &self.shared.bounds;
        let mut requests = requests(ops.into_iter().map(|op| op.0), bounds.entries());
        let mut answer: Option<v1::WriteResponse> = None;
        let mut done = 0;
        // Ordering: one after the other, so that of two operations on a key the later one wins.
        while let Some(ops) = requests.pop_front().or_else(|| answer.is_none().then(Vec::new)) {
            let outcome = self.write_ops(ops.clone(), false).await;
            // Nothing of it was applied, so it may be cut and sent again.
            let fewer = outcome.as_ref().err().and_then(|error| bounds.fewer(error, ops.len()));
            if let Some(fewer) = fewer {
                ops.rchunks(fewer).for_each(|part| requests.push_front(part.to_vec()));
                continue;
            }
            let indexes = done..done + ops.len();
            done = indexes.end;
            let Some(answer) = &mut answer else {
                answer = Some(outcome?);
                continue;
            };
            let regions = match outcome {
                Ok(part) => part.regions,
                Err(error) => vec![v1::RegionWriteResult {
                    op_indexes: (0..u32::try_from(indexes.len()).unwrap_or(u32::MAX)).collect(),
                    maybe_applied: error.maybe_applied(),
                    error: error.to_string(),
                    ..v1::RegionWriteResult::default()
                }],
            };
            answer.atomic = false;
            answer.regions.extend(regions.into_iter().map(|mut region| {
                let before = u32::try_from(indexes.start).unwrap_or(u32::MAX);
                region.op_indexes.iter_mut().for_each(|index| *index += before);
                region
            }));
        }
        Ok(answer.unwrap_or_default())
    }

    /// Applies many operations in one step, or refuses.
    ///
    /// # Errors
    /// [`Error::CrossRegion`] when the keys belong to several regions; else see [`Error`].
    pub async fn write_atomic<I>(&self, ops: I) -> Result<v1::WriteResponse, Error>
    where
        I: IntoIterator<Item = Op>,
    {
        self.write_ops(ops.into_iter().map(|op| op.0).collect(), true).await
    }

    async fn write_ops(
        &self,
        ops: Vec<v1::Op>,
        require_atomic: bool,
    ) -> Result<v1::WriteResponse, Error> {
        self.call(v1::WriteRequest { context: None, ops, require_atomic }).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::fake::{FakeCluster, Fault};

    #[test]
    fn a_request_is_bounded_in_operations_and_in_bytes() {
        let lengths = |ops: Vec<Op>| {
            let requests = requests(ops.into_iter().map(|op| op.0), 1024);
            requests.iter().map(Vec::len).collect::<Vec<_>>()
        };
        assert_eq!(lengths(Vec::new()), [0_usize; 0]);
        assert_eq!(lengths(vec![Op::delete("k"); 2049]), [1024, 1024, 1]);
        let large = Op::put("k", vec![0; 5 << 20]);
        assert_eq!(lengths(vec![large; 3]), [1, 1, 1]);
        let huge = Op::put("k", vec![0; 9 << 20]);
        assert_eq!(lengths(vec![Op::delete("k"), huge, Op::delete("k")]), [1, 1, 1]);
    }

    #[tokio::test]
    async fn many_operations_and_keys_go_in_requests_that_a_server_takes() {
        let cluster = FakeCluster::start(1).await;
        let client = cluster.client(Duration::from_secs(20)).await;
        let key = |number: usize| format!("k{number:05}");
        let ops = (0..2500).map(|number| Op::put(key(number), "v"));
        client.write(ops).await.expect("written");
        assert_eq!((cluster.count("write"), cluster.data.lock().len()), (3, 2500));
        let found = client.batch_get((0..2500).map(key)).await.expect("read");
        assert_eq!(found.iter().flatten().count(), 2500);
        assert_eq!(cluster.count("batch_get"), 3);
    }

    #[tokio::test]
    async fn a_later_request_that_fails_is_told_beside_those_that_were_applied() {
        let cluster = FakeCluster::start(1).await;
        cluster.nodes[0].script(|seen| {
            let fails = seen.method == "write" && seen.nth == 1;
            fails.then(|| Fault::Refuse(tonic::Status::unknown("cut")))
        });
        let client = cluster.client(Duration::from_secs(20)).await;
        let ops = (0..2500).map(|number| Op::put(format!("k{number:05}"), "v"));
        let answer = client.write(ops).await.expect("the first was applied");
        let failed: Vec<_> =
            answer.regions.iter().filter(|region| !region.error.is_empty()).collect();
        let [failed] = &failed[..] else { panic!("{failed:?}") };
        assert!(failed.maybe_applied, "{failed:?}");
        assert_eq!((failed.op_indexes[0], failed.op_indexes.len()), (1024, 1024));
        assert_eq!(cluster.data.lock().len(), 2500 - 1024);
    }

    #[tokio::test]
    async fn a_server_that_takes_fewer_operations_and_keys_gets_fewer() {
        let cluster = FakeCluster::start(1).await;
        cluster.nodes[0].take_at_most(100);
        let client = cluster.client(Duration::from_secs(20)).await;
        let key = |number: usize| format!("k{number:05}");
        let ops = (0..1000).map(|number| Op::put(key(number), "v"));
        let answer = client.write(ops).await.expect("written");
        assert!(answer.regions.iter().all(|region| region.error.is_empty()), "{answer:?}");
        assert_eq!((cluster.count("write"), cluster.data.lock().len()), (10, 1000));
        let found = client.batch_get((0..1000).map(key)).await.expect("read");
        assert_eq!((found.iter().flatten().count(), cluster.count("batch_get")), (1000, 10));
        cluster.nodes[0].take_at_most(30);
        let found = client.batch_get((0..1000).map(key)).await.expect("read");
        assert_eq!(found.iter().flatten().count(), 1000);
    }
}
