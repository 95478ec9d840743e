//! What clients can ask of a node about its cluster, joined or not.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use flotilla_proto::{
    keyspace::{self, KeyspaceId},
    range::KeyRange,
    v1::{self, pass_request::Call, pass_response::Answer},
};
use futures::FutureExt;

use super::{
    Joined, Node, birth, check_region,
    driver_client::{self, Asking, Unanswered},
    joined::not_joined,
    local,
    pulse::STILL_MAX,
    readiness, status, transfer_leader,
};
use crate::{
    api::{Check, ClusterAnswer, ClusterCalls, Health},
    error::Error,
    ids::ClusterId,
    placement::view::check_located,
    world::blocking,
};

/// How long a driver is asked for before this node answers a person what it knows itself, or does without one: an
/// election, as a rule, takes longer, a driver that is there does not.
const LOCAL_AFTER: Duration = Duration::from_secs(1);

/// `flotilla.v1.Cluster` on this node.
pub(super) struct Calls(pub(super) Arc<Node>);

impl Calls {
    fn joined(&self) -> Result<Arc<Joined>, Error> {
        self.0.joined().cloned().ok_or_else(|| not_joined(&self.0))
    }

    /// Serves a membership call on the driver, wherever it is.
    async fn on_driver(&self, call: Call) -> Result<Answer, Error> {
        let joined = self.joined()?;
        if let Some(answer) = joined.driver.call(call.clone()).await? {
            return Ok(answer);
        }
        let asking = match &call {
            Call::ListNodes(_) | Call::JudgeTransfer(_) => Asking::Reads,
            _ => Asking::Changes,
        };
        let request = v1::PassRequest { call: Some(call) };
        driver_client::ask_driver(&self.0, &joined, asking, |mut client| {
            let request = request.clone();
            async move {
                // The calls are idempotent, so a lost answer may be asked for again elsewhere.
                let response = client.pass(request).await?.into_inner();
                match response.answer {
                    Some(Answer::Failure(failure)) => {
                        Err(Unanswered::Refused(Error::from_failure(failure)))
                    }
                    answer if response.accepted => Ok(answer),
                    _ => Ok(None),
                }
            }
            .boxed()
        })
        .await
    }

    /// Why the driver would take the lead away again; `None` also when none answers: a lead can be moved without one.
    async fn would_lose_lead(&self, request: v1::TransferRequest) -> Option<String> {
        let asking = self.on_driver(Call::JudgeTransfer(request));
        match tokio::time::timeout(LOCAL_AFTER, asking).await {
            Ok(Ok(Answer::JudgeTransfer(judged))) => Some(judged.why_not),
            _ => None,
        }
        .filter(|why| !why.is_empty())
    }

    /// What the driver answers, or this node if it may and no driver does; this node alone if it is to.
    async fn or_local<T>(
        &self,
        (allowed, only): (bool, bool),
        driver: impl Future<Output = Result<T, Error>>,
        local: impl FnOnce(&Joined) -> T,
    ) -> Result<T, Error> {
        if only {
            return Ok(local(self.joined()?.as_ref()));
        }
        if !allowed {
            return driver.await;
        }
        match tokio::time::timeout(LOCAL_AFTER, driver).await {
            Ok(Err(Error::NoLeader { .. } | Error::NotLeader { .. } | Error::NotReady { .. }))
            | Err(_) => Ok(local(self.joined()?.as_ref())),
            Ok(answer) => answer,
        }
    }
}

/// The answer of one kind out of the many.
macro_rules! only {
    ($answer:expr, $kind:ident) => {
        match $answer {
            Answer::$kind(answer) => Ok(answer),
            _ => Err(Error::Internal { message: "an answer of another kind".to_owned() }),
        }
    };
}

