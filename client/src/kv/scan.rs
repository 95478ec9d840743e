//! Ranges of keys, as a stream that outlives leaders and splits.
//!
//! The server streams pages across regions. When the stream breaks, it is opened again right after
//! the last key that arrived, on whatever node helps; keys are delivered in order, each once. Every key
//! is checked against the one before, so that a fault cannot show as a duplicate or as disorder.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use flotilla_proto::{
    clients,
    keyspace::{KeyspaceId, encode, prefix_end},
    range::Borders,
    v1,
};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use tokio::time::{Instant, timeout_at};
use tonic::Streaming;

use crate::{
    Client, Error, KeyValue,
    call::{Aim, Audience, Progress},
    node_pool::Connection,
    pin::connect,
    routes::Span,
    verdict::{Failure, Kind},
};

/// Which keys to stream, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    start: Bytes,
    end: Bytes,
    reverse: bool,
    limit: u64,
    keys_only: bool,
    /// Invariant: only without an end and not in reverse, which the server would refuse.
    all_keyspaces: bool,
}

impl Scan {
    /// Every key of the keyspace.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// The keys in `[start, end)`; an empty end is the end of the keyspace.
    #[must_use]
    pub fn range(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        Self { start: start.into(), end: end.into(), ..Self::default() }
    }

    /// The keys that begin with these bytes.
    #[must_use]
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start = prefix.into();
        let end = prefix_end(&start);
        Self::range(start, end)
    }

    /// From the end to the start.
    #[must_use]
    pub fn reverse(mut self) -> Self {
        self.reverse = true;
        self
    }

    /// At most so many keys; 0 is no limit.
    #[must_use]
    pub fn limit(mut self, limit: u64) -> Self {
        self.limit = limit;
        self
    }

    /// Without values.
    #[must_use]
    pub fn keys_only(mut self) -> Self {
        self.keys_only = true;
        self
    }

    fn request(&self) -> v1::ScanRequest {
        v1::ScanRequest {
            context: None,
            start_key: self.start.clone(),
            end_key: self.end.clone(),
            prefix: Bytes::new(),
            reverse: self.reverse,
            limit: self.limit,
            keys_only: self.keys_only,
            all_keyspaces: self.all_keyspaces,
        }
    }

    /// A key whose region the scan begins in, as far as one can be named.
    fn first_key(&self) -> Bytes {
        if self.reverse { self.end.clone() } else { self.start.clone() }
    }

    /// Makes this the rest of the scan after `key`, or says why `key` cannot come now.
    fn advance(&mut self, key: &Bytes) -> Result<(), Error> {
        if !(Borders { start: &self.start, end: &self.end }).contains(key) {
            let message = "a scan answered a key that is outside of its range or came before";
            return Err(Error::Internal { message: message.into() });
        }
        if self.reverse {
            self.end = key.clone();
        } else {
            let mut next = Vec::with_capacity(key.len() + 1);
            next.extend_from_slice(key);
            next.push(0);
            self.start = next.into();
        }
        Ok(())
    }
}

/// The keys of a [`Scan`], in order. Ends after the first error.
pub struct ScanStream {
    keys: Pin<Box<dyn Stream<Item = Result<KeyValue, Error>> + Send>>,
}

impl std::fmt::Debug for ScanStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScanStream").finish_non_exhaustive()
    }
}

impl Stream for ScanStream {
    type Item = Result<KeyValue, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.keys.as_mut().poll_next(cx)
    }
}

/// A keyspace and a key of it.
type KeyOfKeyspace = Result<(u32, KeyValue), Error>;

/// The keys of every keyspace, each with the number of its keyspace. Ends after the first error.
pub struct KeyspacesStream {
    keys: Pin<Box<dyn Stream<Item = KeyOfKeyspace> + Send>>,
}

impl std::fmt::Debug for KeyspacesStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyspacesStream").finish_non_exhaustive()
    }
}

impl Stream for KeyspacesStream {
    type Item = Result<(u32, KeyValue), Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.keys.as_mut().poll_next(cx)
    }
}

impl Client {
    /// Streams the keys of a range in order, without gap or duplicate, through failures and splits. The
    /// timeout bounds the time without progress, not the whole.
    ///
    /// # Guarantees
    /// Each page keeps the promise of the read mode by itself; the whole is not one snapshot.
    ///
    /// # Errors
    /// As the last item of the stream; see [`Error`].
    #[must_use]
    pub fn scan(&self, scan: Scan) -> ScanStream {
        let keys = self.clone().keys_of(scan).map_ok(|(_, kv)| kv);
        ScanStream { keys: keys.boxed() }
    }

    /// Streams every key of this client's keyspace and of all that follow it, from a key on: a copy of
    /// everything, if the keyspace is the first one.
    ///
    /// # Guarantees
    /// As [`Client::scan`].
    ///
    /// # Errors
    /// As the last item of the stream; see [`Error`].
    #[must_use]
    pub fn scan_keyspaces(&self, start: impl Into<Bytes>) -> KeyspacesStream {
        let scan = Scan { start: start.into(), all_keyspaces: true, ..Scan::default() };
        KeyspacesStream { keys: self.clone().keys_of(scan).boxed() }
    }

    fn keys_of(self, scan: Scan) -> impl Stream<Item = KeyOfKeyspace> + Send {
        let state = State { client: self, rest: scan, open: None, is_done: false };
        let pages = stream::try_unfold(state, State::next_page);
        let to_key = |(keyspace, kv)| Ok((keyspace, KeyValue::from(kv)));
        pages.map_ok(move |page| stream::iter(page).map(to_key)).try_flatten()
    }
}

