//! What programs and people meet: wires, documents, numbers and tools.

mod bench;
mod documents;
mod dump;
mod foreign;
mod garbage;
mod metrics;
mod rest;
mod seed_contract;
