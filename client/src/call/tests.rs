use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use bytes::Bytes;
use flotilla_proto::v1::{
    self, Draining, EpochNotMatch, ErrorDetail, NoLeader, NotJoined, NotLeader, OutcomeUnknown,
    RegionNotFound, error_detail::Reason,
};
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};
use tonic::Code;

use super::*;
use crate::{
    Options,
    fake::{FakeCluster, FakeNode, Fault, busy, refusal, region, typed},
};

/// Far more than anything here takes, so that it is only reached when something hangs.
const PLENTY: Duration = Duration::from_secs(20);

/// A client that has learnt the routes.
async fn routed(cluster: &FakeCluster, timeout: Duration) -> Client {
    let client = cluster.client(timeout).await;
    let request = v1::ListRegionsRequest::default();
    client.cluster().list_regions(request).await.expect("listed");
    client
}

/// One region over all keys, led by this node.
fn one_region(leader: &FakeNode) -> v1::RegionInfo {
    region(2, &[0, 0, 1], b"", 5, leader)
}

fn not_leader(leader: Option<v1::Leader>) -> Fault {
    let reason = Reason::NotLeader(NotLeader { region_id: 2, leader });
    refusal(Code::FailedPrecondition, reason)
}

fn maybe_applied() -> tonic::Status {
    let reason = Some(Reason::OutcomeUnknown(OutcomeUnknown {}));
    let detail = ErrorDetail { maybe_applied: true, retryable: true, retry_after_ms: 0, reason };
    typed(Code::DeadlineExceeded, detail)
}

/// A node that takes every connection, reads something, and hangs up.
async fn hangs_up() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            // The preface, the settings and the request, in one read or more.
            let mut read = 0;
            let mut buffer = [0; 4096];
            while read < 150 {
                match stream.read(&mut buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(bytes) => read += bytes,
                }
            }
        }
    });
    address
}

/// An address where nobody listens.
async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    listener.local_addr().expect("bound").to_string()
}

#[tokio::test]
async fn a_request_goes_to_the_leader_with_the_regions_epoch() {
    let cluster = FakeCluster::start(3).await;
    cluster.list(&[one_region(&cluster.nodes[1])]);
    let client = routed(&cluster, PLENTY).await;
    for _ in 0..5 {
        client.put("k", "v").await.expect("stored");
    }
    assert_eq!(cluster.count("put"), 5);
    let seen = cluster.nodes[1].seen("put");
    assert_eq!(seen.len(), 5);
    let epoch = Some(v1::RegionEpoch { conf_ver: 1, version: 5 });
    assert!(seen.iter().all(|seen| (seen.context.region_id, seen.context.epoch) == (2, epoch)));
}

#[tokio::test]
async fn the_first_call_is_not_held_up_and_later_ones_are_routed() {
    let cluster = FakeCluster::start(2).await;
    cluster.list(&[one_region(&cluster.nodes[0])]);
    cluster.list_nodes();
    let client = cluster.client(PLENTY).await;
    client.get("k").await.expect("forwarded");
    let unrouted =
        |node: &FakeNode| node.seen("get").iter().filter(|s| s.context.region_id == 0).count();
    assert_eq!(cluster.nodes.iter().map(unrouted).sum::<usize>(), 1);
    let is_routed = async {
        while !cluster.nodes[0].seen("get").iter().any(|seen| seen.context.region_id == 2) {
            client.get("k").await.expect("served");
        }
    };
    timeout(PLENTY, is_routed).await.expect("the table is fetched in the background");
    assert_eq!(cluster.count("list_regions"), 1, "one fetch serves all");
}

#[tokio::test]
async fn a_new_leader_is_followed_and_remembered() {
    let cluster = FakeCluster::start(2).await;
    let [old, new] = &cluster.nodes[..] else { unreachable!("two were started") };
    cluster.list(&[one_region(old)]);
    let client = routed(&cluster, PLENTY).await;
    let leader = new.leader();
    old.script(move |seen| (seen.method == "put").then(|| not_leader(Some(leader.clone()))));
    client.put("k", "v").await.expect("stored by the new leader");
    client.put("k", "w").await.expect("stored by the new leader");
    assert_eq!(old.seen("put").len(), 1, "the old leader is not asked again");
    assert_eq!(new.seen("put").iter().filter(|seen| seen.context.region_id == 2).count(), 2);
}

