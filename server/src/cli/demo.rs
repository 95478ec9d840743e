//! `flotilla-server demo`: a cluster of real processes on this machine, and proof that it keeps what
//! it acknowledged.
//!
//! Starts the nodes (real ports, real RocksDB directories), makes a cluster of them through the API,
//! loads real records, reads every one back, kills the leader with `kill -9` under load, reads every
//! record and every acknowledged write from the survivors, restarts the dead node and reads all of it
//! from that node's own disk. Anything that is missing ends the demo with an error. It uses only what
//! any client can use.

mod api;
mod batches;
mod patience;
mod process;
mod records;
mod traffic;

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use futures::future;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::LocalSet,
    time::Instant,
};

use self::{api::Api, process::Process, records::Record, traffic::Traffic};
use crate::{clock, config::DemoArgs};

/// How long the writers run before the leader dies, and after the next one is found.
const TRAFFIC: Duration = Duration::from_secs(2);
/// Replicas of a region; more nodes than these share the regions.
const VOTERS: usize = 3;

/// # Errors
/// Whatever did not go as promised.
pub(super) fn run(args: &DemoArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let (base, temporary) = directory(args)?;
        let mut nodes: Vec<_> =
            (1..=args.nodes).map(|number| Process::new(&base, number)).collect();
        let outcome = tokio::select! {
            outcome = show(args, &mut nodes) => outcome,
            signal = asked_to_end() => signal,
        };
        let stopped = future::join_all(nodes.iter_mut().map(Process::stop)).await;
        if outcome.is_err()
            && let Some(temporary) = temporary
        {
            say(&format!("The data and logs stay in {}", temporary.keep().display()));
        }
        outcome?;
        stopped.into_iter().collect()
    })
}

/// Ctrl-C, or what a supervisor sends: in both cases the nodes must not outlive the demo.
async fn asked_to_end() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("wait for SIGTERM")?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted.context("wait for Ctrl-C"),
        _ = terminate.recv() => Ok(()),
    }
}

fn directory(args: &DemoArgs) -> anyhow::Result<(PathBuf, Option<tempfile::TempDir>)> {
    let Some(dir) = &args.dir else {
        let temporary = tempfile::Builder::new().prefix("flotilla-demo-").tempdir()?;
        return Ok((temporary.path().to_owned(), Some(temporary)));
    };
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    let empty = fs::read_dir(dir)?.next().is_none();
    ensure!(empty, "{} is not empty: the demo begins with empty disks", dir.display());
    Ok((dir.canonicalize()?, None))
}

async fn show(args: &DemoArgs, nodes: &mut [Process]) -> anyhow::Result<()> {
    let mut stage = Stage::begin(format!("Starting {} nodes", nodes.len()));
    future::try_join_all(nodes.iter_mut().map(Process::start)).await?;
    let api = Arc::new(Api::new(nodes.iter().map(Process::client_address))?);

    stage.next("Making a cluster of them");
    let cluster = api.initialize().await?;
    for node in nodes.iter().skip(1) {
        api.join(&node.client_address()).await?;
    }
    let regions = api.settled(VOTERS).await?;
    stage.note(&format!("cluster {cluster}, {regions} regions, {VOTERS} voters each"));

    let records = records::all();
    stage.next(format!("Loading {} records: every character of Unicode", records.len()));
    let loading = batches::run("loading", &records, async |batch| api.write(batch).await).await?;
    stage.note(&rate(records.len(), loading));

    stage.next("Reading every record back");
    let reading =
        batches::run("reading", &records, async |batch| api.verify(batch, None).await).await?;
    stage.note(&format!("all as written; {}", rate(records.len(), reading)));

    let leader = api.leader().await?;
    stage.next(format!("Killing the leader, node {}, under load", nodes[leader].number));
    let traffic = Traffic::start(&api);
    tokio::time::sleep(TRAFFIC).await;
    nodes[leader].kill().await?;
    let survivors: Vec<_> = nodes.iter().filter(|node| node.pid().is_some()).collect();
    let surviving = Api::new(survivors.iter().map(|node| node.client_address()))?;
    let next = survivors[surviving.leader().await?].number;
    tokio::time::sleep(TRAFFIC).await;
    let acknowledged = traffic.finish().await?;
    stage.note(&format!("node {next} leads; writes paused for {:.1?}", acknowledged.longest_pause));

    let written = acknowledged.records.len();
    let everything: Vec<Record> = records.into_iter().chain(acknowledged.records).collect();
    stage.next("Reading everything from the survivors");
    batches::run("reading", &everything, async |batch| surviving.verify(batch, None).await).await?;
    stage.note(&format!("all records and all {written} writes acknowledged meanwhile are there"));

    stage.next(format!("Restarting node {}", nodes[leader].number));
    nodes[leader].start().await?;
    api.caught_up(leader).await?;
    let own = async |batch: &[Record]| api.verify(batch, Some(leader)).await;
    batches::run("reading", &everything, own).await?;
    stage.note("it has caught up; its own disk holds everything");
    stage.end();

    summary(nodes, everything.len());
    if !args.exit {
        say("\nThe cluster stays up. Ctrl-C ends it.");
        future::pending::<()>().await;
    }
    Ok(())
}

fn rate(records: usize, elapsed: Duration) -> String {
    format!("{:.0} records/s", records as f64 / elapsed.as_secs_f64())
}

fn summary(nodes: &[Process], keys: usize) {
    say(&format!("\n{keys} keys, none lost. The nodes:\n"));
    say("  node  pid      memory   gRPC             HTTP");
    for node in nodes {
        say(&format!(
            "  {:<5} {:<8} {:>3} MiB  {:<16} {}",
            node.number,
            node.pid().unwrap_or_default(),
            node.resident_bytes().unwrap_or_default() >> 20,
            node.client_address(),
            node.http_address(),
        ));
    }
    let Some(first) = nodes.first() else { return };
    let (client, http) = (first.client_address(), first.http_address());
    let tools = std::env::current_exe().ok().and_then(|path| Some(path.parent()?.to_owned()));
    let kvctl = tools.unwrap_or_default().join("kvctl");
    say("\nTry any node:\n");
    say(&format!("  curl http://{http}/kv/unicode/26F5"));
    say(&format!("  curl -X PUT --data hello http://{http}/kv/greeting"));
    say(&format!(
        "  grpcurl -plaintext -d '{{\"key\": \"Z3JlZXRpbmc=\"}}' {client} flotilla.v1.Kv/Get"
    ));
    say(&format!("  {} --endpoints {client} nodes", kvctl.display()));
    say(&format!("  {} --endpoints {client} scan unicode/26F", kvctl.display()));
}

/// A step of the demo, and what it took.
struct Stage {
    started: Instant,
}

impl Stage {
    fn begin(title: impl AsRef<str>) -> Self {
        say(&format!("* {}", title.as_ref()));
        Self { started: clock::now() }
    }

    fn next(&mut self, title: impl AsRef<str>) {
        self.end();
        *self = Self::begin(title);
    }

    fn note(&self, note: &str) {
        say(&format!("  {note}"));
    }

    fn end(&self) {
        say(&format!("  done in {:.1?}", self.started.elapsed()));
    }
}

#[expect(clippy::disallowed_macros, reason = "the demo speaks to the person who started it")]
fn say(text: &str) {
    println!("{text}");
}
