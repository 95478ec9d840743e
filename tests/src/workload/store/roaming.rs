//! Through one of several, as long as it answers.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use bytes::Bytes;

use super::{Failure, Reply, Store};
use crate::history::Request;

/// A client that stays with one store until that one fails it, and then goes to the next.
pub struct Roaming {
    stores: Vec<Arc<dyn Store>>,
    at: AtomicUsize,
}

impl Roaming {
    /// A client of these, which begins with `first` of them, counted round.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn new(stores: Vec<Arc<dyn Store>>, first: usize) -> Self {
        assert!(!stores.is_empty(), "a client needs somebody to ask");
        Self { stores, at: first.into() }
    }

    fn current(&self) -> &dyn Store {
        self.stores[self.at.load(Relaxed) % self.stores.len()].as_ref()
    }

    fn unless_failed<T>(&self, outcome: Result<T, Failure>) -> Result<T, Failure> {
        if outcome.is_err() {
            self.at.fetch_add(1, Relaxed);
        }
        outcome
    }
}

#[tonic::async_trait]
impl Store for Roaming {
    async fn ask(&self, request: &Request) -> Result<Reply, Failure> {
        let outcome = self.current().ask(request).await;
        self.unless_failed(outcome)
    }

    async fn read(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, Failure> {
        let outcome = self.current().read(keys).await;
        self.unless_failed(outcome)
    }

    fn can(&self, request: &Request) -> bool {
        self.stores.iter().all(|store| store.can(request))
    }

    fn name(&self) -> String {
        self.stores.iter().map(|store| store.name()).collect::<Vec<_>>().join(", ")
    }
}
