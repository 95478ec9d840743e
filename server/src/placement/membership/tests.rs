use flotilla_proto::v1::NodeState;

use super::*;
use crate::{
    ids::ClusterId,
    placement::{
        config::PlacementConfig,
        fixture::{CLUSTER, Fixture, NOW_MS, record as row, table as table_of},
    },
};

const OUR_VERSION: &str = "0.1.0";

/// What a call did, in a word: `nothing`, the nodes it wrote, or the kind of its refusal.
fn text(result: &Result<Decision, Error>) -> String {
    match result {
        Ok(Decision::Nothing) => "nothing".to_owned(),
        Ok(Decision::Write(change)) => {
            let puts = change.command.success.iter().filter_map(|op| match &op.op {
                Some(v1::op::Op::Put(put)) => prost::Message::decode(put.value.clone())
                    .ok()
                    .filter(|node: &v1::NodeRecord| node.node_id != 0),
                _ => None,
            });
            let words = puts.map(|node| {
                let forced = if node.forced { " forced" } else { "" };
                let demoted = if node.demoted { " demoted" } else { "" };
                format!("{} {}{forced}{demoted}", node.node_id, node.state().as_str_name())
            });
            words.collect::<Vec<_>>().join(", ")
        }
        Err(error) => kind(error).to_owned(),
    }
}

fn kind(error: &Error) -> &'static str {
    match error {
        Error::FailedPrecondition { .. } => "refused",
        Error::NotFound { .. } => "not found",
        Error::InvalidArgument { .. } => "invalid",
        Error::NotReady { .. } => "not ready",
        Error::VersionMoved { .. } => "version moved",
        Error::NoLeader { .. } => "no leader",
        Error::Internal { .. } => "internal",
        other => panic!("unexpected {other:?}"),
    }
}

/// The table that the command writes is the table that the change promises.
#[test]
fn change_promises_what_its_command_writes() {
    let table = table_of(3, vec![row(1, NodeState::Up), row(4, NodeState::NodeLearner)]);
    let change = TableChange::new(&table, &[row(2, NodeState::Joining), row(4, NodeState::Up)]);
    assert_eq!(change.table.version, 11);
    let states: Vec<_> =
        change.table.nodes.iter().map(|node| (node.node_id, node.state())).collect();
    assert_eq!(
        states,
        [(1, NodeState::Up), (2, NodeState::Joining), (4, NodeState::Up)],
        "in the order of ids"
    );
    assert_eq!(text(&Ok(Decision::Write(change.clone()))), "2 JOINING, 4 UP");
    assert_eq!(
        change.command,
        tables::change_nodes(10, &change.table.nodes[1..], tables::Settings::default())
    );
}

#[test]
fn every_call_is_refused_when_the_table_has_moved() {
    let fixture = Fixture::new(3, "1:up 2:up 3:up 4:up");
    let (view, config) = (fixture.view(), PlacementConfig::default());
    for (expected_version, want) in
        [(None, false), (Some(10), false), (Some(9), true), (Some(11), true)]
    {
        let moved = |error: Option<Error>| match error {
            Some(Error::VersionMoved { expected, actual }) => {
                assert_eq!((Some(expected), actual), (expected_version, 10));
                true
            }
            _ => false,
        };
        let add = v1::AddLearnerRequest {
            address: "n9:7420".to_owned(),
            expected_version,
            ..Default::default()
        };
        let change = v1::ChangeMembershipRequest {
            promote: vec![1],
            expected_version,
            ..Default::default()
        };
        let remove = v1::RemoveNodeRequest { node_id: 4, force: false, expected_version };
        let cancel = v1::CancelRemoveNodeRequest { node_id: 4, expected_version };
        let answers = [
            moved(add_learner(&fixture.table, &add, &unjoined("n9"), OUR_VERSION).err()),
            moved(change_membership(&fixture.table, &change).err()),
            moved(remove_node(&view, &remove, &config, NOW_MS).err()),
            moved(cancel_remove_node(&fixture.table, &cancel).err()),
        ];
        assert_eq!(answers, [want; 4], "{expected_version:?}");
    }
}

