//! A node's pod and its volume: a StatefulSet for each node, of one pod.
//!
//! Invariant: a template reaches a pod in its turn, and never by an accident. A StatefulSet makes a pod
//! that was evicted, drained or deleted anew from the template that it has by then. With one StatefulSet for
//! all nodes a new template would come to whichever pod has an accident first; with a broken one and two
//! accidents the quorum is gone. With one for each node the operator writes the template of a node right
//! before it restarts that node's pod, and no other's. Pods are still made anew by Kubernetes, also when no
//! operator runs.
//!
//! What was turned down: `RollingUpdate` with a `partition` tells pods of the old template from those of the
//! new one by a border between ordinals. A pod that does not run because of its old template can then be
//! mended only after those of all higher ordinals were restarted, which may not be restarted while it is
//! missing; below the border a pod comes back as the last template that *all* pods ran, and
//! not as it was; and above it Kubernetes restarts by itself. Pods without a StatefulSet are made anew only
//! while an operator runs.
//!
//! `OnDelete`, since only the operator knows when the node may be restarted.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use k8s_openapi::{
    api::{
        apps::v1::{
            StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec,
            StatefulSetUpdateStrategy,
        },
        core::v1::{
            Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource,
            EnvVar, EnvVarSource, HTTPGetAction, ObjectFieldSelector, PersistentVolumeClaim,
            PersistentVolumeClaimSpec, PodSecurityContext, PodSpec, PodTemplateSpec, Probe,
            SeccompProfile, SecurityContext, TopologySpreadConstraint, Volume, VolumeMount,
            VolumeResourceRequirements,
        },
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};
use serde_json::{Value, json};

use super::{CONFIG_FILE, config_map, metadata, value};
use crate::{
    desired::Desired,
    hash,
    names::{
        ARGO_OPTIONS, CLIENT_PORT, CLUSTER_ID, CONTAINER, HTTP_PORT, MANAGER, Names, PEER_PORT,
        SENT_TEMPLATE, TEMPLATE_ALSO_BY, TEMPLATE_HASH, VOLUME,
    },
    overlay,
    settings::{self, DATA_DIR},
};

/// The variable by which a node knows its own name.
pub const ADVERTISE_HOST: &str = "FLOTILLA_ADVERTISE_HOST";
const CONFIG_DIR: &str = "/etc/flotilla";
const CONFIG_VOLUME: &str = "config";
/// Names the file of the settings where the command line does not.
const CONFIG_VARIABLE: &str = "FLOTILLA_CONFIG";
/// A pod gets this much longer than the server asks for, to end by itself.
const GRACE_MARGIN_SECONDS: i64 = 15;
/// Zones and Kubernetes nodes over which pods are spread, as well as can be.
const SPREAD: [&str; 2] = ["topology.kubernetes.io/zone", "kubernetes.io/hostname"];

pub(super) fn build(
    desired: &Desired,
    ordinal: i32,
    replicas: i32,
    claims_now: Option<&Value>,
) -> Value {
    let mut set = value(&StatefulSet {
        metadata: metadata(desired, desired.names.set(ordinal)),
        spec: Some(StatefulSetSpec {
            replicas: Some(replicas),
            service_name: Some(desired.names.headless()),
            pod_management_policy: Some("Parallel".to_owned()),
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".to_owned()),
                rolling_update: None,
            }),
            persistent_volume_claim_retention_policy: Some(
                StatefulSetPersistentVolumeClaimRetentionPolicy {
                    // Only the operator knows when a disk is no longer needed, and whoever deletes a StatefulSet has it
                    // made anew. What is to go with the cluster belongs to that: see plan/volumes.rs.
                    when_deleted: Some("Retain".to_owned()),
                    when_scaled: Some("Retain".to_owned()),
                },
            ),
            selector: LabelSelector {
                match_labels: Some(desired.names.selector_of(ordinal)),
                ..LabelSelector::default()
            },
            ..StatefulSetSpec::default()
        }),
        status: None,
    });
    set["metadata"]["annotations"][SENT_TEMPLATE] = json!(desired.sent_template);
    set["spec"]["template"] = template_like(&desired.template, desired, ordinal);
    set["spec"]["volumeClaimTemplates"] =
        claims_now.cloned().unwrap_or_else(|| claims(desired, ordinal));
    set
}

