//! What needs more than one part of Flotilla: measurements and tests of whole clusters.

/// How fast Flotilla answers and what that costs, next to etcd.
pub mod bench;
