//! What a region's descriptor says.

use crate::{
    range::{Borders, KeyRange},
    v1,
};

/// The range of a descriptor, in encoded keys.
#[must_use]
pub fn range_of(descriptor: &v1::Region) -> KeyRange {
    KeyRange { start: descriptor.start_key.clone(), end: descriptor.end_key.clone() }
}

/// As [`range_of`], without a copy.
#[must_use]
pub fn borders_of(descriptor: &v1::Region) -> Borders<'_> {
    Borders { start: &descriptor.start_key, end: &descriptor.end_key }
}

/// Which range and which membership a region has, as numbers that grow with each change of them. In the order of
/// descriptors: a later range is a later descriptor, whatever its membership is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch {
    /// Moves with the range.
    pub version: u64,
    /// Moves with the membership.
    pub conf_ver: u64,
}

/// Whether what was made for one epoch fits a region at another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was made for just this.
    Fits,
    /// Whoever made it has missed a change.
    Stale,
    /// This peer has missed a change, or not applied it yet.
    Ahead,
}

impl Epoch {
    /// That of a descriptor.
    #[must_use]
    pub fn of(region: &v1::Region) -> Self {
        region.epoch.unwrap_or_default().into()
    }

    /// What becomes of a request for keys, which was made for a range of `version`.
    #[must_use]
    pub fn range_verdict(self, version: u64) -> Verdict {
        verdict(version, self.version)
    }

    /// What becomes of a change of the membership, which was planned on `conf_ver`.
    #[must_use]
    pub fn members_verdict(self, conf_ver: u64) -> Verdict {
        verdict(conf_ver, self.conf_ver)
    }
}

impl From<v1::RegionEpoch> for Epoch {
    fn from(epoch: v1::RegionEpoch) -> Self {
        let v1::RegionEpoch { conf_ver, version } = epoch;
        Self { version, conf_ver }
    }
}

impl Verdict {
    /// Whether it may be done.
    #[must_use]
    pub fn fits(self) -> bool {
        self == Self::Fits
    }
}

fn verdict(asked: u64, actual: u64) -> Verdict {
    match asked.cmp(&actual) {
        std::cmp::Ordering::Equal => Verdict::Fits,
        std::cmp::Ordering::Less => Verdict::Stale,
        std::cmp::Ordering::Greater => Verdict::Ahead,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_fits_its_own_range_and_a_step_its_own_membership() {
        let local = Epoch { version: 7, conf_ver: 3 };
        for (why, version, conf_ver, range, members) in [
            ("the same", 7, 3, Verdict::Fits, Verdict::Fits),
            ("missed a split", 6, 3, Verdict::Stale, Verdict::Fits),
            ("missed a change of the membership", 7, 2, Verdict::Fits, Verdict::Stale),
            ("this peer missed a split", 8, 3, Verdict::Ahead, Verdict::Fits),
            ("this peer missed a membership", 7, 4, Verdict::Fits, Verdict::Ahead),
            ("an older range, a newer membership", 6, 4, Verdict::Stale, Verdict::Ahead),
        ] {
            let verdicts = (local.range_verdict(version), local.members_verdict(conf_ver));
            assert_eq!(verdicts, (range, members), "{why}");
        }
        assert!(Verdict::Fits.fits() && !Verdict::Stale.fits() && !Verdict::Ahead.fits());
    }

    #[test]
    fn later_range_is_a_later_descriptor_whatever_its_membership() {
        let epoch = |version, conf_ver| Epoch { version, conf_ver };
        assert!(epoch(2, 1) > epoch(1, 9));
        assert!(epoch(1, 2) > epoch(1, 1));
        let region = v1::Region {
            epoch: Some(v1::RegionEpoch { conf_ver: 3, version: 4 }),
            ..v1::Region::default()
        };
        assert_eq!(Epoch::of(&region), epoch(4, 3));
        assert_eq!(Epoch::of(&v1::Region::default()), Epoch::default());
    }
}
