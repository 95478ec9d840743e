//! Asking one node over gRPC, with the code that is generated from the contracts and nothing in
//! between: no retries, no routing.

use std::{error::Error, io, time::Duration};

use bytes::Bytes;
use flotilla_proto::{
    MESSAGE_BYTES_MAX, clients,
    kv::kv_service_client::KvServiceClient,
    v1::{
        self, ErrorDetail, ReadMode, RequestContext, cluster_client::ClusterClient,
        error_detail::Reason, kv_client::KvClient,
    },
};
use tokio::time::Instant;
use tonic::{
    Request, Status,
    transport::{Channel, Endpoint},
};

/// How often a check is asked how far it is, and bound on the wait for it.
const CHECK_POLL: Duration = Duration::from_millis(20);
const CHECK_MAX: Duration = Duration::from_secs(20);

/// A client of one node, cheap to clone.
///
/// The connection is made when it is needed and again when it was lost.
#[derive(Clone)]
pub struct Session {
    /// `host:port` of the node.
    pub address: String,
    /// The full API.
    pub kv: KvClient<Channel>,
    /// The course's API.
    pub seed: KvServiceClient<Channel>,
    /// Membership and state.
    pub cluster: ClusterClient<Channel>,
    /// How long a call of this session's own methods may take.
    pub patience: Duration,
}

impl Session {
    /// A client of the node at `address`.
    ///
    /// # Panics
    /// When `address` is no address. Must be called in a Tokio runtime.
    #[must_use]
    pub fn new(address: &str) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .expect("host:port is an address")
            .connect_timeout(Duration::from_secs(2))
            .tcp_nodelay(true)
            // A paused node keeps its connections; without this they would be waited on for ever.
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(10));
        Self::over(address, endpoint.connect_lazy())
    }

    /// A client of the node at `address`, which `channel` leads to.
    #[must_use]
    pub fn over(address: &str, channel: Channel) -> Self {
        Self {
            address: address.to_owned(),
            kv: clients::kv(channel.clone()).max_encoding_message_size(4 * MESSAGE_BYTES_MAX),
            seed: clients::kv_service(channel.clone())
                .max_encoding_message_size(4 * MESSAGE_BYTES_MAX),
            cluster: clients::cluster(channel),
            patience: Duration::from_secs(5),
        }
    }

    /// The same client with another bound for each call.
    #[must_use]
    pub fn patient(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// A request that carries the deadline of this session.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.patience);
        request
    }

    /// Stores a value, and answers its revision.
    ///
    /// # Errors
    /// As the server answers.
    pub async fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<u64, Status> {
        let message = v1::PutRequest { key: key.into(), value: value.into(), ..Default::default() };
        Ok(self.kv.clone().put(self.request(message)).await?.into_inner().revision)
    }

    /// Reads a value, linearizably.
    ///
    /// # Errors
    /// As the server answers.
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Option<Bytes>, Status> {
        self.get_as(key, ReadMode::Linearizable).await
    }

    /// Reads what this node has applied, which may be old.
    ///
    /// # Errors
    /// As the server answers.
    pub async fn get_stale(&self, key: impl Into<Bytes>) -> Result<Option<Bytes>, Status> {
        self.get_as(key, ReadMode::Stale).await
    }

    async fn get_as(&self, key: impl Into<Bytes>, mode: ReadMode) -> Result<Option<Bytes>, Status> {
        let context = RequestContext { read_mode: mode.into(), ..Default::default() };
        let message = v1::GetRequest { context: Some(context), key: key.into() };
        let answer = self.kv.clone().get(self.request(message)).await?.into_inner();
        Ok(answer.kv.map(|kv| kv.value))
    }

    /// Reads many values, each linearizably; the answer has the present ones.
    ///
    /// # Errors
    /// As the server answers.
    pub async fn get_many(&self, keys: Vec<Bytes>) -> Result<Vec<v1::KeyValue>, Status> {
        let message = v1::BatchGetRequest { context: None, keys };
        Ok(self.kv.clone().batch_get(self.request(message)).await?.into_inner().kvs)
    }

    /// Removes a key; whether it was there.
    ///
    /// # Errors
    /// As the server answers.
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<bool, Status> {
        let message = v1::DeleteRequest { key: key.into(), ..Default::default() };
        Ok(self.kv.clone().delete(self.request(message)).await?.into_inner().deleted)
    }

    /// The state of the node.
    ///
    /// # Errors
    /// As the server answers.
    pub async fn status(&self) -> Result<v1::StatusResponse, Status> {
        let request = self.request(v1::StatusRequest::default());
        Ok(self.cluster.clone().status(request).await?.into_inner())
    }

    /// The cluster's nodes as this node knows them, removed ones too.
    ///
    /// # Errors
    /// As the server answers.
    pub async fn nodes(&self) -> Result<v1::ListNodesResponse, Status> {
        let request = self.request(v1::ListNodesRequest { all: true, ..Default::default() });
        Ok(self.cluster.clone().list_nodes(request).await?.into_inner())
    }

    /// Makes the peers of every region add up their state at one applied index, and compares.
    ///
    /// # Errors
    /// When a region cannot be checked or two of its peers differ.
    pub async fn check_regions(&self) -> Result<(), String> {
        let regions = self.regions().await.map_err(|status| status.to_string())?;
        for region in regions.into_iter().filter_map(|info| info.region) {
            let region_id = region.region_id;
            let mut check = v1::CheckRegionRequest { region_id, check_id: 0 };
            let deadline = Instant::now() + CHECK_MAX;
            let answer = loop {
                let request = self.request(check);
                let answer = self.cluster.clone().check_region(request).await;
                let answer = answer.map_err(|status| status.to_string())?.into_inner();
                if answer.done || Instant::now() >= deadline {
                    break answer;
                }
                check.check_id = answer.check_id;
                tokio::time::sleep(CHECK_POLL).await;
            };
            let silent = answer.peers.iter().any(|peer| !peer.error.is_empty());
            if !answer.consistent || silent || answer.peers.len() != region.peers.len() {
                return Err(format!("region {region_id}: {answer:?}"));
            }
        }
        Ok(())
    }

    /// All regions, the system's too.
    ///
    /// # Errors
    /// As the server answers.
    pub async fn regions(&self) -> Result<Vec<v1::RegionInfo>, Status> {
        let request = self.request(v1::ListRegionsRequest { all: true, ..Default::default() });
        Ok(self.cluster.clone().list_regions(request).await?.into_inner().regions)
    }
}

