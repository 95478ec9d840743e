//! Alternating runs of etcd and Flotilla.
//!
//! Each round gives each of the two a fresh cluster on empty disks, loads the same data, runs the same
//! workloads and stops it: never do two clusters run at once, and neither pays for what it did in an
//! earlier round. A figure is the median over the rounds, so that one disturbed round does not decide.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use serde::Serialize;
use tokio::time;

use super::{
    api::{Api, routes},
    cluster::Cluster,
    cost::Usage,
    data::Data,
    disk, etcd,
    flotilla::Flotilla,
    gates::{self, Gate},
    load::{self, Connections, Load, Operation},
    progress,
    window::{Window, median},
};

/// Between the workloads, so that one does not pay for what the one before left to do.
const SETTLE: Duration = Duration::from_secs(2);

/// What is compared, and how long.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    pub rounds: usize,
    pub warm_up: Duration,
    pub window: Duration,
    /// How long an idle cluster is watched.
    pub idle: Duration,
    pub keys: usize,
    pub value_bytes: usize,
    /// Callers go straight to the leaders instead of to any node.
    pub leader_only: bool,
    /// What runs on each of the two.
    pub workloads: Vec<Workload>,
    /// Numbers of regions over which the puts of 256 callers are spread, besides one.
    pub regions: Vec<u32>,
    /// Which of the two.
    pub apis: Vec<Api>,
}

/// A load's shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Workload {
    pub operation: Operation,
    pub callers: usize,
    pub connections: usize,
}

impl Workload {
    /// The load that is spread over regions.
    pub const SPREAD: Self = Self { operation: Operation::Put, callers: 256, connections: 16 };

    /// Every workload of the comparison.
    pub fn all() -> Vec<Self> {
        let shapes = [(256, 16), (64, 16), (1, 1)];
        let both = [Operation::Put, Operation::Get];
        both.into_iter()
            .flat_map(|operation| {
                shapes.map(|(callers, connections)| Self { operation, callers, connections })
            })
            .collect()
    }

    /// The name in tables and files.
    pub fn name(&self) -> String {
        format!("{}-{}", self.operation.name(), self.callers)
    }
}

/// One workload on one of the two.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub api: Api,
    pub regions: u32,
    pub workload: Workload,
    pub median: Window,
    /// One for each round.
    pub windows: Vec<Window>,
}

/// What a cluster costs when nobody asks it anything, after it has held the load.
#[derive(Debug, Clone, Serialize)]
pub struct Idle {
    pub api: Api,
    pub servers: Vec<IdleServer>,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub struct IdleServer {
    pub resident_bytes: u64,
    /// Of one core.
    pub cpu_percent: f64,
}

/// Where the figures are from.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    pub cores: usize,
    pub processor: String,
    pub kernel: String,
    /// Append and fdatasync of 4 KiB where the data is, median.
    pub disk_sync_us: f64,
    pub etcd: String,
    pub flotilla: String,
}

/// Everything that a comparison found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub machine: Machine,
    pub plan: Plan,
    pub rows: Vec<Row>,
    pub idle: Vec<Idle>,
    pub gates: Vec<Gate>,
}

/// Runs a plan.
pub struct Comparison {
    pub plan: Plan,
    /// The program of etcd.
    pub etcd: PathBuf,
    pub flotilla: Flotilla,
    /// Where both keep their data while they run.
    pub dir: PathBuf,
}

impl Comparison {
    /// Runs it.
    ///
    /// # Errors
    ///
    /// When a cluster cannot be started or one of its servers ends; failed operations are counted in
    /// the rows instead. No server is left running either way.
    pub async fn run(&self) -> anyhow::Result<Report> {
        fs::create_dir_all(&self.dir).with_context(|| format!("create {}", self.dir.display()))?;
        disk::refuse_memory(&self.dir)?;
        let machine = self.machine()?;
        let data = Data::new(self.plan.keys, self.plan.value_bytes, 0)?;
        let mut rows = Vec::new();
        let mut idle = Vec::new();
        for round in 1..=self.plan.rounds {
            for api in self.plan.apis.clone() {
                progress::tell(format_args!(
                    "round {round} of {}: {}",
                    self.plan.rounds,
                    api.name()
                ));
                let mut cluster = self.start(api, 1).await?;
                self.measure(&mut cluster, 1, &self.plan.workloads, &data, &mut rows).await?;
                let servers = self.watch_idle(&mut cluster).await?;
                note_idle(&mut idle, api, servers);
                cluster.stop().await?;
            }
            if self.plan.apis.contains(&Api::Flotilla) {
                for regions in self.plan.regions.clone() {
                    progress::tell(format_args!(
                        "round {round} of {}: {regions} regions",
                        self.plan.rounds
                    ));
                    let mut cluster = self.start(Api::Flotilla, regions).await?;
                    let spread = [Workload::SPREAD];
                    self.measure(&mut cluster, regions, &spread, &data, &mut rows).await?;
                    cluster.stop().await?;
                }
            }
        }
        for row in &mut rows {
            row.median = Window::median(&row.windows);
        }
        let idle: Vec<Idle> = idle.into_iter().map(Watched::median).collect();
        let gates = gates::judge(&rows, &idle);
        Ok(Report { machine, plan: self.plan.clone(), rows, idle, gates })
    }

