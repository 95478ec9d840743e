//! What goes wrong, one kind a file. A seed switches some of them on, and draws when they strike and for how long.

mod change_interrupted;
mod cluster_crash;
mod crash;
mod crash_point;
mod cut;
mod cut_one_way;
mod damaged_block;
mod data_set_back;
mod disk_fails;
mod disk_full;
mod disk_set_back;
mod disk_slow;
mod disk_wiped;
mod frozen;
mod held;
mod in_parts;
mod lingers;
mod links_slow;
mod moved;
mod wall_jump;

use std::time::Duration;

use flotilla_server::world::Simulation;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use turmoil::Sim;

use crate::{
    cluster::{Cluster, Host},
    health,
    links::Links,
    marks::{self, Marks},
    scenarios::pick,
    world::World,
};

/// What a fault can reach.
pub(crate) struct Scene<'a, 'b> {
    pub(crate) sim: &'a mut Sim<'b>,
    pub(crate) cluster: &'a mut Cluster,
    pub(crate) links: &'a mut Links,
    /// Hosts of those who act.
    pub(crate) actors: &'a [&'static str],
    pub(crate) world: &'a World,
    pub(crate) simulation: &'a Simulation,
    pub(crate) marks: &'a Marks,
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

    /// Some host that leads a region; some host where none does.
    fn leader_or_any(&mut self) -> usize {
        let leads = |host: &Host| {
            let joined = host.joined();
            joined.is_some_and(|joined| joined.peers.all().iter().any(|peer| peer.is_leader()))
        };
        let leaders: Vec<usize> = (0..self.cluster.hosts.len())
            .filter(|host| leads(&self.cluster.hosts[*host]))
            .collect();
        leaders.choose(self.random).copied().unwrap_or_else(|| self.host())
    }

    /// The power of a machine fails: some of what its disk was not asked to keep is gone.
    fn cut_power(&mut self, host: usize, until: Duration) {
        self.silence(host);
        let mut other = StdRng::seed_from_u64(self.random.random());
        let random = &mut *self.random;
        let kept = |steps| random.random_range(0..=steps);
        let (log, data) =
            self.cluster.crash(self.sim, host, until, kept, || other.random_bool(0.5));
        self.marks.hit_if(marks::LOG_LOST_UNSYNCED, log > 0);
        self.marks.hit_if(marks::DATA_LOST_UNSYNCED, data > 0);
    }

    /// Nobody is to close the connections of what runs on a machine whose power fails.
    fn silence(&mut self, host: usize) {
        let names = self.cluster.hosts[host].names();
        let mut others: Vec<String> = self.actors.iter().map(|name| (*name).to_owned()).collect();
        let hosts = self.cluster.hosts.iter().enumerate();
        others.extend(hosts.filter(|(other, _)| *other != host).flat_map(|(_, host)| host.names()));
        if self.links.are_held {
            return;
        }
        each(&names, &others, |one, other| self.links.cut_both_ways(self.sim, one, other));
        self.cluster.hosts[host].silent_to = others;
    }

    /// Whether all that was promised is kept by the others when this host loses its disk now. With one disk lost, the
    /// cluster is not at rest before it has made up for it; one with a damaged block may lack something.
    fn may_lose(&self, host: usize) -> bool {
        !self.cluster.hosts[host].is_down()
            && !self.cluster.has_damage()
            && health::at_rest(self.cluster)
    }

    /// The same when what its log keeps stays. That may be in the middle of anything.
    fn may_lose_data(&self, host: usize) -> bool {
        !self.cluster.hosts[host].is_down()
            && !self.cluster.has_damage()
            && health::has_spare_data(self.cluster, host)
    }

    /// Some host of the cluster that may lose its disk now.
    fn host_to_lose(&mut self) -> Option<usize> {
        let host = self.host();
        let is_of_it = self.cluster.hosts[host].joined().is_some();
        (is_of_it && self.may_lose(host)).then_some(host)
    }

    /// Two sides, neither without a host. Whoever is on neither reaches, and is reached by, both.
    fn sides(&mut self) -> (Vec<String>, Vec<String>) {
        let one = self.host();
        let (mut here, mut there) = (vec![], vec![]);
        for (number, host) in self.cluster.hosts.iter().enumerate() {
            match self.random.random_range(0..10) {
                _ if number == one => here.push(host.names()),
                0..3 => here.push(host.names()),
                3..8 => there.push(host.names()),
                _ => {}
            }
        }
        if there.is_empty() {
            let other = (one + 1) % self.cluster.hosts.len();
            let names = self.cluster.hosts[other].names();
            here.retain(|side| *side != names);
            there.push(names);
        }
        for actor in self.actors {
            // Whoever reaches both sides sees what each of them says.
            match self.random.random_range(0..10) {
                0..2 => here.push(vec![(*actor).to_owned()]),
                2..6 => there.push(vec![(*actor).to_owned()]),
                _ => {}
            }
        }
        (here.concat(), there.concat())
    }
}

/// One kind of fault.
pub(crate) trait Fault {
    fn name(&self) -> &'static str;

    /// It cuts links.
    fn cuts(&self) -> bool {
        false
    }

    /// It holds links. turmoil does not support cuts of what is held, so no seed has both.
    fn holds(&self) -> bool {
        false
    }

    /// It moves hosts, which have more than one name then.
    fn moves_hosts(&self) -> bool {
        false
    }

    /// It fills disks, which have an end then.
    fn fills_disks(&self) -> bool {
        false
    }

    /// It takes from a disk what was promised on it. Where regions come to have a single voter, whose disk that may be a
    /// moment later, no seed has it.
    fn loses(&self) -> bool {
        false
    }

    /// It has not struck yet: what it is to strike with was taken.
    fn prepares(&self) -> bool {
        false
    }

