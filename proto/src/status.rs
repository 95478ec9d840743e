//! How an [`ErrorDetail`](crate::v1::ErrorDetail) travels in a gRPC status.
//!
//! The libraries of gRPC take `grpc-status-details-bin` for an encoded `google.rpc.Status` that
//! repeats code and message of the call; some (Go's) turn a status whose details are something else
//! into INTERNAL. So the detail is wrapped in one, as its first `Any`. What generic clients and
//! proxies understand stands beside it: `BadRequest` names the field at fault, `RetryInfo` the pause
//! after which the request may be repeated, where that is safe.

use prost::Message;
use prost_types::Any;
use tonic::{Code, Status};
use tonic_types::{BadRequest, RetryInfo, pb};

use crate::v1::{ErrorDetail, error_detail::Reason};

/// What the first `Any` holds.
const TYPE_URL: &str = "type.googleapis.com/flotilla.v1.ErrorDetail";

/// A status that carries `detail`.
#[must_use]
pub fn with_detail(code: Code, message: impl Into<String>, detail: &ErrorDetail) -> Status {
    let message = message.into();
    let mut details = vec![any(TYPE_URL, detail)];
    if let Some(Reason::InvalidArgument(reason)) = &detail.reason {
        let violation = pb::bad_request::FieldViolation {
            field: reason.field.clone(),
            description: message.clone(),
            ..Default::default()
        };
        let bad = pb::BadRequest { field_violations: vec![violation] };
        details.push(any(BadRequest::TYPE_URL, &bad));
    }
    // Who repeats by it does not look further: a write that may have been applied has none.
    if detail.retryable && !detail.maybe_applied {
        let retry_delay = std::time::Duration::from_millis(detail.retry_after_ms).try_into().ok();
        details.push(any(RetryInfo::TYPE_URL, &pb::RetryInfo { retry_delay }));
    }
    let wrapped = pb::Status { code: code.into(), message: message.clone(), details };
    Status::with_details(code, message, wrapped.encode_to_vec().into())
}

fn any(type_url: &str, message: &impl Message) -> Any {
    Any { type_url: type_url.to_owned(), value: message.encode_to_vec() }
}

/// The detail that a status carries; `None` when it is not from a node of Flotilla.
#[must_use]
pub fn detail(status: &Status) -> Option<ErrorDetail> {
    let wrapped = pb::Status::decode(status.details()).ok()?;
    let any = wrapped.details.iter().find(|any| any.type_url == TYPE_URL)?;
    ErrorDetail::decode(&any.value[..]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detail_comes_back_also_when_it_says_nothing() {
        for detail in
            [ErrorDetail::default(), ErrorDetail { maybe_applied: true, ..Default::default() }]
        {
            let status = with_detail(Code::Aborted, "why", &detail);
            assert_eq!(super::detail(&status), Some(detail));
        }
    }

    #[test]
    fn code_and_message_are_repeated_as_other_languages_expect() {
        let status = with_detail(Code::NotFound, "no such node", &ErrorDetail::default());
        let wrapped = pb::Status::decode(status.details()).expect("a google.rpc.Status");
        assert_eq!((wrapped.code, wrapped.message.as_str()), (5, "no such node"));
        assert_eq!((status.code(), status.message()), (Code::NotFound, "no such node"));
    }

    #[test]
    fn what_every_client_knows_stands_beside_the_detail() {
        use tonic_types::StatusExt as _;

        use crate::v1::{InvalidArgument, NoLeader, OutcomeUnknown};
        let invalid = InvalidArgument { field: "key".into(), limit: 9 };
        for (why, detail, field, pause_ms) in [
            (
                "a field at fault",
                ErrorDetail {
                    reason: Some(Reason::InvalidArgument(invalid)),
                    ..Default::default()
                },
                Some("key"),
                None,
            ),
            (
                "a pause",
                ErrorDetail {
                    retryable: true,
                    retry_after_ms: 50,
                    reason: Some(Reason::NoLeader(NoLeader { region_id: 2 })),
                    ..Default::default()
                },
                None,
                Some(50),
            ),
            (
                "a write that may have been applied is not to be repeated blindly",
                ErrorDetail {
                    maybe_applied: true,
                    retryable: true,
                    reason: Some(Reason::OutcomeUnknown(OutcomeUnknown {})),
                    ..Default::default()
                },
                None,
                None,
            ),
        ] {
            let status = with_detail(Code::Unavailable, "why", &detail);
            assert_eq!(super::detail(&status), Some(detail), "{why}");
            let bad = status.get_details_bad_request();
            let fields = bad.map(|bad| bad.field_violations[0].field.clone());
            assert_eq!(fields.as_deref(), field, "{why}");
            let pause = status.get_details_retry_info().and_then(|info| info.retry_delay);
            assert_eq!(pause.map(|pause| pause.as_millis()), pause_ms, "{why}");
        }
    }

    #[test]
    fn other_details_are_nobodys_promise() {
        for details in [vec![], vec![0xff; 3], vec![8, 1]] {
            let status = Status::with_details(Code::Unavailable, "proxy", details.into());
            assert_eq!(detail(&status), None);
        }
    }
}
