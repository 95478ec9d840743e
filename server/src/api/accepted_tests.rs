//! Whatever the API accepts is applied by every peer, and costs no more than its bounds.

use std::sync::Arc;

use bytes::Bytes;
use flotilla_proto::{
    MESSAGE_BYTES_MAX,
    range::{END_OF_MAP, KeyRange},
    touched,
    v1::{self, command_reply::Reply, compare::Condition, op::Op},
};
use parking_lot::Mutex;
use proptest::{collection::vec, prelude::*, sample::select};
use prost::Message as _;

use super::{Limits, fake::soon, kv::KvApi};
use crate::{
    command::{self, Overlay, RegionState},
    error::Error,
    router::{Context, Requests},
    storage::{
        batch::WriteBatch,
        config::StorageConfig,
        engine::{Durability, Engine},
        memory::MemoryEngine,
        rocks::{Kind, RocksEngine},
    },
};

/// A region over the whole map, on both engines, to which commands come as from the log.
#[derive(Clone)]
struct Replicas(Arc<Mutex<Vec<Replica>>>);

type Replica = (Arc<dyn Engine>, RegionState);

impl Replicas {
    fn over(engines: Vec<Arc<dyn Engine>>) -> Self {
        let replica = |engine| (engine, RegionState::default());
        Self(Arc::new(Mutex::new(engines.into_iter().map(replica).collect())))
    }

    /// Applies `write` on each, from its bytes.
    fn apply(&self, write: v1::WriteCommand) -> v1::WriteReply {
        let body = Some(v1::command::Body::Write(write));
        let command = v1::Command { time_ms: 5, body, ..v1::Command::default() };
        let command = command::decode(command::encode(&command)).expect("our own bytes");
        let mut replies: Vec<v1::WriteReply> = Vec::new();
        for (engine, region) in self.0.lock().iter_mut() {
            let mut batch = WriteBatch::new();
            let mut overlay = Overlay::new(engine.as_ref(), &mut batch);
            let (reply, _) =
                command::apply(&command, region, &mut overlay).expect("nothing stops the peer");
            assert!(batch.bytes_len() <= command::EFFECT_BYTES_MAX + (1 << 20));
            engine.write(&batch, Durability::Buffered).expect("a batch that the engine takes");
            match reply.reply {
                Some(Reply::Write(reply)) => replies.push(reply),
                other => panic!("not the answer to a write: {other:?}"),
            }
        }
        let reply = replies.pop().expect("there are replicas");
        assert!(replies.iter().all(|other| *other == reply), "replicas answer differently");
        assert!(reply.encoded_len() <= MESSAGE_BYTES_MAX - (1 << 20));
        reply
    }
}

impl Requests for Replicas {
    async fn write(&self, _: Context, command: v1::WriteCommand) -> Result<v1::WriteReply, Error> {
        for touched in touched::of_write(&command) {
            let start = touched.start();
            assert!(start[..] < END_OF_MAP[..], "{touched:?} is at the end of the map");
            assert!(start[..] >= [0, 0, 1][..], "{touched:?} is the system's");
            let range = touched.range();
            assert!(!range.is_empty(), "{touched:?} is no range");
            assert!(!range.end.is_empty() && range.end[..] <= [0xff; 3][..], "{touched:?}");
        }
        Ok(self.apply(command))
    }

    async fn read_points(&self, _: Context, _: Vec<Bytes>) -> Result<v1::ReadReply, Error> {
        Ok(v1::ReadReply::default())
    }

    async fn read_range(&self, _: Context, _: v1::RangeRead) -> Result<v1::ReadReply, Error> {
        Ok(v1::ReadReply::default())
    }

    fn regions_of(&self, _: &KeyRange) -> Result<Vec<v1::Region>, Error> {
        Ok(vec![v1::Region { region_id: 2, ..v1::Region::default() }])
    }
}

/// Keys at the edges: of the map, of lengths, of prefixes.
fn key() -> BoxedStrategy<Bytes> {
    prop_oneof![
        4 => vec(select(&[0x00, 0x01, b'a', 0xfe, 0xff][..]), 0..8).prop_map(Bytes::from),
        2 => select(&["a", "b", "n"][..]).prop_map(Bytes::from),
        1 => (4094..4099_usize).prop_map(|len| vec![0xff; len].into()),
    ]
    .boxed()
}

