use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::api::fake::{FakeRequests, api, region_context, soon};

const ALPHABET: [&str; 26] = [
    "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r", "s",
    "t", "u", "v", "w", "x", "y", "z",
];

fn alphabet(splits: &[&str]) -> FakeRequests {
    let requests = FakeRequests::with_user_regions(splits);
    requests.fill(&ALPHABET.map(|key| (key, "value")));
    requests
}

fn everything(reverse: bool) -> v1::ScanRequest {
    v1::ScanRequest { reverse, ..v1::ScanRequest::default() }
}

async fn drain(mut pager: Pager<FakeRequests>) -> Result<Vec<String>, Error> {
    let mut keys = Vec::new();
    while let Some(page) = pager.next().await? {
        assert!(!page.is_empty(), "a page is never empty");
        keys.extend(page.into_iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()));
    }
    Ok(keys)
}

async fn scan(requests: &FakeRequests, request: v1::ScanRequest) -> Result<Vec<String>, Error> {
    drain(api(requests).scan(Some(soon()), request)?).await
}

/// The alphabet's keys that `keep` accepts, in the direction of the scan.
fn expected(reverse: bool, keep: impl Fn(&str) -> bool) -> Vec<String> {
    let mut keys: Vec<String> =
        ALPHABET.iter().filter(|key| keep(key)).map(|key| (*key).to_string()).collect();
    if reverse {
        keys.reverse();
    }
    keys
}

#[tokio::test]
async fn ranges_are_read_in_order_across_regions() {
    let requests = alphabet(&["c", "m", "mm", "q"]);
    for (why, start, end) in [
        ("everything", "", ""),
        ("within one region", "d", "k"),
        ("across borders", "b", "r"),
        ("from a border to a border", "c", "m"),
        ("an end beyond all keys", "y", "zzz"),
        ("nothing there", "aa", "b"),
        ("a region without keys", "m\0", "n"),
        ("an empty range", "k", "k"),
    ] {
        for reverse in [false, true] {
            let request = v1::ScanRequest {
                start_key: start.into(),
                end_key: end.into(),
                ..everything(reverse)
            };
            let keys = scan(&requests, request).await.expect(why);
            let want = expected(reverse, |key| key >= start && (end.is_empty() || key < end));
            assert_eq!(keys, want, "{why}, reverse: {reverse}");
        }
    }
}

#[tokio::test]
async fn pages_continue_where_the_last_one_ended() {
    for page in [1, 2, 3, 7] {
        for reverse in [false, true] {
            let requests = alphabet(&["c", "q"]);
            requests.limit_pages(page);
            let keys = scan(&requests, everything(reverse)).await.expect("all pages");
            assert_eq!(keys, expected(reverse, |_| true), "pages of {page}, reverse: {reverse}");
        }
    }
}

#[tokio::test]
async fn limit_counts_over_all_pages() {
    for limit in [1, 2, 3, 4, 25, 26, 27] {
        for reverse in [false, true] {
            let requests = alphabet(&["c", "q"]);
            requests.limit_pages(3);
            let request = v1::ScanRequest { limit, ..everything(reverse) };
            let keys = scan(&requests, request).await.expect("all pages");
            let mut want = expected(reverse, |_| true);
            want.truncate(usize::try_from(limit).expect("small"));
            assert_eq!(keys, want, "limit {limit}, reverse: {reverse}");
        }
    }
    let requests = alphabet(&[]);
    let request = v1::ScanRequest { limit: 5, ..everything(false) };
    assert_eq!(scan(&requests, request).await.expect("one page").len(), 5);
    assert_eq!(requests.reads(), 1, "a limit that is reached needs no further read");
}

#[tokio::test]
async fn prefix_selects_its_keys_alone() {
    let requests = FakeRequests::with_user_regions(&["ab"]);
    requests.fill(&[("a", "1"), ("ab", "2"), ("ab\0", "3"), ("abz", "4"), ("ac", "5"), ("b", "6")]);
    for reverse in [false, true] {
        let request = v1::ScanRequest {
            prefix: "ab".into(),
            // Ignored beside a prefix.
            start_key: "abz".into(),
            ..everything(reverse)
        };
        let mut want = vec!["ab", "ab\0", "abz"];
        if reverse {
            want.reverse();
        }
        assert_eq!(scan(&requests, request).await.expect("three"), want);
    }
}

#[tokio::test]
async fn keys_only_leaves_values_out() {
    let requests = alphabet(&[]);
    let request = v1::ScanRequest { keys_only: true, ..everything(false) };
    let mut pager = api(&requests).scan(None, request).expect("well-formed");
    let page = pager.next().await.expect("read").expect("not empty");
    assert_eq!(page.len(), 26);
    assert!(page.iter().all(|kv| kv.value.is_empty() && kv.revision > 0));
}

