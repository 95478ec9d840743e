//! From several sources to one [`Config`]: default, then file, then environment, then flags.
//!
//! Every source is cut into single settings, and each is tried on its own against a configuration
//! that is known to be readable. A bad one is reported and left out, so that the next is still
//! looked at: that is how all mistakes are found in one go.

use std::fmt;

use serde::{Deserializer, de};
use serde_yaml::{Mapping, Value};

use super::Config;
use crate::settings::check::ConfigError;

/// Start of the variables that are settings: `FLOTILLA_RAFT__HEARTBEAT_INTERVAL` is
/// `raft.heartbeat_interval`.
pub(super) const PREFIX: &str = "FLOTILLA_";
/// Names the configuration file where `--config` does not.
pub(super) const CONFIG_VARIABLE: &str = "FLOTILLA_CONFIG";
/// Variables with our prefix that are no settings of a node: this program's, and kvctl's.
const OTHER_VARIABLES: [&str; 5] = [
    CONFIG_VARIABLE,
    "FLOTILLA_ENDPOINTS",
    "FLOTILLA_OUTPUT",
    "FLOTILLA_TIMEOUT",
    "FLOTILLA_KEYSPACE",
];
/// A map whose keys are the user's: what follows the first dot is one key, dots and all.
const FREE_MAP: &str = "labels";

/// A setting that was given as text, by a flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) key: String,
    pub(super) text: String,
    /// The flag, as typed.
    pub(super) origin: String,
}

/// The configuration that the sources describe. Adds to `errors` whatever is not a setting, or not
/// a value of it; those settings keep the value of the weaker source.
pub(super) fn merge(
    file: Option<(&str, &str)>,
    environment: &[(String, String)],
    flags: &[Setting],
    errors: &mut Vec<ConfigError>,
) -> Config {
    let mut layers = Layers::new(errors);
    if let Some((name, text)) = file {
        let origin = format!("file {name}");
        match serde_yaml::from_str::<Value>(text) {
            Ok(value) => layers.file(&mut Vec::new(), value, &origin),
            Err(error) => layers.errors.push(ConfigError::new(origin, error.to_string())),
        }
    }
    for (name, text) in environment {
        layers.variable(name, text);
    }
    for setting in flags {
        layers.text(&setting.key, &setting.text, &setting.origin);
    }
    serde_yaml::from_value(layers.tree).expect("each setting was tried when it was put in")
}

/// All keys of settings, in the order of the documentation, and the default of each.
pub(super) fn defaults() -> Vec<(String, Value)> {
    fn walk(path: &mut Vec<String>, value: Value, found: &mut Vec<(String, Value)>) {
        match value {
            Value::Mapping(group) if !group.is_empty() => {
                for (key, value) in group {
                    path.push(key.as_str().expect("keys are field names").to_owned());
                    walk(path, value, found);
                    path.pop();
                }
            }
            value => found.push((path.join("."), value)),
        }
    }
    let mut found = Vec::new();
    walk(&mut Vec::new(), tree(), &mut found);
    found
}

/// The variables with our prefix that are neither settings nor known to belong to somebody else: they have
/// no effect, which is worth a word.
pub(super) fn strays<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut errors = Vec::new();
    let layers = Layers::new(&mut errors);
    let label = variable_name(FREE_MAP) + "__";
    let is_stray = |name: &&str| {
        let is_known = OTHER_VARIABLES.contains(name)
            || is_service_link(name)
            || name.starts_with(&label)
            || layers.known.iter().any(|key| variable_name(key) == *name);
        name.starts_with(PREFIX) && !is_known && layers.is_stray(name)
    };
    names.into_iter().filter(is_stray).collect()
}

/// The setting that a variable's name would be the one of.
fn variable_key(name: &str) -> String {
    name.strip_prefix(PREFIX).unwrap_or(name).to_lowercase().replace("__", ".")
}

/// Name of the variable of a setting.
pub(super) fn variable_name(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_uppercase())
}

fn tree() -> Value {
    serde_yaml::to_value(Config::default()).expect("every setting has a YAML form")
}

struct Layers<'a> {
    /// Invariant: reads as a [`Config`].
    tree: Value,
    known: Vec<String>,
    errors: &'a mut Vec<ConfigError>,
}

impl<'a> Layers<'a> {
    fn new(errors: &'a mut Vec<ConfigError>) -> Self {
        let known = defaults().into_iter().map(|(key, _)| key).collect();
        Self { tree: tree(), known, errors }
    }

    fn file(&mut self, path: &mut Vec<String>, value: Value, origin: &str) {
        let key = path.join(".");
        match value {
            Value::Mapping(group) if self.is_group(&key) => {
                for (name, value) in group {
                    let name = match name {
                        Value::String(name) => name,
                        other => {
                            serde_yaml::to_string(&other).unwrap_or_default().trim().to_owned()
                        }
                    };
                    path.push(name);
                    self.file(path, value, origin);
                    path.pop();
                }
            }
            // A heading with nothing (or only comments) below it.
            Value::Null if self.is_group(&key) => {}
            _ if self.is_group(&key) => {
                let shown = if key.is_empty() { "the file".to_owned() } else { key };
                let error = ConfigError::new(shown, "is a group of settings, not a value");
                self.errors.push(error.with_origin(origin));
            }
            value => self.put(&key, vec![value], origin),
        }
    }