#[tokio::test]
async fn many_callers_follow_a_new_leader_without_pausing() {
    let cluster = FakeCluster::start(2).await;
    let [old, new] = &cluster.nodes[..] else { unreachable!("two were started") };
    cluster.list(&[one_region(old)]);
    let client = routed(&cluster, PLENTY).await;
    let leader = new.leader();
    old.script(move |seen| (seen.method == "put").then(|| not_leader(Some(leader.clone()))));
    let puts = (0..64).map(|number| client.put(format!("k{number}"), "v"));
    futures::future::try_join_all(puts).await.expect("all stored");
    assert_eq!(new.seen("put").len(), 64);
    assert!(new.seen("put").iter().all(|seen| seen.context.region_id == 2));
}

#[tokio::test]
async fn an_election_is_waited_for() {
    let cluster = FakeCluster::start(1).await;
    let node = &cluster.nodes[0];
    cluster.list(&[one_region(node)]);
    let client = routed(&cluster, PLENTY).await;
    node.script(|seen| {
        (seen.method == "put" && seen.nth < 4).then(|| {
            let reason = Reason::NoLeader(NoLeader { region_id: 2 });
            refusal(Code::Unavailable, reason)
        })
    });
    client.put("k", "v").await.expect("stored after the election");
    assert_eq!(node.seen("put").len(), 5);
}

#[tokio::test]
async fn a_split_is_learnt_from_the_refusal() {
    let cluster = FakeCluster::start(2).await;
    let node = cluster.nodes[0].clone();
    cluster.list(&[one_region(&node)]);
    let client = routed(&cluster, PLENTY).await;
    let left = region(2, &[0, 0, 1], b"\0\0\x01m", 6, &node).region.expect("set");
    let right = region(7, b"\0\0\x01m", b"", 6, &node).region.expect("set");
    node.script(move |seen| {
        let is_old = seen.context.epoch.is_some_and(|epoch| epoch.version < 6);
        (seen.method == "put" && is_old).then(|| {
            let regions = vec![left.clone(), right.clone()];
            let reason = Reason::EpochNotMatch(EpochNotMatch { regions });
            refusal(Code::FailedPrecondition, reason)
        })
    });
    client.put("z", "v").await.expect("stored in the new region");
    client.put("a", "v").await.expect("stored in the old one");
    let asked: Vec<_> =
        node.seen("put").iter().map(|seen| (seen.context.region_id, seen.context.epoch)).collect();
    let at = |version| Some(v1::RegionEpoch { conf_ver: 1, version });
    assert_eq!(asked, [(2, at(5)), (7, at(6)), (2, at(6))]);
    assert_eq!(cluster.count("put"), 3, "the child was first sought where the parent was led");
}

#[tokio::test]
async fn a_correction_that_corrects_nothing_sends_the_request_unrouted() {
    let cluster = FakeCluster::start(1).await;
    let node = &cluster.nodes[0];
    cluster.list(&[one_region(node)]);
    let client = routed(&cluster, PLENTY).await;
    node.script(|seen| {
        (seen.method == "put" && seen.context.region_id != 0).then(|| {
            let reason = Reason::EpochNotMatch(EpochNotMatch::default());
            refusal(Code::FailedPrecondition, reason)
        })
    });
    client.put("k", "v").await.expect("the node forwards");
    let asked: Vec<_> = node.seen("put").iter().map(|seen| seen.context.region_id).collect();
    assert_eq!(asked, [2, 0]);
}

#[tokio::test]
async fn a_region_that_is_gone_from_a_node_is_sought_elsewhere() {
    let cluster = FakeCluster::start(2).await;
    cluster.list(&[one_region(&cluster.nodes[0])]);
    let client = routed(&cluster, PLENTY).await;
    cluster.nodes[0].script(|seen| {
        (seen.method == "get" && seen.context.region_id == 2).then(|| {
            let reason = Reason::RegionNotFound(RegionNotFound { region_id: 2 });
            refusal(Code::FailedPrecondition, reason)
        })
    });
    assert_eq!(client.get("k").await, Ok(None));
    assert_eq!(cluster.count("get"), 2);
}

