//! Many operations at once.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Range,
    time::Duration,
};

use bytes::Bytes;
use flotilla_proto::v1;
use prost::Message as _;
use tokio::time::{Instant, sleep};

use super::{PutOptions, renumbered, ttl_millis};
use crate::{
    Client, Error,
    backoff::Backoff,
    bounds::Bounds,
    call::write_min,
    random,
    verdict::{RegionFailure, judge_region},
};

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

/// An operation with the caller's number of it.
type Numbered = (usize, v1::Op);

/// The operations, cut into requests that a server takes.
fn requests(ops: impl Iterator<Item = v1::Op>, ops_max: usize) -> VecDeque<Vec<Numbered>> {
    let mut requests: VecDeque<Vec<Numbered>> = VecDeque::new();
    let mut bytes = 0;
    for (number, op) in ops.enumerate() {
        let size = op.encoded_len();
        match requests.back_mut() {
            Some(last) if last.len() < ops_max && bytes + size <= BYTES_PER_REQUEST => {
                last.push((number, op));
                bytes += size;
            }
            _ => {
                requests.push_back(vec![(number, op)]);
                bytes = size;
            }
        }
    }
    requests
}

/// What [`Client::write`] did. Operations are told by their numbers, from 0 on, in the order in which the
/// caller gave them; the texts of errors name them by these too, as in `ops[1030].put.key`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WriteReport {
    /// All of them were applied, in one step.
    pub atomic: bool,
    /// What each region applied; a region may be here more than once.
    pub regions: Vec<v1::RegionWriteResult>,
    /// What was sent and failed, in one region or as a whole request.
    pub failed: Vec<FailedWrite>,
    /// Those that were not sent, since something before them had failed: certainly not applied.
    pub not_sent: Range<usize>,
}

/// Operations of [`Client::write`] that failed together.
#[derive(Clone, Debug, PartialEq)]
pub struct FailedWrite {
    /// The region that has not applied them; 0 when it is not known, or the request failed as a whole.
    pub region_id: u64,
    /// The operations; one that removes a range may have been applied in other regions.
    pub ops: Vec<usize>,
    /// Why. Unless it is [`Error::MaybeApplied`] none of them was applied in this region.
    pub error: Error,
}

/// The part of a write that a region refused for a moment, or for its size.
#[derive(Debug)]
struct Refused {
    region_id: u64,
    ops: Vec<Numbered>,
    /// Of them, how many the region may take at once, if it was for the size.
    fewer: Option<usize>,
    at_least: Duration,
    why: String,
}

