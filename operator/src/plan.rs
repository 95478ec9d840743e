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

mod begin;
mod drain;
mod factor;
mod join;
mod keep;
mod ladder;
mod preview;
mod refused;
mod repair;
mod roll;
mod scale;
mod volumes;

#[cfg(test)]
pub(crate) mod tests;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use k8s_openapi::{
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::OwnerReference},
    jiff::Timestamp,
};
use serde_json::Value;

use crate::{
    answers::Stamp,
    children::{self, Child},
    clock,
    crd::{Lasted, Operation},
    desired::{Defaults, Desired, Invalid},
    regions::Regions,
    seen::{Pod, Row, Seen, State, Table},
    skew,
};

/// How soon the next look is, after a change.
const SOON: Duration = Duration::from_millis(100);
/// While something is waited for. Changes of pods are told by Kubernetes; those of nodes are not.
const POLL: Duration = Duration::from_secs(1);
/// Bound: entries of the list, as in the schema. What is beyond is waited for once more by whoever comes next.
const LASTED_MAX: usize = 100;
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

/// One change of the world.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Call(Call),
    Change(Change),
    /// Notes in the status that the cluster was initialized, for ever.
    Latch {
        cluster_id: String,
    },
}

/// One call of the service Cluster. Those that change the node table carry the version of the table
/// that was seen, so that an operator that slept meanwhile does no harm.
#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    /// Makes the cluster of all its first nodes or of none. On the node of one pod; the other calls may be sent to any node.
    Initialize {
        pod: i32,
        cluster_id: String,
        replication_factor: u32,
        /// Client addresses of all the nodes that the cluster begins with, that of the pod among them.
        first_nodes: Vec<String>,
        /// Keys at which regions are cut from birth.
        split_keys: Vec<String>,
    },
    AddLearner {
        pod: i32,
        address: String,
        expected_version: u64,
    },
    Promote {
        node_id: u64,
        expected_version: u64,
    },
    RemoveNode {
        node_id: u64,
        force: bool,
        expected_version: u64,
    },
    CancelRemoveNode {
        node_id: u64,
        expected_version: u64,
    },
    /// Peers per region from now on.
    SetReplicationFactor {
        replication_factor: u32,
        expected_version: u64,
    },
    /// Zero ends it.
    EvictLeaders {
        node_id: u64,
        duration: Duration,
    },
}

/// One change of an object. Deletions carry the uid of what was seen.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// With the path at which it is not as it should be, unless it is not there.
    Apply(Child, Box<Value>, Option<String>),
    /// Instead of what is there, of the same version: items of others in our lists go.
    Replace(Child, Box<Value>, Option<String>),
    Delete {
        child: Child,
        name: String,
        uid: String,
        keep_dependents: bool,
    },
    /// The StatefulSet of a node with a pod or without, of the same version as was seen.
    Scale {
        ordinal: i32,
        set: Box<Value>,
        replicas: i32,
    },
    DeletePod {
        name: String,
        uid: String,
    },
    MarkVolume {
        name: String,
        uid: String,
        node_id: String,
    },
    /// The mark is taken off: the disk is a member's, or is to be. Of the same version as was seen.
    UnmarkVolume {
        name: String,
        uid: String,
        version: String,
    },
    /// A claim that is known by its uid bears the cluster's id, as the others do.
    NoteVolume {
        name: String,
        uid: String,
        cluster_id: String,
    },
    /// The claim, of the same version as was seen: its mark may have been taken off. Its PersistentVolume with the
    /// data is kept where there is one to keep.
    DeleteVolume {
        name: String,
        uid: String,
        keep: Option<String>,
        version: String,
    },
    /// The PersistentVolume of a claim that somebody deletes outlives it.
    KeepVolume {
        name: String,
        uid: String,
        volume: String,
    },
    /// With whom a claim goes: those who have nothing to do with us, and the KvCluster where it is not to outlive it.
    /// Of the same version as was seen.
    SetVolumeOwners {
        name: String,
        uid: String,
        version: String,
        owners: Vec<OwnerReference>,
    },
    GrowVolume {
        name: String,
        uid: String,
        size: Quantity,
    },
}

/// What an operation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Create,
    ScaleUp,
    ScaleDown,
    CancelScaleDown,
    ReplicationFactor,
    RollingUpdate,
    Repair,
    /// Pods that somebody took away are put back.
    Restore,
    GrowVolumes,
    Stop,
    Start,
}

