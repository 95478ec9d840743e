//! Against an API server of one ConfigMap, which keeps to what was tried on Kubernetes 1.34: versions and uids
//! are compared, and an apply takes away what it no longer sends and nobody else owns.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axum::{
    Router,
    body::Bytes,
    extract::{Query, State},
    http::{HeaderMap, Method, StatusCode},
    response::Json,
};
use kube::{Client, core::ApiResource};
use parking_lot::Mutex;

use super::*;
use crate::api_server::tests::failure;

const STRANGER: &str = "somebody";

/// Who owns a key of `data`: manager and operation.
type Owners = BTreeMap<(String, String), BTreeSet<String>>;

#[derive(Default)]
struct Store {
    data: Option<BTreeMap<String, Value>>,
    owners: Owners,
    version: u64,
    writes: usize,
}

impl Store {
    fn object(&self) -> Value {
        let entries = self.owners.iter().map(|((manager, operation), keys)| {
            let keys: Map<_, _> = keys.iter().map(|key| (format!("f:{key}"), json!({}))).collect();
            json!({"manager": manager, "operation": operation, "apiVersion": "v1",
                "fieldsType": "FieldsV1", "fieldsV1": {"f:data": keys}})
        });
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "kv", "uid": "u", "resourceVersion": self.version.to_string(),
                "managedFields": entries.collect::<Vec<_>>()},
            "data": self.data,
        })
    }

    fn answer(
        &mut self,
        method: &Method,
        kind: &str,
        manager: &str,
        sent: &Value,
    ) -> (StatusCode, Value) {
        let refused = |code: StatusCode| {
            let (code, Json(status)) = failure(code);
            (code, status)
        };
        if *method == Method::GET {
            return match &self.data {
                Some(_) => (StatusCode::OK, self.object()),
                None => refused(StatusCode::NOT_FOUND),
            };
        }
        let is_apply = kind.contains("apply-patch");
        let version = sent["metadata"]["resourceVersion"].as_str();
        let uid = sent["metadata"]["uid"].as_str();
        let there = self.data.is_some();
        if there && version.is_some_and(|version| version != self.version.to_string())
            || !there && uid.is_some()
        {
            return refused(StatusCode::CONFLICT);
        }
        if !there && !is_apply {
            return refused(StatusCode::NOT_FOUND);
        }
        self.writes += 1;
        // Objects have versions above the one that the store began with.
        self.version = self.version.max(1) + 1;
        if let Some(entries) = sent["metadata"]["managedFields"].as_array() {
            self.owners = entries.iter().map(read_entry).collect();
        }
        let Some(keys) = sent["data"].as_object() else { return (StatusCode::OK, self.object()) };
        let mut data = self.data.take().unwrap_or_default();
        let operation = if is_apply { APPLY } else { UPDATE };
        let owner = (manager.to_owned(), operation.to_owned());
        let names: BTreeSet<String> = keys.keys().cloned().collect();
        if is_apply {
            let before = self.owners.insert(owner, names.clone()).unwrap_or_default();
            for gone in before.difference(&names) {
                if !self.owners.values().any(|owned| owned.contains(gone)) {
                    data.remove(gone);
                }
            }
        } else {
            let changed = keys.iter().filter(|(key, value)| data.get(*key) != Some(*value));
            let changed: BTreeSet<String> = changed.map(|(key, _)| key.clone()).collect();
            for owned in self.owners.values_mut() {
                owned.retain(|key| !changed.contains(key));
            }
            self.owners.entry(owner).or_default().extend(changed);
            if *method == Method::PUT {
                data.retain(|key, _| names.contains(key));
            }
        }
        data.extend(keys.iter().map(|(key, value)| (key.clone(), value.clone())));
        for owned in self.owners.values_mut() {
            owned.retain(|key| data.contains_key(key));
        }
        self.owners.retain(|_, owned| !owned.is_empty());
        self.data = Some(data);
        (StatusCode::OK, self.object())
    }
}

