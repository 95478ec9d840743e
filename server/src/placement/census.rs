//! What the driver counts of the cluster, from its view.

use flotilla_proto::v1::{self, step::Action};

use super::{
    config::PlacementConfig,
    steps,
    view::{ClusterView, NodeView},
};
use crate::metrics::{NodeStanding, PlacementMetrics, RegionHealth, StepKind, StepResult};

impl PlacementMetrics {
    /// Counts steps that ended.
    pub fn ended(&self, steps: &[(v1::Step, StepResult)]) {
        for (step, result) in steps {
            if let Some(kind) = kind(step) {
                self.steps_total(kind, *result).inc();
            }
        }
    }

    /// Takes over what the driver sees now.
    pub fn see(&self, view: &ClusterView, config: &PlacementConfig, now_ms: u64) {
        let nodes = view.nodes(config, now_ms);
        self.steps_running
            .count(view.open_orders(config, now_ms).filter_map(|(_, step)| kind(step)));
        self.nodes.count(nodes.values().map(standing));
        self.regions.count(
            view.regions()
                .values()
                .map(|region| label(view.health(region, &nodes, config, now_ms))),
        );
    }

    /// This node does not lead region 1 any more.
    pub fn see_nothing(&self) {
        self.steps_running.count(std::iter::empty());
        self.nodes.count(std::iter::empty());
        self.regions.count(std::iter::empty());
    }
}

/// `None` for a step that orders nothing.
fn kind(step: &v1::Step) -> Option<StepKind> {
    Some(match step.action.as_ref()? {
        Action::AddLearner(_) => StepKind::AddLearner,
        Action::Transfer(_) => StepKind::Transfer,
        Action::Change(change) if steps::is_finish(change) => StepKind::Finish,
        Action::Change(change) => match (change.promote.is_empty(), change.remove.is_empty()) {
            (true, _) => StepKind::Remove,
            (false, true) => StepKind::Promote,
            (false, false) => StepKind::Replace,
        },
    })
}

fn label(health: v1::RegionHealth) -> RegionHealth {
    match health {
        v1::RegionHealth::NoLeader | v1::RegionHealth::Unspecified => RegionHealth::NoLeader,
        v1::RegionHealth::NoQuorum => RegionHealth::NoQuorum,
        v1::RegionHealth::UnderReplicated => RegionHealth::UnderReplicated,
        v1::RegionHealth::Changing => RegionHealth::Changing,
        v1::RegionHealth::Healthy => RegionHealth::Healthy,
    }
}

