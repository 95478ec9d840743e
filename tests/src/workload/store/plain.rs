//! Through the client that is generated from the contract, to one address, and nothing in between.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use flotilla_proto::v1::{
    self, ReadMode, RequestContext, kv_client::KvClient, op_result::Result as OpResult,
};
use tokio::time::timeout;
use tonic::{Code, Request as Message, Status, transport::Channel};

use super::{Failure, Reply, Store};
use crate::{
    harness::{Outcome, Session, detail, outcome},
    history::{Answer, Call, Request, Txn},
};

/// A client of one node.
#[derive(Clone)]
pub struct Plain {
    name: String,
    kv: KvClient<Channel>,
    patience: Duration,
    read_mode: ReadMode,
}

impl Plain {
    /// One that speaks over `channel`, and counts a call that takes longer than `patience` as unknown.
    #[must_use]
    pub fn new(name: impl Into<String>, channel: Channel, patience: Duration) -> Self {
        let (name, kv) = (name.into(), flotilla_proto::clients::kv(channel));
        Self { name, kv, patience, read_mode: ReadMode::Linearizable }
    }

    /// One for each session, with this bound for a call.
    #[must_use]
    pub fn all(sessions: &[Session], patience: Duration) -> Vec<Arc<dyn Store>> {
        let of = |session: &Session| {
            Arc::new(Self { patience, ..Self::from(session) }) as Arc<dyn Store>
        };
        sessions.iter().map(of).collect()
    }

    /// The same, which reads what the node itself has applied, as old as it may be.
    #[must_use]
    pub fn stale(mut self) -> Self {
        self.read_mode = ReadMode::Stale;
        self
    }

    fn context(&self) -> Option<RequestContext> {
        Some(RequestContext { read_mode: self.read_mode.into(), ..RequestContext::default() })
    }

    fn message<T>(&self, message: T) -> Message<T> {
        let mut message = Message::new(message);
        message.set_timeout(self.patience);
        message
    }

    /// Bound: the server's answer and all of it, whatever the network does with it.
    async fn within<T>(&self, call: impl Future<Output = Result<T, Status>>) -> Result<T, Failure> {
        match timeout(self.patience, call).await {
            Ok(ended) => ended.map_err(Failure::from),
            Err(_) => Err(Failure::silence("no answer in time")),
        }
    }

    /// Makes one call, and answers what came back and the key's revision where that is told.
    async fn one(&self, key: Bytes, call: &Call) -> Result<(Answer, Option<u64>), Status> {
        let mut kv = self.kv.clone();
        let conditional = |succeeded: bool, current: Option<v1::KeyValue>, revision: u64| {
            if succeeded {
                (Answer::Conditional(Ok(())), Some(revision))
            } else {
                // Nothing was written, so no revision is claimed.
                (Answer::Conditional(Err(value(current))), None)
            }
        };
        Ok(match call {
            Call::Read => {
                let message = v1::GetRequest { context: self.context(), key };
                let found = kv.get(self.message(message)).await?.into_inner().kv;
                let revision = found.as_ref().map(|kv| kv.revision);
                (Answer::Value(value(found)), revision)
            }
            Call::Write(new) => {
                let message = v1::PutRequest { key, value: new.clone(), ..Default::default() };
                let answer = kv.put(self.message(message)).await?.into_inner();
                (Answer::Written, Some(answer.revision))
            }
            Call::CompareAndPut { expected, new } => {
                use v1::compare_and_put_request::Expected;
                let expected = Some(match expected {
                    None => Expected::Absent(true),
                    Some(value) => Expected::Value(value.clone()),
                });
                let new_value = new.clone();
                let message =
                    v1::CompareAndPutRequest { key, expected, new_value, ..Default::default() };
                let answer = kv.compare_and_put(self.message(message)).await?.into_inner();
                conditional(answer.succeeded, answer.current, answer.revision)
            }
            Call::Delete => {
                let message = v1::DeleteRequest { key, ..Default::default() };
                let answer = kv.delete(self.message(message)).await?.into_inner();
                // A delete of nothing may or may not raise the revision.
                (Answer::Deleted(answer.deleted), answer.deleted.then_some(answer.revision))
            }
            Call::Increment(delta) => {
                let message = v1::IncrementRequest { context: None, key, delta: *delta };
                let answer = kv.increment(self.message(message)).await?.into_inner();
                (Answer::Range(answer.start, answer.end), Some(answer.revision))
            }
            Call::PutIfAbsent(new) => {
                let message =
                    v1::PutIfAbsentRequest { key, value: new.clone(), ..Default::default() };
                let answer = kv.put_if_absent(self.message(message)).await?.into_inner();
                conditional(answer.succeeded, answer.current, answer.revision)
            }
            Call::GetAndPut(new) => {
                let message =
                    v1::GetAndPutRequest { key, value: new.clone(), ..Default::default() };
                let answer = kv.get_and_put(self.message(message)).await?.into_inner();
                (Answer::Previous(value(answer.previous)), Some(answer.revision))
            }
        })
    }
}

