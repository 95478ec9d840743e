//! Messages take long, each for itself: between all, on every way to one host, or between two hosts alone. Some take longer
//! than an election, so that a leader hears of the next one when that has led for a while.

use std::time::Duration;

use rand::RngExt as _;

use super::{Fault, Scene, each, pick};
use crate::world::CALM_LATENCY_MAX;

/// Which links are slow at once.
#[derive(Clone, Copy)]
enum Which {
    All,
    OfOne,
    OfTwo,
}

/// The links that are slow.
#[derive(Default)]
pub(super) struct LinksSlow(Vec<(String, String)>);

impl Fault for LinksSlow {
    fn name(&self) -> &'static str {
        "links-slow"
    }

    fn strike(&mut self, scene: &mut Scene<'_, '_>) -> Option<Duration> {
        let mut machines: Vec<_> = scene.cluster.hosts.iter().map(|host| host.names()).collect();
        let count = machines.len();
        machines.extend(scene.actors.iter().map(|name| vec![(*name).to_owned()]));
        let one = scene.leader_or_any();
        let other = (one + scene.random.random_range(1..count)) % count;
        let which = pick(scene.random, &[Which::All, Which::OfOne, Which::OfTwo]);
        let is_slow = |here, there| match which {
            Which::All => true,
            Which::OfOne => [here, there].contains(&one),
            Which::OfTwo => (here, there) == (one.min(other), one.max(other)),
        };
        self.0.clear();
        for (here, names) in machines.iter().enumerate() {
            for (there, others) in machines.iter().enumerate().skip(here + 1) {
                if is_slow(here, there) {
                    each(names, others, |one, other| self.0.push((one.into(), other.into())));
                }
            }
        }
        let most = Duration::from_millis(pick(scene.random, &[20, 100, 400, 1_500]));
        for (one, other) in &self.0 {
            scene.sim.set_link_max_message_latency(&**one, &**other, most);
        }
        Some(scene.moment(3_000))
    }

    fn heal(&mut self, scene: &mut Scene<'_, '_>) -> Option<Duration> {
        for (one, other) in &self.0 {
            scene.sim.set_link_max_message_latency(&**one, &**other, CALM_LATENCY_MAX);
        }
        None
    }
}