    async fn start(&self, api: Api, regions: u32) -> anyhow::Result<Cluster> {
        match api {
            Api::Etcd => etcd::start(&self.etcd, &self.dir).await,
            Api::Flotilla => self.flotilla.start(regions, &self.dir).await,
        }
    }

    async fn measure(
        &self,
        cluster: &mut Cluster,
        regions: u32,
        workloads: &[Workload],
        data: &Data,
        rows: &mut Vec<Row>,
    ) -> anyhow::Result<()> {
        let connections = self.connect(cluster, 16).await?;
        load::preload(&connections, data).await?;
        drop(connections);
        for workload in workloads {
            time::sleep(SETTLE).await;
            let connections = self.connect(cluster, workload.connections).await?;
            let load = Load {
                operation: workload.operation,
                callers: workload.callers,
                warm_up: self.plan.warm_up,
                window: self.plan.window,
                windows: 1,
            };
            let measured = load::run(&load, &connections, data, &cluster.pids()).await;
            // A server that ended says more than a file of it that is gone.
            cluster.check()?;
            let windows = measured?;
            for window in &windows {
                progress::tell(format_args!(
                    "  {:8} {:>9.0} /s, p50 {:.2} ms, p99 {:.2} ms, servers {:.0} µs/op, others {:.0} %, {} errors",
                    workload.name(),
                    window.operations_per_second,
                    window.p50_us / 1e3,
                    window.p99_us / 1e3,
                    window.servers_cpu_us,
                    window.others_cpu_percent,
                    window.errors
                ));
            }
            note_row(rows, cluster.api, regions, *workload, windows);
        }
        Ok(())
    }

    async fn connect(&self, cluster: &Cluster, count: usize) -> anyhow::Result<Connections> {
        if self.plan.leader_only {
            let routes = routes(cluster.api, &cluster.endpoints).await?;
            Connections::to_leaders(cluster.api, &routes, count).await
        } else {
            Connections::spread(cluster.api, &cluster.endpoints, count).await
        }
    }

    async fn watch_idle(&self, cluster: &mut Cluster) -> anyhow::Result<Vec<IdleServer>> {
        if self.plan.idle.is_zero() {
            return Ok(Vec::new());
        }
        let usage = |pids: &[u32]| -> anyhow::Result<Vec<Usage>> {
            pids.iter().map(|pid| Usage::of(*pid)).collect()
        };
        time::sleep(SETTLE * 2).await;
        cluster.check()?;
        let pids = cluster.pids();
        let before = usage(&pids)?;
        time::sleep(self.plan.idle).await;
        let after = usage(&pids)?;
        let seconds = self.plan.idle.as_secs_f64();
        let servers = after.iter().zip(&before).map(|(after, before)| IdleServer {
            resident_bytes: after.resident_bytes,
            cpu_percent: after.cpu_since(before).as_secs_f64() / seconds * 100.0,
        });
        Ok(servers.collect())
    }

    fn machine(&self) -> anyhow::Result<Machine> {
        let uses = |api| self.plan.apis.contains(&api);
        let absent = || "not measured".to_owned();
        Ok(Machine {
            cores: std::thread::available_parallelism().context("count the cores")?.get(),
            processor: processor(),
            kernel: first_line(Path::new("/proc/sys/kernel/osrelease")),
            disk_sync_us: disk::sync_time(&self.dir).context("time the disk")?.as_secs_f64() * 1e6,
            etcd: if uses(Api::Etcd) { etcd::version(&self.etcd)? } else { absent() },
            flotilla: if uses(Api::Flotilla) { self.flotilla.version()? } else { absent() },
        })
    }
}

impl Drop for Comparison {
    fn drop(&mut self) {
        // Each cluster has removed its own part; what others keep here stays.
        let _ = fs::remove_dir(&self.dir);
    }
}

fn note_row(rows: &mut Vec<Row>, api: Api, regions: u32, workload: Workload, windows: Vec<Window>) {
    let same = |row: &&mut Row| (row.api, row.regions, row.workload) == (api, regions, workload);
    match rows.iter_mut().find(same) {
        Some(row) => row.windows.extend(windows),
        None => rows.push(Row { api, regions, workload, median: Window::default(), windows }),
    }
}

/// The idle servers of one of the two, in each round.
struct Watched {
    api: Api,
    rounds: Vec<Vec<IdleServer>>,
}

impl Watched {
    /// The middle of each server.
    fn median(self) -> Idle {
        let servers = self.rounds.iter().map(Vec::len).min().unwrap_or(0);
        let middle = |server: usize, figure: fn(&IdleServer) -> f64| {
            median(self.rounds.iter().map(|servers| figure(&servers[server])).collect())
        };
        let servers = (0..servers)
            .map(|server| IdleServer {
                resident_bytes: middle(server, |idle| idle.resident_bytes as f64) as u64,
                cpu_percent: middle(server, |idle| idle.cpu_percent),
            })
            .collect();
        Idle { api: self.api, servers }
    }
}

fn note_idle(idle: &mut Vec<Watched>, api: Api, servers: Vec<IdleServer>) {
    match idle.iter_mut().find(|watched| watched.api == api) {
        Some(watched) => watched.rounds.push(servers),
        None => idle.push(Watched { api, rounds: vec![servers] }),
    }
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find(|line| line.starts_with("model name"));
    let name = model.and_then(|line| line.split_once(": ")).map(|(_, name)| name);
    name.unwrap_or("unknown").to_owned()
}

fn first_line(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}