// ---- AddLearner ----

fn unjoined(host: &str) -> v1::StatusResponse {
    v1::StatusResponse {
        version: OUR_VERSION.to_owned(),
        client_address: format!("{host}:7420"),
        peer_address: format!("{host}:7421"),
        http_address: format!("{host}:7422"),
        feature_level: 1,
        labels: [("zone".to_owned(), "a".to_owned()), ("disk".to_owned(), "ssd".to_owned())].into(),
        ..Default::default()
    }
}

fn joined(host: &str, node: u64) -> v1::StatusResponse {
    v1::StatusResponse {
        joined: true,
        node_id: node,
        cluster_id: ClusterId(CLUSTER).to_string(),
        ..unjoined(host)
    }
}

#[test]
fn new_node_joins_under_its_own_addresses_and_both_labels() {
    let table = table_of(3, vec![row(1, NodeState::Up)]);
    let request = v1::AddLearnerRequest {
        address: "10.0.0.9:7420".to_owned(),
        labels: [("zone".to_owned(), "b".to_owned())].into(),
        expected_version: None,
    };
    let next = add_learner(&table, &request, &unjoined("n9"), OUR_VERSION);
    let Ok(AddLearner::Join { record }) = next else { panic!("{next:?}") };
    assert_eq!(record.client_address, "n9:7420", "as it is told to others, not as it was dialled");
    assert_eq!(record.labels["zone"], "b", "the caller knows better");
    assert_eq!(record.labels["disk"], "ssd");

    let change = join(&table, record.clone(), NodeId(2)).expect("the id is new");
    assert_eq!(text(&Ok(Decision::Write(change.clone()))), "2 JOINING");
    let again = join(&change.table, record, NodeId(2));
    assert!(matches!(again, Err(Error::Internal { .. })), "an id is never given twice: {again:?}");

    let learner = confirm(&change.table, NodeId(2));
    assert_eq!(text(&learner), "2 NODE_LEARNER");
}

#[test]
fn add_learner_goes_on_from_wherever_it_was_cut_off() {
    let table = table_of(
        3,
        vec![
            row(1, NodeState::Up),
            row(2, NodeState::Joining),
            row(3, NodeState::NodeLearner),
            row(4, NodeState::Draining),
            row(5, NodeState::Removed),
            v1::NodeRecord { forced: true, ..row(6, NodeState::Draining) },
        ],
    );
    let removed = v1::StatusResponse { removed: true, ..unjoined("n5") };
    let foreign = v1::StatusResponse { cluster_id: "00".repeat(16), ..joined("n9", 1) };
    let old = v1::StatusResponse { version: "2.0.0".to_owned(), ..unjoined("n9") };
    let shares_peer = v1::StatusResponse { peer_address: "n1:7421".to_owned(), ..unjoined("n9") };
    let promised = v1::StatusResponse { birth_id: vec![1; 16].into(), ..unjoined("n9") };
    let simple = v1::StatusResponse { feature_level: 0, ..unjoined("n9") };
    let labelled = v1::StatusResponse {
        labels: [("zone".to_owned(), "z".repeat(1 << 20))].into(),
        ..unjoined("n9")
    };
    let another_disk = v1::StatusResponse { disk_id: vec![2; 16].into(), ..unjoined("n2") };
    let mute = v1::StatusResponse { peer_address: String::new(), ..unjoined("n9") };
    for (why, address, status, want) in [
        ("new", "n9:7420", unjoined("n9"), "join"),
        ("id taken, no identity on the disk", "n2:7420", unjoined("n2"), "adopt 2"),
        ("id taken by another disk", "n2:7420", another_disk, "replace 2"),
        ("identity on the disk, not in the table", "n2:7420", joined("n2", 2), "confirm 2"),
        ("learner already", "n3:7420", joined("n3", 3), "known 3"),
        ("in service already", "n1:7420", joined("n1", 1), "known 1"),
        ("by another name of the same node", "10.0.0.1:7420", joined("n1", 1), "known 1"),
        ("drains", "n4:7420", joined("n4", 4), "known 4"),
        ("lost disk in service", "n1:7420", unjoined("n1"), "replace 1"),
        ("lost disk of a learner", "n3:7420", unjoined("n3"), "replace 3"),
        ("lost disk, by another name", "10.0.0.1:7420", unjoined("n1"), "replace 1"),
        ("peer address of a member, another client address", "n9:7420", shares_peer, "refused"),
        ("about to be of another cluster", "n9:7420", promised, "refused"),
        ("below the cluster's feature level", "n9:7420", simple, "refused"),
        ("labels over their budget", "n9:7420", labelled, "invalid"),
        ("lost disk that was given up", "n6:7420", unjoined("n6"), "join"),
        ("address of a removed node", "n5:7420", unjoined("n5"), "join"),
        ("disk of a removed node", "n5:7420", joined("n5", 5), "refused"),
        ("it knows that it was removed", "n5:7420", removed, "refused"),
        ("another cluster", "n9:7420", foreign, "refused"),
        ("id that is not known", "n9:7420", joined("n9", 9), "refused"),
        ("version too far", "n9:7420", old, "refused"),
        ("address that cannot be dialled", "n9", unjoined("n9"), "invalid"),
        ("it does not know its own address", "n9:7420", mute, "invalid"),
    ] {
        let request = v1::AddLearnerRequest { address: address.to_owned(), ..Default::default() };
        let got = match add_learner(&table, &request, &status, OUR_VERSION) {
            Ok(AddLearner::Known { node }) => format!("known {node}"),
            Ok(AddLearner::Confirm { node }) => format!("confirm {node}"),
            Ok(AddLearner::Adopt { node }) => format!("adopt {node}"),
            Ok(AddLearner::Replace { lost }) => format!("replace {lost}"),
            Ok(AddLearner::Join { .. }) => "join".to_owned(),
            Err(error) => kind(&error).to_owned(),
        };
        assert_eq!(got, want, "{why}");
    }
}

