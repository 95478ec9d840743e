//! Which expired rows an engine may drop, so that they do not lie on the disk for ever.
//!
//! Readers and commands cannot tell an expired row from an absent one (`command/log_test.rs`), but
//! "expired" is said by the replicated time of the state they work on, and there are many states: a
//! power cut brings back an older one, to which the log is applied again; a pinned view keeps one
//! for a checksum, a snapshot or a read. A row that is dropped is gone from all of them at once:
//! RocksDB's compaction filter does not spare what its snapshots see. So a row may go only when it
//! has expired in *every* state that can still be read or come back. The layers above know regions
//! and their time, the engine knows what survives and what is pinned; they meet in [`Claims`].
//!
//! Invariant: a claim `(range, time)` that is in force is true of each such state: whatever region
//! owns a key of `range` there has a replicated time of at least `time`. It holds because
//!
//! - the time of a region never goes back along its log, a snapshot is installed only over an older
//!   state, the halves of a split start with the time of the whole, and whoever takes a range over
//!   must go on from the larger time of the two;
//! - the states that a claim was made of are in files, not only in the write-ahead log, before it is
//!   in force ([`Engine::reclaim_expired`](super::engine::Engine::reclaim_expired)). A sync would do
//!   for a power cut. But the log of `data` comes back to a point in time: one flipped bit in what
//!   was synced cuts it short without a word, and the Raft log is applied from there;
//! - it waits until every view that is older than the claim is gone ([`Hold`]);
//! - it is withdrawn before the rows of a peer are erased, whose successor may start from an older
//!   state: its leader may have applied less than the peer that is gone.
//!
//! A compaction that is under way keeps the claims it began with. That is sound: they were true
//! when it began, and what is written later, or by a successor, is not among its files.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use flotilla_proto::range::KeyRange;
use parking_lot::Mutex;

/// The replicated time from which on a stored value is absent; `None` for one that never is, or
/// that does not decode: readers must find the damage, so it is kept.
pub type ExpiresAt = fn(stored: &[u8]) -> Option<u64>;

/// The region of these keys has reached this time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub range: KeyRange,
    pub time_ms: u64,
}

/// What may go: rows of these ranges that expire at these times or before.
#[derive(Clone, Debug)]
pub struct Claims {
    expires_at_ms: ExpiresAt,
    /// Invariant: sorted, and no two overlap.
    sorted: Vec<Claim>,
}

impl Claims {
    /// Claims of several regions. Each is true, also where they overlap because the regions were
    /// looked at one after the other while they were split.
    #[must_use]
    pub fn new(expires_at_ms: ExpiresAt, mut claims: Vec<Claim>) -> Self {
        claims.retain(|claim| !claim.range.is_empty());
        claims.sort_by(|a, b| a.range.start.cmp(&b.range.start));
        let mut sorted: Vec<Claim> = Vec::with_capacity(claims.len());
        for claim in claims {
            if let Some(before) = sorted.last_mut()
                && before.range.overlaps(&claim.range)
            {
                // To claim less is always sound.
                before.range.end = claim.range.start.clone();
                if before.range.start == before.range.end {
                    sorted.pop();
                }
            }
            sorted.push(claim);
        }
        Self { expires_at_ms, sorted }
    }

    /// Without those that say anything of `range`.
    fn without(&self, range: &KeyRange) -> Self {
        let mut rest = self.clone();
        rest.sorted.retain(|claim| !claim.range.overlaps(range));
        rest
    }

    /// The position of the claim with `key`.
    fn position(&self, key: &[u8]) -> Option<usize> {
        let after = self.sorted.partition_point(|claim| &claim.range.start[..] <= key);
        let at = after.checked_sub(1)?;
        self.sorted.get(at)?.range.contains(key).then_some(at)
    }
}

/// What an instance may drop now, and what it waits for.
#[derive(Debug, Default)]
pub struct Reclaim {
    state: Mutex<State>,
    dropped_rows: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct State {
    in_force: Option<Arc<Claims>>,
    /// Claims that older views keep from being in force, and the number they were proposed under.
    waiting: Option<(u64, Arc<Claims>)>,
    /// Grows with each proposal.
    proposed: u64,
    /// Views that are pinned, by `proposed` when they were.
    views: BTreeMap<u64, usize>,
    /// Grows with each withdrawal.
    withdrawn: u64,
}

impl State {
    fn settle(&mut self) {
        if let Some((number, claims)) = self.waiting.take() {
            if self.views.range(..number).next().is_none() {
                self.in_force = Some(claims);
            } else {
                self.waiting = Some((number, claims));
            }
        }
    }
}

/// Says that nothing was withdrawn since.
#[derive(Clone, Copy, Debug)]
pub struct Ticket(u64);

impl Reclaim {
    /// To be taken before the states are looked at that claims are made of.
    #[must_use]
    pub fn begin(&self) -> Ticket {
        Ticket(self.state.lock().withdrawn)
    }

