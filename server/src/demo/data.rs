//! The records: every character of Unicode and its name.
//!
//! Real data that is there on any machine, because it is in this file's folder: 159 801 characters
//! of Unicode 17. Most names are written out in the Unicode Character Database. Those of ideographs and
//! Hangul syllables are given there as ranges, and by the rules of the standard (section 4.8), which
//! are applied here.

use std::{collections::HashMap, fmt::Write as _};

use anyhow::Context as _;
use bytes::Bytes;

/// See its first lines for what it is and where it is from.
const NAMES: &str = include_str!("unicode/names.txt");

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

/// All records: `unicode/2603` is `☃ SNOWMAN`.
pub(super) fn records() -> anyhow::Result<Vec<Record>> {
    let mut records = Vec::with_capacity(160_000);
    let mut first_of_range = HashMap::new();
    for line in NAMES.lines().filter(|line| !line.starts_with('#')) {
        let (code, name) = line.split_once(';').with_context(|| format!("no name: {line}"))?;
        let code = u32::from_str_radix(code, 16).with_context(|| format!("no code: {line}"))?;
        match name.strip_prefix('<').and_then(|name| name.strip_suffix('>')) {
            None => records.push(record(code, name)?),
            Some(marker) => match marker.rsplit_once(", ") {
                Some((range, "First")) => {
                    first_of_range.insert(range, code);
                }
                Some((range, "Last")) => {
                    let first = *first_of_range.get(range).with_context(|| format!("{line}"))?;
                    for code in first..=code {
                        records.push(record(code, &name_by_rule(range, code)?)?);
                    }
                }
                _ => anyhow::bail!("neither first nor last: {line}"),
            },
        }
    }
    Ok(records)
}

fn record(code: u32, name: &str) -> anyhow::Result<Record> {
    let character = char::from_u32(code).with_context(|| format!("{code:X} is no character"))?;
    Ok(Record::new(format!("{PREFIX}{code:04X}"), format!("{character} {name}")))
}

/// The name of a character that the database gives as a range only.
fn name_by_rule(range: &str, code: u32) -> anyhow::Result<String> {
    let stem = match range.split_whitespace().next() {
        Some("CJK") => "CJK UNIFIED IDEOGRAPH-",
        Some("Tangut") => "TANGUT IDEOGRAPH-",
        Some("Hangul") => return Ok(hangul_name(code)),
        _ => anyhow::bail!("no rule names the range {range}"),
    };
    let mut name = stem.to_owned();
    write!(name, "{code:04X}").expect("text takes what is written to it");
    Ok(name)
}

/// Names of the letters that a Hangul syllable is composed of (the standard's Jamo short names): one that
/// leads, a vowel, and perhaps one that trails.
const LEADING: [&str; 19] = [
    "G", "GG", "N", "D", "DD", "R", "M", "B", "BB", "S", "SS", "", "J", "JJ", "C", "K", "T", "P",
    "H",
];
const VOWELS: [&str; 21] = [
    "A", "AE", "YA", "YAE", "EO", "E", "YEO", "YE", "O", "WA", "WAE", "OE", "YO", "U", "WEO", "WE",
    "WI", "YU", "EU", "YI", "I",
];
const TRAILING: [&str; 28] = [
    "", "G", "GG", "GS", "N", "NJ", "NH", "D", "L", "LG", "LM", "LB", "LS", "LT", "LP", "LH", "M",
    "B", "BS", "S", "SS", "NG", "J", "C", "K", "T", "P", "H",
];
const FIRST_SYLLABLE: u32 = 0xAC00;

fn hangul_name(code: u32) -> String {
    let index = (code - FIRST_SYLLABLE) as usize;
    let leading = LEADING[index / (VOWELS.len() * TRAILING.len())];
    let vowel = VOWELS[index / TRAILING.len() % VOWELS.len()];
    let trailing = TRAILING[index % TRAILING.len()];
    format!("HANGUL SYLLABLE {leading}{vowel}{trailing}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_of_unicode_17_is_there_once() {
        let records = records().expect("the file is whole");
        // As the Unicode Consortium counts them: graphic and format characters.
        assert_eq!(records.len(), 159_801);
        let keys: std::collections::HashSet<_> = records.iter().map(|record| &record.key).collect();
        assert_eq!(keys.len(), records.len());
    }

    #[test]
    fn names_are_those_of_the_standard() {
        let records = records().expect("the file is whole");
        let found: HashMap<_, _> =
            records.into_iter().map(|record| (record.key, record.value)).collect();
        for (key, value) in [
            ("unicode/0041", "A LATIN CAPITAL LETTER A"),
            ("unicode/2603", "☃ SNOWMAN"),
            ("unicode/3400", "㐀 CJK UNIFIED IDEOGRAPH-3400"),
            ("unicode/6F22", "漢 CJK UNIFIED IDEOGRAPH-6F22"),
            ("unicode/AC00", "가 HANGUL SYLLABLE GA"),
            ("unicode/D55C", "한 HANGUL SYLLABLE HAN"),
            ("unicode/D4DB", "퓛 HANGUL SYLLABLE PWILH"),
            ("unicode/C560", "애 HANGUL SYLLABLE AE"),
            ("unicode/D7A3", "힣 HANGUL SYLLABLE HIH"),
            ("unicode/17000", "\u{17000} TANGUT IDEOGRAPH-17000"),
            ("unicode/1F980", "🦀 CRAB"),
        ] {
            let got = found.get(key.as_bytes()).map(|value| String::from_utf8_lossy(value));
            assert_eq!(got.as_deref(), Some(value), "{key}");
        }
        assert!(!found.contains_key(&b"unicode/000A"[..]), "control characters have no name");
    }
}
