//! Errors as clients see them. The only place that knows both.

use std::time::Duration;

use http::StatusCode;
use tonic::{Code, Status};

use crate::error::Error;

/// The gRPC status of an error: code, text for people, an `ErrorDetail` for programs.
#[must_use]
pub fn status(error: &Error) -> Status {
    flotilla_proto::status::with_detail(code(error), error.to_string(), &error.detail())
}

/// The gRPC code of an error; the table of docs/api.md.
#[must_use]
pub fn code(error: &Error) -> Code {
    match error {
        Error::InvalidArgument { .. } => Code::InvalidArgument,
        Error::NotLeader { .. }
        | Error::EpochNotMatch { .. }
        | Error::RegionNotFound { .. }
        | Error::KeyNotInRegion { .. }
        | Error::NodeMismatch { .. }
        | Error::WrongCluster { .. }
        | Error::CrossRegion { .. }
        | Error::FailedPrecondition { .. }
        | Error::NotACounter { .. } => Code::FailedPrecondition,
        Error::NoLeader { .. }
        | Error::NotJoined { .. }
        | Error::Draining
        | Error::NotReady { .. } => Code::Unavailable,
        Error::Busy { .. } | Error::LowDisk { .. } => Code::ResourceExhausted,
        Error::VersionMoved { .. } => Code::Aborted,
        Error::NotFound { .. } => Code::NotFound,
        Error::Unimplemented { .. } => Code::Unimplemented,
        Error::DeadlineExceeded { .. } | Error::OutcomeUnknown { .. } => Code::DeadlineExceeded,
        Error::DataLoss { .. } => Code::DataLoss,
        Error::Internal { .. } => Code::Internal,
    }
}

