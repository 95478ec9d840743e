//! Keys as lines of JSON, in pieces.
//!
//! As JSON a value takes up to six times what it has, so a page is never written as a whole: each piece is
//! written when the one before it has been taken.

use std::collections::VecDeque;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use flotilla_proto::v1;

/// Bound: a piece, which ends where the next part of a line might not fit.
const PIECE_BYTES: usize = 32 << 10;
/// A piece with less room than this is full: what is never cut, as names of fields and numbers, fits into it.
const ROOM_MIN: usize = 128;

/// How lines are written.
#[derive(Clone, Copy)]
pub(super) struct Format {
    pub(super) text: bool,
    pub(super) keys_only: bool,
}

/// The lines of a page.
///
/// The name of a field says how it is written, so that text and base64 cannot be taken for each other, and an
/// import reads whatever was asked for: base64, or with `text=true` text where it is UTF-8.
pub(super) struct Lines {
    kvs: std::vec::IntoIter<v1::KeyValue>,
    format: Format,
    /// Of the line that is being written.
    parts: VecDeque<Part>,
}

enum Part {
    /// At most [`ROOM_MIN`].
    Json(String),
    /// Between quotation marks.
    Base64(Bytes),
    /// The same; it is UTF-8.
    Text(Bytes),
}

impl Lines {
    pub(super) fn new(kvs: Vec<v1::KeyValue>, format: Format) -> Self {
        Self { kvs: kvs.into_iter(), format, parts: VecDeque::new() }
    }

    /// The next piece; `None` at the end.
    pub(super) fn piece(&mut self) -> Option<Bytes> {
        let mut piece = String::new();
        loop {
            let Some(mut part) = self.parts.pop_front() else {
                match self.kvs.next() {
                    Some(kv) => self.begin(kv),
                    None if piece.is_empty() => return None,
                    None => return Some(piece.into()),
                }
                continue;
            };
            if piece.capacity() == 0 {
                piece.reserve_exact(PIECE_BYTES);
            }
            let is_written = part.write(&mut piece);
            if !is_written {
                self.parts.push_front(part);
                return Some(piece.into());
            }
        }
    }

    fn begin(&mut self, kv: v1::KeyValue) {
        self.add("{\"key", kv.key);
        if !self.format.keys_only {
            self.add(",\"value", kv.value);
        }
        let ttl = kv.ttl_ms.map_or_else(String::new, |ttl| format!(",\"ttl_ms\":{ttl}"));
        let revision = kv.revision;
        self.parts.push_back(Part::Json(format!(",\"revision\":{revision}{ttl}}}\n")));
    }

    fn add(&mut self, name: &str, bytes: Bytes) {
        let (name, value) = if self.format.text && std::str::from_utf8(&bytes).is_ok() {
            (format!("{name}\":\""), Part::Text(bytes))
        } else {
            (format!("{name}_base64\":\""), Part::Base64(bytes))
        };
        self.parts.extend([Part::Json(name), value, Part::Json("\"".to_owned())]);
    }
}

impl Part {
    /// Writes as much as there is room for; whether that was all.
    fn write(&mut self, piece: &mut String) -> bool {
        loop {
            let room = PIECE_BYTES - piece.len();
            if room < ROOM_MIN {
                return false;
            }
            match self {
                Self::Json(json) => {
                    piece.push_str(json);
                    return true;
                }
                Self::Base64(rest) | Self::Text(rest) if rest.is_empty() => return true,
                // In threes, so that only the last one is padded.
                Self::Base64(rest) => {
                    let some = rest.split_to(rest.len().min(room / 4 * 3));
                    BASE64_STANDARD.encode_string(some, piece);
                }
                Self::Text(rest) => {
                    // At most six bytes of JSON for one.
                    let mut end = rest.len().min(room / 6);
                    while end < rest.len() && (rest[end] & 0xC0) == 0x80 {
                        end -= 1;
                    }
                    let some = rest.split_to(end);
                    let text = std::str::from_utf8(&some).expect("cut before a character");
                    let json = serde_json::to_string(text).expect("a text is JSON");
                    piece.push_str(&json[1..json.len() - 1]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn kv(key: impl Into<Bytes>, value: impl Into<Bytes>, ttl_ms: Option<u64>) -> v1::KeyValue {
        v1::KeyValue { key: key.into(), value: value.into(), revision: u64::MAX, ttl_ms }
    }

    #[test]
    fn pieces_are_small_and_make_lines_of_json() {
        let long = |text: &str, bytes: usize| text.repeat(bytes / text.len());
        let kvs = vec![
            kv("a", "", None),
            kv("\u{1}\"\\", long("\u{1}", 1 << 20), Some(u64::MAX)),
            kv(vec![0xFF], vec![0xFE; (1 << 20) + 1], Some(0)),
            // Of one to four bytes, so that a piece ends at each.
            kv(long("aé", 4096), long("aé漢🦀\n", 300_000), None),
            kv("b", long("x", PIECE_BYTES), None),
        ];
        for text in [false, true] {
            for keys_only in [false, true] {
                let mut lines = Lines::new(kvs.clone(), Format { text, keys_only });
                let mut all = Vec::new();
                while let Some(piece) = lines.piece() {
                    assert!((1..=PIECE_BYTES).contains(&piece.len()), "{}", piece.len());
                    all.extend_from_slice(&piece);
                }
                let all = String::from_utf8(all).expect("JSON is text");
                assert!(all.ends_with('\n'));
                let lines: Vec<Value> =
                    all.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
                let want = kvs.iter().map(|kv| {
                    let mut line = json!({ "revision": kv.revision });
                    let mut add = |name: &str, bytes: &[u8]| match std::str::from_utf8(bytes) {
                        Ok(string) if text => line[name] = string.into(),
                        _ => line[format!("{name}_base64")] = BASE64_STANDARD.encode(bytes).into(),
                    };
                    add("key", &kv.key);
                    if !keys_only {
                        add("value", &kv.value);
                    }
                    if let Some(ttl) = kv.ttl_ms {
                        line["ttl_ms"] = ttl.into();
                    }
                    line
                });
                assert!(want.eq(lines), "text: {text}, keys only: {keys_only}");
            }
        }
        assert!(Lines::new(Vec::new(), Format { text: true, keys_only: false }).piece().is_none());
    }
}
