//! `kvctl check`
//!
//! Two questions. Does the description of the cluster hold together: regions that tile the keys, each with the
//! peers it should have? And do the peers of each region hold the same data? The first is answered from
//! one listing, which is not taken at one instant: what looks wrong is listed again before it is
//! reported.

use std::{collections::BTreeSet, time::Duration};

use clap::Args;
use futures::{StreamExt as _, stream};
use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::{Instant, interval_at, sleep};

use flotilla_proto::{
    region::borders_of,
    replication::{SYSTEM_REGION, SYSTEM_VOTERS_MAX, voters_wanted},
};

use super::{
    Context,
    encoding::Encoding,
    exit::Failure,
    listing::{self, Listing, Stale, Told, Wanted},
    output::count,
    region_keys::show_bound,
    table::{Cell, Table, Tone},
};
use crate::{Client, v1};

/// A split that is being reported, or a move under way, settles within this.
const SECOND_LOOK_AFTER: Duration = Duration::from_secs(1);
const LOOKS_MAX: u32 = 3;
/// Bound: regions whose peers are compared at a time. Most of the time of a small one is the way there and back, of a
/// large one it is the disks of its nodes, which serve others too.
const COMPARED_AT_ONCE: usize = 8;
/// How often somebody who waits is told for what.
const TOLD_EVERY: Duration = Duration::from_secs(30);

/// Ends with 5 when something is wrong.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// Wait no longer than this for the peers of a region to sum up its data
    #[arg(long, value_parser = humantime::parse_duration, default_value = "1h")]
    wait_timeout: Duration,
    /// Only look at the listings; compare no data
    #[arg(long)]
    fast: bool,
    /// Only this region
    #[arg(long)]
    region: Option<u64>,
    #[command(flatten)]
    stale: Stale,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Severity {
    /// Safe now, but with less redundancy than asked for, or not known to be safe.
    Degraded,
    /// Keys can neither be written nor read now.
    Unavailable,
    /// The data or its description contradicts itself.
    Inconsistent,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    severity: Severity,
    #[serde(skip_serializing_if = "Option::is_none")]
    region_id: Option<u64>,
    message: String,
}

impl Finding {
    fn new(severity: Severity, region_id: Option<u64>, message: String) -> Self {
        Self { severity, region_id, message }
    }
}

#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    nodes: usize,
    regions: usize,
    regions_compared: usize,
    keys: u64,
    /// Nodes that told the listings by themselves; the placement driver did when there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    told_by_nodes: Vec<u64>,
    findings: Vec<Finding>,
}

impl Check {
    pub(super) async fn run(self, context: Context) -> Result<(), Failure> {
        let Context { client, encoding, mut out, .. } = context;
        let cluster = client.cluster();
        let (Listing { nodes, regions, told }, mut findings) = self.look(&client, encoding).await?;
        if let Some(told) = told.as_ref().filter(|told| !told.no_driver) {
            out.tell(&told.text());
        }
        let mut keys = 0;
        let mut regions_compared = 0;
        if !self.fast && told.is_none() {
            let progress = ProgressBar::new(regions.len() as u64);
            if let Ok(style) = ProgressStyle::with_template("comparing {pos}/{len} {wide_bar}") {
                progress.set_style(style);
            }
            let under_way = Mutex::new(BTreeSet::new());
            let comparing = |info: &v1::RegionInfo| {
                let region_id = info.region.as_ref().map_or(0, |region| region.region_id);
                let (cluster, wait, under_way) = (&cluster, self.wait_timeout, &under_way);
                async move {
                    under_way.lock().insert(region_id);
                    let compared = cluster.compare_peers(region_id, wait).await;
                    under_way.lock().remove(&region_id);
                    (region_id, compared)
                }
            };
            let mut compared =
                stream::iter(regions.iter().map(comparing)).buffered(COMPARED_AT_ONCE);
            let mut telling = interval_at(Instant::now() + TOLD_EVERY, TOLD_EVERY);
            loop {
                let next = tokio::select! {
                    next = compared.next() => next,
                    _ = telling.tick() => {
                        let line = waiting(&under_way.lock(), &regions);
                        progress.suspend(|| out.tell(&line));
                        continue;
                    }
                };
                let Some((region_id, compared)) = next else { break };
                match compared {
                    Ok(response) => {
                        regions_compared += 1;
                        // Those of the system are rows of its tables.
                        if region_id != SYSTEM_REGION {
                            keys += response.peers.iter().map(|peer| peer.keys).max().unwrap_or(0);
                        }
                        findings.extend(compare(region_id, &response));
                    }
                    Err(error) => {
                        let message = format!("its peers could not be compared: {error}");
                        findings.push(Finding::new(Severity::Degraded, Some(region_id), message));
                    }
                }
                progress.inc(1);
            }
            progress.finish_and_clear();
        }
        let report = Report {
            ok: findings.is_empty(),
            nodes: nodes.nodes.len(),
            regions: regions.len(),
            regions_compared,
            keys,
            told_by_nodes: told.map_or_else(Vec::new, |told| told.by_nodes),
            findings,
        };
        out.show(&report, || table(&report))?;
        match report.findings.len() {
            0 => Ok(()),
            count => Err(Failure::No(format!("{count} findings"))),
        }
    }

