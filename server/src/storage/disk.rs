//! Space and health of the device, watched before RocksDB runs into its end.
//!
//! RocksDB does not recover from a full device in the middle of its log, so the node must stop
//! filling it earlier. Two levels say how near the end is: at [`Level::Low`] the node refuses
//! clients' writes but lets deletes and moves through; at [`Level::Critical`] it also gives up its
//! leaderships. A file of ballast is given back at that point, so that what has to be written to
//! get out of trouble finds room. Levels are judged as if the ballast were always there: giving it
//! back makes room but does not make the device look emptier.
//!
//! A device can also stop answering. [`DiskMonitor::probe`] writes and syncs a small file; a node
//! calls it from a thread of its own and ends itself when it fails or does not return in time.

mod ballast;
mod level;

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU8, AtomicU64, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use rustix::io::Errno;

use self::ballast::Ballast;
pub use self::level::{Level, Thresholds};
use super::{
    config::DiskConfig,
    durable_file::{create_dir_all, failed},
    engine::Error,
};
use crate::world::{self, Space};

const MIB: u64 = 1 << 20;

/// What is written in the time between two looks, beside memtables that are flushed.
const BETWEEN_LOOKS_BYTES: u64 = 32 * MIB;

impl DiskConfig {
    /// The ballast for a file system of `total_bytes`.
    #[must_use]
    pub fn ballast(&self, total_bytes: u64) -> u64 {
        self.ballast_bytes.unwrap_or_else(|| match total_bytes / MIB {
            0..256 => 0,
            _ => (total_bytes / 20).min(1024 * MIB),
        })
    }

    /// The thresholds for a file system of `total_bytes`, on which full memtables become files of `flush_bytes`:
    /// what is written between two looks, and then flushed, must find room, or the node ends.
    #[must_use]
    pub fn thresholds(&self, total_bytes: u64, flush_bytes: u64) -> Thresholds {
        let critical = self.critical_bytes.unwrap_or_else(|| {
            (total_bytes / 20).min(1024 * MIB).max(flush_bytes).min(total_bytes / 4)
        });
        let low = self.low_bytes.unwrap_or_else(|| {
            let written = 2 * flush_bytes + BETWEEN_LOOKS_BYTES;
            (total_bytes / 8).min(4096 * MIB).max(written).min(total_bytes / 2)
        });
        Thresholds { low_bytes: low.max(critical), critical_bytes: critical }
    }

    /// What a region that comes here must leave: it is not to make the disk low, nor, where the levels are set lower
    /// than that, critical by what is written and flushed before the next look.
    #[must_use]
    pub fn reserve(&self, total_bytes: u64, flush_bytes: u64) -> u64 {
        let Thresholds { low_bytes, critical_bytes } = self.thresholds(total_bytes, flush_bytes);
        let written = critical_bytes.saturating_add(flush_bytes + BETWEEN_LOOKS_BYTES);
        low_bytes.max(written.min(total_bytes / 2))
    }
}

/// What one look at the device found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskStatus {
    pub level: Level,
    /// Size of the file system.
    pub total_bytes: u64,
    /// What this process may still write, without the ballast.
    pub available_bytes: u64,
    /// Ballast in place.
    pub ballast_bytes: u64,
}

/// Watches the file system that holds the data directory.
pub struct DiskMonitor {
    dir: PathBuf,
    config: DiskConfig,
    flush_bytes: u64,
    ballast: Mutex<Ballast>,
    /// Invariant: the level of the newest poll; only a poll writes it, under the lock of `ballast`.
    level: AtomicU8,
    /// [`DiskStatus::available_bytes`] of the newest poll.
    available_bytes: AtomicU64,
    /// What of them is above [`DiskConfig::reserve`].
    spare_bytes: AtomicU64,
    /// The file of the last probe, for one that cannot open it.
    probe: Mutex<Option<File>>,
}

impl DiskMonitor {
    /// Looks at the file system of `dir` (created if need be) for the first time, and puts the
    /// ballast in place if there is room for it.
    ///
    /// # Errors
    /// When the file system cannot be asked.
    pub fn open(dir: &Path, config: &DiskConfig, flush_bytes: u64) -> Result<Self, Error> {
        create_dir_all(dir)?;
        let total_bytes = space(dir)?.total_bytes;
        let ballast = Ballast::find(dir, config.ballast(total_bytes))?;
        let monitor = Self {
            dir: dir.to_owned(),
            config: config.clone(),
            flush_bytes,
            ballast: Mutex::new(ballast),
            level: AtomicU8::new(Level::Normal as u8),
            available_bytes: AtomicU64::new(0),
            spare_bytes: AtomicU64::new(0),
            probe: Mutex::new(None),
        };
        monitor.poll()?;
        Ok(monitor)
    }

