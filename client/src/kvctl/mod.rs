//! `kvctl`: a cluster from the command line.
//!
//! Each command is a file: its arguments, and `run`. What it found goes to standard output, as a table, JSON or
//! YAML; why it failed goes to standard error, and into the exit code.

mod append;
mod bench;
mod cas;
mod check;
mod cluster;
mod completions;
mod delete;
mod dump;
mod encoding;
mod exit;
mod export;
mod get;
mod import;
mod incr;
mod listing;
mod nodes;
mod output;
mod pace;
mod put;
mod region_keys;
mod regions;
mod scan;
mod status;
mod table;
mod transfer;
mod txn;
mod version;

use std::{ffi::OsString, io::Write as _, process::ExitCode};

use clap::{Args, CommandFactory as _, Parser, Subcommand, error::ErrorKind};

use self::{
    encoding::Encoding,
    exit::Failure,
    output::{Format, Output},
};
use crate::{Client, DEFAULT_KEYSPACE, Options, ReadMode};

/// Reads, writes and operates a Flotilla cluster.
#[derive(Debug, Parser)]
#[command(
    name = "kvctl",
    version,
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 it may have been \
                  done, or a part of it, 5 the answer is no."
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// Client addresses of nodes, host:port; one that answers is enough
    #[arg(
        long,
        global = true,
        env = "FLOTILLA_ENDPOINTS",
        value_delimiter = ',',
        default_value = "127.0.0.1:7420"
    )]
    endpoints: Vec<String>,
    /// How to print what was found, and what failed
    #[arg(
        long,
        short,
        global = true,
        env = "FLOTILLA_OUTPUT",
        value_enum,
        default_value_t = Format::Table
    )]
    output: Format,
    /// Time for a call with its retries, as in 500ms or 1m
    #[arg(
        long,
        global = true,
        env = "FLOTILLA_TIMEOUT",
        default_value_t = Options::default().timeout.into()
    )]
    timeout: humantime::Duration,
    /// Name space of keys; 1 if none is named, and `export` writes all
    #[arg(long, global = true, env = "FLOTILLA_KEYSPACE")]
    keyspace: Option<u32>,
    /// Keys and values are hexadecimal, in arguments, files and output
    #[arg(long, global = true, conflicts_with = "base64")]
    hex: bool,
    /// Keys and values are base64, in arguments, files and output
    #[arg(long, global = true)]
    base64: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the value of a key
    Get(get::Get),
    /// Store a value under a key
    Put(put::Put),
    /// Remove a key, or the keys of a range
    Delete(delete::Delete),
    /// Print the keys of a range, in order
    Scan(scan::Scan),
    /// Run a transaction from a file
    #[command(after_long_help = txn::HELP)]
    Txn(txn::Txn),
    /// Add to a counter and print its new value
    Incr(incr::Incr),
    /// Store a value if the present one is as expected
    Cas(cas::Cas),
    /// Add to the end of a value
    Append(append::Append),
    /// Write every key to a file
    Export(export::Export),
    /// Store every key of a file
    Import(import::Import),
    /// Start, grow, shrink and look at the cluster
    #[command(subcommand)]
    Cluster(cluster::Cluster),
    /// Print the state of single nodes
    Status(status::Status),
    /// Print the node table
    Nodes(nodes::Nodes),
    /// Print the regions, their peers and leaders
    Regions(regions::Regions),
    /// Make the peer on a node the leader of a region
    Transfer(transfer::Transfer),
    /// Check that regions tile the keys, are replicated, and have equal peers
    Check(check::Check),
    /// Measure throughput and latency
    Bench(bench::Bench),
    /// Print a completion script for a shell
    Completions(completions::Completions),
    /// Print the version of kvctl
    Version,
}

/// How a read is to be served.
#[derive(Debug, Args)]
struct ReadArgs {
    /// Read whatever some node has applied; it may be old
    #[arg(long, conflicts_with = "lease")]
    stale: bool,
    /// Read under the leader's lease, where the server allows it
    #[arg(long)]
    lease: bool,
}

impl ReadArgs {
    fn read_mode(&self) -> ReadMode {
        match (self.stale, self.lease) {
            (true, _) => ReadMode::Stale,
            (false, true) => ReadMode::Lease,
            (false, false) => ReadMode::Linearizable,
        }
    }
}

/// What every command gets.
struct Context {
    client: Client,
    /// The keyspace that was named, if one was; the client's is never missing.
    keyspace: Option<u32>,
    encoding: Encoding,
    out: Output,
}

