//! Questions to the placement driver, wherever it is.

use std::{sync::Arc, time::Duration};

use flotilla_proto::v1;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tonic::Status;

use super::{
    Joined, Node,
    clients::{PlacementClient, is_unsent},
};
use crate::{
    error::Error,
    ids::{NodeId, RegionId},
    router::Route,
    world::clock,
};

/// Bound: one question to the driver.
pub(super) const TIMEOUT: Duration = Duration::from_secs(3);

/// Whether a question may be asked twice without a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asking {
    Reads,
    Changes,
}

/// Asks `question` of the nodes until one that leads region 1 answers: first of the one that does as far as
/// this node knows, then of a few at a time. The answer of a node that does not lead is `Ok(None)`; an answer
/// that was lost on the way is `Err(Unanswered::Lost)`.
///
/// # Errors
/// Once the answer to a change was lost, every failure is `OutcomeUnknown`: another node is asked,
/// and what it refuses may be refused because of that change.
pub(super) async fn ask_driver<T, F>(
    node: &Arc<Node>,
    joined: &Joined,
    asking: Asking,
    question: F,
) -> Result<T, Error>
where
    F: Fn(PlacementClient) -> BoxFuture<'static, Result<Option<T>, Unanswered>>,
{
    let leader = joined.driver.system_leader().filter(|leader| *leader != joined.node);
    let mut others: Vec<NodeId> = node.directory.others(joined.node);
    others.retain(|other| Some(*other) != leader);
    // So that it is not the same ones each time that are left when the time is over.
    let first = clock::random() % others.len().max(1) as u64;
    others.rotate_left(usize::try_from(first).unwrap_or(0));
    let ask = |target| {
        let record = node.directory.node(target)?;
        let client = node.clients.get(joined.cluster, &record.peer_address).ok()?;
        Some(question(client))
    };
    ask_a_few_at_a_time(leader, others, asking, ASKING, ask).await
}

/// How long nodes are asked for the driver.
struct Patience {
    /// Bound: nodes that are asked at a time.
    at_once: usize,
    /// Bound: one question.
    each: Duration,
    /// After so long without an answer others are asked beside the one that is believed to lead.
    alone: Duration,
    /// Bound: all of it.
    whole: Duration,
}

const ASKING: Patience = Patience {
    at_once: 4,
    each: TIMEOUT.saturating_mul(2),
    alone: Duration::from_secs(1),
    whole: Duration::from_secs(12),
};

/// See [`ask_driver`]. `ask` answers `None` for a node that cannot be asked.
async fn ask_a_few_at_a_time<T>(
    leader: Option<NodeId>,
    others: Vec<NodeId>,
    asking: Asking,
    patience: Patience,
    ask: impl Fn(NodeId) -> Option<BoxFuture<'static, Result<Option<T>, Unanswered>>>,
) -> Result<T, Error> {
    let bounded = |target: NodeId| {
        let asked = ask(target)?;
        let lost = |_| Err(Unanswered::Lost("it did not answer".to_owned()));
        let each = patience.each;
        Some(async move { (target, tokio::time::timeout(each, asked).await.unwrap_or_else(lost)) })
    };
    let mut failures =
        Failures { asking, lost: None, last: Error::NoLeader { region: RegionId::SYSTEM } };
    let mut asked: FuturesUnordered<_> = leader.into_iter().filter_map(&bounded).collect();
    let mut others = others.into_iter().filter_map(&bounded).fuse();
    let end = clock::now() + patience.whole;
    let mut alone_until = clock::now() + patience.alone;
    let mut is_refused = false;
    loop {
        let is_alone = !asked.is_empty() && clock::now() < alone_until;
        while !is_alone
            && !is_refused
            && asked.len() < patience.at_once
            && let Some(next) = others.next()
        {
            asked.push(next);
        }
        // Whoever has been asked for a change may yet make it, whatever another one has said.
        if asked.is_empty() || (is_refused && asking == Asking::Reads) {
            return Err(failures.into_error());
        }
        let until = if is_alone { alone_until.min(end) } else { end };
        let Ok(answered) = tokio::time::timeout_at(until, asked.next()).await else {
            if clock::now() < end {
                continue;
            }
            failures.lost(&format!("asked {} nodes: they did not answer", asked.len()));
            return Err(failures.into_error());
        };
        // It was one that is not there, or that leads no more.
        alone_until = clock::now();
        let Some((target, answer)) = answered else { continue };
        match answer {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) | Err(Unanswered::Unsent) => {}
            Err(Unanswered::Lost(reason)) => {
                failures.lost(&format!("asked node {target}: {reason}"));
            }
            Err(Unanswered::Refused(error)) if is_refused => {
                tracing::debug!(%target, %error, "it refuses as well");
            }
            Err(Unanswered::Refused(error)) => {
                is_refused = !error.retryable() || error.maybe_applied();
                failures.last = error;
            }
        }
    }
}

