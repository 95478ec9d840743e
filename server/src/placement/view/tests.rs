use bytes::Bytes;
use prost::Message as _;

use super::*;
use crate::placement::{
    fixture::{Fixture, NOW_MS, record, table},
    members::{Member, Members, Standing},
    plan::plan,
};

fn report(
    id: u64,
    range: (&'static str, &'static str),
    epoch: (u64, u64),
    term: u64,
    peers: &[u64],
) -> v1::RegionReport {
    let (conf_ver, version) = epoch;
    v1::RegionReport {
        region: Some(v1::Region {
            region_id: id,
            start_key: range.0.into(),
            end_key: range.1.into(),
            epoch: Some(v1::RegionEpoch { conf_ver, version }),
            peers: peers
                .iter()
                .map(|node| v1::Peer {
                    peer_id: node + 100,
                    node_id: *node,
                    role: v1::PeerRole::Voter as i32,
                })
                .collect(),
        }),
        term,
        leader_peer_id: peers[0] + 100,
        last_index: 10,
        progress: peers[1..]
            .iter()
            .map(|node| v1::PeerProgress {
                peer_id: node + 100,
                matched_index: 10,
                silent_ms: 10,
                ..v1::PeerProgress::default()
            })
            .collect(),
        ..Default::default()
    }
}

fn heartbeat(node: u64, incarnation: u64, regions: Vec<v1::RegionReport>) -> v1::HeartbeatRequest {
    v1::HeartbeatRequest {
        cluster_id: crate::placement::fixture::CLUSTER.to_vec().into(),
        node_id: node,
        incarnation,
        feature_level: 1,
        regions,
        ..Default::default()
    }
}

fn three_nodes() -> ClusterView {
    let nodes = (1..=3).map(|id| record(id, v1::NodeState::Up)).collect();
    ClusterView::new(table(3, nodes), NOW_MS)
}

fn leader_node(view: &ClusterView, region: u64) -> Option<u64> {
    view.regions().get(&RegionId(region))?.leader.map(|leader| leader.node.0)
}

#[test]
fn silence_becomes_disconnected_then_down() {
    let config = PlacementConfig::default();
    let mut view = three_nodes();
    view.hear(heartbeat(1, 1, vec![]), NOW_MS + 5_000);
    for (why, node, now_ms, want) in [
        ("just heard", 1, NOW_MS + 5_000, v1::Liveness::Alive),
        ("a heartbeat is late", 1, NOW_MS + 7_499, v1::Liveness::Alive),
        ("two are missed", 1, NOW_MS + 7_500, v1::Liveness::Suspect),
        ("almost 20 s", 1, NOW_MS + 24_999, v1::Liveness::Suspect),
        ("20 s", 1, NOW_MS + 25_000, v1::Liveness::Disconnected),
        ("10 min", 1, NOW_MS + 605_000, v1::Liveness::Down),
        ("never heard, the driver is new", 2, NOW_MS + 2_499, v1::Liveness::Alive),
        ("never heard yet", 2, NOW_MS + 19_999, v1::Liveness::Suspect),
        ("never heard", 2, NOW_MS + 20_000, v1::Liveness::Disconnected),
        ("never heard, for long", 2, NOW_MS + 600_000, v1::Liveness::Down),
    ] {
        assert_eq!(view.liveness(NodeId(node), &config, now_ms), want, "{why}");
    }
}

