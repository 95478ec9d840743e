//! Kubernetes and the nodes as one world.
//!
//! A look reads everything afresh: a cache that lags by a second shows a pod that was deleted a second
//! ago, and the next step would be taken on it. What a look costs is bounded by how seldom it is taken
//! when nothing changes.

mod pods;
mod reach;
mod volumes;
mod write;

use std::{collections::BTreeMap, fmt::Debug, sync::Arc, time::Duration};

use futures::{StreamExt as _, TryStreamExt as _, future::join_all, stream::FuturesUnordered};
use k8s_openapi::{
    api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{
        ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams,
        Preconditions, PropagationPolicy, TypeMeta,
    },
    core::DeserializeGuard,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    answers::{Answers, Memory},
    children::{self, Child},
    clock, conditions,
    crd::{KvCluster, KvClusterStatus},
    desired::{Defaults, Desired},
    error::Error,
    key::Key,
    lease::Leadership,
    names::{CLUSTER_ID, DECOMMISSIONED, MANAGER, Names},
    nodes, owner,
    plan::{self, Call, Change},
    seen::{self, Kept, Node, Seen, Slot},
    world::{Made, World},
};

/// The type that the operator of Prometheus brings.
pub(crate) const SERVICE_MONITORS: &str = "servicemonitors.monitoring.coreos.com";
/// Bound: nodes that are asked for the node table in one look, before it counts as unknown.
const TABLE_ASKED_MAX: usize = 3;
/// Bound: one that is asked for it is waited for so long alone.
const NEXT_DOOR: Duration = Duration::from_millis(300);
/// Bound: all that is asked again in one look.
const AGAIN: Duration = Duration::from_secs(3);
/// Bound: questions for single objects that are under way to the API server at once, in one look.
const ASKED_AT_ONCE: usize = 16;

/// Answers of the API server that a moment later may be others: not there (yet), too slow, too much.
const UNDECIDED: [u16; 3] = [404, 408, 429];

/// The real world.
#[derive(Clone)]
pub struct Kubernetes {
    client: Client,
    defaults: Defaults,
    /// Asked right before every change.
    leadership: Arc<Leadership>,
    memory: Arc<Memory>,
}

impl Kubernetes {
    #[must_use]
    pub fn new(client: Client, defaults: Defaults, leadership: Arc<Leadership>) -> Self {
        Self { client, defaults, leadership, memory: Arc::default() }
    }

    fn names(&self, key: &Key) -> Names {
        Names {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            domain: self.defaults.domain.clone(),
        }
    }

    fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    fn child(&self, child: Child, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, &child.resource())
    }

    /// Every object of ours that there is, wanted or not: what is no longer wanted is to go. And whatever has
    /// the name of one that there is to be. And whether a ServiceMonitor could be looked for.
    async fn children(&self, desired: &Desired) -> Result<(BTreeMap<Child, Value>, bool), Error> {
        let names = &desired.names;
        let sets = self.child(Child::StatefulSet(0), &names.namespace);
        // By name also where the list has none: somebody else's has no label of ours.
        let sets = by_name(
            &sets,
            names,
            desired.spec.replicas,
            |ordinal| names.set(ordinal),
            |name| names.ordinal_of_set(name),
        );
        let sets = sets.await.map_err(|error| failed("list StatefulSets", error))?.found;
        let mut children = BTreeMap::new();
        for (ordinal, set) in sets {
            let child = Child::StatefulSet(ordinal);
            children.insert(child, as_value(child, set)?);
        }
        let read = Child::SHARED.into_iter().map(|child| async move {
            let name = child.name(desired);
            let object = self.child(child, &names.namespace).get_opt(&name).await;
            let object =
                object.map_err(|error| failed(&format!("read {} {name}", child.kind()), error));
            (child, object)
        });
        let mut knows_monitor = true;
        for (child, read) in join_all(read).await {
            let Some(found) = unless_spare(read, child != Child::ServiceMonitor)? else {
                knows_monitor = false;
                continue;
            };
            if let Some(object) = found {
                children.insert(child, as_value(child, object)?);
            }
        }
        Ok((children, knows_monitor))
    }

    /// ConfigMaps that were made for this cluster, and for no earlier one of its name, but the present one, and what is on
    /// its way out.
    async fn old_configs(&self, desired: &Desired) -> Result<BTreeMap<String, String>, Error> {
        let present = Child::ConfigMap.name(desired);
        let selected = ListParams::default().labels(&desired.names.selector_text());
        let configs: Api<ConfigMap> = self.api(&desired.names.namespace);
        let listed = configs.list_metadata(&selected).await;
        let listed = listed.map_err(|error| failed("list ConfigMaps", error))?.items;
        let ours = listed.into_iter().map(|config| config.metadata).filter(|metadata| {
            let owner = owner::controller(metadata.owner_references.as_ref());
            let goes = metadata.deletion_timestamp.is_some();
            !goes && owner.is_some_and(|owner| owner.uid == desired.uid)
        });
        let named = ours.filter_map(|metadata| Some((metadata.name?, metadata.uid?)));
        Ok(named.filter(|(name, _)| *name != present).collect())
    }

    /// What is there of an operator that made one StatefulSet for all nodes: by the members, where some are
    /// known, so that a cluster in service costs no question.
    async fn earlier(
        &self,
        cluster: &KvCluster,
        desired: &Desired,
    ) -> Result<Option<String>, Error> {
        let names = &desired.names;
        if let Some(known) = seen::earlier_pod(cluster, names) {
            return Ok(known);
        }
        let child = Child::StatefulSet(0);
        let set = self.child(child, &names.namespace).get_opt(&names.name).await;
        let set =
            set.map_err(|error| failed(&format!("read StatefulSet {}", names.name), error))?;
        let set = set.map(|set| as_value(child, set)).transpose()?;
        if set.is_some_and(|set| owner::is_ours(&set, &desired.uid)) {
            return Ok(Some(format!("StatefulSet {}", names.name)));
        }
        let selected = ListParams::default().labels(&names.selector_text());
        let claims: Api<PersistentVolumeClaim> = self.api(&names.namespace);
        let claims = claims.list(&selected).await.map_err(|error| failed("list volumes", error))?;
        // A new cluster of the name has nothing to do with what an older one left.
        let of_ours = claims
            .items
            .into_iter()
            .filter(|claim| volumes::cluster_id(claim).is_some_and(|id| id == desired.cluster_id));
        let mut of_ours = of_ours.filter_map(|claim| claim.metadata.name);
        let claim = of_ours.find(|claim| names.is_earlier(claim));
        Ok(claim.map(|claim| format!("PersistentVolumeClaim {claim}")))
    }

    /// Those with our labels, and those that stand where one of our StatefulSets misses its pod.
    async fn pods(
        &self,
        names: &Names,
        children: &BTreeMap<Child, Value>,
        not_ours: &BTreeMap<Slot, String>,
    ) -> Result<FoundPods, Error> {
        let pods: Api<Pod> = self.api(&names.namespace);
        let held = children.iter().filter_map(|(child, set)| match child {
            Child::StatefulSet(ordinal) if children::replicas(set) > 0 => Some(ordinal + 1),
            _ => None,
        });
        let found = by_name(
            &pods,
            names,
            held.max().unwrap_or(0),
            |ordinal| names.pod(ordinal),
            |name| names.ordinal_of_pod(name),
        );
        let ByName { found, others } = found.await.map_err(|error| failed("list pods", error))?;
        let mut pods = FoundPods::default();
        for other in others {
            let owner = owner::controller(other.metadata.owner_references.as_ref());
            pods.add_stray(names, &other, owner::whose(owner));
        }
        for (ordinal, pod) in found {
            match pods::Maker::of(children, not_ours, ordinal).whose(&pod, names, ordinal) {
                Ok(ours) => {
                    let set = children.get(&Child::StatefulSet(ordinal)).filter(|_| ours);
                    let mut read = seen::Pod {
                        ours,
                        disk_elsewhere: pods::disk_elsewhere(&pod, &names.volume(ordinal)),
                        ..pods::read(&pod)
                    };
                    read.template_hash = read
                        .template_hash
                        .or_else(|| set.and_then(|set| pods::hash_of_revision(&pod, set)));
                    pods.ours.insert(ordinal, (read, pods::machine(&pod)));
                }
                Err(whose) => {
                    pods.add_stray(names, &pod, whose.clone());
                    pods.taken.insert(Slot::Pod(ordinal), whose);
                }
            }
        }
        Ok(pods)
    }

    /// As [`Self::pods`].
    async fn volumes(
        &self,
        names: &Names,
        cluster: &KvCluster,
        desired: &Desired,
    ) -> Result<Volumes, Error> {
        let claims: Api<PersistentVolumeClaim> = self.api(&names.namespace);
        let replicas = desired.spec.replicas;
        let found = by_name(
            &claims,
            names,
            replicas,
            |ordinal| names.volume(ordinal),
            |name| names.ordinal_of_volume(name),
        );
        let found = found.await.map_err(|error| failed("list volumes", error))?.found;
        let mut volumes = Volumes::default();
        let is_known = |claim: &PersistentVolumeClaim| {
            claim.metadata.uid.as_ref().is_some_and(|uid| seen::knows_volume(cluster, uid))
        };
        let mut ours = Vec::new();
        for (ordinal, claim) in found {
            match volumes::cluster_id(&claim) {
                Some(id) if id == desired.cluster_id => {
                    volumes.ours.insert(ordinal, volumes::read(&claim));
                    ours.push(claim);
                }
                None if is_known(&claim) => {
                    volumes.ours.insert(ordinal, volumes::read(&claim));
                    ours.push(claim);
                }
                Some(other) => {
                    let foreign = seen::ForeignVolume {
                        cluster_id: other.to_owned(),
                        is_known: is_known(&claim),
                    };
                    volumes.foreign.insert(ordinal, foreign);
                }
                None => {
                    let owner = owner::controller(claim.metadata.owner_references.as_ref());
                    volumes.taken.insert(Slot::Volume(ordinal), owner::whose(owner));
                }
            }
        }
        volumes::ask_growth(&self.client, desired, &ours, names, &mut volumes.ours).await;
        Ok(volumes)
    }

    /// Every node is asked at once; silent ones cost their time limit, once.
    async fn ask_nodes(
        &self,
        names: &Names,
        pods: Pods,
        zone_label: &str,
        places: &nodes::Places,
    ) -> BTreeMap<i32, seen::Pod> {
        let asked = pods.into_iter().map(|(ordinal, (mut pod, machine))| async move {
            if let Some(ip) = pod.ip.as_deref().filter(|_| pod.running) {
                pod.node = ask_node(ip, names, ordinal, places).await;
            }
            // Told to the cluster when the node joins; not needed before and not after.
            if let (Node::Unjoined { .. }, Some(machine)) = (&pod.node, machine) {
                match pods::place(&self.client, &machine, zone_label).await {
                    Ok(place) => pod.place = place,
                    Err(error) => {
                        let error = nodes::root(&error);
                        tracing::warn!(machine, "read the labels of a Kubernetes node: {error}");
                    }
                }
            }
            (ordinal, pod)
        });
        let mut pods = join_all(asked).await.into_iter().collect();
        // Those that are still asked count as not reached.
        let _ = tokio::time::timeout(AGAIN, ask_again(names, &mut pods, places)).await;
        pods
    }

    /// The node table, from the first of the cluster's nodes that can get it. One after the other only for a moment:
    /// what the nodes said is older by as much as this takes.
    async fn ask_table(
        &self,
        seen_pods: &BTreeMap<i32, seen::Pod>,
        cluster_id: &str,
        places: &nodes::Places,
    ) -> Result<seen::Table, String> {
        let mut last = "no node of the cluster answers".to_owned();
        let doors = doors(seen_pods, cluster_id).take(TABLE_ASKED_MAX);
        let pauses = std::iter::successors(Some(Duration::ZERO), |pause| Some(*pause + NEXT_DOOR));
        let asked = doors.zip(pauses).map(|(ip, pause)| async move {
            tokio::time::sleep(pause).await;
            nodes::table(&mut nodes::connect(ip, places).await?).await
        });
        let mut asked: FuturesUnordered<_> = asked.collect();
        while let Some(answer) = asked.next().await {
            match answer {
                Ok((id, table)) if id == cluster_id => return Ok(table),
                Ok((id, _)) => last = format!("the table is that of cluster {id}"),
                Err(why) => last = why,
            }
        }
        Err(last)
    }

    /// `None`: it is not known. An API server that does not answer is none without the type.
    async fn has_service_monitors(&self) -> Option<bool> {
        let types: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        match types.get_metadata_opt(SERVICE_MONITORS).await {
            Ok(found) => Some(found.is_some()),
            Err(error) => {
                tracing::debug!("look for the type {SERVICE_MONITORS}: {error}");
                None
            }
        }
    }

    async fn apply(
        &self,
        key: &Key,
        child: Child,
        object: &Value,
        replace: bool,
    ) -> Result<Value, Error> {
        let api = self.child(child, &key.namespace);
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let what = format!("apply {} {name}", child.kind());
        if replace {
            write::replace(&api, &what, object).await
        } else {
            write::apply(&api, &what, object).await
        }
    }

    /// The object as it is stored then, where one is; of a claim that goes, the disk that is kept of it.
    async fn make(&self, key: &Key, change: &Change) -> Result<Value, Error> {
        let pods = || self.api::<Pod>(&key.namespace);
        let claims = || self.api::<PersistentVolumeClaim>(&key.namespace);
        match change {
            Change::Apply(child, object, _) => self.apply(key, *child, object, false).await,
            Change::Replace(child, object, _) => self.apply(key, *child, object, true).await,
            Change::Scale { ordinal, set, replicas } => {
                let stored = self.apply(key, Child::StatefulSet(*ordinal), set, false).await?;
                match &stored["spec"]["replicas"] {
                    there if there == replicas => Ok(stored),
                    there => {
                        let why = format!("{replicas} pods were asked for, {there} are stored");
                        Err(Error::Contended(why))
                    }
                }
            }
            Change::Delete { child, name, uid, keep_dependents } => {
                let mut params = only(uid);
                if *keep_dependents {
                    params.propagation_policy = Some(PropagationPolicy::Orphan);
                }
                let api = self.child(*child, &key.namespace);
                gone(&format!("delete {} {name}", child.kind()), api.delete(name, &params).await)
            }
            Change::DeletePod { name, uid } => {
                gone(&format!("delete pod {name}"), pods().delete(name, &only(uid)).await)
            }
            Change::DeleteVolume { name, uid, keep, version } => {
                // Ordering: the disk is kept before its claim goes, or Kubernetes may have deleted it.
                let kept = match keep {
                    Some(volume) => volumes::keep(&self.client, volume, uid).await?,
                    None => Value::Null,
                };
                self.may_act()?;
                let mut params = only(uid);
                if let Some(preconditions) = &mut params.preconditions {
                    preconditions.resource_version = Some(version.clone());
                }
                let deleted = claims().delete(name, &params).await;
                gone(&format!("delete volume {name}"), deleted).map(|_| kept)
            }
            Change::MarkVolume { name, uid, node_id } => {
                let patch =
                    json!({"metadata": {"uid": uid, "annotations": {DECOMMISSIONED: node_id}}});
                done(&format!("mark volume {name}"), patch_claim(&claims(), name, patch).await)
            }
            Change::UnmarkVolume { name, uid, version } => {
                let off = json!({DECOMMISSIONED: null});
                let metadata = json!({"uid": uid, "resourceVersion": version, "annotations": off});
                let patch = json!({ "metadata": metadata });
                let unmarked = patch_claim(&claims(), name, patch).await;
                done(&format!("take the mark off volume {name}"), unmarked)
            }
            Change::NoteVolume { name, uid, cluster_id } => {
                let patch =
                    json!({"metadata": {"uid": uid, "annotations": {CLUSTER_ID: cluster_id}}});
                let noted = patch_claim(&claims(), name, patch).await;
                done(&format!("note the cluster at volume {name}"), noted)
            }
            Change::KeepVolume { uid, volume, .. } => {
                volumes::keep(&self.client, volume, uid).await
            }
            Change::SetVolumeOwners { name, uid, version, owners } => {
                let metadata =
                    json!({"uid": uid, "resourceVersion": version, "ownerReferences": owners});
                let patch = json!({ "metadata": metadata });
                done(
                    &format!("note the owners of volume {name}"),
                    patch_claim(&claims(), name, patch).await,
                )
            }
            Change::GrowVolume { name, uid, size } => {
                let patch = json!({
                    "metadata": {"uid": uid},
                    "spec": {"resources": {"requests": {"storage": size}}},
                });
                done(&format!("grow volume {name}"), patch_claim(&claims(), name, patch).await)
            }
            Change::TakeSizeBack { name, uid, version, size } => {
                let patch = json!({
                    "metadata": {"uid": uid, "resourceVersion": version},
                    "spec": {"resources": {"requests": {"storage": size}}},
                });
                let asked = patch_claim(&claims(), name, patch).await;
                done(&format!("take the size of volume {name} back"), asked)
            }
        }
    }

    /// Has a node do something.
    async fn ask(&self, seen: &Seen, call: &Call) -> Result<(), Error> {
        let desired = Desired::of(&seen.cluster, &self.defaults)
            .map_err(|invalid| Error::Refused(invalid.0.join("; ")))?;
        let own = match call {
            Call::Initialize { pod, .. } => seen.pods.get(pod).and_then(|pod| pod.ip.as_deref()),
            _ => None,
        };
        let places = places(&seen.pods, &desired.names, call)?;
        let door = match call {
            Call::Initialize { .. } => own,
            _ => doors(&seen.pods, &desired.cluster_id).next(),
        };
        let door =
            door.ok_or_else(|| Error::Refused("no node of the cluster answers".to_owned()))?;
        let mut client =
            nodes::connect(door, &nodes::Places::new()).await.map_err(Error::Refused)?;
        self.may_act()?;
        nodes::call(&mut client, call, places).await
    }

    /// Says in the conditions of a KvCluster that it cannot be read; whatever else is in it stays.
    pub(crate) async fn note_unreadable(&self, key: &Key, why: &str) -> Result<(), Error> {
        self.may_act()?;
        let kind = ApiResource::erase::<KvCluster>(&());
        let clusters: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &key.namespace, &kind);
        let found = clusters.get_opt(&key.name).await;
        let Some(mut cluster) = found.map_err(|error| failed("read the KvCluster", error))? else {
            return Ok(());
        };
        let generation = cluster.metadata.generation;
        let conditions = &mut cluster.data["status"]["conditions"];
        if !conditions::say_unreadable(conditions, why, generation, self.now()) {
            return Ok(());
        }
        let params = PostParams { field_manager: Some(MANAGER.to_owned()), dry_run: false };
        done("note the status", clusters.replace_status(&key.name, &params, &cluster).await)
            .map(drop)
    }

    /// A cluster is gone.
    pub(crate) fn forget(&self, key: &Key) {
        self.memory.forget(key);
    }

    /// A lease is no fence: between this and the change the process may be frozen. What such a late
    /// change does is bounded by uids, versions and `expected_version`.
    fn may_act(&self) -> Result<(), Error> {
        if self.leadership.holds() { Ok(()) } else { Err(Error::NotLeading) }
    }
}

