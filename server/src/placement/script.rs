//! Stories of the placement driver, as scripts: `testdata/*.txt`, read by `crate::script`.
//!
//! Whatever decides is the driver's own: view, plan, orders, the judgement of steps, membership calls, what a node
//! reports. What a script makes up is the cluster around it (`script/cluster.rs`): who is alive, who leads, what lies
//! on whose disk. Peers are written as `201@1*`: peer 201 on node 1, which leads; `l` is a learner. Epochs are
//! written as `5.1`: conf_ver, then version.
//!
//! | command | what it does |
//! |---|---|
//! | `cluster 3` | begins, with a replication factor |
//! | `node 1 [up, learner, joining] [zone=a] [level=2]` | a node that is in the table already |
//! | `region 2 m..z on 1* 2 3l` | a region with the peers 201 on node 1, which leads, and so on |
//! | `wait 10s` | time passes: nodes tell the driver of themselves each second, followers follow; nothing is planned |
//! | `plan` | a round of the driver |
//! | `apply [lost]` | nodes are given what was ordered of their leaders, and carry it out; or it is lost on its way |
//! | `run` | `wait 1s`, `apply` and `plan`, over and over until nothing happens for a minute |
//! | `regions`, `seen`, `nodes` | what is; what the driver sees of regions, and of nodes |
//! | `silent 3`, `back 3`, `wipe 3` | node 3 stops; its process starts again; it stops, and its disk is lost |
//! | `cut 1`, `heal 1` | node 1 and the others do not hear each other, but the driver hears it; and do again |
//! | `beat 1` | node 1 tells the driver of itself, now |
//! | `hold 1`, `deliver` | what node 1 tells is held up on its way; and comes now |
//! | `lead 2 by 203` | peer 203 is elected |
//! | `grow 2 5000` | so many entries are written |
//! | `disk 3 low`, `level 3 2` | the disk of node 3 fills; its program is of another feature level |
//! | `quarantine`, `contradict`, `revert`, `bury`, `refuse`, `accept` `2 203` | what is found of a peer |
//! | `driver` | another driver takes over, which has heard nothing yet |
//! | `add n4 [zone=b]`, `confirm 4`, `remove 3 [force]`, `cancel 3`, `promote 4`, `demote 4`, `factor 5`, `evict 1 5m` | the calls of people; `version=7` is what they looked at |
//! | `gone 2 202 of 5` | what the driver answers of a peer that hears no leader and is of this conf_ver |

mod cluster;
mod tell;

use flotilla_proto::v1::{self, DiskLevel, NodeState};

use self::cluster::{Cluster, Found};
use super::membership::{self, AddLearner, Decision};
use crate::{
    error::Error,
    ids::{NodeId, PeerId, RegionId},
    script,
};

/// The version of all programs here.
const VERSION: &str = "0.1.0";

#[test]
fn driver_decides_as_the_scripts_say() {
    script::play_all("placement/testdata", || {
        let mut cluster = None;
        move |line: &str| match line.split_once(' ') {
            Some(("cluster", factor)) => {
                cluster = Some(Cluster::new(number(factor)));
                String::new()
            }
            _ => act(cluster.as_mut().expect("a script begins with `cluster`"), line),
        }
    });
}

fn number<T: std::str::FromStr<Err: std::fmt::Debug>>(word: &str) -> T {
    word.parse().unwrap_or_else(|error| panic!("{word}: {error:?}"))
}

