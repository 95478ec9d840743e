//! Tells the operator of Prometheus to scrape every node. Its types are not ours, so it is written
//! as it is sent.

use serde_json::{Value, json};

use super::{metadata, value};
use crate::desired::Desired;

pub(super) fn build(desired: &Desired) -> Value {
    let metrics = &desired.spec.metrics;
    // Of the three services only the governing one has every node, ready or not.
    let mut selected = desired.names.selector();
    selected.insert(super::services::ROLE.to_owned(), "headless".to_owned());
    let mut metadata = metadata(desired, desired.names.name.clone());
    // Ours are by what the operator finds it again, so they win.
    let mut labels = metrics.labels.clone();
    labels.extend(desired.names.labels());
    metadata.labels = Some(labels);
    let mut endpoint = json!({"port": "http", "path": "/metrics", "interval": metrics.interval});
    if !metrics.relabelings.is_empty() {
        endpoint["relabelings"] = json!(metrics.relabelings);
    }
    json!({
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": value(&metadata),
        "spec": {
            // Without it the job is the Service's name, and what the operator and the nodes both tell of
            // a cluster would be told of two.
            "jobLabel": metrics.job_label,
            "selector": {"matchLabels": selected},
            "namespaceSelector": {"matchNames": [desired.names.namespace]},
            "endpoints": [endpoint],
            "targetLabels": [crate::names::CLUSTER],
        },
    })
}
