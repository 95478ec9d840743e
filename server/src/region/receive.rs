//! A region's state as it arrives from its leader: collected, then installed at once.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use flotilla_proto::{
    range::KeyRange,
    region::{Epoch, range_of},
    v1::{self, refused::Reason},
};
use openraft::raft::SnapshotResponse;
use tokio::time::Instant;
use tonic::Streaming;

use super::{
    Peer,
    arrival::{Act, Arrival, Here},
    changing::Changes,
    lifecycle,
    peers::Peers,
    serve::{failed, refused},
    under_way::{self, UnderWay},
};
use crate::{
    ids::{PeerId, RegionId},
    metrics,
    raft::{
        Snapshot, SnapshotMeta, Vote, convert,
        region_state::{Damage, read_descriptors, read_state},
        snapshot::{self, Message, Received, Receiver, SnapshotData, stage_name},
        transport::{INSTALL_IDLE_TIMEOUTS, Inbox as _},
    },
    storage::engine,
    world::{Mark, blocking, clock, linger, maps::HashMap, presence::Presence, sometimes},
};

/// Bound: peers of this node that wait for their first state; while so many do, no further one is made. Snapshots
/// that come to their end at the same moment may each make one more.
const UNINITIALIZED_MAX: usize = 64;

impl Peers {
    /// Takes a snapshot for a peer, which is made if need be, in the place of an earlier one if that was
    /// removed (`arrival.rs`).
    ///
    /// # Errors
    /// The peer is as it was. Until all of the snapshot is here nothing was made or destroyed.
    pub(super) async fn take_snapshot(
        self: Arc<Self>,
        header: v1::SnapshotHeader,
        presence: Presence,
        chunks: Streaming<v1::SnapshotChunk>,
    ) -> Result<v1::SnapshotResult, v1::Refused> {
        let speaker = v1::MessageBatch {
            cluster_id: header.cluster_id.clone(),
            to_node: header.to_node,
            from_node: header.from_node,
            from_incarnation: header.from_incarnation,
            ..v1::MessageBatch::default()
        };
        self.admit(&speaker, &presence)?;
        let region = RegionId(header.region_id);
        let arrival = Arrival::of(&header, self.env.node)?;
        // Before its peer is asked, which answers a leader once it has installed what that one sent before.
        Receiving::refuse_second(&self.receiving.lock(), region, clock::now())?;
        self.act_for(&arrival, clock::now() + self.install_time()).await?;
        let only = Receiving::begin(&self, region, range_of(&arrival.descriptor))?;
        // Before any of it is sent: whether an earlier peer will be gone by the end is not known, and one that hangs
        // would have all of it sent again and again.
        if self.changing.is_begun(region) {
            return Err(refused(
                Reason::NotReady,
                "an earlier peer of the region is being destroyed",
            ));
        }
        self.refuse_without_room(header.bytes)?;
        let under_way = self.env.metrics.raft.snapshot(metrics::Direction::Receive);
        let received = self.collect(&header, chunks).await?;
        only.installs_within(self.install_time());
        let vote = self.install(&arrival, received).await?;
        // A later vote turns the snapshot down.
        if vote == arrival.vote {
            under_way.done();
        }
        Ok(v1::SnapshotResult { vote: Some(convert::vote_to_proto(&vote)), refused: None })
    }

    /// How long the sender waits for what it has sent to be installed.
    fn install_time(&self) -> Duration {
        self.env.config.snapshot.idle_timeout * INSTALL_IDLE_TIMEOUTS
    }

    /// Makes what was received the state of its peer. Answers the peer's vote.
    async fn install(
        self: &Arc<Self>,
        arrival: &Arrival,
        received: Received,
    ) -> Result<Vote, v1::Refused> {
        let stage = received.stage.clone();
        linger("snapshot-received").await;
        let peer = match self.make(arrival).await {
            Ok(peer) => peer,
            Err(refused) => {
                if self.is_buried(RegionId(arrival.descriptor.region_id), arrival.to) {
                    sometimes(Mark::SNAPSHOT_MET_TOMBSTONE);
                }
                self.drop_stages(stage).await?;
                return Err(refused);
            }
        };
        linger("snapshot-made").await;
        let state = &received.region.state;
        let meta = SnapshotMeta {
            last_log_id: convert::applied(state),
            last_membership: convert::stored_membership(state).map_err(failed)?,
        };
        let snapshot = Snapshot { meta, snapshot: SnapshotData::Received(Box::new(received)) };
        let installing = peer.raft().install_full_snapshot(arrival.vote, snapshot);
        let ended = match peer.unless_stopped(installing).await {
            Some(Ok(SnapshotResponse { vote, .. })) => {
                // One that was turned down is of no use; after an install it is gone already.
                self.drop_stages(stage).await?;
                linger("snapshot-installed").await;
                // It may have a range now, and it may have been destroyed meanwhile.
                self.map.write().reindex(&peer);
                return Ok(vote);
            }
            Some(Err(fatal)) => failed(fatal),
            None => refused(Reason::NotReady, "the peer has stopped"),
        };
        // It may be at it all the same, or have failed half way: what has begun needs its stage to be finished.
        let (data, view) = (Arc::clone(&self.env.data), Arc::clone(peer.view()));
        blocking(move || {
            view.end_installs();
            snapshot::leave(data.as_ref(), view.region, &stage)
        })
        .await?;
        Err(ended)
    }

