//! What this process uses, under the names that Prometheus knows.

use std::fs;

use prometheus::{
    Counter, IntGauge, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};

pub(super) fn register(registry: &Registry) -> prometheus::Result<()> {
    registry.register(Box::new(Process::new()?))
}

/// Read from `/proc` when somebody reads the metrics.
struct Process {
    cpu_seconds_total: Counter,
    resident_memory_bytes: IntGauge,
    start_time_seconds: IntGauge,
}

impl Process {
    fn new() -> prometheus::Result<Self> {
        let process = Self {
            cpu_seconds_total: Counter::new("process_cpu_seconds_total", "CPU time, all threads")?,
            resident_memory_bytes: IntGauge::new("process_resident_memory_bytes", "Memory in RAM")?,
            start_time_seconds: IntGauge::new("process_start_time_seconds", "Start, since 1970")?,
        };
        if let Some((stat, boot)) = read().zip(boot_time_seconds()) {
            let since_boot = stat.start_ticks / rustix::param::clock_ticks_per_second();
            process.start_time_seconds.set(boot + i64::try_from(since_boot).unwrap_or(0));
        }
        Ok(process)
    }

    fn metrics(&self) -> [&dyn Collector; 3] {
        [&self.cpu_seconds_total, &self.resident_memory_bytes, &self.start_time_seconds]
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.metrics().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        if let Some(stat) = read() {
            let seconds = stat.cpu_ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
            self.cpu_seconds_total.inc_by((seconds - self.cpu_seconds_total.get()).max(0.0));
            let bytes = stat.resident_pages * rustix::param::page_size() as u64;
            self.resident_memory_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
        self.metrics().into_iter().flat_map(Collector::collect).collect()
    }
}

/// What we use of `/proc/self/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    start_ticks: u64,
    resident_pages: u64,
}

fn read() -> Option<Stat> {
    parse(&fs::read_to_string("/proc/self/stat").ok()?)
}

/// Fields are counted from 1 in proc(5); the second is the program's name in parentheses, which may
/// itself hold spaces and parentheses.
fn parse(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Stat {
        cpu_ticks: field(14)? + field(15)?,
        start_ticks: field(22)?,
        resident_pages: field(24)?,
    })
}

fn boot_time_seconds() -> Option<i64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_do_not_shift_the_fields() {
        let text = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 9 0 1234 4096 3 184467";
        let want = Stat { cpu_ticks: 200, start_ticks: 1234, resident_pages: 3 };
        assert_eq!(parse(text), Some(want));
        assert_eq!(parse("7 (a) S 1"), None);
    }
}
