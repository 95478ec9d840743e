//! `GET /kv`: a range as lines of JSON.

use std::time::Duration;

use axum::{
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use flotilla_proto::v1;
use futures::stream;
use http::{HeaderValue, Uri, header};
use serde::Serialize;
use tokio::time::Instant;

use super::{
    Failure, Shared,
    keys::read_mode,
    query::{Query, TIMEOUT},
};
use crate::{
    api::{
        Requests, answer::Answer, dispatch::Tracked, observer::Method, scan::Pager, status::code,
    },
    error::Error,
};

/// One key. The name of a field says how it is written, so that text and base64 cannot be taken for each
/// other, and an import reads whatever was asked for: base64, or with `text=true` text where it is UTF-8.
#[derive(Default, Serialize)]
struct Line {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
    revision: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_ms: Option<u64>,
}

/// How lines are written.
#[derive(Clone, Copy)]
struct Format {
    text: bool,
    keys_only: bool,
}

const PARAMETERS: &[&str] =
    &["prefix", "start", "end", "limit", "reverse", "keys_only", "text", "stale", TIMEOUT];

/// The first page is read before the answer begins, so that an error there has its status. A later
/// one ends the lines with `{"error": …}` and breaks the connection off; else the last line is
/// `{"end": {"keys": …}}`.
pub(super) async fn list<R: Requests>(
    State(rest): State<Shared<R>>,
    uri: Uri,
) -> Result<Response, Failure> {
    let mut tracked = Tracked::start(&rest.observer, Method::HttpList);
    let begun = async {
        tracked.hold(rest.admission.admit(Method::HttpList.class())?);
        let (format, request, timeout) = parse(&uri)?;
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let mut pager = rest.kv.scan(deadline, request)?;
        let first = pager.next().await?;
        Ok::<_, Error>((format, pager, first))
    };
    let (format, pager, first) = match begun.await {
        Ok(begun) => begun,
        Err(error) => {
            tracked.finish(code(&error));
            return Err(error.into());
        }
    };
    let state = Listing { pager, next: Next::Page(first), keys: 0, format, tracked };
    let lines = stream::unfold(state, Listing::chunk);
    let content_type = HeaderValue::from_static("application/x-ndjson");
    // Its page is bounded; `Listing` holds its place.
    let pieces = Answer::new(Bytes::new(), Body::from_stream(lines), None, None);
    Ok(([(header::CONTENT_TYPE, content_type)], Body::new(pieces)).into_response())
}

/// A listing under way.
struct Listing<R> {
    pager: Pager<R>,
    next: Next,
    /// How many were written.
    keys: u64,
    format: Format,
    tracked: Tracked,
}

enum Next {
    /// `None` at the end.
    Page(Option<Vec<v1::KeyValue>>),
    Read,
    Break(String),
    Over,
}

impl<R: Requests> Listing<R> {
    async fn chunk(mut self) -> Option<(Result<Bytes, std::io::Error>, Self)> {
        let page = match std::mem::replace(&mut self.next, Next::Read) {
            Next::Page(page) => Ok(page),
            Next::Read => self.pager.next().await,
            Next::Break(message) => {
                let error = Err(std::io::Error::other(message));
                self.next = Next::Over;
                return Some((error, self));
            }
            Next::Over => return None,
        };
        match page {
            Ok(Some(kvs)) => {
                self.keys += kvs.len() as u64;
                let lines = write_lines(kvs, self.format);
                Some((Ok(lines), self))
            }
            Ok(None) => {
                self.tracked.finish(tonic::Code::Ok);
                self.next = Next::Over;
                Some((Ok(end_line(self.keys)), self))
            }
            Err(error) => {
                self.tracked.finish(code(&error));
                self.next = Next::Break(error.to_string());
                Some((Ok(error_line(error)), self))
            }
        }
    }
}

/// With the time for the whole of it, if the caller names any; each page has its own.
fn parse(uri: &Uri) -> Result<(Format, v1::ScanRequest, Option<Duration>), Error> {
    let query = Query::of(uri, PARAMETERS)?;
    let prefix = query.bytes("prefix").unwrap_or_default();
    let start_key = query.bytes("start").unwrap_or_default();
    let end_key = query.bytes("end").unwrap_or_default();
    if !prefix.is_empty() && (!start_key.is_empty() || !end_key.is_empty()) {
        return Err(Error::invalid("prefix", "excludes start and end"));
    }
    let format = Format { text: query.flag("text")?, keys_only: query.flag("keys_only")? };
    let context = Some(v1::RequestContext {
        read_mode: read_mode(&query)?.into(),
        ..v1::RequestContext::default()
    });
    let request = v1::ScanRequest {
        context,
        start_key,
        end_key,
        prefix,
        reverse: query.flag("reverse")?,
        limit: query.number("limit")?,
        keys_only: format.keys_only,
        all_keyspaces: false,
    };
    Ok((format, request, query.timeout()?))
}

fn write_lines(kvs: Vec<v1::KeyValue>, format: Format) -> Bytes {
    let mut lines = Vec::new();
    for kv in kvs {
        let mut line = Line { revision: kv.revision, ttl_ms: kv.ttl_ms, ..Line::default() };
        (line.key, line.key_base64) = encode(&kv.key, format.text);
        if !format.keys_only {
            (line.value, line.value_base64) = encode(&kv.value, format.text);
        }
        write_line(&mut lines, &line);
    }
    lines.into()
}

fn encode(bytes: &[u8], text: bool) -> (Option<String>, Option<String>) {
    if !text {
        return (None, Some(BASE64_STANDARD.encode(bytes)));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text.into()), None),
        Err(_) => (None, Some(BASE64_STANDARD.encode(bytes))),
    }
}

/// A listing without it was cut off, which a file does not tell otherwise.
fn end_line(keys: u64) -> Bytes {
    let mut line = Vec::new();
    write_line(&mut line, &serde_json::json!({ "end": { "keys": keys } }));
    line.into()
}

fn error_line(error: Error) -> Bytes {
    let mut line = Vec::new();
    write_line(&mut line, &serde_json::json!({ "error": Failure::from(error).body() }));
    line.into()
}

fn write_line(lines: &mut Vec<u8>, line: &impl Serialize) {
    serde_json::to_writer(&mut *lines, line).expect("strings and numbers always serialize");
    lines.push(b'\n');
}
