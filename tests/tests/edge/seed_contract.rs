//! The course's four calls, on each of three nodes.

use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::{kv, v1::error_detail::Reason};
use flotilla_tests::harness::{Cluster, detail, eventually};
use tonic::Code;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_serves_set_get_exists_and_delete() {
    let cluster = Cluster::start(3).await;
    let sessions = cluster.sessions();
    for (index, session) in sessions.iter().enumerate() {
        let mut seed = session.seed.clone();
        let others = || sessions.iter().map(|session| session.seed.clone());
        let key = Bytes::from(format!("seed/{index}/\u{fc}ber"));
        let value = Bytes::from(vec![0, 255, index as u8]);

        let exists = |key: &Bytes| kv::ExistsRequest { key: key.clone() };
        assert!(!seed.exists(exists(&key)).await.expect("exists").into_inner().flag);
        let absent = seed.get(kv::GetRequest { key: key.clone() }).await.expect("get").into_inner();
        assert!(absent.value.is_empty() && !absent.found, "absence is an answer");

        let set = kv::SetRequest { key: key.clone(), value: value.clone() };
        seed.set(set).await.expect("set");
        for mut other in others() {
            let got = other.get(kv::GetRequest { key: key.clone() }).await.expect("get");
            assert_eq!(got.into_inner().value, value, "each node reads what another wrote");
            assert!(other.exists(exists(&key)).await.expect("exists").into_inner().flag);
        }

        // Keys that look alike are absent: no false positives.
        let mut longer = key.to_vec();
        longer.push(0);
        for other in [&key[..key.len() - 1], &longer, &[0], &[255; 8], b"seed/"] {
            let other = Bytes::copy_from_slice(other);
            let flag = seed.exists(exists(&other)).await.expect("exists").into_inner().flag;
            assert!(!flag, "{other:?} was never written");
        }

        seed.delete(kv::DeleteRequest { key: key.clone() }).await.expect("delete");
        seed.delete(kv::DeleteRequest { key: key.clone() }).await.expect("deleting nothing works");
        for mut other in others() {
            assert!(!other.exists(exists(&key)).await.expect("exists").into_inner().flag);
        }
    }
}

/// Many keys present, as many absent: a filter that is only probably right would be found out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exists_has_no_false_positives() {
    let cluster = Cluster::start(1).await;
    let session = cluster.nodes[0].session();
    let key = |number: u32| Bytes::from(format!("{number:08x}"));
    for number in (0..2_000).step_by(2) {
        session.put(key(number), "x").await.expect("put");
    }
    for number in 0..2_000 {
        let request = kv::ExistsRequest { key: key(number) };
        let flag = session.seed.clone().exists(request).await.expect("exists").into_inner().flag;
        assert_eq!(flag, number % 2 == 0, "key {number}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_and_oversized_fields_are_refused_by_name() {
    let cluster = Cluster::start(1).await;
    let session = cluster.nodes[0].session();
    let mut seed = session.seed.clone();
    let (short, long) = (Bytes::from_static(b"k"), Bytes::from(vec![b'k'; 4097]));
    let (value, huge) = (Bytes::from_static(b"v"), Bytes::from(vec![7; (8 << 20) + 1]));
    let empty = Bytes::new;
    let set =
        |key: &Bytes, value: &Bytes| kv::SetRequest { key: key.clone(), value: value.clone() };
    for (field, request) in [
        ("key", set(&empty(), &value)),
        ("key", set(&long, &value)),
        ("value", set(&short, &empty())),
        ("value", set(&short, &huge)),
    ] {
        let (key_bytes, value_bytes) = (request.key.len(), request.value.len());
        let status = seed.set(request).await.expect_err("refused");
        let why = format!("key of {key_bytes}, value of {value_bytes}: {status:?}");
        assert_eq!(status.code(), Code::InvalidArgument, "{why}");
        let detail = detail(&status).unwrap_or_else(|| panic!("no detail: {why}"));
        assert!(!detail.maybe_applied, "{why}");
        match detail.reason {
            Some(Reason::InvalidArgument(at_fault)) => assert_eq!(at_fault.field, field, "{why}"),
            other => panic!("{other:?}: {why}"),
        }
    }
    let refused = [
        seed.get(kv::GetRequest { key: empty() }).await.map(|_| ()),
        seed.exists(kv::ExistsRequest { key: empty() }).await.map(|_| ()),
        seed.delete(kv::DeleteRequest { key: empty() }).await.map(|_| ()),
    ];
    for answer in refused {
        assert_eq!(answer.expect_err("an empty key").code(), Code::InvalidArgument);
    }
    // The largest that are allowed.
    let limit = Bytes::from(vec![b'k'; 4096]);
    let largest = Bytes::from(vec![7; 8 << 20]);
    eventually("the largest key and value", Duration::from_secs(20), async || {
        seed.clone().set(set(&limit, &largest)).await
    })
    .await;
    let got = seed.get(kv::GetRequest { key: limit }).await.expect("get").into_inner();
    assert!(got.found && got.value == largest);
}