    /// The peer that a snapshot which is here as a whole is for.
    async fn make(self: &Arc<Self>, arrival: &Arrival) -> Result<Arc<Peer>, v1::Refused> {
        let region = RegionId(arrival.descriptor.region_id);
        let deadline = clock::now() + self.install_time();
        loop {
            let changes = gone_by(deadline, self.changing.begin(region)).await?;
            // Again: somebody may have come meanwhile, into the region or into its range.
            match self.act_for(arrival, deadline).await? {
                Act::Feed => {
                    let here = self.get(region).filter(|here| here.id == arrival.to);
                    let gone = format!("peer {} has stopped", arrival.to);
                    return here.ok_or_else(|| refused(Reason::NotReady, gone));
                }
                Act::Replace(old) => {
                    drop(changes);
                    gone_by(deadline, self.destroy(region, old)).await?.map_err(failed)?;
                }
                Act::Make => {
                    let waits = |peer: &&Arc<Peer>| !peer.view().is_initialized();
                    if self.all().iter().filter(waits).count() >= UNINITIALIZED_MAX {
                        let message =
                            format!("{UNINITIALIZED_MAX} peers here wait for their first state");
                        return Err(refused(Reason::Busy, message));
                    }
                    return self.create(&changes, arrival.to).await;
                }
            }
        }
    }

    /// The caller has seen, after it got the right to change the region, that nothing of it is here.
    pub(super) async fn create(
        self: &Arc<Self>,
        changes: &Changes,
        peer: PeerId,
    ) -> Result<Arc<Peer>, v1::Refused> {
        let region = changes.region;
        tracing::info!(%region, %peer, "creating a peer, to be initialized by snapshot");
        sometimes(Mark::MADE_FOR_SNAPSHOT);
        let peer = lifecycle::create(&self.env, region, peer).await.map_err(failed)?;
        self.map.write().insert(Arc::clone(&peer));
        self.watch_over(&peer);
        Ok(peer)
    }

    /// What a snapshot may do here. Its peer answers until `deadline`, or hangs.
    async fn act_for(&self, arrival: &Arrival, deadline: Instant) -> Result<Act, v1::Refused> {
        let region = RegionId(arrival.descriptor.region_id);
        self.refuse_gone(region, arrival.to)?;
        self.refuse_overlap(&arrival.descriptor).await?;
        let peer = self.get(region);
        let here = match &peer {
            Some(peer) => {
                Some(Here { peer: peer.id, conf_ver: peer.conf_ver(), quarantined: false })
            }
            None => self.find_quarantined(region).await?,
        };
        let act = arrival.act(here)?;
        if let (Act::Feed, Some(peer)) = (act, &peer) {
            let refusing = peer.refuse_contradicting_snapshot(arrival.vote, &arrival.upto);
            let within = tokio::time::timeout_at(deadline, peer.unless_stopped(refusing));
            let not_ready = |why| Err(refused(Reason::NotReady, why));
            match within.await {
                Ok(judged) => judged.unwrap_or_else(|| not_ready("the peer has stopped"))?,
                Err(_) => not_ready("the peer has not answered in the time that was left")?,
            }
        }
        Ok(act)
    }

    async fn find_quarantined(&self, region: RegionId) -> Result<Option<Here>, v1::Refused> {
        let quarantined = self.quarantined.read().get(&region).map(|here| here.peer);
        let Some(peer) = quarantined else { return Ok(None) };
        let data = Arc::clone(&self.env.data);
        let state = blocking(move || read_state(data.as_ref(), region)).await?;
        let conf_ver = state.map_or(0, |state| Epoch::of(&state.descriptor).conf_ver);
        Ok(Some(Here { peer, conf_ver, quarantined: true }))
    }

    /// Collects a transfer. Of one that breaks off nothing is left.
    async fn collect(
        &self,
        header: &v1::SnapshotHeader,
        chunks: Streaming<v1::SnapshotChunk>,
    ) -> Result<Received, v1::Refused> {
        let collected = self.collect_chunks(header.clone(), chunks).await;
        if collected.is_err() {
            self.drop_stages(stage_name(header)).await?;
        }
        collected
    }

    async fn collect_chunks(
        &self,
        header: v1::SnapshotHeader,
        mut chunks: Streaming<v1::SnapshotChunk>,
    ) -> Result<Received, v1::Refused> {
        let data = Arc::clone(&self.env.data);
        let mut receiver = blocking(move || Receiver::open(data.as_ref(), &header)).await?;
        let idle = self.env.config.snapshot.idle_timeout;
        loop {
            let chunk = tokio::time::timeout(idle, chunks.message())
                .await
                .map_err(|_| failed(format!("the sender has been silent for {idle:?}")))?
                .map_err(failed)?;
            match Message::of(chunk).map_err(failed)? {
                Message::Rows { span, rows, crc32c } => {
                    fail::fail_point!("snapshot-while-receiving");
                    // What was announced is an estimate, and others write as well.
                    self.refuse_without_room(rows.len() as u64)?;
                    let data = Arc::clone(&self.env.data);
                    let taking =
                        move || receiver.rows(data.as_ref(), span, rows, crc32c).map(|()| receiver);
                    receiver = blocking(taking).await?;
                }
                Message::End(end) => return blocking(move || receiver.finish(&end)).await,
            }
        }
    }

    async fn drop_stages(&self, stage: String) -> Result<(), v1::Refused> {
        let data = Arc::clone(&self.env.data);
        blocking(move || snapshot::drop_stages(data.as_ref(), &stage)).await
    }

    /// A snapshot must not fill the disk to where clients' writes are refused.
    fn refuse_without_room(&self, bytes: u64) -> Result<(), v1::Refused> {
        match self.env.disk.refuse_bytes(bytes) {
            None => Ok(()),
            Some(available) => Err(refused(
                Reason::NotReady,
                format!("the disk is too full for {bytes} bytes more, {available} are available"),
            )),
        }
    }

