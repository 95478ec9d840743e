//! Many operations at once.

use bytes::Bytes;
use flotilla_proto::v1;

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

    /// Removes the keys in `[start, end)`; an empty end is the end of the keyspace.
    #[must_use]
    pub fn delete_range(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        let (start_key, end_key) = (start.into(), end.into());
        v1::op::Op::DeleteRange(v1::DeleteRangeOp { start_key, end_key }).into()
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

impl Client {
    /// Runs a transaction.
    ///
    /// # Errors
    /// [`Error::CrossRegion`] when the keys belong to several regions; else see [`Error`].
    pub async fn txn(&self, txn: Txn) -> Result<v1::TxnResponse, Error> {
        let Txn { compare, success, failure } = txn;
        self.call(v1::TxnRequest { context: None, compare, success, failure }).await
    }

    /// Applies many operations: in one step when all keys share a region, else per region, and the
    /// answer says what each region did. An `Ok` may therefore hold regions that failed.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn write<I>(&self, ops: I) -> Result<v1::WriteResponse, Error>
    where
        I: IntoIterator<Item = Op>,
    {
        self.write_ops(ops.into_iter().map(|op| op.0).collect(), false).await
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
