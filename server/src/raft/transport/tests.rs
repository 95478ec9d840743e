use tokio_stream::wrappers::TcpListenerStream;

use super::{
    super::{
        fixture::{WAIT, id, metrics, region_state, soon},
        region_state::put_state,
        snapshot::Sender,
    },
    *,
};
use crate::{
    ids::{PeerId, RegionId},
    storage::{
        batch::WriteBatch,
        engine::{Durability, Engine as _, Family},
        memory::MemoryEngine,
    },
};

const IDLE: Duration = Duration::from_millis(200);
const REGION: RegionId = RegionId(2);

/// Takes the first word of a snapshot and no other.
struct Hung;

impl Inbox for Hung {
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
        chunks: Streaming<v1::SnapshotChunk>,
    ) -> BoxFuture<'static, v1::SnapshotResult> {
        Box::pin(async move {
            let _unread = chunks;
            std::future::pending().await
        })
    }
}

struct Only(String);

impl Directory for Only {
    fn peer_address(&self, _: NodeId) -> Option<String> {
        Some(self.0.clone())
    }
}

/// The receiver is alive, as its connection shows, and takes nothing more: its disk hangs.
#[tokio::test]
async fn snapshot_that_nobody_takes_is_given_up_and_makes_room() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = tonic::transport::Server::builder().add_service(RaftService::new(Arc::new(Hung)));
    let serving = tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));

    let data = MemoryEngine::new();
    let mut batch = WriteBatch::new();
    put_state(&mut batch, &region_state(REGION, PeerId(20), ("a", "z"), id(1, 1)), true);
    for row in 0..32 {
        // More than the windows of a connection hold.
        batch.put(Family::Default, format!("k-{row:02}").as_bytes(), &vec![7; 512 << 10]);
    }
    data.write(&batch, Durability::Synced).unwrap();
    let transport = Transport::new(
        Identity { cluster: ClusterId([1; 16]), node: NodeId(1), incarnation: 1 },
        Arc::new(Only(address)),
        TransportConfig {
            snapshots_max: 1,
            snapshot_bytes_per_second: 1 << 40,
            snapshot_idle_timeout: IDLE,
        },
        metrics(),
    );
    for attempt in 0..2 {
        let sender = Sender::open(data.as_ref(), REGION, 256 << 10).unwrap();
        let header = v1::SnapshotHeader { region_id: REGION.0, ..v1::SnapshotHeader::default() };
        let sent = soon("an end", transport.send_snapshot(NodeId(2), header, sender)).await;
        let reason = sent.unwrap_err().reason;
        assert!(reason.contains("has taken nothing"), "attempt {attempt}: {reason}");
    }
    // All of it fits the windows, and then no answer comes.
    let data = MemoryEngine::new();
    let mut batch = WriteBatch::new();
    put_state(&mut batch, &region_state(REGION, PeerId(20), ("a", "z"), id(1, 1)), true);
    data.write(&batch, Durability::Synced).unwrap();
    let sender = Sender::open(data.as_ref(), REGION, 256 << 10).unwrap();
    let header = v1::SnapshotHeader { region_id: REGION.0, ..v1::SnapshotHeader::default() };
    let started = clock::now();
    let sent = soon("an end", transport.send_snapshot(NodeId(2), header, sender)).await;
    let reason = sent.unwrap_err().reason;
    assert!(reason.contains("does not say"), "{reason}");
    let took = started.elapsed();
    assert!(took >= IDLE * INSTALL_IDLE_TIMEOUTS && took < WAIT, "{took:?}");
    serving.abort();
}
