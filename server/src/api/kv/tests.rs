use std::time::Duration;

use super::*;
use crate::api::fake::{FakeRequests, api, region_context, soon};

fn requests() -> FakeRequests {
    FakeRequests::with_user_regions(&["m"])
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put(key: &str, value: &str) -> v1::PutRequest {
    v1::PutRequest { key: bytes(key), value: bytes(value), ..v1::PutRequest::default() }
}

fn get(key: &str) -> v1::GetRequest {
    v1::GetRequest { context: None, key: bytes(key) }
}

fn refused_field<T: std::fmt::Debug>(result: Result<T, Error>) -> (String, u64) {
    match result {
        Err(Error::InvalidArgument { field, limit, .. }) => (field, limit),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn value_that_was_put_is_got() {
    let requests = requests();
    let api = api(&requests);
    let absent = api.get(soon(), get("k")).await.expect("absent is an answer");
    assert_eq!(absent.kv, None);

    let written = api.put(soon(), put("k", "v")).await.expect("written");
    assert_eq!(written.previous, None);
    let response = api.get(soon(), get("k")).await.expect("present");
    let want = v1::KeyValue {
        key: bytes("k"),
        value: bytes("v"),
        revision: written.revision,
        ttl_ms: None,
    };
    assert_eq!(response.kv, Some(want));
    assert_eq!(response.applied_revision, written.revision);
}

#[tokio::test]
async fn empty_value_is_a_value() {
    let requests = requests();
    let api = api(&requests);
    api.put(soon(), put("k", "")).await.expect("allowed");
    let kv = api.get(soon(), get("k")).await.expect("present").kv.expect("present");
    assert_eq!(kv.value, "");
}

#[tokio::test]
async fn put_says_what_was_there_only_when_asked() {
    let requests = requests();
    let api = api(&requests);
    requests.fill(&[("k", "old")]);
    let asked = v1::PutRequest { return_previous: true, ..put("k", "new") };
    let previous = api.put(soon(), asked).await.expect("written").previous.expect("was there");
    assert_eq!((previous.key, previous.value), (bytes("k"), bytes("old")));
    let blind = api.put(soon(), put("k", "newer")).await.expect("written");
    assert_eq!(blind.previous, None);
}

#[tokio::test]
async fn keyspaces_do_not_see_each_other() {
    let requests = requests();
    let api = api(&requests);
    let other = Some(v1::RequestContext { keyspace: 7, ..v1::RequestContext::default() });
    api.put(soon(), v1::PutRequest { context: other, ..put("k", "v") }).await.expect("written");
    assert_eq!(requests.stored(b"\0\0\x07k").expect("in keyspace 7").0, "v");
    assert_eq!(api.get(soon(), get("k")).await.expect("the default one").kv, None);
    let found = api.get(soon(), v1::GetRequest { context: other, ..get("k") }).await;
    assert_eq!(found.expect("keyspace 7").kv.expect("present").key, "k");
}

#[tokio::test]
async fn times_to_live_are_given_or_kept() {
    let requests = requests();
    let api = api(&requests);
    let ttl = v1::PutRequest { ttl_ms: 500, ..put("k", "a") };
    api.put(soon(), ttl.clone()).await.expect("with an end");
    assert_eq!(
        api.get(soon(), get("k")).await.expect("there").kv.expect("there").ttl_ms,
        Some(500)
    );
    api.put(soon(), v1::PutRequest { keep_ttl: true, ..put("k", "b") }).await.expect("kept");
    assert_eq!(requests.stored(b"\0\0\x01k"), Some((bytes("b"), 500)));
    api.put(soon(), put("k", "c")).await.expect("for ever");
    assert_eq!(requests.stored(b"\0\0\x01k"), Some((bytes("c"), 0)));
    let both = v1::PutRequest { keep_ttl: true, ..ttl };
    assert_eq!(refused_field(api.put(soon(), both).await).0, "keep_ttl");
}

#[tokio::test]
async fn delete_says_whether_the_key_was_there() {
    let requests = requests();
    let api = api(&requests);
    requests.fill(&[("k", "v")]);
    let delete = v1::DeleteRequest { context: None, key: bytes("k"), return_previous: true };
    let first = api.delete(soon(), delete.clone()).await.expect("removed");
    assert!(first.deleted);
    let previous = first.previous.expect("was there");
    assert_eq!((previous.key, previous.value), (bytes("k"), bytes("v")));
    let second = api.delete(soon(), delete).await.expect("removing nothing succeeds");
    assert_eq!((second.deleted, second.previous), (false, None));
}

#[tokio::test]
async fn transaction_takes_one_branch_and_answers_users_keys() {
    let requests = requests();
    let api = api(&requests);
    requests.fill(&[("a", "1")]);
    let op = |op| v1::Op { op: Some(op) };
    let get_a = op(Op::Get(v1::GetOp { key: bytes("a") }));
    let put_b = op(Op::Put(v1::PutOp {
        key: bytes("b"),
        value: bytes("2"),
        return_previous: true,
        ..v1::PutOp::default()
    }));
    let compare = |value: &str| {
        let condition = Some(Condition::ValueEquals(bytes(value)));
        v1::Compare { key: bytes("a"), condition }
    };
    let txn = |value| v1::TxnRequest {
        context: None,
        compare: vec![compare(value)],
        success: vec![put_b.clone(), get_a.clone()],
        failure: vec![get_a.clone()],
    };
    let taken = api.txn(soon(), txn("1")).await.expect("holds");
    assert!(taken.succeeded);
    assert_eq!(taken.results.len(), 2);
    let Some(Outcome::Get(got)) = &taken.results[1].result else { panic!("{taken:?}") };
    assert_eq!(got.kv.as_ref().expect("present").key, "a");
    assert_eq!(requests.keys(), ["a", "b"]);

    let refused = api.txn(soon(), txn("other")).await.expect("a failed compare is no error");
    assert!(!refused.succeeded);
    assert_eq!(refused.results.len(), 1);

    let nothing = v1::TxnRequest::default();
    assert_eq!(refused_field(api.txn(soon(), nothing).await).0, "txn");
}

#[tokio::test]
async fn transaction_over_regions_is_refused_and_applies_nothing() {
    let requests = requests();
    let api = api(&requests);
    let op = |key: &str| {
        let put = v1::PutOp { key: bytes(key), ..v1::PutOp::default() };
        v1::Op { op: Some(Op::Put(put)) }
    };
    let txn = v1::TxnRequest { success: vec![op("a"), op("z")], ..v1::TxnRequest::default() };
    let error = api.txn(soon(), txn).await.expect_err("two regions");
    assert!(matches!(&error, Error::CrossRegion { regions } if regions.len() == 2), "{error:?}");
    assert!(requests.keys().is_empty());
}

#[tokio::test]
async fn compare_and_put_replaces_what_is_expected_and_shows_what_is_not() {
    let requests = requests();
    let api = api(&requests);
    let cas = |expected, value: &str| v1::CompareAndPutRequest {
        context: None,
        key: bytes("k"),
        new_value: bytes(value),
        ttl_ms: 0,
        expected,
    };
    let absent = Some(Expected::Absent(true));
    let first = api.compare_and_put(soon(), cas(absent.clone(), "1")).await.expect("answered");
    assert!(first.succeeded && first.current.is_none());
    let again = api.compare_and_put(soon(), cas(absent, "x")).await.expect("answered");
    assert!(!again.succeeded);
    let current = again.current.expect("what is there");
    assert_eq!((current.key, current.value), (bytes("k"), bytes("1")));

    let value = Some(Expected::Value(bytes("1")));
    assert!(api.compare_and_put(soon(), cas(value, "2")).await.expect("answered").succeeded);
    let old = Some(Expected::Revision(current.revision));
    assert!(!api.compare_and_put(soon(), cas(old, "x")).await.expect("answered").succeeded);
    let now = api.get(soon(), get("k")).await.expect("there").kv.expect("there").revision;
    let new = Some(Expected::Revision(now));
    assert!(api.compare_and_put(soon(), cas(new, "3")).await.expect("answered").succeeded);
    assert_eq!(requests.stored(b"\0\0\x01k").expect("there").0, "3");

    for (expected, field) in [(None, "expected"), (Some(Expected::Absent(false)), "absent")] {
        let result = api.compare_and_put(soon(), cas(expected, "x")).await;
        assert_eq!(refused_field(result).0, field);
    }
}

#[tokio::test]
async fn compare_and_put_is_one_command() {
    let requests = requests();
    let request = v1::CompareAndPutRequest {
        key: bytes("k"),
        new_value: bytes("v"),
        ttl_ms: 9,
        expected: Some(Expected::Revision(4)),
        ..v1::CompareAndPutRequest::default()
    };
    api(&requests).compare_and_put(soon(), request).await.expect("answered");
    let key = bytes("\0\0\x01k");
    let put = v1::PutOp { key: key.clone(), value: bytes("v"), ttl_ms: 9, ..v1::PutOp::default() };
    let want = v1::WriteCommand {
        compare: vec![v1::Compare {
            key: key.clone(),
            condition: Some(Condition::RevisionEquals(4)),
        }],
        success: vec![v1::Op { op: Some(Op::Put(put)) }],
        failure: vec![v1::Op { op: Some(Op::Get(v1::GetOp { key })) }],
        value_bytes_max: Limits::default().value_bytes_max as u64,
        answer_bytes_max: 0,
    };
    assert_eq!(requests.last_command(), want);
}

#[tokio::test]
async fn put_if_absent_leaves_what_is_there() {
    let requests = requests();
    let api = api(&requests);
    let request = |value: &str| v1::PutIfAbsentRequest {
        key: bytes("k"),
        value: bytes(value),
        ttl_ms: 5,
        ..v1::PutIfAbsentRequest::default()
    };
    let first = api.put_if_absent(soon(), request("1")).await.expect("answered");
    assert!(first.succeeded && first.current.is_none());
    let second = api.put_if_absent(soon(), request("2")).await.expect("answered");
    assert!(!second.succeeded);
    assert_eq!(second.current.expect("what is there").value, "1");
    assert_eq!(requests.stored(b"\0\0\x01k"), Some((bytes("1"), 5)));
}

#[tokio::test]
async fn get_and_put_answers_the_value_it_replaced() {
    let requests = requests();
    let api = api(&requests);
    let request = |value: &str| v1::GetAndPutRequest {
        key: bytes("k"),
        value: bytes(value),
        ..v1::GetAndPutRequest::default()
    };
    assert_eq!(api.get_and_put(soon(), request("1")).await.expect("written").previous, None);
    let second = api.get_and_put(soon(), request("2")).await.expect("written");
    assert_eq!(second.previous.expect("the first").value, "1");
}

#[tokio::test]
async fn append_and_increment_answer_where_they_got() {
    let requests = requests();
    let api = api(&requests);
    let append = v1::AppendRequest { context: None, key: bytes("log"), value: bytes("ab") };
    assert_eq!(api.append(soon(), append.clone()).await.expect("new").value_bytes, 2);
    assert_eq!(api.append(soon(), append).await.expect("longer").value_bytes, 4);

    let add = |delta| v1::IncrementRequest { context: None, key: bytes("n"), delta };
    let first = api.increment(soon(), add(5)).await.expect("from nothing");
    assert_eq!((first.start, first.end), (0, 5));
    let second = api.increment(soon(), add(-7)).await.expect("down");
    assert_eq!((second.start, second.end), (5, -2));

    let on_text = v1::IncrementRequest { context: None, key: bytes("log"), delta: 1 };
    let error = api.increment(soon(), on_text).await.expect_err("it is text");
    assert!(matches!(error, Error::NotACounter { .. }) && !error.maybe_applied());
    requests.fill(&[("n", &i64::MAX.to_string())]);
    let error = api.increment(soon(), add(1)).await.expect_err("overflow");
    assert!(matches!(error, Error::NotACounter { .. }));
}

#[tokio::test]
async fn the_setting_of_values_bounds_what_appending_makes() {
    let requests = requests();
    let limits = Limits { value_bytes_max: 8, ..Limits::default() };
    let api = KvApi::new(requests.clone(), limits.into());
    let append =
        |value: &str| v1::AppendRequest { context: None, key: bytes("k"), value: bytes(value) };
    api.append(soon(), append("123456")).await.expect("fits");
    let error = api.append(soon(), append("789")).await.expect_err("9 bytes");
    let Error::InvalidArgument { field, limit, .. } = &error else { panic!("{error:?}") };
    assert_eq!((&field[..], *limit), ("value", 8));
    assert_eq!(requests.stored(b"\0\0\x01k"), Some((bytes("123456"), 0)));

    let op = v1::AppendOp { key: bytes("k"), value: bytes("789") };
    let get = v1::GetOp { key: bytes("k") };
    let success = [Op::Get(get), Op::Append(op)].map(|op| v1::Op { op: Some(op) }).to_vec();
    let txn = v1::TxnRequest { success, ..v1::TxnRequest::default() };
    let (field, limit) = refused_field(api.txn(soon(), txn).await);
    assert_eq!((&field[..], limit), ("success[1].value", 8));
}

#[tokio::test]
async fn an_answer_that_could_not_be_sent_is_refused_before_it_is_made() {
    let requests = requests();
    let large = "x".repeat(8 << 20);
    requests.fill(&[("big", &large[..])]);
    let get = || v1::Op { op: Some(Op::Get(v1::GetOp { key: bytes("big") })) };
    let add = v1::AddOp { key: bytes("count"), delta: 1 };
    let add = v1::Op { op: Some(Op::Add(add)) };
    let txn = |success| v1::TxnRequest { success, ..v1::TxnRequest::default() };
    let answer = api(&requests).txn(soon(), txn(vec![get(), get()])).await.expect("two fit");
    assert!(prost::Message::encoded_len(&answer) < flotilla_proto::MESSAGE_BYTES_MAX);
    let (field, limit) =
        refused_field(api(&requests).txn(soon(), txn(vec![add, get(), get(), get()])).await);
    assert_eq!((&field[..], limit), ("answer", crate::command::ANSWER_BYTES_MAX as u64));
    assert_eq!(requests.stored(b"\0\0\x01count"), None, "and nothing was counted");
}

#[tokio::test]
async fn context_reaches_the_router() {
    let requests = requests();
    let api = api(&requests);
    let deadline = soon();
    let context = v1::RequestContext {
        read_mode: v1::ReadMode::Stale.into(),
        ..region_context(&requests, "k")
    };
    let request = v1::GetRequest { context: Some(context), ..get("k") };
    api.get(deadline, request).await.expect("the right region");
    let cx = requests.last_context();
    assert_eq!(cx.deadline, deadline);
    assert_eq!(cx.read_mode, v1::ReadMode::Stale);
    assert_eq!(cx.route.expect("routed").0.0, context.region_id);

    let elsewhere = v1::GetRequest { context: Some(context), ..get("z") };
    let error = api.get(deadline, elsewhere).await.expect_err("another region's key");
    assert!(matches!(error, Error::KeyNotInRegion { .. }));
}

#[tokio::test]
async fn routers_errors_are_handed_on_as_they_are() {
    let requests = requests();
    let api = api(&requests);
    for error in [
        Error::OutcomeUnknown { message: "late".into() },
        Error::Busy { queue: "proposals".into(), retry_after: Duration::from_millis(9) },
        Error::Draining,
    ] {
        requests.fail_write(0, error.clone());
        assert_eq!(api.put(soon(), put("k", "v")).await, Err(error.clone()));
        requests.fail_read(0, error.clone());
        assert_eq!(api.get(soon(), get("k")).await, Err(error));
    }
}

#[tokio::test]
async fn every_call_refuses_keys_and_values_past_their_limits() {
    let requests = requests();
    let limits =
        Limits { key_bytes_max: 3, value_bytes_max: 3, request_bytes_max: 5, ..Limits::default() };
    let api = KvApi::new(requests.clone(), Arc::new(limits));
    let at = soon();
    for (key, want) in [("", ("key".to_string(), 0)), ("long", ("key".to_string(), 3))] {
        let key = bytes(key);
        let context = None;
        let results = [
            api.get(at, v1::GetRequest { context, key: key.clone() }).await.map(drop),
            api.put(at, v1::PutRequest { key: key.clone(), ..put("", "") }).await.map(drop),
            api.delete(at, v1::DeleteRequest { key: key.clone(), ..v1::DeleteRequest::default() })
                .await
                .map(drop),
            api.increment(at, v1::IncrementRequest { context, key: key.clone(), delta: 1 })
                .await
                .map(drop),
            api.append(at, v1::AppendRequest { context, key: key.clone(), value: Bytes::new() })
                .await
                .map(drop),
            api.put_if_absent(
                at,
                v1::PutIfAbsentRequest { key: key.clone(), ..v1::PutIfAbsentRequest::default() },
            )
            .await
            .map(drop),
            api.get_and_put(
                at,
                v1::GetAndPutRequest { key: key.clone(), ..v1::GetAndPutRequest::default() },
            )
            .await
            .map(drop),
            api.compare_and_put(
                at,
                v1::CompareAndPutRequest {
                    key: key.clone(),
                    expected: Some(Expected::Absent(true)),
                    ..v1::CompareAndPutRequest::default()
                },
            )
            .await
            .map(drop),
        ];
        for result in results {
            assert_eq!(refused_field(result), want);
        }
    }
    let value = bytes("long");
    let key = bytes("k");
    let results = [
        api.put(at, put("k", "long")).await.map(drop),
        api.append(at, v1::AppendRequest { context: None, key: key.clone(), value: value.clone() })
            .await
            .map(drop),
        api.put_if_absent(
            at,
            v1::PutIfAbsentRequest {
                key: key.clone(),
                value: value.clone(),
                ..v1::PutIfAbsentRequest::default()
            },
        )
        .await
        .map(drop),
        api.get_and_put(at, v1::GetAndPutRequest { key, value, ..v1::GetAndPutRequest::default() })
            .await
            .map(drop),
    ];
    for result in results {
        assert_eq!(refused_field(result), ("value".to_string(), 3));
    }
    assert_eq!(refused_field(api.put(at, put("kkk", "vvv")).await), ("request".to_string(), 5));
    assert_eq!((requests.reads(), requests.writes()), (0, 0), "nothing went further");
}
