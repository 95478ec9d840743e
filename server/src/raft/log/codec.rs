//! Entries, votes and log ids as they lie in the log.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::{EntryPayload, vote::RaftLeaderId};
use prost::Message as _;

use super::super::{
    CommandBytes, Entry, LogId, Vote,
    convert::{log_id, membership_from_proto, membership_to_proto},
    term::Term,
};
use crate::{
    ids::{PeerId, RegionId},
    storage::{
        batch::{Family, WriteBatch},
        engine, keys,
    },
};

const BLANK: u8 = 0;

const COMMAND: u8 = 1;

const MEMBERSHIP: u8 = 2;

/// First byte of a vote and of a log id.
const MARK_FORMAT: u8 = 1;

/// `[kind: 1][term: 8 BE][payload]`; the index is in the key. Another form is another kind.
pub(super) fn put_entry(batch: &mut WriteBatch, region: RegionId, entry: &Entry) {
    let key = keys::log::entry(region, entry.log_id.index);
    let term = entry.log_id.leader_id.term.0.to_be_bytes();
    let put = |batch: &mut WriteBatch, kind: u8, payload: &[u8]| {
        batch.put_parts(Family::Default, &key, &[&[kind], &term, payload]);
    };
    match &entry.payload {
        EntryPayload::Blank => put(batch, BLANK, &[]),
        EntryPayload::Normal(command) => put(batch, COMMAND, &command.0),
        EntryPayload::Membership(membership) => {
            put(batch, MEMBERSHIP, &membership_to_proto(membership).encode_to_vec());
        }
    }
}

pub(super) fn decode_entry(key: &[u8], value: &Bytes) -> Result<Entry, engine::Error> {
    let corrupt = |message: &str| engine::Error::Corrupt {
        message: format!("a raft log entry {message}, key {key:02x?}"),
    };
    let Some(keys::log::LogKey { part: keys::log::LogPart::Entry { index }, .. }) =
        keys::log::decode(key)
    else {
        return Err(corrupt("has a bad key"));
    };
    let mut rest = value.clone();
    if rest.len() < 9 {
        return Err(corrupt("is too short"));
    }
    let kind = rest.get_u8();
    let term = rest.get_u64();
    let payload = match kind {
        BLANK => EntryPayload::Blank,
        COMMAND => EntryPayload::Normal(CommandBytes(rest)),
        MEMBERSHIP => {
            let membership = flotilla_proto::v1::Membership::decode(rest)
                .map_err(|_| corrupt("does not decode"))?;
            EntryPayload::Membership(
                membership_from_proto(&membership).map_err(|_| corrupt("has a bad membership"))?,
            )
        }
        _ => return Err(corrupt("is of a kind this version does not know")),
    };
    Ok(Entry { log_id: log_id(term, index), payload })
}

/// `[format: 1][term: 8 BE][index: 8 BE]`
pub(super) fn encode_log_id(id: &LogId) -> [u8; 17] {
    let mut bytes = [MARK_FORMAT; 17];
    let (term, index) = bytes[1..].split_at_mut(8);
    term.copy_from_slice(&id.leader_id.term.0.to_be_bytes());
    index.copy_from_slice(&id.index.to_be_bytes());
    bytes
}

pub(super) fn decode_log_id(mut bytes: &[u8]) -> Result<LogId, engine::Error> {
    if bytes.len() != 17 || bytes.get_u8() != MARK_FORMAT {
        return Err(engine::Error::Corrupt {
            message: "a log id is of a form this version does not know".to_owned(),
        });
    }
    let term = bytes.get_u64();
    Ok(log_id(term, bytes.get_u64()))
}

/// `[format: 1][term: 8 BE][voted for: 8 BE][committed: 1]`
pub(super) fn encode_vote(vote: &Vote) -> Bytes {
    let mut bytes = BytesMut::with_capacity(18);
    bytes.put_u8(MARK_FORMAT);
    bytes.put_u64(vote.leader_id.term.0);
    bytes.put_u64(vote.leader_id.voted_for.0);
    bytes.put_u8(u8::from(vote.committed));
    bytes.freeze()
}

/// A vote as it lies in the log.
///
/// # Errors
/// When it is of another form.
pub fn decode_vote(mut bytes: &[u8]) -> Result<Vote, engine::Error> {
    if bytes.len() != 18 || bytes.get_u8() != MARK_FORMAT {
        return Err(engine::Error::Corrupt {
            message: "a vote is of a form this version does not know".to_owned(),
        });
    }
    let term = bytes.get_u64();
    let voted_for = PeerId(bytes.get_u64());
    Ok(Vote { leader_id: RaftLeaderId::new(Term(term), voted_for), committed: bytes.get_u8() == 1 })
}

/// What a region's log starts with at its birth: purged up to `(term 1, index 1)`.
pub fn seed(batch: &mut WriteBatch, region: RegionId, peer: PeerId) {
    let born = log_id(1, 1);
    batch.put(Family::Default, &keys::log::purged(region), &encode_log_id(&born));
    batch.put(Family::Default, &keys::log::committed(region), &encode_log_id(&born));
    let vote = Vote { leader_id: RaftLeaderId::new(Term(1), peer), committed: false };
    batch.put(Family::Default, &keys::log::vote(region), &encode_vote(&vote));
}
