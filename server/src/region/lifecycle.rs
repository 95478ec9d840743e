//! Birth, start and death of a peer.
//!
//! Every region is born *seeded*: descriptor and apply state as of `(term 1, index 1)`, and a log
//! that is marked as purged up to there. So a further peer can only be initialized by snapshot, and
//! nobody replays from an unknown beginning. A peer comes to a node in two ways: from the disk at
//! start, or by a snapshot of a leader that has the node in its membership (`receive.rs`). It goes in
//! an order that survives a crash: tombstone, stop, range, log.

use std::sync::Arc;

use bytes::Bytes;
use flotilla_proto::v1;

use super::{
    Environment, Peer,
    effects::RegionEffects,
    promises::{self, Promises},
    read, recovery,
    running::Running,
    silence::Silence,
};
use crate::{
    command,
    ids::{NodeId, PeerId, RegionId},
    raft::{
        Raft,
        log::{self, LogBounds, peer_log::PeerLog, store::LogStore},
        network::{Network, SnapshotSettings},
        proposal::Admissions,
        region_state::{put_state, read_reached},
        reversion::Reversions,
        snapshot,
        state_machine::StateMachine,
    },
    storage::{
        batch::{Family, WriteBatch},
        engine::{self, Durability, Engine},
        keys,
    },
    world::{
        blocking,
        known_bad::{self, Fault},
    },
};

/// Result of opening a peer that the disk knows.
pub enum Opened {
    Running(Arc<Peer>),
    /// The peer must not take part; it is kept for the placement driver to replace.
    Quarantined {
        region: RegionId,
        peer: PeerId,
        reason: String,
    },
    /// Its state cannot be read or its core does not start: it has broken no promise, and the next start
    /// tries again.
    Unreadable {
        region: RegionId,
        peer: PeerId,
        reason: String,
    },
}

/// What the disk says of a peer.
enum OnDisk {
    Whole(Arc<PeerLog>, Box<StateMachine>),
    Lost(String),
    Unreadable(String),
}

/// A new region with these voters, as it lies on the disk of each of them.
#[must_use]
pub fn newborn(
    region: RegionId,
    start_key: Bytes,
    end_key: Bytes,
    voters: &[(PeerId, NodeId)],
) -> command::RegionState {
    let peers = voters.iter().map(|(peer, node)| v1::Peer {
        peer_id: peer.0,
        node_id: node.0,
        role: v1::PeerRole::Voter.into(),
    });
    let members = voters.iter();
    let members = members.map(|(peer, node)| v1::MemberPeer { peer_id: peer.0, node_id: node.0 });
    command::RegionState {
        descriptor: v1::Region {
            region_id: region.0,
            start_key,
            end_key,
            epoch: Some(v1::RegionEpoch { conf_ver: 1, version: 1 }),
            peers: peers.collect(),
        },
        state: v1::ApplyState {
            applied_term: 1,
            applied_index: 1,
            revision: 1,
            time_ms: 1,
            expiry_max_ms: 0,
            membership: Some(v1::Membership {
                voters: vec![v1::VoterSet {
                    peer_ids: voters.iter().map(|(peer, _)| peer.0).collect(),
                }],
                peers: members.collect(),
            }),
            membership_term: 1,
            membership_index: 1,
            feature_level: 0,
        },
    }
}

/// Writes new regions, each with the peer of it that lives here, with `data` holding whatever else must be
/// there with them. The caller then makes them his by an identity; a disk without one is wiped before anything
/// else is written to it.
///
/// Durability: the logs first, then everything in `data` at once.
///
/// # Errors
/// When the disk fails; nothing was born then.
pub fn birth(
    log: &dyn Engine,
    data: &dyn Engine,
    regions: &[(PeerId, command::RegionState)],
    mut with: WriteBatch,
) -> Result<(), engine::Error> {
    let mut logs = WriteBatch::new();
    for (own, region) in regions {
        let id = RegionId(region.descriptor.region_id);
        // The same on all disks, as all else of a newborn region but which peer is here.
        let first = region.descriptor.peers.first().map_or(PeerId(0), |peer| PeerId(peer.peer_id));
        log::seed(&mut logs, id, first);
        logs.put(Family::Default, &keys::log::own_peer(id), &promises::encode(*own, ""));
        put_state(&mut with, region, true);
    }
    log.write(&logs, Durability::Synced)?;
    crate::crash_point!("birth-between");
    data.write(&with, Durability::Synced)
}

