//! Clients of other languages, made of the contract while the test runs, as the pages of docs/clients say it:
//! a newcomer has nothing else.
//!
//! Needs `python3` with `venv`, and the packages grpcio, grpcio-tools and grpcio-status, which are installed
//! once into a directory of their own. Where that is impossible the tests are skipped aloud, or fail under
//! `CI=true`. Where there is no `go`, its page is skipped aloud.

#![expect(
    clippy::disallowed_methods,
    reason = "programs of others are waited for, and no simulation is"
)]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

use flotilla_tests::harness::{Cluster, Node, say, say_aloud, strict};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_client_of_the_contract_works_on_each_node() {
    let name = "python_client_of_the_contract_works_on_each_node";
    let Some(python) = python_or_skip(name).await else { return };
    let cluster = Cluster::start(3).await;
    // Cargo runs tests in the folder of their package, wherever they were compiled.
    let here = env::current_dir().expect("a folder");
    let course = here.join("tests/edge/foreign/course.proto");
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
            .arg(here.join("tests/edge/foreign/client.py"))
            .arg(kind)
            .args(cluster.addresses());
        let output = tokio::task::spawn_blocking(move || run(&mut drive)).await;
        let output = output.expect("does not panic").expect("the foreign client is content");
        say(String::from_utf8_lossy(&output.stdout).trim());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn page_for_python_does_what_it_says() {
    let Some(python) = python_or_skip("page_for_python_does_what_it_says").await else { return };
    let cluster = Cluster::start(3).await;
    let here = env::current_dir().expect("a folder");
    let folder = cluster.scratch().join("page");
    fs::create_dir(&folder).expect("make a directory");
    let contracts = here.join("../proto/proto");
    let mut generate = Command::new(&python);
    generate.args(["-m", "grpc_tools.protoc", "--python_out=.", "--grpc_python_out=."]);
    run(generate.current_dir(&folder).arg("-I").arg(&contracts).args(files(&contracts)))
        .expect("generate a client from the contract");
    let page = blocks(&here.join("../docs/clients/python.md"), "python");
    let checks =
        fs::read_to_string(here.join("tests/edge/foreign/python_page.py")).expect("checks");
    fs::write(folder.join("page.py"), format!("{page}\n{checks}")).expect("write a program");
    let mut program = Command::new(&python);
    program.current_dir(&folder).arg("page.py").env("no_proxy", "127.0.0.1");
    let said = drive(program, &cluster).await;
    assert!(said.contains("INVALID_ARGUMENT field: key applied: False"), "{said}");
    assert!(said.contains("the page holds what it says"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn page_for_go_does_what_it_says() {
    if Command::new("go").arg("version").output().is_err() {
        say_aloud("SKIPPED: page_for_go_does_what_it_says: no go");
        return;
    }
    // For its protoc; any other does the same.
    let Some(python) = python_or_skip("page_for_go_does_what_it_says").await else { return };
    let cluster = Cluster::start(3).await;
    let here = env::current_dir().expect("a folder");
    let folder = cluster.scratch().join("page");
    fs::create_dir(&folder).expect("make a directory");
    let page = here.join("../docs/clients/go.md");
    fs::write(folder.join("main.go"), blocks(&page, "go")).expect("write a program");
    let made = tokio::task::spawn_blocking({
        let folder = folder.clone();
        move || make_go(&python, &page, &folder)
    });
    made.await.expect("does not panic").expect("build what the page says");
    let said = drive(Command::new(folder.join("page")), &cluster).await;
    assert!(said.contains("InvalidArgument field: key applied: false"), "{said}");
    assert!(said.contains("working with token"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn page_for_http_does_what_it_says() {
    let cluster = Cluster::start(3).await;
    let here = env::current_dir().expect("a folder");
    let page = blocks(&here.join("../docs/clients/http.md"), "bash");
    let nodes: Vec<String> = cluster.nodes.iter().map(Node::http_address).collect();
    let mut program = Command::new("bash");
    program.args(["-euo", "pipefail", "-c", &page]).env("FLOTILLA_HTTP", nodes.join(" "));
    program.env("no_proxy", "127.0.0.1");
    let said = drive(program, &cluster).await;
    assert!(said.contains("Ahoy") && said.contains(r#""maybe_applied":false"#), "{said}");
}

/// Does as the page says, but for `protoc` itself, which Python has.
fn make_go(python: &Path, page: &Path, folder: &Path) -> Result<(), String> {
    let here = env::current_dir().map_err(|error| error.to_string())?;
    let contracts = here.join("../proto/proto");
    let commands = blocks(page, "sh go");
    run(Command::new("go").current_dir(folder).args(["mod", "init", "flotilla.dev/go"]))?;
    for words in commands.lines().filter_map(|line| line.strip_prefix("go ")) {
        let mut go = Command::new("go");
        go.current_dir(folder).env("GOBIN", folder).env("GOFLAGS", "-mod=mod");
        run(go.args(words.split_whitespace()))?;
    }
    let options = commands.split_whitespace().filter(|word| word.starts_with("--go"));
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::split_paths(&path).chain([folder.to_path_buf()]);
    let mut generate = Command::new(python);
    generate.current_dir(folder).args(["-m", "grpc_tools.protoc"]).args(options);
    generate.env("PATH", env::join_paths(path).map_err(|error| error.to_string())?);
    run(generate.arg("-I").arg(&contracts).args(files(&contracts)))?;
    let mut build = Command::new("go");
    build.current_dir(folder).env("GOFLAGS", "-mod=mod").args(["build", "-o", "page", "."]);
    run(&mut build).map(|_| ())
}

/// The full API's contracts.
fn files(contracts: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(contracts.join("flotilla/v1")).expect("contracts");
    entries.map(|entry| entry.expect("an entry").path()).collect()
}

/// All blocks of a language on a page, one after the other.
fn blocks(page: &Path, language: &str) -> String {
    let text = fs::read_to_string(page).expect("the page");
    let begin = format!("```{language}\n");
    let blocks: Vec<&str> =
        text.split(&begin).skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(!blocks.is_empty(), "{} has no {language}", page.display());
    blocks.join("\n")
}

/// Runs a program that finds the nodes as the pages say.
async fn drive(mut program: Command, cluster: &Cluster) -> String {
    program.env("FLOTILLA_ENDPOINTS", cluster.addresses().join(","));
    let output = tokio::task::spawn_blocking(move || run(&mut program)).await;
    let output = output.expect("does not panic").expect("the program of the page is content");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    say(said.trim());
    said
}

async fn python_or_skip(test: &str) -> Option<PathBuf> {
    // Once, although the tests of this file run side by side.
    static PYTHON: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found = tokio::task::spawn_blocking(|| PYTHON.get_or_init(python).clone()).await;
    match found.expect("does not panic") {
        Ok(python) => Some(python),
        Err(why) if strict() => panic!("no Python gRPC: {why}"),
        Err(why) => {
            say_aloud(format!("SKIPPED: {test}: {why}"));
            None
        }
    }
}

/// A Python with grpcio, made if it is not there yet.
fn python() -> Result<PathBuf, String> {
    let home = env::var_os("HOME").ok_or("HOME is not set")?;
    let cache = PathBuf::from(home).join(".cache/flotilla");
    let venv = cache.join("python-grpc");
    let python = venv.join("bin/python");
    let ready =
        || run(Command::new(&python).args(["-c", "import grpc, grpc_status, grpc_tools.protoc"]));
    if python.exists() && ready().is_ok() {
        return Ok(python);
    }
    fs::create_dir_all(&cache).map_err(|error| error.to_string())?;
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
    let packages = ["-m", "pip", "install", "--quiet", "grpcio", "grpcio-tools", "grpcio-status"];
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
