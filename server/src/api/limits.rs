//! How large, how many and how long a request may be.

use std::{fmt, time::Duration};

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{
    command,
    error::Error,
    settings::{
        check::{ConfigError, bytes_within, count_within, duration_within},
        human_bytes::{self, HumanBytes},
        human_duration::{self, HumanDuration},
    },
};

/// Bounds on what clients may ask, and on what may be under way. What is too large is refused with
/// `INVALID_ARGUMENT` and the limit; what is too much with `RESOURCE_EXHAUSTED` and a time to wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Longest key.
    #[serde(with = "human_bytes")]
    #[schemars(with = "HumanBytes")]
    pub key_bytes_max: usize,
    /// Longest value, whether put or made by appending.
    #[serde(with = "human_bytes")]
    #[schemars(with = "HumanBytes")]
    pub value_bytes_max: usize,
    /// Largest request, with all its keys and values.
    #[serde(with = "human_bytes")]
    #[schemars(with = "HumanBytes")]
    pub request_bytes_max: usize,
    /// Most operations in one transaction or batch.
    pub txn_ops_max: usize,
    /// Size at which a page of a scan is closed.
    #[serde(with = "human_bytes")]
    #[schemars(with = "HumanBytes")]
    pub scan_page_bytes: usize,
    /// Requests of clients that may be under way on this node. Those for one region take at most four times what
    /// they leave to all others, so that a region that hangs does not take all: of 4096, a lone region has 3276.
    pub requests_in_flight_max: usize,
    /// Proposals of one region that may be under way.
    pub proposals_in_flight_max: usize,
    /// Size of all proposals of this node that may be under way, and of large values that they will read. One region takes at most four times
    /// what it leaves to the others.
    #[serde(with = "human_bytes")]
    #[schemars(with = "HumanBytes")]
    pub proposal_bytes_in_flight_max: usize,
    /// Connections of clients; further ones are closed at once.
    pub connections_max: usize,
    /// A client that reads nothing of its answer for this long is given up: a call of gRPC is reset, a
    /// connection of HTTP closed.
    #[serde(with = "human_duration")]
    #[schemars(with = "HumanDuration")]
    pub stall_timeout: Duration,
    /// A connection of HTTP without a request for this long is closed. Longer than balancers keep one, so that
    /// none is closed under a request of theirs.
    #[serde(with = "human_duration")]
    #[schemars(with = "HumanDuration")]
    pub http_idle_timeout: Duration,
    /// Deadline of a request that names none. Longer than an election, so that the death of a leader is a wait
    /// and no error.
    #[serde(with = "human_duration")]
    #[schemars(with = "HumanDuration")]
    pub request_timeout_default: Duration,
    /// Latest deadline a request may name; later ones are cut to it.
    #[serde(with = "human_duration")]
    #[schemars(with = "HumanDuration")]
    pub request_timeout_max: Duration,

    // What follows is no setting: nobody had a reason to change it.
    /// Keys and values that one `BatchGet` or `Write` answers, as apply allows a command. Below the
    /// message limit of both sides, so that what was done can always be told.
    #[serde(skip)]
    pub answer_bytes_max: usize,
    /// Keys in one page of a scan.
    #[serde(skip)]
    pub scan_page_keys_max: u64,
    /// Scans under way. Past it: busy, queue `scans`.
    #[serde(skip)]
    pub scans_in_flight_max: usize,
    /// Calls of `flotilla.v1.Cluster` under way. Past it: busy, queue `cluster`.
    #[serde(skip)]
    pub cluster_in_flight_max: usize,
    /// Bodies being received, over all requests. Past it: busy, queue `receive`.
    #[serde(skip)]
    pub receive_bytes_max: usize,
    /// Answers that their clients have not read yet, over all requests but scans, which hold a page each.
    /// Past it: busy, queue `answers`.
    #[serde(skip)]
    pub answers_held_bytes_max: usize,
    /// Pages of scans that their clients have not read yet. Pages become smaller as it fills; one that finds
    /// no room because of a single large value: busy, queue `scans`.
    #[serde(skip)]
    pub pages_held_bytes_max: usize,
    #[serde(skip)]
    pub connections: ConnectionLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            key_bytes_max: 4096,
            value_bytes_max: 8 << 20,
            request_bytes_max: 16 << 20,
            txn_ops_max: 1024,
            scan_page_bytes: 1 << 20,
            requests_in_flight_max: 4096,
            proposals_in_flight_max: 1024,
            proposal_bytes_in_flight_max: 64 << 20,
            connections_max: 16_384,
            stall_timeout: Duration::from_secs(30),
            http_idle_timeout: Duration::from_secs(90),
            request_timeout_default: Duration::from_secs(15),
            request_timeout_max: Duration::from_secs(30),
            answer_bytes_max: command::ANSWER_BYTES_MAX,
            scan_page_keys_max: 4096,
            scans_in_flight_max: 256,
            cluster_in_flight_max: 64,
            receive_bytes_max: 128 << 20,
            answers_held_bytes_max: 48 << 20,
            pages_held_bytes_max: 64 << 20,
            connections: ConnectionLimits::default(),
        }
    }
}

