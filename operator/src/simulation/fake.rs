//! A Kubernetes, and a Flotilla whose nodes live and die with its pods.
//!
//! As far as the operator can tell them from the real ones: versions and uids are compared, claims of a
//! StatefulSet cannot change, nor can ConfigMaps, a pod gets its volume back, a node is what its disk says, the node table
//! answers only while region 1 has a quorum. Every change is judged before it is made.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{OwnerReference, Time},
    },
    jiff::Timestamp,
};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::defaults;
use crate::{
    answers::{Answers, Memory},
    children::{self, Child},
    crd::{KvCluster, KvClusterStatus},
    desired::Desired,
    drift,
    error::Error,
    key::Key,
    names::{CLUSTER_ID, Names, TEMPLATE_HASH},
    owner,
    plan::{self, Call, Change, Deed},
    seen::{
        self, Exit, Growth, Joined, Kept, Node, Peer, Pod, Row, Seen, Slot, State, Table,
        VolumeClaim,
    },
    world::{Made, World},
};

/// Where the operator ends, by the number of its changes: the change is made only in the second case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Crash {
    Before(usize),
    After(usize),
}

/// Something that is seen.
#[derive(Clone, Copy, Debug)]
pub(super) enum Moment {
    /// There is a pod.
    Pod(i32),
    /// Its claim is marked.
    Marked(i32),
}

/// What changes objects on their way into the store.
pub(super) type Admission = fn(Child, &mut Value);

pub(super) struct Fake(Mutex<Inner>, Memory);

#[derive(Clone)]
struct Inner {
    cluster: KvCluster,
    version: u64,
    uids: u64,
    seconds: i64,
    children: BTreeMap<Child, Value>,
    /// By name; `children` has none of them.
    configs: BTreeMap<String, Value>,
    refused: Option<String>,
    /// So many pods find a place.
    room: i32,
    /// A quota lets no volume grow.
    no_growth: bool,
    /// The driver gives no volume more than this.
    driver_max: Option<&'static str>,
    /// This Kubernetes takes no request of a claim back.
    keeps_requests: bool,
    /// Somebody asks for this size as soon as every volume has been asked for more than it gets.
    size_back: Option<&'static str>,
    /// Seconds that a new pod takes to start.
    start_takes: i64,
    /// Of which image the server ends, and how many seconds after it was ready.
    dies: Option<(&'static str, i64)>,
    pods: BTreeMap<i32, FakePod>,
    claims: BTreeMap<i32, FakeClaim>,
    /// The cluster's own state, which lives on its disks.
    flotilla: Option<Flotilla>,
    begun: usize,
    split_keys: Vec<String>,
    /// PersistentVolumes that outlive their claims.
    kept: BTreeSet<String>,
    first_cluster_id: String,
    pods_made: usize,
    changes: usize,
    changes_in_pass: usize,
    crash: Option<Crash>,
    ends_at_notes: bool,
    judge_disks_only: bool,
    /// Nobody learns what becomes of a volume.
    volumes_are_silent: bool,
    /// Somebody sets every volume back every second, so that it goes with its claim.
    lets_disks_go: bool,
    /// In how many passes a claim, by its uid, could be seen to go, and its disk be kept.
    seen_to_go: BTreeMap<String, usize>,
    placement_stands_still: bool,
    /// Somebody asks for so many nodes while one drains.
    second_thought: Option<i32>,
    /// Somebody asks for so many nodes as soon as that is so; one after another, the next one last.
    changes_of_mind: Vec<(Moment, i32)>,
    /// No peer is moved before.
    placement_rests_until: i64,
    /// Somebody deletes this pod then.
    pod_goes: Option<(i32, i64)>,
    /// What was being done when the operator ended.
    ended_around: Option<Deed>,
    journal: Vec<String>,
    admission: Admission,
    meddler: Admission,
    refuses: Option<Child>,
    refuses_deed: Option<Deed>,
    /// What the definition takes out of a status.
    definition: fn(&mut KvClusterStatus),
    refused_by_policy: usize,
    deletes: Option<Child>,
    /// What the operator sent last, by which the API server tells its items from those of others.
    sent: BTreeMap<Child, Value>,
}

#[derive(Clone, Debug)]
struct FakePod {
    uid: String,
    hash: String,
    image: String,
    /// By whom its disk is opened.
    user: Value,
    configs: BTreeSet<String>,
    /// The settings that its container is started with: those of its ConfigMap when it was made, if there was
    /// one. Invariant, as in Kubernetes: a ConfigMap that cannot be changed is what it was at every start.
    settings: Option<String>,
    age: i64,
    start_takes: i64,
    terminating: bool,
    restarts: i32,
    ready_since: Option<i64>,
    /// The claim that it was started with.
    claim: String,
    /// Uid of the StatefulSet that is its controller.
    set: String,
}

#[derive(Clone, Debug)]
struct FakeClaim {
    uid: String,
    version: u64,
    size: String,
    /// What the volume has.
    capacity: String,
    /// As its annotation says; empty where it has none.
    cluster_id: String,
    mark: Option<String>,
    terminating: bool,
    /// Uid of the StatefulSet that it goes with, and of the KvCluster.
    set: Option<String>,
    cluster: Option<String>,
    /// Cluster id and node id.
    identity: Option<(String, u64)>,
    broken: bool,
}

fn is_given(max: Option<&str>, size: &str) -> bool {
    max.is_none_or(|max| !drift::is_larger(size, &Quantity(max.to_owned())))
}

fn user_of(set: &Value) -> &Value {
    &set["spec"]["template"]["spec"]["securityContext"]["runAsUser"]
}

/// Of one region: the nodes of its voters, and the one that leads.
type Voters = (BTreeSet<u64>, Option<u64>);

#[derive(Clone)]
struct Flotilla {
    id: String,
    version: u64,
    factor: usize,
    rows: Vec<Row>,
    regions: Vec<Voters>,
    evicted: BTreeSet<u64>,
}

/// How long the peers of a node that drains stay after it is wanted again: some passes.
const SECOND_THOUGHT: i64 = 10;
/// Passes in which the disks of all claims that go can be kept, whatever is done first and whoever ends.
const TIME_TO_KEEP: usize = 8;
/// A setting that the operator cannot know to be wrong.
pub(super) const BROKEN_SETTING: &str = "13s";
const RANGES: [(&str, &str); 3] = [("", "g"), ("g", "p"), ("p", "")];

impl Fake {
    pub(super) fn new(spec: Value) -> Self {
        let mut whole = json!({
            "apiVersion": "flotilla.dev/v1alpha1", "kind": "KvCluster",
            "metadata": {"name": "kv", "namespace": "ns", "generation": 1, "resourceVersion": "1",
                "uid": "00000000-0000-0000-0000-00000000000a"},
            "spec": {"storage": {"size": "1Gi"}},
        });
        for (name, value) in spec.as_object().expect("an object") {
            whole["spec"][name] = value.clone();
        }
        Self(
            Mutex::new(Inner {
                cluster: serde_json::from_value(whole).expect("a cluster"),
                version: 1,
                uids: 100,
                seconds: 1_700_000_000,
                children: BTreeMap::new(),
                configs: BTreeMap::new(),
                refused: None,
                room: i32::MAX,
                no_growth: false,
                driver_max: None,
                keeps_requests: false,
                size_back: None,
                start_takes: 1,
                dies: None,
                pods: BTreeMap::new(),
                claims: BTreeMap::new(),
                flotilla: None,
                begun: 0,
                split_keys: Vec::new(),
                kept: BTreeSet::new(),
                first_cluster_id: String::new(),
                pods_made: 0,
                changes: 0,
                changes_in_pass: 0,
                crash: None,
                ends_at_notes: false,
                judge_disks_only: false,
                volumes_are_silent: false,
                lets_disks_go: false,
                seen_to_go: BTreeMap::new(),
                placement_stands_still: false,
                second_thought: None,
                changes_of_mind: Vec::new(),
                placement_rests_until: 0,
                pod_goes: None,
                ended_around: None,
                journal: Vec::new(),
                admission: |_, _| {},
                meddler: |_, _| {},
                refuses: None,
                refuses_deed: None,
                definition: |_| {},
                refused_by_policy: 0,
                deletes: None,
                sent: BTreeMap::new(),
            }),
            Memory::default(),
        )
    }

    /// The same world, which goes its own way from here on.
    pub(super) fn fork(&self) -> Self {
        Self(Mutex::new(self.0.lock().clone()), self.1.copy())
    }

    /// A policy changes what is stored from now on.
    pub(super) fn admit(&self, admission: Admission) {
        self.0.lock().admission = admission;
    }

    /// Another controller changes our objects every second.
    pub(super) fn meddle(&self, meddler: Admission) {
        self.0.lock().meddler = meddler;
    }

    /// Another operator, which knows nothing.
    pub(super) fn forget(&self) {
        self.1.forget(&super::key());
    }

    /// What the operator knew goes with it.
    fn ended(&self, error: Error) -> Error {
        self.forget();
        error
    }

    /// A policy lets nobody write such an object.
    pub(super) fn refuse(&self, child: Option<Child>) {
        self.0.lock().refuses = child;
    }

    /// The definition is an older one, or the present one again.
    pub(super) fn define(&self, definition: fn(&mut KvClusterStatus)) {
        self.0.lock().definition = definition;
    }

