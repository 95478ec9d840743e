//! Clients that fight over a few keys, each of one node. What they were told can be explained by one copy of the data.

use std::time::Duration;

use flotilla_tests::{
    harness::Session,
    history::{Budget, Recorder, Verdict, check, check_revisions},
    workload::Registers,
};

use crate::stage::{Phase, Stage};

/// How long a set of keys is fought over.
const GENERATION: Duration = Duration::from_millis(500);
/// Bound on the search for an explanation.
const CONFIGURATIONS_MAX: usize = 300_000;
const COMPARED_AGAIN: usize = 4;

pub(super) async fn act(stage: Stage) -> turmoil::Result {
    stage.until(Phase::Faults).await;
    let registers = Registers::start(stage.seed, &stage.sessions(), stage.sizes.clients);
    while stage.phase() < Phase::End {
        tokio::time::sleep(GENERATION).await;
        registers.next_generation();
    }
    let sessions = stage.sessions();
    let recorder = registers.stop(&sessions).await;
    judge(&stage, &recorder);
    // Ordering: behind the clients, so that all of what they did is compared.
    if let Err(how) = compare(&sessions[0]).await {
        stage.broke("replicas-equal", how);
    }
    Ok(())
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

fn judge(stage: &Stage, recorder: &Recorder) {
    stage.add_answered(recorder.answered());
    stage.trace.note(recorder.text().as_bytes());
    let operations = recorder.operations();
    if let Err(how) = check_revisions(&operations) {
        return stage.broke("revisions", how);
    }
    let budget = Budget { time: Duration::from_secs(30), configurations: CONFIGURATIONS_MAX };
    match check(&operations, budget) {
        Verdict::Legal => {}
        Verdict::Illegal { keys, explanation } => {
            stage.broke("linearizability", format!("{keys:?}: {explanation}"));
        }
        // It shows nothing, in either direction.
        Verdict::Undecided { .. } => stage.marks.hit("a history was too hard to judge"),
    }
}
