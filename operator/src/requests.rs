//! Requests to the API server, each of them: counted, and told where they are refused.
//!
//! What the operator asks goes by clients that come from here, so that a figure of them is a figure of all: looks, changes
//! and statuses, and also watches, the Lease and events, which nothing else counts. And a refusal is seen where it is met,
//! whoever met it: a missing right stops the watch of a type without any pass that fails, and the Lease without any
//! watch. It is counted ([`Metrics::refused`]) and told in one sentence that ends with what to do. While it
//! keeps the operator from its work the operator is not ready ([`Requests::in_the_way`]).

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use kube::{Client, client::Body, core::Status};
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::codegen::{
    Service,
    http::{Request, Response, StatusCode},
};

use crate::{asked::Asked, clock, metrics::Metrics};

/// A refusal stands for so long after it was met last. What is refused is asked again within a minute.
const STANDS: Duration = Duration::from_secs(150);
/// A refusal that goes on is told again after this.
const TELL_AGAIN: Duration = Duration::from_secs(600);
/// Bound: refusals of other things that are remembered; of more none is told to be over.
const REMEMBERED_MAX: usize = 1000;
/// Bound: what the API server says of a refusal, in characters.
const WORDS_MAX: usize = 500;

/// A refusal that was met.
struct Refusal {
    /// The last of it; `None` since it was not refused any more.
    met: Option<Instant>,
    told: Instant,
    words: String,
}

/// All that the operator asks of the API server.
#[derive(Clone)]
pub struct Requests {
    metrics: Metrics,
    refusals: Arc<Mutex<BTreeMap<Asked, Refusal>>>,
}

impl Requests {
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self { metrics, refusals: Arc::default() }
    }

    /// A client like `client`, all of whose requests are counted here.
    #[must_use]
    pub fn counted(&self, client: Client) -> Client {
        let namespace = client.default_namespace().to_owned();
        Client::new(Counted { client, requests: self.clone() }, namespace)
    }

    /// Refusals that keep the operator from its work, as sentences.
    #[must_use]
    pub fn in_the_way(&self) -> Vec<String> {
        let now = clock::now();
        let stands = |refusal: &Refusal| refusal.met.is_some_and(|met| now - met < STANDS);
        let refusals = self.refusals.lock();
        let standing =
            refusals.iter().filter(|(asked, refusal)| asked.is_vital() && stands(refusal));
        standing.map(|(_, refusal)| refusal.words.clone()).collect()
    }

    /// It was refused. `words`: a sentence for whoever can help.
    pub fn refused(&self, asked: &Asked, words: String) {
        self.metrics.refused(asked);
        let now = clock::now();
        let mut refusals = self.refusals.lock();
        if refusals.len() >= REMEMBERED_MAX {
            refusals.retain(|_, refusal| now - refusal.told < TELL_AGAIN);
        }
        let before = refusals.get(asked).filter(|refusal| now - refusal.told < TELL_AGAIN);
        let told = match before {
            Some(refusal) => refusal.told,
            None => {
                let Asked { verb, resource, namespace } = asked;
                tracing::warn!(verb, resource, namespace, "{words}");
                now
            }
        };
        if refusals.len() < REMEMBERED_MAX || refusals.contains_key(asked) {
            refusals.insert(asked.clone(), Refusal { met: Some(now), told, words });
        }
    }

    /// It was not refused.
    pub fn taken(&self, asked: &Asked) {
        let mut refusals = self.refusals.lock();
        let Some(refusal) = refusals.get_mut(asked) else { return };
        let was_met = refusal.met.take().is_some();
        // Of others some may be refused, and some not, by turns.
        if asked.is_vital() {
            refusals.remove(asked);
            if was_met {
                tracing::info!("Kubernetes lets the operator {asked} again");
            }
        }
    }

    /// The answer as it came; a refusal is read first.
    async fn read(&self, asked: &Asked, answer: Response<Body>) -> kube::Result<Response<Body>> {
        let code = answer.status();
        if !is_refusal(asked, code) {
            if code.is_success() {
                self.taken(asked);
            }
            return Ok(answer);
        }
        let (head, body) = answer.into_parts();
        let body = body.collect_bytes().await?;
        let why = match serde_json::from_slice::<Status>(&body) {
            Ok(status) => status.message,
            // Of a path that there is not it says so in plain text.
            Err(_) => String::from_utf8_lossy(&body).into_owned(),
        };
        self.refused(asked, sentence(asked, code, &why));
        Ok(Response::from_parts(head, Body::from(body)))
    }
}

/// Whether the API server will answer the same again until a person has done something.
fn is_refusal(asked: &Asked, code: StatusCode) -> bool {
    match code.as_u16() {
        // The type is not there; of an object by its name that it is not is a plain answer.
        404 => asked.is_of_a_type(),
        // Another was faster, too slow, too old, too much.
        408 | 409 | 410 | 429 => false,
        code => (400..500).contains(&code),
    }
}

