//! The Kubernetes operator of Flotilla.
//!
//! For now it is its contract alone: the resource [`crd::KvCluster`], which a user writes and the
//! operator will act on. The loop that acts on it is not part of this version, and the program says
//! so.

pub mod crd;