/// Why the driver did not answer a question with what was asked for.
#[derive(Debug)]
pub(super) enum Unanswered {
    Refused(Error),
    /// The question may have been heard.
    Lost(String),
    /// There was nobody to hear it.
    Unsent,
}

impl From<Status> for Unanswered {
    fn from(status: Status) -> Self {
        if is_unsent(&status) { Self::Unsent } else { Self::Lost(status.message().to_owned()) }
    }
}

/// What one question has met on its way from node to node.
struct Failures {
    asking: Asking,
    lost: Option<String>,
    last: Error,
}

impl Failures {
    fn lost(&mut self, message: &str) {
        let message = message.to_owned();
        match self.asking {
            Asking::Reads => self.last = Error::NotReady { message },
            Asking::Changes => self.lost = Some(message),
        }
    }

    fn into_error(self) -> Error {
        match self.lost {
            None => self.last,
            Some(lost) => Error::OutcomeUnknown { message: format!("{lost}; then: {}", self.last) },
        }
    }
}

/// Regions as the driver knows them.
pub(super) async fn regions(
    node: &Arc<Node>,
    request: v1::RegionsRequest,
) -> Result<v1::RegionsResponse, Error> {
    let joined = node.joined().cloned().ok_or(Error::NotJoined { removed: node.is_removed() })?;
    if let Some(regions) = joined.driver.regions(&request).await {
        return Ok(regions);
    }
    ask_driver(node, &joined, Asking::Reads, |mut client| {
        let request = request.clone();
        async move {
            let response = client.regions(request).await?.into_inner();
            Ok(response.accepted.then_some(response))
        }
        .boxed()
    })
    .await
}

/// A region as its peer on this node knows it; where there is none, as the driver does.
///
/// # Errors
/// `RegionNotFound` when the driver does not know it either.
pub(super) async fn region(
    node: &Arc<Node>,
    joined: &Joined,
    id: RegionId,
) -> Result<Route, Error> {
    if let Some(peer) = joined.peers.get(id).filter(|peer| peer.view().is_initialized()) {
        let region = (*peer.view().published().descriptor).clone();
        return Ok(Route { region, leader: peer.leader().map(|(_, node)| node) });
    }
    let unknown = || Error::RegionNotFound { region: id };
    if id.0 == 0 {
        return Err(unknown());
    }
    let asked = v1::RegionsRequest { region_id: id.0, ..Default::default() };
    let found = regions(node, asked).await?.regions;
    found.into_iter().find_map(Route::of).ok_or_else(unknown)
}

