//! `kvctl bench`
//!
//! A closed loop: each client has one call under way. Latency is that of the call with its retries, measured for
//! calls that begin after the warm-up; failed calls are counted, not timed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use hdrhistogram::Histogram;
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use rand::{Rng as _, RngExt as _, rngs::StdRng};
use serde::Serialize;
use tokio::time::Instant;

use super::{
    Context,
    exit::Failure,
    table::{Cell, Table, Tone},
};
use crate::{Client, Error, Op, Options, Scan};

/// Longest latency that is told apart, one minute; in microseconds.
const LATENCY_MICROS_MAX: u64 = 60_000_000;
const LOAD_BATCH_KEYS: u64 = 128;
const LOAD_BATCHES_AT_ONCE: usize = 16;
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// Writes keys under --prefix and leaves them there.
#[derive(Debug, Args)]
pub(super) struct Bench {
    /// What to do
    #[arg(value_enum)]
    workload: Workload,
    /// Concurrent callers
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    clients: u64,
    /// Connections to each node
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=64))]
    connections: u64,
    /// How long to measure
    #[arg(long, value_parser = humantime::parse_duration, default_value = "10s")]
    duration: Duration,
    /// How long to run before measuring
    #[arg(long, value_parser = humantime::parse_duration, default_value = "2s")]
    warm_up: Duration,
    /// Size of values
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// How many different keys; at most ten digits
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=9_999_999_999))]
    keys: u64,
    /// What keys begin with; with the default they have 16 bytes
    #[arg(long, default_value = "bench/")]
    prefix: String,
    /// Share of reads in `mixed`
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u8).range(0..=100))]
    read_percent: u8,
    /// Keys of one scan
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    scan_keys: u64,
    /// Do not store the keys first that get, mixed and scan read
    #[arg(long)]
    no_load: bool,
    /// Let the nodes forward instead of going to the leader
    #[arg(long)]
    no_routing: bool,
    #[command(flatten)]
    read: super::ReadArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Workload {
    /// Store random keys
    Put,
    /// Read random keys
    Get,
    /// Reads and writes of random keys
    Mixed,
    /// Read a run of keys from a random one on
    Scan,
    /// Add 1 to random counters
    Incr,
}

impl Workload {
    fn reads(self) -> bool {
        match self {
            Self::Get | Self::Mixed | Self::Scan => true,
            Self::Put | Self::Incr => false,
        }
    }
}

/// What was measured.
#[derive(Debug, Serialize)]
struct Report {
    workload: Workload,
    clients: u64,
    connections: u64,
    value_bytes: usize,
    keys: u64,
    seconds: f64,
    operations: u64,
    operations_per_second: f64,
    failed: u64,
    maybe_applied: u64,
    /// Reads of a key that was not there.
    absent: u64,
    keys_scanned: u64,
    latency_ms: Latency,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_error: Option<String>,
}

#[derive(Debug, Serialize)]
struct Latency {
    mean: f64,
    min: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Self {
        let millis = |micros: u64| micros as f64 / 1000.0;
        Self {
            mean: histogram.mean() / 1000.0,
            min: millis(histogram.min()),
            p50: millis(histogram.value_at_quantile(0.5)),
            p90: millis(histogram.value_at_quantile(0.9)),
            p99: millis(histogram.value_at_quantile(0.99)),
            p999: millis(histogram.value_at_quantile(0.999)),
            max: millis(histogram.max()),
        }
    }
}

/// What one caller saw.
struct Tally {
    latency: Histogram<u64>,
    failed: u64,
    maybe_applied: u64,
    absent: u64,
    keys_scanned: u64,
    first_error: Option<String>,
}

impl Tally {
    fn new() -> Self {
        let latency = Histogram::new_with_bounds(1, LATENCY_MICROS_MAX, 3)
            .expect("the bounds are constants in range");
        Self { latency, failed: 0, maybe_applied: 0, absent: 0, keys_scanned: 0, first_error: None }
    }

    fn record(&mut self, outcome: Result<Seen, Error>, took: Duration) {
        match outcome {
            Ok(seen) => {
                let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                self.latency.saturating_record(micros.max(1));
                self.absent += seen.absent;
                self.keys_scanned += seen.keys_scanned;
            }
            Err(error) => {
                self.failed += 1;
                self.maybe_applied += u64::from(error.maybe_applied());
                self.first_error.get_or_insert_with(|| error.to_string());
            }
        }
    }

    fn add(&mut self, other: Self) {
        self.latency.add(&other.latency).expect("both have the same bounds");
        self.failed += other.failed;
        self.maybe_applied += other.maybe_applied;
        self.absent += other.absent;
        self.keys_scanned += other.keys_scanned;
        self.first_error = self.first_error.take().or(other.first_error);
    }
}

#[derive(Default)]
struct Seen {
    absent: u64,
    keys_scanned: u64,
}

/// One caller.
struct Caller {
    client: Client,
    bench: Arc<Bench>,
    rng: StdRng,
    value: Vec<u8>,
    done: Arc<AtomicU64>,
}

