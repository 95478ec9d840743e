//! One request of one client.

use bytes::Bytes;

/// What is done to one key.
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

/// What is asked in one go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Request {
    /// A call on one key.
    One(Bytes, Call),
    /// Several calls, done in one step or not at all.
    Txn(Txn),
}

/// Calls on keys of one region. A store's transactions have reads, writes, deletes, increments and
/// gets-and-puts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Txn {
    /// What must be under these keys (`None`: nothing), all of it, for `then` to be done.
    pub when: Vec<(Bytes, Option<Bytes>)>,
    /// Done if so.
    pub then: Vec<(Bytes, Call)>,
    /// Done if not.
    pub otherwise: Vec<(Bytes, Call)>,
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
    /// Of a transaction: whether all was as it had to be, and what each call answered that was done then.
    Txn(bool, Vec<Answer>),
}

/// How a request ended. Times are ticks of the recorder's clock.
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

/// One request of one client.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Which client.
    pub client: usize,
    /// What was asked.
    pub request: Request,
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

impl Request {
    /// The keys that it is about; one may come twice.
    pub fn keys(&self) -> impl Iterator<Item = &Bytes> {
        let (one, txn) = self.parts();
        let compared = txn.into_iter().flat_map(|txn| txn.when.iter().map(|(key, _)| key));
        one.map(|(key, _)| key).into_iter().chain(compared).chain(self.of_txn().map(|(key, _)| key))
    }

    /// The calls that it may do, of a transaction those of both branches.
    pub fn calls(&self) -> impl Iterator<Item = &Call> {
        let one = self.parts().0.map(|(_, call)| call);
        one.into_iter().chain(self.of_txn().map(|(_, call)| call))
    }

    /// The values that it looks for.
    pub fn expects(&self) -> impl Iterator<Item = &Bytes> {
        let compared = self.parts().1.into_iter().flat_map(|txn| &txn.when);
        let compared = compared.filter_map(|(_, value)| value.as_ref());
        compared.chain(self.calls().filter_map(Call::expects))
    }

    /// Whether it can change nothing, whatever it finds.
    #[must_use]
    pub fn is_read(&self) -> bool {
        self.calls().all(Call::is_read)
    }

    fn parts(&self) -> (Option<(&Bytes, &Call)>, Option<&Txn>) {
        match self {
            Self::One(key, call) => (Some((key, call)), None),
            Self::Txn(txn) => (None, Some(txn)),
        }
    }

    fn of_txn(&self) -> impl Iterator<Item = &(Bytes, Call)> {
        self.parts().1.into_iter().flat_map(|txn| txn.then.iter().chain(&txn.otherwise))
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

    /// The same call, with another value to store if it stores one.
    #[must_use]
    pub(super) fn storing(&self, value: Bytes) -> Self {
        match self {
            Self::Write(_) => Self::Write(value),
            Self::PutIfAbsent(_) => Self::PutIfAbsent(value),
            Self::GetAndPut(_) => Self::GetAndPut(value),
            Self::CompareAndPut { expected, .. } => {
                Self::CompareAndPut { expected: expected.clone(), new: value }
            }
            Self::Read | Self::Delete | Self::Increment(_) => self.clone(),
        }
    }

    /// The value that it looks for.
    #[must_use]
    pub fn expects(&self) -> Option<&Bytes> {
        match self {
            Self::CompareAndPut { expected, .. } => expected.as_ref(),
            Self::Read
            | Self::Write(_)
            | Self::PutIfAbsent(_)
            | Self::GetAndPut(_)
            | Self::Delete
            | Self::Increment(_) => None,
        }
    }
}

impl Answer {
    /// Whether what answered so has changed nothing, whatever there was.
    #[must_use]
    pub fn tells_of_no_change(&self) -> bool {
        match self {
            Self::Value(_) | Self::Conditional(Err(_)) | Self::Deleted(false) => true,
            Self::Txn(_, answers) => answers.iter().all(Self::tells_of_no_change),
            Self::Written
            | Self::Conditional(Ok(()))
            | Self::Deleted(true)
            | Self::Range(..)
            | Self::Previous(_) => false,
        }
    }

    /// The values that it shows to have been there.
    pub fn shows(&self) -> Vec<&Bytes> {
        match self {
            Self::Value(Some(value))
            | Self::Previous(Some(value))
            | Self::Conditional(Err(Some(value))) => vec![value],
            Self::Txn(_, answers) => answers.iter().flat_map(Self::shows).collect(),
            Self::Value(None)
            | Self::Previous(None)
            | Self::Conditional(_)
            | Self::Written
            | Self::Deleted(_)
            | Self::Range(..) => Vec::new(),
        }
    }
}
