//! Why a client's request failed, in the terms a client can act on.
//!
//! The question a client has is *was my write applied?* Each variant answers it
//! ([`Error::maybe_applied`]), travels between nodes as an [`ErrorDetail`], and becomes a gRPC status
//! in one place, `api/status.rs`.

use std::time::Duration;

use flotilla_proto::v1::{self, ErrorDetail, error_detail::Reason};

use crate::ids::{ClusterId, NodeId, RegionId};

/// A refusal or a failure of one request.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// The caller must change the request. `limit` is 0 when none was passed.
    #[error("{field}: {message}")]
    InvalidArgument { field: String, message: String, limit: u64 },
    /// This node holds the region but does not lead it.
    #[error("not the leader of region {region}")]
    NotLeader { region: RegionId, leader: Option<v1::Leader> },
    /// The caller's view of the region is old; `regions` is the current one.
    #[error("the region's epoch has moved")]
    EpochNotMatch { regions: Vec<v1::Region> },
    /// No peer of the region is here.
    #[error("region {region} is not on this node")]
    RegionNotFound { region: RegionId },
    /// The key is outside of the region that the caller named.
    #[error("the key is not in region {}", region.region_id)]
    KeyNotInRegion { region: Box<v1::Region> },
    /// The message was for another node.
    #[error("asked for node {asked}, this is node {actual}")]
    NodeMismatch { asked: NodeId, actual: NodeId },
    /// The call was for another cluster.
    #[error("asked for cluster {asked}, this node is of cluster {actual}")]
    WrongCluster { asked: ClusterId, actual: ClusterId },
    /// The keys of an atomic request lie in several regions.
    #[error("the keys belong to {} regions, an atomic request must stay in one", regions.len())]
    CrossRegion { regions: Vec<RegionId> },
    /// A bounded queue is full.
    #[error("busy: the queue of {queue} is full")]
    Busy { queue: String, retry_after: Duration },
    /// Nobody is known to lead the region now.
    #[error("region {region} has no leader now")]
    NoLeader { region: RegionId },
    /// The node belongs to no cluster, or not any more.
    #[error("{}", if *removed { "this node was removed from its cluster" } else { "this node has not joined a cluster" })]
    NotJoined { removed: bool },
    /// The node is shutting down.
    #[error("this node is shutting down")]
    Draining,
    /// The node can serve, but not yet: it is starting.
    #[error("not ready: {message}")]
    NotReady { message: String },
    /// The node table has changed.
    #[error("the node table is at version {actual}, not {expected}")]
    VersionMoved { expected: u64, actual: u64 },
    /// Disks are nearly full: that of `node`, which leads the region, or so many of its other voters that it has no
    /// quorum without them.
    #[error("{}", low_disk(*node, *available_bytes, low))]
    LowDisk { node: NodeId, available_bytes: u64, low: Vec<NodeId> },
    /// The request is well-formed, but the state of the cluster forbids it.
    #[error("{message}")]
    FailedPrecondition { message: String },
    /// A thing named by the caller does not exist.
    #[error("{message}")]
    NotFound { message: String },
    /// There is no such method, or none that takes the request in this form.
    #[error("{message}")]
    Unimplemented { message: String },
    /// `Increment` on something that is no counter, or past its range.
    #[error("{message}")]
    NotACounter { message: String },
    /// The deadline passed before anything was proposed: certainly not applied.
    #[error("deadline passed before the request was started: {message}")]
    DeadlineExceeded { message: String },
    /// The write was proposed and its outcome was not learnt.
    #[error("outcome unknown: {message}")]
    OutcomeUnknown { message: String },
    /// Stored data does not check out.
    #[error("data loss: {message}")]
    DataLoss { message: String },
    /// A bug, or a part that failed.
    #[error("internal: {message}")]
    Internal { message: String },
}

