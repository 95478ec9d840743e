//! The six conditions of a cluster, each for one question.

use std::collections::BTreeSet;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    clock,
    crd::{Condition, KvClusterStatus},
    plan::{EARLIER, Plan, Trouble, View},
    seen::Seen,
    unreached,
};

/// Reason of a cluster regions of which have lost their quorum.
pub(crate) const LOST: &str = "QuorumLost";
/// Reason of one that may serve, as far as others know: it is the operator that is not answered.
pub(crate) const UNREACHABLE: &str = "Unreachable";
/// Bound: longest message of a condition, in characters.
const MESSAGE_MAX: usize = 2000;
/// Reasons of `Degraded`, the gravest first: the first that applies is shown.
const GRAVITY: [&str; 14] = [
    LOST,
    "BootstrapVolumeLost",
    "VolumeGoing",
    "ForeignVolume",
    "NameTaken",
    "InvalidSpec",
    EARLIER,
    "VersionRefused",
    "TemplateHidesDisk",
    "NodeLost",
    "DiskFull",
    "PodFailing",
    "PodNotMade",
    "PodNotJoined",
];

/// An answer: status, reason, message.
type Verdict = (Option<bool>, String, String);

pub(crate) fn of(
    view: &View<'_>,
    plan: &Plan,
    status: &KvClusterStatus,
    old: &KvClusterStatus,
    now: Timestamp,
) -> Vec<Condition> {
    let available = available(view, plan);
    let mut degraded = degraded(&plan.troubles);
    if degraded.1 == LOST && available.1 == UNREACHABLE {
        // Lost to the operator, which does nothing about it.
        degraded.1 = UNREACHABLE.to_owned();
    }
    let progressing = progressing(plan);
    let ready = ready(view, plan, status, [&available, &degraded, &progressing]);
    let spec = &view.desired.spec;
    let flag = |set: bool, yes: &str, no: &str, words: &str| -> Verdict {
        (Some(set), if set { yes } else { no }.to_owned(), words.to_owned())
    };
    let verdicts = [
        ("Available", available),
        ("Progressing", progressing),
        ("Degraded", degraded),
        ("Ready", ready),
        ("ReconciliationPaused", flag(spec.paused, "Paused", "NotPaused", "")),
        ("Stopped", flag(spec.stopped, "Stopped", "NotStopped", "")),
    ];
    write(verdicts.into(), old, view.seen, now)
}

/// A cluster that cannot be acted on: what runs goes on as it was.
pub(crate) fn of_untouched(seen: &Seen, plan: &Plan, now: Timestamp) -> Vec<Condition> {
    let old = seen.cluster.status.clone().unwrap_or_default();
    let degraded = degraded(&plan.troubles);
    let ready = (Some(false), degraded.1.clone(), "see Degraded".to_owned());
    let verdicts = vec![("Degraded", degraded), ("Ready", ready)];
    let mut conditions = old.conditions.clone();
    for condition in write(verdicts, &old, seen, now) {
        match conditions.iter_mut().find(|known| known.kind == condition.kind) {
            Some(known) => *known = condition,
            None => conditions.push(condition),
        }
    }
    conditions
}

/// Of a KvCluster that is not understood, in its list as it is: nothing of it is known. Answers whether that is news.
pub(crate) fn say_unreadable(
    conditions: &mut Value,
    why: &str,
    generation: Option<i64>,
    now: Timestamp,
) -> bool {
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Some(all) = conditions.as_array_mut() else { return false };
    let mut news = false;
    for (kind, status) in [("Available", "Unknown"), ("Degraded", "True"), ("Ready", "False")] {
        let known = all.iter().position(|condition| condition["type"] == kind);
        let before = known.map_or(&Value::Null, |at| &all[at]);
        let since = match &before["lastTransitionTime"] {
            Value::String(since) if before["status"] == status => since.clone(),
            _ => clock::text(now),
        };
        let condition = json!({
            "type": kind,
            "status": status,
            "reason": "Unreadable",
            "message": format!("operator {} does not understand the resource: {why}", env!("CARGO_PKG_VERSION"))
                .chars().take(MESSAGE_MAX).collect::<String>(),
            "lastTransitionTime": since,
            "observedGeneration": generation,
        });
        news |= *before != condition;
        match known {
            Some(at) => all[at] = condition,
            None => all.push(condition),
        }
    }
    news
}

