//! The bounds of a region, for people.

use super::encoding::Encoding;

/// `keyspace:key` of an encoded key; an empty one is the beginning or the end of all keys.
pub(super) fn show_bound(encoding: Encoding, encoded: &[u8], is_end: bool) -> String {
    match encoded {
        [] if is_end => "end".to_owned(),
        [] => "start".to_owned(),
        [a, b, c, key @ ..] => {
            format!("{}:{}", u32::from_be_bytes([0, *a, *b, *c]), encoding.show(key))
        }
        short => format!("0x{}", super::encoding::to_hex(short)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_shows_its_keyspace_and_its_key() {
        for (encoded, is_end, want) in [
            (&b""[..], false, "start"),
            (b"", true, "end"),
            (b"\0\0\x01", false, "1:"),
            (b"\0\x01\x00m\n", true, r"256:m\n"),
            (b"\0\x01", false, "0x0001"),
        ] {
            assert_eq!(show_bound(Encoding::Text, encoded, is_end), want);
        }
    }
}