#[test]
fn strangers_are_not_heard() {
    let mut view = three_nodes();
    let mut removed = table(3, vec![record(1, v1::NodeState::Removed)]);
    removed.version = 11;
    let foreign = v1::HeartbeatRequest {
        cluster_id: vec![8; 16].into(),
        ..heartbeat(1, 1, vec![report(2, ("", ""), (1, 1), 1, &[1])])
    };
    assert_eq!(view.hear(foreign, NOW_MS), Heard::WrongCluster);
    assert_eq!(view.hear(heartbeat(9, 1, vec![]), NOW_MS), Heard::Unknown);
    assert_eq!(view.hear(heartbeat(1, 1, vec![]), NOW_MS), Heard::Accepted);
    let mut raised = view.table().clone();
    (raised.version, raised.feature_level) = (11, 2);
    view.set_table(raised);
    let regions = || vec![report(2, ("", ""), (1, 1), 1, &[1])];
    assert_eq!(view.hear(heartbeat(1, 2, regions()), NOW_MS), Heard::TooOld, "it was put back");
    let upgraded = v1::HeartbeatRequest { feature_level: 2, ..heartbeat(1, 1, vec![]) };
    assert_eq!(view.hear(upgraded, NOW_MS), Heard::Accepted, "of it nothing was believed");
    removed.version = 12;
    view.set_table(removed);
    assert_eq!(view.hear(heartbeat(1, 1, vec![]), NOW_MS), Heard::Removed);
    assert!(view.regions().is_empty());
}

#[test]
fn older_table_is_passed_over() {
    let mut view = three_nodes();
    view.set_table(v1::NodeTable { version: 9, ..Default::default() });
    assert_eq!(view.table().nodes.len(), 3);
}

#[test]
fn two_processes_of_one_identity_are_both_refused() {
    let mut view = three_nodes();
    let mut hear = |seconds: u64, incarnation| {
        view.hear(heartbeat(1, incarnation, vec![]), NOW_MS + seconds * 1_000)
    };
    assert_eq!(hear(0, 5), Heard::Accepted);
    assert_eq!(hear(1, 6), Heard::Accepted, "a restart looks like this");
    assert_eq!(hear(1, 5), Heard::Superseded, "it may have been long on its way");
    assert_eq!(hear(2, 6), Heard::Accepted);
    assert_eq!(hear(5, 5), Heard::Superseded);
    assert_eq!(hear(6, 5), Heard::Duplicate, "the first is still there");
    assert_eq!(hear(6, 6), Heard::Duplicate, "and nobody knows which is the copy");
    assert_eq!(hear(7, 5), Heard::Duplicate);
    assert_eq!(hear(8, 7), Heard::Accepted, "one that starts after both were stopped");
    assert_eq!(hear(9, 7), Heard::Accepted);
}

#[test]
fn heartbeats_that_queued_up_are_no_second_process() {
    let mut view = three_nodes();
    let mut hear = |incarnation| view.hear(heartbeat(1, incarnation, vec![]), NOW_MS + 60_000);
    assert_eq!(hear(5), Heard::Accepted);
    assert_eq!(hear(6), Heard::Accepted);
    assert_eq!([hear(5), hear(5), hear(5)], [Heard::Superseded; 3]);
    assert_eq!(hear(6), Heard::Accepted);
}

#[test]
fn newest_descriptor_wins_whoever_tells_it() {
    let whole = ("", "");
    for (why, first, second, want) in [
        ("membership moved on", (3, 1, 5), (4, 1, 5), 2),
        ("older membership", (4, 1, 5), (3, 1, 9), 1),
        ("newer term", (3, 1, 5), (3, 1, 6), 2),
        ("replaced leader that does not know", (3, 1, 6), (3, 1, 5), 1),
        ("split", (3, 1, 5), (2, 2, 5), 2),
    ] {
        let mut view = three_nodes();
        for (node, (conf_ver, version, term)) in [(1, first), (2, second)] {
            let peers = if node == 1 { [1, 2, 3] } else { [2, 1, 3] };
            let report = report(5, whole, (conf_ver, version), term, &peers);
            view.hear(heartbeat(node, 1, vec![report]), NOW_MS);
        }
        assert_eq!(leader_node(&view, 5), Some(want), "{why}");
    }
}

#[test]
fn region_that_its_node_reports_no_more_has_no_leader() {
    let mut view = three_nodes();
    let told = report(5, ("", ""), (1, 1), 3, &[1, 2, 3]);
    view.hear(heartbeat(1, 1, vec![told.clone()]), NOW_MS);
    view.hear(heartbeat(2, 1, vec![]), NOW_MS);
    assert_eq!(leader_node(&view, 5), Some(1));
    view.hear(heartbeat(1, 1, vec![]), NOW_MS);
    assert_eq!(leader_node(&view, 5), None);
    let region = &view.regions()[&RegionId(5)];
    assert!(!view.is_fresh(region, &PlacementConfig::default(), NOW_MS));
    view.hear(heartbeat(1, 1, vec![told]), NOW_MS);
    assert_eq!(leader_node(&view, 5), Some(1), "it leads again");
}

