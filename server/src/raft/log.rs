//! One region's log on this node, and the writer that all regions share.
//!
//! `store.rs` is what openraft sees of it.

mod codec;
pub mod config;
pub mod memory;
pub mod peer_log;
pub mod store;
mod tail;
pub mod writer;

pub(in crate::raft) use self::tail::entry_bytes;
pub use self::{
    codec::{decode_vote, seed},
    tail::LogBounds,
};