#[tokio::test]
async fn a_write_that_may_have_been_applied_is_sent_once() {
    let cluster = FakeCluster::start(3).await;
    for node in &cluster.nodes {
        node.script(|_| Some(Fault::ServeAndFail(maybe_applied())));
    }
    let client = cluster.client(PLENTY).await;
    let error = client.put("k", "v").await.expect_err("the outcome is open");
    assert!(error.maybe_applied(), "{error}");
    let error = client.increment("n", 1).await.expect_err("the outcome is open");
    assert!(error.maybe_applied(), "{error}");
    assert_eq!((cluster.count("put"), cluster.count("increment")), (1, 1));
    assert_eq!(cluster.data.lock()[&Bytes::from("n")].0, "1", "applied once, though it failed");
}

#[tokio::test]
async fn a_read_is_repeated_after_the_same_error() {
    let cluster = FakeCluster::start(2).await;
    let failures = Arc::new(AtomicUsize::new(0));
    for node in &cluster.nodes {
        let failures = failures.clone();
        node.script(move |seen| {
            let fails = seen.method == "get" && failures.fetch_add(1, Relaxed) < 3;
            fails.then(|| Fault::Refuse(maybe_applied()))
        });
    }
    let client = cluster.client(PLENTY).await;
    assert_eq!(client.get("k").await, Ok(None));
    assert_eq!(cluster.count("get"), 4);
}

#[tokio::test]
async fn a_write_on_a_connection_that_breaks_is_not_repeated_and_a_read_is() {
    let cluster = FakeCluster::start(1).await;
    let live = &cluster.nodes[0].address;
    let broken = hangs_up().await;
    let client_of = async |options: Options| {
        let client = Client::connect_with([broken.clone(), live.clone()], options).await;
        let client = client.expect("well-formed");
        // It broke after it had answered: else nothing would be sent there.
        let node = client.shared.nodes.get(&broken).expect("an endpoint");
        node.found(crate::node_pool::Nature::ClientPort);
        client
    };
    let options = Options { timeout: PLENTY, routing: false, ..Options::default() };

    let client = client_of(options.clone()).await;
    let mut writes = Vec::new();
    for _ in 0..2 {
        writes.push(client.put("k", "v").await.map_err(|error| error.maybe_applied()));
    }
    assert!(writes.contains(&Err(true)), "{writes:?}: the write that was cut off");
    assert!(!writes.contains(&Err(false)), "{writes:?}");
    assert!(cluster.count("put") < 2, "the write that was cut off was sent to another node");

    let client = client_of(options).await;
    for _ in 0..2 {
        assert!(client.get("k").await.is_ok());
    }
}

#[tokio::test]
async fn a_write_that_could_not_be_sent_goes_to_another_node() {
    let cluster = FakeCluster::start(1).await;
    let endpoints = [nobody().await, cluster.nodes[0].address.clone()];
    let options = Options { timeout: PLENTY, routing: false, ..Options::default() };
    let client = Client::connect_with(endpoints, options).await.expect("well-formed");
    for _ in 0..4 {
        client.put("k", "v").await.expect("stored by the node that lives");
    }
    assert_eq!(cluster.count("put"), 4);
}

#[tokio::test]
async fn a_dead_leader_is_passed_over() {
    let cluster = FakeCluster::start(1).await;
    let mut info = one_region(&cluster.nodes[0]);
    info.leader.as_mut().expect("set").client_address = nobody().await;
    cluster.list(&[info]);
    let client = routed(&cluster, PLENTY).await;
    client.put("k", "v").await.expect("forwarded by the node that lives");
    assert_eq!(cluster.nodes[0].seen("put")[0].context.region_id, 0);
}

#[tokio::test]
async fn a_cluster_out_of_reach_is_a_failure_that_applied_nothing() {
    let time = Duration::from_millis(200);
    let options = Options { timeout: time, ..Options::default() };
    let client = Client::connect_with([nobody().await], options).await.expect("well-formed");
    let begun = Instant::now();
    let error = client.put("k", "v").await.expect_err("nobody is there");
    assert!(begun.elapsed() < time + Duration::from_millis(100), "{:?}", begun.elapsed());
    let Error::TimedOut { attempts, ref last, .. } = error else { panic!("{error}") };
    assert!(attempts > 1);
    assert!(last.contains("refused"), "{last}");
}

