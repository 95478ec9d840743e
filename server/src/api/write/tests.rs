use super::*;
use crate::api::{
    fake::{FakeRequests, api, region_context, soon},
    limits::Limits,
};

fn put(key: &'static str) -> v1::Op {
    let put = v1::PutOp { key: key.into(), value: "new".into(), ..v1::PutOp::default() };
    v1::Op { op: Some(Op::Put(put)) }
}

fn delete_range(start: &'static str, end: &'static str) -> v1::Op {
    let (start_key, end_key) = (start.into(), end.into());
    let range = v1::DeleteRangeOp { start_key, end_key, ..v1::DeleteRangeOp::default() };
    v1::Op { op: Some(Op::DeleteRange(range)) }
}

fn delete_all() -> v1::Op {
    let range = v1::DeleteRangeOp { all: true, ..v1::DeleteRangeOp::default() };
    v1::Op { op: Some(Op::DeleteRange(range)) }
}

fn swap(key: &'static str) -> v1::Op {
    let put = v1::PutOp { key: key.into(), return_previous: true, ..v1::PutOp::default() };
    v1::Op { op: Some(Op::Put(put)) }
}

fn request(ops: Vec<v1::Op>) -> v1::WriteRequest {
    v1::WriteRequest { context: None, ops, require_atomic: false }
}

/// Indexes per region, sorted, so that the order in which regions answer does not matter.
fn indexes(response: &v1::WriteResponse) -> Vec<Vec<u32>> {
    let mut all: Vec<Vec<u32>> =
        response.regions.iter().map(|region| region.op_indexes.clone()).collect();
    all.sort();
    all
}

#[tokio::test]
async fn operations_of_one_region_are_one_command() {
    let requests = FakeRequests::with_user_regions(&["g", "p"]);
    let response = api(&requests)
        .write(soon(), request(vec![put("h"), put("i"), delete_range("j", "k")]))
        .await
        .expect("written");
    assert!(response.atomic);
    assert_eq!(indexes(&response), [[0, 1, 2]]);
    assert_eq!(response.regions[0].results.len(), 3);
    assert_eq!(response.regions[0].region_id, region_context(&requests, "h").region_id);
    assert_eq!((requests.writes(), requests.keys()), (1, vec!["h".to_string(), "i".into()]));
}

#[tokio::test]
async fn operations_of_several_regions_are_applied_in_each() {
    let requests = FakeRequests::with_user_regions(&["g", "p"]);
    let response = api(&requests)
        .write(soon(), request(vec![put("z"), put("a"), put("h"), put("b")]))
        .await
        .expect("written");
    assert!(!response.atomic);
    assert_eq!(indexes(&response), [vec![0], vec![1, 3], vec![2]]);
    assert!(response.regions.iter().all(|region| region.error.is_empty()));
    assert_eq!(requests.keys(), ["a", "b", "h", "z"]);
}

#[tokio::test]
async fn atomic_request_over_regions_is_refused_and_applies_nothing() {
    let requests = FakeRequests::with_user_regions(&["g"]);
    let atomic = v1::WriteRequest { require_atomic: true, ..request(vec![put("a"), put("z")]) };
    let error = api(&requests).write(soon(), atomic).await.expect_err("two regions");
    assert!(matches!(&error, Error::CrossRegion { regions } if regions.len() == 2), "{error:?}");
    assert_eq!(requests.writes(), 0);

    let atomic = v1::WriteRequest { require_atomic: true, ..request(vec![put("a"), put("b")]) };
    assert!(api(&requests).write(soon(), atomic).await.expect("one region").atomic);
}

#[tokio::test]
async fn atomic_request_is_refused_when_a_split_comes_first() {
    let requests = FakeRequests::with_user_regions(&[]);
    requests.split_unnoticed("m");
    let atomic = v1::WriteRequest { require_atomic: true, ..request(vec![put("a"), put("z")]) };
    let error = api(&requests).write(soon(), atomic).await.expect_err("two regions by now");
    assert!(matches!(error, Error::CrossRegion { .. }), "{error:?}");
    assert!(requests.keys().is_empty());
}

#[tokio::test]
async fn range_deletion_is_cut_at_the_borders_of_regions() {
    let requests = FakeRequests::with_user_regions(&["g", "p"]);
    requests.fill(&[("a", "1"), ("h", "2"), ("z", "3")]);
    let response =
        api(&requests).write(soon(), request(vec![delete_all(), put("h")])).await.expect("written");
    assert_eq!(indexes(&response), [vec![0], vec![0], vec![0, 1]]);
    assert_eq!(requests.keys(), ["h"], "the put came after the deletion");
}

#[tokio::test]
async fn split_under_way_is_followed_and_nothing_is_applied_twice() {
    let requests = FakeRequests::with_user_regions(&["g"]);
    requests.split_unnoticed("c");
    let add =
        |key: &'static str| v1::Op { op: Some(Op::Add(v1::AddOp { key: key.into(), delta: 1 })) };
    let response = api(&requests)
        .write(soon(), request(vec![add("a"), add("d"), add("z"), delete_range("b", "e")]))
        .await
        .expect("written");
    let mut applied: Vec<u32> =
        response.regions.iter().flat_map(|region| region.op_indexes.clone()).collect();
    applied.sort_unstable();
    assert_eq!(applied, [0, 1, 2, 3, 3], "the deletion has a part in each child");
    assert_eq!(requests.keys(), ["a", "z"]);
    for key in [b"\0\0\x01a", b"\0\0\x01z"] {
        assert_eq!(requests.stored(key).expect("there").0, "1", "added once");
    }
}

