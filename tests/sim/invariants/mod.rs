//! What must hold at every moment, one promise a file. Each looks at what a node shows of its peers and at its disk, and
//! never asks the node to judge itself. Each is tested by moments that nobody ran (`tests.rs`).

mod buried_stays_gone;
mod election_safety;
mod heard_by_a_quorum;
mod kept_by_a_quorum;
mod leader_completeness;
mod log_matching;
mod nobody_is_set_aside;
mod state_machine_safety;
mod terms_grow;
mod votes_are_kept;

use std::{collections::BTreeMap, fmt, time::Duration};

use flotilla_proto::v1;
use flotilla_server::ids::{PeerId, RegionId};

/// A disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// Number of its host.
    pub(crate) host: usize,
    /// Raised when the disk was set back or wiped: what was promised on it may be gone.
    pub(crate) disk_lives: u32,
}

/// A peer at this moment.
pub(crate) struct Seen {
    pub(crate) place: Place,
    pub(crate) region: RegionId,
    pub(crate) peer: PeerId,
    pub(crate) status: v1::PeerStatus,
    /// Its voters are in the middle of a change, as far as it has applied.
    pub(crate) is_joint: bool,
    /// When the newest request was sent that a quorum has answered, as it counts.
    pub(crate) heard: Option<Duration>,
    /// Up to which id peers of the region are buried on its node, as that says.
    pub(crate) buried: Option<PeerId>,
    /// The vote that it counts as kept by its disk, while it runs.
    pub(crate) vote: Option<Vote>,
}

impl Seen {
    pub(crate) fn leads(&self) -> bool {
        self.status.role == "leader"
    }
}

/// The vote of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vote {
    pub(crate) peer: PeerId,
    /// 0 before it has voted.
    pub(crate) term: u64,
    /// Of no meaning in term 0.
    pub(crate) voted_for: PeerId,
}

impl Vote {
    /// Whether the peer may have the other one at the same time or later.
    fn may_become(self, later: Self) -> bool {
        self.term < later.term
            || self.term == later.term && (self.term == 0 || self.voted_for == later.voted_for)
    }
}

impl fmt::Display for Vote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { peer, term, voted_for } = self;
        match term {
            0 => write!(f, "no vote of peer {peer}"),
            _ => write!(f, "the vote of peer {peer} in term {term} for peer {voted_for}"),
        }
    }
}

/// What is on the disks, of hosts that are down as well.
pub(crate) trait Disks {
    /// A checksum of the entry that a disk has at an index, if it has one.
    fn entry(&self, place: Place, region: RegionId, index: u64) -> Option<u32>;

    /// The same of what the disk was asked to keep.
    fn kept_entry(&self, place: Place, region: RegionId, index: u64) -> Option<u32>;

    /// Up to which index a disk was asked to keep what was applied.
    fn kept_applied(&self, place: Place, region: RegionId) -> u64;

    /// The first index that a disk has an entry at, if it has any: those before it may have been cut off.
    fn first_index(&self, place: Place, region: RegionId) -> Option<u64>;

    /// The last index that a disk has an entry at, if it has any.
    fn last_index(&self, place: Place, region: RegionId) -> Option<u64>;

    /// Another number whenever the logs on a disk have changed. `None` once there is another disk in its place.
    fn log_changes(&self, place: Place) -> Option<u64>;

    /// The newest vote that a disk was asked to keep, of the peer that it has of the region.
    fn kept_vote(&self, place: Place, region: RegionId) -> Option<Vote>;

    /// Up to which id peers of the region are buried, as a disk was asked to keep.
    fn kept_buried(&self, place: Place, region: RegionId) -> Option<PeerId>;

    /// Some disk was damaged, and that is not made up for: others may look damaged by it.
    fn is_anybody_excused(&self) -> bool;

    /// Some peer that its node or its leader has set aside, and why.
    fn set_aside(&self) -> Option<String>;
}

/// Everything that can be seen at this moment.
pub(crate) struct Moment<'a> {
    /// Since the beginning of the simulation.
    pub(crate) at: Duration,
    /// All running peers.
    pub(crate) peers: Vec<Seen>,
    pub(crate) disks: &'a dyn Disks,
    /// A host that has died and still stands: what its disk is asked to keep from then on, nobody will ever know.
    pub(crate) dead: Option<usize>,
}

