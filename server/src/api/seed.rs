//! `kv.KvService`: the course's four calls, as shapes of the full API.

use flotilla_proto::{
    kv::{
        CommonReply, DeleteRequest, ExistsReply, ExistsRequest, GetReply, GetRequest, SetRequest,
        kv_service_server::KvService,
    },
    v1,
};
use tonic::Request;

use super::{
    grpc::{Answer, answer, open},
    kv::KvApi,
};
use crate::{error::Error, router::Requests};

/// The course's service over the same calls as the full API.
#[derive(Clone, Debug)]
pub(super) struct SeedApi<R>(pub(super) KvApi<R>);

#[tonic::async_trait]
impl<R: Requests> KvService for SeedApi<R> {
    async fn set(&self, request: Request<SetRequest>) -> Answer<CommonReply> {
        let (deadline, SetRequest { key, value }) = open(&self.0.limits, request)?;
        if !key.is_empty() && value.is_empty() {
            return answer(Err(Error::invalid("value", "must not be empty")));
        }
        let put = v1::PutRequest { key, value, ..v1::PutRequest::default() };
        answer(self.0.put(deadline, put).await.map(|_| CommonReply {}))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Answer<CommonReply> {
        let (deadline, DeleteRequest { key }) = open(&self.0.limits, request)?;
        let delete = v1::DeleteRequest { key, ..v1::DeleteRequest::default() };
        answer(self.0.delete(deadline, delete).await.map(|_| CommonReply {}))
    }

    async fn get(&self, request: Request<GetRequest>) -> Answer<GetReply> {
        let (deadline, GetRequest { key }) = open(&self.0.limits, request)?;
        let get = v1::GetRequest { context: None, key };
        answer(self.0.get(deadline, get).await.map(|response| match response.kv {
            Some(kv) => GetReply { value: kv.value, found: true },
            None => GetReply::default(),
        }))
    }

    async fn exists(&self, request: Request<ExistsRequest>) -> Answer<ExistsReply> {
        let (deadline, ExistsRequest { key }) = open(&self.0.limits, request)?;
        let get = v1::GetRequest { context: None, key };
        answer(
            self.0.get(deadline, get).await.map(|reply| ExistsReply { flag: reply.kv.is_some() }),
        )
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tonic::Code;

    use super::*;
    use crate::api::fake::{FakeRequests, api};

    fn seed(requests: &FakeRequests) -> SeedApi<FakeRequests> {
        SeedApi(api(requests))
    }

    fn set(key: &'static str, value: &'static str) -> Request<SetRequest> {
        Request::new(SetRequest { key: key.into(), value: value.into() })
    }

    #[tokio::test]
    async fn four_calls_tell_one_story() {
        let requests = FakeRequests::with_user_regions(&["m"]);
        let seed = seed(&requests);
        let key = Bytes::from("key");
        let get = || Request::new(GetRequest { key: key.clone() });
        let exists = || Request::new(ExistsRequest { key: key.clone() });
        let delete = || Request::new(DeleteRequest { key: key.clone() });

        assert!(!seed.exists(exists()).await.expect("absent").into_inner().flag);
        let absent = seed.get(get()).await.expect("absent is an answer").into_inner();
        assert_eq!(absent, GetReply { value: Bytes::new(), found: false });
        seed.set(set("key", "value")).await.expect("stored");
        assert!(seed.exists(exists()).await.expect("present").into_inner().flag);
        let present = seed.get(get()).await.expect("present").into_inner();
        assert_eq!(present, GetReply { value: "value".into(), found: true });
        assert_eq!(requests.keys(), ["key"], "in the default keyspace");
        seed.delete(delete()).await.expect("removed");
        seed.delete(delete()).await.expect("removing an absent key succeeds");
        assert!(!seed.exists(exists()).await.expect("absent again").into_inner().flag);
    }

    #[tokio::test]
    async fn empty_key_or_value_is_refused_and_named() {
        let requests = FakeRequests::with_user_regions(&[]);
        let seed = seed(&requests);
        let empty = Bytes::new();
        for (field, result) in [
            ("key", seed.set(set("", "value")).await.map(drop)),
            ("value", seed.set(set("key", "")).await.map(drop)),
            ("key", seed.get(Request::new(GetRequest { key: empty.clone() })).await.map(drop)),
            (
                "key",
                seed.exists(Request::new(ExistsRequest { key: empty.clone() })).await.map(drop),
            ),
            (
                "key",
                seed.delete(Request::new(DeleteRequest { key: empty.clone() })).await.map(drop),
            ),
        ] {
            let status = result.expect_err("empty");
            assert_eq!(status.code(), Code::InvalidArgument);
            assert!(status.message().starts_with(field), "{}", status.message());
        }
        assert_eq!(requests.writes(), 0);
    }

    #[tokio::test]
    async fn expired_request_is_not_started() {
        let requests = FakeRequests::with_user_regions(&[]);
        let mut late = set("key", "value");
        late.metadata_mut().insert("grpc-timeout", "0m".parse().expect("ASCII"));
        let status = seed(&requests).set(late).await.expect_err("no time left");
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert_eq!(requests.writes(), 0);
    }
}
