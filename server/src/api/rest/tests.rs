use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use flotilla_proto::v1;
use http::{HeaderMap, Request};
use serde_json::Value;
use tower::ServiceExt as _;

use super::*;
use crate::{
    api::{
        body::collect,
        fake::{FakeMembership, FakeRequests},
        observer::Unobserved,
    },
    error::Error,
    ids::RegionId,
};

struct Http {
    router: Router,
    requests: FakeRequests,
    membership: Arc<FakeMembership>,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Http {
    fn new(limits: Limits) -> Self {
        let requests = FakeRequests::with_user_regions(&["m"]);
        let membership = Arc::new(FakeMembership::default());
        let limits = Arc::new(limits);
        let router = router(
            requests.clone(),
            Arc::clone(&membership) as Arc<dyn ClusterCalls>,
            Arc::clone(&limits),
            Admission::new(&limits),
            Arc::new(Unobserved),
            Arc::new(|| "flotilla_up 1\n".into()),
            Hosts::new("n1.example.org", &["db.example.org".into()]),
        );
        Self { router, requests, membership }
    }

    async fn send(&self, method: &str, uri: &str, body: impl Into<Body>) -> Answer {
        self.send_with(method, uri, &[], body).await
    }

    async fn send_with(
        &self,
        method: &str,
        uri: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(uri);
        let named = |wanted: &str| headers.iter().any(|(name, _)| *name == wanted);
        if !named("host") {
            request = request.header("host", "localhost:7422");
        }
        if method == "POST" && !named("content-type") {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.into()).expect("a well-formed request");
        let response = self.router.clone().oneshot(request).await.expect("never fails");
        let (head, body) = response.into_parts();
        let body = collect(body).await.expect("the whole body");
        Answer { status: head.status.as_u16(), headers: head.headers, body }
    }

    async fn get(&self, uri: &str) -> Answer {
        self.send("GET", uri, Body::empty()).await
    }
}

impl Answer {
    /// Of an answer that is one line.
    fn json(&self) -> Value {
        assert!(self.body.ends_with(b"\n"), "{self:?}");
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn lines(&self) -> Vec<Value> {
        let text = std::str::from_utf8(&self.body).expect("JSON is UTF-8");
        text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("ASCII"))
    }
}

fn http() -> Http {
    Http::new(Limits::default())
}

#[tokio::test]
async fn key_is_put_read_and_deleted() {
    let http = http();
    assert_eq!(http.get("/kv/k").await.status, 404);
    let put = http.send("PUT", "/kv/k", "value").await;
    assert_eq!((put.status, put.header("x-revision"), put.body.len()), (204, "1", 0));
    let got = http.get("/kv/k").await;
    assert_eq!((got.status, got.header("x-revision")), (200, "1"));
    assert_eq!(got.body, "value");
    assert_eq!(got.header("content-type"), "application/octet-stream");
    let head = http.send("HEAD", "/kv/k", Body::empty()).await;
    assert_eq!((head.status, head.body.len(), head.header("content-length")), (200, 0, "5"));
    let deleted = http.send("DELETE", "/kv/k", Body::empty()).await;
    assert_eq!((deleted.status, deleted.header("x-revision")), (204, "2"));
    assert_eq!(http.send("HEAD", "/kv/k", Body::empty()).await.status, 404);
    assert_eq!(http.send("DELETE", "/kv/k", Body::empty()).await.status, 204, "idempotent");
}

#[tokio::test]
async fn keys_are_bytes_in_the_path() {
    let http = http();
    for (path, key) in [
        ("/kv/a/b/c", &b"a/b/c"[..]),
        ("/kv/a%2Fb", b"a/b"),
        ("/kv//lead", b"/lead"),
        ("/kv/trail/", b"trail/"),
        ("/kv/%00", b"\0"),
        ("/kv/%ff%FE", b"\xff\xfe"),
        ("/kv/a+b", b"a+b"),
        ("/kv/a%20b", b"a b"),
        ("/kv/100%25", b"100%"),
        ("/kv/%252F", b"%2F"),
        ("/kv/{x}", b"{x}"),
        ("/kv/..%2F..", b"../.."),
        ("/kv/caf%C3%A9", "café".as_bytes()),
    ] {
        assert_eq!(http.send("PUT", path, key.to_vec()).await.status, 204, "{path}");
        let stored = http.requests.stored(&[b"\0\0\x01", key].concat());
        assert_eq!(stored.expect(path).0, key, "{path}");
        assert_eq!(http.get(path).await.body, key, "{path}");
    }
}

#[tokio::test]
async fn values_are_bytes_and_may_be_empty() {
    let http = http();
    let value: Vec<u8> = (0..=255).collect();
    assert_eq!(http.send("PUT", "/kv/bytes", value.clone()).await.status, 204);
    assert_eq!(http.get("/kv/bytes").await.body, value);
    assert_eq!(http.send("PUT", "/kv/empty", Body::empty()).await.status, 204);
    let empty = http.get("/kv/empty").await;
    assert_eq!((empty.status, empty.body.len()), (200, 0));
}

#[tokio::test]
async fn time_to_live_is_given_in_words() {
    let http = http();
    assert_eq!(http.send("PUT", "/kv/k?ttl=30s", "v").await.status, 204);
    assert_eq!(http.requests.stored(b"\0\0\x01k").expect("there").1, 30_000);
    assert_eq!(http.get("/kv/k").await.header("x-ttl-ms"), "30000");
    for uri in ["/kv/k?ttl=30", "/kv/k?ttl=", "/kv/k?tll=30s", "/kv/k?ttl=1s&ttl=2s"] {
        assert_eq!(http.send("PUT", uri, "v").await.status, 400, "{uri}");
    }
}

#[tokio::test]
async fn stale_reads_are_asked_for_by_name() {
    let http = http();
    http.get("/kv/k").await;
    assert_eq!(http.requests.last_context().read_mode, v1::ReadMode::Linearizable);
    http.get("/kv/k?stale=true").await;
    assert_eq!(http.requests.last_context().read_mode, v1::ReadMode::Stale);
    http.get("/kv?stale=true").await;
    assert_eq!(http.requests.last_context().read_mode, v1::ReadMode::Stale);
    assert_eq!(http.get("/kv/k?stale=perhaps").await.status, 400);
}

#[tokio::test]
async fn bad_requests_are_refused_with_a_reason() {
    let limits = Limits { key_bytes_max: 8, value_bytes_max: 10, ..Limits::default() };
    let http = Http::new(limits);
    let stream = |sizes: [usize; 2]| {
        let pieces = sizes.map(|size| Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; size])));
        Body::from_stream(futures::stream::iter(pieces))
    };
    for (why, method, uri, body, status) in [
        ("no key", "PUT", "/kv/", Body::from("v"), 400),
        ("no key to read", "GET", "/kv/", Body::empty(), 400),
        ("long key", "PUT", "/kv/123456789", Body::from("v"), 400),
        ("half an escape", "GET", "/kv/a%2", Body::empty(), 400),
        ("no escape", "GET", "/kv/a%zz", Body::empty(), 400),
        ("announced too large", "PUT", "/kv/k", Body::from("12345678901"), 413),
        ("grows too large", "PUT", "/kv/k", stream([10, 1]), 413),
        ("at the limit", "PUT", "/kv/k", stream([9, 1]), 204),
        ("unknown parameter", "DELETE", "/kv/k?force", Body::empty(), 400),
        ("unknown path", "GET", "/key/k", Body::empty(), 404),
        ("root", "GET", "/", Body::empty(), 404),
    ] {
        let answer = http.send(method, uri, body).await;
        assert_eq!(answer.status, status, "{why}: {answer:?}");
        if status != 204 {
            let json = answer.json();
            let want = if status == 404 { "NOT_FOUND" } else { "INVALID_ARGUMENT" };
            assert_eq!(json["code"], want, "{why}");
            assert!(json["message"].as_str().is_some_and(|text| !text.is_empty()), "{why}");
            assert_eq!(
                (&json["retryable"], &json["maybe_applied"]),
                (&false.into(), &false.into())
            );
        }
    }
    assert_eq!(http.requests.writes(), 1);
    let announced =
        http.send_with("PUT", "/kv/k", &[("content-length", "99999999999")], Body::empty()).await;
    assert_eq!(announced.status, 413, "refused before the body is read");
}

