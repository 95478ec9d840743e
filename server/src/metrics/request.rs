//! Requests of clients.

use std::sync::{Arc, OnceLock};

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    exponential_buckets,
};
use tonic::Code;

use super::{Counters, add, label::label};

label! {
    /// A bounded queue that can be full.
    BusyQueue, "queue" {
        /// Requests under way on this node.
        Requests = "requests",
        /// Scans under way.
        Scans = "scans",
        /// Calls of the cluster API under way.
        Cluster = "cluster",
        /// Bodies being received.
        Receive = "receive",
        /// Answers that their clients have not read yet.
        Answers = "answers",
        /// Connections of a port.
        Connections = "connections",
        /// Reads that wait in a region.
        Reads = "reads",
        /// Proposals under way in a region.
        Proposals = "proposals",
        /// Size of the proposals under way on this node.
        ProposalBytes = "proposal_bytes",
        /// Requests and scans for one region under way on this node.
        RegionRequests = "region_requests",
        /// Requests passed on to one other node.
        Forwards = "forwards",
        /// Checksums of regions under way on this node.
        Checksums = "checksums",
        /// One that has no name of its own here.
        Other = "other",
    }
}

impl BusyQueue {
    /// The queue that `Error::Busy` names; `Other` where it is not known here, so that the set of
    /// labels stays closed.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        match name {
            "requests" => Self::Requests,
            "scans" => Self::Scans,
            "cluster" => Self::Cluster,
            "receive" => Self::Receive,
            "answers" => Self::Answers,
            "connections" => Self::Connections,
            "reads" => Self::Reads,
            "proposals" => Self::Proposals,
            "proposal_bytes" => Self::ProposalBytes,
            "region_requests" => Self::RegionRequests,
            "forwards" => Self::Forwards,
            "checksums" => Self::Checksums,
            _ => Self::Other,
        }
    }
}

/// Requests, over all methods.
#[derive(Clone, Debug)]
pub struct RequestMetrics {
    /// Requests that have arrived and are not answered.
    pub in_flight: IntGauge,
    /// Requests that this node sent on to the leader of their region.
    pub forwarded_total: IntCounter,
    /// Requests refused with `ServerIsBusy`.
    pub busy_total: Counters<BusyQueue>,
    requests_total: IntCounterVec,
    request_seconds: HistogramVec,
}

/// Handles of one method; resolve it once with [`RequestMetrics::method`] and keep it.
#[derive(Clone, Debug)]
pub struct MethodMetrics {
    in_flight: IntGauge,
    seconds: Histogram,
    /// By code. Most codes never occur in most methods, so a child is made when it is first used.
    codes: Arc<[OnceLock<IntCounter>; CODES.len()]>,
    requests_total: IntCounterVec,
    method: &'static str,
}

/// Names of gRPC's status codes, by number.
const CODES: [&str; 17] = [
    "ok",
    "cancelled",
    "unknown",
    "invalid_argument",
    "deadline_exceeded",
    "not_found",
    "already_exists",
    "permission_denied",
    "resource_exhausted",
    "failed_precondition",
    "aborted",
    "out_of_range",
    "unimplemented",
    "internal",
    "unavailable",
    "data_loss",
    "unauthenticated",
];

impl RequestMetrics {
    /// # Errors
    /// A name that is registered already.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let requests = Opts::new(
            "flotilla_grpc_requests_total",
            "Requests answered, by gRPC code; those of HTTP too",
        );
        let seconds = HistogramOpts::new(
            "flotilla_grpc_request_seconds",
            "Arrival of a request to its answer; for a stream, to its end",
        )
        .buckets(exponential_buckets(0.000_1, 2.0, 18)?); // 0.1 ms to 13 s
        Ok(Self {
            in_flight: add(
                registry,
                IntGauge::new("flotilla_grpc_in_flight", "Requests that are not answered yet")?,
            )?,
            forwarded_total: add(
                registry,
                IntCounter::new("flotilla_forwarded_total", "Requests sent on to a leader")?,
            )?,
            busy_total: Counters::register(
                registry,
                "flotilla_busy_total",
                "Requests refused because a bounded queue was full",
            )?,
            requests_total: add(registry, IntCounterVec::new(requests, &["method", "code"])?)?,
            request_seconds: add(registry, HistogramVec::new(seconds, &["method"])?)?,
        })
    }

    /// The handles of `method`, as in `Kv/Get`. The set of methods is the caller's to keep closed.
    #[must_use]
    pub fn method(&self, method: &'static str) -> MethodMetrics {
        MethodMetrics {
            in_flight: self.in_flight.clone(),
            seconds: self.request_seconds.with_label_values(&[method]),
            codes: Arc::new([const { OnceLock::new() }; CODES.len()]),
            requests_total: self.requests_total.clone(),
            method,
        }
    }
}

