//! Clients that write unique keys, and add to one counter, by our own library: nothing that was acknowledged is missing in
//! the end, nothing that was refused is there, no number was given out twice.

use std::{sync::Arc, time::Duration};

use flotilla_tests::workload::{Counter, Stop, Store, UniqueWrites, Worker, Workload};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{sync::watch, task::JoinSet};

use super::library;
use crate::{
    marks,
    stage::{Phase, Stage},
};

pub(super) async fn act(stage: Stage) -> turmoil::Result {
    stage.until(Phase::Faults).await;
    let mut random = stage.random("ledger");
    let writes = Arc::new(UniqueWrites::new("ledger", stage.sizes.value_bytes));
    let counter = Arc::new(Counter::new("counter"));
    let all: [Arc<dyn Workload>; 2] = [writes.clone(), counter];
    let (stop, stopped) = watch::channel(false);
    let mut workers = JoinSet::new();
    for (kind, workload) in all.iter().enumerate() {
        for number in 0..stage.sizes.clients {
            let store: Arc<dyn Store> = Arc::new(library::client(&stage).await?);
            let own = StdRng::seed_from_u64(random.random());
            let stop = Stop::Told(stopped.clone());
            let mut worker = Worker::new(10 * kind + number, store, own, stop);
            worker.pace = Duration::from_millis(random.random_range(0..30));
            let workload = Arc::clone(workload);
            workers.spawn(async move { workload.run(worker).await });
        }
    }
    stage.until(stage.busy_until()).await;
    stop.send_replace(true);
    while let Some(ended) = workers.join_next().await {
        ended?;
    }
    stage.until(Phase::End).await;
    stage.marks.hit_if(marks::WRITE_REFUSED, writes.troubled().0 > 0);
    stage.marks.hit_if(marks::WRITE_UNANSWERED, writes.troubled().1 > 0);
    let store: Arc<dyn Store> = Arc::new(library::client(&stage).await?);
    for (workload, name) in all.iter().zip(["acknowledged-writes", "counter"]) {
        stage.add_answered(workload.answered());
        if let Err(how) = workload.check(std::slice::from_ref(&store)).await {
            stage.broke(name, how);
        }
    }
    Ok(())
}