    /// Puts `claims` in force in the place of all earlier ones, as soon as no view is left that was
    /// pinned before this call. Says whether they were taken: not when a range was withdrawn since
    /// `ticket`, for they may be of a peer that is gone; nor while earlier ones wait, which would
    /// otherwise never come to be.
    ///
    /// Ordering: the states that they were made of are in files.
    pub fn propose(&self, ticket: Ticket, claims: Claims) -> bool {
        let mut state = self.state.lock();
        state.settle();
        if state.withdrawn != ticket.0 || state.waiting.is_some() {
            return false;
        }
        state.proposed += 1;
        state.waiting = Some((state.proposed, Arc::new(claims)));
        state.settle();
        true
    }

    /// Whether proposing `claims` would change nothing.
    #[must_use]
    pub fn knows(&self, claims: &Claims) -> bool {
        let state = self.state.lock();
        let newest = state.waiting.as_ref().map(|(_, claims)| claims).or(state.in_force.as_ref());
        claims.sorted.is_empty() || newest.is_some_and(|newest| newest.sorted == claims.sorted)
    }

    /// Ends all claims on `range`.
    pub fn withdraw(&self, range: &KeyRange) {
        let mut state = self.state.lock();
        state.withdrawn += 1;
        state.in_force = state.in_force.take().map(|claims| Arc::new(claims.without(range)));
        state.waiting =
            state.waiting.take().map(|(number, claims)| (number, Arc::new(claims.without(range))));
    }

    /// Keeps what is live now. Taken before a view is pinned and dropped after it is let go.
    #[must_use]
    pub fn hold(self: &Arc<Self>) -> Hold {
        let mut state = self.state.lock();
        let number = state.proposed;
        *state.views.entry(number).or_default() += 1;
        Hold { reclaim: Arc::clone(self), number }
    }

    /// Judges rows by the claims that are in force now.
    #[must_use]
    pub fn pass(&self) -> Pass {
        let mut state = self.state.lock();
        state.settle();
        Pass {
            claims: state.in_force.clone(),
            at: 0,
            dropped_rows: 0,
            total: Arc::clone(&self.dropped_rows),
        }
    }

    /// Rows dropped in the life of this process.
    #[must_use]
    pub fn dropped_rows(&self) -> u64 {
        self.dropped_rows.load(Ordering::Relaxed)
    }
}

/// Held by a pinned view: later claims wait for it.
#[derive(Debug)]
pub struct Hold {
    reclaim: Arc<Reclaim>,
    number: u64,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.reclaim.state.lock();
        if let Some(views) = state.views.get_mut(&self.number) {
            *views -= 1;
            if *views == 0 {
                state.views.remove(&self.number);
            }
        }
    }
}

/// One walk over rows, mostly in the order of their keys.
#[derive(Debug)]
pub struct Pass {
    claims: Option<Arc<Claims>>,
    /// Where the last key was found.
    at: usize,
    dropped_rows: u64,
    total: Arc<AtomicU64>,
}

