//! Whether the node can serve, and whether it is alive; and what it measures of itself.

use openraft::ServerState;

use crate::{
    metrics::{Instance, PeerRole},
    region::Peer,
    storage::disk::Level,
};

use super::Node;

/// Entries a peer may lag its leader by and still count as caught up.
const LAG_MAX: u64 = 1000;

/// Bound: peers in quarantine that are named; of more, the number.
const NAMED_MAX: usize = 8;

/// One named check.
pub(super) type Check = (&'static str, Result<String, String>);

/// Everything that must hold before clients are sent here.
pub(super) fn checks(node: &Node) -> Vec<Check> {
    let mut checks = vec![("process", Ok("running".to_owned()))];
    checks.push((
        "draining",
        if node.is_draining() { Err("shutting down".to_owned()) } else { Ok("no".to_owned()) },
    ));
    let expects = node.config.bootstrap_expect as usize;
    let Some(joined) = node.joined() else {
        let why = match node.is_removed() {
            true => "removed from its cluster".to_owned(),
            false => node.births.waits(),
        };
        checks.push(("joined", Err(why)));
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
    if expects > 0 {
        // Everybody who ever was: a row stays when its node goes, so that a cluster that was complete once
        // is not incomplete again.
        let known = node.directory.table().nodes.len();
        checks.push((
            "expected",
            if known >= expects {
                Ok(format!("{known} nodes have joined, {expects} were expected"))
            } else {
                Err(format!("{known} of {expects} expected nodes have joined"))
            },
        ));
    }
    let (mut behind, mut unheard, mut total) = (0_usize, 0_usize, 0_usize);
    for peer in joined.peers.all() {
        total += 1;
        // One that ended this moment is in quarantine the next.
        let Some(metrics) = peer.metrics() else {
            unheard += 1;
            continue;
        };
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
    if !quarantined.is_empty() {
        let mut named: Vec<String> = quarantined
            .iter()
            .take(NAMED_MAX)
            .map(|(region, peer, reason)| format!("peer {peer} of region {region}: {reason}"))
            .collect();
        if quarantined.len() > NAMED_MAX {
            named.push(format!("and {} more", quarantined.len() - NAMED_MAX));
        }
        checks.push(("quarantine", Err(named.join("; "))));
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

/// Brings gauges up to date, for whoever reads the metrics now. Blocks on the disk, and looks at every
/// region: not for a thread that others wait for.
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
    let mut seen = Seen::default();
    joined.peers.all().iter().for_each(|peer| seen.look(peer));
    let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let regions = &metrics.regions;
    for (role, count) in [
        (PeerRole::Leader, seen.leads + seen.leads_alone),
        (PeerRole::Follower, seen.follows),
        (PeerRole::Candidate, seen.campaigns),
        (PeerRole::Learner, seen.learns),
        (PeerRole::Quarantined, joined.peers.quarantined().len()),
    ] {
        regions.regions.get(role).set(gauge(count));
    }
    regions.leaders.set(gauge(seen.leads));
    regions.leaders_without_quorum.set(gauge(seen.leads_alone));
    regions.unheard.set(gauge(seen.unheard));
    regions.peers_pending.set(gauge(seen.pending));
    metrics.raft.apply_lag_entries.set(i64::try_from(seen.lag).unwrap_or(i64::MAX));
}

/// What is counted over the peers of this node.
#[derive(Debug, Default)]
struct Seen {
    leads: usize,
    /// Leaders that no quorum answers: each may have been replaced without knowing, and serves nothing.
    leads_alone: usize,
    follows: usize,
    campaigns: usize,
    learns: usize,
    unheard: usize,
    pending: usize,
    lag: u64,
}

impl Seen {
    fn look(&mut self, peer: &Peer) {
        let is_heard = peer.is_in_touch();
        let Some(raft) = peer.metrics() else { return };
        let index = |id: Option<crate::raft::LogId>| id.map_or(0, |id| id.index);
        let lag = index(raft.cluster_committed).saturating_sub(index(raft.last_applied));
        self.lag = self.lag.max(lag);
        let role = match raft.state {
            ServerState::Leader if is_heard => &mut self.leads,
            ServerState::Leader => &mut self.leads_alone,
            ServerState::Follower => &mut self.follows,
            ServerState::Candidate => &mut self.campaigns,
            ServerState::Learner | ServerState::Shutdown => &mut self.learns,
        };
        *role += 1;
        if raft.state == ServerState::Leader {
            let last = raft.last_log_index.unwrap_or(0);
            let followers = raft.replication.iter().flatten();
            self.pending +=
                followers.filter(|(_, matched)| index(**matched) + LAG_MAX < last).count();
        } else if !is_heard {
            self.unheard += 1;
        }
    }
}
