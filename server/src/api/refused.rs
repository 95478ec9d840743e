//! A command that apply refused, in the words of the request that it came from.

use flotilla_proto::v1::{
    WriteRefusal,
    write_refusal::{Kind, List},
};

use crate::error::Error;

/// How a request calls the entries of the command it became.
#[derive(Clone, Copy, Debug)]
pub(super) enum Entries<'a> {
    /// It has one, and its fields are the request's.
    One,
    /// `compare`, `success` and `failure`.
    Txn,
    /// `ops`, of which these are in the command.
    Ops(&'a [u32]),
}

impl Entries<'_> {
    /// The entry at fault, as in "success[3]"; empty where there is only one.
    fn entry(self, refusal: &WriteRefusal) -> String {
        let index = refusal.index;
        match (self, refusal.list()) {
            (Self::One, _) | (_, List::Unspecified) => String::new(),
            (Self::Txn, List::Compare) => format!("compare[{index}]"),
            (Self::Txn, List::Success) => format!("success[{index}]"),
            (Self::Txn, List::Failure) => format!("failure[{index}]"),
            (Self::Ops(indexes), _) => {
                let index = indexes.get(index as usize).copied().unwrap_or(index);
                format!("ops[{index}]")
            }
        }
    }

    fn field(self, refusal: &WriteRefusal, name: &str) -> String {
        match self.entry(refusal) {
            entry if entry.is_empty() => name.to_owned(),
            entry => format!("{entry}.{name}"),
        }
    }
}

/// The error of a write of which nothing was applied.
pub(super) fn error(refusal: WriteRefusal, entries: Entries<'_>) -> Error {
    let invalid = |field: String, refusal: WriteRefusal| Error::InvalidArgument {
        field,
        message: refusal.message,
        limit: refusal.limit,
    };
    match refusal.kind() {
        Kind::NotACounter | Kind::CounterOverflow => {
            let entry = entries.entry(&refusal);
            let message = refusal.message;
            Error::NotACounter {
                message: if entry.is_empty() { message } else { format!("{entry}: {message}") },
            }
        }
        Kind::ValueTooLarge => invalid(entries.field(&refusal, "value"), refusal),
        Kind::KeyOutOfRange => invalid(entries.field(&refusal, "key"), refusal),
        Kind::AnswerTooLarge => invalid("answer".to_owned(), refusal),
        Kind::EffectsTooLarge | Kind::ReadsTooLarge => invalid("request".to_owned(), refusal),
        Kind::NoCondition => invalid(entries.field(&refusal, "condition"), refusal),
        Kind::NoOperation => invalid(entries.field(&refusal, "op"), refusal),
        Kind::TwoTtls => invalid(entries.field(&refusal, "keep_ttl"), refusal),
        Kind::RangeUnresolved => invalid(entries.field(&refusal, "prefix"), refusal),
        // The router has checked the keys against the same epoch; and what a later version refuses
        // has no name here. Either way nothing was applied.
        Kind::KeyNotInRegion | Kind::Unspecified => {
            Error::FailedPrecondition { message: refusal.message }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_arrives_under_its_own_name_and_says_that_nothing_was_applied() {
        let at = |kind: Kind, list: List| WriteRefusal {
            kind: kind.into(),
            list: list.into(),
            index: 1,
            limit: 9,
            message: "why".to_owned(),
        };
        let invalid = |field: &str| {
            let (field, message) = (field.to_owned(), "why".to_owned());
            Error::InvalidArgument { field, message, limit: 9 }
        };
        let counter = |message: &str| Error::NotACounter { message: message.to_owned() };
        let precondition = Error::FailedPrecondition { message: "why".to_owned() };
        let ops = Entries::Ops(&[4, 7]);
        for (refusal, entries, want) in [
            (at(Kind::NotACounter, List::Success), Entries::One, counter("why")),
            (at(Kind::CounterOverflow, List::Failure), Entries::Txn, counter("failure[1]: why")),
            (at(Kind::ValueTooLarge, List::Success), Entries::One, invalid("value")),
            (at(Kind::ValueTooLarge, List::Success), Entries::Txn, invalid("success[1].value")),
            (at(Kind::ValueTooLarge, List::Success), ops, invalid("ops[7].value")),
            (at(Kind::KeyOutOfRange, List::Compare), Entries::Txn, invalid("compare[1].key")),
            (at(Kind::AnswerTooLarge, List::Success), Entries::Txn, invalid("answer")),
            (at(Kind::EffectsTooLarge, List::Success), ops, invalid("request")),
            (at(Kind::ReadsTooLarge, List::Compare), Entries::Txn, invalid("request")),
            (at(Kind::NoCondition, List::Compare), Entries::Txn, invalid("compare[1].condition")),
            (at(Kind::NoOperation, List::Success), ops, invalid("ops[7].op")),
            (at(Kind::TwoTtls, List::Success), Entries::One, invalid("keep_ttl")),
            (at(Kind::RangeUnresolved, List::Success), ops, invalid("ops[7].prefix")),
            (at(Kind::KeyNotInRegion, List::Success), ops, precondition.clone()),
            (WriteRefusal { kind: 99, ..at(Kind::Unspecified, List::Success) }, ops, precondition),
        ] {
            let kind = refusal.kind;
            let error = error(refusal, entries);
            assert_eq!(error, want, "kind {kind}");
            assert!(!error.maybe_applied(), "kind {kind}");
        }
    }
}
