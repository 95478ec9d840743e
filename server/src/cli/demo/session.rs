//! Asking nodes over gRPC, with the code that is generated from the contracts.

use std::time::Duration;

use anyhow::bail;
use flotilla_proto::{
    clients,
    v1::{
        ListRegionsRequest, RegionInfo, StatusRequest, StatusResponse,
        cluster_client::ClusterClient, kv_client::KvClient,
    },
};
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint},
};

use crate::world::clock;

/// How long a single call may take.
const CALL: Duration = Duration::from_secs(5);
/// How long a caller goes on asking one node after the other.
const PATIENCE: Duration = Duration::from_secs(20);
/// Before the next node is asked.
const PAUSE: Duration = Duration::from_millis(20);

/// A client of one node, cheap to clone. Connects when needed, and again when the connection was lost.
#[derive(Clone)]
pub(super) struct Session {
    pub(super) address: String,
    pub(super) kv: KvClient<Channel>,
    pub(super) cluster: ClusterClient<Channel>,
}

impl Session {
    pub(super) fn new(address: String) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .expect("host:port is an address")
            .connect_timeout(Duration::from_secs(2))
            .tcp_nodelay(true);
        let channel = endpoint.connect_lazy();
        Self { address, kv: clients::kv(channel.clone()), cluster: clients::cluster(channel) }
    }

    pub(super) async fn status(&self) -> Result<StatusResponse, String> {
        // The demo has few regions: the first page of peers is all.
        let answer = self.cluster.clone().status(request(StatusRequest::default())).await;
        answer.map(tonic::Response::into_inner).map_err(|status| self.blame(&status))
    }

    /// All regions, the system's too.
    pub(super) async fn regions(&self) -> Result<Vec<RegionInfo>, String> {
        let all = ListRegionsRequest { all: true, ..Default::default() };
        let answer = self.cluster.clone().list_regions(request(all)).await;
        answer.map(|answer| answer.into_inner().regions).map_err(|status| self.blame(&status))
    }

    /// An error with the node it came from.
    pub(super) fn blame(&self, status: &Status) -> String {
        format!("{}: {:?}: {}", self.address, status.code(), status.message())
    }
}

/// A request with a deadline.
pub(super) fn request<T>(message: T) -> Request<T> {
    request_within(CALL, message)
}

pub(super) fn request_within<T>(deadline: Duration, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    request
}

/// What one of several nodes answered.
pub(super) struct Answered<T> {
    pub(super) answer: T,
    /// Which session it came from.
    pub(super) by: usize,
    /// Calls that failed before.
    pub(super) failures: u64,
}

/// Asks one node after the other, `first` first, until one answers.
///
/// Only for what may be done twice: reads, and writes of a value that nobody else writes. An error
/// then leaves open whether the write was applied, and the repeat settles it.
///
/// # Errors
/// When time can not mend it, or nobody answers for twenty seconds.
pub(super) async fn ask_until_answered<T>(
    sessions: &[Session],
    first: usize,
    call: impl AsyncFn(Session) -> Result<T, Status>,
) -> anyhow::Result<Answered<T>> {
    let deadline = clock::now() + PATIENCE;
    let mut by = first % sessions.len();
    let mut failures = 0;
    loop {
        let session = &sessions[by];
        let status = match call(session.clone()).await {
            Ok(answer) => return Ok(Answered { answer, by, failures }),
            Err(status) => status,
        };
        let hopeless =
            matches!(status.code(), Code::InvalidArgument | Code::DataLoss | Code::Unimplemented);
        if hopeless || clock::now() >= deadline {
            bail!("no answer after {} failed calls; {}", failures + 1, session.blame(&status));
        }
        failures += 1;
        by = (by + 1) % sessions.len();
        tokio::time::sleep(clock::jitter(PAUSE)).await;
    }
}
