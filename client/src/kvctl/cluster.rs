//! `kvctl cluster`

use std::{collections::BTreeMap, io, time::Duration};

use clap::{Args, Subcommand};
use flotilla_proto::json::{self, state_name};
use futures::{FutureExt as _, future::BoxFuture};
use serde::Serialize;
use serde_json::json;
use tokio::{
    signal::{
        ctrl_c,
        unix::{SignalKind, signal},
    },
    time::{Instant, sleep_until},
};

use super::{
    Context,
    exit::{Failure, Part},
    listing::{self, Listing, Stale, Wanted},
    nodes,
    output::count,
    table::{Cell, Table, Tone},
};
use crate::{Client, v1};

/// How often `--wait` asks how far it is.
const POLL: Duration = Duration::from_millis(500);
/// Bound: so much longer than it was told to, a wait may last.
const ANSWER_MIN: Duration = Duration::from_secs(1);

#[derive(Debug, Subcommand)]
pub(super) enum Cluster {
    /// Make the node at the first endpoint the first of a new cluster
    Init(Init),
    /// Print the node table and the health of the regions
    Status(Stale),
    /// Take a node into the cluster
    Add(Add),
    /// Let learners hold data
    Promote(Promote),
    /// Move the data off nodes that stay known
    Demote(Demote),
    /// Change how many peers each region has
    ReplicationFactor(ReplicationFactor),
    /// Drain a node and remove it
    Remove(Remove),
    /// Take back the removal of a node that is draining
    CancelRemove(CancelRemove),
    /// Keep leaders away from a node for a while, as before a restart
    EvictLeaders(EvictLeaders),
}

#[derive(Debug, Args)]
pub(super) struct Init {
    /// Peers of each region: 1, 3, 5 or 7
    #[arg(long, default_value_t = 3)]
    replicas: u32,
    /// Cut regions at this key from birth; may be repeated
    #[arg(long = "split-key")]
    split_keys: Vec<String>,
    /// Repeating with the same token answers the first result
    #[arg(long, default_value = "")]
    token: String,
    /// Client addresses, host:port, of all nodes that the cluster begins with; without it, of this one alone
    #[arg(long = "first-nodes", value_delimiter = ',', value_name = "ADDRESS")]
    first_nodes: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct Add {
    /// Client address of the new node, host:port
    address: String,
    /// Where it is, as in zone=a; may be repeated
    #[arg(long = "label", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// Promote it too, unless it was demoted: that takes `promote`
    #[arg(long)]
    promote: bool,
    #[command(flatten)]
    expected: Expected,
}

#[derive(Debug, Args)]
pub(super) struct Promote {
    /// Ids of the nodes
    #[arg(required = true)]
    nodes: Vec<u64>,
    #[command(flatten)]
    expected: Expected,
}

#[derive(Debug, Args)]
pub(super) struct Demote {
    /// Ids of the nodes
    #[arg(required = true)]
    nodes: Vec<u64>,
    #[command(flatten)]
    expected: Expected,
}

#[derive(Debug, Args)]
pub(super) struct ReplicationFactor {
    /// Peers of each region: 1, 3, 5 or 7, and no more than there are nodes in service
    peers: u32,
    #[command(flatten)]
    expected: Expected,
}

#[derive(Debug, Args)]
pub(super) struct Remove {
    /// Id of the node
    node: u64,
    /// The node is dead: drop its peers where a quorum is left
    #[arg(long)]
    force: bool,
    /// Wait until it is removed
    #[arg(long)]
    wait: bool,
    /// Wait no longer than this
    #[arg(long, value_parser = humantime::parse_duration, default_value = "10m")]
    wait_timeout: Duration,
    #[command(flatten)]
    expected: Expected,
}

#[derive(Debug, Args)]
pub(super) struct CancelRemove {
    /// Id of the node
    node: u64,
    #[command(flatten)]
    expected: Expected,
}

#[derive(Debug, Args)]
pub(super) struct EvictLeaders {
    /// Id of the node
    node: u64,
    /// For how long, at most 1h; 0s ends it
    #[arg(long = "for", value_parser = humantime::parse_duration, default_value = "5m")]
    duration: Duration,
    /// Wait until it leads nothing, no longer than it is for
    #[arg(long)]
    wait: bool,
}

#[derive(Debug, Args)]
struct Expected {
    /// Change nothing if the node table has another version
    #[arg(long)]
    expected_version: Option<u64>,
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected name=value".to_owned()),
    }
}

