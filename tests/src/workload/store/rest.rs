//! Over HTTP, to one address.
//!
//! REST has reads, writes and deletes, and conditions on a key's revision. What else a workload asks for is made of
//! these: look, decide, and write on condition that nobody came in between; whoever came is looked at anew, and that is
//! safe, since a write whose condition failed has changed nothing. There are no transactions.

use std::{io, time::Duration};

use bytes::Bytes;
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use tokio::time::{Instant, timeout};

use super::{Failure, Reply, Store};
use crate::{
    harness::{HttpReply, http},
    history::{Answer, Call, Request},
};

/// A client of one node.
#[derive(Clone, Debug)]
pub struct Rest {
    address: String,
    patience: Duration,
}

/// What is under a key, with its revision.
type Present = Option<(Bytes, u64)>;

/// What a write needs to find.
#[derive(Clone, Copy)]
enum Condition {
    None,
    Absent,
    Present,
    Revision(u64),
}

impl Rest {
    /// One that asks `address`, and counts a call that takes longer than `patience` as unknown.
    #[must_use]
    pub fn new(address: impl Into<String>, patience: Duration) -> Self {
        Self { address: address.into(), patience }
    }

    async fn get(&self, key: &Bytes) -> Result<Present, Failure> {
        let reply = self.call("GET", key, Condition::None, b"").await?;
        match reply.status {
            200 => {
                let revision = revision(&reply)?;
                Ok(Some((reply.body.into(), revision)))
            }
            404 if code(&reply) == Some("NOT_FOUND".to_owned()) => Ok(None),
            _ => Err(refused(&reply)),
        }
    }

    /// The revision that a write was given, or that its condition was not met.
    async fn change(
        &self,
        method: &str,
        key: &Bytes,
        condition: Condition,
        value: &[u8],
    ) -> Result<Option<u64>, Failure> {
        let reply = self.call(method, key, condition, value).await?;
        match reply.status {
            204 => revision(&reply).map(Some),
            412 => Ok(None),
            _ => Err(refused(&reply)),
        }
    }

    /// Looks at what is there and writes what `decide` makes of it, unless it has an answer already.
    async fn swap(
        &self,
        key: &Bytes,
        decide: impl Fn(Option<Bytes>) -> Result<(Bytes, Answer), Result<Answer, Failure>> + Send,
    ) -> Result<(Answer, Option<u64>), Failure> {
        let until = Instant::now() + self.patience;
        loop {
            // Nothing was written so far, whatever becomes of this.
            let present = self.get(key).await;
            let present = present.map_err(|failure| Failure { maybe_applied: false, ..failure })?;
            let condition = match &present {
                Some((_, revision)) => Condition::Revision(*revision),
                None => Condition::Absent,
            };
            let (new, answer) = match decide(present.map(|(value, _)| value)) {
                Ok(decided) => decided,
                Err(answer) => return answer.map(|answer| (answer, None)),
            };
            if let Some(revision) = self.change("PUT", key, condition, &new).await? {
                return Ok((answer, Some(revision)));
            }
            if Instant::now() >= until {
                return Err(not_done("others were quicker each time"));
            }
        }
    }

