//! The server's configuration file.

use k8s_openapi::api::core::v1::ConfigMap;

use super::metadata;
use crate::desired::Desired;

/// The one key.
pub const CONFIG_FILE: &str = "flotilla.yaml";

pub(super) fn build(desired: &Desired) -> ConfigMap {
    ConfigMap {
        metadata: metadata(desired, desired.names.name.clone()),
        data: Some([(CONFIG_FILE.to_owned(), desired.settings.yaml())].into()),
        ..ConfigMap::default()
    }
}