/// Lays `patch` over a volume claim: the very one whose uid it bears.
async fn patch_claim(
    claims: &Api<PersistentVolumeClaim>,
    name: &str,
    patch: Value,
) -> kube::Result<PersistentVolumeClaim> {
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..Default::default() };
    claims.patch(name, &params, &Patch::Merge(&patch)).await
}

fn as_value(child: Child, mut object: DynamicObject) -> Result<Value, Error> {
    let kind = child.resource();
    // In a list Kubernetes says this once, for all of them.
    object
        .types
        .get_or_insert_with(|| TypeMeta { api_version: kind.api_version.clone(), kind: kind.kind });
    serde_json::to_value(object).map_err(|error| Error::Failed(error.to_string()))
}

/// Where the nodes are that a call makes known to the cluster, by address.
///
/// # Errors
/// It is not known of one of them. The cluster keeps what it is told then, so that waits for another look.
fn places(
    pods: &BTreeMap<i32, seen::Pod>,
    names: &Names,
    call: &Call,
) -> Result<BTreeMap<String, BTreeMap<String, String>>, Error> {
    let new: &[String] = match call {
        Call::Initialize { first_nodes, .. } => first_nodes,
        Call::AddLearner { address, .. } => std::slice::from_ref(address),
        _ => &[],
    };
    let new = pods
        .iter()
        .map(|(ordinal, pod)| (names.client_address(*ordinal), pod))
        .filter(|(address, _)| new.contains(address));
    let mut known = BTreeMap::new();
    for (address, pod) in new {
        if !pod.place.is_empty() {
            known.insert(address, pod.place.clone());
        } else if matches!(pod.node, Node::Unjoined { .. }) {
            return Err(Error::Failed(format!(
                "the labels of the Kubernetes node on which {address} runs could not be read, and with them its zone"
            )));
        }
    }
    Ok(known)
}

