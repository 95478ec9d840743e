//! Settings: where they come from, what they may be, and what they mean.
//!
//! A setting has one place in the tree below, and its doc comment there is its documentation
//! (`flotilla-server config docs` prints them all). Sources in growing strength: the default here,
//! the file, the environment, flags; `layers` merges them. A start either has a whole, checked
//! [`Config`] or every mistake at once with the key it is about: one failed start should be enough
//! to repair a file. Settings are read at start and never change while the node runs.

mod addresses;
mod args;
mod docs;
mod labels;
mod layers;
mod runtime;

pub use self::{
    addresses::{Advertised, BoundAddresses},
    args::{Args, Command, ConfigCommand, DemoArgs, DemoNodeArgs, HealthcheckArgs, SettingArgs},
    docs::markdown,
    runtime::RuntimeConfig,
};

pub use crate::{
    api::Limits,
    metrics::SlowRequestsConfig,
    placement::config::PlacementConfig,
    raft::{config::RaftConfig, log::config::LogConfig, snapshot::config::SnapshotConfig},
    region::read::config::ReadsConfig,
    settings::{
        check::{ConfigError, ConfigErrors},
        human_bytes::format as format_bytes,
    },
    storage::config::{DiskConfig, EngineKind, StorageConfig},
    telemetry::LogFormat,
};

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use flotilla_proto::address;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    settings::{
        check::duration_within,
        human_duration::{self, HumanDuration},
    },
    telemetry::check_log_level,
};

/// Bound: nodes that a cluster is made of at once.
pub const BOOTSTRAP_EXPECT_MAX: usize = 32;

/// The settings of one node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Directory of everything this node keeps. Created if it is missing; must not be shared.
    /// Required, there is no default.
    pub data_dir: PathBuf,
    /// Where to listen for gRPC from clients, `IP:PORT`. Port 0 takes any free port; what was
    /// taken is logged and written to `addresses.json` in the data directory.
    pub client_addr: SocketAddr,
    /// Where to listen for gRPC from other nodes, `IP:PORT`.
    pub peer_addr: SocketAddr,
    /// Where to listen for HTTP (REST, health, metrics), `IP:PORT`.
    pub http_addr: SocketAddr,
    /// Host name or IP that others reach this node by; they are told it with the ports of the
    /// three addresses. Without it the IP of `client_addr` is used, which must then not be
    /// `0.0.0.0` or `::`.
    pub advertise_host: Option<String>,
    /// Make an empty disk a cluster of this node alone, to which others are added. Refused when anybody
    /// named by `join` answers. It belongs to one start, of one node: an empty disk that is started with it
    /// again, as after the loss of a disk, is another cluster. For several nodes take `bootstrap_expect`.
    pub init: bool,
    /// Make a cluster of so many nodes, the same number on each, together with those named by `join`: when
    /// all named nodes answer and none is of a cluster. A disk that is empty while others have
    /// a cluster joins that. 0: never make one. The same at every start.
    pub bootstrap_expect: u32,
    /// Client addresses, `HOST:PORT`, of nodes of the cluster, the same on each; this node may be among
    /// them. An empty disk asks them to be added and promoted, and waits for those that are not up yet.
    /// A disk that has a cluster is refused when those who answer belong to another one.
    #[serde(deserialize_with = "layers::list_or_text")]
    #[schemars(with = "Vec<String>")]
    pub join: Vec<String>,
    /// Host names, besides IP addresses, names of one label, those of a Kubernetes cluster and the advertised
    /// one, by which clients of HTTP call this node: through a balancer, say. A name, a domain with a dot in
    /// front (`.example.org`) for all names below it, or `*` for every name, which lets any web page that a
    /// user of the network looks at read and write the data.
    #[serde(deserialize_with = "layers::list_or_text")]
    #[schemars(with = "Vec<String>")]
    pub http_allowed_hosts: Vec<String>,
    /// Where this node runs, such as `zone` and `host`: peers of a region are spread over them.
    /// In the environment and on the command line `key=value`, separated by commas.
    #[serde(deserialize_with = "labels::map_or_text")]
    #[schemars(with = "BTreeMap<String, String>")]
    pub labels: BTreeMap<String, String>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// What is logged: a level, or levels per target as in `info,flotilla_server::raft=debug`.
    /// The variable `RUST_LOG` wins over it.
    pub log_level: String,
    /// How long a stopping node may take to hand leaderships over and to finish requests.
    #[serde(with = "human_duration")]
    #[schemars(with = "HumanDuration")]
    pub shutdown_grace: Duration,
    pub raft: RaftConfig,
    pub log: LogConfig,
    pub storage: StorageConfig,
    pub disk: DiskConfig,
    pub limits: Limits,
    pub reads: ReadsConfig,
    pub snapshot: SnapshotConfig,
    pub placement: PlacementConfig,
    pub runtime: RuntimeConfig,
    pub slow_requests: SlowRequestsConfig,
}

