//! The layout of keys on disk.
//!
//! One codec per map: `flotilla_proto::keyspace` and [`meta`] are the two families of the `data` instance, [`log`]
//! is the `log` instance. Numbers in keys are big-endian, so that bytes sort as the values do; what is read together
//! lies together. What lies under a key of a keyspace is in `command/value.rs`. Decoders take any bytes and never
//! panic: what they refuse is damage. Whose a row is, its kind says where it is declared ([`Owner`]);
//! which rows are a region's state, [`span`] alone.

/// To whom a row belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The node. It stays when a peer goes.
    Node,
    /// The peer that is here. It goes with that one, and no other peer of the region has it.
    Peer,
    /// The region. All its peers have the same, and snapshots carry it.
    Region,
}

/// Declares the kinds of rows of a map: the byte that stands for each in its keys, and whose its rows are.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $byte:literal, of the $owner:ident;)+) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        enum Kind {
            $($(#[$doc])* $kind = $byte,)+
        }

        impl Kind {
            const ALL: &[Self] = &[$(Self::$kind),+];

            fn of(byte: u8) -> Option<Self> {
                Self::ALL.iter().copied().find(|kind| *kind as u8 == byte)
            }

            fn owner(self) -> $crate::storage::keys::Owner {
                match self {
                    $(Self::$kind => $crate::storage::keys::Owner::$owner,)+
                }
            }
        }
    };
}

pub mod log;
pub mod meta;
pub mod span;

/// Takes eight big-endian bytes off the front of `bytes`.
fn split_u64(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*head), rest))
}
