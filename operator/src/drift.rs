//! Whether an object in Kubernetes still says what we applied.
//!
//! Kubernetes adds defaults and other controllers add fields, so an object is never equal to what was
//! sent. What counts is that everything that was sent is still there; and in lists and selectors, that nothing was
//! put beside it. A steady cluster is then read and never written.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::Value;

/// How an object differs, and the path at which it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Drift {
    /// Applying what we want mends it.
    Differs(String),
    /// Somebody else's item is in a list or a selector of ours; only replacing the object removes it.
    HasMore(String),
}

impl Drift {
    #[must_use]
    pub fn path(&self) -> &str {
        match self {
            Self::Differs(path) | Self::HasMore(path) => path,
        }
    }
}

/// One difference, and what is there instead: nothing, another value, or the items that were added.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    pub drift: Drift,
    pub there: Value,
}

/// Keys below which texts are amounts, which Kubernetes rewrites: `1024Mi` as `1Gi`.
const AMOUNTS: [&str; 3] = ["requests", "limits", "sizeLimit"];

/// What the names of selectors end with. One label more and a Service, a budget or a policy is of no pod at all.
const SELECTOR: &str = "elector";

/// Lists of ours that the API server or a distribution of Kubernetes adds to: each ServiceAccount is given the
/// secret of a registry, and a Service of two families the one that it was not asked to have.
const ADDED_TO: [&str; 2] = [".imagePullSecrets", ".spec.ipFamilies"];

/// Compares what we want with what there is; `None` when all of it is there.
#[must_use]
pub fn drift(want: &Value, live: &Value) -> Option<Drift> {
    differences(want, live).into_iter().next().map(|difference| difference.drift)
}

/// All that differs; what was put beside ours comes last.
#[must_use]
pub fn differences(want: &Value, live: &Value) -> Vec<Difference> {
    let (mut all, mut more) = (Vec::new(), Vec::new());
    walk("", want, live, false, &mut all, &mut more);
    all.append(&mut more);
    all
}

fn walk(
    path: &str,
    want: &Value,
    live: &Value,
    amount: bool,
    all: &mut Vec<Difference>,
    more: &mut Vec<Difference>,
) {
    let differs = |path: &str, there: &Value| Difference {
        drift: Drift::Differs(path.to_owned()),
        there: there.clone(),
    };
    match (want, live) {
        (Value::Object(want), Value::Object(live)) => {
            if is_of_selector(path) {
                let added =
                    live.iter().filter(|(key, item)| !want.contains_key(*key) && !is_empty(item));
                let added: serde_json::Map<_, _> =
                    added.map(|(key, item)| (key.clone(), item.clone())).collect();
                if !added.is_empty() {
                    let drift = Drift::HasMore(path.to_owned());
                    more.push(Difference { drift, there: Value::Object(added) });
                }
            }
            for (key, value) in want {
                let path = format!("{path}.{key}");
                let amount = amount || AMOUNTS.contains(&key.as_str());
                match live.get(key) {
                    Some(live) => walk(&path, value, live, amount, all, more),
                    // An empty one is left out by Kubernetes.
                    None if is_empty(value) => {}
                    None => all.push(differs(&path, &Value::Null)),
                }
            }
        }
        (Value::Array(want), Value::Array(live)) => {
            let named = !want.is_empty() && want.iter().all(|item| item["name"].is_string());
            for (index, item) in want.iter().enumerate() {
                let (path, found) = if named {
                    let name = &item["name"];
                    (format!("{path}[{name}]"), live.iter().find(|live| live["name"] == *name))
                } else {
                    (format!("{path}[{index}]"), live.get(index))
                };
                match found {
                    Some(found) => walk(&path, item, found, amount, all, more),
                    None => all.push(differs(&path, &Value::Null)),
                }
            }
            let others_may_add = path.starts_with(".metadata") || ADDED_TO.contains(&path);
            if live.len() > want.len() && !others_may_add {
                let added = live.iter().enumerate().filter(|(index, item)| {
                    if named {
                        want.iter().all(|wanted| wanted["name"] != item["name"])
                    } else {
                        *index >= want.len()
                    }
                });
                more.push(Difference {
                    drift: Drift::HasMore(path.to_owned()),
                    there: added.map(|(_, item)| item.clone()).collect(),
                });
            }
        }
        (Value::Number(want), Value::String(live)) if amount => {
            if !same_amount(&want.to_string(), live) {
                all.push(differs(path, &Value::String(live.clone())));
            }
        }
        (Value::String(want), Value::String(live)) if amount && want != live => {
            if !same_amount(want, live) {
                all.push(differs(path, &Value::String(live.clone())));
            }
        }
        (want, live) if want == live => {}
        (_, live) => all.push(differs(path, live)),
    }
}

/// A selector, or a part of one.
fn is_of_selector(path: &str) -> bool {
    path.split('.').any(|field| field.ends_with(SELECTOR))
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

fn same_amount(one: &str, other: &str) -> bool {
    match (amount(one), amount(other)) {
        (Some(one), Some(other)) => one == other,
        _ => false,
    }
}

/// The amount of a quantity, in thousandths; `None` for what is none. Fractions of a thousandth are
/// rounded up, as Kubernetes does.
#[must_use]
pub fn amount(text: &str) -> Option<i128> {
    let text = text.trim();
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '+' || c == '-'));
    let (number, unit) = text.split_at(split.unwrap_or(text.len()));
    let (numerator, denominator): (i128, i128) = match unit {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1_000),
        "k" => (1_000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            let scale = 10_i128.checked_pow(power.unsigned_abs())?;
            if power < 0 { (1, scale) } else { (scale, 1) }
        }
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.len() > 12 || !fraction.chars().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let scale = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let top = digits.checked_mul(numerator)?.checked_mul(1_000)?;
    let bottom = scale * denominator;
    Some(top.div_euclid(bottom) + i128::from(top.rem_euclid(bottom) != 0))
}