/// Removes all regions from a disk without an identity: what a birth left that did not come to its end.
///
/// # Errors
/// When the disk fails; it has no identity then either.
pub fn wipe(log: &dyn Engine, data: &dyn Engine) -> Result<(), engine::Error> {
    let mut batch = WriteBatch::new();
    batch.delete_range(Family::Default, &[], &[]);
    // It stays known whose disk it was made on.
    batch.delete_range(Family::Meta, &keys::meta::all_of_regions().start, &[]);
    data.write(&batch, Durability::Synced)?;
    let mut batch = WriteBatch::new();
    // The disk stays who it is, and promised to what it was.
    let kept = keys::log::newcomer();
    batch.delete_range(Family::Default, &[], &kept);
    batch.delete_range(Family::Default, &[&kept[..], &[0]].concat(), &[]);
    log.write(&batch, Durability::Synced)
}

/// Opens a peer from the disk.
///
/// # Errors
/// When the disk cannot be read, or openraft refuses what it finds.
pub async fn open(
    env: &Arc<Environment>,
    region: RegionId,
    peer: PeerId,
    loss: Option<recovery::Loss>,
) -> anyhow::Result<Opened> {
    let for_disk = Arc::clone(env);
    let found = blocking::run(move || look_at_disk(&for_disk, region, peer, loss));
    match found.await?? {
        OnDisk::Whole(log, machine) => match start(env, region, peer, log, *machine).await {
            Ok(peer) => Ok(Opened::Running(peer)),
            Err(error) => {
                Ok(Opened::Unreadable { region, peer, reason: format!("start it: {error:#}") })
            }
        },
        OnDisk::Unreadable(reason) => Ok(Opened::Unreadable { region, peer, reason }),
        OnDisk::Lost(reason) => {
            quarantine(env, region, peer, &reason).await?;
            Ok(Opened::Quarantined { region, peer, reason })
        }
    }
}

/// What a peer has on the disk, or why it must not run. A log that cannot be read is an error: it is
/// damaged, and all peers have theirs in it.
fn look_at_disk(
    env: &Environment,
    region: RegionId,
    peer: PeerId,
    loss: Option<recovery::Loss>,
) -> Result<OnDisk, engine::Error> {
    let log = open_log(env, region)?;
    let machine = open_machine(env, region, peer, &log);
    let read = machine.and_then(|machine| Ok((machine, read_reached(env.data.as_ref(), region)?)));
    let (machine, reached) = match read {
        Ok(read) => read,
        Err(error) => return Ok(OnDisk::Unreadable(format!("read its state: {error}"))),
    };
    let evidence = recovery::Evidence {
        log_last: log.last().map_or(0, |id| id.index),
        log_purged: log.purged().map_or(0, |id| id.index),
        applied: machine.view().published().applied.map_or(0, |id| id.index),
        reached,
        loss,
    };
    Ok(match recovery::why_quarantined(evidence) {
        Some(reason) => OnDisk::Lost(reason),
        None => OnDisk::Whole(log, Box::new(machine)),
    })
}

/// Creates a peer that has no range yet, for a snapshot that is about to be installed.
///
/// Durability: its id is on the disk before it can promise anything to anybody, so that it keeps its
/// promises after a restart and is never taken for a new one.
///
/// # Errors
/// As for [`open`]; and when something is here of a peer that may have promised something and is not
/// buried: nothing is done then.
pub async fn create(
    env: &Arc<Environment>,
    region: RegionId,
    peer: PeerId,
) -> anyhow::Result<Arc<Peer>> {
    let here = read_promises(env, region).await?;
    if known_bad::is(Fault::PeerInData) {
        env.writer.clear(region).await?;
    } else if !here.is_free() {
        anyhow::bail!("peer {peer} of region {region} cannot begin on what is here: {here:?}");
    }
    let for_disk = Arc::clone(env);
    blocking::run(move || snapshot::erase(for_disk.data.as_ref(), region)).await??;
    env.writer.promise(keys::log::own_peer(region), promises::encode(peer, "")).await?;
    let for_disk = Arc::clone(env);
    let (log, machine) = blocking::run(move || open_disk(&for_disk, region, peer)).await??;
    start(env, region, peer, log, machine).await
}

async fn read_promises(env: &Environment, region: RegionId) -> Result<Promises, engine::Error> {
    let log = Arc::clone(&env.log);
    blocking::run(move || promises::read(log.as_ref(), region)).await?
}