    /// Looks again; call it several times a second. Gives the ballast back on `Critical` and takes it
    /// again on `Normal`.
    ///
    /// # Errors
    /// When the file system cannot be asked, or the ballast cannot be given back. The level stays
    /// as it was.
    pub fn poll(&self) -> Result<DiskStatus, Error> {
        let mut ballast = self.ballast.lock();
        let found = space(&self.dir)?;
        let thresholds = self.config.thresholds(found.total_bytes, self.flush_bytes);
        let available = found.available_bytes.saturating_sub(ballast.owed());
        let level = thresholds.next(self.level(), available);
        match level {
            Level::Critical => ballast.give_back()?,
            Level::Normal => {
                let spare = found.available_bytes.saturating_sub(thresholds.low_clear_bytes());
                ballast.take(spare)?;
            }
            Level::Low => {}
        }
        self.level.store(level as u8, Ordering::Relaxed);
        let left = space(&self.dir)?;
        let available_bytes = left.available_bytes.saturating_sub(ballast.owed());
        self.available_bytes.store(available_bytes, Ordering::Relaxed);
        let reserve = self.config.reserve(found.total_bytes, self.flush_bytes);
        let spare_bytes = available_bytes.saturating_sub(reserve);
        self.spare_bytes.store(spare_bytes, Ordering::Relaxed);
        Ok(DiskStatus {
            level,
            total_bytes: left.total_bytes,
            available_bytes,
            ballast_bytes: ballast.held(),
        })
    }

    /// The level that the newest poll found. Costs nothing: for the path of every write.
    #[must_use]
    pub fn level(&self) -> Level {
        Level::from_u8(self.level.load(Ordering::Relaxed))
    }

    /// What the newest poll found that this process may still write, without the ballast. Costs as
    /// little as the level.
    #[must_use]
    pub fn available_bytes(&self) -> u64 {
        self.available_bytes.load(Ordering::Relaxed)
    }

    /// What the newest poll found that a region which comes here may take ([`DiskConfig::reserve`]).
    #[must_use]
    pub fn spare_bytes(&self) -> u64 {
        self.spare_bytes.load(Ordering::Relaxed)
    }

    /// How long it took to write and sync a small file. Returns when the device does, which may be
    /// never: call it from a thread whose silence is noticed.
    ///
    /// # Errors
    /// A failed write or sync: the device is not to be trusted with data any more. `Full` is no
    /// sickness, the levels deal with it.
    pub fn probe(&self) -> Result<Duration, Error> {
        let path = self.dir.join("PROBE");
        let begin = world::clock::monotonic();
        let mut last = self.probe.lock();
        // By its name, since a directory that is gone is a failure, too.
        let file = match File::create(&path) {
            Ok(file) => last.insert(file),
            Err(error) => match &*last {
                // The process has too many files open, which tells nothing about the device.
                Some(file) if is_out_of_descriptors(&error) => file,
                _ => return Err(failed("probe the disk with", &path, &error)),
            },
        };
        file.write_all_at(PROBE, 0)
            .and_then(|()| file.sync_all())
            .map_err(|e| failed("probe the disk with", &path, &e))?;
        Ok(world::clock::since(begin))
    }
}

const PROBE: &[u8] = b"Written and synced again and again to see that the disk lives.\n";

fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

