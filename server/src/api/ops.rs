//! Comparisons and operations of a transaction: checked, and moved into their keyspace.

use bytes::Bytes;
use flotilla_proto::{
    range::KeyRange,
    v1::{self, compare::Condition, op::Op, op_result::Result as Outcome},
};

use super::{
    context::{Keyspace, user_key},
    limits::Limits,
};
use crate::error::Error;

/// Whether a list of operations may hold a `get`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gets {
    Allowed,
    Refused,
}

/// Checks comparisons and encodes their keys. Answers the bytes of their keys and values.
pub(super) fn encode_compares(
    limits: &Limits,
    keyspace: Keyspace,
    compares: &mut [v1::Compare],
) -> Result<usize, Error> {
    let mut bytes = 0;
    for (index, compare) in compares.iter_mut().enumerate() {
        limits.check_key(format_args!("compare[{index}].key"), &compare.key)?;
        bytes += compare.key.len();
        match &compare.condition {
            Some(Condition::ValueEquals(value)) => {
                limits.check_value(format_args!("compare[{index}].value_equals"), value)?;
                bytes += value.len();
            }
            Some(
                Condition::Absent(true) | Condition::Present(true) | Condition::RevisionEquals(_),
            ) => {}
            Some(Condition::Absent(false) | Condition::Present(false)) => {
                let message = "must be true; ask for the opposite by the other condition";
                return Err(Error::invalid(format!("compare[{index}].condition"), message));
            }
            None => {
                return Err(Error::invalid(format!("compare[{index}].condition"), "must be set"));
            }
        }
        compare.key = keyspace.encode(&compare.key);
    }
    Ok(bytes)
}

/// Checks operations and encodes their keys. Answers the bytes of their keys and values.
pub(super) fn encode_ops(
    limits: &Limits,
    keyspace: Keyspace,
    list: &str,
    gets: Gets,
    ops: &mut [v1::Op],
) -> Result<usize, Error> {
    let mut bytes = 0;
    for (index, op) in ops.iter_mut().enumerate() {
        let key_field = format_args!("{list}[{index}].key");
        let key = match &mut op.op {
            Some(Op::Put(put)) => {
                limits.check_value(format_args!("{list}[{index}].value"), &put.value)?;
                check_ttl(format_args!("{list}[{index}]."), put.ttl_ms, put.keep_ttl)?;
                bytes += put.value.len();
                &mut put.key
            }
            Some(Op::Append(append)) => {
                limits.check_value(format_args!("{list}[{index}].value"), &append.value)?;
                bytes += append.value.len();
                &mut append.key
            }
            Some(Op::Delete(delete)) => &mut delete.key,
            Some(Op::Add(add)) => &mut add.key,
            Some(Op::Get(get)) if gets == Gets::Allowed => &mut get.key,
            Some(Op::Get(_)) => {
                let message = "get is for transactions, a write takes mutations only";
                return Err(Error::invalid(format!("{list}[{index}]"), message));
            }
            Some(Op::DeleteRange(range)) => {
                let v1::DeleteRangeOp { start_key, end_key, all, prefix } = std::mem::take(range);
                let parent = format_args!("{list}[{index}].");
                bytes += start_key.len() + end_key.len() + prefix.len();
                let asked = Deleted { start_key, end_key, all, prefix };
                let encoded = asked.resolve(limits, keyspace, parent)?;
                if encoded.is_empty() {
                    let field = format!("{list}[{index}].end_key");
                    return Err(Error::invalid(field, "must come after start_key"));
                }
                (range.start_key, range.end_key) = (encoded.start, encoded.end);
                continue;
            }
            None => return Err(Error::invalid(format!("{list}[{index}]"), "must be set")),
        };
        limits.check_key(key_field, key)?;
        bytes += key.len();
        *key = keyspace.encode(key);
    }
    Ok(bytes)
}

/// What a deletion of a range names.
pub(super) struct Deleted {
    pub(super) start_key: Bytes,
    pub(super) end_key: Bytes,
    pub(super) all: bool,
    pub(super) prefix: Bytes,
}