/// The claims that a new StatefulSet is made with.
fn claims(desired: &Desired, ordinal: i32) -> Value {
    let storage = &desired.spec.storage;
    json!([value(&PersistentVolumeClaim {
        // The StatefulSet would give claims its selector's labels only; by ours they are watched.
        metadata: ObjectMeta {
            name: Some(VOLUME.to_owned()),
            labels: Some(labels(desired, ordinal)),
            annotations: Some(
                [
                    (CLUSTER_ID.to_owned(), desired.cluster_id.clone()),
                    (ARGO_OPTIONS.0.to_owned(), ARGO_OPTIONS.1.to_owned()),
                ]
                .into(),
            ),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            storage_class_name: storage.storage_class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some([("storage".to_owned(), Quantity(storage.size.clone()))].into()),
                limits: None,
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    })])
}

fn labels(desired: &Desired, ordinal: i32) -> BTreeMap<String, String> {
    let mut labels = desired.names.labels();
    labels.extend(desired.names.selector_of(ordinal));
    labels
}

/// Of a template as it is sent: the same for the pods of all nodes.
#[must_use]
pub fn sent_hash(template: &Value, names: &Names) -> String {
    let mut shared = template.clone();
    for key in names.selector_of(0).keys() {
        note(&mut shared, "labels", key, Value::Null);
    }
    hash::hash(&shared)
}

/// How many pods a StatefulSet asks for.
#[must_use]
pub fn replicas(set: &Value) -> i32 {
    let replicas = set.pointer("/spec/replicas").and_then(Value::as_i64);
    replicas.and_then(|replicas| i32::try_from(replicas).ok()).unwrap_or(0)
}

/// What the next pod of a StatefulSet will be compared by.
#[must_use]
pub fn template_hash(set: &Value) -> Option<&str> {
    set["spec"]["template"]["metadata"]["annotations"][TEMPLATE_HASH].as_str()
}

/// Who else wrote the template of a StatefulSet since we did, as far as the API server tells, which notes the last
/// time of everybody who writes; or as was noted when it was sent again with what they wrote.
#[must_use]
pub fn template_also_by(set: &Value) -> BTreeSet<&str> {
    let noted = set["metadata"]["annotations"][TEMPLATE_ALSO_BY].as_str();
    let entries = set["metadata"]["managedFields"].as_array().into_iter().flatten();
    let writers = entries.filter(|entry| {
        entry.pointer("/fieldsV1/f:spec/f:template").is_some_and(|fields| !fields.is_null())
    });
    let of_us = |entry: &&Value| entry["manager"] == MANAGER;
    // All in UTC and of whole seconds, so that texts are ordered as times are.
    let time = |entry: &'_ Value| entry["time"].as_str().map(str::to_owned);
    let ours = writers.clone().filter(of_us).filter_map(time).max();
    let since = writers.filter(|entry| !of_us(entry) && time(entry) >= ours);
    let since = since.filter_map(|entry| entry["manager"].as_str());
    noted.iter().flat_map(|noted| noted.split(", ")).chain(since).collect()
}

/// ConfigMaps that pods of a StatefulSet are made with.
pub fn configs(set: &Value) -> impl Iterator<Item = &str> {
    let volumes = set.pointer("/spec/template/spec/volumes").and_then(Value::as_array);
    volumes.into_iter().flatten().filter_map(|volume| volume["configMap"]["name"].as_str())
}

/// The size in the claims of a StatefulSet.
#[must_use]
pub fn claim_size(claims: &Value) -> Option<Quantity> {
    let size = claims.pointer("/0/spec/resources/requests/storage")?.as_str()?;
    Some(Quantity(size.to_owned()))
}

/// The template of the pod of node 0, with the user's overlay. [`template_like`] makes those of the others.
#[must_use]
pub fn template(desired: &Desired) -> Value {
    let mut template = value(&base(desired));
    if let Some(patch) = &desired.spec.pod_template {
        overlay::lay_over(&mut template, patch);
    }
    // Not for the overlay to change: by these the operator finds the pod, and the pod its cluster.
    for (key, label) in labels(desired, 0) {
        note(&mut template, "labels", key, label);
    }
    note(&mut template, "annotations", TEMPLATE_HASH, desired.template_hash.clone());
    template
}

/// Puts a label or an annotation on a template. One whose overlay has made something else of them is left as it is: it makes
/// no pod, and `overlay::check` says so.
fn note(template: &mut Value, of: &str, key: impl Into<String>, text: impl Into<Value>) {
    let metadata = template.get_mut("metadata").and_then(Value::as_object_mut);
    let noted = metadata.map(|metadata| metadata.entry(of).or_insert_with(|| json!({})));
    if let Some(noted) = noted.and_then(Value::as_object_mut) {
        noted.insert(key.into(), text.into());
    }
}

/// The template of another node's pod, for the one of this ordinal.
#[must_use]
pub fn template_like(other: &Value, desired: &Desired, ordinal: i32) -> Value {
    let mut template = other.clone();
    for (key, label) in desired.names.selector_of(ordinal) {
        note(&mut template, "labels", key, label);
    }
    template
}

/// The image of the server in a pod template.
#[must_use]
pub fn image_of(template: &Value) -> Option<&str> {
    let containers = template["spec"]["containers"].as_array()?;
    containers.iter().find(|each| each["name"] == CONTAINER)?["image"].as_str()
}

/// The image that the pods are to be given, which the overlay may have changed.
#[must_use]
pub fn server_image(desired: &Desired) -> String {
    image_of(&desired.template).unwrap_or(&desired.image).to_owned()
}

fn base(desired: &Desired) -> PodTemplateSpec {
    let mut annotations = BTreeMap::from([(
        "kubectl.kubernetes.io/default-container".to_owned(),
        CONTAINER.to_owned(),
    )]);
    // For a Prometheus that goes by annotations; one that goes by the ServiceMonitor would read all of it twice.
    if !desired.spec.metrics.service_monitor {
        annotations.extend([
            ("prometheus.io/scrape".to_owned(), "true".to_owned()),
            ("prometheus.io/port".to_owned(), HTTP_PORT.to_string()),
            ("prometheus.io/path".to_owned(), "/metrics".to_owned()),
        ]);
    }
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(desired.names.labels()),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            service_account_name: Some(desired.names.name.clone()),
            automount_service_account_token: Some(false),
            // Kubernetes would put a variable per service of the namespace beside our settings.
            enable_service_links: Some(false),
            termination_grace_period_seconds: Some(
                desired.settings.shutdown_grace_seconds() + GRACE_MARGIN_SECONDS,
            ),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: desired.user,
                run_as_group: desired.user,
                fs_group: desired.user,
                // A volume of many files would be walked at every start.
                fs_group_change_policy: Some("OnRootMismatch".to_owned()),
                seccomp_profile: Some(SeccompProfile {
                    type_: "RuntimeDefault".to_owned(),
                    localhost_profile: None,
                }),
                ..PodSecurityContext::default()
            }),
            topology_spread_constraints: Some(spread(desired)),
            containers: vec![container(desired)],
            volumes: Some(vec![
                Volume {
                    name: CONFIG_VOLUME.to_owned(),
                    config_map: Some(ConfigMapVolumeSource {
                        name: config_map::name(desired),
                        ..ConfigMapVolumeSource::default()
                    }),
                    ..Volume::default()
                },
                Volume {
                    name: "tmp".to_owned(),
                    empty_dir: Some(EmptyDirVolumeSource::default()),
                    ..Volume::default()
                },
            ]),
            ..PodSpec::default()
        }),
    }
}