    /// No two regions of a node may overlap; the other must apply what makes room first, or be gone. What
    /// counts is what the disk has, also of peers that do not run any more: with them their range is erased. Of one
    /// that does not decode, or lies in a damaged block, nothing can be erased; and one that runs is known all the
    /// same.
    async fn refuse_overlap(&self, descriptor: &v1::Region) -> Result<(), v1::Refused> {
        let data = Arc::clone(&self.env.data);
        let known = self.known();
        let reading = move || {
            let begun = snapshot::begun_beside_damage(data.as_ref(), &known)?;
            let begun = begun.into_iter().map(|begun| begun.region.descriptor);
            let (described, damage) = read_descriptors(data.as_ref(), &known)?;
            let described = described.into_iter().filter_map(|(_, described)| described);
            Ok::<_, engine::Error>((begun.chain(described).collect::<Vec<_>>(), damage))
        };
        let range = range_of(descriptor);
        let overlaps = |other: &v1::Region| {
            other.region_id != descriptor.region_id && range_of(other).overlaps(&range)
        };
        let (mut others, damage) = blocking(reading).await?;
        if let Some(Damage { regions, error }) = damage {
            tracing::error!(
                ?regions, %error,
                "the descriptors of regions on this disk are damaged: it will not start again, replace the node"
            );
            let running = regions.iter().filter_map(|region| self.get(*region));
            others.extend(running.map(|peer| (*peer.view().published().descriptor).clone()));
        }
        match others.iter().find(|other| overlaps(other)) {
            Some(other) => Err(overlap(RegionId(other.region_id))),
            None => Ok(()),
        }
    }

    /// The regions of which there is anything here, as far as this process knows.
    fn known(&self) -> BTreeSet<RegionId> {
        let running = self.all().into_iter().map(|peer| peer.region);
        running.chain(self.quarantined.read().keys().copied()).collect()
    }
}

fn overlap(other: RegionId) -> v1::Refused {
    refused(Reason::NotReady, format!("the range overlaps region {other} here"))
}

/// Waits until an earlier peer of a region is gone, which one whose core hangs never is.
async fn gone_by<T>(deadline: Instant, gone: impl Future<Output = T>) -> Result<T, v1::Refused> {
    let hangs = "an earlier peer of the region hangs while it is destroyed";
    tokio::time::timeout_at(deadline, gone).await.map_err(|_| refused(Reason::NotReady, hangs))
}

impl Peer {
    /// Version of the newest membership that is applied here.
    #[must_use]
    pub fn conf_ver(&self) -> u64 {
        self.view().with(|now| Epoch::of(&now.descriptor).conf_ver)
    }
}

/// Work that waits for the disk, on a thread that may.
async fn blocking<T: Send + 'static, E: std::fmt::Display + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, v1::Refused> {
    blocking::run(work).await.map_err(failed)?.map_err(failed)
}

/// The right to receive a snapshot of a region, given back on drop. Transfers to one peer share the
/// name of their stage: the beginning of a second one would pull it from under the install of the first.
struct Receiving {
    peers: Arc<Peers>,
    region: RegionId,
}

impl Receiving {
    fn begin(peers: &Arc<Peers>, region: RegionId, range: KeyRange) -> Result<Self, v1::Refused> {
        let mut receiving = peers.receiving.lock();
        let now = clock::now();
        Self::refuse_second(&receiving, region, now)?;
        let most = peers.env.config.snapshot.concurrent_max as usize;
        if receiving.values().filter(|of| of.has_place(now)).count() >= most {
            // Nobody else counts who is refused for it.
            if let Some(regions) = under_way::long_in_their_places(&mut receiving, now) {
                tracing::warn!(
                    ?regions,
                    "all places for snapshots that are received have been taken for {}s: others wait for them",
                    under_way::LONG.as_secs()
                );
            }
            return Err(refused(Reason::Busy, format!("{most} snapshots are being received")));
        }
        // Until it is installed the disk does not tell of it.
        if let Some((other, _)) = receiving.iter().find(|(_, of)| of.range.overlaps(&range)) {
            return Err(overlap(*other));
        }
        receiving.insert(region, UnderWay::begins(range, now));
        drop(receiving);
        Ok(Self { peers: Arc::clone(peers), region })
    }

    fn refuse_second(
        receiving: &HashMap<RegionId, UnderWay>,
        region: RegionId,
        now: Instant,
    ) -> Result<(), v1::Refused> {
        let Some(here) = receiving.get(&region) else { return Ok(()) };
        // Of a leader of before, perhaps, whose peer is nearly there. Of one that hangs nothing comes.
        let reason = if here.has_place(now) { Reason::Busy } else { Reason::NotReady };
        Err(refused(reason, "another snapshot of the region is under way"))
    }

