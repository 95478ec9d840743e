//! Whether a snapshot may make a peer here, or take the place of one.
//!
//! A snapshot is the only message that makes or destroys anything on a node, and messages come from
//! whoever reaches the port: from a leader that was replaced long ago, from a sender with a bug. So
//! what it claims must hang together before anything is received, and it destroys nothing before all of
//! it is here. An older peer of the region has learnt of its removal when the descriptor that the
//! snapshot brings is newer than its own and does not have it.

use flotilla_proto::{
    region::Epoch,
    v1::{self, refused::Reason},
};
use prost::Message as _;

use super::serve::refused;
use crate::{
    feature_level,
    ids::{NodeId, PeerId},
    raft::{LogId, Vote, convert},
};

/// A snapshot's header that makes sense in itself.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) to: PeerId,
    pub(super) node: NodeId,
    pub(super) vote: Vote,
    pub(super) descriptor: v1::Region,
    /// The last entry that is in its state.
    pub(super) upto: LogId,
}

/// A peer of the region on this node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Here {
    pub(super) peer: PeerId,
    /// Of its descriptor; 0 when it has none.
    pub(super) conf_ver: u64,
    pub(super) quarantined: bool,
}

/// What a snapshot may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Give the peer that is here a newer state.
    Feed,
    /// Make a peer where none is.
    Make,
    /// Make a peer in the place of this one, which is destroyed.
    Replace(PeerId),
}

impl Arrival {
    /// # Errors
    /// What does not make sense.
    pub(super) fn of(header: &v1::SnapshotHeader, node: NodeId) -> Result<Self, v1::Refused> {
        // Before anything else it says: that is not for a program which can do less.
        if let Err(error) = feature_level::check(feature_level::OURS, header.feature_level) {
            return Err(refused(Reason::TooOld, format!("snapshot: {error}")));
        }
        let malformed = |what: &str| refused(Reason::Malformed, format!("snapshot: {what}"));
        let broken = |error: convert::Malformed| malformed(&error.to_string());
        let vote = convert::vote_from_proto(header.vote.as_ref()).map_err(broken)?;
        let descriptor = v1::Region::decode(header.descriptor.clone())
            .map_err(|_| malformed("its descriptor does not decode"))?;
        let state = header.state.as_ref().ok_or_else(|| malformed("it has no apply state"))?;
        let (from, to) = (header.from_peer, header.to_peer);
        let has = |peer: u64, node: u64| {
            descriptor.peers.iter().any(|of| of.peer_id == peer && of.node_id == node)
        };
        convert::stored_membership(state).map_err(broken)?;
        if descriptor.region_id != header.region_id {
            return Err(malformed("its descriptor is of another region"));
        }
        let upto = convert::applied(state).ok_or_else(|| malformed("it is of no state"))?;
        if !vote.committed || vote.leader_id.voted_for.0 != from {
            return Err(malformed("its sender does not claim to lead"));
        }
        if state.applied_term > vote.leader_id.term.0 {
            return Err(malformed("the state is of a later term than its sender"));
        }
        if !has(from, header.from_node) {
            return Err(malformed("its descriptor does not have its sender on the sender's node"));
        }
        if !has(to, node.0) {
            // Not a fault: the sender has yet to apply the entry that adds the peer.
            let message = format!("its state does not have peer {to} on this node yet");
            return Err(refused(Reason::NotReady, message));
        }
        Ok(Self { to: PeerId(to), node, vote, descriptor, upto })
    }

    /// What it does where `here` is.
    ///
    /// # Errors
    /// Why it may do nothing.
    pub(super) fn act(&self, here: Option<Here>) -> Result<Act, v1::Refused> {
        let to = self.to;
        let Some(here) = here else {
            // Only a peer that had its first state has ever been made a voter.
            return if self.votes() { Err(self.forgotten()) } else { Ok(Act::Make) };
        };
        if here.peer >= to && here.quarantined {
            let message = format!("peer {} here is in quarantine", here.peer);
            return Err(refused(Reason::NotReady, message));
        }
        if here.peer > to {
            let message = format!("peer {to} was followed by peer {}", here.peer);
            return Err(refused(Reason::Tombstone, message));
        }
        if here.peer == to {
            return Ok(Act::Feed);
        }
        let Epoch { conf_ver, .. } = Epoch::of(&self.descriptor);
        if conf_ver <= here.conf_ver {
            let message = format!(
                "peer {} here knows of a membership that is as new: {} against {conf_ver}",
                here.peer, here.conf_ver
            );
            return Err(refused(Reason::NotReady, message));
        }
        if self.descriptor.peers.iter().any(|of| of.peer_id == here.peer.0) {
            let message = format!("peer {} here is still a member", here.peer);
            return Err(refused(Reason::NotReady, message));
        }
        if self.votes() { Err(self.forgotten()) } else { Ok(Act::Replace(here.peer)) }
    }

    fn votes(&self) -> bool {
        self.descriptor
            .peers
            .iter()
            .any(|of| of.peer_id == self.to.0 && of.role() == v1::PeerRole::Voter)
    }

