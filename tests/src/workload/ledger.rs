//! Writers of unique keys, and the book of what they were promised.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use flotilla_proto::v1;
use tokio::{sync::watch, task::JoinSet};
use tonic::Status;

use super::reading::value_of;
use crate::harness::{Outcome, Session, eventually, outcome};

/// How long one write may take before its writer counts it as unknown.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long a writer that was refused holds back.
const HOLD_BACK: Duration = Duration::from_millis(50);

/// How many keys one call of the verification reads; fewer when values are large, since an answer
/// has to fit into a message.
const READ_AT_ONCE: usize = 256;
const READ_BYTES: usize = 4 << 20;

/// What writers were promised. Each key is written once, so the value that must be there is known.
#[derive(Default)]
pub struct Ledger {
    book: Mutex<Book>,
}

#[derive(Default, Clone)]
struct Book {
    /// Answered as done.
    acknowledged: Vec<(Bytes, Bytes)>,
    /// Answered as certainly not done.
    refused: Vec<Bytes>,
    /// Nothing is known.
    unknown: usize,
}

impl Book {
    /// How many acknowledged keys one call reads.
    fn at_once(&self) -> usize {
        let largest = self.acknowledged.iter().map(|(_, value)| value.len()).max().unwrap_or(0);
        (READ_BYTES / largest.max(1)).clamp(1, READ_AT_ONCE)
    }

    fn assert_none(&self, missing: &[(Bytes, Option<Bytes>)], session: &Session) {
        assert!(
            missing.is_empty(),
            "{} of {} acknowledged writes are gone, as {} tells: {:?}",
            missing.len(),
            self.acknowledged.len(),
            session.address,
            &missing[..missing.len().min(10)],
        );
    }
}

