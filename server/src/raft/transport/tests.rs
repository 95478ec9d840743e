use std::sync::atomic::AtomicUsize;

use flotilla_proto::v1::{message::Body, refused::Reason};
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::Streaming;

use super::{
    super::{
        fixture::{WAIT, id, metrics, region_state, soon},
        region_state::put_state,
        snapshot::Sender,
    },
    snapshots::INSTALL_IDLE_TIMEOUTS,
    *,
};
use crate::{
    ids::{PeerId, RegionId},
    raft::snapshot::config::SnapshotConfig,
    region::fixture::until,
    storage::{
        batch::{Family, WriteBatch},
        disk::Level,
        engine::{Durability, Engine as _},
        memory::MemoryEngine,
    },
    world::{clock, dial, maps::HashMap, presence::Presence},
};

const IDLE: Duration = Duration::from_millis(200);
const REGION: RegionId = RegionId(2);

/// Takes the first word of a snapshot and no other.
struct Hung;

impl Inbox for Hung {
    fn identity(&self) -> Option<Identity> {
        Some(identity(2))
    }

    fn disk_level(&self) -> v1::DiskLevel {
        v1::DiskLevel::Unspecified
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

fn identity(node: u64) -> Identity {
    Identity { cluster: ClusterId([1; 16]), node: NodeId(node), incarnation: 1 }
}

/// A transport of node 1, to which every other node is at `address`.
fn transport_to(address: String) -> Transport {
    transport_with(Arc::new(Only(address)), Duration::from_secs(60))
}

fn transport_with(directory: Arc<dyn Directory>, silence_max: Duration) -> Transport {
    let config = TransportConfig {
        snapshot: SnapshotConfig {
            concurrent_max: 2,
            bytes_per_second_max: 1 << 40,
            idle_timeout: IDLE,
            ..SnapshotConfig::default()
        },
        silence_max,
    };
    Transport::new(identity(1), directory, config, metrics())
}

/// What an [`Echo`] does with a message, by its region.
const ANSWERED: u64 = 1;
const NEVER_ANSWERED: u64 = 2;
const ANSWERED_AT_LENGTH: u64 = 3;

/// Answers by what it was asked.
struct Echo {
    identity: Identity,
    level: Mutex<v1::DiskLevel>,
    delivered: AtomicUsize,
    /// What is for another node is refused, as a real one does.
    is_strict: bool,
}

impl Inbox for Echo {
    fn identity(&self) -> Option<Identity> {
        Some(self.identity)
    }

    fn disk_level(&self) -> v1::DiskLevel {
        self.level.lock().to_owned()
    }

    fn admit(&self, batch: &v1::MessageBatch, _: &Presence) -> Result<(), v1::Refused> {
        let reason = Reason::WrongNode.into();
        if self.is_strict && batch.to_node != self.identity.node.0 {
            return Err(v1::Refused { reason, message: "this is another node".to_owned() });
        }
        Ok(())
    }

    fn deliver(&self, _: NodeId, message: v1::Message) -> BoxFuture<'static, v1::Message> {
        self.delivered.fetch_add(1, Ordering::Relaxed);
        let reason = match message.region_id {
            ANSWERED => String::new(),
            ANSWERED_AT_LENGTH => "x".repeat(NODE_MESSAGE_BYTES_MAX),
            _ => return std::future::pending().boxed(),
        };
        let done = v1::TransferLeaderResult { accepted: true, reason };
        async move { answer(&message, Body::TransferResult(done)) }.boxed()
    }

    fn snapshot(
        &self,
        _: v1::SnapshotHeader,
        _: Presence,
        _: Streaming<v1::SnapshotChunk>,
    ) -> BoxFuture<'static, v1::SnapshotResult> {
        std::future::pending().boxed()
    }
}

