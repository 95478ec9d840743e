//! What a file says and no definition knows: a misspelt field would silently be none.

use kube::CustomResourceExt as _;
use serde_json::Value;

use super::spec::KvCluster;

/// Paths of the fields of a KvCluster's spec that are not in its definition.
#[must_use]
pub fn unknown_fields(object: &Value) -> Vec<String> {
    let definition = serde_json::to_value(KvCluster::crd()).expect("a definition has a JSON form");
    let path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";
    let schema = definition.pointer(path).expect("the definition says what a spec is");
    let mut found = Vec::new();
    collect(".spec", &object["spec"], schema, &mut found);
    found
}

fn collect(path: &str, value: &Value, schema: &Value, found: &mut Vec<String>) {
    if schema["x-kubernetes-preserve-unknown-fields"] == true {
        return;
    }
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = format!("{path}.{name}");
                let of_all = Some(&schema["additionalProperties"]).filter(|all| all.is_object());
                match schema["properties"].get(name).or(of_all) {
                    Some(schema) => collect(&path, value, schema, found),
                    None => found.push(path),
                }
            }
        }
        Value::Array(items) => {
            for (number, item) in items.iter().enumerate() {
                collect(&format!("{path}[{number}]"), item, &schema["items"], found);
            }
        }
        // Of the wrong type perhaps: that is found where it is read.
        _ => {}
    }
}
