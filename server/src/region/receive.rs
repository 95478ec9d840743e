//! A region's state as it arrives from its leader: collected, then installed at once.

use std::sync::Arc;

use flotilla_proto::v1::{self, refused::Reason, snapshot_chunk::Body};
use openraft::raft::SnapshotResponse;
use tonic::Streaming;

use super::{
    peers::{Peers, failed},
    serve::refused,
};
use crate::{
    ids::{PeerId, RegionId},
    metrics,
    raft::{
        Snapshot, SnapshotMeta, convert,
        presence::Presence,
        snapshot::{Received, Receiver, SnapshotData, stage_name},
        transport::Inbox as _,
    },
};

impl Peers {
    /// Takes a snapshot for a peer, which is created if need be.
    ///
    /// # Errors
    /// The peer is as it was.
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
        let _only = Receiving::begin(&self, region)?;
        self.refuse_without_room(header.bytes)?;
        let under_way = self.env.metrics.raft.snapshot(metrics::Direction::Receive);
        let peer = self.reach(region, PeerId(header.to_peer)).await?;
        let vote = convert::vote_from_proto(header.vote.as_ref()).map_err(failed)?;
        if header.state.as_ref().is_some_and(|state| state.applied_term > vote.leader_id.term) {
            return Err(refused(Reason::Malformed, "the state is of a later term than its sender"));
        }
        self.refuse_overlap(region, &header)?;
        let received = self.collect(&header, chunks).await?;
        let state = &received.region.state;
        let meta = SnapshotMeta {
            last_log_id: convert::applied(state),
            last_membership: convert::stored_membership(state).map_err(failed)?,
        };
        // Again: somebody may have come into the range meanwhile.
        self.refuse_overlap(region, &header)?;
        let stage = received.stage.clone();
        let snapshot = Snapshot { meta, snapshot: SnapshotData::Received(Box::new(received)) };
        let installing = peer.raft().install_full_snapshot(vote, snapshot);
        let SnapshotResponse { vote: answered, .. } = peer
            .unless_stopped(installing)
            .await
            .ok_or_else(|| refused(Reason::NotReady, "the peer has stopped"))?
            .map_err(failed)?;
        // A later vote turns the snapshot down.
        if answered == vote {
            under_way.done();
        }
        // One that openraft turned down is of no use; after an install it is gone already.
        self.drop_stage(stage).await?;
        self.insert(peer); // it may have a range now
        Ok(v1::SnapshotResult { vote: Some(convert::vote_to_proto(&answered)), refused: None })
    }

    /// Collects a transfer. Of one that breaks off nothing is left.
    async fn collect(
        &self,
        header: &v1::SnapshotHeader,
        chunks: Streaming<v1::SnapshotChunk>,
    ) -> Result<Received, v1::Refused> {
        let collected = self.collect_chunks(header.clone(), chunks).await;
        if collected.is_err() {
            let stage = stage_name(RegionId(header.region_id), PeerId(header.to_peer));
            self.drop_stage(stage).await?;
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
        let idle = self.env.config.snapshot_idle_timeout;
        loop {
            let chunk = tokio::time::timeout(idle, chunks.message())
                .await
                .map_err(|_| failed(format!("the sender has been silent for {idle:?}")))?
                .map_err(failed)?;
            match chunk.and_then(|chunk| chunk.body) {
                Some(Body::Rows(rows)) => {
                    fail::fail_point!("snapshot-while-receiving");
                    // What was announced is an estimate, and others write as well.
                    self.refuse_without_room(rows.rows.len() as u64)?;
                    receiver = blocking(move || receiver.rows(&rows).map(|()| receiver)).await?;
                }
                Some(Body::End(end)) => return blocking(move || receiver.finish(&end)).await,
                _ => return Err(failed("the snapshot ended early")),
            }
        }
    }

    async fn drop_stage(&self, stage: String) -> Result<(), v1::Refused> {
        let data = Arc::clone(&self.env.data);
        blocking(move || data.drop_stage(&stage)).await
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

    /// No two regions of a node may overlap; the other must apply what makes room first.
    fn refuse_overlap(
        &self,
        region: RegionId,
        header: &v1::SnapshotHeader,
    ) -> Result<(), v1::Refused> {
        let descriptor: v1::Region =
            prost::Message::decode(header.descriptor.clone()).map_err(failed)?;
        let range = crate::raft::region_state::range_of(&descriptor);
        for other in self.all() {
            if other.region != region
                && other.view().is_initialized()
                && other.view().range().overlaps(&range)
            {
                return Err(refused(
                    Reason::NotReady,
                    format!("the range overlaps region {} here", other.region),
                ));
            }
        }
        Ok(())
    }
}

/// Work that waits for the disk, on a thread that may.
async fn blocking<T: Send + 'static, E: std::fmt::Display + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, v1::Refused> {
    tokio::task::spawn_blocking(work).await.map_err(failed)?.map_err(failed)
}

