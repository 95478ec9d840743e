//! What this disk has promised beside its logs: which peer it holds of a region, which it has buried,
//! and which must not take part any more.
//!
//! A voter that is taken for a new one forgets whom it voted for and what it acknowledged, and a
//! majority that counts on it loses acknowledged writes. So these rows lie in `log`, which refuses to
//! open when it is damaged, and not in `data`, which then falls back to an earlier moment without a
//! word. What `data` says of a region is held against them at start: a region that the log has lost
//! sight of is in quarantine, never new.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut};

use crate::{
    ids::{PeerId, RegionId},
    storage::{
        batch::Family,
        engine::{Direction, Engine, Error},
        keys::log,
    },
};

/// First byte of each row.
const FORMAT: u8 = 1;

/// The rows of one region.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Promises {
    /// The peer that lives here.
    pub own: Option<PeerId>,
    /// No peer up to and with this one may ever be here again.
    pub buried: Option<PeerId>,
    /// The peer that must not take part, and why.
    pub quarantined: Option<(PeerId, String)>,
    /// Whether openraft keeps anything here: a vote, entries, marks.
    pub has_log: bool,
}

/// Whose state `data` has of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Described {
    /// Of this node's peer.
    Of(PeerId),
    /// It does not name this node.
    OfOthers,
    /// It does not decode.
    Unreadable,
}

/// What a start does with a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Opens the peer, if its log and state stand up to it (`recovery.rs`).
    Open(PeerId),
    /// Keeps it out, as was decided before.
    Quarantined(PeerId, String),
    /// Puts it in quarantine now.
    Quarantine(PeerId, String),
    /// Finishes the destruction of a peer.
    Erase,
    /// Nothing lives here.
    Nothing,
}

impl Promises {
    /// What becomes of the region at start. `described` is what the state in `data` says, if there is one.
    #[must_use]
    pub fn fate(&self, described: Option<Described>) -> Fate {
        if let Some((peer, reason)) = &self.quarantined
            && !self.covers(*peer)
        {
            return Fate::Quarantined(*peer, reason.clone());
        }
        match (self.own, described) {
            (Some(own), _) if self.covers(own) => Fate::Erase,
            // A peer is in the log before it has a state.
            (Some(own), Some(Described::Of(described))) if described > own => {
                let reason = format!(
                    "the state is of peer {described}, but the log knows of peer {own} alone: its end \
                     is lost"
                );
                Fate::Quarantine(described, reason)
            }
            (Some(own), _) => Fate::Open(own),
            (None, _) if self.has_log => Fate::Quarantine(
                match described {
                    Some(Described::Of(described)) => described,
                    Some(Described::OfOthers | Described::Unreadable) | None => PeerId::UNKNOWN,
                },
                "the log has entries or a vote of the region, but not of which peer: this node gets no peer \
                 of the region before it joins anew, with an empty disk"
                    .to_owned(),
            ),
            // `data` fell back to before a destruction; or the peer had applied that it was removed, and
            // was no voter.
            (None, Some(Described::Of(described))) if self.covers(described) => Fate::Erase,
            (None, Some(Described::OfOthers)) => Fate::Erase,
            // A tombstone alone does not prove that it is of the peer that was buried.
            (None, Some(Described::Unreadable)) => Fate::Quarantine(
                PeerId::UNKNOWN,
                "a state of the region is on this disk that does not decode, and its log does not know of it"
                    .to_owned(),
            ),
            (None, Some(Described::Of(described))) => Fate::Quarantine(
                described,
                "the region is on this disk, but its log does not know of it: the log's end is lost"
                    .to_owned(),
            ),
            // Killed in the middle of a destruction.
            (None, None) if self.quarantined.is_some() => Fate::Erase,
            (None, None) => Fate::Nothing,
        }
    }

    /// Whether a new peer may begin here: nothing is left of one that may have promised anything.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.own.is_none() && !self.has_log && self.quarantined.is_none()
    }

    fn covers(&self, peer: PeerId) -> bool {
        self.buried.is_some_and(|buried| peer <= buried)
    }
}

