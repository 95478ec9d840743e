use crate::settings::check::{ConfigError, count_within};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Threads of this process. `0` is a choice by the number of cores.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RuntimeConfig {
    /// Threads that serve clients. By default half as many as there are cores; with up to two cores none:
    /// the thread of the Raft groups then serves them as well, and a request wakes no other.
    pub api_threads: u32,
    /// Threads that run the Raft groups. By default half as many as there are cores.
    pub raft_threads: u32,
}

impl RuntimeConfig {
    /// Collects every violated constraint.
    pub fn check(&self, errors: &mut Vec<ConfigError>) {
        count_within(errors, "runtime.api_threads", self.api_threads.into(), 0..=512);
        count_within(errors, "runtime.raft_threads", self.raft_threads.into(), 0..=512);
    }
}