/// Whether the pods' template, with the user's overlay, starts the server with its settings and on its disk.
///
/// Invariant: where a node keeps its data is not for the overlay to say. On an empty disk each would begin as a new
/// node, one after another as the roll reaches them, and its claim would be given up as lost.
///
/// # Errors
/// What of it the overlay changes.
pub fn keeps_its_disk(desired: &Desired) -> Result<(), String> {
    let pod = &desired.template["spec"];
    let named = |list: &Value, name: &str| {
        list.as_array().into_iter().flatten().find(|item| item["name"] == name).cloned()
    };
    let server = named(&pod["containers"], CONTAINER).unwrap_or_default();
    let base = value(&container(desired));
    for key in ["command", "args"] {
        if server[key] != base[key] {
            return Err(format!(
                "podTemplate: {key} of the container {CONTAINER} is the operator's"
            ));
        }
    }
    // One rule for all that the server is told by: as the operator has it, or not at all. Of another setting the server
    // would hear, and the operator, which counts on some, would not.
    let variables = [&base["env"], &server["env"]];
    let names = variables.iter().filter_map(|list| list.as_array()).flatten();
    for name in names.filter_map(|variable| variable["name"].as_str()) {
        let key = settings::of_variable(name);
        let tells = key.is_some() || ["POD_NAME", CONFIG_VARIABLE].contains(&name);
        if !tells || named(&server["env"], name) == named(&base["env"], name) {
            continue;
        }
        return Err(match key.filter(|key| !settings::is_reserved(key)) {
            Some(key) => format!("podTemplate: the variable {name} sets {key}: use spec.config"),
            None => format!("podTemplate: the variable {name} is decided by the operator"),
        });
    }
    let mounts = || server["volumeMounts"].as_array().into_iter().flatten();
    // Compared below as it is written, and not as a file system would read it.
    for path in mounts().filter_map(|mount| mount["mountPath"].as_str()) {
        if !path.starts_with('/') || path.split('/').any(|part| [".", ".."].contains(&part)) {
            return Err(format!(
                "podTemplate: mountPath {path} of the container {CONTAINER} is to be absolute, without . and .."
            ));
        }
    }
    for (dir, volume) in [(DATA_DIR, VOLUME), (CONFIG_DIR, CONFIG_VOLUME)] {
        let below = mounts().filter(|mount| {
            mount["mountPath"].as_str().is_some_and(|path| Path::new(path).starts_with(dir))
        });
        let below: Vec<_> = below.collect();
        let whole = |mount: &Value| {
            mount["name"] == volume && mount["subPath"].is_null() && mount["subPathExpr"].is_null()
        };
        if !matches!(below[..], [mount] if mount["mountPath"] == dir && whole(mount)) {
            return Err(format!(
                "podTemplate: nothing but the whole volume {volume} is mounted at {dir}, nor below it"
            ));
        }
    }
    let config = named(&pod["volumes"], CONFIG_VOLUME).unwrap_or_default();
    let is_ours = config["configMap"]["name"] == config_map::name(desired)
        && config["configMap"]["items"].is_null();
    if !is_ours {
        return Err(format!("podTemplate: the volume {CONFIG_VOLUME} has the operator's settings"));
    }
    Ok(())
}

