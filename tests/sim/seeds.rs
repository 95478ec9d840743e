//! Many seeds, and what is told of them.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
    io::{self, Write as _},
    ops::Range,
    process::{Command, ExitCode},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{
    run::{self, Outcome},
    scenarios::Scenario,
};

/// Seeds that are run twice: both times the same must happen.
const TWICE: u64 = 2;

/// Bound: real time for one seed, which takes a second or a few.
const CHILD_MAX_SECONDS: &str = "180";
/// How `timeout` says that it has ended a process.
const TIMED_OUT: i32 = 124;
/// How often a process is started that could not make its semaphore.
const STARTED_AGAIN: usize = 5;

/// From so many seeds of a scenario on, each of its marks must be hit.
const MARKED_FROM: u64 = 100;

/// What a child tells, as one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Told {
    hash: u64,
    simulated_ms: u64,
    messages: u64,
    answered: usize,
    faults: usize,
    marks: BTreeMap<String, u64>,
    pub(crate) violation: Option<(String, String)>,
}

/// Runs one seed, and tells of it in one line; with its log, if that is wanted.
pub(crate) fn child(scenario: &'static Scenario, seed: u64, logged: bool) -> ExitCode {
    if logged {
        return tell_all(scenario, seed);
    }
    let told = Told::from(run::run(scenario, seed));
    say(serde_json::to_string(&told).expect("numbers and words"));
    ExitCode::SUCCESS
}

/// Runs one seed again, with its log.
pub(crate) fn replay(scenario: &'static Scenario, seed: u64) -> ExitCode {
    let ran = process(Seed { scenario, seed }).map(|mut child| child.arg("--logged").status());
    match ran {
        Ok(Ok(status)) if status.success() => ExitCode::SUCCESS,
        Ok(Ok(_)) => ExitCode::FAILURE,
        Ok(Err(error)) => {
            say(format!("start timeout: {error}"));
            ExitCode::FAILURE
        }
        Err(words) => {
            say(words);
            ExitCode::FAILURE
        }
    }
}

fn tell_all(scenario: &'static Scenario, seed: u64) -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_ansi(false).with_timer(Simulated).with_env_filter(filter).init();
    let outcome = run::run(scenario, seed);
    say(format!("{outcome:#?}"));
    if outcome.violation.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Time since the beginning of the simulation.
struct Simulated;

impl tracing_subscriber::fmt::time::FormatTime for Simulated {
    fn format_time(&self, w: &mut tracing_subscriber::fmt::format::Writer<'_>) -> fmt::Result {
        let elapsed = turmoil::sim_elapsed().unwrap_or_else(run::elapsed);
        write!(w, "{:>10.4}", elapsed.as_secs_f64())
    }
}

impl From<Outcome> for Told {
    fn from(outcome: Outcome) -> Self {
        Self {
            hash: outcome.hash,
            simulated_ms: outcome.simulated.as_millis() as u64,
            messages: outcome.messages,
            answered: outcome.answered,
            faults: outcome.faults,
            marks: outcome.marks.into_iter().map(|(name, hits)| (name.to_owned(), hits)).collect(),
            violation: outcome.violation.map(|broken| (broken.invariant.to_owned(), broken.how)),
        }
    }
}

/// One simulation of a scenario.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seed {
    pub(crate) scenario: &'static Scenario,
    pub(crate) seed: u64,
}

impl Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SCENARIO={:?} SEED={}", self.scenario, self.seed)
    }
}

/// Runs seeds of each scenario, before them those that have failed once, and tells what came out.
pub(crate) fn many(scenarios: &[&'static Scenario], seeds: Range<u64>, jobs: usize) -> ExitCode {
    let began = now();
    let once = once_failed()
        .into_iter()
        .filter(|seed| scenarios.iter().any(|scenario| scenario.name == seed.scenario.name));
    let each =
        scenarios.iter().flat_map(|scenario| seeds.clone().map(|seed| Seed { scenario, seed }));
    let all: Vec<Seed> = once.chain(each).collect();
    let total: Mutex<BTreeMap<&str, Total>> = Mutex::default();
    beside_each_other(jobs, &all, |seed| {
        let told = run_child(seed, None).and_then(|told| {
            let again = seed.seed < seeds.start + TWICE;
            if again && run_child(seed, None)?.hash != told.hash {
                return Err("the same seed has run differently".to_owned());
            }
            Ok(told)
        });
        let mut total = total.lock().expect("nobody panics with it");
        total.entry(seed.scenario.name).or_default().add(seed, told);
        true
    });
    let total = total.into_inner().expect("nobody panics with it");
    let mut sum = Total::default();
    let mut blind = Vec::new();
    for scenario in scenarios {
        let Some(of) = total.get(scenario.name) else { continue };
        of.tell(scenario.name);
        if of.seeds >= MARKED_FROM {
            let missed = scenario.sometimes.iter().filter(|mark| !of.marks.contains_key(mark.0));
            blind.extend(missed.map(|mark| format!("{scenario:?}: no seed hit: {}", mark.0)));
        }
        sum.join(of);
    }
    sum.tell_pace(began.elapsed());
    for line in &blind {
        say(format!("FAILED: {line}"));
    }
    for (seed, (invariant, _)) in &sum.failed {
        say(format!("FAILED: {invariant}: make sim {seed}"));
    }
    if sum.failed.is_empty() && blind.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The seeds of `regressions.txt`: in each line a scenario, a seed, and what it had found.
fn once_failed() -> Vec<Seed> {
    let lines = include_str!("regressions.txt").lines();
    lines.filter(|line| !line.starts_with('#') && !line.is_empty()).map(line_of_seed).collect()
}

/// A scenario and a seed, and words.
pub(crate) fn line_of_seed(line: &str) -> Seed {
    let mut words = line.split_whitespace();
    let scenario = words.next().and_then(crate::scenarios::named);
    let seed = words.next().and_then(|seed| seed.parse().ok());
    let (Some(scenario), Some(seed)) = (scenario, seed) else {
        panic!("no scenario and seed: {line}");
    };
    Seed { scenario, seed }
}

/// Does `work` with each, in their order, so many at once, until one answers that it is enough.
pub(crate) fn beside_each_other(jobs: usize, seeds: &[Seed], work: impl Fn(Seed) -> bool + Sync) {
    let next = AtomicUsize::new(0);
    let enough = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while !enough.load(Relaxed)
                    && let Some(seed) = seeds.get(next.fetch_add(1, Relaxed))
                {
                    if !work(*seed) {
                        enough.store(true, Relaxed);
                    }
                }
            });
        }
    });
}

