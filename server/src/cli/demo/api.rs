//! The demo as a client: a plain gRPC channel to each node, and another node when one fails.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail, ensure};
use bytes::Bytes;
use flotilla_proto::v1::{
    self, ReadMode, RequestContext, cluster_client::ClusterClient, kv_client::KvClient, op,
};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

use super::{patience::until, records::Record};

/// Bound: longer than any election of the demo takes.
const PATIENCE: Duration = Duration::from_secs(30);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// Any node serves any request, so a request goes to the next one in turn, and after a failure to
/// the one after that. Only requests that may be repeated are sent: nobody else writes these keys,
/// so that a put that was applied already changes nothing the second time.
pub(super) struct Api {
    nodes: Vec<Channel>,
    next: AtomicUsize,
}

impl Api {
    pub(super) fn new(addresses: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let channel = |address: String| {
            let endpoint = Endpoint::from_shared(format!("http://{address}"))?
                .connect_timeout(Duration::from_secs(1))
                .timeout(REQUEST_TIMEOUT)
                .tcp_nodelay(true);
            anyhow::Ok(endpoint.connect_lazy())
        };
        let nodes = addresses.map(channel).collect::<anyhow::Result<_>>()?;
        Ok(Self { nodes, next: AtomicUsize::new(0) })
    }

    fn cluster(&self, node: usize) -> ClusterClient<Channel> {
        ClusterClient::new(self.nodes[node].clone())
    }

    fn kv(&self, node: usize) -> KvClient<Channel> {
        KvClient::new(self.nodes[node].clone())
    }

    /// Sends a request to one node after another until it is answered.
    async fn anywhere<T>(
        &self,
        what: &str,
        send: impl AsyncFn(usize) -> Result<T, Status>,
    ) -> anyhow::Result<T> {
        let mut last = None;
        until(what, PATIENCE, async || {
            let node = self.next.fetch_add(1, Ordering::Relaxed) % self.nodes.len();
            match send(node).await {
                Ok(answer) => Ok(Some(answer)),
                Err(status) if status.code() == tonic::Code::InvalidArgument => {
                    Err(anyhow!("{status}"))
                }
                Err(status) => {
                    last = Some(status);
                    Ok(None)
                }
            }
        })
        .await
        .with_context(|| last.map_or_else(String::new, |status| status.to_string()))
    }

    pub(super) async fn initialize(&self) -> anyhow::Result<String> {
        let request = v1::InitializeRequest { token: "demo".to_owned(), ..Default::default() };
        let answer =
            until("the first node to be ready for a cluster", PATIENCE, async || {
                match self.cluster(0).initialize(request.clone()).await {
                    Ok(answer) => Ok(Some(answer.into_inner())),
                    Err(status) if status.code() == tonic::Code::Unavailable => Ok(None),
                    Err(status) => Err(anyhow!("initialize: {status}")),
                }
            })
            .await?;
        Ok(answer.cluster_id)
    }

    /// Takes the node at `address` into the cluster: as a learner, then promoted.
    pub(super) async fn join(&self, address: &str) -> anyhow::Result<()> {
        let request = v1::AddLearnerRequest { address: address.to_owned(), ..Default::default() };
        // Both calls converge when they are repeated.
        let added = self
            .insist("a node to be added", async || {
                self.cluster(0).add_learner(request.clone()).await
            })
            .await?;
        let request =
            v1::ChangeMembershipRequest { promote: vec![added.node_id], ..Default::default() };
        self.insist("a node to be promoted", async || {
            self.cluster(0).change_membership(request.clone()).await
        })
        .await?;
        Ok(())
    }

    async fn regions(&self) -> anyhow::Result<Vec<v1::RegionInfo>> {
        let request = v1::ListRegionsRequest { all: true, ..Default::default() };
        let answer = self
            .anywhere("the list of regions", async |node| {
                self.cluster(node).list_regions(request.clone()).await
            })
            .await?;
        Ok(answer.into_inner().regions)
    }

    /// Waits until each region has `voters` voters and a leader.
    pub(super) async fn settled(&self, voters: usize) -> anyhow::Result<usize> {
        until("every region to have all its peers", PATIENCE, async || {
            let regions = self.regions().await?;
            let whole = regions.iter().all(|info| {
                let peers = info.region.as_ref().map(|region| region.peers.as_slice());
                let count = peers.unwrap_or_default().iter();
                count.filter(|peer| peer.role() == v1::PeerRole::Voter).count() == voters
                    && info.leader.is_some()
            });
            Ok((whole && !regions.is_empty()).then_some(regions.len()))
        })
        .await
    }