/// The promises about one region. Blocks on the disk.
///
/// # Errors
/// When the disk cannot be read, or holds something else.
pub fn read(engine: &dyn Engine, region: RegionId) -> Result<Promises, Error> {
    let row = |key: &[u8], what| {
        let stored = engine.get(Family::Default, key)?;
        stored.map(|stored| decode(&stored, region, what)).transpose()
    };
    let quarantined = row(&log::quarantine(region), "quarantine")?.map(|(peer, reason)| {
        let reason = String::from_utf8_lossy(&reason).into_owned();
        (peer, reason)
    });
    let mut entries = engine.scan(Family::Default, &log::raft_range(region), Direction::Forward);
    Ok(Promises {
        own: row(&log::own_peer(region), "own peer")?.map(|(peer, _)| peer),
        buried: row(&log::tombstone(region), "tombstone")?.map(|(peer, _)| peer),
        quarantined,
        has_log: entries.next()?.is_some(),
    })
}

/// The promises about all regions of which there are any. Blocks on the disk.
///
/// # Errors
/// As for [`read`].
pub fn read_all(engine: &dyn Engine) -> Result<BTreeMap<RegionId, Promises>, Error> {
    let mut all = BTreeMap::new();
    let mut next = RegionId(1);
    while let Some(region) = first_region(engine, next)? {
        all.insert(region, read(engine, region)?);
        let Some(after) = region.0.checked_add(1) else { break };
        next = RegionId(after);
    }
    Ok(all)
}

/// The first region from `region` on that has any row.
fn first_region(engine: &dyn Engine, region: RegionId) -> Result<Option<RegionId>, Error> {
    let mut cursor = engine.scan(Family::Default, &log::regions_from(region), Direction::Forward);
    let Some((key, _)) = cursor.next()? else { return Ok(None) };
    match log::decode(key) {
        Some(key) => Ok(Some(key.region)),
        None => Err(Error::Corrupt { message: format!("no key of a log: {key:02x?}") }),
    }
}

/// A row that names a peer, and says more about it where there is more to say.
#[must_use]
pub fn encode(peer: PeerId, more: &str) -> Vec<u8> {
    let mut row = vec![FORMAT];
    row.put_u64(peer.0);
    row.extend_from_slice(more.as_bytes());
    row
}

