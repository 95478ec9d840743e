//! Logs: one line per event on standard error, for people or for machines.
//!
//! Whoever reads the lines may stop to: a pipe is full, a disk hangs. So they leave on a thread of their own,
//! and lines for which there is no room are lost, and counted, instead of holding the node up.
//!
//! Levels are per target and can be changed while the node runs. Keys and values are never logged
//! at `info` or above.

mod format;
mod level;

use std::{
    io::{self, IsTerminal as _, Write},
    sync::OnceLock,
};

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    EnvFilter, Layer as _, Registry, filter::ParseError, fmt, layer::SubscriberExt as _, reload,
    util::SubscriberInitExt as _,
};

pub use self::format::LogFormat;
pub(crate) use self::level::check_log_level;
use crate::panics;

/// Libraries that say too much at `info`; a filter that names them wins.
const QUIET: &str = "openraft=warn,h2=warn,hyper=warn,tower=warn,tonic=warn";

/// Bound: lines that wait to be written. A line is seldom more than a KiB.
const LINES_MAX: usize = 8192;

static LOST: OnceLock<ErrorCounter> = OnceLock::new();

/// Why logging could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read log filter {filter:?}")]
    Filter { filter: String, source: ParseError },
    #[error("read log filter {filter:?}: {problem}")]
    Level { filter: String, problem: String },
    #[error("change the log filter")]
    Gone(#[from] reload::Error),
    #[error("install the logger")]
    Installed(#[from] tracing_subscriber::util::TryInitError),
}

/// Changes what is logged by the process that [`init`] made it for.
#[derive(Clone, Debug)]
pub struct Filter(reload::Handle<EnvFilter, Registry>);

impl Filter {
    /// From now on logs what `filter` says, as in `info,flotilla_server::raft=debug`.
    ///
    /// # Errors
    /// A filter that cannot be read; the present one stays.
    pub fn set(&self, filter: &str) -> Result<(), Error> {
        Ok(self.0.reload(parse(filter)?)?)
    }

    /// What is logged now.
    #[must_use]
    pub fn current(&self) -> String {
        self.0.with_current(ToString::to_string).unwrap_or_default()
    }
}

/// Logs while it lives.
#[derive(Debug)]
pub struct Logging {
    pub filter: Filter,
    /// Writes what waits, when it is dropped. Bound: a second.
    _writer: WorkerGuard,
}

/// Lines that were not written since the start, as nobody took them.
#[must_use]
pub fn lost_lines() -> u64 {
    LOST.get().map_or(0, |lost| lost.dropped_lines() as u64)
}

/// Hands lines to a thread that writes them to `to`.
fn writer(to: impl Write + Send + 'static) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default()
        .buffered_lines_limit(LINES_MAX)
        .lossy(true)
        .thread_name("log-lines")
        .finish(to)
}

/// Starts to log for the whole process. `RUST_LOG`, if it is set, wins over `level`. From then on a
/// panic ends the process (`panics.rs`).
///
/// # Errors
/// A filter that cannot be read, or a second call in one process.
pub fn init(format: LogFormat, level: &str) -> Result<Logging, Error> {
    let variable = std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|text| !text.is_empty());
    let (filter, handle) = reload::Layer::new(parse(variable.as_deref().unwrap_or(level))?);
    let (lines, writer) = writer(io::stderr());
    let _ = LOST.set(lines.error_counter());
    let lines = match format {
        LogFormat::Human => fmt::layer()
            .with_ansi(io::stderr().is_terminal())
            .with_writer(move || OneLine(lines.clone()))
            .boxed(),
        LogFormat::Json => fmt::layer().with_writer(lines).json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).try_init()?;
    panics::end_the_process();
    Ok(Logging { filter: Filter(handle), _writer: writer })
}

/// Keeps an event, which comes in one piece, on one line: what strangers sent must not look like a line of
/// ours, nor move the cursor of a terminal. Colours pass. JSON escapes by itself.
struct OneLine<W>(W);

impl<W: Write> Write for OneLine<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let line = event.strip_suffix(b"\n").unwrap_or(event);
        let plain = |byte: u8| !byte.is_ascii_control() || byte == b'\t';
        if line.iter().all(|byte| plain(*byte)) {
            self.0.write_all(event)?;
            return Ok(event.len());
        }
        let mut escaped = Vec::with_capacity(event.len() + 16);
        let mut rest = line;
        while let [byte, after @ ..] = rest {
            let colour = colour_bytes(rest);
            if colour > 0 {
                escaped.extend(&rest[..colour]);
                rest = &rest[colour..];
                continue;
            }
            if plain(*byte) {
                escaped.push(*byte);
            } else {
                escaped.extend(byte.escape_ascii());
            }
            rest = after;
        }
        escaped.extend(&event[line.len()..]);
        self.0.write_all(&escaped)?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Length of the change of colour that `text` begins with.
