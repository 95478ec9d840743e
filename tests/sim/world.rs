//! What surrounds the nodes: the network of turmoil, disks that take their time, and a record of what happened.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use flotilla_server::{
    node::simulated::Instances,
    storage::memory::MemoryEngine,
    world::{self, Io, Listen, Mark, Space, clock},
};
use futures::{FutureExt as _, future::BoxFuture};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    runtime::{Handle, Id},
};
use turmoil::net::{TcpListener, TcpStream};

use crate::{
    cluster::{Files, read_files},
    marks::{self, ServerMarks},
};

/// Everything that two runs of one seed must have in common: who sent something when, what was committed, what clients
/// were told.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    hash: AtomicU64,
    messages: AtomicU64,
}

impl Trace {
    /// Adds to what happened.
    pub(crate) fn note(&self, bytes: &[u8]) {
        self.note_of(&[], bytes);
    }

    /// As [`Trace::note`], of somebody.
    fn note_of(&self, who: &[u8], bytes: &[u8]) {
        let hash = self.hash.load(Relaxed);
        let elapsed = turmoil::sim_elapsed().unwrap_or_default().as_nanos() as u64;
        let low = crc32c::crc32c_append(crc32c::crc32c_append(hash as u32, who), bytes);
        let high = crc32c::crc32c_append((hash >> 32) as u32, &elapsed.to_le_bytes());
        let mixed = (u64::from(high) << 32 | u64::from(low)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.hash.store(mixed.rotate_left(29) ^ u64::from(low), Relaxed);
        self.messages.fetch_add(1, Relaxed);
    }

    #[must_use]
    pub(crate) fn hash(&self) -> u64 {
        self.hash.load(Relaxed)
    }

    #[must_use]
    pub(crate) fn messages(&self) -> u64 {
        self.messages.load(Relaxed)
    }
}

/// What work with a disk takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DiskPace {
    /// At most so many microseconds,
    pub(crate) micros_max: u64,
    /// one time in so many; else what it takes while nothing is wrong.
    pub(crate) one_in: u64,
}

impl DiskPace {
    /// Nothing is wrong with it.
    pub(crate) const CALM: Self = Self { micros_max: 2_000, one_in: 1 };
}

/// What a file system has at all.
const TOTAL_BYTES: u64 = 64 << 30;
/// What is free of it while nothing is wrong.
pub(crate) const PLENTY_BYTES: u64 = 32 << 30;

/// What a message takes at most while nothing is wrong with the links.
pub(crate) const CALM_LATENCY_MAX: Duration = Duration::from_millis(5);

/// Connects a client to `host:port`.
pub(crate) async fn connect(authority: String) -> io::Result<TcpStream> {
    TcpStream::connect(authority).await
}

/// The world of one simulation.
#[derive(Debug, Default)]
pub(crate) struct World {
    pub(crate) trace: Arc<Trace>,
    pub(crate) marks: ServerMarks,
    /// Of hosts whose disk something was said of.
    disk_paces: Mutex<BTreeMap<usize, DiskPace>>,
    /// What is free on disks of hosts which that was said of; `None` where no disk ever fills.
    free_bytes: Mutex<Option<BTreeMap<usize, u64>>>,
    /// Whose runtime is whose, since work with a disk does not say who does it.
    hosts: Mutex<HashMap<Id, usize>>,
    /// The disk of each host, as its node has it.
    disks: Mutex<BTreeMap<usize, Instances>>,
    armed: Mutex<Option<Armed>>,
    lingering: Mutex<Option<Lingering>>,
    dead: Mutex<Option<Dead>>,
}

/// Whoever comes by a line so many times more dies there.
#[derive(Debug)]
struct Armed {
    line: &'static str,
    after: u32,
    random: StdRng,
}

/// At half of the lines where one can stand half of those who come by do so, each for as long at most.
#[derive(Debug)]
struct Lingering {
    /// Says which lines.
    seed: u64,
    lasts_max: Duration,
    random: StdRng,
}

