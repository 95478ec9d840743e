//! This process: what it is, and what it uses.

use std::fs;

use prometheus::{
    Counter, IntCounter, IntGauge, IntGaugeVec, Opts, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use crate::telemetry;

/// Adds `flotilla_build_info` and the `process_…` series that Prometheus knows by these names.
pub(super) fn register(registry: &Registry) -> prometheus::Result<()> {
    let build = IntGaugeVec::new(
        Opts::new("flotilla_build_info", "Always 1; the labels say what runs"),
        &["version", "profile"],
    )?;
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    build.with_label_values(&[env!("CARGO_PKG_VERSION"), profile]).set(1);
    registry.register(Box::new(build))?;
    registry.register(Box::new(Process::new()?))
}

/// Read from `/proc` when somebody reads the metrics. The collector of the crate `prometheus` counts
/// CPU time in whole seconds, which is too coarse for a rate; hence this one.
struct Process {
    cpu_seconds_total: Counter,
    resident_memory_bytes: IntGauge,
    virtual_memory_bytes: IntGauge,
    threads: IntGauge,
    open_fds: IntGauge,
    max_fds: IntGauge,
    start_time_seconds: IntGauge,
    log_lines_lost_total: IntCounter,
}

impl Process {
    fn new() -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str| IntGauge::new(name, help);
        let process = Self {
            cpu_seconds_total: Counter::new("process_cpu_seconds_total", "CPU time, all threads")?,
            resident_memory_bytes: gauge("process_resident_memory_bytes", "Memory in RAM")?,
            virtual_memory_bytes: gauge("process_virtual_memory_bytes", "Addressed memory")?,
            threads: gauge("process_threads", "Threads")?,
            open_fds: gauge("process_open_fds", "Open file descriptors")?,
            max_fds: gauge("process_max_fds", "Most file descriptors that may be open")?,
            start_time_seconds: gauge("process_start_time_seconds", "Start, since 1970")?,
            log_lines_lost_total: IntCounter::new(
                "flotilla_log_lines_lost_total",
                "Log lines that were not written, as whoever reads them had stopped to",
            )?,
        };
        if let Some((stat, boot)) = Stat::read().zip(boot_time_seconds()) {
            process.start_time_seconds.set(boot + to_i64(stat.start_ticks / ticks_per_second()));
        }
        Ok(process)
    }

    fn metrics(&self) -> [&dyn Collector; 8] {
        [
            &self.cpu_seconds_total,
            &self.resident_memory_bytes,
            &self.virtual_memory_bytes,
            &self.threads,
            &self.open_fds,
            &self.max_fds,
            &self.start_time_seconds,
            &self.log_lines_lost_total,
        ]
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.metrics().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        if let Some(stat) = Stat::read() {
            let seconds = stat.cpu_ticks as f64 / ticks_per_second() as f64;
            self.cpu_seconds_total.inc_by((seconds - self.cpu_seconds_total.get()).max(0.0));
            self.virtual_memory_bytes.set(to_i64(stat.virtual_bytes));
            self.resident_memory_bytes
                .set(to_i64(stat.resident_pages * rustix::param::page_size() as u64));
            self.threads.set(to_i64(stat.threads));
        }
        let lost = telemetry::lost_lines();
        self.log_lines_lost_total.inc_by(lost.saturating_sub(self.log_lines_lost_total.get()));
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            self.open_fds.set(i64::try_from(open.count()).unwrap_or(i64::MAX));
        }
        let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        self.max_fds.set(most.map_or(i64::MAX, to_i64));
        self.metrics().into_iter().flat_map(Collector::collect).collect()
    }
}

/// What we use of `/proc/self/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    threads: u64,
    start_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    fn read() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/self/stat").ok()?)
    }

    /// Fields are counted from 1 in proc(5); the second is the program's name in parentheses, which
    /// may itself hold spaces and parentheses.
    fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            cpu_ticks: field(14)? + field(15)?,
            threads: field(20)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

fn boot_time_seconds() -> Option<i64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
}

fn ticks_per_second() -> u64 {
    rustix::param::clock_ticks_per_second()
}

fn to_i64(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_do_not_shift_the_fields() {
        let text = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 9 0 1234 4096 3 184467";
        let want = Stat {
            cpu_ticks: 200,
            threads: 9,
            start_ticks: 1234,
            virtual_bytes: 4096,
            resident_pages: 3,
        };
        assert_eq!(Stat::parse(text), Some(want));
        assert_eq!(Stat::parse("7 (a) S 1"), None);
    }
}