impl Kind {
    /// As it stands in the status. Invariant: never another text for the same kind, since an operation
    /// that an older operator began is found again by it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Create => "Create",
            Self::ScaleUp => "ScaleUp",
            Self::ScaleDown => "ScaleDown",
            Self::CancelScaleDown => "CancelScaleDown",
            Self::ReplicationFactor => "ReplicationFactor",
            Self::RollingUpdate => "RollingUpdate",
            Self::Repair => "Repair",
            Self::Restore => "Restore",
            Self::GrowVolumes => "GrowVolumes",
            Self::Stop => "Stop",
            Self::Start => "Start",
        }
    }
}

/// One rung's decision.
enum Step {
    Act(Operation, Action, String),
    /// For something that is to be over before a node or a copy goes.
    Wait(Operation, String),
    /// For a pod that is away by our doing.
    Away(Operation, String),
    /// It was refused a moment ago, so that nothing of it was done; it is tried again later.
    Refused(Operation, String),
    /// Nothing of it is under way: it is refused for now, and a rung below may bring about what it waits for.
    HeldUp(Operation, String),
    /// Objects that are kept as they should be; no operation of several steps.
    Keep(Action, String),
}

/// What is next. `now` is the wall clock, for waits of minutes.
#[must_use]
pub fn plan(seen: &Seen, defaults: &Defaults, now: Timestamp) -> Plan {
    if seen.cluster.metadata.deletion_timestamp.is_some() {
        return quiet(
            "the cluster is being deleted; Kubernetes takes its objects along",
            held_deletion(seen).into_iter().collect(),
        );
    }
    let desired = match Desired::of(&seen.cluster, defaults) {
        Ok(desired) => desired,
        Err(Invalid(wrong)) => {
            let message = wrong.join("; ");
            let trouble = Trouble { reason: "InvalidSpec", message };
            let why = "the spec cannot be acted on";
            let mut troubles = vec![trouble];
            // What runs is looked after no less for it.
            if let Some(known) = Desired::to_observe(&seen.cluster, defaults)
                && domain_of_nodes(seen, &known).is_none()
                && seen.earlier.is_none()
            {
                let mut view = View::new(seen, &known, now);
                view.look_for_trouble_of_nodes(Some("the spec cannot be acted on"));
                troubles.extend(view.troubles);
            }
            return Plan { operation: recorded(seen).cloned(), ..quiet(why, troubles) };
        }
    };
    if let Some(domain) = domain_of_nodes(seen, &desired) {
        let message = format!(
            "its nodes are known by names in the DNS domain {domain}, and this operator was told that it is \
             {}: set the operator's cluster domain back; nothing is done until then",
            desired.names.domain
        );
        let trouble = Trouble { reason: "ClusterDomainChanged", message };
        let why = "the DNS domain is another than that of the nodes";
        return Plan { operation: recorded(seen).cloned(), ..quiet(why, vec![trouble]) };
    }
    if let Some(what) = &seen.earlier {
        let trouble = Trouble { reason: EARLIER, message: of_earlier(what) };
        let why = "the cluster is an earlier operator's";
        return Plan { operation: recorded(seen).cloned(), ..quiet(why, vec![trouble]) };
    }
    let mut view = View::new(seen, &desired, now);
    if desired.spec.paused {
        let recorded = view.recorded.cloned();
        view.look_for_trouble();
        return Plan { operation: recorded, ..quiet("reconciliation is paused", view.troubles) };
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

/// No copy is missed, as far as one look tells.
#[must_use]
pub fn is_whole(seen: &Seen, desired: &Desired, now: Timestamp) -> bool {
    View::new(seen, desired, now).is_whole()
}

/// Everything that a spec would lead to, one line each, if nothing happened meanwhile.
#[must_use]
pub fn preview(seen: &Seen, defaults: &Defaults, now: Timestamp) -> Vec<String> {
    match Desired::of(&seen.cluster, defaults) {
        Ok(desired) if desired.spec.paused => {
            vec!["nothing: reconciliation is paused".to_owned()]
        }
        Ok(desired) => match &seen.earlier {
            Some(what) => vec![format!("nothing: {}", of_earlier(what))],
            None => View::new(seen, &desired, now).preview(),
        },
        Err(Invalid(wrong)) => wrong.into_iter().map(|wrong| format!("nothing: {wrong}")).collect(),
    }
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
         looks after them, and it cannot be undeleted. Whoever set them takes them off when they are done; if nobody \
         will, `kubectl -n {} edit kvcluster {}` does",
        others.join(", "),
        namespace.unwrap_or_default(),
        name.unwrap_or_default()
    );
    Some(Trouble { reason: "DeletionHeld", message })
}

/// Of the KvCluster, as a stamp.
fn deletion(seen: &Seen) -> Option<Stamp> {
    let metadata = &seen.cluster.metadata;
    Some((metadata.uid.clone()?, clock::text(metadata.deletion_timestamp.as_ref()?.0)))
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

/// One look, with what follows from it.
pub(crate) struct View<'a> {
    pub(crate) seen: &'a Seen,
    pub(crate) desired: &'a Desired,
    pub(crate) regions: Regions,
    recorded: Option<&'a Operation>,
    now: Timestamp,
    /// Why the pods' template stays as it is, or should be another.
    version_refused: Option<skew::Refused>,
    troubles: Vec<Trouble>,
    /// For how many seconds what was asked for has lasted, as far as that was asked and was long enough.
    lasted: RefCell<BTreeMap<Stamp, i64>>,
}

impl<'a> View<'a> {
    pub(crate) fn new(seen: &'a Seen, desired: &'a Desired, now: Timestamp) -> Self {
        let joined: Vec<_> = seen.joined(&desired.cluster_id).map(|(_, joined)| joined).collect();
        let wished = usize::try_from(desired.spec.replication_factor).unwrap_or(1);
        // What was asked for is not there before the cluster has been told.
        let factor = seen.table.as_ref().map_or(wished, |table| table.replication_factor as usize);
        // Also where there are no nodes for more: with two of three peers a region has none to spare.
        let regions = Regions::of(joined.into_iter(), factor);
        let recorded = recorded(seen);
        let version_refused = skew::refused(seen, desired);
        Self {
            seen,
            desired,
            regions,
            recorded,
            now,
            version_refused,
            troubles: Vec::new(),
            lasted: RefCell::default(),
        }
    }

    fn step(&mut self) -> Option<Step> {
        if self.desired.spec.stopped {
            let step = self
                .keep_volumes()
                .or_else(|| self.missing_children())
                .or_else(|| self.stop())
                .or_else(|| self.children())
                .or_else(|| self.note_volumes())
                .or_else(|| self.own_volumes())
                .or_else(|| self.cannot_stop());
            return step.map(|step| self.unless_refused(step));
        }
        self.climb()
    }

    /// The pods' template is kept as it is.
    fn holds_template(&self) -> bool {
        self.version_refused.as_ref().is_some_and(|refused| refused.holds)
    }

    /// Set once, for ever.
    pub(crate) fn is_initialized(&self) -> bool {
        self.seen.cluster.status.as_ref().is_some_and(|status| status.cluster_id.is_some())
    }

    fn trouble(&mut self, reason: &'static str, message: impl Into<String>) {
        let message = message.into();
        if !self.troubles.iter().any(|known| known.reason == reason && known.message == message) {
            self.troubles.push(Trouble { reason, message });
        }
    }

    /// The operation, begun now or going on.
    fn operation(&self, kind: Kind, target: &str, step: &str) -> Operation {
        let going_on = self.recorded(kind).filter(|old| old.target == target);
        Operation {
            started_at: going_on
                .map_or_else(|| clock::text(self.now), |old| old.started_at.clone()),
            node_id: going_on.and_then(|old| old.node_id),
            volume_uid: going_on.and_then(|old| old.volume_uid.clone()),
            kind: kind.name().to_owned(),
            target: target.to_owned(),
            step: step.to_owned(),
            // As it is when the look is over.
            lasted: Vec::new(),
        }
    }

    /// The recorded operation, if it is of this kind.
    fn recorded(&self, kind: Kind) -> Option<&'a Operation> {
        self.recorded.filter(|operation| operation.kind == kind.name())
    }

    /// So many seconds have passed since an operation began.
    fn lasts(&self, operation: &Operation, seconds: i64) -> bool {
        self.has_lasted(&of_operation(operation), &operation.started_at, seconds)
    }

    /// It has not been ready for so many seconds, and says so.
    fn is_not_ready_for(&self, pod: &Pod, seconds: i64) -> bool {
        let since = pod.not_ready_since.as_deref();
        since.is_some_and(|since| self.has_lasted(&pod.uid, since, seconds))
    }

    /// So many seconds have passed since something came to be so, which bears the stamp of it.
    ///
    /// Invariant: never the difference of two clocks. The stamp was set by a kubelet, the API server or an operator
    /// before this one, and by a clock that is an hour ahead of theirs a node would be given up at once, by one
    /// that is behind never. So it is told by for how long this operator has seen the stamp, which is less than
    /// the truth, and no more than the whole wait less. Of a single look there is nothing but the stamp.
    ///
    /// What an operator before this one has watched for as long, and noted with what it began for it, lasts while it
    /// bears the very same stamp: what goes and comes while nobody watches bears another. Without that note whoever
    /// comes in the middle of an operation would take back what it was begun for, and note it; and if it ends by
    /// then, the next would begin again, for ever.
    fn has_lasted(&self, whose: &str, stamp: &str, seconds: i64) -> bool {
        let watched = self.seen.answers.lasted(whose, stamp);
        let Some(watched) = watched else {
            return clock::seconds_since(stamp, self.now).unwrap_or(0).max(0) >= seconds;
        };
        let noted = self.recorded.into_iter().flat_map(|begun| &begun.lasted);
        let mut noted = noted.filter(|known| known.of == whose && known.since == stamp);
        let holds = watched >= seconds || noted.any(|known| known.seconds >= seconds);
        if holds {
            let mut lasted = self.lasted.borrow_mut();
            let longest = lasted.entry((whose.to_owned(), stamp.to_owned())).or_insert(seconds);
            *longest = seconds.max(*longest);
        }
        holds
    }

    /// What this look relied on, and what was noted before and is still so: another rung may have decided this time.
    fn what_lasted(&self) -> Vec<Lasted> {
        let mut all = self.lasted.borrow().clone();
        let is_so: BTreeSet<Stamp> = stamps(self.seen).into_iter().collect();
        for known in self.recorded.into_iter().flat_map(|begun| &begun.lasted) {
            let stamp = (known.of.clone(), known.since.clone());
            if is_so.contains(&stamp) {
                let longest = all.entry(stamp).or_insert(known.seconds);
                *longest = known.seconds.max(*longest);
            }
        }
        let all = all.into_iter().take(LASTED_MAX);
        all.map(|((of, since), seconds)| Lasted { of, since, seconds }).collect()
    }

    fn pod(&self, ordinal: i32) -> Option<&'a Pod> {
        self.seen.pods.get(&ordinal)
    }

    fn pod_name(&self, ordinal: i32) -> String {
        self.desired.names.pod(ordinal)
    }

    fn member(&self, ordinal: i32) -> Option<&'a Row> {
        self.seen.member(&self.desired.names, ordinal)
    }

    fn ordinal_of(&self, row: &Row) -> Option<i32> {
        self.desired.names.ordinal_at(&row.address)
    }

    /// Highest ordinal of a member, of those that are seen.
    fn last_member(&self) -> Option<i32> {
        let table = self.seen.table.as_ref()?;
        let members = table.nodes.iter().filter(|row| row.is_member());
        members.filter_map(|row| self.ordinal_of(row)).max()
    }

    /// Pods that there must be. While the node table is not known every disk that was not let go
    /// may be a member's.
    fn wanted_pods(&self) -> i32 {
        let spec = self.desired.spec.replicas;
        let members = if self.seen.table.is_some() {
            self.last_member()
        } else {
            let disks = self.seen.volumes.iter().filter(|(at, disk)| !self.is_let_go(**at, disk));
            let known = self.seen.cluster.status.iter().flat_map(|status| &status.members);
            let known =
                known.filter_map(|member| self.desired.names.ordinal_of_pod(&member.pod_name));
            disks.map(|(ordinal, _)| *ordinal).chain(known).max()
        };
        spec.max(members.map_or(0, |last| last + 1))
    }

    /// Every node in service but one is heard.
    fn others_are_alive(&self, but: u64) -> Result<(), String> {
        let table = self.seen.table.as_ref().ok_or("the node table is not known")?;
        match up(table).find(|row| row.node_id != but && !self.is_alive(row)) {
            Some(row) => Err(format!("node {} is down", row.node_id)),
            None => Ok(()),
        }
    }

    /// It is not heard, and has not been for so long that its peers are made anew elsewhere. By its pod, or by the
    /// driver: of a pod that Kubernetes does not make, or makes again and again, nothing says since when.
    fn is_down_for_long(&self, row: &Row) -> bool {
        let pod = self.ordinal_of(row).and_then(|ordinal| self.pod(ordinal));
        let is_down = match pod {
            None => row.down,
            Some(pod) if pod.ready => false,
            Some(pod) => {
                let longer = self.desired.settings.node_down_after_seconds().saturating_add(1);
                row.down || self.is_not_ready_for(pod, longer)
            }
        };
        !row.alive && is_down
    }

    /// The pod of an ordinal answers as this node.
    pub(crate) fn answers(&self, ordinal: i32, node_id: u64) -> bool {
        let mut joined = self.seen.joined(&self.desired.cluster_id);
        joined.any(|(other, joined)| other == ordinal && joined.node_id == node_id)
    }

    /// Nodes in service that are heard.
    pub(crate) fn in_service(&self) -> i32 {
        let count = self
            .seen
            .table
            .as_ref()
            .map_or(0, |table| up(table).filter(|row| self.is_alive(row)).count());
        i32::try_from(count).unwrap_or(i32::MAX)
    }

    /// Heard by the driver, and by us.
    pub(crate) fn is_alive(&self, row: &Row) -> bool {
        let answers = |(_, joined): (i32, &crate::seen::Joined)| joined.node_id == row.node_id;
        row.alive && self.seen.joined(&self.desired.cluster_id).any(answers)
    }
}