#[tokio::test]
async fn region_that_fails_is_reported_beside_those_that_did_not() {
    let requests = FakeRequests::with_user_regions(&["m"]);
    for (error, maybe_applied) in
        [(Error::Draining, false), (Error::OutcomeUnknown { message: "late".into() }, true)]
    {
        requests.fail_write(1, error.clone());
        let response = api(&requests)
            .write(soon(), request(vec![put("a"), put("z")]))
            .await
            .expect("one region did its part");
        assert!(!response.atomic);
        let failed = response.regions.iter().find(|region| !region.error.is_empty());
        let failed = failed.expect("one failed");
        assert_eq!(failed.error, error.to_string());
        assert_eq!(failed.maybe_applied, maybe_applied);
        let told = (failed.code, failed.detail.clone());
        assert_eq!(told, (code(&error) as i32, Some(error.detail())), "as a status has it");
        assert_eq!(failed.op_indexes.len(), 1);
        assert_eq!(requests.keys(), ["a"]);
    }
}

#[tokio::test]
async fn failure_of_everything_is_a_typed_error() {
    let requests = FakeRequests::with_user_regions(&["m"]);
    let unknown = Error::OutcomeUnknown { message: "late".into() };
    for error in [Error::Draining, unknown] {
        requests.fail_write(0, error.clone());
        let result = api(&requests).write(soon(), request(vec![put("a")])).await;
        assert_eq!(result, Err(error), "the only region");
    }
    requests.fail_write(0, Error::Draining);
    requests.fail_write(1, Error::Draining);
    let result = api(&requests).write(soon(), request(vec![put("a"), put("z")])).await;
    assert_eq!(result, Err(Error::Draining), "all regions, certainly nothing applied");
}

#[tokio::test]
async fn caller_that_routes_gets_its_region_or_an_error() {
    let requests = FakeRequests::with_user_regions(&["m"]);
    let context = Some(region_context(&requests, "a"));
    let inside = v1::WriteRequest { context, ..request(vec![put("a"), put("b")]) };
    assert!(api(&requests).write(soon(), inside).await.expect("its own").atomic);
    let outside = v1::WriteRequest { context, ..request(vec![put("a"), put("z")]) };
    let error = api(&requests).write(soon(), outside).await.expect_err("another's");
    assert!(matches!(error, Error::KeyNotInRegion { .. }));
    requests.split_unnoticed("f");
    let old = v1::WriteRequest { context, ..request(vec![put("a")]) };
    let error = api(&requests).write(soon(), old).await.expect_err("old epoch");
    assert!(matches!(error, Error::EpochNotMatch { .. }));
}

#[tokio::test]
async fn limits_are_kept() {
    let requests = FakeRequests::with_user_regions(&[]);
    let limits = Limits { txn_ops_max: 2, request_bytes_max: 9, ..Limits::default() };
    let api = KvApi::new(requests.clone(), limits.into());
    for (why, ops, want) in [
        ("none", vec![], ("ops", 0)),
        ("too many", vec![put("a"), put("b"), put("c")], ("ops", 2)),
        ("too large together", vec![put("aaa"), put("bbb")], ("request", 9)),
        ("an empty key", vec![put("")], ("ops[0].key", 0)),
    ] {
        match api.write(soon(), request(ops)).await {
            Err(Error::InvalidArgument { field, limit, .. }) => {
                assert_eq!((field.as_str(), limit), want, "{why}");
            }
            other => panic!("{why}: {other:?}"),
        }
    }
    assert_eq!(requests.writes(), 0);
}

#[tokio::test]
async fn what_all_regions_answer_together_is_bounded() {
    let requests = FakeRequests::with_user_regions(&["g", "p"]);
    let large: &'static str = Box::leak("x".repeat(1000).into_boxed_str());
    requests.fill(&[("a", large), ("h", large), ("z", large)]);
    let limits = Limits { answer_bytes_max: 2500, ..Limits::default() };
    let api = KvApi::new(requests.clone(), limits.into());
    let write = |ops| api.write(soon(), request(ops));

    let response = write(vec![swap("a"), put("h"), put("z")]).await.expect("one asks for a value");
    assert!(response.regions.iter().all(|region| region.error.is_empty()), "{response:?}");
    requests.fill(&[("a", large), ("h", large), ("z", large)]);
    let before = requests.stored(b"\0\0\x01a");
    let error = write(vec![swap("a"), swap("h"), swap("z")]).await.expect_err("each could be");
    assert!(
        matches!(&error, Error::InvalidArgument { field, .. } if field == "answer"),
        "{error:?}"
    );
    assert_eq!(requests.stored(b"\0\0\x01a"), before, "nothing was applied");

    let writes = requests.writes();
    let many = (0..30).map(|_| put("a")).collect();
    let error = write(many).await.expect_err("not even room to say that they were applied");
    assert!(matches!(error, Error::InvalidArgument { .. }), "{error:?}");
    assert_eq!(requests.writes(), writes, "and so they were not");
}
