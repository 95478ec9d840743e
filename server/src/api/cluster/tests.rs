use std::time::Duration;

use tonic::Code;

use super::*;
use crate::api::fake::FakeMembership;

fn cluster(limits: Limits) -> (ClusterApi, Arc<FakeMembership>) {
    let fake = Arc::new(FakeMembership::default());
    let membership = Arc::clone(&fake) as Arc<dyn ClusterCalls>;
    (ClusterApi { membership, limits: limits.into() }, fake)
}

fn learner(address: &str) -> v1::AddLearnerRequest {
    v1::AddLearnerRequest { address: address.into(), ..v1::AddLearnerRequest::default() }
}

#[tokio::test]
async fn every_call_reaches_the_membership_and_answers() {
    let (api, fake) = cluster(Limits::default());
    let initialized = api.initialize(Request::new(v1::InitializeRequest::default())).await;
    assert_eq!(initialized.expect("answered").into_inner().node_id, 1);
    let added = api.add_learner(Request::new(learner("n2:7420"))).await;
    assert_eq!(added.expect("answered").into_inner().node_id, 2);
    let promotion = v1::ChangeMembershipRequest { promote: vec![2], ..Default::default() };
    let promoted = api.change_membership(Request::new(promotion)).await;
    assert_eq!(promoted.expect("answered").into_inner().version, 3);
    let removal = v1::RemoveNodeRequest { node_id: 2, ..Default::default() };
    let removing = api.remove_node(Request::new(removal)).await.expect("answered").into_inner();
    assert_eq!((removing.state(), removing.peers_left), (v1::NodeState::Draining, 3));
    let cancel = v1::CancelRemoveNodeRequest { node_id: 2, ..Default::default() };
    let cancelled = api.cancel_remove_node(Request::new(cancel)).await;
    assert_eq!(cancelled.expect("answered").into_inner().state(), v1::NodeState::Up);
    let evict = v1::EvictLeadersRequest { node_id: 2, duration_ms: 1 };
    let evicted = api.evict_leaders(Request::new(evict)).await;
    assert_eq!(evicted.expect("answered").into_inner().leaders_left, 2);
    let transfer = v1::TransferLeaderRequest { region_id: 2, to_node_id: 1 };
    api.transfer_leader(Request::new(transfer)).await.expect("answered");
    let status = api.status(Request::new(v1::StatusRequest::default())).await;
    assert!(status.expect("answered").into_inner().joined);
    let nodes = api
        .list_nodes(Request::new(v1::ListNodesRequest { all: true, ..Default::default() }))
        .await;
    assert_eq!(nodes.expect("answered").into_inner().nodes.len(), 2);
    let regions = api.list_regions(Request::new(v1::ListRegionsRequest::default())).await;
    assert_eq!(regions.expect("answered").into_inner().regions[0].term, 7);
    let keys = vec!["a".into(), "b".into()];
    let located = api.locate(Request::new(v1::LocateRequest { keyspace: 0, keys })).await;
    assert_eq!(located.expect("answered").into_inner().regions.len(), 2);
    let check = v1::CheckRegionRequest { region_id: 2, check_id: 0 };
    let checked = api.check_region(Request::new(check)).await;
    assert!(checked.expect("answered").into_inner().consistent);
    assert_eq!(fake.calls().len(), 12);
}

#[tokio::test]
async fn moved_version_is_aborted_with_both_versions() {
    let (api, _) = cluster(Limits::default());
    let stale = v1::AddLearnerRequest { expected_version: Some(9), ..learner("n2:7420") };
    let status = api.add_learner(Request::new(stale)).await.expect_err("moved");
    assert_eq!(status.code(), Code::Aborted);
    let detail = flotilla_proto::status::detail(&status).expect("a detail");
    let moved = v1::VersionMoved { expected: 9, actual: 0 };
    assert_eq!(detail.reason, Some(v1::error_detail::Reason::VersionMoved(moved)));
}

#[tokio::test]
async fn deadline_of_a_change_says_maybe_applied_and_that_of_a_read_does_not() {
    let (api, fake) =
        cluster(Limits { request_timeout_max: Duration::from_millis(10), ..Limits::default() });
    fake.hang();
    let change = api.add_learner(Request::new(learner("n2:7420"))).await.expect_err("hangs");
    let read = api.status(Request::new(v1::StatusRequest::default())).await.expect_err("hangs");
    for (status, maybe_applied) in [(change, true), (read, false)] {
        assert_eq!(status.code(), Code::DeadlineExceeded);
        let detail = flotilla_proto::status::detail(&status).expect("a detail");
        assert_eq!(detail.maybe_applied, maybe_applied);
    }
}

#[tokio::test]
async fn malformed_requests_do_not_reach_the_membership() {
    let (api, fake) = cluster(Limits::default());
    for address in ["", "n2", "n2:", ":7420", "n2:0", "n2:70000", "n2:http", &"n".repeat(2000)] {
        let status = api.add_learner(Request::new(learner(address))).await.expect_err(address);
        assert_eq!(status.code(), Code::InvalidArgument, "{address}");
        assert!(status.message().starts_with("address"), "{address}");
    }
    let even = v1::InitializeRequest { replication_factor: 2, ..Default::default() };
    let empty_split = v1::InitializeRequest { split_keys: vec!["".into()], ..Default::default() };
    for request in [even, empty_split] {
        let status = api.initialize(Request::new(request)).await.expect_err("malformed");
        assert_eq!(status.code(), Code::InvalidArgument);
    }
    let nothing = v1::LocateRequest::default();
    let status = api.locate(Request::new(nothing)).await.expect_err("no keys");
    assert_eq!(status.code(), Code::InvalidArgument);
    let labels = (0..=ENTRIES_MAX).map(|n| (n.to_string(), String::new())).collect();
    let many = v1::AddLearnerRequest { labels, ..learner("n2:7420") };
    let status = api.add_learner(Request::new(many)).await.expect_err("too many labels");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(fake.calls().is_empty(), "{:?}", fake.calls());
}

#[tokio::test]
async fn ipv6_addresses_are_addresses() {
    let (api, _) = cluster(Limits::default());
    api.add_learner(Request::new(learner("[::1]:7420"))).await.expect("host:port");
}
