//! `flotilla.v1.Cluster` on the wire: sizes, deadlines and statuses around [`ClusterCalls`], which
//! `node/cluster_calls.rs` carries out.

use std::{collections::BTreeMap, future::Future, sync::Arc};

use bytes::Bytes;
use flotilla_proto::{
    address,
    replication::{FACTOR_WORDS, is_factor},
    v1::{self, cluster_server::Cluster},
};
use tokio::time::{Instant, timeout_at};
use tonic::{Request, Status};

use super::{
    ClusterCalls,
    context::grpc_timeout,
    grpc::{Answer, answer},
    limits::Limits,
    status::status,
};
use crate::error::Error;

/// Longest text or address in a request, in bytes.
const TEXT_BYTES_MAX: usize = 1024;
/// Most labels or ids in a request.
const ENTRIES_MAX: usize = 1024;

/// The cluster calls with their bounds.
#[derive(Clone)]
pub(super) struct ClusterApi {
    pub(super) membership: Arc<dyn ClusterCalls>,
    pub(super) limits: Arc<Limits>,
}

/// What it means that the deadline passed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Reads,
    Changes,
}

impl ClusterApi {
    /// The deadline and message; a call of the cluster that names no deadline has the longest.
    fn open<T>(&self, request: Request<T>) -> Result<(Instant, T), Status> {
        let deadline = grpc_timeout(request.metadata().as_ref())
            .and_then(|timeout| {
                self.limits.deadline(Some(timeout.unwrap_or(self.limits.request_timeout_max)))
            })
            .map_err(|error| status(&error))?;
        Ok((deadline, request.into_inner()))
    }
}

/// Waits for a call until its deadline.
pub(super) async fn within<T>(
    deadline: Instant,
    kind: Kind,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    match timeout_at(deadline, call).await {
        Ok(result) => result,
        Err(_) => Err(match kind {
            Kind::Reads => Error::DeadlineExceeded { message: "the cluster did not answer".into() },
            Kind::Changes => Error::OutcomeUnknown { message: "the cluster did not answer".into() },
        }),
    }
}

#[tonic::async_trait]
impl Cluster for ClusterApi {
    async fn initialize(
        &self,
        request: Request<v1::InitializeRequest>,
    ) -> Answer<v1::InitializeResponse> {
        let (deadline, request) = self.open(request)?;
        let checked = check_initialize(&self.limits, &request);
        checked.map_err(|error| status(&error))?;
        answer(within(deadline, Kind::Changes, self.membership.initialize(request)).await)
    }

    async fn add_learner(
        &self,
        request: Request<v1::AddLearnerRequest>,
    ) -> Answer<v1::AddLearnerResponse> {
        let (deadline, request) = self.open(request)?;
        check_add_learner(&request).map_err(|error| status(&error))?;
        answer(within(deadline, Kind::Changes, self.membership.add_learner(request)).await)
    }

    async fn change_membership(
        &self,
        request: Request<v1::ChangeMembershipRequest>,
    ) -> Answer<v1::ChangeMembershipResponse> {
        let (deadline, request) = self.open(request)?;
        check_entries("promote", request.promote.len() + request.demote.len())
            .map_err(|error| status(&error))?;
        answer(within(deadline, Kind::Changes, self.membership.change_membership(request)).await)
    }

    async fn remove_node(
        &self,
        request: Request<v1::RemoveNodeRequest>,
    ) -> Answer<v1::RemoveNodeResponse> {
        let (deadline, request) = self.open(request)?;
        answer(within(deadline, Kind::Changes, self.membership.remove_node(request)).await)
    }

    async fn cancel_remove_node(
        &self,
        request: Request<v1::CancelRemoveNodeRequest>,
    ) -> Answer<v1::CancelRemoveNodeResponse> {
        let (deadline, request) = self.open(request)?;
        answer(within(deadline, Kind::Changes, self.membership.cancel_remove_node(request)).await)
    }

