//! The lines of an exported file, one JSON object each.
//!
//! The first line says what the file is, then comes a line for each key, and the last one says how many
//! there were: a file that was cut off has no last line, so that nobody takes a part for the whole.
//! Keys and values are base64, whatever is in them, and their fields are named for that: `key_base64`,
//! `value_base64`. `GET /kv` of the HTTP API writes the same lines, with `text=true` also `key` and `value`,
//! which are text. So a listing, or what a program of one's own writes, is read as what it is. It needs no
//! first line, but a last one.
//!
//! In form 1, before that, `key` and `value` were base64, in exports as in listings. No release wrote it, and it
//! is refused by its first line. A listing has none, and a word of four letters is base64 too: where no first
//! line says that the file is of form 2, `key` and `value` are taken for text only when the caller says so.

use std::{
    borrow::Cow,
    io::{BufRead, Read as _},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::exit::Failure;

/// The form of file that this program writes, and the only one it reads.
const VERSION: u32 = 2;
/// Bound: longer lines are refused. Room for a value of 24 MiB, three times the server's usual limit.
const LINE_BYTES_MAX: u64 = 32 << 20;

/// What the file holds, as its first line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Head {
    flotilla_export: u32,
    /// The cluster it is from.
    pub(super) cluster_id: String,
    /// When it was begun, by the clock of who asked.
    pub(super) unix_ms: u64,
    /// The one keyspace in it; absent when all are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) keyspace: Option<u32>,
    /// From this key of the keyspace on, as base64.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    start: String,
    /// Up to this key of the keyspace, exclusive; empty is no end.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    end: String,
}

impl Head {
    pub(super) fn new(
        cluster_id: String,
        unix_ms: u64,
        keyspace: Option<u32>,
        (start, end): (&[u8], &[u8]),
    ) -> Self {
        let (start, end) = (BASE64_STANDARD.encode(start), BASE64_STANDARD.encode(end));
        Self { flotilla_export: VERSION, cluster_id, unix_ms, keyspace, start, end }
    }

    /// The range of keys, within the keyspace.
    pub(super) fn range(&self) -> Result<(Vec<u8>, Vec<u8>), String> {
        let decode = |text| BASE64_STANDARD.decode(text).map_err(|error| error.to_string());
        Ok((decode(&self.start)?, decode(&self.end)?))
    }
}

/// One key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Absent in files that others made.
    pub(super) keyspace: Option<u32>,
    pub(super) key: Bytes,
    pub(super) value: Bytes,
    /// What was left of its time to live; 0 is over.
    pub(super) ttl_ms: Option<u64>,
}

/// A line of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    Head(Head),
    Entry(Entry),
    /// How many keys came before it.
    End(u64),
}

/// A line of keys, as written. The name of a field says how it is written.
#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Record<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    keyspace: Option<u32>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    key: Option<Cow<'a, str>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    key_base64: Option<Cow<'a, str>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    value: Option<Cow<'a, str>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    value_base64: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_ms: Option<u64>,
    /// The HTTP API tells it; it cannot be put back.
    #[serde(skip_serializing)]
    revision: Option<u64>,
}

/// Instead of the last line, where a listing broke off.
#[derive(Deserialize)]
struct Broken {
    error: Why,
}