impl Cluster {
    pub(super) async fn run(self, context: Context) -> Result<(), Failure> {
        match self {
            Self::Init(command) => command.run(context).await,
            Self::Status(stale) => status(context, stale).await,
            Self::Add(command) => command.run(context).await,
            Self::Promote(command) => {
                change(context, command.nodes, Vec::new(), command.expected).await
            }
            Self::Demote(command) => {
                change(context, Vec::new(), command.nodes, command.expected).await
            }
            Self::ReplicationFactor(command) => command.run(context).await,
            Self::Remove(command) => command.run(context).await,
            Self::CancelRemove(command) => command.run(context).await,
            Self::EvictLeaders(command) => command.run(context).await,
        }
    }
}

impl Init {
    async fn run(self, mut context: Context) -> Result<(), Failure> {
        let decode = |key: &String| context.encoding.decode("split key", key).map(Into::into);
        let request = v1::InitializeRequest {
            split_keys: self.split_keys.iter().map(decode).collect::<Result<_, _>>()?,
            replication_factor: self.replicas,
            token: self.token,
            first_nodes: self.first_nodes,
            ..v1::InitializeRequest::default()
        };
        let v1::InitializeResponse { cluster_id, node_id } =
            context.client.cluster().initialize(request).await?;
        let answer = json!({ "cluster_id": cluster_id, "node_id": node_id });
        let line = format!("cluster {cluster_id} has its first node, {node_id}");
        context.out.say(&answer, &line)
    }
}

impl Add {
    async fn run(self, mut context: Context) -> Result<(), Failure> {
        let cluster = context.client.cluster();
        let request = v1::AddLearnerRequest {
            address: self.address,
            labels: self.labels.into_iter().collect::<BTreeMap<_, _>>(),
            expected_version: self.expected.expected_version,
        };
        // Only what was there before tells what the call has changed.
        let listed = cluster.list_nodes(v1::ListNodesRequest::default()).await?;
        let before = listed.nodes;
        let v1::AddLearnerResponse { node_id, mut version } = cluster.add_learner(request).await?;
        if version == listed.version {
            context.client.shared.written.take_back();
        }
        if self.promote {
            let request = v1::ChangeMembershipRequest {
                promote: vec![node_id],
                demote: Vec::new(),
                // Who cares about the version cares about the one that this call just made.
                expected_version: self.expected.expected_version.map(|_| version),
                // Who adds a node has not asked for one that somebody took out of service.
                keep_demoted: true,
                ..Default::default()
            };
            let changed = cluster.change_membership(request).await;
            version = changed
                .map_err(|error| {
                    Failure::from(error).after_part(&context.client, || Part {
                        done: format!("node {node_id} is in the cluster, at version {version}"),
                        next: format!("`kvctl cluster promote {node_id}` lets it hold data"),
                    })
                })?
                .version;
        }
        // The call converges: the node may have been there, and be more than a learner.
        let was = before.iter().find(|node| node.node_id == node_id);
        let answer = json!({ "node_id": node_id, "version": version, "promoted": self.promote });
        let what = match (was.map(v1::Node::state), self.promote) {
            (Some(v1::NodeState::Up), _) => "is in service already".to_owned(),
            (Some(v1::NodeState::NodeLearner), true) => "was a learner, promoted".to_owned(),
            (Some(state), false) if state != v1::NodeState::Joining => {
                format!("is in the cluster already: {}", was.map_or_else(String::new, nodes::state))
            }
            (_, true) => "added and promoted".to_owned(),
            (_, false) => "added as a learner".to_owned(),
        };
        context.out.say(&answer, &format!("node {node_id} {what}, version {version}"))
    }
}

async fn change(
    mut context: Context,
    promote: Vec<u64>,
    demote: Vec<u64>,
    expected: Expected,
) -> Result<(), Failure> {
    let what = if demote.is_empty() { "promoted" } else { "demoted" };
    let nodes = if demote.is_empty() { promote.clone() } else { demote.clone() };
    let expected_version = expected.expected_version;
    let request =
        v1::ChangeMembershipRequest { promote, demote, expected_version, ..Default::default() };
    let version = context.client.cluster().change_membership(request).await?.version;
    let answer = json!({ what: nodes, "version": version });
    let names: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    context.out.say(&answer, &format!("{what} {}, version {version}", names.join(", ")))
}

impl ReplicationFactor {
    async fn run(self, mut context: Context) -> Result<(), Failure> {
        let request = v1::ChangeMembershipRequest {
            replication_factor: Some(self.peers),
            expected_version: self.expected.expected_version,
            ..Default::default()
        };
        let version = context.client.cluster().change_membership(request).await?.version;
        let answer = json!({ "replication_factor": self.peers, "version": version });
        let line = format!("regions are to have {} peers each, version {version}", self.peers);
        context.out.say(&answer, &line)
    }
}

