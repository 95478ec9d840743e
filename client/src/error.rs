//! Why a call failed.
//!
//! A caller has one question that matters more than the reason: *may my write have been applied?*
//! Only [`Error::MaybeApplied`] says yes; every other variant is a promise that nothing changed.

use std::time::Duration;

/// A failed call.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An address that cannot be dialled, or an option out of range. Nothing was sent.
    #[error("{what}: {message}")]
    Configuration {
        /// The option or endpoint at fault.
        what: String,
        /// What is wrong with it.
        message: String,
    },
    /// The request is malformed or over a limit; `limit` is 0 when none was passed.
    #[error("{message}")]
    InvalidArgument {
        /// The field at fault.
        field: String,
        /// The limit that was passed.
        limit: u64,
        /// The text of it.
        message: String,
    },
    /// The keys of an atomic request belong to several regions.
    #[error("an atomic request must stay in one region, these keys belong to {region_ids:?}")]
    CrossRegion {
        /// The regions of the keys.
        region_ids: Vec<u64>,
    },
    /// The node table has changed since `expected_version`: read it again and decide again.
    #[error("the node table is at version {actual}, not {expected}")]
    VersionMoved {
        /// What the caller decided on.
        expected: u64,
        /// What it is now.
        actual: u64,
    },
    /// The value is not a counter, or adding to it would overflow.
    #[error("{message}")]
    NotACounter {
        /// The text of it.
        message: String,
    },
    /// A node or region that the request names does not exist. (An absent key is not an error.)
    #[error("{message}")]
    NotFound {
        /// The text of it.
        message: String,
    },
    /// No node that was asked belongs to a cluster.
    #[error("{message}")]
    NotJoined {
        /// The node was removed from its cluster.
        removed: bool,
        /// The text of it.
        message: String,
    },
    /// The server refuses the request, and would refuse it again; but for the case that
    /// [`Client::write`](crate::Client::write) tells.
    #[error("{message}")]
    Refused {
        /// The gRPC code.
        code: tonic::Code,
        /// The text of it.
        message: String,
    },
    /// Not done within the timeout, and certainly not applied.
    #[error(
        "not done within {} ({attempts} attempts): {last}",
        humantime::format_duration(*timeout)
    )]
    TimedOut {
        /// What the call was given.
        timeout: Duration,
        /// How often it was tried.
        attempts: u32,
        /// Why the last attempt failed.
        last: String,
    },
    /// The write or the order may have been applied, or may be applied still: look before repeating it.
    #[error("the outcome is not known, it may have been done: {message}")]
    MaybeApplied {
        /// Why the outcome was not learnt.
        message: String,
    },
    /// Stored data does not check out.
    #[error("data loss: {message}")]
    DataLoss {
        /// The text of it.
        message: String,
    },
    /// A bug of the server, or an answer that breaks the contract.
    #[error("internal: {message}")]
    Internal {
        /// The text of it.
        message: String,
    },
}

impl Error {
    /// Whether the call may have changed something; `false` is a promise.
    #[must_use]
    pub fn maybe_applied(&self) -> bool {
        matches!(self, Self::MaybeApplied { .. })
    }

    /// The same error with the texts that a server wrote changed.
    pub(crate) fn with_text(mut self, change: impl Fn(String) -> String) -> Self {
        let texts: &mut [&mut String] = match &mut self {
            Self::InvalidArgument { field, message, .. } => &mut [field, message],
            Self::NotACounter { message }
            | Self::NotFound { message }
            | Self::NotJoined { message, .. }
            | Self::Refused { message, .. }
            | Self::MaybeApplied { message }
            | Self::DataLoss { message }
            | Self::Internal { message } => &mut [message],
            Self::TimedOut { last, .. } => &mut [last],
            Self::Configuration { .. } | Self::CrossRegion { .. } | Self::VersionMoved { .. } => {
                &mut []
            }
        };
        for text in texts {
            **text = change(std::mem::take(*text));
        }
        self
    }

    pub(crate) fn configuration(what: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Configuration { what: what.into(), message: message.into() }
    }

    pub(crate) fn invalid(field: &str, message: &str) -> Self {
        Self::InvalidArgument {
            field: field.into(),
            limit: 0,
            message: format!("{field}: {message}"),
        }
    }
}
