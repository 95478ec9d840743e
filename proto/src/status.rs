//! How an [`ErrorDetail`](crate::v1::ErrorDetail) travels in a gRPC status.
//!
//! The libraries of gRPC take `grpc-status-details-bin` for an encoded `google.rpc.Status` that
//! repeats code and message of the call; some (Go's) turn a status whose details are something else
//! into INTERNAL. So the detail is wrapped in one, as its only `Any`.

use prost::Message;
use prost_types::Any;
use tonic::{Code, Status};

use crate::v1::ErrorDetail;

/// What the `Any` holds.
const TYPE_URL: &str = "type.googleapis.com/flotilla.v1.ErrorDetail";

/// `google.rpc.Status`, which is part of no crate here.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// A status that carries `detail`.
#[must_use]
pub fn with_detail(code: Code, message: impl Into<String>, detail: &ErrorDetail) -> Status {
    let message = message.into();
    let wrapped = RpcStatus {
        code: code.into(),
        message: message.clone(),
        details: vec![Any { type_url: TYPE_URL.to_owned(), value: detail.encode_to_vec() }],
    };
    Status::with_details(code, message, wrapped.encode_to_vec().into())
}

/// The detail that a status carries; `None` when it is not from a node of Flotilla.
#[must_use]
pub fn detail(status: &Status) -> Option<ErrorDetail> {
    let wrapped = RpcStatus::decode(status.details()).ok()?;
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
        let wrapped = RpcStatus::decode(status.details()).expect("a google.rpc.Status");
        assert_eq!((wrapped.code, wrapped.message.as_str()), (5, "no such node"));
        assert_eq!((status.code(), status.message()), (Code::NotFound, "no such node"));
    }

    #[test]
    fn other_details_are_nobodys_promise() {
        for details in [vec![], vec![0xff; 3], vec![8, 1]] {
            let status = Status::with_details(Code::Unavailable, "proxy", details.into());
            assert_eq!(detail(&status), None);
        }
    }
}
