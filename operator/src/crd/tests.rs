use std::{fs, sync::Arc};

use cel::{Context, ExecutionError, Program, Value as Cel};
use regex::Regex;
use serde_json::{Value, json};

use super::*;

fn schema() -> Value {
    let crd = serde_json::to_value(KvCluster::crd()).expect("JSON");
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

/// Every CEL rule of a schema, with the path of what it is about.
fn rules(path: &str, schema: &Value, found: &mut Vec<(String, String)>) {
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        found.push((path.to_owned(), rule["rule"].as_str().unwrap_or_default().to_owned()));
        assert!(rule["message"].is_string(), "{path}: a rule without words: {rule}");
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        rules(&format!("{path}.{name}"), property, found);
    }
}

/// Kubernetes refuses a schema that is not structural, and estimates the cost of rules by bounds.
fn check_structural(path: &str, schema: &Value) {
    assert!(schema["$ref"].is_null(), "{path}: a reference");
    let free = schema["x-kubernetes-preserve-unknown-fields"] == json!(true);
    assert!(schema["type"].is_string() || free, "{path}: no type in {schema}");
    if schema["type"] == json!("array") {
        assert!(schema["maxItems"].is_number(), "{path}: an unbounded list");
        check_structural(&format!("{path}[]"), &schema["items"]);
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        let described = property["description"].is_string() || path.starts_with(".status");
        assert!(described || path == ".metadata", "{path}: not described");
        check_structural(&path, property);
    }
}

#[test]
fn a_minimal_resource_is_enough() {
    let spec: KvClusterSpec =
        serde_json::from_value(json!({"storage": {"size": "10Gi"}})).expect("a spec");
    assert_eq!((spec.replicas, spec.replication_factor), (3, 3));
    assert!(spec.storage.retain && spec.pod_disruption_budget);
    assert!(!spec.paused && !spec.stopped);
    assert_eq!(spec.tls.mode, TlsMode::Disabled);
}

#[test]
fn misspelt_fields_of_a_file_are_found() {
    for (spec, want) in [
        (json!({"replica": 3}), &[".spec.replica"][..]),
        (json!({"storage": {"class": "fast"}}), &[".spec.storage.class"]),
        (json!({"imagePullSecrets": [{"nam": "x"}]}), &[".spec.imagePullSecrets[0].nam"]),
        (
            json!({"tls": {"mod": "disabled", "issuerRef": {"any": 1}}, "confg": {}}),
            &[".spec.confg", ".spec.tls.mod"],
        ),
        (
            json!({"config": {"any": {"thing": 1}}, "podTemplate": {"x": 1}, "restartedAt": "",
                "metrics": {"labels": {"release": "x"}, "relabelings": [{"any": 1}]},
                "networkPolicy": {"from": [{"podSelector": {}}]}}),
            &[],
        ),
    ] {
        assert_eq!(unknown_fields(&json!({"spec": spec})), want, "{spec}");
    }
}

#[test]
fn what_cannot_be_meant_is_refused() {
    for spec in [json!({"storage": {"size": "10Gi"}, "tls": {"mode": "enabled"}}), json!({})] {
        assert!(serde_json::from_value::<KvClusterSpec>(spec.clone()).is_err(), "{spec}");
    }
}

/// As the API server shows it while the definition is that of a newer operator: with its defaults.
#[test]
fn resource_with_fields_of_a_newer_definition_is_read() {
    let mut spec = serde_json::to_value(
        serde_json::from_value::<KvClusterSpec>(json!({"storage": {"size": "10Gi"}}))
            .expect("a spec"),
    )
    .expect("JSON");
    let known = spec.clone();
    let objects = spec.as_object_mut().expect("an object").values_mut();
    for object in objects.filter_map(Value::as_object_mut) {
        object.insert("ofTomorrow".to_owned(), json!(true));
    }
    spec["ofTomorrow"] = json!({"enabled": true});
    assert!(unknown_fields(&json!({"spec": spec})).len() > 5, "{spec}");
    let cluster = json!({"apiVersion": "flotilla.dev/v1alpha1", "kind": "KvCluster",
        "metadata": {"name": "kv"}, "spec": spec,
        "status": {"replicas": 3, "ofTomorrow": 1, "operation": {"kind": "x", "target": "",
            "step": "", "startedAt": "", "ofTomorrow": 1}}});
    let read: KvCluster = serde_json::from_value(cluster).expect("it is read");
    assert_eq!(serde_json::to_value(&read.spec).expect("JSON"), known);
    assert_eq!(read.status.expect("a status").replicas, 3);
}

