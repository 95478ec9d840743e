//! What goes wrong, one kind a file. A seed switches some of them on, and draws when they strike and for how long.

mod cluster_crash;
mod crash;
mod cut;
mod cut_one_way;
mod disk_slow;
mod held;
mod links_slow;
mod wall_jump;

use std::time::Duration;

use flotilla_server::world::Simulation;
use rand::{RngExt as _, rngs::StdRng, seq::IndexedRandom as _};
use turmoil::Sim;

use crate::{cluster::Cluster, marks::Marks, world::World};

/// What a fault can reach.
pub(crate) struct Scene<'a, 'b> {
    pub(crate) sim: &'a mut Sim<'b>,
    pub(crate) cluster: &'a mut Cluster,
    pub(crate) world: &'a World,
    pub(crate) simulation: &'a Simulation,
    pub(crate) marks: &'a mut Marks,
    pub(crate) random: &'a mut StdRng,
}

impl Scene<'_, '_> {
    fn now(&self) -> Duration {
        self.sim.elapsed()
    }

    /// Some time up to so many milliseconds.
    fn moment(&mut self, millis_max: u64) -> Duration {
        Duration::from_millis(self.random.random_range(1..=millis_max))
    }

    /// Some host.
    fn host(&mut self) -> usize {
        self.random.random_range(0..self.cluster.hosts.len())
    }

    /// Two sides, neither empty.
    fn sides(&mut self) -> (Vec<String>, Vec<String>) {
        let one = self.host();
        let (mut here, mut there) = (vec![], vec![]);
        for (number, host) in self.cluster.hosts.iter().enumerate() {
            let side = number == one || self.random.random_bool(0.3);
            if side { &mut here } else { &mut there }.push(host.name.clone());
        }
        if there.is_empty() {
            there.extend(here.pop());
        }
        (here, there)
    }
}

/// One kind of fault.
pub(crate) trait Fault {
    fn name(&self) -> &'static str;

    /// Strikes; answers how long it is to last.
    fn strike(&mut self, scene: &mut Scene<'_, '_>) -> Duration;

    /// Ends it.
    fn heal(&mut self, _scene: &mut Scene<'_, '_>) {}
}

/// Every kind.
fn all() -> Vec<Box<dyn Fault>> {
    vec![
        Box::new(held::Held::default()),
        Box::new(cluster_crash::ClusterCrash),
        Box::new(crash::Crash),
        Box::new(cut::Cut::default()),
        Box::new(cut_one_way::CutOneWay::default()),
        Box::new(disk_slow::DiskSlow),
        Box::new(links_slow::LinksSlow),
        Box::new(wall_jump::WallJump),
    ]
}

/// The faults of one seed, each with when it is due: to heal, or to strike next.
pub(crate) struct Faults {
    chosen: Vec<Due>,
    struck: usize,
}

struct Due {
    fault: Box<dyn Fault>,
    active: bool,
    at: Duration,
}

impl Faults {
    /// Draws which are switched on, and when they first strike.
    pub(crate) fn draw(random: &mut StdRng) -> Self {
        let mut chosen = Vec::new();
        for fault in all() {
            // turmoil does not support cuts of what is held.
            let held = chosen.iter().any(|due: &Due| due.fault.name() == "held");
            if random.random_bool(0.5) && !(held && fault.name().starts_with("cut")) {
                let at = Duration::from_millis(random.random_range(0..4_000));
                chosen.push(Due { fault, active: false, at });
            }
        }
        Self { chosen, struck: 0 }
    }

    /// From now on they strike.
    pub(crate) fn begin(&mut self, now: Duration) {
        self.chosen.iter_mut().for_each(|due| due.at += now);
    }

    pub(crate) fn struck(&self) -> usize {
        self.struck
    }

    pub(crate) fn names(&self) -> Vec<&'static str> {
        self.chosen.iter().map(|due| due.fault.name()).collect()
    }

    /// Does what is due.
    pub(crate) fn step(&mut self, scene: &mut Scene<'_, '_>) {
        for due in &mut self.chosen {
            if due.at > scene.sim.elapsed() {
                continue;
            }
            due.active = !due.active;
            if due.active {
                tracing::info!("fault: {}", due.fault.name());
                let lasts = due.fault.strike(scene);
                due.at = scene.now() + lasts;
                self.struck += 1;
            } else {
                tracing::info!("fault ends: {}", due.fault.name());
                due.fault.heal(scene);
                due.at = scene.now() + scene.moment(4_000);
            }
        }
    }

    /// Ends all of them, for good.
    pub(crate) fn end(&mut self, scene: &mut Scene<'_, '_>) {
        for mut due in std::mem::take(&mut self.chosen) {
            if due.active {
                due.fault.heal(scene);
            }
        }
    }
}

/// One of them.
fn pick<'a, T>(random: &mut StdRng, from: &'a [T]) -> &'a T {
    from.choose(random).expect("there is one")
}
