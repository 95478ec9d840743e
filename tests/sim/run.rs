//! One simulation, from its seed to its judgement.

use std::{
    cell::RefCell,
    fmt::Write as _,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, UNIX_EPOCH},
};

use flotilla_server::world as server_world;
use flotilla_tests::{
    harness::Session,
    history::Budget,
    workload::{Contested, Crew, Plain, Workload as _},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tonic::transport::Endpoint;

use crate::{
    cluster::{Cluster, Sizes},
    faults::{Faults, Scene},
    invariants::Judges,
    marks::Marks,
    world::{CALM_LATENCY_MAX, World},
};

/// Bound: until the cluster is born and has leaders.
const BIRTH_MAX: Duration = Duration::from_secs(30);
/// Bound: after the faults have ended, until all is well.
const HEALING_MAX: Duration = Duration::from_secs(60);
/// Bound: what clients need to end and to look at everything once more.
const END_MAX: Duration = Duration::from_secs(60);
/// How long a client waits before it counts a call as one whose outcome is unknown.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bound: of a judgement. A history past it shows nothing, and that is a failure.
const BUDGET: Budget = Budget { time: Duration::from_secs(30), configurations: 300_000 };
/// How often promises are looked at.
const JUDGED_EVERY: Duration = Duration::from_millis(5);

/// What came out of one seed.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) hash: u64,
    pub(crate) simulated: Duration,
    pub(crate) messages: u64,
    pub(crate) answered: usize,
    pub(crate) faults: usize,
    pub(crate) marks: Marks,
    pub(crate) violation: Option<(&'static str, String)>,
}

/// Microseconds since the beginning of the simulation.
static ELAPSED: AtomicU64 = AtomicU64::new(0);

/// Since the beginning of the simulation, for who is on no host.
pub(crate) fn elapsed() -> Duration {
    Duration::from_micros(ELAPSED.load(Relaxed))
}

/// How far it is, told to the clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
enum Phase {
    Birth,
    Faults,
    Healing,
    End,
}

/// Runs `seed`.
pub(crate) fn run(seed: u64) -> Outcome {
    let mut random = StdRng::seed_from_u64(seed);
    let world = Arc::new(World::default());
    let epoch = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let sizes = Sizes::draw(&mut random);
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .epoch(UNIX_EPOCH)
        .tick_duration(Duration::from_millis(1))
        .simulation_duration(Duration::from_secs(3_600))
        .min_message_latency(Duration::from_micros(100))
        .max_message_latency(CALM_LATENCY_MAX)
        .tcp_capacity(1 << 16)
        .enable_random_order()
        .build();
    let simulation = server_world::simulate(world.clone(), epoch, seed);
    let mut cluster = Cluster::start(&mut sim, &sizes);
    let phase = Arc::new(AtomicU8::new(Phase::Birth as u8));
    let history: Rc<RefCell<Option<History>>> = Rc::default();
    let names: Vec<String> = cluster.hosts.iter().map(|host| host.name.clone()).collect();
    sim.client("clients", clients(seed, names, Arc::clone(&phase), Rc::clone(&history)));

    let mut faults = Faults::draw(&mut random);
    tracing::info!("seed {seed}: {sizes:?}, faults: {}", faults.names().join(", "));
    let mut outcome = Outcome::default();
    let mut judges = Judges::default();
    let (mut at, mut since) = (Phase::Birth, Duration::ZERO);
    let lasts = Duration::from_secs(random.random_range(5..15));
    let violation = loop {
        match sim.step() {
            Ok(true) => break None,
            Ok(false) => {}
            Err(error) => break Some(("a host fails", error.to_string())),
        }
        let now = sim.elapsed();
        ELAPSED.store(now.as_micros() as u64, Relaxed);
        cluster.restart(&mut sim, now);
        if now.as_millis() % JUDGED_EVERY.as_millis() == 0
            && let Err(broken) = judges.judge(&cluster, &world.trace)
        {
            break Some((broken.invariant, broken.how));
        }
        let mut scene = Scene {
            sim: &mut sim,
            cluster: &mut cluster,
            world: &world,
            simulation: &simulation,
            marks: &mut outcome.marks,
            random: &mut random,
        };
        let next = match at {
            Phase::Birth => match unwell(scene.cluster) {
                None => Some(Phase::Faults),
                Some(what) if now > BIRTH_MAX => break Some(("birth", what)),
                Some(_) => None,
            },
            Phase::Faults => {
                faults.step(&mut scene);
                (now > since + lasts).then(|| {
                    faults.end(&mut scene);
                    Phase::Healing
                })
            }
            Phase::Healing => match unwell(scene.cluster) {
                None => Some(Phase::End),
                Some(what) if now > since + HEALING_MAX => break Some(("healing", what)),
                Some(_) => None,
            },
            Phase::End if now > since + END_MAX => {
                break Some(("clients end", "they wait for something".to_owned()));
            }
            Phase::End => None,
        };
        if let Some(next) = next {
            tracing::info!("phase: {next:?}");
            if next == Phase::Faults {
                faults.begin(now);
            }
            (at, since) = (next, now);
            phase.store(next as u8, Relaxed);
        }
    };
    outcome.violation = violation.or_else(|| judge_history(&world, &history, &mut outcome));
    outcome.faults = faults.struck();
    outcome.simulated = sim.elapsed();
    outcome.hash = world.trace.hash();
    outcome.messages = world.trace.messages();
    outcome
}

/// What clients were told, and whether one copy of the data explains it.
struct History {
    registers: Arc<Contested>,
    judged: Result<(), String>,
}

fn judge_history(
    world: &World,
    history: &RefCell<Option<History>>,
    outcome: &mut Outcome,
) -> Option<(&'static str, String)> {
    let Some(History { registers, judged }) = history.borrow_mut().take() else {
        return Some(("history", "the clients left none".to_owned()));
    };
    outcome.answered = registers.answered();
    world.trace.note(registers.recorder().text().as_bytes());
    judged.err().map(|how| ("linearizability", how))
}

/// What is not yet as it should be when nothing goes wrong.
fn unwell(cluster: &Cluster) -> Option<String> {
    let mut all = Vec::new();
    for host in &cluster.hosts {
        let node = host.node().filter(|node| node.joined().is_some());
        let Some(node) = node else { return Some(format!("{} is not up", host.name)) };
        all.extend(node.joined()?.peers.all().iter().map(|peer| peer.status()));
    }
    let mut words = String::new();
    let mut regions: Vec<u64> =
        all.iter().filter_map(|peer| Some(peer.region.as_ref()?.region_id)).collect();
    regions.sort_unstable();
    regions.dedup();
    if regions.len() < 2 {
        return Some("there are no regions".to_owned());
    }
    for region in regions {
        let peers = || {
            all.iter().filter(move |peer| {
                peer.region.as_ref().is_some_and(|descriptor| descriptor.region_id == region)
            })
        };
        let leaders = peers().filter(|peer| peer.role == "leader").count();
        let described =
            peers().filter_map(|peer| peer.region.as_ref()).map(|region| region.peers.len()).max();
        let applied = peers().map(|peer| peer.applied_index);
        let even = applied.clone().min() == applied.max();
        if leaders != 1 || Some(peers().count()) != described || !even {
            let _ = write!(words, "region {region}: {leaders} leaders, of {described:?} peers ");
            for peer in peers() {
                let _ = write!(
                    words,
                    "[{} {} term {} applied {} of {}] ",
                    peer.peer_id, peer.role, peer.term, peer.applied_index, peer.last_index
                );
            }
        }
    }
    (!words.is_empty()).then_some(words)
}

/// The clients, on a host of their own.
async fn clients(
    seed: u64,
    nodes: Vec<String>,
    phase: Arc<AtomicU8>,
    history: Rc<RefCell<Option<History>>>,
) -> turmoil::Result {
    let until = async |wanted: Phase, act: &dyn Fn()| {
        while phase.load(Relaxed) < wanted as u8 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            act();
        }
    };
    let sessions: Vec<Session> = nodes.iter().map(|name| session(name)).collect();
    until(Phase::Faults, &|| ()).await;
    let stores = Plain::all(&sessions, PATIENCE);
    let contested = Contested::new("registers").judged_within(BUDGET);
    let registers = Crew::start(contested, seed, &stores, stores.len());
    until(Phase::End, &|| registers.workload().next_generation()).await;
    let registers = registers.stop().await;
    let judged = registers.check(&stores).await;
    *history.borrow_mut() = Some(History { registers, judged });
    sessions[0].check_regions().await?;
    Ok(())
}

/// A client that was generated from the contracts, of one node.
fn session(host: &str) -> Session {
    let address = format!("{host}:7420");
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .expect("a name and a port")
        .connect_timeout(Duration::from_secs(2))
        .http2_keep_alive_interval(Duration::from_secs(2))
        .keep_alive_timeout(Duration::from_secs(2));
    let connector = tower::service_fn(|uri: http::Uri| async move {
        let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
        turmoil::net::TcpStream::connect(authority).await.map(hyper_util::rt::TokioIo::new)
    });
    Session::over(&address, endpoint.connect_with_connector_lazy(connector))
}