impl Context {
    /// A client after the global options, unless the command wants others.
    async fn new(global: &Global, out: Output, options: Options) -> Result<Self, Failure> {
        let keyspace = global.keyspace.unwrap_or(DEFAULT_KEYSPACE);
        let options = Options { timeout: *global.timeout, keyspace, ..options };
        let client = Client::connect_with(global.endpoints.iter().cloned(), options).await?;
        let encoding = match (global.hex, global.base64) {
            (true, _) => Encoding::Hex,
            (false, true) => Encoding::Base64,
            (false, false) => Encoding::Text,
        };
        Ok(Self { client, keyspace: global.keyspace, encoding, out })
    }
}

/// Runs the program and answers its exit code.
#[must_use]
pub fn main() -> ExitCode {
    let cli = parse();
    // One thread is enough for one call, and starts sooner.
    let mut runtime = match &cli.command {
        Command::Bench(_) => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let format = cli.global.output;
    let outcome = match runtime.enable_all().build() {
        Ok(runtime) => runtime.block_on(run(cli, Output::stdout)),
        Err(error) => Err(Failure::Io(error)),
    };
    if let Err(failure) = &outcome
        && let Some(text) = failure.text(format)
    {
        // Standard error may be closed; the exit code still tells.
        let _ = writeln!(std::io::stderr(), "{text}");
    }
    ExitCode::from(exit::code(&outcome))
}

/// The arguments of this process, or its end with words.
fn parse() -> Cli {
    let words: Vec<OsString> = std::env::args_os().collect();
    parsed(&words).unwrap_or_else(|error| error.exit())
}

fn parsed(words: &[OsString]) -> Result<Cli, clap::Error> {
    use ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion};
    Cli::try_parse_from(words).map_err(|error| match error.kind() {
        // No errors, though they come as such. They name the variables.
        DisplayHelp | DisplayHelpOnMissingArgumentOrSubcommand | DisplayVersion => error,
        kind => {
            // An option that a variable sets is shown by its usage as one that must be given.
            let command = Cli::command().mut_args(|option| option.env(None::<&'static str>));
            let plain = command.try_get_matches_from(words).err();
            plain.filter(|plain| plain.kind() == kind).unwrap_or(error)
        }
    })
}

async fn run(cli: Cli, out: impl FnOnce(Format) -> Output) -> Result<(), Failure> {
    let Cli { global, command } = cli;
    let out = out(global.output);
    // A command makes few calls: to fetch the route table first would cost more than a hop.
    let options = Options { routing: false, channels_per_node: 1, ..Options::default() };
    match command {
        Command::Completions(command) => return command.run(out),
        Command::Version => return version::run(out),
        Command::Bench(command) => {
            let context = Context::new(&global, out, command.options()).await?;
            let client = context.client.clone();
            return ended(command.run(context).await, &client);
        }
        _ => {}
    }
    let context = Context::new(&global, out, options).await?;
    let client = context.client.clone();
    let outcome = match command {
        Command::Get(command) => command.run(context).await,
        Command::Put(command) => command.run(context).await,
        Command::Delete(command) => command.run(context).await,
        Command::Scan(command) => command.run(context).await,
        Command::Txn(command) => command.run(context).await,
        Command::Incr(command) => command.run(context).await,
        Command::Cas(command) => command.run(context).await,
        Command::Append(command) => command.run(context).await,
        Command::Export(command) => command.run(context).await,
        Command::Import(command) => command.run(context).await,
        Command::Cluster(command) => command.run(context).await,
        Command::Status(command) => command.run(context).await,
        Command::Nodes(command) => command.run(context).await,
        Command::Regions(command) => command.run(context).await,
        Command::Transfer(command) => command.run(context).await,
        Command::Check(command) => command.run(context).await,
        Command::Bench(_) | Command::Completions(_) | Command::Version => {
            unreachable!("these returned above")
        }
    };
    ended(outcome, &client)
}

/// What is to be said when a command has ended, whatever it was.
fn ended(outcome: Result<(), Failure>, client: &Client) -> Result<(), Failure> {
    for address in client.shared.nodes.passed_over() {
        // Standard error may be closed.
        let _ = writeln!(
            std::io::stderr(),
            "kvctl: {address} is passed over: it speaks HTTP/1, so it is no node's client port"
        );
    }
    outcome.map_err(|failure| failure.after(client))
}

#[cfg(test)]
mod tests;
