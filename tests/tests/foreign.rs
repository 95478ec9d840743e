//! A client of another language, generated from the contract while the test runs: Python's grpcio.
//!
//! Needs `python3` with `venv`, and the packages grpcio and grpcio-tools, which are installed once
//! into a directory of their own. Where that is impossible the test is skipped aloud, or fails
//! under `CI=true`.

use std::{
    env, fs,
    path::PathBuf,
    process::{Command, Output},
};

use flotilla_tests::harness::{Cluster, say, say_aloud, strict};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_client_of_the_contract_works_on_each_node() {
    let python = match tokio::task::spawn_blocking(python).await.expect("does not panic") {
        Ok(python) => python,
        Err(why) if strict() => panic!("no Python gRPC: {why}"),
        Err(why) => {
            say_aloud(format!("SKIPPED: python_client_of_the_contract_works_on_each_node: {why}"));
            return;
        }
    };
    let cluster = Cluster::start(3).await;
    // Cargo runs tests in the folder of their package, wherever they were compiled.
    let here = env::current_dir().expect("a folder");
    let course = here.join("tests/foreign/course.proto");
    let ours = here.join("../proto/proto/kv.proto");
    for (kind, contract) in [("text", course), ("bytes", ours)] {
        let directory = cluster.scratch().join(kind);
        fs::create_dir(&directory).expect("make a directory");
        fs::copy(&contract, directory.join("kv.proto")).expect("copy the contract");
        let mut generate = Command::new(&python);
        generate.current_dir(&directory).args([
            "-m",
            "grpc_tools.protoc",
            "-I.",
            "--python_out=.",
            "--grpc_python_out=.",
            "kv.proto",
        ]);
        run(&mut generate).expect("generate a client from the contract");
        let mut drive = Command::new(&python);
        drive
            .env("PYTHONPATH", &directory)
            // Proxies of the machine have no business between a client and loopback.
            .env("no_proxy", "127.0.0.1")
            .arg(here.join("tests/foreign/client.py"))
            .arg(kind)
            .args(cluster.addresses());
        let output = tokio::task::spawn_blocking(move || run(&mut drive)).await;
        let output = output.expect("does not panic").expect("the foreign client is content");
        say(String::from_utf8_lossy(&output.stdout).trim());
    }
}

/// A Python with grpcio, made if it is not there yet.
fn python() -> Result<PathBuf, String> {
    let home = env::var_os("HOME").ok_or("HOME is not set")?;
    let cache = PathBuf::from(home).join(".cache/flotilla");
    let venv = cache.join("python-grpc");
    let python = venv.join("bin/python");
    let ready = || run(Command::new(&python).args(["-c", "import grpc, grpc_tools.protoc"]));
    if python.exists() && ready().is_ok() {
        return Ok(python);
    }
    fs::create_dir_all(&cache).map_err(|error| error.to_string())?;
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
    let packages = ["-m", "pip", "install", "--quiet", "grpcio", "grpcio-tools"];
    run(Command::new(&python).args(packages))?;
    ready()?;
    Ok(python)
}

fn run(command: &mut Command) -> Result<Output, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!("{command:?} ended with {}:\n{said}", output.status))
}
