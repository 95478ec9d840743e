//! One pass: look, plan, note, act. At most one change of the world comes of it.
//!
//! Ordering: the operation is noted before its first side effect, in a pass of its own; a pass whose
//! plan is not the noted one notes it and changes nothing. So whoever comes after a crash knows what was
//! begun, and for which volume and node.

use std::time::Duration;

use crate::{
    crd::{KvClusterStatus, Operation},
    desired::Defaults,
    error::Error,
    key::Key,
    plan::{self, Action, Plan},
    seen::Seen,
    status,
    world::{Made, World},
};

/// After something was noted or changed.
const AT_ONCE: Duration = Duration::from_millis(50);
/// After a refusal: the other side needs time.
const REFUSED: Duration = Duration::from_secs(2);

/// What a pass led to.
#[derive(Debug)]
pub struct Outcome {
    pub seen: Seen,
    pub plan: Plan,
    pub status: KvClusterStatus,
    pub did: Did,
    /// When to look again, at the latest.
    pub requeue: Duration,
}

/// What was done about the plan's action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Did {
    /// There was nothing to do.
    Nothing,
    /// The operation was noted; the action comes in the next pass.
    Noted,
    Done(Made),
    /// Why not; it is tried again.
    Refused(String),
    /// It was taken, and others have it otherwise; it is tried again.
    Contended(String),
}

/// `None`: there is no such cluster any more.
///
/// # Errors
/// When the look failed or a change may have been made or not: look again, later.
pub async fn pass<W: World>(
    world: &W,
    key: &Key,
    defaults: &Defaults,
) -> Result<Option<Outcome>, Error> {
    let Some(seen) = world.look(key).await? else { return Ok(None) };
    let now = world.now();
    let plan = plan::plan(&seen, defaults, now);
    let mut status = status::compute(&seen, &plan, defaults, now);
    let outcome =
        |seen, plan, status, did, requeue| Ok(Some(Outcome { seen, plan, status, did, requeue }));
    let old = seen.cluster.status.clone().unwrap_or_default();
    let is_deleted = plan::is_deleted(&seen.cluster);
    // The notes that an action relies on. Until a look shows them, it is not taken. What keeps the disks of a cluster that
    // is being deleted relies on none.
    let noted = is_deleted
        || (begun(&old) == begun(&status) && old.bootstrap_volume == status.bootstrap_volume);
    if let Some(Action::Latch { cluster_id }) = plan.action.as_ref().filter(|_| noted) {
        status.cluster_id = Some(cluster_id.clone());
    }
    // Of one that is being deleted whose it is to let it go is told, and nothing else is written any more.
    let tells = !is_deleted || !plan.troubles.is_empty();
    if tells && !seen.answers.is_noted(&status, &old, now) {
        world.note(&seen.cluster, &status).await?;
        crash_point("after-note");
    }
    let Some(action) = plan.action.clone() else {
        let requeue = plan.requeue;
        return outcome(seen, plan, status, Did::Nothing, requeue);
    };
    if !noted {
        return outcome(seen, plan, status, Did::Noted, AT_ONCE);
    }
    let result = match &action {
        // With the status.
        Action::Latch { .. } => Ok(Made::AsAsked),
        Action::Call(call) => world.call(&seen, call).await.map(|()| Made::AsAsked),
        Action::Change(change) => world.change(key, change).await,
    };
    crash_point(action.deed().crash_point());
    match result {
        Ok(made) => {
            let requeue = plan.requeue;
            outcome(seen, plan, status, Did::Done(made), requeue)
        }
        Err(Error::Refused(why)) => outcome(seen, plan, status, Did::Refused(why), REFUSED),
        Err(Error::Contended(why)) => outcome(seen, plan, status, Did::Contended(why), REFUSED),
        Err(error) => Err(error),
    }
}

/// What is being done, without what has lasted: that spares whoever comes next a wait, and an older definition does not
/// keep it.
fn begun(status: &KvClusterStatus) -> Option<Operation> {
    status.operation.clone().map(|operation| Operation { lasted: Vec::new(), ..operation })
}

/// Where tests end the process. Compiled to nothing without the feature `failpoints`.
fn crash_point(_name: &'static str) {
    fail::fail_point!(_name, |_| std::process::abort());
}