    /// Nobody may do such a thing.
    pub(super) fn refuse_deed(&self, deed: Option<Deed>) {
        self.0.lock().refuses_deed = deed;
    }

    /// How often somebody tried.
    pub(super) fn refused_by_policy(&self) -> usize {
        self.0.lock().refused_by_policy
    }

    /// Somebody deletes such an object every second.
    pub(super) fn delete_again_and_again(&self, child: Option<Child>) {
        self.0.lock().deletes = child;
    }

    pub(super) fn crash_at(&self, crash: Crash) {
        self.0.lock().crash = Some(crash);
    }

    /// Every operator from now on ends right after its first note, or none does any more.
    pub(super) fn end_at_every_note(&self, ends: bool) {
        self.0.lock().ends_at_notes = ends;
    }

    pub(super) fn judge_disks_only(&self) {
        self.0.lock().judge_disks_only = true;
    }

    /// The API server does not say what becomes of a volume, or says it again.
    pub(super) fn silence_volumes(&self, silent: bool) {
        self.0.lock().volumes_are_silent = silent;
    }

    /// Another controller lets every disk go with its claim from now on.
    pub(super) fn let_disks_go(&self) {
        self.0.lock().lets_disks_go = true;
    }

    /// No peer is moved from now on, and no removal ends.
    pub(super) fn hold_placement(&self) {
        self.0.lock().placement_stands_still = true;
    }

    /// No peer is moved for so many seconds.
    pub(super) fn rest_placement(&self, seconds: i64) {
        let mut inner = self.0.lock();
        inner.placement_rests_until = inner.seconds + seconds;
    }

    /// As soon as a node drains, somebody asks for so many nodes.
    pub(super) fn have_a_second_thought(&self, replicas: i32) {
        self.0.lock().second_thought = Some(replicas);
    }

    /// Somebody asks for so many nodes at the first of these moments, then at the second, and so on.
    pub(super) fn change_minds(&self, minds: &[(Moment, i32)]) {
        self.0.lock().changes_of_mind = minds.iter().rev().copied().collect();
    }

    /// As an operator does that was frozen for long, and an earlier one did.
    pub(super) fn mark(&self, ordinal: i32, mark: &str) {
        let mut inner = self.0.lock();
        let claim = inner.claims.get_mut(&ordinal).expect("a claim");
        (claim.version, claim.mark) = (claim.version + 1, Some(mark.to_owned()));
        inner.journal.push(format!("-- claim {ordinal} is marked {mark}"));
    }

    /// Somebody puts an item into a list.
    pub(super) fn push_to_child(&self, child: Child, path: &str, item: Value) {
        let mut inner = self.0.lock();
        let version = inner.next_version();
        let object = inner.children.get_mut(&child).expect("a child");
        object.pointer_mut(path).and_then(Value::as_array_mut).expect("a list").push(item);
        object["metadata"]["resourceVersion"] = json!(version);
        inner.journal.push(format!("-- somebody adds to {child:?} at {path}"));
    }

    /// The driver gives no volume more than this from now on.
    pub(super) fn give_at_most(&self, size: Option<&'static str>) {
        self.0.lock().driver_max = size;
    }

    /// This Kubernetes takes no request of a claim back.
    pub(super) fn keep_requests(&self) {
        self.0.lock().keeps_requests = true;
    }

    /// Somebody asks for this size as soon as every volume has been asked for more than it gets.
    pub(super) fn take_size_back_to(&self, size: &'static str) {
        self.0.lock().size_back = Some(size);
    }

    /// What the operator was ended right before or after, if it was anything but a note.
    pub(super) fn ended_around(&self) -> Option<Deed> {
        self.0.lock().ended_around
    }

    /// Those that the cluster was made with.
    pub(super) fn split_keys(&self) -> Vec<String> {
        self.0.lock().split_keys.clone()
    }

    pub(super) fn kept(&self) -> usize {
        self.0.lock().kept.len()
    }

    pub(super) fn desired(&self) -> Desired {
        Desired::of(&self.0.lock().cluster, &defaults()).expect("a valid spec")
    }

    pub(super) fn begun(&self) -> usize {
        self.0.lock().begun
    }

    pub(super) fn first_cluster_id(&self) -> String {
        self.0.lock().first_cluster_id.clone()
    }

    pub(super) fn pods_made(&self) -> usize {
        self.0.lock().pods_made
    }

    /// Changes and notes of the operator.
    pub(super) fn changes(&self) -> usize {
        self.0.lock().changes
    }

    pub(super) fn journal(&self) -> String {
        self.0.lock().journal.join("\n")
    }

    pub(super) fn end_of_pass(&self) {
        let mut inner = self.0.lock();
        inner.changes_in_pass = 0;
        if inner.refuses_deed != Some(Deed::KeepVolume) {
            let going = inner.claims.values().filter(|claim| claim.terminating);
            for uid in going.map(|claim| claim.uid.clone()).collect::<Vec<_>>() {
                *inner.seen_to_go.entry(uid).or_default() += 1;
            }
        }
    }

    /// A person edits the spec.
    pub(super) fn edit(&self, change: impl FnOnce(&mut Value)) {
        let mut inner = self.0.lock();
        let mut spec = serde_json::to_value(&inner.cluster.spec).expect("JSON");
        change(&mut spec);
        inner.cluster.spec = serde_json::from_value(spec).expect("a spec");
        inner.cluster.metadata.generation = inner.cluster.metadata.generation.map(|old| old + 1);
        inner.touch_cluster();
        inner.journal.push("-- the spec is edited".to_owned());
    }

    /// Somebody deletes the KvCluster, which others keep by these.
    pub(super) fn delete_cluster(&self, finalizers: &[&str]) {
        let mut inner = self.0.lock();
        let now = Timestamp::from_second(inner.seconds).expect("a time");
        let metadata = &mut inner.cluster.metadata;
        metadata.deletion_timestamp = Some(Time(now));
        metadata.finalizers = Some(finalizers.iter().map(|name| (*name).to_owned()).collect());
        inner.touch_cluster();
        inner.journal.push("-- the KvCluster is deleted".to_owned());
    }

    pub(super) fn annotate(&self, name: &str, value: &str) {
        let mut inner = self.0.lock();
        let annotations = inner.cluster.metadata.annotations.get_or_insert_default();
        annotations.insert(name.to_owned(), value.to_owned());
        inner.touch_cluster();
    }

    /// Deleted with all its objects but the volumes, and made anew under the same name.
    pub(super) fn recreate(&self) {
        let mut inner = self.0.lock();
        inner.children.clear();
        inner.configs.clear();
        inner.pods.clear();
        inner.cluster.status = None;
        inner.cluster.metadata.uid = Some("00000000-0000-0000-0000-00000000000b".to_owned());
        inner.touch_cluster();
        inner.journal.push("-- recreated".to_owned());
    }

    pub(super) fn edit_child(&self, child: Child, path: &str, value: Value) {
        let mut inner = self.0.lock();
        let version = inner.next_version();
        let object = inner.children.get_mut(&child).expect("a child");
        *object.pointer_mut(path).expect("a path") = value;
        object["metadata"]["resourceVersion"] = json!(version);
        inner.journal.push(format!("-- somebody edits {child:?} at {path}"));
    }

    pub(super) fn refuse_growth(&self, refuses: bool) {
        self.0.lock().no_growth = refuses;
    }

    /// The annotation of a volume claim that says of which cluster it is.
    pub(super) fn annotate_claim(&self, ordinal: i32, cluster_id: &str) {
        let mut inner = self.0.lock();
        cluster_id.clone_into(&mut inner.claims.get_mut(&ordinal).expect("a claim").cluster_id);
        inner.journal.push(format!("-- claim {ordinal} is said to be of {cluster_id:?}"));
    }

    /// Somebody takes the whole status away, as with `kubectl edit --subresource=status`.
    pub(super) fn wipe_status(&self) {
        let mut inner = self.0.lock();
        inner.cluster.status = None;
        inner.touch_cluster();
        inner.journal.push("-- the status is wiped".to_owned());
    }

    pub(super) fn note_in_journal(&self, text: &str) {
        self.0.lock().journal.push(format!("-- {text}"));
    }

    /// The status does not know any more which volumes there were.
    pub(super) fn forget_volumes(&self) {
        let mut inner = self.0.lock();
        let status = inner.cluster.status.get_or_insert_default();
        status.bootstrap_volume = None;
        status.members.iter_mut().for_each(|member| member.pvc_uid = None);
        inner.touch_cluster();
    }

    /// A person removes a node by force.
    pub(super) fn remove_node(&self, ordinal: i32) {
        let mut inner = self.0.lock();
        let (_, node) = inner.identity(ordinal).expect("a node").clone();
        let flotilla = inner.flotilla.as_mut().expect("a cluster");
        flotilla.version += 1;
        flotilla.rows.iter_mut().find(|row| row.node_id == node).expect("a row").state =
            State::Removed;
        for (voters, leader) in &mut flotilla.regions {
            voters.remove(&node);
            *leader = leader.filter(|leader| *leader != node).or_else(|| voters.first().copied());
        }
        inner.journal.push(format!("-- node {node} is removed by hand"));
    }

