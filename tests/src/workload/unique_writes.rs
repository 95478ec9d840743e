//! Writes of unique keys: none that was acknowledged is ever lost, none that was refused is ever there, and one whose
//! outcome is unknown is there as it was sent or not at all.

use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use super::{
    Failure, Store, Worker, Workload,
    faulty::Faulty,
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
    faulty: Faulty,
}

#[derive(Clone, Debug, Default)]
struct Book {
    acknowledged: Vec<Bytes>,
    refused: Vec<Bytes>,
    unknown: Vec<Bytes>,
}

impl UniqueWrites {
    /// Keys below `prefix`, with values of so many bytes. No two workloads of a cluster share a prefix.
    #[must_use]
    pub fn new(prefix: impl Into<String>, value_bytes: usize) -> Self {
        Self {
            prefix: prefix.into(),
            value_bytes,
            book: Mutex::default(),
            faulty: Faulty::default(),
        }
    }

    /// How many writes were refused so far, and how many ended without an answer.
    #[must_use]
    pub fn troubled(&self) -> (usize, usize) {
        let book = self.lock();
        (book.refused.len(), book.unknown.len())
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("nobody panics while holding the book")
    }

    /// As the check of this workload for what was acknowledged until now, but each key is asked for once, and it is an
    /// answer that it cannot be read.
    ///
    /// # Errors
    /// As the store answers the first request that fails.
    ///
    /// # Panics
    /// When an acknowledged write is missing or different.
    pub async fn check_now(&self, store: &dyn Store) -> Result<(), Failure> {
        let acknowledged = self.lock().acknowledged.clone();
        for keys in acknowledged.chunks(self.at_once()) {
            let found = store.read(keys).await?;
            if let Err(why) = self.all_there(keys, &found) {
                panic!("{why}, as {} tells", store.name());
            }
        }
        Ok(())
    }

    /// How many keys one request reads.
    fn at_once(&self) -> usize {
        (READ_BYTES / self.value_bytes.max(1)).clamp(1, READ_AT_ONCE)
    }

    async fn check_through(&self, store: &dyn Store) -> Result<(), String> {
        let Book { acknowledged, refused, unknown } = self.lock().clone();
        for keys in acknowledged.chunks(self.at_once()) {
            self.all_there(keys, &read_back(store, keys).await?)?;
        }
        for keys in refused.chunks(self.at_once()) {
            let found = read_back(store, keys).await?;
            if let Some((key, _)) = keys.iter().zip(found).find(|(_, found)| found.is_some()) {
                return Err(format!("{key:?} was refused and is there"));
            }
        }
        for keys in unknown.chunks(self.at_once()) {
            let found = read_back(store, keys).await?;
            let other = |(key, found): &(&Bytes, Option<Bytes>)| {
                found.as_ref().is_some_and(|found| *found != self.value_of(key))
            };
            if let Some(other) = keys.iter().zip(found).find(other) {
                return Err(format!("nobody has written this: {other:?}"));
            }
        }
        Ok(())
    }

    /// Whether these were found as they were written.
    fn all_there(&self, keys: &[Bytes], found: &[Option<Bytes>]) -> Result<(), String> {
        let gone: Vec<_> = keys
            .iter()
            .zip(found)
            .filter(|(key, found)| found.as_ref() != Some(&self.value_of(key)))
            .collect();
        if gone.is_empty() && keys.len() == found.len() {
            return Ok(());
        }
        let (count, of) = (gone.len(), keys.len());
        let told = &gone[..count.min(TOLD)];
        Err(format!("{count} of {of} acknowledged writes are gone: {told:?}"))
    }

    fn value_of(&self, key: &Bytes) -> Bytes {
        value_of(key, self.value_bytes)
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
            let write = Call::Write(self.value_of(&key));
            let outcome = worker.store.ask(&Request::One(key.clone(), write)).await;
            let answered = outcome.is_ok();
            if let Err(failure) = &outcome {
                self.faulty.note(failure);
            }
            match outcome {
                Ok(_) => self.lock().acknowledged.push(key),
                Err(failure) if failure.maybe_applied => self.lock().unknown.push(key),
                Err(_) => self.lock().refused.push(key),
            }
            worker.rest(answered).await;
        }
    }

    fn name(&self) -> &'static str {
        "unique writes"
    }

    fn answered(&self) -> usize {
        self.lock().acknowledged.len()
    }

    async fn check(&self, stores: &[Arc<dyn Store>]) -> Result<(), String> {
        self.faulty.check()?;
        for store in stores {
            let checked = self.check_through(store.as_ref()).await;
            checked.map_err(|why| format!("{why}, as {} tells", store.name()))?;
        }
        Ok(())
    }
}
