//! Clients that fight over a few keys, each of one node. What they were told can be explained by one copy of the data.

use std::time::Duration;

use bytes::Bytes;
use flotilla_tests::{
    harness::Session,
    history::{Answer, Budget, Call, Request},
    workload::{Contested, Crew, Plain, Store, Workload as _},
};

use crate::stage::{Phase, Stage};

/// How long a client waits before it counts a call as one whose outcome is unknown.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a set of keys is fought over.
const GENERATION: Duration = Duration::from_secs(1);
/// Bound: of a judgement. A history past it shows nothing, and that is a failure.
const BUDGET: Budget = Budget { time: Duration::from_secs(30), configurations: 1_000_000 };
const COMPARED_AGAIN: usize = 4;
/// Bound: attempts of a write at the end.
const SERVED_WITHIN: usize = 20;

pub(super) async fn act(stage: Stage) -> turmoil::Result {
    stage.until(Phase::Faults).await;
    let stores = Plain::all(&stage.sessions(), PATIENCE);
    let contested = Contested::new("registers").judged_within(BUDGET);
    let (count, pace) = (stores.len() * stage.sizes.clients, stage.sizes.pace);
    let crew = Crew::start_at_pace(contested, stage.seed, &stores, count, pace);
    while stage.phase() < stage.busy_until() {
        tokio::time::sleep(GENERATION).await;
        crew.workload().next_generation();
    }
    let registers = crew.stop().await;
    stage.until(Phase::End).await;
    let sessions = stage.sessions();
    for store in Plain::all(&sessions, PATIENCE) {
        if let Err((invariant, how)) = serves(store.as_ref()).await {
            stage.broke(invariant, format!("{}: {how}", store.name()));
        }
    }
    let judged = registers.check(&Plain::all(&sessions, PATIENCE)).await;
    stage.add_answered(registers.answered());
    stage.trace.note(registers.recorder().text().as_bytes());
    if let Err(how) = judged {
        stage.broke("linearizability", how);
    }
    // Ordering: behind the clients, so that all of what they did is compared.
    if let Err(how) = compare(&sessions[0]).await {
        stage.broke("replicas-equal", how);
    }
    Ok(())
}

/// Whether a node takes writes, and gives back what was written; else which promise it breaks. It may be busy at first, and
/// connections from before may have to break. What had no answer may come to be written later.
async fn serves(store: &dyn Store) -> Result<(), (&'static str, String)> {
    let key = Bytes::from(format!("served/{}", store.name()));
    let (mut why, mut unanswered) = (String::new(), Vec::new());
    for attempt in 0..SERVED_WITHIN {
        let value = Bytes::from(attempt.to_string());
        let write = Request::One(key.clone(), Call::Write(value.clone()));
        let read = Request::One(key.clone(), Call::Read);
        let read = match store.ask(&write).await {
            Ok(_) => store.ask(&read).await.map(|reply| reply.answer),
            Err(failure) => {
                unanswered.push(value.clone());
                Err(failure)
            }
        };
        match read {
            Ok(Answer::Value(Some(found))) if found == value => return Ok(()),
            Ok(Answer::Value(Some(found))) if unanswered.contains(&found) => {
                why = format!("{value:?} was written, and then {found:?}");
            }
            Ok(answer) => {
                let how = format!("{value:?} was written, and read as {answer:?}");
                return Err(("read-your-writes", how));
            }
            Err(failure) => why = failure.to_string(),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(("nodes-serve", why))
}

/// Compares the peers of all regions. A call may be lost with a connection from before; two peers that differ differ again.
async fn compare(session: &Session) -> Result<(), String> {
    for _ in 1..COMPARED_AGAIN {
        if session.check_regions().await.is_ok() {
            return Ok(());
        }
    }
    session.check_regions().await
}
