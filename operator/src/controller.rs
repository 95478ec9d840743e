//! Which cluster is looked at when: after a change of it or of what belongs to it, and after the time
//! that the last pass asked for.
//!
//! Never are two passes over one cluster under way at once. A pass that fails is repeated after a time
//! that doubles up to a minute, for each cluster by itself.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    future::Future,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::Duration,
};

use futures::{Stream, StreamExt as _, stream::BoxStream};
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Service},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    core::{DeserializeGuard, PartialObjectMeta},
    runtime::{
        Controller, PredicateConfig, WatchStreamExt as _,
        controller::{self, Action},
        reflector::{self, ObjectRef},
        watcher,
    },
};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;

use crate::{
    clock,
    crd::KvCluster,
    desired::{Defaults, Desired},
    error::Error,
    events::Events,
    http::Readiness,
    key::Key,
    kubernetes::Kubernetes,
    metrics::{Look, Metrics},
    names::{CLUSTER, MANAGER},
    pass::{self, Did, Outcome},
    plan::Action as Planned,
    requests, status, unreached,
};

/// Changes that come together are answered by one pass.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// Waits after a failure: the first, and the longest.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// After something moved between look and change.
const MOVED: Duration = Duration::from_millis(200);

/// What every pass needs.
pub struct Context {
    pub world: Kubernetes,
    pub defaults: Defaults,
    pub metrics: Metrics,
    pub ready: Readiness,
    pub events: Events,
    /// Failures in a row, by cluster.
    pub failures: Mutex<BTreeMap<Key, u32>>,
}

impl Context {
    fn show(&self, key: &Key, outcome: &Outcome) {
        let Outcome { seen, plan, .. } = outcome;
        let known = Desired::to_observe(&seen.cluster, &self.defaults);
        let unreached = known.as_ref().map(|known| unreached::nodes(seen, known));
        let unreached = unreached.unwrap_or_default();
        let look = Look {
            desired: seen.cluster.spec.replicas,
            status: &outcome.status,
            unreached: &unreached,
            regions: known
                .map(|known| status::tally(seen, &known, &unreached, clock::wall()))
                .unwrap_or_default(),
            troubles: plan.troubles.iter().map(|trouble| trouble.reason).collect(),
        };
        self.metrics.show(key, look);
    }

    /// A cluster is gone.
    fn forget(&self, key: &Key) {
        self.metrics.forget(key);
        self.world.forget(key);
        self.failures.lock().remove(key);
    }
}

/// Runs over the clusters of some namespaces, or of all (`None`), until `stop`.
pub async fn run<S>(
    client: Client,
    namespaces: Option<&[String]>,
    concurrency: u16,
    context: Arc<Context>,
    stop: impl Fn() -> S,
) where
    S: Future<Output = ()> + Send + Sync + 'static,
{
    let scopes: Vec<Option<&str>> = match namespaces {
        None => vec![None],
        Some(names) => names.iter().map(|name| Some(name.as_str())).collect(),
    };
    context.ready.lists(scopes.len());
    let controllers = scopes
        .into_iter()
        .map(|scope| run_in(client.clone(), scope, concurrency, Arc::clone(&context), stop()));
    futures::future::join_all(controllers).await;
}

