//! The closed loop: callers that each send, wait for the answer, and send again.
//!
//! An operation counts in the window in which its answer came; those of the warm-up and those still
//! open at the end count nowhere. A read counts as an error unless it finds a value of the size that
//! was loaded, so a server that loses data cannot be fast. A failed operation makes its caller pause,
//! so that refusing is not a way to be fast either.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use bytes::Bytes;
use clap::ValueEnum;
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::{
    task::JoinSet,
    time::{self, Instant},
};

use super::{
    api::{Api, Connection, Route},
    cost::{Usage, machine_cpu},
    data::{Data, SplitMix},
    window::Window,
};

/// Pause of a caller after an error.
const ERROR_PAUSE: Duration = Duration::from_millis(10);
/// Bound: how long after the last window a caller may still wait for its answer. Those that do are
/// errors.
const STRAGGLER_WAIT: Duration = Duration::from_secs(10);
/// Callers that load data before a measurement.
const PRELOAD_CALLERS: usize = 128;
/// Bound: tries for one key of the data that is loaded; then loading fails.
const PRELOAD_TRIES: usize = 20;
/// Longest latency that is told apart, in nanoseconds.
const LATENCY_NS_MAX: u64 = 120_000_000_000;

/// What each caller does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// Store a value under a random key.
    Put,
    /// Read a random key linearizably. The keys must have been loaded.
    Get,
}

impl Operation {
    /// The name in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
        }
    }
}

/// A load and how long it is measured.
#[derive(Debug, Clone, Serialize)]
pub struct Load {
    pub operation: Operation,
    pub callers: usize,
    /// Not measured; before the first window.
    pub warm_up: Duration,
    pub window: Duration,
    /// Windows, one right after the other.
    pub windows: usize,
}

/// The connections of a load: every caller uses one for each leader it goes to.
pub struct Connections {
    /// First keys, in order, and which of `groups` leads from there on.
    routes: Vec<(Bytes, usize)>,
    groups: Vec<Vec<Connection>>,
}

impl Connections {
    /// `count` connections, spread round robin over the endpoints; any node may get any key.
    pub async fn spread(api: Api, endpoints: &[String], count: usize) -> anyhow::Result<Self> {
        anyhow::ensure!(!endpoints.is_empty(), "no endpoints are given");
        let mut group = Vec::with_capacity(count);
        for endpoint in endpoints.iter().cycle().take(count.max(1)) {
            group.push(Connection::open(api, endpoint).await?);
        }
        Ok(Self { routes: vec![(Bytes::new(), 0)], groups: vec![group] })
    }

    /// `count` connections, shared evenly by the leaders; every key goes to its leader.
    pub async fn to_leaders(api: Api, routes: &[Route], count: usize) -> anyhow::Result<Self> {
        anyhow::ensure!(!routes.is_empty(), "no leaders are known");
        let mut leaders: Vec<&String> = routes.iter().map(|route| &route.endpoint).collect();
        leaders.sort();
        leaders.dedup();
        let mut groups = Vec::with_capacity(leaders.len());
        for leader in &leaders {
            let mut group = Vec::new();
            for _ in 0..(count / leaders.len()).max(1) {
                group.push(Connection::open(api, leader).await?);
            }
            groups.push(group);
        }
        let routes = routes
            .iter()
            .map(|route| {
                let group = leaders
                    .binary_search(&&route.endpoint)
                    .expect("leaders are the endpoints of these routes");
                (route.start_key.clone(), group)
            })
            .collect();
        Ok(Self { routes, groups })
    }

    /// What one caller uses.
    fn lanes(&self, caller: usize) -> Lanes {
        let pick = |group: &Vec<Connection>| group[caller % group.len()].clone();
        Lanes { routes: self.routes.clone(), connections: self.groups.iter().map(pick).collect() }
    }
}

struct Lanes {
    routes: Vec<(Bytes, usize)>,
    connections: Vec<Connection>,
}