/// Where the server of a pod as it is keeps its data, if that is not the whole volume of its claim; in words. What a
/// template says is checked before it is sent; a policy of others may have changed it on its way into the pod.
#[must_use]
pub fn disk_elsewhere(pod: &Value, claim: &str) -> Option<String> {
    let items = |list: &Value| list.as_array().cloned().unwrap_or_default();
    let named = |list: &Value, name: &str| items(list).into_iter().find(|it| it["name"] == name);
    let server = named(&pod["containers"], CONTAINER)?;
    let variable = settings::DATA_DIR_VARIABLE;
    let dir = named(&server["env"], variable)
        .and_then(|found| found["value"].as_str().map(str::to_owned));
    if let Some(dir) = dir.filter(|dir| Path::new(dir) != Path::new(DATA_DIR)) {
        return Some(format!("its data is in {dir} (variable {variable})"));
    }
    let mounts = items(&server["volumeMounts"]);
    let below = mounts.iter().filter(|mount| {
        mount["mountPath"].as_str().is_some_and(|path| Path::new(path).starts_with(DATA_DIR))
    });
    let below: Vec<_> = below.collect();
    let [mount] = below[..] else {
        return Some(match below.len() {
            0 => format!("nothing is mounted at {DATA_DIR}"),
            _ => format!("more than one volume is mounted at or below {DATA_DIR}"),
        });
    };
    let path = ["subPath", "subPathExpr"].into_iter().find_map(|key| mount[key].as_str());
    if let Some(path) = path.filter(|path| !path.is_empty()) {
        return Some(format!("only {path} of its volume is mounted at {DATA_DIR}"));
    }
    let at = mount["mountPath"].as_str().unwrap_or_default();
    let volume = named(&pod["volumes"], mount["name"].as_str().unwrap_or_default());
    let is_claims = |volume: &Value| volume["persistentVolumeClaim"]["claimName"] == claim;
    let is_its = Path::new(at) == Path::new(DATA_DIR) && volume.as_ref().is_some_and(is_claims);
    (!is_its).then(|| format!("what is mounted at {at} is not its claim {claim}"))
}

