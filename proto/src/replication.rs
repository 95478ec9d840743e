//! How many voters a region is to have.

/// The region of the cluster's own tables.
pub const SYSTEM_REGION: u64 = 1;

/// Voters of the system region are never more than these, whatever the replication factor.
pub const SYSTEM_VOTERS_MAX: usize = 5;

/// The largest replication factor.
pub const FACTOR_MAX: u32 = 7;

/// What [`is_factor`] asks for, in words.
pub const FACTOR_WORDS: &str = "must be odd, from 1 to 7";

/// Whether a cluster can have this replication factor.
#[must_use]
pub const fn is_factor(factor: u32) -> bool {
    factor % 2 == 1 && factor <= FACTOR_MAX
}

/// Voters that the replication factor asks for, whether or not there are nodes for them.
#[must_use]
pub fn voters_wanted(region: u64, factor: u32) -> usize {
    let factor = usize::try_from(factor).unwrap_or(usize::MAX).max(1);
    if region == SYSTEM_REGION { factor.min(SYSTEM_VOTERS_MAX) } else { factor }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factor_is_odd_and_small() {
        let factors: Vec<u32> = (0..=20).filter(|factor| is_factor(*factor)).collect();
        assert_eq!(factors, [1, 3, 5, 7]);
        assert!(!is_factor(u32::MAX));
    }

    #[test]
    fn system_region_has_no_more_voters_than_answer_quickly() {
        for (why, region, factor, want) in [
            ("an old table says nothing", 2, 0, 1),
            ("as asked for", 2, 3, 3),
            ("as many as can be asked for", 2, 7, 7),
            ("the system's, as asked for", SYSTEM_REGION, 3, 3),
            ("the system's, bounded", SYSTEM_REGION, 7, SYSTEM_VOTERS_MAX),
        ] {
            assert_eq!(voters_wanted(region, factor), want, "{why}");
        }
    }
}
