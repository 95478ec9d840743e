use flotilla_proto::v1::step::Action;

use super::*;
use crate::{
    ids::NodeId,
    placement::{
        config::millis,
        fixture::{Fixture, NOW_MS},
        steps::{Verdict, verdict},
    },
};

/// `add 4`, `+4 -3`, `finish`, `lead 2`: with the nodes of the peers.
fn text(step: &v1::Step) -> String {
    let node = |peer: &u64| peer % 100;
    match step.action.as_ref().expect("an action") {
        Action::AddLearner(add) => format!("add {}", add.node_id),
        Action::Transfer(to) => format!("lead {}", node(&to.peer_id)),
        Action::Change(change) if steps::is_finish(change) => "finish".to_owned(),
        Action::Change(change) => {
            let promote = change.promote.iter().map(|peer| format!("+{}", node(peer)));
            let remove = change.remove.iter().map(|peer| format!("-{}", node(peer)));
            promote.chain(remove).collect::<Vec<_>>().join(" ")
        }
    }
}

fn plan_of(fixture: &Fixture, view: &ClusterView, config: &PlacementConfig) -> Vec<v1::Step> {
    let mut next = 900_000;
    let steps = plan(view, config, NOW_MS, &mut || {
        next += 1;
        Some(PeerId(next))
    });
    for step in &steps {
        assert!(!step.reason.is_empty());
        let (_, report) = fixture
            .reports
            .iter()
            .find(|(_, report)| {
                report.region.as_ref().is_some_and(|region| region.region_id == step.region_id)
            })
            .expect("a step is for a region that was reported");
        assert_eq!(verdict(step, report, config), Verdict::Apply, "the leader agrees: {step:?}");
    }
    steps
}

/// Rows are (why, nodes, peers of region 2, the wanted step).
#[track_caller]
fn check(replication_factor: u32, rows: &[(&str, &str, &str, &str)]) {
    for (why, nodes, peers, want) in rows {
        let fixture = Fixture::new(replication_factor, nodes).region(peers);
        let steps = plan_of(&fixture, &fixture.view(), &Fixture::config());
        let got: Vec<_> = steps.iter().map(text).collect();
        assert_eq!(got.join("; "), *want, "{why}: {nodes} | {peers}: {steps:?}");
    }
}

#[test]
fn region_that_wants_nothing_else_is_spread_over_failure_domains() {
    let zones = "1:up@a 2:up@b 3:up@a 4:up@c";
    check(
        3,
        &[
            ("two in one zone", zones, "1* 2 3", "add 4"),
            ("the leader stays", zones, "1 2 3*", "add 4"),
            ("first the learner catches up", zones, "1* 2 3 4l-", ""),
            ("then they change places", zones, "1* 2 3 4l", "+4 -3"),
            ("and whoever leads stays", zones, "1 2 3* 4l", "+4 -1"),
            ("spread as it can be", zones, "1* 2 4", ""),
            ("nowhere is better", "1:up@a 2:up@b 3:up@a 4:up@b", "1* 2 3", ""),
            ("by host in one zone", "1:up@a/x 2:up@a/y 3:up@a/y 4:up@a/z", "1* 2 3", "add 4"),
            ("zone before host", "1:up@a/x 2:up@b/y 3:up@a/z 4:up@c/x", "1* 2 3", "add 4"),
            ("a node that says not where it is", "1:up@a 2:up@b 3:up@a 4:up", "1* 2 3", ""),
            ("a node that is not heard", "1:up@a 2:up@b 3:up@a 4:off@c", "1* 2 3", ""),
            ("what is down is replaced first", "1:up@a 2:up@a 3:down@b 4:up@c", "1* 2 3", "add 4"),
        ],
    );
}

/// A peer there would be refused for ever, and its learner judged lost and removed, over and over.
#[test]
fn node_with_a_log_of_the_region_that_nobody_owns_gets_no_peer_of_it() {
    let nodes = "1:up 2:up 3:up 4:up";
    check(
        3,
        &[
            ("the only node there is", "1:up 2:up 3:up", "1* 2 3?", ""),
            ("another one takes it", nodes, "1* 2 3? 4", ""),
            ("another one is to take it", nodes, "1* 2 3?", "add 4"),
            ("its voter there is replaced elsewhere", nodes, "1* 2 3 3?", "-3"),
            ("a learner that was ordered before", nodes, "1* 2 3l0 3?", "-3"),
            ("not for spreading either", "1:up@a 2:up@b 3:up@a 4:up@c", "1* 2 3 4?", ""),
        ],
    );
    // Of another region it may get one.
    let fixture = Fixture::new(3, "1:up 2:up 3:up").region("1* 2 3?").region("2* 1");
    let steps = plan_of(&fixture, &fixture.view(), &Fixture::config());
    let got: Vec<_> = steps.iter().map(|step| (step.region_id, text(step))).collect();
    assert_eq!(got, [(3, "add 3".to_owned())]);
}