/// A node that serves an [`Echo`], until it is dropped.
struct Served {
    echo: Arc<Echo>,
    address: String,
    serving: tokio::task::JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Served {
    async fn start(identity: Identity) -> Self {
        Self::with(identity, false).await
    }

    async fn with(identity: Identity, is_strict: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let echo = Arc::new(Echo {
            identity,
            level: Mutex::new(v1::DiskLevel::Normal),
            delivered: AtomicUsize::new(0),
            is_strict,
        });
        let service = RaftService::new(Arc::clone(&echo));
        let server = tonic::transport::Server::builder().add_service(service);
        let serving = tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Self { echo, address, serving }
    }

    fn delivered(&self) -> usize {
        self.echo.delivered.load(Ordering::Relaxed)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Where nobody listens.
async fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string()
}

fn message(region: u64, bytes: usize) -> v1::Message {
    let entry = v1::LogEntry {
        term: 1,
        index: 1,
        payload: Some(v1::log_entry::Payload::Command(vec![7; bytes].into())),
    };
    let append = v1::AppendEntries { entries: vec![entry], ..v1::AppendEntries::default() };
    v1::Message { region_id: region, body: Some(Body::Append(append)), ..v1::Message::default() }
}

#[tokio::test]
async fn node_is_answering_while_a_stream_is_open_on_which_it_has_answered_itself() {
    let node = NodeId(2);
    let served = Served::start(identity(2)).await;
    let transport = transport_to(served.address.clone());
    assert!(!transport.is_answering(node), "nothing was said");
    transport.call(node, Lane::Fast, message(ANSWERED, 1)).await.expect("an answer");
    until("the answer to be noted", || transport.is_answering(node)).await;
    assert!(!transport.is_unreached(node));
    let answered = transport.call(node, Lane::Fast, message(NEVER_ANSWERED, 1));
    let waits = tokio::spawn(answered);
    until("the message to be there", || served.delivered() == 2).await;
    assert!(transport.is_answering(node), "it owes one, and the stream is open");
    drop((transport, waits));

    let another = Served::start(identity(3)).await;
    let transport = transport_to(another.address.clone());
    let lost = transport.call(node, Lane::Fast, message(ANSWERED, 1)).await;
    lost.expect_err("another node answers at its address");
    until("the attempt to be noted", || transport.is_unreached(node)).await;
    assert!(!transport.is_answering(node));

    let transport = transport_to(free_address().await);
    transport.greet(node).await;
    assert!(transport.is_unreached(node) && !transport.is_answering(node), "nobody is there");
}

#[tokio::test]
async fn each_answer_says_how_much_room_its_nodes_disk_has() {
    let node = NodeId(2);
    let served = Served::start(identity(2)).await;
    let transport = transport_to(served.address.clone());
    assert_eq!(transport.room().of(node), Level::Normal, "nothing was said");
    let answered = transport.call(node, Lane::Fast, message(NEVER_ANSWERED, 1));
    let waits = tokio::spawn(answered);
    for (told, want, is_scarce) in [
        (v1::DiskLevel::Normal, Level::Normal, false),
        (v1::DiskLevel::Low, Level::Low, true),
        (v1::DiskLevel::Critical, Level::Critical, true),
        (v1::DiskLevel::Normal, Level::Normal, false),
    ] {
        // While the stream is open, whatever it was when that began.
        *served.echo.level.lock() = told;
        transport.call(node, Lane::Fast, message(ANSWERED, 1)).await.expect("an answer");
        assert_eq!((transport.room().of(node), transport.room().is_scarce()), (want, is_scarce));
    }
    *served.echo.level.lock() = v1::DiskLevel::Low;
    transport.call(node, Lane::Bulk, message(ANSWERED, 1)).await.expect("an answer");
    drop((served, waits));
    assert_eq!(transport.room().of(node), Level::Low, "as it said last");

    let another = Served::start(identity(3)).await;
    *another.echo.level.lock() = v1::DiskLevel::Low;
    let transport = transport_to(another.address.clone());
    let lost = transport.call(node, Lane::Fast, message(ANSWERED, 1)).await;
    lost.expect_err("another node answers at its address");
    assert!(!transport.room().is_scarce(), "that was not said by the node");
}

/// Where a node is that moves.
struct Moving(Mutex<String>);

impl Directory for Moving {
    fn peer_address(&self, _: NodeId) -> Option<String> {
        Some(self.0.lock().clone())
    }
}

/// Two nodes that exchanged their addresses: the one at the old address refuses what is not for it, as long as it
/// is sent there.
#[tokio::test]
async fn node_is_looked_for_anew_where_another_one_refuses_what_is_for_it() {
    let node = NodeId(2);
    let (another, served) =
        (Served::with(identity(3), true).await, Served::with(identity(2), true).await);
    let directory = Arc::new(Moving(another.address.clone().into()));
    let transport = transport_with(Arc::clone(&directory) as _, Duration::from_secs(60));
    let call = || transport.call(node, Lane::Fast, message(ANSWERED, 1));
    let refused = call().await.expect("an answer");
    assert!(matches!(refused.body, Some(Body::Refused(_))), "{refused:?}");
    directory.0.lock().clone_from(&served.address);
    let found = async {
        while !matches!(call().await.map(|answer| answer.body), Ok(Some(Body::TransferResult(_)))) {
            tokio::task::yield_now().await;
        }
    };
    soon("an answer of the node itself", found).await;
}

/// As when something between the nodes swallows what is large.
#[tokio::test]
async fn lane_that_is_cut_is_told_while_the_node_answers_on_another() {
    let node = NodeId(2);
    let served = Served::start(identity(2)).await;
    let transport = transport_with(Arc::new(Only(served.address.clone())), IDLE);
    let alone = transport_with(Arc::new(Only(free_address().await)), IDLE);
    let bulk = async |transport: &Transport, region| {
        transport.call(node, Lane::Bulk, message(region, 1)).await
    };
    transport.call(node, Lane::Fast, message(ANSWERED, 1)).await.expect("an answer");
    bulk(&transport, ANSWERED).await.expect("an answer");
    bulk(&transport, NEVER_ANSWERED).await.expect_err("silence");
    assert_eq!(transport.cut(), [], "a stream that was good has ended: that may be once");
    let begun = clock::now();
    while transport.cut().is_empty() {
        assert!(begun.elapsed() < WAIT, "it is not told");
        bulk(&transport, NEVER_ANSWERED).await.expect_err("silence");
        let _ = bulk(&alone, ANSWERED).await;
        tokio::task::yield_now().await;
    }
    assert!(begun.elapsed() >= IDLE, "too soon");
    assert_eq!(transport.cut(), [(node, Lane::Bulk)]);
    assert_eq!(alone.cut(), [], "a node that answers nowhere is missed as a whole");
    while bulk(&transport, ANSWERED).await.is_err() {
        assert!(begun.elapsed() < WAIT, "it is not answered");
        tokio::task::yield_now().await;
    }
    assert_eq!(transport.cut(), []);
}

/// A disk or a process that stands still, seen from the node that sends to it.
#[tokio::test]
async fn node_that_reads_nothing_is_refused_more_than_the_bound() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let transport = transport_to(listener.local_addr().unwrap().to_string());
    let mut calls = Vec::new();
    let refused = loop {
        let call = transport.call(NodeId(2), Lane::Bulk, message(ANSWERED, 1 << 20));
        let mut call = Box::pin(call);
        match call.as_mut().now_or_never() {
            None => calls.push(call),
            Some(refused) => break refused.unwrap_err(),
        }
        assert!(calls.len() < 100, "no bound");
        tokio::task::yield_now().await;
    };
    assert_eq!(refused.cause, Cause::Full);
    assert!(refused.is_unhandled());
    assert!((30..=33).contains(&calls.len()), "{} MiB", calls.len());
    let raft = &transport.metrics().raft;
    assert_eq!(raft.link_refused_total.get(metrics::LinkLane::Bulk).get(), 1);
    assert!(raft.link_bytes.get(metrics::LinkLane::Bulk).get() > 30 << 20);
    // Other lanes have bounds of their own.
    let mut forward = Box::pin(transport.call(NodeId(2), Lane::Forward, message(ANSWERED, 1)));
    assert!(forward.as_mut().now_or_never().is_none(), "it is queued");
    drop(forward);

    // The socket has some of the first ones, maybe. All others surely were not sent.
    drop(listener);
    drop(transport);
    let mut lost = 0;
    for call in calls {
        let error = soon("an end", call).await.unwrap_err();
        lost += usize::from(!error.is_unhandled());
    }
    assert!(lost <= 10, "{lost} may have been sent, says the transport");
}

#[tokio::test]
async fn room_is_given_back_by_answers_and_by_askers_that_go_away() {
    let node = Served::start(identity(2)).await;
    let transport = transport_to(node.address.clone());
    let budget = transport.budget(NodeId(2), Lane::Bulk);
    let first = transport.call(NodeId(2), Lane::Bulk, message(ANSWERED, 1 << 20));
    assert!(budget.used() > 1 << 20);
    soon("an answer", first).await.unwrap();
    let waiting = transport.call(NodeId(2), Lane::Bulk, message(NEVER_ANSWERED, 1 << 20));
    until("it to arrive", || node.delivered() == 2).await;
    assert!(budget.used() > 1 << 20, "it is not answered");
    drop(waiting);
    until("all to be given back", || budget.used() == 0).await;
}

#[tokio::test]
async fn message_that_is_too_large_is_an_error_of_its_call_alone() {
    let node = Served::start(identity(2)).await;
    let transport = transport_to(node.address.clone());
    let mut bystander =
        Box::pin(transport.call(NodeId(2), Lane::Forward, message(NEVER_ANSWERED, 1)));
    let call = |region, bytes| transport.call(NodeId(2), Lane::Forward, message(region, bytes));
    soon("an answer", call(ANSWERED, 1)).await.unwrap();

    let error = soon("an end", call(ANSWERED, NODE_MESSAGE_BYTES_MAX)).await.unwrap_err();
    assert!(matches!(error.cause, Cause::TooLarge { .. }), "{error}");
    assert!(error.is_unhandled());
    let answer = soon("an end", call(ANSWERED_AT_LENGTH, 1)).await.unwrap();
    let Some(Body::Refused(refused)) = answer.body else { panic!("it is too large to be sent") };
    assert_eq!(refused.reason(), Reason::AnswerTooLarge);

    assert!(bystander.as_mut().now_or_never().is_none(), "the stream goes on");
    soon("an answer", call(ANSWERED, 1)).await.unwrap();
    // The largest that there may be does arrive.
    soon("an answer", call(ANSWERED, NODE_MESSAGE_BYTES_MAX - 1024)).await.unwrap();
}

#[tokio::test]
async fn message_that_nobody_waits_for_is_not_sent() {
    let node = Served::start(identity(2)).await;
    let transport = transport_to(node.address.clone());
    let given_up: Vec<_> =
        (0..10).map(|_| transport.call(NodeId(2), Lane::Bulk, message(ANSWERED, 100))).collect();
    drop(given_up);
    let call = transport.call(NodeId(2), Lane::Bulk, message(ANSWERED, 100));
    soon("an answer", call).await.unwrap();
    assert_eq!(node.delivered(), 1);
    assert_eq!(transport.budget(NodeId(2), Lane::Bulk).used(), 0);
}

/// Requests of clients may wait for a leader as long as their deadlines; log entries wait for a disk.
#[tokio::test]
async fn node_that_answers_no_log_entries_is_given_up_and_one_that_answers_no_clients_is_not() {
    let node = Served::start(identity(2)).await;
    let patience = Duration::from_millis(300);
    let transport = transport_with(Arc::new(Only(node.address.clone())), patience);
    let mut forward =
        Box::pin(transport.call(NodeId(2), Lane::Forward, message(NEVER_ANSWERED, 1)));
    let stuck = transport.call(NodeId(2), Lane::Bulk, message(NEVER_ANSWERED, 1));
    let error = soon("an end", stuck).await.unwrap_err();
    assert!(error.to_string().contains("has answered nothing"), "{error}");
    assert!(!error.is_unhandled());
    assert!(forward.as_mut().now_or_never().is_none());

    // As long as others are answered it is only slow.
    let transport = transport_with(Arc::new(Only(node.address.clone())), patience);
    let mut slow = Box::pin(transport.call(NodeId(2), Lane::Bulk, message(NEVER_ANSWERED, 1)));
    let started = clock::now();
    while started.elapsed() < patience * 2 {
        let call = transport.call(NodeId(2), Lane::Bulk, message(ANSWERED, 1));
        soon("an answer", call).await.unwrap();
    }
    assert!(slow.as_mut().now_or_never().is_none());
}

#[tokio::test]
async fn only_the_node_that_was_asked_is_believed() {
    for (why, answering) in [
        ("another node", identity(3)),
        ("another cluster", Identity { cluster: ClusterId([2; 16]), ..identity(2) }),
    ] {
        let node = Served::start(answering).await;
        let transport = transport_to(node.address.clone());
        let call = transport.call(NodeId(2), Lane::Fast, message(ANSWERED, 1));
        let error = soon("an end", call).await.unwrap_err();
        assert!(error.to_string().contains("instead of it"), "{why}: {error}");
    }
}

/// Of another cluster, or another node: it refuses each frame by its head.
#[tokio::test]
async fn what_a_stranger_took_surely_was_not_handled() {
    let waits = |transport: &Transport| {
        let (sender, answer) = crate::world::handoff::channel();
        let office = Arc::clone(&transport.office);
        let reached = office.reached(NodeId(2));
        let links = Arc::downgrade(&transport.links);
        let run = link::Run { office, links, node: NodeId(2), lane: Lane::Forward, reached };
        (run, HashMap::from_iter([(7, sender)]), answer)
    };
    let refused =
        || refusal(&v1::Message { request_id: 6, ..message(1, 1) }, v1::Refused::default());
    let transport = transport_to(free_address().await);
    for (why, cluster, node, says, is_unhandled) in [
        ("another node", &[1; 16][..], 3, refused(), true),
        ("the same number of another cluster", &[2; 16], 2, refused(), true),
        ("nobody yet, which may become the node", &[], 0, refused(), false),
        ("another that answers all the same", &[1; 16], 3, message(1, 1), false),
    ] {
        let (run, mut waiting, mut answered) = waits(&transport);
        let batch = v1::MessageBatch {
            cluster_id: bytes::Bytes::copy_from_slice(cluster),
            from_node: node,
            to_node: 1,
            messages: vec![says],
            ..v1::MessageBatch::default()
        };
        let cause = run.take_answers(batch, &mut waiting).expect_err(why);
        let undelivered = Undelivered { node: NodeId(2), cause };
        assert_eq!(undelivered.is_unhandled(), is_unhandled, "{why}: {undelivered}");
        assert!(answered.try_recv().is_err(), "{why}: it is told by the stream");
    }

    // Over the wire, with another frame of the stream unanswered.
    let another = Served::with(identity(3), true).await;
    let transport = transport_to(another.address.clone());
    let calls =
        (0..20).map(|_| transport.call(NodeId(2), Lane::Forward, message(ANSWERED, 1 << 20)));
    let calls: Vec<_> = calls.collect();
    for ended in soon("their ends", futures::future::join_all(calls)).await {
        let is_refused = |message: &v1::Message| matches!(message.body, Some(Body::Refused(_)));
        match ended {
            Ok(answer) => assert!(is_refused(&answer)),
            Err(error) => assert!(error.is_unhandled(), "{error}"),
        }
    }
    assert_eq!(another.delivered(), 0);
}

#[tokio::test]
async fn links_end_with_their_transport() {
    let node = Served::start(identity(2)).await;
    let transport = transport_to(node.address.clone());
    for lane in [Lane::Fast, Lane::Bulk, Lane::Forward] {
        let call = transport.call(NodeId(2), lane, message(ANSWERED, 1));
        soon("an answer", call).await.unwrap();
    }
    let office = Arc::downgrade(&transport.office);
    drop(transport);
    until("the links to end", || office.strong_count() == 0).await;
}

/// Knows no node.
struct Nobody;

impl Directory for Nobody {
    fn peer_address(&self, _: NodeId) -> Option<String> {
        None
    }
}

#[tokio::test]
async fn link_to_a_node_that_was_removed_goes_away() {
    let transport = transport_with(Arc::new(Nobody), WAIT);
    let call = transport.call(NodeId(2), Lane::Fast, message(ANSWERED, 1));
    let error = soon("an end", call).await.unwrap_err();
    assert!(error.to_string().contains("address is not known"), "{error}");
    assert_eq!(transport.links.lock().len(), 1);
    until("the link to be gone", || transport.links.lock().is_empty()).await;
    assert_eq!(transport.office.reached.lock().len(), 0);
}

/// Sends frames as no node of ours would.
async fn frames(
    node: &Served,
    frames: Vec<v1::MessageBatch>,
) -> Result<Streaming<v1::MessageBatch>, tonic::Status> {
    let channel = dial::node(&node.address).unwrap().connect().await.unwrap();
    let mut client = client(channel);
    let (sender, stream) = tokio::sync::mpsc::channel(frames.len());
    for frame in frames {
        sender.send(frame).await.unwrap();
    }
    // Kept open: a stream that ends takes its answers with it.
    tokio::spawn(async move { sender.closed().await });
    client.exchange(ReceiverStream::new(stream)).await.map(tonic::Response::into_inner)
}

fn frame(lane: Lane, messages: usize) -> v1::MessageBatch {
    v1::MessageBatch {
        lane: lane.into(),
        messages: vec![message(NEVER_ANSWERED, 1); messages],
        ..v1::MessageBatch::default()
    }
}

#[tokio::test]
async fn frame_with_too_many_messages_is_refused_before_it_is_decoded() {
    let node = Served::start(identity(2)).await;
    let mut answers = frames(&node, vec![frame(Lane::Bulk, 2000)]).await.unwrap();
    let ended = soon("an end", answers.message()).await;
    assert!(!matches!(ended, Ok(Some(_))), "it is answered: {ended:?}");
    assert_eq!(node.delivered(), 0);
}

/// Clients whose requests hang take no more than their share; what comes beyond it is told so at once.
#[tokio::test]
async fn clients_requests_beyond_the_bound_are_busy_and_log_entries_wait() {
    let node = Served::start(identity(2)).await;
    let of = |lane| {
        let mut sent = vec![frame(lane, 1000); 6];
        let messages = sent.iter_mut().flat_map(|frame| &mut frame.messages);
        // Each of another region.
        messages.zip(100..).for_each(|(message, region)| message.region_id = region);
        sent
    };
    let mut answers = frames(&node, of(Lane::Forward)).await.unwrap();
    let mut busy = 0;
    while busy < 6000 - 4096 {
        let batch = soon("refusals", answers.message()).await.unwrap().expect("it is open");
        for message in batch.messages {
            let Some(Body::Refused(refused)) = message.body else { panic!("answered") };
            assert_eq!(refused.reason(), Reason::Busy);
            busy += 1;
        }
    }
    assert_eq!((busy, node.delivered()), (6000 - 4096, 4096));

    let node = Served::start(identity(2)).await;
    let mut answers = frames(&node, of(Lane::Bulk)).await.unwrap();
    until("as many as may be handled", || node.delivered() == 5000).await;
    assert!(answers.next().now_or_never().is_none(), "nothing is refused");
    assert_eq!(node.delivered(), 5000, "and one frame beyond the bound is the last");
}

/// Regions of a node hang, and answer nothing of what they are sent.
#[tokio::test]
async fn regions_that_hang_on_a_node_leave_every_lane_to_the_others() {
    let node = Served::start(identity(2)).await;
    let transport = transport_to(node.address.clone());
    // Of log entries, one region has at most 4 MiB on its way.
    for (lane, regions, bytes, most) in [(Lane::Bulk, 8, 512 << 10, 8), (Lane::Forward, 4, 1, 4096)]
    {
        let budget = transport.budget(NodeId(2), lane);
        let mut hung = Vec::new();
        for region in 100..100 + regions {
            for _ in 0..most {
                if budget.has_room(RegionId(region)) {
                    let mut call =
                        Box::pin(transport.call(NodeId(2), lane, message(region, bytes)));
                    assert!(call.as_mut().now_or_never().is_none(), "there was room");
                    hung.push(call);
                }
            }
        }
        assert!(budget.used() > 30 << 20, "{lane:?}: {}", budget.used());
        for _ in 0..20 {
            let other = transport.call(NodeId(2), lane, message(ANSWERED, 100 << 10));
            soon("an answer", other).await.unwrap_or_else(|error| panic!("{lane:?}: {error}"));
        }
    }
}

/// What its sender has given up, a region that hangs keeps.
#[tokio::test]
async fn region_that_hangs_is_refused_more_than_its_share_and_the_others_are_served() {
    for (lane, count, bytes) in [(Lane::Bulk, 50, 1 << 20), (Lane::Forward, 5000, 1)] {
        let node = Served::start(identity(2)).await;
        let of = |messages: &[v1::Message]| v1::MessageBatch {
            messages: messages.to_vec(),
            ..frame(lane, 0)
        };
        let hung = vec![message(NEVER_ANSWERED, bytes); count];
        let mut sent: Vec<_> = hung.chunks((2 << 20) / bytes.max(4 << 10)).map(of).collect();
        sent.push(of(&[message(ANSWERED, 1)]));
        let mut answers = frames(&node, sent).await.unwrap();
        let mut busy = 0;
        'answered: loop {
            let batch = soon("answers", answers.message()).await.unwrap().expect("it is open");
            for message in batch.messages {
                match message.body {
                    Some(Body::Refused(refused)) => {
                        assert_eq!(refused.reason(), Reason::Busy);
                        busy += 1;
                    }
                    _ => break 'answered,
                }
            }
        }
        assert!(busy > count / 10 && busy < count / 2, "{lane:?}: {busy} of {count} are refused");
    }
}

