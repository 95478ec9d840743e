//! Errors as HTTP answers.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use tonic::Code;

use super::json_line::JsonLine;
use crate::{
    api::status::{code, code_name, http_code, retry_after_seconds},
    error::Error,
};

/// A refusal on its way out.
#[derive(Debug)]
pub(super) struct Failure {
    error: Error,
    half_done: Option<HalfDone>,
    /// Where HTTP has one of its own.
    status: Option<StatusCode>,
}

/// A node that was added in the first step of a call whose second step, its promotion, failed.
#[derive(Debug)]
pub(super) struct HalfDone {
    pub(super) node: u64,
    /// Whether the first step changed the node table, or may have: a node that was there already is
    /// not added again.
    pub(super) changed: bool,
}

/// The body of every answer that is no success.
#[derive(Debug, Serialize)]
pub(super) struct Body {
    /// A name of gRPC's.
    code: &'static str,
    message: String,
    retryable: bool,
    maybe_applied: bool,
}

impl Failure {
    /// The status is that of `error`, the cause; what is said of being applied counts both steps.
    pub(super) fn half_done(step: HalfDone, error: Error) -> Self {
        Self { error, half_done: Some(step), status: None }
    }

    /// An error that HTTP has a status of its own for.
    pub(super) fn with_status(status: StatusCode, error: Error) -> Self {
        Self { error, half_done: None, status: Some(status) }
    }

    pub(super) fn code(&self) -> Code {
        code(&self.error)
    }

    pub(super) fn body(&self) -> Body {
        let error = &self.error;
        let (message, changed) = match &self.half_done {
            None => (error.to_string(), false),
            Some(HalfDone { node, changed }) => {
                let promoted =
                    if error.maybe_applied() { "perhaps not promoted" } else { "not promoted" };
                (format!("node {node} is a learner, {promoted}: {error}"), *changed)
            }
        };
        Body {
            code: code_name(self.code()),
            message,
            retryable: error.retryable(),
            maybe_applied: changed || error.maybe_applied(),
        }
    }

    /// An answer of HTTP itself, which no call was made for.
    pub(super) fn plain(status: StatusCode, code: &'static str, message: &str) -> Response {
        let body = Body { code, message: message.into(), retryable: false, maybe_applied: false };
        (status, JsonLine(body)).into_response()
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, half_done: None, status: None }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = self.status.unwrap_or_else(|| http_code(&self.error));
        let mut response = (status, JsonLine(self.body())).into_response();
        if let Some(seconds) = retry_after_seconds(&self.error) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