#[test]
fn healthy_region_is_left_alone() {
    check(
        3,
        &[
            ("all well", "1:up 2:up 3:up", "1* 2 3", ""),
            ("a spare node", "1:up 2:up 3:up 4:up", "1* 2 3", ""),
            ("disconnected is not down", "1:up 2:up 3:off 4:up", "1* 2 3", ""),
            ("one node, one peer", "1:up", "1*", ""),
            ("two nodes, two peers", "1:up 2:up", "1* 2", ""),
            ("learner nodes get nothing", "1:up 2:learner 3:joining", "1*", ""),
            ("a follower lags", "1:up 2:up 3:up", "1* 2- 3", ""),
        ],
    );
}

#[test]
fn region_grows_to_the_replication_factor_learner_first() {
    check(
        3,
        &[
            ("second node", "1:up 2:up", "1*", "add 2"),
            ("lowest id of equals", "1:up 2:up 3:up", "1*", "add 2"),
            ("learner has no data", "1:up 2:up", "1* 2l0", ""),
            ("learner lags", "1:up 2:up", "1* 2l-", ""),
            ("learner is silent", "1:up 2:up", "1* 2ls", ""),
            ("learner lags, another is wanted too", "1:up 2:up 3:up", "1* 2l-", "add 3"),
            ("enough are coming", "1:up 2:up 3:up 4:up", "1* 2l- 3l-", ""),
            ("learner has caught up", "1:up 2:up", "1* 2l", "+2"),
            ("third", "1:up 2:up 3:up", "1* 2", "add 3"),
            ("node is silent", "1:up 2:up 3:off", "1* 2", ""),
            ("node has a full disk", "1:up 2:up 3:crit", "1* 2", ""),
            ("node has a disk that is low", "1:up 2:up 3:low", "1* 2", ""),
            ("another one takes it", "1:up 2:up 3:low 4:up", "1* 2", "add 4"),
            ("silent learner is replaced", "1:up 2:up 3:off 4:up", "1* 2 3l-", "add 4"),
            ("then dropped", "1:up 2:up 3:off 4:up", "1* 2 3l- 4l-", "-3"),
            ("but kept while it is all there is", "1:up 2:up 3:off", "1* 2 3l-", ""),
        ],
    );
}

#[test]
fn lost_quorum_gets_no_steps() {
    check(
        3,
        &[
            ("two of three down", "1:up 2:down 3:down 4:up", "1* 2 3", ""),
            ("two of three disconnected", "1:up 2:off 3:off 4:up", "1* 2 3", ""),
            ("two of three silent to the leader", "1:up 2:up 3:up 4:up", "1* 2s 3s", ""),
            ("two quarantined", "1:up 2:up 3:up 4:up", "1* 2q 3q", ""),
            ("one of two down, learner ready", "1:up 2:down 3:up", "1* 2 3l", ""),
        ],
    );
}

#[test]
fn down_peer_is_replaced_by_adding_first() {
    check(
        3,
        &[
            ("no other node: it may come back", "1:up 2:up 3:down", "1* 2 3", ""),
            ("spare node", "1:up 2:up 3:down 4:up", "1* 2 3", "add 4"),
            ("learner on its way", "1:up 2:up 3:down 4:up", "1* 2 3 4l-", ""),
            ("learner ready: one joint change", "1:up 2:up 3:down 4:up", "1* 2 3 4l", "+4 -3"),
            ("it came back meanwhile", "1:up 2:up 3:up 4:up", "1* 2 3 4l", "-4"),
            ("peer silent for long, node alive", "1:up 2:up 3:up 4:up", "1* 2 3S", "add 4"),
            ("surplus anyway", "1:up 2:up 3:up 4:down", "1* 2 3 4", "-4"),
            ("draining and down", "1:up 2:up 3:draindown 4:up", "1* 2 3 4l", "+4 -3"),
            ("a learner on a down node", "1:up 2:up 3:up 4:down", "1* 2 3 4l-", "-4"),
        ],
    );
}

