//! Who may come in: bounded numbers of calls and connections, and bounded bytes of bodies that are
//! being received and of answers that are being read.

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
    requests: Arc<InFlight>,
    scans: Arc<InFlight>,
    cluster: Arc<InFlight>,
    receive: Arc<InFlight>,
    answers: Arc<InFlight>,
    pages: Arc<InFlight>,
    client_connections: Arc<InFlight>,
    http_connections: Arc<InFlight>,
}

impl Admission {
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self {
            requests: InFlight::new("requests", limits.requests_in_flight_max),
            scans: InFlight::new("scans", limits.scans_in_flight_max),
            cluster: InFlight::new("cluster", limits.cluster_in_flight_max),
            receive: InFlight::new("receive", limits.receive_bytes_max),
            answers: InFlight::new("answers", limits.answers_held_bytes_max),
            pages: InFlight::new("scans", limits.pages_held_bytes_max),
            client_connections: InFlight::new("connections", limits.connections_max),
            http_connections: InFlight::new("connections", limits.connections_max),
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
    pub(super) fn receive(&self) -> &Arc<InFlight> {
        &self.receive
    }

    /// Bytes of answers that their clients have not read yet.
    pub(super) fn answers(&self) -> &Arc<InFlight> {
        &self.answers
    }

    /// Bytes of pages of scans that their clients have not read yet.
    pub(super) fn pages(&self) -> &Arc<InFlight> {
        &self.pages
    }

    /// The places of the gRPC port, whichever thread serves a connection.
    #[must_use]
    pub fn client_connections(&self) -> Places {
        Places(Arc::clone(&self.client_connections))
    }

    /// The places of the HTTP port.
    #[must_use]
    pub fn http_connections(&self) -> Places {
        Places(Arc::clone(&self.http_connections))
    }

    /// How often each queue has refused somebody since the start, by the queue's name.
    #[must_use]
    pub fn refused(&self) -> [(&'static str, u64); 6] {
        let refused = |gate: &InFlight| gate.refused.load(Ordering::Relaxed);
        let connections = refused(&self.client_connections) + refused(&self.http_connections);
        let [requests, scans, cluster, receive, answers] =
            [&self.requests, &self.scans, &self.cluster, &self.receive, &self.answers]
                .map(|gate| (gate.name, refused(gate)));
        let scans = (scans.0, scans.1 + refused(&self.pages));
        [requests, scans, cluster, receive, answers, ("connections", connections)]
    }
}

/// The connections that one port may have open.
#[derive(Clone, Debug)]
pub struct Places(Arc<InFlight>);

impl Places {
    #[must_use]
    pub fn new(connections_max: usize) -> Self {
        Self(InFlight::new("connections", connections_max))
    }

    /// A place for one connection, given back when it is dropped; `None` when all are taken.
    pub(super) fn take(&self) -> Option<Permit> {
        self.0.take(1).ok()
    }
}

/// A bounded number of something.
///
/// Invariant: `taken` is the sum of the permits that exist, at most `max`, or twice that with
/// [`InFlight::take_late`].
#[derive(Debug)]
pub(super) struct InFlight {
    name: &'static str,
    max: usize,
    taken: AtomicUsize,
    /// Times that nothing was given.
    refused: AtomicU64,
}

impl InFlight {
    pub(super) fn new(name: &'static str, max: usize) -> Arc<Self> {
        Arc::new(Self { name, max, taken: AtomicUsize::new(0), refused: AtomicU64::new(0) })
    }

    pub(super) fn take(self: &Arc<Self>, count: usize) -> Result<Permit, Error> {
        self.reserve(count)?;
        Ok(Permit { gate: Arc::clone(self), count })
    }

    /// How much could be taken now.
    pub(super) fn room(&self) -> usize {
        self.max.saturating_sub(self.taken.load(Ordering::Relaxed))
    }

    /// As [`InFlight::take`] for somebody who is refused last: whose work is done already and would be lost.
    /// He finds as much room again as all others have.
    pub(super) fn take_late(self: &Arc<Self>, count: usize) -> Result<Permit, Error> {
        self.reserve_below(count, self.max.saturating_mul(2))?;
        Ok(Permit { gate: Arc::clone(self), count })
    }

    fn reserve(&self, count: usize) -> Result<(), Error> {
        self.reserve_below(count, self.max)
    }

    fn reserve_below(&self, count: usize, max: usize) -> Result<(), Error> {
        let room = |taken: usize| taken.checked_add(count).filter(|sum| *sum <= max);
        // Relaxed: the number guards no other memory. Nothing is counted of who is refused, so that a large
        // one that finds no room does not keep a small one out for a moment.
        if self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok() {
            return Ok(());
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
        Err(Error::Busy { queue: self.name.into(), retry_after: RETRY_AFTER })
    }
}

/// A share of a [`InFlight`], given back when it is dropped.
#[derive(Debug)]
pub(super) struct Permit {
    gate: Arc<InFlight>,
    count: usize,
}

impl Permit {
    /// Gives back what is beyond `count`.
    pub(super) fn keep(&mut self, count: usize) {
        let back = self.count.saturating_sub(count);
        self.gate.taken.fetch_sub(back, Ordering::Relaxed);
        self.count -= back;
    }

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
        let others =
            ["scans", "cluster", "receive", "answers", "connections"].map(|name| (name, 0));
        assert_eq!(refused[..], [&[("requests", 1)], &others[..]].concat());
        assert!(admission.admit(Class::Free).expect("no queue").is_none());
        drop(first);
        let third = admission.admit(Class::Request).expect("a place was given back");
        assert!(admission.admit(Class::Request).is_err());
        drop((second, third));
        assert_eq!(admission.requests.taken.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn refused_growth_takes_nothing() {
        let gate = InFlight::new("receive", 10);
        let mut permit = gate.take(4).expect("4 of 10");
        permit.grow(6).expect("10 of 10");
        assert!(permit.grow(1).is_err());
        assert_eq!(gate.taken.load(Ordering::Relaxed), 10);
        drop(permit);
        assert_eq!(gate.taken.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn who_is_refused_takes_no_room_from_others_not_even_for_a_moment() {
        let gate = InFlight::new("receive", 1000);
        std::thread::scope(|scope| {
            let large = scope.spawn(|| (0..100_000).filter(|_| gate.take(1001).is_ok()).count());
            for _ in 0..100_000 {
                gate.take(1000).expect("all of the room is free");
            }
            assert_eq!(large.join().expect("no panic"), 0);
        });
    }

    #[test]
    fn late_ones_have_as_much_room_again() {
        let gate = InFlight::new("answers", 10);
        let first = gate.take(10).expect("room");
        assert!(gate.take(1).is_err());
        let late = gate.take_late(10).expect("room for what is done already");
        assert!(gate.take_late(1).is_err(), "bounded all the same");
        drop(first);
        assert!(gate.take(1).is_err(), "what the late one took counts");
        drop(late);
        gate.take(10).expect("given back");
    }
}