    async fn evict_leaders(
        &self,
        request: Request<v1::EvictLeadersRequest>,
    ) -> Answer<v1::EvictLeadersResponse> {
        let (deadline, request) = self.open(request)?;
        answer(within(deadline, Kind::Changes, self.membership.evict_leaders(request)).await)
    }

    async fn transfer_leader(
        &self,
        request: Request<v1::TransferLeaderRequest>,
    ) -> Answer<v1::TransferLeaderResponse> {
        let (deadline, request) = self.open(request)?;
        answer(within(deadline, Kind::Changes, self.membership.transfer_leader(request)).await)
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Answer<v1::StatusResponse> {
        let (deadline, request) = self.open(request)?;
        answer(within(deadline, Kind::Reads, self.membership.status(request)).await)
    }

    async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Answer<v1::ListNodesResponse> {
        let (deadline, request) = self.open(request)?;
        answer(within(deadline, Kind::Reads, self.membership.list_nodes(request)).await)
    }

    async fn list_regions(
        &self,
        request: Request<v1::ListRegionsRequest>,
    ) -> Answer<v1::ListRegionsResponse> {
        let (deadline, request) = self.open(request)?;
        let checked = self
            .limits
            .check_bound("start_key", &request.start_key)
            .and_then(|()| self.limits.check_bound("end_key", &request.end_key));
        checked.map_err(|error| status(&error))?;
        answer(within(deadline, Kind::Reads, self.membership.list_regions(request)).await)
    }

    async fn locate(&self, request: Request<v1::LocateRequest>) -> Answer<v1::LocateResponse> {
        let (deadline, request) = self.open(request)?;
        self.limits.check_keys(&request.keys).map_err(|error| status(&error))?;
        answer(within(deadline, Kind::Reads, self.membership.locate(request)).await)
    }

    async fn check_region(
        &self,
        request: Request<v1::CheckRegionRequest>,
    ) -> Answer<v1::CheckRegionResponse> {
        let (deadline, request) = self.open(request)?;
        answer(within(deadline, Kind::Reads, self.membership.check_region(request)).await)
    }
}

/// Also for HTTP.
pub(super) fn check_add_learner(request: &v1::AddLearnerRequest) -> Result<(), Error> {
    check_text("address", &request.address)?;
    address::check(&request.address).map_err(|problem| Error::invalid("address", problem))?;
    check_labels(&request.labels)
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Error> {
    check_entries("labels", labels.len())?;
    for (name, value) in labels {
        check_text("labels", name)?;
        check_text("labels", value)?;
    }
    Ok(())
}

fn check_initialize(limits: &Limits, request: &v1::InitializeRequest) -> Result<(), Error> {
    check_text("token", &request.token)?;
    check_text("cluster_id", &request.cluster_id)?;
    check_labels(&request.labels)?;
    // 0: the cluster chooses.
    if request.replication_factor != 0 && !is_factor(request.replication_factor) {
        return Err(Error::invalid("replication_factor", FACTOR_WORDS));
    }
    if request.split_keys.is_empty() {
        return Ok(());
    }
    limits.check_count("split_keys", request.split_keys.len())?;
    for (index, key) in request.split_keys.iter().enumerate() {
        limits.check_key(format_args!("split_keys[{index}]"), key)?;
    }
    // So that what is told to the other nodes of the birth fits into a message.
    limits.check_request_bytes(request.split_keys.iter().map(Bytes::len).sum())
}

fn check_text(field: &str, text: &str) -> Result<(), Error> {
    check_size(field, text.len(), TEXT_BYTES_MAX)
}

fn check_entries(field: &str, count: usize) -> Result<(), Error> {
    check_size(field, count, ENTRIES_MAX)
}

fn check_size(field: &str, actual: usize, max: usize) -> Result<(), Error> {
    if actual <= max {
        return Ok(());
    }
    let message = format!("is {actual} long, at most {max} is allowed");
    Err(Error::InvalidArgument { field: field.into(), message, limit: max as u64 })
}

#[cfg(test)]
mod tests;