#[tokio::test]
async fn wrong_methods_are_told_the_right_ones() {
    let http = http();
    for (method, uri, allowed) in [
        ("POST", "/kv/k", &["GET", "HEAD", "PUT", "DELETE"][..]),
        ("PATCH", "/kv/", &["GET", "HEAD", "PUT", "DELETE"]),
        ("PUT", "/kv", &["GET", "HEAD"]),
        ("POST", "/cluster", &["GET", "HEAD"]),
        ("GET", "/cluster/nodes", &["POST"]),
        ("GET", "/cluster/nodes/3", &["DELETE"]),
        ("POST", "/metrics", &["GET", "HEAD"]),
        ("DELETE", "/livez", &["GET", "HEAD"]),
    ] {
        let answer = http.send(method, uri, Body::empty()).await;
        assert_eq!(answer.status, 405, "{method} {uri}");
        let mut allow: Vec<&str> = answer.header("allow").split(',').map(str::trim).collect();
        let mut want = allowed.to_vec();
        allow.sort_unstable();
        want.sort_unstable();
        assert_eq!(allow, want, "{method} {uri}");
        assert_eq!(answer.json()["code"], "UNIMPLEMENTED");
    }
}

#[tokio::test]
async fn errors_have_their_status_and_say_what_may_have_happened() {
    let http = http();
    let region = RegionId(2);
    let text = || "why".to_string();
    for (error, status, code, retryable, maybe_applied) in [
        (Error::NoLeader { region }, 503, "UNAVAILABLE", true, false),
        (Error::Draining, 503, "UNAVAILABLE", true, false),
        (Error::NotJoined { removed: false }, 503, "UNAVAILABLE", false, false),
        (Error::NotLeader { region, leader: None }, 503, "FAILED_PRECONDITION", true, false),
        (
            Error::Busy { queue: text(), retry_after: Duration::from_secs(3) },
            503,
            "RESOURCE_EXHAUSTED",
            true,
            false,
        ),
        (Error::OutcomeUnknown { message: text() }, 504, "DEADLINE_EXCEEDED", true, true),
        (Error::DeadlineExceeded { message: text() }, 504, "DEADLINE_EXCEEDED", true, false),
        (Error::DataLoss { message: text() }, 500, "DATA_LOSS", false, false),
        (Error::Internal { message: text() }, 500, "INTERNAL", false, true),
    ] {
        http.requests.fail_write(0, error.clone());
        let answer = http.send("PUT", "/kv/k", "v").await;
        assert_eq!(answer.status, status, "{error:?}");
        let json = answer.json();
        assert_eq!(json["code"], code, "{error:?}");
        assert_eq!(json["message"], error.to_string());
        assert_eq!(json["retryable"], retryable, "{error:?}");
        assert_eq!(json["maybe_applied"], maybe_applied, "{error:?}");
        let retry_after = match error {
            Error::Busy { .. } => "3",
            _ if status == 503 && retryable => "1",
            _ => "",
        };
        assert_eq!(answer.header("retry-after"), retry_after, "{error:?}");
    }
}

