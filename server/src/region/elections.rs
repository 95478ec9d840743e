//! Counts campaigns of this node's peers, and counts and tells changes of leader, by the votes that reach the disk.
//!
//! A peer's vote says it all: an uncommitted one for itself is a campaign, a committed one names the
//! leader of a term. It is watched where openraft publishes it after its flush, beside the path of
//! requests. Of two changes that come faster than the task is woken the first may be missed; a
//! campaign takes a round trip to others, so what is missed is a lone peer that wins at once, whose
//! victory alone is seen and counted.

use openraft::{
    alias::WatchReceiverOf, async_runtime::WatchReceiver as _, metrics::RaftServerMetrics,
};

use crate::{
    ids::PeerId,
    metrics::{ElectionResult, RaftMetrics},
    raft::{TypeConfig, Vote},
};

/// Counts until the peer stops, and tells who leads in which term when that is another peer than before.
pub(super) async fn watch(
    own: PeerId,
    mut votes: WatchReceiverOf<TypeConfig, RaftServerMetrics<TypeConfig>>,
    metrics: RaftMetrics,
    tell: impl Fn(u64, PeerId),
) {
    let mut seen = Seen::default();
    let mut vote = votes.borrow_watched().vote;
    // What was decided before the start is no news.
    seen.look(own, vote);
    while votes.changed().await.is_ok() {
        let next = votes.borrow_watched().vote;
        if next == vote {
            continue;
        }
        vote = next;
        let news = seen.look(own, vote);
        if let Some(result) = news.election {
            metrics.elections_total.get(result).inc();
        }
        if news.leader {
            metrics.leader_changes_total.inc();
            if let Some((term, leader)) = seen.leader {
                tell(term, leader);
            }
        }
    }
}

/// What one look at a vote told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct News {
    election: Option<ElectionResult>,
    leader: bool,
}

/// What was seen before.
#[derive(Debug, Default)]
struct Seen {
    /// The term of a campaign whose end was not seen.
    campaign: Option<u64>,
    /// Term and peer of the newest leader.
    leader: Option<(u64, PeerId)>,
}