async fn run_in(
    client: Client,
    namespace: Option<&str>,
    concurrency: u16,
    context: Arc<Context>,
    stop: impl Future<Output = ()> + Send + Sync + 'static,
) {
    let clusters: Api<DeserializeGuard<KvCluster>> = scoped(&client, namespace);
    let config = controller::Config::default().debounce(DEBOUNCE).concurrency(concurrency);
    let (store, writer) = reflector::store();
    let changed = listed(watcher(clusters, watcher::Config::default()), context.ready.clone());
    let changed = counted(changed, "kvclusters", &context.metrics)
        .reflect(writer)
        .applied_objects()
        .predicate_filter(asked, PredicateConfig::default());
    Controller::for_stream(changed, store)
        .with_config(config)
        .owns_stream(ours::<PartialObjectMeta<StatefulSet>>(&client, namespace, &context.metrics))
        .owns_stream(ours::<PartialObjectMeta<Service>>(&client, namespace, &context.metrics))
        .owns_stream(ours::<PartialObjectMeta<ConfigMap>>(&client, namespace, &context.metrics))
        .owns_stream(ours::<PartialObjectMeta<PodDisruptionBudget>>(
            &client,
            namespace,
            &context.metrics,
        ))
        .owns_stream(ours::<PartialObjectMeta<NetworkPolicy>>(&client, namespace, &context.metrics))
        // These belong to the StatefulSet; the label says to which cluster.
        .watches_stream(ours::<Pod>(&client, namespace, &context.metrics), |pod| by_label(&pod))
        .watches_stream(
            ours::<PersistentVolumeClaim>(&client, namespace, &context.metrics),
            |claim| by_label(&claim),
        )
        .graceful_shutdown_on(stop)
        .run(reconcile, after_error, Arc::clone(&context))
        .for_each(|result| {
            match result {
                // Told by the pass itself, and by the watch.
                Ok(_)
                | Err(controller::Error::ReconcilerFailed(..) | controller::Error::QueueError(_)) =>
                    {}
                // No pass is made over what was deleted.
                Err(controller::Error::ObjectNotFound(deleted)) => {
                    let namespace = deleted.namespace.unwrap_or_default();
                    context.forget(&Key { namespace, name: deleted.name });
                }
                Err(error) => tracing::warn!("watch Kubernetes: {error}"),
            }
            std::future::ready(())
        })
        .await;
}

/// What is ours of a type, as a watch brings it.
fn ours<K>(
    client: &Client,
    namespace: Option<&str>,
    metrics: &Metrics,
) -> BoxStream<'static, watcher::Result<K>>
where
    K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + 'static,
{
    let ours =
        watcher::Config::default().labels(&format!("app.kubernetes.io/managed-by={MANAGER}"));
    let brought = watcher(scoped::<K>(client, namespace), ours);
    counted(brought.touched_objects(), &K::plural(&()), metrics)
}

/// The operator is ready when the first list has ended. Where it never does no cluster is known, nothing is looked at,
/// and nothing else would say so.
fn listed<K: Send + 'static>(
    brought: impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send + 'static,
    ready: Readiness,
) -> BoxStream<'static, watcher::Result<watcher::Event<K>>> {
    let mut waits = true;
    brought
        .inspect(move |event| {
            if waits && matches!(event, Ok(watcher::Event::InitDone)) {
                waits = false;
                ready.listed();
            }
        })
        .boxed()
}

/// What does not come of a watch is counted, and told here, where it is known of which.
fn counted<T: Send + 'static>(
    brought: impl Stream<Item = watcher::Result<T>> + Send + 'static,
    resource: &str,
    metrics: &Metrics,
) -> BoxStream<'static, watcher::Result<T>> {
    let (resource, errors) = (resource.to_owned(), metrics.watch_errors(resource));
    brought
        .inspect(move |brought| {
            let Err(error) = brought else { return };
            tracing::warn!(resource, "watch Kubernetes: {error}");
            if !is_refused(error) {
                errors.inc();
            }
        })
        .boxed()
}

/// It is counted and told as such by whom it was sent. That there is no such type is a refusal, too.
fn is_refused(error: &watcher::Error) -> bool {
    let is_of_no_type =
        |error: &kube::Error| matches!(error, kube::Error::Api(status) if status.code == 404);
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => requests::is_told(error) || is_of_no_type(error),
        watcher::Error::WatchError(_) | watcher::Error::NoResourceVersion => false,
    }
}

/// What is asked of a cluster, and not what is answered: each pass may write the status, and is not to wake the next
/// one by it. Of what follows from a status the pass itself says when it looks again.
fn asked(cluster: &DeserializeGuard<KvCluster>) -> Option<u64> {
    let metadata = cluster.meta();
    let mut hasher = DefaultHasher::new();
    // The generation is that of the spec, and of a deletion.
    metadata.generation.hash(&mut hasher);
    metadata.deletion_timestamp.as_ref().map(|time| time.0.to_string()).hash(&mut hasher);
    metadata.annotations.hash(&mut hasher);
    metadata.labels.hash(&mut hasher);
    Some(hasher.finish())
}

fn scoped<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<Scope = kube::core::NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    K::DynamicType: Default,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