fn available(view: &View<'_>, plan: &Plan) -> Verdict {
    let no = |reason: &str, message: String| (Some(false), reason.to_owned(), message);
    if view.desired.spec.stopped {
        return no("Stopped", "the cluster is stopped; its volumes stay".to_owned());
    }
    if !view.is_initialized() {
        return no("NotInitialized", plan.why.clone());
    }
    let regions = &view.regions;
    let lost = regions.quorum_lost();
    let unreached = unreached::nodes(view.seen, view.desired);
    let certain = regions.lost_even_with(&unreached);
    if certain > 0 {
        return no(LOST, format!("no majority answers of {certain} regions"));
    }
    let nobody = regions.total() == 0;
    if (nobody || regions.has_gap) && regions.are_no_majority(unreached.len()) {
        let message =
            if nobody { "no node answers" } else { "no node answers for a part of the keys" };
        return no(LOST, message.to_owned());
    }
    let leaderless = regions.tally(&unreached).leaderless;
    if leaderless > 0 {
        return no("NoLeader", format!("{leaderless} regions have no leader"));
    }
    if nobody || !lost.is_empty() || regions.leaderless() > 0 {
        return no(UNREACHABLE, cut_off(view, &unreached));
    }
    (Some(true), "Serving".to_owned(), "every region has a leader and a quorum".to_owned())
}

/// Whom the operator does not reach, and who has heard of them.
fn cut_off(view: &View<'_>, unreached: &BTreeSet<u64>) -> String {
    let ids: Vec<_> = unreached.iter().map(ToString::to_string).collect();
    let witness = if view.seen.table.is_some() {
        "the placement driver hears them"
    } else {
        "Kubernetes finds them ready"
    };
    format!(
        "nodes {} do not answer the operator, though {witness}: whether every region has its quorum cannot be seen from \
         here, and nothing is done that needs it",
        ids.join(", ")
    )
}

fn degraded(troubles: &[Trouble]) -> Verdict {
    let gravity = |trouble: &&Trouble| {
        GRAVITY.iter().position(|reason| *reason == trouble.reason).unwrap_or(GRAVITY.len())
    };
    match troubles.iter().min_by_key(gravity) {
        None => (Some(false), "AsExpected".to_owned(), String::new()),
        Some(gravest) => {
            let mut sorted: Vec<_> = troubles.iter().collect();
            sorted.sort_by_key(gravity);
            let messages: Vec<_> = sorted.iter().map(|trouble| trouble.message.as_str()).collect();
            (Some(true), gravest.reason.to_owned(), messages.join("; "))
        }
    }
}

fn progressing(plan: &Plan) -> Verdict {
    match &plan.operation {
        Some(operation) => (Some(true), operation.kind.clone(), plan.why.clone()),
        None => (Some(false), "Idle".to_owned(), String::new()),
    }
}

fn ready(
    view: &View<'_>,
    plan: &Plan,
    status: &KvClusterStatus,
    [available, degraded, progressing]: [&Verdict; 3],
) -> Verdict {
    let no = |reason: &str, message: &str| (Some(false), reason.to_owned(), message.to_owned());
    if view.desired.spec.stopped {
        return no("Stopped", "");
    }
    if available.0 != Some(true) {
        let reason = if view.is_initialized() { "Unavailable" } else { "Creating" };
        return no(reason, &available.2);
    }
    if degraded.0 == Some(true) {
        return no("Degraded", &degraded.2);
    }
    if progressing.0 == Some(true) {
        return no(&progressing.1, &progressing.2);
    }
    // An object that is about to be changed, before a restart that it may lead to: no operation yet.
    if plan.action.is_some() && !view.opens_budget(plan.action.as_ref()) {
        return no("Applying", &plan.why);
    }
    let wanted = view.desired.spec.replicas;
    let in_service = view.in_service();
    if status.ready_replicas != wanted || status.replicas != wanted || in_service != wanted {
        let message =
            format!("{} of {wanted} nodes are ready", status.ready_replicas.min(in_service));
        return no("NotReady", &message);
    }
    (Some(true), "Healthy".to_owned(), "as the spec says".to_owned())
}

fn write(
    verdicts: Vec<(&str, Verdict)>,
    old: &KvClusterStatus,
    seen: &Seen,
    now: Timestamp,
) -> Vec<Condition> {
    verdicts
        .into_iter()
        .map(|(kind, (value, reason, message))| {
            let status = match value {
                Some(true) => "True",
                Some(false) => "False",
                None => "Unknown",
            };
            let before = old.conditions.iter().find(|condition| condition.kind == kind);
            let unchanged = before.filter(|condition| condition.status == status);
            Condition {
                kind: kind.to_owned(),
                status: status.to_owned(),
                reason,
                message: message.chars().take(MESSAGE_MAX).collect(),
                last_transition_time: unchanged
                    .map_or_else(|| clock::text(now), |same| same.last_transition_time.clone()),
                observed_generation: seen.cluster.metadata.generation,
            }
        })
        .collect()
}
