//! Followers whose nodes do not take the state of the region.
//!
//! A learner begins with a snapshot, and openraft sends it again and again, whatever comes of it. Where its
//! node has no room for it, it never becomes a voter, and whoever waits for that waits for ever. So the leader
//! remembers how often and since when a snapshot came to nothing, and why; the placement driver then looks for
//! another node, and people are told.
//!
//! That a receiver is busy with others says nothing of it, and nor does it that the leader cannot read what it is to
//! send: that is told of the leader's node. What is told stays so until a snapshot is taken, also while the next one is
//! under way: a node that refuses late would else count as coming for most of the time.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::of_term::OfTerm;
use crate::ids::PeerId;

/// So many snapshots in a row have come to nothing before that is told: one may meet a node that is just about
/// to make room for it.
const TOLD_AFTER: u32 = 3;
/// Bound: characters of a reason; a node says what it likes.
const REASON_MAX: usize = 200;

/// What a follower's node says to the region's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Since the first of the snapshots in a row that came to nothing.
    pub lasts: Duration,
    /// Of the last one.
    pub reason: String,
    /// The node itself said so of the last one: it was not that it could not be asked.
    pub said: bool,
}

/// What became of the snapshots that one peer has sent while it leads. Cheap to clone.
#[derive(Clone, Default)]
pub struct Refusals(Arc<Mutex<OfTerm<Streak>>>);

#[derive(Default)]
struct Streak {
    failures: u32,
    since: Option<Instant>,
    reason: String,
    said: bool,
    buried: bool,
}

impl Refusals {
    /// The leader of `term` begins to send a snapshot to `follower`. One that is given up counts as none.
    pub(super) fn attempt(&self, term: u64, follower: PeerId) -> Attempt {
        let attempt = Attempt { of: self.clone(), term, follower };
        if let Some(followers) = self.0.lock().of(term) {
            followers.entry(follower).or_default();
        }
        attempt
    }

    /// The node of `follower` has buried that peer: its id never comes again. Answers whether it is new.
    pub(super) fn note_buried(&self, term: u64, follower: PeerId) -> bool {
        let mut state = self.0.lock();
        let Some(followers) = state.of(term) else { return false };
        !std::mem::replace(&mut followers.entry(follower).or_default().buried, true)
    }

    /// Whether the node of `follower` told the leader of `term` so.
    #[must_use]
    pub fn has_buried(&self, term: u64, follower: PeerId) -> bool {
        let state = self.0.lock();
        state.term == term && state.followers.get(&follower).is_some_and(|of| of.buried)
    }

    /// `None` until it has refused several in a row.
    #[must_use]
    pub fn of(&self, term: u64, follower: PeerId, now: Instant) -> Option<Refusal> {
        let state = self.0.lock();
        let streak = state.followers.get(&follower).filter(|_| state.term == term)?;
        let since = streak.since.filter(|_| streak.failures >= TOLD_AFTER)?;
        let lasts = now.saturating_duration_since(since);
        Some(Refusal { lasts, reason: streak.reason.clone(), said: streak.said })
    }
}

/// A snapshot that is being sent.
pub(super) struct Attempt {
    of: Refusals,
    term: u64,
    follower: PeerId,
}

impl Attempt {
    /// The receiver does not take it.
    pub(super) fn refused(self, reason: &str, now: Instant) {
        self.ended(true, reason, now);
    }

    /// It came to nothing, by what is between here and there.
    pub(super) fn failed(self, reason: &str, now: Instant) {
        self.ended(false, reason, now);
    }

    /// It did not come to it: the receiver could not be asked.
    pub(super) fn not_begun(self) {
        self.with(|streak| streak.said = false);
    }

    fn ended(self, said: bool, reason: &str, now: Instant) {
        self.with(|streak| {
            streak.said = said;
            streak.since.get_or_insert(now);
            streak.failures = streak.failures.saturating_add(1);
            let reason = if reason.is_empty() { "it does not say why" } else { reason };
            streak.reason = reason.chars().take(REASON_MAX).collect();
        });
    }

    pub(super) fn taken(self) {
        self.with(|streak| (streak.failures, streak.since) = (0, None));
    }

