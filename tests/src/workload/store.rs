//! Who is asked: one small trait over whatever speaks to the cluster.
//!
//! A workload says what it wants as a [`Request`] and learns what came of it, in the words of a history. So the same
//! workload runs over our client library, over a generated client of a single address, over REST, on real sockets or in
//! a simulation.

mod library;
mod plain;
mod rest;
mod roaming;

use std::fmt;

use bytes::Bytes;

pub use plain::Plain;
pub use rest::Rest;
pub use roaming::Roaming;

use crate::history::{Answer, Request};

/// What came back.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The answer.
    pub answer: Answer,
    /// The revision of what was read or written, where it is told.
    pub revision: Option<u64>,
}

/// Why nothing came back.
#[derive(Clone, Debug)]
pub struct Failure {
    /// It may have had its effect, may have it later, or never. Otherwise it certainly had none.
    pub maybe_applied: bool,
    /// It was a read of what the store knows that it has lost.
    pub data_loss: bool,
    /// Nothing that happens to a cluster makes it answer so: it says itself that it is at fault, or that it does not
    /// understand a request that is right.
    pub is_fault: bool,
    /// For people.
    pub message: String,
}

/// A cluster, as one client sees it.
#[tonic::async_trait]
pub trait Store: Send + Sync {
    /// Makes one request.
    ///
    /// Ordering: a write is repeated only when the earlier attempt certainly had no effect, so that one request is
    /// one operation of a history.
    ///
    /// # Errors
    /// When it was refused, or nothing is known.
    async fn ask(&self, request: &Request) -> Result<Reply, Failure>;

    /// The values of many keys, in their order, each read linearizably by itself.
    ///
    /// # Errors
    /// As [`Store::ask`].
    async fn read(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, Failure>;

    /// Whether it has such requests at all. Nobody asks for others.
    fn can(&self, _request: &Request) -> bool {
        true
    }

    /// Who it is, for people.
    fn name(&self) -> String;
}

impl Failure {
    /// A request that was sent and not answered.
    pub(crate) fn silence(message: impl Into<String>) -> Self {
        Self { maybe_applied: true, data_loss: false, is_fault: false, message: message.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
