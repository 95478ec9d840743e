//! Followers that do not have what they acknowledged.
//!
//! An entry is committed because enough disks have it. One that is set back (an old snapshot of a volume,
//! a log that lost its last second) takes its word back without saying so, and as long as nobody notices,
//! the leader counts on a copy that is not there. Openraft supposes that it cannot happen: it would ask such
//! a follower for the same entry again and again, and take each refusal for a sign of life.
//!
//! What a follower acknowledged to a leader it must have for as long as that leader leads, whatever
//! happens to it. So a leader remembers that, for its term, and says it with each append. A follower
//! that has to answer a conflict at or below it has the proof that its own log lost entries, and so has
//! the leader. The answer then counts as none: the follower is silent to openraft, which tries it again
//! after pauses only, and counts it for no lease. Both sides say so, and the placement driver has the
//! peer replaced.
//!
//! What this does not see: a loss that is hidden by a change of leader. The next leader has no word of the
//! follower, and a vote that was given before the loss was noticed counts. Where such a vote made a
//! leader that lacks what was committed, whoever has applied it finds out: a rightful leader has every entry
//! that was committed before its term.

use std::sync::Arc;

use openraft::raft::AppendEntriesRequest;
use parking_lot::Mutex;

use super::{LogId, TypeConfig, of_term::OfTerm};
use crate::{
    ids::{NodeId, PeerId, RegionId},
    metrics::Metrics,
    world::{
        Mark,
        known_bad::{self, Fault},
        sometimes,
    },
};

/// Whether a follower that lacks `prev` has lost what it acknowledged, which is all up to `acknowledged`.
#[must_use]
pub fn is_reversion(acknowledged: Option<&LogId>, prev: Option<&LogId>) -> bool {
    // Both are of the leader's log, so that the index tells.
    matches!((acknowledged, prev), (Some(upto), Some(prev)) if prev.index <= upto.index)
        && !known_bad::is(Fault::RevertedLogCounts)
}

/// What `request` shows of the leader's log up to the last entry that is committed here: the newest of it, by which all
/// before is known. `None` if that is nothing, or is the same as here.
#[must_use]
pub fn shown(committed: &LogId, request: &AppendEntriesRequest<TypeConfig>) -> Option<LogId> {
    let first = request.entries.first();
    let at = first.and_then(|first| committed.index.checked_sub(first.log_id.index));
    let at = at.map(|at| usize::try_from(at).unwrap_or(usize::MAX).min(request.entries.len() - 1));
    let sent = at.and_then(|at| request.entries.get(at)).map(|entry| entry.log_id);
    let prev = request.prev_log_id.filter(|prev| prev.index <= committed.index);
    // Of one term there is one log: who has entries of it has the same ones before them.
    sent.or(prev).filter(|shown| shown.leader_id != committed.leader_id)
}

/// Whether the entry that a leader has shown is another than the one that is committed here: `own`, or one of those that
/// were purged, up to `purged`. The leader is of a term that is not past; then an entry was lost that was committed.
#[must_use]
pub fn contradicts(shown: &LogId, own: Option<&LogId>, purged: Option<&LogId>) -> bool {
    match own {
        Some(own) => own != shown,
        // Of these only the last is known, and that terms grow.
        None => purged
            .is_some_and(|purged| shown.index < purged.index && shown.leader_id > purged.leader_id),
    }
}

/// What the followers of one peer acknowledged to it while it leads. Cheap to clone.
#[derive(Clone)]
pub struct Reversions {
    region: RegionId,
    state: Arc<Mutex<OfTerm<Follower>>>,
}

#[derive(Default)]
struct Follower {
    acknowledged: Option<LogId>,
    reverted: bool,
}

impl Reversions {
    #[must_use]
    pub fn new(region: RegionId) -> Self {
        Self { region, state: Arc::default() }
    }