fn colour_bytes(text: &[u8]) -> usize {
    let Some(codes) = text.strip_prefix(b"\x1b[") else { return 0 };
    let length = codes.iter().take_while(|byte| byte.is_ascii_digit() || **byte == b';').count();
    if codes.get(length) == Some(&b'm') { length + 3 } else { 0 }
}

fn parse(filter: &str) -> Result<EnvFilter, Error> {
    // Wherever it comes from: a misspelt level would be a filter that hides everything.
    check_log_level(filter)
        .map_err(|problem| Error::Level { filter: filter.to_owned(), problem })?;
    EnvFilter::builder()
        .parse(format!("{QUIET},{filter}"))
        .map_err(|source| Error::Filter { filter: filter.to_owned(), source })
}

/// What is logged on this thread while `run` runs, at every level.
#[cfg(test)]
pub(crate) fn lines_of(run: impl FnOnce()) -> String {
    use std::sync::Arc;

    use parking_lot::Mutex;

    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let written = Arc::new(Mutex::new(Vec::new()));
    let shared = Arc::clone(&written);
    let writer = move || OneLine(Shared(Arc::clone(&shared)));
    let lines = fmt::layer().without_time().with_ansi(false).with_writer(writer);
    tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), run);
    let text = String::from_utf8(written.lock().clone());
    text.unwrap_or_else(|error| panic!("a log that is not UTF-8: {error}"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    #[test]
    fn misspelt_level_is_refused_wherever_it_comes_from() {
        for filter in ["verbose", "inof", "info,debgu", "flotilla_server=inof"] {
            assert!(parse(filter).is_err(), "{filter}");
        }
        for filter in ["", "warn", "info,flotilla_server::raft=debug", "off"] {
            assert!(parse(filter).is_ok(), "{filter}");
        }
    }

    #[test]
    fn named_libraries_are_no_longer_quiet() {
        let shown = |filter| parse(filter).expect("a filter").to_string();
        assert!(shown("info").contains("openraft=warn"));
        let loud = shown("info,openraft=debug");
        assert!(loud.contains("openraft=debug") && !loud.contains("openraft=warn"), "{loud}");
    }

    #[test]
    fn stranger_cannot_write_a_line_of_his_own() {
        let text = lines_of(|| {
            let error = "refused\n2026-11-29 INFO all is well\r\x07\x1b[2K";
            tracing::warn!(%error, colour = %"\x1b[1;31mred", "dial\tnode — 1");
            tracing::info!("next");
        });
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text:?}");
        assert!(lines[0].contains(r"refused\n2026-11-29 INFO all is well\r\x07"), "{text:?}");
        assert!(lines[0].contains(r"\x1b[2K") && lines[0].contains("dial\tnode — 1"), "{text:?}");
        assert!(lines[0].contains("\x1b[1;31mred"), "{text:?}");
    }

    #[test]
    fn reader_that_stalls_holds_nobody_up_and_lines_lost_are_counted() {
        struct Stalled(Arc<Mutex<()>>);
        impl Write for Stalled {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                drop(self.0.lock());
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let gate = Arc::new(Mutex::new(()));
        let held = gate.lock();
        let (lines, writer) = writer(Stalled(Arc::clone(&gate)));
        let lost = lines.error_counter();
        let lines = fmt::layer().with_writer(move || OneLine(lines.clone()));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), || {
            for number in 0..LINES_MAX + 100 {
                tracing::info!(number, "a line");
            }
        });
        // The writer has one in its hands.
        assert!((99..=100).contains(&lost.dropped_lines()), "{}", lost.dropped_lines());
        drop(held);
        drop(writer);
    }

    #[test]
    fn filter_changes_while_running_and_survives_a_bad_one() {
        let (layer, handle) = reload::Layer::new(parse("info").expect("a filter"));
        let subscriber = tracing_subscriber::registry().with(layer);
        let filter = Filter(handle);
        tracing::subscriber::with_default(subscriber, || {
            assert!(!tracing::enabled!(tracing::Level::DEBUG));
            filter.set("debug").expect("a filter");
            assert!(tracing::enabled!(tracing::Level::DEBUG));
            assert!(filter.set("a=b=c").is_err());
            assert!(tracing::enabled!(tracing::Level::DEBUG), "{}", filter.current());
        });
    }
}
