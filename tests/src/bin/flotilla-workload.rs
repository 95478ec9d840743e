//! Keeps a cluster busy from wherever it runs, and tells at the end whether the cluster kept its
//! promises.
//!
//! Standard output has one JSON object for each line: `{"progress": …}` every second and
//! `{"verdict": …}` last. The exit code is 0 when what every workload was promised was kept (every acknowledged write
//! is there, the history is linearizable, no number was given out twice), however many calls failed: how many may is
//! for the reader to judge.

#![expect(clippy::disallowed_macros, reason = "a program for people, who read its output")]

use std::{process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand};
use flotilla_tests::{
    harness::elapse,
    traffic::{Plan, Traffic},
};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

/// A client that checks what it is told.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Works until SIGTERM, or for a time.
    Run(RunArgs),
    /// Ends the one that runs as the first process of this container.
    Stop,
}

#[derive(Args)]
struct RunArgs {
    /// HOST:PORT of client ports; one that answers is enough.
    #[arg(long, value_delimiter = ',', required = true)]
    endpoints: Vec<String>,
    /// The same for clients that know nothing of leaders; half of the workers are such.
    #[arg(long, value_delimiter = ',')]
    plain_endpoints: Vec<String>,
    /// How long; without it, until SIGTERM.
    #[arg(long = "for", value_parser = humantime::parse_duration)]
    time: Option<Duration>,
    #[arg(long, value_parser = humantime::parse_duration, default_value = "10s")]
    timeout: Duration,
    #[arg(long, default_value_t = 2)]
    writers: usize,
    #[arg(long, default_value_t = 4)]
    contenders: usize,
    #[arg(long, default_value_t = 1)]
    counters: usize,
    /// Pause of a worker after each call.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "20ms")]
    pace: Duration,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Below it are all keys. Must be new: a history begins with absent keys.
    #[arg(long, default_value = "workload")]
    prefix: String,
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(args) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime
                .map_err(anyhow::Error::from)
                .and_then(|runtime| runtime.block_on(run(args)))
            {
                Ok(true) => ExitCode::SUCCESS,
                Ok(false) => ExitCode::FAILURE,
                Err(error) => {
                    eprintln!("flotilla-workload: {error:#}");
                    ExitCode::from(64)
                }
            }
        }
        Command::Stop => {
            let first = rustix::process::Pid::INIT;
            match rustix::process::kill_process(first, rustix::process::Signal::TERM) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("flotilla-workload: signal the first process: {error}");
                    ExitCode::FAILURE
                }
            }
        }
    }
}

async fn run(args: RunArgs) -> anyhow::Result<bool> {
    let mut terminate = signal(SignalKind::terminate())?;
    let plan = Plan {
        endpoints: args.endpoints,
        plain_endpoints: args.plain_endpoints,
        timeout: args.timeout,
        writers: args.writers,
        contenders: args.contenders,
        counters: args.counters,
        pace: args.pace,
        seed: args.seed,
        prefix: args.prefix,
    };
    let traffic = tokio::select! {
        traffic = Traffic::start(plan) => traffic?,
        _ = terminate.recv() => anyhow::bail!("told to end before the cluster answered"),
    };
    let over = async {
        match args.time {
            Some(time) => elapse(time).await,
            None => std::future::pending().await,
        }
    };
    let watch = async {
        loop {
            println!("{}", json!({"progress": traffic.progress()}));
            elapse(Duration::from_secs(1)).await;
        }
    };
    tokio::select! {
        () = watch => {}
        () = over => {}
        _ = terminate.recv() => {}
    }
    let verdict = traffic.finish().await;
    println!("{}", json!({"verdict": verdict}));
    Ok(verdict.kept())
}
