//! Which keys a request touches: the one list of it.

use bytes::Bytes;

use crate::{
    range::{Borders, KeyRange},
    v1::{Op, ReadCommand, WriteCommand, op::Op as Kind, read_command::Body},
};

/// A part of what a request touches, in encoded keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touched<'a> {
    /// One.
    Key(&'a Bytes),
    /// `[start, end)`; an empty `end` means to the end of the map.
    Range {
        /// The first key, if it is one.
        start: &'a Bytes,
        /// The first key behind it.
        end: &'a Bytes,
    },
}

impl Touched<'_> {
    /// The first key.
    #[must_use]
    pub fn start(&self) -> &Bytes {
        match self {
            Self::Key(key) => key,
            Self::Range { start, .. } => start,
        }
    }

    /// As a range.
    #[must_use]
    pub fn range(&self) -> KeyRange {
        match self {
            Self::Key(key) => KeyRange::new((*key).clone(), [key, &[0][..]].concat()),
            Self::Range { start, end } => KeyRange::new((*start).clone(), (*end).clone()),
        }
    }

    /// Whether all of it is in `range`.
    #[must_use]
    pub fn lies_in(&self, range: &KeyRange) -> bool {
        match self {
            Self::Key(key) => range.contains(key),
            Self::Range { start, end } => range.borders().covers(Borders { start, end }),
        }
    }
}

/// What an operation touches; `None` for one of no kind.
#[must_use]
pub fn of_op(op: &Op) -> Option<Touched<'_>> {
    Some(match op.op.as_ref()? {
        Kind::Put(op) => Touched::Key(&op.key),
        Kind::Delete(op) => Touched::Key(&op.key),
        Kind::DeleteRange(op) => Touched::Range { start: &op.start_key, end: &op.end_key },
        Kind::Add(op) => Touched::Key(&op.key),
        Kind::Append(op) => Touched::Key(&op.key),
        Kind::Get(op) => Touched::Key(&op.key),
    })
}

/// What a command touches: comparisons first, then both branches.
pub fn of_write(write: &WriteCommand) -> impl Iterator<Item = Touched<'_>> {
    let compared = write.compare.iter().map(|compare| Touched::Key(&compare.key));
    compared.chain(write.success.iter().chain(&write.failure).filter_map(of_op))
}

/// What a read touches.
pub fn of_read(read: &ReadCommand) -> impl Iterator<Item = Touched<'_>> {
    let (mut points, mut range, mut txn) = (None, None, None);
    match &read.body {
        Some(Body::Points(body)) => points = Some(body.keys.iter().map(Touched::Key)),
        Some(Body::Range(body)) => {
            range = Some(Touched::Range { start: &body.start_key, end: &body.end_key });
        }
        Some(Body::Txn(body)) => txn = Some(of_write(body)),
        None => {}
    }
    points.into_iter().flatten().chain(range).chain(txn.into_iter().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{
        AddOp, AppendOp, Compare, DeleteOp, DeleteRangeOp, GetOp, PointReads, PutOp, RangeRead,
    };

    fn op(op: Kind) -> Op {
        Op { op: Some(op) }
    }

    #[test]
    fn everything_that_a_request_touches_is_named() {
        let write = WriteCommand {
            compare: vec![Compare { key: "a".into(), ..Compare::default() }],
            success: vec![
                op(Kind::Put(PutOp { key: "b".into(), ..PutOp::default() })),
                op(Kind::Delete(DeleteOp { key: "c".into(), ..DeleteOp::default() })),
                op(Kind::DeleteRange(DeleteRangeOp {
                    start_key: "d".into(),
                    end_key: "e".into(),
                    ..DeleteRangeOp::default()
                })),
                op(Kind::Add(AddOp { key: "f".into(), ..AddOp::default() })),
            ],
            failure: vec![
                op(Kind::Append(AppendOp { key: "g".into(), ..AppendOp::default() })),
                op(Kind::Get(GetOp { key: "h".into() })),
                Op { op: None },
            ],
            ..WriteCommand::default()
        };
        let text = |touched: Touched<'_>| match touched {
            Touched::Key(key) => String::from_utf8_lossy(key).into_owned(),
            Touched::Range { start, end } => {
                format!("{}-{}", String::from_utf8_lossy(start), String::from_utf8_lossy(end))
            }
        };
        let all = ["a", "b", "c", "d-e", "f", "g", "h"];
        assert_eq!(of_write(&write).map(text).collect::<Vec<_>>(), all);
        let read = |body| ReadCommand { body: Some(body), ..ReadCommand::default() };
        let range =
            RangeRead { start_key: "a".into(), end_key: "c".into(), ..RangeRead::default() };
        for (body, want) in [
            (Body::Points(PointReads { keys: vec!["x".into(), "y".into()] }), &["x", "y"][..]),
            (Body::Range(range), &["a-c"]),
            (Body::Txn(write), &all),
        ] {
            assert_eq!(of_read(&read(body)).map(text).collect::<Vec<_>>(), want);
        }
        assert_eq!(of_read(&ReadCommand::default()).count(), 0);
    }

    #[test]
    fn a_range_lies_in_another_with_both_of_its_ends() {
        let bytes = |text: &'static str| Bytes::from(text);
        for (why, start, end, within, want) in [
            ("the same", "b", "d", ("b", "d"), true),
            ("inside", "b", "c", ("a", "d"), true),
            ("begins before", "a", "c", ("b", "d"), false),
            ("ends after", "b", "e", ("b", "d"), false),
            ("has no end", "b", "", ("b", "d"), false),
            ("neither has an end", "b", "", ("a", ""), true),
            ("only the outer has none", "b", "z", ("a", ""), true),
        ] {
            let (start, end) = (bytes(start), bytes(end));
            let within = KeyRange::new(within.0, within.1);
            assert_eq!(Touched::Range { start: &start, end: &end }.lies_in(&within), want, "{why}");
        }
        let key = bytes("d");
        assert!(!Touched::Key(&key).lies_in(&KeyRange::new("b", "d")));
        assert!(Touched::Key(&key).lies_in(&Touched::Key(&key).range()));
    }
}
