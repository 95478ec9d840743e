//! Several requests of one stream on their way, and their answers in order.
//!
//! Openraft takes an answer for an answer to every request that it has made so far and that ends at
//! or before the acknowledged log id, and concludes that the follower still followed when the newest
//! of them was made. A request without entries, which only tells of a commit, ends where the one
//! before it ends. Were such a one under way when the answer to its forerunner comes, an old answer
//! would prove a new time: a leader that was frozen, and that finds answers from before in its sockets
//! when it goes on, would believe that it still leads and serve an old value.
//!
//! So an answer is held back when a later request ends at the same place; the answer to a later one
//! then stands for both.
//!
//! Entries tell of commits as well. Where writes go on, the next ones are only milliseconds away,
//! and a commit that goes ahead of them costs a message, its answer and a turn of Raft on both
//! sides, per follower. So it waits a little for them, and goes alone when none come.
//!
//! A request is made by reading it from the log. So none is asked for while so much is under way that it
//! could not go: to this follower, or to its node.

use std::{
    collections::VecDeque,
    task::{Context, Poll},
    time::Duration,
};

use futures::{
    Stream, StreamExt,
    stream::{FuturesOrdered, poll_fn},
};
use tokio::time::{Instant, sleep};

use crate::world::known_bad::{self, Fault};

/// Bounds: requests of one stream that are on their way at a time, and their bytes; one is always sent,
/// however large.
const UNDER_WAY_MAX: usize = 32;
const UNDER_WAY_BYTES_MAX: usize = 4 << 20;

/// What a request is to its stream.
pub(super) struct Place<End> {
    /// Where it ends.
    pub(super) end: End,
    /// It has no entries, and tells that all before its end is committed: nobody waits for its answer.
    pub(super) commit_only: bool,
    /// Size of its entries.
    pub(super) bytes: usize,
}

/// An answer, and whether it acknowledges all of its request.
pub(super) type Answer<T, E> = Result<(T, bool), E>;

struct UnderWay<End> {
    end: End,
    bytes: usize,
    /// A later request was made that ends here.
    is_followed: bool,
}

