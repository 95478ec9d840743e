//! Metrics of the operator. A metric's name, help and labels are written once, here.

mod process;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use parking_lot::Mutex;
use prometheus::{
    Encoder as _, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry,
    TextEncoder, core::Collector,
};

use crate::{
    asked::Asked,
    clock, conditions,
    crd::{KvClusterStatus, Member},
    error::Error,
    key::Key,
    pass::{Did, Outcome},
    plan::{Action, Plan},
    regions::Tally,
};

const CLUSTER: [&str; 2] = ["namespace", "cluster"];
/// Values of the label `state`. `unreached`: it lives, as others know, and does not answer the operator.
const STATES: [&str; 7] = ["joining", "learner", "up", "draining", "down", "stopped", UNREACHED];
const UNREACHED: &str = "unreached";
/// Values of the label `result` of passes.
const RESULTS: [&str; 3] = ["ok", "refused", "error"];

/// Cloneable handles, cheap to record into.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    /// Label `result`: `ok`; `refused`, when Kubernetes would not take a change or show something (no right, a quota, a
    /// policy); `error`. What a node refuses is ok: it says when it can.
    reconciles_total: IntCounterVec,
    /// The same of each cluster: by this an alert knows of which one something is refused or fails, and goes on to.
    cluster_reconciles_total: IntCounterVec,
    reconcile_seconds: Histogram,
    /// Labels `action`, of [`crate::plan::Action::name`], and `result`: `done`, `refused`, `contended`.
    actions_total: IntCounterVec,
    /// Labels as the rules of a role have them: `verb`; `resource`, the plural of the type, with the subresource behind
    /// a slash. Of writes all but those of `leases` stand still while nothing changes.
    api_requests_total: IntCounterVec,
    /// Of these, what was refused for other reasons than that it came too early or too late.
    api_refused_total: IntCounterVec,
    /// Label `resource`, as above. Lists and watches by which the operator learns what there is, and what changes; those
    /// that are refused are not among them.
    watch_errors_total: IntCounterVec,
    /// Label `lease`: namespace and name of the Lease that it leads by, which no other operator has.
    leader: IntGaugeVec,
    desired: IntGaugeVec,
    ready: IntGaugeVec,
    members: IntGaugeVec,
    regions: IntGaugeVec,
    quorum: IntGaugeVec,
    operation: IntGaugeVec,
    condition: IntGaugeVec,
    /// By this an alert knows an operator that is new, be it in the pod of the one before.
    first_look: IntGaugeVec,
    observed: IntGaugeVec,
    look_refused: IntGaugeVec,
    trouble: IntGaugeVec,
    /// What was shown last of a cluster, so that it can be taken back.
    shown: Arc<Mutex<BTreeMap<Key, Shown>>>,
}

/// Labels of a cluster that come and go.
#[derive(Default)]
struct Shown {
    operation: Option<String>,
    troubles: BTreeSet<&'static str>,
}

/// A cluster as it was seen.
pub struct Look<'a> {
    /// Nodes that the spec asks for.
    pub desired: i32,
    pub status: &'a KvClusterStatus,
    /// Nodes of [`crate::unreached`].
    pub unreached: &'a BTreeSet<u64>,
    /// Of a cluster that has not begun, or is to be stopped, none is missed.
    pub regions: Tally,
    /// Reasons of [`crate::plan::Trouble`]: a closed set.
    pub troubles: BTreeSet<&'static str>,
}

