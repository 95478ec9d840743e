//! Objects that are there, as they were seen.

use serde_json::Value;

pub(super) fn is_terminating(live: &Value) -> bool {
    live["metadata"]["deletionTimestamp"].is_string()
}

/// Applied to this very object in this very version, or not at all: what was seen to be ours may have
/// become somebody else's, and a StatefulSet may have been scaled.
pub(super) fn pin(object: &mut Value, live: &Value) {
    for field in ["uid", "resourceVersion"] {
        object["metadata"][field] = live["metadata"][field].clone();
    }
}