#[test]
fn split_and_merge_replace_what_they_overlap() {
    let mut view = three_nodes();
    let mut hear = |reports: Vec<v1::RegionReport>| {
        view.hear(heartbeat(1, 1, reports), NOW_MS);
        let ids: Vec<u64> = view.regions().values().map(|region| region.id().0).collect();
        (ids, view.is_complete())
    };
    let parent = report(5, ("", ""), (1, 1), 3, &[1]);
    let child = report(6, ("m", ""), (1, 2), 1, &[1]);
    let rest = report(5, ("", "m"), (1, 2), 3, &[1]);
    let merged = report(5, ("", ""), (1, 3), 3, &[1]);
    assert_eq!(hear(vec![parent.clone()]), (vec![5], true));
    assert_eq!(hear(vec![child.clone()]), (vec![6], false), "the child is heard first");
    assert_eq!(hear(vec![parent, child.clone()]), (vec![6], false), "the old parent is over");
    assert_eq!(hear(vec![child.clone(), rest]), (vec![5, 6], true));
    assert_eq!(hear(vec![merged]), (vec![5], true));
    assert_eq!(hear(vec![child]), (vec![5], true), "the merged one is over");
}

/// A leader that was cut off believes in its membership, and the driver in the leader.
#[test]
fn silent_peer_is_gone_by_a_newer_membership_only() {
    let config = PlacementConfig::default();
    let mut view = three_nodes();
    view.hear(heartbeat(1, 1, vec![report(5, ("", ""), (7, 1), 3, &[1, 2])]), NOW_MS);
    for (why, region_id, peer_id, conf_ver, want) in [
        ("it was there before", 5, 103, Some(6), true),
        ("it came later", 5, 103, Some(8), false),
        ("it came with this one", 5, 103, Some(7), false),
        ("it has no state", 5, 103, Some(0), true),
        ("it does not run", 5, 103, None, true),
        ("it is a member", 5, 102, Some(6), false),
        ("of a region that nobody leads", 6, 103, Some(6), false),
    ] {
        let local = v1::LocalPeer { region_id, peer_id, conf_ver };
        let gone = view.gone(vec![local], &config, NOW_MS);
        assert_eq!(!gone.is_empty(), want, "{why}");
    }
    let late = NOW_MS + 1_000_000;
    let local = v1::LocalPeer { region_id: 5, peer_id: 103, conf_ver: Some(6) };
    assert!(view.gone(vec![local], &config, late).is_empty(), "its leader is not heard");
}

#[test]
fn complete_is_a_key_space_without_gaps() {
    for (why, ranges, want) in [
        ("nothing", &[][..], false),
        ("all in one", &[("", "")], true),
        ("two", &[("", "m"), ("m", "")], true),
        ("no begin", &[("a", "")], false),
        ("no end", &[("", "m")], false),
        ("gap", &[("", "c"), ("m", "")], false),
    ] {
        let mut view = three_nodes();
        let reports =
            ranges.iter().zip(5..).map(|(range, id)| report(id, *range, (1, 1), 1, &[1])).collect();
        view.hear(heartbeat(1, 1, reports), NOW_MS);
        assert_eq!(view.is_complete(), want, "{why}");
    }
}