impl Deleted {
    /// The encoded range, which may be empty.
    ///
    /// # Errors
    /// `InvalidArgument` for a key past its limit, ends that are the wrong way round, and anything but
    /// exactly one of range, prefix and all: a request that lost its fields must not delete
    /// everything.
    pub(super) fn resolve(
        &self,
        limits: &Limits,
        keyspace: Keyspace,
        parent: impl std::fmt::Display,
    ) -> Result<KeyRange, Error> {
        let Self { start_key, end_key, all, prefix } = self;
        let bounded = !start_key.is_empty() || !end_key.is_empty();
        let refused = |field: &str, why: &str| Err(Error::invalid(format!("{parent}{field}"), why));
        match (bounded, !prefix.is_empty(), *all) {
            (true, false, false) => {
                limits.check_bound(format_args!("{parent}start_key"), start_key)?;
                limits.check_bound(format_args!("{parent}end_key"), end_key)?;
                if !end_key.is_empty() && start_key > end_key {
                    return refused("end_key", "must not come before start_key");
                }
                Ok(keyspace.range(start_key, end_key))
            }
            (false, true, false) => {
                limits.check_bound(format_args!("{parent}prefix"), prefix)?;
                Ok(keyspace.prefix(prefix))
            }
            (false, false, true) => Ok(keyspace.range(b"", b"")),
            (false, false, false) => {
                refused("all", "must be true where neither a range nor a prefix is named")
            }
            (_, _, true) => refused("all", "excludes start_key, end_key and prefix"),
            (true, true, false) => refused("prefix", "excludes start_key and end_key"),
        }
    }
}

/// A time to live is given or kept, not both.
pub(super) fn check_ttl(
    parent: impl std::fmt::Display,
    ttl_ms: u64,
    keep_ttl: bool,
) -> Result<(), Error> {
    if keep_ttl && ttl_ms != 0 {
        return Err(Error::invalid(format!("{parent}keep_ttl"), "excludes ttl_ms"));
    }
    Ok(())
}

