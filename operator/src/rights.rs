//! What `spec.podTemplate` cannot give to pods, unless the operator was told to let it.
//!
//! The operator may make pods, and who may make a KvCluster tells it which. Were every template taken, that
//! person had the rights of any ServiceAccount of the namespace and of the Kubernetes nodes' root, though
//! perhaps not the right to make a single pod. So a template lends nothing that its author does not bring
//! along: no other identity, nothing of the Kubernetes node, no privileges. What is inside of the namespace it
//! may name (volumes, Secrets, ConfigMaps): who makes a KvCluster there may read these.
//!
//! The same is said twice. Here, about the template as it would be applied, where nobody gets past it; and
//! as the CEL of a ValidatingAdmissionPolicy ([`yaml`], for the chart), about the patch as it was written,
//! so that `kubectl apply` says it. A test holds both to the same templates.

use std::collections::BTreeSet;

use clap::ValueEnum;
use serde_json::{Value, json};

use crate::names::{CONTAINER, Names};

/// What can be let through. Named on the command line and in the chart's `operator.allowInTemplates`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
#[value(rename_all = "camelCase")]
pub enum Right {
    /// Another ServiceAccount, or a token of it.
    ServiceAccounts,
    /// Folders of the Kubernetes node, and kinds of volumes that reach it.
    HostPaths,
    /// The network, the processes and the ports of the Kubernetes node.
    HostNamespaces,
    /// Root, privileges, capabilities, and what is hidden from a container otherwise.
    Privileged,
}

impl Right {
    const ALL: [Self; 4] =
        [Self::ServiceAccounts, Self::HostPaths, Self::HostNamespaces, Self::Privileged];

    const fn name(self) -> &'static str {
        match self {
            Self::ServiceAccounts => "serviceAccounts",
            Self::HostPaths => "hostPaths",
            Self::HostNamespaces => "hostNamespaces",
            Self::Privileged => "privileged",
        }
    }
}

/// Volumes that are of the namespace or of the pod, as in the level `restricted` of Pod Security.
const VOLUMES: [&str; 8] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
];
/// As the level `baseline` has them: what is not named here reaches out of the container.
const SELINUX_TYPES: [&str; 5] =
    ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
const SYSCTLS: [&str; 10] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_syncookies",
];
/// Where AppArmor is asked for before it has a field, by container, and still heard. What is not one of these is none.
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const APP_ARMOR_DEFAULT: &str = "runtime/default";
const APP_ARMOR_OWN: &str = "localhost/";
/// Confinements that are some: what is left out is none.
const SECCOMP: [&str; 2] = ["RuntimeDefault", "Localhost"];
/// Classes of Kubernetes itself: who has one pushes the pods of others out.
const SYSTEM_PRIORITY: &str = "system-";
const CONTAINERS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];
/// What the kubelet does for a container, by its own network: it may be told to whom.
const PROBES: [&str; 3] = ["startupProbe", "livenessProbe", "readinessProbe"];
const HOOKS: [&str; 2] = ["postStart", "preStop"];
const HANDLERS: [&str; 2] = ["httpGet", "tcpSocket"];

/// # Errors
/// What the template would lend, each with the right that is missing.
pub fn refuse(template: &Value, names: &Names, lends: &BTreeSet<Right>) -> Result<(), String> {
    let mut found = Vec::new();
    let spec = &template["spec"];
    for right in Right::ALL.into_iter().filter(|right| !lends.contains(right)) {
        let mut bad = |what: String| found.push((right, what));
        match right {
            Right::ServiceAccounts => accounts(spec, names, &mut bad),
            Right::HostPaths => paths(spec, &mut bad),
            Right::HostNamespaces => namespaces(spec, &mut bad),
            Right::Privileged => {
                privileges(spec, &mut bad);
                app_armor(&template["metadata"]["annotations"], &mut bad);
            }
        }
    }
    if found.is_empty() {
        return Ok(());
    }
    let said: Vec<_> = found
        .into_iter()
        .map(|(right, what)| {
            format!(
                "podTemplate: {what}: this operator lets no template do so (allow-in-templates {})",
                right.name()
            )
        })
        .collect();
    Err(said.join("; "))
}