    /// Index, in the order of the addresses, of the node that leads the region of the records.
    pub(super) async fn leader(&self) -> anyhow::Result<usize> {
        let mut index_of = HashMap::new();
        for index in 0..self.nodes.len() {
            index_of.insert(self.status(index).await?.node_id, index);
        }
        until("a leader", PATIENCE, async || {
            let request =
                v1::LocateRequest { keys: vec![Bytes::from_static(b"unicode/")], keyspace: 0 };
            let answer = self
                .anywhere("the region of the records", async |node| {
                    self.cluster(node).locate(request.clone()).await
                })
                .await?;
            let regions = answer.into_inner().regions;
            let leader = regions.into_iter().next().and_then(|info| info.leader);
            Ok(leader.and_then(|leader| index_of.get(&leader.node_id).copied()))
        })
        .await
    }

    pub(super) async fn status(&self, node: usize) -> anyhow::Result<v1::StatusResponse> {
        self.insist("the status of a node", async || {
            self.cluster(node).status(v1::StatusRequest {}).await
        })
        .await
    }

    /// Repeats a request to one node until it is answered.
    async fn insist<T>(
        &self,
        what: &str,
        send: impl AsyncFn() -> Result<tonic::Response<T>, Status>,
    ) -> anyhow::Result<T> {
        let mut last = None;
        until(what, PATIENCE, async || match send().await {
            Ok(answer) => Ok(Some(answer.into_inner())),
            Err(status) => {
                last = Some(status);
                Ok(None)
            }
        })
        .await
        .with_context(|| last.map_or_else(String::new, |status| status.to_string()))
    }

    /// Waits until `node` has applied, in each of its regions, what any node had committed when this
    /// was called.
    pub(super) async fn caught_up(&self, node: usize) -> anyhow::Result<()> {
        let mut committed: HashMap<u64, u64> = HashMap::new();
        for other in 0..self.nodes.len() {
            for peer in self.status(other).await?.peers {
                let region = peer.region.map_or(0, |region| region.region_id);
                let known = committed.entry(region).or_default();
                *known = peer.committed_index.max(*known);
            }
        }
        until("the restarted node to catch up", PATIENCE, async || {
            let status = self.status(node).await?;
            let mut behind = committed.clone();
            for peer in status.peers {
                let region = peer.region.map_or(0, |region| region.region_id);
                if behind.get(&region).is_some_and(|index| peer.applied_index >= *index) {
                    behind.remove(&region);
                }
            }
            Ok((status.ready && behind.is_empty()).then_some(()))
        })
        .await
    }

    /// Stores `records` in one request.
    pub(super) async fn write(&self, records: &[Record]) -> anyhow::Result<()> {
        let put = |record: &Record| v1::Op {
            op: Some(op::Op::Put(v1::PutOp {
                key: record.key.clone().into(),
                value: record.value.clone().into(),
                ..Default::default()
            })),
        };
        let ops: Vec<_> = records.iter().map(put).collect();
        let answer = self
            .anywhere("a write", async |node| {
                let request = v1::WriteRequest { ops: ops.clone(), ..Default::default() };
                self.kv(node).write(request).await
            })
            .await?;
        for region in answer.into_inner().regions {
            ensure!(region.error.is_empty(), "region {}: {}", region.region_id, region.error);
        }
        Ok(())
    }

    /// Stores one record; answers when a majority has it on disk.
    pub(super) async fn put(&self, record: &Record) -> anyhow::Result<()> {
        self.anywhere("a put", async |node| {
            let request = v1::PutRequest {
                key: record.key.clone().into(),
                value: record.value.clone().into(),
                ..Default::default()
            };
            self.kv(node).put(request).await
        })
        .await?;
        Ok(())
    }

    /// Compares `records` with what the cluster has; the reads are linearizable. With `only` the
    /// records are read from that node's own disk, unproven.
    pub(super) async fn verify(
        &self,
        records: &[Record],
        only: Option<usize>,
    ) -> anyhow::Result<()> {
        let mode = if only.is_some() { ReadMode::Stale } else { ReadMode::Linearizable };
        let context = RequestContext { read_mode: mode.into(), ..Default::default() };
        let keys: Vec<Bytes> = records.iter().map(|record| record.key.clone().into()).collect();
        let answer = self
            .anywhere("a read", async |node| {
                let request = v1::BatchGetRequest { context: Some(context), keys: keys.clone() };
                self.kv(only.unwrap_or(node)).batch_get(request).await
            })
            .await?;
        let mut found = answer.into_inner().kvs.into_iter();
        for record in records {
            let Some(kv) = found.next() else { bail!("{} is missing", record.key) };
            ensure!(kv.key == record.key.as_bytes(), "{} is missing", record.key);
            ensure!(kv.value == record.value.as_bytes(), "{} has another value", record.key);
        }
        ensure!(found.next().is_none(), "more keys were answered than asked for");
        Ok(())
    }
}