impl Metrics {
    /// # Errors
    /// Only on a duplicate name, which is a bug.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let cluster = |more: &[&'static str]| [&CLUSTER[..], more].concat();
        let gauges = |name: &str, help: &str, more: &[&'static str]| {
            let name = format!("flotilla_operator_cluster_{name}");
            add(&registry, IntGaugeVec::new(Opts::new(name, help), &cluster(more))?)
        };
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let name = format!("flotilla_operator_{name}");
            add(&registry, IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        let passes = HistogramOpts::new(
            "flotilla_operator_reconcile_seconds",
            "One pass over one cluster: look, plan, note, act",
        )
        .buckets(prometheus::exponential_buckets(0.005, 2.0, 13)?); // 5 ms to 20 s
        let build = IntGaugeVec::new(
            Opts::new("flotilla_operator_build_info", "Always 1; the label says what runs"),
            &["version"],
        )?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        registry.register(Box::new(build))?;
        process::register(&registry)?;
        Ok(Self {
            reconciles_total: counters("reconciles_total", "Passes over clusters", &["result"])?,
            cluster_reconciles_total: counters(
                "cluster_reconciles_total",
                "Passes over each cluster",
                &cluster(&["result"]),
            )?,
            reconcile_seconds: add(&registry, Histogram::with_opts(passes)?)?,
            actions_total: counters(
                "actions_total",
                "Changes by what they are",
                &["action", "result"],
            )?,
            api_requests_total: counters(
                "api_requests_total",
                "Requests to the API server, those of watches, events and the Lease too",
                &["verb", "resource"],
            )?,
            api_refused_total: counters(
                "api_refused_total",
                "Requests that the API server refused: no right, a quota, a policy, no such type",
                &["verb", "resource"],
            )?,
            watch_errors_total: counters(
                "watch_errors_total",
                "Lists and watches that failed, but for those that were refused",
                &["resource"],
            )?,
            leader: add(
                &registry,
                IntGaugeVec::new(
                    Opts::new("flotilla_operator_leader", "1 while this operator acts"),
                    &["lease"],
                )?,
            )?,
            desired: gauges("nodes_desired", "Nodes that the spec asks for", &[])?,
            ready: gauges("nodes_ready", "Nodes that are ready", &[])?,
            members: gauges("members", "Nodes of the cluster's node table", &["state"])?,
            regions: gauges("regions", "Regions, each by what it is for certain", &["health"])?,
            quorum: gauges("quorum", "0 while a region is known to have lost its quorum", &[])?,
            operation: gauges("operation", "1 while an operation of this kind goes on", &["kind"])?,
            condition: gauges("condition", "1 for the present status", &["condition", "status"])?,
            trouble: gauges("trouble", "1 for each reason that Degraded has", &["reason"])?,
            look_refused: gauges(
                "look_refused",
                "1 while looks do not end as Kubernetes refuses what they read or note",
                &[],
            )?,
            first_look: gauges(
                "first_look_timestamp_seconds",
                "When this operator began to look at it, since 1970",
                &[],
            )?,
            observed: gauges(
                "observed_timestamp_seconds",
                "When the last look ended, since 1970",
                &[],
            )?,
            registry,
            shown: Arc::default(),
        })
    }

    /// The exposition format of Prometheus.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "encode metrics");
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// By the Lease of this name.
    pub fn lead(&self, lease: &str, leads: bool) {
        self.leader.with_label_values(&[lease]).set(leads.into());
    }

    /// A request to the API server is about to be sent.
    pub fn asked(&self, asked: &Asked) {
        let labels = [asked.verb, asked.resource.as_str()];
        self.api_requests_total.with_label_values(&labels).inc();
    }

    /// It was refused.
    pub fn refused(&self, asked: &Asked) {
        let labels = [asked.verb, asked.resource.as_str()];
        self.api_refused_total.with_label_values(&labels).inc();
    }

    /// Those of the watch of a type, from 0.
    #[must_use]
    pub fn watch_errors(&self, resource: &str) -> IntCounter {
        self.watch_errors_total.with_label_values(&[resource])
    }

    pub fn passed(&self, key: &Key, seconds: f64, outcome: Result<&Outcome, &Error>) {
        self.reconcile_seconds.observe(seconds);
        let result = match outcome {
            Err(Error::Refused(_)) => "refused",
            Err(_) => "error",
            Ok(Outcome {
                did: Did::Refused(_),
                plan: Plan { action: Some(Action::Change(_)), .. },
                ..
            }) => "refused",
            Ok(_) => "ok",
        };
        self.reconciles_total.with_label_values(&[result]).inc();
        let of_cluster = [key.namespace.as_str(), key.name.as_str(), result];
        self.cluster_reconciles_total.with_label_values(&of_cluster).inc();
        let Ok(outcome) = outcome else { return };
        if let Some(action) = &outcome.plan.action {
            let result = match outcome.did {
                Did::Done(_) => "done",
                Did::Refused(_) => "refused",
                Did::Contended(_) => "contended",
                Did::Noted | Did::Nothing => return,
            };
            self.actions_total.with_label_values(&[action.name(), result]).inc();
        }
    }

