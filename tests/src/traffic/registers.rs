//! Workers that fight over a few keys, and what they saw.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use flotilla_client::Client;
use tokio::sync::watch;

use super::{Plan, meter::Worker};
use crate::{
    harness::within,
    history::{Budget, Call, Recorder, Request, Verdict, check, check_revisions},
    workload::{Chooser, ask_one, contested_keys},
};

/// Bound: for each read at the end.
const READ_BOUND: Duration = Duration::from_secs(60);

pub(super) struct Registers {
    prefix: String,
    seed: u64,
    pace: Duration,
    recorder: Arc<Recorder>,
    generation: Arc<AtomicU64>,
}

/// What the history shows.
pub(super) struct Judgement {
    pub(super) answered: usize,
    /// Why it has no order, or why that is not known.
    pub(super) fault: Option<String>,
}

/// One worker.
pub(super) struct Contender {
    client: Client,
    number: usize,
    chooser: Chooser,
    pace: Duration,
    recorder: Arc<Recorder>,
    generation: Arc<AtomicU64>,
    meter: Worker,
}

impl Registers {
    pub(super) fn new(plan: &Plan) -> Self {
        Self {
            prefix: format!("{}/contested", plan.prefix),
            seed: plan.seed,
            pace: plan.pace,
            recorder: Arc::default(),
            generation: Arc::default(),
        }
    }

    pub(super) fn contender(&self, number: usize, client: Client, meter: Worker) -> Contender {
        Contender {
            client,
            number,
            chooser: Chooser::new(self.seed, &self.prefix, number),
            pace: self.pace,
            recorder: Arc::clone(&self.recorder),
            generation: Arc::clone(&self.generation),
            meter,
        }
    }

    /// Moves all workers to fresh keys every `interval`.
    pub(super) fn keep_changing(
        &self,
        interval: Duration,
        mut stopped: watch::Receiver<bool>,
    ) -> impl Future<Output = ()> + use<> {
        let generation = Arc::clone(&self.generation);
        async move {
            while tokio::time::timeout(interval, stopped.wait_for(|stop| *stop)).await.is_err() {
                generation.fetch_add(1, Relaxed);
            }
        }
    }

    /// Reads every key that was ever used, and judges the whole history.
    pub(super) async fn judge(&self, reader: &Client, number: usize) -> Judgement {
        for generation in 0..=self.generation.load(Relaxed) {
            for key in contested_keys(&self.prefix, generation) {
                let read = within(READ_BOUND, async || {
                    let id = self.recorder.invoke(number, Request::One(key.clone(), Call::Read));
                    let (answer, revision) = ask_one(reader, key.clone(), &Call::Read).await?;
                    self.recorder.ok(id, answer, revision);
                    Ok::<(), flotilla_client::Error>(())
                });
                if let Err(error) = read.await {
                    let fault = Some(format!("{key:?} cannot be read: {error}"));
                    return Judgement { answered: self.recorder.answered(), fault };
                }
            }
        }
        let operations = self.recorder.operations();
        let fault = match check(&operations, Budget::default()) {
            Verdict::Legal => check_revisions(&operations).err(),
            verdict => Some(format!("{verdict:?}")),
        };
        Judgement { answered: self.recorder.answered(), fault }
    }
}

impl Contender {
    pub(super) async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        while !*stopped.borrow() {
            let (key, asked) = self.chooser.next(self.generation.load(Relaxed));
            let id = self.recorder.invoke(self.number, Request::One(key.clone(), asked.clone()));
            match ask_one(&self.client, key.clone(), &asked).await {
                Ok((answer, revision)) => {
                    self.chooser.learn(&key, &asked, &answer);
                    self.recorder.ok(id, answer, revision);
                    self.meter.answered();
                }
                Err(error) => {
                    self.meter.failed(&format!("{asked:?}"), &error);
                    if !error.maybe_applied() {
                        self.recorder.not_applied(id);
                    }
                }
            }
            let _ = tokio::time::timeout(self.pace, stopped.changed()).await;
        }
    }
}
