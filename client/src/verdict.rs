//! What a failed attempt means for the call: give up, or try again, and how.
//!
//! The rule that everything here serves: a write that may have been applied is never sent again. It is
//! certain that a write was not applied in two cases only. The server said so in the detail of its
//! error; or the request never left this process, because no connection could be made. All else, a
//! connection that broke, a proxy's error, silence, leaves the outcome open. Reads change nothing
//! and may be repeated after anything that can pass.

use std::{error::Error as _, time::Duration};

use flotilla_proto::v1::{self, ErrorDetail, Leader, Region, error_detail::Reason};
use tonic::{Code, ConnectError, Status, TimeoutExpired};

use crate::Error;

/// Whether repeating a request can do harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
}

/// Why one attempt failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The request never left this process.
    NotSent { message: String },
    /// Sent, or perhaps sent, and no answer came in the time of the attempt.
    Silent,
    /// The connection broke (`is_cut`), or somebody answered who is not a node.
    Broken { code: Code, message: String, is_cut: bool },
    /// A node said what went wrong.
    Answered { code: Code, message: String, detail: ErrorDetail },
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let (code, message) = (status.code(), status.message().to_owned());
        let mut source = status.source();
        while let Some(error) = source {
            if error.is::<ConnectError>() || was_never_dispatched(error) {
                return Self::NotSent { message: root_cause(error) };
            }
            if error.is::<TimeoutExpired>() {
                return Self::Silent;
            }
            source = error.source();
        }
        match flotilla_proto::status::detail(&status) {
            Some(detail) => Self::Answered { code, message, detail },
            // What came over the wire has no source; what went wrong here has.
            None => match status.source() {
                Some(source) => {
                    let message = format!("{message}: {}", root_cause(source));
                    Self::Broken { code, message, is_cut: true }
                }
                None => Self::Broken { code, message, is_cut: false },
            },
        }
    }
}

impl Failure {
    /// Whether the connection is of no more use.
    pub(crate) fn is_of_connection(&self) -> bool {
        match self {
            Self::NotSent { .. } => true,
            Self::Broken { is_cut, .. } => *is_cut,
            Self::Silent | Self::Answered { .. } => false,
        }
    }
}

/// Hyper calls a request "canceled" only when it still had it when the connection closed.
fn was_never_dispatched(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled)
}

/// "connection refused" says more than the layers around it.
pub(crate) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        cause = error.to_string();
        source = error.source();
    }
    cause
}

/// What to change before the next attempt.
#[derive(Debug, PartialEq)]
pub(crate) enum Remedy {
    /// Nothing but time helps: a full queue, an election.
    Wait,
    /// This peer leads the region, or (absent) nobody is known to.
    Leader { region_id: u64, leader: Option<Leader> },
    /// These regions are the current ones.
    Regions(Vec<Region>),
    /// The node does not have this region.
    ForgetRegion(u64),
    /// Ask another node: this one is out of reach, leaving, or somebody else.
    OtherNode,
    /// Ask another node: this one belongs to no cluster. When all say so, give up.
    Unjoined { removed: bool },
}

/// How a call goes on after an attempt failed.
#[derive(Debug, PartialEq)]
pub(crate) enum Verdict {
    Fail(Error),
    Retry { remedy: Remedy, at_least: Duration, why: String },
}

impl Verdict {
    fn retry(remedy: Remedy, why: String) -> Self {
        Self::Retry { remedy, at_least: Duration::ZERO, why }
    }
}

/// Decides; does nothing.
pub(crate) fn judge(kind: Kind, failure: Failure) -> Verdict {
    match failure {
        Failure::NotSent { message } => Verdict::retry(Remedy::OtherNode, message),
        Failure::Silent => match kind {
            Kind::Read => Verdict::retry(Remedy::OtherNode, "no answer in time".into()),
            Kind::Write => maybe_applied("no answer in time".into()),
        },
        Failure::Broken { code, message, is_cut: _ } => judge_broken(kind, code, message),
        Failure::Answered { code, message, detail } => judge_answer(kind, code, message, detail),
    }
}

