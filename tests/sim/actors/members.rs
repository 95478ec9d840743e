//! Whoever adds, promotes, demotes and removes nodes, as an operator or a person would, in any order and half of it at
//! once. What it is refused it tries again or leaves. In the end it puts all nodes into service.

use std::time::Duration;

use flotilla_proto::v1::{self, Liveness, NodeState};
use flotilla_tests::harness::Session;
use rand::{RngExt as _, rngs::StdRng, seq::IteratorRandom as _};
use tonic::Status;

use crate::{
    marks,
    stage::{self, Phase, Stage},
};

const NAME: &str = "members";
const PATIENCE: Duration = Duration::from_secs(2);
const FACTOR: u32 = 3;

pub(super) async fn act(stage: Stage) -> turmoil::Result {
    stage.acts(NAME);
    stage.until(Phase::Faults).await;
    let mut random = stage.random(NAME);
    while stage.phase() == Phase::Faults {
        let rest = random.random_range(Duration::from_millis(20)..stage.sizes.members_pace);
        tokio::time::sleep(rest).await;
        let session = stage.any_session(&mut random).patient(PATIENCE);
        // What is refused, or not heard of, is no fault of anybody.
        let _ = change(&stage, &session, &mut random).await;
    }
    loop {
        let session = stage.any_session(&mut random).patient(PATIENCE);
        if matches!(put_back(&stage, &session).await, Ok(true)) {
            stage.has_put_back(NAME);
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Some change of some node.
async fn change(stage: &Stage, session: &Session, random: &mut StdRng) -> Result<(), Status> {
    let table = session.nodes().await?;
    let is = |state: NodeState| move |node: &&v1::Node| node.state() == state;
    let mut any =
        |state| table.nodes.iter().filter(is(state)).choose(random).map(|node| node.node_id);
    let (up, learner, draining) =
        (any(NodeState::Up), any(NodeState::NodeLearner), any(NodeState::Draining));
    match random.random_range(0..12) {
        0..3 => {
            let unknown = stage.addresses().into_iter().filter(|address| !knows(&table, address));
            let Some(address) = unknown.choose(random) else { return Ok(()) };
            add(session, address).await?;
            stage.marks.hit(marks::NODE_ADDED);
        }
        3..6 => {
            let Some(promote) = learner else { return Ok(()) };
            membership(session, &[promote], &[], None).await?;
        }
        6..8 => {
            let Some(node) = up else { return Ok(()) };
            remove(session, node, false).await?;
            stage.marks.hit(marks::NODE_TOLD_TO_GO);
        }
        11 if stage.sizes.factor_changes => {
            let factor = if random.random_bool(0.5) { 1 } else { FACTOR };
            membership(session, &[], &[], Some(factor)).await?;
            stage.marks.hit_if(marks::ONE_VOTER, factor == 1);
        }
        8 | 11 => {
            let silent = |node: &&v1::Node| {
                node.state() != NodeState::Removed && node.liveness() != Liveness::Alive
            };
            let Some(node) = table.nodes.iter().filter(silent).choose(random) else {
                return Ok(());
            };
            remove(session, node.node_id, true).await?;
            stage.marks.hit(marks::NODE_GIVEN_UP);
        }
        9 => {
            let Some(node) = draining else { return Ok(()) };
            cancel(session, node).await?;
            stage.marks.hit(marks::NODE_MAY_STAY);
        }
        _ => {
            let Some(demote) = up else { return Ok(()) };
            membership(session, &[], &[demote], None).await?;
            stage.marks.hit(marks::NODE_DEMOTED);
        }
    }
    Ok(())
}

/// Whether every host is in service, after having done what can be done for it now.
async fn put_back(stage: &Stage, session: &Session) -> Result<bool, Status> {
    let table = session.nodes().await?;
    let living = |node: &&v1::Node| node.state() != NodeState::Removed;
    let (mut all_in_service, mut here) = (true, Vec::new());
    for address in stage.addresses() {
        let Ok(status) = stage::session(&address).patient(PATIENCE).status().await else {
            all_in_service = false;
            continue;
        };
        here.push(status.node_id);
        let of_it = |node: &&v1::Node| node.node_id == status.node_id;
        let node = table.nodes.iter().filter(living).find(of_it);
        all_in_service &= node.is_some_and(|node| node.state() == NodeState::Up);
        let done = match node {
            // Its disk was emptied: by its address it takes the place of whom it was.
            None => add(session, address.clone()).await,
            Some(node) if node.state() == NodeState::Draining => {
                cancel(session, node.node_id).await
            }
            Some(node) if node.state() == NodeState::NodeLearner => {
                membership(session, &[node.node_id], &[], None).await
            }
            Some(_) => Ok(()),
        };
        if let Err(status) = done {
            tracing::debug!("{address} is not back in service: {status}");
        }
    }
    if table.replication_factor != FACTOR {
        membership(session, &[], &[], Some(FACTOR)).await?;
        return Ok(false);
    }
    // Whoever lost its disk, and is another node by now.
    let gone = table.nodes.iter().filter(living).find(|node| !here.contains(&node.node_id));
    if let (true, Some(node)) = (all_in_service, gone) {
        if let Err(status) = remove(session, node.node_id, true).await {
            tracing::debug!("node {} cannot be given up: {status}", node.node_id);
        }
        return Ok(false);
    }
    Ok(all_in_service)
}

fn knows(table: &v1::ListNodesResponse, address: &str) -> bool {
    table
        .nodes
        .iter()
        .any(|node| node.client_address == address && node.state() != NodeState::Removed)
}

async fn add(session: &Session, address: String) -> Result<(), Status> {
    let request = v1::AddLearnerRequest { address, ..Default::default() };
    session.cluster.clone().add_learner(session.request(request)).await.map(drop)
}

async fn membership(
    session: &Session,
    promote: &[u64],
    demote: &[u64],
    replication_factor: Option<u32>,
) -> Result<(), Status> {
    let (promote, demote) = (promote.to_vec(), demote.to_vec());
    let request =
        v1::ChangeMembershipRequest { promote, demote, replication_factor, ..Default::default() };
    session.cluster.clone().change_membership(session.request(request)).await.map(drop)
}

async fn remove(session: &Session, node_id: u64, force: bool) -> Result<(), Status> {
    let request = v1::RemoveNodeRequest { node_id, force, expected_version: None };
    session.cluster.clone().remove_node(session.request(request)).await.map(drop)
}

async fn cancel(session: &Session, node_id: u64) -> Result<(), Status> {
    let request = v1::CancelRemoveNodeRequest { node_id, expected_version: None };
    session.cluster.clone().cancel_remove_node(session.request(request)).await.map(drop)
}