#[test]
fn confirmed_wants_every_leader_to_be_answered_by_a_majority() {
    let config = PlacementConfig::default();
    for (why, nodes, regions, want) in [
        ("all well", "1:up 2:up 3:up", &["1* 2 3", "2* 1 3"][..], Ok(())),
        ("a minority is away", "1:up 2:up 3:off", &["1* 2 3"], Ok(())),
        ("no region is known", "1:up", &[], Err(None)),
        ("one has no leader", "1:up 2:up 3:up", &["1* 2 3", "1 2 3"], Err(None)),
        ("one hears no majority", "1:up 2:up 3:up", &["1* 2s 3s"], Err(Some(RegionId(2)))),
        ("its leader is not heard", "1:off 2:up 3:up", &["1* 2 3"], Err(Some(RegionId(2)))),
    ] {
        let mut fixture = Fixture::new(3, nodes);
        for peers in regions {
            fixture = fixture.region(peers);
        }
        assert_eq!(fixture.view().confirmed(&config, NOW_MS), want, "{why}");
    }
}

#[test]
fn nodes_count_what_is_on_them() {
    let fixture = Fixture::new(3, "1:up 2:crit 3:evict 4:off").region("1* 2 3l-").region("1* 2 4");
    let nodes = fixture.view().nodes(&PlacementConfig::default(), NOW_MS);
    let of = |id: u64| {
        let node = &nodes[&NodeId(id)];
        (node.leaders, node.peers, node.learners, node.may_lead())
    };
    assert_eq!(of(1), (2, 2, 0, true));
    assert_eq!(of(2), (0, 2, 0, false), "its disk is nearly full");
    assert_eq!(of(3), (0, 1, 1, false), "its leaders are evicted");
    assert_eq!(of(4), (0, 1, 0, false), "it is not heard");
    assert!(nodes[&NodeId(3)].to_node().leaders_evicted);
    assert_eq!(nodes[&NodeId(4)].to_node().liveness(), v1::Liveness::Disconnected);
    assert_eq!(fixture.view().left_on(NodeId(1)), (2, 2));
    assert_eq!(fixture.view().left_on(NodeId(4)), (1, 0));
}

#[test]
fn eviction_ends_by_itself() {
    let mut view = three_nodes();
    view.evict_leaders(NodeId(1), NOW_MS + 10);
    let evicted = |now_ms| view.nodes(&PlacementConfig::default(), now_ms)[&NodeId(1)].evicted;
    assert!(evicted(NOW_MS + 9));
    assert!(!evicted(NOW_MS + 10));
}

/// What people are shown of the first region.
fn info(nodes: &str, peers: &str, later_ms: u64) -> v1::RegionInfo {
    let config = PlacementConfig::default();
    let view = Fixture::new(3, nodes).region(peers).view();
    let nodes = view.nodes(&config, NOW_MS + later_ms);
    view.region_info(&view.regions()[&RegionId(2)], &nodes, &config, NOW_MS + later_ms)
}

#[test]
fn quarantine_of_a_peer_whose_id_was_lost_is_of_whichever_the_node_holds() {
    let mut view = three_nodes();
    let local = |peer: PeerId| v1::LocalPeer { region_id: 2, peer_id: peer.0, conf_ver: None };
    let heard = v1::HeartbeatRequest {
        quarantined: vec![local(PeerId::UNKNOWN)],
        ..heartbeat(3, 1, Vec::new())
    };
    view.hear(heard, NOW_MS);
    let is = |node, region| view.is_quarantined(NodeId(node), RegionId(region), PeerId(103));
    assert!(is(3, 2));
    assert!(!is(3, 1) && !is(2, 2));
}

#[test]
fn region_info_names_who_does_not_take_its_state_and_why() {
    let nodes = "1:up 2:up 3:drain 4:up";
    let refused = |peers| info(nodes, peers, 0).refused_peers;
    assert_eq!(refused("1* 2 3 4l-"), []);
    let reason = "the disk is too full".to_owned();
    assert_eq!(refused("1* 2 3 4l0y"), [v1::RefusedPeer { peer_id: 204, node_id: 4, reason }]);
}

#[test]
fn region_info_names_the_low_disks_for_which_it_takes_no_writes() {
    for (why, nodes, want) in [
        ("all have room", "1:up 2:up 3:up", &[][..]),
        ("one of three", "1:up 2:up 3:low", &[]),
        ("that of the leader", "1:low 2:up 3:up", &[1]),
        ("two of three", "1:up 2:low 3:low", &[2, 3]),
        ("the other one is away", "1:up 2:crit 3:off", &[2]),
    ] {
        assert_eq!(info(nodes, "1* 2 3", 0).low_node_ids, want, "{why}");
    }
}

