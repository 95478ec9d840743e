//! Why the world did not do as it was asked, and what that says of what was asked.

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was seen is no longer so. Another look says what is next.
    #[error("{0}: it has changed meanwhile")]
    Moved(String),
    /// The other side will not do it now; it says why. Nothing was changed.
    #[error("{0}")]
    Refused(String),
    /// It was taken, and others have it otherwise: what was asked for does not come about while they do.
    #[error("{0}")]
    Contended(String),
    /// The KvCluster is not of a form that this operator knows; what is wrong with it. Nothing was changed.
    #[error("read the KvCluster: {0}")]
    Unreadable(String),
    /// This operator may not act: another one leads.
    #[error("this operator does not lead")]
    NotLeading,
    /// It may have been done, or not: another look says.
    #[error("{0}")]
    Failed(String),
}
