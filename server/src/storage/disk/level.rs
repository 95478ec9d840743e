//! How near the device is to its end, as a decision without I/O.

use flotilla_proto::v1;

/// How much room is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Level {
    /// Enough.
    Normal = 0,
    /// Clients' writes are refused; deletes and moves are not.
    Low = 1,
    /// Only what makes room is done here.
    Critical = 2,
}

impl Level {
    /// Whether what clients write finds room.
    #[must_use]
    pub fn has_room(self) -> bool {
        self == Self::Normal
    }

    pub(super) fn from_u8(level: u8) -> Self {
        match level {
            0 => Self::Normal,
            1 => Self::Low,
            _ => Self::Critical,
        }
    }
}

/// As others are told it.
impl From<Level> for v1::DiskLevel {
    fn from(level: Level) -> Self {
        match level {
            Level::Normal => Self::Normal,
            Level::Low => Self::Low,
            Level::Critical => Self::Critical,
        }
    }
}

/// One that told nothing has room.
impl From<v1::DiskLevel> for Level {
    fn from(level: v1::DiskLevel) -> Self {
        match level {
            v1::DiskLevel::Unspecified | v1::DiskLevel::Normal => Self::Normal,
            v1::DiskLevel::Low => Self::Low,
            v1::DiskLevel::Critical => Self::Critical,
        }
    }
}

/// Where levels begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    pub low_bytes: u64,
    pub critical_bytes: u64,
}

impl Thresholds {
    /// The level at `available_bytes`, coming from `now`. A level is entered at its threshold and
    /// left a quarter above it, so that it does not flap.
    #[must_use]
    pub fn next(&self, now: Level, available_bytes: u64) -> Level {
        let below = |threshold: u64, level: Level| {
            let threshold = if now >= level { clear_of(threshold) } else { threshold };
            available_bytes < threshold
        };
        if below(self.critical_bytes, Level::Critical) {
            Level::Critical
        } else if below(self.low_bytes, Level::Low) {
            Level::Low
        } else {
            Level::Normal
        }
    }

    /// What must be available for `Low` to be left behind.
    #[must_use]
    pub fn low_clear_bytes(&self) -> u64 {
        clear_of(self.low_bytes)
    }
}

fn clear_of(threshold: u64) -> u64 {
    threshold.saturating_add(threshold / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_entered_at_the_threshold_and_left_above_it() {
        use Level::{Critical, Low, Normal};
        let thresholds = Thresholds { low_bytes: 100, critical_bytes: 40 };
        for (why, now, available, want) in [
            ("plenty", Normal, 1000, Normal),
            ("at the threshold", Normal, 100, Normal),
            ("below low", Normal, 99, Low),
            ("straight to critical", Normal, 39, Critical),
            ("low stays until a quarter above", Low, 124, Low),
            ("low is left", Low, 125, Normal),
            ("low falls to critical", Low, 39, Critical),
            ("low at the critical threshold", Low, 40, Low),
            ("critical stays until a quarter above", Critical, 49, Critical),
            ("critical is left for low", Critical, 50, Low),
            ("critical does not skip the margin of low", Critical, 110, Low),
            ("critical to normal", Critical, 125, Normal),
        ] {
            assert_eq!(thresholds.next(now, available), want, "{why}");
        }
        let off = Thresholds { low_bytes: 0, critical_bytes: 0 };
        assert_eq!(off.next(Critical, 0), Normal, "thresholds of 0 turn the levels off");
    }

    #[test]
    fn level_survives_its_number() {
        for level in [Level::Normal, Level::Low, Level::Critical] {
            assert_eq!(Level::from_u8(level as u8), level);
        }
    }
}
