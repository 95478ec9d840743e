//! A connection to a node whose answers are bounded before they are decoded.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use flotilla_proto::wire::{FieldCount, TooManyFields};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::{
    sync::{AcquireError, OwnedSemaphorePermit, Semaphore},
    time::Sleep,
};
use tonic::{
    Status,
    body::Body,
    codegen::{Bytes, Service, http},
    transport::Channel,
};

/// Bound: bytes of one answer. A server's pages and its node table stay well below.
pub(super) const BYTES_MAX: usize = 4 << 20;
/// Bound: fields at the top of one answer, which are the peers of a page, the rows of the table and the
/// reasons not to be ready. Two bytes of an answer can become hundreds in memory: with this they become
/// tens of megabytes at most.
const FIELDS_MAX: usize = 1 << 16;
/// Bound: answers that are read at once in one look. With what one may become, and how many clusters are worked on at
/// a time (`operator.concurrency`), it bounds the memory that looks take.
const READ_AT_ONCE: usize = 2;
/// Bound: an answer of which the head has come is whole by then, from when its turn to be read has come.
const READ: Duration = Duration::from_secs(1);

/// Places for answers, of one look. Only what is being read needs one: a node that does not answer takes none, so that
/// all that hang are waited for side by side. No two clusters share them.
#[derive(Clone, Debug)]
pub(crate) struct Places(Arc<Semaphore>);

impl Places {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(READ_AT_ONCE)))
    }
}

/// A channel that reads no more of an answer than it may have.
#[derive(Clone, Debug)]
pub(crate) struct Bounded(Channel, Places);

impl Bounded {
    pub(super) fn new(channel: Channel, places: &Places) -> Self {
        Self(channel, places.clone())
    }
}

impl Service<http::Request<Body>> for Bounded {
    type Response = http::Response<Counted<Body>>;
    type Error = tonic::transport::Error;
    type Future = Answer;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Answer(self.0.call(request), self.1.clone())
    }
}

/// The head of an answer, while it is awaited.
pub(crate) struct Answer(<Channel as Service<http::Request<Body>>>::Future, Places);

impl Future for Answer {
    type Output = Result<http::Response<Counted<Body>>, tonic::transport::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.0).poll(cx));
        Poll::Ready(answer.map(|answer| answer.map(|body| Counted::new(body, &self.1))))
    }
}

/// The body of an answer, which ends with an error where it has more than is accepted.
pub(crate) struct Counted<B> {
    inner: B,
    fields: FieldCount,
    turn: Turn,
}

type Place = Result<OwnedSemaphorePermit, AcquireError>;

enum Turn {
    Comes(Pin<Box<dyn Future<Output = Place> + Send>>),
    /// Until then. Nobody closes the places; were it so, reading without one would be right.
    Is(Pin<Box<Sleep>>, #[expect(dead_code, reason = "held until all is read")] Place),
}

impl<B> Counted<B> {
    fn new(inner: B, places: &Places) -> Self {
        let turn = Turn::Comes(Box::pin(Arc::clone(&places.0).acquire_owned()));
        Self { inner, fields: FieldCount::new(FIELDS_MAX), turn }
    }

    /// Answers whether there is time left to read.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if let Turn::Comes(place) = &mut self.turn {
            let place = ready!(place.as_mut().poll(cx));
            self.turn = Turn::Is(Box::pin(tokio::time::sleep(READ)), place);
        }
        Poll::Ready(match &mut self.turn {
            Turn::Comes(_) => true,
            Turn::Is(until, _) => until.as_mut().poll(cx).is_pending(),
        })
    }
}

impl<B> HttpBody for Counted<B>
where
    B: HttpBody<Data = Bytes, Error = Status> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if !ready!(self.poll_turn(cx)) {
            let why = format!("its answer did not end within {} s", READ.as_secs());
            return Poll::Ready(Some(Err(Status::deadline_exceeded(why))));
        }
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
        let counted = data.map(|data| self.fields.take(data));
        Poll::Ready(match counted {
            Some(Err(TooManyFields)) => {
                let why = format!("its answer has more than {FIELDS_MAX} fields");
                Some(Err(Status::out_of_range(why)))
            }
            Some(Ok(())) | None => frame,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// A body in pieces.
    struct Pieces(VecDeque<Bytes>);

    impl HttpBody for Pieces {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
        }
    }

    /// As much of an answer as is read: the frames, and how it ended.
    async fn read(message: Vec<u8>) -> (usize, Option<Status>) {
        let length = u32::try_from(message.len()).expect("small").to_be_bytes();
        let framed = [&[0], &length[..], &message].concat();
        let pieces = framed.chunks(1000).map(Bytes::copy_from_slice).collect();
        let mut body = Counted::new(Pieces(pieces), &Places::new());
        let mut read = 0;
        loop {
            match std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                Some(Ok(frame)) => read += frame.data_ref().map_or(0, Bytes::len),
                Some(Err(status)) => return (read, Some(status)),
                None => return (read, None),
            }
        }
    }

    /// A body that never ends.
    struct Stalls;

    impl HttpBody for Stalls {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn answers_that_do_not_end_take_the_places_of_their_own_look_and_for_a_moment() {
        let places = Places::new();
        let began = tokio::time::Instant::now();
        let stalls = (0..2 * READ_AT_ONCE).map(|_| {
            let mut body = Counted::new(Stalls, &places);
            async move { std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await }
        });
        let mut stalls = Box::pin(futures::future::join_all(stalls));
        assert!(futures::poll!(&mut stalls).is_pending());
        // Another look is read at once; one more of the same has its turn after those that were before it.
        let read = tokio::time::timeout(READ, read(vec![0x52, 0])).await;
        let (_, end) = read.expect("it waits for no place of others");
        assert!(end.is_none() && began.elapsed() < READ, "{end:?}, {:?}", began.elapsed());
        let mut last = Counted::new(Pieces([Bytes::from_static(&[0; 5])].into()), &places);
        let last = async { std::future::poll_fn(|cx| Pin::new(&mut last).poll_frame(cx)).await };
        let (ended, last) = futures::join!(stalls, last);
        assert!(matches!(last, Some(Ok(_))), "it is no fault of its own");
        for end in ended {
            let code = end.and_then(Result::err).map(|status| status.code());
            assert_eq!(code, Some(tonic::Code::DeadlineExceeded));
        }
        assert!(began.elapsed() < 3 * READ, "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn an_answer_of_two_byte_reasons_is_not_read_to_its_end() {
        let reasons = |count| [0x52, 0].repeat(count);
        let (whole, end) = read(reasons(FIELDS_MAX)).await;
        assert!(end.is_none() && whole == 2 * FIELDS_MAX + 5, "{whole} bytes, {end:?}");
        let (some, end) = read(reasons(50 * FIELDS_MAX)).await;
        assert_eq!(end.map(|status| status.code()), Some(tonic::Code::OutOfRange));
        assert!(some < 3 * FIELDS_MAX, "{some} bytes were taken");
    }
}
