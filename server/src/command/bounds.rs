//! What one command may take, whatever a client sends.
//!
//! Apply checks these before any effect. They are constants and no settings, since every peer must
//! decide alike, now and when the entry is applied again. A command may ask for less
//! (`WriteCommand.value_bytes_max`, `answer_bytes_max`), which is part of the entry. What is counted
//! is a function of the command and of the values that clients see: never of expired rows that are
//! still on one disk and gone from another, nor of how a message is encoded.

use flotilla_proto::{MESSAGE_BYTES_MAX, keyspace::KEYSPACE_LEN, v1::WriteCommand};

use super::refusal::Refusal;

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

/// What one command has taken so far.
#[derive(Debug)]
pub(super) struct Budget {
    value_bytes_max: usize,
    answer_bytes_max: usize,
    answer_bytes: usize,
    effect_bytes: usize,
    read_bytes: usize,
}

impl Budget {
    pub(super) fn of(command: &WriteCommand) -> Self {
        Self {
            value_bytes_max: at_most(command.value_bytes_max, VALUE_BYTES_CEILING),
            answer_bytes_max: at_most(command.answer_bytes_max, ANSWER_BYTES_MAX),
            answer_bytes: 0,
            effect_bytes: 0,
            read_bytes: 0,
        }
    }

    /// A value that an append would leave: by the setting of the node that took the request.
    pub(super) fn check_appended(&self, bytes: usize) -> Result<(), Refusal> {
        check_value(bytes, self.value_bytes_max)
    }

    /// Bytes of a key and of the value that clients see under it, which was read.
    pub(super) fn charge_read(&mut self, bytes: usize) -> Result<(), Refusal> {
        self.read_bytes = self.read_bytes.saturating_add(bytes);
        if self.read_bytes > READ_BYTES_MAX { Err(Refusal::ReadsTooLarge) } else { Ok(()) }
    }

    /// Bytes of keys and values that are about to be written. Before they are made.
    pub(super) fn charge_effect(&mut self, bytes: usize) -> Result<(), Refusal> {
        self.effect_bytes = self.effect_bytes.saturating_add(bytes);
        if self.effect_bytes > EFFECT_BYTES_MAX { Err(Refusal::EffectsTooLarge) } else { Ok(()) }
    }

    /// Bytes that go into the answer.
    pub(super) fn charge_answer(&mut self, bytes: usize) -> Result<(), Refusal> {
        self.answer_bytes = self.answer_bytes.saturating_add(bytes);
        let limit = self.answer_bytes_max;
        if self.answer_bytes > limit { Err(Refusal::AnswerTooLarge { limit }) } else { Ok(()) }
    }
}

/// A value that a put brings.
pub(super) fn check_put(bytes: usize) -> Result<(), Refusal> {
    check_value(bytes, VALUE_BYTES_CEILING)
}

fn check_value(bytes: usize, limit: usize) -> Result<(), Refusal> {
    if bytes > limit { Err(Refusal::ValueTooLarge { bytes, limit }) } else { Ok(()) }
}

fn at_most(asked: u64, most: usize) -> usize {
    match usize::try_from(asked) {
        Ok(0) | Err(_) => most,
        Ok(asked) => asked.min(most),
    }
}
