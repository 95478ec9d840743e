//! The standard services: `grpc.health.v1.Health`, answered from the node's readiness at the moment
//! of the question, and reflection.

use std::{sync::Arc, time::Duration};

use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, server::NamedService};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_server::Health,
};
use tonic_reflection::server as reflection;

use super::{Membership, grpc::Answer};

/// How often a watcher's answer is looked at again.
const WATCH_INTERVAL: Duration = Duration::from_millis(250);

/// Health of the node as a whole (the empty name) and of each service for clients. All are serving
/// exactly when the node can serve or redirect.
#[derive(Clone)]
pub(super) struct HealthApi {
    pub(super) membership: Arc<dyn Membership>,
    /// Ends the streams of watchers, which have no end of their own.
    pub(super) draining: CancellationToken,
}

impl HealthApi {
    fn status_of(&self, service: &str) -> ServingStatus {
        use flotilla_proto::{kv, v1};
        let names = [
            "",
            <v1::kv_server::KvServer<()> as NamedService>::NAME,
            <v1::cluster_server::ClusterServer<()> as NamedService>::NAME,
            <kv::kv_service_server::KvServiceServer<()> as NamedService>::NAME,
        ];
        if !names.contains(&service) {
            ServingStatus::ServiceUnknown
        } else if self.membership.is_ready().is_empty() {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        }
    }
}

#[tonic::async_trait]
impl Health for HealthApi {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Answer<HealthCheckResponse> {
        match self.status_of(&request.get_ref().service) {
            ServingStatus::ServiceUnknown => Err(Status::not_found("there is no such service")),
            status => Ok(Response::new(HealthCheckResponse { status: status.into() })),
        }
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    /// The status now, and again each time it has changed.
    async fn watch(&self, request: Request<HealthCheckRequest>) -> Answer<Self::WatchStream> {
        let service = request.into_inner().service;
        let draining = self.draining.clone();
        let changes = stream::unfold((self.clone(), None), move |(health, last)| {
            let service = service.clone();
            async move {
                loop {
                    let now = health.status_of(&service);
                    if last != Some(now) {
                        let response = HealthCheckResponse { status: now.into() };
                        return Some((Ok(response), (health, Some(now))));
                    }
                    sleep(WATCH_INTERVAL).await;
                }
            }
        });
        Ok(Response::new(changes.take_until(draining.cancelled_owned()).boxed()))
    }
}

/// Reflection over all contracts, for clients that know its first version.
pub(super) fn reflection_v1()
-> reflection::v1::ServerReflectionServer<impl reflection::v1::ServerReflection> {
    descriptors().build_v1().expect("the descriptors were written by the build of this program")
}

/// The same for clients that only know the version before.
pub(super) fn reflection_v1alpha()
-> reflection::v1alpha::ServerReflectionServer<impl reflection::v1alpha::ServerReflection> {
    descriptors()
        .build_v1alpha()
        .expect("the descriptors were written by the build of this program")
}

fn descriptors() -> reflection::Builder<'static> {
    reflection::Builder::configure()
        .register_encoded_file_descriptor_set(flotilla_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name("kv.KvService")
        .with_service_name("flotilla.v1.Kv")
        .with_service_name("flotilla.v1.Cluster")
        .with_service_name("grpc.health.v1.Health")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fake::FakeMembership;

    fn health_of(membership: &Arc<FakeMembership>) -> HealthApi {
        let membership = Arc::clone(membership) as Arc<dyn Membership>;
        HealthApi { membership, draining: CancellationToken::new() }
    }

    fn check(service: &str) -> Request<HealthCheckRequest> {
        Request::new(HealthCheckRequest { service: service.into() })
    }

    #[tokio::test]
    async fn health_follows_readiness_at_once() {
        let membership = Arc::new(FakeMembership::default());
        let health = health_of(&membership);
        for service in ["", "kv.KvService", "flotilla.v1.Kv", "flotilla.v1.Cluster"] {
            membership.set_ready(&[]);
            let status = health.check(check(service)).await.expect(service).into_inner().status();
            assert_eq!(status, ServingStatus::Serving, "{service}");
            membership.set_ready(&["not joined"]);
            let status = health.check(check(service)).await.expect(service).into_inner().status();
            assert_eq!(status, ServingStatus::NotServing, "{service}");
        }
        let unknown = health.check(check("flotilla.v1.Raft")).await.expect_err("not for clients");
        assert_eq!(unknown.code(), tonic::Code::NotFound);
    }

    #[tokio::test]
    async fn watcher_sees_each_change_once() {
        let membership = Arc::new(FakeMembership::default());
        membership.set_ready(&["starting"]);
        let health = health_of(&membership);
        let mut watch = health.watch(check("")).await.expect("a stream").into_inner();
        let mut next = async || watch.next().await.expect("endless").expect("never fails").status();
        assert_eq!(next().await, ServingStatus::NotServing);
        membership.set_ready(&[]);
        assert_eq!(next().await, ServingStatus::Serving);
        membership.set_ready(&["draining"]);
        assert_eq!(next().await, ServingStatus::NotServing);
    }
}