#[test]
fn resource_survives_a_round_trip() {
    let spec = json!({
        "replicas": 5,
        "replicationFactor": 3,
        "image": "flotilla:1",
        "storage": {"size": "10Gi", "storageClassName": "fast", "retain": false},
        "config": {"raft": {"heartbeat_interval": "200ms"}},
        "tls": {"mode": "certManager", "issuerRef": {"name": "ca"}},
        "restartedAt": "2026-01-01T00:00:00Z",
    });
    let parsed: KvClusterSpec = serde_json::from_value(spec.clone()).expect("a spec");
    let back = serde_json::to_value(&parsed).expect("JSON");
    for (key, value) in spec.as_object().expect("an object") {
        assert_eq!(&back[key], value, "{key}");
    }
    assert_eq!(serde_json::from_value::<KvClusterSpec>(back).expect("a spec"), parsed);
}

#[test]
fn schema_is_what_kubernetes_accepts() {
    let schema = schema();
    check_structural("", &schema);
    assert_eq!(schema["properties"]["spec"]["properties"]["replicas"]["default"], json!(3));
}

/// Whoever asks for a node as it was noted gets the only one.
#[test]
fn status_cannot_hold_two_members_of_one_id() {
    let schema = schema();
    let members = &schema["properties"]["status"]["properties"]["members"];
    assert_eq!(members["x-kubernetes-list-type"], "map");
    assert_eq!(members["x-kubernetes-list-map-keys"], json!(["nodeId"]));
    assert_eq!(members["items"]["properties"]["nodeId"]["type"], "integer");
}

#[test]
fn every_rule_of_the_design_is_in_the_schema() {
    let mut found = Vec::new();
    rules("", &schema(), &mut found);
    for (why, path, part) in [
        ("names leave room for suffixes", "", "size(self.metadata.name) <= 40"),
        ("services bear the name", "", "matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')"),
        ("peers need nodes", ".spec", "self.replicationFactor <= self.replicas"),
        ("a majority needs an odd number", ".spec.replicationFactor", "% 2 == 1"),
        ("storage never shrinks", "", "compareTo(quantity(oldSelf.spec.storage.size)) >= 0"),
        (
            "what none has got is taken back",
            "",
            "compareTo(quantity(self.status.largestVolume)) >= 0",
        ),
        ("regions are cut once", ".spec", "oldSelf.regions.splitKeys"),
        ("the class stays", ".spec.storage", "oldSelf.storageClassName"),
        ("one source of certificates", ".spec.tls", "has(self.issuerRef)"),
    ] {
        let there = found.iter().any(|(at, rule)| at == path && rule.contains(part));
        assert!(there, "{why}: no rule at {path:?} with {part:?} in {found:#?}");
    }
}

/// Who takes an interval of scrapes.
struct Intervals {
    longest: usize,
    pattern: Regex,
    rules: Vec<Program>,
    chart: Regex,
    /// That of the operator of Prometheus, whose field it becomes.
    prometheus: Regex,
}

impl Intervals {
    fn new() -> Self {
        let pattern = |schema: &Value| {
            let pattern = schema["pattern"].as_str().expect("a pattern");
            Regex::new(pattern).expect("a pattern that can be read")
        };
        let definition =
            schema()["properties"]["spec"]["properties"]["metrics"]["properties"]["interval"]
                .take();
        let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../helm/flotilla/values.schema.json");
        let chart: Value =
            serde_json::from_str(&fs::read_to_string(chart).expect("a file")).expect("JSON");
        let place = "/properties/metrics/properties/serviceMonitor/properties/interval";
        let rule = |rule: &Value| {
            let text = rule["rule"].as_str().expect("an expression");
            Program::compile(text).unwrap_or_else(|error| panic!("{text}: {error}"))
        };
        let rules = definition["x-kubernetes-validations"].as_array().expect("rules");
        let longest = definition["maxLength"].as_u64().expect("a bound");
        let units = ["y", "w", "d", "h", "m", "s", "ms"].map(|unit| format!("([0-9]+{unit})?"));
        Self {
            longest: usize::try_from(longest).expect("a small one"),
            pattern: pattern(&definition),
            rules: rules.iter().map(rule).collect(),
            chart: pattern(chart.pointer(place).expect("it is in the schema")),
            prometheus: Regex::new(&format!("^(0|{})$", units.concat())).expect("a pattern"),
        }
    }

