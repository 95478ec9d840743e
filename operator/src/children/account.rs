//! The identity of the pods, which may do nothing: a node talks to nodes, never to Kubernetes.
//!
//! It also has what images are pulled with, so that another secret needs no restart.

use k8s_openapi::api::core::v1::{LocalObjectReference, ServiceAccount};

use super::metadata;
use crate::desired::Desired;

pub(super) fn build(desired: &Desired) -> ServiceAccount {
    let secrets: Vec<_> = desired
        .pull_secrets
        .iter()
        .map(|name| LocalObjectReference { name: name.clone() })
        .collect();
    ServiceAccount {
        metadata: metadata(desired, desired.names.name.clone()),
        automount_service_account_token: Some(false),
        image_pull_secrets: (!secrets.is_empty()).then_some(secrets),
        ..ServiceAccount::default()
    }
}
