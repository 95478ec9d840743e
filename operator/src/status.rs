//! What the operator answers: the cluster as it was seen in one look, never as it was wished.
//!
//! Everything is computed anew from the look; from the older status come only what is kept on purpose:
//! the notes that are for ever, the time of a condition's last turn, and what was known of a node that
//! is silent now. An unchanged cluster has an unchanged status, which is not written.

use std::collections::BTreeSet;

use k8s_openapi::jiff::Timestamp;

use crate::{
    conditions,
    crd::{KvClusterStatus, Member, RegionCounts},
    desired::{Defaults, Desired},
    names::CLIENT_PORT,
    plan::{self, Kind, Plan, View},
    regions::Tally,
    seen::{Node, Row, Seen, State},
};

/// Bound: entries of a list of the status, as in the schema.
const REGIONS_LISTED: usize = 100;
const MEMBERS_LISTED: usize = 1000;

/// The status after a look that led to `plan`, before its action.
#[must_use]
pub fn compute(seen: &Seen, plan: &Plan, defaults: &Defaults, now: Timestamp) -> KvClusterStatus {
    let old = seen.cluster.status.clone().unwrap_or_default();
    // How the nodes are is seen whether or not the spec can be acted on.
    let Some(desired) = Desired::to_observe(&seen.cluster, defaults) else {
        let conditions = conditions::of_untouched(seen, plan, now);
        return KvClusterStatus {
            observed_generation: seen.cluster.metadata.generation,
            conditions,
            ..old
        };
    };
    if seen.earlier.is_some() {
        // What runs is not looked at, and goes on as it was.
        let conditions = conditions::of_untouched(seen, plan, now);
        return KvClusterStatus { conditions, ..old };
    }
    let view = View::new(seen, &desired, now);
    let live = |node: &Node| match node {
        Node::Joined(joined) => joined.cluster_id == desired.cluster_id && joined.ready,
        _ => false,
    };
    let ready = seen.pods.values().filter(|pod| pod.ready && !pod.terminating && live(&pod.node));
    let begins = plan.operation.as_ref().filter(|operation| {
        operation.kind == Kind::Create.name() && operation.step == "Initialize"
    });
    let mut status = KvClusterStatus {
        observed_generation: seen.cluster.metadata.generation,
        selector: Some(desired.names.selector_text()),
        replicas: count(seen.pods.len()),
        ready_replicas: count(ready.count()),
        version: version(&view),
        feature_level: feature_level(&view).max(old.feature_level),
        // Not what the spec names: a name that is taken back must leave no trace.
        image: old.image.clone().or_else(|| Some(defaults.server_image.clone())),
        cluster_id: old.cluster_id.clone(),
        bootstrap_volume: old
            .bootstrap_volume
            .clone()
            .or_else(|| begins.and_then(|operation| operation.volume_uid.clone())),
        bootstrap_disk: match &old.bootstrap_volume {
            Some(_) => old.bootstrap_disk.clone(),
            None => begins.and_then(|operation| {
                let uid = operation.volume_uid.as_deref();
                let mut claims = seen.volumes.values();
                claims.find(|claim| Some(claim.uid.as_str()) == uid)?.volume.clone()
            }),
        },
        largest_volume: plan::largest(seen)
            .map(|size| size.0)
            .or_else(|| old.largest_volume.clone()),
        conditions: Vec::new(),
        members: members(&view, &old),
        regions: regions(&view).or_else(|| old.regions.clone().filter(|_| desired.spec.stopped)),
        operation: plan.operation.clone(),
        endpoints: Vec::new(),
    };
    if status.cluster_id.is_some() {
        let names = &desired.names;
        // Clients go on where the nodes are known, and the note stays by which a changed domain is found.
        let domain = plan::domain_of_nodes(seen, &desired).unwrap_or_else(|| names.domain.clone());
        let endpoint =
            |service: &str| format!("{service}.{}.svc.{domain}:{CLIENT_PORT}", names.namespace);
        status.endpoints = vec![endpoint(&names.name), endpoint(&names.clients())];
    }
    status.conditions = conditions::of(&view, plan, &status, &old, now);
    status
}

