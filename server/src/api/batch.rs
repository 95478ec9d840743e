//! Reads of many keys, over regions in parallel.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use flotilla_proto::{range::KeyRange, v1};
use futures::stream::{self, StreamExt as _};
use tokio::time::Instant;

use super::{
    context,
    kv::KvApi,
    regions::RegionMap,
    retry::{Backoff, mends},
};
use crate::{
    error::Error,
    router::{Context, Requests},
};

/// Regions that one request reads or writes at a time.
pub(super) const REGIONS_IN_PARALLEL: usize = 16;

/// Keys that one read asks of a region. Bound: values come whole, so that a read is at most so many
/// of them, and the sum is checked before the next.
const KEYS_PER_READ: usize = 64;

impl<R: Requests> KvApi<R> {
    pub(super) async fn batch_get(
        &self,
        deadline: Instant,
        request: v1::BatchGetRequest,
    ) -> Result<v1::BatchGetResponse, Error> {
        let v1::BatchGetRequest { context, keys } = request;
        self.limits.check_keys(&keys)?;
        let (keyspace, cx) = context::open(context, deadline)?;
        let encoded: Vec<Bytes> = keys.iter().map(|key| keyspace.encode(key)).collect();
        let mut found: Vec<Option<v1::KeyValue>> = vec![None; keys.len()];
        let answer_bytes = AtomicUsize::new(0);
        let mut backoff = Backoff::until(deadline);
        let mut open: Vec<usize> = (0..keys.len()).collect();
        while !open.is_empty() {
            let groups = match cx.route {
                Some(_) => vec![open],
                None => self.group_by_region(&encoded, open)?,
            };
            let cx = cx.in_parts(groups.len());
            let reads: Vec<_> = groups
                .into_iter()
                .map(|group| self.read_group(&cx, &encoded, group, &answer_bytes))
                .collect();
            let mut reads = stream::iter(reads).buffer_unordered(REGIONS_IN_PARALLEL);
            open = Vec::new();
            let mut moved = None;
            while let Some((group, result)) = reads.next().await {
                match result {
                    Ok(kvs) => {
                        for (index, kv) in group.into_iter().zip(kvs) {
                            found[index] = kv;
                        }
                    }
                    Err(error) if cx.route.is_none() && mends(&error) => {
                        open.extend(group);
                        moved = Some(error);
                    }
                    Err(error) => return Err(error),
                }
            }
            if let Some(error) = moved {
                backoff.wait(error).await?;
            }
        }
        let present = keys.into_iter().zip(found);
        let kvs = present.filter_map(|(key, kv)| Some(v1::KeyValue { key, ..kv? })).collect();
        Ok(v1::BatchGetResponse { kvs })
    }

    /// Cuts indexes of keys into one group per region.
    fn group_by_region(
        &self,
        encoded: &[Bytes],
        mut open: Vec<usize>,
    ) -> Result<Vec<Vec<usize>>, Error> {
        if open.len() == 1 {
            return Ok(vec![open]);
        }
        open.sort_unstable_by_key(|index| &encoded[*index]);
        let (Some(first), Some(last)) = (open.first(), open.last()) else { return Ok(vec![]) };
        let mut end = encoded[*last].to_vec();
        end.push(0);
        let range = KeyRange::new(encoded[*first].clone(), end);
        let map = RegionMap::covering(&self.requests, &range)?;
        let mut groups: Vec<Vec<usize>> = Vec::with_capacity(map.len());
        let mut current = None;
        for index in open {
            let region = map.index_of(&encoded[index])?;
            match groups.last_mut() {
                Some(group) if current == Some(region) => group.push(index),
                _ => groups.push(vec![index]),
            }
            current = Some(region);
        }
        Ok(groups)
    }

