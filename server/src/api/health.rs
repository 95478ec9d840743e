//! The standard services: `grpc.health.v1.Health`, answered from the node's readiness at the moment
//! of the question, and reflection.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use futures::stream::{self, BoxStream, StreamExt as _};
use parking_lot::Mutex;
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, server::NamedService};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_server::Health,
};
use tonic_reflection::server as reflection;

use super::{ClusterCalls, grpc::Answer};

/// How often the readiness that watchers wait for is looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(250);

/// Health of the node as a whole (the empty name) and of each service for clients. All are serving
/// exactly when the node can serve or redirect.
#[derive(Clone)]
pub(super) struct HealthApi {
    membership: Arc<dyn ClusterCalls>,
    /// Ends the streams of watchers, which have no end of their own.
    draining: CancellationToken,
    /// Where all watchers look, while there are any: a look walks over all regions.
    watched: Arc<Mutex<Weak<watch::Sender<bool>>>>,
}

impl HealthApi {
    pub(super) fn new(membership: Arc<dyn ClusterCalls>, draining: CancellationToken) -> Self {
        Self { membership, draining, watched: Arc::default() }
    }

    fn is_ready(&self) -> bool {
        self.membership.why_not_ready().is_empty()
    }

    /// Readiness as it changes.
    fn changes(&self) -> watch::Receiver<bool> {
        let mut watched = self.watched.lock();
        if let Some(sender) = watched.upgrade() {
            return sender.subscribe();
        }
        let sender = Arc::new(watch::Sender::new(self.is_ready()));
        *watched = Arc::downgrade(&sender);
        let (changes, health) = (sender.subscribe(), self.clone());
        tokio::spawn(async move {
            loop {
                sleep(WATCH_INTERVAL).await;
                {
                    // Ordering: under the lock, so that nobody subscribes to what is about to end.
                    let mut watched = health.watched.lock();
                    if sender.receiver_count() == 0 {
                        *watched = Weak::new();
                        return;
                    }
                }
                let ready = health.is_ready();
                sender.send_if_modified(|last| std::mem::replace(last, ready) != ready);
            }
        });
        changes
    }
}

/// The status of a service on a node that is ready, or not; `None` if there is no such service.
fn status_of(service: &str, ready: bool) -> Option<ServingStatus> {
    use flotilla_proto::{kv, v1};
    let names = [
        "",
        <v1::kv_server::KvServer<()> as NamedService>::NAME,
        <v1::cluster_server::ClusterServer<()> as NamedService>::NAME,
        <kv::kv_service_server::KvServiceServer<()> as NamedService>::NAME,
    ];
    let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    names.contains(&service).then_some(status)
}

#[tonic::async_trait]
impl Health for HealthApi {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Answer<HealthCheckResponse> {
        match status_of(&request.get_ref().service, self.is_ready()) {
            None => Err(Status::not_found("there is no such service")),
            Some(status) => Ok(Response::new(HealthCheckResponse { status: status.into() })),
        }
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    /// The status now, and again each time it has changed.
    async fn watch(&self, request: Request<HealthCheckRequest>) -> Answer<Self::WatchStream> {
        let service = request.into_inner().service;
        let state = (self.changes(), None);
        let changes = stream::unfold(state, move |(mut changes, last)| {
            let service = service.clone();
            async move {
                loop {
                    let ready = *changes.borrow_and_update();
                    let now = status_of(&service, ready).unwrap_or(ServingStatus::ServiceUnknown);
                    if last != Some(now) {
                        let response = HealthCheckResponse { status: now.into() };
                        return Some((Ok(response), (changes, Some(now))));
                    }
                    changes.changed().await.ok()?;
                }
            }
        });
        let draining = self.draining.clone();
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
    use tokio::time::{Instant, timeout};

    use super::*;
    use crate::api::fake::FakeMembership;

    fn health_of(membership: &Arc<FakeMembership>) -> HealthApi {
        let membership = Arc::clone(membership) as Arc<dyn ClusterCalls>;
        HealthApi::new(membership, CancellationToken::new())
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

    #[test]
    fn every_contract_can_be_asked_for() {
        drop((reflection_v1(), reflection_v1alpha()));
    }

    #[tokio::test]
    async fn a_thousand_watchers_look_once_and_nobody_looks_for_none() {
        let membership = Arc::new(FakeMembership::default());
        let health = health_of(&membership);
        let mut watches = Vec::new();
        for _ in 0..1000 {
            let mut watch = health.watch(check("")).await.expect("a stream").into_inner();
            watch.next().await.expect("endless").expect("the status now");
            watches.push(watch);
        }
        let begun = Instant::now();
        sleep(3 * WATCH_INTERVAL).await;
        let most = begun.elapsed().as_millis() / WATCH_INTERVAL.as_millis() + 2;
        let looks = membership.looks();
        assert!(looks as u128 <= most, "{looks} looks for a thousand watchers");
        membership.set_ready(&["draining"]);
        for watch in &mut watches {
            let status = watch.next().await.expect("endless").expect("changed").status();
            assert_eq!(status, ServingStatus::NotServing);
        }
        drop(watches);
        let ended = async {
            while health.watched.lock().upgrade().is_some() {
                sleep(WATCH_INTERVAL / 10).await;
            }
        };
        timeout(Duration::from_secs(20), ended).await.expect("nobody looks when nobody watches");
        let mut again = health.watch(check("")).await.expect("a stream").into_inner();
        let status = again.next().await.expect("endless").expect("the status now").status();
        assert_eq!(status, ServingStatus::NotServing);
    }
}