    /// What an earlier operator left: a cluster in service, in pods of one StatefulSet.
    pub(super) fn made_by_an_earlier_operator(&self) {
        let mut inner = self.0.lock();
        let members = (0..3).map(|ordinal| {
            json!({"nodeId": ordinal + 1, "podName": format!("kv-{ordinal}"), "role": "voter",
                "state": "Up", "leaders": 0, "peers": 1})
        });
        let status = json!({"clusterId": inner.first_cluster_id, "members": members.collect::<Vec<_>>(),
            "conditions": []});
        inner.cluster.status = Some(serde_json::from_value(status).expect("a status"));
        inner.touch_cluster();
    }

    /// Somebody makes an object with a name of ours, instead of what is there.
    pub(super) fn take_name(&self, child: Child, object: Value) {
        let mut inner = self.0.lock();
        match inner.present_config().filter(|_| child == Child::ConfigMap) {
            Some(name) => inner.configs.insert(name, object),
            None => inner.children.insert(child, object),
        };
        inner.journal.push(format!("-- somebody makes {child:?}"));
    }

    /// Uids and marks of the volumes.
    pub(super) fn claims(&self) -> Vec<(String, Option<String>)> {
        let inner = self.0.lock();
        inner.claims.values().map(|claim| (claim.uid.clone(), claim.mark.clone())).collect()
    }

    pub(super) fn child(&self, child: Child) -> Option<Value> {
        let inner = self.0.lock();
        inner.seen_children(inner.present_config().as_ref()).get(&child).cloned()
    }

    pub(super) fn remove_child(&self, child: Child) {
        let mut inner = self.0.lock();
        match inner.present_config().filter(|_| child == Child::ConfigMap) {
            Some(name) => inner.configs.remove(&name),
            None => inner.children.remove(&child),
        };
        inner.journal.push(format!("-- {child:?} is removed"));
    }

    /// Also those that pods still use.
    pub(super) fn remove_configs(&self) {
        self.0.lock().configs.clear();
    }

    /// The pod and its volume are gone; Kubernetes makes both anew.
    pub(super) fn lose_volume(&self, ordinal: i32) {
        let mut inner = self.0.lock();
        inner.pods.remove(&ordinal);
        inner.claims.remove(&ordinal);
        inner.journal.push(format!("-- volume {ordinal} is lost"));
    }

    /// Somebody deletes a claim, which stays as long as its pod, and so many seconds later the pod.
    pub(super) fn delete_claim(&self, ordinal: i32, seconds: i64) {
        let mut inner = self.0.lock();
        inner.pod_goes = Some((ordinal, inner.seconds + seconds));
        inner.claims.get_mut(&ordinal).expect("a claim").terminating = true;
        inner.journal.push(format!("-- claim {ordinal} is deleted"));
    }

    /// Claims that go with their cluster.
    pub(super) fn owned_claims(&self) -> usize {
        self.0.lock().claims.values().filter(|claim| claim.cluster.is_some()).count()
    }

    /// An earlier operator had its claims go with their StatefulSets.
    pub(super) fn tie_claims_to_sets(&self) {
        let mut inner = self.0.lock();
        let path = "/spec/persistentVolumeClaimRetentionPolicy/whenDeleted";
        for (child, set) in &mut inner.children {
            if let Child::StatefulSet(_) = child {
                *set.pointer_mut(path).expect("a policy") = json!("Delete");
            }
        }
        inner.claims.values_mut().for_each(|claim| claim.cluster = None);
    }

    /// Somebody deletes all StatefulSets, and Kubernetes what belongs to them.
    pub(super) fn delete_sets(&self) {
        let mut inner = self.0.lock();
        inner.children.retain(|child, _| !matches!(child, Child::StatefulSet(_)));
        inner.pods.values_mut().for_each(|pod| pod.terminating = true);
        inner.collect_garbage();
        inner.journal.push("-- all StatefulSets are deleted".to_owned());
    }

    /// Evicted, drained with its machine, or deleted by hand: Kubernetes makes it anew.
    pub(super) fn evict(&self, ordinal: i32) {
        let mut inner = self.0.lock();
        inner.pods.remove(&ordinal);
        inner.journal.push(format!("-- pod {ordinal} is evicted"));
    }

    /// Its container is ended for want of memory, and started again in the same pod.
    pub(super) fn run_out_of_memory(&self, ordinal: i32) {
        let mut inner = self.0.lock();
        let Some(pod) = inner.pods.get_mut(&ordinal) else { return };
        (pod.age, pod.restarts, pod.ready_since) = (0, pod.restarts + 1, None);
        inner.journal.push(format!("-- pod {ordinal} runs out of memory"));
    }

    /// No pod can be made with this template hash, as where a policy refuses it.
    pub(super) fn refuse_pods_of(&self, hash: Option<String>) {
        self.0.lock().refused = hash;
    }

    /// Images are fetched from far away from now on: so long does a new pod take to start.
    pub(super) fn start_slowly(&self, seconds: i64) {
        self.0.lock().start_takes = seconds;
    }

    /// A server that runs out of memory once it has something to do, again and again.
    pub(super) fn die_after_ready(&self, image: &'static str, seconds: i64) {
        self.0.lock().dies = Some((image, seconds));
    }

    /// There is room for so many pods.
    pub(super) fn refuse_pods_after(&self, count: i32) {
        self.0.lock().room = count;
    }

    /// ConfigMaps, those that are used and those that are not.
    pub(super) fn configs(&self) -> BTreeSet<String> {
        self.0.lock().configs.keys().cloned().collect()
    }

    /// Regions that can neither be read nor written.
    pub(super) fn quorums_lost(&self) -> usize {
        let inner = self.0.lock();
        let alive = inner.alive();
        let regions = inner.flotilla.iter().flat_map(|flotilla| &flotilla.regions);
        regions.filter(|(voters, _)| !has_majority(voters, &alive)).count()
    }

    /// The server ends whenever it is started on this disk.
    pub(super) fn break_disk(&self, ordinal: i32) {
        let mut inner = self.0.lock();
        inner.claims.get_mut(&ordinal).expect("a claim").broken = true;
        inner.journal.push(format!("-- volume {ordinal} is broken"));
    }

    pub(super) fn mend_disk(&self, ordinal: i32) {
        self.0.lock().claims.get_mut(&ordinal).expect("a claim").broken = false;
    }

    /// A second passes.
    pub(super) fn tick(&self) {
        self.0.lock().tick();
    }
}

impl Inner {
    fn names(&self) -> Names {
        Names { namespace: "ns".into(), name: "kv".into(), domain: "cluster.local".into() }
    }

    fn next_version(&mut self) -> String {
        self.version += 1;
        self.version.to_string()
    }

    fn next_uid(&mut self) -> String {
        self.uids += 1;
        format!("uid-{}", self.uids)
    }

    fn touch_cluster(&mut self) {
        self.cluster.metadata.resource_version = Some(self.next_version());
    }

    fn is_given(&self, size: &str) -> bool {
        is_given(self.driver_max, size)
    }

    fn claim_of(&self, pod: &FakePod) -> Option<&FakeClaim> {
        self.claims.values().find(|claim| claim.uid == pod.claim)
    }

    fn runs(&self, pod: &FakePod) -> bool {
        !pod.terminating
            && !pod.image.starts_with("broken")
            && pod.settings.as_ref().is_some_and(|settings| !settings.contains(BROKEN_SETTING))
            && pod.age >= pod.start_takes
            && self.claim_of(pod).is_some_and(|claim| !claim.broken)
    }

    /// As the process in its pod finds it: one image looks for its data in another place.
    fn identity(&self, ordinal: i32) -> Option<&(String, u64)> {
        let pod = self.pods.get(&ordinal).filter(|pod| !pod.image.starts_with("elsewhere"))?;
        self.claim_of(pod)?.identity.as_ref()
    }

    /// Nodes of the cluster that run, by their disks.
    fn alive(&self) -> BTreeSet<u64> {
        let Some(flotilla) = &self.flotilla else { return BTreeSet::new() };
        self.pods
            .iter()
            .filter(|(_, pod)| self.runs(pod) && pod.age > pod.start_takes)
            .filter_map(|(ordinal, _)| self.identity(*ordinal))
            .filter(|(id, _)| *id == flotilla.id)
            .map(|(_, node)| *node)
            .filter(|node| !flotilla.is_removed(*node))
            .collect()
    }

    /// Nodes whose disks are there, running or not.
    fn on_disk(&self) -> BTreeSet<u64> {
        let claims = self.claims.values().filter(|claim| !claim.terminating && !claim.broken);
        claims.filter_map(|claim| claim.identity.as_ref()).map(|(_, node)| *node).collect()
    }

    fn driver_answers(&self) -> bool {
        let alive = self.alive();
        let region = self.flotilla.as_ref().and_then(|flotilla| flotilla.regions.first());
        region.is_some_and(|(voters, _)| has_majority(voters, &alive))
    }

