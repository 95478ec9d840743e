//! What the kernel charges a process: CPU time, memory, bytes sent to the disk.

use std::{fs, time::Duration};

use anyhow::Context;

/// What one process has used since it started, and holds now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// In user and kernel mode, all threads. The kernel counts in ticks of 10 ms.
    pub cpu: Duration,
    /// Sent to the storage layer.
    pub written_bytes: u64,
    /// Memory held now.
    pub resident_bytes: u64,
}

impl Usage {
    /// Of the process `pid`.
    ///
    /// # Errors
    ///
    /// When it has ended.
    pub fn of(pid: u32) -> anyhow::Result<Self> {
        let read = |file: &str| {
            let path = format!("/proc/{pid}/{file}");
            fs::read_to_string(&path).with_context(|| format!("read {path}"))
        };
        let ticks = cpu_ticks(&read("stat")?).context("parse the CPU time of a process")?;
        let per_second = rustix::param::clock_ticks_per_second();
        let status = read("status")?;
        let io = read("io")?;
        Ok(Self {
            cpu: Duration::from_micros(ticks * 1_000_000 / per_second),
            written_bytes: field(&io, "write_bytes:").context("parse the bytes written")?,
            // A process that has just ended has no memory line.
            resident_bytes: field(&status, "VmRSS:").context("parse the memory of a process")?
                << 10,
        })
    }

    /// Of this process.
    pub fn own() -> anyhow::Result<Self> {
        Self::of(std::process::id())
    }

    /// CPU time used since `earlier`.
    pub fn cpu_since(&self, earlier: &Self) -> Duration {
        self.cpu.saturating_sub(earlier.cpu)
    }
}

/// CPU time that all programs of the machine have used since it started.
pub fn machine_cpu() -> anyhow::Result<Duration> {
    let stat = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    let ticks = machine_ticks(&stat).context("parse the CPU time of the machine")?;
    Ok(Duration::from_micros(ticks * 1_000_000 / rustix::param::clock_ticks_per_second()))
}

/// User, nice and system ticks of all cores. Interrupts are left out: nobody in particular is
/// charged for them.
fn machine_ticks(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let mut fields = line.split_ascii_whitespace();
    (0..3).try_fold(0, |sum, _| Some(sum + fields.next()?.parse::<u64>().ok()?))
}

/// User and system ticks from `/proc/<pid>/stat`.
fn cpu_ticks(stat: &str) -> Option<u64> {
    // The name of the program may contain anything, but its closing parenthesis is the last.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// The number after a name at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_program_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 100 0 0 0 250 30 5 6 20 0 9 0 12 1000 200";
        assert_eq!(cpu_ticks(stat), Some(280));
        assert_eq!(cpu_ticks("7 (cut short) S 1 7"), None);
    }

    #[test]
    fn the_machine_is_all_its_cores_without_idling() {
        let stat = "cpu  100 20 30 9999 50 7 8 9 0 0\ncpu0 60 10 20 5000 25 4 4 5 0 0\n";
        assert_eq!(machine_ticks(stat), Some(150));
        assert_eq!(machine_ticks("cpu  100 20\n"), None);
    }

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let io = "wchar: 5\ncancelled_write_bytes: 9\nwrite_bytes: 4096\n";
        assert_eq!(field(io, "write_bytes:"), Some(4096));
        assert_eq!(field(io, "read_bytes:"), None);
    }

    #[test]
    fn work_shows_in_the_own_usage() {
        let before = Usage::own().expect("this process runs");
        let mut sum = 0_u64;
        let mut rounds = 0_u64;
        while Usage::own().expect("this process runs").cpu_since(&before).is_zero() {
            sum = (0..1_000_000).fold(sum, |sum, number: u64| sum.rotate_left(3) ^ number);
            rounds += 1;
            assert!(rounds < 100_000, "no CPU time after {rounds} rounds of work ({sum})");
        }
        assert!(before.resident_bytes > 0);
    }

    #[test]
    fn a_process_that_does_not_exist_is_an_error() {
        assert!(Usage::of(u32::MAX).is_err());
    }
}