    /// All of it is here. Its sender waits so long and no longer for it to be installed; from then on it is the
    /// peer that hangs, and it keeps no other region's snapshot from being received.
    fn installs_within(&self, most: Duration) {
        if let Some(of) = self.peers.receiving.lock().get_mut(&self.region) {
            of.hangs_from = Some(clock::now() + most);
        }
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.peers.receiving.lock().remove(&self.region);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use flotilla_proto::v1::{self, raft_client::RaftClient, snapshot_chunk::Body};
    use openraft::vote::RaftLeaderId;
    use prost::Message as _;
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
    use tonic::transport::Channel;

    use super::*;
    use crate::{
        ids::NodeId,
        raft::{
            fixture::{Probe, id, region_state, soon},
            transport::{self, RaftService},
        },
        region::fixture::{DISK_BYTES, Fixture, NODE, PEER, REGION, blank, until, until_applied},
        storage::{
            batch::{Family, WriteBatch},
            config::StorageConfig,
            engine::{Durability, Engine as _, Read as _},
            keys,
            memory::Fault,
            rocks::{Kind, RocksEngine},
        },
        world::dial,
    };

    /// A peer that is yet to come.
    const NEW: PeerId = PeerId(80);

    /// A voter beside 71 and 81, which does not stand for election.
    async fn voter(fixture: &Fixture) -> (Port, Arc<Peer>) {
        fixture.bear_with_voters(&[PEER, PeerId(71), PeerId(81)]);
        let port = Port::open(fixture).await;
        let peer = port.peers.get(REGION).expect("the peer");
        peer.raft().runtime_config().elect(false);
        (port, peer)
    }

    /// Entries behind `prev`, all of them committed, of the leader `by`.
    fn append(term: u64, by: u64, prev: v1::LogId, upto: u64) -> v1::AppendEntries {
        v1::AppendEntries {
            vote: Some(v1::VoteState { term, voted_for: by, committed: true }),
            entries: (prev.index + 1..=upto).map(|index| blank(term, index)).collect(),
            prev: Some(prev),
            leader_commit: Some(v1::LogId { term, index: upto }),
            ..v1::AppendEntries::default()
        }
    }

    /// A leader that gets no answer goes on, and once its log is cut it has nothing else to send. What alone still has a
    /// committed entry would be replaced, and nobody would know.
    #[tokio::test]
    async fn snapshot_of_a_leader_that_lacks_what_was_applied_is_refused() {
        use v1::message::Body::Append;
        let fixture = Fixture::new(|_| {});
        let (mut port, peer) = voter(&fixture).await;
        let id = |term, index| v1::LogId { term, index };
        let append = |term, by, upto| append(term, by, id(1, 1), upto);
        let serve = async |append| Arc::clone(&peer).serve(Append(append)).await;
        let applied = || peer.view().published().applied.map(|id| id.index);
        serve(append(5, 71, 9)).await.expect("taken");
        until_applied(&peer, 9).await;
        let snapshot = |term: u64, index: u64| upto(term, index, term.max(6));
        // By itself it shows no more than that it is not newer; openraft would end by it.
        let refused = port.send(snapshot(6, 8), [end()]).await.expect_err("of another log");
        assert!(refused.message.contains("lost elsewhere"), "{}", refused.message);
        assert!(peer.runs() && peer.contradiction().is_some());
        serve(append(7, 81, 2)).await.expect_err("of another log");
        let heartbeat = v1::AppendEntries { prev: None, ..append(8, 81, 1) };
        let heartbeat = v1::AppendEntries { leader_commit: None, ..heartbeat };
        serve(heartbeat).await.expect("it shows nothing");
        assert!(peer.contradiction().is_some(), "nothing was shown that ends it");
        for (why, term) in [("of that leader", 7), ("of one that came after it", 8)] {
            let refused = port.send(snapshot(term, 12), [end()]).await.expect_err(why);
            assert!(refused.message.contains("lost elsewhere"), "{why}: {}", refused.message);
            assert_eq!(applied(), Some(9), "{why}");
        }
        let next = v1::AppendEntries {
            prev: Some(id(5, 9)),
            entries: vec![blank(9, 10)],
            ..append(9, 71, 1)
        };
        serve(next).await.expect("of one that has all of it");
        port.send(snapshot(10, 12), [end()]).await.expect("taken");
        assert_eq!(applied(), Some(12));
    }

    /// A state that goes as far or further, but ends in a term from before what was applied here: at that index it had another
    /// entry.
    #[tokio::test]
    async fn longer_snapshot_of_an_earlier_term_than_what_was_applied_is_refused() {
        use v1::message::Body::Append;
        for (index, what) in [(12, "further"), (9, "as far")] {
            // What was found of one leader refuses everything that comes after it.
            let fixture = Fixture::new(|_| {});
            let (mut port, peer) = voter(&fixture).await;
            let taken = append(5, 71, v1::LogId { term: 1, index: 1 }, 9);
            Arc::clone(&peer).serve(Append(taken)).await.expect("taken");
            until_applied(&peer, 9).await;
            let refused = port.send(upto(3, index, 6), [end()]).await.expect_err(what);
            let named = format!("a state up to index {index} of term 3");
            assert!(refused.message.contains(&named), "{what}: {}", refused.message);
            assert!(refused.message.contains("lost elsewhere"), "{what}: {}", refused.message);
            assert!(peer.runs() && peer.contradiction().is_some(), "{what}");
            assert_eq!(peer.view().published().applied.map(|id| id.index), Some(9), "{what}");
        }
    }

    /// It was sent before a later leader committed what is here: nothing was lost, and nobody is to be called.
    #[tokio::test]
    async fn late_snapshot_of_a_leader_of_before_contradicts_nothing() {
        use v1::message::Body::Append;
        let fixture = Fixture::new(|_| {});
        let (mut port, peer) = voter(&fixture).await;
        let taken = append(5, 71, v1::LogId { term: 1, index: 1 }, 9);
        Arc::clone(&peer).serve(Append(taken)).await.expect("taken");
        until_applied(&peer, 9).await;
        for (index, what) in [(12, "further"), (9, "as far"), (5, "less far")] {
            let vote = port.send(upto(3, index, 4), [end()]).await.expect(what);
            assert_eq!((vote.term, vote.voted_for), (5, 71), "{what}: turned down by its vote");
            assert!(peer.contradiction().is_none(), "{what}");
            assert_eq!(peer.view().published().applied.map(|id| id.index), Some(9), "{what}");
        }
        let next = append(5, 71, v1::LogId { term: 5, index: 9 }, 10);
        Arc::clone(&peer).serve(Append(next)).await.expect("of the one that leads");
        until_applied(&peer, 10).await;
        assert!(fixture.data.stages().expect("stages").is_empty());
    }

    /// As above: what is committed here and waits for the disk to be applied is as much lost elsewhere.
    #[tokio::test]
    async fn leader_that_lacks_what_is_committed_and_not_yet_applied_is_refused() {
        use v1::message::Body::Append;
        let fixture = Fixture::new(|_| {});
        let (mut port, peer) = voter(&fixture).await;
        let id = |term, index| v1::LogId { term, index };
        let serve = async |append| Arc::clone(&peer).serve(Append(append)).await;
        serve(append(5, 71, id(1, 1), 5)).await.expect("taken");
        until_applied(&peer, 5).await;
        let before = fixture.data.writes().len();
        fixture.data.hold();
        serve(append(5, 71, id(5, 5), 9)).await.expect("taken");
        until("it to be applied", || fixture.data.writes().len() > before).await;

        let refused = port.send(upto(8, 8, 8), [end()]).await.expect_err("of another log");
        assert!(refused.message.contains("lost elsewhere"), "{}", refused.message);
        let refused = serve(append(9, 81, id(5, 6), 8)).await.expect_err("of another log");
        assert!(refused.message.contains("lost elsewhere"), "{}", refused.message);
        fixture.data.release();
        until_applied(&peer, 9).await;
        assert!(peer.runs() && peer.contradiction().is_some());
    }

    /// A state up to that entry, from peer 81 as the leader of `by`.
    fn upto(term: u64, index: u64, by: u64) -> v1::SnapshotHeader {
        let mut header = header(REGION, PEER, 2);
        let state = header.state.as_mut().expect("a state");
        (state.applied_term, state.applied_index) = (term, index);
        header.vote.as_mut().expect("a vote").term = by;
        header
    }

    /// From peer 81 on node 2, with the given configuration version, for a learner `to`.
    fn header(region: RegionId, to: PeerId, conf_ver: u64) -> v1::SnapshotHeader {
        let mut state = region_state(region, to, ("", ""), id(3, 9));
        state.descriptor.epoch = Some(v1::RegionEpoch { conf_ver, version: 1 });
        state.descriptor.peers[0].set_role(v1::PeerRole::Learner);
        let role = v1::PeerRole::Voter.into();
        state.descriptor.peers.push(v1::Peer { peer_id: 81, node_id: 2, role });
        let vote = Vote { leader_id: RaftLeaderId::new(3.into(), PeerId(81)), committed: true };
        v1::SnapshotHeader {
            cluster_id: vec![1; 16].into(),
            to_node: NODE.0,
            from_node: 2,
            region_id: region.0,
            from_peer: 81,
            to_peer: to.0,
            vote: Some(convert::vote_to_proto(&vote)),
            descriptor: prost::Message::encode_to_vec(&state.descriptor).into(),
            state: Some(state.state),
            from_incarnation: 5,
            bytes: 1 << 20,
            feature_level: crate::feature_level::OURS,
        }
    }

    #[tokio::test]
    async fn no_more_snapshots_are_received_than_the_bound() {
        let fixture = Fixture::new(|config| config.snapshot.concurrent_max = 2);
        let peers = Peers::open(Arc::clone(&fixture.env), false, None).await.expect("peers");
        let begin = |region: u64| {
            let key = |at: u64| Bytes::from(format!("{at:02}"));
            Receiving::begin(&peers, RegionId(region), KeyRange::new(key(region), key(region + 1)))
        };
        let first = begin(8).expect("the first");
        let _second = begin(9).expect("the second");
        let reason = |begun: Result<Receiving, v1::Refused>| begun.err().map(|of| of.reason());
        assert_eq!(reason(begin(10)), Some(Reason::Busy));
        assert_eq!(reason(begin(9)), Some(Reason::Busy));
        drop(first);
        assert!(begin(10).is_ok(), "there is room again");
        let hangs = begin(8).expect("room");
        hangs.installs_within(Duration::from_secs(3600));
        assert_eq!(reason(begin(10)), Some(Reason::Busy));
        hangs.installs_within(Duration::ZERO);
        assert_eq!(reason(begin(8)), Some(Reason::NotReady));
        let third = begin(10).expect("one that hangs keeps no place");
        assert_eq!(reason(begin(11)), Some(Reason::Busy));
        drop((hangs, third));
        let range = KeyRange::new(&b"09x"[..], &b"10"[..]);
        let overlapping = Receiving::begin(&peers, RegionId(12), range).err().expect("it overlaps");
        assert!(overlapping.message.contains("overlaps region 9"), "{}", overlapping.message);
    }

    #[tokio::test]
    async fn snapshot_that_would_fill_the_disk_is_refused() {
        let fixture = Fixture::new(|_| {});
        let peers = Peers::open(Arc::clone(&fixture.env), false, None).await.expect("peers");
        assert_eq!(peers.refuse_without_room(DISK_BYTES), Ok(()));
        let refused = peers.refuse_without_room(DISK_BYTES + 1).expect_err("more than there is");
        assert!(refused.message.contains("too full"), "{}", refused.message);
    }

    fn rows(crc32c: u32) -> Body {
        Body::Rows(v1::SnapshotRows { rows: Bytes::new(), crc32c })
    }

    fn end() -> Body {
        Body::End(v1::SnapshotEnd { rows: 0, crc32c: 0 })
    }

    /// The peers of a node, with their port.
    struct Port {
        peers: Arc<Peers>,
        client: RaftClient<Channel>,
        serving: tokio::task::JoinHandle<()>,
    }

    impl Port {
        async fn open(fixture: &Fixture) -> Self {
            let peers = Peers::open(Arc::clone(&fixture.env), false, None).await.expect("peers");
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("an address");
            let service = RaftService::new(Arc::new(Arc::clone(&peers)));
            let server = tonic::transport::Server::builder().add_service(service);
            let serving = tokio::spawn(async move {
                let _ = server.serve_with_incoming(TcpListenerStream::new(listener)).await;
            });
            let channel = dial::node(&address.to_string()).expect("an address").connect().await;
            let client = transport::client(channel.expect("a connection"));
            Self { peers, client, serving }
        }

        /// Sends a header and what follows, and says nothing more, while it holds the sender that it answers.
        async fn send(
            &mut self,
            header: v1::SnapshotHeader,
            bodies: impl IntoIterator<Item = Body>,
        ) -> Result<v1::VoteState, v1::Refused> {
            let (chunks, stream) = mpsc::channel(4);
            for body in std::iter::once(Body::Header(header)).chain(bodies) {
                let chunk = v1::SnapshotChunk { body: Some(body) };
                chunks.send(chunk).await.expect("room for it");
            }
            let answer = soon("an answer", self.client.snapshot(ReceiverStream::new(stream))).await;
            drop(chunks);
            let answer = answer.expect("an answer").into_inner();
            match answer.refused {
                Some(refused) => Err(refused),
                None => Ok(answer.vote.expect("a vote")),
            }
        }

        fn here(&self) -> Vec<PeerId> {
            self.peers.all().iter().map(|peer| peer.id).collect()
        }
    }

    impl Drop for Port {
        fn drop(&mut self) {
            self.serving.abort();
        }
    }

    /// The sender is alive and says nothing more: its disk hangs.
    #[tokio::test]
    async fn transfer_without_progress_is_given_up_and_leaves_nothing() {
        let fixture = Fixture::new(|config| {
            config.snapshot.idle_timeout = Duration::from_millis(100);
        });
        let mut port = Port::open(&fixture).await;
        for attempt in 0..2 {
            let refused = port.send(header(REGION, NEW, 2), [rows(0)]).await.expect_err("silence");
            assert!(refused.message.contains("silent"), "attempt {attempt}: {refused:?}");
            assert!(fixture.data.stages().expect("stages").is_empty(), "attempt {attempt}");
            assert!(port.here().is_empty(), "attempt {attempt}");
        }
    }

    /// It would keep its place among those that are received for as long as it likes.
    #[tokio::test]
    async fn chunks_that_bring_nothing_are_no_progress() {
        let fixture = Fixture::new(|_| {});
        let mut port = Port::open(&fixture).await;
        let own = Body::SpanRows(v1::SnapshotSpanRows { span: 1, ..Default::default() });
        for bodies in [vec![rows(0), rows(0)], vec![own]] {
            let refused = port.send(header(REGION, NEW, 2), bodies).await.expect_err("nothing");
            assert!(refused.message.contains("brings nothing"), "{refused:?}");
            assert!(fixture.data.stages().expect("stages").is_empty());
        }
    }

    /// Of a cluster that has gone on while this node's program was put back.
    #[tokio::test]
    async fn snapshot_of_a_higher_feature_level_is_refused_by_name_and_leaves_nothing() {
        let fixture = Fixture::new(|_| {});
        let mut port = Port::open(&fixture).await;
        let level = crate::feature_level::OURS + 1;
        let newer = v1::SnapshotHeader { feature_level: level, ..header(REGION, NEW, 2) };
        let refused = port.send(newer, [rows(0), end()]).await.expect_err("it is too new");
        assert_eq!(refused.reason(), Reason::TooOld);
        assert!(
            refused.message.contains(&format!("level {level}"))
                || refused.message.contains(&format!("uses {level}")),
            "{}",
            refused.message
        );
        assert!(fixture.data.stages().expect("stages").is_empty());
        assert!(port.here().is_empty());
        port.send(header(REGION, NEW, 2), [rows(0), end()]).await.expect("taken");
    }

    #[tokio::test]
    async fn one_damaged_block_refuses_no_snapshot_of_a_region_whose_own_rows_are_whole() {
        let fixture = Fixture::new(|_| {});
        fixture.bear();
        let stranger = RegionId(REGION.0 + 9);
        let mut batch = WriteBatch::new();
        batch.put(Family::Meta, &keys::meta::descriptor(stranger), &[0xff; 7]);
        fixture.data.write(&batch, Durability::Synced).expect("a write");
        let mut port = Port::open(&fixture).await;
        let block = |key: [u8; 9]| KeyRange::new(key.to_vec(), [&key[..], &[0]].concat());

        fixture.data.damage(Family::Meta, block(keys::meta::descriptor(REGION)));
        let other = RegionId(REGION.0 + 1);
        let error = port.send(header(other, NEW, 2), [rows(0), end()]).await.expect_err("damage");
        assert!(error.message.contains("overlaps region 7"), "it runs: {}", error.message);
        fixture.data.mend();

        fixture.data.damage(Family::Meta, block(keys::meta::descriptor(stranger)));
        fixture.data.damage(Family::Meta, block(keys::meta::install(stranger)));
        port.send(header(REGION, NEW, 2), [rows(0), end()]).await.expect("taken");
        assert_eq!(port.here(), [NEW]);
    }

    /// The file in which the region has its old rows has those of a neighbour as well.
    #[tokio::test]
    async fn on_disk_a_damaged_block_of_a_neighbour_refuses_no_snapshot_and_ends_no_writes() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("data");
        let open = || RocksEngine::open(&path, Kind::Data, &StorageConfig::default());
        let value = |key: &str| -> Vec<u8> {
            let word = |at: u32| crc32c::crc32c(format!("{key} {at}").as_bytes()).to_le_bytes();
            (0..256).flat_map(word).collect()
        };
        let (log, data) = (Probe::new(), open().expect("a new one"));
        let border = Bytes::from_static(b"m");
        // It leads nothing by itself.
        let voters = [(PEER, NODE), (PeerId(81), NodeId(2))];
        let left = lifecycle::newborn(REGION, Bytes::new(), border.clone(), &voters);
        let other = (RegionId(REGION.0 + 1), PeerId(PEER.0 + 1));
        let right = lifecycle::newborn(other.0, border.clone(), Bytes::new(), &[(other.1, NODE)]);
        let mut rows = WriteBatch::new();
        let keys = ["k", "z"].iter().flat_map(|of| (0..60).map(move |row| format!("{of}{row:02}")));
        keys.for_each(|key| rows.put(Family::Default, key.as_bytes(), &value(&key)));
        let regions = [(PEER, left), (other.1, right)];
        lifecycle::birth(log.as_ref(), data.as_ref(), &regions, rows).expect("a birth");
        data.compact();
        drop(data);
        let mut flipped = 0;
        for file in std::fs::read_dir(&path).expect("its files") {
            let file = file.expect("a file").path();
            let mut bytes = std::fs::read(&file).expect("its bytes");
            let is_file = file.extension().is_some_and(|extension| extension == "sst");
            let part = &value("z20")[..32];
            let found = bytes.windows(32).position(|window| is_file && window == part);
            if let Some(at) = found {
                bytes[at] ^= 1;
                std::fs::write(&file, bytes).expect("a write");
                flipped += 1;
            }
        }
        assert_eq!(flipped, 1);

        let data = open().expect("what is damaged is not looked at");
        let fixture = Fixture::on_disk(log, Arc::clone(&data));
        let mut port = Port::open(&fixture).await;
        port.peers.get(REGION).expect("the peer").raft().runtime_config().elect(false);
        data.get(Family::Default, b"z20").expect_err("it is damaged");
        let mut newer = header(REGION, PEER, 2);
        let mut descriptor = v1::Region::decode(newer.descriptor.clone()).expect("it decodes");
        descriptor.end_key = border;
        newer.descriptor = descriptor.encode_to_vec().into();
        let row = [&3_u32.to_be_bytes()[..], b"k05", &3_u32.to_be_bytes(), b"new"].concat();
        let crc32c = crc32c::crc32c(&row);
        let rows = Body::Rows(v1::SnapshotRows { rows: row.into(), crc32c });
        let end = Body::End(v1::SnapshotEnd { rows: 1, crc32c });
        port.send(newer, [rows, end]).await.expect("taken");
        let here = port.peers.get(REGION).expect("the peer").view().published().applied;
        assert_eq!(here.map(|id| id.index), Some(9));
        let get = |key: &str| data.get(Family::Default, key.as_bytes()).expect("a read");
        assert_eq!((get("k05"), get("k06")), (Some("new".into()), None));
        let mut later = WriteBatch::new();
        later.put(Family::Default, b"k07", b"later");
        data.write(&later, Durability::Synced).expect("it takes writes");
        assert_eq!(data.background_errors(), 0);
    }