/// It would be waited for without end, and with it whoever drains a node or has lost a voter.
#[test]
fn learner_that_its_node_refuses_is_given_up_for_another() {
    let spare = "1:up 2:up 3:drain 4:up 5:up";
    let zones = "1:up@a 2:up@b 3:up@a 4:up@c 5:up@d";
    check(
        3,
        &[
            ("refused a moment ago", spare, "1* 2 3 4l0y", ""),
            ("refused for long", spare, "1* 2 3 4l0x", "add 5"),
            ("another is coming", spare, "1* 2 3 4l0x 5l-", "-4"),
            ("no other node", "1:up 2:up 3:drain 4:up", "1* 2 3 4l0x", ""),
            ("the other is low", "1:up 2:up 3:drain 4:up 5:low", "1* 2 3 4l0x", ""),
            ("there never were enough", "1:up 2:up 4:up 5:up", "1* 2 4l0x", "add 5"),
            ("there is no other", "1:up 2:up 4:up", "1* 2 4l0x", ""),
            ("to be spread", zones, "1* 2 3 4l0x", "add 5"),
            ("and then", zones, "1* 2 3 4l0x 5l-", "-4"),
            ("nowhere else is better", "1:up@a 2:up@b 3:up@a 4:up@c 5:up@a", "1* 2 3 4l0x", ""),
            ("a voter keeps its place", "1:up 2:up 3:up 4:up", "1* 2 3-x", ""),
        ],
    );
    // While it refuses one, others come before it.
    let fixture = Fixture::new(3, "1:up 2:up 3:up 4:up");
    let fixture = fixture.region("1* 2 3l0y").region("2* 1").region("4* 1 2");
    let steps = plan_of(&fixture, &fixture.view(), &Fixture::config());
    assert_eq!(steps.iter().map(text).collect::<Vec<_>>(), ["add 4"]);
}

/// It may end the next moment, with a full disk: a copy that is there and answers is not given up for it.
#[test]
fn live_voter_is_not_given_up_for_a_learner_without_room() {
    let zones = "1:up@a 2:up@b 3:up@a 4:low@c";
    check(
        3,
        &[
            ("drained, nearly full", "1:up 2:up 3:drain 4:crit", "1* 2 3 4l", ""),
            ("drained, low", "1:up 2:up 3:drain 4:low", "1* 2 3 4l", ""),
            ("another node has room", "1:up 2:up 3:drain 4:low 5:up", "1* 2 3 4l", "add 5"),
            ("and its learner counts", "1:up 2:up 3:drain 4:low 5:up", "1* 2 3 4l 5l", "+5 -3"),
            ("the one too many goes", "1:up 2:up 3:drain 4:low 5:up", "1* 2 3 4l 5l-", "-4"),
            ("the lead goes all the same", "1:drain 2:up 3:up 4:crit", "1* 2 3 4l", "lead 2"),
            ("demoted", "1:up 2:up 3:learner 4:crit", "1* 2 3 4l", ""),
            ("it does not answer", "1:up 2:up 3:drainoff 4:crit", "1* 2 3 4l", "+4 -3"),
            ("it is down", "1:up 2:up 3:down 4:crit", "1* 2 3 4l", "+4 -3"),
            ("its data is gone", "1:up 2:up 3:up 4:crit", "1* 2 3q 4l", "+4 -3"),
            ("there is none", "1:up 2:up 4:crit", "1* 2 4l", "+4"),
            ("its vote would be needed", "1:up 2:low", "1* 2l", ""),
            ("spread: not for it", zones, "1* 2 3 4l", ""),
        ],
    );
    check(1, &[("the only copy", "1:drain 2:crit", "1* 2l", "")]);
}

/// Its disk has room again once the learner is gone.
#[test]
fn node_without_room_is_given_a_learner_again_only_after_a_while() {
    let config = Fixture::config();
    let before = Fixture::new(3, "1:up 2:up 3:drain 4:low").region("1* 2 3 4l");
    let mut given_up = Fixture::new(3, "1:up 2:up 3:drain 4:up").region("1* 2 3");
    let region = given_up.reports[0].1.region.as_mut().expect("a region");
    region.epoch = Some(v1::RegionEpoch { conf_ver: 6, version: 1 });
    let mut view = before.view();
    let mut at = |now_ms| {
        // What leads says first that the learner is gone: what it was at then counts.
        for node in 1..=4 {
            view.hear(given_up.heartbeat(node), now_ms);
        }
        let steps = plan(&view, &config, now_ms, &mut || Some(PeerId(900_004)));
        steps.iter().map(text).collect::<Vec<_>>().join("; ")
    };
    assert_eq!(at(NOW_MS), "");
    assert_eq!(at(NOW_MS + millis(config.refusal_memory)), "add 4");
}

