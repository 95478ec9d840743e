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
        Error::DeadlineExceeded { .. } | Error::OutcomeUnknown { .. } => {
            StatusCode::GATEWAY_TIMEOUT
        }
        Error::DataLoss { .. } | Error::Internal { .. } => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Whole seconds for `Retry-After`: at least one where waiting helps.
pub(super) fn retry_after_seconds(error: &Error) -> Option<u64> {
    let unavailable = matches!(
        http_code(error),
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::INSUFFICIENT_STORAGE
    );
    unavailable.then(|| error.retry_after().max(Duration::from_secs(1)).as_secs())
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
    use flotilla_proto::v1;

    use super::*;
    use crate::ids::{NodeId, RegionId};

    fn text() -> String {
        "why".into()
    }

    /// One of each variant, with its row of the table: code, HTTP, may it have been applied, may it
    /// be repeated.
    fn table() -> Vec<(Error, Code, u16, bool, bool)> {
        let region = RegionId(2);
        let invalid = |field: &str, limit| Error::InvalidArgument {
            field: field.into(),
            message: text(),
            limit,
        };
        let key_not_in_region = Error::KeyNotInRegion { region: Box::default() };
        let busy = Error::Busy { queue: text(), retry_after: Duration::from_millis(50) };
        let low_disk = Error::LowDisk { node: NodeId(1), available_bytes: 7 };
        let mismatch = Error::NodeMismatch { asked: NodeId(1), actual: NodeId(2) };
        vec![
            (invalid("key", 0), Code::InvalidArgument, 400, false, false),
            (invalid("value", 8), Code::InvalidArgument, 413, false, false),
            (Error::NotLeader { region, leader: None }, Code::FailedPrecondition, 503, false, true),
            (Error::EpochNotMatch { regions: vec![] }, Code::FailedPrecondition, 503, false, true),
            (Error::RegionNotFound { region }, Code::FailedPrecondition, 503, false, true),
            (key_not_in_region, Code::FailedPrecondition, 503, false, true),
            (mismatch, Code::FailedPrecondition, 503, false, true),
            (
                Error::CrossRegion { regions: vec![region] },
                Code::FailedPrecondition,
                409,
                false,
                false,
            ),
            (busy, Code::ResourceExhausted, 503, false, true),
            (Error::NoLeader { region }, Code::Unavailable, 503, false, true),
            (Error::NotJoined { removed: false }, Code::Unavailable, 503, false, false),
            (Error::NotJoined { removed: true }, Code::Unavailable, 503, false, false),
            (Error::Draining, Code::Unavailable, 503, false, true),
            (Error::NotReady { message: text() }, Code::Unavailable, 503, false, true),
            (Error::VersionMoved { expected: 1, actual: 2 }, Code::Aborted, 412, false, false),
            (low_disk, Code::ResourceExhausted, 507, false, true),
            (
                Error::FailedPrecondition { message: text() },
                Code::FailedPrecondition,
                409,
                false,
                false,
            ),
            (Error::NotFound { message: text() }, Code::NotFound, 404, false, false),
            (Error::NotACounter { message: text() }, Code::FailedPrecondition, 409, false, false),
            (Error::DeadlineExceeded { message: text() }, Code::DeadlineExceeded, 504, false, true),
            (Error::OutcomeUnknown { message: text() }, Code::DeadlineExceeded, 504, true, true),
            (Error::DataLoss { message: text() }, Code::DataLoss, 500, false, false),
            (Error::Internal { message: text() }, Code::Internal, 500, true, false),
        ]
    }

    #[test]
    fn every_error_has_its_row() {
        for (error, code, http, maybe_applied, retryable) in table() {
            let status = status(&error);
            assert_eq!(status.code(), code, "{error:?}");
            assert_eq!(status.message(), error.to_string(), "{error:?}");
            let detail = flotilla_proto::status::detail(&status).expect("an ErrorDetail");
            assert_eq!(detail, error.detail(), "{error:?}");
            assert_eq!(detail.maybe_applied, maybe_applied, "{error:?}");
            assert_eq!(detail.retryable, retryable, "{error:?}");
            assert_eq!(http_code(&error).as_u16(), http, "{error:?}");
            assert_eq!(
                retry_after_seconds(&error).is_some(),
                http == 503 || http == 507,
                "{error:?}"
            );
        }
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
