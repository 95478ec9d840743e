//! Tells the operator of Prometheus to scrape every node. Its types are not ours, so it is written
//! as it is sent.

use serde_json::{Value, json};

use super::{metadata, value};
use crate::desired::Desired;

pub(super) fn build(desired: &Desired) -> Value {
    // Of the three services only the governing one has every node, ready or not.
    let mut labels = desired.names.selector();
    labels.insert(super::services::ROLE.to_owned(), "headless".to_owned());
    json!({
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": value(&metadata(desired, desired.names.name.clone())),
        "spec": {
            "selector": {"matchLabels": labels},
            "namespaceSelector": {"matchNames": [desired.names.namespace]},
            "endpoints": [{"port": "http", "path": "/metrics", "interval": "15s"}],
            "targetLabels": [crate::names::CLUSTER],
        },
    })
}
