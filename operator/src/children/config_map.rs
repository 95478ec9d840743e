//! The server's configuration file.
//!
//! Its name comes from its text and it cannot be changed, so the file of a pod is what it was when the pod
//! was made, however often its container is started: other settings are another object, which a pod gets
//! with another template, in its turn.

use k8s_openapi::api::core::v1::ConfigMap;

use super::metadata;
use crate::desired::Desired;

/// The one key.
pub const CONFIG_FILE: &str = "flotilla.yaml";

pub(super) fn name(desired: &Desired) -> String {
    desired.names.config(&desired.config_hash)
}

pub(super) fn build(desired: &Desired) -> ConfigMap {
    ConfigMap {
        metadata: metadata(desired, name(desired)),
        immutable: Some(true),
        data: Some([(CONFIG_FILE.to_owned(), desired.settings.yaml())].into()),
        ..ConfigMap::default()
    }
}