fn read_entry(entry: &Value) -> ((String, String), BTreeSet<String>) {
    let text = |field: &str| entry[field].as_str().expect("a text").to_owned();
    let keys = entry["fieldsV1"]["f:data"].as_object().expect("fields");
    let keys = keys.keys().map(|key| key.trim_start_matches("f:").to_owned());
    ((text("manager"), text("operation")), keys.collect())
}

async fn serve(
    State(store): State<Arc<Mutex<Store>>>,
    method: Method,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, Json<Value>) {
    let kind = headers.get("content-type").map_or("", |kind| kind.to_str().expect("a text"));
    let sent = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let manager = query.get("fieldManager").cloned().unwrap_or_default();
    let (code, answer) = store.lock().answer(&method, kind, &manager, &sent);
    (code, Json(answer))
}

fn server() -> (Api<DynamicObject>, Arc<Mutex<Store>>) {
    let store = Arc::new(Mutex::new(Store::default()));
    let router = Router::new().fallback(serve).with_state(store.clone());
    let gvk = kube::core::GroupVersionKind::gvk("", "v1", "ConfigMap");
    let resource = ApiResource::from_gvk_with_plural(&gvk, "configmaps");
    (Api::namespaced_with(Client::new(router, "ns"), "ns", &resource), store)
}

fn config_map(seen: Option<&Value>, data: Value) -> Value {
    let mut object = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "kv", "namespace": "ns"}, "data": data});
    for field in ["uid", "resourceVersion"] {
        if let Some(seen) = seen {
            object["metadata"][field] = seen["metadata"][field].clone();
        }
    }
    object
}

/// Somebody's server-side apply or PATCH.
fn stranger(store: &Mutex<Store>, kind: &str, data: &Value) {
    let sent = json!({"metadata": {"name": "kv"}, "data": data});
    let (code, _) = store.lock().answer(&Method::PATCH, kind, STRANGER, &sent);
    assert_eq!(code, StatusCode::OK);
}

fn owners(store: &Mutex<Store>) -> Vec<(String, String)> {
    store.lock().owners.keys().cloned().collect()
}

fn owner(manager: &str, operation: &str) -> (String, String) {
    (manager.to_owned(), operation.to_owned())
}

#[tokio::test]
async fn what_is_no_longer_sent_goes_although_we_put_it_back_otherwise() {
    let (api, store) = server();
    apply(&api, "apply", &config_map(None, json!({"a": "1", "b": "1"}))).await.expect("made");
    stranger(&store, "application/merge-patch+json", &json!({"b": "x", "theirs": "1"}));
    // As an operator did that knew no better, or one that ended in the middle.
    let whole = json!({"a": "1", "b": "1", "theirs": "1"});
    let (code, seen) = {
        let mut store = store.lock();
        let sent = config_map(Some(&store.object()), whole);
        store.answer(&Method::PUT, "application/json", MANAGER, &sent)
    };
    assert_eq!(code, StatusCode::OK);
    let stored = apply(&api, "apply", &config_map(Some(&seen), json!({"a": "1"}))).await;
    let stored = stored.expect("applied");
    assert_eq!(stored["data"], json!({"a": "1", "theirs": "1"}));
    assert_eq!(owners(&store), [owner(MANAGER, APPLY), owner(STRANGER, UPDATE)]);
    // Nothing but the apply itself is written when all is ours by apply.
    let writes = store.lock().writes;
    apply(&api, "apply", &config_map(Some(&stored), json!({"a": "2"}))).await.expect("applied");
    assert_eq!(store.lock().writes, writes + 1);
}

#[tokio::test]
async fn replacement_takes_away_what_others_put_and_leaves_all_ours_by_apply() {
    let (api, store) = server();
    let ours = json!({"a": "1", "b": "1"});
    apply(&api, "apply", &config_map(None, ours.clone())).await.expect("made");
    stranger(&store, "application/merge-patch+json", &json!({"b": "x", "theirs": "1"}));
    let seen = store.lock().object();
    let stored = replace(&api, "replace", &config_map(Some(&seen), ours.clone())).await;
    assert_eq!(stored.expect("replaced")["data"], ours);
    assert_eq!(owners(&store), [owner(MANAGER, APPLY)]);
}

