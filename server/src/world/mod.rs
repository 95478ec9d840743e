//! What comes from outside of the program, and what a simulation replaces: nothing else is replaced there.
//!
//! A simulation (`tests/sim`) runs several nodes in one process, where one number decides time, the order of tasks,
//! the network and the disks. It can do that because these come in here alone.

pub mod clock;
pub mod handoff;
pub mod presence;
