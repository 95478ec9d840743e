//! Scans: a range in order, page by page, across regions.
//!
//! A page is one read in one region, clipped to where the region is believed to end. A region that
//! has changed meanwhile refuses the read as a whole, so the cursor moves only over ranges that were
//! read completely: no key is missed and none repeated, whatever splits or merges in between.

use std::sync::Arc;

use flotilla_proto::{range::KeyRange, v1};
use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::time::Instant;
use tonic::Status;

use super::{
    admission::{InFlight, Permit},
    context::{self, Keyspace, user_key},
    kv::KvApi,
    limits::Limits,
    regions,
    retry::Backoff,
    status::status,
};
use crate::{
    command,
    error::Error,
    router::{Context, Requests},
};

/// What each page may hold without asking: the number of scans already bounds it.
const FREE_BYTES: usize = 64 << 10;

/// A scan under way. It holds no page: memory is that of the page its caller holds until it asks for the next.
///
/// Bound: `pages_held_bytes_max` of pages beyond their first 64 KiB, over all scans. Room for a page is taken
/// before it is read, and what it did not need is given back.
#[derive(Debug)]
pub(super) struct Pager<R> {
    requests: R,
    limits: Arc<Limits>,
    /// The deadline in it is the current page's.
    cx: Context,
    /// Of the scan as a whole, if its caller named one.
    deadline: Option<Instant>,
    /// What is still to be read; `None` when the scan is over.
    rest: Option<KeyRange>,
    reverse: bool,
    keys_only: bool,
    /// Each key tells its keyspace.
    all_keyspaces: bool,
    /// Keys still wanted.
    limit: u64,
    pages: Arc<InFlight>,
    /// Of the page that the caller has.
    held: Option<Permit>,
    /// A page of it was answered.
    has_begun: bool,
    /// What the next item takes of a page, where it was too large for the one before.
    next_bytes: u64,
}

impl<R: Requests> KvApi<R> {
    /// Begins a scan; nothing is read yet.
    pub(super) fn scan(
        &self,
        deadline: Option<Instant>,
        request: v1::ScanRequest,
    ) -> Result<Pager<R>, Error> {
        let v1::ScanRequest {
            context,
            start_key,
            end_key,
            prefix,
            reverse,
            limit,
            keys_only,
            all_keyspaces,
        } = request;
        self.limits.check_bound("start_key", &start_key)?;
        self.limits.check_bound("end_key", &end_key)?;
        self.limits.check_bound("prefix", &prefix)?;
        let now = Instant::now();
        let (keyspace, cx) = context::open(context, now)?;
        let is_part = reverse || !end_key.is_empty() || !prefix.is_empty();
        let range = if all_keyspaces && is_part {
            let message = "goes with neither end_key nor prefix nor reverse";
            return Err(Error::invalid("all_keyspaces", message));
        } else if all_keyspaces {
            Some(keyspace.and_all_after(&start_key))
        } else if !prefix.is_empty() {
            Some(keyspace.prefix(&prefix))
        } else if end_key.is_empty() || start_key < end_key {
            Some(keyspace.range(&start_key, &end_key))
        } else if start_key == end_key {
            None
        } else {
            return Err(Error::invalid("end_key", "must not come before start_key"));
        };
        if deadline.is_some_and(|deadline| deadline <= now) {
            return Err(Error::DeadlineExceeded { message: "it came with no time left".into() });
        }
        Ok(Pager {
            requests: self.requests.clone(),
            limits: Arc::clone(&self.limits),
            cx,
            deadline,
            rest: range,
            reverse,
            keys_only,
            all_keyspaces,
            limit: if limit == 0 { u64::MAX } else { limit },
            pages: Arc::clone(&self.pages),
            held: None,
            has_begun: false,
            next_bytes: 0,
        })
    }
}

impl<R: Requests> Pager<R> {
    /// The keys of the next page, never empty; `None` at the end. As [`Pager::next_page`].
    pub(super) async fn next(&mut self) -> Result<Option<Vec<v1::KeyValue>>, Error> {
        Ok(self.next_page().await?.map(|page| page.kvs))
    }

