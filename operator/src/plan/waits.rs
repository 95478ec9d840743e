//! For how long something has been so, as far as this operator or one before it has watched.

use std::collections::BTreeSet;

use super::{View, growth, join, recorded};
use crate::{
    answers::Stamp,
    clock,
    crd::{Lasted, Operation},
    seen::{Pod, Seen},
};

/// Bound: entries of the list, as in the schema. What is beyond is waited for once more by whoever comes next.
const LASTED_MAX: usize = 100;
/// Stands for the time since when a StatefulSet has no pod, which nobody notes.
pub(super) const NO_POD: &str = "no pod";

impl View<'_> {
    /// So many seconds have passed since an operation began.
    pub(super) fn lasts(&self, operation: &Operation, seconds: i64) -> bool {
        self.has_lasted(&of_operation(operation), &operation.started_at, seconds)
    }

    /// It has not been ready for so many seconds, and says so.
    pub(super) fn is_not_ready_for(&self, pod: &Pod, seconds: i64) -> bool {
        let since = pod.not_ready_since.as_deref();
        since.is_some_and(|since| self.has_lasted(&pod.uid, since, seconds))
    }

    /// So many seconds have passed since something came to be so, which bears the stamp of it.
    ///
    /// Invariant: never the difference of two clocks. The stamp was set by a kubelet, the API server or an operator
    /// before this one, and by a clock that is an hour ahead of theirs a node would be given up at once, by one
    /// that is behind never. So it is told by for how long this operator has seen the stamp, which is less than
    /// the truth, and no more than the whole wait less. Of a single look there is nothing but the stamp.
    ///
    /// What an operator before this one has watched for as long, and noted with what it began for it, lasts while it
    /// bears the very same stamp: what goes and comes while nobody watches bears another. Without that note whoever
    /// comes in the middle of an operation would take back what it was begun for, and note it; and if it ends by
    /// then, the next would begin again, for ever.
    pub(super) fn has_lasted(&self, whose: &str, stamp: &str, seconds: i64) -> bool {
        let watched = self.seen.answers.lasted(whose, stamp);
        let Some(watched) = watched else {
            return clock::seconds_since(stamp, self.now).unwrap_or(0).max(0) >= seconds;
        };
        let noted = self.recorded.into_iter().flat_map(|begun| &begun.lasted);
        let mut noted = noted.filter(|known| known.of == whose && known.since == stamp);
        let holds = watched >= seconds || noted.any(|known| known.seconds >= seconds);
        if holds {
            let mut lasted = self.lasted.borrow_mut();
            let longest = lasted.entry((whose.to_owned(), stamp.to_owned())).or_insert(seconds);
            *longest = seconds.max(*longest);
        }
        holds
    }

    /// What this look relied on, and what was noted before and is still so: another rung may have decided this time.
    pub(super) fn what_lasted(&self) -> Vec<Lasted> {
        let mut all = self.lasted.borrow().clone();
        let is_so: BTreeSet<Stamp> = stamps(self.seen).into_iter().collect();
        for known in self.recorded.into_iter().flat_map(|begun| &begun.lasted) {
            let stamp = (known.of.clone(), known.since.clone());
            if is_so.contains(&stamp) {
                let longest = all.entry(stamp).or_insert(known.seconds);
                *longest = known.seconds.max(*longest);
            }
        }
        let all = all.into_iter().take(LASTED_MAX);
        all.map(|((of, since), seconds)| Lasted { of, since, seconds }).collect()
    }
}

/// What is waited for by the time since a stamp, to be watched from look to look.
#[must_use]
pub fn stamps(seen: &Seen) -> Vec<Stamp> {
    let pods = seen.pods.values().flat_map(|pod| {
        let stamps = [&pod.not_ready_since, &pod.ready_since, &pod.running_since];
        stamps.into_iter().flatten().map(|stamp| (pod.uid.clone(), stamp.clone()))
    });
    let going = seen.children.values().filter_map(|live| {
        let whose = live["metadata"]["uid"].as_str()?;
        Some((whose.to_owned(), live["metadata"]["deletionTimestamp"].as_str()?.to_owned()))
    });
    let missed = seen.missed().map(|(_, set)| (set.to_owned(), NO_POD.to_owned()));
    let begun = recorded(seen).map(|begun| (of_operation(begun), begun.started_at.clone()));
    let others = growth::stamps(seen).chain(join::stamps(seen));
    pods.chain(going).chain(missed).chain(begun).chain(others).chain(deletion(seen)).collect()
}

/// Of the KvCluster, as a stamp.
pub(super) fn deletion(seen: &Seen) -> Option<Stamp> {
    let metadata = &seen.cluster.metadata;
    Some((metadata.uid.clone()?, clock::text(metadata.deletion_timestamp.as_ref()?.0)))
}

/// By which the stamp of its begin is known.
fn of_operation(operation: &Operation) -> String {
    format!("{} {}", operation.kind, operation.target)
}