    /// The listings, and what is wrong with them also at a second look.
    async fn look(
        &self,
        client: &Client,
        encoding: Encoding,
    ) -> Result<(Listing, Vec<Finding>), Failure> {
        let all = v1::ListRegionsRequest { all: true, ..v1::ListRegionsRequest::default() };
        let wanted = Wanted { nodes: true, all_nodes: false, regions: Some(all) };
        let mut looks = 1;
        loop {
            let mut listing = listing::list(client, self.stale, &wanted).await?;
            let regions = &mut listing.regions;
            regions.sort_by(|a, b| start_key(a).cmp(start_key(b)));
            let mut findings = listing.told.as_ref().map_or_else(Vec::new, missing);
            // Of regions that nobody in reach has a peer of nothing can be known.
            let is_whole = listing.told.as_ref().is_none_or(|told| told.silent.is_empty());
            if self.region.is_none() && is_whole {
                findings.extend(check_tiling(encoding, regions));
            }
            if let Some(wanted) = self.region {
                regions.retain(|info| {
                    info.region.as_ref().is_some_and(|region| region.region_id == wanted)
                });
                if regions.is_empty() {
                    let why =
                        if is_whole { "not found" } else { "no node in reach has a peer of it" };
                    return Err(Failure::NotFound(format!("region {wanted}: {why}")));
                }
            }
            for info in regions.iter() {
                findings.extend(check_replicas(info, &listing.nodes));
            }
            if findings.is_empty() || looks == LOOKS_MAX {
                return Ok((listing, findings));
            }
            looks += 1;
            sleep(SECOND_LOOK_AFTER).await;
        }
    }
}

/// What is wrong with listings by the way they came to be.
fn missing(told: &Told) -> Vec<Finding> {
    match (told.no_driver, &told.silent[..]) {
        (true, _) => vec![Finding::new(Severity::Unavailable, None, told.text())],
        (false, silent) => silent
            .iter()
            .map(|node| Finding::new(Severity::Degraded, None, format!("no answer from {node}")))
            .collect(),
    }
}

fn start_key(info: &v1::RegionInfo) -> &[u8] {
    info.region.as_ref().map_or(&[], |region| &region.start_key)
}