/// What is known about a call that did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It had no effect: the server promised so, or was never reached.
    NotApplied,
    /// It may have had its effect, may have it later, or never.
    Unknown,
}

/// Reads the promise in an error. What promises nothing is unknown.
#[must_use]
pub fn outcome(status: &Status) -> Outcome {
    if let Some(detail) = detail(status) {
        return if detail.maybe_applied { Outcome::Unknown } else { Outcome::NotApplied };
    }
    // Refused before a connection stood, so nothing was sent.
    let mut cause: Option<&(dyn Error + 'static)> = status.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>()
            && error.kind() == io::ErrorKind::ConnectionRefused
        {
            return Outcome::NotApplied;
        }
        cause = error.source();
    }
    Outcome::Unknown
}

/// The machine-readable part of an error.
#[must_use]
pub fn detail(status: &Status) -> Option<ErrorDetail> {
    flotilla_proto::status::detail(status)
}

/// The reason in the machine-readable part of an error.
#[must_use]
pub fn reason(status: &Status) -> Option<Reason> {
    detail(status).and_then(|detail| detail.reason)
}

#[cfg(test)]
mod tests {
    use flotilla_proto::status::with_detail;

    use super::*;

    #[tokio::test]
    async fn refused_connection_is_not_applied_and_silence_is_unknown() {
        let free = super::super::ports::free_port();
        let refused = Session::new(&format!("127.0.0.1:{free}")).put("k", "v").await;
        assert_eq!(outcome(&refused.expect_err("nobody listens")), Outcome::NotApplied);

        // Accepts and never answers.
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = silent.local_addr().expect("a bound socket has an address").to_string();
        let session = Session::new(&address).patient(Duration::from_millis(300));
        let waited = session.put("k", "v").await;
        assert_eq!(outcome(&waited.expect_err("nobody answers")), Outcome::Unknown);
    }

    #[test]
    fn detail_of_an_error_is_believed() {
        for (maybe_applied, want) in [(false, Outcome::NotApplied), (true, Outcome::Unknown)] {
            let detail = ErrorDetail { maybe_applied, ..Default::default() };
            let status = with_detail(tonic::Code::Unavailable, "no leader", &detail);
            assert_eq!(outcome(&status), want);
        }
        assert_eq!(outcome(&Status::unavailable("says nothing")), Outcome::Unknown);
    }
}
