//! Concurrent clients on every node, of every API, while nodes are killed and frozen at random moments. What the
//! clients saw must be what one copy of the data would have shown them.
//!
//! `SEED` repeats the choices of a run, `SECONDS` sets how long it lasts.

use std::{collections::BTreeMap, fs, sync::Arc, time::Duration};

use bytes::Bytes;
use flotilla_client::{Client, Options};
use flotilla_tests::{
    harness::{Cluster, Session, elapse, env_number, say, seed},
    history::{Answer, Budget, Call, Completion, Operation, Request, check},
    workload::{
        Contested, Counter, Crew, Fault, Faults, Plain, Rest, Store, Workload as _, nothing_is_lost,
    },
};
use tokio::time::Instant;

const BOUND: Duration = Duration::from_secs(60);

/// Plain clients of each node.
const CLIENTS: usize = 2;

/// How long a client waits before it counts a call as unknown.
const PATIENCE: Duration = Duration::from_secs(2);

/// Fewer answers than this for each second of the run show nothing.
const ANSWERS_EACH_SECOND: u64 = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn histories_under_random_faults_are_linearizable_and_complete() {
    let seed = seed();
    let faults = play(seed, Faults::new(seed), env_number("SECONDS", 25)).await;
    assert!(faults.done.contains(&Fault::KillAll), "{:?}", faults.done);
}

/// A frozen leader finds answers from before in its sockets when it goes on, while others have elected
/// another and written: see `server/src/raft/pipeline.rs`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_that_were_frozen_serve_nothing_old() {
    let seed = seed();
    play(seed, Faults::only(Fault::PauseLeader, seed), env_number("SECONDS", 12)).await;
}

/// Runs clients under faults for so many seconds, and judges what they saw.
async fn play(seed: u64, mut faults: Faults, seconds: u64) -> Faults {
    let mut cluster = Cluster::start(3).await;
    let sessions = cluster.sessions();
    let stores = stores(&cluster, &sessions).await;
    let registers = Crew::start(Contested::new("chaos"), seed, &stores, stores.len());
    let counter = Crew::start(Counter::new("count"), seed, &stores, stores.len());
    let writers = Crew::writers(&sessions, 3, 100, "ledger");

    let until = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < until || faults.done.len() < 3 {
        let fault = faults.strike(&mut cluster, b"chaos").await;
        say(format!("{fault}: {} answers so far", registers.answered()));
        elapse(faults.breather()).await;
        registers.workload().next_generation();
    }

    // All faults are over: the cluster heals by itself, and everybody can use every key again.
    cluster.wait_whole(BOUND).await;
    cluster.wait_serving(BOUND).await;
    writers.progress(30, BOUND).await;
    let (writes, registers) = (writers.stop().await, registers.stop().await);
    let counter = counter.stop().await;
    let checked = registers.check(&stores).await;
    let recorder = registers.recorder();
    fs::write(cluster.scratch().join("history.txt"), recorder.text()).expect("keep the history");
    let counted = counter.check(&stores).await;
    if let Err(why) = checked.and(counted) {
        panic!("{why}");
    }

    let (refused, unknown) = writes.troubled();
    say(format!(
        "{} faults; {} writes acknowledged, {refused} refused, {unknown} unknown; {} calls answered, {} times counted",
        faults.done.len(),
        writes.answered(),
        recorder.answered(),
        counter.answered(),
    ));
    let enough = ANSWERS_EACH_SECOND * seconds;
    assert!(recorder.answered() as u64 >= enough, "too little traffic to show anything");
    assert!(writes.answered() as u64 >= enough / 2, "too few writes to show anything");
    assert!(counter.answered() as u64 >= enough / 2, "too little was counted to show anything");
    nothing_is_lost(&sessions, &[&*writes], BOUND).await;
    let operations = recorder.operations();
    lies_are_noticed(&operations);
    faults
}

/// Clients of every kind. But for the one of our library each is bound to one node for good, so that what each node
/// answers is seen.
async fn stores(cluster: &Cluster, sessions: &[Session]) -> Vec<Arc<dyn Store>> {
    let mut stores: Vec<Arc<dyn Store>> = Vec::new();
    for _ in 0..CLIENTS {
        stores.extend(Plain::all(sessions, PATIENCE));
    }
    for node in &cluster.nodes {
        stores.push(Arc::new(Rest::new(node.http_address(), PATIENCE)));
    }
    let options = Options { timeout: Duration::from_secs(5), ..Options::default() };
    let library = Client::connect_with(cluster.addresses(), options).await;
    stores.push(Arc::new(library.expect("well-formed addresses")));
    stores
}

/// The history that was just found to be right, with one lie behind it: the judge must notice each,
/// or its word above is worth nothing.
fn lies_are_noticed(operations: &[Operation]) {
    let value = |text: &'static str| Bytes::from_static(text.as_bytes());
    let expecting = |text| Call::CompareAndPut { expected: Some(value(text)), new: value("c") };
    let key = quietest_key(operations);
    let write = |text| (Call::Write(value(text)), Answer::Written);
    let read = |text| (Call::Read, Answer::Value(Some(value(text))));
    let swapped = (expecting("lie-a"), Answer::Conditional(Ok(())));
    for (why, lie) in [
        ("stale read", vec![write("lie-a"), swapped.clone(), read("lie-a")]),
        ("lost write", vec![write("lie-a"), write("lie-b"), read("lie-a")]),
        ("doubled compare-and-put", vec![write("lie-a"), swapped.clone(), swapped]),
        ("unfound value", vec![write("lie-a"), (Call::Delete, Answer::Deleted(false))]),
    ] {
        let mut told = operations.to_vec();
        let end = told.iter().map(|one| one.returned().unwrap_or(one.invoked)).max();
        let mut clock = end.expect("there are") + 1;
        for (call, answer) in lie {
            let completion = Completion::Ok { at: clock + 1, answer, revision: None };
            let request = Request::One(key.clone(), call);
            told.push(Operation { client: 0, request, invoked: clock, completion });
            clock += 2;
        }
        let verdict = check(&told, Budget::default());
        assert!(verdict.is_illegal(), "{why} went unnoticed: {verdict:?}");
    }
}

/// The used key with the fewest calls without an answer: proving that there is no order means trying
/// them all, so the fewer the better.
fn quietest_key(operations: &[Operation]) -> Bytes {
    let mut keys: BTreeMap<&Bytes, (usize, usize)> = BTreeMap::new();
    for operation in operations {
        for key in operation.request.keys() {
            let (unknown, answered) = keys.entry(key).or_default();
            match operation.answer() {
                Some(_) => *answered += 1,
                None => *unknown += 1,
            }
        }
    }
    let used = keys.into_iter().filter(|(_, (_, answered))| *answered >= 10);
    used.min_by_key(|(_, (unknown, _))| *unknown).expect("some key was used").0.clone()
}