fn list<'a>(of: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    of[key].as_array().into_iter().flatten()
}

fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    CONTAINERS.into_iter().flat_map(|key| list(spec, key))
}

fn accounts(spec: &Value, names: &Names, bad: &mut impl FnMut(String)) {
    for key in ["serviceAccountName", "serviceAccount"] {
        if spec[key].as_str().is_some_and(|name| name != names.name) {
            bad(format!("{key} is another account"));
        }
    }
    if spec["serviceAccountName"].as_str().is_none() {
        bad("serviceAccountName is taken away, which is the account `default`".to_owned());
    }
    if spec["automountServiceAccountToken"] != json!(false) {
        bad("automountServiceAccountToken is not false".to_owned());
    }
    for volume in list(spec, "volumes") {
        if list(&volume["projected"], "sources")
            .any(|source| !source["serviceAccountToken"].is_null())
        {
            bad(format!("volume {} has a token", volume["name"]));
        }
    }
}

fn paths(spec: &Value, bad: &mut impl FnMut(String)) {
    for volume in list(spec, "volumes") {
        let kinds = volume.as_object().into_iter().flat_map(|fields| fields.keys());
        for kind in kinds.filter(|key| *key != "name" && !VOLUMES.contains(&key.as_str())) {
            bad(format!("volume {} is a {kind}", volume["name"]));
        }
    }
}

fn namespaces(spec: &Value, bad: &mut impl FnMut(String)) {
    for key in ["hostNetwork", "hostPID", "hostIPC"] {
        if spec[key] == json!(true) {
            bad(format!("{key} is true"));
        }
    }
    for container in containers(spec) {
        if list(container, "ports")
            .any(|port| port["hostPort"].as_i64().is_some_and(|port| port != 0))
        {
            bad(format!("container {} has a hostPort", container["name"]));
        }
        let probes = PROBES.into_iter().map(|key| (key, &container[key]));
        let hooks = HOOKS.into_iter().map(|key| (key, &container["lifecycle"][key]));
        for (key, what) in probes.chain(hooks) {
            let is_own = |host: &Value| host.is_null() || *host == json!("");
            if !HANDLERS.into_iter().all(|handler| is_own(&what[handler]["host"])) {
                let name = &container["name"];
                bad(format!(
                    "{key} of container {name} has a host, whom the Kubernetes node is to call"
                ));
            }
        }
    }
}

fn privileges(spec: &Value, bad: &mut impl FnMut(String)) {
    let pod = &spec["securityContext"];
    if pod["runAsNonRoot"] != json!(true) {
        bad("securityContext.runAsNonRoot is not true".to_owned());
    }
    if !pod["seccompProfile"]["type"].as_str().is_some_and(|kind| SECCOMP.contains(&kind)) {
        bad(format!("securityContext.seccompProfile.type is none of {}", SECCOMP.join(", ")));
    }
    if spec["priorityClassName"].as_str().is_some_and(|name| name.starts_with(SYSTEM_PRIORITY)) {
        bad("priorityClassName is of Kubernetes itself".to_owned());
    }
    for sysctl in list(pod, "sysctls") {
        if !sysctl["name"].as_str().is_some_and(|name| SYSCTLS.contains(&name)) {
            bad(format!("sysctl {} is of the Kubernetes node", sysctl["name"]));
        }
    }
    for each in containers(spec) {
        // What is not said is `true`.
        if each["securityContext"]["allowPrivilegeEscalation"] != json!(false) {
            bad(format!(
                "container {}: securityContext.allowPrivilegeEscalation is not false",
                each["name"]
            ));
        }
    }
    for server in list(spec, "containers").filter(|each| each["name"] == json!(CONTAINER)) {
        let dropped = &server["securityContext"]["capabilities"];
        if !list(dropped, "drop").any(|name| *name == json!("ALL")) {
            bad(format!("container {CONTAINER} does not drop ALL capabilities"));
        }
    }
    let contexts = std::iter::once(("the pod".to_owned(), pod)).chain(
        containers(spec)
            .map(|each| (format!("container {}", each["name"]), &each["securityContext"])),
    );
    for (who, context) in contexts {
        if context["runAsUser"] == json!(0) || context["runAsNonRoot"] == json!(false) {
            bad(format!("{who} may run as root"));
        }
        if context["privileged"] == json!(true) {
            bad(format!("{who} is to be privileged"));
        }
        let selinux = |key: &str| context["seLinuxOptions"][key].as_str().unwrap_or_default();
        if !SELINUX_TYPES.contains(&selinux("type"))
            || !selinux("user").is_empty()
            || !selinux("role").is_empty()
        {
            bad(format!("{who} has seLinuxOptions that are not a container's"));
        }
        if list(&context["capabilities"], "add").next().is_some() {
            bad(format!("{who} is to have more capabilities"));
        }
        for key in ["seccompProfile", "appArmorProfile"] {
            if context[key]["type"] == json!("Unconfined") {
                bad(format!("{who} is to have no {key}"));
            }
        }
        if context["procMount"].as_str().is_some_and(|mount| mount != "Default") {
            bad(format!("{who} is to see all of /proc"));
        }
        if context["windowsOptions"]["hostProcess"] == json!(true) {
            bad(format!("{who} is to be a process of the host"));
        }
    }
}