impl Seen {
    fn look(&mut self, own: PeerId, vote: Vote) -> News {
        let (term, candidate) = (vote.leader_id.term.0, vote.leader_id.voted_for);
        let mut news = News::default();
        if self.campaign.is_some_and(|campaign| campaign < term) {
            self.campaign = None;
            news.election = Some(ElectionResult::Lost);
        }
        if !vote.committed {
            // A peer that was never asked has voted for itself in term 0.
            if candidate == own && term > 0 {
                self.campaign = Some(term);
            }
            return news;
        }
        if self.campaign.take().is_some() && candidate != own {
            news.election = Some(ElectionResult::Lost);
        }
        if self.leader != Some((term, candidate)) {
            news.leader = self.leader.map(|(_, peer)| peer) != Some(candidate);
            self.leader = Some((term, candidate));
            if candidate == own {
                news.election = Some(ElectionResult::Won);
            }
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use flotilla_proto::v1::{self, message::Body};

    use super::*;
    use crate::{
        raft::{convert::vote_from_proto, fixture::soon},
        region::fixture::{Fixture, PEER, until},
    };

    const OWN: PeerId = PeerId(1);

    #[track_caller]
    fn check(why: &str, votes: &[(u64, u64, bool)], want: &[(Option<ElectionResult>, bool)]) {
        let mut seen = Seen::default();
        let news: Vec<_> = votes
            .iter()
            .map(|(term, candidate, committed)| {
                let vote =
                    v1::VoteState { term: *term, voted_for: *candidate, committed: *committed };
                let vote = vote_from_proto(Some(&vote)).expect("it is there");
                let news = seen.look(OWN, vote);
                (news.election, news.leader)
            })
            .collect();
        assert_eq!(news, want, "{why}");
    }

    #[test]
    fn campaigns_are_counted_when_they_end() {
        use ElectionResult::{Lost, Won};
        check("never asked", &[(0, 1, false)], &[(None, false)]);
        check("won", &[(2, 1, false), (2, 1, true)], &[(None, false), (Some(Won), true)]);
        check("won at once", &[(2, 1, true)], &[(Some(Won), true)]);
        check("seen twice", &[(2, 1, true), (2, 1, true)], &[(Some(Won), true), (None, false)]);
        check(
            "tried again",
            &[(2, 1, false), (3, 1, false), (3, 1, true)],
            &[(None, false), (Some(Lost), false), (Some(Won), true)],
        );
        check(
            "gave its vote to another of a later term",
            &[(2, 1, false), (3, 2, false), (3, 2, true)],
            &[(None, false), (Some(Lost), false), (None, true)],
        );
        check(
            "heard of the winner at once",
            &[(2, 1, false), (3, 2, true)],
            &[(None, false), (Some(Lost), true)],
        );
        check(
            "lost and won between two looks",
            &[(2, 1, false), (3, 1, true)],
            &[(None, false), (Some(Won), true)],
        );
    }

    #[test]
    fn leader_that_leads_again_is_no_change_of_leader() {
        check(
            "the same peer in a later term",
            &[(2, 2, true), (3, 2, true), (4, 3, false), (4, 3, true)],
            &[(None, true), (None, false), (None, false), (None, true)],
        );
    }

    #[tokio::test]
    async fn change_of_leader_is_told_with_its_term() {
        let fixture = Fixture::new(|_| {});
        fixture.bear_with_voters(&[PEER, PeerId(71), PeerId(72)]);
        let peer = fixture.open().await;
        peer.raft().runtime_config().elect(false);
        let told = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let tell = Arc::clone(&told);
        let (votes, metrics) = (peer.raft().server_metrics(), fixture.env.metrics.raft.clone());
        let watching = watch(peer.id, votes, metrics, move |term, leader| {
            tell.lock().push((term, leader));
        });
        let hearing = async {
            // Those who lead now, in turn; the second one goes on in a later term.
            for (term, voted_for) in [(5, 71), (6, 72), (7, 72)] {
                let vote = Some(v1::VoteState { term, voted_for, committed: true });
                let append = v1::AppendEntries { vote, ..v1::AppendEntries::default() };
                let heard = Arc::clone(&peer).serve(Body::Append(append)).await;
                heard.expect("an answer");
                let leader = Some(PeerId(voted_for));
                until("it to be seen", || {
                    let metrics = peer.raft().metrics();
                    let metrics = metrics.borrow_watched();
                    (metrics.current_term.0, metrics.current_leader) == (term, leader)
                })
                .await;
            }
            until("all to be told", || told.lock().len() == 2).await;
        };
        tokio::select! {
            biased;
            () = watching => panic!("the peer runs"),
            () = hearing => {}
        }
        assert_eq!(*told.lock(), [(5, PeerId(71)), (6, PeerId(72))]);
        assert!(peer.node_of(PeerId(71)).is_some(), "a line names the node, too");
    }

    /// It hears of its timer by a queue that nobody else empties, and waits for room in it.
    #[tokio::test]
    async fn peer_answers_after_its_disk_stood_still_during_a_vote() {
        let fixture = Fixture::new(|config| {
            config.raft.heartbeat_interval = Duration::from_millis(10);
            config.raft.election_timeout_max = Duration::from_millis(200);
        });
        fixture.bear_with_voters(&[PeerId(70), PeerId(71), PeerId(72)]);
        let peer = fixture.open().await;
        peer.raft().runtime_config().elect(false);
        let vote = |term| {
            let vote = Some(v1::VoteState { term, voted_for: 71, committed: false });
            let last = Some(v1::LogId { term: 1, index: 1 });
            Body::Vote(v1::Vote { vote, last, ..v1::Vote::default() })
        };
        fixture.log.hold();
        let asked = tokio::spawn(Arc::clone(&peer).serve(vote(5)));
        // The timer goes off about five hundred times.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!asked.is_finished(), "the vote is not on the disk");
        fixture.log.release();
        soon("an answer", asked).await.expect("no panic").expect("an answer");
        soon("another", Arc::clone(&peer).serve(vote(6))).await.expect("an answer");
    }
}
