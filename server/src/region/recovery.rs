//! Whether a peer may take part again after a restart.
//!
//! A log that lost its end would let the peer acknowledge, vote and campaign as if it had never seen
//! what it once promised to keep, and a majority that counts on it could lose an acknowledged write.
//! RocksDB opens a write-ahead log that was cut short without a word, so the loss is looked for here,
//! before openraft (which would silently fill the gap) sees the log. A peer that fails is put in
//! *quarantine*: it does not run, and the placement driver replaces it. The verdict is kept on the
//! disk, for the evidence does not last: a log that is written to again soon passes its sentinel. So is
//! that there was a loss at all, before anything else is written, until every peer was judged by it.

use bytes::{Buf, BufMut};

use crate::storage::{
    batch::{Family, WriteBatch},
    engine::{Durability, Engine, Error},
    keys,
};

/// First byte of the note of a loss.
const FORMAT: u8 = 1;

/// A log that ends before its sentinel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// How far the log's instance had got by the sentinel.
    pub sentinel_sequence: u64,
    /// How far it had got when it was opened.
    pub log_sequence: u64,
}

/// Looks for a loss of the log's end; called before anything is written to the log.
///
/// Durability: a loss is on the disk when this returns, so that neither what is written from now on nor
/// another start hides it. [`crate::raft::log::writer::LogWriter::restate_sentinel`] ends it.
///
/// # Errors
/// When the disk fails.
pub fn find_loss(log: &dyn Engine, sentinel_sequence: Option<u64>) -> Result<Option<Loss>, Error> {
    if let Some(noted) = log.get(Family::Default, &keys::log::loss())? {
        return decode(&noted).map(Some);
    }
    let log_sequence = log.sequence();
    let Some(sentinel_sequence) = sentinel_sequence.filter(|sentinel| log_sequence < *sentinel)
    else {
        return Ok(None);
    };
    let mut row = vec![FORMAT];
    row.put_u64(sentinel_sequence);
    row.put_u64(log_sequence);
    let mut batch = WriteBatch::new();
    batch.put(Family::Default, &keys::log::loss(), &row);
    log.write(&batch, Durability::Synced)?;
    Ok(Some(Loss { sentinel_sequence, log_sequence }))
}

fn decode(mut row: &[u8]) -> Result<Loss, Error> {
    if row.len() != 17 || row.get_u8() != FORMAT {
        let message = "the note of a loss is of a form this version does not know".to_owned();
        return Err(Error::Corrupt { message });
    }
    Ok(Loss { sentinel_sequence: row.get_u64(), log_sequence: row.get_u64() })
}

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
    /// What the instance lost that the logs of all peers share.
    pub loss: Option<Loss>,
}

/// Why a peer must not run; `None` when it may.
#[must_use]
pub fn why_quarantined(evidence: Evidence) -> Option<String> {
    let Evidence { log_last, log_purged, applied, reached, loss } = evidence;
    if let Some(Loss { sentinel_sequence, log_sequence }) = loss {
        return Some(format!(
            "the log ends at sequence {log_sequence} but had reached {sentinel_sequence}: its end is \
             lost"
        ));
    }
    if log_last < reached {
        return Some(format!(
            "the log ends at index {log_last} but had reached {reached}: its end is lost"
        ));
    }
    if applied < log_purged {
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
    use crate::storage::memory::MemoryEngine;

    #[test]
    fn a_peer_whose_log_lost_its_end_does_not_run() {
        let base = Evidence { log_last: 100, log_purged: 50, applied: 90, reached: 90, loss: None };
        let loss = Some(Loss { sentinel_sequence: 1000, log_sequence: 999 });
        let fresh = Evidence { log_last: 0, log_purged: 0, applied: 0, reached: 0, ..base };
        for (why, evidence, runs) in [
            ("log beyond the state", base, true),
            ("exactly at what it had reached", Evidence { reached: 100, ..base }, true),
            ("the instance lost its end", Evidence { loss, ..base }, false),
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
        ] {
            assert_eq!(why_quarantined(evidence).is_none(), runs, "{why}: {evidence:?}");
        }
    }
    #[test]
    fn loss_of_the_logs_end_is_told_until_it_was_dealt_with() {
        let log = MemoryEngine::new();
        let write = |engine: &MemoryEngine| {
            let mut batch = WriteBatch::new();
            batch.put(Family::Default, b"key", b"value");
            engine.write(&batch, Durability::Synced).expect("a write");
        };
        write(&log);
        let find = |log: &MemoryEngine, sentinel| find_loss(log, sentinel).expect("a disk");
        assert_eq!(find(&log, None), None, "no sentinel was ever written");
        assert_eq!(find(&log, Some(1)), None, "exactly there");
        let loss = Some(Loss { sentinel_sequence: 2, log_sequence: 1 });
        assert_eq!(find(&log, Some(2)), loss);
        write(&log);
        let log = log.crash(0);
        assert!(log.sequence() >= 2, "the log has grown past its sentinel");
        assert_eq!(find(&log, Some(2)), loss, "it is not forgotten");
    }
}
