//! Logs: one line per event on standard error, for people or for machines.

/// The server's own rule, of the server's own file: the operator is built without the server, and the crate that both have is
/// the clients', too, who have no use for it.
#[path = "../../server/src/telemetry/level.rs"]
mod level;

use std::io::{self, IsTerminal as _};

use clap::ValueEnum;
use tracing_subscriber::{
    EnvFilter, Layer as _, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

pub(crate) use self::level::check_log_level;

/// Libraries that say too much at `info`, and one that prints whole answers of the API server at `warn`; a filter that
/// names them wins.
const QUIET: &str = "h2=warn,hyper=warn,tower=warn,tonic=warn,kube_client=warn,kube_client::client=error,\
                     kube_runtime=warn";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Json,
    Human,
}

/// Starts to log for the whole process; `RUST_LOG` wins over `level`. From then on a panic is logged
/// and ends the process: what is half done is resumed by whoever comes next.
///
/// # Errors
/// A filter that cannot be read, or a second call in one process.
pub fn init(format: LogFormat, level: &str) -> anyhow::Result<()> {
    let variable = std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|text| !text.is_empty());
    let filter = variable.as_deref().unwrap_or(level);
    check_log_level(filter).map_err(|why| anyhow::anyhow!("log level {filter}: {why}"))?;
    let filter = EnvFilter::builder().parse(format!("{QUIET},{filter}"))?;
    let lines = fmt::layer().with_writer(io::stderr);
    let lines = match format {
        LogFormat::Human => lines.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).try_init()?;
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        std::process::abort();
    }));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_level_is_refused() {
        for (filter, want) in [
            ("info", true),
            ("", true),
            ("kube=debug,warn", true),
            ("inof", false),
            ("info,flotilla_operator", false),
            ("a=b=c", false),
        ] {
            assert_eq!(check_log_level(filter).is_ok(), want, "{filter}");
        }
    }
}
