//! A committed change of a region's membership becomes its descriptor.

use std::collections::BTreeSet;

use flotilla_proto::v1::{Membership, Peer, PeerRole};

use super::{apply::Effect, region::RegionState};

/// Applies the membership of the entry whose log id `region.state` has already.
pub fn apply(region: &mut RegionState, membership: Membership) -> Effect {
    let RegionState { descriptor, state } = region;
    descriptor.peers = peers_of(&membership);
    descriptor.epoch.get_or_insert_default().conf_ver += 1;
    state.membership = Some(membership);
    (state.membership_term, state.membership_index) = (state.applied_term, state.applied_index);
    Effect::Members
}

/// A peer that is a voter of either half of a joint change is one.
fn peers_of(membership: &Membership) -> Vec<Peer> {
    let sets = membership.voters.iter().flat_map(|set| &set.peer_ids);
    let voters: BTreeSet<u64> = sets.copied().collect();
    let peers = membership.peers.iter().map(|peer| {
        let is_voter = voters.contains(&peer.peer_id);
        let role = if is_voter { PeerRole::Voter } else { PeerRole::Learner };
        Peer { peer_id: peer.peer_id, node_id: peer.node_id, role: role.into() }
    });
    peers.collect()
}

#[cfg(test)]
mod tests {
    use flotilla_proto::v1::{ApplyState, MemberPeer, Region, RegionEpoch, VoterSet};

    use super::*;

    #[test]
    fn descriptor_has_the_members_of_the_newest_membership() {
        let membership = |voters: &[&[u64]], peers: &[u64]| Membership {
            voters: voters.iter().map(|ids| VoterSet { peer_ids: ids.to_vec() }).collect(),
            peers: peers.iter().map(|id| MemberPeer { peer_id: *id, node_id: id + 100 }).collect(),
        };
        let mut region = RegionState {
            descriptor: Region {
                epoch: Some(RegionEpoch { conf_ver: 4, version: 7 }),
                ..Region::default()
            },
            state: ApplyState { applied_term: 3, ..ApplyState::default() },
        };
        for (why, voters, peers, want) in [
            ("one alone", &[&[1][..]][..], &[1][..], &[(1, true)][..]),
            ("a learner", &[&[1]], &[1, 2], &[(1, true), (2, false)]),
            ("a joint change", &[&[1], &[2]], &[1, 2], &[(1, true), (2, true)]),
            ("the first has left", &[&[2]], &[2], &[(2, true)]),
        ] {
            region.state.applied_index += 1;
            let before = region.descriptor.epoch.expect("it is set");
            let membership = membership(voters, peers);
            assert_eq!(apply(&mut region, membership.clone()), Effect::Members, "{why}");
            let found: Vec<_> = region
                .descriptor
                .peers
                .iter()
                .map(|peer| {
                    assert_eq!(peer.node_id, peer.peer_id + 100, "{why}");
                    (peer.peer_id, peer.role() == PeerRole::Voter)
                })
                .collect();
            assert_eq!(found, want, "{why}");
            let epoch = RegionEpoch { conf_ver: before.conf_ver + 1, ..before };
            assert_eq!(region.descriptor.epoch, Some(epoch), "{why}");
            let state = &region.state;
            assert_eq!(state.membership.as_ref(), Some(&membership), "{why}");
            let noted = (state.membership_term, state.membership_index);
            assert_eq!(noted, (3, state.applied_index), "{why}");
        }
    }
}
