//! Listings of nodes and regions, and who told them.
//!
//! The placement driver knows all, and is what an outage takes first. Then, or when it is not to be asked
//! (`--stale`), every node that can be reached is asked what it knows by itself, and that is put together: the newest
//! node table with what each node says of itself, and of each region what the peer says that can know most. It
//! is of no single moment, and of regions whose peers are all out of reach it has nothing; so a listing says whom
//! it is from, and who is missing.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use clap::Args;
use futures::StreamExt as _;

use super::{exit::Failure, output::Output};
use crate::{Client, v1};

/// Bound: wait for a node, which answers this by itself at once or not at all.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Bound: nodes that are asked at once.
const ASKED_MAX: usize = 64;
/// Bound: nodes that are named in a line; of more, the number.
const NAMED_MAX: usize = 8;

#[derive(Clone, Copy, Debug, Default, Args)]
pub(super) struct Stale {
    /// Put together what nodes know by themselves, without the placement driver; so it is done, too, when no
    /// driver answers
    #[arg(long)]
    pub(super) stale: bool,
}

/// What to list.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    pub(super) nodes: bool,
    /// With removed nodes.
    pub(super) all_nodes: bool,
    pub(super) regions: Option<v1::ListRegionsRequest>,
}

/// What was listed; what was not wanted may be empty.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) nodes: v1::ListNodesResponse,
    pub(super) regions: Vec<v1::RegionInfo>,
    /// `None`: the placement driver told it.
    pub(super) told: Option<Told>,
}

/// Whom a listing is from that is not the placement driver's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// No driver answered; else none was asked.
    pub(super) no_driver: bool,
    pub(super) by_nodes: Vec<u64>,
    /// Nodes that should have told, and did not: what they are called.
    pub(super) silent: Vec<String>,
}

impl Told {
    /// What it means.
    pub(super) fn text(&self) -> String {
        let by: Vec<String> = self.by_nodes.iter().map(ToString::to_string).collect();
        let who = match by.len() {
            1 => format!("node {} knows by itself, of its own regions only", named(&by)),
            _ => format!("nodes {} know by themselves, of their own regions only", named(&by)),
        };
        let why = match self.no_driver {
            true => "no placement driver answers (the system region has no leader that serves): ",
            false => "",
        };
        let silent = match self.silent.len() {
            0 => String::new(),
            _ => format!("; no answer from {}", named(&self.silent)),
        };
        format!("{why}this is what {who}{silent}")
    }
}

/// A list for people.
fn named(names: &[String]) -> String {
    match names.split_at_checked(NAMED_MAX) {
        Some((first, more)) if !more.is_empty() => {
            format!("{} and {} more", first.join(", "), more.len())
        }
        _ => names.join(", "),
    }
}

impl Listing {
    /// Says whom it is from, unless that is the driver. To standard error: what is printed stays what it is.
    pub(super) fn note(&self, out: &Output) {
        if let Some(told) = &self.told {
            out.tell(&told.text());
        }
    }

    /// For programs; empty when the driver told it.
    pub(super) fn told_by_nodes(&self) -> Vec<u64> {
        self.told.as_ref().map_or_else(Vec::new, |told| told.by_nodes.clone())
    }
}

/// Lists what is wanted: as the placement driver has it, or without it.
pub(super) async fn list(
    client: &Client,
    stale: Stale,
    wanted: &Wanted,
) -> Result<Listing, Failure> {
    if stale.stale {
        return survey(client, wanted, false).await;
    }
    let cluster = client.cluster();
    let mut listing = Listing::default();
    if wanted.nodes {
        let request = v1::ListNodesRequest {
            all: wanted.all_nodes,
            allow_local: true,
            ..v1::ListNodesRequest::default()
        };
        listing.nodes = cluster.list_nodes(request).await?;
        if listing.nodes.told_by_node != 0 {
            return survey(client, wanted, true).await;
        }
    }
    if let Some(request) = &wanted.regions {
        let request = v1::ListRegionsRequest { allow_local: true, ..request.clone() };
        let listed = cluster.list_regions(request).await?;
        if listed.told_by_node != 0 {
            return survey(client, wanted, true).await;
        }
        listing.regions = listed.regions;
    }
    Ok(listing)
}

/// What one node knows by itself.
struct Knowledge {
    nodes: v1::ListNodesResponse,
    regions: Vec<v1::RegionInfo>,
}

