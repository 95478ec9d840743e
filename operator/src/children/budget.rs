//! How many nodes Kubernetes may take down on purpose: one.
//!
//! Any two nodes may hold a majority of some region's peers, however many nodes there are. So the
//! bound is on what is missing, and not a share of what is there. A pod is ready when it serves or forwards, so
//! readiness does not tell what is missing of the copies: while something is, the operator lets none go.

use k8s_openapi::{
    api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use super::metadata;
use crate::desired::Desired;

pub(super) fn build(desired: &Desired) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: metadata(desired, desired.names.name.clone()),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(LabelSelector {
                match_labels: Some(desired.names.selector()),
                ..LabelSelector::default()
            }),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}
