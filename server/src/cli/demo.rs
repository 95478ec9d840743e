//! `flotilla-server demo`: what the store promises, shown on this machine in under a minute and a half.
//!
//! Nothing is simulated. The nodes are processes of this executable with ports and RocksDB directories
//! of their own; the demo speaks to them over gRPC as any client does, kills one with `kill -9`, and
//! compares every record. Whatever is not as promised ends it with an error. The one thing it changes
//! for show is the timing of elections, and it says so.

mod data;
mod failover;
mod fleet;
mod form;
mod load;
mod process;
mod screen;
mod session;
mod stay;
mod story;
mod verify;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use tempfile::TempDir;
use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
};

pub(super) use self::process::end_with_parent;
use self::{fleet::Fleet, screen::say};
use crate::{config::DemoArgs, world::clock};

/// Tells the whole story and then keeps the cluster up until it is told to stop.
///
/// # Errors
/// When anything is not as promised, or it was interrupted before everything was shown.
pub(super) fn run(args: &DemoArgs) -> anyhow::Result<()> {
    // Ordering: `block_on` polls on this thread, which lives as long as the process. A node ends when
    // the thread that started it does; see `end_with_parent`.
    let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(demo(args))
}

async fn demo(args: &DemoArgs) -> anyhow::Result<()> {
    // Ordering: before the first process, so that no signal leaves one behind.
    let mut stop = StopSignal::listen()?;
    let place = Place::prepare(args.dir.as_deref())?;
    let mut fleet = Fleet::new(usize::from(args.nodes), place.path())?;

    let told = tokio::select! {
        told = story::tell(&mut fleet) => told,
        name = stop.received() => bail!("{name} came before everything was shown"),
    };
    if let Err(error) = told {
        fleet.say_last_words();
        fleet.kill();
        say("", "");
        say("logs", place.keep().display());
        return Err(error);
    }
    if !args.exit {
        stay::say_where_to_look(&fleet);
        say("", format!("Ctrl-C stops the nodes{}.", place.fate()));
        let name = tokio::select! {
            failed = stay::keep_running(&mut fleet) => return failed,
            name = stop.received() => name,
        };
        say("", "");
        say("stop", format!("{name}: the nodes hand over, finish and stop"));
    }
    tokio::select! {
        () = fleet.stop() => {}
        _ = stop.received() => fleet.kill(),
    }
    Ok(())
}

/// Where the nodes keep their data and logs.
enum Place {
    /// Removed at the end.
    Temporary(TempDir),
    /// Kept.
    Named(PathBuf),
}

impl Place {
    fn prepare(dir: Option<&Path>) -> anyhow::Result<Self> {
        let Some(dir) = dir else {
            let made =
                TempDir::with_prefix("flotilla-demo-").context("make a temporary directory")?;
            return Ok(Self::Temporary(made));
        };
        let say = || format!("prepare {}", dir.display());
        fs::create_dir_all(dir).with_context(say)?;
        if fs::read_dir(dir).with_context(say)?.next().is_some() {
            bail!("{} is not empty: the demo begins with empty disks", dir.display());
        }
        Ok(Self::Named(fs::canonicalize(dir).with_context(say)?))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Temporary(made) => made.path(),
            Self::Named(path) => path,
        }
    }

    /// Leaves everything where it is, for somebody who looks for a cause.
    fn keep(self) -> PathBuf {
        match self {
            Self::Temporary(made) => made.keep(),
            Self::Named(path) => path,
        }
    }

    fn fate(&self) -> String {
        match self {
            Self::Temporary(made) => format!(" and removes {}", made.path().display()),
            Self::Named(path) => format!("; {} is kept", path.display()),
        }
    }
}

/// Being told to stop, from a terminal or by a program.
struct StopSignal {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl StopSignal {
    fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("listen for signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn received(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "Ctrl-C",
            _ = self.hangup.recv() => "SIGHUP",
        }
    }
}

/// Fails with words when a condition does not come true within `bound`: the last `Err` of `look`.
async fn until<T>(
    what: &str,
    bound: Duration,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> anyhow::Result<T> {
    /// Between two looks.
    const PAUSE: Duration = Duration::from_millis(50);
    let deadline = clock::now() + bound;
    loop {
        match look().await {
            Ok(found) => return Ok(found),
            Err(last) => {
                let over = clock::now() >= deadline;
                ensure!(!over, "waited {} s for {what}: {last}", bound.as_secs());
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}