impl Error {
    /// An `InvalidArgument` without a limit.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::InvalidArgument { field: field.into(), message: message.into(), limit: 0 }
    }

    /// Whether the request may have changed something; `false` is a promise.
    #[must_use]
    pub fn maybe_applied(&self) -> bool {
        matches!(self, Self::OutcomeUnknown { .. } | Self::Internal { .. })
    }

    /// Whether the same request may succeed when repeated by the same caller.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::NotLeader { .. }
            | Self::EpochNotMatch { .. }
            | Self::RegionNotFound { .. }
            | Self::KeyNotInRegion { .. }
            | Self::NodeMismatch { .. }
            | Self::WrongCluster { .. }
            | Self::Busy { .. }
            | Self::NoLeader { .. }
            | Self::Draining
            | Self::NotReady { .. }
            | Self::LowDisk { .. }
            | Self::DeadlineExceeded { .. }
            | Self::OutcomeUnknown { .. } => true,
            Self::InvalidArgument { .. }
            | Self::CrossRegion { .. }
            | Self::NotJoined { .. }
            | Self::VersionMoved { .. }
            | Self::FailedPrecondition { .. }
            | Self::NotFound { .. }
            | Self::Unimplemented { .. }
            | Self::NotACounter { .. }
            | Self::DataLoss { .. }
            | Self::Internal { .. } => false,
        }
    }

    /// How long a caller should wait before it repeats.
    #[must_use]
    pub fn retry_after(&self) -> Duration {
        match self {
            Self::Busy { retry_after, .. } => *retry_after,
            Self::LowDisk { .. } => Duration::from_secs(1),
            Self::NoLeader { .. } | Self::NotReady { .. } | Self::Draining => {
                Duration::from_millis(50)
            }
            Self::InvalidArgument { .. }
            | Self::NotLeader { .. }
            | Self::EpochNotMatch { .. }
            | Self::RegionNotFound { .. }
            | Self::KeyNotInRegion { .. }
            | Self::NodeMismatch { .. }
            | Self::WrongCluster { .. }
            | Self::CrossRegion { .. }
            | Self::NotJoined { .. }
            | Self::VersionMoved { .. }
            | Self::FailedPrecondition { .. }
            | Self::NotFound { .. }
            | Self::Unimplemented { .. }
            | Self::NotACounter { .. }
            | Self::DeadlineExceeded { .. }
            | Self::OutcomeUnknown { .. }
            | Self::DataLoss { .. }
            | Self::Internal { .. } => Duration::ZERO,
        }
    }

    /// The machine-readable form.
    #[must_use]
    pub fn detail(&self) -> ErrorDetail {
        let reason = match self {
            Self::InvalidArgument { field, limit, .. } => {
                Some(Reason::InvalidArgument(v1::InvalidArgument {
                    field: field.clone(),
                    limit: *limit,
                }))
            }
            Self::NotLeader { region, leader } => Some(Reason::NotLeader(v1::NotLeader {
                region_id: region.0,
                leader: leader.clone(),
            })),
            Self::EpochNotMatch { regions } => {
                Some(Reason::EpochNotMatch(v1::EpochNotMatch { regions: regions.clone() }))
            }
            Self::RegionNotFound { region } => {
                Some(Reason::RegionNotFound(v1::RegionNotFound { region_id: region.0 }))
            }
            Self::KeyNotInRegion { region } => Some(Reason::KeyNotInRegion(v1::KeyNotInRegion {
                region_id: region.region_id,
                region: Some((**region).clone()),
            })),
            Self::NodeMismatch { asked, actual } => Some(Reason::NodeMismatch(v1::NodeMismatch {
                asked_node_id: asked.0,
                actual_node_id: actual.0,
            })),
            Self::WrongCluster { asked, actual } => Some(Reason::WrongCluster(v1::WrongCluster {
                asked_cluster_id: asked.to_string(),
                actual_cluster_id: actual.to_string(),
            })),
            Self::CrossRegion { regions } => Some(Reason::CrossRegion(v1::CrossRegion {
                region_ids: regions.iter().map(|region| region.0).collect(),
            })),
            Self::Busy { queue, .. } => {
                Some(Reason::ServerIsBusy(v1::ServerIsBusy { queue: queue.clone() }))
            }
            Self::NoLeader { region } => {
                Some(Reason::NoLeader(v1::NoLeader { region_id: region.0 }))
            }
            Self::NotJoined { removed } => {
                Some(Reason::NotJoined(v1::NotJoined { removed: *removed }))
            }
            Self::Draining => Some(Reason::Draining(v1::Draining {})),
            Self::VersionMoved { expected, actual } => {
                Some(Reason::VersionMoved(v1::VersionMoved {
                    expected: *expected,
                    actual: *actual,
                }))
            }
            Self::LowDisk { node, available_bytes, low } => Some(Reason::LowDisk(v1::LowDisk {
                node_id: node.0,
                available_bytes: *available_bytes,
                low_node_ids: low.iter().map(|node| node.0).collect(),
            })),
            Self::NotACounter { .. } => Some(Reason::NotACounter(v1::NotACounter {})),
            Self::OutcomeUnknown { .. } => Some(Reason::OutcomeUnknown(v1::OutcomeUnknown {})),
            Self::NotReady { .. }
            | Self::FailedPrecondition { .. }
            | Self::NotFound { .. }
            | Self::Unimplemented { .. }
            | Self::DeadlineExceeded { .. }
            | Self::DataLoss { .. }
            | Self::Internal { .. } => None,
        };
        ErrorDetail {
            maybe_applied: self.maybe_applied(),
            retryable: self.retryable(),
            retry_after_ms: u64::try_from(self.retry_after().as_millis()).unwrap_or(u64::MAX),
            reason,
        }
    }

    /// As it travels to another node of the cluster.
    #[must_use]
    pub fn to_failure(&self) -> v1::Failure {
        let message = match self {
            Self::InvalidArgument { message, .. }
            | Self::NotReady { message }
            | Self::FailedPrecondition { message }
            | Self::NotFound { message }
            | Self::Unimplemented { message }
            | Self::NotACounter { message }
            | Self::DeadlineExceeded { message }
            | Self::OutcomeUnknown { message }
            | Self::DataLoss { message }
            | Self::Internal { message } => message.clone(),
            Self::NotLeader { .. }
            | Self::EpochNotMatch { .. }
            | Self::RegionNotFound { .. }
            | Self::KeyNotInRegion { .. }
            | Self::NodeMismatch { .. }
            | Self::WrongCluster { .. }
            | Self::CrossRegion { .. }
            | Self::Busy { .. }
            | Self::NoLeader { .. }
            | Self::NotJoined { .. }
            | Self::Draining
            | Self::VersionMoved { .. }
            | Self::LowDisk { .. } => String::new(),
        };
        v1::Failure {
            code: self.kind(),
            message,
            detail: prost::Message::encode_to_vec(&self.detail()).into(),
        }
    }

    /// Of an error that came from another node. A failure that this version cannot read is taken
    /// for one whose outcome is unknown.
    #[must_use]
    pub fn from_failure(failure: v1::Failure) -> Self {
        let message = failure.message;
        let Ok(detail) = <ErrorDetail as prost::Message>::decode(failure.detail) else {
            return Self::OutcomeUnknown { message };
        };
        match detail.reason {
            Some(Reason::InvalidArgument(v1::InvalidArgument { field, limit })) => {
                Self::InvalidArgument { field, message, limit }
            }
            Some(Reason::NotLeader(v1::NotLeader { region_id, leader })) => {
                Self::NotLeader { region: RegionId(region_id), leader }
            }
            Some(Reason::EpochNotMatch(v1::EpochNotMatch { regions })) => {
                Self::EpochNotMatch { regions }
            }
            Some(Reason::RegionNotFound(v1::RegionNotFound { region_id })) => {
                Self::RegionNotFound { region: RegionId(region_id) }
            }
            Some(Reason::KeyNotInRegion(v1::KeyNotInRegion { region, .. })) => {
                Self::KeyNotInRegion { region: Box::new(region.unwrap_or_default()) }
            }
            Some(Reason::NodeMismatch(v1::NodeMismatch { asked_node_id, actual_node_id })) => {
                Self::NodeMismatch { asked: NodeId(asked_node_id), actual: NodeId(actual_node_id) }
            }
            Some(Reason::WrongCluster(v1::WrongCluster {
                asked_cluster_id,
                actual_cluster_id,
            })) => {
                match (ClusterId::parse(&asked_cluster_id), ClusterId::parse(&actual_cluster_id)) {
                    (Some(asked), Some(actual)) => Self::WrongCluster { asked, actual },
                    _ => Self::NotReady { message },
                }
            }
            Some(Reason::CrossRegion(v1::CrossRegion { region_ids })) => {
                Self::CrossRegion { regions: region_ids.into_iter().map(RegionId).collect() }
            }
            Some(Reason::ServerIsBusy(v1::ServerIsBusy { queue })) => {
                Self::Busy { queue, retry_after: Duration::from_millis(detail.retry_after_ms) }
            }
            Some(Reason::NoLeader(v1::NoLeader { region_id })) => {
                Self::NoLeader { region: RegionId(region_id) }
            }
            Some(Reason::NotJoined(v1::NotJoined { removed })) => Self::NotJoined { removed },
            Some(Reason::VersionMoved(v1::VersionMoved { expected, actual })) => {
                Self::VersionMoved { expected, actual }
            }
            Some(Reason::LowDisk(v1::LowDisk { node_id, available_bytes, low_node_ids })) => {
                let low = low_node_ids.into_iter().map(NodeId).collect();
                Self::LowDisk { node: NodeId(node_id), available_bytes, low }
            }
            Some(Reason::OutcomeUnknown(_)) => Self::OutcomeUnknown { message },
            Some(Reason::Draining(_)) => Self::Draining,
            Some(Reason::NotACounter(_)) => Self::NotACounter { message },
            None => match failure.code {
                KIND_NOT_READY => Self::NotReady { message },
                KIND_FAILED_PRECONDITION => Self::FailedPrecondition { message },
                KIND_NOT_FOUND => Self::NotFound { message },
                KIND_UNIMPLEMENTED => Self::Unimplemented { message },
                KIND_DEADLINE => Self::DeadlineExceeded { message },
                KIND_DATA_LOSS => Self::DataLoss { message },
                // What only a later version knows; its promise holds all the same.
                _ if !detail.maybe_applied => Self::FailedPrecondition { message },
                _ => Self::Internal { message },
            },
        }
    }

    /// Tells apart what the detail does not.
    fn kind(&self) -> u32 {
        match self {
            Self::NotReady { .. } => KIND_NOT_READY,
            Self::FailedPrecondition { .. } => KIND_FAILED_PRECONDITION,
            Self::NotFound { .. } => KIND_NOT_FOUND,
            Self::Unimplemented { .. } => KIND_UNIMPLEMENTED,
            Self::DeadlineExceeded { .. } => KIND_DEADLINE,
            Self::DataLoss { .. } => KIND_DATA_LOSS,
            _ => 0,
        }
    }
}

