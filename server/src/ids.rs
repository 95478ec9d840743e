//! Identifiers as types, so that two of them can never be swapped.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// One `flotilla-server` process with its disk. Never reused.
    NodeId
}
id! {
    /// One key range and its Raft group.
    RegionId
}
id! {
    /// One replica of one region on one node. Never reused; openraft's node id.
    PeerId
}

impl RegionId {
    /// The region of the system keyspace, whose leader runs the placement driver.
    pub const SYSTEM: Self = Self(1);
}

/// Identity of a cluster: 16 random bytes, drawn by `Initialize`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClusterId(pub [u8; 16]);

impl ClusterId {
    /// `None` unless `bytes` are exactly 16.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

/// Hexadecimal.
impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