async fn ask_node(ip: &str, names: &Names, ordinal: i32, places: &nodes::Places) -> Node {
    match nodes::connect(ip, places).await {
        Ok(mut client) => nodes::ask(&mut client, names, ordinal).await,
        Err(why) => Node::Silent(why),
    }
}

/// Those with peers that lack something their leader has committed, until they have it or it is clear
/// that nothing reaches them.
async fn ask_again(names: &Names, pods: &mut BTreeMap<i32, seen::Pod>, places: &nodes::Places) {
    let committed = reach::Committed::of(pods);
    let mut behind = committed.mark(pods);
    for pause in reach::PAUSES {
        if behind.is_empty() {
            return;
        }
        tokio::time::sleep(pause).await;
        let asked = behind.iter().map(|ordinal| {
            let ip = pods.get(ordinal).and_then(|pod| pod.ip.clone()).unwrap_or_default();
            async move { (*ordinal, ask_node(&ip, names, *ordinal, places).await) }
        });
        for (ordinal, node) in join_all(asked).await {
            if let Some(pod) = pods.get_mut(&ordinal) {
                pod.node = node;
            }
        }
        behind = committed.mark(pods);
    }
}

impl World for Kubernetes {
    async fn look(&self, key: &Key) -> Result<Option<Seen>, Error> {
        let names = self.names(key);
        let clusters: Api<DeserializeGuard<KvCluster>> = self.api(&key.namespace);
        let cluster = clusters.get_opt(&key.name).await;
        let Some(cluster) = cluster.map_err(|error| failed("read the KvCluster", error))? else {
            return Ok(None);
        };
        let cluster = cluster.0.map_err(|invalid| Error::Unreadable(invalid.error))?;
        let desired = Desired::to_observe(&cluster, &self.defaults);
        let monitors = if cluster.spec.metrics.service_monitor {
            self.has_service_monitors().await
        } else {
            Some(false)
        };
        let zone = cluster.spec.placement.topology_key.as_deref().unwrap_or(pods::ZONE);
        let uid = cluster.metadata.uid.clone().unwrap_or_default();
        let ((children, others), knows_monitor, old_configs, earlier) = match &desired {
            Some(desired) => {
                let ((found, knows_monitor), old, earlier) = futures::try_join!(
                    self.children(desired),
                    self.old_configs(desired),
                    self.earlier(&cluster, desired)
                )?;
                (owner::sort(found, &uid), knows_monitor, old, earlier)
            }
            // What they are called follows from the spec; nothing is done about them either.
            None => Default::default(),
        };
        let mut taken: BTreeMap<Slot, String> =
            others.into_iter().map(|(child, whose)| (Slot::Child(child), whose)).collect();
        let (found, volumes) = futures::try_join!(self.pods(&names, &children, &taken), async {
            match &desired {
                Some(desired) => self.volumes(&names, &cluster, desired).await,
                None => Ok(Volumes::default()),
            }
        })?;
        taken.extend(found.taken);
        taken.extend(volumes.taken);
        let mut volumes_seen = volumes.ours;
        for (ordinal, volume) in &mut volumes_seen {
            volume.kept = match volume.volume.as_deref() {
                Some(bound) if volume.terminating => {
                    volumes::kept(&self.client, bound, &volume.uid).await
                }
                Some(_) => Kept::Unknown,
                None => Kept::Nothing,
            };
            let runs = found.ours.get(ordinal).is_some_and(|(pod, _)| pod.running);
            if let Some(bound) = volume.volume.as_deref().filter(|_| !runs) {
                volume.machine_is_gone =
                    volumes::machine_is_gone(&self.client, bound, &volume.uid).await;
            }
        }
        // Ordering: last, and then the table. A pod is taken down by what the others say, and an API server may take a
        // minute for each of its answers.
        let places = nodes::Places::new();
        let pods = self.ask_nodes(&names, found.ours, zone, &places).await;
        let table = match &desired {
            Some(desired) => self.ask_table(&pods, &desired.cluster_id, &places).await,
            None => Err("the spec cannot be acted on".to_owned()),
        };
        let (table, table_error) = match table {
            Ok(table) => (Some(table), None),
            Err(why) => (None, Some(why)),
        };
        let mut seen = Seen {
            cluster,
            children,
            taken,
            foreign_volumes: volumes.foreign,
            earlier,
            answers: Answers::default(),
            old_configs,
            pods,
            volumes: volumes_seen,
            table,
            table_error,
            // One that may be there and is not seen is neither made nor called missing.
            service_monitors: monitors.filter(|there| knows_monitor || !there),
            strays: found.strays,
        };
        let is_whole = desired.is_some_and(|desired| plan::is_whole(&seen, &desired, self.now()));
        let stamps = plan::stamps(&seen);
        seen.answers = self.memory.watch(key, is_whole, stamps, clock::steady());
        Ok(Some(seen))
    }