#[test]
fn region_info_names_silent_and_lagging_peers() {
    let nodes = "1:up 2:up 3:up 4:off";
    let told = info(nodes, "1* 2- 3s 4", 0);
    let leader = told.leader.expect("led");
    assert_eq!((leader.peer_id, leader.node_id), (201, 1));
    assert_eq!(leader.client_address, "n1:7420");
    assert_eq!(told.down_peers, [203, 204]);
    assert_eq!(told.pending_peers, [202]);
    assert_eq!(info(nodes, "1* 2- 3s 4", 60_000).leader, None, "an old report tells no leader");
}

#[test]
fn listing_says_the_worst_that_is_wrong_with_a_region() {
    use v1::RegionHealth::{Changing, Healthy, NoLeader, NoQuorum, UnderReplicated};
    for (why, nodes, peers, health, down) in [
        ("all is well", "1:up 2:up 3:up", "1* 2 3", Healthy, &[][..]),
        ("there are no more nodes", "1:up", "1*", UnderReplicated, &[]),
        ("one is silent", "1:up 2:up 3:off", "1* 2 3", UnderReplicated, &[203]),
        ("two are silent", "1:up 2:off 3:off", "1* 2 3", NoQuorum, &[202, 203]),
        // Not the live followers, whom the dead leader has not heard of since it died.
        ("its leader is dead", "1:off 2:up 3:up", "1* 2 3", NoLeader, &[201]),
        ("its leader and another are dead", "1:off 2:off 3:up", "1* 2 3", NoQuorum, &[201, 202]),
        ("a fourth is coming", "1:up 2:up 3:drain 4:up", "1* 2 3 4l", Changing, &[]),
    ] {
        let told = info(nodes, peers, 0);
        assert_eq!((told.health(), &told.down_peers[..]), (health, down), "{why}");
        assert_eq!(told.voters_wanted, 3, "{why}");
        assert_eq!(told.leader.is_some(), !matches!(nodes, n if n.starts_with("1:off")), "{why}");
    }
}

#[test]
fn listing_answers_by_range_by_key_and_by_id() {
    let fixture =
        Fixture::new(3, "1:up 2:up 3:up").region("1* 2 3").region("2* 1 3").region("3* 1 2");
    let view = fixture.view();
    let list = |request: v1::RegionsRequest| {
        let told = view.list(&request, &PlacementConfig::default(), NOW_MS);
        let ids = told.regions.iter().filter_map(|info| info.region.as_ref());
        (ids.map(|region| region.region_id).collect::<Vec<_>>(), told.more)
    };
    let range = |start: &'static str, end: &'static str, limit| v1::RegionsRequest {
        start_key: start.into(),
        end_key: end.into(),
        limit,
        ..Default::default()
    };
    for (why, request, want, more) in [
        ("all", range("", "", 0), &[2, 3, 4][..], false),
        ("from the middle of one", range("0001x", "", 0), &[3, 4], false),
        ("up to a border", range("", "0002", 0), &[2, 3], false),
        ("inside of one", range("0001a", "0001b", 0), &[3], false),
        ("a page", range("", "", 2), &[2, 3], true),
        ("just all", range("", "", 3), &[2, 3, 4], false),
        ("by id", v1::RegionsRequest { region_id: 3, ..Default::default() }, &[3], false),
        ("none of that id", v1::RegionsRequest { region_id: 9, ..Default::default() }, &[], false),
        (
            "by keys, in their order",
            v1::RegionsRequest {
                keys: vec!["z".into(), "".into(), "0001".into()],
                ..Default::default()
            },
            &[4, 2, 3],
            false,
        ),
    ] {
        assert_eq!(list(request), (want.to_vec(), more), "{why}");
    }
}