impl Ledger {
    /// How many writes were acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        self.lock().acknowledged.len()
    }

    /// How many writes were refused so far, and how many ended without an answer.
    #[must_use]
    pub fn troubled(&self) -> (usize, usize) {
        let book = self.lock();
        (book.refused.len(), book.unknown)
    }

    /// Reads every acknowledged key as this very node has it, and compares.
    ///
    /// # Panics
    /// When one is missing or different.
    pub async fn verify_stale(&self, session: &Session) {
        let book = self.lock().clone();
        for (key, value) in &book.acknowledged {
            let there = session.get_stale(key.clone()).await;
            let there = there.unwrap_or_else(|status| panic!("{}: {status}", session.address));
            assert_eq!(there.as_ref(), Some(value), "{key:?} on {} itself", session.address);
        }
    }

    /// Reads every key that was ever written and compares.
    ///
    /// # Panics
    /// When an acknowledged write is missing or different, or a refused one is there, or nothing
    /// was acknowledged.
    pub async fn verify(&self, session: &Session) {
        let book = self.lock().clone();
        assert!(!book.acknowledged.is_empty(), "nothing was acknowledged, so nothing is shown");
        let mut missing = Vec::new();
        for chunk in book.acknowledged.chunks(book.at_once()) {
            let keys = chunk.iter().map(|(key, _)| key.clone()).collect();
            missing.extend(differences(chunk, &read(session, keys).await));
        }
        book.assert_none(&missing, session);
        for chunk in book.refused.chunks(READ_AT_ONCE) {
            let found = read(session, chunk.to_vec()).await;
            assert!(found.is_empty(), "refused as not done, and there: {found:?}");
        }
    }

    /// As [`Ledger::verify`] for what was acknowledged, but it is an answer that something cannot be read now.
    ///
    /// # Errors
    /// As the server answers the first read that fails.
    ///
    /// # Panics
    /// When an acknowledged write is missing or different.
    pub async fn verify_now(&self, session: &Session) -> Result<(), Status> {
        let book = self.lock().clone();
        for chunk in book.acknowledged.chunks(book.at_once()) {
            let keys = chunk.iter().map(|(key, _)| key.clone()).collect();
            let found = pairs(session.get_many(keys).await?);
            book.assert_none(&differences(chunk, &found), session);
        }
        Ok(())
    }

    /// Reads some of the keys that were written: the answer is what was acknowledged, or none.
    ///
    /// # Panics
    /// When the answer is anything else.
    pub async fn verify_refused(&self, session: &Session) {
        let book = self.lock().clone();
        for (key, value) in book.acknowledged.iter().rev().take(3) {
            if let Ok(there) = session.get(key.clone()).await {
                assert_eq!(there.as_ref(), Some(value), "{key:?}, as {} tells", session.address);
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().expect("nobody panics while holding the book")
    }
}

async fn read(session: &Session, keys: Vec<Bytes>) -> Vec<(Bytes, Bytes)> {
    let what = format!("{} to read {} keys", session.address, keys.len());
    let found = eventually(&what, Duration::from_secs(30), async || {
        session.get_many(keys.clone()).await.map_err(|status| status.to_string())
    })
    .await;
    pairs(found)
}

fn pairs(found: Vec<v1::KeyValue>) -> Vec<(Bytes, Bytes)> {
    found.into_iter().map(|kv| (kv.key, kv.value)).collect()
}

/// The keys of `wanted` that were not found as they were written, and what was.
fn differences(wanted: &[(Bytes, Bytes)], found: &[(Bytes, Bytes)]) -> Vec<(Bytes, Option<Bytes>)> {
    let found: HashMap<&Bytes, &Bytes> = found.iter().map(|(key, value)| (key, value)).collect();
    let differs = wanted.iter().filter(|(key, value)| found.get(key) != Some(&value));
    differs.map(|(key, _)| (key.clone(), found.get(key).map(|value| (*value).clone()))).collect()
}

/// Writers at work, each of them one write at a time.
pub struct Writers {
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    ledger: Arc<Ledger>,
}

impl Writers {
    /// Starts `count` writers of values of `value_bytes`. Each stays with one of `sessions` until
    /// that one fails it.
    ///
    /// # Panics
    /// When there is no session.
    #[must_use]
    pub fn start(sessions: &[Session], count: usize, value_bytes: usize, prefix: &str) -> Self {
        assert!(!sessions.is_empty(), "writers need somebody to write to");
        let (stop, stopped) = watch::channel(false);
        let ledger = Arc::new(Ledger::default());
        let mut tasks = JoinSet::new();
        for writer in 0..count {
            tasks.spawn(write_until(
                stopped.clone(),
                sessions.to_vec(),
                Arc::clone(&ledger),
                format!("{prefix}/{writer:03}"),
                writer,
                value_bytes,
            ));
        }
        Self { stop, tasks, ledger }
    }

    /// The book, while they write.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Waits until `more` further writes were acknowledged.
    ///
    /// # Panics
    /// When that takes longer than `bound`.
    pub async fn progress(&self, more: usize, bound: Duration) {
        let target = self.ledger.acknowledged() + more;
        eventually(&format!("{more} more writes"), bound, async || {
            let now = self.ledger.acknowledged();
            if now >= target { Ok(()) } else { Err(format!("{now} of {target}")) }
        })
        .await;
    }

    /// Lets each writer end the write it is at, and hands over the book.
    ///
    /// # Panics
    /// When a writer did.
    pub async fn stop(mut self) -> Arc<Ledger> {
        self.stop.send_replace(true);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("a writer does not panic");
        }
        Arc::clone(&self.ledger)
    }
}

async fn write_until(
    mut stopped: watch::Receiver<bool>,
    sessions: Vec<Session>,
    ledger: Arc<Ledger>,
    prefix: String,
    first: usize,
    value_bytes: usize,
) {
    let mut at = first;
    for number in 0_u64.. {
        if *stopped.borrow() {
            return;
        }
        let session = sessions[at % sessions.len()].clone().patient(PATIENCE);
        let key = Bytes::from(format!("{prefix}/{number:08}"));
        let value = value_of(&key, value_bytes);
        let answer = session.put(key.clone(), value.clone()).await;
        match answer {
            Ok(_) => ledger.lock().acknowledged.push((key, value)),
            Err(status) => {
                match outcome(&status) {
                    Outcome::NotApplied => ledger.lock().refused.push(key),
                    Outcome::Unknown => ledger.lock().unknown += 1,
                }
                at += 1;
                // Ends early when the writers are told to stop.
                let _ = tokio::time::timeout(HOLD_BACK, stopped.changed()).await;
            }
        }
    }
}