/// A process of its own for a seed.
fn process(seed: Seed) -> Result<Command, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    // Below us, HTTP/2 asks the machine for the time, and each answer has the date in it: both stand still.
    let mut command = Command::new("timeout");
    // One that turns in a circle is ended from outside: its own clock stands still.
    command.args([CHILD_MAX_SECONDS, "faketime", "-f", "2023-11-14 22:13:20"]).arg(program);
    command.args(["--scenario", seed.scenario.name, "--child", &seed.seed.to_string()]);
    // What chooses among many is not for the child.
    command.env_remove("SEED").env_remove("SCENARIO").env_remove("KNOWN_BAD");
    Ok(command)
}

pub(crate) fn run_child(seed: Seed, known_bad: Option<&str>) -> Result<Told, String> {
    // faketime makes a semaphore by its process id, and one that was killed has left its own.
    for _ in 1..STARTED_AGAIN {
        match run_once(seed, known_bad) {
            Err(words) if words.contains("sem_open") => {}
            ran => return ran,
        }
    }
    run_once(seed, known_bad)
}

fn run_once(seed: Seed, known_bad: Option<&str>) -> Result<Told, String> {
    let mut child = process(seed)?;
    if let Some(name) = known_bad {
        child.env("FLOTILLA_KNOWN_BAD", name);
    }
    let ran = child.output().map_err(|error| format!("start timeout: {error}"))?;
    if ran.status.code() == Some(TIMED_OUT) {
        return Err(format!("no end within {CHILD_MAX_SECONDS} s"));
    }
    let line = String::from_utf8_lossy(&ran.stdout);
    serde_json::from_str(line.trim()).map_err(|_| {
        let words = String::from_utf8_lossy(&ran.stderr);
        let last: Vec<&str> = words.lines().filter(|line| !line.is_empty()).collect();
        format!("{}: {}", ran.status, last[last.len().saturating_sub(4)..].join(" | "))
    })
}

pub(crate) fn say(line: impl Display) {
    // Nobody is there to be told that standard output is closed.
    let _ = writeln!(io::stdout().lock(), "{line}");
}

pub(crate) fn cores() -> usize {
    thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

#[expect(clippy::disallowed_methods, reason = "how long a simulation takes is real time")]
fn now() -> Instant {
    Instant::now()
}

/// What came out of many seeds.
#[derive(Default)]
struct Total {
    seeds: u64,
    simulated: Duration,
    messages: u64,
    answered: usize,
    faults: usize,
    /// In how many seeds each was hit.
    marks: BTreeMap<String, u64>,
    failed: BTreeMap<String, (String, String)>,
}

impl Total {
    fn add(&mut self, seed: Seed, told: Result<Told, String>) {
        self.seeds += 1;
        let violation = match told {
            Ok(told) => {
                self.simulated += Duration::from_millis(told.simulated_ms);
                self.messages += told.messages;
                self.answered += told.answered;
                self.faults += told.faults;
                for name in told.marks.into_keys() {
                    *self.marks.entry(name).or_default() += 1;
                }
                told.violation
            }
            Err(words) => Some(("the process".to_owned(), words)),
        };
        if let Some(violation) = violation {
            say(format!("{seed}: {}: {}", violation.0, violation.1));
            self.failed.insert(seed.to_string(), violation);
        }
    }

    fn join(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.simulated += other.simulated;
        self.messages += other.messages;
        self.answered += other.answered;
        self.faults += other.faults;
        self.failed.extend(other.failed.clone());
    }

    fn tell(&self, scenario: &str) {
        say(format!("{scenario}: {} seeds, {self}", self.seeds));
        for (name, seeds) in &self.marks {
            say(format!("  in {seeds} seeds: {name}"));
        }
    }

    fn tell_pace(&self, took: Duration) {
        let (seeds, seconds) = (self.seeds, took.as_secs_f64());
        let a_minute = seeds as f64 * 60.0 / seconds;
        say(format!("{seeds} seeds in {seconds:.0} s, {a_minute:.0} a minute: {self}"));
    }
}

impl Display for Total {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { faults, messages, answered, .. } = self;
        let hours = self.simulated.as_secs_f64() / 3600.0;
        write!(
            f,
            "{hours:.2} h simulated, {faults} faults struck, {messages} messages, {answered} calls answered"
        )
    }
}
