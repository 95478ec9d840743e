//! Whether the node can serve, and whether it is alive; and what it measures of itself.

use crate::{
    metrics::{Instance, PeerRole},
    storage::disk::Level,
};
use openraft::async_runtime::WatchReceiver as _;

use super::Node;

/// Entries a peer may lag its leader by and still count as caught up.
const LAG_MAX: u64 = 1000;

/// One named check.
pub(super) type Check = (&'static str, Result<String, String>);

/// Everything that must hold before clients are sent here.
pub(super) fn checks(node: &Node) -> Vec<Check> {
    let mut checks = vec![("process", Ok("running".to_owned()))];
    checks.push((
        "draining",
        if node.is_draining() { Err("shutting down".to_owned()) } else { Ok("no".to_owned()) },
    ));
    let Some(joined) = node.joined() else {
        let why = if node.is_removed() { "removed from its cluster" } else { "not joined" };
        checks.push(("joined", Err(why.to_owned())));
        return checks;
    };
    checks.push(("joined", Ok(format!("node {} of cluster {}", joined.node, joined.cluster))));
    checks.push((
        "confirmed",
        if joined.is_confirmed() {
            Ok("known to the placement driver".to_owned())
        } else {
            Err("the placement driver has not answered since the start".to_owned())
        },
    ));
    let (mut behind, mut unheard, mut total) = (0_usize, 0_usize, 0_usize);
    for peer in joined.peers.all() {
        total += 1;
        let metrics = peer.raft().metrics().borrow_watched().clone();
        if !peer.is_in_touch() {
            unheard += 1;
        }
        let applied = metrics.last_applied.map_or(0, |id| id.index);
        let committed = metrics.cluster_committed.map_or(0, |id| id.index);
        if !peer.view().is_initialized() || applied + LAG_MAX < committed {
            behind += 1;
        }
    }
    checks.push((
        "leaders",
        if unheard == 0 {
            Ok(format!("heard in all {total} regions"))
        } else {
            Err(format!("not heard in {unheard} of {total} regions"))
        },
    ));
    checks.push((
        "caught-up",
        if behind == 0 { Ok("yes".to_owned()) } else { Err(format!("{behind} peers are behind")) },
    ));
    let quarantined = joined.peers.quarantined();
    if let Some((region, _, reason)) = quarantined.first() {
        checks.push(("quarantine", Err(format!("region {region}: {reason}"))));
    }
    if let Some(disk) = &node.disk {
        checks.push((
            "disk",
            match disk.level() {
                Level::Normal => Ok("normal".to_owned()),
                Level::Low => Ok("low: writes are refused".to_owned()),
                Level::Critical => Err("critical".to_owned()),
            },
        ));
    }
    checks
}

/// Brings gauges up to date, for whoever reads the metrics now.
pub(super) fn measure(node: &Node) {
    let metrics = &node.metrics;
    metrics.storage.record(Instance::Log, &node.log.stats());
    metrics.storage.record(Instance::Data, &node.data.stats());
    if let Some(disk) = *node.disk_status.lock() {
        let gauge = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        metrics.storage.disk_available_bytes.set(gauge(disk.available_bytes));
        metrics.storage.disk_used_bytes.set(gauge(disk.total_bytes - disk.available_bytes));
        metrics.storage.disk_level.set(match disk.level {
            Level::Normal => 0,
            Level::Low => 1,
            Level::Critical => 2,
        });
    }
    let Some(joined) = node.joined() else { return };
    let mut roles = [0_i64; 4];
    let mut lag = 0;
    let mut pending = 0;
    for peer in joined.peers.all() {
        use openraft::ServerState;
        let raft = peer.raft().metrics().borrow_watched().clone();
        let index = |id: Option<crate::raft::LogId>| id.map_or(0, |id| id.index);
        lag = lag.max(index(raft.cluster_committed).saturating_sub(index(raft.last_applied)));
        match raft.state {
            ServerState::Leader => {
                roles[0] += 1;
                let last = raft.last_log_index.unwrap_or(0);
                pending += raft
                    .replication
                    .unwrap_or_default()
                    .values()
                    .filter(|matched| index(**matched) + LAG_MAX < last)
                    .count();
            }
            ServerState::Follower => roles[1] += 1,
            ServerState::Candidate => roles[2] += 1,
            ServerState::Learner | ServerState::Shutdown => roles[3] += 1,
        }
    }
    let regions = &metrics.regions;
    regions.leaders.set(roles[0]);
    for (role, count) in
        [PeerRole::Leader, PeerRole::Follower, PeerRole::Candidate, PeerRole::Learner]
            .into_iter()
            .zip(roles)
    {
        regions.regions.get(role).set(count);
    }
    let quarantined = joined.peers.quarantined().len();
    regions.regions.get(PeerRole::Quarantined).set(i64::try_from(quarantined).unwrap_or(i64::MAX));
    regions.peers_pending.set(i64::try_from(pending).unwrap_or(i64::MAX));
    metrics.raft.apply_lag_entries.set(i64::try_from(lag).unwrap_or(i64::MAX));
}
