//! Deletion of a range, region by region in key order.

use flotilla_proto::{
    range::KeyRange,
    v1::{self, op::Op, op_result::Result as Outcome},
};
use tokio::time::Instant;

use super::{context, kv::KvApi, ops::Deleted, refused::Entries, regions, retry::Backoff};
use crate::{
    error::Error,
    router::{Context, Requests},
};

impl<R: Requests> KvApi<R> {
    /// # Errors
    ///
    /// Once a region is done every error is `OutcomeUnknown`, because something has been applied.
    /// Repeating the call finishes the rest.
    pub(super) async fn delete_range(
        &self,
        deadline: Instant,
        request: v1::DeleteRangeRequest,
    ) -> Result<v1::DeleteRangeResponse, Error> {
        let v1::DeleteRangeRequest { context, start_key, end_key, all, prefix } = request;
        let (keyspace, cx) = context::open(context, deadline)?;
        let asked = Deleted { start_key, end_key, all, prefix };
        let mut rest = asked.resolve(&self.limits, keyspace, "")?;
        let mut response = v1::DeleteRangeResponse::default();
        if rest.is_empty() {
            return Ok(response);
        }
        let mut backoff = Backoff::until(deadline);
        loop {
            let (region, part) = match cx.route {
                Some((region, _)) => (region, rest.clone()),
                None => regions::first_part(&self.requests, &rest, false)
                    .map_err(|error| partly(&response, error))?,
            };
            match self.delete_part(&cx, &part).await {
                Ok(deleted) => {
                    response.deleted += deleted;
                    response.regions_done.push(region.0);
                    if part.end == rest.end {
                        return Ok(response);
                    }
                    rest.start = part.end;
                    backoff = Backoff::until(deadline);
                }
                Err(error) if cx.route.is_none() => {
                    backoff.wait(error).await.map_err(|error| partly(&response, error))?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn delete_part(&self, cx: &Context, part: &KeyRange) -> Result<u64, Error> {
        let range = v1::DeleteRangeOp {
            start_key: part.start.clone(),
            end_key: part.end.clone(),
            ..v1::DeleteRangeOp::default()
        };
        let success = vec![v1::Op { op: Some(Op::DeleteRange(range)) }];
        let command = v1::WriteCommand { success, ..v1::WriteCommand::default() };
        let mut reply = self.apply(cx.clone(), command, Entries::One).await?;
        match reply.results.pop().and_then(|result| result.result) {
            Some(Outcome::DeleteRange(result)) => Ok(result.deleted),
            _ => Err(Error::Internal { message: "a range deletion answered oddly".into() }),
        }
    }
}

/// The error of a deletion that has already done a part.
fn partly(done: &v1::DeleteRangeResponse, error: Error) -> Error {
    if done.regions_done.is_empty() {
        return error;
    }
    let (deleted, regions) = (done.deleted, &done.regions_done);
    Error::OutcomeUnknown {
        message: format!("{deleted} keys were deleted in regions {regions:?}, then: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fake::{FakeRequests, api, region_context, soon};

    fn request(start: &'static str, end: &'static str) -> v1::DeleteRangeRequest {
        v1::DeleteRangeRequest {
            start_key: start.into(),
            end_key: end.into(),
            ..v1::DeleteRangeRequest::default()
        }
    }

    fn all() -> v1::DeleteRangeRequest {
        v1::DeleteRangeRequest { all: true, ..v1::DeleteRangeRequest::default() }
    }

    fn filled(splits: &[&'static str]) -> FakeRequests {
        let requests = FakeRequests::with_user_regions(splits);
        requests.fill(&[("a", "1"), ("b", "2"), ("h", "3"), ("q", "4"), ("z", "5")]);
        requests
    }

    #[tokio::test]
    async fn range_is_deleted_in_every_region_it_touches() {
        for (why, start, end, deleted, left) in [
            ("part of one region", "a", "b", 1, &["b", "h", "q", "z"][..]),
            ("across regions", "b", "r", 3, &["a", "z"]),
            ("to the end", "b", "", 4, &["a"]),
            ("from the start", "", "h", 2, &["h", "q", "z"]),
            ("nothing there", "c", "d", 0, &["a", "b", "h", "q", "z"]),
            ("no range", "b", "b", 0, &["a", "b", "h", "q", "z"]),
        ] {
            let requests = filled(&["g", "p"]);
            let response =
                api(&requests).delete_range(soon(), request(start, end)).await.expect(why);
            assert_eq!(response.deleted, deleted, "{why}");
            assert_eq!(requests.keys(), left, "{why}");
        }
        let requests = filled(&["g", "p"]);
        let response = api(&requests).delete_range(soon(), all()).await.expect("all");
        assert_eq!(response.regions_done, requests.user_region_ids());
    }

    #[tokio::test]
    async fn split_under_way_leaves_nothing_behind() {
        let requests = filled(&["g"]);
        requests.split_unnoticed("b");
        requests.split_unnoticed("q");
        let response = api(&requests).delete_range(soon(), all()).await.expect("all");
        assert_eq!((response.deleted, requests.keys().len()), (5, 0));
    }

    #[tokio::test]
    async fn error_after_a_part_was_done_says_maybe_applied() {
        let requests = filled(&["g", "p"]);
        requests.fail_write(0, Error::Draining);
        let error = api(&requests).delete_range(soon(), all()).await.expect_err("first");
        assert_eq!(error, Error::Draining, "nothing was done, and it says so");

        requests.fail_write(1, Error::Draining);
        let error = api(&requests).delete_range(soon(), all()).await.expect_err("second");
        assert!(error.maybe_applied(), "{error:?}");
        assert_eq!(requests.keys(), ["h", "q", "z"]);
    }

    #[tokio::test]
    async fn caller_that_routes_gets_its_region_alone() {
        let requests = filled(&["g"]);
        let context = Some(region_context(&requests, "a"));
        let whole = v1::DeleteRangeRequest { context, ..all() };
        let error = api(&requests).delete_range(soon(), whole).await.expect_err("two regions");
        assert!(matches!(error, Error::KeyNotInRegion { .. }), "{error:?}");
        let part = v1::DeleteRangeRequest { context, ..request("", "g") };
        let response = api(&requests).delete_range(soon(), part).await.expect("its own");
        assert_eq!((response.deleted, response.regions_done.len()), (2, 1));
    }

    #[tokio::test]
    async fn a_request_that_says_nothing_deletes_nothing() {
        let requests = filled(&["g"]);
        for (why, request, field) in [
            ("no field at all", request("", ""), "all"),
            ("a range and all", v1::DeleteRangeRequest { all: true, ..request("a", "b") }, "all"),
            (
                "a prefix and a range",
                v1::DeleteRangeRequest { prefix: "a".into(), ..request("a", "") },
                "prefix",
            ),
        ] {
            match api(&requests).delete_range(soon(), request).await {
                Err(Error::InvalidArgument { field: actual, .. }) => {
                    assert_eq!(actual, field, "{why}")
                }
                other => panic!("{why}: {other:?}"),
            }
        }
        assert_eq!((requests.writes(), requests.keys().len()), (0, 5));
    }

    #[tokio::test]
    async fn a_prefix_is_its_keys_over_all_regions() {
        let requests = filled(&["b\u{1}", "g"]);
        requests.fill(&[("b1", "1"), ("ba", "2"), ("bz", "3"), ("c", "4")]);
        let prefix = v1::DeleteRangeRequest { prefix: "b".into(), ..request("", "") };
        let response = api(&requests).delete_range(soon(), prefix).await.expect("a prefix");
        assert_eq!((response.deleted, response.regions_done.len()), (4, 2));
        assert_eq!(requests.keys(), ["a", "c", "h", "q", "z"]);
    }

    #[tokio::test]
    async fn range_backwards_is_refused() {
        let requests = filled(&[]);
        let error = api(&requests).delete_range(soon(), request("z", "a")).await;
        assert!(matches!(error, Err(Error::InvalidArgument { field, .. }) if field == "end_key"));
    }
}