    /// Strikes; answers how long it is to last. `None`: it cannot now, and is tried again soon.
    fn strike(&mut self, scene: &mut Scene<'_, '_>) -> Option<Duration>;

    /// Ends it. `Some`: as much of it as ends now, and the rest so much later.
    fn heal(&mut self, _scene: &mut Scene<'_, '_>) -> Option<Duration> {
        None
    }
}

/// What happens to machines and the links between them. No disk is lost.
pub(crate) fn of_machines() -> Vec<Box<dyn Fault>> {
    vec![
        Box::new(held::Held::default()),
        Box::new(frozen::Frozen::default()),
        Box::new(change_interrupted::ChangeInterrupted::default()),
        Box::new(cluster_crash::ClusterCrash),
        Box::new(crash::Crash),
        Box::new(crash_point::CrashPoint),
        Box::new(cut::Cut::default()),
        Box::new(cut_one_way::CutOneWay::default()),
        Box::new(data_set_back::DataSetBack::default()),
        Box::new(disk_fails::DiskFails::default()),
        Box::new(disk_slow::DiskSlow::default()),
        Box::new(links_slow::LinksSlow::default()),
        Box::new(wall_jump::WallJump),
    ]
}

/// What happens to machines for good, beside what passes.
pub(crate) fn of_disks() -> Vec<Box<dyn Fault>> {
    vec![
        Box::new(frozen::Frozen::default()),
        Box::new(change_interrupted::ChangeInterrupted::default()),
        Box::new(crash::Crash),
        Box::new(crash_point::CrashPoint),
        Box::new(cut::Cut::default()),
        Box::new(cut_one_way::CutOneWay::default()),
        Box::new(data_set_back::DataSetBack::default()),
        Box::new(disk_set_back::DiskSetBack::default()),
        Box::new(disk_slow::DiskSlow::default()),
        Box::new(disk_wiped::DiskWiped),
        Box::new(lingers::Lingers),
        Box::new(links_slow::LinksSlow::default()),
        Box::new(moved::Moved),
    ]
}

/// What leaves one behind the others.
pub(crate) fn that_leave_behind() -> Vec<Box<dyn Fault>> {
    vec![
        Box::new(cluster_crash::ClusterCrash),
        Box::new(crash::Crash),
        Box::new(crash_point::CrashPoint),
        Box::new(cut::Cut::default()),
        Box::new(cut_one_way::CutOneWay::default()),
        Box::new(damaged_block::DamagedBlock::default()),
        Box::new(data_set_back::DataSetBack::default()),
        Box::new(disk_set_back::DiskSetBack::default()),
        Box::new(lingers::Lingers),
        Box::new(links_slow::LinksSlow::default()),
    ]
}

/// What makes everything take longer.
pub(crate) fn that_slow_down() -> Vec<Box<dyn Fault>> {
    vec![
        Box::new(held::Held::default()),
        Box::new(crash::Crash),
        Box::new(disk_full::DiskFull::default()),
        Box::new(disk_slow::DiskSlow::default()),
        Box::new(links_slow::LinksSlow::default()),
    ]
}

/// Until a fault that cannot strike now is tried again.
const AGAIN: Duration = Duration::from_millis(3);

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
    /// Draws which are switched on, and when they first strike. Where a single voter may be left no disk is lost.
    pub(crate) fn draw(
        random: &mut StdRng,
        from: Vec<Box<dyn Fault>>,
        may_have_one_voter: bool,
    ) -> Self {
        let mut chosen = Vec::new();
        let cuts = random.random_bool(0.5);
        for fault in from {
            let may_be = if cuts { !fault.holds() } else { !fault.cuts() }
                && !(may_have_one_voter && fault.loses());
            if random.random_bool(0.5) && may_be {
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

    /// Some of them hold links.
    pub(crate) fn hold(&self) -> bool {
        self.chosen.iter().any(|due| due.fault.holds())
    }

    /// Some of them move hosts.
    pub(crate) fn move_hosts(&self) -> bool {
        self.chosen.iter().any(|due| due.fault.moves_hosts())
    }

    /// Some of them fill disks.
    pub(crate) fn fill_disks(&self) -> bool {
        self.chosen.iter().any(|due| due.fault.fills_disks())
    }

    pub(crate) fn names(&self) -> Vec<&'static str> {
        self.chosen.iter().map(|due| due.fault.name()).collect()
    }

    /// Does what is due.
    pub(crate) fn step(&mut self, scene: &mut Scene<'_, '_>) {
        crash_point::take_down(scene);
        for due in &mut self.chosen {
            if due.at > scene.sim.elapsed() {
                continue;
            }
            if due.active {
                tracing::info!("fault ends: {}", due.fault.name());
                let rest = due.fault.heal(scene);
                due.active = rest.is_some();
                due.at = scene.now() + rest.unwrap_or_else(|| scene.moment(4_000));
            } else if let Some(lasts) = due.fault.strike(scene) {
                let prepares = due.fault.prepares();
                let what = if prepares { "fault to come" } else { "fault" };
                tracing::info!("{what}: {}", due.fault.name());
                due.active = true;
                due.at = scene.now() + lasts;
                self.struck += usize::from(!prepares);
            } else {
                due.at = scene.now() + AGAIN;
            }
        }
    }

    /// Ends all of them, for good.
    pub(crate) fn end(&mut self, scene: &mut Scene<'_, '_>) {
        crash_point::take_down(scene);
        for mut due in std::mem::take(&mut self.chosen) {
            while due.active {
                due.active = due.fault.heal(scene).is_some();
            }
        }
    }
}

/// Every pair across.
fn each(here: &[String], there: &[String], mut act: impl FnMut(&str, &str)) {
    for one in here {
        for other in there {
            act(one, other);
        }
    }
}
