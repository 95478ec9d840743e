//! The placement driver. Counted on the node that leads region 1; gauges are 0 elsewhere.

use prometheus::{Histogram, HistogramOpts, IntCounterVec, Opts, Registry, exponential_buckets};

use super::{Counters, Gauges, Label as _, add, label::label};

label! {
    /// What a step does to its region.
    StepKind, "kind" {
        AddLearner = "add_learner",
        Promote = "promote",
        Remove = "remove",
        /// Promotes and removes in one joint change.
        Replace = "replace",
        /// Finishes a joint change whose leader was lost.
        Finish = "finish",
        Transfer = "transfer",
    }
}

label! {
    /// How a step ended.
    StepResult, "result" {
        /// The region is as the step wanted it.
        Done = "done",
        /// The leader or the membership changed otherwise; the region is planned anew.
        Overtaken = "overtaken",
        /// Nothing changed within `placement.step_timeout`; the region is planned anew.
        TimedOut = "timed_out",
    }
}

label! {
    /// What is wrong with a region; the first that holds, in this order.
    RegionHealth, "health" {
        /// No leader reports it.
        NoLeader = "no_leader",
        /// Its leader is not answered by a majority of its voters.
        NoQuorum = "no_quorum",
        /// Fewer voters that answer, on nodes in service, than the replication factor asks for.
        UnderReplicated = "under_replicated",
        /// A change of its peers is under way.
        Changing = "changing",
        Healthy = "healthy",
    }
}

label! {
    /// What a node of the table is now.
    NodeStanding, "state" {
        Joining = "joining",
        Learner = "learner",
        Up = "up",
        Draining = "draining",
        Removed = "removed",
        /// One of the others but `removed`, not heard of for `placement.node_disconnected_after`.
        Disconnected = "disconnected",
        /// Not heard of for `placement.node_down_after`.
        Down = "down",
    }
}

/// What the driver sees and does.
#[derive(Clone, Debug)]
pub struct PlacementMetrics {
    /// Steps that leaders of regions carry out now.
    pub steps_running: Gauges<StepKind>,
    /// Regions of the cluster.
    pub regions: Gauges<RegionHealth>,
    /// Nodes of the cluster.
    pub nodes: Gauges<NodeStanding>,
    /// One planning pass over all regions.
    pub plan_seconds: Histogram,
    steps_total: Box<[Counters<StepResult>]>,
}

impl PlacementMetrics {
    /// # Errors
    /// A name that is registered already.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let steps = IntCounterVec::new(
            Opts::new("flotilla_placement_steps_total", "Placement steps that ended"),
            &[StepKind::NAME, StepResult::NAME],
        )?;
        let steps = add(registry, steps)?;
        let plan = HistogramOpts::new(
            "flotilla_placement_plan_seconds",
            "One planning pass over all regions",
        )
        .buckets(exponential_buckets(0.000_025, 4.0, 10)?); // 25 µs to 6.5 s
        Ok(Self {
            steps_running: Gauges::register(
                registry,
                "flotilla_placement_steps_running",
                "Placement steps under way",
            )?,
            regions: Gauges::register(
                registry,
                "flotilla_placement_regions",
                "Regions of the cluster, by what is wrong with them",
            )?,
            nodes: Gauges::register(
                registry,
                "flotilla_placement_nodes",
                "Nodes of the cluster's table, by what they are now",
            )?,
            plan_seconds: add(registry, Histogram::with_opts(plan)?)?,
            steps_total: StepKind::VALUES
                .iter()
                .map(|kind| Counters::within(&steps, kind))
                .collect(),
        })
    }

    /// Counts steps that ended.
    #[must_use]
    pub fn steps_total(&self, kind: StepKind, result: StepResult) -> &prometheus::IntCounter {
        self.steps_total[kind.index()].get(result)
    }
}
