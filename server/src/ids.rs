//! Identifiers as types, so that two of them can never be swapped.

use std::fmt;

use flotilla_proto::replication::SYSTEM_REGION;

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
    pub const SYSTEM: Self = Self(SYSTEM_REGION);
}

impl PeerId {
    /// A peer whose id was lost. Above every id that is given out, so that no other peer follows it.
    pub const UNKNOWN: Self = Self(u64::MAX);
}

/// Identity of a cluster: 16 bytes, drawn at random by `Initialize` or chosen by its caller.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClusterId(pub [u8; 16]);

impl ClusterId {
    /// `None` unless `bytes` are exactly 16.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// From the form in which it is shown; `None` unless `text` is 32 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.len() == 32 && text.chars().all(|c| c.is_ascii_hexdigit());
        digits.then(|| u128::from_str_radix(text, 16).ok())?.map(|id| Self(id.to_be_bytes()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_id_is_read_back_from_what_is_shown() {
        let id = ClusterId([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255]);
        assert_eq!(ClusterId::parse(&id.to_string()), Some(id));
        for text in ["", "00", "+0112233445566778899aabbccddeeff", &"0".repeat(33), &"g".repeat(32)]
        {
            assert_eq!(ClusterId::parse(text), None, "{text}");
        }
    }
}