#[tokio::test]
async fn back_off_stays_inside_the_deadline_and_spares_a_busy_node() {
    let cluster = FakeCluster::start(1).await;
    cluster.nodes[0].script(|_| Some(busy(0)));
    let time = Duration::from_millis(400);
    let client = cluster.client(time).await;
    let begun = Instant::now();
    let error = client.put("k", "v").await.expect_err("busy all the time");
    let took = begun.elapsed();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    assert!(took < time + Duration::from_millis(100), "{took:?}");
    let asked = cluster.count("put");
    assert!((2..=12).contains(&asked), "asked {asked} times in {took:?}");
}

#[tokio::test]
async fn write_that_was_refused_so_far_is_not_tried_again_with_too_little_time() {
    let cluster = FakeCluster::start(1).await;
    cluster.nodes[0].script(|_| Some(busy(960)));
    let client = cluster.client(Duration::from_secs(1)).await;
    let error = client.put("k", "v").await.expect_err("busy all the time");
    assert!(matches!(error, Error::TimedOut { attempts: 1, .. }), "{error}");
    assert_eq!(cluster.count("put"), 1);
}

#[tokio::test]
async fn a_pause_the_server_asked_for_that_is_too_long_ends_the_call_at_once() {
    let cluster = FakeCluster::start(1).await;
    cluster.nodes[0].script(|_| Some(busy(60_000)));
    let client = cluster.client(PLENTY).await;
    let begun = Instant::now();
    let error = client.put("k", "v").await.expect_err("busy for a minute");
    assert!(matches!(error, Error::TimedOut { attempts: 1, .. }), "{error}");
    assert!(begun.elapsed() < PLENTY / 2);
}

#[tokio::test]
async fn a_silent_node_costs_a_read_a_part_of_its_time_and_a_write_its_outcome() {
    let cluster = FakeCluster::start(2).await;
    cluster.list(&[one_region(&cluster.nodes[0])]);
    let client = routed(&cluster, Duration::from_secs(2)).await;
    cluster.nodes[0].script(|seen| matches!(seen.method, "get" | "put").then_some(Fault::Hang));
    assert_eq!(client.get("k").await, Ok(None), "another node served it");

    let client = routed(&cluster, Duration::from_millis(200)).await;
    let error = client.put("k", "v").await.expect_err("no answer");
    assert!(error.maybe_applied(), "{error}");
    assert_eq!(cluster.count("put"), 1);
}

/// The address of a service: each connection is led on to one of several nodes, by turns, and may come
/// to stand still.
struct Service {
    address: String,
    connections: Arc<AtomicUsize>,
    /// Connections before this one stand still.
    still: watch::Sender<usize>,
}

impl Service {
    async fn start(nodes: &[FakeNode]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let targets: Vec<_> = nodes.iter().map(|node| node.address.clone()).collect();
        let connections = Arc::new(AtomicUsize::new(0));
        let (still, stands) = watch::channel(0);
        let count = connections.clone();
        tokio::spawn(async move {
            while let Ok((mut here, _)) = listener.accept().await {
                let number = count.fetch_add(1, Relaxed);
                let (target, mut stands) =
                    (targets[number % targets.len()].clone(), stands.clone());
                tokio::spawn(async move {
                    let mut there = TcpStream::connect(target).await.expect("a node");
                    let stops = async { drop(stands.wait_for(|upto| number < *upto).await) };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut here, &mut there) => {}
                        () = stops => std::future::pending().await,
                    }
                });
            }
        });
        Self { address, connections, still }
    }

    async fn client(&self) -> Client {
        let options = Options { channels_per_node: 1, timeout: PLENTY, ..Options::default() };
        Client::connect_with([&self.address], options).await.expect("well-formed")
    }

    fn connections(&self) -> usize {
        self.connections.load(Relaxed)
    }

    /// Everything that is connected now gets no further word.
    fn stand_still(&self) {
        self.still.send_replace(self.connections());
    }
}

