//! A call from its start to the end of its answer, for whoever counts calls.

use std::{sync::Arc, time::Duration};

use http::HeaderMap;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::{
    admission::Permit,
    observer::{Method, Observer},
};
use crate::trail::{self, Trail};

/// Tells the observer once, when the call is over, and gives its place back.
pub(super) struct Tracked {
    observer: Arc<dyn Observer>,
    pub(super) method: Method,
    pub(super) started: Instant,
    /// Of the answer, and when it was known; `None`, which counts as cancelled, if the client goes first.
    code: Option<(Code, Duration)>,
    /// Of a slow call, as it was when its answer was known.
    trail: Option<Trail>,
    permit: Option<Permit>,
}

impl Tracked {
    pub(super) fn start(observer: &Arc<dyn Observer>, method: Method) -> Self {
        observer.started(method);
        let observer = Arc::clone(observer);
        Self { observer, method, started: Instant::now(), code: None, trail: None, permit: None }
    }

    /// Holds the call's place for as long as it is tracked.
    pub(super) fn hold(&mut self, permit: Option<Permit>) {
        self.permit = permit;
    }

    /// Notes how the call ended; the first answer counts.
    pub(super) fn finish(&mut self, code: Code) {
        if self.code.is_none() {
            let taken = self.started.elapsed();
            self.code = Some((code, taken));
            if self.observer.is_slow(self.method, taken) {
                self.trail = Some(trail::current());
            }
        }
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        let (code, taken) = self.code.unwrap_or_else(|| (Code::Cancelled, self.started.elapsed()));
        self.observer.finished(self.method, code, taken.as_secs_f64());
        if self.observer.is_slow(self.method, taken) {
            let trail = self.trail.take().unwrap_or_else(trail::current);
            self.observer.slow(self.method, code, taken, trail);
        }
    }
}

pub(super) fn code_of(headers: &HeaderMap) -> Option<Code> {
    headers.get(Status::GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes()))
}
