//! A client that runs beside a cluster it did not start, and judges what it was told.
//!
//! It goes through Flotilla's own client, with that client's retries, since that is what a user has:
//! a call that fails here has failed for good. Some of its workers write keys of their own and keep a
//! book of what was acknowledged; the others fight over a few keys and record a history. When it is
//! told to end, every acknowledged write is read back and the history is judged.

mod ledger;
mod meter;
mod registers;
mod report;

use std::{sync::Arc, time::Duration};

use flotilla_client::{Client, Options};
use tokio::{sync::watch, task::JoinSet};

pub use report::{Progress, Verdict};

use crate::harness::within;

use self::{ledger::Ledger, meter::Meter, registers::Registers};

/// How often the keys that are fought over change. Every call without an answer makes the judgement
/// of its key harder for the rest of the history.
const GENERATION: Duration = Duration::from_secs(4);

const DAY: Duration = Duration::from_secs(86_400);

/// What to do to which cluster.
#[derive(Clone, Debug)]
pub struct Plan {
    /// For the client that finds leaders by itself.
    pub endpoints: Vec<String>,
    /// For clients that do not: every request goes to one of these, which forwards it. May be empty.
    pub plain_endpoints: Vec<String>,
    /// Time for a call with all its retries.
    pub timeout: Duration,
    /// Workers that write keys of their own.
    pub writers: usize,
    /// Workers that fight over a few keys.
    pub contenders: usize,
    /// Pause of a worker after each call, so that a small machine carries the load.
    pub pace: Duration,
    /// Decides what is asked.
    pub seed: u64,
    /// Below it are all keys, so that runs do not meet.
    pub prefix: String,
}

/// Workers at work.
pub struct Traffic {
    plan: Plan,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    reader: Client,
    meter: Arc<Meter>,
    ledger: Arc<Ledger>,
    registers: Registers,
}

impl Traffic {
    /// Waits until the cluster answers, which may be never, and starts.
    ///
    /// # Errors
    /// An endpoint that is none.
    pub async fn start(plan: Plan) -> Result<Self, flotilla_client::Error> {
        let options = Options { timeout: plan.timeout, ..Options::default() };
        let smart = Client::connect_with(&plan.endpoints, options.clone()).await?;
        let mut clients = vec![smart.clone()];
        if !plan.plain_endpoints.is_empty() {
            let plain = Options { routing: false, ..options };
            clients.push(Client::connect_with(&plan.plain_endpoints, plain).await?);
        }
        for client in &clients {
            // Bound: a day; who started this ends it earlier.
            let answered = within(DAY, async || client.get(format!("{}/hello", plan.prefix)).await);
            let _ = answered.await;
        }

        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let meter = Arc::new(Meter::new(plan.writers + plan.contenders));
        let ledger = Arc::new(Ledger::default());
        let registers = Registers::new(&plan);
        for number in 0..plan.writers {
            let client = clients[number % clients.len()].clone();
            let prefix = format!("{}/ledger/{number:03}", plan.prefix);
            let writer =
                ledger::Writer { client, prefix, pace: plan.pace, meter: meter.worker(number) };
            tasks.spawn(writer.run(Arc::clone(&ledger), stopped.clone()));
        }
        for number in 0..plan.contenders {
            let client = clients[number % clients.len()].clone();
            let contender =
                registers.contender(number, client, meter.worker(plan.writers + number));
            tasks.spawn(contender.run(stopped.clone()));
        }
        tasks.spawn(registers.keep_changing(GENERATION, stopped));
        Ok(Self { plan, stop, tasks, reader: smart, meter, ledger, registers })
    }

    /// How it goes.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.meter.progress()
    }

    /// Lets each worker end the call it is at, reads everything back, and judges.
    ///
    /// # Panics
    /// When a worker did.
    pub async fn finish(mut self) -> Verdict {
        self.stop.send_replace(true);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("a worker does not panic");
        }
        // Before the reading back, which is no part of the load.
        let progress = self.meter.progress();
        let ledger = self.ledger.verify(&self.reader).await;
        let history = self.registers.judge(&self.reader, self.plan.contenders).await;
        Verdict::of(progress, ledger, history)
    }
}
