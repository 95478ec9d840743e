//! `flotilla.v1.Kv` on the wire: takes the deadline, calls [`KvApi`], turns errors into statuses.

use flotilla_proto::v1::{self, kv_server::Kv};
use futures::stream::BoxStream;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::{answer::respond, context::grpc_timeout, kv::KvApi, limits::Limits, status::status};
use crate::{error::Error, router::Requests};

/// What a handler answers.
pub(super) type Answer<T> = Result<Response<T>, Status>;

/// The deadline and the message of a request.
pub(super) fn open<T>(limits: &Limits, request: Request<T>) -> Result<(Instant, T), Status> {
    let deadline = grpc_timeout(request.metadata().as_ref())
        .and_then(|timeout| limits.deadline(timeout))
        .map_err(|error| status(&error))?;
    Ok((deadline, request.into_inner()))
}

pub(super) fn answer<T: prost::Message>(result: Result<T, Error>) -> Answer<T> {
    result.map(respond).map_err(|error| status(&error))
}

#[tonic::async_trait]
impl<R: Requests> Kv for KvApi<R> {
    async fn get(&self, request: Request<v1::GetRequest>) -> Answer<v1::GetResponse> {
        let (deadline, request) = open(&self.limits, request)?;
        answer(self.get(deadline, request).await)
    }

    async fn batch_get(
        &self,
        request: Request<v1::BatchGetRequest>,
    ) -> Answer<v1::BatchGetResponse> {
        let (deadline, request) = open(&self.limits, request)?;
        answer(self.batch_get(deadline, request).await)
    }

    async fn put(&self, request: Request<v1::PutRequest>) -> Answer<v1::PutResponse> {
        let (deadline, request) = open(&self.limits, request)?;
        answer(self.put(deadline, request).await)
    }

    async fn delete(&self, request: Request<v1::DeleteRequest>) -> Answer<v1::DeleteResponse> {
        let (deadline, request) = open(&self.limits, request)?;
        answer(self.delete(deadline, request).await)
    }

    async fn write(&self, request: Request<v1::WriteRequest>) -> Answer<v1::WriteResponse> {
        let (deadline, request) = open(&self.limits, request)?;
        answer(self.write(deadline, request).await)
    }

    async fn txn(&self, request: Request<v1::TxnRequest>) -> Answer<v1::TxnResponse> {
        let (deadline, request) = open(&self.limits, request)?;
        answer(self.txn(deadline, request).await)
    }

    async fn compare_and_put(
        &self,
        request: Request<v1::CompareAndPutRequest>,
    ) -> Answer<v1::CompareAndPutResponse> {
        let (deadline, request) = open(&self.limits, request)?;
        answer(self.compare_and_put(deadline, request).await)
    }

    async fn put_if_absent(
        &self,
        request: Request<v1::PutIfAbsentRequest>,
    ) -> Answer<v1::PutIfAbsentResponse> {
        let (deadline, request) = open(&self.limits, request)?;
        answer(self.put_if_absent(deadline, request).await)
    }

    async fn get_and_put(
        &self,
        request: Request<v1::GetAndPutRequest>,
    ) -> Answer<v1::GetAndPutResponse> {
        let (deadline, request) = open(&self.limits, request)?;
        answer(self.get_and_put(deadline, request).await)
    }

    async fn append(&self, request: Request<v1::AppendRequest>) -> Answer<v1::AppendResponse> {
        let (deadline, request) = open(&self.limits, request)?;
        answer(self.append(deadline, request).await)
    }

    async fn increment(
        &self,
        request: Request<v1::IncrementRequest>,
    ) -> Answer<v1::IncrementResponse> {
        let (deadline, request) = open(&self.limits, request)?;
        answer(self.increment(deadline, request).await)
    }

    async fn delete_range(
        &self,
        request: Request<v1::DeleteRangeRequest>,
    ) -> Answer<v1::DeleteRangeResponse> {
        let (deadline, request) = open(&self.limits, request)?;
        answer(self.delete_range(deadline, request).await)
    }

    type ScanStream = BoxStream<'static, Result<v1::ScanResponse, Status>>;

    async fn scan(&self, request: Request<v1::ScanRequest>) -> Answer<Self::ScanStream> {
        let timeout = grpc_timeout(request.metadata().as_ref()).map_err(|error| status(&error))?;
        // A scan as a whole has no deadline but the one that its caller names: each page has.
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let pager = self.scan(deadline, request.into_inner()).map_err(|error| status(&error))?;
        Ok(Response::new(pager.into_stream()))
    }
}
