//! The Rust client of Flotilla.
//!
//! ```no_run
//! # async fn example() -> Result<(), flotilla_client::Error> {
//! use flotilla_client::Client;
//!
//! let client = Client::connect(["127.0.0.1:7420"]).await?;
//! client.put("ship", "ready").await?;
//! assert_eq!(client.get("ship").await?.expect("just stored").value, "ready");
//! # Ok(())
//! # }
//! ```
//!
//! A [`Client`] knows which region owns a key and who leads it, sends each request straight there, and
//! follows the cluster when it changes. Calls are repeated inside their timeout as long as that is
//! certain not to apply a write twice; [`Error::MaybeApplied`] is the one error that leaves the
//! outcome open.

// The path of a call, in this order.
mod client;
mod error;

mod cluster;
mod kv;
mod value;

mod backoff;
mod bounds;
mod call;
mod rpc;
mod verdict;

mod connector;
mod keyspace;
mod node_pool;
mod pin;
mod routes;
mod written;

pub mod random;

#[doc(hidden)]
pub mod kvctl;

#[cfg(test)]
mod fake;

pub use client::{Client, Options};
pub use cluster::Cluster;
pub use connector::Connector;
pub use error::Error;
/// The messages of the contract, for what has no type of its own here.
pub use flotilla_proto::v1;
pub use flotilla_proto::v1::ReadMode;
pub use keyspace::DEFAULT_KEYSPACE;
pub use kv::{
    Compare, Expected, FailedWrite, KeyspacesStream, Op, PutOptions, Scan, ScanStream, Txn,
    WriteReport,
};
pub use value::{Appended, Counted, Deleted, KeyValue, RangeDeleted, Stored, Swapped};
