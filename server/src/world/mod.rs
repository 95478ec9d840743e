//! What comes from outside of the program, and what a simulation replaces: nothing else is replaced there.
//!
//! A simulation (`tests/sim`) runs several nodes in one process, on one thread, where one number decides time, the
//! order of tasks, the network and the disks. It can do that because these come in here alone: time and randomness
//! (`clock.rs`), connections to others (`dial.rs`) and from them (`accept.rs`), and work that waits for a disk
//! (`blocking.rs`). What it brings in their place is a `World`.

pub mod accept;
pub mod blocking;
pub mod clock;
mod crash_point;
pub mod dial;
pub mod handoff;
pub mod known_bad;
mod linger;
pub mod maps;
pub mod presence;
mod sometimes;

pub use crash_point::passes;
pub use linger::linger;
pub use sometimes::{Mark, sometimes};

use std::{
    cell::RefCell,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

thread_local! {
    static WORLD: RefCell<Option<Arc<dyn World>>> = const { RefCell::new(None) };
}

/// What a simulation brings along.
pub trait World: Send + Sync {
    /// Connects to `host:port`, as the node that asks.
    fn connect(&self, authority: String) -> BoxFuture<'static, io::Result<Box<dyn Io>>>;

    /// Listens at an address of the node that asks.
    ///
    /// # Errors
    /// When somebody listens there.
    fn listen(&self, address: SocketAddr) -> io::Result<Box<dyn Listen>>;

    /// What some work with the disk takes; drawn for each.
    fn disk_takes(&self) -> Duration;

    /// The space of the file system that has the disk of the node that asks; `None` where it has no end.
    fn space(&self) -> Option<Space>;

    /// Something happened that must happen in some simulation.
    fn sometimes(&self, what: Mark);

    /// A node comes by a line at which it must be able to end.
    fn passes(&self, line: &'static str);

    /// How long a task of a node stands at a line, if it does.
    fn lingers(&self, line: &'static str) -> Option<Duration>;
}

/// Of a file system.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    pub total_bytes: u64,
    /// What may still be written there.
    pub available_bytes: u64,
}

/// A connection.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// A port that is listened to.
pub trait Listen: Send {
    fn address(&self) -> SocketAddr;

    /// The next connection, and who made it.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn Io>, SocketAddr)>>;
}

/// Ends a simulation of this thread when it is dropped.
#[derive(Debug)]
pub struct Simulation {
    clock: clock::Simulation,
}

/// From now on, on this thread: `world` is what surrounds the nodes, `seed` decides every random number, and the wall
/// clock starts at `wall`.
#[must_use = "the simulation ends when this is dropped"]
pub fn simulate(world: Arc<dyn World>, wall: SystemTime, seed: u64) -> Simulation {
    WORLD.set(Some(world));
    Simulation { clock: clock::simulate(wall, seed) }
}

impl Simulation {
    /// Sets the wall clock forward or back.
    pub fn jump(&self, to: SystemTime) {
        self.clock.jump(to);
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        WORLD.set(None);
    }
}

/// The simulation that this thread is in, if it is in one.
pub(crate) fn simulated() -> Option<Arc<dyn World>> {
    WORLD.with_borrow(Clone::clone)
}