fn by_label<K: Resource>(object: &K) -> Option<ObjectRef<DeserializeGuard<KvCluster>>> {
    let name = object.labels().get(CLUSTER)?;
    Some(ObjectRef::new(name).within(&object.namespace()?))
}

fn key(cluster: &DeserializeGuard<KvCluster>) -> Key {
    Key { namespace: cluster.namespace().unwrap_or_default(), name: cluster.name_any() }
}

async fn reconcile(
    cluster: Arc<DeserializeGuard<KvCluster>>,
    context: Arc<Context>,
) -> Result<Action, Error> {
    let key = key(&cluster);
    // What the watch brought is no look: it is as old as the last event, and may have been shown by another
    // definition.
    context.metrics.begin(&key);
    let began = clock::now();
    let result = pass::pass(&context.world, &key, &context.defaults).await;
    let seconds = began.elapsed().as_secs_f64();
    match result {
        Ok(None) => {
            context.forget(&key);
            Ok(Action::await_change())
        }
        Ok(Some(outcome)) => {
            context.failures.lock().remove(&key);
            context.metrics.passed(&key, seconds, Ok(&outcome));
            if outcome.seen.cluster.metadata.deletion_timestamp.is_some() {
                context.metrics.forget(&key);
            } else {
                context.show(&key, &outcome);
            }
            log(&key, &outcome);
            context.events.tell(&outcome).await;
            Ok(Action::requeue(outcome.requeue))
        }
        Err(Error::Moved(what)) => {
            tracing::debug!(namespace = key.namespace, cluster = key.name, what, "looking again");
            Ok(Action::requeue(MOVED))
        }
        Err(error) => {
            context.metrics.passed(&key, seconds, Err(&error));
            context.metrics.not_seen(&key, &error);
            tracing::warn!(namespace = key.namespace, cluster = key.name, "pass failed: {error}");
            if let Error::Unreadable(why) = &error {
                context.events.cannot_read(&cluster.object_ref(&()), why).await;
                if let Err(error) = context.world.note_unreadable(&key, why).await {
                    tracing::warn!(namespace = key.namespace, cluster = key.name, "{error}");
                }
            }
            Err(error)
        }
    }
}

fn log(key: &Key, outcome: &Outcome) {
    let Key { namespace, name } = key;
    let Some(action) = outcome.plan.action.as_ref().map(Planned::name) else { return };
    let why = &outcome.plan.why;
    match &outcome.did {
        Did::Done(_) => tracing::info!(namespace, cluster = name, action, why, "done"),
        Did::Refused(reason) => {
            tracing::warn!(namespace, cluster = name, action, why, reason, "refused");
        }
        Did::Contended(reason) => {
            tracing::warn!(namespace, cluster = name, action, why, reason, "does not come about");
        }
        Did::Noted | Did::Nothing => {
            tracing::debug!(namespace, cluster = name, action, why, "noted");
        }
    }
}

fn after_error(
    cluster: Arc<DeserializeGuard<KvCluster>>,
    _: &Error,
    context: Arc<Context>,
) -> Action {
    let mut failures = context.failures.lock();
    let count = failures.entry(key(&cluster)).or_default();
    *count = count.saturating_add(1);
    Action::requeue((RETRY_MIN * 2_u32.saturating_pow((*count - 1).min(10))).min(RETRY_MAX))
}

#[cfg(test)]
mod tests {
    use axum::{
        Router,
        body::Bytes,
        http::{Method, StatusCode, Uri},
        response::Json,
    };
    use serde_json::{Value, json};

    use super::*;
    use crate::{api_server::tests::failure, lease::Leadership, requests::Requests};

    /// An API server of one KvCluster, or of none, and what it was sent.
    struct Server {
        cluster: Arc<Mutex<Option<Value>>>,
        /// Events.
        sent: Arc<Mutex<Vec<Value>>>,
        /// What is refused to be read.
        forbidden: Arc<Mutex<Option<&'static str>>>,
    }

    impl Server {
        fn of(cluster: Option<Value>) -> Self {
            Self {
                cluster: Arc::new(Mutex::new(cluster)),
                sent: Arc::default(),
                forbidden: Arc::default(),
            }
        }

