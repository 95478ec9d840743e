//! One operator acts, the others wait: a Lease, changed by compare-and-set.
//!
//! Whether the holder is gone is judged by our own monotonic clock: a lease that has not changed for its
//! whole duration since we first saw it so. Its times are never compared with our wall clock, which may
//! be an hour off. The holder stops to act well before another could take over, and ends its process if
//! it cannot renew in time.
//!
//! A lease is no fence. A holder that was frozen between looking at its lease and sending a change
//! changes something late; deletions carry uids, objects carry versions, and calls that change the node
//! table carry the version that was seen.

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{clock, names::MANAGER, requests};

/// The Lease by default.
pub(crate) const LEASE: &str = "flotilla-operator";
/// Others take over when the lease has not changed for this long.
const DURATION: Duration = Duration::from_secs(15);
/// How often it is renewed. Each time is a write, the only ones of an operator at rest: 15 a minute, which docs/kubernetes.md
/// tells. Seldomer would need a longer duration, for which nobody acts after a holder has vanished.
const RENEW: Duration = Duration::from_secs(4);
/// The holder acts only this long after it sent its last successful renewal.
const ACT: Duration = Duration::from_secs(10);
/// How often a waiting operator looks.
const LOOK: Duration = Duration::from_secs(2);

/// Whether this process leads now. Cheap to ask, right before every change.
#[derive(Debug, Default)]
pub struct Leadership {
    until: Mutex<Until>,
}

#[derive(Clone, Copy, Debug, Default)]
enum Until {
    #[default]
    Never,
    Time(Instant),
    /// There is no election: this is the only operator.
    Always,
}

impl Leadership {
    /// Without an election.
    #[must_use]
    pub fn alone() -> Self {
        Self { until: Mutex::new(Until::Always) }
    }

    #[must_use]
    pub fn holds(&self) -> bool {
        match *self.until.lock() {
            Until::Never => false,
            Until::Time(until) => clock::now() < until,
            Until::Always => true,
        }
    }

    fn extend(&self, until: Instant) {
        *self.until.lock() = Until::Time(until);
    }

    fn end(&self) {
        *self.until.lock() = Until::Never;
    }
}

/// What a waiting operator has seen of the lease, and since when.
#[derive(Debug, Default)]
struct Watched {
    /// Holder, time of renewal and transitions, as written; compared for equality only.
    state: Option<(Option<String>, Option<String>, Option<i32>)>,
    since: Option<Instant>,
}

/// Whether the lease is ours.
enum Held {
    Yes,
    No,
    /// Somebody changed it at the same moment; the next look tells who.
    Raced,
}

/// What to do about a lease.
#[derive(Debug, PartialEq, Eq)]
enum Move {
    Create,
    /// Ours: renew it.
    Renew,
    /// Nobody's, or its holder is gone.
    TakeOver,
    Wait,
}

impl Watched {
    fn next_move(&mut self, lease: Option<&LeaseSpec>, identity: &str, now: Instant) -> Move {
        let Some(spec) = lease else { return Move::Create };
        let holder = spec.holder_identity.clone().filter(|holder| !holder.is_empty());
        if holder.as_deref() == Some(identity) {
            return Move::Renew;
        }
        let renewed = spec.renew_time.as_ref().map(|time| time.0.to_string());
        let state = Some((holder.clone(), renewed, spec.lease_transitions));
        if self.state != state {
            self.state = state;
            self.since = Some(now);
        }
        let duration = spec
            .lease_duration_seconds
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map_or(DURATION, Duration::from_secs);
        let stale = self.since.is_some_and(|since| now.duration_since(since) > duration);
        if holder.is_none() || stale { Move::TakeOver } else { Move::Wait }
    }
}

/// The election.
pub struct Election {
    leases: Api<Lease>,
    name: String,
    identity: String,
    /// Bound: what is asked about the lease takes no longer, or counts as not answered.
    patience: Duration,
}

/// The lease could not be renewed in time, or another holds it.
#[derive(Debug, thiserror::Error)]
#[error("the lease was lost: {0}")]
pub struct Lost(String);