/// Keys with their keyspaces.
type Page = Vec<(u32, v1::KeyValue)>;

struct State {
    /// Its keyspace is the one that `rest` begins in.
    client: Client,
    /// What is still to come.
    rest: Scan,
    open: Option<Open>,
    is_done: bool,
}

struct Open {
    aim: Aim,
    connection: Connection,
    pages: Streaming<v1::ScanResponse>,
    /// The answer had its status in its head: there will be no trailers.
    has_status: bool,
}

impl State {
    async fn next_page(mut self) -> Result<Option<(Page, Self)>, Error> {
        if self.is_done {
            return Ok(None);
        }
        let client = self.client.clone();
        let first = Span::Key(encode(client.settings.keyspace, &self.rest.first_key()));
        let mut progress = Progress::new(&client, Kind::Read, Audience::Anyone, first);
        progress.learn_cluster().await?;
        loop {
            let until = Instant::now() + progress.attempt_timeout();
            let mut open = match self.open.take() {
                Some(open) => open,
                None => {
                    let aim = progress.aim()?;
                    match self.open(aim, until).await {
                        Ok(open) => open,
                        Err((failure, aim)) => {
                            progress.recover(failure, &aim).await?;
                            continue;
                        }
                    }
                }
            };
            match open.next_page(until).await {
                Ok(Some(page)) if page.kvs.is_empty() => self.open = Some(open),
                Ok(Some(page)) => {
                    let page = self.advance(page)?;
                    self.count(page.len())?;
                    self.open = Some(open);
                    return Ok(Some((page, self)));
                }
                Ok(None) => return Ok(None),
                Err(failure) => {
                    open.aim.node.failed(&open.connection, &failure);
                    progress.recover(failure, &open.aim).await?;
                }
            }
        }
    }

    /// Moves on behind a page.
    fn advance(&mut self, page: v1::ScanResponse) -> Result<Page, Error> {
        let v1::ScanResponse { kvs, keyspaces } = page;
        let keyspaces = match (self.rest.all_keyspaces, keyspaces.len() == kvs.len()) {
            (false, _) => vec![self.client.settings.keyspace.get(); kvs.len()],
            (true, true) => keyspaces,
            // A node of a version without such scans leaves them out, and would leave keys out.
            (true, false) => {
                let message = "this version of the server cannot scan all keyspaces at once";
                return Err(Error::Internal { message: message.into() });
            }
        };
        let page: Page = keyspaces.into_iter().zip(kvs).collect();
        for (keyspace, kv) in &page {
            let current = &mut self.client.settings.keyspace;
            if *keyspace > current.get() {
                let no_keyspace = || Error::Internal {
                    message: format!("a scan answered keyspace {keyspace}, which cannot be"),
                };
                *current = KeyspaceId::new(*keyspace).ok_or_else(no_keyspace)?;
                self.rest.start.clear();
            } else if *keyspace < current.get() {
                let message = "a scan answered a keyspace that came before";
                return Err(Error::Internal { message: message.into() });
            }
            self.rest.advance(&kv.key)?;
        }
        Ok(page)
    }

    fn count(&mut self, keys: usize) -> Result<(), Error> {
        if self.rest.limit == 0 {
            return Ok(());
        }
        let too_many = || Error::Internal { message: "a scan answered more than its limit".into() };
        self.rest.limit = self.rest.limit.checked_sub(keys as u64).ok_or_else(too_many)?;
        // Bound: 0 would mean no limit, so a scan that has all its keys must not be opened again.
        self.is_done = self.rest.limit == 0;
        Ok(())
    }

    async fn open(&self, aim: Aim, until: Instant) -> Result<Open, (Failure, Aim)> {
        // A scan crosses regions, so it is never bound to one: the route only chooses the node.
        let mut request = self.rest.request();
        request.context = Some(self.client.context(Kind::Read, None));
        let mut request = tonic::Request::new(request);
        self.client.shared.pin.name(request.metadata_mut());
        let connection = match connect(&aim.node, until).await {
            Ok(connection) => connection,
            Err(failure) => return Err((failure, aim)),
        };
        let mut kv = clients::kv(connection.channel.clone());
        let failure = match timeout_at(until, kv.scan(request)).await {
            Ok(Ok(response)) => {
                connection.answered();
                let has_status = response.metadata().contains_key("grpc-status");
                let pages = response.into_inner();
                self.client.shared.nodes.trust(&aim.node);
                return Ok(Open { aim, connection, pages, has_status });
            }
            Ok(Err(status)) => status.into(),
            Err(_) => Failure::Silent,
        };
        aim.node.failed(&connection, &failure);
        Err((failure, aim))
    }
}

impl Open {
    async fn next_page(&mut self, until: Instant) -> Result<Option<v1::ScanResponse>, Failure> {
        match timeout_at(until, self.pages.message()).await {
            Ok(Ok(Some(page))) => {
                self.connection.answered();
                Ok(Some(page))
            }
            Ok(Ok(None)) if self.has_status || self.has_trailers().await => Ok(None),
            // The end of the stream without a status is a proxy's doing, not the end of the scan.
            Ok(Ok(None)) => Err(Failure::Broken {
                code: tonic::Code::Unknown,
                message: "the stream ended without a status".into(),
                is_cut: false,
            }),
            Ok(Err(status)) => Err(status.into()),
            Err(_) => Err(Failure::Silent),
        }
    }

    async fn has_trailers(&mut self) -> bool {
        matches!(self.pages.trailers().await, Ok(Some(_)))
    }
}

#[cfg(test)]
mod tests;