#[test]
fn node_that_refused_a_region_is_asked_again_only_after_a_while() {
    let config = Fixture::config();
    let nodes = "1:up 2:up 3:drain 4:up";
    let refused = Fixture::new(3, nodes).region("1* 2 3 4l0x");
    let mut given_up = Fixture::new(3, nodes).region("1* 2 3");
    let region = given_up.reports[0].1.region.as_mut().expect("a region");
    region.epoch = Some(v1::RegionEpoch { conf_ver: 6, version: 1 });
    let mut view = refused.view();
    let mut at = |now_ms| {
        for node in 1..=4 {
            view.hear(given_up.heartbeat(node), now_ms);
        }
        view.settle_orders(&config, now_ms);
        let steps = plan(&view, &config, now_ms, &mut || Some(PeerId(900_004)));
        let waits = obstacles(&view, &config, now_ms).remove(&NodeId(3));
        (steps.iter().map(text).collect::<Vec<_>>().join("; "), waits.unwrap_or_default())
    };
    let waits = "region 2: no node can take it: node 4 had no room for it, or refused it, of late"
        .to_owned();
    assert_eq!(at(NOW_MS), (String::new(), waits.clone()));
    let over = NOW_MS + millis(config.refusal_memory);
    assert_eq!(at(over - 1), (String::new(), waits));
    assert_eq!(at(over), ("add 4".to_owned(), String::new()));
}

#[test]
fn drain_that_cannot_go_on_says_what_it_waits_for() {
    for (nodes, peers, want) in [
        ("1:up 2:up 3:drain 4:up", "1* 2 3", ""),
        ("1:up 2:up 3:drain 4:up", "1* 2 3 4l-", ""),
        ("1:up 2:up 3:up 4:crit", "1* 2 3", ""),
        ("1:up 2:up 3:drain 4:up", "1* 2 3 4l0y", "node 4 does not take it: the disk is too full"),
        ("1:up 2:up 3:drain 4:low", "1* 2 3", "no node can take it: node 4 has a disk that is low"),
        (
            "1:up 2:up 3:drain 4:crit 5:off",
            "1* 2 3",
            "no node can take it: node 4 has a disk that is nearly full, node 5 is not heard",
        ),
        (
            "1:up 2:up 3:drain 4:crit",
            "1* 2 3 4l",
            "no node can take it: node 4 has a disk that is nearly full",
        ),
        ("1:up 2:up 3:drain 4:low 5:up", "1* 2 3 4l", ""),
        (
            "1:up 2:up 3:drain 4:off",
            "1* 2 4",
            "2 of its 3 voters answer, and no node is let go before all do",
        ),
        ("1:up 2:up 3:drain 4:up", "1* 2 4", ""),
        ("1:up 2:up 3:force 4:off", "1* 2 4", ""),
        ("1:up 2:up 3:drain 4:up", "1* 2 3 4?", "node 4 has a log of the region that nobody owns"),
        ("1:off 2:up 3:drain 4:up", "1* 2 3", "no leader of it is heard"),
        ("1:up 2:off 3:drainoff 4:up", "1* 2 3", "no quorum of it answers"),
    ] {
        let view = Fixture::new(3, nodes).region(peers).view();
        let found = obstacles(&view, &Fixture::config(), NOW_MS).remove(&NodeId(3));
        let found = found.unwrap_or_default();
        assert_eq!(found.starts_with("region 2: "), !want.is_empty(), "{nodes} | {peers}: {found}");
        assert!(found.ends_with(want), "{nodes} | {peers}: {found}");
    }
}

