//! A connection to a node whose answers are bounded before they are decoded.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use flotilla_proto::wire::{FieldCount, TooManyFields};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
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

/// A channel that reads no more of an answer than it may have.
#[derive(Clone, Debug)]
pub(crate) struct Bounded(Channel);

impl Bounded {
    pub(super) fn new(channel: Channel) -> Self {
        Self(channel)
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
        Answer(self.0.call(request))
    }
}

/// The head of an answer, while it is awaited.
pub(crate) struct Answer(<Channel as Service<http::Request<Body>>>::Future);

impl Future for Answer {
    type Output = Result<http::Response<Counted<Body>>, tonic::transport::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.0).poll(cx));
        Poll::Ready(answer.map(|answer| answer.map(Counted::new)))
    }
}

/// The body of an answer, which ends with an error where it has more than is accepted.
pub(crate) struct Counted<B> {
    inner: B,
    fields: FieldCount,
}

impl<B> Counted<B> {
    fn new(inner: B) -> Self {
        Self { inner, fields: FieldCount::new(FIELDS_MAX) }
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
        let mut body = Counted::new(Pieces(pieces));
        let mut read = 0;
        loop {
            match std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                Some(Ok(frame)) => read += frame.data_ref().map_or(0, Bytes::len),
                Some(Err(status)) => return (read, Some(status)),
                None => return (read, None),
            }
        }
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
