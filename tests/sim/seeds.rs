//! Many seeds, and what is told of them.

use std::{
    collections::BTreeMap,
    fmt::Display,
    io::{self, Write as _},
    ops::Range,
    process::{Command, ExitCode},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::run::{self, Outcome};

/// Seeds that are run twice: both times the same must happen.
const TWICE: u64 = 3;

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
pub(crate) fn child(seed: u64, logged: bool) -> ExitCode {
    if logged {
        return tell_all(seed);
    }
    let outcome = run::run(seed);
    let told = Told::from(outcome);
    say(serde_json::to_string(&told).expect("numbers and words"));
    ExitCode::SUCCESS
}

/// Runs one seed again, with its log.
pub(crate) fn replay(seed: u64) -> ExitCode {
    let ran = process(seed).map(|mut child| child.arg("--logged").status());
    match ran {
        Ok(Ok(status)) if status.success() => ExitCode::SUCCESS,
        Ok(Ok(_)) => ExitCode::FAILURE,
        Ok(Err(error)) => {
            say(format!("start faketime: {error}"));
            ExitCode::FAILURE
        }
        Err(words) => {
            say(words);
            ExitCode::FAILURE
        }
    }
}

fn tell_all(seed: u64) -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_ansi(false).with_timer(Simulated).with_env_filter(filter).init();
    let outcome = run::run(seed);
    say(format!("{outcome:#?}"));
    if outcome.violation.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Time since the beginning of the simulation.
struct Simulated;

impl tracing_subscriber::fmt::time::FormatTime for Simulated {
    fn format_time(&self, w: &mut tracing_subscriber::fmt::format::Writer<'_>) -> std::fmt::Result {
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
            marks: outcome
                .marks
                .0
                .into_iter()
                .map(|(name, hits)| (name.to_owned(), hits))
                .collect(),
            violation: outcome.violation.map(|(name, how)| (name.to_owned(), how)),
        }
    }
}

/// Runs seeds, each in a process of its own, and tells what came out.
pub(crate) fn many(seeds: Range<u64>, jobs: Option<usize>) -> ExitCode {
    let began = now();
    let next = AtomicU64::new(seeds.start);
    let total = Mutex::new(Total::default());
    thread::scope(|scope| {
        for _ in 0..jobs.unwrap_or_else(cores) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let told = run_child(seed, None).and_then(|told| {
                        let again = seed < seeds.start + TWICE;
                        if again && run_child(seed, None)?.hash != told.hash {
                            return Err("the same seed has run differently".to_owned());
                        }
                        Ok(told)
                    });
                    total.lock().expect("nobody panics with it").add(seed, told);
                }
            });
        }
    });
    let total = total.into_inner().expect("nobody panics with it");
    total.tell(began.elapsed());
    if total.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A process of its own for a seed.
fn process(seed: u64) -> Result<Command, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    // Below us, HTTP/2 asks the machine for the time, and each answer has the date in it: both stand still.
    let mut command = Command::new("faketime");
    command.args(["-f", "2023-11-14 22:13:20"]).arg(program);
    command.args(["--child", &seed.to_string()]);
    Ok(command)
}

pub(crate) fn run_child(seed: u64, known_bad: Option<&str>) -> Result<Told, String> {
    let mut child = process(seed)?;
    if let Some(name) = known_bad {
        child.env("FLOTILLA_KNOWN_BAD", name);
    }
    let ran = child.output().map_err(|error| format!("start faketime: {error}"))?;
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

#[derive(Default)]
struct Total {
    seeds: u64,
    simulated: Duration,
    messages: u64,
    answered: usize,
    faults: usize,
    marks: BTreeMap<String, u64>,
    failed: BTreeMap<u64, (String, String)>,
}

impl Total {
    fn add(&mut self, seed: u64, told: Result<Told, String>) {
        self.seeds += 1;
        match told {
            Ok(told) => {
                self.simulated += Duration::from_millis(told.simulated_ms);
                self.messages += told.messages;
                self.answered += told.answered;
                self.faults += told.faults;
                for (name, hits) in told.marks {
                    *self.marks.entry(name).or_default() += u64::from(hits > 0);
                }
                if let Some(violation) = told.violation {
                    say(format!("seed {seed}: {}: {}", violation.0, violation.1));
                    self.failed.insert(seed, violation);
                }
            }
            Err(words) => {
                say(format!("seed {seed}: {words}"));
                self.failed.insert(seed, ("the process".to_owned(), words));
            }
        }
    }

    fn tell(&self, took: Duration) {
        let minutes = took.as_secs_f64() / 60.0;
        say(format!(
            "{} seeds in {:.0} s, {:.0} a minute: {:.2} h simulated, {} faults struck, {} messages, {} calls answered",
            self.seeds,
            took.as_secs_f64(),
            self.seeds as f64 / minutes,
            self.simulated.as_secs_f64() / 3600.0,
            self.faults,
            self.messages,
            self.answered,
        ));
        for (name, seeds) in &self.marks {
            say(format!("  in {seeds} seeds: {name}"));
        }
        for (seed, (invariant, _)) in &self.failed {
            say(format!("FAILED: {invariant}: make sim SEED={seed}"));
        }
    }
}
