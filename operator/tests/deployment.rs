//! What is installed is what this program says: the definition, the rights, and samples that it takes.

use std::{fs, path::PathBuf, process::Command};

use flotilla_operator::crd::KvCluster;

fn file(path: &str) -> String {
    // Cargo runs tests in the folder of their package, wherever they were compiled.
    let path = PathBuf::from("..").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn printed(command: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_flotilla-operator"))
        .arg(command)
        .output()
        .expect("started");
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn chart_installs_the_definition_and_the_rights_of_this_version() {
    for command in ["crd", "rbac", "admission"] {
        let path = &format!("helm/flotilla/files/{command}.yaml");
        assert!(file(path) == printed(command), "{path} is not current: run `make manifests`");
    }
}

/// Fields that are misspelt are refused by the type; what the API server would refuse beyond that is
/// tried on a real one.
#[test]
fn samples_are_clusters_of_this_version() {
    for path in ["minimal", "zones", "large"].map(|name| format!("deploy/samples/{name}.yaml")) {
        let cluster: KvCluster =
            serde_yaml::from_str(&file(&path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(cluster.spec.replication_factor <= cluster.spec.replicas, "{path}");
    }
}

/// What stands between two texts on a line.
fn between<'a>(line: &'a str, before: &str, after: &str) -> Option<&'a str> {
    Some(line.split_once(before)?.1.split_once(after)?.0.trim())
}

/// The words of a file for `docker buildx bake`, as far as ours has them; `make charts` asks bake itself where it is
/// there.
#[test]
fn images_for_several_platforms_are_those_of_the_dockerfile() {
    let (bake, dockerfile) = (file("docker-bake.hcl"), file("Dockerfile"));
    let stages: Vec<&str> = dockerfile
        .lines()
        .filter(|line| line.starts_with("FROM "))
        .filter_map(|line| Some(line.split_once(" AS ")?.1))
        .collect();
    let arguments: Vec<&str> =
        dockerfile.lines().filter_map(|line| line.strip_prefix("ARG ")).collect();
    let mut targets: Vec<&str> = bake
        .lines()
        .filter(|line| line.trim_start().starts_with("target ") && line.contains(" = "))
        .filter_map(|line| between(line, "\"", "\""))
        .collect();
    targets.sort_unstable();
    assert_eq!(targets, ["operator", "server"], "what is built");
    for target in targets {
        assert!(stages.contains(&target), "the Dockerfile has no stage {target}: {stages:?}");
    }
    let args = bake.lines().find(|line| line.trim_start().starts_with("args ")).expect("args");
    let args = between(args, "{", "}").expect("in braces").split(',');
    let args: Vec<&str> = args.filter_map(|arg| Some(arg.split_once('=')?.0.trim())).collect();
    assert_eq!(args, ["BASE", "RUST", "VERSION", "REVISION"], "what is said to the Dockerfile");
    for arg in args {
        let variable = format!("variable \"{arg}\"");
        let default = bake.lines().find(|line| line.starts_with(&variable));
        let default = default.and_then(|line| between(line, "default = \"", "\""));
        let default = default.unwrap_or_else(|| panic!("{arg} has no default"));
        let wanted = format!("{arg}={default}");
        assert!(arguments.contains(&wanted.as_str()), "ARG {wanted} is not in {arguments:?}");
    }
    let channel = file("rust-toolchain.toml");
    let channel = channel.lines().find_map(|line| between(line, "channel = \"", "\""));
    let channel = channel.expect("a channel");
    assert!(dockerfile.contains(&format!("ARG RUST=rust:{channel}-")), "Rust is {channel}");
    for (open, close) in [('{', '}'), ('[', ']')] {
        let count = |sign: char| bake.matches(sign).count();
        assert_eq!(count(open), count(close), "{open} and {close}");
    }
}
