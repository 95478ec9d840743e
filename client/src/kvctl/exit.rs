//! How a command ends.

use std::io;

use serde::Serialize;

use super::output::{Format, count};
use crate::{Client, Error};

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The arguments make no sense.
    #[error("{0}")]
    Usage(String),
    /// What was asked for is not there.
    #[error("{0}")]
    NotFound(String),
    /// It was not done, or not all of it.
    #[error("{0}")]
    Failed(String),
    /// It was done, and the answer is no.
    #[error("{0}")]
    No(String),
    /// It failed after a part of it was done, or may have been.
    #[error("{why}; before that: {part}")]
    Partly {
        /// Why it did not go on.
        why: Box<Failure>,
        /// How far it had come.
        part: Part,
    },
    /// The cluster refused or could not.
    #[error(transparent)]
    Cluster(#[from] Error),
    /// Reading the input or writing the output failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What a command had done when it failed.
#[derive(Debug, Serialize, thiserror::Error)]
#[error("{done}; {next}")]
pub(super) struct Part {
    /// What is changed already.
    pub(super) done: String,
    /// How to go on from there, or back.
    pub(super) next: String,
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::Io(error.into())
    }
}

impl From<serde_yaml::Error> for Failure {
    fn from(error: serde_yaml::Error) -> Self {
        Self::Io(io::Error::other(error))
    }
}

impl Failure {
    /// The failure of a command that has made these calls, with what they changed: `part` puts that into
    /// the command's words. As it is, when they changed nothing.
    ///
    /// Invariant: every failure passes here before it is told, if only with the words of
    /// [`Failure::after`], so none promises that nothing was changed when something was.
    pub(super) fn after_part(self, client: &Client, part: impl FnOnce() -> Part) -> Self {
        let written = &client.shared.written;
        let says_all = match &self {
            Self::No(_) | Self::Partly { .. } => true,
            // The one call whose outcome is not known.
            Self::Cluster(error) if error.maybe_applied() => written.done() == 0,
            failure => failure.is_closed_pipe(),
        };
        if says_all || (written.done() == 0 && written.in_doubt() == 0) {
            return self;
        }
        Self::Partly { why: Box::new(self), part: part() }
    }

    /// The failure of a command of which a part is done, be it by an earlier run.
    pub(super) fn with_part(self, part: impl FnOnce() -> Part) -> Self {
        if matches!(self, Self::No(_) | Self::Partly { .. }) || self.is_closed_pipe() {
            return self;
        }
        Self::Partly { why: Box::new(self), part: part() }
    }

    /// As [`Failure::after_part`], for commands that have no better words.
    pub(super) fn after(self, client: &Client) -> Self {
        self.after_part(client, || {
            let written = &client.shared.written;
            let done = count(written.done(), "write");
            let done = match written.in_doubt() {
                0 => format!("{done} had been answered"),
                in_doubt => format!("{done} had been answered, {in_doubt} more may be applied"),
            };
            Part { done, next: "read what is there before you repeat it".into() }
        })
    }

    /// What to tell, if there is somebody to tell it to: a line for people, an object for programs.
    pub(super) fn text(&self, format: Format) -> Option<String> {
        if self.is_closed_pipe() {
            return None;
        }
        let (message, part) = match self {
            Self::Partly { why, part } => (why.to_string(), Some(part)),
            failure => (failure.to_string(), None),
        };
        let (exit_code, maybe_applied) = (self.code(), self.maybe_applied());
        let told = Told { error: Message { message, exit_code, maybe_applied, part } };
        let text = match format {
            Format::Table => None,
            Format::Json => serde_json::to_string(&told).ok(),
            Format::Yaml => serde_yaml::to_string(&told).ok(),
        };
        Some(text.unwrap_or_else(|| match self {
            Self::Partly { why, part: Part { done, next } } => {
                format!("kvctl: {why}\nkvctl: before that: {done}\nkvctl: {next}")
            }
            failure => format!("kvctl: {failure}"),
        }))
    }

    /// False is a promise: nothing was changed, or all of it, as asked.
    fn maybe_applied(&self) -> bool {
        match self {
            Self::Partly { .. } => true,
            Self::Cluster(error) => error.maybe_applied(),
            _ => false,
        }
    }

    fn code(&self) -> u8 {
        match self {
            failure if failure.maybe_applied() => 4,
            Self::Usage(_) | Self::Cluster(Error::Configuration { .. }) => 2,
            Self::NotFound(_) | Self::Cluster(Error::NotFound { .. }) => 3,
            Self::No(_) => 5,
            Self::Failed(_) | Self::Partly { .. } | Self::Cluster(_) | Self::Io(_) => 1,
        }
    }

    /// `kvctl scan | head` ends well.
    fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// A failure, for programs.
#[derive(Serialize)]
struct Told<'a> {
    error: Message<'a>,
}

#[derive(Serialize)]
struct Message<'a> {
    message: String,
    exit_code: u8,
    /// False is a promise: nothing was changed.
    maybe_applied: bool,
    /// Absent when nothing is known to be done.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    part: Option<&'a Part>,
}

/// The exit code: 0 done, 1 failed, 2 usage, 3 not found, 4 maybe or partly applied, 5 no.
pub(super) fn code(outcome: &Result<(), Failure>) -> u8 {
    match outcome {
        Ok(()) => 0,
        Err(failure) if failure.is_closed_pipe() => 0,
        Err(failure) => failure.code(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_failure_has_its_exit_code() {
        let text = String::new;
        let closed = io::Error::from(io::ErrorKind::BrokenPipe);
        let timed_out =
            Error::TimedOut { timeout: Duration::from_secs(1), attempts: 1, last: text() };
        for (why, outcome, want) in [
            ("done", Ok(()), 0),
            ("the reader went away", Err(Failure::Io(closed)), 0),
            ("not done", Err(Failure::Failed(text())), 1),
            ("the answer is no", Err(Failure::No(text())), 5),
            ("the disk is full", Err(Failure::Io(io::ErrorKind::StorageFull.into())), 1),
            ("certainly not applied", Err(timed_out.into()), 1),
            ("refused", Err(Error::NotACounter { message: text() }.into()), 1),
            ("a bad argument", Err(Failure::Usage(text())), 2),
            ("a bad endpoint", Err(Error::configuration("endpoint", "").into()), 2),
            ("an absent key", Err(Failure::NotFound(text())), 3),
            ("an unknown node", Err(Error::NotFound { message: text() }.into()), 3),
            ("nobody knows", Err(Error::MaybeApplied { message: text() }.into()), 4),
        ] {
            assert_eq!(code(&outcome), want, "{why}");
        }
    }

    #[test]
    fn programs_are_told_failures_as_they_read_results() {
        let failure = Failure::from(Error::MaybeApplied { message: "cut".into() });
        let text = failure.text(Format::Json).expect("somebody listens");
        let told: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(
            (&told["error"]["exit_code"], &told["error"]["maybe_applied"]),
            (&4.into(), &true.into())
        );
        let told: serde_json::Value =
            serde_yaml::from_str(&failure.text(Format::Yaml).expect("text")).expect("YAML");
        assert_eq!(told["error"]["exit_code"], 4);
        assert!(failure.text(Format::Table).expect("text").starts_with("kvctl: the outcome is"));
    }
}