fn open_disk(
    env: &Environment,
    region: RegionId,
    peer: PeerId,
) -> Result<(Arc<PeerLog>, StateMachine), engine::Error> {
    let log = open_log(env, region)?;
    let machine = open_machine(env, region, peer, &log)?;
    Ok((log, machine))
}

fn open_machine(
    env: &Environment,
    region: RegionId,
    peer: PeerId,
    log: &Arc<PeerLog>,
) -> Result<StateMachine, engine::Error> {
    StateMachine::open(
        region,
        peer,
        Arc::clone(&env.data),
        Arc::clone(log),
        Arc::clone(&env.metrics),
        Arc::new(RegionEffects::new(env.checks.clone(), Arc::clone(&env.unmet))),
    )
}

/// A setting as a size in memory, of which there is less than a setting can say.
fn in_memory(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn open_log(env: &Environment, region: RegionId) -> Result<Arc<PeerLog>, engine::Error> {
    PeerLog::open(
        region,
        Arc::clone(&env.log),
        Arc::clone(&env.data),
        env.writer.clone(),
        LogBounds {
            tail_bytes_max: in_memory(env.config.log.tail_cache_bytes),
            read_bytes_max: in_memory(env.config.raft.append_bytes_max),
            memory: Arc::clone(&env.log_memory),
        },
    )
}

async fn start(
    env: &Arc<Environment>,
    region: RegionId,
    id: PeerId,
    log: Arc<PeerLog>,
    machine: StateMachine,
) -> anyhow::Result<Arc<Peer>> {
    let view = machine.view();
    let reversions = Reversions::new(region);
    let members = Arc::clone(&view);
    let is_voter = move |peer: PeerId| {
        members.with(|now| {
            let mut peers = now.descriptor.peers.iter();
            peers.any(|of| of.peer_id == peer.0 && of.role() != v1::PeerRole::Learner)
        })
    };
    let network = Network::new(
        env.transport.clone(),
        region,
        id,
        reversions.clone(),
        Arc::new(is_voter),
        SnapshotSettings {
            chunk_bytes: in_memory(env.config.snapshot.chunk_bytes),
            feature_level: Arc::clone(&env.feature_level),
        },
        env.config.raft.heartbeat_interval,
    );
    let refusals = network.refusals();
    let raft =
        Raft::new(id, Arc::clone(&env.raft_config), network, LogStore(Arc::clone(&log)), machine)
            .await?;
    let proposals = Admissions::new(
        env.config.proposals_max,
        env.config.proposal_bytes_max,
        Arc::clone(&env.proposal_bytes),
    );
    Ok(Arc::new(Peer {
        region,
        id,
        env: Arc::clone(env),
        running: Running::of(&raft),
        raft,
        view,
        log,
        proposals,
        reversions,
        refusals,
        reads: read::Rounds::default(),
        clock: parking_lot::Mutex::default(),
        silence: Silence::default(),
        size: super::size::Size::default(),
        rates: super::rates::Rates::default(),
        large: super::weight::Large::default(),
        checking: tokio::sync::Mutex::default(),
        changing_members: Arc::default(),
        leading: parking_lot::Mutex::default(),
        held: super::Held::default(),
    }))
}

/// Destroys what a peer has on the disk, after its tombstone was written and it was stopped.
///
/// # Errors
/// When the disk fails; the next start repeats it, since the tombstone is there.
pub async fn erase(env: &Environment, region: RegionId) -> anyhow::Result<()> {
    let data = Arc::clone(&env.data);
    blocking::run(move || snapshot::erase(data.as_ref(), region)).await??;
    env.writer.clear(region).await?;
    Ok(())
}

/// Notes for ever that a peer, and with it every earlier one of the region, is gone from this node.
///
/// # Errors
/// When the log cannot be written; the node is about to end.
pub async fn bury(env: &Environment, region: RegionId, peer: PeerId) -> anyhow::Result<()> {
    let buried = read_promises(env, region).await?.buried;
    let buried = buried.map_or(peer, |buried| buried.max(peer));
    Ok(env.writer.promise(keys::log::tombstone(region), promises::encode(buried, "")).await?)
}

/// Notes for ever that a peer must not take part any more.
///
/// Durability: before anything is written to the log that would hide what it lost.
///
/// # Errors
/// As for [`bury`].
pub async fn quarantine(
    env: &Environment,
    region: RegionId,
    peer: PeerId,
    reason: &str,
) -> anyhow::Result<()> {
    Ok(env.writer.promise(keys::log::quarantine(region), promises::encode(peer, reason)).await?)
}
