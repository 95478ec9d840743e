//! From processes with empty disks to a cluster, through the same calls that an operator makes.

use std::time::Duration;

use flotilla_proto::v1::{
    AddLearnerRequest, ChangeMembershipRequest, InitializeRequest, ListNodesRequest, PeerRole,
};
use tonic::Code;

use super::{
    fleet::Fleet,
    session::{Session, request},
    until,
};

/// Longest time for each of the steps below.
const BOUND: Duration = Duration::from_secs(30);
/// Voters of a region.
pub(super) const REPLICAS: usize = 3;

/// Waits until every process answers, joined to nothing.
///
/// # Errors
/// When one does not.
pub(super) async fn wait_for_processes(fleet: &mut Fleet) -> anyhow::Result<()> {
    for index in 0..fleet.servers.len() {
        let session = fleet.sessions[index].clone();
        let what = format!("node {} to answer", index + 1);
        let server = &mut fleet.servers[index];
        let status = until(&what, BOUND, async || match server.ended() {
            Some(status) => Ok(Err(format!("it ended: {status}"))),
            None => session.status().await.map(Ok),
        })
        .await?;
        let status = status.map_err(|ended| anyhow::anyhow!("node {}: {ended}", index + 1))?;
        anyhow::ensure!(!status.joined, "{} belongs to a cluster already", session.address);
    }
    Ok(())
}

/// Makes node 1 a cluster.
///
/// # Errors
/// When it refuses.
pub(super) async fn initialize(fleet: &mut Fleet) -> anyhow::Result<()> {
    let mut cluster = fleet.sessions[0].cluster.clone();
    let answer = cluster.initialize(request(InitializeRequest::default())).await?.into_inner();
    fleet.servers[0].node_id = answer.node_id;
    Ok(())
}

/// Adds all other nodes as learners, then promotes them.
///
/// Each change names the version of the node table that it was decided on; when that has moved
/// meanwhile, it is refused, and decided anew.
///
/// # Errors
/// When a node is not taken.
pub(super) async fn add_and_promote(fleet: &mut Fleet) -> anyhow::Result<()> {
    let first = fleet.sessions[0].clone();
    for index in 1..fleet.servers.len() {
        let address = fleet.servers[index].ports.client();
        let what = format!("node {} to be added", index + 1);
        let node_id = until(&what, BOUND, async || {
            let expected_version = Some(table_version(&first).await?);
            let add = AddLearnerRequest {
                address: address.clone(),
                labels: Default::default(),
                expected_version,
            };
            match first.cluster.clone().add_learner(request(add)).await {
                Ok(answer) => Ok(Ok(answer.into_inner().node_id)),
                Err(status) if mends(status.code()) => Err(first.blame(&status)),
                Err(status) => Ok(Err(status)),
            }
        })
        .await??;
        fleet.servers[index].node_id = node_id;
    }
    let promote: Vec<u64> = fleet.servers[1..].iter().map(|server| server.node_id).collect();
    until("the learners to be promoted", BOUND, async || {
        let expected_version = Some(table_version(&first).await?);
        let change = ChangeMembershipRequest {
            promote: promote.clone(),
            demote: vec![],
            expected_version,
            ..Default::default()
        };
        match first.cluster.clone().change_membership(request(change)).await {
            Ok(_) => Ok(Ok(())),
            Err(status) if mends(status.code()) => Err(first.blame(&status)),
            Err(status) => Ok(Err(status)),
        }
    })
    .await??;
    Ok(())
}

/// Whether the call may be made again: it is idempotent.
fn mends(code: Code) -> bool {
    matches!(code, Code::Aborted | Code::Unavailable | Code::DeadlineExceeded)
}

async fn table_version(session: &Session) -> Result<u64, String> {
    let nodes = session
        .cluster
        .clone()
        .list_nodes(request(ListNodesRequest { all: true, allow_local: false }))
        .await;
    nodes.map(|nodes| nodes.into_inner().version).map_err(|status| session.blame(&status))
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
    if !status.ready {
        return Err(format!("{} is not ready: {:?}", session.address, status.not_ready_reasons));
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