    fn definition_takes(&self, interval: &str) -> bool {
        let mut context = Context::default();
        context.add_variable("self", interval).expect("a text");
        // In milliseconds. Kubernetes has a type for it.
        let duration = |text: Arc<String>| match humantime::parse_duration(&text) {
            Ok(duration) => Ok(Cel::Int(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX))),
            Err(error) => Err(ExecutionError::function_error("duration", error)),
        };
        context.add_function("duration", duration).expect("there is none of this name");
        let holds = |rule: &Program| matches!(rule.execute(&context), Ok(Cel::Bool(true)));
        interval.len() <= self.longest
            && self.pattern.is_match(interval)
            && self.rules.iter().all(holds)
    }
}

#[test]
fn scrapes_are_from_a_second_to_a_minute_apart_wherever_that_is_written() {
    let who = Intervals::new();
    for (interval, is_taken) in [
        ("15s", true),
        ("1s", true),
        ("1s0ms", true),
        ("1000ms", true),
        ("1500ms", true),
        ("60s", true),
        ("60000ms", true),
        ("1m", true),
        ("1m0s", true),
        ("0m30s", true),
        ("59s999ms", true),
        // Prometheus takes its own for it.
        ("0s", false),
        ("0ms", false),
        ("0m0s", false),
        ("0", false),
        ("", false),
        // Sooner than is of any use.
        ("999ms", false),
        ("0m999ms", false),
        // Alerts would see one reading.
        ("61s", false),
        ("60s1ms", false),
        ("1m1s", false),
        ("1m0s1ms", false),
        ("60001ms", false),
        ("2m", false),
        ("1h", false),
        ("9999999999999m", false),
        // Of these the operator of Prometheus takes none.
        ("20s20s", false),
        ("500ms30s", false),
        ("30s0m", false),
        ("1.5s", false),
        ("-15s", false),
        ("15", false),
        ("15 s", false),
        ("15s\n", false),
        ("15us", false),
    ] {
        assert_eq!(who.definition_takes(interval), is_taken, "the definition: {interval:?}");
        assert_eq!(who.chart.is_match(interval), is_taken, "the chart: {interval:?}");
    }
    let numbers =
        ["0", "00", "000", "1", "01", "5", "9", "10", "59", "60", "61", "99", "100", "999", "0999"];
    let longer = ["1000", "1001", "9999", "10000", "59999", "60000", "60001", "100000"];
    let of = |unit: &str| {
        let some = numbers.iter().chain(&longer).map(|number| format!("{number}{unit}"));
        some.chain([String::new()]).collect::<Vec<_>>()
    };
    let (minutes, seconds, milliseconds) = (of("m"), of("s"), of("ms"));
    for minutes in &minutes {
        for seconds in &seconds {
            for milliseconds in &milliseconds {
                let interval = format!("{minutes}{seconds}{milliseconds}");
                // The rule is the slow half, and has its say of what might be taken.
                let is_taken = who.pattern.is_match(&interval) && who.definition_takes(&interval);
                assert_eq!(who.chart.is_match(&interval), is_taken, "{interval:?}");
                assert!(!is_taken || who.prometheus.is_match(&interval), "{interval:?}");
            }
        }
    }
}

#[test]
fn definition_has_the_subresources_and_names() {
    let crd = serde_json::to_value(KvCluster::crd()).expect("JSON");
    assert_eq!(crd["metadata"]["name"], json!("kvclusters.flotilla.dev"));
    assert_eq!(crd["spec"]["scope"], json!("Namespaced"));
    assert_eq!(crd["spec"]["names"]["shortNames"], json!(["kvc"]));
    // `kubectl delete all --all` is for what can be made again.
    assert!(crd["spec"]["names"]["categories"].as_array().is_none_or(|all| all.is_empty()));
    let version = &crd["spec"]["versions"][0];
    assert_eq!(version["subresources"]["scale"]["specReplicasPath"], json!(".spec.replicas"));
    assert_eq!(version["subresources"]["scale"]["labelSelectorPath"], json!(".status.selector"));
    let printed: Value = serde_yaml::from_str(&yaml()).expect("YAML");
    assert_eq!(printed, crd);
}
