//! Hashes that stay the same over versions of this program, and over the order of keys.

use serde_json::Value;

/// 64 bits of FNV-1a over a value in one canonical form, as hexadecimal.
///
/// It finds changes; it is no protection against somebody who seeks two values of one hash.
#[must_use]
pub fn hash(value: &Value) -> String {
    let mut state = 0xcbf2_9ce4_8422_2325;
    feed(value, &mut state);
    format!("{state:016x}")
}

fn feed(value: &Value, state: &mut u64) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_unstable_by_key(|(key, _)| key.as_str());
            bytes(b"{", state);
            for (key, value) in entries {
                text(key, state);
                feed(value, state);
            }
            bytes(b"}", state);
        }
        Value::Array(items) => {
            bytes(b"[", state);
            for item in items {
                feed(item, state);
            }
            bytes(b"]", state);
        }
        Value::String(string) => text(string, state),
        Value::Null | Value::Bool(_) | Value::Number(_) => {
            bytes(value.to_string().as_bytes(), state);
            bytes(b",", state);
        }
    }
}

fn text(text: &str, state: &mut u64) {
    bytes(text.as_bytes(), state);
    // No byte of UTF-8: where a text ends is told apart from what it holds.
    bytes(&[0xff], state);
}

fn bytes(bytes: &[u8], state: &mut u64) {
    for byte in bytes {
        *state = (*state ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn hash_is_that_of_every_version() {
        assert_eq!(hash(&json!({})), "08f44b07b5901a25");
        assert_eq!(
            hash(&json!({"b": [1, "x"], "a": null})),
            hash(&json!({"a": null, "b": [1, "x"]}))
        );
    }

    #[test]
    fn other_values_hash_otherwise() {
        let values = [
            json!({"a": "b"}),
            json!({"a": ["b"]}),
            json!({"ab": ""}),
            json!(["a", "b"]),
            json!(["ab"]),
            json!("1"),
            json!(1),
            json!([1, 2]),
            json!([12]),
            json!(null),
        ];
        let mut hashes: Vec<_> = values.iter().map(hash).collect();
        hashes.sort();
        hashes.dedup();
        assert_eq!(hashes.len(), values.len());
    }
}
