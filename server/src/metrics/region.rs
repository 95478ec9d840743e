//! The regions of this node.

use prometheus::{IntCounter, IntGauge, Registry};

use super::{Counters, Gauges, add, label::label};

label! {
    /// What a peer of this node is in its region.
    PeerRole, "state" {
        Leader = "leader",
        Follower = "follower",
        Candidate = "candidate",
        Learner = "learner",
        /// It ended, or its log lost its end: it neither votes nor acknowledges, and waits to be replaced.
        Quarantined = "quarantined",
        /// It takes nothing from its leader, which has another entry in the place of one that was applied here.
        Contradicted = "contradicted",
    }
}

label! {
    /// Why a peer of this node does not take part any more.
    PeerLoss, "cause" {
        /// Openraft ended it: it could not apply, or read, or write what it had to.
        Ended = "ended",
        /// It does not have what it once acknowledged: its disk was set back.
        Reverted = "reverted",
        /// Its leader has another entry in the place of one that was applied here: it was lost elsewhere.
        Contradicted = "contradicted",
    }
}

/// Regions with a peer on this node.
#[derive(Clone, Debug)]
pub struct RegionMetrics {
    /// Regions by the role of the peer here.
    pub regions: Gauges<PeerRole>,
    /// Regions led from here, with a quorum that answers. Skew between nodes is the placement driver's
    /// input.
    pub leaders: IntGauge,
    /// Regions whose leader is here and is not answered by a quorum: it can neither write nor read.
    pub leaders_without_quorum: IntGauge,
    /// Regions with a peer here that hears no leader.
    pub unheard: IntGauge,
    /// Regions with a peer here that serve nothing since most of their voters are away, as far as this node can
    /// tell: it is cut off itself, perhaps.
    pub without_quorum: IntGauge,
    /// Other nodes that this one misses. Of those it has no reason to hear it knows nothing.
    pub nodes_unheard: IntGauge,
    /// Peers elsewhere, of regions led from here, that are not caught up.
    pub peers_pending: IntGauge,
    /// Peers of this node that were set aside while it ran.
    pub peers_lost_total: Counters<PeerLoss>,
    /// Peers elsewhere, of regions led from here, that were found not to have what they had acknowledged.
    pub followers_reverted_total: IntCounter,
}

impl RegionMetrics {
    /// # Errors
    /// A name that is registered already.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            regions: Gauges::register(
                registry,
                "flotilla_regions",
                "Regions with a peer on this node, by the peer's role",
            )?,
            leaders: add(
                registry,
                IntGauge::new("flotilla_region_leaders", "Regions led with a quorum that answers")?,
            )?,
            leaders_without_quorum: add(
                registry,
                IntGauge::new(
                    "flotilla_region_leaders_without_quorum",
                    "Regions whose leader is here and is not answered by a quorum",
                )?,
            )?,
            unheard: add(
                registry,
                IntGauge::new(
                    "flotilla_regions_unheard",
                    "Regions with a peer on this node that hears no leader",
                )?,
            )?,
            without_quorum: add(
                registry,
                IntGauge::new(
                    "flotilla_regions_without_quorum",
                    "Regions with a peer on this node most of whose voters this node does not hear",
                )?,
            )?,
            nodes_unheard: add(
                registry,
                IntGauge::new(
                    "flotilla_nodes_unheard",
                    "Other nodes that this node has a reason to hear, and does not",
                )?,
            )?,
            peers_pending: add(
                registry,
                IntGauge::new(
                    "flotilla_region_peers_pending",
                    "Peers of led regions that are not caught up",
                )?,
            )?,
            peers_lost_total: Counters::register(
                registry,
                "flotilla_region_peers_lost_total",
                "Peers of this node that do not take part any more, by cause",
            )?,
            followers_reverted_total: add(
                registry,
                IntCounter::new(
                    "flotilla_region_followers_reverted_total",
                    "Followers of led regions that lost what they had acknowledged",
                )?,
            )?,
        })
    }
}