    /// Up to where `follower` has acknowledged entries to the leader of `term`. To be asked before a
    /// request is sent: what is acknowledged meanwhile, the follower may lack when it handles that.
    pub(super) fn acknowledged(&self, term: u64, follower: PeerId) -> Option<LogId> {
        self.state.lock().of(term)?.get(&follower)?.acknowledged
    }

    pub(super) fn note(&self, term: u64, follower: PeerId, upto: Option<LogId>) {
        if let Some(followers) = self.state.lock().of(term) {
            let acknowledged = &mut followers.entry(follower).or_default().acknowledged;
            *acknowledged = (*acknowledged).max(upto);
        }
    }

    /// A follower was found to lack what it acknowledged to the leader of `term`. Told once.
    pub(super) fn found(&self, term: u64, follower: PeerId, node: NodeId, metrics: &Metrics) {
        let acknowledged = {
            let mut state = self.state.lock();
            let Some(followers) = state.of(term) else { return };
            let follower = followers.entry(follower).or_default();
            if std::mem::replace(&mut follower.reverted, true) {
                return;
            }
            follower.acknowledged.map_or(0, |id| id.index)
        };
        sometimes(Mark::ACKNOWLEDGED_AND_GONE);
        metrics.regions.followers_reverted_total.inc();
        tracing::error!(
            region = %self.region,
            peer = %follower,
            %node,
            term,
            acknowledged,
            "a follower lost what it had acknowledged: its disk was set back; it is to be replaced"
        );
    }

