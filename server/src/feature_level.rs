//! What this program can do, as one number, and from which number on something new may be used.
//!
//! A peer that is sent a command it does not know has to stop: to skip it would be no replica. So a
//! kind of command, of message between nodes or of row that is not in the first version names the level it
//! came with, and is not used before every node of the cluster has it. What the cluster has is in the node
//! table; the placement driver raises it when the last node was upgraded, and nobody lowers it. A
//! program below the level of its cluster does not start, and is not taken in.

/// The level of this program. Raised by one with every new kind that an older one would not know.
pub const OURS: u32 = 1;

/// The level of everything that was there from the beginning.
pub const FIRST: u32 = 1;