impl Default for Config {
    fn default() -> Self {
        let local = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        Self {
            data_dir: PathBuf::new(),
            client_addr: local(7420),
            peer_addr: local(7421),
            http_addr: local(7422),
            advertise_host: None,
            init: false,
            bootstrap_expect: 0,
            join: Vec::new(),
            http_allowed_hosts: Vec::new(),
            labels: BTreeMap::new(),
            log_format: LogFormat::default(),
            log_level: "info,openraft=error".to_owned(),
            shutdown_grace: Duration::from_secs(20),
            raft: RaftConfig::default(),
            log: LogConfig::default(),
            storage: StorageConfig::default(),
            disk: DiskConfig::default(),
            limits: Limits::default(),
            reads: ReadsConfig::default(),
            snapshot: SnapshotConfig::default(),
            placement: PlacementConfig::default(),
            runtime: RuntimeConfig::default(),
            slow_requests: SlowRequestsConfig::default(),
        }
    }
}

impl Config {
    /// The settings of this process: defaults, then the file, the environment and `args`. Checked.
    ///
    /// # Errors
    /// Everything that is wrong, in all sources, at once.
    pub fn load(args: &SettingArgs) -> Result<Self, ConfigErrors> {
        let (config, mut errors) = Self::merge(args);
        let known: Vec<_> = errors.iter().map(|error| error.key.clone()).collect();
        let mut violated = Vec::new();
        config.check(&mut violated);
        // A key with an unreadable value has its default here, about which nobody asked.
        errors.extend(violated.into_iter().filter(|error| !known.contains(&error.key)));
        ConfigErrors::none_or(config, errors)
    }

    /// As [`Config::load`], but values that can be read are not checked against each other.
    ///
    /// # Errors
    /// Unknown keys, and values that cannot be read.
    pub fn load_unchecked(args: &SettingArgs) -> Result<Self, ConfigErrors> {
        let (config, errors) = Self::merge(args);
        ConfigErrors::none_or(config, errors)
    }