/// A host that has died at a line, and what its disk kept there. Nothing that it does after that is heard of.
#[derive(Clone, Debug)]
pub(crate) struct Dead {
    pub(crate) host: usize,
    pub(crate) line: &'static str,
    pub(crate) log: Arc<MemoryEngine>,
    pub(crate) data: Arc<MemoryEngine>,
    pub(crate) files: Files,
}

impl World {
    /// From now on the runtime of this task is that of a host with this disk.
    pub(crate) fn runs_here(&self, host: usize, disk: &Instances) {
        self.hosts.lock().expect("nobody panics with it").insert(runtime(), host);
        self.disks.lock().expect("nobody panics with it").insert(host, disk.clone());
    }

    /// The host of this task, if it is of one.
    fn host(&self) -> Option<usize> {
        self.hosts.lock().expect("nobody panics with it").get(&runtime()).copied()
    }

    /// Whoever comes by `line` for the time after so many is to die there.
    pub(crate) fn arm(&self, line: &'static str, after: u32, seed: u64) {
        let random = StdRng::seed_from_u64(seed);
        *self.armed.lock().expect("nobody panics with it") = Some(Armed { line, after, random });
    }

    pub(crate) fn disarm(&self) {
        *self.armed.lock().expect("nobody panics with it") = None;
    }

    /// From now on half of those who come by some of the lines (`linger` in the server) stand there, each for as long at most.
    pub(crate) fn linger(&self, lasts_max: Duration, seed: u64) {
        let lingering = Lingering { seed, lasts_max, random: StdRng::seed_from_u64(seed) };
        *self.lingering.lock().expect("nobody panics with it") = Some(lingering);
    }

    /// From now on nobody comes to stand there; whoever does goes on in its time.
    pub(crate) fn hurry(&self) {
        *self.lingering.lock().expect("nobody panics with it") = None;
    }

    /// Whoever has died at a line since this was asked.
    pub(crate) fn who_died(&self) -> Option<Dead> {
        self.dead.lock().expect("nobody panics with it").take()
    }

    /// The host of whoever has died at a line and still stands there: it does what nobody will ever know.
    pub(crate) fn dead(&self) -> Option<usize> {
        self.dead.lock().expect("nobody panics with it").as_ref().map(|dead| dead.host)
    }

    /// From now on disks have an end, which nodes that are started watch for.
    pub(crate) fn bound_disks(&self) {
        *self.free_bytes.lock().expect("nobody panics with it") = Some(BTreeMap::new());
    }

    /// So much is free on the disk of a host from now on, where disks have an end.
    pub(crate) fn leave_free(&self, host: usize, bytes: u64) {
        let mut free_bytes = self.free_bytes.lock().expect("nobody panics with it");
        free_bytes.iter_mut().for_each(|of| _ = of.insert(host, bytes));
    }

    /// What work with the disk of a host takes from now on.
    pub(crate) fn pace_disk(&self, host: usize, pace: DiskPace) {
        self.disk_paces.lock().expect("nobody panics with it").insert(host, pace);
    }
}

/// The world, as the nodes see it.
#[derive(Debug)]
pub(crate) struct Around(pub(crate) Arc<World>);

/// Names the runtime of this task.
fn runtime() -> Id {
    Handle::current().id()
}