/// Whoever is at an address by mistake must not cost the node its disk that is there by right, and away for a moment.
#[test]
fn member_is_given_up_for_an_empty_disk_that_was_found_at_its_address() {
    let table = table_of(
        3,
        vec![
            row(1, NodeState::Up),
            row(2, NodeState::Joining),
            row(5, NodeState::Removed),
            v1::NodeRecord { forced: true, ..row(6, NodeState::Draining) },
        ],
    );
    for (why, asked, status, want) in [
        ("found there", "n1:7420", unjoined("n1"), false),
        ("found elsewhere", "10.0.0.9:7420", unjoined("n1"), true),
        ("a member says where it is", "10.0.0.9:7420", joined("n1", 1), false),
        ("nobody is there", "10.0.0.9:7420", unjoined("n9"), false),
        ("one without a peer yet", "10.0.0.9:7420", unjoined("n2"), true),
        ("one that was removed", "10.0.0.9:7420", unjoined("n5"), false),
        ("one that was given up", "10.0.0.9:7420", unjoined("n6"), false),
    ] {
        assert_eq!(only_says_where(&table, asked, &status), want, "{why}");
    }
}

#[test]
fn confirm_makes_a_learner_once() {
    for (state, want) in [
        (NodeState::Joining, "1 NODE_LEARNER"),
        (NodeState::NodeLearner, "nothing"),
        (NodeState::Up, "nothing"),
        (NodeState::Draining, "refused"),
        (NodeState::Removed, "refused"),
    ] {
        let table = table_of(3, vec![row(1, state)]);
        assert_eq!(text(&confirm(&table, NodeId(1))), want, "{state:?}");
    }
    assert_eq!(text(&confirm(&table_of(3, vec![]), NodeId(1))), "not found");
}