/// How the regions are, for alerts. `unreached`: nodes of [`crate::unreached`]. Of a cluster that has not begun, is to be stopped
/// or is not looked at, none is missed.
#[must_use]
pub fn tally(seen: &Seen, desired: &Desired, unreached: &BTreeSet<u64>, now: Timestamp) -> Tally {
    let view = View::new(seen, desired, now);
    let is_to_serve = view.is_initialized() && !desired.spec.stopped && seen.earlier.is_none();
    if is_to_serve { view.regions.tally(unreached) } else { Tally::default() }
}

/// The version of all nodes; while they differ, all of them.
fn version(view: &View<'_>) -> Option<String> {
    let joined = view.seen.joined(&view.desired.cluster_id);
    let mut versions: Vec<_> = joined.map(|(_, joined)| joined.version.as_str()).collect();
    versions.sort_unstable();
    versions.dedup();
    (!versions.is_empty()).then(|| versions.join(", "))
}

/// As the nodes say; one that lags behind says less.
fn feature_level(view: &View<'_>) -> Option<i32> {
    let joined = view.seen.joined(&view.desired.cluster_id);
    let known = joined.map(|(_, joined)| joined.feature_level).filter(|level| *level > 0);
    known.max().and_then(|level| i32::try_from(level).ok())
}

fn regions(view: &View<'_>) -> Option<RegionCounts> {
    let regions = &view.regions;
    let lost = regions.quorum_lost();
    (regions.total() > 0).then(|| RegionCounts {
        total: wide(regions.total()),
        healthy: wide(regions.healthy()),
        under_replicated: wide(regions.under_replicated()),
        leaderless: wide(regions.leaderless()),
        quorum_lost: lost
            .into_iter()
            .take(REGIONS_LISTED)
            .map(|id| i64::try_from(id).unwrap_or(i64::MAX))
            .collect(),
    })
}

fn members(view: &View<'_>, old: &KvClusterStatus) -> Vec<Member> {
    let Some(table) = &view.seen.table else {
        return old.members.iter().map(|member| known(view, member)).collect();
    };
    let rows = table.nodes.iter().filter(|row| row.state != State::Removed);
    let mut members: Vec<_> = rows.map(|row| member(view, row, old)).collect();
    members.sort_unstable_by_key(|member| member.node_id);
    members.truncate(MEMBERS_LISTED);
    members
}

/// A node of the table.
fn member(view: &View<'_>, row: &Row, old: &KvClusterStatus) -> Member {
    let node_id = i64::try_from(row.node_id).unwrap_or(i64::MAX);
    let names = &view.desired.names;
    let ordinal = names.ordinal_at(&row.address);
    let answers = ordinal.filter(|ordinal| view.answers(*ordinal, row.node_id));
    let volume = answers.and_then(|ordinal| view.seen.volumes.get(&ordinal));
    let pod = answers.and_then(|ordinal| view.seen.pods.get(&ordinal));
    let before = old.members.iter().find(|member| member.node_id == node_id);
    Member {
        node_id,
        pod_name: ordinal.map_or_else(|| row.address.clone(), |ordinal| names.pod(ordinal)),
        role: match row.state {
            State::Joining | State::Learner => "learner".to_owned(),
            State::Up | State::Draining | State::Removed => "voter".to_owned(),
        },
        state: if row.state == State::Up && !view.is_alive(row) {
            "Down"
        } else {
            row.state.name()
        }
        .to_owned(),
        leaders: i32::try_from(row.leaders).unwrap_or(i32::MAX),
        peers: i32::try_from(row.peers).unwrap_or(i32::MAX),
        pvc_uid: volume
            .map(|volume| volume.uid.clone())
            .or_else(|| before.and_then(|member| member.pvc_uid.clone())),
        born_with: before
            .and_then(|member| member.born_with.clone())
            .or_else(|| pod.and_then(|pod| pod.template_hash.clone())),
        version: Some(row.version.clone()).filter(|version| !version.is_empty()),
    }
}

/// A node as it was known, while nobody can say how it is.
fn known(view: &View<'_>, member: &Member) -> Member {
    let answers = view
        .seen
        .joined(&view.desired.cluster_id)
        .any(|(_, joined)| i64::try_from(joined.node_id) == Ok(member.node_id));
    let state = if view.desired.spec.stopped {
        "Stopped"
    } else if answers {
        "Up"
    } else {
        "Down"
    };
    Member { state: state.to_owned(), ..member.clone() }
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn wide(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