/// What is waited for by the time since a stamp, to be watched from look to look.
#[must_use]
pub fn stamps(seen: &Seen) -> Vec<Stamp> {
    let pods = seen.pods.values().flat_map(|pod| {
        let stamps = [&pod.not_ready_since, &pod.ready_since, &pod.running_since];
        stamps.into_iter().flatten().map(|stamp| (pod.uid.clone(), stamp.clone()))
    });
    let going = seen.children.values().filter_map(|live| {
        let whose = live["metadata"]["uid"].as_str()?;
        Some((whose.to_owned(), live["metadata"]["deletionTimestamp"].as_str()?.to_owned()))
    });
    let missed = seen.missed().map(|(_, set)| (set.to_owned(), NO_POD.to_owned()));
    let begun = recorded(seen).map(|begun| (of_operation(begun), begun.started_at.clone()));
    pods.chain(going).chain(missed).chain(begun).chain(deletion(seen)).collect()
}

/// Stands for the time since when a StatefulSet has no pod, which nobody notes.
const NO_POD: &str = "no pod";

/// By which the stamp of its begin is known.
fn of_operation(operation: &Operation) -> String {
    format!("{} {}", operation.kind, operation.target)
}

/// Nodes in service.
fn up(table: &Table) -> impl Iterator<Item = &Row> {
    table.nodes.iter().filter(|row| row.state == State::Up)
}

