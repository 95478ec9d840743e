//! Whether a peer may take part again after a restart.
//!
//! A log that lost its end would let the peer acknowledge, vote and campaign as if it had never seen
//! what it once promised to keep, and a majority that counts on it could lose an acknowledged write.
//! RocksDB opens a write-ahead log that was cut short without a word, so the loss is looked for here,
//! before openraft (which would silently fill the gap) sees the log. A peer that fails is put in
//! *quarantine*: it does not run, and the placement driver replaces it. The verdict is kept on the
//! disk, for the evidence does not last: a log that is written to again soon passes its sentinel.

/// What the disk says about one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// Last index in the log, or purged mark.
    pub log_last: u64,
    /// Up to here the log was purged; 0 if it never was.
    pub log_purged: u64,
    /// Index of the state in `data`; 0 for a peer that waits for its first snapshot.
    pub applied: u64,
    /// Index that the log had surely reached, as noted with the state. Below `applied` where a
    /// quorum of others committed before this disk had the entry, and after a snapshot: a log that
    /// ends in between has lost nothing that this peer ever acknowledged.
    pub reached: u64,
    /// How far the log's instance had got by the sentinel; `None` without a sentinel.
    pub sentinel_sequence: Option<u64>,
    /// How far it has got now.
    pub log_sequence: u64,
}

/// Why a peer must not run; `None` when it may.
#[must_use]
pub fn judge(evidence: Evidence) -> Option<String> {
    let Evidence { log_last, log_purged, applied, reached, sentinel_sequence, log_sequence } =
        evidence;
    if let Some(sentinel) = sentinel_sequence
        && log_sequence < sentinel
    {
        return Some(format!(
            "the log ends at sequence {log_sequence} but had reached {sentinel}: its end is lost"
        ));
    }
    if log_last < reached {
        return Some(format!(
            "the log ends at index {log_last} but had reached {reached}: its end is lost"
        ));
    }
    if applied > 0 && applied < log_purged {
        return Some(format!(
            "the state is of index {applied} but the log begins after {log_purged}: what lies \
             between is lost"
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
            log_purged: 50,
            applied: 90,
            reached: 90,
            sentinel_sequence: Some(1000),
            log_sequence: 1200,
        };
        let fresh = Evidence { log_last: 0, log_purged: 0, applied: 0, reached: 0, ..base };
        for (why, evidence, runs) in [
            ("log beyond the state and the sentinel", base, true),
            ("exactly at both", Evidence { reached: 100, log_sequence: 1000, ..base }, true),
            ("behind the sentinel", Evidence { log_sequence: 999, ..base }, false),
            ("behind what it had reached", Evidence { reached: 101, ..base }, false),
            ("applied what others committed", Evidence { applied: 120, ..base }, true),
            ("a snapshot was installed", Evidence { applied: 500, ..base }, true),
            ("the state lost what the log no longer has", Evidence { applied: 49, ..base }, false),
            (
                "the state is where the log begins",
                Evidence { applied: 50, reached: 50, ..base },
                true,
            ),
            ("waits for its first snapshot", fresh, true),
            ("no sentinel was ever written", Evidence { sentinel_sequence: None, ..base }, true),
        ] {
            assert_eq!(judge(evidence).is_none(), runs, "{why}: {evidence:?}");
        }
    }
}
