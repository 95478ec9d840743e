//! One simulation, from its seed to its judgement.

use std::{
    collections::BTreeMap,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, UNIX_EPOCH},
};

use flotilla_server::world as server_world;
use rand::{SeedableRng as _, rngs::StdRng};

use crate::{
    actors,
    cluster::Cluster,
    faults::{Faults, Scene},
    health::{Goal, unwell},
    invariants::{Judges, Violation},
    links::Links,
    marks,
    scenarios::Scenario,
    stage::{Phase, Stage},
    world::{Around, CALM_LATENCY_MAX, World},
};

/// Bound: until the cluster is born and has leaders.
const BIRTH_MAX: Duration = Duration::from_secs(30);
/// Bound: after the faults have ended, until all is well.
const HEALING_MAX: Duration = Duration::from_secs(60);
/// Bound: what those who act need to end and to look at everything once more.
const END_MAX: Duration = Duration::from_secs(60);
/// How often promises are looked at: a multiple of every tick.
const JUDGED_EVERY: Duration = Duration::from_millis(4);
/// How often it is looked whether all is well.
const HEALTH_EVERY: Duration = Duration::from_millis(20);

/// What came out of one seed.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) hash: u64,
    pub(crate) simulated: Duration,
    pub(crate) messages: u64,
    pub(crate) answered: usize,
    pub(crate) faults: usize,
    pub(crate) marks: BTreeMap<&'static str, u64>,
    pub(crate) violation: Option<Violation>,
}

/// Microseconds since the beginning of the simulation.
static ELAPSED: AtomicU64 = AtomicU64::new(0);

/// Since the beginning of the simulation, for who is on no host.
pub(crate) fn elapsed() -> Duration {
    Duration::from_micros(ELAPSED.load(Relaxed))
}

/// Runs a seed of a scenario.
pub(crate) fn run(scenario: &Scenario, seed: u64) -> Outcome {
    let mut random = StdRng::seed_from_u64(seed);
    let world = Arc::new(World::default());
    let epoch = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let sizes = Rc::new((scenario.sizes)(&mut random));
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .epoch(UNIX_EPOCH)
        .tick_duration(sizes.tick)
        .simulation_duration(Duration::from_secs(3_600))
        .min_message_latency(Duration::from_micros(100))
        .max_message_latency(CALM_LATENCY_MAX)
        .tcp_capacity(1 << 16)
        .enable_random_order()
        .build();
    let simulation = server_world::simulate(Arc::new(Around(Arc::clone(&world))), epoch, seed);
    let _library = flotilla_client::random::seed(seed);
    let stage = Stage::new(seed, Rc::clone(&sizes), Arc::clone(&world.trace));
    let mut faults = Faults::draw(&mut random, (scenario.faults)(), sizes.factor_changes);
    if faults.fill_disks() {
        world.bound_disks();
    }
    let mut cluster = Cluster::start(&mut sim, &world, &sizes, faults.move_hosts());
    let all = || [&actors::FOUNDER].into_iter().chain(scenario.actors);
    let actors: Vec<&'static str> = all().map(|actor| actor.name).collect();
    for actor in all() {
        sim.client(actor.name, (actor.act)(stage.clone()));
    }
    tracing::info!("{scenario:?} {seed}: {sizes:?}, faults: {}", faults.names().join(", "));
    let mut links = Links::new(faults.hold());
    let mut judges = Judges::default();
    let (mut since, mut goal) = (Duration::ZERO, Goal::default());
    if sizes.birth_goes_wrong {
        stage.marks.hit(marks::BIRTH_GOES_WRONG);
        stage.enter(Phase::Faults);
    }
    let broken = |invariant: &'static str, how: String| Some(Violation { invariant, how });
    let violation = loop {
        stage.set_addresses(cluster.addresses());
        match sim.step() {
            Ok(true) => break None,
            Ok(false) => {}
            Err(error) => break broken("a host fails", error.to_string()),
        }
        let now = sim.elapsed();
        ELAPSED.store(now.as_micros() as u64, Relaxed);
        if let Err(how) = cluster.restart(&mut sim, &mut links, now, &stage.marks) {
            break broken("nodes-live", how);
        }
        if !stage.is_founded() && cluster.hosts.iter().any(|host| host.joined().is_some()) {
            stage.found();
        }
        if is_due(now, JUDGED_EVERY) {
            cluster.forgive(now);
            let note = |entry: u32| world.trace.note(&entry.to_le_bytes());
            if let Err(violation) = judges.judge(&cluster.moment(now, world.dead()), note) {
                break Some(violation);
            }
        }
        let ill = || match unwell(&cluster.hosts, cluster.regions, &goal) {
            None => stage.who_acts().map(|actor| format!("{actor} has not put everything back")),
            some => some,
        };
        let next = match stage.phase() {
            Phase::Birth if is_due(now, HEALTH_EVERY) => {
                match unwell(&cluster.hosts[..sizes.nodes], cluster.regions, &goal) {
                    None => Some(Phase::Faults),
                    Some(what) if now > BIRTH_MAX => break broken("birth", what),
                    Some(_) => None,
                }
            }
            Phase::Faults => {
                let mut scene = Scene {
                    sim: &mut sim,
                    cluster: &mut cluster,
                    links: &mut links,
                    actors: &actors,
                    world: &world,
                    simulation: &simulation,
                    marks: &stage.marks,
                    random: &mut random,
                };
                faults.step(&mut scene);
                (now > since + sizes.lasts).then(|| {
                    faults.end(&mut scene);
                    Phase::Healing
                })
            }
            Phase::Healing if is_due(now, HEALTH_EVERY) => match ill() {
                None => Some(Phase::End),
                Some(what) if now > since + HEALING_MAX => break broken("healing", what),
                Some(_) => None,
            },
            Phase::End if now > since + END_MAX => {
                break broken("clients end", "they wait for something".to_owned());
            }
            Phase::Birth | Phase::Healing | Phase::End => None,
        };
        if let Some(next) = next {
            tracing::info!("phase: {next:?}");
            if next == Phase::Faults {
                faults.begin(now);
            }
            since = now;
            goal = Goal::of(&cluster);
            stage.enter(next);
        }
    };
    Outcome {
        violation: violation.or_else(|| stage.broken()),
        faults: faults.struck(),
        simulated: sim.elapsed(),
        hash: world.trace.hash(),
        messages: world.trace.messages(),
        answered: stage.answered(),
        marks: stage.marks.all(&world.marks),
    }
}

/// So that what costs much is not done in each step.
fn is_due(now: Duration, every: Duration) -> bool {
    now.as_millis().is_multiple_of(every.as_millis())
}
