//! What a proposal holds until it is answered.
//!
//! A proposal whose caller has gone (its deadline passed, its connection broke) is not over: its
//! entry waits in openraft, in the log's queue or for a quorum. Were its place given back with the
//! caller, callers that come and go would grow those queues without bound. So the place travels with
//! what answers: openraft holds it for as long as it holds the entry, whoever waits.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use openraft::{OptionalSend, raft::responder::Responder};
use tokio::sync::oneshot;

use super::TypeConfig;
use crate::handoff;

/// A region takes at most so many times the bytes that it leaves to all others: one that has lost
/// its quorum keeps what it has for long, and others must go on.
const SHARE: usize = 4;

/// Bounds the proposals of one region, and the bytes of all regions of a node.
#[derive(Debug)]
pub struct Admissions {
    /// Bound: proposals of the region without an answer.
    count_max: usize,
    /// Bound: bytes of them over the node.
    node_bytes_max: usize,
    count: AtomicUsize,
    bytes: AtomicUsize,
    node_bytes: Arc<AtomicUsize>,
}

/// Which bound is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    Proposals,
    Bytes,
}

impl Admissions {
    /// `node_bytes` is shared by all regions of the node.
    #[must_use]
    pub fn new(count_max: usize, node_bytes_max: usize, node_bytes: Arc<AtomicUsize>) -> Arc<Self> {
        let (count, bytes) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { count_max, node_bytes_max, count, bytes, node_bytes })
    }

    /// A place for a proposal of `bytes`.
    ///
    /// # Errors
    /// When there is none; nothing is held then.
    pub fn admit(self: &Arc<Self>, bytes: usize) -> Result<Admitted, Full> {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let region = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let node = self.node_bytes.fetch_add(bytes, Ordering::Relaxed);
        let admitted = Admitted { of: Arc::clone(self), bytes };
        if count >= self.count_max {
            return Err(Full::Proposals);
        }
        let left = self.node_bytes_max.saturating_sub(node);
        let fair = region == 0 || region + bytes <= left.saturating_mul(SHARE);
        // One command is always let in, however large.
        if node > 0 && (bytes > left || !fair) {
            return Err(Full::Bytes);
        }
        Ok(admitted)
    }

    /// Proposals without an answer.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

/// A place among the proposals without an answer, given back on drop.
#[derive(Debug)]
pub struct Admitted {
    of: Arc<Admissions>,
    bytes: usize,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.of.count.fetch_sub(1, Ordering::Relaxed);
        self.of.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.of.node_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Answers whoever proposed, and holds the proposal's place until then. Openraft drops it without an
/// answer when the peer stops.
pub struct Answerer<T> {
    answer: handoff::Sender<T>,
    admitted: Admitted,
}

impl<T: Send + 'static> Answerer<T> {
    /// The answerer of a proposal, and where its answer arrives.
    #[must_use]
    pub fn new(admitted: Admitted) -> (Self, oneshot::Receiver<T>) {
        let (answer, answered) = handoff::channel();
        (Self { answer, admitted }, answered)
    }
}

impl<T: OptionalSend + 'static> Responder<TypeConfig, T> for Answerer<T> {
    fn on_complete(self, result: T) {
        // Ordering: the place is free before the caller can ask for the next.
        drop(self.admitted);
        self.answer.send(result);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_given_back_with_the_answer() {
        let node_bytes = Arc::new(AtomicUsize::new(0));
        let region = Admissions::new(2, 1000, Arc::clone(&node_bytes));
        let (first, _gone) = Answerer::<u8>::new(region.admit(100).unwrap());
        let (second, answered) = Answerer::<u8>::new(region.admit(100).unwrap());
        assert_eq!(region.admit(1).unwrap_err(), Full::Proposals);
        assert_eq!((region.count(), node_bytes.load(Ordering::Relaxed)), (2, 200));
        drop(answered); // whoever asked has gone, the proposal has not
        assert_eq!(region.count(), 2);
        second.on_complete(7);
        assert_eq!(region.count(), 1);
        drop(first); // as openraft does when the peer stops
        assert_eq!((region.count(), node_bytes.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn bytes_are_bounded_over_the_node_and_shared_between_regions() {
        let node_bytes = Arc::new(AtomicUsize::new(0));
        let region = || Admissions::new(100, 1000, Arc::clone(&node_bytes));
        let (stuck, other) = (region(), region());
        let huge = stuck.admit(5000).unwrap();
        assert_eq!(other.admit(1).unwrap_err(), Full::Bytes, "beside one that fills it all");
        drop(huge);
        let mut held = Vec::new();
        while let Ok(admitted) = stuck.admit(10) {
            held.push(admitted);
        }
        assert_eq!(held.len(), 80, "four times what it leaves");
        let all_of_the_rest = other.admit(200).unwrap();
        assert_eq!(region().admit(1).unwrap_err(), Full::Bytes);
        drop((held, all_of_the_rest));
        assert_eq!(node_bytes.load(Ordering::Relaxed), 0);
    }
}
