//! The disk: ordered maps of bytes with atomic batches, and the layout of keys in them.

pub mod batch;
pub mod engine;
pub mod keys;