macro_rules! deeds {
    ($($deed:ident, $name:literal, $crash_point:literal;)*) => {
        /// What an action does, without what it does it to.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Deed { $($deed,)* }

        impl Deed {
            /// Every one: the simulation ends the operator around each.
            pub const ALL: &[Self] = &[$(Self::$deed,)*];

            /// For metrics and events.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$deed => $name,)* }
            }

            /// The failpoint right after it.
            #[must_use]
            pub fn crash_point(self) -> &'static str {
                match self { $(Self::$deed => $crash_point,)* }
            }
        }
    };
}

deeds! {
    Latch, "LatchCluster", "after-latch";
    Initialize, "Initialize", "after-initialize";
    AddLearner, "AddLearner", "after-add-learner";
    Promote, "Promote", "after-promote";
    RemoveNode, "RemoveNode", "after-remove-node";
    CancelRemoveNode, "CancelRemoveNode", "after-cancel-remove-node";
    SetReplicationFactor, "SetReplicationFactor", "after-set-replication-factor";
    EvictLeaders, "EvictLeaders", "after-evict-leaders";
    Apply, "Apply", "after-apply";
    Replace, "Replace", "after-replace";
    Delete, "Delete", "after-delete";
    Scale, "Scale", "after-scale";
    DeletePod, "DeletePod", "after-delete-pod";
    MarkVolume, "MarkVolume", "after-mark-volume";
    UnmarkVolume, "UnmarkVolume", "after-unmark-volume";
    NoteVolume, "NoteVolume", "after-note-volume";
    DeleteVolume, "DeleteVolume", "after-delete-volume";
    KeepVolume, "KeepVolume", "after-keep-volume";
    SetVolumeOwners, "SetVolumeOwners", "after-set-volume-owners";
    GrowVolume, "GrowVolume", "after-grow-volume";
}

