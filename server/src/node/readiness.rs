//! Whether the node can serve, and whether it is alive; and what it measures of itself.

use std::{collections::BTreeSet, time::Duration};

use flotilla_proto::v1;
use openraft::ServerState;

use crate::{
    api::Check,
    ids::{NodeId, PeerId, RegionId},
    metrics::{Instance, PeerRole},
    raft::transport::Lane,
    region::Peer,
    storage::disk::Level,
};

use super::{Joined, Node};

/// Entries a peer may lag its leader by and still count as caught up.
const LAG_MAX: u64 = 1000;

/// Bound: peers of one fault that are named; of more, the number.
const NAMED_MAX: usize = 8;

/// After a start, regions whose leaders are not heard by then are not waited for any more, or, where an election
/// may take longer, not after three of them: what is not there then is not about to come.
const SETTLE_MIN: Duration = Duration::from_secs(30);

/// Bound: wait for peers to catch up after a start. Long enough for a snapshot of a large region; a region that is
/// written to faster than its peer here follows would else keep the node from all others for ever.
const CATCH_UP_MAX: Duration = Duration::from_secs(5 * 60);

fn settle_max(election_timeout_max: Duration) -> Duration {
    SETTLE_MIN.max(3 * election_timeout_max)
}

/// Whether clients should be sent here, and what else is to be told.
///
/// A node is ready that can serve requests or forward them. How a single region is decides nothing: its nodes
/// lead and forward for others, and one without a quorum would take them all from everybody. After a start alone
/// the regions count once, so that who takes one node down after the other waits until the last one is
/// whole again.
pub(super) fn checks(node: &Node) -> Vec<Check> {
    let mut checks = vec![Check::decisive("process", Ok("running".to_owned()))];
    checks.push(Check::decisive(
        "draining",
        if node.is_draining() { Err("shutting down".to_owned()) } else { Ok("no".to_owned()) },
    ));
    let expects = node.config.bootstrap_expect as usize;
    let Some(joined) = node.joined() else {
        let why = match node.is_removed() {
            true => "removed from its cluster".to_owned(),
            false => node.births.waits(),
        };
        checks.push(Check::decisive("joined", Err(why)));
        return checks;
    };
    let whose = format!("node {} of cluster {}", joined.node, joined.cluster);
    checks.push(Check::decisive("joined", Ok(whose)));
    let here = Here::look(joined);
    let confirmed = here.confirmed(joined.is_confirmed());
    let is_confirmed = confirmed.is_ok();
    checks.push(Check::decisive("confirmed", confirmed));
    if expects > 0 {
        let voters = joined.peers.all().into_iter().map(|peer| {
            let is_voter = |of: &&v1::Peer| of.role() == v1::PeerRole::Voter;
            peer.view().with(|now| now.descriptor.peers.iter().filter(is_voter).count())
        });
        // Initialized peers only: what has no state yet is told of as being behind.
        let fewest = voters.filter(|voters| *voters > 0).min();
        let check = expected(&node.directory.table(), expects, fewest, joined.was_whole());
        if check.is_ok() {
            joined.note_whole();
        }
        checks.push(Check::decisive("expected", check));
    }
    let settled = if joined.has_settled() {
        Ok(())
    } else {
        here.settled(joined.age(), settle_max(node.config.raft.election_timeout_max))
    };
    // Before, its peers may not be there yet.
    if settled.is_ok() && is_confirmed {
        joined.note_settled();
    }
    checks.push(Check::decisive("settled", settled.map(|()| "since its start".to_owned())));
    checks.push(Check::decisive("reach", here.reach(|| joined.peers.may_reach_others())));
    let Here { total, unheard, behind, .. } = here;
    checks.push(Check::told(
        "leaders",
        match unheard {
            0 => Ok(format!("heard in all {total} regions")),
            _ => Err(format!("not heard in {unheard} of {total} regions")),
        },
    ));
    checks.push(Check::told(
        "caught-up",
        if behind == 0 { Ok("yes".to_owned()) } else { Err(format!("{behind} peers are behind")) },
    ));
    checks.extend(named("quarantine", &joined.peers.quarantined()));
    checks.extend(named("contradicted", &joined.peers.contradicted()));
    // Where a region leads it may be followed by votes and heartbeats alone.
    let cut = joined.peers.environment().transport.cut();
    if !cut.is_empty() {
        let named = cut.iter().take(NAMED_MAX);
        let mut named: Vec<String> =
            named.map(|(node, lane)| format!("node {node} ({lane:?})").to_lowercase()).collect();
        if let more @ 1.. = cut.len().saturating_sub(NAMED_MAX) {
            named.push(format!("and {more} more"));
        }
        checks.push(Check::told("lanes", Err(format!("cut to {}", named.join(", ")))));
    }
    if let Some(disk) = &node.disk {
        // Reads are served and deletes are forwarded also by a node whose disk is full; were it to go, then all
        // would together, as their disks fill together, and nobody could delete anything.
        checks.push(Check::told(
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

/// Peers with a fault, each with what it is.
fn named(fault: &'static str, peers: &[(RegionId, PeerId, String)]) -> Option<Check> {
    let told = peers.iter().take(NAMED_MAX);
    let mut told: Vec<String> = told
        .map(|(region, peer, reason)| format!("peer {peer} of region {region}: {reason}"))
        .collect();
    if let more @ 1.. = peers.len().saturating_sub(NAMED_MAX) {
        told.push(format!("and {more} more"));
    }
    (!told.is_empty()).then(|| Check::told(fault, Err(told.join("; "))))
}

/// The peers of this node, as far as they matter to clients.
#[derive(Clone, Copy, Debug, Default)]
struct Here {
    total: usize,
    /// Of whose region no leader is heard.
    unheard: usize,
    /// Of whose region this node is all there is: nobody else has to do with them.
    alone: usize,
    behind: usize,
    /// Of those behind that were here at the start and whose leader is heard, so that they are about to catch up.
    catching_up: usize,
}

impl Here {
    fn look(joined: &Joined) -> Self {
        let mut here = Self::default();
        for peer in joined.peers.all() {
            here.total += 1;
            let index = |id: Option<crate::raft::LogId>| id.map_or(0, |id| id.index);
            let told = peer.look(|raft| {
                let lags = index(raft.last_applied) + LAG_MAX < index(raft.cluster_committed);
                let is_alone = raft.state == ServerState::Leader
                    && raft.membership_config.voter_ids().all(|voter| voter == peer.id);
                (lags, is_alone)
            });
            // One that ended this moment is in quarantine the next.
            let Some((lags, is_alone)) = told else {
                here.unheard += 1;
                continue;
            };
            let is_heard = peer.is_in_touch();
            here.unheard += usize::from(!is_heard);
            here.alone += usize::from(is_heard && is_alone);
            let is_behind = lags || !peer.view().is_initialized();
            here.behind += usize::from(is_behind);
            let is_awaited = is_behind && is_heard && joined.was_opened_with(peer.region, peer.id);
            here.catching_up += usize::from(is_awaited);
        }
        here
    }

    /// A node that was removed while it was away must not serve what it remembers. That it was not is known from
    /// the placement driver, or from any leader that counts it as one of its region, or any quorum with others that
    /// follows it.
    fn confirmed(&self, by_driver: bool) -> Result<String, String> {
        match (by_driver, self.unheard + self.alone < self.total) {
            (true, _) => Ok("known to the placement driver".to_owned()),
            (false, true) => Ok("known to a region's leader".to_owned()),
            (false, false) => {
                Err("neither the placement driver nor a leader has answered since the start"
                    .to_owned())
            }
        }
    }

    fn settled(&self, age: Duration, settle_max: Duration) -> Result<(), String> {
        match *self {
            Self { unheard, total, .. } if unheard > 0 && age < settle_max => {
                Err(format!("no leader was heard since the start in {unheard} of {total} regions"))
            }
            Self { catching_up, .. } if catching_up > 0 && age < CATCH_UP_MAX => {
                Err(format!("{catching_up} peers have not caught up since the start"))
            }
            _ => Ok(()),
        }
    }

    fn reach(&self, may_reach_others: impl FnOnce() -> bool) -> Result<String, String> {
        match self.total - self.unheard {
            0 if !may_reach_others() => {
                Err("neither a leader nor another node is heard".to_owned())
            }
            0 => Ok("forwards to other nodes".to_owned()),
            serves => Ok(format!("serves {serves} regions, forwards for others")),
        }
    }
}

/// Whether the cluster is as large as the node was told to expect, and its regions with it: `fewest` is the
/// number of voters of the region here that has the fewest.
///
/// A cluster that is born whole is so from its first moment, whoever is away: its regions have all their
/// voters, and what a majority acknowledges is on a majority. One that began smaller is waited for, so that
/// the first acknowledged write is on more than one disk.
///
/// What was whole once is not waited for again. So everybody counts who ever was: a row stays when its node
/// goes. And so a majority of the voters is enough: one that is lost may be removed before there is a node for
/// the next, and never more of them than leaves a majority. `was_whole`, which a process that begins
/// again takes for given, is for a replication factor that grows.
fn expected(
    table: &v1::NodeTable,
    expects: usize,
    fewest: Option<usize>,
    was_whole: bool,
) -> Result<String, String> {
    let known = table.nodes.len();
    if known < expects {
        return Err(format!("{known} of {expects} expected nodes have joined the cluster"));
    }
    // In service, or on its way.
    let counts = |record: &&v1::NodeRecord| match record.state() {
        v1::NodeState::Up => !record.forced,
        v1::NodeState::Joining | v1::NodeState::NodeLearner => !record.forced && !record.demoted,
        v1::NodeState::Draining | v1::NodeState::Removed | v1::NodeState::Unspecified => false,
    };
    let factor = usize::try_from(table.replication_factor).unwrap_or(1);
    let voters = factor.min(expects).min(table.nodes.iter().filter(counts).count());
    match fewest {
        Some(fewest) if fewest <= voters / 2 && !was_whole => Err(format!(
            "a region here has {fewest} of {voters} voters: it is about to get the others"
        )),
        _ => {
            let is_removed = |record: &&v1::NodeRecord| record.state() == v1::NodeState::Removed;
            let left = known - table.nodes.iter().filter(is_removed).count();
            Ok(format!("{left} nodes are of the cluster, {expects} were expected"))
        }
    }
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
    let missed = joined.peers.missed();
    let mut seen = Seen::default();
    joined.peers.all().iter().for_each(|peer| seen.look(peer, &missed));
    let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let regions = &metrics.regions;
    for (role, count) in [
        (PeerRole::Leader, seen.leads + seen.leads_alone),
        (PeerRole::Follower, seen.follows),
        (PeerRole::Candidate, seen.campaigns),
        (PeerRole::Learner, seen.learns),
        (PeerRole::Quarantined, joined.peers.quarantined().len()),
        (PeerRole::Contradicted, seen.contradicted),
    ] {
        regions.regions.get(role).set(gauge(count));
    }
    regions.leaders.set(gauge(seen.leads));
    regions.leaders_without_quorum.set(gauge(seen.leads_alone));
    regions.unheard.set(gauge(seen.unheard));
    regions.without_quorum.set(gauge(seen.without_quorum));
    regions.nodes_unheard.set(gauge(missed.len()));
    regions.peers_pending.set(gauge(seen.pending));
    let cut = joined.peers.environment().transport.cut();
    for lane in [Lane::Fast, Lane::Bulk, Lane::Forward] {
        let count = cut.iter().filter(|(_, of)| *of == lane).count();
        metrics.raft.lanes_cut.get(lane.into()).set(gauge(count));
    }
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
    contradicted: usize,
    unheard: usize,
    /// Leaders that no quorum answers, and regions without a leader of whose voters most are missed.
    without_quorum: usize,
    pending: usize,
    lag: u64,
}

impl Seen {
    fn look(&mut self, peer: &Peer, missed: &BTreeSet<NodeId>) {
        let is_heard = peer.is_in_touch();
        let index = |id: Option<crate::raft::LogId>| id.map_or(0, |id| id.index);
        let told = peer.look(|raft| {
            let lag = index(raft.cluster_committed).saturating_sub(index(raft.last_applied));
            let last = raft.last_log_index.unwrap_or(0);
            let followers = raft.replication.iter().flatten();
            let pending = followers.filter(|(_, at)| index(**at) + LAG_MAX < last).count();
            (raft.state, lag, pending)
        });
        let Some((state, lag, pending)) = told else { return };
        let leads = state == ServerState::Leader;
        self.lag = self.lag.max(lag);
        let role = match state {
            ServerState::Leader if is_heard => &mut self.leads,
            ServerState::Leader => &mut self.leads_alone,
            _ if peer.contradiction().is_some() => &mut self.contradicted,
            ServerState::Follower => &mut self.follows,
            ServerState::Candidate => &mut self.campaigns,
            ServerState::Learner | ServerState::Shutdown => &mut self.learns,
        };
        *role += 1;
        if leads {
            self.pending += pending;
        } else if !is_heard {
            self.unheard += 1;
        }
        self.without_quorum += usize::from(!is_heard && (leads || peer.most_are_missed(missed)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_with_a_fault_are_named_and_of_many_the_number() {
        let peers = |count: u64| -> Vec<_> {
            (1..=count).map(|id| (RegionId(id), PeerId(70 + id), "lost".to_owned())).collect()
        };
        let told = |count| named("contradicted", &peers(count)).map(|check| check.line());
        assert_eq!(told(0), None);
        let two = "[!] contradicted: peer 71 of region 1: lost; peer 72 of region 2: lost\n";
        assert_eq!(told(2).as_deref(), Some(two));
        assert!(told(20).is_some_and(|told| told.ends_with("; and 12 more\n")));
    }

    #[test]
    fn node_is_ready_that_serves_or_forwards_whatever_single_regions_are_like() {
        let here = |total, unheard, behind, catching_up| Here {
            total,
            unheard,
            behind,
            catching_up,
            ..Here::default()
        };
        let alone = |total, alone| Here { total, alone, ..Here::default() };
        let settle = settle_max(Duration::from_secs(6));
        let (young, old) = (Duration::from_secs(1), settle);
        type Row = (&'static str, Here, Duration, bool, bool, bool);
        let rows: [Row; 15] = [
            ("all is well", here(3, 0, 0, 0), young, true, true, true),
            ("one of three regions has no quorum", here(3, 1, 0, 0), old, true, true, true),
            ("that is the driver's, after a restart", here(3, 1, 0, 0), old, false, true, true),
            ("a region may yet elect a leader", here(3, 1, 0, 0), young, true, true, false),
            ("a peer catches up after the start", here(3, 0, 1, 1), old, true, true, false),
            ("for as long as it may", here(3, 0, 1, 1), CATCH_UP_MAX, true, true, true),
            ("a peer came after the start", here(3, 0, 1, 0), young, true, true, true),
            ("a peer is behind and hears nobody", here(3, 1, 1, 0), old, true, true, true),
            ("it holds nothing and is known", here(0, 0, 0, 0), young, true, true, true),
            ("it holds nothing and is not known", here(0, 0, 0, 0), old, false, true, false),
            ("nobody leads, others are there", here(3, 3, 0, 0), old, true, true, true),
            ("it is alone with what it had", here(3, 3, 0, 0), old, true, false, false),
            ("it is alone and serves", here(2, 0, 0, 0), young, true, false, true),
            ("regions of one copy are nobody else's", alone(2, 2), young, false, true, false),
            ("and one has a leader elsewhere", alone(3, 2), young, false, true, true),
        ];
        for (why, here, age, by_driver, others, want) in rows {
            let checks = [
                here.confirmed(by_driver).err(),
                here.settled(age, settle).err(),
                here.reach(|| others).err(),
            ];
            assert_eq!(checks.iter().all(Option::is_none), want, "{why}: {checks:?}");
        }
    }

    #[test]
    fn leaders_are_waited_for_as_long_as_elections_take() {
        let one = Here { total: 1, unheard: 1, ..Here::default() };
        let slow = settle_max(Duration::from_secs(60));
        assert!(
            one.settled(Duration::from_secs(179), slow).is_err(),
            "an election may be under way"
        );
        assert!(one.settled(Duration::from_secs(180), slow).is_ok());
        assert_eq!(settle_max(Duration::from_secs(1)), SETTLE_MIN);
    }

    #[test]
    fn expected_nodes_and_a_majority_of_voters_are_waited_for_once() {
        use v1::NodeState::{Draining, Joining, NodeLearner, Removed, Up};
        type Row = (&'static str, u32, &'static [v1::NodeState], Option<usize>, bool, bool);
        let rows: [Row; 12] = [
            ("born whole, whoever is away", 3, &[Up, Up, Up], Some(3), false, true),
            ("one of three so far", 3, &[Up], Some(1), false, false),
            (
                "all are known, and the regions have one voter",
                3,
                &[Up, Up, Up],
                Some(1),
                false,
                false,
            ),
            ("they grow", 3, &[Up, Up, Up], Some(2), false, true),
            ("they are not yet in service", 3, &[Up, NodeLearner, Joining], Some(1), false, false),
            (
                "a lost voter was removed before there is a node for another",
                3,
                &[Up, Up, Removed],
                Some(2),
                false,
                true,
            ),
            ("and there is one", 3, &[Up, Up, Removed, Up], Some(2), false, true),
            ("one drains", 3, &[Up, Up, Draining], Some(2), false, true),
            ("the factor was raised", 3, &[Up, Up, Up], Some(1), true, true),
            ("of one copy by choice", 1, &[Up, Up, Up], Some(1), false, true),
            ("nothing is here yet", 3, &[Up, Up, Up], None, false, true),
            ("two of five", 5, &[Up, Up, Up, Up, Up], Some(2), false, true),
        ];
        for (why, replication_factor, states, fewest, was_whole, want) in rows {
            let node = |(node_id, state): (u64, &v1::NodeState)| v1::NodeRecord {
                node_id,
                state: *state as i32,
                ..v1::NodeRecord::default()
            };
            let nodes = (1..).zip(states).map(node).collect();
            let table = v1::NodeTable { nodes, replication_factor, ..v1::NodeTable::default() };
            let got = expected(&table, 3, fewest, was_whole);
            assert_eq!(got.is_ok(), want, "{why}: {got:?}");
            let left = states.iter().filter(|state| **state != Removed).count();
            if let Ok(words) = got {
                assert!(
                    words.starts_with(&format!("{left} nodes are of the cluster")),
                    "{why}: {words}"
                );
            }
        }
        let table = v1::NodeTable { replication_factor: 3, ..v1::NodeTable::default() };
        let words = expected(&table, 3, None, true).expect_err("too few");
        assert_eq!(words, "0 of 3 expected nodes have joined the cluster");
    }
}