/// Asks the endpoints, and then whom their table names beside them.
async fn survey(client: &Client, wanted: &Wanted, no_driver: bool) -> Result<Listing, Failure> {
    let client = client.with_timeout(client.settings.timeout.min(TIMEOUT))?;
    let endpoints = client.endpoints();
    let mut heard = BTreeMap::new();
    let mut silent = Vec::new();
    let mut refused = None;
    let mut asked: BTreeSet<String> = endpoints.iter().cloned().collect();
    for (address, answer) in ask(&client, endpoints, wanted).await {
        match answer {
            Ok(known) => {
                heard.insert(known.nodes.told_by_node, known);
            }
            Err(error) => {
                silent.push((None, address));
                refused.get_or_insert(error);
            }
        }
    }
    let Some(table) = newest(&heard) else {
        return Err(refused.unwrap_or_else(|| Failure::Failed("no endpoint answers".into())));
    };
    let others: BTreeMap<String, u64> = table
        .nodes
        .iter()
        .filter(|node| node.state() != v1::NodeState::Removed)
        .filter(|node| !heard.contains_key(&node.node_id) && !node.client_address.is_empty())
        .map(|node| (node.client_address.clone(), node.node_id))
        .collect();
    let not_asked = others.keys().filter(|address| asked.insert((*address).clone()));
    let not_asked = not_asked.cloned().collect();
    for (_, answer) in ask(&client, not_asked, wanted).await {
        if let Ok(known) = answer {
            heard.insert(known.nodes.told_by_node, known);
        }
    }
    for (address, node_id) in others {
        if !heard.contains_key(&node_id) {
            silent.retain(|(_, named)| *named != address);
            silent.push((Some(node_id), address));
        }
    }
    silent.sort();
    let silent = silent.into_iter().map(|(node, address)| match node {
        Some(node) => format!("node {node} at {address}"),
        None => address,
    });
    let told =
        Told { no_driver, by_nodes: heard.keys().copied().collect(), silent: silent.collect() };
    let nodes = nodes_of(&heard);
    let limit = wanted.regions.as_ref().map_or(0, |request| request.limit as usize);
    let mut regions = regions_of(heard);
    regions.truncate(if limit == 0 { usize::MAX } else { limit });
    Ok(Listing { nodes, regions, told: Some(told) })
}

async fn ask(
    client: &Client,
    addresses: Vec<String>,
    wanted: &Wanted,
) -> Vec<(String, Result<Knowledge, Failure>)> {
    let asking = addresses.into_iter().map(async |address| {
        let answer = knowledge(client, &address, wanted).await;
        (address, answer)
    });
    futures::stream::iter(asking).buffer_unordered(ASKED_MAX).collect().await
}

async fn knowledge(client: &Client, address: &str, wanted: &Wanted) -> Result<Knowledge, Failure> {
    let cluster = client.cluster();
    let request = v1::ListNodesRequest {
        all: wanted.all_nodes,
        only_local: true,
        ..v1::ListNodesRequest::default()
    };
    let nodes = cluster.list_nodes_of(address, request).await?;
    if nodes.told_by_node == 0 {
        // It knows no such question, and has asked the driver.
        return Err(Failure::Failed(format!("{address} has an older version")));
    }
    let regions = match &wanted.regions {
        Some(request) => {
            let request = v1::ListRegionsRequest { only_local: true, ..request.clone() };
            cluster.list_regions_of(address, request).await?.regions
        }
        None => Vec::new(),
    };
    Ok(Knowledge { nodes, regions })
}

/// The newest node table of all that were told.
fn newest(heard: &BTreeMap<u64, Knowledge>) -> Option<&v1::ListNodesResponse> {
    heard.values().map(|known| &known.nodes).max_by_key(|nodes| nodes.version)
}

/// The newest table, with what each node says of itself.
fn nodes_of(heard: &BTreeMap<u64, Knowledge>) -> v1::ListNodesResponse {
    let mut table = newest(heard).cloned().unwrap_or_default();
    for row in &mut table.nodes {
        let own = heard
            .get(&row.node_id)
            .and_then(|known| known.nodes.nodes.iter().find(|node| node.node_id == row.node_id));
        // Of others a node tells no more than the table has.
        if let Some(own) = own {
            *row = v1::Node {
                node_id: row.node_id,
                client_address: std::mem::take(&mut row.client_address),
                peer_address: std::mem::take(&mut row.peer_address),
                http_address: std::mem::take(&mut row.http_address),
                labels: std::mem::take(&mut row.labels),
                version: std::mem::take(&mut row.version),
                state: row.state,
                forced: row.forced,
                demoted: row.demoted,
                liveness: own.liveness,
                leaders: own.leaders,
                peers: own.peers,
                leaders_evicted: own.leaders_evicted,
                disk_available_bytes: own.disk_available_bytes,
                disk_used_bytes: own.disk_used_bytes,
                data_bytes: own.data_bytes,
                disk_level: own.disk_level,
                waits_for: own.waits_for.clone(),
            };
        }
    }
    table
}

