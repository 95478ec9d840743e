//! Flotilla: three servers with their default options, born with as many regions as asked.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context;
use flotilla_proto::v1::{
    InitializeRequest, ListRegionsRequest, PeerRole, Region, cluster_client::ClusterClient,
};

use super::{
    api::Api,
    cluster::{Cluster, free_ports},
    data::split_keys,
    transport::Http2,
};

/// Peers of every region, and nodes of the cluster.
const REPLICAS: usize = 3;

/// What is started.
pub struct Flotilla {
    /// `flotilla-server`.
    pub program: PathBuf,
    /// Settings that differ from the defaults, as `key=value`.
    pub settings: Vec<String>,
}

impl Flotilla {
    /// What the program says of itself.
    pub fn version(&self) -> anyhow::Result<String> {
        let output = Command::new(&self.program)
            .arg("version")
            .output()
            .with_context(|| format!("start {}", self.program.display()))?;
        anyhow::ensure!(output.status.success(), "{} does not run", self.program.display());
        Ok(String::from_utf8_lossy(&output.stdout).trim().replace('\n', ", "))
    }

    /// Starts three nodes and waits until each of them knows the leader and three voters of each of
    /// the `regions` regions.
    pub async fn start(&self, regions: u32, parent: &Path) -> anyhow::Result<Cluster> {
        let mut cluster = Cluster::empty(Api::Flotilla, parent)?;
        self.start_node(&mut cluster, None)?;
        let keys = split_keys(regions);
        cluster
            .until("the first node cannot be initialized", async |endpoints| {
                let request =
                    InitializeRequest { split_keys: keys.clone(), ..InitializeRequest::default() };
                let mut client = connect(&endpoints[0]).await?;
                client.initialize(request).await?;
                Ok(())
            })
            .await?;
        let first = cluster.endpoints[0].clone();
        for _ in 1..REPLICAS {
            self.start_node(&mut cluster, Some(&first))?;
        }
        cluster
            .until("not every region has its voters", async |endpoints| {
                for endpoint in endpoints {
                    check_regions(endpoint, regions).await?;
                }
                Ok(())
            })
            .await?;
        Ok(cluster)
    }

    fn start_node(&self, cluster: &mut Cluster, join: Option<&str>) -> anyhow::Result<()> {
        let [client, peer, http]: [u16; 3] = free_ports()?;
        let name = format!("flotilla-{}", cluster.endpoints.len() + 1);
        let address = |port: u16| format!("127.0.0.1:{port}");
        let mut command = Command::new(&self.program);
        command
            .arg("--data-dir")
            .arg(cluster.dir().join(format!("{name}.data")))
            .args(["--client-addr", &address(client), "--peer-addr", &address(peer)])
            .args(["--http-addr", &address(http), "--advertise-host", "127.0.0.1"]);
        if let Some(join) = join {
            command.args(["--join", join]);
        }
        for setting in &self.settings {
            command.args(["--set", setting]);
        }
        cluster.start(&name, command, address(client))
    }
}

async fn connect(endpoint: &str) -> anyhow::Result<ClusterClient<Http2>> {
    let (transport, origin) = Http2::connect(endpoint).await?;
    Ok(ClusterClient::with_origin(transport, origin))
}

/// Errors unless the node sees all regions with a leader and all their voters.
async fn check_regions(endpoint: &str, regions: u32) -> anyhow::Result<()> {
    let request = ListRegionsRequest { all: true, ..ListRegionsRequest::default() };
    let answer = connect(endpoint).await?.list_regions(request).await?.into_inner().regions;
    // The system region is one more.
    let wanted = regions as usize + 1;
    anyhow::ensure!(answer.len() == wanted, "{endpoint} sees {} regions", answer.len());
    for info in answer {
        let region = info.region.unwrap_or_default();
        let id = region.region_id;
        anyhow::ensure!(
            voters(&region) == REPLICAS,
            "{endpoint} sees {} voters of region {id}",
            voters(&region)
        );
        anyhow::ensure!(
            info.leader.is_some_and(|leader| leader.node_id != 0),
            "{endpoint} sees no leader of region {id}"
        );
    }
    Ok(())
}

fn voters(region: &Region) -> usize {
    region.peers.iter().filter(|peer| peer.role() == PeerRole::Voter).count()
}