/// Sends what comes, and gives the answers in the order of the requests, without those that a later
/// answer stands for. What only tells of a commit waits up to `patience` to be told by entries. Nothing
/// is asked for or sent before `gate` opens. `send` starts a request at once.
pub(super) fn pipeline<R, End, T, E, F>(
    mut requests: impl Stream<Item = R> + Unpin,
    patience: Duration,
    place: impl Fn(&R) -> Place<End>,
    mut gate: impl FnMut(&mut Context<'_>) -> Poll<()>,
    mut send: impl FnMut(R) -> F,
) -> impl Stream<Item = Answer<T, E>>
where
    End: PartialEq + Clone,
    F: Future<Output = Answer<T, E>>,
{
    let mut answers = FuturesOrdered::new();
    let mut under_way: VecDeque<UnderWay<End>> = VecDeque::new();
    let mut under_way_bytes = 0;
    let mut sent_upto: Option<End> = None;
    // Tells of a commit, and waits for entries that do so as well.
    let mut waiting: Option<R> = None;
    // To be sent as soon as the gate is open, which may have closed since it was asked for.
    let mut next_out: Option<R> = None;
    let mut patience_ends = Box::pin(sleep(Duration::ZERO));
    let mut more = true;
    poll_fn(move |cx| {
        loop {
            // Answers first: what is not made yet holds up none.
            if let Poll::Ready(Some(answer)) = answers.poll_next_unpin(cx) {
                let answered = under_way.pop_front();
                under_way_bytes -= answered.as_ref().map_or(0, |of| of.bytes);
                let is_followed =
                    answered.is_some_and(|of| of.is_followed) && !known_bad::is(Fault::StaleAnswer);
                if matches!(&answer, Ok((_, true)) if is_followed) {
                    continue;
                }
                return Poll::Ready(Some(answer));
            }
            let has_room = under_way.len() < UNDER_WAY_MAX && under_way_bytes < UNDER_WAY_BYTES_MAX;
            if has_room && gate(cx).is_ready() {
                if next_out.is_none() {
                    let next = if more { requests.poll_next_unpin(cx) } else { Poll::Ready(None) };
                    more = !matches!(next, Poll::Ready(None));
                    next_out = match next {
                        Poll::Ready(Some(request)) => {
                            let Place { end, commit_only, .. } = place(&request);
                            if let Some(last) = under_way.back_mut() {
                                last.is_followed |= last.end == end;
                            }
                            if commit_only && sent_upto.as_ref() == Some(&end) {
                                if waiting.replace(request).is_none() {
                                    patience_ends.as_mut().reset(Instant::now() + patience);
                                }
                                continue;
                            }
                            waiting = None;
                            Some(request)
                        }
                        Poll::Ready(None) => waiting.take(),
                        Poll::Pending if waiting.is_none() => None,
                        Poll::Pending => match patience_ends.as_mut().poll(cx) {
                            Poll::Ready(()) => waiting.take(),
                            Poll::Pending => None,
                        },
                    };
                    if next_out.is_some() {
                        continue;
                    }
                } else if let Some(request) = next_out.take() {
                    let Place { end, bytes, .. } = place(&request);
                    sent_upto = Some(end.clone());
                    under_way_bytes += bytes;
                    under_way.push_back(UnderWay { end, bytes, is_followed: false });
                    answers.push_back(send(request));
                    continue;
                }
            }
            let is_over = !more && under_way.is_empty() && next_out.is_none() && waiting.is_none();
            return if is_over { Poll::Ready(None) } else { Poll::Pending };
        }
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures::FutureExt;
    use tokio::sync::{mpsc, oneshot};
    use tokio_stream::wrappers::UnboundedReceiverStream;

    use super::*;

    /// Longer than any test.
    const LONG: Duration = Duration::from_secs(3600);

    type Told = Answer<&'static str, &'static str>;

    /// A request, and how it will be answered.
    struct Request {
        end: u64,
        commit_only: bool,
        bytes: usize,
        answer: oneshot::Receiver<Told>,
    }

    /// Both sides of a pipeline.
    struct Fixture<S> {
        requests: mpsc::UnboundedSender<Request>,
        answers: S,
        sent: std::rc::Rc<Cell<usize>>,
        closed: std::rc::Rc<Cell<bool>>,
    }

    fn fixture(patience: Duration) -> Fixture<impl Stream<Item = Told> + Unpin> {
        let (requests, receiver) = mpsc::unbounded_channel();
        let sent = std::rc::Rc::new(Cell::new(0));
        let counter = std::rc::Rc::clone(&sent);
        let closed = std::rc::Rc::new(Cell::new(false));
        let gate = std::rc::Rc::clone(&closed);
        let answers = pipeline(
            UnboundedReceiverStream::new(receiver),
            patience,
            |request: &Request| Place {
                end: request.end,
                commit_only: request.commit_only,
                bytes: request.bytes,
            },
            move |_| if gate.get() { Poll::Pending } else { Poll::Ready(()) },
            move |request| {
                counter.set(counter.get() + 1);
                request.answer.map(|answer| answer.expect("answered"))
            },
        );
        Fixture { requests, answers: answers.boxed_local(), sent, closed }
    }

    impl<S: Stream<Item = Told> + Unpin> Fixture<S> {
        fn request(&self, end: u64, commit_only: bool) -> oneshot::Sender<Told> {
            self.request_of(end, commit_only, 0)
        }

        fn request_of(&self, end: u64, commit_only: bool, bytes: usize) -> oneshot::Sender<Told> {
            let (sender, answer) = oneshot::channel();
            let request = Request { end, commit_only, bytes, answer };
            assert!(self.requests.send(request).is_ok(), "taken");
            sender
        }

        /// The answer that there is now.
        fn now(&mut self) -> Option<Told> {
            self.answers.next().now_or_never().map(|answer| answer.expect("not over"))
        }
    }

    #[tokio::test]
    async fn answer_to_entries_does_not_answer_a_later_commit() {
        let mut pipe = fixture(LONG);
        let entries = pipe.request(5, false);
        assert_eq!(pipe.now(), None, "under way");
        let commit = pipe.request(5, false);
        assert_eq!(pipe.now(), None, "both are under way");
        entries.send(Ok(("entries", true))).expect("awaited");
        assert_eq!(pipe.now(), None, "it would count for the commit as well");
        commit.send(Ok(("commit", true))).expect("awaited");
        assert_eq!(pipe.now(), Some(Ok(("commit", true))));
        drop(pipe.requests);
        assert_eq!(pipe.answers.next().await, None);
    }

    #[tokio::test]
    async fn answer_is_told_at_once_when_nothing_later_ends_where_it_does() {
        for later in [8, 5] {
            let mut pipe = fixture(LONG);
            let first = pipe.request(5, false);
            let _second = if later == 8 {
                let second = pipe.request(later, false);
                assert_eq!(pipe.now(), None, "both are under way");
                first.send(Ok(("first", true))).expect("awaited");
                second
            } else {
                assert_eq!(pipe.now(), None);
                first.send(Ok(("first", true))).expect("awaited");
                // Not made yet, from the point of view of whoever asks for the answer.
                pipe.request(later, false)
            };
            assert_eq!(pipe.now(), Some(Ok(("first", true))), "{later}");
        }
    }

    #[tokio::test]
    async fn failures_are_told_whatever_follows() {
        for failure in [Err("broken"), Ok(("conflict", false))] {
            for commit_only in [false, true] {
                let mut pipe = fixture(LONG);
                let first = pipe.request(5, false);
                let _second = pipe.request(5, commit_only);
                assert_eq!(pipe.now(), None);
                first.send(failure).expect("awaited");
                assert_eq!(pipe.now(), Some(failure));
            }
        }
    }

    #[tokio::test]
    async fn commit_is_told_by_the_entries_that_come_soon() {
        let mut pipe = fixture(LONG);
        let first = pipe.request(5, false);
        assert_eq!(pipe.now(), None);
        let _commit = pipe.request(5, true);
        assert_eq!(pipe.now(), None);
        assert_eq!(pipe.sent.get(), 1, "the commit waits");
        first.send(Ok(("first", true))).expect("awaited");
        assert_eq!(pipe.now(), None, "it would count for the commit as well");
        let next = pipe.request(6, false);
        assert_eq!(pipe.now(), None);
        next.send(Ok(("next", true))).expect("awaited");
        assert_eq!(pipe.now(), Some(Ok(("next", true))));
        drop(pipe.requests);
        assert_eq!(pipe.answers.next().await, None);
        assert_eq!(pipe.sent.get(), 2, "the commit never went alone");
    }

    #[tokio::test]
    async fn old_answer_does_not_answer_a_commit_that_entries_told() {
        let mut pipe = fixture(LONG);
        let first = pipe.request(5, false);
        assert_eq!(pipe.now(), None);
        let _commit = pipe.request(5, true);
        assert_eq!(pipe.now(), None);
        let _next = pipe.request(6, false);
        assert_eq!(pipe.now(), None);
        first.send(Ok(("first", true))).expect("awaited");
        assert_eq!(pipe.now(), None, "openraft made the commit after it");
    }

    #[tokio::test]
    async fn commit_goes_alone_when_nothing_comes() {
        let patience = Duration::from_millis(25);
        let mut pipe = fixture(patience);
        pipe.request(5, false).send(Ok(("first", true))).expect("awaited");
        assert_eq!(pipe.now(), Some(Ok(("first", true))));
        let started = Instant::now();
        let (_earlier, commit) = (pipe.request(5, true), pipe.request(5, true));
        commit.send(Ok(("commit", true))).expect("awaited");
        assert_eq!(pipe.answers.next().await, Some(Ok(("commit", true))));
        assert!(started.elapsed() >= patience);
        assert_eq!(pipe.sent.get(), 2, "the earlier of the two is told by the later");
    }

    #[tokio::test]
    async fn waits_with_nothing_that_could_be_asked_for() {
        let mut pipe = fixture(LONG);
        let _probe = pipe.request(5, true);
        assert_eq!(pipe.now(), None);
        assert_eq!(pipe.sent.get(), 1, "the first of a stream asks where the follower is");
        let _commit = pipe.request(5, true);
        assert_eq!(pipe.now(), None);
        assert_eq!(pipe.sent.get(), 1);
        drop(pipe.requests);
        assert_eq!(pipe.answers.next().now_or_never(), None);
        assert_eq!(pipe.sent.get(), 2, "nothing will come that could tell it");
    }

    #[tokio::test]
    async fn no_more_than_the_bounds_are_under_way() {
        for (why, bytes, most) in [
            ("small ones", 100, UNDER_WAY_MAX),
            ("large ones", 1 << 20, UNDER_WAY_BYTES_MAX >> 20),
            ("one that is larger than the bound", 2 * UNDER_WAY_BYTES_MAX, 1),
        ] {
            let mut pipe = fixture(LONG);
            let mut made: VecDeque<_> =
                (0..100).map(|end| pipe.request_of(end, false, bytes)).collect();
            assert_eq!(pipe.now(), None);
            assert_eq!(pipe.sent.get(), most, "{why}");
            made.pop_front().expect("a hundred").send(Ok(("first", true))).expect("awaited");
            assert_eq!(pipe.now(), Some(Ok(("first", true))), "{why}");
            assert_eq!(pipe.now(), None);
            assert_eq!(pipe.sent.get(), most + 1, "{why}: an answer makes room");
        }
    }

    #[tokio::test]
    async fn nothing_is_asked_for_while_the_gate_is_closed() {
        let mut pipe = fixture(LONG);
        let first = pipe.request(5, false);
        assert_eq!(pipe.now(), None);
        pipe.closed.set(true);
        let _second = pipe.request(6, false);
        drop(pipe.requests);
        first.send(Ok(("first", true))).expect("awaited");
        assert_eq!(pipe.answers.next().now_or_never(), Some(Some(Ok(("first", true)))));
        assert_eq!(pipe.answers.next().now_or_never(), None, "one is left");
        assert_eq!(pipe.sent.get(), 1);
        pipe.closed.set(false);
        assert_eq!(pipe.answers.next().now_or_never(), None, "it is under way");
        assert_eq!(pipe.sent.get(), 2);
    }
}
