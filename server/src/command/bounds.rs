//! What one command may take, whatever a client sends.
//!
//! Apply checks these before any effect. They are constants and no settings, since every peer must
//! decide alike, now and when the entry is applied again. A command may ask for less
//! (`WriteCommand.value_bytes_max`, `answer_bytes_max`), which is part of the entry. What is counted
//! is a function of the command and of the values that clients see: never of expired rows that are
//! still on one disk and gone from another, nor of how a message is encoded.

use flotilla_proto::{MESSAGE_BYTES_MAX, keyspace::KEYSPACE_LEN};

/// Bound: bytes of a key with its keyspace. `limits.key_bytes_max` is at most 64 KiB, and the end of a
/// range may have one byte more.
pub const ENCODED_KEY_BYTES_MAX: usize = KEYSPACE_LEN + (64 << 10) + 1;

/// Bound: bytes of a value, put or appended to. The most that `limits.value_bytes_max` can be.
pub const VALUE_BYTES_CEILING: usize = 16 << 20;

/// Bound: bytes of the results of one command, keys and values with [`RESULT_BYTES`] for each. A value
/// of the largest size with its key fits, and so does every answer into a message.
pub const ANSWER_BYTES_MAX: usize = 18 << 20;

/// Bound: bytes of the keys and values that one command writes, values that an append makes included.
/// The largest request fits, and what is held in memory for one command is a small multiple.
pub const EFFECT_BYTES_MAX: usize = 32 << 20;

/// Bound: bytes of the keys and values that one command reads, each as often as it is read: by comparisons,
/// and by operations that look at what is there. Many values of the largest size can be compared or deleted
/// at once, and who waits behind the command waits for a fraction of a second.
pub const READ_BYTES_MAX: usize = 128 << 20;

/// What a result costs beside its key and value: more than its tags, lengths and numbers take.
pub const RESULT_BYTES: usize = 64;

// The wrapping of an answer, and the indexes of its operations, have the rest.
const _: () = assert!(ANSWER_BYTES_MAX + (1 << 20) < MESSAGE_BYTES_MAX);
const _: () =
    assert!(VALUE_BYTES_CEILING + ENCODED_KEY_BYTES_MAX + RESULT_BYTES <= ANSWER_BYTES_MAX);