/// Whether `one` is a larger amount than `other`; false when one of them is none.
#[must_use]
pub fn is_larger(one: &str, other: &Quantity) -> bool {
    amount(one).zip(amount(&other.0)).is_some_and(|(one, other)| one > other)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_was_sent_counts() {
        let want = json!({"spec": {"replicas": 3, "template": {"containers": [
            {"name": "a", "resources": {"limits": {"memory": "1024Mi", "cpu": "0.5"}}}]}},
            "metadata": {"labels": {"x": "y"}}});
        let changed = |path: &str, value: Value| {
            let mut live = want.clone();
            *live.pointer_mut(path).expect("a path") = value;
            live
        };
        let with = |path: &str, key: &str, value: Value| {
            let mut live = want.clone();
            live.pointer_mut(path).expect("a path")[key] = value;
            live
        };
        for (why, live, clean) in [
            ("the same", want.clone(), true),
            ("a default was added", with("/spec", "revisionHistoryLimit", json!(10)), true),
            ("a label was added", with("/metadata/labels", "z", json!("")), true),
            (
                "an amount was rewritten",
                changed(
                    "/spec/template/containers/0/resources/limits",
                    json!({"memory": "1Gi", "cpu": "500m"}),
                ),
                true,
            ),
            ("another number", changed("/spec/replicas", json!(4)), false),
            (
                "another amount",
                changed(
                    "/spec/template/containers/0/resources/limits",
                    json!({"memory": "2Gi", "cpu": "500m"}),
                ),
                false,
            ),
            ("a label was removed", changed("/metadata/labels", json!({})), false),
            (
                "another container",
                changed("/spec/template/containers", json!([{"name": "b"}])),
                false,
            ),
        ] {
            assert_eq!(drift(&want, &live).is_none(), clean, "{why}: {:?}", drift(&want, &live));
        }
    }

    #[test]
    fn items_that_were_put_beside_ours_are_told_apart() {
        let want = json!({"env": [{"name": "a"}], "args": ["x"]});
        let beside = json!({"env": [{"name": "b"}, {"name": "a"}], "args": ["x"]});
        assert_eq!(drift(&want, &beside), Some(Drift::HasMore(".env".to_owned())));
        let both = json!({"env": [{"name": "b"}, {"name": "a"}], "args": ["y"]});
        assert_eq!(drift(&want, &both), Some(Drift::Differs(".args[0]".to_owned())));
        assert_eq!(drift(&json!({"args": []}), &json!({})), None, "empty lists are not kept");
        let there: Vec<Value> =
            differences(&want, &both).into_iter().map(|difference| difference.there).collect();
        assert_eq!(there, [json!("y"), json!([{"name": "b"}])], "all of them, with what is there");
    }

    #[test]
    fn label_that_was_put_into_a_selector_of_ours_is_found() {
        for (why, want, live, path) in [
            ("a Service's", json!({"a": "b"}), json!({"a": "b", "x": "y"}), Some(".spec.selector")),
            (
                "a budget's",
                json!({"matchLabels": {"a": "b"}}),
                json!({"matchLabels": {"a": "b", "x": "y"}}),
                Some(".spec.selector.matchLabels"),
            ),
            (
                "an expression",
                json!({"matchLabels": {"a": "b"}}),
                json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "x"}]}),
                Some(".spec.selector"),
            ),
            (
                "nothing",
                json!({"matchLabels": {"a": "b"}}),
                json!({"matchLabels": {"a": "b"}, "matchExpressions": []}),
                None,
            ),
        ] {
            let object = |selector: Value| json!({"spec": {"selector": selector}});
            let found = drift(&object(want), &object(live));
            assert_eq!(found, path.map(|path| Drift::HasMore(path.to_owned())), "{why}");
        }
        let template =
            |labels: Value| json!({"spec": {"nodeSelector": labels, "affinity": labels}});
        let found = differences(&template(json!({})), &template(json!({"disk": "fast"})));
        let found: Vec<&str> = found.iter().map(|found| found.drift.path()).collect();
        assert_eq!(found, [".spec.nodeSelector"], "only where it is one");
    }

    #[test]
    fn amounts_are_read_as_kubernetes_writes_them() {
        for (text, want) in [
            ("1", Some(1_000)),
            ("500m", Some(500)),
            ("0.5", Some(500)),
            ("1Ki", Some(1_024_000)),
            ("10Gi", Some(10 * 1_073_741_824 * 1_000)),
            ("1e3", Some(1_000_000)),
            ("1n", Some(1)),
            ("1.5Gi", Some(1_610_612_736_000)),
            ("much", None),
            ("", None),
            ("1.2.3", None),
        ] {
            assert_eq!(amount(text), want, "{text}");
        }
        assert!(is_larger("2Gi", &Quantity("2047Mi".into())));
        assert!(!is_larger("2Gi", &Quantity("2048Mi".into())));
    }
}
