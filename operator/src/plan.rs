//! What to do next for a cluster, and why: a pure function of one look at it.
//!
//! At most one change comes of a look. The first rung of the ladder that has something to do decides. The order
//! is that of danger, from a disk that must not begin a second cluster down to a number that somebody would like
//! to be larger. What a rung waits for excludes those below that would take something away meanwhile, and no
//! others: see `ladder.rs`.
//!
//! Every step must be right when it is taken for the first time and when it is taken again after a
//! crash, by another operator, at any line. So nothing is concluded from what was done before, only
//! from what is seen; the recorded operation only says which volume, which node or which pod a
//! sequence was begun for, so that its next step is not taken against another one of the same name.
//!
//! Invariant: no plan takes a node away while a region would lose its quorum without it, as far as
//! can be seen, and the server checks the same again with what only it knows.

mod action;
mod begin;
mod drain;
mod factor;
mod growth;
mod join;
mod keep;
mod ladder;
mod live;
mod preview;
mod refused;
mod repair;
mod roll;
mod scale;
mod step;
mod trouble;
mod view;
mod volumes;
mod waits;

#[cfg(test)]
pub(crate) mod tests;

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

pub use self::{
    action::{Action, Call, Change, Deed, Target},
    waits::stamps,
};
pub(crate) use self::{growth::largest, step::Kind, view::View};
use self::{
    step::Step,
    view::up,
    waits::{NO_POD, deletion},
};
use crate::{
    children,
    crd::{KvCluster, Operation},
    desired::{Defaults, Desired, Invalid},
    seen::Seen,
};

/// How soon the next look is, after a change.
const SOON: Duration = Duration::from_millis(100);
/// While something is waited for. Changes of pods are told by Kubernetes; those of nodes are not.
const POLL: Duration = Duration::from_secs(1);
/// When all is as it should be.
const STEADY: Duration = Duration::from_secs(15);

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Nothing to change now when `None`.
    pub action: Option<Action>,
    /// To be recorded before the action is taken.
    pub operation: Option<Operation>,
    /// One sentence for people: why this, or what is waited for.
    pub why: String,
    /// What is not as it should be, for the condition `Degraded`.
    pub troubles: Vec<Trouble>,
    /// When to look again at the latest.
    pub requeue: Duration,
}

/// Something that a person should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// One word.
    pub reason: &'static str,
    pub message: String,
}

/// What is next. `now` is the wall clock, for waits of minutes.
#[must_use]
pub fn plan(seen: &Seen, defaults: &Defaults, now: Timestamp) -> Plan {
    if is_deleted(&seen.cluster) {
        return of_deleted(seen, defaults, now);
    }
    let desired = match Desired::of(&seen.cluster, defaults) {
        Ok(desired) => desired,
        Err(Invalid(wrong)) => {
            let message = wrong.join("; ");
            let trouble = Trouble { reason: "InvalidSpec", message };
            let Some(known) = observed(seen, defaults) else {
                return Plan {
                    operation: recorded(seen).cloned(),
                    ..quiet(INVALID, vec![trouble])
                };
            };
            // What runs is looked after no less for it.
            let is_known = domain_of_nodes(seen, &known).is_none();
            return halted(View::new(seen, &known, now), INVALID, vec![trouble], |view| {
                if is_known {
                    view.look_for_trouble_of_nodes(Some(INVALID));
                } else {
                    view.look_for_disks_at_risk(Some(INVALID));
                }
            });
        }
    };
    if let Some(domain) = domain_of_nodes(seen, &desired) {
        let message = of_domain(&domain, &desired);
        let trouble = Trouble { reason: "ClusterDomainChanged", message };
        // Who is silent is not told: by these names all are.
        return halted(View::new(seen, &desired, now), OTHER_DOMAIN, vec![trouble], |view| {
            view.look_for_disks_at_risk(Some(OTHER_DOMAIN));
        });
    }
    if let Some(what) = &seen.earlier {
        let trouble = Trouble { reason: EARLIER, message: of_earlier(what) };
        let why = "the cluster is an earlier operator's";
        return Plan { operation: recorded(seen).cloned(), ..quiet(why, vec![trouble]) };
    }
    let mut view = View::new(seen, &desired, now);
    if desired.spec.paused {
        return halted(view, PAUSED, Vec::new(), |view| view.look_for_trouble());
    }
    let recorded = view.recorded.cloned();
    let step = view.step();
    view.look_for_trouble();
    let lasted = view.what_lasted();
    let noted = |operation: Operation| Some(Operation { lasted, ..operation });
    let troubles = view.troubles;
    match step {
        Some(Step::Act(operation, action, why)) => {
            let operation = noted(operation);
            let why = refused::told(seen, &action, why, now);
            Plan { action: Some(action), operation, why, troubles, requeue: SOON }
        }
        Some(
            Step::Wait(operation, why)
            | Step::Away(operation, why)
            | Step::Refused(operation, why)
            | Step::HeldUp(operation, why),
        ) => Plan { action: None, operation: noted(operation), why, troubles, requeue: POLL },
        Some(Step::Keep(action, why)) => {
            // What was begun goes on after it, with what it was begun for.
            let operation = recorded;
            Plan { action: Some(action), operation, why, troubles, requeue: SOON }
        }
        None => quiet("everything is as it should be", troubles),
    }
}