#[tokio::test]
async fn keyspaces_end_where_the_next_begins() {
    let requests = alphabet(&[]);
    let other = v1::RequestContext { keyspace: 2, ..v1::RequestContext::default() };
    for reverse in [false, true] {
        let request = v1::ScanRequest { context: Some(other), ..everything(reverse) };
        assert!(scan(&requests, request).await.expect("nothing there").is_empty());
    }
}

#[tokio::test]
async fn scan_of_all_keyspaces_names_the_keyspace_of_each_key() {
    let requests = alphabet(&["m"]);
    let at = |keyspace, key: &'static str| {
        let keyspace = Keyspace::named(keyspace).expect("a keyspace");
        (keyspace.encode(key.as_bytes()), Bytes::from_static(b"value"))
    };
    requests.fill_encoded([at(2, "a"), at(0x00fe_fefe, "z")]);
    let from = |keyspace, start_key: &'static str| v1::ScanRequest {
        context: Some(v1::RequestContext { keyspace, ..v1::RequestContext::default() }),
        start_key: start_key.into(),
        all_keyspaces: true,
        ..v1::ScanRequest::default()
    };
    for (why, request, want) in [
        ("from the start", from(0, ""), 28),
        ("from a key", from(1, "y"), 4),
        ("from a later keyspace", from(3, ""), 1),
        ("from behind the last", from(0x00fe_fefe, "zz"), 0),
    ] {
        let mut found = Vec::new();
        let mut pager = api(&requests).scan(Some(soon()), request).expect("well-formed");
        while let Some(page) = pager.next_page().await.expect("read") {
            assert_eq!(page.keyspaces.len(), page.kvs.len(), "{why}");
            found.extend(page.keyspaces.into_iter().zip(page.kvs.into_iter().map(|kv| kv.key)));
        }
        assert_eq!(found.len(), want, "{why}: {found:?}");
        assert!(found.is_sorted(), "{why}: {found:?}");
        if want > 0 {
            assert_eq!(found.last(), Some(&(0x00fe_fefe, Bytes::from_static(b"z"))), "{why}");
        }
    }
    for part in [
        v1::ScanRequest { reverse: true, ..from(1, "") },
        v1::ScanRequest { end_key: "m".into(), ..from(1, "") },
        v1::ScanRequest { prefix: "m".into(), ..from(1, "") },
    ] {
        let refused = scan(&requests, part).await;
        assert!(matches!(refused, Err(Error::InvalidArgument { .. })), "{refused:?}");
    }
}

#[tokio::test]
async fn splits_and_merges_under_way_cost_neither_gap_nor_duplicate() {
    for reverse in [false, true] {
        for page in [2, 5, 100] {
            for after in 0..6 {
                let requests = alphabet(&["c", "q"]);
                requests.limit_pages(page);
                requests.split_before_read(after, "f");
                requests.split_before_read(after + 1, "t");
                requests.merge_before_read(after + 2, "q");
                let keys = scan(&requests, everything(reverse)).await.expect("mends itself");
                let want = expected(reverse, |_| true);
                assert_eq!(keys, want, "reverse: {reverse}, pages of {page}, after {after} reads");
            }
        }
    }
}

#[tokio::test]
async fn missing_leader_is_waited_for() {
    let requests = alphabet(&["m"]);
    let region = crate::ids::RegionId(2);
    requests.fail_read(0, Error::NoLeader { region });
    requests.fail_read(2, Error::NotLeader { region, leader: None });
    let keys = scan(&requests, everything(false)).await.expect("a leader appears");
    assert_eq!(keys, expected(false, |_| true));
}

#[tokio::test]
async fn scan_that_has_begun_waits_for_a_place() {
    let busy = || Error::Busy {
        queue: "region_requests".to_owned(),
        retry_after: Duration::from_millis(2),
    };
    let requests = alphabet(&["m"]);
    requests.fail_read(0, busy());
    scan(&requests, everything(false)).await.expect_err("one that has not begun is refused");
    let requests = alphabet(&["m"]);
    requests.fail_read(1, busy());
    let keys = scan(&requests, everything(false)).await.expect("there is room soon");
    assert_eq!(keys, expected(false, |_| true));
}

#[tokio::test]
async fn error_ends_the_scan_after_what_was_right() {
    let requests = alphabet(&["m"]);
    requests.fail_read(1, Error::DataLoss { message: "bad block".into() });
    let mut pages = api(&requests).scan(None, everything(false)).expect("begun").into_stream();
    let first = pages.next().await.expect("a page").expect("the first region");
    assert_eq!(first.kvs.len(), 12);
    let status = pages.next().await.expect("an end").expect_err("the second region");
    assert_eq!(status.code(), tonic::Code::DataLoss);
    assert!(pages.next().await.is_none());
}

#[tokio::test]
async fn caller_that_routes_is_told_of_changes() {
    let requests = alphabet(&["m"]);
    let context = Some(region_context(&requests, "a"));
    let own = v1::ScanRequest { context, end_key: "m".into(), ..everything(false) };
    assert_eq!(scan(&requests, own.clone()).await.expect("its region").len(), 12);
    let wider = v1::ScanRequest { context, ..everything(false) };
    let error = scan(&requests, wider).await.expect_err("two regions");
    assert!(matches!(error, Error::KeyNotInRegion { .. }), "{error:?}");
    requests.split_unnoticed("c");
    let error = scan(&requests, own).await.expect_err("old epoch");
    assert!(matches!(error, Error::EpochNotMatch { .. }), "{error:?}");
}