    /// Reads the keys of one region; gives the group back beside what was found.
    async fn read_group(
        &self,
        cx: &Context,
        encoded: &[Bytes],
        group: Vec<usize>,
        answer_bytes: &AtomicUsize,
    ) -> (Vec<usize>, Result<Vec<Option<v1::KeyValue>>, Error>) {
        let mut kvs = Vec::with_capacity(group.len());
        while kvs.len() < group.len() {
            let rest = &group[kvs.len()..];
            let keys: Vec<Bytes> =
                rest.iter().take(KEYS_PER_READ).map(|index| encoded[*index].clone()).collect();
            let asked = keys.len();
            let reply = match self.requests.read_points(cx.clone(), keys).await {
                Ok(reply) => reply,
                Err(error) => return (group, Err(error)),
            };
            if reply.items.is_empty() || reply.items.len() > asked {
                let message = "a read answered another number of keys than asked".into();
                return (group, Err(Error::Internal { message }));
            }
            let mut bytes = 0;
            for item in reply.items {
                let kv = item.kv.filter(|_| item.present);
                bytes += kv.as_ref().map_or(0, |kv| kv.key.len() + kv.value.len());
                kvs.push(kv);
            }
            if answer_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes
                > self.limits.answer_bytes_max
            {
                let error = Error::InvalidArgument {
                    field: "keys".into(),
                    message: "the values are too many bytes for one answer, ask for fewer".into(),
                    limit: self.limits.answer_bytes_max as u64,
                };
                return (group, Err(error));
            }
        }
        (group, Ok(kvs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{
        fake::{FakeRequests, api, region_context, soon},
        limits::Limits,
    };

    fn request(keys: &[&'static str]) -> v1::BatchGetRequest {
        let keys = keys.iter().map(|key| Bytes::from(*key)).collect();
        v1::BatchGetRequest { context: None, keys }
    }

    fn pairs(response: v1::BatchGetResponse) -> Vec<(Bytes, Bytes)> {
        response.kvs.into_iter().map(|kv| (kv.key, kv.value)).collect()
    }

    #[tokio::test]
    async fn present_keys_are_answered_in_the_order_asked() {
        let requests = FakeRequests::with_user_regions(&["g", "p"]);
        requests.fill(&[("a", "1"), ("h", "2"), ("z", "3")]);
        let api = api(&requests);
        let response = api
            .batch_get(soon(), request(&["z", "nothing", "a", "h", "a"]))
            .await
            .expect("all regions answer");
        let want = [("z", "3"), ("a", "1"), ("h", "2"), ("a", "1")];
        assert_eq!(pairs(response), want.map(|(key, value)| (key.into(), value.into())));
        assert_eq!(requests.reads(), 3, "one read for each region");
    }

    #[tokio::test]
    async fn split_between_the_plan_and_the_read_is_followed() {
        let requests = FakeRequests::with_user_regions(&["g"]);
        requests.fill(&[("a", "1"), ("h", "2"), ("z", "3")]);
        requests.split_unnoticed("p");
        let response = api(&requests)
            .batch_get(soon(), request(&["a", "h", "z"]))
            .await
            .expect("the second look finds the child");
        assert_eq!(pairs(response).len(), 3);
    }

    #[tokio::test]
    async fn caller_that_routes_is_told_of_the_split() {
        let requests = FakeRequests::with_user_regions(&["g"]);
        let context = region_context(&requests, "a");
        requests.split_unnoticed("c");
        let request = v1::BatchGetRequest { context: Some(context), ..request(&["a", "d"]) };
        let error = api(&requests).batch_get(soon(), request).await.expect_err("old epoch");
        assert!(matches!(error, Error::EpochNotMatch { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn short_answers_are_continued() {
        let requests = FakeRequests::with_user_regions(&[]);
        requests.fill(&[("a", "1"), ("b", "2"), ("c", "3")]);
        requests.limit_points(1);
        let response =
            api(&requests).batch_get(soon(), request(&["a", "b", "c"])).await.expect("three reads");
        assert_eq!(pairs(response).len(), 3);
        assert_eq!(requests.reads(), 3);
    }

    #[tokio::test]
    async fn limits_are_kept() {
        let requests = FakeRequests::with_user_regions(&[]);
        requests.fill(&[("a", "0123456789"), ("b", "0123456789")]);
        let limits = Limits { txn_ops_max: 2, answer_bytes_max: 20, ..Limits::default() };
        let api = KvApi::new(requests.clone(), limits.into());
        for (why, keys, field) in [
            ("no keys", &[][..], "keys"),
            ("too many", &["a", "b", "c"], "keys"),
            ("an empty one", &["a", ""], "keys[1]"),
            ("too large an answer", &["a", "b"], "keys"),
        ] {
            match api.batch_get(soon(), request(keys)).await {
                Err(Error::InvalidArgument { field: actual, .. }) => {
                    assert_eq!(actual, field, "{why}");
                }
                other => panic!("{why}: {other:?}"),
            }
        }
        assert_eq!(pairs(api.batch_get(soon(), request(&["a"])).await.expect("fits")).len(), 1);
    }
}