impl Lanes {
    fn to(&mut self, key: &Bytes) -> &mut Connection {
        let after = self.routes.partition_point(|(start_key, _)| start_key <= key);
        &mut self.connections[self.routes[after.saturating_sub(1)].1]
    }
}

/// Stores every key once.
///
/// # Errors
///
/// When a key is still refused after `PRELOAD_TRIES`.
pub async fn preload(connections: &Connections, data: &Data) -> anyhow::Result<()> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut callers = JoinSet::new();
    for caller in 0..PRELOAD_CALLERS.min(data.keys()) {
        let (mut lanes, data, next) = (connections.lanes(caller), data.clone(), next.clone());
        callers.spawn(async move {
            let mut random = SplitMix::new(caller as u64);
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= data.keys() {
                    return anyhow::Ok(());
                }
                let key = data.key(number);
                let mut tries = 0;
                while let Err(status) =
                    lanes.to(&key).put(key.clone(), data.value(&mut random)).await
                {
                    tries += 1;
                    anyhow::ensure!(tries < PRELOAD_TRIES, "load key {number}: {status}");
                    time::sleep(ERROR_PAUSE * tries as u32).await;
                }
            }
        });
    }
    while let Some(caller) = callers.join_next().await {
        caller.context("join a loading caller")??;
    }
    Ok(())
}

/// Runs a load and measures it, together with the servers of `pids`.
///
/// # Errors
///
/// When a server ends meanwhile. Failed operations are counted instead.
pub async fn run(
    load: &Load,
    connections: &Connections,
    data: &Data,
    pids: &[u32],
) -> anyhow::Result<Vec<Window>> {
    anyhow::ensure!(load.callers > 0 && load.windows > 0, "a load needs callers and windows");
    anyhow::ensure!(!load.window.is_zero(), "a window needs a length");
    let record = Arc::new(Record::new(load));
    let mut callers = JoinSet::new();
    for caller in 0..load.callers {
        let lanes = connections.lanes(caller);
        callers.spawn(call(load.operation, lanes, data.clone(), caller as u64, record.clone()));
    }

    let mut samples = Vec::with_capacity(load.windows + 1);
    for edge in 0..=load.windows {
        time::sleep_until(record.from + load.window * edge as u32).await;
        samples.push(Sample::take(pids)?);
    }

    let stragglers = time::timeout(STRAGGLER_WAIT, async {
        while let Some(caller) = callers.join_next().await {
            caller.context("join a caller")?;
        }
        anyhow::Ok(())
    });
    if let Ok(joined) = stragglers.await {
        joined?;
    }
    let stuck = callers.len() as u64;
    callers.abort_all();
    Ok(record.windows(&samples, stuck))
}

/// One caller, until the last window ends.
async fn call(
    operation: Operation,
    mut lanes: Lanes,
    data: Data,
    caller: u64,
    record: Arc<Record>,
) {
    let mut random = SplitMix::new(caller ^ 0x5eed);
    let mut started = Instant::now();
    while started < record.until {
        let key = data.key(random.below(data.keys()));
        let connection = lanes.to(&key);
        let outcome = match operation {
            Operation::Put => connection
                .put(key, data.value(&mut random))
                .await
                .map_err(|status| status.to_string()),
            Operation::Get => match connection.get(key).await {
                Ok(Some(bytes)) if bytes == data.value_bytes() => Ok(()),
                Ok(Some(bytes)) => Err(format!("a value of {bytes} bytes was never stored")),
                Ok(None) => Err("a stored key is absent".to_owned()),
                Err(status) => Err(status.to_string()),
            },
        };
        let failed = outcome.is_err();
        started = record.answer(started, outcome);
        if failed {
            time::sleep(ERROR_PAUSE).await;
            started = Instant::now();
        }
    }
}

/// Where callers leave what they saw.
struct Record {
    from: Instant,
    until: Instant,
    window: Duration,
    slots: Vec<Slot>,
}