    /// The region's peer here was removed while its node was away, and another was added.
    #[tokio::test]
    async fn whole_and_newer_snapshot_takes_the_place_of_an_earlier_peer() {
        let fixture = Fixture::new(|_| {});
        fixture.bear();
        let mut port = Port::open(&fixture).await;
        let old = port.peers.get(REGION).expect("the peer");
        for (why, header, bodies) in [
            ("a damaged one", header(REGION, NEW, 2), vec![rows(7)]),
            ("totals that differ", header(REGION, NEW, 2), vec![rows(0)]),
            ("as new as what is here", header(REGION, NEW, 1), vec![end()]),
        ] {
            let bodies = bodies.into_iter().chain(
                (why == "totals that differ")
                    .then(|| Body::End(v1::SnapshotEnd { rows: 1, crc32c: 0 })),
            );
            port.send(header, bodies).await.expect_err(why);
            assert_eq!(port.here(), [PEER], "{why}");
            assert!(old.runs() && old.view().is_initialized(), "{why}");
        }
        port.send(header(REGION, NEW, 2), [rows(0), end()]).await.expect("taken");
        assert_eq!(port.here(), [NEW]);
        assert!(!old.runs() && port.peers.is_buried(REGION, PEER));
        assert_eq!(port.peers.route(b"a").expect("it is initialized").id, NEW);
        assert!(fixture.data.stages().expect("stages").is_empty());
    }

