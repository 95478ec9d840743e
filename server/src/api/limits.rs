//! How large, how many and how long a request may be.

use std::{fmt, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use crate::{command, error::Error};

/// Bounds of requests. Past one: `INVALID_ARGUMENT` that names the field and the limit, or
/// `ServerIsBusy` where other requests are the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest key of a user.
    pub key_bytes_max: usize,
    pub value_bytes_max: usize,
    /// All keys and values of one request together.
    pub request_bytes_max: usize,
    /// Comparisons and operations of a transaction, mutations of a write, keys of a batch.
    pub txn_ops_max: usize,
    /// Keys and values that one `BatchGet` or `Write` answers, as apply allows a command. Below the
    /// message limit of both sides, so that what was done can always be told.
    pub answer_bytes_max: usize,
    /// Keys in one page of a scan.
    pub scan_page_keys_max: u64,
    /// Bytes in one page of a scan; one key and value always fit.
    pub scan_page_bytes_max: u64,
    /// Of a request that names no deadline; of one page of a scan.
    pub request_timeout_default: Duration,
    /// A longer deadline is cut to this.
    pub request_timeout_max: Duration,
    /// Key-value requests under way, gRPC and HTTP together. Past it: busy, queue `requests`.
    pub requests_in_flight_max: usize,
    /// Scans under way. Past it: busy, queue `scans`.
    pub scans_in_flight_max: usize,
    /// Calls of `flotilla.v1.Cluster` under way. Past it: busy, queue `cluster`.
    pub cluster_in_flight_max: usize,
    /// Bodies being received, over all requests. Past it: busy, queue `receive`.
    pub receive_bytes_max: usize,
    /// Answers that their clients have not read yet, over all requests but scans, which hold a page each.
    /// Past it: busy, queue `answers`.
    pub answers_held_bytes_max: usize,
    /// Pages of scans that their clients have not read yet. Pages become smaller as it fills; one that finds
    /// no room because of a single large value: busy, queue `scans`.
    pub pages_held_bytes_max: usize,
    pub connections: ConnectionLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            key_bytes_max: 4096,
            value_bytes_max: 8 << 20,
            request_bytes_max: 16 << 20,
            txn_ops_max: 1024,
            answer_bytes_max: command::ANSWER_BYTES_MAX,
            scan_page_keys_max: 4096,
            scan_page_bytes_max: 512 << 10,
            request_timeout_default: Duration::from_secs(15),
            request_timeout_max: Duration::from_secs(30),
            requests_in_flight_max: 4096,
            scans_in_flight_max: 256,
            cluster_in_flight_max: 64,
            receive_bytes_max: 128 << 20,
            answers_held_bytes_max: 48 << 20,
            pages_held_bytes_max: 64 << 20,
            connections: ConnectionLimits::default(),
        }
    }
}

/// Bounds of the connections of one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Open connections. Past it a new one is accepted and closed at once.
    pub connections_max: usize,
    /// Calls under way on one HTTP/2 connection; its client waits to start more.
    pub streams_max: u32,
    /// A connection that has not spoken HTTP for so long after it was opened is closed.
    pub opening_timeout: Duration,
    /// A client that reads nothing of an answer for so long is given up.
    pub stall_timeout: Duration,
    /// An HTTP/1 connection without a request for so long is closed. Longer than the usual balancers wait,
    /// so that it is they who close.
    pub idle_timeout: Duration,
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
            connections_max: 4096,
            streams_max: 1024,
            opening_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(90),
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