/// Whether this error is of a refusal, which was told when it came.
#[must_use]
pub fn is_told(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 401 | 403 | 422))
}

fn sentence(asked: &Asked, code: StatusCode, why: &str) -> String {
    let words: String = why.trim().chars().take(WORDS_MAX).collect();
    let words = words.replace(|c: char| c.is_control(), " ");
    format!(
        "Kubernetes refuses to let the operator {asked} ({code}: {words}): {}",
        remedy(asked, code, why)
    )
}

/// What somebody is to do about it.
fn remedy(asked: &Asked, code: StatusCode, why: &str) -> &'static str {
    let says = |word: &str| why.contains(word);
    if code == StatusCode::UNAUTHORIZED {
        "its token is not taken; see that its ServiceAccount is there, and restart its pod"
    } else if says("exceeded quota") {
        "raise the ResourceQuota of that namespace, or ask for less"
    } else if says("is being terminated") {
        "the namespace is being deleted, and this ends with it"
    } else if says("denied the request") || says("denied request") {
        "make an exception for it in the policy that is named"
    } else if code == StatusCode::FORBIDDEN {
        "give it the rights that `flotilla-operator rbac` prints: they come with the chart, not with the image alone, and \
         for the namespaces of `operator.namespaces`"
    } else if code == StatusCode::NOT_FOUND && asked.resource == "kvclusters" {
        "apply what `flotilla-operator crd` prints, and see that the definition is established"
    } else if code == StatusCode::NOT_FOUND {
        "this Kubernetes does not know the type; it takes 1.29 or later"
    } else {
        "what the KvCluster asks for cannot be so; the words name the field"
    }
}

/// A client whose requests are counted.
struct Counted {
    client: Client,
    requests: Requests,
}