/// Each region once, in the order of their keys.
fn regions_of(heard: BTreeMap<u64, Knowledge>) -> Vec<v1::RegionInfo> {
    let mut contradicted: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    let mut best: BTreeMap<u64, v1::RegionInfo> = BTreeMap::new();
    for info in heard.into_values().flat_map(|known| known.regions) {
        let Some(region) = &info.region else { continue };
        // That one it says of itself, and of others nobody can.
        contradicted.entry(region.region_id).or_default().extend(&info.contradicted_peers);
        match best.get(&region.region_id) {
            Some(known) if weight(known) >= weight(&info) => {}
            _ => {
                best.insert(region.region_id, info);
            }
        }
    }
    for (region, info) in &mut best {
        let all = contradicted.remove(region).unwrap_or_default();
        info.contradicted_peers = all.into_iter().collect();
    }
    let mut regions: Vec<_> = best.into_values().collect();
    let start_key = |info: &v1::RegionInfo| info.region.clone().unwrap_or_default().start_key;
    regions.sort_by_key(start_key);
    regions
}

/// How much a peer can know of its region: the newest range and membership first; then one that leads and is
/// followed, one that hears a leader, the latest term, one that leads in vain.
fn weight(info: &v1::RegionInfo) -> impl Ord + use<> {
    let epoch = info.region.as_ref().and_then(|region| region.epoch).unwrap_or_default();
    let has_leader = info.leader.is_some();
    // Only a leader can say these.
    let leads =
        !matches!(info.health(), v1::RegionHealth::Unspecified | v1::RegionHealth::NoLeader);
    (epoch.version, epoch.conf_ver, leads && has_leader, has_leader, info.term, leads)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(conf_ver: u64, term: u64, health: v1::RegionHealth, led: bool) -> v1::RegionInfo {
        let epoch = Some(v1::RegionEpoch { conf_ver, version: 1 });
        v1::RegionInfo {
            region: Some(v1::Region { region_id: 2, epoch, ..v1::Region::default() }),
            leader: led.then(v1::Leader::default),
            term,
            health: health.into(),
            ..v1::RegionInfo::default()
        }
    }

    #[test]
    fn peer_that_can_know_most_of_a_region_is_believed() {
        use v1::RegionHealth::{Healthy, NoLeader, NoQuorum, Unspecified};
        for (why, less, more) in [
            ("a newer membership", info(1, 9, Healthy, true), info(2, 1, NoLeader, false)),
            ("who leads and is followed", info(1, 9, Unspecified, true), info(1, 8, Healthy, true)),
            ("who hears a leader", info(1, 9, NoLeader, false), info(1, 8, Unspecified, true)),
            ("a later term", info(1, 8, NoQuorum, false), info(1, 9, NoLeader, false)),
            ("who leads in vain", info(1, 9, NoLeader, false), info(1, 9, NoQuorum, false)),
        ] {
            for order in [[&less, &more], [&more, &less]] {
                let heard = (1..).zip(order).map(|(node, info)| {
                    let nodes = v1::ListNodesResponse::default();
                    (node, Knowledge { nodes, regions: vec![info.clone()] })
                });
                assert_eq!(regions_of(heard.collect()), std::slice::from_ref(&more), "{why}");
            }
        }
    }

    #[test]
    fn peer_that_is_contradicted_is_named_whoever_is_believed() {
        let mut own = info(1, 8, v1::RegionHealth::NoLeader, false);
        own.contradicted_peers = vec![23];
        let leads = info(1, 9, v1::RegionHealth::UnderReplicated, true);
        let heard = (1..).zip([own, leads]).map(|(node, info)| {
            let nodes = v1::ListNodesResponse::default();
            (node, Knowledge { nodes, regions: vec![info] })
        });
        let told = regions_of(heard.collect());
        let told: Vec<_> = told.iter().map(|info| (info.term, &info.contradicted_peers)).collect();
        assert_eq!(told, [(9, &vec![23])]);
    }

    #[test]
    fn listing_says_whom_it_is_from_and_who_is_missing() {
        let silent = |count: u64| (1..=count).map(|node| format!("node {node} at a:1")).collect();
        for (why, told, want) in [
            (
                "a driver was not asked",
                Told { no_driver: false, by_nodes: vec![1, 2], silent: Vec::new() },
                "this is what nodes 1, 2 know by themselves, of their own regions only",
            ),
            (
                "none answers",
                Told { no_driver: true, by_nodes: vec![3], silent: silent(2) },
                "no placement driver answers (the system region has no leader that serves): this is what node \
                 3 knows by itself, of its own regions only; no answer from node 1 at a:1, node 2 at a:1",
            ),
        ] {
            assert_eq!(told.text(), want, "{why}");
        }
        let many = Told { no_driver: false, by_nodes: vec![99], silent: silent(20) };
        assert!(many.text().ends_with("node 8 at a:1 and 12 more"), "{}", many.text());
    }
}
