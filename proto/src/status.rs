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

/// Bound: bytes of a message; what comes after them is cut off.
const MESSAGE_BYTES_MAX: usize = 768;
/// Bound: bytes of a field's name.
const FIELD_BYTES_MAX: usize = 128;
/// Bound: bytes of the wrapped status, which it is never more than. They travel as base64 in a header, beside the
/// message, of which a byte may become three. Libraries and proxies refuse more than 8 KiB of headers, some of
/// them by chance, and then nobody is told whether a write was applied.
const DETAILS_BYTES_MAX: usize = 3 << 10;
/// Of them, what a detail may have beside two messages and the rest.
const DETAIL_BYTES_MAX: usize = 1 << 10;

/// A status that carries `detail`.
///
/// Bound: all of it fits into the headers that any client takes. What a detail has of regions is left out where
/// it does not: whoever routes by himself asks where they are.
#[must_use]
pub fn with_detail(code: Code, message: impl Into<String>, detail: &ErrorDetail) -> Status {
    let message = cut(message.into(), MESSAGE_BYTES_MAX);
    let detail = &bounded(detail.clone());
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
    debug_assert!(wrapped.encoded_len() <= DETAILS_BYTES_MAX, "{}", wrapped.encoded_len());
    Status::with_details(code, message, wrapped.encode_to_vec().into())
}

/// The first bytes of a text, whole characters of them.
fn cut(mut text: String, bytes_max: usize) -> String {
    const DOTS: &str = "…";
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max - DOTS.len()));
        text.push_str(DOTS);
    }
    text
}

/// As much of a detail as fits. What it promises stays, and so does its kind.
fn bounded(mut detail: ErrorDetail) -> ErrorDetail {
    if let Some(Reason::InvalidArgument(reason)) = &mut detail.reason {
        reason.field = cut(std::mem::take(&mut reason.field), FIELD_BYTES_MAX);
    }
    while detail.encoded_len() > DETAIL_BYTES_MAX {
        match &mut detail.reason {
            // Each of them is true by itself.
            Some(Reason::EpochNotMatch(reason)) if !reason.regions.is_empty() => {
                reason.regions.pop();
            }
            Some(Reason::KeyNotInRegion(reason)) if reason.region.is_some() => reason.region = None,
            Some(Reason::CrossRegion(reason)) => {
                reason.region_ids.truncate(reason.region_ids.len() / 2);
            }
            Some(Reason::NotLeader(reason)) if reason.leader.is_some() => reason.leader = None,
            _ => detail.reason = None,
        }
    }
    detail
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
    fn what_is_too_large_for_a_header_keeps_its_promise_and_its_kind() {
        use crate::v1::{
            CrossRegion, EpochNotMatch, InvalidArgument, KeyNotInRegion, Leader, NotLeader, Region,
            ServerIsBusy,
        };
        let region = |key_bytes: usize| Region {
            region_id: u64::MAX,
            start_key: vec![b'a'; key_bytes].into(),
            end_key: vec![b'b'; key_bytes].into(),
            ..Region::default()
        };
        let leader = Leader { client_address: "n".repeat(10_000), ..Leader::default() };
        let epoch = |regions| Reason::EpochNotMatch(EpochNotMatch { regions });
        let outside = |region| Reason::KeyNotInRegion(KeyNotInRegion { region_id: 7, region });
        let not_leader = |leader| Reason::NotLeader(NotLeader { region_id: 7, leader });
        let crossing =
            |count| Reason::CrossRegion(CrossRegion { region_ids: vec![u64::MAX; count] });
        let invalid =
            |field: String| Reason::InvalidArgument(InvalidArgument { field, limit: u64::MAX });
        let busy = |queue: String| Reason::ServerIsBusy(ServerIsBusy { queue });
        let shortened = format!("{}…", "é".repeat(62));
        for (reason, want) in [
            (epoch(vec![region(4096)]), Some(epoch(vec![]))),
            (epoch(vec![region(100), region(100)]), Some(epoch(vec![region(100), region(100)]))),
            (epoch(vec![region(100), region(4096)]), Some(epoch(vec![region(100)]))),
            (outside(Some(region(4096))), Some(outside(None))),
            (not_leader(Some(leader)), Some(not_leader(None))),
            (crossing(1024), Some(crossing(64))),
            (invalid("é".repeat(1000)), Some(invalid(shortened))),
            (busy("q".repeat(10_000)), None),
        ] {
            let detail = |reason| ErrorDetail {
                maybe_applied: true,
                retryable: true,
                retry_after_ms: u64::MAX,
                reason,
            };
            // The longest there can be, of characters that take most in a header.
            let status = with_detail(Code::Aborted, "é".repeat(1 << 20), &detail(Some(reason)));
            assert_eq!(super::detail(&status), Some(detail(want)));
            let details = status.details().len();
            assert!(details <= DETAILS_BYTES_MAX, "{details}");
            let headers = status.message().len() * 3 + details.div_ceil(3) * 4;
            assert!(headers < (8 << 10) - 1024, "{headers}");
            assert!(status.message().ends_with("é…"));
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
