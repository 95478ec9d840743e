//! openraft's values to and from the wire and the disk.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_proto::v1;
use openraft::{EntryPayload, LogId as RaftLogId, vote::RaftLeaderId};

use super::{
    CommandBytes, Entry, LogId, Membership, PeerAddress, StoredMembership, Vote, term::Term,
};
use crate::ids::{NodeId, PeerId};

/// A message that decodes but makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} is missing or not valid")]
pub struct Malformed {
    pub what: &'static str,
}

#[must_use]
pub fn log_id(term: u64, index: u64) -> LogId {
    RaftLogId::new_term_index(Term(term), index)
}

#[must_use]
pub fn log_id_to_proto(id: &LogId) -> v1::LogId {
    v1::LogId { term: id.leader_id.term.0, index: id.index }
}

#[must_use]
pub fn log_id_from_proto(id: &v1::LogId) -> LogId {
    log_id(id.term, id.index)
}

#[must_use]
pub fn vote_to_proto(vote: &Vote) -> v1::VoteState {
    v1::VoteState {
        term: vote.leader_id.term.0,
        voted_for: vote.leader_id.voted_for.0,
        committed: vote.committed,
    }
}

/// # Errors
/// When the vote is absent.
pub fn vote_from_proto(vote: Option<&v1::VoteState>) -> Result<Vote, Malformed> {
    let vote = vote.ok_or(Malformed { what: "vote" })?;
    Ok(Vote {
        leader_id: RaftLeaderId::new(Term(vote.term), PeerId(vote.voted_for)),
        committed: vote.committed,
    })
}

#[must_use]
pub fn membership_to_proto(membership: &Membership) -> v1::Membership {
    v1::Membership {
        voters: membership
            .get_joint_config()
            .iter()
            .map(|set| v1::VoterSet { peer_ids: set.iter().map(|peer| peer.0).collect() })
            .collect(),
        peers: membership
            .nodes()
            .map(|(peer, address)| v1::MemberPeer { peer_id: peer.0, node_id: address.node.0 })
            .collect(),
    }
}

/// # Errors
/// When a voter is not among the peers.
pub fn membership_from_proto(membership: &v1::Membership) -> Result<Membership, Malformed> {
    let voters: Vec<BTreeSet<PeerId>> = membership
        .voters
        .iter()
        .map(|set| set.peer_ids.iter().copied().map(PeerId).collect())
        .collect();
    let peers: BTreeMap<PeerId, PeerAddress> = membership
        .peers
        .iter()
        .map(|peer| (PeerId(peer.peer_id), PeerAddress { node: NodeId(peer.node_id) }))
        .collect();
    if voters.is_empty() && peers.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(voters, peers).map_err(|_| Malformed { what: "membership" })
}

/// The membership of an apply state, with the log id of the entry that made it.
///
/// # Errors
/// When the membership is not valid.
pub fn stored_membership(state: &v1::ApplyState) -> Result<StoredMembership, Malformed> {
    let Some(membership) = &state.membership else { return Ok(StoredMembership::default()) };
    Ok(StoredMembership::new(members_entry(state), membership_from_proto(membership)?))
}

/// The entry by which the members in `state` are who they are, if there is one.
#[must_use]
pub fn members_entry(state: &v1::ApplyState) -> Option<LogId> {
    (state.membership_index > 0).then(|| log_id(state.membership_term, state.membership_index))
}

/// The last log id whose effect is in `state`; `None` for a peer that is not initialized.
#[must_use]
pub fn applied(state: &v1::ApplyState) -> Option<LogId> {
    (state.applied_index > 0).then(|| log_id(state.applied_term, state.applied_index))
}

#[must_use]
pub fn entry_to_proto(entry: &Entry) -> v1::LogEntry {
    let payload = match &entry.payload {
        EntryPayload::Blank => v1::log_entry::Payload::Blank(true),
        EntryPayload::Normal(command) => v1::log_entry::Payload::Command(command.0.clone()),
        EntryPayload::Membership(membership) => {
            v1::log_entry::Payload::Membership(membership_to_proto(membership))
        }
    };
    v1::LogEntry {
        term: entry.log_id.leader_id.term.0,
        index: entry.log_id.index,
        payload: Some(payload),
    }
}

/// # Errors
/// When the payload is of no known kind: a newer version wrote it, and it must not be skipped.
pub fn entry_from_proto(entry: v1::LogEntry) -> Result<Entry, Malformed> {
    let payload = match entry.payload {
        Some(v1::log_entry::Payload::Blank(_)) => EntryPayload::Blank,
        Some(v1::log_entry::Payload::Command(bytes)) => EntryPayload::Normal(CommandBytes(bytes)),
        Some(v1::log_entry::Payload::Membership(membership)) => {
            EntryPayload::Membership(membership_from_proto(&membership)?)
        }
        None => return Err(Malformed { what: "payload of a log entry" }),
    };
    Ok(Entry { log_id: log_id(entry.term, entry.index), payload })
}