#[derive(Debug, Serialize)]
struct Removal {
    node_id: u64,
    state: &'static str,
    peers_left: u32,
    leaders_left: u32,
    version: u64,
}

impl Remove {
    async fn run(self, mut context: Context) -> Result<(), Failure> {
        let deadline = Instant::now() + self.wait_timeout;
        let request = v1::RemoveNodeRequest {
            node_id: self.node,
            force: self.force,
            expected_version: self.expected.expected_version,
        };
        let spinner = indicatif::ProgressBar::new_spinner();
        let part = |done: String| Part {
            done,
            next: format!(
                "it goes on by itself; `kvctl nodes --all` tells how far it is, \
                 `kvctl cluster cancel-remove {}` takes it back",
                self.node
            ),
        };
        // Ordering: sent once. Repeated as a question it would drain the node anew after somebody took
        // that back.
        let asked = context.client.cluster().remove_node(request).await;
        let mut told = asked.map_err(|error| match error.maybe_applied() {
            true => Failure::from(error)
                .with_part(|| part(format!("node {} may be draining", self.node))),
            false => error.into(),
        })?;
        let begun = |told: &v1::RemoveNodeResponse| {
            part(format!(
                "node {} is {}, with {} peers left, {} of them leaders",
                self.node,
                state_name(told.state()),
                told.peers_left,
                told.leaders_left
            ))
        };
        let mut interruption = Interruption::new();
        let mut waits_for = String::new();
        while self.wait && told.state() == v1::NodeState::Draining && Instant::now() < deadline {
            let why = if waits_for.is_empty() { "" } else { "; " };
            spinner.set_message(format!(
                "node {}: {} peers left{why}{waits_for}",
                self.node, told.peers_left
            ));
            spinner.tick();
            let looking = async {
                sleep_until(deadline.min(Instant::now() + POLL)).await;
                if Instant::now() >= deadline {
                    return Ok(None);
                }
                row(&context.client, self.node, told.version, deadline).await
            };
            let row = interruption.or(looking).await.map_err(|failure| {
                spinner.finish_and_clear();
                failure.after_part(&context.client, || begun(&told))
            })?;
            if let Some((version, node)) = row {
                waits_for = node.waits_for;
                told = v1::RemoveNodeResponse {
                    state: node.state,
                    peers_left: node.peers,
                    leaders_left: node.leaders,
                    version,
                };
            }
        }
        spinner.finish_and_clear();
        let answer = Removal {
            node_id: self.node,
            state: state_name(told.state()),
            peers_left: told.peers_left,
            leaders_left: told.leaders_left,
            version: told.version,
        };
        let line = match told.state() {
            v1::NodeState::Draining => format!(
                "node {} is draining: {} peers left, {} of them leaders",
                self.node, told.peers_left, told.leaders_left
            ),
            _ => format!("node {} is {}", self.node, answer.state),
        };
        context.out.say(&answer, &line)?;
        match told.state() {
            _ if !self.wait => Ok(()),
            v1::NodeState::Removed => Ok(()),
            v1::NodeState::Draining => {
                let waited = humantime::format_duration(self.wait_timeout);
                let why = if waits_for.is_empty() { "" } else { ": " };
                let text = format!("not removed after {waited}{why}{waits_for}");
                let failure = Failure::Failed(text);
                Err(failure.after_part(&context.client, || begun(&told)))
            }
            v1::NodeState::Unspecified
            | v1::NodeState::Joining
            | v1::NodeState::NodeLearner
            | v1::NodeState::Up => Err(Failure::No(format!(
                "node {} is not removed: somebody took it back",
                self.node
            ))),
        }
    }
}

/// Somebody ends the command (SIGINT, SIGTERM) that waits for what goes on without it: he is told so, as at the end of
/// a wait.
struct Interruption(BoxFuture<'static, &'static str>);

impl Interruption {
    fn new() -> Self {
        let waiting = async {
            let told = async {
                let mut terminate = signal(SignalKind::terminate())?;
                tokio::select! {
                    interrupted = ctrl_c() => interrupted.map(|()| "interrupted"),
                    _ = terminate.recv() => Ok("told to stop"),
                }
            };
            match told.await {
                Ok(signal) => signal,
                // Then a signal ends the process as it ends any other.
                Err::<_, io::Error>(_) => std::future::pending().await,
            }
        };
        Self(waiting.boxed())
    }

    /// The outcome of `work`, or that it was interrupted.
    async fn or<T>(
        &mut self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            outcome = work => outcome,
            signal = &mut self.0 => Err(Failure::Failed(signal.to_owned())),
        }
    }
}