    /// Variables of this process that look like settings, are none, and have no effect.
    #[must_use]
    pub fn stray_variables() -> Vec<String> {
        let names: Vec<_> =
            std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned()).collect();
        let strays = layers::strays(names.iter().map(String::as_str));
        strays.into_iter().map(ToOwned::to_owned).collect()
    }

    fn merge(args: &SettingArgs) -> (Self, Vec<ConfigError>) {
        let environment: Vec<_> = std::env::vars_os()
            .map(|(name, value)| {
                (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
            })
            .collect();
        let file = args.config.clone().or_else(|| {
            std::env::var_os(layers::CONFIG_VARIABLE)
                .filter(|path| !path.is_empty())
                .map(Into::into)
        });
        let mut errors = Vec::new();
        let text = file.map(|path: PathBuf| {
            let text = std::fs::read_to_string(&path).unwrap_or_else(|error| {
                let problem = format!("read {}: {error}", path.display());
                errors.push(ConfigError::new("--config", problem));
                String::new()
            });
            (path.display().to_string(), text)
        });
        let file = text.as_ref().map(|(name, text)| (name.as_str(), text.as_str()));
        let config = layers::merge(file, &environment, &args.settings(), &mut errors);
        (config, errors)
    }

    /// Collects every violated constraint.
    pub fn check(&self, errors: &mut Vec<ConfigError>) {
        if self.data_dir.as_os_str().is_empty() {
            errors.push(ConfigError::new("data_dir", "is required: give --data-dir DIR"));
        }
        self.check_addresses(errors);
        self.check_birth(errors);
        for address in &self.join {
            if let Err(problem) = address::check(address) {
                errors.push(ConfigError::new("join", format!("{address:?}: {problem}")));
            }
        }
        for host in self.http_allowed_hosts.iter().filter(|host| *host != "*") {
            if let Err(problem) = address::check_host(host.strip_prefix('.').unwrap_or(host)) {
                let problem = format!("{host:?}: {problem}");
                errors.push(ConfigError::new("http_allowed_hosts", problem));
            }
        }
        labels::check(&self.labels, errors);
        if let Err(problem) = check_log_level(&self.log_level) {
            errors.push(ConfigError::new("log_level", format!("{:?}: {problem}", self.log_level)));
        }
        let grace = Duration::ZERO..=Duration::from_secs(3600);
        duration_within(errors, "shutdown_grace", self.shutdown_grace, grace);
        self.raft.check(errors);
        self.log.check(self.limits.request_bytes_max as u64, errors);
        self.storage.check(errors);
        self.disk.check(errors);
        self.limits.check(errors);
        self.snapshot.check(errors);
        self.placement.check(errors);
        self.runtime.check(errors);
        self.slow_requests.check(errors);
    }

    fn check_birth(&self, errors: &mut Vec<ConfigError>) {
        let expects = self.bootstrap_expect as usize;
        if expects == 0 {
            return;
        }
        let mut add = |problem: String| errors.push(ConfigError::new("bootstrap_expect", problem));
        if self.init {
            add("makes a cluster of several nodes, init of this one alone: not both".to_owned());
        }
        if expects > BOOTSTRAP_EXPECT_MAX {
            add(format!("is {expects}, the most is {BOOTSTRAP_EXPECT_MAX}: add the others later"));
        }
        // Named or not, this node is one of them.
        let named = self.join.iter().collect::<BTreeSet<_>>().len();
        if expects > named + 1 {
            add(format!("is {expects}, but join names {named} nodes: name all of them"));
        }
    }

    fn check_addresses(&self, errors: &mut Vec<ConfigError>) {
        let ports = [
            ("client_addr", self.client_addr),
            ("peer_addr", self.peer_addr),
            ("http_addr", self.http_addr),
        ];
        for (index, (key, address)) in ports.iter().enumerate() {
            let taken = ports.iter().take(index).find(|(_, other)| {
                let overlap = other.ip() == address.ip()
                    || other.ip().is_unspecified()
                    || address.ip().is_unspecified();
                address.port() != 0 && other.port() == address.port() && overlap
            });
            if let Some((other, _)) = taken {
                errors.push(ConfigError::new(*key, format!("has the port of {other}")));
            }
        }
        match &self.advertise_host {
            Some(host) => {
                if let Err(problem) = address::check_host(host) {
                    errors.push(ConfigError::new("advertise_host", format!("{host:?}: {problem}")));
                }
            }
            None if self.client_addr.ip().is_unspecified() => errors.push(ConfigError::new(
                "advertise_host",
                format!(
                    "is required: client_addr listens on every address ({}), which others cannot \
                     dial; give --advertise-host HOST",
                    self.client_addr.ip()
                ),
            )),
            None => {}
        }
    }

    /// The settings as YAML that [`Config::load`] reads back to the same value.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        serde_yaml::to_string(self).expect("every setting has a YAML form")
    }
}

#[cfg(test)]
mod tests;