/// Regions, sorted by their start, must cover every key exactly once.
fn check_tiling(encoding: Encoding, regions: &[v1::RegionInfo]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut report = |region_id, message| {
        findings.push(Finding::new(Severity::Inconsistent, region_id, message));
    };
    // Where the regions so far end; `None` when they go on to the last key.
    let mut covered: Option<&[u8]> = Some(&[]);
    let mut ids = BTreeSet::new();
    for info in regions {
        let Some(region) = &info.region else {
            report(None, "a region is listed without a description".into());
            continue;
        };
        let id = Some(region.region_id);
        if !ids.insert(region.region_id) {
            report(id, "listed twice".into());
        }
        if borders_of(region).is_empty() {
            report(id, "its range is empty or backwards".into());
            continue;
        }
        let start = show_bound(encoding, &region.start_key, false);
        match covered {
            Some(end) if *end < *region.start_key => {
                let end = show_bound(encoding, end, false);
                report(id, format!("no region has the keys from {end} to {start}"));
            }
            Some(end) if *end > *region.start_key => {
                report(id, format!("overlaps the region before it, from {start} on"));
            }
            Some(_) => {}
            None => report(id, format!("overlaps the last region, from {start} on")),
        }
        let end = (!region.end_key.is_empty()).then_some(&*region.end_key);
        // The region that reaches furthest counts, so that one overlap is reported once.
        covered = match (covered, end) {
            (Some(covered), Some(end)) => Some(covered.max(end)),
            _ => None,
        };
    }
    if let Some(end) = covered {
        let end = show_bound(encoding, end, false);
        report(None, format!("no region has the keys from {end} on"));
    }
    findings
}

/// A region must have as many voters as asked for, on different nodes that are in the table and alive,
/// and a leader among them.
fn check_replicas(info: &v1::RegionInfo, nodes: &v1::ListNodesResponse) -> Vec<Finding> {
    let Some(region) = &info.region else { return Vec::new() };
    let mut findings = Vec::new();
    let mut report = |severity, message| {
        findings.push(Finding::new(severity, Some(region.region_id), message));
    };
    let holders = nodes.nodes.iter().filter(|node| node.state() == v1::NodeState::Up).count();
    let is_system = region.region_id == SYSTEM_REGION;
    let asked_for = usize::try_from(nodes.replication_factor).unwrap_or(usize::MAX);
    let least = voters_wanted(region.region_id, nodes.replication_factor);
    // A node that is draining still counts, and the system region may have more.
    let most = if is_system { asked_for.max(SYSTEM_VOTERS_MAX) } else { asked_for };
    let voters = region.peers.iter().filter(|peer| peer.role() == v1::PeerRole::Voter).count();
    if voters < least && holders < least {
        let message = format!("has {voters} voters of {least}: {holders} nodes are in service");
        report(Severity::Degraded, message);
    } else if voters < least {
        report(Severity::Degraded, format!("has {voters} voters of {least}"));
    } else if voters > most {
        report(Severity::Degraded, format!("has {voters} voters, {most} are enough"));
    }
    let mut on_nodes = BTreeSet::new();
    let mut peer_ids = BTreeSet::new();
    for peer in &region.peers {
        if !on_nodes.insert(peer.node_id) {
            let message = format!("has two peers on node {}", peer.node_id);
            report(Severity::Inconsistent, message);
        }
        if !peer_ids.insert(peer.peer_id) {
            let message = format!("has peer {} twice, on node {} too", peer.peer_id, peer.node_id);
            report(Severity::Inconsistent, message);
        }
        match nodes.nodes.iter().find(|node| node.node_id == peer.node_id) {
            None => {
                let message = format!("has a peer on node {}, which is unknown", peer.node_id);
                report(Severity::Inconsistent, message);
            }
            Some(node) => {
                let how = match node.liveness() {
                    v1::Liveness::Down => "down",
                    v1::Liveness::Disconnected => "not heard of",
                    v1::Liveness::Suspect => "late to be heard of",
                    v1::Liveness::Alive | v1::Liveness::Unspecified => continue,
                };
                let message = format!("has a peer on node {}, which is {how}", peer.node_id);
                report(Severity::Degraded, message);
            }
        }
    }
    if info.health() == v1::RegionHealth::NoQuorum {
        let message = "has lost its quorum: most of its voters do not answer".to_owned();
        report(Severity::Unavailable, message);
    }
    match &info.leader {
        None if info.health() == v1::RegionHealth::NoQuorum => {}
        None => report(Severity::Unavailable, "has no leader".into()),
        Some(leader) if !peer_ids.contains(&leader.peer_id) => {
            let message = format!(
                "is led by peer {} on node {}, which it does not have",
                leader.peer_id, leader.node_id
            );
            report(Severity::Inconsistent, message);
        }
        Some(_) => {}
    }
    let place = |id: u64| match region.peers.iter().find(|peer| peer.peer_id == id) {
        Some(peer) => format!("peer {id} on node {}", peer.node_id),
        None => format!("peer {id}"),
    };
    for peer in &info.down_peers {
        report(Severity::Degraded, format!("{} does not answer its leader", place(*peer)));
    }
    for peer in &info.lost_peers {
        let message =
            format!("{} has ended or lost what it promised, and is to be replaced", place(*peer));
        report(Severity::Degraded, message);
    }
    for peer in &info.contradicted_peers {
        let message = format!(
            "{} has applied a committed write that its leader lacks: a majority has lost it. That node still has it: do \
             not remove it, read it there (`export --stale`)",
            place(*peer)
        );
        report(Severity::Inconsistent, message);
    }
    for refused in &info.refused_peers {
        let place = place(refused.peer_id);
        let message = format!("{place}: the node does not take it: {}", refused.reason);
        report(Severity::Degraded, message);
    }
    let refused = |peer: &&u64| info.refused_peers.iter().any(|of| of.peer_id == **peer);
    // One that is refused has nothing yet.
    for peer in info.pending_peers.iter().filter(|peer| !refused(peer)) {
        report(Severity::Degraded, format!("{} is behind", place(*peer)));
    }
    findings
}

