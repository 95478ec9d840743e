//! Steps that were given to a leader and not seen through.
//!
//! A step shows in the view only after its leader carried it out and reported again. Until then the
//! region is not planned anew: a second `AddLearnerPeer` would burn a peer id, and a balance that
//! counts a leader where it no longer is would move another one after it. An order ends when the
//! region's membership moved, when its leader changed, or after a time, since a lost answer looks
//! like none.

use flotilla_proto::{
    region::Epoch,
    v1::{self, step::Action},
};

use super::{
    config::{PlacementConfig, millis},
    view::{ClusterView, HeardRegion, Order},
};
use crate::{
    ids::{NodeId, RegionId},
    metrics::StepResult,
};

impl ClusterView {
    /// Remembers steps that are on their way to the regions' leaders.
    pub fn order(&mut self, steps: &[v1::Step], now_ms: u64) {
        for step in steps {
            let id = RegionId(step.region_id);
            let leader = self.regions().get(&id).and_then(|region| region.leader);
            self.orders.insert(id, Order { step: step.clone(), leader, at_ms: now_ms });
        }
    }

    /// Drops what is done or has taken too long, and tells how each of these ended.
    pub fn settle_orders(
        &mut self,
        config: &PlacementConfig,
        now_ms: u64,
    ) -> Vec<(v1::Step, StepResult)> {
        self.forget_refusals(config, now_ms);
        let mut orders = std::mem::take(&mut self.orders);
        let ended = orders
            .extract_if(.., |id, order| {
                let region = self.regions().get(id);
                !region.is_some_and(|region| order.is_open(region, config, now_ms))
            })
            .map(|(id, order)| {
                let result = order.result(self.regions().get(&id), config, now_ms);
                (order.step, result)
            })
            .collect();
        self.orders = orders;
        ended
    }

    /// The steps that wait for regions led by `node`. Giving them twice does no harm.
    #[must_use]
    pub fn orders_for(&self, node: NodeId, config: &PlacementConfig, now_ms: u64) -> Vec<v1::Step> {
        self.open_orders(config, now_ms)
            .filter(|(region, _)| region.leader.is_some_and(|leader| leader.node == node))
            .map(|(_, step)| step.clone())
            .collect()
    }

    /// Whether a peer is about to be added on `node`.
    #[must_use]
    pub fn is_ordered_on(&self, node: NodeId, config: &PlacementConfig, now_ms: u64) -> bool {
        self.open_orders(config, now_ms).any(|(_, step)| {
            matches!(&step.action, Some(Action::AddLearner(add)) if add.node_id == node.0)
        })
    }

    /// The orders that are not seen through, with their regions.
    pub(super) fn open_orders(
        &self,
        config: &PlacementConfig,
        now_ms: u64,
    ) -> impl Iterator<Item = (&HeardRegion, &v1::Step)> {
        self.orders.iter().filter_map(move |(id, order)| {
            let region = self.regions().get(id)?;
            order.is_open(region, config, now_ms).then_some((region, &order.step))
        })
    }
}

impl Order {
    /// How an order ended that is not open any more. A region that is as the step wanted it counts
    /// for the step, whoever did it.
    fn result(
        &self,
        region: Option<&HeardRegion>,
        config: &PlacementConfig,
        now_ms: u64,
    ) -> StepResult {
        let role = |id: u64| {
            let mut peers = region.iter().flat_map(|region| &region.region.peers);
            peers.find(|peer| peer.peer_id == id).map(v1::Peer::role)
        };
        let done = match &self.step.action {
            Some(Action::AddLearner(add)) => role(add.peer_id).is_some(),
            Some(Action::Change(change)) if super::steps::is_finish(change) => {
                region.is_some_and(|region| region.joint_since_ms.is_none())
            }
            Some(Action::Change(change)) => {
                region.is_some()
                    && change.promote.iter().all(|id| role(*id) == Some(v1::PeerRole::Voter))
                    && change.remove.iter().all(|id| role(*id).is_none())
            }
            Some(Action::Transfer(transfer)) => region
                .and_then(|region| region.leader)
                .is_some_and(|leader| leader.peer.0 == transfer.peer_id),
            None => true,
        };
        if done {
            StepResult::Done
        } else if now_ms.saturating_sub(self.at_ms) < millis(config.step_timeout) {
            StepResult::Overtaken
        } else {
            StepResult::TimedOut
        }
    }

    fn is_open(&self, region: &HeardRegion, config: &PlacementConfig, now_ms: u64) -> bool {
        let planned_on = self.step.epoch.unwrap_or_default().conf_ver;
        let done = match &self.step.action {
            Some(Action::Transfer(_)) => region.leader != self.leader,
            Some(Action::Change(change)) if super::steps::is_finish(change) => {
                region.joint_since_ms.is_none()
            }
            Some(Action::AddLearner(_) | Action::Change(_)) => region.leader != self.leader,
            None => true,
        };
        !done
            && Epoch::of(&region.region).members_verdict(planned_on).fits()
            && now_ms.saturating_sub(self.at_ms) < millis(config.step_timeout)
    }
}