fn space(dir: &Path) -> Result<Space, Error> {
    if let Some(space) = world::simulated().and_then(|world| world.space()) {
        return Ok(space);
    }
    let stat =
        rustix::fs::statvfs(dir).map_err(|e| failed("ask for the space of", dir, &e.into()))?;
    Ok(Space {
        total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
        available_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1024 * MIB;

    #[test]
    fn defaults_follow_the_size_of_the_file_system() {
        let config = DiskConfig::default();
        for (why, total, flush, ballast, low, critical) in [
            ("too small for ballast", 255 * MIB, 0, 0, 32 * MIB, 255 * MIB / 20),
            ("small", GIB, 0, GIB / 20, GIB / 8, GIB / 20),
            ("large: bounded", 1000 * GIB, 48 * MIB, GIB, 4 * GIB, GIB),
            ("room for what is flushed", 600 * MIB, 48 * MIB, 30 * MIB, 128 * MIB, 48 * MIB),
            ("no more than half of it", 160 * MIB, 48 * MIB, 0, 80 * MIB, 40 * MIB),
        ] {
            assert_eq!(config.ballast(total), ballast, "{why}");
            let want = Thresholds { low_bytes: low, critical_bytes: critical };
            assert_eq!(config.thresholds(total, flush), want, "{why}");
        }
        for (why, low, critical, total, flush, want) in [
            ("the low level", None, None, 1000 * 1024, 48, 4 * 1024),
            ("levels that are set low", Some(3), Some(1), 600, 48, 1 + 48 + 32),
            ("no more than half of it", Some(3), Some(1), 100, 48, 50),
            ("a low level that is high", Some(90), Some(1), 100, 48, 90),
            ("nothing is said of it", Some(0), Some(0), 600, 0, 32),
        ] {
            let [low_bytes, critical_bytes] =
                [low, critical].map(|level: Option<u64>| level.map(|level| level * MIB));
            let config = DiskConfig { low_bytes, critical_bytes, ..config.clone() };
            assert_eq!(config.reserve(total * MIB, flush * MIB), want * MIB, "{why}");
        }
        let set = DiskConfig { critical_bytes: Some(GIB), ..config };
        assert_eq!(set.thresholds(GIB, 0).low_bytes, GIB, "low is never below critical");
    }

    /// Moves the thresholds instead of filling the device that the tests run on.
    #[test]
    fn ballast_is_given_back_when_critical_and_taken_again_when_normal() {
        let dir = tempfile::tempdir().unwrap();
        let ballast = 8 * MIB;
        let with = |low, critical| DiskConfig {
            ballast_bytes: Some(ballast),
            low_bytes: Some(low),
            critical_bytes: Some(critical),
            ..DiskConfig::default()
        };
        let level_and_ballast = |config: &DiskConfig| {
            let status = DiskMonitor::open(dir.path(), config, 0).unwrap().poll().unwrap();
            (status.level, status.ballast_bytes)
        };
        assert_eq!(level_and_ballast(&with(0, 0)), (Level::Normal, ballast));
        assert_eq!(level_and_ballast(&with(u64::MAX, 0)), (Level::Low, ballast), "kept when low");
        let critical = with(u64::MAX, u64::MAX);
        assert_eq!(level_and_ballast(&critical), (Level::Critical, 0));
        assert_eq!(level_and_ballast(&with(u64::MAX, 0)), (Level::Low, 0), "not taken when low");
        assert_eq!(level_and_ballast(&with(0, 0)), (Level::Normal, ballast));
    }

    #[test]
    fn ballast_that_would_make_the_level_low_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let available = space(dir.path()).unwrap().available_bytes;
        let config = DiskConfig {
            ballast_bytes: Some(available),
            low_bytes: Some(available / 2),
            critical_bytes: Some(1),
            ..DiskConfig::default()
        };
        let status = DiskMonitor::open(dir.path(), &config, 0).unwrap().poll().unwrap();
        assert_eq!((status.level, status.ballast_bytes), (Level::Normal, 0));
    }

    #[test]
    fn probe_writes_and_fails_where_it_cannot() {
        let dir = tempfile::tempdir().unwrap();
        let config = DiskConfig { ballast_bytes: Some(0), ..DiskConfig::default() };
        let monitor = DiskMonitor::open(&dir.path().join("data"), &config, 0).unwrap();
        monitor.probe().unwrap();
        let found = monitor.poll().unwrap();
        assert_eq!(monitor.available_bytes(), found.available_bytes);
        assert!(dir.path().join("data/PROBE").metadata().unwrap().len() > 0);
        std::fs::remove_dir_all(dir.path().join("data")).unwrap();
        monitor.probe().unwrap_err();
        monitor.poll().unwrap_err();
    }

    #[test]
    fn process_without_descriptors_is_no_sick_disk() {
        for (errno, want) in
            [(Errno::MFILE, true), (Errno::NFILE, true), (Errno::IO, false), (Errno::NOENT, false)]
        {
            assert_eq!(is_out_of_descriptors(&errno.into()), want, "{errno}");
        }
    }
}