/// A node's row as the placement driver has it, with the version of the table; `None` when the answer
/// is not one to go by: of a node that told what it knows by itself, or of a table older than `since`.
async fn row(
    client: &Client,
    node_id: u64,
    since: u64,
    until: Instant,
) -> Result<Option<(u64, v1::Node)>, Failure> {
    // Bound: no longer than the wait that it is a part of, but for what an answer may take: else a wait
    // would end by the failure of its last question, and not by what it waited for.
    let left = until.saturating_duration_since(Instant::now()).max(ANSWER_MIN);
    let client = client.with_timeout(client.settings.timeout.min(left))?;
    let request = v1::ListNodesRequest { all: true, ..v1::ListNodesRequest::default() };
    let listed = client.cluster().list_nodes(request).await?;
    if listed.told_by_node != 0 || listed.version < since {
        return Ok(None);
    }
    let node = listed.nodes.into_iter().find(|node| node.node_id == node_id);
    let unknown = || Failure::Failed(format!("node {node_id} is not in the node table any more"));
    Ok(Some((listed.version, node.ok_or_else(unknown)?)))
}

impl CancelRemove {
    async fn run(self, mut context: Context) -> Result<(), Failure> {
        let request = v1::CancelRemoveNodeRequest {
            node_id: self.node,
            expected_version: self.expected.expected_version,
        };
        let done = context.client.cluster().cancel_remove_node(request).await?;
        let state = state_name(done.state());
        let answer = json!({ "node_id": self.node, "state": state, "version": done.version });
        context.out.say(&answer, &format!("node {} is {state}", self.node))
    }
}

impl EvictLeaders {
    async fn run(self, mut context: Context) -> Result<(), Failure> {
        let duration_ms = u64::try_from(self.duration.as_millis())
            .map_err(|_| Failure::Usage("--for: at most 1h".into()))?;
        if self.wait && duration_ms == 0 {
            return Err(Failure::Usage(
                "--wait: there is nothing to wait for with --for 0s".into(),
            ));
        }
        let request = v1::EvictLeadersRequest { node_id: self.node, duration_ms };
        // It begins when the driver hears of it, so it is not over before.
        let ends = Instant::now() + self.duration;
        let mut left = context.client.cluster().evict_leaders(request).await?.leaders_left;
        let part = |left: u32| {
            let led = count(left.into(), "leader");
            match Instant::now() < ends {
                true => Part {
                    done: format!("leaders are kept away from node {}, {led} left", self.node),
                    next: format!("`kvctl cluster evict-leaders {} --for 0s` ends it", self.node),
                },
                false => Part {
                    done: format!(
                        "leaders were kept away from node {}, which is over; it had {led} left",
                        self.node
                    ),
                    next: "the same command keeps them away anew, --for longer".into(),
                },
            }
        };
        let mut interruption = Interruption::new();
        while self.wait && left > 0 {
            let looking = async {
                sleep_until(ends.min(Instant::now() + POLL)).await;
                // To ask again by the same call would begin the time anew.
                match Instant::now() < ends {
                    true => row(&context.client, self.node, 0, ends).await,
                    false => Ok(None),
                }
            };
            let row = interruption.or(looking).await;
            let row = row.map_err(|failure| failure.after_part(&context.client, || part(left)))?;
            let failure = match row {
                Some((_, node)) if node.state() == v1::NodeState::Removed => {
                    Failure::No(format!("node {} was removed meanwhile", self.node))
                }
                Some((_, node)) if node.leaders_evicted => {
                    left = node.leaders;
                    continue;
                }
                _ if Instant::now() >= ends => {
                    let time = humantime::format_duration(self.duration);
                    Failure::Failed(format!("it still led something after {time}"))
                }
                Some(_) => Failure::No(format!(
                    "leaders are not kept away from node {} any more: somebody ended that",
                    self.node
                )),
                None => continue,
            };
            return Err(failure.after_part(&context.client, || part(left)));
        }
        let answer = json!({ "node_id": self.node, "leaders_left": left });
        let line = if duration_ms == 0 {
            format!("node {} may lead again", self.node)
        } else {
            format!("node {} has {} left", self.node, count(u64::from(left), "leader"))
        };
        context.out.say(&answer, &line)
    }
}

#[derive(Debug, Serialize)]
struct ClusterStatus {
    /// Nodes that told this by themselves; the placement driver did when there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    told_by_nodes: Vec<u64>,
    cluster_id: String,
    version: u64,
    replication_factor: u32,
    /// In service, and heard of.
    nodes_up: usize,
    regions: usize,
    regions_without_leader: usize,
    regions_without_quorum: usize,
    regions_under_replicated: usize,
    regions_with_down_peers: usize,
    regions_with_pending_peers: usize,
    nodes: Vec<json::Node>,
}

