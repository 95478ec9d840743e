//! Rare places that a simulation must reach in some of its seeds: one that no longer does is blind there.

use super::simulated;

/// Marks a place, by words that say what happened. Nothing outside of a simulation. It stands where things are seldom,
/// never on the path of every request.
pub fn sometimes(what: &'static str) {
    if let Some(world) = simulated() {
        world.sometimes(what);
    }
}