    async fn note(&self, cluster: &KvCluster, status: &KvClusterStatus) -> Result<(), Error> {
        self.may_act()?;
        let namespace = cluster.metadata.namespace.as_deref().unwrap_or_default();
        let name = cluster.metadata.name.as_deref().unwrap_or_default();
        let clusters: Api<KvCluster> = self.api(namespace);
        let noted = KvCluster { status: Some(status.clone()), ..cluster.clone() };
        let params = PostParams { field_manager: Some(MANAGER.to_owned()), dry_run: false };
        let stored = clusters.replace_status(name, &params, &noted).await;
        let stored = stored.map_err(|error| failed("note the status", error))?;
        let stored = stored.status.unwrap_or_default();
        self.memory.learn_status(&key_of(cluster), status, &stored, self.now());
        Ok(())
    }

    async fn change(&self, key: &Key, change: &Change) -> Result<Made, Error> {
        self.may_act()?;
        let result = self.make(key, change).await;
        self.memory.learn(key, change, &result, self.now());
        let stored = result?;
        let keeps = matches!(
            change,
            Change::KeepVolume { .. } | Change::DeleteVolume { keep: Some(_), .. }
        );
        Ok(if keeps && stored.is_null() { Made::NothingKept } else { Made::AsAsked })
    }

    async fn call(&self, seen: &Seen, call: &Call) -> Result<(), Error> {
        self.may_act()?;
        let result = self.ask(seen, call).await;
        self.memory.learn_call(&key_of(&seen.cluster), call, &result, self.now());
        result
    }

    fn now(&self) -> Timestamp {
        clock::wall()
    }
}

fn key_of(cluster: &KvCluster) -> Key {
    let metadata = &cluster.metadata;
    Key {
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
    }
}

/// By ordinal, with the Kubernetes node that each runs on.
type Pods = BTreeMap<i32, (seen::Pod, Option<String>)>;

/// Pods with our labels or names.
#[derive(Default)]
struct FoundPods {
    ours: Pods,
    /// Those that have a name of ours, and whose they are.
    taken: BTreeMap<Slot, String>,
    /// Those that bear our labels, and whose they are.
    strays: BTreeMap<String, String>,
}

