//! Which links are cut or held, by how many who want it: what one ends another may still want.

use std::collections::BTreeMap;

use turmoil::Sim;

/// Cuts by their direction, from a host to a host; holds by their ends.
pub(crate) struct Links {
    cuts: Counts,
    holds: Counts,
    /// Links are held in this simulation. turmoil does not support cuts of what is held.
    pub(crate) are_held: bool,
}

impl Links {
    pub(crate) fn new(are_held: bool) -> Self {
        Self { cuts: Counts::default(), holds: Counts::default(), are_held }
    }

    /// What is on its way is lost, and what is sent from now on.
    pub(crate) fn cut(&mut self, sim: &Sim<'_>, from: &str, to: &str) {
        if self.cuts.is_first(from, to) {
            sim.partition_oneway(from, to);
        }
    }

    pub(crate) fn mend(&mut self, sim: &Sim<'_>, from: &str, to: &str) {
        if self.cuts.was_last(from, to) {
            sim.repair_oneway(from, to);
        }
    }

    /// As [`Links::cut`], both ways.
    pub(crate) fn cut_both_ways(&mut self, sim: &Sim<'_>, one: &str, other: &str) {
        self.cut(sim, one, other);
        self.cut(sim, other, one);
    }

    /// Ends [`Links::cut_both_ways`].
    pub(crate) fn mend_both_ways(&mut self, sim: &Sim<'_>, one: &str, other: &str) {
        self.mend(sim, one, other);
        self.mend(sim, other, one);
    }

    /// What is on its way, and what is sent from now on, arrives once nobody holds it any more. Both ways.
    pub(crate) fn hold(&mut self, sim: &Sim<'_>, one: &str, other: &str) {
        let (one, other) = (one.min(other), one.max(other));
        if self.holds.is_first(one, other) {
            sim.hold(one, other);
        }
    }

    pub(crate) fn release(&mut self, sim: &Sim<'_>, one: &str, other: &str) {
        let (one, other) = (one.min(other), one.max(other));
        if self.holds.was_last(one, other) {
            sim.release(one, other);
        }
    }
}

/// How many want it, by link.
#[derive(Default)]
struct Counts(BTreeMap<(String, String), u32>);

impl Counts {
    /// One more wants it; whether nobody did.
    fn is_first(&mut self, from: &str, to: &str) -> bool {
        let wanted = self.0.entry((from.to_owned(), to.to_owned())).or_default();
        *wanted += 1;
        *wanted == 1
    }

    /// One less wants it; whether nobody does now.
    fn was_last(&mut self, from: &str, to: &str) -> bool {
        let wanted = self.0.entry((from.to_owned(), to.to_owned())).or_default();
        *wanted = wanted.saturating_sub(1);
        *wanted == 0
    }
}