#[test]
fn replacement_leaves_what_a_service_was_given_and_what_others_have_in_the_metadata() {
    let owner = |uid: &str| json!({"kind": "KvCluster", "uid": uid, "controller": uid == "ours"});
    let ours = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kv", "uid": "u", "resourceVersion": "7",
            "labels": {"a": "ours"}, "annotations": {OBJECT_HASH: "new", "asked": "1"},
            "ownerReferences": [owner("ours")]},
        "spec": {"type": "LoadBalancer", "selector": {"a": "ours"}, "ipFamilies": ["IPv6"],
            "ports": [{"name": "client", "port": 7420}, {"name": "http", "port": 7422}]},
    });
    let live = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kv", "uid": "u", "resourceVersion": "7",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"a": "theirs", "b": "theirs"},
            "annotations": {OBJECT_HASH: "old", "cloud": "lb-7"},
            "finalizers": ["service.kubernetes.io/load-balancer-cleanup"],
            "ownerReferences": [owner("theirs"), owner("ours")],
            "managedFields": [{"manager": MANAGER}]},
        "spec": {"type": "ClusterIP", "selector": {"a": "ours", "b": "theirs"},
            "ipFamilies": ["IPv6", "IPv4"], "ipFamilyPolicy": "PreferDualStack",
            "clusterIP": "fd00::7", "clusterIPs": ["fd00::7", "10.0.0.7"],
            "healthCheckNodePort": 31_000, "loadBalancerClass": "cloud/fast",
            "ports": [{"name": "theirs", "port": 22, "nodePort": 30_022},
                {"name": "client", "port": 7420, "nodePort": 30_420}]},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}]}},
    });
    let whole = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kv", "uid": "u", "resourceVersion": "7",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"a": "ours", "b": "theirs"},
            "annotations": {OBJECT_HASH: "old", "cloud": "lb-7", "asked": "1"},
            "finalizers": ["service.kubernetes.io/load-balancer-cleanup"],
            "ownerReferences": [owner("ours"), owner("theirs")]},
        "spec": {"type": "LoadBalancer", "selector": {"a": "ours"},
            "ipFamilies": ["IPv6", "IPv4"], "ipFamilyPolicy": "PreferDualStack",
            "clusterIP": "fd00::7", "clusterIPs": ["fd00::7", "10.0.0.7"],
            "healthCheckNodePort": 31_000, "loadBalancerClass": "cloud/fast",
            "ports": [{"name": "client", "port": 7420, "nodePort": 30_420},
                {"name": "http", "port": 7422}]},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}]}},
    });
    assert_eq!(replacement(&ours, &live), whole);
}

#[test]
fn replacement_of_another_kind_has_our_spec_alone_and_all_else_that_is_there() {
    let live = json!({"kind": "StatefulSet", "metadata": {"annotations": {"theirs": "1"}},
        "spec": {"template": {"spec": {"nodeSelector": {"theirs": "1"}}}}});
    let ours = json!({"kind": "StatefulSet", "metadata": {"annotations": {"ours": "1"}},
        "spec": {"template": {"spec": {}}}});
    let whole = replacement(&ours, &live);
    assert_eq!(whole["spec"], ours["spec"]);
    assert_eq!(whole["metadata"]["annotations"], json!({"ours": "1", "theirs": "1"}));
    let live = json!({"kind": "ServiceAccount", "metadata": {}, "secrets": [{"name": "token"}],
        "automountServiceAccountToken": true});
    let ours =
        json!({"kind": "ServiceAccount", "metadata": {}, "automountServiceAccountToken": false});
    let whole = replacement(&ours, &live);
    assert_eq!(whole["secrets"], live["secrets"], "we say nothing of it");
    assert_eq!(whole["automountServiceAccountToken"], false);
}