    fn variable(&mut self, name: &str, text: &str) {
        if !name.starts_with(PREFIX) || OTHER_VARIABLES.contains(&name) || is_service_link(name) {
            return;
        }
        let label = variable_name(FREE_MAP) + "__";
        let key = match name.strip_prefix(&label) {
            Some(label) => Some(format!("{FREE_MAP}.{}", label.to_lowercase())),
            None => self.known.iter().find(|key| variable_name(key) == *name).cloned(),
        };
        match key {
            Some(key) => self.text(&key, text, &format!("variable {name}")),
            None if self.is_stray(name) => {}
            None => self.unknown(&variable_key(name), &format!("variable {name}")),
        }
    }

    /// Whether a variable that is no setting is not a misspelt one either, but another program's that has
    /// our prefix too: it names no group, and resembles no setting.
    fn is_stray(&self, name: &str) -> bool {
        let key = variable_key(name);
        !key.contains('.') && !self.is_group(&key) && self.nearest(&key).is_none()
    }

    /// A value that was typed: what YAML makes of it, or else the very text.
    fn text(&mut self, key: &str, text: &str, origin: &str) {
        let as_text = Value::String(text.to_owned());
        let values = match serde_yaml::from_str::<Value>(text) {
            Ok(value) if value != as_text => vec![value, as_text],
            _ => vec![as_text],
        };
        self.put(key, values, origin);
    }

    /// Sets `key` to the first of `values` that fits it.
    fn put(&mut self, key: &str, values: Vec<Value>, origin: &str) {
        let label = key.strip_prefix(FREE_MAP).and_then(|rest| rest.strip_prefix('.'));
        let path: Vec<&str> = match label {
            Some(label) => vec![FREE_MAP, label],
            None if self.known.iter().any(|known| known == key) => key.split('.').collect(),
            None if self.is_group(key) => {
                let error = ConfigError::new(key, "is a group of settings, not a value");
                return self.errors.push(error.with_origin(origin));
            }
            None => return self.unknown(key, origin),
        };
        let mut problem = None;
        for value in values {
            let mut tree = self.tree.clone();
            *slot(&mut tree, &path) = value;
            match serde_yaml::from_value::<Config>(tree.clone()) {
                Ok(config) => {
                    // Written back by us, a label map is a map again, also if it came as text.
                    self.tree = serde_yaml::to_value(config).unwrap_or(tree);
                    return;
                }
                Err(error) => problem = problem.or_else(|| Some(error.to_string())),
            }
        }
        let problem = problem.unwrap_or_default();
        let problem = problem.strip_prefix(&format!("{key}: ")).unwrap_or(&problem);
        self.errors.push(ConfigError::new(key, problem).with_origin(origin));
    }

    /// The setting that `key` is a misspelling of, as far as one can tell.
    fn nearest(&self, key: &str) -> Option<&String> {
        let distances =
            self.known.iter().map(|known| (strsim::damerau_levenshtein(known, key), known));
        // Further away it is no misspelling but a guess.
        let is_near = |(distance, known): &(usize, &String)| *distance <= 1 + known.len() / 4;
        distances.min().filter(is_near).map(|(_, nearest)| nearest)
    }

    fn unknown(&mut self, key: &str, origin: &str) {
        let problem = match self.nearest(key) {
            Some(nearest) => format!("no such setting; did you mean {nearest}?"),
            None => "no such setting".to_owned(),
        };
        self.errors.push(ConfigError::new(key, problem).with_origin(origin));
    }

    fn is_group(&self, key: &str) -> bool {
        key.is_empty()
            || self
                .known
                .iter()
                .any(|known| known.strip_prefix(key).is_some_and(|rest| rest.starts_with('.')))
    }
}

/// The place of `path` in `tree`, made if it is not there.
fn slot<'a>(tree: &'a mut Value, path: &[&str]) -> &'a mut Value {
    path.iter().fold(tree, |node, name| {
        if !node.is_mapping() {
            *node = Value::Mapping(Mapping::new());
        }
        node.as_mapping_mut()
            .expect("made a mapping above")
            .entry(Value::String((*name).to_owned()))
            .or_insert(Value::Null)
    })
}

/// Kubernetes puts `FLOTILLA_SERVICE_HOST`, `FLOTILLA_PORT_7420_TCP` and the like into every pod
/// beside a service named `flotilla` or `flotilla-…`.
fn is_service_link(name: &str) -> bool {
    let after_port = |rest: &str| {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (port, rest) = rest.split_at(digits);
        !port.is_empty() && ["_TCP", "_UDP", "_SCTP"].iter().any(|kind| rest.starts_with(kind))
    };
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_PORT")
        || name.contains("_SERVICE_PORT_")
        || name.rsplit_once("_PORT_").is_some_and(|(_, rest)| after_port(rest))
        || name.split("_PORT_").skip(1).any(after_port)
}

/// A list in YAML, or texts separated by commas.
pub(super) fn list_or_text<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<String>, D::Error> {
    struct Visitor;

    impl<'de> de::Visitor<'de> for Visitor {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of texts, or texts separated by commas")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Ok(items.map(ToOwned::to_owned).collect())
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
            let mut list = Vec::new();
            while let Some(item) = items.next_element()? {
                list.push(item);
            }
            Ok(list)
        }
    }

    deserializer.deserialize_any(Visitor)
}
