//! What must happen in some seed: a simulator that no longer reaches a place says so.
//!
//! The server marks its own rare places (`server/src/world/sometimes.rs`), faults and actors mark theirs here. Each scenario
//! lists what some of its seeds must hit.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    rc::Rc,
    sync::{Arc, Mutex},
};

/// How often each mark was hit. All clones are one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Marks(Rc<RefCell<BTreeMap<&'static str, u64>>>);

impl Marks {
    pub(crate) fn hit(&self, name: &'static str) {
        *self.0.borrow_mut().entry(name).or_default() += 1;
    }

    pub(crate) fn hit_if(&self, name: &'static str, happened: bool) {
        if happened {
            self.hit(name);
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
    pub(crate) fn hit(&self, name: &'static str) {
        *self.0.lock().expect("nobody panics while counting").entry(name).or_default() += 1;
    }
}