impl world::World for Around {
    fn connect(&self, authority: String) -> BoxFuture<'static, io::Result<Box<dyn Io>>> {
        let (host, world) = (self.0.host(), Arc::clone(&self.0));
        async move {
            let stream = TcpStream::connect(authority).await?;
            Ok(Box::new(Traced::new(stream, host, world)?) as Box<dyn Io>)
        }
        .boxed()
    }

    fn listen(&self, address: SocketAddr) -> io::Result<Box<dyn Listen>> {
        let bound = TcpListener::bind(address).now_or_never();
        let listener = bound.unwrap_or_else(|| Err(io::Error::other("turmoil binds at once")))?;
        Ok(Box::new(Port { address, listener, host: self.0.host(), world: Arc::clone(&self.0) }))
    }

    fn space(&self) -> Option<Space> {
        let free_bytes = self.0.free_bytes.lock().expect("nobody panics with it");
        let of = free_bytes.as_ref()?;
        let here = self.0.host().and_then(|host| of.get(&host).copied());
        Some(Space { total_bytes: TOTAL_BYTES, available_bytes: here.unwrap_or(PLENTY_BYTES) })
    }

    fn sometimes(&self, mark: Mark) {
        self.0.marks.hit(mark);
    }

    fn passes(&self, line: &'static str) {
        let mut armed = self.0.armed.lock().expect("nobody panics with it");
        let Some(Armed { after, random, .. }) = armed.as_mut().filter(|armed| armed.line == line)
        else {
            return;
        };
        if *after > 0 {
            *after -= 1;
            return;
        }
        let disks = self.0.disks.lock().expect("nobody panics with it");
        let Some((host, disk)) = self.0.host().and_then(|host| Some((host, disks.get(&host)?)))
        else {
            return;
        };
        let log = disk.log.crash(random.random_range(0..=disk.log.unsynced()));
        let kept = random.random_range(0..=disk.data.unsynced());
        let data = disk.data.crash_keeping(kept, || random.random_bool(0.5));
        let files = read_files(&disk.dir).expect("a temporary folder");
        let dead = Dead { host, line, log, data, files };
        *self.0.dead.lock().expect("nobody panics with it") = Some(dead);
        *armed = None;
    }

    fn lingers(&self, line: &'static str) -> Option<Duration> {
        let mut lingering = self.0.lingering.lock().expect("nobody panics with it");
        let Lingering { seed, lasts_max, random } = lingering.as_mut()?;
        let of_line = *seed ^ u64::from(crc32c::crc32c(line.as_bytes()));
        if StdRng::seed_from_u64(of_line).random_bool(0.5) {
            return None;
        }
        let lasts = random.random_range(Duration::ZERO..=*lasts_max);
        random.random_bool(0.5).then(|| {
            tracing::debug!("a task stands at {line} for {lasts:?}");
            self.0.marks.hit(marks::LINGERED);
            lasts
        })
    }

    fn disk_takes(&self) -> Duration {
        let host = self.0.host();
        let paces = self.0.disk_paces.lock().expect("nobody panics with it");
        let pace = host.and_then(|host| paces.get(&host)).unwrap_or(&DiskPace::CALM);
        let is_slow = pace.one_in == 1 || clock::random().is_multiple_of(pace.one_in);
        let pace = if is_slow { pace } else { &DiskPace::CALM };
        clock::random_between(Duration::ZERO, Duration::from_micros(pace.micros_max))
    }
}

struct Port {
    address: SocketAddr,
    listener: TcpListener,
    host: Option<usize>,
    world: Arc<World>,
}

impl Listen for Port {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn Io>, SocketAddr)>> {
        async move {
            let (stream, from) = self.listener.accept().await?;
            let (host, world) = (self.host, Arc::clone(&self.world));
            Ok((Box::new(Traced::new(stream, host, world)?) as Box<dyn Io>, from))
        }
        .boxed()
    }
}

/// A connection of a host, whose every write is part of the trace.
struct Traced {
    stream: TcpStream,
    /// From where to where, as the trace has it.
    ends: String,
    host: Option<usize>,
    world: Arc<World>,
}

impl Traced {
    fn new(stream: TcpStream, host: Option<usize>, world: Arc<World>) -> io::Result<Self> {
        let ends = format!("{} to {}", stream.local_addr()?, stream.peer_addr()?);
        Ok(Self { stream, ends, host, world })
    }
}

impl AsyncRead for Traced {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Traced {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.host.is_some() && self.world.dead() == self.host {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(count)) = &written {
            tracing::trace!(ends = self.ends, count, "sent");
            self.world.trace.note_of(self.ends.as_bytes(), &bytes[..*count]);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