/// A region whose disk hangs answers no heartbeat, and is sent the next one all the same.
#[tokio::test]
async fn region_that_answers_nothing_leaves_the_fast_lane_to_the_others() {
    let node = Served::start(identity(2)).await;
    let mut sent = vec![frame(Lane::Fast, 1000); 5];
    let others = vec![message(ANSWERED, 1); 3];
    sent.push(v1::MessageBatch { messages: others, ..frame(Lane::Fast, 0) });
    let mut answers = frames(&node, sent).await.unwrap();
    let (mut busy, mut answered) = (0, 0);
    while (busy, answered) != (5 * 1000 - 4, 3) {
        let batch = soon("answers", answers.message()).await.unwrap().expect("it is open");
        for message in batch.messages {
            match message.body {
                Some(Body::Refused(refused)) => {
                    assert_eq!(refused.reason(), Reason::Busy);
                    busy += 1;
                }
                _ => answered += 1,
            }
        }
    }
}

/// Whose disk hangs still hears that its leader lives.
#[tokio::test]
async fn heartbeats_are_handed_on_also_while_earlier_ones_are_not_answered() {
    let node = Served::start(identity(2)).await;
    let mut heartbeats = frame(Lane::Fast, 10);
    for message in &mut heartbeats.messages {
        message.body = Some(Body::Append(v1::AppendEntries::default()));
    }
    let mut answers = frames(&node, vec![heartbeats]).await.unwrap();
    until("all to be handed on", || node.delivered() == 10).await;
    let refused = soon("refusals", answers.message()).await.unwrap().expect("it is open");
    assert_eq!(refused.messages.len(), 6, "four are waited for");
}

