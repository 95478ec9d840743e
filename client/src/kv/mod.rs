//! The calls on keys, one file for each shape.

mod point;
mod scan;
mod swap;
mod txn;

use std::time::Duration;

pub use point::PutOptions;
pub use scan::{KeyspacesStream, Scan, ScanStream};
pub use swap::Expected;
pub use txn::{Compare, FailedWrite, Op, Txn, WriteReport};

use crate::Error;

/// Milliseconds of a time to live; 0, which means never, only for `None`.
fn ttl_millis(ttl: Option<Duration>) -> Result<u64, Error> {
    let Some(ttl) = ttl else { return Ok(0) };
    match u64::try_from(ttl.as_millis()) {
        Ok(0) => Err(Error::invalid("ttl", "must be at least 1 ms")),
        Ok(millis) => Ok(millis),
        Err(_) => Err(Error::invalid("ttl", "too long")),
    }
}

/// A text that names an entry of a list at its beginning, as in `ops[6].put.key: ...`, by another number.
fn renumbered(text: String, list: &str, number: impl Fn(usize) -> usize) -> String {
    let rest = text.strip_prefix(list).and_then(|rest| rest.strip_prefix('['));
    let found = rest.and_then(|rest| rest.split_once(']'));
    match found.and_then(|(digits, rest)| Some((digits.parse().ok()?, rest))) {
        Some((index, rest)) => format!("{list}[{}]{rest}", number(index)),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_named_by_the_numbers_of_the_caller() {
        for (text, want) in [
            ("ops[6].put.key: too long", "ops[1030].put.key: too long"),
            ("ops[6]", "ops[1030]"),
            ("request", "request"),
            ("ops[x]", "ops[x]"),
            ("keys[6]", "keys[6]"),
            ("key ops[6]", "key ops[6]"),
        ] {
            assert_eq!(renumbered(text.to_owned(), "ops", |index| index + 1024), want);
        }
    }

    #[test]
    fn a_ttl_too_short_to_tell_is_not_taken_for_never() {
        assert_eq!(ttl_millis(None), Ok(0));
        assert_eq!(ttl_millis(Some(Duration::from_secs(2))), Ok(2000));
        assert!(ttl_millis(Some(Duration::ZERO)).is_err());
        assert!(ttl_millis(Some(Duration::from_micros(10))).is_err());
        assert!(ttl_millis(Some(Duration::MAX)).is_err());
    }
}