    fn forgotten(&self) -> v1::Refused {
        let message = format!(
            "peer {} is a voter, and nothing of it is on the disk of node {}: what it promised is lost",
            self.to, self.node
        );
        refused(Reason::Reverted, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(3);

    fn peer(peer_id: u64, node_id: u64, role: v1::PeerRole) -> v1::Peer {
        v1::Peer { peer_id, node_id, role: role.into() }
    }

    fn descriptor(peers: Vec<v1::Peer>) -> v1::Region {
        let epoch = Some(v1::RegionEpoch { conf_ver: 7, version: 1 });
        v1::Region { region_id: 8, epoch, peers, ..v1::Region::default() }
    }

    fn header(change: impl FnOnce(&mut v1::SnapshotHeader, &mut v1::Region)) -> v1::SnapshotHeader {
        let (voter, learner) = (v1::PeerRole::Voter, v1::PeerRole::Learner);
        let mut region = descriptor(vec![peer(81, 2, voter), peer(90, NODE.0, learner)]);
        let mut header = v1::SnapshotHeader {
            from_node: 2,
            region_id: 8,
            from_peer: 81,
            to_peer: 90,
            vote: Some(v1::VoteState { term: 3, voted_for: 81, committed: true }),
            state: Some(v1::ApplyState {
                applied_term: 3,
                applied_index: 9,
                ..v1::ApplyState::default()
            }),
            ..v1::SnapshotHeader::default()
        };
        change(&mut header, &mut region);
        if header.descriptor.is_empty() {
            header.descriptor = region.encode_to_vec().into();
        }
        header
    }

    /// A header, changed for the worse.
    type Change = fn(&mut v1::SnapshotHeader, &mut v1::Region);

    #[test]
    fn header_that_does_not_hang_together_is_refused() {
        Arrival::of(&header(|_, _| {}), NODE).expect("a good one");
        let cases: [(&str, Change, Reason); 13] = [
            (
                "made where more can be done",
                |of, _| of.feature_level = feature_level::OURS + 1,
                Reason::TooOld,
            ),
            (
                "and nothing else of it can be read",
                |of, _| *of = v1::SnapshotHeader { feature_level: u32::MAX, ..Default::default() },
                Reason::TooOld,
            ),
            ("no vote", |of, _| of.vote = None, Reason::Malformed),
            ("no state", |of, _| of.state = None, Reason::Malformed),
            (
                "an empty state",
                |of, _| of.state = Some(v1::ApplyState::default()),
                Reason::Malformed,
            ),
            ("rubbish", |of, _| of.descriptor = vec![0xff; 3].into(), Reason::Malformed),
            ("another region", |_, region| region.region_id = 9, Reason::Malformed),
            (
                "a candidate",
                |of, _| of.vote.as_mut().expect("a vote").committed = false,
                Reason::Malformed,
            ),
            (
                "another leads",
                |of, _| of.vote.as_mut().expect("a vote").voted_for = 82,
                Reason::Malformed,
            ),
            (
                "a state of the future",
                |of, _| of.state.as_mut().expect("a state").applied_term = 4,
                Reason::Malformed,
            ),
            ("a sender from elsewhere", |of, _| of.from_node = 5, Reason::Malformed),
            ("not for a member", |of, _| of.to_peer = u64::MAX, Reason::NotReady),
            (
                "not for a member on this node",
                |_, region| region.peers[1].node_id = 4,
                Reason::NotReady,
            ),
        ];
        for (why, change, reason) in cases {
            let refused = Arrival::of(&header(change), NODE).expect_err(why);
            assert_eq!(refused.reason(), reason, "{why}: {refused:?}");
        }
    }

    #[test]
    fn only_a_newer_membership_without_the_old_peer_replaces_it() {
        let here =
            |peer, conf_ver, quarantined| Some(Here { peer: PeerId(peer), conf_ver, quarantined });
        let nothing: Change = |_, _| {};
        let still_member: Change = |_, region| {
            let old = v1::Peer { peer_id: 70, node_id: 9, ..v1::Peer::default() };
            region.peers.push(old);
        };
        let voter: Change = |_, region| region.peers[1].set_role(v1::PeerRole::Voter);
        let (tombstone, not_ready) = (Err(Reason::Tombstone), Err(Reason::NotReady));
        for (why, change, here, want) in [
            ("nobody is here", nothing, None, Ok(Act::Make)),
            ("it is here", nothing, here(90, 7, false), Ok(Act::Feed)),
            ("it is here, and votes", voter, here(90, 7, false), Ok(Act::Feed)),
            ("it is in quarantine", nothing, here(90, 7, true), not_ready),
            ("a later one is here", nothing, here(91, 1, false), tombstone),
            ("one that nobody knows is in quarantine", nothing, here(u64::MAX, 0, true), not_ready),
            (
                "an earlier one was removed",
                nothing,
                here(70, 6, false),
                Ok(Act::Replace(PeerId(70))),
            ),
            ("also from quarantine", nothing, here(70, 6, true), Ok(Act::Replace(PeerId(70)))),
            ("also one without a state", nothing, here(70, 0, false), Ok(Act::Replace(PeerId(70)))),
            ("an earlier one is as new", nothing, here(70, 7, false), not_ready),
            ("an earlier one is newer", nothing, here(70, 8, true), not_ready),
            ("an earlier one is a member", still_member, here(70, 6, false), not_ready),
            ("a voter that nobody knows", voter, None, Err(Reason::Reverted)),
            ("a voter in the place of another", voter, here(70, 6, false), Err(Reason::Reverted)),
        ] {
            let arrival = Arrival::of(&header(change), NODE).expect("it hangs together");
            let act = arrival.act(here).map_err(|refused| refused.reason());
            assert_eq!(act, want, "{why}");
        }
    }
}
