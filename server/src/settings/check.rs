//! What is wrong with a configuration, and the checks that most settings share.

use std::{fmt, ops::RangeInclusive, time::Duration};

use super::human_bytes;

/// One mistake, in words for the person who has to repair it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The setting, as in `raft.heartbeat_interval`.
    pub key: String,
    pub problem: String,
    /// The file, variable or flag that said so; `None` for a rule about several settings.
    pub origin: Option<String>,
}

impl ConfigError {
    pub fn new(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { key: key.into(), problem: problem.into(), origin: None }
    }

    #[must_use]
    pub(crate) fn with_origin(mut self, origin: impl Into<String>) -> Self {
        self.origin = Some(origin.into());
        self
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Some(origin) => write!(f, "{} ({origin}): {}", self.key, self.problem),
            None => write!(f, "{}: {}", self.key, self.problem),
        }
    }
}

/// All mistakes of one start; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    pub(crate) fn none_or<T>(value: T, errors: Vec<ConfigError>) -> Result<T, Self> {
        if errors.is_empty() { Ok(value) } else { Err(Self(errors)) }
    }

    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.0.iter()
    }
}

/// One mistake per line.
impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|error| write!(f, "\n  {error}"))
    }
}

impl std::error::Error for ConfigErrors {}

pub(crate) fn duration_within(
    errors: &mut Vec<ConfigError>,
    key: &str,
    value: Duration,
    allowed: RangeInclusive<Duration>,
) {
    within(errors, key, &value, &allowed, |value| humantime::format_duration(*value).to_string());
}

pub(crate) fn bytes_within(
    errors: &mut Vec<ConfigError>,
    key: &str,
    value: u64,
    allowed: RangeInclusive<u64>,
) {
    within(errors, key, &value, &allowed, |value| human_bytes::format(*value));
}

pub(crate) fn count_within(
    errors: &mut Vec<ConfigError>,
    key: &str,
    value: u64,
    allowed: RangeInclusive<u64>,
) {
    within(errors, key, &value, &allowed, ToString::to_string);
}

fn within<T: PartialOrd>(
    errors: &mut Vec<ConfigError>,
    key: &str,
    value: &T,
    allowed: &RangeInclusive<T>,
    show: impl Fn(&T) -> String,
) {
    let problem = if value < allowed.start() {
        format!("is {}, the least is {}", show(value), show(allowed.start()))
    } else if value > allowed.end() {
        format!("is {}, the most is {}", show(value), show(allowed.end()))
    } else {
        return;
    };
    errors.push(ConfigError::new(key, problem));
}
