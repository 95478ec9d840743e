//! Programs that people use: helm, kubectl, docker.

use std::{ffi::OsStr, path::Path, process::Stdio, time::Duration};

use anyhow::{Context as _, bail};
use tokio::{io::AsyncWriteExt as _, process::Command};

/// Runs a program to its end, and answers its standard output.
///
/// # Errors
/// When it cannot be started, ends with another exit code than 0, or not within `bound`.
pub async fn run<A: AsRef<OsStr>>(
    program: &str,
    arguments: impl IntoIterator<Item = A>,
    bound: Duration,
) -> anyhow::Result<String> {
    run_with_input(program, arguments, "", bound).await
}

/// As [`run`], with something to read from standard input.
///
/// # Errors
/// As [`run`].
pub async fn run_with_input<A: AsRef<OsStr>>(
    program: &str,
    arguments: impl IntoIterator<Item = A>,
    input: &str,
    bound: Duration,
) -> anyhow::Result<String> {
    let mut command = Command::new(program);
    command.args(arguments).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let line = format!("{:?}", command.as_std());
    let work = async {
        let mut child = command.spawn().with_context(|| format!("start {line}"))?;
        let mut stdin = child.stdin.take().context("a pipe was asked for")?;
        // A program that does not read it is no error.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let output = child.wait_with_output().await.with_context(|| line.clone())?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!("{line}: {}\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        Ok(text)
    };
    match tokio::time::timeout(bound, work).await {
        Ok(outcome) => outcome,
        Err(_) => bail!("{line} did not end within {bound:?}"),
    }
}

/// Whether a program of this name is to be found.
#[must_use]
pub fn exists(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|each| is_file(&each.join(program))))
}

fn is_file(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file())
}