#[test]
fn heartbeat_that_was_overtaken_is_not_heard() {
    let mut view = three_nodes();
    let told = report(5, ("", ""), (1, 1), 3, &[1, 2, 3]);
    let numbered =
        |sequence, reports| v1::HeartbeatRequest { sequence, ..heartbeat(1, 1, reports) };
    assert_eq!(view.hear(numbered(2, vec![]), NOW_MS), Heard::Accepted);
    assert_eq!(view.hear(numbered(1, vec![told.clone()]), NOW_MS), Heard::Superseded);
    assert!(view.regions().is_empty(), "the node leads it no more");
    assert_eq!(view.hear(numbered(3, vec![told]), NOW_MS), Heard::Accepted);
}

#[test]
fn changes_are_heard_only_by_a_view_that_heard_the_beginning() {
    let mut view = three_nodes().in_session(7);
    let told = |id, range| report(id, range, (1, 1), 3, &[1, 2, 3]);
    let change = |session, reports, led_no_more: &[u64]| v1::HeartbeatRequest {
        session,
        led_no_more: led_no_more.to_vec(),
        ..heartbeat(1, 1, reports)
    };
    let (left, right) = (told(5, ("", "m")), told(6, ("m", "")));
    assert_eq!(view.hear(change(7, vec![left.clone()], &[]), NOW_MS), Heard::Unfollowed);
    assert!(view.regions().is_empty());
    assert_eq!(view.hear(change(0, vec![left.clone()], &[]), NOW_MS), Heard::Accepted);
    assert_eq!(view.hear(change(7, vec![right], &[]), NOW_MS), Heard::Accepted);
    assert_eq!((leader_node(&view, 5), leader_node(&view, 6)), (Some(1), Some(1)));
    assert_eq!(view.hear(change(7, vec![], &[5]), NOW_MS), Heard::Accepted);
    assert_eq!((leader_node(&view, 5), leader_node(&view, 6)), (None, Some(1)));
    assert_eq!(view.hear(change(6, vec![left], &[]), NOW_MS), Heard::Unfollowed, "of another view");
    assert_eq!(leader_node(&view, 6), None, "what it told before may be over");
}

#[test]
fn region_is_fresh_while_its_leader_is_heard_though_it_tells_nothing_new() {
    let config = PlacementConfig::default();
    let mut view = three_nodes();
    let mut told = report(5, ("", ""), (1, 1), 3, &[1, 2, 3]);
    told.progress[0].silent_ms = 0;
    told.progress[1].silent_ms = 6_000;
    view.hear(heartbeat(1, 1, vec![told]), NOW_MS);
    let later = NOW_MS + 60_000;
    let go_on = v1::HeartbeatRequest { session: view.session(), ..heartbeat(1, 1, vec![]) };
    view.hear(go_on, later);
    let region = &view.regions()[&RegionId(5)];
    assert!(view.is_fresh(region, &config, later + 5_000));
    assert_eq!(view.silent_ms(region, PeerId(102), later), Some(0), "it answers");
    assert_eq!(view.silent_ms(region, PeerId(103), later), Some(66_000), "and this one does not");
    assert!(!view.is_fresh(region, &config, later + 5_001));
}

/// Whoever finds it out: the node that holds the peer, or the leader.
#[test]
fn peers_that_lost_what_they_promised_are_named_and_not_counted() {
    let fixture = Fixture::new(4, "1:up 2:up 3:up 4:up").region("1* 2q 3r 4");
    let view = fixture.view();
    let config = PlacementConfig::default();
    let region = &view.regions()[&RegionId(2)];
    let nodes = view.nodes(&config, NOW_MS);
    assert_eq!(view.region_info(region, &nodes, &config, NOW_MS).lost_peers, [202, 203]);
    let members = Members::of(&view, region, &nodes, &config, NOW_MS);
    let of = |member: &Member| (member.peer.0, member.live, member.standing == Standing::Gone);
    let judged: Vec<_> = members.iter().map(of).collect();
    let want = [(201, true, false), (202, false, true), (203, false, true), (204, true, false)];
    assert_eq!(judged, want);
}

