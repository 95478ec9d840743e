//! Who may come in: bounded numbers of calls, and bounded bytes of bodies being received.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::{limits::Limits, observer::Class};
use crate::error::Error;

/// When a refused caller should try again: long enough for hundreds of calls to finish.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// The queues of this hop, shared by the gRPC and the HTTP port of a node.
#[derive(Clone, Debug)]
pub struct Admission {
    requests: Arc<Gate>,
    scans: Arc<Gate>,
    cluster: Arc<Gate>,
    receive: Arc<Gate>,
}

impl Admission {
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self {
            requests: Gate::new("requests", limits.requests_in_flight_max),
            scans: Gate::new("scans", limits.scans_in_flight_max),
            cluster: Gate::new("cluster", limits.cluster_in_flight_max),
            receive: Gate::new("receive", limits.receive_bytes_max),
        }
    }

    /// A place for one call, given back when it is dropped. `None` for a class without a queue.
    ///
    /// # Errors
    ///
    /// `Busy`, at once, when the class has no place.
    pub(super) fn admit(&self, class: Class) -> Result<Option<Permit>, Error> {
        let gate = match class {
            Class::Request => &self.requests,
            Class::Scan => &self.scans,
            Class::Cluster => &self.cluster,
            Class::Free => return Ok(None),
        };
        gate.take(1).map(Some)
    }

    /// Bytes of bodies being received.
    pub(super) fn receive(&self) -> &Arc<Gate> {
        &self.receive
    }

    /// How often each queue has refused somebody since the start, by the queue's name.
    #[must_use]
    pub fn refused(&self) -> [(&'static str, u64); 4] {
        [&self.requests, &self.scans, &self.cluster, &self.receive]
            .map(|gate| (gate.name, gate.refused.load(Ordering::Relaxed)))
    }
}

/// A bounded number of something.
///
/// Invariant: `taken` is the sum of the permits that exist, at most `max`.
#[derive(Debug)]
pub(super) struct Gate {
    name: &'static str,
    max: usize,
    taken: AtomicUsize,
    /// Times that nothing was given.
    refused: AtomicU64,
}

impl Gate {
    fn new(name: &'static str, max: usize) -> Arc<Self> {
        Arc::new(Self { name, max, taken: AtomicUsize::new(0), refused: AtomicU64::new(0) })
    }

    pub(super) fn take(self: &Arc<Self>, count: usize) -> Result<Permit, Error> {
        self.reserve(count)?;
        Ok(Permit { gate: Arc::clone(self), count })
    }

    fn reserve(&self, count: usize) -> Result<(), Error> {
        // Relaxed: the number guards no other memory.
        let taken = self.taken.fetch_add(count, Ordering::Relaxed);
        if taken + count <= self.max {
            return Ok(());
        }
        self.taken.fetch_sub(count, Ordering::Relaxed);
        self.refused.fetch_add(1, Ordering::Relaxed);
        Err(Error::Busy { queue: self.name.into(), retry_after: RETRY_AFTER })
    }
}

/// A share of a [`Gate`], given back when it is dropped.
#[derive(Debug)]
pub(super) struct Permit {
    gate: Arc<Gate>,
    count: usize,
}

impl Permit {
    /// Takes more of the same gate.
    pub(super) fn grow(&mut self, count: usize) -> Result<(), Error> {
        self.gate.reserve(count)?;
        self.count += count;
        Ok(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.gate.taken.fetch_sub(self.count, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_queue_refuses_until_a_place_is_given_back() {
        let limits = Limits { requests_in_flight_max: 2, ..Limits::default() };
        let admission = Admission::new(&limits);
        let first = admission.admit(Class::Request).expect("empty");
        let second = admission.admit(Class::Request).expect("one place left");
        match admission.admit(Class::Request) {
            Err(Error::Busy { queue, retry_after }) => {
                assert_eq!(queue, "requests");
                assert!(!retry_after.is_zero());
            }
            other => panic!("a full queue let {other:?} in"),
        }
        assert!(admission.admit(Class::Scan).is_ok(), "the queues are apart");
        let refused = admission.refused();
        assert_eq!(refused, [("requests", 1), ("scans", 0), ("cluster", 0), ("receive", 0)]);
        assert!(admission.admit(Class::Free).expect("no queue").is_none());
        drop(first);
        let third = admission.admit(Class::Request).expect("a place was given back");
        assert!(admission.admit(Class::Request).is_err());
        drop((second, third));
        assert_eq!(admission.requests.taken.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn refused_growth_takes_nothing() {
        let gate = Gate::new("receive", 10);
        let mut permit = gate.take(4).expect("4 of 10");
        permit.grow(6).expect("10 of 10");
        assert!(permit.grow(1).is_err());
        assert_eq!(gate.taken.load(Ordering::Relaxed), 10);
        drop(permit);
        assert_eq!(gate.taken.load(Ordering::Relaxed), 0);
    }
}