fn app_armor(annotations: &Value, bad: &mut impl FnMut(String)) {
    for (name, profile) in annotations.as_object().into_iter().flatten() {
        let profile = profile.as_str().unwrap_or_default();
        let confines = profile == APP_ARMOR_DEFAULT || profile.starts_with(APP_ARMOR_OWN);
        if name.starts_with(APP_ARMOR) && !confines {
            bad(format!("annotation {name} is neither {APP_ARMOR_DEFAULT} nor {APP_ARMOR_OWN}…"));
        }
    }
}

/// Names that the expressions use. Without what CEL has for fields that may be missing, since a policy is
/// read by people, too.
fn variables() -> Vec<Value> {
    let variable = |name: &str, expression: &str| json!({"name": name, "expression": expression});
    vec![
        variable(
            "pod",
            "has(object.spec.podTemplate) && has(object.spec.podTemplate.spec) ? \
             object.spec.podTemplate.spec : {}",
        ),
        variable(
            "containers",
            "(has(variables.pod.containers) ? variables.pod.containers : []) + \
             (has(variables.pod.initContainers) ? variables.pod.initContainers : []) + \
             (has(variables.pod.ephemeralContainers) ? variables.pod.ephemeralContainers : [])",
        ),
        variable(
            "annotations",
            "has(object.spec.podTemplate) && has(object.spec.podTemplate.metadata) && \
             object.spec.podTemplate.metadata != null && \
             has(object.spec.podTemplate.metadata.annotations) && \
             object.spec.podTemplate.metadata.annotations != null ? \
             object.spec.podTemplate.metadata.annotations : {}",
        ),
        variable("volumes", "has(variables.pod.volumes) ? variables.pod.volumes : []"),
        variable(
            "contexts",
            "(has(variables.pod.securityContext) ? [variables.pod.securityContext] : []) + \
             variables.containers.filter(c, has(c.securityContext)).map(c, c.securityContext)",
        ),
    ]
}

/// About whom the policy speaks: about a cluster that comes or whose spec changes. One that was taken
/// before the policy was there can still be deleted, and bear finalizers, labels and a status meanwhile.
fn conditions() -> Value {
    json!([
        {"name": "stays", "expression": "!has(object.metadata.deletionTimestamp)"},
        {"name": "asks-for-something-new",
            "expression": "oldObject == null || object.spec != oldObject.spec"},
    ])
}

/// As a list of CEL.
fn quoted(names: &[&str]) -> String {
    format!("['{}']", names.join("', '"))
}

/// A probe or a hook names no host, in CEL.
fn names_no_host(of: &str, key: &str) -> String {
    let path = format!("{of}.{key}");
    let no_host = HANDLERS.map(|handler| {
        let host = format!("{path}.{handler}.host");
        format!(
            "(!has({path}.{handler}) || {path}.{handler} == null || !has({host}) || {host} == null || {host} == '')"
        )
    });
    format!("(!has({path}) || {path} == null || ({}))", no_host.join(" && "))
}

