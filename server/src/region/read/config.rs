use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How reads prove that they are not old.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ReadsConfig {
    /// Let clients ask for lease reads, which spare the round trip to a quorum and are right only
    /// while the clocks of all nodes run at nearly the same speed. When off, such a read is served
    /// as a linearizable one.
    pub lease_enabled: bool,
}
