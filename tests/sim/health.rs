//! Whether all is as it should be when nothing goes wrong.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::Arc,
};

use flotilla_proto::v1::{PeerRole, PeerStatus};
use flotilla_server::{ids::RegionId, region::Peer};

use crate::{
    cluster::{Cluster, Host},
    invariants::Disks as _,
};

/// Peers per region. No scenario has fewer nodes.
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

/// What is not yet well: every one of these hosts has a node of the cluster, there are so many regions, each with its leader
/// and its voters, and each of them has applied what the goal says. (That all of them come to the same is compared in the
/// end.)
pub(crate) fn unwell<'a>(
    hosts: impl IntoIterator<Item = &'a Host>,
    count: usize,
    goal: &Goal,
) -> Option<String> {
    settled(hosts, count, goal).err()
}

/// The peers of all regions, if all is well with them; else what is not.
fn settled<'a>(
    hosts: impl IntoIterator<Item = &'a Host>,
    count: usize,
    goal: &Goal,
) -> Result<Regions, String> {
    let hosts: Vec<&Host> = hosts.into_iter().collect();
    // Of the voters of before there may be two, and then both are needed.
    if let Some(region) = hosts.iter().find_map(|host| in_a_change(host)) {
        return Err(format!("the members of region {region} change"));
    }
    let regions = regions(hosts, count)?;
    match unwell_regions(&regions, goal) {
        Some(words) => Err(words),
        None => Ok(regions),
    }
}

fn unwell_regions(regions: &Regions, goal: &Goal) -> Option<String> {
    let mut words = String::new();
    for (region, peers) in regions {
        let leaders = peers.iter().filter(|peer| peer.role == "leader").count();
        let taking_part = peers.iter().all(|peer| ["leader", "follower"].contains(&&*peer.role));
        let even = goal.is_reached(*region, peers);
        let here: BTreeSet<u64> = peers.iter().map(|peer| peer.peer_id).collect();
        let described = peers.iter().all(|peer| {
            let members = peer.region.iter().flat_map(|region| &region.peers);
            let voters = members.filter(|member| member.role() == PeerRole::Voter);
            voters.map(|voter| voter.peer_id).collect::<BTreeSet<_>>() == here
        });
        if leaders != 1 || !taking_part || !even || !described || peers.len() < FACTOR {
            let _ = write!(words, "region {region}: {leaders} leaders, {} peers ", peers.len());
            for peer in peers {
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
    let calm = |peers: &Vec<PeerStatus>| {
        let first = &peers[0];
        peers.iter().all(|peer| {
            peer.term == first.term
                && peer.leader_peer_id == first.leader_peer_id
                && peer.last_index == first.last_index
                && peer.applied_index == peer.last_index
                && peer.committed_index == peer.last_index
        })
    };
    let settled = settled(joined(cluster), cluster.regions, &Goal::default());
    settled.is_ok_and(|regions| regions.values().all(calm))
}

/// Whether a host may lose what it applied, and everything that was promised is kept: its log has the rest, and the others
/// have applied all that its log was cut of.
pub(crate) fn has_spare_data(cluster: &Cluster, host: usize) -> bool {
    let Some(own) = peers(&cluster.hosts[host]) else { return false };
    let settled = settled(joined(cluster), cluster.regions, &Goal::default());
    let Ok(regions) = settled else { return false };
    let has = |own: &PeerStatus| {
        let others = regions.get(&region_of(own)).into_iter().flatten();
        others.filter(|peer| peer.applied_index >= own.purged_index).count() == FACTOR
    };
    own.iter().all(has) && cluster.set_aside().is_none()
}

/// Whether all regions are well, up to the goal, and nobody is set aside any more.
pub(crate) fn is_made_up_for(cluster: &Cluster, goal: &Goal) -> bool {
    unwell(joined(cluster), cluster.regions, goal).is_none() && cluster.set_aside().is_none()
}

/// Hosts whose nodes are up and of the cluster.
fn joined(cluster: &Cluster) -> impl Iterator<Item = &Host> {
    cluster.hosts.iter().filter(|host| host.joined().is_some())
}

/// The peers of each region.
type Regions = BTreeMap<u64, Vec<PeerStatus>>;

/// All of these hosts, of which there are so many.
fn regions<'a>(hosts: impl IntoIterator<Item = &'a Host>, count: usize) -> Result<Regions, String> {
    let mut regions = Regions::new();
    for host in hosts {
        let Some(peers) = peers(host) else {
            let is_up = if host.node().is_some() { "of no cluster" } else { "not up" };
            return Err(format!("{} is {is_up}", host.name()));
        };
        for peer in peers {
            regions.entry(region_of(&peer)).or_default().push(peer);
        }
    }
    if regions.len() != count {
        return Err(format!("there are {} regions of {count}", regions.len()));
    }
    Ok(regions)
}

/// The peers of a host, if its node is up and of a cluster.
fn peers(host: &Host) -> Option<Vec<PeerStatus>> {
    Some(host.joined()?.peers.all().iter().map(|peer| peer.status()).collect())
}

/// A region whose members change, as far as this host has heard: who its voters are to be is not told by its peers.
fn in_a_change(host: &Host) -> Option<RegionId> {
    let changes = |peer: &&Arc<Peer>| {
        let is_joint =
            peer.look(|told| told.membership_config.membership().get_joint_config().len() > 1);
        is_joint == Some(true)
    };
    host.joined()?.peers.all().iter().find(changes).map(|peer| peer.region)
}

fn region_of(peer: &PeerStatus) -> u64 {
    peer.region.as_ref().map_or(0, |region| region.region_id)
}
