//! Rare places that a simulation must reach in some of its seeds: one that no longer does is blind there.

use super::simulated;

/// A rare place, by words that say what happened. Each is a constant, so that what a scenario asks for can be hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(pub &'static str);

impl Mark {
    pub const TAKEN_FOR_A_COPY: Self =
        Self("a process was taken for a copy until the one before it was silent");
    pub const SNAPSHOT_MET_TOMBSTONE: Self = Self("a snapshot met a tombstone");
    pub const ACKNOWLEDGED_AND_GONE: Self = Self("a follower lacked what it had acknowledged");
    pub const QUARANTINED: Self = Self("a peer was in quarantine from its start");
    pub const MADE_FOR_SNAPSHOT: Self = Self("a peer was made for a snapshot");
    pub const INSTALLED_OVER: Self = Self("a snapshot was installed over an earlier state");
    pub const INSTALL_RESUMED: Self = Self("an install that had begun was resumed at a start");
    pub const CONTRADICTED: Self = Self("a peer was contradicted by its leader");
    pub const DESTROYED: Self = Self("a peer was destroyed");
    pub const MET_DAMAGE: Self = Self("a call met a damaged block");
    pub const PEER_ENDED: Self = Self("a peer ended by itself");
    pub const REFUSED_FOR_ROOM: Self = Self("a write was refused for disks without room");
    pub const SUCCESSOR_SILENT: Self = Self("whoever was told to lead did not take the lead");
}

/// Marks a place. Nothing outside of a simulation. It stands where things are seldom, never on the path of every request.
pub fn sometimes(what: Mark) {
    if let Some(world) = simulated() {
        world.sometimes(what);
    }
}