    /// The whole of a snapshot that can be taken.
    fn whole() -> [Body; 2] {
        [rows(0), end()]
    }

    async fn reopened(fixture: &Fixture) -> (Fixture, Arc<Peers>) {
        let again = Fixture::over(Arc::clone(&fixture.log), Arc::clone(&fixture.data), |_| {});
        let peers = Peers::open(Arc::clone(&again.env), true, None).await.expect("peers");
        (again, peers)
    }

    /// It has broken no promise: a start finishes what it has begun.
    #[tokio::test]
    async fn install_that_failed_half_way_is_finished_by_the_next_start() {
        let fixture = Fixture::new(|_| {});
        let mut port = Port::open(&fixture).await;
        fixture.data.inner.inject(Fault::Replace);
        port.send(header(REGION, NEW, 2), whole()).await.expect_err("it failed");
        until("its end to be noticed", || port.here().is_empty()).await;
        let (_again, peers) = reopened(&fixture).await;
        assert!(peers.quarantined().is_empty(), "{:?}", peers.quarantined());
        assert!(peers.get(REGION).expect("the peer").view().is_initialized());
        assert!(fixture.data.stages().expect("stages").is_empty());
    }

    /// As when the node is told to stop.
    #[tokio::test]
    async fn install_under_way_when_its_peer_stops_is_finished() {
        let fixture = Fixture::new(|_| {});
        let mut port = Port::open(&fixture).await;
        port.send(header(REGION, NEW, 2), whole()).await.expect("taken");
        let peers = Arc::clone(&port.peers);
        let peer = peers.get(REGION).expect("the peer");
        let mut newer = header(REGION, NEW, 3);
        newer.state.as_mut().expect("a state").applied_index = 12;
        // However long this takes: it may have voted for itself meanwhile.
        newer.vote.as_mut().expect("a vote").term = 9;
        let before = fixture.data.writes().len();
        fixture.data.hold();
        let sending = port.send(newer, whole());
        let stopping = async {
            until("the install", || fixture.data.writes().len() > before).await;
            peer.stop().await;
            tokio::task::yield_now().await;
            assert_eq!(peers.receiving.lock().len(), 1, "it is under way");
            fixture.data.release();
        };
        let (sent, ()) = tokio::join!(sending, stopping);
        sent.expect_err("the peer has stopped");
        let (_again, peers) = reopened(&fixture).await;
        assert!(peers.quarantined().is_empty(), "{:?}", peers.quarantined());
        let applied = peers.get(REGION).expect("the peer").view().published().applied;
        assert_eq!(applied.expect("a state").index, 12);
    }