/// Gives the values in results their users' keys back.
pub(super) fn decode_results(results: &mut [v1::OpResult]) -> Result<(), Error> {
    for result in results {
        let kv = match &mut result.result {
            Some(Outcome::Put(put)) => &mut put.previous,
            Some(Outcome::Delete(delete) | Outcome::DeleteRange(delete)) => &mut delete.previous,
            Some(Outcome::Get(get)) => &mut get.kv,
            Some(Outcome::Add(_) | Outcome::Append(_)) | None => continue,
        };
        if let Some(kv) = kv {
            kv.key = user_key(&kv.key)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits { key_bytes_max: 4, value_bytes_max: 4, ..Limits::default() }
    }

    fn put(key: &'static str, value: &'static str) -> Op {
        Op::Put(v1::PutOp { key: key.into(), value: value.into(), ..v1::PutOp::default() })
    }

    fn range(start: &'static str, end: &'static str) -> Op {
        Op::DeleteRange(v1::DeleteRangeOp {
            start_key: start.into(),
            end_key: end.into(),
            ..v1::DeleteRangeOp::default()
        })
    }

    fn deleted(start: &'static str, end: &'static str, all: bool, prefix: &'static str) -> Op {
        let (start_key, end_key, prefix) = (start.into(), end.into(), prefix.into());
        Op::DeleteRange(v1::DeleteRangeOp { start_key, end_key, all, prefix })
    }

    fn refused_field<T: std::fmt::Debug>(result: Result<T, Error>) -> Option<String> {
        match result {
            Ok(_) => None,
            Err(Error::InvalidArgument { field, .. }) => Some(field),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn refused_operations_name_the_field_at_fault() {
        let append = |key: &'static str, value: &'static str| {
            Op::Append(v1::AppendOp { key: key.into(), value: value.into() })
        };
        let get = |key: &'static str| Op::Get(v1::GetOp { key: key.into() });
        let both_ttls =
            v1::PutOp { key: "k".into(), ttl_ms: 1, keep_ttl: true, ..v1::PutOp::default() };
        let delete = Op::Delete(v1::DeleteOp::default());
        let add = v1::AddOp { key: "longer".into(), delta: 1 };
        for (why, op, field) in [
            ("fine", Some(put("k", "v")), None),
            ("empty value is fine", Some(put("k", "")), None),
            ("nothing", None, Some("ops[1]")),
            ("empty key", Some(put("", "v")), Some("ops[1].key")),
            ("long key", Some(Op::Add(add)), Some("ops[1].key")),
            ("long value", Some(put("k", "vvvvv")), Some("ops[1].value")),
            ("long appendix", Some(append("k", "vvvvv")), Some("ops[1].value")),
            ("two times to live", Some(Op::Put(both_ttls)), Some("ops[1].keep_ttl")),
            ("delete of no key", Some(delete), Some("ops[1].key")),
            ("a range that says nothing", Some(range("", "")), Some("ops[1].all")),
            ("to the end", Some(range("a", "")), None),
            ("from the start", Some(range("", "a")), None),
            ("whole keyspace", Some(deleted("", "", true, "")), None),
            ("prefix", Some(deleted("", "", false, "p")), None),
            ("long prefix", Some(deleted("", "", false, "prefix")), Some("ops[1].prefix")),
            ("prefix and all", Some(deleted("", "", true, "p")), Some("ops[1].all")),
            ("range and all", Some(deleted("a", "", true, "")), Some("ops[1].all")),
            ("range and prefix", Some(deleted("", "b", false, "p")), Some("ops[1].prefix")),
            ("empty range", Some(range("b", "b")), Some("ops[1].end_key")),
            ("range backwards", Some(range("b", "a")), Some("ops[1].end_key")),
            ("get", Some(get("k")), Some("ops[1]")),
        ] {
            let mut ops = [v1::Op { op: Some(put("k", "v")) }, v1::Op { op }];
            let result = encode_ops(&limits(), Keyspace::DEFAULT, "ops", Gets::Refused, &mut ops);
            assert_eq!(refused_field(result).as_deref(), field, "{why}");
        }
    }

    #[test]
    fn operations_are_moved_into_their_keyspace() {
        let mut ops = [
            v1::Op { op: Some(put("k", "value")) },
            v1::Op { op: Some(range("a", "")) },
            v1::Op { op: Some(deleted("", "", true, "")) },
            v1::Op { op: Some(deleted("", "", false, "p")) },
            v1::Op { op: Some(Op::Get(v1::GetOp { key: "g".into() })) },
        ];
        let bytes =
            encode_ops(&Limits::default(), Keyspace::DEFAULT, "success", Gets::Allowed, &mut ops);
        assert_eq!(bytes, Ok(9));
        let keys: Vec<Bytes> = ops
            .into_iter()
            .flat_map(|op| match op.op {
                Some(Op::Put(op)) => vec![op.key],
                Some(Op::DeleteRange(op)) => {
                    assert!(!op.all && op.prefix.is_empty(), "resolved: {op:?}");
                    vec![op.start_key, op.end_key]
                }
                Some(Op::Get(op)) => vec![op.key],
                other => panic!("{other:?}"),
            })
            .collect();
        let want = ["k", "a", "", "p", "q", "g"];
        let want =
            want.map(|key| if key.is_empty() { "".into() } else { format!("\0\0\x01{key}") });
        let [put, to_the_end, _, prefix, prefix_end, get] = want;
        let (start, end) = ("\0\0\x01".to_owned(), "\0\0\x02".to_owned());
        let want = [put, to_the_end, end.clone(), start, end, prefix, prefix_end, get];
        assert_eq!(keys, want);
    }

    #[test]
    fn comparisons_without_a_meaning_are_refused() {
        for (why, condition, field) in [
            ("none", None, Some("compare[0].condition")),
            ("not absent", Some(Condition::Absent(false)), Some("compare[0].condition")),
            ("not present", Some(Condition::Present(false)), Some("compare[0].condition")),
            ("absent", Some(Condition::Absent(true)), None),
            ("present", Some(Condition::Present(true)), None),
            ("revision", Some(Condition::RevisionEquals(0)), None),
            ("empty value", Some(Condition::ValueEquals(Bytes::new())), None),
            (
                "long value",
                Some(Condition::ValueEquals("vvvvv".into())),
                Some("compare[0].value_equals"),
            ),
        ] {
            let mut compares = [v1::Compare { key: "k".into(), condition }];
            let result = encode_compares(&limits(), Keyspace::DEFAULT, &mut compares);
            assert_eq!(refused_field(result).as_deref(), field, "{why}");
            if field.is_none() {
                assert_eq!(compares[0].key, "\0\0\x01k", "{why}");
            }
        }
        let mut nameless =
            [v1::Compare { condition: Some(Condition::Absent(true)), ..v1::Compare::default() }];
        let result = encode_compares(&limits(), Keyspace::DEFAULT, &mut nameless);
        assert_eq!(refused_field(result).as_deref(), Some("compare[0].key"));
    }
}
