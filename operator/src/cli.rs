//! What the command line asks for, and the exit code: 0 done, 1 failed, 64 wrong usage.

mod apply;
mod plan;
mod run;

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use clap::{Args, Parser, Subcommand};
use serde_json::Value;

use crate::{
    crd::{self, KvCluster},
    desired::{Defaults, OperatorPlace},
    lease::LEASE,
    rbac,
    rights::{self, Right},
    telemetry::LogFormat,
};

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
    /// Print what pod templates cannot give to pods, as parts of a ValidatingAdmissionPolicy.
    Admission,
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
    /// Secret that images of nodes are pulled with, in their own namespace; repeatable.
    #[arg(long = "image-pull-secret", env = "FLOTILLA_OPERATOR_IMAGE_PULL_SECRETS")]
    #[arg(value_name = "NAME", value_delimiter = ',')]
    pub image_pull_secrets: Vec<String>,
    /// User and group of the nodes' pods; `none` leaves it to their namespace, as on OpenShift.
    #[arg(
        long,
        env = "FLOTILLA_OPERATOR_SERVER_USER",
        value_name = "UID",
        default_value = "65532"
    )]
    #[arg(value_parser = read_user)]
    pub server_user: User,
    /// What `spec.podTemplate` may give to pods; repeatable. [default: nothing of these]
    #[arg(long = "allow-in-templates", env = "FLOTILLA_OPERATOR_ALLOW_IN_TEMPLATES")]
    #[arg(value_name = "RIGHT", value_delimiter = ',')]
    pub allow_in_templates: Vec<Right>,
    /// Namespace of the operator's pods, which NetworkPolicies of clusters let in. [default: none]
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME")]
    pub pod_namespace: Option<String>,
    /// Labels of the operator's pods, of the same use.
    #[arg(long, env = "FLOTILLA_OPERATOR_POD_LABELS", value_name = "NAME=VALUE,…")]
    #[arg(default_value = "app.kubernetes.io/name=flotilla-operator", value_parser = read_labels)]
    pub pod_labels: Labels,
}

/// Whom pods run as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    Id(i64),
    OfTheNamespace,
}

fn read_user(text: &str) -> Result<User, String> {
    match text.parse() {
        _ if text == "none" => Ok(User::OfTheNamespace),
        Ok(id @ 1..) => Ok(User::Id(id)),
        _ => Err("must be a number above 0, or none".to_owned()),
    }
}

/// Labels of a pod.
pub type Labels = BTreeMap<String, String>;

fn read_labels(text: &str) -> Result<Labels, String> {
    let labels = text.split(',').map(|label| match label.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("{label:?} is no NAME=VALUE")),
    });
    labels.collect()
}

impl RunArgs {
    /// `None`: every namespace. `own` is where the operator is.
    ///
    /// # Errors
    /// Both some and all were asked for.
    pub fn scope(&self, own: &str) -> anyhow::Result<Option<Vec<String>>> {
        match (self.all_namespaces, self.namespaces.is_empty()) {
            (true, true) => Ok(None),
            (true, false) => {
                anyhow::bail!("--all-namespaces and --namespace contradict each other")
            }
            (false, true) => Ok(Some(vec![own.to_owned()])),
            (false, false) => Ok(Some(self.namespaces.clone())),
        }
    }
}