    fn tick(&mut self) {
        self.seconds += 1;
        for (child, object) in &mut self.children {
            let before = object.clone();
            (self.meddler)(*child, object);
            if *object != before {
                self.version += 1;
                object["metadata"]["resourceVersion"] = json!(self.version.to_string());
            }
        }
        if let Some(child) = self.deletes {
            self.children.remove(&child);
        }
        if self.lets_disks_go {
            self.kept.clear();
        }
        let now = self.seconds;
        if let Some((ordinal, _)) = self.pod_goes.take_if(|(_, when)| *when <= now) {
            self.pods.remove(&ordinal);
            self.journal.push(format!("-- pod {ordinal} is deleted"));
        }
        self.stateful_sets();
        for pod in self.pods.values_mut() {
            pod.age += 1;
        }
        let broken: Vec<i32> = self
            .pods
            .iter()
            .filter(|(_, pod)| self.claim_of(pod).is_some_and(|claim| claim.broken))
            .map(|(ordinal, _)| *ordinal)
            .collect();
        for ordinal in broken {
            if let Some(pod) = self.pods.get_mut(&ordinal) {
                pod.restarts += 1;
            }
        }
        let max = self.driver_max;
        let is_given = |claim: &&mut FakeClaim| is_given(max, &claim.size);
        for claim in self.claims.values_mut().filter(is_given) {
            claim.capacity.clone_from(&claim.size);
        }
        let is_small = |claim: &FakeClaim| claim.size != claim.capacity;
        if let Some(size) = self.size_back.take_if(|_| self.claims.values().all(is_small)) {
            size.clone_into(&mut self.cluster.spec.storage.size);
            self.touch_cluster();
            self.journal.push(format!("-- no more than {size} is wanted any more"));
        }
        let drains =
            |flotilla: &Flotilla| flotilla.rows.iter().any(|row| row.state == State::Draining);
        if self.flotilla.as_ref().is_some_and(drains)
            && let Some(replicas) = self.second_thought.take()
        {
            self.cluster.spec.replicas = replicas;
            self.touch_cluster();
            self.placement_rests_until = self.seconds + SECOND_THOUGHT;
            self.journal.push("-- second thoughts".to_owned());
        }
        let is_now = |moment: &Moment| match moment {
            Moment::Pod(ordinal) => self.pods.contains_key(ordinal),
            Moment::Marked(ordinal) => {
                self.claims.get(ordinal).is_some_and(|claim| claim.mark.is_some())
            }
        };
        if self.changes_of_mind.last().is_some_and(|(moment, _)| is_now(moment))
            && let Some((moment, replicas)) = self.changes_of_mind.pop()
        {
            self.cluster.spec.replicas = replicas;
            self.touch_cluster();
            self.journal.push(format!("-- {moment:?}: {replicas} nodes are wanted"));
        }
        self.readiness();
        let rests = self.placement_stands_still || self.seconds < self.placement_rests_until;
        let alive = self.alive();
        if let Some(flotilla) = self.flotilla.as_mut().filter(|_| !rests) {
            flotilla.tick(&alive);
        }
    }

    /// Since when pods are ready; those end that are not to be for long.
    fn readiness(&mut self) {
        let ready: BTreeSet<i32> = self
            .pods
            .iter()
            .filter(|(ordinal, pod)| self.is_ready(**ordinal, pod))
            .map(|(ordinal, _)| *ordinal)
            .collect();
        let now = self.seconds;
        for (ordinal, pod) in &mut self.pods {
            let since = ready.contains(ordinal).then(|| pod.ready_since.unwrap_or(now));
            pod.ready_since = since;
            let dies = self.dies.is_some_and(|(image, after)| {
                pod.image == image && since.is_some_and(|since| now - since >= after)
            });
            if dies {
                (pod.age, pod.restarts, pod.ready_since) = (0, pod.restarts + 1, None);
                self.journal.push(format!("-- pod {ordinal} dies"));
            }
        }
    }

    fn is_ready(&self, ordinal: i32, pod: &FakePod) -> bool {
        self.runs(pod) && matches!(self.node(ordinal), Node::Joined(joined) if joined.ready)
    }

    /// The controller of StatefulSets, and that which keeps volumes that are in use. As the real one with
    /// `OnDelete`: a pod that is not there is made from the template that the StatefulSet has by then, whatever
    /// pod was there before, and one that is there is left as it is.
    fn stateful_sets(&mut self) {
        self.pods.retain(|_, pod| !pod.terminating);
        let used: BTreeSet<String> = self.pods.values().map(|pod| pod.claim.clone()).collect();
        let goes = |claim: &FakeClaim| claim.terminating && !used.contains(&claim.uid);
        self.claims.values().filter(|claim| goes(claim)).for_each(|claim| self.judge_claim(claim));
        self.claims.retain(|_, claim| !goes(claim));
        // Those of others are left to others.
        let sets: Vec<(i32, Value)> = self
            .children
            .iter()
            .filter_map(|(child, set)| match child {
                Child::StatefulSet(ordinal) if owner::is_ours(set, self.uid()) => {
                    Some((*ordinal, set.clone()))
                }
                _ => None,
            })
            .collect();
        for (ordinal, set) in sets {
            self.stateful_set(ordinal, &set);
        }
    }