impl WriteReport {
    /// Whether every operation was applied.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.failed.is_empty() && self.not_sent.is_empty()
    }

    /// Whether some operation may have been applied, or may be applied still, without it being certain.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        self.failed.iter().any(|failed| failed.error.maybe_applied())
    }

    /// These were not sent.
    fn fail(&mut self, parts: VecDeque<Vec<Numbered>>, error: &Error) {
        self.failed.extend(parts.into_iter().map(|ops| FailedWrite {
            region_id: 0,
            ops: ops.into_iter().map(|(number, _)| number).collect(),
            error: error.clone(),
        }));
    }

    /// Takes in what became of a request of these operations; answers what may be repeated.
    fn add(
        &mut self,
        bounds: &Bounds,
        outcome: Result<v1::WriteResponse, Error>,
        ops: Vec<Numbered>,
    ) -> Vec<Refused> {
        let number_of = |index: usize| ops.get(index).map_or(usize::MAX, |(number, _)| *number);
        let renumber = |text| renumbered(text, "ops", number_of);
        let part = match outcome {
            Ok(part) => part,
            Err(error) => {
                let error = error.with_text(renumber);
                let ops = ops.into_iter().map(|(number, _)| number).collect();
                self.failed.push(FailedWrite { region_id: 0, ops, error });
                return Vec::new();
            }
        };
        let mut refused = Vec::new();
        // Operations that a region has applied, or may have; one that removes a range has many regions.
        let mut begun = BTreeSet::new();
        for mut region in part.regions {
            if region.error.is_empty() {
                begun.extend(region.op_indexes.iter().copied());
                for index in &mut region.op_indexes {
                    *index = u32::try_from(number_of(*index as usize)).unwrap_or(u32::MAX);
                }
                self.regions.push(region);
                continue;
            }
            let (region_id, indexes) = (region.region_id, std::mem::take(&mut region.op_indexes));
            match judge_region(region) {
                RegionFailure::Final(error) => {
                    // Nothing of the part was applied, so it may be cut, as a whole request is.
                    if let fewer @ Some(_) = bounds.fewer(&error, indexes.len()) {
                        let why = error.to_string();
                        refused.push((region_id, indexes, fewer, Duration::ZERO, why, error));
                        continue;
                    }
                    if error.maybe_applied() {
                        begun.extend(indexes.iter().copied());
                    }
                    let ops = indexes.iter().map(|index| number_of(*index as usize)).collect();
                    let error = error.with_text(renumber);
                    self.failed.push(FailedWrite { region_id, ops, error });
                }
                RegionFailure::Passing { at_least, why, otherwise } => {
                    refused.push((region_id, indexes, None, at_least, why, otherwise));
                }
            }
        }
        let mut passing = Vec::new();
        for (region_id, indexes, fewer, at_least, why, otherwise) in refused {
            // Ordering: the whole part or nothing of it, since operations on a key keep their order. To remove
            // a range again where that was done would remove what was written since.
            if indexes.iter().any(|index| begun.contains(index)) {
                let ops = indexes.iter().map(|index| number_of(*index as usize)).collect();
                let error = otherwise.with_text(renumber);
                self.failed.push(FailedWrite { region_id, ops, error });
                continue;
            }
            let of_part = indexes.iter().filter_map(|index| ops.get(*index as usize).cloned());
            let (ops, why) = (of_part.collect(), renumber(why));
            passing.push(Refused { region_id, ops, fewer, at_least, why });
        }
        passing
    }
}

