//! What must happen in some seed: a simulator that no longer reaches a place says so.

use std::collections::BTreeMap;

/// How often each mark was hit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Marks(pub BTreeMap<&'static str, u64>);

impl Marks {
    pub(crate) fn hit_if(&mut self, name: &'static str, happened: bool) {
        *self.0.entry(name).or_default() += u64::from(happened);
    }
}