#[tokio::test]
async fn dropped_page_is_read_again() {
    let requests = alphabet(&["m"]);
    requests.limit_pages(4);
    let mut pager = api(&requests).scan(None, everything(false)).expect("begun");
    let first = pager.next().await.expect("read").expect("a page");
    requests.hang(true);
    let dropped = tokio::time::timeout(Duration::from_millis(10), pager.next()).await;
    assert!(dropped.is_err(), "it hangs");
    requests.hang(false);
    let rest = drain(pager).await.expect("goes on");
    assert_eq!(first.len() + rest.len(), 26);
    assert_eq!(rest[0], "e");
}

#[tokio::test]
async fn each_page_has_a_deadline_within_the_scans() {
    let requests = alphabet(&[]);
    let limits = Limits { request_timeout_default: Duration::from_secs(5), ..Limits::default() };
    let api = KvApi::new(requests.clone(), Arc::new(limits));
    for (deadline, most) in
        [(None, 5), (Some(soon()), 5), (Some(Instant::now() + Duration::from_secs(2)), 2)]
    {
        let mut pager = api.scan(deadline, everything(false)).expect("begun");
        pager.next().await.expect("read");
        let page = requests.last_context().deadline;
        assert!(page <= Instant::now() + Duration::from_secs(most));
        assert!(page > Instant::now());
    }
    let expired =
        api.scan(Some(Instant::now()), everything(false)).map(drop).expect_err("too late");
    assert!(matches!(expired, Error::DeadlineExceeded { .. }));
}

#[tokio::test]
async fn malformed_scans_are_refused() {
    let requests = alphabet(&[]);
    let long = Bytes::from(vec![b'x'; 4098]);
    for (field, request) in [
        (
            "end_key",
            v1::ScanRequest { start_key: "b".into(), end_key: "a".into(), ..everything(false) },
        ),
        ("start_key", v1::ScanRequest { start_key: long.clone(), ..everything(false) }),
        ("end_key", v1::ScanRequest { end_key: long.clone(), ..everything(false) }),
        ("prefix", v1::ScanRequest { prefix: long.clone(), ..everything(false) }),
    ] {
        let error = api(&requests).scan(None, request).map(drop).expect_err(field);
        assert!(matches!(error, Error::InvalidArgument { field: f, .. } if f == field));
    }
}

/// Whoever reads none of his pages leaves room for those of others.
#[tokio::test]
async fn pages_that_are_not_read_are_bounded_over_all_scans() {
    const ROOM: usize = 1 << 20;
    let requests = FakeRequests::with_user_regions(&[]);
    let value = "x".repeat(16 << 10);
    let keys: Vec<String> = (0..100).map(|number| format!("{number:03}")).collect();
    let pairs: Vec<(&str, &str)> = keys.iter().map(|key| (&key[..], &value[..])).collect();
    requests.fill(&pairs);
    let limits = Limits { pages_held_bytes_max: ROOM, ..Limits::default() };
    let api = KvApi::new(requests.clone(), Arc::new(limits));
    let all = v1::ScanRequest::default();
    let (mut unread, mut bytes) = (Vec::new(), 0);
    for _ in 0..100 {
        let mut pager = api.scan(None, all.clone()).expect("begun");
        let page = pager.next().await.expect("a page, if a small one").expect("not the end");
        bytes += page.len() * value.len();
        unread.push(pager);
    }
    assert!(bytes <= ROOM + 100 * (FREE_BYTES + value.len()), "{bytes} bytes");
    let large = "x".repeat(ROOM / 4 * 3);
    requests.fill(&[("large", &large)]);
    let only = v1::ScanRequest { prefix: "large".into(), ..v1::ScanRequest::default() };
    let mut pager = api.scan(None, only.clone()).expect("begun");
    assert!(matches!(pager.next().await, Err(Error::Busy { queue, .. }) if queue == "scans"));
    drop(unread);
    let mut held = api.scan(None, only.clone()).expect("begun");
    assert_eq!(held.next().await.expect("room").expect("there").len(), 1);
    let before = requests.value_bytes_read();
    for _ in 0..10 {
        let mut pager = api.scan(None, only.clone()).expect("begun");
        assert!(matches!(pager.next().await, Err(Error::Busy { queue, .. }) if queue == "scans"));
    }
    assert_eq!(requests.value_bytes_read(), before, "what is refused is not read before");
    drop(held);
    let mut pager = api.scan(None, all).expect("begun");
    let mut seen = 0;
    while let Some(page) = pager.next().await.expect("each page gives back the one before") {
        seen += page.len();
    }
    assert_eq!(seen, 101);
}
