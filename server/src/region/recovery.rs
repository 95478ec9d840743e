//! Whether a peer may take part again after a restart.
//!
//! A log that lost its end would let the peer acknowledge, vote and campaign as if it had never seen
//! what it once promised to keep, and a majority that counts on it could lose an acknowledged write.
//! RocksDB opens a write-ahead log that was cut short without a word, so the loss is looked for here,
//! before openraft (which would silently fill the gap) sees the log. A peer that fails is put in
//! *quarantine*: it does not run, and the placement driver replaces it.

/// What the disk says about one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// Last index in the log, or purged mark.
    pub log_last: u64,
    /// Index of the state in `data`.
    pub applied: u64,
    /// Applied index of the newest installed snapshot; the log may end anywhere up to it.
    pub installed: u64,
    /// How far the log's instance had got by the sentinel; `None` without a sentinel.
    pub sentinel_sequence: Option<u64>,
    /// How far it has got now.
    pub log_sequence: u64,
}

/// Why a peer must not run; `None` when it may.
#[must_use]
pub fn judge(evidence: Evidence) -> Option<String> {
    let Evidence { log_last, applied, installed, sentinel_sequence, log_sequence } = evidence;
    if let Some(sentinel) = sentinel_sequence
        && log_sequence < sentinel
    {
        return Some(format!(
            "the log ends at sequence {log_sequence} but had reached {sentinel}: its end is lost"
        ));
    }
    if log_last < applied && applied > installed {
        return Some(format!(
            "the log ends at index {log_last} but index {applied} was applied: its end is lost"
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_whose_log_lost_its_end_does_not_run() {
        let base = Evidence {
            log_last: 100,
            applied: 90,
            installed: 0,
            sentinel_sequence: Some(1000),
            log_sequence: 1200,
        };
        for (why, evidence, runs) in [
            ("log beyond the state and the sentinel", base, true),
            ("exactly at both", Evidence { applied: 100, log_sequence: 1000, ..base }, true),
            ("behind the sentinel", Evidence { log_sequence: 999, ..base }, false),
            ("behind the applied index", Evidence { applied: 101, ..base }, false),
            ("a snapshot explains it", Evidence { applied: 500, installed: 500, ..base }, true),
            (
                "a snapshot explains only a part",
                Evidence { applied: 501, installed: 500, ..base },
                false,
            ),
            ("no sentinel was ever written", Evidence { sentinel_sequence: None, ..base }, true),
        ] {
            assert_eq!(judge(evidence).is_none(), runs, "{why}: {evidence:?}");
        }
    }
}