        fn context(&self) -> Arc<Context> {
            let (cluster, sent) = (Arc::clone(&self.cluster), Arc::clone(&self.sent));
            let forbidden = Arc::clone(&self.forbidden);
            let serve = move |method: Method, uri: Uri, body: Bytes| {
                let (cluster, sent) = (Arc::clone(&cluster), Arc::clone(&sent));
                let is_forbidden = forbidden.lock().is_some_and(|part| uri.path().ends_with(part));
                async move {
                    if is_forbidden {
                        return failure(StatusCode::FORBIDDEN);
                    }
                    if method == Method::PUT {
                        assert!(uri.path().ends_with("/kvclusters/kv/status"), "{uri}");
                        let object: Value = serde_json::from_slice(&body).expect("JSON");
                        *cluster.lock() = Some(object.clone());
                        return (StatusCode::OK, Json(object));
                    }
                    if method == Method::POST {
                        let object: Value = serde_json::from_slice(&body).expect("JSON");
                        sent.lock().push(object.clone());
                        return (StatusCode::CREATED, Json(object));
                    }
                    match cluster.lock().clone().filter(|_| uri.path().ends_with("/kvclusters/kv"))
                    {
                        Some(cluster) => (StatusCode::OK, Json(cluster)),
                        None => failure(StatusCode::NOT_FOUND),
                    }
                }
            };
            let metrics = Metrics::new().expect("metrics");
            let client = Client::new(Router::new().fallback(serve), "ns");
            let requests = Requests::new(metrics.clone());
            let client = requests.counted(client);
            let leadership = Arc::new(Leadership::alone());
            Arc::new(Context {
                world: Kubernetes::new(client.clone(), Defaults::default(), leadership),
                defaults: Defaults::default(),
                metrics,
                ready: Readiness::new(requests),
                events: Events::new(client, "me"),
                failures: Mutex::default(),
            })
        }
    }

    fn cluster(mode: &str) -> Value {
        json!({"apiVersion": "flotilla.dev/v1alpha1", "kind": "KvCluster",
            "metadata": {"name": "kv", "namespace": "ns", "uid": "u"},
            "spec": {"storage": {"size": "1Gi"}, "tls": {"mode": mode}}})
    }

    fn watched(cluster: Value) -> Arc<DeserializeGuard<KvCluster>> {
        Arc::new(serde_json::from_value(cluster).expect("anything can be watched"))
    }

    #[tokio::test]
    async fn cluster_that_cannot_be_read_is_an_error_that_is_told() {
        let server = Server::of(Some(cluster("ofTomorrow")));
        let context = server.context();
        let watched = watched(cluster("ofTomorrow"));
        assert!(watched.0.is_err());
        let result = Box::pin(reconcile(Arc::clone(&watched), Arc::clone(&context))).await;
        let error = result.expect_err("an error, which is tried again");
        assert!(matches!(&error, Error::Unreadable(why) if why.contains("ofTomorrow")), "{error}");
        let metrics = context.metrics.text();
        for series in [
            "flotilla_operator_reconciles_total{result=\"error\"} 1",
            "flotilla_operator_cluster_first_look_timestamp_seconds{cluster=\"kv\",namespace=\"ns\"}",
        ] {
            assert!(metrics.contains(series), "no {series} in {metrics}");
        }
        assert!(!metrics.contains("cluster_observed"), "it was not seen: {metrics}");
        let sent = server.sent.lock();
        let [event] = sent.as_slice() else { panic!("{sent:?}") };
        assert_eq!((&event["reason"], &event["type"]), (&json!("Unreadable"), &json!("Warning")));
        assert_eq!(event["regarding"]["uid"], "u");
        let note = event["note"].as_str().unwrap_or_default();
        assert!(note.contains("ofTomorrow"), "{note}");
    }