impl DefaultArgs {
    fn defaults(&self) -> Defaults {
        Defaults {
            server_image: self.server_image.clone(),
            image_pull_policy: self.image_pull_policy.clone(),
            domain: self.cluster_domain.clone(),
            pull_secrets: self.image_pull_secrets.clone(),
            operator: self
                .pod_namespace
                .clone()
                .map(|namespace| OperatorPlace { namespace, labels: self.pod_labels.clone() }),
            user: match self.server_user {
                User::Id(id) => Some(id),
                User::OfTheNamespace => None,
            },
            lends: self.allow_in_templates.iter().copied().collect(),
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
    /// Only clusters of this namespace; repeatable. [default: that of the pod or of the kubeconfig]
    #[arg(long = "namespace", env = "FLOTILLA_OPERATOR_NAMESPACES", value_name = "NAME")]
    #[arg(value_delimiter = ',')]
    pub namespaces: Vec<String>,
    /// Clusters of every namespace. Needs the rights there: who has this operator's token then has every
    /// ServiceAccount's.
    #[arg(long, env = "FLOTILLA_OPERATOR_ALL_NAMESPACES", value_name = "BOOL")]
    #[arg(default_value_t = false, num_args = 0..=1, default_missing_value = "true")]
    #[arg(action = clap::ArgAction::Set)]
    pub all_namespaces: bool,
    /// Let one of several operators act, chosen by a Lease.
    #[arg(long, env = "FLOTILLA_OPERATOR_LEADER_ELECTION", value_name = "BOOL")]
    #[arg(default_value_t = true, action = clap::ArgAction::Set)]
    pub leader_election: bool,
    /// Name of the Lease.
    #[arg(long, env = "FLOTILLA_OPERATOR_LEASE_NAME", value_name = "NAME")]
    #[arg(default_value = LEASE)]
    pub lease_name: String,
    /// Namespace of the Lease. [default: that of the pod or of the kubeconfig]
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME")]
    pub lease_namespace: Option<String>,
    /// Who this operator is in events, and in the Lease with something behind it that no other process has. [default:
    /// that of its process]
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
        Command::Admission => rights::yaml(),
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

/// The KvCluster of a file: as it is meant, and as it is written, without the defaults of this version.
fn read_cluster(file: &Path) -> anyhow::Result<(KvCluster, Value)> {
    let text = read(file)?;
    let file = file.display();
    let object: Value =
        serde_yaml::from_str(&text).with_context(|| format!("{file} is no YAML"))?;
    let unknown = crd::unknown_fields(&object);
    ensure!(
        unknown.is_empty(),
        "{file} is no KvCluster of this version: there is no {}",
        unknown.join(", no ")
    );
    let cluster = serde_json::from_value(object.clone())
        .with_context(|| format!("{file} is no KvCluster"))?;
    Ok((cluster, object))
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
    fn file_with_a_misspelt_field_is_refused_by_its_name() {
        let path = std::env::temp_dir().join(format!("kvcluster-{}.yaml", std::process::id()));
        let read = |text: &str| {
            fs::write(&path, text).expect("written");
            read_cluster(&path).map(|(cluster, _)| cluster.spec.replicas)
        };
        let head = "apiVersion: flotilla.dev/v1alpha1\nkind: KvCluster\nmetadata: {name: kv}\n";
        let good = read(&format!("{head}spec: {{replicas: 5, storage: {{size: 1Gi}}}}"));
        let misspelt = read(&format!("{head}spec: {{replica: 5, storage: {{size: 1Gi}}}}"));
        let incomplete = read(&format!("{head}spec: {{replicas: 5}}"));
        fs::remove_file(&path).expect("removed");
        assert_eq!(good.expect("read"), 5);
        let error = format!("{:#}", misspelt.expect_err("refused"));
        assert!(error.contains("no .spec.replica"), "{error}");
        let error = format!("{:#}", incomplete.expect_err("refused"));
        assert!(error.contains("storage"), "{error}");
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

    #[test]
    fn operator_acts_in_its_own_namespace_unless_it_was_given_others() {
        for (why, words, scope) in [
            ("its own", vec![], Ok(Some(vec!["own"]))),
            ("given", vec!["--namespace", "a", "--namespace", "b"], Ok(Some(vec!["a", "b"]))),
            ("all", vec!["--all-namespaces"], Ok(None)),
            ("not all", vec!["--all-namespaces", "false"], Ok(Some(vec!["own"]))),
            ("both", vec!["--all-namespaces", "--namespace", "a"], Err(())),
        ] {
            let words = ["flotilla-operator", "run"].into_iter().chain(words);
            let cli = Cli::try_parse_from(words).expect(why);
            let Command::Run(args) = cli.command else { panic!("{why}: {:?}", cli.command) };
            let scope = scope
                .map(|names| names.map(|names| names.into_iter().map(str::to_owned).collect()));
            assert_eq!(args.scope("own").map_err(drop), scope, "{why}");
        }
    }

    #[test]
    fn defaults_say_where_the_operator_is_and_what_templates_may_lend() {
        let words = [
            "flotilla-operator",
            "run",
            "--pod-namespace",
            "system",
            "--pod-labels",
            "a=b,c=d",
            "--image-pull-secret",
            "one,two",
            "--allow-in-templates",
            "hostPaths",
        ];
        let cli = Cli::try_parse_from(words).expect("parsed");
        let Command::Run(args) = cli.command else { panic!("{:?}", cli.command) };
        let defaults = args.defaults.defaults();
        let place = defaults.operator.expect("a place");
        assert_eq!((place.namespace.as_str(), place.labels.len()), ("system", 2));
        assert_eq!(defaults.pull_secrets, ["one", "two"]);
        assert_eq!(defaults.lends, [Right::HostPaths].into());
        for wrong in
            [["--pod-labels", "a"], ["--server-user", "0"], ["--allow-in-templates", "all"]]
        {
            let words = ["flotilla-operator", "run"].into_iter().chain(wrong);
            assert!(Cli::try_parse_from(words).is_err(), "{wrong:?}");
        }
    }
}
