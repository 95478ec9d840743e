//! What the tests and measurements of whole clusters are made of. The tests themselves are in
//! `tests/`, one file for each theme.
//!
//! A test here runs the real server as real processes, on loopback, with real disks, so that
//! signals, flags, ports and fsync are the ones that users get. What a client saw is recorded and
//! judged afterwards; nothing is believed because it did not crash.

/// How fast Flotilla answers and what that costs, next to etcd.
pub mod bench;

/// Real servers: starting, breaking and asking them.
pub mod harness;

/// What clients saw, and whether it can be explained by one copy of the data.
pub mod history;

/// A client that runs beside a cluster it did not start, and judges what it was told.
pub mod traffic;

/// Clients that keep a cluster busy and remember what they were promised.
pub mod workload;
