//! The disk: ordered maps of bytes with atomic batches, and the layout of keys in them.
//!
//! A node has two instances: `log`, the truth, in which every entry is fsynced before it is
//! acknowledged, and `data`, which applying the log produced. `engine` is the seam; `rocks`
//! keeps them in RocksDB, `memory` in memory for tests and simulation. Beside them stand two
//! things that RocksDB cannot tell us: `sentinel` notices a log that has lost its end, `disk`
//! a device that is nearly full or has stopped answering.

pub mod engine;

pub mod batch;

pub mod config;

pub mod reclaim;

pub mod vital;

pub mod keys;

pub mod rocks;

pub mod memory;

pub mod sentinel;

pub mod disk;

mod durable_file;

#[cfg(test)]
mod model_tests;