#[test]
fn second_family_of_a_service_is_sent_along_where_it_cannot_be_taken_away() {
    let (one, both) = (json!(["IPv6"]), json!(["IPv6", "IPv4"]));
    for (why, policy, asked, there, want) in [
        ("added by the API server", json!("PreferDualStack"), &one, &both, &both),
        ("of a policy that is no longer asked for", Value::Null, &one, &both, &both),
        ("given back", json!("SingleStack"), &one, &both, &one),
        ("not asked for", json!("RequireDualStack"), &Value::Null, &both, &Value::Null),
        (
            "another first one, which is refused",
            Value::Null,
            &json!(["IPv4"]),
            &both,
            &json!(["IPv4"]),
        ),
    ] {
        let mut spec = json!({"ipFamilyPolicy": policy, "ipFamilies": asked});
        keep_families(&mut spec, &json!({"ipFamilies": there}));
        assert_eq!(spec["ipFamilies"], *want, "{why}");
    }
}

#[tokio::test]
async fn what_came_in_between_is_not_written() {
    for (why, ours) in [("made", None), ("changed", Some(json!({"a": "1"})))] {
        let (api, store) = server();
        let mut seen = None;
        if let Some(data) = ours {
            let made = apply(&api, "apply", &config_map(None, data)).await.expect("made");
            seen = Some(made);
        }
        stranger(&store, "application/apply-patch+yaml", &json!({"theirs": "1"}));
        let there = store.lock().object();
        let asked = config_map(seen.as_ref(), json!({"a": "2"}));
        let told = apply(&api, "apply", &asked).await;
        assert!(matches!(told, Err(Error::Moved(_))), "{why}: {told:?}");
        assert_eq!(store.lock().object(), there, "{why}");
    }
    let (api, _) = server();
    let seen = json!({"metadata": {"uid": "u", "resourceVersion": "7"}});
    let told = apply(&api, "apply", &config_map(Some(&seen), json!({}))).await;
    assert!(matches!(told, Err(Error::Moved(_))), "gone: {told:?}");
}

#[test]
fn fields_of_both_are_owned_and_those_of_others_stay_theirs() {
    let entry = |manager: &str, operation: &str, subresource: &str, fields: Value| {
        let entry = json!({"manager": manager, "operation": operation, "apiVersion": "v1",
            "subresource": subresource, "fieldsType": "FieldsV1", "fieldsV1": fields});
        serde_json::from_value::<ManagedFieldsEntry>(entry).expect("an entry")
    };
    let fields = |spec: Value| json!({"f:spec": spec});
    let theirs = entry(STRANGER, UPDATE, "", fields(json!({"f:x": {}})));
    let scaled = entry(MANAGER, UPDATE, "status", fields(json!({"f:x": {}})));
    let ours = |operation: &str, spec: Value| entry(MANAGER, operation, "", fields(spec));
    for (why, entries, want) in [
        ("nothing", vec![], None),
        (
            "by apply already",
            vec![theirs.clone(), ours(APPLY, json!({"f:a": {}})), scaled.clone()],
            None,
        ),
        (
            "only otherwise",
            vec![ours(UPDATE, json!({"f:a": {}})), theirs.clone()],
            Some(vec![theirs.clone(), ours(APPLY, json!({"f:a": {}}))]),
        ),
        (
            "both",
            vec![
                ours(APPLY, json!({"f:a": {}, "f:m": {}, "f:n": {"f:p": {}}})),
                theirs.clone(),
                ours(UPDATE, json!({"f:b": {}, "f:m": {"f:k": {}}, "f:n": {}})),
            ],
            Some(vec![
                ours(
                    APPLY,
                    json!({"f:a": {}, "f:b": {}, "f:m": {".": {}, "f:k": {}}, "f:n": {".": {}, "f:p": {}}}),
                ),
                theirs,
            ]),
        ),
    ] {
        assert_eq!(owned_by_apply(&entries), want, "{why}");
    }
}