/// Its node is there and answers, and would for ever.
#[test]
fn learner_that_its_node_has_buried_is_removed_so_that_another_can_come() {
    for flag in ["b", "x"] {
        let fixture = Fixture::new(3, "1:up 2:up 3:up").region(&format!("1* 2 3l0{flag}"));
        let config = PlacementConfig::default();
        let steps = plan(&fixture.view(), &config, NOW_MS, &mut || Some(PeerId(999)));
        let reasons: Vec<_> = steps.iter().map(|step| &*step.reason).collect();
        let want = ["remove peer 203: its data on node 3 is given up"];
        assert_eq!(reasons, if flag == "b" { &want[..] } else { &[] }, "{flag}");
    }
}

/// It has what nobody else has, and never becomes a voter there.
#[test]
fn learner_that_its_leader_contradicts_stays_and_is_not_waited_for() {
    let config = PlacementConfig::default();
    for (why, nodes, peers, want) in [
        ("all is there", "1:up 2:up 3:up 4:up", "1* 2 3 4lc", None),
        ("a voter is missed", "1:up 2:up 3:up 4:up", "1* 2 3lc", Some("add a peer: 2 of 3 voters")),
        ("the other learner comes", "1:up 2:up 3:up 4:up", "1* 2 3lc 4l0", None),
        (
            "its node drains",
            "1:up 2:up 3:up 4:drain",
            "1* 2 3 4lc",
            Some("remove learner 204: node 4 is down or not in service"),
        ),
    ] {
        let fixture = Fixture::new(3, nodes).region(peers);
        let steps = plan(&fixture.view(), &config, NOW_MS, &mut || Some(PeerId(999)));
        let reasons: Vec<_> = steps.iter().map(|step| &*step.reason).collect();
        assert_eq!(reasons, want.into_iter().collect::<Vec<_>>(), "{why}");
    }
}

/// What it alone has would go with it.
#[test]
fn peer_that_its_leader_contradicts_is_named_not_counted_and_not_replaced() {
    let fixture = Fixture::new(3, "1:up@a 2:up@b 3:up@a 4:up@c").region("1* 2 3c");
    let view = fixture.view();
    let config = PlacementConfig::default();
    let region = &view.regions()[&RegionId(2)];
    let nodes = view.nodes(&config, NOW_MS);
    let info = view.region_info(region, &nodes, &config, NOW_MS);
    assert_eq!((info.contradicted_peers, info.lost_peers), (vec![203], vec![]));
    let members = Members::of(&view, region, &nodes, &config, NOW_MS);
    let of = |member: &Member| (member.peer.0, member.live, member.standing);
    assert_eq!(members.iter().map(of).last(), Some((203, false, Standing::Stays)));
    let steps = plan(&view, &config, NOW_MS, &mut || Some(PeerId(999)));
    assert!(steps.is_empty(), "{steps:?}");
}

#[test]
fn a_page_of_regions_with_the_longest_keys_is_what_any_client_takes() {
    let key = |number: usize| Bytes::from(format!("{number:0>4096}"));
    let regions = (0..1000).map(|number| {
        let mut report = report(10 + number as u64, ("", ""), (1, 1), 1, &[1, 2, 3]);
        let region = report.region.as_mut().expect("of a region");
        region.start_key = if number == 0 { Bytes::new() } else { key(number) };
        region.end_key = if number == 999 { Bytes::new() } else { key(number + 1) };
        report
    });
    let mut view = three_nodes();
    view.hear(heartbeat(1, 1, regions.collect()), NOW_MS);
    let mut request = v1::RegionsRequest::default();
    let mut listed = 0;
    loop {
        let page = view.list(&request, &PlacementConfig::default(), NOW_MS);
        assert!(page.encoded_len() < 4 << 20, "{}", page.encoded_len());
        listed += page.regions.len();
        let last = page.regions.last().and_then(|info| info.region.as_ref()).expect("a region");
        if !page.more {
            break;
        }
        request.start_key = last.end_key.clone();
    }
    assert_eq!(listed, 1000);
}