fn value() -> BoxedStrategy<Bytes> {
    prop_oneof![
        6 => vec(any::<u8>(), 0..5).prop_map(Bytes::from),
        2 => (-3..3_i64).prop_map(|number| number.to_string().into()),
        1 => select(&[1 << 20, (8 << 20) - 1, 8 << 20, (8 << 20) + 1][..])
            .prop_map(|len| vec![b'v'; len].into()),
    ]
    .boxed()
}

fn op() -> BoxedStrategy<v1::Op> {
    let ttl_ms = prop_oneof![4 => Just(0), 1 => 1..9_u64, 1 => Just(u64::MAX)];
    let flag = || prop::bool::weighted(0.3);
    prop_oneof![
        4 => (key(), value(), ttl_ms, flag(), any::<bool>()).prop_map(
            |(key, value, ttl_ms, keep_ttl, return_previous)| {
                Op::Put(v1::PutOp { key, value, ttl_ms, keep_ttl, return_previous })
            }
        ),
        2 => (key(), any::<bool>())
            .prop_map(|(key, return_previous)| Op::Delete(v1::DeleteOp { key, return_previous })),
        2 => (key(), key(), flag(), prop_oneof![3 => Just(Bytes::new()), 1 => key()]).prop_map(
            |(start_key, end_key, all, prefix)| {
                Op::DeleteRange(v1::DeleteRangeOp { start_key, end_key, all, prefix })
            }
        ),
        2 => (key(), any::<i64>()).prop_map(|(key, delta)| Op::Add(v1::AddOp { key, delta })),
        2 => (key(), value()).prop_map(|(key, value)| Op::Append(v1::AppendOp { key, value })),
        3 => key().prop_map(|key| Op::Get(v1::GetOp { key })),
    ]
    .prop_map(|op| v1::Op { op: Some(op) })
    .boxed()
}

/// A list of operations, of which one may be repeated until it is too much.
fn ops() -> BoxedStrategy<Vec<v1::Op>> {
    (vec(op(), 0..5), op(), select(&[0_usize, 0, 0, 3, 40, 1024][..]))
        .prop_map(|(mut ops, again, times)| {
            ops.extend(std::iter::repeat_n(again, times));
            ops
        })
        .boxed()
}

fn txn() -> BoxedStrategy<v1::TxnRequest> {
    let condition = prop_oneof![
        any::<bool>().prop_map(Condition::Absent),
        any::<bool>().prop_map(Condition::Present),
        value().prop_map(Condition::ValueEquals),
        any::<u64>().prop_map(Condition::RevisionEquals),
    ];
    let compare = (key(), proptest::option::weighted(0.95, condition))
        .prop_map(|(key, condition)| v1::Compare { key, condition });
    let keyspace = select(&[0, 1, 2, 0xff_fffd, 0xff_fffe, 0xff_ffff, 0x100_0000, u32::MAX][..]);
    (keyspace, vec(compare, 0..3), ops(), ops())
        .prop_map(|(keyspace, compare, success, failure)| {
            let context = Some(v1::RequestContext { keyspace, ..v1::RequestContext::default() });
            v1::TxnRequest { context, compare, success, failure }
        })
        .boxed()
}

#[test]
fn whatever_is_accepted_is_applied_by_both_engines_within_its_bounds() {
    let dir = tempfile::tempdir().expect("a directory");
    let rocks = RocksEngine::open(&dir.path().join("data"), Kind::Data, &StorageConfig::default());
    let engines = vec![MemoryEngine::new() as Arc<dyn Engine>, rocks.expect("an empty database")];
    // One history over all cases: values that earlier ones left are what makes answers large.
    let replicas = Replicas::over(engines);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("one");
    let accepted = std::cell::Cell::new(0);
    let config = ProptestConfig { cases: 200, max_shrink_iters: 200, ..ProptestConfig::default() };
    proptest!(config, |(txn in txn(), as_write in any::<bool>())| {
        let api = KvApi::new(replicas.clone(), Arc::new(Limits::default()));
        let answer = runtime.block_on(async {
            if as_write {
                let v1::TxnRequest { context, success: ops, .. } = txn;
                let write = v1::WriteRequest { context, ops, require_atomic: false };
                api.write(soon(), write).await.map(drop)
            } else {
                api.txn(soon(), txn).await.map(drop)
            }
        });
        match answer {
            Ok(()) => accepted.set(accepted.get() + 1),
            Err(error) => prop_assert!(!error.maybe_applied(), "{error:?}"),
        }
    });
    assert!(accepted.get() > 10, "only {} requests were accepted", accepted.get());
}

