//! Which process speaks for a node.
//!
//! An identity is on a disk, and a disk may be copied: then two processes speak as one node, and what one
//! promised the other breaks. So one process is believed per node, and a second one only when the first
//! is gone. Silence shows it, after a while. A restart need not wait for that: each process counts the
//! starts of its disk, on the disk (`node/identity.rs`), and RocksDB lets one process at a time open
//! it; so when every connection of the one that was believed is closed, one of a later start is
//! its successor. If that was wrong after all, because the first comes back by a new connection, neither
//! is believed for as long as both speak.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    ids::NodeId,
    world::{maps::HashMap, presence::Presence},
};

/// A process that was silent for so long is taken for gone.
pub const QUIET: Duration = Duration::from_secs(2);

/// Bound: open connections of one process that are remembered; of one with more, silence tells.
const CONNECTIONS_MAX: usize = 16;

/// The processes that are believed.
#[derive(Debug, Default)]
pub struct Incarnations {
    known: HashMap<NodeId, Process>,
}

#[derive(Debug)]
struct Process {
    incarnation: u64,
    heard: Instant,
    connections: Vec<Presence>,
    /// Some word of it came by a way of which nothing is known.
    untraced: bool,
    /// The one that it replaced, because it seemed gone.
    replaced: Option<u64>,
    /// Until then it is not believed, as the one that it replaced is not gone.
    contested_until: Option<Instant>,
}

impl Process {
    fn new(incarnation: u64, presence: &Presence, now: Instant) -> Self {
        let mut process = Self {
            incarnation,
            heard: now,
            connections: Vec::new(),
            untraced: false,
            replaced: None,
            contested_until: None,
        };
        process.trace(presence);
        process
    }

    fn trace(&mut self, presence: &Presence) {
        if self.untraced || self.connections.iter().any(|known| known.is_same(presence)) {
            return;
        }
        self.connections.retain(|known| !known.is_gone());
        self.untraced = !presence.is_known() || self.connections.len() >= CONNECTIONS_MAX;
        self.connections.push(presence.clone());
    }

    fn is_gone(&self) -> bool {
        !self.untraced && self.connections.iter().all(Presence::is_gone)
    }
}

impl Incarnations {
    /// Whether `incarnation` is believed to be `node`, which speaks by `presence` at `now`.
    #[must_use]
    pub fn recognize(
        &mut self,
        node: NodeId,
        incarnation: u64,
        presence: &Presence,
        now: Instant,
    ) -> bool {
        let Some(process) = self.known.get_mut(&node) else {
            self.known.insert(node, Process::new(incarnation, presence, now));
            return true;
        };
        if process.incarnation == incarnation {
            process.heard = now;
            process.trace(presence);
            return process.contested_until.is_none_or(|until| now >= until);
        }
        let silent = now.saturating_duration_since(process.heard) >= QUIET;
        let succeeds = starts(incarnation) > starts(process.incarnation) && process.is_gone();
        if silent || succeeds {
            let replaced = (!silent).then_some(process.incarnation);
            *process = Process { replaced, ..Process::new(incarnation, presence, now) };
            return true;
        }
        // What a process said before it ended arrives by a connection that is closed.
        if process.replaced == Some(incarnation) && !presence.is_gone() {
            process.contested_until = Some(now + QUIET);
        }
        false
    }
}

impl Incarnations {
    /// Whether every connection of the process that is believed is closed; `None` when it had none, or not
    /// all are known.
    #[must_use]
    pub fn is_gone(&self, node: NodeId) -> Option<bool> {
        let process = self.known.get(&node)?;
        (!process.untraced && !process.connections.is_empty()).then(|| process.is_gone())
    }
}

#[cfg(test)]
impl Incarnations {
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }
}

/// An incarnation's number: the starts of its disk and, where two copies have the same, a random part.
#[must_use]
pub fn incarnation(starts: u32, random: u64) -> u64 {
    (u64::from(starts) << 32) | (random & u64::from(u32::MAX))
}

fn starts(incarnation: u64) -> u64 {
    incarnation >> 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::presence::pretend;

    const NODE: NodeId = NodeId(3);

    struct Script {
        incarnations: Incarnations,
        start: Instant,
    }

    impl Script {
        fn new() -> Self {
            Self { incarnations: Incarnations::default(), start: crate::world::clock::now() }
        }

        fn hear(&mut self, at_ms: u64, incarnation: u64, presence: &Presence) -> bool {
            let now = self.start + Duration::from_millis(at_ms);
            self.incarnations.recognize(NODE, incarnation, presence, now)
        }
    }

    #[test]
    fn restarted_process_is_believed_once_every_connection_of_the_old_is_closed() {
        let mut script = Script::new();
        let (old, new) = (incarnation(4, 77), incarnation(5, 11));
        let ((fast, by_fast), (bulk, by_bulk)) = (pretend(), pretend());
        let (_later, by_later) = pretend();
        assert!(script.hear(0, old, &by_fast));
        assert!(script.hear(10, old, &by_bulk));
        drop(fast);
        assert!(!script.hear(20, new, &by_later), "one connection is open");
        drop(bulk);
        assert!(script.hear(30, new, &by_later));
        assert!(!script.hear(40, old, &by_bulk), "said before it ended");
        assert!(script.hear(50, new, &by_later));
    }

    #[test]
    fn copied_disk_is_refused_while_the_first_speaks() {
        for (why, copy) in [
            ("started as often", incarnation(4, 12)),
            ("started less often", incarnation(2, 12)),
            ("started more often", incarnation(9, 12)),
        ] {
            let mut script = Script::new();
            let first = incarnation(4, 77);
            let ((open, by_first), (_kept, by_copy)) = (pretend(), pretend());
            for at_ms in (0..10_000).step_by(1_000) {
                assert!(script.hear(at_ms, first, &by_first), "{why}");
                assert!(!script.hear(at_ms + 500, copy, &by_copy), "{why}");
            }
            drop(open);
            // Gone without a successor that shows it: silence does, after a while.
            let at_once = copy == incarnation(9, 12);
            assert_eq!(script.hear(10_000, copy, &by_copy), at_once, "{why}");
            assert!(script.hear(11_000, copy, &by_copy), "{why}");
        }
    }

    #[test]
    fn two_that_live_are_both_refused_when_the_wrong_one_was_believed() {
        let mut script = Script::new();
        let (first, copy) = (incarnation(4, 77), incarnation(9, 12));
        let ((open, by_first), (_kept, by_copy)) = (pretend(), pretend());
        assert!(script.hear(0, first, &by_first));
        drop(open); // its connection broke, that is all
        assert!(script.hear(10, copy, &by_copy));
        let (again, by_first) = pretend();
        for at_ms in (100..10_000).step_by(100) {
            assert!(!script.hear(at_ms, first, &by_first), "at {at_ms}");
            assert!(!script.hear(at_ms + 50, copy, &by_copy), "at {at_ms}");
        }
        drop(again);
        assert!(!script.hear(10_100, copy, &by_copy));
        assert!(script.hear(12_000, copy, &by_copy), "one is left");
    }

    #[test]
    fn ways_that_are_not_known_show_nothing() {
        let mut script = Script::new();
        let unknown = Presence::default();
        assert!(script.hear(0, incarnation(4, 1), &unknown));
        assert!(!script.hear(1_900, incarnation(5, 1), &unknown));
        assert!(script.hear(2_000, incarnation(5, 1), &unknown));
    }
}