fn maybe_applied(message: String) -> Verdict {
    Verdict::Fail(unknown(message))
}

/// What a node said of it begins with that the outcome is unknown, which the error says itself.
fn unknown(mut message: String) -> Error {
    if let Some(why) = message.strip_prefix("outcome unknown: ") {
        message = why.to_owned();
    }
    Error::MaybeApplied { message }
}

fn judge_broken(kind: Kind, code: Code, message: String) -> Verdict {
    let text = if message.is_empty() { code.description().to_owned() } else { message };
    match (code, kind) {
        // These are said before a request is looked at, by the server's transport or a proxy.
        (Code::InvalidArgument, _) => {
            Verdict::Fail(Error::InvalidArgument { field: String::new(), limit: 0, message: text })
        }
        (Code::NotFound, _) => Verdict::Fail(Error::NotFound { message: text }),
        (
            Code::Unimplemented
            | Code::Unauthenticated
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::AlreadyExists,
            _,
        ) => Verdict::Fail(Error::Refused { code, message: text }),
        (_, Kind::Write) => maybe_applied(text),
        // An answer too large to take in will be as large next time.
        (Code::OutOfRange, Kind::Read) => Verdict::Fail(Error::Refused { code, message: text }),
        (Code::DataLoss, Kind::Read) => Verdict::Fail(Error::DataLoss { message: text }),
        (
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::Internal
            | Code::Unavailable,
            Kind::Read,
        ) => Verdict::retry(Remedy::OtherNode, text),
    }
}

fn judge_answer(kind: Kind, code: Code, message: String, detail: ErrorDetail) -> Verdict {
    if kind == Kind::Write && detail.maybe_applied {
        return maybe_applied(message);
    }
    if let Some(Reason::NotJoined(reason)) = &detail.reason {
        return Verdict::retry(Remedy::Unjoined { removed: reason.removed }, message);
    }
    if !detail.retryable {
        return Verdict::Fail(final_error(code, message, detail.reason));
    }
    let at_least = Duration::from_millis(detail.retry_after_ms);
    let remedy = match detail.reason {
        Some(Reason::NotLeader(reason)) => {
            Remedy::Leader { region_id: reason.region_id, leader: reason.leader }
        }
        Some(Reason::NoLeader(reason)) => {
            Remedy::Leader { region_id: reason.region_id, leader: None }
        }
        Some(Reason::EpochNotMatch(reason)) => Remedy::Regions(reason.regions),
        Some(Reason::KeyNotInRegion(reason)) => match reason.region {
            Some(region) => Remedy::Regions(vec![region]),
            None => Remedy::ForgetRegion(reason.region_id),
        },
        Some(Reason::RegionNotFound(reason)) => Remedy::ForgetRegion(reason.region_id),
        Some(Reason::NodeMismatch(_) | Reason::WrongCluster(_) | Reason::Draining(_)) => {
            Remedy::OtherNode
        }
        Some(
            Reason::ServerIsBusy(_)
            | Reason::LowDisk(_)
            | Reason::OutcomeUnknown(_)
            | Reason::CrossRegion(_)
            | Reason::NotJoined(_)
            | Reason::VersionMoved(_)
            | Reason::InvalidArgument(_)
            | Reason::NotACounter(_),
        ) => Remedy::Wait,
        // Without a reason: the node is not ready yet, or ran out of time. Another may be better.
        None => Remedy::OtherNode,
    };
    Verdict::Retry { remedy, at_least, why: message }
}

/// Why a region has not applied its part of a write.
#[derive(Debug, PartialEq)]
pub(crate) enum RegionFailure {
    /// It may have been applied, or it would be refused again.
    Final(Error),
    /// It was certainly not applied, and may be repeated after this pause.
    Passing { at_least: Duration, why: String, otherwise: Error },
}