fn standing(node: &NodeView) -> NodeStanding {
    match (node.state(), node.liveness) {
        (v1::NodeState::Removed, _) => NodeStanding::Removed,
        (_, v1::Liveness::Down) => NodeStanding::Down,
        (_, v1::Liveness::Disconnected) => NodeStanding::Disconnected,
        (v1::NodeState::Unspecified | v1::NodeState::Joining, _) => NodeStanding::Joining,
        (v1::NodeState::NodeLearner, _) => NodeStanding::Learner,
        (v1::NodeState::Up, _) => NodeStanding::Up,
        (v1::NodeState::Draining, _) => NodeStanding::Draining,
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;
    use crate::placement::fixture::{Fixture, NOW_MS};

    fn registered() -> PlacementMetrics {
        PlacementMetrics::register(&Registry::new()).expect("names are used once")
    }

    #[test]
    fn regions_are_counted_by_the_worst_that_is_wrong_with_them() {
        use RegionHealth::{Changing, Healthy, NoLeader, NoQuorum, UnderReplicated};
        for (why, nodes, peers, want) in [
            ("all is well", "1:up 2:up 3:up", "1* 2 3", Healthy),
            ("one is silent", "1:up 2:up 3:off", "1* 2 3", UnderReplicated),
            ("two are silent", "1:up 2:off 3:off", "1* 2 3", NoQuorum),
            ("its leader is silent", "1:off 2:up 3:up", "1* 2 3", NoLeader),
            ("the leader is silent, and so is another", "1:off 2:off 3:up", "1* 2 3", NoQuorum),
            ("there never were enough", "1:up", "1*", UnderReplicated),
            ("the third is a learner", "1:up 2:up 3:up", "1* 2 3l", UnderReplicated),
            ("a fourth is coming", "1:up 2:up 3:drain 4:up", "1* 2 3 4l", Changing),
            ("a draining node still counts", "1:up 2:up 3:drain", "1* 2 3", Healthy),
            ("a joint change", "1:up 2:up 3:up", "1* 2 3 joint", Changing),
            ("its data is not trusted", "1:up 2:up 3:up", "1* 2 3q", UnderReplicated),
        ] {
            let metrics = registered();
            metrics.see(&Fixture::new(3, nodes).region(peers).view(), &Fixture::config(), NOW_MS);
            for health in [NoLeader, NoQuorum, UnderReplicated, Changing, Healthy] {
                let count = i64::from(health == want);
                assert_eq!(metrics.regions.get(health).get(), count, "{why}: {health:?}");
            }
            metrics.see_nothing();
            assert_eq!(metrics.regions.get(want).get(), 0, "{why}");
        }
    }

    #[test]
    fn each_node_is_counted_once() {
        use NodeStanding::{Disconnected, Down, Draining, Joining, Learner, Removed, Up};
        let words = "1:up 2:off 3:down 4:drain 5:draindown 6:joining 7:learner 8:removed 9:evict";
        let metrics = registered();
        metrics.see(&Fixture::new(3, words).view(), &Fixture::config(), NOW_MS);
        for (standing, want) in [
            (Joining, 1),
            (Learner, 1),
            (Up, 2),
            (Draining, 1),
            (Removed, 1),
            (Disconnected, 1),
            (Down, 2),
        ] {
            assert_eq!(metrics.nodes.get(standing).get(), want, "{standing:?}");
        }
    }

    /// Orders a step on the cluster as it was and settles it on the cluster as it is.
    #[track_caller]
    fn check(why: &str, action: Action, is: &str, ms: u64, want: &[(StepKind, StepResult)]) {
        let nodes = "1:up 2:up 3:up 4:up";
        let (was, config) = (Fixture::new(3, nodes).region("1* 2 3l"), Fixture::config());
        let step = v1::Step {
            region_id: 2,
            epoch: Some(v1::RegionEpoch { conf_ver: 5, version: 1 }),
            action: Some(action),
            ..Default::default()
        };
        let metrics = registered();
        let mut view = was.view();
        view.order(std::slice::from_ref(&step), NOW_MS);
        metrics.see(&view, &config, NOW_MS);
        let running = metrics.steps_running.get(kind(&step).expect("it orders something")).get();
        assert_eq!(running, 1, "{why}");
        let mut now = Fixture::new(3, nodes).region(is);
        let (_, report) = &mut now.reports[0];
        let before = &was.reports[0].1;
        let region = report.region.as_mut().expect("it has one");
        if region.peers != before.region.as_ref().expect("it has one").peers {
            region.epoch = Some(v1::RegionEpoch { conf_ver: 6, version: 1 });
        }
        report.term = before.term + 1;
        for node in 1..=4 {
            view.hear(now.heartbeat(node), NOW_MS + ms);
        }
        metrics.ended(&view.settle_orders(&config, NOW_MS + ms));
        for (kind, result) in want {
            assert_eq!(metrics.steps_total(*kind, *result).get(), 1, "{why}: {kind:?} {result:?}");
        }
        metrics.see(&view, &config, NOW_MS + ms);
        let running = metrics.steps_running.get(kind(&step).expect("it orders something")).get();
        assert_eq!(running, i64::from(want.is_empty()), "{why}");
    }

    #[test]
    fn steps_are_counted_by_how_they_ended() {
        use StepKind::{AddLearner, Promote, Replace, Transfer};
        use StepResult::{Done, Overtaken, TimedOut};
        let add = || Action::AddLearner(v1::AddLearnerPeer { peer_id: 204, node_id: 4 });
        let change = |remove: &[u64]| {
            Action::Change(v1::ChangePeers { promote: vec![203], remove: remove.to_vec() })
        };
        let transfer = || Action::Transfer(v1::TransferTo { peer_id: 202 });
        check("added", add(), "1* 2 3l 4l", 1_000, &[(AddLearner, Done)]);
        check("not yet", add(), "1* 2 3l", 1_000, &[]);
        check("never", add(), "1* 2 3l", 60_000, &[(AddLearner, TimedOut)]);
        check("another leads", add(), "1 2* 3l", 1_000, &[(AddLearner, Overtaken)]);
        check("promoted", change(&[]), "1* 2 3", 1_000, &[(Promote, Done)]);
        check("replaced", change(&[202]), "1* 3", 1_000, &[(Replace, Done)]);
        check("the learner left", change(&[202]), "1* 2", 1_000, &[(Replace, Overtaken)]);
        check("handed over", transfer(), "1 2* 3l", 1_000, &[(Transfer, Done)]);
        check("to another", transfer(), "1 2 3*", 1_000, &[(Transfer, Overtaken)]);
    }
}
