//! The identity of the pods, which may do nothing: a node talks to nodes, never to Kubernetes.

use k8s_openapi::api::core::v1::ServiceAccount;

use super::metadata;
use crate::desired::Desired;

pub(super) fn build(desired: &Desired) -> ServiceAccount {
    ServiceAccount {
        metadata: metadata(desired, desired.names.name.clone()),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}
