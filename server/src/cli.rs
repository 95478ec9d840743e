//! What the command line asks for, and the exit code: 0 done, 1 failed, 28 no room on the disk, 64 wrong usage, 74
//! a damaged disk. A process that panics, or does not end within ten seconds after its node has, aborts (`panics.rs`,
//! `node/exit.rs`).

mod demo;
mod healthcheck;

use std::process::ExitCode;

use clap::Parser as _;
use rustix::{
    fs::Mode,
    process::{Resource, Rlimit, getrlimit, setrlimit, umask},
};

use crate::{
    config::{self, Args, Command, Config, ConfigCommand, ConfigErrors, SettingArgs},
    metrics, node, telemetry,
};

/// The command line or the configuration is wrong: a restart will not help. (`EX_USAGE` of
/// sysexits.)
const USAGE: u8 = 64;
/// The node ended for want of room on its disk: a larger one mends it, and nothing else is wrong with it. (`ENOSPC`.)
/// The operator reads it.
const DISK_FULL: u8 = 28;
/// The node met damage on its disk: another start meets it again. (`EX_IOERR` of sysexits.)
const DISK_DAMAGED: u8 = 74;

/// Runs this process.
#[must_use]
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print(); // Help goes to standard output, mistakes to standard error.
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match args.command {
        None => serve(&args.settings),
        Some(Command::Config { command }) => configuration(*command),
        Some(Command::Healthcheck(check)) => outcome(healthcheck::run(&check.http)),
        Some(Command::Demo(args)) => outcome(demo::run(&args)),
        Some(Command::DemoNode(args)) => match demo::end_with_parent(args.parent) {
            Ok(()) => serve(&args.settings),
            Err(error) => outcome(Err(error)),
        },
        Some(Command::MetricsDocs) => {
            print(&metrics::markdown());
            ExitCode::SUCCESS
        }
        Some(Command::Version) => {
            print(&format!("flotilla-server {}\n", env!("CARGO_PKG_VERSION")));
            ExitCode::SUCCESS
        }
    }
}

fn serve(args: &SettingArgs) -> ExitCode {
    let config = match Config::load(args) {
        Ok(config) => config,
        Err(errors) => return refuse(&errors),
    };
    // Until the last word is said.
    let _logging = match telemetry::init(config.log_format, &config.log_level) {
        Ok(logging) => logging,
        Err(error) => return outcome(Err(error.into())),
    };
    for name in Config::stray_variables() {
        tracing::warn!("the variable {name} is no setting and has no effect");
    }
    raise_open_files();
    // What the node writes, RocksDB's files too, is for its own user: it is everybody's data.
    umask(Mode::RWXG | Mode::RWXO);
    match node::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let why = format!("{error:#}");
            tracing::error!("node failed: {why}");
            exit_code(&why)
        }
    }
}

fn exit_code(why: &str) -> ExitCode {
    match why {
        why if tells_of_a_full_disk(why) => ExitCode::from(DISK_FULL),
        why if node::tells_of_damage(why) => ExitCode::from(DISK_DAMAGED),
        _ => ExitCode::FAILURE,
    }
}

/// By its words, as it comes from the system, RocksDB and threads that have nothing but words.
fn tells_of_a_full_disk(why: &str) -> bool {
    let why = why.to_lowercase();
    ["no space left", "quota exceeded"].iter().any(|words| why.contains(words))
}

/// Takes as many file descriptors as the system lets us have. The usual soft limit of 1024 is there
/// for programs that use `select`; connections and the files of RocksDB need more.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, most) {
        tracing::warn!(limit = ?limit.current, "cannot raise the limit of open files: {error}");
    }
}

fn configuration(command: ConfigCommand) -> ExitCode {
    let text = match command {
        ConfigCommand::Docs => config::markdown(),
        ConfigCommand::Print(args) => match Config::load_unchecked(&args) {
            Ok(config) => config.to_yaml(),
            Err(errors) => return refuse(&errors),
        },
        ConfigCommand::Check(args) => match Config::load(&args) {
            Ok(_) => {
                for name in Config::stray_variables() {
                    complain(&format!("the variable {name} is no setting and has no effect"));
                }
                "the configuration is valid\n".to_owned()
            }
            Err(errors) => return refuse(&errors),
        },
    };
    print(&text);
    ExitCode::SUCCESS
}

fn refuse(errors: &ConfigErrors) -> ExitCode {
    complain(&format!("invalid configuration:{errors}"));
    ExitCode::from(USAGE)
}

fn outcome(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::disallowed_macros, reason = "what was asked for on the command line")]
fn print(text: &str) {
    print!("{text}");
}

#[expect(clippy::disallowed_macros, reason = "there may be no logger yet")]
fn complain(text: &str) {
    eprintln!("flotilla-server: {text}");
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::storage::engine;

    #[test]
    fn what_is_wrong_with_a_disk_has_an_exit_code_whoever_tells_of_it() {
        let of_kind = |kind: io::ErrorKind| anyhow::Error::new(io::Error::from(kind));
        let (full, damaged) = (ExitCode::from(DISK_FULL), ExitCode::from(DISK_DAMAGED));
        let corrupt = engine::Error::Corrupt { message: "a block in /data/000007.sst".to_owned() };
        for (error, want) in [
            (anyhow::Error::new(engine::Error::Full { message: "write".to_owned() }), full),
            (anyhow::Error::new(io::Error::from_raw_os_error(28)).context("sync the log"), full),
            (of_kind(io::ErrorKind::QuotaExceeded), full),
            (anyhow::anyhow!("the log: IO error: No space left on device: x.log"), full),
            (anyhow::Error::new(corrupt).context("open the regions of this node"), damaged),
            (anyhow::anyhow!("write the data: Corruption: block checksum mismatch"), damaged),
            (of_kind(io::ErrorKind::PermissionDenied), ExitCode::FAILURE),
        ] {
            assert_eq!(exit_code(&format!("{error:#}")), want, "{error:#}");
        }
    }
}