#[test]
fn peer_whose_data_is_gone_leaves_first() {
    check(
        3,
        &[
            ("quarantined, no other node", "1:up 2:up 3:up", "1* 2 3q", "-3"),
            ("then the same node takes a new peer", "1:up 2:up 3:up", "1* 2", "add 3"),
            ("removed node", "1:up 2:up 3:removed 4:up", "1* 2 3", "-3"),
            ("node that is not in the table", "1:up 2:up", "1* 2 3", "-3"),
            ("given up", "1:up 2:up 3:force 4:up", "1* 2 3", "-3"),
            ("given up and alive", "1:up 2:up 3:zombie 4:up", "1* 2 3", "-3"),
            ("a learner is ready: one change", "1:up 2:up 3:force 4:up", "1* 2 3 4l", "+4 -3"),
            ("quarantined learner", "1:up 2:up 3:up", "1* 2 3lq", "-3"),
            ("the rest has no quorum", "1:up 2:off 3:force 4:up", "1* 2 3", ""),
            ("its vote is needed", "1:up 2:off 3:zombie 4:up", "1* 2 3", "add 4"),
            ("what may come back stays", "1:up 2:down 3:zombie", "1* 2 3", ""),
            ("the one without a vote first", "1:zombie 2:up 3:up 4:up", "1 2* 3q", "-3"),
        ],
    );
    check(
        5,
        &[("two of five, one by one", "1:up 2:up 3:up 4:force 5:removed", "1* 2 3 4 5", "-4")],
    );
}

#[test]
fn draining_node_is_emptied_without_losing_a_replica() {
    check(
        3,
        &[
            ("add elsewhere first", "1:up 2:up 3:drain 4:up", "1* 2 3", "add 4"),
            ("swap in one change", "1:up 2:up 3:drain 4:up", "1* 2 3 4l", "+4 -3"),
            ("lead goes first", "1:drain 2:up 3:up 4:up", "1* 2 3", "lead 2"),
            ("lead goes to who is caught up", "1:drain 2:up 3:up 4:up", "1* 2- 3", "lead 3"),
            ("demoted node", "1:up 2:up 3:learner 4:up", "1* 2 3", "add 4"),
            ("no node to move to", "1:up 2:up 3:drain 4:off", "1* 2 3", ""),
            ("more in service than needed", "1:up 2:up 3:up 4:drain", "1* 2 3 4", "-4"),
            ("disconnected drains too", "1:up 2:up 3:drainoff 4:up", "1* 2 3 4l", "+4 -3"),
            ("a learner on it", "1:up 2:up 3:up 4:drain", "1* 2 3 4l-", "-4"),
            ("a learner on it goes first", "1:up 2:up 3:drain 4:up", "1* 2 3l", "-3"),
            ("shrinks with the cluster", "1:up 2:up 3:drain", "1* 2 3", "-3"),
            ("removal would cost the quorum", "1:up 2:off 3:drain", "1* 2 3", ""),
        ],
    );
    check(
        1,
        &[
            ("only peer, only leader", "1:drain 2:up", "1*", "add 2"),
            ("nobody to hand over to yet", "1:drain 2:up", "1* 2l", "+2"),
            ("now there is", "1:drain 2:up", "1* 2", "lead 2"),
            ("and it goes", "1:drain 2:up", "1 2*", "-1"),
        ],
    );
}

#[test]
fn surplus_voter_goes_and_never_the_leader() {
    check(
        3,
        &[
            ("fullest, last", "1:up 2:up 3:up 4:up", "1* 2 3 4", "-4"),
            ("not the leader", "1:up 2:up 3:up 4:up", "1 2 3 4*", "-3"),
            ("the silent one", "1:up 2:up 3:up 4:up", "1* 2s 3 4", "-2"),
            ("the disconnected one", "1:up 2:off 3:up 4:up", "1* 2 3 4", "-2"),
            ("same zone", "1:up@a 2:up@b 3:up@a 4:up@c", "1* 2 3 4", "-3"),
            ("never below a live quorum", "1:up 2:up 3:up 4:off", "1* 2s 3 4", ""),
            ("of two zones one each", "1:up@c 2:up@a 3:up@a 4:up@b 5:up@b", "1* 2 3 4 5", "-5 -3"),
        ],
    );
    check(
        1,
        &[
            ("two at once", "1:up 2:up 3:up", "1* 2 3", "-3 -2"),
            ("one of an even number", "1:up 2:up", "1* 2", "-2"),
            ("of four, one", "1:up 2:up 3:up 4:up", "1* 2 3 4", "-4"),
            ("the silent one among them", "1:up 2:up 3:up 4:up 5:up", "1* 2s 3 4 5", "-2 -5"),
        ],
    );
}

