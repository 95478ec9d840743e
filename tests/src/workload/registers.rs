//! Clients that fight over a few keys, and record what they saw.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use flotilla_proto::v1;
use tokio::{sync::watch, task::JoinSet};
use tonic::Status;

use super::chooser::{Chooser, contested_keys};
use crate::{
    harness::{Outcome, Session, eventually, outcome},
    history::{Answer, Call, Recorder, Request},
};

/// How long a client waits before it counts a call as unknown.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a client that was refused holds back.
const HOLD_BACK: Duration = Duration::from_millis(20);

/// Below it are the keys that are fought over.
const PREFIX: &str = "chaos";

/// Clients at work. Each is bound to one node for good, so that what each node answers is seen.
pub struct Registers {
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    recorder: Arc<Recorder>,
    /// The keys in use; see [`Registers::next_generation`].
    generation: Arc<AtomicU64>,
    answered: Arc<AtomicUsize>,
}

impl Registers {
    /// Starts `each` clients for every session.
    #[must_use]
    pub fn start(seed: u64, sessions: &[Session], each: usize) -> Self {
        let (stop, stopped) = watch::channel(false);
        let recorder = Arc::new(Recorder::default());
        let generation = Arc::new(AtomicU64::new(0));
        let answered = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        for number in 0..sessions.len() * each {
            let client = Client {
                number,
                session: sessions[number % sessions.len()].clone().patient(PATIENCE),
                chooser: Chooser::new(seed, PREFIX, number),
                recorder: Arc::clone(&recorder),
                generation: Arc::clone(&generation),
                answered: Arc::clone(&answered),
            };
            tasks.spawn(client.run(stopped.clone()));
        }
        Self { stop, tasks, recorder, generation, answered }
    }

    /// Calls that were answered so far.
    #[must_use]
    pub fn answered(&self) -> usize {
        self.answered.load(Relaxed)
    }

    /// Moves all clients to fresh keys. Every call without an answer makes the judgement of its key
    /// harder for the rest of the history, so keys are used for a second or two.
    pub fn next_generation(&self) {
        self.generation.fetch_add(1, Relaxed);
    }

    /// Ends the clients, reads every key that was ever used through each of `sessions`, and hands
    /// over the whole history.
    ///
    /// # Panics
    /// When a key cannot be read within a bound.
    pub async fn stop(mut self, sessions: &[Session]) -> Arc<Recorder> {
        self.stop.send_replace(true);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("a client does not panic");
        }
        let generations = self.generation.load(Relaxed);
        for (reader, session) in sessions.iter().enumerate() {
            for generation in 0..=generations {
                for key in contested_keys(PREFIX, generation) {
                    let what = format!("{} to read {key:?}", session.address);
                    eventually(&what, Duration::from_secs(30), async || {
                        let id = self
                            .recorder
                            .invoke(1_000 + reader, Request::One(key.clone(), Call::Read));
                        let (answer, revision) = call(session, &key, &Call::Read).await?;
                        self.recorder.ok(id, answer, revision);
                        Ok::<(), Status>(())
                    })
                    .await;
                }
            }
        }
        Arc::clone(&self.recorder)
    }
}

struct Client {
    number: usize,
    session: Session,
    chooser: Chooser,
    recorder: Arc<Recorder>,
    generation: Arc<AtomicU64>,
    answered: Arc<AtomicUsize>,
}

impl Client {
    async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        while !*stopped.borrow() {
            let (key, asked) = self.chooser.next(self.generation.load(Relaxed));
            let id = self.recorder.invoke(self.number, Request::One(key.clone(), asked.clone()));
            match call(&self.session, &key, &asked).await {
                Ok((answer, revision)) => {
                    self.chooser.learn(&key, &asked, &answer);
                    self.recorder.ok(id, answer, revision);
                    self.answered.fetch_add(1, Relaxed);
                }
                Err(status) => {
                    if outcome(&status) == Outcome::NotApplied {
                        self.recorder.not_applied(id);
                    }
                    let _ = tokio::time::timeout(HOLD_BACK, stopped.changed()).await;
                }
            }
        }
    }
}

/// Makes one call, and answers what came back and the key's revision where that is told.
async fn call(
    session: &Session,
    key: &Bytes,
    call: &Call,
) -> Result<(Answer, Option<u64>), Status> {
    let mut kv = session.kv.clone();
    let key = key.clone();
    let value = |kv: Option<v1::KeyValue>| kv.map(|kv| kv.value);
    let conditional = |succeeded: bool, current: Option<v1::KeyValue>, revision: u64| {
        if succeeded {
            (Answer::Conditional(Ok(())), Some(revision))
        } else {
            // Nothing was written, so no revision is claimed.
            (Answer::Conditional(Err(value(current))), None)
        }
    };
    Ok(match call {
        Call::Read => {
            let message = v1::GetRequest { context: None, key };
            let found = kv.get(session.request(message)).await?.into_inner().kv;
            let revision = found.as_ref().map(|kv| kv.revision);
            (Answer::Value(value(found)), revision)
        }
        Call::Write(new) => {
            let message = v1::PutRequest { key, value: new.clone(), ..Default::default() };
            let answer = kv.put(session.request(message)).await?.into_inner();
            (Answer::Written, Some(answer.revision))
        }
        Call::CompareAndPut { expected, new } => {
            use v1::compare_and_put_request::Expected;
            let expected = Some(match expected {
                None => Expected::Absent(true),
                Some(value) => Expected::Value(value.clone()),
            });
            let new_value = new.clone();
            let message =
                v1::CompareAndPutRequest { key, expected, new_value, ..Default::default() };
            let answer = kv.compare_and_put(session.request(message)).await?.into_inner();
            conditional(answer.succeeded, answer.current, answer.revision)
        }
        Call::Delete => {
            let message = v1::DeleteRequest { key, ..Default::default() };
            let answer = kv.delete(session.request(message)).await?.into_inner();
            // A delete of nothing may or may not raise the revision.
            let revision = answer.deleted.then_some(answer.revision);
            (Answer::Deleted(answer.deleted), revision)
        }
        Call::Increment(delta) => {
            let message = v1::IncrementRequest { context: None, key, delta: *delta };
            let answer = kv.increment(session.request(message)).await?.into_inner();
            (Answer::Range(answer.start, answer.end), Some(answer.revision))
        }
        Call::PutIfAbsent(new) => {
            let message = v1::PutIfAbsentRequest { key, value: new.clone(), ..Default::default() };
            let answer = kv.put_if_absent(session.request(message)).await?.into_inner();
            conditional(answer.succeeded, answer.current, answer.revision)
        }
        Call::GetAndPut(new) => {
            let message = v1::GetAndPutRequest { key, value: new.clone(), ..Default::default() };
            let answer = kv.get_and_put(session.request(message)).await?.into_inner();
            (Answer::Previous(value(answer.previous)), Some(answer.revision))
        }
    })
}
