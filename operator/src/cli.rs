//! What the command line asks for, and the exit code: 0 done, 1 failed, 64 wrong usage.

mod apply;
mod plan;
mod run;

use std::{
    fs,
    io::Read as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};

use crate::{crd, desired::Defaults, rbac, telemetry::LogFormat};

/// The command line is wrong: a restart will not help. (`EX_USAGE` of sysexits.)
const USAGE: u8 = 64;

/// The operator of Flotilla for Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "flotilla-operator", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Keep the clusters of this Kubernetes as their KvCluster says.
    Run(Box<RunArgs>),
    /// Say what would be done for a KvCluster, and why, without doing it.
    Plan(PlanArgs),
    /// Make a KvCluster, or bring it to what a file says, as soon as Kubernetes knows the type.
    Apply(ApplyArgs),
    /// Print the CustomResourceDefinition of KvCluster, as YAML for `kubectl apply -f -`.
    Crd,
    /// Print the permissions that `run` needs, as YAML.
    Rbac,
    /// Print the version.
    Version,
}

/// What clusters get when their spec leaves it out.
#[derive(Clone, Debug, Args)]
pub struct DefaultArgs {
    /// Image of clusters that name none.
    #[arg(long, env = "FLOTILLA_OPERATOR_SERVER_IMAGE", value_name = "IMAGE")]
    #[arg(default_value_t = Defaults::default().server_image)]
    pub server_image: String,
    /// When nodes pull their image.
    #[arg(long, env = "FLOTILLA_OPERATOR_IMAGE_PULL_POLICY", value_name = "POLICY")]
    #[arg(default_value = "IfNotPresent", value_parser = ["Always", "IfNotPresent", "Never"])]
    pub image_pull_policy: String,
    /// DNS domain of this Kubernetes.
    #[arg(long, env = "FLOTILLA_OPERATOR_CLUSTER_DOMAIN", value_name = "DOMAIN")]
    #[arg(default_value = "cluster.local")]
    pub cluster_domain: String,
}

impl DefaultArgs {
    fn defaults(&self) -> Defaults {
        Defaults {
            server_image: self.server_image.clone(),
            image_pull_policy: self.image_pull_policy.clone(),
            domain: self.cluster_domain.clone(),
        }
    }
}

#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub defaults: DefaultArgs,
    /// Where to serve /metrics, /livez and /readyz.
    #[arg(long, env = "FLOTILLA_OPERATOR_HTTP_ADDR", value_name = "IP:PORT")]
    #[arg(default_value = "0.0.0.0:8080")]
    pub http_addr: SocketAddr,
    /// Only clusters of this namespace; repeatable. [default: all]
    #[arg(long = "namespace", env = "FLOTILLA_OPERATOR_NAMESPACES", value_name = "NAME")]
    #[arg(value_delimiter = ',')]
    pub namespaces: Vec<String>,
    /// Let one of several operators act, chosen by a Lease.
    #[arg(long, env = "FLOTILLA_OPERATOR_LEADER_ELECTION", value_name = "BOOL")]
    #[arg(default_value_t = true, action = clap::ArgAction::Set)]
    pub leader_election: bool,
    /// Name of the Lease.
    #[arg(long, env = "FLOTILLA_OPERATOR_LEASE_NAME", value_name = "NAME")]
    #[arg(default_value = "flotilla-operator")]
    pub lease_name: String,
    /// Namespace of the Lease. [default: that of the pod or of the kubeconfig]
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME")]
    pub lease_namespace: Option<String>,
    /// Who this operator is in the Lease and in events. [default: process id]
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub identity: Option<String>,
    /// Clusters that are worked on at the same time.
    #[arg(long, env = "FLOTILLA_OPERATOR_CONCURRENCY", value_name = "N", default_value_t = 8)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=256))]
    pub concurrency: u16,
    #[arg(
        long,
        env = "FLOTILLA_OPERATOR_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "json"
    )]
    pub log_format: LogFormat,
    /// What is logged; the variable RUST_LOG wins.
    #[arg(
        long,
        env = "FLOTILLA_OPERATOR_LOG_LEVEL",
        value_name = "FILTER",
        default_value = "info"
    )]
    pub log_level: String,
}

#[derive(Debug, Args)]
pub struct PlanArgs {
    /// A KvCluster as YAML; `-` is standard input.
    #[arg(short, long, value_name = "FILE")]
    pub file: PathBuf,
    /// Namespace, when the file names none. [default: that of the kubeconfig]
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<String>,
    #[command(flatten)]
    pub defaults: DefaultArgs,
}

#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// A KvCluster as YAML or JSON, with its namespace; `-` is standard input.
    #[arg(short, long, value_name = "FILE")]
    pub file: PathBuf,
    /// Who owns the fields that are set.
    #[arg(long, value_name = "NAME", default_value = "flotilla-operator-apply")]
    pub field_manager: String,
    /// How long to wait for the type, and for Kubernetes.
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
}

/// Runs this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print(); // Help goes to standard output, mistakes to standard error.
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let text = match cli.command {
        Command::Run(args) => return outcome(run::run(&args)),
        Command::Apply(args) => return outcome(apply::apply(&args)),
        Command::Plan(args) => match plan::plan(&args) {
            Ok(text) => text,
            Err(error) => return outcome(Err(error)),
        },
        Command::Crd => crd::yaml(),
        Command::Rbac => rbac::yaml(),
        Command::Version => format!("flotilla-operator {}\n", env!("CARGO_PKG_VERSION")),
    };
    print(&text);
    ExitCode::SUCCESS
}

fn outcome(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// The text of a file; `-` is standard input.
fn read(file: &Path) -> anyhow::Result<String> {
    if file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("read standard input")?;
        return Ok(text);
    }
    fs::read_to_string(file).with_context(|| format!("read {}", file.display()))
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

#[expect(clippy::disallowed_macros, reason = "what was asked for on the command line")]
fn print(text: &str) {
    print!("{text}");
}

#[expect(clippy::disallowed_macros, reason = "there may be no logger")]
fn complain(text: &str) {
    eprintln!("flotilla-operator: {text}");
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_needs_no_arguments() {
        let cli = Cli::try_parse_from(["flotilla-operator", "run"]).expect("parsed");
        let Command::Run(args) = cli.command else { panic!("{:?}", cli.command) };
        assert!(args.leader_election && args.namespaces.is_empty());
        assert_eq!(args.http_addr.port(), 8080);
        let several =
            ["flotilla-operator", "run", "--namespace", "a,b", "--leader-election", "false"];
        let cli = Cli::try_parse_from(several).expect("parsed");
        let Command::Run(args) = cli.command else { panic!("{:?}", cli.command) };
        assert_eq!(args.namespaces, ["a", "b"]);
        assert!(!args.leader_election);
    }
}