#[test]
fn heartbeat_confirms_and_brings_new_addresses() {
    let told = |node: u64| v1::HeartbeatRequest {
        node_id: node,
        client_address: format!("n{node}:7420"),
        peer_address: format!("n{node}:7421"),
        http_address: format!("n{node}:7422"),
        version: "0.1.0".to_owned(),
        feature_level: 1,
        ..Default::default()
    };
    let moved = v1::HeartbeatRequest { client_address: "m1:7420".to_owned(), ..told(1) };
    let upgraded = v1::HeartbeatRequest { version: "0.2.0".to_owned(), ..told(1) };
    let undialable = v1::HeartbeatRequest { peer_address: "m1".to_owned(), ..told(1) };
    let endless = v1::HeartbeatRequest { http_address: "a".repeat(1 << 20), ..told(1) };
    let wordy = v1::HeartbeatRequest { version: "0".repeat(1 << 20), ..told(1) };
    let mute = v1::HeartbeatRequest { node_id: 1, feature_level: 1, ..Default::default() };
    let table = table_of(
        3,
        vec![row(1, NodeState::Up), row(2, NodeState::Joining), row(3, NodeState::Removed)],
    );
    for (why, request, want) in [
        ("nothing new", told(1), "nothing"),
        ("says nothing", mute, "nothing"),
        ("restarted elsewhere", moved, "1 UP"),
        ("upgraded", upgraded, "1 UP"),
        ("an address that is none", undialable, "nothing"),
        ("an address without end", endless, "nothing"),
        ("a version without end", wordy, "nothing"),
        ("has its identity", told(2), "2 NODE_LEARNER"),
        ("removed", told(3), "nothing"),
        ("unknown", told(9), "nothing"),
    ] {
        let decision = heard(&table, &request);
        assert_eq!(text(&Ok(decision)), want, "{why}");
    }
    let moved = v1::HeartbeatRequest { client_address: "m1:7420".to_owned(), ..told(1) };
    let Decision::Write(change) = heard(&table, &moved) else { panic!("it moved") };
    assert_eq!(change.table.nodes[0].client_address, "m1:7420");
    assert_eq!(heard(&change.table, &moved), Decision::Nothing, "once");
}

// ---- ChangeMembership ----

#[test]
fn change_membership_is_all_or_nothing() {
    for (why, nodes, promote, demote, want) in [
        ("promote", "1:up 2:learner", &[2][..], &[][..], "2 UP"),
        ("two", "1:up 2:learner 3:learner", &[2, 3], &[], "2 UP, 3 UP"),
        ("named twice", "1:up 2:learner", &[2, 2], &[], "2 UP"),
        ("promoted already", "1:up 2:up", &[2], &[], "nothing"),
        ("nothing asked", "1:up", &[], &[], "nothing"),
        ("not joined yet", "1:up 2:joining", &[2], &[], "refused"),
        ("one of two not joined", "1:up 2:joining 3:learner", &[3, 2], &[], "refused"),
        ("draining", "1:up 2:drain", &[2], &[], "refused"),
        ("removed", "1:up 2:removed", &[2], &[], "refused"),
        ("unknown", "1:up", &[9], &[], "not found"),
        ("demote", "1:up 2:up 3:up 4:up", &[], &[4], "4 NODE_LEARNER demoted"),
        ("not yet in service", "1:up 2:up 3:up 4:learner", &[], &[4], "4 NODE_LEARNER demoted"),
        ("demoted already", "1:up 2:up 3:up 4:demoted", &[], &[4], "nothing"),
        ("put back", "1:up 2:up 3:up 4:demoted", &[4], &[], "4 UP"),
        ("too few would stay", "1:up 2:up 3:up", &[], &[3], "refused"),
        ("swap", "1:up 2:up 3:up 4:learner", &[4], &[3], "4 UP, 3 NODE_LEARNER demoted"),
        ("both at once", "1:up 2:learner", &[2], &[2], "invalid"),
    ] {
        let table = Fixture::new(3, nodes).table;
        let request = v1::ChangeMembershipRequest {
            promote: promote.to_vec(),
            demote: demote.to_vec(),
            expected_version: None,
            ..Default::default()
        };
        assert_eq!(text(&change_membership(&table, &request)), want, "{why}");
    }
}