/// What is waited for, and of the first region why, where the listing tells.
fn waiting(under_way: &BTreeSet<u64>, regions: &[v1::RegionInfo]) -> String {
    let Some(first) = under_way.first() else { return "still comparing".to_owned() };
    let others = match under_way.len() - 1 {
        0 => String::new(),
        others => format!(" and {}", count(others as u64, "other")),
    };
    let listed = regions.iter().filter_map(|info| Some((info, info.region.as_ref()?)));
    let found = listed.into_iter().find(|(_, region)| region.region_id == *first);
    let is_slow = |info: &v1::RegionInfo, id: u64| {
        info.down_peers.contains(&id)
            || info.pending_peers.contains(&id)
            || info.refused_peers.iter().any(|peer| peer.peer_id == id)
    };
    let slow: Vec<String> = found
        .into_iter()
        .flat_map(|(info, region)| {
            region.peers.iter().filter(move |peer| is_slow(info, peer.peer_id))
        })
        .map(|peer| peer.node_id.to_string())
        .collect();
    let why = match slow.is_empty() {
        true => String::new(),
        false => format!(", whose peers on nodes {} are down or behind", slow.join(", ")),
    };
    format!("still comparing region {first}{why}{others}; --wait-timeout ends it sooner")
}

/// Peers that answered must agree, at one applied index.
fn compare(region_id: u64, response: &v1::CheckRegionResponse) -> Vec<Finding> {
    let mut findings = Vec::new();
    let id = Some(region_id);
    let sum = |peer: &v1::PeerChecksum| (peer.applied_index, peer.checksum, peer.keys);
    let is_missing = |peer: &&v1::PeerChecksum| peer.pending || !peer.error.is_empty();
    let answered: Vec<_> = response.peers.iter().filter(|peer| !is_missing(peer)).collect();
    let sums: BTreeSet<_> = answered.iter().map(|peer| sum(peer)).collect();
    if sums.len() > 1 {
        let each: Vec<String> = answered
            .iter()
            .map(|peer| {
                format!(
                    "node {}: {:016x} over {} keys at index {}",
                    peer.node_id, peer.checksum, peer.keys, peer.applied_index
                )
            })
            .collect();
        let message = format!("its peers differ: {}", each.join("; "));
        findings.push(Finding::new(Severity::Inconsistent, id, message));
    } else if answered.is_empty() {
        let message = "none of its peers was compared".to_owned();
        findings.push(Finding::new(Severity::Degraded, id, message));
    }
    for peer in response.peers.iter().filter(is_missing) {
        let why = if peer.error.is_empty() { "it was not done in time" } else { &peer.error };
        let message = format!("the peer on node {} was not compared: {why}", peer.node_id);
        findings.push(Finding::new(Severity::Degraded, id, message));
    }
    if !response.consistent && findings.is_empty() {
        let message = "the leader found its peers inconsistent".to_owned();
        findings.push(Finding::new(Severity::Inconsistent, id, message));
    }
    findings
}