#[tokio::test]
async fn a_mute_connection_is_replaced_and_a_slow_one_is_kept() {
    let cluster = FakeCluster::start(1).await;
    let service = Service::start(&cluster.nodes).await;
    let client = service.client().await;
    client.get("k").await.expect("served");
    assert_eq!(service.connections(), 1);

    // Slow for one call, and well for others meanwhile.
    cluster.nodes[0].script(|seen| (seen.method == "put").then_some(Fault::Hang));
    let impatient = client.with_timeout(Duration::from_millis(300)).expect("a timeout");
    let others = async {
        loop {
            client.get("k").await.expect("served");
        }
    };
    tokio::select! {
        put = impatient.put("k", "v") => drop(put.expect_err("no answer")),
        () = others => {}
    }
    client.get("k").await.expect("served");
    assert_eq!(service.connections(), 1, "others had answers on it");

    service.stand_still();
    let patient = client.with_timeout(Duration::from_secs(2)).expect("a timeout");
    patient.get("k").await.expect("served over another connection");
    assert_eq!(service.connections(), 2);
}

#[tokio::test]
async fn a_client_of_a_service_leaves_a_node_that_was_removed() {
    let cluster = FakeCluster::start(2).await;
    let service = Service::start(&cluster.nodes).await;
    let client = service.client().await;
    client.put("k", "v").await.expect("stored by the first");
    cluster.nodes[0].script(|_| {
        let reason = Some(Reason::NotJoined(NotJoined { removed: true }));
        Some(Fault::Refuse(typed(
            Code::Unavailable,
            ErrorDetail { reason, ..ErrorDetail::default() },
        )))
    });
    client.put("k", "w").await.expect("stored by the second");
    assert_eq!(service.connections(), 2);
}

/// There is no service before it, or nobody else behind that.
#[tokio::test]
async fn a_client_of_nodes_that_were_all_removed_is_told_soon() {
    let cluster = FakeCluster::start(2).await;
    let client = cluster.client(PLENTY).await;
    client.put("k", "v").await.expect("stored");
    for node in &cluster.nodes {
        node.script(|_| {
            let reason = Some(Reason::NotJoined(NotJoined { removed: true }));
            let detail = ErrorDetail { reason, ..ErrorDetail::default() };
            Some(Fault::Refuse(typed(Code::Unavailable, detail)))
        });
    }
    let begun = Instant::now();
    let error = client.put("k", "v").await.expect_err("no cluster");
    assert!(matches!(error, Error::NotJoined { removed: true, .. }), "{error}");
    assert!(begun.elapsed() < PLENTY / 2, "{:?}", begun.elapsed());
    for node in &cluster.nodes {
        let asked = node.seen("put").len();
        assert!(asked <= REMOVED_MAX + 1, "asked {asked} times");
    }
}

#[tokio::test]
async fn a_node_that_leaves_hands_its_callers_on() {
    let cluster = FakeCluster::start(2).await;
    cluster.nodes[0].script(|seen| {
        (seen.method == "put").then(|| refusal(Code::Unavailable, Reason::Draining(Draining {})))
    });
    let client = cluster.client(PLENTY).await;
    for _ in 0..4 {
        client.put("k", "v").await.expect("stored by the other");
    }
    assert_eq!(cluster.nodes[1].seen("put").len(), 4);
}

#[tokio::test]
async fn unjoined_nodes_are_passed_over_and_if_all_are_the_call_fails_at_once() {
    let cluster = FakeCluster::start(2).await;
    let unjoined = || {
        let reason = Some(Reason::NotJoined(NotJoined { removed: false }));
        Fault::Refuse(typed(Code::Unavailable, ErrorDetail { reason, ..ErrorDetail::default() }))
    };
    cluster.nodes[0].script(move |_| Some(unjoined()));
    let client = cluster.client(PLENTY).await;
    for _ in 0..2 {
        client.put("k", "v").await.expect("stored by the joined node");
    }
    cluster.nodes[1].script(move |_| Some(unjoined()));
    let begun = Instant::now();
    let error = client.put("k", "v").await.expect_err("no cluster");
    assert!(matches!(error, Error::NotJoined { removed: false, .. }), "{error}");
    assert!(begun.elapsed() < PLENTY / 2);
}