impl Service<Request<Body>> for Counted {
    type Response = Response<Body>;
    type Error = kube::Error;
    type Future = Pin<Box<dyn Future<Output = kube::Result<Response<Body>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<kube::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let asked = Asked::of(request.method(), request.uri());
        self.requests.metrics.asked(&asked);
        let (client, requests) = (self.client.clone(), self.requests.clone());
        Box::pin(async move {
            let answer = client.send(request).await?;
            requests.read(&asked, answer).await
        })
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use futures::StreamExt as _;
    use k8s_openapi::api::{
        coordination::v1::Lease,
        core::v1::{Node, ObjectReference, Pod},
    };
    use kube::{
        Api,
        api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchParams},
    };
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        crd::KvCluster,
        events::Events,
        http::Readiness,
        lease::{Election, Leadership},
    };

    /// An API server that answers all the same.
    fn server(code: u16, body: Value) -> (Client, Requests) {
        let code = StatusCode::from_u16(code).expect("a code");
        let text = if let Value::String(text) = body { text } else { body.to_string() };
        let serve = move || {
            let text = text.clone();
            async move { (code, text) }
        };
        let requests = Requests::new(Metrics::new().expect("metrics"));
        let client = Client::new(Router::new().fallback(serve), "ns");
        (requests.counted(client), requests)
    }

    fn refusal(code: u16, message: &str) -> Value {
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message})
    }

    #[tokio::test]
    async fn whatever_is_asked_is_counted_by_whomever() {
        let (client, requests) = server(500, refusal(500, "no"));
        let clusters: Api<KvCluster> = Api::namespaced(client.clone(), "ns");
        let everywhere: Api<Pod> = Api::all(client.clone());
        let pods: Api<Pod> = Api::namespaced(client.clone(), "ns");
        let nodes: Api<Node> = Api::all(client.clone());
        let (post, list) = (PostParams::default(), ListParams::default());
        let cluster: KvCluster = serde_json::from_value(json!({
            "apiVersion": "flotilla.dev/v1alpha1", "kind": "KvCluster",
            "metadata": {"name": "kv"}, "spec": {"storage": {"size": "1Gi"}},
        }))
        .expect("a cluster");
        assert!(clusters.replace_status("kv", &post, &cluster).await.is_err());
        assert!(clusters.get_opt("kv").await.is_err());
        assert!(everywhere.list(&list).await.is_err());
        assert!(nodes.get("n").await.is_err());
        assert!(pods.delete("p", &DeleteParams::default()).await.is_err());
        let patch = Patch::Merge(json!({}));
        assert!(pods.patch("p", &PatchParams::default(), &patch).await.is_err());
        assert!(everywhere.watch(&WatchParams::default(), "0").await.is_err());
        // The Lease and events, as they are asked for.
        let election = Election::new(client.clone(), "ns", "operator", "me");
        election.release(&Leadership::alone()).await;
        let leases: Api<Lease> = Api::namespaced(client.clone(), "ns");
        assert!(leases.create(&post, &Lease::default()).await.is_err());
        let about = ObjectReference { namespace: Some("ns".into()), ..ObjectReference::default() };
        Events::new(client, "me").cannot_read(&about, "x").await;
        let text = requests.metrics.text();
        for (verb, resource) in [
            ("update", "kvclusters/status"),
            ("get", "kvclusters"),
            ("list", "pods"),
            ("get", "nodes"),
            ("delete", "pods"),
            ("patch", "pods"),
            ("watch", "pods"),
            ("get", "leases"),
            ("create", "leases"),
            ("create", "events"),
        ] {
            let series = format!(
                "flotilla_operator_api_requests_total{{resource=\"{resource}\",verb=\"{verb}\"}} 1"
            );
            assert!(text.contains(&series), "{series} in\n{text}");
        }
        assert!(!text.contains("api_refused_total{"), "an error is no refusal: {text}");
    }

    #[tokio::test]
    async fn refusal_is_counted_told_with_its_remedy_and_keeps_from_being_ready() {
        for (why, code, body, remedy) in [
            (
                "a right",
                403,
                refusal(403, "pods is forbidden: User \"x\" cannot list resource"),
                "rbac",
            ),
            (
                "a quota",
                403,
                refusal(403, "pods \"x\" is forbidden: exceeded quota: q"),
                "ResourceQuota",
            ),
            (
                "a webhook",
                403,
                refusal(403, "admission webhook \"w\" denied the request: no"),
                "policy",
            ),
            (
                "a policy",
                422,
                refusal(422, "x is forbidden: ValidatingAdmissionPolicy 'p' denied request: no"),
                "policy",
            ),
            ("no token", 401, refusal(401, "Unauthorized"), "ServiceAccount"),
            ("no type", 404, Value::String("404 page not found\n".into()), "the type"),
        ] {
            let (client, requests) = server(code, body);
            let ready = Readiness::new(requests.clone());
            ready.set();
            assert!(ready.missing().is_empty(), "{why}");
            let pods: Api<Pod> = Api::namespaced(client, "ns");
            let listed = pods.list(&ListParams::default()).await;
            assert!(listed.is_err(), "{why}: whoever asked hears of it as well");
            let told = ready.missing();
            let [words] = told.as_slice() else { panic!("{why}: {told:?}") };
            assert!(
                words.contains("list pods in namespace ns") && words.contains(remedy),
                "{why}: {words}"
            );
            assert_eq!(words.lines().count(), 1, "{why}: {words}");
            let text = requests.metrics.text();
            let series = "flotilla_operator_api_refused_total{resource=\"pods\",verb=\"list\"} 1";
            assert!(text.contains(series), "{why}: {text}");
        }
    }

    #[tokio::test]
    async fn lease_that_is_refused_is_told_as_is_a_watch() {
        let (client, requests) =
            server(403, refusal(403, "leases is forbidden: User \"x\" cannot get"));
        let ready = Readiness::new(requests.clone());
        ready.set();
        let election = Election::new(client.clone(), "ns", "operator", "me");
        election.release(&Leadership::alone()).await;
        let clusters: Api<KvCluster> = Api::all(client);
        let brought = kube::runtime::watcher(clusters, kube::runtime::watcher::Config::default());
        let failed = Box::pin(brought.filter(|event| std::future::ready(event.is_err())).take(1));
        assert_eq!(failed.count().await, 1);
        let told = ready.missing().join("\n");
        assert!(told.contains("get leases in namespace ns"), "{told}");
        assert!(told.contains("list kvclusters (403"), "{told}");
    }

    #[test]
    fn refusal_of_one_object_keeps_nobody_from_being_ready_and_what_is_taken_is_over() {
        let requests = Requests::new(Metrics::new().expect("metrics"));
        let asked = |verb, resource: &str, namespace: &str| Asked {
            verb,
            resource: resource.into(),
            namespace: namespace.into(),
        };
        requests.refused(&asked("patch", "statefulsets", "ns"), "a quota".into());
        assert!(requests.in_the_way().is_empty());
        let (here, there) = (asked("watch", "pods", "here"), asked("watch", "pods", "there"));
        requests.refused(&here, "here".into());
        requests.refused(&there, "there".into());
        requests.taken(&here);
        assert_eq!(requests.in_the_way(), ["there"], "by namespace");
        requests.taken(&there);
        assert!(requests.in_the_way().is_empty());
    }

    #[test]
    fn answers_that_pass_by_themselves_are_no_refusals() {
        let get = Asked { verb: "get", resource: "pods".into(), namespace: "ns".into() };
        let list = Asked { verb: "list", ..get.clone() };
        for (why, asked, code, want) in [
            ("it is not there", &get, 404, false),
            ("the type is not", &list, 404, true),
            ("another was faster", &get, 409, false),
            ("a page that is too old", &list, 410, false),
            ("too much", &list, 429, false),
            ("it fails", &list, 500, false),
            ("no right", &get, 403, true),
            ("cannot be so", &get, 422, true),
        ] {
            let code = StatusCode::from_u16(code).expect("a code");
            assert_eq!(is_refusal(asked, code), want, "{why}");
        }
    }
}