/// Who adds a node and has it promoted has not asked for one that somebody took out of service.
#[test]
fn demoted_node_is_not_promoted_by_the_way() {
    for (why, nodes, keep_demoted, want) in [
        ("new", "1:up 2:learner", true, "2 UP"),
        ("in service", "1:up 2:up", true, "nothing"),
        ("demoted", "1:up 2:demoted", true, "refused"),
        ("asked for", "1:up 2:demoted", false, "2 UP"),
    ] {
        let table = Fixture::new(1, nodes).table;
        let request =
            v1::ChangeMembershipRequest { promote: vec![2], keep_demoted, ..Default::default() };
        assert_eq!(text(&change_membership(&table, &request)), want, "{why}");
    }
}

#[test]
fn replication_factor_is_changed_within_what_there_is() {
    for (why, nodes, promote, demote, factor, want) in [
        ("raised", "1:up 2:up 3:up", &[][..], &[][..], 3, Ok(Some(3))),
        ("as it is", "1:up", &[], &[], 1, Ok(None)),
        ("by a node that comes with it", "1:up 2:up 3:learner", &[3], &[], 3, Ok(Some(3))),
        ("one node short", "1:up 2:up 3:learner", &[], &[], 3, Err("refused")),
        ("one goes with it", "1:up 2:up 3:up", &[], &[3], 3, Err("refused")),
        ("even", "1:up 2:up", &[], &[], 2, Err("invalid")),
        ("none", "1:up", &[], &[], 0, Err("invalid")),
        ("beyond the largest", "1:up", &[], &[], 9, Err("invalid")),
    ] {
        let table = Fixture::new(1, nodes).table;
        let request = v1::ChangeMembershipRequest {
            promote: promote.to_vec(),
            demote: demote.to_vec(),
            replication_factor: Some(factor),
            ..Default::default()
        };
        let got = match change_membership(&table, &request) {
            Ok(Decision::Nothing) => Ok(None),
            Ok(Decision::Write(change)) => {
                assert_eq!(change.table.version, table.version + 1, "{why}");
                Ok(Some(change.table.replication_factor))
            }
            refused => Err(text(&refused)),
        };
        assert_eq!(got, want.map_err(ToOwned::to_owned), "{why}");
    }
    // Fewer copies than nodes may leave: the demotion that the old factor forbade goes with it.
    let table = Fixture::new(3, "1:up 2:up 3:up").table;
    let lower = |factor| v1::ChangeMembershipRequest {
        demote: vec![3],
        replication_factor: factor,
        ..Default::default()
    };
    assert_eq!(text(&change_membership(&table, &lower(None))), "refused");
    assert_eq!(text(&change_membership(&table, &lower(Some(1)))), "3 NODE_LEARNER demoted");
}

// ---- RemoveNode ----

/// Why, replication factor, nodes, regions, node to remove, force, what comes of it.
type RemoveRow<'a> = (&'a str, u32, &'a str, &'a [&'a str], u64, bool, &'a str);

