//! The records: every character that has a name in Unicode, and its name.
//!
//! Real data that is there on any machine, because a library brings it along (from the Unicode Character
//! Database). Some names are long, some are not in English letters, and most keys share a beginning.

use bytes::Bytes;

/// What the keys begin with.
pub(super) const PREFIX: &str = "unicode/";

/// A key and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) key: Bytes,
    pub(super) value: Bytes,
}

impl Record {
    pub(super) fn new(key: String, value: String) -> Self {
        Self { key: key.into(), value: value.into() }
    }
}

/// All records, the same on every machine: `unicode/2603` is `☃ SNOWMAN`.
pub(super) fn records() -> Vec<Record> {
    ('\0'..=char::MAX)
        .filter_map(|character| {
            let name = unicode_names2::name(character)?;
            let key = format!("{PREFIX}{:04X}", u32::from(character));
            Some(Record::new(key, format!("{character} {name}")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn at_least_100_000_real_records_have_each_its_own_key() {
        let records = records();
        assert!(records.len() > 150_000, "{}", records.len());
        let found: HashMap<_, _> =
            records.iter().map(|record| (&record.key[..], &record.value[..])).collect();
        assert_eq!(found.len(), records.len());
        for (key, value) in [
            ("unicode/0041", "A LATIN CAPITAL LETTER A"),
            ("unicode/2603", "☃ SNOWMAN"),
            ("unicode/6F22", "漢 CJK UNIFIED IDEOGRAPH-6F22"),
            ("unicode/D55C", "한 HANGUL SYLLABLE HAN"),
            ("unicode/1F980", "🦀 CRAB"),
        ] {
            assert_eq!(found.get(key.as_bytes()), Some(&value.as_bytes()), "{key}");
        }
    }
}