#[derive(Deserialize)]
struct Why {
    message: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct End {
    end: Count,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Count {
    keys: u64,
}

impl Line {
    /// Reads a line, or says what is wrong with it. `reads_text`: it is known that `key` and `value` are text.
    pub(super) fn parse(text: &[u8], reads_text: bool) -> Result<Self, String> {
        let said = |error: serde_json::Error| error.to_string();
        // By their beginnings, since to try all forms would parse large values three times.
        let starts_with = |name: &str| {
            let text = text.trim_ascii_start().strip_prefix(b"{").map(<[u8]>::trim_ascii_start);
            text.is_some_and(|text| text.starts_with(name.as_bytes()))
        };
        if text.trim_ascii().is_empty() {
            return Err("is blank".into());
        }
        if starts_with("\"flotilla_export\"") {
            let head: Head = serde_json::from_slice(text).map_err(said)?;
            if head.flotilla_export != VERSION {
                let found = head.flotilla_export;
                return Err(format!(
                    "is of form {found}, this program reads form {VERSION}: export it anew"
                ));
            }
            return Ok(Self::Head(head));
        }
        if starts_with("\"end\"") {
            let End { end } = serde_json::from_slice(text).map_err(said)?;
            return Ok(Self::End(end.keys));
        }
        if starts_with("\"error\"") {
            let Broken { error } = serde_json::from_slice(text).map_err(said)?;
            return Err(format!("the listing broke off here: {}", error.message));
        }
        let record: Record<'_> = serde_json::from_slice(text).map_err(said)?;
        let bare = [("key", record.key.is_some()), ("value", record.value.is_some())];
        if let Some((name, _)) = bare.iter().find(|(_, is_there)| *is_there && !reads_text) {
            return Err(format!(
                "has {name}, which is base64 or text by the version that wrote it, and the file has no first line \
                 that says which: --text takes it as text, as GET /kv?text=true writes it"
            ));
        }
        let part = |name: &str, text: Option<Cow<'_, str>>, base64: Option<Cow<'_, str>>| match (
            text, base64,
        ) {
            (Some(text), None) => Ok(Bytes::copy_from_slice(text.as_bytes())),
            (None, Some(base64)) => match BASE64_STANDARD.decode(&*base64) {
                Ok(bytes) => Ok(Bytes::from(bytes)),
                Err(error) => Err(format!("{name}_base64: not base64: {error}")),
            },
            (Some(_), Some(_)) => Err(format!("has both {name} and {name}_base64")),
            (None, None) => Err(format!("has neither {name} nor {name}_base64")),
        };
        Ok(Self::Entry(Entry {
            keyspace: record.keyspace,
            key: part("key", record.key, record.key_base64)?,
            value: part("value", record.value, record.value_base64)?,
            ttl_ms: record.ttl_ms,
        }))
    }

    /// The line as text, with its end.
    pub(super) fn text(&self) -> Result<Vec<u8>, Failure> {
        let mut text = match self {
            Self::Head(head) => serde_json::to_vec(head)?,
            Self::Entry(entry) => serde_json::to_vec(&Record {
                keyspace: entry.keyspace,
                key_base64: Some(BASE64_STANDARD.encode(&entry.key).into()),
                value_base64: Some(BASE64_STANDARD.encode(&entry.value).into()),
                ttl_ms: entry.ttl_ms,
                ..Record::default()
            })?,
            Self::End(keys) => serde_json::to_vec(&End { end: Count { keys: *keys } })?,
        };
        text.push(b'\n');
        Ok(text)
    }
}

/// The lines of an input, one at a time.
pub(super) struct Lines<R> {
    input: R,
    text: Vec<u8>,
    /// Of the line that was read last, from 1 on.
    pub(super) number: u64,
    /// Bytes of the lines before it, and with it.
    pub(super) span: (u64, u64),
    /// Of all bytes up to the end of that line.
    pub(super) crc32c: u32,
}

impl<R: BufRead> Lines<R> {
    /// Goes on behind so many lines of so many bytes, where the input stands now.
    pub(super) fn after(input: R, lines: u64, bytes: u64) -> Self {
        Self { input, text: Vec::new(), number: lines, span: (bytes, bytes), crc32c: 0 }
    }

    /// The text of the next line, with its end if it has one; `None` at the end of the input.
    pub(super) fn next(&mut self) -> Result<Option<&[u8]>, Failure> {
        self.text.clear();
        let read =
            self.input.by_ref().take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut self.text)?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        self.span = (self.span.1, self.span.1 + read as u64);
        self.crc32c = crc32c::crc32c_append(self.crc32c, &self.text);
        if read as u64 > LINE_BYTES_MAX {
            let message = format!("line {}: is longer than {LINE_BYTES_MAX} bytes", self.number);
            return Err(Failure::Failed(message));
        }
        Ok(Some(&self.text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(keyspace: Option<u32>, key: &[u8], value: &[u8], ttl_ms: Option<u64>) -> Line {
        let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        Line::Entry(Entry { keyspace, key, value, ttl_ms })
    }

    #[test]
    fn every_byte_survives_as_text() {
        let all: Vec<u8> = (0..=255).collect();
        let head = Head::new("c1".into(), 7, Some(2), (b"\xff\n", b""));
        for line in [
            entry(Some(9), &all, &all, Some(1)),
            entry(None, b"k", b"", None),
            Line::Head(head),
            Line::End(3),
        ] {
            let text = line.text().expect("written");
            assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), 1, "{text:?}");
            assert_eq!(Line::parse(&text, false), Ok(line));
        }
    }

    #[test]
    fn listing_of_the_http_api_is_read() {
        let base64 = br#"{"key_base64":"aw==","value_base64":"dg==","revision":7,"ttl_ms":90}"#;
        assert_eq!(Line::parse(base64, false), Ok(entry(None, b"k", b"v", Some(90))));
        // A word of four letters is base64 too, so only the name can tell.
        let text = br#"{"key":"abcd","value":"line\n","revision":7}"#;
        assert_eq!(Line::parse(text, true), Ok(entry(None, b"abcd", b"line\n", None)));
        let mixed = br#"{"key":"abcd","value_base64":"/g==","revision":7}"#;
        assert_eq!(Line::parse(mixed, true), Ok(entry(None, b"abcd", b"\xfe", None)));
        assert_eq!(Line::parse(br#"{"end":{"keys":3}}"#, false), Ok(Line::End(3)));
        for line in [&text[..], mixed] {
            let said = Line::parse(line, false).expect_err("of a version before it is base64");
            assert!(said.contains("has key") && said.contains("--text"), "{said}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_line_is_said() {
        for (why, text, want) in [
            ("not JSON", "key value", "expected value"),
            ("blank", "  \n", "blank"),
            ("cut off", r#"{"key_base64":"aw==","val"#, "EOF"),
            ("misspelt", r#"{"key_base64":"aw==","value":"","tll_ms":1}"#, "tll_ms"),
            ("of keys only", r#"{"key_base64":"aw=="}"#, "has neither value nor value_base64"),
            ("no key", r#"{"value":""}"#, "has neither key nor key_base64"),
            (
                "two keys",
                r#"{"key":"k","key_base64":"aw==","value":""}"#,
                "both key and key_base64",
            ),
            ("not base64", r#"{"key_base64":"k","value":""}"#, "key_base64: not base64"),
            (
                "the end of a listing",
                r#"{"error":{"code":"X","message":"bad block"}}"#,
                "bad block",
            ),
            ("of the future", r#"{"flotilla_export":3,"cluster_id":"","unix_ms":1}"#, "form 3"),
            ("of the past", r#"{"flotilla_export":1,"cluster_id":"","unix_ms":1}"#, "form 1"),
        ] {
            let said = Line::parse(text.as_bytes(), true).expect_err(why);
            assert!(said.contains(want), "{why}: {said}");
        }
    }

    #[test]
    fn a_line_without_end_is_bounded() {
        let endless = std::io::BufReader::new(std::io::repeat(b'x'));
        let mut lines = Lines::after(endless, 0, 0);
        assert!(matches!(lines.next(), Err(Failure::Failed(_))));
    }
}