    /// Whether `follower` was found so by the leader of `term`.
    #[must_use]
    pub fn has_reverted(&self, term: u64, follower: PeerId) -> bool {
        let state = self.state.lock();
        state.term == term && state.followers.get(&follower).is_some_and(|of| of.reverted)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use flotilla_proto::v1::{self, append_entries_result::Result as Answer, message::Body};
    use futures::future::BoxFuture;
    use openraft::{
        RaftNetworkFactory as _, RaftNetworkV2 as _, errors::RPCError,
        impls::leader_id_std::LeaderId, network::RPCOption, raft::AppendEntriesResponse,
        vote::RaftLeaderId as _,
    };
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::Streaming;

    use super::*;
    use crate::{
        ids::ClusterId,
        raft::{
            PeerAddress, TypeConfig, Vote,
            fixture::{blank, id, metrics, soon},
            network::{Network, SnapshotSettings},
            snapshot::config::SnapshotConfig,
            transport::{
                Directory, Identity, Inbox, RaftService, Transport, TransportConfig, answer,
            },
        },
        world::presence::Presence,
    };

    const FOLLOWER: PeerId = PeerId(71);

    #[test]
    fn conflict_proves_a_loss_only_where_the_follower_acknowledged() {
        for (why, acknowledged, prev, want) in [
            ("it has acknowledged nothing", None, Some(id(2, 9)), false),
            ("it is asked for the beginning", Some(id(2, 9)), None, false),
            ("it is asked for more", Some(id(2, 9)), Some(id(2, 10)), false),
            ("it is asked for the last", Some(id(2, 9)), Some(id(2, 9)), true),
            ("it is asked for an earlier one", Some(id(2, 9)), Some(id(1, 3)), true),
        ] {
            assert_eq!(is_reversion(acknowledged.as_ref(), prev.as_ref()), want, "{why}");
        }
    }

    /// Also in the place of one before the last: the leader's log may be shorter than what was applied.
    #[test]
    fn other_entry_in_the_place_of_an_applied_one_is_a_contradiction() {
        let applied = id(3, 9);
        // One purged of term 2 at 4, then of term 2 up to 6, then of term 3.
        let purged = id(2, 4);
        let own = |index| match index {
            4..=6 => Some(id(2, index)),
            7..=9 => Some(id(3, index)),
            10.. => Some(id(4, index)),
            _ => None,
        };
        for (why, prev, entries, want) in [
            ("nothing is sent", Some(id(3, 7)), vec![], false),
            ("what comes after it", Some(applied), vec![blank(4, 10)], false),
            ("what comes long after it", Some(id(5, 20)), vec![blank(5, 21)], false),
            ("the same", Some(id(3, 8)), vec![blank(3, 9), blank(4, 10)], false),
            ("what comes before it", Some(id(3, 6)), vec![blank(3, 7), blank(3, 8)], false),
            ("the same of an earlier term", Some(id(2, 5)), vec![blank(2, 6)], false),
            ("the last that was purged", Some(id(2, 4)), vec![], false),
            ("one that was purged", Some(id(1, 2)), vec![blank(2, 3)], false),
            ("another among others", Some(id(3, 7)), vec![blank(4, 8), blank(4, 9)], true),
            ("what comes after another", Some(id(4, 9)), vec![blank(4, 10)], true),
            ("an older one", Some(id(2, 8)), vec![blank(2, 9)], true),
            ("a log that ends before it", Some(id(3, 7)), vec![blank(4, 8)], true),
            ("a shorter one, at its end", Some(id(4, 8)), vec![], true),
            ("an older one before it", Some(id(2, 7)), vec![], true),
            ("another of an earlier term", Some(id(1, 5)), vec![blank(1, 6)], true),
            ("another in the place of a purged one", Some(id(4, 3)), vec![], true),
        ] {
            let vote = Vote { leader_id: LeaderId::new(5.into(), FOLLOWER), committed: true };
            let request =
                AppendEntriesRequest { vote, prev_log_id: prev, entries, leader_commit: None };
            let shown = shown(&applied, &request);
            let found = shown
                .is_some_and(|shown| contradicts(&shown, own(shown.index).as_ref(), Some(&purged)));
            assert_eq!(found, want, "{why}: {shown:?}");
        }
    }

    #[test]
    fn what_was_acknowledged_counts_for_one_term() {
        let reversions = Reversions::new(RegionId(7));
        reversions.note(3, FOLLOWER, Some(id(3, 9)));
        reversions.note(3, FOLLOWER, Some(id(3, 8)));
        assert_eq!(reversions.acknowledged(3, FOLLOWER), Some(id(3, 9)));
        assert_eq!(reversions.acknowledged(3, PeerId(72)), None);
        assert_eq!(reversions.acknowledged(4, FOLLOWER), None, "another leader");
        reversions.note(3, FOLLOWER, Some(id(3, 10)));
        assert_eq!(reversions.acknowledged(3, FOLLOWER), None, "an answer from before");
    }

    #[test]
    fn loss_is_told_once() {
        let (reversions, metrics) = (Reversions::new(RegionId(7)), metrics());
        for _ in 0..3 {
            reversions.found(3, FOLLOWER, NodeId(2), &metrics);
        }
        assert_eq!(metrics.regions.followers_reverted_total.get(), 1);
        assert!(reversions.has_reverted(3, FOLLOWER));
        assert!(!reversions.has_reverted(3, PeerId(72)) && !reversions.has_reverted(4, FOLLOWER));
    }

    /// Acknowledges what it is sent, and has nothing of it when it is asked again. Of two others nothing
    /// is there.
    struct Forgetful;

    const VOTER: PeerId = PeerId(72);
    const LEARNER: PeerId = PeerId(73);

    impl Inbox for Forgetful {
        fn identity(&self) -> Option<Identity> {
            Some(Identity { cluster: ClusterId([1; 16]), node: NodeId(2), incarnation: 1 })
        }

        fn disk_level(&self) -> v1::DiskLevel {
            v1::DiskLevel::Unspecified
        }

        fn admit(&self, _: &v1::MessageBatch, _: &Presence) -> Result<(), v1::Refused> {
            Ok(())
        }

        fn deliver(&self, _: NodeId, message: v1::Message) -> BoxFuture<'static, v1::Message> {
            Box::pin(async move {
                let Some(Body::Append(append)) = &message.body else { panic!("{message:?}") };
                let result = match append.acknowledged {
                    _ if message.to_peer != FOLLOWER.0 => Answer::Absent(true),
                    None => Answer::Success(true),
                    Some(_) => Answer::Conflict(true),
                };
                answer(
                    &message,
                    Body::AppendResult(v1::AppendEntriesResult { result: Some(result) }),
                )
            })
        }

        fn snapshot(
            &self,
            _: v1::SnapshotHeader,
            _: Presence,
            _: Streaming<v1::SnapshotChunk>,
        ) -> BoxFuture<'static, v1::SnapshotResult> {
            unreachable!("nobody sends one")
        }
    }

    struct Only(String);

    impl Directory for Only {
        fn peer_address(&self, _: NodeId) -> Option<String> {
            Some(self.0.clone())
        }
    }

    /// Openraft would ask again without a pause, and take the answer for a sign of life.
    #[tokio::test]
    async fn leader_takes_no_answer_of_a_follower_that_forgot() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let service = RaftService::new(Arc::new(Forgetful));
        let server = tonic::transport::Server::builder().add_service(service);
        let serving = tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let transport = Transport::new(
            Identity { cluster: ClusterId([1; 16]), node: NodeId(1), incarnation: 1 },
            Arc::new(Only(address)),
            TransportConfig {
                snapshot: SnapshotConfig::default(),
                silence_max: Duration::from_secs(1),
            },
            metrics(),
        );
        let reversions = Reversions::new(RegionId(7));
        let heartbeat = Duration::from_secs(10);
        let (own, told) = (PeerId(70), reversions.clone());
        let is_voter = Arc::new(|peer| peer != LEARNER);
        let snapshots = SnapshotSettings { chunk_bytes: 1024, feature_level: Arc::default() };
        let mut network =
            Network::new(transport.clone(), RegionId(7), own, told, is_voter, snapshots, heartbeat);
        let node = PeerAddress { node: NodeId(2) };
        let mut bulk = network.new_client(FOLLOWER, &node).await;
        let mut fast = network.new_heartbeat_client(FOLLOWER, &node).await;
        let request = |prev| AppendEntriesRequest::<TypeConfig> {
            vote: Vote { leader_id: LeaderId::new(3.into(), own), committed: true },
            prev_log_id: Some(id(3, prev)),
            entries: Vec::new(),
            leader_commit: None,
        };
        let option = || RPCOption::new(heartbeat);
        let answer = soon("an answer", bulk.append_entries(request(9), option())).await;
        assert!(matches!(answer, Ok(AppendEntriesResponse::Success)), "{answer:?}");
        let answer = soon("an answer", bulk.append_entries(request(10), option())).await;
        assert!(
            matches!(answer, Ok(AppendEntriesResponse::Conflict)),
            "it never had that: {answer:?}"
        );
        assert!(!reversions.has_reverted(3, FOLLOWER));
        let mut absent = network.new_client(LEARNER, &node).await;
        let answer = soon("an answer", absent.append_entries(request(9), option())).await;
        assert!(matches!(answer, Ok(AppendEntriesResponse::Conflict)), "it is yet to come");
        let mut absent = network.new_heartbeat_client(VOTER, &node).await;
        let answer = soon("an answer", absent.append_entries(request(9), option())).await;
        assert!(matches!(answer, Err(RPCError::Unreachable(_))), "no sign of life: {answer:?}");
        assert!(reversions.has_reverted(3, VOTER) && !reversions.has_reverted(3, LEARNER));
        for connection in [&mut bulk, &mut fast] {
            let answer = soon("an answer", connection.append_entries(request(9), option())).await;
            assert!(matches!(answer, Err(RPCError::Unreachable(_))), "{answer:?}");
        }
        assert!(reversions.has_reverted(3, FOLLOWER));
        assert_eq!(transport.metrics().regions.followers_reverted_total.get(), 2);
        serving.abort();
    }
}