impl Action {
    #[must_use]
    pub fn deed(&self) -> Deed {
        match self {
            Self::Latch { .. } => Deed::Latch,
            Self::Call(call) => call.deed(),
            Self::Change(change) => change.deed(),
        }
    }

    /// For metrics and events.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.deed().name()
    }
}

/// What a change is made to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    Child(Child),
    /// A pod, a claim, or old settings.
    Named(&'a str),
}

impl Call {
    /// What it is about, for people. Invariant: the same as long as the same is asked.
    #[must_use]
    pub fn target(&self) -> String {
        match self {
            Self::Initialize { pod, .. } => format!("pod {pod}"),
            Self::AddLearner { address, .. } => address.clone(),
            Self::Promote { node_id, .. }
            | Self::RemoveNode { node_id, .. }
            | Self::CancelRemoveNode { node_id, .. }
            | Self::EvictLeaders { node_id, .. } => format!("node {node_id}"),
            Self::SetReplicationFactor { replication_factor, .. } => {
                format!("{replication_factor} peers")
            }
        }
    }

    #[must_use]
    pub fn deed(&self) -> Deed {
        match self {
            Self::Initialize { .. } => Deed::Initialize,
            Self::AddLearner { .. } => Deed::AddLearner,
            Self::Promote { .. } => Deed::Promote,
            Self::RemoveNode { .. } => Deed::RemoveNode,
            Self::CancelRemoveNode { .. } => Deed::CancelRemoveNode,
            Self::SetReplicationFactor { .. } => Deed::SetReplicationFactor,
            Self::EvictLeaders { .. } => Deed::EvictLeaders,
        }
    }
}

