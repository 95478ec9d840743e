//! The rest of a request that was answered before it was read.
//!
//! A connection that is closed while its client still sends is reset by the system, and the reset
//! overtakes the answer: the client learns that a pipe broke, and not why it was refused. So what it sends
//! is read on for a while first, and thrown away.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{body::Body, extract::Request, middleware::Next, response::Response};
use bytes::Bytes;
use http::header;
use hyper::body::{Body as _, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout, timeout_at};

/// Bound: bytes read of a request that is refused, the wait for all of them, and for each. Several times the
/// largest value, which is what somebody is most likely to have sent by mistake.
const UNREAD_BYTES_MAX: usize = 64 << 20;
const UNREAD_WAIT_MAX: Duration = Duration::from_secs(10);
const UNREAD_PAUSE_MAX: Duration = Duration::from_millis(500);

/// Where a body is brought back to by who does not need it any more.
#[derive(Default)]
struct Home {
    body: Option<Body>,
    /// Its client was asked for it.
    begun: bool,
}

pub(super) async fn read_on(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    // Who asks first waits to be told, and has not begun to send.
    let asks_first = request.headers().contains_key(header::EXPECT);
    let home = Arc::new(Mutex::new(Home::default()));
    let lent = |body| Body::new(Lent { body: Some(body), home: Arc::clone(&home) });
    let response = next.run(request.map(lent)).await;
    let left = std::mem::take(&mut *home.lock());
    if let Some(body) = left.body
        && (left.begun || !asks_first)
        && !response.status().is_success()
    {
        throw_away(body).await;
    }
    response
}

async fn throw_away(mut body: Body) {
    let mut read = 0;
    let deadline = Instant::now() + UNREAD_WAIT_MAX;
    let reading = async {
        while read < UNREAD_BYTES_MAX {
            let frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
            match timeout(UNREAD_PAUSE_MAX, frame).await {
                Ok(Some(Ok(frame))) => read += frame.data_ref().map_or(0, Bytes::len),
                // It is over, it broke, or the client waits for the answer.
                _ => return,
            }
        }
    };
    // Who is slower than that may see a reset.
    let _ = timeout_at(deadline, reading).await;
}

/// A body that comes back when it is dropped before its end.
struct Lent {
    body: Option<Body>,
    home: Arc<Mutex<Home>>,
}

impl hyper::body::Body for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        this.home.lock().begun = true;
        let frame = ready!(Pin::new(body).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            this.body = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(body) = self.body.take().filter(|body| !body.is_end_stream()) {
            self.home.lock().body = Some(body);
        }
    }
}
