//! `docs/configuration.md`, made from the settings themselves.

use std::fmt::Write as _;

use schemars::schema_for;
use serde_json::Value as Json;
use serde_yaml::Value;

use super::{Config, layers};

const OPENING: &str = "\
# Configuration

<!-- Made by `flotilla-server config docs`; a test fails when it is not current. -->

A node reads its settings once, at start, from four sources; the later wins:

1. the defaults below,
2. a YAML file: `--config FILE`, or the variable `FLOTILLA_CONFIG`,
3. the environment: `FLOTILLA_` and the key in capitals, with two underscores for a dot, as in
   `FLOTILLA_RAFT__HEARTBEAT_INTERVAL=200ms`,
4. flags: those of `flotilla-server --help`, and `--set key=value` for every key, as in
   `--set raft.heartbeat_interval=200ms`.

In the file a dot is a level:

```yaml
data_dir: /var/lib/flotilla
labels:
  zone: a
raft:
  heartbeat_interval: 200ms
```

A key that does not exist is an error, and so is a value out of range; a start reports all mistakes
at once and exits with code 64. `flotilla-server config print` shows what a start would use,
`flotilla-server config check` what is wrong with it. The variable `RUST_LOG` wins over `log_level`.
Variables that Kubernetes makes for services (`FLOTILLA_SERVICE_HOST` and the like) are not settings
and are passed over. So is any other that names no group and resembles no setting; the log says so.

A *duration* has its unit: `500ms`, `3s`, `10m`, `1h`. A *size* is in bytes, or has a unit: `512KiB`,
`64MiB`, `1GiB`.
";

/// All settings: key, default, kind and meaning.
#[must_use]
pub fn markdown() -> String {
    let schema = schema_for!(Config).to_value();
    let mut text = OPENING.to_owned();
    let mut section = None;
    for (key, default) in layers::defaults() {
        let group = key.split_once('.').map_or("", |(group, _)| group);
        if section.as_deref() != Some(group) {
            section = Some(group.to_owned());
            heading(&mut text, group, &schema);
        }
        let field = lookup(&schema, &key);
        let _ = writeln!(
            text,
            "| `{key}` | {} | {} | {} |",
            shown(&default),
            kind(&schema, field),
            meaning(field).replace('|', "\\|")
        );
    }
    text
}

fn heading(text: &mut String, group: &str, schema: &Json) {
    let (title, about) = if group.is_empty() {
        ("The node".to_owned(), "Who this node is and where it listens.".to_owned())
    } else {
        let about = meaning(resolve(schema, lookup(schema, group)));
        (format!("`{group}`"), about)
    };
    let _ = write!(
        text,
        "\n## {title}\n\n{about}\n\n| key | default | kind | meaning |\n|---|---|---|---|\n"
    );
}

/// The schema of a field, with its own description.
fn lookup<'a>(schema: &'a Json, key: &str) -> &'a Json {
    key.split('.').fold(schema, |node, name| &resolve(schema, node)["properties"][name])
}

/// What `$ref` points to, or `node`.
fn resolve<'a>(schema: &'a Json, node: &'a Json) -> &'a Json {
    let name = node["$ref"].as_str().and_then(|path| path.strip_prefix("#/$defs/"));
    name.map_or(node, |name| &schema["$defs"][name])
}

/// The doc comment, on one line.
fn meaning(node: &Json) -> String {
    let text = node["description"].as_str().unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn kind(schema: &Json, field: &Json) -> String {
    let field = resolve(schema, field);
    match field["format"].as_str() {
        Some("bytes") => return "size".to_owned(),
        Some("duration") => return "duration".to_owned(),
        _ => {}
    }
    let names = field["oneOf"].as_array().or_else(|| field["enum"].as_array());
    if let Some(names) = names {
        let name =
            |one: &Json| one["const"].as_str().or(one.as_str()).map(|one| format!("`{one}`"));
        return names.iter().filter_map(name).collect::<Vec<_>>().join(", ");
    }
    let name = match &field["type"] {
        Json::Array(kinds) => kinds.first().and_then(Json::as_str),
        kind => kind.as_str(),
    };
    match name {
        Some("boolean") => "true, false",
        Some("integer" | "number") => "number",
        Some("array") => "list",
        Some("object") => "map",
        _ => "text",
    }
    .to_owned()
}

fn shown(default: &Value) -> String {
    let text = match default {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::Sequence(_) | Value::Mapping(_) | Value::Tagged(_) => String::new(),
    };
    if text.is_empty() { "–".to_owned() } else { format!("`{text}`") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_says_what_it_means() {
        let schema = schema_for!(Config).to_value();
        for (key, _) in layers::defaults() {
            assert!(!meaning(lookup(&schema, &key)).is_empty(), "{key} has no description");
        }
    }

    #[test]
    fn committed_documentation_is_current() {
        // Cargo runs tests in the folder of their package, wherever they were compiled.
        let path = "../docs/configuration.md";
        let committed = std::fs::read_to_string(path).expect("docs/configuration.md is there");
        assert!(
            committed == markdown(),
            "docs/configuration.md is not current; `make fix` writes it anew"
        );
    }
}
