use flotilla_proto::{
    range::KeyRange,
    v1::{self, refused::Reason},
};
use openraft::vote::RaftLeaderId as _;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Streaming;

use super::*;
use crate::{
    ids::ClusterId,
    metrics::SnapshotResult,
    raft::{
        SnapshotMeta,
        fixture::{Probe, id, metrics, region_state, soon},
        region_state::put_state,
        snapshot::config::SnapshotConfig,
        transport::{Directory, Identity, Inbox, RaftService, TransportConfig},
    },
    storage::{
        batch::{Family, WriteBatch},
        engine::{Durability, Engine as _},
    },
    world::{clock, presence::Presence},
};

const REGION: RegionId = RegionId(7);
const OWN: PeerId = PeerId(70);
const FOLLOWER: PeerId = PeerId(71);

/// Hears a snapshot to its end, and has no room for it.
struct Full {
    reason: parking_lot::Mutex<Reason>,
}

impl Inbox for Full {
    fn identity(&self) -> Option<Identity> {
        Some(identity(2))
    }

    fn disk_level(&self) -> v1::DiskLevel {
        v1::DiskLevel::Low
    }

    fn admit(&self, _: &v1::MessageBatch, _: &Presence) -> Result<(), v1::Refused> {
        Ok(())
    }

    fn deliver(&self, _: NodeId, message: v1::Message) -> BoxFuture<'static, v1::Message> {
        Box::pin(async move { message })
    }

    fn snapshot(
        &self,
        _: v1::SnapshotHeader,
        _: Presence,
        mut chunks: Streaming<v1::SnapshotChunk>,
    ) -> BoxFuture<'static, v1::SnapshotResult> {
        let reason = *self.reason.lock();
        Box::pin(async move {
            let mut message = "it broke off";
            while let Ok(Some(chunk)) = chunks.message().await {
                if matches!(chunk.body, Some(v1::snapshot_chunk::Body::End(_))) {
                    message = "no room";
                }
            }
            let message = message.to_owned();
            let refused = v1::Refused { reason: reason.into(), message };
            v1::SnapshotResult { vote: None, refused: Some(refused) }
        })
    }
}

struct Only(String);

impl Directory for Only {
    fn peer_address(&self, _: NodeId) -> Option<String> {
        Some(self.0.clone())
    }
}

fn identity(node: u64) -> Identity {
    Identity { cluster: ClusterId([1; 16]), node: NodeId(node), incarnation: 1 }
}

/// However much of it is sent before a damaged block is met.
#[tokio::test]
async fn leader_that_cannot_read_its_disk_does_not_blame_the_follower() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let full = Arc::new(Full { reason: Reason::NotReady.into() });
    let server =
        tonic::transport::Server::builder().add_service(RaftService::new(Arc::clone(&full)));
    let serving = tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let metrics = metrics();
    let transport = Transport::new(
        identity(1),
        Arc::new(Only(address)),
        TransportConfig {
            snapshot: SnapshotConfig::default(),
            silence_max: Duration::from_secs(1),
        },
        Arc::clone(&metrics),
    );

    let data = Probe::new();
    let mut state = region_state(REGION, OWN, ("a", "z"), id(3, 9));
    let role = v1::PeerRole::Learner.into();
    state.descriptor.peers.push(v1::Peer { peer_id: FOLLOWER.0, node_id: 2, role });
    let mut batch = WriteBatch::new();
    put_state(&mut batch, &state, true);
    for row in 0..8 {
        batch.put(Family::Default, format!("k-{row}").as_bytes(), &[7; 600]);
    }
    data.write(&batch, Durability::Synced).unwrap();
    let view = Arc::new(RegionView::new(REGION, OWN, Arc::clone(&data) as _, &state));
    let heartbeat = Duration::from_secs(1);
    let snapshots = SnapshotSettings { chunk_bytes: 1024, feature_level: Arc::default() };
    let reversions = Reversions::new(REGION);
    let is_voter = Arc::new(|peer| peer == OWN);
    let mut network =
        Network::new(transport, REGION, OWN, reversions, is_voter, snapshots, heartbeat);
    let refusals = network.refusals();
    let mut connection = network.new_client(FOLLOWER, &PeerAddress { node: NodeId(2) }).await;
    let mut send = async || {
        let vote = Vote {
            leader_id: openraft::impls::leader_id_std::LeaderId::new(3.into(), OWN),
            committed: true,
        };
        let meta = SnapshotMeta { last_log_id: Some(id(3, 9)), ..SnapshotMeta::default() };
        let snapshot = Snapshot { meta, snapshot: SnapshotData::Local(Arc::clone(&view)) };
        let sent = connection.full_snapshot(
            vote,
            snapshot,
            std::future::pending(),
            RPCOption::new(heartbeat),
        );
        soon("an end", sent).await.expect_err("nobody takes it").to_string()
    };
    let own = |key: &[u8]| KeyRange::new(key.to_vec(), [key, b"\0"].concat());
    let ended = |result: SnapshotResult| metrics.raft.snapshots_ended(Direction::Send, result);
    for (family, key) in [
        (Family::Meta, &crate::storage::keys::meta::descriptor(REGION)[..]),
        (Family::Default, b"k-0"),
        (Family::Default, b"k-6"),
    ] {
        data.damage(family, own(key));
        for _ in 0..4 {
            let error = send().await;
            assert!(error.contains("injected"), "{key:02x?}: {error}");
        }
        data.mend();
        assert_eq!(refusals.of(3, FOLLOWER, clock::now()), None, "{key:02x?}");
    }
    assert_eq!((ended(SnapshotResult::Unread), ended(SnapshotResult::Failed)), (12, 0));
    for _ in 0..3 {
        assert!(send().await.contains("no room"));
    }
    let told = refusals.of(3, FOLLOWER, clock::now()).expect("it refuses all of it");
    assert_eq!(told.reason, "no room");
    assert_eq!((ended(SnapshotResult::Unread), ended(SnapshotResult::Failed)), (12, 3));
    assert!(!refusals.has_buried(3, FOLLOWER));
    *full.reason.lock() = Reason::Tombstone;
    send().await;
    assert!(refusals.has_buried(3, FOLLOWER), "nobody waits for it any more");
    serving.abort();
}