/// The right to receive a snapshot of a region, given back on drop. Transfers to one peer share the
/// name of their stage: a second one would pull it from under the install of the first.
struct Receiving {
    peers: Arc<Peers>,
    region: RegionId,
}

impl Receiving {
    fn begin(peers: &Arc<Peers>, region: RegionId) -> Result<Self, v1::Refused> {
        let mut receiving = peers.receiving.lock();
        let most = peers.env.config.snapshots_received_max;
        if receiving.len() >= most && !receiving.contains(&region) {
            return Err(refused(Reason::Busy, format!("{most} snapshots are being received")));
        }
        if !receiving.insert(region) {
            return Err(refused(Reason::NotReady, "another snapshot of the region is under way"));
        }
        drop(receiving);
        Ok(Self { peers: Arc::clone(peers), region })
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.peers.receiving.lock().remove(&self.region);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use flotilla_proto::v1::raft_client::RaftClient;
    use openraft::vote::RaftLeaderId;
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};

    use super::*;
    use crate::{
        raft::{
            Vote,
            fixture::{id, region_state, soon},
            transport::{RaftService, endpoint},
        },
        region::fixture::{DISK_BYTES, Fixture, NODE},
        storage::engine::Engine as _,
    };

    const REGION: RegionId = RegionId(8);
    const PEER: PeerId = PeerId(80);

    fn header() -> v1::SnapshotHeader {
        let region = region_state(REGION, PEER, ("a", "z"), id(3, 9));
        let vote = Vote { leader_id: RaftLeaderId::new(3, PeerId(81)), committed: true };
        v1::SnapshotHeader {
            cluster_id: vec![1; 16].into(),
            to_node: NODE.0,
            from_node: 2,
            region_id: REGION.0,
            from_peer: 81,
            to_peer: PEER.0,
            vote: Some(convert::vote_to_proto(&vote)),
            descriptor: prost::Message::encode_to_vec(&region.descriptor).into(),
            state: Some(region.state),
            from_incarnation: 5,
            bytes: 1 << 20,
        }
    }

    #[tokio::test]
    async fn no_more_snapshots_are_received_than_the_bound() {
        let fixture = Fixture::new(|config| config.snapshots_received_max = 2);
        let peers = Peers::open(Arc::clone(&fixture.env), false, None, 0).await.expect("peers");
        let first = Receiving::begin(&peers, RegionId(8)).expect("the first");
        let _second = Receiving::begin(&peers, RegionId(9)).expect("the second");
        let reason = |begun: Result<Receiving, v1::Refused>| begun.err().map(|of| of.reason());
        assert_eq!(reason(Receiving::begin(&peers, RegionId(10))), Some(Reason::Busy));
        assert_eq!(reason(Receiving::begin(&peers, RegionId(9))), Some(Reason::NotReady));
        drop(first);
        assert!(Receiving::begin(&peers, RegionId(10)).is_ok(), "there is room again");
    }

    #[tokio::test]
    async fn snapshot_that_would_fill_the_disk_is_refused() {
        let fixture = Fixture::new(|_| {});
        let peers = Peers::open(Arc::clone(&fixture.env), false, None, 0).await.expect("peers");
        assert_eq!(peers.refuse_without_room(DISK_BYTES), Ok(()));
        let refused = peers.refuse_without_room(DISK_BYTES + 1).expect_err("more than there is");
        assert!(refused.message.contains("too full"), "{}", refused.message);
    }

    /// The sender is alive and says nothing more: its disk hangs.
    #[tokio::test]
    async fn transfer_without_progress_is_given_up_and_leaves_nothing() {
        let fixture = Fixture::new(|config| {
            config.snapshot_idle_timeout = Duration::from_millis(100);
        });
        let peers = Peers::open(Arc::clone(&fixture.env), false, None, 0).await.expect("peers");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let service = RaftService::new(Arc::new(Arc::clone(&peers)));
        let server = tonic::transport::Server::builder().add_service(service);
        let serving = tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let channel = endpoint(&address.to_string()).expect("an address").connect().await;
        let mut client = RaftClient::new(channel.expect("a connection"));
        for attempt in 0..2 {
            let (chunks, stream) = mpsc::channel(4);
            let rows = v1::SnapshotRows { rows: bytes::Bytes::new(), crc32c: 0 };
            for body in [Body::Header(header()), Body::Rows(rows)] {
                let chunk = v1::SnapshotChunk { body: Some(body) };
                chunks.send(chunk).await.expect("room for it");
            }
            let answer = soon("an answer", client.snapshot(ReceiverStream::new(stream))).await;
            let refused = answer.expect("an answer").into_inner().refused.expect("a refusal");
            assert!(refused.message.contains("silent"), "attempt {attempt}: {refused:?}");
            assert!(fixture.data.stages().expect("stages").is_empty(), "attempt {attempt}");
            drop(chunks);
        }
        serving.abort();
    }
}