fn table(report: &Report) -> Table {
    if report.findings.is_empty() {
        let mut table = Table::fields();
        let compared = report.regions_compared > 0;
        let result = match (compared, report.told_by_nodes.is_empty()) {
            (true, _) => "consistent",
            (false, true) => "healthy; no data was compared",
            (false, false) => "healthy as far as nodes know by themselves; no data was compared",
        };
        // Green is what was compared: nothing that is merely not known to be wrong.
        let result = Cell::text(result);
        table.field("result", if compared { result.tone(Tone::Good) } else { result });
        table.field("nodes", Cell::number(report.nodes));
        table.field("regions", Cell::number(report.regions));
        table.field("regions compared", Cell::number(report.regions_compared));
        table.field("keys", Cell::number(report.keys));
        return table;
    }
    let mut table = Table::new(&["SEVERITY", "REGION", "FINDING"]);
    for finding in &report.findings {
        let (name, tone) = match finding.severity {
            Severity::Degraded => ("degraded", Tone::Warning),
            Severity::Unavailable => ("unavailable", Tone::Bad),
            Severity::Inconsistent => ("inconsistent", Tone::Bad),
        };
        let region = finding.region_id.map(|id| id.to_string()).unwrap_or_default();
        table.row(vec![
            Cell::text(name).tone(tone),
            Cell::number(region),
            Cell::text(&finding.message),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(peer_id: u64, node_id: u64) -> v1::Peer {
        v1::Peer { peer_id, node_id, role: v1::PeerRole::Voter.into() }
    }

    fn region(id: u64, start: &'static str, end: &'static str) -> v1::RegionInfo {
        v1::RegionInfo {
            region: Some(v1::Region {
                region_id: id,
                start_key: start.into(),
                end_key: end.into(),
                epoch: None,
                peers: vec![peer(10 * id + 1, 1), peer(10 * id + 2, 2), peer(10 * id + 3, 3)],
            }),
            leader: Some(v1::Leader { peer_id: 10 * id + 1, node_id: 1, ..v1::Leader::default() }),
            ..v1::RegionInfo::default()
        }
    }

    fn nodes(count: u64) -> v1::ListNodesResponse {
        let node = |node_id| v1::Node {
            node_id,
            state: v1::NodeState::Up.into(),
            liveness: v1::Liveness::Alive.into(),
            ..v1::Node::default()
        };
        v1::ListNodesResponse {
            nodes: (1..=count).map(node).collect(),
            replication_factor: 3,
            ..v1::ListNodesResponse::default()
        }
    }

    #[test]
    fn regions_must_cover_every_key_exactly_once() {
        for (why, regions, want) in [
            ("one region", vec![region(1, "", "")], vec![]),
            ("a tiling", vec![region(1, "", "b"), region(2, "b", "x"), region(3, "x", "")], vec![]),
            ("nothing", vec![], vec!["no region has the keys from start on"]),
            (
                "a gap",
                vec![region(1, "", "b"), region(2, "c", "")],
                vec!["no region has the keys from 0x62 to 0x63"],
            ),
            (
                "an overlap",
                vec![region(1, "", "c"), region(2, "b", "")],
                vec!["overlaps the region before it, from 0x62 on"],
            ),
            (
                "a region inside of another is one finding, not two",
                vec![region(1, "", "x"), region(2, "b", "c"), region(3, "x", "")],
                vec!["overlaps the region before it, from 0x62 on"],
            ),
            (
                "something after the end",
                vec![region(1, "", ""), region(2, "b", "")],
                vec!["overlaps the last region, from 0x62 on"],
            ),
            (
                "no start",
                vec![region(1, "b", "")],
                vec!["no region has the keys from start to 0x62"],
            ),
            ("no end", vec![region(1, "", "b")], vec!["no region has the keys from 0x62 on"]),
            (
                "backwards",
                vec![region(1, "", ""), region(2, "c", "b")],
                vec!["its range is empty or backwards"],
            ),
            ("twice", vec![region(1, "", "b"), region(1, "b", "")], vec!["listed twice"]),
        ] {
            let found = check_tiling(Encoding::Text, &regions);
            let messages: Vec<_> = found.iter().map(|finding| finding.message.as_str()).collect();
            assert_eq!(messages, want, "{why}");
        }
    }

    #[test]
    fn replicas_must_be_as_many_as_asked_for_and_on_different_nodes() {
        type Change = fn(&mut v1::RegionInfo, &mut v1::ListNodesResponse);
        let peers = |info: &mut v1::RegionInfo| info.region.as_mut().expect("set").peers.len();
        let changes: [(&str, Change, Option<Severity>); 17] = [
            ("healthy", |_, _| {}, None),
            (
                "fewer nodes than replicas",
                |info, nodes| {
                    nodes.nodes.truncate(1);
                    info.region.as_mut().expect("set").peers.truncate(1);
                },
                Some(Severity::Degraded),
            ),
            (
                "a lost quorum",
                |info, _| {
                    info.leader = None;
                    info.set_health(v1::RegionHealth::NoQuorum);
                },
                Some(Severity::Unavailable),
            ),
            (
                "a node that is not heard of",
                |_, nodes| {
                    nodes.nodes[1].liveness = v1::Liveness::Disconnected.into();
                },
                Some(Severity::Degraded),
            ),
            (
                "a voter too few",
                |info, _| {
                    info.region.as_mut().expect("set").peers.truncate(2);
                },
                Some(Severity::Degraded),
            ),
            (
                "two on one node",
                |info, _| {
                    info.region.as_mut().expect("set").peers[1].node_id = 1;
                },
                Some(Severity::Inconsistent),
            ),
            (
                "an unknown node",
                |info, _| {
                    info.region.as_mut().expect("set").peers[1].node_id = 99;
                },
                Some(Severity::Inconsistent),
            ),
            (
                "a dead node",
                |_, nodes| {
                    nodes.nodes[1].liveness = v1::Liveness::Down.into();
                },
                Some(Severity::Degraded),
            ),
            (
                "a voter too many",
                |info, nodes| {
                    nodes.nodes.push(v1::Node { node_id: 4, ..nodes.nodes[0].clone() });
                    info.region.as_mut().expect("set").peers.push(peer(24, 4));
                },
                Some(Severity::Degraded),
            ),
            (
                "five voters of the system region",
                |info, nodes| {
                    let region = info.region.as_mut().expect("set");
                    region.region_id = 1;
                    for node_id in [4, 5] {
                        nodes.nodes.push(v1::Node { node_id, ..nodes.nodes[0].clone() });
                        region.peers.push(peer(20 + node_id, node_id));
                    }
                },
                None,
            ),
            (
                "a node that is draining",
                |_, nodes| nodes.nodes[1].state = v1::NodeState::Draining.into(),
                None,
            ),
            ("no leader", |info, _| info.leader = None, Some(Severity::Unavailable)),
            (
                "a leader from elsewhere",
                |info, _| {
                    info.leader.as_mut().expect("set").peer_id = 7;
                },
                Some(Severity::Inconsistent),
            ),
            ("a lagging peer", |info, _| info.pending_peers = vec![22], Some(Severity::Degraded)),
            (
                "a peer whose node has no room",
                |info, _| {
                    let reason = "the disk is too full".to_owned();
                    info.refused_peers = vec![v1::RefusedPeer { peer_id: 22, node_id: 2, reason }];
                    info.pending_peers = vec![22];
                },
                Some(Severity::Degraded),
            ),
            ("a lost peer", |info, _| info.lost_peers = vec![22], Some(Severity::Degraded)),
            (
                "a peer that has what its leader lacks",
                |info, _| info.contradicted_peers = vec![22],
                Some(Severity::Inconsistent),
            ),
        ];
        for (why, change, want) in changes {
            let (mut info, mut nodes) = (region(2, "", ""), nodes(3));
            assert_eq!(peers(&mut info), 3);
            change(&mut info, &mut nodes);
            let found = check_replicas(&info, &nodes);
            for Finding { message, .. } in &found {
                let names_node = !message.contains("peer 2") || message.contains("node ");
                assert!(names_node, "a peer's number says nothing to people: {message}");
            }
            let worst = found.into_iter().map(|found| found.severity).max();
            assert_eq!(worst, want, "{why}");
        }
    }

    #[test]
    fn refusal_is_told_and_that_the_peer_has_nothing_yet_is_not() {
        let mut info = region(2, "", "");
        let reason = "the disk is too full".to_owned();
        info.refused_peers = vec![v1::RefusedPeer { peer_id: 22, node_id: 2, reason }];
        info.pending_peers = vec![22, 23];
        let found = check_replicas(&info, &nodes(3));
        let told: Vec<_> = found.iter().map(|found| &*found.message).collect();
        let refused = "peer 22 on node 2: the node does not take it: the disk is too full";
        assert_eq!(told, [refused, "peer 23 on node 3 is behind"]);
    }

    #[test]
    fn who_waits_is_told_for_which_region_and_which_nodes() {
        let mut stuck = region(2, "", "m");
        stuck.pending_peers = vec![22];
        let regions = [stuck, region(3, "m", "")];
        for (under_way, want) in [
            (&[][..], "still comparing"),
            (&[3], "still comparing region 3; --wait-timeout ends it sooner"),
            (
                &[2, 3],
                "still comparing region 2, whose peers on nodes 2 are down or behind and 1 other; \
                 --wait-timeout ends it sooner",
            ),
        ] {
            let under_way: BTreeSet<u64> = under_way.iter().copied().collect();
            assert_eq!(waiting(&under_way, &regions), want);
        }
    }

    #[test]
    fn node_that_gave_no_word_is_a_finding_and_one_that_did_is_none() {
        let told = |no_driver, silent: &[&str]| {
            let silent = silent.iter().map(ToString::to_string).collect();
            missing(&Told { no_driver, by_nodes: vec![1], silent })
        };
        let worst = |found: Vec<Finding>| found.into_iter().map(|one| one.severity).max();
        assert_eq!(worst(told(false, &[])), None, "all told");
        assert_eq!(worst(told(false, &["node 2"])), Some(Severity::Degraded));
        assert_eq!(worst(told(true, &[])), Some(Severity::Unavailable), "nobody drives");
    }

    #[test]
    fn peers_that_differ_are_inconsistent_whatever_the_leader_says() {
        let sum = |node_id, checksum| v1::PeerChecksum {
            node_id,
            checksum,
            applied_index: 9,
            keys: 2,
            ..v1::PeerChecksum::default()
        };
        let broken = v1::PeerChecksum { node_id: 3, error: "gone".into(), ..sum(3, 0) };
        for (why, consistent, peers, want) in [
            ("equal", true, vec![sum(1, 7), sum(2, 7), sum(3, 7)], None),
            ("different", true, vec![sum(1, 7), sum(2, 8)], Some(Severity::Inconsistent)),
            ("the leader says so", false, vec![sum(1, 7)], Some(Severity::Inconsistent)),
            ("one is missing", true, vec![sum(1, 7), broken.clone()], Some(Severity::Degraded)),
            ("nobody answered", true, vec![broken], Some(Severity::Degraded)),
            (
                "one is not done",
                false,
                vec![sum(1, 7), v1::PeerChecksum { pending: true, ..sum(2, 0) }],
                Some(Severity::Degraded),
            ),
        ] {
            let response = v1::CheckRegionResponse { consistent, peers, ..Default::default() };
            let found = compare(1, &response);
            assert_eq!(found.into_iter().map(|one| one.severity).max(), want, "{why}");
        }
    }

    #[test]
    fn green_is_only_what_was_compared() {
        for (why, regions_compared, told_by_nodes, is_green) in [
            ("every region was compared", 2, vec![], true),
            ("with --fast nothing is", 0, vec![], false),
            ("without a driver nothing is", 0, vec![1, 2], false),
        ] {
            let report = Report {
                ok: true,
                nodes: 3,
                regions: 2,
                regions_compared,
                keys: 7,
                told_by_nodes,
                findings: Vec::new(),
            };
            let told = table(&report).render(true);
            assert_eq!(told.contains("\x1b[32m"), is_green, "{why}: {told:?}");
        }
    }
}
