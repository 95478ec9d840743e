//! A client that runs beside a cluster it did not start, and judges what it was told.
//!
//! It does every workload of [`crate::workload`] at once, through Flotilla's own client, with that client's retries, since
//! that is what a user has: a call that fails here has failed for good. When it is told to end, everything is read back
//! and judged.

mod meter;
mod metered;
mod report;

use std::{ops::Range, sync::Arc, time::Duration};

use flotilla_client::{Client, Options};

pub use report::{Judged, Progress, Verdict};

use crate::{
    harness::within,
    workload::{Contested, Counter, Crew, Store, UniqueWrites, Workload},
};

use self::{meter::Meter, metered::Metered};

const DAY: Duration = Duration::from_secs(86_400);

/// Length of a value that is written once.
const VALUE_BYTES: usize = 100;

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
    /// Workers that add to one counter.
    pub counters: usize,
    /// Pause of a worker after each call, so that a small machine carries the load.
    pub pace: Duration,
    /// Decides what is asked.
    pub seed: u64,
    /// Below it are all keys, so that runs do not meet.
    pub prefix: String,
}

/// Workers at work.
pub struct Traffic {
    clients: Vec<Arc<dyn Store>>,
    meter: Arc<Meter>,
    writes: Crew<UniqueWrites>,
    contested: Crew<Contested>,
    counter: Crew<Counter>,
}

impl Traffic {
    /// Waits until the cluster answers, which may be never, and starts.
    ///
    /// # Errors
    /// An endpoint that is none.
    pub async fn start(plan: Plan) -> Result<Self, flotilla_client::Error> {
        let options = Options { timeout: plan.timeout, ..Options::default() };
        let mut clients = vec![Client::connect_with(&plan.endpoints, options.clone()).await?];
        if !plan.plain_endpoints.is_empty() {
            let plain = Options { routing: false, ..options };
            clients.push(Client::connect_with(&plan.plain_endpoints, plain).await?);
        }
        for client in &clients {
            // Bound: a day; who started this ends it earlier.
            let answered = within(DAY, async || client.get(format!("{}/hello", plan.prefix)).await);
            let _ = answered.await;
        }
        let clients: Vec<Arc<dyn Store>> =
            clients.into_iter().map(|client| Arc::new(client) as Arc<dyn Store>).collect();

        let Plan { writers, contenders, counters, seed, pace, prefix, .. } = plan;
        let meter = Arc::new(Meter::new(writers + contenders + counters));
        // Half of each kind do not find leaders by themselves.
        let metered = |numbers: Range<usize>| -> Vec<Arc<dyn Store>> {
            let of = |number: usize| {
                let store = Arc::clone(&clients[number % clients.len()]);
                Arc::new(Metered { store, meter: meter.worker(number) }) as Arc<dyn Store>
            };
            numbers.map(of).collect()
        };
        let writes = UniqueWrites::new(format!("{prefix}/ledger"), VALUE_BYTES);
        let stores = metered(0..writers);
        let writes = Crew::start_at_pace(writes, seed, &stores, writers, pace);
        let contested = Contested::new(format!("{prefix}/contested"));
        let stores = metered(writers..writers + contenders);
        let contested = Crew::start_at_pace(contested, seed, &stores, contenders, pace);
        let counter = Counter::new(format!("{prefix}/counter"));
        let stores = metered(writers + contenders..writers + contenders + counters);
        let counter = Crew::start_at_pace(counter, seed, &stores, counters, pace);
        Ok(Self { clients, meter, writes, contested, counter })
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
    pub async fn finish(self) -> Verdict {
        let Self { clients, meter, writes, contested, counter } = self;
        let (writes, contested, counter) =
            futures::join!(writes.stop(), contested.stop(), counter.stop());
        // Before the reading back, which is no part of the load.
        let progress = meter.progress();
        let all: [&dyn Workload; 3] = [&*writes, &*contested, &*counter];
        let mut workloads = Vec::with_capacity(all.len());
        for workload in all {
            let broken = workload.check(&clients).await.err();
            let (name, answered) = (workload.name().to_owned(), workload.answered());
            workloads.push(Judged { name, answered, broken });
        }
        Verdict { progress, workloads }
    }
}