impl Change {
    #[must_use]
    pub fn target(&self) -> Target<'_> {
        match self {
            // Old ones are not those that the name of the child stands for.
            Self::Delete { child: Child::ConfigMap, name, .. }
            | Self::DeletePod { name, .. }
            | Self::MarkVolume { name, .. }
            | Self::UnmarkVolume { name, .. }
            | Self::NoteVolume { name, .. }
            | Self::DeleteVolume { name, .. }
            | Self::KeepVolume { name, .. }
            | Self::SetVolumeOwners { name, .. }
            | Self::GrowVolume { name, .. } => Target::Named(name),
            Self::Apply(child, ..) | Self::Replace(child, ..) | Self::Delete { child, .. } => {
                Target::Child(*child)
            }
            Self::Scale { ordinal, .. } => Target::Child(Child::StatefulSet(*ordinal)),
        }
    }

    #[must_use]
    pub fn deed(&self) -> Deed {
        match self {
            Self::Apply(..) => Deed::Apply,
            Self::Replace(..) => Deed::Replace,
            Self::Delete { .. } => Deed::Delete,
            Self::Scale { .. } => Deed::Scale,
            Self::DeletePod { .. } => Deed::DeletePod,
            Self::MarkVolume { .. } => Deed::MarkVolume,
            Self::UnmarkVolume { .. } => Deed::UnmarkVolume,
            Self::NoteVolume { .. } => Deed::NoteVolume,
            Self::DeleteVolume { .. } => Deed::DeleteVolume,
            Self::KeepVolume { .. } => Deed::KeepVolume,
            Self::SetVolumeOwners { .. } => Deed::SetVolumeOwners,
            Self::GrowVolume { .. } => Deed::GrowVolume,
        }
    }

    /// Of what it is, for metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Apply(child, ..) | Self::Replace(child, ..) | Self::Delete { child, .. } => {
                match child {
                    Child::ServiceAccount => "serviceaccounts",
                    Child::ConfigMap => "configmaps",
                    Child::HeadlessService | Child::Service | Child::ClientsService => "services",
                    Child::NetworkPolicy => "networkpolicies",
                    Child::DisruptionBudget => "poddisruptionbudgets",
                    Child::StatefulSet(_) => "statefulsets",
                    Child::ServiceMonitor => "servicemonitors",
                }
            }
            Self::Scale { .. } => "statefulsets",
            Self::DeletePod { .. } => "pods",
            Self::KeepVolume { .. } => "persistentvolumes",
            Self::MarkVolume { .. }
            | Self::UnmarkVolume { .. }
            | Self::NoteVolume { .. }
            | Self::DeleteVolume { .. }
            | Self::SetVolumeOwners { .. }
            | Self::GrowVolume { .. } => "persistentvolumeclaims",
        }
    }
}