#[tokio::test]
async fn a_cluster_is_only_ever_started_at_the_first_endpoint() {
    let cluster = FakeCluster::start(1).await;
    let endpoints = [nobody().await, cluster.nodes[0].address.clone()];
    let options = Options { timeout: Duration::from_millis(200), ..Options::default() };
    let client = Client::connect_with(endpoints, options).await.expect("well-formed");
    let request = v1::InitializeRequest::default();
    client.cluster().initialize(request).await.expect_err("the first endpoint is dead");
    assert_eq!(cluster.count("initialize"), 0);
}

#[tokio::test]
async fn a_batch_read_asks_each_leader_and_keeps_the_order() {
    let cluster = FakeCluster::start(2).await;
    let [one, other] = &cluster.nodes[..] else { unreachable!("two were started") };
    let middle = b"\0\0\x01m";
    cluster.list(&[region(2, &[0, 0, 1], middle, 5, one), region(3, middle, b"", 5, other)]);
    cluster.fill(["a", "b", "x"].map(String::from));
    let client = routed(&cluster, PLENTY).await;
    let found = client.batch_get(["x", "a", "nothing", "b", "x"]).await.expect("read");
    let keys: Vec<_> = found.iter().map(|kv| kv.as_ref().map(|kv| kv.key.clone())).collect();
    let want = ["x", "a", "", "b", "x"].map(|key| (!key.is_empty()).then(|| Bytes::from(key)));
    assert_eq!(keys, want);
    assert_eq!((one.seen("batch_get").len(), other.seen("batch_get").len()), (1, 1));
    assert_eq!(client.batch_get(Vec::<Bytes>::new()).await, Ok(Vec::new()));

    // The second key of its request is the fifth of the caller's.
    other.script(|seen| {
        (seen.method == "batch_get").then(|| {
            let field = "keys[1]".to_owned();
            let reason = Some(Reason::InvalidArgument(v1::InvalidArgument { field, limit: 7 }));
            let detail = ErrorDetail { reason, ..ErrorDetail::default() };
            Fault::Refuse(typed(Code::InvalidArgument, detail))
        })
    });
    let error = client.batch_get(["a", "b", "x", "c", "y"]).await.expect_err("one is refused");
    let Error::InvalidArgument { field, .. } = &error else { panic!("{error:?}") };
    assert_eq!(field, "keys[4]");
}

#[tokio::test]
async fn a_stale_read_may_go_anywhere_and_says_so() {
    let cluster = FakeCluster::start(2).await;
    cluster.list(&[one_region(&cluster.nodes[0])]);
    let client = routed(&cluster, PLENTY).await.with_read_mode(ReadMode::Stale);
    for _ in 0..4 {
        client.get("k").await.expect("served");
    }
    assert_eq!(cluster.nodes[1].seen("get").len(), 2, "the nodes take turns");
    let seen = cluster.nodes[1].seen("get");
    assert!(seen.iter().all(|seen| seen.context.read_mode() == ReadMode::Stale));
    client.put("k", "v").await.expect("stored");
    let seen = &cluster.nodes[0].seen("put")[0];
    assert_eq!(seen.context.region_id, 2, "writes are still routed");
}

#[tokio::test]
async fn a_node_that_stops_in_order_fails_no_call() {
    let cluster = FakeCluster::start(2).await;
    let [leaving, staying] = &cluster.nodes[..] else { unreachable!("two were started") };
    cluster.list(&[one_region(leaving)]);
    cluster.list_nodes();
    let client = routed(&cluster, PLENTY).await;
    // The node that is told to stop has a call of each caller under way or about to come.
    let node = leaving.clone();
    leaving.script(move |seen| {
        if seen.method == "put" && seen.nth == 100 {
            node.stop();
        }
        None
    });
    let callers = (0..16).map(|caller| {
        let client = &client;
        async move {
            for number in 0..50 {
                client.put(format!("{caller}/{number}"), "v").await?;
            }
            Ok::<(), Error>(())
        }
    });
    futures::future::try_join_all(callers).await.expect("no call fails");
    assert_eq!(cluster.data.lock().len(), 16 * 50);
    assert_eq!(cluster.count("put"), 16 * 50, "none was sent twice");
    assert!(!staying.seen("put").is_empty());
}
