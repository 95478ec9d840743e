//! Measures Flotilla, and etcd next to it. See docs/performance.md.

#![expect(clippy::disallowed_macros, reason = "a program for people, who read its output")]

use std::{
    env, fs,
    path::PathBuf,
    process::{self, ExitCode},
    time::Duration,
};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use flotilla_tests::bench::{
    api::{Api, routes},
    compare::{Comparison, Plan, Report, Workload},
    data::Data,
    etcd,
    flotilla::Flotilla,
    load::{self, Connections, Load, Operation},
    table::Tables,
};
use tokio::signal::unix::{SignalKind, signal};

// Less CPU for each call, of which the servers have what remains.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Load generator for Flotilla and etcd.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// Threads of the generator; it shares the machine with the servers.
    #[arg(long, global = true, default_value_t = 1)]
    threads: usize,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Loads servers that run already.
    Run(RunArgs),
    /// Starts three nodes of each, in turns, and compares them.
    Compare(CompareArgs),
    /// Builds etcd unless that was done before, and prints where it is.
    Etcd,
}

#[derive(Args)]
struct RunArgs {
    #[arg(long, value_enum, default_value_t = Api::Flotilla)]
    api: Api,
    /// host:port of the ports for clients, comma separated.
    #[arg(long, value_delimiter = ',', required = true)]
    endpoints: Vec<String>,
    /// Go straight to the leaders instead of to all endpoints in turn.
    #[arg(long)]
    leader_only: bool,
    #[arg(long, value_enum, default_value_t = Operation::Put)]
    operation: Operation,
    #[arg(long, default_value_t = 256)]
    callers: usize,
    #[arg(long, default_value_t = 16)]
    connections: usize,
    #[arg(long, default_value_t = 50_000)]
    keys: usize,
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// Store every key first; a get needs it once.
    #[arg(long)]
    preload: bool,
    #[arg(long, value_parser = humantime::parse_duration, default_value = "2s")]
    warm_up: Duration,
    #[arg(long, value_parser = humantime::parse_duration, default_value = "5s")]
    window: Duration,
    #[arg(long, default_value_t = 3)]
    windows: usize,
    /// Process ids of the servers, comma separated, to charge them for their CPU time.
    #[arg(long, value_delimiter = ',')]
    pids: Vec<u32>,
}

#[derive(Args)]
struct CompareArgs {
    /// flotilla-server; the one beside this program unless given.
    #[arg(long)]
    server: Option<PathBuf>,
    /// etcd; built from its modules unless given.
    #[arg(long)]
    etcd: Option<PathBuf>,
    /// Where both keep their data meanwhile: on a disk. In the user's cache unless given.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Only one of the two.
    #[arg(long, value_enum)]
    only: Option<Api>,
    /// Only these workloads, by name, as put-256.
    #[arg(long, value_delimiter = ',')]
    workloads: Vec<String>,
    /// Numbers of regions besides one.
    #[arg(long, value_delimiter = ',', default_value = "6,100")]
    regions: Vec<u32>,
    /// Not these runs over several regions.
    #[arg(long)]
    no_regions: bool,
    /// Go straight to the leaders instead of to all nodes in turn.
    #[arg(long)]
    leader_only: bool,
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    #[arg(long, value_parser = humantime::parse_duration, default_value = "2s")]
    warm_up: Duration,
    #[arg(long, value_parser = humantime::parse_duration, default_value = "5s")]
    window: Duration,
    /// How long to watch the idle clusters; 0s: not at all.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "10s")]
    idle: Duration,
    #[arg(long, default_value_t = 50_000)]
    keys: usize,
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// Settings of flotilla-server, as key=value; more than once.
    #[arg(long = "set")]
    settings: Vec<String>,
    /// Exit with 1 when a gate is missed.
    #[arg(long)]
    gates: bool,
    /// Write everything that was measured here.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match runtime(cli.threads).and_then(|runtime| runtime.block_on(interruptible(cli.command))) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("flotilla-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn runtime(threads: usize) -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = match threads {
        0 | 1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    builder.enable_all().build().context("start the runtime")
}

/// Ends early when asked to: dropping the work ends the servers that it started.
async fn interruptible(command: Command) -> anyhow::Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    tokio::select! {
        outcome = Box::pin(execute(command)) => outcome,
        _ = interrupt.recv() => anyhow::bail!("interrupted"),
        _ = terminate.recv() => anyhow::bail!("terminated"),
    }
}

async fn execute(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(args) => run(args).await,
        Command::Compare(args) => compare(args).await,
        Command::Etcd => {
            println!("{}", etcd::build()?.display());
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    let data = Data::new(args.keys, args.value_bytes, 0)?;
    let connections = if args.leader_only {
        let routes = routes(args.api, &args.endpoints).await?;
        Connections::to_leaders(args.api, &routes, args.connections).await?
    } else {
        Connections::spread(args.api, &args.endpoints, args.connections).await?
    };
    if args.preload {
        load::preload(&connections, &data).await?;
    }
    let load = Load {
        operation: args.operation,
        callers: args.callers,
        warm_up: args.warm_up,
        window: args.window,
        windows: args.windows,
    };
    let windows = load::run(&load, &connections, &data, &args.pids).await?;
    println!("{}", serde_json::to_string_pretty(&windows)?);
    let failed = windows.iter().any(|window| window.errors > 0);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn compare(args: CompareArgs) -> anyhow::Result<ExitCode> {
    let apis = args.only.map_or_else(|| vec![Api::Etcd, Api::Flotilla], |api| vec![api]);
    let etcd = match args.etcd {
        Some(program) => program,
        None if apis.contains(&Api::Etcd) => etcd::build()?,
        None => PathBuf::new(),
    };
    let program = match args.server {
        Some(program) => program,
        None => env::current_exe().context("find this program")?.with_file_name("flotilla-server"),
    };
    let dir = match args.dir {
        Some(dir) => dir,
        None => etcd::cache_dir()?.join(format!("bench-{}", process::id())),
    };
    let plan = Plan {
        rounds: args.rounds,
        warm_up: args.warm_up,
        window: args.window,
        idle: args.idle,
        keys: args.keys,
        value_bytes: args.value_bytes,
        leader_only: args.leader_only,
        workloads: chosen(&args.workloads)?,
        regions: if args.no_regions { Vec::new() } else { args.regions },
        apis,
    };
    let flotilla = Flotilla { program, settings: args.settings };
    let report = Comparison { plan, etcd, flotilla, dir }.run().await?;
    println!("{}", Tables(&report));
    if let Some(path) = args.json {
        fs::write(&path, serde_json::to_string_pretty(&report)?)
            .with_context(|| format!("write {}", path.display()))?;
    }
    Ok(verdict(&report, args.gates))
}

fn verdict(report: &Report, gates: bool) -> ExitCode {
    let missed = report.gates.iter().filter(|gate| !gate.passed).count();
    if gates && missed > 0 {
        eprintln!("{missed} of {} gates missed", report.gates.len());
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// The workloads with these names; all without names.
fn chosen(names: &[String]) -> anyhow::Result<Vec<Workload>> {
    let all = Workload::all();
    for name in names {
        let known = || all.iter().map(Workload::name).collect::<Vec<_>>().join(", ");
        anyhow::ensure!(
            all.iter().any(|workload| workload.name() == *name),
            "there is no workload {name}; there are {}",
            known()
        );
    }
    let wanted = |workload: &Workload| names.is_empty() || names.contains(&workload.name());
    Ok(all.into_iter().filter(wanted).collect())
}
