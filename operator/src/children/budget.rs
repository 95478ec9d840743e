//! How many nodes Kubernetes may take down on purpose: one.
//!
//! Any two nodes may hold a majority of some region's peers, however many nodes there are. So the
//! bound is on what is missing, and not a share of what is there. A pod is ready when it serves or forwards, so
//! readiness does not tell what is missing of the copies: while something is, the operator lets none go.
//!
//! It is said as `minAvailable`, one less than there are to be pods (or as many, when none may go): Kubernetes
//! works `maxUnavailable` out from the scale of the StatefulSets *of the pods that it sees*, and of ours, with
//! one pod each, one whose pod is away is not seen. So between the end of a pod and its successor it would
//! let a second one go. The number follows the pods; while they join or leave it is the larger one, which lets
//! nobody be taken.

use k8s_openapi::{
    api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use super::metadata;
use crate::desired::Desired;

pub(super) fn build(desired: &Desired, pods: i32, open: bool) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: metadata(desired, desired.names.name.clone()),
        spec: Some(PodDisruptionBudgetSpec {
            min_available: Some(IntOrString::Int((pods - i32::from(open)).max(0))),
            selector: Some(LabelSelector {
                match_labels: Some(desired.names.selector()),
                ..LabelSelector::default()
            }),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}
