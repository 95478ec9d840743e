//! Peers that are set aside: those that openraft has ended, and those that are found to have lost what
//! they acknowledged.
//!
//! Such a peer is out of the map at once, so that requests go to who leads; it is told to the placement
//! driver as one in quarantine, which has it replaced, and named wherever the node's health is shown.
//! What it promised decides whether that is for ever. A log that lost an acknowledged entry must never
//! vote again: the verdict is written to the disk. A peer that openraft ended has broken no promise: its
//! log is whole, and what it was ended by (a command of a newer version, a block that could not be read)
//! may be mended with the next start, which tries again. Were that written down, a command that no
//! replica can apply would cost all of them for good.

use std::sync::Arc;

use flotilla_proto::v1::{self, message::Body, refused::Reason};

use super::{
    Peer, elections, lifecycle,
    peers::{Peers, Quarantined},
    serve::refused,
};
use crate::{
    ids::{PeerId, RegionId},
    metrics::PeerLoss,
    world::{Mark, sometimes},
};

impl Peers {
    /// Notices the end of a peer.
    pub(super) fn watch_over(self: &Arc<Self>, peer: &Arc<Peer>) {
        let metrics = self.env.metrics.raft.clone();
        let (news, region, watched) = (Arc::clone(&self.news), peer.region, Arc::downgrade(peer));
        let tell = move |term, leader: PeerId| {
            let watched = watched.upgrade();
            // It was elected, with what it has.
            if let Some(peer) = watched.as_ref().filter(|peer| peer.id == leader) {
                peer.running.end_contradiction(term);
            }
            let node = watched.and_then(|peer| peer.node_of(leader));
            news.leader(region, term, leader, node);
        };
        let counting = elections::watch(peer.id, peer.raft().server_metrics(), metrics, tell);
        let (peers, peer) = (Arc::downgrade(self), Arc::downgrade(peer));
        self.env.runtime.spawn(async move {
            counting.await;
            let (Some(peers), Some(peer)) = (peers.upgrade(), peer.upgrade()) else { return };
            peer.running.note_end();
            if !peer.is_stopped() {
                sometimes(Mark::PEER_ENDED);
                peers.set_aside(&peer, peer.running.why_ended(), PeerLoss::Ended);
            }
        });
    }

    /// Puts a peer that lost what it acknowledged in quarantine, for ever.
    pub(super) fn quarantine(self: &Arc<Self>, peer: Arc<Peer>, reason: String) {
        if !self.set_aside(&peer, reason.clone(), PeerLoss::Reverted) {
            return;
        }
        let peers = Arc::clone(self);
        self.env.runtime.spawn(async move {
            let note = async {
                let (region, id) = (peer.region, peer.id);
                let _changes = peers.changing.begin(region).await;
                if peers.quarantined.read().get(&region).is_none_or(|here| here.peer != id) {
                    return; // it was destroyed meanwhile
                }
                if let Err(error) = lifecycle::quarantine(&peers.env, region, id, &reason).await {
                    tracing::error!(%region, peer = %id, "note that a peer is in quarantine: {error:#}");
                }
            };
            // Beside each other: a core that hangs must not keep the verdict from the disk.
            tokio::join!(peer.stop(), note);
        });
    }

    /// Takes a peer out of the map. Answers whether it was there.
    fn set_aside(&self, peer: &Arc<Peer>, reason: String, cause: PeerLoss) -> bool {
        {
            let mut map = self.map.write();
            if !map.take_out(peer) {
                return false;
            }
            // Ordering: under the lock of the map, so that whoever does not find it there finds it here.
            let remains = Some(Arc::clone(peer));
            let quarantined = Quarantined { peer: peer.id, reason: reason.clone(), remains };
            self.quarantined.write().insert(peer.region, quarantined);
        }
        self.env.metrics.regions.peers_lost_total.get(cause).inc();
        tracing::error!(
            region = %peer.region,
            peer = %peer.id,
            node = %self.env.node,
            reason,
            "a peer does not take part any more"
        );
        true
    }

