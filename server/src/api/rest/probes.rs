//! `/livez`, `/readyz`, `/metrics`: for machines that watch the node. Never queued.

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, Uri, header};

use super::{Failure, Shared, query::Query};
use crate::{api::Check, router::Requests, world::blocking};

/// 200 unless this process is wedged; other nodes do not matter.
pub(super) async fn livez<R: Requests>(
    State(rest): State<Shared<R>>,
    uri: Uri,
) -> Result<Response, Failure> {
    let membership = &rest.cluster.membership;
    probe(&uri, &membership.why_not_live(), || membership.checks())
}

/// 200 while this node can serve requests or forward them.
pub(super) async fn readyz<R: Requests>(
    State(rest): State<Shared<R>>,
    uri: Uri,
) -> Result<Response, Failure> {
    let membership = &rest.cluster.membership;
    probe(&uri, &membership.why_not_ready(), || membership.checks())
}

pub(super) async fn metrics<R: Requests>(State(rest): State<Shared<R>>) -> Response {
    let content_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    // To measure asks the disk and looks at every region: nobody else is to wait for that.
    match blocking::run(move || (rest.metrics)()).await {
        Ok(text) => ([(header::CONTENT_TYPE, content_type)], text).into_response(),
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

fn probe(
    uri: &Uri,
    reasons: &[String],
    checks: impl FnOnce() -> Vec<Check>,
) -> Result<Response, Failure> {
    let verbose = Query::of(uri, &["verbose"])?.flag("verbose")?;
    let mut text = String::new();
    if verbose {
        text.extend(checks().iter().map(Check::line));
    }
    for reason in reasons {
        text += reason;
        text.push('\n');
    }
    let status = if reasons.is_empty() {
        text += "ok\n";
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let mut response = (status, text).into_response();
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(1));
    }
    Ok(response)
}
