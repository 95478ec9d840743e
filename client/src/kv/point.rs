//! Reads and plain writes of keys.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use flotilla_proto::{keyspace::encode, v1};
use futures::{StreamExt, TryStreamExt};

use super::{renumbered, ttl_millis};
use crate::{Appended, Client, Counted, Deleted, Error, KeyValue, RangeDeleted, Stored};

/// Bound: requests that one batch read has under way.
const REQUESTS_AT_ONCE: usize = 16;

/// What a put may do besides storing the value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PutOptions {
    /// Remove the key after this time. `None`: it never expires.
    pub ttl: Option<Duration>,
    /// Keep the expiry that the key has; not together with `ttl`.
    pub keep_ttl: bool,
    /// Answer with what was there.
    pub return_previous: bool,
}

impl Client {
    /// The value of a key, or `None` when it is absent.
    ///
    /// # Errors
    /// See [`Error`]; absence is not one.
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Option<KeyValue>, Error> {
        let response = self.call(v1::GetRequest { context: None, key: key.into() }).await?;
        Ok(response.kv.map(Into::into))
    }

    /// The values of many keys, in the order of the keys, however many. Each key's read keeps the promise
    /// of the read mode by itself; together they are not one snapshot.
    ///
    /// # Errors
    /// The first failure; see [`Error`].
    pub async fn batch_get<I>(&self, keys: I) -> Result<Vec<Option<KeyValue>>, Error>
    where
        I: IntoIterator,
        I::Item: Into<Bytes>,
    {
        let keys: Vec<Bytes> = keys.into_iter().map(Into::into).collect();
        let groups = self.group_by_region(&keys);
        let found: BTreeMap<Bytes, v1::KeyValue> = futures::stream::iter(groups)
            .map(|group| self.read_group(&keys, group))
            .buffer_unordered(REQUESTS_AT_ONCE)
            .map_ok(|kvs| {
                let present = kvs.into_iter().map(|kv| Ok((kv.key.clone(), kv)));
                futures::stream::iter(present)
            })
            .try_flatten()
            .try_collect()
            .await?;
        Ok(keys.iter().map(|key| found.get(key).cloned().map(Into::into)).collect())
    }

    /// The present ones of some keys, in one request, or in several if the server wants fewer in each.
    /// `all` are those that the caller gave, by whose numbers an error names one.
    async fn read_group(
        &self,
        all: &[Bytes],
        group: Vec<Bytes>,
    ) -> Result<Vec<v1::KeyValue>, Error> {
        let mut found = Vec::new();
        let mut groups = vec![group];
        while let Some(keys) = groups.pop() {
            let count = keys.len();
            let request = v1::BatchGetRequest { context: None, keys: keys.clone() };
            match self.call(request).await {
                Ok(response) => found.extend(response.kvs),
                Err(error) => match self.shared.bounds.fewer(&error, count) {
                    Some(fewer) => groups.extend(keys.chunks(fewer).map(<[Bytes]>::to_vec)),
                    None => {
                        let key = |number| keys.get(number);
                        let of_caller =
                            |number| all.iter().position(|one| Some(one) == key(number));
                        return Err(error.with_text(|text| {
                            renumbered(text, "keys", |number| of_caller(number).unwrap_or(number))
                        }));
                    }
                },
            }
        }
        Ok(found)
    }

    /// Keys of one region together, so that each group goes straight to a leader; those without a route
    /// form groups of their own. No group is more than a request.
    fn group_by_region(&self, keys: &[Bytes]) -> Vec<Vec<Bytes>> {
        let routes = self.shared.routes.read();
        let mut groups: BTreeMap<Option<u64>, Vec<Bytes>> = BTreeMap::new();
        for key in keys {
            let region = routes.region_of(&encode(self.settings.keyspace, key));
            groups.entry(region).or_default().push(key.clone());
        }
        let keys_max = self.shared.bounds.entries();
        let requests = groups.values().flat_map(|keys| keys.chunks(keys_max));
        requests.map(<[Bytes]>::to_vec).collect()
    }

