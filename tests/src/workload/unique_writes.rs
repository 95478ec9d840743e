//! Writes of unique keys: none that was acknowledged is ever lost, and none that was refused is ever there.

use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use super::{
    Store, Worker, Workload,
    reading::{read_back, value_of},
};
use crate::history::{Call, Request};

/// How many keys one request of the check reads; fewer when values are large, since an answer has to fit into a
/// message.
const READ_AT_ONCE: usize = 256;
const READ_BYTES: usize = 4 << 20;

/// Of what is wrong, so much is told.
const TOLD: usize = 10;

/// The workload, and the book of what its workers were promised.
pub struct UniqueWrites {
    prefix: String,
    value_bytes: usize,
    book: Mutex<Book>,
}

#[derive(Clone, Debug, Default)]
struct Book {
    acknowledged: Vec<Bytes>,
    refused: Vec<Bytes>,
    unknown: usize,
}

impl UniqueWrites {
    /// Keys below `prefix`, with values of so many bytes. No two workloads of a cluster share a prefix.
    #[must_use]
    pub fn new(prefix: impl Into<String>, value_bytes: usize) -> Self {
        Self { prefix: prefix.into(), value_bytes, book: Mutex::default() }
    }

    /// How many writes were refused so far, and how many ended without an answer.
    #[must_use]
    pub fn troubled(&self) -> (usize, usize) {
        let book = self.lock();
        (book.refused.len(), book.unknown)
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("nobody panics while holding the book")
    }

    async fn check_through(&self, store: &dyn Store) -> Result<(), String> {
        let Book { acknowledged, refused, .. } = self.lock().clone();
        let at_once = (READ_BYTES / self.value_bytes.max(1)).clamp(1, READ_AT_ONCE);
        for keys in acknowledged.chunks(at_once) {
            let found = read_back(store, keys).await?;
            let wrong = keys
                .iter()
                .zip(&found)
                .filter(|(key, found)| found.as_ref() != Some(&value_of(key, self.value_bytes)));
            let wrong: Vec<_> = wrong.take(TOLD).collect();
            if !wrong.is_empty() {
                let all = acknowledged.len();
                let name = store.name();
                return Err(format!("of {all} acknowledged writes, as {name} tells: {wrong:?}"));
            }
        }
        for keys in refused.chunks(READ_AT_ONCE) {
            let found = read_back(store, keys).await?;
            if let Some((key, _)) = keys.iter().zip(found).find(|(_, found)| found.is_some()) {
                return Err(format!("{key:?} was refused and is there, as {} tells", store.name()));
            }
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl Workload for UniqueWrites {
    async fn run(&self, mut worker: Worker) {
        for number in 0_u64.. {
            if worker.stop.is_now() {
                return;
            }
            let key = Bytes::from(format!("{}/{:03}/{number:08}", self.prefix, worker.number));
            let write = Call::Write(value_of(&key, self.value_bytes));
            let outcome = worker.store.ask(&Request::One(key.clone(), write)).await;
            let answered = outcome.is_ok();
            match outcome {
                Ok(_) => self.lock().acknowledged.push(key),
                Err(failure) if failure.maybe_applied => self.lock().unknown += 1,
                Err(_) => self.lock().refused.push(key),
            }
            worker.rest(answered).await;
        }
    }

    fn answered(&self) -> usize {
        self.lock().acknowledged.len()
    }

    async fn check(&self, stores: &[Arc<dyn Store>]) -> Result<(), String> {
        for store in stores {
            self.check_through(store.as_ref()).await?;
        }
        Ok(())
    }
}