/// Decides on the error of a region as if its part had been a call of its own.
pub(crate) fn judge_region(result: v1::RegionWriteResult) -> RegionFailure {
    let v1::RegionWriteResult { error, maybe_applied, code, detail, .. } = result;
    if maybe_applied {
        return RegionFailure::Final(unknown(error));
    }
    let ErrorDetail { retryable, retry_after_ms, reason, .. } = detail.unwrap_or_default();
    let otherwise = final_error(Code::from_i32(code), error.clone(), reason);
    match retryable {
        true => RegionFailure::Passing {
            at_least: Duration::from_millis(retry_after_ms),
            why: error,
            otherwise,
        },
        false => RegionFailure::Final(otherwise),
    }
}

fn final_error(code: Code, message: String, reason: Option<Reason>) -> Error {
    match reason {
        Some(Reason::InvalidArgument(reason)) => {
            Error::InvalidArgument { field: reason.field, limit: reason.limit, message }
        }
        Some(Reason::CrossRegion(reason)) => Error::CrossRegion { region_ids: reason.region_ids },
        Some(Reason::VersionMoved(reason)) => {
            Error::VersionMoved { expected: reason.expected, actual: reason.actual }
        }
        Some(Reason::NotACounter(_)) => Error::NotACounter { message },
        Some(Reason::NotJoined(reason)) => Error::NotJoined { removed: reason.removed, message },
        _ => match code {
            Code::NotFound => Error::NotFound { message },
            Code::DataLoss => Error::DataLoss { message },
            Code::Internal | Code::Unknown | Code::Ok => Error::Internal { message },
            _ => Error::Refused { code, message },
        },
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::v1::{
        Draining, EpochNotMatch, NoLeader, NotJoined, NotLeader, OutcomeUnknown, ServerIsBusy,
        VersionMoved,
    };

    use super::*;

    const CODES: [Code; 17] = [
        Code::Ok,
        Code::Cancelled,
        Code::Unknown,
        Code::InvalidArgument,
        Code::DeadlineExceeded,
        Code::NotFound,
        Code::AlreadyExists,
        Code::PermissionDenied,
        Code::ResourceExhausted,
        Code::FailedPrecondition,
        Code::Aborted,
        Code::OutOfRange,
        Code::Unimplemented,
        Code::Internal,
        Code::Unavailable,
        Code::DataLoss,
        Code::Unauthenticated,
    ];

    fn answered(
        code: Code,
        maybe_applied: bool,
        retryable: bool,
        reason: Option<Reason>,
    ) -> Failure {
        let detail = ErrorDetail { maybe_applied, retryable, retry_after_ms: 0, reason };
        Failure::Answered { code, message: "text".into(), detail }
    }

    fn retries(verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::Retry { .. })
    }

    #[test]
    fn a_write_that_may_have_been_applied_is_never_repeated() {
        for code in CODES {
            for retryable in [false, true] {
                for reason in [None, Some(Reason::OutcomeUnknown(OutcomeUnknown {}))] {
                    let verdict = judge(Kind::Write, answered(code, true, retryable, reason));
                    assert_eq!(verdict, maybe_applied("text".into()), "{code:?} {retryable}");
                }
            }
            let broken = Failure::Broken { code, message: "cut".into(), is_cut: true };
            assert!(!retries(&judge(Kind::Write, broken)), "{code:?} without a detail");
        }
        assert!(!retries(&judge(Kind::Write, Failure::Silent)));
    }

    #[test]
    fn that_an_outcome_is_unknown_is_said_once() {
        let detail = ErrorDetail {
            maybe_applied: true,
            retryable: true,
            retry_after_ms: 0,
            reason: Some(Reason::OutcomeUnknown(OutcomeUnknown {})),
        };
        let message = "outcome unknown: leadership was lost after the proposal".to_owned();
        let failure = Failure::Answered { code: Code::DeadlineExceeded, message, detail };
        let Verdict::Fail(error) = judge(Kind::Write, failure) else { panic!("it is repeated") };
        let want = "the outcome is not known, it may have been done: leadership was lost after the proposal";
        assert_eq!(error.to_string(), want);
    }

    #[test]
    fn a_write_that_was_not_applied_is_repeated_when_that_can_help() {
        let not_sent = Failure::NotSent { message: "refused".into() };
        assert!(retries(&judge(Kind::Write, not_sent)));
        let not_leader = NotLeader { region_id: 2, leader: None };
        for (code, reason) in [
            (Code::FailedPrecondition, Some(Reason::NotLeader(not_leader))),
            (Code::FailedPrecondition, Some(Reason::EpochNotMatch(EpochNotMatch::default()))),
            (Code::Unavailable, Some(Reason::NoLeader(NoLeader { region_id: 2 }))),
            (Code::Unavailable, Some(Reason::Draining(Draining {}))),
            (Code::ResourceExhausted, Some(Reason::ServerIsBusy(ServerIsBusy::default()))),
            (Code::Unavailable, None),
        ] {
            let why = format!("{code:?} {reason:?}");
            assert!(retries(&judge(Kind::Write, answered(code, false, true, reason))), "{why}");
        }
    }

    #[test]
    fn what_will_fail_again_is_not_repeated() {
        let moved = Reason::VersionMoved(VersionMoved { expected: 1, actual: 2 });
        for (code, reason, want) in [
            (Code::Aborted, Some(moved), Error::VersionMoved { expected: 1, actual: 2 }),
            (Code::NotFound, None, Error::NotFound { message: "text".into() }),
            (Code::DataLoss, None, Error::DataLoss { message: "text".into() }),
            (
                Code::FailedPrecondition,
                None,
                Error::Refused { code: Code::FailedPrecondition, message: "text".into() },
            ),
        ] {
            for kind in [Kind::Read, Kind::Write] {
                let verdict = judge(kind, answered(code, false, false, reason.clone()));
                assert_eq!(verdict, Verdict::Fail(want.clone()), "{code:?} {kind:?}");
            }
        }
    }

    #[test]
    fn a_read_is_repeated_after_anything_that_can_pass() {
        assert!(retries(&judge(Kind::Read, Failure::Silent)));
        for code in [Code::Unavailable, Code::Cancelled, Code::Unknown, Code::Internal] {
            let broken = Failure::Broken { code, message: String::new(), is_cut: false };
            assert!(retries(&judge(Kind::Read, broken)), "{code:?}");
        }
        let unknown = Some(Reason::OutcomeUnknown(OutcomeUnknown {}));
        assert!(retries(&judge(Kind::Read, answered(Code::DeadlineExceeded, true, true, unknown))));
    }

    #[test]
    fn an_unjoined_node_sends_the_caller_elsewhere() {
        let reason = Some(Reason::NotJoined(NotJoined { removed: true }));
        let verdict = judge(Kind::Write, answered(Code::Unavailable, false, false, reason));
        let Verdict::Retry { remedy, .. } = verdict else { panic!("{verdict:?}") };
        assert_eq!(remedy, Remedy::Unjoined { removed: true });
    }

    #[test]
    fn the_servers_pause_is_kept() {
        let detail = ErrorDetail {
            retryable: true,
            retry_after_ms: 70,
            reason: Some(Reason::ServerIsBusy(ServerIsBusy { queue: "log".into() })),
            ..ErrorDetail::default()
        };
        let code = Code::ResourceExhausted;
        let failure = Failure::Answered { code, message: String::new(), detail };
        let verdict = judge(Kind::Write, failure);
        let Verdict::Retry { at_least, remedy, .. } = verdict else { panic!("{verdict:?}") };
        assert_eq!((at_least, remedy), (Duration::from_millis(70), Remedy::Wait));
    }

    #[test]
    fn details_that_do_not_decode_promise_nothing() {
        let status = Status::with_details(Code::Unavailable, "proxy", vec![0xff; 3].into());
        let failure = Failure::from(status);
        assert!(matches!(failure, Failure::Broken { .. }), "{failure:?}");
        assert!(!retries(&judge(Kind::Write, failure)));
    }
}
