//! What one command has taken of its bounds.

use flotilla_proto::v1::WriteCommand;

use super::{
    bounds::{ANSWER_BYTES_MAX, EFFECT_BYTES_MAX, READ_BYTES_MAX, VALUE_BYTES_CEILING},
    refusal::Refusal,
};

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
