//! Labels of a node: a map in YAML, `key=value,key=value` in the environment and on the command
//! line.

use std::{collections::BTreeMap, fmt};

use crate::settings::check::ConfigError;
use serde::{Deserializer, de};

/// Bound: more labels than this are refused at start; they travel in every node heartbeat.
const LABELS_MAX: usize = 32;
/// Bound: longer keys and values are refused, as Kubernetes does.
const LABEL_BYTES_MAX: usize = 63;

pub(super) fn parse(text: &str) -> Result<BTreeMap<String, String>, String> {
    text.split(',')
        .map(str::trim)
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) =
                pair.split_once('=').ok_or_else(|| format!("{pair:?} is not KEY=VALUE"))?;
            Ok((key.trim().to_owned(), value.trim().to_owned()))
        })
        .collect()
}

pub(super) fn map_or_text<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    struct Visitor;

    impl<'de> de::Visitor<'de> for Visitor {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map of texts, or key=value,key=value")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            parse(text).map_err(E::custom)
        }

        fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut labels = BTreeMap::new();
            while let Some((key, value)) = map.next_entry()? {
                labels.insert(key, value);
            }
            Ok(labels)
        }
    }

    deserializer.deserialize_any(Visitor)
}

pub(super) fn check(labels: &BTreeMap<String, String>, errors: &mut Vec<ConfigError>) {
    if labels.len() > LABELS_MAX {
        let problem = format!("has {} labels, the most is {LABELS_MAX}", labels.len());
        errors.push(ConfigError::new("labels", problem));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    for (key, value) in labels {
        if key.is_empty() || !key.chars().all(plain) || !value.chars().all(plain) {
            let problem = format!(
                "{key:?}={value:?}: keys and values are made of letters, digits and - _ . /, and a \
                 key is not empty"
            );
            errors.push(ConfigError::new("labels", problem));
        }
        if key.len() > LABEL_BYTES_MAX || value.len() > LABEL_BYTES_MAX {
            let problem = format!("{key:?}: longer than {LABEL_BYTES_MAX} bytes");
            errors.push(ConfigError::new("labels", problem));
        }
    }
}
