//! The Kubernetes operator of Flotilla.
//!
//! A [`crd::KvCluster`] says what a user wants. For each one the operator goes round: it looks at
//! everything ([`kubernetes`], [`nodes`], as one [`world`]), plans at most one change ([`plan`]), notes
//! in the status what it is about to do ([`status`]), and does it ([`pass`]). Only the look and the
//! change do I/O; what lies between are functions of values.

// In the order of a pass.
pub mod cli;

pub mod controller;

pub mod pass;

pub mod world;

pub mod kubernetes;

pub mod nodes;

pub mod seen;

pub mod regions;

pub mod unreached;

pub mod accept;

pub mod desired;

pub mod settings;

pub mod plan;

pub mod children;

pub mod owner;

pub mod drift;

pub mod answers;

pub mod overlay;

pub mod rights;

pub mod skew;

pub mod hash;

pub mod status;

pub mod conditions;

// Beside it.
pub mod crd;

pub mod names;

pub mod key;

pub mod error;

pub mod api_server;

pub mod requests;

pub mod asked;

pub mod events;

pub mod http;

pub mod lease;

pub mod metrics;

pub mod rbac;

pub mod telemetry;

pub mod clock;

#[cfg(test)]
mod simulation;