/// Whom a row names, and what more it says.
///
/// # Errors
/// When it is of another form.
pub fn decode(mut row: &[u8], region: RegionId, what: &str) -> Result<(PeerId, Vec<u8>), Error> {
    if row.len() < 9 || row.get_u8() != FORMAT {
        return Err(Error::Corrupt {
            message: format!(
                "the {what} row of region {region} is of a form this version does not know"
            ),
        });
    }
    Ok((PeerId(row.get_u64()), row.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{batch::WriteBatch, engine::Durability, memory::MemoryEngine};

    #[test]
    fn a_region_whose_promises_are_lost_is_never_new() {
        let nothing = Promises::default();
        let own = |peer| Promises { own: Some(PeerId(peer)), has_log: true, ..Promises::default() };
        let buried = |peer, promises| Promises { buried: Some(PeerId(peer)), ..promises };
        let marked =
            |promises| Promises { quarantined: Some((PeerId(9), "rotten".to_owned())), ..promises };
        let lives = |fate: &Fate| match fate {
            Fate::Open(peer) => format!("open {peer}"),
            Fate::Quarantined(peer, _) => format!("quarantined {peer}"),
            Fate::Quarantine(peer, _) if *peer == PeerId::UNKNOWN => {
                "quarantine unknown".to_owned()
            }
            Fate::Quarantine(peer, _) => format!("quarantine {peer}"),
            Fate::Erase => "erase".to_owned(),
            Fate::Nothing => "nothing".to_owned(),
        };
        type Row = (&'static str, Promises, Option<u64>, &'static str);
        let rows: [Row; 16] = [
            ("an empty disk", nothing.clone(), None, "nothing"),
            ("a peer", own(9), Some(9), "open 9"),
            ("a peer whose state fell back to before its snapshot", own(9), None, "open 9"),
            ("killed between tombstone and erasing", buried(9, own(9)), Some(9), "erase"),
            ("an earlier peer was buried", buried(8, own(9)), Some(9), "open 9"),
            ("in quarantine", marked(own(9)), Some(9), "quarantined 9"),
            ("buried out of quarantine", buried(9, marked(own(9))), Some(9), "erase"),
            (
                "killed between erasing the state and the log of one known by its state alone",
                buried(9, marked(nothing.clone())),
                None,
                "erase",
            ),
            ("the log lost that a later peer came", own(8), Some(9), "quarantine 9"),
            ("the state is of an earlier peer", own(9), Some(8), "open 9"),
            (
                "a vote without an owner",
                Promises { has_log: true, ..Promises::default() },
                None,
                "quarantine unknown",
            ),
            (
                "a vote without an owner, and a state",
                Promises { has_log: true, ..Promises::default() },
                Some(9),
                "quarantine 9",
            ),
            ("the log lost its end", nothing.clone(), Some(9), "quarantine 9"),
            ("the state fell back to before its end", buried(9, nothing.clone()), Some(9), "erase"),
            ("the state is of a later peer", buried(8, nothing.clone()), Some(9), "quarantine 9"),
            ("destroyed", buried(9, nothing.clone()), None, "nothing"),
        ];
        let of = |(why, promises, described, want): Row| {
            (why, promises, described.map(|peer| Described::Of(PeerId(peer))), want)
        };
        let without_a_name = [
            (
                "the state fell back to before its end, and had applied its removal",
                buried(9, nothing.clone()),
                Some(Described::OfOthers),
                "erase",
            ),
            (
                "killed between tombstone and erasing, and the state is rotten",
                buried(9, own(9)),
                Some(Described::Unreadable),
                "erase",
            ),
            ("a peer whose state is rotten", own(9), Some(Described::Unreadable), "open 9"),
            (
                "a rotten state of nobody knows whom",
                buried(9, nothing.clone()),
                Some(Described::Unreadable),
                "quarantine unknown",
            ),
            (
                "a rotten state that the log does not know of",
                nothing,
                Some(Described::Unreadable),
                "quarantine unknown",
            ),
        ];
        for (why, promises, described, want) in rows.map(of).into_iter().chain(without_a_name) {
            let fate = promises.fate(described);
            assert_eq!(lives(&fate), want, "{why}: {promises:?}");
            if fate == Fate::Nothing {
                assert!(promises.is_free(), "{why}: another peer may come");
            }
        }
    }

    #[test]
    fn rows_are_found_region_by_region() {
        let engine = MemoryEngine::new();
        let mut batch = WriteBatch::new();
        let mut put = |key: &[u8], value: &[u8]| batch.put(Family::Default, key, value);
        put(&log::identity(), b"the node's");
        put(&log::own_peer(RegionId(2)), &encode(PeerId(20), ""));
        put(&log::vote(RegionId(2)), b"a vote");
        put(&log::tombstone(RegionId(3)), &encode(PeerId(30), ""));
        put(&log::quarantine(RegionId(700)), &encode(PeerId(7), "why"));
        engine.write(&batch, Durability::Synced).expect("a write");
        let all = read_all(engine.as_ref()).expect("rows");
        assert_eq!(all.keys().map(|region| region.0).collect::<Vec<_>>(), [2, 3, 700]);
        assert_eq!(
            all[&RegionId(2)],
            Promises { own: Some(PeerId(20)), has_log: true, ..Promises::default() }
        );
        assert_eq!(all[&RegionId(3)].buried, Some(PeerId(30)));
        assert_eq!(all[&RegionId(700)].quarantined, Some((PeerId(7), "why".to_owned())));

        for bad in [&b""[..], b"\x01short", b"\x02\0\0\0\0\0\0\0\x09"] {
            let mut batch = WriteBatch::new();
            batch.put(Family::Default, &log::own_peer(RegionId(2)), bad);
            engine.write(&batch, Durability::Synced).expect("a write");
            let error = read(engine.as_ref(), RegionId(2)).expect_err("damage").to_string();
            assert!(error.contains("own peer row of region 2"), "{error}");
        }
    }
}