impl Bench {
    pub(super) fn options(&self) -> Options {
        Options {
            channels_per_node: usize::try_from(self.connections).unwrap_or(usize::MAX),
            routing: !self.no_routing,
            read_mode: self.read.read_mode(),
            ..Options::default()
        }
    }

    pub(super) async fn run(self, context: Context) -> Result<(), Failure> {
        let Context { client, mut out, .. } = context;
        if self.duration.is_zero() {
            return Err(Failure::Usage("--duration must not be zero".into()));
        }
        let bench = Arc::new(self);
        if bench.workload.reads() && !bench.no_load {
            bench.load(&client).await?;
        }
        let done = Arc::new(AtomicU64::new(0));
        let warm = Instant::now() + bench.warm_up;
        let until = warm + bench.duration;
        let callers: Vec<_> = (0..bench.clients)
            .map(|_| Caller::new(client.clone(), bench.clone(), done.clone()))
            .map(|caller| tokio::spawn(caller.run(warm, until)))
            .collect();
        let progress = tokio::spawn(show_progress(bench.warm_up, bench.duration, done));
        let mut total = Tally::new();
        for caller in callers {
            let tally = caller.await.map_err(|error| Failure::Failed(error.to_string()))?;
            total.add(tally);
        }
        // Calls that began in time are waited for, and so is their time.
        let seconds = warm.elapsed().as_secs_f64();
        progress.abort();
        let report = bench.report(total, seconds);
        out.show(&report, || table(&report))?;
        match (report.operations, report.first_error) {
            (0, Some(error)) => Err(Failure::Failed(format!("no call succeeded: {error}"))),
            (0, None) => Err(Failure::Failed("no call was made in the time".into())),
            _ => Ok(()),
        }
    }

    fn key(&self, number: u64) -> Bytes {
        format!("{}{number:010}", self.prefix).into()
    }

    async fn load(&self, client: &Client) -> Result<(), Failure> {
        let progress = ProgressBar::new(self.keys);
        set_style(&progress, "loading {human_pos}/{human_len} keys {wide_bar} {per_sec}");
        let mut value = vec![0; self.value_bytes];
        rand::make_rng::<StdRng>().fill_bytes(&mut value);
        let value = Bytes::from(value);
        let batches = (0..self.keys).step_by(LOAD_BATCH_KEYS as usize).map(|first| {
            let end = (first + LOAD_BATCH_KEYS).min(self.keys);
            (first..end).map(|number| Op::put(self.key(number), value.clone())).collect::<Vec<_>>()
        });
        stream::iter(batches)
            .map(async |ops| {
                let count = ops.len() as u64;
                let report = client.write(ops).await?;
                if let Some(failed) = report.failed.into_iter().next() {
                    return Err(Failure::from(failed.error));
                }
                progress.inc(count);
                Ok(())
            })
            .buffer_unordered(LOAD_BATCHES_AT_ONCE)
            .try_collect::<()>()
            .await?;
        progress.finish_and_clear();
        Ok(())
    }

    fn report(&self, tally: Tally, seconds: f64) -> Report {
        let operations = tally.latency.len();
        Report {
            workload: self.workload,
            clients: self.clients,
            connections: self.connections,
            value_bytes: self.value_bytes,
            keys: self.keys,
            seconds,
            operations,
            operations_per_second: operations as f64 / seconds,
            failed: tally.failed,
            maybe_applied: tally.maybe_applied,
            absent: tally.absent,
            keys_scanned: tally.keys_scanned,
            latency_ms: Latency::of(&tally.latency),
            first_error: tally.first_error,
        }
    }
}

impl Caller {
    fn new(client: Client, bench: Arc<Bench>, done: Arc<AtomicU64>) -> Self {
        let mut rng = rand::make_rng::<StdRng>();
        let mut value = vec![0; bench.value_bytes];
        rng.fill_bytes(&mut value);
        Self { client, bench, rng, value, done }
    }

    async fn run(mut self, warm: Instant, until: Instant) -> Tally {
        let mut tally = Tally::new();
        loop {
            let begun = Instant::now();
            if begun >= until {
                return tally;
            }
            let outcome = self.step().await;
            self.done.fetch_add(1, Relaxed);
            if begun >= warm {
                tally.record(outcome, begun.elapsed());
            }
        }
    }

    async fn step(&mut self) -> Result<Seen, Error> {
        match self.bench.workload {
            Workload::Put => self.put().await,
            Workload::Get => self.get().await,
            Workload::Mixed if self.rng.random_range(0..100) < self.bench.read_percent => {
                self.get().await
            }
            Workload::Mixed => self.put().await,
            Workload::Scan => self.scan().await,
            Workload::Incr => {
                let number = self.number();
                // Beside the values of the other workloads, which are no counters.
                let key = format!("{}c{number:09}", self.bench.prefix);
                self.client.increment(key, 1).await?;
                Ok(Seen::default())
            }
        }
    }

    fn number(&mut self) -> u64 {
        self.rng.random_range(0..self.bench.keys)
    }

