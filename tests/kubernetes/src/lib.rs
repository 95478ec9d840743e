//! Flotilla on a real Kubernetes: a real API server, scheduler, kubelets, containers and volumes,
//! those of whatever `KUBECONFIG` names.
//!
//! A [`stage::Stage`] gives each scenario two namespaces: one for its cluster, one for a client that
//! checks what it is told ([`traffic`]) while things are done to the cluster. Waiting is always for a
//! condition and always has a bound. When a scenario fails, [`evidence`] keeps what there is to see
//! before the namespaces go.

// From the outside in.
pub mod scenarios;

pub mod stage;

pub mod world;

pub mod cluster;

pub mod traffic;

pub mod columns;

pub mod kubernetes_node;

pub mod evidence;

pub mod exposition;

pub mod programs;

pub mod recorder;

pub mod say;

pub mod wait;
