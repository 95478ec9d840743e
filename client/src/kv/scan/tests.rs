use std::time::Duration;

use flotilla_proto::v1::{ErrorDetail, InvalidArgument, error_detail::Reason};
use futures::TryStreamExt as _;
use tonic::{Code, Status};

use super::*;
use crate::fake::{FakeCluster, Fault, typed};

const PLENTY: Duration = Duration::from_secs(20);
const KEYS: usize = 25;

fn key(number: usize) -> String {
    format!("k{number:03}")
}

async fn cluster() -> FakeCluster {
    let cluster = FakeCluster::start(2).await;
    cluster.fill((0..KEYS).map(key));
    cluster
}

async fn keys(client: &Client, scan: Scan) -> Vec<String> {
    let kvs: Vec<KeyValue> = client.scan(scan).try_collect().await.expect("scanned");
    kvs.into_iter().map(|kv| String::from_utf8(kv.key.to_vec()).expect("ours")).collect()
}

#[test]
fn the_rest_of_a_scan_begins_right_after_the_last_key() {
    let mut forward = Scan::range("a", "m");
    forward.advance(&"c".into()).expect("in range");
    assert_eq!(forward, Scan::range("c\0", "m"));
    assert!(forward.advance(&"c".into()).is_err(), "a duplicate");
    assert!(forward.advance(&"b".into()).is_err(), "disorder");
    assert!(forward.advance(&"m".into()).is_err(), "the end is exclusive");

    let mut reverse = Scan::range("a", "").reverse();
    reverse.advance(&"x".into()).expect("in range");
    reverse.advance(&"c".into()).expect("in range");
    assert_eq!(reverse, Scan::range("a", "c").reverse());
    assert!(reverse.advance(&"c".into()).is_err(), "a duplicate");
}

#[test]
fn a_prefix_is_a_range() {
    assert_eq!(Scan::prefix("ab"), Scan::range("ab", "ac"));
    assert_eq!(Scan::prefix(vec![0xff]), Scan::range(vec![0xff], ""));
    assert_eq!(Scan::prefix(""), Scan::all());
}

#[tokio::test]
async fn a_scan_that_is_cut_again_and_again_has_no_gap_and_no_duplicate() {
    let cluster = cluster().await;
    for node in &cluster.nodes {
        // Every third page breaks, each time in another way.
        node.script(|seen| {
            let breaks = seen.method == "scan_page" && seen.nth % 3 == 2;
            breaks.then(|| {
                Fault::Refuse(match seen.nth % 9 {
                    2 => Status::unavailable("cut"),
                    5 => Status::unknown("h2 protocol error"),
                    _ => {
                        let detail = ErrorDetail { retryable: true, ..ErrorDetail::default() };
                        typed(Code::Unavailable, detail)
                    }
                })
            })
        });
    }
    let client = cluster.client(PLENTY).await;
    let all: Vec<_> = (0..KEYS).map(key).collect();
    assert_eq!(keys(&client, Scan::all()).await, all);
    assert!(cluster.count("scan") > 2, "it was cut");

    let reversed: Vec<_> = all.iter().rev().cloned().collect();
    assert_eq!(keys(&client, Scan::all().reverse()).await, reversed);

    let part = Scan::range(key(3), key(20)).limit(15);
    assert_eq!(keys(&client, part.clone()).await, all[3..18]);
    assert_eq!(keys(&client, Scan::range(key(3), key(20)).reverse().limit(15)).await, {
        let mut want = all[5..20].to_vec();
        want.reverse();
        want
    });
    assert_eq!(keys(&client, Scan::prefix("k00")).await, all[..10]);
    assert!(keys(&client, Scan::prefix("none")).await.is_empty());
}

#[tokio::test]
async fn a_silent_page_is_fetched_from_another_node() {
    let cluster = cluster().await;
    for node in &cluster.nodes {
        node.script(|seen| (seen.method == "scan_page" && seen.nth == 1).then_some(Fault::Hang));
    }
    let client = cluster.client(Duration::from_secs(2)).await;
    assert_eq!(keys(&client, Scan::all()).await.len(), KEYS);
}

#[tokio::test]
async fn an_error_that_will_not_pass_ends_the_stream_after_what_came_before() {
    let cluster = cluster().await;
    for node in &cluster.nodes {
        node.script(|seen| {
            (seen.method == "scan_page" && seen.nth == 1).then(|| {
                let reason = Some(Reason::InvalidArgument(InvalidArgument::default()));
                let detail = ErrorDetail { reason, ..ErrorDetail::default() };
                Fault::Refuse(typed(Code::InvalidArgument, detail))
            })
        });
    }
    let client = cluster.client(PLENTY).await;
    let items: Vec<_> = client.scan(Scan::all()).collect().await;
    assert_eq!(items.len(), 3, "a page of two, and the error");
    assert!(matches!(items[2], Err(Error::InvalidArgument { .. })), "{:?}", items[2]);
}

#[tokio::test]
async fn a_scan_without_progress_ends_with_its_timeout() {
    let cluster = cluster().await;
    for node in &cluster.nodes {
        node.script(|seen| {
            let fails = seen.method == "scan";
            fails.then(|| Fault::Refuse(Status::unavailable("down")))
        });
    }
    let client = cluster.client(Duration::from_millis(300)).await;
    let error = client.scan(Scan::all()).try_next().await.expect_err("nothing comes");
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
}