/// Bounds of one connection that are no settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Calls under way on one HTTP/2 connection; its client waits to start more.
    pub streams_max: u32,
    /// A connection that has not spoken HTTP for so long after it was opened is closed.
    pub opening_timeout: Duration,
    /// An HTTP/2 connection that is silent for so long is pinged.
    pub keepalive_interval: Duration,
    /// And closed when the ping is not answered in this time.
    pub keepalive_timeout: Duration,
    /// Header block of one request.
    pub header_bytes_max: usize,
    /// Bytes a client may send ahead of what is read, per call.
    pub stream_window_bytes: u32,
    /// The same over all calls of a connection.
    pub connection_window_bytes: u32,
    /// Answers buffered for a call whose client does not read.
    pub send_buffer_bytes_max: usize,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            streams_max: 1024,
            opening_timeout: Duration::from_secs(10),
            keepalive_interval: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(10),
            header_bytes_max: 32 << 10,
            stream_window_bytes: 1 << 20,
            connection_window_bytes: 4 << 20,
            send_buffer_bytes_max: 1 << 20,
        }
    }
}

impl Limits {
    /// Collects every violated constraint.
    pub fn check(&self, errors: &mut Vec<ConfigError>) {
        bytes_within(errors, "limits.key_bytes_max", self.key_bytes_max as u64, 16..=64 << 10);
        let value = self.value_bytes_max as u64;
        bytes_within(errors, "limits.value_bytes_max", value, 1024..=16 << 20);
        // Above it no message of this program is accepted, whatever the settings say.
        let message = flotilla_proto::MESSAGE_BYTES_MAX as u64;
        let request = self.request_bytes_max as u64;
        bytes_within(errors, "limits.request_bytes_max", request, 64 << 10..=message - (1 << 20));
        if self.request_bytes_max < self.value_bytes_max + self.key_bytes_max {
            let problem = "is smaller than one largest key with one largest value";
            errors.push(ConfigError::new("limits.request_bytes_max", problem));
        }
        if self.proposal_bytes_in_flight_max < self.request_bytes_max {
            let problem =
                "is below limits.request_bytes_max: the largest request could never start";
            errors.push(ConfigError::new("limits.proposal_bytes_in_flight_max", problem));
        }
        for (key, value, most) in [
            ("limits.txn_ops_max", self.txn_ops_max, 65_536),
            ("limits.requests_in_flight_max", self.requests_in_flight_max, 1_000_000),
            ("limits.proposals_in_flight_max", self.proposals_in_flight_max, 1_000_000),
            ("limits.connections_max", self.connections_max, 1_000_000),
        ] {
            count_within(errors, key, value as u64, 1..=most);
        }
        let page = self.scan_page_bytes as u64;
        bytes_within(errors, "limits.scan_page_bytes", page, 1024..=request.max(1024));
        let second = Duration::from_secs(1);
        let hour = 3600 * second;
        duration_within(errors, "limits.stall_timeout", self.stall_timeout, second..=hour);
        duration_within(errors, "limits.http_idle_timeout", self.http_idle_timeout, second..=hour);
        let timeout = Duration::from_millis(1)..=Duration::from_secs(3600);
        let (default, most) = (self.request_timeout_default, self.request_timeout_max);
        duration_within(errors, "limits.request_timeout_max", most, timeout.clone());
        duration_within(errors, "limits.request_timeout_default", default, *timeout.start()..=most);
    }

    /// A key that is read or written: not empty, not too long.
    pub(super) fn check_key(&self, field: impl fmt::Display, key: &[u8]) -> Result<(), Error> {
        if key.is_empty() {
            return Err(Error::invalid(field.to_string(), "must not be empty"));
        }
        self.check_size(field, key, self.key_bytes_max)
    }

    /// An end of a range: may be empty, and one byte longer than a key, so that the successor of
    /// the longest key can be named.
    pub(super) fn check_bound(&self, field: impl fmt::Display, key: &[u8]) -> Result<(), Error> {
        self.check_size(field, key, self.key_bytes_max + 1)
    }

    /// A value; it may be empty.
    pub(super) fn check_value(&self, field: impl fmt::Display, value: &[u8]) -> Result<(), Error> {
        self.check_size(field, value, self.value_bytes_max)
    }

    /// All keys and values of a request.
    pub(super) fn check_request_bytes(&self, bytes: usize) -> Result<(), Error> {
        if bytes <= self.request_bytes_max {
            return Ok(());
        }
        Err(over("request", "bytes of keys and values", bytes, self.request_bytes_max))
    }