    async fn one(&self, key: &Bytes, call: &Call) -> Result<(Answer, Option<u64>), Failure> {
        let swap_if = async |expected: Option<Bytes>, new: &Bytes| {
            let decide = |present: Option<Bytes>| match present == expected {
                true => Ok((new.clone(), Answer::Conditional(Ok(())))),
                false => Err(Ok(Answer::Conditional(Err(present)))),
            };
            self.swap(key, decide).await
        };
        match call {
            Call::Read => {
                let present = self.get(key).await?;
                let revision = present.as_ref().map(|(_, revision)| *revision);
                Ok((Answer::Value(present.map(|(value, _)| value)), revision))
            }
            Call::Write(new) => {
                let revision = self.change("PUT", key, Condition::None, new).await?;
                let revision = revision.ok_or_else(|| Failure::silence("412 to no condition"))?;
                Ok((Answer::Written, Some(revision)))
            }
            Call::Delete => {
                let revision = self.change("DELETE", key, Condition::Present, b"").await?;
                Ok((Answer::Deleted(revision.is_some()), revision))
            }
            Call::CompareAndPut { expected, new } => swap_if(expected.clone(), new).await,
            Call::PutIfAbsent(new) => swap_if(None, new).await,
            Call::GetAndPut(new) => {
                let decide = |present| Ok((new.clone(), Answer::Previous(present)));
                self.swap(key, decide).await
            }
            Call::Increment(delta) => {
                let decide = |present: Option<Bytes>| {
                    let start = present.map_or(Some(0), |digits| number(&digits));
                    let range = start.and_then(|start| Some((start, start.checked_add(*delta)?)));
                    let (start, end) = range.ok_or_else(|| Err(not_done("not a counter")))?;
                    Ok((Bytes::from(end.to_string()), Answer::Range(start, end)))
                };
                self.swap(key, decide).await
            }
        }
    }

    async fn call(
        &self,
        method: &str,
        key: &Bytes,
        condition: Condition,
        body: &[u8],
    ) -> Result<HttpReply, Failure> {
        let millis = self.patience.as_millis();
        let target = format!("/kv/{}?timeout={millis}ms", percent_encode(key, NON_ALPHANUMERIC));
        let tag;
        let header = match condition {
            Condition::None => None,
            Condition::Absent => Some(("if-none-match", "*")),
            Condition::Present => Some(("if-match", "*")),
            Condition::Revision(revision) => {
                tag = format!("\"{revision}\"");
                Some(("if-match", tag.as_str()))
            }
        };
        let exchange = http(&self.address, method, &target, header.as_slice(), body);
        match timeout(self.patience, exchange).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                Err(not_done("connection refused"))
            }
            Ok(Err(error)) => Err(Failure::silence(error.to_string())),
            Err(_) => Err(Failure::silence("no answer in time")),
        }
    }
}

/// It certainly had no effect.
fn not_done(message: &str) -> Failure {
    Failure { maybe_applied: false, ..Failure::silence(message) }
}

/// What an answer that is no success promises. One that promises nothing is unknown.
fn refused(reply: &HttpReply) -> Failure {
    let body: Option<serde_json::Value> = serde_json::from_slice(&reply.body).ok();
    let promised = body.as_ref().and_then(|body| body["maybe_applied"].as_bool());
    Failure {
        maybe_applied: promised.unwrap_or(true),
        data_loss: code(reply).is_some_and(|code| code == "DATA_LOSS"),
        is_fault: matches!(reply.status, 400 | 405 | 500 | 501),
        message: format!("{}: {}", reply.status, String::from_utf8_lossy(&reply.body)),
    }
}

fn code(reply: &HttpReply) -> Option<String> {
    let body: serde_json::Value = serde_json::from_slice(&reply.body).ok()?;
    body["code"].as_str().map(str::to_owned)
}

fn revision(reply: &HttpReply) -> Result<u64, Failure> {
    let told = reply.headers.get("x-revision").and_then(|text| text.parse().ok());
    told.ok_or_else(|| Failure::silence(format!("no revision: {:?}", reply.headers)))
}

fn number(digits: &[u8]) -> Option<i64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[tonic::async_trait]
impl Store for Rest {
    async fn ask(&self, request: &Request) -> Result<Reply, Failure> {
        match request {
            Request::One(key, call) => {
                let (answer, revision) = self.one(key, call).await?;
                Ok(Reply { answer, revision })
            }
            Request::Txn(_) => Err(not_done("REST has no transactions")),
        }
    }

    async fn read(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, Failure> {
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            found.push(self.get(key).await?.map(|(value, _)| value));
        }
        Ok(found)
    }

    fn can(&self, request: &Request) -> bool {
        matches!(request, Request::One(..))
    }

    fn name(&self) -> String {
        format!("http://{}", self.address)
    }
}