/// A node that takes nothing of its snapshots, and one that cannot be reached, leave turns to others.
#[tokio::test]
async fn turns_to_send_snapshots_go_round_the_nodes_that_can_be_reached() {
    let node = Served::start(identity(2)).await;
    let transport = transport_to(node.address.clone());
    let dead = transport_to(free_address().await);
    let unreachable = dead.snapshot_turn(NodeId(2)).await;
    assert!(unreachable.is_err_and(|error| error.is_unhandled()), "nobody waits for it");
    let first = transport.snapshot_turn(NodeId(2)).await.unwrap();
    let mut second = Box::pin(transport.snapshot_turn(NodeId(2)));
    assert!(tokio::time::timeout(IDLE, &mut second).await.is_err(), "one is left to others");
    let other = soon("the other's", transport.snapshot_turn(NodeId(3))).await.unwrap();
    drop(first);
    let second = soon("the second", second).await.unwrap();
    drop((second, other));
}

/// The receiver is alive, as its connection shows, and takes nothing more: its disk hangs.
#[tokio::test]
async fn snapshot_that_nobody_takes_is_given_up_and_makes_room() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
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
    let transport = transport_to(address);
    let send = async |header, sender| {
        let turn = transport.snapshot_turn(NodeId(2)).await.unwrap();
        transport.send_snapshot(turn, NodeId(2), header, sender).await
    };
    for attempt in 0..2 {
        let sender = Sender::open(data.as_ref(), REGION, 256 << 10).unwrap();
        let header = v1::SnapshotHeader { region_id: REGION.0, ..v1::SnapshotHeader::default() };
        let sent = soon("an end", send(header, sender)).await;
        let reason = sent.unwrap_err().to_string();
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
    let sent = soon("an end", send(header, sender)).await;
    let reason = sent.unwrap_err().to_string();
    assert!(reason.contains("does not say"), "{reason}");
    let took = started.elapsed();
    assert!(took >= IDLE * INSTALL_IDLE_TIMEOUTS && took < WAIT, "{took:?}");
    serving.abort();
}