fn low_disk(node: NodeId, available_bytes: u64, low: &[NodeId]) -> String {
    if low.iter().all(|low| *low == node) {
        return format!("disk of node {node} is low: {available_bytes} bytes available");
    }
    let names: Vec<_> = low.iter().map(NodeId::to_string).collect();
    let (disks, are) =
        if low.len() == 1 { ("disk of node", "is") } else { ("disks of nodes", "are") };
    format!(
        "{disks} {} {are} low, and no quorum of the region has room without: it takes deletes only",
        names.join(", ")
    )
}

const KIND_NOT_READY: u32 = 1;
const KIND_FAILED_PRECONDITION: u32 = 2;
const KIND_NOT_FOUND: u32 = 3;
const KIND_DEADLINE: u32 = 4;
const KIND_DATA_LOSS: u32 = 5;
const KIND_UNIMPLEMENTED: u32 = 6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_means_the_same_on_the_node_that_passed_the_request_on() {
        let message = || "why".to_owned();
        for error in [
            Error::InvalidArgument { field: "key".to_owned(), message: message(), limit: 9 },
            Error::NotLeader { region: RegionId(2), leader: None },
            Error::EpochNotMatch { regions: vec![v1::Region::default()] },
            Error::RegionNotFound { region: RegionId(3) },
            Error::KeyNotInRegion { region: Box::default() },
            Error::NodeMismatch { asked: NodeId(1), actual: NodeId(2) },
            Error::WrongCluster { asked: ClusterId([1; 16]), actual: ClusterId([2; 16]) },
            Error::CrossRegion { regions: vec![RegionId(1), RegionId(2)] },
            Error::Busy { queue: "proposals".to_owned(), retry_after: Duration::from_millis(7) },
            Error::NoLeader { region: RegionId(4) },
            Error::NotJoined { removed: true },
            Error::Draining,
            Error::NotReady { message: message() },
            Error::VersionMoved { expected: 1, actual: 2 },
            Error::LowDisk { node: NodeId(1), available_bytes: 5, low: vec![NodeId(2), NodeId(3)] },
            Error::FailedPrecondition { message: message() },
            Error::NotFound { message: message() },
            Error::Unimplemented { message: message() },
            Error::NotACounter { message: message() },
            Error::DeadlineExceeded { message: message() },
            Error::OutcomeUnknown { message: message() },
            Error::DataLoss { message: message() },
            Error::Internal { message: message() },
        ] {
            assert_eq!(Error::from_failure(error.to_failure()), error);
        }
    }

    #[test]
    fn the_promise_of_a_later_versions_failure_is_kept() {
        for maybe_applied in [false, true] {
            let detail = ErrorDetail { maybe_applied, ..ErrorDetail::default() };
            let detail = prost::Message::encode_to_vec(&detail).into();
            let failure = v1::Failure { code: 99, detail, ..v1::Failure::default() };
            assert_eq!(Error::from_failure(failure).maybe_applied(), maybe_applied);
        }
    }

    #[test]
    fn an_unreadable_failure_may_have_been_applied() {
        let failure = v1::Failure { detail: vec![0xff].into(), ..v1::Failure::default() };
        assert!(Error::from_failure(failure).maybe_applied());
    }
}
