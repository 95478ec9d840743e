//! Answers on their way out.
//!
//! An answer costs memory until its client has read it, and how long that takes is the client's to say.
//! So an answer is handed to its connection in small pieces, which it takes only as the client reads
//! them; what is not taken yet is counted, all answers together; the call keeps its place in its queue
//! until the last piece is taken; and a client that reads nothing for a while is given up.

use std::{
    cell::Cell,
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep};
use tonic::Status;
use tracing::debug;

use super::{
    admission::{InFlight, Permit},
    observer::Method,
    tracked::{Tracked, code_of},
};
use crate::error::Error;

/// Bound: what a connection takes of an answer before its client reads.
const PIECE_BYTES: usize = 32 << 10;

/// What each answer may hold without asking: the number of calls already bounds it.
const FREE_BYTES: usize = 64 << 10;

/// Of a message that is to be encoded, where it is not small: what [`hold`] is asked for, before the copy is
/// made that it may refuse. Travels in the extensions of a response.
#[derive(Clone, Copy, Debug)]
pub(super) struct EncodedBytes(pub(super) usize);

/// The answer of a handler.
pub(super) fn respond<T: prost::Message>(message: T) -> tonic::Response<T> {
    let bytes = message.encoded_len();
    let mut response = tonic::Response::new(message);
    if bytes > FREE_BYTES {
        response.extensions_mut().insert(EncodedBytes(bytes));
    }
    response
}

/// Counts the bytes of an answer until the permit is dropped.
///
/// # Errors
///
/// When too many bytes of other answers are not read yet. A read is refused first; what has changed
/// something, and cannot be refused any more, later.
pub(super) fn hold(
    gate: &Arc<InFlight>,
    method: Method,
    bytes: usize,
) -> Result<Option<Permit>, Error> {
    match bytes.saturating_sub(FREE_BYTES) {
        0 => Ok(None),
        more if method.only_reads() => gate.take(more).map(Some),
        more => gate.take_late(more).map(Some).map_err(|_| Error::OutcomeUnknown {
            message: "there is no room for its answer, others are not read".into(),
        }),
    }
}

/// The body of an answer, in pieces. What it holds is given back with it.
pub struct Answer<B> {
    body: B,
    /// Of the frame that is being handed out.
    rest: Bytes,
    tracked: Option<Tracked>,
    _held: Option<Permit>,
}

impl<B> Answer<B> {
    /// `first` comes before `body`.
    pub(super) fn new(
        first: Bytes,
        body: B,
        tracked: Option<Tracked>,
        held: Option<Permit>,
    ) -> Self {
        Self { body, rest: first, tracked, _held: held }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Answer<B> {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => {
                        let code = trailers.trailers_ref().and_then(code_of);
                        if let (Some(code), Some(tracked)) = (code, &mut self.tracked) {
                            tracked.finish(code);
                        }
                        return Poll::Ready(Some(Ok(trailers)));
                    }
                },
                end => return Poll::Ready(end),
            }
        }
        let piece = self.rest.split_to(self.rest.len().min(PIECE_BYTES));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Answer<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let piece = self.get_mut().poll_piece(cx);
        match piece {
            Poll::Ready(_) => waits_for_its_reader(),
            Poll::Pending => works(),
        }
        piece
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (mut hint, rest) = (self.body.size_hint(), self.rest.len() as u64);
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
    }
}

/// What follows the first message of a gRPC answer.
pub enum Rest {
    /// Nothing but the trailers.
    Whole(Option<HeaderMap>),
    Stream(tonic::body::Body),
}

impl Body for Rest {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.get_mut() {
            Self::Whole(trailers) => {
                Poll::Ready(trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
            }
            Self::Stream(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(trailers) => trailers.is_none(),
            Self::Stream(body) => body.is_end_stream(),
        }
    }
}

tokio::task_local! {
    /// How the answer of this task goes.
    static READER: Reader;
}

#[derive(Default)]
struct Reader {
    /// There is something to read for the client; otherwise the answer is being made.
    waits: Cell<bool>,
    /// It has read something since this was looked at.
    moved: Cell<bool>,
}

/// From now on it is the client who is waited for.
pub(super) fn waits_for_its_reader() {
    // Elsewhere the connection is watched instead.
    let _ = READER.try_with(|reader| {
        reader.waits.set(true);
        reader.moved.set(true);
    });
}

fn works() {
    let _ = READER.try_with(|reader| reader.waits.set(false));
}

/// Runs each call of an HTTP/2 connection as a task of its own, and gives it up when its client reads
/// nothing of the answer for `stall_timeout`, which resets its stream. The others of the connection go on.
#[derive(Clone, Copy, Debug)]
pub(super) struct CallTasks {
    pub(super) stall_timeout: Duration,
}

impl<F> hyper::rt::Executor<F> for CallTasks
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, call: F) {
        let stall_timeout = self.stall_timeout;
        tokio::spawn(READER.scope(Reader::default(), async move {
            let mut call = pin!(call);
            let mut timer: Option<Pin<Box<Sleep>>> = None;
            poll_fn(|cx| {
                if call.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                let (waits, moved) =
                    READER.with(|reader| (reader.waits.get(), reader.moved.replace(false)));
                if !waits {
                    return Poll::Pending;
                }
                let timer = timer.get_or_insert_with(|| Box::pin(sleep(stall_timeout)));
                if moved {
                    timer.as_mut().reset(Instant::now() + stall_timeout);
                }
                ready!(timer.as_mut().poll(cx));
                debug!("a client does not read its answer, given up");
                Poll::Ready(())
            })
            .await;
        }));
    }
}
