//! Opens the peers of a node, as its disk has them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::Context as _;
use flotilla_proto::v1;
use parking_lot::{Mutex, RwLock};

use super::{
    Environment,
    changing::Changing,
    given_up::GivenUp,
    lifecycle::{self, Opened},
    peers::{Peers, Quarantined},
    promises::{self, Described, Fate, Promises},
    recovery::Loss,
};
use crate::{
    ids::{PeerId, RegionId},
    raft::{
        region_state::{Damage, read_descriptors},
        snapshot,
    },
    world::{Mark, sometimes},
    world::{
        clock,
        known_bad::{self, Fault},
    },
};

impl Peers {
    /// Opens every peer that the disk knows. `restarted` tells whether the node may have granted
    /// leases before, `loss` what its log was found to lack.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub async fn open(
        env: Arc<Environment>,
        restarted: bool,
        loss: Option<Loss>,
    ) -> anyhow::Result<Arc<Self>> {
        let gate = if restarted { env.config.lease() } else { Duration::ZERO };
        let peers = Self {
            map: RwLock::default(),
            changing: Changing::default(),
            given_up: GivenUp::default(),
            tombstones: RwLock::default(),
            quarantined: RwLock::default(),
            vote_gate: clock::now() + gate,
            incarnations: Mutex::default(),
            driven: Mutex::default(),
            news: Arc::default(),
            nodes: RwLock::default(),
            receiving: Mutex::default(),
            env,
        };
        snapshot::resume(peers.env.data.as_ref()).context("finish installs of snapshots")?;
        for (region, promises, described) in peers.found()? {
            if let Some(buried) = promises.buried {
                peers.note_tombstone(region, buried);
            }
            match promises.fate(described) {
                Fate::Open(peer) => {
                    let opened = lifecycle::open(&peers.env, region, peer, loss);
                    match opened.await? {
                        Opened::Running(peer) => {
                            // Ordering: before its first timeout, however many are still to be opened.
                            peer.raft().runtime_config().elect(false);
                            peers.map.write().insert(peer);
                        }
                        Opened::Quarantined { region, peer, reason }
                        | Opened::Unreadable { region, peer, reason } => {
                            peers.note_quarantine(region, peer, reason);
                        }
                    }
                }
                Fate::Quarantine(peer, reason) => {
                    lifecycle::quarantine(&peers.env, region, peer, &reason).await?;
                    peers.note_quarantine(region, peer, reason);
                }
                Fate::Quarantined(peer, reason) => peers.note_quarantine(region, peer, reason),
                Fate::Erase => lifecycle::erase(&peers.env, region).await?,
                Fate::Nothing => {}
            }
        }
        if loss.is_some() {
            // Ordering: every peer was judged, and what was found is on the disk. Told again, it would
            // condemn those that have begun since.
            peers.env.writer.restate_sentinel().await?;
        }
        let peers = Arc::new(peers);
        peers.all().iter().for_each(|peer| peers.watch_over(peer));
        peers.begin_elections().await;
        Ok(peers)
    }

    /// A peer that is alone leads at once. One that is not campaigns only behind the vote gate: a
    /// candidate votes for itself, which would break the promise of before the restart as well.
    async fn begin_elections(self: &Arc<Self>) {
        let mut gated = Vec::new();
        for peer in self.all() {
            match peer.knows_other_voters().await {
                Some(true) => gated.push(peer),
                Some(false) => {
                    peer.raft().runtime_config().elect(true);
                    if peer.view().is_initialized() {
                        self.env.runtime.spawn(async move {
                            // A peer that has stopped will not lead, alone or not.
                            let _ = peer.unless_stopped(peer.raft().trigger().elect(false)).await;
                        });
                    }
                }
                // It has stopped, and will not campaign.
                None => {}
            }
        }
        let gate = self.vote_gate;
        self.env.runtime.spawn(async move {
            tokio::time::sleep_until(gate).await;
            gated.iter().for_each(|peer| peer.raft().runtime_config().elect(true));
        });
    }

    /// Every region of which there is anything on this disk: what was promised about it, and which peer
    /// its state says is here.
    fn found(&self) -> anyhow::Result<Vec<(RegionId, Promises, Option<Described>)>> {
        let mut described = BTreeMap::new();
        let mut promised = promises::read_all(self.env.log.as_ref())?;
        let known = promised.keys().copied().collect();
        let (descriptors, damage) = read_descriptors(self.env.data.as_ref(), &known)?;
        if let Some(Damage { regions, error }) = damage {
            // What lies in it may be of a region that only `data` knows, and must not be taken for a new one.
            let regions = regions.iter().map(|region| region.0).collect::<Vec<_>>();
            return Err(anyhow::Error::new(error)
                .context(format!("read the descriptors of regions {regions:?}")));
        }
        for (region, descriptor) in descriptors {
            let is_own = |peer: &&v1::Peer| peer.node_id == self.env.node.0;
            let of = match descriptor {
                None => Described::Unreadable,
                Some(descriptor) => match descriptor.peers.iter().find(is_own) {
                    Some(own) => Described::Of(PeerId(own.peer_id)),
                    None => Described::OfOthers,
                },
            };
            described.insert(region, of);
        }
        if known_bad::is(Fault::PeerInData) {
            promised.retain(|region, _| described.contains_key(region));
        }
        for region in described.keys() {
            promised.entry(*region).or_default();
        }
        Ok(promised
            .into_iter()
            .map(|(region, promises)| (region, promises, described.get(&region).copied()))
            .collect())
    }

    fn note_quarantine(&self, region: RegionId, peer: PeerId, reason: String) {
        tracing::error!(%region, %peer, reason, "peer is quarantined");
        sometimes(Mark::QUARANTINED);
        let quarantined = Quarantined { peer, reason, remains: None };
        self.quarantined.write().insert(region, quarantined);
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::{range::KeyRange, v1::refused::Reason};

    use super::{super::Peer, *};
    use crate::{
        raft::fixture::Probe,
        region::fixture::{Fixture, PEER, REGION, until},
        storage::{
            batch::{Family, WriteBatch},
            engine::{Durability, Engine as _, Read as _},
            keys,
        },
    };

    async fn opened(fixture: &Fixture) -> Arc<Peers> {
        Peers::open(Arc::clone(&fixture.env), true, None).await.expect("a disk that can be read")
    }

    /// The peer as a snapshot for it finds or makes it.
    async fn reach(peers: &Arc<Peers>) -> Result<Arc<Peer>, v1::Refused> {
        let changes = peers.changing.begin(REGION).await;
        peers.refuse_gone(REGION, PEER)?;
        match peers.get(REGION) {
            Some(here) => Ok(here),
            None => peers.create(&changes, PEER).await,
        }
    }

    fn promised(fixture: &Fixture) -> Promises {
        promises::read(fixture.log.as_ref(), REGION).expect("a log that can be read")
    }

    fn has_vote(fixture: &Fixture) -> bool {
        fixture.log.get(Family::Default, &keys::log::vote(REGION)).expect("a read").is_some()
    }

    /// As `data` does after damage to its write-ahead log: without a word.
    fn after_data_fell_back(fixture: &Fixture) -> Fixture {
        Fixture::over(Probe::over(fixture.log.inner.crash(0)), Probe::new(), |_| {})
    }

    #[tokio::test]
    async fn voter_whose_state_is_gone_is_quarantined_and_never_taken_for_a_new_one() {
        let fixture = Fixture::new(|_| {});
        fixture.bear_with_voters(&[PEER, PeerId(71), PeerId(72)]);
        assert_eq!(opened(&fixture).await.all().len(), 1, "a whole disk");

        let fixture = after_data_fell_back(&fixture);
        let peers = opened(&fixture).await;
        let [(region, peer, _)] = &peers.quarantined()[..] else { panic!("not in quarantine") };
        assert_eq!((*region, *peer), (REGION, PEER));
        let refused = reach(&peers).await.err().expect("it must not begin anew");
        assert_eq!(refused.reason(), Reason::NotReady, "{}", refused.message);
        assert!(has_vote(&fixture), "its vote is kept");

        let again = Fixture::over(Arc::clone(&fixture.log), Arc::clone(&fixture.data), |_| {});
        assert_eq!(opened(&again).await.quarantined().len(), 1, "the mark is on the disk");
    }

    #[tokio::test]
    async fn peer_without_a_state_yet_keeps_its_vote_over_a_restart_that_lost_the_data() {
        let fixture = Fixture::new(|_| {});
        let peers = opened(&fixture).await;
        let peer = reach(&peers).await.expect("a new peer");
        let request =
            openraft::raft::VoteRequest::new(openraft::Vote::new(5.into(), PeerId(71)), None);
        peer.raft().vote(request).await.expect("a vote");
        let voted = peer.raft().with_raft_state(|state| *state.vote_ref()).await.expect("it runs");
        peer.stop().await;

        let fixture = after_data_fell_back(&fixture);
        let peers = opened(&fixture).await;
        let peer = reach(&peers).await.expect("the same peer");
        let vote = peer.raft().with_raft_state(|state| *state.vote_ref()).await.expect("it runs");
        assert_eq!(vote, voted);
    }

    #[tokio::test]
    async fn nothing_begins_on_a_log_without_an_owner() {
        let fixture = Fixture::new(|_| {});
        fixture.bear();
        let mut batch = WriteBatch::new();
        batch.delete(Family::Default, &keys::log::own_peer(REGION));
        fixture.log.write(&batch, Durability::Synced).expect("a write");
        let created = lifecycle::create(&fixture.env, REGION, PeerId(71)).await;
        let error = created.err().expect("there is a vote").to_string();
        assert!(error.contains("cannot begin on what is here"), "{error}");
        assert!(has_vote(&fixture), "it is kept");
        let [(_, peer, _)] = &opened(&fixture).await.quarantined()[..] else { panic!("it runs") };
        assert_eq!(*peer, PEER, "the state still knows");
    }

    #[tokio::test]
    async fn what_a_disk_promises_survives_a_power_cut() {
        let fixture = Fixture::new(|_| {});
        let peers = opened(&fixture).await;
        let promised = |log: &Probe| {
            promises::read(log.inner.crash(0).as_ref(), REGION).expect("a log that can be read")
        };
        reach(&peers).await.expect("a new peer");
        assert_eq!(promised(&fixture.log).own, Some(PEER));
        lifecycle::quarantine(&fixture.env, REGION, PEER, "a test").await.expect("a mark");
        assert_eq!(promised(&fixture.log).quarantined, Some((PEER, "a test".to_owned())));
        lifecycle::bury(&fixture.env, REGION, PEER).await.expect("a tombstone");
        lifecycle::bury(&fixture.env, REGION, PeerId(3)).await.expect("an older one");
        assert_eq!(promised(&fixture.log).buried, Some(PEER), "the latest stays");
        peers.destroy(REGION, PEER).await.expect("destroyed");
        let left = Promises { buried: Some(PEER), ..Promises::default() };
        assert_eq!(promised(&fixture.log), left);
    }

    #[tokio::test]
    async fn destruction_that_was_interrupted_is_finished_whatever_the_data_fell_back_to() {
        let fixture = Fixture::new(|_| {});
        fixture.bear();
        lifecycle::bury(&fixture.env, REGION, PEER).await.expect("a tombstone");
        let state = fixture.data.inner.crash(0);
        let peers = opened(&fixture).await;
        assert!(peers.all().is_empty() && peers.quarantined().is_empty());
        assert!(!has_vote(&fixture));

        let fixture =
            Fixture::over(Probe::over(fixture.log.inner.crash(0)), Probe::over(state), |_| {});
        let peers = opened(&fixture).await;
        assert!(peers.all().is_empty() && peers.quarantined().is_empty());
        let descriptor = keys::meta::descriptor(REGION);
        assert_eq!(fixture.data.get(Family::Meta, &descriptor).expect("a read"), None);
        assert_eq!(promised(&fixture).buried, Some(PEER));
    }

    /// A descriptor that does not decode names no range, and neither a buried region nor another one's ruin is a
    /// reason not to start.
    #[tokio::test]
    async fn buried_region_with_a_rotten_descriptor_is_erased_and_another_is_quarantined() {
        let fixture = Fixture::new(|_| {});
        fixture.bear();
        lifecycle::bury(&fixture.env, REGION, PEER).await.expect("a tombstone");
        let stranger = RegionId(77);
        let mut batch = WriteBatch::new();
        for region in [REGION, stranger] {
            batch.put(Family::Meta, &keys::meta::descriptor(region), &[0xff; 7]);
        }
        fixture.data.write(&batch, Durability::Synced).expect("a write");
        let peers = opened(&fixture).await;
        assert!(peers.all().is_empty());
        let stored = |region| {
            fixture.data.get(Family::Meta, &keys::meta::descriptor(region)).expect("a read")
        };
        assert_eq!(stored(REGION), None);
        assert!(!has_vote(&fixture) && promised(&fixture).own.is_none(), "its log is gone too");
        let [(region, peer, _)] = &peers.quarantined()[..] else { panic!("not in quarantine") };
        assert_eq!((*region, *peer), (stranger, PeerId::UNKNOWN));
        assert!(stored(stranger).is_some(), "nothing proves that it may go");
    }

    #[tokio::test]
    async fn start_on_damaged_descriptors_ends_and_names_the_regions() {
        let fixture = Fixture::new(|_| {});
        fixture.bear();
        let key = keys::meta::descriptor(REGION);
        let block = KeyRange::new(key.to_vec(), [&key[..], &[0]].concat());
        fixture.data.damage(Family::Meta, block);
        let error = Peers::open(Arc::clone(&fixture.env), false, None).await.err().expect("damage");
        let words = format!("{error:#}");
        assert!(
            words.contains(&format!("regions [{REGION}]")) && words.contains("injected"),
            "{words}"
        );
        fixture.data.mend();
        assert_eq!(opened(&fixture).await.all().len(), 1, "nothing was changed");
    }

    /// It has voted and granted leases before, and its election would depose a leader that is well.
    #[tokio::test]
    async fn restarted_peer_with_other_voters_does_not_campaign_before_the_vote_gate() {
        let fixture = Fixture::new(|_| {});
        fixture.bear_with_voters(&[PEER, PeerId(71), PeerId(72)]);
        let peers = Peers::open(Arc::clone(&fixture.env), true, None).await.expect("opened");
        let peer = peers.get(REGION).expect("the peer");
        let vote = async || peer.raft().with_raft_state(|state| *state.vote_ref()).await;
        let before = vote().await.expect("it runs");
        let gate = peers.vote_gate - Duration::from_millis(20);
        assert!(clock::now() < gate, "too late to see anything");
        while clock::now() < gate {
            assert_eq!(vote().await.expect("it runs"), before, "it campaigned");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    #[tokio::test]
    async fn restarted_peer_that_is_alone_leads_at_once() {
        let fixture = Fixture::new(|config| {
            config.raft.election_timeout_max = Duration::from_secs(3600);
        });
        fixture.bear();
        let peers = Peers::open(Arc::clone(&fixture.env), true, None).await.expect("opened");
        let peer = peers.get(REGION).expect("the peer");
        until("it to lead", || peer.is_leader()).await;
    }
}
