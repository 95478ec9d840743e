//! Keys and values as text.

use std::{fmt::Write as _, io::Read as _};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::Serialize;

use super::exit::Failure;

/// How bytes are written in arguments, files and output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Encoding {
    /// UTF-8. In output, what is not UTF-8 is escaped or falls back to base64.
    Text,
    Hex,
    Base64,
}

impl Encoding {
    /// The bytes that an argument stands for.
    pub(super) fn decode(self, what: &str, text: &str) -> Result<Vec<u8>, Failure> {
        let refuse = |why: &str| Failure::Usage(format!("{what} {text:?}: {why}"));
        match self {
            Self::Text => Ok(text.as_bytes().to_vec()),
            Self::Hex => from_hex(text).ok_or_else(|| refuse("not hexadecimal")),
            Self::Base64 => {
                BASE64_STANDARD.decode(text).map_err(|error| refuse(&error.to_string()))
            }
        }
    }

    /// As [`Encoding::decode`]; `-` stands for all of standard input, as it is in text mode.
    pub(super) fn decode_value(self, text: &str) -> Result<Vec<u8>, Failure> {
        if text != "-" {
            return self.decode("value", text);
        }
        let mut input = Vec::new();
        std::io::stdin().lock().read_to_end(&mut input)?;
        if self == Self::Text {
            return Ok(input);
        }
        let text = String::from_utf8(input)
            .map_err(|_| Failure::Usage("standard input is not text".into()))?;
        self.decode("value", text.trim())
    }

    /// For a field of JSON or YAML, where text must be UTF-8: answers what was used.
    pub(super) fn encode(self, bytes: &[&[u8]]) -> (Self, Vec<String>) {
        let encoding = match self {
            Self::Text if bytes.iter().any(|bytes| std::str::from_utf8(bytes).is_err()) => {
                Self::Base64
            }
            encoding => encoding,
        };
        let encode = |bytes: &&[u8]| match encoding {
            Self::Text => String::from_utf8_lossy(bytes).into_owned(),
            Self::Hex => to_hex(bytes),
            Self::Base64 => BASE64_STANDARD.encode(bytes),
        };
        (encoding, bytes.iter().map(encode).collect())
    }

    /// For one line of a table: nothing in it can move the cursor or end the line.
    pub(super) fn show(self, bytes: &[u8]) -> String {
        match self {
            Self::Text => escape(bytes),
            Self::Hex => to_hex(bytes),
            Self::Base64 => BASE64_STANDARD.encode(bytes),
        }
    }

    /// The bytes themselves in text mode, else their text.
    pub(super) fn raw(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Text => bytes.to_vec(),
            Self::Hex => to_hex(bytes).into_bytes(),
            Self::Base64 => BASE64_STANDARD.encode(bytes).into_bytes(),
        }
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    let digits = digits?;
    let pairs = digits.chunks_exact(2);
    pairs.remainder().is_empty().then(|| pairs.map(|pair| pair[0] << 4 | pair[1]).collect())
}

pub(super) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}

fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            match char {
                '\\' => text.push_str("\\\\"),
                char if char.is_control() => text.extend(char.escape_default()),
                char => text.push(char),
            }
        }
        for byte in chunk.invalid() {
            write!(text, "\\x{byte:02x}").expect("a string takes everything");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_each_encoding() {
        let bytes: Vec<u8> = (0..=255).collect();
        for encoding in [Encoding::Hex, Encoding::Base64] {
            let (used, texts) = encoding.encode(&[&bytes]);
            assert_eq!(used, encoding);
            assert_eq!(used.decode("value", &texts[0]).expect("just encoded"), bytes);
        }
        let (used, texts) = Encoding::Text.encode(&[b"plain", &bytes]);
        assert_eq!(used, Encoding::Base64, "text that is not UTF-8 falls back");
        assert_eq!(used.decode("value", &texts[1]).expect("just encoded"), bytes);
    }

    #[test]
    fn malformed_arguments_are_usage_errors() {
        for (encoding, text) in
            [(Encoding::Hex, "abc"), (Encoding::Hex, "zz"), (Encoding::Base64, "a")]
        {
            let refused = encoding.decode("key", text);
            assert!(matches!(refused, Err(Failure::Usage(_))), "{encoding:?} {text:?}");
        }
        assert_eq!(Encoding::Hex.decode("key", "00fF").expect("well-formed"), [0, 255]);
        assert_eq!(Encoding::Hex.decode("key", "").expect("empty"), b"");
    }

    #[test]
    fn a_table_cell_cannot_break_its_line() {
        assert_eq!(Encoding::Text.show("naïve\n\x1b[2J\\".as_bytes()), r"naïve\n\u{1b}[2J\\");
        assert_eq!(Encoding::Text.show(b"a\xff\0"), r"a\xff\u{0}");
        assert_eq!(Encoding::Hex.show(b"a\n"), "610a");
    }
}
