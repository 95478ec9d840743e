//! From processes with empty disks to a cluster, which they make together.

use std::time::Duration;

use flotilla_proto::v1::PeerRole;

use super::{fleet::Fleet, session::Session, until};

/// Longest time for each of the steps below.
const BOUND: Duration = Duration::from_secs(30);
/// Voters of a region.
pub(super) const REPLICAS: usize = 3;

/// Waits until every process answers, and has become a node of the one cluster that they make together.
///
/// # Errors
/// When one does not.
pub(super) async fn wait_for_cluster(fleet: &mut Fleet) -> anyhow::Result<()> {
    let mut cluster = None;
    for index in 0..fleet.servers.len() {
        let session = fleet.sessions[index].clone();
        let what = format!("node {} to be of the cluster", index + 1);
        let server = &mut fleet.servers[index];
        let status = until(&what, BOUND, async || match server.ended() {
            Some(status) => Ok(Err(format!("it ended: {status}"))),
            None => match session.status().await? {
                status if status.joined => Ok(Ok(status)),
                status => Err(format!("{:?}", status.not_ready_reasons)),
            },
        })
        .await?;
        let status = status.map_err(|ended| anyhow::anyhow!("node {}: {ended}", index + 1))?;
        server.node_id = status.node_id;
        let cluster = cluster.get_or_insert_with(|| status.cluster_id.clone());
        anyhow::ensure!(*cluster == status.cluster_id, "{} is of another cluster", session.address);
    }
    Ok(())
}

/// Waits until every node sees every region with a leader and three voters, and answers how many
/// regions there are.
///
/// # Errors
/// When that takes too long; with what is missing.
pub(super) async fn wait_whole(sessions: &[Session]) -> anyhow::Result<usize> {
    until("three voters in every region", BOUND, async || {
        let mut count = 0;
        for session in sessions {
            count = whole_as_seen_by(session).await?;
        }
        Ok(count)
    })
    .await
}

async fn whole_as_seen_by(session: &Session) -> Result<usize, String> {
    let status = session.status().await?;
    let complaints = [&status.not_ready_reasons[..], &status.warnings[..]].concat();
    if !status.ready || !complaints.is_empty() {
        return Err(format!("{} is not whole: {complaints:?}", session.address));
    }
    let regions = session.regions().await?;
    for info in &regions {
        let region = info.region.as_ref().ok_or("a region without a descriptor")?;
        let voters = region.peers.iter().filter(|peer| peer.role == i32::from(PeerRole::Voter));
        let (voters, peers) = (voters.count(), region.peers.len());
        if voters != REPLICAS || peers != REPLICAS {
            let (id, address) = (region.region_id, &session.address);
            return Err(format!("{address}: region {id} has {voters} voters, {peers} peers"));
        }
        if info.leader.as_ref().is_none_or(|leader| leader.node_id == 0) {
            return Err(format!("{}: region {} has no leader", session.address, region.region_id));
        }
    }
    if regions.len() < 2 {
        Err("the regions are not known yet".to_owned())
    } else {
        Ok(regions.len())
    }
}