#[track_caller]
fn check_remove(rows: &[RemoveRow<'_>]) {
    for (why, replication_factor, nodes, regions, node, force, want) in rows {
        let mut fixture = Fixture::new(*replication_factor, nodes);
        for peers in *regions {
            fixture = fixture.region(peers);
        }
        let request =
            v1::RemoveNodeRequest { node_id: *node, force: *force, expected_version: None };
        let result = remove_node(&fixture.view(), &request, &PlacementConfig::default(), NOW_MS);
        assert_eq!(text(&result), *want, "{why}: {result:?}");
    }
}

#[test]
fn node_is_drained_only_when_enough_stay() {
    check_remove(&[
        ("one to spare", 3, "1:up 2:up 3:up 4:up", &[], 4, false, "4 DRAINING"),
        ("none to spare", 3, "1:up 2:up 3:up", &[], 3, false, "refused"),
        ("learners do not count", 3, "1:up 2:up 3:up 4:learner", &[], 3, false, "refused"),
        ("draining do not count", 3, "1:up 2:up 3:up 4:drain", &[], 3, false, "refused"),
        ("fewer than wanted already", 3, "1:up 2:up", &[], 2, false, "refused"),
        ("one peer per region", 1, "1:up 2:up", &[], 1, false, "1 DRAINING"),
        ("the last", 1, "1:up", &[], 1, false, "refused"),
        ("the last in service", 1, "1:up 2:learner", &[], 1, false, "refused"),
        ("a learner", 3, "1:up 2:up 3:up 4:learner", &[], 4, false, "4 DRAINING"),
        ("one that never came", 3, "1:up 2:joining", &[], 2, false, "2 DRAINING"),
        ("a dead one, enough others", 3, "1:up 2:up 3:up 4:off", &[], 4, false, "4 DRAINING"),
        ("drains already", 3, "1:up 2:up 3:up 4:drain", &[], 4, false, "nothing"),
        ("gone already", 3, "1:up 2:up 3:up 4:removed", &[], 4, false, "nothing"),
        ("unknown", 3, "1:up 2:up 3:up", &[], 9, false, "not found"),
    ]);
}

#[test]
fn force_is_for_the_dead_whose_regions_keep_a_live_quorum() {
    let three = "1:up 2:up 3:off";
    check_remove(&[
        ("quorum kept", 3, three, &["1* 2 3"], 3, true, "3 DRAINING forced"),
        ("it is alive", 3, "1:up 2:up 3:up", &["1* 2 3"], 3, true, "refused"),
        ("one region on it has only two", 3, three, &["1* 2 3", "1* 3"], 3, true, "refused"),
        ("another is silent", 3, three, &["1* 2s 3"], 3, true, "refused"),
        ("another is dead", 3, "1:up 2:off 3:off", &["1* 2 3"], 3, true, "refused"),
        ("another is quarantined", 3, three, &["1* 2q 3"], 3, true, "refused"),
        ("another lost what it acknowledged", 3, three, &["1* 2r 3"], 3, true, "refused"),
        ("only a learner is on it", 3, three, &["1* 2 3l-"], 3, true, "3 DRAINING forced"),
        ("nothing is on it", 3, three, &["1* 2"], 3, true, "3 DRAINING forced"),
        (
            "it never had an identity",
            3,
            "1:up 2:off 3:joiningoff",
            &["1* 2"],
            3,
            true,
            "3 DRAINING forced",
        ),
        ("its region is not heard", 3, three, &["1 2 3", "1* 2 3"], 3, true, "not ready"),
        ("it led its region last", 3, three, &["3* 1 2"], 3, true, "refused"),
        ("a joint change is open", 3, three, &["1* 2 3 joint"], 3, true, "not ready"),
        ("no region is heard", 3, three, &[], 3, true, "not ready"),
        (
            "drains, now it is dead",
            3,
            "1:up 2:up 3:drainoff",
            &["1* 2 3"],
            3,
            true,
            "3 DRAINING forced",
        ),
        ("given up already", 3, "1:up 2:up 3:force", &["1* 2 3"], 3, true, "nothing"),
        ("given up, asked softly", 3, "1:up 2:up 3:force", &["1* 2 3"], 3, false, "nothing"),
        ("the last in service", 3, "1:off 2:learner", &["1*"], 1, true, "refused"),
    ]);
}

/// A driver that has just begun may not have heard it at all.
#[test]
fn node_that_has_not_been_waited_for_is_not_called_alive() {
    let fixture = Fixture::new(3, "1:up 2:up 3:up").region("1* 2 3");
    let request = v1::RemoveNodeRequest { node_id: 3, force: true, expected_version: None };
    let refused = remove_node(&fixture.view(), &request, &PlacementConfig::default(), NOW_MS);
    let words = refused.expect_err("force is for dead nodes").to_string();
    let want = "node 3 was heard within the last 20s, or has not been waited for that long: ";
    assert!(words.starts_with(want), "{words}");
}

#[test]
fn removal_tells_what_is_left() {
    let fixture = Fixture::new(3, "1:up 2:up 3:up 4:drain").region("4* 2 3").region("1* 2 4");
    let view = fixture.view();
    let answer = removal(&view, NodeId(4)).expect("known");
    assert_eq!(answer.state(), NodeState::Draining);
    assert_eq!((answer.peers_left, answer.leaders_left, answer.version), (2, 1, 10));
    assert!(matches!(removal(&view, NodeId(9)), Err(Error::NotFound { .. })));
}

#[test]
fn removal_can_be_taken_back_until_the_end() {
    for (state, want) in [
        ("drain", "2 UP"),
        ("drainoff", "2 UP"),
        ("force", "refused"),
        ("removed", "refused"),
        ("up", "nothing"),
        ("learner", "nothing"),
        ("joining", "nothing"),
    ] {
        let table = Fixture::new(3, &format!("1:up 2:{state}")).table;
        let request = v1::CancelRemoveNodeRequest { node_id: 2, expected_version: None };
        assert_eq!(text(&cancel_remove_node(&table, &request)), want, "{state}");
    }
    let request = v1::CancelRemoveNodeRequest { node_id: 2, expected_version: None };
    assert_eq!(text(&cancel_remove_node(&table_of(3, vec![]), &request)), "not found");
}

#[test]
fn node_is_let_go_only_when_it_certainly_holds_nothing() {
    for (why, nodes, regions, want) in [
        ("empty", "1:up 2:up 3:drain", &["1* 2"][..], "3 REMOVED"),
        ("two at once", "1:up 2:drain 3:force", &["1*"], "2 REMOVED, 3 REMOVED forced"),
        ("a voter", "1:up 2:up 3:drain", &["1* 2 3"], "nothing"),
        ("a learner", "1:up 2:up 3:drain", &["1* 2 3l"], "nothing"),
        ("one empty, one not", "1:up 2:drain 3:drain", &["1* 2"], "3 REMOVED"),
        ("no region is heard", "1:up 2:up 3:drain", &[], "nothing"),
        ("a region is not heard", "1:up 2:up 3:drain", &["1* 2", "1 2"], "nothing"),
        ("a leader that nobody answers", "1:up 2:off 3:drain", &["1* 2"], "nothing"),
        ("nobody drains", "1:up 2:up 3:up", &["1* 2 3"], "nothing"),
        ("all copies are there", "1:up 2:up 3:up 4:drain", &["1* 2 3"], "4 REMOVED"),
        ("one does not answer", "1:up 2:up 3:off 4:drain", &["1* 2 3"], "nothing"),
        ("one is not there yet", "1:up 2:up 3:up 4:drain", &["1* 2 3", "1* 2 3l"], "nothing"),
        ("one cannot be trusted", "1:up 2:up 3:up 4:drain", &["1* 2 3q"], "nothing"),
        ("more nodes than copies", "1:up 2:up 3:up 4:up 5:drain", &["1* 2 4"], "5 REMOVED"),
        ("as many as can be", "1:up 2:up 4:drain", &["1* 2"], "4 REMOVED"),
        (
            "by force: nothing is to be had",
            "1:up 2:up 3:off 4:force",
            &["1* 2 3"],
            "4 REMOVED forced",
        ),
        ("another drains", "1:up 2:up 3:drain 4:drain 5:up", &["1* 2 3"], "4 REMOVED"),
    ] {
        let mut fixture = Fixture::new(3, nodes);
        for peers in regions {
            fixture = fixture.region(peers);
        }
        let change = finish_removals(&fixture.view(), &PlacementConfig::default(), NOW_MS);
        let decision = change.map_or(Decision::Nothing, Decision::Write);
        assert_eq!(text(&Ok(decision)), want, "{why}");
    }
}

// ---- leaders ----

#[test]
fn eviction_is_for_an_hour_at_most() {
    let table = Fixture::new(3, "1:up 2:removed").table;
    for (why, node_id, duration_ms, want) in [
        ("a minute", 1, 60_000, "ok 60s"),
        ("ends it", 1, 0, "ok 0s"),
        ("an hour", 1, 3_600_000, "ok 3600s"),
        ("longer", 1, 3_600_001, "invalid"),
        ("unknown", 9, 1, "not found"),
        ("removed", 2, 1, "refused"),
    ] {
        let request = v1::EvictLeadersRequest { node_id, duration_ms };
        let got = match evict_leaders(&table, &request) {
            Ok((node, duration)) => {
                assert_eq!(node.0, node_id);
                format!("ok {}s", duration.as_secs())
            }
            Err(error) => kind(&error).to_owned(),
        };
        assert_eq!(got, want, "{why}");
    }
}