#[test]
fn new_peer_goes_where_failures_are_not_shared() {
    check(
        3,
        &[
            ("another zone", "1:up@a 2:up@b 3:up@a 4:up@c", "1* 2", "add 4"),
            ("another host", "1:up@a/x 2:up@a/y 3:up@a/y 4:up@a/z", "1* 2", "add 4"),
            ("zone before host", "1:up@a/x 2:up@b/y 3:up@a/z 4:up@c/x", "1* 2", "add 4"),
            ("shared is better than missing", "1:up@a/x 2:up@a/x", "1*", "add 2"),
            ("no labels share nothing", "1:up@a 2:up@b 3:up 4:up@a", "1* 2", "add 3"),
            (
                "a peer that leaves does not count",
                "1:up@a 2:up@b 3:drain@c 4:up@b 5:up@c",
                "1* 2 3",
                "add 5",
            ),
        ],
    );
}

#[test]
fn new_peer_goes_to_the_emptiest_node() {
    let fixture =
        Fixture::new(3, "1:up 2:up 3:up 4:up").region("1* 2 3").region("2* 1 3").region("3* 2");
    let steps = plan_of(&fixture, &fixture.view(), &Fixture::config());
    assert_eq!(steps.iter().map(text).collect::<Vec<_>>(), ["add 4"]);
}

#[test]
fn leaders_leave_nodes_that_may_not_have_them() {
    check(
        3,
        &[
            ("evicted", "1:evict 2:up 3:up", "1* 2 3", "lead 2"),
            ("disk nearly full", "1:crit 2:up 3:up", "1* 2 3", "lead 2"),
            ("given up but alive", "1:zombie 2:up 3:up", "1* 2 3", "lead 2"),
            ("not to another such", "1:evict 2:crit 3:up", "1* 2 3", "lead 3"),
            ("nobody else may", "1:evict 2:crit 3:off", "1* 2 3", ""),
            ("nobody is near enough", "1:evict 2:up 3:up", "1* 2- 3s", ""),
            ("evicted while a learner is on its way", "1:evict 2:up 3:up", "1* 2 3l-", "lead 2"),
        ],
    );
}

/// Whoever orders it is told, instead of seeing it go again.
#[test]
fn lead_that_would_be_taken_away_again_is_known_before_it_is_given() {
    for (why, nodes, peers, to, want) in [
        ("it would stay", "1:up 2:up 3:up", "1* 2 3", 2, None),
        ("low", "1:up 2:low 3:up", "1* 2 3", 2, Some("its disk is low")),
        ("low, and where it is too", "1:low 2:low 3:low", "1* 2 3", 2, None),
        ("nearly full", "1:low 2:crit 3:off", "1* 2 3", 2, Some("its disk is nearly full")),
        ("evicted", "1:up 2:evict 3:off", "1* 2 3", 2, Some("its leaders are evicted")),
        ("both are evicted", "1:evict 2:evict 3:off", "1* 2 3", 2, None),
        ("drained", "1:up 2:drain 3:up", "1* 2 3", 2, Some("it is not in service")),
        ("no voter is there", "1:up 2:low 3:up", "1* 2l 3", 2, None),
        ("nobody leads", "1:off 2:low 3:up", "1* 2 3", 2, None),
        ("it leads already", "1:low 2:up 3:up", "1* 2 3", 1, Some("its disk is low")),
    ] {
        let view = Fixture::new(3, nodes).region(peers).view();
        let config = Fixture::config();
        let got = would_lose_lead(&view, RegionId(2), NodeId(to), &config, NOW_MS);
        assert_eq!(got, want, "{why}");
    }
}

/// It would refuse all writes without end, although others have room.
#[test]
fn node_whose_disk_is_low_loses_its_leaders_to_nodes_with_room() {
    check(
        3,
        &[
            ("low", "1:low 2:up 3:up", "1* 2 3", "lead 2"),
            ("not to another such", "1:low 2:low 3:up", "1* 2 3", "lead 3"),
            ("whoever has room is behind", "1:low 2:up 3:low", "1* 2- 3", ""),
            ("all are low: it stays", "1:low 2:low 3:low", "1* 2 3", ""),
            ("the others are worse", "1:low 2:crit 3:crit", "1* 2 3", ""),
            ("nearly full: to one with room", "1:crit 2:low 3:up", "1* 2 3", "lead 3"),
            ("nearly full: a low one is better", "1:crit 2:low 3:crit", "1* 2 3", "lead 2"),
            ("who has to go goes to a low one", "1:evict 2:low 3:low", "1* 2 3", "lead 2"),
            ("rather to one with room", "1:evict 2:low 3:up", "1* 2 3", "lead 3"),
            ("drained", "1:drain 2:low 3:low 4:low", "1* 2 3", "lead 2"),
            ("followers there are none of its business", "1:up 2:low 3:low", "1* 2 3", ""),
        ],
    );
    // Balance gives it none either, and takes those that have no better place no further.
    for (nodes, want) in [("1:up 2:low 3:up", 1), ("1:up 2:low 3:low", 0), ("1:low 2:low 3:low", 0)]
    {
        let mut fixture = Fixture::new(3, nodes);
        for _ in 0..3 {
            fixture = fixture.region("1* 2 3");
        }
        let steps = plan_of(&fixture, &fixture.view(), &Fixture::config());
        assert!(steps.iter().all(|step| text(step) == "lead 3"), "{nodes}: {steps:?}");
        assert_eq!(steps.len(), want, "{nodes}: {steps:?}");
    }
}