fn spread(desired: &Desired) -> Vec<TopologySpreadConstraint> {
    let own = desired.spec.placement.topology_key.as_deref().filter(|key| !SPREAD.contains(key));
    own.into_iter()
        .chain(SPREAD)
        .map(|key| TopologySpreadConstraint {
            max_skew: 1,
            topology_key: key.to_owned(),
            when_unsatisfiable: "ScheduleAnyway".to_owned(),
            label_selector: Some(LabelSelector {
                match_labels: Some(desired.names.selector()),
                ..LabelSelector::default()
            }),
            ..TopologySpreadConstraint::default()
        })
        .collect()
}

fn container(desired: &Desired) -> Container {
    let port = |name: &str, number| ContainerPort {
        name: Some(name.to_owned()),
        container_port: number,
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    };
    let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    };
    let fixed = desired.settings.variables().into_iter().map(|(name, value)| EnvVar {
        name,
        value: Some(value),
        ..EnvVar::default()
    });
    let own = [
        EnvVar {
            name: "POD_NAME".to_owned(),
            value_from: Some(EnvVarSource {
                field_ref: Some(ObjectFieldSelector {
                    field_path: "metadata.name".to_owned(),
                    ..ObjectFieldSelector::default()
                }),
                ..EnvVarSource::default()
            }),
            ..EnvVar::default()
        },
        EnvVar {
            name: ADVERTISE_HOST.to_owned(),
            value: Some(format!("$(POD_NAME).{}", desired.names.host_suffix())),
            ..EnvVar::default()
        },
    ];
    Container {
        name: CONTAINER.to_owned(),
        image: Some(desired.image.clone()),
        image_pull_policy: Some(desired.image_pull_policy.clone()),
        command: Some(vec!["flotilla-server".to_owned()]),
        args: Some(vec!["--config".to_owned(), format!("{CONFIG_DIR}/{CONFIG_FILE}")]),
        env: Some(own.into_iter().chain(fixed).collect()),
        ports: Some(vec![
            port("client", CLIENT_PORT),
            port("peer", PEER_PORT),
            port("http", HTTP_PORT),
        ]),
        resources: desired.resources.clone(),
        volume_mounts: Some(vec![
            mount(VOLUME, DATA_DIR, false),
            mount(CONFIG_VOLUME, CONFIG_DIR, true),
            mount("tmp", "/tmp", false),
        ]),
        // Opening a large disk takes a while: up to ten minutes before the process counts as stuck.
        startup_probe: Some(probe("/livez", 2, 300)),
        liveness_probe: Some(probe("/livez", 10, 6)),
        readiness_probe: Some(probe("/readyz", 2, 2)),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            run_as_non_root: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                localhost_profile: None,
            }),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

fn probe(path: &str, period_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("http".to_owned()),
            scheme: Some("HTTP".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(5),
        failure_threshold: Some(failure_threshold),
        success_threshold: Some(1),
        ..Probe::default()
    }
}