    fn stateful_set(&mut self, ordinal: i32, set: &Value) {
        let set_uid = set["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        if let Some(pod) = self.pods.get_mut(&ordinal) {
            pod.set.clone_from(&set_uid);
        }
        let replicas = set["spec"]["replicas"].as_i64().unwrap_or(0);
        if replicas == 0 {
            if let Some(pod) = self.pods.get_mut(&ordinal) {
                pod.terminating = true;
            }
            return;
        }
        let size = &set["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"];
        let size = size["storage"].as_str().unwrap_or_default().to_owned();
        let cluster_id = &set["spec"]["volumeClaimTemplates"][0]["metadata"]["annotations"];
        let cluster_id = cluster_id[CLUSTER_ID].as_str().unwrap_or_default().to_owned();
        if !self.claims.contains_key(&ordinal) {
            let uid = self.next_uid();
            let claim = FakeClaim {
                uid,
                version: 1,
                capacity: size.clone(),
                size,
                cluster_id,
                mark: None,
                terminating: false,
                set: None,
                cluster: None,
                identity: None,
                broken: false,
            };
            self.claims.insert(ordinal, claim);
        }
        // As the real one: of a StatefulSet that has a pod, and at no other time.
        let goes = &set["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"];
        if let Some(claim) = self.claims.get_mut(&ordinal) {
            claim.set = (goes == "Delete").then(|| set_uid.clone());
        }
        let claim = &self.claims[&ordinal];
        if self.pods.contains_key(&ordinal) || claim.terminating {
            return;
        }
        let claim = claim.uid.clone();
        let template = &set["spec"]["template"];
        let hash = template["metadata"]["annotations"][TEMPLATE_HASH].as_str().unwrap_or_default();
        if self.refused.as_deref() == Some(hash) || ordinal >= self.room {
            return;
        }
        let configs: BTreeSet<String> = children::configs(set).map(ToOwned::to_owned).collect();
        let settings = configs.iter().find_map(|name| self.configs.get(name));
        let settings = settings.map(|config| config["data"].to_string());
        let pod = FakePod {
            uid: self.next_uid(),
            hash: hash.to_owned(),
            image: template["spec"]["containers"][0]["image"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            user: user_of(set).clone(),
            configs,
            settings,
            age: 0,
            start_takes: self.start_takes,
            terminating: false,
            restarts: 0,
            ready_since: None,
            claim,
            set: set_uid,
        };
        self.pods.insert(ordinal, pod);
        self.pods_made += 1;
    }

    /// Claims go whose owners have all gone.
    fn collect_garbage(&mut self) {
        let sets = self.children.iter().filter(|(child, _)| matches!(child, Child::StatefulSet(_)));
        let sets = sets.filter_map(|(_, set)| set["metadata"]["uid"].as_str());
        let there: BTreeSet<String> = sets.chain([self.uid()]).map(str::to_owned).collect();
        for claim in self.claims.values_mut() {
            let mut owners = claim.set.iter().chain(&claim.cluster).peekable();
            claim.terminating |= owners.peek().is_some() && owners.all(|uid| !there.contains(uid));
        }
    }

    fn uid(&self) -> &str {
        self.cluster.metadata.uid.as_deref().unwrap_or_default()
    }

    /// A pod is that of our StatefulSet.
    fn is_ours(&self, ordinal: i32, pod: &FakePod) -> bool {
        let set = self.children.get(&Child::StatefulSet(ordinal));
        let set = set.filter(|set| owner::is_ours(set, self.uid()));
        set.is_some_and(|set| set["metadata"]["uid"] == *pod.set)
    }

    fn look(&self) -> Seen {
        let names = self.names();
        let desired = Desired::to_observe(&self.cluster, &defaults()).ok_or(());
        let present = desired.as_ref().ok().map(|desired| Child::ConfigMap.name(desired));
        let ours = desired.map(|desired| desired.cluster_id);
        let (children, taken) = owner::sort(self.seen_children(present.as_ref()), self.uid());
        let table = self
            .flotilla
            .as_ref()
            .filter(|flotilla| ours.as_ref() == Ok(&flotilla.id) && self.driver_answers());
        let alive = self.alive();
        let volume = |(ordinal, claim): (&i32, &FakeClaim)| {
            let seen = VolumeClaim {
                name: names.volume(*ordinal),
                uid: claim.uid.clone(),
                version: claim.version.to_string(),
                owners: {
                    let owner =
                        |api: &str, kind: &str, name: String, uid: &String| OwnerReference {
                            api_version: api.to_owned(),
                            kind: kind.to_owned(),
                            name,
                            uid: uid.clone(),
                            ..OwnerReference::default()
                        };
                    let set = claim
                        .set
                        .iter()
                        .map(|uid| owner("apps/v1", "StatefulSet", names.set(*ordinal), uid));
                    let cluster = claim.cluster.iter().map(|uid| {
                        owner("flotilla.dev/v1alpha1", "KvCluster", names.name.clone(), uid)
                    });
                    set.chain(cluster).collect()
                },
                volume: Some(format!("pv-of-{}", claim.uid)),
                requested: Quantity(claim.size.clone()),
                capacity: Some(Quantity(claim.capacity.clone())),
                growth: (!self.is_given(&claim.size)).then(|| Growth::Refused {
                    reason: "ControllerResizeInfeasible".into(),
                    message: "no such size".into(),
                }),
                unnoted: claim.cluster_id.is_empty(),
                decommissioned: claim.mark.clone(),
                terminating: claim.terminating,
                kept: match self.kept.contains(&format!("pv-of-{}", claim.uid)) {
                    _ if !claim.terminating || self.volumes_are_silent => Kept::Unknown,
                    true => Kept::Yes,
                    false => Kept::No,
                },
                machine_is_gone: false,
                can_grow: Some(true),
            };
            (*ordinal, seen)
        };
        Seen {
            cluster: self.cluster.clone(),
            children,
            earlier: seen::earlier_pod(&self.cluster, &self.names()).flatten(),
            answers: Answers::default(),
            old_configs: self.old_configs(present.as_ref()),
            taken: {
                let unknown = self.claims.iter().filter(|(_, claim)| {
                    claim.cluster_id.is_empty() && !seen::knows_volume(&self.cluster, &claim.uid)
                });
                let unknown = unknown.map(|(ordinal, _)| {
                    (Slot::Volume(*ordinal), "no KvCluster made it".to_owned())
                });
                let taken = taken.into_iter().map(|(child, whose)| (Slot::Child(child), whose));
                taken.chain(unknown).collect()
            },
            foreign_volumes: self
                .claims
                .iter()
                .filter(|(_, claim)| {
                    !claim.cluster_id.is_empty() && ours.as_ref() != Ok(&claim.cluster_id)
                })
                .map(|(ordinal, claim)| {
                    let foreign = seen::ForeignVolume {
                        cluster_id: claim.cluster_id.clone(),
                        is_known: seen::knows_volume(&self.cluster, &claim.uid),
                    };
                    (*ordinal, foreign)
                })
                .collect(),
            pods: self
                .pods
                .iter()
                .map(|(ordinal, pod)| (*ordinal, self.pod(*ordinal, pod)))
                .collect(),
            volumes: self
                .claims
                .iter()
                .filter(|(_, claim)| {
                    ours.as_ref() == Ok(&claim.cluster_id)
                        || (claim.cluster_id.is_empty()
                            && seen::knows_volume(&self.cluster, &claim.uid))
                })
                .map(volume)
                .collect(),
            table: table.map(|flotilla| flotilla.table(&alive)),
            table_error: None,
            service_monitors: Some(true),
            strays: BTreeMap::new(),
        }
    }

    fn present_config(&self) -> Option<String> {
        let desired = Desired::to_observe(&self.cluster, &defaults())?;
        Some(Child::ConfigMap.name(&desired))
    }

    fn seen_children(&self, present: Option<&String>) -> BTreeMap<Child, Value> {
        let mut children = self.children.clone();
        let config = present.and_then(|name| self.configs.get(name));
        children.extend(config.map(|config| (Child::ConfigMap, config.clone())));
        children
    }

    fn old_configs(&self, present: Option<&String>) -> BTreeMap<String, String> {
        let old = self
            .configs
            .iter()
            .filter(|(name, config)| Some(*name) != present && owner::is_ours(config, self.uid()));
        old.map(|(name, config)| {
            let uid = config["metadata"]["uid"].as_str().unwrap_or_default();
            (name.clone(), uid.to_owned())
        })
        .collect()
    }

    fn pod(&self, ordinal: i32, pod: &FakePod) -> Pod {
        let runs = self.runs(pod);
        let node = if runs { self.node(ordinal) } else { Node::Silent("silent".into()) };
        let ready = matches!(&node, Node::Joined(joined) if joined.ready);
        let broken = self.claim_of(pod).is_some_and(|claim| claim.broken);
        let wrong = pod.settings.as_ref().is_none_or(|text| text.contains(BROKEN_SETTING));
        let at = |second| crate::clock::text(Timestamp::from_second(second).expect("a time"));
        let reason = if pod.image.starts_with("broken") {
            Some("ImagePullBackOff")
        } else if broken || wrong {
            Some("CrashLoopBackOff")
        } else {
            None
        };
        Pod {
            name: self.names().pod(ordinal),
            uid: pod.uid.clone(),
            ours: self.is_ours(ordinal, pod),
            ready,
            terminating: pod.terminating,
            running: runs,
            template_hash: Some(pod.hash.clone()),
            configs: pod.configs.clone(),
            ip: Some(format!("10.0.0.{ordinal}")),
            place: BTreeMap::new(),
            restarts: pod.restarts,
            problem: reason.map(|reason| (reason.to_owned(), "it does not run".to_owned())),
            problem_is_of_another: false,
            last_exit: broken.then_some(Exit { code: 134, out_of_memory: false }),
            disk_elsewhere: None,
            ready_since: ready.then(|| at(pod.ready_since.unwrap_or(self.seconds))),
            running_since: runs.then(|| at(self.seconds - pod.age)),
            not_ready_since: (!ready).then(|| at(self.seconds - pod.age)),
            node,
        }
    }

    fn node(&self, ordinal: i32) -> Node {
        let Some((cluster_id, node_id)) = self.identity(ordinal).cloned() else {
            return Node::Unjoined { version: "0.1.0".into() };
        };
        let ours = self.flotilla.as_ref().filter(|flotilla| flotilla.id == cluster_id);
        let Some(flotilla) = ours else {
            return Node::Joined(Joined {
                cluster_id,
                node_id,
                version: "0.1.0".into(),
                feature_level: 1,
                ready: false,
                complaints: Vec::new(),
                peers: Vec::new(),
            });
        };
        if flotilla.is_removed(node_id) {
            return Node::Removed { cluster_id, node_id };
        }
        let alive = self.alive();
        let peers: Vec<Peer> = flotilla
            .regions
            .iter()
            .enumerate()
            .filter(|(_, (voters, _))| voters.contains(&node_id))
            .map(|(index, (voters, leader))| Peer {
                region_id: index as u64 + 1,
                epoch: (1, flotilla.version),
                start_key: RANGES[index].0.into(),
                end_key: RANGES[index].1.into(),
                voters: voters.clone(),
                leads: *leader == Some(node_id) && alive.contains(&node_id),
                leader_node: *leader,
                ..Peer::default()
            })
            .collect();
        let led = flotilla.regions.iter().all(|(voters, leader)| {
            !voters.contains(&node_id) || leader.is_some_and(|leader| alive.contains(&leader))
        });
        Node::Joined(Joined {
            cluster_id,
            node_id,
            version: "0.1.0".into(),
            feature_level: 1,
            ready: led && self.driver_answers() && alive.contains(&node_id),
            complaints: Vec::new(),
            peers,
        })
    }

    /// Counts a change, and ends the operator before it if that is due.
    fn begin_change(&mut self, what: &str, deed: Option<Deed>) -> Result<usize, Error> {
        let number = self.changes;
        self.changes += 1;
        if matches!(self.crash, Some(Crash::Before(at) | Crash::After(at)) if at == number) {
            self.ended_around = deed;
        }
        let is_note = matches!(deed, None | Some(Deed::Latch));
        let crash = self.crash == Some(Crash::Before(number));
        self.journal.push(format!(
            "{} {number} {what}{}",
            self.seconds,
            if crash { " (ended before)" } else { "" }
        ));
        if crash {
            return Err(Error::Failed("the operator ended".to_owned()));
        }
        if !is_note {
            self.changes_in_pass += 1;
            assert_eq!(self.changes_in_pass, 1, "one change a pass\n{}", self.journal.join("\n"));
        }
        Ok(number)
    }

    fn end_change(&mut self, number: usize) -> Result<(), Error> {
        if self.crash == Some(Crash::After(number)) {
            self.journal.push("(ended after)".to_owned());
            return Err(Error::Failed("the operator ended".to_owned()));
        }
        Ok(())
    }

    /// The same of a note, after which operators may end.
    fn end_note(&mut self, number: usize) -> Result<(), Error> {
        if self.ends_at_notes {
            self.crash = Some(Crash::After(number));
        }
        self.end_change(number)
    }

    fn require(&self, holds: bool, rule: &str) {
        assert!(holds, "{rule}\n{}", self.journal.join("\n"));
    }

    /// Invariant: taking a pod away leaves every region a majority that runs, if it had one, and every member its disk.
    fn judge_pod_loss(&self, ordinal: i32) {
        if self.judge_disks_only {
            return;
        }
        let alive = self.alive();
        let Some(flotilla) = &self.flotilla else { return };
        let Some((_, node)) = self.identity(ordinal) else { return };
        let goes = self.claims.get(&ordinal).is_some_and(|claim| claim.terminating);
        self.require(
            !goes || flotilla.is_removed(*node),
            "no change takes a member's last claim away",
        );
        let without: BTreeSet<u64> = alive.iter().copied().filter(|other| other != node).collect();
        for (voters, _) in flotilla.regions.iter().filter(|_| flotilla.factor > 1) {
            let kept = !has_majority(voters, &alive) || has_majority(voters, &without);
            self.require(kept, "no change takes a quorum away");
        }
    }

    /// Invariant: a pod that the operator ends takes no disk along that is to stay.
    fn judge_end_of_pod(&self, ordinal: i32) {
        let Some(claim) = self.claims.get(&ordinal).filter(|claim| claim.terminating) else {
            return;
        };
        let stays = self.cluster.spec.storage.retain && claim.identity.is_some();
        let is_kept = self.kept.contains(&format!("pv-of-{}", claim.uid));
        // A late one saw the claim as it was.
        self.require(
            !stays || is_kept || self.judge_disks_only,
            "no pod is ended with which a disk goes that is to stay",
        );
    }

    /// Invariant: whoever ends the pod, a disk that is to stay outlives its claim if the operator had the time: it is
    /// the first thing that it does, of each.
    fn judge_claim(&self, claim: &FakeClaim) {
        let has_data = claim.identity.is_some() && claim.cluster_id == self.first_cluster_id;
        let stays = self.cluster.spec.storage.retain && has_data;
        let passes = self.seen_to_go.get(&claim.uid).copied().unwrap_or(0);
        let is_kept = self.kept.contains(&format!("pv-of-{}", claim.uid));
        self.require(
            !stays || is_kept || passes < TIME_TO_KEEP,
            &format!("the disk of a claim that went was to stay ({})", claim.uid),
        );
    }

    /// Invariant: of the pods that run well, at most one may come back with another template than it has.
    fn judge_template(&self, ordinal: i32, old: Option<&Value>, new: &Value) {
        if self.judge_disks_only || old.is_none() {
            return;
        }
        let changes = |ordinal: i32, set: &Value| {
            let pod = self.pods.get(&ordinal).filter(|pod| self.runs(pod));
            pod.is_some_and(|pod| {
                children::template_hash(set) != Some(&pod.hash) || *user_of(set) != pod.user
            })
        };
        let others = self.children.iter().filter(|(child, set)| match child {
            Child::StatefulSet(other) => *other != ordinal && changes(*other, set),
            _ => false,
        });
        let many = others.count() + usize::from(changes(ordinal, new));
        self.require(many <= 1, "a template reaches a pod in its turn only");
    }

    /// Invariant: deleting a volume leaves every region a majority of its disks.
    fn judge_disk_loss(&self, ordinal: i32) {
        let Some(flotilla) = &self.flotilla else { return };
        let Some((_, node)) = self.claims.get(&ordinal).and_then(|claim| claim.identity.as_ref())
        else {
            return;
        };
        self.require(flotilla.is_removed(*node), "only the disk of a removed node is deleted");
        let mut disks = self.on_disk();
        disks.remove(node);
        for (voters, _) in &flotilla.regions {
            self.require(has_majority(voters, &disks), "a majority of disks stays");
        }
    }

    /// The object as it is stored then, where one is.
    fn change(&mut self, change: &Change) -> Result<Value, Error> {
        match change {
            Change::Apply(child, object, _) => return self.store(*child, object, true),
            Change::Replace(child, object, _) => return self.store(*child, object, false),
            Change::Scale { ordinal, set, replicas } => {
                let stored = self.store(Child::StatefulSet(*ordinal), set, true)?;
                if stored["spec"]["replicas"] != *replicas {
                    return Err(Error::Refused("another number of pods is stored".to_owned()));
                }
                return Ok(stored);
            }
            Change::Delete { child: Child::ConfigMap, name, uid, .. } => {
                let found = self.configs.get(name);
                if found.is_some_and(|object| object["metadata"]["uid"] != *uid) {
                    return Err(Error::Moved("uid".to_owned()));
                }
                let used = self.pods.values().any(|pod| pod.configs.contains(name))
                    || self.children.values().any(|set| children::configs(set).any(|c| c == name));
                self.require(!used, "no settings are deleted that a pod may be made with");
                self.configs.remove(name);
            }
            Change::Delete { child, uid, keep_dependents, .. } => {
                let found = self.children.get(child);
                if found.is_some_and(|object| object["metadata"]["uid"] != *uid) {
                    return Err(Error::Moved("uid".to_owned()));
                }
                self.require(
                    found.is_none_or(|object| owner::is_ours(object, self.uid())),
                    "what is somebody else's is not deleted",
                );
                self.require(
                    !matches!(child, Child::StatefulSet(_)) || *keep_dependents,
                    "pods outlive their StatefulSet",
                );
                let now = Timestamp::from_second(self.seconds).expect("a time");
                match self.children.get_mut(child) {
                    Some(object) if object["metadata"]["finalizers"].is_array() => {
                        let metadata = &mut object["metadata"];
                        metadata["deletionTimestamp"] = json!(crate::clock::text(now));
                    }
                    _ => {
                        self.children.remove(child);
                    }
                }
            }
            Change::DeletePod { name, uid } => {
                let ordinal = self.names().ordinal_of_pod(name).expect("a pod of ours");
                let Some(pod) = self.pods.get(&ordinal) else { return Ok(Value::Null) };
                if pod.uid != *uid {
                    return Err(Error::Moved("uid".to_owned()));
                }
                let ours = self.is_ours(ordinal, pod);
                self.require(
                    ours || self.judge_disks_only,
                    "only pods of our StatefulSet are deleted",
                );
                self.judge_pod_loss(ordinal);
                self.judge_end_of_pod(ordinal);
                if let Some(pod) = self.pods.get_mut(&ordinal) {
                    pod.terminating = true;
                }
            }
            Change::MarkVolume { name, uid, node_id } => {
                self.claim(name, uid)?.mark = Some(node_id.clone());
            }
            Change::UnmarkVolume { name, uid, version } => {
                self.claim_of_version(name, uid, version)?;
                self.claim(name, uid)?.mark = None;
            }
            Change::NoteVolume { name, uid, cluster_id } => {
                let known = seen::knows_volume(&self.cluster, uid);
                self.require(
                    known || self.judge_disks_only,
                    "what is not known to be ours is not noted",
                );
                self.claim(name, uid)?.cluster_id.clone_from(cluster_id);
            }
            Change::SetVolumeOwners { name, uid, version, owners } => {
                self.claim_of_version(name, uid, version)?;
                let retain = self.cluster.spec.storage.retain;
                let own = self.uid().to_owned();
                let is_tied = owners.iter().any(|owner| owner.uid == own);
                let only_ours = owners.iter().all(|owner| owner.uid == own);
                self.require(
                    only_ours && (is_tied != retain || self.judge_disks_only),
                    "a claim goes with its KvCluster or with nobody",
                );
                let claim = self.claim(name, uid)?;
                (claim.set, claim.cluster) = (None, is_tied.then_some(own));
            }
            Change::KeepVolume { name, uid, volume } => {
                let claim = self.claim(name, uid)?;
                let (goes, own) = (claim.terminating, format!("pv-of-{uid}"));
                self.require(goes && own == *volume, "only what goes is to be kept");
                self.kept.insert(volume.clone());
            }
            Change::GrowVolume { .. } if self.no_growth => {
                return Err(Error::Refused("exceeded quota".to_owned()));
            }
            Change::GrowVolume { name, uid, size } => {
                self.claim(name, uid)?.size.clone_from(&size.0);
            }
            Change::TakeSizeBack { name, uid, version, size } => {
                self.claim_of_version(name, uid, version)?;
                if self.keeps_requests {
                    return Err(Error::Refused("field can not be less than previous value".into()));
                }
                let claim = self.claim(name, uid)?;
                if !drift::is_larger(&size.0, &Quantity(claim.capacity.clone())) {
                    return Err(Error::Refused(
                        "field can not be less than status.capacity".into(),
                    ));
                }
                claim.size.clone_from(&size.0);
            }
            Change::DeleteVolume { name, uid, keep, version } => {
                self.claim_of_version(name, uid, version)?;
                let retain = self.cluster.spec.storage.retain;
                let kept = keep.is_some();
                // A late operator may have seen another spec.
                self.require(
                    kept == retain || self.judge_disks_only,
                    "a disk is kept if and only if that is asked for",
                );
                self.kept.extend(keep.clone());
                let ordinal = self.names().ordinal_of_volume(name).expect("a volume of ours");
                self.judge_disk_loss(ordinal);
                self.claim(name, uid)?.terminating = true;
                let used = self.pods.values().any(|pod| pod.claim == *uid);
                if !used {
                    self.claims.remove(&ordinal);
                }
            }
        }
        Ok(Value::Null)
    }

    /// To be changed.
    fn claim(&mut self, name: &str, uid: &str) -> Result<&mut FakeClaim, Error> {
        let ordinal = self.names().ordinal_of_volume(name).expect("a volume of ours");
        let claim = self.claims.get_mut(&ordinal).filter(|claim| claim.uid == uid);
        let claim = claim.ok_or_else(|| Error::Moved("uid".to_owned()))?;
        claim.version += 1;
        Ok(claim)
    }

    fn claim_of_version(&self, name: &str, uid: &str, version: &str) -> Result<(), Error> {
        let ordinal = self.names().ordinal_of_volume(name).expect("a volume of ours");
        let claim = self.claims.get(&ordinal).filter(|claim| claim.uid == uid);
        let is_it = claim.is_some_and(|claim| claim.version.to_string() == version);
        is_it.then_some(()).ok_or_else(|| Error::Moved("version".to_owned()))
    }

    /// `merges`: items of others in our lists stay.
    fn store(&mut self, child: Child, object: &Value, merges: bool) -> Result<Value, Error> {
        if self.refuses == Some(child) {
            return Err(by_policy());
        }
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let old = match child {
            Child::ConfigMap => self.configs.get(&name).cloned(),
            _ => self.children.get(&child).cloned(),
        };
        for field in ["uid", "resourceVersion"] {
            let asked = &object["metadata"][field];
            let known = old.as_ref().map_or(&Value::Null, |old| &old["metadata"][field]);
            if asked != known {
                return Err(Error::Moved(field.to_owned()));
            }
        }
        self.require(
            old.as_ref().is_none_or(|old| owner::is_ours(old, self.uid())),
            "what is somebody else's is not written",
        );
        let mut new = object.clone();
        if let Some(old) = old.as_ref().filter(|_| merges) {
            let sent = self.sent.get(&child).unwrap_or(&Value::Null);
            keep_items_of_others(&mut new["spec"], &old["spec"], &sent["spec"]);
        }
        if child == Child::ConfigMap
            && let Some(old) = &old
            && old["data"] != new["data"]
        {
            return Err(Error::Refused("it is immutable".to_owned()));
        }
        if let Child::StatefulSet(ordinal) = child {
            self.judge_template(ordinal, old.as_ref(), &new);
        }
        if let Child::StatefulSet(ordinal) = child
            && let Some(old) = &old
        {
            let claims = |set: &Value| set["spec"]["volumeClaimTemplates"].clone();
            if claims(old) != claims(&new) {
                return Err(Error::Refused("claims cannot change".to_owned()));
            }
            if children::replicas(&new) == 0 && children::replicas(old) > 0 {
                let stopped = self.cluster.spec.stopped;
                let node = self.identity(ordinal).map(|(_, node)| *node);
                let member = |node| self.flotilla.as_ref().is_some_and(|f| f.is_member(node));
                self.require(
                    stopped || node.is_none_or(|node| !member(node)),
                    "a pod goes only when its node has left",
                );
                self.judge_end_of_pod(ordinal);
            }
        }
        let uid = match &old {
            Some(old) => old["metadata"]["uid"].clone(),
            None => json!(self.next_uid()),
        };
        new["metadata"]["uid"] = uid;
        new["metadata"]["resourceVersion"] = json!(self.next_version());
        (self.admission)(child, &mut new);
        if child == Child::ConfigMap {
            self.configs.insert(name, new.clone());
        } else {
            self.children.insert(child, new.clone());
        }
        self.sent.insert(child, object.clone());
        Ok(new)
    }

    fn call(&mut self, call: &Call) -> Result<(), Error> {
        let noted = self.cluster.status.as_ref().is_some_and(|status| status.operation.is_some());
        // A late one's note may have been replaced meanwhile.
        self.require(
            noted || self.judge_disks_only,
            "the operation is noted before its side effect",
        );
        let names = self.names();
        if let Call::Initialize { pod, cluster_id, replication_factor, first_nodes, split_keys } =
            call
        {
            // As the server: the one that is called, then the others, all of them or none.
            let mut disks = Vec::new();
            for address in first_nodes {
                let ordinal = names.ordinal_at(address).expect("an address of ours");
                let runs = self.pods.get(&ordinal).filter(|pod| self.runs(pod));
                let Some(disk) = runs.map(|pod| pod.claim.clone()) else {
                    return Err(Error::Refused(format!("{address} does not answer")));
                };
                disks.push((ordinal, disk, address.clone()));
            }
            disks.sort_by_key(|(ordinal, ..)| ordinal != pod);
            let identity = |inner: &Self, disk: &String| {
                let claim = inner.claims.values().find(|claim| claim.uid == *disk);
                claim.and_then(|claim| claim.identity.clone())
            };
            if disks.first().is_some_and(|(_, disk, _)| identity(self, disk).is_some()) {
                // The same token: an echo.
                return Ok(());
            }
            if let Some((.., address)) =
                disks.iter().find(|(_, disk, _)| identity(self, disk).is_some())
            {
                return Err(Error::Refused(format!("{address} belongs to a cluster")));
            }
            let mut addresses = Vec::new();
            for (node, (_, disk, address)) in (1..).zip(disks) {
                addresses.push(address);
                let claim = self.claims.values_mut().find(|claim| claim.uid == disk);
                claim.expect("a disk").identity = Some((cluster_id.clone(), node));
            }
            self.begun += 1;
            if self.begun == 1 {
                self.first_cluster_id.clone_from(cluster_id);
            }
            self.split_keys.clone_from(split_keys);
            let factor = usize::try_from(*replication_factor).unwrap_or(1);
            self.flotilla = Some(Flotilla::begin(cluster_id, factor, addresses));
            return Ok(());
        }
        if !self.driver_answers() {
            return Err(Error::Failed("nobody leads".to_owned()));
        }
        let alive = self.alive();
        let disks = self.on_disk();
        let moved = || Error::Moved("the node table".to_owned());
        let flotilla = self.flotilla.as_mut().ok_or_else(moved)?;
        match call {
            Call::Initialize { .. } => Ok(()),
            Call::AddLearner { pod, address, expected_version } => {
                if *expected_version != flotilla.version {
                    return Err(moved());
                }
                let pod = self.pods.get(pod).cloned();
                let Some(pod) = pod.filter(|pod| !pod.terminating && pod.age >= 1) else {
                    return Err(Error::Refused("it does not answer".to_owned()));
                };
                let claim = self.claims.values_mut().find(|claim| claim.uid == pod.claim);
                let claim = claim.ok_or_else(|| Error::Refused("no disk".to_owned()))?;
                if claim.identity.is_some() {
                    return Err(Error::Refused("it has joined".to_owned()));
                }
                if flotilla.rows.iter().any(|row| row.is_member() && row.address == *address) {
                    return Err(Error::Refused("its address is taken".to_owned()));
                }
                let id = flotilla.rows.iter().map(|row| row.node_id).max().unwrap_or(0) + 1;
                claim.identity = Some((flotilla.id.clone(), id));
                flotilla.rows.push(new_row(id, address.clone(), State::Learner));
                flotilla.version += 1;
                Ok(())
            }
            Call::Promote { node_id, expected_version } => {
                if *expected_version != flotilla.version {
                    return Err(moved());
                }
                flotilla.set(*node_id, State::Learner, State::Up)
            }
            Call::RemoveNode { node_id, force, expected_version } => {
                if *expected_version != flotilla.version {
                    return Err(moved());
                }
                let up = flotilla.up().filter(|row| row.node_id != *node_id).count();
                if !force && up < flotilla.factor {
                    return Err(Error::Refused("too few nodes would stay".to_owned()));
                }
                if *force {
                    if alive.contains(node_id) {
                        return Err(Error::Refused("it is alive".to_owned()));
                    }
                    let mut kept = disks;
                    kept.remove(node_id);
                    let safe =
                        flotilla.regions.iter().all(|(voters, _)| has_majority(voters, &kept));
                    assert!(safe, "nothing is given up that holds a quorum");
                }
                let row = flotilla.rows.iter_mut().find(|row| row.node_id == *node_id);
                let row = row.ok_or_else(moved)?;
                row.forced = *force;
                row.state = State::Draining;
                flotilla.version += 1;
                Ok(())
            }
            Call::CancelRemoveNode { node_id, expected_version } => {
                if *expected_version != flotilla.version {
                    return Err(moved());
                }
                flotilla.set(*node_id, State::Draining, State::Up)
            }
            Call::SetReplicationFactor { replication_factor, expected_version } => {
                if *expected_version != flotilla.version {
                    return Err(moved());
                }
                let factor = usize::try_from(*replication_factor).unwrap_or(1);
                if factor > flotilla.factor && flotilla.up().count() < factor {
                    return Err(Error::Refused("too few nodes are in service".to_owned()));
                }
                flotilla.factor = factor;
                flotilla.version += 1;
                Ok(())
            }
            Call::EvictLeaders { node_id, duration } => {
                if duration.is_zero() {
                    flotilla.evicted.remove(node_id);
                } else {
                    flotilla.evicted.insert(*node_id);
                }
                Ok(())
            }
        }
    }
}

/// As server-side apply does: an item of a list with names that is not in what was `sent` last is another
/// manager's, and stays.
fn keep_items_of_others(new: &mut Value, old: &Value, sent: &Value) {
    match (new, old) {
        (Value::Object(new), Value::Object(old)) => {
            for (key, value) in new {
                let none = Value::Null;
                let old = old.get(key).unwrap_or(&none);
                keep_items_of_others(value, old, &sent[key]);
            }
        }
        (Value::Array(new), Value::Array(old)) => {
            let same = |one: &Value, other: &Value| one["name"] == other["name"];
            if new.is_empty() || !new.iter().chain(old).all(|item| item["name"].is_string()) {
                return;
            }
            let find = |list: &Value, item: &Value| {
                let mut items = list.as_array().into_iter().flatten();
                items.find(|other| same(other, item)).cloned()
            };
            for item in &mut *new {
                if let Some(before) = old.iter().find(|before| same(before, item)) {
                    let sent = find(sent, item).unwrap_or_default();
                    keep_items_of_others(item, before, &sent);
                }
            }
            for item in old {
                if find(sent, item).is_none() && !new.iter().any(|known| same(known, item)) {
                    new.push(item.clone());
                }
            }
        }
        _ => {}
    }
}

impl Flotilla {
    fn begin(id: &str, factor: usize, addresses: Vec<String>) -> Self {
        let rows: Vec<Row> =
            (1..).zip(addresses).map(|(id, address)| new_row(id, address, State::Up)).collect();
        let voters: BTreeSet<u64> = rows.iter().map(|row| row.node_id).take(factor).collect();
        Self {
            id: id.to_owned(),
            version: 1,
            factor,
            rows,
            regions: vec![(voters, Some(1)); RANGES.len()],
            evicted: BTreeSet::new(),
        }
    }

