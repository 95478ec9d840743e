//! What must happen in some seed: a simulator that no longer reaches a place says so.
//!
//! The server marks its own rare places (`server/src/world/sometimes.rs`), faults and actors mark theirs, named here. Each
//! scenario lists what some of its seeds must hit.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    rc::Rc,
    sync::{Arc, Mutex},
};

use flotilla_server::world::Mark;

pub(crate) const BIRTH_GOES_WRONG: Mark = Mark("things went wrong before the cluster was born");
pub(crate) const LOG_LOST_UNSYNCED: Mark = Mark("a power cut lost what was not synced of a log");
pub(crate) const DATA_LOST_UNSYNCED: Mark =
    Mark("a power cut lost what was not synced of what was applied");
pub(crate) const DATA_FELL_BACK: Mark = Mark("data fell back");
pub(crate) const BLOCK_DAMAGED: Mark = Mark("a block of a disk was damaged");
pub(crate) const DISK_FAILED: Mark = Mark("a disk failed under its node");
pub(crate) const DISK_SET_BACK: Mark = Mark("a disk was set back");
pub(crate) const DISK_WIPED: Mark = Mark("a disk was wiped");
pub(crate) const DIED_AT_A_LINE: Mark = Mark("a node died at a line that its disk depends on");
pub(crate) const DIED_INSTALLING: Mark = Mark("a node died in the middle of an install");
pub(crate) const LINGERED: Mark = Mark("a task stood between what it had seen and what it did");
pub(crate) const EMPTY_DISK_WANTED: Mark = Mark("a node asked for an empty disk");
pub(crate) const REMOVED_AND_BACK: Mark = Mark("a node was removed, and started again empty");
pub(crate) const NODE_MOVED: Mark = Mark("a node moved to another address");
pub(crate) const NODE_ADDED: Mark = Mark("a node was added");
pub(crate) const NODE_TOLD_TO_GO: Mark = Mark("a node was told to go");
pub(crate) const NODE_GIVEN_UP: Mark = Mark("a node was given up by force");
pub(crate) const NODE_MAY_STAY: Mark = Mark("a node that was to go may stay");
pub(crate) const NODE_DEMOTED: Mark = Mark("a node was demoted");
pub(crate) const ONE_VOTER: Mark = Mark("a region has one voter by order");
pub(crate) const CHANGE_INTERRUPTED: Mark = Mark("a change of members was interrupted");
pub(crate) const DRIVER_MOVED: Mark = Mark("the placement driver was moved");
pub(crate) const KEY_EXPIRED: Mark = Mark("a key had expired");
pub(crate) const WRITE_REFUSED: Mark = Mark("a write was refused");
pub(crate) const WRITE_UNANSWERED: Mark = Mark("a write had no answer");

/// How often each mark was hit. All clones are one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Marks(Rc<RefCell<BTreeMap<&'static str, u64>>>);

impl Marks {
    pub(crate) fn hit(&self, Mark(name): Mark) {
        *self.0.borrow_mut().entry(name).or_default() += 1;
    }

    pub(crate) fn hit_if(&self, mark: Mark, happened: bool) {
        if happened {
            self.hit(mark);
        }
    }

    /// Everything that was hit, here and in the server.
    pub(crate) fn all(&self, server: &ServerMarks) -> BTreeMap<&'static str, u64> {
        let mut all = self.0.borrow().clone();
        for (name, hits) in server.0.lock().expect("nobody panics while counting").iter() {
            *all.entry(name).or_default() += hits;
        }
        all
    }
}

/// What the server has marked.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServerMarks(Arc<Mutex<BTreeMap<&'static str, u64>>>);

impl ServerMarks {
    pub(crate) fn hit(&self, Mark(name): Mark) {
        *self.0.lock().expect("nobody panics while counting").entry(name).or_default() += 1;
    }
}
