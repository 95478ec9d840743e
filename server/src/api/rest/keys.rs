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

use super::{Failure, Rest, Shared, query::Query};
use crate::{
    api::{
        Requests,
        body::{self, Received},
        observer::Method,
    },
    error::Error,
};

/// The key's revision.
const REVISION: HeaderName = HeaderName::from_static("x-revision");
/// Milliseconds until the key expires.
const TTL_MS: HeaderName = HeaderName::from_static("x-ttl-ms");

pub(super) fn routes<R: Requests>() -> MethodRouter<Shared<R>> {
    get(read::<R>).put(write::<R>).delete(delete::<R>)
}

/// Also answers `HEAD`, whose body axum takes away.
async fn read<R: Requests>(State(rest): State<Shared<R>>, uri: Uri) -> Result<Response, Failure> {
    rest.run(Method::HttpGet, async {
        let key = key_of(&uri)?;
        let query = Query::of(&uri, &["stale"])?;
        let context = Some(v1::RequestContext {
            read_mode: read_mode(&query)?.into(),
            ..v1::RequestContext::default()
        });
        let deadline = rest.kv.limits.deadline(None)?;
        let response = rest.kv.get(deadline, v1::GetRequest { context, key }).await?;
        let Some(kv) = response.kv else {
            return Err(Error::NotFound { message: "no such key".into() }.into());
        };
        let content_type = HeaderValue::from_static("application/octet-stream");
        let mut response = kv.value.into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
        response.headers_mut().insert(REVISION, HeaderValue::from(kv.revision));
        if let Some(ttl_ms) = kv.ttl_ms {
            response.headers_mut().insert(TTL_MS, HeaderValue::from(ttl_ms));
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
        let ttl_ms = Query::of(&head.uri, &["ttl"])?.millis("ttl")?;
        let deadline = rest.kv.limits.deadline(None)?;
        let value = rest.receive(&head.headers, body).await?;
        let put = v1::PutRequest { key, value, ttl_ms, ..v1::PutRequest::default() };
        let response = rest.kv.put(deadline, put).await?;
        Ok(done(response.revision))
    })
    .await
}

async fn delete<R: Requests>(State(rest): State<Shared<R>>, uri: Uri) -> Result<Response, Failure> {
    rest.run(Method::HttpDelete, async {
        let key = key_of(&uri)?;
        Query::of(&uri, &[])?;
        let deadline = rest.kv.limits.deadline(None)?;
        let delete = v1::DeleteRequest { key, ..v1::DeleteRequest::default() };
        let response = rest.kv.delete(deadline, delete).await?;
        Ok(done(response.revision))
    })
    .await
}

impl<R: Requests> Rest<R> {
    /// A body that is a value: refused by its announced size before it is read, and as soon as it is
    /// larger than it may be.
    pub(super) async fn receive(
        &self,
        headers: &HeaderMap,
        body: axum::body::Body,
    ) -> Result<Bytes, Error> {
        let limits = &self.kv.limits;
        let announced = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if let Some(announced) = announced.filter(|bytes| *bytes > limits.value_bytes_max as u64) {
            let max = limits.value_bytes_max;
            return Err(Error::InvalidArgument {
                field: "value".into(),
                message: format!("has {announced} bytes, at most {max} are allowed"),
                limit: max as u64,
            });
        }
        let gate = Arc::clone(self.admission.receive());
        let deadline = Instant::now() + limits.request_timeout_max;
        body::collect(Received::new(
            body,
            gate,
            limits.value_bytes_max,
            deadline,
            Error::clone,
            |error| Error::invalid("value", format!("the body broke off: {error}")),
        ))
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