    fn up(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.state == State::Up)
    }

    fn is_removed(&self, node: u64) -> bool {
        self.rows.iter().any(|row| row.node_id == node && row.state == State::Removed)
    }

    fn is_member(&self, node: u64) -> bool {
        self.rows.iter().any(|row| row.node_id == node && row.is_member())
    }

    fn set(&mut self, node: u64, from: State, to: State) -> Result<(), Error> {
        let row = self.rows.iter_mut().find(|row| row.node_id == node);
        let row = row.ok_or_else(|| Error::Refused("no such node".to_owned()))?;
        if row.state == to {
            return Ok(());
        }
        if row.state != from || row.forced {
            return Err(Error::Refused(format!("it is {:?}", row.state)));
        }
        row.state = to;
        self.version += 1;
        Ok(())
    }

    fn table(&self, alive: &BTreeSet<u64>) -> Table {
        let mut nodes = self.rows.clone();
        for row in &mut nodes {
            let count = |holds: &dyn Fn(&Voters) -> bool| {
                let count = self.regions.iter().filter(|region| holds(region)).count();
                u32::try_from(count).unwrap_or(0)
            };
            row.alive = alive.contains(&row.node_id);
            row.peers = count(&|(voters, _)| voters.contains(&row.node_id));
            row.leaders = count(&|(_, leader)| *leader == Some(row.node_id));
            row.leaders_evicted = self.evicted.contains(&row.node_id);
        }
        let factor = u32::try_from(self.factor).unwrap_or(1);
        Table { version: self.version, replication_factor: factor, nodes }
    }