impl RequestMetrics {
    /// A request was refused because `queue` was full.
    pub fn busy(&self, queue: &str) {
        self.busy_total.get(BusyQueue::from_name(queue)).inc();
    }

    /// `total` requests have been refused so far because `queue`, which counts them by itself, was
    /// full.
    pub fn busy_so_far(&self, queue: &str, total: u64) {
        let counter = self.busy_total.get(BusyQueue::from_name(queue));
        counter.inc_by(total.saturating_sub(counter.get()));
    }
}

impl MethodMetrics {
    /// A request has arrived. Each call is followed by one of [`MethodMetrics::finished`].
    pub fn started(&self) {
        self.in_flight.inc();
    }

    /// It was answered, or given up.
    pub fn finished(&self, code: Code, seconds: f64) {
        self.in_flight.dec();
        self.seconds.observe(seconds);
        let index = code as usize;
        self.codes[index]
            .get_or_init(|| self.requests_total.with_label_values(&[self.method, CODES[index]]))
            .inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Label as _, encode};

    #[test]
    fn every_code_has_the_name_of_its_number() {
        for (number, name) in CODES.iter().enumerate() {
            let code = Code::from_i32(i32::try_from(number).expect("small"));
            let snake: String = format!("{code:?}")
                .chars()
                .enumerate()
                .flat_map(|(at, c)| {
                    let gap = (at > 0 && c.is_uppercase()).then_some('_');
                    gap.into_iter().chain(c.to_lowercase())
                })
                .collect();
            assert_eq!(*name, snake, "code {number}");
        }
    }

    #[test]
    fn queues_are_found_by_the_name_they_are_shown_under() {
        for (index, name) in BusyQueue::VALUES.iter().enumerate() {
            assert_eq!(BusyQueue::from_name(name).index(), index, "{name}");
        }
        assert_eq!(BusyQueue::from_name("new"), BusyQueue::Other);
    }

    #[test]
    fn contract_names_the_same_queues() {
        let contract = include_str!("../../../proto/proto/flotilla/v1/errors.proto");
        let (_, after) = contract.split_once("message ServerIsBusy {").expect("it is there");
        let (comment, _) = after.split_once("string queue").expect("it has a queue");
        let named: Vec<&str> = comment
            .lines()
            .filter_map(|line| line.trim().strip_prefix("//   \"")?.split('"').next())
            .collect();
        let (other, known) = BusyQueue::VALUES.split_last().expect("there are some");
        assert_eq!((named, *other), (known.to_vec(), "other"));
    }

    #[test]
    fn requests_are_counted_by_method_and_code() {
        let registry = Registry::new();
        let metrics = RequestMetrics::register(&registry).expect("registered");
        let (get, put) = (metrics.method("Kv/Get"), metrics.method("Kv/Put"));
        for code in [Code::Ok, Code::Ok, Code::DeadlineExceeded] {
            get.started();
            get.clone().finished(code, 0.001);
        }
        put.started();
        let text = encode(&registry);
        for line in [
            r#"flotilla_grpc_requests_total{code="ok",method="Kv/Get"} 2"#,
            r#"flotilla_grpc_requests_total{code="deadline_exceeded",method="Kv/Get"} 1"#,
            r#"flotilla_grpc_request_seconds_count{method="Kv/Get"} 3"#,
            r#"flotilla_grpc_request_seconds_count{method="Kv/Put"} 0"#,
            "flotilla_grpc_in_flight 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\nis not in\n{text}");
        }
        assert!(!text.contains(r#"code="aborted""#), "a code that never occurred has no series");
    }
}
