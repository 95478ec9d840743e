//! Ten times more callers than a node takes: those it takes are served well, the others are told
//! at once, and nothing is left of it afterwards.

use std::{sync::Arc, time::Duration};

use flotilla_proto::v1::error_detail::Reason;
use flotilla_tests::harness::{Builder, Outcome, Session, detail, elapse, outcome, say};
use tokio::{sync::Mutex, task::JoinSet, time::Instant};
use tonic::Code;

/// What the node takes at one time.
const LIMIT: usize = 32;

#[derive(Default)]
struct Tally {
    served: Vec<Duration>,
    busy: usize,
    other: Vec<String>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_times_too_many_callers_are_told_and_the_others_served() {
    let mut cluster =
        Builder::new(3).set("limits.requests_in_flight_max", &LIMIT.to_string()).start().await;
    let leader = cluster.leader(b"overload").await;
    // As many connections as it takes, so that no limit of one connection hides the node's.
    let sessions: Vec<Session> = (0..8).map(|_| cluster.nodes[leader].session()).collect();
    let alone = burst(&sessions, 4, Duration::from_secs(2)).await;
    assert!(alone.busy == 0 && alone.other.is_empty(), "{} busy, {:?}", alone.busy, alone.other);
    let memory_before = cluster.nodes[leader].memory_bytes();

    let crowd = burst(&sessions, 10 * LIMIT, Duration::from_secs(5)).await;
    let served = crowd.served.len();
    say(format!("{served} served, {} told to wait, {} other", crowd.busy, crowd.other.len()));
    assert!(crowd.busy > 0, "ten times the limit and nobody was told");
    assert!(crowd.other.is_empty(), "only clear answers: {:?}", &crowd.other[..1]);
    assert!(served > alone.served.len(), "a full node serves more than a quiet one: {served}");
    let mut times = crowd.served;
    times.sort();
    let slow = times[times.len() * 99 / 100];
    assert!(slow < Duration::from_secs(2), "99 of 100 are served within {slow:?}");
    let memory = cluster.nodes[leader].memory_bytes();
    assert!(memory < memory_before + (200 << 20), "{memory_before} to {memory} bytes");

    let said = cluster.nodes[leader].output();
    assert!(!said.contains("locally-reset streams"), "refusals wear connections out:\n{said}");

    // At once, as if nothing had been.
    let after = burst(&sessions, 4, Duration::from_secs(2)).await;
    assert!(after.busy == 0 && after.other.is_empty(), "{} busy, {:?}", after.busy, after.other);
    assert!(after.served.len() * 2 > alone.served.len(), "half as fast as before");
    cluster.wait_whole(Duration::from_secs(20)).await;
}

/// `callers` call for a while, each again as soon as it is answered.
async fn burst(sessions: &[Session], callers: usize, time: Duration) -> Tally {
    let tally = Arc::new(Mutex::new(Tally::default()));
    let end = Instant::now() + time;
    let mut tasks = JoinSet::new();
    for caller in 0..callers {
        let session = sessions[caller % sessions.len()].clone();
        let tally = Arc::clone(&tally);
        tasks.spawn(async move {
            for number in 0_u64.. {
                if Instant::now() > end {
                    return;
                }
                let begun = Instant::now();
                let answer = session.put(format!("overload/{caller}/{number}"), "value").await;
                let taken = begun.elapsed();
                match answer {
                    Ok(_) => tally.lock().await.served.push(taken),
                    Err(status) => {
                        let busy = status.code() == Code::ResourceExhausted
                            && outcome(&status) == Outcome::NotApplied
                            && detail(&status).is_some_and(|detail| {
                                detail.retryable
                                    && detail.retry_after_ms > 0
                                    && matches!(detail.reason, Some(Reason::ServerIsBusy(_)))
                            });
                        let mut tally = tally.lock().await;
                        if busy {
                            tally.busy += 1;
                        } else {
                            tally.other.push(format!("{status:?}"));
                        }
                        drop(tally);
                        // As a client that does what it is told: it holds back.
                        elapse(Duration::from_millis(20)).await;
                    }
                }
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.expect("a caller does not panic");
    }
    Arc::into_inner(tally).expect("all callers have ended").into_inner()
}
