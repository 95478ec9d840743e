//! The server's settings: what a user may set in `spec.config`, checked before a pod sees it.
//!
//! The server reads its file once, at start, and ends when something in it is wrong; a mistake would
//! cost a node. So the file is checked here first, against the table in docs/configuration.md, which
//! the server's own code prints. Values of one setting that contradict another are still found only
//! by the server: then the roll stops after one pod.

use std::{collections::BTreeMap, sync::LazyLock};

use serde_json::{Map, Value};

use crate::{
    crd::{IpFamily, KvClusterSpec},
    names::{CLIENT_PORT, HTTP_PORT, PEER_PORT},
    telemetry,
};

const DOCUMENTATION: &str = include_str!("../../docs/configuration.md");
/// What the operator alone decides.
const RESERVED: [&str; 8] = [
    "data_dir",
    "client_addr",
    "peer_addr",
    "http_addr",
    "advertise_host",
    "init",
    "bootstrap_expect",
    "join",
];
/// What the spec may say and the operator counts on, and what it is where the spec says nothing.
const COUNTED: [(&str, &str); 2] = [GRACE, DOWN];
const GRACE: (&str, &str) = ("shutdown_grace", "20s");
/// How long a node may be silent before its peers are made anew.
const DOWN: (&str, &str) = ("placement.node_down_after", "10m");

/// The spec cannot say it.
#[must_use]
pub fn is_reserved(key: &str) -> bool {
    RESERVED.contains(&key)
}

/// The variable that would say the same to the server, which reads it before its file.
fn variable(key: &str) -> String {
    format!("FLOTILLA_{}", key.replace('.', "__").to_uppercase())
}

/// By which the server is told where its data is, before its file.
pub const DATA_DIR_VARIABLE: &str = "FLOTILLA_DATA_DIR";

/// The setting that a variable gives to the server: levels are set apart by two `_`, and below a map all is the user's.
pub fn of_variable(name: &str) -> Option<String> {
    let key = name.strip_prefix("FLOTILLA_")?.to_lowercase().replace("__", ".");
    let is_map = |group: &str| SETTINGS.get(group) == Some(&Kind::Map);
    let is_below = key.split_once('.').is_some_and(|(group, _)| is_map(group));
    (is_below || SETTINGS.contains_key(&key)).then_some(key)
}

/// Where the volume is mounted.
pub const DATA_DIR: &str = "/var/lib/flotilla";

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Duration,
    Size,
    Number,
    Flag,
    List,
    Map,
    OneOf(Vec<String>),
}

/// Every setting by its key, in dots.
static SETTINGS: LazyLock<BTreeMap<String, Kind>> = LazyLock::new(|| {
    DOCUMENTATION
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split(" | ");
            let key = cells.next()?.strip_suffix('`')?.to_owned();
            let _default = cells.next()?;
            let kind = match cells.next()?.trim() {
                "duration" => Kind::Duration,
                "size" => Kind::Size,
                "number" => Kind::Number,
                "true, false" => Kind::Flag,
                "list" => Kind::List,
                "map" => Kind::Map,
                choice if choice.starts_with('`') => Kind::OneOf(
                    choice.split(", ").map(|word| word.trim_matches('`').to_owned()).collect(),
                ),
                _ => Kind::Text,
            };
            Some((key, kind))
        })
        .collect()
});

/// Settings of a cluster that were checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// What the spec asks for, by key. Invariant: a function of the spec alone, so that its hash
    /// does not change with the operator.
    asked: BTreeMap<String, Value>,
    /// Nodes are to be reached by addresses of version 6, too.
    dual: bool,
}

impl Settings {
    /// # Errors
    /// One sentence per mistake.
    pub fn of(spec: &KvClusterSpec) -> Result<Self, Vec<String>> {
        let mut asked = BTreeMap::new();
        let mut errors = Vec::new();
        for (key, value) in &spec.config {
            flatten(key, value, &mut asked);
        }
        for (key, size, field) in [
            ("regions.split_size", &spec.regions.split_size, "regions.splitSize"),
            ("regions.merge_size", &spec.regions.merge_size, "regions.mergeSize"),
        ] {
            if let Some(size) = size {
                if SETTINGS.contains_key(key) {
                    asked.insert(key.to_owned(), Value::from(server_size(size)));
                } else {
                    errors.push(format!("{field}: regions of this version do not split or merge"));
                }
            }
        }
        if let Some(down) = &spec.placement.max_node_down {
            asked.insert("placement.node_down_after".to_owned(), Value::from(down.as_str()));
        }
        for (key, value) in &asked {
            if is_reserved(key) {
                errors.push(format!("config {key}: is set by the operator"));
            } else if let Err(problem) = check(key, value) {
                errors.push(format!("config {key}: {problem}"));
            }
        }
        let dual = spec.service.ip_families.contains(&IpFamily::IPv6);
        if errors.is_empty() { Ok(Self { asked, dual }) } else { Err(errors) }
    }

    #[must_use]
    pub fn asked(&self) -> &BTreeMap<String, Value> {
        &self.asked
    }

