//! What a proposal holds until it is answered.
//!
//! A proposal whose caller has gone (its deadline passed, its connection broke) is not over: its
//! entry waits in openraft, in the log's queue or for a quorum. Were its place given back with the
//! caller, callers that come and go would grow those queues without bound. So the place travels with
//! what answers: openraft holds it for as long as it holds the entry, whoever waits.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use openraft::{OptionalSend, raft::responder::Responder};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use super::{LogId, TypeConfig};
use crate::{
    share::is_fair,
    world::{clock, handoff},
};

/// With so many proposals of a region under way, further ones wait for their answers. Each turn of
/// Raft costs the same for one entry as for many, on every peer: where there are many callers, few
/// large turns answer all of them sooner than many small ones. Where there are fewer, nobody waits.
const UNDER_WAY_MANY: usize = 64;

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
    under_way: Mutex<UnderWay>,
    /// Told when openraft has answered all that were under way.
    answered: Notify,
}

/// Proposals that openraft has.
#[derive(Debug, Default)]
struct UnderWay {
    count: usize,
    /// They were many, and are not all answered: nobody else may go, or who waits would wait for ever.
    many: bool,
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
        Arc::new(Self {
            count_max,
            node_bytes_max,
            count,
            bytes,
            node_bytes,
            under_way: Mutex::default(),
            answered: Notify::new(),
        })
    }

    /// A place for a proposal of `bytes`.
    ///
    /// # Errors
    /// When there is none; nothing is held then.
    pub fn admit(self: &Arc<Self>, bytes: usize) -> Result<Admitted, Full> {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let region = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let node = self.node_bytes.fetch_add(bytes, Ordering::Relaxed);
        let admitted = Admitted { of: Arc::clone(self), bytes, is_under_way: false };
        if count >= self.count_max {
            return Err(Full::Proposals);
        }
        let left = self.node_bytes_max.saturating_sub(node);
        // One command is always let in, however large.
        if node > 0 && (bytes > left || !is_fair(region, bytes, left)) {
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
    is_under_way: bool,
}

impl Admitted {
    /// Waits, when many proposals of the region are under way, until all of them are answered. All that
    /// wait then go together.
    pub async fn wait_for_turn(&self) {
        let mut answered = pin!(self.of.answered.notified());
        {
            let under_way = self.of.under_way.lock();
            if !under_way.many {
                return;
            }
            answered.as_mut().enable();
        }
        answered.await;
    }

    /// Goes to openraft now.
    pub fn set_under_way(&mut self) {
        self.is_under_way = true;
        let mut under_way = self.of.under_way.lock();
        under_way.count += 1;
        under_way.many |= under_way.count >= UNDER_WAY_MANY;
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if self.is_under_way {
            let mut under_way = self.of.under_way.lock();
            under_way.count -= 1;
            if under_way.count == 0 {
                under_way.many = false;
                self.of.answered.notify_waiters();
            }
        }
        self.of.count.fetch_sub(1, Ordering::Relaxed);
        self.of.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.of.node_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Answers whoever proposed, and holds the proposal's place until then. Openraft drops it without an
/// answer when the peer stops.
pub struct Answerer<T> {
    answer: handoff::Sender<Answered<T>>,
    admitted: Admitted,
    committed: Option<Instant>,
}

/// The answer to a proposal.
#[derive(Debug)]
pub struct Answered<T> {
    pub result: T,
    /// When it was on a majority of disks, if it got there.
    pub committed: Option<Instant>,
}

impl<T: Send + 'static> Answerer<T> {
    /// The answerer of a proposal, and where its answer arrives.
    #[must_use]
    pub fn new(admitted: Admitted) -> (Self, oneshot::Receiver<Answered<T>>) {
        let (answer, answered) = handoff::channel();
        (Self { answer, admitted, committed: None }, answered)
    }
}

impl<T: OptionalSend + 'static> Responder<TypeConfig, T> for Answerer<T> {
    fn on_commit(&mut self, _: LogId) {
        self.committed = Some(clock::now());
    }

    fn on_complete(self, result: T) {
        // Ordering: the place is free before the caller can ask for the next.
        drop(self.admitted);
        self.answer.send(Answered { result, committed: self.committed });
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

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

    #[tokio::test]
    async fn many_wait_for_the_answers_of_those_before_and_few_do_not() {
        let region = Admissions::new(1000, 1000, Arc::default());
        let mut under_way = Vec::new();
        for _ in 0..UNDER_WAY_MANY {
            let mut admitted = region.admit(1).unwrap();
            assert!(admitted.wait_for_turn().now_or_never().is_some(), "few");
            admitted.set_under_way();
            under_way.push(admitted);
        }
        let waiting = [region.admit(1).unwrap(), region.admit(1).unwrap()];
        let mut turns = waiting.each_ref().map(|one| Box::pin(one.wait_for_turn()));
        let mut turn = |index: usize| turns[index].as_mut().now_or_never();
        assert!(turn(0).is_none());
        under_way.truncate(1);
        assert!(turn(0).is_none() && turn(1).is_none(), "who comes later does not go before");
        drop(under_way);
        assert!(turn(0).is_some() && turn(1).is_some());
        let later = region.admit(1).unwrap();
        assert!(later.wait_for_turn().now_or_never().is_some(), "few again");
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