    /// One step of placement per region, and elections.
    fn tick(&mut self, alive: &BTreeSet<u64>) {
        let up: Vec<u64> =
            self.up().map(|row| row.node_id).filter(|id| alive.contains(id)).collect();
        let leaving: BTreeSet<u64> = self
            .rows
            .iter()
            .filter(|row| row.state == State::Draining)
            .map(|row| row.node_id)
            .collect();
        for (voters, leader) in &mut self.regions {
            if !has_majority(voters, alive) {
                *leader = None;
                continue;
            }
            let spare = up.iter().find(|node| !voters.contains(node)).copied();
            let goes = voters.intersection(&leaving).next().copied();
            let forced = goes
                .is_some_and(|node| self.rows.iter().any(|row| row.node_id == node && row.forced));
            if let (Some(node), true) = (goes, forced) {
                voters.remove(&node);
            } else if let (Some(node), Some(next)) = (goes, spare) {
                voters.insert(next);
                voters.remove(&node);
            } else if voters.len() < self.factor.min(up.len())
                && let Some(next) = spare
            {
                voters.insert(next);
            } else if voters.len() > self.factor
                && let Some(extra) = voters.iter().rev().find(|node| Some(**node) != *leader)
            {
                let fewer: BTreeSet<u64> =
                    voters.iter().filter(|node| *node != extra).copied().collect();
                if has_majority(&fewer, alive) {
                    *voters = fewer;
                }
            }
            let may_lead = |node: &u64| voters.contains(node) && alive.contains(node);
            let keep = leader.filter(|node| {
                may_lead(node) && (!self.evicted.contains(node) || voters.len() == 1)
            });
            let next =
                voters.iter().copied().find(|node| may_lead(node) && !self.evicted.contains(node));
            *leader = keep.or(next).or_else(|| voters.iter().copied().find(may_lead));
        }
        let holds = |node: u64| self.regions.iter().any(|(voters, _)| voters.contains(&node));
        let gone: Vec<u64> = leaving.into_iter().filter(|node| !holds(*node)).collect();
        for row in &mut self.rows {
            if gone.contains(&row.node_id) {
                row.state = State::Removed;
                self.version += 1;
            }
        }
    }
}

fn new_row(node_id: u64, address: String, state: State) -> Row {
    Row {
        node_id,
        address,
        state,
        forced: false,
        demoted: false,
        alive: true,
        down: false,
        leaders: 0,
        peers: 0,
        leaders_evicted: false,
        version: "0.1.0".into(),
    }
}

fn by_policy() -> Error {
    Error::Refused("a policy refuses it".to_owned())
}

fn has_majority(voters: &BTreeSet<u64>, of: &BTreeSet<u64>) -> bool {
    voters.intersection(of).count() * 2 > voters.len()
}

impl World for Fake {
    async fn look(&self, _: &Key) -> Result<Option<Seen>, Error> {
        let mut seen = self.0.lock().look();
        let desired = Desired::to_observe(&seen.cluster, &defaults());
        let is_whole = desired.is_some_and(|desired| plan::is_whole(&seen, &desired, self.now()));
        let stamps = plan::stamps(&seen);
        seen.answers = self.1.watch(&super::key(), is_whole, stamps, self.now());
        Ok(Some(seen))
    }