impl From<&Session> for Plain {
    fn from(session: &Session) -> Self {
        let Session { address: name, kv, patience, .. } = session.clone();
        Self { name, kv, patience, read_mode: ReadMode::Linearizable }
    }
}

/// Whether no well cluster answers so to a request that is right.
pub(super) fn is_fault(code: Code) -> bool {
    use Code::{Internal, InvalidArgument, OutOfRange, Unimplemented, Unknown};
    matches!(code, Internal | InvalidArgument | OutOfRange | Unimplemented | Unknown)
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let maybe_applied = outcome(&status) == Outcome::Unknown;
        let data_loss = status.code() == Code::DataLoss;
        // Without details it is of our own side, which has words of its own for a connection that broke.
        let is_fault = detail(&status).is_some() && is_fault(status.code());
        Self { maybe_applied, data_loss, is_fault, message: status.to_string() }
    }
}

#[tonic::async_trait]
impl Store for Plain {
    async fn ask(&self, request: &Request) -> Result<Reply, Failure> {
        match request {
            Request::One(key, call) => {
                let (answer, revision) = self.within(self.one(key.clone(), call)).await?;
                Ok(Reply { answer, revision })
            }
            Request::Txn(txn) => {
                let mut kv = self.kv.clone();
                let message = self.message(to_message(txn));
                let response = self.within(kv.txn(message)).await?;
                Ok(txn_reply(txn, response.into_inner()))
            }
        }
    }

    async fn read(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, Failure> {
        let mut kv = self.kv.clone();
        let message =
            self.message(v1::BatchGetRequest { context: self.context(), keys: keys.to_vec() });
        let found = self.within(kv.batch_get(message)).await?.into_inner().kvs;
        let value = |key: &Bytes| found.iter().find(|kv| kv.key == *key).map(|kv| kv.value.clone());
        Ok(keys.iter().map(value).collect())
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

fn value(kv: Option<v1::KeyValue>) -> Option<Bytes> {
    kv.map(|kv| kv.value)
}

fn to_message(txn: &Txn) -> v1::TxnRequest {
    use v1::{compare::Condition, op::Op};
    let compare = |(key, expected): &(Bytes, Option<Bytes>)| {
        let condition = Some(match expected {
            None => Condition::Absent(true),
            Some(value) => Condition::ValueEquals(value.clone()),
        });
        v1::Compare { key: key.clone(), condition }
    };
    let op = |(key, call): &(Bytes, Call)| {
        let key = key.clone();
        let op = Some(match call {
            Call::Read => Op::Get(v1::GetOp { key }),
            Call::Write(value) => {
                Op::Put(v1::PutOp { key, value: value.clone(), ..Default::default() })
            }
            Call::GetAndPut(value) => {
                let (value, return_previous) = (value.clone(), true);
                Op::Put(v1::PutOp { key, value, return_previous, ..Default::default() })
            }
            Call::Delete => Op::Delete(v1::DeleteOp { key, return_previous: false }),
            Call::Increment(delta) => Op::Add(v1::AddOp { key, delta: *delta }),
            Call::CompareAndPut { .. } | Call::PutIfAbsent(_) => {
                panic!("a transaction compares in its conditions alone: {call:?}")
            }
        });
        v1::Op { op }
    };
    v1::TxnRequest {
        context: None,
        compare: txn.when.iter().map(compare).collect(),
        success: txn.then.iter().map(op).collect(),
        failure: txn.otherwise.iter().map(op).collect(),
    }
}

/// What a transaction answered.
pub(super) fn txn_reply(request: &Txn, response: v1::TxnResponse) -> Reply {
    let calls = if response.succeeded { &request.then } else { &request.otherwise };
    let answer = |(result, (_, call)): (v1::OpResult, &(Bytes, Call))| match result.result {
        Some(OpResult::Get(get)) => Answer::Value(value(get.kv)),
        Some(OpResult::Put(put)) if matches!(call, Call::GetAndPut(_)) => {
            Answer::Previous(value(put.previous))
        }
        Some(OpResult::Delete(delete)) => Answer::Deleted(delete.deleted > 0),
        Some(OpResult::Add(add)) => Answer::Range(add.start, add.end),
        // Anything else is no answer to a read, and the judge of the history says so.
        _ => Answer::Written,
    };
    let answers: Vec<Answer> = response.results.into_iter().zip(calls).map(answer).collect();
    // Of one that wrote nothing no revision is claimed.
    let revision = (response.revision > 0).then_some(response.revision);
    Reply { answer: Answer::Txn(response.succeeded, answers), revision }
}
