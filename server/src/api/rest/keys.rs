//! `/kv/{key}`: one key, its value as the body.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get},
};
use bytes::Bytes;
use flotilla_proto::v1;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use percent_encoding::percent_decode_str;
use tokio::time::Instant;

use super::{
    Failure, Rest, Shared,
    conditions::{self, Change, Conditions, Verdict, etag},
    query::{Query, TIMEOUT},
};
use crate::{
    api::{
        body::{self, Received},
        observer::Method,
    },
    error::Error,
    router::Requests,
};

/// The key's revision.
const REVISION: HeaderName = HeaderName::from_static("x-revision");
/// Milliseconds until the key expires.
const TTL_MS: HeaderName = HeaderName::from_static("x-ttl-ms");

pub(super) fn routes<R: Requests>() -> MethodRouter<Shared<R>> {
    get(read::<R>).put(write::<R>).delete(delete::<R>)
}

/// Also answers `HEAD`, whose body axum takes away. `Range` is passed over: a value comes whole.
async fn read<R: Requests>(
    State(rest): State<Shared<R>>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Failure> {
    rest.run(Method::HttpGet, async {
        let key = key_of(&uri)?;
        let query = Query::of(&uri, &["stale", TIMEOUT])?;
        let conditions = Conditions::of(&headers)?;
        let context = Some(v1::RequestContext {
            read_mode: read_mode(&query)?.into(),
            ..v1::RequestContext::default()
        });
        let deadline = rest.kv.limits.deadline(query.timeout()?)?;
        let response = rest.kv.get(deadline, v1::GetRequest { context, key }).await?;
        let Some(kv) = response.kv else {
            return Err(Error::NotFound { message: "no such key".into() }.into());
        };
        let mut response = match conditions.verdict(kv.revision) {
            Verdict::Send => kv.value.into_response(),
            Verdict::NotModified => StatusCode::NOT_MODIFIED.into_response(),
            Verdict::Failed => return Err(conditions::failed()),
        };
        let headers = response.headers_mut();
        let content_type = HeaderValue::from_static("application/octet-stream");
        headers.insert(header::CONTENT_TYPE, content_type);
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("none"));
        headers.insert(header::ETAG, etag(kv.revision));
        headers.insert(REVISION, HeaderValue::from(kv.revision));
        if let Some(ttl_ms) = kv.ttl_ms {
            headers.insert(TTL_MS, HeaderValue::from(ttl_ms));
        }
        Ok(response)
    })
    .await
}

async fn write<R: Requests>(
    State(rest): State<Shared<R>>,
    request: Request,
) -> Result<Response, Failure> {
    rest.run(Method::HttpPut, async {
        let (head, body) = request.into_parts();
        let key = key_of(&head.uri)?;
        rest.kv.limits.check_key("key", &key)?;
        let query = Query::of(&head.uri, &["ttl", TIMEOUT])?;
        let (ttl_ms, timeout) = (query.millis("ttl")?, query.timeout()?);
        let conditions = Conditions::of(&head.headers)?;
        whole_and_plain(&head.headers)?;
        let value = rest.receive(&head.headers, body).await?;
        // From here on: how long a client takes to send a value is not what its answer takes.
        let deadline = rest.kv.limits.deadline(timeout)?;
        let change = Change::Put { value, ttl_ms };
        let revision = rest.kv.change_if(&conditions, deadline, key, change).await?;
        let mut response = done(revision);
        response.headers_mut().insert(header::ETAG, etag(revision));
        Ok(response)
    })
    .await
}

async fn delete<R: Requests>(
    State(rest): State<Shared<R>>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Failure> {
    rest.run(Method::HttpDelete, async {
        let key = key_of(&uri)?;
        let query = Query::of(&uri, &[TIMEOUT])?;
        let conditions = Conditions::of(&headers)?;
        let deadline = rest.kv.limits.deadline(query.timeout()?)?;
        let revision = rest.kv.change_if(&conditions, deadline, key, Change::Delete).await?;
        Ok(done(revision))
    })
    .await
}

/// A part of a value would become the whole of it (RFC 9110, 14.5), and how it is coded would be forgotten.
fn whole_and_plain(headers: &HeaderMap) -> Result<(), Failure> {
    if headers.contains_key(header::CONTENT_RANGE) {
        return Err(Error::invalid("Content-Range", "a value is written whole").into());
    }
    let plain = |coding: &HeaderValue| coding == "identity";
    if headers.get(header::CONTENT_ENCODING).is_some_and(|coding| !plain(coding)) {
        let message = "is not kept with the value: send it as it shall be read";
        let error = Error::invalid("Content-Encoding", message);
        return Err(Failure::with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE, error));
    }
    Ok(())
}

impl<R: Requests> Rest<R> {
    /// A body that is a value.
    async fn receive(&self, headers: &HeaderMap, body: axum::body::Body) -> Result<Bytes, Error> {
        self.receive_up_to(self.kv.limits.value_bytes_max, "value", headers, body).await
    }

    /// A body: refused by its announced size before it is read, and as soon as it is larger than it may be.
    pub(super) async fn receive_up_to(
        &self,
        bytes_max: usize,
        what: &'static str,
        headers: &HeaderMap,
        body: axum::body::Body,
    ) -> Result<Bytes, Error> {
        // Else how it is coded would be forgotten, and the code stored (RFC 9112, 6.1).
        let codings = headers.get_all(header::TRANSFER_ENCODING);
        if let Some(coding) = codings
            .iter()
            .find(|coding| !coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"))
        {
            let message = format!("Transfer-Encoding: {coding:?} is not understood, only chunked");
            return Err(Error::Unimplemented { message });
        }
        let announced = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if let Some(announced) = announced.filter(|bytes| *bytes > bytes_max as u64) {
            return Err(Error::InvalidArgument {
                field: what.into(),
                message: format!("has {announced} bytes, at most {bytes_max} are allowed"),
                limit: bytes_max as u64,
            });
        }
        let gate = Arc::clone(self.admission.receive());
        let deadline = Instant::now() + self.kv.limits.request_timeout_max;
        body::collect(Received::new(body, gate, bytes_max, deadline, Error::clone, |error| {
            Error::invalid("body", format!("it broke off: {error}"))
        }))
        .await
    }
}

fn done(revision: u64) -> Response {
    (StatusCode::NO_CONTENT, [(REVISION, HeaderValue::from(revision))]).into_response()
}

/// The bytes behind `/kv/`, percent-decoded. May be empty, which the call itself refuses.
fn key_of(uri: &Uri) -> Result<Bytes, Error> {
    let encoded =
        uri.path().strip_prefix("/kv/").ok_or_else(|| Error::invalid("key", "missing"))?;
    if encoded.contains('%') && !well_formed(encoded) {
        return Err(Error::invalid("key", "% must be followed by two hexadecimal digits"));
    }
    Ok(percent_decode_str(encoded).collect::<Vec<u8>>().into())
}

/// Whether each `%` begins an encoded byte: a key must not be taken for another one.
fn well_formed(encoded: &str) -> bool {
    encoded.split('%').skip(1).all(|part| {
        matches!(part.as_bytes(), [a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit())
    })
}

pub(super) fn read_mode(query: &Query) -> Result<v1::ReadMode, Error> {
    Ok(if query.flag("stale")? { v1::ReadMode::Stale } else { v1::ReadMode::Linearizable })
}