impl ClusterCalls for Calls {
    fn initialize(
        &self,
        request: v1::InitializeRequest,
    ) -> ClusterAnswer<'_, v1::InitializeResponse> {
        // Once begun it is finished, also when the caller goes.
        let node = Arc::clone(&self.0);
        let task = self.0.runtime.spawn(async move { birth::initialize(&node, request).await });
        async move {
            task.await.unwrap_or_else(|error| Err(Error::Internal { message: error.to_string() }))
        }
        .boxed()
    }

    fn add_learner(
        &self,
        request: v1::AddLearnerRequest,
    ) -> ClusterAnswer<'_, v1::AddLearnerResponse> {
        async move { only!(self.on_driver(Call::AddLearner(request)).await?, AddLearner) }.boxed()
    }

    fn change_membership(
        &self,
        request: v1::ChangeMembershipRequest,
    ) -> ClusterAnswer<'_, v1::ChangeMembershipResponse> {
        async move {
            only!(self.on_driver(Call::ChangeMembership(request)).await?, ChangeMembership)
        }
        .boxed()
    }

    fn remove_node(
        &self,
        request: v1::RemoveNodeRequest,
    ) -> ClusterAnswer<'_, v1::RemoveNodeResponse> {
        async move { only!(self.on_driver(Call::RemoveNode(request)).await?, RemoveNode) }.boxed()
    }

    fn cancel_remove_node(
        &self,
        request: v1::CancelRemoveNodeRequest,
    ) -> ClusterAnswer<'_, v1::CancelRemoveNodeResponse> {
        async move {
            only!(self.on_driver(Call::CancelRemoveNode(request)).await?, CancelRemoveNode)
        }
        .boxed()
    }

    fn evict_leaders(
        &self,
        request: v1::EvictLeadersRequest,
    ) -> ClusterAnswer<'_, v1::EvictLeadersResponse> {
        async move { only!(self.on_driver(Call::EvictLeaders(request)).await?, EvictLeaders) }
            .boxed()
    }

    fn transfer_leader(
        &self,
        request: v1::TransferLeaderRequest,
    ) -> ClusterAnswer<'_, v1::TransferLeaderResponse> {
        async move {
            let joined = self.joined()?;
            let v1::TransferLeaderRequest { region_id, to_node_id } = request;
            let request = v1::TransferRequest { region_id, to_node_id };
            if let Some(why) = self.would_lose_lead(request).await {
                return Err(Error::FailedPrecondition {
                    message: format!(
                        "node {to_node_id} would not keep the lead of region {region_id}: {why}"
                    ),
                });
            }
            transfer_leader::transfer(&self.0, &joined, request).await?;
            Ok(v1::TransferLeaderResponse {})
        }
        .boxed()
    }

    fn status(&self, request: v1::StatusRequest) -> ClusterAnswer<'_, v1::StatusResponse> {
        let calls = Self(Arc::clone(&self.0));
        // It looks at every region, and perhaps at the disk: nobody else is to wait for that.
        let looking = blocking::run(move || status::status(&calls.0, &request));
        async move { looking.await.map_err(|error| Error::Internal { message: error.to_string() }) }
            .boxed()
    }

    fn list_nodes(
        &self,
        request: v1::ListNodesRequest,
    ) -> ClusterAnswer<'_, v1::ListNodesResponse> {
        async move {
            let asking =
                async { only!(self.on_driver(Call::ListNodes(request)).await?, ListNodes) };
            let local = |joined: &Joined| local::nodes(&self.0, joined, request);
            self.or_local((request.allow_local, request.only_local), asking, local).await
        }
        .boxed()
    }

    fn list_regions(
        &self,
        request: v1::ListRegionsRequest,
    ) -> ClusterAnswer<'_, v1::ListRegionsResponse> {
        async move {
            let range = if request.all {
                KeyRange::default()
            } else {
                keyspace::range(keyspace(request.keyspace)?, &request.start_key, &request.end_key)
            };
            let start_key = range.start.max(request.page_token.clone());
            let asked = v1::RegionsRequest {
                start_key,
                end_key: range.end,
                limit: request.limit,
                proven: true,
                ..Default::default()
            };
            let listing = |told_by_node: u64, told: v1::RegionsResponse| {
                let last = told.regions.last().and_then(|info| info.region.as_ref());
                let next = last.filter(|_| told.more).map(|region| region.end_key.clone());
                v1::ListRegionsResponse {
                    next_page_token: next.unwrap_or_default(),
                    regions: told.regions,
                    told_by_node,
                }
            };
            let asking =
                async { Ok(listing(0, driver_client::regions(&self.0, asked.clone()).await?)) };
            let local =
                |joined: &Joined| listing(joined.node.0, local::regions(&self.0, joined, &asked));
            self.or_local((request.allow_local, request.only_local), asking, local).await
        }
        .boxed()
    }

    fn locate(&self, request: v1::LocateRequest) -> ClusterAnswer<'_, v1::LocateResponse> {
        async move {
            let keyspace = keyspace(request.keyspace)?;
            let keys: Vec<Bytes> =
                request.keys.iter().map(|key| keyspace::encode(keyspace, key)).collect();
            let wanted = keys.len();
            if wanted == 0 {
                return Ok(v1::LocateResponse::default());
            }
            let asked = v1::RegionsRequest { keys, ..Default::default() };
            let regions = driver_client::regions(&self.0, asked).await?.regions;
            if regions.len() != wanted {
                return Err(Error::NotReady {
                    message: "the regions of some of these keys are not known".to_owned(),
                });
            }
            check_located(&regions)?;
            Ok(v1::LocateResponse { regions })
        }
        .boxed()
    }

    fn check_region(
        &self,
        request: v1::CheckRegionRequest,
    ) -> ClusterAnswer<'_, v1::CheckRegionResponse> {
        async move { check_region::check(&self.0, &self.joined()?, request).await }.boxed()
    }
}

impl Health for Calls {
    fn cluster_id(&self) -> Option<ClusterId> {
        self.0.joined.get().map(|joined| joined.cluster)
    }

    fn why_not_live(&self) -> Vec<String> {
        // A node whose disk does not answer ends by itself (`watch.rs`).
        self.0.pulses.get().map(|pulses| pulses.still(STILL_MAX)).unwrap_or_default()
    }

    fn checks(&self) -> Vec<Check> {
        readiness::checks(&self.0)
    }
}

fn keyspace(id: u32) -> Result<KeyspaceId, Error> {
    KeyspaceId::named(id).ok_or_else(|| Error::InvalidArgument {
        field: "keyspace".to_owned(),
        message: format!("there is no keyspace {id}, the largest is {}", KeyspaceId::MAX),
        limit: KeyspaceId::MAX.get().into(),
    })
}