fn unnumbered(ops: &[Numbered]) -> Vec<v1::Op> {
    ops.iter().map(|(_, op)| op.clone()).collect()
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
    /// else region by region, in several requests, one after the other. It stops at the first request that
    /// fails, as a whole or in one region. So an `Ok` may hold operations that were not applied: the report
    /// says which were, which were refused, which may have been applied, and which were not sent.
    ///
    /// What a region refuses for a moment is repeated within the timeout, as a call of its own would be; what is
    /// too much for it at once is cut into less. But for a part with an operation that removes a range and that another region has applied or may have:
    /// that ends the write with [`Error::Refused`].
    ///
    /// # Guarantees
    /// Of two operations on a key the later one wins: behind one that may be applied still nothing is sent.
    ///
    /// # Errors
    /// Of the first request, and nothing else was sent; see [`Error`]. Unless it is
    /// [`Error::MaybeApplied`] nothing at all was applied. That of a later request is in the report.
    pub async fn write<I>(&self, ops: I) -> Result<WriteReport, Error>
    where
        I: IntoIterator<Item = Op>,
    {
        let bounds = &self.shared.bounds;
        let mut requests = requests(ops.into_iter().map(|op| op.0), bounds.entries());
        let mut report = WriteReport::default();
        let (mut sent, mut is_first) = (0, true);
        // Ordering: one after the other, so that of two operations on a key the later one wins.
        while let Some(ops) = requests.pop_front().or_else(|| is_first.then(Vec::new)) {
            let begun = Instant::now();
            let outcome = self.write_ops(unnumbered(&ops), false).await;
            // Nothing of it was applied, so it may be cut and sent again.
            let fewer = outcome.as_ref().err().and_then(|error| bounds.fewer(error, ops.len()));
            if let Some(fewer) = fewer {
                ops.rchunks(fewer).for_each(|part| requests.push_front(part.to_vec()));
                continue;
            }
            let is_atomic = outcome.as_ref().is_ok_and(|part| part.atomic);
            report.atomic = is_first && is_atomic;
            if std::mem::take(&mut is_first) {
                outcome.as_ref().map_err(Clone::clone)?;
            }
            sent += ops.len();
            let refused = report.add(bounds, outcome, ops);
            if !refused.is_empty() {
                self.repeat(refused, begun, &mut report).await;
            }
            // Ordering: what may be applied still could be applied after what comes behind it; and whoever
            // is refused decides anew.
            if !report.failed.is_empty() {
                break;
            }
        }
        report.not_sent = sent..sent + requests.iter().map(Vec::len).sum::<usize>();
        report.atomic &= report.is_complete();
        Ok(report)
    }

    /// Repeats what regions refused for a moment, and cuts what was too much for them, until it is done or the
    /// time since `begun` is over.
    async fn repeat(&self, mut refused: Vec<Refused>, begun: Instant, report: &mut WriteReport) {
        let timeout = self.settings.timeout;
        let (mut backoff, mut attempts) = (Backoff::new(), 1);
        let mut waiting: VecDeque<Vec<Numbered>> = VecDeque::new();
        loop {
            // Who only takes fewer need not be waited for.
            let passing = refused.iter().filter(|part| part.fewer.is_none());
            let pause =
                passing.map(|part| part.at_least).max().map_or(Duration::ZERO, |at_least| {
                    random::draw(|random| backoff.next(at_least, random))
                });
            let left = timeout.saturating_sub(begun.elapsed()).saturating_sub(pause);
            if left <= write_min(timeout) {
                let last = refused.first().map_or_else(String::new, |part| part.why.clone());
                report.failed.extend(refused.into_iter().map(|part| FailedWrite {
                    region_id: part.region_id,
                    ops: part.ops.into_iter().map(|(number, _)| number).collect(),
                    error: Error::TimedOut { timeout, attempts, last: part.why },
                }));
                report.fail(waiting, &Error::TimedOut { timeout, attempts, last });
                return;
            }
            sleep(pause).await;
            let fewer = refused.iter().filter_map(|part| part.fewer).min();
            // In the caller's order, and each once. Ordering: before what waits, which comes behind it.
            let ops: BTreeMap<usize, v1::Op> =
                refused.drain(..).flat_map(|part| part.ops).collect();
            let ops: Vec<Numbered> = ops.into_iter().collect();
            let parts = ops.rchunks(fewer.unwrap_or(ops.len()).max(1));
            parts.for_each(|part| waiting.push_front(part.to_vec()));
            let Some(ops) = waiting.pop_front() else { return };
            let mut client = self.clone();
            client.settings.timeout = left;
            let outcome = client.write_ops(unnumbered(&ops), false).await;
            let outcome = outcome.map_err(|error| match error {
                Error::TimedOut { attempts: more, last, .. } => {
                    Error::TimedOut { timeout, attempts: attempts + more, last }
                }
                other => other,
            });
            attempts += 1;
            let bounds = &self.shared.bounds;
            let fewer = outcome.as_ref().err().and_then(|error| bounds.fewer(error, ops.len()));
            if let Some(fewer) = fewer {
                ops.rchunks(fewer).for_each(|part| waiting.push_front(part.to_vec()));
                continue;
            }
            let failed = report.failed.len();
            refused = report.add(bounds, outcome, ops);
            if let Some(error) = report.failed.get(failed).map(|failed| failed.error.to_string()) {
                let message = format!("what comes before it failed: {error}");
                let error = Error::Refused { code: tonic::Code::Aborted, message };
                report.fail(std::mem::take(&mut waiting), &error);
            }
        }
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
    use flotilla_proto::v1::error_detail::Reason;
    use parking_lot::Mutex;

    use super::*;
    use crate::fake::{FakeCluster, Fault, typed};

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

    /// What may be applied still could be applied after what comes behind it.
    #[tokio::test]
    async fn a_later_request_that_fails_ends_the_write_and_is_told_by_its_own_error() {
        let numbers = || (0..3500).map(|number| Op::put(format!("k{number:05}"), "v"));
        let refused = Error::InvalidArgument {
            field: "ops[1030].put.key".into(),
            limit: 4096,
            message: "as the test wants".into(),
        };
        let cut = Error::MaybeApplied { message: "cut".into() };
        let late = Fault::Refuse(tonic::Status::unknown("cut"));
        let reason = Some(Reason::InvalidArgument(v1::InvalidArgument {
            field: "ops[6].put.key".into(),
            limit: 4096,
        }));
        let detail = v1::ErrorDetail { reason, ..Default::default() };
        let refusal = Fault::Refuse(typed(tonic::Code::InvalidArgument, detail));
        for (why, fault, want, is_in_doubt) in
            [("in doubt", late, cut, true), ("refused", refusal, refused, false)]
        {
            let cluster = FakeCluster::start(1).await;
            let fault = Mutex::new(Some(fault));
            cluster.nodes[0].script(move |seen| {
                let fails = seen.method == "write" && seen.nth == 1;
                fails.then(|| fault.lock().take()).flatten()
            });
            let client = cluster.client(Duration::from_secs(20)).await;
            let report = client.write(numbers()).await.expect("the first was applied");
            let failed = FailedWrite { region_id: 0, ops: (1024..2048).collect(), error: want };
            assert_eq!(
                (&report.failed[..], &report.not_sent),
                (&[failed][..], &(2048..3500)),
                "{why}"
            );
            assert_eq!((report.is_complete(), report.is_in_doubt()), (false, is_in_doubt), "{why}");
            assert_eq!((cluster.count("write"), cluster.data.lock().len()), (2, 1024), "{why}");
        }
    }

    /// In the second request, whose numbers begin behind those of the first.
    #[tokio::test]
    async fn region_that_fails_ends_the_write_too_by_its_own_error() {
        let result = |error: &str, maybe_applied, detail: Option<v1::ErrorDetail>| {
            let (op_indexes, error) = (vec![3], error.to_owned());
            let code = tonic::Code::FailedPrecondition as i32;
            v1::RegionWriteResult {
                region_id: 7,
                op_indexes,
                error,
                maybe_applied,
                code,
                detail,
                ..Default::default()
            }
        };
        let reason = Some(Reason::NotACounter(v1::NotACounter::default()));
        let refused = v1::ErrorDetail { reason, ..Default::default() };
        let reason = Some(Reason::NotJoined(v1::NotJoined { removed: true }));
        let gone = v1::ErrorDetail { reason, ..Default::default() };
        let timeout = Duration::from_secs(20);
        for (result, want) in [
            (result("no answer", true, None), Error::MaybeApplied { message: "no answer".into() }),
            (
                result("ops[3]: no", false, Some(refused)),
                Error::NotACounter { message: "ops[13]: no".into() },
            ),
            (
                result("gone", false, Some(gone)),
                Error::NotJoined { removed: true, message: "gone".into() },
            ),
        ] {
            let cluster = FakeCluster::start(1).await;
            let applied = v1::RegionWriteResult { op_indexes: vec![0], ..Default::default() };
            let second = vec![applied.clone(), result];
            cluster.nodes[0].answer_writes(move |nth| match nth {
                0 => Vec::new(),
                _ => second.clone(),
            });
            cluster.nodes[0].take_at_most(10);
            let client = cluster.client(timeout).await;
            let ops = (0..30).map(|number| Op::put(format!("k{number:05}"), "v"));
            let report = client.write(ops).await.expect("the first was applied");
            assert_eq!((report.is_in_doubt(), report.atomic), (want.maybe_applied(), false));
            let failed = FailedWrite { region_id: 7, ops: vec![13], error: want };
            assert_eq!((&report.failed[..], &report.not_sent), (&[failed][..], &(20..30)));
            let applied = v1::RegionWriteResult { op_indexes: vec![10], ..applied };
            assert_eq!(report.regions, [applied]);
            assert_eq!(cluster.count("write"), 2);
        }
    }

    /// What a region that is busy said of these operations.
    fn busy(op_indexes: Vec<u32>) -> v1::RegionWriteResult {
        let detail = v1::ErrorDetail { retryable: true, retry_after_ms: 5, ..Default::default() };
        v1::RegionWriteResult {
            region_id: 7,
            op_indexes,
            error: "busy".into(),
            code: tonic::Code::ResourceExhausted as i32,
            detail: Some(detail),
            ..Default::default()
        }
    }

    fn applied(op_indexes: Vec<u32>) -> v1::RegionWriteResult {
        v1::RegionWriteResult { region_id: 6, op_indexes, ..Default::default() }
    }

    #[tokio::test]
    async fn part_that_a_region_refuses_for_a_moment_is_repeated_before_what_is_behind_it() {
        let cluster = FakeCluster::start(1).await;
        cluster.nodes[0].answer_writes(|nth| match nth {
            0 => vec![applied(vec![0, 2]), busy(vec![1, 3])],
            1 => vec![busy(vec![0, 1])],
            2 => vec![applied(vec![0, 1])],
            _ => Vec::new(),
        });
        let client = cluster.client(Duration::from_secs(20)).await;
        client.shared.bounds.fewer(
            &Error::InvalidArgument { field: "ops".into(), limit: 4, message: String::new() },
            5,
        );
        let ops = ["a", "y", "b", "z", "y"].map(|key| Op::put(key, format!("of {key}")));
        let report = client.write(ops).await.expect("the first was applied");
        assert!(report.is_complete() && !report.atomic, "{report:?}");
        assert_eq!(report.regions, [applied(vec![0, 2]), applied(vec![1, 3])]);
        assert_eq!(cluster.count("write"), 4, "one, twice again, and what is behind it");
        let revision = |key: &'static str| cluster.data.lock()[key.as_bytes()].1;
        // The fake stores what it is sent, whatever it says.
        assert_eq!(["a", "b", "z", "y"].map(revision), [1, 1, 3, 4], "only what was refused");
    }

    /// What a region said of these operations, which are too much for it at once.
    fn too_much(op_indexes: Vec<u32>) -> v1::RegionWriteResult {
        let reason =
            Reason::InvalidArgument(v1::InvalidArgument { field: "request".into(), limit: 9 });
        let detail = v1::ErrorDetail { reason: Some(reason), ..Default::default() };
        v1::RegionWriteResult {
            region_id: 7,
            op_indexes,
            error: "reads too much".into(),
            code: tonic::Code::InvalidArgument as i32,
            detail: Some(detail),
            ..Default::default()
        }
    }

    #[tokio::test]
    async fn part_that_is_too_much_for_its_region_is_cut_in_the_order_of_its_operations() {
        let cluster = FakeCluster::start(1).await;
        cluster.nodes[0].answer_writes(|nth| match nth {
            0 => vec![applied(vec![0]), too_much(vec![1, 2, 3, 4])],
            1 | 3 | 4 => vec![applied(vec![0])],
            2 => vec![too_much(vec![0, 1])],
            _ => vec![busy(vec![0])],
        });
        let client = cluster.client(Duration::from_secs(20)).await;
        let ops = ["a", "y", "y", "y", "y"].map(|key| Op::put(key, "v"));
        let report = client.write(ops).await.expect("the first was applied");
        assert!(report.is_complete() && !report.atomic, "{report:?}");
        let done: Vec<_> = report.regions.iter().map(|part| part.op_indexes.clone()).collect();
        // The fake says of two operations that one was applied.
        assert_eq!(done, [vec![0], vec![1], vec![3], vec![4]], "{report:?}");
        assert_eq!(cluster.count("write"), 5);

        // One that is too much by itself is told with its region and the limit, and so is what waited for it.
        let cluster = FakeCluster::start(1).await;
        cluster.nodes[0].answer_writes(|nth| match nth {
            0 => vec![applied(vec![0]), too_much(vec![1, 2])],
            _ => vec![too_much(vec![0])],
        });
        let client = cluster.client(Duration::from_secs(20)).await;
        let ops = ["a", "y", "z"].map(|key| Op::put(key, "v"));
        let report = client.write(ops).await.expect("the first was applied");
        let [refused, unsent] = &report.failed[..] else { panic!("{report:?}") };
        assert_eq!((refused.region_id, &refused.ops[..], &unsent.ops[..]), (7, &[1][..], &[2][..]));
        let is_told = matches!(&refused.error, Error::InvalidArgument { limit: 9, .. });
        assert!(is_told && !unsent.error.maybe_applied(), "{report:?}");
        assert_eq!((report.regions.len(), cluster.count("write")), (1, 2));
    }

    #[tokio::test]
    async fn region_that_refuses_until_the_time_is_over_is_told_with_all_attempts() {
        let cluster = FakeCluster::start(1).await;
        cluster.nodes[0].answer_writes(|nth| match nth {
            0 => vec![applied(vec![0]), busy(vec![1])],
            _ => vec![busy(vec![0])],
        });
        let timeout = Duration::from_millis(400);
        let client = cluster.client(timeout).await;
        let begun = Instant::now();
        let report = client.write([Op::put("a", "v"), Op::put("z", "v")]).await.expect("one was");
        assert!(begun.elapsed() < timeout * 4, "{:?}", begun.elapsed());
        let [failed] = &report.failed[..] else { panic!("{report:?}") };
        let Error::TimedOut { timeout: told, attempts, .. } = failed.error else {
            panic!("{report:?}")
        };
        assert_eq!((failed.region_id, &failed.ops[..], told), (7, &[1][..], timeout));
        assert!(attempts > 1 && attempts as usize == cluster.count("write"), "{attempts}");
    }

    /// A key that was stored after the range was removed there would be removed, too.
    #[tokio::test]
    async fn removal_of_a_range_is_not_repeated_where_a_region_has_done_it() {
        for other in [
            applied(vec![0]),
            v1::RegionWriteResult { maybe_applied: true, error: "cut".into(), ..applied(vec![0]) },
        ] {
            let cluster = FakeCluster::start(1).await;
            let answer = vec![busy(vec![0, 1]), other];
            cluster.nodes[0].answer_writes(move |_| answer.clone());
            let client = cluster.client(Duration::from_secs(20)).await;
            let ops = [Op::delete_range("a", "z"), Op::put("y", "v")];
            let report = client.write(ops).await.expect("told by regions");
            let error =
                Error::Refused { code: tonic::Code::ResourceExhausted, message: "busy".into() };
            let want = FailedWrite { region_id: 7, ops: vec![0, 1], error };
            assert_eq!(report.failed.last(), Some(&want), "{report:?}");
            assert_eq!(cluster.count("write"), 1);
        }
    }

    #[tokio::test]
    async fn a_server_that_takes_fewer_operations_and_keys_gets_fewer() {
        let cluster = FakeCluster::start(1).await;
        cluster.nodes[0].take_at_most(100);
        let client = cluster.client(Duration::from_secs(20)).await;
        let key = |number: usize| format!("k{number:05}");
        let ops = (0..1000).map(|number| Op::put(key(number), "v"));
        let answer = client.write(ops).await.expect("written");
        assert!(answer.is_complete(), "{answer:?}");
        assert_eq!((cluster.count("write"), cluster.data.lock().len()), (10, 1000));
        let found = client.batch_get((0..1000).map(key)).await.expect("read");
        assert_eq!((found.iter().flatten().count(), cluster.count("batch_get")), (1000, 10));
        cluster.nodes[0].take_at_most(30);
        let found = client.batch_get((0..1000).map(key)).await.expect("read");
        assert_eq!(found.iter().flatten().count(), 1000);
    }
}