/// The last line of a listing.
fn end(keys: usize) -> Value {
    serde_json::json!({ "end": { "keys": keys } })
}

#[tokio::test]
async fn listing_is_lines_of_json() {
    let http = http();
    http.requests.fill(&[("a", "1"), ("b", "2"), ("z", "26")]);
    let all = http.get("/kv").await;
    assert_eq!((all.status, all.header("content-type")), (200, "application/x-ndjson"));
    let lines = all.lines();
    assert_eq!(lines.len(), 4, "across regions, and the end");
    let first = serde_json::json!({ "key_base64": "YQ==", "value_base64": "MQ==", "revision": 1 });
    assert_eq!((&lines[0], &lines[3]), (&first, &end(3)));

    for (query, want) in [
        ("text=true", vec!["a", "b", "z"]),
        ("text=true&reverse=true", vec!["z", "b", "a"]),
        ("text=true&limit=2", vec!["a", "b"]),
        ("text=true&start=b", vec!["b", "z"]),
        ("text=true&start=a&end=z", vec!["a", "b"]),
        ("text=true&prefix=z", vec!["z"]),
        ("text=true&prefix=none", vec![]),
    ] {
        let answer = http.get(&format!("/kv?{query}")).await;
        assert_eq!(answer.status, 200, "{query}");
        let mut lines = answer.lines();
        assert_eq!(lines.pop(), Some(end(want.len())), "{query}");
        let keys: Vec<Value> = lines.iter().map(|line| line["key"].clone()).collect();
        assert_eq!(keys, want, "{query}");
    }
    let keys_only = http.get("/kv?text=true&keys_only=true&limit=1").await.lines();
    assert_eq!(keys_only[0], serde_json::json!({ "key": "a", "revision": 1 }));
    for query in ["limit=x", "prefix=a&start=b", "start=b&end=a", "nonsense=1"] {
        assert_eq!(http.get(&format!("/kv?{query}")).await.status, 400, "{query}");
    }
}

#[tokio::test]
async fn listing_as_text_does_not_pretend_that_bytes_are_text() {
    let http = http();
    assert_eq!(http.send("PUT", "/kv/%ff", vec![0xfe]).await.status, 204);
    let lines = http.get("/kv?text=true&prefix=%ff").await.lines();
    let want = serde_json::json!({ "key_base64": "/w==", "value_base64": "/g==", "revision": 1 });
    assert_eq!(lines, [want, end(1)]);
}

#[tokio::test]
async fn listing_that_breaks_says_so_in_its_last_line() {
    let http = http();
    http.requests.fill(&[("a", "1"), ("z", "2")]);
    http.requests.fail_read(0, Error::Draining);
    assert_eq!(http.get("/kv").await.status, 503, "before the first page it is the status");

    http.requests.fail_read(1, Error::DataLoss { message: "bad block".into() });
    let request = Request::get("/kv?text=true").header("host", "localhost");
    let request = request.body(Body::empty()).expect("a request");
    let response = http.router.clone().oneshot(request).await.expect("never fails");
    assert_eq!(response.status(), 200);
    let mut pieces = response.into_body().into_data_stream();
    let mut text = Vec::new();
    let error = loop {
        match futures::StreamExt::next(&mut pieces).await.expect("ends with an error") {
            Ok(piece) => text.extend_from_slice(&piece),
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("bad block"), "{error}");
    let lines: Vec<Value> = String::from_utf8(text)
        .expect("JSON is UTF-8")
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line"))
        .collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[1]["error"]["code"], "DATA_LOSS");
}

