//! Several requests of one stream on their way, and their answers in order.
//!
//! Openraft takes an answer for an answer to every request that it has made so far and that ends at
//! or before the acknowledged log id, and concludes that the follower still followed when the newest
//! of them was made. A request without entries, which only tells of a commit, ends where the one
//! before it ends. Were such a one under way when the answer to its forerunner comes, an old answer
//! would prove a new time: a leader that was frozen, and that finds answers from before in its sockets
//! when it goes on, would believe that it still leads and serve an old value.
//!
//! So an answer is held back while a later request that ends at the same place is under way; the
//! answer to that one then stands for both.

use std::{collections::VecDeque, task::Poll};

use futures::{
    Stream, StreamExt,
    stream::{FuturesOrdered, poll_fn},
};

/// Bound: requests of one stream that are on their way at a time.
const UNDER_WAY_MAX: usize = 32;

/// An answer, and whether it acknowledges all of its request.
pub(super) type Answer<T, E> = Result<(T, bool), E>;

/// Sends what comes, and gives the answers in the order of the requests, without those that a later
/// answer stands for. `send` starts a request at once and tells where it ends.
pub(super) fn pipeline<R, End, T, E, F>(
    mut requests: impl Stream<Item = R> + Unpin,
    mut send: impl FnMut(R) -> (End, F),
) -> impl Stream<Item = Answer<T, E>>
where
    End: PartialEq,
    F: Future<Output = Answer<T, E>>,
{
    let mut answers = FuturesOrdered::new();
    let mut ends = VecDeque::new();
    let mut more = true;
    poll_fn(move |cx| {
        loop {
            // Answers first: what is not made yet holds up none.
            if let Poll::Ready(Some(answer)) = answers.poll_next_unpin(cx) {
                let end: Option<End> = ends.pop_front();
                let is_followed = end.as_ref() == ends.front();
                if matches!(&answer, Ok((_, true)) if is_followed) {
                    continue;
                }
                return Poll::Ready(Some(answer));
            }
            if more && ends.len() < UNDER_WAY_MAX {
                match requests.poll_next_unpin(cx) {
                    Poll::Ready(Some(request)) => {
                        let (end, answer) = send(request);
                        ends.push_back(end);
                        answers.push_back(answer);
                        continue;
                    }
                    Poll::Ready(None) => more = false,
                    Poll::Pending => {}
                }
            }
            let is_over = !more && ends.is_empty();
            return if is_over { Poll::Ready(None) } else { Poll::Pending };
        }
    })
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::sync::{mpsc, oneshot};
    use tokio_stream::wrappers::UnboundedReceiverStream;

    use super::*;

    /// A request by the place where it ends, and how it will be answered.
    type Request = (u64, oneshot::Receiver<Answer<&'static str, &'static str>>);

    fn requests() -> (mpsc::UnboundedSender<Request>, UnboundedReceiverStream<Request>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (sender, UnboundedReceiverStream::new(receiver))
    }

    fn started(
        requests: UnboundedReceiverStream<Request>,
    ) -> impl Stream<Item = Answer<&'static str, &'static str>> + Unpin {
        pipeline(requests, |(end, answer)| (end, answer.map(|answer| answer.expect("answered"))))
            .boxed_local()
    }

    #[tokio::test]
    async fn answer_to_entries_does_not_answer_a_later_commit() {
        let (sender, receiver) = requests();
        let mut answers = started(receiver);
        let (entries, answer) = oneshot::channel();
        sender.send((5, answer)).expect("taken");
        assert_eq!(answers.next().now_or_never(), None, "under way");
        let (commit, answer) = oneshot::channel();
        sender.send((5, answer)).expect("taken");
        assert_eq!(answers.next().now_or_never(), None, "both are under way");
        entries.send(Ok(("entries", true))).expect("awaited");
        assert_eq!(answers.next().now_or_never(), None, "it would count for the commit as well");
        commit.send(Ok(("commit", true))).expect("awaited");
        assert_eq!(answers.next().await, Some(Ok(("commit", true))));
        drop(sender);
        assert_eq!(answers.next().await, None);
    }

    #[tokio::test]
    async fn answer_is_told_at_once_when_nothing_later_ends_where_it_does() {
        for later in [8, 5] {
            let (sender, receiver) = requests();
            let mut answers = started(receiver);
            let (first, answer) = oneshot::channel();
            sender.send((5, answer)).expect("taken");
            let (_second, answer) = oneshot::channel();
            if later == 8 {
                sender.send((later, answer)).expect("taken");
                assert_eq!(answers.next().now_or_never(), None, "both are under way");
                first.send(Ok(("first", true))).expect("awaited");
            } else {
                assert_eq!(answers.next().now_or_never(), None);
                first.send(Ok(("first", true))).expect("awaited");
                // Not made yet, from the point of view of whoever asks for the answer.
                sender.send((later, answer)).expect("taken");
            }
            assert_eq!(answers.next().now_or_never(), Some(Some(Ok(("first", true)))), "{later}");
        }
    }

    #[tokio::test]
    async fn failures_are_told_whatever_follows() {
        for failure in [Err("broken"), Ok(("conflict", false))] {
            let (sender, receiver) = requests();
            let mut answers = started(receiver);
            let (first, answer) = oneshot::channel();
            sender.send((5, answer)).expect("taken");
            let (_second, answer) = oneshot::channel();
            sender.send((5, answer)).expect("taken");
            assert_eq!(answers.next().now_or_never(), None);
            first.send(failure).expect("awaited");
            assert_eq!(answers.next().now_or_never(), Some(Some(failure)));
        }
    }

    #[tokio::test]
    async fn no_more_than_the_bound_are_under_way() {
        let started = std::cell::Cell::new(0);
        let requests = futures::stream::iter(0..100);
        let mut answers = pipeline(requests, |end| {
            started.set(started.get() + 1);
            (end, std::future::pending::<Answer<(), ()>>())
        })
        .boxed_local();
        assert_eq!(answers.next().now_or_never(), None);
        assert_eq!(started.get(), UNDER_WAY_MAX);
    }
}
