//! One call of one client on one key.

use bytes::Bytes;

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// Linearizable read.
    Read,
    /// Put.
    Write(Bytes),
    /// Put if the present value is `expected` (`None`: if the key is absent).
    CompareAndPut {
        /// What must be there.
        expected: Option<Bytes>,
        /// What is stored then.
        new: Bytes,
    },
    /// Remove.
    Delete,
    /// Add to a counter; an absent key counts as zero.
    Increment(i64),
    /// Put if the key is absent.
    PutIfAbsent(Bytes),
    /// Put, and tell what was there.
    GetAndPut(Bytes),
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// Of a read: the value, `None` for an absent key.
    Value(Option<Bytes>),
    /// Of a write.
    Written,
    /// Of a conditional put: done, or what was there instead.
    Conditional(Result<(), Option<Bytes>>),
    /// Of a delete: whether there was something to remove.
    Deleted(bool),
    /// Of an increment: before and after.
    Range(i64, i64),
    /// Of a get-and-put: what was there.
    Previous(Option<Bytes>),
}

/// How a call ended. Times are ticks of the recorder's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completion {
    /// With an answer. `revision` is the key's, where the answer tells it.
    Ok {
        /// When the answer was in.
        at: u64,
        /// The answer.
        answer: Answer,
        /// The revision of what was read or written.
        revision: Option<u64>,
    },
    /// With the promise that it had no effect.
    NotApplied,
    /// Without an answer, or with one that promises nothing.
    Unknown,
}

/// One call of one client on one key.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Which client.
    pub client: usize,
    /// On which key.
    pub key: Bytes,
    /// What was asked.
    pub call: Call,
    /// When it was sent.
    pub invoked: u64,
    /// How it ended.
    pub completion: Completion,
}

impl Operation {
    /// When the answer was in, if there was one.
    #[must_use]
    pub fn returned(&self) -> Option<u64> {
        match &self.completion {
            Completion::Ok { at, .. } => Some(*at),
            Completion::NotApplied | Completion::Unknown => None,
        }
    }

    /// The answer, if there was one.
    #[must_use]
    pub fn answer(&self) -> Option<&Answer> {
        match &self.completion {
            Completion::Ok { answer, .. } => Some(answer),
            Completion::NotApplied | Completion::Unknown => None,
        }
    }
}

impl Call {
    /// Whether it can change nothing, whatever it finds.
    #[must_use]
    pub fn is_read(&self) -> bool {
        matches!(self, Self::Read)
    }

    /// The value that it would store.
    #[must_use]
    pub fn stores(&self) -> Option<&Bytes> {
        match self {
            Self::Write(value)
            | Self::PutIfAbsent(value)
            | Self::GetAndPut(value)
            | Self::CompareAndPut { new: value, .. } => Some(value),
            Self::Read | Self::Delete | Self::Increment(_) => None,
        }
    }
}