    /// Its peer answers a leader once it has installed what that one sent before: asked, it would tell nobody anything until
    /// then.
    #[tokio::test]
    async fn second_snapshot_of_a_leader_is_refused_at_once_while_its_first_is_installed() {
        let fixture = Fixture::new(|_| {});
        let mut port = Port::open(&fixture).await;
        port.send(header(REGION, NEW, 2), whole()).await.expect("taken");
        let mut beside = Port {
            peers: Arc::clone(&port.peers),
            client: port.client.clone(),
            serving: tokio::spawn(async {}),
        };
        let newer = |index| {
            let mut newer = header(REGION, NEW, 3);
            newer.state.as_mut().expect("a state").applied_index = index;
            newer.vote.as_mut().expect("a vote").term = 9;
            newer
        };
        let before = fixture.data.writes().len();
        fixture.data.hold();
        let first = port.send(newer(12), whole());
        let second = async {
            until("the install", || fixture.data.writes().len() > before).await;
            let refused = beside.send(newer(15), whole()).await.expect_err("it is under way");
            fixture.data.release();
            refused
        };
        let (first, refused) = tokio::join!(first, second);
        first.expect("taken");
        assert_eq!(refused.reason(), Reason::Busy);
        assert!(refused.message.contains("is under way"), "{}", refused.message);
    }