    /// Operations or keys of one request: at least one.
    pub(super) fn check_count(&self, field: &str, count: usize) -> Result<(), Error> {
        match count {
            0 => Err(Error::invalid(field, "must not be empty")),
            count if count > self.txn_ops_max => {
                Err(over(field, "entries", count, self.txn_ops_max))
            }
            _ => Ok(()),
        }
    }

    /// Fields at the top of one message: each element of a list is one.
    pub(super) fn message_fields_max(&self) -> usize {
        /// Labels of a node, which are as many in one request at most.
        const LABELS_MAX: usize = 1024;
        /// More than any message has beside its lists.
        const OTHERS: usize = 32;
        self.txn_ops_max.max(LABELS_MAX) + OTHERS
    }

    /// All keys of a batch: their number, each one, and their sum.
    pub(super) fn check_keys(&self, keys: &[Bytes]) -> Result<(), Error> {
        self.check_count("keys", keys.len())?;
        for (index, key) in keys.iter().enumerate() {
            self.check_key(format_args!("keys[{index}]"), key)?;
        }
        self.check_request_bytes(keys.iter().map(Bytes::len).sum())
    }

    /// The deadline of a request that came with `timeout` left.
    ///
    /// # Errors
    ///
    /// `DeadlineExceeded` when nothing is left.
    pub(super) fn deadline(&self, timeout: Option<Duration>) -> Result<Instant, Error> {
        let timeout = timeout.unwrap_or(self.request_timeout_default).min(self.request_timeout_max);
        if timeout.is_zero() {
            return Err(Error::DeadlineExceeded { message: "it came with no time left".into() });
        }
        Ok(Instant::now() + timeout)
    }

    fn check_size(&self, field: impl fmt::Display, bytes: &[u8], max: usize) -> Result<(), Error> {
        if bytes.len() <= max {
            return Ok(());
        }
        Err(over(field, "bytes", bytes.len(), max))
    }
}

fn over(field: impl fmt::Display, unit: &str, actual: usize, max: usize) -> Error {
    Error::InvalidArgument {
        field: field.to_string(),
        message: format!("has {actual} {unit}, at most {max} are allowed"),
        limit: max as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_refused_from_one_byte_past_the_limit() {
        let limits = Limits {
            key_bytes_max: 4,
            value_bytes_max: 8,
            request_bytes_max: 16,
            txn_ops_max: 2,
            ..Limits::default()
        };
        let bytes = |n: usize| vec![b'x'; n];
        for (why, result, limit) in [
            ("empty key", limits.check_key("key", &[]), Some(0)),
            ("key at the limit", limits.check_key("key", &bytes(4)), None),
            ("key past the limit", limits.check_key("key", &bytes(5)), Some(4)),
            ("no bound", limits.check_bound("end_key", &[]), None),
            ("successor of the longest key", limits.check_bound("end_key", &bytes(5)), None),
            ("bound past that", limits.check_bound("end_key", &bytes(6)), Some(5)),
            ("empty value", limits.check_value("value", &[]), None),
            ("value at the limit", limits.check_value("value", &bytes(8)), None),
            ("value past the limit", limits.check_value("value", &bytes(9)), Some(8)),
            ("request at the limit", limits.check_request_bytes(16), None),
            ("request past the limit", limits.check_request_bytes(17), Some(16)),
            ("no operations", limits.check_count("ops", 0), Some(0)),
            ("operations at the limit", limits.check_count("ops", 2), None),
            ("operations past the limit", limits.check_count("ops", 3), Some(2)),
        ] {
            let refused = match result {
                Ok(()) => None,
                Err(Error::InvalidArgument { limit, .. }) => Some(limit),
                Err(other) => panic!("{why}: {other:?}"),
            };
            assert_eq!(refused, limit, "{why}");
        }
    }

    #[test]
    fn deadline_is_the_default_or_the_callers_up_to_the_maximum() {
        let limits = Limits {
            request_timeout_default: Duration::from_secs(5),
            request_timeout_max: Duration::from_secs(30),
            ..Limits::default()
        };
        for (why, asked, want) in [
            ("none named", None, 5),
            ("shorter", Some(1), 1),
            ("longer than the default", Some(20), 20),
            ("longer than allowed", Some(3600), 30),
        ] {
            let before = Instant::now();
            let deadline = limits.deadline(asked.map(Duration::from_secs)).expect(why);
            let want = Duration::from_secs(want);
            assert!(deadline >= before + want && deadline <= Instant::now() + want, "{why}");
        }
        let expired = limits.deadline(Some(Duration::ZERO)).expect_err("no time left");
        assert!(matches!(expired, Error::DeadlineExceeded { .. }));
        assert!(!expired.maybe_applied());
    }
}
