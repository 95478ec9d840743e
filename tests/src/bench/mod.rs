//! What Flotilla costs and how fast it answers, next to etcd on the same machine.
//!
//! One generator speaks to both: the same transport, the same closed loop, the same keys and values,
//! so that a ratio compares servers and not clients. It shares the machine with the servers it
//! measures, which is why its own CPU time per operation is part of every result. `flotilla-bench`
//! is the program; docs/performance.md has the method and the figures.
//!
//! A measurement reads from the outside only: answers, and what the kernel says of a process.

/// One connection, and the calls that are measured.
pub mod api;
/// An HTTP/2 connection that a tonic client can call, with nothing between.
pub mod transport;

/// The keys and values of a load.
pub mod data;
/// The closed loop.
pub mod load;
/// What a loop measured.
pub mod window;

/// What the kernel charges a process.
pub mod cost;
/// What the disk under the data costs.
pub mod disk;

/// A server process and a cluster of three.
pub mod cluster;
/// How etcd is built and started.
pub mod etcd;
/// How Flotilla is started.
pub mod flotilla;

/// Alternating runs of the two.
pub mod compare;
/// What must hold.
pub mod gates;
/// The result as a table for people.
pub mod table;

/// Words for the person who waits.
pub mod progress;
