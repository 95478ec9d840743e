//! One random log, applied in many ways, is one state and one list of answers.
//!
//! The log decides, nothing else: not where it was cut into batches, not a restart between two of
//! them, not what a compaction reclaimed meanwhile. Followers cut batches otherwise than leaders, so
//! any difference here is replicas that drift apart for good.

use std::collections::BTreeMap;

use bytes::Bytes;
use flotilla_proto::v1::{
    AddOp, AppendOp, ApplyState, ChecksumCommand, Command, CommandReply, Compare, DeleteOp,
    DeleteRangeOp, GetOp, Op, PutOp, TickCommand, WriteCommand, WriteRefusal, command::Body,
    command_reply::Reply, compare::Condition, op::Op as Kind,
};
use proptest::{collection::vec, option, prelude::*, sample::select};
use prost::Message as _;

use super::{
    apply::apply,
    checksum::checksum,
    codec::{decode, encode},
    fixture::{Fixture, VERSION},
    model::Model,
    overlay::Overlay,
};
use crate::storage::batch::WriteBatch;

/// Few keys, so that operations meet; now and then one outside of the region `[a, z)`.
fn key() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        60 => select(&["a", "b", "c", "d"][..]).prop_map(Bytes::from),
        10 => (0..30_u8).prop_map(bulk_key),
        1 => select(&["A", "z", ""][..]).prop_map(Bytes::from),
    ]
}

fn bulk_key(number: u8) -> Bytes {
    format!("k{number:02}").into()
}

fn value() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        4 => (-9..9_i64).prop_map(|number| number.to_string().into()),
        2 => select(&["", "x", "text"][..]).prop_map(Bytes::from),
        1 => Just(Bytes::from(i64::MAX.to_string())),
        1 => vec(any::<u8>(), 0..4).prop_map(Bytes::from),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let ttl_ms = prop_oneof![6 => Just(0), 4 => 1..25_u64, 1 => Just(u64::MAX)];
    let range_end = prop_oneof![8 => key(), 1 => Just(Bytes::from("l")), 1 => Just(Bytes::new())];
    prop_oneof![
        5 => (key(), value(), ttl_ms, prop::bool::weighted(0.2), any::<bool>()).prop_map(
            |(key, value, ttl_ms, keep_ttl, return_previous)| {
                // Both together are refused, which few logs should be.
                let keep_ttl = keep_ttl && (ttl_ms == 0 || ttl_ms == 24);
                Kind::Put(PutOp { key, value, ttl_ms, keep_ttl, return_previous })
            }
        ),
        2 => (key(), any::<bool>())
            .prop_map(|(key, return_previous)| Kind::Delete(DeleteOp { key, return_previous })),
        2 => (key(), range_end).prop_map(|(start_key, end_key)| {
            Kind::DeleteRange(DeleteRangeOp { start_key, end_key, ..DeleteRangeOp::default() })
        }),
        2 => (key(), prop_oneof![9 => -3..4_i64, 1 => Just(i64::MAX), 1 => Just(i64::MIN)])
            .prop_map(|(key, delta)| Kind::Add(AddOp { key, delta })),
        2 => (key(), value()).prop_map(|(key, value)| Kind::Append(AppendOp { key, value })),
        2 => key().prop_map(|key| Kind::Get(GetOp { key })),
    ]
    .prop_map(|op| Op { op: Some(op) })
}

fn compare() -> impl Strategy<Value = Compare> {
    let condition = prop_oneof![
        any::<bool>().prop_map(Condition::Absent),
        any::<bool>().prop_map(Condition::Present),
        value().prop_map(Condition::ValueEquals),
        (0..12_u64).prop_map(Condition::RevisionEquals),
    ];
    (key(), option::weighted(0.97, condition))
        .prop_map(|(key, condition)| Compare { key, condition })
}

/// A branch; at times one with enough keys for a range tombstone.
fn branch() -> impl Strategy<Value = Vec<Op>> {
    let bulk = (0..10_u8, 10..20_u8, value()).prop_map(|(first, count, value)| {
        (first..first + count)
            .map(|number| PutOp { key: bulk_key(number), value: value.clone(), ..PutOp::default() })
            .map(|put| Op { op: Some(Kind::Put(put)) })
            .collect()
    });
    let clear = Just(vec![Op {
        op: Some(Kind::DeleteRange(DeleteRangeOp {
            start_key: "k".into(),
            end_key: "l".into(),
            ..DeleteRangeOp::default()
        })),
    }]);
    let empty_op = Just(vec![Op { op: None }]);
    prop_oneof![40 => vec(op(), 0..5), 4 => bulk, 4 => clear, 1 => empty_op]
}

fn body() -> impl Strategy<Value = Body> {
    prop_oneof![
        20 => (vec(compare(), 0..3), branch(), branch()).prop_map(|(compare, success, failure)| {
            Body::Write(WriteCommand { compare, success, failure, ..WriteCommand::default() })
        }),
        1 => Just(Body::Tick(TickCommand {})),
        1 => any::<u64>().prop_map(|check_id| Body::Checksum(ChecksumCommand { check_id })),
    ]
}