    fn with(&self, change: impl FnOnce(&mut Streak)) {
        let mut state = self.of.0.lock();
        let streak = state.of(self.term).and_then(|followers| followers.get_mut(&self.follower));
        if let Some(streak) = streak {
            change(streak);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::clock;

    const FOLLOWER: PeerId = PeerId(71);

    fn fail(refusals: &Refusals, times: u32, now: Instant) {
        for _ in 0..times {
            refusals.attempt(3, FOLLOWER).refused("the disk is too full", now);
        }
    }

    /// Of one that cannot be asked nobody knows that it is alive.
    #[test]
    fn refusal_tells_whether_the_node_said_so_itself() {
        let (refusals, now) = (Refusals::default(), clock::now());
        let said = || refusals.of(3, FOLLOWER, now).map(|refusal| refusal.said);
        fail(&refusals, TOLD_AFTER, now);
        assert_eq!(said(), Some(true));
        refusals.attempt(3, FOLLOWER).failed("the connection is refused", now);
        assert_eq!(said(), Some(false));
        fail(&refusals, 1, now);
        assert_eq!(said(), Some(true));
        refusals.attempt(3, FOLLOWER).not_begun();
        assert_eq!(said(), Some(false), "its node may be gone");
    }

    #[test]
    fn refusal_is_told_from_the_third_in_a_row_and_lasts_since_the_first() {
        let (refusals, begin) = (Refusals::default(), clock::now());
        let later = begin + Duration::from_secs(7);
        fail(&refusals, 1, begin);
        fail(&refusals, 1, later);
        assert_eq!(refusals.of(3, FOLLOWER, later), None);
        fail(&refusals, 1, later);
        let reason = "the disk is too full".to_owned();
        let want = Refusal { lasts: Duration::from_secs(7), reason, said: true };
        assert_eq!(refusals.of(3, FOLLOWER, later), Some(want));
        assert_eq!(refusals.of(3, PeerId(72), later), None);
        assert_eq!(refusals.of(4, FOLLOWER, later), None, "another leader has its own");
        refusals.attempt(3, FOLLOWER).taken();
        fail(&refusals, 2, later);
        assert_eq!(refusals.of(3, FOLLOWER, later), None, "they are not in a row");
    }

    #[test]
    fn refusal_stays_told_while_the_next_snapshot_is_under_way_or_given_up() {
        let (refusals, now) = (Refusals::default(), clock::now());
        fail(&refusals, TOLD_AFTER, now);
        let attempt = refusals.attempt(3, FOLLOWER);
        assert!(refusals.of(3, FOLLOWER, now).is_some(), "it may refuse this one late");
        drop(attempt);
        assert!(refusals.of(3, FOLLOWER, now).is_some(), "it is as it was before");
        let late = refusals.attempt(3, FOLLOWER);
        refusals.attempt(4, PeerId(72)).failed("no room", now);
        late.failed("of a term that is past", now);
        assert_eq!(refusals.of(3, FOLLOWER, now), None);
        assert_eq!(refusals.of(4, FOLLOWER, now), None);
    }

    #[test]
    fn peer_that_its_node_has_buried_is_told_of_once_and_at_once() {
        let refusals = Refusals::default();
        assert!(!refusals.has_buried(3, FOLLOWER));
        assert!(refusals.note_buried(3, FOLLOWER) && !refusals.note_buried(3, FOLLOWER));
        assert!(refusals.has_buried(3, FOLLOWER) && !refusals.has_buried(3, PeerId(72)));
        refusals.attempt(3, FOLLOWER).not_begun();
        assert!(refusals.has_buried(3, FOLLOWER), "it never comes again");
        refusals.attempt(4, FOLLOWER).not_begun();
        assert!(!refusals.has_buried(4, FOLLOWER), "another leader asks itself");
        assert!(!refusals.note_buried(3, FOLLOWER), "of a term that is past");
    }

    #[test]
    fn reason_has_a_bound() {
        let (refusals, now) = (Refusals::default(), clock::now());
        for _ in 0..TOLD_AFTER {
            refusals.attempt(3, FOLLOWER).failed(&"ü".repeat(100_000), now);
        }
        let told = refusals.of(3, FOLLOWER, now).expect("told");
        assert_eq!(told.reason.chars().count(), REASON_MAX);
    }
}