/// Carries out a command and tells what came of it.
fn act(cluster: &mut Cluster, line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    // `name=value`, and what is no such word.
    let options: Vec<(&str, &str)> = words.iter().filter_map(|word| word.split_once('=')).collect();
    let option = |name: &str| options.iter().find(|(of, _)| *of == name).map(|(_, value)| *value);
    let labels = || {
        let named = options.iter().filter(|(name, _)| ["zone", "host"].contains(name));
        named.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let version: Option<u64> = option("version").map(number);
    let plain: Vec<&str> = words.iter().copied().filter(|word| !word.contains('=')).collect();
    match plain[..] {
        ["node", id, ref state @ ..] => {
            let state = match state {
                [] | ["up"] => NodeState::Up,
                ["learner"] => NodeState::NodeLearner,
                ["joining"] => NodeState::Joining,
                other => panic!("no state {other:?}"),
            };
            let level = option("level").map_or(1, number);
            cluster.put_node(NodeId(number(id)), state, labels(), level);
            String::new()
        }
        ["region", id, range, "on", ref peers @ ..] => {
            cluster.put_region(RegionId(number(id)), range, peers);
            String::new()
        }
        ["wait", time] => {
            let time = humantime::parse_duration(time).expect("a time");
            (0..time.as_secs()).map(|_| cluster.second()).collect()
        }
        ["plan"] => cluster.plan(),
        ["apply"] => cluster.apply(false),
        ["apply", "lost"] => cluster.apply(true),
        ["run"] => cluster.run(),
        ["regions"] => cluster.regions(),
        ["seen"] => tell::seen(cluster),
        ["nodes"] => tell::nodes(cluster),
        ["silent", node] => cluster.silence(NodeId(number(node))),
        ["wipe", node] => cluster.wipe(NodeId(number(node))),
        ["back", node] => cluster.start(NodeId(number(node))),
        ["cut", node] => cluster.cut(NodeId(number(node))),
        ["heal", node] => cluster.heal(NodeId(number(node))),
        ["beat", node] => cluster.beat(NodeId(number(node))),
        ["hold", node] => cluster.hold(NodeId(number(node))),
        ["deliver"] => cluster.deliver(),
        ["lead", region, "by", peer] => {
            cluster.elect(RegionId(number(region)), PeerId(number(peer)))
        }
        ["grow", region, entries] => cluster.grow(RegionId(number(region)), number(entries)),
        ["disk", node, level] => {
            let level = match level {
                "normal" => DiskLevel::Normal,
                "low" => DiskLevel::Low,
                "critical" => DiskLevel::Critical,
                other => panic!("no level {other}"),
            };
            cluster.node(NodeId(number(node))).disk = level;
            String::new()
        }
        ["level", node, level] => {
            cluster.node(NodeId(number(node))).level = number(level);
            String::new()
        }
        [found @ ("quarantine" | "contradict" | "revert" | "bury" | "refuse"), region, peer] => {
            let found = match found {
                "quarantine" => Found::Quarantined,
                "contradict" => Found::Contradicted,
                "revert" => Found::Reverted,
                "bury" => Found::Buried,
                _ => Found::Refused { since_ms: cluster.now_ms },
            };
            cluster.find(RegionId(number(region)), PeerId(number(peer)), found);
            String::new()
        }
        ["accept", region, peer] => {
            cluster.region(RegionId(number(region))).found.remove(&PeerId(number(peer)));
            String::new()
        }
        ["driver"] => cluster.take_over(),
        ["gone", region, peer, "of", conf_ver] => {
            cluster.gone(RegionId(number(region)), PeerId(number(peer)), number(conf_ver))
        }
        ["add", host] => add(cluster, host, labels(), version),
        ["confirm", node] => {
            let decision = membership::confirm(cluster.table(), NodeId(number(node)));
            cluster.decide(decision)
        }
        ["remove", node, ref force @ ..] => {
            let request = v1::RemoveNodeRequest {
                node_id: number(node),
                force: *force == ["force"],
                expected_version: version,
            };
            let decision =
                membership::remove_node(&cluster.view, &request, &cluster.config, cluster.now_ms);
            cluster.decide(decision)
        }
        ["cancel", node] => {
            let request =
                v1::CancelRemoveNodeRequest { node_id: number(node), expected_version: version };
            let decision = membership::cancel_remove_node(cluster.table(), &request);
            cluster.decide(decision)
        }
        [call @ ("promote" | "demote" | "factor"), value] => {
            let mut request = v1::ChangeMembershipRequest {
                expected_version: version,
                ..v1::ChangeMembershipRequest::default()
            };
            match call {
                "promote" => request.promote.push(number(value)),
                "demote" => request.demote.push(number(value)),
                _ => request.replication_factor = Some(number(value)),
            }
            let decision = membership::change_membership(cluster.table(), &request);
            cluster.decide(decision)
        }
        ["evict", node, time] => {
            let duration = humantime::parse_duration(time).expect("a time");
            let duration_ms = super::config::millis(duration);
            let request = v1::EvictLeadersRequest { node_id: number(node), duration_ms };
            match membership::evict_leaders(cluster.table(), &request) {
                Ok((node, _)) => {
                    cluster.view.evict_leaders(node, cluster.now_ms + duration_ms);
                    String::new()
                }
                Err(error) => tell::refusal(&error),
            }
        }
        _ => panic!("no command {line}"),
    }
}

/// One look at a node that wants to join, and the one step that follows from it.
fn add(
    cluster: &mut Cluster,
    host: &str,
    labels: std::collections::BTreeMap<String, String>,
    version: Option<u64>,
) -> String {
    let request = v1::AddLearnerRequest {
        address: format!("{host}:7420"),
        labels,
        expected_version: version,
    };
    let status = cluster.status(host);
    match membership::add_learner(cluster.table(), &request, &status, VERSION) {
        Ok(AddLearner::Join { record }) => cluster.join(host, record),
        Ok(AddLearner::Adopt { node }) => cluster.adopt(host, node),
        Ok(AddLearner::Confirm { node }) => format!("next: confirm {node}"),
        Ok(AddLearner::Known { node }) => format!("it is node {node}"),
        Ok(AddLearner::Replace { lost }) => {
            format!("its disk is empty, its address that of node {lost}: next: remove {lost} force")
        }
        Err(error) => tell::refusal(&error),
    }
}

impl Cluster {
    /// Writes what a call decided.
    fn decide(&mut self, decision: Result<Decision, Error>) -> String {
        match decision {
            Ok(Decision::Nothing) => "nothing to do".to_owned(),
            Ok(Decision::Write(change)) => self.write(change),
            Err(error) => tell::refusal(&error),
        }
    }
}