    /// Stores a value under a key, replacing the one that was there. It never expires.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn put(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> Result<Stored, Error> {
        self.put_with(key, value, PutOptions::default()).await
    }

    /// As [`Client::put`], with options.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn put_with(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        options: PutOptions,
    ) -> Result<Stored, Error> {
        let request = v1::PutRequest {
            context: None,
            key: key.into(),
            value: value.into(),
            ttl_ms: ttl_millis(options.ttl)?,
            keep_ttl: options.keep_ttl,
            return_previous: options.return_previous,
        };
        let response = self.call(request).await?;
        let previous = response.previous.map(Into::into);
        Ok(Stored { revision: response.revision, previous })
    }

    /// Removes a key. Removing an absent key succeeds and says so.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<Deleted, Error> {
        self.delete_key(key.into(), false).await
    }

    /// As [`Client::delete`], and answers with what was there.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn take(&self, key: impl Into<Bytes>) -> Result<Deleted, Error> {
        self.delete_key(key.into(), true).await
    }

    async fn delete_key(&self, key: Bytes, return_previous: bool) -> Result<Deleted, Error> {
        let request = v1::DeleteRequest { context: None, key, return_previous };
        let v1::DeleteResponse { revision, deleted, previous } = self.call(request).await?;
        Ok(Deleted { revision, deleted, previous: previous.map(Into::into) })
    }

    /// Removes every key in `[start, end)`, region by region; an empty end is the end of the
    /// keyspace, and an empty start its start. Not atomic over regions: after
    /// [`Error::MaybeApplied`] some may have done their part.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when both are empty: see [`Client::delete_all`]. Else see [`Error`].
    pub async fn delete_range(
        &self,
        start: impl Into<Bytes>,
        end: impl Into<Bytes>,
    ) -> Result<RangeDeleted, Error> {
        let (start_key, end_key) = (start.into(), end.into());
        self.delete_keys(v1::DeleteRangeRequest { start_key, end_key, ..Default::default() }).await
    }

    /// As [`Client::delete_range`], of the keys that begin with `prefix`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when it is empty: see [`Client::delete_all`]. Else see [`Error`].
    pub async fn delete_prefix(&self, prefix: impl Into<Bytes>) -> Result<RangeDeleted, Error> {
        let prefix = prefix.into();
        self.delete_keys(v1::DeleteRangeRequest { prefix, ..Default::default() }).await
    }

    /// As [`Client::delete_range`], of every key of the keyspace.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete_all(&self) -> Result<RangeDeleted, Error> {
        self.delete_keys(v1::DeleteRangeRequest { all: true, ..Default::default() }).await
    }

    async fn delete_keys(&self, request: v1::DeleteRangeRequest) -> Result<RangeDeleted, Error> {
        let v1::DeleteRangeResponse { deleted, regions_done } = self.call(request).await?;
        Ok(RangeDeleted { deleted, regions_done })
    }

    /// Adds bytes to the end of a value; an absent key counts as empty. Keeps the expiry.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn append(
        &self,
        key: impl Into<Bytes>,
        suffix: impl Into<Bytes>,
    ) -> Result<Appended, Error> {
        let request = v1::AppendRequest { context: None, key: key.into(), value: suffix.into() };
        let v1::AppendResponse { revision, value_bytes } = self.call(request).await?;
        Ok(Appended { revision, value_bytes })
    }

    /// Adds to a counter; an absent key counts as 0. The numbers `[start, end)` of the answer belong
    /// to the caller alone: a sequence.
    ///
    /// # Errors
    /// [`Error::NotACounter`] when the value is no number or would overflow; else see [`Error`].
    pub async fn increment(&self, key: impl Into<Bytes>, delta: i64) -> Result<Counted, Error> {
        let request = v1::IncrementRequest { context: None, key: key.into(), delta };
        let v1::IncrementResponse { revision, start, end } = self.call(request).await?;
        Ok(Counted { revision, start, end })
    }
}