    #[tokio::test]
    async fn cluster_that_cannot_be_read_is_not_called_healthy_and_loses_nothing() {
        let mut object = cluster("ofTomorrow");
        object["status"] = json!({"ofTomorrow": {"a": 1}, "readyReplicas": 3, "conditions": [
            {"type": "Ready", "status": "True", "reason": "Healthy", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z"},
            {"type": "OfTomorrow", "status": "True", "reason": "x", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z"},
        ]});
        let server = Server::of(Some(object.clone()));
        let context = server.context();
        let mut stored = Vec::new();
        for _ in 0..2 {
            let watched = watched(object.clone());
            let result = Box::pin(reconcile(watched, Arc::clone(&context))).await;
            assert!(result.is_err());
            stored.push(server.cluster.lock().clone().expect("it is there"));
        }
        let status = &stored[0]["status"];
        let told = |kind: &str| {
            let all = status["conditions"].as_array().expect("conditions");
            let one = all.iter().find(|condition| condition["type"] == kind);
            one.map(|one| (one["status"].clone(), one["reason"].clone()))
        };
        for (kind, want) in [("Available", "Unknown"), ("Degraded", "True"), ("Ready", "False")] {
            assert_eq!(told(kind), Some((json!(want), json!("Unreadable"))), "{kind}");
        }
        assert_eq!(told("OfTomorrow"), Some((json!("True"), json!("x"))));
        assert_eq!(status["ofTomorrow"], object["status"]["ofTomorrow"]);
        assert_eq!(stored[0]["spec"], object["spec"]);
        let written = "flotilla_operator_api_requests_total{resource=\"kvclusters/status\",verb=\"update\"} 1";
        assert!(context.metrics.text().contains(written), "once: {}", context.metrics.text());
    }

    /// By this an alert knows which clusters are not seen for want of a right, and which for other reasons.
    #[tokio::test]
    async fn cluster_whose_look_is_refused_says_so_and_one_that_cannot_be_read_does_not() {
        let server = Server::of(Some(cluster("ofTomorrow")));
        let context = server.context();
        for (why, forbidden, is) in [
            ("what it says is not understood", None, 0),
            ("it may not be read", Some("/kvclusters/kv"), 1),
            ("again not understood", None, 0),
            ("what it can do without", Some("/events"), 0),
        ] {
            *server.forbidden.lock() = forbidden;
            let watched = watched(cluster("ofTomorrow"));
            let result = Box::pin(reconcile(watched, Arc::clone(&context))).await;
            assert!(result.is_err(), "{why}");
            let told = format!(
                "flotilla_operator_cluster_look_refused{{cluster=\"kv\",namespace=\"ns\"}} {is}"
            );
            let metrics = context.metrics.text();
            assert!(metrics.contains(&told), "{why}: {metrics}");
        }
        for (result, passes) in [("refused", 1), ("error", 3), ("ok", 0)] {
            let told = format!(
                "flotilla_operator_cluster_reconciles_total{{cluster=\"kv\",namespace=\"ns\",result=\"{result}\"}} \
                 {passes}"
            );
            assert!(context.metrics.text().contains(&told), "{}", context.metrics.text());
        }
        *server.forbidden.lock() = None;
        *server.cluster.lock() = None;
        let gone = Box::pin(reconcile(watched(cluster("disabled")), Arc::clone(&context))).await;
        gone.expect("no error");
        assert!(!context.metrics.text().contains("look_refused{"), "it is forgotten");
    }

    #[tokio::test]
    async fn what_is_asked_wakes_a_pass_and_what_was_answered_does_not() {
        let mut now = cluster("disabled");
        now["metadata"]["generation"] = json!(1);
        let mut brought = Vec::new();
        let mut want = Vec::new();
        let mut version = 0;
        for (why, wakes, change) in [
            ("it is there", true, None),
            ("a status", false, Some(("/status", json!({"replicas": 1})))),
            ("another status", false, Some(("/status", json!({"replicas": 2})))),
            ("who wrote", false, Some(("/metadata/managedFields", json!([{"manager": "x"}])))),
            ("another spec", true, Some(("/metadata/generation", json!(2)))),
            ("an annotation", true, Some(("/metadata/annotations", json!({"a": "b"})))),
            ("another annotation", true, Some(("/metadata/annotations", json!({"a": "c"})))),
            ("a label", true, Some(("/metadata/labels", json!({"a": "b"})))),
            ("a status again", false, Some(("/status", json!({"replicas": 1})))),
            ("what cannot be read", true, Some(("/spec/tls", json!({"mode": "ofTomorrow"})))),
            ("a status of that", false, Some(("/status", json!({"replicas": 2})))),
            (
                "its deletion",
                true,
                Some(("/metadata/deletionTimestamp", json!("2026-01-01T00:00:00Z"))),
            ),
            ("another one of its name", true, Some(("/metadata/uid", json!("v")))),
        ] {
            if let Some((path, value)) = change {
                let (parent, name) = path.rsplit_once('/').expect("a path");
                now.pointer_mut(parent).expect("there")[name] = value;
            }
            if why == "what cannot be read" {
                now["metadata"]["generation"] = json!(3);
            }
            version += 1;
            now["metadata"]["resourceVersion"] = json!(version.to_string());
            let object: DeserializeGuard<KvCluster> =
                serde_json::from_value(now.clone()).expect("anything can be watched");
            brought.push(Ok(object));
            want.extend(wakes.then(|| (version.to_string(), why)));
        }
        let woken = futures::stream::iter(brought)
            .predicate_filter(asked, PredicateConfig::default())
            .map(|object| object.expect("no error").resource_version().expect("a version"));
        let woken: Vec<_> = woken.collect().await;
        let versions: Vec<_> = want.iter().map(|(version, _)| version.clone()).collect();
        assert_eq!(woken, versions, "{want:?}");
    }

    /// Else it leads, and does nothing, and all is well as far as anybody sees.
    #[tokio::test]
    async fn clusters_that_cannot_be_listed_are_counted_and_keep_from_being_ready() {
        let list = json!({"apiVersion": "flotilla.dev/v1alpha1", "kind": "KvClusterList",
            "metadata": {"resourceVersion": "1"}, "items": []});
        for (why, code, body, errors, is_ready) in [
            ("what it says cannot be read", 200, json!({"items": 7}), 1, false),
            ("the API server is not well", 503, Value::Null, 1, false),
            ("a refusal is counted as one", 403, Value::Null, 0, false),
            ("there is none", 200, list, 0, true),
        ] {
            let code = StatusCode::from_u16(code).expect("a code");
            let answer = if code == StatusCode::OK { (code, Json(body)) } else { failure(code) };
            let serve = move || std::future::ready(answer.clone());
            let metrics = Metrics::new().expect("metrics");
            let requests = Requests::new(metrics.clone());
            let ready = Readiness::new(requests.clone());
            ready.set();
            assert!(ready.missing().is_empty(), "{why}: it does not lead yet");
            ready.lists(1);
            let client = requests.counted(Client::new(Router::new().fallback(serve), "ns"));
            let clusters: Api<DeserializeGuard<KvCluster>> = scoped(&client, None);
            let brought = listed(watcher(clusters, watcher::Config::default()), ready.clone());
            let brought = counted(brought, "kvclusters", &metrics);
            // To its end or its first error.
            let ends = |event: &watcher::Result<watcher::Event<_>>| {
                std::future::ready(matches!(event, Err(_) | Ok(watcher::Event::InitDone)))
            };
            let ended = brought.filter(ends).take(1).count();
            let ended = tokio::time::timeout(Duration::from_secs(20), ended).await;
            assert_eq!(ended.expect("it ends"), 1, "{why}");
            assert_eq!(ready.missing().is_empty(), is_ready, "{why}: {:?}", ready.missing());
            let series =
                format!("flotilla_operator_watch_errors_total{{resource=\"kvclusters\"}} {errors}");
            let text = metrics.text();
            assert!(text.contains(&series), "{why}: {text}");
        }
    }

    #[test]
    fn whoever_leads_is_ready_when_the_clusters_of_each_namespace_were_listed() {
        let ready = Readiness::new(Requests::new(Metrics::new().expect("metrics")));
        ready.set();
        ready.lists(2);
        for left in [1, 0] {
            assert!(!ready.missing().is_empty(), "{left}");
            ready.listed();
        }
        assert!(ready.missing().is_empty());
        ready.listed();
        assert!(ready.missing().is_empty(), "a later one is no other");
    }

    #[tokio::test]
    async fn what_the_watch_could_not_read_is_looked_at_all_the_same() {
        // It is gone since.
        let context = Server::of(None).context();
        let watched = watched(cluster("ofTomorrow"));
        let result = Box::pin(reconcile(watched, Arc::clone(&context))).await;
        assert_eq!(result.expect("no error"), Action::await_change());
        assert!(!context.metrics.text().contains("cluster=\"kv\""), "it is forgotten");
    }
}
