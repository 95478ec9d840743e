//! A store whose answers are counted.

use std::sync::Arc;

use bytes::Bytes;

use super::meter;
use crate::{
    history::{Call, Request},
    workload::{Failure, Reply, Store},
};

/// What one worker asks.
pub(super) struct Metered {
    pub(super) store: Arc<dyn Store>,
    pub(super) meter: meter::Worker,
}

impl Metered {
    fn count<T>(&self, what: &str, outcome: Result<T, Failure>) -> Result<T, Failure> {
        match &outcome {
            Ok(_) => self.meter.answered(),
            Err(failure) => self.meter.failed(what, failure),
        }
        outcome
    }
}

#[tonic::async_trait]
impl Store for Metered {
    async fn ask(&self, request: &Request) -> Result<Reply, Failure> {
        let outcome = self.store.ask(request).await;
        self.count(name(request), outcome)
    }

    async fn read(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, Failure> {
        let outcome = self.store.read(keys).await;
        self.count("batch get", outcome)
    }

    fn can(&self, request: &Request) -> bool {
        self.store.can(request)
    }

    fn name(&self) -> String {
        self.store.name()
    }
}

/// For people.
fn name(request: &Request) -> &'static str {
    match request {
        Request::Txn(_) => "transaction",
        Request::One(_, call) => match call {
            Call::Read => "get",
            Call::Write(_) => "put",
            Call::CompareAndPut { .. } => "compare and put",
            Call::Delete => "delete",
            Call::Increment(_) => "increment",
            Call::PutIfAbsent(_) => "put if absent",
            Call::GetAndPut(_) => "get and put",
        },
    }
}
