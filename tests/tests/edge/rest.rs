//! Every workload over REST alone, and what others make of it.

use std::{sync::Arc, time::Duration};

use flotilla_tests::{
    harness::{Cluster, say, seed},
    workload::{Contested, Counter, Crew, Plain, Rest, Store, UniqueWrites, Workload},
};

const BOUND: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(2);

/// Answers before the leader is killed, and after.
const ANSWERS: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promises_that_are_given_over_rest_are_kept_and_grpc_shows_the_same() {
    let seed = seed();
    let mut cluster = Cluster::start(3).await;
    let rest: Vec<Arc<dyn Store>> = cluster
        .nodes
        .iter()
        .map(|node| Arc::new(Rest::new(node.http_address(), PATIENCE)) as Arc<dyn Store>)
        .collect();
    let writes = Crew::start(UniqueWrites::new("rest/unique", 100), seed, &rest, 3);
    let registers = Crew::start(Contested::new("rest/contested"), seed, &rest, 6);
    let counter = Crew::start(Counter::new("rest/counter"), seed, &rest, 3);
    for victim in [Some(cluster.leader(b"rest").await), None] {
        writes.progress(ANSWERS, BOUND).await;
        registers.progress(ANSWERS, BOUND).await;
        counter.progress(ANSWERS, BOUND).await;
        if let Some(victim) = victim {
            cluster.nodes[victim].kill9();
            cluster.nodes[victim].relaunch();
        }
    }
    let (writes, registers) = (writes.stop().await, registers.stop().await);
    let counter = counter.stop().await;
    cluster.wait_whole(BOUND).await;
    let mut stores = Plain::all(&cluster.sessions(), PATIENCE);
    stores.extend(rest);
    let all: [&dyn Workload; 3] = [&*writes, &*registers, &*counter];
    for workload in all {
        if let Err(why) = workload.check(&stores).await {
            panic!("{}: {why}", workload.name());
        }
        say(format!("{}: {} answered", workload.name(), workload.answered()));
    }
}