impl Election {
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            leases: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity: identity.to_owned(),
            patience: RENEW,
        }
    }

    /// Waits until this process leads.
    ///
    /// # Cancel safety
    /// May have taken the lease when it is dropped; it runs out.
    pub async fn win(&self, leadership: &Leadership) {
        let mut watched = Watched::default();
        let mut told = false;
        loop {
            match tokio::time::timeout(self.patience, self.attempt(&mut watched, leadership)).await
            {
                Ok(Ok(Held::Yes)) => return,
                Ok(Ok(Held::Raced)) => {}
                Ok(Ok(Held::No)) => {
                    if !told {
                        tracing::info!(lease = self.name, "another operator leads; waiting");
                        told = true;
                    }
                }
                Ok(Err(error)) if requests::is_told(&error) => {}
                Ok(Err(error)) => tracing::warn!("look at the lease: {error}"),
                Err(_) => tracing::warn!("look at the lease: no answer"),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Renews until it fails for too long. Returns only when this process must stop to act.
    pub async fn keep(&self, leadership: &Leadership) -> Lost {
        loop {
            tokio::time::sleep(RENEW).await;
            let mut watched = Watched::default();
            let attempt =
                tokio::time::timeout(self.patience, self.attempt(&mut watched, leadership)).await;
            match attempt {
                Ok(Ok(Held::Yes | Held::Raced)) => {}
                Ok(Ok(Held::No)) => {
                    leadership.end();
                    return Lost("another operator holds it".to_owned());
                }
                Ok(Err(error)) if requests::is_told(&error) => {}
                Ok(Err(error)) => tracing::warn!("renew the lease: {error}"),
                Err(_) => tracing::warn!("renew the lease: no answer"),
            }
            if !leadership.holds() {
                return Lost("it could not be renewed".to_owned());
            }
        }
    }

    /// Lets the next one lead at once. Where that does not come to an end the lease runs out.
    pub async fn release(&self, leadership: &Leadership) {
        leadership.end();
        // Nothing is lost by it.
        let _ = tokio::time::timeout(self.patience, self.give_back()).await;
    }

    async fn give_back(&self) {
        let Ok(Some(mut lease)) = self.leases.get_opt(&self.name).await else { return };
        let Some(spec) = lease.spec.as_mut() else { return };
        if spec.holder_identity.as_deref() == Some(&self.identity) {
            spec.holder_identity = None;
            // Lost to another at this moment: then there is nothing to release.
            let _ = self.leases.replace(&self.name, &self.params(), &lease).await;
        }
    }

    /// One look at the lease, and one change of it if it may be ours.
    async fn attempt(
        &self,
        watched: &mut Watched,
        leadership: &Leadership,
    ) -> Result<Held, kube::Error> {
        // Ordering: before the request is sent, so that we stop before others count us out.
        let asked = clock::now();
        let found = self.leases.get_opt(&self.name).await?;
        let spec = found.as_ref().and_then(|lease| lease.spec.as_ref());
        let renewal = MicroTime(clock::wall());
        let mut next = LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            renew_time: Some(renewal.clone()),
            ..spec.cloned().unwrap_or_default()
        };
        let verdict = watched.next_move(spec, &self.identity, asked);
        let written = match (verdict, found) {
            (Move::Wait, _) => return Ok(Held::No),
            (Move::Create, None) => {
                next.acquire_time = Some(renewal);
                let metadata =
                    ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
                let lease = Lease { metadata, spec: Some(next) };
                self.leases.create(&self.params(), &lease).await
            }
            (verdict, Some(mut lease)) => {
                if verdict != Move::Renew {
                    next.acquire_time = Some(renewal);
                    next.lease_transitions = Some(next.lease_transitions.unwrap_or(0) + 1);
                }
                lease.spec = Some(next);
                // With the version that was read: of two that take over, one is refused.
                self.leases.replace(&self.name, &self.params(), &lease).await
            }
            (_, None) => return Ok(Held::Raced),
        };
        match written {
            Ok(_) => {
                leadership.extend(asked + ACT);
                Ok(Held::Yes)
            }
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => {
                Ok(Held::Raced)
            }
            Err(error) => Err(error),
        }
    }

    fn params(&self) -> PostParams {
        PostParams { field_manager: Some(MANAGER.to_owned()), dry_run: false }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use axum::{
        Router,
        body::Bytes,
        http::{Method, StatusCode},
        response::Json,
    };
    use k8s_openapi::jiff::Timestamp;
    use serde_json::Value;

    use super::*;
    use crate::api_server::tests::failure;

    fn held(by: Option<&str>, renewed: i64) -> LeaseSpec {
        LeaseSpec {
            holder_identity: by.map(ToOwned::to_owned),
            lease_duration_seconds: Some(15),
            renew_time: Some(MicroTime(Timestamp::from_second(renewed).expect("a time"))),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn lease_is_taken_over_only_after_it_stood_still_for_its_duration_here() {
        let start = clock::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut watched = Watched::default();
        assert_eq!(watched.next_move(None, "me", start), Move::Create);
        // Its times are those of another machine: an hour ago, as we would read them.
        for (why, lease, seconds, want) in [
            ("first seen", held(Some("you"), 0), 0, Move::Wait),
            ("not long enough", held(Some("you"), 0), 14, Move::Wait),
            ("renewed", held(Some("you"), 5), 16, Move::Wait),
            ("not long enough since", held(Some("you"), 5), 30, Move::Wait),
            ("it stood still", held(Some("you"), 5), 32, Move::TakeOver),
            ("ours", held(Some("me"), 5), 33, Move::Renew),
            ("released", held(None, 5), 34, Move::TakeOver),
            ("released, by an empty name", held(Some(""), 5), 34, Move::TakeOver),
        ] {
            assert_eq!(watched.next_move(Some(&lease), "me", at(seconds)), want, "{why}");
        }
    }

    #[test]
    fn holder_stops_to_act_before_others_may_take_over() {
        let leadership = Leadership::default();
        assert!(!leadership.holds());
        leadership.extend(clock::now() + ACT);
        assert!(leadership.holds());
        leadership.extend(clock::now());
        assert!(!leadership.holds());
        assert!(ACT + RENEW < DURATION, "it stops with time to spare");
        assert!(Leadership::alone().holds());
    }

    #[tokio::test]
    async fn question_that_is_never_answered_keeps_nobody_from_leading() {
        let asked = Arc::new(AtomicUsize::new(0));
        let serve = {
            let asked = Arc::clone(&asked);
            move |method: Method, body: Bytes| {
                let number = asked.fetch_add(1, Ordering::Relaxed);
                async move {
                    if number == 0 {
                        std::future::pending::<()>().await;
                    }
                    if method == Method::POST {
                        let lease: Value = serde_json::from_slice(&body).expect("JSON");
                        return (StatusCode::CREATED, Json(lease));
                    }
                    failure(StatusCode::NOT_FOUND)
                }
            }
        };
        let client = Client::new(Router::new().fallback(serve), "ns");
        let mut election = Election::new(client, "ns", "operator", "me");
        assert!(election.patience < DURATION);
        election.patience = Duration::from_millis(50);
        let leadership = Leadership::default();
        let won = tokio::time::timeout(10 * LOOK, election.win(&leadership)).await;
        won.expect("it asks again");
        assert!(leadership.holds() && asked.load(Ordering::Relaxed) == 3);
    }
}
