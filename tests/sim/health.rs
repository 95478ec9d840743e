//! Whether all is as it should be when nothing goes wrong.

use std::{collections::BTreeMap, fmt::Write as _};

use flotilla_proto::v1::{PeerRole, PeerStatus};

use crate::cluster::{Cluster, Host};

/// Peers per region, where there are as many nodes.
const FACTOR: usize = 3;

/// Up to which index somebody has applied each region.
#[derive(Debug, Default)]
pub(crate) struct Goal(BTreeMap<u64, u64>);

impl Goal {
    /// What is applied now.
    pub(crate) fn of(cluster: &Cluster) -> Self {
        let mut applied = BTreeMap::new();
        for peer in cluster.hosts.iter().filter_map(peers).flatten() {
            let of_region: &mut u64 = applied.entry(region_of(&peer)).or_default();
            *of_region = peer.applied_index.max(*of_region);
        }
        Self(applied)
    }

    fn is_reached(&self, region: u64, peers: &[PeerStatus]) -> bool {
        let goal = self.0.get(&region).copied().unwrap_or_default();
        peers.iter().all(|peer| peer.applied_index >= goal)
    }
}

/// What is not yet well: every host has a node of the cluster, every region its leader and its voters, and each of them
/// has applied what the goal says. (That all of them come to the same is compared in the end.)
pub(crate) fn unwell(cluster: &Cluster, goal: &Goal) -> Option<String> {
    unwell_of(&cluster.hosts.iter().collect::<Vec<_>>(), goal)
}

/// The same when the cluster is to be of these hosts alone.
pub(crate) fn unwell_of(hosts: &[&Host], goal: &Goal) -> Option<String> {
    let regions = match regions(hosts) {
        Ok(regions) => regions,
        Err(words) => return Some(words),
    };
    let mut words = String::new();
    for (region, peers) in regions {
        let leaders = peers.iter().filter(|peer| peer.role == "leader").count();
        let taking_part = peers.iter().all(|peer| ["leader", "follower"].contains(&&*peer.role));
        let even = goal.is_reached(region, &peers);
        let described = peers.iter().all(|peer| {
            let voters = peer.region.iter().flat_map(|region| &region.peers);
            voters.filter(|peer| peer.role() == PeerRole::Voter).count() == peers.len()
        });
        let wanted = FACTOR.min(hosts.len());
        if leaders != 1 || !taking_part || !even || !described || peers.len() < wanted {
            let _ = write!(words, "region {region}: {leaders} leaders, {} peers ", peers.len());
            for peer in &peers {
                let voters = peer.region.as_ref().map_or(0, |region| region.peers.len());
                let _ = write!(
                    words,
                    "[{} {} term {} applied {} of {}, knows {voters} peers {}] ",
                    peer.peer_id,
                    peer.role,
                    peer.term,
                    peer.applied_index,
                    peer.last_index,
                    peer.reason
                );
            }
        }
    }
    (!words.is_empty()).then_some(words)
}

/// Whether a disk may be lost now, and everything that was promised is kept by the others: every region has its voters,
/// nothing is under way, and nobody has voted for anybody who does not lead.
pub(crate) fn at_rest(cluster: &Cluster) -> bool {
    let joined = |host: &&Host| host.node().is_some_and(|node| node.joined().is_some());
    let joined: Vec<&Host> = cluster.hosts.iter().filter(joined).collect();
    if unwell_of(&joined, &Goal::default()).is_some() {
        return false;
    }
    let Ok(regions) = regions(&joined) else { return false };
    regions.values().all(|peers| {
        let first = &peers[0];
        // Also while a host is down, or regions are to have fewer.
        let enough = peers.len() >= FACTOR;
        enough
            && peers.iter().all(|peer| {
                peer.term == first.term
                    && peer.leader_peer_id == first.leader_peer_id
                    && peer.last_index == first.last_index
                    && peer.applied_index == peer.last_index
                    && peer.committed_index == peer.last_index
            })
    })
}

/// The peers of each region.
fn regions(hosts: &[&Host]) -> Result<BTreeMap<u64, Vec<PeerStatus>>, String> {
    let mut regions: BTreeMap<u64, Vec<PeerStatus>> = BTreeMap::new();
    for host in hosts {
        let Some(peers) = peers(host) else {
            let is_up = if host.node().is_some() { "of no cluster" } else { "not up" };
            return Err(format!("{} is {is_up}", host.name()));
        };
        for peer in peers {
            regions.entry(region_of(&peer)).or_default().push(peer);
        }
    }
    if regions.len() < 2 {
        return Err("there are no regions".to_owned());
    }
    Ok(regions)
}

/// The peers of a host, if its node is up and of a cluster.
fn peers(host: &Host) -> Option<Vec<PeerStatus>> {
    let node = host.node()?;
    Some(node.joined()?.peers.all().iter().map(|peer| peer.status()).collect())
}

fn region_of(peer: &PeerStatus) -> u64 {
    peer.region.as_ref().map_or(0, |region| region.region_id)
}