struct Slot {
    /// Nanoseconds. Held for one record at a time: the callers share one or two threads.
    latencies: Mutex<Histogram<u64>>,
    errors: AtomicU64,
    first_error: Mutex<Option<String>>,
}

impl Record {
    fn new(load: &Load) -> Self {
        let from = Instant::now() + load.warm_up;
        let slot = || Slot {
            latencies: Mutex::new(
                Histogram::new_with_bounds(1_000, LATENCY_NS_MAX, 3)
                    .expect("constant bounds that are in order"),
            ),
            errors: AtomicU64::new(0),
            first_error: Mutex::new(None),
        };
        Self {
            from,
            until: from + load.window * load.windows as u32,
            window: load.window,
            slots: (0..load.windows).map(|_| slot()).collect(),
        }
    }

    /// Notes an answer that came just now; returns now.
    fn answer(&self, started: Instant, outcome: Result<(), String>) -> Instant {
        let now = Instant::now();
        if now >= self.from && now < self.until {
            let index = (now - self.from).as_nanos() / self.window.as_nanos();
            // `until` is a whole number of windows after `from`.
            let slot = &self.slots[index as usize];
            match outcome {
                Ok(()) => {
                    let taken = (now - started).as_nanos().min(LATENCY_NS_MAX.into()) as u64;
                    slot.latencies.lock().saturating_record(taken);
                }
                Err(error) => slot.fail(1, error),
            }
        }
        now
    }

    fn windows(&self, samples: &[Sample], stuck: u64) -> Vec<Window> {
        if stuck > 0 {
            let last = self.slots.last().expect("a load has windows");
            last.fail(stuck, format!("{stuck} callers never got an answer"));
        }
        let seconds = self.window.as_secs_f64();
        let edges = samples.windows(2);
        self.slots
            .iter()
            .zip(edges)
            .map(|(slot, edges)| {
                let window = Window {
                    errors: slot.errors.load(Ordering::Relaxed),
                    first_error: slot.first_error.lock().clone(),
                    ..Window::of_answers(&slot.latencies.lock(), seconds)
                };
                edges[1].charge(&edges[0], window)
            })
            .collect()
    }
}

impl Slot {
    fn fail(&self, count: u64, error: String) {
        self.errors.fetch_add(count, Ordering::Relaxed);
        self.first_error.lock().get_or_insert(error);
    }
}

/// What everyone had used at one edge of a window.
struct Sample {
    at: Instant,
    machine: Duration,
    own: Usage,
    servers: Vec<Usage>,
}

impl Sample {
    fn take(pids: &[u32]) -> anyhow::Result<Self> {
        let servers = pids.iter().map(|pid| Usage::of(*pid)).collect::<anyhow::Result<_>>()?;
        Ok(Self { at: Instant::now(), machine: machine_cpu()?, own: Usage::own()?, servers })
    }

    /// Divides what was used since `earlier` by the operations of the window between.
    fn charge(&self, earlier: &Self, window: Window) -> Window {
        let operations = window.operations.max(1) as f64;
        let pairs = || self.servers.iter().zip(&earlier.servers);
        let servers: Duration = pairs().map(|(now, then)| now.cpu_since(then)).sum();
        let own = self.own.cpu_since(&earlier.own);
        let others = self.machine.saturating_sub(earlier.machine).saturating_sub(servers + own);
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        let written: u64 =
            pairs().map(|(now, then)| now.written_bytes.saturating_sub(then.written_bytes)).sum();
        Window {
            generator_cpu_us: own.as_secs_f64() * 1e6 / operations,
            servers_cpu_us: servers.as_secs_f64() * 1e6 / operations,
            others_cpu_percent: others.as_secs_f64() * 100.0
                / (self.at - earlier.at).as_secs_f64()
                / cores,
            disk_bytes: written as f64 / operations,
            resident_bytes: self.servers.iter().map(|server| server.resident_bytes).collect(),
            ..window
        }
    }
}