    fn counted<'a>(&'a self, (key, default): (&str, &'a str)) -> &'a str {
        self.asked.get(key).and_then(Value::as_str).unwrap_or(default)
    }

    fn seconds(&self, counted: (&str, &str)) -> i64 {
        let duration = humantime::parse_duration(self.counted(counted)).unwrap_or_default();
        i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
    }

    #[must_use]
    pub fn node_down_after_seconds(&self) -> i64 {
        self.seconds(DOWN)
    }

    #[must_use]
    pub fn shutdown_grace_seconds(&self) -> i64 {
        self.seconds(GRACE)
    }

    /// Whether nodes listen on addresses of both versions. Not always: a Kubernetes node without
    /// version 6 has no such socket.
    #[must_use]
    pub fn dual(&self) -> bool {
        self.dual
    }

    /// What a node is reached by and where it keeps its data.
    fn own(&self) -> [(&'static str, String); 4] {
        let host = if self.dual { "[::]" } else { "0.0.0.0" };
        let any = |port: i32| format!("{host}:{port}");
        [
            ("data_dir", DATA_DIR.to_owned()),
            ("client_addr", any(CLIENT_PORT)),
            ("peer_addr", any(PEER_PORT)),
            ("http_addr", any(HTTP_PORT)),
        ]
    }

    /// The variables of what the operator decides or counts on, but the host, which is each pod's own. The server takes a
    /// variable before its file, and what `envFrom` brings nobody knows: what a container names itself comes before that.
    #[must_use]
    pub fn variables(&self) -> BTreeMap<String, String> {
        // Each as it is where nobody says anything.
        let never = [("init", "false"), ("bootstrap_expect", "0"), ("join", "[]")];
        let never = never.map(|(key, value)| (key, value.to_owned()));
        let counted = COUNTED.map(|counted| (counted.0, self.counted(counted).to_owned()));
        let all = self.own().into_iter().chain(never).chain(counted);
        all.map(|(key, value)| (variable(key), value)).collect()
    }

    /// The server's configuration file.
    #[must_use]
    pub fn yaml(&self) -> String {
        let mut tree = Map::new();
        let own = self.own().map(|(key, value)| (key.to_owned(), Value::from(value)));
        let mut all: BTreeMap<String, Value> = own.into();
        all.insert("log_format".to_owned(), Value::from("json"));
        all.extend(self.asked.clone());
        for (key, value) in all {
            match key.split_once('.') {
                Some((group, key)) => {
                    let group = tree.entry(group).or_insert_with(|| Value::Object(Map::new()));
                    if let Value::Object(group) = group {
                        group.insert(key.to_owned(), value);
                    }
                }
                None => {
                    tree.insert(key, value);
                }
            }
        }
        serde_yaml::to_string(&tree).expect("JSON has a YAML form")
    }
}

/// Levels become dots, except below a map whose keys are the user's.
fn flatten(key: &str, value: &Value, into: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(group) if SETTINGS.get(key) != Some(&Kind::Map) && !group.is_empty() => {
            for (name, value) in group {
                flatten(&format!("{key}.{name}"), value, into);
            }
        }
        value => {
            into.insert(key.to_owned(), value.clone());
        }
    }
}

fn check(key: &str, value: &Value) -> Result<(), String> {
    let kind = SETTINGS.get(key).ok_or("is no setting of the server")?;
    let text = value.as_str();
    let fits = match kind {
        Kind::Text => text.is_some(),
        Kind::Duration => text.is_some_and(|text| humantime::parse_duration(text).is_ok()),
        Kind::Size => {
            value.is_u64() || text.is_some_and(|text| text == "auto" || is_server_size(text))
        }
        Kind::Number => value.is_u64(),
        Kind::Flag => value.is_boolean(),
        Kind::List => value.as_array().is_some_and(|items| items.iter().all(Value::is_string)),
        Kind::Map => {
            value.as_object().is_some_and(|entries| entries.values().all(Value::is_string))
        }
        Kind::OneOf(words) => text.is_some_and(|text| words.iter().any(|word| word == text)),
    };
    if fits {
        return match (key, text) {
            ("log_level", Some(filter)) => telemetry::check_log_level(filter),
            _ => Ok(()),
        };
    }
    Err(match kind {
        Kind::Text => "must be a text".to_owned(),
        Kind::Duration => "must be a duration, such as 10s".to_owned(),
        Kind::Size => "must be a size, such as 64MiB".to_owned(),
        Kind::Number => "must be a whole number".to_owned(),
        Kind::Flag => "must be true or false".to_owned(),
        Kind::List => "must be a list of texts".to_owned(),
        Kind::Map => "must be a map of texts".to_owned(),
        Kind::OneOf(words) => format!("must be one of {}", words.join(", ")),
    })
}

fn is_server_size(text: &str) -> bool {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &text[digits.len()..];
    digits.trim().parse::<u64>().is_ok() && matches!(unit, "" | "B" | "KiB" | "MiB" | "GiB" | "TiB")
}

/// `256Mi`, as Kubernetes writes it, in the server's words.
fn server_size(text: &str) -> String {
    if text.ends_with("Ki") || text.ends_with("Mi") || text.ends_with("Gi") || text.ends_with("Ti")
    {
        format!("{text}B")
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings(spec: Value) -> Result<Settings, Vec<String>> {
        let mut whole = json!({"storage": {"size": "1Gi"}});
        for (key, value) in spec.as_object().expect("an object") {
            whole[key] = value.clone();
        }
        Settings::of(&serde_json::from_value(whole).expect("a spec"))
    }

    #[test]
    fn documentation_is_read_whole() {
        assert!(SETTINGS.len() > 50, "{}", SETTINGS.len());
        assert_eq!(SETTINGS["raft.heartbeat_interval"], Kind::Duration);
        assert_eq!(SETTINGS["labels"], Kind::Map);
        assert_eq!(SETTINGS["log_format"], Kind::OneOf(vec!["human".into(), "json".into()]));
        for key in RESERVED {
            assert!(SETTINGS.contains_key(key), "{key} is reserved, but is no setting");
        }
        for (key, default) in COUNTED {
            let row = format!("| `{key}` | `{default}` | duration |");
            assert!(DOCUMENTATION.contains(&row), "the server has another default: {row}");
        }
    }

    #[test]
    fn mistakes_are_all_told_at_once() {
        let config = json!({
            "raft": {"heartbeat_intervall": "1s", "election_timeout_min": "soon"},
            "data_dir": "/elsewhere",
            "storage.open_files_max": "many",
            "reads": {"lease_enabled": "yes"},
            "limits.value_bytes_max": "8 elephants",
        });
        let errors = settings(json!({ "config": config })).expect_err("mistakes");
        assert_eq!(errors.len(), 6, "{errors:#?}");
        for part in [
            "raft.heartbeat_intervall: is no setting",
            "raft.election_timeout_min: must be a duration",
            "data_dir: is set by the operator",
            "storage.open_files_max: must be a whole number",
            "reads.lease_enabled: must be true or false",
            "limits.value_bytes_max: must be a size",
        ] {
            assert!(errors.iter().any(|error| error.contains(part)), "{part}: {errors:#?}");
        }
    }

    #[test]
    fn file_has_what_was_asked_for_and_what_the_operator_decides() {
        let spec = json!({
            "placement": {"maxNodeDown": "2m"},
            "config": {"raft": {"heartbeat_interval": "200ms"}, "log_level": "debug",
                "labels": {"a.b/c": "d"}, "shutdown_grace": "7s"},
        });
        let settings = settings(spec).expect("valid");
        assert_eq!(settings.node_down_after_seconds(), 120);
        assert_eq!(settings.shutdown_grace_seconds(), 7);
        let file: Value = serde_yaml::from_str(&settings.yaml()).expect("YAML");
        assert_eq!(
            file,
            json!({
                "client_addr": "0.0.0.0:7420",
                "data_dir": "/var/lib/flotilla",
                "http_addr": "0.0.0.0:7422",
                "labels": {"a.b/c": "d"},
                "log_format": "json",
                "log_level": "debug",
                "peer_addr": "0.0.0.0:7421",
                "placement": {"node_down_after": "2m"},
                "raft": {"heartbeat_interval": "200ms"},
                "shutdown_grace": "7s",
            })
        );
    }

    #[test]
    fn variable_of_all_that_the_operator_decides_or_counts_on_is_set() {
        let variables = |spec| settings(spec).expect("valid").variables();
        let mut set: Vec<_> = variables(json!({})).into_keys().collect();
        set.push("FLOTILLA_ADVERTISE_HOST".to_owned());
        let counted = COUNTED.iter().map(|(key, _)| key);
        let mut ours: Vec<_> = RESERVED.iter().chain(counted).map(|key| variable(key)).collect();
        set.sort();
        ours.sort();
        assert_eq!(set, ours, "else `envFrom` could bring it");
        for (why, spec, name, want) in [
            ("the disk", json!({}), DATA_DIR_VARIABLE, DATA_DIR),
            ("an address", json!({}), "FLOTILLA_PEER_ADDR", "0.0.0.0:7421"),
            ("how long it stops", json!({}), "FLOTILLA_SHUTDOWN_GRACE", "20s"),
            (
                "as it was asked for",
                json!({"config": {"shutdown_grace": "7s"}}),
                "FLOTILLA_SHUTDOWN_GRACE",
                "7s",
            ),
            (
                "by its field",
                json!({"placement": {"maxNodeDown": "2m"}}),
                "FLOTILLA_PLACEMENT__NODE_DOWN_AFTER",
                "2m",
            ),
        ] {
            assert_eq!(variables(spec)[name], want, "{why}");
        }
    }

    #[test]
    fn nodes_listen_on_version_6_where_it_was_asked_for() {
        let addresses = |spec| settings(spec).expect("valid").yaml().matches("[::]:").count();
        assert_eq!(addresses(json!({})), 0);
        assert_eq!(addresses(json!({"service": {"ipFamilies": ["IPv4"]}})), 0);
        assert_eq!(addresses(json!({"service": {"ipFamilies": ["IPv4", "IPv6"]}})), 3);
    }
}
