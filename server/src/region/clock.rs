//! The clock of a region, which only its leader advances.
//!
//! Expiry must be the same on every peer, so it is decided by a time that is replicated: each command
//! carries one, and the largest applied one is the region's *replicated time*. Each peer knows by its own
//! monotonic clock since when it has applied that, and whoever begins to lead goes on from there, once it has
//! applied all that was told before it led, so that a change of leader, however frequent, costs the time for which its
//! last entry was on its way and until the first of its own is applied. What is found
//! on the disk at a start counts as applied then. So time is behind what has really passed, by the way of
//! entries and by as long as no peer ran that leads later, and never ahead: a key may live longer than it
//! was given, never shorter. The wall clock has no part in it: a node whose date jumps by an hour expires
//! nothing early.
//!
//! Invariant: nobody goes on from the replicated time since before it was told for the last time. A leader that has
//! just begun tells the same time as the one before, as does one in the same millisecond: what it grants lives from
//! when it is told. So each command counts as the newest, also one that brings no other time; and
//! what a leader tells before its own first entry is applied may not be applied when that is, so that it notes when.

use std::time::Duration;

use tokio::time::Instant;

/// The replicated time as a peer has applied it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Of the newest entry that is applied.
    pub term: u64,
    pub time_ms: u64,
    /// When the newest command was applied.
    pub since: Instant,
}

/// Time of a region as its leader tells it.
#[derive(Debug, Default)]
pub struct RegionClock {
    /// Term, and what was applied when this peer first told the time in it behind an entry of its own.
    leading: Option<(u64, Applied)>,
    /// When it told the time last behind nothing of its own, in whatever term: it may be of a later one that what was
    /// told then gets into the log.
    early: Option<Instant>,
}

impl RegionClock {
    /// Milliseconds to stamp on a command proposed at `now` in `term`. Never below what is applied.
    ///
    /// Ordering: `now` and `applied` are read while nobody else is told the time, so that what is told early is noted
    /// before somebody goes on from what is applied later.
    pub fn stamp(&mut self, term: u64, applied: Applied, now: Instant) -> u64 {
        // Within a term not from what is applied: each entry's way would be lost.
        if let Some((leading, base)) = self.leading
            && leading == term
        {
            return base.at(now).max(applied.time_ms);
        }
        // Invariant: all that earlier leaders told is applied. Peers' clocks differ, as each counts from its own
        // applying: what is still on its way may be from one that was behind, and a time that went on from here
        // would have what it grants expire at once.
        if applied.term != term {
            self.early = Some(now);
            return applied.time_ms;
        }
        let since = self.early.map_or(applied.since, |told| told.max(applied.since));
        let base = Applied { since, ..applied };
        self.leading = Some((term, base));
        base.at(now).max(applied.time_ms)
    }
}

impl Applied {
    /// What the time is later.
    fn at(self, now: Instant) -> u64 {
        self.time_ms.saturating_add(millis(now.saturating_duration_since(self.since)))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_follows_the_leaders_monotonic_clock_and_never_goes_back() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut clock = RegionClock::default();
        for (why, (term, of), time_ms, since, now, want) in [
            ("a new leader goes on from what it has applied", (2, 2), 500, at(0), at(10), 510),
            ("then by its own clock", (2, 2), 500, at(0), at(40), 540),
            ("whatever is on its way", (2, 2), 510, at(35), at(45), 545),
            ("not below what is applied", (2, 2), 600, at(50), at(50), 600),
            ("a later term waits", (3, 2), 600, at(50), at(8_000), 600),
            ("for all of the earlier ones", (3, 2), 700, at(9_000), at(9_005), 700),
            ("and then starts over from when it told it", (3, 3), 700, at(9_000), at(9_010), 705),
            ("and goes on from there", (3, 3), 700, at(9_000), at(9_015), 710),
            ("or from what is applied", (4, 4), 710, at(9_020), at(9_030), 720),
            ("whatever an older look says", (4, 3), 710, at(9_020), at(9_040), 730),
        ] {
            let applied = Applied { term: of, time_ms, since };
            assert_eq!(clock.stamp(term, applied, now), want, "{why}");
        }
    }