impl FoundPods {
    /// Unless it lacks the labels, or has ended and is counted by nobody.
    fn add_stray(&mut self, names: &Names, pod: &Pod, whose: String) {
        if let Some(name) = pods::is_selected(pod, names).then_some(pod.metadata.name.as_ref()) {
            self.strays.extend(name.map(|name| (name.clone(), whose)));
        }
    }
}

/// What [`by_name`] finds.
struct ByName<K> {
    /// By ordinal.
    found: BTreeMap<i32, K>,
    /// With our labels and another name.
    others: Vec<K>,
}

/// Claims of our names.
#[derive(Default)]
struct Volumes {
    ours: BTreeMap<i32, seen::VolumeClaim>,
    /// By the id of their cluster.
    foreign: BTreeMap<i32, seen::ForeignVolume>,
    taken: BTreeMap<Slot, String>,
}

/// Those with our labels and a name of ours; and of the ordinals below `count` that lack one, those that
/// have the name alone. Of a cluster that is complete none lacks one.
async fn by_name<K>(
    api: &Api<K>,
    names: &Names,
    count: i32,
    name_of: impl Fn(i32) -> String,
    ordinal_of: impl Fn(&str) -> Option<i32>,
) -> kube::Result<ByName<K>>
where
    K: kube::Resource + Clone + DeserializeOwned + Debug,
{
    let selected = ListParams::default().labels(&names.selector_text());
    let (mut found, mut others) = (BTreeMap::new(), Vec::new());
    for object in api.list(&selected).await?.items {
        match object.meta().name.as_deref().and_then(&ordinal_of) {
            Some(ordinal) => drop(found.insert(ordinal, object)),
            None => others.push(object),
        }
    }
    let missing: Vec<i32> = (0..count).filter(|ordinal| !found.contains_key(ordinal)).collect();
    let asked = missing.into_iter().map(|ordinal| {
        let named = ListParams::default().fields(&format!("metadata.name={}", name_of(ordinal)));
        async move { Ok::<_, kube::Error>((ordinal, api.list(&named).await?.items.pop())) }
    });
    let answers: Vec<_> =
        futures::stream::iter(asked).buffered(ASKED_AT_ONCE).try_collect().await?;
    let there = answers.into_iter().filter_map(|(ordinal, object)| Some((ordinal, object?)));
    found.extend(there);
    Ok(ByName { found, others })
}

/// Addresses of the cluster's nodes, the ready ones first.
fn doors<'a>(
    pods: &'a BTreeMap<i32, seen::Pod>,
    cluster_id: &str,
) -> impl Iterator<Item = &'a str> {
    let mut doors: Vec<(bool, &str)> = pods
        .values()
        .filter_map(|pod| match &pod.node {
            Node::Joined(joined) if joined.cluster_id == cluster_id => {
                Some((!joined.ready, pod.ip.as_deref()?))
            }
            _ => None,
        })
        .collect();
    doors.sort_by_key(|(unready, _)| *unready);
    doors.into_iter().map(|(_, ip)| ip)
}

fn only(uid: &str) -> DeleteParams {
    let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
    DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() }
}

/// What could not be read and is not needed is not known (`None`): its type may be unknown, or not ours to read.
fn unless_spare<T>(read: Result<T, Error>, is_needed: bool) -> Result<Option<T>, Error> {
    match read {
        Err(_) if !is_needed => Ok(None),
        read => read.map(Some),
    }
}

fn failed(what: &str, error: kube::Error) -> Error {
    let kube::Error::Api(status) = &error else {
        return Error::Failed(format!("{what}: {}", nodes::root(&error)));
    };
    let message = format!("{what}: {}", status.message);
    // Also of what was made by somebody else meanwhile.
    if status.code == 409 {
        Error::Moved(message)
    } else if matches!(status.code, 400..500) && !UNDECIDED.contains(&status.code) {
        Error::Refused(message)
    } else {
        Error::Failed(message)
    }
}

fn done<T: Debug>(what: &str, result: kube::Result<T>) -> Result<Value, Error> {
    result.map(|_| Value::Null).map_err(|error| failed(what, error))
}