impl Pass {
    /// Whether the row may go, and is counted as gone.
    pub fn drops(&mut self, key: &[u8], stored: &[u8]) -> bool {
        let Some(claims) = &self.claims else { return false };
        let near = claims.sorted.get(self.at).filter(|claim| claim.range.contains(key));
        let claim = match near {
            Some(claim) => claim,
            None => {
                let Some(at) = claims.position(key) else { return false };
                self.at = at;
                &claims.sorted[at]
            }
        };
        let expired = (claims.expires_at_ms)(stored).is_some_and(|at| at <= claim.time_ms);
        self.dropped_rows += u64::from(expired);
        expired
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.total.fetch_add(self.dropped_rows, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A value is its expiry; `0` and what is no number never expires.
    fn expires_at_ms(stored: &[u8]) -> Option<u64> {
        std::str::from_utf8(stored).ok()?.parse().ok().filter(|at| *at != 0)
    }

    fn claims(claims: &[(&'static str, &'static str, u64)]) -> Claims {
        let claims = claims
            .iter()
            .map(|(start, end, time_ms)| Claim {
                range: KeyRange::new(*start, *end),
                time_ms: *time_ms,
            })
            .collect();
        Claims::new(expires_at_ms, claims)
    }

    fn propose(reclaim: &Reclaim, of: &[(&'static str, &'static str, u64)]) -> bool {
        reclaim.propose(reclaim.begin(), claims(of))
    }

    fn drops(reclaim: &Reclaim, key: &str, stored: &str) -> bool {
        reclaim.pass().drops(key.as_bytes(), stored.as_bytes())
    }

    #[test]
    fn only_what_a_claim_has_seen_expire_goes() {
        let reclaim = Reclaim::default();
        assert!(!drops(&reclaim, "b", "1"), "nothing was claimed");
        assert!(propose(&reclaim, &[("m", "t", 20), ("b", "d", 10), ("x", "", 30)]));
        for (why, key, stored, gone) in [
            ("before the first range", "a", "1", false),
            ("at the time", "b", "10", true),
            ("before the time", "c", "9", true),
            ("after the time", "c", "11", false),
            ("never", "c", "0", false),
            ("damaged", "c", "damage", false),
            ("the end is not in the range", "d", "1", false),
            ("between ranges", "f", "1", false),
            ("another region, another time", "m", "20", true),
            ("another region, after its time", "m", "21", false),
            ("a range without an end", "zzz", "30", true),
        ] {
            assert_eq!(drops(&reclaim, key, stored), gone, "{why}");
        }
        assert_eq!(reclaim.dropped_rows(), 4);
        let mut pass = reclaim.pass();
        let gone: Vec<_> = ["x", "c", "n", "a", "z", "b"]
            .into_iter()
            .filter(|key| pass.drops(key.as_bytes(), b"5"))
            .collect();
        assert_eq!(gone, ["x", "c", "n", "z", "b"], "keys in any order");
    }

    #[test]
    fn regions_seen_in_the_middle_of_a_split_claim_no_more_than_is_true() {
        for (why, of, want) in [
            ("parent before, child after", &[("a", "z", 10), ("m", "z", 20)][..], [10, 20, 20]),
            ("the other order", &[("m", "z", 20), ("a", "z", 10)][..], [10, 20, 20]),
            ("a child in the middle", &[("a", "z", 10), ("m", "n", 20)][..], [10, 20, 0]),
            ("the same start", &[("a", "z", 10), ("a", "n", 10)][..], [10, 10, 0]),
            ("an empty one", &[("a", "z", 10), ("m", "m", 99)][..], [10, 10, 10]),
        ] {
            let reclaim = Reclaim::default();
            assert!(propose(&reclaim, of));
            let at =
                |key: &str| (1..=30).filter(|at| drops(&reclaim, key, &at.to_string())).count();
            assert_eq!([at("a"), at("m"), at("n")], want, "{why}");
        }
    }

    #[test]
    fn claims_wait_for_views_that_are_older_and_for_no_others() {
        let reclaim = Arc::new(Reclaim::default());
        assert!(propose(&reclaim, &[("a", "z", 10)]));
        let older = reclaim.hold();
        assert!(drops(&reclaim, "b", "10"), "the view is younger than this claim");
        assert!(propose(&reclaim, &[("a", "z", 20)]));
        let younger = reclaim.hold();
        assert!(drops(&reclaim, "b", "10") && !drops(&reclaim, "b", "11"), "a view is older");
        assert!(!propose(&reclaim, &[("a", "z", 30)]), "the earlier ones still wait");
        drop(older);
        assert!(drops(&reclaim, "b", "20"), "the older view is gone");
        assert!(propose(&reclaim, &[("a", "z", 40)]));
        assert!(!drops(&reclaim, "b", "21"), "now the younger one is older");
        drop(younger);
        assert!(drops(&reclaim, "b", "40"));
        assert_eq!(reclaim.state.lock().views.len(), 0);
    }

    #[test]
    fn claims_that_are_known_are_no_news() {
        let reclaim = Arc::new(Reclaim::default());
        assert!(reclaim.knows(&claims(&[])), "none");
        let (first, second) = (claims(&[("a", "z", 10)]), claims(&[("a", "z", 20)]));
        assert!(!reclaim.knows(&first));
        assert!(reclaim.propose(reclaim.begin(), first.clone()));
        assert!(reclaim.knows(&first) && !reclaim.knows(&second));
        let view = reclaim.hold();
        assert!(reclaim.propose(reclaim.begin(), second.clone()));
        assert!(reclaim.knows(&second), "though they wait");
        reclaim.withdraw(&KeyRange::new("b", "c"));
        assert!(!reclaim.knows(&second));
        drop(view);
    }

    #[test]
    fn views_that_come_and_go_without_a_gap_do_not_hold_claims_for_ever() {
        let reclaim = Arc::new(Reclaim::default());
        let mut view = reclaim.hold();
        for time_ms in 1..50 {
            propose(&reclaim, &[("a", "z", time_ms)]);
            let next = reclaim.hold();
            view = next;
        }
        assert!(drops(&reclaim, "b", "47"));
        drop(view);
    }

    #[test]
    fn nothing_is_claimed_of_a_peer_that_is_gone() {
        let reclaim = Arc::new(Reclaim::default());
        assert!(propose(&reclaim, &[("a", "m", 10), ("m", "z", 10)]));
        let view = reclaim.hold();
        assert!(propose(&reclaim, &[("a", "m", 20), ("m", "z", 20)]));
        let ticket = reclaim.begin();
        reclaim.withdraw(&KeyRange::new("m", "z"));
        assert!(!drops(&reclaim, "n", "1"), "what was in force");
        assert!(drops(&reclaim, "b", "10"), "the neighbour's goes on");
        drop(view);
        assert!(!drops(&reclaim, "n", "1"), "what waited");
        assert!(drops(&reclaim, "b", "20"), "the neighbour's goes on");
        assert!(!reclaim.propose(ticket, claims(&[("m", "z", 30)])), "seen before it went");
        assert!(!drops(&reclaim, "n", "1"));
        assert!(propose(&reclaim, &[("m", "z", 5)]), "its successor");
        assert!(drops(&reclaim, "n", "5") && !drops(&reclaim, "n", "6"));
    }
}