#[test]
fn node_gets_leaders_only_after_its_disk_had_room_for_a_while() {
    let config = Fixture::config();
    let mut fixture = Fixture::new(3, "1:low 2:low 3:low").region("1* 2 3");
    let mut view = fixture.view();
    let mut at = |levels: [v1::DiskLevel; 3], now_ms: u64| {
        for (node, level) in (1..).zip(levels) {
            fixture.set_disk_level(node, level);
            view.hear(fixture.heartbeat(node), now_ms);
        }
        let steps = plan(&view, &config, now_ms, &mut || None);
        steps.iter().map(text).collect::<Vec<_>>().join("; ")
    };
    let (normal, low) = (v1::DiskLevel::Normal, v1::DiskLevel::Low);
    let cool_down = millis(config.leader_cool_down);
    assert_eq!(at([low, low, low], NOW_MS), "");
    assert_eq!(at([low, normal, low], NOW_MS + 1_000), "", "it was low a second ago");
    assert_eq!(at([low, low, low], NOW_MS + 2_000), "");
    assert_eq!(at([low, normal, low], NOW_MS + 1_999 + cool_down), "", "and two seconds ago");
    assert_eq!(at([low, normal, low], NOW_MS + 2_000 + cool_down), "lead 2");
    assert_eq!(at([normal, normal, low], NOW_MS + 3_000 + cool_down), "", "what has room keeps it");
}

#[test]
fn joint_change_is_waited_for_then_finished() {
    let fixture = Fixture::new(3, "1:up 2:up 3:down 4:up").region("1* 2 3 4 joint");
    assert_eq!(plan_of(&fixture, &fixture.view(), &Fixture::config()).len(), 1);

    let mut view = ClusterView::new(fixture.table.clone(), NOW_MS);
    view.hear(fixture.heartbeat(1), NOW_MS);
    let config = Fixture::config();
    let at = |view: &ClusterView, now_ms| {
        plan(view, &config, now_ms, &mut || None).iter().map(text).collect::<Vec<_>>()
    };
    assert_eq!(at(&view, NOW_MS), [""; 0]);
    let later = NOW_MS + 10_000;
    view.hear(fixture.heartbeat(1), later);
    assert_eq!(at(&view, later), ["finish"]);
}

#[test]
fn regions_without_a_leader_that_is_heard_get_no_steps() {
    for (why, nodes, peers) in [
        ("nobody leads", "1:up 2:up 3:up", "1 2"),
        ("the leader's node is silent", "1:off 2:up 3:up", "1* 2"),
    ] {
        let fixture = Fixture::new(3, nodes).region(peers);
        assert_eq!(plan_of(&fixture, &fixture.view(), &Fixture::config()), [], "{why}");
    }
}

#[test]
fn leaders_are_spread_and_then_stay() {
    let mut fixture = Fixture::new(3, "1:up 2:up 3:up");
    for _ in 0..6 {
        fixture = fixture.region("1* 2 3");
    }
    let steps = plan_of(&fixture, &fixture.view(), &Fixture::config());
    assert_eq!(
        steps.iter().map(|step| (step.region_id, text(step))).collect::<Vec<_>>(),
        [(2, "lead 2"), (3, "lead 3"), (4, "lead 2"), (5, "lead 3")]
            .map(|(region, step)| (region, step.to_owned())),
        "six leaders on three nodes are two each"
    );

    for (why, regions, want) in [
        ("two more than the least", &["1* 2 3", "1* 2 3", "2* 1 3"][..], 1),
        ("one more is tolerated", &["1* 2 3", "1* 2 3", "2* 1 3", "3* 1 2"], 0),
        ("even", &["1* 2 3", "2* 1 3", "3* 1 2"], 0),
        ("two more on a node that cannot hand over", &["1* 2- 3-", "1* 2- 3-"], 0),
        ("two more, one region wants other things", &["1* 2", "1* 2 3"], 2),
    ] {
        let mut fixture = Fixture::new(3, "1:up 2:up 3:up");
        for peers in regions {
            fixture = fixture.region(peers);
        }
        let steps = plan_of(&fixture, &fixture.view(), &Fixture::config());
        assert_eq!(steps.len(), want, "{why}: {steps:?}");
    }
}

