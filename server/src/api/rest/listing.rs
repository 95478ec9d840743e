//! `GET /kv`: a range as lines of JSON.

use std::time::Duration;

use axum::{
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use flotilla_proto::v1;
use futures::stream;
use http::{HeaderValue, Uri, header};
use serde::Serialize;
use tokio::time::Instant;

use super::{
    Failure, Shared,
    keys::read_mode,
    lines::{Format, Lines},
    query::{Query, TIMEOUT},
};
use crate::{
    api::{answer::Answer, observer::Method, scan::Pager, status::code, tracked::Tracked},
    error::Error,
    router::Requests,
};

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
    let mut state = Listing { pager, next: Next::Read, keys: 0, format, tracked };
    state.next = state.after(first);
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
    Lines(Lines),
    Read,
    End,
    Break(String),
    Over,
}

impl<R: Requests> Listing<R> {
    async fn chunk(mut self) -> Option<(Result<Bytes, std::io::Error>, Self)> {
        loop {
            match std::mem::replace(&mut self.next, Next::Over) {
                Next::Lines(mut lines) => match lines.piece() {
                    Some(piece) => {
                        self.next = Next::Lines(lines);
                        return Some((Ok(piece), self));
                    }
                    None => self.next = Next::Read,
                },
                Next::Read => match self.pager.next().await {
                    Ok(page) => self.next = self.after(page),
                    Err(error) => {
                        self.tracked.finish(code(&error));
                        self.next = Next::Break(error.to_string());
                        return Some((Ok(error_line(error)), self));
                    }
                },
                Next::End => {
                    self.tracked.finish(tonic::Code::Ok);
                    let line = end_line(self.keys);
                    return Some((Ok(line), self));
                }
                Next::Break(message) => return Some((Err(std::io::Error::other(message)), self)),
                Next::Over => return None,
            }
        }
    }

    /// What comes after a page was read; `None` at the end.
    fn after(&mut self, page: Option<Vec<v1::KeyValue>>) -> Next {
        let Some(page) = page else { return Next::End };
        self.keys += page.len() as u64;
        Next::Lines(Lines::new(page, self.format))
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