#[tokio::test]
async fn full_queue_is_an_answer() {
    let http = Http::new(Limits { requests_in_flight_max: 1, ..Limits::default() });
    http.requests.hang(true);
    let hanging = http.get("/kv/k");
    let mut hanging = std::pin::pin!(hanging);
    assert!(futures::poll!(&mut hanging).is_pending());
    let busy = http.get("/kv/k").await;
    assert_eq!((busy.status, busy.header("retry-after")), (503, "1"));
    assert_eq!(busy.json()["code"], "RESOURCE_EXHAUSTED");
    assert_eq!(http.get("/livez").await.status, 200, "probes are not queued");
}

#[tokio::test]
async fn nodes_are_added_shown_and_removed() {
    let http = http();
    let node = r#"{"address": "n1:7420", "labels": {"zone": "a"}}"#;
    let added = http.send("POST", "/cluster/nodes", node).await;
    assert_eq!(added.status, 201, "{added:?}");
    assert_eq!(added.json(), serde_json::json!({ "id": 1, "version": 2 }));
    assert_eq!(added.header("etag"), "\"2\"");

    let shown = http.get("/cluster").await;
    assert_eq!((shown.status, shown.header("etag")), (200, "\"2\""));
    let json = shown.json();
    assert_eq!((&json["cluster_id"], &json["version"]), (&"c1".into(), &2.into()));
    let node = &json["nodes"][0];
    assert_eq!((&node["id"], &node["state"]), (&1.into(), &"up".into()));
    assert_eq!(
        (&node["client_address"], &node["labels"]["zone"]),
        (&"n1:7420".into(), &"a".into())
    );

    let draining = http.send("DELETE", "/cluster/nodes/1", Body::empty()).await;
    assert_eq!((draining.status, draining.header("etag")), (202, "\"3\""));
    assert_eq!(
        (&draining.json()["state"], &draining.json()["peers_left"]),
        (&"draining".into(), &3.into())
    );
    let gone = http.send("DELETE", "/cluster/nodes/1?force=true", Body::empty()).await;
    assert_eq!((gone.status, &gone.json()["state"]), (200, &"removed".into()));
}