/// Nothing is done, but what keeps disks from being lost meanwhile. `look`: what is told of, besides.
fn halted(
    mut view: View<'_>,
    why: &str,
    troubles: Vec<Trouble>,
    look: impl FnOnce(&mut View<'_>),
) -> Plan {
    view.troubles = troubles;
    look(&mut view);
    view.look_for_refused_deeds();
    let operation = view.recorded.cloned();
    let protects = view.protect();
    let quiet = quiet(why, view.troubles);
    match protects {
        Some(Step::Keep(action, what)) => {
            let why = format!("{why}, but {what}");
            Plan { action: Some(action), operation, why, requeue: SOON, ..quiet }
        }
        _ => Plan { operation, ..quiet },
    }
}

/// Somebody has decided that it goes. It stays as long as finalizers keep it.
pub(crate) fn is_deleted(cluster: &KvCluster) -> bool {
    cluster.metadata.deletion_timestamp.is_some()
}

/// Nobody looks after its nodes any more. Its disks are to outlive it all the same, where that is asked for: others may
/// keep the KvCluster for days, in which machines are drained and claims deleted.
fn of_deleted(seen: &Seen, defaults: &Defaults, now: Timestamp) -> Plan {
    let why = "the cluster is being deleted; Kubernetes takes its objects along";
    let held = held_deletion(seen);
    let known = observed(seen, defaults).filter(|known| known.spec.storage.retain);
    let Some(known) = known else { return quiet(why, held.into_iter().collect()) };
    let is_held = held.is_some();
    let view = View::new(seen, &known, now);
    let plan = halted(view, why, held.into_iter().collect(), |view| {
        if is_held {
            view.look_for_disks_at_risk(None);
        }
    });
    // Nothing of what was begun is gone on with.
    Plan { operation: None, ..plan }
}

/// No copy is missed, as far as one look tells.
#[must_use]
pub fn is_whole(seen: &Seen, desired: &Desired, now: Timestamp) -> bool {
    View::new(seen, desired, now).is_whole()
}

/// Everything that a spec would lead to, one line each, if nothing happened meanwhile.
#[must_use]
pub fn preview(seen: &Seen, defaults: &Defaults, now: Timestamp) -> Vec<String> {
    if is_deleted(&seen.cluster) {
        let plan = of_deleted(seen, defaults, now);
        return vec![match plan.action {
            Some(_) => plan.why,
            None => format!("nothing: {}", plan.why),
        }];
    }
    let halted = |desired: &Desired, halted: &str, whys: &[String]| {
        View::new(seen, desired, now).preview_halted(halted, whys)
    };
    match Desired::of(&seen.cluster, defaults) {
        Ok(desired) => match (domain_of_nodes(seen, &desired), &seen.earlier) {
            (Some(domain), _) => halted(&desired, OTHER_DOMAIN, &[of_domain(&domain, &desired)]),
            (None, Some(what)) => vec![format!("nothing: {}", of_earlier(what))],
            (None, None) if desired.spec.paused => halted(&desired, PAUSED, &[PAUSED.to_owned()]),
            (None, None) => View::new(seen, &desired, now).preview(),
        },
        Err(Invalid(wrong)) => match observed(seen, defaults) {
            Some(known) => halted(&known, INVALID, &wrong),
            None => wrong.into_iter().map(|wrong| format!("nothing: {wrong}")).collect(),
        },
    }
}

/// Why next to nothing is done.
const PAUSED: &str = "reconciliation is paused";
const INVALID: &str = "the spec cannot be acted on";
const OTHER_DOMAIN: &str = "the DNS domain is another than that of the nodes";

/// What is known of a cluster whatever is wrong with its spec, and of one that is ours to look after.
fn observed(seen: &Seen, defaults: &Defaults) -> Option<Desired> {
    Desired::to_observe(&seen.cluster, defaults).filter(|_| seen.earlier.is_none())
}

fn of_domain(domain: &str, desired: &Desired) -> String {
    format!(
        "its nodes are known by names in the DNS domain {domain}, and this operator was told that it is {}: set the \
         operator's cluster domain back; until then nothing is done but what keeps disks",
        desired.names.domain
    )
}

/// The reason of a cluster that an operator made which had one StatefulSet for all nodes.
pub(crate) const EARLIER: &str = "MadeByEarlierOperator";

fn of_earlier(what: &str) -> String {
    format!(
        "{what} is of an earlier operator, which made one StatefulSet for all nodes; this one makes one for each, \
         and does not turn one into the other. Nothing is done: go on with the earlier operator, or take the \
         data out (kvctl export) and into a KvCluster of another name (kvctl import)"
    )
}

/// Finalizers that Kubernetes itself sets and takes off, as it is asked to delete.
const FINALIZERS_OF_KUBERNETES: [&str; 2] = ["foregroundDeletion", "orphan"];
/// Bound: others may take so long, in seconds, for what they do before the cluster goes; then it is told.
const DELETED_SECONDS: i64 = 60;

/// We set no finalizer: who keeps a cluster that was deleted is somebody else.
fn held_deletion(seen: &Seen) -> Option<Trouble> {
    let metadata = &seen.cluster.metadata;
    let (whose, since) = deletion(seen)?;
    let all = metadata.finalizers.iter().flatten().map(String::as_str);
    let others: Vec<_> = all.filter(|name| !FINALIZERS_OF_KUBERNETES.contains(name)).collect();
    let lasted = seen.answers.lasted(&whose, &since).unwrap_or(0);
    if others.is_empty() || lasted < DELETED_SECONDS {
        return None;
    }
    let (namespace, name) = (metadata.namespace.as_deref(), metadata.name.as_deref());
    let message = format!(
        "the KvCluster was deleted and does not go: finalizers of others keep it ({}). Its nodes run on and nobody \
         looks after them, but for disks that are to stay (storage.retain), and it cannot be undeleted. Whoever set them takes them off when they are done; if nobody \
         will, `kubectl -n {} edit kvcluster {}` does",
        others.join(", "),
        namespace.unwrap_or_default(),
        name.unwrap_or_default()
    );
    Some(Trouble { reason: "DeletionHeld", message })
}

/// What was begun. It stays noted while nothing may be done about it.
fn recorded(seen: &Seen) -> Option<&Operation> {
    seen.cluster.status.as_ref().and_then(|status| status.operation.as_ref())
}

/// The domain that the nodes are known in, if it is another than ours. By names of ours no node would be
/// found: each would count as silent, and what is made for them would have names that none has. It stands in
/// the pods' templates and in the node table; and in the status, for when there is no template and nobody answers.
pub(crate) fn domain_of_nodes(seen: &Seen, desired: &Desired) -> Option<String> {
    let hosts = seen.sets().filter_map(|(_, set)| {
        let containers = set.pointer("/spec/template/spec/containers")?.as_array()?;
        let variables =
            containers.iter().flat_map(|each| each["env"].as_array().into_iter().flatten());
        variables
            .filter(|variable| variable["name"] == children::ADVERTISE_HOST)
            .find_map(|variable| variable["value"].as_str())
    });
    let members = seen.table.iter().flat_map(|table| &table.nodes);
    let addresses = members.filter(|row| row.is_member()).map(|row| row.address.as_str());
    let noted = seen.cluster.status.iter().flat_map(|status| &status.endpoints);
    let mut all = hosts.chain(addresses).chain(noted.map(String::as_str));
    all.find_map(|host| desired.names.other_domain(host)).map(str::to_owned)
}

fn quiet(why: &str, troubles: Vec<Trouble>) -> Plan {
    let requeue = if troubles.is_empty() { STEADY } else { POLL * 5 };
    Plan { action: None, operation: None, why: why.to_owned(), troubles, requeue }
}