    /// A cluster is about to be looked at. That is not to have seen it: whoever ends in its first look leaves nothing that
    /// says so.
    pub fn begin(&self, key: &Key) {
        let mut shown = self.shown.lock();
        if !shown.contains_key(key) {
            shown.insert(key.clone(), Shown::default());
            let labels = [key.namespace.as_str(), key.name.as_str()];
            self.first_look.with_label_values(&labels).set(clock::wall().as_second());
            self.look_refused.with_label_values(&labels).set(0);
            // From 0, of which the first one after a scrape is an increase. What ends before any scrape is none, such as the
            // first pass of an operator that takes over: alerts go by what goes on to be refused or to fail.
            for result in RESULTS {
                let labels = [key.namespace.as_str(), key.name.as_str(), result];
                self.cluster_reconciles_total.with_label_values(&labels);
            }
        }
    }

    /// A look did not end.
    pub fn not_seen(&self, key: &Key, why: &Error) {
        let labels = [key.namespace.as_str(), key.name.as_str()];
        let is_refused = matches!(why, Error::Refused(_));
        self.look_refused.with_label_values(&labels).set(is_refused.into());
    }

    /// Shows a cluster as it was seen.
    pub fn show(&self, key: &Key, look: Look<'_>) {
        let Look { desired, status, unreached, regions, troubles } = look;
        let labels @ [namespace, name] = [key.namespace.as_str(), key.name.as_str()];
        self.desired.with_label_values(&labels).set(desired.into());
        self.ready.with_label_values(&labels).set(status.ready_replicas.into());
        self.observed.with_label_values(&labels).set(clock::wall().as_second());
        self.look_refused.with_label_values(&labels).set(0);
        let state_of = |node: &Member| {
            let lives = u64::try_from(node.node_id).is_ok_and(|id| unreached.contains(&id));
            if lives { UNREACHED.to_owned() } else { node.state.to_lowercase() }
        };
        for state in STATES {
            let count = status.members.iter().filter(|node| state_of(node) == state);
            let count = i64::try_from(count.count()).unwrap_or(i64::MAX);
            self.members.with_label_values(&[namespace, name, state]).set(count);
        }
        for (health, count) in regions.figures() {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.regions.with_label_values(&[namespace, name, health]).set(count);
        }
        let available = status.conditions.iter().find(|condition| condition.kind == "Available");
        let lost = available.is_some_and(|condition| condition.reason == conditions::LOST);
        self.quorum.with_label_values(&labels).set((!lost).into());
        for condition in &status.conditions {
            for value in ["True", "False", "Unknown"] {
                self.condition
                    .with_label_values(&[
                        namespace,
                        name,
                        condition.kind.as_str(),
                        value.to_lowercase().as_str(),
                    ])
                    .set((condition.status == value).into());
            }
        }
        let now = Shown {
            operation: status.operation.as_ref().map(|operation| operation.kind.clone()),
            troubles,
        };
        for reason in &now.troubles {
            self.trouble.with_label_values(&[namespace, name, reason]).set(1);
        }
        if let Some(kind) = &now.operation {
            self.operation.with_label_values(&[namespace, name, kind.as_str()]).set(1);
        }
        let mut shown = self.shown.lock();
        let shown = shown.entry(key.clone()).or_default();
        self.take_back(key, shown, &now);
        *shown = now;
    }

