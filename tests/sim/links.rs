//! Which links are cut, by how many who want them cut: what one mends another may still want cut.

use std::collections::BTreeMap;

use turmoil::Sim;

/// Cuts by their direction, from a host to a host.
pub(crate) struct Links {
    cuts: BTreeMap<(String, String), u32>,
    /// Links are held in this simulation. turmoil does not support cuts of what is held.
    pub(crate) are_held: bool,
}

impl Links {
    pub(crate) fn new(are_held: bool) -> Self {
        Self { cuts: BTreeMap::new(), are_held }
    }

    /// What is on its way is lost, and what is sent from now on.
    pub(crate) fn cut(&mut self, sim: &Sim<'_>, from: &str, to: &str) {
        let cuts = self.cuts.entry((from.to_owned(), to.to_owned())).or_default();
        *cuts += 1;
        if *cuts == 1 {
            sim.partition_oneway(from, to);
        }
    }

    pub(crate) fn mend(&mut self, sim: &Sim<'_>, from: &str, to: &str) {
        let cuts = self.cuts.entry((from.to_owned(), to.to_owned())).or_default();
        *cuts = cuts.saturating_sub(1);
        if *cuts == 0 {
            sim.repair_oneway(from, to);
        }
    }
}