/// One promise.
pub(crate) trait Invariant {
    /// As known-bad builds name what must catch them.
    fn name(&self) -> &'static str;

    /// # Errors
    /// How it is broken.
    fn check(&mut self, moment: &Moment<'_>, committed: &Committed) -> Result<(), String>;
}

/// Every promise.
pub(crate) fn all() -> Vec<Box<dyn Invariant>> {
    vec![
        Box::new(buried_stays_gone::BuriedStaysGone::default()),
        Box::new(election_safety::ElectionSafety::default()),
        Box::new(heard_by_a_quorum::HeardByAQuorum::default()),
        Box::new(kept_by_a_quorum::KeptByAQuorum::default()),
        Box::new(leader_completeness::LeaderCompleteness::default()),
        Box::new(log_matching::LogMatching::default()),
        Box::new(nobody_is_set_aside::NobodyIsSetAside),
        Box::new(state_machine_safety::StateMachineSafety),
        Box::new(terms_grow::TermsGrow::default()),
        Box::new(votes_are_kept::VotesAreKept::default()),
    ]
}

/// An entry that some peer has applied, and that so is committed for good.
#[derive(Clone, Copy)]
pub(crate) struct Applied {
    /// A checksum of it.
    pub(crate) entry: u32,
    pub(crate) by: PeerId,
    /// The term that peer was in: it was committed in this or an earlier one, which may be later than the entry's own.
    pub(crate) term: u64,
}

/// What was applied by some peer, by region and index.
#[derive(Default)]
pub(crate) struct Committed {
    entries: BTreeMap<(RegionId, u64), Applied>,
    /// Up to where each peer, by its host, was looked at.
    looked: BTreeMap<(Place, PeerId), u64>,
    /// That two peers have applied different entries.
    conflict: Option<String>,
}

impl Committed {
    /// The entries of a region from an index on.
    pub(crate) fn from(
        &self,
        region: RegionId,
        index: u64,
    ) -> impl Iterator<Item = (u64, Applied)> {
        self.entries
            .range((region, index)..=(region, u64::MAX))
            .map(|((_, index), applied)| (*index, *applied))
    }

    fn learn(&mut self, moment: &Moment<'_>, mut note: impl FnMut(u32)) {
        for seen in &moment.peers {
            let known = self.looked.entry((seen.place, seen.peer)).or_default();
            // Started again, it applies once more, and must apply the same.
            *known = (*known).min(seen.status.applied_index);
            for index in (*known).max(seen.status.purged_index) + 1..=seen.status.applied_index {
                // A leader may apply what others have on their disks before its own disk has it.
                let entry = moment.disks.entry(seen.place, seen.region, index);
                let Some(entry) = entry else { break };
                *known = index;
                note(entry);
                let now = Applied { entry, by: seen.peer, term: seen.status.term };
                let first = self.entries.entry((seen.region, index)).or_insert(now);
                first.term = first.term.min(now.term);
                if first.entry != entry {
                    self.conflict.get_or_insert_with(|| {
                        let (region, whose, by) = (seen.region, first.by, seen.peer);
                        format!("region {region}: peers {whose} and {by} applied different entries at index {index}")
                    });
                }
            }
        }
    }
}

/// All promises, and what they have to know together.
pub(crate) struct Judges {
    invariants: Vec<Box<dyn Invariant>>,
    committed: Committed,
}

/// A broken promise.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    pub(crate) invariant: &'static str,
    pub(crate) how: String,
}

impl Default for Judges {
    fn default() -> Self {
        Self { invariants: all(), committed: Committed::default() }
    }
}

impl Judges {
    /// Looks at a moment, and tells `note` of each entry that somebody has applied since.
    ///
    /// # Errors
    /// The first promise that is broken now.
    pub(crate) fn judge(
        &mut self,
        moment: &Moment<'_>,
        note: impl FnMut(u32),
    ) -> Result<(), Violation> {
        self.committed.learn(moment, note);
        for invariant in &mut self.invariants {
            let name = invariant.name();
            let broken = |how| Violation { invariant: name, how };
            invariant.check(moment, &self.committed).map_err(broken)?;
        }
        Ok(())
    }
}