    /// It has rows there already, and is erased with them.
    #[tokio::test]
    async fn snapshot_does_not_come_over_an_install_that_failed_half_way() {
        let fixture = Fixture::new(|_| {});
        let mut port = Port::open(&fixture).await;
        fixture.data.inner.inject(Fault::Replace);
        port.send(header(REGION, NEW, 2), whole()).await.expect_err("it failed");
        until("its end to be noticed", || port.here().is_empty()).await;
        let other = header(RegionId(REGION.0 + 1), NEW, 2);
        let refused = port.send(other.clone(), [end()]).await.expect_err("its rows are there");
        assert!(refused.message.contains("overlaps"), "{}", refused.message);
        port.peers.destroy(REGION, NEW).await.expect("destroyed");
        assert!(fixture.data.stages().expect("stages").is_empty());
        port.send(other, [end()]).await.expect("taken");
    }

    /// It would be erased with them, when they are.
    #[tokio::test]
    async fn snapshot_does_not_come_over_the_rows_of_a_peer_that_runs_no_more() {
        let fixture = Fixture::new(|_| {});
        fixture.bear();
        let mut port = Port::open(&fixture).await;
        let other = header(RegionId(REGION.0 + 1), NEW, 2);
        let refused = port.send(other.clone(), [end()]).await.expect_err("a peer runs there");
        assert!(refused.message.contains("overlaps"), "{}", refused.message);
        let old = port.peers.get(REGION).expect("the peer");
        port.peers.quarantine(old, "a test".to_owned());
        let refused = port.send(other.clone(), [end()]).await.expect_err("its rows are there");
        assert!(refused.message.contains("overlaps"), "{}", refused.message);
        port.peers.destroy(REGION, PEER).await.expect("destroyed");
        port.send(other, [end()]).await.expect("taken");
        assert_eq!(port.here(), [NEW]);
    }

    /// One that hangs is there for as long as the node runs: all of a snapshot would be sent again and again.
    #[tokio::test]
    async fn snapshot_is_refused_before_it_is_sent_while_an_earlier_peer_is_destroyed() {
        let fixture = Fixture::new(|_| {});
        let mut port = Port::open(&fixture).await;
        let changes = port.peers.changing.begin(REGION).await;
        // Its rows never come, and it is not waited for them.
        let refused = port.send(header(REGION, NEW, 2), []).await.expect_err("it is in the way");
        assert_eq!(refused.reason(), Reason::NotReady);
        assert!(refused.message.contains("is being destroyed"), "{}", refused.message);
        drop(changes);
        port.send(header(REGION, NEW, 2), whole()).await.expect("taken");
    }

    /// It learnt from the placement driver that it was removed.
    #[tokio::test]
    async fn peer_comes_to_a_node_whose_earlier_one_is_gone() {
        let fixture = Fixture::new(|_| {});
        fixture.bear();
        let mut port = Port::open(&fixture).await;
        let destroying = tokio::spawn(Arc::clone(&port.peers).run_destroyer());
        port.peers.give_up(REGION, PEER);
        let is_destroyed = || port.here().is_empty() && !port.peers.changing.is_begun(REGION);
        until("it to be gone", is_destroyed).await;
        let refused = port.send(header(REGION, PEER, 2), [end()]).await.expect_err("it is buried");
        assert_eq!(refused.reason(), Reason::Tombstone);
        port.send(header(REGION, NEW, 2), [end()]).await.expect("taken");
        assert_eq!(port.here(), [NEW]);
        destroying.abort();
    }

    /// The end of a snapshot takes a while, and much can happen meanwhile.
    #[tokio::test]
    async fn peer_that_was_destroyed_during_its_snapshot_stays_gone() {
        let fixture = Fixture::new(|_| {});
        let mut port = Port::open(&fixture).await;
        let peers = Arc::clone(&port.peers);
        // The install drops its stage, and then whoever received it does.
        fixture.data.hold_drops_after(1);
        let sending = port.send(header(REGION, NEW, 2), [end()]);
        let destroying = async {
            soon("the end of the snapshot", fixture.data.drop_is_held()).await;
            peers.destroy(REGION, NEW).await.expect("destroyed");
            fixture.data.release();
        };
        let (sent, ()) = tokio::join!(sending, destroying);
        sent.expect("installed");
        assert!(port.here().is_empty() && port.peers.route(b"a").is_none());
    }

    /// Of one that is destroyed nothing may take the place of who came after it.
    #[tokio::test]
    async fn map_is_changed_by_identity() {
        let fixture = Fixture::new(|_| {});
        fixture.bear();
        let mut port = Port::open(&fixture).await;
        let old = port.peers.get(REGION).expect("the peer");
        port.send(header(REGION, NEW, 2), [end()]).await.expect("taken");
        let mut map = port.peers.map.write();
        map.reindex(&old);
        assert!(!map.take_out(&old));
        drop(map);
        assert_eq!(port.here(), [NEW]);
        assert_eq!(port.peers.route(b"a").expect("the new one").id, NEW);
    }
}
