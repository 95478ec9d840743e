//! Lines at which a node must be able to end, so that the next start finds what it needs.
//!
//! Process tests end it there by failpoints; a simulation takes what the disk has at that line.

use super::simulated;

/// Marks such a line by its name.
#[macro_export]
macro_rules! crash_point {
    ($name:literal) => {{
        fail::fail_point!($name);
        $crate::world::passes($name);
    }};
}

/// A node of this thread comes by the line of this name. Nothing outside of a simulation.
pub fn passes(line: &'static str) {
    if let Some(world) = simulated() {
        world.passes(line);
    }
}