/// A log whose clock runs on, with jumps in both directions.
pub(super) fn log() -> impl Strategy<Value = Vec<Command>> {
    let step = prop_oneof![8 => 0..4_i64, 1 => -20..0_i64, 1 => 10..30_i64];
    let version = prop_oneof![30 => Just(VERSION), 1 => 0..2 * VERSION];
    vec((body(), step, version), 0..50).prop_map(|entries| {
        let mut clock = 30_i64;
        entries
            .into_iter()
            .map(|(body, step, epoch_version)| {
                clock = (clock + step).max(0);
                let time_ms = clock.unsigned_abs();
                Command { epoch_version, time_ms, body: Some(body), ..Command::default() }
            })
            .collect()
    })
}

/// What a peer keeps over a restart, and nothing else.
fn restart(replica: &mut Fixture) {
    let state =
        ApplyState::decode(&replica.region.state.encode_to_vec()[..]).expect("our own bytes");
    let mut restarted = Fixture::new();
    restarted.region.state = state;
    restarted.store.rows = std::mem::take(&mut replica.store.rows);
    *replica = restarted;
}

/// Applies `log` in batches of `entries`, from its bytes, restarting after each.
fn replay(log: &[Command], entries: usize, compacts: bool) -> (Fixture, Vec<CommandReply>) {
    let mut replica = Fixture::new();
    let mut replies = Vec::new();
    for cut in log.chunks(entries) {
        let cut: Vec<_> =
            cut.iter().map(|command| decode(encode(command)).expect("our own bytes")).collect();
        replies.extend(replica.apply_batch(&cut));
        if compacts {
            replica.compact();
        }
        restart(&mut replica);
    }
    (replica, replies)
}

fn sum(replica: &Fixture) -> (u64, u64) {
    checksum(&replica.store, &replica.region).expect("reads")
}

/// The model does not say why it refuses.
fn without_words(mut reply: CommandReply) -> CommandReply {
    if let Some(Reply::Write(write)) = &mut reply.reply
        && write.refused.is_some()
    {
        write.refused = Some(WriteRefusal::default());
    }
    reply
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn state_and_answers_do_not_depend_on_the_cut(log in log()) {
        let (one, replies) = replay(&log, 1, false);
        for entries in [2, 7, log.len().max(1)] {
            let (other, other_replies) = replay(&log, entries, false);
            prop_assert_eq!(&other_replies, &replies, "batches of {}", entries);
            prop_assert_eq!(&other.store.rows, &one.store.rows, "batches of {}", entries);
            prop_assert_eq!(&other.region, &one.region, "batches of {}", entries);
        }
    }

    #[test]
    fn what_a_compaction_reclaims_cannot_be_noticed(log in log()) {
        let (kept, replies) = replay(&log, 1, false);
        for entries in [1, 3] {
            let (reclaimed, other_replies) = replay(&log, entries, true);
            prop_assert_eq!(&other_replies, &replies);
            prop_assert_eq!(&reclaimed.region, &kept.region);
            prop_assert_eq!(sum(&reclaimed), sum(&kept));
        }
    }

    #[test]
    fn answers_and_values_are_those_of_the_model(log in log(), entries in 1..9_usize) {
        let (replica, replies) = replay(&log, entries, false);
        let mut model = Model::new(replica.region.descriptor.clone());
        for (index, (command, reply)) in log.iter().zip(replies).enumerate() {
            prop_assert_eq!(without_words(reply), model.apply(command), "entry {}: {:?}", index, command);
        }
        let time_ms = replica.region.state.time_ms;
        let live: BTreeMap<_, _> = replica
            .rows()
            .into_iter()
            .filter(|(_, value)| value.is_live(time_ms))
            .map(|(key, value)| {
                let expires = (value.expires_at_ms != 0).then_some(value.expires_at_ms);
                (Bytes::from(key), (value.payload, value.revision, expires))
            })
            .collect();
        let largest = live.values().filter_map(|(_, _, expires)| *expires).max();
        prop_assert!(largest <= Some(replica.region.state.expiry_max_ms), "no tick would come");
        prop_assert_eq!(live, model.live);
        prop_assert_eq!((replica.region.state.revision, time_ms), (model.revision, model.time_ms));
    }

    #[test]
    fn an_overlay_sees_what_others_put_into_its_batch(log in log()) {
        let (want, replies) = replay(&log, log.len().max(1), false);
        let mut replica = Fixture::new();
        let mut batch = WriteBatch::new();
        for (command, want) in log.iter().zip(replies) {
            let mut overlay = Overlay::new(&replica.store, &mut batch);
            let (reply, _) = apply(command, &mut replica.region, &mut overlay).expect("reads");
            prop_assert_eq!(reply, want);
        }
        replica.store.write(&batch);
        prop_assert_eq!(replica, want);
    }

    #[test]
    fn revisions_of_a_key_only_grow(log in log()) {
        let mut replica = Fixture::new();
        let mut seen = BTreeMap::new();
        for command in &log {
            replica.apply(command);
            for (key, value) in replica.rows() {
                let before = seen.insert(key, value.clone()).unwrap_or_default();
                prop_assert!(
                    before.revision < value.revision || before == value,
                    "{:?} became {:?}", before, value
                );
            }
        }
    }
}
