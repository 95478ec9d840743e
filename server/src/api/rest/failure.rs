//! Errors as HTTP answers.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use tonic::Code;

use crate::{
    api::status::{code, code_name, http_code, retry_after_seconds},
    error::Error,
};

/// A refusal on its way out.
#[derive(Debug)]
pub(super) struct Failure(Error);

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
    pub(super) fn code(&self) -> Code {
        code(&self.0)
    }

    pub(super) fn body(&self) -> Body {
        Body {
            code: code_name(self.code()),
            message: self.0.to_string(),
            retryable: self.0.retryable(),
            maybe_applied: self.0.maybe_applied(),
        }
    }

    /// An answer of HTTP itself, which no call was made for.
    pub(super) fn plain(status: StatusCode, code: &'static str, message: &str) -> Response {
        let body = Body { code, message: message.into(), retryable: false, maybe_applied: false };
        (status, Json(body)).into_response()
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = (http_code(&self.0), Json(self.body())).into_response();
        if let Some(seconds) = retry_after_seconds(&self.0) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