/// The HTTP status of an error. What a client of gRPC would route around by itself is, for a client
/// of HTTP, a node that is unavailable for a moment.
pub(super) fn http_code(error: &Error) -> StatusCode {
    match error {
        Error::InvalidArgument { field, limit, .. }
            if matches!(&field[..], "value" | "body") && *limit > 0 =>
        {
            StatusCode::PAYLOAD_TOO_LARGE
        }
        Error::InvalidArgument { .. } => StatusCode::BAD_REQUEST,
        Error::NotLeader { .. }
        | Error::EpochNotMatch { .. }
        | Error::RegionNotFound { .. }
        | Error::KeyNotInRegion { .. }
        | Error::NodeMismatch { .. }
        | Error::WrongCluster { .. }
        | Error::NoLeader { .. }
        | Error::NotJoined { .. }
        | Error::Draining
        | Error::NotReady { .. }
        | Error::Busy { .. } => StatusCode::SERVICE_UNAVAILABLE,
        Error::CrossRegion { .. }
        | Error::FailedPrecondition { .. }
        | Error::NotACounter { .. } => StatusCode::CONFLICT,
        Error::LowDisk { .. } => StatusCode::INSUFFICIENT_STORAGE,
        Error::VersionMoved { .. } => StatusCode::PRECONDITION_FAILED,
        Error::NotFound { .. } => StatusCode::NOT_FOUND,
        Error::Unimplemented { .. } => StatusCode::NOT_IMPLEMENTED,
        Error::DeadlineExceeded { .. } | Error::OutcomeUnknown { .. } => {
            StatusCode::GATEWAY_TIMEOUT
        }
        Error::DataLoss { .. } | Error::Internal { .. } => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Whole seconds for `Retry-After`: at least one where waiting helps. Not where it does not: a node that belongs to no
/// cluster is to be left for another.
pub(super) fn retry_after_seconds(error: &Error) -> Option<u64> {
    let unavailable = matches!(
        http_code(error),
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::INSUFFICIENT_STORAGE
    );
    (unavailable && error.retryable())
        .then(|| error.retry_after().max(Duration::from_secs(1)).as_secs())
}

/// A code's name in the specification of gRPC.
pub(super) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use flotilla_proto::v1;

    use super::*;
    use crate::ids::{ClusterId, NodeId, RegionId};

    /// What docs/api.md says of an error.
    struct Row {
        grpc: String,
        http: String,
        applied: String,
        repeat: String,
    }

    /// The table of errors in docs/api.md, by the names in its first column.
    fn documented() -> BTreeMap<String, Row> {
        let page = include_str!("../../../docs/api.md");
        let (_, table) = page.split_once("| error | gRPC |").expect("the table of errors");
        let mut rows = BTreeMap::new();
        for line in table.lines().skip(2).take_while(|line| line.starts_with('|')) {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let ["", what, grpc, http, applied, repeat, ""] = &cells[..] else { panic!("{line}") };
            let (names, _) = what.split_once(':').unwrap_or((what, ""));
            for name in names.split('`').skip(1).step_by(2) {
                let row = Row {
                    grpc: grpc.trim_matches('`').to_owned(),
                    http: (*http).to_owned(),
                    applied: (*applied).to_owned(),
                    repeat: (*repeat).to_owned(),
                };
                assert!(rows.insert(name.to_owned(), row).is_none(), "{name} has two rows");
            }
        }
        rows
    }

    /// The error's name on the page. No `_`: a new error does not compile until it has one.
    fn name(error: &Error) -> &'static str {
        match error {
            Error::InvalidArgument { .. } => "InvalidArgument",
            Error::NotLeader { .. } => "NotLeader",
            Error::EpochNotMatch { .. } => "EpochNotMatch",
            Error::RegionNotFound { .. } => "RegionNotFound",
            Error::KeyNotInRegion { .. } => "KeyNotInRegion",
            Error::NodeMismatch { .. } => "NodeMismatch",
            Error::WrongCluster { .. } => "WrongCluster",
            Error::CrossRegion { .. } => "CrossRegion",
            Error::Busy { .. } => "ServerIsBusy",
            Error::NoLeader { .. } => "NoLeader",
            Error::NotJoined { .. } => "NotJoined",
            Error::Draining => "Draining",
            Error::NotReady { .. } => "NotReady",
            Error::VersionMoved { .. } => "VersionMoved",
            Error::LowDisk { .. } => "LowDisk",
            Error::FailedPrecondition { .. } => "FailedPrecondition",
            Error::NotFound { .. } => "NotFound",
            Error::Unimplemented { .. } => "Unimplemented",
            Error::NotACounter { .. } => "NotACounter",
            Error::DeadlineExceeded { .. } => "DeadlineExceeded",
            Error::OutcomeUnknown { .. } => "OutcomeUnknown",
            Error::DataLoss { .. } => "DataLoss",
            Error::Internal { .. } => "Internal",
        }
    }

    /// At least one of each.
    fn errors() -> Vec<Error> {
        let region = RegionId(2);
        let message = || "why".to_owned();
        let invalid = |field: &str, limit| Error::InvalidArgument {
            field: field.into(),
            message: message(),
            limit,
        };
        vec![
            invalid("key", 0),
            invalid("value", 0),
            invalid("value", 8),
            Error::NotLeader { region, leader: None },
            Error::EpochNotMatch { regions: vec![] },
            Error::RegionNotFound { region },
            Error::KeyNotInRegion { region: Box::default() },
            Error::NodeMismatch { asked: NodeId(1), actual: NodeId(2) },
            Error::WrongCluster { asked: ClusterId([1; 16]), actual: ClusterId([2; 16]) },
            Error::CrossRegion { regions: vec![region] },
            Error::Busy { queue: message(), retry_after: Duration::from_millis(50) },
            Error::NoLeader { region },
            Error::NotJoined { removed: false },
            Error::NotJoined { removed: true },
            Error::Draining,
            Error::NotReady { message: message() },
            Error::VersionMoved { expected: 1, actual: 2 },
            Error::LowDisk { node: NodeId(1), available_bytes: 7, low: vec![NodeId(1)] },
            Error::FailedPrecondition { message: message() },
            Error::NotFound { message: message() },
            Error::Unimplemented { message: message() },
            Error::NotACounter { message: message() },
            Error::DeadlineExceeded { message: message() },
            Error::OutcomeUnknown { message: message() },
            Error::DataLoss { message: message() },
            Error::Internal { message: message() },
        ]
    }

    #[test]
    fn every_error_is_what_the_page_says_of_it() {
        let mut rows = documented();
        let documented = rows.keys().cloned().collect::<BTreeSet<_>>();
        let mut met = BTreeSet::new();
        for error in errors() {
            let name = name(&error);
            met.insert(name.to_owned());
            let row = rows.get_mut(name).unwrap_or_else(|| panic!("{name} has no row"));
            let status = status(&error);
            assert_eq!(code_name(status.code()), row.grpc, "{error:?}");
            assert_eq!(status.message(), error.to_string(), "{error:?}");
            let detail = flotilla_proto::status::detail(&status).expect("an ErrorDetail");
            assert_eq!(detail, error.detail(), "{error:?}");
            let applied = if detail.maybe_applied { "**maybe**" } else { "no" };
            assert_eq!(applied, row.applied, "{error:?}");
            let no = row.repeat == "no"
                || row.repeat.starts_with("no,")
                || row.repeat.starts_with("no;");
            assert_eq!(detail.retryable, !no, "{error:?}: {}", row.repeat);
            let http = http_code(&error).as_u16();
            let http = match http {
                413 => "413 for a value".to_owned(),
                http => http.to_string(),
            };
            assert!(
                row.http.split("; ").any(|said| said == http),
                "{error:?}: {http}, {}",
                row.http
            );
            let waits = matches!(http_code(&error).as_u16(), 503 | 507) && error.retryable();
            assert_eq!(retry_after_seconds(&error).is_some(), waits, "{error:?}");
        }
        assert_eq!(met, documented, "the page has all of them and no other");
    }

    #[test]
    fn details_name_the_fix() {
        use v1::error_detail::Reason;
        let leader = v1::Leader { peer_id: 5, node_id: 3, client_address: "n3:7420".into() };
        let error = Error::NotLeader { region: RegionId(2), leader: Some(leader.clone()) };
        let detail = flotilla_proto::status::detail(&status(&error)).expect("an ErrorDetail");
        let want = v1::NotLeader { region_id: 2, leader: Some(leader) };
        assert_eq!(detail.reason, Some(Reason::NotLeader(want)));
    }
}
