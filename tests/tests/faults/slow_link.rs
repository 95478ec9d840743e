//! A node that was away comes back behind a slow link: what it lacks travels once, and those that send it
//! keep it on their disks until there is room on the way.

use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::v1;
use flotilla_tests::harness::{
    Builder, Cluster, Proxy, Session, Start, elapse, env_number, eventually, say,
};
use tokio::task::JoinSet;

const REGIONS: usize = 20;
const VALUE_BYTES: usize = 1 << 20;
/// 160 Mbit/s: a value takes longer than a Raft heartbeat.
const LINK_BYTES_PER_SECOND: u64 = 20 << 20;
const BOUND: Duration = Duration::from_secs(120);
const MEMORY_GROWTH_MAX: u64 = 256 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn follower_that_was_away_gets_the_log_once_and_costs_its_leaders_little_memory() {
    let values = env_number("SLOW_LINK_VALUES", 8) as usize;
    let mut cluster = Builder::new(3).prepare().await;
    cluster.nodes[2].put_behind_proxy();
    let from = cluster.nodes[2].peer_address().parse().expect("an address");
    let proxy = Proxy::start(from, cluster.nodes[2].peer_bound(), LINK_BYTES_PER_SECOND).await;
    form(&mut cluster).await;

    cluster.nodes[2].kill9();
    let sessions = [0, 1].map(|index| cluster.nodes[index].session().patient(BOUND));
    for region in 0..REGIONS {
        let session = &sessions[region % 2];
        eventually("a leader", BOUND, async || session.put(key(region), "small").await).await;
    }
    let mut writers = JoinSet::new();
    for region in 0..REGIONS {
        let session = sessions[region % 2].clone();
        writers.spawn(async move {
            for number in 0..values {
                session.put(key(region), incompressible(number)).await.expect("a put");
            }
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended.expect("a writer does not panic");
    }
    let log_bytes = (REGIONS * values * VALUE_BYTES) as u64;
    let wanted = applied(&sessions[0]).await.expect("status");

    let carried_before = proxy.bytes();
    let memory = |cluster: &Cluster| [0, 1].map(|index| cluster.nodes[index].memory_bytes());
    let memory_before = memory(&cluster);
    cluster.nodes[2].relaunch();
    let returned = cluster.nodes[2].session().patient(Duration::from_secs(2));
    let mut growth = 0;
    let caught_up = async {
        loop {
            let now = memory(&cluster);
            for (now, before) in now.into_iter().zip(memory_before) {
                growth = growth.max(now.saturating_sub(before));
            }
            if applied(&returned).await.is_ok_and(|found| has_reached(&found, &wanted)) {
                return;
            }
            elapse(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(BOUND, caught_up).await.expect("the node catches up");
    let carried = proxy.bytes() - carried_before;
    say(format!(
        "{} MiB of log: {} MiB carried, a leader grew by {} MiB",
        log_bytes >> 20,
        carried >> 20,
        growth >> 20
    ));
    assert!(carried >= log_bytes * 9 / 10, "it was away for {carried} bytes only");
    assert!(carried * 2 < log_bytes * 3, "{carried} bytes travelled for {log_bytes} of log");
    assert!(growth < MEMORY_GROWTH_MAX, "a leader grew by {growth} bytes");
    cluster.wait_whole(BOUND).await;
}

fn key(region: usize) -> String {
    format!("{region:02}/key")
}

/// A value that neither a disk nor a link makes smaller.
fn incompressible(seed: usize) -> Bytes {
    let mixed = |at: usize| ((at ^ seed << 20) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let scrambled = |at| (mixed(at) ^ mixed(at) >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (0..VALUE_BYTES / 8).flat_map(|at| scrambled(at).to_le_bytes()).collect()
}

/// A cluster of many regions.
async fn form(cluster: &mut Cluster) {
    cluster.nodes[0].launch(Start::Alone);
    cluster.nodes[0].bound(BOUND).await;
    let split_keys = (1..REGIONS).map(|region| format!("{region:02}/").into()).collect();
    let initialize = v1::InitializeRequest { split_keys, ..v1::InitializeRequest::default() };
    let first = cluster.nodes[0].session().patient(BOUND);
    eventually("a cluster", BOUND, async || {
        first.cluster.clone().initialize(first.request(initialize.clone())).await
    })
    .await;
    for index in [1, 2] {
        let join = Start::Join(vec![cluster.nodes[0].client_address()]);
        cluster.nodes[index].launch(join);
        cluster.nodes[index].bound(BOUND).await;
    }
    cluster.wait_whole(BOUND).await;
}

/// Region and applied index of every peer of a node.
async fn applied(session: &Session) -> Result<Vec<(u64, u64)>, String> {
    let status = session.status().await.map_err(|status| status.to_string())?;
    let applied = status
        .peers
        .iter()
        .filter_map(|peer| Some((peer.region.as_ref()?.region_id, peer.applied_index)));
    Ok(applied.collect())
}

fn has_reached(found: &[(u64, u64)], wanted: &[(u64, u64)]) -> bool {
    wanted.iter().all(|(region, wanted)| {
        found.iter().any(|(found, applied)| found == region && applied >= wanted)
    })
}
