//! A request's body while it is received: bounded in bytes, in time, and over all requests.

use std::{
    future::Future as _,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use flotilla_proto::wire::{FieldCount, TooManyFields};
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::admission::{InFlight, Permit};
use crate::error::Error;

/// What each body may take without asking: the number of calls already bounds it.
const FREE_BYTES: usize = 64 << 10;

/// A body that fails with `E`, made from an [`Error`], when it passes one of its bounds.
///
/// Bound: beyond the first 64 KiB its bytes are taken from `gate` until it is dropped, which is when
/// the message is complete; what it becomes then is bounded by the queues behind.
pub(super) struct Received<B: Body, E> {
    inner: B,
    gate: Arc<InFlight>,
    permit: Option<Permit>,
    bytes: usize,
    bytes_max: usize,
    deadline: Instant,
    /// Set up only when the body is not here at once, which is rare.
    timer: Option<Pin<Box<Sleep>>>,
    refuse: fn(&Error) -> E,
    /// For a connection that breaks.
    broken: fn(B::Error) -> E,
    fields: Option<(FieldCount, usize)>,
}

impl<B: Body, E> Received<B, E> {
    pub(super) fn new(
        inner: B,
        gate: Arc<InFlight>,
        bytes_max: usize,
        deadline: Instant,
        refuse: fn(&Error) -> E,
        broken: fn(B::Error) -> E,
    ) -> Self {
        Self {
            inner,
            gate,
            permit: None,
            bytes: 0,
            bytes_max,
            deadline,
            timer: None,
            refuse,
            broken,
            fields: None,
        }
    }

    /// Refuses a message of gRPC that has more than `fields_max` fields at its top, before it is decoded.
    ///
    /// Bound: an element of a list takes two bytes here and a hundred once it is decoded, and the message
    /// is held until its client says that it has ended.
    pub(super) fn with_fields_max(self, fields_max: usize) -> Self {
        Self { fields: Some((FieldCount::new(fields_max), fields_max)), ..self }
    }

    fn count(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let Some((fields, max)) = &mut self.fields else { return Ok(()) };
        fields.take(bytes).map_err(|TooManyFields| Error::InvalidArgument {
            field: "request".into(),
            message: format!("the message has more than {max} fields"),
            limit: *max as u64,
        })
    }

    fn account(&mut self, bytes: usize) -> Result<(), Error> {
        let before = self.bytes.max(FREE_BYTES);
        self.bytes += bytes;
        if self.bytes > self.bytes_max {
            return Err(Error::InvalidArgument {
                field: "value".into(),
                message: format!("the body has more than {} bytes", self.bytes_max),
                limit: self.bytes_max as u64,
            });
        }
        let more = self.bytes.max(FREE_BYTES) - before;
        match &mut self.permit {
            _ if more == 0 => Ok(()),
            Some(permit) => permit.grow(more),
            none => {
                *none = Some(self.gate.take(more)?);
                Ok(())
            }
        }
    }
}

impl<B, E> Body for Received<B, E>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = E;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, E>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) {
            return Poll::Ready(match frame {
                Some(Ok(frame)) => {
                    let data = frame.data_ref().map_or(&[][..], |data| data);
                    let taken = this.account(data.len()).and_then(|()| this.count(data));
                    Some(taken.map(|()| frame).map_err(|error| (this.refuse)(&error)))
                }
                Some(Err(error)) => Some(Err((this.broken)(error))),
                None => None,
            });
        }
        let deadline = this.deadline;
        let timer = this.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        ready!(timer.as_mut().poll(cx));
        let error = Error::DeadlineExceeded { message: "its body did not arrive in time".into() };
        Poll::Ready(Some(Err((this.refuse)(&error))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// All bytes of a body. A body in one piece is not copied.
pub(super) async fn collect<B>(mut body: B) -> Result<Bytes, B::Error>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) =
        std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.transpose()?
    {
        let Ok(data) = frame.into_data() else { continue };
        if first.is_empty() && rest.is_empty() {
            first = data;
            continue;
        }
        if rest.is_empty() {
            rest.extend_from_slice(&first);
        }
        rest.extend_from_slice(&data);
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, convert::Infallible, time::Duration};

    use super::*;
    use crate::api::{Admission, Limits};

    struct Frames {
        frames: VecDeque<Bytes>,
        /// Stays open without an end.
        hangs: bool,
    }

    impl Body for Frames {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match self.frames.pop_front() {
                Some(frame) => Poll::Ready(Some(Ok(Frame::data(frame)))),
                None if self.hangs => Poll::Pending,
                None => Poll::Ready(None),
            }
        }
    }

    fn received(sizes: &[usize], hangs: bool, admission: &Admission) -> Received<Frames, Error> {
        let frames = sizes.iter().map(|size| Bytes::from(vec![b'x'; *size])).collect();
        let deadline = Instant::now() + Duration::from_millis(20);
        let gate = Arc::clone(admission.receive());
        Received::new(Frames { frames, hangs }, gate, 1 << 20, deadline, Error::clone, |never| {
            match never {}
        })
    }

    fn admission(receive_bytes_max: usize) -> Admission {
        Admission::new(&Limits { receive_bytes_max, ..Limits::default() })
    }

    #[tokio::test]
    async fn body_arrives_whole() {
        let admission = admission(1 << 20);
        for sizes in [&[][..], &[0], &[7], &[1, 2, 3], &[100_000, 1, 200_000]] {
            let bytes = collect(received(sizes, false, &admission)).await.expect("within bounds");
            assert_eq!(bytes.len(), sizes.iter().sum::<usize>(), "{sizes:?}");
        }
    }

    #[tokio::test]
    async fn body_past_its_own_limit_is_refused_with_the_limit() {
        let admission = admission(1 << 30);
        let result = collect(received(&[1 << 20, 1], false, &admission)).await;
        assert!(matches!(result, Err(Error::InvalidArgument { limit: 0x10_0000, .. })));
    }

    #[tokio::test]
    async fn message_of_many_small_elements_is_refused_while_it_arrives() {
        let admission = admission(1 << 20);
        // A frame of gRPC with a thousand empty operations.
        let operations = [0x1a, 0].repeat(1000);
        let message = [&[0, 0, 0, 7, 208][..], &operations].concat();
        for (fields_max, refused) in [(1000, false), (999, true), (10, true)] {
            let mut body = received(&[], true, &admission).with_fields_max(fields_max);
            body.inner.frames = message.chunks(300).map(Bytes::copy_from_slice).collect();
            let error = collect(body).await.expect_err("there is no end");
            if refused {
                let limit = fields_max as u64;
                assert!(matches!(error, Error::InvalidArgument { limit: l, .. } if l == limit));
            } else {
                assert!(matches!(error, Error::DeadlineExceeded { .. }), "{error}");
            }
        }
    }

    #[tokio::test]
    async fn bodies_together_stay_below_the_shared_bound() {
        let admission = admission(300_000);
        let mut first = received(&[FREE_BYTES + 300_000], true, &admission);
        std::future::poll_fn(|cx| Pin::new(&mut first).poll_frame(cx))
            .await
            .expect("a frame")
            .expect("takes the whole bound");
        collect(received(&[FREE_BYTES], false, &admission)).await.expect("small ones are free");
        let second = collect(received(&[FREE_BYTES + 1], false, &admission)).await;
        assert!(matches!(second, Err(Error::Busy { queue, .. }) if queue == "receive"));
        drop(first);
        collect(received(&[FREE_BYTES + 1], false, &admission)).await.expect("given back");
    }

    #[tokio::test]
    async fn body_that_never_ends_runs_into_the_deadline() {
        let admission = admission(1 << 20);
        let result = collect(received(&[5], true, &admission)).await;
        let error = result.expect_err("there is no end");
        assert!(matches!(error, Error::DeadlineExceeded { .. }) && !error.maybe_applied());
    }
}
