//! How things are written in scripts.

use flotilla_proto::v1::{self, NodeState, PeerRole, step::Action};

use super::cluster::Cluster;
use crate::{
    error::Error,
    ids::NodeId,
    placement::{plan, steps},
};

pub(super) fn refusal(error: &Error) -> String {
    format!("refused: {error}")
}

pub(super) fn epoch(epoch: Option<&v1::RegionEpoch>) -> String {
    let v1::RegionEpoch { conf_ver, version } = epoch.copied().unwrap_or_default();
    format!("{conf_ver}.{version}")
}

/// What is ordered, on which epoch, and why.
pub(super) fn step(step: &v1::Step) -> String {
    let v1::Step { region_id, reason, .. } = step;
    let at = epoch(step.epoch.as_ref());
    format!("region {region_id} at {at}: {} ({reason})", action(step))
}

pub(super) fn action(step: &v1::Step) -> String {
    match step.action.as_ref().expect("it orders something") {
        Action::AddLearner(add) => format!("add {}@{}", add.peer_id, add.node_id),
        Action::Transfer(to) => format!("lead by {}", to.peer_id),
        Action::Change(change) if steps::is_finish(change) => "finish".to_owned(),
        Action::Change(change) => {
            let promote = change.promote.iter().map(|peer| format!("+{peer}"));
            let remove = change.remove.iter().map(|peer| format!("-{peer}"));
            format!("change {}", promote.chain(remove).collect::<Vec<_>>().join(" "))
        }
    }
}

/// `201@1* 202@2 204@4l`.
pub(super) fn peers(region: &v1::Region, leader: Option<u64>) -> String {
    let word = |peer: &v1::Peer| {
        let leads = if Some(peer.peer_id) == leader { "*" } else { "" };
        let learns = if peer.role() == PeerRole::Learner { "l" } else { "" };
        format!("{}@{}{leads}{learns}", peer.peer_id, peer.node_id)
    };
    region.peers.iter().map(word).collect::<Vec<_>>().join(" ")
}

pub(super) fn range(region: &v1::Region) -> String {
    let [start, end] = [&region.start_key, &region.end_key].map(|key| String::from_utf8_lossy(key));
    format!("{start}..{end}")
}

/// `zone=a,host=x`, sorted.
fn labels(record: &v1::NodeRecord) -> String {
    let mut labels: Vec<_> =
        record.labels.iter().map(|(name, value)| format!(" {name}={value}")).collect();
    labels.sort();
    labels.concat()
}

/// A row of the node table.
pub(super) fn row(record: &v1::NodeRecord) -> String {
    let state = match record.state() {
        NodeState::Up => "up",
        NodeState::NodeLearner => "learner",
        NodeState::Joining => "joining",
        NodeState::Draining => "draining",
        NodeState::Removed => "removed",
        NodeState::Unspecified => "nothing",
    };
    let forced = if record.forced { ", given up" } else { "" };
    let demoted = if record.demoted { ", demoted" } else { "" };
    format!("node {} is {state}{forced}{demoted}{}", record.node_id, labels(record))
}

/// The regions as the driver sees them, and how they are.
pub(super) fn seen(cluster: &Cluster) -> String {
    let Cluster { view, config, now_ms, .. } = cluster;
    let listed = view.list(&v1::RegionsRequest::default(), config, *now_ms);
    let mut told = String::new();
    for info in &listed.regions {
        let region = info.region.as_ref().expect("it has one");
        let mut line = format!(
            "region {} {} epoch {} term {}: {}; {}",
            region.region_id,
            range(region),
            epoch(region.epoch.as_ref()),
            info.term,
            peers(region, info.leader.as_ref().map(|leader| leader.peer_id)),
            info.health().as_str_name().trim_start_matches("REGION_HEALTH_").to_lowercase()
        );
        for (what, peers) in [
            ("down", &info.down_peers),
            ("behind", &info.pending_peers),
            ("lost", &info.lost_peers),
            ("contradicted", &info.contradicted_peers),
        ] {
            if !peers.is_empty() {
                line += &format!(", {what} {peers:?}");
            }
        }
        for refused in &info.refused_peers {
            line += &format!(", {} refused: {}", refused.peer_id, refused.reason);
        }
        told += &format!("{line}\n");
    }
    told
}

/// The nodes as the driver sees them.
pub(super) fn nodes(cluster: &Cluster) -> String {
    let Cluster { view, config, now_ms, .. } = cluster;
    let obstacles = plan::obstacles(view, config, *now_ms);
    let mut told = format!(
        "table {}, factor {}, level {}\n",
        view.table().version,
        view.table().replication_factor,
        view.table().feature_level
    );
    for (id, node) in view.nodes(config, *now_ms) {
        let liveness = node.liveness.as_str_name().trim_start_matches("LIVENESS_").to_lowercase();
        let waits = obstacles.get(&NodeId(id.0)).map(|why| format!("; waits for {why}"));
        told += &format!(
            "{}, {liveness}: {} peers, {} leaders{}\n",
            row(&node.record),
            node.peers,
            node.leaders,
            waits.unwrap_or_default()
        );
    }
    told
}
