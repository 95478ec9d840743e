//! One region's log on this node, and the writer that all regions share.
//!
//! `store.rs` is what openraft sees of it.

pub mod memory;
pub mod store;
pub mod writer;
