//! Every series that is documented exists, every series that exists is documented, and each moves
//! when what it measures happens: load, a crowd, a node that is away for long, elections, snapshots,
//! a node that comes and one that goes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use flotilla_proto::v1::{self, NodeState};
use flotilla_tests::{
    harness::{Builder, Cluster, Session, Start, elapse, eventually, http, say},
    workload::{Crew, UniqueWrites, Workload as _},
};
use tokio::task::JoinSet;

const BOUND: Duration = Duration::from_secs(90);

/// Bytes of a value that is applied beside the thread that is asked how far it lags.
const LARGE: usize = 4 << 20;

/// How often every node is asked: gauges are seen only when somebody looks.
const LOOK: Duration = Duration::from_millis(100);

/// Series, by the beginning of their names and labels, that may stand still here, and why. What is
/// not on this list and stays 0 on every node is not fed.
const STILL: &[(&str, &str)] = &[
    (r#"flotilla_busy_total{queue="answers"}"#, "queues that this test does not fill"),
    (r#"flotilla_busy_total{queue="cluster"}"#, "as above"),
    (r#"flotilla_busy_total{queue="checksums"}"#, "as above"),
    (r#"flotilla_busy_total{queue="connections"}"#, "as above"),
    (r#"flotilla_busy_total{queue="forwards"}"#, "as above"),
    (r#"flotilla_busy_total{queue="other"}"#, "for a queue that is not known"),
    (r#"flotilla_busy_total{queue="proposal_bytes"}"#, "as above"),
    (r#"flotilla_busy_total{queue="reads"}"#, "as above"),
    (r#"flotilla_busy_total{queue="receive"}"#, "as above"),
    (r#"flotilla_busy_total{queue="region_requests"}"#, "as above"),
    (r#"flotilla_busy_total{queue="scans"}"#, "as above"),
    ("flotilla_disk_level", "0 is a disk with room"),
    ("flotilla_log_lines_lost_total", "the harness reads what is logged"),
    (r#"flotilla_placement_nodes{state="down"}"#, "takes ten minutes"),
    (r#"flotilla_placement_nodes{state="joining"}"#, "a moment"),
    (r#"flotilla_placement_nodes{state="learner"}"#, "a moment"),
    (r#"flotilla_placement_regions{health="no_leader"}"#, "a moment"),
    ("flotilla_nodes_unheard", "a moment"),
    (r#"flotilla_placement_regions{health="no_quorum"}"#, "nobody could go on"),
    (r#"flotilla_placement_steps_running{kind="finish"}"#, "needs a leader lost at one moment"),
    (r#"flotilla_placement_steps_running{kind="replace"}"#, "a moment"),
    (r#"flotilla_placement_steps_running{kind="remove"}"#, "replaced, where there is another node"),
    (r#"flotilla_placement_steps_running{kind="transfer"}"#, "a moment"),
    (r#"flotilla_placement_steps_total{kind="finish""#, "as above"),
    (r#"flotilla_placement_steps_total{kind="remove""#, "as above"),
    (r#"flotilla_raft_elections_total{result="lost"}"#, "needs two campaigns at one moment"),
    ("flotilla_raft_lanes_cut", "no lane is cut alone"),
    ("flotilla_raft_link_bytes", "a moment"),
    ("flotilla_raft_link_refused_total", "nothing is too much or too large"),
    ("flotilla_raft_log_catch_up_bytes", "a moment"),
    (r#"flotilla_raft_propose_seconds_count{outcome="rejected"}"#, "needs a leader lost meanwhile"),
    (r#"flotilla_raft_propose_seconds_count{outcome="unknown"}"#, "as above"),
    ("flotilla_region_followers_reverted_total", "nothing is damaged"),
    ("flotilla_region_leaders_without_quorum", "nobody could go on"),
    ("flotilla_region_peers_lost_total", "nothing is damaged"),
    ("flotilla_regions_unheard", "a moment"),
    ("flotilla_regions_without_quorum", "nobody could go on"),
    (r#"flotilla_regions{state="candidate"}"#, "a moment"),
    (r#"flotilla_regions{state="contradicted"}"#, "nothing is damaged"),
    (r#"flotilla_regions{state="learner"}"#, "a moment"),
    (r#"flotilla_regions{state="quarantined"}"#, "nothing is damaged"),
    ("flotilla_storage_background_errors_total", "nothing fails"),
    ("flotilla_storage_pending_compaction_bytes", "too little data"),
    ("flotilla_storage_reclaimed_rows_total", "nothing expires"),
    ("flotilla_storage_stall_seconds_total", "too little data"),
    ("flotilla_storage_write_stopped", "too little data"),
];

/// Families of which one moving series is enough: the others are of the same kind of thing.
const ONE_IS_ENOUGH: &[&str] = &[
    "flotilla_grpc_requests_total",
    "flotilla_grpc_request_seconds",
    "flotilla_placement_steps_total",
    "flotilla_raft_snapshots_total",
    "flotilla_storage_",
    "flotilla_tokio_",
];

/// Of those families, what must have moved all the same.
const MUST: &[&str] = &[
    r#"flotilla_grpc_requests_total{code="ok",method="flotilla.v1.Kv/Put"}"#,
    r#"flotilla_grpc_requests_total{code="resource_exhausted",method="flotilla.v1.Kv/Put"}"#,
    r#"flotilla_placement_steps_total{kind="add_learner",result="done"}"#,
    r#"flotilla_placement_steps_total{kind="promote",result="done"}"#,
    r#"flotilla_placement_steps_total{kind="replace",result="done"}"#,
    r#"flotilla_placement_steps_total{kind="transfer",result="done"}"#,
    r#"flotilla_raft_snapshots_total{direction="receive",result="done"}"#,
    r#"flotilla_raft_snapshots_total{direction="send",result="done"}"#,
    r#"flotilla_storage_level_bytes{engine="data",level="#,
    r#"flotilla_tokio_alive_tasks{runtime="api-0"}"#,
    r#"flotilla_tokio_alive_tasks{runtime="raft"}"#,
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_series_is_documented_and_moves_when_what_it_measures_happens() {
    let mut cluster = Builder::new(3)
        .set("limits.requests_in_flight_max", "32")
        .set("limits.proposals_in_flight_max", "16")
        .set("log.compact_entries", "200")
        // Less than is written while a node is away, far more than while a snapshot is on its way.
        .set("log.keep_entries", "50")
        .set("log.catch_up_bytes", &(2 * LARGE).to_string())
        .set("placement.node_disconnected_after", "2s")
        .prepare()
        .await;
    let spare = cluster.prepare_node();
    let watch = Watch::start(&cluster);
    let late = cluster.nodes.pop().expect("the fourth node was prepared");
    cluster.form().await;
    cluster.nodes.push(late);

    let sessions: Vec<Session> = cluster.sessions().into_iter().take(3).collect();
    let writers = Crew::writers(&sessions, 8, 200, "metrics");
    writers.progress(500, BOUND).await;
    for session in &sessions {
        session.get("metrics/read").await.expect("a linearizable read");
    }
    crowd(&mut cluster, &watch).await;
    large(&mut cluster, &watch).await;

    away(&mut cluster, &watch, &writers).await;
    stopped(&mut cluster, &watch, &writers).await;
    killed(&mut cluster, &watch, &writers).await;
    came_and_went(&mut cluster, &watch, &writers, spare).await;

    // What is there for a moment only is looked for while there is something to see.
    eventually("what a moment shows to be seen", BOUND, async || watch.verdict()).await;
    let ledger = writers.stop().await;
    say(format!("{} writes, {} looks", ledger.answered(), watch.looks()));
    watch.documented();
}

/// More callers than a node takes, until they were told so.
async fn crowd(cluster: &mut Cluster, watch: &Watch) {
    let leader = cluster.leader(b"metrics").await;
    let session = cluster.nodes[leader].session();
    let mut callers = JoinSet::new();
    for caller in 0..96 {
        let session = session.clone();
        callers.spawn(async move {
            loop {
                // Refused or not: both are what is wanted.
                let _ = session.put(format!("metrics/crowd/{caller}"), "x").await;
            }
        });
    }
    watch
        .moved(&[
            r#"flotilla_busy_total{queue="requests"}"#,
            r#"flotilla_busy_total{queue="proposals"}"#,
            "flotilla_grpc_in_flight",
        ])
        .await;
    callers.shutdown().await;
}

/// Values so large that a node lags in applying them.
async fn large(cluster: &mut Cluster, watch: &Watch) {
    let leader = cluster.leader(b"metrics").await;
    let session = cluster.nodes[leader].session();
    let caller = tokio::spawn(async move {
        loop {
            // Refused or not: the next one will do.
            let _ = session.put("metrics/large", vec![b'x'; LARGE]).await;
        }
    });
    watch.moved(&["flotilla_raft_apply_lag_entries"]).await;
    caller.abort();
}

/// A follower is away for so long that only a snapshot helps it.
async fn away(cluster: &mut Cluster, watch: &Watch, writers: &Crew<UniqueWrites>) {
    let leader = cluster.leader(b"metrics").await;
    let victim = (leader + 1) % 3;
    cluster.nodes[victim].kill9();
    writers.progress(500, BOUND).await;
    let session = cluster.nodes[leader].session();
    // Four times what the leader keeps for the one that is away.
    for _ in 0..8 {
        eventually("a large write", BOUND, async || {
            session.put("metrics/large", vec![b'x'; LARGE]).await
        })
        .await;
    }
    watch
        .moved(&[
            "flotilla_region_peers_pending",
            r#"flotilla_placement_nodes{state="disconnected"}"#,
            r#"flotilla_placement_regions{health="under_replicated"}"#,
        ])
        .await;
    cluster.nodes[victim].relaunch();
    cluster.wait_whole(BOUND).await;
    watch
        .moved(&[
            r#"flotilla_raft_snapshots_total{direction="send",result="done"}"#,
            r#"flotilla_raft_snapshots_total{direction="receive",result="done"}"#,
            "flotilla_raft_snapshot_bytes_total",
        ])
        .await;
    // Its rows came as files; reading them goes through the cache of blocks.
    let session = cluster.nodes[victim].session();
    for number in 0..100 {
        session.get_stale(format!("metrics/crowd/{number}")).await.expect("a stale read");
    }
}

/// A leader is stopped in order, and hands over. It may be gone before anybody looks at it, so the
/// others are looked at, whose leader has changed.
async fn stopped(cluster: &mut Cluster, watch: &Watch, writers: &Crew<UniqueWrites>) {
    let leader = cluster.leader(b"metrics").await;
    let session = cluster.nodes[leader].session();
    let to = cluster.node_id((leader + 1) % 3).await;
    let message = v1::TransferLeaderRequest { region_id: 2, to_node_id: to };
    eventually("the leadership to be handed over", BOUND, async || {
        session.cluster.clone().transfer_leader(session.request(message)).await
    })
    .await;
    watch.moved(&[r#"flotilla_raft_messages_total{kind="transfer"}"#]).await;
    let leader = cluster.leader(b"metrics").await;
    cluster.nodes[leader].terminate(BOUND).await;
    writers.progress(100, BOUND).await;
    cluster.nodes[leader].relaunch();
    cluster.wait_whole(BOUND).await;
}

async fn killed(cluster: &mut Cluster, watch: &Watch, writers: &Crew<UniqueWrites>) {
    let leader = cluster.leader(b"metrics").await;
    cluster.nodes[leader].kill9();
    writers.progress(100, BOUND).await;
    cluster.nodes[leader].relaunch();
    cluster.wait_whole(BOUND).await;
    watch
        .moved(&[
            r#"flotilla_raft_elections_total{result="won"}"#,
            "flotilla_raft_leader_changes_total",
            r#"flotilla_raft_messages_total{kind="vote"}"#,
        ])
        .await;
}

/// A fourth node joins, and takes the place of one that is removed.
async fn came_and_went(
    cluster: &mut Cluster,
    watch: &Watch,
    writers: &Crew<UniqueWrites>,
    spare: usize,
) {
    let join = cluster.addresses()[..3].to_vec();
    cluster.nodes[spare].launch(Start::Join(join));
    cluster.nodes[spare].bound(BOUND).await;
    cluster.node_id(spare).await;
    cluster.wait_whole(BOUND).await;
    // The one that leads, so that it has to hand over as well.
    let leaving = cluster.leader(b"metrics").await;
    let id = cluster.node_id(leaving).await;
    let session = cluster.nodes[(leaving + 1) % 4].session();
    without_the_driver(&session, id).await;
    cluster.nodes[leaving].expect_exit();
    eventually("the node to be removed", BOUND, async || {
        let message = v1::RemoveNodeRequest { node_id: id, force: false, expected_version: None };
        let answer = session.cluster.clone().remove_node(session.request(message)).await;
        let answer = answer.map_err(|status| status.to_string())?.into_inner();
        let done = answer.state == i32::from(NodeState::Removed);
        if done { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
    watch
        .moved(&[
            r#"flotilla_placement_nodes{state="draining"}"#,
            r#"flotilla_placement_nodes{state="removed"}"#,
            r#"flotilla_placement_steps_total{kind="replace",result="done"}"#,
            r#"flotilla_placement_steps_total{kind="transfer",result="done"}"#,
        ])
        .await;
    writers.progress(100, BOUND).await;
}

/// Waits until a node does not lead the system region: a placement driver that hands its own lead over
/// does not see what becomes of its other orders.
async fn without_the_driver(session: &Session, node: u64) {
    eventually("the placement driver to be elsewhere", BOUND, async || {
        let regions = session.regions().await.map_err(|status| status.to_string())?;
        let system = regions
            .into_iter()
            .find(|info| info.region.as_ref().is_some_and(|region| region.region_id == 1));
        let system = system.ok_or("the system region is not known")?;
        let leader = system.leader.map(|leader| leader.node_id);
        if leader.is_some_and(|leader| leader != node) {
            return Ok(());
        }
        let peers = system.region.unwrap_or_default().peers;
        let other = peers
            .iter()
            .find(|peer| peer.node_id != node && peer.role == i32::from(v1::PeerRole::Voter));
        let to_node_id = other.ok_or("it has no other voter")?.node_id;
        let message = v1::TransferLeaderRequest { region_id: 1, to_node_id };
        let asked = session.cluster.clone().transfer_leader(session.request(message)).await;
        Err(format!("node {node} leads it; asked to hand over: {asked:?}"))
    })
    .await;
}

/// Looks at the metrics of all nodes, again and again.
struct Watch {
    seen: Arc<Mutex<Seen>>,
    looking: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    /// Of each series its largest value on any node, histograms by their counts.
    most: BTreeMap<String, f64>,
    families: BTreeSet<String>,
    looks: usize,
}

impl Watch {
    fn start(cluster: &Cluster) -> Self {
        let addresses: Vec<String> = cluster.nodes.iter().map(|node| node.http_address()).collect();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let looking = tokio::spawn({
            let seen = Arc::clone(&seen);
            async move {
                loop {
                    for address in &addresses {
                        // It may be down: that is part of the test.
                        let Ok(answer) = http(address, "GET", "/metrics", &[], &[]).await else {
                            continue;
                        };
                        let text = String::from_utf8(answer.body).expect("metrics are text");
                        seen.lock().expect("no look panics").look(&text);
                    }
                    elapse(LOOK).await;
                }
            }
        });
        Self { seen, looking }
    }

    /// Waits until each of these series was seen to be something else than 0.
    async fn moved(&self, series: &[&str]) {
        eventually("series to move", BOUND, async || {
            let seen = self.seen();
            let still: Vec<&&str> = series.iter().filter(|one| !seen.moved(one)).collect();
            if still.is_empty() { Ok(()) } else { Err(format!("{still:?} stand still")) }
        })
        .await;
    }

    /// # Errors
    /// Series that never moved and should have.
    fn verdict(&self) -> Result<(), String> {
        let seen = self.seen();
        let mut wrong: BTreeSet<&str> =
            MUST.iter().copied().filter(|one| !seen.moved(one)).collect();
        for (series, most) in &seen.most {
            let may_be_still = STILL.iter().any(|(still, _)| series.starts_with(still));
            let group = ONE_IS_ENOUGH.iter().find(|group| series.starts_with(**group));
            let family = series.split('{').next().unwrap_or_default();
            let enough = group.is_some() && seen.moved(family);
            if *most == 0.0 && !may_be_still && !enough {
                wrong.insert(series);
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(format!("never moved: {wrong:#?}")) }
    }

    /// # Panics
    /// When the documentation and what was seen are not the same series.
    fn documented(&self) {
        // Cargo runs tests in the folder of their package, wherever they were compiled.
        let page = std::fs::read_to_string("../docs/observability.md")
            .expect("docs/observability.md is there");
        let documented: BTreeSet<String> = page
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .map(str::to_owned)
            .collect();
        assert!(documented.len() > 40, "only {} series are documented", documented.len());
        assert_eq!(self.seen().families, documented, "seen on the nodes, and documented");
    }

    fn looks(&self) -> usize {
        self.seen().looks
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().expect("no look panics")
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

impl Seen {
    fn look(&mut self, text: &str) {
        self.looks += 1;
        let mut histogram = false;
        for line in text.lines() {
            if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (family, kind) = kind.split_once(' ').expect("a family and its kind");
                self.families.insert(family.to_owned());
                histogram = kind == "histogram";
                continue;
            }
            if line.starts_with('#') {
                continue;
            }
            let (series, value) = line.rsplit_once(' ').expect("a series and its value");
            let family = series.split('{').next().unwrap_or_default();
            if histogram && !family.ends_with("_count") {
                continue;
            }
            let value: f64 = value.parse().expect("a number");
            let most = self.most.entry(series.to_owned()).or_default();
            *most = most.max(value.abs());
        }
    }

    /// Whether a series whose name and labels begin like this was something else than 0.
    fn moved(&self, beginning: &str) -> bool {
        self.most.iter().any(|(series, most)| series.starts_with(beginning) && *most > 0.0)
    }
}