async fn status(context: Context, stale: Stale) -> Result<(), Failure> {
    let Context { client, mut out, .. } = context;
    let all = v1::ListRegionsRequest { all: true, ..v1::ListRegionsRequest::default() };
    let wanted = Wanted { nodes: true, all_nodes: false, regions: Some(all) };
    let listing = listing::list(&client, stale, &wanted).await?;
    listing.note(&out);
    let told_by_nodes = listing.told_by_nodes();
    let Listing { nodes, regions, .. } = listing;
    let count = |is: fn(&v1::RegionInfo) -> bool| regions.iter().filter(|info| is(info)).count();
    let is_up = |node: &&v1::Node| {
        node.state() == v1::NodeState::Up && node.liveness() == v1::Liveness::Alive
    };
    let table = nodes::table(&nodes.nodes);
    let status = ClusterStatus {
        told_by_nodes,
        nodes_up: nodes.nodes.iter().filter(is_up).count(),
        cluster_id: nodes.cluster_id,
        version: nodes.version,
        replication_factor: nodes.replication_factor,
        regions: regions.len(),
        regions_without_leader: count(|info| info.leader.is_none()),
        regions_without_quorum: count(|info| info.health() == v1::RegionHealth::NoQuorum),
        regions_under_replicated: count(|info| info.health() == v1::RegionHealth::UnderReplicated),
        regions_with_down_peers: count(|info| !info.down_peers.is_empty()),
        regions_with_pending_peers: count(|info| !info.pending_peers.is_empty()),
        nodes: nodes.nodes.into_iter().map(Into::into).collect(),
    };
    let is_table = out.format == super::output::Format::Table;
    out.show(&status, || summary(&status))?;
    if is_table {
        out.say(&(), "")?;
        out.show(&(), || table)?;
    }
    Ok(())
}

fn summary(status: &ClusterStatus) -> Table {
    let mut table = Table::fields();
    // That those who can be reached know of none is not that there is none.
    let none = if status.told_by_nodes.is_empty() { Tone::Good } else { Tone::Plain };
    let bad =
        |count: usize, tone: Tone| Cell::number(count).tone(if count == 0 { none } else { tone });
    table.field("cluster", Cell::text(&status.cluster_id));
    table.field("node table version", Cell::number(status.version));
    table.field("replication factor", Cell::number(status.replication_factor));
    table.field("nodes up", Cell::text(format!("{} of {}", status.nodes_up, status.nodes.len())));
    table.field("regions", Cell::number(status.regions));
    table.field("without leader", bad(status.regions_without_leader, Tone::Bad));
    table.field("without quorum", bad(status.regions_without_quorum, Tone::Bad));
    table.field("under-replicated", bad(status.regions_under_replicated, Tone::Warning));
    table.field("with down peers", bad(status.regions_with_down_peers, Tone::Warning));
    table.field("with pending peers", bad(status.regions_with_pending_peers, Tone::Warning));
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn wait_that_somebody_ends_says_so() {
        let mut interruption = Interruption(std::future::ready("interrupted").boxed());
        let endless = std::future::pending::<Result<(), Failure>>();
        let ended = interruption.or(endless).await.expect_err("it would wait for ever");
        assert_eq!(ended.to_string(), "interrupted");
        let mut nobody = Interruption::new();
        nobody.or(async { Ok(()) }).await.expect("nobody interrupts");
    }

    #[test]
    fn a_label_is_a_name_and_a_value() {
        assert_eq!(parse_label("zone=a=b"), Ok(("zone".into(), "a=b".into())));
        assert_eq!(parse_label("zone="), Ok(("zone".into(), String::new())));
        assert!(parse_label("zone").is_err());
        assert!(parse_label("=a").is_err());
    }

    #[test]
    fn no_trouble_is_green_only_where_the_driver_knows_of_none() {
        for (told_by_nodes, is_green) in [(vec![], true), (vec![3], false)] {
            let status = ClusterStatus {
                told_by_nodes,
                cluster_id: String::new(),
                version: 1,
                replication_factor: 3,
                nodes_up: 3,
                regions: 2,
                regions_without_leader: 0,
                regions_without_quorum: 0,
                regions_under_replicated: 0,
                regions_with_down_peers: 0,
                regions_with_pending_peers: 0,
                nodes: Vec::new(),
            };
            let told = summary(&status).render(true);
            assert_eq!(told.contains("\x1b[32m"), is_green, "{told:?}");
        }
    }
}