#[test]
fn leader_that_just_moved_is_not_moved_again() {
    let mut fixture = Fixture::new(3, "1:up 2:up 3:up");
    for _ in 0..4 {
        fixture = fixture.region("1* 2 3");
    }
    let mut view = ClusterView::new(fixture.table.clone(), NOW_MS);
    for node in 1..=3 {
        view.hear(fixture.heartbeat(node), NOW_MS);
    }
    assert_eq!(plan_of(&fixture, &view, &Fixture::config()), []);
}

#[test]
fn system_region_has_at_most_five_voters() {
    let nodes = "1:up 2:up 3:up 4:up 5:up 6:up 7:up";
    let mut fixture = Fixture::new(7, nodes).region("1* 2 3 4 5");
    let want = |fixture: &Fixture| {
        plan_of(fixture, &fixture.view(), &Fixture::config()).iter().map(text).collect::<Vec<_>>()
    };
    assert_eq!(want(&fixture), ["add 6"], "region 2 has one per node");
    let region = fixture.reports[0].1.region.as_mut().expect("a region");
    region.region_id = RegionId::SYSTEM.0;
    assert_eq!(want(&fixture), [""; 0], "region 1 has five");
}

#[test]
fn round_is_bounded_and_urgent_steps_come_first() {
    let mut fixture = Fixture::new(3, "1:evict 2:up 3:up 4:up 5:up 6:up");
    for _ in 0..20 {
        fixture = fixture.region("2* 3");
    }
    fixture = fixture.region("1* 2 3").region("2* 3 4l");
    let config =
        PlacementConfig { steps_per_round_max: 6, learners_per_node_max: 1, ..Fixture::config() };
    let steps = plan_of(&fixture, &fixture.view(), &config);
    assert_eq!(
        steps.iter().map(text).collect::<Vec<_>>(),
        ["+4", "lead 3", "add 5", "add 6", "add 1"],
        "a promotion, a lead, then one learner per node that has none"
    );
    let config = PlacementConfig { steps_per_round_max: 3, ..config };
    assert_eq!(plan_of(&fixture, &fixture.view(), &config).len(), 3);
}

#[test]
fn without_ids_no_learner_is_added_and_the_rest_goes_on() {
    let fixture = Fixture::new(3, "1:up 2:up 3:up").region("1* 2").region("1* 2 3l");
    let steps = plan(&fixture.view(), &Fixture::config(), NOW_MS, &mut || None);
    assert_eq!(steps.iter().map(text).collect::<Vec<_>>(), ["+3"]);
}

#[test]
fn ordered_region_is_not_planned_again_until_it_moved() {
    let config = Fixture::config();
    let fixture = Fixture::new(3, "1:up 2:up 3:up").region("1* 2");
    let mut view = fixture.view();
    let steps = plan_of(&fixture, &view, &config);
    view.order(&steps, NOW_MS);
    assert_eq!(plan_of(&fixture, &view, &config), []);
    assert_eq!(view.orders_for(NodeId(1), &config, NOW_MS), steps);
    assert_eq!(view.orders_for(NodeId(2), &config, NOW_MS), []);

    let mut moved = fixture.clone();
    let region = moved.reports[0].1.region.as_mut().expect("a region");
    region.epoch = Some(v1::RegionEpoch { conf_ver: 6, version: 1 });
    let mut after = view.clone();
    after.hear(moved.heartbeat(1), NOW_MS);
    assert_eq!(after.orders_for(NodeId(1), &config, NOW_MS), [], "it was done");

    let late = NOW_MS + 10_000;
    for node in 1..=3 {
        view.hear(fixture.heartbeat(node), late);
    }
    assert_eq!(view.orders_for(NodeId(1), &config, late), [], "it was lost");
    view.settle_orders(&config, late);
    let again = plan(&view, &config, late, &mut || Some(PeerId(900_002)));
    assert_eq!(again.len(), 1);
}
