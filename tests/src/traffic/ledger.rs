//! Writers of unique keys, and the book of what they were promised.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use flotilla_client::{Client, KeyValue};
use tokio::sync::watch;

use super::meter::Worker;
use crate::harness::within;

/// How many keys one call of the verification reads.
const READ_AT_ONCE: usize = 256;
/// Bound: for each call of the verification; a cluster that was hurt may need a while.
const READ_BOUND: Duration = Duration::from_secs(60);
/// Length of a value.
const VALUE_BYTES: usize = 100;

/// What writers were promised. Each key is written once, so the value that must be there is known.
#[derive(Default)]
pub(super) struct Ledger {
    book: Mutex<Book>,
}

#[derive(Default, Clone)]
struct Book {
    acknowledged: Vec<Bytes>,
    refused: Vec<Bytes>,
}

/// What became of the promises.
#[derive(Default)]
pub(super) struct Account {
    pub(super) acknowledged: usize,
    /// Keys whose acknowledged value is not there, or which are there though refused.
    pub(super) wrong: Vec<String>,
}

impl Ledger {
    pub(super) async fn verify(&self, client: &Client) -> Account {
        let book = self.lock().clone();
        let mut account = Account { acknowledged: book.acknowledged.len(), wrong: Vec::new() };
        for chunk in book.acknowledged.chunks(READ_AT_ONCE) {
            let found = read(client, chunk).await;
            for (key, found) in chunk.iter().zip(found.unwrap_or_else(|_| vec![None; chunk.len()]))
            {
                if found.as_ref().map(|kv| &kv.value) != Some(&value(key)) {
                    account.wrong.push(format!("{key:?} holds {found:?}"));
                }
            }
        }
        for chunk in book.refused.chunks(READ_AT_ONCE) {
            match read(client, chunk).await {
                Ok(found) => account.wrong.extend(
                    found.into_iter().flatten().map(|kv| format!("refused, and there: {kv:?}")),
                ),
                Err(error) => account.wrong.push(format!("refused keys cannot be read: {error}")),
            }
        }
        account
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("nobody panics while holding the book")
    }
}

async fn read(client: &Client, keys: &[Bytes]) -> Result<Vec<Option<KeyValue>>, String> {
    within(READ_BOUND, async || client.batch_get(keys.to_vec()).await).await
}

/// One worker.
pub(super) struct Writer {
    pub(super) client: Client,
    pub(super) prefix: String,
    pub(super) pace: Duration,
    pub(super) meter: Worker,
}

impl Writer {
    pub(super) async fn run(self, ledger: Arc<Ledger>, mut stopped: watch::Receiver<bool>) {
        for number in 0_u64.. {
            if *stopped.borrow() {
                return;
            }
            let key = Bytes::from(format!("{}/{number:08}", self.prefix));
            match self.client.put(key.clone(), value(&key)).await {
                Ok(_) => {
                    ledger.lock().acknowledged.push(key);
                    self.meter.answered();
                }
                Err(error) => {
                    self.meter.failed("put", &error);
                    if !error.maybe_applied() {
                        ledger.lock().refused.push(key);
                    }
                }
            }
            // Ends early when the workers are told to stop.
            let _ = tokio::time::timeout(self.pace, stopped.changed()).await;
        }
    }
}

/// A value that belongs to its key, so that a mix-up shows.
fn value(key: &Bytes) -> Bytes {
    key.iter().copied().cycle().take(VALUE_BYTES.max(key.len())).collect()
}
