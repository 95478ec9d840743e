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

mod nodes;

pub mod seen;

mod regions;

pub mod desired;

mod settings;

pub mod plan;

mod children;

mod drift;

mod overlay;

mod hash;

pub mod status;

mod conditions;

// Beside it.
pub mod crd;

mod names;

pub mod events;

pub mod http;

pub mod lease;

pub mod metrics;

pub mod rbac;

pub mod telemetry;

mod clock;

#[cfg(test)]
mod simulation;