    /// What was shown before, and is not any more.
    fn take_back(&self, key: &Key, before: &Shown, now: &Shown) {
        let [namespace, name] = [key.namespace.as_str(), key.name.as_str()];
        // Not there: it was never shown.
        if let Some(kind) =
            before.operation.as_ref().filter(|kind| now.operation.as_ref() != Some(kind))
        {
            let _ = self.operation.remove_label_values(&[namespace, name, kind.as_str()]);
        }
        for reason in before.troubles.difference(&now.troubles) {
            let _ = self.trouble.remove_label_values(&[namespace, name, reason]);
        }
    }

    /// A cluster is gone, and so are its series.
    pub fn forget(&self, key: &Key) {
        let labels @ [namespace, name] = [key.namespace.as_str(), key.name.as_str()];
        let before = self.shown.lock().remove(key).unwrap_or_default();
        for gauges in [
            &self.desired,
            &self.ready,
            &self.quorum,
            &self.first_look,
            &self.observed,
            &self.look_refused,
        ] {
            let _ = gauges.remove_label_values(&labels);
        }
        for result in RESULTS {
            let _ = self.cluster_reconciles_total.remove_label_values(&[namespace, name, result]);
        }
        for state in STATES {
            let _ = self.members.remove_label_values(&[namespace, name, state]);
        }
        for (health, _) in Tally::default().figures() {
            let _ = self.regions.remove_label_values(&[namespace, name, health]);
        }
        for condition in
            ["Available", "Progressing", "Degraded", "Ready", "ReconciliationPaused", "Stopped"]
        {
            for value in ["true", "false", "unknown"] {
                let _ = self.condition.remove_label_values(&[namespace, name, condition, value]);
            }
        }
        self.take_back(key, &before, &Shown::default());
    }
}

fn add<C: Collector + Clone + 'static>(registry: &Registry, metric: C) -> prometheus::Result<C> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

#[cfg(test)]
mod tests {
    use crate::crd::{Condition, Operation};

    use super::*;

    /// What a series says, `None` without one.
    fn value(metrics: &Metrics, series: &str) -> Option<i64> {
        let text = metrics.text();
        let line = text.lines().find_map(|line| line.strip_prefix(series))?;
        line.trim().parse().ok()
    }

