//! Through Flotilla's own client, with its routing and its retries.

use bytes::Bytes;
use flotilla_client::{Client, Compare, Error, Expected, KeyValue, Op, PutOptions, Swapped};

use super::{Failure, Reply, Store, plain::txn_reply};
use crate::history::{Answer, Call, Request, Txn};

#[tonic::async_trait]
impl Store for Client {
    async fn ask(&self, request: &Request) -> Result<Reply, Failure> {
        let (answer, revision) = match request {
            Request::One(key, call) => ask_one(self, key.clone(), call).await?,
            Request::Txn(txn) => {
                let response = self.txn(to_txn(txn)).await?;
                return Ok(txn_reply(txn, response));
            }
        };
        Ok(Reply { answer, revision })
    }

    async fn read(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, Failure> {
        let found = self.batch_get(keys.to_vec()).await?;
        Ok(found.into_iter().map(|found| found.map(|kv| kv.value)).collect())
    }

    fn name(&self) -> String {
        format!("the client of {}", self.endpoints().join(", "))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let data_loss = matches!(error, Error::DataLoss { .. });
        let is_fault = matches!(error, Error::InvalidArgument { .. } | Error::Internal { .. });
        let maybe_applied = error.maybe_applied();
        Self { maybe_applied, data_loss, is_fault, message: error.to_string() }
    }
}

/// Makes one call, and answers what came back and the key's revision where that is told.
async fn ask_one(client: &Client, key: Bytes, call: &Call) -> Result<(Answer, Option<u64>), Error> {
    let value = |kv: Option<KeyValue>| kv.map(|kv| kv.value);
    let swapped = |swapped: Swapped| {
        if swapped.succeeded {
            (Answer::Conditional(Ok(())), Some(swapped.revision))
        } else {
            // Nothing was written, so no revision is claimed.
            (Answer::Conditional(Err(value(swapped.current))), None)
        }
    };
    Ok(match call {
        Call::Read => {
            let found = client.get(key).await?;
            let revision = found.as_ref().map(|kv| kv.revision);
            (Answer::Value(value(found)), revision)
        }
        Call::Write(new) => (Answer::Written, Some(client.put(key, new.clone()).await?.revision)),
        Call::CompareAndPut { expected, new } => {
            let expected = expected.clone().map_or(Expected::Absent, Expected::Value);
            swapped(client.compare_and_put(key, expected, new.clone(), None).await?)
        }
        Call::Delete => {
            let answer = client.delete(key).await?;
            // A delete of nothing may or may not raise the revision.
            (Answer::Deleted(answer.deleted), answer.deleted.then_some(answer.revision))
        }
        Call::Increment(delta) => {
            let answer = client.increment(key, *delta).await?;
            (Answer::Range(answer.start, answer.end), Some(answer.revision))
        }
        Call::PutIfAbsent(new) => swapped(client.put_if_absent(key, new.clone(), None).await?),
        Call::GetAndPut(new) => {
            let answer = client.get_and_put(key, new.clone(), None).await?;
            (Answer::Previous(value(answer.previous)), Some(answer.revision))
        }
    })
}

fn to_txn(txn: &Txn) -> flotilla_client::Txn {
    let mut built = flotilla_client::Txn::new();
    for (key, expected) in &txn.when {
        built = built.when(match expected {
            None => Compare::absent(key.clone()),
            Some(value) => Compare::value(key.clone(), value.clone()),
        });
    }
    let op = |(key, call): &(Bytes, Call)| match call {
        Call::Read => Op::get(key.clone()),
        Call::Write(value) => Op::put(key.clone(), value.clone()),
        Call::Delete => Op::delete(key.clone()),
        Call::Increment(delta) => Op::add(key.clone(), *delta),
        Call::GetAndPut(value) => {
            let options = PutOptions { return_previous: true, ..PutOptions::default() };
            Op::put_with(key.clone(), value.clone(), options)
                .expect("no time to live is well-formed")
        }
        Call::CompareAndPut { .. } | Call::PutIfAbsent(_) => {
            panic!("a transaction compares in its conditions alone: {call:?}")
        }
    };
    let built = txn.then.iter().map(op).fold(built, flotilla_client::Txn::then);
    txn.otherwise.iter().map(op).fold(built, flotilla_client::Txn::otherwise)
}