fn expressions(right: Right) -> Vec<(String, &'static str)> {
    match right {
        Right::ServiceAccounts => vec![
            (
                "(!has(variables.pod.serviceAccountName) || \
                 variables.pod.serviceAccountName == object.metadata.name) && \
                 (!has(variables.pod.serviceAccount) || \
                 variables.pod.serviceAccount == object.metadata.name)"
                    .to_owned(),
                "podTemplate names another ServiceAccount than the cluster's own",
            ),
            (
                "(!has(variables.pod.automountServiceAccountToken) || \
                 variables.pod.automountServiceAccountToken == false) && \
                 variables.volumes.all(v, !has(v.projected) || !has(v.projected.sources) || \
                 v.projected.sources.all(s, !has(s.serviceAccountToken)))"
                    .to_owned(),
                "podTemplate gives pods a token of a ServiceAccount",
            ),
        ],
        Right::HostPaths => {
            let allowed: Vec<_> =
                ["name", "$patch"].iter().chain(&VOLUMES).map(|kind| format!("'{kind}'")).collect();
            vec![(
                format!("variables.volumes.all(v, v.all(kind, kind in [{}]))", allowed.join(", ")),
                "podTemplate has a volume that reaches the Kubernetes node, such as a hostPath",
            )]
        }
        Right::HostNamespaces => vec![
            (
                "(!has(variables.pod.hostNetwork) || variables.pod.hostNetwork != true) && \
                 (!has(variables.pod.hostPID) || variables.pod.hostPID != true) && \
                 (!has(variables.pod.hostIPC) || variables.pod.hostIPC != true) && \
                 variables.containers.all(c, !has(c.ports) || c.ports.all(p, !has(p.hostPort) || \
                 p.hostPort == 0))"
                    .to_owned(),
                "podTemplate takes network, processes or ports of the Kubernetes node",
            ),
            (
                format!(
                    "variables.containers.all(c, {})",
                    PROBES.map(|probe| names_no_host("c", probe)).join(" && ")
                ),
                "podTemplate has a probe with a host, whom the Kubernetes node is to call",
            ),
            (
                format!(
                    "variables.containers.all(c, !has(c.lifecycle) || c.lifecycle == null || ({}))",
                    HOOKS.map(|hook| names_no_host("c.lifecycle", hook)).join(" && ")
                ),
                "podTemplate has a hook with a host, whom the Kubernetes node is to call",
            ),
        ],
        Right::Privileged => vec![
            (
                format!(
                    "variables.containers.all(c, (has(c.securityContext) && \
                     c.securityContext != null && has(c.securityContext.allowPrivilegeEscalation)) ? \
                     c.securityContext.allowPrivilegeEscalation == false : \
                     ('$patch' in c && c['$patch'] == 'delete') || (c.name == '{CONTAINER}' && \
                     (!has(c.securityContext) || c.securityContext != null)))"
                ),
                "podTemplate has a container that may gain privileges: beside the server each must \
                 say securityContext.allowPrivilegeEscalation: false",
            ),
            (
                format!(
                    "variables.containers.all(c, c.name != '{CONTAINER}' || \
                     !has(c.securityContext) || (c.securityContext != null && \
                     (!has(c.securityContext.capabilities) || \
                     (c.securityContext.capabilities != null && \
                     (!has(c.securityContext.capabilities.drop) || \
                     (c.securityContext.capabilities.drop != null && \
                     'ALL' in c.securityContext.capabilities.drop))))))"
                ),
                "podTemplate takes away that the server drops all capabilities",
            ),
            (
                format!(
                    "!has(variables.pod.securityContext) || variables.pod.securityContext == null || \
                     !has(variables.pod.securityContext.seccompProfile) || \
                     (variables.pod.securityContext.seccompProfile != null && \
                     (!has(variables.pod.securityContext.seccompProfile.type) || \
                     variables.pod.securityContext.seccompProfile.type in {}))",
                    quoted(&SECCOMP)
                ),
                "podTemplate takes away the seccomp profile",
            ),
            (
                format!(
                    "variables.contexts.all(s, s == null || ((!has(s.seLinuxOptions) || \
                     s.seLinuxOptions == null || ((!has(s.seLinuxOptions.type) || \
                     s.seLinuxOptions.type == null || s.seLinuxOptions.type in {}) && \
                     (!has(s.seLinuxOptions.user) || s.seLinuxOptions.user == null || \
                     s.seLinuxOptions.user == '') && \
                     (!has(s.seLinuxOptions.role) || s.seLinuxOptions.role == null || \
                     s.seLinuxOptions.role == ''))) && \
                     (!has(s.sysctls) || s.sysctls == null || s.sysctls.all(x, x.name in {}))))",
                    quoted(&SELINUX_TYPES),
                    quoted(&SYSCTLS)
                ),
                "podTemplate has SELinux options or sysctls that reach the Kubernetes node",
            ),
            (
                format!(
                    "!has(variables.pod.priorityClassName) || \
                     variables.pod.priorityClassName == null || \
                     !variables.pod.priorityClassName.startsWith('{SYSTEM_PRIORITY}')"
                ),
                "podTemplate names a priority of Kubernetes itself",
            ),
            (
                format!(
                    "variables.annotations.all(name, !name.startsWith('{APP_ARMOR}') || \
                     variables.annotations[name] == null || \
                     variables.annotations[name] == '{APP_ARMOR_DEFAULT}' || \
                     variables.annotations[name].startsWith('{APP_ARMOR_OWN}'))"
                ),
                "podTemplate takes away the AppArmor profile by an annotation",
            ),
            (
                "!has(variables.pod.securityContext) || (variables.pod.securityContext != null && \
                 (!has(variables.pod.securityContext.runAsNonRoot) || \
                 variables.pod.securityContext.runAsNonRoot == true))"
                    .to_owned(),
                "podTemplate takes away that pods do not run as root",
            ),
            (
                "variables.contexts.all(s, s == null || (\
                 (!has(s.runAsUser) || s.runAsUser != 0) && \
                 (!has(s.runAsNonRoot) || s.runAsNonRoot != false) && \
                 (!has(s.privileged) || s.privileged != true) && \
                 (!has(s.capabilities) || s.capabilities == null || !has(s.capabilities.add) || \
                 s.capabilities.add == null || size(s.capabilities.add) == 0) && \
                 (!has(s.seccompProfile) || s.seccompProfile == null || \
                 !has(s.seccompProfile.type) || s.seccompProfile.type != 'Unconfined') && \
                 (!has(s.appArmorProfile) || s.appArmorProfile == null || \
                 !has(s.appArmorProfile.type) || s.appArmorProfile.type != 'Unconfined') && \
                 (!has(s.procMount) || s.procMount == null || s.procMount == 'Default') && \
                 (!has(s.windowsOptions) || s.windowsOptions == null || \
                 !has(s.windowsOptions.hostProcess) || s.windowsOptions.hostProcess != true)))"
                    .to_owned(),
                "podTemplate gives a container root, privileges or capabilities",
            ),
        ],
    }
}

/// What the chart's ValidatingAdmissionPolicy says, by the right that it is about.
#[must_use]
pub fn yaml() -> String {
    let by_right: serde_json::Map<String, Value> = Right::ALL
        .into_iter()
        .map(|right| {
            let said = expressions(right).into_iter().map(|(expression, message)| {
                let message = format!(
                    "{message}; whoever runs the operator can allow it (operator.allowInTemplates: \
                     [{}])",
                    right.name()
                );
                json!({"expression": expression, "message": message})
            });
            (right.name().to_owned(), said.collect())
        })
        .collect();
    let all = json!({
        "matchConditions": conditions(),
        "variables": variables(),
        "validations": by_right,
    });
    serde_yaml::to_string(&all).expect("a policy has a YAML form")
}

#[cfg(test)]
mod tests;