    /// The next page, never empty; `None` at the end.
    ///
    /// # Errors
    ///
    /// The scan is over then; what was answered before is right and without gap.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no key: the cursor has not moved.
    async fn next_page(&mut self) -> Result<Option<v1::ScanResponse>, Error> {
        self.held = None;
        while let Some(rest) = self.rest.take() {
            let page_deadline = Instant::now() + self.limits.request_timeout_default;
            self.cx.deadline = self.deadline.map_or(page_deadline, |end| end.min(page_deadline));
            // Put back first, so that a dropped future leaves the scan where it was.
            self.rest = Some(rest.clone());
            let read = self.read_page(&rest).await;
            self.rest = None;
            let (part, mut reply, mut room) = read?;
            if reply.more && reply.reached.is_empty() {
                // Of an earlier build, which goes by the last key that it answers.
                let last = reply.items.last().and_then(|item| item.kv.as_ref());
                reply.reached = last.map(|kv| kv.key.clone()).unwrap_or_default();
            }
            if reply.more && !part.contains(&reply.reached) {
                return Err(Error::Internal { message: "a page went beyond its range".into() });
            }
            self.limit = self.limit.saturating_sub(reply.items.len() as u64);
            self.rest = match reply.more {
                _ if self.limit == 0 => None,
                true if self.reverse => Some(KeyRange { start: rest.start, end: reply.reached }),
                true => {
                    let next = [&reply.reached[..], &[0]].concat();
                    Some(KeyRange { start: next.into(), end: rest.end })
                }
                false => self.after(rest, part),
            };
            if reply.items.is_empty() {
                continue;
            }
            let bytes = reply.items.iter().filter_map(|item| item.kv.as_ref());
            let bytes = bytes.map(|kv| command::item_bytes(kv.key.len(), kv.value.len())).sum();
            if let Some(room) = &mut room {
                room.keep(beyond_free(bytes));
            }
            self.held = room;
            self.next_bytes = reply.next_bytes;
            self.has_begun = true;
            let page = self.page(reply.items)?;
            return Ok(Some(page));
        }
        Ok(None)
    }

    /// The pages as a stream that ends with the scan or its first error. Dropping it ends the scan.
    pub(super) fn into_stream(self) -> BoxStream<'static, Result<v1::ScanResponse, Status>> {
        stream::try_unfold(self, |mut pager| async move {
            match pager.next_page().await {
                Ok(Some(page)) => Ok(Some((page, pager))),
                Ok(None) => Ok(None),
                Err(error) => Err(status(&error)),
            }
        })
        .boxed()
    }

    /// Reads a page from the near end of `rest`; answers which part of it the page is about, and the room that
    /// was made for it.
    async fn read_page(
        &self,
        rest: &KeyRange,
    ) -> Result<(KeyRange, v1::ReadReply, Option<Permit>), Error> {
        let mut backoff = Backoff::until(self.cx.deadline);
        let (mut bytes_max, mut room) = self.make_room(self.next_bytes)?;
        loop {
            let part = match self.cx.route {
                Some(_) => rest.clone(),
                None => regions::first_part(&self.requests, rest, self.reverse)?.1,
            };
            let range = v1::RangeRead {
                start_key: part.start.clone(),
                end_key: part.end.clone(),
                reverse: self.reverse,
                keys_only: self.keys_only,
                limit: self.limit.min(self.limits.scan_page_keys_max),
                bytes_max,
            };
            match self.requests.read_range(self.cx.clone(), range).await {
                Ok(reply) if reply.items.is_empty() && reply.next_bytes > bytes_max => {
                    drop(room);
                    (bytes_max, room) = self.make_room(reply.next_bytes)?;
                }
                Ok(reply) if reply.items.is_empty() && reply.more && reply.reached.is_empty() => {
                    return Err(Error::Internal { message: "a page made no progress".into() });
                }
                Ok(reply) => return Ok((part, reply, room)),
                // What has begun is not broken off because others came meanwhile.
                Err(error @ Error::Busy { .. }) if self.has_begun => {
                    backoff.wait_for_time(error).await?;
                }
                Err(error) if self.cx.route.is_none() => backoff.wait(error).await?,
                Err(error) => return Err(error),
            }
        }
    }

    /// Room for a page, or for a single item that is larger than one, and how much it is.
    fn make_room(&self, item_bytes: u64) -> Result<(u64, Option<Permit>), Error> {
        let take = |bytes: u64| match beyond_free(bytes) {
            0 => Ok((bytes, None)),
            more => self.pages.take(more).map(|room| (bytes, Some(room))),
        };
        // Smaller pages while many scans hold theirs, so that none has to be refused.
        let least = (FREE_BYTES / 2) as u64;
        let page = (self.pages.room() / 8) as u64;
        let page = page.max(least).min(self.limits.scan_page_bytes as u64);
        if item_bytes > page { take(item_bytes) } else { take(page).or_else(|_| take(least)) }
    }

    /// What remains of `rest` once `part`, which is its near end, was read.
    fn after(&self, rest: KeyRange, part: KeyRange) -> Option<KeyRange> {
        if self.reverse {
            (part.start > rest.start).then(|| KeyRange { start: rest.start, end: part.start })
        } else {
            (part.end != rest.end).then(|| KeyRange { start: part.end, end: rest.end })
        }
    }

    fn page(&self, items: Vec<v1::ReadItem>) -> Result<v1::ScanResponse, Error> {
        let mut page = v1::ScanResponse::default();
        for kv in items.into_iter().filter_map(|item| item.kv) {
            if self.all_keyspaces {
                page.keyspaces.push(Keyspace::of(&kv.key)?);
            }
            page.kvs.push(v1::KeyValue { key: user_key(&kv.key)?, ..kv });
        }
        Ok(page)
    }
}

/// What a page of so many bytes has to ask for.
fn beyond_free(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX).saturating_sub(FREE_BYTES)
}

#[cfg(test)]
mod tests;