/// Bytes that are nearly a message.
fn nearly(message: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let changes = vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    let noise = vec(any::<u8>(), 0..40);
    prop_oneof![
        4 => (message, changes).prop_map(|(mut bytes, changes)| {
            for (at, byte) in changes {
                if !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
            }
            bytes
        }),
        1 => noise,
    ]
}

fn small_txn() -> BoxedStrategy<v1::TxnRequest> {
    txn().prop_filter("a small one", |txn| txn.encoded_len() < 1000).boxed()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_of_a_request_end_in_an_answer(
        bytes in nearly(small_txn().prop_map(|txn| txn.encode_to_vec())),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let replicas = Replicas::over(vec![MemoryEngine::new()]);
        let api = KvApi::new(replicas, Arc::new(Limits::default()));
        runtime.expect("one").block_on(async {
            macro_rules! call {
                ($($request:ident => $method:ident),* $(,)?) => {$(
                    if let Ok(request) = v1::$request::decode(&bytes[..])
                        && let Err(error) = api.$method(soon(), request).await
                    {
                        // The replicas above answer no reads.
                        let read = matches!(error, Error::Internal { .. });
                        assert!(read || !error.maybe_applied(), "{error:?}");
                    }
                )*};
            }
            call!(
                TxnRequest => txn, WriteRequest => write, PutRequest => put,
                DeleteRequest => delete, CompareAndPutRequest => compare_and_put,
                PutIfAbsentRequest => put_if_absent, GetAndPutRequest => get_and_put,
                AppendRequest => append, IncrementRequest => increment,
                DeleteRangeRequest => delete_range, GetRequest => get, BatchGetRequest => batch_get,
            );
        });
    }

    #[test]
    fn any_bytes_of_a_command_are_applied_or_are_none(
        bytes in nearly((small_txn(), any::<u64>()).prop_map(|(txn, time_ms)| {
            let v1::TxnRequest { compare, success, failure, .. } = txn;
            let write =
                v1::WriteCommand { compare, success, failure, ..v1::WriteCommand::default() };
            let body = Some(v1::command::Body::Write(write));
            v1::Command { time_ms, body, ..v1::Command::default() }.encode_to_vec()
        })),
    ) {
        if let Ok(command) = command::decode(bytes.into()) {
            let engine = MemoryEngine::new();
            let mut region = RegionState::default();
            let mut batch = WriteBatch::new();
            let mut overlay = Overlay::new(engine.as_ref(), &mut batch);
            command::apply(&command, &mut region, &mut overlay).expect("nothing stops the peer");
            engine.write(&batch, Durability::Buffered).expect("a batch that the engine takes");
        }
    }

    #[test]
    fn any_bytes_of_a_value_are_one_or_damage(bytes in vec(any::<u8>(), 0..40)) {
        if let Ok(value) = command::StoredValue::decode(&bytes.clone().into()) {
            prop_assert!(value.payload.len() < bytes.len());
        }
    }

    #[test]
    fn any_bytes_of_a_frame_between_nodes_are_one_or_refused(
        bytes in nearly((small_txn(), any::<u64>()).prop_map(|(txn, number)| {
            let v1::TxnRequest { compare, success, failure, .. } = txn;
            let write =
                v1::WriteCommand { compare, success, failure, ..v1::WriteCommand::default() };
            let forward = v1::Forward {
                epoch_version: number,
                request: Some(v1::forward::Request::Write(write)),
                ..v1::Forward::default()
            };
            let body = Some(v1::message::Body::Forward(forward));
            let message = v1::Message { region_id: number, body, ..v1::Message::default() };
            let messages = vec![message; 2];
            v1::MessageBatch { messages, ..v1::MessageBatch::default() }.encode_to_vec()
        })),
    ) {
        if let Ok(batch) = v1::MessageBatch::decode(&bytes[..]) {
            for message in batch.messages {
                if let Some(v1::message::Body::Append(append)) = message.body {
                    for entry in append.entries {
                        let _ = crate::raft::convert::entry_from_proto(entry);
                    }
                }
            }
        }
    }
}