/// A region that the caller named by its id, and that the driver does not know once it has heard every node,
/// is not there: no other node has it, and a repeat would not find it.
pub(super) fn named<T>(found: Result<T, Error>) -> Result<T, Error> {
    found.map_err(|error| match error {
        Error::RegionNotFound { region } => {
            Error::NotFound { message: format!("region {region}: not found") }
        }
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_after_a_lost_answer_is_not_certain() {
        let moved = || Error::VersionMoved { expected: 1, actual: 2 };
        for (why, asking, lost, want) in [
            ("nobody was lost", Asking::Changes, false, moved()),
            (
                "the version may have been moved by the call whose answer was lost",
                Asking::Changes,
                true,
                Error::OutcomeUnknown { message: format!("asked node 3: gone; then: {}", moved()) },
            ),
            ("reading leaves no trace", Asking::Reads, true, moved()),
        ] {
            let mut failures =
                Failures { asking, lost: None, last: Error::NoLeader { region: RegionId::SYSTEM } };
            if lost {
                failures.lost("asked node 3: gone");
            }
            failures.last = moved();
            assert_eq!(failures.into_error(), want, "{why}");
        }
    }

    type Answered = Result<Option<u64>, Unanswered>;

    /// What each node answers, how many were asked at a time, and how long it took.
    async fn asked(
        leader: Option<u64>,
        others: std::ops::RangeInclusive<u64>,
        asking: Asking,
        answer: impl Fn(u64) -> BoxFuture<'static, Answered>,
    ) -> (Result<u64, Error>, usize, Duration) {
        let patience = Patience {
            at_once: 4,
            each: Duration::from_millis(200),
            alone: Duration::from_millis(50),
            whole: Duration::from_millis(700),
        };
        let (asked, most) = (Arc::new(()), std::cell::Cell::new(0));
        let ask = |node: NodeId| {
            let guard = Arc::clone(&asked);
            most.set(most.get().max(Arc::strong_count(&asked) - 1));
            let answer = answer(node.0);
            Some(answer.map(move |answer| (answer, drop(guard)).0).boxed())
        };
        let began = clock::now();
        let leader = leader.map(NodeId);
        let found =
            ask_a_few_at_a_time(leader, others.map(NodeId).collect(), asking, patience, ask).await;
        (found, most.get(), began.elapsed())
    }

    fn hung() -> BoxFuture<'static, Answered> {
        std::future::pending().boxed()
    }

    fn says(answer: Answered) -> BoxFuture<'static, Answered> {
        std::future::ready(answer).boxed()
    }

    #[tokio::test]
    async fn nodes_that_hang_do_not_hold_up_the_search_for_the_driver_one_after_the_other() {
        let nine_leads = |node| if node == 9 { says(Ok(Some(9))) } else { hung() };
        let (found, most, took) = asked(Some(1), 2..=9, Asking::Reads, nine_leads).await;
        assert_eq!((found, most), (Ok(9), 4));
        assert!(took >= Duration::from_millis(400), "four at a time: {took:?}");

        let (found, most, took) = asked(Some(1), 2..=100, Asking::Reads, |_| hung()).await;
        assert!(matches!(found, Err(Error::NotReady { .. })), "{found:?}");
        assert_eq!(most, 4);
        assert!(took >= Duration::from_millis(700), "{took:?}");
        let (found, ..) = asked(None, 1..=100, Asking::Changes, |_| hung()).await;
        assert!(matches!(found, Err(Error::OutcomeUnknown { .. })), "{found:?}");

        let none_leads = |_| says(Ok(None));
        let (found, ..) = asked(Some(1), 2..=100, Asking::Reads, none_leads).await;
        assert_eq!(found, Err(Error::NoLeader { region: RegionId::SYSTEM }));
    }

    #[tokio::test]
    async fn the_one_that_leads_is_asked_alone() {
        let (found, most, _) = asked(Some(1), 2..=9, Asking::Changes, |node| {
            assert_eq!(node, 1);
            says(Ok(Some(node)))
        })
        .await;
        assert_eq!((found, most), (Ok(1), 1));
    }

    /// The one that does not answer may have made the change for which another one refuses it.
    #[tokio::test]
    async fn refusal_beside_a_question_that_is_not_answered_is_not_certain() {
        let moved = || Error::VersionMoved { expected: 1, actual: 2 };
        let one_hangs = |node| match node {
            2 => says(Err(Unanswered::Refused(moved()))),
            _ => hung(),
        };
        let (found, ..) = asked(None, 1..=2, Asking::Changes, one_hangs).await;
        assert!(matches!(found, Err(Error::OutcomeUnknown { .. })), "{found:?}");
        let (found, ..) = asked(None, 1..=2, Asking::Reads, one_hangs).await;
        assert_eq!(found, Err(moved()));
        let alone = |node| if node == 2 { one_hangs(2) } else { says(Ok(None)) };
        let (found, ..) = asked(None, 1..=9, Asking::Changes, alone).await;
        assert_eq!(found, Err(moved()));
    }

    #[test]
    fn region_that_nobody_has_is_not_waited_for() {
        let missing = named::<()>(Err(Error::RegionNotFound { region: RegionId(9) }));
        let missing = missing.expect_err("it is not there");
        assert!(
            matches!(&missing, Error::NotFound { message } if message.contains('9')),
            "{missing:?}"
        );
        assert!(!missing.retryable(), "a client would ask again until its time is over");
        let elsewhere = named::<()>(Err(Error::NoLeader { region: RegionId(9) }));
        assert!(elsewhere.expect_err("it has no leader").retryable(), "that can pass");
    }
}
