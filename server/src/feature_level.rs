//! What this program can do, as one number, and from which number on something new may be used.
//!
//! A peer that is sent a command it does not know has to stop: to skip it would be no replica. And one
//! that applies a command by another rule than the others is no replica either, and does not notice. So a
//! kind of command, of message between nodes or of row that is not in the first version, and every change of
//! what applying a command does, names the level it came with, and is not used before every node of the
//! cluster has it. What the cluster has is in the node table; the placement driver raises it when each node
//! itself has said that it can do more, and nobody lowers it.
//!
//! A program below the level of its cluster is no part of it. [`check`] says so wherever a level is heard: of a
//! table that lies on the disk or comes from others (`placement/directory.rs`, which ends the process), of a
//! node's heartbeat and of a node that joins (`placement/view.rs`, `placement/membership/add_learner.rs`), of
//! every entry of a log, which carries the level it was proposed at (`command/codec.rs`): a program that
//! was put back meets entries before it hears of a table. And of every snapshot, before anything of it is
//! stored (`region/arrival.rs`): what rows of a higher level mean it cannot know.

/// The level of this program. Raised by one with every new kind that an older one would not know.
///
/// A change of what applying does needs a new level just the same, though the bytes of commands stay as they
/// are: entries that lie in logs are applied again by newer programs, beside peers that have applied them by
/// the old rule. So such a change (a bound of `command/bounds.rs`, what an absent field means, what an
/// answer or a stored row holds, an order) consists of:
///
/// 1. this number, raised by one, and a named constant for the new level;
/// 2. a choice in apply by `Command.feature_level`, with the old rule for entries below the new level;
/// 3. rows for the new level in `command/level_test.rs`, beside those of the old one, which stay as they are.
///
/// Level 1 is what the first version that is in use anywhere does. Earlier forms (an append without
/// `value_bytes_max` once stopped at 8 MiB, and does at 16 MiB) were never in use.
pub const OURS: u32 = 1;

/// The level of everything that was there from the beginning.
pub const FIRST: u32 = 1;

/// A program below what is asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this program is of feature level {has}, its cluster uses {needed}: start a newer one")]
pub struct TooOld {
    pub has: u32,
    pub needed: u32,
}

/// That a program which can do `has` may take part where `needed` is used.
///
/// # Errors
/// [`TooOld`].
pub fn check(has: u32, needed: u32) -> Result<(), TooOld> {
    if has < needed { Err(TooOld { has, needed }) } else { Ok(()) }
}