/// Whoever adds a node has not asked for one that somebody took out of service.
#[tokio::test]
async fn demoted_node_is_put_back_only_when_that_is_asked_for() {
    for (body, keeps) in [
        (r#"{"address": "n1:7420"}"#, true),
        (r#"{"address": "n1:7420", "promote_demoted": false}"#, true),
        (r#"{"address": "n1:7420", "promote_demoted": true}"#, false),
    ] {
        let http = http();
        assert_eq!(http.send("POST", "/cluster/nodes", body).await.status, 201);
        let calls = http.membership.calls().join("\n");
        assert!(calls.contains(&format!("keep_demoted: {keeps}")), "{body}: {calls}");
    }
}

#[tokio::test]
async fn if_match_guards_changes_of_the_node_table() {
    let http = http();
    let node = r#"{"address": "n1:7420"}"#;
    let stale = http.send_with("POST", "/cluster/nodes", &[("if-match", "\"9\"")], node).await;
    assert_eq!((stale.status, &stale.json()["code"]), (412, &"ABORTED".into()));
    for (value, status) in [("\"0\"", 201), ("2", 201), ("*", 201), ("x", 400), ("\"7", 400)] {
        let answer = http.send_with("POST", "/cluster/nodes", &[("if-match", value)], node).await;
        assert_eq!(answer.status, status, "{value}: {answer:?}");
    }
    let stale = &[("if-match", "\"1\"")];
    assert_eq!(http.send_with("DELETE", "/cluster/nodes/1", stale, "").await.status, 412);
    let fresh = &[("if-match", "\"2\"")];
    assert_eq!(http.send_with("DELETE", "/cluster/nodes/1", fresh, "").await.status, 202);
}

/// The status is that of the cause. What may have been applied is the node that was added, whatever
/// became of its promotion.
#[tokio::test]
async fn node_that_was_added_but_not_promoted_tells_why() {
    let node = r#"{"address": "n1:7420"}"#;
    let text = || "why".to_owned();
    for (error, status, retryable, certainty) in [
        (Error::Draining, 503, true, "not promoted"),
        (Error::NoLeader { region: RegionId::SYSTEM }, 503, true, "not promoted"),
        (Error::VersionMoved { expected: 1, actual: 2 }, 412, false, "not promoted"),
        (Error::FailedPrecondition { message: text() }, 409, false, "not promoted"),
        (Error::NotFound { message: text() }, 404, false, "not promoted"),
        (Error::OutcomeUnknown { message: text() }, 504, true, "perhaps not promoted"),
        (Error::Internal { message: text() }, 500, false, "perhaps not promoted"),
    ] {
        let http = http();
        // The listing and the first step pass, the second fails.
        http.membership.fail_after(2, error.clone());
        let answer = http.send("POST", "/cluster/nodes", node).await;
        assert_eq!(answer.status, status, "{error:?}");
        let json = answer.json();
        assert_eq!((&json["maybe_applied"], &json["retryable"]), (&true.into(), &retryable.into()));
        let message = json["message"].as_str().expect("text");
        let want = format!("node 1 is a learner, {certainty}: {error}");
        assert_eq!(message, want);
        let retry_after = if status == 503 { "1" } else { "" };
        assert_eq!(answer.header("retry-after"), retry_after, "{error:?}");
        let again = http.send("POST", "/cluster/nodes", node).await;
        assert_eq!(again.status, 201, "repeating converges: {again:?}");
    }
}

/// The version that the node table had before is the one that it has still: the node had been added before, and
/// nothing changed now.
#[tokio::test]
async fn promotion_that_failed_alone_is_certain_to_have_changed_nothing() {
    let http = http();
    let node = r#"{"address": "n1:7420"}"#;
    assert_eq!(http.send("POST", "/cluster/nodes", node).await.status, 201);
    for (error, maybe_applied) in
        [(Error::Draining, false), (Error::OutcomeUnknown { message: "lost".into() }, true)]
    {
        http.membership.fail_after(1, error.clone());
        let answer = http.send_with("POST", "/cluster/nodes", &[("if-match", "\"2\"")], node).await;
        assert_eq!(answer.json()["maybe_applied"], maybe_applied, "{answer:?}");
        http.membership.fail_after(2, error);
        let answer = http.send("POST", "/cluster/nodes", node).await;
        assert_eq!(answer.json()["maybe_applied"], maybe_applied, "{answer:?}");
    }
}

#[tokio::test]
async fn malformed_membership_is_refused_before_it_goes_further() {
    let http = http();
    for body in [
        "",
        "n1:7420",
        "{}",
        r#"{"address": 7}"#,
        r#"{"address": "n1"}"#,
        r#"{"address": "n1:7420", "adress": ""}"#,
    ] {
        let answer = http.send("POST", "/cluster/nodes", body).await;
        assert_eq!(answer.status, 400, "{body}");
        assert_eq!(answer.json()["code"], "INVALID_ARGUMENT");
    }
    for uri in ["/cluster/nodes/x", "/cluster/nodes/-1", "/cluster/nodes/1?farce"] {
        assert_eq!(http.send("DELETE", uri, "").await.status, 400, "{uri}");
    }
    assert!(http.membership.calls().is_empty());
}

#[tokio::test]
async fn status_is_this_node() {
    let http = http();
    http.membership.set_ready(&["starting"]);
    let answer = http.get("/status").await;
    assert_eq!(answer.status, 200);
    let json = answer.json();
    assert_eq!((&json["joined"], &json["ready"]), (&true.into(), &false.into()));
    assert_eq!(json["not_ready_reasons"], serde_json::json!(["starting"]));
    assert_eq!(
        (&json["peers"][0]["region_id"], &json["peers"][0]["role"]),
        (&2.into(), &"leader".into())
    );
    assert_eq!(json["peers"][1]["region_id"], 4, "the next page");
}

#[tokio::test]
async fn probes_say_yes_or_why_not() {
    let http = http();
    let text = |answer: &Answer| String::from_utf8(answer.body.to_vec()).expect("text");
    let live = http.get("/livez").await;
    assert_eq!((live.status, text(&live)), (200, "ok\n".into()));
    http.membership.set_ready(&["not joined to a cluster"]);
    let ready = http.get("/readyz").await;
    assert_eq!((ready.status, text(&ready)), (503, "not joined to a cluster\n".into()));
    assert_eq!(http.get("/livez").await.status, 200, "not ready is not dead");
    let verbose = http.get("/readyz?verbose").await;
    let told = "[!] leaders: not heard in 1 of 2 regions\n";
    let want = format!("[-] joined: not joined to a cluster\n{told}not joined to a cluster\n");
    assert_eq!((verbose.status, text(&verbose)), (503, want));
    http.membership.set_ready(&[]);
    let verbose = http.get("/readyz?verbose").await;
    let want = format!("[+] joined: fine\n{told}ok\n");
    assert_eq!((verbose.status, text(&verbose)), (200, want), "what is told decides nothing");
    http.membership.set_live(&["log writer stuck"]);
    assert_eq!(http.get("/livez").await.status, 503);
    assert_eq!(http.get("/livez?loud").await.status, 400);
}

#[tokio::test]
async fn metrics_are_text() {
    let http = http();
    let answer = http.get("/metrics").await;
    assert_eq!((answer.status, &answer.body[..]), (200, &b"flotilla_up 1\n"[..]));
    assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
}

#[tokio::test]
async fn entity_tag_is_the_revision() {
    let http = http();
    let put = http.send("PUT", "/kv/k", "one").await;
    assert_eq!((put.header("etag"), put.header("x-revision")), ("\"1\"", "1"));
    let got = http.get("/kv/k").await;
    assert_eq!((got.header("etag"), got.header("accept-ranges")), ("\"1\"", "none"));
    for method in ["GET", "HEAD"] {
        let known = http.send_with(method, "/kv/k", &[("if-none-match", "\"1\"")], "").await;
        assert_eq!((known.status, known.body.len(), known.header("etag")), (304, 0, "\"1\""));
        let moved = http.send_with(method, "/kv/k", &[("if-match", "\"9\"")], "").await;
        assert_eq!(moved.status, 412, "{method}");
        let absent = http.send_with(method, "/kv/none", &[("if-none-match", "*")], "").await;
        assert_eq!(absent.status, 404, "{method}");
    }
    let part = http.send_with("GET", "/kv/k", &[("range", "bytes=1-")], "").await;
    assert_eq!((part.status, &part.body[..]), (200, &b"one"[..]), "a range is passed over");
}

#[tokio::test]
async fn conditional_writes_compare_and_write_at_once() {
    let http = http();
    let put = async |condition: (&str, &str), value: &'static str| {
        http.send_with("PUT", "/kv/k", &[condition], value).await
    };
    let stored = || http.requests.stored(b"\0\0\x01k").map(|(value, _)| value);
    assert_eq!(put(("if-match", "*"), "no").await.status, 412, "there is none");
    assert_eq!(stored(), None);
    assert_eq!(put(("if-none-match", "*"), "one").await.status, 204);
    assert_eq!(http.requests.last_command().compare.len(), 1, "in one command");
    let lost = put(("if-none-match", "*"), "two").await;
    assert_eq!((lost.status, &lost.json()["code"]), (412, &"FAILED_PRECONDITION".into()));
    assert_eq!(
        (&lost.json()["maybe_applied"], &lost.json()["retryable"]),
        (&false.into(), &false.into())
    );
    assert_eq!(stored().as_deref(), Some(&b"one"[..]));

    let etag = http.get("/kv/k").await.header("etag").to_owned();
    let second = put(("if-match", &etag), "two").await;
    assert_eq!(second.status, 204);
    assert_eq!(put(("if-match", &etag), "three").await.status, 412, "it has changed since");
    let etag = second.header("etag");
    assert_eq!(put(("if-none-match", etag), "three").await.status, 412, "it is that one");
    assert_eq!(stored().as_deref(), Some(&b"two"[..]));
    assert_eq!(put(("if-none-match", "\"1\""), "three").await.status, 204);
    assert_eq!(stored().as_deref(), Some(&b"three"[..]));

    let writes = http.requests.writes();
    for condition in [("if-match", "3"), ("if-match", "\"3\", \"4\""), ("if-none-match", "\"3")] {
        assert_eq!(put(condition, "four").await.status, 400, "{condition:?}");
        let delete = http.send_with("DELETE", "/kv/k", &[condition], "").await;
        assert_eq!(delete.status, 400, "{condition:?}");
    }
    assert_eq!(http.requests.writes(), writes);

    let delete = async |condition: (&str, &str)| {
        http.send_with("DELETE", "/kv/k", &[condition], "").await.status
    };
    assert_eq!(delete(("if-match", "\"1\"")).await, 412);
    assert!(stored().is_some());
    let etag = http.get("/kv/k").await.header("etag").to_owned();
    assert_eq!(delete(("if-match", &etag)).await, 204);
    assert_eq!(stored(), None);
    assert_eq!(delete(("if-match", "*")).await, 412, "gone already");
}

#[tokio::test]
async fn conditional_write_keeps_limits_and_time_to_live() {
    let http = Http::new(Limits { key_bytes_max: 4, ..Limits::default() });
    let new = &[("if-none-match", "*")];
    assert_eq!(http.send_with("PUT", "/kv/k?ttl=30s", new, "v").await.status, 204);
    assert_eq!(http.requests.stored(b"\0\0\x01k").expect("there").1, 30_000);
    assert_eq!(http.send_with("PUT", "/kv/", new, "v").await.status, 400);
    assert_eq!(http.send_with("DELETE", "/kv/12345", new, "").await.status, 400);
}

#[tokio::test]
async fn parts_of_values_and_coded_ones_are_refused() {
    let http = http();
    for (name, value, status) in [
        ("content-range", "bytes 4-9/10", 400),
        ("content-encoding", "gzip", 415),
        ("content-encoding", "identity", 204),
        ("transfer-encoding", "gzip, chunked", 501),
        ("transfer-encoding", "gzip", 501),
        ("transfer-encoding", "Chunked", 204),
    ] {
        let answer = http.send_with("PUT", "/kv/k", &[(name, value)], "456789").await;
        assert_eq!(answer.status, status, "{name}: {value}");
    }
    assert_eq!(http.requests.writes(), 2);
}

#[tokio::test]
async fn callers_name_how_long_they_wait() {
    let limits = Limits {
        request_timeout_default: Duration::from_secs(15),
        request_timeout_max: Duration::from_secs(30),
        ..Limits::default()
    };
    let http = Http::new(limits);
    for (query, seconds) in [("", 15), ("?timeout=2s", 2), ("?timeout=1h", 30)] {
        for method in ["PUT", "GET", "DELETE"] {
            let before = tokio::time::Instant::now();
            let status = http.send(method, &format!("/kv/k{query}"), "").await.status;
            assert!(status < 300, "{method} {query}: {status}");
            let left = http.requests.last_context().deadline - before;
            let most = Duration::from_secs(seconds);
            assert!(left >= most && left < most + Duration::from_secs(5), "{query}: {left:?}");
        }
    }
    http.membership.hang();
    for (method, uri) in [
        ("GET", "/cluster?timeout=10ms"),
        ("GET", "/status?timeout=10ms"),
        ("DELETE", "/cluster/nodes/1?timeout=10ms"),
    ] {
        assert_eq!(http.send(method, uri, "").await.status, 504, "{method} {uri}");
    }
    assert_eq!(http.get("/kv/k?timeout=soon").await.status, 400);
}

/// As a client on a slow line, whose value takes longer than its answer may.
#[tokio::test]
async fn deadline_begins_when_the_value_is_there() {
    let http = http();
    let begun = tokio::time::Instant::now();
    let (tell, told) = tokio::sync::oneshot::channel();
    let slowly = futures::stream::once(async move {
        // A clock that has moved on is all that tells a deadline from the beginning apart.
        while tokio::time::Instant::now() <= begun + Duration::from_millis(1) {
            tokio::task::yield_now().await;
        }
        tell.send(tokio::time::Instant::now()).expect("the test waits");
        Ok::<_, std::io::Error>(Bytes::from_static(b"value"))
    });
    let answer = http.send("PUT", "/kv/k?timeout=5s", Body::from_stream(slowly)).await;
    assert_eq!(answer.status, 204, "{answer:?}");
    let there = told.await.expect("it was read");
    let left = http.requests.last_context().deadline - there;
    assert!(left >= Duration::from_secs(5), "{left:?} are left");
}

#[tokio::test]
async fn pages_of_strangers_change_nothing() {
    let http = http();
    let node = r#"{"address": "evil.example:7420"}"#;
    for (why, headers) in [
        ("another origin", &[("origin", "http://evil.example")][..]),
        ("an origin without a name", &[("origin", "null")]),
        ("another port", &[("origin", "http://localhost:8080")]),
        ("as the browser says", &[("sec-fetch-site", "cross-site")]),
        ("of the same site", &[("sec-fetch-site", "same-site")]),
        ("a name that was made to lead here", &[("host", "evil.example:7422")]),
        ("its own name", &[("host", "evil.example:7422"), ("origin", "http://evil.example:7422")]),
    ] {
        for (method, uri) in [
            ("POST", "/cluster/nodes"),
            ("PUT", "/kv/k"),
            ("DELETE", "/kv/k"),
            ("DELETE", "/cluster/nodes/1"),
        ] {
            let answer = http.send_with(method, uri, headers, node).await;
            assert_eq!(answer.status, 403, "{why}: {method} {uri}");
            assert_eq!(answer.json()["code"], "PERMISSION_DENIED", "{why}");
        }
    }
    for content_type in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx"] {
        let headers = &[("content-type", content_type)];
        let answer = http.send_with("POST", "/cluster/nodes", headers, node).await;
        assert_eq!(answer.status, 415, "{content_type}");
    }
    assert!(http.membership.calls().is_empty());
    assert_eq!(http.requests.writes(), 0);
    let foreign = &[("host", "evil.example")];
    assert_eq!(http.send_with("GET", "/kv/k", foreign, "").await.status, 403);

    let own = &[("origin", "http://localhost:7422"), ("sec-fetch-site", "same-origin")];
    assert_eq!(http.send_with("PUT", "/kv/k", own, "v").await.status, 204);
    let behind_tls = &[("host", "db.example.org"), ("origin", "https://db.example.org")];
    assert_eq!(http.send_with("PUT", "/kv/k", behind_tls, "v").await.status, 204);
    let typed = &[("content-type", "Application/JSON; charset=utf-8")];
    assert_eq!(http.send_with("POST", "/cluster/nodes", typed, node).await.status, 201);
}

#[tokio::test]
async fn probes_and_scrapers_may_call_the_node_what_they_like() {
    let http = http();
    for path in ["/livez", "/readyz", "/metrics"] {
        let answer = http.send_with("GET", path, &[("host", "kv-0.kv.shop.example:1")], "").await;
        assert_eq!(answer.status, 200, "{path}");
    }
    for (host, status) in [
        ("n1.example.org:7422", 200),
        ("N1.EXAMPLE.ORG", 200),
        ("kv-0.kv-headless.ns.svc:7422", 200),
        ("kv.ns.svc.cluster.local", 200),
        ("10.0.0.1:7422", 200),
        ("[fd00::1]:7422", 200),
        ("n2", 200),
        ("evil.example", 403),
        ("a b", 400),
        ("user@localhost", 400),
    ] {
        let answer = http.send_with("GET", "/kv", &[("host", host)], "").await;
        assert_eq!(answer.status, status, "{host}");
    }
    let twice = &[("host", "localhost"), ("host", "evil.example")];
    assert_eq!(http.send_with("GET", "/livez", twice, "").await.status, 400);
    let none = |version| {
        let request = Request::get("/livez").version(version).body(Body::empty());
        http.router.clone().oneshot(request.expect("a request"))
    };
    let answer = none(http::Version::HTTP_11).await.expect("never fails");
    assert_eq!(answer.status(), 400, "HTTP/1.1 must name its host");
    let answer = none(http::Version::HTTP_10).await.expect("never fails");
    assert_eq!(answer.status(), 200, "HTTP/1.0 need not");
}

#[tokio::test]
async fn no_answer_is_run_shown_or_kept_by_a_browser() {
    let http = http();
    http.send("PUT", "/kv/k", "<script>alert(1)</script>").await;
    let foreign = &[("host", "evil.example")];
    for answer in [
        http.get("/kv/k").await,
        http.get("/kv").await,
        http.get("/nothing").await,
        http.get("/livez").await,
        http.send("PATCH", "/kv/k", "").await,
        http.send_with("GET", "/kv/k", foreign, "").await,
    ] {
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{answer:?}");
        assert_eq!(answer.header("content-security-policy"), "default-src 'none'; sandbox");
        assert_eq!(answer.header("cross-origin-resource-policy"), "same-origin");
        assert_eq!(answer.header("cache-control"), "no-store");
    }
}

#[tokio::test]
async fn description_of_a_node_is_small() {
    let http = http();
    let large = format!(r#"{{"address": "n1:7420", "labels": {{"a": "{}"}}}}"#, "x".repeat(70_000));
    let answer = http.send("POST", "/cluster/nodes", large).await;
    assert_eq!(answer.status, 413, "{answer:?}");
    assert!(http.membership.calls().is_empty());
}

#[tokio::test]
async fn answer_that_is_not_read_keeps_its_place_and_its_bytes() {
    let limits =
        Limits { answers_held_bytes_max: 1 << 20, requests_in_flight_max: 2, ..Limits::default() };
    let http = Http::new(limits);
    assert_eq!(http.send("PUT", "/kv/large", vec![b'x'; 1 << 20]).await.status, 204);
    let get = || {
        let request = Request::get("/kv/large").header("host", "localhost").body(Body::empty());
        http.router.clone().oneshot(request.expect("a request"))
    };
    let unread = get().await.expect("never fails");
    assert_eq!(unread.status(), 200);
    let refused = http.get("/kv/large").await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, "1"));
    assert!(refused.json()["message"].as_str().expect("text").contains("answers"), "{refused:?}");
    assert_eq!(http.send("PUT", "/kv/small", "v").await.status, 204, "small answers are free");
    let small = Request::get("/kv/small").header("host", "localhost").body(Body::empty());
    let small = http.router.clone().oneshot(small.expect("a request")).await.expect("never fails");
    assert_eq!(small.status(), 200);
    let busy = http.get("/kv/small").await;
    assert!(busy.json()["message"].as_str().expect("text").contains("requests"), "{busy:?}");
    drop(small);
    assert_eq!(collect(unread.into_body()).await.expect("whole").len(), 1 << 20);
    assert_eq!(http.get("/kv/large").await.status, 200, "given back when it was read");
}

/// What tools are told of the API is what there is.
#[tokio::test]
async fn description_for_tools_names_every_path_and_method() {
    let text = include_str!("../../../../docs/openapi.yaml");
    let described: Value = serde_yaml::from_str(text).expect("YAML");
    let http = http();
    let mut found = 0;
    for (path, operations) in described["paths"].as_object().expect("paths") {
        let uri = path.replace("{key}", "k").replace("{id}", "1");
        for method in ["GET", "HEAD", "PUT", "POST", "DELETE", "PATCH"] {
            let answer = http.send(method, &uri, Body::empty()).await;
            let json = serde_json::from_slice::<Value>(&answer.body).unwrap_or_default();
            let is_there = answer.status != 405 && json["message"] != "no such path";
            // What answers GET answers HEAD.
            let by = if method == "HEAD" { "get".to_owned() } else { method.to_lowercase() };
            assert_eq!(operations[&by].is_object(), is_there, "{method} {path}: {answer:?}");
            found += usize::from(is_there);
        }
    }
    assert_eq!(found, 18, "a path that is not described is not asked for");
}
