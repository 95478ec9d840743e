//! Clients that fight over a few keys, and record what they saw.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{sync::watch, task::JoinSet};
use tonic::Status;

use super::{
    Plain,
    chooser::{Chooser, contested_keys},
};
use crate::{
    harness::{Outcome, Session, eventually, outcome},
    history::{Call, Recorder, Request},
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
                node: Plain::from(&sessions[number % sessions.len()].clone().patient(PATIENCE)),
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
            let node = Plain::from(session);
            for generation in 0..=generations {
                for key in contested_keys(PREFIX, generation) {
                    let what = format!("{} to read {key:?}", session.address);
                    eventually(&what, Duration::from_secs(30), async || {
                        let id = self
                            .recorder
                            .invoke(1_000 + reader, Request::One(key.clone(), Call::Read));
                        let (answer, revision) = node.one(key.clone(), &Call::Read).await?;
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
    node: Plain,
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
            match self.node.one(key.clone(), &asked).await {
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
