//! What a node and the placement driver tell each other, about once a second.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use flotilla_proto::v1;
use tokio::time::Instant;

use super::{Joined, Node, driver_route::DriverRoute};
use crate::{
    feature_level,
    ids::{PeerId, RegionId},
    placement::{
        driver,
        reports::{Part, Reports},
        steps::{self, Verdict},
    },
    region::{Peer, incarnations::QUIET},
    storage::disk::{DiskStatus, Level},
    world::{Mark, blocking, clock, sometimes},
};

/// Pause between heartbeats of a node that no driver has heard since its start: it is not ready before.
const UNHEARD_INTERVAL: Duration = Duration::from_millis(200);
/// A duplicate that stays for this long is no restart: the disk was copied.
const DUPLICATE_PATIENCE: Duration = Duration::from_secs(10);

/// Runs until the node stops.
pub(super) async fn run(node: Arc<Node>, joined: Arc<Joined>) {
    let mut interval = tokio::time::interval(node.config.placement.interval);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut driver = DriverRoute::default();
    let mut reports = Reports::default();
    let mut duplicate_since: Option<Instant> = None;
    loop {
        interval.tick().await;
        if node.is_removed() {
            return;
        }
        let Some((told, request)) = heartbeat(&node, &joined, reports).await else { return };
        reports = told;
        let response = match driver.heartbeat(&node, &joined, request).await {
            Ok(response) => response,
            Err(reason) => {
                tracing::debug!(reason, "no driver heard this node");
                if !joined.is_confirmed() {
                    interval.reset_after(UNHEARD_INTERVAL.min(node.config.placement.interval));
                }
                continue;
            }
        };
        // Also one that can do less than the cluster uses is to know that it was removed.
        if response.removed {
            node.become_removed();
            return;
        }
        // Before anything else it says: that is not for a program which can do less.
        if node.directory.check_level(response.feature_level).is_err() {
            return;
        }
        if response.duplicate {
            let since = *duplicate_since.get_or_insert_with(clock::now);
            let refused_for = clock::now().saturating_duration_since(since);
            if refused_for > QUIET {
                tracing::warn!("another process speaks with the identity of this node");
            } else {
                sometimes(Mark::TAKEN_FOR_A_COPY);
                // After a power cut nobody closes the connections of the process before.
                tracing::info!("this node is believed once the process before it is silent");
            }
            if refused_for > DUPLICATE_PATIENCE {
                node.fail(
                    "another process runs with the identity of this node: its disk was copied; \
                     empty this disk and join anew"
                        .to_owned(),
                );
                return;
            }
            continue;
        }
        duplicate_since = None;
        joined.confirmed.store(true, Ordering::Release);
        if reports.acknowledged(response.session) {
            interval.reset_immediately();
        }
        if let Some(table) = response.table {
            match node.directory.update(table) {
                Ok(true) => joined.peers.set_nodes(&node.directory.table()),
                Ok(false) => {}
                Err(_) => return,
            }
        }
        for step in response.steps {
            let Some(peer) = joined.peers.get(RegionId(step.region_id)) else { continue };
            // Judged again by what the leader itself knows, right before it is carried out.
            let Some(report) = driver::report(&peer) else { continue };
            match steps::verdict(&step, &report, joined.driver.config()) {
                Verdict::Apply => {}
                Verdict::Done => continue,
                verdict => {
                    tracing::info!(
                        region = step.region_id,
                        reason = step.reason,
                        ?verdict,
                        "placement step not done"
                    );
                    continue;
                }
            }
            node.runtime.spawn(async move {
                match peer.carry_out(&step).await {
                    Ok(()) => tracing::info!(
                        region = step.region_id,
                        reason = step.reason,
                        "placement step done"
                    ),
                    Err(error) => tracing::info!(
                        region = step.region_id,
                        reason = step.reason,
                        error,
                        "placement step not done"
                    ),
                }
            });
        }
        for gone in response.gone {
            let (region, peer) = (RegionId(gone.region_id), PeerId(gone.peer_id));
            // It may have heard of a later membership since it was told of, in which it is.
            let here = joined.peers.get(region).filter(|here| here.id == peer);
            if here.is_none_or(|here| Some(here.conf_ver()) == gone.conf_ver) {
                joined.peers.give_up(region, peer);
            }
        }
    }
}

/// What to tell now, gathered on a thread that may take its time: a node may lead thousands of regions.
/// `None` when the process ends.
async fn heartbeat(
    node: &Arc<Node>,
    joined: &Arc<Joined>,
    mut reports: Reports,
) -> Option<(Reports, v1::HeartbeatRequest)> {
    let (node, joined) = (Arc::clone(node), Arc::clone(joined));
    let gathered = blocking::run(move || {
        let peers = joined.peers.all();
        let led = peers.iter().filter(|peer| peer.is_leader());
        let led = led.filter_map(|peer| driver::report(peer));
        let part = reports.next(led, joined.driver.config(), clock::now());
        let request = gather(&node, &joined, &peers, part);
        (reports, request)
    });
    gathered.await.ok()
}

fn gather(node: &Node, joined: &Joined, peers: &[Arc<Peer>], part: Part) -> v1::HeartbeatRequest {
    let local = |region: RegionId, peer: PeerId, conf_ver| v1::LocalPeer {
        region_id: region.0,
        peer_id: peer.0,
        conf_ver,
    };
    // Of one whose id was lost nobody could say whether it was removed.
    let is_known = |local: &&v1::LocalPeer| local.peer_id != PeerId::UNKNOWN.0;
    let quarantined: Vec<v1::LocalPeer> = joined
        .peers
        .quarantined_as_of()
        .into_iter()
        .map(|(region, peer, conf_ver)| local(region, peer, conf_ver))
        .collect();
    let patience = node.config.raft.election_timeout_max * 2;
    let disk = *node.disk_status.lock();
    v1::HeartbeatRequest {
        cluster_id: bytes::Bytes::copy_from_slice(&joined.cluster.0),
        node_id: joined.node.0,
        incarnation: node.incarnation,
        table_version: node.directory.table().version,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        feature_level: feature_level::OURS,
        disk_available_bytes: disk.map_or(0, |disk| disk.available_bytes),
        disk_used_bytes: disk.map_or(0, |disk| disk.total_bytes - disk.available_bytes),
        data_bytes: node.data_bytes(),
        regions: part.regions,
        quarantined: quarantined.clone(),
        contradicted: joined
            .peers
            .contradicted()
            .into_iter()
            .map(|(region, peer, _)| local(region, peer, None))
            .collect(),
        // One in quarantine hears nobody, and stays until it is removed or replaced.
        silent: peers
            .iter()
            .filter(|peer| peer.silent_for() > patience)
            .map(|peer| local(peer.region, peer.id, Some(peer.conf_ver())))
            .chain(quarantined.iter().filter(is_known).copied())
            .collect(),
        client_address: node.advertised.client.clone(),
        peer_address: node.advertised.peer.clone(),
        http_address: node.advertised.http.clone(),
        disk_level: disk_level(disk.as_ref()).into(),
        session: part.session,
        sequence: part.sequence,
        led_no_more: part.led_no_more,
        more_reports: part.more,
    }
}

/// As others are told it. One without a disk, or that is not watched, has room.
pub(super) fn disk_level(disk: Option<&DiskStatus>) -> v1::DiskLevel {
    disk.map_or(Level::Normal, |disk| disk.level).into()
}