    #[test]
    fn first_look_stays_the_time_at_which_it_began_and_is_no_cluster_seen() {
        let metrics = Metrics::new().expect("no name is there twice");
        let key = Key { namespace: "ns".into(), name: "kv".into() };
        let first = r#"flotilla_operator_cluster_first_look_timestamp_seconds{cluster="kv",namespace="ns"}"#;
        assert_eq!(value(&metrics, first), None);
        metrics.begin(&key);
        let began = value(&metrics, first).expect("it has begun");
        assert!((0..60).contains(&(clock::wall().as_second() - began)), "{began}");
        metrics.first_look.with_label_values(&["ns", "kv"]).set(began - 300);
        metrics.begin(&key);
        assert_eq!(value(&metrics, first), Some(began - 300), "it has begun once");
        metrics.not_seen(&key, &Error::Failed("no answer".to_owned()));
        assert!(!metrics.text().contains("cluster_observed"), "{}", metrics.text());
        metrics.forget(&key);
        assert!(!metrics.text().contains(r#"cluster="kv""#), "{}", metrics.text());
    }

    #[test]
    fn cluster_is_shown_as_it_is_now_and_forgotten_when_it_is_gone() {
        let metrics = Metrics::new().expect("no name is there twice");
        let key = Key { namespace: "ns".into(), name: "kv".into() };
        let condition = |status: &str, reason: &str| Condition {
            kind: "Available".into(),
            status: status.into(),
            reason: reason.into(),
            message: String::new(),
            last_transition_time: String::new(),
            observed_generation: None,
        };
        let down = |node_id| Member {
            node_id,
            pod_name: String::new(),
            role: "voter".into(),
            state: "Down".into(),
            leaders: 0,
            peers: 0,
            pvc_uid: None,
            born_with: None,
            version: None,
        };
        let mut status = KvClusterStatus {
            ready_replicas: 2,
            conditions: vec![condition("False", "QuorumLost")],
            operation: Some(Operation {
                kind: "ScaleUp".into(),
                target: "kv-0".into(),
                step: "AddPods".into(),
                started_at: String::new(),
                node_id: None,
                volume_uid: None,
                lasted: Vec::new(),
            }),
            ..KvClusterStatus::default()
        };
        status.members = [1, 2].map(down).into();
        let show = |status: &KvClusterStatus, unreached: &[u64], troubles: &[&'static str]| {
            let unreached = unreached.iter().copied().collect();
            let troubles = troubles.iter().copied().collect();
            let regions = Tally { leaderless: 4, unseen: 2, ..Tally::default() };
            let look = Look { desired: 3, status, unreached: &unreached, regions, troubles };
            metrics.show(&key, look);
        };
        show(&status, &[2], &["NodeDown", "DiskFull"]);
        let labels = r#"cluster="kv","#;
        let series = |text: &str, part: &str| text.lines().any(|line| line.contains(part));
        let text = metrics.text();
        for part in [
            r#"flotilla_operator_cluster_nodes_desired{cluster="kv",namespace="ns"} 3"#,
            r#"flotilla_operator_cluster_nodes_ready{cluster="kv",namespace="ns"} 2"#,
            r#"flotilla_operator_cluster_quorum{cluster="kv",namespace="ns"} 0"#,
            r#"flotilla_operator_cluster_operation{cluster="kv",kind="ScaleUp",namespace="ns"} 1"#,
            r#"condition="Available",namespace="ns",status="false"} 1"#,
            r#"flotilla_operator_cluster_members{cluster="kv",namespace="ns",state="down"} 1"#,
            r#"flotilla_operator_cluster_members{cluster="kv",namespace="ns",state="unreached"} 1"#,
            r#"flotilla_operator_cluster_regions{cluster="kv",health="leaderless",namespace="ns"} 4"#,
            r#"flotilla_operator_cluster_regions{cluster="kv",health="unseen",namespace="ns"} 2"#,
            r#"flotilla_operator_cluster_observed_timestamp_seconds{cluster="kv",namespace="ns"}"#,
            "process_cpu_seconds_total",
            "flotilla_operator_build_info",
        ] {
            assert!(series(&text, part), "{part} in\n{text}");
        }
        status.conditions = vec![condition("False", "Unreachable")];
        show(&status, &[1, 2], &["DiskFull"]);
        let text = metrics.text();
        let quorum = r#"flotilla_operator_cluster_quorum{cluster="kv",namespace="ns"} 1"#;
        let trouble = |reason: &str| {
            format!(r#"cluster_trouble{{cluster="kv",namespace="ns",reason="{reason}"}} 1"#)
        };
        assert!(series(&text, &trouble("DiskFull")) && !series(&text, "NodeDown"), "{text}");
        assert!(series(&text, quorum), "what the operator does not reach is not lost: {text}");
        let refused = |is| format!(r#"cluster_look_refused{{cluster="kv",namespace="ns"}} {is}"#);
        for (why, is) in [
            (Error::Refused("no right".to_owned()), 1),
            (Error::Failed("no answer".to_owned()), 0),
            (Error::Refused("no right".to_owned()), 1),
        ] {
            metrics.not_seen(&key, &why);
            assert!(series(&metrics.text(), &refused(is)), "{why}: {}", metrics.text());
        }
        // Whatever it was about to do.
        status.members[1].state = "Draining".to_owned();
        show(&status, &[2], &[]);
        let text = metrics.text();
        let unreached =
            r#"flotilla_operator_cluster_members{cluster="kv",namespace="ns",state="unreached"} 1"#;
        assert!(series(&text, unreached) && series(&text, &refused(0)), "{text}");
        status.conditions = vec![condition("True", "Serving")];
        status.operation = None;
        show(&status, &[], &[]);
        let text = metrics.text();
        assert!(series(&text, quorum), "{text}");
        assert!(!series(&text, "ScaleUp") && !series(&text, "DiskFull"), "{text}");
        metrics.forget(&key);
        assert!(!series(&metrics.text(), labels), "{}", metrics.text());
    }
}