/// As [`done`]; what is gone already is gone.
fn gone<T: Debug>(what: &str, result: kube::Result<T>) -> Result<Value, Error> {
    match result {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(Value::Null),
        result => done(what, result),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use kube::core::Status;

    use super::*;
    use crate::api_server::{self, tests::failure};

    #[test]
    fn only_what_is_needed_must_be_readable() {
        let refused = || Err(Error::Refused("no right".to_owned()));
        assert!(matches!(unless_spare::<Value>(refused(), false), Ok(None)));
        assert!(unless_spare::<Value>(refused(), true).is_err());
        assert!(matches!(unless_spare(Ok(1), false), Ok(Some(1))), "there, and to go");
    }

    #[test]
    fn node_becomes_part_of_the_cluster_when_it_is_known_where_it_is() {
        let names = Names { namespace: "ns".into(), name: "kv".into(), domain: "d".into() };
        let place = |zone: &str| -> BTreeMap<String, String> {
            [("host".to_owned(), "m".to_owned()), ("zone".to_owned(), zone.to_owned())].into()
        };
        let node = || Node::Unjoined { version: String::new() };
        let pod = |place| seen::Pod { place, node: node(), ..pods::read(&Pod::default()) };
        let mut pods: BTreeMap<i32, seen::Pod> =
            [(0, pod(place("a"))), (1, pod(BTreeMap::new()))].into();
        let first: Vec<String> = (0..2).map(|ordinal| names.client_address(ordinal)).collect();
        let begin = Call::Initialize {
            pod: 0,
            cluster_id: "c".into(),
            replication_factor: 2,
            first_nodes: first.clone(),
            split_keys: Vec::new(),
        };
        let add = Call::AddLearner { pod: 1, address: first[1].clone(), expected_version: 1 };
        for call in [&begin, &add] {
            let told = places(&pods, &names, call);
            assert!(
                matches!(&told, Err(Error::Failed(why)) if why.contains(&first[1])),
                "{told:?}"
            );
        }
        let other = Call::Promote { node_id: 1, expected_version: 1 };
        assert!(places(&pods, &names, &other).expect("it makes none known").is_empty());
        pods.insert(1, pod(place("b")));
        let second = (first[1].clone(), place("b"));
        let alone = BTreeMap::from([second.clone()]);
        assert_eq!(places(&pods, &names, &add).expect("known"), alone);
        let all = BTreeMap::from([(first[0].clone(), place("a")), second]);
        assert_eq!(places(&pods, &names, &begin).expect("known"), all);
    }

    /// A Kubernetes with one KvCluster that asks for a ServiceMonitor, and how it answers for the type and for the monitor.
    fn with_monitor(of_type: u16, of_monitor: u16) -> Client {
        let names = Names { namespace: "ns".into(), name: "kv".into(), domain: "d".into() };
        let owner = json!([{"apiVersion": "flotilla.dev/v1alpha1", "kind": "KvCluster", "name": "kv", "uid": "0a",
            "controller": true}]);
        let there = json!({"metadata": {"name": "kv", "uid": "m", "labels": names.labels(),
            "ownerReferences": owner}});
        let cluster = json!({"apiVersion": "flotilla.dev/v1alpha1", "kind": "KvCluster",
            "metadata": {"name": "kv", "namespace": "ns", "uid": "0a"},
            "spec": {"storage": {"size": "1Gi"}, "metrics": {"serviceMonitor": true}}});
        let serve = move |uri: axum::http::Uri| {
            let path = uri.path();
            let last = path.rsplit('/').next().unwrap_or_default();
            let (code, body) = if path.ends_with("/kvclusters/kv") {
                (200, cluster.clone())
            } else if path.ends_with(SERVICE_MONITORS) {
                (of_type, there.clone())
            } else if path.contains("/servicemonitors/") {
                (of_monitor, there.clone())
            } else if ["statefulsets", "pods", "persistentvolumeclaims", "configmaps"]
                .contains(&last)
            {
                (200, json!({"metadata": {}, "items": []}))
            } else {
                (404, Value::Null)
            };
            let code = StatusCode::from_u16(code).expect("a code");
            std::future::ready(if code == StatusCode::OK {
                (code, axum::Json(body))
            } else {
                failure(code)
            })
        };
        Client::new(axum::Router::new().fallback(serve), "ns")
    }

    /// Else an API server that is slow for a moment takes the monitoring of a cluster away.
    #[tokio::test]
    async fn service_monitor_goes_only_where_its_type_is_known_not_to_be_there() {
        let key = Key { namespace: "ns".to_owned(), name: "kv".to_owned() };
        for (of_type, of_monitor, want, is_seen) in [
            (200, 200, Some(true), true),
            (200, 404, Some(true), false),
            (404, 404, Some(false), false),
            (503, 200, None, true),
            (403, 200, None, true),
            (200, 503, None, false),
            (200, 403, None, false),
            (503, 403, None, false),
        ] {
            let client = with_monitor(of_type, of_monitor);
            let world = Kubernetes::new(client, Defaults::default(), Arc::default());
            let seen = world.look(&key).await.expect("a look").expect("a cluster");
            let why = format!("{of_type} for the type, {of_monitor} for the monitor");
            assert_eq!(seen.service_monitors, want, "{why}");
            assert_eq!(seen.children.contains_key(&Child::ServiceMonitor), is_seen, "{why}");
        }
    }

    /// As the API server lists them: by labels, or the one of a name.
    async fn listed(axum::extract::RawQuery(query): axum::extract::RawQuery) -> axum::Json<Value> {
        let query = query.unwrap_or_default();
        let names = Names { namespace: "ns".into(), name: "kv".into(), domain: "d".into() };
        let pod = |name: &str, kind: &str| {
            let owner = json!([{"apiVersion": "v1", "kind": kind, "name": "x", "uid": "x", "controller": true}]);
            let owners = if kind.is_empty() { Value::Null } else { owner };
            json!({"metadata": {"name": name, "labels": names.labels(), "ownerReferences": owners}})
        };
        let first = names.pod(0);
        let mut items = vec![
            pod(&first, "StatefulSet"),
            pod("kv-6d4cf56db6-x2x7q", "ReplicaSet"),
            pod("kv-debug", ""),
            pod("kv-1-copy", ""),
            pod("other-1-0", ""),
            pod("web-0", "StatefulSet"),
        ];
        // Somebody's without a label, which has the name of one that is missing.
        let named = format!("fieldSelector=metadata.name%3D{}", names.pod(1));
        if !query.contains("labelSelector") {
            items.clear();
            if query.contains(&named) {
                items.push(json!({"metadata": {"name": names.pod(1)}}));
            }
        }
        axum::Json(json!({"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": items}))
    }

    #[tokio::test]
    async fn pods_of_other_names_are_not_counted_whatever_their_labels_say() {
        let names = Names { namespace: "ns".into(), name: "kv".into(), domain: "d".into() };
        let client = Client::new(axum::Router::new().fallback(listed), "ns");
        let pods: Api<Pod> = Api::namespaced(client, "ns");
        let found = by_name(
            &pods,
            &names,
            3,
            |ordinal| names.pod(ordinal),
            |name| names.ordinal_of_pod(name),
        );
        let ByName { found, others } = found.await.expect("listed");
        assert_eq!(others.len(), 5, "they are told");
        let found: Vec<_> =
            found.into_iter().map(|(ordinal, pod)| (ordinal, pod.metadata.name)).collect();
        assert_eq!(
            found,
            [(0, Some(names.pod(0))), (1, Some(names.pod(1)))],
            "the third is not there"
        );
    }

    #[tokio::test]
    async fn look_that_hears_nothing_fails() {
        let key = Key { namespace: "ns".to_owned(), name: "kv".to_owned() };
        let cluster = json!({"apiVersion": "flotilla.dev/v1alpha1", "kind": "KvCluster",
            "metadata": {"name": "kv", "namespace": "ns", "uid": "0a"},
            "spec": {"storage": {"size": "1Gi"}}});
        let there = api_server::tests::whole(200, &cluster.to_string());
        for (silent, answers) in
            [("the KvCluster", Vec::new()), ("its objects", vec![("/kvclusters/kv ", there)])]
        {
            let (api_server, _) = api_server::tests::server(answers.into_iter().collect()).await;
            let world = Kubernetes::new(api_server.requests, Defaults::default(), Arc::default());
            let look = tokio::time::timeout(Duration::from_secs(20), world.look(&key));
            let look = look.await.unwrap_or_else(|_| panic!("{silent}: waits for ever"));
            let error = look.expect_err(silent);
            assert!(
                matches!(&error, Error::Failed(why) if why.contains("timed out")),
                "{silent}: {error}"
            );
        }
    }

    /// A Kubernetes of one node, which takes its time over volume claims, and what was asked in which order.
    fn slow_with_claims(address: &str) -> (Client, Arc<parking_lot::Mutex<Vec<&'static str>>>) {
        let order = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let owned = |kind: &str, name: &str, uid: &str| json!([{"apiVersion": "v1", "kind": kind, "name": name, "uid": uid, "controller": true}]);
        let names = Names { namespace: "ns".into(), name: "kv".into(), domain: "d".into() };
        let cluster = json!({"apiVersion": "flotilla.dev/v1alpha1", "kind": "KvCluster",
            "metadata": {"name": "kv", "namespace": "ns", "uid": "0a"},
            "spec": {"replicas": 1, "replicationFactor": 1, "storage": {"size": "1Gi"}}});
        let set = json!({"metadata": {"name": names.set(0), "uid": "set",
            "ownerReferences": owned("KvCluster", "kv", "0a")}, "spec": {"replicas": 1}});
        let pod = json!({
            "metadata": {"name": names.pod(0), "uid": "pod",
                "ownerReferences": owned("StatefulSet", &names.set(0), "set")},
            "spec": {"containers": []},
            "status": {"podIP": address, "containerStatuses": [{"name": "server", "image": "", "imageID": "",
                "ready": true, "restartCount": 0, "state": {"running": {}}}]}});
        let told = Arc::clone(&order);
        let serve = move |uri: axum::http::Uri| {
            let (cluster, set, pod, order) =
                (cluster.clone(), set.clone(), pod.clone(), Arc::clone(&told));
            async move {
                let kind = uri.path().rsplit('/').next().unwrap_or_default().to_owned();
                let list = |items: Value| axum::Json(json!({"metadata": {}, "items": items}));
                let ok = StatusCode::OK;
                match kind.as_str() {
                    "kv" if uri.path().contains("kvclusters") => (ok, axum::Json(cluster)),
                    "statefulsets" => (ok, list(json!([set]))),
                    "pods" => (ok, list(json!([pod]))),
                    "persistentvolumeclaims" => {
                        tokio::time::sleep(Duration::from_millis(200)).await;
                        order.lock().push("claims");
                        (ok, list(json!([])))
                    }
                    "configmaps" => (ok, list(json!([]))),
                    _ => failure(StatusCode::NOT_FOUND),
                }
            }
        };
        (Client::new(axum::Router::new().fallback(serve), "ns"), order)
    }

    /// Else a pod is taken down by what the others said when the API server began to answer.
    #[tokio::test]
    async fn nodes_are_asked_when_all_else_of_a_look_is_known() {
        // Of this test alone: the port is that of all nodes.
        let address = "127.83.17.5";
        let at = format!("{address}:{}", crate::names::CLIENT_PORT);
        let listener =
            tokio::net::TcpListener::bind(at).await.expect("nobody else has the address");
        let (client, order) = slow_with_claims(address);
        let asked = Arc::clone(&order);
        let node = tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                asked.lock().push("node");
                drop(connection);
            }
        });
        let world = Kubernetes::new(client, Defaults::default(), Arc::default());
        let key = Key { namespace: "ns".to_owned(), name: "kv".to_owned() };
        let seen = world.look(&key).await.expect("a look").expect("a cluster");
        node.abort();
        assert!(seen.pods[&0].running, "{:?}", seen.pods);
        let order = order.lock();
        let node = order.iter().position(|asked| *asked == "node").expect("it was asked");
        assert!(node > 0 && !order[node..].contains(&"claims"), "{order:?}");
    }

    #[test]
    fn refusals_are_told_from_what_may_be_otherwise_in_a_moment() {
        for (code, want) in [
            (400, "Refused"),
            (401, "Refused"),
            (403, "Refused"),
            (405, "Refused"),
            (413, "Refused"),
            (415, "Refused"),
            (422, "Refused"),
            (409, "Moved"),
            (404, "Failed"),
            (408, "Failed"),
            (429, "Failed"),
            (500, "Failed"),
            (503, "Failed"),
        ] {
            let status = Status { code, message: "no".to_owned(), ..Status::default() };
            let told = failed("apply", kube::Error::Api(Box::new(status)));
            assert!(format!("{told:?}").starts_with(want), "{code}: {told:?}");
        }
    }
}
