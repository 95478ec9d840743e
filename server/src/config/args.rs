//! The command line.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Parser, Subcommand, builder::FalseyValueParser};

use super::layers::Setting;

/// One node of Flotilla, a strongly consistent key-value store.
///
/// Settings are read from the file, then the environment (FLOTILLA_RAFT__HEARTBEAT_INTERVAL is
/// raft.heartbeat_interval), then flags; the later wins. `flotilla-server config print` shows the
/// result, docs/configuration.md every setting.
///
/// It exits with 0 when it was told to stop and has, 1 when it failed (the log's last line says why), 28 when its disk
/// has no room, 64 when the command line or a setting is wrong, where a restart does not help, 74 when its disk is
/// damaged, where the log's last line says what to do. It ends by SIGABRT, which shells and Kubernetes show as 134,
/// after a panic, and when it has not ended 10 s after its node has: the log names whom it waited for, and nothing is
/// lost.
#[derive(Debug, Parser)]
#[command(name = "flotilla-server", version, args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(flatten)]
    pub settings: SettingArgs,
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show or check settings, without starting anything.
    Config {
        #[command(subcommand)]
        command: Box<ConfigCommand>,
    },
    /// Ask a node on this machine whether it is ready: exit code 0 or 1.
    Healthcheck(HealthcheckArgs),
    /// Start a cluster of real processes on this machine, load data, kill the leader, and show
    /// that nothing is lost.
    Demo(DemoArgs),
    /// One node of a demo, which ends with it.
    #[command(hide = true)]
    DemoNode(Box<DemoNodeArgs>),
    /// Print the documentation of all metrics, as Markdown.
    MetricsDocs,
    /// Print the version.
    Version,
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print the settings that a start with the same flags would use, as YAML.
    Print(SettingArgs),
    /// Say everything that is wrong with them: exit code 0 or 64.
    Check(SettingArgs),
    /// Print the documentation of all settings, as Markdown.
    Docs,
}

#[derive(Debug, clap::Args)]
pub struct HealthcheckArgs {
    /// What to ask; `/readyz` is added to an address without path.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7422")]
    pub http: String,
}

#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// A new or empty directory for data and logs, which is kept. [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// How many nodes to start.
    #[arg(long, value_name = "N", default_value_t = 3)]
    #[arg(value_parser = clap::value_parser!(u8).range(3..=7))]
    pub nodes: u8,
    /// End after everything was shown, instead of staying up until Ctrl-C.
    #[arg(long, env = "DEMO_EXIT", value_parser = FalseyValueParser::new())]
    pub exit: bool,
}

#[derive(Debug, clap::Args)]
pub struct DemoNodeArgs {
    /// Process id of the demo.
    #[arg(long, value_name = "PID")]
    pub parent: u32,
    #[command(flatten)]
    pub settings: SettingArgs,
}

/// Flags that are settings.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct SettingArgs {
    /// A YAML file of settings. [env: FLOTILLA_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory of everything this node keeps.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where to listen for gRPC from clients; port 0 takes any. [default: 127.0.0.1:7420]
    #[arg(long, value_name = "IP:PORT")]
    pub client_addr: Option<SocketAddr>,
    /// Where to listen for gRPC from other nodes. [default: 127.0.0.1:7421]
    #[arg(long, value_name = "IP:PORT")]
    pub peer_addr: Option<SocketAddr>,
    /// Where to listen for HTTP. [default: 127.0.0.1:7422]
    #[arg(long, value_name = "IP:PORT")]
    pub http_addr: Option<SocketAddr>,
    /// Name or IP that others reach this node by. [default: the IP of --client-addr]
    #[arg(long, value_name = "HOST")]
    pub advertise_host: Option<String>,
    /// Make an empty disk a cluster of this node alone. For one start only.
    #[arg(long, conflicts_with = "bootstrap_expect")]
    pub init: bool,
    /// Make a cluster of so many nodes with those of --join, or join theirs; the same on each.
    #[arg(long, value_name = "N")]
    pub bootstrap_expect: Option<u32>,
    /// Client addresses of the cluster's nodes, which an empty disk asks to be added; the same on each.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    pub join: Vec<String>,
    /// Where this node runs, such as zone=a; repeatable.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = pair)]
    pub labels: Vec<(String, String)>,
    /// Any setting, as in --set raft.heartbeat_interval=200ms; repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = pair)]
    pub set: Vec<(String, String)>,
}

fn pair(text: &str) -> Result<(String, String), &'static str> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => {
            Ok((key.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err("write it as KEY=VALUE"),
    }
}

impl SettingArgs {
    /// The flags as settings, `--set` last.
    pub(super) fn settings(&self) -> Vec<Setting> {
        let mut settings = Vec::new();
        let mut add = |key: &str, text: Option<String>, flag: &str| {
            if let Some(text) = text {
                settings.push(Setting {
                    key: key.to_owned(),
                    text,
                    origin: format!("flag {flag}"),
                });
            }
        };
        let address = |address: &Option<SocketAddr>| address.map(|address| address.to_string());
        let dir = self.data_dir.as_ref().map(|dir| dir.display().to_string());
        add("data_dir", dir, "--data-dir");
        add("client_addr", address(&self.client_addr), "--client-addr");
        add("peer_addr", address(&self.peer_addr), "--peer-addr");
        add("http_addr", address(&self.http_addr), "--http-addr");
        add("advertise_host", self.advertise_host.clone(), "--advertise-host");
        add("init", self.init.then(|| "true".to_owned()), "--init");
        let expects = self.bootstrap_expect.map(|expects| expects.to_string());
        add("bootstrap_expect", expects, "--bootstrap-expect");
        add("join", (!self.join.is_empty()).then(|| self.join.join(",")), "--join");
        for (key, value) in &self.labels {
            add(&format!("labels.{key}"), Some(value.clone()), "--label");
        }
        for (key, value) in &self.set {
            add(key, Some(value.clone()), "--set");
        }
        settings
    }
}