    async fn put(&mut self) -> Result<Seen, Error> {
        let number = self.number();
        let key = self.bench.key(number);
        // No two values are equal, and none compresses.
        let fresh = self.rng.next_u64().to_le_bytes();
        let changed = self.value.len().min(fresh.len());
        self.value[..changed].copy_from_slice(&fresh[..changed]);
        self.client.put(key, self.value.clone()).await?;
        Ok(Seen::default())
    }

    async fn get(&mut self) -> Result<Seen, Error> {
        let number = self.number();
        let key = self.bench.key(number);
        let found = self.client.get(key).await?;
        Ok(Seen { absent: u64::from(found.is_none()), keys_scanned: 0 })
    }

    async fn scan(&mut self) -> Result<Seen, Error> {
        let number = self.number();
        let start = self.bench.key(number);
        // The digits end before this, so the scan stays among the keys of the benchmark.
        let end = format!("{}:", self.bench.prefix);
        let mut keys = self.client.scan(Scan::range(start, end).limit(self.bench.scan_keys));
        let mut keys_scanned = 0;
        while keys.try_next().await?.is_some() {
            keys_scanned += 1;
        }
        Ok(Seen { absent: 0, keys_scanned })
    }
}

async fn show_progress(warm_up: Duration, duration: Duration, done: Arc<AtomicU64>) {
    let begun = Instant::now();
    let total = warm_up + duration;
    let progress = ProgressBar::new(total.as_millis() as u64);
    set_style(&progress, "{msg} {wide_bar} {elapsed}");
    let mut ticks = tokio::time::interval(PROGRESS_INTERVAL);
    let (mut last_done, mut last_at) = (0, begun);
    loop {
        ticks.tick().await;
        let (now, now_done) = (Instant::now(), done.load(Relaxed));
        let interval = (now - last_at).as_secs_f64();
        if interval > 0.0 {
            let phase = if begun.elapsed() < warm_up { "warming up" } else { "measuring " };
            let rate = (now_done - last_done) as f64 / interval;
            progress
                .set_message(format!("{phase} {:>9} op/s", HumanCount(rate as u64).to_string()));
        }
        (last_done, last_at) = (now_done, now);
        progress.set_position(begun.elapsed().min(total).as_millis() as u64);
    }
}

fn set_style(progress: &ProgressBar, template: &str) {
    // A malformed template would only look different.
    if let Ok(style) = ProgressStyle::with_template(template) {
        progress.set_style(style);
    }
}

fn table(report: &Report) -> Table {
    let mut table = Table::fields();
    let millis = |value: f64| Cell::text(format!("{value:.3} ms"));
    let workload = report.workload.to_possible_value();
    let workload = workload.map(|value| value.get_name().to_owned()).unwrap_or_default();
    table.field("workload", Cell::text(workload));
    table.field("clients", Cell::number(report.clients));
    table.field("connections per node", Cell::number(report.connections));
    table.field("value size", Cell::text(HumanBytes(report.value_bytes as u64).to_string()));
    table.field("measured for", Cell::text(format!("{:.1} s", report.seconds)));
    table.field("operations", Cell::text(HumanCount(report.operations).to_string()));
    let rate = HumanCount(report.operations_per_second as u64).to_string();
    table.field("operations/s", Cell::text(rate).tone(Tone::Good));
    table.field("mean", millis(report.latency_ms.mean));
    table.field("p50", millis(report.latency_ms.p50));
    table.field("p90", millis(report.latency_ms.p90));
    table.field("p99", millis(report.latency_ms.p99));
    table.field("p99.9", millis(report.latency_ms.p999));
    table.field("max", millis(report.latency_ms.max));
    if report.keys_scanned > 0 {
        table.field("keys scanned", Cell::text(HumanCount(report.keys_scanned).to_string()));
    }
    if report.absent > 0 {
        table.field("absent", Cell::number(report.absent).tone(Tone::Warning));
    }
    if report.failed > 0 {
        table.field("failed", Cell::number(report.failed).tone(Tone::Bad));
        table.field("maybe applied", Cell::number(report.maybe_applied).tone(Tone::Warning));
        table.field("first error", Cell::text(report.first_error.clone().unwrap_or_default()));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_calls_are_counted_and_not_timed() {
        let (mut one, mut other) = (Tally::new(), Tally::new());
        one.record(Ok(Seen { absent: 1, keys_scanned: 0 }), Duration::from_millis(2));
        other.record(Ok(Seen::default()), Duration::from_secs(600));
        let lost = Error::MaybeApplied { message: "lost".into() };
        other.record(Err(lost), Duration::from_secs(5));
        other.record(Err(Error::NotFound { message: String::new() }), Duration::ZERO);
        one.add(other);
        assert_eq!((one.latency.len(), one.failed, one.maybe_applied, one.absent), (2, 2, 1, 1));
        assert!(one.first_error.is_some_and(|error| error.contains("lost")));
        // A call longer than the histogram's range is kept at its end, not dropped.
        assert!(one.latency.max() >= LATENCY_MICROS_MAX);
    }
}
