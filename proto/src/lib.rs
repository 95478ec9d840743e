//! The wire contracts of Flotilla.
//!
//! The comments in the `.proto` files are the API documentation; this crate holds the code that is
//! generated from them. Byte fields are [`bytes::Bytes`], so that a received frame is shared, not
//! copied.

/// The simple key-value API, wire compatible with the RobustMQ course.
pub mod kv {
    #![allow(missing_docs, clippy::all, clippy::pedantic)]
    tonic::include_proto!("kv");
}

/// The full API of clients, and what nodes say to each other.
pub mod v1 {
    #![allow(missing_docs, clippy::all, clippy::pedantic)]
    tonic::include_proto!("flotilla.v1");
}

/// Keyspaces, and keys as they are inside of the store.
pub mod keyspace;

/// Addresses of nodes.
pub mod address;

/// Ranges of keys.
pub mod range;

/// What a region's descriptor says.
pub mod region;

/// How many voters a region is to have.
pub mod replication;

/// Which keys a request touches.
pub mod touched;

/// Details of errors in the form that every library of gRPC knows.
pub mod status;

/// What a message would become, told before it is decoded.
pub mod wire;

/// Clients of the services.
pub mod clients;

mod pages;

/// Nodes and states as JSON, the same over HTTP and from `kvctl`.
pub mod json;

/// An encoded `FileDescriptorSet` of all files, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Largest message either side of a connection between client and server accepts, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 20 << 20;

/// Metadata of a call that names the cluster it is meant for, 32 hexadecimal digits. A node of another
/// cluster refuses it; without it any node answers.
pub const CLUSTER_ID_METADATA: &str = "flotilla-cluster-id";