    async fn note(&self, cluster: &KvCluster, status: &KvClusterStatus) -> Result<(), Error> {
        let mut inner = self.0.lock();
        let operation = status.operation.as_ref();
        let what = operation.map_or_else(String::new, |operation| {
            format!("{} {} {}", operation.kind, operation.target, operation.step)
        });
        let old = inner.cluster.status.as_ref().and_then(|old| old.cluster_id.as_ref());
        let latches = status.cluster_id.is_some() && old.is_none();
        let deed = latches.then_some(Deed::Latch);
        let ended = |error| self.ended(error);
        let number = inner.begin_change(&format!("note {what}"), deed).map_err(ended)?;
        if inner.cluster.metadata.resource_version != cluster.metadata.resource_version {
            return Err(Error::Moved("version".to_owned()));
        }
        let latched = inner.cluster.status.as_ref().and_then(|old| old.cluster_id.clone());
        inner.require(latched.is_none() || latched == status.cluster_id, "what is for ever stays");
        let mut stored = status.clone();
        (inner.definition)(&mut stored);
        let now = Timestamp::from_second(inner.seconds).expect("a time");
        self.1.learn_status(&super::key(), status, &stored, now);
        inner.cluster.status = Some(stored);
        inner.touch_cluster();
        inner.end_note(number).map_err(ended)
    }

    async fn change(&self, _: &Key, change: &Change) -> Result<Made, Error> {
        let mut inner = self.0.lock();
        let what = match change {
            Change::Apply(child, ..) | Change::Replace(child, ..) => format!("apply {child:?}"),
            Change::Scale { replicas, .. } => format!("scale to {replicas}"),
            other => format!("{other:?}"),
        };
        let ended = |error| self.ended(error);
        let number = inner.begin_change(&what, Some(change.deed())).map_err(ended)?;
        let now = Timestamp::from_second(inner.seconds).expect("a time");
        let refused = inner.refuses_deed == Some(change.deed());
        inner.refused_by_policy += usize::from(refused);
        let result = if refused { Err(by_policy()) } else { inner.change(change) };
        self.1.learn(&super::key(), change, &result, now);
        result?;
        inner.end_change(number).map_err(ended)?;
        Ok(Made::AsAsked)
    }

    async fn call(&self, seen: &Seen, call: &Call) -> Result<(), Error> {
        let desired = Desired::of(&seen.cluster, &defaults()).expect("a valid spec");
        let door = seen.joined(&desired.cluster_id).next();
        let mut inner = self.0.lock();
        let ended = |error| self.ended(error);
        let number = inner.begin_change(&format!("{call:?}"), Some(call.deed())).map_err(ended)?;
        if door.is_none() && !matches!(call, Call::Initialize { .. }) {
            return Err(Error::Refused("no node answers".to_owned()));
        }
        let refused = inner.refuses_deed == Some(call.deed());
        inner.refused_by_policy += usize::from(refused);
        let result = if refused { Err(by_policy()) } else { inner.call(call) };
        let now = Timestamp::from_second(inner.seconds).expect("a time");
        self.1.learn_call(&super::key(), call, &result, now);
        result?;
        inner.end_change(number).map_err(ended)
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.0.lock().seconds).expect("a time")
    }
}
