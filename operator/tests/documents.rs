//! Calls of kubectl and helm in the documents are calls that there are.
//!
//! No cluster is asked: the scenario `commands_of_the_documents_run` of tests/kubernetes types them on one. A shell
//! takes the blocks apart, with functions in the place of the programs, and what they were called with is looked at:
//! whether Kubernetes has such a kind, this operator such a name, the definition such a field, the chart such a value,
//! and kubectl and helm such a call.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use flotilla_operator::{crd::KvCluster, names::Names};
use kube::CustomResourceExt as _;
use serde_json::{Value, json};

/// What stands in the documents for the reader's own.
const NAMESPACES: [&str; 5] = ["NS", "NAMESPACE", "default", "shop", "flotilla-system"];
const CLUSTERS: [&str; 2] = ["kv", "NAME"];

/// Kinds that Kubernetes has, or the operator of Prometheus, by the words that the documents use; and whose
/// names they bear.
const KINDS: [(&[&str], Bears); 13] = [
    (&["pod", "pods"], Bears::Pods),
    (&["pvc"], Bears::Volumes),
    (&["pv"], Bears::Nothing),
    (&["svc", "service"], Bears::Services),
    (&["networkpolicy", "servicemonitor"], Bears::Clusters),
    (&["deploy"], Bears::Operator),
    (&["lease"], Bears::Operator),
    (&["crd"], Bears::Definition),
    (&["namespace"], Bears::Namespaces),
    (&["node"], Bears::Machines),
    (&["storageclass"], Bears::Classes),
    (&["job"], Bears::Nothing),
    (&["events"], Bears::Nothing),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bears {
    Clusters,
    Pods,
    Volumes,
    Services,
    Operator,
    Definition,
    Namespaces,
    Machines,
    Classes,
    Nothing,
}

/// Flags whose value is the next word.
const VALUED: [&str; 14] = [
    "-n",
    "--namespace",
    "-l",
    "-o",
    "-p",
    "-f",
    "-s",
    "-c",
    "--type",
    "--field-selector",
    "--set",
    "--raw",
    "--api-versions",
    "--kube-version",
];

/// Bound: programs that are asked at once.
const AT_ONCE: usize = 16;

/// One call, as the program sees it.
#[derive(Debug)]
struct Call {
    /// Page and line.
    at: String,
    program: String,
    words: Vec<String>,
}

impl Call {
    /// Without what is called inside of a pod.
    fn own(&self) -> &[String] {
        let end = self.words.iter().position(|word| word == "--").unwrap_or(self.words.len());
        &self.words[..end]
    }

    /// Neither flags nor their values.
    fn plain(&self) -> Vec<&str> {
        let mut plain = Vec::new();
        let mut words = self.own().iter().map(String::as_str);
        while let Some(word) = words.next() {
            if VALUED.contains(&word) {
                words.next();
            } else if !word.starts_with('-') || word == "-" {
                plain.push(word);
            }
        }
        plain
    }

    /// What tells it from calls that differ in names alone.
    fn form(&self) -> Vec<String> {
        let templates = self.values("-o").chain(self.values("--set")).map(str::to_owned);
        let flags = self.own().iter().filter(|word| word.starts_with('-'));
        let flags = flags.map(|word| word.split('=').next().unwrap_or_default().to_owned());
        let verb = self.plain().first().map(|verb| (*verb).to_owned());
        [self.program.clone()].into_iter().chain(verb).chain(flags).chain(templates).collect()
    }

    /// The values of a flag.
    fn values<'a>(&'a self, flag: &'a str) -> impl Iterator<Item = &'a str> {
        let own = self.own();
        own.iter().enumerate().filter_map(move |(index, word)| {
            let joined = word.strip_prefix(flag).and_then(|rest| rest.strip_prefix('='));
            joined.or_else(|| {
                (word == flag).then(|| own.get(index + 1)).flatten().map(String::as_str)
            })
        })
    }
}

fn root() -> PathBuf {
    // Cargo runs tests in the folder of their package, wherever they were compiled.
    std::env::current_dir().expect("a folder").join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn pages() -> Vec<String> {
    flotilla_documents::pages(&root()).expect("the documents")
}

/// What is to be taken apart: blocks that call one of the two, and calls within sentences.
fn scripts() -> Vec<(String, String)> {
    let is_ours = |text: &str| text.contains("kubectl ") || text.contains("helm ");
    let mut scripts = Vec::new();
    for page in pages() {
        let blocks = flotilla_documents::blocks(&root(), &page).expect("the page");
        let called = blocks.into_iter().filter(|block| is_ours(&block.text));
        scripts.extend(called.map(|block| (format!("{page}:{}", block.line), block.text)));
        scripts.extend(calls_in_sentences(&page));
    }
    scripts
}

fn calls_in_sentences(page: &str) -> Vec<(String, String)> {
    let text = read(page);
    let (mut calls, mut line) = (Vec::new(), 1);
    for (index, part) in text.split("```").enumerate() {
        if index % 2 == 0 {
            // A sentence goes on over the end of a line. `…` is whatever the reader has there.
            let mut at = line;
            for (index, span) in part.split('`').enumerate() {
                let call =
                    span.replace('\n', " ").replace("kubectl … ", "kubectl ").replace('…', "x");
                if index % 2 == 1 && (call.starts_with("kubectl ") || call.starts_with("helm ")) {
                    calls.push((format!("{page}:{at}"), call));
                }
                at += span.matches('\n').count();
            }
        }
        line += part.matches('\n').count();
    }
    calls
}

/// Every call in the documents, taken apart by a shell that has no other programs.
fn calls() -> Vec<Call> {
    let folder = std::env::temp_dir().join(format!("flotilla-documents-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("make a directory");
    let mut script = PROLOGUE.to_owned();
    for (at, text) in scripts() {
        writeln!(script, "at='{at}'\n{text}").expect("to memory");
    }
    let output = Command::new("bash")
        .arg("-c")
        .arg(script)
        .current_dir(&folder)
        .stdin(Stdio::null())
        .output()
        .expect("bash runs");
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
    let (calls, unknown) = (read("calls"), read("unknown"));
    fs::remove_dir_all(&folder).expect("remove it");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "the shell understands all");
    assert_eq!(unknown, "", "the blocks call nothing but what is known here");
    let calls = calls.split_terminator('\u{1e}').map(|call| {
        let mut words = call.split_terminator('\u{1f}').map(str::to_owned);
        let mut next = || words.next().expect("a word");
        Call { at: next(), program: next(), words: words.collect() }
    });
    calls.collect()
}

const PROLOGUE: &str = r#"
PATH=/nowhere
# In one write: those of a pipe are noted at once.
note() { printf '%s\x1e' "$(printf '%s\x1f' "$at" "$@")" >> calls; }
kubectl() { note kubectl "$@"; }
helm() { note helm "$@"; }
kind() { :; }
make() { :; }
grep() { :; }
date() { echo 2026-01-01T00:00:00Z; }
# In the blocks for machines and for builds, which call the two in passing.
command_not_found_handle() { echo "$at: $1" >> unknown; }
"#;

fn names() -> impl Iterator<Item = Names> {
    CLUSTERS.into_iter().map(|name| Names {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        domain: "cluster.local".to_owned(),
    })
}

fn check(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

fn check_pod(pod: &str) -> Result<(), String> {
    // As MACHINE: whichever the reader has.
    let is_one = pod == "POD" || names().any(|names| names.ordinal_of_pod(pod).is_some());
    check(is_one, || {
        format!("no pod is called {pod}: one is {}", Names::pod(&names().next().expect("one"), 0))
    })
}

/// A name of an object of this kind.
fn check_name(bears: Bears, name: &str) -> Result<(), String> {
    let among = |all: &[&str]| all.contains(&name);
    let holds = match bears {
        Bears::Pods => return check_pod(name),
        Bears::Volumes => names().any(|names| names.ordinal_of_volume(name).is_some()),
        Bears::Services => names().any(|names| {
            [names.name.clone(), names.headless(), names.clients()].contains(&name.to_owned())
        }),
        Bears::Clusters => among(&CLUSTERS),
        Bears::Operator => name == "flotilla-operator",
        Bears::Definition => name == KvCluster::crd_name(),
        Bears::Namespaces => among(&NAMESPACES),
        Bears::Machines => name == "MACHINE",
        Bears::Classes => name == "CLASS",
        Bears::Nothing => false,
    };
    check(holds, || format!("{name} is the name of no {bears:?}"))
}

fn bears(kind: &str) -> Result<Bears, String> {
    let ours = KvCluster::crd().spec.names;
    let known = ours
        .short_names
        .into_iter()
        .flatten()
        .chain([ours.plural, ours.singular.unwrap_or_default()]);
    if known.into_iter().any(|known| known == kind) {
        return Ok(Bears::Clusters);
    }
    let found = KINDS.iter().find(|(words, _)| words.contains(&kind));
    found.map(|(_, bears)| *bears).ok_or_else(|| format!("{kind} is no kind that this test knows"))
}

/// `TYPE[,TYPE] [NAME…]` or `TYPE/NAME…`.
fn check_objects(words: &[&str]) -> Result<(), String> {
    if let Some((kind, name)) = words.first().and_then(|word| word.split_once('/')) {
        check_name(bears(kind)?, name)?;
        return if words.len() > 1 { check_objects(&words[1..]) } else { Ok(()) };
    }
    let Some((kinds, names)) = words.split_first() else { return Err("of what?".to_owned()) };
    for kind in kinds.split(',') {
        let bears = bears(kind)?;
        names.iter().try_for_each(|name| check_name(bears, name))?;
    }
    Ok(())
}

/// `POD`, or an object whose pods are meant.
fn check_pods(words: &[&str]) -> Result<(), String> {
    match words {
        [object] if object.contains('/') => check_objects(words),
        [pod] => check_pod(pod),
        _ => Err(format!("one pod, not {words:?}")),
    }
}

/// A field of the definition, by its path.
fn check_field(path: &str) -> Result<(), String> {
    let definition = serde_json::to_value(KvCluster::crd()).expect("JSON");
    let mut schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    for field in path.split('.').filter(|field| !field.is_empty()) {
        if schema["type"] == "array" {
            schema = &schema["items"];
        }
        if schema["x-kubernetes-preserve-unknown-fields"] == true {
            return Ok(());
        }
        schema = &schema["properties"][field];
        check(!schema.is_null(), || format!("a KvCluster has no field {path}"))?;
    }
    Ok(())
}

/// Templates of a KvCluster: `{.a.b[?(@.c=="d")].e}{"\n"}`.
fn check_template(template: &str) -> Result<(), String> {
    for part in template.split('{').skip(1) {
        let (inside, _) = part.split_once('}').ok_or_else(|| format!("{template}: no end"))?;
        if inside.starts_with('"') {
            continue;
        }
        let mut path = String::new();
        let mut rest = inside;
        while let Some((before, filter)) = rest.split_once("[?(@.") {
            let (field, after) = filter.split_once("==").ok_or("a filter compares")?;
            path += before;
            check_field(&format!("{path}.{field}"))?;
            rest = after.split_once(")]").ok_or("a filter ends")?.1;
        }
        check_field(&(path + rest))?;
    }
    Ok(())
}

/// A patch makes a KvCluster of one.
fn check_patch(patch: &str) -> Result<(), String> {
    let patch: Value = serde_json::from_str(patch).map_err(|error| format!("{patch}: {error}"))?;
    let mut cluster = json!({
        "apiVersion": "flotilla.dev/v1alpha1", "kind": "KvCluster",
        "metadata": {"name": "kv", "namespace": "default"}, "spec": {"storage": {"size": "1Gi"}},
    });
    let fields = patch.as_object().ok_or("a patch is an object")?;
    check(fields.keys().eq(["spec"]), || "only the spec is patched".to_owned())?;
    flotilla_operator::overlay::lay_over(&mut cluster, &patch);
    let read: KvCluster = serde_json::from_value(cluster).map_err(|error| error.to_string())?;
    let spec = serde_json::to_value(&read.spec).expect("JSON");
    // A field that is read is written again, unless it says what is so anyway.
    let asked = patch["spec"].as_object().ok_or("a spec is an object")?;
    asked.keys().try_for_each(|field| {
        check_field(&format!("spec.{field}"))?;
        check(spec.get(field).is_some() || asked[field].is_null(), || {
            format!("spec.{field} is lost")
        })
    })
}

fn check_file(file: &str) -> Result<(), String> {
    check(file == "-" || root().join(file).exists(), || format!("there is no {file}"))
}

fn check_kubectl(call: &Call) -> Result<(), String> {
    for namespace in call.values("-n") {
        check(NAMESPACES.contains(&namespace), || format!("whose namespace is {namespace}?"))?;
    }
    call.values("-f").try_for_each(check_file)?;
    for path in call.values("--raw") {
        // What stands before it may be left out.
        let pod = path.split_once("/pods/").and_then(|(_, pod)| pod.split_once(':'));
        if let Some((pod, rest)) = pod {
            check_pod(pod)?;
            check(rest.starts_with("7422/proxy/"), || format!("{rest}: that is not the port"))?;
        }
    }
    for output in call.values("-o") {
        match output.split_once('=') {
            Some(("jsonpath", template)) => check_template(template)?,
            None if ["yaml", "json", "wide", "name"].contains(&output) => {}
            _ => return Err(format!("-o {output}")),
        }
    }
    call.values("-p")
        .filter(|_| !call.plain().contains(&"storageclass"))
        .try_for_each(check_patch)?;
    let plain = call.plain();
    let Some((verb, rest)) = plain.split_first() else { return Ok(()) };
    let has = |flag: &'static str| call.values(flag).next().is_some();
    match *verb {
        // A verb alone, as a sentence names it.
        "get" | "describe" | "delete" | "patch" | "annotate" | "label" | "scale" | "exec"
        | "apply" | "drain"
            if call.words.len() == 1 =>
        {
            Ok(())
        }
        "get" if has("--raw") => Ok(()),
        "delete" if *rest == ["all"] => Ok(()),
        "get" | "describe" | "delete" | "patch" | "scale" => check_objects(rest),
        "annotate" | "label" => {
            let (changes, objects): (Vec<&str>, Vec<&str>) =
                rest.iter().partition(|word| word.contains('='));
            check(!changes.is_empty(), || "nothing is changed".to_owned())?;
            changes.iter().filter(|change| change.contains("flotilla.dev/")).try_for_each(
                |change| {
                    let key = change.split('=').next().unwrap_or_default();
                    let known =
                        [flotilla_operator::names::ADOPT, flotilla_operator::names::ALLOW_VERSION];
                    check(known.contains(&key), || format!("nobody reads {key}"))
                },
            )?;
            check_objects(&objects)
        }
        "wait" => {
            check(has("--for"), || "for what?".to_owned())?;
            check_objects(rest)
        }
        "exec" => {
            let inside: Vec<&str> =
                call.words[call.own().len()..].iter().map(String::as_str).collect();
            let program = inside.get(1).copied().unwrap_or_default();
            let known = ["kvctl", "flotilla-operator"].contains(&program);
            check(known, || format!("{program} is not in our images"))?;
            for address in inside.iter().filter(|word| word.ends_with(":7420")) {
                let pod = address.split(['.', ':']).next().unwrap_or_default();
                if !address.starts_with("127.") {
                    check_pod(pod)?;
                }
            }
            check_pods(rest)
        }
        "logs" if has("-l") => check(rest.is_empty(), || format!("{rest:?}")),
        // As a sentence names it, with a flag.
        "logs" if call.words.len() == 2 && rest.is_empty() => Ok(()),
        "logs" => check_pods(rest),
        "port-forward" => {
            let (ports, objects): (Vec<&str>, Vec<&str>) =
                rest.iter().partition(|word| word.parse::<u16>().is_ok());
            let known = ports.iter().all(|port| ["7420", "7421", "7422"].contains(port));
            check(known && !ports.is_empty(), || format!("{ports:?}"))?;
            check_pods(&objects)
        }
        "apply" | "create" | "diff" => {
            check(has("-f") && rest.is_empty(), || "of what?".to_owned())
        }
        "explain" => {
            let (kind, path) = rest.first().and_then(|path| path.split_once('.')).ok_or("what?")?;
            bears(kind)?;
            check_field(path)
        }
        "auth" => check(*rest == ["can-i"], || format!("auth {rest:?}")),
        verb => Err(format!("kubectl {verb} is not known to this test")),
    }
}

/// `a.b.c=value` for the chart.
fn check_value(values: &Value, set: &str) -> Result<(), String> {
    let (path, _) = set.split_once('=').ok_or_else(|| format!("{set}: to what?"))?;
    let found = path.split('.').try_fold(values, |values, field| values.get(field));
    check(found.is_some(), || format!("the chart has no value {path}"))
}

fn check_helm(call: &Call) -> Result<(), String> {
    let values: Value = serde_yaml::from_str(&read("helm/flotilla/values.yaml")).expect("YAML");
    call.values("--set").try_for_each(|set| check_value(&values, set))?;
    call.values("-f").try_for_each(check_file)?;
    for template in call.values("-s") {
        check_file(&format!("helm/flotilla/{template}"))?;
    }
    match call.plain()[..] {
        ["install" | "upgrade" | "template" | "test" | "uninstall"] if call.words.len() == 1 => {
            Ok(())
        }
        ["install" | "upgrade" | "template", "flotilla", "helm/flotilla"] => Ok(()),
        ["test" | "uninstall", "flotilla"] => Ok(()),
        ref other => Err(format!("helm {other:?} is not known to this test")),
    }
}

/// Whether a program is there; said aloud when not, and a failure where nothing may be left out.
fn has(program: &str, of: &str) -> bool {
    let is_there = Command::new(program).arg("version").arg("--help").output().is_ok();
    if !is_there {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "there is no {program}");
        // Not by `eprintln!`, which the test harness keeps to itself.
        let _ = std::io::Write::write_all(
            &mut std::io::stderr(),
            format!("SKIPPED: {of}, for want of {program}\n").as_bytes(),
        );
    }
    is_there
}

fn said(output: &std::process::Output) -> Result<(), String> {
    check(output.status.success(), || String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The flags are those of the command: it is asked for help with the same ones.
fn ask_kubectl(call: &Call) -> Result<(), String> {
    // A template is read by whatever prints one.
    for output in call.values("-o").filter(|output| output.starts_with("jsonpath")) {
        let mut kubectl = Command::new("kubectl");
        let view = kubectl.args(["config", "view", "--kubeconfig", "/dev/null", "-o", output]);
        said(&view.output().expect("kubectl runs"))?;
    }
    let mut kubectl = Command::new("kubectl");
    kubectl.args(call.own().iter().map(|word| word.replace("=N", "=1")));
    said(&kubectl.arg("--help").output().expect("kubectl runs"))
}

/// The flags are those of the command, and the chart takes the values.
fn ask_helm(call: &Call) -> Result<(), String> {
    said(&Command::new("helm").args(&call.words).arg("--help").output().expect("helm runs"))?;
    if !matches!(call.plain()[..], ["install" | "upgrade", _, _]) {
        return Ok(());
    }
    let chart = root().join("helm/flotilla");
    let mut helm = Command::new("helm");
    helm.current_dir(root())
        .args(["template", "flotilla"])
        .arg(chart)
        .args(["-n", "flotilla-system"]);
    helm.args(["--api-versions", "monitoring.coreos.com/v1"]);
    for flag in ["--set", "-f"] {
        for value in call.values(flag) {
            helm.args([flag, value]);
        }
    }
    said(&helm.output().expect("helm runs"))
}

#[test]
fn calls_of_kubectl_and_helm_are_calls_that_there_are() {
    let calls = calls();
    let (kubectl, helm) = (has("kubectl", "flags of kubectl"), has("helm", "what helm makes"));
    // A program takes its time, and most calls differ in names alone.
    let mut forms = BTreeSet::new();
    let look = |call: &Call, is_new: bool| match (call.program.as_str(), is_new) {
        ("kubectl", true) if kubectl => check_kubectl(call).and_then(|()| ask_kubectl(call)),
        ("kubectl", _) => check_kubectl(call),
        (_, true) if helm => check_helm(call).and_then(|()| ask_helm(call)),
        _ => check_helm(call),
    };
    let looks: Vec<_> = calls.iter().map(|call| (call, forms.insert(call.form()))).collect();
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let parts = looks.chunks(looks.len().div_ceil(AT_ONCE).max(1));
        let parts: Vec<_> = parts
            .map(|part| {
                scope.spawn(|| {
                    let told = |call: &Call, why: String| {
                        let words = call.words.join(" ");
                        format!("{}: {} {words}: {why}", call.at, call.program)
                    };
                    let looked = part.iter().map(|(call, is_new)| (call, look(call, *is_new)));
                    looked
                        .filter_map(|(call, result)| Some(told(call, result.err()?)))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        parts.into_iter().flat_map(|part| part.join().expect("it ends")).collect()
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(calls.len() > 100, "{} were found", calls.len());
}

#[test]
fn calls_that_cannot_be_are_found() {
    let call = |line: &str| {
        let mut words = line.split(' ').map(str::to_owned);
        Call { at: String::new(), program: words.next().expect("one"), words: words.collect() }
    };
    for line in [
        "kubectl get kvx kv",
        "kubectl get kvc other",
        "kubectl exec kv-0-0-0 -- kvctl nodes",
        "kubectl exec other-0 -- kvctl nodes",
        "kubectl exec deploy/flotilla-operator -- sh",
        "kubectl get --raw /api/v1/namespaces/default/pods/kv-x:7422/proxy/readyz",
        "kubectl get kvc kv -o jsonpath={.status.conditon}",
        "kubectl get kvc kv -o jsonpath={.status.conditions[?(@.kind==\"Ready\")].message}",
        "kubectl patch kvc kv --type merge -p {\"spec\":{\"replica\":3}}",
        "kubectl patch kvc kv --type merge -p {\"spec\":{\"replicas\":\"3\"}}",
        "kubectl annotate kvc kv flotilla.dev/other=1",
        "kubectl apply -f deploy/samples/none.yaml",
        "kubectl explain kvc.spec.storag",
        "kubectl frobnicate",
    ] {
        assert!(check_kubectl(&call(line)).is_err(), "{line}");
    }
    for line in [
        "helm install flotilla helm/other",
        "helm upgrade flotilla helm/flotilla --set operator.replica=2",
        "helm template flotilla helm/flotilla -s templates/none.yaml",
    ] {
        assert!(check_helm(&call(line)).is_err(), "{line}");
    }
}