    /// A peer that has run for an hour comes to lead behind one that had just started, and has not applied yet what that
    /// one granted.
    #[test]
    fn leader_that_has_not_applied_all_does_not_go_on_from_its_own_clock() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut clock = RegionClock::default();
        let old = Applied { term: 1, time_ms: 1_000, since: at(0) };
        assert_eq!(clock.stamp(3, old, at(3_600_000)), 1_000);
        let granted = Applied { term: 2, time_ms: 6_000, since: at(3_600_005) };
        assert_eq!(clock.stamp(3, granted, at(3_600_006)), 6_000);
        let own = Applied { term: 3, ..granted };
        assert_eq!(clock.stamp(3, own, at(3_600_015)), 6_009);
    }

    /// As a node does that takes over a region of which nothing was to expire for an hour.
    #[test]
    fn what_a_leader_grants_before_its_own_first_entry_lives_from_then_on() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let hour = 3_600_000;
        for (why, since) in [("what it granted is not applied yet", 0), ("it is", hour + 4)] {
            let mut clock = RegionClock::default();
            let idle = Applied { term: 1, time_ms: 1_000, since: at(0) };
            assert_eq!(clock.stamp(2, idle, at(hour)), 1_000, "{why}");
            assert_eq!(clock.stamp(2, idle, at(hour + 2)), 1_000, "{why}");
            let own = Applied { term: 2, time_ms: 1_000, since: at(since) };
            let told = clock.stamp(2, own, at(hour + 10));
            assert!((1_000..=1_008).contains(&told), "{why}: {told}");
            // And so in the next term, where nothing was granted early.
            let own = Applied { term: 3, time_ms: told, since: at(hour + 12) };
            assert_eq!(clock.stamp(3, own, at(hour + 20)), told + 8, "{why}");
        }
    }

    /// Three peers, each entry of whose log is applied by whoever leads at once, and by the others when they hear
    /// of it: after `heard_ms`, or when they begin to lead.
    #[test]
    fn leaders_that_move_cost_no_time() {
        const TO_MS: u64 = 60_000;
        // Until a new leader has applied what it has.
        const TAKES_MS: u64 = 3;
        for (moves_every_ms, heard_ms, hands_over) in
            [(200, 150, true), (200, 1_000, true), (400, 50, false), (1_500, 400, false)]
        {
            let start = Instant::now();
            let at = |ms| start + Duration::from_millis(ms);
            let mut clocks: [RegionClock; 3] = Default::default();
            let mut applied = [Applied { term: 0, time_ms: 0, since: start }; 3];
            let mut newest = 0;
            let mut on_way: Vec<(u64, u64)> = Vec::new();
            let mut moves = 0;
            for now_ms in 0..TO_MS {
                let leader = usize::try_from(moves % 3).expect("a peer");
                let is_last = (now_ms + 1) % moves_every_ms == 0;
                on_way.retain(|(told_ms, time_ms)| {
                    let is_heard = told_ms + heard_ms <= now_ms;
                    for peer in
                        applied.iter_mut().filter(|peer| is_heard && peer.time_ms < *time_ms)
                    {
                        *peer = Applied { time_ms: *time_ms, since: at(now_ms), ..*peer };
                    }
                    !is_heard
                });
                if now_ms % 500 == 0 || (is_last && hands_over) {
                    let told = clocks[leader].stamp(moves, applied[leader], at(now_ms));
                    assert!(told >= newest, "time went back at {now_ms}");
                    assert!(told <= now_ms, "{told} is ahead of {now_ms}");
                    newest = told;
                    applied[leader] = Applied { term: moves, time_ms: told, since: at(now_ms) };
                    on_way.push((now_ms, told));
                }
                if is_last {
                    moves += 1;
                    let next = usize::try_from(moves % 3).expect("a peer");
                    if applied[next].time_ms < newest {
                        applied[next].time_ms = newest;
                        applied[next].since = at(now_ms + TAKES_MS);
                    }
                    // Its first entry is behind all of them.
                    applied[next].term = moves;
                }
            }
            let late = TO_MS - newest;
            let each = if hands_over { TAKES_MS + 1 } else { heard_ms.min(moves_every_ms) };
            let bound = 500 + each * (TO_MS / moves_every_ms);
            assert!(late <= bound, "every {moves_every_ms} ms: {late} ms late, more than {bound}");
        }
    }
}