    /// Answers a leader for a peer that does not run here.
    ///
    /// Nothing is made or destroyed on the word of an append, which says nothing of who is a member. A
    /// peer that is yet to come has an empty log, and so it does not have the entry before the first
    /// that is sent: with this the leader of a learner goes back until it sends a snapshot, and that is
    /// checked before it makes a peer (`receive.rs`). To a leader that has it as a voter it is no answer.
    pub(super) fn answer_for_absent(
        &self,
        region: RegionId,
        to: PeerId,
        append: &v1::AppendEntries,
    ) -> Result<Body, v1::Refused> {
        self.refuse_gone(region, to)?;
        if append.prev.is_none() {
            return Err(refused(Reason::UnknownPeer, format!("peer {to} is not here yet")));
        }
        let absent = v1::append_entries_result::Result::Absent(true);
        Ok(Body::AppendResult(v1::AppendEntriesResult { result: Some(absent) }))
    }

    /// Refuses what is for a peer that is no more, or in quarantine.
    pub(super) fn refuse_gone(&self, region: RegionId, to: PeerId) -> Result<(), v1::Refused> {
        if self.is_buried(region, to) {
            return Err(refused(Reason::Tombstone, format!("peer {to} was removed here")));
        }
        if let Some(here) = self.get(region)
            && here.id > to
        {
            let message = format!("peer {to} was followed by peer {}", here.id);
            return Err(refused(Reason::Tombstone, message));
        }
        match self.quarantined.read().get(&region) {
            Some(here) if here.peer >= to => {
                let message = format!("peer {} is in quarantine: {}", here.peer, here.reason);
                Err(refused(Reason::NotReady, message))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        raft::{
            CommandBytes,
            fixture::{Failing, soon},
            transport::Inbox as _,
        },
        region::fixture::{Fixture, PEER, REGION, blank, put, until, until_applied},
        world::clock,
    };

    async fn open(fixture: &Fixture) -> Arc<Peers> {
        Peers::open(Arc::clone(&fixture.env), false, None).await.expect("peers")
    }

    /// Opens the region's only peer, and waits until it leads.
    async fn lead(fixture: &Fixture) -> (Arc<Peers>, Arc<Peer>) {
        let peers = open(fixture).await;
        let peer = peers.get(REGION).expect("the peer");
        until("it to lead", || peer.is_leader() && peer.is_in_touch()).await;
        (peers, peer)
    }

    /// Whatever ended it, within a second nobody takes it for the leader any more, and it is told.
    #[tokio::test]
    async fn leader_that_ended_leads_nothing_and_is_told() {
        for (why, words) in [("a failed write", "injected"), ("an unknown command", "decode")] {
            let fixture = Fixture::new(|_| {});
            fixture.bear();
            let (peers, peer) = lead(&fixture).await;
            assert!(peers.route(b"a").is_some(), "{why}");
            let bytes = if why == "a failed write" {
                fixture.data.fail(0, Failing::Before);
                let write = v1::command::Body::Write(put("a", "1"));
                let command = v1::Command {
                    epoch_version: 1,
                    time_ms: 1,
                    body: Some(write),
                    ..Default::default()
                };
                crate::command::encode(&command)
            } else {
                bytes::Bytes::from_static(b"\xff\xff\xff")
            };
            let began = clock::now();
            let ended = soon(why, peer.raft().client_write(CommandBytes(bytes))).await;
            assert!(ended.is_err(), "{why}");
            until("the end to be noticed", || peers.get(REGION).is_none()).await;
            assert!(clock::now() - began < Duration::from_secs(1), "{why}");

            assert!(!peer.runs() && !peer.is_leader() && peer.leader().is_none(), "{why}");
            assert!(!peer.is_in_touch() && peer.followers().is_empty(), "{why}");
            assert_eq!(peer.status().role, "stopped", "{why}");
            assert!(peers.route(b"a").is_none(), "requests go elsewhere after {why}");
            let [(region, id, reason)] = &peers.quarantined()[..] else {
                panic!("{why}: not told")
            };
            assert_eq!((*region, *id), (REGION, PEER), "{why}");
            assert!(reason.contains(words), "{why}: {reason}");
            let lost = &fixture.env.metrics.regions.peers_lost_total;
            assert_eq!(lost.get(PeerLoss::Ended).get(), 1, "{why}");

            // It has broken no promise, and so a start tries it again.
            peer.stop().await;
            peer.view().close();
            assert!(open(&fixture).await.get(REGION).is_some(), "{why}");
        }
    }

    #[tokio::test]
    async fn peer_that_was_stopped_is_not_set_aside() {
        let fixture = Fixture::new(|_| {});
        fixture.bear();
        let (peers, peer) = lead(&fixture).await;
        peer.stop().await;
        assert!(!peer.is_leader());
        until("its end to be seen", || Arc::strong_count(&peer) == 2).await;
        assert!(peers.quarantined().is_empty());
    }

    fn vote() -> v1::VoteState {
        v1::VoteState { term: 5, voted_for: 71, committed: true }
    }

    fn append(prev: Option<u64>) -> v1::AppendEntries {
        v1::AppendEntries {
            vote: Some(vote()),
            prev: prev.map(|index| v1::LogId { term: if index == 1 { 1 } else { 5 }, index }),
            ..v1::AppendEntries::default()
        }
    }

    async fn deliver(
        peers: &Arc<Peers>,
        region: RegionId,
        to: u64,
        append: v1::AppendEntries,
    ) -> Result<v1::append_entries_result::Result, Reason> {
        let message = v1::Message {
            region_id: region.0,
            from_peer: 71,
            to_peer: to,
            body: Some(Body::Append(append)),
            ..v1::Message::default()
        };
        match soon("an answer", peers.deliver(crate::ids::NodeId(2), message)).await.body {
            Some(Body::AppendResult(result)) => Ok(result.result.expect("a result")),
            Some(Body::Refused(refused)) => Err(refused.reason()),
            other => panic!("answered {other:?}"),
        }
    }

    /// One message of anybody would else cost a region its replica, and a node its memory.
    #[tokio::test]
    async fn append_neither_makes_nor_destroys_a_peer() {
        use v1::append_entries_result::Result::Absent;
        let fixture = Fixture::new(|_| {});
        fixture.bear();
        let peers = open(&fixture).await;
        let writes = fixture.data.writes().len();
        for (why, region, to, prev, want) in [
            ("a later peer of a live one", REGION, 71, Some(9), Ok(Absent(true))),
            ("the last that could be", REGION, u64::MAX, Some(9), Ok(Absent(true))),
            ("a heartbeat for it", REGION, 71, None, Err(Reason::UnknownPeer)),
            ("an earlier one", REGION, 69, Some(9), Err(Reason::Tombstone)),
            ("a region that is not here", RegionId(99), 5, Some(9), Ok(Absent(true))),
        ] {
            let answer = deliver(&peers, region, to, append(prev)).await;
            assert_eq!(answer, want, "{why}");
        }
        let here: Vec<_> = peers.all().iter().map(|peer| (peer.region, peer.id)).collect();
        assert_eq!(here, [(REGION, PEER)]);
        assert_eq!(fixture.data.writes().len(), writes, "nothing was written");
        assert!(peers.get(REGION).expect("the peer").runs());
    }

    /// Its disk was set back to before it acknowledged.
    #[tokio::test]
    async fn follower_that_lacks_what_it_acknowledged_sets_itself_aside_for_ever() {
        use v1::append_entries_result::Result::Conflict;
        let fixture = Fixture::new(|_| {});
        fixture.bear_with_voters(&[PEER, PeerId(71), PeerId(72)]);
        let peers = open(&fixture).await;
        let peer = peers.get(REGION).expect("the peer");
        peer.raft().runtime_config().elect(false);
        let heartbeat = |prev, acknowledged| {
            let acknowledged = Some(v1::LogId { term: 5, index: acknowledged });
            v1::AppendEntries { acknowledged, ..append(Some(prev)) }
        };
        let answer = deliver(&peers, REGION, PEER.0, heartbeat(9, 8)).await;
        assert_eq!(answer, Ok(Conflict(true)), "it never had more");
        assert!(peer.runs());
        let answer = deliver(&peers, REGION, PEER.0, heartbeat(9, 9)).await;
        assert_eq!(answer, Err(Reason::Reverted));
        assert!(peers.get(REGION).is_none());
        until("it to stop", || !peer.runs()).await;
        let answer = deliver(&peers, REGION, PEER.0, heartbeat(9, 9)).await;
        assert_eq!(answer, Err(Reason::NotReady), "it is in quarantine");
        let lost = &fixture.env.metrics.regions.peers_lost_total;
        assert_eq!(lost.get(PeerLoss::Reverted).get(), 1);

        // A vote of it would count after a restart as well.
        let noted = async {
            loop {
                let again = open(&fixture).await;
                let quarantined = again.quarantined();
                match again.get(REGION) {
                    Some(peer) => peer.stop().await,
                    None => return quarantined,
                }
            }
        };
        let quarantined = soon("the verdict on the disk", noted).await;
        assert!(quarantined[0].2.contains("set back"), "{quarantined:?}");
    }

    /// What an old leader acknowledged counts for nothing once a later one was heard.
    #[tokio::test]
    async fn word_of_a_deposed_leader_sets_nobody_aside() {
        use v1::append_entries_result::Result::HigherVote;
        let fixture = Fixture::new(|_| {});
        fixture.bear_with_voters(&[PEER, PeerId(71), PeerId(72)]);
        let peers = open(&fixture).await;
        let peer = peers.get(REGION).expect("the peer");
        peer.raft().runtime_config().elect(false);
        let later = v1::VoteState { term: 6, voted_for: 72, committed: true };
        let later = v1::AppendEntries { vote: Some(later), ..v1::AppendEntries::default() };
        deliver(&peers, REGION, PEER.0, later).await.expect("taken");
        let bound = 2 * fixture.env.config.raft.election_timeout_max;
        until("silence", || !peer.is_in_touch()).await;
        assert!(peer.silent_for() >= bound);
        let acknowledged = Some(v1::LogId { term: 5, index: 9 });
        let old = v1::AppendEntries { acknowledged, ..append(Some(9)) };
        let answer = deliver(&peers, REGION, PEER.0, old).await;
        assert!(matches!(answer, Ok(HigherVote(_))), "{answer:?}");
        assert!(peer.runs());
        assert!(!peer.is_in_touch(), "who is no leader any more is no company");
    }

    /// The heartbeat to the placement driver gives up peers, and must be in time.
    #[tokio::test]
    async fn peer_is_destroyed_while_nobody_waits_for_it() {
        let fixture = Fixture::new(|_| {});
        fixture.bear();
        let (peers, _) = lead(&fixture).await;
        let destroying = tokio::spawn(Arc::clone(&peers).run_destroyer());
        fixture.data.hold();
        fixture.log.hold();
        for _ in 0..3 {
            peers.give_up(REGION, PEER);
            peers.give_up(REGION, PeerId(71));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert!(peers.get(REGION).is_some(), "its tombstone comes first");
        fixture.data.release();
        fixture.log.release();
        until("it to be gone", || peers.get(REGION).is_none()).await;
        let answer = async {
            loop {
                match deliver(&peers, REGION, PEER.0, append(Some(9))).await {
                    Err(Reason::Tombstone) => return,
                    _ => tokio::task::yield_now().await,
                }
            }
        };
        soon("its tombstone", answer).await;
        destroying.abort();
    }

    /// A restart would else open it, and let it vote.
    #[tokio::test(flavor = "multi_thread", worker_threads = 3)]
    async fn peer_whose_core_hangs_is_in_quarantine_on_the_disk() {
        let fixture = Fixture::new(|_| {});
        fixture.bear();
        let (peers, peer) = lead(&fixture).await;
        let (release, held) = std::sync::mpsc::channel::<()>();
        let (hangs, hung) = tokio::sync::oneshot::channel();
        let hanging = Arc::clone(&peer);
        tokio::spawn(async move {
            let hang = move |_: &_| {
                let _ = hangs.send(());
                let _ = held.recv();
            };
            let _ = hanging.raft().with_raft_state(hang).await;
        });
        soon("its core to hang", hung).await.expect("it does");
        peers.quarantine(peer, "a test".to_owned());
        until("the verdict on the disk", || {
            let promises = super::super::promises::read(fixture.log.as_ref(), REGION);
            promises.expect("a log that can be read").quarantined.is_some()
        })
        .await;
        drop(release);
    }

    /// It comes by a state of before the entry that adds it was applied.
    #[tokio::test]
    async fn peer_that_only_its_log_names_has_not_left() {
        let fixture = Fixture::new(|_| {});
        fixture.bear_with_voters(&[PeerId(71)]);
        let peer = fixture.open().await;
        until("its state to say that it left", || peer.has_left()).await;
        let members = [(71, 1), (PEER.0, 2)];
        let membership = v1::Membership {
            voters: vec![v1::VoterSet { peer_ids: vec![71] }],
            peers: members.map(|(peer_id, node_id)| v1::MemberPeer { peer_id, node_id }).to_vec(),
        };
        let entry = v1::LogEntry {
            term: 5,
            index: 2,
            payload: Some(v1::log_entry::Payload::Membership(membership)),
        };
        let added = v1::AppendEntries { entries: vec![entry], ..append(Some(1)) };
        Arc::clone(&peer).serve(Body::Append(added)).await.expect("taken");
        until("its log to name it", || !peer.has_left()).await;
    }

    /// The entry was committed, or it would not have been applied.
    #[tokio::test]
    async fn leader_without_what_was_applied_is_refused_and_named() {
        let fixture = Fixture::new(|_| {});
        fixture.bear_with_voters(&[PEER, PeerId(71), PeerId(72)]);
        let peers = open(&fixture).await;
        let peer = peers.get(REGION).expect("the peer");
        peer.raft().runtime_config().elect(false);
        let commit = v1::AppendEntries {
            entries: vec![blank(5, 2)],
            leader_commit: Some(v1::LogId { term: 5, index: 2 }),
            ..append(Some(1))
        };
        deliver(&peers, REGION, PEER.0, commit).await.expect("taken");
        until_applied(&peer, 2).await;
        let other = |term, candidate| v1::AppendEntries {
            vote: Some(v1::VoteState { term, voted_for: candidate, committed: true }),
            entries: vec![blank(term, 2)],
            ..append(Some(1))
        };
        let deposed = deliver(&peers, REGION, PEER.0, other(4, 72)).await;
        assert!(deposed.is_ok(), "openraft tells it who leads: {deposed:?}");
        assert!(peer.is_in_touch());
        for _ in 0..2 {
            let answer = deliver(&peers, REGION, PEER.0, other(6, 72)).await;
            assert_eq!(answer, Err(Reason::Failed));
        }
        assert!(!peer.is_in_touch() && peer.runs());
        let [(region, id, reason)] = &peers.contradicted()[..] else { panic!("not named") };
        assert_eq!((*region, *id), (REGION, PEER));
        assert!(reason.contains("the leader of term 6"), "{reason}");
        let told = peer.status();
        assert_eq!((&*told.role, &told.reason), ("contradicted", reason));
        let lost = &fixture.env.metrics.regions.peers_lost_total;
        assert_eq!(lost.get(PeerLoss::Contradicted).get(), 1, "told once");

        let rightful = v1::AppendEntries {
            vote: Some(v1::VoteState { term: 7, voted_for: 71, committed: true }),
            ..append(Some(2))
        };
        deliver(&peers, REGION, PEER.0, rightful).await.expect("taken");
        assert!(peer.is_in_touch(), "a later leader has it");
        assert!(peers.contradicted().is_empty() && peer.status().role == "follower");
    }

    /// Openraft takes whatever is sent in the place of a committed entry for that entry: it would acknowledge what it does
    /// not have, and answer reads from what its leader does not have.
    #[tokio::test]
    async fn leader_whose_log_ends_before_what_was_applied_is_refused_as_well() {
        let fixture = Fixture::new(|_| {});
        fixture.bear_with_voters(&[PEER, PeerId(71), PeerId(72)]);
        let peers = open(&fixture).await;
        let peer = peers.get(REGION).expect("the peer");
        peer.raft().runtime_config().elect(false);
        let id = |term, index| v1::LogId { term, index };
        let commit = v1::AppendEntries {
            entries: (2..=9).map(|index| blank(5, index)).collect(),
            leader_commit: Some(id(5, 9)),
            ..append(Some(1))
        };
        deliver(&peers, REGION, PEER.0, commit).await.expect("taken");
        until_applied(&peer, 9).await;
        let of = |prev, entries| v1::AppendEntries {
            vote: Some(v1::VoteState { term: 6, voted_for: 72, committed: true }),
            prev: Some(prev),
            entries,
            ..v1::AppendEntries::default()
        };
        for (why, prev, entries) in [
            ("the same up to there", id(5, 7), vec![blank(5, 8)]),
            ("the first of all", id(1, 1), vec![]),
        ] {
            let answer = deliver(&peers, REGION, PEER.0, of(prev, entries)).await;
            assert!(answer.is_ok() && peers.contradicted().is_empty(), "{why}: {answer:?}");
        }
        for (why, prev, entries) in [
            ("its first entry in the place of one", id(1, 1), vec![blank(6, 2)]),
            ("nothing new", id(6, 3), vec![]),
            ("one of an election that nobody here heard of", id(1, 1), vec![blank(4, 2)]),
            ("a sign of life alone", id(6, 20), vec![]),
        ] {
            let answer = deliver(&peers, REGION, PEER.0, of(prev, entries)).await;
            assert_eq!(answer, Err(Reason::Failed), "{why}");
            let named: Vec<_> = peers.contradicted().iter().map(|(_, id, _)| *id).collect();
            assert_eq!(named, [PEER], "{why}");
        }
        let read = v1::ReadCommand { epoch_version: 1, ..v1::ReadCommand::default() };
        let read = |mode: v1::ReadMode| v1::ReadCommand { read_mode: mode.into(), ..read.clone() };
        let deadline = clock::now() + Duration::from_secs(20);
        let proven = peer.read(&read(v1::ReadMode::Linearizable), deadline).await;
        let asked = |error: &_| matches!(error, crate::error::Error::NotLeader { leader: Some(leader), .. } if leader.peer_id == 72);
        assert!(proven.as_ref().is_err_and(asked), "its leader is to be asked: {proven:?}");
        let stale = peer.read(&read(v1::ReadMode::Stale), deadline).await;
        stale.expect("what it has can be saved");
    }

    /// It has what nobody else has, so that nobody gets its vote away.
    #[tokio::test]
    async fn leader_in_vain_that_a_later_one_contradicts_leads_no_more_and_is_named() {
        let fixture = Fixture::new(|_| {});
        fixture.bear();
        let (peers, peer) = lead(&fixture).await;
        peer.raft().runtime_config().elect(false);
        until_applied(&peer, 2).await;
        let later = peer.term() + 1;
        let other = v1::AppendEntries {
            vote: Some(v1::VoteState { term: later, voted_for: 71, committed: true }),
            entries: vec![blank(later, 2)],
            ..append(Some(1))
        };
        let answer = deliver(&peers, REGION, PEER.0, other).await;
        assert_eq!(answer, Err(Reason::Failed));
        until("it to lead no more", || !peer.is_leader()).await;
        assert_eq!(peer.status().role, "contradicted");
        assert_eq!(peers.contradicted().len(), 1);
        peer.raft().runtime_config().elect(true);
        until("it to be elected with what it has", || peer.is_leader()).await;
        until("that to be over", || !peer.running.is_contradicted()).await;
    }
}
