use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How log lines look. They go to standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people, in colour on a terminal.
    #[default]
    Human,
    /// One JSON object per line, for machines.
    Json,
}
